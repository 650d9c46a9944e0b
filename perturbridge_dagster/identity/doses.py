"""Doses in µM and times in h, from the words and units of a source.

Belongs here: units and the reading of value-and-unit texts. Does not belong here: which columns hold them (``sources/``), or that a
control's dose is 0, which a reader knows and a parser does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.identity.tables import cleaned_text

# Casefolding turns the micro sign (U+00B5) into the Greek letter mu (U+03BC), so one spelling of each covers both.
UNITS_IN_uM: Mapping[str, float] = {
    "M": 1e6,
    "mm": 1e3,
    "um": 1.0,
    "μm": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "mol/l": 1e6,
    "mmol/l": 1e3,
    "umol/l": 1.0,
    "μmol/l": 1.0,
    "nmol/l": 1e-3,
    "pmol/l": 1e-6,
    "molar": 1e6,
    "millimolar": 1e3,
    "micromolar": 1.0,
    "nanomolar": 1e-3,
    "picomolar": 1e-6,
}
UNITS_IN_H: Mapping[str, float] = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 1.0),
    **dict.fromkeys(("d", "day", "days"), 24.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 1 / 60),
}

NOMINAL_GAP = 0.015
"""Largest distance, in log10, of a dose from the nominal dose it is counted as: 3.5 %, as the published DILImap analysis has it."""

# A comma is a thousands separator only between groups of three digits; "0,05" is not read as 5.
_NUMBER = r"[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = rf"^(?P<number>{_NUMBER})\s*(?P<unit>(?:[^\W\d_]+(?:/[lL])?)?)$"


def _to_digits(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Numbers rounded to significant decimal digits; each distinct one is rounded once."""
    distinct, position = np.unique(values, return_inverse=True)
    return np.array([float(f"{value:.{digits}g}") for value in distinct], dtype=float)[position]


def _parse(values: pd.Series, units: pd.Series | None, factors: Mapping[str, float]) -> pd.Series:
    """Numbers times the factor of their unit; NaN where number or unit is not understood, or the quantity is negative."""
    parts = cleaned_text(values).astype("string").str.extract(_QUANTITY)
    if units is not None:
        # a unit in the value and another beside it contradict each other
        parts["unit"] = cleaned_text(units).set_axis(parts.index).astype("string").where(parts["unit"] == "")
    number = parts["number"].str.replace(",", "").astype(float).to_numpy(dtype=float, na_value=np.nan)
    unit = parts["unit"].where(parts["unit"] == "M", parts["unit"].str.casefold())
    factor = unit.map(factors).to_numpy(dtype=float, na_value=np.nan)
    quantity = np.where(number >= 0, number * factor, np.nan)
    quantity[~np.isfinite(quantity)] = np.nan
    converted = np.isfinite(quantity) & (factor != 1)
    # 0.3 nM times 0.001 is 0.00030000000000000003; 12 digits are far beyond any pipette
    quantity[converted] = _to_digits(quantity[converted], 12)
    return pd.Series(quantity, index=values.index, name=values.name, dtype="float64")


def parse_dose_uM(values: pd.Series, units: pd.Series | None = None) -> pd.Series:
    """Doses in µM.

    Parameters
    ----------
    values
        Texts with a unit (``0.05uM``, ``10.0nM``, ``1,000 nM``), or numbers or number texts where `units` is given.
    units
        Units beside the numbers, row by row: M, mM, µM (``u``, U+00B5 or U+03BC), nM, pM, the same as mol/l, or the words; in any
        case but for M.

    Returns
    -------
    float64 Series, same index, in µM. NaN where the value is missing (null, blank, -666), negative or not understood, or the unit is
    unknown; see :func:`unparsed`. Values that needed a conversion are rounded to 12 significant digits, which undoes its noise.
    """
    return _parse(values, units, UNITS_IN_uM)


def parse_time_h(values: pd.Series, units: pd.Series | None = None) -> pd.Series:
    """Times in hours; as :func:`parse_dose_uM`, with hours, days and minutes.

    Parameters
    ----------
    values
        Texts with a unit (``24.0h``, ``3 d``), or numbers where `units` is given.
    units
        Units beside the numbers, row by row: h, hr, hrs, hour, hours, d, day, days, m, min, mins, minute, minutes.

    Returns
    -------
    float64 Series, same index, in hours; NaN where it cannot be read.
    """
    return _parse(values, units, UNITS_IN_H)


def unparsed(values: pd.Series, parsed: pd.Series) -> pd.Series:
    """Source values that say something which was not understood, by row; missing values are not among them.

    Parameters
    ----------
    values
        The source values.
    parsed
        What :func:`parse_dose_uM` or :func:`parse_time_h` made of them.
    """
    said = cleaned_text(values)
    return values[said.notna() & parsed.isna()]


def rounded_dose_uM(doses: pd.Series) -> NDArray[np.float64]:
    """Doses to four significant digits, at which those that were meant to be one are one: 9.99999 and 10 µM.

    Sources write a dose in several ways and dispense it no better than to a per cent. The published analysis rounds to four
    decimals instead, which makes doses below 0.00005 µM one dose of zero.

    Parameters
    ----------
    doses
        Doses in µM; null stays NaN.
    """
    return _to_digits(doses.to_numpy(dtype=np.float64, na_value=np.nan), 4)


def shared_nominal_dose_uM(doses: pd.Series, groups: Sequence[pd.Series]) -> pd.Series:
    """The dose that was meant, one for all near-identical doses of a group.

    Doses are brought to four significant digits first. Of those of a group, the one most frequent in the dataset is nominal; of equally
    frequent ones the one with fewest digits, then the lowest. Every other dose within :data:`NOMINAL_GAP` of it can no longer be
    nominal, and so on with those that are left. Then each dose is counted as the nearest nominal dose. So nominal doses of a group are
    further apart than the gap, no dose is further from its own than the gap, a higher dose never has a lower nominal dose, and nominal
    doses are their own: chains of dispensed doses cannot drift into one.

    Parameters
    ----------
    doses
        Doses of a whole dataset in µM; 0 stays 0, null stays NaN.
    groups
        Series with the index of `doses`; rows that agree in all of them are one group, such as a compound under one vehicle. Nulls
        agree with each other.

    Returns
    -------
    float64 Series, same index, in µM. The order of rows does not matter.
    """
    rounded = rounded_dose_uM(doses)
    keys = pd.DataFrame({number: values.to_numpy() for number, values in enumerate(groups)})
    group = keys.groupby(list(keys), dropna=False).ngroup().to_numpy() if len(groups) else np.zeros(len(doses), dtype=np.int64)
    positive = rounded > 0
    pairs = pd.DataFrame({"group": group[positive], "dose": rounded[positive]})
    frequency = pairs["dose"].value_counts()
    distinct = pairs.drop_duplicates().sort_values(["group", "dose"])
    near = (distinct["group"].diff() == 0) & (np.log10(distinct["dose"]).diff() <= NOMINAL_GAP)
    nominal = distinct["dose"].to_numpy().copy()
    # few groups have doses to bring together
    for number in distinct.loc[near, "group"].unique():
        start, stop = np.searchsorted(distinct["group"], [number, number + 1])
        values = nominal[start:stop]
        nominal[start:stop] = _nearest_nominal(values, frequency[values].to_numpy())
    meant = pairs.merge(distinct.assign(nominal=nominal), on=["group", "dose"], how="left")["nominal"]
    result = rounded.copy()
    result[positive] = meant.to_numpy()
    return pd.Series(result, index=doses.index, name="nominal_dose_uM")


def _nearest_nominal(doses: NDArray[np.float64], frequency: NDArray[Any]) -> NDArray[np.float64]:
    """Nominal dose of each of some distinct, ascending doses."""
    places = np.log10(doses)
    n_digits = np.array([len(f"{dose:.3e}".partition("e")[0].rstrip("0")) for dose in doses])
    nominal: list[int] = []
    for position in np.lexsort((doses, n_digits, -frequency)):
        if all(abs(places[position] - places[other]) > NOMINAL_GAP for other in nominal):
            nominal.append(int(position))
    nominal.sort()
    nearest = np.abs(places[:, None] - places[nominal][None, :]).argmin(axis=1)
    chosen: NDArray[np.float64] = doses[np.array(nominal)[nearest]]
    return chosen
