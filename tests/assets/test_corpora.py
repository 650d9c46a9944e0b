"""Corpora as partitions: which are kept current, what makes them stale, and making one by hand."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.partitions import key_to_partition, partition_to_key
from assets.planning import NotConfiguredError
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.corpora import stands_for
from perturbridge_dagster.representation.corpus import open_corpus
from perturbridge_dagster.sample import DATASETS
from perturbridge_dagster.stages import MODELS

pytestmark = pytest.mark.slow


def test_which_corpora_and_models_are_kept_current(home_in, tmp_path):
    home = home_in(tmp_path)
    home.use(*DATASETS)
    planner = home.planner()
    named = ["all", "l1000", "all_without_op3", "open"]
    assert planner.keys("training_corpus") == [(corpus,) for corpus in named]
    assert planner.keys("compound_embeddings") == [
        *(("all", model) for model in MODELS),
        *((corpus, "scalar_lpm") for corpus in named[1:]),
    ]
    assert [stands_for(corpus, home.store.source_folders()) for corpus in named] == named
    home.use("sciplex", "gdpx2")
    planner = home.planner()
    assert planner.keys("training_corpus") == [("all",), ("open",)]
    assert stands_for("all_without_op3", home.store.source_folders()) == "all"
    assert stands_for("l1000", home.store.source_folders()) is None
    with pytest.raises(NotConfiguredError, match=r"corpus l1000 takes none of the datasets.*sciplex: it is not L1000"):
        planner.plan("training_corpus", ("l1000",))
    with pytest.raises(InputError, match="no corpus is called 'everything'"):
        planner.plan("training_corpus", ("everything",))
    assert planner.state("training_corpus", ("single:tahoe",))[0] == "failed", "tahoe is not configured"


def test_a_corpus_is_made_of_the_effects_of_its_datasets_alone(home_in, tmp_path, monkeypatch):
    home = home_in(tmp_path)
    home.use("sciplex", "op3", "gdpx2", "dilimap_train", "dilimap_train_val")
    planner = home.planner()
    monkeypatch.setattr(planner, "cell_contexts", lambda dataset: [f"of {dataset}"])

    def datasets(corpus: str) -> list[str]:
        return [key[0] for stage, key in planner.upstream("training_corpus", (corpus,)) if stage == "condition_effects"]

    assert datasets("all") == ["gdpx2", "sciplex", "dilimap_train", "op3"]
    assert datasets("all_without_op3") == ["gdpx2", "sciplex", "dilimap_train"]
    assert datasets("open") == ["sciplex", "op3"]
    assert datasets("single:op3") == ["op3"]


def test_every_corpus_has_a_partition_a_new_release_too(home_in, tmp_path):
    home = home_in(tmp_path)
    home.use("sciplex", "vcpi_0123")
    with home.instance() as instance:
        partitions = instance.get_dynamic_partitions("corpus")
    assert partitions == ["all", "l1000", "all_without_op3", "open", "single:sciplex", "single:vcpi_0123"]
    for stage, key in {"training_corpus": ("single:vcpi_0123",), "compound_embeddings": ("single:vcpi_0123", "scalar_lpm")}.items():
        assert partition_to_key(stage, str(key_to_partition(stage, key))) == key


def test_a_single_dataset_is_made_by_hand_and_other_datasets_do_not_make_it_stale(small_home):
    home = small_home("vcpi_0001", "sciplex")
    home.use("vcpi_0001")
    for stage, key in {
        "source_files": ("vcpi_0001",),
        "harmonized_samples": ("vcpi_0001",),
        "condition_effects": ("vcpi_0001", "CVCL_0006"),
    }.items():
        home.materialize(stage, key)
    result = home.run("training_corpus", ("single:vcpi_0001",))
    assert result.success, home.failure(result)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"definition": True, "values": True, "split_promise": True}

    [made] = result.asset_materializations_for_node("training_corpus")
    assert made.metadata["datasets"].text == "vcpi_0001"
    splits = {row.data["split"]: row.data for row in made.metadata["splits"].records}
    assert splits["molecules"]["does_not_suit"] == "no condition is left for val and test"
    assert splits["scalar"]["violations"] == 0
    assert {row.data["key"] for row in made.metadata["overlaps"].records} >= {"unit", "cid_anywhere", "context", "assay"}
    assert isinstance(made.metadata["left_out"], dg.MarkdownMetadataValue), "nothing is left out"

    output = home.store.current("training_corpus", ("single:vcpi_0001",))
    corpus = open_corpus(output.folder)
    assert corpus.stamp.licence == "open"
    assert set(corpus.conditions["assay"]) == {"DRUG-seq"}
    assert corpus.conditions["model_system"].notna().all()
    assert corpus.compounds["smiles"].notna().mean() > 0.9
    assert corpus.compounds["scaffold"].nunique() > 3
    assert corpus.summary["n_structures"] == corpus.compounds["smiles"].notna().sum()

    home.use("vcpi_0001", "sciplex")
    planner = home.planner()
    assert planner.state("training_corpus", ("single:vcpi_0001",)) == ("current", "")
    assert planner.state("training_corpus", ("all",))[0] == "waiting"
    assert ("single:vcpi_0001",) not in planner.keys("training_corpus")
