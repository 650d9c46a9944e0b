"""Whether the pipeline arrives at the truth of the sample."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from perturbridge_dagster.effects.storage import open_effects
from perturbridge_dagster.written import read_parquet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def truth(demo_home):
    def read(table: str) -> pd.DataFrame:
        return pd.read_parquet(demo_home.path / "sample" / "truth" / f"{table}.parquet")

    return read


def test_exactly_the_true_conditions_are_matched(demo_home, truth):
    key = ["left_dataset", "right_dataset", "pubchem_cid", "cell_type", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM"]
    expected = truth("matched_conditions").rename(columns={"time_h": "pert_time_h"})
    expected = expected.rename(columns={f"{side}_dose_uM": f"{side}_pert_dose_uM" for side in ("left", "right")})
    found = []
    # pairs without a common cell context have no partition, and must have no true match
    for key_of_pair in demo_home.planner().keys("matched_conditions"):
        [output] = demo_home.planner().outputs("matched_conditions", key_of_pair)
        found.append(read_parquet(output.folder / "matched.parquet", "matched_conditions"))
    matched = pd.concat(found)[key].astype({"pubchem_cid": int})
    # two names of one compound are one condition here, and two rows in the truth
    expected = expected[key].astype({"pubchem_cid": int}).drop_duplicates()
    both = matched.merge(expected, how="outer", indicator=True)
    assert both["_merge"].eq("both").all(), both[both["_merge"] != "both"].to_string()
    assert len(matched) > 100


def test_conditions_and_replicates_are_those_of_the_truth(demo_home, truth):
    expected = truth("conditions")
    expected = expected[expected["pubchem_cid"].notna()]
    by_compound = expected.groupby(["dataset", "cell_type", "pubchem_cid", "dose_uM", "time_h"])["n_samples"].sum()
    strata = [
        open_effects(output.folder).contrasts
        for key in demo_home.planner().keys("condition_effects")
        for output in demo_home.planner().outputs("condition_effects", key)
        if key[0] != "sciplex"  # wells of few cells are left out of its fits
    ]
    contrasts = pd.concat(strata).dropna(subset="pubchem_cid")
    found = contrasts.set_index(["dataset", "cell_type", "pubchem_cid", "pert_dose_uM", "pert_time_h"])["n_treated"]
    expected_counts = by_compound[by_compound.index.get_level_values("dataset") != "sciplex"]
    assert found.index.is_unique
    assert found.sort_index().to_dict() == expected_counts.sort_index().to_dict()


@pytest.mark.parametrize(("dataset", "least"), [("l1000_phase1", 0.6), ("vcpi_0001", 0.5), ("sciplex", 0.4)])
def test_strong_effects_have_the_true_size_and_direction(demo_home, truth, dataset, least):
    latent = truth("log2_fold_changes")
    agents = truth("conditions")[["dataset", "pubchem_cid", "agent"]].dropna().drop_duplicates(["dataset", "pubchem_cid"])
    agent_of = agents[agents["dataset"] == dataset].set_index("pubchem_cid")["agent"]
    correlations, directions = [], []
    for key in demo_home.planner().keys("condition_effects"):
        if key[0] != dataset:
            continue
        [output] = demo_home.planner().outputs("condition_effects", key)
        stored = open_effects(output.folder)
        genes = stored.genes["ensembl_id"]
        strongest = stored.contrasts.nlargest(10, "n_significant").dropna(subset="pubchem_cid")
        dense = stored.dense(["logFC", "log10_adj_p_within"], contrasts=strongest.index.to_numpy())
        for row, (_, contrast) in enumerate(strongest.iterrows()):
            true = latent[
                (latent["agent"] == agent_of[contrast["pubchem_cid"]])
                & (latent["cell_type"] == contrast["cell_type"])
                & np.isclose(latent["dose_uM"], contrast["pert_dose_uM"])
                & (latent["time_h"] == contrast["pert_time_h"])
            ].set_index("gene")["log2_fold_change"]
            true = true.reindex(genes).to_numpy()
            affected = np.abs(true) > 0.5
            assert affected.sum() > 20
            correlations.append(spearmanr(true[affected], dense["logFC"][row][affected], nan_policy="omit").statistic)
            called = affected & (dense["log10_adj_p_within"][row] < np.log10(0.05))
            directions.append(np.mean(np.sign(true[called]) == np.sign(dense["logFC"][row][called])))
    assert np.median(correlations) > least
    assert np.mean(directions) > 0.95


def test_datasets_agree_in_direction_better_than_in_size_and_more_where_the_effect_is_strong(demo_home):
    stage = "cross_dataset_agreement"
    folders = [demo_home.store.current(stage, key).folder for key in demo_home.planner().keys(stage)]
    conditions, scores = (
        pd.concat(read_parquet(folder / f"{name}.parquet", stage) for folder in folders) for name in ("conditions", "scores")
    )
    match = ["left_dataset", "right_dataset", "left_row", "right_row"]
    by_metric = scores.pivot_table(index=match, columns="metric", values="score")
    direction, correlation = by_metric["direction_agreement_p05"], by_metric["spearman_logFC"]
    assert direction.mean() > 0.9
    # correlation 2·share − 1 would be the same statement of signs; sizes agree less than that
    assert (2 * direction - 1).mean() > correlation.mean() + 0.2
    strength = conditions.set_index(match)["mean_abs_t"].reindex(correlation.index)
    assert spearmanr(strength, correlation).statistic > 0.5
    of_all_genes = scores[scores["metric"] == "spearman_logFC"]
    assert of_all_genes["source_centroid_delta"].mean() > 0.1
    assert of_all_genes["target_peers_delta"].mean() > 0.1


def test_inert_compounds_have_hardly_any_significant_genes(demo_home, truth):
    inert = truth("compounds").loc[lambda frame: frame["max_effect"] == 0, "pubchem_cid"].dropna()
    assert len(inert) >= 2
    shares = []
    for key in demo_home.planner().keys("condition_effects"):
        for output in demo_home.planner().outputs("condition_effects", key):
            stored = open_effects(output.folder)
            none = stored.contrasts[stored.contrasts["pubchem_cid"].isin(inert)]
            shares += (none["n_significant"] / len(stored.genes)).tolist()
    assert len(shares) > 20
    assert np.mean(shares) < 0.01


def test_mechanisms_lie_together_in_the_embedding(demo_home, truth):
    folder = demo_home.store.current("compound_embeddings", ("all", "scalar_lpm")).folder
    neighbours = read_parquet(folder / "neighbours.parquet", "compound_embeddings")
    mechanism = truth("compounds").dropna(subset="pubchem_cid").astype({"pubchem_cid": int}).set_index("pubchem_cid")["mechanism"]
    mechanism = mechanism[~mechanism.index.duplicated()]
    shared = ["HDAC inhibitor", "proteasome inhibitor", "BET inhibitor"]
    nearest = neighbours[neighbours["rank"] <= 2].assign(
        own=lambda frame: frame["symbol"].astype(int).map(mechanism), other=lambda frame: frame["neighbour"].astype(int).map(mechanism)
    )
    nearest = nearest[nearest["own"].isin(shared)]
    chance = mechanism.value_counts(normalize=True)[shared].max()
    assert (nearest["own"] == nearest["other"]).mean() > 2 * chance


def test_the_examples_of_the_catalog_answer(demo_home):
    import duckdb

    from resources.catalog import EXAMPLES

    with duckdb.connect(str(demo_home.path / "catalog.duckdb"), read_only=True) as catalog:
        for words, query in EXAMPLES.items():
            assert len(catalog.sql(query).df()) > 0, words
        effects = catalog.sql("SELECT count(*) AS n, count(DISTINCT dataset) AS datasets FROM condition_effects").df()
        tiles = catalog.sql("SELECT count(*) AS n FROM condition_tiles").df()
    assert effects["n"].tolist() == tiles["n"].tolist()
    assert effects["datasets"].tolist() == [3]
