"""Metrics: how alike two signatures are, row by row.

Belongs here: pure functions of arrays of shape (rows, genes), where row i of the one is compared with row i of the other. Does not
belong here: which rows are compared, or from where they are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Values = NDArray[np.floating[Any]]

SIGNIFICANT_ADJUSTED_P = 0.05


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


def direction_agreement_rows(
    left: Values, right: Values, genes: NDArray[np.bool_], minimum: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Share of chosen genes whose effects have the same sign, for each pair of rows.

    Parameters
    ----------
    left, right
        logFC, shape (rows, genes).
    genes
        Genes that count, same shape; those not finite on either side are left out.
    minimum
        Fewest genes for which a share is reported.

    Returns
    -------
    share
        Shape (rows,): from 0 to 1; NaN with fewer genes than `minimum`, or none.
    n_genes
        Shape (rows,): genes that counted.
    """
    counted = genes & np.isfinite(left) & np.isfinite(right)
    n_genes = counted.sum(axis=1)
    same = (counted & (np.sign(left) == np.sign(right))).sum(axis=1)
    return np.where(n_genes >= minimum, _divide(same, n_genes), np.nan), n_genes


def mean_rows(values: Values) -> NDArray[np.float64]:
    """Mean of the finite values of each row; NaN where there is none."""
    finite = np.isfinite(values)
    return _divide(np.where(finite, values, 0.0).sum(axis=1, dtype=np.float64), finite.sum(axis=1))
