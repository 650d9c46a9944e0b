"""Which genes of a stratum have counts enough to be tested.

Belongs here: the rules, on counts and what the design says of itself (its largest leverage). Does not belong here: the design
(``design.py``), normalization of the genes that are left (``normalize.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.compiled import compiled, n_cores, on_all_cores
from perturbridge_dagster.effects.normalize import Rows, library_sizes, row_blocks, stored_rows
from perturbridge_dagster.errors import InputError

MIN_COUNT = 10
"""Count that a sample of median library size must reach (edgeR's ``min.count``)."""

MIN_TOTAL_COUNT = 15
"""Count that all samples together must reach (edgeR's ``min.total.count``)."""

_LARGE_GROUP = 10  # edgeR: of a group's samples beyond so many, a share is enough
_SHARE_BEYOND = 0.7
_TOLERANCE = 1e-14


@dataclass(frozen=True)
class GeneFilter:
    """Which genes a filter keeps, and what it saw of each.

    Attributes
    ----------
    kept
        Whether the gene is kept.
    support
        Number of samples whose counts per million reach the cut-off.
    total_count
        Sum of the counts of all samples.
    min_samples
        Samples that must reach the cut-off.
    cut_off_cpm
        Counts per million that are :data:`MIN_COUNT` counts at the median library size.
    """

    kept: NDArray[np.bool_]
    support: NDArray[np.int64]
    total_count: NDArray[np.int64]
    min_samples: float
    cut_off_cpm: float


@compiled
def _count_genes(
    rows: Rows, sizes: NDArray[np.float64], cut_off: float, start: int, stop: int, support: NDArray[np.int64], total: NDArray[np.int64]
) -> None:
    indptr, indices, data = rows
    for row in range(start, stop):
        # edgeR's order of operations: another one differs in the last bit, which decides at a count of exactly the cut-off
        per_million = 1e6 / sizes[row]
        for k in range(indptr[row], indptr[row + 1]):
            gene = indices[k]
            total[gene] += int(data[k])
            support[gene] += data[k] * per_million >= cut_off


def _count(counts: sparse.csr_array | sparse.csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Support and total count of every gene, and the cut-off in counts per million."""
    rows = stored_rows(counts)
    n_samples, n_genes = counts.shape
    sizes = library_sizes(counts)
    empty = np.flatnonzero(sizes == 0)
    if n_samples == 0 or (n_genes and len(empty)):
        raise InputError(
            f"{len(empty):,} of {n_samples:,} samples have no count at all, so that no counts per million can be had (rows counted from 0)",
            rows=empty.tolist(),
            expected="one sample or more, each with counts",
            advice="Leave these samples out.",
        )
    median = float(np.median(sizes))
    cut_off = MIN_COUNT / median * 1e6 if median else np.inf
    blocks = row_blocks(n_samples, n_cores())
    support, total = np.zeros((2, len(blocks), n_genes), dtype=np.int64)

    def count(block: int) -> None:
        _count_genes(rows, sizes, cut_off, *blocks[block], support[block], total[block])

    on_all_cores(count, range(len(blocks)))
    return support.sum(axis=0), total.sum(axis=0), cut_off


def filter_by_expression(counts: sparse.csr_array | sparse.csr_matrix, max_leverage: float) -> GeneFilter:
    """The rule of edgeR: that of ``filterByExpr`` with a design and its defaults, gene by gene the same answer.

    The smallest group is taken to have 1 / `max_leverage` samples; of those beyond 10, 70 % are enough. As many samples must reach the
    cut-off, and all samples together :data:`MIN_TOTAL_COUNT` counts. Chen, Lun and Smyth (2016), F1000Research 5:1438; edgeR 3.40.2.

    Parameters
    ----------
    counts
        Samples × genes, whole numbers of any dtype, at most one entry a sample and gene.
    max_leverage
        Largest diagonal element of the design's hat matrix; 1 if a condition has a single sample.

    Raises
    ------
    InputError
        If there is no sample, a sample has no count, or a count is not a whole number or there twice.
    """
    support, total, cut_off = _count(counts)
    min_samples = 1 / max_leverage
    if min_samples > _LARGE_GROUP:
        min_samples = _LARGE_GROUP + (min_samples - _LARGE_GROUP) * _SHARE_BEYOND
    kept = (support >= min_samples - _TOLERANCE) & (total >= MIN_TOTAL_COUNT)
    return GeneFilter(kept, support, total, min_samples, cut_off)


def filter_supported(counts: sparse.csr_array | sparse.csr_matrix, share: float) -> GeneFilter:
    """Keep the genes that reach edgeR's cut-off in a share of the samples, whatever the design.

    Parameters
    ----------
    counts
        Samples × genes, whole numbers of any dtype, at most one entry a sample and gene.
    share
        Share of the samples that must reach the cut-off, above 0 and at most 1.

    Raises
    ------
    InputError
        If the share is out of range, there is no sample, a sample has no count, or a count is not a whole number or there twice.
    """
    if not 0 < share <= 1:
        raise InputError(f"{share:g} is no share of the samples that can be asked for", expected="a number above 0 and at most 1")
    support, total, cut_off = _count(counts)
    n_samples = counts.shape[0]
    # the first number of samples whose share is enough: 7 of 100 are 0.07, but 0.07 · 100 is more than 7
    min_samples: Any = np.searchsorted(np.arange(n_samples + 1) / n_samples, share)
    kept = (support >= min_samples) & (total >= MIN_TOTAL_COUNT)
    return GeneFilter(kept, support, total, float(min_samples), cut_off)
