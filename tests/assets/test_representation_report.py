"""The report on representation: of everything that is kept current, and of what was made by hand, as long as it is current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.planning import COMPENDIUM, Planner, WaitingError
from assets.planning.representation import REPORTED_STAGES
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import Stamp, read_parquet, write_json
from resources.store import SETTINGS, Key, Output, Store
from tests.conftest import Home

STAGE = "representation_report"
KEPT: dict[str, list[Key]] = {
    "training_corpus": [("all",), ("l1000",)],
    "compound_embeddings": [("all", "scalar_lpm")],
    "holdout_evaluation": [("molecules",)],
    "op3_evaluation": [],
}


class Planned(Planner):
    """A planner that is told what is kept and how it stands."""

    def __init__(self, store: Store, states: dict[tuple[str, Key], tuple[str, str]], **options: Any) -> None:
        super().__init__(store, **options)
        self._told = states

    def keys(self, stage: str) -> list[Key]:
        return KEPT[stage] if stage in KEPT else super().keys(stage)

    def state(self, stage: str, key: Key) -> tuple[Any, str]:
        return self._told.get((stage, key), ("current", "")) if stage in KEPT else super().state(stage, key)

    def accepted(self, stage: str, key: Key) -> tuple[Output, list[str]]:
        output = self.store.current(stage, key)
        assert output is not None, f"{stage} {key} is not there"
        reason = self.state(stage, key)[0]
        return output, [] if reason == "current" else [f"{output.name}: {reason}"]


def publish(store: Store, stage: str, key: Key, digest: str = "d") -> None:
    folder = store.folder(stage, key)
    write_json(folder / "output" / "done.json", {"digest": digest, "inputs": {}})
    write_json(folder / "current.json", {"digest": digest, "output": "output"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(home=str(tmp_path))
    for stage, keys in KEPT.items():
        for key in keys:
            publish(store, stage, key)
    return store


def inputs_of(planner: Planner) -> set[str]:
    [part] = planner.plan(STAGE, COMPENDIUM)
    return set(part.request.inputs)


EVERYTHING = {"training_corpus/all", "training_corpus/l1000", "compound_embeddings/all/scalar_lpm", "holdout_evaluation/molecules"}


def test_everything_that_is_kept_is_in_the_report(store: Store) -> None:
    planner = Planned(store, {})
    assert inputs_of(planner) == EVERYTHING
    assert planner.plan(STAGE, COMPENDIUM)[0].request.arguments == {"left_out": [], "unaccepted_inputs": []}
    assert planner.state(STAGE, COMPENDIUM)[0] == "missing"


def test_what_was_made_by_hand_is_reported_while_it_is_current(store: Store) -> None:
    single = ("single:sciplex", "scalar_lpm")
    publish(store, "compound_embeddings", single)
    assert inputs_of(Planned(store, {})) == EVERYTHING | {"compound_embeddings/single:sciplex/scalar_lpm"}
    stale = Planned(store, {("compound_embeddings", single): ("stale", "inputs or code have changed since it was made")})
    assert inputs_of(stale) == EVERYTHING
    [part] = stale.plan(STAGE, COMPENDIUM)
    assert part.request.arguments["left_out"] == [
        "compound_embeddings single:sciplex scalar_lpm is stale: inputs or code have changed since it was made"
    ]


@pytest.mark.parametrize(
    ("state", "of_report"), [("failed", "missing"), ("unaccepted", "missing"), ("stale", "waiting"), ("missing", "waiting")]
)
def test_it_waits_for_what_can_be_made_and_names_what_failed(store: Store, state: str, of_report: str) -> None:
    planner = Planned(store, {("holdout_evaluation", ("molecules",)): (state, "why")})
    assert planner.state(STAGE, COMPENDIUM)[0] == of_report
    assert inputs_of(planner) == EVERYTHING - {"holdout_evaluation/molecules"}
    assert planner.plan(STAGE, COMPENDIUM)[0].request.arguments["left_out"] == [f"holdout_evaluation molecules is {state}: why"]


def test_what_is_unaccepted_taints_the_report_where_that_is_allowed(store: Store) -> None:
    states = {("compound_embeddings", ("all", "scalar_lpm")): ("unaccepted", "licence")}
    planner = Planned(store, states, allow_unaccepted=True)
    assert inputs_of(planner) == EVERYTHING
    assert planner.plan(STAGE, COMPENDIUM)[0].request.arguments["unaccepted_inputs"] == ["compound_embeddings all scalar_lpm: unaccepted"]


def test_a_part_that_changes_makes_another_report(store: Store) -> None:
    before = Planned(store, {}).plan(STAGE, COMPENDIUM)[0].request.digest
    publish(store, "holdout_evaluation", ("molecules",), digest="e")
    assert Planned(store, {}).plan(STAGE, COMPENDIUM)[0].request.digest != before


def test_without_any_part_there_is_nothing_to_report(store: Store) -> None:
    states = {(stage, key): ("missing", "") for stage, keys in KEPT.items() for key in keys}
    with pytest.raises(WaitingError, match="no training corpus"):
        Planned(store, states).plan(STAGE, COMPENDIUM)


def test_every_stage_that_is_reported_is_one() -> None:
    assert set(REPORTED_STAGES) == set(KEPT) <= set(STAGES)


# ---- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size", "processes"),
    [
        ("", "small", 1),
        ('[representation]\nsize = "published"\n', "published", 1),
        ("[representation]\nprocesses = 2\n", "small", 2),
    ],
)
def test_the_settings_choose_size_and_processes(tmp_path: Path, text: str, size: str, processes: int) -> None:
    (tmp_path / SETTINGS).write_text(text)
    store = Store(home=str(tmp_path))
    assert (store.representation_size(), store.representation_processes()) == (size, processes)


@pytest.mark.parametrize(
    "text", ['size = "large"', "size = 3", "processes = 0", "processes = 1.5", "processes = true", "steps = 10", 'faithful = "yes"']
)
def test_what_the_settings_may_not_hold_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(f"[representation]\n{text}\n")
    with pytest.raises(InputError, match=r"is not what \[representation\] may hold.*small.*published"):
        Store(home=str(tmp_path)).representation_size()


# ---- the sample --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_of_the_sample_is_of_all_that_is_kept(demo_home: Home) -> None:
    planner = demo_home.planner()
    assert planner.state(STAGE, COMPENDIUM) == ("current", "")
    [output] = planner.outputs(STAGE, COMPENDIUM)
    parts = read_parquet(output.folder / "parts.parquet", STAGE)
    assert {*zip(parts["stage"], parts["key"], strict=True)} == {
        (stage, " ".join(key)) for stage in REPORTED_STAGES for key in planner.keys(stage)
    }
    assert parts["simulated"].all()
    stamp: Stamp = output.stamp()
    assert stamp.simulated
    assert "All data are simulated" in (output.folder / "report.md").read_text()
