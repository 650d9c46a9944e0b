"""What a reader hands to the standardiser, and the small tools that readers share.

Belongs here: the form of native samples, the running account of what rules dropped, reading text tables, words for missing. Does not
belong here: one format's own rules (its reader) or the contract (``assemble.py``).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.contract import RECONCILIATION
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.tables import cleaned_text
from perturbridge_dagster.registry import Dataset

Axis = Literal["cells", "samples", "conditions", "genes"]
GeneKind = Literal["ensembl", "entrez", "symbol", "mixed"]

CONDITION = ("perturbagen", "source_cell_context", "pert_dose_uM", "pert_time_h")
"""What makes a condition, in the words of a reader."""

NO_CELLS = "no cell of the condition passes the filters"

MISSING_WORDS = frozenset({"nan", "none", "<na>"})
"""How missing values read once a table was written as text, in lower case; blanks and -666 are missing for everyone."""


@dataclass
class Reconciliation:
    """Running account, for each axis, of how many rows each rule dropped.

    Attributes
    ----------
    condition
        Columns that make a condition in the words of the source: compound, cell context, dose and time. Where they are given,
        :meth:`keep` counts the conditions that lose all of their samples.
    steps
        One a rule, as the contract's table ``reconciliation`` has them.
    left
        Rows left on each axis.
    """

    condition: Sequence[str] = ()
    steps: list[dict[str, Any]] = field(default_factory=list)
    left: dict[Axis, int] = field(default_factory=dict)

    def start(self, axis: Axis, n: int) -> None:
        """Say how many rows an axis begins with."""
        self.left[axis] = n

    def drop(self, axis: Axis, rule: str, n_dropped: int) -> None:
        """Record that a rule dropped rows, or merged them into others; 0 is recorded too."""
        n_in = self.left[axis]
        self.left[axis] = n_in - n_dropped
        self.steps.append(
            {"step": len(self.steps), "axis": axis, "rule": rule, "n_in": n_in, "n_dropped": n_dropped, "n_out": n_in - n_dropped}
        )

    def keep(self, axis: Axis, rule: str, rows: pd.DataFrame, kept: pd.Series) -> pd.DataFrame:
        """The rows for which `kept` is true; how many are not, and how many conditions go with them, is recorded under `rule`."""
        self.drop(axis, rule, int((~kept).sum()))
        left = rows[kept]
        if self.condition and set(self.condition) <= set(rows.columns):
            self.lose_conditions(rule, rows[list(self.condition)], left[list(self.condition)])
        return left

    def lose_conditions(self, rule: str, before: pd.DataFrame, after: pd.DataFrame) -> None:
        """Record how many conditions lost all of their rows.

        Parameters
        ----------
        rule
            What dropped them.
        before, after
            What makes a condition, one row a cell or sample, before and after the rule; a missing value is a value of its own.
        """
        if "conditions" not in self.left:
            self.start("conditions", len(before.drop_duplicates()))
        self.drop("conditions", rule, self.left["conditions"] - len(after.drop_duplicates()))

    def frame(self) -> pd.DataFrame:
        """The account as the contract's table ``reconciliation``."""
        return pd.DataFrame(self.steps, columns=RECONCILIATION.names)


@dataclass
class Expression:
    """Values of the samples of one native file.

    Attributes
    ----------
    file
        The file.
    blocks
        Samples × genes, some rows at a time, in order: int64 counts, CSR; or float32 log2 intensities, dense. They can be read once,
        so that no reader need hold what the standardiser has taken.
    genes
        Gene ids of the source, one a column.
    gene_kind
        What kind of ids they are.
    """

    file: Path
    blocks: Iterator[sparse.csr_matrix] | Iterator[np.ndarray]
    genes: pd.Index
    gene_kind: GeneKind


@dataclass
class NativeSamples:
    """Everything a reader found.

    Attributes
    ----------
    obs
        One row a sample, indexed by the source's own row name, in the order of `expressions`. Columns: ``NATIVE_OBS``, and any
        further field of the contract that the source knows. Missing values are nulls.
    expressions
        Values, one element a native file.
    steps
        What the reader's rules dropped.
    """

    obs: pd.DataFrame
    expressions: list[Expression]
    steps: Reconciliation


NATIVE_OBS = (
    "plate",
    "well",
    "source_cell_context",
    "perturbagen",
    "source_perturbagen_id",
    "is_control",
    "pert_dose_uM",
    "pert_time_h",
    "inchikey",
    "smiles",
    "pubchem_cid",
)
"""Columns that every reader gives, as missing where the source does not know."""


def text(values: pd.Series) -> pd.Series:
    """Values as stripped text, null where the source says that there is none.

    32-bit floats become their shortest decimal: a stored 0.35 is "0.35", not "0.3499999940395355".
    """
    decimal = pd.Series(values.to_numpy().astype(str), index=values.index, name=values.name) if values.dtype.kind == "f" else values
    words = cleaned_text(decimal)
    return words.where(~words.str.lower().isin(MISSING_WORDS), None)


def first_known(*columns: pd.Series) -> pd.Series:
    """The first of some aligned columns that has a value, row by row; null where none has."""
    return reduce(lambda known, other: known.where(known.notna(), other), columns)


def positive_integers(values: pd.Series) -> pd.Series:
    """Values as ``Int64``, null where they are not a positive whole number."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers.where((numbers > 0) & (numbers % 1 == 0)).astype("Int64")


def require_columns(frame: pd.DataFrame, columns: Sequence[str], dataset: str, file: Path) -> None:
    """Refuse a table that lacks a column.

    Raises
    ------
    InputError
        Naming the columns that are missing and those that are there.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(
            f"there is no column {', '.join(missing)}.",
            dataset=dataset,
            file=file,
            expected=f"a column among {', '.join(map(str, frame.columns))}",
        )


def require_unique(keys: pd.Series, what: str, dataset: str, file: Path) -> None:
    """Refuse a key that occurs twice.

    Raises
    ------
    InputError
        Naming the keys.
    """
    repeated = keys[keys.duplicated()].unique()
    if len(repeated):
        raise InputError(
            f"{what} occurs more than once.",
            dataset=dataset,
            file=file,
            rows=list(repeated),
            column=str(keys.name),
            expected="one row each",
        )


def read_text_table(file: Path, dataset: str, *, separator: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read columns of a text table, plain or gzipped, as text; missing values are nulls.

    Parameters
    ----------
    file, dataset
        The file and the dataset it belongs to.
    separator
        Between fields.
    columns, optional
        Column names that must be there, and that may be; compared in lower case, with blanks and hyphens as underscores. Optional
        columns that are absent come back as missing.

    Raises
    ------
    InputError
        If the file cannot be read or lacks a column.
    """
    wanted = {*columns, *optional}
    for encoding in ("utf-8", "latin-1"):
        try:
            frame = pd.read_csv(
                file,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding=encoding,
                usecols=lambda name: _plain_name(name) in wanted,
                quoting=0 if separator == "," else 3,
            )
            break
        except UnicodeDecodeError:
            # old tables hold a µ in latin-1, in which every byte is a letter
            continue
        except (OSError, EOFError, gzip.BadGzipFile, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise InputError(f"the table cannot be read ({error}).", dataset=dataset, file=file, advice="Fetch the file again.") from error
    frame.columns = pd.Index([_plain_name(name) for name in frame.columns])
    require_columns(frame, columns, dataset, file)
    return frame.reindex(columns=[*columns, *optional]).apply(text)


def read_parquet_table(file: Path, dataset: str) -> pd.DataFrame:
    """Read a Parquet table with its index.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise InputError(f"the file cannot be read as Parquet ({error}).", dataset=dataset, file=file, advice="Fetch it again.") from error


def read_curated_cells(cells_file: Path, columns: Sequence[str], cells: pd.Index, dataset: str, counts_file: Path) -> pd.DataFrame:
    """The curated metadata of the cells of a counts file.

    Parameters
    ----------
    cells_file
        Parquet table with one row a cell, by cell id.
    columns
        Columns that it must have.
    cells
        Cell ids of the counts file.
    dataset, counts_file
        For messages.

    Returns
    -------
    DataFrame
        One row for each of `cells`, in their order; null where the curators do not know the cell.

    Raises
    ------
    InputError
        If the file cannot be read or lacks a column, a cell occurs twice on either side, or no cell is in both.
    """
    curated = read_parquet_table(cells_file, dataset)
    require_columns(curated, columns, dataset, cells_file)
    for index, file in ((cells, counts_file), (curated.index, cells_file)):
        require_unique(index.to_series(name="cell id"), "a cell", dataset, file)
    if curated.index.equals(cells):
        return curated
    if not cells.isin(curated.index).any():
        raise InputError(
            "no cell of the counts file is in the curated table.",
            dataset=dataset,
            file=cells_file,
            rows=list(cells[:5]),
            expected="the cell ids of the counts file as index",
        )
    return curated.reindex(cells)


def _plain_name(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def only(files: Mapping[str, list[Path]], role: str, dataset: str) -> Path:
    """The one file of a role.

    Raises
    ------
    InputError
        If there are several.
    """
    found = files[role]
    if len(found) > 1:
        raise InputError(
            f"there are {len(found)} {role} files: {', '.join(map(str, found))}.",
            dataset=dataset,
            expected="one",
            advice="Remove the others.",
        )
    return found[0]


def require_controls(is_control: pd.Series, seen: Iterable[object], dataset: Dataset) -> None:
    """Refuse a dataset without any vehicle control.

    Parameters
    ----------
    is_control
        Whether each sample, or cell, is a vehicle control.
    seen
        Names among which the control was looked for; a few are shown.

    Raises
    ------
    InputError
        Naming the expected label and some that are there.
    """
    if not is_control.any():
        shown = ", ".join(sorted({str(name) for name in seen if name is not None})[:10])
        raise InputError(
            f"no vehicle control found among {shown or 'no names'}.",
            dataset=dataset.id,
            expected=dataset.control.how,
            advice="If the vehicle has another name, add it to the control labels of the registry.",
        )
