"""Summaries: from scored pairs to what a dataset, or a pair of datasets, shows.

Belongs here: means over doses, compounds and cell contexts, each with the numbers behind it. Does not belong here: scores
(``scoring.py``, ``replicates.py``), pictures (``figures.py``).

Two readings stand side by side. The published one averages observed scores, baselines and differences each over all rows where it
is defined, so that observed minus baseline is not the difference. The paired one averages observed and baseline over the rows where
both are defined, and there it is.
"""

from __future__ import annotations

import pandas as pd

from perturbridge_dagster.agreement.scoring import METRICS

DATASET_PAIR = ["left_dataset", "right_dataset"]
_UNIT = ["pubchem_cid", "cell_type", "pert_time_h"]
_CONDITION = [*_UNIT, "pert_dose_uM"]
_MEANS = ("", "_baseline", "_delta", "_paired", "_paired_baseline")


def _with_paired(scored: pd.DataFrame) -> pd.DataFrame:
    """Add observed and baseline scores restricted to rows where both are defined."""
    paired = {}
    for metric in METRICS:
        both = scored[f"{metric}_delta"].notna()
        paired[f"{metric}_paired"] = scored[metric].where(both)
        paired[f"{metric}_paired_baseline"] = scored[f"{metric}_baseline"].where(both)
    return scored.assign(**paired)


def _units(scored: pd.DataFrame, by: list[str], size: str, means: list[str]) -> pd.DataFrame:
    """Mean of each column over the rows of a unit, missing values left out; `size` is the number of rows."""
    groups = _with_paired(scored).groupby(by, sort=True)
    return groups.size().rename(size).astype("int64").to_frame().join(groups[means].mean()).reset_index()


def _metric_columns() -> list[str]:
    return [f"{metric}{suffix}" for metric in METRICS for suffix in _MEANS]


def agreement_units(scored: pd.DataFrame) -> pd.DataFrame:
    """Mean over doses of each compound, cell context and time of two datasets.

    Parameters
    ----------
    scored
        Table AGREEMENT_CONDITIONS of the contract.

    Returns
    -------
    One row a pair of datasets, compound, cell context and time, sorted: ``n_conditions``, ``mean_abs_t`` and, for each metric, its
    mean, ``_baseline``, ``_delta``, and ``_paired`` and ``_paired_baseline`` over conditions where both are defined.
    """
    return _units(scored, [*DATASET_PAIR, *_UNIT], "n_conditions", ["mean_abs_t", *_metric_columns()])


def replicate_conditions(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean over pairs of replicates of each condition of a dataset.

    Parameters
    ----------
    pairs
        Table REPLICATE_PAIRS of the contract.

    Returns
    -------
    One row a dataset, compound, cell context, time and dose, sorted: ``n_pairs`` and the columns of :func:`agreement_units`, with
    ``unmatched_spearman_logFC``.
    """
    return _units(pairs, ["dataset", *_CONDITION], "n_pairs", ["mean_abs_t", *_metric_columns(), "unmatched_spearman_logFC"])


def _metric_summary(units: pd.DataFrame, by: list[str], metric: str, size: str) -> pd.DataFrame:
    """Means of one metric over units, and the units and compounds behind them."""
    compound = units["pubchem_cid"]
    observed, baseline, delta = (units[f"{metric}{suffix}"].notna() for suffix in ("", "_baseline", "_delta"))
    unmatched = f"unmatched_{metric}"
    table = units[by].assign(
        rows=units[size],
        compounds=compound,
        with_observed=compound.where(observed),
        with_baseline=compound.where(baseline),
        with_both=compound.where(delta),
        **{suffix: units[f"{metric}{suffix}"] for suffix in _MEANS},
        **({"unmatched": units[unmatched]} if unmatched in units else {}),
    )
    return (
        table.groupby(by, sort=True)
        .agg(
            **{size: ("rows", "sum")},
            n_units=("compounds", "size"),
            n_compounds=("compounds", "nunique"),
            n_units_observed=("with_observed", "count"),
            n_compounds_observed=("with_observed", "nunique"),
            n_units_baseline=("with_baseline", "count"),
            n_compounds_baseline=("with_baseline", "nunique"),
            n_units_paired=("with_both", "count"),
            n_compounds_paired=("with_both", "nunique"),
            observed=("", "mean"),
            baseline=("_baseline", "mean"),
            delta=("_delta", "mean"),
            paired_observed=("_paired", "mean"),
            paired_baseline=("_paired_baseline", "mean"),
            **({"unmatched": ("unmatched", "mean")} if unmatched in units else {}),
        )
        .reset_index()
        .assign(metric=metric)
    )


def _summary(units: pd.DataFrame, group: list[str], size: str, by_cell_context: bool) -> pd.DataFrame:
    """Summaries of each metric by `group`, or by `group` and cell context; without it the cell context is null."""
    by = [*group, "cell_type"] if by_cell_context else group
    summary = pd.concat([_metric_summary(units, by, metric, size) for metric in METRICS], ignore_index=True)
    first = [*group, "cell_type", "metric"]
    summary = summary if by_cell_context else summary.assign(cell_type=None)
    return summary[first + [name for name in summary.columns if name not in first]].sort_values([*by, "metric"], ignore_index=True)


def agreement_summary(units: pd.DataFrame, *, by_cell_context: bool = False) -> pd.DataFrame:
    """Agreement of each pair of datasets, over all or in each cell context.

    Parameters
    ----------
    units
        Table of :func:`agreement_units`.
    by_cell_context
        Whether each cell context is summarised alone; else all together, and a large one weighs more.

    Returns
    -------
    One row a pair of datasets, cell context (null: all) and metric, sorted. ``n_conditions``, ``n_units`` and ``n_compounds`` count
    what was matched; ``…_observed``, ``…_baseline`` and ``…_paired`` what has a value. ``observed``, ``baseline`` and ``delta`` are
    plain means over units; ``paired_observed`` and ``paired_baseline`` differ by ``delta``.
    """
    return _summary(units, DATASET_PAIR, "n_conditions", by_cell_context)


def replicate_summary(pairs: pd.DataFrame, *, by_cell_context: bool = False) -> pd.DataFrame:
    """Agreement of replicates of each dataset, over all or in each cell context.

    Parameters
    ----------
    pairs
        Table REPLICATE_PAIRS of the contract.
    by_cell_context
        Whether each cell context is summarised alone; else all together, and a large one weighs more.

    Returns
    -------
    As :func:`agreement_summary` over the conditions of :func:`replicate_conditions`, with their pairs ``n_pairs``, and
    ``unmatched``: the mean score of replicates of different compounds on one plate, for the Spearman correlation of logFC.
    """
    summary = _summary(replicate_conditions(pairs), ["dataset"], "n_pairs", by_cell_context)
    return summary.rename(columns=lambda name: name.replace("n_units", "n_conditions"))
