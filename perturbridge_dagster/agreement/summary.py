"""Summaries: from scored pairs to what a dataset, or a pair of datasets, shows.

Belongs here: means over doses, compounds and cell contexts, each with the numbers and the interval behind it. Does not belong here:
scores (``scoring.py``, ``replicates.py``), how an interval is made (``bootstrap.py``), pictures (``figures.py``), sentences
(``report.py``).

Levels: a condition has one row a metric and gene universe; a unit is the mean over the doses of one compound, cell context and time;
a pair of datasets, alone or in one cell context, is the plain mean over its units.

Two readings stand side by side. The published one averages observed scores, baselines and differences each over all rows where it
is defined, so that observed minus baseline is not the difference. The paired one averages observed and baseline over the rows where
both are defined, and there it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import N_RESAMPLES, clustered_bca_columns
from perturbridge_dagster.contract import AGREEMENT_SUMMARY, AGREEMENT_UNITS, REPLICATE_CONDITIONS, REPLICATE_SUMMARY, Table

DATASET_PAIR = ["left_dataset", "right_dataset"]
SCORED_BY = ["gene_universe", "metric"]
"""What tells the scores of one match apart."""

UNMATCHED_METRIC = "spearman_logFC"
"""The metric that has a score of replicates of different compounds."""

_PERCENTILE = "_percentile"


def _value(scores: pd.DataFrame, name: str) -> pd.Series[float]:
    """One quantity of the contract, row by row."""
    if name in ("observed", "unmatched"):
        return scores["score" if name == "observed" else name]
    if name in ("baseline", "delta"):
        return scores["source_centroid" if name == "baseline" else "source_centroid_delta"]
    if name.startswith("paired_"):
        return _value(scores, name.removeprefix("paired_")).where(scores["source_centroid_delta"].notna())
    if name.endswith(_PERCENTILE):
        return scores[[f"left_{name}", f"right_{name}"]].mean(axis=1)
    return scores[name]


def _means_of(table: Table) -> list[str]:
    """Quantities that a table of units gives the mean of."""
    return table.names[table.names.index("observed") :]


def _units(scores: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Mean of each quantity over the rows of a unit, missing values left out, and the number of rows.

    In means, rows with a column ``weight`` count that often.
    """
    names = _means_of(table)
    *by, size = table.names[: -len(names)]
    values = pd.DataFrame({name: _value(scores, name) for name in names}, dtype=np.float64)
    keys = [scores[name] for name in by]
    weight = scores["weight"] if "weight" in scores else pd.Series(1, index=scores.index)
    weights = values.notna().mul(weight, axis=0)
    groups = (values * weights).groupby(keys, sort=True)
    counts = weights.groupby(keys, sort=True).sum()
    means = groups.sum() / counts.where(counts > 0)
    return groups.size().rename(size).astype("int64").to_frame().join(means).reset_index()[table.names]


def agreement_units(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over doses of each compound, cell context and time of two datasets.

    Parameters
    ----------
    scores
        Table AGREEMENT_SCORES of the contract; in means, rows with a column ``weight`` count that often.

    Returns
    -------
    Table AGREEMENT_UNITS of the contract, sorted.
    """
    return _units(scores, AGREEMENT_UNITS)


def replicate_conditions(scores: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean over pairs of replicates of each condition of a dataset.

    Parameters
    ----------
    scores
        Table REPLICATE_SCORES of the contract.
    pairs
        Table REPLICATE_PAIRS of the contract, which has the scores of replicates of different compounds.

    Returns
    -------
    Table REPLICATE_CONDITIONS of the contract, sorted.
    """
    key = ["stratum", "right_stratum", "left_contrast", "right_contrast"]
    unmatched = pairs[[*key, f"unmatched_{UNMATCHED_METRIC}"]].set_axis([*key, "unmatched"], axis=1)
    scores = scores.merge(unmatched.assign(metric=UNMATCHED_METRIC), on=[*key, "metric"], how="left", validate="many_to_one")
    return _units(scores, REPLICATE_CONDITIONS)


def _intervals(units: pd.DataFrame, quantities: Sequence[str], names: tuple[str, ...], n_resamples: int) -> dict[str, float | str]:
    """Interval and its method of each quantity over some units; the random numbers depend on `names`."""
    found: dict[str, float | str] = {}
    values = units[list(quantities)].to_numpy(dtype=np.float64)
    intervals = clustered_bca_columns(values, units["pubchem_cid"].to_numpy(), seed_key=names, n_resamples=n_resamples)
    for name, interval in zip(quantities, intervals, strict=True):
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high, f"{name}_interval": interval.method}
    return found


def _counts(units: pd.DataFrame, keys: list[str], size: str, counted: str) -> pd.DataFrame:
    """Rows, units (named `counted`) and compounds of each group, in all and where a quantity is defined."""
    compounds = units["pubchem_cid"]
    where = {"observed": "observed", "baseline": "baseline", "paired": "delta"}
    columns = {f"with_{suffix}": compounds.where(units[name].notna()) for suffix, name in where.items()}
    groups = units[[*keys, size, "pubchem_cid"]].assign(**columns).groupby(keys, sort=True)
    found = {size: (size, "sum"), counted: ("pubchem_cid", "size"), "n_compounds": ("pubchem_cid", "nunique")}
    for suffix in where:
        found |= {f"{counted}_{suffix}": (f"with_{suffix}", "count"), f"n_compounds_{suffix}": (f"with_{suffix}", "nunique")}
    return groups.agg(**found)


def _summary(units: pd.DataFrame, of: Table, table: Table, *, by_cell_context: bool, n_resamples: int) -> pd.DataFrame:
    """Summaries of each metric and gene universe, over all or in each cell context; over all the cell context is null.

    Parameters
    ----------
    units
        Table of units.
    of, table
        The table of the contract that `units` is, and the one to make.
    """
    means = _means_of(of)
    size, counted = of.names[-len(means) - 1], next(name for name in table.names if name.endswith("_observed")).removesuffix("_observed")
    group = [name for name in of.names if name.endswith("dataset")]
    keys = [*group, *(["cell_type"] if by_cell_context else []), *SCORED_BY]
    with_interval = [name.removesuffix("_interval") for name in table.names if name.endswith("_interval")]
    groups = units.groupby(keys, sort=True)
    summary = _counts(units, keys, size, counted).join(groups[means].mean())
    level = "cell_context" if by_cell_context else "all"
    found = [_intervals(rows, with_interval, (level, *map(str, names)), n_resamples) for names, rows in groups]
    columns = [f"{name}_{end}" for name in with_interval for end in ("low", "high", "interval")]
    summary = summary.join(pd.DataFrame(found, index=summary.index, columns=columns)).reset_index()
    return summary.assign(**{} if by_cell_context else {"cell_type": None})[table.names]


def agreement_summary(units: pd.DataFrame, *, by_cell_context: bool = False, n_resamples: int = N_RESAMPLES) -> pd.DataFrame:
    """Agreement of each pair of datasets, over all or in each cell context.

    Parameters
    ----------
    units
        Table of :func:`agreement_units`.
    by_cell_context
        Whether each cell context is summarised alone; else all together, and a large one weighs more.
    n_resamples
        Resamples of compounds for the intervals.

    Returns
    -------
    Table AGREEMENT_SUMMARY of the contract, sorted. ``n_conditions``, ``n_units`` and ``n_compounds`` count what was matched;
    ``…_observed``, ``…_baseline`` and ``…_paired`` what has a value. ``observed``, ``baseline`` and ``delta`` are plain means over
    units; ``paired_observed`` and ``paired_baseline`` differ by ``delta``.
    """
    return _summary(units, AGREEMENT_UNITS, AGREEMENT_SUMMARY, by_cell_context=by_cell_context, n_resamples=n_resamples)


def replicate_summary(conditions: pd.DataFrame, *, by_cell_context: bool = False, n_resamples: int = N_RESAMPLES) -> pd.DataFrame:
    """Agreement of replicates of each dataset, over all or in each cell context.

    Parameters
    ----------
    conditions
        Table of :func:`replicate_conditions`.
    by_cell_context, n_resamples
        See :func:`agreement_summary`.

    Returns
    -------
    Table REPLICATE_SUMMARY of the contract: as :func:`agreement_summary` over conditions, with their pairs ``n_pairs``, and
    ``unmatched``: the mean score of replicates of different compounds on one plate.
    """
    return _summary(conditions, REPLICATE_CONDITIONS, REPLICATE_SUMMARY, by_cell_context=by_cell_context, n_resamples=n_resamples)
