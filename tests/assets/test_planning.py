from __future__ import annotations

import os
import shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path

import dagster as dg
import h5py
import pytest

from assets.overview import coverage
from assets.partitions import register_datasets
from assets.planning import WaitingError
from assets.planning.stage_plans import Draft
from assets.sensors import run_requests, stale_partitions
from perturbridge_dagster import registry
from perturbridge_dagster.effects import estimate_effects
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.home import CURRENT
from perturbridge_dagster.payloads.requests import failure_of
from perturbridge_dagster.payloads.tasks import EFFECTS_OPTIONS
from perturbridge_dagster.registry import pair_key
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import write_json
from resources.store import ACCEPTED, SETTINGS

pytestmark = pytest.mark.slow


def test_only_real_partitions_are_planned_and_all_are_current(demo_home):
    planner = demo_home.planner()
    keys = {stage: planner.keys(stage) for stage in STAGES}
    assert len(keys["harmonized_samples"]) == 3
    assert ("sciplex", "CVCL_0004") in keys["condition_effects"]
    assert ("vcpi_0001", "CVCL_0004") not in keys["condition_effects"]
    assert keys["condition_effects"] == keys["replicate_effects"]
    assert len(keys["condition_effects"]) < 3 * len({context for _, context in keys["condition_effects"]})
    states = {planner.state(stage, key) for stage in STAGES for key in keys[stage]}
    assert states == {("current", "")}
    assert run_requests(planner, 60) == ([], [])


def test_a_context_that_a_dataset_does_not_have_is_refused_with_the_choices(demo_home):
    with pytest.raises(InputError, match=r"no samples of cell context CVCL_0035.*CVCL_0006"):
        demo_home.planner().plan("condition_effects", ("vcpi_0001", "CVCL_0035"))


def test_effects_are_asked_for_with_the_options_of_the_registry(small_home, monkeypatch):
    home = small_home("vcpi_0001")
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, ("vcpi_0001",))
    effects = ("vcpi_0001", "CVCL_0006")
    [grouped] = home.planner().plan("condition_effects", effects)
    [separate] = home.planner().plan("replicate_effects", effects)
    options = {name: grouped.request.arguments[name] for name in EFFECTS_OPTIONS}
    assert options == {
        "replicates": "grouped",
        "normalized": False,
        "min_cells": 0,
        "engine": "structured",
        "gene_filter": "edgeR",
        "standard_errors": "limma",
        "times": None,
        "without_controls": "refuse",
    }
    assert {name: separate.request.arguments[name] for name in EFFECTS_OPTIONS} == options | {"replicates": "separate"}
    parameters = signature(estimate_effects).parameters
    assert set(EFFECTS_OPTIONS) <= set(parameters)

    dataset = registry.dataset("vcpi_0001")
    chosen = dataset.effects.model_copy(update={"gene_filter": "supported", "times": (24.0,)})
    monkeypatch.setattr("assets.planning.effects.registered", lambda _: dataset.model_copy(update={"effects": chosen}))
    [changed] = home.planner().plan("condition_effects", effects)
    assert (changed.request.arguments["gene_filter"], changed.request.arguments["times"]) == ("supported", [24.0])
    assert changed.request.digest != grouped.request.digest
    assert home.planner().state("harmonized_samples", ("vcpi_0001",))[0] == "current"


def test_what_is_not_there_makes_others_wait(small_home):
    home = small_home("vcpi_0001")
    with pytest.raises(WaitingError, match="source_files vcpi_0001 is not there yet"):
        home.planner().plan("harmonized_samples", ("vcpi_0001",))
    assert [stage for stage, _, _ in stale_partitions(home.planner())] == ["source_files"]


def test_one_changed_well_makes_its_cell_context_stale_and_no_other(small_home):
    home = small_home("l1000_phase1")
    key = ("l1000_phase1",)
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, key)
    before = {part.key: part.request.digest for context in home.planner().cell_contexts(*key) for part in home.effects_parts(context)}
    [matrix] = (home.path / "native" / "l1000_phase1").glob("*.gctx")
    with h5py.File(matrix, "r+") as file:
        ids = file["0/META/COL/id"].asstr()[:]
        well = next(i for i, name in enumerate(ids) if "_A549_" in name)
        file["0/DATA/0/matrix"][well] = file["0/DATA/0/matrix"][well] + 0.5
    os.utime(matrix, (1, 1))
    assert home.planner().state("source_files", key)[0] == "stale"
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, key)
    after = {part.key: part.request.digest for context in home.planner().cell_contexts(*key) for part in home.effects_parts(context)}
    assert {name[1] for name in before if before[name] != after[name]} == {"CVCL_0023"}


def test_a_touched_file_with_the_same_content_makes_nothing_downstream_stale(small_home):
    home = small_home("vcpi_0001")
    key = ("vcpi_0001",)
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, key)
    os.utime(home.path / "native" / "vcpi_0001" / "data.parquet", (1, 1))
    home.materialize("source_files", key)
    assert home.planner().state("harmonized_samples", key)[0] == "current"


def test_a_failed_stratum_fails_its_partition_and_is_left_out_by_name(small_home):
    home = small_home("vcpi_0001")
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, ("vcpi_0001",))
    effects = ("vcpi_0001", "CVCL_0006")
    [part] = home.planner().plan("condition_effects", effects)
    write_json(part.request.failure, {"error": "no residual degrees of freedom"})
    assert home.planner().state("condition_effects", effects) == ("failed", "vcpi_0001 CVCL_0006: no residual degrees of freedom")
    assert ("condition_effects", effects) not in [found[:2] for found in stale_partitions(home.planner())], "not asked for again"
    assert "replicate_effects" in [found[0] for found in stale_partitions(home.planner())], "the replicates are still asked for"
    home.run("condition_effects", effects)
    assert failure_of(part.request) is None, "a run by hand tries again"
    [replicates] = home.planner().plan("replicate_effects", effects)
    write_json(replicates.request.failure, {"error": "no residual degrees of freedom"})
    [agreement] = home.planner().plan("replicate_agreement", ("vcpi_0001",))
    assert agreement.request.arguments["left_out"] == ["vcpi_0001 CVCL_0006"]
    assert agreement.request.inputs == {}


def test_strata_beside_a_failed_one_are_judged_and_used_and_it_alone_is_left_out(small_home):
    home = small_home("gdpx2")
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, ("gdpx2",))
    samples = home.store.current("harmonized_samples", ("gdpx2",))
    strata = samples.folder / "strata"
    shutil.copy(strata / "CL_0002539_0.0625.h5ad", strata / "CL_0002539_0.625.h5ad")
    assert home.planner().keys("condition_effects") == [("gdpx2", "CL_0002539"), ("gdpx2", "CL_0002551")]
    run = home.run("condition_effects", ("gdpx2", "CL_0002539"))
    assert not run.success
    assert "CL_0002539_0.625.h5ad: is not what harmonized_samples recorded" in home.failure(run)
    made = home.planner().outputs("condition_effects", ("gdpx2", "CL_0002539"))
    assert [(output.key[-1], output.unaccepted_checks()) for output in made] == [("CL_0002539_0.0625", []), ("CL_0002539_0.1875", [])]
    home.materialize("condition_effects", ("gdpx2", "CL_0002551"))

    failed = "gdpx2 CL_0002539_0.625"
    planner = home.planner()
    [corpus] = planner.plan("training_corpus", ("all",))
    assert corpus.request.arguments["left_out"] == [failed]
    assert sorted(name for name in corpus.request.inputs if name.startswith("gdpx2/CL_0002539")) == [
        "gdpx2/CL_0002539_0.0625",
        "gdpx2/CL_0002539_0.1875",
    ]
    assert planner.state("training_corpus", ("all",)) == ("missing", "")
    # no other dataset of the sample has a cell context in common with it
    [pair] = planner.plan("matched_conditions", (pair_key("gdpx2", "gdpx2"),))
    assert set(pair.request.arguments["left_out"]) == {failed}
    assert planner.state("matched_conditions", (pair_key("gdpx2", "gdpx2"),)) == ("missing", "")

    asked = [found[:2] for found in stale_partitions(planner)]
    assert ("condition_effects", ("gdpx2", "CL_0002539")) not in asked
    (made[0].folder / ACCEPTED).unlink()
    os.utime(made[0].folder.parent / CURRENT, (1, 1))
    asked = [found[:2] for found in stale_partitions(home.planner())]
    assert ("condition_effects", ("gdpx2", "CL_0002539")) in asked, "or what is downstream would wait for ever"
    assert home.planner().state("training_corpus", ("all",))[0] == "waiting"


def test_a_new_instance_knows_the_cell_contexts_of_an_old_home(demo_home):
    with dg.DagsterInstance.ephemeral() as instance:
        register_datasets(instance, demo_home.store)
        found = instance.get_dynamic_partitions("cell_context")
    planner = demo_home.planner()
    assert set(found) == {context for dataset in demo_home.store.source_folders() for context in planner.cell_contexts(dataset)}
    assert len(found) > 4


def test_what_is_downstream_of_a_stale_partition_waits(demo_home, monkeypatch):
    planner = demo_home.planner()
    stale = ("sciplex", "CVCL_0023")
    real_plan = planner.plan

    def plan(stage, key):
        parts = real_plan(stage, key)
        if (stage, key) != ("condition_effects", stale):
            return parts
        return [replace(part, request=replace(part.request, code_version="the next")) for part in parts]

    monkeypatch.setattr(planner, "plan", plan)
    assert planner.state("condition_effects", stale)[0] == "stale"
    assert planner.state("matched_conditions", ("l1000_phase1__sciplex",))[0] == "waiting"
    assert planner.state("training_corpus", ("all",)) == (
        "waiting",
        "condition_effects sciplex CVCL_0023 is stale: inputs or code have changed since it was made",
    )
    assert planner.state("matched_conditions", ("l1000_phase1__vcpi_0001",))[0] == "current"
    assert [found[:2] for found in stale_partitions(planner)] == [("condition_effects", stale)]


def test_matches_are_scored_with_the_effects_they_were_made_from_and_no_others(demo_home, monkeypatch):
    planner = demo_home.planner()
    real = Draft.add_effects

    def redone(draft, mode, contexts):
        left_out = real(draft, mode, contexts)
        draft.inputs |= {name: replace(value, checksum="another") for name, value in draft.inputs.items()}
        return left_out

    monkeypatch.setattr(Draft, "add_effects", redone)
    with pytest.raises(WaitingError, match="made from other effects than the current ones"):
        planner.plan("cross_dataset_agreement", ("l1000_phase1__sciplex",))


@pytest.mark.parametrize(
    "change", [{"constants": {"organism": "mouse"}}, {"control": {"labels": ("water",)}}, {"licence": {"class_": "restricted"}}], ids=str
)
def test_what_the_registry_says_of_a_dataset_is_part_of_what_is_asked_for(demo_home, monkeypatch, change):
    from perturbridge_dagster import registry

    before = {stage: demo_home.planner().plan(stage, ("sciplex",))[0].request.digest for stage in ("source_files", "harmonized_samples")}
    [(field, values)] = change.items()
    declared = registry.dataset("sciplex")
    old = getattr(declared, field)
    new = {**old, **values} if isinstance(old, dict) else old.model_copy(update=values)
    changed = declared.model_copy(update={field: new})
    monkeypatch.setattr(
        "assets.planning.sources.registered", lambda dataset: changed if dataset == "sciplex" else registry.dataset(dataset)
    )
    after = {stage: demo_home.planner().plan(stage, ("sciplex",))[0].request.digest for stage in before}
    assert before["harmonized_samples"] != after["harmonized_samples"]
    assert (before["source_files"] != after["source_files"]) == (field == "licence")
    assert demo_home.planner().state("condition_effects", ("sciplex", "CVCL_0023"))[0] == "waiting"


def test_files_that_have_moved_are_recorded_again_and_nothing_is_computed_again(small_home):
    home = small_home("vcpi_0001")
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, ("vcpi_0001",))
    (home.path / "native").rename(home.path / "moved")
    (home.path / SETTINGS).write_text('[sources]\nvcpi_0001 = "moved/vcpi_0001"\n')
    assert home.planner().state("source_files", ("vcpi_0001",))[0] == "stale"
    home.materialize("source_files", ("vcpi_0001",))
    assert home.planner().state("harmonized_samples", ("vcpi_0001",))[0] == "current"


def test_coverage_names_what_is_lacking(small_home):
    home = small_home("vcpi_0001")
    home.materialize("source_files", ("vcpi_0001",))
    from perturbridge_dagster.written import read_parquet

    with home.instance() as instance:
        dg.materialize([coverage], resources={"store": home.store}, instance=instance)
    frame = read_parquet(Path(home.path) / "coverage.parquet", "coverage").set_index("stage")
    assert frame.loc["source_files", "state"] == "current"
    assert frame.loc["harmonized_samples", "state"] == "missing"
    assert frame.loc["replicate_agreement", "state"] == "waiting"
    assert "condition_effects" not in frame.index, "no strata are known yet"


def test_a_dataset_counts_once_beside_the_one_that_contains_it(home_in, tmp_path, monkeypatch):
    home = home_in(tmp_path)
    home.use("dilimap_train_val", "dilimap_train", "sciplex")
    planner = home.planner()
    assert planner.keys("harmonized_samples") == [("sciplex",), ("dilimap_train",), ("dilimap_train_val",)]
    assert planner.keys("matched_conditions") == [("sciplex__dilimap_train_val",)]
    assert planner.keys("replicate_agreement") == [("sciplex",), ("dilimap_train_val",)]
    monkeypatch.setattr(planner, "cell_contexts", lambda _: ["A"])
    assert planner.upstream("training_corpus", ("all",)) == [
        ("condition_effects", ("sciplex", "A")),
        ("condition_effects", ("dilimap_train", "A")),
    ]
