"""The sample as sci-Plex 3 is published: cells × genes with curated metadata beside it.

Belongs here: the layout of the sci-Plex screen, its files and its defects. Does not belong here: the biology or the assay's noise.

Files
-----
``srivatsan20_sciplex3.h5ad``
    X: cells × genes, CSR, counts as float32. obs (index: cell barcode): ``cell_line``, ``product_name`` (full; ``Vehicle`` for
    controls), ``catalog_number`` (missing for controls), ``replicate``, ``ncounts``, ``ngenes``, ``percent_mito`` (0 to 100). var (index:
    Ensembl id of an old release): ``symbol``.
``obs/srivatsan20_sciplex3.parquet``
    Index: cell barcode. ``cell_line``, ``pert_compound`` (first word of the name; ``control``), ``pert_type``, ``pert_dose``
    (``10.0nM``; ``0.0nM`` or missing for controls), ``pert_time`` (wrong: always ``24.0h``), ``time`` (h), ``plate``, ``well``
    (``plate4_C7``: the plate of the culture, not ``plate``), ``ncounts``, ``suspension_type``, ``tissue``, ``tissue_type``, ``disease``,
    ``assay``, ``development_stage``, ``organism``, ``sex``, ``self_reported_ethnicity``.
``var/srivatsan20_sciplex3.parquet``
    Index: Ensembl id. ``symbol``.

Defects, as in the original: cells that fail each filter, cells without plate or compound, the header of the gene table as a first
gene, genes with retired ids, truncated names, a name that looks like a number, wells with few cells and one with a single cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled, well_names
from perturbridge_dagster.sample.assays import gene_gains, plate_effects
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.cells import account_for_cells, cell_counts, cells_of, measured, old_features
from perturbridge_dagster.sample.tables import VEHICLE, genes, perturbagens_of

DATASET = "sciplex"
NAME = "srivatsan20_sciplex3"
DOSES_NM = (10, 100, 1000, 10_000)
MEDIAN_DEPTH = 1900.0

FATES = {
    "few counts": 0.05,
    "few genes": 0.03,
    "mitochondrial": 0.04,
    "no plate": 0.01,
    "no compound": 0.01,
    "low MALAT1": 0.08,
}
"""Cells that a filter drops, and how many there are beside each kept one."""

HEADER = ("id", "gene_short_name")
"""Header of the original gene table, which scPerturb read as its first gene: id and symbol."""

LATE = ("belinostat", "panobinostat", "dacinostat", "bortezomib", "trametinib", "dexamethasone", "camptothecin", "caffeine")
"""Compounds of A549 at 72 h."""

EARLY = (
    "belinostat",
    "panobinostat",
    "trichostatin A",
    "entinostat",
    "mocetinostat",
    "bortezomib",
    "MG-132",
    "trametinib",
    "PD-0325901",
    "JQ1",
    "luminespib",
    "dexamethasone",
    "budesonide",
    "camptothecin",
    "doxorubicin hydrochloride",
    "ZM-447439",
    "949",
)
"""Compounds of A549 at 24 h. The other cell contexts see all compounds."""


class Screen(NamedTuple):
    """One cell context at one time: plates of replicate 1, then as many of replicate 2."""

    cell_line: str
    cell_type: str
    time_h: float
    plates: tuple[str, ...]
    compounds: tuple[str, ...] | None
    controls_per_plate: int


SCREENS = (
    Screen("A549", "CVCL_0023", 24.0, ("plate10", "plate11"), EARLY, 5),
    Screen("A549", "CVCL_0023", 72.0, ("plate33", "plate34"), LATE, 4),
    Screen("K-562", "CVCL_0004", 24.0, ("plate20", "plate21", "plate22", "plate23"), None, 3),
    Screen("MCF7", "CVCL_0031", 24.0, ("plate25", "plate26", "plate27", "plate28"), None, 3),
)

DONORS: dict[str, dict[str, str | None]] = {
    "A549": {"tissue": "lung", "disease": "lung adenocarcinoma", "sex": "male", "self_reported_ethnicity": "European"},
    "K-562": {"tissue": "blood", "disease": "chronic myelogenous leukemia", "sex": "female", "self_reported_ethnicity": "European"},
    "MCF7": {"tissue": "breast", "disease": "breast adenocarcinoma", "sex": "female", "self_reported_ethnicity": "European"},
}


def write(folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of sci-Plex.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    import anndata as ad

    wells = _wells(seed)
    features = old_features()
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), spread=0.35)
    cells = _cells(seed, wells)
    expected = _expected(seed, biology, gains, wells)
    counts = cell_counts(seed, DATASET, expected, cells, features, median_depth=MEDIAN_DEPTH)
    cells = cells.join(measured(counts, features).set_index(cells.index))

    original = pd.DataFrame(
        {
            "cell_line": cells["cell_line"],
            "product_name": cells["source_name"].mask(cells["fate"] == "no compound"),
            "catalog_number": cells["source_id"].mask(cells["fate"] == "no compound"),
            "replicate": cells["replicate"].mask(cells["fate"] == "no compound"),
        }
    ).astype("category")
    original["ncounts"], original["ngenes"] = cells["n_counts"], cells["n_genes"]
    original["percent_mito"] = 100 * cells["mitochondrial"]
    header = pd.DataFrame({"symbol": [HEADER[1]]}, index=[HEADER[0]])
    with_header = sparse.hstack([sparse.csr_matrix((len(cells), 1), dtype=np.float32), counts.astype(np.float32)], format="csr")
    published = ad.AnnData(with_header, obs=original, var=pd.concat([header, features[["symbol"]]]))
    published.write_h5ad(folder / f"{NAME}.h5ad", compression="gzip", compression_opts=1)
    for axis, table in (("obs", _curated(seed, cells)), ("var", features[["symbol"]].rename_axis("ensembl_gene_id"))):
        (folder / axis).mkdir()
        table.to_parquet(folder / axis / f"{NAME}.parquet")
    return _account(biology, gains, cells, features)


def _wells(seed: int) -> pd.DataFrame:
    """One row a well: where it lies, what it holds, and how many good cells it gives."""
    names = perturbagens_of(DATASET)
    treated, vehicle = names[names["agent"] != VEHICLE], names[names["agent"] == VEHICLE]
    wells = []
    culture_plate = 0
    for screen in SCREENS:
        chosen = treated if screen.compounds is None else treated[treated["compound"].isin(screen.compounds)]
        conditions = chosen.merge(pd.DataFrame({"dose_nM": DOSES_NM}), how="cross")
        spread = len(screen.plates) // 2
        for i, plate in enumerate(screen.plates):
            culture_plate += 1
            draw = generator(seed, DATASET, "layout", plate)
            controls = vehicle.loc[vehicle.index.repeat(screen.controls_per_plate)].assign(dose_nM=0)
            layout = shuffled(draw, pd.concat([conditions.iloc[i % spread :: spread], controls]))
            layout["n_cells"] = np.where(
                draw.random(len(layout)) < 0.06, draw.integers(3, 10, len(layout)), draw.integers(12, 26, len(layout))
            )
            layout["well"] = [f"plate{culture_plate}_{well}" for well in well_names(len(layout), "ABCDEFGH", 12, padded=False)]
            layout["plate"], layout["replicate"] = plate, f"rep{i // spread + 1}"
            layout["cell_line"], layout["cell_type"], layout["time_h"] = screen.cell_line, screen.cell_type, screen.time_h
            wells.append(layout)
    table = pd.concat(wells, ignore_index=True)
    # one treated well of every screen ends with a single cell
    table.loc[table[table["agent"] != VEHICLE].drop_duplicates(["cell_line", "time_h"]).index, "n_cells"] = 1
    table["dose_uM"] = table["dose_nM"] / 1000
    table["is_control"] = table["agent"] == VEHICLE
    return table


def _cells(seed: int, wells: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, with its well's columns, ``of_well`` and ``fate``; index: barcode."""
    draw = generator(seed, DATASET, "cells")
    cells = cells_of(draw, wells, FATES)
    numbers = draw.permutation(len(cells))
    cells.index = pd.Index(
        [f"{'ABCDEFGH'[n % 8]}{n // 8 % 12 + 1:02d}_RT_BC_{n // 96 % 384 + 1}_Lig_BC_{n // 36_864 + 1}" for n in numbers]
    )
    return cells


def _expected(seed: int, biology: Biology, gains: Matrix, wells: pd.DataFrame) -> Matrix:
    """Wells × genes, log2 abundance."""
    plates = plate_effects(generator(seed, DATASET, "plates"), list(wells["plate"].unique()), len(biology.genes), 0.12)
    expected = biology.baseline.loc[wells["cell_type"]].to_numpy() + gains * biology.log2_effects(wells)
    return np.asarray(expected + np.array([plates[plate] for plate in wells["plate"]]))


def _curated(seed: int, cells: pd.DataFrame) -> pd.DataFrame:
    """The curated table of cells."""
    draw = generator(seed, DATASET, "curated")
    dose = pd.Series([f"{float(value)}nM" for value in cells["dose_nM"]], index=cells.index)
    no_compound, no_plate = cells["fate"] == "no compound", cells["fate"] == "no plate"
    # half of the controls have no dose at all
    undosed = cells["of_well"].isin(cells.loc[cells["is_control"], "of_well"].unique()[::2])
    curated = pd.DataFrame(
        {
            "cell_line": cells["cell_line"],
            "pert_compound": cells["truncated_name"].mask(no_compound),
            "pert_type": pd.Series("compound", index=cells.index).mask(no_compound),
            "pert_dose": dose.mask(no_compound | undosed),
            "pert_time": "24.0h",
            "time": cells["time_h"],
            "plate": cells["plate"].mask(no_plate),
            "well": cells["well"].mask(no_plate),
            "ncounts": cells["n_counts"],
            "suspension_type": "nucleus",
            "tissue_type": "cell culture",
            "assay": "sci-Plex",
            "development_stage": "unknown",
            "organism": "human",
        }
    )
    for column in ("tissue", "disease", "sex", "self_reported_ethnicity"):
        curated[column] = cells["cell_line"].map({line: donor[column] for line, donor in DONORS.items()})
    # the curators' order is not that of the matrix
    return curated.iloc[draw.permutation(len(curated))]


def _account(biology: Biology, gains: Matrix, cells: pd.DataFrame, features: pd.DataFrame) -> Account:
    account = Account(DATASET, pd.DataFrame(), pd.Series(gains, index=biology.genes))
    kept = account_for_cells(account, cells, ungrouped=("no plate", "no compound"))
    account.samples = _samples(kept)
    account.start("samples", len(kept))
    account.drop("samples", "cells summed to samples", len(kept) - len(account.samples))
    kinds = genes()["kind"].value_counts()
    account.start("genes", len(features) + 1)
    account.drop("genes", "header row of the gene table", 1)
    account.drop("genes", "deprecated without replacement", int(kinds["deprecated"]))
    account.drop("genes", "merged into the current id", int(kinds["merged"]))
    return account


def _samples(kept: pd.DataFrame) -> pd.DataFrame:
    counted: Sequence[str] = [name for name in SAMPLE_COLUMNS if name not in ("source_cell_context", "source_dose_uM", "n_cells")]
    samples = kept.groupby("of_well", sort=True).agg(
        n_cells=("fate", "size"), **{name: (name, "first") for name in counted}, source_cell_context=("cell_line", "first")
    )
    return samples.assign(source_dose_uM=samples["dose_uM"]).reset_index(drop=True)[list(SAMPLE_COLUMNS)]
