from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.effects.design import Design, build_design, connected_components
from perturbridge_dagster.errors import InputError, NotEstimableError

MakeObs = Callable[[Any], pd.DataFrame]


def _dense(design: Design, present: np.ndarray | None = None) -> np.ndarray:
    """The design matrix, written out: condition columns, then plates beyond the first."""
    columns = [design.condition == code for code in range(len(design.conditions))]
    columns += [design.plate == code for code in range(1, len(design.plates))]
    matrix = np.column_stack(columns).astype(float)
    return matrix if present is None else matrix[present]


def _estimable_by_algebra(design: Design, matrix: np.ndarray) -> list[bool]:
    """A contrast can be estimated when it lies in the row space of the design."""
    contrasts = np.zeros((len(design.contrasts), design.n_coefficients))
    contrasts[np.arange(len(contrasts)), design.contrasts["treated"]] = 1
    contrasts[np.arange(len(contrasts)), design.contrasts["control"]] = -1
    projection = np.linalg.pinv(matrix) @ matrix
    return [bool(np.allclose(row @ projection, row, atol=1e-8)) for row in contrasts]


@settings(max_examples=40, deadline=None)
@given(
    wells=st.lists(
        st.tuples(st.sampled_from(["DMSO", "a", "b", "c"]), st.just(1.0), st.just(24.0), st.sampled_from("PQRST"), st.integers(1, 2)),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 99),
)
def test_rank_and_estimability_are_those_of_the_dense_design(make_obs: MakeObs, wells: Any, seed: int) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "P", 1), ("a", 1.0, 24.0, "Q", 1), *wells])
    design = build_design(obs)
    assert design.rank == np.linalg.matrix_rank(_dense(design))
    assert design.contrasts["estimable"].tolist() == _estimable_by_algebra(design, _dense(design))
    component = design.conditions["component"].to_numpy()
    in_one = (component[design.contrasts["treated"]] == component[design.contrasts["control"]]).tolist()
    assert design.contrasts["estimable"].tolist() == in_one
    assert pd.unique(component).tolist() == list(range(design.n_components)), "numbered by their first condition"
    assert sorted(plate for plates in design.components for plate in plates) == design.plates
    for names, number in zip(design.conditions["plates"], component, strict=True):
        assert set(names.split("; ")) <= set(design.components[number])
    present = np.random.default_rng(seed).random(len(obs)) < 0.7
    assert design.estimable(present).tolist() == _estimable_by_algebra(design, _dense(design, present))


def test_conditions_are_perturbagen_dose_and_time_and_controls_are_by_time(make_obs: MakeObs) -> None:
    obs = make_obs(
        [
            ("DMSO", 0.0, 6.0, "A", 2),
            ("DMSO", 0.0, 24.0, "A", 3),
            ("x", 0.1, 6.0, "A", 1),
            ("x", 0.1, 24.0, "A", 2),
            ("x", 9.99999, 24.0, "A", 1),
            ("x", 9.99999, 24.0, "B", 1),
        ]
    )
    design = build_design(obs)
    assert design.conditions["name"].tolist() == ["DMSO_24h", "DMSO_6h", "x_0.1uM_24h", "x_0.1uM_6h", "x_10uM_24h"]
    assert design.conditions["n_samples"].tolist() == [3, 2, 2, 1, 2]
    assert design.conditions["n_plates"].tolist() == [1, 1, 1, 1, 2]
    assert design.conditions["plates"].tolist() == ["A", "A", "A", "A", "A; B"]
    assert design.contrasts[["treated", "control"]].to_numpy().tolist() == [[2, 0], [3, 1], [4, 0]]
    assert design.conditions["sample_id"].isna().all()


def test_levels_are_in_byte_order_whatever_the_locale(make_obs: MakeObs) -> None:
    names = ["β", "a", "B", "é", "_", "1"]
    design = build_design(make_obs([("DMSO", 0.0, 24.0, name, 1) for name in names] + [("x", 1.0, 24.0, name, 1) for name in names]))
    assert design.plates == sorted(names, key=lambda name: name.encode())
    assert design.plates == ["1", "B", "_", "a", "é", "β"]


def test_names_that_differ_in_punctuation_stay_apart(make_obs: MakeObs) -> None:
    design = build_design(make_obs([("DMSO", 0.0, 24.0, "A", 2), ("X-1", 1.0, 24.0, "A", 1), ("X 1", 1.0, 24.0, "A", 1)]))
    assert len(design.contrasts) == 2


def test_separate_replicates_are_conditions_of_one_sample_while_controls_stay_together(make_obs: MakeObs) -> None:
    design = build_design(
        make_obs([("DMSO", 0.0, 24.0, "A", 3), ("x", 1.0, 24.0, "A", 2), ("x", 1.0, 24.0, "B", 1)]), replicates="separate"
    )
    treated = design.conditions[~design.conditions["is_control"]]
    assert treated["n_samples"].tolist() == [1, 1, 1]
    assert treated["sample_id"].tolist() == ["s003", "s004", "s005"]
    assert treated["plate"].tolist() == ["A", "A", "B"]
    assert treated["well"].tolist() == ["A3", "A4", "A5"]
    control = design.conditions[design.conditions["is_control"]]
    assert control["n_samples"].tolist() == [3]
    assert control["plate"].isna().all()
    assert design.contrasts["estimable"].tolist() == [True, True, False]


def test_every_control_condition_of_the_time_gives_a_contrast(make_obs: MakeObs) -> None:
    design = build_design(make_obs([("DMSO", 0.0, 24.0, "A", 2), ("medium", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 1)]))
    controls = design.conditions.loc[design.contrasts["control"], "perturbagen"].tolist()
    assert controls == ["DMSO", "medium"]


def test_samples_of_few_cells_and_needless_controls_take_no_part(make_obs: MakeObs) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 3), ("DMSO", 0.0, 6.0, "A", 2), ("x", 1.0, 24.0, "A", 3), ("y", 1.0, 72.0, "A", 1)])
    obs["psbulk_cells"] = pd.array([10, 9, None, 50, 50, 10, 9, None, 50], dtype="Int64")
    design = build_design(obs, min_cells=10, without_controls="fit")
    assert design.rows.tolist() == [0, 2, 5, 7, 8]
    assert design.dropped == {
        "samples_of_other_times": 0,
        "samples_below_min_cells": 2,
        "controls_of_times_without_treated": 2,
        "conditions_without_controls": ["y_1uM_72h"],
    }
    assert build_design(obs, without_controls="fit").rows.tolist() == [0, 1, 2, 5, 6, 7, 8]


def test_treated_times_without_controls_are_refused_unless_asked_for(make_obs: MakeObs) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 2), ("DMSO", 0.0, 6.0, "A", 1), ("x", 1.0, 24.0, "A", 2), ("y", 1.0, 72.0, "A", 2)])
    with pytest.raises(InputError, match=r"dataset d; column pert_time_h; rows s005, s006: 2 .* of stratum S, at 72 h") as error:
        build_design(obs, dataset="d", stratum="S")
    assert "(times=[24])" in str(error.value)
    assert 'without_controls="fit"' in str(error.value)
    fitted = build_design(obs, without_controls="fit")
    assert fitted.dropped["conditions_without_controls"] == ["y_1uM_72h"]
    assert len(fitted.rows) == 6
    assert len(fitted.contrasts) == 1


def test_controls_that_too_few_cells_took_away_are_missed_with_the_reason(make_obs: MakeObs) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 2), ("DMSO", 0.0, 6.0, "A", 1), ("x", 1.0, 24.0, "A", 2), ("x", 1.0, 6.0, "A", 2)])
    obs["psbulk_cells"] = pd.array([20, 20, 3, 20, 20, 20, 20], dtype="Int64")
    with pytest.raises(InputError, match=r"at 6 h, have no vehicle control of their time; 1 have fewer than 10 cells\."):
        build_design(obs, min_cells=10)


def test_only_samples_of_the_times_asked_for_take_part(make_obs: MakeObs) -> None:
    wells = [
        ("DMSO", 0.0, 24.0, "A", 2),
        ("DMSO", 0.0, 6.0, "A", 1),
        ("x", 1.0, 24.0, "A", 2),
        ("x", 1.0, 6.0, "A", 1),
        ("y", 1.0, 72.0, "A", 1),
    ]
    design = build_design(make_obs(wells), times=[24])
    assert design.rows.tolist() == [0, 1, 3, 4]
    assert design.dropped["samples_of_other_times"] == 3
    assert design.dropped["controls_of_times_without_treated"] == 0
    assert build_design(make_obs(wells), times=(6.0, 24.0)).rows.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="times names no time"):
        build_design(make_obs(wells), times=[])
    with pytest.raises(NotEstimableError, match=r"0 treated and 0 vehicle controls.* 7 are of other times than 12 h"):
        build_design(make_obs(wells), times=[12])


def test_conditions_of_one_printed_name_stay_apart_in_an_order_that_samples_do_not_decide(make_obs: MakeObs) -> None:
    obs = make_obs(
        [
            ("DMSO", 0.0, 24.0, "A", 2),
            ("x", 1.0, 24.0, "A", 3),
            ("x", 1.0, 24.0, "B", 3),
            ("a_1uM_24h_b", 1.0, 24.0, "B", 1),
            ("DMSO_24h", 1.0, 24.0, "B", 1),
        ]
    )
    # stereoisomers of one name, and one of that name that nobody knows
    obs["pubchem_cid"] = pd.array([679, None, 8, 7, None, 7, 8, 8, 5, 6], dtype="Int64")
    design = build_design(obs)
    same = design.conditions[design.conditions["name"] == "x_1uM_24h"]
    assert same["pubchem_cid"].fillna(0).tolist() == [7, 8, 0]
    assert same["n_samples"].tolist() == [2, 3, 1]
    assert len(design.contrasts) == 5
    for seed in range(5):
        shuffled = obs.sample(frac=1, random_state=seed)
        again = build_design(shuffled)
        pd.testing.assert_frame_equal(again.conditions, design.conditions)
        assert pd.Series(again.condition, shuffled.index)[obs.index].tolist() == design.condition.tolist()
        assert again.describe() == design.describe()


def test_components_name_the_plates_that_hang_together(make_obs: MakeObs) -> None:
    design = build_design(
        make_obs(
            [
                ("DMSO", 0.0, 24.0, "P1", 1),
                ("DMSO", 0.0, 24.0, "P3", 1),
                ("x", 1.0, 24.0, "P3", 1),
                ("y", 1.0, 24.0, "P2", 1),
                ("y", 1.0, 24.0, "P4", 1),
            ]
        )
    )
    assert design.components == [["P1", "P3"], ["P2", "P4"]]
    assert design.conditions["component"].tolist() == [0, 0, 1]
    assert design.conditions["component"].dtype == np.int32
    assert design.describe()["components"] == design.components
    joint = connected_components(design.condition, design.plate, len(design.conditions), len(design.plates))
    assert joint.tolist() == [0, 0, 1, 0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("replicates", ["grouped", "separate"])
def test_a_design_of_compendium_size_takes_no_time(make_obs: MakeObs, replicates: Any) -> None:
    wells = [(f"c{i}", 1.0, 24.0, f"P{(i * 7 + j) % 72:02d}", 1) for i in range(13_600) for j in range(2)]
    obs = make_obs([*(("DMSO", 0.0, 24.0, f"P{i:02d}", 5) for i in range(72)), *wells])
    started = time.monotonic()
    design = build_design(obs, replicates=replicates)
    seconds = time.monotonic() - started
    assert len(design.conditions) == (13_601 if replicates == "grouped" else 27_201)
    assert len({id(plates) for plates in design.conditions["plates"]}) == design.conditions["plates"].nunique(), (
        "one string for equal plates"
    )
    assert seconds < 2, "0.2 s on a quiet machine"


def test_a_compound_is_its_pubchem_id_and_else_its_name(make_obs: MakeObs) -> None:
    obs = make_obs(
        [
            ("DMSO", 0.0, 24.0, "A", 2),
            ("x", 1.0, 24.0, "A", 2),
            ("y", 1.0, 24.0, "A", 1),
            ("z", 1.0, 24.0, "A", 2),
            ("Z", 1.0, 24.0, "B", 1),
        ]
    )
    # stereoisomers of one name, a compound nobody knows, and one compound of two names
    obs["pubchem_cid"] = pd.array([679, 679, 7, 8, None, 9, 9, 9], dtype="Int64")
    obs["parent_key"] = [None, None, "B", "A", None, "D", None, "C"]
    design = build_design(obs)
    treated = design.conditions[~design.conditions["is_control"]]
    assert treated["perturbagen"].tolist() == ["Z; z", "x", "x", "y"]
    assert treated["pubchem_cid"].fillna(0).tolist() == [9, 7, 8, 0]
    assert treated["parent_key"].tolist() == ["C", "B", "A", None]
    assert treated["n_samples"].tolist() == [3, 1, 1, 1]


def test_replicates_of_one_nominal_dose_are_one_condition(make_obs: MakeObs) -> None:
    design = build_design(
        make_obs([("DMSO", 0.0, 24.0, "A", 2), ("x", 10.0, 24.0, "A", 1), ("x", 9.99999, 24.0, "A", 1), ("x", 3.33, 24.0, "A", 1)])
    )
    treated = design.conditions[~design.conditions["is_control"]]
    assert dict(zip(treated["pert_dose_uM"], treated["n_samples"], strict=True)) == {10.0: 2, 3.33: 1}


@pytest.mark.parametrize("column", ["perturbagen", "is_control", "pert_dose_uM", "pert_time_h", "plate"])
def test_missing_key_fields_are_refused_by_name(make_obs: MakeObs, column: str) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 2)])
    with pytest.raises(InputError, match=column):
        build_design(obs.drop(columns=column))
    obs[column] = obs[column].astype(object)
    obs.loc["s003", column] = None
    with pytest.raises(InputError, match=rf"dataset d; column {column}; rows s003: a value is missing; 1 samples of stratum S have none"):
        build_design(obs, dataset="d", stratum="S")


@pytest.mark.parametrize("value", [-1.0, np.inf])
@pytest.mark.parametrize("column", ["pert_dose_uM", "pert_time_h"])
def test_impossible_doses_and_times_are_refused_by_name(make_obs: MakeObs, column: str, value: float) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 2)])
    obs.loc["s003", column] = value
    with pytest.raises(InputError, match=rf"column {column}; rows s003: 1 samples of stratum S have an impossible value"):
        build_design(obs, dataset="d", stratum="S")


@pytest.mark.parametrize("column", ["perturbagen", "plate"])
def test_blank_text_is_missing(make_obs: MakeObs, column: str) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 2)])
    obs.loc["s002", column] = " "
    with pytest.raises(InputError, match=rf"column {column}; rows s002"):
        build_design(obs.astype({column: "category"}))


@pytest.mark.parametrize("replicates", ["grouped", "separate"])
def test_sample_ids_that_occur_twice_are_refused_by_name(make_obs: MakeObs, replicates: Any) -> None:
    obs = make_obs([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 2)]).rename(index={"s003": "s002"})
    with pytest.raises(InputError, match=r"dataset d; rows s002: sample ids are not unique; 2 samples of stratum S"):
        build_design(obs, replicates=replicates, dataset="d", stratum="S")


def test_the_dose_of_a_control_says_nothing(make_obs: MakeObs) -> None:
    obs = make_obs([("DMSO", 0.1, 24.0, "A", 1), ("DMSO", 0.0, 24.0, "A", 1), ("x", 1.0, 24.0, "A", 2)])
    obs.loc["s001", "pert_dose_uM"] = np.nan
    assert build_design(obs).conditions["n_samples"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("wells", "words"),
    [
        pytest.param([("x", 1.0, 24.0, "A", 3)], r"3 treated and 0 vehicle controls .* of 3 .* \(s000, s001, s002\)", id="no controls"),
        pytest.param([("DMSO", 0.0, 24.0, "A", 7)], r"0 treated .* of 7 samples \(s000, s001, .* and 2 more\)", id="no treated"),
        pytest.param([("x", 1.0, 24.0, "A", 1)], r"1 treated and 0 vehicle controls .* of 1 samples \(s000\)", id="one sample"),
        pytest.param([("DMSO", 0.0, 24.0, "A", 1)], r"0 treated and 0 vehicle controls .* \(s000\)", id="one control"),
        pytest.param(
            [("DMSO", 0.0, 6.0, "A", 3), ("x", 1.0, 24.0, "A", 3)],
            r"3 treated and 0 vehicle controls .* of 6 samples \(s003, s004, s005\)",
            id="controls of another time",
        ),
    ],
)
def test_a_stratum_without_contrasts_is_not_estimable_and_its_samples_are_named(make_obs: MakeObs, wells: Any, words: str) -> None:
    for without_controls in ("refuse", "fit"):
        with pytest.raises(NotEstimableError, match=f"^d S: {words}"):
            build_design(make_obs(wells), dataset="d", stratum="S", without_controls=without_controls)
