"""What is handed to a payload, and what it leaves: begun requests, other code, half-written folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.payloads.handover import (
    died_of,
    forget_requests,
    note_begun,
    payload_tag,
    read_requests,
    write_requests,
)
from perturbridge_dagster.payloads.requests import Input, Request, aside_folder, execute, failure_of, record_failure
from perturbridge_dagster.stages import STAGES


def request(tmp_path: Path, name: str) -> Request:
    code = STAGES["training_corpus"].code_version
    return Request("training_corpus", {"corpus": name}, {"a": Input("/a", "c1")}, code, str(tmp_path / name))


def test_requests_come_over_and_what_was_said_of_them_is_forgotten(tmp_path: Path):
    one, two = request(tmp_path, "one"), request(tmp_path, "two")
    record_failure(one, "the words of an earlier try")
    file = write_requests(tmp_path, "run 1", [one, two])
    assert read_requests(file) == [one, two]
    assert failure_of(one) is None
    assert write_requests(tmp_path, "run 1", [one]) != file
    forget_requests(file)
    assert not file.exists()
    forget_requests(file)


def test_other_code_is_refused(tmp_path: Path):
    newer = replace(request(tmp_path, "one"), code_version="99; R 9")
    with pytest.raises(PerturbridgeError, match="version 99 of training_corpus was asked for"):
        read_requests(write_requests(tmp_path, "run 1", [newer]))
    file = write_requests(tmp_path, "run 1", [request(tmp_path, "one")])
    values = json.loads(file.read_text())
    values[0]["digest"] = "0" * 64
    file.write_text(json.dumps(values))
    with pytest.raises(PerturbridgeError, match="another version of the contract"):
        read_requests(file)


def test_a_payload_dies_of_the_request_it_has_begun_and_not_ended(tmp_path: Path):
    one, two = request(tmp_path, "one"), request(tmp_path, "two")
    file = write_requests(tmp_path, "run 1", [one, two])
    assert died_of(file) is None, "it had begun none"
    note_begun(file, one)
    assert died_of(file) == one.digest
    execute(one, lambda _, folder: (folder / "a").write_text("a"), payload_tag(file))
    assert died_of(file) is None
    (one.output / "a").write_text("b")
    assert died_of(file) == one.digest, "an output that is damaged is made anew"
    note_begun(file, two)
    assert died_of(file) == two.digest
    record_failure(two, "it says why")
    assert died_of(file) is None
    forget_requests(file)
    assert died_of(file) is None
    assert list((tmp_path / "requests").iterdir()) == []


def test_what_a_killed_payload_wrote_in_part_is_removed_and_nobody_elses(tmp_path: Path):
    one = request(tmp_path, "one")
    file, other = write_requests(tmp_path, "run 1", [one]), write_requests(tmp_path, "run 2", [one])
    for tag in (payload_tag(file), payload_tag(other)):
        aside_folder(one, tag).mkdir(parents=True)
        (aside_folder(one, tag) / "half").write_text("a")
    forget_requests(file)
    assert [folder.name for folder in (tmp_path / "one").iterdir()] == [aside_folder(one, payload_tag(other)).name]
