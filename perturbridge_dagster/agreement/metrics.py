"""Metrics: which measures of agreement there are, and the plain row-by-row functions that others need too.

Belongs here: the table of metrics that scoring, documents, reports and checks follow, and pure functions of arrays of shape
(rows, genes). Does not belong here: computing all metrics of many pairs at once (``comparing.py``), or which rows are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from perturbridge_dagster.contract import METRIC_NAMES

Values = NDArray[np.floating[Any]]
Layer = Literal["logFC", "t", "log10_adj_p_within"]

SIGNIFICANT_ADJUSTED_P = 0.05
LARGE_LOG_FC = 0.2
TOP_SIGNED = 50
"""Most genes on each side of the signed overlap; half the genes where there are fewer than twice as many."""
TOP_OVERLAPS = (50, 100, 200)


@dataclass(frozen=True)
class Metric:
    """One measure of agreement of two signatures.

    Attributes
    ----------
    name, title
        Id in tables, and a short name for pictures.
    minimum, maximum
        Range of the score.
    by_chance
        Score expected of two unrelated signatures; None where it depends on the numbers of genes.
    layers
        Layers of effects that it needs.
    minimum_genes
        Fewest genes (``n_genes`` of a score) for which the published definition gives a score.
    centroid
        What its score with a centroid is, which has no P values.
    sentence
        What it says, for people.
    """

    name: str
    title: str
    minimum: float
    maximum: float
    by_chance: float | None
    layers: tuple[Layer, ...]
    minimum_genes: int
    centroid: str
    sentence: str


_SIGNIFICANCE: tuple[Layer, ...] = ("logFC", "log10_adj_p_within")
_LARGE = f"and |logFC| above {LARGE_LOG_FC:g}"
_SAME = "The same correlation."
_OWN_GENES = "Over the significant genes of the signature."
_RANKED = "The signature's significant genes against all genes of the centroid, ranked by |logFC|."


def _deg_spearman(suffix: str, title: str, further: str) -> Metric:
    return Metric(
        f"deg_spearman_{suffix}",
        f"Spearman of logFC, significant genes{title}",
        -1,
        1,
        0.0,
        _SIGNIFICANCE,
        2,
        _OWN_GENES,
        f"Do the genes that are significant{further} on one side rank alike by log fold change? Mean of taking them from either side.",
    )


def _direction(suffix: str, title: str, further: str) -> Metric:
    return Metric(
        f"direction_agreement_{suffix}",
        f"Direction agreement{title}",
        0,
        1,
        0.5,
        _SIGNIFICANCE,
        1,
        _OWN_GENES,
        f"Of the genes significant{further} on both sides, which share changes in the same direction?",
    )


_METRICS = (
    Metric(
        "spearman_logFC",
        "Spearman of logFC",
        -1,
        1,
        0.0,
        ("logFC",),
        2,
        _SAME,
        "Do the two sides rank all genes alike by log fold change?",
    ),
    Metric("spearman_t", "Spearman of t", -1, 1, 0.0, ("t",), 2, _SAME, "Do the two sides rank all genes alike by moderated t?"),
    Metric(
        f"signed_overlap_t_top{TOP_SIGNED}",
        f"Overlap of the top {TOP_SIGNED} by t",
        0,
        1,
        None,
        ("t",),
        2,
        "The same overlap with the mean t.",
        f"Which share of the {TOP_SIGNED} most increased and the {TOP_SIGNED} most decreased genes, by t, do the two sides have in common?",
    ),
    _deg_spearman("p05", "", ""),
    _deg_spearman("p05_lfc02", " with |logFC| > 0.2", f" {_LARGE}"),
    _direction("p05", "", ""),
    _direction("p05_lfc02", ", |logFC| > 0.2", f" {_LARGE}"),
    Metric(
        "de_overlap_reference_n",
        "Overlap of the top significant genes",
        0,
        1,
        None,
        _SIGNIFICANCE,
        1,
        _RANKED,
        "With N the number of significant genes on the side that has fewer: which share of the N strongest by |logFC| is common?",
    ),
    *(
        Metric(
            f"de_overlap_top{k}",
            f"Overlap of the top {k} significant genes",
            0,
            1,
            None,
            _SIGNIFICANCE,
            k,
            _RANKED,
            f"Which share of the {k} strongest significant genes by |logFC| do the two sides have in common, where both have {k}?",
        )
        for k in TOP_OVERLAPS
    ),
)

METRICS = {metric.name: metric for metric in _METRICS}
"""Every metric by name, in the order of the contract."""

if tuple(METRICS) != METRIC_NAMES:
    raise RuntimeError(f"the contract names other metrics: {', '.join(METRIC_NAMES)}")


def _divide(numerator: Values, denominator: Values) -> NDArray[np.float64]:
    """Quotient; NaN where the denominator is zero or NaN."""
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def spearman_rows(left: Values, right: Values) -> NDArray[np.float64]:
    """Spearman correlation of each row of `left` with the same row of `right`.

    Parameters
    ----------
    left, right
        Shape (rows, genes). Genes that are not finite on either side are left out of that row.

    Returns
    -------
    Shape (rows,): Pearson correlation of average ranks; NaN with fewer than two genes or where one side is constant.
    """
    both = np.isfinite(left) & np.isfinite(right)
    mean_rank = (both.sum(axis=1, keepdims=True) + 1) / 2
    x, y = (np.where(both, rankdata(np.where(both, side, np.nan), axis=1, nan_policy="omit") - mean_rank, 0.0) for side in (left, right))
    covariance, x_squares, y_squares = (np.einsum("ij,ij->i", a, b) for a, b in ((x, y), (x, x), (y, y)))
    return np.clip(_divide(covariance, np.sqrt(x_squares * y_squares)), -1.0, 1.0)


def significant(log_fc: NDArray[np.float32], log10_adj_p: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which genes are differentially expressed: finite logFC and adjusted P strictly below 0.05.

    Parameters
    ----------
    log_fc, log10_adj_p
        Shape (rows, genes); log10 of the P value adjusted within the contrast, float32 as stored.
    """
    # Compared in float32: a stored P of exactly 0.05 is not below it.
    return np.isfinite(log_fc) & (log10_adj_p < np.float32(np.log10(SIGNIFICANT_ADJUSTED_P)))


def mean_rows(values: Values) -> NDArray[np.float64]:
    """Mean of the finite values of each row; NaN where there is none."""
    finite = np.isfinite(values)
    return _divide(np.where(finite, values, 0.0).sum(axis=1, dtype=np.float64), finite.sum(axis=1))
