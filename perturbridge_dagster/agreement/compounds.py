"""Compounds: which PubChem ids are one compound in a comparison.

Belongs here: giving all salts of one parent structure one id, at the door of the stage. Does not belong here: anything that compares
compounds, which goes by ``pubchem_cid`` alone, or how structures are found (``perturbridge_dagster/identity``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from perturbridge_dagster.agreement.keys import clean_text, compound_keys
from perturbridge_dagster.agreement.signatures import Relabelled, StratumEffects

CompoundKey = Literal["pubchem_cid", "parent_key"]
"""What makes two compounds one: their PubChem id, or the key of their parent structure, so that salts and the free base are one."""

Datasets = Mapping[str, Mapping[str, StratumEffects]]
"""Dataset → stratum → effects."""


def parent_ids(contrasts: Iterable[pd.DataFrame]) -> pd.Series[int]:
    """The id that stands for a parent structure: the smallest PubChem id of the compounds that share it.

    Parameters
    ----------
    contrasts
        Tables with ``pubchem_cid`` and ``parent_key``, both nullable. An id whose parent structure one table knows has it in all; ids
        that share a structure with a third are one, too.

    Returns
    -------
    PubChem id → the id that stands for it, for every id with a known structure.
    """
    columns = [pd.DataFrame({"cid": compound_keys(table), "parent": clean_text(table["parent_key"])}) for table in contrasts]
    known = pd.concat(columns).dropna().drop_duplicates() if columns else pd.DataFrame({"cid": [], "parent": []})
    cid, cids = pd.factorize(known["cid"].astype("int64"))
    parent, parents = pd.factorize(known["parent"])
    size = len(cids) + len(parents)
    graph = sparse.coo_array((np.ones(len(known)), (cid, len(cids) + parent)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(cids)]
    ids = pd.Series(cids, index=pd.Index(cids, name="pubchem_cid"), dtype="int64")
    return ids.groupby(component).transform("min")


def with_ids(table: pd.DataFrame, ids: pd.Series[int]) -> pd.DataFrame:
    """A table whose PubChem ids are replaced by those that stand for them; an id that is not among them stays.

    Parameters
    ----------
    table
        With ``pubchem_cid``.
    ids
        Of :func:`parent_ids`.
    """
    if ids.empty:
        return table
    own = compound_keys(table)
    found = own.map(ids).astype("Int64").fillna(own)
    return table.assign(pubchem_cid=found if found.hasnans else found.astype("int64"))


def one_compound_each(datasets: Datasets, compound: CompoundKey) -> tuple[dict[str, dict[str, StratumEffects]], pd.Series[int]]:
    """Effects of datasets that are compared, in which what counts as one compound has one PubChem id.

    Parameters
    ----------
    datasets
        All that take part.
    compound
        What makes two compounds one.

    Returns
    -------
    datasets
        The effects; as they are where PubChem ids decide.
    ids
        Of :func:`parent_ids`, for tables that were made from some of these effects; empty where PubChem ids decide.
    """
    together = [effects for strata in datasets.values() for effects in strata.values()] if compound == "parent_key" else []
    ids = parent_ids(effects.contrasts for effects in together)
    if ids.empty:
        return {dataset: dict(strata) for dataset, strata in datasets.items()}, ids
    renamed: dict[str, dict[str, StratumEffects]] = {
        dataset: {name: Relabelled(effects, with_ids(effects.contrasts, ids)) for name, effects in strata.items()}
        for dataset, strata in datasets.items()
    }
    return renamed, ids
