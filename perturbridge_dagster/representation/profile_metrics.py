"""Metrics of profiles: how much of what a compound does to a cell a prediction tells, condition by condition.

Belongs here: the table of these metrics, and pure functions of arrays of shape (conditions, genes). Does not belong here: pooled errors
over values, intervals, or who predicts (``evaluation.py``).

Every metric of a condition is over the genes measured in it. Where a metric is undefined it is NaN, never 0: a constant truth or a
constant prediction has no direction and ranks no gene, and tells no compound from another.

The definitions are those of cell-eval (Arc Institute) where it has one, with two differences: ties count as their average rather than
by the order of rows, and the rank of a discrimination is divided by the number of other profiles rather than of all, so that the worst
rank scores 0 and chance ½. cell-eval's score is 1 − (1 − score) · (n − 1) / n of ours in a pool of n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbridge_dagster.agreement.metrics import spearman_rows
from perturbridge_dagster.compiled import compiled, on_all_cores
from perturbridge_dagster.contract import PROFILE_METRIC_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_SIGNIFICANT = 10
"""Fewest significant genes of a condition for a metric of significant genes: a share of fewer is noise."""

FALSE_DISCOVERY_RATE = 0.1
"""Share of wrong genes that recovery at a fixed false discovery rate allows. The truth itself may hold 5 % of wrong genes, so that 5 %
would leave the prediction none."""

_ROUNDING = 1e-12
_SAME_COSINE = 1e-6
"""Cosines closer than this are ties: predictions are kept in float32 between the passes."""

_TILE_VALUES = 2_000_000
_VALUES_AT_ONCE = 250_000
"""Values scored at once on a core: few enough to stay in its cache."""


@dataclass(frozen=True)
class ProfileMetric:
    """One metric of a profile.

    Attributes
    ----------
    name, title
        Id in tables, and a short name for pictures.
    minimum, maximum
        Range of a score; None where it has no end.
    by_chance
        Score expected of a prediction that has nothing to do with the truth; None where there is none, or where it depends on the
        condition.
    higher_is_better
        Whether more is better.
    sentence
        What it says, for people.
    """

    name: str
    title: str
    minimum: float
    maximum: float | None
    by_chance: float | None
    higher_is_better: bool
    sentence: str


_METRICS = (
    ProfileMetric("rmse", "RMSE of a profile", 0, None, None, False, "How far is the predicted logFC from the true one, in log2 units?"),
    ProfileMetric("pearson", "Pearson", -1, 1, 0.0, True, "Do predicted and true logFC of all genes lie on a line?"),
    ProfileMetric("spearman", "Spearman", -1, 1, 0.0, True, "Does the prediction rank all genes like the truth?"),
    ProfileMetric("cosine", "Cosine", -1, 1, None, True, "Do the predicted and the true profile point the same way?"),
    ProfileMetric(
        "direction_agreement",
        "Direction of significant genes",
        0,
        1,
        0.5,
        True,
        f"Of the genes that are significant in truth, at least {FEWEST_SIGNIFICANT}, which share is predicted to change in the true "
        "direction? A predicted 0 has none.",
    ),
    ProfileMetric(
        "recovery_at_n",
        "Recovery of significant genes",
        0,
        1,
        None,
        True,
        f"With N the number of genes significant in truth, at least {FEWEST_SIGNIFICANT}: which share of them is among the N genes with "
        "the largest predicted |logFC|? By chance N of all genes.",
    ),
    ProfileMetric(
        "recovery_at_fdr",
        f"Recovery at {FALSE_DISCOVERY_RATE:.0%} false discoveries",
        0,
        1,
        None,
        True,
        f"With genes ranked by predicted |logFC|: the largest share of the truly significant ones, at least {FEWEST_SIGNIFICANT}, in a "
        f"list from the top of which at most {FALSE_DISCOVERY_RATE:.0%} are not significant.",
    ),
    ProfileMetric(
        "discrimination",
        "Discrimination",
        0,
        1,
        0.5,
        True,
        "How close is the prediction to its own true profile, compared with the true profiles of the other held-out conditions of the same "
        "dataset, cell context and time? 1 for the nearest by cosine distance, 0 for the farthest; ties count half.",
    ),
    ProfileMetric(
        "discrimination_inverse",
        "Inverse discrimination",
        0,
        1,
        0.5,
        True,
        "How close is the true profile to its own prediction, compared with the predictions of the other held-out conditions of the same "
        "dataset, cell context and time? 1 for the nearest by cosine distance, 0 for the farthest; ties count half.",
    ),
)

PROFILE_METRICS = {metric.name: metric for metric in _METRICS}
"""Every metric of a profile by name, in the order of the contract."""

REPORTED_METRICS = ("rmse", "pearson", "direction_agreement", "recovery_at_fdr", "discrimination")
"""Those that reports show: how far, how alike, which way, how much of the biology is found, and whether it is that of this compound."""

_AMONG_OTHERS = ("discrimination", "discrimination_inverse")
BY_CHANCE = ("recovery_at_n_by_chance", "recovery_at_fdr_by_chance")
"""What a random order of the genes is expected to score, of the metrics for which that depends on the condition."""

_OF_ONE_PROFILE = (*(name for name in PROFILE_METRICS if name not in _AMONG_OTHERS), *BY_CHANCE)

if tuple(PROFILE_METRICS) != PROFILE_METRIC_NAMES:
    raise RuntimeError(f"the contract names other metrics: {', '.join(PROFILE_METRIC_NAMES)}")


# ---- one profile at a time ---------------------------------------------------------------------------------------------------


def profile_metrics(
    truth: NDArray[np.floating[Any]], predicted: NDArray[np.floating[Any]], significant: NDArray[np.bool_] | None
) -> dict[str, NDArray[np.float64]]:
    """Metrics of each profile by itself, on all cores.

    Parameters
    ----------
    truth
        (n, genes) logFC, NaN where there is no value.
    predicted
        (n, genes), finite.
    significant
        (n, genes): genes significant in truth. Without it the metrics of significant genes are undefined.

    Returns
    -------
    dict
        Metric name → (n,) float64, NaN where undefined: all of :data:`PROFILE_METRICS` but those of discrimination, and
        :data:`BY_CHANCE`.
    """
    if significant is None:
        significant = np.zeros(truth.shape, dtype=bool)
    found = {name: np.full(len(truth), np.nan) for name in _OF_ONE_PROFILE}
    size = max(1, _VALUES_AT_ONCE // max(1, truth.shape[1]))

    def score(start: int) -> None:
        rows = slice(start, start + size)
        for name, scores in _metrics_of(truth[rows], predicted[rows], significant[rows]).items():
            found[name][rows] = scores

    on_all_cores(score, range(0, len(truth), size))
    return found


def _metrics_of(
    truth: NDArray[np.floating[Any]], predicted: NDArray[np.floating[Any]], significant: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Metrics of a few profiles."""
    y, p = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    measured = np.isfinite(y)
    n_genes = measured.sum(axis=1)
    y, p = np.where(measured, y, 0.0), np.where(measured, p, 0.0)
    varies = _varies(y, measured) & _varies(p, measured)
    significant = significant & measured
    n_significant = significant.sum(axis=1)
    judged = varies & (n_significant >= FEWEST_SIGNIFICANT)

    found = {
        "rmse": np.sqrt(_divide(np.square(p - y).sum(axis=1), n_genes)),
        "pearson": np.where(varies, _pearson(y, p, measured), np.nan),
        "spearman": np.where(varies, spearman_rows(np.where(measured, y, np.nan), np.where(measured, p, np.nan)), np.nan),
        "cosine": np.where(varies, _cosine(y, p), np.nan),
        "direction_agreement": _divide((significant & (np.sign(y) == np.sign(p))).sum(axis=1), np.where(judged, n_significant, 0)),
    }
    at_n, at_fdr = _recovery(np.where(measured, np.abs(p), -1.0), significant, n_significant)
    by_chance_at_fdr = np.full(len(y), np.nan)
    for row in np.flatnonzero(judged):
        by_chance_at_fdr[row] = expected_recovery_at_fdr(int(n_genes[row]), int(n_significant[row]), FALSE_DISCOVERY_RATE)
    return found | {
        "recovery_at_n": np.where(judged, at_n, np.nan),
        "recovery_at_fdr": np.where(judged, at_fdr, np.nan),
        "recovery_at_n_by_chance": np.where(judged, _divide(n_significant, n_genes), np.nan),
        "recovery_at_fdr_by_chance": by_chance_at_fdr,
    }


def _divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Quotient; NaN where the denominator is 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _varies(values: NDArray[np.float64], measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows have two values that differ by more than rounding."""
    low = np.where(measured, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(measured, values, -np.inf).max(axis=1, initial=-np.inf)
    largest = np.maximum(np.abs(low), np.abs(high))
    return np.asarray((measured.sum(axis=1) > 1) & (high > low) & (high - low > _ROUNDING * largest))


def _pearson(y: NDArray[np.float64], p: NDArray[np.float64], measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    n = np.maximum(measured.sum(axis=1, keepdims=True), 1)
    return _cosine(*(np.where(measured, side - side.sum(axis=1, keepdims=True) / n, 0.0) for side in (y, p)))


def _cosine(y: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each row; NaN where a side is 0. Values that are not measured are 0 on both."""
    product, y_squares, p_squares = (np.einsum("ij,ij->i", a, b) for a, b in ((y, p), (y, y), (p, p)))
    return np.clip(_divide(product, np.sqrt(y_squares) * np.sqrt(p_squares)), -1.0, 1.0)


def _recovery(
    strength: NDArray[np.float64], significant: NDArray[np.bool_], n_significant: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recovery among the N strongest, and at the fixed false discovery rate; 0 significant genes give NaN.

    Genes of equal strength come in no order: at N, those that tie at the edge count as many as would be drawn on average; at a false
    discovery rate, they are in the list together or not at all. Genes that are not measured have strength -1, so they come last.
    """
    n_rows, n_genes = strength.shape
    if n_genes == 0:
        return np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    order = np.argsort(-strength, axis=1, kind="stable")
    ranked = np.take_along_axis(strength, order, axis=1)
    n_found = np.take_along_axis(significant, order, axis=1).cumsum(axis=1)
    rows = np.arange(n_rows)

    edge = ranked[rows, np.maximum(n_significant - 1, 0)][:, None]
    n_above, n_tied = (strength > edge).sum(axis=1), (strength == edge).sum(axis=1)
    found_above, found_tied = (significant & (strength > edge)).sum(axis=1), (significant & (strength == edge)).sum(axis=1)
    at_n = _divide(found_above + (n_significant - n_above) * found_tied / n_tied, n_significant)

    last_of_tie = np.ones(strength.shape, dtype=bool)
    last_of_tie[:, :-1] = ranked[:, 1:] < ranked[:, :-1]
    length = np.arange(1, n_genes + 1)
    # wrong ≤ rate · length, with room for the rounding of the product
    allowed = last_of_tie & (length - n_found <= FALSE_DISCOVERY_RATE * length + 1e-9)
    at_fdr = _divide(np.where(allowed, n_found, 0).max(axis=1), n_significant)
    return at_n, at_fdr


@lru_cache(maxsize=100_000)
def expected_recovery_at_fdr(n_genes: int, n_significant: int, rate: float) -> float:
    """Recovery at a false discovery rate that a random order of the genes is expected to have.

    Exact: the last place in the order at which at most `rate` of the genes so far are wrong decides the recovery; its distribution
    follows from going through the order backwards, by how many right and wrong genes have come.

    Parameters
    ----------
    n_genes, n_significant
        Genes in all, and significant ones, at least 1.
    rate
        Largest share of wrong genes, below 1.
    """
    if n_significant >= (1 - rate) * n_genes - 1e-9:
        return 1.0
    return float(_expected_last(n_genes, n_significant, rate)) / n_significant


@compiled
def _expected_last(n_genes: int, n_right: int, rate: float) -> float:
    """Expected number of right genes at the last place where at most `rate` of the genes so far are wrong.

    `there_is` is the probability that such a place comes at or after the place with so many right and wrong genes, and `expected` the
    number of right genes at the last of them times that probability, 0 where there is none. With more than `most_wrong` wrong genes
    there is none, since all right ones could not make up for them.
    """
    most_wrong = int(np.floor(rate * n_right / (1 - rate) + 1e-9))
    there_is, expected = np.zeros(most_wrong + 2), np.zeros(most_wrong + 2)
    for right in range(n_right, -1, -1):
        for wrong in range(most_wrong, -1, -1):
            left = n_genes - right - wrong
            next_is_right = (n_right - right) / left if left > 0 else 0.0
            # at `wrong` stands what holds with one more right gene, at `wrong + 1` what holds with one more wrong gene
            later = next_is_right * there_is[wrong] + (1 - next_is_right) * there_is[wrong + 1]
            number = next_is_right * expected[wrong] + (1 - next_is_right) * expected[wrong + 1]
            if right + wrong > 0 and wrong <= rate * (right + wrong) + 1e-9:
                number += (1 - later) * right
                later = 1.0
            there_is[wrong], expected[wrong] = later, number
    return float(expected[0])


# ---- profiles among others ---------------------------------------------------------------------------------------------------


def discrimination(
    truth: NDArray[np.float32], predicted: NDArray[np.float32], pool: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank of each condition's own profile among those of its pool, by cosine distance, from both sides.

    The cosine of the prediction of i and the truth of j is over the genes measured in j. From the side of the prediction, the truth of i
    is ranked among all truths of the pool; from the side of the truth (the inverse), the prediction of i among all predictions. A rank
    is one less the share of the others that are nearer, those that tie counting half.

    Memory: some tiles of about two million values.

    Parameters
    ----------
    truth
        (n, genes) logFC, NaN where there is no value; may be memory-mapped.
    predicted
        (n, genes), finite; may be memory-mapped.
    pool
        (n,) what conditions that are compared share.

    Returns
    -------
    tuple
        (n,) discrimination and (n,) inverse, NaN where the condition's own cosine is undefined or no other cosine of its pool is defined.
    """
    forward, inverse = np.full(len(truth), np.nan), np.full(len(truth), np.nan)
    for value in np.unique(pool):
        rows = np.flatnonzero(pool == value)
        if len(rows) > 1:
            forward[rows], inverse[rows] = _pool_ranks(truth, predicted, rows)
    return forward, inverse


def _pool_ranks(
    truth: NDArray[np.float32], predicted: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = max(1, _TILE_VALUES // max(1, truth.shape[1]))
    tiles = [rows[start : start + size] for start in range(0, len(rows), size)]
    own = np.concatenate([_own_cosines(truth[tile], predicted[tile]) for tile in tiles])
    nearer, others = np.zeros((2, len(rows))), np.zeros((2, len(rows)), dtype=np.int64)
    for right, tile_right in enumerate(tiles):
        values = truth[tile_right].astype(np.float64)
        measured = np.isfinite(values)
        values = np.where(measured, values, 0.0)
        columns = np.arange(right * size, right * size + len(tile_right))
        for left, tile_left in enumerate(tiles):
            lines = np.arange(left * size, left * size + len(tile_left))
            profiles = predicted[tile_left].astype(np.float64)
            norms = np.sqrt(np.square(profiles) @ measured.T.astype(np.float64)) * np.sqrt(np.square(values).sum(axis=1))
            cosine = np.divide(profiles @ values.T, norms, out=np.full(norms.shape, np.nan), where=norms > 0)
            cosine[lines[:, None] == columns] = np.nan
            for side, (axis, mine) in enumerate(((1, own[lines][:, None]), (0, own[columns][None, :]))):
                place = lines if axis else columns
                nearer[side, place] += (cosine > mine + _SAME_COSINE).sum(axis=axis)
                nearer[side, place] += 0.5 * (np.abs(cosine - mine) <= _SAME_COSINE).sum(axis=axis)
                others[side, place] += np.isfinite(cosine).sum(axis=axis)
    ranks = np.where(np.isfinite(own), 1.0 - _divide(nearer, others), np.nan)
    return ranks[0], ranks[1]


def _own_cosines(truth: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    measured = np.isfinite(truth)
    return _cosine(np.where(measured, truth, 0.0).astype(np.float64), np.where(measured, predicted, 0.0).astype(np.float64))
