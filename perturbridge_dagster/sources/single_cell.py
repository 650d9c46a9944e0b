"""From cells to samples: which cells are kept, and the sums of those that are.

Belongs here: the filters of single cells and pseudobulk by streaming, for any dataset whose native rows are cells. Does not belong
here: where a dataset keeps its metadata (its reader), the loops over counts (``sums.py``).

Every filter looks at one cell alone. So the matrix is read once, block by block on all cores: a cell that passes is added to its sample
as soon as it is read. Only a matrix stored by column is read twice. Memory does not grow with the number of cells, apart from their
metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.compiled import n_cores, on_all_cores
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.native import Reconciliation
from perturbridge_dagster.sources.stored import Compressed, Scratch, StoredMatrix, are_counts, as_counts
from perturbridge_dagster.sources.sums import MALAT1 as MALAT1_GENE
from perturbridge_dagster.sources.sums import MITOCHONDRIAL as MITOCHONDRIAL_GENE
from perturbridge_dagster.sources.sums import SampleSums, examine, plain, totals

MINIMUM_GENES = 250
MINIMUM_COUNTS = 700
MAXIMUM_MITOCHONDRIAL_FRACTION = 0.2
MALAT1 = "ENSG00000251562"
MINIMUM_MALAT1 = 3.5
"""ln(1 + 10,000 × MALAT1 counts / counts of the cell), below which a droplet holds no intact nucleus: Clarke & Bader,
BMC Genomics 2024, doi:10.1186/s12864-024-11015-5."""

BLOCK_VALUES = 16_000_000
"""Values that all cores together read at a time: 128 MB with their genes. With fewer a core, the cells of a sample come one by one."""

GROUP = ("plate", "well", "perturbagen", "source_cell_context")
"""Cells equal in these are one sample. Dose and time are implied by plate and well."""


def _rules(cells: Mapping[str, Any], *, has_malat1: bool) -> list[tuple[str, Any]]:
    """Each filter of cells with whether each cell passes it, in the order in which they are recorded."""
    rules = [
        (
            f"fewer than {MINIMUM_GENES} genes or {MINIMUM_COUNTS} counts, or mitochondrial above {MAXIMUM_MITOCHONDRIAL_FRACTION:.0%}",
            (cells["n_genes"] >= MINIMUM_GENES)
            & (cells["n_counts"] >= MINIMUM_COUNTS)
            & (cells["mitochondrial_fraction"] <= MAXIMUM_MITOCHONDRIAL_FRACTION),
        ),
        (f"no value of one of {', '.join(GROUP)}", cells["is_grouped"]),
    ]
    if has_malat1:
        with np.errstate(divide="ignore", invalid="ignore"):
            malat1 = np.log1p(10_000 * cells["malat1_counts"] / cells["n_counts"])
        rules.append((f"log-normalized MALAT1 below {MINIMUM_MALAT1}", malat1 >= MINIMUM_MALAT1))
    return rules


def filter_cells(cells: pd.DataFrame, steps: Reconciliation) -> pd.DataFrame:
    """The cells that pass the filters.

    Parameters
    ----------
    cells
        ``n_counts`` (the source's own total of the cell), ``n_genes``, ``mitochondrial_fraction``, ``malat1_counts`` (null in every cell
        where the gene was not measured) and the columns of ``GROUP``.
    steps
        Where the filters are recorded.
    """
    has_malat1 = bool(cells["malat1_counts"].notna().any())
    looked_at = {name: cells[name] for name in ("n_counts", "n_genes", "mitochondrial_fraction", "malat1_counts")}
    rules = _rules({**looked_at, "is_grouped": cells[list(GROUP)].notna().all(axis=1)}, has_malat1=has_malat1)
    passing = pd.Series(True, index=cells.index)
    for rule, passes in rules:
        steps.drop("cells", rule, int((passing & ~passes).sum()))
        passing &= passes
    if not has_malat1:
        steps.drop("cells", "no MALAT1 filter: the gene was not measured", 0)
    return cells[passing]


def group_cells(cells: pd.DataFrame, dataset: str, file: Path, steps: Reconciliation) -> tuple[pd.DataFrame, pd.Series]:
    """Gather cells into samples.

    Parameters
    ----------
    cells
        Kept cells: columns of ``GROUP`` without missing values, and what must be the same in all cells of a sample, null where a cell
        does not know.
    dataset, file
        For messages.
    steps
        Where the merge of cells into samples is recorded.

    Returns
    -------
    One row a sample, sorted by ``GROUP``, with the cells' columns and ``psbulk_cells``; and the row of each cell's sample, indexed like
    `cells`.

    Raises
    ------
    InputError
        If the cells of a sample disagree, for example in dose.
    """
    members = [name for name in cells.columns if name not in GROUP]
    groups = cells.groupby(list(GROUP), sort=True, observed=True)
    sample_of_cell = groups.ngroup()
    for column in members:
        differing = _differing(sample_of_cell.to_numpy(), cells[column])
        if len(differing):
            first = ~sample_of_cell.duplicated() & sample_of_cell.isin(differing)
            raise InputError(
                "cells of one plate, well, perturbagen and cell context differ.",
                dataset=dataset,
                file=file,
                rows=[" ".join(map(str, key)) for key in cells.loc[first.to_numpy(), list(GROUP)].itertuples(index=False)],
                column=column,
                expected="one value a sample",
            )
    samples = groups[members].first().assign(psbulk_cells=groups.size()).reset_index()
    steps.start("samples", len(cells))
    steps.drop("samples", f"cells of one {', '.join(GROUP)} summed to a sample", len(cells) - len(samples))
    return samples, sample_of_cell


def _differing(sample: NDArray[np.integer[Any]], values: pd.Series) -> NDArray[np.int64]:
    """Samples whose cells have more than one value, missing ones aside. On numbers, since text would be compared cell by cell."""
    number, distinct = pd.factorize(values)
    pairs = pd.unique((sample * len(distinct) + number)[number >= 0])
    samples, times = np.unique(pairs // max(len(distinct), 1), return_counts=True)
    differing: NDArray[np.int64] = samples[times > 1]
    return differing


def pseudobulk(
    stored: h5py.Dataset | h5py.Group,
    cells: pd.DataFrame,
    genes: pd.Index,
    symbols: pd.Series | None,
    steps: Reconciliation,
    *,
    dataset: str,
    counts_file: Path,
    cells_file: Path,
) -> tuple[pd.DataFrame, sparse.csr_matrix]:
    """Filter cells, gather those that are kept into samples, and sum their counts. This is what a reader calls.

    Parameters
    ----------
    stored
        Counts, cells × genes: a CSR or CSC group of AnnData, or a dense dataset (``X``, ``raw/X`` or a layer).
    cells
        One row a cell, in the order of the matrix, indexed by unique names: ``n_counts`` (the source's own total of the cell), the columns
        of ``GROUP``, and what must be the same in all cells of a sample. The source's own ``n_genes`` and ``mitochondrial_fraction``,
        where given, are what the filters look at; otherwise both are computed from the counts.
    genes
        Ensembl ids of the columns, with or without version.
    symbols
        Gene symbols, in the order of `genes`, null where there is none; not needed if `cells` has ``mitochondrial_fraction``.
    steps
        Where filters and the merge of cells into samples are recorded; ``cells`` must have been started.
    dataset, counts_file, cells_file
        For messages.

    Returns
    -------
    One row a sample as :func:`group_cells` gives it, and the sums: samples × genes, CSR int64, sorted, without zeros.

    Raises
    ------
    InputError
        If the matrix has another shape, a value of any cell is not a count, or the kept cells of a sample disagree.
    """
    kind = _kinds(genes, symbols)
    has_malat1 = bool((kind & MALAT1_GENE).any())
    # whose sample it would be, were the cell kept
    candidate = _sample_numbers(cells)
    own = {name: cells[name].astype("float64").to_numpy() for name in ("n_counts", "n_genes", "mitochondrial_fraction") if name in cells}

    def passes(found: Mapping[str, NDArray[Any]], rows: slice) -> NDArray[np.bool_]:
        known = {**found, **{name: values[rows] for name, values in own.items()}, "is_grouped": candidate[rows] >= 0}
        passing: NDArray[np.bool_] = np.logical_and.reduce([judged for _, judged in _rules(known, has_malat1=has_malat1)])
        return passing

    names = _Names(cells.index, genes, dataset, counts_file)
    statistics, sums = _sum(stored, candidate, int(candidate.max(initial=-1)) + 1, kind, passes, names)
    if not has_malat1:
        statistics["malat1_counts"] = np.full(len(cells), np.nan)
    judged = cells.assign(**{name: values for name, values in statistics.items() if name not in own}, **{_CANDIDATE: candidate})
    kept = filter_cells(judged, steps)
    del judged
    rows = np.unique(kept[_CANDIDATE])
    samples = group_cells(kept.drop(columns=["n_counts", *statistics, _CANDIDATE]), dataset, cells_file, steps)[0]
    # the other rows are empty, and both are sorted by GROUP
    pointer = sums.indptr[np.append(rows, sums.shape[0])]
    return samples, sparse.csr_matrix((sums.data, sums.indices, pointer), shape=(len(samples), len(genes)))


def sum_cells(
    stored: h5py.Dataset | h5py.Group,
    sample_of_cell: NDArray[np.int64],
    n_samples: int,
    *,
    cells: pd.Index,
    genes: pd.Index,
    dataset: str,
    file: Path,
) -> sparse.csr_matrix:
    """The sum of each sample's cells, without any filter: what decoupler's ``pp.pseudobulk(mode="sum")`` computes.

    Parameters
    ----------
    stored
        Counts, cells × genes, as for :func:`pseudobulk`.
    sample_of_cell
        Row of each cell's sample, below `n_samples`; -1 for a cell that is left out.
    n_samples
        Rows of the result.
    cells, genes, dataset, file
        For messages.

    Returns
    -------
    Samples × genes, CSR int64, sorted, without zeros. Sums of integers, so exact and independent of the order of cells.

    Raises
    ------
    InputError
        If the matrix has another shape, or a value of any cell is not a count.
    """
    kind = np.zeros(len(genes), np.uint8)
    return _sum(stored, sample_of_cell, n_samples, kind, None, _Names(cells, genes, dataset, file))[1]


_CANDIDATE = "candidate sample"
"""Column of cells, for a moment."""


class _Names(NamedTuple):
    """What messages need."""

    cells: pd.Index
    genes: pd.Index
    dataset: str
    file: Path


Statistics = dict[str, NDArray[Any]]
"""What the filters look at: ``n_genes``, ``mitochondrial_fraction`` (0 for an empty cell), ``malat1_counts``; one value a cell."""


def _kinds(genes: pd.Index, symbols: pd.Series | None) -> NDArray[np.uint8]:
    """Of each gene, whether it is mitochondrial, and whether it is MALAT1; all versions of that gene are summed."""
    kind = np.where(genes.astype(str).str.split(".").str[0] == MALAT1, MALAT1_GENE, 0).astype(np.uint8)
    if symbols is not None:
        kind[symbols.astype("string").str.startswith("MT-").fillna(value=False).to_numpy(bool)] |= MITOCHONDRIAL_GENE
    return kind


def _sample_numbers(cells: pd.DataFrame) -> NDArray[np.int64]:
    """Number of each cell's combination of ``GROUP``, sorted; -1 where one is missing."""
    return np.asarray(cells.groupby(list(GROUP), sort=True, observed=True).ngroup().fillna(-1), np.int64)


def _statistics(n_genes: NDArray[np.int64], sums: NDArray[np.int64]) -> Statistics:
    total, mitochondrial, malat1 = sums.T
    return {"n_genes": n_genes, "mitochondrial_fraction": mitochondrial / np.maximum(total, 1), "malat1_counts": malat1}


def _sum(
    stored: h5py.Dataset | h5py.Group,
    sample: NDArray[np.int64],
    n_samples: int,
    kind: NDArray[np.uint8],
    passes: Callable[[Mapping[str, NDArray[Any]], slice], NDArray[np.bool_]] | None,
    names: _Names,
) -> tuple[Statistics, sparse.csr_matrix]:
    """Statistics of all cells, and sums of those that have a sample and pass.

    Parameters
    ----------
    sample
        Row of each cell's sample, or -1.
    kind
        Of each gene; see ``sums.py``.
    passes
        Given statistics and which cells they are of: which of these are added.
    """
    matrix = StoredMatrix(stored)
    if matrix.shape != (len(names.cells), len(names.genes)):
        raise InputError(
            f"{stored.name} has shape {matrix.shape[0]:,} × {matrix.shape[1]:,}.",
            dataset=names.dataset,
            file=names.file,
            expected=f"{len(names.cells):,} cells × {len(names.genes):,} genes",
        )
    n_genes, sums = np.zeros(len(sample), np.int64), np.zeros((len(sample), 3), np.int64)
    if matrix.by_column:
        return _sum_columns(matrix, sample, n_samples, kind, passes, names)
    total, scratch = SampleSums(n_samples, len(names.genes)), Scratch()

    def add(bounds: tuple[int, int]) -> None:
        rows = slice(*bounds)
        read = matrix.read(*bounds, scratch)
        block = plain(read, len(names.genes), scratch)
        if block is None:
            _refuse(read, rows, names)
        if passes is None:
            total.add(block, sample[rows], totals(block))
            return
        examine(block, kind, n_genes[rows], sums[rows])
        total.add(block, np.where(passes(_statistics(n_genes[rows], sums[rows]), rows), sample[rows], -1), sums[rows, 0])

    on_all_cores(add, matrix.blocks(max_values=BLOCK_VALUES // n_cores()))
    return _statistics(n_genes, sums), total.to_csr()


def _refuse(block: Compressed, rows: slice, names: _Names) -> NoReturn:
    """Say what is wrong with a block of cells."""
    pointer, genes, values = block
    n_genes = len(names.genes)
    outside = np.flatnonzero((genes < 0) | (genes >= n_genes))
    if len(outside):
        raise InputError(
            f"a value belongs to column {genes[outside[0]]} of {n_genes:,}, counted from 0.",
            dataset=names.dataset,
            file=names.file,
            rows=[names.cells[rows][int(np.searchsorted(pointer, outside[0], side="right")) - 1]],
            advice="The file is damaged: fetch it again.",
        )
    as_counts(sparse.csr_matrix((values, genes, pointer), shape=(len(pointer) - 1, n_genes)), names.cells[rows], names.genes, *names[2:])
    raise AssertionError("plain and as_counts disagree")


def _sum_columns(
    matrix: StoredMatrix,
    sample: NDArray[np.int64],
    n_samples: int,
    kind: NDArray[np.uint8],
    passes: Callable[[Mapping[str, NDArray[Any]], slice], NDArray[np.bool_]] | None,
    names: _Names,
) -> tuple[Statistics, sparse.csr_matrix]:
    """The same for compressed columns, where a cell is known once all genes were read: they are read twice, if any filter is asked for."""
    n_cells = len(sample)
    n_genes: NDArray[Any] = np.zeros(n_cells, np.int64)
    sums = np.zeros((n_cells, 3), np.int64)
    flags = np.column_stack([np.ones_like(kind), kind & MITOCHONDRIAL_GENE != 0, kind & MALAT1_GENE != 0]).astype(np.int64)

    def blocks() -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Genes × cells."""
        for bounds in matrix.blocks(max_values=BLOCK_VALUES // n_cores()):
            pointer, cells, values = matrix.read(*bounds)
            columns = sparse.csr_matrix((values, cells, pointer), shape=(len(pointer) - 1, n_cells))
            if not are_counts(values).all():
                as_counts(columns.T.tocsr(), names.cells, names.genes[slice(*bounds)], names.dataset, names.file)
            counts = columns.astype(np.int64)
            counts.sum_duplicates()
            counts.eliminate_zeros()
            yield slice(*bounds), counts

    if passes is not None:
        for genes, counts in blocks():
            n_genes = n_genes + np.bincount(counts.indices, minlength=n_cells)
            sums += counts.T @ flags[genes]
        sample = np.where(passes(_statistics(n_genes, sums), slice(None)), sample, -1)
    kept = np.flatnonzero(sample >= 0)
    members = sparse.csr_matrix((np.ones(len(kept), np.int64), (kept, sample[kept])), shape=(n_cells, n_samples))
    parts = [counts @ members for _, counts in blocks()]
    total = sparse.vstack([sparse.csr_matrix((0, n_samples), dtype=np.int64), *parts]).T.tocsr()
    total.sort_indices()
    return _statistics(n_genes, sums), total
