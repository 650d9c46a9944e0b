from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from perturbridge_dagster.agreement.replicates import score_replicates
from perturbridge_dagster.agreement.scoring import METRICS
from perturbridge_dagster.agreement.summary import agreement_summary, agreement_units, replicate_conditions, replicate_summary
from tests.agreement.effects_in_memory import random_compendium

nan = np.nan


def scored_table() -> pd.DataFrame:
    """Two compounds in A549 (one at two doses), one in MCF7; some scores undefined."""
    rows = [
        # cid, context, spearman, its baseline, direction, its baseline
        (1, "A549", 0.2, 0.1, 1.0, nan),
        (1, "A549", 0.6, nan, nan, 0.5),
        (2, "A549", nan, 0.3, nan, nan),
        (1, "MCF7", 0.8, 0.2, 0.5, 0.7),
    ]
    scored = pd.DataFrame(
        rows,
        columns=["pubchem_cid", "cell_type", *(f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_baseline"))],
    )
    for metric in METRICS:
        scored[f"{metric}_delta"] = scored[metric] - scored[f"{metric}_baseline"]
    return scored.assign(left_dataset="sciplex", right_dataset="tahoe", pert_time_h=24.0, mean_abs_t=[1.0, 3.0, nan, 2.0])


def test_units_are_means_over_doses() -> None:
    units = agreement_units(scored_table())
    assert units[["pubchem_cid", "cell_type", "n_conditions"]].to_numpy().tolist() == [[1, "A549", 2], [1, "MCF7", 1], [2, "A549", 1]]
    assert_allclose(units["spearman_logFC"], [0.4, 0.8, nan])
    assert_allclose(units["spearman_logFC_baseline"], [0.1, 0.2, 0.3])
    assert_allclose(units["spearman_logFC_delta"], [0.1, 0.6, nan])
    assert_allclose(units["spearman_logFC_paired"], [0.2, 0.8, nan])
    assert_allclose(units["spearman_logFC_paired_baseline"], [0.1, 0.2, nan])
    assert_allclose(units["mean_abs_t"], [2.0, 2.0, nan])


def test_summary_counts_and_means() -> None:
    units = agreement_units(scored_table())
    overall = agreement_summary(units).set_index("metric")
    assert overall["cell_type"].isna().all()
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
    direction = overall.loc["direction_agreement"]
    assert_allclose(direction[["observed", "baseline", "delta"]].astype(float), [0.75, 0.6, -0.2])
    contexts = agreement_summary(units, by_cell_context=True).set_index(["cell_type", "metric"])
    assert contexts.index.tolist() == [(context, metric) for context in ("A549", "MCF7") for metric in sorted(METRICS)]
    assert contexts.loc[("MCF7", "spearman_logFC"), "observed"] == 0.8
    assert contexts.loc["A549", "n_units"].tolist() == [2, 2]


def test_paired_means_differ_by_the_mean_difference() -> None:
    generator = np.random.default_rng(0)
    scored = pd.concat([scored_table()] * 30, ignore_index=True)
    for metric in METRICS:
        for suffix in ("", "_baseline"):
            values = generator.uniform(size=len(scored))
            scored[f"{metric}{suffix}"] = np.where(generator.random(len(scored)) < 0.3, nan, values)
        scored[f"{metric}_delta"] = scored[metric] - scored[f"{metric}_baseline"]
    summary = agreement_summary(agreement_units(scored))
    assert_allclose(summary["paired_observed"] - summary["paired_baseline"], summary["delta"], atol=1e-12)


def test_order_of_rows_does_not_matter() -> None:
    scored = scored_table()
    pd.testing.assert_frame_equal(agreement_units(scored), agreement_units(scored.iloc[::-1]))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("by_cell_context", [True, False])
def test_summary_of_nothing_and_of_one_row(keep: int, by_cell_context: bool) -> None:
    summary = agreement_summary(agreement_units(scored_table()[:keep]), by_cell_context=by_cell_context)
    assert len(summary) == 2 * keep
    assert list(summary) == list(agreement_summary(agreement_units(scored_table())))


def test_summary_of_no_replicates() -> None:
    pairs = score_replicates({}, "sciplex")
    assert len(replicate_summary(pairs)) == len(replicate_summary(pairs, by_cell_context=True)) == 0


def test_replicate_summary() -> None:
    effects = random_compendium(np.random.default_rng(0), replicates=3, n_compounds=5, doses=(1.0, 10.0))
    pairs = score_replicates({"A549": effects}, "sciplex")
    conditions = replicate_conditions(pairs)
    assert len(conditions) == 10
    assert set(conditions["n_pairs"]) == {3}
    summary = replicate_summary(pairs)
    assert summary["n_pairs"].tolist() == [30] * 2
    assert summary["n_conditions"].tolist() == [10] * 2
    by_context = replicate_summary(pairs, by_cell_context=True)
    assert set(by_context["cell_type"]) == {"A549"}
    pd.testing.assert_frame_equal(summary.drop(columns="cell_type"), by_context.drop(columns="cell_type"))
    spearman = summary[summary["metric"] == "spearman_logFC"]
    # As many pairs in every condition, so the mean of means is the mean.
    assert_allclose(spearman["observed"], pairs["spearman_logFC"].mean())
    assert_allclose(spearman["unmatched"], pairs["unmatched_spearman_logFC"].mean())
    assert summary.loc[summary["metric"] == "direction_agreement", "unmatched"].isna().all()
