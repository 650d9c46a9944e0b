"""The fit of condition + plate, without a design matrix: per gene a linear system of the size of the plates.

The design ``~ 0 + condition + plate`` is two sets of indicator columns. Samples of one condition on one plate form a group, and all
that the fit needs of a gene are the sums of weights and of weighted values in each group. Eliminating the conditions leaves

    S γ = rhs,   S = Σ_a [diag(W_a) − W_a W_aᵀ / d_a],   rhs_p = Σ_a (r_ap − W_ap r_a / d_a),   coef_a = (r_a − W_aᵀ γ) / d_a,

with W_ap the weight of condition a on plate p, d_a its sum over plates, and r the same sums of weight × value. S is the Laplacian of the
graph in which two plates are joined through the conditions they share; it loses one rank a connected component, so one plate of each
component is held at zero. Every entry of S is a sum of terms of one sign: nothing cancels, and a condition on one plate adds nothing.
The variance of coef_a is 1/d_a + W_aᵀ S⁻¹ W_a / d_a², the covariance of coef_a and coef_b is W_aᵀ S⁻¹ W_b / (d_a d_b), both in units of
the residual variance. docs/decisions/0004-structured-engine.md derives it.

A loop gets whole arrays, never one condition or one sample: each call of a compiled function counts references to its arrays, which threads
contend for.

Belongs here: the layout of a design and the loops over it. Does not belong here: what the values are and where weights come from
(``structured.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.compiled import compiled
from perturbridge_dagster.effects.design import connected_components

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


class Layout(NamedTuple):
    """Samples in the order of the fit: by condition, then plate.

    Attributes
    ----------
    order
        Position, among the samples given, of each sample in the order of the fit.
    group_start
        First sample of each group, and the number of samples; a group is the samples of one condition on one plate.
    group_plate
        Number of each group's plate among the free plates; −1 for a plate held at zero.
    condition_start
        First group of each condition, and the number of groups; a condition without samples has none.
    free_plates
        Codes of the plates whose effect is estimated, ascending.
    rank
        Rank of the design.
    """

    order: Codes
    group_start: Codes
    group_plate: Codes
    condition_start: Codes
    free_plates: Codes
    rank: int


def lay_out(condition: NDArray[np.intp], plate: NDArray[np.intp], n_conditions: int, n_plates: int) -> Layout:
    """Lay out a design, or what is left of it for a gene with missing values.

    In each connected component of conditions and plates one plate is held at zero: the first plate of all where it is present, else
    the last of the component, which is the column that R's pivoting drops.

    Parameters
    ----------
    condition, plate
        Code of each sample's condition and plate.
    n_conditions, n_plates
        Codes in all, with or without samples.
    """
    order = np.lexsort((plate, condition))
    key = condition[order] * n_plates + plate[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    groups = key[first]
    components = connected_components(condition, plate, n_conditions, n_plates)[n_conditions:]
    present = np.unique(plate)
    held = np.full(n_conditions + n_plates, -1)
    np.maximum.at(held, components[present], present)
    if present[0] == 0:
        held[components[0]] = 0
    free_plates = present[held[components[present]] != present]
    number = np.full(n_plates, -1, dtype=np.int64)
    number[free_plates] = np.arange(len(free_plates))
    return Layout(
        order=order.astype(np.int64),
        group_start=np.append(first, len(order)).astype(np.int64),
        group_plate=number[groups % n_plates],
        condition_start=np.searchsorted(groups // n_plates, np.arange(n_conditions + 1)).astype(np.int64),
        free_plates=free_plates.astype(np.int64),
        rank=len(np.unique(condition)) + len(free_plates),
    )


@compiled
def group_sums(values: Array, weights: Array, layout: Layout, weight: Array, total: Array) -> None:
    """Sums of weights, and of weight × value, of each group; samples in the order of the fit."""
    for group in range(len(layout.group_start) - 1):
        weight_sum = 0.0
        value_sum = 0.0
        for sample in range(layout.group_start[group], layout.group_start[group + 1]):
            weight_sum += weights[sample]
            value_sum += weights[sample] * values[sample]
        weight[group] = weight_sum
        total[group] = value_sum


@compiled
def condition_sums(weight: Array, total: Array, layout: Layout, condition_weight: Array, coefficient: Array, rhs: Array) -> None:
    """Weight and weighted mean of each condition (NaN without samples), and the right-hand side of the plates."""
    rhs[:] = 0
    for condition in range(len(layout.condition_start) - 1):
        first, last = layout.condition_start[condition], layout.condition_start[condition + 1]
        weight_sum = 0.0
        value_sum = 0.0
        for group in range(first, last):
            weight_sum += weight[group]
            value_sum += total[group]
        mean = value_sum / weight_sum
        condition_weight[condition] = weight_sum
        coefficient[condition] = mean
        if last - first > 1:
            for group in range(first, last):
                if layout.group_plate[group] >= 0:
                    rhs[layout.group_plate[group]] += total[group] - weight[group] * mean


@compiled
def plate_matrix(weight: Array, condition_weight: Array, layout: Layout, matrix: Array) -> None:
    """The matrix S over the free plates."""
    matrix[:] = 0
    for condition in range(len(layout.condition_start) - 1):
        first, last = layout.condition_start[condition], layout.condition_start[condition + 1]
        for group in range(first, last):
            plate = layout.group_plate[group]
            for other in range(first, group):
                other_plate = layout.group_plate[other]
                shared = weight[group] * weight[other] / condition_weight[condition]
                if plate >= 0:
                    matrix[plate, plate] += shared
                if other_plate >= 0:
                    matrix[other_plate, other_plate] += shared
                if plate >= 0 and other_plate >= 0:
                    matrix[plate, other_plate] -= shared
                    matrix[other_plate, plate] -= shared


@compiled
def invert(matrix: Array) -> None:
    """Replace a positive definite matrix by its inverse (Gauss and Jordan; no pivoting is needed for such a matrix)."""
    n = len(matrix)
    for k in range(n):
        pivot = 1 / matrix[k, k]
        matrix[k, k] = 1.0
        for column in range(n):
            matrix[k, column] *= pivot
        for row in range(n):
            if row != k:
                factor = matrix[row, k]
                if factor != 0:
                    matrix[row, k] = 0.0
                    for column in range(n):
                        matrix[row, column] -= factor * matrix[k, column]


@compiled
def solve(
    values: Array,
    weights: Array,
    weight: Array,
    condition_weight: Array,
    inverse: Array,
    rhs: Array,
    layout: Layout,
    coefficient: Array,
    effect: Array,
) -> float:
    """Plate effects, coefficients (in place of the conditions' means), and the weighted sum of squared residuals."""
    for plate in range(len(rhs)):
        plate_effect = 0.0
        for other in range(len(rhs)):
            plate_effect += inverse[plate, other] * rhs[other]
        effect[plate] = plate_effect
    squares = 0.0
    for condition in range(len(layout.condition_start) - 1):
        first, last = layout.condition_start[condition], layout.condition_start[condition + 1]
        shift = 0.0
        for group in range(first, last):
            if layout.group_plate[group] >= 0:
                shift += weight[group] * effect[layout.group_plate[group]]
        coefficient[condition] -= shift / condition_weight[condition]
        for group in range(first, last):
            fitted = coefficient[condition]
            if layout.group_plate[group] >= 0:
                fitted += effect[layout.group_plate[group]]
            for sample in range(layout.group_start[group], layout.group_start[group + 1]):
                residual = values[sample] - fitted
                squares += weights[sample] * residual * residual
    return squares


@compiled
def fill_fitted(coefficient: Array, effect: Array, layout: Layout, fitted: Array) -> None:
    """Fitted value of each sample, in the order of the fit."""
    for condition in range(len(coefficient)):
        for group in range(layout.condition_start[condition], layout.condition_start[condition + 1]):
            value = coefficient[condition]
            if layout.group_plate[group] >= 0:
                value += effect[layout.group_plate[group]]
            for sample in range(layout.group_start[group], layout.group_start[group + 1]):
                fitted[sample] = value


@compiled
def pair_covariances(
    one: Codes, other: Codes, weight: Array, condition_weight: Array, inverse: Array, layout: Layout, result: Array
) -> None:
    """Covariance of the coefficients of each pair of conditions, in units of the residual variance; a pair of equals has its variance."""
    for pair in range(len(one)):
        shared = 0.0
        for group in range(layout.condition_start[one[pair]], layout.condition_start[one[pair] + 1]):
            plate = layout.group_plate[group]
            if plate >= 0:
                for other_group in range(layout.condition_start[other[pair]], layout.condition_start[other[pair] + 1]):
                    other_plate = layout.group_plate[other_group]
                    if other_plate >= 0:
                        shared += inverse[plate, other_plate] * weight[group] * weight[other_group]
        shared /= condition_weight[one[pair]] * condition_weight[other[pair]]
        result[pair] = shared + 1 / condition_weight[one[pair]] if one[pair] == other[pair] else shared


class UnweightedFit(NamedTuple):
    """What the fit with weights of 1 has in common for all genes.

    Attributes
    ----------
    layout
        The samples.
    weight, condition_weight
        Samples of each group and of each condition.
    inverse
        Inverse of the plate matrix.
    """

    layout: Layout
    weight: Array
    condition_weight: Array
    inverse: Array


def unweighted(layout: Layout) -> UnweightedFit:
    """Prepare the fit with weights of 1."""
    weight = np.diff(layout.group_start).astype(np.float64)
    samples_before = layout.group_start[layout.condition_start]
    condition_weight = np.diff(samples_before).astype(np.float64)
    inverse = np.empty((len(layout.free_plates), len(layout.free_plates)))
    plate_matrix(weight, condition_weight, layout, inverse)
    invert(inverse)
    return UnweightedFit(layout, weight, condition_weight, inverse)


def covariances(fit: UnweightedFit, one: Codes, other: Codes) -> Array:
    """As :func:`pair_covariances`, with weights of 1."""
    result = np.empty(len(one))
    pair_covariances(one, other, fit.weight, fit.condition_weight, fit.inverse, fit.layout, result)
    return result


@compiled
def max_leverage(fit: UnweightedFit) -> float:
    """Largest diagonal element of the hat matrix: how much a sample decides its own fitted value."""
    layout = fit.layout
    conditions = np.arange(len(fit.condition_weight))
    variance = np.empty(len(conditions))
    pair_covariances(conditions, conditions, fit.weight, fit.condition_weight, fit.inverse, layout, variance)
    largest = 0.0
    for condition in conditions:
        first, last = layout.condition_start[condition], layout.condition_start[condition + 1]
        for group in range(first, last):
            leverage = variance[condition]
            plate = layout.group_plate[group]
            if plate >= 0:
                shared = 0.0
                for other in range(first, last):
                    if layout.group_plate[other] >= 0:
                        shared += fit.inverse[plate, layout.group_plate[other]] * fit.weight[other]
                leverage += fit.inverse[plate, plate] - 2 * shared / fit.condition_weight[condition]
            largest = max(largest, leverage)
    return largest
