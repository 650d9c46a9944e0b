from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import spearmanr

from perturbridge_dagster.agreement import replicates as replicates_module
from perturbridge_dagster.agreement.replicates import neighbour_pairs, score_replicates
from perturbridge_dagster.contract import REPLICATE_PAIRS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import to_arrow
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium


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


@pytest.mark.parametrize(("n", "n_pairs"), [(0, 0), (1, 0), (2, 1), (3, 3), (5, 5)])
def test_pairs_of_one_condition(n: int, n_pairs: int) -> None:
    pairs = score_replicates({"A549": one_condition(n)}, "sciplex")
    assert to_arrow(pairs, REPLICATE_PAIRS).num_rows == n_pairs


def test_no_strata_give_an_empty_table() -> None:
    assert to_arrow(score_replicates({}, "sciplex"), REPLICATE_PAIRS).num_rows == 0


def test_replicates_are_sorted_by_sample_not_by_row() -> None:
    effects = one_condition(3)
    effects.contrasts["sample_id"] = ["c", "a", "b"]
    pairs = score_replicates({"A549": effects}, "sciplex")
    assert pairs[["left_contrast", "right_contrast"]].to_numpy().tolist() == [[1, 2], [2, 0], [0, 1]]


def test_gene_missing_in_one_replicate_counts_in_no_pair_of_the_condition() -> None:
    effects = one_condition(3)
    effects.layers["logFC"][0, 0] = np.nan
    effects.layers["t"][1, 3] = np.nan
    pairs = score_replicates({"A549": effects}, "sciplex")
    assert pairs["n_genes"].tolist() == [4, 4, 4]
    kept = effects.layers["logFC"][:, [1, 2, 4, 5]]
    expected = [spearmanr(kept[i], kept[j]).statistic for i, j in ((0, 1), (1, 2), (2, 0))]
    assert_allclose(pairs["spearman_logFC"], expected, atol=1e-12)


def test_baseline_is_the_mean_of_both_replicates_with_other_compounds() -> None:
    log_fc = np.random.default_rng(7).normal(size=(5, 30))
    conditions = [(1, "A549", 24, 1.0)] * 2 + [(2, "A549", 24, 1.0)] * 3
    effects = make_effects(conditions, log_fc, sample_id=list("abcde"), adj_p=0.01)
    first = score_replicates({"A549": effects}, "sciplex").iloc[0]
    values = effects.layers["logFC"]
    centroid = values[2:].mean(axis=0)
    assert_allclose(first["spearman_logFC_baseline"], np.mean([spearmanr(values[i], centroid).statistic for i in (0, 1)]), atol=1e-6)
    expected = np.mean([np.mean(np.sign(values[i]) == np.sign(centroid)) for i in (0, 1)])
    assert_allclose(first["direction_agreement_baseline"], expected)
    assert_allclose(first["direction_agreement_delta"], first["direction_agreement"] - expected)
    assert first["left_baseline_compounds"] == 1


def test_unmatched_replicate_is_another_compound_on_the_right_plate() -> None:
    conditions = [(1, "A549", 24, 1.0), (1, "A549", 24, 1.0), (2, "A549", 24, 3.0), (3, "A549", 24, 1.0), (4, "A549", 6, 1.0)]
    log_fc = np.random.default_rng(7).normal(size=(5, 30))
    effects = make_effects(conditions, log_fc, sample_id=list("abcde"), plate=["p1", "p2", "p2", "p1", "p2"])
    # Compound 2 is the only other one on p2 at 24 h; its dose may differ.
    (score,) = score_replicates({"A549": effects}, "sciplex")["unmatched_spearman_logFC"]
    assert_allclose(score, spearmanr(effects.layers["logFC"][0], effects.layers["logFC"][2]).statistic, atol=1e-12)


def test_no_other_compound_on_the_plate_leaves_it_undefined() -> None:
    pairs = score_replicates({"A549": one_condition(2)}, "sciplex")
    assert pairs["unmatched_spearman_logFC"].isna().all()
    assert pairs["spearman_logFC"].notna().all()


def test_unmatched_choice_follows_seed_and_names_only() -> None:
    effects = random_compendium(np.random.default_rng(0), replicates=3, n_compounds=10)
    first = score_replicates({"A549": effects}, "sciplex")
    pd.testing.assert_frame_equal(first, score_replicates({"A549": effects}, "sciplex"))
    assert (first["unmatched_spearman_logFC"] != score_replicates({"A549": effects}, "sciplex", seed=1)["unmatched_spearman_logFC"]).any()

    order = np.random.default_rng(1).permutation(len(effects.contrasts))
    shuffled = EffectsInMemory(
        effects.contrasts.iloc[order].reset_index(drop=True), effects.genes, {name: layer[order] for name, layer in effects.layers.items()}
    )
    again = score_replicates({"A549": shuffled}, "sciplex")
    assert_allclose(first["unmatched_spearman_logFC"], again["unmatched_spearman_logFC"], atol=1e-12)
    assert first["left_contrast"].tolist() == again["left_contrast"].tolist()


def test_rows_without_key_or_not_estimable_are_left_out() -> None:
    conditions = [(1, "A549", 24, 1.0), (1, "A549", 24, 1.0), (None, "A549", 24, 1.0), (None, "A549", 24, 1.0), (2, "A549", 24, 0.0)]
    effects = make_effects(conditions, np.ones((5, 4)), sample_id=list("abcde"), estimable=[True, False, True, True, True])
    assert score_replicates({"A549": effects}, "sciplex").empty


def test_grouped_effects_are_refused() -> None:
    effects = make_effects([(1, "A549", 24, 1.0)], np.ones((1, 4)))
    with pytest.raises(InputError, match=r"sciplex.*sample_id.*replicate_effects"):
        score_replicates({"A549": effects}, "sciplex")


def test_condition_in_two_strata_is_paired_over_their_shared_genes() -> None:
    generator = np.random.default_rng(4)
    condition = [(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)]
    low = make_effects(condition, generator.normal(size=(2, 10)), stratum="low", genes=range(10), sample_id=["a", "b"])
    high = make_effects(condition, generator.normal(size=(2, 10)), stratum="high", genes=range(14, 4, -1), sample_id=["c", "d"])
    pairs = score_replicates({"low": low, "high": high}, "gdpx2")
    assert pairs[["pubchem_cid", "stratum", "right_stratum", "n_genes"]].to_numpy().tolist() == [
        [1, "high", "low", 5],
        [2, "high", "low", 5],
    ]
    right, left = low.layers["logFC"][:, 5:], high.layers["logFC"][:, 9:4:-1]
    assert_allclose(pairs["spearman_logFC"], [spearmanr(left[i], right[i]).statistic for i in (0, 1)], atol=1e-12)
    assert_allclose(pairs["unmatched_spearman_logFC"], [spearmanr(left[i], right[1 - i]).statistic for i in (0, 1)], atol=1e-12)
    other = np.mean([[spearmanr(side[i], side[1 - i]).statistic for i in (0, 1)] for side in (left, right)], axis=0)
    assert_allclose(pairs["spearman_logFC_baseline"], other, atol=1e-12)


def test_strata_without_a_shared_gene_give_undefined_scores() -> None:
    low = make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)), stratum="low", genes=[0, 1, 2], sample_id=["a"])
    high = make_effects([(1, "A549", 24, 1.0)], np.ones((1, 2)), stratum="high", genes=[3, 4], sample_id=["b"])
    (pair,) = score_replicates({"low": low, "high": high}, "gdpx2").to_dict("records")
    assert pair["n_genes"] == 0
    assert np.isnan(pair["spearman_logFC"])


@pytest.mark.parametrize("values_per_block", [1, 300])
def test_blocks_change_nothing(values_per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    effects = random_compendium(np.random.default_rng(0), replicates=3, n_plates=2)
    whole = score_replicates({"A549": effects}, "sciplex")
    monkeypatch.setattr(replicates_module, "VALUES_PER_BLOCK", values_per_block)
    pd.testing.assert_frame_equal(score_replicates({"A549": effects}, "sciplex"), whole)


def test_replicates_of_one_truth_agree_and_unmatched_do_not() -> None:
    generator = np.random.default_rng(6)
    truth = generator.normal(size=(30, 80))
    pairs = score_replicates({"A549": random_compendium(generator, n_compounds=30, n_genes=80, replicates=2, truth=truth)}, "sciplex")
    assert len(pairs) == 60
    assert pairs["spearman_logFC"].mean() > 0.4
    assert abs(pairs["unmatched_spearman_logFC"].mean()) < 6 / np.sqrt(60 * 79)
