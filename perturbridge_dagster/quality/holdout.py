"""The rules of the checks on hold-out evaluations.

Belongs here: what must hold in their output. Does not belong here: the rules of other stages (``checks.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.contract import (
    HOLDOUT_COMPARISONS,
    HOLDOUT_DATASETS,
    HOLDOUT_ERRORS,
    HOLDOUT_PROFILES,
    HOLDOUT_PROMISES,
    HOLDOUT_RUNS,
    HOLDOUT_SUMMARY,
)
from perturbridge_dagster.quality.rules import Findings, as_the_contract_says, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import Finding, validate
from perturbridge_dagster.written import read_parquet

if TYPE_CHECKING:
    import pandas as pd

_TABLES = {
    "datasets": HOLDOUT_DATASETS,
    "promises": HOLDOUT_PROMISES,
    "runs": HOLDOUT_RUNS,
    "errors": HOLDOUT_ERRORS,
    "summary": HOLDOUT_SUMMARY,
    "comparisons": HOLDOUT_COMPARISONS,
    "profiles": HOLDOUT_PROFILES,
}


def holdout_evaluation(folder: Path) -> Findings:
    """Checks on the evaluation of a split rule."""
    found = {name: read_parquet(folder / f"{name}.parquet", "holdout_evaluation") for name in _TABLES}
    return {
        "scores": [
            *(finding for name, table in _TABLES.items() for finding in as_the_contract_says(found[name], table)),
            *_scores(found["datasets"], found["runs"], found["summary"], found["comparisons"]),
        ],
        "split_promise": _promises(found["promises"], found["runs"]),
        "beats_baselines": _gains(found["summary"]),
    }


def _scores(datasets: pd.DataFrame, runs: pd.DataFrame, summary: pd.DataFrame, comparisons: pd.DataFrame) -> list[Finding]:
    """Whether every dataset that can be scored was, by every predictor, and means and intervals fit each other."""
    import numpy as np

    scored = datasets.loc[datasets["outcome"] == "scored", ["dataset"]]
    predictors = summary.groupby("dataset")["predictor"].nunique()
    scored = scored.assign(n_missing=summary["predictor"].nunique() - scored["dataset"].map(predictors).fillna(0))
    counted = summary.merge(runs.groupby(["dataset", "predictor"]).size().rename("n_runs").reset_index(), how="left")
    counted["complete"] = counted["n_runs"] == counted["n_seeds"]
    means = summary[summary["test_rmse_low"].notna()]
    ordered = means.assign(ordered=means["test_rmse_low"] <= means["test_rmse_high"])
    differences = comparisons[comparisons["low"].notna()]
    return [
        *validate(datasets, [not_empty("a dataset was looked at")], []),
        *validate(scored, [equal("every dataset that can be scored is scored by every predictor", "n_missing", 0)], ["dataset"]),
        *validate(
            runs.assign(is_finite=np.isfinite(runs["test_rmse"])),
            [
                equal("every RMSE is finite", "is_finite", True),
                unique_together("every run is scored once on a dataset", ["predictor", "dataset", "seed"]),
            ],
            ["predictor", "dataset", "seed", "test_rmse"],
        ),
        *validate(counted, [equal("a mean is over all runs", "complete", True)], ["predictor", "dataset", "n_seeds", "n_runs"]),
        *validate(ordered, [equal("intervals have a low and a high end", "ordered", True)], ["predictor", "dataset"]),
        *validate(
            differences.assign(ordered=differences["low"] <= differences["high"]),
            [equal("intervals of differences have a low and a high end", "ordered", True)],
            ["predictor", "reference", "dataset"],
        ),
    ]


def _promises(promises: pd.DataFrame, runs: pd.DataFrame) -> list[Finding]:
    """Whether no run was trained on what it was scored on, and every run on all that it was to be trained on."""
    import numpy as np

    key = ["predictor", "dataset", "promise"]
    trained = runs[runs["kind"] == "variant"]
    whole = trained.assign(trained_on_all=trained["n_train_values"] == trained["n_train_listed"])
    # every epoch takes every value once, so that no part of a dataset is left out, whatever the number of processes
    least, most = (np.floor(whole["epochs"]) * whole["n_train_values"], np.ceil(whole["epochs"]) * whole["n_train_values"])
    whole["sees_each_as_often"] = whole["n_values_seen"].between(least, most)
    return [
        *validate(
            promises,
            [
                equal("the split of every run keeps its promises", "n_broken", 0),
                at_least("there are held-out conditions to test a promise on", "n_held_out", 1),
            ],
            [*key, "meaning", "n_held_out"],
        ),
        *validate(
            whole,
            [
                equal("every run was trained on all train values of its data", "trained_on_all", True),
                equal("every epoch of a run took every value once", "sees_each_as_often", True),
            ],
            ["predictor", "dataset", "seed", "n_train_values", "n_train_listed", "n_values_seen", "epochs"],
        ),
    ]


def _gains(summary: pd.DataFrame) -> list[Finding]:
    """Whether a variant beats the best baseline, dataset by dataset."""
    variants = summary[summary["kind"] == "variant"]
    best = variants.loc[variants.groupby("dataset", sort=False)["test_rmse_mean"].idxmin()]
    best = best.assign(surely_lower=best["beats_best_baseline"].eq(True))
    words = (
        "the best variant is surely better than the best baseline: the interval of their difference lies below 0, of five clusters or more"
    )
    key = ["dataset", "predictor", "test_rmse_mean", "best_baseline", "best_baseline_rmse", "difference_low", "difference_high"]
    return validate(best, [equal(words, "surely_lower", True, "warning")], key)
