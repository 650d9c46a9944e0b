from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from perturbridge_dagster.agreement import pair_scores
from perturbridge_dagster.agreement.comparing import Scores, Signatures, compare_pairs
from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.pair_scores import ScoreOptions, pair_sides, score_pairs
from perturbridge_dagster.agreement.scoring import Scored, score_matched
from perturbridge_dagster.contract import AGREEMENT_CONDITIONS, AGREEMENT_SCORES, BASELINES, GENES, METRIC_NAMES
from perturbridge_dagster.effects.storage import open_effects, write_effects
from perturbridge_dagster.effects.table import EffectTable
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import Stamp, to_arrow
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium

pytestmark = pytest.mark.slow

SIDES = ("left", "right")


def by_metric(scored: Scored, column: str = "score") -> pd.DataFrame:
    """One column of the long table, a row a match and a column a metric."""
    rows = np.repeat(np.arange(len(scored.conditions)), len(METRIC_NAMES))
    return scored.scores.assign(match=rows).pivot_table(column, "match", "metric", dropna=False, sort=False, aggfunc="first")


class OneSide:
    """What the definitions need of one side of one match, gathered row by row."""

    def __init__(self, effects: EffectsInMemory, contrast: int, genes: list[int], n_peers: int) -> None:
        table = effects.contrasts
        own = table.iloc[contrast]
        same = (table["pert_dose_uM"] == own["pert_dose_uM"]) & (table["pert_time_h"] == own["pert_time_h"]) & table["estimable"]
        others = table[(same & (table["pubchem_cid"] != own["pubchem_cid"])).fillna(False).astype(bool)]
        self.layers = [effects.layers[name][:, genes] for name in ("logFC", "t", "log10_adj_p_within")]
        self.own = self.one(contrast)
        of_compounds = [
            [pd.DataFrame(layer[rows.index].astype(float)).mean().to_numpy() for _, rows in others.groupby("pubchem_cid")]
            for layer in self.layers[:2]
        ]
        means = [pd.DataFrame(rows).mean().to_numpy() if rows else np.full(len(genes), np.nan) for rows in of_compounds]
        self.centroid = Signatures(*(mean.astype(np.float32)[None] for mean in means))
        self.n_compounds = len(of_compounds[0])
        first = others.sort_values(["control", "contrast"]).drop_duplicates("pubchem_cid")
        self.peers = [self.one(row) for row in first.index] if len(first) <= n_peers else None

    def one(self, row: int) -> Signatures:
        return Signatures(*(layer[[row]] for layer in self.layers))


def alone(left: Signatures, right: Signatures) -> Scores:
    return compare_pairs(left, right, np.array([0]), np.array([0]))


def scored_by_loops(matched: pd.DataFrame, left: EffectsInMemory, right: EffectsInMemory, n_peers: int) -> pd.DataFrame:
    """The four baselines by their definitions, one match at a time; metrics are those of ``compare_pairs``, tested elsewhere."""
    shared = sorted(set(left.genes["ensembl_id"]) & set(right.genes["ensembl_id"]))
    columns = [[list(side.genes["ensembl_id"]).index(gene) for gene in shared] for side in (left, right)]
    rows = []
    for match in matched.itertuples():
        sides = dict(
            zip(
                SIDES,
                (
                    OneSide(effects, contrast, genes, n_peers)
                    for effects, contrast, genes in zip((left, right), (match.left_contrast, match.right_contrast), columns, strict=True)
                ),
                strict=True,
            )
        )
        score = alone(sides["left"].own, sides["right"].own).score[:, 0]
        row = {"score": score}
        for name, partner in zip(SIDES, SIDES[::-1], strict=True):
            for which, of in (("source", name), ("target", partner)):
                row[f"{name}_{which}_centroid"] = alone(sides[name].own, sides[of].centroid).score[:, 0]
                peers = np.array([alone(sides[name].own, peer).score[:, 0] for peer in sides[of].peers]).reshape(-1, len(score))
                known = np.isfinite(peers)
                n = known.sum(axis=0)
                judged = (n > 0) & np.isfinite(score)
                row[f"{name}_{which}_peers"] = pd.DataFrame(peers).mean().to_numpy()
                row[f"{name}_{which}_peers_sd"] = pd.DataFrame(peers).std(ddof=1).to_numpy()
                row[f"{name}_{which}_peers_n"] = n
                below, at_or_above = (peers < score).sum(axis=0), (peers >= score).sum(axis=0)
                row[f"{name}_{which}_peers_percentile"] = np.where(judged, (1 + below) / (n + 1), np.nan)
                row[f"{name}_{which}_peers_p"] = np.where(judged, (1 + at_or_above) / (n + 1), np.nan)
        for name in BASELINES:
            row[name] = pd.DataFrame([row[f"{side}_{name}"] for side in SIDES]).mean().to_numpy()
            row[f"{name}_delta"] = score - row[name]
        rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


@pytest.fixture
def two_datasets() -> tuple[EffectsInMemory, EffectsInMemory]:
    generator = np.random.default_rng(3)
    truth = generator.normal(size=(8, 40))
    left = random_compendium(generator, truth=truth, genes=range(40))
    # Contrasts of the left do not lie in the order of the matches, and one compound has two of them.
    left.contrasts["pubchem_cid"] = [107, *left.contrasts["pubchem_cid"].to_numpy()[::-1][1:-2], 107, 100]
    # The right dataset has other genes in another order, other doses, and gaps.
    right = random_compendium(generator, truth=truth, doses=(1.0, 3.0, 20.0), genes=list(range(49, 9, -1)))
    right.layers["logFC"][generator.random(right.layers["logFC"].shape) < 0.1] = np.nan
    right.layers["t"] = right.layers["logFC"] * 3
    for side in (left, right):
        side.layers["log10_adj_p_within"] *= 3
    return left, right


@pytest.mark.parametrize("values_at_once", [1, 600, 2**22])
def test_parity_with_the_definitions(
    two_datasets: tuple[EffectsInMemory, EffectsInMemory], values_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_scores, "VALUES_AT_ONCE", values_at_once)
    left, right = two_datasets
    matched = match_strata({"A549": left}, {"A549": right}, "sciplex", "tahoe")
    scored = score_matched(matched, {"A549": left}, {"A549": right})
    expected = scored_by_loops(matched, left, right, 256)
    assert len(scored.conditions) == len(matched) > 10
    for name in expected:
        assert_allclose(scored.scores[name].astype(float), expected[name], atol=1e-6, err_msg=name)
    for name in BASELINES:
        assert expected[name].notna().mean() > 0.5, name
    pd.testing.assert_frame_equal(scored.conditions[matched.columns], matched)
    assert to_arrow(scored.conditions, AGREEMENT_CONDITIONS).num_rows == len(matched)
    assert to_arrow(scored.scores, AGREEMENT_SCORES).num_rows == len(matched) * len(METRIC_NAMES)
    assert set(scored.scores["gene_universe"]) == {"pairwise"}
    for match, row in enumerate(scored.conditions.itertuples()):
        sides = [
            OneSide(left, row.left_contrast, list(range(10, 40)), 256),
            OneSide(right, row.right_contrast, list(range(39, 9, -1)), 256),
        ]
        assert [row.left_baseline_compounds, row.right_baseline_compounds] == [side.n_compounds for side in sides]
        strength = [np.nanmean(np.abs(side.own.t)) for side in sides]
        assert_allclose([row.left_mean_abs_t, row.right_mean_abs_t, row.mean_abs_t], [*strength, np.mean(strength)], rtol=1e-6)
        cut = np.float32(np.log10(0.05))
        masks = [(side.own.log10_adj_p < cut)[0] & np.isfinite(side.own.log_fc[0]) for side in sides]
        assert [row.left_n_significant_p05, row.right_n_significant_p05] == [mask.sum() for mask in masks]
        assert row.n_shared_significant_p05 == (masks[0] & masks[1]).sum()
        large = [mask & (np.abs(side.own.log_fc[0]) > np.float32(0.2)) for mask, side in zip(masks, sides, strict=True)]
        assert [row.left_n_significant_p05_lfc02, row.right_n_significant_p05_lfc02] == [mask.sum() for mask in large]
        assert row.n_shared_significant_p05_lfc02 == (large[0] & large[1]).sum()
        assert row.n_genes == np.isfinite(sides[1].own.log_fc).sum() == by_metric(scored, "n_genes").loc[match, "spearman_logFC"]


def test_fewer_peers_than_there_are_compounds(two_datasets: tuple[EffectsInMemory, EffectsInMemory]) -> None:
    left, right = two_datasets
    matched = match_strata({"s": left}, {"s": right}, "x", "y")
    few = score_matched(matched, {"s": left}, {"s": right}, options=ScoreOptions(n_peers=3)).scores
    metric = few["metric"] == "spearman_logFC"
    for side in SIDES:
        for which in ("source", "target"):
            assert set(few.loc[metric, f"{side}_{which}_peers_n"]) == {3}
    none = score_matched(matched, {"s": left}, {"s": right}, options=ScoreOptions(n_peers=0)).scores
    assert none["source_peers"].isna().all()
    assert (none["left_target_peers_n"] == 0).all()
    same = [name for name in few if "peers" not in name]
    pd.testing.assert_frame_equal(few[same], none[same])


def test_several_strata_score_as_each_alone(two_datasets: tuple[EffectsInMemory, EffectsInMemory]) -> None:
    left, right = two_datasets
    alone = score_matched(match_strata({"a": left}, {"a": right}, "x", "y"), {"a": left}, {"a": right})
    lefts = {"a": left, "b": left}
    together = score_matched(match_strata(lefts, {"a": right}, "x", "y"), lefts, {"a": right})
    for stratum in ("a", "b"):
        for found, expected in zip(together, alone, strict=True):
            part = found[found["left_stratum"] == stratum].reset_index(drop=True)
            same = [name for name in expected if name not in ("left_row", "left_stratum")]
            pd.testing.assert_frame_equal(part[same], expected[same])


def test_identical_datasets_agree_fully() -> None:
    effects = {"A549": random_compendium(np.random.default_rng(0))}
    scored = score_matched(match_strata(effects, effects, "x", "y"), effects, effects)
    scores = by_metric(scored)
    assert set(scores["spearman_logFC"]) == {1.0}
    assert set(scores["direction_agreement_p05"].dropna()) == {1.0}
    for name in BASELINES:
        assert (by_metric(scored, f"{name}_delta")["spearman_logFC"] > 0.5).all()
    for side in SIDES:
        assert set(by_metric(scored, f"{side}_target_peers_percentile")["spearman_logFC"]) == {1.0}
        assert set(by_metric(scored, f"{side}_target_peers_p")["spearman_logFC"]) == {1 / 8}


def test_one_compound_has_no_baseline() -> None:
    effects = {"A549": make_effects([(1, "A549", 24, 1.0)], np.arange(5.0)[None], adj_p=0.01)}
    scored = score_matched(match_strata(effects, effects, "x", "y"), effects, effects)
    scores = scored.scores.set_index("metric")
    assert scores.loc["direction_agreement_p05", ["score", "n_genes"]].tolist() == [1.0, 5]
    assert scores.loc["de_overlap_reference_n", "score"] == 1.0
    columns = [name for name in scores if "source" in name or "target" in name]
    assert scores[[name for name in columns if name.endswith("_n")]].to_numpy().max() == 0
    assert scores[[name for name in columns if not name.endswith("_n")]].isna().all(axis=None)
    assert scored.conditions["left_baseline_compounds"].tolist() == [0]


def test_one_side_without_others_leaves_the_other() -> None:
    log_fc = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
    left = {"A549": make_effects([(1, "A549", 24, 1.0)], log_fc[:1])}
    right = {"A549": make_effects([(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)], log_fc)}
    scores = score_matched(match_strata(left, right, "x", "y"), left, right).scores.set_index("metric").loc["spearman_logFC"]
    assert np.isnan(scores[["left_source_centroid", "right_target_centroid"]].astype(float)).all()
    assert scores[["right_source_centroid", "left_target_centroid", "source_centroid", "target_centroid"]].tolist() == [1.0] * 4
    assert scores["right_source_peers_sd"] != scores["right_source_peers_sd"], "one peer has no standard deviation"


@pytest.mark.parametrize("genes", [[0], []])
def test_one_shared_gene_or_none(genes: list[int]) -> None:
    left = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)), genes=[0, 1, 2])}
    right = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, len(genes) + 1)), genes=[*genes, 9])}
    scored = score_matched(match_strata(left, right, "x", "y"), left, right)
    assert scored.conditions["n_genes"].tolist() == [len(genes)]
    assert scored.scores["score"].isna().all()
    assert to_arrow(scored.conditions, AGREEMENT_CONDITIONS).num_rows == 1
    assert to_arrow(scored.scores, AGREEMENT_SCORES).num_rows == len(METRIC_NAMES)


def test_no_match_gives_empty_tables() -> None:
    left = {"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 3)))}
    right = {"A549": make_effects([(2, "A549", 24, 1.0)], np.ones((1, 3)))}
    scored = score_matched(match_strata(left, right, "x", "y"), left, right)
    assert to_arrow(scored.conditions, AGREEMENT_CONDITIONS).num_rows == 0
    assert to_arrow(scored.scores, AGREEMENT_SCORES).num_rows == 0


def test_minimum_of_genes_holds_for_scores_and_baselines() -> None:
    adj_p = np.array([[0.01, 0.01, 0.2, 0.2, 0.2], [0.01, 0.01, 0.01, 0.2, 0.2]])
    log_fc = np.arange(1, 11.0).reshape(2, 5)
    effects = {"A549": make_effects([(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)], log_fc, adj_p=adj_p)}
    matched = match_strata(effects, effects, "x", "y")
    for minimum, expected in ((2, [True, True]), (3, [False, True]), (4, [False, False])):
        options = ScoreOptions(minimum_genes={"direction_agreement_p05": minimum})
        scored = score_matched(matched, effects, effects, options=options)
        for column in ("score", "source_centroid", "target_centroid"):
            assert by_metric(scored, column)["direction_agreement_p05"].notna().tolist() == expected
        assert by_metric(scored)["de_overlap_reference_n"].notna().all(), "another metric has its own minimum"
        assert (scored.scores["n_genes"] > 0).any()


def test_chosen_genes_are_those_of_the_cell_context() -> None:
    generator = np.random.default_rng(0)
    left, right = ({"s": random_compendium(generator, n_genes=30)} for _ in range(2))
    matched = match_strata(left, right, "x", "y")
    chosen = [f"ENSG{number:011d}" for number in (*range(5, 25), 77)]
    scored = score_matched(matched, left, right, gene_universe="global", genes={"A549": chosen})
    assert set(scored.conditions["n_genes"]) == {20}
    assert set(scored.scores["gene_universe"]) == {"global"}
    cut = [
        {"s": EffectsInMemory(side["s"].contrasts, side["s"].genes[5:25], {k: v[:, 5:25] for k, v in side["s"].layers.items()})}
        for side in (left, right)
    ]
    pd.testing.assert_frame_equal(score_matched(matched, *cut, gene_universe="global").scores, scored.scores)
    with pytest.raises(InputError, match=r"cell context A549.*given: MCF7"):
        score_matched(matched, left, right, gene_universe="global", genes={"MCF7": chosen})


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


@settings(deadline=None, max_examples=10)
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
    scores = by_metric(scored)
    # Standard errors of means over 40 independent pairs of 60 genes; six of them.
    assert abs(scores["spearman_logFC"].mean()) < 6 / np.sqrt(n_compounds * (n_genes - 1))
    assert abs(scores["direction_agreement_p05"].mean() - 0.5) < 6 * 0.5 / np.sqrt(n_compounds * n_genes)
    # P values against peers are uniform: their mean is ½ within six standard errors of 40 dependent draws.
    for side in SIDES:
        p = by_metric(scored, f"{side}_target_peers_p")["spearman_logFC"]
        assert abs(p.mean() - 0.5) < 6 * np.sqrt(1 / 12 / n_compounds)


def test_matched_compounds_agree_where_shuffled_do_not() -> None:
    generator = np.random.default_rng(5)
    truth = generator.normal(size=(40, 60))
    left, right = ({"s": random_compendium(generator, n_compounds=40, n_genes=60, truth=truth)} for _ in range(2))
    scored = score_matched(match_strata(left, right, "x", "y"), left, right)
    assert by_metric(scored)["spearman_logFC"].mean() > 0.35
    for name in BASELINES:
        assert abs(by_metric(scored, name)["spearman_logFC"].mean()) < 0.1
    for side in SIDES:
        assert by_metric(scored, f"{side}_target_peers_p")["spearman_logFC"].median() < 0.05


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
    for found, expected in zip(
        score_matched(matched, {"s": stored}, {"s": stored}), score_matched(matched, {"s": in_memory}, {"s": in_memory}), strict=True
    ):
        pd.testing.assert_frame_equal(found, expected)


def test_what_is_held_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    left, right = (random_compendium(generator, n_compounds=30, n_genes=50) for _ in range(2))
    matched = match_strata({"s": left}, {"s": right}, "x", "y")
    whole = score_matched(matched, {"s": left}, {"s": right}, options=ScoreOptions(n_peers=4))
    monkeypatch.setattr(pair_scores, "VALUES_AT_ONCE", 30 * 50)
    monkeypatch.setattr("perturbridge_dagster.agreement.signatures.VALUES_PER_BLOCK", 10 * 50)
    left.largest_block = right.largest_block = 0
    parts = score_matched(matched, {"s": left}, {"s": right}, options=ScoreOptions(n_peers=4))
    for found, expected in zip(parts, whole, strict=True):
        pd.testing.assert_frame_equal(found, expected, atol=1e-12)
    assert max(left.largest_block, right.largest_block) <= 30 * 50


def test_pairs_within_one_stratum_share_what_is_read_and_score_the_same() -> None:
    effects = random_compendium(np.random.default_rng(0), n_compounds=9, replicates=2)
    genes, options = np.arange(40), ScoreOptions(n_peers=5)
    rows = [np.arange(0, 36, 2), np.arange(1, 36, 2)]
    together = pair_sides([effects, effects], [genes, genes], rows, options)
    assert together[0].means is together[1].means
    copy = EffectsInMemory(effects.contrasts, effects.genes, effects.layers)
    apart = pair_sides([effects, copy], [genes, genes], rows, options)
    assert apart[0].means is not apart[1].means
    for found, expected in zip(score_pairs(*together, options), score_pairs(*apart, options), strict=True):
        assert list(found) == list(expected)
        for name in found:
            assert_allclose(found[name], expected[name], atol=1e-12, err_msg=name)
