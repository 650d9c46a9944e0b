"""The ledger: what is written of a job, finding it again, and who watches over it."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from perturbridge_dagster.payloads.requests import Input, Request
from resources.slurm import ledger
from resources.slurm.accounting import Figures
from resources.slurm.ledger import Job


def request(stratum: str, dataset: str = "sciplex", seed: int = 1) -> Request:
    arguments = {"dataset": dataset, "stratum": stratum, "seed": seed}
    return Request("condition_effects", arguments, {"samples": Input("samples.h5ad", "c1")}, "1", "effects")


def job(home: Path, job_id: int = 18, *requests: Request, submitted: str = "2026-11-21T18:00:00+00:00") -> Job:
    several = requests or (request("CVCL_0023"),)
    digests = tuple(one.digest for one in several)
    datasets, keys = ledger.names_of(several)
    return Job(
        job_id,
        ledger.job_name(home, "condition_effects", digests),
        "condition_effects",
        "run 1",
        digests,
        datasets,
        keys,
        2**30,
        600.0,
        2,
        0,
        None,
        "/shared/runs/run 1-0123",
        str(home / "requests" / "run 1-0123.json"),
        submitted,
    )


def test_what_is_recorded_is_read_back(tmp_path: Path):
    first, second = job(tmp_path), job(tmp_path, 17, request("CVCL_0030"), submitted="2026-11-21T19:00:00+00:00")
    assert ledger.jobs(tmp_path) == []
    ledger.record(tmp_path, second)
    ledger.record(tmp_path, first)
    assert ledger.jobs(tmp_path) == [first, second], "in the order of submission"
    assert ledger.job(tmp_path, 17) == second
    assert ledger.job(tmp_path, 1) is None
    assert (first.datasets, first.keys, first.has_ended) == (("sciplex",), ("sciplex CVCL_0023",), False)


def test_a_job_ends_with_its_figures_and_only_their_state_is_believed_that_is_an_end(tmp_path: Path):
    figures = Figures("FAILED", 3, 0, 2**30, 2**29, 61.0, 30.0, "node1", "2026-11-21T18:00:10", "2026-11-21T18:01:11")
    ended = job(tmp_path).with_end(figures, "program_error", died_of="d", log="on fire")
    assert (ended.state, ended.failure, ended.exit_status, ended.peak_memory_bytes, ended.node) == (
        "FAILED",
        "program_error",
        3,
        2**29,
        "node1",
    )
    assert ended.has_ended
    assert ended.words == "SLURM job 18 on node1"
    unknown = job(tmp_path).with_end(None, "unknown", died_of=None, log="")
    assert (unknown.state, unknown.peak_memory_bytes, unknown.words) == ("UNKNOWN", None, "SLURM job 18")
    ledger.record(tmp_path, ended)
    assert ledger.job(tmp_path, 18) == ended


def test_a_job_of_another_cluster_with_the_same_number_is_kept(tmp_path: Path):
    old, new = job(tmp_path), job(tmp_path, 18, request("CVCL_0030"), submitted="2026-12-01T00:00:00+00:00")
    ledger.record(tmp_path, old)
    ledger.record(tmp_path, new)
    ledger.record(tmp_path, replace(new, cancelled_for="a reason"))
    assert [found.digests for found in ledger.jobs(tmp_path)] == [old.digests, new.digests]
    assert ledger.job(tmp_path, 18) == replace(new, cancelled_for="a reason")


def test_identity_is_what_is_made_not_in_which_order_and_of_one_home(tmp_path: Path):
    one, two = request("CVCL_0023"), request("CVCL_0030")
    same = ledger.job_name(tmp_path, "condition_effects", [one.digest, two.digest])
    assert ledger.job_name(tmp_path, "condition_effects", [two.digest, one.digest]) == same
    for other in ([one.digest], [one.digest, request("CVCL_0030", seed=2).digest], [one.digest, request("CVCL_0030", "tahoe").digest]):
        assert ledger.job_name(tmp_path, "condition_effects", other) != same
    assert same.startswith(ledger.name_prefix(tmp_path))
    assert not same.startswith(ledger.name_prefix(tmp_path / "other"))


def test_figures_are_of_the_job_that_made_an_output(tmp_path: Path):
    figures = Figures("COMPLETED", peak_memory_bytes=2**29, elapsed_seconds=61.0, cpu_seconds=60.0, node="node1")
    ledger.record(tmp_path, job(tmp_path).with_end(figures, None, died_of=None, log=""))
    done = {"digest": request("CVCL_0023").digest, "slurm_job_id": "18"}
    assert ledger.figures_of(tmp_path, done) == {
        "slurm_job": 18,
        "slurm_state": "COMPLETED",
        "slurm_node": "node1",
        "slurm_requests_of_job": 1,
        "slurm_memory": "512 MiB used of 1 GiB asked for",
        "slurm_elapsed_seconds": 61.0,
        "slurm_cpu_seconds": 60.0,
        "slurm_cpus": 2,
    }
    assert ledger.figures_of(tmp_path, {**done, "digest": request("CVCL_0030").digest}) == {}, "a job of another cluster"
    assert ledger.figures_of(tmp_path, {**done, "slurm_job_id": None}) == {}
    assert ledger.figures_of(tmp_path, {**done, "slurm_job_id": "19"}) == {}


def test_the_failure_of_a_request_is_that_of_the_last_job_that_died_of_it(tmp_path: Path):
    digest = request("CVCL_0023").digest
    figures = Figures("FAILED", exit_signal=9, peak_memory_bytes=2**30, node="node1")
    ledger.record(tmp_path, job(tmp_path).with_end(figures, "out_of_memory", died_of=digest, log="Killed"))
    later = job(tmp_path, 19, submitted="2026-11-21T19:00:00+00:00").with_end(figures, "program_error", died_of=None, log="")
    ledger.record(tmp_path, later)
    found = ledger.failure_of_job(tmp_path, [digest])
    assert (found["failure_class"], found["slurm_job"], found["peak_memory_MiB"], found["log"]) == ("out_of_memory", 18, 1024, "Killed")
    assert ledger.failure_of_job(tmp_path, ["another"]) == {}


def _watch(home: Path, ready: object) -> None:
    with ledger.watch(home, 18, "run 1"):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_the_watch_over_a_job_ends_with_the_process_however_it_ends(tmp_path: Path):
    assert ledger.seconds_unwatched(tmp_path, 18) == float("inf")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    watching = context.Process(target=_watch, args=(tmp_path, ready))
    watching.start()
    assert ready.wait(30)
    with ledger.watch(tmp_path, 18, "run 2"):
        assert ledger.watchers(tmp_path, 18) == ["run 1", "run 2"]
    assert watching.pid
    os.kill(watching.pid, signal.SIGKILL)
    watching.join()
    assert ledger.watchers(tmp_path, 18) == []
    assert ledger.last_watcher(tmp_path, 18) == "run 2"
    before = ledger.seconds_unwatched(tmp_path, 18)
    time.sleep(0.05)
    ledger.watchers(tmp_path, 18)
    assert ledger.seconds_unwatched(tmp_path, 18) > before, "looking is not watching"
    ledger.forget_watchers(tmp_path, 18)
    assert ledger.last_watcher(tmp_path, 18) is None


@pytest.mark.parametrize("job_id", [1, 18])
def test_looking_for_watchers_of_a_job_nobody_watched(tmp_path: Path, job_id: int):
    assert ledger.watchers(tmp_path, job_id) == []
    ledger.forget_watchers(tmp_path, job_id)
