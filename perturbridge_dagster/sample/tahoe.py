"""The sample as Tahoe-100M is published: cells × genes, one h5ad a plate, curated metadata beside it and the source's own tables.

Belongs here: the layout of the plates, their files and defects. Does not belong here: the biology, or single cells (``cells.py``).

Files
-----
``h5ad/plate{n}_filt_Vevo_Tahoe100M_WServicesFrom_ParseGigalab.h5ad``
    X: cells × genes, CSR, counts as float32. obs (index: barcode, its first two digits the well, 1 to 96 row by row): ``sample``,
    ``gene_count``, ``tscp_count``, ``drugname_drugconc``, ``drug``, ``cell_line``, ``pcnt_mito`` (0 to 1), ``pass_filter``, ``cell_name``,
    ``plate``. var: index gene name.
``obs/plate{n}.parquet``
    Index: barcode. ``plate``, ``gene_count``, ``tscp_count``, ``pcnt_mito``, ``cell_line_ontology_id``, ``pert_compound`` (``DMSO_TF`` for
    controls), ``pert_type``, ``pert_dose`` (``0.05uM``), ``pert_time`` (``24.0h``), ``suspension_type``, ``tissue``, ``tissue_type``,
    ``disease``, ``assay``, ``development_stage``, ``organism``, ``sex``, ``self_reported_ethnicity``.
``var.parquet``
    Index: gene name. ``ensembl_gene_id``, ``symbol``.
``gene_metadata.parquet``, ``drug_metadata.parquet``, ``cell_line_metadata.parquet``, ``sample_metadata.parquet``
    The source's own: ``gene_symbol, ensembl_id, token_id``; ``drug, canonical_smiles, pubchem_cid``; ``cell_name, Cell_ID_DepMap,
    Cell_ID_Cellosaur, Organ, Driver_Gene_Symbol``, one row a mutation; ``sample, plate, drug, drugname_drugconc``
    (``[('Everolimus', 0.05, 'uM')]``).

Defects, as in the original: cells that fail each filter, samples with few cells, gene tables in different orders, of which neither has
every id, retired ids, names with a blank at the end, a control label inside a compound's name, two names of one compound, a compound
without structure, one in two wells of a plate, controls and a well without a curated dose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled
from perturbridge_dagster.sample.assays import gene_gains, plate_effects
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.cells import BAD_CELLS, account_for_cells, cell_counts, cells_of, measured, old_features
from perturbridge_dagster.sample.tables import VEHICLE, genes, perturbagens_of

DATASET = "tahoe"
H5AD = "{plate}_filt_Vevo_Tahoe100M_WServicesFrom_ParseGigalab.h5ad"
TIME_H = 24.0
MEDIAN_DEPTH = 2000.0

PLATES: dict[str, tuple[float, ...]] = {"plate4": (0.05,), "plate5": (0.5,), "plate6": (5.0,), "plate13": (0.5, 5.0)}
"""Doses of every compound on each plate, µM."""

CONTROLS_PER_PLATE = 2
IN_TWO_WELLS = "bortezomib"
TRAILING_BLANK = "Budesonide"
WITHOUT_STRUCTURE = "Aspirin"

LINES = pd.DataFrame(
    [
        ("CVCL_0023", "A549", "ACH-000681", "Lung", "lung", "carcinoma", "58-year-old stage", "male", "Caucasian"),
        ("CVCL_0320", "HT-29", "ACH-000552", "Bowel", "colon", "colorectal adenocarcinoma", "44-year-old stage", "female", "Caucasian"),
    ],
    columns=["cell_type", "name", "depmap", "organ", "tissue", "disease", "development_stage", "sex", "self_reported_ethnicity"],
).set_index("cell_type")
"""Cell lines, all in every well."""

DRIVERS = {"CVCL_0023": ("KRAS", "STK11"), "CVCL_0320": ("APC", "BRAF", "TP53")}


def write(folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of Tahoe-100M.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    samples = _samples(seed)
    features = _features()
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), spread=0.35)
    plates = plate_effects(generator(seed, DATASET, "plates"), list(PLATES), len(biology.genes), 0.12)
    expected = biology.baseline.loc[samples["cell_type"]].to_numpy() + gains * biology.log2_effects(samples)
    expected += np.array([plates[plate] for plate in samples["plate"]])
    cells = cells_of(generator(seed, DATASET, "cells"), samples, BAD_CELLS)
    counts = cell_counts(seed, DATASET, expected, cells, features, median_depth=MEDIAN_DEPTH)
    cells = cells.join(measured(counts, features))
    cells.index = pd.Index(_barcodes(seed, cells))

    for name in ("h5ad", "obs"):
        (folder / name).mkdir()
    for plate in PLATES:
        on_plate = (cells["plate"] == plate).to_numpy()
        _write_plate(folder, plate, cells[on_plate], counts[np.flatnonzero(on_plate)], features, seed)
    _write_genes(folder, features, seed)
    _write_tables(folder, samples)
    return _account(biology, gains, cells, features)


def _samples(seed: int) -> pd.DataFrame:
    """One row a cell line in a well."""
    names = perturbagens_of(DATASET)
    treated, vehicle = names[names["agent"] != VEHICLE], names[names["agent"] == VEHICLE]
    twice = treated[treated["compound"] == IN_TWO_WELLS]
    wells = []
    for plate, doses in PLATES.items():
        conditions = pd.concat([treated, twice]).merge(pd.DataFrame({"dose_uM": doses}), how="cross")
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_uM=0.0)
        layout = shuffled(generator(seed, DATASET, "layout", plate), pd.concat([conditions, controls]))
        wells.append(layout.assign(plate=plate, well_number=np.arange(len(layout)) + 1))
    table = pd.concat(wells, ignore_index=True)
    table["source_sample"] = [f"smp_{1783 + i}" for i in range(len(table))]
    table["well"] = ["ABCDEFGH"[(number - 1) // 12] + str((number - 1) % 12 + 1) for number in table["well_number"]]
    table["time_h"], table["is_control"] = TIME_H, table["agent"] == VEHICLE
    # one treated well has no curated dose, nor have the controls of the last plate
    table["undosed"] = (table.index == table[~table["is_control"]].index[5]) | (table["is_control"] & (table["plate"] == "plate13"))
    samples = table.merge(LINES.reset_index()[["cell_type"]], how="cross")
    draw = generator(seed, DATASET, "sizes")
    few = draw.random(len(samples)) < 0.05
    samples["n_cells"] = np.where(few & ~samples["is_control"], draw.integers(3, 40, len(samples)), draw.integers(56, 68, len(samples)))
    return samples


def _features() -> pd.DataFrame:
    """Genes of the matrices, indexed by gene name; of two genes with one symbol the second is numbered, as AnnData does."""
    features = old_features().rename_axis("ensembl_id").reset_index()
    number = features.groupby("symbol").cumcount()
    names = features["symbol"].where(number == 0, features["symbol"] + "-" + number.astype(str))
    # a gene without a symbol is named by its id
    return features.set_index(names.fillna(features["ensembl_id"]).rename("gene_name"))


def _barcodes(seed: int, cells: pd.DataFrame) -> list[str]:
    numbers = generator(seed, DATASET, "barcodes").permutation(len(cells))
    return [
        f"{well:02d}_{number % 96 + 1:03d}_{number // 96 % 96 + 1:03d}-lib_{1105 + number // 96**2}"
        for well, number in zip(cells["well_number"], numbers, strict=True)
    ]


def _source_name(names: pd.Series) -> pd.Series:
    """Names in the source's own tables, one of which ends with a blank."""
    return names.where(names != TRAILING_BLANK, f"{TRAILING_BLANK} ")


def _drug_and_dose(samples: pd.DataFrame) -> list[str]:
    return [str([(name, dose, "uM")]) for name, dose in zip(_source_name(samples["source_name"]), samples["dose_uM"], strict=True)]


def _write_plate(folder: Path, plate: str, cells: pd.DataFrame, counts: sparse.csr_matrix, features: pd.DataFrame, seed: int) -> None:
    import anndata as ad

    lines = LINES.loc[cells["cell_type"]].set_index(cells.index)
    own = pd.DataFrame(
        {
            "sample": cells["source_sample"],
            "gene_count": cells["n_genes"],
            "tscp_count": cells["n_counts"],
            "drugname_drugconc": _drug_and_dose(cells),
            "drug": _source_name(cells["source_name"]),
            "cell_line": cells["cell_type"],
            "pcnt_mito": cells["mitochondrial"].astype(np.float32),
            "pass_filter": "full",
            "cell_name": lines["name"],
            "plate": plate,
        }
    )
    published = ad.AnnData(counts.astype(np.float32), obs=own, var=pd.DataFrame(index=features.index))
    published.write_h5ad(folder / "h5ad" / H5AD.format(plate=plate), compression="gzip", compression_opts=1)
    dose = pd.Series([f"{value:g}uM" for value in cells["dose_uM"]], index=cells.index)
    curated = pd.DataFrame(
        {
            "plate": plate,
            "gene_count": cells["n_genes"],
            "tscp_count": cells["n_counts"],
            "pcnt_mito": own["pcnt_mito"],
            "cell_line_ontology_id": cells["cell_type"],
            "pert_compound": cells["source_name"],
            "pert_type": "compound",
            "pert_dose": dose.mask(cells["undosed"]),
            "pert_time": f"{TIME_H}h",
            "suspension_type": "cell",
            "tissue_type": "cell culture",
            "assay": "Parse Evercode Whole Transcriptome v3",
            "organism": "human",
        }
    ).join(lines[["tissue", "disease", "development_stage", "sex", "self_reported_ethnicity"]])
    order = generator(seed, DATASET, "curated", plate).permutation(len(curated))
    curated.iloc[order].to_parquet(folder / "obs" / f"{plate}.parquet")


def _write_genes(folder: Path, features: pd.DataFrame, seed: int) -> None:
    """The curated table and the source's own; each lacks ids that the other has, and their orders differ."""
    draw = generator(seed, DATASET, "genes")
    shuffled_rows = features.iloc[draw.permutation(len(features))]
    curated = pd.DataFrame({"ensembl_gene_id": shuffled_rows["ensembl_id"], "symbol": shuffled_rows["symbol"]})
    curated.loc[curated.index[:20], "ensembl_gene_id"] = None
    curated.to_parquet(folder / "var.parquet")
    own = features.iloc[draw.permutation(len(features))]
    own = own[~own.index.isin(curated.index[-20:])]
    pd.DataFrame({"gene_symbol": own.index, "ensembl_id": own["ensembl_id"].to_numpy(), "token_id": np.arange(len(own)) + 3}).to_parquet(
        folder / "gene_metadata.parquet", index=False
    )


def _write_tables(folder: Path, samples: pd.DataFrame) -> None:
    drugs = samples.loc[~samples["is_control"]].drop_duplicates("source_name").sort_values("source_name")
    unknown = drugs["source_name"] == WITHOUT_STRUCTURE
    pd.DataFrame(
        {
            "drug": drugs["source_name"],
            "canonical_smiles": drugs["smiles"]
            .where(drugs["source_name"] != "Trametinib (DMSO_TF solvate)", " " + drugs["smiles"] + " ")
            .mask(unknown),
            "pubchem_cid": drugs["pubchem_cid"].astype("Float64").astype("float64").mask(unknown),
        }
    ).to_parquet(folder / "drug_metadata.parquet", index=False)
    pd.DataFrame(
        [
            (LINES.loc[line, "name"], LINES.loc[line, "depmap"], line, LINES.loc[line, "organ"], driver)
            for line, drivers in DRIVERS.items()
            for driver in drivers
        ],
        columns=["cell_name", "Cell_ID_DepMap", "Cell_ID_Cellosaur", "Organ", "Driver_Gene_Symbol"],
    ).to_parquet(folder / "cell_line_metadata.parquet", index=False)
    wells = samples.drop_duplicates("source_sample")
    pd.DataFrame(
        {
            "sample": wells["source_sample"],
            "plate": wells["plate"],
            "drug": _source_name(wells["source_name"]),
            "drugname_drugconc": _drug_and_dose(wells),
        }
    ).to_parquet(folder / "sample_metadata.parquet", index=False)


def _account(biology: Biology, gains: Matrix, cells: pd.DataFrame, features: pd.DataFrame) -> Account:
    account = Account(DATASET, pd.DataFrame(), pd.Series(gains, index=biology.genes))
    kept = account_for_cells(account, cells)
    counted = [name for name in SAMPLE_COLUMNS if name not in ("source_cell_context", "source_dose_uM", "n_cells")]
    samples = kept.groupby("of_well", sort=True).agg(n_cells=("fate", "size"), **{name: (name, "first") for name in counted})
    samples = samples.assign(source_dose_uM=samples["dose_uM"], source_cell_context=samples["cell_type"])
    account.samples = samples.reset_index(drop=True)[list(SAMPLE_COLUMNS)]
    account.start("samples", len(kept))
    account.drop("samples", "cells summed to samples", len(kept) - len(samples))
    kinds = genes()["kind"].value_counts()
    account.start("genes", len(features))
    account.drop("genes", "deprecated without replacement", int(kinds["deprecated"]))
    account.drop("genes", "merged into the current id", int(kinds["merged"]))
    return account
