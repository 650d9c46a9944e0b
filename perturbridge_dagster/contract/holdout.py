"""Hold-out evaluations: what was held out, every run, what it scored, and how predictors compare."""

from __future__ import annotations

from perturbridge_dagster.contract.representation import FURTHER_SPLITS, PROFILE_SCORES
from perturbridge_dagster.contract.schema import Field, Table

KINDS = ("variant", "baseline")
"""Kinds of predictors."""

OUTCOMES = ("scored", "not_selectable", "no_test_values", "no_train_values", "left_out")
"""What may come of a dataset: it is scored; it has no validation values, so that no checkpoint can be chosen for it; it has nothing to be
scored on, or to learn from; or the size of the study leaves it out."""

INTERVALS = ("bca", "percentile", "degenerate", "not_estimable")

_RULE = Field("rule", "string", "Split rule.", allowed=FURTHER_SPLITS)
_DATASET = Field("dataset", "string", "Dataset id; all_datasets where values of all are pooled.")
_PREDICTOR = Field("predictor", "string", "Variant of a model, or baseline.")
_KIND = Field("kind", "string", "Whether it is trained, or needs no training.", allowed=KINDS)
_SEED = Field("seed", "int64", "Seed of the run; null for a baseline.", nullable=True)
_CLUSTERED_BY = Field("clustered_by", "string", "What the bootstrap draws with replacement.")
_INTERVAL = Field("interval", "string", "Method of the interval.", allowed=INTERVALS)


def _rmse(name: str, meaning: str) -> Field:
    return Field(name, "float64", meaning, unit="log2", nullable=True, minimum=0)


HOLDOUT_DATASETS = Table(
    "holdout_datasets",
    "One dataset of a hold-out evaluation: what it trains, what it holds out, and whether it could be scored.",
    (
        _RULE,
        _DATASET,
        *(Field(f"n_conditions_{split}", "int64", f"Conditions in {split}.", minimum=0) for split in ("train", "val", "test")),
        *(Field(f"n_values_{split}", "int64", f"Values in {split}.", minimum=0) for split in ("train", "val", "test")),
        Field("outcome", "string", "What came of it.", allowed=OUTCOMES),
        Field("reason", "string", "Why it was not scored.", nullable=True),
    ),
)

HOLDOUT_PROMISES = Table(
    "holdout_promises",
    "One promise of a split, tested on the conditions that the runs of a variant were trained on and scored on.",
    (
        _RULE,
        _PREDICTOR,
        _DATASET,
        Field("promise", "string", "Name of the promise."),
        Field("meaning", "string", "What it says."),
        Field("n_held_out", "int64", "Conditions of val and test.", minimum=0),
        Field("n_broken", "int64", "Conditions that break it.", minimum=0),
    ),
)

HOLDOUT_RUNS = Table(
    "holdout_runs",
    "One run of a variant, or one baseline, scored on one dataset.",
    (
        _RULE,
        _PREDICTOR,
        _KIND,
        _DATASET,
        _SEED,
        Field("source_seed", "int64", "Seed of the run whose checkpoint it starts from.", nullable=True),
        Field("steps", "int64", "Budget in optimiser steps.", nullable=True, minimum=1),
        Field("epochs", "float64", "The same in passes over its train data.", nullable=True, minimum=0),
        Field("selected_step", "int64", "Step of the checkpoint with the lowest validation RMSE.", nullable=True, minimum=1),
        Field("n_train_values", "int64", "Values that it was trained on.", nullable=True, minimum=1),
        Field("n_train_listed", "int64", "Values that the corpus lists in train for it.", nullable=True, minimum=1),
        Field("n_values_seen", "int64", "Values that its steps took, each as often as it was taken.", nullable=True, minimum=1),
        _rmse("validation_rmse", "RMSE of the full validation pass that selected the checkpoint."),
        Field("test_rmse", "float64", "RMSE over all test values.", unit="log2", minimum=0),
        Field("n_values", "int64", "Test values.", minimum=1),
        Field("n_conditions", "int64", "Test conditions.", minimum=1),
        Field("n_compounds", "int64", "Test compounds.", minimum=1),
    ),
)

HOLDOUT_ERRORS = Table(
    "holdout_errors",
    "Squared errors of one run, or baseline, on the test values of one compound and cluster: all that intervals are computed from.",
    (
        _RULE,
        _PREDICTOR,
        _DATASET,
        _SEED,
        Field("perturbation", "string", "Perturbation, as the corpus writes it."),
        Field("cluster", "string", "What the split rule holds out as a whole, such as a compound, a cell context or a scaffold."),
        Field("n_conditions", "int64", "Conditions.", minimum=1),
        Field("n_values", "int64", "Values.", minimum=1),
        Field("squared_error", "float64", "Sum of squared errors.", unit="log2²", minimum=0),
    ),
)

HOLDOUT_SUMMARY = Table(
    "holdout_summary",
    "One predictor on one dataset over all seeds, and how it stands beside the best baseline.",
    (
        _RULE,
        _PREDICTOR,
        _KIND,
        _DATASET,
        Field("n_seeds", "int64", "Runs; 1 for a baseline.", minimum=1),
        _rmse("validation_rmse_mean", "Mean over seeds of the RMSE of selection."),
        Field("test_rmse_mean", "float64", "Mean over seeds of the RMSE over all test values.", unit="log2", minimum=0),
        _rmse("test_rmse_sd", "Its standard deviation over seeds (ddof 1); null with one seed."),
        _rmse("test_rmse_low", "Low end of the 95 % interval of the mean, clusters drawn with replacement."),
        _rmse("test_rmse_high", "High end."),
        _INTERVAL,
        _CLUSTERED_BY,
        Field("n_clusters", "int64", "Clusters.", minimum=1),
        Field("n_values", "int64", "Test values.", minimum=1),
        Field("n_conditions", "int64", "Test conditions.", minimum=1),
        Field("n_compounds", "int64", "Test compounds.", minimum=1),
        Field("best_baseline", "string", "Baseline with the lowest test RMSE on the dataset.", nullable=True),
        _rmse("best_baseline_rmse", "Its RMSE."),
        Field("difference", "float64", "RMSE less that of the best baseline.", unit="log2", nullable=True),
        Field("difference_low", "float64", "Low end of its 95 % interval, paired.", unit="log2", nullable=True),
        Field("difference_high", "float64", "High end.", unit="log2", nullable=True),
        Field(
            "beats_best_baseline",
            "bool",
            "Whether the whole interval lies below 0, of five clusters or more; null for a baseline.",
            nullable=True,
        ),
    ),
)

HOLDOUT_COMPARISONS = Table(
    "holdout_comparisons",
    "A variant beside another predictor on one dataset, paired: the same clusters are drawn for both.",
    (
        _RULE,
        _DATASET,
        _PREDICTOR,
        Field("reference", "string", "The other predictor."),
        Field("reference_kind", "string", "Whether that is trained, or needs no training.", allowed=KINDS),
        Field("difference", "float64", "Mean RMSE over seeds, less that of the reference.", unit="log2"),
        Field("low", "float64", "Low end of the 95 % interval.", unit="log2", nullable=True),
        Field("high", "float64", "High end.", unit="log2", nullable=True),
        _INTERVAL,
        _CLUSTERED_BY,
        Field("n_clusters", "int64", "Clusters.", minimum=1),
    ),
)

HOLDOUT_PROFILES = Table(
    "holdout_profiles",
    "One metric of whole profiles of one predictor, or of the difference of two, on one dataset; of the first seed of each model.",
    (_RULE, *PROFILE_SCORES),
)
