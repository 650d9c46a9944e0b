"""Beside the flow: what is there (coverage), and where to query it (catalog)."""

from typing import Any

import dagster as dg

from assets.agreement import cross_dataset_agreement, replicate_agreement
from assets.planning import Planner
from assets.presentation import OVERVIEW, column_schema, picture, table_metadata
from assets.published import NOT_CONFIGURED, published_comparison
from assets.representation import compound_embeddings
from perturbridge_dagster.contract import COVERAGE
from perturbridge_dagster.stages import STAGES
from resources.store import Store

_LAST_OF_THE_FLOW = [
    dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping())
    for asset in (cross_dataset_agreement, replicate_agreement, published_comparison, compound_embeddings)
]
"""Everything else lies upstream of these; an edge from each stage would hide the flow in the picture of the graph."""


@dg.asset(
    group_name=OVERVIEW,
    kinds={"parquet"},
    deps=_LAST_OF_THE_FLOW,
    code_version="1",
    metadata={"dagster/column_schema": column_schema(COVERAGE)},
)
def coverage(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult[Any]:
    """What is there, missing, stale, failed, unaccepted or waiting: one row a stage and real partition.

    Most combinations of dataset and cell context do not exist; only those that do are listed. Always a picture of this moment:
    materialize it to look again.
    """
    import pandas as pd

    from perturbridge_dagster.quality.figures import coverage_grid
    from perturbridge_dagster.written import Stamp, write_parquet

    planner = Planner(store)
    rows = []
    for stage in STAGES:
        for key in planner.keys(stage):
            state, reason = planner.state(stage, key)
            rows.append({"stage": stage, "dataset": key[0], "cell_context": (*key, None)[1], "state": state, "reason": reason or None})
    frame = pd.DataFrame(rows, columns=COVERAGE.names)
    # a list of what is there tells nothing of the data themselves, so it is open whatever they are
    stamp = Stamp("coverage", "1", context.run.run_id, tuple(sorted(store.source_folders())), "open")
    write_parquet(store.root / "coverage.parquet", frame, COVERAGE, stamp)
    counts = pd.crosstab(frame["stage"], frame["state"]).reindex(list(STAGES)).reset_index()
    metadata: dict[str, Any] = {
        "picture_coverage": picture(coverage_grid(frame)),
        "by_stage": table_metadata(counts),
        "not_current": table_metadata(frame[frame["state"] != "current"]),
    }
    if store.published_folder() is None:
        metadata["not_configured"] = dg.MetadataValue.md(f"- published_comparison: {NOT_CONFIGURED}")
    metadata |= {str(state): int(count) for state, count in frame["state"].value_counts().items()}
    return dg.MaterializeResult(metadata=metadata)


@dg.asset_check(asset=coverage, description="Every real partition of every stage is there, current and accepted.")
def complete(store: Store) -> dg.AssetCheckResult:
    """Name what coverage found missing, stale, failed, unaccepted or waiting."""
    from perturbridge_dagster.written import read_parquet

    frame = read_parquet(store.root / "coverage.parquet", "coverage")
    lacking = frame[frame["state"] != "current"]
    return dg.AssetCheckResult(
        passed=lacking.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(lacking)} of {len(frame)} partitions are not current." if len(lacking) else "Everything is current.",
        metadata={"partitions": len(frame), "not_current": table_metadata(lacking)},
    )


@dg.asset(group_name=OVERVIEW, kinds={"duckdb"}, deps=[coverage], code_version="1")
def catalog(store: Store) -> dg.MaterializeResult[Any]:
    """One DuckDB file with a view on every accepted table: samples, effects by compound, gene and cell context, agreement, embeddings.

    Holds views, not copies, so it is small and quick to make. Stale as soon as anything upstream is new. Open it read-only.
    """
    from resources.catalog import EXAMPLES, build_catalog

    planner = Planner(store)
    outputs, states = [], {}
    for stage in STAGES:
        for key in planner.keys(stage):
            for output in planner.outputs(stage, key):
                if not output.unaccepted_checks():
                    outputs.append(output)
                    states[(stage, *output.key)] = planner.state(stage, key)[0]
    counts = build_catalog(store.root / "catalog.duckdb", outputs, states)
    metadata = {
        "file": dg.MetadataValue.path(str(store.root / "catalog.duckdb")),
        "views": table_metadata(counts),
        "examples": dg.MetadataValue.md("\n\n".join(f"{words}:\n\n```sql\n{query}\n```" for words, query in EXAMPLES.items())),
    }
    return dg.MaterializeResult(metadata=metadata)
