"""The rules of the checks on the evaluation on OP3.

Belongs here: what must hold in its output. Does not belong here: the rules of other stages (``checks.py``).
"""

from __future__ import annotations

from pathlib import Path

from perturbridge_dagster.contract import OP3_COMPOUNDS, OP3_SCORES, OP3_SUMMARY
from perturbridge_dagster.quality.rules import Findings, as_the_contract_says, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import validate
from perturbridge_dagster.written import read_parquet

_PREDICTOR = ["descriptor", "mode"]
_CORRELATIONS = ("spearman", "pearson", "cosine")


def op3_evaluation(folder: Path) -> Findings:
    """Checks on the evaluation of descriptors on OP3."""
    scores, summary, compounds = (read_parquet(folder / f"{name}.parquet", "op3_evaluation") for name in ("scores", "summary", "compounds"))
    key = [*_PREDICTOR, "seed", "corpus", "compounds", "metric"]
    largest = scores["metric"].map(lambda metric: 1.0 if metric in _CORRELATIONS else float("inf"))
    smallest = scores["metric"].map(lambda metric: -1.0 if metric in _CORRELATIONS else 0.0)
    in_range = scores.assign(in_range=scores["value"].between(smallest, largest))
    # one row a subset of the held-out compounds: seen and unseen ones make all of them
    subsets = scores.drop_duplicates(["corpus", "compounds"])
    n_all = int(subsets.loc[subsets["compounds"] == "all", "n_compounds"].sum())
    parts = subsets[subsets["corpus"].notna()].groupby("corpus")["n_compounds"].sum().reset_index()
    splits = compounds.groupby("perturbagen")["split"].nunique().rename("n_splits").reset_index()
    compared = summary[summary["low"].notna()]
    ordered = compared.assign(ordered=(compared["low"] <= compared["high"]))
    gains = summary[(summary["mode"] == "baseline") & summary["corpus"].isna()]
    gains = gains[(gains["metric"] == "mrrmse") & (gains["reference"] == "none")]
    best = summary[(summary["mode"] != "baseline") & summary["corpus"].isna() & (summary["metric"] == "mrrmse")]["mean"].min()
    gains = gains.assign(gain=gains["mean"] - best)
    return {
        "scores": [
            *as_the_contract_says(scores, OP3_SCORES),
            *validate(
                in_range,
                [
                    not_empty("there are scores"),
                    unique_together("each predictor is scored once a seed, subset and metric", key),
                    equal("every value lies in the range of its metric", "in_range", True),
                ],
                key,
            ),
        ],
        "held_out": [
            *as_the_contract_says(compounds, OP3_COMPOUNDS),
            *validate(splits, [equal("no compound is both in train and in test", "n_splits", 1)], ["perturbagen"]),
            *validate(
                parts, [equal("compounds that a corpus has seen and those it has not make all of them", "n_compounds", n_all)], ["corpus"]
            ),
        ],
        "intervals": [
            *as_the_contract_says(summary, OP3_SUMMARY),
            *validate(ordered, [equal("no interval is reversed", "ordered", True)], [*_PREDICTOR, "corpus", "compounds", "metric"]),
        ],
        "beats_baselines": validate(
            gains,
            [at_least("the best network predicts better than the baseline", "gain", 0, strictly=True, severity="warning")],
            ["descriptor", "mean"],
        ),
    }
