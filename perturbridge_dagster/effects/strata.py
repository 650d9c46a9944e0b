"""Strata: which samples are fitted together.

A stratum is one fit: the samples of one cell context, or of one combination of the strata fields that the registry names for the
dataset. Belongs here: cutting a dataset into strata, and the table of strata. Does not belong here: what is estimated inside a
stratum (``design.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import CELL_CONTEXT_PATTERN, STRATA
from perturbridge_dagster.effects.design import compound_keys
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import rounded_dose_uM
from perturbridge_dagster.written import content_checksum

if TYPE_CHECKING:
    import anndata as ad

STRATUM_KEY = "stratum"
"""Key of the stratum id in ``AnnData.uns``."""


@dataclass(frozen=True)
class Stratum:
    """The samples of one fit, named.

    Attributes
    ----------
    dataset
        Dataset id.
    stratum
        Stratum id, unique in the dataset, for example ``CL_0000515_0.0625``.
    cell_type
        Cell-context id.
    source_cell_context
        Cell context as the source names it; several joined by "; ".
    fields
        The strata fields with their values, in the order of the registry.
    """

    dataset: str
    stratum: str
    cell_type: str
    source_cell_context: str
    fields: tuple[tuple[str, str | float], ...]


def _strata_fields(dataset: str) -> list[str]:
    """Obs fields whose combinations are the strata of a dataset; the cell context alone where it is not registered."""
    from perturbridge_dagster import registry

    try:
        return list(registry.dataset(dataset).strata)
    except InputError:
        return ["cell_type"]


def stratum_id(values: Sequence[str | float]) -> str:
    """Name of a stratum: its values joined by ``_``; floats as ``%g``, blanks → ``_``, ``/`` → ``-``, no parentheses.

    Raises
    ------
    InputError
        If what comes out cannot be a partition key and a file name.
    """
    text = "_".join(f"{value:g}" if isinstance(value, float) else value for value in values)
    text = re.sub(r"\s", "_", text).replace("/", "-").replace("(", "").replace(")", "")
    if not re.fullmatch(CELL_CONTEXT_PATTERN, text):
        raise InputError(f"stratum id {text!r} is not a legal name", expected=f"text that matches {CELL_CONTEXT_PATTERN}")
    return text


def _stratum_values(column: pd.Series[Any]) -> pd.Series[Any]:
    """A strata field as floats where it is numeric, else as text."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    return column.astype(float) if pd.api.types.is_numeric_dtype(column) else column.astype(str)


def split_strata(samples: ad.AnnData, dataset: str) -> Iterator[tuple[Stratum, ad.AnnData]]:
    """Cut the harmonized samples of a dataset into strata.

    Parameters
    ----------
    samples
        Harmonized samples, in memory or backed.
    dataset
        Dataset id; the registry names its strata fields.

    Yields
    ------
    tuple
        Stratum and its samples, in memory, sorted by stratum id; ``uns["stratum"]`` holds the id.

    Raises
    ------
    InputError
        If a strata field is absent or missing for some samples, or two strata would have one name.
    """
    fields = _strata_fields(dataset)
    absent = [field for field in ["cell_type", *fields] if field not in samples.obs]
    if absent:
        raise InputError("strata field is absent from obs", dataset=dataset, column=", ".join(absent))
    for field in fields:
        missing = samples.obs[field].isna().to_numpy()
        if missing.any():
            raise InputError(
                f"samples without a value of a strata field belong to no stratum; {missing.sum():,} are such",
                dataset=dataset,
                column=field,
                rows=list(samples.obs_names[missing]),
                advice="Give them a value, or drop them in the reader with a rule of the reconciliation.",
            )
    keys = pd.DataFrame({field: _stratum_values(samples.obs[field]).to_numpy() for field in fields})
    rows_of: dict[str, tuple[tuple[str | float, ...], Any]] = {}
    for values, rows in keys.groupby(fields, sort=True).indices.items():
        key = values if isinstance(values, tuple) else (values,)
        name = stratum_id(key)
        if name in rows_of:
            raise InputError(f"strata {rows_of[name][0]} and {key} would both be named {name}", dataset=dataset, column=", ".join(fields))
        rows_of[name] = (key, np.sort(rows))
    for name, (key, rows) in sorted(rows_of.items()):
        # rows of a file that lie together are read together
        wanted = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        part = samples[wanted].to_memory() if samples.isbacked else samples[wanted].copy()
        cell_types = sorted(part.obs["cell_type"].astype(str).unique())
        if len(cell_types) > 1:
            raise InputError(
                f"stratum {name} holds {len(cell_types)} cell contexts: {', '.join(cell_types)}",
                dataset=dataset,
                column="cell_type",
                advice="The strata fields of the registry must include cell_type.",
            )
        sources = part.obs["source_cell_context"] if "source_cell_context" in part.obs else part.obs["cell_type"]
        part.uns[STRATUM_KEY] = name
        yield (
            Stratum(dataset, name, cell_types[0], "; ".join(sorted(sources.astype(str).unique())), tuple(zip(fields, key, strict=True))),
            part,
        )


def strata_table(written: Iterable[tuple[Stratum, ad.AnnData, str]]) -> pd.DataFrame:
    """The table of strata (``contract.STRATA``).

    Parameters
    ----------
    written
        Stratum, its samples, and its file relative to the output folder; consumed one by one, so it may be a generator.
    """
    rows = []
    for stratum, samples, file in written:
        is_control = samples.obs["is_control"].astype(bool).to_numpy()
        conditions = compound_keys(samples.obs).assign(
            dose=rounded_dose_uM(samples.obs["pert_dose_uM"]), time=samples.obs["pert_time_h"].to_numpy()
        )
        rows.append(
            {
                "dataset": stratum.dataset,
                "stratum": stratum.stratum,
                "cell_type": stratum.cell_type,
                "source_cell_context": stratum.source_cell_context,
                "n_samples": samples.n_obs,
                "n_treated": int((~is_control).sum()),
                "n_controls": int(is_control.sum()),
                "n_conditions": len(conditions[~is_control].drop_duplicates()),
                "n_perturbagens": samples.obs.loc[~is_control, "perturbagen"].nunique(),
                "n_plates": samples.obs["plate"].nunique(),
                "n_genes": samples.n_vars,
                "file": file,
                "checksum": content_checksum(samples),
            }
        )
    return pd.DataFrame(rows, columns=STRATA.names).sort_values("stratum", ignore_index=True)
