"""The comparison with the published release in the graph: not configured, configured, stale, and wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.overview import coverage
from assets.planning import NotConfiguredError
from perturbridge_dagster.effects import estimate_effects
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_h5ad, read_parquet
from resources.store import SETTINGS
from tests.published import release

pytestmark = pytest.mark.slow

DATASET, CONTEXT = "vcpi_0001", "CVCL_0006"
KEY = (DATASET, CONTEXT)


def write_release(home: Any, *, in_batches: bool = False) -> Path:
    """Write the release of the home's stratum from its own harmonized samples, and name its folder in the settings."""
    [stratum] = (home.store.current("harmonized_samples", (DATASET,)).folder / "strata").glob(f"{CONTEXT}.h5ad")
    samples = read_h5ad(stratum, "harmonized_samples")
    samples.X = samples.X.toarray()
    folder = home.path / "release"
    file = folder / DATASET / "group_rep" / f"{CONTEXT}_de.h5ad"
    treated = samples.obs.loc[~samples.obs["is_control"], "perturbagen"].astype(str).unique()
    half = len(treated) // 2
    members = [treated[: half + 2], treated[half:]] if in_batches else [treated]
    batches = release.batch_tables(samples, members, engine="structured")
    release.write_effects_file(file, release.aggregated(batches) if in_batches else batches["batch_1"])
    settings = home.path / SETTINGS
    settings.write_text(settings.read_text() + '\n[published]\nfolder = "release"\n')
    return file


@pytest.fixture(scope="module")
def with_effects(native_sample: Path, home_in: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home with the effects of one stratum."""
    made = home_in(tmp_path_factory.mktemp("published"))
    shutil.copytree(native_sample / DATASET, made.path / "native" / DATASET)
    made.use(DATASET)
    for stage in ("source_files", "harmonized_samples"):
        made.materialize(stage, (DATASET,))
    made.materialize("condition_effects", KEY)
    return made


@pytest.fixture
def home(with_effects: Any) -> Iterator[Any]:
    """That home, without a release; what a test adds to it is taken away again."""
    settings = (with_effects.path / SETTINGS).read_text()
    yield with_effects
    (with_effects.path / SETTINGS).write_text(settings)
    for folder in ("release", "nowhere", STAGES["published_comparison"].folder):
        shutil.rmtree(with_effects.path / folder, ignore_errors=True)


def test_without_a_release_it_says_so_and_nothing_fails(home: Any) -> None:
    assert home.store.published_folder() is None
    assert home.planner().keys("published_comparison") == []
    with pytest.raises(NotConfiguredError, match=r"settings.toml names no folder of the published release. Add \[published\]"):
        home.planner().plan("published_comparison", KEY)
    run = home.run("published_comparison", KEY)
    assert run.success
    assert not run.asset_materializations_for_node("published_comparison"), "an empty table would be a false green"
    [observed] = run.asset_observations_for_node("published_comparison")
    assert observed.metadata["state"].value == "not configured"
    assert observed.partition == "CVCL_0006|vcpi_0001"
    assert run.get_asset_check_evaluations() == []
    with home.instance() as instance:
        metadata = coverage_of(home, instance)
    assert "[published]" in metadata["not_configured"].md_str


def coverage_of(home: Any, instance: Any) -> Any:
    from assets.sensors import OVERVIEW_JOB
    from perturbridge_dagster.definitions import build_definitions

    run = build_definitions(home=home.path).resolve_job_def(OVERVIEW_JOB).execute_in_process(instance=instance)
    assert run.success
    [materialized] = run.asset_materializations_for_node(coverage.key.path[-1])
    return materialized.metadata


def test_a_release_of_the_same_fit_is_compared_checked_and_in_the_catalog(home: Any) -> None:
    import duckdb

    file = write_release(home)
    assert home.planner().keys("published_comparison") == [KEY]
    assert home.planner().state("published_comparison", KEY) == ("missing", "")
    run = home.run("published_comparison", KEY)
    assert run.success, home.failure(run)
    assert all(check.passed for check in run.get_asset_check_evaluations()), home.failure(run)
    assert {check.check_name for check in run.get_asset_check_evaluations()} == {"scores", "agrees"}
    assert home.planner().state("published_comparison", KEY) == ("current", "")
    [materialized] = run.asset_materializations_for_node("published_comparison")
    assert materialized.metadata["state"].value == "compared"
    assert "data:image/png" in materialized.metadata["picture_ours_and_published"].md_str
    [output] = home.planner().outputs("published_comparison", KEY)
    [stratum] = read_parquet(output.folder / "strata.parquet", "published_comparison").to_dict("records")
    assert stratum["n_both"] > 20
    assert stratum["n_only_published"] == 0
    assert stratum["spearman_logFC_q50"] > 0.9
    [recorded] = json.loads((output.folder / "report.json").read_text())["published_files"]
    assert (recorded["name"], recorded["bytes"]) == (file.name, file.stat().st_size)
    assert output.stamp().source_datasets == (DATASET,)
    with home.instance() as instance:
        assert "published_comparison" not in coverage_of(home, instance)["not_configured"].md_str
    with duckdb.connect(str(home.path / "catalog.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM published_comparison").fetchone()[0] == stratum["n_published_rows"]


def test_batches_are_fitted_again_and_explain(home: Any) -> None:
    write_release(home, in_batches=True)
    home.materialize("published_comparison", KEY)
    [output] = home.planner().outputs("published_comparison", KEY)
    [stratum] = read_parquet(output.folder / "strata.parquet", "published_comparison").to_dict("records")
    assert stratum["n_batches"] == 2
    assert stratum["n_padding"] > 0
    assert stratum["spearman_logFC_refit"] >= stratum["spearman_logFC_q50"]
    compared = read_parquet(output.folder / "comparison.parquet", "published_comparison")
    assert compared["explanation"].isin(["batch", "equal", "pooled_names"]).mean() > 0.9
    assert json.loads((output.folder / "report.json").read_text())["refit"] == "2 batches of the release were fitted again"
    assert sorted(path.name for path in output.folder.iterdir() if path.is_dir()) == ["figures"], "the refit is not kept"


def test_a_changed_file_makes_it_stale_and_a_broken_one_fails_by_name(home: Any) -> None:
    file = write_release(home)
    home.materialize("published_comparison", KEY)
    file.write_bytes(file.read_bytes()[:5_000])
    assert home.planner().state("published_comparison", KEY)[0] == "stale"
    run = home.run("published_comparison", KEY)
    assert not run.success
    assert "cannot be read as HDF5" in home.failure(run)
    assert file.name in home.planner().state("published_comparison", KEY)[1]


def test_what_the_folder_lacks_is_named(home: Any) -> None:
    settings = home.path / SETTINGS
    before = settings.read_text()
    settings.write_text(before + '\n[published]\nfolder = "nowhere"\n')
    assert home.planner().keys("published_comparison") == [KEY], "so that coverage shows it"
    state, reason = home.planner().state("published_comparison", KEY)
    assert state == "failed"
    assert "the folder of the published release does not exist" in reason
    (home.path / "nowhere" / DATASET / "group_rep").mkdir(parents=True)
    assert home.planner().keys("published_comparison") == []
    with pytest.raises(InputError, match=r"no effects of a stratum of cell context CVCL_0006.*it has nothing of this dataset"):
        home.planner().plan("published_comparison", KEY)
    settings.write_text(before + "\n[published]\nfolder = 3\n")
    with pytest.raises(InputError, match=r"published.folder: is not a folder"):
        home.store.published_folder()
    settings.write_text(before + '\n[published]\nfolders = "a"\n')
    with pytest.raises(InputError, match=r"column published: is not what \[published\] may hold"):
        home.store.published_folder()


def test_the_release_writer_is_the_fit_of_the_conditions(home: Any) -> None:
    """The writer fits by labels; where labels and our conditions are one, so are the effects."""
    [stratum] = (home.store.current("harmonized_samples", (DATASET,)).folder / "strata").glob(f"{CONTEXT}.h5ad")
    samples = read_h5ad(stratum, "harmonized_samples")
    samples.X = samples.X.toarray()
    samples.obs["pubchem_cid"] = np.nan
    ours, theirs = estimate_effects(samples), release.fit_as_published(samples, engine="structured")
    assert len(ours.contrasts) == len(theirs.contrasts)
