"""Summaries of retrieval: from queries to cell contexts, directions and datasets.

Belongs here: means over queries, and means of these, with intervals from resamples of compounds. Does not belong here: what a query
finds (``retrieval.py``, ``replicate_retrieval.py``), how an interval is made (``bootstrap.py``).

A large cell context does not weigh more than a small one: queries are averaged in each stratum (a direction, cell context and time),
strata in each direction, and then the directions, as published.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import N_RESAMPLES, clustered_bca_columns
from perturbridge_dagster.contract import REPLICATE_RETRIEVAL_SUMMARY, RETRIEVAL_PAIR, RETRIEVAL_STRATA, Table

_VARIANT = ["representation", "similarity", "positives"]
_CONTEXT_TIME = ["cell_type", "pert_time_h"]
_PAIR = ["left_dataset", "right_dataset"]


def _means_of(table: Table) -> list[str]:
    """Scores that a summary gives the mean of."""
    names = table.names[table.names.index("normalised_rank") :]
    return [name for name in names if not name.endswith(("_low", "_high", "_interval"))]


def retrieval_strata(queries: pd.DataFrame) -> pd.DataFrame:
    """Means over the queries of each direction, cell context and time.

    Parameters
    ----------
    queries
        Table RETRIEVAL_QUERIES of the contract.

    Returns
    -------
    Table RETRIEVAL_STRATA of the contract, sorted.
    """
    means = ["n_candidates", "n_positives", *_means_of(RETRIEVAL_STRATA)]
    groups = queries.groupby([*_PAIR, "direction", *_CONTEXT_TIME, *_VARIANT], sort=True)
    counts = groups["pubchem_cid"].agg(n_queries="size", n_compounds="nunique")
    strata: pd.DataFrame = counts.join(groups[means].mean()).reset_index()
    return strata.astype(dict.fromkeys(means, "float64"))[RETRIEVAL_STRATA.names]


def _summary(queries: pd.DataFrame, table: Table, keys: list[str], outer: list[str], n_resamples: int) -> pd.DataFrame:
    """Mean over `outer` groups of the mean over strata of the mean over queries, for each group of `keys`.

    Parameters
    ----------
    outer
        Columns that tell directions apart; none where there are none.
    """
    means = _means_of(table)
    with_interval = [name for name in means if f"{name}_interval" in table.names]
    strata = queries[[*outer, *_CONTEXT_TIME]].groupby([*outer, *_CONTEXT_TIME], sort=True).ngroup().to_numpy()
    groups_of = queries[outer[0]].to_numpy(dtype=object) if outer else None
    found = []
    for group in queries.groupby(keys, sort=True).indices.items():
        names: tuple[str, ...] = group[0]  # type: ignore[assignment]
        rows = group[1]
        here = queries.iloc[rows]
        inner = here.groupby([*outer, *_CONTEXT_TIME], sort=True)[means].mean()
        values: dict[Any, Any] = {"n_strata": len(inner), "n_queries": len(here)}
        values["n_compounds"] = here["pubchem_cid"].nunique()
        values |= (inner.groupby(outer, sort=True).mean() if outer else inner).mean().to_dict()
        intervals = clustered_bca_columns(
            here[with_interval].to_numpy(dtype=np.float64),
            here["pubchem_cid"],
            strata=strata[rows],
            outer=None if groups_of is None else groups_of[rows],
            seed_key=(table.name, *names),
            n_resamples=n_resamples,
        )
        for name, interval in zip(with_interval, intervals, strict=True):
            values |= {f"{name}_low": interval.low, f"{name}_high": interval.high, f"{name}_interval": interval.method}
        found.append(dict(zip(keys, names, strict=True)) | values)
    return pd.DataFrame(found).reindex(columns=table.names)


def retrieval_pair(
    queries: pd.DataFrame, *, by_direction: bool = False, by_cell_context: bool = False, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Retrieval between each pair of datasets.

    Parameters
    ----------
    queries
        Table RETRIEVAL_QUERIES of the contract.
    by_direction, by_cell_context
        Whether each direction, or each cell context, is summarised alone.
    n_resamples
        Resamples of compounds for the intervals.

    Returns
    -------
    Table RETRIEVAL_PAIR of the contract, sorted; direction and cell context are null where they are taken together.
    """
    keys = [*_PAIR, *(["direction"] if by_direction else []), *(["cell_type"] if by_cell_context else []), *_VARIANT]
    return _summary(queries, RETRIEVAL_PAIR, keys, ["direction"], n_resamples)


def replicate_retrieval_summary(queries: pd.DataFrame, *, by_cell_context: bool = False, n_resamples: int = N_RESAMPLES) -> pd.DataFrame:
    """Retrieval among the replicates of each dataset.

    Parameters
    ----------
    queries
        Table REPLICATE_RETRIEVAL_QUERIES of the contract.
    by_cell_context
        Whether each cell context is summarised alone.
    n_resamples
        Resamples of compounds for the intervals.

    Returns
    -------
    Table REPLICATE_RETRIEVAL_SUMMARY of the contract, sorted; the cell context is null where all are taken together.
    """
    keys = ["dataset", *(["cell_type"] if by_cell_context else []), *_VARIANT]
    return _summary(queries, REPLICATE_RETRIEVAL_SUMMARY, keys, [], n_resamples)
