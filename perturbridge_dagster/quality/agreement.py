"""The rules of the checks on agreement: matches, scores, summaries, and the named options.

Belongs here: what must hold in the outputs of the stages of agreement. Does not belong here: the rules of other stages (``checks.py``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.contract import (
    AGREEMENT_SCORES,
    AGREEMENT_SUMMARY,
    AGREEMENT_VARIANT_REPORT,
    AGREEMENT_VARIANT_SUMMARY,
    MATCHED_CONDITIONS,
    REPLICATE_PAIRS,
    REPLICATE_SCORES,
    REPLICATE_SUMMARY,
    Table,
)
from perturbridge_dagster.quality.rules import Findings, as_the_contract_says, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import Finding, Rule, table_rules, validate
from perturbridge_dagster.written import read_parquet

if TYPE_CHECKING:
    import pandas as pd

FEW_COMPOUNDS = 10
"""Compounds behind a mean below which its interval is unreliable."""


def matched_conditions(folder: Path) -> Findings:
    """Checks on the matched conditions of a dataset pair."""
    matched = read_parquet(folder / "matched.parquet", "matched_conditions")
    key = ["pubchem_cid", "cell_type", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM"]
    report = json.loads((folder / "report.json").read_text())
    limit = report["max_log10_dose_gap"]
    rules = [
        *table_rules(MATCHED_CONDITIONS),
        unique_together("each pair of conditions occurs once", ["left_row", "right_row"]),
        Rule(
            f"doses lie within {10**limit:g}-fold",
            "ExpectColumnValuesToBeBetween",
            {"column": "log10_dose_gap", "max_value": limit + 1e-9},
        ),
    ]
    return {"matching": validate(matched, rules, key), "overlap": [_overlap(matched, report.get("overlap"), limit)]}


def _overlap(matched: pd.DataFrame, shared: dict[str, int] | None, limit: float) -> Finding:
    """Whether two datasets match where they could; where they have nothing in common, what they lack is said.

    `shared` is an ``agreement.overlap.Overlap`` by name; None in outputs that are older than it.
    """
    rule = not_empty("datasets that measured a compound in one cell context at one time share a condition", "warning")
    [finding] = validate(matched, [rule], [])
    if finding.passed:
        return replace(finding, note=f"{len(matched):,} conditions match")
    if shared is None:
        return replace(finding, note="the output does not say what they have in common: rematerialize it")
    if shared["compounds_at_time"]:
        both = f"both measured {shared['compounds_at_time']:,} compounds × cell contexts × times"
        return replace(finding, note=f"{both}, all at doses more than {10**limit:g}-fold apart")
    if shared["names_without_id"]:
        named = f"both measured {shared['names_without_id']:,} perturbagens × cell contexts under one name"
        return replace(finding, note=f"{named}, and no PubChem id joins them: look at compound_identity of both")
    contexts, compounds = (f"{shared[name]:,} {words}" for name, words in (("cell_contexts", "cell contexts"), ("compounds", "compounds")))
    if shared["compounds_in_context"]:
        note = f"none can match: the {shared['compounds_in_context']:,} compounds × cell contexts of both were measured at other times"
    elif shared["cell_contexts"]:
        note = f"none can match: both have {contexts} and {compounds}, but no compound in the same cell context"
    else:
        note = f"none can match: they share no cell context ({compounds} of both)"
    return Finding(rule, True, 0, finding.failing_rows, note)


_SUMMARY_KEY = ("variant", "left_dataset", "right_dataset", "dataset", "cell_type", "gene_universe", "metric")
_SCORE_KEY = ["metric", "gene_universe", "pubchem_cid", "cell_type", "pert_time_h"]


def _scores(scores: pd.DataFrame, table: Table, identity: Sequence[str], words: str) -> list[Finding]:
    """Whether scores are in the range of their metric, and every pair (named by `identity`) is scored once by every metric."""
    import numpy as np

    from perturbridge_dagster.agreement.metrics import METRICS

    metric = scores["metric"]
    low, high = (metric.map({name: getattr(one, end) for name, one in METRICS.items()}) for end in ("minimum", "maximum"))
    rounding = 1e-6
    outside = (scores["score"] < low - rounding) | (scores["score"] > high + rounding)
    undefined = scores["score"].notna() & (scores["n_genes"] < metric.map({name: one.minimum_genes for name, one in METRICS.items()}))
    times = scores.groupby([*identity, "gene_universe"])["metric"].transform("size")
    found = scores.assign(in_range=~outside, has_genes=~undefined, complete=np.asarray(times == len(METRICS)))
    rules = [
        unique_together(f"{words} is scored once by each metric", [*identity, "gene_universe", "metric"]),
        equal(f"{words} has a row for every metric", "complete", True),
        equal("every score lies in the range of its metric", "in_range", True),
        equal("a score has as many genes as its metric asks for", "has_genes", True),
    ]
    return as_the_contract_says(scores, table) + validate(found, rules, [*_SCORE_KEY, "n_genes", "score"])


def _intervals(summary: pd.DataFrame, table: Table) -> list[Finding]:
    """Whether means, counts and intervals of a summary fit each other."""
    import numpy as np
    import pandas as pd

    key = [name for name in _SUMMARY_KEY if name in summary]
    ends = {"mean": "", "low": "_low", "high": "_high", "method": "_interval"}
    quantities = [name.removesuffix("_interval") for name in table.names if name.endswith("_interval")]
    columns = [{end: summary[f"{name}{suffix}"] for end, suffix in ends.items()} for name in quantities]
    rows = pd.concat([summary[key].assign(quantity=name, **of) for name, of in zip(quantities, columns, strict=True)], ignore_index=True)
    without = rows["low"].isna() & rows["high"].isna()
    rounding = 1e-9
    contains = (rows["low"] <= rows["mean"] + rounding) & (rows["mean"] <= rows["high"] + rounding)
    rows = rows.assign(
        ordered=without | (rows["low"] <= rows["high"] + rounding),
        said=without == (rows["method"] == "not_estimable"),
        point=(rows["method"] != "degenerate") | np.isclose(rows["low"], rows["high"], rtol=0, atol=rounding),
        contains=without | contains,
    )
    findings = as_the_contract_says(summary, table)
    if "paired_observed" in summary:
        paired = summary["paired_observed"] - summary["paired_baseline"]
        same = np.isclose(paired, summary["delta"], rtol=0, atol=rounding, equal_nan=True)
        rule = equal("paired means differ by the mean difference", "same", True)
        findings += validate(summary.assign(same=same), [rule], [*key, "paired_observed", "paired_baseline", "delta"])
    return findings + validate(
        rows,
        [
            equal("the ends of an interval are in order", "ordered", True),
            equal("an interval is missing only where it says that none can be estimated", "said", True),
            equal("a degenerate interval is a point", "point", True),
            # that of a skewed mean of few compounds may, by its correction of bias
            equal("an interval contains its mean", "contains", True, "warning"),
        ],
        [*key, "quantity", "mean", "low", "high", "method"],
    )


def cross_dataset_agreement(folder: Path) -> Findings:
    """Checks on the scores of a dataset pair and their summaries."""
    stage = "cross_dataset_agreement"
    scores, pair, cell_contexts = (read_parquet(folder / f"{name}.parquet", stage) for name in ("scores", "pair", "cell_contexts"))
    enough = at_least(f"{FEW_COMPOUNDS} compounds or more have a score", "n_compounds_observed", FEW_COMPOUNDS, severity="warning")
    return {
        "scores": _scores(scores, AGREEMENT_SCORES, ["left_row", "right_row"], "every match"),
        "intervals": [*_intervals(pair, AGREEMENT_SUMMARY), *_intervals(cell_contexts, AGREEMENT_SUMMARY)],
        "enough_compounds": validate(pair[pair["n_compounds_observed"] > 0], [enough], ["metric", "n_compounds", "observed"]),
    }


def replicate_agreement(folder: Path) -> Findings:
    """Checks on the replicate scores of a dataset and their summaries."""
    import pandas as pd

    stage = "replicate_agreement"
    pairs, scores, dataset, cell_contexts = (
        read_parquet(folder / f"{name}.parquet", stage) for name in ("pairs", "scores", "dataset", "cell_contexts")
    )
    identity = ["stratum", "right_stratum", "left_contrast", "right_contrast"]
    both = dataset.dropna(subset=["observed", "unmatched"])
    summary = pd.DataFrame({"pairs": both["n_pairs"], "mean_difference": both["observed"] - both["unmatched"]})
    agree = at_least("replicates agree more than wells of different compounds", "mean_difference", 0, strictly=True, severity="warning")
    once = unique_together("each pair of replicates occurs once", identity)
    return {
        "scores": [
            *as_the_contract_says(pairs, REPLICATE_PAIRS),
            *validate(pairs, [once], [*identity, "pubchem_cid"]),
            *_scores(scores, REPLICATE_SCORES, identity, "every pair of replicates"),
        ],
        "intervals": [*_intervals(dataset, REPLICATE_SUMMARY), *_intervals(cell_contexts, REPLICATE_SUMMARY)],
        "replicates_agree": validate(summary, [agree], ["pairs"]),
    }


def compendium_agreement(folder: Path) -> Findings:
    """Checks on the scores over each gene universe, the summaries of all pairs, and what the named options kept."""
    stage = "compendium_agreement"
    scores, pairs, cell_contexts, variants, report = (
        read_parquet(folder / f"{name}.parquet", stage) for name in ("scores", "pairs", "cell_contexts", "variants", "variant_report")
    )
    kept = (report["n_matches_kept"] <= report["n_matches"]) & (report["n_compounds_kept"] <= report["n_compounds"])
    kept &= (report["n_matches_kept"] > 0) == (report["n_compounds_kept"] > 0)
    whole = (report["variant"] != "all") | (report["n_matches_kept"] == report["n_matches"])
    # the summaries of an option count what its report says it kept
    by = ["variant", "left_dataset", "right_dataset"]
    counted = variants.groupby(by)["n_conditions"].max()
    said = report.groupby(by)["n_matches_kept"].sum()
    sums = said[said > 0].rename("n_matches_kept").to_frame().join(counted).reset_index()
    sums["adds_up"] = sums["n_conditions"] == sums["n_matches_kept"]
    identity = ["left_dataset", "right_dataset", "left_row", "right_row"]
    return {
        "scores": _scores(scores, AGREEMENT_SCORES, identity, "every match"),
        "intervals": [
            *_intervals(pairs, AGREEMENT_SUMMARY),
            *_intervals(cell_contexts, AGREEMENT_SUMMARY),
            *_intervals(variants, AGREEMENT_VARIANT_SUMMARY),
        ],
        "options": [
            *as_the_contract_says(report, AGREEMENT_VARIANT_REPORT),
            *validate(
                report.assign(kept_of_all=kept, all_kept=whole),
                [
                    equal("no option keeps more than was matched", "kept_of_all", True),
                    equal("without an option every match is kept", "all_kept", True),
                ],
                [*by, "cell_type", "pert_time_h", "n_matches", "n_matches_kept"],
            ),
            *validate(
                sums, [equal("what an option kept is what its summary counts", "adds_up", True)], [*by, "n_matches_kept", "n_conditions"]
            ),
        ],
    }
