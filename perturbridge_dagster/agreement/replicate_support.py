"""Replicate support: which conditions of a dataset occur in other datasets, too.

Belongs here: the published restriction of the replicates of L1000 to cell contexts and compounds that some other dataset has, as an
option with a report. Does not belong here: scores (``replicates.py``).

What is kept depends on which datasets are there, so the report names them: counts of runs with different datasets differ for this
reason alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from perturbridge_dagster.contract import REPLICATE_SUPPORT

RESTRICTED = ("l1000_phase1", "l1000_phase2")
"""Datasets that the published benchmark restricts."""

_WHERE = ["cell_type", "pubchem_cid"]


def supported_conditions(conditions: Mapping[str, pd.DataFrame], restricted: Collection[str] = RESTRICTED) -> pd.DataFrame:
    """Cell contexts and compounds of the datasets that are not restricted.

    Parameters
    ----------
    conditions
        A table with ``cell_type`` and ``pubchem_cid`` for each dataset, such as REPLICATE_PAIRS or CONTRASTS of the contract.
    restricted
        Datasets that give no support.

    Returns
    -------
    Distinct ``cell_type`` and ``pubchem_cid``, sorted; ``attrs["datasets"]`` names the datasets that were asked, in order.
    """
    asked = sorted(set(conditions) - set(restricted))
    tables = [conditions[dataset][_WHERE].dropna() for dataset in asked]
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"cell_type": [], "pubchem_cid": []})
    found = found.astype({"cell_type": "object", "pubchem_cid": "int64"}).drop_duplicates().sort_values(_WHERE, ignore_index=True)
    found.attrs["datasets"] = asked
    return found


def require_support(
    table: pd.DataFrame, supported: pd.DataFrame, restricted: Collection[str] = RESTRICTED
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep rows of restricted datasets whose cell context and compound another dataset has.

    Parameters
    ----------
    table
        Rows with ``dataset``, ``cell_type``, ``pubchem_cid``, ``pert_time_h`` and ``pert_dose_uM``, such as REPLICATE_PAIRS or
        REPLICATE_SCORES of the contract.
    supported
        Table of :func:`supported_conditions`.
    restricted
        Datasets that need support; rows of others are kept.

    Returns
    -------
    kept
        The rows kept, in their order.
    report
        Table REPLICATE_SUPPORT of the contract: what was kept of each restricted dataset, and by support of which datasets.
    """
    known = pd.MultiIndex.from_frame(supported[_WHERE])
    needs = table["dataset"].isin(list(restricted)).to_numpy(dtype=bool)
    has = pd.MultiIndex.from_frame(table[_WHERE]).isin(known)
    kept = table[~needs | has]
    rows = []
    condition = [*_WHERE, "pert_time_h", "pert_dose_uM"]
    for dataset, all_rows in table[needs].groupby("dataset", sort=True):
        kept_rows = kept[kept["dataset"] == dataset]
        rows.append(
            {
                "dataset": dataset,
                "supporting_datasets": ";".join(supported.attrs["datasets"]),
                "n_conditions": len(all_rows.drop_duplicates(condition)),
                "n_compounds": all_rows["pubchem_cid"].nunique(),
                "n_kept_conditions": len(kept_rows.drop_duplicates(condition)),
                "n_kept_compounds": kept_rows["pubchem_cid"].nunique(),
            }
        )
    return kept.reset_index(drop=True), pd.DataFrame(rows, columns=REPLICATE_SUPPORT.names)
