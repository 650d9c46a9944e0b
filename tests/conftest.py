"""What every test shares: where the real files lie, and homes to work in.

Homes: three datasets of the sample materialized once, and a small one of few datasets for each test that changes things.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock
from hypothesis import settings

from assets.materialize import dagster_instance, materialize_graph, prepare_home, use_sample
from assets.partitions import key_to_partition, register_datasets
from assets.planning import Part, Planner
from perturbridge_dagster.definitions import build_definitions
from perturbridge_dagster.sample import DEFAULT_SEED, write_sample
from resources.store import SETTINGS, Store

CHECKOUT = Path(__file__).resolve().parent.parent

DEMONSTRATED = ("l1000_phase1", "vcpi_0001", "sciplex")
"""Datasets of the home that many tests read: normalized values, bulk counts, single cells. `script/demo` takes them all."""

# a person's runs look for new examples; in CI the same code gives the same verdict. No deadline: machines are shared
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "person")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real files, or a visible skip."""
    folder = Path(os.environ.get("PERTURBRIDGE_REAL_DATA", CHECKOUT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"real files absent: {folder} does not exist; set PERTURBRIDGE_REAL_DATA")
    return folder


@dataclass
class Home:
    """A home and what tests do in it."""

    path: Path

    @property
    def store(self) -> Store:
        return Store(home=str(self.path))

    def use(self, *datasets: str) -> None:
        """Point datasets at their folders below native/."""
        lines = [f'{dataset} = "native/{dataset}"\n' for dataset in datasets]
        (self.path / SETTINGS).write_text("[sources]\n" + "".join(lines))

    def planner(self, **options: bool) -> Planner:
        return Planner(self.store, **options)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dagster_instance(self.path) as instance:
            register_datasets(instance, self.store)
            yield instance

    def run(self, stage: str, key: tuple[str, ...], config: dg.Config | None = None) -> dg.ExecuteInProcessResult:
        """Materialize one partition with its checks, as a user would from the UI."""
        with self.instance() as instance:
            return (
                build_definitions(home=self.path)
                .resolve_job_def(f"materialize_{stage}")
                .execute_in_process(
                    partition_key=key_to_partition(stage, key),
                    run_config=dg.RunConfig(
                        ops={stage: config} if config else {}, loggers={"console": {"config": {"log_level": "CRITICAL"}}}
                    ),
                    instance=instance,
                    raise_on_error=False,
                )
            )

    def materialize(self, stage: str, key: tuple[str, ...], config: dg.Config | None = None) -> None:
        """Materialize one partition, which must succeed."""
        result = self.run(stage, key, config)
        assert result.success, f"{stage} {key}: {self.failure(result)}"

    def effects_parts(self, context: str) -> list[Part]:
        """Parts of the grouped effects of a cell context of this home's only dataset."""
        [dataset] = self.store.source_folders()
        return self.planner().plan("condition_effects", (dataset, context))

    def failure(self, result: dg.ExecuteInProcessResult) -> str:
        """What the first failed step of a run said."""
        failed = [event for event in result.all_node_events if event.is_step_failure]
        if not failed:
            return "; ".join(
                f"{check.check_name}: {check.description}" for check in result.get_asset_check_evaluations() if not check.passed
            )
        error = failed[0].step_failure_data.error
        return (error.cause or error).message


@pytest.fixture(autouse=True)
def own_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does to DAGSTER_HOME is undone."""
    monkeypatch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three datasets of the sample, one a kind of assay, materialized once for all test processes and both runs of script/test.

    Not to be changed.
    """
    own = tmp_path_factory.getbasetemp().parent if os.environ.get("PYTEST_XDIST_WORKER") else tmp_path_factory.getbasetemp()
    shared = Path(os.environ.get("PERTURBRIDGE_TEST_FOLDER", own))
    home = shared / "demo-home"
    with FileLock(shared / "demo-home.lock"):
        if not (home / "ready").exists():
            prepare_home(home)
            (home / SETTINGS).write_text("[sources]\n" + "".join(f'{dataset} = "sample/{dataset}"\n' for dataset in DEMONSTRATED))
            use_sample(home, DEFAULT_SEED)
            with dagster_instance(home) as instance:
                summary = materialize_graph(home, instance)
            assert not summary.failed
            assert not summary.waiting
            (home / "ready").touch()
    return Home(home)


@pytest.fixture(scope="session")
def home_in() -> Callable[[Path], Home]:
    """Makes an empty home in a folder."""

    def make(folder: Path) -> Home:
        prepare_home(folder / "home")
        return Home(folder / "home")

    return make


@pytest.fixture(scope="session")
def native_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native files of the sample."""
    folder = tmp_path_factory.mktemp("native") / "sample"
    write_sample(folder)
    return folder


@pytest.fixture
def small_home(tmp_path: Path, native_sample: Path, home_in: Callable[[Path], Home]) -> Callable[..., Home]:
    """Makes a home with a copy of the native files of some datasets, nothing materialized."""

    def make(*datasets: str) -> Home:
        home = home_in(tmp_path)
        for dataset in datasets:
            shutil.copytree(native_sample / dataset, home.path / "native" / dataset)
        home.use(*datasets)
        return home

    return make
