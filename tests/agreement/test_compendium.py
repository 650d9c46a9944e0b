from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from perturbridge_dagster.agreement import compendium
from perturbridge_dagster.agreement.summary import agreement_summary, agreement_units, replicate_conditions, replicate_summary
from perturbridge_dagster.contract import (
    AGREEMENT_TABLE,
    AGREEMENT_VARIANT_REPORT,
    AGREEMENT_VARIANT_SUMMARY,
    DATASET_OVERLAPS,
    REPLICATE_TABLE,
)
from tests.agreement.scored import random_replicate_scores, random_scores

METRICS = ("spearman_logFC", "deg_spearman_p05", "direction_agreement_p05")
PAIR = ["left_dataset", "right_dataset"]


def all_scores() -> pd.DataFrame:
    """Twelve compounds of one pair, of which two reach only MCF7; four of the other."""
    generator = np.random.default_rng(0)
    large = random_scores(generator, n_compounds=12, metrics=METRICS)
    large = large[(large["cell_type"] == "CVCL_0031") | (large["pubchem_cid"] < 109)]
    small = random_scores(generator, pair=("l1000_phase1", "sciplex"), n_compounds=4, metrics=METRICS)
    small = small.assign(log10_dose_gap=np.where(small["left_row"] % 2, 0.0, 0.9))
    return pd.concat([large, small], ignore_index=True)


def matches_of(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["metric"] == "spearman_logFC"].drop(columns=["metric", "gene_universe", "score"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return all_scores()


@pytest.fixture(scope="module")
def matches(scores: pd.DataFrame) -> pd.DataFrame:
    return matches_of(scores)


@pytest.fixture(scope="module")
def summaries(scores: pd.DataFrame, matches: pd.DataFrame) -> pd.DataFrame:
    summary = agreement_summary(agreement_units(scores), n_resamples=60)
    kept = {"all": matches, "ten_compounds": matches[(matches["cell_type"] == "CVCL_0031") & (matches["left_dataset"] == "sciplex")]}
    return compendium.variant_summaries(scores, summary, matches, kept, n_resamples=60)


def test_the_report_of_an_option_adds_up(matches: pd.DataFrame) -> None:
    kept = {"all": matches, "ten_compounds": matches[:0], "dose_equal": matches[matches["log10_dose_gap"] == 0]}
    report = compendium.variant_report(matches, kept)
    assert list(report) == AGREEMENT_VARIANT_REPORT.names
    totals = report.groupby("variant")[["n_matches", "n_matches_kept"]].sum()
    assert set(totals["n_matches"]) == {len(matches)}
    assert totals["n_matches_kept"].to_dict() == {name: len(rows) for name, rows in kept.items()}
    whole = report[report["variant"] == "all"]
    assert (whole["n_compounds"] == whole["n_compounds_kept"]).all()
    small = report[(report["variant"] == "dose_equal") & (report["left_dataset"] == "l1000_phase1")]
    assert set(small["n_matches"]) == {8}
    assert set(small["n_matches_kept"]) == {4}


def test_a_summary_under_an_option_is_that_of_the_matches_it_keeps(scores: pd.DataFrame, summaries: pd.DataFrame) -> None:
    assert list(summaries) == AGREEMENT_VARIANT_SUMMARY.names
    kept = summaries[summaries["variant"] == "ten_compounds"].drop(columns="variant").reset_index(drop=True)
    assert set(kept["left_dataset"]) == {"sciplex"}, "nothing is kept of the other pair"
    rows = scores[(scores["cell_type"] == "CVCL_0031") & (scores["left_dataset"] == "sciplex")]
    pd.testing.assert_frame_equal(kept, agreement_summary(agreement_units(rows), n_resamples=60))


def test_where_an_option_keeps_all_the_summary_is_that_of_the_pair(scores: pd.DataFrame, summaries: pd.DataFrame) -> None:
    every = summaries[summaries["variant"] == "all"].drop(columns="variant").reset_index(drop=True)
    pd.testing.assert_frame_equal(every, agreement_summary(agreement_units(scores), n_resamples=60))


def test_rows_of_matches_are_told_apart_by_pair(scores: pd.DataFrame, matches: pd.DataFrame) -> None:
    one = matches[matches["left_dataset"] == "sciplex"]
    found = compendium.of_matches(scores, one)
    assert set(found["left_dataset"]) == {"sciplex"}
    assert len(found) == len(METRICS) * len(one)
    assert (scores["left_row"] == 0).sum() == 2 * len(METRICS), "both pairs have a row of that number"


def test_overlaps_count_what_is_shared(matches: pd.DataFrame) -> None:
    generator = np.random.default_rng(1)
    conditions = matches.assign(left_n_samples=2, right_n_samples=3)
    found = random_replicate_scores(generator, metrics=METRICS)
    pairs = found[found["metric"] == "spearman_logFC"].assign(unmatched_spearman_logFC=np.nan)
    overlaps = compendium.dataset_overlaps(conditions, {"all": matches, "dose_equal": matches[:0]}, replicate_conditions(found, pairs))
    assert list(overlaps) == DATASET_OVERLAPS.names
    overlaps = overlaps.set_index(["variant", *PAIR])
    large = overlaps.loc[("all", "sciplex", "tahoe")]
    assert large["n_conditions"] == 2 * (12 + 9)
    assert large["n_sample_pairs"] == 6 * large["n_conditions"]
    assert (large["n_compounds"], large["n_cell_contexts"], large["n_units"], large["n_strata"]) == (12, 2, 21, 2)
    assert_allclose(large[["median_dose_fold", "largest_dose_fold"]].astype(float), [2, 2])
    own = overlaps.loc[("all", "sciplex", "sciplex")]
    assert (own["n_conditions"], own["n_sample_pairs"], own["n_compounds"]) == (16, 48, 8)
    assert [key for key in overlaps.index if key[0] == "dose_equal"] == [("dose_equal", "sciplex", "sciplex")]


def test_tables_count_as_the_paper_does(summaries: pd.DataFrame) -> None:
    for number, metric in compendium.PAPER_TABLES.items():
        table = compendium.paper_table(summaries, number)
        assert list(table) == AGREEMENT_TABLE.names
        assert set(table["metric"]) == {metric}
        assert set(table["variant"]) == {"all"}, "the paper's rules were not among the options"
        rows = summaries[(summaries["metric"] == metric) & (summaries["variant"] == "all")]
        assert table["n_first"].tolist() == rows["n_compounds_observed"].tolist()
        assert table["n_second"].tolist() == rows["n_compounds_baseline"].tolist()
    found = random_replicate_scores(np.random.default_rng(1), metrics=METRICS)
    pairs = found[found["metric"] == "spearman_logFC"].assign(unmatched_spearman_logFC=np.nan)
    summary = replicate_summary(replicate_conditions(found, pairs), n_resamples=40)
    for number, metric in compendium.REPLICATE_TABLES.items():
        table = compendium.replicate_table({"all": summary, "published": summary[:0]}, number)
        assert list(table) == REPLICATE_TABLE.names
        assert table[["variant", "dataset", "metric", "n_second"]].to_numpy().tolist() == [["all", "sciplex", metric, 16]]
