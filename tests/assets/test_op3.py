"""The evaluation on OP3 in the graph: not configured, configured, stale, and wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import pytest

from assets.planning import COMPENDIUM, NotConfiguredError
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_parquet
from resources.store import SETTINGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGE = "op3_evaluation"
DATASETS = ("vcpi_0001", "vcpi_0002")
FOLDER = "native/op3_benchmark"


@pytest.fixture(scope="module")
def with_embeddings(native_sample: Path, home_in: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home of the two smallest datasets, with embeddings and the files of the benchmark."""
    made = home_in(tmp_path_factory.mktemp("op3"))
    for name in (*DATASETS, "op3_benchmark"):
        shutil.copytree(native_sample / name, made.path / "native" / name)
    shutil.copyfile(native_sample / "sample.json", made.path / "native" / "sample.json")
    made.use(*DATASETS)
    for stage in ("source_files", "harmonized_samples", "condition_effects", "training_corpus"):
        for key in made.planner().keys(stage):
            made.materialize(stage, key)
    made.materialize("compound_embeddings", ("all", "scalar_lpm"))
    return made


@pytest.fixture
def home(with_embeddings: Any) -> Iterator[Any]:
    """That home, with the benchmark configured; what a test changes of the settings is undone."""
    settings = (with_embeddings.path / SETTINGS).read_text()
    (with_embeddings.path / SETTINGS).write_text(f'{settings}\n[op3_benchmark]\nfolder = "{FOLDER}"\n')
    yield with_embeddings
    (with_embeddings.path / SETTINGS).write_text(settings)


def test_without_the_benchmark_it_says_so_and_nothing_fails(with_embeddings: Any) -> None:
    assert with_embeddings.store.op3_benchmark_folder() is None
    assert with_embeddings.planner().keys(STAGE) == []
    with pytest.raises(NotConfiguredError, match=r"names no folder of the OP3 benchmark. Add \[op3_benchmark\]"):
        with_embeddings.planner().plan(STAGE, COMPENDIUM)
    run = with_embeddings.run(STAGE, COMPENDIUM)
    assert run.success
    assert not run.asset_materializations_for_node(STAGE), "an empty table would be a false green"
    [observed] = run.asset_observations_for_node(STAGE)
    assert observed.metadata["state"].value == "not configured"
    assert run.get_asset_check_evaluations() == []


def test_descriptors_are_evaluated_checked_and_in_the_catalog(home: Any) -> None:
    planner = home.planner()
    assert planner.keys(STAGE) == [COMPENDIUM]
    assert planner.state(STAGE, COMPENDIUM) == ("missing", "")
    run = home.run(STAGE, COMPENDIUM)
    assert run.success, home.failure(run)
    checks = {check.check_name: check.passed for check in run.get_asset_check_evaluations()}
    assert set(checks) == {check.name for check in STAGES[STAGE].checks}
    assert all(passed for name, passed in checks.items() if name in STAGES[STAGE].blocking_checks)
    assert home.planner().state(STAGE, COMPENDIUM) == ("current", "")

    [output] = home.planner().outputs(STAGE, COMPENDIUM)
    [request] = [part.request for part in home.planner().plan(STAGE, COMPENDIUM)]
    corpora = request.arguments["corpora"]
    assert corpora == ["all"], "of the configured datasets none is L1000, and none is OP3, so all_without_op3 is all"
    summary, compounds = (read_parquet(output.folder / f"{name}.parquet", STAGE) for name in ("summary", "compounds"))
    assert {"none", "morgan", "scalar_lpm_all", "zero", "ridge_morgan"} <= set(summary["descriptor"])
    assert set(compounds["corpus"].dropna()) == set(corpora)
    held_out = compounds[compounds["split"] == "test"]
    assert held_out["perturbagen"].nunique() == compounds["perturbagen"].nunique() // 4
    # what a corpus has seen is what its conditions say
    conditions = read_parquet(home.store.current("training_corpus", ("all",)).folder / "conditions.parquet", "training_corpus")
    trained = set(conditions.loc[conditions["split"] == "train", "perturbation"])
    of_all = held_out[held_out["corpus"] == "all"]
    assert of_all["seen_pubchem_cid"].tolist() == [str(cid) in trained for cid in of_all["pubchem_cid"]]
    assert of_all["seen_pubchem_cid"].any()

    stamp = output.stamp()
    assert stamp.simulated
    assert stamp.licence == "restricted", "the licence of the benchmark is not stated"
    assert set(stamp.source_datasets) == {"op3_benchmark", *DATASETS}
    used = json.loads((output.folder / "report.json").read_text())
    assert used["embeddings"]["scalar_lpm_all"]["digest"] == home.store.current("compound_embeddings", ("all", "scalar_lpm")).digest

    [materialized] = run.asset_materializations_for_node(STAGE)
    assert "data:image/png" in materialized.metadata["picture_differences"].md_str
    assert "Morgan fingerprints in MRRMSE" in materialized.metadata["verdict"].md_str

    from assets.sensors import OVERVIEW_JOB
    from perturbridge_dagster.definitions import build_definitions

    with home.instance() as instance:
        assert build_definitions(home=home.path).resolve_job_def(OVERVIEW_JOB).execute_in_process(instance=instance).success
    import duckdb

    with duckdb.connect(str(home.path / "catalog.duckdb"), read_only=True) as connection:
        for view, frame in (("op3_summary", summary), ("op3_compounds", compounds)):
            assert connection.execute(f"SELECT count(*) FROM {view}").fetchone()[0] == len(frame)

    # other files of the benchmark make it stale
    table = ad.read_h5ad(home.path / FOLDER / "de_train.h5ad")
    table.write_h5ad(home.path / FOLDER / "de_train.h5ad")
    assert home.planner().state(STAGE, COMPENDIUM)[0] == "stale"


def test_what_is_wrong_with_the_files_is_said(home: Any) -> None:
    listed = pd.read_csv(home.path / FOLDER / "id_map.csv")
    listed.iloc[1:].to_csv(home.path / FOLDER / "id_map.csv", index=False)
    try:
        run = home.run(STAGE, COMPENDIUM)
        assert not run.success
        assert "does not list the conditions of the test table" in home.failure(run)
    finally:
        listed.to_csv(home.path / FOLDER / "id_map.csv", index=False)


@pytest.mark.parametrize(
    ("words", "message"), [("folder = 3", "is not a folder"), ('folders = "a"', r"is not what \[op3_benchmark\] may hold")]
)
def test_settings_that_say_something_else_are_refused(with_embeddings: Any, words: str, message: str) -> None:
    settings = (with_embeddings.path / SETTINGS).read_text()
    (with_embeddings.path / SETTINGS).write_text(f"{settings}\n[op3_benchmark]\n{words}\n")
    try:
        with pytest.raises(InputError, match=message):
            with_embeddings.store.op3_benchmark_folder()
    finally:
        (with_embeddings.path / SETTINGS).write_text(settings)


def test_a_folder_that_is_not_there_is_said(with_embeddings: Any) -> None:
    settings = (with_embeddings.path / SETTINGS).read_text()
    (with_embeddings.path / SETTINGS).write_text(f'{settings}\n[op3_benchmark]\nfolder = "nowhere"\n')
    try:
        state, reason = with_embeddings.planner().state(STAGE, COMPENDIUM)
        assert state == "failed"
        assert "there is no such folder" in reason
    finally:
        (with_embeddings.path / SETTINGS).write_text(settings)
