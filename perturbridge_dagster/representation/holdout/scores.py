"""What a hold-out study scores: which datasets it can, whether its split keeps its promise, and the squared errors of every run.

Belongs here: targets, promises, sums of squared errors, and the table of runs. Does not belong here: training (``study.py``), what the
errors come to over seeds (``summary.py``), or the means and neighbours that models stand beside (``baselines.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import HOLDOUT_DATASETS, HOLDOUT_PROMISES, HOLDOUT_RUNS
from perturbridge_dagster.representation.splits import PROMISES, SPLIT_RULES, SPLITS, violations
from perturbridge_dagster.representation.splits.holdouts import scaffolds_of

if TYPE_CHECKING:
    from perturbridge_dagster.representation.baselines import Predictor
    from perturbridge_dagster.representation.corpus import StoredCorpus
    from perturbridge_dagster.representation.encoding import EncodedSplit
    from perturbridge_dagster.representation.holdout.variants import Variant

ALL_DATASETS = "all_datasets"
"""Stands in place of a dataset where values of all are pooled."""

ERROR_COLUMNS = ("predictor", "dataset", "seed", "perturbation", "cluster", "n_conditions", "n_values", "squared_error")

_OF_MOLECULES = ("molecules", "parents")


def selects_by_dataset(rule: str) -> bool:
    """Whether a split rule holds compounds out of each dataset, so that every dataset is a target with a checkpoint of its own."""
    return rule in _OF_MOLECULES


# ---- what can be scored ------------------------------------------------------------------------------------------------------


def target_datasets(corpus: StoredCorpus, rule: str, most: int | None = None) -> pd.DataFrame:
    """Datasets of a corpus under a split rule, and which of them can be scored.

    Where compounds are held out of each dataset, every dataset is a target: it needs train, validation and test values of its own. The
    other rules hold out what datasets share, so that there is one target: all datasets pooled.

    Parameters
    ----------
    corpus
        An open corpus.
    rule
        Name of a split that suits it.
    most
        Most datasets to score: those with most test values, then by name; None for all.

    Returns
    -------
    DataFrame
        Table HOLDOUT_DATASETS of the contract.
    """
    conditions = corpus.conditions.assign(split=corpus.split_of(rule).to_numpy()).dropna(subset="split")
    if not selects_by_dataset(rule):
        conditions = conditions.assign(dataset=ALL_DATASETS)
    frame = pd.DataFrame({"rule": rule, "dataset": sorted(conditions["dataset"].unique())})
    for split in SPLITS:
        of_split = conditions[conditions["split"] == split].groupby("dataset")["n_values"]
        frame[f"n_conditions_{split}"] = frame["dataset"].map(of_split.size()).fillna(0).astype("int64")
        frame[f"n_values_{split}"] = frame["dataset"].map(of_split.sum()).fillna(0).astype("int64")
    frame["outcome"], frame["reason"] = "scored", None
    for split, outcome, reason in (
        ("test", "no_test_values", "no test values"),
        ("val", "not_selectable", "no validation values, so that no checkpoint can be chosen"),
        ("train", "no_train_values", "no train values"),
    ):
        frame.loc[frame[f"n_values_{split}"] == 0, ["outcome", "reason"]] = outcome, reason
    scored = frame[frame["outcome"] == "scored"].sort_values(["n_values_test", "dataset"], ascending=[False, True])
    if most is not None and len(scored) > most:
        reason = f"this size of the study scores the {most} datasets with most test values"
        frame.loc[scored.index[most:], ["outcome", "reason"]] = "left_out", reason
    return frame[HOLDOUT_DATASETS.names]


def cluster_of(conditions: pd.DataFrame, rule: str) -> pd.Series:
    """What a rule holds out as a whole, for each condition: its compound, parent structure, cell context, scaffold …, as text."""
    if rule == "molecules":
        return conditions["perturbation"].astype(str)
    if rule == "parents":
        return conditions["parent_key"].astype(object).where(conditions["parent_key"].notna(), conditions["perturbation"]).astype(str)
    if rule == "scaffolds":
        return scaffolds_of(conditions)
    return conditions[{"contexts": "context", "model_systems": "model_system", "assays": "assay"}[rule]].astype(str)


CLUSTER_WORDS = {
    "molecules": "compound",
    "parents": "parent structure",
    "contexts": "cell context",
    "model_systems": "model system",
    "assays": "assay",
    "scaffolds": "scaffold",
}
"""Rule → what :func:`cluster_of` tells apart."""


def promises_kept(corpus: StoredCorpus, rule: str, variants: Iterable[Variant], targets: Sequence[str]) -> pd.DataFrame:
    """Test the promises of a split on what each variant was trained on and scored on.

    A variant that has seen the target alone is tested on that: its promise is that what is held out is not trained; that it is trained in
    another dataset is the promise of variants that have seen all.

    Parameters
    ----------
    corpus
        An open corpus.
    rule
        Name of the split.
    variants
        Variants that were run.
    targets
        Datasets that were scored.

    Returns
    -------
    DataFrame
        Table HOLDOUT_PROMISES of the contract.
    """
    conditions = corpus.conditions.assign(split=corpus.split_of(rule).to_numpy()).dropna(subset="split")
    variants = list(variants)
    alone = {variant.name: variant.data == "target" and variant.source is None for variant in variants}
    rows = []
    for is_alone in sorted(set(alone.values())):
        for dataset in targets:
            tested = _test_promises(conditions, rule, dataset, is_alone)
            rows += [{"predictor": name, **row} for name in alone if alone[name] == is_alone for row in tested]
    return pd.DataFrame(rows, columns=HOLDOUT_PROMISES.names)


def _test_promises(conditions: pd.DataFrame, rule: str, dataset: str, alone: bool) -> list[dict[str, Any]]:
    """Promises on the train conditions of all datasets, or of the target alone, and the held-out ones of the target."""
    is_target = pd.Series(dataset == ALL_DATASETS, index=conditions.index) | (conditions["dataset"] == dataset)
    is_train = conditions["split"] == "train"
    used = conditions[is_target | (is_train & (not alone))]
    rows = []
    for promise in (PROMISES[name] for name in SPLIT_RULES[rule].promises):
        if alone and promise.is_trained:
            continue
        rows.append(
            {
                "rule": rule,
                "dataset": dataset,
                "promise": promise.name,
                "meaning": promise.meaning,
                "n_held_out": int((used["split"] != "train").sum()),
                "n_broken": int(violations(used, [promise.name])["n_conditions"].sum()),
            }
        )
    return rows


# ---- squared errors ----------------------------------------------------------------------------------------------------------


def squared_errors(predictor: Predictor, split: EncodedSplit, rule: str) -> pd.DataFrame:
    """Squared errors of a predictor, added up by dataset, compound and cluster, block by block in float64.

    Parameters
    ----------
    predictor
        Predicts blocks of conditions.
    split
        What it is scored on.
    rule
        Name of the split, which decides the clusters.

    Returns
    -------
    DataFrame
        dataset, perturbation, cluster, n_conditions, n_values, squared_error; sorted.
    """
    squared, n_values = np.zeros(len(split.conditions)), np.zeros(len(split.conditions), dtype=np.int64)
    for block in (part for whole in split.blocks for part in whole.parts()):
        truth = block.values()
        present = np.isfinite(truth)
        predicted = predictor.predict(split.conditions.iloc[block.condition], block)
        squared[block.condition] = np.square(np.where(present, predicted - truth, 0.0), dtype=np.float64).sum(axis=1)
        n_values[block.condition] = present.sum(axis=1)
    frame = split.conditions[["dataset", "perturbation"]].assign(
        cluster=cluster_of(split.conditions, rule).to_numpy(), n_conditions=1, n_values=n_values, squared_error=squared
    )
    summed = frame.groupby(["dataset", "perturbation", "cluster"], sort=True, observed=True)[["n_conditions", "n_values", "squared_error"]]
    return summed.sum().reset_index()


def rmse_of(errors: pd.DataFrame) -> float:
    """RMSE over all values of a table of squared errors."""
    return float(np.sqrt(errors["squared_error"].sum() / errors["n_values"].sum()))


# ---- tables ------------------------------------------------------------------------------------------------------------------

_OF_RUN = ["source_seed", "steps", "epochs", "selected_step", "n_train_values", "n_train_listed", "n_values_seen", "validation_rmse"]


def runs_table(rule: str, runs: pd.DataFrame, errors: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Every run and baseline on every dataset, and on all pooled where the rule has one checkpoint for all.

    Parameters
    ----------
    rule
        Name of the split.
    runs
        One row a run and target, as ``study.Study`` gives them.
    errors
        Columns ``ERROR_COLUMNS``, of runs and of baselines, whose seed is null.
    variants
        Names of the variants, in the order to show them.

    Returns
    -------
    DataFrame
        Table HOLDOUT_RUNS of the contract: datasets by name, all pooled first; of each the variants, seed by seed, then the baselines.
    """
    if errors.empty:
        return pd.DataFrame(columns=HOLDOUT_RUNS.names)
    pooled = with_pooled(rule, errors)
    grouped = pooled.groupby(["predictor", "dataset", "seed"], sort=False, dropna=False)
    frame = grouped.agg(
        n_values=("n_values", "sum"),
        n_conditions=("n_conditions", "sum"),
        n_compounds=("perturbation", "nunique"),
        squared_error=("squared_error", "sum"),
    ).reset_index()
    frame["test_rmse"] = np.sqrt(frame["squared_error"] / frame["n_values"])
    frame["kind"] = np.where(frame["seed"].isna(), "baseline", "variant")
    if selects_by_dataset(rule):
        frame = frame.merge(runs[["predictor", "dataset", "seed", *_OF_RUN]], how="left", on=["predictor", "dataset", "seed"])
    else:
        frame = frame.merge(runs[["predictor", "seed", *_OF_RUN]], how="left", on=["predictor", "seed"])
        # it was selected by all datasets, and has no such score of one
        frame.loc[frame["dataset"] != ALL_DATASETS, "validation_rmse"] = np.nan
    frame = frame.assign(rule=rule, is_pooled=frame["dataset"] == ALL_DATASETS).astype(dict.fromkeys(_INTEGERS, "Int64"))
    place = {name: number for number, name in enumerate([*variants, *frame["predictor"].unique()][::-1])}
    frame = frame.assign(place=-frame["predictor"].map(place))
    return frame.sort_values(["is_pooled", "dataset", "place", "seed"], ascending=[False, True, True, True], ignore_index=True)[
        HOLDOUT_RUNS.names
    ]


_INTEGERS = ("seed", "source_seed", "steps", "selected_step", "n_train_values", "n_train_listed", "n_values_seen")


def with_pooled(rule: str, errors: pd.DataFrame) -> pd.DataFrame:
    """Errors, and once more as those of all datasets where the rule pools them."""
    if selects_by_dataset(rule):
        return errors
    return pd.concat([errors.assign(dataset=ALL_DATASETS), errors], ignore_index=True)
