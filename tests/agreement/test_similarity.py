from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from perturbridge_dagster.agreement import signatures
from perturbridge_dagster.agreement import similarity as similarity_module
from perturbridge_dagster.agreement.ranking import centred_ranks
from perturbridge_dagster.agreement.similarity import (
    REPRESENTATIONS,
    SIMILARITIES,
    Products,
    Similarity,
    Vectors,
    best_positives,
    prepare,
    products_of,
    rank_pairs,
    row_similarities,
    similarities,
)


def vectors(values: np.ndarray, similarity: Similarity) -> Vectors:
    return prepare(values, [similarity])[similarity]


def products(queries: np.ndarray, candidates: np.ndarray, similarity: Similarity) -> Products:
    return Products(vectors(queries, similarity), vectors(candidates, similarity))


def every(found: Products, similarity: Similarity) -> np.ndarray:
    return similarities(found, np.arange(len(found.queries.values)), similarity)


def brute_force(queries: np.ndarray, candidates: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Similarities by scipy."""
    if similarity == "spearman":
        return np.array([[spearmanr(q, c).statistic for c in candidates] for q in queries])
    return -cdist(queries, candidates, similarity)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(("values_per_block", "kept"), [(1, 0), (100, 0), (100, 2**25), (2**23, 2**25)])
def test_similarities_against_scipy(similarity: Similarity, values_per_block: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", values_per_block)
    monkeypatch.setattr(similarity_module, "PRODUCTS_KEPT", kept)
    generator = np.random.default_rng(0)
    queries, candidates = (generator.normal(size=(n, 30)).astype(np.float32) for n in (7, 11))
    candidates[3] = queries[2]
    queries[5, 10:20] = 0.5
    made = products(queries, candidates, similarity)
    found = every(made, similarity)
    assert_allclose(every(made.reversed(), similarity), found.T, rtol=1e-12, atol=1e-12)
    expected = brute_force(queries.astype(float), candidates.astype(float), similarity)
    if similarity == "cosine":
        found -= 1
    if similarity == "euclidean":
        found = -np.sqrt(np.maximum(-found, 0))
    assert_allclose(found, expected, atol=1e-6 if similarity == "euclidean" else 1e-12)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_rows_are_the_diagonal(similarity: Similarity) -> None:
    left, right = (np.random.default_rng(n).normal(size=(9, 40)).astype(np.float32) for n in (1, 2))
    sides = vectors(left, similarity), vectors(right, similarity)
    assert_allclose(row_similarities(*sides, similarity), every(Products(*sides), similarity).diagonal(), rtol=1e-12)


def test_signatures_without_direction_have_no_similarity() -> None:
    values = np.array([[0, 0, 0], [2, 2, 2], [1, 2, 3]], dtype=np.float32)
    assert np.isnan(row_similarities(vectors(values, "cosine"), vectors(values, "cosine"), "cosine")).tolist() == [True, False, False]
    ranks = vectors(values, "spearman")
    assert np.isnan(row_similarities(ranks, ranks, "spearman")).tolist() == [True, True, False]
    assert_allclose(row_similarities(vectors(values, "euclidean"), vectors(values[::-1], "euclidean"), "euclidean"), [-14, 0, -14])


def test_centred_ranks_of_ties() -> None:
    assert centred_ranks(np.array([[3.0, 1, 1, 9]], dtype=np.float32)).tolist() == [[0.5, -1.0, -1.0, 1.5]]


def test_signed_significance() -> None:
    layers = {
        "logFC": np.array([[1.0, -2.0, 0.5, 0.0]], dtype=np.float32),
        "log10_adj_p_within": np.array([[-2.0, -3.0, -400.0, -1.0]], dtype=np.float32),
    }
    assert REPRESENTATIONS["signed_significance"].value(layers).tolist() == [[2.0, -3.0, 300.0, 0.0]]


def ranked_by_loops(scores: np.ndarray, positive: np.ndarray, injected: float) -> dict[str, float]:
    """One query by the definitions, with scikit-learn's area under the curve."""
    known = ~np.isnan(scores)
    scores, positive = scores[known], positive[known]
    best = scores[positive].max()
    return {
        "n_candidates": len(scores),
        "n_positives": positive.sum(),
        "best_rank": 1 + (scores > best + 1e-12).sum(),
        "auroc": roc_auc_score(positive, np.round(scores, 11)),
        "injected_rank": 0 if np.isnan(injected) else 1 + (scores > injected + 1e-12).sum(),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SIMILARITIES), st.booleans())
def test_ranks_against_loops(seed: int, similarity: Similarity, among_themselves: bool) -> None:
    """Small whole numbers: many ties, identical signatures, and some without direction."""
    generator = np.random.default_rng(seed)
    n_queries, n_candidates = generator.integers(2, 9, size=2)
    queries = generator.integers(-1, 2, size=(n_queries, 5)).astype(np.float32)
    candidates = queries if among_themselves else generator.integers(-1, 2, size=(n_candidates, 5)).astype(np.float32)
    made = products(queries, candidates, similarity)
    positive = generator.random((len(queries), len(candidates))) < 0.4
    own = np.arange(len(queries)) if among_themselves else None
    scores = every(made, similarity)
    if own is not None:
        positive[own, own] = False
        scores[own, own] = np.nan
    injected = np.where(generator.random(len(queries)) < 0.3, np.nan, scores[:, 0])
    pair_query, pair_candidate = np.nonzero(positive)
    ranks = rank_pairs(made, similarity, pair_query, pair_candidate, injected, own)
    found = best_positives(ranks, pair_query, np.ones(len(pair_query), dtype=bool))
    rows = dict(zip(found.query.tolist(), range(len(found.query)), strict=True))
    for query in range(len(queries)):
        usable = positive[query] & ~np.isnan(scores[query])
        has_both = usable.any() and (~positive[query] & ~np.isnan(scores[query])).any()
        assert (query in rows) == has_both
        if has_both:
            expected = ranked_by_loops(scores[query], positive[query], injected[query])
            for name, value in expected.items():
                assert_allclose(getattr(found, name)[rows[query]], value, atol=1e-12, err_msg=name)


def test_some_pairs_are_positives() -> None:
    """Pairs that are not positives are negatives, and count as other candidates do."""
    values = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    pair_query, pair_candidate = np.zeros(2, dtype=np.int64), np.array([0, 2])
    ranks = rank_pairs(products(values[:1], values[1:], "euclidean"), "euclidean", pair_query, pair_candidate, np.array([np.nan]))
    for positive, best_rank, auroc in (([True, True], 1, 0.5), ([True, False], 1, 1.0), ([False, True], 3, 0.0)):
        found = best_positives(ranks, pair_query, np.array(positive))
        assert (found.best_rank.tolist(), found.auroc.tolist(), found.injected_rank.tolist()) == ([best_rank], [auroc], [0])
    none = best_positives(ranks, pair_query, np.zeros(2, dtype=bool))
    assert none.query.size == none.auroc.size == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    sides = [prepare(generator.normal(size=(n, 20)).astype(np.float32), SIMILARITIES) for n in (13, 17)]
    pair_query, pair_candidate = np.nonzero(generator.random((13, 17)) < 0.2)
    injected = generator.normal(size=13) / 5
    whole = rank_pairs(products_of(*sides)["cosine"], "cosine", pair_query, pair_candidate, injected)
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", 50)
    monkeypatch.setattr(similarity_module, "PRODUCTS_KEPT", 0)
    for name, values in vars(rank_pairs(products_of(*sides)["cosine"], "cosine", pair_query, pair_candidate, injected)).items():
        np.testing.assert_array_equal(values, getattr(whole, name), err_msg=name)


def test_euclidean_distance_and_cosine_share_products() -> None:
    sides = [prepare(np.random.default_rng(n).normal(size=(4, 9)).astype(np.float32), SIMILARITIES) for n in (1, 2)]
    made = products_of(*sides)
    assert made["euclidean"] is made["cosine"]
    assert made["spearman"] is not made["cosine"]
