from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from perturbridge_dagster.agreement.bootstrap import clustered_bca
from perturbridge_dagster.agreement.replicates import score_replicates
from perturbridge_dagster.agreement.summary import agreement_summary, agreement_units, replicate_conditions, replicate_summary
from perturbridge_dagster.contract import (
    AGREEMENT_SCORES,
    AGREEMENT_SUMMARY,
    AGREEMENT_UNITS,
    METRIC_NAMES,
    REPLICATE_CONDITIONS,
    REPLICATE_SUMMARY,
)
from tests.agreement.effects_in_memory import make_effects
from tests.agreement.scored import completed, random_replicate_scores, random_scores, with_baselines

nan = np.nan


def scored_table(spearman: str = "spearman_logFC", direction: str = "direction_agreement_p05") -> pd.DataFrame:
    """Two compounds in A549 (one at two doses), one in MCF7; some scores undefined."""
    rows = [
        # cid, context, dose, spearman, its baseline, direction, its baseline
        (1, "A549", 1.0, 0.2, 0.1, 1.0, nan),
        (1, "A549", 10.0, 0.6, nan, nan, 0.5),
        (2, "A549", 1.0, nan, 0.3, nan, nan),
        (1, "MCF7", 1.0, 0.8, 0.2, 0.5, 0.7),
    ]
    tables = []
    for metric, score, baseline in ((spearman, 3, 4), (direction, 5, 6)):
        columns = {"pubchem_cid": 0, "cell_type": 1, "left_pert_dose_uM": 2, "score": score, "source_centroid": baseline}
        tables.append(pd.DataFrame({name: [row[place] for row in rows] for name, place in columns.items()}).assign(metric=metric))
    scored = with_baselines(pd.concat(tables, ignore_index=True))
    return completed(
        scored.assign(left_dataset="sciplex", right_dataset="tahoe", pert_time_h=24.0, gene_universe="pairwise"), AGREEMENT_SCORES
    )


def of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    return table[table["metric"] == metric].reset_index(drop=True)


def test_units_are_means_over_doses() -> None:
    units = agreement_units(scored_table())
    assert list(units) == AGREEMENT_UNITS.names
    units = of_metric(units, "spearman_logFC")
    assert units[["pubchem_cid", "cell_type", "n_conditions"]].to_numpy().tolist() == [[1, "A549", 2], [1, "MCF7", 1], [2, "A549", 1]]
    assert_allclose(units["observed"], [0.4, 0.8, nan])
    assert_allclose(units["baseline"], [0.1, 0.2, 0.3])
    assert_allclose(units["delta"], [0.1, 0.6, nan])
    assert_allclose(units["paired_observed"], [0.2, 0.8, nan])
    assert_allclose(units["paired_baseline"], [0.1, 0.2, nan])


def test_rows_with_a_weight_count_that_often() -> None:
    scores = random_scores(np.random.default_rng(0), n_compounds=4)
    weight = np.random.default_rng(1).integers(1, 5, len(scores))
    repeated = scores.loc[scores.index.repeat(weight)].reset_index(drop=True)
    found, expected = agreement_units(scores.assign(weight=weight)), agreement_units(repeated)
    pd.testing.assert_frame_equal(found.drop(columns="n_conditions"), expected.drop(columns="n_conditions"))
    assert found["n_conditions"].tolist() == agreement_units(scores)["n_conditions"].tolist(), "a match is one match"


def test_summary_counts_and_means() -> None:
    overall = agreement_summary(agreement_units(scored_table()), n_resamples=50)
    assert list(overall) == AGREEMENT_SUMMARY.names
    assert overall["cell_type"].isna().all()
    overall = overall.set_index("metric")
    spearman = overall.loc["spearman_logFC"]
    counts = {name: spearman[name] for name in spearman.index if name.startswith("n_")}
    assert counts == {
        "n_conditions": 4,
        "n_units": 3,
        "n_compounds": 2,
        "n_units_observed": 2,
        "n_compounds_observed": 1,
        "n_units_baseline": 3,
        "n_compounds_baseline": 2,
        "n_units_paired": 2,
        "n_compounds_paired": 1,
    }
    assert_allclose(spearman[["observed", "baseline", "delta"]].astype(float), [0.6, 0.2, 0.35])
    assert_allclose(spearman[["paired_observed", "paired_baseline"]].astype(float), [0.5, 0.15])
    direction = overall.loc["direction_agreement_p05"]
    assert_allclose(direction[["observed", "baseline", "delta"]].astype(float), [0.75, 0.6, -0.2])
    contexts = agreement_summary(agreement_units(scored_table()), by_cell_context=True, n_resamples=50).set_index(["cell_type", "metric"])
    assert set(contexts.index) == {(context, metric) for context in ("A549", "MCF7") for metric in overall.index}
    assert contexts.loc[("MCF7", "spearman_logFC"), "observed"] == 0.8
    assert contexts.loc["A549", "n_units"].tolist() == [2, 2]


def test_paired_means_differ_by_the_mean_difference() -> None:
    summary = agreement_summary(agreement_units(random_scores(np.random.default_rng(0), missing=0.3)), n_resamples=50)
    assert len(summary) == len(METRIC_NAMES)
    assert_allclose(summary["paired_observed"] - summary["paired_baseline"], summary["delta"], atol=1e-12)
    assert (summary["observed"] - summary["baseline"] - summary["delta"]).abs().max() > 1e-3, "the published means are of other rows"


def test_intervals_are_those_of_the_units_with_compounds_as_clusters() -> None:
    units = agreement_units(random_scores(np.random.default_rng(0)))
    contexts = agreement_summary(units, by_cell_context=True, n_resamples=200)
    row = contexts[(contexts["cell_type"] == "CVCL_0031") & (contexts["metric"] == "spearman_t")].iloc[0]
    chosen = units[(units["cell_type"] == "CVCL_0031") & (units["metric"] == "spearman_t")]
    key = ("cell_context", "sciplex", "tahoe", "CVCL_0031", "pairwise", "spearman_t")
    for quantity in ("observed", "baseline", "delta", "target_peers_delta"):
        interval = clustered_bca(chosen[quantity], chosen["pubchem_cid"], seed_key=key, n_resamples=200)
        assert_allclose([row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"]], [interval.mean, interval.low, interval.high])
        assert row[f"{quantity}_interval"] == interval.method == "bca"
        assert interval.low < row[quantity] < interval.high


def test_one_compound_has_no_interval_and_says_so() -> None:
    summary = of_metric(agreement_summary(agreement_units(scored_table()), n_resamples=50), "spearman_logFC").iloc[0]
    assert (summary["observed_interval"], summary["baseline_interval"]) == ("not_estimable", "percentile")
    assert np.isnan([summary["observed_low"], summary["observed_high"]]).all()
    assert summary["target_peers_delta_interval"] == "not_estimable", "no row has it"


def test_order_of_rows_does_not_matter() -> None:
    scored = random_scores(np.random.default_rng(0), n_compounds=5)
    units = agreement_units(scored)
    shuffled = agreement_units(scored.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(units, shuffled)
    pd.testing.assert_frame_equal(
        agreement_summary(units, n_resamples=100), agreement_summary(shuffled.sample(frac=1, random_state=2), n_resamples=100)
    )


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("by_cell_context", [True, False])
def test_summary_of_nothing_and_of_one_row(keep: int, by_cell_context: bool) -> None:
    summary = agreement_summary(agreement_units(scored_table()[:keep]), by_cell_context=by_cell_context, n_resamples=50)
    assert len(summary) == keep
    assert list(summary) == AGREEMENT_SUMMARY.names


def test_replicate_summary() -> None:
    scores = random_replicate_scores(np.random.default_rng(0), n_compounds=5)
    pairs = scores[scores["metric"] == "spearman_logFC"].assign(unmatched_spearman_logFC=np.linspace(0, 1, 30))
    conditions = replicate_conditions(scores, pairs)
    assert list(conditions) == REPLICATE_CONDITIONS.names
    assert len(conditions) == 10 * len(METRIC_NAMES)
    assert set(conditions["n_pairs"]) == {3}
    summary = replicate_summary(conditions, n_resamples=50)
    assert list(summary) == REPLICATE_SUMMARY.names
    assert set(summary["n_pairs"]) == {30}
    assert set(summary["n_conditions"]) == {10}
    assert set(replicate_summary(conditions, by_cell_context=True, n_resamples=50)["cell_type"]) == {"CVCL_0023", "CVCL_0031"}
    # As many pairs in every condition, so the mean of means is the mean.
    assert_allclose(of_metric(summary, "spearman_logFC")["unmatched"], 0.5)
    assert summary.loc[summary["metric"] != "spearman_logFC", "unmatched"].isna().all()


def test_summary_of_no_replicates() -> None:
    single_wells = make_effects([(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)], np.ones((2, 3)), sample_id=["s1", "s2"])
    scored = score_replicates({"A549": single_wells}, "sciplex")
    conditions = replicate_conditions(scored.scores, scored.pairs)
    assert len(replicate_summary(conditions)) == len(replicate_summary(conditions, by_cell_context=True)) == 0
