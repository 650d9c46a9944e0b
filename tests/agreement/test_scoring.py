from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import spearmanr

from perturbridge_dagster.agreement import signatures
from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.scoring import METRICS, score_matched
from perturbridge_dagster.contract import AGREEMENT_CONDITIONS, GENES
from perturbridge_dagster.effects.storage import open_effects, write_effects
from perturbridge_dagster.effects.table import EffectTable
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import Stamp, to_arrow
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium


def scored_by_loops(matched: pd.DataFrame, left: EffectsInMemory, right: EffectsInMemory) -> pd.DataFrame:
    """The definitions of agreement and baseline, one match at a time."""
    genes = [sorted(set(left.genes["ensembl_id"]) & set(right.genes["ensembl_id"]))] * 2
    columns = [[list(side.genes["ensembl_id"]).index(gene) for gene in shared] for side, shared in zip((left, right), genes, strict=True)]
    cut = np.float32(np.log10(0.05))
    rows = []
    for match in matched.itertuples():
        log_fc, mask, strength, centroid = [], [], [], []
        for side, contrast, gene in zip((left, right), (match.left_contrast, match.right_contrast), columns, strict=True):
            table = side.contrasts
            own = table.iloc[contrast]
            peers = (
                (table["pert_dose_uM"] == own["pert_dose_uM"])
                & (table["pert_time_h"] == own["pert_time_h"])
                & (table["pubchem_cid"] != own["pubchem_cid"])
                & table["estimable"]
            ).fillna(False)
            values = side.layers["logFC"][:, gene].astype(float)
            log_fc.append(values[contrast])
            mask.append(side.layers["log10_adj_p_within"][contrast][gene] < cut)
            strength.append(np.nanmean(np.abs(side.layers["t"][contrast][gene])))
            centroid.append(pd.DataFrame(values[peers.to_numpy(dtype=bool)]).mean().to_numpy())

        def spearman(x: np.ndarray, y: np.ndarray) -> float:
            both = np.isfinite(x) & np.isfinite(y)
            return spearmanr(x[both], y[both]).statistic if both.sum() > 1 else np.nan

        def direction(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> float:
            chosen = chosen & np.isfinite(x) & np.isfinite(y)
            return float(np.mean(np.sign(x[chosen]) == np.sign(y[chosen]))) if chosen.any() else np.nan

        row = {
            "n_genes": np.sum(np.isfinite(log_fc[0]) & np.isfinite(log_fc[1])),
            "mean_abs_t": np.mean(strength),
            "spearman_logFC": spearman(*log_fc),
            "spearman_logFC_baseline": pd.Series([spearman(x, c) for x, c in zip(log_fc, centroid, strict=True)]).mean(),
            "direction_agreement": direction(*log_fc, mask[0] & mask[1]),
            "direction_agreement_baseline": pd.Series([direction(x, c, m) for x, c, m in zip(log_fc, centroid, mask, strict=True)]).mean(),
        }
        rows.append(row | {f"{metric}_delta": row[metric] - row[f"{metric}_baseline"] for metric in METRICS})
    return pd.DataFrame(rows)


@pytest.fixture
def two_datasets() -> tuple[EffectsInMemory, EffectsInMemory]:
    generator = np.random.default_rng(3)
    truth = generator.normal(size=(8, 40))
    left = random_compendium(generator, truth=truth, genes=range(40))
    # Contrasts of the left do not lie in the order of the matches.
    left.contrasts["pubchem_cid"] = left.contrasts["pubchem_cid"].to_numpy()[::-1]
    # The right dataset has other genes in another order, other doses, and gaps.
    right = random_compendium(generator, truth=truth, doses=(1.0, 3.0, 20.0), genes=list(range(49, 9, -1)))
    right.layers["logFC"][generator.random(right.layers["logFC"].shape) < 0.1] = np.nan
    right.layers["t"] = right.layers["logFC"] * 3
    return left, right


@pytest.mark.parametrize("values_per_block", [1, 200, 2**22])
def test_parity_with_the_definitions(
    two_datasets: tuple[EffectsInMemory, EffectsInMemory], values_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", values_per_block)
    left, right = two_datasets
    matched = match_strata({"A549": left}, {"A549": right}, "sciplex", "tahoe")
    scored = score_matched(matched, {"A549": left}, {"A549": right})
    expected = scored_by_loops(matched, left, right)
    assert len(scored) == 16
    for name in expected:
        assert_allclose(scored[name], expected[name], atol=1e-6, err_msg=name)
    assert set(scored["left_baseline_compounds"]) == set(scored["right_baseline_compounds"]) == {7}
    pd.testing.assert_frame_equal(scored[matched.columns], matched)
    assert to_arrow(scored, AGREEMENT_CONDITIONS).num_rows == 16


def test_several_strata_score_as_each_alone(two_datasets: tuple[EffectsInMemory, EffectsInMemory]) -> None:
    left, right = two_datasets
    alone = score_matched(match_strata({"a": left}, {"a": right}, "x", "y"), {"a": left}, {"a": right})
    lefts = {"a": left, "b": left}
    together = score_matched(match_strata(lefts, {"a": right}, "x", "y"), lefts, {"a": right})
    assert len(together) == 2 * len(alone)
    for stratum in ("a", "b"):
        part = together[together["left_stratum"] == stratum].reset_index(drop=True)
        same = [name for name in alone if name not in ("left_row", "left_stratum")]
        pd.testing.assert_frame_equal(part[same], alone[same])


def test_identical_datasets_agree_fully() -> None:
    effects = {"A549": random_compendium(np.random.default_rng(0))}
    scored = score_matched(match_strata(effects, effects, "x", "y"), effects, effects)
    assert set(scored["spearman_logFC"]) == {1.0}
    assert set(scored["direction_agreement"].dropna()) == {1.0}
    assert (scored["spearman_logFC_delta"] > 0.5).all()


def test_one_compound_has_no_baseline() -> None:
    effects = {"A549": make_effects([(1, "A549", 24, 1.0)], np.arange(5.0)[None], adj_p=0.01)}
    (row,) = score_matched(match_strata(effects, effects, "x", "y"), effects, effects).to_dict("records")
    assert (row["spearman_logFC"], row["direction_agreement"], row["n_shared_significant"]) == (1.0, 1.0, 5)
    assert all(np.isnan(row[f"{metric}{suffix}"]) for metric in METRICS for suffix in ("_baseline", "_delta"))
    assert row["left_baseline_compounds"] == 0


def test_one_side_without_baseline_leaves_the_other() -> None:
    log_fc = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
    left = {"A549": make_effects([(1, "A549", 24, 1.0)], log_fc[:1])}
    right = {"A549": make_effects([(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)], log_fc)}
    (row,) = score_matched(match_strata(left, right, "x", "y"), left, right).to_dict("records")
    assert row["spearman_logFC_baseline"] == 1.0
    assert (row["left_baseline_compounds"], row["right_baseline_compounds"]) == (0, 1)


@pytest.mark.parametrize("genes", [[0], []])
def test_one_shared_gene_or_none(genes: list[int]) -> None:
    left = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)), genes=[0, 1, 2])}
    right = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, len(genes) + 1)), genes=[*genes, 9])}
    scored = score_matched(match_strata(left, right, "x", "y"), left, right)
    assert scored["n_genes"].tolist() == [len(genes)]
    assert scored["spearman_logFC"].isna().all()
    assert to_arrow(scored, AGREEMENT_CONDITIONS).num_rows == 1


def test_no_match_gives_an_empty_table() -> None:
    left = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)))}
    right = {"A549": make_effects([(2, "A549", 24, 1.0)], np.ones((1, 3)))}
    scored = score_matched(match_strata(left, right, "x", "y"), left, right)
    assert to_arrow(scored, AGREEMENT_CONDITIONS).num_rows == 0


def test_minimum_of_shared_significant_genes() -> None:
    effects = {"A549": make_effects([(1, "A549", 24, 1.0)], np.arange(1, 6.0)[None], adj_p=np.array([[0.01, 0.01, 0.2, 0.2, 0.2]]))}
    matched = match_strata(effects, effects, "x", "y")
    assert score_matched(matched, effects, effects, minimum_shared_significant=2)["direction_agreement"].tolist() == [1.0]
    assert score_matched(matched, effects, effects, minimum_shared_significant=3)["direction_agreement"].isna().all()


def test_missing_stratum_and_contrast_are_named() -> None:
    effects = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)))}
    matched = match_strata(effects, effects, "sciplex", "tahoe")
    with pytest.raises(InputError, match=r"tahoe.*stratum A549"):
        score_matched(matched, effects, {})
    with pytest.raises(InputError, match=r"sciplex.*rows 7.*no such contrasts"):
        score_matched(matched.assign(left_contrast=np.int32(7)), effects, effects)


def test_gene_given_twice_is_refused() -> None:
    effects = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)), genes=[4, 4, 5])}
    with pytest.raises(InputError, match="ENSG00000000004"):
        score_matched(match_strata(effects, effects, "x", "y"), effects, effects)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_shuffled_compounds_agree_by_chance_only(seed: int) -> None:
    """Null calibration: two datasets see one truth, but the compound names of one are dealt anew."""
    generator = np.random.default_rng(seed)
    n_compounds, n_genes = 40, 60
    truth = generator.normal(size=(n_compounds, n_genes))
    left, right = (random_compendium(generator, n_compounds=n_compounds, n_genes=n_genes, doses=(1.0,), truth=truth) for _ in range(2))
    for side in (left, right):
        side.layers["log10_adj_p_within"][:] = -3
    # A shift by at least one: no compound keeps its name.
    right.contrasts["pubchem_cid"] = np.roll(right.contrasts["pubchem_cid"], generator.integers(1, n_compounds))
    scored = score_matched(match_strata({"s": left}, {"s": right}, "x", "y"), {"s": left}, {"s": right})
    # Standard errors of means over 40 independent pairs of 60 genes; six of them.
    assert abs(scored["spearman_logFC"].mean()) < 6 / np.sqrt(n_compounds * (n_genes - 1))
    assert abs(scored["direction_agreement"].mean() - 0.5) < 6 * 0.5 / np.sqrt(n_compounds * n_genes)


def test_matched_compounds_agree_where_shuffled_do_not() -> None:
    generator = np.random.default_rng(5)
    truth = generator.normal(size=(40, 60))
    left, right = ({"s": random_compendium(generator, n_compounds=40, n_genes=60, truth=truth)} for _ in range(2))
    scored = score_matched(match_strata(left, right, "x", "y"), left, right)
    assert scored["spearman_logFC"].mean() > 0.35
    assert abs(scored["spearman_logFC_baseline"].mean()) < 0.1


def test_stored_effects_score_as_those_in_memory(tmp_path: Path) -> None:
    in_memory = random_compendium(np.random.default_rng(0), n_compounds=6, n_genes=700)
    in_memory.layers["logFC"][::5, ::7] = np.nan
    unknown = {field.name: pd.array([pd.NA] * 700, dtype="Float64") for field in GENES if field.name not in in_memory.genes}
    log10_p = dict.fromkeys(("log10_p", "log10_adj_p_within", "log10_adj_p_across"), in_memory.layers["log10_adj_p_within"])
    table = EffectTable.from_layers(in_memory.contrasts, in_memory.genes.assign(**unknown), in_memory.layers, log10_p, {})
    write_effects(table, tmp_path, Stamp("condition_effects", "1", "digest", ("x",), "open"))
    stored = open_effects(tmp_path)
    matched = match_strata({"s": in_memory}, {"s": in_memory}, "x", "y")
    pd.testing.assert_frame_equal(match_strata({"s": stored}, {"s": stored}, "x", "y"), matched)
    scored = score_matched(matched, {"s": in_memory}, {"s": in_memory})
    pd.testing.assert_frame_equal(score_matched(matched, {"s": stored}, {"s": stored}), scored)
