"""The sensor that ends SLURM jobs nobody waits for any more (``resources/slurm/orphans.py`` says which)."""

import dagster as dg

from perturbridge_dagster.errors import PerturbridgeError
from resources.slurm.settings import backend, slurm_settings
from resources.store import Store


@dg.sensor(
    name="orphaned_jobs",
    minimum_interval_seconds=120,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def orphaned_jobs(context: dg.SensorEvaluationContext, store: Store) -> dg.SkipReason:
    """Cancel SLURM jobs of this home whose run was terminated by force, or whose process died and that no run came for."""
    try:
        if backend(store.root) != "slurm":
            return dg.SkipReason("Payloads run on this machine: settings.toml names no SLURM.")
        settings = slurm_settings(store.root)
    except PerturbridgeError as error:
        return dg.SkipReason(str(error))
    from resources.slurm.orphans import sweep
    from resources.slurm.scheduler import Unreachable

    try:
        found = sweep(store.root, settings, context.instance)
    except (PerturbridgeError, Unreachable) as error:
        return dg.SkipReason(f"SLURM does not answer: {error}")
    told = "; ".join(f"job {one.job_id} {one.did}: {one.why}" for one in found)
    return dg.SkipReason(told or "Every job of this home is watched, or has ended.")
