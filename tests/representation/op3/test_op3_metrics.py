"""Metrics of the benchmark beside SciPy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from perturbridge_dagster.representation.op3.metrics import METRICS, mean_metrics, row_metrics


def test_every_metric_is_that_of_scipy_and_scikit_learn():
    random = np.random.default_rng(5)
    truth = np.round(random.normal(size=(12, 80)), 1)  # so that there are ties
    predicted = np.round(0.4 * truth + random.normal(size=truth.shape), 1)
    found = row_metrics(truth, predicted)
    assert list(found) == list(METRICS)
    for row, (y, p) in enumerate(zip(truth, predicted, strict=True)):
        assert found.loc[row, "mrrmse"] == pytest.approx(root_mean_squared_error(y, p))
        assert found.loc[row, "mae"] == pytest.approx(mean_absolute_error(y, p))
        assert found.loc[row, "spearman"] == pytest.approx(spearmanr(y, p).statistic)
        assert found.loc[row, "pearson"] == pytest.approx(pearsonr(y, p).statistic)
        assert found.loc[row, "cosine"] == pytest.approx(1 - cosine(y, p))


def test_undefined_rows_are_counted_and_taken_as_zero_over_all_rows():
    truth = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    predicted = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [3.0, 2.0, 1.0]])
    rows = row_metrics(truth, predicted)
    assert rows["spearman"].isna().tolist() == rows["pearson"].isna().tolist() == [False, True, True, False]
    assert rows["cosine"].isna().tolist() == [False, True, False, False], "a constant row has a direction, a zero row has none"
    means = mean_metrics(rows).set_index("metric")
    assert means.loc["spearman", "value"] == pytest.approx(0.0)  # 1, -1 and two zeros
    assert means.loc["pearson", "n_undefined"] == 2
    assert means.loc["cosine", "value"] == pytest.approx((1 + 6 / 14**0.5 / 3**0.5 + 10 / 14) / 4)
    assert means.loc["cosine", "n_undefined"] == 1
    assert means.loc["mrrmse", "n_undefined"] == 0


def test_mrrmse_is_the_mean_of_roots_not_the_root_of_the_mean():
    rows = row_metrics(np.zeros((2, 4)), np.array([[1.0] * 4, [3.0] * 4]))
    assert mean_metrics(rows).set_index("metric").loc["mrrmse", "value"] == pytest.approx(2.0)


values = arrays(np.float64, (3, 7), elements=st.floats(-50, 50).map(lambda value: round(value, 3)))


@given(values, values)
def test_metrics_stay_in_their_range(truth: np.ndarray, predicted: np.ndarray):
    found = row_metrics(truth, predicted)
    assert (found[["mrrmse", "mae"]] >= 0).all(axis=None)
    assert (found["mrrmse"] >= found["mae"] - 1e-9).all()
    for name in ("spearman", "pearson", "cosine"):
        assert found[name].dropna().between(-1, 1).all()


def test_what_is_not_finite_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="finite"):
        row_metrics(np.zeros((1, 3)), np.array([[0.0, np.nan, 1.0]]))
    with pytest.raises(ValueError, match="shape"):
        row_metrics(np.zeros((1, 3)), np.zeros((1, 4)))
