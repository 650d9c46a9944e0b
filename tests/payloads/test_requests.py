from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.requests import DONE, Input, Request, execute, failure_of, verified


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request("count", {"n": 3}, {"words": Input(str(tmp_path / "words"), "c1")}, "1", str(tmp_path / "out"))


def write_numbers(request: Request, folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers").write_text("1 2 3"[: 2 * request.arguments["n"] - 1])


def refuse(request: Request, folder: Path) -> None:
    (folder / "half").write_text("half")
    raise InputError("is empty", dataset="toy", file="words")


def test_identity_is_what_decides_the_result(request_: Request):
    same = [replace(request_, folder="elsewhere"), replace(request_, inputs={"words": Input("moved", "c1")})]
    others = [
        replace(request_, task="sum"),
        replace(request_, arguments={"n": 4}),
        replace(request_, inputs={"words": Input("words", "c2")}),
        replace(request_, inputs={"letters": Input("words", "c1")}),
        replace(request_, code_version="2"),
    ]
    assert {one.digest for one in same} == {request_.digest}
    assert len({one.digest for one in [request_, *others]}) == len(others) + 1
    assert Request.from_dict(json.loads(json.dumps(request_.to_dict()))).digest == request_.digest


def test_a_first_run_computes_and_a_second_adopts(request_: Request):
    first, second = execute(request_, write_numbers), execute(request_, refuse)
    assert (first.status, second.status) == ("computed", "adopted")
    assert second.done["files"]["deep/numbers"]["bytes"] == 5
    assert second.done["peak_memory_bytes"] > 2**20


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "other digest", "no done"])
def test_a_damaged_output_is_computed_again(request_: Request, damage: str):
    execute(request_, write_numbers)
    file, done = request_.output / "deep" / "numbers", request_.output / DONE
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_text("1 2")
    elif damage == "altered":
        file.write_text("1 2 4")
    elif damage == "other digest":
        done.write_text(json.dumps({**json.loads(done.read_text()), "digest": "f" * 64}))
    else:
        done.unlink()
    assert verified(request_) is None
    assert execute(request_, write_numbers).status == "computed"
    assert file.read_text() == "1 2 3"


def test_a_failure_is_told_and_leaves_nothing_half_written(request_: Request):
    outcome = execute(request_, refuse)
    assert outcome.status == "failed"
    assert outcome.error == failure_of(request_) == "dataset toy; file words: is empty"
    assert [path.name for path in Path(request_.folder).iterdir()] == [request_.failure.name]
    assert execute(request_, write_numbers).status == "computed"
    assert failure_of(request_) is None


def test_an_unexpected_error_names_its_kind(request_: Request):
    def divide(request: Request, folder: Path) -> None:
        raise ZeroDivisionError("division by zero")

    assert execute(request_, divide).error == "ZeroDivisionError: division by zero"
    assert "Traceback" in json.loads(request_.failure.read_text())["traceback"]


def test_an_output_that_another_run_made_meanwhile_stays_and_is_adopted(request_: Request):
    being_read = []

    def slow(request: Request, folder: Path) -> None:
        assert execute(request, write_numbers).status == "computed"
        being_read.append(request.output.stat().st_ino)
        write_numbers(request, folder)

    outcome = execute(request_, slow)
    assert outcome.status == "adopted"
    assert outcome.done == verified(request_)
    assert [request_.output.stat().st_ino] == being_read
    assert [path.name for path in Path(request_.folder).iterdir()] == [request_.output.name]


def test_an_output_that_another_run_left_broken_meanwhile_is_replaced(request_: Request):
    def slow(request: Request, folder: Path) -> None:
        execute(request, write_numbers)
        (request.output / "deep" / "numbers").write_text("9 9 9")
        write_numbers(request, folder)

    assert execute(request_, slow).status == "computed"
    assert (request_.output / "deep" / "numbers").read_text() == "1 2 3"


def test_an_output_appears_together_with_the_proof_that_it_is_whole(request_: Request, monkeypatch: pytest.MonkeyPatch):
    appeared = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        appeared.append(verified(request_))
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    outcome = execute(request_, write_numbers)
    assert appeared == [outcome.done]
