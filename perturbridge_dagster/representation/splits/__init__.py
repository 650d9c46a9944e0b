"""Splits: who is held out, and what that promises.

Belongs here: the splits by name, with their promises. Does not belong here: their rules (``published.py``, ``holdouts.py``), how promises
are checked (``promises.py``), or what conditions are (``conditions.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.splits.conditions import CONTROL, HELD_OUT, SPLITS, UNIT
from perturbridge_dagster.representation.splits.holdouts import split_assays, split_contexts, split_model_systems, split_scaffolds
from perturbridge_dagster.representation.splits.promises import PROMISES, overlaps, violations
from perturbridge_dagster.representation.splits.published import (
    assign_units,
    held_out_molecules,
    split_molecules,
    split_scalar,
    summarize_units,
)


@dataclass(frozen=True)
class Split:
    """A way to hold conditions out.

    Attributes
    ----------
    name
        Its name.
    meaning
        The question that a score on it answers.
    assign
        Conditions and seed → conditions with a column ``split``.
    promises
        Names of ``PROMISES`` that it makes.
    """

    name: str
    meaning: str
    assign: Callable[..., pd.DataFrame]
    promises: tuple[str, ...]


_SPLITS = (
    Split(
        "scalar",
        "A compound that is trained elsewhere, perhaps in another cell context of the same dataset. As published; unseen compounds are "
        "not tested.",
        split_scalar,
        ("unit", "cid_in_val_and_test", "cid_trained"),
    ),
    Split(
        "molecules",
        "A compound that is unseen in its dataset and trained in another: transfer between datasets. As published.",
        partial(split_molecules, by="cid"),
        ("cid_in_target_dataset", "cid_trained"),
    ),
    Split(
        "parents",
        "The same, with salts and stereoisomers of a compound held out together.",
        partial(split_molecules, by="parent"),
        ("parent_in_target_dataset", "cid_in_target_dataset", "parent_trained"),
    ),
    Split("contexts", "Cells that no dataset trains.", split_contexts, ("context",)),
    Split("model_systems", "A kind of model system that no dataset trains.", split_model_systems, ("model_system",)),
    Split("assays", "An assay that is not trained.", split_assays, ("assay",)),
    Split("scaffolds", "Chemistry that is trained nowhere.", split_scaffolds, ("scaffold_anywhere", "parent_anywhere", "cid_anywhere")),
)

SPLIT_RULES = {split.name: split for split in _SPLITS}
"""Every split, by name."""


def split_conditions(conditions: pd.DataFrame, rule: str, *, seed: int = 13) -> pd.DataFrame:
    """Split conditions by a named rule.

    Parameters
    ----------
    conditions
        One row a condition, with the columns that the rule needs.
    rule
        A name of ``SPLIT_RULES``.
    seed
        Seed of the split.

    Returns
    -------
    DataFrame
        `conditions` in its own order and index, with a column ``split`` of train, val and test.

    Raises
    ------
    InputError
        If no split is called so, or the conditions do not suit it.
    """
    if rule not in SPLIT_RULES:
        raise InputError(f"no split is called {rule!r}", expected=", ".join(SPLIT_RULES))
    return SPLIT_RULES[rule].assign(conditions, seed=seed)


__all__ = [
    "CONTROL",
    "HELD_OUT",
    "PROMISES",
    "SPLITS",
    "SPLIT_RULES",
    "UNIT",
    "Split",
    "assign_units",
    "held_out_molecules",
    "overlaps",
    "split_assays",
    "split_conditions",
    "split_contexts",
    "split_model_systems",
    "split_molecules",
    "split_scaffolds",
    "split_scalar",
    "summarize_units",
    "violations",
]
