"""CIGS: Excel workbooks of counts and of samples, a pair a series, and the journal's workbook of compounds.

Belongs here: the layout of both screens (MCE and TCM), their words, which samples are kept. Does not belong here: the contract
(``assemble.py``), identifiers (``identity/``).

A workbook of counts has up to 41,000 samples × 3,407 genes, and is open while its rows are made sparse: 10 GB for the largest, one at a
time (``workbooks.py``).
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    first_known,
    only,
    require_columns,
    require_controls,
    require_unique,
)
from perturbridge_dagster.sources.spilled import SpilledRows
from perturbridge_dagster.sources.stored import as_counts
from perturbridge_dagster.sources.workbooks import cell_text, header_and_rows, read_table

TIME_H = 24.0
BLANK = ("BLANK", "RNA")
"""Treatments, in capitals, of wells without cells or without a perturbation."""

NO_TREATMENT = "the metadata say no treatment"
POSITIVE_CONTROL = "JQ1"
EXCLUDED_PLATES = ("MCE4_293T_24H_X1", "MCE4_293T_24H_X2", "MCE4_293T_24H_X3")
"""Plates that the authors of CIGS leave out in their own code."""

FEWEST_FOR_QUARTILES = 4
ROWS_AT_ONCE = 500

MONTH_GENES = {3: "MARCH", 9: "SEPT", 10: "OCT", 12: "DEC"}
"""Gene families whose names Excel takes for days of a month."""

MONTHS = {"mar": 3, "sep": 9, "sept": 9, "oct": 10, "dec": 12}
R_DATE = re.compile(r"^X?(\d{1,2})[.-]([A-Za-z]{3,4})$")
R_NAME = re.compile(r"^(HLA|NKX\d)\.(\w+)$")
"""Names that R made of symbols: a hyphen became a dot, a leading digit got an X."""


@dataclass(frozen=True)
class Layout:
    """How one of the two screens names things.

    Attributes
    ----------
    sample, treatment, plate, cell, dose, time
        Columns of the workbook of samples.
    experiment
        Its column of the experiment a plate belongs to; None where there is none.
    well
        Its columns of a well's row and column; none where the assay has no wells.
    sheet
        Sheet of the compounds.
    """

    sample: str
    treatment: str
    plate: str
    cell: str
    dose: str
    time: str
    experiment: str | None
    well: tuple[str, ...]
    sheet: str


LAYOUTS = {
    "cigs_mce": Layout(
        "unique_ID",
        "treatment",
        "sample_plate",
        "cell_id",
        "pert_idose",
        "pert_itime",
        "experiment_no",
        ("sample_row", "sample_column"),
        "Supplementary Table 3",
    ),
    "cigs_tcm": Layout("Sample_unique_id", "Treat", "Plate", "Cell", "Dose", "Time", None, (), "Supplementary Table 4"),
}


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read a screen of CIGS.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``counts`` and ``samples``, a pair a series, and ``compounds``.

    Raises
    ------
    InputError
        If a workbook is unreadable or lacks a column, has no partner, its dose or time is not that of its series, or values are not
        counts.
    """
    layout = LAYOUTS[dataset.id]
    steps = Reconciliation(("treatment", "cell", "dose_uM"))
    compounds = read_compounds(only(files, "compounds", dataset.id), layout.sheet, dataset.id)
    series, expressions, n_genes = [], [], 0
    for name, counts_file, samples_file in _pairs(files, dataset.id):
        described = _samples(samples_file, name, layout, dataset)
        ids, genes, counts = read_counts(counts_file, dataset.id)
        series.append(_joined(ids, counts, described, dataset.id, counts_file))
        expressions.append((counts_file, genes, counts))
        n_genes += len(genes)
    everything = pd.concat(series)
    steps.start("samples", len(everything))
    described = everything[everything["is_described"]]
    treated = described[described["treatment"].notna()]
    # neither what nothing describes nor what has no treatment is a condition
    steps.drop("samples", "no metadata", len(everything) - len(described))
    steps.drop("samples", NO_TREATMENT, len(described) - len(treated))
    kept = filter_samples(treated, dataset, steps)
    steps.start("genes", n_genes)
    return NativeSamples(
        _obs(kept, compounds, dataset),
        [
            Expression(file, _checked(counts, of_series, kept.index, genes, dataset.id, file), genes, "symbol")
            for (file, genes, counts), of_series in zip(expressions, series, strict=True)
            if of_series.index.isin(kept.index).any()
        ],
        steps,
    )


def _checked(
    counts: SpilledRows, of_series: pd.DataFrame, kept: pd.Index, genes: pd.Index, dataset: str, file: Path
) -> Iterator[sparse.csr_matrix]:
    """Counts of the kept samples of a series."""
    selected = of_series.index.isin(kept)
    names = of_series.index[selected]
    start = 0
    for block in counts.selected(selected):
        yield as_counts(block, names[start : start + block.shape[0]], genes, dataset, file)
        start += block.shape[0]


# ---- workbooks ---------------------------------------------------------------------------------------------------------------


def _pairs(files: dict[str, list[Path]], dataset: str) -> list[tuple[str, Path, Path]]:
    """Name of each series, with its workbooks of counts and of samples."""
    counts, samples = ({_series(file): file for file in files[role]} for role in ("counts", "samples"))
    alone = sorted({*counts} ^ {*samples})
    if alone:
        raise InputError(
            f"{' and '.join(alone)} have counts or samples, but not both.",
            dataset=dataset,
            file=(counts | samples)[alone[0]],
            expected="a workbook …_Counts.xlsx and a workbook …_MetaData.xlsx of each series",
            advice="Fetch the missing workbook.",
        )
    return [(name, counts[name], samples[name]) for name in sorted(counts)]


def _series(file: Path) -> str:
    """What the names of two workbooks of one series have in common; µ is one sign, however it is encoded."""
    return unicodedata.normalize("NFKC", re.sub(r"_(Counts|MetaData)$", "", file.stem))


def read_counts(file: Path, dataset: str) -> tuple[pd.Index, pd.Index, SpilledRows]:
    """Sample ids, gene symbols, and counts of the samples.

    Values are kept as they are, but for being sparse; whether they are counts is seen when they are used.
    """
    rows = header_and_rows(file, dataset, ("sample_id", "sample_unique_id"))
    header = next(rows)
    genes = pd.Index([repaired_symbol(cell) for cell in header[1:]])
    require_unique(genes.to_series(name="gene"), "a gene", dataset, file)
    ids: list[str] = []
    counts = SpilledRows()
    pending: list[np.ndarray] = []
    for row in rows:
        if row[0] == "":
            continue
        ids.append(cell_text(row[0]))
        pending.append(_numbers(row[1:], ids[-1], genes, dataset, file))
        if len(pending) == ROWS_AT_ONCE:
            counts.append(_narrowed(sparse.csr_matrix(np.stack(pending))))
            pending.clear()
    if pending:
        counts.append(_narrowed(sparse.csr_matrix(np.stack(pending))))
    if not counts.n_rows:
        raise InputError("there is no sample.", dataset=dataset, file=file, expected="one row a sample below the header")
    index = pd.Index(ids)
    require_unique(index.to_series(name=str(header[0])), "a sample", dataset, file)
    return index, genes, counts


def _narrowed(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """Whole numbers as int32: a workbook's are 64-bit floats."""
    narrow = values.data.astype(np.int32)
    return sparse.csr_matrix((narrow, values.indices, values.indptr), values.shape) if (narrow == values.data).all() else values


def _numbers(cells: list[Any], sample: str, genes: pd.Index, dataset: str, file: Path) -> np.ndarray:
    if set(map(type, cells)) <= {float, int}:
        return np.asarray(cells, dtype=np.float64)
    position = next(i for i, cell in enumerate(cells) if type(cell) not in (float, int))
    raise InputError(
        f"the count of gene {genes[position]} is {'missing' if cells[position] == '' else repr(cells[position])}.",
        dataset=dataset,
        file=file,
        rows=[sample],
        column=str(genes[position]),
        expected="a number in every cell",
    )


def repaired_symbol(cell: object) -> str:
    """Gene symbol of a header cell, undone of what spreadsheets and R do to symbols.

    Parameters
    ----------
    cell
        What the header holds: text, or a date where Excel took SEPT7 for the seventh of September. The year does not count.
    """
    if isinstance(cell, datetime.date | datetime.datetime):
        return f"{MONTH_GENES.get(cell.month, cell.strftime('%b').upper())}{cell.day}"
    symbol = str(cell).strip()
    as_date = re.fullmatch(r"\d{4}-(\d{2})-(\d{2})(?: 00:00:00)?", symbol)
    if as_date:
        month, day = map(int, as_date.groups())
        return f"{MONTH_GENES.get(month, symbol)}{day}" if month in MONTH_GENES else symbol
    from_r = R_DATE.match(symbol)
    if from_r and from_r[2].lower() in MONTHS:
        return f"{MONTH_GENES[MONTHS[from_r[2].lower()]]}{int(from_r[1])}"
    return R_NAME.sub(r"\1-\2", symbol)


def read_compounds(file: Path, sheet: str, dataset: str) -> pd.DataFrame:
    """Name, CAS number and mechanism of action (``name``, ``cas``, ``mechanism``) by catalogue id.

    The first three columns are taken by their place: one of the sheets calls two of them Catalog Number. Only the other has mechanisms.
    """
    table = read_table(file, dataset, ("name", "compound", "compound name", "compounds", "product name"), sheet)
    if table.shape[1] < 3 or "catalog" not in str(table.columns[1]).lower():
        raise InputError(
            f"the columns of {sheet} are {', '.join(map(str, table.columns))}.",
            dataset=dataset,
            file=file,
            expected="compound name, catalogue number and CAS number first",
        )
    mechanism = table.get("MoA")
    table = table.iloc[:, :3].set_axis(["name", "catalogue_id", "cas"], axis=1).assign(mechanism=mechanism).dropna(subset="catalogue_id")
    require_unique(table["catalogue_id"], "a catalogue number", dataset, file)
    words = table[["name", "mechanism"]].apply(lambda column: column.map(unwrapped, na_action="ignore"))
    return table.assign(**words).set_index("catalogue_id")


def unwrapped(name: str) -> str:
    """A name without line breaks: one inside a word joins its halves, one beside a blank is the blank."""
    without = re.sub(r"[ \t]*[\r\n]+[ \t]*", lambda found: " " if re.search(r"[ \t]", found[0]) else "", name)
    return re.sub(r"\s+", " ", without).strip()


# ---- samples -----------------------------------------------------------------------------------------------------------------


def _samples(file: Path, series: str, layout: Layout, dataset: Dataset) -> pd.DataFrame:
    """Samples of a series by id: treatment, plate, well, cell, dose_uM, time_h."""
    table = read_table(file, dataset.id, (layout.sample.lower(),))
    columns = [layout.sample, layout.treatment, layout.plate, layout.cell, layout.dose, layout.time, *layout.well]
    columns += [layout.experiment] if layout.experiment else []
    require_columns(table, columns, dataset.id, file)
    require_unique(table[layout.sample], "a sample", dataset.id, file)
    table = table.set_index(layout.sample)
    dose = _dose_of(series, dataset.id, file)
    _require_constant(table[layout.dose], parse_dose_uM, "µM", dose, dataset.id, file)
    _require_constant(table[layout.time], parse_time_h, "h", TIME_H, dataset.id, file)
    # plates and samples have the same names in every series of the screen without wells
    key = "" if layout.well else series.lower().replace("_compounds", "")
    return pd.DataFrame(
        {
            "series": series,
            "treatment": table[layout.treatment],
            "plate": (f"{key}." if key else "") + table[layout.plate],
            "well": _wells(table[layout.well[0]], table[layout.well[1]]) if layout.well else table.index,
            "sample_unique_id": f"{key}." + table.index if key else None,
            "cell": table[layout.cell],
            "experiment": table[layout.experiment] if layout.experiment else None,
            "dose_uM": dose,
        },
        index=table.index,
    )


def _dose_of(series: str, dataset: str, file: Path) -> float:
    """Dose in µM that the name of a series ends with."""
    found = re.search(r"_(\d+)(?:\wM)?$", series)
    if not found:
        raise InputError("the name of the file does not say the dose.", dataset=dataset, file=file, expected="…_10μM_… or …_10_…")
    return float(found[1])


def _require_constant(values: pd.Series, parse: Any, unit: str, expected: float, dataset: str, file: Path) -> None:
    """Refuse a column that says another dose or time than the series; what says nothing is left."""
    said = values.notna()
    parsed = parse(values).fillna(parse(values, pd.Series(unit, index=values.index)))
    other = said & (parsed != expected)
    if other.any():
        raise InputError(
            f"{int(other.sum()):,} samples have {values[other].iloc[0]!r}.",
            dataset=dataset,
            file=file,
            rows=list(values.index[other]),
            column=str(values.name),
            expected=f"{expected:g} {unit} for every sample of the series",
        )


def _wells(rows: pd.Series, columns: pd.Series) -> pd.Series:
    """Well names, D10, of rows as numbers or letters and columns as numbers."""
    number = pd.to_numeric(rows, errors="coerce")
    letters = number.map(lambda row: chr(ord("A") + int(row) - 1) if 1 <= row <= 26 else None, na_action="ignore")
    return first_known(letters.astype(object).where(letters.notna(), None), rows) + columns


def _joined(ids: pd.Index, counts: SpilledRows, described: pd.DataFrame, dataset: str, file: Path) -> pd.DataFrame:
    """One row a row of counts, with its total and whether it ``is_described``; null where nothing describes it."""
    if not ids.isin(described.index).any():
        raise InputError(
            "no sample of the counts is described.",
            dataset=dataset,
            file=file,
            rows=list(ids[:5]),
            expected=f"ids as in the workbook of samples: {', '.join(map(str, described.index[:3]))}",
        )
    series = described["series"].iloc[0]
    joined = described.reindex(ids).assign(series=series, total=counts.totals(), is_described=ids.isin(described.index))
    # ids repeat between series
    return joined.set_axis(series + "." + ids, axis=0)


def filter_samples(samples: pd.DataFrame, dataset: Dataset, steps: Reconciliation) -> pd.DataFrame:
    """Samples of compounds and DMSO that pass the quality rule of CIGS.

    In order: samples without counts; excluded plates; blanks; in each series, samples whose log2 total is more than 1.5 times the
    interquartile range below the first quartile (type 7), where at least four are left; the positive control.
    """
    samples = steps.keep("samples", "total count of 0", samples, samples["total"] > 0)
    samples = steps.keep("samples", "excluded: plate that the authors leave out", samples, ~samples["plate"].isin(EXCLUDED_PLATES))
    treatment = samples["treatment"].str.upper()
    samples = steps.keep("samples", "blank", samples, ~treatment.isin(BLANK))
    samples = steps.keep("samples", "low total for its series", samples, ~is_low(samples["total"], samples["series"]))
    samples = steps.keep("samples", f"positive control {POSITIVE_CONTROL}", samples, samples["treatment"] != POSITIVE_CONTROL)
    labels = [label.upper() for label in dataset.control.labels]
    is_control = samples["treatment"].str.upper().isin(labels)
    require_controls(is_control, samples["treatment"].unique(), dataset)
    return samples.assign(is_control=is_control)


def is_low(totals: pd.Series, series: pd.Series) -> pd.Series:
    """Whether the log2 of a total lies more than 1.5 interquartile ranges below the first quartile of its series.

    Quartiles are of type 7 (Hyndman and Fan 1996), R's default and NumPy's.
    """
    log2 = pd.Series(np.log2(totals.to_numpy(float)), index=totals.index)
    low = pd.Series(False, index=totals.index)
    for of_series in log2.groupby(series.to_numpy()).groups.values():
        if len(of_series) >= FEWEST_FOR_QUARTILES:
            first, third = np.quantile(log2[of_series], [0.25, 0.75])
            low[of_series] = log2[of_series] < first - 1.5 * (third - first)
    return low


def _obs(samples: pd.DataFrame, compounds: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Samples in the words of the contract."""
    catalogue = samples["treatment"].str.replace(r"^Compd", "Cpd", regex=True)
    known = compounds.reindex(catalogue).set_axis(samples.index)
    return pd.DataFrame(
        {
            "plate": samples["plate"],
            "well": samples["well"],
            "source_cell_context": samples["cell"],
            "perturbagen": first_known(known["name"], samples["treatment"]).mask(samples["is_control"], dataset.control.perturbagen),
            "source_perturbagen_id": catalogue,
            "is_control": samples["is_control"],
            "pert_dose_uM": samples["dose_uM"],
            "pert_time_h": TIME_H,
            "inchikey": None,
            "smiles": None,
            "pubchem_cid": None,
            "cas": known["cas"],
            "catalogue_id": catalogue.where(known["name"].notna(), None),
            "sample_unique_id": samples["sample_unique_id"],
            "experiment": samples["experiment"],
            "mechanism": known["mechanism"],
        }
    )
