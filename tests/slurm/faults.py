"""The table of faults: what should become of each, what became of it, and the page of the docs that shows both.

Belongs here: the expectations, in the words of the page, and reading and writing it. Does not belong here: making faults
(``test_faults.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "slurm-faults.md"
COMMAND = "PERTURBRIDGE_WRITE_FAULTS=1 script/test --slurm tests/slurm/test_faults.py"
NOT_YET = "not run yet"


@dataclass(frozen=True)
class Facts:
    """What can be seen after a fault.

    Attributes
    ----------
    dagster
        Status of the run, and the class of the failure in its error.
    disk
        Whether the output is there and verified, a failure is recorded, or nothing; and what else was left.
    slurm
        Jobs of this home that wait or run.
    jobs
        What became of each of its jobs, by the ledger.
    """

    dagster: str
    disk: str
    slurm: str
    jobs: str

    def cells(self) -> list[str]:
        return [self.dagster, self.disk, self.slurm, self.jobs]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes
    ----------
    title
        What happens, for the page.
    expected
        What must be seen after it.
    then
        What must be true afterwards, for the page; the test asserts it.
    """

    title: str
    expected: Facts
    then: str = ""


NOTHING_RUNS = "nothing"
MADE = "output"
FAILED = "failure recorded"
EMPTY = "nothing"

FAULTS: Mapping[str, Fault] = {
    "raises": Fault(
        "the payload raises",
        Facts("FAILURE", FAILED, NOTHING_RUNS, "completed"),
        "The error is that of the task, word for word. Nothing is tried again.",
    ),
    "exits": Fault(
        "the payload exits with status 3",
        Facts("FAILURE, program error", FAILED, NOTHING_RUNS, "program error"),
        "The error has the status and the last lines of the log. Nothing is tried again.",
    ),
    "killed": Fault(
        "the payload is killed (signal 9)",
        Facts("FAILURE, program error", FAILED, NOTHING_RUNS, "program error"),
        "It is told from out of memory by the peak. Nothing is tried again.",
    ),
    "memory": Fault(
        "over its memory",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "out of memory, completed"),
        "The second job has twice the memory.",
    ),
    "memory_ceiling": Fault(
        "over its memory, again and again",
        Facts("FAILURE, out of memory", FAILED, NOTHING_RUNS, "out of memory, out of memory"),
        "The error names max_memory_gib, which no job goes beyond.",
    ),
    "time_ceiling": Fault(
        "over its time, at max_hours",
        Facts("FAILURE, timeout", FAILED, NOTHING_RUNS, "timeout"),
        "The error names max_hours.",
    ),
    "time": Fault(
        "over its time",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "timeout, completed"),
        "The second job has twice the time.",
    ),
    "drained": Fault(
        "the node is drained in the middle",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "completed"),
        "The job ends on the node.",
    ),
    "node_down": Fault(
        "the node goes down in the middle",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "node failure, completed"),
        "The second job asks for the same and runs on another node.",
    ),
    "controller": Fault(
        "the controller is away for 60 s, and the job ends meanwhile",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "completed"),
        "The run waits.",
    ),
    "accounting": Fault(
        "accounting is away for good, and the payload exits with status 3",
        Facts("FAILURE, program error", FAILED, NOTHING_RUNS, "program error"),
        "Another partition succeeds meanwhile.",
    ),
    "ssh": Fault(
        "ssh is away for 60 s, and the job ends meanwhile",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "completed"),
        "The run waits.",
    ),
    "run_folder_full": Fault(
        "the disk with the job folders is full",
        Facts("FAILURE", EMPTY, NOTHING_RUNS, "none"),
        "The error says so; with room again, the same partition succeeds.",
    ),
    "run_folder_fills": Fault(
        "the disk with the job folders fills up while the job runs",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "completed"),
        "The output counts, not what the job could say.",
    ),
    "home_full": Fault(
        "the disk of the output is full",
        Facts("FAILURE, program error", FAILED, NOTHING_RUNS, "program error"),
        "The error says so, and nothing half-written is left; with room again, the same partition succeeds.",
    ),
    "step_killed": Fault(
        "Dagster's step is killed (signal 9), and another partition started",
        Facts("FAILURE", f"{EMPTY}, 1 half-written", "1 RUNNING", "in progress"),
        "The other partition has a job and an output of its own. The first, started again, waits for the job that goes on, and succeeds.",
    ),
    "terminated": Fault(
        "the run is terminated",
        Facts("CANCELED", EMPTY, NOTHING_RUNS, "cancelled"),
        "Rematerialized, it succeeds.",
    ),
    "force_terminated": Fault(
        "the run is terminated by force",
        Facts("CANCELED", EMPTY, NOTHING_RUNS, "cancelled"),
        "Where the step could not cancel the job, the orphan sweep has.",
    ),
    "daemon": Fault(
        "the daemon is restarted while the job runs",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "completed"),
        "One job, whatever became of the run that had it.",
    ),
    "thirty": Fault(
        "30 partitions at once, one of which raises",
        Facts("29 SUCCESS, 1 FAILURE", f"29 {MADE}, 1 {FAILED}", NOTHING_RUNS, "30 completed"),
        "Each has the output of its own key, made once.",
    ),
    "odd_key": Fault(
        "a partition key with odd characters",
        Facts("SUCCESS", MADE, NOTHING_RUNS, "completed"),
        "The output is that of the key, character for character; nothing of it was run by a shell.",
    ),
}
"""Fault → what must be seen after it."""

_HEADER = ["fault", "Dagster shows", "on disk", "SLURM still runs", "jobs", "and", "observed"]
_TEXT = f"""# Faults, and what becomes of them

Each line is made to happen on the two-node test cluster, and what is seen is asserted. The columns *Dagster shows* to *and* are what is
expected; *observed* is from the last run that wrote this page:

    {COMMAND}

It takes about twenty minutes, as root on Debian 12. `script/test` leaves these tests out; `script/test --all` leaves out the two longest
(over its time, and 30 partitions), and takes about ten. A test that needs no cluster compares this page's expectations with the suite's.

*Failure recorded* means `<digest>.failed.json` beside where the output would be; *nothing*, that neither an output nor a failure is there.
The sensor does not ask again for either until its inputs or its code have changed: materialize it by hand. An *output* is one with a
verified `done.json`; what is *half-written* lies aside in a hidden folder, belongs to a job that runs, and goes with it.
"""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def page(observed: Mapping[str, str]) -> str:
    """The page, with what was observed of some faults."""
    rows = [_row([fault.title, *fault.expected.cells(), fault.then, observed.get(fault.title, NOT_YET)]) for fault in FAULTS.values()]
    return "\n".join([_TEXT, _row(_HEADER), _row(["---"] * len(_HEADER)), *rows, ""])


def table(text: str) -> list[list[str]]:
    """Cells of the rows of a page."""
    rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.splitlines() if line.startswith("| ")]
    return [[cell.replace("\\|", "|") for cell in row] for row in rows[2:]]


def write_observation(fault: Fault, words: str) -> None:
    """Put what was observed of a fault into the page, keeping what is there of the others."""
    observed = {row[0]: row[-1] for row in table(PAGE.read_text())} if PAGE.is_file() else {}
    PAGE.write_text(page({**observed, fault.title: words}))


def shortened(text: str, most: int = 300) -> str:
    """An error for a cell of the table, without the names that differ from run to run."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}", "…", " ".join(text.split()))
    text = re.sub(r"(/[\w.…-]+){3,}", "…", text)
    return text if len(text) <= most else text[: most - 1] + "…"
