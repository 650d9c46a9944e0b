"""Sums of the cells of samples, and what filters need to know of a cell, by compiled loops over compressed rows.

Belongs here: adding blocks of cells to samples on all cores, in memory that the result bounds. Does not belong here: reading blocks
(``stored.py``), which cells are added to which sample (``single_cell.py``).

Samples lie in tiles of neighbouring samples, each with a lock, so that cores add to one set of sums at once. A tile begins as a hash table
of (sample, gene) → sum, 13 to 26 bytes a non-zero sum. Once about one sum in ten is not zero, it becomes an array, 4 bytes a sum, to
which adding is several times as fast. Where a sum could pass 31 bits, the tile's sums take 8 bytes. So however many cells there are, the
sums take no more than the array, nor more than four times the result, which takes 12 bytes a non-zero sum; beyond that only
``_SMALL``, up to which there are arrays from the start.
"""

from __future__ import annotations

import math
from mmap import mmap
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.compiled import compiled, on_all_cores
from perturbridge_dagster.sources.stored import LARGEST_COUNT, Compressed, Scratch

MITOCHONDRIAL, MALAT1 = 1, 2
"""Kinds of genes that filters look at; bits of one number a gene."""

_TILE_SUMS = 2_000_000
"""Samples × genes of a tile: enough tiles for all cores, and few enough that taking locks costs nothing."""

_SMALL = 2**28
"""Bytes up to which all samples × genes are arrays from the start."""

_ARRAY_FOR_TABLE = 4
"""An array may take so many times what the table takes."""

_MOST_TILES = 256
_LEAST_SLOTS = 1024
_MOST_FULL = 5 / 8
"""Share of a table that may be taken; fuller ones are searched for long."""

_FREE = np.uint32(0xFFFFFFFF)
_GOLDEN = np.uint64(2654435769)  # 2³² / golden ratio: neighbouring genes land far apart


@compiled
def _convert(values: NDArray[Any], largest: int, counts: NDArray[Any]) -> bool:
    """Write values as integers; whether each is one, and neither negative nor above `largest`. Without branches, so that it is fast."""
    wrong = 0
    for k in range(len(values)):
        counts[k] = values[k]
        # NaN differs from every count
        wrong += (np.float64(counts[k]) != np.float64(values[k])) | (counts[k] < 0) | (values[k] > largest)
    return wrong == 0


@compiled
def _all_below(genes: NDArray[Any], n_genes: int) -> bool:
    wrong = 0
    for k in range(len(genes)):
        wrong += genes[k] >= np.uint64(n_genes)
    return wrong == 0


def plain(block: Compressed, n_genes: int, scratch: Scratch) -> Compressed | None:
    """A block in one of the few types for which loops are compiled.

    Parameters
    ----------
    block
        Cells × genes, as stored.
    n_genes
        Columns of the matrix.
    scratch
        Where counts are written; they hold until this thread calls again.

    Returns
    -------
    Pointers int64, genes uint32 or uint64, counts int32, or int64 where one passes 31 bits. None if a value is not a count, or belongs to
    no gene.
    """
    pointer, genes, values = block
    if genes.dtype not in (np.int32, np.int64):
        genes = genes.astype(np.int64)
    # what is negative becomes large
    genes = genes.view(f"u{genes.itemsize}")
    if values.dtype not in (np.int32, np.int64, np.float32, np.float64):
        values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    if not _all_below(genes, n_genes):
        return None
    for dtype in (np.int32, np.int64):
        counts = scratch.array("counts", len(values), np.dtype(dtype))
        if _convert(values, min(LARGEST_COUNT, int(np.iinfo(dtype).max)), counts):
            return pointer, genes, counts
    return None


@compiled
def _examine(block: Compressed, kind: NDArray[np.uint8], any_kind: bool, n_genes: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
    pointer, genes, counts = block
    seen = np.full(len(kind), -1, dtype=np.int64)
    for cell in range(len(pointer) - 1):
        start, stop = pointer[cell], pointer[cell + 1]
        found, total, descents = 0, 0, 0
        for k in range(start, stop):
            found += counts[k] > 0
            total += counts[k]
        for k in range(start + 1, stop):
            descents += genes[k] <= genes[k - 1]
        if descents:
            # a gene that is there twice is one gene
            found = 0
            for k in range(start, stop):
                if counts[k] > 0 and seen[genes[k]] != cell:
                    seen[genes[k]] = cell
                    found += 1
        n_genes[cell], sums[cell, 0] = found, total
        if any_kind:
            mitochondrial, malat1 = 0, 0
            for k in range(start, stop):
                of_gene = kind[genes[k]]
                if of_gene:
                    mitochondrial += counts[k] if of_gene & MITOCHONDRIAL else 0
                    malat1 += counts[k] if of_gene & MALAT1 else 0
            sums[cell, 1], sums[cell, 2] = mitochondrial, malat1


@compiled
def _totals(block: Compressed, total: NDArray[np.int64]) -> None:
    pointer, _, counts = block
    for cell in range(len(pointer) - 1):
        total[cell] = counts[pointer[cell] : pointer[cell + 1]].sum()


def totals(block: Compressed) -> NDArray[np.int64]:
    """Counts of each cell of a block from :func:`plain`: all that adding it needs to know."""
    total = np.empty(len(block[0]) - 1, np.int64)
    _totals(block, total)
    return total


def examine(block: Compressed, kind: NDArray[np.uint8], n_genes: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
    """What filters look at in each cell of a block.

    Parameters
    ----------
    block
        Cells × genes, from :func:`plain`.
    kind
        Of each gene, ``MITOCHONDRIAL`` and ``MALAT1`` or 0.
    n_genes, sums
        Where results go: genes with a count of each cell; its counts, mitochondrial counts and MALAT1 counts, cells × 3.
    """
    _examine(block, kind, bool(kind.any()), n_genes, sums)


@compiled
def _add_to_array(array: NDArray[Any], block: Compressed, cells: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    pointer, genes, counts = block
    for position in range(len(cells)):
        cell, row = cells[position], array[rows[position]]
        for k in range(pointer[cell], pointer[cell + 1]):
            row[genes[k]] += counts[k]


@compiled
def _slot(keys: NDArray[np.uint32], key: int, shift: int) -> np.uint64:
    """Where a key lies in a table, or belongs."""
    slot = ((np.uint64(key) * _GOLDEN) & np.uint64(0xFFFFFFFF)) >> np.uint64(shift)
    last = np.uint64(len(keys) - 1)
    while keys[slot] != _FREE and keys[slot] != key:
        slot = (slot + np.uint64(1)) & last
    return slot


@compiled
def _add_to_table(
    keys: NDArray[np.uint32],
    sums: NDArray[Any],
    taken: NDArray[np.int64],
    most: int,
    n_genes: int,
    block: Compressed,
    cells: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """Add cells until the next might not find room; how many were added."""
    pointer, genes, counts = block
    shift = 32
    while 1 << (32 - shift) < len(keys):
        shift -= 1
    for position in range(len(cells)):
        cell, first = cells[position], rows[position] * n_genes
        if taken[0] + pointer[cell + 1] - pointer[cell] > most:
            return position
        for k in range(pointer[cell], pointer[cell + 1]):
            if counts[k] > 0:
                key = first + np.int64(genes[k])
                slot = _slot(keys, key, shift)
                if keys[slot] == _FREE:
                    keys[slot] = key
                    taken[0] += 1
                sums[slot] += counts[k]
    return len(cells)


@compiled
def _move_to_table(keys: NDArray[np.uint32], sums: NDArray[Any], from_keys: NDArray[np.uint32], from_sums: NDArray[Any]) -> None:
    shift = 32
    while 1 << (32 - shift) < len(keys):
        shift -= 1
    for k in range(len(from_keys)):
        if from_keys[k] != _FREE:
            slot = _slot(keys, from_keys[k], shift)
            keys[slot] = from_keys[k]
            sums[slot] = from_sums[k]


@compiled
def _write_array(array: NDArray[Any], pointer: NDArray[np.int64], genes: NDArray[Any], sums: NDArray[np.int64]) -> None:
    for row in range(len(array)):
        k = pointer[row]
        for gene in range(array.shape[1]):
            if array[row, gene] != 0:
                genes[k], sums[k] = gene, array[row, gene]
                k += 1


def _zeros(shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros whose memory the system has back once they are gone, so that a tile and its part of the result are never there at once."""
    return np.frombuffer(mmap(-1, max(math.prod(shape) * dtype.itemsize, 1)), dtype, math.prod(shape)).reshape(shape)


class _Tile:
    """Sums of neighbouring samples, in a table or an array."""

    def __init__(self, n_rows: int, n_genes: int, *, as_array: bool) -> None:
        self.lock = Lock()
        self.shape = (n_rows, n_genes)
        self.total = 0
        self.keys: NDArray[np.uint32] | None = np.full(_LEAST_SLOTS, _FREE)
        self.sums: NDArray[Any] = np.zeros(_LEAST_SLOTS, np.int32)
        self.taken = np.zeros(1, np.int64)
        if as_array or not self._table_is_smaller(_LEAST_SLOTS):
            self._become_array()

    def add(self, block: Compressed, cells: NDArray[np.int64], rows: NDArray[np.int64], total: int) -> None:
        """Add cells of a block to rows of the tile; `total` is the sum of their counts, which no sum can pass."""
        self.total += total
        if self.total > np.iinfo(np.int32).max:
            self.sums = self.sums.astype(np.int64, copy=False)
        done = 0
        while self.keys is not None and done < len(cells):
            most = int(len(self.keys) * _MOST_FULL)
            done += int(_add_to_table(self.keys, self.sums, self.taken, most, self.shape[1], block, cells[done:], rows[done:]))
            if done < len(cells):
                self._grow()
        if done < len(cells):
            _add_to_array(self.sums, block, cells[done:], rows[done:])

    def _table_is_smaller(self, n_slots: int) -> bool:
        size = self.sums.itemsize
        return n_slots * (4 + size) * _ARRAY_FOR_TABLE < self.shape[0] * self.shape[1] * size

    def _grow(self) -> None:
        assert self.keys is not None
        n_slots = 2 * len(self.keys)
        if not self._table_is_smaller(n_slots):
            self._become_array()
            return
        keys, sums = np.full(n_slots, _FREE), np.zeros(n_slots, self.sums.dtype)
        _move_to_table(keys, sums, self.keys, self.sums)
        self.keys, self.sums = keys, sums

    def _become_array(self) -> None:
        assert self.keys is not None
        array = _zeros(self.shape, self.sums.dtype)
        taken = self.keys != _FREE
        array.ravel()[self.keys[taken]] = self.sums[taken]
        self.keys, self.sums = None, array

    def n_sums(self) -> NDArray[np.int64]:
        """Non-zero sums of each row."""
        if self.keys is None:
            return np.array([np.count_nonzero(row) for row in self.sums])
        return np.bincount(self.keys[self.keys != _FREE] // self.shape[1], minlength=self.shape[0])

    def move(self, pointer: NDArray[np.int64], genes: NDArray[Any], sums: NDArray[np.int64]) -> None:
        """Move the non-zero sums, by row and gene, to where `pointer` says that rows begin."""
        if self.keys is None:
            _write_array(self.sums, pointer, genes, sums)
        else:
            taken = np.flatnonzero(self.keys != _FREE)
            taken = taken[np.argsort(self.keys[taken])]
            where = slice(pointer[0], pointer[-1])
            genes[where], sums[where] = self.keys[taken] % self.shape[1], self.sums[taken]
        self.keys, self.sums = None, np.zeros((0, self.shape[1]), self.sums.dtype)


class SampleSums:
    """Sums of samples × genes, to which several threads may add at once.

    Parameters
    ----------
    n_samples, n_genes
        Their shape.
    """

    def __init__(self, n_samples: int, n_genes: int) -> None:
        self._shape = (n_samples, n_genes)
        height = max(_TILE_SUMS // max(n_genes, 1), -(-n_samples // _MOST_TILES), 1)
        # a key numbers all sums of a tile, and one number means free
        self._height = min(height, int(_FREE) // max(n_genes, 1))
        starts = range(0, n_samples, self._height)
        small = n_samples * n_genes * 4 <= _SMALL
        self._tiles = [_Tile(min(self._height, n_samples - start), n_genes, as_array=small) for start in starts]

    def add(self, block: Compressed, sample: NDArray[np.int64], totals: NDArray[np.int64]) -> None:
        """Add a block of cells.

        Parameters
        ----------
        block
            Cells × genes, from :func:`plain`.
        sample
            Row of each cell's sample; -1 for a cell that is not added.
        totals
            Counts of each cell.
        """
        # cells of a sample one after another, so that its sums stay in the cache
        cells = np.argsort(sample, kind="stable")
        cells = cells[np.searchsorted(sample[cells], 0) :]
        edges = np.searchsorted(sample[cells], np.arange(len(self._tiles) + 1) * self._height)
        busy = []
        for tile in np.flatnonzero(np.diff(edges)).tolist():
            # what another thread adds to now is left for last
            if self._tiles[tile].lock.acquire(blocking=False):
                self._add_to(tile, block, cells[edges[tile] : edges[tile + 1]], sample, totals)
            else:
                busy.append(tile)
        for tile in busy:
            self._tiles[tile].lock.acquire()
            self._add_to(tile, block, cells[edges[tile] : edges[tile + 1]], sample, totals)

    def _add_to(
        self, number: int, block: Compressed, cells: NDArray[np.int64], sample: NDArray[np.int64], totals: NDArray[np.int64]
    ) -> None:
        """Add cells to a tile whose lock this thread holds, and release it."""
        tile = self._tiles[number]
        try:
            tile.add(block, cells, sample[cells] - number * self._height, int(totals[cells].sum()))
        finally:
            tile.lock.release()

    def to_csr(self) -> sparse.csr_matrix:
        """Samples × genes, CSR int64, sorted, without zeros. The sums are gone afterwards, so that memory holds them once."""
        n_genes = self._shape[1]
        tiles, self._tiles = self._tiles, []
        pointer = np.concatenate([[0], *(tile.n_sums() for tile in tiles)]).cumsum().astype(np.int64)
        index_dtype = np.int32 if max(pointer[-1], n_genes) <= np.iinfo(np.int32).max else np.int64
        genes, sums = np.empty(pointer[-1], index_dtype), np.empty(pointer[-1], np.int64)

        def write(position: int) -> None:
            tile = tiles[position]
            start = position * self._height
            tile.move(pointer[start : start + tile.shape[0] + 1], genes, sums)

        on_all_cores(write, range(len(tiles)))
        total = sparse.csr_matrix((sums, genes, pointer.astype(index_dtype)), shape=self._shape)
        total.has_canonical_format = True
        return total
