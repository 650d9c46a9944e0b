"""Compound tables of the LINCS portal: structures and PubChem ids of perturbagens that the tables of GEO leave out.

Belongs here: joining the portal's tables, and which of several compounds a perturbagen is. Does not belong here: which source counts
first (``l1000.py``).

The published pipeline downloads the portal's PubChem ids and, by a slip of keys, never uses them. They are used here.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.native import only, read_text_table, text

ROLES = ("portal_samples", "portal_structures", "portal_annotations")
PERTURBAGEN, COMPOUND = "sm_center_canonical_id", "sm_lincs_id"
NAMES = {"sm_inchi_key_parent": "inchi_key", "sm_smiles_parent": "canonical_smiles", "sm_pubchem_cid": "pubchem_cid"}
"""What the portal calls the fields of GEO's perturbagen tables."""


def read_portal(files: dict[str, list[Path]], known: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Structures and PubChem ids that the portal has of perturbagens.

    Parameters
    ----------
    files
        Files of the roles ``portal_samples`` (which compound a perturbagen is), ``portal_structures`` and ``portal_annotations``; a role
        may be absent, or have no file.
    known
        What GEO says, by pert_id: inchi_key, canonical_smiles.
    dataset
        For messages.

    Returns
    -------
    Index pert_id, unique; columns inchi_key, canonical_smiles, pubchem_cid. Of several compounds of one perturbagen the one counts whose
    InChIKey, else whose SMILES, is that of `known`; where several are left, only what they agree on.

    Raises
    ------
    InputError
        If a table cannot be read, or compounds are described but not said to be perturbagens.
    """
    tables = {role: _table(files[role], role, files, dataset) for role in ROLES if files.get(role)}
    columns = list(NAMES.values())
    if not tables:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="pert_id"), dtype=object)
    if "portal_samples" not in tables:
        raise InputError(
            "the portal's compounds are there, but not the table that says which perturbagen is which.",
            dataset=dataset,
            expected="SampleTable_LincsID2FacilityID2CenterBatchID_LINCS_StandardizedCmpds_LSMIDs.txt beside them",
        )
    samples = tables.pop("portal_samples").dropna(subset=[PERTURBAGEN, COMPOUND])
    described = [table.dropna(subset=COMPOUND).groupby(COMPOUND).first() for table in tables.values()]
    compounds = reduce(pd.DataFrame.combine_first, described, pd.DataFrame(columns=list(NAMES), dtype=object))
    rows = samples[[PERTURBAGEN, COMPOUND]].drop_duplicates().join(compounds.reindex(columns=list(NAMES)), on=COMPOUND)
    rows = rows.rename(columns=NAMES | {PERTURBAGEN: "pert_id"})
    for column in ("inchi_key", "canonical_smiles"):
        same = rows[column].notna() & (rows[column] == rows["pert_id"].map(known[column]))
        rows = rows[same | ~same.groupby(rows["pert_id"]).transform("any")]
    by_id = rows.groupby("pert_id")[columns]
    return by_id.first().where(by_id.min() == by_id.max(), None)


def _table(found: list[Path], role: str, files: dict[str, list[Path]], dataset: str) -> pd.DataFrame:
    key = (PERTURBAGEN, COMPOUND) if role == "portal_samples" else (COMPOUND,)
    table = read_text_table(only(files, role, dataset), dataset, separator="\t", columns=key, optional=tuple(NAMES))
    return table.apply(text)
