"""What a hold-out study comes to: RMSE over seeds, paired differences with intervals, and the verdict in words.

Belongs here: the tables that people read, from the squared errors of every run (``scores.py``). Does not belong here: training
(``study.py``) or pictures (``figures.py``).

RMSE is pooled over all test values, as published. Its interval comes from drawing compounds, or what else the rule holds out as a whole,
with replacement: the same ones for every predictor, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import N_RESAMPLES, bca_interval, drawn_counts
from perturbridge_dagster.contract import HOLDOUT_COMPARISONS, HOLDOUT_SUMMARY
from perturbridge_dagster.reports import markdown_table
from perturbridge_dagster.representation.holdout.scores import ALL_DATASETS, CLUSTER_WORDS, with_pooled
from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS, REPORTED_METRICS
from perturbridge_dagster.representation.splits import SPLIT_RULES
from perturbridge_dagster.representation.verdicts import FEWEST_HELD_OUT, favoured

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMPOUNDS_WITHIN = ("parents", "scaffolds")
"""Rules whose groups are made of compounds: salts of one parent are no independent compounds, so that groups are drawn however few they
are. Compounds cross the groups of other rules, such as cell contexts, and are drawn in their place where they are few."""


def compare(rule: str, runs: pd.DataFrame, errors: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictors over seeds, with intervals, and every variant beside every other predictor.

    Parameters
    ----------
    rule
        Name of the split.
    runs
        Table HOLDOUT_RUNS of the contract.
    errors
        Columns ``ERROR_COLUMNS``.

    Returns
    -------
    tuple
        Tables HOLDOUT_SUMMARY and HOLDOUT_COMPARISONS of the contract.
    """
    summaries, comparisons = [], []
    pooled = with_pooled(rule, errors)
    for dataset, of_dataset in runs.groupby("dataset", sort=False):
        summary, compared = _compare(rule, str(dataset), of_dataset, pooled[pooled["dataset"] == dataset])
        summaries.append(summary)
        comparisons.append(compared)
    return (
        pd.concat([frame for frame in summaries if len(frame)] or [pd.DataFrame(columns=HOLDOUT_SUMMARY.names)], ignore_index=True),
        pd.concat([frame for frame in comparisons if len(frame)] or [pd.DataFrame(columns=HOLDOUT_COMPARISONS.names)], ignore_index=True),
    )


def _compare(rule: str, dataset: str, runs: pd.DataFrame, errors: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summary and comparisons of one dataset."""
    groups = runs.groupby("predictor", sort=False)
    by_cluster = rule in _COMPOUNDS_WITHIN or errors["cluster"].nunique() >= FEWEST_HELD_OUT
    clustered_by = CLUSTER_WORDS[rule] if by_cluster else CLUSTER_WORDS["molecules"]
    resampled = ResampledRmse(errors, "cluster" if by_cluster else "perturbation", ("holdout_evaluation", rule, dataset))
    of_baselines = runs[runs["kind"] == "baseline"].set_index("predictor")["test_rmse"]
    best = str(of_baselines.idxmin()) if len(of_baselines) else None
    summary, compared = [], []
    for predictor, of_predictor in groups:
        first = of_predictor.iloc[0]
        low, high, method = resampled.interval(str(predictor))
        row = {
            "rule": rule,
            "predictor": predictor,
            "kind": first["kind"],
            "dataset": dataset,
            "n_seeds": len(of_predictor),
            "validation_rmse_mean": of_predictor["validation_rmse"].mean(),
            "test_rmse_mean": of_predictor["test_rmse"].mean(),
            "test_rmse_sd": of_predictor["test_rmse"].std(ddof=1),
            "test_rmse_low": low,
            "test_rmse_high": high,
            "interval": method,
            "clustered_by": clustered_by,
            "n_clusters": resampled.n_clusters,
            **{name: int(first[name]) for name in ("n_values", "n_conditions", "n_compounds")},
            "best_baseline": best,
            "best_baseline_rmse": of_baselines[best] if best else None,
            "beats_best_baseline": None,
        }
        if first["kind"] == "variant":
            for reference in groups.groups:
                if reference == predictor:
                    continue
                difference = float(of_predictor["test_rmse"].mean() - groups.get_group(reference)["test_rmse"].mean())
                low, high, method = resampled.interval(str(predictor), str(reference))
                compared.append(
                    {
                        "rule": rule,
                        "dataset": dataset,
                        "predictor": predictor,
                        "reference": reference,
                        "reference_kind": groups.get_group(reference)["kind"].iloc[0],
                        "difference": difference,
                        "low": low,
                        "high": high,
                        "interval": method,
                        "clustered_by": clustered_by,
                        "n_clusters": resampled.n_clusters,
                    }
                )
                if reference == best:
                    # too few clusters, or an interval that is not estimable, show nothing: no win
                    won = favoured(low, high, resampled.n_clusters) == "better"
                    row |= {"difference": difference, "difference_low": low, "difference_high": high, "beats_best_baseline": won}
        summary.append(row)
    frame = pd.DataFrame(summary, columns=HOLDOUT_SUMMARY.names).astype({"beats_best_baseline": "boolean"})
    return frame, pd.DataFrame(compared, columns=HOLDOUT_COMPARISONS.names)


class ResampledRmse:
    """RMSE of several predictors on the same resamples of clusters.

    The RMSE of a predictor is the mean over its seeds of the pooled RMSE of each: the root of a ratio of sums over clusters, so that
    neither clusters nor values need be equal in size.

    Parameters
    ----------
    errors
        Squared errors of one dataset; every predictor and seed has the same values.
    cluster
        Column whose values are drawn with replacement.
    seed_key
        Names that decide the random numbers.
    n_resamples
        Number of resamples.

    Raises
    ------
    ValueError
        If predictors were scored on different values.
    """

    def __init__(self, errors: pd.DataFrame, cluster: str, seed_key: tuple[str, ...], n_resamples: int = N_RESAMPLES) -> None:
        named = errors.assign(seed=errors["seed"].astype("Int64").fillna(-1))
        sums = named.pivot_table(
            index=cluster, columns=["predictor", "seed"], values=["squared_error", "n_values"], aggfunc="sum", observed=True
        )
        n_values = sums["n_values"].to_numpy(dtype=np.float64)
        if not (n_values == n_values[:, :1]).all():
            raise ValueError("predictors were scored on different values")
        self._squared = sums["squared_error"].to_numpy(dtype=np.float64)
        self._n_values = n_values[:, 0]
        self._columns = sums["squared_error"].columns
        self.n_clusters = len(sums)
        observed_squared, observed_n = self._squared.sum(axis=0), self._n_values.sum()
        self._observed = self._rmse(observed_squared[None], np.array([observed_n]))[0]
        if self.n_clusters < 2:
            return
        self._left_out = self._rmse(observed_squared - self._squared, observed_n - self._n_values)
        self._resampled = np.concatenate(
            [
                self._rmse(drawn @ self._squared, drawn @ self._n_values)
                for drawn in drawn_counts(self.n_clusters, n_resamples, [*seed_key, "rmse"])
            ]
        )

    @staticmethod
    def _rmse(squared: NDArray[np.float64], n_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(resamples, runs) RMSE; a difference of sums may fall below 0 by rounding."""
        rmse: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0) / n_values[:, None])
        return rmse

    def _of(self, values: NDArray[np.float64], predictor: str) -> NDArray[np.float64]:
        """Mean over the seeds of a predictor."""
        mean: NDArray[np.float64] = values[..., self._columns.get_level_values("predictor") == predictor].mean(axis=-1)
        return mean

    def observed(self, predictor: str, reference: str | None = None) -> float:
        """RMSE of a predictor, less that of a reference."""
        return float(self._of(self._observed, predictor) - (self._of(self._observed, reference) if reference else 0.0))

    def interval(self, predictor: str, reference: str | None = None) -> tuple[float, float, str]:
        """95 % BCa interval of :meth:`observed`: low, high, method; see ``agreement/bootstrap.py``."""
        if self.n_clusters < 2:
            return np.nan, np.nan, "not_estimable"
        resampled, left_out = self._of(self._resampled, predictor), self._of(self._left_out, predictor)
        if reference is not None:
            resampled, left_out = resampled - self._of(self._resampled, reference), left_out - self._of(self._left_out, reference)
        return bca_interval(self.observed(predictor, reference), resampled, left_out)


# ---- the verdict -------------------------------------------------------------------------------------------------------------


def describe(rule: str, summary: pd.DataFrame, profiles: pd.DataFrame, datasets: pd.DataFrame, how: str) -> str:
    """Say in plain words, as Markdown, what a study found.

    Parameters
    ----------
    rule
        Name of the split.
    summary, profiles, datasets
        Tables HOLDOUT_SUMMARY, HOLDOUT_PROFILES and HOLDOUT_DATASETS of the contract.
    how
        How it was trained, in a sentence or two.
    """
    paragraphs = [f"**Held out: {rule.replace('_', ' ')}.** {SPLIT_RULES[rule].meaning}", how]
    variants = summary[summary["kind"] == "variant"]
    if variants.empty:
        paragraphs += ["Nothing could be scored.", _not_scored(datasets)]
        return _joined(paragraphs)
    cells = {(row["dataset"], row["predictor"]): _cell(row) for row in summary.to_dict("records")}
    predictors = list(summary["predictor"].unique())
    lowest = summary.loc[summary.groupby("dataset")["test_rmse_mean"].idxmin()].set_index("dataset")["predictor"]
    paragraphs += [
        "Test RMSE (log2), mean ± standard deviation over seeds; in bold what is lowest.",
        _table(cells, predictors, dict(lowest)),
    ]
    few = variants[variants["n_clusters"] < FEWEST_HELD_OUT].drop_duplicates("dataset")
    if len(few):
        named = ", ".join(f"{row['dataset']} ({row['n_clusters']})" for row in few.to_dict("records"))
        paragraphs.append(f"Too few {few['clustered_by'].iloc[0]}s are held out for anyone to win on: {named}; it takes {FEWEST_HELD_OUT}.")
    judged = variants[variants["n_clusters"] >= FEWEST_HELD_OUT].groupby("predictor", sort=False)
    paragraphs += [
        "\n".join(_said_of(str(name), rows) for name, rows in judged),
        _not_scored(datasets),
        *_profile_lines(profiles, predictors),
    ]
    return _joined(paragraphs)


def _joined(paragraphs: Sequence[str]) -> str:
    """A document of paragraphs, without those that are empty."""
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def _table(
    cells: Mapping[tuple[str, str], str], predictors: Sequence[str], best: Mapping[str, str], by_chance: Mapping[str, str] | None = None
) -> str:
    """A line a dataset, a column a predictor, the best in bold; and a last column, where it is known what chance gives."""
    rows = []
    for dataset in dict.fromkeys(name for name, _ in cells):
        shown = [cells.get((dataset, name), "") for name in predictors]
        bold = [f"**{cell}**" if name == best.get(dataset) else cell for name, cell in zip(predictors, shown, strict=True)]
        rows.append((dataset, *bold, *([by_chance[dataset]] if by_chance else [])))
    return markdown_table(("dataset", *(name.replace("_", " ") for name in predictors), *(["by chance"] if by_chance else [])), rows)


def _profile_lines(profiles: pd.DataFrame, predictors: Sequence[str]) -> list[str]:
    """A table for each metric of whole profiles: of all datasets together where one model is for all, else of each."""
    means = profiles[profiles["baseline"].isna() & profiles["value"].notna()]
    together = means[means["dataset"].isna()]
    means = together.assign(dataset=ALL_DATASETS) if len(together) else means
    paragraphs: list[str] = []
    for name in REPORTED_METRICS:
        metric, rows = PROFILE_METRICS[name], means[means["metric"] == name]
        if not metric.higher_is_better or rows.empty:
            continue
        cells = {(row["dataset"], row["predictor"]): f"{row['value']:.3f}" for row in rows.to_dict("records")}
        best = rows.loc[rows.groupby("dataset")["value"].idxmax()].set_index("dataset")["predictor"]
        chance = rows.drop_duplicates("dataset").set_index("dataset")["by_chance"].map("{:.3f}".format)
        paragraphs += [f"**{metric.title}.** {metric.sentence}", _table(cells, predictors, dict(best), dict(chance))]
    words = "Whole profiles, of the first seed: means over the test conditions in which a metric is defined; in bold what is highest."
    return [words, *paragraphs] if paragraphs else []


def _cell(row: dict[Hashable, Any]) -> str:
    mean, spread = row["test_rmse_mean"], row["test_rmse_sd"]
    return f"{mean:.4f}" if pd.isna(spread) else f"{mean:.4f} ± {spread:.4f}"


def _said_of(name: str, rows: pd.DataFrame) -> str:
    """One line: on how many datasets a variant beats the best baseline, surely or not; rows of those with enough held out."""
    words = name.replace("_", " ")
    won = rows.loc[rows["beats_best_baseline"].fillna(False).astype(bool), "dataset"]
    below = rows.loc[rows["difference"] < 0, "dataset"]
    lost = rows.loc[rows["difference_low"] > 0, "dataset"]
    if len(won):
        verdict = f"beats the best baseline on {len(won)} of {len(rows)} ({', '.join(won)})"
    else:
        verdict = "does NOT beat the best baseline" + (f" on any of {len(rows)} datasets" if len(rows) > 1 else "")
    more = f"; lower, but not surely, on {len(below) - len(won)}" if len(below) > len(won) else ""
    worse = f"; surely worse on {len(lost)} ({', '.join(lost)})" if len(lost) else ""
    return f"- {words}: {verdict}{more}{worse}."


def _not_scored(datasets: pd.DataFrame) -> str:
    """A line for each reason why datasets were not scored."""
    rest = datasets[datasets["outcome"] != "scored"]
    return "\n".join(f"- Not scored: {', '.join(rows['dataset'])} ({reason})." for reason, rows in rest.groupby("reason", sort=True))
