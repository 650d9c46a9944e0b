from __future__ import annotations

import re
from pathlib import Path

import pytest

from perturbridge_dagster.contract import CELL_CONTEXT_PATTERN, CONTRACT_VERSION, HARMONIZED_OBS, TABLES, Field, Table, version_numbers
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


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_fields_that_came_later_may_be_null(table: Table):
    """Readers of an older file of this contract find no such column, and must do without."""
    for field in table:
        assert version_numbers("1.0") <= version_numbers(field.since) <= version_numbers(CONTRACT_VERSION)
        assert field.since == "1.0" or field.nullable, field.name


def test_a_table_as_an_earlier_contract_had_it():
    new = {"nominal_dose_uM", "model_system", "cell_type_source", "donor_source"}
    assert {field.name for field in HARMONIZED_OBS if field.since == "1.2"} >= new
    assert new & set(HARMONIZED_OBS.as_of("1.1").names) == set()
    assert HARMONIZED_OBS.as_of("1.2").names[:5] == HARMONIZED_OBS.names[:5]
    assert set(HARMONIZED_OBS.as_of("1.10").names) == set(HARMONIZED_OBS.names), "1.10 comes after 1.2"


def test_a_table_with_further_columns_of_a_dataset():
    further = Field("percent_volume_dmso", "float64", "Vehicle.", unit="%", nullable=True)
    table = HARMONIZED_OBS.extended([further])
    assert table.names == [*HARMONIZED_OBS.names, "percent_volume_dmso"]
    assert table.arrow_schema().field("percent_volume_dmso").metadata[b"unit"] == b"%"
    assert "percent_volume_dmso" not in HARMONIZED_OBS.names
    with pytest.raises(ValueError, match="has sex already"):
        HARMONIZED_OBS.extended([Field("sex", "string", "Again.")])


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
