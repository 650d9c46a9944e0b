"""The metrics of the benchmark: one number a condition, over its genes, and their means over conditions.

Belongs here: definitions. Does not belong here: comparing predictors (``comparison.py``).

A correlation or cosine of a constant or zero row is undefined. The mean counts it as 0, as published, over all rows; how many there are
is said beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from perturbridge_dagster.contract import OP3_METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRICS = OP3_METRICS
ERRORS = ("mrrmse", "mae")
"""Metrics of which less is better; of the others more is."""


def row_metrics(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> pd.DataFrame:
    """Metrics of each condition.

    Parameters
    ----------
    truth, predicted
        Shape (conditions, genes), finite.

    Returns
    -------
    One row a condition, columns :data:`METRICS`; NaN where undefined. ``mrrmse`` is the root mean squared error of the row, whose mean is
    the metric of that name; ``spearman`` gives ties their average rank.

    Raises
    ------
    ValueError
        If shapes differ, or a value is not finite.
    """
    y, p = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 2:
        raise ValueError(f"truth has shape {y.shape}, predictions {p.shape}; both must be conditions × genes")
    if not (np.isfinite(y).all() and np.isfinite(p).all()):
        raise ValueError("truth and predictions must be finite")
    return pd.DataFrame(
        {
            "mrrmse": np.sqrt(np.square(p - y).mean(axis=1)),
            "mae": np.abs(p - y).mean(axis=1),
            "spearman": _cosine(*(_centred(rankdata(of, axis=1)) for of in (y, p))),
            "pearson": _cosine(_centred(y), _centred(p)),
            "cosine": _cosine(y, p),
        },
        columns=list(METRICS),
    )


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values less the mean of their row; exactly zero in a row of equal values, which rounding would leave a direction."""
    centred = values - values.mean(axis=1, keepdims=True)
    centred[np.ptp(values, axis=1) == 0] = 0.0
    return np.asarray(centred)


def _cosine(y: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of the rows of two arrays; NaN where one of the two is zero."""
    norms = np.linalg.norm(y, axis=1) * np.linalg.norm(p, axis=1)
    products = np.einsum("ij,ij->i", y, p)
    return np.asarray(np.divide(products, norms, out=np.full(len(y), np.nan), where=norms > 0).clip(-1.0, 1.0))


def mean_metrics(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over conditions.

    Parameters
    ----------
    rows
        As :func:`row_metrics` gives them.

    Returns
    -------
    One row a metric: metric, value (NaN without a condition), n_undefined.
    """
    undefined = rows[list(METRICS)].isna()
    means = rows[list(METRICS)].fillna(0.0).mean()
    return pd.DataFrame({"metric": METRICS, "value": means.to_numpy(dtype=float), "n_undefined": undefined.sum().to_numpy(dtype=np.int64)})
