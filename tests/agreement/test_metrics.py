from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr

from perturbridge_dagster.agreement.metrics import METRICS, mean_rows, significant, spearman_rows
from perturbridge_dagster.contract import METRIC_NAMES

# Few distinct values make ties; NaN makes genes that one side lacks.
_signatures = arrays(np.float32, (4, 9), elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0, np.nan, np.inf]))


@settings(deadline=None)
@given(_signatures, _signatures)
def test_spearman_is_that_of_scipy(left: np.ndarray, right: np.ndarray) -> None:
    found = spearman_rows(left, right)
    for x, y, rho in zip(left, right, found, strict=True):
        both = np.isfinite(x) & np.isfinite(y)
        if min(len(np.unique(x[both])), len(np.unique(y[both]))) < 2:
            assert np.isnan(rho)
        else:
            assert_allclose(rho, spearmanr(x[both], y[both]).statistic, atol=1e-12)


def test_spearman_is_that_of_scipy_on_many_genes() -> None:
    generator = np.random.default_rng(1)
    left, right = generator.normal(size=(2, 5, 2_000)).astype(np.float32)
    assert_allclose(spearman_rows(left, right), [spearmanr(x, y).statistic for x, y in zip(left, right, strict=True)], atol=1e-12)


@pytest.mark.parametrize("n_genes", [0, 1])
def test_spearman_of_too_few_genes_is_undefined(n_genes: int) -> None:
    assert np.isnan(spearman_rows(np.ones((3, n_genes)), np.ones((3, n_genes)))).all()


def test_spearman_of_a_constant_is_undefined() -> None:
    assert np.isnan(spearman_rows(np.array([[0.1] * 7]), np.arange(7.0)[None])).all()


def test_spearman_stays_within_its_bounds() -> None:
    x = np.random.default_rng(2).normal(size=(50, 37))
    assert_array_equal(spearman_rows(x, x**3), np.ones(50))
    assert_array_equal(spearman_rows(x, -x), -np.ones(50))


def test_significant_is_strict_and_needs_a_finite_effect() -> None:
    adj_p = np.log10(np.array([[0.05, 0.0499, 0.051, 1e-30, np.nan, 0.01]])).astype(np.float32)
    log_fc = np.array([[1, 1, 1, -1, 1, np.nan]], dtype=np.float32)
    assert significant(log_fc, adj_p).tolist() == [[False, True, False, True, False, False]]


def test_mean_of_finite_values() -> None:
    assert_array_equal(mean_rows(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.inf]])), [2.0, np.nan])


def test_registry_of_metrics_follows_the_contract() -> None:
    assert tuple(METRICS) == METRIC_NAMES
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.minimum in (-1, 0)
        assert metric.maximum == 1
        assert metric.by_chance is None or metric.minimum <= metric.by_chance < metric.maximum
        assert metric.sentence.endswith(("?", "."))
        assert metric.centroid.endswith(".")
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
