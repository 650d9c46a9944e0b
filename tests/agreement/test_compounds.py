"""One id for what counts as one compound, and that the whole stage goes by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.agreement import summary
from perturbridge_dagster.agreement.compounds import one_compound_each, parent_ids, with_ids
from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.replicate_retrieval import retrieve_replicates
from perturbridge_dagster.agreement.replicates import score_replicates
from perturbridge_dagster.agreement.retrieval import retrieve
from perturbridge_dagster.agreement.scoring import score_matched
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects, random_compendium

KEYS = ["PARENTA", "PARENTB", "PARENTC", None, "nan"]


def contrasts(*rows: tuple[int | None, str | None]) -> pd.DataFrame:
    cid, parent = zip(*rows, strict=True) if rows else ((), ())
    return pd.DataFrame({"pubchem_cid": pd.array(cid, dtype="Int64"), "parent_key": pd.Series(parent, dtype=object)})


def brute_force(rows: list[tuple[int | None, str | None]]) -> dict[int, int]:
    """Groups of ids joined step by step until nothing changes."""
    known = [(cid, parent) for cid, parent in rows if cid is not None and parent in KEYS[:3]]
    stands_for = {cid: cid for cid, _ in known}
    for _ in known:
        for cid, parent in known:
            stands_for[cid] = min(stands_for[other] for other, of in known if of == parent or other == cid)
    return stands_for


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(1, 6), st.sampled_from(KEYS)), max_size=12), st.integers(0, 12))
def test_the_smallest_id_stands_for_all_that_share_a_structure(rows: list[tuple[int | None, str | None]], cut: int) -> None:
    found = parent_ids([contrasts(*rows[:cut]), contrasts(*rows[cut:])])
    assert found.to_dict() == brute_force(rows)
    assert found.map(found).tolist() == found.tolist(), "what stands for others stands for itself"


def test_an_id_without_a_known_structure_stays_and_none_is_made_up() -> None:
    ids = parent_ids([contrasts((7, "SALTS"), (3, "SALTS"), (None, "SALTS"), (9, None))])
    table = contrasts((7, None), (9, "OTHER"), (None, "SALTS")).assign(more=[1, 2, 3])
    found = with_ids(table, ids)
    assert found["pubchem_cid"].astype(object).where(found["pubchem_cid"].notna(), None).tolist() == [3, 9, None]
    assert found["more"].tolist() == [1, 2, 3]
    assert table["pubchem_cid"].iloc[0] == 7, "the table that was given is as it was"
    whole = pd.DataFrame({"pubchem_cid": np.array([7, 9])})
    assert with_ids(whole, ids)["pubchem_cid"].to_numpy().tolist() == [3, 9]
    assert with_ids(whole, ids)["pubchem_cid"].dtype == np.int64


def test_where_ids_decide_effects_are_as_they_are() -> None:
    effects = make_effects([(1, "A549", 24, 1.0)], np.zeros((1, 3)))
    effects.contrasts["parent_key"] = "SALTS"
    datasets, ids = one_compound_each({"sciplex": {"A549": effects}}, "pubchem_cid")
    assert datasets["sciplex"]["A549"] is effects
    assert ids.empty


def salts(seed: int, **options: int) -> EffectsInMemory:
    """Twelve ids, of which two and two are salts of one parent."""
    effects = random_compendium(np.random.default_rng(seed), n_compounds=12, **options)
    parent = (effects.contrasts["pubchem_cid"] - 100) // 2
    return replace(effects, contrasts=effects.contrasts.assign(parent_key=parent.map(lambda number: f"PARENT{'ABCDEF'[number]}")))


def by_hand(effects: EffectsInMemory) -> EffectsInMemory:
    """The same with one id a parent in the native table."""
    cid = effects.contrasts["pubchem_cid"]
    return replace(effects, contrasts=effects.contrasts.assign(pubchem_cid=cid - (cid - 100) % 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_stage_goes_by_parents_as_it_would_by_one_id_each(seed: int) -> None:
    """Matches, scores, retrieval and intervals of two datasets: salts are matched, are no others of each other, and count once."""
    stored = {"left": {"A549": salts(seed)}, "right": {"A549": salts(seed + 10)}}
    datasets, _ = one_compound_each(stored, "parent_key")
    found, expected, apart = (
        (left, right, match_strata(left, right, "left", "right"))
        for left, right in (
            datasets.values(),
            ({"A549": by_hand(strata["A549"])} for strata in stored.values()),
            stored.values(),
        )
    )
    pd.testing.assert_frame_equal(found[2], expected[2])
    assert len(found[2]) > len(apart[2]), "a salt matches another"
    assert found[2]["pubchem_cid"].nunique() == 6

    scored, by_one_id = (score_matched(matched, left, right) for left, right, matched in (found, expected))
    for kind in ("conditions", "scores"):
        pd.testing.assert_frame_equal(getattr(scored, kind), getattr(by_one_id, kind))
    assert set(scored.conditions["left_baseline_compounds"]) == {5}
    pd.testing.assert_frame_equal(
        summary.agreement_summary(summary.agreement_units(scored.scores), n_resamples=100),
        summary.agreement_summary(summary.agreement_units(by_one_id.scores), n_resamples=100),
    )
    assert set(summary.agreement_summary(summary.agreement_units(scored.scores), n_resamples=10)["n_compounds"]) == {6}

    queries, of_one_id, of_salts = (retrieve(matched, left, right).queries for left, right, matched in (found, expected, apart))
    pd.testing.assert_frame_equal(queries, of_one_id)
    alike = queries[queries["positives"] == "same_compound"]
    assert (alike["n_positives"].min(), of_salts.loc[of_salts["positives"] == "same_compound", "n_positives"].max()) == (4, 2)


def test_replicates_go_by_parents_as_they_would_by_one_id_each() -> None:
    stored = {"left": {"A549": salts(3, replicates=2)}}
    datasets, _ = one_compound_each(stored, "parent_key")
    strata = (datasets["left"], {"A549": by_hand(stored["left"]["A549"])}, stored["left"])
    found, expected, apart = (score_replicates(of, "left") for of in strata)
    for kind in ("pairs", "scores"):
        pd.testing.assert_frame_equal(getattr(found, kind), getattr(expected, kind))
    assert (len(found.pairs), len(apart.pairs)) == (48, 24), "four wells of a parent and dose in a circle; two and two by their ids"
    options = {"positives": ("matched_condition", "same_compound"), "minimum_compounds": 2}
    queries, of_one_id, _ = (retrieve_replicates(of, "left", **options).queries for of in strata)
    pd.testing.assert_frame_equal(queries, of_one_id)
