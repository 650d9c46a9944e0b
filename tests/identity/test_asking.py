"""From compounds that nobody knows to a snapshot that does: what is asked, in which order, and what is kept. PubChem is a local double."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.identity.answers import read_answers, remember
from perturbridge_dagster.identity.asking import Asked, ask_compounds
from perturbridge_dagster.identity.pubchem import PubChem, PubChemUnavailableError
from perturbridge_dagster.identity.snapshot import shipped, with_answers
from perturbridge_dagster.identity.structures import load_structures, read_structure
from tests.identity.conftest import IMATINIB, RECORDS
from tests.identity.pubchem_double import PubChemDouble, Record, Trouble
from tests.identity.test_answers import answers
from tests.identity.test_compounds import compounds
from tests.identity.test_pubchem import FAST

pytestmark = pytest.mark.slow

ETHANOL, ACETIC_ACID, GLUCOSE = RECORDS[3], RECORDS[4], RECORDS[5]
UNKNOWN = "AAAAAAAAAAAAAA-UHFFFAOYSA-N"


def ask(asked: pd.DataFrame, folder: Path, dataset: str = "op3") -> Asked:
    return ask_compounds(asked, dataset, with_answers(folder, dataset).compounds, folder, PubChem(limits=FAST))


def cids(asked: pd.DataFrame, folder: Path, dataset: str = "op3") -> list[int]:
    return with_answers(folder, dataset).compounds.resolve(asked, dataset)["pubchem_cid"].fillna(0).tolist()


def test_each_compound_is_asked_by_the_first_key_that_leads_somewhere(pubchem: PubChemDouble, tmp_path: Path) -> None:
    asked = compounds(
        {"perturbagen": "a", "inchikey": ETHANOL.inchikey, "smiles": "CCO"},
        {"perturbagen": "b", "inchikey": UNKNOWN, "smiles": "CC(O)=O"},
        {"perturbagen": "c", "smiles": "C=C(O)O"},
        {"perturbagen": "Alcohol"},
        {"perturbagen": "unheard of (acetic acid)"},
        {"perturbagen": "nobody knows"},
        {"perturbagen": "4711"},
        {"perturbagen": "known to all", "pubchem_cid": 702},
        {"perturbagen": "DMSO"},
    ).assign(cas=[None, None, None, "64-17-6", None, None, None, None, None])
    before = with_answers(tmp_path, "op3").compounds
    assert before.report(asked, "op3")["outcome"].tolist() == [*["not_asked"] * 6, "not_found", "found", "found"]
    assert before.missing_compounds(asked, "op3")[["perturbagen", "kind", "query", "state"]].to_numpy().tolist() == [
        ["a", "inchikey", ETHANOL.inchikey, "not_asked"],
        ["b", "inchikey", UNKNOWN, "not_asked"],
        ["c", "inchikey", read_structure("C=C(O)O").inchikey, "not_asked"],
        ["Alcohol", "name", "alcohol", "not_asked"],
        ["unheard of (acetic acid)", "name", "unheard of (acetic acid)", "not_asked"],
        ["nobody knows", "name", "nobody knows", "not_asked"],
        ["known to all", "cid", "702", "not_asked"],
    ]
    assert pubchem.requests == []

    counts = ask(asked, tmp_path)
    assert (counts.found, counts.not_found, counts.failed) == (6, 5, 0)
    assert {namespace for namespace, _ in pubchem.asked} == {"inchikey", "smiles", "name", "cid"}
    assert ("name", ["a"]) not in pubchem.asked
    assert [identifiers for namespace, identifiers in pubchem.asked if namespace == "smiles"] == [["C=C(O)O"]]
    report = with_answers(tmp_path, "op3").compounds.report(asked, "op3")
    assert report["pubchem_cid"].fillna(0).tolist() == [702, 176, 176, 702, 176, 0, 0, 702, 679]
    assert report["pubchem_cid_source"].tolist() == ["inchikey", "smiles", "smiles", "name", "name", None, None, "source", "curated"]
    assert report["outcome"].tolist() == [*["found"] * 5, "not_found", "not_found", "found", "found"]
    assert report["answer_query"].tolist()[:6] == [ETHANOL.inchikey, ACETIC_ACID.inchikey, "C=C(O)O", "alcohol", "acetic acid", None]
    assert report["answer_source"].tolist()[0] == "PubChem"
    assert report["answer_date"].iloc[[0, 1, 2, 3, 4, 7]].notna().tolist() == [*[True] * 5, False]
    assert report["cas_unreadable"].tolist()[:4] == [False, False, False, True]
    assert report["inchikey"][7] == ETHANOL.inchikey, "the structure of an id that the source gives"

    n_requests = len(pubchem.requests)
    assert ask(asked, tmp_path) == Asked()
    assert len(pubchem.requests) == n_requests, "what is known is not asked again"


def test_of_several_compounds_the_rule_takes_one_and_it_is_counted(pubchem: PubChemDouble, tmp_path: Path) -> None:
    asked = compounds(
        {"perturbagen": "gleevec"},
        {"source_perturbagen_id": "salt", "perturbagen": "gleevec", "smiles": IMATINIB + ".CS(=O)(=O)O.O"},
        {"perturbagen": "glucose", "inchikey": GLUCOSE.inchikey},
    )
    bare = replace(shipped().compounds, answers=shipped().compounds.answers.iloc[:0])
    assert ask_compounds(asked, "op3", bare, tmp_path, PubChem(limits=FAST)).several == 2
    report = replace(bare, asked=read_answers(tmp_path, "op3")).report(asked, "op3")
    assert report["pubchem_cid"].tolist() == [5291, 5291, 5793]
    assert report["n_candidates"].tolist() == [2, 2, 2]
    assert report["candidate_rule"].tolist() == ["lowest", "parent", "inchikey"]
    kept = read_answers(tmp_path, "op3")
    assert sorted(kept.loc[kept["query"] == GLUCOSE.inchikey, "pubchem_cid"]) == [5793, 90000001]


def test_a_name_or_cas_number_of_another_structure_is_no_answer(pubchem: PubChemDouble, tmp_path: Path) -> None:
    asked = compounds({"perturbagen": "alcohol", "smiles": "CCCCCCCCCC"}, {"perturbagen": "x"}).assign(cas=["64-19-7", "CAS 064-17-5"])
    ask(asked, tmp_path)
    report = with_answers(tmp_path, "op3").compounds.report(asked, "op3")
    assert report["pubchem_cid"].fillna(0).tolist() == [0, 702]
    assert report["pubchem_cid_source"].tolist() == [None, "cas"]
    assert report["answer_query"].tolist() == [None, "64-17-5"]


def test_a_structure_is_asked_where_the_snapshot_knows_the_name(pubchem: PubChemDouble, tmp_path: Path) -> None:
    salt = Record(4711, IMATINIB + ".Cl", "imatinib hydrochloride")
    asked = compounds(
        {"perturbagen": "imatinib", "smiles": salt.smiles},
        {"perturbagen": "imatinib", "smiles": IMATINIB + ".Br"},
        # the snapshot knows the id of the name, and no InChIKey
        {"perturbagen": "allantoin", "smiles": "NC(=O)NC1NC(=O)NC1=O"},
    )
    pubchem.records += [salt, Record(4712, "NC(=O)NC1NC(=O)NC1=O", "drawn")]
    assert cids(asked, tmp_path) == [0, 0, 204]
    ask(asked, tmp_path)
    report = with_answers(tmp_path, "op3").compounds.report(asked, "op3")
    assert report["pubchem_cid"].tolist() == [4711, 5291, 4712]
    assert report["pubchem_cid_source"].tolist() == ["smiles", "name", "smiles"]
    assert {namespace for namespace, _ in pubchem.asked} == {"inchikey", "smiles"}
    n_requests = len(pubchem.requests)
    assert ask(asked, tmp_path) == Asked()
    assert len(pubchem.requests) == n_requests


def test_a_failure_is_not_a_not_found_and_is_asked_again(pubchem: PubChemDouble, tmp_path: Path) -> None:
    asked = compounds({"perturbagen": "alcohol", "inchikey": f"{ETHANOL.inchikey[:14]}-AAAAAAAASA-N"})
    pubchem.troubles = [Trouble()] * FAST.tries
    assert ask(asked, tmp_path).failed == 1
    identity = with_answers(tmp_path, "op3").compounds
    assert identity.report(asked, "op3")["outcome"].tolist() == ["failed"]
    assert identity.missing_compounds(asked, "op3")["state"].tolist() == ["failed"]
    assert [namespace for namespace, _ in pubchem.asked] == ["inchikey"] * FAST.tries, "the name waits for the InChIKey"
    assert ask(asked, tmp_path).found == 1
    assert cids(asked, tmp_path) == [702]


def test_what_was_said_before_a_breakdown_is_kept(pubchem: PubChemDouble, tmp_path: Path) -> None:
    asked = compounds(*({"perturbagen": name} for name in ("alcohol", "acetic acid", "gleevec", "imatinib", "x", "y", "z")))

    class BreaksDown:
        def ask(self, questions: pd.DataFrame) -> Iterator[pd.DataFrame]:
            for number, given in enumerate(PubChem(limits=FAST).ask(questions)):
                if number == 1:
                    raise PubChemUnavailableError("gone")
                yield given

    identity = with_answers(tmp_path, "op3").compounds
    with pytest.raises(PubChemUnavailableError, match="gone"):
        ask_compounds(asked, "op3", identity, tmp_path, BreaksDown())
    assert len(read_answers(tmp_path, "op3")["query"].unique()) == FAST.batch
    first = {identifiers[0] for _, identifiers in pubchem.asked[: FAST.batch]}
    pubchem.requests.clear()
    ask(asked, tmp_path)
    assert not first & {identifiers[0] for _, identifiers in pubchem.asked}


def test_what_another_dataset_has_asked_is_taken_over_without_a_request(pubchem: PubChemDouble, tmp_path: Path) -> None:
    asked = compounds({"perturbagen": "alcohol"}, {"perturbagen": "nobody knows"})
    ask(asked, tmp_path, "op3")
    pubchem.requests.clear()
    assert cids(asked, tmp_path, "tahoe") == [0, 0]
    assert ask(asked, tmp_path, "tahoe") == Asked(taken_over=2)
    assert pubchem.requests == []
    assert cids(asked, tmp_path, "tahoe") == [702, 0]


def test_an_old_not_found_is_asked_again(pubchem: PubChemDouble, tmp_path: Path) -> None:
    old = answers(("name", "alcohol", "not_found", None)).assign(date="2020-01-01T00:00:00+00:00")
    remember(tmp_path, "op3", old)
    remember(tmp_path, "tahoe", old)
    asked = compounds({"perturbagen": "alcohol"})
    assert with_answers(tmp_path, "op3").compounds.report(asked, "op3")["outcome"].tolist() == ["not_found"]
    assert ask(asked, tmp_path).found == 1


def test_structures_are_remembered(pubchem: PubChemDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = compounds({"perturbagen": "a", "smiles": "CCO"}, {"perturbagen": "b", "smiles": "broken("})
    ask(asked, tmp_path)
    assert load_structures(tmp_path)["parent_key"].to_dict() == {"CCO": ETHANOL.inchikey[:14], "broken(": None}

    def never(smiles: str) -> None:
        raise AssertionError(smiles)

    monkeypatch.setattr("perturbridge_dagster.identity.structures.read_structure", never)
    assert cids(asked, tmp_path) == [702, 0]
    monkeypatch.setattr("perturbridge_dagster.identity.structures._RULES", "other rules")
    assert load_structures(tmp_path).empty
