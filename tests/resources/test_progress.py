"""What payloads tell of their progress is in the run's events while they work, wherever they run."""

import gc
import json
import logging
import time
from pathlib import Path
from threading import Event, Thread

import dagster as dg
import pytest

from perturbridge_dagster.payloads import run
from perturbridge_dagster.payloads.handover import forget_requests, write_requests
from perturbridge_dagster.payloads.progress import ProgressHandler, ProgressReader, progress_file, report_progress
from perturbridge_dagster.payloads.requests import Request
from resources import progress
from resources.compute import Compute
from tests.resources.ensuring import Corpus, being_read, within_deadline
from tests.resources.slurm.conftest import Double, double  # noqa: F401 - a fixture

VALIDATION = {"seed": 13, "step": 500, "steps": 3000, "train_rmse": 0.5, "validation_rmse": 0.625}


def observed(instance: dg.DagsterInstance) -> list[dict[str, object]]:
    """Numbers of all observations of an instance, in their order."""
    records = instance.fetch_observations(dg.AssetKey("asset"), limit=100).records
    found = [record.asset_observation for record in reversed(records)]
    return [{name: value.value for name, value in one.metadata.items()} for one in found if one is not None]


# ---- telling and reading -------------------------------------------------------------------------------------------------------


def test_a_task_tells_the_numbers_of_its_training(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    def task(request: Request, folder: Path) -> None:
        report_progress({"step": 1, "validation_rmse": 0.5}, seed=13)
        report_progress({"step": 2, "validation_rmse": float("nan")}, seed=13)
        (folder / "made").write_text("made")

    monkeypatch.setitem(run.TASKS, "training_corpus", task)
    file = write_requests(tmp_path, "run", [corpus("one")])
    reader = ProgressReader(file)
    assert reader.news() == []
    run.main(file)
    assert reader.news() == [{"seed": 13, "step": 1, "validation_rmse": 0.5}, {"seed": 13, "step": 2}]
    assert reader.news() == []
    report_progress({"step": 3})  # nobody listens any more
    assert reader.news() == []
    assert not any(isinstance(each, ProgressHandler) for each in logging.getLogger("perturbridge.progress").handlers)
    forget_requests(file)
    assert not list(file.parent.iterdir())


def test_a_line_that_is_half_written_waits(tmp_path: Path):
    file = tmp_path / "run.json"
    reader = ProgressReader(file)
    progress_file(file).write_text('{"step": 1}\n{"ste')
    assert reader.news() == [{"step": 1}]
    assert reader.news() == []
    with progress_file(file).open("a") as stream:
        stream.write('p": 2}\n')
    assert reader.news() == [{"step": 2}]


# ---- in the run ----------------------------------------------------------------------------------------------------------------


def materialized(home: Path, instance: dg.DagsterInstance, request: Request, partition: str | None = None) -> dg.ExecuteInProcessResult:
    """A run of an asset that ensures a request."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition([partition]) if partition else None)
    def asset(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult:
        [outcome] = compute.ensure(context, request.task, [request])
        assert outcome.status == "computed"
        return dg.MaterializeResult()

    return dg.materialize([asset], resources={"compute": Compute(home=str(home))}, instance=instance, partition_key=partition)


def assert_seen_while_the_payload_works(home: Path, request: Request, pipe: Path, effects: Path, partition: str | None = None) -> None:
    """Hold a payload in the midst of its task, let it tell something, and look at the run's events before letting it go on."""
    seen: list[list[dict[str, object]]] = []
    over = Event()
    with dg.DagsterInstance.ephemeral() as instance:

        def hold() -> None:
            with being_read(pipe) as held:
                [file] = home.glob("requests/*.json")
                for step in (500, 1000):
                    with progress_file(file).open("a") as stream:
                        stream.write(json.dumps({**VALIDATION, "step": step}) + "\n")
                    seen.append(within_deadline("the observation", lambda wanted=step: observed(instance)[wanted // 500 - 1 :]))
                assert not instance.fetch_materializations(dg.AssetKey("asset"), limit=1).records
                held.let_go(effects)
            over.set()

        holder = Thread(target=hold)
        holder.start()
        result = materialized(home, instance, request, partition)
        holder.join()
        assert over.is_set(), "the observations came too late"
        assert result.success
        assert seen == [[VALIDATION], [{**VALIDATION, "step": 1000}]]
        assert observed(instance) == [VALIDATION, {**VALIDATION, "step": 1000}], "each once"
        [first, *_] = instance.fetch_observations(dg.AssetKey("asset"), limit=1).records
        assert first.partition_key == partition
    assert not list(home.glob("requests/*.progress"))


@pytest.mark.slow
def test_numbers_are_seen_while_a_payload_works(
    tmp_path: Path, stalled: tuple[Request, Path], effects: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "_SECONDS", 0.1)
    assert_seen_while_the_payload_works(tmp_path, *stalled, effects, partition="all|scalar_lpm")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_numbers_are_seen_while_a_slurm_job_works(double: Double, stalled: tuple[Request, Path], effects: Path):  # noqa: F811
    request, pipe = stalled
    in_home = Request(request.task, request.arguments, request.inputs, request.code_version, str(double.home / "corpora" / "stalled"))
    assert_seen_while_the_payload_works(double.home, in_home, pipe, effects)
    gc.collect()  # dagster-slurm leaves files open, which must not be found in the next test


def test_where_no_asset_is_made_there_is_nothing_to_observe(tmp_path: Path):
    file = tmp_path / "run.json"

    @dg.op
    def waits(context: dg.OpExecutionContext) -> None:
        with progress.shown(context, file):
            progress_file(file).write_text(json.dumps(VALIDATION) + "\n")
            time.sleep(0)

    @dg.job
    def job() -> None:
        waits()

    assert job.execute_in_process().success
