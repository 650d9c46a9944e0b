"""P values on the log scale: of moderated t, and adjusted for many tests.

Everything is log10, because P values of strong effects lie far below the smallest double. Belongs here: functions of arrays.
Does not belong here: which tests are adjusted together (``table.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

_SMALLEST_P = 1e-290
"""Below this the tail comes from its series; doubles end near 1e-308."""


def _log_tail(t: NDArray[np.float64], df: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural log of the two-sided P value of t in the far tail, where t² exceeds 1,300 for any df.

    With a = df/2 and z = df/t², P = I_{z/(1+z)}(a, 1/2) = (z/(1+z))^a (1+z)^(1/2) / (a B(a, 1/2)) · ₂F₁(1/2, 1; a+1; −z)
    (NIST Digital Library of Mathematical Functions 8.17.8 and 15.8.1). Successive terms of the series shrink by (2k+1)/t² or more
    while k is small, so eight of them reach the last digit.
    """
    a = df / 2
    # t² itself may overflow
    log_t2 = 2 * np.log(t)
    z = np.exp(np.log(df) - log_t2)
    term = np.ones_like(z)
    series = np.ones_like(z)
    for k in range(8):
        term = term * -z * (k + 0.5) / (a + 1 + k)
        series = series + term
    power = a * (np.log(df) - log_t2 - np.log1p(z)) + 0.5 * np.log1p(z)
    logarithm: NDArray[np.float64] = power - np.log(a) - special.betaln(a, 0.5) + np.log(series)
    return logarithm


def log10_p_values(t: NDArray[np.float64], df: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10 of two-sided P values of t statistics, exact also where P itself is below the smallest double.

    The relative error of P stays below 1e-12 for |t| > 1e-5 and 4e-9 below, where P is 1 in all but name.

    Parameters
    ----------
    t
        t statistics, any shape; NaN gives NaN.
    df
        Degrees of freedom, broadcast against `t`; infinity means normal.
    """
    t, df = np.broadcast_arrays(np.abs(t), df)
    p = 2 * special.stdtr(df, -t)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    tail = (p < _SMALLEST_P) & np.isfinite(t)
    normal = tail & np.isinf(df)
    log_p[normal] = np.log(2) + special.log_ndtr(-t[normal])
    tail &= ~normal
    log_p[tail] = _log_tail(t[tail], df[tail])
    result: NDArray[np.float64] = np.minimum(log_p / np.log(10), 0)
    return result


def adjusted_log10_p(log10_p: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10 of P values adjusted by Benjamini and Hochberg (1995) along the last axis.

    Parameters
    ----------
    log10_p
        log10 P values. NaN stays NaN and does not count as a test, as in R's p.adjust.
    """
    missing = np.isnan(log10_p)
    order = np.argsort(log10_p, axis=-1)  # NaN last
    n_tests = np.sum(~missing, axis=-1, keepdims=True)
    ranks = np.arange(1, log10_p.shape[-1] + 1)
    with np.errstate(divide="ignore"):  # no test at all: everything is NaN
        scaled = np.take_along_axis(log10_p, order, axis=-1) + np.log10(n_tests) - np.log10(ranks)
    scaled[np.isnan(scaled)] = 0
    smallest_from_above = np.minimum.accumulate(np.flip(scaled, axis=-1), axis=-1)
    adjusted = np.empty_like(log10_p)
    np.put_along_axis(adjusted, order, np.flip(np.minimum(smallest_from_above, 0), axis=-1), axis=-1)
    adjusted[missing] = np.nan
    return adjusted
