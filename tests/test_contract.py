from __future__ import annotations

import re
from pathlib import Path

import pytest

from perturbridge_dagster.contract import CELL_CONTEXT_PATTERN, TABLES, Table
from perturbridge_dagster.data_dictionary import render

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_field_is_said_once_and_means_something(table: Table):
    assert len(set(table.names)) == len(table.names)
    for field in table:
        assert field.meaning.endswith("."), field.name
        if field.pattern:
            re.compile(field.pattern)
        if field.minimum is not None and field.maximum is not None:
            assert field.minimum <= field.maximum
        assert table.arrow_schema().field(field.name).nullable == field.nullable


def test_table_names_are_unique():
    assert len({table.name for table in TABLES}) == len(TABLES)


def test_an_unknown_field_names_those_there_are():
    with pytest.raises(KeyError, match="ensembl_id"):
        TABLES[2]["gene_id"]


@pytest.mark.parametrize(
    ("name", "fits"),
    [("CVCL_0023", True), ("CL_0000515_0.0625", True), ("NPC.CAS9", True), ("a|b", False), ("a/b", False), ("", False)],
)
def test_cell_contexts_are_safe_as_partitions_and_folders(name: str, fits: bool):
    assert bool(re.match(CELL_CONTEXT_PATTERN, name)) == fits


def test_the_data_dictionary_is_up_to_date():
    assert (CHECKOUT / "docs" / "data-dictionary.md").read_text() == render(), (
        "run: python -m perturbridge_dagster.data_dictionary > docs/data-dictionary.md"
    )
