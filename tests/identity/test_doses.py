"""Doses and times from the words of the sources."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.identity.doses import nominal_dose_uM, parse_dose_uM, parse_time_h, unparsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.05uM", 0.05),
        ("10.0nM", 0.01),
        ("0.3nM", 0.0003),
        ("1,000 nM", 1.0),
        ("1,234,567 pM", 1.234567),
        ("1e-05M", 10.0),
        ("5E2 nM", 0.5),
        (".5uM", 0.5),
        ("2 mM", 2000.0),
        ("10 \u00b5M", 10.0),
        ("10 \u03bcM", 10.0),
        ("10UM", 10.0),
        ("3 micromolar", 3.0),
        ("9.99999uM", 9.99999),
        ("0uM", 0.0),
        ("+1uM", 1.0),
        # not understood: no unit, unknown unit, no number, a decimal comma, negative, two numbers
        ("10", np.nan),
        ("0.15%", np.nan),
        ("5 m", np.nan),
        ("uM", np.nan),
        ("high", np.nan),
        ("0,05uM", np.nan),
        ("1,00uM", np.nan),
        ("-5uM", np.nan),
        ("1uM 2uM", np.nan),
        ("1uM/ml", np.nan),
        # missing
        ("-666", np.nan),
        ("", np.nan),
        (None, np.nan),
    ],
)
def test_dose_with_its_unit(text: str | None, expected: float) -> None:
    parsed = parse_dose_uM(pd.Series([text], dtype=object))
    np.testing.assert_array_equal(parsed, [expected])
    assert parsed.dtype == np.float64


def test_dose_number_beside_its_unit() -> None:
    values = pd.Series([88.8, 10.0, 0.5, -666.0, 5.0, np.nan, 0.0], index=list("abcdefg"))
    units = pd.Series(["um", "nm", "mM", "-666", "%", "um", "um"], index=list("abcdefg"))
    np.testing.assert_array_equal(parse_dose_uM(values, units), [88.8, 0.01, 500.0, np.nan, np.nan, np.nan, 0.0])


def test_units_belong_to_rows_even_where_row_names_repeat() -> None:
    values = pd.Series(["1", "1", "1"], index=["x", "x", "y"])
    units = pd.Series(["nM", "uM", "mM"], index=["x", "x", "y"])
    np.testing.assert_array_equal(parse_dose_uM(values, units), [0.001, 1.0, 1000.0])


def test_a_unit_in_the_value_and_another_beside_it_is_not_understood() -> None:
    assert parse_dose_uM(pd.Series(["5nM"]), pd.Series(["uM"])).isna().all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24h", 24.0), ("24.0h", 24.0), ("72 hours", 72.0), ("3 d", 72.0), ("1 Day", 24.0), ("90 min", 1.5), ("24", np.nan), ("24 s", np.nan)],
)
def test_time_with_its_unit(text: str, expected: float) -> None:
    np.testing.assert_array_equal(parse_time_h(pd.Series([text])), [expected])


def test_time_number_beside_its_unit() -> None:
    times = pd.Series(["6", "6.0", 24, "-666"], dtype=object)
    np.testing.assert_array_equal(parse_time_h(times, pd.Series(["h", "hrs", "h", "-666"])), [6.0, 6.0, 24.0, np.nan])


def test_unparsed_names_the_rows_that_say_something_else() -> None:
    values = pd.Series(["1uM", "high", None, "", "-666", "0.15%"], index=[f"well{i}" for i in range(6)])
    assert unparsed(values, parse_dose_uM(values)).to_dict() == {"well1": "high", "well5": "0.15%"}


def test_no_rows() -> None:
    empty = pd.Series([], dtype=object)
    assert parse_dose_uM(empty).empty
    assert parse_dose_uM(empty).dtype == np.float64


@given(st.integers(0, 999_999), st.sampled_from([("M", -6), ("mM", -3), ("uM", 0), ("nM", 3), ("pM", 6)]))
def test_a_written_decimal_is_the_float_of_the_converted_decimal(thousandths: int, unit: tuple[str, int]) -> None:
    """No conversion noise: the result is the double nearest to the exact decimal."""
    word, digits = unit
    text = f"{thousandths // 1000}.{thousandths % 1000:03d}{word}"
    assert parse_dose_uM(pd.Series([text])).iloc[0] == float(f"{thousandths}e{-3 - digits}")


@pytest.mark.parametrize(
    ("doses", "nominal"),
    [
        ([9.99999, 10.0, 10.0001], [10, 10, 10]),
        ([3.33333, 3.333, 3.33], [3.333, 3.333, 3.33]),
        ([3e-5, 0.0, None], [3e-5, 0, np.nan]),
        ([], []),
    ],
)
def test_doses_that_were_meant_to_be_one_are_one(doses, nominal):
    np.testing.assert_array_equal(nominal_dose_uM(pd.Series(doses, dtype="Float64")), nominal)
