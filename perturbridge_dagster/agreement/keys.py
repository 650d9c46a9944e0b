"""Keys of a condition: compound, cell context, time and dose, made comparable once for the whole stage.

Belongs here: the one rule by which two compounds, times or doses are the same. Does not belong here: which conditions of two
datasets are matched (``matching.py``).

Times and doses are equal when they agree to 12 significant digits (C format ``%.12g``). Nothing is rounded to whole numbers, so
a dose of 1e-9 µM stays what it is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.errors import InputError

CONDITION_COLUMNS = ("pubchem_cid", "cell_type", "pert_time_h", "pert_dose_uM")

_WORDS_FOR_MISSING = frozenset({"", "nan", "none", "<na>"})


def number_key(value: float) -> str:
    """Key of a time or dose: 12 significant digits, ``"0"`` for negative zero."""
    text = f"{value:.12g}"
    return "0" if text == "-0" else text


def number_keys(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers that are equal exactly when their keys are.

    Parameters
    ----------
    values
        Times (h) or doses (µM), any shape; NaN stays NaN.

    Returns
    -------
    Values rounded to the digits of :func:`number_key`, same shape.
    """
    distinct, position = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    rounded = np.array([float(number_key(value)) for value in distinct], dtype=np.float64)
    return rounded[position].reshape(np.shape(values))


def numbers(conditions: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """One numeric column as float64, missing values as NaN.

    Raises
    ------
    InputError
        If the column holds text that is no number.
    """
    try:
        return pd.to_numeric(conditions[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"not all values are numbers ({error}).", column=column, expected="numbers") from error


def clean_text(column: pd.Series[str]) -> pd.Series[str]:
    """Text without surrounding space; null where missing or a word for missing (nan, none, <na>)."""
    codes, distinct = pd.factorize(column.astype(object), use_na_sentinel=True)
    cleaned = [str(value).strip() for value in distinct]
    words = np.array([None if word.lower() in _WORDS_FOR_MISSING else word for word in cleaned] + [None], dtype=object)
    return pd.Series(words[codes], index=column.index, dtype=object)


def compound_keys(conditions: pd.DataFrame) -> pd.Series[int]:
    """PubChem ids as whole numbers, so that 2244, 2244.0 and "2244" are one compound.

    Parameters
    ----------
    conditions
        Table with a column ``pubchem_cid`` of whole numbers, in any numeric type or as text; nulls allowed.

    Returns
    -------
    Column of type Int64.

    Raises
    ------
    InputError
        If a value is no whole number, or negative (a sentinel such as -666 would match itself).
    """
    column = conditions["pubchem_cid"]
    if pd.api.types.is_integer_dtype(column.dtype):
        found = column.astype("Int64")
    else:
        text = clean_text(column)
        number = pd.to_numeric(text, errors="coerce").astype("Float64")
        wrong = text.notna() & ~(number.notna() & (number % 1 == 0)).fillna(False).astype(bool)
        if wrong.any():
            raise InputError(
                f"{int(wrong.sum()):,} PubChem ids are not whole numbers, for example {text[wrong].iloc[0]!r}.",
                rows=np.flatnonzero(wrong.to_numpy()).tolist(),
                column="pubchem_cid",
                expected="whole numbers; null where no id is known",
            )
        found = number.astype("Int64")
    negative = (found < 0).fillna(False).astype(bool)
    if negative.any():
        raise InputError(
            f"{int(negative.sum()):,} PubChem ids are negative, for example {found[negative].iloc[0]}.",
            rows=np.flatnonzero(negative.to_numpy()).tolist(),
            column="pubchem_cid",
            expected="positive whole numbers; null where no id is known",
            advice="Replace sentinels such as -666 by nulls.",
        )
    return found


def condition_text(cid: int, cell_type: str, time: float, *doses: float) -> str:
    """Key of a condition, or with two doses of a matched pair, as text: ``2244|CVCL_0023|24|10`` (h, µM)."""
    return "|".join([str(int(cid)), cell_type, *map(number_key, (time, *doses))])


def condition_keys(conditions: pd.DataFrame) -> pd.DataFrame:
    """Keys of conditions, and which of them can be compared at all.

    Parameters
    ----------
    conditions
        Table with columns ``pubchem_cid``, ``cell_type``, ``pert_time_h`` (h) and ``pert_dose_uM`` (µM).

    Returns
    -------
    One row a condition, indexed by position: ``pubchem_cid`` (Int64), ``cell_type``, ``pert_time_h`` and ``pert_dose_uM`` (rounded to
    their keys), ``eligible``: PubChem id and cell context known, time finite, dose finite and above zero.

    Raises
    ------
    InputError
        If a column is missing or holds values of the wrong kind.
    """
    missing = [name for name in CONDITION_COLUMNS if name not in conditions.columns]
    if missing:
        raise InputError(f"the table of conditions lacks {', '.join(missing)}.", expected=f"columns {', '.join(CONDITION_COLUMNS)}")
    conditions = conditions.reset_index(drop=True)
    time, dose = (number_keys(numbers(conditions, name)) for name in ("pert_time_h", "pert_dose_uM"))
    keys = pd.DataFrame(
        {
            "pubchem_cid": compound_keys(conditions),
            "cell_type": clean_text(conditions["cell_type"]),
            "pert_time_h": time,
            "pert_dose_uM": dose,
        }
    )
    known = (keys["pubchem_cid"].notna() & keys["cell_type"].notna()).to_numpy()
    with np.errstate(invalid="ignore"):
        keys["eligible"] = known & np.isfinite(time) & np.isfinite(dose) & (dose > 0)
    return keys
