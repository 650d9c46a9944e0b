"""The identity tables, shipped and a user's own: where they lie, how they are read, and which entries hold for a dataset.

Does not belong here: what a table means (``compounds.py``, ``genes.py``, ``cell_contexts.py``) or how it is made (``build_snapshot.py``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from perturbridge_dagster.errors import InputError

DATA = Path(__file__).parent / "data"

COMPOUNDS = "compounds.csv"
CURATED_COMPOUNDS = "curated_compounds.csv"
CURATED_ANSWERS = "curated_answers.csv"
GENES = "genes.parquet"
GENE_KEYS = "gene_keys.parquet"
CELL_CONTEXTS = "cell_contexts.csv"
CURATED_CELL_CONTEXTS = "curated_cell_contexts.csv"
CURATED_DONORS = "curated_donors.csv"
CURATED_MODEL_SYSTEMS = "curated_model_systems.csv"

NO_VALUE = frozenset({"", "-666", "-666.0", "-666.000000"})
"""Texts by which LINCS and CIGS say that there is no value."""


def read_table(name: str, folder: Path = DATA) -> pd.DataFrame:
    """Read a table; text stays text, an empty cell is None.

    Parameters
    ----------
    name
        File name, CSV or Parquet.
    folder
        Folder of the file.
    """
    path = folder / name
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.where(frame != "", None)


CATALOGUE_COLUMNS = ("dataset", "catalogue_id", "pubchem_cid", "inchikey", "smiles", "source", "date")


def catalogue_files(folder: Path) -> list[Path]:
    """The vendors' tables of a user's snapshot, sorted."""
    return sorted((folder / "catalogues").glob("*.csv"))


def read_catalogues(folder: Path) -> pd.DataFrame | None:
    """Vendors' tables, one below the other; None where there is none.

    Parameters
    ----------
    folder
        The user's snapshot. Each ``catalogues/<vendor>.csv`` has a column catalogue_id and at least one of pubchem_cid, inchikey and
        smiles. It may have a column dataset (the datasets that use this vendor's numbers; all without it), source and date (the file's
        name and nothing without them).

    Raises
    ------
    InputError
        If a table cannot be read, lacks a column, or gives a number twice for a dataset.
    """
    parts = []
    for file in catalogue_files(folder):
        try:
            frame = read_table(file.name, file.parent)
            if not isinstance(frame.index, pd.RangeIndex):
                raise ValueError("rows have more values than there are columns")
        except (ValueError, OSError) as error:
            raise InputError(f"cannot be read ({error}).", file=file, expected="a table of comma-separated values in UTF-8") from error
        if "catalogue_id" not in frame or not {"pubchem_cid", "inchikey", "smiles"} & set(frame.columns):
            raise InputError(
                f"has the columns {', '.join(map(str, frame.columns))}.",
                file=file,
                expected="catalogue_id, and one or more of pubchem_cid, inchikey and smiles",
            )
        frame = frame.reindex(columns=list(CATALOGUE_COLUMNS)).astype(object)
        frame = frame.where(frame.notna(), None)
        frame["source"] = frame["source"].where(frame["source"].notna(), file.stem)
        parts.append(frame.assign(catalogue_id=cleaned_text(frame["catalogue_id"])).dropna(subset="catalogue_id"))
        twice = parts[-1].duplicated(["dataset", "catalogue_id"])
        if twice.any():
            raise InputError(
                "a catalogue number occurs twice.",
                file=file,
                column="catalogue_id",
                rows=parts[-1].loc[twice, "catalogue_id"].tolist(),
                expected="one row a number and dataset",
            )
    return pd.concat(parts, ignore_index=True) if parts else None


def for_dataset(entries: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Entries that hold for a dataset, the most specific first.

    An entry without a dataset holds for all. An entry of ``l1000`` holds for ``l1000`` and for its variants, such as ``l1000_phase1``.

    Parameters
    ----------
    entries
        Any table with a nullable text column ``dataset``.
    dataset
        Dataset id.
    """
    named = entries["dataset"].fillna("")
    holds = named.map(lambda name: not name or dataset == name or dataset.startswith(f"{name}_")).astype(bool)
    specific_first = named[holds].str.len().sort_values(ascending=False, kind="stable").index
    return entries.loc[specific_first]


def cleaned_text(values: pd.Series) -> pd.Series:
    """Text without surrounding blanks; a missing value, blank text and the marker -666 become None."""
    text = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    return text.astype(object).where(~text.isin(NO_VALUE), None)


def tables_checksum(folder: Path = DATA) -> str:
    """SHA-256 over names and bytes of all shipped tables."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".parquet")):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
