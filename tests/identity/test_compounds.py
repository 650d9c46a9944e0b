"""Compounds: order of answers, curated entries, structures and their parents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.contract import HARMONIZED_OBS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.answers import ANSWER_COLUMNS
from perturbridge_dagster.identity.build_snapshot import _lincs_compounds
from perturbridge_dagster.identity.compounds import CompoundIdentity, cleaned_cas, cleaned_inchikey, name_key
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.identity.structures import no_structures, read_structure, read_structures
from perturbridge_dagster.identity.tables import cleaned_text

IMATINIB = "CN1CCN(CC1)Cc1ccc(cc1)C(=O)Nc1ccc(C)c(Nc2nccc(n2)-c2cccnc2)c1"
IMATINIB_INCHIKEY = "KTUFNOKKBVMGRW-UHFFFAOYSA-N"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
ASPIRIN_INCHIKEY = "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"


def compounds(*rows: dict[str, object]) -> pd.DataFrame:
    columns = ["source_perturbagen_id", "perturbagen", "inchikey", "smiles", "pubchem_cid"]
    frame = pd.DataFrame(list(rows), columns=columns).astype(object)
    frame["pubchem_cid"] = pd.array([None if pd.isna(cid) else int(cid) for cid in frame["pubchem_cid"]], dtype="Int64")
    return frame.where(frame.notna(), None).astype({"pubchem_cid": "Int64"})


@pytest.fixture
def identity() -> CompoundIdentity:
    answers = pd.DataFrame(
        [
            (1, IMATINIB_INCHIKEY, "KTUFNOKKBVMGRW", "imatinib", "gleevec;STI 571"),
            (2, ASPIRIN_INCHIKEY, "BSYNRYMUTXBXSQ", "aspirin", None),
            (3, None, "AAAAAAAAAAAAAA", "drug of two", "shared"),
            (4, None, "BBBBBBBBBBBBBB", "other drug", "shared;4711"),
        ],
        columns=["pubchem_cid", "inchikey", "parent_key", "name", "aliases"],
    ).assign(source="table", date="2020-01-01")
    curated = pd.DataFrame(
        [
            (None, "name", "DMSO", "679", "vehicle", "2020-01-02"),
            ("sciplex", "name", "Aurora", None, "cut name", "2020-01-02"),
            ("l1000", "id", "BRD-1", "11", "by id", "2020-01-02"),
            ("l1000_phase2", "id", "BRD-1", "12", "by id, of one phase", "2020-01-02"),
            ("l1000", "name", "aspirin", "13", "by name", "2020-01-02"),
        ],
        columns=["dataset", "key_kind", "key", "pubchem_cid", "reason", "date"],
    )
    return CompoundIdentity(answers, curated)


def test_the_first_answer_in_order_holds(identity: CompoundIdentity) -> None:
    everything = {"inchikey": IMATINIB_INCHIKEY, "smiles": ASPIRIN, "perturbagen": "other drug", "pubchem_cid": 99}
    rows = [everything]
    for column in ("pubchem_cid", "inchikey", "smiles"):
        rows.append(rows[-1] | {column: None})
    found = identity.resolve(compounds({**everything, "perturbagen": "dmso"}, *rows), "any")
    assert found["pubchem_cid"].tolist() == [679, 99, 1, 2, 4]
    assert found["pubchem_cid_source"].tolist() == ["curated", "source", "inchikey", "smiles", "name"]


def test_curated_entries_hold_for_their_dataset_and_its_variants(identity: CompoundIdentity) -> None:
    asked = compounds({"source_perturbagen_id": "BRD-1", "perturbagen": "aspirin", "pubchem_cid": 99})
    answers = {name: identity.resolve(asked, name)["pubchem_cid"].item() for name in ("l1000_phase1", "l1000_phase2", "l1000x", "op3")}
    assert answers == {"l1000_phase1": 11, "l1000_phase2": 12, "l1000x": 99, "op3": 99}


def test_a_curated_entry_without_an_id_closes_the_question(identity: CompoundIdentity) -> None:
    asked = compounds({"perturbagen": "Aurora", "smiles": ASPIRIN, "pubchem_cid": 86222})
    closed = identity.report(asked, "sciplex").iloc[0]
    assert pd.isna(closed["pubchem_cid"])
    assert closed["pubchem_cid_source"] is None
    assert (closed["outcome"], closed["answer_source"]) == ("not_found", "cut name")
    assert identity.resolve(asked, "tahoe")["pubchem_cid"].item() == 86222


@pytest.mark.parametrize("cid", [0, -666, None])
def test_a_cid_that_is_none_is_no_answer(identity: CompoundIdentity, cid: int | None) -> None:
    assert identity.resolve(compounds({"perturbagen": "nobody knows", "pubchem_cid": cid}), "any")["pubchem_cid"].isna().all()


@pytest.mark.parametrize(
    ("name", "cid"),
    [("IMATINIB", 1), (" Gleevec ", 1), ("sti  571", 1), ("STI-571", None), ("imat", None), ("shared", None), ("4711", None)],
)
def test_names_match_whole_and_by_one_compound_only(identity: CompoundIdentity, name: str, cid: int | None) -> None:
    answer = identity.resolve(compounds({"perturbagen": name}), "any")["pubchem_cid"].item()
    assert (None if pd.isna(answer) else answer) == cid


@pytest.mark.parametrize(
    ("name", "cid"),
    [
        pytest.param("Imatinib (STI 571)", 1, id="two names of one compound"),
        pytest.param("Imatinib (unheard of)", 1, id="the part inside leads nowhere"),
        pytest.param("Unheard of (Gleevec)", 1, id="the part outside leads nowhere"),
        pytest.param("Unheard of (foo, Gleevec)", 1, id="several synonyms"),
        pytest.param("Imatinib (aspirin)", None, id="two compounds"),
        pytest.param("aspirin (imatinib, other drug)", None, id="three compounds"),
        pytest.param("Imatinib (mesylate)", None, id="a salt nobody knows is not the base"),
        pytest.param("Imatinib HCl", None, id="a salt nobody knows, without brackets"),
        pytest.param("Imatinib (Gleevec) HCl", None, id="a salt behind the brackets"),
        pytest.param("Imatinib mesylate (Gleevec)", None, id="a salt before the brackets"),
        pytest.param("Unheard of (Gleevec) 2HCl", None, id="a salt of the synonym"),
        pytest.param("Shared (unheard of)", None, id="a name of two compounds leads nowhere"),
        pytest.param("Imatinib (racemic)", None, id="a mixture"),
    ],
)
def test_parts_of_a_name_answer_where_they_lead_to_one_compound(identity: CompoundIdentity, name: str, cid: int | None) -> None:
    answer = identity.resolve(compounds({"perturbagen": name}), "any")["pubchem_cid"].item()
    assert (None if pd.isna(answer) else answer) == cid


def test_a_name_does_not_answer_against_the_structure(identity: CompoundIdentity) -> None:
    rows = identity.resolve(
        compounds({"perturbagen": "imatinib", "smiles": "CCO"}, {"perturbagen": "imatinib", "smiles": "broken("}), "any"
    )
    assert pd.isna(rows["pubchem_cid"].iloc[0])
    assert rows["parent_key"].iloc[0] == "LFQSCWFLJHTTHZ"
    assert rows["pubchem_cid"].iloc[1] == 1


SALT = IMATINIB + ".Cl"
SALT_INCHIKEY = "JWOCADZZAHSVDR-UHFFFAOYSA-N"
L_ALANINE, ALANINE = ("QNAYBMKLOCPYGJ-REOHCLBHSA-N", "C[C@H](N)C(=O)O"), ("QNAYBMKLOCPYGJ-UHFFFAOYSA-N", "CC(N)C(=O)O")
DAY = "2026-11-21T00:00:00+00:00"


def answered(*rows: tuple[str, str, str, int | None, str | None, str | None]) -> pd.DataFrame:
    """What PubChem answered: kind, query, outcome, PubChem id, InChIKey, parent key."""
    columns = ["kind", "query", "outcome", "pubchem_cid", "inchikey", "parent_key"]
    frame = pd.DataFrame(rows, columns=columns).reindex(columns=list(ANSWER_COLUMNS)).astype(object)
    return frame.where(frame.notna(), None).assign(source="PubChem", date=DAY).astype({"pubchem_cid": "Int64"})


@pytest.mark.parametrize("words", [{"perturbagen": "imatinib"}, {"perturbagen": "x", "cas": "152459-95-5"}], ids=["name", "CAS number"])
def test_words_of_another_salt_do_not_answer_before_the_structure_was_asked(identity: CompoundIdentity, words: dict[str, object]) -> None:
    names = ["gleevec;152459-95-5", None, None, None]
    identity = replace(identity, answers=identity.answers.assign(aliases=names))
    asked = compounds({**words, "smiles": SALT}).assign(cas=words.get("cas"))

    def known(*rows: tuple[str, str, str, int | None, str | None, str | None]) -> tuple[int, str, list[list[str]]]:
        grown = replace(identity, asked=answered(*rows))
        report, missing = grown.report(asked, "any").iloc[0], grown.missing_compounds(asked, "any")
        cid = report["pubchem_cid"]
        return 0 if pd.isna(cid) else cid, report["outcome"], missing[["kind", "query", "state"]].to_numpy().tolist()

    nothing = (None, None, None)
    not_found = ("inchikey", SALT_INCHIKEY, "not_found", *nothing)
    assert known() == (0, "not_asked", [["inchikey", SALT_INCHIKEY, "not_asked"]])
    failed = ("inchikey", SALT_INCHIKEY, "failed", *nothing)
    assert known(failed) == (0, "failed", [["inchikey", SALT_INCHIKEY, "failed"]])
    assert known(not_found) == (0, "not_asked", [["smiles", SALT, "not_asked"]])
    found = ("inchikey", SALT_INCHIKEY, "found", 123, SALT_INCHIKEY, IMATINIB_INCHIKEY[:14])
    assert known(found) == (123, "found", [])
    # PubChem does not know the salt: the compound of the same parent structure stands for it
    assert known(not_found, ("smiles", SALT, "not_found", *nothing)) == (1, "found", [])


@pytest.mark.parametrize(
    ("drawn", "known", "cid"),
    [
        pytest.param(L_ALANINE, ALANINE, 0, id="an enantiomer is not the racemate"),
        pytest.param(("QNAYBMKLOCPYGJ-UWTATZPHSA-N", "C[C@@H](N)C(=O)O"), L_ALANINE, 0, id="nor the other enantiomer"),
        pytest.param(ALANINE, L_ALANINE, 5, id="a drawing without stereo centres leaves them open"),
        pytest.param(("QNAYBMKLOCPYGJ-UHFFFAOYSA-M", None), L_ALANINE, 0, id="an anion is not the acid"),
        pytest.param((L_ALANINE[0], ALANINE[1]), ("QNAYBMKLOCPYGJ-UWTATZPHSA-N", None), 0, id="the InChIKey says more than the drawing"),
        pytest.param(L_ALANINE, (None, None), 5, id="nobody knows the InChIKey of the answer"),
    ],
)
def test_a_name_answers_provisionally_unless_its_compound_is_another_stereoisomer(
    identity: CompoundIdentity, drawn: tuple[str, str | None], known: tuple[str | None, str | None], cid: int
) -> None:
    named = [(5, known[0], "QNAYBMKLOCPYGJ", "alanine", None, "table", "2020-01-01")]
    identity = replace(identity, answers=pd.DataFrame(named, columns=list(identity.answers.columns)))
    asked = compounds({"perturbagen": "alanine", "inchikey": drawn[0], "smiles": drawn[1]})
    assert identity.resolve(asked, "any")["pubchem_cid"].fillna(0).tolist() == [cid]
    # the structure is asked in any case, and its answer holds
    missing = identity.missing_compounds(asked, "any")
    assert missing[["kind", "query", "state"]].to_numpy().tolist() == [["inchikey", drawn[0], "not_asked"]]
    grown = replace(identity, asked=answered(("inchikey", drawn[0], "found", 6, drawn[0], "QNAYBMKLOCPYGJ")))
    assert grown.resolve(asked, "any")[["pubchem_cid", "pubchem_cid_source"]].to_numpy().tolist() == [[6, "inchikey"]]
    assert grown.missing_compounds(asked, "any").empty


def test_an_old_not_found_of_a_structure_is_asked_again_where_a_name_answers(identity: CompoundIdentity) -> None:
    asked = compounds({"perturbagen": "imatinib", "smiles": SALT})
    rows = [(kind, query, "not_found", None, None, None) for kind, query in (("inchikey", SALT_INCHIKEY), ("smiles", SALT))]
    grown = replace(identity, asked=answered(*rows))
    assert grown.missing_compounds(asked, "any", datetime(2026, 11, 22, tzinfo=UTC)).empty
    missing = grown.missing_compounds(asked, "any", datetime(2027, 11, 22, tzinfo=UTC))
    assert missing[["kind", "query", "state"]].to_numpy().tolist() == [["inchikey", SALT_INCHIKEY, "expired"]]
    assert grown.resolve(asked, "any")["pubchem_cid"].tolist() == [1]


@pytest.mark.parametrize(
    ("inchikey", "cid"),
    [
        pytest.param("RQZAXGRLVPAYTJ-UHFFFAOYSA-N", 0, id="another skeleton"),
        pytest.param("VXIMPSPISRVBPZ-ZZZZZZZZSA-N", 5, id="that of the answer"),
        pytest.param("PARENTPARENTPA-UHFFFAOYSA-N", 5, id="that of the answer's parent"),
    ],
)
def test_an_inchikey_alone_speaks_against_a_name_too(identity: CompoundIdentity, inchikey: str, cid: int) -> None:
    named = [(5, "VXIMPSPISRVBPZ-UWTATZPHSA-N", "PARENTPARENTPA", "megestrol", "50-78-2", "table", "2020-01-01")]
    answers = pd.DataFrame(named, columns=list(identity.answers.columns))
    identity = replace(identity, answers=answers, asked=answered(("inchikey", inchikey, "not_found", None, None, None)))
    asked = compounds({"perturbagen": "megestrol", "inchikey": inchikey}, {"perturbagen": "x", "inchikey": inchikey})
    report = identity.report(asked.assign(cas=[None, "50-78-2"]), "any")
    assert report["pubchem_cid"].fillna(0).tolist() == [cid, cid]
    assert report["parent_key"].tolist() == ["PARENTPARENTPA" if cid else None] * 2, "no parent of another compound"


@pytest.mark.parametrize(
    ("of_foo", "of_bar", "cid", "outcome", "asked_next"),
    [
        ("found", "not_found", 111, "found", []),
        ("found", "failed", 0, "failed", ["bar"]),
        ("found", None, 0, "not_asked", ["bar"]),
        (None, None, 0, "not_asked", ["foo", "bar"]),
        ("not_found", "not_found", 0, "not_found", []),
    ],
)
def test_names_around_brackets_answer_when_all_of_them_were_asked(
    identity: CompoundIdentity, of_foo: str | None, of_bar: str | None, cid: int, outcome: str, asked_next: list[str]
) -> None:
    outcomes = {"foo (bar)": "not_found", "foo": of_foo, "bar": of_bar}
    rows = [("name", name, said, 111 if said == "found" else None, None, None) for name, said in outcomes.items() if said]
    grown = replace(identity, asked=answered(*rows))
    asked = compounds({"perturbagen": "Foo (Bar)"})
    report = grown.report(asked, "any").iloc[0]
    assert (0 if pd.isna(report["pubchem_cid"]) else report["pubchem_cid"], report["outcome"]) == (cid, outcome)
    missing = grown.missing_compounds(asked, "any")
    assert missing.loc[missing["kind"] == "name", "query"].tolist() == asked_next
    # the parts wait for the whole name
    unasked = replace(identity, asked=answered(*(row for row in rows if row[1] != "foo (bar)")))
    assert unasked.report(asked, "any")["outcome"].tolist() == ["not_asked"]


def test_a_compound_without_structure_gets_that_of_its_answer(identity: CompoundIdentity) -> None:
    row = identity.resolve(compounds({"perturbagen": "imatinib"}), "any").iloc[0]
    assert (row["inchikey"], row["parent_key"], row["smiles"]) == (IMATINIB_INCHIKEY, "KTUFNOKKBVMGRW", None)


def test_the_report_says_where_an_answer_is_from_and_what_contradicts_it(identity: CompoundIdentity) -> None:
    report = identity.report(
        compounds(
            {"perturbagen": "x", "smiles": ASPIRIN, "pubchem_cid": 99},
            {"perturbagen": "y", "inchikey": "InChIKey=" + ASPIRIN_INCHIKEY},
            {"perturbagen": "dmso"},
            {"perturbagen": "z", "inchikey": "nonsense", "smiles": "broken("},
            {"perturbagen": "w", "inchikey": "-666", "smiles": "-666"},
        ),
        "any",
    )
    assert report["outcome"].tolist() == ["found", "found", "found", "not_asked", "not_asked"]
    assert report["answer_query"].tolist() == [None, ASPIRIN_INCHIKEY, "DMSO", None, None]
    assert report["answer_source"].tolist() == ["the source", "table", "vehicle", None, None]
    assert report["answer_date"].tolist() == [None, "2020-01-01", "2020-01-02", None, None]
    assert report["structure_pubchem_cid"].fillna(0).tolist() == [2, 0, 0, 0, 0]
    assert report["inchikey_unreadable"].tolist() == [False, False, False, True, False]
    assert report["smiles_unreadable"].tolist() == [False, False, False, True, False]
    assert report["smiles"].tolist() == [ASPIRIN, None, None, "broken(", None]


def test_index_and_types_are_kept(identity: CompoundIdentity) -> None:
    asked = compounds({"perturbagen": "aspirin"}, {"perturbagen": None}, {"perturbagen": "unheard of"})
    asked.index = pd.Index(["c", "a", "b"])
    found = identity.resolve(asked, "any")
    assert found.index.tolist() == ["c", "a", "b"]
    assert found["pubchem_cid"].dtype == "Int64"
    assert list(found.columns) == ["pubchem_cid", "pubchem_cid_source", "inchikey", "smiles", "parent_key"]
    assert identity.resolve(asked.iloc[:0], "any").empty


def test_a_missing_column_and_a_repeated_row_are_refused(identity: CompoundIdentity) -> None:
    asked = compounds({"perturbagen": "aspirin"}, {"perturbagen": "aspirin"})
    with pytest.raises(InputError, match="lacks smiles"):
        identity.resolve(asked.drop(columns="smiles"), "op3")
    asked.index = pd.Index(["same", "same"])
    with pytest.raises(InputError, match=r"op3.*same.*more than once"):
        identity.resolve(asked, "op3")


@pytest.mark.parametrize(
    ("family", "smiles"),
    [
        ("mesylate", [IMATINIB, IMATINIB + ".CS(=O)(=O)O", IMATINIB + ".O.O.Cl"]),
        ("sodium, ionic and covalent", ["CC(=O)O", "CC(=O)[O-].[Na+]", "CC(=O)O[Na]"]),
        ("protonated", ["CN(C)CCO", "C[NH+](C)CCO.[Cl-]"]),
        ("stereoisomers", ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O"]),
        ("hemihydrate with two molecules", ["CCN", "CCN.CCN.O"]),
        ("pamoate", ["CN1CCCN=C1C=Cc1cccc(O)c1", "CN1CCCN=C1C=Cc1cccc(O)c1.OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"]),
    ],
)
def test_forms_of_one_drug_share_a_parent_key(family: str, smiles: list[str]) -> None:
    keys = {read_structure(form).parent_key for form in smiles}
    assert len(keys) == 1, family
    assert None not in keys


@pytest.mark.parametrize(
    "smiles",
    [
        pytest.param("N.N.[Cl-].[Cl-].[Pt+2]", id="cisplatin is not ammonia"),
        pytest.param("[Li+].[Cl-]", id="lithium chloride is not hydrochloric acid"),
        pytest.param("OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O", id="pamoic acid itself"),
        pytest.param(ASPIRIN, id="one part"),
    ],
)
def test_what_has_no_counter_ion_is_its_own_parent(smiles: str) -> None:
    structure = read_structure(smiles)
    assert structure.inchikey is not None
    assert structure.parent_key == structure.inchikey[:14]


@pytest.mark.parametrize("smiles", ["", "not a smiles", "C1CC", "[NH3][Pt]([NH3])(Cl)Cl"])
def test_unreadable_smiles_give_nothing_and_say_nothing(smiles: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert read_structure(smiles) == (None, None)
    assert capfd.readouterr() == ("", "")


def test_inchikeys_are_cleaned() -> None:
    given = pd.Series(
        [f"InChIKey={ASPIRIN_INCHIKEY}", f" {ASPIRIN_INCHIKEY} ", "-666", "", None, ASPIRIN_INCHIKEY.lower(), "BSYNRYMUTXBXSQ"]
    )
    assert cleaned_inchikey(given).tolist() == [ASPIRIN_INCHIKEY, ASPIRIN_INCHIKEY, None, None, None, None, None]


@pytest.mark.parametrize(
    ("given", "cas"),
    [
        ("50-78-2", "50-78-2"),
        (" CAS 50-78-2", "50-78-2"),
        ("CAS No. 0050-78-2", "50-78-2"),
        ("CAS-50-78-2", "50-78-2"),
        ("7732-18-5", "7732-18-5"),
        ("50-78-3", None),
        ("1950-07-08", None),
        ("50782", None),
        ("-666", None),
        (None, None),
    ],
)
def test_cas_numbers_are_cleaned_and_their_check_digit_holds(given: str | None, cas: str | None) -> None:
    assert cleaned_cas(pd.Series([given], dtype=object)).tolist() == [cas]


def test_a_catalogue_number_answers_before_cas_number_and_name_and_after_structures(identity: CompoundIdentity) -> None:
    catalogue = pd.DataFrame(
        [
            (None, "S1", "77", None, None),
            ("op3", "S1", "78", None, None),
            (None, "S2", None, ASPIRIN_INCHIKEY, None),
            (None, "S3", None, None, IMATINIB),
            (None, "S4", None, None, "CCO"),
        ],
        columns=["dataset", "catalogue_id", "pubchem_cid", "inchikey", "smiles"],
    ).assign(source="vendor", date=None)
    identity = replace(identity, catalogue=catalogue)
    rows = [{"perturbagen": "other drug"}] * 6 + [{"perturbagen": "x", "smiles": ASPIRIN}]
    asked = compounds(*rows).assign(catalogue_id=["S1", "S2", "S3", "S4", "S5", None, "S1"])
    report = identity.report(asked, "tahoe")
    assert report["pubchem_cid"].fillna(0).tolist() == [77, 2, 1, 0, 4, 4, 2]
    assert report["pubchem_cid_source"].tolist() == ["catalogue", "catalogue", "catalogue", None, "name", "name", "smiles"]
    assert report["answer_query"].tolist()[:3] == ["S1", f"S2: {ASPIRIN_INCHIKEY}", f"S3: {IMATINIB_INCHIKEY}"]
    assert report["answer_source"].tolist()[0] == "vendor"
    assert report["parent_key"].tolist()[1:4] == ["BSYNRYMUTXBXSQ", "KTUFNOKKBVMGRW", "LFQSCWFLJHTTHZ"], "the vendor's structure"
    assert report["smiles"].tolist()[:4] == [None] * 4
    assert identity.resolve(asked.iloc[:1], "op3")["pubchem_cid"].tolist() == [78]
    questions = identity.missing_compounds(asked.iloc[3:4], "tahoe")
    assert questions[["kind", "query"]].to_numpy().tolist() == [["inchikey", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"]]


def test_a_cas_number_answers_before_the_name(identity: CompoundIdentity) -> None:
    answers = identity.answers.assign(aliases=["152459-95-5", "50-78-2;ASS", None, None])
    asked = compounds(*[{"perturbagen": "other drug"}] * 2).assign(cas=["50-78-2", "50-78-3"])
    report = replace(identity, answers=answers).report(asked, "any")
    assert report["pubchem_cid"].tolist() == [2, 4]
    assert report["pubchem_cid_source"].tolist() == ["cas", "name"]
    assert report["cas_unreadable"].tolist() == [False, True]


@pytest.mark.real_data
def test_every_cas_number_of_novartis_is_read(real_data: Path) -> None:
    table = pd.read_csv(real_data / "novartis_moabox" / "MoABox_compounds_metadata.txt", sep="\t", dtype=str, keep_default_na=False)
    given = table["cas_number"] != ""
    assert given.sum() > 2400
    assert (cleaned_cas(table["cas_number"]).notna() == given).all()
    # a CAS number leads to the compound of its structure; those listed for two lead nowhere
    known = table[given & table["inchi_key"].isin(shipped().compounds.answers["inchikey"])]
    asked = compounds(*({"perturbagen": None} for _ in range(len(known)))).assign(cas=known["cas_number"].to_list())
    found = shipped().compounds.report(asked, "novartis")
    assert found["pubchem_cid"].notna().mean() > 0.98
    right = found["inchikey"].to_numpy() == known["inchi_key"].to_numpy()
    assert right[found["pubchem_cid"].notna()].all()


@pytest.mark.slow
@pytest.mark.real_data
def test_structure_keys_of_all_lincs_perturbagens(real_data: Path) -> None:
    lincs = pd.read_csv(real_data / "lincs_metadata" / "pertinfo.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    assert len(lincs) == 51_385
    lincs = lincs.assign(smiles=cleaned_text(lincs["canonical_smiles"]), listed=cleaned_inchikey(lincs["inchi_key"])).dropna(
        subset="smiles"
    )
    assert len(lincs) == 20_330
    lincs = lincs.join(read_structures(lincs["smiles"], no_structures()))
    assert lincs["inchikey"].notna().all()
    # LINCS' own InChIKeys come from another program
    assert (lincs["inchikey"] == lincs["listed"]).mean() > 0.99
    assert (lincs["inchikey"].str[:14] == lincs["listed"].str[:14]).mean() > 0.998
    # a structure of one part is its own parent, unless a metal is cut off; one of several parts is not
    parts = lincs["smiles"].str.count(r"\.") + 1
    own = lincs["parent_key"] == lincs["inchikey"].str[:14]
    assert set(lincs.loc[(parts == 1) & ~own, "pert_iname"]) == {"esomeprazole", "pitavastatin"}
    assert set(lincs.loc[(parts > 1) & own, "pert_iname"]) == {"lithium-chloride"}
    # a named drug with and without counter-ion or solvent: those that differ are dimers, and names of two compounds
    free = lincs[parts == 1].groupby("pert_iname")["parent_key"].agg(set)
    salts = lincs[(parts > 1) & lincs["pert_iname"].isin(free.index) & ~lincs["pert_iname"].str.startswith("BRD-")]
    differ = [name for name, key in zip(salts["pert_iname"], salts["parent_key"], strict=True) if key not in free[name]]
    assert len(salts) == 17
    assert set(differ) <= {"pyrvinium", "verteporfin", "picrotoxin", "sunitinib"}


FLAT_IN_TAHOE = {
    "Cytarabine",
    "Verapamil",
    "Ritonavir",
    "Naproxen",
    "Mifepristone",
    "Dexmedetomidine",
    "Paclitaxel",
    "Eplerenone",
    "Proglumide",
    "Methotrexate",
    "Clopidogrel",
}
"""Tahoe draws them without stereo centres, and the flat structure, or another salt, is a compound of its own at PubChem."""

OTHER_FORM_IN_SNAPSHOT = {"Bosentan (hydrate)", "Esmolol (hydrochloride)", "Loperamide (hydrochloride)", "Benztropine (mesylate)"}
"""Tahoe draws the salt, and the snapshot has the InChIKey of the base for its id: no answer before PubChem was asked."""


@pytest.mark.real_data
def test_tahoes_drugs_get_tahoes_pubchem_ids(real_data: Path, record_property: Callable[[str, object], None]) -> None:
    drugs = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "drug_metadata.parquet")
    assert len(drugs) == 379
    listed = drugs["pubchem_cid"].astype("Int64")
    rows = drugs[["drug", "canonical_smiles"]].set_axis(["perturbagen", "smiles"], axis=1)
    asked = compounds(*rows.to_dict("records"))

    given = asked.assign(pubchem_cid=listed.to_numpy())
    kept = shipped().compounds.report(given, "tahoe")
    assert kept.loc[listed.notna().to_numpy(), "outcome"].eq("found").all()

    # with Tahoe's own ids withheld
    found = shipped().compounds.report(asked, "tahoe").assign(drug=drugs["drug"].to_numpy(), listed=listed.to_numpy())
    found = found[found["listed"].notna()]
    differ = found[(found["pubchem_cid"] != found["listed"]).fillna(True)]
    record_property("agreement", f"{len(found) - len(differ)} of {len(found)}")
    record_property("disagreements", differ[["drug", "listed", "pubchem_cid", "pubchem_cid_source"]].to_string(index=False))
    assert set(differ["drug"]) == FLAT_IN_TAHOE | OTHER_FORM_IN_SNAPSHOT
    unanswered = differ["pubchem_cid"].isna()
    assert set(differ.loc[unanswered, "drug"]) == OTHER_FORM_IN_SNAPSHOT
    assert set(differ.loc[unanswered, "outcome"]) == {"not_asked"}
    # what the ids keep apart, the parent structure brings together
    known = shipped().compounds.answers.astype({"pubchem_cid": int}).set_index("pubchem_cid")["parent_key"]
    theirs = known.reindex(differ["listed"]).to_numpy()
    assert (differ["parent_key"].to_numpy() == theirs).all()


@pytest.mark.slow
@pytest.mark.real_data
def test_lincs_and_tahoe_agree_on_the_parent_structure_of_every_drug(real_data: Path) -> None:
    drugs = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "drug_metadata.parquet")
    answers = _lincs_compounds(real_data / "lincs_metadata").assign(date="2020-01-01")
    single = ~answers["pubchem_cid"].duplicated(keep=False) & ~answers["inchikey"].duplicated(keep=False)
    rows = drugs[["drug", "canonical_smiles"]].set_axis(["perturbagen", "smiles"], axis=1)
    found = replace(shipped().compounds, answers=answers[single]).report(compounds(*rows.to_dict("records")), "tahoe")
    found["listed"] = drugs["pubchem_cid"].astype("Int64").to_numpy()
    both = found[found["pubchem_cid"].notna() & found["listed"].notna()]
    same = both["pubchem_cid"] == both["listed"]
    assert len(both) >= 80
    assert same.sum() >= 60
    tahoe = shipped().compounds.answers.astype({"pubchem_cid": int}).set_index("pubchem_cid")["parent_key"]
    assert (both.loc[~same, "parent_key"].to_numpy() == tahoe.reindex(both.loc[~same, "listed"]).to_numpy()).all()


# ---- the shipped answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Aurora", "ZM", "GSK", "Tie2", "Tubastatin", "Anacardic", "Divalproex", "AMG", "Sodium", "12345"])
def test_cut_names_do_not_resolve_by_accident(name: str) -> None:
    assert shipped().compounds.resolve(compounds({"perturbagen": name}), "a_new_screen")["pubchem_cid"].isna().all()


@pytest.mark.parametrize(
    ("dataset", "row", "cid"),
    [
        ("sciplex", {"perturbagen": "ZM"}, 9914412),
        ("sciplex", {"perturbagen": "Glesatinib?(MGCD265)"}, 24901704),
        ("l1000_phase1", {"source_perturbagen_id": "GNF2", "perturbagen": "GNF-2"}, 5311510),
        ("l1000_phase2", {"source_perturbagen_id": "DMSO", "perturbagen": "DMSO"}, 679),
        ("tahoe", {"perturbagen": "DMSO_TF"}, 679),
        ("op3", {"perturbagen": "Dimethyl Sulfoxide"}, 679),
        ("cigs_tcm", {"source_perturbagen_id": "Cpd0165", "perturbagen": "Dipsacoside B"}, 24148538),
        ("novartis", {"inchikey": "IAZDPXIOMUYVGZ-UHFFFAOYSA-N", "perturbagen": "CB-43-EP73"}, 679),
        ("vcpi_0001", {"smiles": "CS(C)=O", "perturbagen": "x"}, 679),
        ("any", {"perturbagen": "Paclitaxel"}, 36314),
        ("any", {"perturbagen": "vorinostat"}, 5311),
        ("any", {"perturbagen": "SAHA (Vorinostat)"}, 5311),
        ("any", {"perturbagen": "Belinostat (PXD101)"}, 6918638),
        ("any", {"perturbagen": "Luminespib (AUY-922,NVP-AUY922)"}, 10096043),
        # salts are compounds of their own
        ("any", {"perturbagen": "Doxorubicin"}, 31703),
        ("any", {"perturbagen": "Doxorubicin (Adriamycin) HCl"}, 443939),
        ("any", {"perturbagen": "Mitoxantrone"}, 4212),
        ("any", {"perturbagen": "Mitoxantrone 2HCl"}, 51082),
        ("any", {"perturbagen": "Topotecan"}, 60700),
        ("any", {"perturbagen": "Topotecan HCl"}, 60699),
        ("any", {"smiles": IMATINIB}, 5291),
        ("any", {"smiles": IMATINIB + ".CS(=O)(=O)O"}, 123596),
    ],
)
def test_shipped_answers(dataset: str, row: dict[str, object], cid: int) -> None:
    assert shipped().compounds.resolve(compounds(row), dataset)["pubchem_cid"].tolist() == [cid]


def test_the_shipped_table_leads_from_each_key_to_one_compound() -> None:
    answers = shipped().compounds.answers
    assert answers["pubchem_cid"].is_unique
    assert answers["inchikey"].dropna().is_unique
    assert answers[["source", "date", "parent_key"]].notna().all(axis=None)
    keys = pd.concat([answers["name"], answers["aliases"].str.split(";").explode()]).dropna()
    assert name_key(keys).notna().all(), "numeric names"
    claims = pd.DataFrame({"key": name_key(keys), "compound": keys.index}).drop_duplicates()
    assert claims["key"].is_unique


def test_identities_fit_the_contract() -> None:
    answers = shipped().compounds.answers
    asked = compounds(*answers[["name"]].rename(columns={"name": "perturbagen"}).dropna().to_dict("records"))
    found = shipped().compounds.resolve(asked, "any")
    assert found["pubchem_cid"].notna().all()
    assert set(found["pubchem_cid_source"]) <= set(HARMONIZED_OBS["pubchem_cid_source"].allowed)
    for column in ("inchikey", "parent_key"):
        pattern = HARMONIZED_OBS[column].pattern
        assert pattern is not None
        assert found[column].dropna().str.fullmatch(pattern).all()
