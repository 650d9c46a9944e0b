"""docs/datasets.md follows the registry."""

from __future__ import annotations

import re
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
            [row] = [line for line in section.splitlines() if line.startswith(f"| {file.role} |")]
            told = row.split(" | ")[-1].removesuffix(" |").split("<br>")
            of_many = [int(found[1]) for line in told if (found := re.match(r"(\d+) files, from ", line))]
            alone = [one for one in file.downloads if any(line.startswith(f"`{one.name}`") for line in told)]
            assert sum(of_many) + len(alone) == len(file.downloads), file.role


def test_every_source_says_how_it_is_had() -> None:
    said = {line for line in render().splitlines() if line.startswith("- **Get it**")}
    command = "python -m perturbridge_dagster.sources.download"
    assert f'- **Get it**: `{command} op3`, or `op3 = "download"`' in said
    assert f"- **Get it**: `{command} op3_benchmark`" in said
    [dilimap] = [line for line in said if f"`{command} dilimap_train`" in line]
    assert f"; `adata_training_counts.h5ad` by hand; then `{command} dilimap_train --local FOLDER` takes it from there" in dilimap
    [vcpi] = [line for line in said if "vcpi_0001" in line]
    assert "`data.parquet`, `metadata.csv`, `chemistry.json` by hand" in vcpi
    assert vcpi.endswith(f"`{command} vcpi_0001 --local FOLDER` takes them from there")
    assert '"download"' not in vcpi
    assert any("LaminDB" in line and f"`{command} sciplex`" in line for line in said)
    assert len(said) == len(datasets()) + len(benchmarks())


def test_tables_have_as_many_cells_in_every_line() -> None:
    tables = [block.splitlines() for block in render().split("\n\n") if block.startswith("|")]
    assert len(tables) > 20
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table[0]
