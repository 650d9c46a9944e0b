from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.agreement import match_conditions
from perturbridge_dagster.agreement.keys import number_key
from perturbridge_dagster.agreement.matching import match_strata, matched_strata_report
from perturbridge_dagster.contract import MATCHED_CONDITIONS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import to_arrow
from tests.agreement.effects_in_memory import make_effects

COLUMNS = ["pubchem_cid", "cell_type", "pert_time_h", "pert_dose_uM"]


def at_doses(*doses: float) -> pd.DataFrame:
    return pd.DataFrame([(2244, "A549", 24.0, dose) for dose in doses], columns=COLUMNS)


def matched_doses(left: pd.DataFrame, right: pd.DataFrame, **options: float) -> list[tuple[float, float]]:
    matched = match_conditions(left, right, **options)
    return list(zip(matched["left_pert_dose_uM"], matched["right_pert_dose_uM"], strict=True))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 100], [10], [(1, 10), (100, 10)]),  # 10 lies midway: both ties stay
        ([1], [10.5], []),  # more than a factor of ten
        ([1], [10], [(1, 10)]),  # exactly ten
        ([0.3], [3], [(0.3, 3)]),  # exactly ten up to rounding
        ([1, 2], [2.1], [(2, 2.1)]),  # 1 is nearest to 2.1 only one way
        ([1, 3, 10], [1, 3, 10], [(1, 1), (3, 3), (10, 10)]),
        ([1, 1], [1, 1, 1], [(1, 1)] * 6),  # replicated rows all match
        ([1e-9], [2e-9], [(1e-9, 2e-9)]),
        ([], [1], []),
        ([1], [], []),
    ],
)
def test_mutual_nearest_doses(left: list[float], right: list[float], expected: list[tuple[float, float]]) -> None:
    assert matched_doses(at_doses(*left), at_doses(*right)) == expected


def test_gap_is_an_option() -> None:
    assert matched_doses(at_doses(1), at_doses(3), max_log10_dose_gap=math.log10(2)) == []
    assert matched_doses(at_doses(1), at_doses(2), max_log10_dose_gap=math.log10(2)) == [(1, 2)]
    assert matched_doses(at_doses(1), at_doses(1000), max_log10_dose_gap=3) == [(1, 1000)]


@pytest.mark.parametrize("gap", [-0.1, math.nan, math.inf])
def test_impossible_gap_is_refused(gap: float) -> None:
    with pytest.raises(InputError, match="max_log10_dose_gap"):
        match_conditions(at_doses(1), at_doses(1), max_log10_dose_gap=gap)


def test_compound_context_and_time_must_be_the_same() -> None:
    left = pd.DataFrame([(1, "A549", 24.0, 1.0), (2, "A549", 24.0, 1.0), (1, "MCF7", 24.0, 1.0), (1, "A549", 6.0, 1.0)], columns=COLUMNS)
    right = pd.DataFrame([(1, "A549", 24.0 + 1e-13, 1.0), (3, "A549", 24.0, 1.0)], columns=COLUMNS)
    matched = match_conditions(left, right)
    assert matched[["left_row", "right_row"]].to_numpy().tolist() == [[0, 0]]
    assert matched["pert_time_h"].tolist() == [24.0]


def test_types_follow_the_contract_even_when_empty() -> None:
    for left in (at_doses(1), at_doses()):
        matched = match_conditions(left, at_doses(1))
        fields = MATCHED_CONDITIONS.fields[:8]
        assert list(matched) == [field.name for field in fields]
        assert [str(kind) for kind in matched.dtypes] == ["object" if field.type == "string" else field.type for field in fields]


def test_index_and_type_of_the_input_do_not_matter() -> None:
    left = at_doses(1, 10)
    other = left.set_axis(["b", "a"]).astype({"pubchem_cid": float, "cell_type": "category"})
    other["pubchem_cid"] = other["pubchem_cid"].astype(str)
    pd.testing.assert_frame_equal(match_conditions(left, at_doses(1)), match_conditions(other, at_doses(1)))


def every_pair_tried(left: pd.DataFrame, right: pd.DataFrame, limit: float) -> set[tuple[int, int]]:
    """The rule, word for word, in loops."""

    def groups(conditions: pd.DataFrame) -> dict[object, list[tuple[int, float]]]:
        found: dict[object, list[tuple[int, float]]] = {}
        for row, (cid, cell, hours, dose) in enumerate(conditions[COLUMNS].itertuples(index=False, name=None)):
            if pd.notna(cid) and isinstance(cell, str) and math.isfinite(hours) and math.isfinite(dose) and dose > 0:
                found.setdefault((int(cid), cell, number_key(hours)), []).append((row, float(np.log10(dose))))
        return found

    lefts, rights = groups(left), groups(right)
    pairs = set()
    for key in lefts.keys() & rights.keys():
        gaps = np.array([[abs(x - y) for _, y in rights[key]] for _, x in lefts[key]])
        for i, (left_row, _) in enumerate(lefts[key]):
            for j, (right_row, _) in enumerate(rights[key]):
                gap = gaps[i, j]
                if gap <= limit + 1e-12 and gap - gaps[i].min() <= 1e-12 and gap - gaps[:, j].min() <= 1e-12:
                    pairs.add((left_row, right_row))
    return pairs


_doses = st.one_of(
    st.sampled_from(
        [0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1.0 + 1e-13, 10 ** (0.5 + 4e-13), 10**0.5, 0.0, -1.0, math.nan, math.inf]
    ),
    st.floats(1e-9, 1e4),
)
_tables = st.lists(
    st.tuples(
        st.sampled_from([1, 2, None]), st.sampled_from(["A549", "MCF7", None]), st.sampled_from([6.0, 24.0, 24.0 + 1e-13, math.nan]), _doses
    ),
    max_size=25,
).map(lambda rows: pd.DataFrame(rows, columns=COLUMNS).astype({"pubchem_cid": "Int64", "pert_time_h": float, "pert_dose_uM": float}))


@settings(deadline=None, max_examples=80)
@given(_tables, _tables, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_parity_with_every_pair_tried(left: pd.DataFrame, right: pd.DataFrame, limit: float) -> None:
    matched = match_conditions(left, right, max_log10_dose_gap=limit)
    found = list(zip(matched["left_row"], matched["right_row"], strict=True))
    assert len(found) == len(set(found))
    assert set(found) == every_pair_tried(left, right, limit)
    np.testing.assert_array_equal(matched["left_pert_dose_uM"], left["pert_dose_uM"].to_numpy()[matched["left_row"]])
    np.testing.assert_array_equal(matched["right_pert_dose_uM"], right["pert_dose_uM"].to_numpy()[matched["right_row"]])


@settings(deadline=None, max_examples=30)
@given(_tables, _tables)
def test_sides_are_alike(left: pd.DataFrame, right: pd.DataFrame) -> None:
    forth, back = match_conditions(left, right), match_conditions(right, left)
    assert set(zip(forth["left_row"], forth["right_row"], strict=True)) == set(zip(back["right_row"], back["left_row"], strict=True))


@settings(deadline=None, max_examples=30)
@given(_tables, _tables, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(left: pd.DataFrame, right: pd.DataFrame, random: object) -> None:
    order = list(range(len(left)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = match_conditions(left.iloc[order], right)
    keys = ["pubchem_cid", "cell_type", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM"]
    pd.testing.assert_frame_equal(match_conditions(left, right)[keys], shuffled[keys])


def test_many_replicates_at_a_losing_dose_cost_nothing() -> None:
    left = at_doses(*[1.0] * 20_000, 10.0)
    right = at_doses(*[9.0] * 20_000)
    matched = match_conditions(left, right)
    assert len(matched) == 20_000
    assert set(matched["left_pert_dose_uM"]) == {10.0}


@pytest.mark.slow
def test_speed_on_two_hundred_thousand_rows_a_side() -> None:
    generator = np.random.default_rng(0)

    def table() -> pd.DataFrame:
        n = 200_000
        return pd.DataFrame(
            {
                "pubchem_cid": generator.integers(1, 20_000, n),
                "cell_type": generator.choice([f"CVCL_{i:04d}" for i in range(30)], n),
                "pert_time_h": generator.choice([6.0, 24.0], n),
                "pert_dose_uM": 10 ** generator.uniform(-3, 2, n),
            }
        )

    left, right = table(), table()
    start = time.process_time()
    matched = match_conditions(left, right)
    assert time.process_time() - start < 10
    assert len(matched) > 10_000


def test_strata_give_only_estimable_contrasts_with_their_names() -> None:
    flat = np.zeros((2, 3))
    left = {
        "b": make_effects([(1, "A549", 24, 1.0), (2, "A549", 24, 1.0)], flat, stratum="b", estimable=[False, True]),
        "a": make_effects([(1, "MCF7", 24, 1.0), (2, "MCF7", 24, 1.0)], flat, stratum="a"),
    }
    right = {"A549": make_effects([(2, "A549", 24, 2.0), (1, "A549", 24, 1.0)], flat)}
    matched = match_strata(left, right, "sciplex", "tahoe")
    assert matched[["left_stratum", "left_contrast", "left_row", "right_stratum", "right_contrast", "right_row"]].to_numpy().tolist() == [
        ["b", 1, 3, "A549", 0, 0]
    ]
    assert to_arrow(matched, MATCHED_CONDITIONS).num_rows == 1
    assert set(matched["left_dataset"]) == {"sciplex"}


def test_strata_without_anything_give_an_empty_table() -> None:
    for left in ({}, {"A549": make_effects([], np.zeros((0, 3)))}):
        matched = match_strata(left, {"A549": make_effects([(1, "A549", 24, 1.0)], np.zeros((1, 3)))}, "sciplex", "tahoe")
        assert to_arrow(matched, MATCHED_CONDITIONS).num_rows == 0


def test_report_counts_by_context_and_time() -> None:
    left = pd.DataFrame(
        [(cid, "A549", 24.0, dose) for cid in (1, 2, 3) for dose in (1.0, 10.0)] + [(cid, "A549", 6.0, 1.0) for cid in (1, 2)],
        columns=COLUMNS,
    )
    assert matched_strata_report(match_conditions(left, left)).to_dict("list") == {
        "cell_type": ["A549", "A549"],
        "pert_time_h": [6.0, 24.0],
        "n_compounds": [2, 3],
        "n_matches": [2, 6],
        "median_log10_dose_gap": [0.0, 0.0],
    }
