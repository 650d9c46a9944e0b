"""Rows of counts between two passes: in memory while they are few, else in a file without a name.

A reader reads all counts before it knows which samples it keeps; the standardiser reads all samples before it knows where each lies in
the result. Belongs here: keeping rows meanwhile, and giving any of them back. Does not belong here: what rows mean (the readers,
``assemble.py``), where native matrices lie (``stored.py``).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from os import SEEK_END
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.errors import PerturbridgeError

IN_MEMORY = 2**28
"""Bytes of rows that are kept in memory; more go to a file."""

AT_ONCE = 2**22
"""Values that are read or written at once: 50 MB as a matrix."""

_folder: ContextVar[Path | None] = ContextVar("spill folder", default=None)


@contextmanager
def spilling_to(folder: Path) -> Iterator[None]:
    """Have rows, and results that are too large for memory, kept in a folder while the block runs.

    Parameters
    ----------
    folder
        A folder on a disk with room: up to 8 bytes a non-zero count, twice while rows are ordered, and 12 for the result.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def spill_folder() -> Path:
    """Where rows go: the folder of :func:`spilling_to`, else the system's folder for temporary files (``TMPDIR``)."""
    return _folder.get() or Path(gettempdir())


class _Block(NamedTuple):
    """Rows that were appended together, and where in the file their columns and values begin."""

    first_row: int
    pointer: NDArray[np.int64]
    columns_at: int
    values_at: int
    dtype: np.dtype[Any]


class SpilledRows:
    """Compressed rows, appended block by block and read in any order.

    Whole numbers take 4 bytes in the file where they fit. Reading gives them the type that they came in. Not for several threads.

    Attributes
    ----------
    n_rows, n_values
        Rows, and stored values, so far.
    """

    def __init__(self) -> None:
        self.n_rows = self.n_values = 0
        self._n_columns = 0
        self._dtype: np.dtype[Any] = np.dtype(np.int64)
        self._blocks: list[_Block] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._totals: list[NDArray[Any]] = []
        # its name is gone once it is open, so it takes no room longer than this object lives
        self._file: IO[bytes] = SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(spill_folder()))  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def append(self, block: sparse.csr_matrix) -> None:
        """Add rows at the end.

        Parameters
        ----------
        block
            Rows × columns, as many columns in each block.

        Raises
        ------
        PerturbridgeError
            If the disk has no room.
        ValueError
            If the block has another number of columns than the first.
        """
        if self._blocks and block.shape[1] != self._n_columns:
            raise ValueError(f"a block of {block.shape[1]:,} columns after one of {self._n_columns:,}")
        self._n_columns = block.shape[1]
        self._dtype = np.result_type(self._dtype, block.dtype) if self._blocks else block.dtype
        pointer = block.indptr.astype(np.int64)
        columns_at = self._end()
        self._write(block.indices, np.dtype(np.int32))
        values_at = self._end()
        narrow = _narrow(block.data)
        self._write(block.data, narrow)
        self._blocks.append(_Block(self.n_rows, pointer, columns_at, values_at, narrow))
        self._lengths.append(np.diff(pointer))
        self._totals.append(np.asarray(block.sum(axis=1)).ravel())
        self.n_rows += block.shape[0]
        self.n_values += int(pointer[-1])

    def totals(self) -> NDArray[Any]:
        """Sum of each row."""
        return np.concatenate([np.zeros(0, self._dtype), *self._totals])

    def read(self, rows: NDArray[np.integer[Any]]) -> sparse.csr_matrix:
        """Some rows, in the order that is asked for.

        Parameters
        ----------
        rows
            Numbers of rows.

        Returns
        -------
        CSR of the type in which values came, held once; columns of a row lie as they came.
        """
        rows = np.asarray(rows, np.int64)
        pointer = np.concatenate([[0], np.cumsum(self._row_lengths()[rows])]).astype(np.int64)
        columns, values = np.empty(pointer[-1], np.int32), np.empty(pointer[-1], self._dtype)
        block = np.searchsorted([one.first_row for one in self._blocks], rows, side="right") - 1
        # rows that lie one after another are read together
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(block) != 0)) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else []):
            one = self._blocks[block[start]]
            first, last = (int(one.pointer[row - one.first_row]) for row in (rows[start], rows[stop - 1] + 1))
            where = slice(pointer[start], pointer[stop])
            columns[where] = self._read(one.columns_at, first, last, np.dtype(np.int32))
            values[where] = self._read(one.values_at, first, last, one.dtype)
        index = np.int32 if pointer[-1] <= np.iinfo(np.int32).max else np.int64
        return sparse.csr_matrix(
            (values, columns.astype(index, copy=False), pointer.astype(index)), shape=(len(rows), self._n_columns), copy=False
        )

    def blocks(self, rows: NDArray[np.integer[Any]], max_values: int = AT_ONCE) -> Iterator[sparse.csr_matrix]:
        """Some rows, in the order that is asked for, a block at a time.

        Parameters
        ----------
        rows
            Numbers of rows.
        max_values
            Most values of a block; a block has at least one row.
        """
        ends = np.cumsum(self._row_lengths()[rows])
        start = 0
        while start < len(rows):
            before = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, before + max_values, side="right")), start + 1)
            yield self.read(rows[start:stop])
            start = stop

    def selected(self, selected: NDArray[np.bool_]) -> Iterator[sparse.csr_matrix]:
        """The rows for which `selected` is true, in order, a block at a time."""
        yield from self.blocks(np.flatnonzero(selected))

    def _row_lengths(self) -> NDArray[np.int64]:
        if len(self._lengths) > 1:
            self._lengths = [np.concatenate(self._lengths)]
        return self._lengths[0] if self._lengths else np.zeros(0, np.int64)

    def _end(self) -> int:
        return self._file.seek(0, SEEK_END)

    def _write(self, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write at the end of the file."""
        for start in range(0, len(values), AT_ONCE):
            part = np.ascontiguousarray(values[start : start + AT_ONCE], dtype)
            try:
                self._file.write(part.data)
            except OSError as error:
                raise PerturbridgeError(
                    f"{spill_folder()} has no room for the counts that are kept there meanwhile ({error}). "
                    "Let TMPDIR name a folder on a larger disk, or the platform's home lie on one."
                ) from error

    def _read(self, at: int, first: int, last: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        self._file.seek(at + first * dtype.itemsize)
        return np.frombuffer(self._file.read((last - first) * dtype.itemsize), dtype)


def _narrow(values: NDArray[Any]) -> np.dtype[Any]:
    """The type in which values take least room without loss: int32 for integers that fit, else their own."""
    if values.dtype.kind in "iu" and len(values) and int(values.min()) >= -(2**31) and int(values.max()) < 2**31:
        return np.dtype(np.int32)
    return values.dtype
