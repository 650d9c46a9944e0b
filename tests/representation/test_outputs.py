"""What the tasks of embeddings and of the report write: tables of the contract, pictures of these tables, and checks that pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.figures import draw
from perturbridge_dagster.payloads.representation import compound_embeddings, representation_report
from perturbridge_dagster.payloads.requests import Input, Request, execute
from perturbridge_dagster.quality import representation as quality
from perturbridge_dagster.representation import settings
from perturbridge_dagster.representation.checkpoints import load_model
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.embeddings import read_embeddings
from perturbridge_dagster.representation.figures import PICTURES
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.settings import SETTINGS, SMALL_MULTI_OUTPUT
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_parquet, read_stamp
from tests.representation.conftest import EffectsInMemory

pytestmark = pytest.mark.slow

STAGE = "compound_embeddings"
SEEDS = (13, 17)


@pytest.fixture(scope="module")
def corpus(
    additive_strata: list[EffectsInMemory], additive_samples: pd.DataFrame, make_stamp: Callable, tmp_path_factory: pytest.TempPathFactory
) -> StoredCorpus:
    """The additive corpus as three registered datasets, one of which may not be redistributed."""
    names = {"alpha": "sciplex", "beta": "tahoe", "gamma": "cigs_mce"}
    strata = [
        replace(
            stratum,
            contrasts=stratum.contrasts.assign(dataset=stratum.contrasts["dataset"].map(names)),
            stamp=make_stamp(
                names[stratum.stamp.source_datasets[0]], licence="restricted" if "gamma" in stratum.stamp.source_datasets else "open"
            ),
        )
        for stratum in additive_strata
    ]
    folder = tmp_path_factory.mktemp("corpus") / "all"
    write_corpus(strata, folder, make_stamp(), name="all", samples=additive_samples.assign(dataset=additive_samples["dataset"].map(names)))
    (folder / "done.json").write_text(json.dumps({"digest": "c" * 64, "arguments": {"corpus": "all"}}))
    return open_corpus(folder)


def asked(corpus: StoredCorpus, folder: Path, size: str, seeds: Sequence[int]) -> Request:
    """A request for embeddings of the multi-output model."""
    arguments = {"corpus": "all", "model": "multi_output_lpm", "settings": size, "seeds": list(seeds), "processes": 1}
    inputs = {"corpus": Input(str(corpus.folder), "c" * 64)}
    return Request(STAGE, {**arguments, "unaccepted_inputs": []}, inputs, STAGES[STAGE].code_version, str(folder))


@pytest.fixture(scope="module")
def embeddings(corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of compound_embeddings with two seeds of a few steps."""
    folder = tmp_path_factory.mktemp("embeddings")
    request = asked(corpus, folder, "small", SEEDS)
    sizes = {"width": 8, "hidden": (16,), "dropout": 0.0, "embedding_scale": 0.1}
    quick = replace(SMALL_MULTI_OUTPUT, steps=60, validate_every=20, model=ModelSettings(**sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS["small"], "multi_output_lpm", quick)
        outcome = execute(request, compound_embeddings)
    assert outcome.status == "computed", outcome.error
    assert not (folder / f"{request.output.name}.training").exists(), "checkpoints are gone once the output is there"
    return request.output


@pytest.mark.parametrize("least_steps", [1, 60])
def test_the_published_size_trains_epochs_of_the_corpus_that_it_is_given(
    corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_steps: int
) -> None:
    """It had the steps of the whole compendium, whatever the corpus."""
    model = "multi_output_lpm"
    published = replace(SETTINGS["published"][model], batch_size=40, precision="float32", model=SMALL_MULTI_OUTPUT.model)
    monkeypatch.setitem(SETTINGS["published"], model, published)
    monkeypatch.setitem(settings.PUBLISHED_EPOCHS, model, 3)
    monkeypatch.setattr(settings, "LEAST_STEPS", least_steps)
    request = asked(corpus, tmp_path, "published", SEEDS[:1])
    outcome = execute(request, compound_embeddings)
    assert outcome.status == "computed", outcome.error
    history = pd.read_parquet(request.output / "training.parquet")
    steps = max(3 * math.ceil(len(corpus.conditions_of("train")) / 40), least_steps)
    assert history["step"].tolist() == [steps // 3, 2 * steps // 3, steps]
    assert history["learning_rate"].tolist() == pytest.approx([2e-3 * 0.97**number for number in (1, 2, 3)])


def test_every_seed_is_in_the_output(embeddings: Path, corpus: StoredCorpus) -> None:
    read = read_embeddings(embeddings / "embeddings.parquet")
    assert sorted(read["seed"].unique()) == list(SEEDS)
    assert {file.stem for file in (embeddings / "models").iterdir()} == {str(seed) for seed in SEEDS}
    history = read_parquet(embeddings / "training.parquet", STAGE)
    assert history.groupby("seed")["step"].apply(list).to_dict() == {seed: [20, 40, 60] for seed in SEEDS}
    for seed, of_seed in history.groupby("seed"):
        model = load_model(embeddings / "models" / f"{seed}.pt")
        assert of_seed.loc[of_seed["selected"], "step"].tolist() == [model.step]
        assert of_seed.loc[of_seed["selected"], "validation_rmse"].tolist() == [model.validation_rmse]
    predictors = set(read_parquet(embeddings / "evaluation.parquet", STAGE)["predictor"])
    assert {"multi_output_lpm", "multi_output_lpm (seed 17)", "compound_mean"} <= predictors
    assert (read["licence_class"] == "restricted").all()
    assert (read["code_version"] == read_stamp(embeddings / "embeddings.parquet").stage_code_version).all()
    assert len(read_parquet(embeddings / "map.parquet", STAGE)) == read["symbol"].nunique()


def test_every_picture_is_drawn_from_its_tables(embeddings: Path) -> None:
    tables = {name: read_parquet(embeddings / f"{name}.parquet", STAGE) for picture in PICTURES.values() for name in picture.tables}
    drawn = draw(PICTURES, tables)
    assert {file.stem: file.read_bytes() for file in (embeddings / "figures").iterdir()} == drawn


def test_its_checks_pass(embeddings: Path) -> None:
    findings = quality.compound_embeddings(embeddings)
    assert set(findings) == {check.name for check in STAGES[STAGE].checks}
    failed = [finding.rule.words for check in STAGES[STAGE].blocking_checks for finding in findings[check] if not finding.passed]
    assert failed == []


def test_a_vector_that_is_lost_or_no_number_fails(embeddings: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in embeddings.glob("*.parquet"):
        (tmp_path / file.name).symlink_to(file)
    whole = pq.read_table(embeddings / "embeddings.parquet")
    (tmp_path / "embeddings.parquet").unlink()
    pq.write_table(whole.slice(1), tmp_path / "embeddings.parquet")
    words = [finding.rule.words for finding in quality.compound_embeddings(tmp_path)["vectors"] if not finding.passed]
    assert words == ["every seed has all perturbations"]
    vectors = whole.column("embedding").combine_chunks()
    values = vectors.flatten().to_numpy().copy()
    values[5] = float("nan")
    broken = pa.FixedSizeListArray.from_arrays(pa.array(values), vectors.type.list_size)
    place = whole.column_names.index("embedding")
    pq.write_table(whole.set_column(place, whole.schema.field(place), broken), tmp_path / "embeddings.parquet")
    words = [finding.rule.words for finding in quality.compound_embeddings(tmp_path)["vectors"] if not finding.passed]
    assert words == ["every vector is finite"]


def test_the_report_is_made_of_its_inputs(embeddings: Path, corpus: StoredCorpus, tmp_path: Path) -> None:
    inputs = {
        "training_corpus/all": Input(str(corpus.folder), "c" * 64),
        "compound_embeddings/all/multi_output_lpm": Input(str(embeddings), json.loads((embeddings / "done.json").read_text())["digest"]),
    }
    arguments = {"left_out": ["op3_evaluation all is failed: no files"], "unaccepted_inputs": []}
    request = Request("representation_report", arguments, inputs, "1", str(tmp_path))
    outcome = execute(request, representation_report)
    assert outcome.status == "computed", outcome.error
    folder = request.output
    parts = read_parquet(folder / "parts.parquet", "representation_report")
    assert parts[["stage", "key", "licence_class"]].to_numpy().tolist() == [
        ["training_corpus", "all", "restricted"],
        ["compound_embeddings", "all multi_output_lpm", "restricted"],
    ]
    verdicts = read_parquet(folder / "verdicts.parquet", "representation_report")
    assert set(verdicts["model"]) == {"multi_output_lpm"}
    assert set(verdicts["split"]) == {"val", "test"}
    text = (folder / "report.md").read_text()
    assert "- op3_evaluation all is failed: no files" in text
    assert (folder / "report.html").read_text().count("<img ") == len(PICTURES)
    stamp = read_stamp(folder / "parts.parquet")
    assert (stamp.source_datasets, stamp.licence) == (("cigs_mce", "sciplex", "tahoe"), "restricted")
    findings = quality.representation_report(folder)
    assert [finding.passed for finding in findings["parts"]] == [True] * len(findings["parts"])
    assert [(finding.passed, finding.rule.severity) for finding in findings["complete"]] == [(False, "warning")]
