from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.agreement.matching import match_conditions, match_strata
from perturbridge_dagster.agreement.selection import (
    DOSE_FOLDS,
    PUBLISHED_BRIDGES,
    Bridge,
    force_bridges,
    matched_condition_texts,
    require_compounds_per_stratum,
    sample_weights,
    suppress_l1000_only,
    within_dose_fold,
)
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry import datasets
from tests.agreement.effects_in_memory import make_effects

pytestmark = pytest.mark.slow

COLUMNS = ["left_dataset", "right_dataset", "pubchem_cid", "cell_type"]
PHASES = ("l1000_phase1", "l1000_phase2")


def matches(rows: list[tuple[str, str, int, str]]) -> pd.DataFrame:
    """Matches of any pairs of datasets, each a row and all at one dose and time."""
    n = len(rows)
    return pd.DataFrame(rows, columns=COLUMNS).assign(
        pert_time_h=24.0,
        left_pert_dose_uM=1.0,
        right_pert_dose_uM=1.0,
        left_row=np.arange(n),
        right_row=np.arange(n),
        log10_dose_gap=0.0,
    )


_pairs = st.sampled_from([PHASES, ("l1000_phase1", "sciplex"), ("sciplex", "tahoe"), ("l1000_phase2", "tahoe")])
_matches = st.lists(st.tuples(_pairs, st.integers(1, 6), st.sampled_from(["A549", "MCF7", "K562"])), max_size=30).map(
    lambda rows: matches([(*pair, cid, cell) for pair, cid, cell in rows])
)


def assert_reported(matched: pd.DataFrame, kept: pd.DataFrame, report: pd.DataFrame) -> None:
    """The report counts what went in and what came out, stratum by stratum."""
    key = ["left_dataset", "right_dataset", "cell_type", "pert_time_h"]
    assert report[key].to_numpy().tolist() == matched[key].drop_duplicates().sort_values(key).to_numpy().tolist()
    for row in report.to_dict("records"):
        for suffix, table in (("", matched), ("_kept", kept)):
            here = table[(table[key] == pd.Series({name: row[name] for name in key})).all(axis=1)]
            assert row[f"n_matches{suffix}"] == len(here)
            assert row[f"n_compounds{suffix}"] == here["pubchem_cid"].nunique()
        assert row["kept"] == (row["n_matches_kept"] > 0)


@settings(deadline=None, max_examples=20)
@given(_matches, st.integers(0, 4))
def test_required_compounds_by_stratum_of_each_pair(matched: pd.DataFrame, minimum: int) -> None:
    kept, report = require_compounds_per_stratum(matched, minimum)
    expected = [
        row.left_row
        for row in matched.itertuples()
        if len({r.pubchem_cid for r in matched.itertuples() if r[1:3] == row[1:3] and r.cell_type == row.cell_type}) >= minimum
    ]
    assert kept["left_row"].tolist() == expected
    assert_reported(matched, kept, report)


def test_required_compounds_need_no_datasets() -> None:
    conditions = pd.DataFrame({"pubchem_cid": [1, 2, 2], "cell_type": "A549", "pert_time_h": [24.0, 24.0, 6.0], "pert_dose_uM": 1.0})
    kept, report = require_compounds_per_stratum(match_conditions(conditions, conditions), 2)
    assert set(kept["pert_time_h"]) == {24.0}
    assert report["kept"].tolist() == [False, True]
    empty, nothing = require_compounds_per_stratum(kept[:0])
    assert empty.empty
    assert nothing.empty


@settings(deadline=None, max_examples=30)
@given(_matches)
def test_what_only_l1000_shares_is_suppressed(matched: pd.DataFrame) -> None:
    kept, report = suppress_l1000_only(matched)
    others = [row for row in matched.itertuples() if (row.left_dataset, row.right_dataset) != PHASES]
    expected = [
        row.left_row
        for row in matched.itertuples()
        if (row.left_dataset, row.right_dataset) != PHASES
        or row.cell_type in {other.cell_type for other in others}
        or row.pubchem_cid in {other.pubchem_cid for other in others}
    ]
    assert kept["left_row"].tolist() == expected
    assert_reported(matched, kept, report)
    turned = matched.rename(columns={"left_dataset": "right_dataset", "right_dataset": "left_dataset"})
    assert suppress_l1000_only(turned)[0]["left_row"].tolist() == expected


def best_context(rows: pd.DataFrame, without: set[str]) -> str | None:
    """Most compounds, then most conditions, then most matches, then the first by name, in loops."""
    ranked = []
    for cell in sorted(set(rows["cell_type"]) - without):
        here = rows[rows["cell_type"] == cell]
        n_conditions = len({(r.pubchem_cid, r.left_pert_dose_uM, r.right_pert_dose_uM) for r in here.itertuples()})
        ranked.append((-here["pubchem_cid"].nunique(), -n_conditions, -len(here), cell))
    return min(ranked)[-1] if ranked else None


@settings(deadline=None, max_examples=30)
@given(_matches, st.integers(0, 10))
def test_bridges_take_in_their_best_context(matched: pd.DataFrame, seed: int) -> None:
    generator = np.random.default_rng(seed)
    matched["left_pert_dose_uM"] = generator.choice([1.0, 10.0], len(matched))
    kept = matched[generator.random(len(matched)) < 0.3]
    again, report = force_bridges(matched, kept)
    expected = set(kept["left_row"])
    for bridge in PUBLISHED_BRIDGES:
        between = [
            {left, right} & {*bridge.one} and {left, right} & {*bridge.other}
            for left, right in zip(matched["left_dataset"], matched["right_dataset"], strict=True)
        ]
        rows = matched[np.array(between, dtype=bool)]
        cell = best_context(rows, set(rows.loc[rows["left_row"].isin(kept["left_row"]), "cell_type"]))
        expected |= set(rows.loc[rows["cell_type"] == cell, "left_row"])
    assert again["left_row"].tolist() == sorted(expected)
    assert_reported(matched, again, report)


def test_a_bridge_that_has_every_context_takes_none() -> None:
    matched = matches([("l1000_phase1", "sciplex", 1, "A549"), ("l1000_phase2", "sciplex", 2, "A549"), ("sciplex", "tahoe", 3, "MCF7")])
    assert force_bridges(matched, matched[:1])[0]["left_row"].tolist() == [0]
    assert force_bridges(matched, matched[2:])[0]["left_row"].tolist() == [0, 1, 2]
    assert force_bridges(matched, matched[:0], [Bridge(("sciplex",), ("tahoe",))])[0]["left_row"].tolist() == [2]


def test_named_datasets_are_registered() -> None:
    named = {name for bridge in PUBLISHED_BRIDGES for name in (*bridge.one, *bridge.other)}
    assert named <= set(datasets())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0.5, 1, 1.9, 2, 3, 6, 10, 30]), max_size=8), st.sampled_from(sorted(DOSE_FOLDS)))
def test_smaller_dose_thresholds_are_smaller_gaps(doses: list[float], fold: str) -> None:
    """The mutually nearest doses do not depend on the limit, so that leaving out is the same as matching again."""
    left, right = (
        pd.DataFrame({"pubchem_cid": 1, "cell_type": "A549", "pert_time_h": 24.0, "pert_dose_uM": np.array(part, dtype=float)})
        for part in (doses, [1.0, 2.0, 20.0])
    )
    kept, report = within_dose_fold(match_conditions(left, right), DOSE_FOLDS[fold])
    pd.testing.assert_frame_equal(kept, match_conditions(left, right, max_log10_dose_gap=np.log10(DOSE_FOLDS[fold])))
    assert report["n_matches_kept"].sum() == len(kept)


def test_sample_weights_count_as_the_published_rows_do() -> None:
    """Rows of the published overlap are pairs of samples; counting them gives the weights."""
    flat = np.zeros((3, 2))
    left = make_effects([(1, "A549", 24, 1.0), (1, "A549", 24, 10.0), (2, "A549", 24, 1.0)], flat)
    right = make_effects([(2, "A549", 24, 1.0), (1, "A549", 24, 9.0), (1, "A549", 24, 1.0)], flat)
    left.contrasts["n_treated"], right.contrasts["n_treated"] = [2, 3, 1], [5, 7, 4]
    samples = [
        effects.contrasts.loc[effects.contrasts.index.repeat(effects.contrasts["n_treated"])].reset_index(drop=True)
        for effects in (left, right)
    ]
    of_samples = match_conditions(*samples)
    key = ["pubchem_cid", "left_pert_dose_uM", "right_pert_dose_uM"]
    expected = of_samples.groupby(key).size().sort_index()
    matched = match_strata({"A549": left}, {"A549": right}, "sciplex", "tahoe")
    weights = pd.Series(sample_weights(matched, {"A549": left}, {"A549": right}), index=pd.MultiIndex.from_frame(matched[key])).sort_index()
    assert weights.tolist() == expected.tolist() == [8, 21, 5]
    assert sample_weights(matched[:0], {}, {}).tolist() == []
    with pytest.raises(InputError, match="stratum A549"):
        sample_weights(matched, {}, {"A549": right})


def test_matches_as_text() -> None:
    matched = matches([("sciplex", "tahoe", 2244, "CVCL_0023")]).assign(right_pert_dose_uM=0.1 + 0.2)
    assert matched_condition_texts(matched).tolist() == ["2244|CVCL_0023|24|1|0.3"]


def test_published_rules_follow_one_another() -> None:
    """Suppression, bridges, then ten compounds: what an option drops, a later one may not bring back by itself."""
    rows = [(*PHASES, cid, "K562") for cid in range(20)] + [("l1000_phase1", "sciplex", cid, "A549") for cid in range(12)]
    rows += [("sciplex", "tahoe", cid, "MCF7") for cid in range(3)]
    matched = matches(rows)
    suppressed, _ = suppress_l1000_only(matched)
    assert len(suppressed) == 12 + 12 + 3, "of the L1000 pair the twelve compounds that sci-Plex has stay"
    bridged, _ = force_bridges(matched, suppressed)
    kept, report = require_compounds_per_stratum(bridged)
    assert set(kept["cell_type"]) == {"K562", "A549"}
    assert report["kept"].sum() == 2
