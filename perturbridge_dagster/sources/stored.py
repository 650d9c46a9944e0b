"""Reading and writing a stored matrix piece by piece, and what counts must be.

Belongs here: opening HDF5 files with errors for people, blocks of rows that bound memory, reading them on all cores, refusing what are
not counts. Does not belong here: what rows and columns mean (the readers), what is done with the blocks.

HDF5 works on one thread at a time, and a compressed file costs most in decompression. So chunks compressed by gzip, or not at all, are
taken from the file as they are and decompressed here, by libdeflate, outside of Python's lock: more than twice as fast as HDF5 on one
core, and on all cores at once. Any other storage is read by HDF5.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import deflate
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.errors import InputError

MAX_ROWS = 100_000
MAX_VALUES = 20_000_000
"""Most rows and most stored values of a block: about 250 MB of CSR."""


class StoredByColumnError(Exception):
    """Rows were asked of a matrix that is stored by column; :func:`open_hdf5` says so to the user."""


@contextmanager
def open_hdf5(file: Path, dataset: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    InputError
        If it cannot be opened, or a read inside the block fails: truncated, damaged, no HDF5 at all, or stored by column where rows
        are read.
    """
    try:
        with h5py.File(file, "r") as opened:
            yield opened
    except StoredByColumnError as error:
        raise InputError(
            f"{error} is stored by column (CSC), and is read by row.",
            dataset=dataset,
            file=file,
            expected="compressed rows (CSR), or a dense matrix",
            advice="Store it by row: adata.X = adata.X.tocsr(), then write the file again.",
        ) from error
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


class Scratch(threading.local):
    """Arrays that a thread uses again for every block, since the system clears each new one, which takes as long as reading it."""

    def array(self, name: str, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of any values, which holds until this thread asks for one of the same name.

        Parameters
        ----------
        name
            What it holds.
        length, dtype
            Its shape and type.
        """
        n_bytes = length * dtype.itemsize
        held: NDArray[np.uint8] | None = self.__dict__.get(name)
        if held is None or len(held) < n_bytes:
            held = self.__dict__[name] = np.empty(n_bytes, np.uint8)
        return held[:n_bytes].view(dtype)


class StoredValues:
    """A one-dimensional dataset, read a range at a time; several threads may read at once.

    Parameters
    ----------
    stored
        The dataset, which must stay open.
    """

    def __init__(self, stored: h5py.Dataset) -> None:
        self._stored, self._name, self._dtype = stored, stored.name, stored.dtype
        # h5py asks the file each time
        self._length = stored.chunks[0] if stored.chunks else 0
        properties = stored.id.get_create_plist()
        self._filters = [properties.get_filter(position)[0] for position in range(properties.get_nfilters())]
        self._where: dict[int, h5py.h5d.StoreInfo] = {}
        if (
            properties.get_layout() == h5py.h5d.CHUNKED
            and set(self._filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
            and (stored.file.driver, stored.file.userblock_size) == ("sec2", 0)
            # a chunk that was never written is not in the file
            and stored.id.get_num_chunks() == -(-len(stored) // self._length)
        ):
            self._descriptor = stored.file.id.get_vfd_handle()
            # all at once: HDF5 goes through them from the first to find one
            stored.id.chunk_iter(lambda chunk: self._where.__setitem__(chunk.chunk_offset[0], chunk))

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> NDArray[Any]:
        """Values from `start` to before `stop`; in `scratch`, if there is one, until this thread reads from this dataset again.

        Raises
        ------
        OSError
            If the file is damaged.
        """
        values = scratch.array(self._name, stop - start, self._dtype) if scratch else np.empty(stop - start, self._dtype)
        if not self._where:
            if stop > start:
                self._stored.read_direct(values, np.s_[start:stop])
            return values
        length = self._length
        for first in range(start // length * length, stop, length):
            within = slice(max(start - first, 0), stop - first)
            part = self._chunk(first)[within]
            at = max(first - start, 0)
            values[at : at + len(part)] = part
        return values

    def _chunk(self, first: int) -> NDArray[Any]:
        n_bytes = self._length * self._dtype.itemsize
        found = self._where[first]
        # as h5py's read_direct_chunk, which would hold Python's lock
        raw: bytes | bytearray = os.pread(self._descriptor, found.size, found.byte_offset)
        for position in reversed(range(len(self._filters))):
            if found.filter_mask >> position & 1:
                continue
            if self._filters[position] == h5py.h5z.FILTER_DEFLATE:
                try:
                    raw = deflate.zlib_decompress(raw, n_bytes)
                except deflate.DeflateError as error:
                    raise OSError(f"the chunk of {self._name} at {first:,} cannot be decompressed: {error}") from error
            else:
                raw = np.frombuffer(raw, np.uint8).reshape(self._dtype.itemsize, -1).T.tobytes()
        if len(raw) != n_bytes:
            raise OSError(f"the chunk of {self._name} at {first:,} has {len(raw):,} bytes instead of {n_bytes:,}")
        return np.frombuffer(raw, self._dtype)


Compressed = tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]
"""Pointers (from 0), indices and values of rows of a CSR matrix, or of columns of a CSC matrix."""


class StoredMatrix:
    """A matrix of an h5ad file, read some rows at a time; of a CSC matrix, some columns. Several threads may read at once.

    Parameters
    ----------
    stored
        A dense dataset (rows × columns), or the group of a CSR or CSC matrix in AnnData's layout. It must stay open.

    Attributes
    ----------
    shape
        Rows and columns.
    by_column
        Whether it is a CSC matrix.

    Raises
    ------
    OSError
        If its pointers do not fit its values.
    """

    def __init__(self, stored: h5py.Dataset | h5py.Group) -> None:
        self.shape = matrix_shape(stored)
        self.by_column = is_by_column(stored)
        self._stored = stored
        length = self.shape[1 if self.by_column else 0]
        if isinstance(stored, h5py.Dataset):
            self._pointer = np.arange(length + 1, dtype=np.int64) * self.shape[1]
            return
        self._pointer = stored["indptr"][:].astype(np.int64, copy=False)
        self._indices, self._values = StoredValues(stored["indices"]), StoredValues(stored["data"])
        n_values = min(len(stored["indices"]), len(stored["data"]))
        if len(self._pointer) != length + 1 or self._pointer[0] != 0 or self._pointer[-1] > n_values or (np.diff(self._pointer) < 0).any():
            raise OSError(f"the pointers of {stored.name} do not fit {length:,} {'columns' if self.by_column else 'rows'}")

    def blocks(self, max_rows: int = MAX_ROWS, max_values: int = MAX_VALUES) -> list[tuple[int, int]]:
        """First row, and row after the last, of each block to read.

        Parameters
        ----------
        max_rows, max_values
            Bounds of a block; a block has at least one row. Rows are columns where the matrix is stored by column.
        """
        n_rows = len(self._pointer) - 1
        if isinstance(self._stored, h5py.Dataset) and self._stored.chunks and max_rows >= self._stored.chunks[0]:
            # a block that ends inside a chunk reads the chunk again
            fitting = min(max_rows, max_values // max(self.shape[1], 1)) // self._stored.chunks[0] * self._stored.chunks[0]
            max_rows = fitting or max_rows
        edges = [0]
        while edges[-1] < n_rows:
            start = edges[-1]
            fitting = int(np.searchsorted(self._pointer, self._pointer[start] + max_values, side="right")) - 1
            edges.append(min(max(fitting, start + 1), start + max_rows, n_rows))
        return list(pairwise(edges))

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> Compressed:
        """Rows from `start` to before `stop`; columns where the matrix is stored by column. Values have the stored type.

        In `scratch`, if there is one, they hold until this thread reads again.
        """
        if isinstance(self._stored, h5py.Dataset):
            dense = self._stored[start:stop]
            rows, columns = np.nonzero(dense)
            return np.searchsorted(rows, np.arange(stop - start + 1)), columns, dense[rows, columns]
        first, last = int(self._pointer[start]), int(self._pointer[stop])
        pointer = self._pointer[start : stop + 1] - first
        return pointer, self._indices.read(first, last, scratch), self._values.read(first, last, scratch)


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

    Raises
    ------
    StoredByColumnError
        If the matrix is stored by column.
    """
    matrix = StoredMatrix(stored)
    if matrix.by_column:
        raise StoredByColumnError(stored.name)
    for start, stop in matrix.blocks(max_rows, max_values):
        pointer, indices, values = matrix.read(start, stop)
        yield start, sparse.csr_matrix((values, indices, pointer), shape=(stop - start, matrix.shape[1]))


def write_rows(opened: h5py.File, blocks: Iterator[sparse.csr_matrix], shape: tuple[int, int], n_values: int) -> None:
    """Write ``X`` of an h5ad file, CSR int64 counts, a block at a time.

    Parameters
    ----------
    opened
        The file, open for writing, without ``X``.
    blocks
        All rows, in order.
    shape, n_values
        Rows and columns, and stored values of all blocks.
    """
    index = np.int32 if n_values <= np.iinfo(np.int32).max else np.int64
    group = opened.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    values, columns = (group.create_dataset(name, (n_values,), dtype) for name, dtype in (("data", np.int64), ("indices", index)))
    pointer = np.zeros(shape[0] + 1, np.int64)
    row = written = 0
    for block in blocks:
        values[written : written + block.nnz], columns[written : written + block.nnz] = block.data, block.indices
        pointer[row + 1 : row + 1 + block.shape[0]] = written + block.indptr[1:]
        row, written = row + block.shape[0], written + block.nnz
    group.create_dataset("indptr", data=pointer.astype(index))


def is_by_column(stored: h5py.Dataset | h5py.Group) -> bool:
    """Whether a matrix is stored as compressed columns."""
    return isinstance(stored, h5py.Group) and str(_attribute(stored, "encoding-type", "h5sparse_format")).startswith("csc")


def matrix_shape(stored: h5py.Dataset | h5py.Group) -> tuple[int, int]:
    """Rows and columns of a stored matrix."""
    rows, columns = stored.shape if isinstance(stored, h5py.Dataset) else _attribute(stored, "shape", "h5sparse_shape")
    return int(rows), int(columns)


def _attribute(stored: h5py.Group, name: str, before: str) -> Any:
    """What AnnData says of a sparse matrix; before version 0.7 it said so by another name."""
    return stored.attrs[name if name in stored.attrs else before]


LARGEST_COUNT = 2**53
"""Above, floating-point numbers leave out whole numbers."""


def are_counts(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value is a whole number of at least 0."""
    whole: NDArray[np.bool_] = (values >= 0) & (values <= LARGEST_COUNT) & (values == np.floor(values))
    return whole


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
        Naming the first row and gene whose value is negative, fractional, not a number, or above 2⁵³.
    """
    values = block.data
    bad = ~are_counts(values)
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
