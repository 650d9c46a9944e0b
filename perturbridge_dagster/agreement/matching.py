"""Matching: which conditions of two datasets are compared.

Belongs here: mutual nearest doses of the same compound, cell context and time. Does not belong here: the named options that leave
matches out (``selection.py``), or scores (``scoring.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.keys import condition_keys, numbers
from perturbridge_dagster.agreement.signatures import StratumEffects
from perturbridge_dagster.contract import MATCHED_CONDITIONS
from perturbridge_dagster.errors import InputError

DOSE_TOLERANCE = 1e-12
"""Differences of log10 doses up to this are rounding: a tie is a tie, and a gap at the limit is within it."""

_COLUMNS = {
    "pubchem_cid": "int64",
    "cell_type": "object",
    "pert_time_h": "float64",
    "left_pert_dose_uM": "float64",
    "right_pert_dose_uM": "float64",
    "left_row": "int64",
    "right_row": "int64",
    "log10_dose_gap": "float64",
}
_GROUP = ["pubchem_cid", "cell_type", "pert_time_h"]
_ORDER = [*_GROUP, "left_pert_dose_uM", "right_pert_dose_uM", "left_row", "right_row"]


@dataclass(frozen=True)
class _Doses:
    """Distinct log10 doses of each group, sorted by group, then dose; and the rows that have each.

    Rows of dose k are ``rows[first[k] : first[k] + count[k]]``.
    """

    group: NDArray[np.int64]
    log10_dose: NDArray[np.float64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    rows: NDArray[np.int64]


def _distinct_doses(group: NDArray[np.int64], log10_dose: NDArray[np.float64], rows: NDArray[np.int64]) -> _Doses:
    order = np.lexsort((rows, log10_dose, group))
    group, log10_dose, rows = group[order], log10_dose[order], rows[order]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = (group[1:] != group[:-1]) | (log10_dose[1:] != log10_dose[:-1])
    first = np.flatnonzero(is_first)
    return _Doses(group[first], log10_dose[first], first, np.diff(first, append=len(rows)), rows)


def _positions(doses: _Doses, group: NDArray[np.int64], value: NDArray[np.float64], *, after_equal: bool) -> NDArray[np.int64]:
    """Where values belong among the sorted doses of their groups: ``numpy.searchsorted``, group by group in one sort."""
    is_query = np.repeat([False, True], [len(doses.group), len(group)])
    side = is_query if after_equal else ~is_query
    order = np.lexsort((side, np.concatenate([doses.log10_dose, value]), np.concatenate([doses.group, group])))
    queries = is_query[order]
    positions = np.empty(len(group), dtype=np.int64)
    positions[order[queries] - len(doses.group)] = np.cumsum(~queries)[queries]
    return positions


def _nearest_gap(doses: _Doses, others: _Doses) -> NDArray[np.float64]:
    """Distance of each dose to the nearest of the other side's in its group; infinite where that has none."""
    after = _positions(others, doses.group, doses.log10_dose, after_equal=False)
    nearest = np.full(len(doses.group), np.inf)
    for neighbour in (after - 1, after):
        inside = (neighbour >= 0) & (neighbour < len(others.group))
        inside[inside] &= others.group[neighbour[inside]] == doses.group[inside]
        gap = np.abs(doses.log10_dose[inside] - others.log10_dose[neighbour[inside]])
        nearest[inside] = np.minimum(nearest[inside], gap)
    return nearest


def _count_up(count: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, … n-1 for each n of `count`, one after the other."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def _mutual_nearest(left: _Doses, right: _Doses, limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of doses that are nearest to each other, ties kept, at most `limit` apart."""
    left_nearest, right_nearest = _nearest_gap(left, right), _nearest_gap(right, left)
    # No dose lies nearer than the nearest, so whatever lies in this window ties with it; the exact test below settles rounding.
    reach = left_nearest + 2 * DOSE_TOLERANCE
    start = _positions(right, left.group, left.log10_dose - reach, after_equal=False)
    count = _positions(right, left.group, left.log10_dose + reach, after_equal=True) - start
    i = np.repeat(np.arange(len(left.group)), count)
    j = np.repeat(start, count) + _count_up(count)
    gap = np.abs(left.log10_dose[i] - right.log10_dose[j])
    keep = (gap - left_nearest[i] <= DOSE_TOLERANCE) & (gap - right_nearest[j] <= DOSE_TOLERANCE) & (gap <= limit + DOSE_TOLERANCE)
    return i[keep], j[keep], gap[keep]


def match_conditions(left: pd.DataFrame, right: pd.DataFrame, *, max_log10_dose_gap: float = 1.0) -> pd.DataFrame:
    """Match the conditions of two datasets.

    Two conditions match when compound, cell context and time are the same and, among the doses of that group, each is the other's
    nearest on the log10 scale, at most `max_log10_dose_gap` apart. All ties are kept: a dose midway between two doses of the other
    dataset gives two matches, and rows of one key and dose all match. Rows without a compound id, cell context, finite time or
    finite positive dose match nothing. No further filter is applied.

    Parameters
    ----------
    left, right
        Conditions with columns ``pubchem_cid``, ``cell_type``, ``pert_time_h`` (h) and ``pert_dose_uM`` (µM).
    max_log10_dose_gap
        Largest difference of log10 doses; 1 is a factor of ten.

    Returns
    -------
    One row a match, sorted: ``pubchem_cid`` (int64), ``cell_type``, ``pert_time_h``, ``left_pert_dose_uM``,
    ``right_pert_dose_uM``, ``left_row``, ``right_row`` (positions in the tables given), ``log10_dose_gap``.

    Raises
    ------
    InputError
        If a column is missing or of the wrong kind, or the gap is negative or not finite.
    """
    if not (np.isfinite(max_log10_dose_gap) and max_log10_dose_gap >= 0):
        raise InputError(f"max_log10_dose_gap is {max_log10_dose_gap}.", expected="a finite number, zero or more")
    sides = [condition_keys(left), condition_keys(right)]
    eligible = [np.flatnonzero(keys["eligible"]).astype(np.int64) for keys in sides]
    keys = pd.concat([side.iloc[rows] for side, rows in zip(sides, eligible, strict=True)], ignore_index=True)
    group = keys.groupby(_GROUP, sort=True).ngroup().to_numpy().astype(np.int64)
    groups = (group[: len(eligible[0])], group[len(eligible[0]) :])
    dose = [numbers(side, "pert_dose_uM") for side in (left, right)]
    doses = [_distinct_doses(codes, np.log10(amounts[rows]), rows) for codes, amounts, rows in zip(groups, dose, eligible, strict=True)]
    i, j, gap = _mutual_nearest(doses[0], doses[1], max_log10_dose_gap)

    # Each pair of doses stands for all pairs of the rows that have them.
    n_right = doses[1].count[j]
    n_pairs = doses[0].count[i] * n_right
    k = _count_up(n_pairs)
    left_row = doses[0].rows[np.repeat(doses[0].first[i], n_pairs) + k // np.repeat(n_right, n_pairs)]
    right_row = doses[1].rows[np.repeat(doses[1].first[j], n_pairs) + k % np.repeat(n_right, n_pairs)]
    matched: pd.DataFrame = sides[0].loc[left_row, _GROUP].reset_index(drop=True)
    matched = matched.assign(
        left_pert_dose_uM=dose[0][left_row],
        right_pert_dose_uM=dose[1][right_row],
        left_row=left_row,
        right_row=right_row,
        log10_dose_gap=np.repeat(gap, n_pairs),
    )
    return matched[list(_COLUMNS)].astype(_COLUMNS).sort_values(_ORDER, ignore_index=True)


def _contrasts(strata: Mapping[str, StratumEffects]) -> pd.DataFrame:
    """Contrasts of strata in the order of their names, one table."""
    columns = ["contrast", "estimable", "pubchem_cid", "cell_type", "pert_time_h", "pert_dose_uM"]
    tables = [effects.contrasts[columns].assign(stratum=name) for name, effects in sorted(strata.items())]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*columns, "stratum"])


def match_strata(
    left: Mapping[str, StratumEffects],
    right: Mapping[str, StratumEffects],
    left_dataset: str,
    right_dataset: str,
    max_log10_dose_gap: float = 1.0,
) -> pd.DataFrame:
    """Match the estimable contrasts of two datasets.

    Parameters
    ----------
    left, right
        Effects by stratum name.
    left_dataset, right_dataset
        Dataset ids.
    max_log10_dose_gap
        See :func:`match_conditions`.

    Returns
    -------
    The table MATCHED_CONDITIONS of the contract. ``left_row`` and ``right_row`` count through all contrasts of a dataset, strata in
    the order of their names.

    Raises
    ------
    InputError
        See :func:`match_conditions`.
    """
    tables = [_contrasts(left), _contrasts(right)]
    estimable = [np.flatnonzero(table["estimable"].to_numpy(dtype=bool)) for table in tables]
    usable = [table.iloc[rows] for table, rows in zip(tables, estimable, strict=True)]
    matched = match_conditions(*usable, max_log10_dose_gap=max_log10_dose_gap)
    for side, table, rows in zip(("left", "right"), tables, estimable, strict=True):
        matched[f"{side}_row"] = rows[matched[f"{side}_row"].to_numpy()]
        found = table.iloc[matched[f"{side}_row"].to_numpy()]
        matched[f"{side}_stratum"] = found["stratum"].to_numpy(dtype=object)
        matched[f"{side}_contrast"] = found["contrast"].to_numpy(dtype=np.int32)
    return matched.assign(left_dataset=left_dataset, right_dataset=right_dataset)[MATCHED_CONDITIONS.names]


def strata_columns(matched: pd.DataFrame) -> list[str]:
    """Columns that name what is compared: datasets where the table has them, cell context and time."""
    return [name for name in ("left_dataset", "right_dataset", "cell_type", "pert_time_h") if name in matched.columns]


def matched_strata_report(matched: pd.DataFrame) -> pd.DataFrame:
    """What was matched in each cell context and time.

    Parameters
    ----------
    matched
        Table of :func:`match_conditions` or :func:`match_strata`.

    Returns
    -------
    One row a (pair of datasets,) cell context and time, sorted: ``n_compounds``, ``n_matches`` and ``median_log10_dose_gap``.
    """
    groups = matched.groupby(strata_columns(matched), sort=True)
    return groups.agg(
        n_compounds=("pubchem_cid", "nunique"), n_matches=("pubchem_cid", "size"), median_log10_dose_gap=("log10_dose_gap", "median")
    ).reset_index()
