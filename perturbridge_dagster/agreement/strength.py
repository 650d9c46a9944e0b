"""Strength: whether strong perturbations agree better than weak ones.

Belongs here: the rank correlation of perturbation strength (mean |t|) with agreement, and its interval. Does not belong here: the
scores (``scoring.py``), intervals of means (``bootstrap.py``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from perturbridge_dagster.agreement.bootstrap import LEVEL, N_RESAMPLES, Interval, bca_interval, drawn_counts
from perturbridge_dagster.contract import AGREEMENT_STRENGTH

_PAIR = ["left_dataset", "right_dataset"]
_MATCH = [*_PAIR, "left_stratum", "right_stratum", "left_contrast", "right_contrast"]
_DOSE_PAIR = [*_PAIR, "cell_type", "pert_time_h", "pubchem_cid", "left_pert_dose_uM", "right_pert_dose_uM"]
_SCORED_BY = ["gene_universe", "metric"]
_VALUES_PER_BLOCK = 2**20


class _WeightedRanks:
    """Average ranks of values that occur several times each.

    Parameters
    ----------
    values
        Shape (rows,).
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._order = np.argsort(values, kind="stable")
        distinct, self._group = np.unique(values, return_inverse=True)
        self._start = np.searchsorted(values[self._order], distinct)

    def centred(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ranks less their mean, where each row occurs as often as its weight says; both of shape (resamples, rows)."""
        in_group = np.add.reduceat(weights[:, self._order], self._start, axis=1)
        up_to = np.cumsum(in_group, axis=1)
        ranks: NDArray[np.float64] = (2 * up_to - in_group - up_to[:, -1:]) / 2
        return ranks[:, self._group]


class _WeightedSpearman:
    """Spearman correlation of pairs of values that occur several times each."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64], cluster: NDArray[np.int64]) -> None:
        self._ranks = _WeightedRanks(x), _WeightedRanks(y)
        self._cluster = cluster

    def of_clusters(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Correlations of resamples of clusters, shape (resamples, clusters); NaN where a side is constant."""
        step = max(1, _VALUES_PER_BLOCK // len(self._cluster))
        found = np.full(len(counts), np.nan)
        for start in range(0, len(counts), step):
            weights = counts[start : start + step][:, self._cluster]
            x, y = (ranks.centred(weights) for ranks in self._ranks)
            products, x_squares, y_squares = (np.einsum("ij,ij,ij->i", weights, a, b) for a, b in ((x, y), (x, x), (y, y)))
            # Ranks are halves of whole numbers, so that a constant side has squares of exactly zero.
            scale = np.sqrt(x_squares * y_squares)
            np.divide(products, scale, out=found[start : start + step], where=scale > 0)
        return found.clip(-1.0, 1.0)


def clustered_spearman(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike,
    *,
    seed_key: tuple[str, ...],
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Spearman correlation with an interval from drawing clusters of rows with replacement.

    Parameters
    ----------
    x, y
        Shape (rows,); rows that are not finite on both sides are left out.
    clusters
        Cluster of each row, such as its compound; rows without one are left out.
    seed_key
        Names that decide the random numbers.
    n_resamples
        Number of resamples.
    level
        Confidence level.

    Returns
    -------
    The interval; its ``mean`` is the correlation. Ranks are taken anew in each resample.
    """
    sides = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    codes, _ = pd.factorize(pd.Series(clusters), sort=True)
    kept = np.flatnonzero(np.isfinite(sides[0]) & np.isfinite(sides[1]) & (codes >= 0))
    n_rows = len(kept)
    if not n_rows:
        return Interval(np.nan, np.nan, np.nan, "not_estimable", 0, 0, 0)
    order = kept[np.lexsort((sides[1][kept], sides[0][kept], codes[kept]))]
    _, cluster = np.unique(codes[order], return_inverse=True)
    n_clusters = int(cluster.max()) + 1
    statistic = _WeightedSpearman(sides[0][order], sides[1][order], cluster)
    observed = float(statistic.of_clusters(np.ones((1, n_clusters)))[0])
    if n_clusters < 2:
        return Interval(observed, np.nan, np.nan, "not_estimable", n_rows, n_clusters, 0)
    resampled = np.concatenate([statistic.of_clusters(counts) for counts in drawn_counts(n_clusters, n_resamples, seed_key)])
    low, high, method = bca_interval(observed, resampled, statistic.of_clusters(1 - np.eye(n_clusters)), level)
    return Interval(observed, low, high, method, n_rows, n_clusters, int(np.isfinite(resampled).sum()))


def agreement_strength(
    conditions: pd.DataFrame, scores: pd.DataFrame, *, together: bool = False, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """How agreement goes with perturbation strength, metric by metric.

    Parameters
    ----------
    conditions
        Table AGREEMENT_CONDITIONS of the contract, which has ``mean_abs_t``: mean |t| over the shared genes, averaged over both sides.
    scores
        Table AGREEMENT_SCORES of the contract, of the same matches.
    together
        Whether all pairs of datasets are taken together, as published; else each alone.
    n_resamples
        Resamples of compounds for the intervals.

    Returns
    -------
    Table AGREEMENT_STRENGTH of the contract, sorted. A unit is a compound, cell context, time and pair of doses of two datasets;
    where several pairs of contrasts are that, their mean counts.
    """
    scored = scores.merge(conditions[[*_MATCH, "mean_abs_t"]], on=_MATCH, how="left", validate="many_to_one")
    units = scored.groupby([*_SCORED_BY, *_DOSE_PAIR], sort=True)[["mean_abs_t", "score"]].mean().reset_index()
    found = []
    keys = [*([] if together else _PAIR), *_SCORED_BY]
    for names, rows in units.groupby(keys, sort=True):
        named = dict(zip(keys, map(str, names), strict=True))
        key = ("agreement_strength", *(named.get(name, "") for name in (*_PAIR, *_SCORED_BY)))
        interval = clustered_spearman(rows["mean_abs_t"], rows["score"], rows["pubchem_cid"], seed_key=key, n_resamples=n_resamples)
        found.append(
            {
                "left_dataset": named.get("left_dataset"),
                "right_dataset": named.get("right_dataset"),
                "gene_universe": named["gene_universe"],
                "metric": named["metric"],
                "n_conditions": interval.n_rows,
                "n_compounds": interval.n_clusters,
                "spearman": interval.mean,
                "spearman_low": interval.low,
                "spearman_high": interval.high,
                "spearman_interval": interval.method,
            }
        )
    return pd.DataFrame(found, columns=AGREEMENT_STRENGTH.names)
