from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import zscore
from sklearn.preprocessing import StandardScaler

from perturbridge_dagster.agreement import signatures
from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.scoring import score_matched
from perturbridge_dagster.agreement.sensitivity import Z_SCORED_METRICS, surviving_scores, z_scored
from perturbridge_dagster.contract import METRIC_NAMES
from tests.agreement.effects_in_memory import make_effects, random_compendium


def test_z_scores_are_those_of_scipy() -> None:
    effects = random_compendium(np.random.default_rng(0), n_genes=30)
    effects.layers["logFC"][2, 3] = np.nan
    effects.layers["t"][1, 4] = np.inf
    found = z_scored({"A549": effects})["A549"].dense(["logFC", "t", "log10_adj_p_within"])
    for layer in ("logFC", "t"):
        values = np.where(np.isfinite(effects.layers[layer]), effects.layers[layer].astype(float), np.nan)
        finite = np.isfinite(values)
        assert_allclose(found[layer][finite], zscore(values, axis=0, ddof=0, nan_policy="omit")[finite], atol=1e-5)
        assert not np.isfinite(found[layer][~finite]).any()
    assert_array_equal(found["log10_adj_p_within"], effects.layers["log10_adj_p_within"])


def test_strata_of_one_cell_context_share_a_scale_over_their_own_genes() -> None:
    generator = np.random.default_rng(1)
    conditions = [(cid, "A549", 24.0, 1.0) for cid in range(1, 7)]
    low = make_effects(conditions, generator.normal(size=(6, 4)), stratum="low", genes=[0, 1, 2, 3])
    high = make_effects(conditions, generator.normal(loc=2, size=(6, 3)), stratum="high", genes=[9, 2, 1])
    other = make_effects([(cid, "MCF7", 24.0, 1.0) for cid in (1, 2)], generator.normal(size=(2, 4)))
    found = z_scored({"low": low, "high": high, "other": other})
    together = np.concatenate([low.layers["logFC"][:, [1, 2]], high.layers["logFC"][:, [2, 1]]]).astype(float)
    expected = StandardScaler().fit_transform(together)
    assert_allclose(found["low"].dense(["logFC"])["logFC"][:, [1, 2]], expected[:6], atol=1e-5)
    rows, genes = np.array([3, 0]), np.array([2, 1])
    assert_allclose(found["high"].dense(["logFC"], rows, genes)["logFC"], expected[6:][rows], atol=1e-5)
    assert_allclose(found["low"].dense(["logFC"])["logFC"][:, 0], zscore(low.layers["logFC"][:, 0].astype(float)), atol=1e-5)
    assert_allclose(np.abs(found["other"].dense(["logFC"])["logFC"]), 1, atol=1e-5)


def test_equal_values_and_single_ones_have_no_z_score_and_contrasts_that_are_not_estimable_do_not_count() -> None:
    log_fc = np.array([[0.1, np.nan, 1.0, 3.0], [0.1, 2.0, 2.0, 4.0], [0.1, np.nan, 3.0, 800.0]])
    effects = make_effects([(cid, "A549", 24.0, 1.0) for cid in (1, 2, 3)], log_fc, estimable=[True, True, False])
    found = z_scored({"A549": effects})["A549"].dense(["logFC"])["logFC"]
    assert np.isnan(found[:, :2]).all()
    assert_allclose(found[:2, 2:], [[-1, -1], [1, 1]], atol=1e-6)
    empty = make_effects([], np.zeros((0, 3)))
    assert z_scored({"none": empty})["none"].dense(["logFC"])["logFC"].shape == (0, 3)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    effects = random_compendium(np.random.default_rng(0), n_genes=30)
    whole = z_scored({"s": effects})["s"].dense(["logFC", "t"])
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", 100)
    for layer, values in z_scored({"s": effects})["s"].dense(["logFC", "t"]).items():
        assert_allclose(values, whole[layer], atol=1e-6)


def test_what_all_compounds_share_agrees_no_more_after_scaling() -> None:
    """A response that every compound gives makes unrelated signatures alike; z-scores take it away."""
    generator = np.random.default_rng(2)
    shared = generator.normal(size=50) * 3
    left, right = ({"s": random_compendium(generator, n_compounds=40, n_genes=50, truth=np.tile(shared, (40, 1)))} for _ in range(2))
    matched = match_strata(left, right, "x", "y")

    def mean(strata: tuple) -> float:
        scores = score_matched(matched, *strata).scores
        return scores.loc[scores["metric"] == "spearman_logFC", "score"].mean()

    assert mean((left, right)) > 0.8
    assert abs(mean((z_scored(left), z_scored(right)))) < 6 / np.sqrt(80 * 49)


def test_metrics_of_z_scores_are_metrics() -> None:
    assert set(Z_SCORED_METRICS) < set(METRIC_NAMES)


def test_surviving_scores_are_counted_for_every_minimum() -> None:
    generator = np.random.default_rng(3)
    left, right = ({"s": random_compendium(generator, n_compounds=15, n_genes=60)} for _ in range(2))
    for side in (left, right):
        side["s"].layers["log10_adj_p_within"] *= generator.choice([1, 2, 4], size=(30, 1)).astype(np.float32)
    scores = score_matched(match_strata(left, right, "x", "y"), left, right).scores
    found = surviving_scores(scores, (0, 1, 4, 1000))
    assert len(found) == len(METRIC_NAMES) * 4
    for row in found.to_dict("records"):
        here = scores[(scores["metric"] == row["metric"]) & (scores["n_genes"] >= row["minimum_genes"])].dropna(subset="score")
        assert row["n_scores"] == len(here)
        assert row["n_compounds"] == row["n_units"] == here["pubchem_cid"].nunique()
        assert_allclose(row["mean_score"], here["score"].mean())
    direction = found[found["metric"] == "direction_agreement_p05"]["n_scores"].tolist()
    assert direction[0] == direction[1] > direction[2] > direction[3] == 0
    assert surviving_scores(scores[:0]).empty
