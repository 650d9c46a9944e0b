"""The sample as Ginkgo's VCPI releases are published: a wide Parquet of counts, metadata as CSV, chemistry as JSON.

Belongs here: the layout of the DRUG-seq plates, their files and defects. Does not belong here: the biology or the assay's noise.

Files
-----
``data.parquet``
    Rows: genes, ``gene_id`` first (Ensembl ids, and spike-ins such as ``ERCC-00002``); then one int32 column a ``sequenced_id``.
``metadata.csv``
    One row a sample, ``METADATA_COLUMNS``, all text. ``container_id`` has hyphens; ``row_id`` and ``column_id`` count from 1;
    ``compound_concentration_unit`` is nM, for DMSO ``%``; ``timepoint`` 24h; ``is_control`` true or false.
``chemistry.json``
    List of records: ``compound`` (UUID), ``user_compound_id``, ``smiles``, ``inchi_key``, ``purity_pct``, ``molecular_weight``,
    ``log_p``, ``tpsa``.

Defects, as in the original: repeated rows in metadata and chemistry, positive controls flagged as controls, an empty library, compounds
named by a number, one of them without a structure.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled
from perturbridge_dagster.sample.assays import fractions, gene_gains, plate_effects, umi_counts
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, compounds, genes, perturbagens_of

CELL_TYPE, CELL_LINE, TIME_H = "CVCL_0006", "THP-1", 24.0


class Release(NamedTuple):
    """One release.

    Attributes
    ----------
    job_id
        What the owner calls it.
    plates
        Replicate 1 lies on the first half of them, replicate 2 on the others.
    first_sequenced_id
        Number of its first sample.
    """

    job_id: str
    plates: tuple[str, ...]
    first_sequenced_id: int


RELEASES = {
    "vcpi_0001": Release("tvc-bhr-009", ("TVC-BHR-009-P01", "TVC-BHR-009-P02", "TVC-BHR-009-P03", "TVC-BHR-009-P04"), 101_163_081),
    "vcpi_0002": Release("tvc-kdl-010", ("TVC-KDL-010-P01", "TVC-KDL-010-P02"), 103_480_007),
}

CONTROLS_PER_PLATE = 6
DOSES_NM = (30, 100, 300, 1000, 3000, 10_000)
ONE_DOSE_NM: dict[str, tuple[int, ...]] = {"ibuprofen": (10_000,), "aspirin": (1000,), "metformin": (1000,), "caffeine": (10_000,)}
POSITIVE_CONTROLS = ("staurosporine", "brefeldin A", "rigosertib", "trichostatin A")
POSITIVE_CONTROL_NM = 10_000
N_REPEATED_ROWS = 5
MEDIAN_DEPTH = 90_000.0

SPIKE_INS = tuple(f"ERCC-{number:05d}" for number in (2, 3, 4, 9, 12, 13, 14, 16, 17, 19, 22, 24))

METADATA_COLUMNS = (
    "sequenced_id",
    "job_id",
    "sample_id",
    "container_id",
    "row_id",
    "column_id",
    "is_edge",
    "compound",
    "user_compound_id",
    "compound_concentration",
    "compound_concentration_unit",
    "percent_volume_dmso",
    "cell_line",
    "timepoint",
    "is_control",
    "sample_type",
    "total_sequenced_reads",
    "n_mapped",
    "total_umi_count",
    "ngenes3",
    "percent_mapped",
    "percent_rrna_removed",
    "percent_mitochondrial",
    "percent_duplicated",
    "unassigned_nofeatures",
    "unassigned_multimapping",
)


def write(dataset: str, folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of a release.

    Parameters
    ----------
    dataset
        One of ``RELEASES``.
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    wells = _wells(seed, dataset)
    gains = gene_gains(generator(seed, dataset, "gains"), len(biology.genes), spread=0.35)
    measured = genes()["ensembl_id"].notna().to_numpy()
    counts = _counts(seed, dataset, biology, gains, wells, measured)
    spike_ins = generator(seed, dataset, "spike-ins").poisson(np.geomspace(0.5, 400, len(SPIKE_INS)), (len(wells), len(SPIKE_INS)))
    spike_ins[wells["empty"].to_numpy()] = 0
    ids = [*genes().loc[measured, "ensembl_id"], *SPIKE_INS]
    everything = np.hstack([counts, spike_ins.astype(np.int32)])
    wide = pd.DataFrame(everything.T, columns=list(wells["sequenced_id"]))
    wide.insert(0, "gene_id", ids)
    wide.to_parquet(folder / "data.parquet", index=False)
    metadata = _metadata(seed, dataset, wells, everything, mitochondrial=np.isin(ids, genes().index[genes()["kind"] == "mitochondrial"]))
    metadata.to_csv(folder / "metadata.csv", index=False)
    (folder / "chemistry.json").write_text(json.dumps(_chemistry(seed, dataset), indent=1) + "\n")
    return _account(dataset, biology, np.where(measured, gains, np.nan), wells, metadata, ids)


def _wells(seed: int, dataset: str) -> pd.DataFrame:
    """One row a well."""
    names = perturbagens_of(dataset)
    screened = names[(names["agent"] != VEHICLE) & ~names["compound"].isin(POSITIVE_CONTROLS)]
    doses = pd.Series([ONE_DOSE_NM.get(compound, DOSES_NM) for compound in screened["compound"]], index=screened.index)
    conditions = screened.assign(dose_nM=doses).explode("dose_nM")
    vehicle = names[names["agent"] == VEHICLE]
    controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_nM=0)
    positive = names[names["compound"].isin(POSITIVE_CONTROLS)].assign(dose_nM=POSITIVE_CONTROL_NM)
    plates = []
    spread = len(RELEASES[dataset].plates) // 2
    for i, plate in enumerate(RELEASES[dataset].plates):
        draw = generator(seed, dataset, "layout", plate)
        wells = shuffled(draw, pd.concat([conditions.iloc[i % spread :: spread], controls, positive]))
        position = np.sort(draw.choice(16 * 24, len(wells), replace=False))
        wells["container_id"], wells["row_id"], wells["column_id"] = plate, position // 24 + 1, position % 24 + 1
        plates.append(wells)
    table = pd.concat(plates, ignore_index=True)
    table["sequenced_id"] = [str(RELEASES[dataset].first_sequenced_id + 7 * i) for i in range(len(table))]
    table["is_control"] = ~table["compound"].isin(screened["compound"])
    table["dose_uM"] = table["dose_nM"].astype(float) / 1000
    table["cell_type"], table["time_h"] = CELL_TYPE, TIME_H
    # the library of one treated well failed
    table["empty"] = table.index == table[~table["is_control"]].index[3]
    return table


def _counts(
    seed: int, dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, measured: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Wells × measured genes."""
    n_genes = len(biology.genes)
    plates = plate_effects(generator(seed, dataset, "plates"), RELEASES[dataset].plates, n_genes, 0.15)
    # reads start at the 3' end, so that a gene's share of them depends on its last exon
    capture = generator(seed, dataset, "capture").normal(0, 1.0, n_genes)
    expected = biology.baseline.loc[wells["cell_type"]].to_numpy() + capture + gains * biology.log2_effects(wells)
    expected += np.array([plates[plate] for plate in wells["container_id"]])
    draw = generator(seed, dataset, "counts")
    depth = np.clip(MEDIAN_DEPTH * draw.lognormal(0, 0.3, len(wells)), 20_000, 300_000)
    depth[wells["empty"].to_numpy()] = 0.0
    return umi_counts(draw, fractions(expected[:, measured]), depth, shape=25.0)


def _metadata(
    seed: int, dataset: str, wells: pd.DataFrame, counts: npt.NDArray[np.int32], mitochondrial: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    """``METADATA_COLUMNS`` as text, with repeated rows."""
    draw = generator(seed, dataset, "metadata")
    is_vehicle = wells["agent"] == VEHICLE
    total = counts.sum(axis=1)
    mapped = np.round(total * draw.uniform(1.3, 1.9, len(wells))).astype(int)
    reads = np.round(mapped * draw.uniform(1.1, 1.3, len(wells))).astype(int)
    table = pd.DataFrame(
        {
            "sequenced_id": wells["sequenced_id"],
            "job_id": RELEASES[dataset].job_id,
            "sample_id": [str(uuid.uuid5(uuid.NAMESPACE_OID, name)) for name in wells["sequenced_id"]],
            "container_id": wells["container_id"],
            "row_id": wells["row_id"],
            "column_id": wells["column_id"],
            "is_edge": np.where(wells["row_id"].isin([1, 16]) | wells["column_id"].isin([1, 24]), "true", "false"),
            "compound": wells["source_id"],
            "user_compound_id": wells["source_name"],
            "compound_concentration": np.where(is_vehicle, "0.15", wells["dose_nM"].astype(float).astype(str)),
            "compound_concentration_unit": np.where(is_vehicle, "%", "nM"),
            "percent_volume_dmso": "0.15",
            "cell_line": CELL_LINE,
            "timepoint": "24h",
            "is_control": np.where(wells["is_control"], "true", "false"),
            "sample_type": np.where(
                is_vehicle, "Ginkgo Neg Control - DMSO", np.where(wells["is_control"], "Ginkgo Pos Control", "library")
            ),
            "total_sequenced_reads": reads,
            "n_mapped": mapped,
            "total_umi_count": total,
            "ngenes3": (counts >= 3).sum(axis=1),
            "percent_mapped": np.round(100 * mapped / np.maximum(reads, 1), 2),
            "percent_rrna_removed": np.round(draw.uniform(1, 4, len(wells)), 2),
            "percent_mitochondrial": np.round(100 * counts[:, mitochondrial].sum(axis=1) / np.maximum(total, 1), 2),
            "percent_duplicated": np.round(100 * (1 - total / np.maximum(mapped, 1)), 2),
            "unassigned_nofeatures": np.round(0.05 * mapped).astype(int),
            "unassigned_multimapping": np.round(0.03 * mapped).astype(int),
        }
    )
    repeated = table.iloc[np.sort(draw.choice(len(table), N_REPEATED_ROWS, replace=False))]
    return pd.concat([table, repeated])[list(METADATA_COLUMNS)].astype(str)


def _chemistry(seed: int, dataset: str) -> list[dict[Hashable, Any]]:
    """Records of the chemistry table, two of them twice."""
    names = perturbagens_of(dataset).merge(compounds()[["molecular_weight", "log_p", "tpsa"]], left_on="compound", right_index=True)
    purity = generator(seed, dataset, "chemistry").uniform(95, 100, len(names)).round(1)
    table = pd.DataFrame(
        {
            "compound": names["source_id"],
            "user_compound_id": names["source_name"],
            "smiles": names["smiles"],
            "inchi_key": names["inchikey"],
            "purity_pct": purity,
            "molecular_weight": names["molecular_weight"],
            "log_p": names["log_p"],
            "tpsa": names["tpsa"],
        }
    )
    table = pd.concat([table, table.iloc[[0, 5]]]).astype(object)
    records: list[dict[Hashable, Any]] = table.where(table.notna(), None).to_dict("records")
    return records


def _account(dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, metadata: pd.DataFrame, ids: list[str]) -> Account:
    account = Account(dataset, pd.DataFrame(), pd.Series(gains, index=biology.genes))
    account.start("samples", len(metadata))
    account.drop("samples", "repeated rows of the metadata", len(metadata) - len(wells))
    kept = account.keep("samples", "no counts", wells, ~wells["empty"])
    kept = account.keep("samples", "positive controls", kept, ~kept["is_control"] | (kept["agent"] == VEHICLE))
    well = "row" + kept["row_id"].astype(str) + "_col" + kept["column_id"].astype(str)
    kept = kept.assign(plate=kept["container_id"], well=well, source_cell_context=CELL_LINE, source_dose_uM=kept["dose_uM"], n_cells=None)
    account.samples = kept[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", len(ids))
    account.drop("genes", "spike-ins", len(SPIKE_INS))
    return account
