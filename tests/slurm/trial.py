"""A code location with one asset whose partitions may have any key: real resources, real jobs, and the middle of every stage's asset.

Only the plan is its own, since real stages have but real partitions. Payloads make it as ``faulty/sitecustomize.py`` says.
"""

from pathlib import Path

import dagster as dg
import pandas as pd

from assets import making
from assets.making import Inputs
from assets.planning import Part
from perturbridge_dagster.definitions import build_definitions
from perturbridge_dagster.home import default_home
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.stages import STAGES
from resources.compute import Compute
from resources.store import Key, Store

STAGE = "training_corpus"
PARTITIONS = dg.DynamicPartitionsDefinition(name="trial")
JOB = "materialize_trial"


def request_of(home: Path, key: str) -> Request:
    """The request of a partition."""
    folder = Store(home=str(home)).folder(STAGE, (key,))
    return Request(STAGE, {"corpus": key, "unaccepted_inputs": []}, {}, STAGES[STAGE].code_version, str(folder))


class TrialPlanner:
    """Plans any key."""

    def __init__(self, store: Store, *, allow_unaccepted: bool = False) -> None:
        self.store = store

    def plan(self, stage: str, key: Key) -> list[Part]:
        return [Part(stage, key, request_of(self.store.root, key[0]))]


@dg.asset(name=STAGE, partitions_def=PARTITIONS)
def trial(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult:
    planner, making.Planner = making.Planner, TrialPlanner
    try:
        [output] = making.make(context, store, compute, config)
    finally:
        making.Planner = planner
    name = pd.read_parquet(output.folder / "trial.parquet")["name"].item()
    return making.result([output], {"made_for": name})


def trial_definitions(home: Path) -> dg.Definitions:
    """The asset, its job, and the platform's own sensors and resources."""
    platform = build_definitions(home=home)
    return dg.Definitions(
        assets=[trial],
        jobs=[dg.define_asset_job(JOB, selection=[trial])],
        resources={name: platform.resources[name] for name in ("store", "compute")},
        executor=dg.in_process_executor,
    )


defs = trial_definitions(default_home())
