"""The values of a table of effects of any size, tile by tile, in bounded memory.

Every P value is adjusted against those of all genes of its contrast and of all contrasts of the stratum, so values cross the table twice:
they come from the fit by blocks of genes, lie in scratch files in the order of tiles, and leave by rows of tiles. Plain reads and writes
are used, since mapped pages would count as memory. Belongs here: the tiles, the scratch files and the adjustment across all of them.
Does not belong here: what is computed of one block (``table.py``, ``p_values.py``), and the files that last (``storage.py``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.compiled import compiled, n_cores, on_all_cores
from perturbridge_dagster.contract import EFFECTS
from perturbridge_dagster.effects.p_values import adjust_in_order, adjusted_log10_p, log10_p_values
from perturbridge_dagster.effects.table import (
    SIGNIFICANT,
    Array,
    EffectTable,
    ModeratedFit,
    moderated_t,
    spread_genes,
    sums_of_abs_t,
    with_summaries,
)

LAYERS = tuple(name for name in EFFECTS.names if name not in ("contrast", "gene"))
"""Stored layers, the value columns of ``contract.EFFECTS``."""

MEMORY = 3 * 2**29
"""Memory that streaming may take, beside what the fit itself needs for a block. Unit: bytes."""

GENES_AT_A_TIME = 500
"""Genes of a tile."""

_BYTES_A_VALUE = 40
"""Memory of one contrast × gene while a block of the fit, a chunk or a group of P values is at work, temporaries included."""

_LARGEST_GROUP = 2**18
"""P values that one core sorts at a time; larger groups leave its cache."""

_LARGEST_CHUNK = 2**22
"""Values that are read at a time."""

_MOST_BITS = 22
"""P values are told apart by so many binary digits at a time, or fewer where they are few; then a bin of 10⁹ of them is small."""

Key = NDArray[np.uint64]
_INFINITE = np.uint64(0x7FF0000000000000)  # larger ones are NaN


@dataclass(frozen=True)
class Tiles:
    """How contrasts × genes are cut into tiles, and their order: by rows of tiles, each from left to right.

    Attributes
    ----------
    n_contrasts, n_genes
        Shape of the table.
    contrasts, genes
        Shape of a tile. Tiles at the end are smaller.
    """

    n_contrasts: int
    n_genes: int
    contrasts: int
    genes: int

    @property
    def per_row(self) -> int:
        """Tiles side by side."""
        return -(-self.n_genes // self.genes)

    def rows(self) -> Iterator[slice]:
        """Contrasts of each row of tiles."""
        for first in range(0, self.n_contrasts, self.contrasts):
            yield slice(first, min(first + self.contrasts, self.n_contrasts))

    def columns(self, n: int = 1) -> Iterator[slice]:
        """Genes of each `n` tiles side by side."""
        for left in range(0, self.n_genes, n * self.genes):
            yield slice(left, min(left + n * self.genes, self.n_genes))

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Contrasts and genes of each tile, in file order."""
        for rows in self.rows():
            for columns in self.columns():
                yield rows, columns

    def start(self, rows: slice, left: int) -> int:
        """Values before the tile of these contrasts whose first gene is `left`, where values lie in the order of tiles."""
        return int(rows.start) * self.n_genes + left * int(rows.stop - rows.start)


class _Scratch:
    """Values in a file that has no name, so that it is gone when it is closed, whatever happens."""

    def __init__(self, dtype: type[np.generic], folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - the owner closes it
        self.dtype = np.dtype(dtype)

    def close(self) -> None:
        self._file.close()

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write values from position `start` on, cast."""
        left = np.ascontiguousarray(values, dtype=self.dtype).reshape(-1).data.cast("B")
        at = start * self.dtype.itemsize
        while left:
            written = os.pwrite(self._file.fileno(), left, at)
            left, at = left[written:], at + written

    def read(self, start: int, n: int) -> NDArray[Any]:
        """Read `n` values from position `start` on."""
        values = np.empty(n, dtype=self.dtype)
        left = values.data.cast("B")
        at = start * self.dtype.itemsize
        while left:
            read = os.preadv(self._file.fileno(), [left], at)
            if not read:
                raise EOFError(f"a scratch file ends before value {start + n:,}")
            left, at = left[read:], at + read
        return values


# ---- adjusting P values that do not fit into memory --------------------------------------------------------------------------


@compiled
def _extremes(keys: Key) -> tuple[np.uint64, np.uint64, int]:
    """Smallest key, largest key, and number of keys, without NaN."""
    lowest, highest, n = _INFINITE, np.uint64(0), 0
    for key in keys:
        if key <= _INFINITE:
            lowest, highest, n = min(lowest, key), max(highest, key), n + 1
    return lowest, highest, n


@compiled
def _count(keys: Key, lowest: np.uint64, shift: np.uint64, counts: NDArray[np.int64]) -> None:
    """Add the keys of each bin."""
    for key in keys:
        if key <= _INFINITE:
            counts[(key - lowest) >> shift] += 1


@compiled
def _sizes(keys: Key, lowest: np.uint64, shift: np.uint64, group_of_bin: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
    """Add the keys of each group."""
    for key in keys:
        if key <= _INFINITE:
            sizes[group_of_bin[(key - lowest) >> shift]] += 1


@compiled
def _part(keys: Key, lowest: np.uint64, shift: np.uint64, group_of_bin: NDArray[np.int64], starts: NDArray[np.int64]) -> Key:
    """Keys by group, within a group in the order in which they come; `starts` says where each group starts, and where the last ends."""
    parted = np.empty(starts[-1], dtype=np.uint64)
    filled = starts.copy()
    for key in keys:
        if key <= _INFINITE:
            group = group_of_bin[(key - lowest) >> shift]
            parted[filled[group]] = key
            filled[group] += 1
    return parted


@compiled
def _unpart(
    keys: Key,
    lowest: np.uint64,
    shift: np.uint64,
    group_of_bin: NDArray[np.int64],
    parted: NDArray[np.float32],
    starts: NDArray[np.int64],
    bounds: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Undo :func:`_part` for values that belong to the keys, none above the bound of its group; NaN where the key is."""
    values = np.empty(len(keys), dtype=np.float32)
    filled = starts.copy()
    for i, key in enumerate(keys):
        if key <= _INFINITE:
            group = group_of_bin[(key - lowest) >> shift]
            values[i] = min(parted[filled[group]], bounds[group])
            filled[group] += 1
        else:
            values[i] = np.nan
    return values


@compiled
def _grouped(counts: NDArray[np.int64], largest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put neighbouring bins into groups of at most `largest` values: group of each bin, size of each group.

    A bin of more is a group of its own.
    """
    group_of_bin = np.empty(len(counts), dtype=np.int64)
    sizes = np.zeros(len(counts), dtype=np.int64)
    group = 0
    for each, count in enumerate(counts):
        if sizes[group] and sizes[group] + count > largest:
            group += 1
        sizes[group] += count
        group_of_bin[each] = group
    return group_of_bin, sizes[: group + 1].copy()


@dataclass(frozen=True)
class _Region:
    """A stretch of a scratch file."""

    scratch: _Scratch
    start: int
    n: int

    def chunks(self, step: int) -> list[_Region]:
        """The stretch in pieces."""
        return [_Region(self.scratch, self.start + done, min(step, self.n - done)) for done in range(0, self.n, step)]

    def keys(self) -> Key:
        """Keys of log10 P values: bits of −log10 P, which order as the numbers do."""
        keys: Key = np.abs(self.scratch.read(self.start, self.n)).view(np.uint64)
        return keys


class _Adjustment:
    """Adjusting P values by Benjamini and Hochberg, however many, in bounded memory and exactly.

    The adjusted value of a P value of rank r among n is the smallest P'·n/r' at or above it. So P values are parted into groups that
    follow one another and fit into memory, all groups are adjusted, each by itself, and what a group above found bounds those below.
    A group keeps the order in which its values lie in the file, so that going back needs no positions, only the same walk.
    """

    def __init__(self, n_tests: int, folder: Path | None, memory: int) -> None:
        self._log10_n = np.log10(n_tests) if n_tests else 0.0
        self._folder = folder
        self._group = min(_LARGEST_GROUP, max(1, memory // (_BYTES_A_VALUE * n_cores())))
        self._chunk = min(_LARGEST_CHUNK, max(1, memory // (_BYTES_A_VALUE * n_cores())))

    def adjust(self, source: _Region, into: _Region, n_below: int) -> float:
        """Adjust the log10 P values of a stretch, without regard to those above.

        Parameters
        ----------
        source
            log10 P values, float64.
        into
            Takes as many log10 adjusted P values, float32.
        n_below
            Smaller P values elsewhere.

        Returns
        -------
        float
            The smallest adjusted value.
        """
        if source.n <= self._group:
            return self._adjust_group(source, into, n_below)
        chunks = source.chunks(self._chunk)
        found: list[tuple[np.uint64, np.uint64, int]] = [(_INFINITE, np.uint64(0), 0)] * len(chunks)

        def find(number: int) -> None:
            found[number] = _extremes(chunks[number].keys())

        on_all_cores(find, range(len(chunks)))
        lowest, highest, n = min(each[0] for each in found), max(each[1] for each in found), sum(each[2] for each in found)
        if lowest >= highest:
            return self._adjust_equal(chunks, source, into, n_below + n)
        shift = np.uint64(max(0, int(highest - lowest).bit_length() - min(_MOST_BITS, n.bit_length())))
        group_of_bin, sizes = _grouped(self._counts(chunks, lowest, shift, (int(highest - lowest) >> int(shift)) + 1), self._group)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        # groups of each chunk: how many values, where in the chunk's own order, and where in the file of all groups
        of_chunk = np.zeros((len(chunks), len(sizes)), dtype=np.int64)
        on_all_cores(lambda number: _sizes(chunks[number].keys(), lowest, shift, group_of_bin, of_chunk[number]), range(len(chunks)))
        at = np.concatenate([np.zeros((len(chunks), 1), dtype=np.int64), np.cumsum(of_chunk, axis=1)], axis=1)
        filled = starts[:-1] + np.cumsum(of_chunk, axis=0) - of_chunk
        smallest = np.zeros(len(sizes))
        with ExitStack() as stack:
            parted, adjusted = _Scratch(np.float64, self._folder), _Scratch(np.float32, self._folder)
            stack.callback(parted.close)
            stack.callback(adjusted.close)

            def part(number: int) -> None:
                values = -_part(chunks[number].keys(), lowest, shift, group_of_bin, at[number]).view(np.float64)
                for group in np.flatnonzero(of_chunk[number]):
                    parted.write(int(filled[number, group]), values[at[number, group] : at[number, group + 1]])

            on_all_cores(part, range(len(chunks)))

            def adjust_group(group: int) -> None:
                start, size = int(starts[group]), int(sizes[group])
                # groups go from the largest P to the smallest
                below = n_below + int(starts[-1] - starts[group + 1])
                smallest[group] = self.adjust(_Region(parted, start, size), _Region(adjusted, start, size), below)

            on_all_cores(adjust_group, np.flatnonzero(sizes <= self._group).tolist())
            for large in np.flatnonzero(sizes > self._group).tolist():
                adjust_group(large)
            bounds = np.concatenate([[0.0], np.minimum.accumulate(smallest)[:-1]]).astype(np.float32)

            def unpart(number: int) -> None:
                chunk, pieces = chunks[number], np.empty(at[number, -1], dtype=np.float32)
                for group in np.flatnonzero(of_chunk[number]):
                    pieces[at[number, group] : at[number, group + 1]] = adjusted.read(
                        int(filled[number, group]), int(of_chunk[number, group])
                    )
                values = _unpart(chunk.keys(), lowest, shift, group_of_bin, pieces, at[number], bounds)
                into.scratch.write(into.start + chunk.start - source.start, values)

            on_all_cores(unpart, range(len(chunks)))
        return float(smallest.min())

    def _counts(self, chunks: list[_Region], lowest: np.uint64, shift: np.uint64, n_bins: int) -> NDArray[np.int64]:
        """Values of each bin; every core counts its share of the chunks."""
        of_core = np.zeros((n_cores(), n_bins), dtype=np.int64)

        def count(core: int) -> None:
            for chunk in chunks[core :: len(of_core)]:
                _count(chunk.keys(), lowest, shift, of_core[core])

        on_all_cores(count, range(len(of_core)))
        counts: NDArray[np.int64] = of_core.sum(axis=0)
        return counts

    def _adjust_group(self, source: _Region, into: _Region, n_below: int) -> float:
        """Values that fit into memory."""
        log10_p = source.scratch.read(source.start, source.n)
        n = np.count_nonzero(~np.isnan(log10_p))
        order = np.argsort(log10_p)[:n]  # NaN last
        adjusted = np.full(source.n, np.nan)
        smallest = adjust_in_order(log10_p, order, np.log10(np.arange(n_below + 1, n_below + n + 1)), self._log10_n, adjusted)
        into.scratch.write(into.start, adjusted)
        return float(smallest)

    def _adjust_equal(self, chunks: list[_Region], source: _Region, into: _Region, last_rank: int) -> float:
        """Values that are all equal, or all NaN: the last rank decides."""
        smallest = 0.0
        for chunk in chunks:
            log10_p = -chunk.keys().view(np.float64)
            adjusted = np.minimum(log10_p + self._log10_n - np.log10(np.float64(max(last_rank, 1))), 0.0)
            smallest = float(np.fmin.reduce(adjusted, initial=smallest))
            into.scratch.write(into.start + chunk.start - source.start, adjusted)
        return smallest


# ---- the stream --------------------------------------------------------------------------------------------------------------


class EffectStream:
    """The stored layers of a table, tile by tile; a context that holds scratch files.

    Iterating computes everything once and gives contrasts, genes and float32 layers of each tile, in file order. The result depends
    neither on `memory` nor on the number of cores.

    Parameters
    ----------
    table
        The table.
    tiles
        How it is cut.
    folder
        Where scratch files of 28 bytes a contrast × gene lie, and as much again as 12 while P values are adjusted; None for the system's
        temporary folder.
    memory
        See :data:`MEMORY`. One row of tiles of one layer and the P values of some contrasts are held whatever it is.
    """

    def __init__(self, table: EffectTable, tiles: Tiles, folder: Path | None = None, memory: int = MEMORY) -> None:
        self._table, self._tiles, self._folder, self._memory = table, tiles, folder, memory
        self._n_significant = np.zeros(tiles.n_contrasts, dtype=np.int64)
        self._sum_abs_t = np.zeros(tiles.n_contrasts)
        self._n_known = np.zeros(tiles.n_contrasts, dtype=np.int64)
        self._open = ExitStack()

    def __enter__(self) -> EffectStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    @property
    def contrasts(self) -> pd.DataFrame:
        """Contrasts with n_significant and mean_abs_t, after the last tile."""
        return with_summaries(self._table.contrasts, self._n_significant, self._sum_abs_t, self._n_known)

    def __iter__(self) -> Iterator[tuple[slice, slice, dict[str, NDArray[np.float32]]]]:
        if self._table.parts:
            return self._joined()
        return self._given() if self._table.fit is None else self._computed(self._table.fit)

    def _given(self) -> Iterator[tuple[slice, slice, dict[str, NDArray[np.float32]]]]:
        """Tiles of a table that is in memory."""
        wide = {**self._table.layers, **self._table.log10_layers}
        self._n_significant[:] = (wide["log10_adj_p_within"] < np.log10(SIGNIFICANT)).sum(axis=1)
        self._sum_abs_t, self._n_known = sums_of_abs_t(wide["t"])
        for rows, columns in self._tiles:
            yield rows, columns, {name: np.ascontiguousarray(wide[name][rows, columns], dtype=np.float32) for name in LAYERS}

    def _joined(self) -> Iterator[tuple[slice, slice, dict[str, NDArray[np.float32]]]]:
        """Tiles of tables one below the other. A row of tiles may begin in one table and end in the next."""
        tiles = self._tiles
        blocks = (
            {name: spread_genes(values, genes, tiles.n_genes) for name, values in block.items()}
            for part, genes in self._table.parts
            for block in part.rows(tiles.contrasts)
        )
        waiting = {name: np.empty((0, tiles.n_genes), dtype=np.float32) for name in LAYERS}
        for rows in tiles.rows():
            n = rows.stop - rows.start
            while len(waiting["t"]) < n:
                block = next(blocks)
                waiting = {name: np.concatenate([values, block[name]]) for name, values in waiting.items()}
            self._n_significant[rows] = (waiting["log10_adj_p_within"][:n] < np.log10(SIGNIFICANT)).sum(axis=1)
            self._sum_abs_t[rows], self._n_known[rows] = sums_of_abs_t(waiting["t"][:n])
            for columns in tiles.columns():
                yield rows, columns, {name: np.ascontiguousarray(values[:n, columns]) for name, values in waiting.items()}
            waiting = {name: values[n:] for name, values in waiting.items()}

    def _scratch(self, dtype: type[np.generic]) -> _Scratch:
        scratch = _Scratch(dtype, self._folder)
        self._open.callback(scratch.close)
        return scratch

    def _computed(self, fit: ModeratedFit) -> Iterator[tuple[slice, slice, dict[str, NDArray[np.float32]]]]:
        """Tiles of a fit."""
        tiles = self._tiles
        kept = {name: self._scratch(np.float64 if name == "log10_p" else np.float32) for name in ("logFC", "t", "log10_p")}
        self._keep_blocks(fit, kept)
        across, n = self._scratch(np.float32), tiles.n_contrasts * tiles.n_genes
        adjustment = _Adjustment(int(self._n_known.sum()), self._folder, self._memory)
        adjustment.adjust(_Region(kept["log10_p"], 0, n), _Region(across, 0, n), 0)
        for rows in tiles.rows():
            within = self._within(kept["log10_p"], rows)
            for columns in tiles.columns():
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                start = tiles.start(rows, columns.start)
                layers = {
                    name: scratch.read(start, shape[0] * shape[1]).astype(np.float32, copy=False).reshape(shape)
                    for name, scratch in (kept | {"log10_adj_p_across": across}).items()
                }
                layers["log10_adj_p_within"] = within[:, columns]
                yield rows, columns, {name: layers[name] for name in LAYERS}

    def _keep_blocks(self, fit: ModeratedFit, kept: dict[str, _Scratch]) -> None:
        """Everything that is computed gene by gene, into scratch files in the order of tiles."""
        tiles = self._tiles
        # half of the memory, since a fit needs some for its own
        of_tile = 2 * _BYTES_A_VALUE * tiles.n_contrasts * tiles.genes
        for block in tiles.columns(max(1, self._memory // of_tile)):
            log_fc, unscaled = fit.effects(block)
            t = moderated_t(log_fc, unscaled, fit.s2_post[block])
            del unscaled
            reported = np.broadcast_to(self._table.reported, (tiles.n_contrasts, tiles.n_genes))[:, block]
            if not reported.all():
                log_fc = np.where(reported, log_fc, np.nan)
                t[~reported] = np.nan
            values = {"logFC": log_fc, "t": t, "log10_p": log10_p_values(t, fit.df_total[block])}
            lefts = range(0, block.stop - block.start, tiles.genes)

            def keep(rows: slice, values: dict[str, Array] = values, lefts: range = lefts, block: slice = block) -> None:
                for name, value in values.items():
                    pieces = [value[rows, left : left + tiles.genes].ravel() for left in lefts]
                    kept[name].write(tiles.start(rows, block.start), np.concatenate(pieces))
                for left in lefts:
                    sums, known = sums_of_abs_t(values["t"][rows, left : left + tiles.genes])
                    self._sum_abs_t[rows] += sums
                    self._n_known[rows] += known

            on_all_cores(keep, tiles.rows())

    def _within(self, log10_p: _Scratch, rows: slice) -> NDArray[np.float32]:
        """log10 P values of some contrasts, adjusted within each."""
        tiles, n = self._tiles, rows.stop - rows.start
        within = np.empty((n, tiles.n_genes), dtype=np.float32)
        step = max(1, self._memory // (_BYTES_A_VALUE * tiles.n_genes))
        for first in range(0, n, step):
            some = slice(first, min(first + step, n))
            values = np.empty((some.stop - first, tiles.n_genes))
            for columns in tiles.columns():
                width = columns.stop - columns.start
                start = tiles.start(rows, columns.start) + first * width
                values[:, columns] = log10_p.read(start, len(values) * width).reshape(-1, width)
            adjusted = adjusted_log10_p(values)
            within[some] = adjusted
            self._n_significant[rows.start + some.start : rows.start + some.stop] = (adjusted < np.log10(SIGNIFICANT)).sum(axis=1)
        return within
