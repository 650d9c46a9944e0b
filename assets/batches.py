"""Batches: many partitions of a stage, computed together and recorded one by one.

A run of Dagster and a job of a cluster cost seconds, which is more than many a stratum takes to fit. So partitions share them: a run of
``materialize_batch`` asks the compute seam once for all that its partitions lack, then records each partition by a short run in its own
process, which adopts the output. Every partition has its own run, materialization, checks and failure, and can be run again alone. The
sensor, ``assets.materialize`` and whoever opens the launchpad use this one way. Belongs here: what goes together, and that job. Does not
belong here: which partitions are stale (``planning``), what they need (``payloads/needs.py``) or where they run (``compute.py``).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.making import Inputs
from assets.partitions import key_to_partition, register_datasets
from assets.planning import Part, Planner
from assets.presentation import table_metadata
from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.payloads.needs import needs_of
from perturbridge_dagster.payloads.requests import Outcome, Request, failure_of, verified
from perturbridge_dagster.registry import PAIR_SEPARATOR
from perturbridge_dagster.stages import STAGES
from resources.compute import Compute
from resources.slurm.settings import batch_seconds
from resources.store import Key, Store

JOBS = {
    stage: dg.define_asset_job(
        f"materialize_{stage}", selection=dg.AssetSelection.assets(stage), description=f"One partition of {stage}, with its checks."
    )
    for stage in STAGES
}
"""Stage → job for one of its partitions; a job must not mix partitions of different kinds."""

_FRUITLESS = 3

BATCH_TAG = "perturbridge/batch"
"""Tag of the run of a partition: the run of the batch that computed it."""


# ---- what goes together ------------------------------------------------------------------------------------------------------


def partition_name(stage: str, key: Key) -> str:
    """A partition in one word: as Dagster writes it, or the key of the one output of an asset without partitions."""
    return str(key_to_partition(stage, key) or " ".join(key))


def of_datasets(keys: Iterable[Key], datasets: Sequence[str]) -> list[Key]:
    """The keys of some datasets, and of pairs of them; all keys where no dataset is named."""
    return [key for key in keys if not datasets or key[0] in datasets or all(name in datasets for name in key[0].split(PAIR_SEPARATOR))]


def _lacking(parts: Iterable[Part]) -> list[Request]:
    """Requests whose output is not there. Its files are compared whole when it is adopted, not here."""
    return [part.request for part in parts if verified(part.request, deep=False) is None]


def _planned(planner: Planner, stage: str, key: Key) -> list[Part]:
    """Parts of a partition; none where it cannot be planned, since its own run meets the same refusal, and says so."""
    try:
        return planner.plan(stage, key)
    except PerturbridgeError:
        return []


def in_batches(planner: Planner, stage: str, keys: Iterable[Key], most_seconds: float) -> list[list[Key]]:
    """Divide partitions of a stage into batches.

    Partitions go together that ask for about as much memory (within a factor of two) and the same CPUs and GPUs, in the order given,
    while what they ask for together stays within `most_seconds`. One that asks for more has a batch to itself.

    Parameters
    ----------
    planner
        Plans the partitions.
    stage
        Name of the stage.
    keys
        The partitions.
    most_seconds
        Time that a batch may ask for. Unit: seconds.
    """
    alike: dict[tuple[int, int, int], list[tuple[Key, float]]] = defaultdict(list)
    for key in keys:
        needs = [needs_of(request) for request in _lacking(_planned(planner, stage, key))]
        size = (
            math.ceil(math.log2(max((one.memory_bytes for one in needs), default=1))),
            max((one.cpus for one in needs), default=0),
            max((one.gpus for one in needs), default=0),
        )
        alike[size].append((key, sum(one.seconds for one in needs)))
    batches = []
    for of_size in alike.values():
        together: list[Key] = []
        seconds = 0.0
        for key, its_seconds in of_size:
            if together and seconds + its_seconds > most_seconds:
                batches.append(together)
                together, seconds = [], 0.0
            together.append(key)
            seconds += its_seconds
        batches.append(together)
    return batches


# ---- the job -----------------------------------------------------------------------------------------------------------------


class BatchInputs(Inputs):
    """Run configuration of a batch."""

    stage: str = Field(description=f"Stage to materialize: {', '.join(STAGES)}.")
    partitions: list[str] = Field(
        default=[], description="Partitions, as the asset's page writes them. Without any, all that are not current and could be computed."
    )
    datasets: list[str] = Field(default=[], description="Only partitions of these datasets, and of pairs of them. Without any, of all.")


@dataclass(frozen=True)
class _Recorder:
    """Stands in for the compute resource in the run that records a partition: hands out what its batch came to.

    A request that failed in the batch is not tried again, and an output is not read again to compare it. A request that the batch
    did not have, since its output was there already or inputs changed meanwhile, goes to the compute resource itself.
    """

    compute: Compute
    outcomes: dict[str, Outcome]

    def ensure(self, context: dg.AssetExecutionContext, task: str, requests: Sequence[Request]) -> list[Outcome]:
        """Outcomes of the batch and, where it did not have a request, of the compute resource; in the order of the requests."""
        others = [request for request in requests if request.digest not in self.outcomes]
        found = {outcome.request.digest: outcome for outcome in self.compute.ensure(context, task, others)} if others else {}
        return [(self.outcomes | found)[request.digest] for request in requests]


def compute_together(context: dg.OpExecutionContext, compute: Compute, stage: str, requests: Sequence[Request]) -> dict[str, Outcome]:
    """Outcomes of requests by digest, all from as few payloads as can be.

    What was not begun because the payload died of an earlier request is asked for again, until payloads die without having made
    anything (:data:`_FRUITLESS` in a row): then it is not the requests that are wrong.

    Parameters
    ----------
    context
        Of the run.
    compute
        Where payloads run.
    stage
        Task of all requests.
    requests
        What to compute.
    """
    outcomes: dict[str, Outcome] = {}
    left, fruitless = list(requests), 0
    while left and fruitless < _FRUITLESS:
        found = compute.ensure(context, stage, left)
        outcomes |= {outcome.request.digest: outcome for outcome in found}
        fruitless = 0 if any(outcome.status != "failed" for outcome in found) else fruitless + 1
        left = [one.request for one in found if one.status == "failed" and failure_of(one.request) is None]
    return outcomes


def _chosen(planner: Planner, config: BatchInputs) -> list[Key]:
    """The partitions that a batch is to have."""
    if config.stage not in STAGES:
        raise InputError(f"there is no stage {config.stage!r}", column="stage", expected=f"one of {', '.join(STAGES)}")
    keys = {partition_name(config.stage, key): key for key in planner.keys(config.stage)}
    if unknown := [name for name in config.partitions if name not in keys]:
        raise InputError(
            f"{config.stage} has no partition {', '.join(unknown)}",
            column="partitions",
            expected=f"some of {', '.join(keys) or 'none yet'}",
        )
    if config.partitions:
        return of_datasets((keys[name] for name in dict.fromkeys(config.partitions)), config.datasets)
    states = {key: planner.state(config.stage, key)[0] for key in of_datasets(keys.values(), config.datasets)}
    return [key for key, state in states.items() if state not in ("current", "waiting")]


def _record(
    context: dg.OpExecutionContext, job: dg.JobDefinition, stage: str, key: Key, recorder: _Recorder, *, allow_unaccepted: bool
) -> dg.ExecuteInProcessResult:
    """Materialize a partition and run its checks in a run of its own, in this process.

    Raises
    ------
    dagster.DagsterExecutionInterruptedError
        If that run was interrupted, as the batch then is.
    """
    result = job.execute_in_process(
        partition_key=key_to_partition(stage, key),
        run_config=dg.RunConfig(
            ops={stage: Inputs(allow_unaccepted=allow_unaccepted)},
            # what a run says is kept in the instance and shown by the UI; the log of the batch has a line of its own for it
            loggers={"console": {"config": {"log_level": "CRITICAL"}}},
        ),
        instance=context.instance,
        resources={"compute": recorder},
        tags={BATCH_TAG: context.run_id},
        raise_on_error=False,
    )
    if is_interrupted(result):
        raise dg.DagsterExecutionInterruptedError(f"{stage} {' '.join(key)} was interrupted")
    return result


def is_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run ended because somebody wanted its process to end; the run itself only says that it failed."""
    if result.success:
        return False
    failed = result.get_run_failure_event().job_failure_data
    return bool(failed and failed.failure_reason and failed.failure_reason.value == "UNEXPECTED_TERMINATION")


BATCH = "batch"
"""The op of that job."""


@dg.op(name=BATCH, out=dg.Out(dg.Nothing))
def _batch(context: dg.OpExecutionContext, store: Store, compute: Compute, config: BatchInputs) -> None:
    """Compute partitions of a stage together, then record each by a run of its own.

    Raises
    ------
    dagster.Failure
        If a partition failed, or failed a blocking check. The others are there.
    """
    # the graph is composed of the assets, which this job is composed with
    from perturbridge_dagster.definitions import build_definitions

    register_datasets(context.instance, store)
    planner = Planner(store, allow_unaccepted=config.allow_unaccepted)
    try:
        keys = _chosen(planner, config)
        batches = in_batches(planner, config.stage, keys, batch_seconds(store.root))
    except InputError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    job = build_definitions(home=Path(store.home)).resolve_job_def(JOBS[config.stage].name)
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(batches, start=1):
        context.log.info(f"{config.stage}: {len(batch)} partitions, batch {number} of {len(batches)}")
        requests = [request for key in batch for request in _lacking(_planned(planner, config.stage, key))]
        stopped: dg.Failure | None = None
        together: dict[str, Outcome] = {}
        try:
            if not STAGES[config.stage].light:  # a light task runs in the run of its partition
                together = compute_together(context, compute, config.stage, requests)
        except dg.Failure as failure:  # no partition's fault; what was made before is recorded all the same
            stopped = failure
            batch = [key for key in batch if not _lacking(_planned(planner, config.stage, key))]
        for key in batch:
            result = _record(context, job, config.stage, key, _Recorder(compute, together), allow_unaccepted=config.allow_unaccepted)
            name, outcome = partition_name(config.stage, key), "materialized" if result.success else "failed"
            reason = None if result.success else Planner(store, allow_unaccepted=config.allow_unaccepted).state(config.stage, key)[1]
            context.log.info(f"{config.stage} {name} {outcome}, {len(rows) + 1} of {len(keys)}{f': {reason}' if reason else ''}")
            rows.append({"partition": name, "outcome": outcome, "reason": reason, "run": result.run_id})
        if stopped:
            raise stopped
    _tell(context, config.stage, rows)


def _tell(context: dg.OpExecutionContext, stage: str, rows: list[dict[str, Any]]) -> None:
    """Show what became of each partition; fail where one did."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["partition", "outcome", "reason", "run"])
    failed = frame[frame["outcome"] == "failed"]
    metadata: dict[str, Any] = {
        "materialized": len(frame) - len(failed),
        "failed": len(failed),
        "partitions": table_metadata(frame, limit=1000),
    }
    if len(failed):
        raise dg.Failure(
            f"{len(failed)} of {len(frame)} partitions of {stage} failed, each in a run of its own: {', '.join(failed['partition'])}. "
            "Materialize them again alone once the cause is mended.",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


@dg.job
def materialize_batch() -> None:
    """Many partitions of one stage: computed together, then recorded one by one, each in a run of its own."""
    _batch()
