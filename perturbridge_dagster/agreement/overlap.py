"""What two datasets have in common, step by step: why they match many conditions, few, or none.

Belongs here: counts of what both measured. Does not belong here: which conditions match (``matching.py``), whether too few do
(``quality/agreement.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import pandas as pd

from perturbridge_dagster.agreement.signatures import StratumEffects


class Overlap(NamedTuple):
    """What two datasets have in common.

    Attributes
    ----------
    cell_contexts
        Cell contexts that both measured.
    compounds
        Compounds that both measured, wherever.
    compounds_in_context
        Compounds × cell contexts that both measured.
    compounds_at_time
        Compounds × cell contexts × times that both measured; their doses decide whether they match.
    names_without_id
        Perturbagens × cell contexts that both measured under one name, capitals aside, and that no PubChem id of both joins.
    """

    cell_contexts: int
    compounds: int
    compounds_in_context: int
    compounds_at_time: int
    names_without_id: int


def overlap(left: Mapping[str, StratumEffects], right: Mapping[str, StratumEffects]) -> Overlap:
    """Count what two datasets have in common, among their estimable contrasts.

    Parameters
    ----------
    left, right
        Effects by stratum name.
    """
    sides = [_measured(left), _measured(right)]

    def shared(*columns: str) -> pd.DataFrame:
        return reduce(pd.merge, (side[list(columns)].dropna().drop_duplicates() for side in sides))

    in_context = shared("pubchem_cid", "cell_type")
    by_name = shared("name", "cell_type")
    joined = [
        pd.MultiIndex.from_frame(side.merge(in_context, on=["pubchem_cid", "cell_type"])[["name", "cell_type"]].dropna()) for side in sides
    ]
    named = pd.MultiIndex.from_frame(by_name)
    return Overlap(
        cell_contexts=len(shared("cell_type")),
        compounds=len(shared("pubchem_cid")),
        compounds_in_context=len(in_context),
        compounds_at_time=len(shared("pubchem_cid", "cell_type", "pert_time_h")),
        names_without_id=int((~(named.isin(joined[0]) | named.isin(joined[1]))).sum()),
    )


def _measured(strata: Mapping[str, StratumEffects]) -> pd.DataFrame:
    """Compound, name, cell context and time of the estimable contrasts of a dataset, each once."""
    columns = ["pubchem_cid", "perturbagen", "cell_type", "pert_time_h"]
    types: dict[str, Any] = {"pubchem_cid": "Int64", "perturbagen": object, "cell_type": object, "pert_time_h": "float64"}
    tables = [effects.contrasts.loc[effects.contrasts["estimable"].astype(bool), columns].astype(types) for effects in strata.values()]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns).astype(types)
    return table.assign(name=table.pop("perturbagen").str.strip().str.casefold()).drop_duplicates(ignore_index=True)
