"""What stages asked of machines and what they used, as the paper's tables 14 and 15 do.

Belongs here: summarizing outputs and jobs by stage and dataset. Does not belong here: finding them (``assets/overview.py``), or the
pictures (``figures.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbridge_dagster.contract import RESOURCE_REPORT

if TYPE_CHECKING:
    import pandas as pd

GIB = 2**30

OUTPUT_COLUMNS = ("stage", "dataset", "seconds", "cpu_seconds", "peak_memory_bytes", "output_bytes")
JOB_COLUMNS = (
    "stage",
    "dataset",
    "digest",
    "job",
    "failed",
    "cpus",
    "asked_memory_bytes",
    "asked_seconds",
    "peak_memory_bytes",
    "elapsed_seconds",
)


def summarized(outputs: pd.DataFrame, jobs: pd.DataFrame) -> pd.DataFrame:
    """Asked and used by stage and dataset (``contract.RESOURCE_REPORT``), in the order in which stages and datasets first occur.

    Parameters
    ----------
    outputs
        One row a current output, with :data:`OUTPUT_COLUMNS`. An output made before CPU time was recorded has none.
    jobs
        One row a request of a job, with :data:`JOB_COLUMNS`. What sacct did not say is missing.
    """
    import pandas as pd

    jobs = jobs.assign(elapsed_share=jobs["elapsed_seconds"].astype(float) / jobs.groupby("job")["job"].transform("size"))
    groups = pd.concat([outputs[["stage", "dataset"]], jobs[["stage", "dataset"]]]).drop_duplicates()
    rows = [
        _row(
            stage,
            dataset,
            outputs[(outputs["stage"] == stage) & (outputs["dataset"] == dataset)],
            jobs[(jobs["stage"] == stage) & (jobs["dataset"] == dataset)],
        )
        for stage, dataset in groups.itertuples(index=False)
    ]
    report = pd.DataFrame(rows, columns=RESOURCE_REPORT.names)
    whole = [field.name for field in RESOURCE_REPORT if field.type == "int64"]
    return report.astype({**dict.fromkeys(whole, "Int64"), **{f.name: "Float64" for f in RESOURCE_REPORT if f.type == "float64"}})


def _row(stage: str, dataset: str, outputs: pd.DataFrame, requests: pd.DataFrame) -> dict[str, Any]:
    """One row of the report."""
    jobs = requests.drop_duplicates("job")
    tries = requests.groupby("digest")["job"].nunique()
    used = [outputs["peak_memory_bytes"], jobs["peak_memory_bytes"].dropna()]
    longest = [outputs["seconds"], jobs["elapsed_seconds"].dropna()]
    row: dict[str, Any] = {
        "stage": stage,
        "dataset": dataset,
        "outputs": len(outputs),
        "jobs": len(jobs),
        "job_hours": requests["elapsed_share"].sum() / 3600,
        "compute_hours": outputs["seconds"].sum() / 3600,
        "cpu_hours": outputs["cpu_seconds"].sum() / 3600,
        "memory_used_max": max((float(values.max()) / GIB for values in used if len(values)), default=None),
        "hours_used_max": max((float(values.max()) / 3600 for values in longest if len(values)), default=None),
    }
    if len(outputs):
        row |= {"output_bytes": int(outputs["output_bytes"].sum()), "memory_used_median": outputs["peak_memory_bytes"].median() / GIB}
    if len(jobs):
        row |= {
            "failed_share": jobs["failed"].mean(),
            "retried_share": (tries > 1).mean(),
            "cpus_asked": jobs["cpus"].max(),
            "memory_asked_median": jobs["asked_memory_bytes"].median() / GIB,
            "memory_asked_max": jobs["asked_memory_bytes"].max() / GIB,
            "hours_asked_max": jobs["asked_seconds"].max() / 3600,
        }
    return row
