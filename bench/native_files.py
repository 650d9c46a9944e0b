"""Native files of the two largest bulk datasets at any size: L1000 Phase I as GCTX, VCPI-0001 as wide Parquet.

Belongs here: their layout and size. Does not belong here: what counts of a well look like (``simulate.py``), what is measured
(``harmonize.py``), the small sample with its defects (``perturbridge_dagster/sample/``).
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.shapes import Shape
from bench.simulate import EXPRESSION, Expression, simulated_counts, simulated_obs
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.sample.l1000 import CELLS, MISSING, SERIES
from perturbridge_dagster.sample.tables import genes

# ---- L1000 -------------------------------------------------------------------------------------------------------------------

N_OTHER_GENES = 22
WELLS_A_PLATE = 384
CONTROLS_A_PLATE = 16
WELLS_A_COMPOUND = 35
BLOCK = 128


def write_l1000(folder: Path, n_wells: int) -> None:
    """Write the files of L1000 Phase I.

    As in the real files, about half the wells are dropped because they are not compounds; there are 978 landmark genes and a few others,
    where the real matrix has 12,328. Disk: about 6 KB a well.

    Parameters
    ----------
    folder
        An empty folder.
    n_wells
        Wells with a compound or DMSO; the matrix has about twice as many.
    """
    wells = _wells(n_wells)
    is_landmark = genes()["is_landmark"] == 1
    chosen = pd.concat([genes()[is_landmark], genes()[~is_landmark & genes()["entrez_id"].notna()].head(N_OTHER_GENES)])
    # landmarks lie among the others
    chosen = chosen.sample(frac=1, random_state=1)
    _write_matrix(folder, wells["inst_id"], chosen["entrez_id"].astype(str))
    info = pd.DataFrame(
        {"pr_gene_id": chosen["entrez_id"], "pr_gene_symbol": chosen["l1000_symbol"], "pr_is_lm": chosen["is_landmark"].eq(1).astype(int)}
    )
    compounds = wells.loc[wells["pert_type"] == "trt_cp", ["pert_id", "pert_iname", "pert_type"]].drop_duplicates()
    cells = pd.DataFrame({"cell_id": [cell[0] for cell in CELLS], "primary_site": [cell[1] for cell in CELLS], "sample_type": "tumor"})
    for name, table in (("inst_info", wells), ("gene_info", info), ("pert_info", compounds), ("cell_info", cells)):
        table.to_csv(folder / f"{SERIES}_{name}.txt.gz", sep="\t", index=False, na_rep=MISSING, compression={"method": "gzip", "mtime": 0})


def _wells(n_wells: int) -> pd.DataFrame:
    """Plates of compounds and plates of hairpins by turns, one row a well."""
    number = np.concatenate([np.arange(n_wells), np.arange(n_wells)])
    is_compound = np.repeat([True, False], n_wells)
    plate, position = np.divmod(number, WELLS_A_PLATE)
    is_control = position < CONTROLS_A_PLATE
    compound = np.random.default_rng(1).integers(-(-n_wells // WELLS_A_COMPOUND), size=len(number))
    names = pd.Series(compound).map("BRD-K{:08d}".format)
    cell_ids = np.array([cell[0] for cell in CELLS])
    wells = pd.DataFrame(
        {
            "rna_plate": [f"{'CPC' if chemical else 'KDA'}{p:05d}_24H_X1_B1" for chemical, p in zip(is_compound, plate, strict=True)],
            "rna_well": [f"{chr(ord('A') + p // 24)}{p % 24 + 1:02d}" for p in position],
            "pert_id": np.where(is_control, "DMSO", names),
            "pert_iname": np.where(is_control, "DMSO", names),
            "pert_type": np.where(is_compound, np.where(is_control, "ctl_vehicle", "trt_cp"), "trt_sh"),
            "pert_dose": np.where(is_control, MISSING, "10.0"),
            "pert_dose_unit": np.where(is_control, MISSING, "um"),
            "pert_time": "24",
            "pert_time_unit": "h",
            "cell_id": cell_ids[plate % len(cell_ids)],
        }
    )
    wells.insert(0, "inst_id", wells["rna_plate"] + ":" + wells["rna_well"])
    return wells.iloc[np.argsort(np.where(is_compound, plate, plate + 0.5), kind="stable")]


def _write_matrix(folder: Path, ids: pd.Series, gene_ids: pd.Series) -> None:
    generator = np.random.default_rng(2)
    with h5py.File(folder / f"{SERIES}_Level3_INF_mlr12k_n{len(ids)}x{len(gene_ids)}.gctx", "w") as file:
        file.attrs["version"] = np.bytes_("GCTX1.0")
        matrix = file.create_dataset(
            "0/DATA/0/matrix",
            shape=(len(ids), len(gene_ids)),
            dtype=np.float32,
            chunks=(min(len(ids), BLOCK), len(gene_ids)),
            compression="gzip",
            compression_opts=1,
        )
        for start in range(0, len(ids), BLOCK):
            stop = min(start + BLOCK, len(ids))
            matrix[start:stop] = generator.normal(8, 1.5, (stop - start, len(gene_ids))).clip(0).round(2)
        file["0/META/COL/id"] = ids.to_numpy(dtype="S")
        file["0/META/ROW/id"] = gene_ids.to_numpy(dtype="S")


# ---- VCPI --------------------------------------------------------------------------------------------------------------------

VCPI_SAMPLES, VCPI_GENES, VCPI_SPIKE_INS = 28_788, 78_686, 92
VCPI_POSITIVE_CONTROLS, VCPI_DMSO = 1_211, 608
VCPI_PLATES, VCPI_REPLICATES = 75, 2
GENES_AT_ONCE = 10_000
"""Genes of a row group of the Parquet file: 1.1 GB of counts in memory."""


def write_vcpi(folder: Path, n_samples: int = VCPI_SAMPLES, genes_a_sample: int = EXPRESSION["vcpi_0001"].detected) -> int:
    """Write the files of VCPI-0001.

    Genes, spike-ins, plates, controls and positive controls are as many as in the release, in proportion to the samples. Memory: 8 bytes
    a non-zero count, and a row group.

    Parameters
    ----------
    folder
        An empty folder.
    n_samples
        Sequenced samples; about 4 % of them are positive controls, which are dropped.
    genes_a_sample
        Genes that a sample detects, in the middle.

    Returns
    -------
    Number of counts that are not zero.
    """
    n_dmso, n_positive = (max(round(n * n_samples / VCPI_SAMPLES), 1) for n in (VCPI_DMSO, VCPI_POSITIVE_CONTROLS))
    n_treated = n_samples - n_dmso - n_positive
    shape = Shape(
        dataset="vcpi_0001",
        min_cells=0,
        cell_context="CVCL_0006",
        replicates="grouped",
        n_treated=n_treated,
        n_conditions=-(-n_treated // VCPI_REPLICATES),
        n_controls=n_dmso + n_positive,
        n_plates=-(-VCPI_PLATES * n_samples // VCPI_SAMPLES),
        n_times=1,
        n_genes=VCPI_GENES + VCPI_SPIKE_INS,
        n_jobs=0,
        published={},
        estimated=False,
    )
    obs = simulated_obs(shape)
    metadata = _vcpi_metadata(obs, n_dmso)
    metadata.astype(str).to_csv(folder / "metadata.csv", index=False)
    names = metadata["user_compound_id"].unique()
    records = [{"compound": f"u-{name}", "user_compound_id": name, "smiles": None, "inchi_key": None} for name in names]
    (folder / "chemistry.json").write_text(json.dumps(records))
    depth = EXPRESSION["vcpi_0001"].depth * genes_a_sample / EXPRESSION["vcpi_0001"].detected
    counts = simulated_counts(shape, obs, Expression(depth, genes_a_sample))
    ids = [*shipped().genes.genes["ensembl_id"].iloc[:VCPI_GENES], *(f"ERCC-{number:05d}" for number in range(VCPI_SPIKE_INS))]
    schema = pa.schema([("gene_id", pa.string()), *((name, pa.int32()) for name in metadata["sequenced_id"])])
    with pq.ParquetWriter(folder / "data.parquet", schema) as writer:
        for start in range(0, len(ids), GENES_AT_ONCE):
            dense = counts[:, start : start + GENES_AT_ONCE].toarray()
            writer.write_table(pa.Table.from_arrays([pa.array(ids[start : start + GENES_AT_ONCE]), *map(pa.array, dense)], schema=schema))
    return int(counts.nnz)


def _vcpi_metadata(obs: pd.DataFrame, n_dmso: int) -> pd.DataFrame:
    """Metadata of the release: DMSO and positive controls lie on every plate, and both are flagged as controls."""
    number = obs["is_control"].cumsum()
    # every so many controls are DMSO
    is_dmso = obs["is_control"] & (number * n_dmso // number.iloc[-1]).diff().fillna(1).gt(0)
    well = obs.groupby("plate").cumcount()
    names = obs["perturbagen"].mask(obs["is_control"], "staurosporine").mask(is_dmso, "DMSO")
    return pd.DataFrame(
        {
            "sequenced_id": [str(101_163_081 + 7 * sample) for sample in range(len(obs))],
            "container_id": obs["plate"].str.replace("_", "-").to_numpy(),
            "row_id": (well // 24 + 1).to_numpy(),
            "column_id": (well % 24 + 1).to_numpy(),
            "compound": ("u-" + names).to_numpy(),
            "user_compound_id": names.to_numpy(),
            "compound_concentration": obs["pert_dose_uM"].mul(1000).mask(obs["is_control"], 10_000).round(3).to_numpy(),
            "compound_concentration_unit": "nM",
            "timepoint": "24h",
            "cell_line": "THP-1",
            "is_control": np.where(obs["is_control"], "true", "false"),
        }
    )
