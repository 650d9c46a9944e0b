"""The count matrix of a user's own screen, in the forms in which laboratories keep them.

Belongs here: h5ad, MTX, text and Parquet as counts of samples × genes, and what both files of a screen need to be read. Does not belong
here: the sample sheet (``screen.py``).

A matrix is held as sparse counts, once; text and Parquet are read some rows at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry.screen import Screen
from perturbridge_dagster.sources.native import require_unique, text
from perturbridge_dagster.sources.stored import as_counts, member, open_hdf5, row_blocks

_ROWS = 2_000
"""Rows of a table that are read at a time."""

UNREADABLE = (OSError, EOFError, zlib.error, ValueError)
"""What pandas and SciPy raise on files that are truncated, damaged or something else."""


def read_counts(screen: Screen, files: dict[str, Path], dataset: str) -> tuple[sparse.csr_matrix, pd.Index, pd.Index, pd.DataFrame]:
    """Read the count matrix of a screen.

    Parameters
    ----------
    screen
        Its description.
    files
        File of the roles ``counts``, and for MTX ``genes`` and ``sample_names``.
    dataset
        For messages.

    Returns
    -------
    Counts (samples × genes, CSR int64), names of samples, names of genes, and the ``obs`` of an h5ad file as text, empty for others.

    Raises
    ------
    InputError
        If the file cannot be read, a value is not a count, or a name occurs twice.
    """
    file, own_obs = files["counts"], pd.DataFrame()
    if screen.counts.kind == ".h5ad":
        values, rows, columns, own_obs = _h5ad(file, screen, dataset)
    elif screen.counts.kind == ".mtx":
        values = _mtx(file, dataset)
        rows, columns = _names(files["genes"], dataset), _names(files["sample_names"], dataset)
        if screen.counts.rows == "samples":
            rows, columns = columns, rows
        if values.shape != (len(rows), len(columns)):
            raise InputError(
                "the matrix has {:,} rows and {:,} columns, there are {:,} and {:,} names.".format(*values.shape, len(rows), len(columns)),
                dataset=dataset,
                file=file,
                expected="a name for each",
                advice=f"Check counts.rows, which says that a row is one of the {screen.counts.rows} ({screen.where('counts.rows')}).",
            )
    else:
        values, rows, columns = _table(file, screen, dataset)
    rows, columns = rows.str.strip(), columns.str.strip()
    if screen.counts.kind != ".h5ad" and screen.counts.rows == "genes":
        values, rows, columns = values.T.tocsr(), columns, rows
    counts = as_counts(values, rows, columns, dataset, file)
    for names, what in ((rows, "sample"), (columns, "gene")):
        require_unique(names.to_series(name=what), f"a {what} of the count matrix", dataset, file)
    return counts, rows, columns, own_obs


def _table(file: Path, screen: Screen, dataset: str) -> tuple[sparse.csr_matrix, pd.Index, pd.Index]:
    """Values, row names and column names of a text or Parquet table."""
    blocks, rows = [], []
    columns: pd.Index = pd.Index([])
    try:
        for part in _parts(file, screen.counts.kind, dataset):
            columns = part.columns
            blocks.append(sparse.csr_matrix(_numbers(part, dataset, file)))
            rows.append(part.index)
    except UNREADABLE as error:
        raise InputError(f"the count matrix cannot be read ({error}).", dataset=dataset, file=file) from error
    if not sum(map(len, rows)) or not len(columns):
        raise InputError(
            "the count matrix has no values.",
            dataset=dataset,
            file=file,
            expected="names in the first row and the first column, and values between them",
            advice="A .csv file has commas between fields; .tsv and .txt files have tabs.",
        )
    names = rows[0].append(rows[1:]) if len(rows) > 1 else rows[0]
    return sparse.vstack(blocks, format="csr"), names.astype(str), columns.astype(str)


def _parts(file: Path, kind: str, dataset: str) -> Iterator[pd.DataFrame]:
    """Some rows of a table at a time, with their names as index."""
    if kind == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as stored:
            for batch in stored.iter_batches(batch_size=_ROWS):
                part = batch.to_pandas()
                # pandas keeps an index in the file; any other writer has a first column
                yield part if part.index.name or part.index.dtype == object else part.set_index(part.columns[0])
        return
    separator = "," if kind == ".csv" else "\t"
    header = text_header(file, separator)
    with pd.read_csv(
        file, sep=separator, dtype={0: str}, chunksize=_ROWS, encoding="utf-8-sig", na_filter=False, low_memory=False
    ) as parts:
        for part in parts:
            require_no_separator_at_the_end(part, header, dataset, file)
            # R's write.table leaves out the name of the first column, which pandas then takes for the index by itself; it would guess
            # the type of an index that it is told
            named = part.set_index(part.columns[0]) if isinstance(part.index, pd.RangeIndex) else part
            # pandas calls the second of two ACTB ACTB.1
            yield named.set_axis(header[len(header) - named.shape[1] :], axis=1)


def text_header(file: Path, separator: str) -> list[str]:
    """Fields of the first line of a text table, as they are written."""
    first = pd.read_csv(file, sep=separator, header=None, nrows=1, dtype=str, na_filter=False, encoding="utf-8-sig")
    return list(first.iloc[0])


def require_no_separator_at_the_end(table: pd.DataFrame, header: list[str], dataset: str, file: Path) -> None:
    """Refuse lines that have a field more than the header and nothing in the last: pandas takes their first for row names.

    Parameters
    ----------
    table
        As pandas read it.
    header
        Of :func:`text_header`.
    dataset, file
        For the error.

    Raises
    ------
    InputError
        If lines are so.
    """
    if not isinstance(table.index, pd.RangeIndex) and table.shape[1] == len(header) and (table.iloc[:, -1] == "").all():
        raise InputError(
            f"the header has {len(header):,} fields, each line one more, of which the last is empty.",
            dataset=dataset,
            file=file,
            advice="Remove the separator at the end of each line; or, where the first column holds the names of rows, give it a header.",
        )


def _numbers(part: pd.DataFrame, dataset: str, file: Path) -> np.ndarray:
    """Values of some rows; what is no number is refused."""
    numbers = part.apply(pd.to_numeric, errors="coerce") if part.select_dtypes(exclude="number").shape[1] else part
    values: np.ndarray = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(values).any():
        row, column = np.argwhere(np.isnan(values))[0]
        raise InputError(
            f"{part.iloc[row, column]!r} is not a count.",
            dataset=dataset,
            file=file,
            rows=[part.index[row]],
            column=str(part.columns[column]),
            expected="names in the first row and the first column, and a count in every other field",
        )
    return values


def _mtx(file: Path, dataset: str) -> sparse.csr_matrix:
    from scipy.io import mmread

    try:
        return sparse.csr_matrix(mmread(file))
    except UNREADABLE as error:
        raise InputError(f"the file cannot be read as MTX ({error}).", dataset=dataset, file=file) from error


def _names(file: Path, dataset: str) -> pd.Index:
    """The first column of a text file without header."""
    try:
        first = pd.read_csv(file, sep="\t", header=None, usecols=[0], dtype=str, keep_default_na=False)[0]
    except UNREADABLE as error:
        raise InputError(f"the names cannot be read ({error}).", dataset=dataset, file=file) from error
    names: pd.Index = pd.Index(first.to_numpy())
    return names


def _h5ad(file: Path, screen: Screen, dataset: str) -> tuple[sparse.csr_matrix, pd.Index, pd.Index, pd.DataFrame]:
    """Values, sample names, gene names and obs of an h5ad file."""
    import anndata as ad

    with open_hdf5(file, dataset) as opened:
        obs, var = (ad.io.read_elem(member(opened, name, dataset)) for name in ("obs", "var"))
        if screen.counts.layer is None:
            stored = member(opened, "X", dataset)
        else:
            layers = member(opened, "layers", dataset)
            if screen.counts.layer not in layers:
                raise InputError(
                    f"the file has no layer {screen.counts.layer}.",
                    dataset=dataset,
                    file=screen.where("counts.layer"),
                    column="counts.layer",
                    expected=f"one of {', '.join(layers)}" if len(layers) else "no layer, and counts in X",
                )
            stored = layers[screen.counts.layer]
        blocks = [block for _, block in row_blocks(stored)]
    if not blocks:
        raise InputError("the count matrix has no rows.", dataset=dataset, file=file)
    own = with_row_names(obs, dataset, file).apply(text)
    return sparse.vstack(blocks, format="csr"), pd.Index(obs.index.astype(str)), pd.Index(var.index.astype(str)), own


def with_row_names(table: pd.DataFrame, dataset: str, file: Path) -> pd.DataFrame:
    """A table whose row names are columns, too: `index`, and the name that they have.

    Parameters
    ----------
    table
        The table; a description names its columns.
    dataset, file
        For messages.

    Raises
    ------
    InputError
        If the table has a column of that name with other values.
    """
    levels = {name: pd.Series(table.index.get_level_values(n)) for n, name in enumerate(table.index.names) if name is not None}
    if table.index.nlevels == 1:
        levels["index"] = pd.Series(table.index)
    own = table.reset_index(drop=True)
    for name, values in levels.items():
        if name not in own.columns:
            own.insert(0, name, values)
        elif not text(own[name]).equals(text(values)):
            raise InputError(
                f"the row names are called {name}, and a column with other values is, too.",
                dataset=dataset,
                file=file,
                column=str(name),
                expected="one of the two under another name",
            )
    return own
