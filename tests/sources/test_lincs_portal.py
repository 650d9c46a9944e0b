"""What the LINCS portal adds to the perturbagen tables of GEO."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.lincs_portal import read_portal

SAMPLES = [("BRD-1", "LSM-1"), ("BRD-1", "LSM-2"), ("BRD-2", "LSM-2"), ("BRD-3", "LSM-3"), ("BRD-3", "LSM-4"), ("BRD-4", "LSM-9")]
STRUCTURES = [("LSM-1", "C", "KEY-1"), ("LSM-2", "CC", "KEY-2"), ("LSM-3", "CCC", "KEY-3"), ("LSM-4", "CCC", "KEY-4")]
ANNOTATIONS = [("LSM-1", "11"), ("LSM-2", "12"), ("LSM-3", "13"), ("LSM-4", "13")]
KNOWN = pd.DataFrame({"inchi_key": ["KEY-2"], "canonical_smiles": [None]}, index=pd.Index(["BRD-1"], name="pert_id"))


def write(folder: Path, roles: tuple[str, ...] = ("portal_samples", "portal_structures", "portal_annotations")) -> dict[str, list[Path]]:
    tables = {
        "portal_samples": pd.DataFrame(SAMPLES, columns=["SM_Center_Canonical_ID", "SM_LINCS_ID"]),
        "portal_structures": pd.DataFrame(STRUCTURES, columns=["SM_LINCS_ID", "SM_SMILES_Parent", "SM_InChi_Key_Parent"]),
        "portal_annotations": pd.DataFrame(ANNOTATIONS, columns=["SM_LINCS_ID", "SM_PubChem_CID"]),
    }
    found: dict[str, list[Path]] = {role: [] for role in tables}
    for role in roles:
        found[role] = [folder / f"{role}.txt"]
        tables[role].to_csv(found[role][0], sep="\t", index=False, encoding="latin-1")
    return found


def test_the_compound_whose_structure_is_known_counts(tmp_path: Path) -> None:
    portal = read_portal(write(tmp_path), KNOWN, "l1000_phase2")
    assert portal.loc["BRD-1"].tolist() == ["KEY-2", "CC", "12"]
    assert portal.loc["BRD-2"].tolist() == ["KEY-2", "CC", "12"]
    # two compounds with one SMILES and one PubChem id, but not one InChIKey
    assert portal.loc["BRD-3", ["canonical_smiles", "pubchem_cid"]].tolist() == ["CCC", "13"]
    assert portal.loc["BRD-3", "inchi_key"] is None
    assert portal.loc["BRD-4"].isna().all()
    assert portal.index.is_unique


def test_tables_may_be_absent(tmp_path: Path) -> None:
    assert read_portal({}, KNOWN, "l1000_phase2").empty
    without_cid = read_portal(write(tmp_path, ("portal_samples", "portal_structures")), KNOWN, "l1000_phase2")
    assert without_cid.loc["BRD-1", "canonical_smiles"] == "CC"
    assert without_cid["pubchem_cid"].isna().all()
    with pytest.raises(InputError, match="SampleTable_LincsID2FacilityID2CenterBatchID"):
        read_portal(write(tmp_path, ("portal_structures",)), KNOWN, "l1000_phase2")
