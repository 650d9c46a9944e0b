"""The words of a verdict: who wins, by how much, and plainly when the model does not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.evaluation import Evaluation, summarize_profiles
from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS
from perturbridge_dagster.representation.verdicts import FEWEST_HELD_OUT, beaten_baselines, describe_evaluation, favoured, model_of


def scores_of(rmse: dict[str, float | None], n_values: int = 100, dataset: str | None = None) -> pd.DataFrame:
    frame = pd.DataFrame({"predictor": list(rmse), "split": "test", "dataset": dataset, "n_values": n_values, "rmse": list(rmse.values())})
    return frame.astype({"rmse": "float64", "dataset": object})


def evaluation_of(scores: pd.DataFrame, errors: dict[str, np.ndarray]) -> Evaluation:
    """An evaluation whose conditions have some RMSE, and no other metric."""
    frames = [
        pd.DataFrame({"split": "test", "dataset": "alpha", "perturbation": np.arange(len(values)).astype(str), "predictor": name}).assign(
            **(dict.fromkeys([*PROFILE_METRICS, "recovery_at_n_by_chance", "recovery_at_fdr_by_chance"], np.nan) | {"rmse": values})
        )
        for name, values in errors.items()
    ]
    conditions = pd.concat(frames, ignore_index=True)
    return Evaluation(scores, summarize_profiles(conditions, list(errors), splits=["test"], datasets=["alpha"]), conditions)


@pytest.fixture
def losing() -> Evaluation:
    random = np.random.default_rng(1)
    rmse = {"scalar_lpm": 0.5, "zero": 0.6, "gene_mean": 0.5, "context_mean": 0.4}
    noise = random.standard_normal(50)
    errors = {name: value + 0.01 * noise + 0.001 * random.standard_normal(50) for name, value in rmse.items()}
    scores = pd.concat([scores_of(rmse), scores_of(rmse, dataset="alpha")], ignore_index=True)
    return evaluation_of(scores, errors)


def test_the_verdict_says_plainly_when_the_model_does_not_win(losing: Evaluation) -> None:
    assert model_of(losing.scores) == "scalar_lpm"
    assert beaten_baselines(losing.scores, "test") == {"zero": True, "gene_mean": False, "context_mean": False}
    text = describe_evaluation(losing)
    assert "does NOT beat gene_mean, context_mean" in text
    assert "the best baseline, context_mean, has 0.4000" in text
    assert "lower one: alpha (scalar_lpm 0.5000, context_mean 0.4000)." in text
    assert "told apart: RMSE of a profile (scalar_lpm 0.50" in text
    assert "worse)." in text


def test_the_verdict_says_by_how_much_and_how_sure_that_is(losing: Evaluation) -> None:
    lines = [line.split("|")[1:-1] for line in describe_evaluation(losing).splitlines() if line.startswith("|")]
    rows = {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}
    assert rows["zero"][0] == "0.6000"
    assert rows["zero"][1].startswith("−0.100 [−0.10")
    assert rows["zero"][2] == "better"
    assert rows["gene_mean"][2] == "not told apart"
    assert rows["context_mean"][1].startswith("0.1")
    assert rows["context_mean"][2] == "worse"
    assert rows["scalar_lpm"][1:3] == ["", ""]
    assert set(rows["zero"][3:]) == {"not defined"}
    assert len({len(row) for row in rows.values()}) == 1


def test_a_model_that_wins_everywhere_is_said_to() -> None:
    rmse = {"scalar_lpm": 0.3, "zero": 0.6}
    scores = pd.concat([scores_of(rmse), scores_of(rmse, dataset="alpha")], ignore_index=True)
    text = describe_evaluation(evaluation_of(scores, {name: np.full(30, value) for name, value in rmse.items()}))
    assert "beats every baseline" in text
    assert "lower one: none." in text
    assert "told apart: none." in text
    assert "NOT" not in text


def test_a_lower_rmse_whose_interval_does_not_say_so_is_no_win() -> None:
    rmse = {"scalar_lpm": 0.3, "zero": 0.31}
    noise = np.random.default_rng(0).normal(scale=0.2, size=30)
    text = describe_evaluation(evaluation_of(scores_of(rmse), {"scalar_lpm": 0.3 + noise, "zero": 0.31 + noise[::-1]}))
    assert "cannot be told apart from zero" in text
    assert "beats every" not in text


def test_without_values_or_baselines_nothing_is_claimed() -> None:
    nothing = evaluation_of(scores_of({"scalar_lpm": None, "zero": None}, n_values=0), {"scalar_lpm": np.zeros(0), "zero": np.zeros(0)})
    assert describe_evaluation(nothing) == "**test**: no values, so nothing can be said."
    alone = evaluation_of(scores_of({"scalar_lpm": 0.4}), {"scalar_lpm": np.full(3, 0.4)})
    assert "no baseline beside it" in describe_evaluation(alone)
    with pytest.raises(InputError, match="no model"):
        model_of(scores_of({"zero": 0.4}))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.2, -0.1, "better"),
        (0.1, 0.2, "worse"),
        (-0.1, 0.1, "not told apart"),
        (0.0, 0.1, "not told apart"),
        (np.nan, np.nan, "no interval"),
    ],
)
def test_an_interval_favours_a_side_only_without_zero(low: float, high: float, words: str) -> None:
    assert favoured(low, high, FEWEST_HELD_OUT) == words
    assert favoured(-high, -low, FEWEST_HELD_OUT, higher_is_better=True) == words
    assert favoured(low, high, FEWEST_HELD_OUT - 1) == "too few compounds"


@pytest.mark.parametrize("rmse", [{"scalar_lpm": 0.3, "zero": 0.6}, {"scalar_lpm": 0.6, "zero": 0.3}])
@pytest.mark.parametrize("n_compounds", [FEWEST_HELD_OUT - 1, FEWEST_HELD_OUT])
def test_few_compounds_win_and_lose_nothing(rmse: dict[str, float], n_compounds: int) -> None:
    noise = 0.001 * np.arange(n_compounds)
    text = describe_evaluation(evaluation_of(scores_of(rmse), {name: value + noise for name, value in rmse.items()}))
    enough = n_compounds == FEWEST_HELD_OUT
    assert ("Too few compounds are held out to tell whether it beats them: 4; it takes 5." in text) == (not enough)
    assert ("beats every baseline" in text or "NOT beat" in text) == enough
    assert ("| too few compounds |" in text) == (not enough)
