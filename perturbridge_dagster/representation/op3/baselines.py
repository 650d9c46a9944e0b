"""What needs no network: predictions that every descriptor is to beat.

Belongs here: fitting and predicting them. Does not belong here: baselines of corpora, whose conditions have doses, times and missing
genes (``representation/baselines.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.representation.op3.data import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.representation.op3.descriptors import Descriptors

RIDGE = "ridge_morgan"
BASELINES = ("zero", "gene_mean", "cell_type_mean", RIDGE)
PENALTIES = tuple(10.0**power for power in range(-1, 5))
"""Penalties of the ridge regression, of which validation compounds choose."""


def predict_baselines(problem: Problem, morgan: Descriptors, *, seed: int) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Predict the test conditions of a problem by each baseline.

    ``zero``; ``gene_mean``, the mean of the training conditions; ``cell_type_mean``, the mean of those of the cell type, or of all where
    it has none; ``ridge_morgan``, that and a ridge regression of what it leaves on Morgan fingerprints, whose penalty is chosen on
    compounds held out of the training compounds. A compound without a structure has the mean of its cell type.

    Parameters
    ----------
    problem
        Its test values are not looked at.
    morgan
        As ``descriptors.morgan_descriptors`` gives them.
    seed
        Decides which training compounds are held out.

    Returns
    -------
    Name → (test conditions, genes), and the penalty.
    """
    inner = problem.validation(seed)
    errors = [float(np.sqrt(np.square(_ridge(inner, morgan, penalty) - inner.test_values).mean(axis=1)).mean()) for penalty in PENALTIES]
    penalty = PENALTIES[int(np.argmin(errors))]
    gene_mean = problem.train_values.mean(axis=0, dtype=np.float64)
    predicted = {
        "zero": np.zeros(problem.test_values.shape),
        "gene_mean": np.tile(gene_mean, (len(problem.test), 1)),
        "cell_type_mean": _of_cell_types(problem, problem.test),
        RIDGE: _ridge(problem, morgan, penalty),
    }
    return predicted, penalty


def _of_cell_types(problem: Problem, conditions: pd.DataFrame) -> NDArray[np.float64]:
    """Mean of the training conditions of each condition's cell type."""
    frame = pd.DataFrame(problem.train_values.astype(np.float64))
    means = frame.groupby(problem.train["cell_type"].to_numpy()).mean()
    found = means.reindex(conditions["cell_type"]).to_numpy()
    return np.asarray(np.where(np.isnan(found), frame.mean().to_numpy(), found))


def _ridge(problem: Problem, morgan: Descriptors, penalty: float) -> NDArray[np.float64]:
    """Mean of the cell type and a ridge regression of the rest on fingerprints, without an intercept."""
    from sklearn.linear_model import Ridge

    train, test = (morgan.vectors.loc[part["sm_name"]].to_numpy(dtype=np.float64) for part in (problem.train, problem.test))
    rest = problem.train_values - _of_cell_types(problem, problem.train)
    centre = train.mean(axis=0)
    known = morgan.has.loc[problem.test["sm_name"]].to_numpy()[:, None]
    fitted = Ridge(alpha=penalty, fit_intercept=False).fit(train - centre, rest)
    return np.asarray(_of_cell_types(problem, problem.test) + known * fitted.predict(test - centre))
