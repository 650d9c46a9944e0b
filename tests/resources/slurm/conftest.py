"""A home whose payloads run on a stand-in for a cluster (``slurm_double.py``), on any machine."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perturbridge_dagster.payloads.requests import Request
from resources.slurm import client, ledger
from resources.store import SETTINGS
from tests.resources.ensuring import CHECKOUT, Corpus


@dataclass
class Double:
    """The stand-in, and a home that uses it."""

    home: Path
    folder: Path

    def set(self, **settings: object) -> None:
        """Write the settings of the home."""
        table = {
            "host": "double",
            "user": "nobody",
            "folder": str(self.folder / "runs"),
            "environment": str(self.folder / "environment"),
            "poll_seconds": 0.2,
            "outage_seconds": 30,
            "max_memory_gib": 8,
            "max_cpus": 2,
            "max_hours": 2,
            **settings,
        }
        lines = ["[compute]", 'backend = "slurm"', "[slurm]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
        (self.home / SETTINGS).write_text("\n".join(lines) + "\n")

    def fail(self, **faults: Any) -> None:
        """Say what goes wrong from now on, and nothing else."""
        aside = self.folder / "faults.aside"
        aside.write_text(json.dumps(faults))
        aside.replace(self.folder / "faults.json")

    @property
    def submitted(self) -> list[dict[str, Any]]:
        """What sbatch was asked for, job by job."""
        files = sorted((self.folder / "jobs").glob("*.json"), key=lambda file: int(file.stem))
        return [json.loads(file.read_text()) for file in files]

    @property
    def jobs(self) -> list[ledger.Job]:
        return ledger.jobs(self.home)


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    """A home whose payloads run on the stand-in."""
    folder, home = tmp_path / "double", tmp_path / "home"
    for made in (folder / "bin", folder / "jobs", folder / "environment", home):
        made.mkdir(parents=True)
    script = f"#!{sys.executable} -SE\n" + Path(__file__).with_name("slurm_double.py").read_text()
    for name in ("ssh", "scp", "sbatch", "squeue", "sacct", "scontrol", "scancel"):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    (folder / "environment" / "env").symlink_to(sys.prefix)
    (folder / "environment" / "activate.sh").write_text(f"export PYTHONPATH={CHECKOUT}\n")
    monkeypatch.setenv("SLURM_DOUBLE", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("DAGSTER_SLURM_SSH_CONTROL_DIR", str(folder / "control"))
    # dagster-slurm gives every job two seconds to begin, whatever the poll interval
    monkeypatch.setattr(client.JobClient, "_interruptible_sleep", lambda _, seconds, job_id: time.sleep(min(seconds, 0.2)))
    made = Double(home, folder)
    made.set()
    return made


@pytest.fixture
def corpus(double: Double, effects: Path, corpus: Corpus) -> Corpus:
    """A request for a corpus, in the home."""

    def make(name: str, strata: Path = effects) -> Request:
        request = corpus(name, strata)
        return Request(request.task, request.arguments, request.inputs, request.code_version, str(double.home / "corpora" / name))

    return make
