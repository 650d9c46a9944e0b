"""Comparing: all metrics of many pairs of signatures at once.

Belongs here: scores of pairs of signatures, and of every signature with every other. Does not belong here: what a metric means
(``metrics.py``), which signatures are compared (``scoring.py``), or baselines (``baselines.py``, ``peers.py``).

A gene counts for a pair where logFC and t are finite on both sides. Signatures that have values for the same genes are ranked once;
where the genes differ, those of a pair are ranked again over the genes it has in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.agreement.metrics import METRICS, TOP_OVERLAPS
from perturbridge_dagster.agreement.ranking import Ranked, ranked
from perturbridge_dagster.compiled import compiled, on_all_cores
from perturbridge_dagster.contract import METRIC_NAMES

Positions = NDArray[np.int64]

_FEWEST_GENES = 2
"""Fewest genes of a correlation."""
_SIGNED = METRIC_NAMES.index("signed_overlap_t_top50")
_SPEARMAN = METRIC_NAMES.index("deg_spearman_p05")
_DIRECTION = METRIC_NAMES.index("direction_agreement_p05")
_OVERLAP = METRIC_NAMES.index("de_overlap_reference_n")
_TOP = METRIC_NAMES.index("de_overlap_top50")
"""Columns of metrics; that of a large logFC follows, and the larger tops do. Correlations over all genes are the first two."""

_FEWEST_PAIRS = 64
"""Fewest pairs for which another core is asked."""


@dataclass(frozen=True)
class Scores:
    """Scores of pairs by each metric.

    Attributes
    ----------
    score
        float64, shape (metrics, …); NaN where undefined.
    n_genes
        Genes that the score counts, int64, same shape.
    """

    score: NDArray[np.float64]
    n_genes: NDArray[np.int64]

    @classmethod
    def undefined(cls, *shape: int) -> Scores:
        """Scores of pairs without genes."""
        return cls(np.full((len(METRICS), *shape), np.nan), np.zeros((len(METRICS), *shape), dtype=np.int64))

    def at_least(self, minimum_genes: Mapping[str, int]) -> Scores:
        """The scores that count as many genes as asked; the others undefined.

        Parameters
        ----------
        minimum_genes
            Fewest genes by metric; what the published definition needs holds without it.
        """
        minimum = np.array([max(metric.minimum_genes, minimum_genes.get(name, 0)) for name, metric in METRICS.items()])
        enough = self.n_genes >= minimum.reshape(-1, *[1] * (self.n_genes.ndim - 1))
        return Scores(np.where(enough, self.score, np.nan), self.n_genes)


@dataclass(frozen=True)
class Signatures:
    """Signatures over one list of genes, ranked when they are first compared.

    Attributes
    ----------
    log_fc, t
        float32, shape (signatures, genes); NaN where a gene has no value.
    log10_adj_p
        log10 of the adjusted P within the contrast, same shape; None for centroids, which have no P values.
    """

    log_fc: NDArray[np.float32]
    t: NDArray[np.float32]
    log10_adj_p: NDArray[np.float32] | None = None
    _whole: dict[int, Ranked] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.log_fc)

    @cached_property
    def _patterns(self) -> tuple[NDArray[np.bool_], Positions]:
        """Distinct sets of genes with values, shape (sets, genes), and which set each signature has."""
        finite = np.isfinite(self.log_fc) & np.isfinite(self.t)
        if finite.all():
            return finite[:1], np.zeros(len(self), dtype=np.int64)
        packed = np.packbits(finite, axis=1)
        _, first, pattern = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        return finite[first], pattern.reshape(-1).astype(np.int64)

    @property
    def patterns(self) -> tuple[NDArray[np.bool_], Positions]:
        """Distinct sets of genes with values, shape (sets, genes), and which set each signature has."""
        return self._patterns

    def take(self, rows: Positions) -> Signatures:
        """Some of the signatures."""
        return Signatures(self.log_fc[rows], self.t[rows], None if self.log10_adj_p is None else self.log10_adj_p[rows])

    def _rank(self, rows: Positions, genes: NDArray[np.bool_]) -> Ranked:
        layers = (self.log_fc, self.t, self.log10_adj_p)
        everything = len(rows) == len(self) and genes.all()
        parts = [None if layer is None else layer if everything else layer[np.ix_(rows, genes)] for layer in layers]
        return ranked(parts[0], parts[1], parts[2])  # type: ignore[arg-type]

    def ranked(self, pattern: int, rows: Positions, genes: NDArray[np.bool_]) -> tuple[Ranked, Positions]:
        """Ranked signatures of one pattern over `genes`, and where among them those at `rows` lie."""
        sets, of = self.patterns
        if not np.array_equal(sets[pattern], genes):
            distinct, position = np.unique(rows, return_inverse=True)
            return self._rank(distinct, genes), position.astype(np.int64)
        members = np.flatnonzero(of == pattern)
        if pattern not in self._whole:
            self._whole[pattern] = self._rank(members, genes)
        return self._whole[pattern], np.searchsorted(members, rows).astype(np.int64)


@compiled
def _correlation(products: float, left: float, right: float) -> float:
    if left <= 0 or right <= 0:
        return np.nan
    correlation: float = products / np.sqrt(left * right)
    return min(1.0, max(-1.0, correlation))


@compiled
def _ones(word: np.uint64) -> np.int64:
    """Number of bits that are set."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _smaller(words: NDArray[np.uint64], smaller: NDArray[np.int32], place: int) -> np.int64:
    """Number of bits that are set below `place`."""
    before = np.int64(smaller[place >> 6])
    return before + _ones(words[place >> 6] & ((np.uint64(1) << np.uint64(place & 63)) - np.uint64(1)))


@compiled
def _within_other(
    reference: Ranked, i: int, kind: int, other: Ranked, j: int, places: NDArray[Any], words: NDArray[Any], smaller: NDArray[Any]
) -> float:
    """Spearman of logFC over the significant genes of signature `i`, of one kind.

    Among these genes the other's logFC has to be ranked anew for each pair. Nothing is sorted: each gene sets a bit at its place among
    all genes of the other, and its rank is the number of bits below.
    """
    n, start = reference.n_significant[kind, i], reference.start[i]
    if n < 2:
        return np.nan
    n_genes = other.below.shape[1]
    words[:] = 0
    for k in range(n):
        below = other.below[j, reference.significant_genes[start + k]]
        places[k] = below
        place = max(below, -1 - below)
        # Genes with equal values start at one place; each takes the next that is free.
        while below < 0 and words[place >> 6] >> np.uint64(place & 63) & np.uint64(1):
            place += 1
        words[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
    total = np.int64(0)
    for word in range(len(words)):
        smaller[word] = total
        total += _ones(words[word])
    products, squares = 0.0, -n * ((n + 1) / 2) ** 2
    for k in range(n):
        if places[k] >= 0:
            rank = _smaller(words, smaller, places[k]) + 1.0
        else:
            first = -1 - places[k]
            # The average rank over all genes tells where the run of equal values ends.
            after = np.int64(2 * other.rank_log_fc[j, reference.significant_genes[start + k]]) + n_genes - first
            rank = (_smaller(words, smaller, first) + _smaller(words, smaller, after) + 1) / 2
        products += rank * reference.within[kind, start + k]
        squares += rank * rank
    return _correlation(products, reference.squares_within[kind, i], squares)


@compiled
def _compare_significant(
    left: Ranked,
    i: int,
    right: Ranked,
    j: int,
    centroid: bool,
    tops: tuple[int, int, int],
    places: NDArray[Any],
    words: NDArray[Any],
    smaller: NDArray[Any],
    values: NDArray[Any],
    n_genes: NDArray[Any],
) -> None:
    """Metrics of significant genes of one pair."""
    n = min(left.n_significant[0, i], right.n_significant[0, j])
    n_genes[_OVERLAP:] = n
    all_large = left.n_significant[0, i] == left.n_significant[1, i] and right.n_significant[0, j] == right.n_significant[1, j]
    for kind in range(2):
        fewer = min(left.n_significant[kind, i], right.n_significant[kind, j])
        n_genes[_SPEARMAN + kind] = fewer
        if fewer >= 2 and kind == 1 and all_large:
            values[_SPEARMAN + 1] = values[_SPEARMAN]
        elif fewer >= 2:
            score = _within_other(left, i, kind, right, j, places, words, smaller)
            values[_SPEARMAN + kind] = score if centroid else (score + _within_other(right, j, kind, left, i, places, words, smaller)) / 2
    shared, same, shared_large, same_large, common = 0, 0, 0, 0, 0
    in_top = np.zeros(len(tops), dtype=np.int64)
    start = left.start[i]
    for p in range(left.n_significant[0, i]):
        gene = left.significant_genes[start + p]
        q = right.place[j, gene]
        if q < 0:
            continue
        agrees = np.sign(left.log_fc[i, gene]) == np.sign(right.log_fc[j, gene])
        shared += 1
        same += agrees
        if p < left.n_significant[1, i] and q < right.n_significant[1, j]:
            shared_large += 1
            same_large += agrees
        lower = max(p, q)
        common += lower < n
        for top in range(len(tops)):
            in_top[top] += lower < tops[top]
    n_genes[_DIRECTION], n_genes[_DIRECTION + 1] = shared, shared_large
    if shared:
        values[_DIRECTION] = same / shared
    if shared_large:
        values[_DIRECTION + 1] = same_large / shared_large
    if n:
        values[_OVERLAP] = common / n
    for top in range(len(tops)):
        if n >= tops[top]:
            values[_TOP + top] = in_top[top] / tops[top]


@compiled
def _compare(
    left: Ranked,
    i: Positions,
    right: Ranked,
    j: Positions,
    first: int,
    last: int,
    centroid: bool,
    correlate: bool,
    tops: tuple[int, int, int],
    values: NDArray[np.float64],
    n_genes: NDArray[np.int64],
) -> None:
    """All metrics of pairs `first` to `last`; correlations over all genes only where asked. Shape of results: (pairs, metrics)."""
    n_total = left.log_fc.shape[1]
    per_side = left.extreme_genes.shape[1] // 2
    places = np.zeros(n_total, dtype=np.int32)
    # One word more, for the place after the last gene.
    words, smaller = np.zeros(n_total // 64 + 1, dtype=np.uint64), np.zeros(n_total // 64 + 1, dtype=np.int32)
    for pair in range(first, last):
        a, b = i[pair], j[pair]
        n_genes[pair, : _SIGNED + 1] = n_total
        if correlate and n_total >= 2:
            products, products_t = 0.0, 0.0
            for gene in range(n_total):
                products += np.float64(left.rank_log_fc[a, gene]) * right.rank_log_fc[b, gene]
                products_t += np.float64(left.rank_t[a, gene]) * right.rank_t[b, gene]
            values[pair, 0] = _correlation(products, left.squares_log_fc[a], right.squares_log_fc[b])
            values[pair, 1] = _correlation(products_t, left.squares_t[a], right.squares_t[b])
        if per_side:
            common = 0
            for k in range(2 * per_side):
                common += right.extreme[b, left.extreme_genes[a, k]] == (-1 if k < per_side else 1)
            values[pair, _SIGNED] = common / (2 * per_side)
        _compare_significant(left, a, right, b, centroid, tops, places, words, smaller, values[pair], n_genes[pair])


def _scores(left: Ranked, i: Positions, right: Ranked, j: Positions, centroid: bool, correlate: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    values, n_genes = np.full((len(i), len(METRICS)), np.nan), np.zeros((len(i), len(METRICS)), dtype=np.int64)
    step = max(_FEWEST_PAIRS, -(-len(i) // 8))

    def one(first: int) -> None:
        _compare(left, i, right, j, first, min(first + step, len(i)), centroid, correlate, TOP_OVERLAPS, values, n_genes)

    if len(i) <= step:
        one(0)
    else:
        on_all_cores(one, range(0, len(i), step))
    return values, n_genes


def _in_common(
    left: Signatures, left_rows: Positions, right: Signatures, right_rows: Positions
) -> Iterator[tuple[NDArray[np.bool_], int, int, NDArray[np.bool_]]]:
    """Sets of genes with values that occur together: whether pairs have them, the two patterns, and the genes in common."""
    (left_sets, left_of), (right_sets, right_of) = left.patterns, right.patterns
    together = left_of[left_rows] * len(right_sets) + right_of[right_rows]
    for both in np.unique(together):
        x, y = divmod(int(both), len(right_sets))
        yield together == both, x, y, left_sets[x] & right_sets[y]


def compare_pairs(left: Signatures, right: Signatures, left_rows: Positions, right_rows: Positions) -> Scores:
    """Compare pairs of signatures by all metrics.

    Parameters
    ----------
    left, right
        Signatures over the same genes. Those of `right` may be centroids, those of `left` not.
    left_rows, right_rows
        Which make a pair, shape (pairs,).

    Returns
    -------
    Shape (metrics, pairs). With a centroid the significant genes are those of the left signature, and the centroid's genes are all
    ranked by abs logFC.
    """
    left_rows, right_rows = np.asarray(left_rows, dtype=np.int64), np.asarray(right_rows, dtype=np.int64)
    found = Scores.undefined(len(left_rows))
    for here, x, y, genes in _in_common(left, left_rows, right, right_rows):
        if genes.any():
            sides = [side.ranked(p, rows[here], genes) for side, p, rows in ((left, x, left_rows), (right, y, right_rows))]
            values, n_genes = _scores(*sides[0], *sides[1], right.log10_adj_p is None, True)
            found.score[:, here], found.n_genes[:, here] = values.T, n_genes.T
    return found


def _correlations(left: NDArray[np.float32], right: NDArray[np.float32], squares: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Correlations of all rows by all rows; products in float64 are exact, so that they equal those of single pairs."""
    scale = np.sqrt(squares[:, None] * others[None, :])
    correlations = np.full(scale.shape, np.nan)
    np.divide(left.astype(np.float64) @ right.astype(np.float64).T, scale, out=correlations, where=scale > 0)
    return np.clip(correlations, -1, 1)


def compare_all(left: Signatures, right: Signatures, left_rows: Positions, right_rows: Positions) -> Scores:
    """Compare each of some signatures with each of others by all metrics.

    Parameters
    ----------
    left, right
        Signatures over the same genes, none of them centroids.
    left_rows, right_rows
        Which are compared: every one of the first with every one of the second.

    Returns
    -------
    Shape (metrics, left rows, right rows).
    """
    left_rows, right_rows = np.asarray(left_rows, dtype=np.int64), np.asarray(right_rows, dtype=np.int64)
    found = Scores.undefined(len(left_rows), len(right_rows))
    (left_sets, left_of), (right_sets, right_of) = left.patterns, right.patterns
    for x in np.unique(left_of[left_rows]):
        for y in np.unique(right_of[right_rows]):
            genes = left_sets[x] & right_sets[y]
            if not genes.any():
                continue
            here, there = np.flatnonzero(left_of[left_rows] == x), np.flatnonzero(right_of[right_rows] == y)
            (mine, i), (other, j) = left.ranked(int(x), left_rows[here], genes), right.ranked(int(y), right_rows[there], genes)
            values, n_genes = _scores(mine, np.repeat(i, len(j)), other, np.tile(j, len(i)), False, False)
            shape = (len(i), len(j), len(METRICS))
            at = np.ix_(np.arange(len(METRICS)), here, there)
            found.score[at], found.n_genes[at] = (part.reshape(shape).transpose(2, 0, 1) for part in (values, n_genes))
            if genes.sum() >= _FEWEST_GENES:
                for metric, (rank, squares) in enumerate((("rank_log_fc", "squares_log_fc"), ("rank_t", "squares_t"))):
                    found.score[metric][np.ix_(here, there)] = _correlations(
                        getattr(mine, rank)[i], getattr(other, rank)[j], getattr(mine, squares)[i], getattr(other, squares)[j]
                    )
    return found
