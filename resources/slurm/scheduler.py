"""Asking SLURM, through ssh: what a job does, which jobs are ours, what a job used; and telling it to cancel one.

An answer is told apart from silence: a controller or a login node that is away raises :class:`Unreachable` and is never taken for
"there is no such job". Belongs here: the command lines and reading their answers. Does not belong here: what is done about them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resources.slurm.accounting import ENDED, SACCT_FIELDS, Figures, first_word, read_sacct, read_scontrol, span

ANSWER_SECONDS = 60
"""How long a command on the login node may take. A controller that is away answers after about 10 s that it is."""

LATE_SECONDS = 10
"""How long after a job's end its figures are waited for."""

GONE = "GONE"
"""In place of a state: the controller answers and does not know the job, and accounting does not say how it ended."""

_AWAY = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|reset|closed|timed out|aborted)|connect failure|zero bytes"
    r"|operation timed out|lost connection|broken pipe|no route to host|could not resolve hostname|network is unreachable"
    r"|communication (connection )?failure|slurm_?ctld.*(backup|standby)|temporarily unable|unexpected message received"
    r"|failed \(exit 255\)|\(exit 255\)|failed to start ssh master|insane message length",
    re.IGNORECASE,
)
"""Words of ssh, and of SLURM's commands, when the other side is away. The request may have been carried out all the same."""

_NO_SUCH_JOB = re.compile(r"invalid job id|already completing or completed", re.IGNORECASE)


class Unreachable(Exception):
    """The login node or the controller does not answer."""


def says_away(text: str) -> bool:
    """Whether the text of a failed command says that the other side is away rather than that it refuses."""
    return bool(_AWAY.search(text))


def whole_text(error: BaseException) -> str:
    """What an error says, and those it came of: dagster-slurm hides ssh's words behind its own."""
    texts = [str(error).strip()]
    while (cause := error.__cause__) is not None:
        texts.append(str(cause).strip())
        error = cause
    return "; ".join(dict.fromkeys(filter(None, texts)))


class LostSightError(BaseException):
    """Nothing is known of a job for too long. Not an Exception: dagster-slurm cancels the job on any of those."""


class Outage:
    """Waits while the other side is silent, and gives up in the end.

    Parameters
    ----------
    limit
        How long to wait. Unit: seconds.
    log
        Log of the run.
    """

    def __init__(self, limit: float, log: Any) -> None:
        self._limit, self._log = limit, log
        self._since: float | None = None

    def go_on(self, silence: object) -> None:
        """Wait a little.

        Raises
        ------
        LostSightError
            If the silence has lasted too long.
        """
        if self._since is None:
            self._since = time.monotonic()
            self._log.warning(f"SLURM does not answer; waiting up to {span(self._limit)} for it. {str(silence)[-400:]}")
        silent = time.monotonic() - self._since
        if silent > self._limit:
            raise LostSightError(f"SLURM has not answered for {span(silent)}. {str(silence)[-400:]}")
        time.sleep(min(1 + silent / 10, 15))

    def over(self) -> bool:
        """Note that there was an answer; whether it had to be waited for."""
        if self._since is None:
            return False
        self._log.info(f"SLURM answers again after {span(time.monotonic() - self._since)}")
        self._since = None
        return True


@dataclass(frozen=True)
class Listed:
    """A job as squeue lists it.

    Attributes
    ----------
    job_id, name, directory
        Number, name, and working folder.
    state
        First word of its state.
    """

    job_id: int
    state: str
    name: str
    directory: str


class Scheduler:
    """SLURM on the other side of an ssh connection.

    Parameters
    ----------
    run
        Runs a shell line on the login node within some seconds and returns what it printed (``SSHConnectionPool.run``).
    """

    def __init__(self, run: Callable[..., str]) -> None:
        self._run = run

    def _answer(self, command: str) -> tuple[int, str]:
        """Exit status of a command and what it said on both streams."""
        try:
            said = self._run(f"timeout {ANSWER_SECONDS - 10} {command} 2>&1; status=$?; echo; echo status=$status", timeout=ANSWER_SECONDS)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(str(error).strip()) from error
        text, mark, status = said.rpartition("status=")
        if not mark or not status.strip().isdigit():
            raise Unreachable(f"the answer broke off: {said[-200:]}")
        return int(status), text.strip()

    def _controller(self, command: str) -> str:
        """What the controller says; an error that is not about an unknown job is silence."""
        status, text = self._answer(command)
        if status and not _NO_SUCH_JOB.search(text):
            raise Unreachable(text or f"{command.split()[0]} ended with status {status}")
        return "" if status else text

    def state(self, job_id: int, name: str) -> str:
        """State of a job.

        Parameters
        ----------
        job_id
            Its number.
        name
            Its name. A job of the same number and another name, after a cluster was set up anew, is not taken for it.

        Returns
        -------
        First word of the state by the controller; where that does not know the job any more, by accounting if the job has ended there;
        else :data:`GONE`. Accounting is not asked while the controller knows the job: it may be late, or wrong.

        Raises
        ------
        Unreachable
            If the login node or the controller does not answer.
        """
        for line in self._controller(f"squeue --noheader --states=all --jobs={job_id} --format='%T|%j'").splitlines():
            state, _, named = line.strip().partition("|")
            if named == name and (word := first_word(state)):
                return word
        status, text = self._answer(f"sacct --allocations --noheader --parsable2 --jobs={job_id} --format=JobName%200,State")
        for line in text.splitlines() if not status else []:
            named, _, state = line.strip().rpartition("|")
            if named == name and first_word(state) in ENDED:
                return first_word(state)
        return GONE

    def jobs(self, prefix: str, user: str, *, ended: bool = False) -> list[Listed]:
        """Jobs in the queue whose name begins so; some may have ended a moment ago.

        Parameters
        ----------
        prefix, user
            Beginning of the name, and whose jobs.
        ended
            Whether to list those, too, that the controller remembers although they have ended.

        Raises
        ------
        Unreachable
            If the login node or the controller does not answer.
        """
        states = "--states=all " if ended else ""
        said = self._controller(f"squeue --noheader {states}--user={shlex.quote(user)} --format='%A|%T|%j|%Z'")
        rows = [line.strip().split("|", 3) for line in said.splitlines()]
        return [
            Listed(int(row[0]), first_word(row[1]), row[2], row[3])
            for row in rows
            if len(row) == 4 and row[0].isdigit() and row[2].startswith(prefix)
        ]

    def figures(self, job_id: int) -> Figures | None:
        """What accounting says of a job that has ended, else what the controller still knows; None where neither answers.

        Accounting hears of an end some seconds late; that is waited for, unless accounting does not answer at all.
        """
        until = time.monotonic() + LATE_SECONDS
        try:
            while True:
                status, text = self._answer(f"sacct --noheader --parsable2 --jobs={job_id} --format={','.join(SACCT_FIELDS)}")
                if not status and (figures := read_sacct(text, job_id)) is not None and figures.state in ENDED:
                    return figures
                if status or time.monotonic() > until:
                    break
                time.sleep(1)
            status, text = self._answer(f"scontrol --oneliner show job {job_id}")
            return None if status else read_scontrol(text)
        except Unreachable:
            return None

    def cancel(self, job_id: int) -> None:
        """Cancel a job. One that is unknown or has ended is left as it is.

        Raises
        ------
        Unreachable
            If the login node or the controller does not answer: the job may go on.
        """
        self._controller(f"scancel {job_id}")

    def last_lines(self, directory: str, job_id: int, lines: int = 30) -> str:
        """Last lines of a job's log: what it said on standard error, or on standard output where it said nothing there."""
        paths = [shlex.quote(f"{directory}/slurm-{job_id}.{stream}") for stream in ("err", "out")]
        try:
            status, text = self._answer(
                f"bash -c {shlex.quote(' || '.join(f'(test -s {path} && tail -n {lines} {path})' for path in paths))}"
            )
        except Unreachable:
            return ""
        return "" if status else text

    def remove(self, directory: str) -> None:
        """Remove a job's folder; what cannot be removed now stays."""
        try:
            self._answer(f"rm -rf {shlex.quote(directory)}")
        except Unreachable:
            return
