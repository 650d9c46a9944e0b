"""The data dictionary: every table of the contract as Markdown. ``python -m perturbridge_dagster.data_dictionary`` prints it.

Belongs here: wording of the dictionary. Does not belong here: meanings of fields (``contract/``).
"""

from __future__ import annotations

from perturbridge_dagster.contract import CONTRACT_VERSION, TABLES, Field

HEADER = f"""\
# Data dictionary

Contract version {CONTRACT_VERSION}. Made from `perturbridge_dagster/contract/` by
`python -m perturbridge_dagster.data_dictionary > docs/data-dictionary.md`; do not edit by hand.

Every file carries a stamp: contract version, data version, stage and its code version, source datasets, licence class, and the
unaccepted inputs it was made from, if any. Missing values are nulls.
"""


def _values(field: Field) -> str:
    """What a value may be, in words."""
    parts = [", ".join(f"`{value}`" for value in field.allowed)] if field.allowed else []
    parts += [f"`{field.pattern}`".replace("|", "\\|")] if field.pattern else []
    parts += [f"≥ {field.minimum:g}"] if field.minimum is not None else []
    parts += [f"≤ {field.maximum:g}"] if field.maximum is not None else []
    parts += ["unique"] if field.unique else []
    return "; ".join(parts)


def render() -> str:
    """The dictionary as Markdown."""
    sections = [HEADER]
    for table in TABLES:
        rows = [
            " | ".join(
                ("", f"`{field.name}`", field.type, field.unit or "", "yes" if field.nullable else "", field.meaning, _values(field), "")
            ).strip()
            for field in table
        ]
        head = ["| field | type | unit | may be null | meaning | values |", "|---|---|---|---|---|---|"]
        sections.append("\n".join([f"## {table.name}", "", table.meaning, "", *head, *rows]) + "\n")
    return "\n".join(sections)


if __name__ == "__main__":
    print(render(), end="")
