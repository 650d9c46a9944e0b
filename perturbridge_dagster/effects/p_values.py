"""P values on the log scale: of moderated t, and adjusted for many tests.

Everything is log10, because P values of strong effects lie far below the smallest double. Belongs here: functions of arrays.
Does not belong here: which tests are adjusted together (``table.py``), and adjusting more of them than fit into memory
(``streaming.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import special

from perturbridge_dagster.compiled import compiled, on_all_cores

Array = NDArray[np.float64]

_SMALLEST_P = 1e-290
"""Below this the tail comes from its series; doubles end near 1e-308."""

_MANY_ROWS = 400
"""Rows from which polynomials pay: those of one column cost as much as up to 300 P values computed one by one."""

_LEAST_DF = 10
"""Degrees of freedom from which the polynomials reach the last digits: log P has branch points at t = ±i√df."""

_NODES = 16
"""Terms of a polynomial; each covers |t| from one whole number to the next."""

_END = 38
"""|t| at which the polynomials end; few values lie beyond."""

_COLUMNS = 64
"""Columns whose P values one core computes at a time."""

_ROWS = 64
"""Rows that one core adjusts at a time."""


def _log_tail(t: Array, df: Array) -> Array:
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
    logarithm: Array = power - np.log(a) - special.betaln(a, 0.5) + np.log(series)
    return logarithm


def _one_by_one(t: Array, df: Array) -> Array:
    """log10 of two-sided P values, each by the distribution function."""
    t, df = np.broadcast_arrays(np.abs(t), df)
    p = 2 * special.stdtr(df, -t)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    tail = (p < _SMALLEST_P) & np.isfinite(t)
    normal = tail & np.isinf(df)
    log_p[normal] = np.log(2) + special.log_ndtr(-t[normal])
    tail &= ~normal
    log_p[tail] = _log_tail(t[tail], df[tail])
    result: Array = np.minimum(log_p / np.log(10), 0)
    return result


@compiled
def _chebyshev_terms(values: Array, to_terms: Array) -> Array:
    """Terms of the polynomials through the values at the nodes: polynomials × intervals × nodes."""
    terms = np.zeros_like(values)
    for which in range(values.shape[0]):
        for interval in range(values.shape[1]):
            for k in range(values.shape[2]):
                for j in range(values.shape[2]):
                    terms[which, interval, k] += to_terms[k, j] * values[which, interval, j]
    return terms


@compiled
def _evaluate(t: Array, terms: Array, which: NDArray[np.intp], log10_p: Array) -> bool:
    """Fill the log10 P values that the polynomials reach, NaN elsewhere; whether something was left that is not NaN itself.

    `which` names the polynomials of each column of t. Sums are Clenshaw's, which unlike powers lose no digits.
    """
    n_intervals, n_terms = terms.shape[1], terms.shape[2]
    left = False
    for i in range(t.shape[0]):
        for column in range(t.shape[1]):
            size = abs(t[i, column])
            if which[column] >= 0 and size < n_intervals:
                interval = int(size)
                x = 2 * (size - interval) - 1
                of_interval = terms[which[column], interval]
                last, before = 0.0, 0.0
                for k in range(n_terms - 1, 0, -1):
                    last, before = 2 * x * last - before + of_interval[k], last
                log10_p[i, column] = min(x * last - before + of_interval[0], 0.0)
            else:
                log10_p[i, column] = np.nan
                left = left or not np.isnan(size)
    return left


def _by_polynomials(t: Array, df: Array) -> Array:
    """log10 of two-sided P values of columns, each with its own df, by polynomials in |t| that interpolate log10 P.

    They depend on df alone, so a value does not depend on those beside it.
    """
    log10_p = np.empty_like(t)
    distinct, which = np.unique(df, return_inverse=True)
    tabulated = distinct >= _LEAST_DF
    which = np.where(tabulated, np.cumsum(tabulated) - 1, -1)[which]
    n_intervals = int(min(np.fmax.reduce(np.abs(t), axis=None, initial=0.0) + 1, _END))
    nodes = chebyshev.chebpts1(_NODES)
    at_nodes = _one_by_one(np.arange(n_intervals)[:, np.newaxis] + (nodes + 1) / 2, distinct[tabulated][:, np.newaxis, np.newaxis])
    to_terms = np.asarray(np.linalg.inv(chebyshev.chebvander(nodes, _NODES - 1)), dtype=np.float64)
    terms = _chebyshev_terms(at_nodes, to_terms)
    if _evaluate(t, terms, which, log10_p):
        left = np.isnan(log10_p)
        log10_p[left] = _one_by_one(t[left], np.broadcast_to(df, t.shape)[left])
    return log10_p


def log10_p_values(t: Array, df: Array) -> Array:
    """log10 of two-sided P values of t statistics, exact also where P itself is below the smallest double.

    The relative error of P stays below 1e-12 for |t| > 1e-5 and 4e-9 below, where P is 1 in all but name. It is up to 4e-9 too where P lies
    below 1e-280 and df above 1e4 (measured up to 1e7). The columns of a table of 400 rows and more are computed by polynomials, several
    times as fast.

    Parameters
    ----------
    t
        t statistics, any shape; NaN gives NaN.
    df
        Degrees of freedom, broadcast against `t`; infinity means normal.
    """
    if np.ndim(t) != 2 or np.ndim(df) > 1:
        return _one_by_one(t, df)
    df = np.broadcast_to(df, t.shape[1])
    compute = _by_polynomials if len(t) >= _MANY_ROWS else _one_by_one
    log10_p = np.empty(t.shape)

    def fill(first: int) -> None:
        columns = slice(first, first + _COLUMNS)
        log10_p[:, columns] = compute(t[:, columns], df[columns])

    on_all_cores(fill, range(0, t.shape[1], _COLUMNS))
    return log10_p


@compiled
def adjust_in_order(log10_p: Array, order: NDArray[np.intp], log10_ranks: Array, log10_n: float, adjusted: Array) -> float:
    """Adjust some P values of a larger set, without regard to those above them.

    Parameters
    ----------
    log10_p
        log10 P values, NaN or not.
    order
        Positions of those to adjust, by ascending P.
    log10_ranks
        log10 of their ranks in the whole set, from 1.
    log10_n
        log10 of the number of tests in the whole set.
    adjusted
        Takes the log10 adjusted P values at the positions.

    Returns
    -------
    float
        The smallest of them; it bounds everything below.
    """
    smallest = 0.0
    for i in range(len(order) - 1, -1, -1):
        smallest = min(smallest, log10_p[order[i]] + log10_n - log10_ranks[i])
        adjusted[order[i]] = smallest
    return smallest


def adjusted_log10_p(log10_p: Array) -> Array:
    """log10 of P values adjusted by Benjamini and Hochberg (1995) along the last axis.

    Parameters
    ----------
    log10_p
        log10 P values. NaN stays NaN and does not count as a test, as in R's p.adjust.
    """
    adjusted = np.full(np.shape(log10_p), np.nan)
    rows, adjusted_rows = (values.reshape(-1, values.shape[-1]) for values in (log10_p, adjusted))
    log10_ranks = np.log10(np.arange(1, rows.shape[1] + 1))

    def fill(first: int) -> None:
        several = slice(first, first + _ROWS)
        orders = np.argsort(rows[several], axis=-1)  # NaN last
        n_tests = np.count_nonzero(~np.isnan(rows[several]), axis=-1)
        for row, into, order, n in zip(rows[several], adjusted_rows[several], orders, n_tests, strict=True):
            if n:
                adjust_in_order(row, order[:n], log10_ranks, log10_ranks[n - 1], into)

    on_all_cores(fill, range(0, len(rows), _ROWS))
    return adjusted
