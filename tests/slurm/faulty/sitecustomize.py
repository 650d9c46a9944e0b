"""Makes payloads of the fault tests go wrong: Python imports this at its start, where this folder is on its path.

In place of the task of a stage stands a trial. It writes down that it began, then does what a file in the home says it should do wrong,
and else writes an output that tells its key. Nothing of the platform knows of it.
"""

import hashlib
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import pandas as pd

from perturbridge_dagster.contract import SOURCE_FILES
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads import tasks
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import Stamp, write_parquet

log = logging.getLogger("perturbridge")


def file_of(home: Path, kind: str, key: str) -> Path:
    """File of a key in a folder of the home: of the fault that is wanted of it, or of the tries that were begun."""
    return home / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def go_wrong(fault: Path, try_: int, folder: Path) -> None:
    """Do what a file says, as long as it is there and says so of this try."""
    hog = []
    while fault.exists():
        wanted = json.loads(fault.read_text())
        if try_ > wanted["tries"]:
            return
        kind = wanted["kind"]
        if kind == "raise":
            raise InputError("the trial has a well without a plate", file="wells.csv", advice="Name its plate.")
        if kind == "exit":
            print("the trial gives up", file=sys.stderr, flush=True)
            sys.exit(3)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "memory":
            hog.append(os.urandom(2**20) * 40)
            if len(hog) * 40 >= wanted["mebibytes"]:
                time.sleep(4)  # SLURM looks every two seconds
                return
            time.sleep(0.1)
        if kind == "disk":
            with (folder / "large").open("ab") as stream:
                stream.write(b"0" * 2**22)
        if kind == "hang":
            time.sleep(0.1)


def trial(request: Request, folder: Path) -> None:
    """Write an output that tells its key."""
    home, key = Path(os.environ["PERTURBRIDGE_HOME"]), request.arguments["corpus"]
    begun = file_of(home, "begun", key)
    begun.parent.mkdir(exist_ok=True)
    with begun.open("a") as stream:
        stream.write(os.environ["SLURM_JOB_ID"] + "\n")
    log.info("trying %s", key)
    go_wrong(file_of(home, "faults", key), len(begun.read_text().split()), folder)
    # a full disk may still take what fits into the last page of a file
    log.info("tried %s %s", key, "." * 5000)
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    frame = pd.DataFrame({"dataset": ["sciplex"], "role": "trial", "name": key, "bytes": 0, "modified_ns": 0, "sha256": sha256})
    stamp = Stamp(request.task, request.code_version, request.digest, ("sciplex",), "open", simulated=True)
    write_parquet(folder / "trial.parquet", frame, SOURCE_FILES, stamp)


tasks.TASKS["training_corpus"] = trial
