"""The orphan sweep: jobs of this home that no process watches over any more.

Runs as ``python -m resources.slurm.orphans``, and as a Dagster sensor. A job is an orphan when its run was terminated by force, or its
process died and no run came to wait for it within the grace period, or when it was never noted. Only jobs whose name begins as this
home's do are looked at, and one that a live process watches is never touched. Belongs here: which jobs are orphans. Does not belong
here: what is recorded of jobs (``ledger.py``), or talking to SLURM (``scheduler.py``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import dagster as dg
from filelock import Timeout

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.home import default_home
from resources.slurm import ledger
from resources.slurm.accounting import ENDED, span
from resources.slurm.ledger import Job
from resources.slurm.scheduler import GONE, Scheduler, Unreachable
from resources.slurm.settings import SlurmSettings, slurm_settings

GRACE_SECONDS = 3600.0
"""How long a job whose process died may go on alone: a run that needs what it makes waits for it instead of submitting another."""

KEPT_DAYS = 14
"""How long the folder of a job that failed is kept."""


@dataclass(frozen=True)
class Swept:
    """What the sweep did about a job.

    Attributes
    ----------
    job_id
        The job.
    did
        ``cancelled``; ``closed``, since it had ended while nobody watched; ``left`` to the grace period.
    why
        Reason, in words.
    """

    job_id: int
    did: Literal["cancelled", "closed", "left"]
    why: str


def sweep(
    home: Path,
    settings: SlurmSettings,
    instance: dg.DagsterInstance,
    *,
    grace_seconds: float = GRACE_SECONDS,
    dry_run: bool = False,
) -> list[Swept]:
    """Look at all jobs of a home; cancel the orphans, and record the end of those that ended unwatched.

    Parameters
    ----------
    home
        The platform's home.
    settings
        Of SLURM.
    instance
        Dagster instance that records the home's runs.
    grace_seconds
        How long a job whose process died is left alone.
    dry_run
        Whether only to say what would be done.

    Returns
    -------
    What was done; nothing about jobs that are watched.

    Raises
    ------
    Unreachable
        If SLURM does not answer.
    """
    from dagster_slurm.helpers.ssh_pool import SSHConnectionPool

    lock = ledger.submission_lock(home)
    try:
        lock.acquire(timeout=0)
    except Timeout:  # a run is about to submit a job, or to find one; what it does not find is an orphan a minute later, too
        return []
    try:
        with SSHConnectionPool(settings.connection()) as pool:
            scheduler = Scheduler(pool.run)
            found = [
                *_noted(home, scheduler, instance, grace_seconds, dry_run),
                *_unnoted(home, scheduler, settings.user, dry_run),
            ]
            if not dry_run:
                _remove_old_folders(home, scheduler)
            return found
    finally:
        lock.release()


def _noted(home: Path, scheduler: Scheduler, instance: dg.DagsterInstance, grace_seconds: float, dry_run: bool) -> Iterator[Swept]:
    """Jobs of the ledger that have not ended there."""
    from resources.slurm.client import close_job

    for job in ledger.jobs(home):
        if job.has_ended or ledger.watchers(home, job.job_id):
            continue
        state = scheduler.state(job.job_id, job.name)
        if state in (*ENDED, GONE):
            if not dry_run:
                close_job(home, scheduler, job, state)
            yield Swept(job.job_id, "closed", f"had ended: {state}")
            continue
        why = job.cancelled_for or _why_orphan(home, job, instance, grace_seconds)
        if why is None:
            yield Swept(job.job_id, "left", f"unwatched for {span(_unwatched(home, job))}; a run that needs it may still come")
            continue
        if not dry_run:
            ledger.record(home, replace(job, cancelled_for=why))
            scheduler.cancel(job.job_id)
        yield Swept(job.job_id, "cancelled", why)


def _unnoted(home: Path, scheduler: Scheduler, user: str, dry_run: bool) -> Iterator[Swept]:
    """Jobs in the queue that the ledger does not have: the process died between sbatch and the ledger."""
    noted = {(job.job_id, job.name) for job in ledger.jobs(home)}
    for listed in scheduler.jobs(ledger.name_prefix(home), user):
        if listed.state not in ENDED and (listed.job_id, listed.name) not in noted:
            if not dry_run:
                scheduler.cancel(listed.job_id)
            yield Swept(listed.job_id, "cancelled", "its process died before it noted the job")


def _unwatched(home: Path, job: Job) -> float:
    """Seconds since a job was last watched, or submitted."""
    since_submission = (datetime.now(UTC) - datetime.fromisoformat(job.submitted)).total_seconds()
    return min(ledger.seconds_unwatched(home, job.job_id), since_submission)


def _why_orphan(home: Path, job: Job, instance: dg.DagsterInstance, grace_seconds: float) -> str | None:
    """Why a job that nobody watches is an orphan; None while a run may still come for it."""
    run_id = ledger.last_watcher(home, job.job_id) or job.run_id
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED):
        return f"run {run_id} was terminated"
    if _unwatched(home, job) > grace_seconds:
        return f"the process of run {run_id} died, and no run came for {span(_unwatched(home, job))}"
    return None


def _remove_old_folders(home: Path, scheduler: Scheduler) -> None:
    """Remove the folders of jobs that failed long ago."""
    before = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
    for job in ledger.jobs(home):
        if job.ended is not None and job.directory and job.state != "COMPLETED" and datetime.fromisoformat(job.ended) < before:
            scheduler.remove(job.directory)
            ledger.record(home, replace(job, directory=""))


def main(arguments: list[str] | None = None) -> int:
    """Sweep from the command line; 1 where SLURM does not answer or the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m resources.slurm.orphans", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--grace-minutes", type=float, default=GRACE_SECONDS / 60, help="how long a job whose process died is left alone (%(default)g)"
    )
    options = parser.parse_args(arguments)
    from assets.materialize import dagster_instance, prepare_home

    home = default_home()
    try:
        settings = slurm_settings(home)
        prepare_home(home)
        with dagster_instance(home) as instance:
            found = sweep(home, settings, instance, grace_seconds=60 * options.grace_minutes, dry_run=options.dry_run)
    except (PerturbridgeError, Unreachable) as error:
        print(error, file=sys.stderr)
        return 1
    for one in found:
        print(f"SLURM job {one.job_id} {'would be ' if options.dry_run else ''}{one.did}: {one.why}")
    if not found:
        print("No orphans: every job of this home is watched, or has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
