"""Requests made by SLURM jobs, until each has an outcome or it is known why none can be had.

One job at a time for what is still missing. After a failure that more memory, more time or another node may mend, it is tried again so;
a request that a job died of is recorded as failed, and the others go on without it. Belongs here: what a job asks for, and what follows
from its end. Does not belong here: supervising a job (``client.py``), or what its end is called (``accounting.py``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg

from perturbridge_dagster.payloads.needs import Needs, joint, needs_of
from perturbridge_dagster.payloads.requests import Request, failure_of, record_failure, verified
from resources.slurm.accounting import RETRIED, Failure, explain, size, span
from resources.slurm.client import JobClient
from resources.slurm.ledger import Job, dataset_of
from resources.slurm.settings import SlurmSettings

TRIES = 3
"""Jobs that may die of one request, and jobs in a row that may be ended by a node or by preemption."""

_VISIBLE_SECONDS = 60
"""How long outputs of a job that completed may take to be seen from this machine: network file systems remember what was not there."""


def asked_for(request: Request, settings: SlurmSettings) -> tuple[Needs, str | None]:
    """What a request needs, by the estimate and what the settings put in its place, and the partition it is to run in.

    Parameters
    ----------
    request
        The request.
    settings
        Of SLURM.
    """
    needs, override = needs_of(request), settings.override(request.task, dataset_of(request))
    if override.memory_gib is not None:
        needs = replace(needs, memory_bytes=round(override.memory_gib * 2**30))
    if override.minutes is not None:
        needs = replace(needs, seconds=60 * override.minutes)
    if override.cpus is not None:
        needs = replace(needs, cpus=override.cpus)
    if override.gpus is not None:
        needs = replace(needs, gpus=override.gpus)
    return needs, override.partition or (settings.gpu_partition if needs.gpus else None) or settings.partition


def capped(needs: Needs, settings: SlurmSettings) -> Needs:
    """Needs, as far as the settings allow."""
    return replace(
        needs,
        memory_bytes=min(needs.memory_bytes, round(settings.max_memory_gib * 2**30)),
        seconds=min(needs.seconds, 3600 * settings.max_hours),
        cpus=min(needs.cpus, settings.max_cpus),
    )


class SlurmBackend:
    """Makes requests in SLURM jobs.

    Parameters
    ----------
    home
        The platform's home: one path on this machine, the login node and the nodes.
    settings
        Of SLURM.
    """

    def __init__(self, home: Path, settings: SlurmSettings) -> None:
        self._home, self._settings = home, settings

    def run(self, context: dg.OpExecutionContext, requests: Sequence[Request]) -> None:
        """Have every request made, or recorded as failed.

        Parameters
        ----------
        context
            Of the op that asks.
        requests
            Of one task, none of them with a verified output.

        Raises
        ------
        dagster.Failure
            If jobs cannot be had or end for reasons that are not the requests': refused, cancelled by somebody, ended by nodes again and
            again, or dead before they began. What was made stays.
        """
        damaged = {request.digest for request in requests if verified(request, deep=False) is not None}
        failed_before = {request.digest for request in requests if failure_of(request) is not None}
        died: Counter[str] = Counter()
        interrupted, raised = 0, Needs(0, 0.0, 0)

        def unmade(request: Request) -> bool:
            made = verified(request, deep=request.digest in damaged) is not None
            return not made and (failure_of(request) is None or request.digest in failed_before)

        while left := [request for request in requests if unmade(request)]:
            job = self._job(context, left, raised)
            failed_before -= set(job.digests)
            mine = [request for request in left if request.digest in job.digests]
            if not any(unmade(request) for request in mine):
                continue
            if job.failure is None:
                self._await_visible([request for request in mine if unmade(request)], job)
                continue
            asked = _asked(job)
            if job.failure in ("node_failure", "preempted", "unknown"):
                interrupted += 1
                if interrupted >= TRIES:
                    raise _failure(job, f"{TRIES} jobs in a row ended so.")
                context.log.warning(f"{job.words}: {job.failure.replace('_', ' ')}; trying again with the same")
                continue
            interrupted = 0
            if job.failure == "cancelled" and job.cancelled_for:
                continue  # for another run, which this one need not follow
            if job.failure not in RETRIED and (job.died_of is None or job.failure == "cancelled"):
                raise _failure(job, "" if job.failure == "cancelled" else "It ended before it began to make anything.")
            culprit = next((request for request in mine if request.digest == (job.died_of or job.digests[0])), None)
            if culprit is None:
                continue  # another run's request; that run tells of it
            died[culprit.digest] += 1
            more = capped(asked.raised(job.failure), self._settings) if job.failure in RETRIED else asked
            alone = culprit.digest == job.digests[0]  # what it was given, it had to itself
            if job.failure not in RETRIED or died[culprit.digest] >= TRIES or (more == asked and alone):
                record_failure(culprit, self._words(job, died[culprit.digest]))
                raised = Needs(0, 0.0, 0)
            else:
                raised = more
                context.log.warning(f"{job.words}: {job.failure.replace('_', ' ')}; trying again with {_in_words(more)}")

    def _job(self, context: dg.OpExecutionContext, requests: Sequence[Request], raised: Needs) -> Job:
        """Run a job for as many of the requests as can share one; at least as much memory and time as what is raised."""
        each = [asked_for(request, self._settings) for request in requests]
        partition = each[0][1]
        together = [(request, needs) for request, (needs, of) in zip(requests, each, strict=True) if of == partition]
        needs = joint(needs for _, needs in together)
        needs = replace(needs, memory_bytes=max(needs.memory_bytes, raised.memory_bytes), seconds=max(needs.seconds, raised.seconds))
        needs = capped(needs, self._settings)
        context.log.info(f"{len(together)} requests for one SLURM job, with {_in_words(needs)}")
        client = JobClient(self._home, self._settings, [request for request, _ in together], needs, partition)
        return client.supervise(context)

    def _await_visible(self, requests: Sequence[Request], job: Job) -> None:
        """Wait until this machine sees what a completed job has made.

        Raises
        ------
        dagster.Failure
            If it does not.
        """
        until = time.monotonic() + _VISIBLE_SECONDS
        while unseen := [request for request in requests if verified(request) is None and failure_of(request) is None]:
            if time.monotonic() > until:
                raise dg.Failure(
                    f"{job.words} completed, but this machine does not see what it made in {unseen[0].output.parent}. The home must be one "
                    "file system on this machine and on the nodes; `python -m resources.slurm.doctor` looks whether it is.",
                    allow_retries=False,
                )
            time.sleep(1)
            for request in unseen:
                list(request.output.parent.glob("*"))  # makes a network file system look again

    def _words(self, job: Job, tries: int) -> str:
        """What a request failed of, for a person."""
        assert job.failure is not None
        limits = []
        if job.failure == "out_of_memory" and job.asked_memory_bytes >= round(self._settings.max_memory_gib * 2**30):
            limits.append(f"max_memory_gib of [slurm] allows no more than {self._settings.max_memory_gib:g} GiB.")
        if job.failure == "timeout" and job.asked_seconds >= 3600 * self._settings.max_hours:
            limits.append(f"max_hours of [slurm] allows no more than {self._settings.max_hours:.3g} h.")
        return _explained(job, job.failure, [*([f"Tried {tries} times."] if tries > 1 else []), *limits])


def _asked(job: Job) -> Needs:
    return Needs(job.asked_memory_bytes, job.asked_seconds, job.asked_cpus, job.asked_gpus)


def _in_words(needs: Needs) -> str:
    gpus = f", {needs.gpus} GPUs" if needs.gpus else ""
    return f"{size(needs.memory_bytes)}, {span(needs.seconds)}, {needs.cpus} CPUs{gpus}"


def _explained(job: Job, failure: Failure, more: Sequence[str]) -> str:
    used = []
    if job.peak_memory_bytes is not None:
        used.append(f"used {size(job.peak_memory_bytes)} of {size(job.asked_memory_bytes)} memory")
    else:
        used.append(f"asked for {size(job.asked_memory_bytes)} memory")
    if job.elapsed_seconds is not None:
        used.append(f"ran {span(job.elapsed_seconds)} of {span(job.asked_seconds)}")
    if job.exit_status or job.exit_signal:
        used.append(f"ended with {f'signal {job.exit_signal}' if job.exit_signal else f'status {job.exit_status}'}")
    return explain(failure, job.words, [f"It {', '.join(used)}.", *more, f"Its folder is {job.directory}."], job.log)


def _failure(job: Job, why: str) -> dg.Failure:
    """A failure that is no request's fault."""
    failure = job.failure or "unknown"
    metadata: dict[str, dg.MetadataValue | str | int | float] = {
        "slurm_job": job.job_id,
        "failure_class": failure,
        "slurm_state": job.state,
    }
    if job.peak_memory_bytes is not None:
        metadata["peak_memory_MiB"] = round(job.peak_memory_bytes / 2**20)
    return dg.Failure(_explained(job, failure, [why] if why else []), metadata=metadata, allow_retries=False)
