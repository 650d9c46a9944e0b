from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.effects.design import Design, build_design
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
    design = build_design(obs, min_cells=10)
    assert design.rows.tolist() == [0, 2, 5, 7, 8]
    assert design.dropped == {
        "samples_below_min_cells": 2,
        "controls_of_times_without_treated": 2,
        "conditions_without_controls": ["y_1uM_72h"],
    }
    assert build_design(obs).rows.tolist() == [0, 1, 2, 5, 6, 7, 8]


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
    with pytest.raises(InputError, match=rf"column {column}; rows s003"):
        build_design(obs)


def test_the_dose_of_a_control_says_nothing(make_obs: MakeObs) -> None:
    obs = make_obs([("DMSO", 0.1, 24.0, "A", 1), ("DMSO", 0.0, 24.0, "A", 1), ("x", 1.0, 24.0, "A", 2)])
    obs.loc["s001", "pert_dose_uM"] = np.nan
    assert build_design(obs).conditions["n_samples"].tolist() == [2, 2]


@pytest.mark.parametrize(
    "wells",
    [
        pytest.param([("x", 1.0, 24.0, "A", 3)], id="no controls"),
        pytest.param([("DMSO", 0.0, 24.0, "A", 3)], id="no treated"),
        pytest.param([("DMSO", 0.0, 6.0, "A", 3), ("x", 1.0, 24.0, "A", 3)], id="controls of another time"),
    ],
)
def test_a_stratum_without_contrasts_is_not_estimable(make_obs: MakeObs, wells: Any) -> None:
    with pytest.raises(NotEstimableError, match="controls"):
        build_design(make_obs(wells))
