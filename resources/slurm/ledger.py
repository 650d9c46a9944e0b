"""The ledger: one JSON file a job in ``<home>/slurm/jobs/``, from its submission to its end and what it used.

A run that was killed leaves its jobs in it, so that the next one finds them. Belongs here: what is recorded of a job, finding a job by
what it makes, and who watches over a job. Does not belong here: asking SLURM (``scheduler.py``), or what follows from it (``orphans.py``).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import write_json
from resources.slurm.accounting import ENDED, Failure, Figures, size


@dataclass(frozen=True)
class Job:
    """A SLURM job that makes the outputs of 1..n requests.

    Attributes
    ----------
    job_id
        Its number in SLURM.
    name
        Its name in SLURM (:func:`job_name`).
    stage
        Stage whose outputs it makes.
    run_id
        Dagster run that submitted it.
    digests
        Digests of its requests, in their order.
    datasets
        Datasets of its requests.
    keys
        Dataset, stratum, pair … of each request, in words, in their order.
    asked_memory_bytes, asked_seconds, asked_cpus, asked_gpus, asked_partition
        What it asked for; partition None is the cluster's default. Units: bytes, seconds.
    directory
        Folder with its script and logs, on the cluster.
    requests_file
        File with its requests, in the home.
    submitted
        When it was submitted, UTC.
    state
        Its last known state: ``SUBMITTED`` until it has ended, then one of :data:`resources.slurm.accounting.ENDED`, or ``UNKNOWN``.
    failure
        Class of its failure; None where it completed, or has not ended.
    ended
        When the platform saw that it had ended, UTC.
    exit_status, exit_signal, peak_memory_bytes, elapsed_seconds, cpu_seconds, node, started
        What it used, by sacct; None where that is not known. Units: bytes, seconds.
    died_of
        Digest of the request that it was making when it ended; None where it had begun none, or had made all it began.
    log
        Last lines of the log of a job that failed.
    cancelled_for
        Why the platform asked SLURM to cancel it, None where it did not.
    """

    job_id: int
    name: str
    stage: str
    run_id: str
    digests: tuple[str, ...]
    datasets: tuple[str, ...]
    keys: tuple[str, ...]
    asked_memory_bytes: int
    asked_seconds: float
    asked_cpus: int
    asked_gpus: int
    asked_partition: str | None
    directory: str
    requests_file: str
    submitted: str
    state: str = "SUBMITTED"
    failure: Failure | None = None
    ended: str | None = None
    exit_status: int | None = None
    exit_signal: int | None = None
    peak_memory_bytes: int | None = None
    elapsed_seconds: float | None = None
    cpu_seconds: float | None = None
    node: str | None = None
    started: str | None = None
    died_of: str | None = None
    log: str = ""
    cancelled_for: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the platform has seen its end."""
        return self.ended is not None

    def with_end(self, figures: Figures | None, failure: Failure | None, *, died_of: str | None, log: str) -> Job:
        """The job with its end and what it used."""
        state = figures.state if figures and figures.state in ENDED else "UNKNOWN"
        ended = replace(self, state=state, failure=failure, ended=now(), died_of=died_of, log=log)
        if figures is None:
            return ended
        return replace(
            ended,
            exit_status=figures.exit_status,
            exit_signal=figures.exit_signal,
            peak_memory_bytes=figures.peak_memory_bytes,
            elapsed_seconds=figures.elapsed_seconds,
            cpu_seconds=figures.cpu_seconds,
            node=figures.node,
            started=figures.started,
        )

    @property
    def words(self) -> str:
        """The job and where it ran, for messages."""
        return f"SLURM job {self.job_id}{f' on {self.node}' if self.node else ''}"


def now() -> str:
    """The present moment, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- identity ----------------------------------------------------------------------------------------------------------------


def identity(digests: Iterable[str]) -> str:
    """SHA-256 of what a job is to make, whatever the order: its requests hold asset, key, arguments, inputs and code version."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def name_prefix(home: Path) -> str:
    """What the names of all jobs of a home begin with, and those of no other home do."""
    return f"perturbridge-{hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]}-"


def job_name(home: Path, stage: str, digests: Iterable[str]) -> str:
    """Name of a job in SLURM: whose it is, and what it is to make."""
    return f"{name_prefix(home)}{stage}-{identity(digests)[:16]}"


def dataset_of(request: Request) -> str | None:
    """Dataset of a request, where it is of one."""
    value = request.arguments.get("dataset")
    return value if isinstance(value, str) else None


def key_of(request: Request) -> str:
    """Dataset and stratum, pair, corpus or split rule of a request, in words."""
    names = ("dataset", "stratum", "left", "right", "corpus", "model", "rule")
    return " ".join(str(request.arguments[name]) for name in names if name in request.arguments)


def _dataset_names(request: Request) -> set[str]:
    values = (request.arguments.get(name) for name in ("dataset", "left", "right"))
    return {value for value in values if isinstance(value, str)}


def names_of(requests: Iterable[Request]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Datasets and keys of requests, for :class:`Job`."""
    several = list(requests)
    return tuple(sorted(set().union(*map(_dataset_names, several)))), tuple(map(key_of, several))


# ---- files -------------------------------------------------------------------------------------------------------------------


def _folder(home: Path) -> Path:
    return home / "slurm" / "jobs"


def record(home: Path, job: Job) -> None:
    """Write what is known of a job.

    A file of the same number that is of another job, from a cluster that was set up anew, is kept under a name of its own.
    """
    file = _folder(home) / f"{job.job_id}.json"
    earlier = _read(file)
    if earlier is not None and (earlier.name, earlier.submitted) != (job.name, job.submitted):
        file.rename(file.with_name(f"{job.job_id}-{earlier.submitted.replace(':', '')}.json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(job))


def _read(file: Path) -> Job | None:
    try:
        values: Mapping[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    names = {field.name for field in fields(Job)}
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names}
    return Job(**known)


def jobs(home: Path) -> list[Job]:
    """Every job of a home, in the order of submission."""
    found = (_read(file) for file in _folder(home).glob("*.json"))
    return sorted((job for job in found if job is not None), key=lambda job: (job.submitted, job.job_id))


def job(home: Path, job_id: int) -> Job | None:
    """The last job of a number, None where there is none."""
    return _read(_folder(home) / f"{job_id}.json")


def figures_of(home: Path, done: Mapping[str, Any]) -> dict[str, Any]:
    """What SLURM says of the job that made an output, as metadata of its materialization; empty where no job made it.

    Parameters
    ----------
    home
        The platform's home.
    done
        Content of the output's ``done.json``.
    """
    maker = job(home, int(done["slurm_job_id"])) if done.get("slurm_job_id") else None
    if maker is None or done["digest"] not in maker.digests:
        return {}
    peak = maker.peak_memory_bytes
    metadata: dict[str, Any] = {
        "slurm_job": maker.job_id,
        "slurm_state": maker.state,
        "slurm_node": maker.node,
        "slurm_requests_of_job": len(maker.digests),
        "slurm_memory": f"{'unknown' if peak is None else size(peak)} used of {size(maker.asked_memory_bytes)} asked for",
        "slurm_elapsed_seconds": maker.elapsed_seconds,
        "slurm_cpu_seconds": maker.cpu_seconds,
        "slurm_cpus": maker.asked_cpus,
    }
    return {name: value for name, value in metadata.items() if value is not None}


def failure_of_job(home: Path, digests: Iterable[str]) -> dict[str, Any]:
    """The last job that died of one of some requests, as metadata of a failure; empty where none did.

    Parameters
    ----------
    home
        The platform's home.
    digests
        Of requests that failed.
    """
    wanted = set(digests)
    for died in reversed(jobs(home)):
        if died.failure is not None and died.died_of in wanted:
            metadata = {"failure_class": died.failure, "slurm_job": died.job_id, "slurm_state": died.state, "slurm_node": died.node}
            if died.peak_memory_bytes is not None:
                metadata["peak_memory_MiB"] = round(died.peak_memory_bytes / 2**20)
            return {**metadata, "asked_memory_MiB": round(died.asked_memory_bytes / 2**20), "log": died.log}
    return {}


# ---- who watches over a job --------------------------------------------------------------------------------------------------


def submission_lock(home: Path) -> FileLock:
    """Held by who looks for a job and submits one if there is none, so that two runs never submit the same."""
    file = home / "slurm" / "submission.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file)


def _watch_folder(home: Path, job_id: int) -> Path:
    return home / "slurm" / "watched" / str(job_id)


@contextmanager
def watch(home: Path, job_id: int, run_id: str) -> Iterator[Path]:
    """Watch over a job: the operating system gives the lock back when the process ends, however it ends.

    Yields
    ------
    File whose time tells when the job was last watched; touch it now and then.
    """
    file = _watch_folder(home, job_id) / f"{run_id}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        file.touch()
        yield file


def watchers(home: Path, job_id: int) -> list[str]:
    """Runs whose process watches over a job now."""
    found = []
    for file in sorted(_watch_folder(home, job_id).glob("*.lock")):
        with file.open("ab") as stream:  # opened so, the file keeps its time
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(file.stem)
    return found


def seconds_unwatched(home: Path, job_id: int) -> float:
    """Seconds since a job was last watched; infinite where it never was."""
    times = [file.stat().st_mtime for file in _watch_folder(home, job_id).glob("*.lock")]
    return max(time.time() - max(times), 0.0) if times else float("inf")


def last_watcher(home: Path, job_id: int) -> str | None:
    """Run that watched over a job last; None where none did."""
    files = sorted(_watch_folder(home, job_id).glob("*.lock"), key=lambda file: file.stat().st_mtime)
    return files[-1].stem if files else None


def forget_watchers(home: Path, job_id: int) -> None:
    """Remove the locks of a job that has ended."""
    folder = _watch_folder(home, job_id)
    for file in folder.glob("*.lock"):
        file.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
