"""Similarity: how high signatures of the same compound stand among all candidates.

Belongs here: what stands for a signature, similarities of many signatures with many, and the ranks of pairs of them; pure functions
on arrays. Does not belong here: which signatures are queries, candidates and positives (``retrieval.py``,
``replicate_retrieval.py``), what chance would give (``null.py``).

Similarities are matrix products, a block of queries at a time. Two of them that differ by less than rounding are tied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.agreement.ranking import centred_ranks
from perturbridge_dagster.agreement.signatures import blocks

LEAST_LOG10_P = -300.0
"""Adjusted P values below 1e-300 count as this, so that signed significance is bounded."""

ROUNDING = 1e-12

PRODUCTS_KEPT = 2**25
"""Inner products kept, so that two similarities and both directions share them: a quarter of a gigabyte."""

Similarity = Literal["euclidean", "cosine", "spearman"]
SIMILARITIES: tuple[Similarity, ...] = ("euclidean", "cosine", "spearman")


@dataclass(frozen=True)
class Representation:
    """What stands for a signature in retrieval.

    Attributes
    ----------
    layers
        Layers of the effects that it is made of.
    value
        Makes values of shape (rows, genes) of these layers.
    """

    layers: tuple[str, ...]
    value: Callable[[Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]


def signed_significance(layers: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """-log10 of the P value adjusted within the contrast, with the sign of logFC."""
    significance = -np.maximum(layers["log10_adj_p_within"], np.float32(LEAST_LOG10_P))
    return significance * np.sign(layers["logFC"])


REPRESENTATIONS = {
    "logFC": Representation(("logFC",), lambda layers: layers["logFC"]),
    "t": Representation(("t",), lambda layers: layers["t"]),
    "signed_significance": Representation(("logFC", "log10_adj_p_within"), signed_significance),
}
"""Representations by the name they have in the contract."""


@dataclass(frozen=True)
class Vectors:
    """Signatures made ready for one similarity.

    Attributes
    ----------
    values
        Shape (signatures, genes), float32: values for Euclidean distance and cosine, centred ranks for Spearman.
    squares
        Sum of squared values of each signature, float64.
    """

    values: NDArray[np.float32]
    squares: NDArray[np.float64]

    def at(self, rows: NDArray[np.int64]) -> Vectors:
        """The signatures at some positions."""
        return Vectors(self.values[rows], self.squares[rows])


def prepare(values: NDArray[np.float32], similarities: Sequence[Similarity]) -> dict[Similarity, Vectors]:
    """Make signatures ready for similarities.

    Parameters
    ----------
    values
        Finite values, shape (signatures, genes).
    similarities
        Which ones. Euclidean distance and cosine share their vectors.
    """

    def vectors(values: NDArray[np.float32]) -> Vectors:
        return Vectors(values, np.einsum("ij,ij->i", values, values, dtype=np.float64))

    plain = vectors(values) if set(similarities) - {"spearman"} else None
    ranks = vectors(centred_ranks(values)) if "spearman" in similarities else None
    return {name: ready for name in similarities if (ready := ranks if name == "spearman" else plain) is not None}


class Products:
    """Inner products of every query with every candidate, kept where they fit in memory.

    Parameters
    ----------
    queries, candidates
        Signatures over the same genes.
    """

    def __init__(self, queries: Vectors, candidates: Vectors) -> None:
        self.queries, self.candidates = queries, candidates
        self._whole: NDArray[np.float64] | None = None
        if len(queries.values) * len(candidates.values) <= PRODUCTS_KEPT:
            self._whole = self._computed(np.arange(len(queries.values)))

    def _computed(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        candidates = self.candidates.values
        products = np.empty((len(rows), len(candidates)))
        for here in blocks(len(rows), candidates.shape[1]):
            queries = self.queries.values[rows[here]].astype(np.float64)
            for there in blocks(*candidates.shape):
                products[here, there] = queries @ candidates[there].astype(np.float64).T
        return products

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Products of some queries, shape (rows, candidates)."""
        return self._computed(rows) if self._whole is None else self._whole[rows]

    def reversed(self) -> Products:
        """The same with candidates as queries, not computed again where they are kept."""
        turned = copy.copy(self)
        turned.queries, turned.candidates = self.candidates, self.queries
        turned._whole = None if self._whole is None else self._whole.T
        return turned


def products_of(queries: Mapping[Similarity, Vectors], candidates: Mapping[Similarity, Vectors]) -> dict[Similarity, Products]:
    """Products for each similarity; those that share vectors share them."""
    made: dict[int, Products] = {}
    for name, ready in queries.items():
        if id(ready) not in made:
            made[id(ready)] = Products(ready, candidates[name])
    return {name: made[id(ready)] for name, ready in queries.items()}


def _from_products(
    products: NDArray[np.float64], squares: NDArray[np.float64], other_squares: NDArray[np.float64], similarity: Similarity
) -> NDArray[np.float64]:
    """Similarities from inner products: negative squared Euclidean distance, or cosine; NaN where a vector has no direction."""
    if similarity == "euclidean":
        return 2 * products - squares - other_squares
    scale = np.sqrt(squares) * np.sqrt(other_squares)
    cosine = np.full(products.shape, np.nan)
    np.divide(products, scale, out=cosine, where=scale > 0)
    return cosine


def similarities(products: Products, rows: NDArray[np.int64], similarity: Similarity) -> NDArray[np.float64]:
    """Similarity of some queries with each candidate.

    Returns
    -------
    Shape (rows, candidates), the larger the more alike. For Euclidean distance it is the negative squared distance, which ranks
    alike. NaN where a vector has no direction: all zero for cosine, constant for Spearman.
    """
    return _from_products(products.of(rows), products.queries.squares[rows, None], products.candidates.squares[None, :], similarity)


def row_similarities(left: Vectors, right: Vectors, similarity: Similarity) -> NDArray[np.float64]:
    """Similarity of each row of `left` with the same row of `right`; see :func:`similarities`."""
    products = np.einsum("ij,ij->i", left.values, right.values, dtype=np.float64)
    return _from_products(products, left.squares, right.squares, similarity)


@dataclass(frozen=True)
class PairRanks:
    """Where the candidate of each pair stands for its query.

    Attributes
    ----------
    above, tied
        Candidates strictly more similar than that of the pair, and others tied with it, shape (pairs,); -1 where the similarity is
        not defined.
    n_candidates
        Candidates with a similarity, the query itself left out, shape (queries,); 0 for queries of no pair.
    injected_above
        Candidates strictly more similar than what was injected, shape (queries,); -1 where that has no similarity.
    """

    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    n_candidates: NDArray[np.int64]
    injected_above: NDArray[np.int64]


def rank_pairs(
    products: Products,
    similarity: Similarity,
    pair_query: NDArray[np.int64],
    pair_candidate: NDArray[np.int64],
    injected: NDArray[np.float64],
    own: NDArray[np.int64] | None = None,
) -> PairRanks:
    """Rank the candidate of each pair among all candidates of its query.

    Parameters
    ----------
    products
        Queries and candidates.
    similarity
        By what they are ranked.
    pair_query, pair_candidate
        Positions of query and candidate of each pair, sorted by query.
    injected
        Similarity of each query with something that is no candidate but is ranked among them, shape (queries,); NaN for nothing.
    own
        Position of each query among the candidates, where both are the same signatures: it is no candidate of its own.
    """
    queries, candidates = products.queries, products.candidates
    above, tied = np.full((2, len(pair_query)), -1, dtype=np.int64)
    n_candidates = np.zeros(len(queries.values), dtype=np.int64)
    injected_above = np.full(len(queries.values), -1, dtype=np.int64)
    asked, first = np.unique(pair_query, return_index=True)
    last = np.append(first[1:], len(pair_query))
    largest_square = candidates.squares.max(initial=0.0)
    for block in blocks(len(asked), len(candidates.values)):
        rows = asked[block]
        scores = similarities(products, rows, similarity)
        if own is not None:
            scores[np.arange(len(rows)), own[rows]] = np.nan
        n_candidates[rows] = n_defined = (~np.isnan(scores)).sum(axis=1)
        # Not-a-number sorts behind the largest.
        ordered = np.sort(scores, axis=1)
        tolerance = ROUNDING * (queries.squares[rows] + largest_square if similarity == "euclidean" else np.ones(len(rows)))
        for place, row in enumerate(rows):
            pairs = slice(first[block][place], last[block][place])
            known = ordered[place, : n_defined[place]]
            asked_scores = np.append(scores[place, pair_candidate[pairs]], injected[row])
            higher = len(known) - np.searchsorted(known, asked_scores + tolerance[place], side="right")
            as_high = len(known) - np.searchsorted(known, asked_scores - tolerance[place], side="left")
            defined = ~np.isnan(asked_scores)
            above[pairs] = np.where(defined, higher, -1)[:-1]
            tied[pairs] = np.where(defined, as_high - higher - 1, -1)[:-1]
            injected_above[row] = higher[-1] if defined[-1] else -1
    return PairRanks(above, tied, n_candidates, injected_above)


@dataclass(frozen=True)
class BestPositives:
    """How well queries find their positives; each array has one value a query that has a positive and a negative.

    Attributes
    ----------
    query
        Position of the query.
    n_candidates, n_positives
        Candidates, and positives among them.
    best_rank
        1 + candidates strictly more similar than the best positive.
    auroc
        Share of pairs of a positive and a negative in which the positive is more similar; ties count half.
    injected_rank
        Rank of what was injected, the candidates and itself counted; 0 where there was nothing.
    """

    query: NDArray[np.int64]
    n_candidates: NDArray[np.int64]
    n_positives: NDArray[np.int64]
    best_rank: NDArray[np.int64]
    auroc: NDArray[np.float64]
    injected_rank: NDArray[np.int64]


def best_positives(ranks: PairRanks, pair_query: NDArray[np.int64], positive: NDArray[np.bool_]) -> BestPositives:
    """Best rank and area under the ROC curve of each query.

    Parameters
    ----------
    ranks
        Ranks of pairs.
    pair_query
        Query of each pair, sorted.
    positive
        Which pairs are positives, shape (pairs,). All other candidates of a query are negatives.
    """
    counted = positive & (ranks.above >= 0)
    query, first, n_positives = np.unique(pair_query[counted], return_index=True, return_counts=True)
    above, tied = ranks.above[counted], ranks.tied[counted]
    best_rank, beaten = np.empty(0, dtype=np.int64), np.empty(0)
    if len(query):
        best_rank = 1 + np.minimum.reduceat(above, first)
        # Positives stand above or tied with each other K (K - 1) / 2 times in all; the rest of what stands above them is negative.
        beaten = np.add.reduceat(above + tied / 2, first) - n_positives * (n_positives - 1) / 2
    n_candidates = ranks.n_candidates[query]
    kept = n_candidates > n_positives
    auroc = 1 - beaten[kept] / (n_positives * (n_candidates - n_positives))[kept]
    injected_rank = 1 + ranks.injected_above[query[kept]]
    return BestPositives(query[kept], n_candidates[kept], n_positives[kept], best_rank[kept], auroc, injected_rank)
