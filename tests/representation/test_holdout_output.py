"""What the task of hold-out evaluations writes, and that its checks find what must not be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster import contract
from perturbridge_dagster.payloads.holdout import holdout_evaluation
from perturbridge_dagster.payloads.requests import Input, Request
from perturbridge_dagster.quality import holdout as checks
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.holdout import study, variants
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.settings import SMALL_MULTI_OUTPUT
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_parquet, read_stamp, write_parquet

pytestmark = pytest.mark.slow

TABLES = {name: getattr(contract, f"HOLDOUT_{name.upper()}") for name in checks._TABLES}


def settings(**changes: object) -> variants.HoldoutSettings:
    training = replace(SMALL_MULTI_OUTPUT, batch_size=50, model=ModelSettings(width=8, hidden=(8,)))
    runs = variants.ModelRuns(training, (13, 17), epochs=2, n_decays=20, n_validations=2)
    return variants.HoldoutSettings(models={"multi_output_lpm": runs}, most_targets=2, **changes)  # type: ignore[arg-type]


def request_for(corpus: StoredCorpus, rule: str, folder: Path) -> Request:
    arguments = {"corpus": "all", "rule": rule, "settings": "small", "faithful": False, "unaccepted_inputs": []}
    inputs = {"corpus": Input(str(corpus.folder), "1")}
    return Request("holdout_evaluation", arguments, inputs, STAGES["holdout_evaluation"].code_version, str(folder))


@pytest.fixture(scope="module", params=["molecules", "contexts"])
def output(request: pytest.FixtureRequest, additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a rule."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.HOLDOUT_SETTINGS, "small", settings())
        (folder / "output").mkdir()
        holdout_evaluation(request_for(additive_corpus, request.param, folder), folder / "output")
    assert [path.name for path in folder.iterdir()] == ["output"], "checkpoints and finished runs are gone"
    return folder / "output"


def failing(folder: Path, check: str) -> list[str]:
    return [finding.rule.words for finding in checks.holdout_evaluation(folder)[check] if not finding.passed]


def test_an_output_is_complete_stamped_and_passes_its_blocking_checks(output: Path, additive_corpus: StoredCorpus) -> None:
    assert {path.name for path in output.rglob("*") if path.is_file()} == {
        *(f"{name}.parquet" for name in TABLES),
        *("verdict.md", "rmse.png", "differences.png"),
    }
    for name in TABLES:
        stamp = read_stamp(output / f"{name}.parquet")
        assert (stamp.stage, stamp.source_datasets) == ("holdout_evaluation", additive_corpus.stamp.source_datasets)
    assert failing(output, "scores") == failing(output, "split_promise") == []
    summary = read_parquet(output / "summary.parquet", "holdout_evaluation")
    assert set(checks.holdout_evaluation(output)) == {check.name for check in STAGES["holdout_evaluation"].checks}
    said = (output / "verdict.md").read_text()
    for predictor in summary["predictor"].unique():
        assert predictor.replace("_", " ") in said


def test_a_model_that_does_not_beat_the_baselines_is_warned_of(output: Path) -> None:
    [finding] = checks.holdout_evaluation(output)["beats_baselines"]
    assert finding.rule.severity == "warning"
    assert not finding.passed, "after two epochs"
    assert finding.failing_rows["best_baseline"].notna().all()


def changed(output: Path, tmp_path: Path, table: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """A copy of an output with one table changed."""
    folder = tmp_path / "output"
    shutil.copytree(output, folder)
    file = folder / f"{table}.parquet"
    write_parquet(file, change(read_parquet(file, "holdout_evaluation")), TABLES[table], read_stamp(file))
    return folder


@pytest.mark.parametrize("output", ["contexts"], indirect=True)
@pytest.mark.parametrize(
    ("check", "table", "change", "words"),
    [
        ("split_promise", "promises", lambda frame: frame.assign(n_broken=1), "keeps its promises"),
        ("split_promise", "promises", lambda frame: frame.assign(n_held_out=0), "held-out conditions to test"),
        (
            "split_promise",
            "runs",
            lambda frame: frame.assign(n_train_values=frame["n_train_values"] - 1),
            "trained on all train values",
        ),
        ("split_promise", "runs", lambda frame: frame.assign(n_values_seen=frame["n_values_seen"] // 2), "took every value once"),
        ("scores", "runs", lambda frame: frame.iloc[1:], "a mean is over all runs"),
        ("scores", "runs", lambda frame: pd.concat([frame, frame]), "scored once"),
        ("scores", "runs", lambda frame: frame.assign(test_rmse=-1.0), "every value of holdout_runs"),
        ("scores", "runs", lambda frame: frame.assign(test_rmse=np.inf), "every RMSE is finite"),
        ("scores", "summary", lambda frame: frame[frame["predictor"] != "zero"].iloc[1:], "scored by every predictor"),
        ("scores", "summary", lambda frame: frame.assign(test_rmse_low=frame["test_rmse_high"] + 1), "a low and a high end"),
        ("scores", "comparisons", lambda frame: frame.assign(low=frame["high"] + 1), "intervals of differences"),
        ("scores", "datasets", lambda frame: frame.iloc[:0], "a dataset was looked at"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_must_not_be_is_found(
    output: Path, tmp_path: Path, check: str, table: str, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    assert any(words in rule for rule in failing(changed(output, tmp_path, table, change), check))


def test_a_payload_that_was_killed_goes_on(additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(variants.HOLDOUT_SETTINGS, "small", settings())
    request = request_for(additive_corpus, "contexts", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    train, folders = study.train, []

    def interrupted(*args: object, **kwargs: object) -> object:
        if len(folders) == 1:
            raise KeyboardInterrupt
        folders.append(args[2])
        return train(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        holdout_evaluation(request, tmp_path / "one")

    def counted(*args: object, **kwargs: object) -> object:
        folders.append(args[2])
        return train(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "train", counted)
    holdout_evaluation(request, tmp_path / "two")
    assert len(folders) == len(set(folders)) == 2, "the run that was finished is not trained again"
    assert failing(tmp_path / "two", "scores") == []


@pytest.mark.parametrize("rule", ["molecules", "contexts"])
def test_where_nothing_can_be_scored_the_output_says_so(
    additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    trained = replace(additive_corpus, conditions=additive_corpus.conditions.assign(**{f"split_{rule}": "train"}))
    monkeypatch.setattr("perturbridge_dagster.representation.corpus.open_corpus", lambda folder: trained)
    (tmp_path / "output").mkdir()
    holdout_evaluation(request_for(additive_corpus, rule, tmp_path), tmp_path / "output")
    assert failing(tmp_path / "output", "scores") == failing(tmp_path / "output", "split_promise") == []
    said = (tmp_path / "output" / "verdict.md").read_text()
    assert "Nothing could be scored." in said
    assert "(no test values)" in said or "(no validation values" in said


def test_the_published_faults_are_chosen_by_name(additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(variants.HOLDOUT_SETTINGS, "small", replace(settings(least_target_steps=11), most_targets=1))
    for faithful in (False, True):
        request = request_for(additive_corpus, "molecules", tmp_path)
        request = replace(request, arguments={**request.arguments, "faithful": faithful})
        folder = tmp_path / str(faithful)
        folder.mkdir()
        holdout_evaluation(request, folder)
        runs = read_parquet(folder / "runs.parquet", "holdout_evaluation")
        tuned = runs[runs["source_seed"].notna()]
        scratch = runs[runs["predictor"] == "scratch"]
        assert (scratch["epochs"] == 2).all() == faithful
        assert (tuned["source_seed"] == tuned["seed"]).all() == (not faithful)
        assert ("lowest validation RMSE of all" in (folder / "verdict.md").read_text()) == faithful
