"""Beside the flow: what is there (coverage), what it took (resource_report), and where to query it (catalog)."""

from typing import Any

import dagster as dg

from assets.agreement import compendium_agreement
from assets.op3 import NOT_CONFIGURED as NO_OP3_BENCHMARK
from assets.op3 import op3_evaluation
from assets.partitions import DATASET_PAIR, PARTITIONS
from assets.planning import Planner
from assets.presentation import OVERVIEW, column_schema, picture, table_metadata
from assets.published import NOT_CONFIGURED, published_comparison
from assets.representation import compound_embeddings
from perturbridge_dagster.contract import COVERAGE, RESOURCE_REPORT
from perturbridge_dagster.stages import STAGES
from resources.store import Store

_LAST_OF_THE_FLOW = [
    dg.AssetDep(compendium_agreement),
    dg.AssetDep(op3_evaluation),
    *(dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping()) for asset in (published_comparison, compound_embeddings)),
]
"""Everything else lies upstream of these; an edge from each stage would hide the flow in the picture of the graph."""

_PAIRS = "pairs"
"""Stands in place of a dataset in the resource report where a stage is of pairs."""


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
    lacking = {
        "published_comparison": NOT_CONFIGURED if store.published_folder() is None else None,
        "op3_evaluation": NO_OP3_BENCHMARK if store.op3_benchmark_folder() is None else None,
    }
    if any(lacking.values()):
        metadata["not_configured"] = dg.MetadataValue.md("\n".join(f"- {stage}: {words}" for stage, words in lacking.items() if words))
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


def _outputs_used(store: Store) -> list[dict[str, Any]]:
    """What each current output took to make, in the order of the flow."""
    planner, rows = Planner(store), []
    for stage in STAGES:
        for key in planner.keys(stage):
            for output in planner.outputs(stage, key):
                done = output.done()
                rows.append(
                    {
                        "stage": stage,
                        "dataset": _PAIRS if PARTITIONS[stage] is DATASET_PAIR else key[0],
                        "seconds": done["seconds"],
                        "cpu_seconds": done.get("cpu_seconds"),
                        "peak_memory_bytes": done["peak_memory_bytes"],
                        "output_bytes": sum(file["bytes"] for file in done["files"].values()),
                    }
                )
    return rows


def _jobs_asked(store: Store) -> list[dict[str, Any]]:
    """What each SLURM job asked for and used, once for each of its requests."""
    from resources.slurm.ledger import jobs

    return [
        {
            "stage": job.stage,
            "dataset": _PAIRS if PARTITIONS[job.stage] is DATASET_PAIR else key.split(" ")[0],
            "digest": digest,
            "job": job.job_id,
            "failed": job.failure is not None,
            "cpus": job.asked_cpus,
            "asked_memory_bytes": job.asked_memory_bytes,
            "asked_seconds": job.asked_seconds,
            "peak_memory_bytes": job.peak_memory_bytes,
            "elapsed_seconds": job.elapsed_seconds,
        }
        for job in jobs(store.root)
        for digest, key in zip(job.digests, job.keys, strict=True)
    ]


@dg.asset(
    group_name=OVERVIEW,
    kinds={"parquet"},
    deps=[coverage],
    code_version="1",
    metadata={"dagster/column_schema": column_schema(RESOURCE_REPORT)},
)
def resource_report(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult[Any]:
    """What each stage asked of machines for each dataset, and what it used, as tables 14 and 15 of the paper do.

    Memory, time, CPUs, jobs, and the share of jobs that failed and of outputs that took more than one. What was computed on Dagster's
    machine asked for nothing, so only what it used is shown. Stale as soon as anything upstream is new.
    """
    import pandas as pd

    from perturbridge_dagster.quality.figures import asked_and_used
    from perturbridge_dagster.quality.resources import JOB_COLUMNS, OUTPUT_COLUMNS, summarized
    from perturbridge_dagster.written import Stamp, write_parquet

    outputs = pd.DataFrame(_outputs_used(store), columns=OUTPUT_COLUMNS)
    jobs = pd.DataFrame(_jobs_asked(store), columns=JOB_COLUMNS)
    report = summarized(outputs, jobs)
    # what it took to make the data tells nothing of them, so it is open whatever they are
    stamp = Stamp("resource_report", "1", context.run.run_id, tuple(sorted(store.source_folders())), "open")
    write_parquet(store.root / "resource_report.parquet", report, RESOURCE_REPORT, stamp)
    metadata: dict[str, Any] = {
        "resources": table_metadata(report, limit=len(report)),
        "jobs": int(jobs["job"].nunique()),
        "job_hours": float(report["job_hours"].sum()),
        "compute_hours": float(report["compute_hours"].sum()),
        "cpu_hours": float(report["cpu_hours"].sum()),
    }
    if len(report):
        metadata["picture_asked_and_used"] = picture(asked_and_used(report))
    return dg.MaterializeResult(metadata=metadata)


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
