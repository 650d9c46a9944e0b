"""Variants of a hold-out study: what they are, their budgets, and a runner that goes on where it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation import training
from perturbridge_dagster.representation.baselines import BASELINES, Zero
from perturbridge_dagster.representation.checkpoints import load_model
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import encode_split
from perturbridge_dagster.representation.evaluation import ModelPredictor, evaluate
from perturbridge_dagster.representation.fingerprints import morgan_bits
from perturbridge_dagster.representation.holdout import scores, study
from perturbridge_dagster.representation.holdout.scores import ALL_DATASETS
from perturbridge_dagster.representation.holdout.study import Study, StudyResult
from perturbridge_dagster.representation.holdout.variants import (
    HOLDOUT_MODELS,
    HOLDOUT_SETTINGS,
    PUBLISHED_SEEDS,
    VARIANTS,
    HoldoutSettings,
    ModelRuns,
    Run,
    planned_runs,
)
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.settings import PUBLISHED, PUBLISHED_MULTI_OUTPUT, SMALL_MULTI_OUTPUT, TrainingSettings

SMALL_MODEL = replace(SMALL_MULTI_OUTPUT, batch_size=50, model=ModelSettings(width=8, hidden=(8,), dropout=0.1))
TINY = HoldoutSettings(
    models={"multi_output_lpm": ModelRuns(SMALL_MODEL, (13, 17), epochs=0, n_decays=20, n_validations=3)},
    least_steps=12,
    least_target_steps=8,
    most_targets=1,
)


def with_runs(settings: HoldoutSettings, **changes: object) -> HoldoutSettings:
    """Settings with other runs of the multi-output model."""
    runs = replace(settings.models["multi_output_lpm"], **changes)  # type: ignore[arg-type]
    return replace(settings, models={**settings.models, "multi_output_lpm": runs})


def silent(line: str) -> None:
    """Progress nobody reads."""


def assert_same(left: StudyResult, right: StudyResult) -> None:
    pd.testing.assert_frame_equal(left.runs, right.runs, check_exact=True)
    pd.testing.assert_frame_equal(left.errors, right.errors, check_exact=True)
    pd.testing.assert_frame_equal(left.profiles, right.profiles, check_exact=True)


# ---- what there is -----------------------------------------------------------------------------------------------------------


def test_variants_are_the_published_ones() -> None:
    published = {
        "All": ("all", "random", (), None),
        "FT frozen mol": ("target", "random", ("perturbation",), "All"),
        "Scratch": ("target", "random", (), None),
        "All Morgan fixed": ("all", "morgan", ("perturbation",), None),
        "FT Morgan fixed": ("target", "morgan", ("perturbation",), "All Morgan fixed"),
        "Scratch Morgan fixed": ("target", "morgan", ("perturbation",), None),
        "All Morgan learned": ("all", "morgan", (), None),
        "FT Morgan learned fixmol": ("target", "morgan", ("perturbation",), "All Morgan learned"),
    }
    names = {name: variant.published_name for name, variant in VARIANTS.items()}
    assert {
        variant.published_name: (variant.data, variant.start, variant.frozen, names[variant.source] if variant.source else None)
        for variant in VARIANTS.values()
    } == published
    assert [variant.published_name for variant in VARIANTS.values()] == list(published), "in the order of the published table"


@pytest.mark.parametrize("sources", ["each_seed", "best_seed"])
def test_every_source_comes_before_what_starts_from_it(sources: str) -> None:
    settings = replace(TINY, sources=sources)
    runs = planned_runs(settings, "molecules", ["alpha", "beta"])
    assert len(runs) == len(set(map(str, (run.place for run in runs)))) == 3 * 2 + 5 * 2 * 2
    for number, run in enumerate(runs):
        if run.variant.source:
            seeds = {earlier.seed for earlier in runs[:number] if earlier.variant.name == run.variant.source}
            assert run.seed in seeds if sources == "each_seed" else seeds == {13, 17}
    assert [run.variant.name for run in planned_runs(settings, "contexts", [ALL_DATASETS])] == ["multi_output_lpm"] * 2


# ---- budgets -----------------------------------------------------------------------------------------------------------------


def test_the_published_budget_is_200_epochs_and_ten_seeds() -> None:
    settings = HOLDOUT_SETTINGS["published"].as_published()
    assert settings.models["multi_output_lpm"].seeds == PUBLISHED_SEEDS == (13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
    assert settings.sources == "best_seed"
    # OP3: 335 train conditions, one step an epoch; CIGS-MCE: 20,493, six
    for n_conditions, per_epoch in ((335, 1), (20_493, 6), (373_000, 92)):
        chosen = settings.training(VARIANTS["scratch"], 13, "molecules", n_conditions)
        assert (chosen.steps, chosen.decay_every, chosen.validate_every) == (200 * per_epoch, per_epoch, per_epoch)
        assert (chosen.batch_size, chosen.learning_rate, chosen.decay) == (4_096, 2e-3, 0.97)
        assert (chosen.model, chosen.select, chosen.split) == (PUBLISHED_MULTI_OUTPUT.model, "dataset", "molecules")
    scalar = settings.training(HOLDOUT_MODELS["scalar_lpm"], 13, "contexts", 104_456 * 16_384)
    assert (scalar.steps, scalar.decay_every, scalar.batch_size, scalar.select) == (PUBLISHED.steps, 104_456, 16_384, "all")


@pytest.mark.parametrize("size", list(HOLDOUT_SETTINGS))
def test_all_variants_of_a_target_have_one_budget_and_enough_steps(size: str) -> None:
    """Published, the best run of a small target had taken one to 150 steps; then a random start and a trained one cannot be compared."""
    settings = HOLDOUT_SETTINGS[size]
    of_target = [variant for variant in VARIANTS.values() if variant.data == "target"]
    for n_conditions in (30, 335, 174_492):
        chosen = [settings.training(variant, 13, "molecules", n_conditions) for variant in of_target]
        assert len({(one.steps, one.decay_every, one.validate_every, one.batch_size) for one in chosen}) == 1
        assert all(one.unknown_token for one in chosen)
    if size == "published":
        assert settings.training(VARIANTS["scratch"], 13, "molecules", 335).steps == 5_000
        assert settings.training(VARIANTS["all"], 13, "molecules", 1_000).steps == 5_000
        assert settings.training(VARIANTS["all"], 13, "molecules", 373_000).steps == PUBLISHED_MULTI_OUTPUT.steps
        assert settings.training(VARIANTS["scratch"], 13, "molecules", 174_492).steps == 200 * 43
        assert settings.sources == "each_seed"


def test_a_size_says_how_it_is_trained() -> None:
    published = HOLDOUT_SETTINGS["published"]
    assert "200 epochs, or at least 5,000 steps" in published.in_words("molecules")
    assert "of its own seed" in published.in_words("molecules")
    assert "at least" not in published.as_published().in_words("molecules")
    assert "lowest validation RMSE of all" in published.as_published().in_words("molecules")
    words = published.in_words("contexts")
    assert "scalar_lpm with seed 13, 25 epochs, or at least 5,000 steps" in words
    assert "ine-tuning" not in words
    assert "at least 120 and 40 steps" in HOLDOUT_SETTINGS["small"].in_words("parents")
    assert "at least 120 steps" in HOLDOUT_SETTINGS["small"].in_words("scaffolds")


# ---- running -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return Study(additive_corpus, "molecules", TINY, tmp_path_factory.mktemp("study"), silent).finish()


@pytest.mark.slow
def test_every_variant_is_scored_on_every_target_with_every_seed(additive_corpus: StoredCorpus, finished: StudyResult) -> None:
    targets = scores.target_datasets(additive_corpus, "molecules", 1)
    scored = set(targets.loc[targets["outcome"] == "scored", "dataset"])
    runs = finished.runs
    assert len(runs) == 8 * 2
    assert set(zip(runs["predictor"], runs["dataset"], runs["seed"], strict=True)) == {
        (name, dataset, seed) for name in VARIANTS for dataset in scored for seed in (13, 17)
    }
    assert {"zero", "context_mean", "nearest_neighbour"} < set(finished.errors["predictor"]) - set(VARIANTS)
    assert finished.errors.loc[~finished.errors["predictor"].isin(VARIANTS), "seed"].isna().all()
    n_test = {dataset: additive_corpus.conditions_of("test", "molecules", [dataset])["n_values"].sum() for dataset in scored}
    for (_, dataset, _), rows in finished.errors.groupby(["predictor", "dataset", "seed"], dropna=False):
        assert rows["n_values"].sum() == n_test[dataset]


@pytest.mark.slow
def test_whole_profiles_of_every_variant_stand_beside_every_baseline(additive_corpus: StoredCorpus, finished: StudyResult) -> None:
    [dataset] = finished.runs["dataset"].unique()
    profiles = finished.profiles
    assert set(profiles["dataset"]) == {dataset}, "a target stands for itself"
    means, differences = profiles[profiles["baseline"].isna()], profiles[profiles["baseline"].notna()]
    assert set(means["predictor"]) == set(finished.errors["predictor"])
    assert set(zip(differences["predictor"], differences["baseline"], strict=True)) == {(a, b) for a in VARIANTS for b in BASELINES}
    assert not profiles.duplicated(["predictor", "baseline", "metric"]).any()
    rmse = means[means["metric"] == "rmse"].set_index("predictor")["value"]
    for row in differences[differences["metric"] == "rmse"].to_dict("records"):
        assert row["value"] == pytest.approx(rmse[row["predictor"]] - rmse[row["baseline"]])
    vocabularies = additive_corpus.vocabularies("molecules", unknown=True)
    alone = evaluate([Zero()], additive_corpus, vocabularies, rule="molecules", splits=["test"], datasets=[dataset]).profiles
    expected = alone[alone["dataset"].notna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(means[means["predictor"] == "zero"].reset_index(drop=True), expected)


@pytest.mark.slow
def test_every_value_of_a_target_is_trained_on(additive_corpus: StoredCorpus, finished: StudyResult) -> None:
    """Published, one of three shards of sci-Plex was never trained on, since two processes shared them unequally."""
    listed = additive_corpus.conditions_of("train", "molecules").groupby("dataset")["n_values"].sum()
    for row in finished.runs.to_dict("records"):
        expected = listed.sum() if VARIANTS[row["predictor"]].data == "all" else listed[row["dataset"]]
        assert row["n_train_values"] == row["n_train_listed"] == expected
        assert np.floor(row["epochs"]) * expected <= row["n_values_seen"] <= np.ceil(row["epochs"]) * expected


@pytest.mark.slow
def test_two_processes_take_every_value_of_a_target_as_often(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    train_conditions = additive_corpus.conditions_of("train", "molecules", ["alpha"])
    per_epoch = -(-len(train_conditions) // 50)
    settings = TINY.training(VARIANTS["scratch"], 13, "molecules", len(train_conditions))
    settings = replace(settings, steps=2 * per_epoch, validate_every=2 * per_epoch, processes=2)
    together = training.train(additive_corpus, settings, tmp_path / "two", silent, datasets=["alpha"])
    assert together.history["n_values"].sum() == 2 * train_conditions["n_values"].sum()
    assert train_conditions["context"].nunique() == 3, "shards that two processes cannot share equally"


@pytest.mark.slow
def test_selection_is_by_the_datasets_own_validation_and_scoring_gives_the_same_number(
    additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published, validation in training and after it differed, and two datasets took the score of all."""
    monkeypatch.setattr(Study, "_remove_checkpoints", lambda self: None)
    settings = with_runs(TINY, seeds=(13,))
    of_study = Study(additive_corpus, "molecules", settings, tmp_path, silent)
    found = of_study.finish().runs.set_index(["predictor", "dataset"])
    for (name, dataset), row in found.iterrows():
        run = Run(VARIANTS[str(name)], 13, None if VARIANTS[str(name)].data == "all" else str(dataset))
        trained = load_model(tmp_path / run.place / f"best_{dataset}.pt")
        val = encode_split(additive_corpus, "val", of_study.vocabularies, rule="molecules", datasets=[str(dataset)])
        again = scores.rmse_of(scores.squared_errors(ModelPredictor(trained), val, "molecules"))
        assert row["validation_rmse"] == pytest.approx(again, rel=1e-6), (name, dataset)
        assert row["selected_step"] == trained.step
    # tables that are frozen stay as their source, or the fingerprints, had them
    weights = {
        run.place.parts[0]: load_model(tmp_path / run.place / f"best_{dataset}.pt").model.perturbation.weight.detach()
        for dataset in of_study.scored[:1]
        for run in of_study.runs
        if run.dataset in (None, dataset)
    }
    for name, variant in VARIANTS.items():
        if variant.source:
            assert torch.equal(weights[name], weights[variant.source]), name
    compounds = additive_corpus.compounds.set_index("perturbation")["smiles"]
    bits = pd.DataFrame(morgan_bits(compounds, n_bits=8, radius=2), index=compounds.index)
    known = list(of_study.vocabularies.perturbation[1:])
    for name in ("all_morgan_fixed", "scratch_morgan_fixed", "fine_tuned_morgan_fixed"):
        np.testing.assert_array_equal(weights[name][1 : 1 + len(known)].numpy(), bits.loc[known].to_numpy())
    assert not torch.equal(weights["all_morgan_learned"], weights["all_morgan_fixed"])


@pytest.mark.slow
def test_a_held_out_salt_is_predicted_from_its_own_fingerprint(
    additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A salt whose parent is trained under another PubChem id was the unknown token, a vector of zeros, though its structure is known."""
    monkeypatch.setattr(Study, "_remove_checkpoints", lambda self: None)
    conditions = additive_corpus.conditions.copy()
    smiles = additive_corpus.compounds.set_index("perturbation")["smiles"]
    is_test = (conditions["split_parents"] == "test") & conditions["perturbation"].map(smiles).notna()
    dataset, salt = conditions.loc[is_test, ["dataset", "perturbation"]].iloc[0]
    # as if its parent were trained in other datasets under other ids alone
    conditions.loc[(conditions["perturbation"] == salt) & (conditions["split_parents"] == "train"), "split_parents"] = None
    corpus = replace(additive_corpus, conditions=conditions)
    settings = replace(with_runs(TINY, seeds=(13,)), most_targets=None)
    of_study = Study(corpus, "parents", settings, tmp_path, silent)
    of_study.finish()
    assert dataset in of_study.scored
    fingerprint = morgan_bits(smiles.loc[[salt]], n_bits=8, radius=2)[0]
    assert fingerprint.any()
    without_structure = [cid for cid in conditions["perturbation"].unique() if pd.isna(smiles[cid])]
    test = encode_split(corpus, "test", of_study.vocabularies, rule="parents", datasets=[dataset])
    block = next(block for block in test.blocks if salt in set(test.conditions["perturbation"].iloc[block.condition]))
    rows = test.conditions.iloc[block.condition]
    own = rows[rows["perturbation"] == salt]
    for name, variant in VARIANTS.items():
        trained = load_model(tmp_path / Run(variant, 13, None if variant.data == "all" else dataset).place / f"best_{dataset}.pt")
        known = trained.vocabularies.perturbation
        assert (salt in known) == (variant.start == "morgan"), name
        assert set(known) & set(without_structure) == set(of_study.vocabularies.perturbation) & set(without_structure), name
        predictor = ModelPredictor(trained)
        unlike = not np.array_equal(predictor.predict(own, block), predictor.predict(own.assign(perturbation="nothing known"), block))
        assert unlike == (variant.start == "morgan"), name
        if variant.start == "morgan" and name not in ("all_morgan_learned", "fine_tuned_morgan_learned"):
            vector = trained.model.perturbation.weight.detach().numpy()[trained.vocabularies.encode("perturbation", [salt])[0]]
            np.testing.assert_array_equal(vector, fingerprint)


@pytest.mark.slow
def test_a_dataset_without_validation_values_is_said_not_to_be_selectable(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    conditions = additive_corpus.conditions.copy()
    conditions.loc[(conditions["dataset"] == "beta") & (conditions["split_molecules"] == "val"), "split_molecules"] = "train"
    settings = replace(with_runs(TINY, seeds=(13,), n_validations=1), least_steps=2, least_target_steps=2, most_targets=None)
    of_study = Study(replace(additive_corpus, conditions=conditions), "molecules", settings, tmp_path, silent)
    found = of_study.finish()
    assert of_study.targets.set_index("dataset").loc["beta", "outcome"] == "not_selectable"
    assert set(found.runs["dataset"]) == set(found.errors["dataset"]) == {"alpha", "gamma"}


@pytest.mark.slow
def test_nothing_to_score_is_an_outcome_and_no_crash(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    conditions = additive_corpus.conditions.assign(
        split_contexts=additive_corpus.conditions["split_contexts"].replace("val", "train"),
        split_molecules="train",
    )
    for rule in ("contexts", "molecules"):
        of_study = Study(replace(additive_corpus, conditions=conditions), rule, TINY, tmp_path / rule, silent)
        found = of_study.finish()
        assert set(of_study.targets["outcome"]) <= {"not_selectable", "no_test_values"}
        assert len(found.runs) == len(found.errors) == 0


# ---- going on ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_to_the_same_result(
    additive_corpus: StoredCorpus, finished: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(line: str) -> None:
        if line.startswith("step 12 of 12"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(additive_corpus, "molecules", TINY, tmp_path, stop).finish()
    done = {path.parent for path in tmp_path.rglob("run.json")}
    trained: list[Path] = []

    def counted(corpus: StoredCorpus, settings: TrainingSettings, folder: Path, *args: object, **kwargs: object) -> object:
        trained.append(folder)
        return training.train(corpus, settings, folder, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "train", counted)
    assert_same(Study(additive_corpus, "molecules", TINY, tmp_path, silent).finish(), finished)
    assert len(trained) == len(set(trained)) == 16 - len(done)
    assert not done & set(trained)


@pytest.mark.slow
def test_a_killed_process_goes_on(additive_corpus: StoredCorpus, finished: StudyResult, tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from tests.representation.test_variants import TINY
from perturbridge_dagster.representation.corpus import open_corpus
from perturbridge_dagster.representation.holdout.study import Study
def log(line):
    print(line, flush=True)
    if line.startswith("run 9"):
        time.sleep(60)  # to be killed here
Study(open_corpus(Path(sys.argv[1])), "molecules", TINY, Path(sys.argv[2]), log).finish()
"""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", code, str(additive_corpus.folder), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": root}) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("run 9"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("run.json"))) == 8
    assert_same(Study(additive_corpus, "molecules", TINY, tmp_path, silent).finish(), finished)


@pytest.mark.slow
@pytest.mark.parametrize("sources", ["each_seed", "best_seed"])
def test_fine_tuning_starts_where_it_is_said_to_and_checkpoints_go_when_nothing_needs_them(
    additive_corpus: StoredCorpus, tmp_path: Path, sources: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most: list[int] = []
    remove = Study._remove_checkpoints

    def counted(self: Study) -> None:
        remove(self)
        most.append(len(list(tmp_path.rglob("*.pt"))))

    monkeypatch.setattr(Study, "_remove_checkpoints", counted)
    settings = replace(with_runs(TINY, n_validations=1), sources=sources, least_target_steps=2)
    runs = Study(additive_corpus, "molecules", settings, tmp_path, silent).finish().runs
    tuned = runs[runs["source_seed"].notna()]
    assert set(tuned["predictor"]) == {name for name, variant in VARIANTS.items() if variant.source}
    for row in tuned.to_dict("records"):
        source = runs[(runs["predictor"] == VARIANTS[row["predictor"]].source) & (runs["dataset"] == row["dataset"])].set_index("seed")
        expected = row["seed"] if sources == "each_seed" else source["validation_rmse"].idxmin()
        assert row["source_seed"] == expected
    assert max(most) <= 3, "one of each source, and no more than one seed at a time"
    assert not list(tmp_path.rglob("*.pt"))


# ---- other rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_are_trained_on_the_train_conditions_of_a_rule(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    lines: list[str] = []
    scalar = ModelRuns(replace(SMALL_MODEL, architecture="scalar_lpm", batch_size=500), (13,), epochs=0, n_decays=20, n_validations=3)
    both = replace(TINY, models={**TINY.models, "scalar_lpm": scalar})
    of_study = Study(additive_corpus, "contexts", both, tmp_path, lines.append)
    found = of_study.finish()
    assert found.runs[["predictor", "dataset", "seed"]].to_numpy().tolist() == [
        ["multi_output_lpm", ALL_DATASETS, 13],
        ["scalar_lpm", ALL_DATASETS, 13],
        ["multi_output_lpm", ALL_DATASETS, 17],
    ]
    train_conditions = additive_corpus.conditions_of("train", "contexts")
    assert (found.runs["n_train_values"] == train_conditions["n_values"].sum()).all()
    assert set(found.errors["cluster"]) == set(additive_corpus.conditions_of("test", "contexts")["context"])
    assert not set(found.errors["cluster"]) & set(train_conditions["context"])
    profiles = found.profiles[found.profiles["baseline"].isna() & found.profiles["dataset"].isna()]
    assert {"multi_output_lpm", "scalar_lpm", "zero", "context_mean"} <= set(profiles["predictor"])
    assert not profiles.duplicated(["predictor", "metric"]).any()
    rmse = scores.runs_table("contexts", found.runs, found.errors, list(HOLDOUT_MODELS)).set_index(["dataset", "predictor", "seed"])
    assert rmse.loc[(ALL_DATASETS, "scalar_lpm", 13), "validation_rmse"] > 0
    assert np.isnan(rmse.loc[("beta", "scalar_lpm", 13), "validation_rmse"]) if "beta" in rmse.index.get_level_values(0) else True


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_refused(additive_corpus: StoredCorpus, tmp_path: Path, make_stamp: Callable) -> None:
    def stop(line: str) -> None:
        if line.startswith("step 4 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(additive_corpus, "contexts", TINY, tmp_path, stop).finish()
    with pytest.raises(InputError, match="other settings"):
        Study(additive_corpus, "contexts", replace(TINY, least_steps=13), tmp_path, silent).finish()
