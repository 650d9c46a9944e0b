"""The sensor: asks for exactly the real partitions that are missing or stale, stage by stage.

Dataset × cell context is a cross product of which few combinations exist, so automation conditions would ask for impossible
partitions. The sensor looks at what is accepted instead, through the same plans the assets run.
"""

from collections.abc import Iterator

import dagster as dg

from assets.making import BatchInputs, batch
from assets.partitions import key_to_partition, register_datasets
from assets.planning import Planner
from perturbridge_dagster.stages import STAGES
from resources.store import Store

JOBS = {
    stage: dg.define_asset_job(
        f"materialize_{stage}", selection=dg.AssetSelection.assets(stage), description=f"One partition of {stage}, with its checks."
    )
    for stage in STAGES
}
"""Stage → job for one of its partitions; a job must not mix partitions of different kinds."""


OVERVIEW_JOB = "look_again"

_OVERVIEW = dg.define_asset_job(
    OVERVIEW_JOB, selection=dg.AssetSelection.assets("coverage", "catalog"), description="Coverage and catalog, as of now."
)

ALL_JOBS = (*JOBS.values(), _OVERVIEW)


def stale_partitions(planner: Planner) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Partitions that could be computed now: stage, key, and the digests of what would be made."""
    for stage in STAGES:
        for key in planner.keys(stage):
            state, _ = planner.state(stage, key)
            if state in ("missing", "stale"):
                yield stage, key, "+".join(part.request.digest[:16] for part in planner.plan(stage, key))


def run_requests(planner: Planner) -> list[dg.RunRequest]:
    """One run a stale partition.

    The first of a batch (the effects of a dataset, the agreement of all pairs) computes all of it in one payload. A run key holds the
    digests, so a run that failed or was cancelled is asked for again only when its inputs or code have changed; rematerialize it by hand
    to try again.
    """
    requests, ahead = [], set()
    for stage, key, digests in stale_partitions(planner):
        of = batch(stage, key)
        first = of is not None and of not in ahead
        ahead.add(of)
        requests.append(
            dg.RunRequest(
                run_key=f"{stage} {' '.join(key)} {digests}",
                job_name=JOBS[stage].name,
                partition_key=key_to_partition(stage, key),
                run_config=dg.RunConfig(ops={stage: BatchInputs(compute_ahead=True)}) if first else None,
            )
        )
    return requests


@dg.sensor(
    name="stale_strata",
    jobs=list(JOBS.values()),
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def stale_strata(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult | dg.SkipReason:
    """Request every real partition whose inputs are accepted and whose output is missing or stale."""
    register_datasets(context.instance, store)
    requests = run_requests(Planner(store))
    if not requests:
        return dg.SkipReason("Every partition that could be computed is current. The coverage asset tells what waits, and for what.")
    return dg.SensorResult(run_requests=requests)
