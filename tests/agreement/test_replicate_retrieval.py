from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from perturbridge_dagster.agreement.replicate_retrieval import retrieve_replicates
from perturbridge_dagster.agreement.retrieval_summary import replicate_retrieval_summary
from perturbridge_dagster.contract import (
    POSITIVES,
    REPLICATE_RETRIEVAL_POOLS,
    REPLICATE_RETRIEVAL_QUERIES,
    REPLICATE_RETRIEVAL_SUMMARY,
)
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import to_arrow
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium


@pytest.fixture
def screen() -> EffectsInMemory:
    """Twelve compounds at two doses; three replicates, of some conditions fewer."""
    generator = np.random.default_rng(2)
    effects = random_compendium(generator, n_compounds=12, n_genes=30, replicates=3, truth=0.7 * generator.normal(size=(12, 30)))
    effects.contrasts.loc[[4, 10, 11], "estimable"] = False
    effects.contrasts.loc[20, "pubchem_cid"] = pd.NA
    return effects


def retrieved_by_loops(effects: EffectsInMemory) -> pd.DataFrame:
    """The definitions, one query at a time."""
    table = effects.contrasts
    usable = np.flatnonzero((table["estimable"] & table["pubchem_cid"].notna()).to_numpy(dtype=bool))
    values = effects.layers["logFC"].astype(float)
    rows = []
    for query in usable:
        others = usable[usable != query]
        same = (table["pubchem_cid"].iloc[others] == table["pubchem_cid"].iloc[query]).to_numpy(dtype=bool)
        same_dose = (table["pert_dose_uM"].iloc[others] == table["pert_dose_uM"].iloc[query]).to_numpy(dtype=bool)
        peers = usable[
            ((table["pubchem_cid"] != table["pubchem_cid"].iloc[query]) & (table["pert_dose_uM"] == table["pert_dose_uM"].iloc[query]))
            .iloc[usable]
            .to_numpy(dtype=bool)
        ]
        centroid = pd.DataFrame(values[peers]).groupby(table["pubchem_cid"].iloc[peers].to_numpy()).mean().mean().to_numpy()
        candidates = np.vstack([values[others], centroid])
        for similarity in ("euclidean", "cosine", "spearman"):
            if similarity == "spearman":
                scores = np.corrcoef(rankdata(np.vstack([values[query], candidates]), axis=1))[0, 1:]
            else:
                scores = -cdist(values[[query]], candidates, similarity)[0]
            for name, positive in zip(POSITIVES, (same & same_dose, same, same), strict=True):
                if positive.any():
                    rows.append(
                        {
                            "query_contrast": query,
                            "similarity": similarity,
                            "positives": name,
                            "n_candidates": len(others),
                            "n_positives": positive.sum(),
                            "best_rank": 1 + (scores[:-1] > scores[:-1][positive].max() + 1e-12).sum(),
                            "auroc": roc_auc_score(positive, scores[:-1]),
                            "centroid_rank": 1 + (scores[:-1] > scores[-1]).sum(),
                        }
                    )
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_parity_with_the_definitions(screen: EffectsInMemory) -> None:
    found = retrieve_replicates({"A549": screen}, "sciplex", positives=POSITIVES)
    expected = retrieved_by_loops(screen)
    keys = ["query_contrast", "similarity", "positives"]
    ours, theirs = (table.sort_values(keys, ignore_index=True) for table in (found.queries, expected))
    assert ours[keys].to_numpy().tolist() == theirs[keys].to_numpy().tolist()
    for name in theirs.columns.difference(keys):
        assert_allclose(ours[name].astype(float), theirs[name], atol=1e-9, err_msg=name)
    to_arrow(found.queries, REPLICATE_RETRIEVAL_QUERIES)
    to_arrow(found.pools, REPLICATE_RETRIEVAL_POOLS)


def test_strict_positives_alone_are_the_same(screen: EffectsInMemory) -> None:
    every = retrieve_replicates({"A549": screen}, "sciplex", positives=POSITIVES).queries
    strict = retrieve_replicates({"A549": screen}, "sciplex").queries
    chosen = every[every["positives"] == "matched_condition"].reset_index(drop=True)
    pd.testing.assert_frame_equal(strict, chosen)


def test_a_query_is_no_candidate_of_its_own() -> None:
    """Of two identical replicates each finds the other; there are no others that alike."""
    generator = np.random.default_rng(0)
    log_fc = np.repeat(generator.normal(size=(12, 20)), 2, axis=0)
    conditions = [(c, "A549", 24, 1.0) for c in range(1, 13) for _ in range(2)]
    effects = make_effects(conditions, log_fc, sample_id=[f"s{i:02d}" for i in range(24)])
    queries = retrieve_replicates({"A549": effects}, "sciplex").queries
    assert set(queries["n_candidates"]) == {23}
    assert set(queries["n_positives"]) == set(queries["best_rank"]) == {1}
    assert set(queries["auroc"]) == {1.0}


def test_conditions_in_two_strata_are_one_pool() -> None:
    generator = np.random.default_rng(1)
    condition = [(c, "A549", 24, 1.0) for c in range(1, 13)]
    low = make_effects(condition, generator.normal(size=(12, 10)), stratum="low", genes=range(10), sample_id=[f"a{i}" for i in range(12)])
    high = make_effects(
        condition, generator.normal(size=(12, 9)), stratum="high", genes=range(1, 10), sample_id=[f"b{i}" for i in range(12)]
    )
    found = retrieve_replicates({"low": low, "high": high}, "gdpx2")
    assert found.pools[["n_replicates", "n_conditions", "n_shared_genes", "n_genes"]].to_numpy().tolist() == [[24, 12, 9, 9]]
    assert set(found.queries["query_stratum"]) == {"low", "high"}


def test_too_few_compounds_with_replicates() -> None:
    effects = random_compendium(np.random.default_rng(0), n_compounds=9, replicates=2)
    found = retrieve_replicates({"A549": effects}, "sciplex")
    assert found.queries.empty
    assert found.pools["outcome"].tolist() == ["too_few_compounds"]
    assert not retrieve_replicates({"A549": effects}, "sciplex", minimum_compounds=9).queries.empty
    assert to_arrow(replicate_retrieval_summary(found.queries), REPLICATE_RETRIEVAL_SUMMARY).num_rows == 0


def test_only_supported_replicates_take_part(screen: EffectsInMemory) -> None:
    supported = pd.DataFrame({"cell_type": "A549", "pubchem_cid": range(100, 111)})
    found = retrieve_replicates({"A549": screen}, "sciplex", supported=supported)
    assert found.pools["n_compounds"].tolist() == [11]
    assert set(found.queries["pubchem_cid"]) == set(range(100, 111))


def test_genes_without_values_in_a_replicate_do_not_count(screen: EffectsInMemory) -> None:
    screen.layers["t"][7, 3] = np.nan
    screen.layers["log10_adj_p_within"][8, 4] = np.nan
    screen.layers["logFC"][4, 5] = np.nan  # not estimable
    assert retrieve_replicates({"A549": screen}, "sciplex").pools["n_genes"].tolist() == [28]


def test_grouped_effects_are_refused() -> None:
    with pytest.raises(InputError, match=r"sciplex.*sample_id.*replicate_effects"):
        retrieve_replicates({"A549": make_effects([(1, "A549", 24, 1.0)], np.ones((1, 4)))}, "sciplex")


def test_no_strata_give_empty_tables() -> None:
    found = retrieve_replicates({}, "sciplex")
    assert to_arrow(found.queries, REPLICATE_RETRIEVAL_QUERIES).num_rows == 0
    assert to_arrow(found.pools, REPLICATE_RETRIEVAL_POOLS).num_rows == 0


def test_summary_averages_queries_then_strata(screen: EffectsInMemory) -> None:
    later = EffectsInMemory(screen.contrasts[:30].assign(pert_time_h=72.0), screen.genes, {n: v[:30] for n, v in screen.layers.items()})
    queries = retrieve_replicates({"A549": screen, "A549 later": later}, "sciplex", minimum_compounds=3).queries
    summary = replicate_retrieval_summary(queries, n_resamples=50)
    to_arrow(summary, REPLICATE_RETRIEVAL_SUMMARY)
    assert summary["n_strata"].tolist() == [2, 2, 2]
    means = queries.groupby(["similarity", "pert_time_h"])["auroc"].mean().groupby("similarity").mean()
    assert_allclose(summary.set_index("similarity")["auroc"], means)
    assert (summary["above_expected"] > 0.1).all()
    by_context = replicate_retrieval_summary(queries, by_cell_context=True, n_resamples=50)
    assert_allclose(by_context["auroc"], summary["auroc"])


def test_replicates_of_nothing_are_found_by_chance() -> None:
    """Null calibration: the conditions of replicates are dealt at random."""
    generator = np.random.default_rng(3)
    effects = random_compendium(generator, n_compounds=60, replicates=3, doses=(1.0,))
    queries = retrieve_replicates({"A549": effects}, "sciplex").queries
    for _, here in queries.groupby("similarity"):
        assert abs(here["above_expected"].mean()) < 6 * here["above_expected"].std() / np.sqrt(len(here))
        assert abs((here["p"] <= 0.1).mean() - 0.1) < 6 * np.sqrt(0.09 / len(here))
