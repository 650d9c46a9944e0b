"""Scores against scikit-learn, baselines against plain group means, and the verdict in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from perturbridge_dagster.contract import EVALUATION
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.encoding import encode_split
from perturbridge_dagster.representation.evaluation import Scores, TrainMean, beaten_baselines, describe_evaluation, evaluate
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.training import TrainedModel, TrainingSettings, train
from perturbridge_dagster.written import to_arrow

QUICK = TrainingSettings(batch_size=2_000, steps=3, model=ModelSettings(width=4, hidden=(8,)), unknown_token=True)


@pytest.fixture(scope="module")
def trained(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(additive_corpus, QUICK, tmp_path_factory.mktemp("run"), lambda line: None).trained


@given(st.integers(2, 400), st.integers(1, 60), st.floats(-1e3, 1e3), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_scores_equal_scikit_learn(n: int, chunk: int, offset: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = (offset + generator.standard_normal(n)).astype(np.float32)
    predicted = truth + generator.standard_normal(n).astype(np.float32)
    scores = Scores()
    for start in range(0, n, chunk):
        scores.add(truth[start : start + chunk], predicted[start : start + chunk])
    y, p = truth.astype(float), predicted.astype(float)
    assert scores.row() == {
        "n_values": n,
        "rmse": pytest.approx(metrics.root_mean_squared_error(y, p), rel=1e-9),
        "mae": pytest.approx(metrics.mean_absolute_error(y, p), rel=1e-9),
        "pearson": pytest.approx(stats.pearsonr(y, p).statistic, rel=1e-6, abs=1e-9),
        "r2": pytest.approx(metrics.r2_score(y, p), rel=1e-6, abs=1e-9),
    }


def test_scores_that_are_undefined_are_missing() -> None:
    assert Scores().row() == {"n_values": 0, "rmse": None, "mae": None, "pearson": None, "r2": None}
    constant = Scores()
    constant.add(np.array([1.0, 2.0]), np.zeros(2))
    assert constant.row()["pearson"] is None
    assert constant.row()["r2"] == pytest.approx(-9)
    one = Scores()
    one.add(np.array([2.0]), np.array([1.0]))
    assert one.row() == {"n_values": 1, "rmse": 1.0, "mae": 1.0, "pearson": None, "r2": None}
    perfect = Scores()
    perfect.add(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 4.0]))
    assert (perfect.row()["pearson"], perfect.row()["r2"], perfect.row()["rmse"]) == (pytest.approx(1), 1, 0)


@pytest.mark.parametrize(
    ("name", "columns"), [("gene_mean", []), ("context_mean", ["dataset", "context"]), ("compound_mean", ["perturbation"])]
)
def test_baselines_are_train_means(additive_corpus: StoredCorpus, trained: TrainedModel, name: str, columns: list[str]) -> None:
    def long(split: str) -> pd.DataFrame:
        frame = pd.concat(list(additive_corpus.iterate_shards(split)))
        return frame.astype({"dataset": str, "context": str, "perturbation": str, "readout": str, "value": float})

    means = long("train").groupby([*columns, "readout"], as_index=False)["value"].mean()
    joined = long("test").merge(means, on=[*columns, "readout"], suffixes=("", "_predicted"), validate="many_to_one")
    assert len(joined) == additive_corpus.summary["n_values"]["test"]
    found = evaluate(trained, additive_corpus, splits=["test"]).set_index("predictor").loc[name]
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(joined["value"], joined["value_predicted"]), rel=1e-7)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(joined["value"], joined["value_predicted"]), rel=1e-7)
    assert found["r2"] == pytest.approx(metrics.r2_score(joined["value"], joined["value_predicted"]), rel=1e-6)
    assert found["pearson"] == pytest.approx(stats.pearsonr(joined["value"], joined["value_predicted"]).statistic, rel=1e-6)


def test_a_baseline_falls_back_to_the_gene_and_then_to_zero(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    rows = [(f"d{number}", number + 1, 1.0, 24.0) for number in range(10)]
    strata = [make_effects(name, "CVCL_A", rows, np.arange(20.0).reshape(10, 2)) for name in ("alpha", "beta")]
    write_corpus(strata, tmp_path / "corpus", make_stamp(), name="c")
    corpus = open_corpus(tmp_path / "corpus")
    vocabularies = corpus.vocabularies(unknown=True)
    fitted, held_out = encode_split(corpus, "train", vocabularies), encode_split(corpus, "test", vocabularies)
    gene = TrainMean(fitted, (), vocabularies.size("readout"))
    values = held_out.take(np.arange(len(held_out)))
    values.readout[0] = len(vocabularies.readout)  # an unknown gene
    baseline = TrainMean(fitted, ("dataset", "context"), vocabularies.size("readout"), gene)
    predicted = baseline.predict(held_out.conditions.assign(context="CVCL_NEW"), values)
    trained = fitted.take(np.arange(len(fitted)))
    of_gene = [trained.value[trained.readout == code].mean() for code in range(2)]
    np.testing.assert_allclose(predicted, [0.0, *(of_gene[code] for code in values.readout[1:])], rtol=1e-6)


def test_evaluation_follows_the_contract(additive_corpus: StoredCorpus, trained: TrainedModel) -> None:
    evaluation = evaluate(trained, additive_corpus)
    assert to_arrow(evaluation, EVALUATION).num_rows == 10
    assert evaluation["predictor"].tolist() == ["scalar_lpm", "zero", "gene_mean", "context_mean", "compound_mean"] * 2
    assert evaluation.groupby("split")["n_values"].unique().map(list).to_dict() == {
        split: [additive_corpus.summary["n_values"][split]] for split in ("val", "test")
    }
    assert evaluation.set_index(["predictor", "split"]).loc[("zero", "test"), "rmse"] == pytest.approx(
        np.sqrt(np.mean(np.concatenate([shard["value"] for shard in additive_corpus.iterate_shards("test")]).astype(float) ** 2)), rel=1e-9
    )


def frame_of(rmse: dict[str, float | None], n_values: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"predictor": list(rmse), "split": "test", "n_values": n_values, "rmse": list(rmse.values())})


def test_the_verdict_says_plainly_when_the_model_does_not_win() -> None:
    losing = frame_of({"scalar_lpm": 0.5, "zero": 0.6, "gene_mean": 0.5, "context_mean": 0.4})
    assert beaten_baselines(losing, "test") == {"zero": True, "gene_mean": False, "context_mean": False}
    text = describe_evaluation(losing)
    assert "does NOT beat gene_mean, context_mean" in text
    assert "the best baseline, context_mean, has 0.4000" in text
    winning = describe_evaluation(frame_of({"scalar_lpm": 0.3, "zero": 0.6}))
    assert "beats every baseline" in winning
    assert "NOT" not in winning
    assert "no values" in describe_evaluation(frame_of({"scalar_lpm": None, "zero": None}, n_values=0))


def test_an_untrained_model_is_reported_as_losing(additive_corpus: StoredCorpus, trained: TrainedModel) -> None:
    assert "does NOT beat" in describe_evaluation(evaluate(trained, additive_corpus))
