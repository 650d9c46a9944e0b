"""Ranking: what is computed once for each signature, so that comparing two costs as little as can be.

Belongs here: ranks, orders and sets of one signature over one set of genes. Does not belong here: comparing two signatures
(``comparing.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.agreement.metrics import LARGE_LOG_FC, TOP_SIGNED, significant
from perturbridge_dagster.agreement.signatures import blocks
from perturbridge_dagster.compiled import compiled, n_cores, on_all_cores


class Ranked(NamedTuple):
    """Signatures over genes for which all of them have values; made by :func:`ranked`.

    Attributes
    ----------
    log_fc
        float32, shape (signatures, genes).
    below
        Number of genes with a smaller logFC; its complement (-1 less the number) for a gene whose logFC others share. int32, same shape.
    rank_log_fc, rank_t
        Average ranks less their mean, float32 (exact: whole and half numbers), shape (signatures, genes).
    squares_log_fc, squares_t
        Sums of their squares, shape (signatures,).
    extreme
        1 for the genes with the largest t, -1 for those with the smallest, else 0; int8, shape (signatures, genes).
    extreme_genes
        These genes, the smallest first; int32, shape (signatures, 2 × their number on one side).
    significant_genes
        Significant genes of all signatures one after the other, by falling abs logFC, equal ones in gene order; int32.
    start
        Where those of a signature start, shape (signatures + 1,).
    n_significant
        Significant genes, and of these those with a large logFC, which come first; int64, shape (2, signatures).
    place
        Place of a gene among the significant ones, -1 elsewhere; int32, shape (signatures, genes).
    within
        Centred average ranks of logFC among the significant genes of either kind, beside `significant_genes`; float32, shape (2, their
        number).
    squares_within
        Sums of their squares, shape (2, signatures).
    """

    log_fc: NDArray[np.float32]
    below: NDArray[np.int32]
    rank_log_fc: NDArray[np.float32]
    rank_t: NDArray[np.float32]
    squares_log_fc: NDArray[np.float64]
    squares_t: NDArray[np.float64]
    extreme: NDArray[np.int8]
    extreme_genes: NDArray[np.int32]
    significant_genes: NDArray[np.int32]
    start: NDArray[np.int64]
    n_significant: NDArray[np.int64]
    place: NDArray[np.int32]
    within: NDArray[np.float32]
    squares_within: NDArray[np.float64]


@compiled
def _rank_rows(
    values: NDArray[np.float32],
    order: NDArray[np.int32],
    first: int,
    last: int,
    below: NDArray[np.int32],
    ranks: NDArray[np.float32],
    squares: NDArray[np.float64],
) -> None:
    """Smaller values and centred average ranks, rows `first` to `last`, from an order in which equal values may lie anyhow.

    That is put right: equal values then lie in gene order.
    """
    n_genes = values.shape[1]
    for row in range(first, last):
        start, total = 0, 0.0
        while start < n_genes:
            stop = start + 1
            value = values[row, order[row, start]]
            while stop < n_genes and values[row, order[row, stop]] == value:
                stop += 1
            if stop - start > 1:
                order[row, start:stop] = np.sort(order[row, start:stop])
            centred = (start + stop - n_genes) / 2
            for k in range(start, stop):
                ranks[row, order[row, k]] = centred
                below[row, order[row, k]] = start if stop - start == 1 else -1 - start
            total += (stop - start) * centred * centred
            start = stop
        squares[row] = total


@compiled
def _strongest_first(
    log_fc: NDArray[np.float32], order: NDArray[np.int32], member: NDArray[np.bool_], strongest: NDArray[np.int32]
) -> None:
    """Members of one signature by falling abs logFC, equal ones in gene order, taken from both ends of the order of logFC."""
    low, high, n = 0, len(order) - 1, 0
    while low <= high:
        if abs(log_fc[order[low]]) > abs(log_fc[order[high]]):
            gene = order[low]
            low += 1
        else:
            gene = order[high]
            high -= 1
        if member[gene]:
            strongest[n] = gene
            n += 1
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and abs(log_fc[strongest[stop]]) == abs(log_fc[strongest[start]]):
            stop += 1
        if stop - start > 1:
            strongest[start:stop] = np.sort(strongest[start:stop])
        start = stop


@compiled
def _rank_within(
    log_fc: NDArray[np.float32], order: NDArray[np.int32], place: NDArray[np.int32], n: int, within: NDArray[np.float32]
) -> float:
    """Centred average ranks of one signature's logFC among its `n` strongest significant genes; gives the sum of their squares.

    They lie as those genes do.
    """
    members = np.empty(n, dtype=np.int32)
    found = 0
    for k in range(len(order)):
        if 0 <= place[order[k]] < n:
            members[found] = order[k]
            found += 1
    start, total = 0, 0.0
    while start < n:
        stop = start + 1
        while stop < n and log_fc[members[stop]] == log_fc[members[start]]:
            stop += 1
        centred = (start + stop - n) / 2
        for k in range(start, stop):
            within[place[members[k]]] = centred
        total += (stop - start) * centred * centred
        start = stop
    return total


@compiled
def _rank_significant(
    log_fc: NDArray[np.float32],
    order: NDArray[np.int32],
    member: NDArray[np.bool_],
    first: int,
    last: int,
    start: NDArray[np.int64],
    n_significant: NDArray[np.int64],
    genes: NDArray[np.int32],
    place: NDArray[np.int32],
    within: NDArray[np.float32],
    squares: NDArray[np.float64],
) -> None:
    for row in range(first, last):
        strongest = genes[start[row] : start[row + 1]]
        _strongest_first(log_fc[row], order[row], member[row], strongest)
        for k in range(len(strongest)):
            place[row, strongest[k]] = k
        for kind in range(2):
            squares[kind, row] = _rank_within(
                log_fc[row], order[row], place[row], n_significant[kind, row], within[kind, start[row] : start[row + 1]]
            )


def _shares(n: int) -> list[tuple[int, int]]:
    """Ranges of rows, a few for each core."""
    step = max(1, -(-n // (4 * n_cores())))
    return [(first, min(first + step, n)) for first in range(0, n, step)]


class _Ordered(NamedTuple):
    order: NDArray[np.int32]
    below: NDArray[np.int32]
    ranks: NDArray[np.float32]
    squares: NDArray[np.float64]


def _ordered(values: NDArray[np.float32]) -> _Ordered:
    """Order, smaller values, centred average ranks and sums of their squares, row by row."""
    order, below = np.empty((2, *values.shape), dtype=np.int32)
    found = _Ordered(order, below, np.empty(values.shape, dtype=np.float32), np.empty(len(values)))

    def one(share: tuple[int, int]) -> None:
        order[slice(*share)] = np.argsort(values[slice(*share)], axis=1)
        _rank_rows(values, order, *share, below, found.ranks, found.squares)

    on_all_cores(one, _shares(len(values)))
    return found


def centred_ranks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average ranks of finite values of each row less their mean; exact: whole and half numbers. Shape (signatures, genes)."""
    ranks = np.empty(values.shape, dtype=np.float32)
    for block in blocks(*values.shape):
        ranks[block] = _ordered(np.ascontiguousarray(values[block], dtype=np.float32)).ranks
    return ranks


def ranked(log_fc: NDArray[np.float32], t: NDArray[np.float32], log10_adj_p: NDArray[np.float32] | None) -> Ranked:
    """Rank signatures.

    Parameters
    ----------
    log_fc, t
        float32, shape (signatures, genes), all finite.
    log10_adj_p
        log10 of the adjusted P, same shape; None for centroids, which have none: all their genes may then be ranked among the strongest.
    """
    n, n_genes = log_fc.shape
    by_log_fc, by_t = _ordered(log_fc), _ordered(t)
    k = min(TOP_SIGNED, n_genes // 2)
    extreme_genes = np.concatenate([by_t.order[:, :k], by_t.order[:, n_genes - k :]], axis=1)
    extreme = np.zeros(log_fc.shape, dtype=np.int8)
    np.put_along_axis(extreme, by_t.order[:, :k], -1, axis=1)
    np.put_along_axis(extreme, by_t.order[:, n_genes - k :], 1, axis=1)
    member = np.ones(log_fc.shape, dtype=np.bool_) if log10_adj_p is None else significant(log_fc, log10_adj_p)
    # Compared in float32, as stored.
    large = member if log10_adj_p is None else member & (np.abs(log_fc) > np.float32(LARGE_LOG_FC))
    n_significant = np.stack([member.sum(axis=1), large.sum(axis=1)]).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(n_significant[0])]).astype(np.int64)
    genes = np.empty(start[-1], dtype=np.int32)
    place = np.full(log_fc.shape, -1, dtype=np.int32)
    within, squares = np.zeros((2, len(genes)), dtype=np.float32), np.zeros((2, n))

    def one(share: tuple[int, int]) -> None:
        _rank_significant(log_fc, by_log_fc.order, member, *share, start, n_significant, genes, place, within, squares)

    on_all_cores(one, _shares(n))
    return Ranked(
        log_fc=log_fc,
        below=by_log_fc.below,
        rank_log_fc=by_log_fc.ranks,
        rank_t=by_t.ranks,
        squares_log_fc=by_log_fc.squares,
        squares_t=by_t.squares,
        extreme=extreme,
        extreme_genes=extreme_genes,
        significant_genes=genes,
        start=start,
        n_significant=n_significant,
        place=place,
        within=within,
        squares_within=squares,
    )
