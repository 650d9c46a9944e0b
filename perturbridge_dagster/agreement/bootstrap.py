"""Uncertainty: confidence intervals of means over rows that come in clusters, such as the compounds of a screen.

Belongs here: drawing clusters with replacement, and the interval of what is computed from them. Does not belong here: which rows
make a mean (``summary.py``), correlations (``strength.py``).

The interval is the bias-corrected and accelerated (BCa) one of Efron (1987), "Better bootstrap confidence intervals", JASA 82, with
the acceleration from leaving out one cluster at a time. Its bias correction counts the resampled values strictly below the observed
one, as published; ``scipy.stats.bootstrap`` counts ties half, and is equal where there are none. Random numbers depend on names
only, and rows are sorted first, so neither the order of rows nor what else is computed changes an interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

N_RESAMPLES = 2000
LEVEL = 0.95
FEWEST_VALUES = 20
"""Fewest defined resampled values for which an interval is given."""

DRAWS_PER_BLOCK = 2**22
"""Resamples × clusters drawn at a time: 32 MiB of counts."""

_ROUNDING = 1e-12

Method = Literal["bca", "percentile", "degenerate", "not_estimable"]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes
    ----------
    mean
        The observed statistic; NaN without rows.
    low, high
        Ends of the interval; NaN where it is not estimable.
    method
        ``"bca"``; ``"percentile"`` where the acceleration is undefined (fewer than three values left, or all equal);
        ``"degenerate"`` where all resampled values are equal, so that the interval is a point; ``"not_estimable"`` with fewer than
        two clusters, or fewer than 20 resamples in which the statistic is defined.
    n_rows
        Rows with a value and a cluster.
    n_clusters
        Clusters of these rows.
    n_valid
        Resamples in which the statistic is defined.
    """

    mean: float
    low: float
    high: float
    method: Method
    n_rows: int
    n_clusters: int
    n_valid: int


def named_generator(names: Sequence[str]) -> np.random.Generator:
    """Random numbers that depend on names only.

    Parameters
    ----------
    names
        What the numbers are for, such as the stage, the datasets, the metric and the column.
    """
    digest = hashlib.blake2b("\x1f".join(names).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def drawn_counts(n_clusters: int, n_resamples: int, names: Sequence[str]) -> Iterator[NDArray[np.float64]]:
    """How often each cluster is drawn in resamples with replacement.

    Parameters
    ----------
    n_clusters
        Clusters, and draws in each resample.
    n_resamples
        Resamples in all.
    names
        See :func:`named_generator`.

    Yields
    ------
    Shape (resamples, n_clusters), as many resamples at a time as memory allows.
    """
    generator = named_generator(names)
    step = max(1, DRAWS_PER_BLOCK // max(1, n_clusters))
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        drawn = generator.integers(n_clusters, size=(size, n_clusters))
        drawn += np.arange(size)[:, None] * n_clusters
        yield np.bincount(drawn.ravel(), minlength=size * n_clusters).reshape(size, n_clusters).astype(np.float64)


def _all_equal(values: NDArray[np.float64]) -> bool:
    """Whether values differ by rounding only."""
    return bool(np.ptp(values) <= _ROUNDING * np.abs(values).max())


def _acceleration(left_out: NDArray[np.float64]) -> float:
    """Acceleration from the statistic without each cluster; NaN where it is undefined."""
    left_out = left_out[np.isfinite(left_out)]
    if len(left_out) < 3 or _all_equal(left_out):
        return np.nan
    deviation = left_out.mean() - left_out
    return float((deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5))


def bca_interval(
    observed: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64], level: float = LEVEL
) -> tuple[float, float, Method]:
    """Ends of the BCa interval of a statistic, or of what stands in for it.

    Parameters
    ----------
    observed
        The statistic.
    resampled
        The statistic of each resample; NaN where undefined.
    left_out
        The statistic without each cluster; NaN where undefined.
    level
        Confidence level.

    Returns
    -------
    Low end, high end, and the method; see :class:`Interval`.
    """
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(observed) or len(left_out) < 2 or len(resampled) < FEWEST_VALUES:
        return np.nan, np.nan, "not_estimable"
    if _all_equal(resampled):
        return observed, observed, "degenerate"
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    acceleration = _acceleration(left_out)
    method: Method = "percentile"
    if np.isfinite(acceleration):
        method = "bca"
        least = 1 / (2 * len(resampled))
        below = np.mean(resampled < observed - _ROUNDING * abs(observed))
        bias = ndtri(np.clip(below, least, 1 - least))
        shifted = bias + ndtri(ends)
        ends = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.sort(np.quantile(resampled, ends))
    return float(low), float(high), method


@dataclass(frozen=True)
class _ClusterSums:
    """Sums and numbers of values of each cluster in each stratum.

    Attributes
    ----------
    sums
        Shape (clusters, strata, columns).
    counts
        Shape (clusters, strata), the same for all columns.
    outer
        Group of each stratum, shape (strata,); groups count from zero.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    outer: NDArray[np.int64]

    def statistic(self, sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over groups of the mean over their strata of the mean of values, empty ones left out.

        Parameters
        ----------
        sums, counts
            Shapes (resamples, strata, columns) and (resamples, strata).

        Returns
        -------
        Shape (resamples, columns); NaN where there is no value at all.
        """
        filled = counts > 0
        means = sums / np.where(filled, counts, 1.0)[:, :, None]
        means[~filled] = 0.0
        members = np.eye(self.outer.max() + 1)[self.outer]
        n_strata = filled @ members
        group_means = np.einsum("rsc,sg->rgc", means, members) / np.maximum(n_strata, 1.0)[:, :, None]
        n_groups = (n_strata > 0).sum(axis=1)
        statistic: NDArray[np.float64] = group_means.sum(axis=1) / np.where(n_groups > 0, n_groups, np.nan)[:, None]
        return statistic

    def observed(self) -> NDArray[np.float64]:
        """The statistic of all clusters, shape (columns,)."""
        [statistic] = self.statistic(self.sums.sum(axis=0)[None], self.counts.sum(axis=0)[None])
        return np.asarray(statistic, dtype=np.float64)

    def left_out(self) -> NDArray[np.float64]:
        """The statistic without each cluster, shape (clusters, columns)."""
        return self.statistic(self.sums.sum(axis=0) - self.sums, self.counts.sum(axis=0) - self.counts)

    def resampled(self, n_resamples: int, names: Sequence[str]) -> NDArray[np.float64]:
        """The statistic of resamples of clusters, shape (resamples, columns)."""
        n_clusters, *shape = self.sums.shape
        flat = self.sums.reshape(n_clusters, -1)
        return np.concatenate(
            [
                self.statistic((drawn @ flat).reshape(len(drawn), *shape), drawn @ self.counts)
                for drawn in drawn_counts(n_clusters, n_resamples, names)
            ]
        )


def _codes(labels: ArrayLike | None, n_rows: int) -> NDArray[np.int64]:
    """Number of each row's label in their order, -1 where it is missing; zero for all without labels."""
    if labels is None:
        return np.zeros(n_rows, dtype=np.int64)
    labels = labels if isinstance(labels, pd.Series) else pd.Series(labels)
    codes, _ = pd.factorize(labels, sort=True)
    if len(codes) != n_rows:
        raise ValueError(f"{len(codes)} labels were given for {n_rows} values")
    return codes.astype(np.int64)


def _cluster_sums(
    values: NDArray[np.float64], clusters: NDArray[np.int64], strata: NDArray[np.int64], outer: NDArray[np.int64]
) -> _ClusterSums:
    """Sum values, given in any order, so that rounding does not depend on it; `values` has shape (rows, columns)."""
    _, cluster = np.unique(clusters, return_inverse=True)
    n_names = strata.max() + 1
    groups, stratum = np.unique(outer * n_names + strata, return_inverse=True)
    n_clusters, n_strata = cluster.max() + 1, len(groups)
    cell = cluster * n_strata + stratum
    sums = np.empty((n_clusters * n_strata, values.shape[1]))
    for column in range(values.shape[1]):
        order = np.argsort(values[:, column], kind="stable")
        sums[:, column] = np.bincount(cell[order], values[order, column], minlength=len(sums))
    counts = np.bincount(cell, minlength=len(sums)).reshape(n_clusters, n_strata).astype(np.float64)
    _, group = np.unique(groups // n_names, return_inverse=True)
    return _ClusterSums(sums.reshape(n_clusters, n_strata, -1), counts, group.astype(np.int64))


def clustered_bca_columns(
    values: NDArray[np.float64],
    clusters: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    outer: ArrayLike | None = None,
    seed_key: tuple[str, ...],
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> list[Interval]:
    """Means of several columns with intervals from the same resamples, where the same rows are finite.

    Parameters
    ----------
    values
        Shape (rows, columns).
    clusters, strata, outer, seed_key, n_resamples, level
        See :func:`clustered_bca`.

    Returns
    -------
    One a column, each the same as if it were alone.

    Raises
    ------
    ValueError
        If values and labels differ in number.
    """
    codes = [_codes(labels, len(values)) for labels in (clusters, strata, outer)]
    labelled = np.min(codes, axis=0) >= 0
    finite = np.isfinite(values) & labelled[:, None]
    found = [Interval(np.nan, np.nan, np.nan, "not_estimable", 0, 0, 0)] * values.shape[1]
    remaining = [column for column in range(values.shape[1]) if finite[:, column].any()]
    while remaining:
        kept = finite[:, remaining[0]]
        columns = [column for column in remaining if np.array_equal(finite[:, column], kept)]
        remaining = [column for column in remaining if column not in columns]
        sums = _cluster_sums(values[np.ix_(kept, columns)], codes[0][kept], codes[1][kept], codes[2][kept])
        n_rows, n_clusters, observed = int(kept.sum()), len(sums.sums), sums.observed()
        if n_clusters < 2:
            for place, column in enumerate(columns):
                found[column] = Interval(float(observed[place]), np.nan, np.nan, "not_estimable", n_rows, n_clusters, 0)
            continue
        resampled, left_out = sums.resampled(n_resamples, seed_key), sums.left_out()
        for place, column in enumerate(columns):
            low, high, method = bca_interval(float(observed[place]), resampled[:, place], left_out[:, place], level)
            n_valid = int(np.isfinite(resampled[:, place]).sum())
            found[column] = Interval(float(observed[place]), low, high, method, n_rows, n_clusters, n_valid)
    return found


def clustered_bca(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    outer: ArrayLike | None = None,
    seed_key: tuple[str, ...],
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean of values with an interval from drawing their clusters with replacement.

    Without strata the statistic is the plain mean over rows. With strata it is the mean over groups of the mean over their strata
    of the mean over rows; strata and groups that a resample leaves empty do not count in it. Rows of a cluster are drawn together
    in all strata.

    Parameters
    ----------
    values
        Shape (rows,); rows that are not finite are left out.
    clusters
        Cluster of each row, such as its compound.
    strata
        Stratum of each row. Strata of the same name in different groups are different strata.
    outer
        Group of each row's stratum. Rows with a missing cluster, stratum or group are left out.
    seed_key
        Names that decide the random numbers.
    n_resamples
        Number of resamples.
    level
        Confidence level.

    Raises
    ------
    ValueError
        If values and labels differ in number.
    """
    column = np.asarray(values, dtype=np.float64)[:, None]
    [interval] = clustered_bca_columns(
        column, clusters, strata=strata, outer=outer, seed_key=seed_key, n_resamples=n_resamples, level=level
    )
    return interval
