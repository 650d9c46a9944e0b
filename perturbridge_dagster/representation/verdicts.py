"""Verdicts: who wins an evaluation, by how much, and how sure that is.

Belongs here: when an interval is a win, reading the tables of an evaluation, and the words for people. Does not belong here: scoring
(``evaluation.py``), pictures (``figures.py``).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.reports import markdown_table, number, with_interval
from perturbridge_dagster.representation.baselines import BASELINES
from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS

if TYPE_CHECKING:
    from perturbridge_dagster.representation.evaluation import Evaluation

FEWEST_HELD_OUT = 5
"""Fewest compounds, or other groups held out as a whole, by which anyone wins or loses: an interval from drawing two or three of them is
far too narrow."""


def pooled(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table `evaluation`, or `profile_scores`, that are of all datasets together."""
    return scores[scores["dataset"].isna()]


def model_of(scores: pd.DataFrame) -> str:
    """Name of the first model among the predictors of a table `evaluation`.

    Raises
    ------
    InputError
        If all predictors are baselines.
    """
    for name in scores["predictor"]:
        if name not in BASELINES:
            return str(name)
    raise InputError("there is no model among the predictors", rows=sorted(scores["predictor"].unique()))


def beaten_baselines(scores: pd.DataFrame, split: str) -> dict[str, bool]:
    """Whether the model has a lower RMSE than each baseline on the values of a split, all datasets together."""
    model = model_of(scores)
    rmse = pooled(scores)[pooled(scores)["split"] == split].set_index("predictor")["rmse"]
    return {str(name): bool(rmse[model] < value) for name, value in rmse.items() if name in BASELINES}


def describe_evaluation(evaluation: Evaluation) -> str:
    """Say in plain words, as Markdown, how the model did beside its baselines, split by split.

    A difference is told from none only where its interval leaves out 0.

    Parameters
    ----------
    evaluation
        As :func:`evaluate` returns it.
    """
    return "\n\n".join(_describe_split(evaluation, str(split)) for split in evaluation.scores["split"].unique())


def _describe_split(evaluation: Evaluation, split: str) -> str:
    scores = evaluation.scores[evaluation.scores["split"] == split]
    model, of_all = model_of(scores), pooled(scores)
    n_values = int(of_all["n_values"].iloc[0])
    if n_values == 0:
        return f"**{split}**: no values, so nothing can be said."
    rmse = of_all.set_index("predictor")["rmse"]
    text = f"**{split}**: {model} has RMSE {rmse[model]:.4f} on {n_values:,} values"
    beaten = beaten_baselines(scores, split)
    if not beaten:
        return f"{text}; there is no baseline beside it."
    others = rmse[list(beaten)]
    losing_to = [name for name, is_beaten in beaten.items() if not is_beaten]
    together = pooled(evaluation.profiles)
    own, against = _by_name(together[together["split"] == split], model)
    unsure = [name for name in beaten if (name, "rmse") in against and _favoured(against[name, "rmse"]) != "better"]
    n_compounds = min((int(row["n_compounds"]) for (_, metric), row in against.items() if metric == "rmse"), default=FEWEST_HELD_OUT)
    if n_compounds < FEWEST_HELD_OUT:
        verdict = f"Too few compounds are held out to tell whether it beats them: {n_compounds}; it takes {FEWEST_HELD_OUT}."
    elif losing_to:
        verdict = f"The model does NOT beat {', '.join(losing_to)}."
    elif unsure:
        verdict = f"No baseline has a lower one, but the model cannot be told apart from {', '.join(unsure)}."
    else:
        verdict = "The model beats every baseline."
    lost, lost_metrics = _lost_datasets(model, scores), _lost_metrics(model, own, against)
    return "\n\n".join(
        [
            f"{text}; the best baseline, {others.idxmin()}, has {others.min():.4f}. {verdict}",
            _comparison(rmse, own, against),
            f"Datasets in which a baseline has as low an RMSE or a lower one: {'; '.join(lost) if lost else 'none'}.",
            f"Metrics of a profile in which the best baseline is better or cannot be told apart: {'; '.join(lost_metrics) or 'none'}.",
        ]
    )


_Row = dict[Hashable, Any]


def _by_name(profiles: pd.DataFrame, model: str) -> tuple[dict[tuple[str, str], _Row], dict[tuple[str, str], _Row]]:
    """Scores by predictor and metric, and differences of the model by baseline and metric."""
    own, against = {}, {}
    for row in profiles.to_dict("records"):
        if not isinstance(row["baseline"], str):
            own[str(row["predictor"]), str(row["metric"])] = row
        elif row["predictor"] == model:
            against[row["baseline"], str(row["metric"])] = row
    return own, against


def _comparison(rmse: pd.Series[float], own: Mapping[tuple[str, str], _Row], against: Mapping[tuple[str, str], _Row]) -> str:
    """A table of the predictors: RMSE over values, the difference of the RMSE of a profile, and the other metrics of a profile."""
    others = [metric for metric in PROFILE_METRICS.values() if metric.name != "rmse"]
    rows = []
    for name, value in rmse.items():
        difference = against.get((str(name), "rmse"))
        cells = ["", ""] if difference is None else [_interval(difference), _favoured(difference)]
        rows.append([str(name), number(value, 4), *cells, *(_interval(own[str(name), metric.name]) for metric in others)])
    return markdown_table(
        ["", "RMSE", "model less baseline, RMSE of a profile", "the model is", *(metric.title for metric in others)], rows
    )


def _interval(row: _Row) -> str:
    return with_interval(row["value"], row["low"], row["high"], 3)


def favoured(low: float, high: float, n_held_out: int, *, higher_is_better: bool = False) -> str:
    """Which side the interval of a difference, model less baseline, favours: the one rule of every evaluation.

    Parameters
    ----------
    low, high
        Ends of the interval; NaN where there is none.
    n_held_out
        Compounds, or other groups held out as a whole, that were drawn for the interval.
    higher_is_better
        Whether more of the metric is better.

    Returns
    -------
    str
        better, worse, not told apart, no interval, or too few compounds.
    """
    if n_held_out < FEWEST_HELD_OUT:
        return "too few compounds"
    if not np.isfinite(low):
        return "no interval"
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == higher_is_better else "worse"


def _favoured(difference: _Row, *, higher_is_better: bool = False) -> str:
    """The same of a row of the table `profile_scores`."""
    return favoured(difference["low"], difference["high"], difference["n_compounds"], higher_is_better=higher_is_better)


def _lost_metrics(model: str, own: Mapping[tuple[str, str], _Row], against: Mapping[tuple[str, str], _Row]) -> list[str]:
    """Metrics in which the model is not told to be better than the best baseline, with what both score and the difference."""
    lost = []
    for metric in PROFILE_METRICS.values():
        sign = 1 if metric.higher_is_better else -1
        scored = {name: sign * own[name, metric.name]["value"] for name, of in against if of == metric.name}
        scored = {name: value for name, value in scored.items() if np.isfinite(value)}
        if not scored:
            continue
        best = max(scored, key=lambda name: scored[name])
        verdict = _favoured(against[best, metric.name], higher_is_better=metric.higher_is_better)
        if verdict != "better":
            values = [number(own[name, metric.name]["value"], 3) for name in (model, best)]
            lost.append(f"{metric.title} ({model} {values[0]}, {best} {values[1]}; {verdict})")
    return lost


def _lost_datasets(model: str, scores: pd.DataFrame) -> list[str]:
    """Datasets in which the model does not have the lowest RMSE, with both numbers."""
    lost = []
    for dataset, rows in scores[scores["dataset"].notna() & (scores["n_values"] > 0)].groupby("dataset"):
        rmse = rows.set_index("predictor")["rmse"]
        baselines = rmse[[name for name in rmse.index if name in BASELINES]]
        if len(baselines) and not rmse[model] < baselines.min():
            lost.append(f"{dataset} ({model} {rmse[model]:.4f}, {baselines.idxmin()} {baselines.min():.4f})")
    return lost
