"""Batches with real runs: what goes together, that partitions are recorded and fail one by one, and what the sensor asks for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets import batches
from assets.batches import BATCH, BATCH_TAG, _Recorder, compute_together, in_batches, is_interrupted, of_datasets
from assets.checks import evaluations
from assets.planning import Part, Planner
from assets.sensors import run_requests, stale_partitions, stale_strata
from perturbridge_dagster.definitions import build_definitions
from perturbridge_dagster.home import CURRENT
from perturbridge_dagster.payloads.needs import GIB, Needs
from perturbridge_dagster.payloads.requests import Outcome, Request, failure_of, record_failure, verified
from resources.store import ACCEPTED, Store

pytestmark = pytest.mark.slow

CONTEXTS = ("CVCL_0004", "CVCL_0006", "CVCL_0023", "CVCL_0031", "CVCL_0035")
"""Cell contexts of the sample's L1000 Phase I."""


# ---- what goes together ------------------------------------------------------------------------------------------------------

needs = st.builds(
    Needs,
    memory_bytes=st.integers(GIB // 2, 64 * GIB),
    seconds=st.floats(1, 5000),
    cpus=st.sampled_from([1, 4]),
    gpus=st.sampled_from([0, 0, 1]),
)


@given(st.lists(st.lists(needs, min_size=1, max_size=3), max_size=30), st.floats(1, 4000))
def test_every_partition_is_in_one_batch_with_others_alike_and_within_the_time(of_partitions, most_seconds):
    keys = [(f"dataset {number}",) for number in range(len(of_partitions))]
    asked = {f"{number} {part}": one for number, several in enumerate(of_partitions) for part, one in enumerate(several)}

    class Planned:
        def plan(self, stage: str, key: tuple[str, ...]) -> list[Part]:
            number = keys.index(key)
            return [
                Part(stage, key, Request(stage, {"part": f"{number} {part}"}, {}, "1", f"/nowhere/{number}-{part}"))
                for part in range(len(of_partitions[number]))
            ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "needs_of", lambda request: asked[request.arguments["part"]])
        made = in_batches(Planned(), "condition_effects", keys, most_seconds)
    assert sorted(key for batch in made for key in batch) == sorted(keys)
    for batch in made:
        assert [keys.index(key) for key in batch] == sorted(keys.index(key) for key in batch), "in the order given"
        several = [of_partitions[keys.index(key)] for key in batch]
        assert len(batch) == 1 or sum(one.seconds for of in several for one in of) <= most_seconds
        memory = [max(one.memory_bytes for one in of) for of in several]
        assert max(memory) <= 2 * min(memory)
        assert len({(max(one.cpus for one in of), max(one.gpus for one in of)) for of in several}) == 1


def test_a_pair_is_of_the_datasets_when_both_are():
    keys = [("op3",), ("op3", "CL_0000084"), ("op3__sciplex",), ("sciplex__tahoe",), ("tahoe",)]
    assert of_datasets(keys, ["op3", "sciplex"]) == keys[:3]
    assert of_datasets(keys, []) == keys


# ---- payloads that die -------------------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A compute resource whose payload dies of some requests, and leaves those after it alone, as the real ones do."""

    deadly: set[str]
    asked: list[list[str]] = field(default_factory=list)

    def ensure(self, context: object, task: str, requests: Sequence[Request]) -> list[Outcome]:
        self.asked.append([request.arguments["name"] for request in requests])
        outcomes, dead = [], False
        for request in requests:
            if dead:
                outcomes.append(Outcome(request, "failed", error="not begun"))
            elif request.arguments["name"] in self.deadly:
                dead = True
                record_failure(request, "the payload died of this")
                outcomes.append(Outcome(request, "failed", error="the payload died of this"))
            else:
                outcomes.append(Outcome(request, "computed"))
        return outcomes


def statuses(tmp_path, names: str, deadly: str) -> tuple[str, int]:
    """What became of each request, c for computed, f for failed, b for not begun; and the payloads it took."""
    requests = [Request("training_corpus", {"name": name}, {}, "1", str(tmp_path / name)) for name in names]
    compute = Scripted(set(deadly))
    outcomes = compute_together(dg.build_op_context(), compute, "training_corpus", requests)
    found = [outcomes[request.digest] for request in requests]
    return "".join("b" if one.error == "not begun" else one.status[0] for one in found), len(compute.asked)


def test_what_a_dead_payload_did_not_begin_is_computed_by_the_next(tmp_path):
    assert statuses(tmp_path / "1", "abcd", "") == ("cccc", 1)
    assert statuses(tmp_path / "2", "abcd", "b") == ("cfcc", 2)
    assert statuses(tmp_path / "3", "abcdef", "abe") == ("ffccfc", 4)
    assert statuses(tmp_path / "4", "abcdef", "f") == ("cccccf", 1)


def test_payloads_that_die_of_everything_are_not_sent_for_ever(tmp_path):
    assert statuses(tmp_path, "abcdefgh", "abcdefgh") == ("fffbbbbb", 3)


def test_a_partition_with_one_part_there_and_one_failed_is_not_computed_a_second_time(tmp_path):
    there, failed = (Request("training_corpus", {"name": name}, {}, "1", str(tmp_path / name)) for name in "ab")
    compute = Scripted({"b"})
    together = compute_together(dg.build_op_context(), compute, "training_corpus", [failed])  # a batch has what is not there
    recorder = _Recorder(compute, together)
    outcomes = recorder.ensure(dg.build_op_context(), "training_corpus", [failed, there])
    assert [(outcome.request, outcome.status) for outcome in outcomes] == [(failed, "failed"), (there, "computed")]
    assert compute.asked == [["b"], ["a"]], "each once"
    recorder.ensure(dg.build_op_context(), "training_corpus", [failed])
    assert len(compute.asked) == 2


# ---- runs --------------------------------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """A run of a batch, and the runs of its partitions."""

    result: dg.ExecuteInProcessResult
    runs: dict[str, dg.DagsterRun]
    payloads: int

    @property
    def statuses(self) -> dict[str, str]:
        return {partition: run.status.value for partition, run in self.runs.items()}


def run_batch(home, config: dict[str, object]) -> Ran:
    """Run a batch from a run configuration as the launchpad has it."""
    with home.instance() as instance:
        job = build_definitions(home=home.path).resolve_job_def("materialize_batch")
        result = job.execute_in_process(
            run_config={"ops": {BATCH: {"config": config}}, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            raise_on_error=False,
        )
        runs = instance.get_runs(dg.RunsFilter(tags={BATCH_TAG: result.run_id}))
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
        return Ran(result, {run.tags["dagster/partition"]: run for run in runs}, sum(" to compute, " in line for line in said))


@pytest.fixture(scope="module")
def l1000(tmp_path_factory, native_sample, home_in):
    """A home with harmonized samples of five small strata. Tests that change it do so to different stages."""
    home = home_in(tmp_path_factory.mktemp("l1000"))
    shutil.copytree(native_sample / "l1000_phase1", home.path / "native" / "l1000_phase1")
    home.use("l1000_phase1")
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, ("l1000_phase1",))
    return home


def partition(context: str) -> str:
    return f"{context}|l1000_phase1"


@pytest.mark.slow
def test_strata_are_computed_in_one_payload_and_recorded_one_by_one(l1000):
    ran = run_batch(l1000, {"stage": "condition_effects", "datasets": ["l1000_phase1"]})
    assert ran.result.success
    assert ran.payloads == 1
    assert ran.statuses == {partition(context): "SUCCESS" for context in CONTEXTS}
    with l1000.instance() as instance:
        assert {run.job_name for run in ran.runs.values()} == {"materialize_condition_effects"}
        asset = dg.AssetKey("condition_effects")
        records = instance.fetch_materializations(dg.AssetRecordsFilter(asset), limit=20).records
        assert {record.partition_key: record.run_id for record in records} == {name: run.run_id for name, run in ran.runs.items()}
        versions = {record.asset_materialization.tags["dagster/data_version"] for record in records}
        assert len(versions) == len(CONTEXTS), "each says what its own output is"
        first = records[0].asset_materialization
        assert "l1000_phase1" in str(first.metadata["source_datasets"].value)
    planner = l1000.planner()
    assert {planner.state("condition_effects", ("l1000_phase1", context)) for context in CONTEXTS} == {("current", "")}
    judged = {row.partition for row in evaluations(l1000.store) if row.stage == "condition_effects" and row.verdict in ("passed", "warned")}
    assert judged == {partition(context) for context in CONTEXTS}

    again = run_batch(l1000, {"stage": "condition_effects"})
    assert again.result.success
    assert again.runs == {}, "nothing is left to do"


@pytest.mark.slow
def test_a_failed_stratum_fails_alone_and_can_be_run_again(l1000):
    stage, chosen = "replicate_effects", [partition("CVCL_0004"), partition("CVCL_0035"), partition("CVCL_0023")]
    broken = ("l1000_phase1", "CVCL_0035")
    strata = l1000.store.current("harmonized_samples", ("l1000_phase1",)).folder / "strata"
    (strata / "CVCL_0035.h5ad").rename(strata / "whole.h5ad")
    shutil.copy(strata / "CVCL_0004.h5ad", strata / "CVCL_0035.h5ad")
    ran = run_batch(l1000, {"stage": stage, "partitions": chosen})
    assert ran.payloads == 1
    assert ran.statuses == {chosen[0]: "SUCCESS", chosen[1]: "FAILURE", chosen[2]: "SUCCESS"}
    assert not ran.result.success
    said = l1000.failure(ran.result)
    assert f"1 of 3 partitions of {stage} failed, each in a run of its own: CVCL_0035|l1000_phase1." in said
    state, reason = l1000.planner().state(stage, broken)
    assert state == "failed"
    assert "CVCL_0035.h5ad: is not what harmonized_samples recorded" in reason
    with l1000.instance() as instance:
        failures = [event for event in instance.all_logs(ran.runs[chosen[1]].run_id) if event.is_dagster_event]
        [failure] = [event for event in failures if event.dagster_event_type == dg.DagsterEventType.STEP_FAILURE]
    assert "is not what harmonized_samples recorded" in str(failure.dagster_event), "its own run says why"
    verdicts = {row.verdict for row in evaluations(l1000.store) if row.partition == chosen[1] and row.stage == stage}
    assert verdicts == {"failed"}
    assert broken not in [key for of, key, _ in stale_partitions(l1000.planner()) if of == stage], "the sensor does not ask for it"

    (strata / "whole.h5ad").rename(strata / "CVCL_0035.h5ad")
    l1000.materialize(stage, broken)  # by the partition's own job
    assert l1000.planner().state(stage, broken) == ("current", "")

    [part] = l1000.planner().plan(stage, ("l1000_phase1", "CVCL_0031"))
    record_failure(part.request, "the node was on fire")
    tried = run_batch(l1000, {"stage": stage, "datasets": ["l1000_phase1"]})
    assert tried.statuses == {partition("CVCL_0006"): "SUCCESS", partition("CVCL_0031"): "SUCCESS"}, "those that were not current"
    assert failure_of(part.request) is None
    made = verified(part.request)
    again = run_batch(l1000, {"stage": stage, "partitions": [partition("CVCL_0031")]})
    assert again.statuses == {partition("CVCL_0031"): "SUCCESS"}
    assert again.payloads == 0, "what is there is adopted"
    assert verified(part.request) == made


@pytest.mark.slow
def test_light_stages_and_stages_without_inputs_go_through_batches_too(small_home):
    home = small_home("l1000_phase1", "vcpi_0001")
    ran = run_batch(home, {"stage": "source_files", "datasets": ["vcpi_0001"]})
    assert ran.statuses == {"vcpi_0001": "SUCCESS"}
    waiting = run_batch(home, {"stage": "condition_effects"})
    assert (waiting.result.success, waiting.runs) == (True, {}), "no strata are known"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"stage": "effects"}, r"no stage 'effects'.*one of source_files, harmonized_samples"),
        ({"stage": "source_files", "partitions": ["sciplex"]}, r"no partition sciplex.*some of vcpi_0001"),
    ],
)
def test_what_is_not_there_is_refused_with_the_choices(small_home, config, said):
    home = small_home("vcpi_0001")
    ran = run_batch(home, config)
    assert not ran.result.success
    assert re.search(said, home.failure(ran.result))


@pytest.mark.slow
def test_an_interrupt_while_partitions_are_recorded_ends_the_batch(small_home, monkeypatch):
    home = small_home("vcpi_0001", "op3", "dilimap_train")
    publish, published = Store.publish, []

    def interrupted(self, stage, key, outcome):
        if published:
            raise KeyboardInterrupt
        published.append(key)
        return publish(self, stage, key, outcome)

    monkeypatch.setattr(Store, "publish", interrupted)
    ran = run_batch(home, {"stage": "source_files"})
    assert is_interrupted(ran.result)
    assert sorted(ran.statuses.values()) == ["FAILURE", "SUCCESS"], "no third one was begun"


# ---- the sensor --------------------------------------------------------------------------------------------------------------


def asked_for(requests: list[dg.RunRequest]) -> list[tuple[str, list[str]]]:
    configs = [request.run_config["ops"][BATCH]["config"] for request in requests]
    return [(config["stage"], sorted(config["partitions"])) for config in configs]


@pytest.mark.slow
def test_the_sensor_asks_for_each_stale_partition_once_and_again_when_code_or_inputs_change(demo_home, monkeypatch):
    every = sorted(partition(context) for context in CONTEXTS)

    def planner(versions: dict[str, str]) -> Planner:
        """A planner to which some cell contexts of L1000 have another code version."""
        planner = demo_home.planner()
        real_plan = planner.plan

        def plan(stage, key):
            parts = real_plan(stage, key)
            if stage == "condition_effects" and key[0] == "l1000_phase1" and key[1] in versions:
                return [replace(part, request=replace(part.request, code_version=versions[key[1]])) for part in parts]
            return parts

        monkeypatch.setattr(planner, "plan", plan)
        return planner

    changed = dict.fromkeys(CONTEXTS, "2")
    requests, asked = run_requests(planner(changed), 3600)
    assert asked_for(requests) == [("condition_effects", every)]
    assert len(asked) == len(CONTEXTS)
    assert requests[0].run_key is None, "Dagster starts one run a run key, and none when the same state comes back"
    assert run_requests(planner(changed), 3600, asked) == ([], asked), "what is on its way, or was cancelled, is not asked for again"
    assert len(run_requests(planner(changed), 1)[0]) == len(CONTEXTS), "large ones are alone"

    one_more = changed | {"CVCL_0023": "3"}
    requests, asked_now = run_requests(planner(one_more), 3600, asked)
    assert asked_for(requests) == [("condition_effects", [partition("CVCL_0023")])]
    assert len(set(asked_now) - set(asked)) == 1
    requests, _ = run_requests(planner(changed), 3600, asked_now)
    assert asked_for(requests) == [("condition_effects", [partition("CVCL_0023")])], "what has changed back"
    assert run_requests(planner({}), 3600, asked_now) == ([], []), "what is current is forgotten"


@pytest.mark.slow
def test_the_sensor_has_outputs_judged_that_never_were_and_leaves_those_that_failed(small_home, monkeypatch):
    home = small_home("vcpi_0001")
    source, stage, key = "source_files", "harmonized_samples", ("vcpi_0001",)
    for one in (source, stage):
        home.materialize(one, key)
    output = home.store.current(stage, key)
    published = {one: home.store.folder(one, key) / CURRENT for one in (source, stage)}

    def asked(before: Sequence[str] = ()) -> tuple[list[tuple[str, list[str]]], list[str]]:
        """What the sensor asks for of these two stages; effects can be missing here."""
        requests, now = run_requests(home.planner(), 3600, before)
        return [one for one in asked_for(requests) if one[0] in (source, stage)], now

    assert asked()[0] == []
    (output.folder / ACCEPTED).unlink()
    assert home.planner().state(stage, key)[0] == "unaccepted"
    assert asked()[0] == [], "the run that has just published it may be judging it"
    os.utime(published[stage], (1, 1))
    requests, now = asked()
    assert requests == [(stage, ["vcpi_0001"])]
    assert asked(now) == ([], now), "once"

    ran = run_batch(home, {"stage": stage, "partitions": ["vcpi_0001"]})
    assert ran.statuses == {"vcpi_0001": "SUCCESS"}
    assert ran.payloads == 0, "what is there is adopted"
    assert home.store.current(stage, key) == output
    assert home.planner().state(stage, key) == ("current", "")

    for file in published.values():
        os.utime(file, (1, 1))
    home.store.record_checks(output, {"schema": {"passed": False, "failed": ["a rule"], "warned": []}})
    assert home.planner().state(stage, key)[0] == "unaccepted"
    assert asked()[0] == [], "its check did fail"

    for module in ("resources.store", "assets.sensors"):
        monkeypatch.setattr(f"{module}.SUITE_VERSION", "the next")
    assert asked(now)[0] == [(source, ["vcpi_0001"])]
    home.store.record_checks(home.store.current(source, key), {"files_unchanged": {"passed": True, "failed": [], "warned": []}})
    assert asked(now)[0] == [(stage, ["vcpi_0001"])], "other rules, another question"


def test_the_sensor_remembers_between_its_looks(small_home):
    home = small_home("vcpi_0001", "op3")

    def look(cursor: str | None) -> dg.SensorResult:
        with home.instance() as instance:
            return stale_strata(dg.build_sensor_context(instance=instance, cursor=cursor, resources={"store": home.store}))

    first = look(None)
    assert asked_for(first.run_requests) == [("source_files", ["op3", "vcpi_0001"])]
    second = look(first.cursor)
    assert second.run_requests == []
    assert "2 partitions are not current and have been asked for" in second.skip_reason.skip_message
    assert second.cursor == first.cursor
