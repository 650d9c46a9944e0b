"""One SLURM job, from its submission or from where an earlier run left it, to its end.

dagster-slurm's client does the work: the job script, its upload, sbatch, the messages of Pipes. What it takes for granted is replaced
here: which job a run may re-attach to, what silence means, when a job is cancelled, and that sacct decides (docs/slurm.md). It is
bound to the release whose private methods these are. Belongs here: supervising one job. Does not belong here: which requests a job
gets, or what follows from its end (``backend.py``).
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_slurm import BashLauncher, SlurmPipesClient, SlurmQueueConfig, SlurmResource
from dagster_slurm.helpers.ssh_pool import SSHConnectionPool

from perturbridge_dagster.payloads import slurm_payload_file
from perturbridge_dagster.payloads.handover import (
    REQUESTS_VARIABLE,
    died_of,
    forget_requests,
    payload_environment,
    write_requests,
)
from perturbridge_dagster.payloads.needs import Needs
from perturbridge_dagster.payloads.requests import Request, failure_of
from resources.progress import Progress
from resources.slurm import ledger
from resources.slurm.accounting import ENDED, Figures, failure_class, size, span
from resources.slurm.ledger import Job
from resources.slurm.scheduler import GONE, LostSightError, Outage, Scheduler, Unreachable, says_away, whole_text
from resources.slurm.settings import SlurmSettings

_FOREVER = 10 * 365 * 86400
"""Seconds. dagster-slurm would end a job after an hour, the time in the queue included; SLURM's own limit is enough."""

_SURE_SECONDS = 15
"""How long a controller that answers must say that it does not know a job before that is believed: it may just have come back."""

_CANCEL_SECONDS = 15
"""How long to try to cancel a job that the user has ended; the sweep tries again later."""


def close_job(home: Path, scheduler: Scheduler, job: Job, state: str) -> Job:
    """Record the end of a job that has ended, and remove what it needed.

    The folder of a job that did not complete stays, with its logs.

    Parameters
    ----------
    home
        The platform's home.
    scheduler
        Connection to SLURM.
    job
        The job, as last recorded.
    state
        Its last state by the controller, or :data:`~resources.slurm.scheduler.GONE`. Accounting, which may be late or wrong, does not
        overrule it, but may tell that the failure was one of memory.
    """
    recorded = ledger.job(home, job.job_id)
    if recorded is not None and recorded.has_ended and recorded.name == job.name:  # by another run that watched it
        return recorded
    figures = scheduler.figures(job.job_id)
    if figures is not None and figures.state not in ENDED:
        figures = None
    if state in ENDED:
        figures = figures or Figures(state)
        if not (state == "FAILED" and figures.state == "OUT_OF_MEMORY"):
            figures = replace(figures, state=state)
    completed = figures is not None and figures.state == "COMPLETED"
    log = "" if completed else scheduler.last_lines(job.directory, job.job_id)
    ended = job.with_end(figures, failure_class(figures, log), died_of=died_of(Path(job.requests_file)), log=log)
    ledger.record(home, ended)
    forget_requests(Path(job.requests_file))
    ledger.forget_watchers(home, job.job_id)
    if completed:
        scheduler.remove(job.directory)
    return ended


def _share_connection(pool: SSHConnectionPool) -> None:
    """Go back to one shared connection, which dagster-slurm gives up for good once it breaks: each question would log in anew."""
    if pool._fallback_mode and pool.config.supports_multiplexing:
        pool._fallback_mode = False
        pool.control_path = pool._prepare_control_path()
        pool._start_master()


class JobClient(SlurmPipesClient):  # type: ignore[misc]  # dagster_slurm ships no types
    """Makes requests in one SLURM job.

    Parameters
    ----------
    home
        The platform's home.
    settings
        Of SLURM.
    requests
        What to make. A job in progress that makes any of them is waited for; those that a job has already failed are not waited for.
    asked
        What to ask for where a job is submitted.
    partition
        SLURM partition; None is the cluster's default.
    """

    def __init__(self, home: Path, settings: SlurmSettings, requests: Sequence[Request], asked: Needs, partition: str | None) -> None:
        poll = settings.poll_seconds
        slurm = SlurmResource(
            ssh=settings.connection(),
            queue=SlurmQueueConfig(),
            remote_base=str(settings.folder),
            status_poll_interval_seconds=poll,
            status_poll_max_interval_seconds=3 * poll,
        )
        super().__init__(slurm, BashLauncher(), cleanup_on_failure=False, pre_deployed_env_path=str(settings.environment))
        self._home, self._settings, self._requests, self._asked, self._partition = home, settings, requests, asked, partition
        self._submission = ledger.submission_lock(home)
        self._held = ExitStack()
        self._seen: Path | None = None
        self._job: Job | None = None
        self._state = ""
        self._requests_file: Path | None = None
        self._gone_since: float | None = None
        self._progress: Progress | None = None

    # ---- from submission to end ------------------------------------------------------------------------------------------------

    def supervise(self, context: dg.OpExecutionContext) -> Job:
        """Submit the job, or find it in progress, and wait for its end.

        Parameters
        ----------
        context
            Of the op or asset that asks.

        Returns
        -------
        The job with its end, as it stands in the ledger.

        Raises
        ------
        dagster.Failure
            If SLURM refuses the job, or is silent for longer than the settings allow. In the second case the job is not cancelled; the
            next run that needs its outputs finds it.
        dagster.DagsterExecutionInterruptedError
            If the run is ended. The job is cancelled where a user ended the run, unless another run waits for it; it goes on where
            only this process is to stop.
        """
        self._op = context
        self._outage = Outage(self._settings.outage_seconds, context.log)
        try:
            with self._held:
                self._submission.acquire()
                self._held.callback(self._submission.release, force=True)
                return self._until_ended()
        except LostSightError as error:
            raise dg.Failure(self._lost_sight(str(error)), allow_retries=False) from error
        finally:
            if self._job is None and self._requests_file is not None:
                forget_requests(self._requests_file)

    def _until_ended(self) -> Job:
        while self._state not in (*ENDED, GONE):
            try:
                if self._job is None:
                    self._job = self._job_in_progress()
                self.run(
                    context=self._op,
                    payload_path=str(slurm_payload_file()),
                    extra_env=self._environment(),
                    poll_timeout=_FOREVER,
                    defer_cleanup=True,
                )
            except Unreachable as silence:
                self._outage.go_on(silence)
            except Exception as error:
                if self._is_run_canceling(self._op):
                    raise dg.DagsterExecutionInterruptedError from error
                if self._state in (*ENDED, GONE):
                    break
                if self._job is not None or not says_away(whole_text(error)):
                    raise self._failure(error) from error
                self._outage.go_on(error)  # SLURM may have taken the job all the same: it is looked for by its name
        assert self._job is not None, "an ended job is known"
        if self._progress is not None:  # what was told since the last look, before the end forgets it
            self._progress.show()
        with self._connection() as pool:
            return close_job(self._home, Scheduler(pool.run), self._job, self._state)

    def _connection(self) -> SSHConnectionPool:
        pool = SSHConnectionPool(self.slurm.ssh)
        self._attach_multiplexing_reporter(self._op, pool)
        return pool

    def _environment(self) -> dict[str, str]:
        if self._job is None and self._requests_file is None:
            self._requests_file = write_requests(self._home, self._op.run_id, self._requests)
        return {**payload_environment(self._home), REQUESTS_VARIABLE: str(self._requests_file or "")}

    def _job_in_progress(self) -> Job | None:
        """A job that makes some of what is wanted, by the ledger or, where its submitter died before it wrote there, by its name."""
        wanted = {request.digest for request in self._requests if failure_of(request) is None}
        name = ledger.job_name(self._home, self._requests[0].task, [request.digest for request in self._requests])
        with self._connection() as pool:
            scheduler = Scheduler(pool.run)
            known = ledger.jobs(self._home)
            for job in reversed(known):
                if job.has_ended or job.cancelled_for or wanted.isdisjoint(job.digests):
                    continue
                state = scheduler.state(job.job_id, job.name)
                if state not in (*ENDED, GONE):
                    self._op.log.info(f"{job.words} of run {job.run_id} makes this already; waiting for it")
                    return job
                close_job(self._home, scheduler, job, state)
            # where the answer to our own submission was lost, the job may have come to its end before the next look
            asked_before = self._requests_file is not None
            listed_jobs = scheduler.jobs(name, self._settings.user, ended=asked_before)
            submitted = [listed for listed in listed_jobs if asked_before or listed.state not in ENDED]
        recorded = {job.job_id for job in known if job.name == name}
        for listed in submitted:
            if listed.job_id not in recorded:
                self._op.log.info(f"SLURM job {listed.job_id} was submitted for this already; waiting for it")
                return self._new_job(listed.job_id, listed.directory)
        return None

    def _new_job(self, job_id: int, directory: str) -> Job:
        datasets, keys = ledger.names_of(self._requests)
        digests = tuple(request.digest for request in self._requests)
        stage = self._requests[0].task
        return Job(
            job_id,
            ledger.job_name(self._home, stage, digests),
            stage,
            self._op.run_id,
            digests,
            datasets,
            keys,
            self._asked.memory_bytes,
            self._asked.seconds,
            self._asked.cpus,
            self._asked.gpus,
            self._partition,
            directory,
            str(self._home / "requests" / f"{Path(directory).name}.json"),
            ledger.now(),
        )

    # ---- errors in words -------------------------------------------------------------------------------------------------------

    def _failure(self, error: Exception) -> dg.Failure:
        said = whole_text(error)
        if self._job is not None:
            text = f"{self._job.words} could not be watched any longer: {said}. It goes on, and the next run that needs it finds it."
        else:
            said = said.rpartition("stderr:")[2].strip() or said  # what goes before is the whole command line
            asked = f"{size(self._asked.memory_bytes)}, {self._asked.cpus} CPUs and {span(self._asked.seconds)}"
            advice = "`python -m resources.slurm.doctor` looks for what is wrong with the settings."
            text = f"SLURM did not take the job, which asked for {asked}: {said}\n{advice}"
        return dg.Failure(text, allow_retries=False)

    def _lost_sight(self, words: str) -> str:
        if self._job is None:
            return f"{words}\nNothing was submitted. Rematerialize when the login node is back."
        return (
            f"{words}\n{self._job.words} is not cancelled. Rematerialize when the login node is back: the run waits for the job, or takes "
            "what it made."
        )

    # ---- what dagster-slurm asks: identity -------------------------------------------------------------------------------------

    def _get_remote_run_dir(self, remote_base: str, run_id: str, op_context: Any) -> str:
        """A folder a job, named as its requests file, so that the removal of one try's folder cannot take away the next one's."""
        return self._job.directory if self._job else f"{remote_base}/{self._requests_file.stem if self._requests_file else run_id}"

    def _find_reattachable_job(self, op_context: Any, ssh_pool: Any, asset_key: str | None) -> dict[str, str] | None:
        """The job of the ledger that makes what is wanted; never one of a run's tags, which name an asset but no partition."""
        return None if self._job is None else {"job_id": str(self._job.job_id), "run_dir": self._job.directory}

    def _is_job_still_running(self, job_id: int, ssh_pool: Any) -> bool:
        """Always waited for: where it has ended meanwhile, its end is found at once."""
        return True

    def _store_job_tags(self, op_context: Any, job_id: int, run_dir: str, asset_key: str | None) -> None:
        """Record a job that was submitted or found, watch over it, and let others submit."""
        if not run_dir:  # dagster-slurm forgets a job so
            return
        job = self._job or self._new_job(job_id, run_dir)
        try:
            ledger.record(self._home, job)
        except OSError:  # the disk is full, say: a job that nobody could find again must not go on
            if self._job is None:
                Scheduler(self._ssh_pool.run).cancel(job_id)
            raise
        self._job = job
        if self._progress is None:
            self._progress = Progress(self._op, Path(job.requests_file))
        if self._seen is None:
            self._seen = self._held.enter_context(ledger.watch(self._home, job_id, self._op.run_id))
        self._submission.release(force=True)

    # ---- what dagster-slurm asks: the job's state ------------------------------------------------------------------------------

    def _get_job_state(self, job_id: int, ssh_pool: Any) -> str:
        """State of the job; outages are waited out, and silence is never an end."""
        assert self._job is not None
        scheduler = Scheduler(ssh_pool.run)
        while True:
            try:
                state = scheduler.state(job_id, self._job.name)
            except Unreachable as silence:
                self._heed_signals()
                self._outage.go_on(silence)
                continue
            if self._outage.over():
                _share_connection(ssh_pool)
            if state != GONE:
                self._gone_since = None
                break
            self._gone_since = self._gone_since or time.monotonic()
            if time.monotonic() - self._gone_since > _SURE_SECONDS:
                break
            time.sleep(1)
        if state in (*ENDED, GONE):
            self._state = state
            self._cancellation_requested = True  # there is nothing left to cancel
            return state if state == "COMPLETED" else "FAILED"
        return state if state in ("PENDING", "CONFIGURING", "COMPLETING") else "RUNNING"

    def _store_supervisor_heartbeat(self, op_context: Any, *, now: float | None = None, force: bool = False) -> None:
        """Called at each look at the job: note that it is watched, and stop if this process is to stop."""
        if self._seen is not None:
            self._seen.touch()
        if self._progress is not None:
            self._progress.show()
        self._heed_signals()

    def _heed_signals(self) -> None:
        """Stop if this process was told to.

        Raises
        ------
        dagster.DagsterExecutionInterruptedError
            If it was. A job whose run is not being ended by a user goes on.
        """
        if self._is_run_canceling(self._op):
            if self._job is not None:
                self._cancel_slurm_job(self._job.job_id)
            raise dg.DagsterExecutionInterruptedError
        if self._sigterm_received:
            if self._job is not None:
                self._op.log.warning(f"This process is to stop; {self._job.words} goes on, and the next run that needs it finds it")
            raise dg.DagsterExecutionInterruptedError

    # ---- what dagster-slurm asks: the end --------------------------------------------------------------------------------------

    def _is_run_canceling(self, op_context: Any) -> bool:
        """Whether a user has ended the run, by force or not."""
        try:
            run = self._op.instance.get_run_by_id(self._op.run_id)
        except Exception as error:  # noqa: BLE001 - a database that is away must not end a job
            self._op.log.debug(f"the state of the run is not known: {error}")
            return False
        return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)

    def _cancel_slurm_job(self, job_id: int) -> None:
        """Cancel a job whose run a user has ended, unless another run waits for it. After any other error it goes on."""
        if self._job is None or self._job.cancelled_for or self._state or not self._is_run_canceling(self._op):
            return
        if others := [run for run in ledger.watchers(self._home, job_id) if run != self._op.run_id]:
            self._op.log.info(f"{self._job.words} goes on: run {', '.join(others)} waits for it")
            return
        self._job = replace(self._job, cancelled_for=f"run {self._op.run_id} was ended")
        ledger.record(self._home, self._job)  # first: what cannot be told now, the sweep tells later
        until = time.monotonic() + _CANCEL_SECONDS
        with self._connection() as pool:
            while True:
                try:
                    Scheduler(pool.run).cancel(job_id)
                except Unreachable as silence:
                    if time.monotonic() > until:
                        self._op.log.error(f"{self._job.words} could not be cancelled now; the orphan sweep will do it. {silence}")
                        return
                    time.sleep(1)
                else:
                    self._op.log.info(f"{self._job.words} is cancelled")
                    return

    def _attach_multiplexing_reporter(self, context: Any, ssh_pool: Any) -> None:
        """Keep each command line out of the run's log: there is one every few seconds, for hours."""
        super()._attach_multiplexing_reporter(context, ssh_pool)
        ssh_pool.logger = logging.getLogger("perturbridge.ssh")

    def _validate_final_slurm_outcome(self, job_id: int, ssh_pool: Any) -> None:
        """Nothing: not sacct but the outputs on disk say whether requests were made."""

    def _collect_and_emit_metrics(self, *arguments: Any, **options: Any) -> None:
        """Nothing: the ledger has the figures, and each output's materialization shows them."""

    def _raise_if_pipes_process_failed(self, message_reader: Any, *, job_id: int) -> None:
        """Nothing, as above."""

    def _maybe_emit_final_logs(
        self,
        message_reader: Any,
        ssh_pool: Any,
        run_dir: str,
        job_id: int,
        op_context: Any = None,
        stdout_path: str | None = None,
        stderr_path: str | None = None,
    ) -> None:
        """Put what the payload printed into the run's log, in one entry; dagster-slurm would print it to this process's terminal."""
        said = Scheduler(ssh_pool.run).last_lines(run_dir, job_id, lines=200).rpartition("Launching payload...")[2].strip()
        if said:
            self._op.log.debug(f"SLURM job {job_id} printed:\n{said}")

    # ---- what dagster-slurm asks: commands -------------------------------------------------------------------------------------

    def _build_tail_command(self, remote_path: str) -> list[str]:
        """Do not follow the job's stdout and stderr: what a payload says comes by Pipes, and each would hold an ssh session."""
        return ["true"]

    def _build_sbatch_command(
        self,
        job_name: str,
        working_dir: str,
        output_file: str,
        error_file: str,
        script_path: str,
        extra_opts: dict[str, Any] | None = None,
    ) -> str:
        """The command line of sbatch.

        No requeueing by SLURM: what is tried again, and with what, is decided in one place, from what is on disk.
        """
        asked, settings = self._asked, self._settings
        options = {
            "job-name": ledger.job_name(self._home, self._requests[0].task, [request.digest for request in self._requests]),
            "comment": f"Dagster run {self._op.run_id}",
            "chdir": working_dir,
            "output": output_file,
            "error": error_file,
            "partition": self._partition,
            "account": settings.account,
            "qos": settings.qos,
            "nodes": 1,
            "ntasks": 1,
            "cpus-per-task": asked.cpus,
            "mem": f"{-(-asked.memory_bytes // 2**20)}M",
            "time": max(1, -(-int(asked.seconds) // 60)),
            "gres": f"gpu:{asked.gpus}" if asked.gpus else None,
        }
        words = [f"--{name}={value}" for name, value in options.items() if value is not None]
        return shlex.join(["sbatch", "--no-requeue", *words, script_path])
