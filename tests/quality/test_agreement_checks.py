"""The rules of agreement on tables that hold, and on tables with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.agreement import compendium
from perturbridge_dagster.agreement.summary import agreement_summary, agreement_units, replicate_conditions, replicate_summary
from perturbridge_dagster.contract import (
    AGREEMENT_SCORES,
    AGREEMENT_SUMMARY,
    AGREEMENT_VARIANT_REPORT,
    AGREEMENT_VARIANT_SUMMARY,
    REPLICATE_PAIRS,
    REPLICATE_SCORES,
    REPLICATE_SUMMARY,
    Table,
)
from perturbridge_dagster.quality import agreement as checks
from perturbridge_dagster.written import Stamp, write_parquet
from tests.agreement.scored import completed, random_replicate_scores, random_scores

pytestmark = pytest.mark.slow

OUT_OF_CONTRACT = "every value of {} is what the contract says of its field"
MISSING = "an interval is missing only where it says that none can be estimated"

Tables = dict[str, tuple[pd.DataFrame, Table]]


@cache
def pair_tables() -> Tables:
    scores = random_scores(np.random.default_rng(0), n_compounds=12)
    units = agreement_units(scores)
    return {
        "scores": (scores, AGREEMENT_SCORES),
        "pair": (agreement_summary(units, n_resamples=60), AGREEMENT_SUMMARY),
        "cell_contexts": (agreement_summary(units, by_cell_context=True, n_resamples=60), AGREEMENT_SUMMARY),
    }


@cache
def replicate_tables() -> Tables:
    scores = random_replicate_scores(np.random.default_rng(0))
    pairs = completed(scores[scores["metric"] == "spearman_logFC"].reset_index(drop=True), REPLICATE_PAIRS)
    pairs = pairs.assign(unmatched_spearman_logFC=0.0)
    conditions = replicate_conditions(scores, pairs)
    return {
        "pairs": (pairs, REPLICATE_PAIRS),
        "scores": (scores, REPLICATE_SCORES),
        "dataset": (replicate_summary(conditions, n_resamples=60), REPLICATE_SUMMARY),
        "cell_contexts": (replicate_summary(conditions, by_cell_context=True, n_resamples=60), REPLICATE_SUMMARY),
    }


@cache
def compendium_tables() -> Tables:
    tables = pair_tables()
    scores, pairs = tables["scores"][0], tables["pair"][0]
    matches = scores[scores["metric"] == "spearman_logFC"].reset_index(drop=True)
    variants = {"all": matches, "ten_compounds": matches[matches["cell_type"] == "CVCL_0023"]}
    return {
        "scores": tables["scores"],
        "pairs": (pairs, AGREEMENT_SUMMARY),
        "cell_contexts": tables["cell_contexts"],
        "variants": (compendium.variant_summaries(scores, pairs, matches, variants, n_resamples=60), AGREEMENT_VARIANT_SUMMARY),
        "variant_report": (compendium.variant_report(matches, variants), AGREEMENT_VARIANT_REPORT),
    }


MADE = {
    "cross_dataset_agreement": (pair_tables, checks.cross_dataset_agreement),
    "replicate_agreement": (replicate_tables, checks.replicate_agreement),
    "compendium_agreement": (compendium_tables, checks.compendium_agreement),
}


def judged(folder: Path, stage: str, change: Callable[[Tables], None] = lambda tables: None) -> dict[str, list[str]]:
    """What a stage's checks find wrong, by check; `change` makes the fault."""
    make, judge = MADE[stage]
    tables = {name: (table.copy(), fields) for name, (table, fields) in make().items()}
    change(tables)
    stamp = Stamp(stage, "1", "0" * 64, ("sciplex", "tahoe"), "open", simulated=True)
    for name, (table, fields) in tables.items():
        write_parquet(folder / f"{name}.parquet", table, fields, stamp)
    return {name: [finding.rule.words for finding in findings if not finding.passed] for name, findings in judge(folder).items()}


@pytest.mark.parametrize("stage", MADE)
def test_sound_tables_pass(tmp_path: Path, stage: str) -> None:
    assert not any(judged(tmp_path, stage).values())


def set_value(table: str, column: str, value: object, metric: str = "direction_agreement_p05") -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        frame = tables[table][0]
        row = frame.index[(frame["metric"] == metric) & frame.get("score", frame.get("observed")).notna()][0]
        frame.loc[row, column] = value

    return change


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (
            set_value("scores", "left_source_peers_p", 1.5),
            "scores",
            "every value of agreement_scores is what the contract says of its field",
        ),
        (set_value("pair", "delta", 2.5), "intervals", "every value of agreement_summary is what the contract says of its field"),
        (set_value("scores", "score", -0.2), "scores", "every score lies in the range of its metric"),
        (set_value("scores", "n_genes", 0), "scores", "a score has as many genes as its metric asks for"),
        (set_value("scores", "metric", "spearman_t"), "scores", "every match is scored once by each metric"),
        (set_value("pair", "observed_low", 0.999), "intervals", "an interval contains its mean"),
        (
            set_value("pair", "delta_interval", "not_estimable"),
            "intervals",
            "an interval is missing only where it says that none can be estimated",
        ),
        (set_value("pair", "baseline_interval", "degenerate"), "intervals", "a degenerate interval is a point"),
        (set_value("pair", "paired_observed", 0.01), "intervals", "paired means differ by the mean difference"),
        (set_value("cell_contexts", "observed_high", -0.5), "intervals", "the ends of an interval are in order"),
        (set_value("pair", "n_compounds_observed", 3), "enough_compounds", "10 compounds or more have a score"),
    ],
)
def test_a_fault_of_a_pair_is_found(tmp_path: Path, change: Callable[[Tables], None], check: str, words: str) -> None:
    assert words in judged(tmp_path, "cross_dataset_agreement", change)[check]


def test_a_match_without_a_metric_is_found(tmp_path: Path) -> None:
    def change(tables: Tables) -> None:
        scores, table = tables["scores"]
        tables["scores"] = (scores[1:].reset_index(drop=True), table)

    assert judged(tmp_path, "cross_dataset_agreement", change)["scores"] == ["every match has a row for every metric"]


def test_a_metric_that_is_missing_everywhere_is_found(tmp_path: Path) -> None:
    def change(tables: Tables) -> None:
        scores, table = tables["scores"]
        tables["scores"] = (scores[scores["metric"] != "spearman_t"].reset_index(drop=True), table)

    assert judged(tmp_path, "cross_dataset_agreement", change)["scores"] == ["every match has a row for every metric"]


def test_replicates_that_agree_no_more_than_others_are_a_warning(tmp_path: Path) -> None:
    found = judged(tmp_path, "replicate_agreement", set_value("dataset", "unmatched", 0.9, "spearman_logFC"))
    assert found["replicates_agree"] == ["replicates agree more than wells of different compounds"]
    assert not found["scores"]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("n_matches_kept", 1000, "no option keeps more than was matched"),
        ("n_matches_kept", 1, "without an option every match is kept"),
        ("n_matches_kept", 1, "what an option kept is what its summary counts"),
        ("n_compounds_kept", 0, "no option keeps more than was matched"),
    ],
)
def test_options_that_do_not_add_up_are_found(tmp_path: Path, column: str, value: int, words: str) -> None:
    def change(tables: Tables) -> None:
        tables["variant_report"][0].loc[0, column] = value

    assert words in judged(tmp_path, "compendium_agreement", change)["options"]
