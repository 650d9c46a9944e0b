"""The cluster that the tests of this folder run on, and homes whose payloads run there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from resources.store import SETTINGS
from tests.conftest import Home
from tests.slurm.cluster import Cluster


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """The checkout's cluster. It is taken down again only if it was not up before."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster needs root")
    if not shutil.which("apt-get") and not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("neither SLURM nor apt-get is here")
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        pytest.fail("tests on the cluster stop its daemons, so they run one after the other: add -n 0, or run script/test --slurm")
    cluster = Cluster()
    was_up = cluster.is_up
    try:
        cluster.script("up")  # also one that is up: a test may have left a daemon stopped
        yield cluster
    finally:
        if not was_up:
            cluster.script("down")


@pytest.fixture
def slurm_home(small_home: Callable[..., Home], slurm_cluster: Cluster) -> Callable[..., Home]:
    """Makes a home with a copy of the native files of some datasets, nothing materialized, whose payloads run on the cluster."""

    def make(*datasets: str) -> Home:
        home = small_home(*datasets)
        with (home.path / SETTINGS).open("a") as settings:
            settings.write("\n" + slurm_cluster.script("env", "--settings").stdout)
        return home

    return make
