"""From a partition to its published outputs: plan, ensure, publish. What every stage's asset does in the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from assets.checks import judge_and_record
from assets.partitions import key_of
from assets.planning import Planner
from assets.presentation import stamp_metadata
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.stages import STAGES
from resources.compute import Compute
from resources.slurm.ledger import failure_of_job
from resources.store import Output, Store


class Inputs(dg.Config):
    """Run configuration of every stage."""

    allow_unaccepted: bool = Field(
        default=False,
        description="Use inputs that have not passed their blocking checks. They are named in everything that follows.",
    )


def make(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> list[Output]:
    """Have the outputs of the running partition on disk and publish them.

    Parameters
    ----------
    context, store, compute, config
        Of the asset.

    Raises
    ------
    dagster.Failure
        If an input is missing or unaccepted, or a part failed; the parts that did not fail are published and judged.
    """
    stage = context.asset_key.path[-1]
    planner, key = Planner(store, allow_unaccepted=config.allow_unaccepted), key_of(stage, context)
    try:
        parts = planner.plan(stage, key)
    except PerturbridgeError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    outcomes = compute.ensure(context, stage, [part.request for part in parts])
    outputs, errors = [], []
    for part, outcome in zip(parts, outcomes, strict=True):
        try:
            outputs.append(store.publish(stage, part.key, outcome))
        except PerturbridgeError as error:
            errors.append(str(error))
    if errors:
        # no check runs after a step that failed, and what is downstream leaves the failed parts out but must find the others accepted
        judge_and_record(store, outputs, [check.name for check in STAGES[stage].checks])
        failed = [outcome.request.digest for outcome in outcomes if outcome.status == "failed"]
        raise dg.Failure("\n".join(errors), metadata=failure_of_job(store.root, failed), allow_retries=False)
    return outputs


def result(outputs: Sequence[Output], metadata: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    """The materialization of a partition: its own metadata first, then what every output says of itself."""
    version = dg.DataVersion("-".join(output.digest[:16] for output in outputs))
    return dg.MaterializeResult(metadata={**metadata, **stamp_metadata(outputs)}, data_version=version)
