"""Named corpora: what each takes, what it leaves out, and that the check catches what should not be there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.quality.representation import training_corpus
from perturbridge_dagster.representation.corpora import (
    CORPORA,
    corpus_definition,
    corpus_names,
    kept_corpora,
    stands_for,
    why_left_out,
)
from perturbridge_dagster.representation.corpus import write_corpus
from perturbridge_dagster.written import write_json

EVERY = list(registry.datasets())


def test_definitions_of_the_whole_compendium() -> None:
    taken = {name: corpus_definition(name, EVERY) for name in CORPORA}
    trained = [dataset for dataset in EVERY if dataset != "dilimap_train_val"]
    assert list(taken["all"].datasets) == trained
    assert taken["l1000"].datasets == ("l1000_phase1", "l1000_phase2")
    assert list(taken["all_without_op3"].datasets) == [dataset for dataset in trained if dataset != "op3"]
    assert taken["all_without_op3"].left_out["op3"] == "the OP3 evaluation tests on it"
    assert list(taken["open"].datasets) == [dataset for dataset in trained if registry.dataset(dataset).licence.class_ == "open"]
    assert "gdpx2" in taken["open"].left_out
    for definition in taken.values():
        assert set(definition.datasets) | set(definition.left_out) == set(EVERY)
        assert definition.left_out["dilimap_train_val"].startswith("it contains dilimap_train")
        assert definition.to_dict() == {"name": definition.name, "meaning": definition.meaning, "datasets": list(definition.datasets)}


def test_a_corpus_of_one_dataset_is_of_that_alone() -> None:
    definition = corpus_definition("single:tahoe", EVERY)
    assert definition.datasets == ("tahoe",)
    assert set(definition.left_out) == set(EVERY) - {"tahoe"}
    assert definition == replace(corpus_definition("single:tahoe", ["tahoe"]), left_out=definition.left_out)
    assert corpus_definition("single:dilimap_train_val", EVERY).datasets == (), "its held-out samples are trained on in no case"
    for unknown in ("everything", "single:tahoee", "tahoe"):
        with pytest.raises(InputError):
            corpus_definition(unknown, EVERY)


def test_a_new_release_enters_the_corpora_that_it_belongs_to() -> None:
    definitions = {name: corpus_definition(name, ["vcpi_0001", "vcpi_0123"]) for name in CORPORA}
    assert definitions["all"].datasets == definitions["all_without_op3"].datasets == ("vcpi_0001", "vcpi_0123")
    assert definitions["open"].datasets == ("vcpi_0001",), "the terms of a release without an entry are not known"
    assert "licence" in definitions["open"].left_out["vcpi_0123"]
    assert "single:vcpi_0123" in corpus_names(["vcpi_0123"])


def test_a_private_screen_is_in_all_and_never_in_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from perturbridge_dagster.registry import own_screens

    entry = registry.dataset("sciplex").model_copy(
        update={"id": "ours", "licence": registry.Licence.model_validate({"name": "private", "class": "restricted"})}
    )
    monkeypatch.setattr(own_screens, "own_screen", lambda id_: entry if id_ == "ours" else None)
    assert corpus_definition("all", ["sciplex", "ours"]).datasets == ("sciplex", "ours")
    assert corpus_definition("open", ["sciplex", "ours"]).left_out == {"ours": "it may not be redistributed (licence: private)"}
    assert corpus_names(["ours"])[-1] == "single:ours"


def test_kept_are_the_corpora_that_have_datasets_of_their_own() -> None:
    def kept(*datasets: str) -> list[str]:
        return [definition.name for definition in kept_corpora(datasets)]

    assert kept(*EVERY) == ["all", "l1000", "all_without_op3", "open"]
    assert kept("l1000_phase1", "sciplex", "vcpi_0001") == ["all", "l1000"]
    assert kept("l1000_phase1", "l1000_phase2") == ["all"]
    assert kept("op3", "gdpx2") == ["all", "all_without_op3", "open"]
    assert kept("gdpx2") == ["all"]
    assert kept("dilimap_train_val") == kept() == []
    assert stands_for("all_without_op3", ["sciplex", "gdpx2"]) == "all"
    assert stands_for("open", ["op3", "sciplex", "gdpx2"]) == "open"
    assert stands_for("l1000", ["sciplex"]) is None
    assert why_left_out("l1000", "tahoe") == "it is not L1000"


# ---- the blocking check -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> Callable[..., Path]:
    """Writes a corpus of some registered datasets under a name, whatever that name leaves out."""

    def write(name: str, *datasets: str, asked: tuple[str, ...] = (), licence: str = "open") -> Path:
        generator = np.random.default_rng(5)
        rows = [(f"drug {cid}", cid, dose, 24.0) for cid in range(101, 125) for dose in (1.0, 10.0)]
        strata = [
            replace(
                make_effects(dataset, "CVCL_A", rows, generator.standard_normal((len(rows), 4))),
                stamp=make_stamp(dataset, licence=registry.dataset(dataset).licence.class_),
            )
            for dataset in datasets
        ]
        definition = replace(corpus_definition(name, []), datasets=asked or datasets)
        write_corpus(strata, tmp_path / "corpus", make_stamp(licence=licence), name=name, definition=definition)
        return tmp_path / "corpus"

    return write


def failed(folder: Path) -> list[tuple[str, str]]:
    return [
        (check, finding.rule.words) for check, findings in training_corpus(folder).items() for finding in findings if not finding.passed
    ]


@pytest.mark.slow
def test_a_corpus_that_keeps_to_its_definition_passes(written: Callable[..., Path]) -> None:
    assert failed(written("all_without_op3", "sciplex", "gdpx2")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stranger"), [("all_without_op3", "op3"), ("l1000", "sciplex"), ("open", "gdpx2"), ("single:tahoe", "op3")]
)
def test_a_dataset_that_a_corpus_leaves_out_is_caught(written: Callable[..., Path], name: str, stranger: str) -> None:
    folder = written(name, "l1000_phase1" if not name.startswith("single") else "tahoe", stranger)
    findings = training_corpus(folder)["definition"]
    caught = findings[0]
    assert caught.failing_rows["dataset"].tolist() == [stranger]
    assert caught.failing_rows["left_out_since"].tolist() == [why_left_out(name, stranger)]
    assert any(finding.rule.severity == "error" and not finding.passed for finding in findings)
    assert ("definition", "it may be redistributed") in failed(folder) or name != "open"


@pytest.mark.slow
def test_a_dataset_that_was_not_asked_for_or_has_nothing_is_named(written: Callable[..., Path]) -> None:
    folder = written("all", "sciplex", "gdpx2", asked=("sciplex", "gdpx2", "op3"))
    assert failed(folder) == [("definition", "every dataset that it takes has conditions")], "a warning"
    summary = json.loads((folder / "corpus.json").read_text())
    summary["definition"]["datasets"] = ["sciplex"]
    write_json(folder / "corpus.json", summary)
    assert failed(folder) == [("definition", "the corpus takes every dataset that is in it")]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["scalar", "molecules", "scaffolds"])
def test_a_split_that_breaks_its_promise_is_caught(additive_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    import shutil

    from perturbridge_dagster.contract import CORPUS_CONDITIONS
    from perturbridge_dagster.quality import representation
    from perturbridge_dagster.representation.splits.every import split_column
    from perturbridge_dagster.written import write_parquet

    monkeypatch.setattr(representation, "_definition", lambda _: [])
    folder = shutil.copytree(additive_corpus.folder, tmp_path / "corpus")
    assert failed(folder) == []
    column = split_column(rule)
    conditions = additive_corpus.conditions.copy()
    row = conditions.index[(conditions[column] == "test")][0]
    conditions.loc[row, column] = "train"
    write_parquet(folder / "conditions.parquet", conditions, CORPUS_CONDITIONS, additive_corpus.stamp)
    [finding] = training_corpus(folder)["split_promise"]
    assert not finding.passed
    assert set(finding.failing_rows["rule"]) == {rule}
