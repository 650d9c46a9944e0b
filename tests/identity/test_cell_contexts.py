"""Cell contexts: names to accessions, and donors."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.contract import CELL_CONTEXT_PATTERN, HARMONIZED_OBS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.cell_contexts import CELL_CONTEXT_COLUMNS, DONOR_COLUMNS, safe_name
from perturbridge_dagster.identity.snapshot import shipped

# Contexts in the published data, by dataset.
L1000_PHASE_1 = """
CD34 CVCL_0002 CVCL_0006 CVCL_0007 CVCL_0023 CVCL_0027 CVCL_0031 CVCL_0033 CVCL_0035 CVCL_0060 CVCL_0062 CVCL_0063 CVCL_0065 CVCL_0068
CVCL_0080 CVCL_0098 CVCL_0132 CVCL_0139 CVCL_0178 CVCL_0291 CVCL_0320 CVCL_0332 CVCL_0336 CVCL_0399 CVCL_0504 CVCL_0526 CVCL_0546 CVCL_0547
CVCL_0566 CVCL_0598 CVCL_0629 CVCL_0632 CVCL_1139 CVCL_1184 CVCL_1192 CVCL_1489 CVCL_1498 CVCL_1521 CVCL_1564 CVCL_1571 CVCL_1609 CVCL_1662
CVCL_1707 CVCL_1776 CVCL_1902 CVCL_1980 CVCL_2057 CVCL_2161 CVCL_2235 CVCL_2425 CVCL_2520 CVCL_2588 CVCL_2675 CVCL_2923 CVCL_3158 CVCL_3719
CVCL_4656 CVCL_5003 CVCL_5111 CVCL_5112 CVCL_5136 CVCL_8067 CVCL_U602 CVCL_UK07 CVCL_VU89 NEU NKDBA NPC PHH SKB
"""
L1000_NAMES = """
CD34 HL60 THP1 U937 A549 HEPG2 MCF7 SKBR3 PC3 H1299 MDAMB231 HEK293T JURKAT SKMEL1 A673 SKM1 A375 AGS BT20 HCT116 HT29 HS578T HUH7 LOVO RKO
SKMEL28 SW480 SW620 U266 MCF10A SKLU1 SW948 CORL23 DV90 EFO27 NCIH1694 NCIH1836 NCIH2073 NCIH508 NCIH596 NOMO1 RMGI SNGM TYKNU WSUDLCL2 CL34
HCC15 PL21 VCAP COV644 HT115 MDST8 OV7 HEC108 RMUGS HS27A JHUEM2 SNU1040 SNUC4 SNUC5 HCC515 T3M10 ASC FIBRNPC HA1E NEU NKDBA NPC PHH SKB
"""


def resolve(names: list[object], dataset: str) -> pd.DataFrame:
    return shipped().cell_contexts.resolve(pd.Series(names, dtype=object), dataset)


def test_the_lincs_names_of_phase_1_are_its_70_contexts() -> None:
    found = resolve(L1000_NAMES.split(), "l1000_phase1")
    assert sorted(found["cell_type"]) == sorted(L1000_PHASE_1.split())
    assert set(found["found"]) == {"curated", "name"}


@pytest.mark.parametrize(
    ("dataset", "name", "cell_type", "found"),
    [
        ("l1000_phase1", "HT115", "CVCL_2520", "name"),
        ("l1000_phase2", "A375", "CVCL_0132", "name"),
        ("l1000_phase2", "HME1", "CVCL_3383", "curated"),
        ("l1000_phase2", "HUES3", "CVCL_B161", "curated"),
        # a derivative is not its parent, and a name that Cellosaurus gives to another line keeps itself
        ("l1000_phase2", "NPC.CAS9", "NPC.CAS9", "curated"),
        ("l1000_phase2", "SKB", "SKB", "curated"),
        ("l1000_phase2", "MCF7.HOM", "MCF7.HOM", "source"),
        ("sciplex", "K-562", "CVCL_0004", "name"),
        ("sciplex", "k562", "CVCL_0004", "name"),
        ("sciplex", "MCF7", "CVCL_0031", "name"),
        ("vcpi_0001", "THP-1", "CVCL_0006", "name"),
        ("novartis", "U-2 OS", "CVCL_0042", "name"),
        ("cigs_mce", "cell_MDA_MB_231", "CVCL_0062", "curated"),
        ("cigs_tcm", 231, "CVCL_0062", "curated"),
        ("cigs_tcm", "293T", "CVCL_0063", "curated"),
        ("op3", "NK cells", "CL_0000623", "curated"),
        ("gdpx2", "skeletal muscle myoblast", "CL_0000515", "name"),
        ("dilimap_train", "primary human hepatocytes", "CL_0000182", "curated"),
        # curated entries of one dataset do not hold for another
        ("a_new_screen", "NK cells", "NK_cells", "source"),
        ("a_new_screen", "HCT-116", "CVCL_0291", "name"),
        # accessions stay
        ("tahoe", "CVCL_0023", "CVCL_0023", "source"),
        ("tahoe", "CVCL_9999", "CVCL_9999", "source"),
        ("tahoe", "CL:0000182", "CL_0000182", "source"),
    ],
)
def test_shipped_answers(dataset: str, name: object, cell_type: str, found: str) -> None:
    row = resolve([name], dataset).iloc[0]
    assert (row["cell_type"], row["found"]) == (cell_type, found)


def test_donors_are_those_of_the_dataset() -> None:
    hepatocyte = resolve(["hepatocyte"], "dilimap_train_val").iloc[0]
    assert (hepatocyte["tissue"], hepatocyte["development_stage"], hepatocyte["sex"]) == ("liver", "37-year-old stage", "female")
    assert resolve(["hepatocyte"], "a_new_screen").iloc[0]["sex"] is None
    assert resolve(["A549"], "sciplex").iloc[0]["self_reported_ethnicity"] == "European"
    assert resolve(["A549"], "l1000_phase1").iloc[0]["self_reported_ethnicity"] is None
    assert resolve(["HELA"], "l1000_phase2").iloc[0]["tissue"] == "cervix"
    assert resolve(["NPC.CAS9"], "l1000_phase2").iloc[0]["tissue"] == "central nervous system"


@pytest.mark.parametrize(
    ("dataset", "name", "model_system", "cell_type_source"),
    [
        ("l1000_phase1", "A549", "cell line", "Cellosaurus 55.0"),
        ("l1000_phase2", "HUES3", "cell line", "Cellosaurus 55.0"),
        ("l1000_phase1", "PHH", "primary", "LINCS"),
        ("l1000_phase1", "NPC", "iPSC-derived", "LINCS"),
        ("l1000_phase2", "NPC.TAK", "iPSC-derived", "LINCS"),
        ("l1000_phase1", "FIBRNPC", "iPSC-derived", "Cellosaurus 55.0"),
        # the accession is that of an immortal line, the cells of LINCS are not
        ("l1000_phase1", "ASC", "primary", "Cellosaurus 55.0"),
        ("a_new_screen", "ASC52telo", "cell line", "Cellosaurus 55.0"),
        ("l1000_phase2", "MNEU.E", None, "LINCS"),
        ("op3", "NK cells", "primary", "Cell Ontology 2026-03-26"),
        ("gdpx2", "skeletal muscle myoblast", "primary", "Cell Ontology 2026-03-26"),
        ("dilimap_train_val", "hepatocyte", "primary", "Cell Ontology 2026-03-26"),
        # a type of the Cell Ontology may be cultured from anything
        ("a_new_screen", "hepatocyte", None, "Cell Ontology 2026-03-26"),
        ("a_new_screen", "CL:0000034", None, "Cell Ontology"),
        ("a_new_screen", "CVCL_9999", "cell line", "Cellosaurus"),
        ("a_new_screen", "my cells", None, "source"),
        # a name that looks like an accession and is none
        ("a_new_screen", "CVCL_mine", None, "source"),
    ],
)
def test_model_system_and_vocabulary(dataset: str, name: str, model_system: str | None, cell_type_source: str) -> None:
    row = resolve([name], dataset).iloc[0]
    assert (row["model_system"], row["cell_type_source"]) == (model_system, cell_type_source)


def test_order_index_and_missing_names_are_kept() -> None:
    names = pd.Series(["MCF7", None, "A549", "MCF7", "", "my cells"], index=list("fedcba"))
    found = shipped().cell_contexts.resolve(names, "a_new_screen")
    assert found.index.tolist() == list("fedcba")
    assert list(found.columns) == list(CELL_CONTEXT_COLUMNS)
    assert found["cell_type"].tolist() == ["CVCL_0031", None, "CVCL_0023", "CVCL_0031", None, "my_cells"]
    assert found["label"].tolist() == ["MCF-7", None, "A-549", "MCF-7", None, "my cells"]
    assert found["found"].tolist() == ["name", None, "name", "name", None, "source"]
    assert shipped().cell_contexts.resolve(names.iloc[:0], "a_new_screen").empty


def test_two_spellings_of_one_line_are_one_context() -> None:
    assert resolve(["A549", "A-549", "a 549"], "a_new_screen")["cell_type"].unique().tolist() == ["CVCL_0023"]


@pytest.mark.parametrize("names", [["line 1", "line/1"], ["(α)"], ["--"]])
def test_names_that_make_no_id_of_their_own_are_refused(names: list[object]) -> None:
    with pytest.raises(InputError, match="a_new_screen"):
        resolve(names, "a_new_screen")


@given(st.text(min_size=1, max_size=20))
def test_a_safe_name_is_an_id_or_has_no_letter_or_digit(name: str) -> None:
    made = pd.Series([safe_name(name)])
    has_letter = any(character.isascii() and character.isalnum() for character in name)
    assert made.str.fullmatch(CELL_CONTEXT_PATTERN).item() == has_letter


def test_the_shipped_tables_fit_the_contract() -> None:
    contexts, curated = shipped().cell_contexts.contexts, shipped().cell_contexts.curated
    assert not contexts.duplicated(["dataset", "cell_type"]).any()
    assert contexts["cell_type"].str.fullmatch(CELL_CONTEXT_PATTERN).all()
    assert set(contexts["sex"].dropna()) <= set(HARMONIZED_OBS["sex"].allowed)
    assert set(contexts["model_system"].dropna()) <= set(HARMONIZED_OBS["model_system"].allowed)
    # words of a donor without their speaker could be pooled with those of another
    described = contexts[list(DONOR_COLUMNS)].notna().any(axis=1)
    assert contexts.loc[described, "donor_source"].notna().all()
    assert contexts[["label", "source", "date"]].notna().all(axis=None)
    assert set(curated["cell_type"]) <= set(contexts["cell_type"])
    assert not curated.duplicated(["dataset", "name"]).any()
