"""The rules that checks are made of most, each in one line.

Belongs here: rules on one column or table that many checks need. Does not belong here: which checks a stage has (``checks.py``), or how
a rule is evaluated (``suites.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perturbridge_dagster.contract import Field, Table
from perturbridge_dagster.quality.suites import Finding, Rule, validate

if TYPE_CHECKING:
    import pandas as pd

Findings = dict[str, list[Finding]]
"""Check name → what its rules found."""


def equal(words: str, column: str, value: Any, severity: Any = "error") -> Rule:
    """Every value of a column is one value; `words` say so."""
    return Rule(words, "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [value]}, severity)


def at_least(words: str, column: str, minimum: float, *, strictly: bool = False, severity: Any = "error") -> Rule:
    """Every value of a column is at least, or `strictly` more than, a minimum."""
    arguments = {"column": column, "min_value": minimum, "strict_min": strictly}
    return Rule(words, "ExpectColumnValuesToBeBetween", arguments, severity)


def unique_together(words: str, columns: Sequence[str]) -> Rule:
    """No two rows have the same values in all these columns."""
    return Rule(words, "ExpectCompoundColumnsToBeUnique", {"column_list": list(columns)})


def not_empty(words: str, severity: Any = "error") -> Rule:
    """The table has a row."""
    return Rule(words, "ExpectTableRowCountToBeBetween", {"min_value": 1}, severity)


def as_the_contract_says(frame: pd.DataFrame, table: Table) -> list[Finding]:
    """Whether every column is there and every value is one that its field may have; what fails is named by field.

    The same rules as ``suites.table_rules``, all of them at once: a wide table of scores would need hundreds, each with a pass of its own.
    """
    import pandas as pd

    rows = [{"table": table.name, "field": field.name, "wrong_values": _wrong(frame, field)} for field in table]
    rule = equal(f"every value of {table.name} is what the contract says of its field", "wrong_values", 0)
    return validate(pd.DataFrame(rows), [rule], ["table", "field"])


def _wrong(frame: pd.DataFrame, field: Field) -> int:
    """Number of values that a field may not have; all of them where it is no column."""
    if field.name not in frame:
        return max(len(frame), 1)
    values = frame[field.name]
    known = values.dropna()
    wrong = 0 if field.nullable else len(values) - len(known)
    if field.allowed:
        wrong += int((~known.isin(field.allowed)).sum())
    if field.pattern:
        wrong += int((~known.astype(str).str.match(field.pattern)).sum())
    if field.minimum is not None:
        wrong += int((known < field.minimum).sum())
    if field.maximum is not None:
        wrong += int((known > field.maximum).sum())
    return wrong + (int(known.duplicated().sum()) if field.unique else 0)
