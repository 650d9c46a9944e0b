"""Great Expectations behind plain functions: expectations from the contract, and findings from a validation.

Belongs here: the only code that knows Great Expectations. Does not belong here: which rules a check family has (``checks.py``).
Great Expectations takes seconds to import, so it is imported when a check runs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from perturbridge_dagster.contract import CheckFamily, Field, Table

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One expectation on one frame.

    Attributes
    ----------
    words
        The rule as a sentence.
    expectation
        Name of a Great Expectations class, for example ``ExpectColumnValuesToNotBeNull``.
    arguments
        Its arguments.
    severity
        ``warning`` rules never fail a blocking check.
    """

    words: str
    expectation: str
    arguments: dict[str, Any]
    severity: Severity = "error"


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes
    ----------
    rule
        The rule.
    passed
        Whether it holds.
    n_failing
        Rows against it; 0 for rules on the whole table that hold.
    failing_rows
        Those rows: the identifying columns, and the column of the rule.
    note
        What was observed, where rows do not say it.
    """

    rule: Rule
    passed: bool
    n_failing: int
    failing_rows: pd.DataFrame
    note: str = ""

    @property
    def said(self) -> str:
        """The rule, with what was observed where that is said, in one line."""
        return f"{self.rule.words} ({textwrap.shorten(self.note, 300)})" if self.note else self.rule.words


def field_rules(field: Field) -> list[Rule]:
    """The rules a field of the contract implies: presence, nulls, vocabulary, pattern, bounds, uniqueness."""
    column = {"column": field.name}
    rules = [Rule(f"{field.name} is a column", "ExpectColumnToExist", column)]
    if not field.nullable:
        rules.append(Rule(f"{field.name} is never missing", "ExpectColumnValuesToNotBeNull", column))
    if field.allowed:
        words = f"{field.name} is one of {', '.join(field.allowed)}"
        rules.append(Rule(words, "ExpectColumnValuesToBeInSet", {**column, "value_set": list(field.allowed)}))
    if field.pattern:
        rules.append(Rule(f"{field.name} matches {field.pattern}", "ExpectColumnValuesToMatchRegex", {**column, "regex": field.pattern}))
    if field.minimum is not None or field.maximum is not None:
        unit = f" {field.unit}" if field.unit else ""
        low = "" if field.minimum is None else f"at least {field.minimum:g}{unit}"
        high = "" if field.maximum is None else f"at most {field.maximum:g}{unit}"
        words = f"{field.name} is {' and '.join(filter(None, (low, high)))}"
        bounds = {"min_value": field.minimum, "max_value": field.maximum}
        rules.append(Rule(words, "ExpectColumnValuesToBeBetween", {**column, **bounds}))
    if field.unique:
        rules.append(Rule(f"{field.name} is unique", "ExpectColumnValuesToBeUnique", column))
    return rules


def table_rules(table: Table, family: CheckFamily | None = None) -> list[Rule]:
    """The rules of all fields of a table, or of those of one check family."""
    return [rule for field in table if family is None or field.family == family for rule in field_rules(field)]


@cache
def _context() -> Any:
    """One context a process: each makes a temporary folder."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return context


def validate(frame: pd.DataFrame, rules: Sequence[Rule], key_columns: Sequence[str]) -> list[Finding]:
    """Validate a frame.

    Parameters
    ----------
    frame
        The table.
    rules
        What must hold. A rule on a column that is not there is found failing, not an exception.
    key_columns
        Columns that identify a row to a person.

    Returns
    -------
    One finding a rule, in their order.
    """
    import great_expectations as gx

    if not rules:
        return []
    frame = frame.reset_index(drop=True)
    asset = _context().data_sources.add_or_update_pandas("frame").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    findings = []
    for rule in rules:
        column = rule.arguments.get("column")
        if rule.expectation != "ExpectColumnToExist" and column is not None and column not in frame.columns:
            findings.append(Finding(rule, False, len(frame), frame.iloc[:0], f"there is no column {column}"))
            continue
        expectation = getattr(gx.expectations, rule.expectation)(**rule.arguments)
        result = batch.validate(expectation, result_format="COMPLETE")
        findings.append(_finding(frame, rule, result, [name for name in key_columns if name in frame.columns]))
    return findings


def _finding(frame: pd.DataFrame, rule: Rule, result: Any, key_columns: list[str]) -> Finding:
    """Translate a validation result; an expectation that could not run is a failure that says so."""
    details = result.result
    if result.exception_info.get("raised_exception") or any(isinstance(value, dict) for value in result.exception_info.values()):
        return Finding(rule, False, len(frame), frame.iloc[:0], f"the rule could not be evaluated: {result.exception_info}")
    if result.success:
        return Finding(rule, True, 0, frame.iloc[:0], _observed(details))
    columns = [rule.arguments["column"]] if "column" in rule.arguments else list(rule.arguments.get("column_list", ()))
    shown = list(dict.fromkeys([*key_columns, *(name for name in columns if name in frame.columns)]))
    if rule.expectation == "ExpectColumnValuesToNotBeNull":  # Great Expectations gives no row index for this one
        rows = frame.loc[frame[columns[0]].isna().to_numpy(), shown]
    else:
        rows = frame.loc[details.get("unexpected_index_list") or [], shown]
    return Finding(rule, False, len(rows) or int(details.get("unexpected_count") or 0), rows, _observed(details))


def _observed(details: dict[str, Any]) -> str:
    return f"observed {details['observed_value']}" if "observed_value" in details else ""
