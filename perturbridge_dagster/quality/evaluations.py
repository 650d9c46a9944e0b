"""The rules of the checks on evaluations: scores that can be, and models that are worth something.

Belongs here: what must hold in the tables of an evaluation, whichever stage wrote it. Does not belong here: which checks a stage has
(``representation.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbridge_dagster.contract import EVALUATION, PROFILE_SCORES
from perturbridge_dagster.quality.rules import as_the_contract_says, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import Finding, validate

if TYPE_CHECKING:
    import pandas as pd

_ROUNDING = 1e-9


def scores_can_be(evaluation: pd.DataFrame, profiles: pd.DataFrame) -> list[Finding]:
    """Whether every score is one that its metric can have, and every predictor is scored on the same values and conditions.

    Parameters
    ----------
    evaluation, profiles
        The contract's tables `evaluation` and `profile_scores`.
    """
    import pandas as pd

    place = ["predictor", "baseline", "split", "dataset", "metric"]
    judged = profiles.assign(
        in_range=_in_range(profiles),
        in_order=~(profiles["low"] > profiles["high"]),
        # a score without a condition, or conditions without a score
        is_founded=profiles["value"].notna() == (profiles["n_conditions"] > 0),
        **{column: profiles[column].fillna("") for column in ("baseline", "dataset")},
    )
    held_out = judged.assign(n=judged["n_conditions"] + judged["n_undefined"])
    values = evaluation.assign(dataset=evaluation["dataset"].fillna(""), n=evaluation["n_values"])
    counts = [frame.groupby(["split", "dataset"], as_index=False).agg(different_numbers=("n", "nunique")) for frame in (held_out, values)]
    same = equal("every predictor is scored on the same held-out values and conditions", "different_numbers", 1)
    return [
        *as_the_contract_says(evaluation, EVALUATION),
        *as_the_contract_says(profiles, PROFILE_SCORES),
        *validate(
            judged,
            [
                not_empty("there are scores of profiles"),
                unique_together("each predictor has one score a metric, split and dataset", place),
                equal("a score and its interval lie in the range of the metric", "in_range", True),
                equal("the low end of an interval is not above its high end", "in_order", True),
                equal("a score is missing exactly where it is defined in no condition", "is_founded", True),
            ],
            [*place, "value", "low", "high"],
        ),
        *validate(pd.concat(counts, ignore_index=True), [same], ["split", "dataset"]),
    ]


def _in_range(profiles: pd.DataFrame) -> pd.Series:
    """Whether value, low and high lie where the metric can be, or a difference of two such; missing ones do."""
    import numpy as np
    import pandas as pd

    from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS

    fits = np.ones(len(profiles), dtype=bool)
    is_difference = profiles["baseline"].notna().to_numpy()
    for metric in PROFILE_METRICS.values():
        of_metric = (profiles["metric"] == metric.name).to_numpy()
        most = np.inf if metric.maximum is None else metric.maximum
        low = np.where(is_difference, metric.minimum - most, metric.minimum) - _ROUNDING
        high = np.where(is_difference, most - metric.minimum, most) + _ROUNDING
        for column in ("value", "low", "high"):
            values = profiles[column].to_numpy(dtype=np.float64)
            fits &= ~of_metric | np.isnan(values) | ((values >= low) & (values <= high))
    return pd.Series(fits, index=profiles.index)


def beats_baselines(evaluation: pd.DataFrame, profiles: pd.DataFrame) -> list[Finding]:
    """Whether the model has a lower RMSE than each baseline on the test split, of enough compounds, and how sure that is; warnings.

    Parameters
    ----------
    evaluation, profiles
        The contract's tables `evaluation` and `profile_scores`.
    """
    import pandas as pd

    from perturbridge_dagster.representation.baselines import BASELINES
    from perturbridge_dagster.representation.verdicts import FEWEST_HELD_OUT, favoured, model_of, pooled

    test = pooled(evaluation)[pooled(evaluation)["split"] == "test"].set_index("predictor")["rmse"]
    together = pooled(profiles)
    wanted = (together["split"] == "test") & (together["metric"] == "rmse") & together["baseline"].notna()
    model = model_of(evaluation)
    of_model = together[wanted & (together["predictor"] == model)]
    verdicts = {
        baseline: favoured(low, high, n_compounds)
        for baseline, low, high, n_compounds in zip(*(of_model[name] for name in ("baseline", "low", "high", "n_compounds")), strict=True)
    }
    compared = pd.DataFrame(
        [
            {
                "baseline": name,
                "rmse": rmse,
                "model_rmse": test[model],
                "gain": rmse - test[model],
                "by_condition": verdicts.get(name, "no interval"),
            }
            for name, rmse in test.items()
            if name in BASELINES
        ],
        columns=["baseline", "rmse", "model_rmse", "gain", "by_condition"],
    )
    enough = at_least(f"{FEWEST_HELD_OUT} compounds or more are held out", "n_compounds", FEWEST_HELD_OUT, severity="warning")
    return [
        *validate(
            compared.dropna(subset="gain"),
            [
                not_empty("there are test values and a baseline", severity="warning"),
                at_least("the model predicts the test split better than the baseline", "gain", 0, strictly=True, severity="warning"),
            ],
            ["baseline", "rmse", "model_rmse", "by_condition"],
        ),
        *validate(of_model[of_model["n_compounds"] > 0], [enough], ["baseline", "n_compounds"]),
    ]
