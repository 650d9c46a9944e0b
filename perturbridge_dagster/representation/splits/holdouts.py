"""Splits that hold out whole groups: a cell context, a kind of model system, an assay, a scaffold.

Belongs here: choosing groups, by name or by a rule. Does not belong here: what a split promises (``promises.py``), or the published
splits (``published.py``).

A random hold-out of conditions leaves the same compound in the same cells in train, at another dose. These splits ask what a user of a
model asks: does it hold in cells, on an assay, for chemistry that it was never trained on?
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.splits.conditions import CONTROL, HELD_OUT, require_columns, symbols_of

SHARE = 0.1
"""Share of the conditions that val, and test, are to have."""

_MOST_HELD_OUT = 1 / 3
"""A group with a larger share of the conditions is trained, unless it is named: without it there would be little to train on."""


def split_groups(
    conditions: pd.DataFrame,
    column: str,
    *,
    val: Collection[str] = (),
    test: Collection[str] = (),
    share: float = SHARE,
    seed: int = 13,
) -> pd.DataFrame:
    """Hold whole groups of conditions out.

    Without names, groups are walked in the order of SHA-256 of ``"<seed>:<column>:<group>"``, so that another group changes the place
    of none. Each that has a third of the conditions or less goes to whichever of val and test has fewer conditions, val first, while
    that has fewer than `share` of all, and while something is left to train on.

    Parameters
    ----------
    conditions
        One row a condition, with `column`: text without missing values.
    column
        What makes a group, such as context or assay.
    val, test
        Groups to hold out, by name. With any, no other is held out.
    share
        Share of the conditions that val, and test, are to have at least.
    seed
        Part of the text that decides the order.

    Returns
    -------
    DataFrame
        `conditions` in its own order and index, with a column ``split``.

    Raises
    ------
    InputError
        If there are fewer than three groups, if no group is small enough to be held out, or if a name is no group, is given twice, or
        nothing would be left to train on.
    """
    require_columns(conditions, [column])
    group = symbols_of(conditions, column)
    sizes = group.value_counts()
    named = val or test
    chosen = _by_name(column, sorted(sizes.index), val, test) if named else _by_size(column, sizes, share * len(conditions), seed)
    return conditions.assign(split=group.map(chosen).fillna("train").astype(object).to_numpy())


def _by_name(column: str, groups: list[str], val: Collection[str], test: Collection[str]) -> dict[str, str]:
    named = [*val, *test]
    if unknown := sorted(set(named) - set(groups)):
        raise InputError(f"no conditions of {', '.join(unknown)}", column=column, expected=f"some of {', '.join(groups)}")
    if len(set(named)) < len(named):
        raise InputError("a group is held out twice", column=column, rows=sorted(name for name in set(named) if named.count(name) > 1))
    if set(named) == set(groups):
        raise InputError("every group is held out", column=column, advice="Leave one to train on.")
    return {name: split for split, names in zip(HELD_OUT, (val, test), strict=True) for name in names}


def _by_size(column: str, sizes: pd.Series, target: float, seed: int) -> dict[str, str]:
    if len(sizes) < 3:
        raise InputError(
            f"only {len(sizes)} groups: {', '.join(map(str, sizes.index))}", column=column, expected="three or more, to hold two out"
        )
    chosen: dict[str, str] = {}
    n_held_out = dict.fromkeys(HELD_OUT, 0)
    left = len(sizes)
    for name in sorted(sizes.index, key=lambda name: hashlib.sha256(f"{seed}:{column}:{name}".encode()).hexdigest()):
        split = min(HELD_OUT, key=lambda split: n_held_out[split])
        if left > 1 and n_held_out[split] < target and sizes[name] <= _MOST_HELD_OUT * sizes.sum():
            chosen[name] = split
            n_held_out[split] += int(sizes[name])
            left -= 1
    if not all(n_held_out.values()):
        raise InputError(
            "no two groups are small enough to be held out",
            column=column,
            rows=[f"{name}: {size}" for name, size in sizes.items()],
            expected="groups with a third of the conditions or less",
            advice="Name the groups to hold out.",
        )
    return chosen


def split_contexts(conditions: pd.DataFrame, *, seed: int = 13, val: Collection[str] = (), test: Collection[str] = ()) -> pd.DataFrame:
    """Hold cell contexts out of all datasets; see :func:`split_groups`."""
    return split_groups(conditions, "context", val=val, test=test, seed=seed)


def split_model_systems(conditions: pd.DataFrame, *, seed: int = 13, val: Collection[str] = (), test: Collection[str] = ()) -> pd.DataFrame:
    """Hold classes of model systems (cell lines, primary cells …) out; see :func:`split_groups`."""
    return split_groups(conditions, "model_system", val=val, test=test, seed=seed)


def split_assays(conditions: pd.DataFrame, *, seed: int = 13, val: Collection[str] = (), test: Collection[str] = ()) -> pd.DataFrame:
    """Train on some assays and hold others out; see :func:`split_groups`."""
    return split_groups(conditions, "assay", val=val, test=test, seed=seed)


def split_scaffolds(conditions: pd.DataFrame, *, seed: int = 13) -> pd.DataFrame:
    """Hold scaffolds out of all datasets: no held-out compound has the scaffold of a trained one.

    Parameters
    ----------
    conditions
        One row a condition: perturbation, parent_key and scaffold, both nullable. A compound without rings has no scaffold, and one
        without a structure has neither: salts of such a compound stay together by parent_key, and where that is missing too the
        perturbation stands for itself.
    seed
        See :func:`split_groups`.

    Returns
    -------
    DataFrame
        `conditions` in its own order and index, with a column ``split``; Control is trained.

    Raises
    ------
    InputError
        If a row is a combination of compounds, which has several scaffolds, or too few scaffolds are there.
    """
    scaffold = scaffolds_of(conditions)
    is_control = symbols_of(conditions, "perturbation") == CONTROL
    split = split_groups(pd.DataFrame({"scaffold": scaffold[~is_control]}), "scaffold", seed=seed)["split"]
    return conditions.assign(split=split.reindex(conditions.index).fillna("train"))


def scaffolds_of(conditions: pd.DataFrame) -> pd.Series:
    """What stands for the scaffold of each condition: its scaffold, else its parent structure, else its perturbation.

    Raises
    ------
    InputError
        If a row is a combination of compounds.
    """
    require_columns(conditions, ["perturbation", "parent_key", "scaffold"])
    perturbation = symbols_of(conditions, "perturbation")
    combined = perturbation.str.contains("+", regex=False)
    if combined.any():
        raise InputError(
            f"{int(combined.sum()):,} conditions combine compounds, which have several scaffolds",
            rows=sorted(perturbation[combined].unique()),
            column="perturbation",
            advice="Leave them out of the corpus, or take another split.",
        )
    scaffold, parent = conditions["scaffold"].astype(object), conditions["parent_key"].astype(object)
    stands = scaffold.where(scaffold.notna() & (scaffold != ""), parent)
    return stands.where(stands.notna(), perturbation).astype(str)
