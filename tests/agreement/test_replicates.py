from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import spearmanr

from perturbridge_dagster.agreement import pair_scores, signatures
from perturbridge_dagster.agreement.comparing import Signatures, compare_pairs
from perturbridge_dagster.agreement.pair_scores import ScoreOptions
from perturbridge_dagster.agreement.replicates import ScoredReplicates, neighbour_pairs, score_replicates
from perturbridge_dagster.contract import METRIC_NAMES, REPLICATE_BASELINES, REPLICATE_PAIRS, REPLICATE_SCORES
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import to_arrow
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("n", "pairs"), [(0, []), (1, []), (2, [(0, 1)]), (3, [(0, 1), (1, 2), (2, 0)]), (4, [(0, 1), (1, 2), (2, 3), (3, 0)])]
)
def test_neighbours_in_a_circle(n: int, pairs: list[tuple[int, int]]) -> None:
    assert list(zip(*neighbour_pairs(np.zeros(n, dtype=np.int64)), strict=True)) == pairs


@given(st.lists(st.integers(0, 5), max_size=20).map(sorted))
def test_every_replicate_of_a_condition_is_used_evenly(condition: list[int]) -> None:
    codes = np.array(condition, dtype=np.int64)
    left, right = neighbour_pairs(codes)
    assert (codes[left] == codes[right]).all()
    assert (left != right).all()
    uses = np.bincount(np.concatenate([left, right]), minlength=len(codes))
    for code, size in zip(*np.unique(codes, return_counts=True), strict=True):
        assert set(uses[codes == code]) == {{1: 0, 2: 1}.get(int(size), 2)}


def one_condition(n: int, n_genes: int = 6, **options: object) -> EffectsInMemory:
    log_fc = np.random.default_rng(n).normal(size=(n, n_genes))
    return make_effects([(1, "A549", 24, 1.0)] * n, log_fc, sample_id=[f"s{i}" for i in range(n)], **options)


def by_metric(scored: ScoredReplicates, metric: str = "spearman_logFC") -> pd.DataFrame:
    """Scores of one metric, in the order of the pairs."""
    return scored.scores[scored.scores["metric"] == metric].reset_index(drop=True)


@pytest.mark.parametrize(("n", "n_pairs"), [(0, 0), (1, 0), (2, 1), (3, 3), (5, 5)])
def test_pairs_of_one_condition(n: int, n_pairs: int) -> None:
    scored = score_replicates({"A549": one_condition(n)}, "sciplex")
    assert to_arrow(scored.pairs, REPLICATE_PAIRS).num_rows == n_pairs
    assert to_arrow(scored.scores, REPLICATE_SCORES).num_rows == n_pairs * len(METRIC_NAMES)


def test_no_strata_give_empty_tables() -> None:
    scored = score_replicates({}, "sciplex")
    assert to_arrow(scored.pairs, REPLICATE_PAIRS).num_rows == to_arrow(scored.scores, REPLICATE_SCORES).num_rows == 0


def test_replicates_are_sorted_by_sample_not_by_row() -> None:
    effects = one_condition(3)
    effects.contrasts["sample_id"] = ["c", "a", "b"]
    scored = score_replicates({"A549": effects}, "sciplex")
    for table in (scored.pairs, by_metric(scored)):
        assert table[["left_contrast", "right_contrast"]].to_numpy().tolist() == [[1, 2], [2, 0], [0, 1]]


def test_gene_missing_in_one_replicate_counts_in_no_pair_of_the_condition() -> None:
    effects = one_condition(3)
    effects.layers["logFC"][0, 0] = np.nan
    effects.layers["t"][1, 3] = np.nan
    scored = score_replicates({"A549": effects}, "sciplex")
    assert scored.pairs["n_genes"].tolist() == [4, 4, 4]
    kept = effects.layers["logFC"][:, [1, 2, 4, 5]]
    expected = [spearmanr(kept[i], kept[j]).statistic for i, j in ((0, 1), (1, 2), (2, 0))]
    assert_allclose(by_metric(scored)["score"], expected, atol=1e-12)


def screen(generator: np.random.Generator) -> EffectsInMemory:
    """Three replicates of each condition, of some two or one; values are missing here and there."""
    effects = random_compendium(generator, n_compounds=6, n_genes=60, replicates=3, n_plates=2, truth=generator.normal(size=(6, 60)))
    for layer in effects.layers.values():
        layer[generator.random(layer.shape) < 0.005] = np.nan
    effects.layers["log10_adj_p_within"] *= 4
    effects.contrasts.loc[[0, 3, 4], "estimable"] = False
    return effects


def scored_by_loops(effects: EffectsInMemory, pairs: pd.DataFrame) -> pd.DataFrame:
    """The definitions, one pair at a time; metrics are those of ``compare_pairs``, tested elsewhere."""
    table = effects.contrasts
    key = ["pubchem_cid", "pert_dose_uM", "pert_time_h"]
    # A signature has the genes with logFC and t in all estimable replicates of its condition.
    layers = {name: layer.copy() for name, layer in effects.layers.items()}
    for _, rows in table[table["estimable"]].groupby(key):
        finite = np.isfinite(layers["logFC"][rows.index]).all(axis=0) & np.isfinite(layers["t"][rows.index]).all(axis=0)
        for layer in layers.values():
            layer[np.ix_(rows.index, ~finite)] = np.nan

    def one(row: int) -> Signatures:
        return Signatures(*(layers[name][[row]] for name in ("logFC", "t", "log10_adj_p_within")))

    def score(left: Signatures, right: Signatures) -> np.ndarray:
        return compare_pairs(left, right, np.array([0]), np.array([0])).at_least({}).score[:, 0]

    rows = []
    for pair in pairs.itertuples():
        row = {"score": score(one(pair.left_contrast), one(pair.right_contrast))}
        for side, contrast in (("left", pair.left_contrast), ("right", pair.right_contrast)):
            own = table.iloc[contrast]
            others = table[
                table["estimable"] & (table["pert_dose_uM"] == own["pert_dose_uM"]) & (table["pubchem_cid"] != own["pubchem_cid"])
            ]
            first = others.sort_values(["sample_id"]).drop_duplicates("pubchem_cid")
            peers = np.array([score(one(contrast), one(peer)) for peer in first.index])
            known = np.isfinite(peers)
            row[f"{side}_source_peers"] = pd.DataFrame(peers).mean().to_numpy()
            row[f"{side}_source_peers_n"] = known.sum(axis=0)
            above = (peers >= row["score"]).sum(axis=0)
            judged = (known.sum(axis=0) > 0) & np.isfinite(row["score"])
            row[f"{side}_source_peers_p"] = np.where(judged, (1 + above) / (known.sum(axis=0) + 1), np.nan)
        rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("values_at_once", [1, 2**22])
def test_parity_with_the_definitions(values_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_scores, "VALUES_AT_ONCE", values_at_once)
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", values_at_once)
    effects = screen(np.random.default_rng(0))
    scored = score_replicates({"A549": effects}, "sciplex")
    expected = scored_by_loops(effects, scored.pairs)
    assert len(scored.pairs) == 3 * 10 + 1
    for name in expected:
        assert_allclose(scored.scores[name].astype(float), expected[name], atol=1e-6, err_msg=name)
        assert expected[name].notna().mean() > 0.5, name
    to_arrow(scored.pairs, REPLICATE_PAIRS)
    to_arrow(scored.scores, REPLICATE_SCORES)


def test_baselines_are_the_mean_of_both_replicates_with_other_compounds() -> None:
    """Compound 2 has three replicates and compound 3 one: compounds count alike."""
    log_fc = np.random.default_rng(7).normal(size=(6, 30))
    conditions = [(1, "A549", 24, 1.0)] * 2 + [(2, "A549", 24, 1.0)] * 3 + [(3, "A549", 24, 1.0)]
    effects = make_effects(conditions, log_fc, sample_id=list("abcdef"), adj_p=0.01)
    scored = score_replicates({"A549": effects}, "sciplex")
    values = effects.layers["logFC"]
    centroid = (values[2:5].mean(axis=0) + values[5]) / 2
    spearman, direction = (by_metric(scored, metric).iloc[0] for metric in ("spearman_logFC", "direction_agreement_p05"))
    sides = [spearmanr(values[i], centroid).statistic for i in (0, 1)]
    assert_allclose(spearman[["left_source_centroid", "right_source_centroid"]].astype(float), sides, atol=1e-6)
    assert_allclose(spearman["source_centroid"], np.mean(sides), atol=1e-6)
    assert_allclose(spearman["source_centroid_delta"], spearman["score"] - np.mean(sides), atol=1e-6)
    expected = np.mean([np.mean(np.sign(values[i]) == np.sign(centroid)) for i in (0, 1)])
    assert_allclose(direction["source_centroid"], expected)
    assert_allclose(direction["source_centroid_delta"], direction["score"] - expected)
    assert scored.pairs["left_baseline_compounds"].iloc[0] == 2
    peers = [np.mean([spearmanr(values[i], values[j]).statistic for j in (2, 5)]) for i in (0, 1)]
    assert_allclose(spearman["source_peers"], np.mean(peers), atol=1e-12)


def test_unmatched_replicate_is_another_compound_on_the_right_plate() -> None:
    conditions = [(1, "A549", 24, 1.0), (1, "A549", 24, 1.0), (2, "A549", 24, 3.0), (3, "A549", 24, 1.0), (4, "A549", 6, 1.0)]
    log_fc = np.random.default_rng(7).normal(size=(5, 30))
    effects = make_effects(conditions, log_fc, sample_id=list("abcde"), plate=["p1", "p2", "p2", "p1", "p2"])
    # Compound 2 is the only other one on p2 at 24 h; its dose may differ.
    (score,) = score_replicates({"A549": effects}, "sciplex").pairs["unmatched_spearman_logFC"]
    assert_allclose(score, spearmanr(effects.layers["logFC"][0], effects.layers["logFC"][2]).statistic, atol=1e-12)


def test_no_other_compound_on_the_plate_leaves_it_undefined() -> None:
    scored = score_replicates({"A549": one_condition(2)}, "sciplex")
    assert scored.pairs["unmatched_spearman_logFC"].isna().all()
    (row,) = by_metric(scored).to_dict("records")
    assert np.isfinite(row["score"])
    assert all(np.isnan(row[name]) for name in REPLICATE_BASELINES)


def test_seeded_choices_follow_seed_and_names_only() -> None:
    effects = random_compendium(np.random.default_rng(0), replicates=3, n_compounds=10)
    options = ScoreOptions(n_peers=4)
    first = score_replicates({"A549": effects}, "sciplex", options=options)
    order = np.random.default_rng(1).permutation(len(effects.contrasts))
    shuffled = EffectsInMemory(
        effects.contrasts.iloc[order].reset_index(drop=True), effects.genes, {name: layer[order] for name, layer in effects.layers.items()}
    )
    again = score_replicates({"A549": shuffled}, "sciplex", options=options)
    for table, same in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(table, same, rtol=1e-6)
    other = score_replicates({"A549": effects}, "sciplex", options=ScoreOptions(n_peers=4, seed=1))
    assert (first.pairs["unmatched_spearman_logFC"] != other.pairs["unmatched_spearman_logFC"]).any()
    assert (by_metric(first)["source_peers"] != by_metric(other)["source_peers"]).any()
    pd.testing.assert_series_equal(first.scores["score"], other.scores["score"])


def test_rows_without_key_or_not_estimable_are_left_out() -> None:
    conditions = [(1, "A549", 24, 1.0), (1, "A549", 24, 1.0), (None, "A549", 24, 1.0), (None, "A549", 24, 1.0), (2, "A549", 24, 0.0)]
    effects = make_effects(conditions, np.ones((5, 4)), sample_id=list("abcde"), estimable=[True, False, True, True, True])
    assert score_replicates({"A549": effects}, "sciplex").pairs.empty


def test_grouped_effects_are_refused() -> None:
    effects = make_effects([(1, "A549", 24, 1.0)], np.ones((1, 4)))
    with pytest.raises(InputError, match=r"sciplex.*sample_id.*replicate_effects"):
        score_replicates({"A549": effects}, "sciplex")


def test_condition_in_two_strata_is_paired_over_their_shared_genes() -> None:
    generator = np.random.default_rng(4)
    condition = [(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)]
    low = make_effects(condition, generator.normal(size=(2, 10)), stratum="low", genes=range(10), sample_id=["a", "b"])
    high = make_effects(condition, generator.normal(size=(2, 10)), stratum="high", genes=range(14, 4, -1), sample_id=["c", "d"])
    scored = score_replicates({"low": low, "high": high}, "gdpx2")
    assert scored.pairs[["pubchem_cid", "stratum", "right_stratum", "n_genes"]].to_numpy().tolist() == [
        [1, "high", "low", 5],
        [2, "high", "low", 5],
    ]
    right, left = low.layers["logFC"][:, 5:], high.layers["logFC"][:, 9:4:-1]
    spearman = by_metric(scored)
    assert_allclose(spearman["score"], [spearmanr(left[i], right[i]).statistic for i in (0, 1)], atol=1e-12)
    unmatched = scored.pairs["unmatched_spearman_logFC"]
    assert_allclose(unmatched, [spearmanr(left[i], right[1 - i]).statistic for i in (0, 1)], atol=1e-12)
    other = np.mean([[spearmanr(side[i], side[1 - i]).statistic for i in (0, 1)] for side in (left, right)], axis=0)
    assert_allclose(spearman["source_centroid"], other, atol=1e-12)


def test_gene_missing_in_another_stratum_counts_in_no_pair() -> None:
    """Two replicates lie in one stratum, the third, which lacks a gene, in another with other genes."""
    generator = np.random.default_rng(5)
    low = make_effects([(1, "A549", 24, 1.0)] * 2, generator.normal(size=(2, 8)), stratum="low", genes=range(8), sample_id=["a", "b"])
    high = make_effects([(1, "A549", 24, 1.0)], generator.normal(size=(1, 8)), stratum="high", genes=range(9, 1, -1), sample_id=["c"])
    high.layers["logFC"][0, 4] = np.nan  # gene 5
    scored = score_replicates({"low": low, "high": high}, "gdpx2")
    assert scored.pairs["n_genes"].tolist() == [5, 5, 5]
    within = scored.pairs.index[scored.pairs["right_stratum"].eq(scored.pairs["stratum"])]
    kept = low.layers["logFC"][:, [2, 3, 4, 6, 7]]
    assert_allclose(by_metric(scored).loc[within, "score"], [spearmanr(kept[0], kept[1]).statistic], atol=1e-12)


def test_strata_without_a_shared_gene_give_undefined_scores() -> None:
    low = make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)), stratum="low", genes=[0, 1, 2], sample_id=["a"])
    high = make_effects([(1, "A549", 24, 1.0)], np.ones((1, 2)), stratum="high", genes=[3, 4], sample_id=["b"])
    scored = score_replicates({"low": low, "high": high}, "gdpx2")
    assert to_arrow(scored.pairs, REPLICATE_PAIRS).column("n_genes").to_pylist() == [0]
    assert to_arrow(scored.scores, REPLICATE_SCORES).column("score").null_count == len(METRIC_NAMES)


def test_chosen_genes() -> None:
    effects = one_condition(2)
    scored = score_replicates(
        {"A549": effects}, "sciplex", gene_universe="global", genes={"A549": [f"ENSG{number:011d}" for number in (0, 2, 5)]}
    )
    assert scored.pairs["n_genes"].tolist() == [3]
    assert set(scored.scores["gene_universe"]) == {"global"}


def test_replicates_of_one_truth_agree_and_unmatched_do_not() -> None:
    generator = np.random.default_rng(6)
    truth = generator.normal(size=(30, 80))
    scored = score_replicates({"A549": random_compendium(generator, n_compounds=30, n_genes=80, replicates=2, truth=truth)}, "sciplex")
    assert len(scored.pairs) == 60
    spearman = by_metric(scored)
    assert spearman["score"].mean() > 0.4
    assert abs(scored.pairs["unmatched_spearman_logFC"].mean()) < 6 / np.sqrt(60 * 79)
    assert spearman["source_peers_delta"].mean() > 0.4
    assert (spearman["left_source_peers_p"] < 0.1).mean() > 0.9
