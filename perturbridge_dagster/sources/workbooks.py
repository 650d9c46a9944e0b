"""Excel workbooks: sheets with something above their header, row by row.

Belongs here: opening a workbook, finding the header, cells as text. Does not belong here: what columns mean (the readers).

Workbooks are read by calamine, which holds a sheet in memory, 72 bytes a cell: 9 GB for the 500 MiB of the largest workbook. So a large
sheet is cut into pieces between rows, and calamine is given one piece after the other, each as a workbook of its own. That costs little;
openpyxl, which streams, takes eleven times as long (``docs/scale.md``).
"""

from __future__ import annotations

import posixpath
import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import pandas as pd
from python_calamine import CalamineError, CalamineWorkbook

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.native import text

LARGEST_PIECE = 2**24
"""Bytes of XML of a sheet that are given to calamine at once: about 27 a cell."""

_SHEETS, _RELATIONS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
_RELATION_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"

# what is made of a file that is truncated, damaged or something else
_UNREADABLE = (CalamineError, OSError, EOFError, BadZipFile, zlib.error, ElementTree.ParseError)


def _rows(file: Path, dataset: str, name: str | None) -> Iterator[list[Any]]:
    """Rows of a sheet, the first by default. A missing cell is empty text.

    What comes before the first column in use is left out, and some of the rows without any cell are.
    """
    try:
        workbook = CalamineWorkbook.from_path(file)
        if name is not None and name not in workbook.sheet_names:
            raise InputError(
                f"there is no sheet {name}.", dataset=dataset, file=file, expected=f"a sheet among {', '.join(workbook.sheet_names)}"
            )
        name = name or workbook.sheet_names[0]
        part = _large_part(file, name)
        if part is None:
            yield from workbook.get_sheet_by_name(name).iter_rows()
            return
        first_column = None
        width = 0
        for piece in _pieces(file, part):
            sheet = CalamineWorkbook.from_filelike(piece).get_sheet_by_name(name)
            first_row, column = sheet.start or (0, 0)
            first_column = column if first_column is None else first_column
            # rows begin where the first column of their piece does, and those of earlier pieces come again, empty
            offset = column - first_column
            for row in islice(sheet.iter_rows(), first_row, None):
                cells = [""] * offset + row if offset >= 0 else row[-offset:]
                width = max(width, len(cells))
                yield cells + [""] * (width - len(cells))
    except _UNREADABLE as error:
        raise InputError(
            f"the workbook cannot be read ({error}).",
            dataset=dataset,
            file=file,
            advice="Compare its size with the source's and fetch it again; a web page may have been saved in its place.",
        ) from error


def _large_part(file: Path, sheet: str) -> str | None:
    """Where a workbook keeps a sheet that is too large for one piece; None for other sheets, and workbooks of the older format."""
    try:
        with ZipFile(file) as archive:
            sheets, relations = (ElementTree.fromstring(archive.read(name)) for name in (_SHEETS, _RELATIONS))
            [number] = [one.get(_RELATION_ID) for one in sheets.findall(".//{*}sheet") if one.get("name") == sheet]
            [target] = [one.get("Target", "") for one in relations if one.get("Id") == number]
            # relative to its own folder, or absolute
            part = posixpath.join("/xl", target).removeprefix("/")
            return part if archive.getinfo(part).file_size > LARGEST_PIECE else None
    except (BadZipFile, KeyError, ValueError):
        # it is calamine's to say what it is
        return None


def _pieces(file: Path, part: str) -> Iterator[BytesIO]:
    """A workbook again and again, each time with the next rows of a sheet."""
    with ZipFile(file) as archive, archive.open(part) as sheet:
        others = {name: archive.read(name) for name in archive.namelist() if not name.startswith("xl/worksheets/")}
        waiting = b""
        while (begin := re.search(rb"<(\w+:)?sheetData\s*>", waiting)) is None and (read := sheet.read(min(LARGEST_PIECE, 2**16))):
            waiting += read
        if begin is None:
            return
        head, waiting, prefix = waiting[: begin.end()], waiting[begin.end() :], begin[1] or b""
        tail, end_of_row = b"</%ssheetData></%sworksheet>" % (prefix, prefix), b"</%srow>" % prefix
        last = False
        while not last:
            read = sheet.read(max(LARGEST_PIECE - len(waiting), 1))
            last = not read
            waiting += read
            cut = waiting.rfind(end_of_row) + len(end_of_row)
            if cut < len(end_of_row) or (len(waiting) < LARGEST_PIECE and not last):
                continue
            piece = BytesIO()
            with ZipFile(piece, "w") as written:
                for name, content in others.items():
                    written.writestr(name, content)
                written.writestr(part, head + waiting[:cut] + tail)
            waiting = waiting[cut:]
            piece.seek(0)
            yield piece


def header_and_rows(file: Path, dataset: str, first_columns: tuple[str, ...], sheet: str | None = None) -> Iterator[list[Any]]:
    """Rows of a sheet from its header on; what stands above it, a title or a licence, is left out.

    Parameters
    ----------
    first_columns
        How the first cell of the header may read, in lower case.

    Raises
    ------
    InputError
        If there is no such header among the first rows.
    """
    rows = _rows(file, dataset, sheet)
    seen = []
    for _ in range(5):
        row = next(rows, None)
        if row is None:
            break
        if str(row[0]).strip().lower() in first_columns:
            yield row
            yield from rows
            return
        seen.append(str(row[0])[:40])
    raise InputError(
        "there is no header row.",
        dataset=dataset,
        file=file,
        rows=seen,
        expected=f"a row that begins with {' or '.join(first_columns)}, below the licence note",
    )


def cell_text(cell: object) -> str:
    """A cell as text; a whole number without decimals."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def read_table(file: Path, dataset: str, first_columns: tuple[str, ...], sheet: str | None = None) -> pd.DataFrame:
    """A sheet as text; missing values, -666 among them, are nulls. Columns are numbered where their names repeat."""
    rows = header_and_rows(file, dataset, first_columns, sheet)
    header = [str(cell).strip() for cell in next(rows)]
    names = [name if header.count(name) == 1 else f"{name} {header[:i].count(name) + 1}" for i, name in enumerate(header)]
    cells = [[cell_text(cell) for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=names, dtype=object).apply(text).dropna(how="all")
