"""Doses and times from the words of the sources."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.identity.doses import (
    NOMINAL_GAP,
    parse_dose_uM,
    parse_time_h,
    rounded_dose_uM,
    shared_nominal_dose_uM,
    unparsed,
)


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
        ("5 umol/L", 5.0),
        ("5 \u00b5mol/l", 5.0),
        ("20 nmol/l", 0.02),
        ("1e-5 mol/l", 10.0),
        ("10\u00a0\u03bcM", 10.0),
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


@pytest.mark.parametrize(
    ("dataset", "dose", "unit", "expected"),
    [
        # value and unit in one text
        ("tahoe", "0.05uM", None, 0.05),
        ("tahoe", "0.5uM", None, 0.5),
        ("tahoe", "5.0uM", None, 5.0),
        ("sciplex", "10.0nM", None, 0.01),
        ("sciplex", "10000.0nM", None, 10.0),
        ("gdpx2", "1000.0nM", None, 1.0),
        ("gdpx2", "3.0uM", None, 3.0),
        ("gdpx2", "9.5nM", None, 0.0095),
        # the vehicle's level of a control, which is no dose; a control's dose is 0 whatever its text says
        ("gdpx2", "0.15%", None, np.nan),
        ("cigs_mce", "10μM", None, 10.0),
        ("l1000_phase2", "10.0 um", None, 10.0),
        # unit in a column of its own
        ("l1000_phase1", "9.99999", "um", 9.99999),
        ("l1000_phase1", "0.3", "nm", 0.0003),
        ("l1000_phase1", "100", "mm", 100_000.0),
        ("l1000_phase1", "0.1", "µM", 0.1),
        ("l1000_phase1", "1", "micromolar", 1.0),
        ("l1000_phase1", "500", "nanomolar", 0.5),
        ("l1000_phase1", "2", "millimolar", 2000.0),
        ("l1000_phase1", "0.1", "%", np.nan),
        ("l1000_phase1", "100", "ng/ml", np.nan),
        ("l1000_phase1", "-666", "-666", np.nan),
        ("l1000_phase1", "-666.000000", "-666", np.nan),
        ("vcpi_0001", "30", "nM", 0.03),
        ("vcpi_0001", "10000.0", "nM", 10.0),
        ("novartis", "0.01", "uM", 0.01),
        ("novartis", "10", "uM", 10.0),
    ],
)
def test_doses_as_the_sources_write_them(dataset: str, dose: str, unit: str | None, expected: float) -> None:
    np.testing.assert_array_equal(parse_dose_uM(pd.Series([dose]), None if unit is None else pd.Series([unit])), [expected])


@pytest.mark.parametrize(
    ("dataset", "time", "unit", "expected"),
    [
        ("tahoe", "24.0h", None, 24.0),
        ("sciplex", "72.0h", None, 72.0),
        ("sciplex", 24, "h", 24.0),
        ("gdpx2", "24.0h", None, 24.0),
        ("vcpi_0001", "24h", None, 24.0),
        ("l1000_phase1", "6", "h", 6.0),
        ("l1000_phase1", "144", "h", 144.0),
        ("l1000_phase1", "2", "days", 48.0),
        ("l1000_phase2", "24 h", None, 24.0),
        ("novartis", "24.0", "h", 24.0),
        ("dilimap_train", 24.0, "h", 24.0),
        ("cigs_mce", "24 H", None, 24.0),
        ("cigs_mce", "-666", None, np.nan),
    ],
)
def test_times_as_the_sources_write_them(dataset: str, time: object, unit: str | None, expected: float) -> None:
    values = pd.Series([time], dtype=object)
    np.testing.assert_array_equal(parse_time_h(values, None if unit is None else pd.Series([unit])), [expected])


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
    np.testing.assert_array_equal(rounded_dose_uM(pd.Series(doses, dtype="Float64")), nominal)


# ---- nominal doses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doses", "nominal"),
    [
        pytest.param([9.99999, 9.99999, 10.0], [10, 10, 10], id="L1000's spelling of 10"),
        pytest.param([3.33, 3.333, 3.333, 1.11], [3.333, 3.333, 3.333, 1.11], id="the most frequent"),
        pytest.param([3.33, 3.3], [3.3, 3.3], id="of equally frequent ones the roundest"),
        pytest.param([9.9, 10.1], [9.9, 9.9], id="of equally round ones the lowest"),
        pytest.param([10.0, 10.3, 10.6], [10.0, 10.6, 10.6], id="a chain is cut, not followed; the nearer counts"),
        pytest.param([10.0, 10.3, 10.3, 10.6], [10.3, 10.3, 10.3, 10.3], id="round the middle where that is frequent"),
        pytest.param([10.0, 10.4], [10.0, 10.4], id="further apart than the gap"),
        pytest.param([0.0, np.nan, 1e-9], [0.0, np.nan, 1e-9], id="no dose, none known, hardly any"),
        pytest.param([], [], id="no rows"),
    ],
)
def test_near_identical_doses_have_one_nominal_dose(doses: list[float], nominal: list[float]) -> None:
    given_doses = pd.Series(doses, dtype=float, index=[f"well{n}" for n in range(len(doses))])
    found = shared_nominal_dose_uM(given_doses, [pd.Series("x", index=given_doses.index)])
    np.testing.assert_array_equal(found, nominal)
    assert found.index.equals(given_doses.index)


def test_doses_are_brought_together_within_a_compound_and_vehicle_and_frequent_in_the_dataset() -> None:
    obs = pd.DataFrame(
        [("a", 0.1, 10.0), ("a", 0.1, 10.2), ("b", 0.1, 10.2), ("b", 0.1, 10.2), ("a", 0.2, 10.0), (None, 0.1, 10.0), (None, 0.1, 10.1)],
        columns=["compound", "vehicle", "dose"],
    )
    found = shared_nominal_dose_uM(obs["dose"], [obs["compound"], obs["vehicle"]])
    # of a's two doses both are equally frequent in a, but the dataset has 10.0 three times, and 10.2 three times: the rounder
    assert found.tolist() == [10.0, 10.0, 10.2, 10.2, 10.0, 10.0, 10.0]
    assert set(shared_nominal_dose_uM(obs["dose"], [])) == {10.0}


DOSES = st.lists(
    st.tuples(st.sampled_from("ab"), st.one_of(st.floats(1e-4, 1e3), st.integers(950, 1050).map(lambda n: n / 100))),
    min_size=1,
    max_size=40,
)


@given(DOSES, st.randoms(use_true_random=False))
def test_nominal_doses_keep_order_stay_near_and_are_their_own(rows: list[tuple[str, float]], random) -> None:
    obs = pd.DataFrame(rows, columns=["compound", "dose"])
    obs["nominal"] = shared_nominal_dose_uM(obs["dose"], [obs["compound"]])
    shuffled = obs.loc[random.sample(list(obs.index), len(obs))]
    pd.testing.assert_series_equal(
        shared_nominal_dose_uM(shuffled["dose"], [shuffled["compound"]]).sort_index(), obs["nominal"], check_names=False
    )
    np.testing.assert_array_equal(shared_nominal_dose_uM(obs["nominal"], [obs["compound"]]), obs["nominal"])
    # four digits move a dose by up to half a thousandth
    assert (np.abs(np.log10(obs["nominal"] / obs["dose"])) <= NOMINAL_GAP + np.log10(1.0005) + 1e-9).all()
    for _, one in obs.sort_values("dose").groupby("compound"):
        assert one["nominal"].is_monotonic_increasing
        assert (np.diff(np.log10(one["nominal"].unique())) > NOMINAL_GAP).all()
