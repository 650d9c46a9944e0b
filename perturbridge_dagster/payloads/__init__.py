"""What a job runs: requests, tasks and the runner. Imports the domain and dagster-pipes, never dagster."""

from pathlib import Path


def slurm_payload_file() -> Path:
    """The file that dagster-slurm copies to the cluster."""
    return Path(__file__).with_name("slurm_payload.py")
