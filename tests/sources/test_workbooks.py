"""Sheets of workbooks: whole and in pieces, the same rows."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from zipfile import ZipFile

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


@pytest.fixture(params=[2**26, 1, 150, 300])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sheet in one piece, a piece a row, and two sizes between."""
    monkeypatch.setattr(workbooks, "LARGEST_PIECE", request.param)


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    file = tmp_path / "workbook.xlsx"
    write_workbook(file, {"counts": ROWS, "other": [["Name", "x"], ["n", -666], ["", ""], ["m", "NaN"]]})
    return file


@pytest.mark.usefixtures("pieces")
def test_rows_below_the_header_are_as_long_as_it_and_have_its_types(workbook: Path) -> None:
    header, *rows = header_and_rows(workbook, "cigs_mce", ("sample_id",))
    assert [str(cell)[:10] for cell in header] == ["Sample_id", "TSPAN6", "2024-09-07", "NKX2-1", "TSPAN6"]
    assert rows == [["s1", 12, 0, 3.5, 1], ["s2", 2**40, "", 7, ""], [7, 1, 2, "", ""], ["", "", "", "", "last"]]
    assert {type(cell) for row in rows for cell in row} <= {int, float, str}


@pytest.mark.usefixtures("pieces")
def test_a_sheet_as_a_table_has_text_and_nulls(workbook: Path) -> None:
    table = read_table(workbook, "cigs_mce", ("name",), "other")
    assert table.columns.tolist() == ["Name", "x"]
    assert table["Name"].tolist() == ["n", "m"]
    assert table["x"].isna().all()
    counts = read_table(workbook, "cigs_mce", ("sample_id",))
    assert counts.columns[[1, 4]].tolist() == ["TSPAN6 1", "TSPAN6 2"]
    assert counts["TSPAN6 1"].tolist()[:3] == ["12", str(2**40), "1"]


@pytest.mark.usefixtures("pieces")
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


def test_a_piece_that_lacks_the_first_columns_or_has_more_stays_in_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "workbook.xlsx"
    write_workbook(file, {"a": [[None, "Sample_id", "x", "y"], [None, None, 1, 2], [None, None, None, 3], ["aside", "s", 4]]})
    monkeypatch.setattr(workbooks, "LARGEST_PIECE", 1)
    assert list(header_and_rows(file, "cigs_mce", ("sample_id",)))[1:] == [["", 1, 2], ["", "", 3], ["s", 4, ""]]


def test_a_sheet_is_cut_whatever_prefix_its_names_have(workbook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixed = tmp_path / "prefixed.xlsx"
    with ZipFile(workbook) as archive, ZipFile(prefixed, "w") as written:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("sheet1.xml"):
                content = re.sub(rb"<(/?)(?=[a-zA-Z])", rb"<\1x:", content).replace(b" xmlns=", b" xmlns:x=")
            written.writestr(name, content)
    monkeypatch.setattr(workbooks, "LARGEST_PIECE", 200)
    part = workbooks._large_part(prefixed, "counts")
    assert part == "xl/worksheets/sheet1.xml"
    assert len(list(workbooks._pieces(prefixed, part))) > 2
    assert list(header_and_rows(prefixed, "cigs_mce", ("sample_id",))) == list(header_and_rows(workbook, "cigs_mce", ("sample_id",)))


def test_only_a_sheet_that_is_asked_for_and_large_is_cut(workbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ZipFile(workbook) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size
    for limit, parts in ((size, [None, None]), (size - 1, ["xl/worksheets/sheet1.xml", None])):
        monkeypatch.setattr(workbooks, "LARGEST_PIECE", limit)
        assert [workbooks._large_part(workbook, name) for name in ("counts", "other")] == parts
