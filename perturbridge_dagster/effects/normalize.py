"""Library sizes, the kept genes by column, and TMM factors of sparse counts.

Belongs here: what turns counts into comparable samples, and the walk over the rows of a sparse matrix that it shares with
``filter.py``. Does not belong here: which genes are kept (``filter.py``), voom's trend and weights.

Everything reads compressed rows, because each number here belongs to a sample: a sample's entries lie together, are read once, and its
working space stays in the cache. Loops over blocks of rows run on all cores; no result depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.compiled import compiled, n_cores, on_all_cores
from perturbridge_dagster.errors import InputError

LOG_RATIO_TRIM = 0.3
"""Share of genes trimmed at each end by log ratio (edgeR's ``logratioTrim``)."""

ABUNDANCE_TRIM = 0.05
"""Share of genes trimmed at each end by average log expression (edgeR's ``sumTrim``)."""

_NO_SCALING = 1e-6  # edgeR: a sample whose largest |log ratio| is smaller has factor 1
_NO_QUARTILE = 1e-20  # edgeR: the median upper quartile below which the reference is chosen by square roots
_BLOCKS_PER_CORE = 8  # so that a core with deep samples does not leave the others waiting


Rows = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Row pointers, column indices and values of a matrix by compressed rows."""


def stored_rows(counts: sparse.csr_array | sparse.csr_matrix, kept: NDArray[np.bool_] | None = None) -> Rows:
    """Row pointers, column indices and values of a matrix by compressed rows, not copied.

    Compiled loops do not check what they are given, so this does.

    Raises
    ------
    TypeError
        If the matrix is compressed in another way, where the same arrays mean something else.
    ValueError
        If there is not one value of `kept` a gene.
    """
    if counts.format != "csr":
        raise TypeError(f"counts must be a CSR matrix of samples × genes, not {counts.format}")
    if kept is not None and kept.shape != counts.shape[1:]:
        raise ValueError(f"kept must have one value for each of {counts.shape[1]:,} genes, not the shape {kept.shape}")
    return counts.indptr, counts.indices, counts.data


def row_blocks(n_rows: int, n_blocks: int) -> list[tuple[int, int]]:
    """First row, and row after the last, of at most `n_blocks` blocks of nearly equal length; none is empty."""
    edges = [n_rows * block // n_blocks for block in range(n_blocks + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]


def _by_rows(function: Callable[[int, int], object], n_rows: int) -> None:
    """Call a function of (first row, row after the last) for every block of rows, on all cores."""
    on_all_cores(lambda block: function(*block), row_blocks(n_rows, n_cores() * _BLOCKS_PER_CORE))


@compiled
def _sum_rows(rows: Rows, kept: NDArray[np.bool_], start: int, stop: int, sizes: NDArray[np.float64], at_fault: NDArray[np.int64]) -> None:
    indptr, indices, data = rows
    last_row = np.full(len(kept), -1, dtype=np.int64)
    for row in range(start, stop):
        size = 0.0
        for k in range(indptr[row], indptr[row + 1]):
            gene = indices[k]
            whole = int(data[k])
            # NaN and infinity differ from their whole part, too
            if whole != data[k] or whole < 0 or last_row[gene] == row:
                at_fault[row] = gene
            last_row[gene] = row
            if kept[gene]:
                size += data[k]
        sizes[row] = size


def library_sizes(counts: sparse.csr_array | sparse.csr_matrix, kept: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Library sizes: the sum of each sample's counts, exact below 2⁵³. Looks at every count, and refuses what is none.

    Parameters
    ----------
    counts
        Samples × genes, whole numbers of any dtype, at most one entry a sample and gene.
    kept
        Genes to sum over; all if not given.

    Raises
    ------
    InputError
        If a count is negative, fractional, missing or infinite, or is there twice.
    """
    rows = stored_rows(counts, kept)
    n_samples, n_genes = counts.shape
    if kept is None:
        kept = np.ones(n_genes, dtype=np.bool_)
    sizes = np.zeros(n_samples)
    at_fault = np.full(n_samples, -1, dtype=np.int64)
    _by_rows(lambda start, stop: _sum_rows(rows, kept, start, stop, sizes, at_fault), n_samples)
    wrong = np.flatnonzero(at_fault >= 0)
    if len(wrong):
        sample, gene = int(wrong[0]), int(at_fault[wrong[0]])
        indptr, indices, data = rows
        entries = slice(indptr[sample], indptr[sample + 1])
        found = data[entries][indices[entries] == gene]
        raise InputError(
            f"counts cannot be used, for example {', '.join(map(str, found))} of sample {sample} and gene {gene} (counted from 0)",
            rows=wrong.tolist(),
            expected="whole numbers, 0 or greater, one a sample and gene",
        )
    return sizes


@compiled
def _count_columns(rows: Rows, column: NDArray[np.int64], start: int, stop: int, n_entries: NDArray[np.int64]) -> None:
    indptr, indices, data = rows
    for k in range(indptr[start], indptr[stop]):
        target = column[indices[k]]
        if target >= 0 and data[k] != 0:
            n_entries[target] += 1


@compiled
def _fill_columns(
    rows: Rows,
    column: NDArray[np.int64],
    start: int,
    stop: int,
    position: NDArray[np.int64],
    samples: NDArray[np.int32],
    values: NDArray[np.int32],
) -> int:
    """Write the entries of a block of rows; the largest count met, so that one beyond int32 does not pass unseen."""
    indptr, indices, data = rows
    largest = 0
    for row in range(start, stop):
        for k in range(indptr[row], indptr[row + 1]):
            target = column[indices[k]]
            if target >= 0 and data[k] != 0:
                largest = max(largest, int(data[k]))
                samples[position[target]] = row
                values[position[target]] = data[k]
                position[target] += 1
    return largest


def keep_genes(counts: sparse.csr_array | sparse.csr_matrix, kept: NDArray[np.bool_]) -> sparse.csc_array:
    """The counts of the kept genes by compressed columns: what a fit walks gene by gene.

    Made by counting each column's entries first, so that the only copy of the data is the result (8 bytes an entry).

    Parameters
    ----------
    counts
        Samples × genes, whole numbers of any dtype; what :func:`library_sizes` accepts.
    kept
        The genes to keep, one value a gene.

    Returns
    -------
    scipy.sparse.csc_array
        Samples × kept genes, without stored zeros; data int32, indices int32 (below 2³¹ entries), sorted in each column.

    Raises
    ------
    InputError
        If a count exceeds int32.
    """
    rows = stored_rows(counts, kept)
    n_kept = int(kept.sum())
    column = np.where(kept, np.cumsum(kept) - 1, -1)
    blocks = row_blocks(counts.shape[0], n_cores())
    n_entries = np.zeros((len(blocks), n_kept), dtype=np.int64)
    on_all_cores(lambda block: _count_columns(rows, column, *blocks[block], n_entries[block]), range(len(blocks)))

    pointers = np.zeros(n_kept + 1, dtype=np.int64)
    np.cumsum(n_entries.sum(axis=0), out=pointers[1:])
    # in every column, the entries of a block follow those of the blocks before it
    position = pointers[:-1] + np.cumsum(n_entries, axis=0) - n_entries
    samples, values = np.empty(pointers[-1], dtype=np.int32), np.empty(pointers[-1], dtype=np.int32)
    largest = np.zeros(len(blocks), dtype=np.int64)

    def fill(block: int) -> None:
        largest[block] = _fill_columns(rows, column, *blocks[block], position[block], samples, values)

    on_all_cores(fill, range(len(blocks)))
    if largest.max(initial=0) > np.iinfo(np.int32).max:
        raise InputError(f"a count of {largest.max():,} is too large", expected=f"counts of at most {np.iinfo(np.int32).max:,}")
    index_dtype = np.int32 if pointers[-1] <= np.iinfo(np.int32).max else np.int64
    columns = sparse.csc_array((values, samples, pointers.astype(index_dtype)), shape=(counts.shape[0], n_kept))
    columns.has_canonical_format = True
    return columns


@compiled
def order_statistic(values: NDArray[np.float64], rank: int) -> float:
    """The value of a rank, from 0 for the smallest; values are reordered (Hoare's selection).

    Ours because numba's np.partition takes ten seconds to compile, and a new array for every call.
    """
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    return float(values[rank])


@compiled
def _mark_present(rows: Rows, start: int, stop: int, present: NDArray[np.bool_]) -> None:
    indptr, indices, data = rows
    for k in range(indptr[start], indptr[stop]):
        if data[k] > 0:
            present[indices[k]] = True


@compiled
def _upper_quartiles(rows: Rows, present: NDArray[np.bool_], start: int, stop: int, quartiles: NDArray[np.float64]) -> None:
    """Upper quartile of each sample's counts of the present genes (R's quantile, type 7), zeros included."""
    indptr, indices, data = rows
    n_genes = present.sum()
    below = math.floor(0.75 * (n_genes - 1))
    above = math.ceil(0.75 * (n_genes - 1))
    share = 0.75 * (n_genes - 1) - below
    values = np.empty(n_genes)
    for row in range(start, stop):
        n = 0
        for k in range(indptr[row], indptr[row + 1]):
            if present[indices[k]] and data[k] > 0:
                values[n] = data[k]
                n += 1
        n_zeros = n_genes - n
        if above < n_zeros:
            quartiles[row] = 0.0
            continue
        upper = order_statistic(values[:n], above - n_zeros)
        lower = order_statistic(values[:n], below - n_zeros) if below >= n_zeros else 0.0
        quartiles[row] = (1 - share) * lower + share * upper


def _reference_sample(rows: Rows, present: NDArray[np.bool_], sizes: NDArray[np.float64]) -> int:
    """The sample all others are compared with: the one whose scaled upper quartile is nearest to the mean.

    Where most upper quartiles are zero, it is the sample with the largest sum of square roots. Sums are of long doubles in R's order:
    the last bit decides between near samples.
    """
    n_samples = len(sizes)
    quartiles = np.empty(n_samples)
    _by_rows(lambda start, stop: _upper_quartiles(rows, present, start, stop, quartiles), n_samples)
    quartiles /= sizes
    if np.median(quartiles) >= _NO_QUARTILE:
        # R's mean: a first mean, then the mean of what is left
        mean = np.add.accumulate(quartiles, dtype=np.longdouble)[-1] / n_samples
        mean += np.add.accumulate(quartiles - mean, dtype=np.longdouble)[-1] / n_samples
        return int(np.argmin(np.abs(quartiles - np.float64(mean))))
    indptr, indices, data = rows
    roots = np.zeros(n_samples)
    for row in range(n_samples):
        entries = slice(indptr[row], indptr[row + 1])
        values = np.sqrt(data[entries][present[indices[entries]]], dtype=np.float64)
        if len(values):
            roots[row] = np.add.accumulate(values, dtype=np.longdouble)[-1]
    return int(np.argmax(roots))


@compiled
def _untrimmed_range(values: NDArray[np.float64], share: float, reordered: NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest value left when `share` of the values is trimmed at each end by rank, ties having their average rank."""
    n = len(values)
    lowest = math.floor(n * share) + 1
    highest = n + 1 - lowest
    for i in range(n):
        reordered[i] = values[i]
    low = order_statistic(reordered[:n], lowest - 1)
    high = order_statistic(reordered[lowest - 1 : n], highest - lowest)
    below_low = up_to_low = below_high = up_to_high = 0
    for value in values:
        below_low += value < low
        up_to_low += value <= low
        below_high += value < high
        up_to_high += value <= high
    # a tie at the edge is kept or trimmed whole; twice the average rank is the sum of its first and last rank
    if below_low + 1 + up_to_low < 2 * lowest:
        low = np.nextafter(low, np.inf)
    if below_high + 1 + up_to_high > 2 * highest:
        high = np.nextafter(high, -np.inf)
    return low, high


@compiled
def _trimmed_means(
    rows: Rows,
    sizes: NDArray[np.float64],
    reference_share: NDArray[np.float64],
    reference_log: NDArray[np.float64],
    reference_variance: NDArray[np.float64],
    start: int,
    stop: int,
    factors: NDArray[np.float64],
) -> None:
    """Unscaled TMM factor of each sample; the logarithm is that of the C library, as in R, because ranks depend on its last bit."""
    indptr, indices, data = rows
    n_most = 0
    for row in range(start, stop):
        n_most = max(n_most, indptr[row + 1] - indptr[row])
    log_ratios, abundances, variances, reordered = np.empty(n_most), np.empty(n_most), np.empty(n_most), np.empty(n_most)
    for row in range(start, stop):
        size = sizes[row]
        n = 0
        largest = 0.0
        for k in range(indptr[row], indptr[row + 1]):
            gene = indices[k]
            count = np.float64(data[k])
            if count > 0 and reference_share[gene] > 0:
                share = count / size
                log_ratios[n] = math.log2(share / reference_share[gene])
                abundances[n] = (math.log2(share) + reference_log[gene]) / 2
                variances[n] = (size - count) / size / count + reference_variance[gene]
                largest = max(largest, abs(log_ratios[n]))
                n += 1
        factors[row] = 1.0
        if largest < _NO_SCALING:
            continue
        low_ratio, high_ratio = _untrimmed_range(log_ratios[:n], LOG_RATIO_TRIM, reordered)
        low_abundance, high_abundance = _untrimmed_range(abundances[:n], ABUNDANCE_TRIM, reordered)
        weighted = weights = 0.0
        for i in range(n):
            if low_ratio <= log_ratios[i] <= high_ratio and low_abundance <= abundances[i] <= high_abundance:
                weighted += log_ratios[i] / variances[i]
                weights += 1 / variances[i]
        # both trims together may leave no gene
        if weights > 0:
            factors[row] = 2.0 ** (weighted / weights)


def tmm_factors(
    counts: sparse.csr_array | sparse.csr_matrix, kept: NDArray[np.bool_], library_sizes_of_kept: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Normalization factors by the trimmed mean of M values, those of edgeR's ``calcNormFactors`` with its defaults.

    Robinson and Oshlack (2010), Genome Biology 11:R25; the details are edgeR 3.40.2's. Genes without any count do not take part; the
    factors multiply to 1.

    Parameters
    ----------
    counts
        Samples × genes, whole numbers of any dtype; what :func:`library_sizes` accepts.
    kept
        Genes that take part, one value a gene.
    library_sizes_of_kept
        Sum of each sample's counts over those genes, as :func:`library_sizes` gives it.

    Returns
    -------
    numpy.ndarray
        One factor a sample; all 1 if there is one sample or no count at all.

    Raises
    ------
    InputError
        If a sample has no count in the kept genes while others have, where edgeR stops, too.
    """
    rows = stored_rows(counts, kept)
    n_samples, n_genes = counts.shape
    sizes = library_sizes_of_kept
    present = np.zeros(n_genes, dtype=np.bool_)
    _by_rows(lambda start, stop: _mark_present(rows, start, stop, present), n_samples)
    present &= kept
    if n_samples == 1 or not present.any():
        return np.ones(n_samples)
    empty = np.flatnonzero(sizes <= 0)
    if len(empty):
        raise InputError(
            f"{len(empty):,} samples have no count in the {int(kept.sum()):,} kept genes and cannot be normalized (rows counted from 0)",
            rows=empty.tolist(),
            advice="Leave these samples out.",
        )

    reference = _reference_sample(rows, present, sizes)
    indptr, indices, data = rows
    entries = slice(indptr[reference], indptr[reference + 1])
    count = np.zeros(n_genes)
    count[indices[entries]] = data[entries]
    count[~kept] = 0
    share = count / sizes[reference]
    compared = count > 0
    logarithm, variance = np.zeros(n_genes), np.zeros(n_genes)
    # NumPy's own log2 differs from the C library's in the last bit
    logarithm[compared] = [math.log2(value) for value in share[compared]]
    variance[compared] = (sizes[reference] - count[compared]) / sizes[reference] / count[compared]

    factors = np.empty(n_samples)
    _by_rows(lambda start, stop: _trimmed_means(rows, sizes, share, logarithm, variance, start, stop, factors), n_samples)
    scaled: NDArray[np.float64] = factors / np.exp(np.mean(np.log(factors)))
    return scaled
