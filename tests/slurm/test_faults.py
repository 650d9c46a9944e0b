"""Every fault of the list, on a real cluster: what Dagster shows, what is on disk, what SLURM still runs.

Runs go through Dagster's own machinery: most in this process, as a run of the UI's launchpad; those that are terminated, killed or
restarted through a real web server and daemon. Payloads go wrong by ``faulty/``, which the nodes' environment of these tests has on its
path. What is seen is compared with ``faults.py`` and, with $PERTURBRIDGE_WRITE_FAULTS, written into docs/slurm-faults.md.
"""

import errno
import hashlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import dagster as dg
import pandas as pd
import pytest
import tomlkit

from assets.materialize import DAGSTER_YAML, prepare_home
from perturbridge_dagster.payloads.requests import Request, failure_of, verified
from resources.slurm import ledger
from resources.slurm.ledger import Job
from resources.slurm.orphans import sweep
from resources.slurm.settings import slurm_settings
from resources.store import SETTINGS
from tests.slurm import trial
from tests.slurm.cluster import CHECKOUT, Cluster, within
from tests.slurm.faults import FAULTS, PAGE, Facts, page, shortened, table, write_observation
from tests.slurm.live import Live

# dagster-slurm leaves the pipes of its ssh processes to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

on_cluster = pytest.mark.slurm
MEMORY_GIB = 0.4
"""What a payload of these tests asks for: Python with pandas, and half as much."""
AWAY_SECONDS = 60


# ---- the page ----------------------------------------------------------------------------------------------------------------


def test_the_page_expects_what_this_suite_asserts():
    observed = {row[0]: row[-1] for row in table(PAGE.read_text())}
    assert PAGE.read_text() == page(observed)


def test_a_row_survives_reading_and_writing():
    [fault, *_] = FAULTS.values()
    rows = table(page({fault.title: "one | two"}))
    assert len(rows) == len(FAULTS)
    assert rows[0] == [fault.title, *fault.expected.cells(), fault.then, "one | two"]
    assert table(page({row[0]: row[-1] for row in rows})) == rows


# ---- a home whose payloads go wrong ------------------------------------------------------------------------------------------


class Trials:
    """A home with the trial's asset, and what tests see and do in it."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, cluster: Cluster) -> None:
        self.home, self.instance, self.cluster = home, instance, cluster
        self.began = time.monotonic()

    def set(self, **settings: object) -> None:
        """Change keys of [slurm]."""
        tables = tomlkit.parse((self.home / SETTINGS).read_text())
        tables["slurm"].update({key: str(value) if isinstance(value, Path) else value for key, value in settings.items()})
        (self.home / SETTINGS).write_text(tomlkit.dumps(tables))

    def _file(self, kind: str, key: str) -> Path:
        return self.home / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    def fault(self, key: str, kind: str, *, tries: int = 99, **details: object) -> None:
        """Have the first tries of a partition go wrong."""
        file = self._file("faults", key)
        file.parent.mkdir(exist_ok=True)
        aside = file.with_suffix(".partial")
        aside.write_text(json.dumps({"kind": kind, "tries": tries, **details}))
        aside.replace(file)

    def mend(self, key: str) -> None:
        self._file("faults", key).unlink()

    def tries(self, key: str) -> list[str]:
        """Jobs that began to make a partition."""
        file = self._file("begun", key)
        return file.read_text().split() if file.is_file() else []

    def request(self, key: str) -> Request:
        return trial.request_of(self.home, key)

    def run(self, key: str) -> str:
        """Materialize a partition in this process; the id of the run."""
        self.instance.add_dynamic_partitions("trial", [key])
        result = (
            trial.trial_definitions(self.home)
            .resolve_job_def(trial.JOB)
            .execute_in_process(
                partition_key=key,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                instance=self.instance,
                raise_on_error=False,
            )
        )
        return result.run_id

    # ---- what is seen

    def error(self, run_id: str) -> dg.Failure | None:
        """What a run's step failed of, as the UI shows it: its words, with the metadata of the failure."""
        for entry in self.instance.all_logs(run_id):
            event = entry.dagster_event
            if event and event.is_step_failure:
                data = event.step_failure_data
                metadata = data.user_failure_data.metadata if data.user_failure_data else {}
                words = (data.user_failure_data.description if data.user_failure_data else None) or data.error.message
                return dg.Failure(words, metadata=metadata)
        return None

    def said(self, run_id: str, words: str) -> bool:
        """Whether the log of a run has some words."""
        return any(words in entry.user_message for entry in self.instance.all_logs(run_id))

    def dagster(self, run_id: str) -> str:
        run = self.instance.get_run_by_id(run_id)
        assert run
        error = self.error(run_id)
        class_ = error.metadata.get("failure_class") if error else None
        return run.status.value + (f", {str(class_.value).replace('_', ' ')}" if class_ else "")

    def disk(self, key: str) -> str:
        request = self.request(key)
        folder = Path(request.folder)
        if verified(request):
            assert pd.read_parquet(request.output / "trial.parquet")["name"].tolist() == [key]
            seen = "output"
        else:
            seen = "failure recorded" if failure_of(request) else "nothing"
        partial = list(folder.glob(".*.partial")) if folder.is_dir() else []
        return seen + (f", {len(partial)} half-written" if partial else "")

    def queue(self) -> list[str]:
        """States of the jobs of this home that wait or run."""
        said = self.cluster.ask("squeue", "--noheader", "--format=%j|%T").splitlines()
        return [line.split("|")[1] for line in said if line.startswith(ledger.name_prefix(self.home))]

    def slurm(self) -> str:
        states = Counter(self.queue())
        return ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "nothing"

    def jobs(self) -> list[Job]:
        return ledger.jobs(self.home)

    def words_of_jobs(self) -> str:
        def words(job: Job) -> str:
            if job.cancelled_for:
                return "cancelled"
            return (job.failure or "completed").replace("_", " ") if job.has_ended else "in progress"

        return ", ".join(map(words, self.jobs())) or "none"

    def swept(self) -> bool:
        """Sweep; whether no job of this home is left, in the queue or open in the ledger."""
        sweep(self.home, slurm_settings(self.home), self.instance)
        return not self.queue() and all(job.has_ended for job in self.jobs())

    def facts(self, run_id: str, key: str) -> Facts:
        return Facts(self.dagster(run_id), self.disk(key), self.slurm(), self.words_of_jobs())

    def running(self, key: str) -> str:
        """The job that makes a partition, once it does."""
        return within(120, f"a try of {key}", lambda: self.tries(key))[-1]

    def empty_queue(self, seconds: float = 60) -> None:
        within(seconds, "the end of all jobs of this home", lambda: not self.queue())

    def nothing_left(self) -> bool:
        """Whether no requests file and no lock of a watcher is left."""
        return not list(self.home.glob("requests/*")) and not list(self.home.glob("slurm/watched/*/*"))

    def observed(self, name: str, seen: Facts, run_id: str, *more: str) -> None:
        """Compare what was seen of a fault with what is expected, and write it down where that is asked for, with more words."""
        error = self.error(run_id)
        states = [
            self.cluster.ask("sacct", "-X", "-n", "-P", "-j", str(job.job_id), "-o", "State,ExitCode", check=False).replace("|", " ")
            for job in self.jobs()[:3]
        ]
        words = [f"{time.monotonic() - self.began:.0f} s", f"sacct: {', '.join(filter(None, states)) or 'nothing'}", *more]
        if error:
            words.append(f"“{shortened(error.description or '')}”")
        expected = FAULTS[name].expected
        kinds = zip(("Dagster", "disk", "SLURM", "jobs"), seen.cells(), expected.cells(), strict=True)
        differs = [f"{kind} {got!r}" for kind, got, wanted in kinds if got != wanted]
        if os.environ.get("PERTURBRIDGE_WRITE_FAULTS"):
            write_observation(FAULTS[name], "; ".join([f"DIFFERS: {', '.join(differs)}"] * bool(differs) + words))
        assert seen == expected


@pytest.fixture
def trials(tmp_path: Path, slurm_cluster: Cluster) -> Iterator[Trials]:
    """A home on the cluster whose payloads may go wrong; its jobs are ended with the test."""
    home, node = tmp_path / "home", tmp_path / "node"
    prepare_home(home)
    (home / "dagster" / "dagster.yaml").write_text(DAGSTER_YAML.replace("max_concurrent_runs: 1", "max_concurrent_runs: 4"))
    node.mkdir()
    (node / "env").symlink_to((slurm_cluster.folder / "environment" / "env").resolve())
    activate = (slurm_cluster.folder / "environment" / "activate.sh").read_text()
    (node / "activate.sh").write_text(f"{activate}\nexport PYTHONPATH={CHECKOUT / 'tests' / 'slurm' / 'faulty'}:{CHECKOUT}\n")
    tables = tomlkit.parse(slurm_cluster.script("env", "--settings").stdout)
    tables["slurm"].update({"environment": str(node), "folder": str(tmp_path / "runs"), "poll_seconds": 0.5, "outage_seconds": 300})
    tables["needs"] = {trial.STAGE: {"memory_gib": MEMORY_GIB, "cpus": 1, "minutes": 1}}
    (home / SETTINGS).write_text(tomlkit.dumps(tables))
    (tmp_path / "runs").mkdir()
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        made = Trials(home, instance, slurm_cluster)
        try:
            yield made
        finally:
            slurm_cluster.script("up")  # whatever daemon a test has stopped
            for job in made.jobs():
                if not job.has_ended:
                    slurm_cluster.ask("scancel", str(job.job_id), check=False)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread while the block runs, which then waits for it; what it raises is raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - of a thread: it must reach the test
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    yield
    thread.join()
    if raised:
        raise raised[0]


# ---- payloads that go wrong --------------------------------------------------------------------------------------------------


@on_cluster
def test_a_payload_that_raises(trials: Trials):
    trials.fault("a", "raise")
    run = trials.run("a")
    error = trials.error(run)
    assert error
    assert "wells.csv: the trial has a well without a plate. Name its plate." in (error.description or "")
    assert len(trials.tries("a")) == 1
    trials.observed("raises", trials.facts(run, "a"), run)


@on_cluster
def test_a_payload_that_exits_with_a_status(trials: Trials):
    trials.fault("a", "exit")
    run = trials.run("a")
    error = trials.error(run)
    assert error
    assert "status 3" in (error.description or "")
    assert "the trial gives up" in (error.description or "")
    assert len(trials.tries("a")) == 1
    assert trials.nothing_left()
    trials.observed("exits", trials.facts(run, "a"), run)


@on_cluster
def test_a_payload_that_is_killed(trials: Trials):
    trials.fault("a", "kill")
    run = trials.run("a")
    assert len(trials.tries("a")) == 1, "not taken for one that wants memory"
    trials.observed("killed", trials.facts(run, "a"), run)


@on_cluster
def test_a_payload_that_wants_more_memory_gets_it(trials: Trials):
    trials.fault("a", "memory", tries=1, mebibytes=900)
    run = trials.run("a")
    first, second = trials.jobs()
    assert second.asked_memory_bytes == 2 * first.asked_memory_bytes
    trials.observed("memory", trials.facts(run, "a"), run)


@on_cluster
def test_a_payload_that_wants_more_memory_than_any_gets(trials: Trials):
    trials.set(max_memory_gib=2 * MEMORY_GIB)
    trials.fault("a", "memory", mebibytes=4000)
    run = trials.run("a")
    error = trials.error(run)
    assert error
    assert "max_memory_gib of [slurm] allows no more than 0.8 GiB" in (error.description or "")
    assert error.metadata["peak_memory_MiB"].value > 700
    trials.observed("memory_ceiling", trials.facts(run, "a"), run)


@on_cluster
@pytest.mark.slow_slurm
def test_a_payload_that_wants_more_time_than_any_gets(trials: Trials):
    trials.set(max_hours=1 / 60)
    tables = tomlkit.parse((trials.home / SETTINGS).read_text())
    tables["needs"][trial.STAGE]["minutes"] = 0.5
    (trials.home / SETTINGS).write_text(tomlkit.dumps(tables))
    trials.fault("a", "hang")
    run = trials.run("a")
    error = trials.error(run)
    assert error
    assert "max_hours of [slurm] allows no more" in (error.description or "")
    trials.observed("time_ceiling", trials.facts(run, "a"), run)


@on_cluster
@pytest.mark.slow_slurm
@pytest.mark.timeout(900)
def test_a_payload_that_wants_more_time_gets_it(trials: Trials):
    trials.fault("a", "hang", tries=1)
    run = trials.run("a")
    first, second = trials.jobs()
    assert second.asked_seconds == 2 * first.asked_seconds
    trials.observed("time", trials.facts(run, "a"), run)


# ---- a cluster that goes wrong -----------------------------------------------------------------------------------------------


@on_cluster
@pytest.mark.parametrize(("name", "state"), [("drained", "drain"), ("node_down", "down")])
def test_a_node_that_is_taken_away(trials: Trials, name: str, state: str):
    trials.fault("a", "hang", tries=1)

    def take_away() -> None:
        job = trials.running("a")
        node = trials.cluster.ask("squeue", "-h", "-j", job, "-o", "%N")
        if state == "down":
            trials.cluster.signal(node, signal.SIGKILL)  # else it comes back at once
        trials.cluster.ask("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
        time.sleep(3)
        if name == "drained":
            assert trials.queue() == ["RUNNING"]
            trials.mend("a")

    with meanwhile(take_away):
        run = trials.run("a")
    jobs = trials.jobs()
    if name == "node_down":
        assert jobs[0].node != jobs[1].node
        assert jobs[0].asked_memory_bytes == jobs[1].asked_memory_bytes
        assert trials.tries("a") == [str(job.job_id) for job in jobs]
    trials.observed(name, trials.facts(run, "a"), run)


def ends_during(trials: Trials, key: str, stop: Callable[[], None]) -> str:
    """Run a partition whose job ends while something is stopped; a minute later all is well again."""
    trials.fault(key, "hang")

    def act() -> None:
        trials.running(key)
        stop()
        began = time.monotonic()
        time.sleep(AWAY_SECONDS / 3)
        trials.mend(key)
        within(30, "the output", lambda: verified(trials.request(key)))
        time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
        trials.cluster.script("up")

    with meanwhile(act):
        return trials.run(key)


@on_cluster
def test_a_controller_that_is_away_for_a_minute(trials: Trials):
    run = ends_during(trials, "a", lambda: trials.cluster.signal("slurmctld", signal.SIGTERM))
    assert len(trials.tries("a")) == 1
    trials.observed("controller", trials.facts(run, "a"), run)


def stop_ssh(cluster: Cluster) -> None:
    """Stop sshd and all its sessions."""
    listener = cluster.process("sshd")
    sessions = subprocess.run(["pgrep", "-P", str(listener)], capture_output=True, text=True, check=False).stdout.split()
    cluster.signal("sshd", signal.SIGTERM)
    for session in sessions:
        os.kill(int(session), signal.SIGKILL)


@on_cluster
def test_ssh_that_is_away_for_a_minute(trials: Trials):
    run = ends_during(trials, "a", lambda: stop_ssh(trials.cluster))
    assert len(trials.tries("a")) == 1
    trials.observed("ssh", trials.facts(run, "a"), run)


@on_cluster
def test_accounting_that_is_away_for_good(trials: Trials):
    trials.cluster.signal("slurmdbd", signal.SIGTERM)
    within(20, "the end of slurmdbd", lambda: trials.cluster.process("slurmdbd") is None)
    trials.fault("a", "exit")
    run = trials.run("a")
    assert len(trials.tries("a")) == 1
    seen = trials.facts(run, "a")
    assert trials.dagster(trials.run("b")) == "SUCCESS"
    assert trials.disk("b") == "output"
    trials.observed("accounting", seen, run)


# ---- disks that are full -----------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of a few bytes on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder; the file that does it."""
    file = folder / "full"
    with file.open("ab", buffering=0) as stream:
        try:
            while stream.write(b"0" * 4096) == 4096:
                continue
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return file


@on_cluster
def test_a_full_disk_under_the_job_folders(trials: Trials, tmp_path: Path):
    with small_disk(tmp_path / "runs", "1m"):
        full = fill(tmp_path / "runs")
        run = trials.run("a")
        seen = trials.facts(run, "a")
        error = trials.error(run)
        assert error
        assert "space" in (error.description or "").lower() or "write" in (error.description or "").lower()
        full.unlink()
        assert trials.dagster(trials.run("a")) == "SUCCESS"
        trials.observed("run_folder_full", seen, run)


@on_cluster
def test_a_disk_under_the_job_folders_that_fills_up(trials: Trials, tmp_path: Path):
    with small_disk(tmp_path / "runs", "1m"):
        trials.fault("a", "hang")

        def act() -> None:
            trials.running("a")
            fill(tmp_path / "runs")
            trials.mend("a")

        with meanwhile(act):
            run = trials.run("a")
        trials.observed("run_folder_fills", trials.facts(run, "a"), run)


@on_cluster
def test_a_full_disk_under_the_output(trials: Trials):
    folder = Path(trials.request("a").folder)
    with small_disk(folder, "2m"):
        trials.fault("a", "disk")
        run = trials.run("a")
        seen = trials.facts(run, "a")
        error = trials.error(run)
        assert error
        assert "No space left on device" in (error.description or "")
        trials.mend("a")
        assert trials.dagster(trials.run("a")) == "SUCCESS"
        trials.observed("home_full", seen, run)


# ---- keys --------------------------------------------------------------------------------------------------------------------


@on_cluster
def test_a_key_with_odd_characters(trials: Trials, tmp_path: Path):
    touched = tmp_path / "touched"
    key = f"µ 'A'\"B\";$(touch {touched.name})`touch {touched.name}` & | * % # é \\ -x".replace("/", "")
    run = trials.run(key)
    assert not list(tmp_path.rglob(touched.name))
    assert not (CHECKOUT / touched.name).exists()
    trials.observed("odd_key", trials.facts(run, key), run)


# ---- Dagster that goes wrong: a real web server and daemon -------------------------------------------------------------------


@pytest.fixture
def live(trials: Trials) -> Iterator[Live]:
    """Web server and daemon on the home of the trials."""
    server = Live(trials.home, trials.instance)
    try:
        server.start("webserver", "daemon")
        yield server
    finally:
        server.end()


def launched(trials: Trials, live: Live, key: str) -> str:
    trials.instance.add_dynamic_partitions("trial", [key])
    trials.began = time.monotonic()
    return live.launch(key)


@on_cluster
def test_a_step_that_is_killed_and_another_partition(trials: Trials, live: Live):
    trials.fault("a", "hang")
    first = launched(trials, live, "a")
    job = trials.running("a")
    os.kill(live.worker(first), signal.SIGKILL)
    live.ended(first)
    seen = trials.facts(first, "a")

    other = launched(trials, live, "b")
    assert live.ended(other) == "SUCCESS"
    assert trials.disk("b") == "output", "what it says it was made for is b"
    assert trials.tries("b") != [job]

    again = launched(trials, live, "a")
    within(120, "that the run waits for the job", lambda: trials.said(again, "makes this already"))
    trials.mend("a")
    assert live.ended(again) == "SUCCESS"
    assert trials.disk("a") == "output"
    assert trials.tries("a") == [job], "it was made by the job that went on"
    assert trials.nothing_left()
    trials.observed("step_killed", seen, first)


@on_cluster
def test_a_run_that_is_terminated(trials: Trials, live: Live):
    trials.fault("a", "hang")
    run = launched(trials, live, "a")
    trials.running("a")
    live.terminate(run)
    assert live.ended(run) == "CANCELED"
    trials.empty_queue(30)
    seen = trials.facts(run, "a")
    trials.mend("a")
    assert live.ended(launched(trials, live, "a")) == "SUCCESS"
    assert len(trials.tries("a")) == 2
    within(60, "the end of the job in the ledger", trials.swept)
    assert trials.jobs()[0].failure == "cancelled"
    trials.observed("terminated", seen, run)


@on_cluster
def test_a_run_that_is_terminated_by_force(trials: Trials, live: Live):
    trials.fault("a", "hang")
    run = launched(trials, live, "a")
    trials.running("a")
    live.terminate(run, by_force=True)
    assert live.status(run) == "CANCELED"

    within(120, "the end of the orphan", trials.swept)
    assert trials.jobs()[0].failure == "cancelled"
    trials.observed("force_terminated", trials.facts(run, "a"), run)


@on_cluster
def test_a_daemon_that_is_restarted(trials: Trials, live: Live):
    trials.fault("a", "hang")
    run = launched(trials, live, "a")
    job = trials.running("a")
    live.stop("daemon")
    assert trials.queue() == ["RUNNING"], "the job goes on"
    live.start("daemon")
    trials.mend("a")
    came = "the run went on"
    if live.ended(run) != "SUCCESS":  # it went with the daemon; what it began is there for the next
        came = f"the run ended ({live.status(run)}), and the next took over its job"
        run = launched(trials, live, "a")
        live.ended(run)
    assert trials.tries("a") == [job]
    trials.observed("daemon", trials.facts(run, "a"), run, came)


@on_cluster
@pytest.mark.slow_slurm
@pytest.mark.timeout(1200)
def test_thirty_partitions_at_once(trials: Trials, live: Live):
    keys = [f"partition {number:02d}" for number in range(30)]
    trials.fault(keys[7], "raise")
    runs = {key: launched(trials, live, key) for key in keys}
    statuses = Counter(live.ended(run, 900) for run in runs.values())
    disks = Counter(trials.disk(key) for key in keys)
    assert all(len(trials.tries(key)) == 1 for key in keys)
    assert trials.disk(keys[7]) == "failure recorded"
    assert trials.nothing_left()
    jobs = Counter((job.failure or "completed") for job in trials.jobs())
    in_words = [", ".join(f"{number} {name}" for name, number in counts.most_common()) for counts in (statuses, disks, jobs)]
    trials.observed("thirty", Facts(in_words[0], in_words[1], trials.slurm(), in_words[2]), runs[keys[7]])
