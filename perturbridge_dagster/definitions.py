"""The graph that Dagster loads: composition only. The one module of this package that imports Dagster."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

# Partitioned asset checks are in preview in Dagster 1.13; our checks depend on them, and tests pin how they behave.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from assets import (  # noqa: E402 - after the filter
    agreement,
    effects,
    holdout,
    op3,
    overview,
    published,
    representation,
    representation_report,
    sources,
)
from assets.checks import stage_checks  # noqa: E402
from assets.orphans import orphaned_jobs  # noqa: E402
from assets.sensors import ALL_JOBS, stale_strata  # noqa: E402
from perturbridge_dagster.home import default_home  # noqa: E402
from resources.compute import Compute  # noqa: E402
from resources.store import Store  # noqa: E402

STAGE_ASSETS = (
    sources.source_files,
    sources.harmonized_samples,
    effects.condition_effects,
    effects.replicate_effects,
    agreement.matched_conditions,
    agreement.cross_dataset_agreement,
    agreement.replicate_agreement,
    agreement.compendium_agreement,
    published.published_comparison,
    representation.training_corpus,
    representation.compound_embeddings,
    holdout.holdout_evaluation,
    op3.op3_evaluation,
    representation_report.representation_report,
)
"""Assets of the flow, in order."""


def build_definitions(*, home: Path | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Compose the graph.

    Parameters
    ----------
    home
        Where everything is written; ``default_home()`` unless given.
    resources
        Resources that replace the default ones, by name: ``store``, ``compute``.
    """
    home = home or default_home()
    return dg.Definitions(
        assets=[*STAGE_ASSETS, overview.coverage, overview.resource_report, overview.catalog],
        asset_checks=[*(stage_checks(asset) for asset in STAGE_ASSETS), overview.complete],
        jobs=ALL_JOBS,
        sensors=[stale_strata, orphaned_jobs],
        resources={"store": Store(home=str(home)), "compute": Compute(home=str(home)), **(resources or {})},
        # payloads do the work, so steps of a run need no processes of their own
        executor=dg.in_process_executor,
    )


defs = build_definitions()
