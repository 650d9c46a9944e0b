"""Excel workbooks: sheets with something above their header, row by row.

Belongs here: opening a workbook, finding the header, cells as text. Does not belong here: what columns mean (the readers).

Workbooks are read by calamine, which holds a sheet in memory, 70 bytes a cell: 10 GB for the 500 MiB of the largest workbook. Large
ones are therefore streamed by openpyxl, which takes a few times as long in 50 MB (``docs/scale.md``).
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pandas as pd
from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException
from python_calamine import CalamineError, CalamineWorkbook

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.native import text

LARGEST_IN_MEMORY = 2**28
"""Bytes of XML of a sheet above which it is streamed: at 20 to 30 bytes a cell about 1 GB in memory."""

# what openpyxl makes of a file that is truncated, damaged or something else
_UNREADABLE = (OSError, BadZipFile, InvalidFileException, KeyError, ValueError, SyntaxError, EOFError, zlib.error)


def _rows(file: Path, dataset: str, name: str | None) -> Iterator[list[Any]]:
    """Rows of a sheet, the first by default; a missing cell is empty text."""
    try:
        if _largest_sheet(file) > LARGEST_IN_MEMORY:
            yield from _streamed(file, dataset, name)
            return
        workbook = CalamineWorkbook.from_path(file)
        name = _existing(name, workbook.sheet_names, dataset, file)
        yield from workbook.get_sheet_by_name(name).iter_rows()
    except (CalamineError, *_UNREADABLE) as error:
        raise InputError(
            f"the workbook cannot be read ({error}).",
            dataset=dataset,
            file=file,
            advice="Compare its size with the source's and fetch it again; a web page may have been saved in its place.",
        ) from error


def _existing(name: str | None, sheets: list[str], dataset: str, file: Path) -> str:
    """Name of a sheet that is there, the first where none is asked for."""
    if name is not None and name not in sheets:
        raise InputError(f"there is no sheet {name}.", dataset=dataset, file=file, expected=f"a sheet among {', '.join(sheets)}")
    return sheets[0] if name is None else name


def _largest_sheet(file: Path) -> int:
    """Bytes of XML of the largest sheet; 0 where the workbook is of the older format, which is no archive and cannot be large."""
    try:
        with ZipFile(file) as archive:
            return max((part.file_size for part in archive.infolist() if part.filename.startswith("xl/worksheets/")), default=0)
    except BadZipFile:
        return 0


def _streamed(file: Path, dataset: str, name: str | None) -> Iterator[list[Any]]:
    """Rows as calamine gives them, one at a time; but for whole numbers, which are integers."""
    with warnings.catch_warnings():
        # about styles, which nobody asks for
        warnings.simplefilter("ignore", UserWarning)
        workbook = load_workbook(file, read_only=True, data_only=True)
    try:
        sheet = workbook[_existing(name, workbook.sheetnames, dataset, file)]
        width = 0
        for row in sheet.iter_rows(values_only=True):
            width = max(width, len(row))
            yield ["" if cell is None else cell for cell in row] + [""] * (width - len(row))
    finally:
        workbook.close()


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
