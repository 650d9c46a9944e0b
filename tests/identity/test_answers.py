"""Answers that a snapshot has grown by: choosing among candidates, keeping them, two processes at once."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.answers import (
    ANSWER_COLUMNS,
    NOT_FOUND_HOLDS,
    AskedAnswers,
    Candidate,
    answers_checksum,
    answers_file,
    choose,
    latest,
    read_answers,
    remember,
)

DAY = datetime(2026, 11, 21, tzinfo=UTC)


def answers(*rows: tuple[str, str, str, int | None], date: datetime = DAY) -> pd.DataFrame:
    """Answers (kind, query, outcome, PubChem id) of a day."""
    frame = pd.DataFrame(rows, columns=["kind", "query", "outcome", "pubchem_cid"]).reindex(columns=list(ANSWER_COLUMNS)).astype(object)
    frame = frame.where(frame.notna(), None).assign(source="PubChem", date=date.isoformat())
    return frame.astype({"pubchem_cid": "Int64"})


def candidate(cid: int, inchikey: str | None = None, parent_key: str | None = None) -> Candidate:
    return Candidate(cid, inchikey, parent_key, "PubChem", DAY.isoformat())


THREE = [candidate(30, "A", "P"), candidate(10, "B", "Q"), candidate(20, "C", "P")]


@pytest.mark.parametrize(
    ("inchikey", "parent_key", "cid", "rule"),
    [
        ("C", "Q", 20, "inchikey"),
        ("Z", "P", 20, "parent"),
        (None, "P", 20, "parent"),
        (None, "Z", 10, "lowest"),
        (None, None, 10, "lowest"),
    ],
)
def test_the_candidate_is_taken_by_the_stated_rule(inchikey: str | None, parent_key: str | None, cid: int, rule: str) -> None:
    choice = choose(THREE, inchikey, parent_key)
    assert (choice.candidate.pubchem_cid, choice.n_candidates, choice.rule) == (cid, 3, rule)


def test_one_candidate_is_no_choice() -> None:
    assert choose([THREE[0], THREE[0]], "X", "X") == (THREE[0], 1, "only")


KEYS = st.sampled_from([None, "A", "B", "C"])


@given(st.lists(st.builds(candidate, st.integers(1, 9), KEYS, KEYS), min_size=1), KEYS, KEYS, st.randoms())
def test_the_order_of_candidates_does_not_matter(there: list[Candidate], inchikey: str | None, parent_key: str | None, random) -> None:
    there = list({one.pubchem_cid: one for one in there}.values())
    choice = choose(there, inchikey, parent_key)
    again = list(there)
    random.shuffle(again)
    assert choose(again, inchikey, parent_key) == choice
    if any(one.inchikey == inchikey for one in there if inchikey):
        assert choice.candidate.inchikey == inchikey


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    given = answers(("name", "x", "found", 2), ("name", "x", "found", 1), ("cas", "y", "not_found", None), ("name", "z", "failed", None))
    remember(tmp_path, "op3", given)
    back = read_answers(tmp_path, "op3")
    assert back["pubchem_cid"].dtype == "Int64"
    assert back[["kind", "query", "outcome"]].to_numpy().tolist() == [
        ["cas", "y", "not_found"],
        ["name", "x", "found"],
        ["name", "x", "found"],
        ["name", "z", "failed"],
    ]
    assert back["pubchem_cid"].fillna(0).tolist() == [0, 1, 2, 0]
    assert back["smiles"].tolist() == [None] * 4
    assert read_answers(tmp_path, "tahoe").empty
    assert answers_checksum(tmp_path, "tahoe") is None


def test_the_last_answer_counts_but_a_failure_replaces_nothing(tmp_path: Path) -> None:
    asked = [
        answers(("name", "x", "found", 1), ("name", "x", "found", 2), ("name", "y", "not_found", None), ("name", "z", "failed", None)),
        answers(("name", "x", "found", 3), ("name", "y", "failed", None), date=DAY + timedelta(1)),
        answers(("name", "z", "not_found", None), date=DAY + timedelta(2)),
    ]
    expected = [("x", "found", 3), ("y", "not_found", 0), ("z", "not_found", 0)]
    for order in (asked, asked[::-1]):
        kept = latest(pd.concat(order)).sort_values("query").fillna({"pubchem_cid": 0})
        assert list(kept[["query", "outcome", "pubchem_cid"]].itertuples(index=False, name=None)) == expected
    for dataset, part in zip(("a", "b", "c"), asked, strict=True):
        remember(tmp_path, dataset, part)
    together = read_answers(tmp_path).sort_values("query")
    assert together["pubchem_cid"].fillna(0).tolist() == [3, 0, 0]


def test_not_found_is_believed_for_a_time() -> None:
    asked = AskedAnswers(answers(("name", "x", "not_found", None), ("name", "y", "found", 1), ("name", "z", "failed", None)))
    later = DAY + NOT_FOUND_HOLDS
    assert [asked.state("name", query, later) for query in "xyzw"] == ["not_found", "found", "failed", "not_asked"]
    assert [asked.state("name", query, later + timedelta(1)) for query in "xyz"] == ["expired", "found", "failed"]
    assert asked.state("name", "x") == "not_found"


def test_answers_for_one_dataset_leave_the_others_as_they_are(tmp_path: Path) -> None:
    remember(tmp_path, "a", answers(("name", "x", "found", 1)))
    before = answers_checksum(tmp_path, "a")
    remember(tmp_path, "b", answers(("name", "x", "found", 2)))
    remember(tmp_path, "a", answers())
    assert answers_checksum(tmp_path, "a") == before
    remember(tmp_path, "a", answers(("name", "y", "not_found", None)))
    assert answers_checksum(tmp_path, "a") != before


@pytest.mark.slow
def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.identity.test_answers import answers, remember\n"
        "for n in range(12): remember(Path(sys.argv[1]), 'op3', answers(('name', f'{sys.argv[2]} {n}', 'found', n + 1)))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), who]) for who in ("one", "two")]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(read_answers(tmp_path, "op3")) == 24


def test_a_broken_file_is_refused_with_advice(tmp_path: Path) -> None:
    file = answers_file(tmp_path, "op3")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"op3\.parquet.*ask again"):
        read_answers(tmp_path, "op3")
