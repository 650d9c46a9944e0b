"""What two datasets have in common, and what the check of their overlap says of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.agreement.overlap import Overlap, overlap
from perturbridge_dagster.quality.agreement import _overlap
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects

Condition = tuple[int | None, str, float, float]


def effects(*conditions: Condition, names: list[str] | None = None, estimable: bool = True) -> dict[str, EffectsInMemory]:
    made = make_effects(conditions, np.zeros((len(conditions), 2)), estimable=estimable)
    if names:
        made.contrasts["perturbagen"] = names
    return {"stratum": made}


ASPIRIN, VORINOSTAT = 2244, 5311


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        (effects((ASPIRIN, "HepG2", 24, 1)), Overlap(0, 1, 0, 0, 0)),
        (effects((VORINOSTAT, "A549", 24, 1)), Overlap(1, 0, 0, 0, 0)),
        (effects((ASPIRIN, "A549", 6, 1)), Overlap(1, 1, 1, 0, 0)),
        (effects((ASPIRIN, "A549", 24, 1000), (ASPIRIN, "A549", 24, 2000)), Overlap(1, 1, 1, 1, 0)),
        (effects((None, "A549", 24, 1), names=["Compound 2244 "]), Overlap(1, 0, 0, 0, 1)),
        (effects((None, "HepG2", 24, 1), names=["compound 2244"]), Overlap(0, 0, 0, 0, 0)),
        # another name of it is known by its id, so the name without one hides nothing
        (effects((ASPIRIN, "A549", 24, 1), (None, "A549", 24, 1), names=["acid", "compound 2244"]), Overlap(1, 1, 1, 1, 0)),
        (effects((ASPIRIN, "A549", 24, 1), estimable=False), Overlap(0, 0, 0, 0, 0)),
        ({}, Overlap(0, 0, 0, 0, 0)),
    ],
)
def test_what_is_shared_is_counted_step_by_step(right: dict[str, EffectsInMemory], expected: Overlap) -> None:
    left = effects((ASPIRIN, "A549", 24, 1), (ASPIRIN, "A549", 24, 10))
    assert overlap(left, right) == expected
    assert overlap(right, left) == expected


def test_strata_of_a_dataset_count_together() -> None:
    left = effects((ASPIRIN, "A549", 24, 1)) | {"other": effects((ASPIRIN, "HepG2", 24, 1))["stratum"]}
    assert overlap(left, left) == Overlap(2, 1, 2, 2, 0)


NOTHING = pd.DataFrame({"left_row": pd.Series(dtype="int64")})


@pytest.mark.parametrize(
    ("shared", "passed", "said"),
    [
        (Overlap(0, 3, 0, 0, 0), True, "none can match: they share no cell context (3 compounds of both)"),
        (
            Overlap(2, 3, 0, 0, 0),
            True,
            "none can match: both have 2 cell contexts and 3 compounds, but no compound in the same cell context",
        ),
        (Overlap(2, 3, 4, 0, 0), True, "none can match: the 4 compounds × cell contexts of both were measured at other times"),
        (Overlap(2, 3, 4, 5, 0), False, "both measured 5 compounds × cell contexts × times, all at doses more than 10-fold apart"),
        (Overlap(2, 0, 0, 0, 7), False, "both measured 7 perturbagens × cell contexts under one name, and no PubChem id joins them"),
    ],
)
def test_the_check_warns_only_where_conditions_could_have_matched(shared: Overlap, passed: bool, said: str) -> None:
    finding = _overlap(NOTHING, shared._asdict(), 1.0)
    assert finding.passed == passed
    assert finding.rule.severity == "warning"
    assert finding.note.startswith(said)


def test_matches_pass_and_older_outputs_are_still_judged() -> None:
    assert _overlap(pd.DataFrame({"left_row": [1, 2]}), Overlap(1, 1, 1, 1, 1)._asdict(), 1.0).note == "2 conditions match"
    assert not _overlap(NOTHING, None, 1.0).passed
