"""Every split of the same conditions: which rules suit them, and what each came to.

Belongs here: applying all rules to one table of conditions, and saying of each how it turned out. Does not belong here: the rules
(``published.py``, ``holdouts.py``) or what they promise (``promises.py``).

A rule suits conditions where it leaves some for train, for val and for test. A dataset that shares no compound with another has no molecule
to hold out, and two assays cannot be held out of two: then the rule has no split there, and a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.splits import (
    SPLIT_RULES,
    SPLITS,
    assign_units,
    held_out_molecules,
    overlaps,
    split_conditions,
    summarize_units,
    violations,
)

SCALAR = "scalar"
"""The rule by which shards are cut, whose column is ``split``."""

_GOES_BY = {"model_systems": "model_system", "assays": "assay", "scaffolds": "scaffold"}
"""Rule → the column without which it has nothing to go by."""

_MAY_BE_NULL = ("scaffolds",)
"""Rules in which a condition takes part though that column is null."""

_MOLECULES: dict[str, Literal["cid", "parent"]] = {"molecules": "cid", "parents": "parent"}


@dataclass(frozen=True)
class Assignment:
    """What a split rule makes of some conditions.

    Attributes
    ----------
    rule
        Its name.
    split
        (conditions,) train, val or test; null where a condition takes no part, and throughout where the rule does not suit.
    reason
        Why the rule does not suit; None where it does.
    moves
        How it came about, by the published rules: units that moved, or molecules that are held out; no columns for other rules.
    """

    rule: str
    split: pd.Series
    reason: str | None = None
    moves: pd.DataFrame = field(default_factory=pd.DataFrame)


def split_column(rule: str) -> str:
    """Column of a split rule in a table of conditions."""
    return "split" if rule == SCALAR else f"split_{rule}"


def assign(conditions: pd.DataFrame, rule: str, *, seed: int) -> Assignment:
    """Apply a split rule to the conditions that it has something to go by.

    Parameters
    ----------
    conditions
        One row a condition: dataset, context, perturbation, and parent_key, assay, model_system and scaffold, which may be null.
    rule
        A name of ``SPLIT_RULES``.
    seed
        Seed of the split.
    """
    none = pd.Series(None, index=conditions.index, dtype=object)
    column = _GOES_BY.get(rule)
    known = conditions[conditions[column].notna()] if column else conditions
    if known.empty:
        return Assignment(rule, none, f"no condition has a {column}")
    try:
        found = split_conditions(conditions if rule in _MAY_BE_NULL else known, rule, seed=seed)["split"]
    except InputError as error:
        return Assignment(rule, none, str(error))
    empty = [name for name in SPLITS if not (found == name).any()]
    # the scalar split is what shards are cut by, so it stands whatever it came to
    if empty and rule != SCALAR:
        return Assignment(rule, none, f"no condition is left for {' and '.join(empty)}")
    found = found.reindex(conditions.index).astype(object)
    return Assignment(rule, found.where(found.notna(), None), moves=_moves(conditions, rule, seed))


def _moves(conditions: pd.DataFrame, rule: str, seed: int) -> pd.DataFrame:
    if rule == SCALAR:
        return summarize_units(assign_units(conditions, seed=seed))
    return held_out_molecules(conditions, by=_MOLECULES[rule], seed=seed) if rule in _MOLECULES else pd.DataFrame()


def conditions_by(conditions: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The conditions that take part in a split rule, with its split as column ``split``."""
    split = conditions[split_column(rule)]
    return conditions.assign(split=split)[split.notna()]


def report(conditions: pd.DataFrame, assignment: Assignment) -> dict[str, Any]:
    """What a split came to, as plain values.

    Parameters
    ----------
    conditions
        With the column of the rule.
    assignment
        Of the rule.

    Returns
    -------
    dict
        meaning, suits, reason, promises, n_conditions (train, val, test, none), n_violations, overlaps (see :func:`promises.overlaps`) and
        moves.
    """
    rule, suits = SPLIT_RULES[assignment.rule], assignment.reason is None
    split = conditions[split_column(assignment.rule)]
    taking_part = conditions_by(conditions, assignment.rule)
    return {
        "meaning": rule.meaning,
        "suits": suits,
        "reason": assignment.reason,
        "promises": list(rule.promises),
        "n_conditions": {**{name: int((split == name).sum()) for name in SPLITS}, "none": int(split.isna().sum())},
        "n_violations": int(violations(taking_part, rule.promises)["n_conditions"].sum()) if suits else 0,
        "overlaps": _records(overlaps(taking_part, rule.promises)) if suits else [],
        "moves": _records(assignment.moves),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")]
