"""Open Problems perturbation prediction (OP3): blood cells of three donors, already summed to samples × genes, as one h5ad file.

Belongs here: the layout of that file, its donors, which samples are kept. Does not belong here: the contract (``assemble.py``), the
published tables of the competition that serve an evaluation.

The file's ``uns`` holds the metadata of every single cell; it is never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    only,
    positive_integers,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.stored import as_counts, matrix_shape, member, open_hdf5, row_blocks

SAMPLE_COLUMNS = (
    "plate_name",
    "well",
    "cell_type",
    "sm_name",
    "sm_lincs_id",
    "SMILES",
    "dose_uM",
    "timepoint_hr",
    "control",
    "split",
    "donor_id",
    "library_id",
    "cell_count_by_well_celltype",
)

CONDITION = ("sm_name", "cell_type", "dose_uM", "timepoint_hr")

DONORS = pd.DataFrame(
    [
        ("Donor 1", "45-year-old stage", "female", "White"),
        ("Donor 2", "52-year-old stage", "male", "White"),
        ("Donor 3", "45-year-old stage", "male", "White"),
    ],
    columns=["donor", "development_stage", "sex", "self_reported_ethnicity"],
).set_index("donor")
"""What is known of the donors, who are not in the file."""


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read OP3.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        The file of the role ``counts``.

    Raises
    ------
    InputError
        If the file is unreadable, a column is missing or a flag is none, or values are not counts.
    """
    steps = Reconciliation(CONDITION)
    file = only(files, "counts", dataset.id)
    with open_hdf5(file, dataset.id) as opened:
        samples, genes = (ad.io.read_elem(member(opened, name, dataset.id)) for name in ("obs", "var"))
        shape = matrix_shape(member(opened, "X", dataset.id))
    if shape != (len(samples), len(genes)):
        raise InputError(
            f"X has shape {shape}.", dataset=dataset.id, file=file, expected=f"{len(samples):,} samples × {len(genes):,} genes"
        )
    require_columns(samples, SAMPLE_COLUMNS, dataset.id, file)
    names = pd.Index(genes.index.astype(str))
    require_unique(names.to_series(name="gene"), "a gene", dataset.id, file)

    name, flagged = text(samples["sm_name"]), _flags(samples["control"], dataset.id, file)
    vehicle = flagged & name.isin(dataset.control.labels)
    require_controls(vehicle, name[flagged].unique(), dataset)
    steps.start("samples", len(samples))
    kept = ~flagged | vehicle
    samples = steps.keep("samples", "positive control", samples, kept)
    steps.start("genes", len(genes))

    donor = text(samples["donor_id"])
    obs = pd.DataFrame(
        {
            "plate": _word(samples["plate_name"]),
            "well": text(samples["well"]),
            "source_cell_context": text(samples["cell_type"]),
            "perturbagen": name[kept],
            "source_perturbagen_id": text(samples["sm_lincs_id"]),
            "is_control": vehicle[kept],
            "pert_dose_uM": pd.to_numeric(samples["dose_uM"], errors="coerce").astype("float64"),
            "pert_time_h": pd.to_numeric(samples["timepoint_hr"], errors="coerce").astype("float64"),
            "inchikey": None,
            "smiles": text(samples["SMILES"]),
            "pubchem_cid": None,
            "library": _word(samples["library_id"]),
            "psbulk_cells": positive_integers(samples["cell_count_by_well_celltype"]),
            "split": text(samples["split"]),
            "donor": donor,
        }
    ).join(DONORS, on="donor")
    obs.index = pd.Index(obs["plate"] + " " + obs["well"] + " " + obs["perturbagen"] + " " + obs["source_cell_context"])
    return NativeSamples(obs, [Expression(file, _blocks(file, kept, names, dataset.id), names, "symbol")], steps)


def _blocks(file: Path, kept: pd.Series, genes: pd.Index, dataset: str) -> Iterator[sparse.csr_matrix]:
    """Counts of the kept samples."""
    with open_hdf5(file, dataset) as opened:
        stored: h5py.Dataset | h5py.Group = opened["X"]
        for start, block in row_blocks(stored):
            rows = slice(start, start + block.shape[0])
            counts = as_counts(block, pd.Index(kept.index[rows]), genes, dataset, file)
            yield counts[np.flatnonzero(kept.to_numpy()[rows])]


def _word(names: pd.Series) -> pd.Series:
    """Names without blanks, hyphens as underscores."""
    return text(names).str.replace("-", "_").str.replace(r"\s+", "", regex=True)


def _flags(values: pd.Series, dataset: str, file: Path) -> pd.Series:
    """The flag control as booleans, whether it is stored as such or as text."""
    flags = values.astype(str).str.lower().map({"true": True, "false": False})
    if flags.isna().any():
        raise InputError(
            f"control is {values[flags.isna()].iloc[0]!r}.",
            dataset=dataset,
            file=file,
            rows=list(values.index[flags.isna()]),
            column="control",
            expected="true or false",
        )
    return flags.astype(bool)
