"""Training: resuming bit for bit, starts and frozen parts, selection, no leakage, full disks, and that it learns."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.representation import checkpoints, training
from perturbridge_dagster.representation.checkpoints import Start, TrainedModel, load_model
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.determinism import deterministic
from perturbridge_dagster.representation.encoding import encode_split
from perturbridge_dagster.representation.evaluation import ModelPredictor, evaluate
from perturbridge_dagster.representation.models import MODELS, ModelSettings
from perturbridge_dagster.representation.settings import (
    PUBLISHED,
    PUBLISHED_MULTI_OUTPUT,
    SETTINGS,
    SMALL,
    SMALL_MULTI_OUTPUT,
    TrainingSettings,
    settings_for,
)
from perturbridge_dagster.representation.structure_baselines import fitted_baselines
from perturbridge_dagster.representation.training import n_train_items, train
from perturbridge_dagster.representation.verdicts import beaten_baselines, pooled
from tests.representation.conftest import gene_ids
from tests.representation.values import predicted_of, values_of

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


def scores(trained: TrainedModel, corpus: StoredCorpus, *splits: str) -> pd.DataFrame:
    """Scores of a model and every baseline on all values of some splits."""
    train_values, val_values = (encode_split(corpus, name, trained.vocabularies) for name in ("train", "val"))
    baselines = fitted_baselines(train_values, val_values, trained.vocabularies, corpus.compounds)
    return pooled(evaluate([ModelPredictor(trained), *baselines], corpus, trained.vocabularies, splits=splits).scores)


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
    assert TrainingSettings(precision="bfloat16", unknown_token=True) == PUBLISHED
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


@pytest.mark.parametrize(
    ("model", "n_items", "epochs", "steps_of_an_epoch"),
    [
        ("scalar_lpm", 104_456 * 16_384, 25, 104_456),
        ("scalar_lpm", 12_760 * 16_384, 25, 12_760),  # L1000; its epoch 20 was step 255,200
        ("scalar_lpm", 1_100_000, 25, 5_000 / 25),
        ("multi_output_lpm", 373_000, 200, 92),
        ("multi_output_lpm", 1_000, 200, 5_000 / 200),
    ],
)
def test_the_published_size_trains_published_epochs_of_a_large_corpus_and_steps_enough_of_a_small_one(
    model: str, n_items: int, epochs: int, steps_of_an_epoch: float
) -> None:
    """With the steps of the whole compendium, L1000 alone took 205 epochs, in which the learning rate fell to 0."""
    found = settings_for("published", model, n_items)
    assert found.steps == epochs * steps_of_an_epoch
    assert found.decay_every == found.validate_every == steps_of_an_epoch
    whole = SETTINGS["published"][model]
    assert found == replace(whole, steps=found.steps, decay_every=found.decay_every, validate_every=found.validate_every)
    if n_items in (104_456 * 16_384, 373_000):
        assert found.steps == whole.steps, "the whole compendium"
    assert settings_for("small", model, n_items) == SETTINGS["small"][model]


@pytest.mark.parametrize("model", ["scalar_lpm", "multi_output_lpm"])
def test_the_published_size_trains_a_corpus_with_symbols_that_only_held_out_conditions_have(
    model: str, make_effects: Callable, make_stamp: Callable, tmp_path: Path
) -> None:
    corpus = corpus_with_rare_contexts(make_effects, make_stamp, tmp_path / "corpus")
    never_trained = {
        "context": set(corpus.conditions["context"]) - set(corpus.vocabularies().context),
        "readout": set(corpus.readouts["readout"]) - set(corpus.vocabularies().readout),
    }
    assert all(never_trained.values()), never_trained
    n_items = n_train_items(corpus, model, "scalar")
    trained = corpus.conditions_of("train")
    assert n_items == (trained["n_values"].sum() if model == "scalar_lpm" else len(trained))
    settings = settings_for("published", model, n_items)
    short = replace(settings, steps=2, validate_every=1, batch_size=10, model=replace(settings.model, width=8, hidden=(8,)))
    result = train(corpus, short, tmp_path / "run", silent)
    assert result.n_val == corpus.summary["n_values"]["val"] > 0
    found = evaluate([ModelPredictor(result.trained)], corpus, result.trained.vocabularies)
    assert found.scores["n_values"].sum() > 0


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
from perturbridge_dagster.representation.settings import TrainingSettings
from perturbridge_dagster.representation.training import train
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
    with pytest.raises(InputError, match="other settings, another start or another corpus"):
        train(additive_corpus, replace(TINY, steps=3), tmp_path, silent)


def test_selected_model_is_the_one_with_the_best_full_validation(
    additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult
) -> None:
    history = uninterrupted.history
    assert history["step"].tolist() == [20, 40, 60]
    assert history["epoch"].tolist() == pytest.approx([20 / 27, 40 / 27, 60 / 27], rel=0.05)
    assert history["learning_rate"].tolist() == pytest.approx([2e-3 * 0.97 ** (step // 7) for step in (20, 40, 60)])
    assert uninterrupted.trained.validation_rmse == history["validation_rmse"].min()
    val = scores(uninterrupted.trained, additive_corpus, "val").set_index("predictor")
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


# ---- what a training starts from ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a training on all datasets."""
    folder = tmp_path_factory.mktemp("source")
    train(additive_corpus, replace(TINY, seed=7, standardize=True), folder, silent)
    return folder / "best.pt"


def vectors(corpus: StoredCorpus, width: int) -> pd.DataFrame:
    """Bits for every other perturbation of a corpus."""
    symbols = sorted(corpus.conditions["perturbation"].unique())[::2]
    return pd.DataFrame(np.random.default_rng(1).integers(0, 2, (len(symbols), width)), index=symbols)


@pytest.mark.parametrize("architecture", ["scalar_lpm", "multi_output_lpm"])
def test_fine_tuning_starts_from_the_weights_and_vocabularies_of_a_checkpoint(
    architecture: str, additive_corpus: StoredCorpus, tmp_path: Path
) -> None:
    settings = replace(TINY, architecture=architecture, batch_size=1_000 if architecture == "scalar_lpm" else 30, standardize=True)
    whole = train(additive_corpus, settings, tmp_path / "whole", silent)
    # one step of a learning rate of nothing shows where it starts
    still = replace(settings, steps=1, learning_rate=0.0, seed=99)
    start = Start(checkpoint=tmp_path / "whole" / "best.pt")
    begun = train(additive_corpus, still, tmp_path / "begun", silent, start=start, datasets=["beta"])
    assert begun.trained.vocabularies == whole.trained.vocabularies == additive_corpus.vocabularies(unknown=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(begun)[name], tensor), name
    of_beta = additive_corpus.conditions[additive_corpus.conditions["dataset"] == "beta"].groupby("split")["n_values"].sum()
    assert (begun.n_train, begun.n_val) == (of_beta["train"], of_beta["val"])
    assert begun.trained.datasets == ("beta",)
    tuned = train(additive_corpus, replace(settings, seed=99), tmp_path / "tuned", silent, start=start, datasets=["beta"])
    assert tuned.history["validation_rmse"].min() < begun.history["validation_rmse"].iloc[0]


@pytest.mark.parametrize("architecture", ["scalar_lpm", "multi_output_lpm"])
def test_frozen_parts_keep_every_bit_through_weight_decay(
    architecture: str, source: Path, additive_corpus: StoredCorpus, tmp_path: Path
) -> None:
    settings = replace(TINY, architecture=architecture, batch_size=1_000 if architecture == "scalar_lpm" else 30, weight_decay=0.5)
    bits = vectors(additive_corpus, 4)
    frozen = ("perturbation", "log_dose")
    result = train(additive_corpus, settings, tmp_path, silent, start=Start(perturbation=bits, frozen=frozen))
    vocabularies, found = result.trained.vocabularies, weights(result)
    table = np.zeros((vocabularies.size("perturbation"), 4), np.float32)
    table[vocabularies.encode("perturbation", list(bits.index))] = bits
    np.testing.assert_array_equal(found["perturbation.weight"].numpy(), table)  # zeros where there is no vector
    torch.manual_seed(settings.seed)
    first = MODELS[architecture](vocabularies, settings.model).state_dict()
    assert all(torch.equal(found[name], first[name]) for name in found if name.startswith("log_dose"))
    for name in ("context.weight", "time.weight", "predictor.0.weight"):
        assert not torch.equal(found[name], first[name]), name
    assert load_model(tmp_path / "best.pt").frozen == frozen
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    n_parts = len([name for name in first if not name.startswith(("perturbation", "log_dose", "offset", "scale"))])
    assert len(state["optimiser"]["param_groups"][0]["params"]) == len(state["optimiser"]["state"]) == n_parts


def test_vectors_that_may_learn_do_and_the_optimiser_starts_afresh(source: Path, additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    bits = vectors(additive_corpus, 4)
    learned = train(additive_corpus, TINY, tmp_path / "learned", silent, start=Start(perturbation=bits))
    codes = learned.trained.vocabularies.encode("perturbation", list(bits.index))
    assert not np.array_equal(weights(learned)["perturbation.weight"].numpy()[codes], bits.to_numpy(np.float32))
    # the first step of Adam on fresh moments moves every trained weight by the learning rate, whatever the gradient
    one = replace(TINY, steps=1, weight_decay=0.0)
    after = train(additive_corpus, one, tmp_path / "one", silent, start=Start(checkpoint=source))
    moved = (weights(after)["predictor.0.weight"] - load_model(source).model.state_dict()["predictor.0.weight"]).abs()
    assert moved[moved > 1e-4].numpy() == pytest.approx(TINY.learning_rate, rel=0.05)
    assert (moved > 1e-4).float().mean() > 0.5


def test_a_start_resumes_with_the_same_bits_and_another_start_is_refused(
    source: Path, additive_corpus: StoredCorpus, tmp_path: Path
) -> None:
    start = Start(checkpoint=source, frozen=("perturbation",))

    def stop(line: str) -> None:
        if line.startswith("step 40 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(additive_corpus, TINY, tmp_path / "stopped", stop, start=start, datasets=["beta", "alpha"])
    with pytest.raises(InputError, match="another start"):
        train(additive_corpus, TINY, tmp_path / "stopped", silent, start=replace(start, frozen=()), datasets=["beta", "alpha"])
    with pytest.raises(InputError, match="another start"):
        train(additive_corpus, TINY, tmp_path / "stopped", silent, datasets=["beta", "alpha"])
    resumed = train(additive_corpus, TINY, tmp_path / "stopped", silent, start=start, datasets=["alpha", "beta"])
    assert_same(resumed, train(additive_corpus, TINY, tmp_path / "whole", silent, start=start, datasets=["alpha", "beta"]))


def test_a_start_that_does_not_fit_is_refused(source: Path, additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    def refused(start: Start, match: str, settings: TrainingSettings = TINY) -> None:
        with pytest.raises(InputError, match=match):
            train(additive_corpus, settings, tmp_path / "run", silent, start=start)

    bits = vectors(additive_corpus, 4)
    refused(Start(checkpoint=source), "the checkpoint is a scalar_lpm of width 4", replace(TINY, architecture="multi_output_lpm"))
    refused(Start(checkpoint=source), "Expected: a scalar_lpm of width 6", replace(TINY, model=replace(TINY.model, width=6)))
    refused(Start(checkpoint=tmp_path / "absent.pt"), "there is no trained model")
    refused(Start(perturbation=bits.iloc[:, :3]), "have 3 dimensions. Expected: 4")
    refused(Start(perturbation=bits.set_axis([f"x{name}" for name in bits.index])), "no perturbation of the corpus has a vector")
    refused(Start(perturbation=pd.concat([bits, bits.iloc[:1]])), "several vectors")
    refused(Start(perturbation=bits.drop(index=bits.index[1]).reindex(bits.index)), f"rows {bits.index[1]}: vectors are missing")
    refused(Start(frozen=("perturbation", "gene")), "rows gene: there are no such parts to freeze")
    refused(Start(frozen=("dataset", "context", "perturbation", "readout", "log_dose", "time", "predictor")), "nothing to train")
    (tmp_path / "cut.pt").write_bytes(source.read_bytes()[:5_000])
    refused(Start(checkpoint=tmp_path / "cut.pt"), "this is no trained model")


def test_a_checkpoint_of_another_vocabulary_is_refused(source: Path, make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    # also with an unknown token, which would stand for all that is to be trained
    rows = [(f"d{number}", 101 + number, 1.0, 24.0) for number in range(30)]

    def corpus_of(name: str, *, context: str = "CVCL_A", cid: int = 0, gene: int = 0) -> StoredCorpus:
        moved = [(drug, number + cid, dose, time) for drug, number, dose, time in rows]
        logFC = np.random.default_rng(2).standard_normal((30, 5))
        genes = [f"ENSG{gene + number:011d}" for number in range(5)]
        strata = [make_effects(dataset, context, moved, logFC, genes) for dataset in ("alpha", "beta")]
        write_corpus(strata, tmp_path / name, make_stamp(), name=name)
        return open_corpus(tmp_path / name)

    for name, corpus, column in (
        ("context", corpus_of("other contexts", context="CVCL_Z"), "CVCL_Z"),
        ("perturbation", corpus_of("other compounds", cid=30), "141"),
        ("readout", corpus_of("other genes", gene=58), "ENSG00000000060"),
    ):
        with pytest.raises(InputError, match=f"best.pt; column {name}; rows .*{column}.*another vocabulary"):
            train(corpus, TINY, tmp_path / "run", silent, start=Start(checkpoint=source))
    assert train(corpus_of("same"), TINY, tmp_path / "run", silent, start=Start(checkpoint=source)).n_val > 0


# ---- selection and splits ----------------------------------------------------------------------------------------------------


def rmse_of(trained: TrainedModel, corpus: StoredCorpus, dataset: str) -> float:
    values = encode_split(corpus, "val", trained.vocabularies, datasets=[dataset])
    error = predicted_of(trained.model, values).value - values_of(values).value
    return float(np.sqrt(np.mean(error.astype(np.float64) ** 2)))


@pytest.mark.parametrize("architecture", ["scalar_lpm", "multi_output_lpm"])
def test_each_dataset_has_the_checkpoint_that_was_best_on_all_its_values(
    architecture: str, additive_corpus: StoredCorpus, tmp_path: Path
) -> None:
    settings = replace(TINY, architecture=architecture, batch_size=1_000 if architecture == "scalar_lpm" else 30, select="dataset")
    settings = replace(settings, validate_every=5)
    result = train(additive_corpus, settings, tmp_path, silent)
    assert sorted(result.of_dataset) == ["alpha", "beta", "gamma"]
    squared = 0.0
    for name, path in result.of_dataset.items():
        trained = load_model(path)
        column = result.history[f"validation_rmse {name}"]
        assert path.name == f"best_{name}.pt"
        assert trained.step == result.history["step"][column.idxmin()]
        assert trained.validation_rmse == column.min() == pytest.approx(rmse_of(trained, additive_corpus, name), rel=1e-5)
        val = additive_corpus.conditions_of("val", datasets=[name])
        squared += column**2 * val["n_values"].sum()
    np.testing.assert_allclose(np.sqrt(squared / result.n_val), result.history["validation_rmse"], rtol=1e-6)


def test_a_dataset_without_validation_values_has_no_checkpoint_of_its_own(
    make_effects: Callable, make_stamp: Callable, tmp_path: Path
) -> None:
    """The published run fell back on the RMSE of all datasets together, so that two selected the same checkpoint."""
    random = np.random.default_rng(1)
    rows = [(f"d{number}", number + 1, 1.0, 24.0) for number in range(40)]
    strata = [make_effects(name, "CVCL_A", rows, random.standard_normal((40, 5))) for name in ("alpha", "beta")]
    strata.append(make_effects("one_compound", "CVCL_A", rows[:1], random.standard_normal((1, 5))))
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="rare")
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.conditions_of("val", datasets=["one_compound"]).empty
    result = train(corpus, replace(TINY, select="dataset"), tmp_path / "run", silent)
    assert sorted(result.of_dataset) == ["alpha", "beta"]
    assert not (tmp_path / "run" / "best_one_compound.pt").exists()
    with pytest.raises(InputError, match="no val values of one_compound in split scalar"):
        train(corpus, TINY, tmp_path / "alone", silent, datasets=["one_compound"])
    with pytest.raises(InputError, match="absent"):
        train(corpus, TINY, tmp_path / "alone", silent, datasets=["absent"])


def test_selection_by_dataset_resumes(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    settings = replace(TINY, select="dataset")

    def stop(line: str) -> None:
        if line.startswith("step 40 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(additive_corpus, settings, tmp_path / "stopped", stop)
    resumed = train(additive_corpus, settings, tmp_path / "stopped", silent)
    whole = train(additive_corpus, settings, tmp_path / "whole", silent)
    assert_same(resumed, whole)
    for name, path in whole.of_dataset.items():
        assert resumed.of_dataset[name].read_bytes() == path.read_bytes()


def test_another_split_rule_trains_and_validates_on_its_own_conditions(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    rule = "molecules"
    result = train(additive_corpus, replace(TINY, split=rule), tmp_path, silent)
    for split, n_values in (("train", result.n_train), ("val", result.n_val)):
        assert n_values == additive_corpus.conditions_of(split, rule)["n_values"].sum()
        assert n_values != additive_corpus.conditions_of(split)["n_values"].sum()
    assert result.trained.vocabularies == additive_corpus.vocabularies(rule, unknown=True)


@pytest.mark.parametrize("architecture", ["scalar_lpm", "multi_output_lpm"])
def test_every_value_is_trained_on_once_an_epoch(architecture: str, additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    size = 1_000 if architecture == "scalar_lpm" else 37
    n_items = len(additive_corpus.conditions_of("train")) * (60 if architecture == "scalar_lpm" else 1)
    settings = replace(TINY, architecture=architecture, batch_size=size, validate_every=None).for_epochs(2, n_items)
    result = train(additive_corpus, settings, tmp_path, silent)
    assert result.history["epoch"].tolist() == [1, 2]
    assert result.history["n_values"].tolist() == [result.n_train] * 2


def test_the_run_seed_orders_the_data(additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout and from the same weights, two seeds differ by the order of the data alone; the published ones did not."""
    settings = replace(TINY, model=replace(TINY.model, dropout=0.0))
    train(additive_corpus, replace(settings, steps=1), tmp_path / "start", silent)
    start = Start(checkpoint=tmp_path / "start" / "best.pt")
    curves = [
        train(additive_corpus, replace(settings, seed=seed), tmp_path / f"{number}", silent, start=start).history["train_rmse"].tolist()
        for number, seed in enumerate((1, 2, 1))
    ]
    assert curves[0] == curves[2] != curves[1]


def test_bfloat16_learns_about_the_same(additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult, tmp_path: Path) -> None:
    result = train(additive_corpus, replace(TINY, precision="bfloat16"), tmp_path, silent)
    assert result.history["train_rmse"].tolist() != uninterrupted.history["train_rmse"].tolist()
    np.testing.assert_allclose(result.history["validation_rmse"], uninterrupted.history["validation_rmse"], rtol=0.05)
    assert {tensor.dtype for tensor in weights(result).values()} == {torch.float32}


def test_validations_are_reported_as_numbers(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    reported: list[dict[str, float]] = []
    result = train(additive_corpus, TINY, tmp_path, silent, report=lambda numbers: reported.append(dict(numbers)))
    shown = pd.DataFrame(reported)
    for name in ("step", "epoch", "train_rmse", "validation_rmse", "learning_rate"):
        assert shown[name].tolist() == result.history[name].tolist()
    assert shown["steps"].tolist() == [60] * 3
    assert shown["best_rmse"].tolist() == result.history["validation_rmse"].cummin().tolist()
    assert (shown["values_per_second"] > 0).all()


# ---- a full disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_leaves_the_last_good_checkpoint(
    additive_corpus: StoredCorpus, uninterrupted: training.TrainingResult, tmp_path: Path
) -> None:
    """A file may not grow any more after step 20, as on a full disk."""
    code = """
import resource, sys
from pathlib import Path
from perturbridge_dagster.representation.corpus import open_corpus
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.settings import TrainingSettings
from perturbridge_dagster.representation.training import train
def log(line):
    if line.startswith("step 20"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
train(open_corpus(Path(sys.argv[1])), eval(sys.argv[3]), Path(sys.argv[2]), log)
"""
    command = [sys.executable, "-c", code, str(additive_corpus.folder), str(tmp_path / "run"), repr(TINY)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "PerturbridgeError" in ended.stderr
    assert "could not be written (File too large). The last good checkpoint, of step 20, is intact. Make room" in ended.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.pt", "last.pt"]
    assert load_model(tmp_path / "run" / "best.pt").step == 20
    lines: list[str] = []
    assert_same(train(additive_corpus, TINY, tmp_path / "run", lines.append), uninterrupted)
    assert "going on from step 20 of 60" in lines


def test_a_disk_that_is_full_from_the_start_says_so(additive_corpus: StoredCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def no_space(path: Path) -> Iterator[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield path

    monkeypatch.setattr(checkpoints, "written_whole", no_space)
    with pytest.raises(PerturbridgeError, match=r"No space left on device\). It was the first of this training"):
        train(additive_corpus, TINY, tmp_path, silent)


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
    additive_strata: list, additive_samples: pd.DataFrame, additive_corpus: StoredCorpus, make_stamp: Callable, tmp_path: Path
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
        p_values = np.hstack([stratum.log10_adj_p_within, np.zeros((len(contrasts), 1))])
        strata.append(replace(stratum, logFC=logFC, log10_adj_p_within=p_values, genes=genes))
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="other test values", samples=additive_samples)
    changed = open_corpus(tmp_path / "corpus")
    assert changed.conditions["split"].tolist() == additive_corpus.conditions["split"].tolist()
    assert changed.summary["n_values"]["test"] > additive_corpus.summary["n_values"]["test"]

    settings = replace(TINY, standardize=True)
    before = train(additive_corpus, settings, tmp_path / "before", silent)
    after = train(changed, settings, tmp_path / "after", silent)
    assert after.trained.vocabularies == before.trained.vocabularies
    assert_same(before, after)
    pd.testing.assert_frame_equal(scores(before.trained, additive_corpus, "val"), scores(after.trained, changed, "val"), check_exact=True)
    assert (scores(after.trained, changed, "test")["rmse"] > 40).all()  # the test values did change


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
    found = scores(result.trained, additive_corpus, "val", "test")
    for split in ("val", "test"):
        assert all(beaten_baselines(found, split).values())
    found = found.set_index(["split", "predictor"])
    # the noise has a standard deviation of 0.2, which no predictor can go below
    assert 0.2 < found.loc[("test", "scalar_lpm"), "rmse"] < 0.3
    assert found.loc[("test", "compound_mean"), "rmse"] > 0.6
    # a slow machine tells of steps in between, too
    validated = [line.split(":")[0].split(" (")[0] for line in lines if "validation RMSE" in line]
    assert validated == ["step 500 of 1,500", "step 1,000 of 1,500", "step 1,500 of 1,500"]


@pytest.mark.slow
def test_the_multi_output_model_beats_every_baseline_on_a_known_truth(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    result = train(additive_corpus, SMALL_MULTI_OUTPUT, tmp_path, silent)
    found = scores(result.trained, additive_corpus, "val", "test")
    assert all(all(beaten_baselines(found, split).values()) for split in ("val", "test"))
    assert 0.2 < found.set_index(["split", "predictor"]).loc[("test", "multi_output_lpm"), "rmse"] < 0.35


# ---- what cannot be trained --------------------------------------------------------------------------------------------------


def test_a_corpus_without_validation_values_is_refused(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    write_corpus([make_effects("alpha", "CVCL_A", [("a", 1, 1.0, 24.0)], np.ones((1, 3)))], tmp_path / "corpus", make_stamp(), name="tiny")
    with pytest.raises(InputError, match="no val values"):
        train(open_corpus(tmp_path / "corpus"), TINY, tmp_path / "run", silent)


def test_divergence_is_said(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        train(additive_corpus, replace(TINY, learning_rate=1e18), tmp_path, silent)


def corpus_with_rare_contexts(make_effects: Callable, make_stamp: Callable, folder: Path) -> StoredCorpus:
    """Six contexts with one compound each, all trained in context A too, and a gene of their own, so that some are held out whole."""
    rows = [(f"d{number}", number + 1, 1.0, 24.0) for number in range(12)]
    strata = [make_effects("alpha", "CVCL_A", rows, np.ones((12, 3)))]
    for place, name in enumerate("BCDEFG"):
        genes = [*gene_ids(3), f"ENSG0000010000{place}"]
        strata.append(make_effects("alpha", f"CVCL_{name}", rows[place : place + 1], np.ones((1, 4)), genes=genes))
    write_corpus(strata, folder, make_stamp(), name="rare", seed=0)
    return open_corpus(folder)


def test_symbols_never_trained_are_refused_without_an_unknown_token(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    corpus = corpus_with_rare_contexts(make_effects, make_stamp, tmp_path / "corpus")
    contexts = corpus.conditions.groupby("split")["context"].unique()
    assert set(contexts["val"]) - set(contexts["train"])
    with pytest.raises(InputError, match="column context; rows CVCL_"):
        train(corpus, replace(TINY, unknown_token=False), tmp_path / "strict", silent)
    assert train(corpus, TINY, tmp_path / "lenient", silent).n_val > 0
