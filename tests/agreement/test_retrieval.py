from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.stats import kstest, rankdata
from sklearn.metrics import roc_auc_score

from perturbridge_dagster.agreement import signatures
from perturbridge_dagster.agreement.bootstrap import clustered_bca
from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.pools import compound_pairs
from perturbridge_dagster.agreement.retrieval import Eligibility, Retrieval, matched_conditions_of, retrieve
from perturbridge_dagster.agreement.retrieval_summary import retrieval_pair, retrieval_strata
from perturbridge_dagster.contract import RETRIEVAL_PAIR, RETRIEVAL_POOLS, RETRIEVAL_QUERIES, RETRIEVAL_STRATA
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import to_arrow
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium

pytestmark = pytest.mark.slow

STRICT = {"representation": "logFC", "similarity": "euclidean", "positives": "matched_condition"}


def chosen(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Rows in which columns have these values."""
    return table[np.all([table[name] == value for name, value in values.items()], axis=0)].reset_index(drop=True)


def found_of(left: EffectsInMemory, right: EffectsInMemory, **options: object) -> Retrieval:
    strata = {"A549": left}, {"A549": right}
    return retrieve(match_strata(*strata, "sciplex", "tahoe"), *strata, **options)


@pytest.fixture(scope="module")
def two_datasets() -> tuple[EffectsInMemory, EffectsInMemory]:
    generator = np.random.default_rng(3)
    truth = generator.normal(size=(8, 40))
    left = random_compendium(generator, truth=truth, genes=range(40))
    left.contrasts["pubchem_cid"] = left.contrasts["pubchem_cid"].to_numpy()[::-1]
    # Other genes in another order, other doses, compounds that are not matched, genes without values in one condition.
    right = random_compendium(generator, truth=truth, doses=(1.0, 3.0, 20.0), genes=list(range(49, 9, -1)))
    right.contrasts.loc[:2, "pubchem_cid"] = 999
    right.layers["logFC"][5, [12, 17]] = np.nan
    right.layers["t"][3, 11] = np.inf
    right.layers["log10_adj_p_within"][2, 30] = np.nan  # of a condition that is not matched
    return left, right


def retrieved_by_loops(matched: pd.DataFrame, left: EffectsInMemory, right: EffectsInMemory) -> pd.DataFrame:
    """The definitions, one query at a time, by scipy and scikit-learn."""
    ids = [list(side.genes["ensembl_id"]) for side in (left, right)]
    genes = sorted(set(ids[0]) & set(ids[1]))
    contrasts = [sorted(set(matched[f"{side}_contrast"])) for side in ("left", "right")]
    layers = []
    for effects, own, pool in zip((left, right), ids, contrasts, strict=True):
        columns = [own.index(gene) for gene in genes]
        layers.append({name: values[:, columns].astype(float) for name, values in effects.layers.items()} | {"pool": pool})
    finite = np.all([np.isfinite(side[name][side["pool"]]).all(axis=0) for side in layers for name in side if name != "pool"], axis=0)
    values = []
    for side in layers:
        log_fc, t, p = (side[name][:, finite] for name in ("logFC", "t", "log10_adj_p_within"))
        values.append({"logFC": log_fc, "t": t, "signed_significance": -np.maximum(p, -300) * np.sign(log_fc)})
    rows = []
    pairs = set(zip(matched["left_contrast"], matched["right_contrast"], strict=True))
    for side, direction in enumerate(("left_to_right", "right_to_left")):
        query_table, target_table = ((left, right)[s].contrasts for s in (side, 1 - side))
        targets = contrasts[1 - side]
        for query in contrasts[side]:
            own = query_table.iloc[query]
            same = np.array([target_table["pubchem_cid"].iloc[t] == own["pubchem_cid"] for t in targets])
            gap = np.abs(np.log10([target_table["pert_dose_uM"].iloc[t] for t in targets]) - np.log10(own["pert_dose_uM"]))
            near = same & (gap <= 1 + 1e-12)
            positives = {
                "matched_condition": np.array([((query, t) if side == 0 else (t, query)) in pairs for t in targets]),
                "dose_aware": near if near.any() else same & (gap <= gap[same].min() + 1e-12),
                "same_compound": same,
            }
            peers = (
                (query_table["pubchem_cid"] != own["pubchem_cid"])
                & (query_table["pert_dose_uM"] == own["pert_dose_uM"])
                & query_table["estimable"]
            )
            for representation in ("logFC", "t", "signed_significance"):
                q = values[side][representation][query]
                candidates = values[1 - side][representation][targets]
                centroid = pd.DataFrame(values[side][representation][peers.to_numpy(dtype=bool)]).mean().to_numpy()
                for similarity in ("euclidean", "cosine", "spearman"):
                    everything = np.vstack([candidates, centroid])
                    if similarity == "spearman":
                        scores = np.corrcoef(rankdata(np.vstack([q, everything]), axis=1))[0, 1:]
                    else:
                        scores = -cdist(q[None], everything, similarity)[0]
                    for name, positive in positives.items():
                        if not positive.any() or positive.all():
                            continue
                        n, k = len(targets), int(positive.sum())
                        best = 1 + (scores[:-1] > scores[:-1][positive].max() + 1e-12).sum()
                        centroid_rank = 1 + (scores[:-1] > scores[-1]).sum()
                        observed, expected = 1 - (best - 1) / (n - 1), 1 - ((n + 1) / (k + 1) - 1) / (n - 1)
                        rows.append(
                            {
                                "direction": direction,
                                "query_contrast": query,
                                "representation": representation,
                                "similarity": similarity,
                                "positives": name,
                                "n_candidates": n,
                                "n_positives": k,
                                "best_rank": best,
                                "normalised_rank": observed,
                                "expected_normalised_rank": expected,
                                "above_expected": observed - expected,
                                "auroc": roc_auc_score(positive, scores[:-1]),
                                "recall_at_1": float(best == 1),
                                "recall_at_5": float(best <= 5),
                                "centroid_rank": centroid_rank,
                                "centroid_normalised_rank": 1 - (centroid_rank - 1) / n,
                                "centroid_delta": observed - (1 - (centroid_rank - 1) / n),
                            }
                        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def expected(two_datasets: tuple[EffectsInMemory, EffectsInMemory]) -> pd.DataFrame:
    left, right = two_datasets
    return retrieved_by_loops(match_strata({"A549": left}, {"A549": right}, "sciplex", "tahoe"), left, right)


@pytest.mark.parametrize("values_per_block", [1, 200, 2**23])
def test_parity_with_the_definitions(
    two_datasets: tuple[EffectsInMemory, EffectsInMemory], expected: pd.DataFrame, values_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "VALUES_PER_BLOCK", values_per_block)
    found = found_of(*two_datasets)
    keys = ["direction", "query_contrast", "representation", "similarity", "positives"]
    ours, theirs = (table.sort_values(keys, ignore_index=True) for table in (found.queries, expected))
    assert len(ours) == len(theirs) > 27 * 20
    assert set(theirs["positives"]) == {"matched_condition", "dose_aware", "same_compound"}
    for name in expected:
        if name in keys:
            assert ours[name].tolist() == theirs[name].tolist()
        else:
            assert_allclose(ours[name].astype(float), theirs[name], atol=1e-9, err_msg=name)
    assert set(found.pools["n_shared_genes"]) == {30}
    assert set(found.pools["n_genes"]) == {27}
    to_arrow(found.queries, RETRIEVAL_QUERIES)
    to_arrow(found.pools, RETRIEVAL_POOLS)


def test_a_dataset_finds_itself() -> None:
    effects = random_compendium(np.random.default_rng(0))
    queries = found_of(effects, effects).queries
    own = queries[queries["positives"] == "matched_condition"]
    assert set(own["best_rank"]) == set(own["n_positives"]) == {1}
    assert set(own["normalised_rank"]) == set(own["auroc"]) == set(own["recall_at_1"]) == {1.0}
    assert_allclose(own["p"], 1 / own["n_candidates"])
    assert (own["centroid_rank"] >= 2).all()


def test_last_rank_is_zero() -> None:
    """The positive lies opposite to the query, everything else nearer."""
    left = make_effects([(c, "A549", 24, 1.0) for c in range(1, 6)], np.eye(5), t=np.eye(5))
    right = make_effects([(c, "A549", 24, 1.0) for c in range(1, 6)], -np.eye(5), t=-np.eye(5))
    queries = chosen(found_of(left, right).queries, **STRICT)
    assert queries["best_rank"].tolist() == [5] * 10
    assert set(queries["normalised_rank"]) == set(queries["auroc"]) == {0.0}
    assert set(queries["p"]) == {1.0}


def test_every_condition_is_a_query_once_and_a_candidate_once() -> None:
    """A dose midway between two of the other side has two matches."""
    generator = np.random.default_rng(5)
    left = make_effects([(c, "A549", 24, 10.0) for c in range(1, 7)], generator.normal(size=(6, 12)))
    right = make_effects([(c, "A549", 24, dose) for c in range(1, 7) for dose in (1.0, 100.0)], generator.normal(size=(12, 12)))
    found = found_of(left, right)
    assert found.pools[["n_query_conditions", "n_target_conditions"]].to_numpy().tolist() == [[6, 12], [12, 6]]
    strict = chosen(found.queries, **STRICT)
    assert strict.groupby("direction").size().to_dict() == {"left_to_right": 6, "right_to_left": 12}
    assert strict.groupby("direction")["n_positives"].unique().map(list).to_dict() == {"left_to_right": [2], "right_to_left": [1]}
    assert not strict.duplicated(["direction", "query_stratum", "query_contrast"]).any()


def test_dose_aware_positives_are_within_the_gap_or_the_nearest() -> None:
    doses = [1.0, 10.0, 11.0, 1000.0]
    target = pd.DataFrame({"pubchem_cid": [1] * 4, "pert_dose_uM": doses})
    for dose, expected in ((1.0, [0, 1]), (0.001, [0]), (10_000.0, [3]), (100.0, [1, 2, 3])):
        pairs = compound_pairs(pd.DataFrame({"pubchem_cid": [1], "pert_dose_uM": [dose]}), target, 1.0)
        assert pairs.loc[pairs["dose_aware"], "target"].tolist() == expected
        assert pairs["same_compound"].all()


def test_pools_may_hold_more_than_what_is_matched() -> None:
    generator = np.random.default_rng(6)
    left = random_compendium(generator, n_compounds=6, doses=(1.0,))
    right = random_compendium(generator, n_compounds=9, doses=(1.0,))
    matched = match_strata({"A549": left}, {"A549": right}, "sciplex", "tahoe")
    others = match_strata({"A549": right}, {"A549": right}, "tahoe", "l1000")
    retained = matched_conditions_of(matched, "sciplex"), matched_conditions_of(pd.concat([matched, others]), "tahoe")
    found = retrieve(matched, {"A549": left}, {"A549": right}, retained=retained)
    assert found.pools[["n_query_conditions", "n_target_conditions"]].to_numpy().tolist() == [[6, 9], [9, 6]]
    strict = chosen(found.queries, **STRICT)
    # What has no match among the six is a candidate, but no query.
    assert strict.groupby("direction")["n_candidates"].agg(["size", "max"]).to_numpy().tolist() == [[6, 9], [6, 6]]


@pytest.mark.parametrize(
    ("n_left", "n_right", "eligibility", "outcomes"),
    [
        (5, 5, Eligibility(), ["scored", "scored"]),
        (4, 9, Eligibility(), ["too_few_conditions", "too_few_conditions"]),
        (4, 9, Eligibility(sides="target"), ["scored", "too_few_conditions"]),
        (5, 5, Eligibility(minimum_compounds=6), ["too_few_compounds", "too_few_compounds"]),
    ],
)
def test_eligibility(n_left: int, n_right: int, eligibility: Eligibility, outcomes: list[str]) -> None:
    """All left conditions are matched with several right ones; only the sizes of the pools differ."""
    generator = np.random.default_rng(7)
    left = make_effects([(c, "A549", 24, 1.0) for c in range(n_left)], generator.normal(size=(n_left, 9)))
    conditions = [(c % n_left, "A549", 24, 1.0) for c in range(n_right)]
    left.contrasts["pubchem_cid"] += 1
    right = make_effects([(c + 1, *rest) for c, *rest in conditions], generator.normal(size=(n_right, 9)))
    found = found_of(left, right, eligibility=eligibility)
    assert found.pools["outcome"].tolist() == outcomes
    searched = {row.direction for row in found.queries.itertuples()}
    assert searched == {d for d, o in zip(("left_to_right", "right_to_left"), outcomes, strict=True) if o == "scored"}
    to_arrow(found.pools, RETRIEVAL_POOLS)


def test_gene_universe_of_a_cell_context() -> None:
    effects = random_compendium(np.random.default_rng(0))
    wanted = [f"ENSG{number:011d}" for number in (3, 5, 8, 999)]
    assert set(found_of(effects, effects, genes={"A549": wanted}).pools["n_genes"]) == {3}
    found = found_of(effects, effects, genes={"A549": wanted[:1]})
    assert set(found.pools["outcome"]) == {"too_few_genes"}
    assert found.queries.empty
    assert set(found_of(effects, effects, genes={"K562": wanted}).pools["n_genes"]) == {0}


def test_no_match_gives_empty_tables() -> None:
    left = random_compendium(np.random.default_rng(0))
    right = random_compendium(np.random.default_rng(1))
    right.contrasts["pubchem_cid"] += 1000
    found = found_of(left, right)
    assert to_arrow(found.queries, RETRIEVAL_QUERIES).num_rows == to_arrow(found.pools, RETRIEVAL_POOLS).num_rows == 0
    assert to_arrow(retrieval_strata(found.queries), RETRIEVAL_STRATA).num_rows == 0
    assert to_arrow(retrieval_pair(found.queries), RETRIEVAL_PAIR).num_rows == 0


def test_missing_stratum_is_named() -> None:
    effects = random_compendium(np.random.default_rng(0))
    matched = match_strata({"A549": effects}, {"A549": effects}, "sciplex", "tahoe")
    with pytest.raises(InputError, match=r"tahoe.*stratum A549"):
        retrieve(matched, {"A549": effects}, {})


def test_a_signature_without_direction_is_neither_query_nor_candidate() -> None:
    left, right = (random_compendium(np.random.default_rng(n), doses=(1.0,)) for n in (0, 1))
    left.layers["logFC"][2] = 0
    queries = found_of(left, right).queries
    searched = chosen(queries, representation="logFC", direction="right_to_left")
    assert searched.groupby("similarity")["n_candidates"].max().to_dict() == {"cosine": 7, "euclidean": 8, "spearman": 7}
    asked = chosen(queries, representation="logFC", direction="left_to_right")
    assert {name: 2 in set(rows["query_contrast"]) for name, rows in asked.groupby("similarity")} == {
        "cosine": False,
        "euclidean": True,
        "spearman": False,
    }


def two_contexts(generator: np.random.Generator, signal: float) -> tuple[dict[str, EffectsInMemory], dict[str, EffectsInMemory]]:
    """Two datasets in two cell contexts of different size; effects have a common truth of this strength."""
    sides: tuple[dict[str, EffectsInMemory], dict[str, EffectsInMemory]] = ({}, {})
    for stratum, n_compounds in (("A549", 30), ("K562", 12)):
        truth = signal * generator.normal(size=(n_compounds, 50))
        for side in sides:
            side[stratum] = random_compendium(generator, n_compounds=n_compounds, n_genes=50, truth=truth)
            side[stratum].contrasts["cell_type"] = stratum
    return sides


def test_summaries_average_queries_then_strata_then_directions() -> None:
    sides = two_contexts(np.random.default_rng(8), 0.5)
    queries = retrieve(match_strata(*sides, "sciplex", "tahoe"), *sides, representations=["logFC"]).queries
    strata = retrieval_strata(queries)
    to_arrow(strata, RETRIEVAL_STRATA)
    assert len(strata) == 9 * 4
    here = chosen(queries, **STRICT)
    by_hand = here.groupby(["direction", "cell_type"])["normalised_rank"].mean()
    assert_allclose(chosen(strata, **STRICT)["normalised_rank"], by_hand)

    pair = retrieval_pair(queries, n_resamples=100)
    to_arrow(pair, RETRIEVAL_PAIR)
    assert len(pair) == 9
    (row,) = chosen(pair, **STRICT).to_dict("records")
    assert (row["n_strata"], row["n_queries"], row["n_compounds"]) == (4, len(here), 30)
    assert pd.isna(row["direction"])
    assert pd.isna(row["cell_type"])
    assert_allclose(row["normalised_rank"], by_hand.groupby("direction").mean().mean())
    interval = clustered_bca(
        here["normalised_rank"],
        here["pubchem_cid"],
        strata=here["cell_type"],
        outer=here["direction"],
        seed_key=("retrieval_pair", "sciplex", "tahoe", *STRICT.values()),
        n_resamples=100,
    )
    found = row["normalised_rank"], row["normalised_rank_low"], row["normalised_rank_high"], row["normalised_rank_interval"]
    assert found == pytest.approx((interval.mean, interval.low, interval.high, interval.method))

    by_context = retrieval_pair(queries, by_cell_context=True, n_resamples=50)
    by_direction = retrieval_pair(queries, by_direction=True, n_resamples=50)
    assert_allclose(chosen(by_context, **STRICT)["normalised_rank"], by_hand.groupby("cell_type").mean())
    assert_allclose(chosen(by_direction, **STRICT)["normalised_rank"], by_hand.groupby("direction").mean())
    for table in (by_context, by_direction):
        to_arrow(table, RETRIEVAL_PAIR)
    shuffled = retrieval_pair(queries.sample(frac=1, random_state=1), n_resamples=100)
    pd.testing.assert_frame_equal(shuffled, pair, rtol=1e-12)


def test_no_signal_is_at_chance_and_a_signal_above() -> None:
    """Without signal p is uniform as far as ranks allow, and scores are as expected; with it, both are better."""
    generator = np.random.default_rng(9)
    queries = pd.concat(
        [
            found_of(
                *(random_compendium(generator, n_compounds=60, n_genes=40, doses=(1.0,)) for _ in range(2)), representations=["logFC"]
            ).queries
            for _ in range(6)
        ]
    )
    for similarity in ("euclidean", "cosine", "spearman"):
        here = chosen(queries, **STRICT | {"similarity": similarity})
        # A rank in the middle of its step: P values have steps of 1/60.
        middle = here["p"] - generator.random(len(here)) / here["n_candidates"]
        assert kstest(middle, "uniform").pvalue > 0.001
        standard_error = np.sqrt(1 / 12 / len(here))
        # Queries share candidates, so that they are not independent: twice the usual three.
        assert abs(here["above_expected"].mean()) < 6 * standard_error
        assert abs(here["auroc"].mean() - 0.5) < 6 * standard_error

    truth = generator.normal(size=(60, 40))
    signal = found_of(*(random_compendium(generator, n_compounds=60, doses=(1.0,), truth=truth) for _ in range(2))).queries
    here = chosen(signal, **STRICT | {"similarity": "cosine"})
    assert here["above_expected"].mean() > 0.4
    assert (here["p"] < 0.05).mean() > 0.8
