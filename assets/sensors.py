"""The sensor: asks for exactly the real partitions that are missing, stale or not judged, stage by stage, in batches.

Dataset × cell context is a cross product of which few combinations exist, so automation conditions would ask for impossible
partitions. The sensor looks at what is accepted instead, through the same plans the assets run.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import dagster as dg

from assets.batches import BATCH, JOBS, BatchInputs, in_batches, materialize_batch, partition_name
from assets.partitions import register_datasets
from assets.planning import Planner
from perturbridge_dagster.stages import STAGES, SUITE_VERSION
from resources.slurm.settings import batch_seconds
from resources.store import Key, Store

OVERVIEW_JOB = "look_again"

_OVERVIEW = dg.define_asset_job(
    OVERVIEW_JOB,
    selection=dg.AssetSelection.assets("coverage", "resource_report", "catalog"),
    description="Coverage, resource report and catalog, as of now.",
)

_TO_BE_JUDGED_WITHIN = 600.0
"""Time within which the run that published an output judges it; one that has not has ended. Unit: seconds."""

ALL_JOBS: tuple[Any, ...] = (materialize_batch, *JOBS.values(), _OVERVIEW)


def stale_partitions(planner: Planner) -> Iterator[tuple[str, Key, str]]:
    """Partitions that could be computed or judged now: stage, key, and what would be made: the digests, and the rules if only to be judged.

    A partition of which a part failed and another was not judged is among them, once: what is downstream leaves out the one and waits
    for the other.
    """
    long_ago = time.time() - _TO_BE_JUDGED_WITHIN
    for stage in STAGES:
        for key in planner.keys(stage):
            state, _ = planner.state(stage, key)
            unjudged = any(output.published_at() < long_ago for output in planner.unjudged(stage, key))
            if state in ("missing", "stale") or unjudged:
                digests = "+".join(part.request.digest[:16] for part in planner.plan(stage, key))
                yield stage, key, f"{digests} judged by {SUITE_VERSION}" if unjudged else digests


def run_requests(planner: Planner, most_seconds: float, asked: Collection[str] = ()) -> tuple[list[dg.RunRequest], list[str]]:
    """Runs of batches of the stale partitions that have not been asked for.

    Parameters
    ----------
    planner
        Plans the partitions.
    most_seconds
        Time that a batch may ask for. Unit: seconds.
    asked
        What was asked for before, and is stale still: running, cancelled, or failed without a word. This alone keeps a partition from being
        asked for twice; the runs have no run key, since Dagster never starts a second run of one, also where the first is long over and its
        output was removed, or what it was made from has changed and changed back.

    Returns
    -------
    The runs, and what has been asked for now. A partition is named there by its stage, key and digests: one whose run was cancelled is
    asked for again only when its inputs or code have changed. Rematerialize it by hand to try again.
    """
    named = {hashlib.sha256(f"{stage} {' '.join(key)} {digests}".encode()).hexdigest()[:16]: (stage, key)
             for stage, key, digests in stale_partitions(planner)}  # fmt: skip
    new: dict[str, dict[Key, str]] = defaultdict(dict)
    for name, (stage, key) in named.items():
        if name not in asked:
            new[stage][key] = name
    requests = []
    for stage, names in new.items():
        for keys in in_batches(planner, stage, names, most_seconds):
            requests.append(
                dg.RunRequest(
                    run_config=dg.RunConfig(ops={BATCH: BatchInputs(stage=stage, partitions=[partition_name(stage, key) for key in keys])}),
                    tags={"perturbridge/stage": stage},
                )
            )
    return requests, sorted(named)


@dg.sensor(
    name="stale_strata",
    # by its name: Dagster copies a sensor whose job it binds resources to, and warns of what it copies
    job_name=materialize_batch.name,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def stale_strata(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult:
    """Request every real partition whose inputs are accepted and whose output is missing, stale or not judged."""
    register_datasets(context.instance, store)
    asked = json.loads(context.cursor) if context.cursor else []
    requests, stale = run_requests(Planner(store), batch_seconds(store.root), asked)
    nothing = (
        "No partition that could be computed is missing, stale or unjudged. The coverage asset tells what failed or waits, and for what."
        if not stale
        else f"{len(stale)} partitions are not current and have been asked for; those whose runs were cancelled wait for a person."
    )
    return dg.SensorResult(requests, skip_reason=None if requests else nothing, cursor=json.dumps(stale))
