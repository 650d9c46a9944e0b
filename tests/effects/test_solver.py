"""The solver against dense linear algebra on the explicit design matrix, and what must not change an answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perturbridge_dagster.effects.solver import (
    Codes,
    Layout,
    condition_sums,
    covariances,
    group_sums,
    invert,
    lay_out,
    max_leverage,
    pair_covariances,
    plate_matrix,
    solve,
    unweighted,
)

Array = NDArray[np.float64]


class Problem(NamedTuple):
    """Samples of one gene; some codes have no sample, as where values are missing."""

    condition: NDArray[np.intp]
    plate: NDArray[np.intp]
    n_conditions: int
    n_plates: int
    values: Array
    weights: Array


class Solution(NamedTuple):
    coefficient: Array
    covariance: Array
    squares: float


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    n_conditions, n_plates = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    well = st.tuples(st.integers(0, n_conditions - 1), st.integers(0, n_plates - 1))
    wells = np.array(draw(st.lists(well, min_size=1, max_size=30)), dtype=np.intp)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # voom's weights of one gene seldom differ by more than a factor of a thousand
    weights = 10 ** rng.uniform(-2, 2, len(wells))
    return Problem(wells[:, 0], wells[:, 1], n_conditions, n_plates, rng.normal(5, 2, len(wells)), weights)


def _lay_out(problem: Problem) -> Layout:
    return lay_out(problem.condition, problem.plate, problem.n_conditions, problem.n_plates)


def _pairs(problem: Problem) -> tuple[Codes, Codes]:
    one, other = np.indices((problem.n_conditions, problem.n_conditions), dtype=np.int64)
    return one.ravel(), other.ravel()


def _solve(problem: Problem) -> Solution:
    layout = _lay_out(problem)
    values, weights = problem.values[layout.order], problem.weights[layout.order]
    n_groups, n_free = len(layout.group_plate), len(layout.free_plates)
    weight, total = np.empty(n_groups), np.empty(n_groups)
    condition_weight, coefficient = np.empty(problem.n_conditions), np.empty(problem.n_conditions)
    rhs, effect, inverse = np.empty(n_free), np.empty(n_free), np.empty((n_free, n_free))
    group_sums(values, weights, layout, weight, total)
    condition_sums(weight, total, layout, condition_weight, coefficient, rhs)
    plate_matrix(weight, condition_weight, layout, inverse)
    invert(inverse)
    squares = solve(values, weights, weight, condition_weight, inverse, rhs, layout, coefficient, effect)
    one, other = _pairs(problem)
    shared = np.empty(len(one))
    pair_covariances(one, other, weight, condition_weight, inverse, layout, shared)
    shared = shared.reshape(problem.n_conditions, -1)
    return Solution(coefficient, shared, squares)


def _columns_of_r(problem: Problem) -> Array:
    """The columns that R estimates of ``~ 0 + condition + plate``: each that does not follow from those before it."""
    conditions = problem.condition[:, np.newaxis] == np.unique(problem.condition)
    plates = problem.plate[:, np.newaxis] == np.arange(1, problem.n_plates)
    design = np.hstack([conditions, plates]).astype(float)
    kept: list[int] = []
    for column in range(design.shape[1]):
        if np.linalg.matrix_rank(design[:, [*kept, column]]) > len(kept):
            kept.append(column)
    return design[:, kept]


def _densely(problem: Problem) -> Solution:
    """Weighted least squares on the columns that R estimates; NaN for conditions without samples."""
    design, root = _columns_of_r(problem), np.sqrt(problem.weights)
    answer = np.linalg.lstsq(design * root[:, np.newaxis], problem.values * root, rcond=None)[0]
    present = np.unique(problem.condition)
    coefficient = np.full(problem.n_conditions, np.nan)
    coefficient[present] = answer[: len(present)]
    shared = np.full((problem.n_conditions, problem.n_conditions), np.nan)
    shared[np.ix_(present, present)] = np.linalg.pinv(design * root[:, np.newaxis])[: len(present)] @ (
        np.linalg.pinv(design * root[:, np.newaxis])[: len(present)].T
    )
    residual = problem.values - design @ answer
    return Solution(coefficient, shared, float(problem.weights @ residual**2))


def _estimable(problem: Problem) -> NDArray[np.bool_]:
    """Which differences of conditions are combinations of samples: those in the row space of the full design."""
    design = np.hstack(
        [problem.condition[:, np.newaxis] == np.arange(problem.n_conditions), problem.plate[:, np.newaxis] == np.arange(problem.n_plates)]
    )
    onto = np.linalg.pinv(design.astype(float)) @ design
    a, b = np.indices((problem.n_conditions, problem.n_conditions))
    differences = np.zeros((*a.shape, design.shape[1]))
    np.put_along_axis(differences, a[..., np.newaxis], 1, axis=-1)
    differences[a, b, b] -= 1
    return (np.abs(differences @ onto - differences).max(axis=-1) < 1e-8) & (a != b)


def _differences(coefficient: Array) -> Array:
    return coefficient[:, np.newaxis] - coefficient


def _close(ours: Array | float, dense: Array | float, bound: float = 1e-9) -> None:
    np.testing.assert_allclose(ours, dense, rtol=bound, atol=bound * np.nanmax(np.abs(dense), initial=1.0))


@pytest.mark.slow
@given(problems())
def test_the_fit_is_that_of_the_dense_design_of_r(problem: Problem) -> None:
    ours, dense = _solve(problem), _densely(problem)
    assert _lay_out(problem).rank == _columns_of_r(problem).shape[1]
    assert len(problem.values) == _lay_out(problem).group_start[-1]
    _close(ours.coefficient, dense.coefficient)
    _close(ours.covariance, dense.covariance)
    _close(ours.squares, dense.squares)


@pytest.mark.slow
@given(problems())
def test_estimable_differences_do_not_depend_on_the_plate_that_is_held(problem: Problem) -> None:
    design = np.hstack(
        [problem.condition[:, np.newaxis] == np.arange(problem.n_conditions), problem.plate[:, np.newaxis] == np.arange(problem.n_plates)]
    )
    root = np.sqrt(problem.weights)[:, np.newaxis]
    inverse = np.linalg.pinv(design * root)
    shortest = (inverse @ (problem.values * root[:, 0]))[: problem.n_conditions]
    shared = (inverse @ inverse.T)[: problem.n_conditions, : problem.n_conditions]
    of_difference = np.diag(shared)[:, np.newaxis] + np.diag(shared) - 2 * shared
    ours, estimable = _solve(problem), _estimable(problem)
    _close(_differences(ours.coefficient)[estimable], _differences(shortest)[estimable])
    variance = np.diag(ours.covariance)
    _close((variance[:, np.newaxis] + variance - 2 * ours.covariance)[estimable], of_difference[estimable])
    # another order of the plates is another reference
    other = _solve(problem._replace(plate=problem.n_plates - 1 - problem.plate))
    _close(_differences(other.coefficient)[estimable], _differences(ours.coefficient)[estimable])


@pytest.mark.slow
@given(problems())
def test_leverage_and_covariances_without_weights_are_those_of_the_hat_matrix(problem: Problem) -> None:
    problem = problem._replace(weights=np.ones(len(problem.values)))
    fit = unweighted(_lay_out(problem))
    basis = np.linalg.qr(_columns_of_r(problem))[0]
    assert max_leverage(fit) == pytest.approx((basis**2).sum(axis=1).max(), rel=1e-10)
    _close(covariances(fit, *_pairs(problem)), _densely(problem).covariance.ravel())


@pytest.mark.slow
@given(problems(), st.floats(-100, 100))
def test_what_is_added_to_a_plate_changes_no_estimable_difference(problem: Problem, added: float) -> None:
    moved = problem._replace(values=problem.values + added * (problem.plate == problem.plate[0]))
    ours, other, estimable = _solve(problem), _solve(moved), _estimable(problem)
    scale = 1 + abs(added)
    np.testing.assert_allclose(
        _differences(other.coefficient)[estimable], _differences(ours.coefficient)[estimable], rtol=1e-9, atol=1e-10 * scale
    )
    assert other.squares == pytest.approx(ours.squares, rel=1e-9, abs=1e-15 * problem.weights.sum() * scale**2)


@pytest.mark.slow
@given(problems(), st.integers(-20, 20))
def test_only_ratios_of_weights_matter(problem: Problem, power: int) -> None:
    ours, scaled = _solve(problem), _solve(problem._replace(weights=problem.weights * 2.0**power))
    # a power of two moves no bit
    np.testing.assert_array_equal(scaled.coefficient, ours.coefficient)
    np.testing.assert_array_equal(scaled.covariance * 2.0**power, ours.covariance)
    _close(_solve(problem._replace(weights=problem.weights * 3.7)).coefficient, ours.coefficient)


@pytest.mark.slow
@given(problems(), st.integers(0, 2**32 - 1))
def test_the_order_of_samples_moves_last_bits_and_none_where_groups_keep_theirs(problem: Problem, seed: int) -> None:
    ours = _solve(problem)

    def reordered(order: NDArray[np.intp]) -> Solution:
        return _solve(problem._replace(**{name: getattr(problem, name)[order] for name in ("condition", "plate", "values", "weights")}))

    shuffled = np.random.default_rng(seed).permutation(len(problem.values))
    for one, other in zip(reordered(shuffled), ours, strict=True):
        _close(one, other, 1e-10)
    by_plate = np.lexsort((np.arange(len(problem.values)), problem.condition, -problem.plate))
    for one, other in zip(reordered(by_plate), ours, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_the_inverse_of_a_large_badly_scaled_matrix(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    shared = np.triu(10 ** rng.uniform(-3, 3, (n + 1, n + 1)), 1)
    shared += shared.T
    laplacian = (np.diag(shared.sum(axis=0)) - shared)[1:, 1:]
    inverse = laplacian.copy()
    invert(inverse)
    np.testing.assert_allclose(inverse, np.linalg.inv(laplacian), rtol=1e-8)
    np.testing.assert_allclose(inverse, inverse.T, rtol=1e-9)


def test_the_plate_held_in_each_component_is_the_one_r_drops() -> None:
    # components by plates: {0, 3}, {1}, {2, 4, 5}; plate 0 is the reference
    condition = np.array([0, 0, 1, 2, 2, 3, 3])
    plate = np.array([0, 3, 1, 2, 4, 4, 5])
    layout = lay_out(condition, plate, 5, 6)
    assert layout.free_plates.tolist() == [2, 3, 4]
    assert layout.rank == 4 + 3
    assert layout.condition_start.tolist() == [0, 2, 3, 5, 7, 7]
    # without the reference, its component drops the last plate it has left
    assert lay_out(condition[1:], plate[1:], 5, 6).free_plates.tolist() == [2, 4]
    assert lay_out(np.array([1, 1]), np.array([1, 3]), 5, 6).free_plates.tolist() == [1]
