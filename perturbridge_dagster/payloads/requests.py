"""Requests and their outcomes: what identifies a piece of work, and how a finished one is recognised.

A request is (task, arguments, input checksums, code version). Its digest names the output folder, so equal requests share one
output and different ones can never be taken for each other. An output counts only with a ``done.json`` that fits: same digest,
every file there with its size and SHA-256. Belongs here: identity, verification, and running one request so that its output
appears whole or not at all. Does not belong here: what a task does (``tasks.py``) or where jobs run (``resources/compute.py``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from perturbridge_dagster.contract import CONTRACT_VERSION
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.written import file_checksum, write_json

log = logging.getLogger("perturbridge")

DONE = "done.json"


@dataclass(frozen=True)
class Input:
    """A file or folder that a request reads.

    Attributes
    ----------
    path
        Where it lies. Not part of the request's identity: data may move.
    checksum
        What identifies its content.
    """

    path: str
    checksum: str


@dataclass(frozen=True)
class Request:
    """A piece of work.

    Attributes
    ----------
    task
        Name of a task of ``payloads/tasks.py``; also the stage that is written.
    arguments
        JSON values that decide the result; no paths.
    inputs
        Name → input.
    code_version
        Version of the stage's code and of the R packages it uses.
    folder
        Folder that holds the outputs of this key, one folder a digest. Not part of the identity.
    """

    task: str
    arguments: Mapping[str, Any]
    inputs: Mapping[str, Input]
    code_version: str
    folder: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides the result."""
        identity = {
            "task": self.task,
            "arguments": self.arguments,
            "inputs": {name: value.checksum for name, value in self.inputs.items()},
            "code_version": self.code_version,
            "contract_version": CONTRACT_VERSION,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def output(self) -> Path:
        """Folder of the output."""
        return Path(self.folder) / self.digest[:16]

    @property
    def failure(self) -> Path:
        """File that tells how the last try failed, where it did."""
        return Path(self.folder) / f"{self.digest[:16]}.failed.json"

    def path(self, name: str) -> Path:
        """Path of an input."""
        return Path(self.inputs[name].path)

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """Read a request back from :meth:`to_dict`."""
        inputs = {name: Input(**value) for name, value in values["inputs"].items()}
        return cls(**{**values, "inputs": inputs})


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes
    ----------
    status
        ``computed`` now, ``adopted`` because a verified output was there, or ``failed``.
    done
        Content of ``done.json``: files with sizes and checksums, seconds, peak memory; empty on failure.
    error
        What went wrong, for a person; None on success.
    """

    request: Request
    status: Literal["computed", "adopted", "failed"]
    done: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def verified(request: Request, *, deep: bool = True) -> Mapping[str, Any] | None:
    """The ``done.json`` of a request's output, if the output is whole and unchanged.

    Parameters
    ----------
    request
        The request.
    deep
        Whether to compare SHA-256 as well as sizes.
    """
    try:
        done = json.loads((request.output / DONE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if done.get("digest") != request.digest:
        return None
    for name, recorded in done["files"].items():
        file = request.output / name
        if not file.is_file() or file.stat().st_size != recorded["bytes"]:
            return None
        if deep and file_checksum(file) != recorded["sha256"]:
            return None
    return dict(done)


def aside_folder(request: Request, tag: str) -> Path:
    """Folder in which a request's files are written before they appear; the tag is of who writes them."""
    return request.output.with_name(f".{request.output.name}.{tag}.partial")


def execute(request: Request, task: Callable[[Request, Path], None], tag: str | None = None) -> Outcome:
    """Run one request, unless its verified output is there already.

    The task writes into a folder aside, where ``done.json`` comes last; then the folder is renamed. An error of the task is written
    beside the output folder and returned, so that one bad stratum does not stop the others. Where another run has made the same
    output meanwhile, that one is adopted, since somebody may be reading it.

    Parameters
    ----------
    request
        What to make.
    task
        Function that writes the files of the request into the folder it is given.
    tag
        Tag of the folder aside, by which whoever started this process can remove it if the process is killed; any unless given.
    """
    done = verified(request)
    if done is not None:
        request.failure.unlink(missing_ok=True)
        return Outcome(request, "adopted", done)
    aside = aside_folder(request, tag or uuid.uuid4().hex[:8])
    aside.mkdir(parents=True)
    _forget_peak_memory()
    started, cpu_started = time.monotonic(), time.process_time()
    try:
        task(request, aside)
        done = _done(request, aside, time.monotonic() - started, time.process_time() - cpu_started)
        write_json(aside / DONE, done)
        made_meanwhile = _put_in_place(aside, request)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is reported to the user as that request's outcome
        text = str(error) if isinstance(error, PerturbridgeError) else f"{type(error).__name__}: {error}"
        log.error("%s failed: %s", request.task, text)
        record_failure(request, text, traceback.format_exc())
        return Outcome(request, "failed", error=text)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    request.failure.unlink(missing_ok=True)
    return Outcome(request, "computed", done) if made_meanwhile is None else Outcome(request, "adopted", made_meanwhile)


def _put_in_place(aside: Path, request: Request) -> Mapping[str, Any] | None:
    """Rename a whole output to where it belongs; the ``done.json`` of a verified output that is there already, which stays."""
    try:
        aside.rename(request.output)
    except OSError:  # refused where a folder with files is
        if (made_meanwhile := verified(request)) is not None:
            return made_meanwhile
        shutil.rmtree(request.output, ignore_errors=True)  # broken
        aside.rename(request.output)
    return None


def record_failure(request: Request, error: str, trace: str = "") -> None:
    """Write beside the output folder that a request failed, for :func:`failure_of`.

    Parameters
    ----------
    request
        What could not be made.
    error
        What went wrong, for a person.
    trace
        Python traceback, where there is one.
    """
    write_json(request.failure, {"digest": request.digest, "error": error, "traceback": trace, "at": _now()})


def failure_of(request: Request) -> str | None:
    """What the last try of a request said when it failed, or None."""
    try:
        return str(json.loads(request.failure.read_text())["error"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _forget_peak_memory() -> None:
    """Let the peak of this process begin anew, so that a request does not inherit the peak of the one before it, where Linux allows."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int:
    """Peak memory of this process, in bytes.

    Not ``ru_maxrss`` where there is another way: on Linux it counts the memory of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def _done(request: Request, folder: Path, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """Content of ``done.json`` for the files a task wrote."""
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": file_checksum(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    return {
        "digest": request.digest,
        "task": request.task,
        "arguments": dict(request.arguments),
        "inputs": {name: value.checksum for name, value in request.inputs.items()},
        "code_version": request.code_version,
        "files": files,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "peak_memory_bytes": _peak_memory(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "finished": _now(),
    }
