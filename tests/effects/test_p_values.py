from __future__ import annotations

import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from perturbridge_dagster.effects.p_values import adjusted_log10_p, log10_p_values


def _r(code: str) -> np.ndarray:
    """Numbers printed by R; its NA is NaN."""
    done = subprocess.run(["Rscript", "--vanilla", "-e", f"cat(format({code}, digits = 17))"], capture_output=True, text=True, check=True)
    return np.array(done.stdout.replace("NA", "nan").split(), dtype=float)


def test_log10_p_agrees_with_r_from_the_middle_to_far_beyond_the_smallest_double() -> None:
    t = np.array([0, 1e-3, 0.5, 2, 5, 20, 36, 37.5, 40, 100, 1e4, 1e40, 1e160, 1e300])
    df = np.array([1, 2.5, 9, 40.3, 600, 1e4, 1e7, np.inf])
    grid_t, grid_df = (grid.ravel() for grid in np.meshgrid(t, df))
    ours = log10_p_values(grid_t, grid_df)
    vectors = (f"c({', '.join(f'{value:.17g}' if np.isfinite(value) else 'Inf' for value in grid)})" for grid in (grid_t, grid_df))
    theirs = _r("(log(2) + pt(-{}, {}, log.p = TRUE)) / log(10)".format(*vectors))
    comparable = np.isfinite(theirs)  # R itself ends at t² beyond the largest double
    assert comparable.sum() > 90
    assert (ours[comparable] < -400).sum() > 20
    np.testing.assert_allclose(ours[comparable], theirs[comparable], rtol=2e-10, atol=1e-14)
    assert np.isfinite(ours[np.isfinite(grid_df)]).all()


def test_log10_p_is_symmetric_monotone_and_continuous_where_the_series_takes_over() -> None:
    for df in (3.0, 50.0, 1e6):
        edge = stats.t.isf(5e-291, df) if df > 10 else 1e96
        t = edge * np.linspace(0.999, 1.001, 2001)
        log10_p = log10_p_values(t, np.array(df))
        np.testing.assert_array_equal(log10_p, log10_p_values(-t, np.array(df)))
        steps = np.diff(log10_p)
        assert (steps < 0).all()
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.05)


def test_missing_t_gives_missing_p() -> None:
    assert np.isnan(log10_p_values(np.array([np.nan, 1.0]), np.array(3.0))).tolist() == [True, False]


def test_adjusted_p_agrees_with_r_with_ties_and_missing_values() -> None:
    p = [0.01, 0.02, np.nan, 0.02, 1, 0.5, 0.04, np.nan, 1e-300, 0.03]
    theirs = _r(f"p.adjust(c({', '.join('NA' if np.isnan(value) else repr(value) for value in p)}), 'BH')")
    np.testing.assert_allclose(10 ** adjusted_log10_p(np.log10(p)), theirs, rtol=1e-12)


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.floats(1e-12, 1)))
def test_adjusted_p_of_each_row_is_scipys(p: np.ndarray) -> None:
    ours = 10 ** adjusted_log10_p(np.log10(p))
    np.testing.assert_allclose(ours, stats.false_discovery_control(p, axis=1), rtol=1e-10)


def test_adjusted_p_below_the_smallest_double_keeps_its_order() -> None:
    adjusted = adjusted_log10_p(np.array([-500.0, -400.0, -1.0]))
    np.testing.assert_allclose(adjusted, [-500 + np.log10(3), -400 + np.log10(1.5), -1])


def test_a_row_without_any_test_stays_missing() -> None:
    adjusted = adjusted_log10_p(np.array([[np.nan, np.nan], [-1.0, np.nan]]))
    np.testing.assert_array_equal(adjusted, [[np.nan, np.nan], [-1.0, np.nan]])


@pytest.mark.parametrize("n", [1, 7])
def test_equal_p_values_stay_what_they_are(n: int) -> None:
    np.testing.assert_allclose(adjusted_log10_p(np.full(n, -3.0)), np.full(n, -3.0))


@pytest.mark.parametrize("df", [10.0, 33.3, 400.0, 1e5, np.inf])
def test_polynomials_are_exact_from_the_middle_to_beyond_their_end(df: float) -> None:
    edges = np.arange(1.0, 40)
    odd = [0.0, 1e-300, 1e-8, np.nan, np.inf, -3.0]
    t = np.concatenate([odd, np.linspace(0, 45, 3_000), edges, np.nextafter(edges, 0)])
    column = log10_p_values(t[:, np.newaxis], np.array([df]))[:, 0]
    one_by_one = log10_p_values(t, np.array(df))
    # far in the tail with very many degrees of freedom the values between which is interpolated have errors themselves
    np.testing.assert_allclose(column, one_by_one, rtol=5e-15 if df < 1e4 else 1e-13, atol=2e-14)
    assert column[0] == 0 or column[0] > -1e-15


@pytest.mark.slow
def test_polynomials_agree_with_many_digits() -> None:
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(1)
    with mpmath.workdps(40):
        for df in (10.0, 47.3, 3_000.0):
            t = rng.uniform(0, 38, 2_000)
            column = log10_p_values(t[:, np.newaxis], np.array([df]))[:, 0]
            for value, size in zip(column[:150], t[:150], strict=True):
                x = df / (mpmath.mpf(df) + mpmath.mpf(size) ** 2)
                p = mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf(0.5), 0, x, regularized=True)
                assert abs(mpmath.mpf(value) - mpmath.log10(p)) * mpmath.log(10) < 1e-12


def test_a_value_does_not_depend_on_those_beside_it() -> None:
    rng = np.random.default_rng(2)
    t = rng.normal(0, 5, (2_000, 150))
    df = rng.choice([3.0, 12.0, 500.0, 501.5], 150)
    df[:70] = rng.uniform(10, 100, 70)
    together = log10_p_values(t, df)
    for columns in (slice(0, 1), slice(3, 90), slice(100, 150)):
        np.testing.assert_array_equal(log10_p_values(t[:, columns], df[columns]), together[:, columns])
    np.testing.assert_array_equal(log10_p_values(np.asfortranarray(t), df), together)


def test_a_few_rows_and_many_give_the_same_to_the_last_digits() -> None:
    rng = np.random.default_rng(3)
    t, df = rng.standard_t(3, (2_500, 20)), rng.uniform(2, 60, 20)
    few = np.concatenate([log10_p_values(part, df) for part in np.array_split(t, 2)])
    np.testing.assert_allclose(log10_p_values(t, df), few, rtol=5e-15, atol=2e-14)
