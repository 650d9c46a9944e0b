"""docs/datasets.md follows the registry."""

from __future__ import annotations

from pathlib import Path

from perturbridge_dagster.dataset_sheets import render
from perturbridge_dagster.registry import benchmarks, datasets

CHECKOUT = Path(__file__).resolve().parent.parent


def test_the_sheets_are_up_to_date() -> None:
    assert (CHECKOUT / "docs" / "datasets.md").read_text() == render(), (
        "run: python -m perturbridge_dagster.dataset_sheets > docs/datasets.md"
    )


def test_every_source_has_a_row_and_a_section_with_its_terms_and_files() -> None:
    text = render()
    for entry in (*datasets().values(), *benchmarks().values()):
        assert f"| {entry.label} | `{entry.id}` |" in text
        section = text.split(f"## {entry.label} (`{entry.id}`)")[1].split("\n## ")[0]
        assert entry.licence.name in section
        assert entry.access.how in section
        assert entry.citation in section
        for file in entry.files:
            assert f"| {file.role} |" in section
            assert all(f"`{one.name}`" in section or "plate" in one.name for one in file.downloads)


def test_tables_have_as_many_cells_in_every_line() -> None:
    tables = [block.splitlines() for block in render().split("\n\n") if block.startswith("|")]
    assert len(tables) > 20
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table[0]
