"""Every metric against its definition, written with scipy, scikit-learn and sets, one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score

from perturbridge_dagster.agreement.comparing import Scores, Signatures, compare_all, compare_pairs
from perturbridge_dagster.agreement.metrics import METRICS
from perturbridge_dagster.contract import METRIC_NAMES

pytestmark = pytest.mark.slow


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return spearmanr(x, y).statistic if len(np.unique(x)) > 1 and len(np.unique(y)) > 1 else np.nan


def strongest(log_fc: np.ndarray, genes: np.ndarray, n: int) -> set[int]:
    return set(sorted(np.flatnonzero(genes), key=lambda gene: (-abs(log_fc[gene]), gene))[:n])


def by_definition(left: Signatures, i: int, right: Signatures, j: int) -> dict[str, tuple[float, int]]:
    """Score and genes counted by each metric; `right` may be centroids."""
    both = np.isfinite(left.log_fc[i]) & np.isfinite(left.t[i]) & np.isfinite(right.log_fc[j]) & np.isfinite(right.t[j])
    x, y, tx, ty = left.log_fc[i][both], right.log_fc[j][both], left.t[i][both], right.t[j][both]
    n, cut = int(both.sum()), np.float32(np.log10(0.05))
    is_centroid = right.log10_adj_p is None
    dx = left.log10_adj_p[i][both] < cut
    dy = np.ones(n, dtype=bool) if is_centroid else right.log10_adj_p[j][both] < cut
    large = (dx & (np.abs(x) > np.float32(0.2)), dy if is_centroid else dy & (np.abs(y) > np.float32(0.2)))
    found = {"spearman_logFC": (spearman(x, y), n), "spearman_t": (spearman(tx, ty), n)}
    k = min(50, n // 2)
    by_t = [sorted(range(n), key=lambda gene, t=t: (t[gene], gene)) for t in (tx, ty)]
    common = len({*by_t[0][:k]} & {*by_t[1][:k]}) + len({*by_t[0][n - k :]} & {*by_t[1][n - k :]})
    found["signed_overlap_t_top50"] = (common / 2 / k if k else np.nan, n)
    for name, (mine, other) in {"p05": (dx, dy), "p05_lfc02": large}.items():
        sides = [spearman(x[mask], y[mask]) for mask in ([mine] if is_centroid else [mine, other])]
        found[f"deg_spearman_{name}"] = (float(np.mean(sides)), min(mine.sum(), other.sum()))
        shared = mine & other
        same = accuracy_score(np.sign(x[shared]), np.sign(y[shared])) if shared.any() else np.nan
        found[f"direction_agreement_{name}"] = (same, shared.sum())
    fewer = int(min(dx.sum(), dy.sum()))
    for name, top in {"reference_n": fewer, "top50": 50, "top100": 100, "top200": 200}.items():
        share = len(strongest(x, dx, top) & strongest(y, dy, top)) / top if 0 < top <= fewer else np.nan
        found[f"de_overlap_{name}"] = (share, fewer)
    return found


def assert_as_defined(scores: Scores, pairs: list[tuple[int, int]], left: Signatures, right: Signatures) -> None:
    for pair, (i, j) in enumerate(pairs):
        expected = by_definition(left, i, right, j)
        for metric, name in enumerate(METRIC_NAMES):
            score, n_genes = expected[name]
            assert_allclose(scores.score[metric, pair], score, atol=1e-12, err_msg=name)
            assert scores.n_genes[metric, pair] == n_genes, name


def random_signatures(generator: np.random.Generator, n: int, n_genes: int, *, ties: bool = False, gaps: float = 0.0) -> Signatures:
    log_fc = generator.normal(size=(n, n_genes)) * generator.choice([0.1, 1.0], size=(n, 1))
    log_fc = (np.round(log_fc * 2) / 2 if ties else log_fc).astype(np.float32)
    t = (log_fc * 3 + (0 if ties else generator.normal(size=log_fc.shape))).astype(np.float32)
    log_fc[generator.random(log_fc.shape) < gaps] = np.nan
    t[generator.random(log_fc.shape) < gaps / 2] = np.inf
    strength = generator.choice([0.5, 3.0, 8.0], size=(n, 1))
    return Signatures(log_fc, t, (strength * np.log10(generator.uniform(size=log_fc.shape))).astype(np.float32))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("gaps", [0.0, 0.05])
@pytest.mark.parametrize("n_genes", [1, 2, 3, 63, 64, 65, 700])
def test_metrics_follow_their_definitions(n_genes: int, gaps: float, ties: bool) -> None:
    generator = np.random.default_rng(n_genes)
    left, right = (random_signatures(generator, 6, n_genes, ties=ties, gaps=gaps) for _ in range(2))
    rows = np.arange(6)
    pairs = [(i, j) for i in range(6) for j in range(6)]
    everything = compare_all(left, right, rows, rows)
    assert_as_defined(Scores(*(part.reshape(len(METRICS), -1) for part in vars(everything).values())), pairs, left, right)
    some = compare_pairs(left, right, rows, rows[::-1])
    assert_array_equal(some.score, everything.score[:, rows, rows[::-1]])
    assert_array_equal(some.n_genes, everything.n_genes[:, rows, rows[::-1]])


@pytest.mark.parametrize("gaps", [0.0, 0.05])
@pytest.mark.parametrize("n_genes", [1, 2, 40, 400])
def test_scores_with_a_centroid_follow_their_definitions(n_genes: int, gaps: float) -> None:
    generator = np.random.default_rng(n_genes)
    left, other = (random_signatures(generator, 5, n_genes, gaps=gaps) for _ in range(2))
    centroids = Signatures(other.log_fc, other.t)
    assert_as_defined(compare_pairs(left, centroids, np.arange(5), np.arange(5)), [(i, i) for i in range(5)], left, centroids)


_values = arrays(np.float32, (3, 9), elements=st.sampled_from([-2.0, -1.0, -0.1, -0.0, 0.0, 0.5, 1.0, 2.0, np.nan, np.inf]))
_log10_p = arrays(np.float32, (3, 9), elements=st.sampled_from([0.0, float(np.float32(np.log10(0.05))), -2.0, -30.0, np.nan]))


@settings(deadline=None, max_examples=60)
@given(st.tuples(_values, _values, _log10_p), st.tuples(_values, _values, _log10_p))
def test_degenerate_signatures_follow_the_definitions(x: tuple[np.ndarray, ...], y: tuple[np.ndarray, ...]) -> None:
    left, right = Signatures(*x), Signatures(*y)
    rows = np.arange(3)
    assert_as_defined(compare_pairs(left, right, rows, rows), [(i, i) for i in range(3)], left, right)
    everything = compare_all(left, right, rows, rows)
    assert_array_equal(everything.score[:, rows, rows], compare_pairs(left, right, rows, rows).score)
    centroids = Signatures(right.log_fc, right.t)
    assert_as_defined(compare_pairs(left, centroids, rows, rows), [(i, i) for i in range(3)], left, centroids)


@settings(deadline=None, max_examples=30)
@given(_values, _values, _log10_p, _log10_p)
def test_metrics_do_not_depend_on_the_side_and_stay_in_range(x: np.ndarray, y: np.ndarray, p: np.ndarray, q: np.ndarray) -> None:
    left, right, rows = Signatures(x, x, p), Signatures(y, y, q), np.arange(3)
    forth, back = compare_pairs(left, right, rows, rows), compare_pairs(right, left, rows, rows)
    assert_allclose(forth.score, back.score, atol=1e-12)
    for metric, values in zip(METRICS.values(), forth.score, strict=True):
        assert ((values >= metric.minimum) & (values <= metric.maximum) | np.isnan(values)).all()


def test_identical_signatures_agree_fully_and_opposite_ones_not_at_all() -> None:
    generator = np.random.default_rng(0)
    x, rows = generator.normal(size=(4, 600)).astype(np.float32), np.arange(4)
    significant = np.full(x.shape, -3, dtype=np.float32)
    left, opposite = Signatures(x, x, significant), Signatures(-x, -x, significant)
    assert_array_equal(compare_pairs(left, left, rows, rows).score, np.ones((len(METRICS), 4)))
    values = dict(zip(METRIC_NAMES, compare_pairs(left, opposite, rows, rows).score, strict=True))
    for name in ("spearman_logFC", "spearman_t", "deg_spearman_p05", "deg_spearman_p05_lfc02"):
        assert_array_equal(values[name], -np.ones(4))
    for name in ("direction_agreement_p05", "signed_overlap_t_top50"):
        assert_array_equal(values[name], np.zeros(4))
    assert_array_equal(values["de_overlap_top100"], np.ones(4), err_msg="overlap knows no direction")


def test_two_significant_genes_give_plus_or_minus_one_and_one_gives_nothing() -> None:
    x, y = (np.array([values], dtype=np.float32) for values in ([1.0, 2.0, 0.1], [3.0, 2.0, 0.3]))
    two, one = (np.array([values], dtype=np.float32) for values in ([-3, -3, 0], [-3, 0, 0]))
    deg = METRIC_NAMES.index("deg_spearman_p05")
    at = np.array([0])
    assert compare_pairs(Signatures(x, x, two), Signatures(y, y, two), at, at).score[deg, 0] == -1
    for mask in (one, np.zeros_like(one)):
        assert np.isnan(compare_pairs(Signatures(x, x, two), Signatures(y, y, mask), at, at).score[deg, 0])


def test_significant_is_strict_and_large_is_strict() -> None:
    cut = np.float32(np.log10(0.05))
    x = np.array([[0.2, -0.2, 0.3, 5.0]], dtype=np.float32)
    p = np.array([[-3, -3, -3, cut]], dtype=np.float32)
    n_genes = compare_pairs(Signatures(x, x, p), Signatures(x, x, p), np.array([0]), np.array([0])).n_genes[:, 0]
    assert n_genes[METRIC_NAMES.index("direction_agreement_p05")] == 3
    assert n_genes[METRIC_NAMES.index("direction_agreement_p05_lfc02")] == 1


def test_minimum_of_genes_is_an_option_above_the_published_one() -> None:
    generator = np.random.default_rng(0)
    left, right = random_signatures(generator, 30, 60), random_signatures(generator, 30, 60)
    scores = compare_pairs(left, right, np.arange(30), np.arange(30))
    assert_array_equal(scores.at_least({}).score, scores.score)
    asked = scores.at_least({"direction_agreement_p05": 3, "deg_spearman_p05": 1})
    for metric, name in enumerate(METRIC_NAMES):
        minimum = {"direction_agreement_p05": 3}.get(name, METRICS[name].minimum_genes)
        undefined = np.isnan(scores.score[metric]) | (scores.n_genes[metric] < minimum)
        assert_array_equal(np.isnan(asked.score[metric]), undefined)
    assert np.isnan(asked.score).sum() > np.isnan(scores.score).sum()


def test_nothing_to_compare() -> None:
    empty = Signatures(*np.empty((3, 0, 5), dtype=np.float32))
    none = np.empty(0, dtype=np.int64)
    assert compare_pairs(empty, empty, none, none).score.shape == (len(METRICS), 0)
    assert compare_all(empty, empty, none, none).score.shape == (len(METRICS), 0, 0)
