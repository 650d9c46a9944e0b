"""Ginkgo VCPI releases: counts as wide Parquet (genes × samples), sample metadata as CSV, chemistry as JSON.

Belongs here: the layout of a release, the same for all of them, and which genes and samples are kept. Does not belong here: the
contract (``assemble.py``), identifiers (``identity/``).

A release has about 79,000 genes × 29,000 samples; samples are read some columns at a time and kept as sparse rows (``spilled.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    only,
    read_text_table,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.spilled import SpilledRows
from perturbridge_dagster.sources.stored import MAX_VALUES, as_counts

SAMPLE_COLUMNS = (
    "sequenced_id",
    "container_id",
    "row_id",
    "column_id",
    "compound",
    "user_compound_id",
    "compound_concentration",
    "compound_concentration_unit",
    "timepoint",
    "cell_line",
    "is_control",
)
CONDITION = ("user_compound_id", "cell_line", "compound_concentration", "compound_concentration_unit", "timepoint")
SPIKE_IN = "ERCC-"


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read a VCPI release.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``counts``, ``samples``, ``compounds``.

    Raises
    ------
    InputError
        If a file is unreadable, a column is missing, counts and metadata do not belong together, or values are not counts.
    """
    steps = Reconciliation(CONDITION)
    counts_file, samples_file, compounds_file = (only(files, role, dataset.id) for role in ("counts", "samples", "compounds"))
    samples = _samples(samples_file, dataset, steps)
    samples = samples.join(_compounds(compounds_file, dataset.id), on="compound")
    samples, genes, rows = _counts(samples, counts_file, samples_file, dataset.id, steps)

    total = pd.Series(rows.totals(), index=samples.index)
    samples = steps.keep("samples", "total count of 0", samples, total > 0)
    flagged = _flag(samples["is_control"], dataset, samples_file)
    is_vehicle = samples["user_compound_id"].isin(dataset.control.labels)
    require_controls(flagged & is_vehicle, list(samples.loc[flagged, "user_compound_id"]), dataset)
    kept = ~flagged | is_vehicle
    samples = steps.keep("samples", "positive control", samples, kept)

    obs = pd.DataFrame(
        {
            "plate": samples["container_id"].str.replace("-", "_"),
            "well": "row" + samples["row_id"] + "_col" + samples["column_id"],
            "source_cell_context": samples["cell_line"],
            "perturbagen": samples["user_compound_id"],
            "source_perturbagen_id": samples["compound"],
            "is_control": flagged[kept],
            "pert_dose_uM": parse_dose_uM(samples["compound_concentration"], samples["compound_concentration_unit"]),
            "pert_time_h": parse_time_h(samples["timepoint"]),
            "inchikey": samples["inchi_key"],
            "smiles": samples["smiles"],
            "pubchem_cid": None,
        }
    )
    selected = rows.selected(total.index.isin(samples.index))
    return NativeSamples(obs, [Expression(counts_file, selected, genes, "ensembl")], steps)


def _samples(file: Path, dataset: Dataset, steps: Reconciliation) -> pd.DataFrame:
    """Sample metadata as text, indexed by sequenced id."""
    table = read_text_table(file, dataset.id, separator=",", columns=SAMPLE_COLUMNS)
    steps.start("samples", len(table))
    table = steps.keep("samples", "metadata row that repeats another", table, ~table.duplicated())
    if table["sequenced_id"].isna().any():
        raise InputError(
            "a sample has no sequenced_id.",
            dataset=dataset.id,
            file=file,
            rows=list(table.index[table["sequenced_id"].isna()] + 2),
            column="sequenced_id",
        )
    require_unique(table["sequenced_id"], "a sample", dataset.id, file)
    return table.set_index("sequenced_id")


def _compounds(file: Path, dataset: str) -> pd.DataFrame:
    """Structures by compound id."""
    try:
        table = pd.DataFrame(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(
            f"the file cannot be read as JSON records ({error}).", dataset=dataset, file=file, expected="a list of one record a compound"
        ) from error
    require_columns(table, ["compound", "smiles", "inchi_key"], dataset, file)
    structures = table[["compound", "smiles", "inchi_key"]].apply(text).drop_duplicates()
    require_unique(structures["compound"], "a compound with differing structures", dataset, file)
    return structures.set_index("compound")


def _counts(
    samples: pd.DataFrame, file: Path, samples_file: Path, dataset: str, steps: Reconciliation
) -> tuple[pd.DataFrame, pd.Index, SpilledRows]:
    """Samples that were sequenced, genes without spike-ins, and the counts, samples × genes."""
    try:
        stored = pq.ParquetFile(file)
        names = stored.schema_arrow.names
        if names[:1] != ["gene_id"]:
            raise InputError(
                f"the first column is {names[:1]}.", dataset=dataset, file=file, expected="gene_id, then one column a sequenced_id"
            )
        unknown = pd.Index(names[1:]).difference(samples.index)
        if len(unknown):
            raise InputError(
                f"{len(unknown):,} samples of {file.name} have no metadata.",
                dataset=dataset,
                file=samples_file,
                rows=list(unknown),
                column="sequenced_id",
                expected="one row a sample",
                advice="Fetch data and metadata of the same release.",
            )
        samples = steps.keep("samples", "no column of counts", samples, pd.Series(samples.index.isin(names), index=samples.index))
        if samples.empty:
            raise InputError(
                "no sample has counts.", dataset=dataset, file=file, expected="columns named by the sequenced_id of the metadata"
            )
        genes = pd.Index(stored.read(columns=["gene_id"]).column(0).to_pandas().astype(str))
        require_unique(genes.to_series(name="gene_id"), "a gene", dataset, file)
        native = ~genes.str.startswith(SPIKE_IN)
        steps.start("genes", len(genes))
        steps.drop("genes", f"spike-in, {SPIKE_IN}…", int((~native).sum()))
        width = max(1, MAX_VALUES // max(1, len(genes)))
        rows = SpilledRows()
        for start in range(0, len(samples), width):
            columns = list(samples.index[start : start + width])
            dense = np.stack([_column(stored_column, name, genes, dataset, file) for name, stored_column in _columns(stored, columns)])
            rows.append(as_counts(sparse.csr_matrix(dense[:, native]), pd.Index(columns), genes[native], dataset, file))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"the file cannot be read as Parquet ({error}).", dataset=dataset, file=file, advice="Fetch it again.") from error
    return samples, genes[native], rows


def _columns(stored: pq.ParquetFile, names: list[str]) -> list[tuple[str, pa.ChunkedArray]]:
    table = stored.read(columns=names)
    return [(name, table.column(name)) for name in names]


def _column(column: pa.ChunkedArray, name: str, genes: pd.Index, dataset: str, file: Path) -> np.ndarray:
    """Counts of one sample; missing and non-numeric values are refused."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"the counts are of type {column.type}.", dataset=dataset, file=file, column=name, expected="whole numbers")
    if column.null_count:
        missing = genes[column.is_null().to_numpy()]
        raise InputError(
            f"{column.null_count:,} counts are missing.",
            dataset=dataset,
            file=file,
            rows=list(missing),
            column=name,
            expected="a count for every gene",
        )
    return np.asarray(column.to_numpy())


def _flag(words: pd.Series, dataset: Dataset, file: Path) -> pd.Series:
    """The text flag is_control as booleans."""
    flags = words.str.lower().map({"true": True, "false": False})
    if flags.isna().any():
        raise InputError(
            f"is_control is {words[flags.isna()].iloc[0]!r}.",
            dataset=dataset.id,
            file=file,
            rows=list(words.index[flags.isna()]),
            column="is_control",
            expected="true or false",
        )
    return flags.astype(bool)
