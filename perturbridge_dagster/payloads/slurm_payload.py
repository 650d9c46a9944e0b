"""The file that dagster-slurm copies to the cluster and runs there: it only starts the runner of the environment on the nodes."""

import os
from pathlib import Path

from perturbridge_dagster.payloads.handover import REQUESTS_VARIABLE
from perturbridge_dagster.payloads.run import start

if __name__ == "__main__":
    start(Path(os.environ[REQUESTS_VARIABLE]))
