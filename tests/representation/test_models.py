"""The models: their published shapes, what their parts do, and that batches are computed as single predictions are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from perturbridge_dagster import stages
from perturbridge_dagster.representation import models
from perturbridge_dagster.representation.batches import Batches, epoch_batches
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies, encode_conditions, encode_split
from perturbridge_dagster.representation.models import (
    LPM,
    MODELS,
    ConditionTensors,
    ModelSettings,
    MultiOutputLPM,
    ScalarLPM,
    predict,
)
from tests.representation.values import predicted_of, values_of


def numbered(n: int) -> tuple[str, ...]:
    return tuple(f"{number:06d}" for number in range(n))


@pytest.mark.parametrize(
    ("sizes", "n_parameters"),
    # all data: counted from the published vocabularies; and the same arithmetic for the L1000 model
    [((10, 130, 37_441, 43_499), 10_641_665), ((2, 82, 21_005, 978), (2 + 82 + 21_005 + 978) * 128 + 512 + 196_864 + 65_792 + 257)],
)
def test_published_number_of_parameters(sizes: tuple[int, int, int, int], n_parameters: int) -> None:
    with torch.device("meta"):
        model = ScalarLPM(Vocabularies(*(numbered(n) for n in sizes)))
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def test_published_layers_and_start() -> None:
    torch.manual_seed(0)
    model = ScalarLPM(Vocabularies(numbered(3), numbered(5), numbered(4_000), numbered(4_000)))
    assert [type(layer).__name__ for layer in model.predictor] == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [(layer.in_features, layer.out_features) for layer in model.predictor if isinstance(layer, torch.nn.Linear)] == [
        (768, 256),
        (256, 256),
        (256, 1),
    ]
    assert {layer.p for layer in model.predictor if isinstance(layer, torch.nn.Dropout)} == {0.1}
    for name in ("perturbation", "readout"):
        assert float(getattr(model, name).weight.detach().std()) == pytest.approx(1, abs=0.01)
    bound = np.sqrt(2) * np.sqrt(6 / (768 + 256))
    first = model.predictor[0].weight.detach()
    assert float(first.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(first.std()) == pytest.approx(bound / np.sqrt(3), rel=0.01)


def conditions(*perturbations: str, dataset: str = "000000") -> pd.DataFrame:
    return pd.DataFrame(
        {"dataset": dataset, "context": "000000", "perturbation": perturbations, "log_dose": np.float32(0.5), "time": np.float32(24)}
    )


def output(model: ScalarLPM, vocabularies: Vocabularies, frame: pd.DataFrame) -> torch.Tensor:
    tensors = ConditionTensors.of(encode_conditions(frame, vocabularies), torch.device("cpu"))
    predicted: torch.Tensor = model.eval()(tensors, torch.zeros(len(frame), dtype=torch.int64))
    return predicted


def test_forward_is_the_published_formula() -> None:
    torch.manual_seed(1)
    vocabularies = Vocabularies(numbered(2), numbered(2), ("Control", *numbered(5)), numbered(3))
    model = ScalarLPM(vocabularies, ModelSettings(width=4, hidden=(8, 8)))
    found = output(model, vocabularies, conditions("000001"))

    def weight(layer: torch.nn.Linear) -> tuple[np.ndarray, np.ndarray]:
        return layer.weight.detach().numpy(), layer.bias.detach().numpy()

    dose, time = weight(model.log_dose), weight(model.time)
    hidden = np.concatenate(
        [
            model.dataset.weight[0].detach().numpy(),
            model.context.weight[0].detach().numpy(),
            model.perturbation.weight[2].detach().numpy(),
            model.readout.weight[0].detach().numpy(),
            dose[0][:, 0] * 0.5 + dose[1],
            time[0][:, 0] * 24 + time[1],
        ]
    )
    for place in (0, 3):
        matrix, bias = weight(model.predictor[place])
        hidden = np.maximum(matrix @ hidden + bias, 0)
    matrix, bias = weight(model.predictor[6])
    assert found.tolist()[0] == pytest.approx(float((matrix @ hidden + bias)[0]), rel=1e-5)


def test_a_combination_is_the_mean_of_its_molecules() -> None:
    vocabularies = Vocabularies(numbered(1), numbered(1), ("Control", *numbered(4)), numbered(1))
    model = ScalarLPM(vocabularies, ModelSettings(width=4, hidden=(8,)))
    with torch.no_grad():
        model.perturbation.weight[4] = (model.perturbation.weight[1] + model.perturbation.weight[2]) / 2
    combined, mean, swapped, alone = output(model, vocabularies, conditions("000000+000001", "000003", "000001+000000", "000000")).tolist()
    assert combined == pytest.approx(mean, rel=1e-5)
    assert combined == pytest.approx(swapped, rel=1e-5)
    assert combined != pytest.approx(alone, rel=1e-3)


def test_the_unknown_token_is_zero_and_stays_so() -> None:
    vocabularies = Vocabularies(numbered(1), numbered(1), ("Control", *numbered(4)), numbered(1), unknown=True)
    model = ScalarLPM(vocabularies, ModelSettings(width=4, hidden=(8,), dropout=0.0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        output(model, vocabularies, conditions("new", "000001", dataset="other")).square().sum().backward()
        optimiser.step()
    assert model.perturbation.weight[5].abs().max() == 0
    assert model.dataset.weight[1].abs().max() == 0
    assert model.perturbation.weight[2].abs().max() > 0


def test_standardizing_changes_dose_and_time_alone(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies()
    values = encode_split(additive_corpus, "train", vocabularies)
    model = ScalarLPM(vocabularies, ModelSettings(width=4, hidden=(8,)))
    assert model.offset.tolist() == [0, 0]
    assert model.scale.tolist() == [1, 1]
    model.standardize(values.encoded)
    assert model.offset.tolist() == pytest.approx([values.encoded.log_dose.mean(), 24], abs=1e-6)
    # every time is 24 h, and has no deviation to divide by
    assert model.scale.tolist() == pytest.approx([values.encoded.log_dose.std(), 1], rel=1e-6)


def test_predictions_do_not_depend_on_chunks(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies()
    values = encode_split(additive_corpus, "val", vocabularies)
    model = ScalarLPM(vocabularies, ModelSettings(width=4, hidden=(8,), dropout=0.5)).train()
    whole, chunked = (predicted_of(model, values, at_once=n).value for n in (len(values), 1_001))
    np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-6)
    assert model.training


# ---- multi-output ------------------------------------------------------------------------------------------------------------


def test_published_layers_of_the_multi_output_model() -> None:
    with torch.device("meta"):
        model = MultiOutputLPM(Vocabularies(numbered(12), numbered(140), numbered(1_000), numbered(43_499)))
    assert [(layer.in_features, layer.out_features) for layer in model.predictor if isinstance(layer, torch.nn.Linear)] == [
        (640, 256),
        (256, 256),
        (256, 43_499),
    ]
    assert not hasattr(model, "readout")


def test_genes_that_are_asked_for_are_the_columns_of_all(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies()
    split = encode_split(additive_corpus, "val", vocabularies)
    model = MultiOutputLPM(vocabularies, ModelSettings(width=4, hidden=(8,))).eval()
    conditions = ConditionTensors.of(split.encoded, torch.device("cpu"))
    whole = model(conditions, torch.arange(vocabularies.size("readout")))
    some = torch.tensor([5, 0, 17])
    torch.testing.assert_close(model(conditions, some), whole[:, some])


def test_both_models_predict_the_same_values(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies()
    split = encode_split(additive_corpus, "val", vocabularies)
    seen = []
    for made in (ScalarLPM, MultiOutputLPM):
        model = made(vocabularies, ModelSettings(width=4, hidden=(8,)))
        predicted = predicted_of(model, split, at_once=700)
        seen.append(list(zip(predicted.condition, predicted.readout, strict=True)))
    assert seen[0] == seen[1]
    assert len(seen[0]) == len(split)


def test_a_gene_never_trained_is_predicted_as_zero() -> None:
    vocabularies = Vocabularies(numbered(1), numbered(1), ("Control", *numbered(4)), numbered(3), unknown=True)
    model = MultiOutputLPM(vocabularies, ModelSettings(width=4, hidden=(8,), dropout=0.0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    tensors = ConditionTensors.of(encode_conditions(conditions("000001", "000002"), vocabularies), torch.device("cpu"))
    for _ in range(3):
        optimiser.zero_grad()
        model(tensors, torch.tensor([0, 2])).sum().backward()
        optimiser.step()
    assert model(tensors, torch.tensor([3])).abs().max() == 0
    assert model(tensors, torch.tensor([0])).abs().max() > 0


def test_every_model_of_the_graph_is_there() -> None:
    assert tuple(MODELS) == stages.MODELS


# ---- errors of batches -------------------------------------------------------------------------------------------------------


def with_holes(corpus: StoredCorpus) -> tuple[Vocabularies, EncodedSplit]:
    """Val values of a corpus, a third of them missing."""
    vocabularies = corpus.vocabularies(unknown=True)
    split = encode_split(corpus, "val", vocabularies)
    random = np.random.default_rng(3)
    parts = [np.where(random.random(block.values().shape) < 1 / 3, np.nan, block.values()).astype(np.float32) for block in split.blocks]
    blocks = [replace(block, log_fc=part, row=np.arange(len(part))) for block, part in zip(split.blocks, parts, strict=True)]
    counts = np.concatenate([np.isfinite(part).sum(axis=1) for part in parts])
    return vocabularies, replace(split, blocks=tuple(blocks), first=np.concatenate([[0], counts]).cumsum())


@pytest.mark.parametrize("gathered_row", [0, 10**9], ids=["genes apart", "all genes at once"])
@pytest.mark.parametrize("made", [ScalarLPM, MultiOutputLPM])
def test_the_error_of_a_batch_and_its_gradient_are_those_of_single_predictions(
    made: type[LPM], gathered_row: int, additive_corpus: StoredCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_GATHERED_ROW", gathered_row)
    vocabularies, split = with_holes(additive_corpus)
    torch.manual_seed(2)
    model = made(vocabularies, ModelSettings(width=4, hidden=(8, 8), dropout=0.0))
    tensors = ConditionTensors.of(split.encoded, torch.device("cpu"))
    size = 500 if made is ScalarLPM else 40
    batch = next(Batches(split, model.item, size, seed=1).from_step(0))
    found = model.squared_error(tensors, batch)
    found.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()

    numbers = next(epoch_batches(len(split) if made is ScalarLPM else len(split.first) - 1, size, 1, 0))
    if made is MultiOutputLPM:
        numbers = np.concatenate([np.arange(split.first[row], split.first[row + 1]) for row in numbers])
    values = values_of(split).some(numbers)
    assert batch.n_values == batch.n_mine == len(numbers)
    table = model.profiles(tensors, torch.arange(vocabularies.size("readout")))
    predicted = table[torch.from_numpy(values.condition), torch.from_numpy(values.readout)]
    expected = (predicted - torch.from_numpy(values.value)).square().sum()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("made", [ScalarLPM, MultiOutputLPM])
def test_bfloat16_multiplies_in_bfloat16_and_keeps_weights(made: type[LPM], additive_corpus: StoredCorpus) -> None:
    vocabularies, split = with_holes(additive_corpus)
    model = made(vocabularies, ModelSettings(width=8, hidden=(16, 16), dropout=0.0))
    tensors = ConditionTensors.of(split.encoded, torch.device("cpu"))
    batch = next(Batches(split, model.item, 64, seed=1).from_step(0))
    exact = model.squared_error(tensors, batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.squared_error(tensors, batch)
    assert rounded.dtype == torch.float32
    assert rounded.item() != exact
    assert rounded.item() == pytest.approx(exact, rel=0.02)
    rounded.backward()
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize("made", [ScalarLPM, MultiOutputLPM])
def test_profiles_are_the_predictions_of_every_gene(made: type[LPM], additive_corpus: StoredCorpus) -> None:
    vocabularies, split = with_holes(additive_corpus)
    model = made(vocabularies, ModelSettings(width=4, hidden=(8,), dropout=0.5)).train()
    seen = []
    for block, predicted in predict(model, split, at_once=100):
        assert predicted.shape == (len(block.condition), len(block.readout))
        assert predicted.dtype == np.float32
        assert len(predicted) <= max(1, 100 // len(block.readout))
        seen.append(block.condition)
    assert model.training
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(split.conditions)))
    if made is ScalarLPM:
        predicted_values = predicted_of(model, split)
        assert len(predicted_values.value) == len(split)
        conditions = ConditionTensors.of(split.encoded, torch.device("cpu")).rows(torch.from_numpy(predicted_values.condition))
        one_by_one = model.eval()(conditions, torch.from_numpy(predicted_values.readout)).detach().numpy()
        np.testing.assert_allclose(predicted_values.value, one_by_one, rtol=1e-4, atol=1e-5)
