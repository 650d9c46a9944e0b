"""Asking PubChem: batches, pace, tries, and what each kind of answer means. The server is a local double."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pandas as pd
import pubchempy
import pytest

from perturbridge_dagster.identity.answers import ANSWER_COLUMNS
from perturbridge_dagster.identity.pubchem import Limits, PubChem, PubChemUnavailableError
from perturbridge_dagster.patience import Pace
from tests.identity.conftest import RECORDS
from tests.identity.pubchem_double import PubChemDouble, Trouble

pytestmark = pytest.mark.slow

FAST = Limits(
    per_second=5000,
    per_minute=100_000,
    batch=3,
    timeout_s=0.5,
    tries=3,
    first_pause_s=0.01,
    longest_pause_s=0.05,
    longest_retry_after_s=0.25,
)


def ask(*questions: tuple[str, str], limits: Limits = FAST) -> pd.DataFrame:
    asked = pd.DataFrame(questions, columns=["kind", "query"])
    return pd.concat(PubChem(limits=limits, pace=Pace()).ask(asked), ignore_index=True)


def outcomes(answers: pd.DataFrame) -> list[tuple[str, int | None]]:
    return [
        (outcome, None if pd.isna(cid) else cid) for outcome, cid in answers[["outcome", "pubchem_cid"]].itertuples(index=False, name=None)
    ]


def test_the_double_speaks_as_pubchempy_expects(pubchem: PubChemDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubchempy, "API_BASE", pubchem.address)
    aspirin = pubchempy.get_compounds(RECORDS[0].inchikey, "inchikey")
    assert [compound.cid for compound in aspirin] == [2244]
    assert aspirin[0].inchikey == RECORDS[0].inchikey
    assert [compound.cid for compound in pubchempy.get_compounds("CCCCCCCCCC", "smiles")] == [None]
    assert pubchempy.get_compounds("nobody knows", "name") == []
    assert pubchempy.get_synonyms(2244)[0]["Synonym"][0] == "Aspirin"
    with pytest.raises(pubchempy.BadRequestError, match="standardize"):
        pubchempy.get_compounds("no smiles", "smiles")


def test_an_answer_says_what_it_is_an_answer_to(pubchem: PubChemDouble) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    row = ask(("name", "gleevec"))
    assert list(row.columns) == list(ANSWER_COLUMNS)
    assert row["pubchem_cid"].tolist() == [5291, 123596]
    assert row["title"].tolist() == ["Imatinib", "Imatinib Mesylate"]
    assert set(row["parent_key"]) == {"KTUFNOKKBVMGRW"}
    assert (row["query"] == "gleevec").all()
    assert len(set(row["date"])) == 1
    assert before <= datetime.fromisoformat(row["date"][0]) <= datetime.now(UTC)


def test_ids_and_inchikeys_go_in_batches_the_rest_one_by_one(pubchem: PubChemDouble) -> None:
    keys = [record.inchikey for record in RECORDS[:5]]
    found = ask(*(("inchikey", key) for key in keys), ("cid", "702"), ("cid", "176"), ("cas", "50-78-2"), ("smiles", "OCC"))
    assert outcomes(found) == [("found", cid) for cid in (2244, 5291, 123596, 702, 176, 702, 176, 2244, 702)]
    assert pubchem.asked == [
        ("inchikey", keys[:3]),
        ("inchikey", keys[3:]),
        ("cid", ["702", "176"]),
        ("name", ["50-78-2"]),
        ("smiles", ["OCC"]),
    ]


def test_what_pubchem_does_not_know_is_not_found(pubchem: PubChemDouble) -> None:
    unknown = "AAAAAAAAAAAAAA-UHFFFAOYSA-N"
    assert outcomes(ask(("inchikey", unknown))) == [("not_found", None)]
    mixed = ask(("inchikey", unknown), ("inchikey", RECORDS[0].inchikey))
    assert outcomes(mixed) == [("not_found", None), ("found", 2244)]
    assert outcomes(ask(("smiles", "CCCCCCCCCC"))) == [("not_found", None)]
    assert outcomes(ask(("cid", "4711"), ("cid", "702"))) == [("not_found", None), ("found", 702)]


def test_what_pubchem_does_not_take_has_failed_and_costs_the_others_nothing(pubchem: PubChemDouble) -> None:
    found = ask(("cid", "702"), ("cid", str(2**40)), ("cid", "176"), ("smiles", "no smiles"))
    assert outcomes(found) == [("found", 702), ("failed", None), ("found", 176), ("failed", None)]
    assert found["problem"][1].startswith("PubChem HTTP Error 400 PUGREST.BadRequest")


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Trouble(), id="busy"),
        pytest.param(Trouble(429, ("PUGREST.TooManyRequests", "slow down")), id="too many requests"),
        pytest.param(Trouble(504, ("PUGREST.Timeout", "")), id="its own time-out"),
        pytest.param(Trouble(200, silent_s=0.8), id="silence"),
        pytest.param(Trouble(200, body=b'{"PropertyTable": {"Prop'), id="half an answer"),
        pytest.param(Trouble(503, body=b"<html>maintenance</html>"), id="a page of its proxy"),
    ],
)
def test_trouble_that_passes_is_tried_again(pubchem: PubChemDouble, trouble: Trouble) -> None:
    pubchem.troubles = [trouble, trouble]
    assert outcomes(ask(("name", "aspirin"))) == [("found", 2244)]
    assert len(pubchem.requests) == 3


def test_trouble_that_stays_has_failed_and_ends_the_run_if_it_is_general(pubchem: PubChemDouble) -> None:
    pubchem.troubles = [Trouble()] * 3
    found = ask(("name", "aspirin"), ("name", "imatinib"))
    assert outcomes(found) == [("failed", None), ("found", 5291)]
    assert "PUGREST.ServerBusy" in found["problem"][0]

    pubchem.troubles = [Trouble()] * 100
    given = []
    questions = pd.DataFrame({"kind": "name", "query": ["imatinib", *"abcdefg"]})
    with pytest.raises(PubChemUnavailableError, match=r"does not answer.*ServerBusy"):
        given += list(PubChem(limits=FAST, pace=Pace()).ask(questions))
    assert len(pubchem.requests) == 4 + 3 * FAST.tries


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("kind", ["inchikey", "name"])
def test_a_refusal_of_whoever_asks_is_not_taken_for_a_bad_id(pubchem: PubChemDouble, kind: str, status: int) -> None:
    refusal = Trouble(status, ("PUGREST.Forbidden", "blocked"))
    questions = pd.DataFrame({"kind": kind, "query": [f"{'A' * 13}{letter}-UHFFFAOYSA-N" for letter in "ABCDEFGHIJKL"]})
    pubchem.troubles = [refusal] * 100
    given: list[pd.DataFrame] = []
    with pytest.raises(PubChemUnavailableError, match=f"HTTP Error {status}"):
        given.extend(PubChem(limits=FAST, pace=Pace()).ask(questions))
    assert len(pubchem.requests) == 3
    assert (pd.concat(given)["outcome"] == "failed").all()

    pubchem.troubles = [refusal]
    assert outcomes(ask(("name", "aspirin"), ("name", "imatinib"))) == [("failed", None), ("found", 5291)]


def test_nobody_at_the_address_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PERTURBRIDGE_PUBCHEM", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert outcomes(ask(("name", "aspirin"))) == [("failed", None)]


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(pubchem: PubChemDouble, as_date: bool) -> None:
    slept: list[float] = []
    header = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True) if as_date else "20"
    pubchem.troubles = [Trouble(headers={"Retry-After": header})]
    pace = Pace(sleep=slept.append)
    answers = pd.concat(
        PubChem(limits=Limits(tries=2, longest_pause_s=10), pace=pace).ask(pd.DataFrame({"kind": ["name"], "query": ["aspirin"]}))
    )
    assert outcomes(answers) == [("found", 2244)]
    assert max(slept) == pytest.approx(20, abs=2)


@pytest.mark.parametrize(("word", "seconds"), [("Green", 0), ("Yellow", 1), ("Red", 5), ("Black", 30)])
def test_the_throttling_header_slows_down(pubchem: PubChemDouble, word: str, seconds: float) -> None:
    now = 0.0
    slept: list[float] = []

    def sleep(s: float) -> None:
        nonlocal now
        now += s
        slept.append(s)

    pubchem.throttling = f"Request Count status: Green (1%), Request Time status: {word} (80%), Service status: Green (20%)"
    service = PubChem(limits=Limits(), pace=Pace(clock=lambda: now, sleep=sleep))
    list(service.ask(pd.DataFrame({"kind": "name", "query": ["aspirin", "imatinib"]})))
    assert sum(slept) == pytest.approx(seconds)


def test_a_throttling_server_is_never_provoked(pubchem: PubChemDouble) -> None:
    # requests are counted where they are made, and arrive with some delay
    pubchem.per_second = 11
    found = ask(*(("name", f"name {n}") for n in range(20)), limits=Limits(per_second=10))
    assert (found["outcome"] == "not_found").all()
    assert pubchem.refused == 0


def test_nothing_is_left_changed_behind(pubchem: PubChemDouble) -> None:
    earlier = pubchempy.API_BASE, socket.getdefaulttimeout()
    ask(("name", "aspirin"), ("smiles", "no smiles"))
    assert (pubchempy.API_BASE, socket.getdefaulttimeout()) == earlier


def test_the_address_is_pubchems_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERTURBRIDGE_PUBCHEM", raising=False)
    assert PubChem().address == pubchempy.API_BASE
    monkeypatch.setenv("PERTURBRIDGE_PUBCHEM", "http://mirror/pug/")
    assert PubChem().address == "http://mirror/pug"
    assert PubChem("http://own").address == "http://own"


@pytest.mark.skipif("PERTURBRIDGE_LIVE" not in os.environ, reason="asks PubChem itself; set PERTURBRIDGE_LIVE")
def test_pubchem_itself_answers_as_the_double_does() -> None:
    started = time.monotonic()
    found = ask(("inchikey", RECORDS[0].inchikey), ("cid", "702"), ("name", "gleevec"), ("cas", "50-78-2"), limits=Limits())
    assert {2244, 702, 5291} <= set(found["pubchem_cid"].dropna())
    assert time.monotonic() - started < 60
