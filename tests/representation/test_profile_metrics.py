"""Metrics of profiles against scipy, scikit-learn, brute force and cell-eval, and what is undefined."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cosine as cosine_distance
from sklearn.metrics import precision_recall_curve, root_mean_squared_error

from perturbridge_dagster.representation import profile_metrics as module
from perturbridge_dagster.representation.profile_metrics import (
    FALSE_DISCOVERY_RATE,
    FEWEST_SIGNIFICANT,
    PROFILE_METRICS,
    discrimination,
    expected_recovery_at_fdr,
    profile_metrics,
)

pytestmark = pytest.mark.slow


def profiles(n: int, n_genes: int, seed: int, missing: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth with missing values, predictions that know something of it, and significant genes."""
    random = np.random.default_rng(seed)
    truth = random.standard_normal((n, n_genes)).astype(np.float32)
    predicted = truth + random.standard_normal(truth.shape)
    significant = np.abs(truth) > 0.8
    truth[random.random(truth.shape) < missing] = np.nan
    return truth, predicted, significant


@given(st.integers(1, 6), st.integers(2, 80), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_correlations_and_errors_equal_scipy_and_scikit_learn(n: int, n_genes: int, seed: int) -> None:
    truth, predicted, significant = profiles(n, n_genes, seed)
    found = profile_metrics(truth, predicted, significant)
    for row in range(n):
        kept = np.isfinite(truth[row])
        y, p = truth[row, kept].astype(float), predicted[row, kept]
        if not len(y):
            assert np.isnan(found["rmse"][row])
            continue
        assert found["rmse"][row] == pytest.approx(root_mean_squared_error(y, p))
        if len(y) < 2:
            assert all(np.isnan(found[name][row]) for name in ("pearson", "spearman", "cosine"))
            continue
        assert found["pearson"][row] == pytest.approx(stats.pearsonr(y, p).statistic, abs=1e-9)
        assert found["spearman"][row] == pytest.approx(stats.spearmanr(y, p).statistic, abs=1e-9)
        assert found["cosine"][row] == pytest.approx(1 - cosine_distance(y, p), abs=1e-9)


def test_the_error_of_masked_values_is_that_of_the_dense_ones_where_nothing_is_missing() -> None:
    truth, predicted, _ = profiles(5, 40, 1, missing=0.0)
    np.testing.assert_allclose(profile_metrics(truth, predicted, None)["rmse"], np.sqrt(np.mean((predicted - truth) ** 2, axis=1)))
    hidden, unlike = truth.copy(), predicted.copy()
    hidden[:, 30:] = np.nan
    unlike[:, 30:] += 1e6  # what is not measured does not count
    for name, values in profile_metrics(truth[:, :30], predicted[:, :30], None).items():
        np.testing.assert_allclose(profile_metrics(hidden, unlike, None)[name], values, err_msg=name)


@given(st.integers(20, 120), st.integers(0, 60), st.booleans())
@settings(max_examples=80, deadline=None)
def test_recovery_and_direction_equal_their_definitions(n_genes: int, seed: int, coarse: bool) -> None:
    truth, predicted, significant = profiles(1, n_genes, seed, missing=0.1)
    if coarse:
        predicted = np.round(predicted)  # ties
    kept = np.isfinite(truth[0])
    y, p, is_significant = truth[0, kept], predicted[0, kept], significant[0, kept]
    n = int(is_significant.sum())
    found = {name: values[0] for name, values in profile_metrics(truth, predicted, significant).items()}
    if n < FEWEST_SIGNIFICANT or np.ptp(p) == 0:
        assert all(np.isnan(found[name]) for name in ("direction_agreement", "recovery_at_n", "recovery_at_fdr", "recovery_at_n_by_chance"))
        return
    assert found["direction_agreement"] == pytest.approx(np.mean(np.sign(y) == np.sign(p), where=is_significant))
    assert found["recovery_at_n_by_chance"] == pytest.approx(n / len(y))

    # the mean over random orders of ties
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(400 if coarse else 1):
        order = np.lexsort((random.random(len(p)), -np.abs(p)))
        drawn.append(is_significant[order[:n]].mean())
    assert found["recovery_at_n"] == pytest.approx(np.mean(drawn), abs=0.02 if coarse else 1e-12)

    precision, recall, _ = precision_recall_curve(is_significant, np.abs(p))
    allowed = recall[:-1][precision[:-1] >= 1 - FALSE_DISCOVERY_RATE - 1e-12]
    assert found["recovery_at_fdr"] == pytest.approx(allowed.max() if len(allowed) else 0.0)


@pytest.mark.parametrize(
    ("n_genes", "n_significant", "rate"), [(7, 3, 0.3), (8, 5, 0.25), (6, 1, 0.5), (9, 4, 0.0), (7, 6, 0.2), (5, 5, 0.1)]
)
def test_recovery_expected_by_chance_is_the_mean_over_all_orders(n_genes: int, n_significant: int, rate: float) -> None:
    scores = []
    for places in itertools.combinations(range(n_genes), n_significant):
        hits = np.zeros(n_genes)
        hits[list(places)] = 1
        found = hits.cumsum()
        allowed = found / np.arange(1, n_genes + 1) >= 1 - rate - 1e-9
        scores.append(found[allowed].max(initial=0.0) / n_significant)
    assert expected_recovery_at_fdr(n_genes, n_significant, rate) == pytest.approx(np.mean(scores), abs=1e-12)


def test_recovery_of_random_predictions_is_what_chance_expects() -> None:
    random = np.random.default_rng(4)
    n, n_genes = 3_000, 60
    significant = np.zeros((n, n_genes), dtype=bool)
    significant[:, :30] = True
    found = profile_metrics(random.standard_normal((n, n_genes)), random.standard_normal((n, n_genes)), significant)
    for name in ("recovery_at_n", "recovery_at_fdr"):
        error = np.std(found[name]) / np.sqrt(n)
        assert abs(np.mean(found[name]) - np.mean(found[f"{name}_by_chance"])) < 4 * error


def test_what_a_constant_prediction_or_truth_says_is_undefined_not_zero() -> None:
    truth, predicted, significant = profiles(6, 60, 2, missing=0.0)
    significant[:] = True
    predicted[0] = 0.0
    predicted[1] = 0.7
    predicted[2] = 0.1 + 1e-17 * np.arange(60)  # rounding is no order
    truth[3] = 0.25
    truth[4] = np.nan
    found = profile_metrics(truth, predicted, significant)
    for name in PROFILE_METRICS.keys() - {"rmse", "discrimination", "discrimination_inverse"}:
        assert np.isnan(found[name][:5]).all(), name
        assert np.isfinite(found[name][5]), name
    assert np.isfinite(found["rmse"]).tolist() == [True] * 4 + [False, True]
    few = profile_metrics(truth[5:], predicted[5:], np.arange(60)[None, :] < FEWEST_SIGNIFICANT - 1)
    assert all(np.isnan(few[name]).all() for name in ("direction_agreement", "recovery_at_n", "recovery_at_fdr"))
    assert np.isnan(profile_metrics(truth, predicted, None)["recovery_at_n"]).all()


def test_a_perfect_prediction_scores_best() -> None:
    truth, _, significant = profiles(5, 60, 3)
    found = profile_metrics(truth, np.nan_to_num(truth), significant)
    for name in ("pearson", "spearman", "cosine", "direction_agreement"):
        np.testing.assert_allclose(found[name], 1, err_msg=name)
    # the largest effects were called significant, so that they come first
    np.testing.assert_allclose(found["recovery_at_n"], 1)
    np.testing.assert_allclose(found["recovery_at_fdr"], 1)
    both = discrimination(truth, np.nan_to_num(truth), np.zeros(5))
    np.testing.assert_allclose(both, 1)


# ---- discrimination ----------------------------------------------------------------------------------------------------------


def ranks_by_definition(truth: np.ndarray, predicted: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One condition at a time, by scipy's distances and average ranks."""

    def distance(i: int, j: int) -> float:
        kept = np.isfinite(truth[j])
        y, p = truth[j, kept].astype(float), predicted[i, kept].astype(float)
        return cosine_distance(y, p) if y.any() and p.any() else np.nan

    forward, inverse = np.full(len(truth), np.nan), np.full(len(truth), np.nan)
    for i in range(len(truth)):
        members = np.flatnonzero(pool == pool[i])
        for into, distances in ((forward, [distance(i, j) for j in members]), (inverse, [distance(j, i) for j in members])):
            known = np.isfinite(distances)
            if not np.isfinite(distance(i, i)) or known.sum() < 2:
                continue
            rank = stats.rankdata(np.round(np.array(distances)[known], 9))[members[known] == i][0]
            into[i] = 1 - (rank - 1) / (known.sum() - 1)
    return forward, inverse


@given(st.integers(1, 14), st.integers(1, 30), st.integers(0, 30), st.sampled_from([1, 40, 2_000_000]))
@settings(max_examples=60, deadline=None)
def test_discrimination_is_the_rank_among_the_pool(n: int, n_genes: int, seed: int, tile: int) -> None:
    truth, predicted, _ = profiles(n, n_genes, seed)
    random = np.random.default_rng(seed)
    predicted = predicted.astype(np.float32)
    predicted[random.random(n) < 0.2] = 0.0
    predicted[random.random(n) < 0.3] = predicted[0]  # ties
    pool = random.integers(0, 2, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE_VALUES", tile)
        found = discrimination(truth, predicted, pool)
    for one, expected in zip(found, ranks_by_definition(truth, predicted, pool), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-9)


def test_the_same_prediction_for_all_discriminates_as_chance_does() -> None:
    truth, _, _ = profiles(9, 50, 5)
    predicted = np.tile(np.linspace(-1, 1, 50).astype(np.float32), (9, 1))
    forward, inverse = discrimination(truth, predicted, np.zeros(9))
    assert forward.mean() == pytest.approx(0.5)
    np.testing.assert_allclose(inverse, 0.5)


def test_a_condition_alone_in_its_pool_cannot_be_discriminated() -> None:
    truth, predicted, _ = profiles(3, 50, 6)
    forward, inverse = discrimination(truth, predicted.astype(np.float32), np.array([6.0, 24.0, 24.0]))
    assert np.isnan(forward).tolist() == np.isnan(inverse).tolist() == [True, False, False]


def test_discrimination_is_that_of_cell_eval() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell_eval = pytest.importorskip("cell_eval", reason="cell-eval is not installed; it brings scanpy and polars")
        from anndata import AnnData
        from cell_eval._types import PerturbationAnndataPair
        from cell_eval.metrics._anndata import discrimination_score

        assert cell_eval
        truth, predicted, _ = profiles(12, 40, 7, missing=0.0)
        obs = {"perturbation": ["control", *(f"drug {number}" for number in range(12))]}

        def table(effects: np.ndarray) -> AnnData:
            made = AnnData(np.vstack([np.zeros(40), effects]).astype(np.float64))
            made.obs["perturbation"] = obs["perturbation"]
            return made

        pair = PerturbationAnndataPair(real=table(truth), pred=table(predicted), pert_col="perturbation", control_pert="control")
        theirs = discrimination_score(pair, metric="cosine", exclude_target_gene=False)
    ours, _ = discrimination(truth, predicted.astype(np.float32), np.zeros(12))
    for number in range(12):
        assert theirs[f"drug {number}"] == pytest.approx(1 - (1 - ours[number]) * 11 / 12)


@given(st.integers(2, 12), st.integers(2, 40), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_scores_lie_in_their_ranges_and_do_not_depend_on_the_order_of_genes_or_conditions(n: int, n_genes: int, seed: int) -> None:
    truth, predicted, significant = profiles(n, n_genes, seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(n), random.permutation(n_genes)

    def all_metrics(rows: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
        some = np.ix_(rows, columns)
        found = profile_metrics(truth[some], predicted[some], significant[some])
        one, other = discrimination(truth[some], predicted[some].astype(np.float32), np.zeros(n))
        return found | {"discrimination": one, "discrimination_inverse": other}

    straight, shuffled = all_metrics(np.arange(n), np.arange(n_genes)), all_metrics(rows, columns)
    for name, metric in PROFILE_METRICS.items():
        np.testing.assert_allclose(shuffled[name], straight[name][rows], atol=1e-9, err_msg=name)
        known = straight[name][np.isfinite(straight[name])]
        assert (known >= metric.minimum).all()
        assert metric.maximum is None or (known <= metric.maximum).all()
