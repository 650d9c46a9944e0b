"""Sheets of workbooks: in memory and streamed, the same rows."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sample.cigs import write_workbook
from perturbridge_dagster.sources import workbooks
from perturbridge_dagster.sources.workbooks import header_and_rows, read_table

ROWS: list[list[object]] = [
    ["Licence: not to be redistributed"],
    ["Sample_id", "TSPAN6", datetime.datetime(2024, 9, 7), "NKX2-1", "TSPAN6"],
    ["s1", 12, 0, 3.5, 1],
    ["s2", 2**40, "", 7, ""],
    [7, 1, 2],
    ["", "", "", "", "last"],
]


@pytest.fixture(params=["in memory", "streamed"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "streamed":
        monkeypatch.setattr(workbooks, "LARGEST_IN_MEMORY", 0)
    return str(request.param)


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    file = tmp_path / "workbook.xlsx"
    write_workbook(file, {"counts": ROWS, "other": [["Name", "x"], ["n", -666], ["", ""], ["m", "NaN"]]})
    return file


@pytest.mark.usefixtures("engine")
def test_rows_below_the_header_are_as_long_as_it_and_have_its_types(workbook: Path) -> None:
    header, *rows = header_and_rows(workbook, "cigs_mce", ("sample_id",))
    assert [str(cell)[:10] for cell in header] == ["Sample_id", "TSPAN6", "2024-09-07", "NKX2-1", "TSPAN6"]
    assert rows == [["s1", 12, 0, 3.5, 1], ["s2", 2**40, "", 7, ""], [7, 1, 2, "", ""], ["", "", "", "", "last"]]
    assert {type(cell) for row in rows for cell in row} <= {int, float, str}


@pytest.mark.usefixtures("engine")
def test_a_sheet_as_a_table_has_text_and_nulls(workbook: Path) -> None:
    table = read_table(workbook, "cigs_mce", ("name",), "other")
    assert table.columns.tolist() == ["Name", "x"]
    assert table["Name"].tolist() == ["n", "m"]
    assert table["x"].isna().all()
    counts = read_table(workbook, "cigs_mce", ("sample_id",))
    assert counts.columns[[1, 4]].tolist() == ["TSPAN6 1", "TSPAN6 2"]
    assert counts["TSPAN6 1"].tolist()[:3] == ["12", str(2**40), "1"]


@pytest.mark.usefixtures("engine")
def test_what_cannot_be_read_is_said(workbook: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no sheet nothing.*counts, other"):
        list(header_and_rows(workbook, "cigs_mce", ("sample_id",), "nothing"))
    with pytest.raises(InputError, match=r"Licence: not to be.*there is no header row"):
        list(header_and_rows(workbook, "cigs_mce", ("nothing",)))
    page = tmp_path / "page.xlsx"
    page.write_text("<html>Sign in</html>")
    cut = tmp_path / "cut.xlsx"
    cut.write_bytes(workbook.read_bytes()[:-600])
    for file in (page, cut, tmp_path / "absent.xlsx"):
        with pytest.raises(InputError, match=rf"{file.name}.*the workbook cannot be read"):
            list(header_and_rows(file, "cigs_mce", ("sample_id",)))


def test_only_large_sheets_are_streamed(workbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(workbooks, "_streamed", lambda *arguments: seen.append(arguments) or iter([["Sample_id"]]))
    largest = workbooks._largest_sheet(workbook)
    assert largest > 500
    for limit in (largest, largest - 1):
        monkeypatch.setattr(workbooks, "LARGEST_IN_MEMORY", limit)
        list(header_and_rows(workbook, "cigs_mce", ("sample_id",)))
    assert len(seen) == 1
