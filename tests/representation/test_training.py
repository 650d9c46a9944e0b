"""Training: order of the data, resuming bit for bit, no leakage, and that it learns."""

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
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.evaluation import beaten_baselines, evaluate
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.training import (
    PUBLISHED,
    PUBLISHED_MULTI_OUTPUT,
    SMALL,
    SMALL_MULTI_OUTPUT,
    TrainingSettings,
    deterministic,
    epoch_batches,
    load_model,
    train,
)

pytestmark = pytest.mark.slow

TINY = TrainingSettings(
    batch_size=1_000,
    steps=60,
    validate_every=20,
    decay_every=7,
    model=ModelSettings(width=4, hidden=(8, 8), dropout=0.3),
    unknown_token=True,
)


def silent(line: str) -> None:
    """Progress nobody reads."""


def weights(result: training.TrainingResult) -> dict[str, torch.Tensor]:
    return result.trained.model.state_dict()


def assert_same(left: training.TrainingResult, right: training.TrainingResult) -> None:
    pd.testing.assert_frame_equal(left.history, right.history, check_exact=True)
    assert left.trained.step == right.trained.step
    for name, tensor in weights(left).items():
        assert torch.equal(tensor, weights(right)[name]), name


# ---- settings ----------------------------------------------------------------------------------------------------------------


def test_published_settings() -> None:
    assert PUBLISHED.steps == 2_611_400
    assert replace(PUBLISHED, steps=0).for_epochs(25, 104_456 * 16_384) == PUBLISHED
    assert PUBLISHED.for_epochs(20, 285_106 * 978 * 3 // 4).steps == pytest.approx(255_200, rel=1e-3)  # L1000, epoch 20
    assert (PUBLISHED.learning_rate, PUBLISHED.weight_decay, PUBLISHED.decay, PUBLISHED.batch_size, PUBLISHED.seed) == (
        2e-3,
        0.01,
        0.97,
        16_384,
        13,
    )
    assert PUBLISHED.model == ModelSettings(128, (256, 256), 0.1, 1.0)
    assert not PUBLISHED.standardize
    assert (PUBLISHED_MULTI_OUTPUT.architecture, PUBLISHED_MULTI_OUTPUT.batch_size) == ("multi_output_lpm", 4_096)
    assert PUBLISHED_MULTI_OUTPUT.model == PUBLISHED.model
    assert not PUBLISHED.unknown_token


# ---- the order of the data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_values", "batch_size"), [(1, 10), (10, 10), (99_999, 1_000), (100_003, 70_000), (50_000, 16_384)])
def test_an_epoch_holds_every_value_once(n_values: int, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_POOL_BLOCKS", 2)
    batches = list(epoch_batches(n_values, batch_size, seed=1, epoch=0))
    assert len(batches) == -(-n_values // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n_values))


def test_order_follows_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(list(epoch_batches(5_000, 300, seed, epoch))).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert abs(np.corrcoef(order(1, 0), np.arange(5_000))[0, 1]) < 0.1


# ---- checkpoints -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> training.TrainingResult:
    return train(additive_corpus, TINY, tmp_path_factory.mktemp("run"), silent)


def test_an_interrupted_multi_output_run_ends_with_the_same_bits(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    settings = replace(TINY, architecture="multi_output_lpm", batch_size=30)
    lines: list[str] = []

    def stop(line: str) -> None:
        if line.startswith("step 40 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(additive_corpus, settings, tmp_path / "stopped", stop)
    resumed = train(additive_corpus, settings, tmp_path / "stopped", lines.append)
    assert "going on from step 40 of 60" in lines
    assert_same(resumed, train(additive_corpus, settings, tmp_path / "whole", silent))
    assert resumed.epochs == pytest.approx(60 * 30 / (additive_corpus.conditions["split"] == "train").sum(), rel=0.05)


@pytest.mark.parametrize("stop_after", [20, 40, 60])
def test_an_interrupted_run_ends_with_the_same_bits(
    additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult, tmp_path: Path, stop_after: int
) -> None:
    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith(f"step {stop_after} of"):
            raise Stop

    with pytest.raises(Stop):
        train(additive_corpus, TINY, tmp_path, stop)
    torch.manual_seed(99)  # what the caller draws between the two must not matter
    lines: list[str] = []
    assert_same(train(additive_corpus, TINY, tmp_path, lines.append), uninterrupted)
    assert f"going on from step {stop_after} of 60" in lines


@pytest.mark.slow
def test_a_killed_process_goes_on_with_the_same_bits(
    additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult, tmp_path: Path
) -> None:
    code = """
import sys, time
from pathlib import Path
from perturbridge_dagster.representation.corpus import open_corpus
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.training import TrainingSettings, train
def log(line):
    print(line, flush=True)
    if line.startswith("step 40"):
        time.sleep(60)  # to be killed here, in the middle of the run
train(open_corpus(Path(sys.argv[1])), eval(sys.argv[3]), Path(sys.argv[2]), log)
"""
    command = [sys.executable, "-c", code, str(additive_corpus.folder), str(tmp_path / "run"), repr(TINY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("step 40"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert_same(train(additive_corpus, TINY, tmp_path / "run", silent), uninterrupted)


def test_equal_runs_leave_equal_files(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(additive_corpus, TINY, tmp_path / name, silent)
    assert (tmp_path / "one" / "best.pt").read_bytes() == (tmp_path / "two" / "best.pt").read_bytes()


def test_runs_with_another_seed_differ(additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult, tmp_path: Path) -> None:
    other = train(additive_corpus, replace(TINY, seed=14), tmp_path, silent)
    assert other.history["validation_rmse"].tolist() != uninterrupted.history["validation_rmse"].tolist()


def test_a_checkpoint_of_another_run_is_refused(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    train(additive_corpus, replace(TINY, steps=2), tmp_path, silent)
    with pytest.raises(InputError, match="other settings or another corpus"):
        train(additive_corpus, replace(TINY, steps=3), tmp_path, silent)


def test_selected_model_is_the_one_with_the_best_full_validation(
    additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult
) -> None:
    history = uninterrupted.history
    assert history["step"].tolist() == [20, 40, 60]
    assert history["epoch"].tolist() == pytest.approx([20 / 27, 40 / 27, 60 / 27], rel=0.05)
    assert history["learning_rate"].tolist() == pytest.approx([2e-3 * 0.97 ** (step // 7) for step in (20, 40, 60)])
    assert uninterrupted.trained.validation_rmse == history["validation_rmse"].min()
    val = evaluate(uninterrupted.trained, additive_corpus, splits=["val"]).set_index("predictor")
    assert val.loc["scalar_lpm", "rmse"] == pytest.approx(uninterrupted.trained.validation_rmse, rel=1e-6)


def test_a_loaded_model_is_the_trained_one(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    result = train(additive_corpus, replace(TINY, steps=5), tmp_path, silent)
    loaded = load_model(tmp_path / "best.pt")
    assert loaded.settings == replace(TINY, steps=5)
    assert loaded.vocabularies == additive_corpus.vocabularies(unknown=True)
    assert loaded.corpus_stamp == additive_corpus.stamp
    assert all(torch.equal(tensor, weights(result)[name]) for name, tensor in loaded.model.state_dict().items())
    with pytest.raises(InputError, match="no trained model"):
        load_model(tmp_path / "absent.pt")


# ---- torch, held still -------------------------------------------------------------------------------------------------------


def test_the_callers_torch_is_left_as_it_was(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(additive_corpus, replace(TINY, steps=2), tmp_path, silent)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_settings_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic(torch.device("cpu")):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        with pytest.raises(ValueError, match="invalid literal"), deterministic(torch.device("cpu")):
            int("an error in the middle")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)


# ---- leakage -----------------------------------------------------------------------------------------------------------------


def test_nothing_of_test_reaches_the_model(
    additive_strata: list, additive_corpus: StoredCorpus, make_stamp: Callable, tmp_path: Path
) -> None:
    """Test values are replaced, and some given genes of their own; the model, the vocabularies and the baselines must not notice."""
    test = additive_corpus.conditions[additive_corpus.conditions["split"] == "test"]
    is_test = pd.MultiIndex.from_frame(test[["dataset", "context", "perturbation"]])
    strata = []
    for stratum in additive_strata:
        contrasts = stratum.contrasts
        keys = pd.MultiIndex.from_arrays([contrasts["dataset"], contrasts["cell_type"], contrasts["pubchem_cid"].astype(str)])
        rows = keys.isin(is_test)
        logFC = np.hstack([stratum.logFC, np.full((len(contrasts), 1), np.nan)])
        logFC[rows] = 50.0
        genes = pd.DataFrame({"gene": range(61), "ensembl_id": [*stratum.genes["ensembl_id"], "ENSG00000999999"]})
        strata.append(replace(stratum.with_logFC(logFC), genes=genes))
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="other test values")
    changed = open_corpus(tmp_path / "corpus")
    assert changed.conditions["split"].tolist() == additive_corpus.conditions["split"].tolist()
    assert changed.summary["n_values"]["test"] > additive_corpus.summary["n_values"]["test"]

    settings = replace(TINY, standardize=True)
    before = train(additive_corpus, settings, tmp_path / "before", silent)
    after = train(changed, settings, tmp_path / "after", silent)
    assert after.trained.vocabularies == before.trained.vocabularies
    assert_same(before, after)
    pd.testing.assert_frame_equal(
        evaluate(before.trained, additive_corpus, splits=["val"]), evaluate(after.trained, changed, splits=["val"]), check_exact=True
    )
    scores = evaluate(after.trained, changed, splits=["test"]).set_index("predictor")["rmse"]
    assert (scores > 40).all()  # the test values did change


def test_standardizing_uses_train_conditions_alone(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    # every unit has one dose; the unit's dose decides the mean, so held-out units would move it
    rows = [(f"d{number}", number + 1, 10.0 ** (number % 7), 6.0 * (1 + number % 3)) for number in range(40)]
    strata = [make_effects(name, context, rows, np.ones((40, 3))) for name in ("alpha", "beta") for context in ("CVCL_A", "CVCL_B")]
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="doses")
    corpus = open_corpus(tmp_path / "corpus")
    result = train(corpus, replace(TINY, steps=1, standardize=True), tmp_path / "run", silent)
    train_conditions = corpus.conditions[corpus.conditions["split"] == "train"]
    assert result.trained.model.offset.tolist() == pytest.approx(
        [train_conditions["log_dose"].mean(), train_conditions["time"].mean()], rel=1e-6
    )
    assert result.trained.model.offset.tolist() != pytest.approx(
        [corpus.conditions["log_dose"].mean(), corpus.conditions["time"].mean()], rel=1e-6
    )


# ---- it learns ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_small_settings_beat_every_baseline_on_a_known_truth(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    lines: list[str] = []
    result = train(additive_corpus, replace(SMALL, steps=1_500, decay_every=75), tmp_path, lines.append)
    evaluation = evaluate(result.trained, additive_corpus)
    for split in ("val", "test"):
        assert all(beaten_baselines(evaluation, split).values())
    scores = evaluation.set_index(["split", "predictor"])
    # the noise has a standard deviation of 0.2, which no predictor can go below
    assert 0.2 < scores.loc[("test", "scalar_lpm"), "rmse"] < 0.3
    assert scores.loc[("test", "compound_mean"), "rmse"] > 0.6
    # a slow machine tells of steps in between, too
    validated = [line.split(":")[0].split(" (")[0] for line in lines if "validation RMSE" in line]
    assert validated == ["step 500 of 1,500", "step 1,000 of 1,500", "step 1,500 of 1,500"]


@pytest.mark.slow
def test_the_multi_output_model_beats_every_baseline_on_a_known_truth(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    result = train(additive_corpus, replace(SMALL_MULTI_OUTPUT, steps=1_000), tmp_path, silent)
    evaluation = evaluate(result.trained, additive_corpus)
    assert all(all(beaten_baselines(evaluation, split).values()) for split in ("val", "test"))
    assert 0.2 < evaluation.set_index(["split", "predictor"]).loc[("test", "multi_output_lpm"), "rmse"] < 0.35


# ---- what cannot be trained --------------------------------------------------------------------------------------------------


def test_a_corpus_without_validation_values_is_refused(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    write_corpus([make_effects("alpha", "CVCL_A", [("a", 1, 1.0, 24.0)], np.ones((1, 3)))], tmp_path / "corpus", make_stamp(), name="tiny")
    with pytest.raises(InputError, match="no val values"):
        train(open_corpus(tmp_path / "corpus"), TINY, tmp_path / "run", silent)


def test_divergence_is_said(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        train(additive_corpus, replace(TINY, learning_rate=1e18), tmp_path, silent)


def test_symbols_never_trained_are_refused_without_an_unknown_token(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    # six contexts with one compound each, all trained in context A too, so that some are held out whole
    rows = [(f"d{number}", number + 1, 1.0, 24.0) for number in range(12)]
    strata = [make_effects("alpha", "CVCL_A", rows, np.ones((12, 3)))]
    strata += [make_effects("alpha", f"CVCL_{name}", rows[place : place + 1], np.ones((1, 3))) for place, name in enumerate("BCDEFG")]
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="rare", seed=0)
    corpus = open_corpus(tmp_path / "corpus")
    contexts = corpus.conditions.groupby("split")["context"].unique()
    assert set(contexts["val"]) - set(contexts["train"])
    with pytest.raises(InputError, match="column context; rows CVCL_"):
        train(corpus, replace(TINY, unknown_token=False), tmp_path / "strict", silent)
    assert train(corpus, TINY, tmp_path / "lenient", silent).n_val > 0
