from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from perturbridge_dagster.agreement.null import (
    expected_best_rank,
    expected_normalised_rank,
    normalised_rank,
    probability_of_rank,
)


def test_first_rank_is_one_and_last_is_zero() -> None:
    assert normalised_rank(np.array([1, 11]), np.array([11, 11])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("n_positives", "expected"), [(1, 1 / 2), (2, 2 / 3), (3, 3 / 4), (9, 9 / 10)])
def test_expectation_of_many_candidates(n_positives: int, expected: float) -> None:
    assert_allclose(expected_normalised_rank(np.array(10**9), np.array(n_positives)), expected, atol=1e-8)


@pytest.mark.parametrize("n", [2, 3, 100])
def test_expectation_of_one_positive_is_one_half_exactly(n: int) -> None:
    assert_allclose(expected_normalised_rank(np.array(n), np.array(1)), 0.5, rtol=1e-15)


@given(st.integers(2, 9), st.data())
def test_against_all_orders(n: int, data: st.DataObject) -> None:
    """Every choice of places for the positives is as likely as any other."""
    k = data.draw(st.integers(1, n))
    best = np.array([min(places) for places in combinations(range(1, n + 1), k)])
    assert_allclose(expected_best_rank(np.array(n), np.array(k)), best.mean(), rtol=1e-12)
    assert_allclose(expected_normalised_rank(np.array(n), np.array(k)), normalised_rank(best, np.array(n)).mean(), atol=1e-12)
    ranks = np.arange(1, n + 3)
    assert_allclose(probability_of_rank(ranks, np.array(n), np.array(k)), [(best <= r).mean() for r in ranks], atol=1e-12)


@pytest.mark.parametrize(("rank", "n", "k"), [(1, 10_000, 3), (50, 2836, 17), (9000, 10_000, 5), (1, 15_000, 1000)])
def test_large_numbers_against_exact_integers(rank: int, n: int, k: int) -> None:
    exact = 1 - comb(n - rank, k) / comb(n, k) if comb(n - rank, k) / comb(n, k) < 0.5 else (comb(n, k) - comb(n - rank, k)) / comb(n, k)
    assert_allclose(probability_of_rank(np.array(rank), np.array(n), np.array(k)), exact, rtol=1e-9)


def test_p_of_random_ranks_is_uniform_as_far_as_ranks_allow() -> None:
    """P(p ≤ p(r)) = p(r) for every rank: exact, neither too small nor too large."""
    generator = np.random.default_rng(0)
    n, k, n_trials = 200, 4, 20_000
    best = np.argsort(generator.random((n_trials, n)), axis=1)[:, :k].min(axis=1) + 1
    p = probability_of_rank(best, np.array(n), np.array(k))
    for rank in (1, 5, 20, 60):
        level = float(probability_of_rank(np.array(rank), np.array(n), np.array(k)))
        assert abs((p <= level + 1e-12).mean() - level) < 5 * np.sqrt(level * (1 - level) / n_trials)
