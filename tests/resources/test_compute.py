"""The compute seam with real Dagster runs, real payload processes and real tasks on small inputs.

Training corpora are the task of most tests: a payload makes one of small effects in milliseconds, and it needs no R.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import anndata as ad
import dagster as dg
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.effects.r import r_code_version
from perturbridge_dagster.payloads.requests import Input, Request, failure_of, record_failure, verified
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import Stamp, content_checksum, read_h5ad, write_h5ad
from tests.resources.ensuring import (
    Corpus,
    being_read,
    ensure,
    start_run,
    terminate,
    within_deadline,
)


def payloads(home: Path) -> list[int]:
    """Processes of payloads that work for a home."""
    found = subprocess.run(["pgrep", "-f", f"payloads.run {home}/requests/"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def payload(home: Path) -> int:
    [process] = within_deadline("the start of a payload", lambda: payloads(home))
    return process


# ---- what is computed, and what is adopted ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_missing_is_computed_once_in_one_payload_and_adopted_by_the_next_run(tmp_path: Path, corpus: Corpus):
    one, two, three = corpus("one"), corpus("two"), corpus("three")
    first = ensure(tmp_path, two, one, two, three)
    assert first.statuses == ["computed"] * 4
    assert [outcome.request for outcome in first.outcomes] == [two, one, two, three]
    assert first.payload_log == [
        "1 of 3: training_corpus all two computed",
        "2 of 3: training_corpus all one computed",
        "3 of 3: training_corpus all three computed",
    ]
    for request, outcome in zip([two, one, two, three], first.outcomes, strict=True):
        assert outcome.done == verified(request)
        assert json.loads((request.output / "corpus.json").read_text())["name"] == request.arguments["corpus"]

    made = one.output.stat().st_mtime_ns
    second = ensure(tmp_path, one, two)
    assert second.statuses == ["adopted", "adopted"]
    assert second.payload_log == []
    assert not any("pipes" in line for line in second.log), "no payload was started"
    assert one.output.stat().st_mtime_ns == made

    third = ensure(tmp_path, one, corpus("four"))
    assert third.statuses == ["adopted", "computed"]
    assert third.payload_log == ["1 of 1: training_corpus all four computed"]


@pytest.mark.slow
def test_a_failed_request_says_why_and_does_not_stop_the_others(tmp_path: Path, corpus: Corpus):
    absent = corpus("two", tmp_path / "nowhere")
    run = ensure(tmp_path, corpus("one"), absent, corpus("three"))
    assert run.statuses == ["computed", "failed", "computed"]
    assert run.outcomes[1].error == failure_of(absent)
    assert f"{tmp_path / 'nowhere'}: no complete effects lie here" in (run.outcomes[1].error or "")
    assert run.outcomes[1].done == {}
    assert not absent.output.exists()


def test_a_light_task_runs_without_a_payload_and_fails_by_itself(tmp_path: Path):
    native = tmp_path / "native"
    native.mkdir()
    for name in ("data.parquet", "metadata.csv", "chemistry.json"):
        (native / name).write_text(name)

    def record(folder: Path) -> Request:
        arguments = {"dataset": "vcpi_0001", "folder": str(folder)}
        return Request("source_files", arguments, {"folder": Input(str(folder), "c1")}, "1", str(tmp_path / "sources"))

    run = ensure(tmp_path, record(native), record(tmp_path / "nowhere"), task="source_files")
    assert run.statuses == ["computed", "failed"]
    assert "there is no such folder" in (run.outcomes[1].error or "")
    assert json.loads((record(native).output / "source_files.json").read_text())["folder"] == str(native)
    assert not any("pipes" in line for line in run.log)
    assert ensure(tmp_path, record(native), task="source_files").statuses == ["adopted"]


def test_a_request_of_another_task_is_refused(tmp_path: Path, corpus: Corpus):
    with pytest.raises(ValueError, match="asked for task source_files, got requests of training_corpus"):
        ensure(tmp_path, replace(corpus("one"), task="source_files"), corpus("one"), task="source_files")
    assert not (tmp_path / "corpora").exists()


def test_settings_that_are_wrong_fail_the_run_and_say_so(tmp_path: Path, corpus: Corpus):
    (tmp_path / "settings.toml").write_text('[compute]\nbackend = "slurm"\n')
    run = ensure(tmp_path, corpus("one"))
    assert run.outcomes == []
    assert "settings.toml: the table [slurm] is not there" in run.error
    assert failure_of(corpus("one")) is None


@pytest.mark.slow
def test_what_an_earlier_try_said_is_gone_once_there_is_an_output(tmp_path: Path, corpus: Corpus):
    record_failure(corpus("one"), "the words of an earlier try")
    assert ensure(tmp_path, corpus("one")).statuses == ["computed"]
    assert failure_of(corpus("one")) is None
    record_failure(corpus("one"), "the words of an equal request in another run")
    assert ensure(tmp_path, corpus("one")).statuses == ["adopted"]
    assert failure_of(corpus("one")) is None


# ---- payloads that end early -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_payload_leaves_what_is_finished_and_fails_what_it_died_of(tmp_path: Path, corpus: Corpus, stalled: tuple[Request, Path]):
    endless, pipe = stalled
    finished, damaged, never_begun = corpus("finished"), corpus("damaged"), corpus("never begun")
    ensure(tmp_path, damaged)
    file = damaged.output / "corpus.json"
    file.write_bytes(b" " + file.read_bytes()[1:])
    record_failure(endless, "the words of an earlier try")

    def kill() -> None:
        with being_read(pipe):
            os.kill(payload(tmp_path), signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    run = ensure(tmp_path, finished, endless, damaged, never_begun)
    killer.join()

    assert run.statuses == ["computed", "failed", "failed", "failed"]
    assert verified(finished)
    died_of, *not_begun = run.outcomes[1:]
    assert "the payload died of this" in (died_of.error or "")
    assert "code -9" in (died_of.error or "")
    assert f"the log of run {run.run_id}" in (died_of.error or "")
    assert failure_of(endless) == died_of.error, "so that the sensor does not ask for it again"
    for outcome in not_begun:
        assert outcome.error == "not begun: the payload died of an earlier request"
        assert failure_of(outcome.request) is None, "so that the sensor asks for it, and nobody leaves it out"
        assert verified(outcome.request) is None
    assert any("payload ended early" in line for line in run.log)
    assert failure_of(finished) is None
    assert ensure(tmp_path, finished, damaged, never_begun).statuses == ["adopted", "computed", "computed"], "a run by hand tries again"


@pytest.mark.slow
def test_a_payload_that_begins_nothing_fails_the_run_and_no_request(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "dagster_pipes.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one, two = corpus("one"), corpus("two")
    run = ensure(tmp_path, one, two)
    assert run.outcomes == []
    assert "The payload ended before it began to make anything" in run.error
    assert "2 of 2 requests have no outcome" in run.error
    assert f"the log of run {run.run_id}" in run.error
    assert [failure_of(request) for request in (one, two)] == [None, None], "nobody is to leave them out"
    monkeypatch.delenv("PYTHONPATH")
    assert ensure(tmp_path, one, two).statuses == ["computed", "computed"]


@contextmanager
def running(home: Path, *requests: Request) -> Iterator[subprocess.Popen[bytes]]:
    """A Dagster run in a process of its own, which is gone afterwards with its payloads."""
    process = start_run(home, requests)
    try:
        yield process
    finally:
        for left in [*payloads(home), *([process.pid] if process.poll() is None else [])]:
            os.kill(left, signal.SIGKILL)
        process.wait()


def assert_terminates(home: Path, run: subprocess.Popen[bytes], *unmade: Request) -> None:
    """Terminate a run as the UI does: run and payload are gone then, and nothing says that the requests were tried."""
    assert terminate(home, run).status == dg.DagsterRunStatus.CANCELED
    assert payloads(home) == []
    assert not list((home / "requests").iterdir())
    for request in unmade:
        assert verified(request) is None
        assert failure_of(request) is None, "what a user has ended did not fail"


@pytest.mark.slow
def test_ending_the_run_ends_the_payload_and_keeps_what_is_finished(tmp_path: Path, corpus: Corpus, stalled: tuple[Request, Path]):
    endless, pipe = stalled
    finished, never_begun = corpus("finished"), corpus("never begun")
    record_failure(endless, "the words of an earlier try")
    with running(tmp_path, finished, endless, never_begun) as run:
        with being_read(pipe):
            assert_terminates(tmp_path, run, endless, never_begun)
        assert verified(finished)
        assert list(tmp_path.glob("corpora/*/.*.partial")) == [], "it has cleaned up"


@pytest.fixture
def long_fit(tmp_path: Path) -> Request:
    """A request for effects that limma works on for minutes: a missing value makes it fit gene by gene, with 300 conditions each."""
    conditions, controls, genes = 300, 10, 3000
    values = np.random.default_rng(1).normal(8, 1, (conditions + controls, genes)).astype(np.float32)
    values[0, 0] = np.nan
    obs = pd.DataFrame({"perturbagen": ["DMSO"] * controls + [f"compound {number}" for number in range(conditions)]})
    obs["is_control"] = obs["perturbagen"] == "DMSO"
    obs["pert_dose_uM"] = np.where(obs["is_control"], 0.0, 10.0)
    obs = obs.assign(pert_time_h=24.0, plate="plate 1", cell_type="CVCL_0023", dataset="l1000_phase1")
    samples = ad.AnnData(values, obs=obs.set_index(obs.index.map("well {}".format)), uns={"stratum": "CVCL_0023"})
    samples.var_names = [f"ENSG{number:011d}" for number in range(genes)]
    file = tmp_path / "CVCL_0023.h5ad"
    write_h5ad(file, samples, Stamp("harmonized_samples", "1", "0" * 64, ("l1000_phase1",), "open"))
    arguments = {"dataset": "l1000_phase1", "stratum": "CVCL_0023", "replicates": "grouped", "normalized": True, "min_cells": 0}
    versions = r_code_version()
    return Request(
        "condition_effects",
        {**arguments, "engine": "limma", "unaccepted_inputs": []},
        {"samples": Input(str(file), content_checksum(read_h5ad(file, "harmonized_samples")))},
        f"{STAGES['condition_effects'].code_version}; {versions}",
        str(tmp_path / "effects"),
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees by /proc that limma works")
def test_ending_the_run_ends_the_payload_in_the_midst_of_a_fit(tmp_path: Path, long_fit: Request):
    with running(tmp_path, long_fit) as run:
        libraries = Path("/proc", str(payload(tmp_path)), "maps")
        within_deadline("the fit", lambda: "limma.so" in libraries.read_text())
        time.sleep(1)
        assert_terminates(tmp_path, run, long_fit)
