"""Hold-out evaluations in the graph: which rules are partitions, what each output holds, and what of it the UI and the catalog show."""

from __future__ import annotations

import json

import dagster as dg
import duckdb
import pytest

from assets.partitions import PARTITIONS, key_to_partition
from assets.planning.representation import HoldoutEvaluation
from perturbridge_dagster.contract.representation import FURTHER_SPLITS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.needs import from_sizes, needs_of, sizes_of
from perturbridge_dagster.written import read_parquet
from resources.store import SETTINGS

pytestmark = pytest.mark.slow

STAGE = "holdout_evaluation"


def splits_of(home) -> dict[str, dict]:
    corpus = home.store.current("training_corpus", ("all",))
    return json.loads((corpus.folder / "corpus.json").read_text())["splits"]


def test_rules_that_suit_the_corpus_are_kept_current_and_no_others(demo_home):
    planner = demo_home.planner()
    suits = {rule for rule, split in splits_of(demo_home).items() if split["suits"] and rule != "scalar"}
    assert suits, "there is something to evaluate"
    assert {rule for (rule,) in planner.keys(STAGE)} == suits
    assert {planner.state(STAGE, key) for key in planner.keys(STAGE)} == {("current", "")}
    assert set(PARTITIONS[STAGE].get_partition_keys()) == set(FURTHER_SPLITS), "whatever the corpus, each can be asked for"
    for rule in set(FURTHER_SPLITS) - suits:
        with pytest.raises(InputError, match=f"split rule {rule} does not suit corpus all"):
            planner.plan(STAGE, (rule,))
        assert planner.state(STAGE, (rule,))[0] == "failed"


def test_a_rule_that_does_not_suit_is_no_partition_to_make_and_says_why(demo_home, monkeypatch):
    planner = demo_home.planner()
    splits = {**splits_of(demo_home), "assays": {"suits": False, "reason": "only 2 groups"}}
    monkeypatch.setattr(HoldoutEvaluation, "_splits", lambda plan: splits)
    assert ("assays",) not in planner.keys(STAGE)
    with pytest.raises(InputError, match=r"split rule assays does not suit corpus all: only 2 groups.*one of "):
        planner.plan(STAGE, ("assays",))
    monkeypatch.setattr(HoldoutEvaluation, "_splits", lambda plan: {})
    assert planner.keys(STAGE) == [], "before there is a corpus, none is known"


def test_every_rule_has_scores_of_models_beside_baselines(demo_home):
    for key in demo_home.planner().keys(STAGE):
        folder = demo_home.store.current(STAGE, key).folder
        summary, datasets = (read_parquet(folder / f"{name}.parquet", STAGE) for name in ("summary", "datasets"))
        assert set(summary["kind"]) == {"variant", "baseline"} or not (datasets["outcome"] == "scored").any()
        assert set(summary["rule"]) <= {key[0]}
        assert (folder / "verdict.md").read_text().startswith("**Held out: ")
        assert {"rmse.png", "differences.png"} == {file.name for file in (folder / "figures").iterdir()}


def test_a_corpus_that_is_gone_or_not_accepted_makes_it_wait(demo_home, monkeypatch):
    planner = demo_home.planner()
    monkeypatch.setattr(planner, "_states", {("training_corpus", ("all",)): ("stale", "")})
    key = planner.keys(STAGE)[0]
    assert planner.state(STAGE, key) == ("waiting", "training_corpus all is stale")


def test_size_and_faults_are_chosen_in_the_settings(demo_home, monkeypatch):
    [part] = demo_home.planner().plan(STAGE, ("molecules",))
    assert (part.request.arguments["settings"], part.request.arguments["faithful"]) == ("small", False)
    settings = {**_settings(demo_home), "representation": {"size": "published", "faithful": True}}
    monkeypatch.setattr("resources.store.read_settings", lambda root: settings)
    [published] = demo_home.planner().plan(STAGE, ("molecules",))
    assert (published.request.arguments["settings"], published.request.arguments["faithful"]) == ("published", True)
    assert published.request.digest != part.request.digest
    assert (needs_of(part.request).gpus, needs_of(published.request).gpus) == (0, 1)
    sizes = sizes_of(published.request)
    assert sizes["values_trained"] == 16_000 * sizes["values"] > sizes_of(part.request)["values_trained"] == 0
    assert from_sizes(STAGE, sizes).seconds > from_sizes(STAGE, sizes_of(part.request)).seconds
    for wrong in ({"size": "huge"}, {"faithful": "yes"}, {"sise": "small"}, "small"):
        settings["representation"] = wrong
        with pytest.raises(InputError, match=r"not what \[representation\] may hold"):
            demo_home.planner().plan(STAGE, ("molecules",))


def _settings(home) -> dict:
    from resources.store import read_settings

    assert (home.path / SETTINGS).is_file()
    return read_settings(home.path)


def test_the_ui_shows_the_verdict_pictures_and_tables(demo_home):
    with demo_home.instance() as instance:
        for key in demo_home.planner().keys(STAGE):
            event = instance.get_latest_materialization_event(dg.AssetKey(STAGE))
            assert event is not None
            [record] = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=dg.AssetKey(STAGE), asset_partitions=[str(key_to_partition(STAGE, key))]), limit=1
            ).records
            metadata = record.asset_materialization.metadata
            assert {"verdict", "picture_rmse", "picture_beside_the_best_baseline", "rmse", "datasets", "promises"} <= set(metadata)


def test_the_catalog_has_the_scores(demo_home):
    with duckdb.connect(str(demo_home.path / "catalog.duckdb"), read_only=True) as connection:
        rules = connection.execute("SELECT DISTINCT rule FROM holdout_summary ORDER BY rule").fetchall()
        best = connection.execute("SELECT count(*) FROM holdout_summary WHERE kind = 'variant' AND best_baseline IS NULL").fetchone()
    assert {rule for (rule,) in rules} <= {rule for (rule,) in demo_home.planner().keys(STAGE)}
    assert best == (0,)
