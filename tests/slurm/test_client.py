"""Requests made by jobs of a real cluster: what a run gets, what it may take over, and what ending it does.

Runs that are to be killed are processes of their own. A job is held in the midst of a request by a pipe that nobody writes to.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from perturbridge_dagster.payloads.requests import Request, failure_of, verified
from resources.slurm import ledger, orphans
from resources.slurm.settings import slurm_settings
from resources.store import SETTINGS
from tests.resources.conftest import write_stratum  # noqa: F401 - a fixture
from tests.resources.ensuring import (
    DEADLINE,
    Held,
    being_read,
    corpus_request,
    ensure,
    instance_of,
    stalled_effects,
    start_run,
    terminate,
    within_deadline,
)
from tests.slurm.cluster import Cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    # dagster-slurm leaves the pipes of its ssh processes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Home:
    """A home whose payloads run on the cluster, and requests of it."""

    path: Path
    effects: Path
    cluster: Cluster
    stack: ExitStack
    held: dict[Path, Held] = field(default_factory=dict)

    def corpus(self, name: str, strata: Path | None = None) -> Request:
        return corpus_request(self.path, name, strata or self.effects)

    def stalled(self, name: str = "stalled") -> tuple[Request, Path]:
        """A request that a job is held in, and the pipe that holds it."""
        pipe = stalled_effects(self.path / f"{name} effects", self.effects)
        return self.corpus(name, pipe.parent), pipe

    def set(self, lines: str) -> None:
        """Add tables to the settings."""
        with (self.path / SETTINGS).open("a") as settings:
            settings.write(lines)

    @property
    def jobs(self) -> list[ledger.Job]:
        return ledger.jobs(self.path)

    @property
    def queue(self) -> list[str]:
        """Ids of this home's jobs that wait or run."""
        said = self.cluster.ask("squeue", "--noheader", "--format=%A %j").splitlines()
        return [line.split()[0] for line in said if line.split()[1].startswith(ledger.name_prefix(self.path))]

    @contextmanager
    def running(self, *requests: Request) -> Iterator[subprocess.Popen[bytes]]:
        """A Dagster run in a process of its own, which is gone afterwards."""
        process = start_run(self.path, requests)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def killed_in(self, pipe: Path, *requests: Request) -> ledger.Job:
        """Start a run, kill it -9 while its job is held, and say what the ledger has of the job."""
        with self.running(*requests) as run:
            self.held[pipe] = self.stack.enter_context(being_read(pipe))
            run.kill()
            run.wait()
        [job] = [job for job in self.jobs if not job.has_ended]
        assert self.queue == [str(job.job_id)], "the job goes on"
        assert not ledger.watchers(self.path, job.job_id)
        return job

    def sweep(self, **options: float) -> list[orphans.Swept]:
        with instance_of(self.path) as instance:
            return orphans.sweep(self.path, slurm_settings(self.path), instance, **options)


@pytest.fixture
def home(tmp_path: Path, slurm_cluster: Cluster, write_stratum: Callable[..., object]) -> Iterator[Home]:  # noqa: F811
    effects = tmp_path / "effects" / "CVCL_0023"
    write_stratum(effects, "sciplex", "CVCL_0023", [f"compound {number:02d}" for number in range(12)])
    home = tmp_path / "home"
    home.mkdir()
    (home / SETTINGS).write_text(slurm_cluster.script("env", "--settings").stdout)
    with ExitStack() as stack:
        made = Home(home, effects, slurm_cluster, stack)
        yield made
        for job in made.queue:
            slurm_cluster.ask("scancel", job, check=False)


# ---- outcomes ----------------------------------------------------------------------------------------------------------------


def test_requests_share_a_job_and_its_figures_are_in_the_ledger(home: Home):
    one, two = home.corpus("one"), home.corpus("two")
    first = ensure(home.path, one, two)
    assert first.statuses == ["computed", "computed"]
    assert first.payload_log == ["1 of 2: training_corpus all one computed", "2 of 2: training_corpus all two computed"]
    [job] = home.jobs
    assert job.digests == (one.digest, two.digest)
    assert (job.state, job.failure, job.run_id, job.keys) == ("COMPLETED", None, first.run_id, ("all", "all"))
    assert home.cluster.ended(str(job.job_id)) == ("COMPLETED", "0:0")
    assert job.elapsed_seconds is not None
    assert job.node in ("node1", "node2")
    assert not Path(job.directory).exists(), "its folder is not needed any more"
    assert first.outcomes[0].done["slurm_job_id"] == str(job.job_id)
    figures = ledger.figures_of(home.path, first.outcomes[0].done)
    assert (figures["slurm_job"], figures["slurm_state"], figures["slurm_requests_of_job"]) == (job.job_id, "COMPLETED", 2)
    assert ensure(home.path, one, two).statuses == ["adopted", "adopted"]
    assert len(home.jobs) == 1


def test_a_request_that_fails_says_why_and_does_not_stop_the_others(home: Home):
    absent = home.corpus("absent", home.path / "nowhere")
    run = ensure(home.path, home.corpus("one"), absent, home.corpus("two"))
    assert run.statuses == ["computed", "failed", "computed"]
    assert f"{home.path / 'nowhere'}: no complete effects lie here" in (run.outcomes[1].error or "")
    assert len(home.jobs) == 1


def test_a_payload_that_exits_fails_the_request_it_died_of_and_the_others_go_on(home: Home, tmp_path: Path):
    # an environment that ends with status 3 whoever opens a certain file: what a bug in compiled code would do
    (tmp_path / "fatal").mkdir()
    (tmp_path / "fatal" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "sys.addaudithook(lambda event, seen: event == 'open' and 'fatal effects' in str(seen[0]) and print('on fire', flush=True)"
        " is None and os._exit(3))\n"
    )
    environment = tmp_path / "environment"
    environment.mkdir()
    own = slurm_settings(home.path).environment
    (environment / "env").symlink_to(own / "env")
    (environment / "activate.sh").write_text(f"source {own}/activate.sh\nexport PYTHONPATH={tmp_path}/fatal:$PYTHONPATH\n")
    settings = (home.path / SETTINGS).read_text()
    (home.path / SETTINGS).write_text(settings.replace(f'environment = "{own}"', f'environment = "{environment}"'))
    (home.path / "fatal effects").symlink_to(home.effects)

    fatal = home.corpus("fatal", home.path / "fatal effects")
    run = ensure(home.path, home.corpus("one"), fatal, home.corpus("two"))
    assert run.statuses == ["computed", "failed", "computed"]
    died, went_on = home.jobs
    error = run.outcomes[1].error or ""
    assert error.startswith(f"program error: SLURM job {died.job_id} on {died.node}. It ")
    assert "ended with status 3" in error
    assert "    on fire" in error, "the last lines of the log"
    assert (died.state, died.failure, died.died_of) == ("FAILED", "program_error", fatal.digest)
    assert went_on.digests == (home.corpus("two").digest,), "neither what was made nor what failed is tried again"
    assert failure_of(fatal) == error


def test_what_slurm_refuses_and_a_payload_that_never_begins_are_no_requests_fault(home: Home, tmp_path: Path):
    settings = (home.path / SETTINGS).read_text()
    (home.path / SETTINGS).write_text(settings.replace('partition = "main"', 'partition = "nowhere"', 1))
    refused = ensure(home.path, home.corpus("one"))
    assert "SLURM did not take the job" in refused.error
    assert "invalid partition" in refused.error.lower()
    assert home.jobs == []

    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "activate.sh").write_text("true\n")
    own = slurm_settings(home.path).environment
    (home.path / SETTINGS).write_text(settings.replace(f'environment = "{own}"', f'environment = "{environment}"'))
    dead = ensure(home.path, home.corpus("one"))
    assert "It ended before it began to make anything" in dead.error
    assert "Python executable not found" in dead.error
    assert failure_of(home.corpus("one")) is None


# ---- runs that die -----------------------------------------------------------------------------------------------------------


def test_after_kill_9_a_run_of_the_same_requests_waits_for_their_job_and_another_run_gets_its_own(home: Home):
    stalled, pipe = home.stalled()
    orphan = home.killed_in(pipe, home.corpus("first"), stalled)

    other = ensure(home.path, home.corpus("other"))
    assert other.statuses == ["computed"]
    assert verified(home.corpus("other")) is not None
    assert other.outcomes[0].done["slurm_job_id"] != str(orphan.job_id), "never taken from the job of other requests"

    with home.running(home.corpus("first"), stalled) as again:
        within_deadline("watching", lambda: ledger.watchers(home.path, orphan.job_id))
        assert home.queue == [str(orphan.job_id)], "it is waited for, and none is submitted beside it"
        home.held[pipe].let_go(home.effects)
        assert again.wait(DEADLINE) == 0
    done = verified(stalled)
    assert done is not None
    assert done["slurm_job_id"] == str(orphan.job_id)
    assert ledger.job(home.path, orphan.job_id).state == "COMPLETED"
    assert len(home.jobs) == 2
    assert not list((home.path / "requests").iterdir())


def test_a_run_that_is_told_to_stop_leaves_its_job_to_the_next(home: Home):
    stalled, pipe = home.stalled()
    with home.running(stalled) as run:
        held = home.stack.enter_context(being_read(pipe))
        run.send_signal(signal.SIGTERM)  # as systemd and the daemon do: nobody has terminated the run
        run.wait(DEADLINE)
    [job] = home.jobs
    assert home.queue == [str(job.job_id)]
    with instance_of(home.path) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]
    with home.running(stalled) as again:
        within_deadline("watching", lambda: ledger.watchers(home.path, job.job_id))
        held.let_go(home.effects)
        assert again.wait(DEADLINE) == 0
    assert [job.job_id for job in home.jobs] == [job.job_id]


# ---- runs that a user ends ---------------------------------------------------------------------------------------------------


def test_terminating_a_run_cancels_its_job_and_blames_nobody(home: Home):
    stalled, pipe = home.stalled()
    finished = home.corpus("finished")
    with home.running(finished, stalled) as run, being_read(pipe):
        assert terminate(home.path, run).status == dg.DagsterRunStatus.CANCELED
    [job] = home.jobs
    assert home.cluster.ended(str(job.job_id))[0] == "CANCELLED"
    assert verified(finished)
    assert failure_of(stalled) is None, "what a user has ended did not fail"
    assert "was ended" in (job.cancelled_for or "")
    within_deadline("its closing", lambda: [swept.did for swept in home.sweep()] == ["closed"])
    assert ledger.job(home.path, job.job_id).failure == "cancelled"
    assert not list((home.path / "requests").iterdir())
    within_deadline("tidying up", lambda: not list(home.path.glob("corpora/*/.*.partial")))


def test_a_job_that_two_runs_wait_for_goes_on_when_one_is_terminated(home: Home):
    stalled, pipe = home.stalled()
    with home.running(stalled) as first, being_read(pipe) as held:
        [job] = within_deadline("submission", lambda: home.jobs)
        with home.running(stalled) as second:
            within_deadline("watching", lambda: len(ledger.watchers(home.path, job.job_id)) == 2)
            terminate(home.path, second)
        assert home.queue == [str(job.job_id)]
        held.let_go(home.effects)
        assert first.wait(DEADLINE) == 0
    assert verified(stalled)


def test_the_sweep_cancels_orphans_and_nothing_else(home: Home):
    stalled, pipe = home.stalled()
    forced = home.killed_in(pipe, stalled)
    alone, other_pipe = home.stalled("alone")
    watched, third_pipe = home.stalled("watched")
    foreign = home.cluster.submit("sleep 60", "--job-name=perturbridge-of-another-home")
    assert [(swept.job_id, swept.did) for swept in home.sweep()] == [(forced.job_id, "left")], "a run may still come for it"
    with instance_of(home.path) as instance:
        [run] = instance.get_runs()
        instance.report_run_canceled(run)  # what "force terminate" does
    assert [(swept.job_id, swept.did) for swept in home.sweep()] == [(forced.job_id, "cancelled")]
    assert home.cluster.ended(str(forced.job_id))[0] == "CANCELLED"
    within_deadline("its closing", lambda: [swept.did for swept in home.sweep()] == ["closed"])

    dead = home.killed_in(other_pipe, alone)
    with home.running(watched), being_read(third_pipe):
        [living] = within_deadline("a job that is watched", lambda: [job for job in home.jobs if ledger.watchers(home.path, job.job_id)])
        time.sleep(1)
        swept = home.sweep(grace_seconds=0.5)
        assert [(one.job_id, one.did) for one in swept] == [(dead.job_id, "cancelled")]
        assert "no run came" in swept[0].why
        assert str(living.job_id) in home.queue
    assert foreign in home.cluster.jobs
    home.cluster.ask("scancel", foreign)


def test_a_job_that_was_never_noted_is_found_by_its_name(home: Home):
    stalled, pipe = home.stalled()
    orphan = home.killed_in(pipe, stalled)
    noted = home.path / "slurm" / "jobs" / f"{orphan.job_id}.json"
    noted.unlink()  # as if the process had died right after sbatch
    with home.running(stalled) as again:
        within_deadline("watching", lambda: ledger.watchers(home.path, orphan.job_id))
        home.held[pipe].let_go(home.effects)
        assert again.wait(DEADLINE) == 0
    assert [job.job_id for job in home.jobs] == [orphan.job_id]

    alone, other_pipe = home.stalled("alone")
    dead = home.killed_in(other_pipe, alone)
    (home.path / "slurm" / "jobs" / f"{dead.job_id}.json").unlink()
    assert [(swept.job_id, swept.did) for swept in home.sweep()] == [(dead.job_id, "cancelled")]
