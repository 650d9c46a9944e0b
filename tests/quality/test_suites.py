from __future__ import annotations

import pandas as pd
import pytest

from perturbridge_dagster.contract import TABLES, Field
from perturbridge_dagster.quality.suites import Rule, field_rules, table_rules, validate


@pytest.mark.parametrize(
    ("field", "values", "failing"),
    [
        (Field("x", "string", "A word."), ["a", None, "b"], ["r1"]),
        (Field("x", "string", "A word.", nullable=True), ["a", None, "b"], []),
        (Field("x", "string", "A word.", allowed=("a", "b")), ["a", "c", "b"], ["r1"]),
        (Field("x", "string", "A word.", pattern="^[ab]$"), ["a", "ab", "b"], ["r1"]),
        (Field("x", "float64", "A dose.", minimum=0, maximum=2), [0.0, -1.0, 3.0], ["r1", "r2"]),
        (Field("x", "string", "A key.", unique=True), ["a", "b", "b"], ["r1", "r2"]),
    ],
)
def test_each_property_of_a_field_is_judged_and_failing_rows_are_named(field, values, failing):
    frame = pd.DataFrame({"row": ["r0", "r1", "r2"], "x": values}, index=[7, 7, 7])
    findings = validate(frame, field_rules(field), ["row"])
    rows = [row for finding in findings for row in finding.failing_rows["row"]]
    assert rows == failing
    assert all(finding.passed for finding in findings) == (not failing)
    assert all(finding.n_failing == len(finding.failing_rows) for finding in findings)


def test_a_missing_column_fails_every_rule_on_it():
    findings = validate(pd.DataFrame({"y": [1]}), field_rules(Field("x", "int64", "A count.", minimum=0)), ["y"])
    assert [finding.passed for finding in findings] == [False, False, False]


def test_a_rule_that_cannot_be_evaluated_fails():
    rule = Rule("x is a number", "ExpectColumnValuesToBeBetween", {"column": "x", "min_value": 0})
    [finding] = validate(pd.DataFrame({"x": ["a", "b"]}), [rule], ["x"])
    assert not finding.passed
    assert "could not be evaluated" in finding.note


def test_suites_of_the_contract(snapshot):
    rules = {table.name: [f"{rule.expectation}: {rule.words}" for rule in table_rules(table)] for table in TABLES}
    assert rules == snapshot
