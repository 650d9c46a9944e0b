"""A user's own screen: a count matrix and a sample sheet, as its description says.

Belongs here: the common forms of sample sheets, and answers to mistakes in a description that only its files show. Does not belong here:
the form of a description (``registry/screen.py``), count matrices (``count_matrix.py``), the contract (``assemble.py``), identifiers
(``identity/``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from python_calamine import CalamineError

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h, unparsed
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.registry.screen import Column, Everywhere, Screen
from perturbridge_dagster.sources.count_matrix import UNREADABLE, read_counts, require_no_separator_at_the_end, text_header, with_row_names
from perturbridge_dagster.sources.native import (
    Expression,
    GeneKind,
    NativeSamples,
    Reconciliation,
    only,
    require_controls,
    require_unique,
    text,
)

_SHOWN = 20
"""Most choices that a message lists."""


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read a screen.

    Parameters
    ----------
    dataset
        Its entry, with a description.
    files
        Files of the roles ``counts``, and where described ``samples``, ``genes`` and ``sample_names``.

    Raises
    ------
    InputError
        If a file is unreadable, a described column is not there, a unit is unknown, samples of the matrix are not in the sheet, or values
        are not counts. It names the line of the description and what could stand there.
    """
    screen = described(dataset)
    one = {role: only(files, role, dataset.id) for role in screen.files()}
    columns = screen.columns
    varying = (columns.perturbagen, columns.cell_context, columns.dose, columns.dose_unit, columns.time, columns.time_unit)
    steps = Reconciliation(tuple(column for column in varying if isinstance(column, str)))
    counts, names, genes, own_obs = read_counts(screen, one, dataset.id)
    sheet_file = one.get("samples", one["counts"])
    sheet = own_obs if screen.samples is None else _sheet(sheet_file, dataset.id)
    sheet.index = pd.Index(_sample_names(sheet, screen, dataset.id), name=screen.columns.sample)
    _require_known_samples(names, sheet, screen, dataset.id, sheet_file)
    require_unique(sheet.index.to_series(), "a sample", dataset.id, sheet_file)
    steps.start("samples", len(sheet))
    sheet = _without_excluded(sheet, screen, steps, dataset.id)
    sheet = steps.keep("samples", "no counts", sheet, pd.Series(sheet.index.isin(names), index=sheet.index))
    rows = names.get_indexer(sheet.index)
    total = pd.Series(np.asarray(counts.sum(axis=1)).ravel()[rows], index=sheet.index)
    kept = steps.keep("samples", "total count of 0", sheet, total > 0)
    obs = _samples(kept, screen, dataset, sheet_file)
    steps.start("genes", len(genes))
    values = counts[rows[(total > 0).to_numpy()]]
    # a gene without a symbol is often named by its Ensembl id
    kind: GeneKind = "mixed" if screen.counts.gene_ids == "symbol" else screen.counts.gene_ids
    return NativeSamples(obs, [Expression(one["counts"], iter([values]), genes, kind)], steps)


def described(dataset: Dataset) -> Screen:
    """The description of a screen, refused for a dataset that has none."""
    if dataset.screen is None:
        raise InputError("nothing describes its files.", dataset=dataset.id, expected="a dataset that a YAML file describes")
    return dataset.screen


# ---- the sample sheet --------------------------------------------------------------------------------------------------------


def _sheet(file: Path, dataset: str) -> pd.DataFrame:
    """A sample sheet as text, null where a cell is empty or says that nothing is known."""
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    header: list[str] = []
    try:
        if suffix == ".xlsx":
            sheet = pd.read_excel(file, dtype=str, keep_default_na=False, engine="calamine")
            if len(sheet):
                header = list(pd.read_excel(file, header=None, nrows=1, dtype=str, keep_default_na=False, engine="calamine").iloc[0])
        elif suffix == ".parquet":
            sheet = pd.read_parquet(file)
            header = list(map(str, sheet.columns))
        elif suffix in (".csv", ".tsv", ".txt"):
            separator = "," if suffix == ".csv" else "\t"
            sheet = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            header = text_header(file, separator)
            require_no_separator_at_the_end(sheet, header, dataset, file)
        else:
            raise InputError(f"{file.name} is no sample sheet.", dataset=dataset, file=file, expected=".csv, .tsv, .txt, .xlsx or .parquet")
    except (*UNREADABLE, CalamineError) as error:
        raise InputError(f"the sample sheet cannot be read ({error}).", dataset=dataset, file=file) from error
    if not len(sheet):
        raise InputError("the sample sheet has no rows.", dataset=dataset, file=file, expected="a header, and one row a sample")
    # pandas calls the second of two columns Dose Dose.1
    names = pd.Series(header, dtype=object, name="header").str.strip()
    require_unique(names[names != ""], "a column of the sample sheet", dataset, file)
    sheet.columns = pd.Index([str(name).strip() for name in sheet.columns])
    if sheet.index.names == [None] and sheet.index.dtype.kind in "iu":
        # numbers of rows, which name nothing
        return sheet.reset_index(drop=True).apply(text)
    return with_row_names(sheet, dataset, file).apply(text)


def _require_column(name: str, field: str, sheet: pd.DataFrame, screen: Screen, dataset: str) -> None:
    """Refuse a column that the sheet does not have, with the line of the description and the columns there are."""
    if name not in sheet.columns:
        close = difflib.get_close_matches(name, sheet.columns, n=1, cutoff=0.5)
        raise InputError(
            f"the sample sheet has no column {name}" + (f"; did you mean {close[0]}?" if close else ""),
            dataset=dataset,
            file=screen.where(field),
            column=field,
            expected=f"one of {', '.join(sheet.columns)}",
        )


def _sample_names(sheet: pd.DataFrame, screen: Screen, dataset: str) -> list[str]:
    """Name of each row of the sheet in the count matrix: a column, or several in a pattern."""
    parts = screen.columns.sample_parts
    for name in parts[1::2]:
        _require_column(name, "columns.sample", sheet, screen, dataset)
    pieces = [sheet[part].fillna("") if n % 2 else [part] * len(sheet) for n, part in enumerate(parts)]
    names = pd.Series(["".join(row) for row in zip(*pieces, strict=True)], index=sheet.index)
    if (names == "").any():
        raise InputError(
            "rows of the sample sheet name no sample.",
            dataset=dataset,
            file=screen.where("columns.sample"),
            column=screen.columns.sample,
            rows=list(names.index[names == ""] + 2),
            advice="Name it, or take the rows out of the sheet.",
        )
    return list(names)


def _without_excluded(sheet: pd.DataFrame, screen: Screen, steps: Reconciliation, dataset: str) -> pd.DataFrame:
    """The sheet without the samples that the description leaves out."""
    for column, values in screen.exclude.items():
        _require_column(column, f"exclude.{column}", sheet, screen, dataset)
        there = set(sheet[column].dropna())
        unknown = [value for value in values if value not in there]
        if unknown:
            raise InputError(
                f"no sample has {', '.join(unknown)} in {column}.",
                dataset=dataset,
                file=screen.where(f"exclude.{column}"),
                column=column,
                expected=choices(there),
            )
        sheet = steps.keep("samples", f"excluded: {column} is {' or '.join(values)}", sheet, ~sheet[column].isin(values))
    return sheet


def _require_known_samples(names: pd.Index, sheet: pd.DataFrame, screen: Screen, dataset: str, file: Path) -> None:
    """Refuse samples of the matrix that the sheet does not have.

    Raises
    ------
    InputError
        With the column of the sheet that has the most of them.
    """
    unknown = names[~names.isin(sheet.index)]
    if unknown.empty:
        return
    found = {str(column): int(names.isin(sheet[column].dropna()).sum()) for column in sheet.columns}
    best = max(found, key=lambda column: found[column], default=None)
    advice = f"Column {best} has {found[best]:,} of them." if best and found[best] > len(names) - len(unknown) else None
    raise InputError(
        f"{len(unknown):,} of {len(names):,} samples of the count matrix are not in the sample sheet {file.name}.",
        dataset=dataset,
        file=screen.where("columns.sample"),
        column=screen.columns.sample,
        rows=list(unknown),
        expected=f"names such as {', '.join(sheet.index[:5])}",
        advice=advice or "Add them to the sheet, or take them out of the matrix.",
    )


def choices(values: Iterable[str]) -> str:
    """Some values for a message, in order."""
    ordered = sorted(values)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN:,} more" if len(ordered) > _SHOWN else "")


def _samples(sheet: pd.DataFrame, screen: Screen, dataset: Dataset, file: Path) -> pd.DataFrame:
    """The sheet in the words of ``NATIVE_OBS``."""
    columns = screen.columns

    def values(field: str, column: Column | None) -> pd.Series:
        if column is None:
            return pd.Series(None, index=sheet.index, dtype=object)
        if isinstance(column, Everywhere):
            return text(pd.Series(column.value, index=sheet.index))
        _require_column(column, f"columns.{field}", sheet, screen, dataset.id)
        return sheet[column]

    perturbagen = values("perturbagen", columns.perturbagen)
    is_control = perturbagen.isin(dataset.control.labels)
    _require_described_controls(is_control, perturbagen, screen, dataset)
    dose_unit = None if columns.dose_unit is None else values("dose_unit", columns.dose_unit)
    time_unit = None if columns.time_unit is None else values("time_unit", columns.time_unit)
    # what is written as the dose of a vehicle is its volume, or nothing
    dose = values("dose", columns.dose).mask(is_control)
    return pd.DataFrame(
        {
            "plate": values("plate", columns.plate),
            "well": values("well", columns.well),
            "source_cell_context": values("cell_context", columns.cell_context),
            "perturbagen": perturbagen.mask(is_control, dataset.control.perturbagen),
            "source_perturbagen_id": values("perturbagen_id", columns.perturbagen_id).mask(is_control, dataset.control.perturbagen),
            "is_control": is_control,
            "pert_dose_uM": _parsed("dose", dose, dose_unit, screen, dataset.id, file),
            "pert_time_h": _parsed("time", values("time", columns.time), time_unit, screen, dataset.id, file),
            "inchikey": values("inchikey", columns.inchikey),
            "smiles": values("smiles", columns.smiles),
            "pubchem_cid": values("pubchem_cid", columns.pubchem_cid),
        }
    )


def _require_described_controls(is_control: pd.Series, perturbagen: pd.Series, screen: Screen, dataset: Dataset) -> None:
    absent = [label for label in dataset.control.labels if not (perturbagen == label).any()]
    if absent:
        raise InputError(
            f"no sample's perturbagen is {' or '.join(absent)}.",
            dataset=dataset.id,
            file=screen.where("control"),
            column="control",
            expected=f"the vehicle among {choices(set(perturbagen.dropna()))}",
        )
    require_controls(is_control, perturbagen, dataset)


def _parsed(field: str, values: pd.Series, units: pd.Series | None, screen: Screen, dataset: str, file: Path) -> pd.Series:
    """Doses or times; what is not understood is refused.

    Raises
    ------
    InputError
        Naming the line of the description, the samples, and the units there are.
    """
    parse, known, usual = (parse_dose_uM, "M, mM, uM, nM, pM", "uM") if field == "dose" else (parse_time_h, "h, d, min", "h")
    parsed = parse(values, units)
    wrong = unparsed(values, parsed)
    if len(wrong):
        row = wrong.index[0]
        said = f"{wrong.iloc[0]} {units[row] if units is not None and units[row] is not None else ''}".strip()
        has_unit = bool(re.search(r"[^\d.,\s]", said.lower().replace("e", "")))
        raise InputError(
            f"the {field} {said!r} is not understood" + ("" if has_unit else ": it has no unit") + f"; {len(wrong):,} samples have such.",
            dataset=dataset,
            file=screen.where(f"columns.{field}_unit" if units is not None else f"columns.{field}"),
            rows=list(wrong.index),
            column=field,
            expected=f"a number of at least 0, and one of the units {known} or its word",
            advice=f"Correct {file.name}, or name the units with columns.{field}_unit, as in {field}_unit: {{value: {usual}}}.",
        )
    return parsed
