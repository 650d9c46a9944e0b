"""Cell contexts: from a source's words to Cellosaurus or Cell Ontology ids, with what is known of the donor.

Belongs here: looking names up in the shipped tables. Does not belong here: donors that only a source's own file knows (``sources/``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import CELL_CONTEXT_PATTERN
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.tables import cleaned_text, for_dataset

DONOR_COLUMNS = ("tissue", "disease", "development_stage", "sex", "self_reported_ethnicity")
"""What is known of a donor; the words are those of the column donor_source."""

CELL_CONTEXT_COLUMNS = ("cell_type", "label", "model_system", *DONOR_COLUMNS, "donor_source", "cell_type_source", "found")

_ACCESSION = r"^(?:CVCL_[A-Z0-9]{4}|CL_\d{7})$"


def normalized_name(names: pd.Series) -> pd.Series:
    """Names as they are compared: without case, blanks and hyphens; None where missing.

    Dots count, so that a derivative line (NPC.CAS9) is never taken for its parent.
    """
    text = cleaned_text(names).astype("string").str.casefold().str.replace(r"[\s-]", "", regex=True)
    return text.astype(object).where(text.notna(), None)


def safe_name(name: str) -> str:
    """A name as a cell-context id of the contract: other characters become ``_``, and it begins with a letter or digit."""
    return re.sub(r"^[._-]+", "", re.sub(r"[^A-Za-z0-9._-]", "_", name.strip()))


@dataclass(frozen=True, eq=False)
class CellContextIdentity:
    """Answers about cell contexts.

    Attributes
    ----------
    contexts
        What is known of each cell context: dataset (null for all), cell_type, label, model_system (nullable), the donor columns
        (nullable), donor_source (who says so; nullable), source (vocabulary of cell_type, with its version), date. Unique by dataset
        and cell_type.
    curated
        Names set by hand: dataset (null for all), name, cell_type, reason. A name may be set to itself: it then has no accession, and
        is not looked up.
    """

    contexts: pd.DataFrame
    curated: pd.DataFrame

    @cached_property
    def _by_name(self) -> pd.Series[Any]:
        """Accession of each name that only one has."""
        named = self.contexts[self.contexts["cell_type"].str.fullmatch(_ACCESSION)].drop_duplicates("cell_type")
        keys = normalized_name(named["label"])
        return named.assign(key=keys)[~keys.duplicated(keep=False)].set_index("key")["cell_type"]

    def resolve(self, names: pd.Series, dataset: str) -> pd.DataFrame:
        """Cell-context id of each name, and what is known of it.

        Parameters
        ----------
        names
            Cell contexts as the source names them; an accession (``CVCL_0023``, ``CL:0000182``) stays what it is.
        dataset
            Dataset id; it decides which curated entries hold and which donor is meant.

        Returns
        -------
        Same index: ``cell_type``, ``label``, ``model_system`` (nullable), the donor's tissue, disease, development_stage, sex,
        self_reported_ethnicity (nullable), ``donor_source`` (nullable), ``cell_type_source``, the vocabulary of cell_type with its
        version, and ``found``: ``curated`` by hand, ``name`` by the name of Cellosaurus or the Cell Ontology without case, blanks and
        hyphens, ``source`` an accession of the source, or its name made safe. All null where the name is missing.

        Raises
        ------
        InputError
            If a name has no letter or digit to make an id of, or two names would make one id.
        """
        given = cleaned_text(names)
        entries = for_dataset(self.curated, dataset)
        entries = entries.assign(key=normalized_name(entries["name"])).drop_duplicates("key")
        distinct = pd.Series(given.dropna().unique(), dtype=object)
        key = normalized_name(distinct)
        accession = distinct.str.replace("CL:", "CL_", regex=False)
        answers = {
            "curated": key.map(entries.set_index("key")["cell_type"]),
            "source": accession.where(accession.str.fullmatch(_ACCESSION)),
            "name": key.map(self._by_name),
        }
        cell_type = pd.Series(None, index=distinct.index, dtype=object)
        found = cell_type.copy()
        for how, answer in answers.items():
            newly = cell_type.isna() & answer.notna()
            cell_type, found = cell_type.mask(newly, answer), found.mask(newly, how)
        unnamed = cell_type.isna()
        cell_type = cell_type.mask(unnamed, distinct[unnamed].map(safe_name))
        found = found.fillna("source")
        self._refuse_unsafe(distinct, cell_type, unnamed, dataset)

        known = for_dataset(self.contexts, dataset).drop_duplicates("cell_type").set_index("cell_type")
        columns = ["label", "model_system", *DONOR_COLUMNS, "donor_source", "source"]
        resolved = known[columns].reindex(cell_type).set_axis(distinct, axis=0).rename(columns={"source": "cell_type_source"})
        resolved["label"] = resolved["label"].fillna(pd.Series(distinct.to_numpy(), index=distinct))
        # the tables have few of Cellosaurus' accessions; one of the others is a line all the same, of a version that nobody says
        line, term = (cell_type.str.startswith(prefix).to_numpy(dtype=bool) & ~unnamed.to_numpy() for prefix in ("CVCL_", "CL_"))
        resolved["model_system"] = resolved["model_system"].mask(line & resolved["model_system"].isna(), "cell line")
        vocabulary = np.select([line, term], ["Cellosaurus", "Cell Ontology"], "source")
        resolved["cell_type_source"] = resolved["cell_type_source"].fillna(pd.Series(vocabulary, index=resolved.index))
        resolved.insert(0, "cell_type", cell_type.to_numpy())
        resolved["found"] = found.to_numpy()
        result = resolved.reindex(given).set_axis(names.index, axis=0).astype(object)
        return result.where(result.notna(), None)[list(CELL_CONTEXT_COLUMNS)]

    @staticmethod
    def _refuse_unsafe(names: pd.Series, cell_type: pd.Series, unnamed: pd.Series, dataset: str) -> None:
        """Refuse ids made of names that are no ids, or that another name has too."""
        advice = "Add the name to curated_cell_contexts.csv with an id of its own."
        nameless = unnamed & ~cell_type.str.fullmatch(CELL_CONTEXT_PATTERN).astype(bool)
        if nameless.any():
            raise InputError(
                "no cell-context id can be made of the name",
                dataset=dataset,
                rows=list(names[nameless]),
                expected="a letter or digit in the name",
                advice=advice,
            )
        clash = cell_type.duplicated(keep=False) & cell_type.isin(cell_type[unnamed])
        if clash.any():
            raise InputError("different cell contexts would get one id", dataset=dataset, rows=list(names[clash]), advice=advice)
