"""The demo on the cluster: jobs make it, and what they make is what is made here, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from perturbridge_dagster.payloads.requests import DONE
from perturbridge_dagster.stages import STAGES
from resources.store import SETTINGS
from tests.conftest import DEMONSTRATED, Home
from tests.slurm.cluster import CHECKOUT, Cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        Path(sys.prefix) != CHECKOUT / ".venv", reason="script/demo would make the checkout's .venv; it is not that of the tests"
    ),
    pytest.mark.timeout(1200),
]

HEAVY = {stage for stage, described in STAGES.items() if not described.light}
KNOWS_ITS_PLACE = {"source_files"}
"""Stages whose output says where native files lie and when they were written."""


def outputs(home: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Task and digest → done.json of every output of a home."""
    records = [json.loads(file.read_text()) for file in home.rglob(DONE)]
    return {(record["task"], record["digest"]): record for record in records}


@pytest.fixture(scope="module")
def demo(slurm_cluster: Cluster, home_in: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """What `script/demo --slurm` makes of the datasets of `demo_home`, and what it says. The cluster is up before."""
    home = home_in(tmp_path_factory.mktemp("on-cluster"))
    home.use(*DEMONSTRATED)
    settings = home.path / SETTINGS
    settings.write_text(settings.read_text().replace("native/", "sample/"))
    done = subprocess.run(
        [CHECKOUT / "script" / "demo", "--slurm"],
        env={**os.environ, "PERTURBRIDGE_HOME": str(home.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return home, done.stdout


def test_every_heavy_output_was_made_by_a_job_of_the_cluster(slurm_cluster: Cluster, demo: tuple[Home, str]):
    home, _ = demo
    jobs: dict[str, set[str | None]] = defaultdict(set)
    for (task, _), record in outputs(home.path).items():
        jobs[task].add(record["slurm_job_id"])
    heavy = {job for task in jobs.keys() & HEAVY for job in jobs[task]}
    assert {job for task in jobs.keys() - HEAVY for job in jobs[task]} == {None}
    assert None not in heavy
    for job in heavy:
        assert slurm_cluster.ended(str(job)) == ("COMPLETED", "0:0")
    assert len(heavy) <= len(jobs), "what is small shares a job: here all of a stage"


def test_the_cluster_makes_the_same_bytes(demo: tuple[Home, str], demo_home: Home):
    there, here = (
        {identity: done for identity, done in outputs(home.path).items() if identity[0] not in KNOWS_ITS_PLACE}
        for home in (demo[0], demo_home)
    )
    assert {done["slurm_job_id"] for done in here.values()} == {None}
    assert {"harmonized_samples", "condition_effects", "cross_dataset_agreement", "compound_embeddings"} <= {task for task, _ in there}
    assert there.keys() == here.keys()
    different = [
        f"{task} {digest[:16]} {file}"
        for task, digest in there
        for file, recorded in there[task, digest]["files"].items()
        if recorded != here[task, digest]["files"].get(file)
    ]
    assert different == []


def test_the_demo_says_what_ran_and_leaves_a_cluster_that_was_up(slurm_cluster: Cluster, demo: tuple[Home, str]):
    home, said = demo
    assert "0 failed, 0 waiting" in said
    jobs = {record["slurm_job_id"] for (task, _), record in outputs(home.path).items() if task in HEAVY}
    assert None not in jobs
    assert f"jobs on the cluster: {len(jobs):>7} COMPLETED" in said
    assert slurm_cluster.is_up
