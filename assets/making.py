"""From a partition to its published outputs: plan, ensure, publish. What every stage's asset does in the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from assets.partitions import partition_to_key
from assets.planning import EFFECTS_STAGES, Part, Planner
from assets.presentation import stamp_metadata
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.payloads.requests import failure_of, verified
from resources.compute import Compute
from resources.store import Key, Output, Store


class Inputs(dg.Config):
    """Run configuration of every stage."""

    allow_unaccepted: bool = Field(
        default=False,
        description="Use inputs that have not passed their blocking checks. They are named in everything that follows.",
    )


class BatchInputs(Inputs):
    """Run configuration of stages of many small partitions."""

    compute_ahead: bool = Field(
        default=False,
        description="Compute other partitions in this run's payload, too: of effects those of the same dataset, of agreement those of "
        "all dataset pairs. Their runs then find their output and only record it. Worth it where partitions are small and many.",
    )


def batch(stage: str, key: Key) -> Key | None:
    """What a partition has in common with those that may be computed ahead with it; None where each is computed alone."""
    if stage in EFFECTS_STAGES.values():
        return (stage, key[0])
    return (stage,) if stage == "cross_dataset_agreement" else None


def _ahead(planner: Planner, stage: str, key: Key) -> list[Part]:
    """Parts of the other partitions of a batch that are missing and can be computed now."""
    parts: list[Part] = []
    for other in planner.keys(stage):
        if other != key and batch(stage, other) == batch(stage, key):
            try:
                parts += planner.plan(stage, other)
            except PerturbridgeError:  # its own run meets the same refusal, and says so
                continue
    # what is there is adopted, and verified, by its own run; what failed is not tried again until its inputs or code change
    return [part for part in parts if verified(part.request, deep=False) is None and failure_of(part.request) is None]


def make(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> list[Output]:
    """Have the outputs of the running partition on disk and publish them.

    Outputs that are computed ahead are not published here: their own runs adopt them.

    Parameters
    ----------
    context, store, compute, config
        Of the asset.

    Raises
    ------
    dagster.Failure
        If an input is missing or unaccepted, or a part failed; the parts that did not fail are published.
    """
    stage = context.asset_key.path[-1]
    planner, key = Planner(store, allow_unaccepted=config.allow_unaccepted), partition_to_key(stage, context.partition_key)
    try:
        parts = planner.plan(stage, key)
    except PerturbridgeError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    ahead = _ahead(planner, stage, key) if isinstance(config, BatchInputs) and config.compute_ahead else []
    outcomes = compute.ensure(context, stage, [part.request for part in (*parts, *ahead)])[: len(parts)]
    outputs, errors = [], []
    for part, outcome in zip(parts, outcomes, strict=True):
        try:
            outputs.append(store.publish(stage, part.key, outcome))
        except PerturbridgeError as error:
            errors.append(str(error))
    if errors:
        raise dg.Failure("\n".join(errors), allow_retries=False)
    return outputs


def result(outputs: Sequence[Output], metadata: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    """The materialization of a partition: its own metadata first, then what every output says of itself."""
    version = dg.DataVersion("-".join(output.digest[:16] for output in outputs))
    return dg.MaterializeResult(metadata={**metadata, **stamp_metadata(outputs)}, data_version=version)
