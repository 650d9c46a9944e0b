"""The platform itself: which partitions are there, and what jobs used."""

from __future__ import annotations

from perturbridge_dagster.contract.schema import Field, Table

COVERAGE = Table(
    "coverage",
    "One partition of one stage, and whether it is there.",
    (
        Field("stage", "string", "Stage."),
        Field("dataset", "string", "Dataset, dataset pair or corpus."),
        Field("cell_context", "string", "Cell context, or model.", nullable=True),
        Field(
            "state",
            "string",
            "current; missing: could be computed now; stale: inputs or code changed; failed; unaccepted: a blocking check has not "
            "passed; waiting: for an input.",
            allowed=("current", "missing", "stale", "failed", "unaccepted", "waiting"),
        ),
        Field("reason", "string", "Why, where there is something to say.", nullable=True),
    ),
)

RESOURCE_REPORT = Table(
    "resource_report",
    "What a stage asked of machines for a dataset, and what it used: current outputs, and every SLURM job that was ever sent for them.",
    (
        Field("stage", "string", "Stage."),
        Field("dataset", "string", "Dataset, or corpus; pairs of datasets are together."),
        Field("outputs", "int64", "Current outputs: strata of effects, pairs, or one.", minimum=0),
        Field("output_bytes", "int64", "Size of the outputs.", unit="bytes", minimum=0, nullable=True),
        Field("jobs", "int64", "SLURM jobs that made them or failed to; 0 where all were computed on Dagster's machine.", minimum=0),
        Field("failed_share", "float64", "Share of these jobs that failed.", nullable=True, minimum=0, maximum=1),
        Field("retried_share", "float64", "Share of what jobs made that took more than one job.", nullable=True, minimum=0, maximum=1),
        Field("cpus_asked", "int64", "Most CPUs that a job asked for.", nullable=True, minimum=1),
        Field("memory_asked_median", "float64", "Memory that jobs asked for, median.", unit="GiB", nullable=True, minimum=0),
        Field("memory_asked_max", "float64", "Memory that jobs asked for, most.", unit="GiB", nullable=True, minimum=0),
        Field(
            "memory_used_median",
            "float64",
            "Peak memory of the process while it made an output, median.",
            unit="GiB",
            nullable=True,
            minimum=0,
        ),
        Field("memory_used_max", "float64", "Peak memory of an output, or of a job by sacct, most.", unit="GiB", nullable=True, minimum=0),
        Field("hours_asked_max", "float64", "Longest time limit of a job.", unit="h", nullable=True, minimum=0),
        Field("hours_used_max", "float64", "Longest time of an output, or of a job by sacct.", unit="h", nullable=True, minimum=0),
        Field(
            "job_hours",
            "float64",
            "Time that jobs ran, start and failed ones included; a job of several datasets counts in parts.",
            unit="h",
            minimum=0,
        ),
        Field("compute_hours", "float64", "Time that making the current outputs took.", unit="h", minimum=0),
        Field("cpu_hours", "float64", "Time of all CPUs while these were made.", unit="h", minimum=0),
    ),
)
