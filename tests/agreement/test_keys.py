from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.agreement.keys import compound_keys, condition_keys, condition_text, number_key, number_keys
from perturbridge_dagster.errors import InputError


@pytest.mark.parametrize(
    ("value", "key"),
    [(10.0, "10"), (0.1 + 0.2, "0.3"), (-0.0, "0"), (1e-9, "1e-09"), (3.3333333333333335, "3.33333333333"), (1e6, "1000000")],
)
def test_number_key(value: float, key: str) -> None:
    assert number_key(value) == key


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_number_keys_are_equal_exactly_when_their_texts_are(values: list[float]) -> None:
    keys = number_keys(np.array(values))
    assert [number_key(key) for key in keys] == [number_key(value) for value in values]


def test_number_keys_keep_shape_and_nan() -> None:
    keys = number_keys(np.array([[np.nan, 0.1 + 0.2], [0.3, np.inf]]))
    np.testing.assert_array_equal(keys, [[np.nan, 0.3], [0.3, np.inf]])


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([2244, None, 679], dtype="Int64"),
        pd.Series([2244.0, np.nan, 679.0]),
        pd.Series(["2244.0", " NaN ", "679"]),
        pd.Series(["2244", "<NA>", "679.0"], dtype="category"),
        pd.Series([2244, "", 679.0], dtype=object),
    ],
)
def test_compound_keys_are_one_whatever_the_type(column: pd.Series) -> None:
    keys = compound_keys(pd.DataFrame({"pubchem_cid": column}))
    pd.testing.assert_series_equal(keys, pd.Series([2244, None, 679], dtype="Int64"), check_names=False)


@pytest.mark.parametrize("value", ["aspirin", 1.5, -666, np.inf])
def test_compound_that_is_no_identifier_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"pubchem_cid.*rows 1"):
        compound_keys(pd.DataFrame({"pubchem_cid": [2244, value]}))


def test_eligible_conditions() -> None:
    rows = [
        (1, "A549", 24.0, 1.0, True),
        (None, "A549", 24.0, 1.0, False),
        (1, None, 24.0, 1.0, False),
        (1, "nan", 24.0, 1.0, False),
        (1, "A549", np.nan, 1.0, False),
        (1, "A549", np.inf, 1.0, False),
        (1, "A549", 0.0, 1.0, True),
        (1, "A549", 24.0, 0.0, False),
        (1, "A549", 24.0, -1.0, False),
        (1, "A549", 24.0, np.nan, False),
        (1, "A549", 24.0, np.inf, False),
        (1, "A549", 24.0, 1e-9, True),
    ]
    conditions = pd.DataFrame(rows, columns=["pubchem_cid", "cell_type", "pert_time_h", "pert_dose_uM", "eligible"])
    assert condition_keys(conditions)["eligible"].tolist() == conditions["eligible"].tolist()


def test_text_that_is_no_dose_is_refused() -> None:
    conditions = pd.DataFrame({"pubchem_cid": [1], "cell_type": ["A549"], "pert_time_h": [24.0], "pert_dose_uM": ["10 uM"]})
    with pytest.raises(InputError, match="pert_dose_uM"):
        condition_keys(conditions)


def test_missing_column_is_named() -> None:
    with pytest.raises(InputError, match="lacks pert_time_h"):
        condition_keys(pd.DataFrame({"pubchem_cid": [1], "cell_type": ["A549"], "pert_dose_uM": [1.0]}))


def test_condition_as_text() -> None:
    assert condition_text(2244, "CVCL_0023", 24.0, 0.1 + 0.2) == "2244|CVCL_0023|24|0.3"
    assert condition_text(np.int64(1), "A549", 6.0, 1e-9, 10.0) == "1|A549|6|1e-09|10"
