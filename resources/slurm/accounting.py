"""What became of a job: the figures of sacct and scontrol, and the class of a failure.

Pure functions on the text of SLURM's commands. Belongs here: reading that text, classing failures, and saying what to do about each.
Does not belong here: asking for the text (``scheduler.py``), or what is done after a failure (``backend.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Failure = Literal["out_of_memory", "timeout", "node_failure", "preempted", "cancelled", "program_error", "unknown"]

RETRIED: tuple[Failure, ...] = ("out_of_memory", "timeout", "node_failure", "preempted")
"""Failures that another job may not meet: with more memory, with more time, or on another node."""

_CLASSES: Mapping[str, Failure] = {
    "OUT_OF_MEMORY": "out_of_memory",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "LAUNCH_FAILED": "node_failure",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "FAILED": "program_error",
}
"""State in which a job has ended → class. A job that has ended and is in none of them is COMPLETED."""

ENDED = ("COMPLETED", *_CLASSES)
"""States that a job does not leave. A job that SLURM puts back into the queue is PENDING again."""

ADVICE: Mapping[Failure, str] = {
    "out_of_memory": "Ask for more: memory_gib of [needs] in settings.toml, and max_memory_gib of [slurm] where that is the limit.",
    "timeout": "Ask for more: minutes of [needs] in settings.toml, and max_hours of [slurm] where that is the limit.",
    "node_failure": "Rematerialize; if it comes again, the cluster's administrators can say what ails the node.",
    "preempted": "Rematerialize when the cluster is less busy, or name a partition or qos of [slurm] that is not preempted.",
    "cancelled": "Somebody ended the job (scancel). Rematerialize to start another.",
    "program_error": "The lines of the log below say what went wrong. Rematerialize once it is mended.",
    "unknown": "SLURM knows nothing of the job any more, and not all outputs are there. Rematerialize; `python -m resources.slurm.doctor` "
    "looks whether sacct answers.",
}
"""What a person can do after a failure."""

SACCT_FIELDS = ("JobID", "State", "ExitCode", "ReqMem", "ReqCPUS", "MaxRSS", "ElapsedRaw", "TotalCPU", "NodeList", "Start", "End")
"""Fields that :func:`read_sacct` reads, in this order: ``sacct --noheader --parsable2 --format=…``."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_KILLED_BY_KERNEL = 9

# without cgroups SLURM samples memory, and ends a step that it has seen above its limit; the kernel ends one that is about to be
_FULL = 0.9

_SAID: tuple[tuple[str, Failure], ...] = (
    (r"oom[-_ ]?kill|exceeded (job |step )?memory limit|out of memory", "out_of_memory"),
    (r"DUE TO TIME LIMIT", "timeout"),
    (r"DUE TO NODE FAILURE", "node_failure"),
    (r"DUE TO PREEMPTION", "preempted"),
)
"""What slurmstepd writes into a job's log → class."""


@dataclass(frozen=True)
class Figures:
    """What SLURM says of a job.

    Attributes
    ----------
    state
        First word of its state, for example ``COMPLETED``.
    exit_status, exit_signal
        Exit status of the batch script, and the signal that ended it; 0 where none did.
    asked_memory_bytes
        Memory it asked for. Unit: bytes.
    peak_memory_bytes
        Most memory that any of its steps was seen to use, by SLURM's sampling. Unit: bytes.
    elapsed_seconds, cpu_seconds
        Time it ran, and processor time it used. Unit: seconds.
    node
        Nodes it ran on.
    started, ended
        As SLURM writes times, in the cluster's time zone.
    """

    state: str
    exit_status: int = 0
    exit_signal: int = 0
    asked_memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    elapsed_seconds: float | None = None
    cpu_seconds: float | None = None
    node: str | None = None
    started: str | None = None
    ended: str | None = None


def first_word(state: str) -> str:
    """The state alone of ``CANCELLED by 0`` or ``TIMEOUT+``; empty where nothing is."""
    found = re.match(r"[A-Z_]+", state.strip().upper())
    return found[0] if found else ""


def memory_bytes(text: str) -> int | None:
    """Bytes of a size as SLURM writes it: ``512M``, ``1.50G``, ``4000Mn`` (a node); None where it is none.

    A size with ``c`` is of one CPU; :func:`read_sacct` multiplies it.
    """
    found = re.fullmatch(r"([\d.]+)([KMGTP]?)[nc]?", text.strip())
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def duration_seconds(text: str) -> float | None:
    """Seconds of a duration as SLURM writes it: ``1-02:03:04``, ``03:04.567``; None where it is none."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = found.groups()
    return 86400 * int(days or 0) + 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)


def _exit_code(text: str) -> tuple[int, int]:
    status, _, signal = text.partition(":")
    return int(status) if status.isdigit() else 0, int(signal) if signal.isdigit() else 0


def _known(text: str) -> str | None:
    return text if text and text not in ("Unknown", "None", "None assigned", "(null)", "N/A") else None


def read_sacct(text: str, job_id: int) -> Figures | None:
    """Figures of a job from ``sacct --noheader --parsable2`` with :data:`SACCT_FIELDS`.

    Parameters
    ----------
    text
        Rows of the job and of its steps; others are passed over.
    job_id
        The job.

    Returns
    -------
    State, exit code, request and times of the job itself. The peak is that of the step that used most. A job is ``OUT_OF_MEMORY``
    also where SLURM says so of one of its steps only. None where there is no row of the job.
    """
    job: dict[str, str] | None = None
    steps: list[dict[str, str]] = []
    for line in text.splitlines():
        values = line.strip().split("|")
        if len(values) != len(SACCT_FIELDS):
            continue
        row = dict(zip(SACCT_FIELDS, values, strict=True))
        if row["JobID"] == str(job_id):
            job = row
        elif row["JobID"].startswith(f"{job_id}."):
            steps.append(row)
    if job is None:
        return None
    status, signal = _exit_code(job["ExitCode"])
    asked = memory_bytes(job["ReqMem"])
    if asked is not None and job["ReqMem"].endswith("c"):
        asked *= int(job["ReqCPUS"]) if job["ReqCPUS"].isdigit() else 1
    peaks = [peak for row in (job, *steps) if (peak := memory_bytes(row["MaxRSS"])) is not None]
    state = first_word(job["State"])
    if state == "FAILED" and any(first_word(step["State"]) == "OUT_OF_MEMORY" for step in steps):
        state = "OUT_OF_MEMORY"
    return Figures(
        state,
        status,
        signal,
        asked,
        max(peaks, default=None),
        float(job["ElapsedRaw"]) if job["ElapsedRaw"].isdigit() else None,
        duration_seconds(job["TotalCPU"]),
        _known(job["NodeList"]),
        _known(job["Start"]),
        _known(job["End"]),
    )


def read_scontrol(text: str) -> Figures | None:
    """Figures of a job from ``scontrol --oneliner show job``: what the controller still knows where accounting does not answer.

    Returns
    -------
    Without memory and processor time, which only accounting has; None where the text shows no job.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    if not (state := first_word(fields.get("JobState", ""))):
        return None
    status, signal = _exit_code(fields.get("ExitCode", ""))
    return Figures(
        state,
        status,
        signal,
        elapsed_seconds=duration_seconds(fields.get("RunTime", "")),
        node=_known(fields.get("NodeList", "")),
        started=_known(fields.get("StartTime", "")),
        ended=_known(fields.get("EndTime", "")),
    )


def failure_class(figures: Figures | None, log: str = "") -> Failure | None:
    """Class of a job's failure.

    Parameters
    ----------
    figures
        What SLURM says of the job, None where it knows nothing.
    log
        End of the job's log, with the words of slurmstepd. They decide where the state alone does not.

    Returns
    -------
    None for a job that completed. Where memory is not held by cgroups, SLURM calls a job that it killed for its memory ``FAILED`` by
    signal 9; it is told from others by its peak, and by the log.
    """
    state = figures.state if figures else ""
    if state == "COMPLETED":
        return None
    known = _CLASSES.get(state)
    if known not in (None, "program_error", "cancelled"):
        return known
    for words, said in _SAID:
        if re.search(words, log, re.IGNORECASE):
            return said
    if figures and known == "program_error" and figures.exit_signal == _KILLED_BY_KERNEL:
        peak, asked = figures.peak_memory_bytes, figures.asked_memory_bytes
        if peak and asked and peak >= _FULL * asked:
            return "out_of_memory"
    return known or "unknown"


def size(value: float) -> str:
    """A size in words: ``512 MiB``, ``1.5 GiB``."""
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def span(seconds: float) -> str:
    """A time in words: ``40 s``, ``12 min``, ``5.5 h``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def explain(failure: Failure, job: str, facts: Sequence[str], log: str) -> str:
    """A failure in words: class, job, what is known of it, what to do, and the last lines of its log.

    Parameters
    ----------
    failure
        Its class.
    job
        Which job, for example ``SLURM job 18 on node1``.
    facts
        Sentences about it.
    log
        Last lines of its log.
    """
    lines = [f"{failure.replace('_', ' ')}: {job}. {' '.join(facts)}".rstrip(), ADVICE[failure]]
    if log.strip():
        lines += ["Last lines of its log:", *(f"    {line}" for line in log.strip().splitlines())]
    return "\n".join(lines)
