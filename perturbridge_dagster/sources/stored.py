"""Reading a stored matrix piece by piece, and what counts must be.

Belongs here: opening HDF5 files with errors for people, blocks of rows that bound memory, refusing what are not counts. Does not
belong here: what rows and columns mean (the readers).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.errors import InputError

MAX_ROWS = 100_000
MAX_VALUES = 20_000_000
"""Most rows and most stored values of a block: about 250 MB of CSR."""


@contextmanager
def open_hdf5(file: Path, dataset: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    InputError
        If it cannot be opened, or a read inside the block fails: truncated, damaged, or no HDF5 at all.
    """
    try:
        with h5py.File(file, "r") as opened:
            yield opened
    except OSError as error:
        raise InputError(
            f"the file cannot be read as HDF5: it is truncated, damaged, still compressed, or something else ({error}).",
            dataset=dataset,
            file=file,
            advice="Compare its size with the source's and fetch it again; gunzip a .gz file.",
        ) from error


def member(opened: h5py.File, name: str, dataset: str) -> Any:
    """A group or dataset of an HDF5 file.

    Raises
    ------
    InputError
        If it is not there.
    """
    if name not in opened:
        raise InputError(f"the file has no {name}.", dataset=dataset, file=opened.filename, expected=f"{name} beside {', '.join(opened)}")
    return opened[name]


def row_blocks(
    stored: h5py.Dataset | h5py.Group, *, max_rows: int = MAX_ROWS, max_values: int = MAX_VALUES
) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Rows of a matrix of an h5ad file, a block at a time.

    Parameters
    ----------
    stored
        A dense dataset (rows × columns), or the group of a CSR matrix in AnnData's layout.
    max_rows, max_values
        Bounds of a block; a block has at least one row.

    Yields
    ------
    First row of the block, and the block.
    """
    n_rows, n_columns = matrix_shape(stored)
    row_pointer = (
        stored["indptr"][:].astype(np.int64) if isinstance(stored, h5py.Group) else np.arange(n_rows + 1, dtype=np.int64) * n_columns
    )
    start = 0
    while start < n_rows:
        fitting = int(np.searchsorted(row_pointer, row_pointer[start] + max_values, side="right")) - 1
        stop = min(max(fitting, start + 1), start + max_rows, n_rows)
        if isinstance(stored, h5py.Group):
            values = slice(row_pointer[start], row_pointer[stop])
            parts = (stored["data"][values], stored["indices"][values], row_pointer[start : stop + 1] - row_pointer[start])
            yield start, sparse.csr_matrix(parts, shape=(stop - start, n_columns))
        else:
            yield start, sparse.csr_matrix(stored[start:stop])
        start = stop


def matrix_shape(stored: h5py.Dataset | h5py.Group) -> tuple[int, int]:
    """Rows and columns of a stored matrix."""
    rows, columns = stored.shape if isinstance(stored, h5py.Dataset) else stored.attrs["shape"]
    return int(rows), int(columns)


def as_counts(block: sparse.csr_matrix, rows: pd.Index, genes: pd.Index, dataset: str, file: Path) -> sparse.csr_matrix:
    """A block as int64 counts.

    Parameters
    ----------
    block
        Rows × genes.
    rows, genes
        Names of its rows and columns.

    Raises
    ------
    InputError
        Naming the first row and gene whose value is negative, fractional or not a number.
    """
    values = block.data
    bad = ~((values >= 0) & np.isfinite(values) & (values == np.floor(values)))
    if bad.any():
        position = int(np.argmax(bad))
        row = int(np.searchsorted(block.indptr, position, side="right")) - 1
        raise InputError(
            f"{values[position]} of gene {genes[block.indices[position]]} is not a count; {int(bad.sum()):,} values are not.",
            dataset=dataset,
            file=file,
            rows=[rows[row]],
            expected="whole numbers of at least 0",
            advice="Use the raw counts, not normalized or log-transformed values.",
        )
    return block.astype(np.int64)
