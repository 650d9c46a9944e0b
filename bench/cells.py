"""Simulated single cells on disk: an h5ad of counts as a plate screen gives them, written in blocks.

Belongs here: what cells look like, and writing them. Does not belong here: what is measured on them (``pseudobulk.py``).

The shares of genes are log-normal, so that few genes hold most counts and most genes are rarely seen; about half the counts fall on a
gene that the cell already has. Every cell line expresses each gene a bit differently. A cell's counts are drawn one by one from its line's
shares. Cells of all samples are mixed, which is the worst order for sums. MALAT1 and mitochondrial genes have their usual shares.

Storage is AnnData's: float32 values, int32 indices, chunks as h5py chooses them for the size, gzip without shuffle. Gzip is written by
libdeflate at h5py's level, 4, on all cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import deflate
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize

from perturbridge_dagster.compiled import compiled, n_cores, on_all_cores
from perturbridge_dagster.sources.single_cell import MALAT1

Compression = Literal["gzip", "lzf", "none"]

_LINE_SPREAD = 0.8
_DEPTH_SPREAD = 0.3
"""Standard deviations of the natural logarithms of a gene's share between lines, and of a cell's counts."""

_MALAT1_SHARE, _MITOCHONDRIAL_SHARE, _N_MITOCHONDRIAL = 0.04, 0.03, 13
_GZIP_LEVEL = 4
_BLOCK = 2_000
"""Cells that one core draws at a time."""


@dataclass(frozen=True)
class Shape:
    """Size of a file.

    Attributes
    ----------
    n_cells, n_genes
        Size of the matrix.
    genes_a_cell
        Genes with a count, on average.
    n_wells, n_lines
        Every combination is a sample.
    spread
        Standard deviation of the natural logarithm of a gene's share: the wider, the more counts fall on genes that a cell already has.
    """

    n_cells: int
    n_genes: int
    genes_a_cell: int
    n_wells: int
    n_lines: int
    spread: float = 2.2


def write_cells(shape: Shape, file: Path, compression: Compression) -> int:
    """Write a file of cells.

    Parameters
    ----------
    shape
        Its size. ``obs`` has ``well``, ``drug``, ``cell_line``, ``n_counts`` and ``sample`` (well and line), ``var`` has ``symbol``.
    file
        Where to write.
    compression
        Of values and indices.

    Returns
    -------
    Number of stored values.
    """
    generator = np.random.default_rng(1)
    shares = _shares(shape, generator)
    depth = _depth(shares[0], shape.genes_a_cell)
    counts = np.maximum(generator.lognormal(np.log(depth) - _DEPTH_SPREAD**2 / 2, _DEPTH_SPREAD, shape.n_cells), 1).astype(np.int32)
    line, well = (generator.integers(n, size=shape.n_cells) for n in (shape.n_lines, shape.n_wells))
    with h5py.File(file, "w") as opened:
        opened.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = opened.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (shape.n_cells, shape.n_genes)})
        # h5py chooses chunks by the size it is told
        expected = shape.n_cells * shape.genes_a_cell
        parts = {
            name: _Growing(matrix, name, np.dtype(dtype), expected, compression) for name, dtype in (("data", "f4"), ("indices", "i4"))
        }
        lengths = [np.zeros(1, np.int64)]
        for length, genes, values in _drawn(*_alias_tables(shares), line, counts):
            lengths.append(length)
            parts["data"].append(values)
            parts["indices"].append(genes)
        for part in parts.values():
            part.close()
        pointer = np.cumsum(np.concatenate(lengths))
        filters = {} if compression == "none" else {"compression": compression}
        matrix.create_dataset("indptr", data=pointer.astype(np.int32 if pointer[-1] < 2**31 else np.int64), **filters)
        ad.io.write_elem(opened, "obs", _obs(line, well, counts), dataset_kwargs=filters)
        ad.io.write_elem(opened, "var", _var(shape.n_genes), dataset_kwargs=filters)
    return int(pointer[-1])


def _obs(line: NDArray[np.int64], well: NDArray[np.int64], counts: NDArray[np.int32]) -> pd.DataFrame:
    wells = pd.Categorical.from_codes(
        well, pd.Index([f"{chr(ord('A') + number // 12)}{number % 12 + 1}" for number in range(well.max() + 1)])
    )
    lines = pd.Categorical.from_codes(line, pd.Index([f"CVCL_{number:04d}" for number in range(line.max() + 1)]))
    drugs = pd.Index([f"{'DMSO_TF' if number < 2 else 'compound'} {name}" for number, name in enumerate(wells.categories)])
    number = pd.Index(
        [f"{barcode // 9216 % 96:02d}_{barcode // 96 % 96:03d}_{barcode % 96:03d}-lib_{barcode}" for barcode in range(len(line))]
    )
    samples = [f"{one}_{other}" for one in wells.categories for other in lines.categories]
    return pd.DataFrame(
        {
            "well": wells,
            "drug": pd.Categorical.from_codes(well, drugs),
            "cell_line": lines,
            "n_counts": counts.astype(np.float64),
            "sample": pd.Categorical.from_codes(well * len(lines.categories) + line, pd.Index(samples)),
        },
        index=number,
    )


def _var(n_genes: int) -> pd.DataFrame:
    ids = [MALAT1, *(f"ENSG{number:011d}" for number in range(1, n_genes))]
    symbols = ["MALAT1", *(f"{'MT-' if number <= _N_MITOCHONDRIAL else 'GENE'}{number}" for number in range(1, n_genes))]
    # genes that filters look at lie anywhere
    order = _gene_order(n_genes)
    return pd.DataFrame({"symbol": np.array(symbols, dtype=object)[order]}, index=pd.Index(np.array(ids, dtype=object)[order]))


def _gene_order(n_genes: int) -> NDArray[np.int64]:
    return np.random.default_rng(2).permutation(n_genes)


def _shares(shape: Shape, generator: np.random.Generator) -> NDArray[np.float64]:
    """Share of each gene in the counts of each line, lines × genes."""
    common = generator.normal(0, shape.spread, shape.n_genes)
    shares = np.exp(common + generator.normal(0, _LINE_SPREAD, (shape.n_lines, shape.n_genes)))
    named = slice(0, _N_MITOCHONDRIAL + 1)
    shares[:, named] = 0
    shares *= (1 - _MALAT1_SHARE - _MITOCHONDRIAL_SHARE) / shares.sum(axis=1, keepdims=True)
    shares[:, 0] = _MALAT1_SHARE
    shares[:, 1 : named.stop] = _MITOCHONDRIAL_SHARE / _N_MITOCHONDRIAL
    return shares[:, _gene_order(shape.n_genes)]


def _depth(shares: NDArray[np.float64], genes_a_cell: int) -> float:
    """Counts of a cell that has so many genes, on average."""

    def missing(log_depth: float) -> float:
        return float(-np.expm1(-np.exp(log_depth) * shares).sum()) - genes_a_cell

    return float(np.exp(optimize.brentq(missing, 0, 20)))


def _alias_tables(shares: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Tables from which one draw takes one step, by Vose's method (IEEE Transactions on Software Engineering 1991)."""
    threshold, alias = np.ones(shares.shape, np.float32), np.zeros(shares.shape, np.int32)
    on_all_cores(lambda line: _fill_alias_table(shares[line], threshold[line], alias[line]), range(len(shares)))
    return threshold, alias


@compiled
def _fill_alias_table(shares: NDArray[np.float64], threshold: NDArray[np.float32], alias: NDArray[np.int32]) -> None:
    n = len(shares)
    scaled = shares * n
    small, large = np.flatnonzero(scaled < 1), np.flatnonzero(scaled >= 1)
    n_small, n_large = len(small), len(large)
    small_stack = np.empty(n, dtype=np.int64)
    small_stack[:n_small] = small
    while n_small > 0 and n_large > 0:
        n_small -= 1
        little, much = small_stack[n_small], large[n_large - 1]
        threshold[little], alias[little] = scaled[little], much
        scaled[much] -= 1 - scaled[little]
        if scaled[much] < 1:
            n_large -= 1
            small_stack[n_small] = much
            n_small += 1


def _drawn(
    threshold: NDArray[np.float32], alias: NDArray[np.int32], line: NDArray[np.int64], counts: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]]:
    """Values of a cell, genes and values, many cells at a time."""
    starts = range(0, len(line), _BLOCK)
    with ThreadPoolExecutor(n_cores()) as pool:
        # few at a time, or all would wait in memory
        for first in range(0, len(starts), 4 * n_cores()):
            yield from pool.map(
                lambda start: _draw(threshold, alias, line[start : start + _BLOCK], counts[start : start + _BLOCK], start),
                starts[first : first + 4 * n_cores()],
            )


def _draw(
    threshold: NDArray[np.float32], alias: NDArray[np.int32], line: NDArray[np.int64], counts: NDArray[np.int32], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    lengths = np.zeros(len(line), np.int64)
    genes, values = np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.float32)
    n_values = _draw_cells(threshold, alias, line, counts, seed, lengths, genes, values)
    return lengths, genes[:n_values], values[:n_values]


@compiled
def _draw_cells(
    threshold: NDArray[np.float32],
    alias: NDArray[np.int32],
    line: NDArray[np.int64],
    counts: NDArray[np.int32],
    seed: int,
    lengths: NDArray[np.int64],
    genes: NDArray[np.int32],
    values: NDArray[np.float32],
) -> int:
    np.random.seed(seed)  # noqa: NPY002 (compiled code has no other generator that is kept by thread)
    n_genes = threshold.shape[1]
    found = np.zeros(n_genes, dtype=np.int32)
    end = 0
    for cell in range(len(line)):
        start = end
        for _ in range(counts[cell]):
            place = np.random.random() * n_genes  # noqa: NPY002
            gene = int(place)
            if place - gene >= threshold[line[cell], gene]:
                gene = alias[line[cell], gene]
            if found[gene] == 0:
                genes[end] = gene
                end += 1
            found[gene] += 1
        genes[start:end] = np.sort(genes[start:end])
        for k in range(start, end):
            values[k] = found[genes[k]]
            found[genes[k]] = 0
        lengths[cell] = end - start
    return end


class _Growing:
    """A one-dimensional dataset to which values are appended; gzip is done on all cores."""

    def __init__(self, group: h5py.Group, name: str, dtype: np.dtype[Any], expected: int, compression: Compression) -> None:
        options = {"none": {}, "lzf": {"compression": "lzf"}, "gzip": {"compression": "gzip"}}[compression]
        self._dataset = group.create_dataset(name, shape=(expected,), maxshape=(None,), chunks=True, dtype=dtype, **options)
        self._gzip = compression == "gzip"
        self._written = 0
        self._waiting: list[NDArray[Any]] = []

    def append(self, values: NDArray[Any]) -> None:
        self._waiting.append(values)
        if sum(map(len, self._waiting)) > 8 * n_cores() * self._dataset.chunks[0]:
            self._flush(last=False)

    def close(self) -> None:
        self._flush(last=True)
        self._dataset.resize((self._written,))

    def _flush(self, *, last: bool) -> None:
        length = self._dataset.chunks[0]
        values = np.concatenate(self._waiting) if self._waiting else np.empty(0, self._dataset.dtype)
        whole = len(values) if last else len(values) // length * length
        self._waiting = [values[whole:]]
        stop = self._written + whole
        if stop > len(self._dataset):
            self._dataset.resize((stop,))
        if not self._gzip:
            self._dataset[self._written : stop] = values[:whole]
        else:
            chunks = [values[start : min(start + length, whole)] for start in range(0, whole, length)]
            padded = [np.pad(chunk, (0, length - len(chunk))) for chunk in chunks]
            with ThreadPoolExecutor(n_cores()) as pool:
                for number, raw in enumerate(pool.map(lambda chunk: deflate.zlib_compress(chunk.tobytes(), _GZIP_LEVEL), padded)):
                    self._dataset.id.write_direct_chunk((self._written + number * length,), raw)
        self._written = stop
