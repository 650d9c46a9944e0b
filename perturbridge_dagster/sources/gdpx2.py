"""Ginkgo GDPx2: counts as h5ad, with curated tables of samples, genes and compounds beside it.

Belongs here: where GDPx2 keeps what, and which samples and genes are kept. Does not belong here: the contract (``assemble.py``),
identifiers (``identity/``).

A third of the genes have no Ensembl id in the curated table; they are looked up by their symbols. The published pipeline lost them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    first_known,
    only,
    read_parquet_table,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.spilled import SpilledRows
from perturbridge_dagster.sources.stored import as_counts, matrix_shape, member, open_hdf5, row_blocks

SAMPLE_COLUMNS = (
    "container_id",
    "row_id",
    "column_id",
    "compound",
    "sample_type",
    "pert_name",
    "pert_dose",
    "pert_time",
    "percent_volume_dmso",
    "cell_type",
)
CONDITION = ("pert_name", "cell_type", "dose_uM", "time_h")
CONSTANT_COLUMNS = ("pert_type", "assay", "suspension_type")
POSITIVE_CONTROL = "Ginkgo Pos Control"
SPIKE_IN = "ERCC-"


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read GDPx2.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``counts``, ``samples``, ``genes``, ``compounds``.

    Raises
    ------
    InputError
        If a file is unreadable, a column is missing, counts and tables do not belong together, a sample lacks its vehicle level, or
        values are not counts.
    """
    steps = Reconciliation(CONDITION)
    counts_file, samples_file, genes_file, compounds_file = (
        only(files, role, dataset.id) for role in ("counts", "samples", "genes", "compounds")
    )
    with open_hdf5(counts_file, dataset.id) as opened:
        rows, columns = (pd.Index(ad.io.read_elem(member(opened, axis, dataset.id)).index.astype(str)) for axis in ("obs", "var"))
        stored = member(opened, "X", dataset.id)
        if matrix_shape(stored) != (len(rows), len(columns)):
            raise InputError(
                f"X has shape {matrix_shape(stored)}.",
                dataset=dataset.id,
                file=counts_file,
                expected=f"{len(rows):,} samples × {len(columns):,} genes; the file may be truncated",
            )
        samples = _samples(rows, samples_file, dataset.id, steps)
        genes = _genes(columns, genes_file, dataset.id)
        spike_in = np.asarray(columns.str.startswith(SPIKE_IN))
        native = ~spike_in & genes.notna().to_numpy()
        steps.start("genes", len(genes))
        steps.drop("genes", f"spike-in, {SPIKE_IN}…", int(spike_in.sum()))
        steps.drop("genes", "no Ensembl id, symbol or name", int((~spike_in & ~native).sum()))
        names = pd.Index(genes[native])
        counts = SpilledRows()
        for start, block in row_blocks(stored):
            of_block = rows[start : start + block.shape[0]]
            counts.append(as_counts(block[:, np.flatnonzero(native)], of_block, names, dataset.id, counts_file))
    total = pd.Series(counts.totals(), index=rows)
    samples = _kept(samples, total, dataset, steps)
    structures = _structures(compounds_file, dataset.id).reindex(samples["compound"]).set_axis(samples.index)
    is_control = samples["sample_type"].isin(dataset.control.labels)
    obs = pd.DataFrame(
        {
            "plate": samples["container_id"].str.replace("-", "_"),
            "well": "row" + samples["row_id"] + "_col" + samples["column_id"],
            "source_cell_context": samples["cell_type"],
            "perturbagen": samples["pert_name"].mask(is_control, dataset.control.perturbagen),
            "source_perturbagen_id": samples["compound"],
            "is_control": is_control,
            "pert_dose_uM": samples["dose_uM"],
            "pert_time_h": samples["time_h"],
            "inchikey": structures["inchikey"],
            "smiles": structures["smiles"],
            "pubchem_cid": None,
            "percent_volume_dmso": _vehicle_level(samples["percent_volume_dmso"], dataset.id, samples_file),
        }
    )
    obs = obs.join(samples[[name for name in CONSTANT_COLUMNS if name in samples]])
    return NativeSamples(obs, [Expression(counts_file, counts.selected(rows.isin(samples.index)), names, "mixed")], steps)


def _samples(rows: pd.Index, file: Path, dataset: str, steps: Reconciliation) -> pd.DataFrame:
    """Metadata of the samples as text, with doses and times as numbers, in the order of the matrix."""
    table = read_parquet_table(file, dataset)
    if "sequenced_id" in table:
        table = table.set_index("sequenced_id")
    table.index = table.index.astype(str)
    require_columns(table, SAMPLE_COLUMNS, dataset, file)
    require_unique(table.index.to_series(name="sequenced_id"), "a sample", dataset, file)
    require_unique(rows.to_series(name="sequenced_id"), "a sample of the counts", dataset, file)
    unknown = rows.difference(table.index)
    if len(unknown):
        raise InputError(
            f"{len(unknown):,} samples of the counts have no metadata.",
            dataset=dataset,
            file=file,
            rows=list(unknown),
            column="sequenced_id",
            expected="one row a sample",
            advice="Fetch counts and tables of the same release.",
        )
    words = _as_text(table[[*SAMPLE_COLUMNS, *(name for name in CONSTANT_COLUMNS if name in table)]], ("row_id", "column_id"))
    # a dose is written in nM or µM, so that its text is no condition
    words = words.assign(dose_uM=parse_dose_uM(words["pert_dose"]), time_h=parse_time_h(words["pert_time"]))
    steps.start("samples", len(words))
    return steps.keep("samples", "no row of counts", words, pd.Series(words.index.isin(rows), index=words.index)).loc[rows]


def _as_text(table: pd.DataFrame, whole_numbers: Sequence[str]) -> pd.DataFrame:
    """Columns as text; whole numbers that went through a float column are written without a decimal point."""
    words = table.apply(text)
    return words.assign(**{name: words[name].str.replace(r"\.0+$", "", regex=True) for name in whole_numbers})


def _genes(names: pd.Index, file: Path, dataset: str) -> pd.Series:
    """Ensembl ids in the order of the matrix; where there is none the symbol, without a symbol the name in the matrix, else null."""
    table = read_parquet_table(file, dataset)
    require_columns(table, ["ensembl_gene_id", "symbol"], dataset, file)
    table.index = table.index.astype(str)
    named = text(table.index.to_series(name="gene"))
    require_unique(named.dropna(), "a gene", dataset, file)
    unknown = ~np.asarray(names.isin(table.index))
    if unknown.any():
        raise InputError(
            f"{int(unknown.sum()):,} genes of the counts are not in the table of genes.",
            dataset=dataset,
            file=file,
            rows=list(names[unknown]),
            expected="one row a gene of the counts",
            advice="Fetch counts and tables of the same release.",
        )
    # a missing name reads nan in an index, and has a rule of its own
    name = text(names.to_series())
    ordered = table[~table.index.duplicated()].reindex(names)
    return first_known(text(ordered["ensembl_gene_id"]), text(ordered["symbol"]), name).reset_index(drop=True)


def _structures(file: Path, dataset: str) -> pd.DataFrame:
    """InChIKey and SMILES by compound id."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"the table cannot be read ({error}).", dataset=dataset, file=file, advice="Fetch the file again.") from error
    require_columns(table, ["compound"], dataset, file)
    found = {"compound": text(table["compound"])}
    for field, spellings in (("inchikey", ("inchi_key", "inchikey")), ("smiles", ("canonical_smiles", "smiles"))):
        named = [name for name in table.columns if name.strip().lower() in spellings]
        found[field] = first_known(*(text(table[name]) for name in named)) if named else pd.Series(None, index=table.index, dtype=object)
    structures = pd.DataFrame(found).dropna(subset="compound").drop_duplicates()
    require_unique(structures["compound"], "a compound with differing structures", dataset, file)
    return structures.set_index("compound")


def _kept(samples: pd.DataFrame, total: pd.Series, dataset: Dataset, steps: Reconciliation) -> pd.DataFrame:
    """The samples with counts that are no positive controls."""
    samples = steps.keep("samples", "total count of 0", samples, total > 0)
    require_controls(samples["sample_type"].isin(dataset.control.labels), samples["sample_type"].unique(), dataset)
    positive = samples["sample_type"].str.startswith(POSITIVE_CONTROL).fillna(value=False).astype(bool)
    return steps.keep("samples", "positive control", samples, ~positive)


def _vehicle_level(words: pd.Series, dataset: str, file: Path) -> pd.Series:
    """Vehicle in % of the volume; a sample without would be in no stratum."""
    level = pd.to_numeric(words, errors="coerce").astype("float64")
    if level.isna().any():
        raise InputError(
            f"the vehicle level is {words[level.isna()].iloc[0]!r}.",
            dataset=dataset,
            file=file,
            rows=list(words.index[level.isna()]),
            column="percent_volume_dmso",
            expected="a number, in % of the volume, for every sample",
        )
    return level
