"""The sample as DILImap is published: counts of hepatocytes as h5ad, training and validation, and a table of structures.

Belongs here: the layout of the plates, their files and defects. Does not belong here: the biology or the assay's noise.

Files
-----
``adata_training_counts.h5ad``, and of ``dilimap_train_val`` also ``validation_data_counts.h5ad``
    X: samples × genes, CSR, expected counts as float32. obs (index: names that repeat): ``COMPOUND CMPD_DOSE CONCENTRATION_UM
    TIMEPOINT_HOURS PLATE_NAME WELL_ID LIBRARY_ID SPECIES BATCH_ID SPLIT LDH_QC``. var (index: symbol): ``gene_id``. The training file is
    the same in both datasets.
``compound_DILI_labels.csv``
    ``compound_name smiles DILI_label``; not every compound is in it.

Defects, as in the original: wells whose LDH failed, replaced controls, samples of low total, with many mitochondrial counts, and unlike
their replicates; doses that differ in the third digit; a compound whose name no table knows; counts with fractions.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled, well_names
from perturbridge_dagster.sample.assays import fractions, gene_gains, plate_effects, umi_counts
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, genes, perturbagens_of

TRAIN, TRAIN_VAL = "dilimap_train", "dilimap_train_val"
CELL_TYPE, CELL_CONTEXT, TIME_H = "CL_0000182", "primary human hepatocytes", 24.0
REPLICATES = 3
DOSES_UM = (0.1, 1.0, 10.0)
ALMOST = {0.1: 0.101, 10.0: 9.95}
"""How the second plate writes a dose."""

CONTROLS_PER_PLATE = 7
MEDIAN_DEPTH = 1_500_000.0
NOISE_SHAPE = 400.0

FATES = ("LDH", "replaced", "few counts", "mitochondrial", "unlike")
"""Why a sample fails."""


class Split(NamedTuple):
    """One file: the samples of one split."""

    name: str
    file: str
    plates: tuple[str, ...]
    compounds: tuple[str, ...]


TRAINING = Split(
    "training",
    "adata_training_counts.h5ad",
    ("DILI_T01", "DILI_T02"),
    (
        "aspirin",
        "caffeine",
        "ibuprofen",
        "metformin",
        "bortezomib",
        "dexamethasone",
        "etoposide",
        "imipramine hydrochloride",
        "vorinostat",
        "entinostat",
        "trametinib",
        "949",
    ),
)
VALIDATION = Split("validation", "validation_data_counts.h5ad", ("DILI_V01",), ("selumetinib", "camptothecin", "budesonide", "vorinostat"))

WITHOUT_STRUCTURE = ("imipramine hydrochloride", "949", "trametinib")
"""Compounds that the table of structures does not have."""


SPLITS = {TRAIN: (TRAINING,), TRAIN_VAL: (TRAINING, VALIDATION)}
"""By dataset, the files that it has; what they have in common is the same in both."""


def write(dataset: str, folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of training, or of training and validation.

    Parameters
    ----------
    dataset
        One of ``SPLITS``.
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    import anndata as ad

    # nothing that is drawn depends on the dataset, so that training samples are the same in both
    gains = gene_gains(generator(seed, TRAIN, "gains"), len(biology.genes), spread=0.35)
    every = []
    for split in SPLITS[dataset]:
        wells = _wells(seed, split)
        counts = _counts(seed, biology, gains, split, wells)
        var = pd.DataFrame({"gene_id": _gene_ids().to_numpy()}, index=pd.Index(_symbols(), dtype=object))
        with warnings.catch_warnings():
            # that names repeat is meant
            warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
            published = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=_obs(wells, split), var=var)
            published.write_h5ad(folder / split.file, compression="gzip", compression_opts=1)
        every.append(wells)
    names = perturbagens_of(TRAIN_VAL)
    known = names[~names["compound"].isin(WITHOUT_STRUCTURE)]
    labels = pd.DataFrame({"compound_name": known["source_name"], "smiles": known["smiles"], "DILI_label": "none"})
    labels.to_csv(folder / "compound_DILI_labels.csv", index=False)
    return _account(dataset, biology, gains, pd.concat(every, ignore_index=True), len(every))


def _symbols() -> list[str]:
    """Symbols as AnnData keeps them: a gene without a symbol goes by its id."""
    return [str(name) for name in genes()["symbol"].fillna(genes().index.to_series())]


def _gene_ids() -> pd.Series:
    return genes()["retired_ensembl_id"].fillna(genes()["ensembl_id"])


def _wells(seed: int, split: Split) -> pd.DataFrame:
    """One row a well: what it holds, and why it will fail."""
    names = perturbagens_of(TRAIN_VAL)
    vehicle = names[names["agent"] == VEHICLE]
    screened = names[names["compound"].isin(split.compounds)]
    conditions = screened.merge(pd.DataFrame({"dose_uM": DOSES_UM}), how="cross")
    plates = []
    for i, plate in enumerate(split.plates):
        # all replicates of a condition lie on one plate
        of_plate = conditions.iloc[i :: len(split.plates)]
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_uM=0.0)
        wells = shuffled(generator(seed, TRAIN, "layout", plate), pd.concat([of_plate.loc[of_plate.index.repeat(REPLICATES)], controls]))
        wells["source_dose_uM"] = wells["dose_uM"].replace(ALMOST) if i % 2 else wells["dose_uM"]
        wells["fate"] = ""
        treated = wells[wells["agent"] != VEHICLE].drop_duplicates(["compound", "dose_uM"])
        wells.loc[treated.index[: len(FATES)], "fate"] = FATES
        replaced = wells["fate"] == "replaced"
        wells.loc[replaced, ["compound", "source_name", "agent", "dose_uM"]] = [None, "DMSO_replaced", VEHICLE, 0.0]
        wells["well"] = well_names(len(wells), "ABCDEFGHIJKLMNOP", 24, padded=True)
        plates.append(wells.assign(plate=plate))
    table = pd.concat(plates, ignore_index=True)
    table["is_control"] = table["agent"] == VEHICLE
    table["cell_type"], table["time_h"] = CELL_TYPE, TIME_H
    return table


def _counts(seed: int, biology: Biology, gains: Matrix, split: Split, wells: pd.DataFrame) -> Matrix:
    """Wells × genes, some with fractions."""
    n_genes = len(biology.genes)
    plates = plate_effects(generator(seed, TRAIN, "plates", split.name), split.plates, n_genes, 0.12)
    expected = biology.baseline.loc[wells["cell_type"]].to_numpy() + gains * biology.log2_effects(wells)
    expected += np.array([plates[plate] for plate in wells["plate"]])
    kind, fate = genes()["kind"].to_numpy(), wells["fate"].to_numpy()
    expected[:, kind == "mitochondrial"] -= 1.0
    # the nuclear RNA would else outweigh all differences between samples
    expected[:, kind == "MALAT1"] -= 3.0
    expected[np.ix_(fate == "mitochondrial", kind == "mitochondrial")] += 3.5
    draw = generator(seed, TRAIN, "counts", split.name)
    unlike = fate == "unlike"
    expected[unlike] += draw.normal(0, 1.2, (int(unlike.sum()), n_genes))
    depth = MEDIAN_DEPTH * draw.uniform(0.8, 1.25, len(wells))
    depth[fate == "few counts"] = 0.02 * MEDIAN_DEPTH
    counts = umi_counts(draw, fractions(expected), depth, shape=NOISE_SHAPE).astype(np.float64)
    # a read that fits two genes is shared between them
    counts[(counts > 50) & (draw.random(counts.shape) < 0.02)] += 0.25
    return counts


def _obs(wells: pd.DataFrame, split: Split) -> pd.DataFrame:
    dose = wells["source_dose_uM"].astype(str)
    obs = pd.DataFrame(
        {
            "COMPOUND": wells["source_name"],
            "CMPD_DOSE": wells["source_name"] + "_" + dose,
            "CONCENTRATION_UM": wells["source_dose_uM"].mask(wells["is_control"]),
            "TIMEPOINT_HOURS": int(TIME_H),
            "PLATE_NAME": wells["plate"],
            "WELL_ID": wells["well"],
            "LIBRARY_ID": wells["plate"] + "_L1",
            "SPECIES": "Human",
            "BATCH_ID": split.plates[0][-3:],
            "SPLIT": split.name.capitalize(),
            "LDH_QC": np.where(wells["fate"] == "LDH", "high LDH", ""),
        }
    )
    # the source names its rows by well alone
    return obs.set_axis(pd.Index(wells["well"], dtype=object, name=None), axis=0)


def _account(dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, n_files: int) -> Account:
    measured = genes()["ensembl_id"].notna().to_numpy()
    account = Account(dataset, pd.DataFrame(), pd.Series(np.where(measured, gains, np.nan), index=biology.genes))
    account.start("samples", len(wells))
    kept = account.keep("samples", "replaced controls", wells, wells["fate"] != "replaced")
    kept = account.keep("samples", "LDH", kept, kept["fate"] != "LDH")
    kept = account.keep("samples", "low total or many mitochondrial counts", kept, ~kept["fate"].isin(["few counts", "mitochondrial"]))
    kept = account.keep("samples", "unlike its replicates", kept, kept["fate"] != "unlike")
    # near-identical doses are read as the one with the fewest decimals
    kept = kept.assign(source_dose_uM=kept["dose_uM"], source_cell_context=CELL_CONTEXT, n_cells=None)
    account.samples = kept[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", n_files * len(genes()))
    for number in range(1, n_files + 1):
        account.drop("genes", f"deprecated without replacement (file {number})", int((~measured).sum()))
    account.drop("genes", "the same genes in every file", (n_files - 1) * int(measured.sum()))
    return account
