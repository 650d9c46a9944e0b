"""The rules of evaluations: scores that cannot be are found, and a model is warned of that does not beat what needs none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.quality.evaluations import beats_baselines, scores_can_be
from perturbridge_dagster.quality.suites import Finding
from perturbridge_dagster.representation.evaluation import summarize_profiles
from perturbridge_dagster.representation.profile_metrics import BY_CHANCE, PROFILE_METRICS

pytestmark = pytest.mark.slow

RMSE = {"scalar_lpm": 0.4, "scalar_lpm (seed 17)": 0.41, "zero": 0.5, "context_mean": 0.3}


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """An evaluation of two seeds and two baselines on a dataset with test conditions and on one without."""
    random = np.random.default_rng(0)
    frames = []
    for name, rmse in RMSE.items():
        scores = {metric: random.uniform(max(one.minimum, 0), one.maximum or 1, 40) for metric, one in PROFILE_METRICS.items()}
        scores["rmse"] = rmse + 0.01 * random.standard_normal(40)
        compounds = np.repeat(np.arange(20), 2).astype(str)
        of_name = {"split": "test", "dataset": "alpha", "perturbation": compounds, "predictor": name}
        frames.append(pd.DataFrame(of_name | scores | dict.fromkeys(BY_CHANCE, 0.1)))
    profiles = summarize_profiles(pd.concat(frames), list(RMSE), splits=["test"], datasets=["alpha", "empty"])
    rows = [
        {"predictor": name, "split": "test", "dataset": dataset, "n_values": n, "rmse": value if n else None, "mae": value if n else None}
        for dataset, n in ((None, 400), ("alpha", 400), ("empty", 0))
        for name, value in RMSE.items()
    ]
    return pd.DataFrame(rows).assign(pearson=None, r2=None).astype({"rmse": float, "mae": float, "pearson": float, "r2": float}), profiles


def failing(findings: list[Finding]) -> list[str]:
    return [finding.rule.words for finding in findings if not finding.passed]


def test_an_honest_evaluation_passes(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    assert failing(scores_can_be(*tables)) == []


def _first(profiles: pd.DataFrame, metric: str, *, difference: bool) -> int:
    rows = (profiles["metric"] == metric) & (profiles["baseline"].notna() == difference) & (profiles["n_conditions"] > 0)
    return int(profiles.index[rows][0])


@pytest.mark.parametrize(
    ("metric", "difference", "column", "value", "words"),
    [
        ("pearson", False, "value", 1.2, "a score and its interval lie in the range of the metric"),
        ("recovery_at_n", False, "low", -0.1, "a score and its interval lie in the range of the metric"),
        ("discrimination", True, "high", 1.1, "a score and its interval lie in the range of the metric"),
        ("rmse", False, "value", -0.1, "a score and its interval lie in the range of the metric"),
        ("rmse", True, "low", 9.0, "the low end of an interval is not above its high end"),
        ("cosine", False, "value", None, "a score is missing exactly where it is defined in no condition"),
        ("spearman", False, "n_conditions", 0, "a score is missing exactly where it is defined in no condition"),
        ("spearman", False, "n_undefined", 3, "every predictor is scored on the same held-out values and conditions"),
    ],
)
def test_scores_that_cannot_be_are_found(
    tables: tuple[pd.DataFrame, pd.DataFrame], metric: str, difference: bool, column: str, value: float | None, words: str
) -> None:
    evaluation, profiles = tables[0], tables[1].copy()
    profiles.loc[_first(profiles, metric, difference=difference), column] = value
    assert words in failing(scores_can_be(evaluation, profiles))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.assign(n_values=range(len(frame))), "every predictor is scored on the same held-out values and conditions"),
        (lambda frame: frame.assign(rmse=-1.0), "every value of evaluation is what the contract says of its field"),
    ],
)
def test_errors_that_cannot_be_are_found(
    tables: tuple[pd.DataFrame, pd.DataFrame], change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    assert words in failing(scores_can_be(change(tables[0]), tables[1]))


def test_a_model_that_does_not_beat_a_baseline_is_warned_of_with_the_interval(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    there_are, better, enough = beats_baselines(*tables)
    assert there_are.passed
    assert enough.passed
    assert not better.passed
    assert better.rule.severity == "warning"
    [row] = better.failing_rows.to_dict("records")
    assert (row["baseline"], row["model_rmse"], row["by_condition"]) == ("context_mean", 0.4, "worse")


def test_without_test_values_nothing_is_said_to_be_beaten(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    evaluation = tables[0].assign(rmse=np.nan)
    there_are, *_ = beats_baselines(evaluation, tables[1])
    assert not there_are.passed


def test_a_win_by_few_compounds_is_warned_of(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    winning = tables[0].assign(rmse=tables[0]["rmse"].where(tables[0]["predictor"] != "scalar_lpm", 0.1))
    assert failing(beats_baselines(winning, tables[1])) == []
    few = tables[1].assign(n_compounds=tables[1]["n_compounds"].clip(upper=4))
    [finding] = [finding for finding in beats_baselines(winning, few) if not finding.passed]
    assert (finding.rule.words, finding.rule.severity) == ("5 compounds or more are held out", "warning")
    assert set(beats_baselines(tables[0], few)[1].failing_rows["by_condition"]) == {"too few compounds"}
