"""What is kept and shown of findings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from assets.checks import _record, _result
from perturbridge_dagster.quality.suites import Finding, Rule


def finding(words: str, *, passed: bool, note: str = "", severity: Any = "warning") -> Finding:
    rows = pd.DataFrame({"gene": [] if passed else ["g1"]})
    return Finding(Rule(words, "ExpectColumnToExist", {}, severity), passed, len(rows), rows, note)


FINDINGS = [
    finding("genes are supported", passed=False, note="7 of 9 are not"),
    finding("values are finite", passed=False, severity="error"),
    finding("plates are joined", passed=True, note="observed 3"),
    finding("names are known", passed=True),
]


def test_what_a_warning_observed_is_recorded_with_it() -> None:
    assert _record(FINDINGS) == {
        "passed": False,
        "rules": 4,
        "failed": ["values are finite"],
        "warned": ["genes are supported (7 of 9 are not)"],
    }
    assert _record(FINDINGS[:1])["passed"], "a warning blocks nothing"


@pytest.mark.parametrize("blocking", [True, False])
def test_what_was_observed_is_shown_of_rules_that_hold_and_of_those_that_do_not(blocking: bool) -> None:
    output: Any = SimpleNamespace(key=("d", "S"), folder=Path("folder"))
    shown = _result(dg.AssetKey("condition_effects"), "values", blocking, [(output, FINDINGS)])
    assert not shown.passed
    assert "genes are supported (7 of 9 are not); values are finite." in str(shown.description)
    assert [(row.data["rule"], row.data["note"]) for row in shown.metadata["failed_rules"].records] == [
        ("genes are supported", "7 of 9 are not"),
        ("values are finite", ""),
    ]
    assert [row.data for row in shown.metadata["observed"].records] == [
        {"output": "d S", "rule": "plates are joined", "note": "observed 3"},
    ]
    assert shown.severity == (dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN)
    held = _result(dg.AssetKey("condition_effects"), "values", blocking, [(output, FINDINGS[3:])])
    assert held.passed
    assert "observed" not in held.metadata
