"""Honest evaluation: a model's predictions beside what needs no model.

Belongs here: baselines, scores, and the sentence that says who won. Does not belong here: selection of checkpoints (``training.py``).

Baselines are fitted on train values alone, and every predictor is scored on the same values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import EVALUATION
from perturbridge_dagster.representation.encoding import EncodedSplit, Values, encode_split
from perturbridge_dagster.stages import MODELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.representation.corpus import StoredCorpus
    from perturbridge_dagster.representation.training import TrainedModel


class TrainMean:
    """Predicts the mean train value of a group of conditions for a gene.

    A group never trained for the gene takes the prediction of `fallback`, or 0 without one.

    Parameters
    ----------
    train
        Train values.
    columns
        Columns of the conditions that make a group; none make one group of all.
    n_readouts
        Codes of genes, the unknown one included.
    fallback
        A coarser mean.
    """

    def __init__(self, train: EncodedSplit, columns: Sequence[str], n_readouts: int, fallback: TrainMean | None = None) -> None:
        self.columns = list(columns)
        self._groups = _keys(train.conditions, self.columns).unique()
        # untouched pages of these cost no memory
        self._total = np.zeros((len(self._groups), n_readouts))
        self._count = np.zeros((len(self._groups), n_readouts), dtype=np.int64)
        group = self._groups.get_indexer(_keys(train.conditions, self.columns))
        for block in train.blocks:
            for row, values in zip(group[block.condition], block.log_fc, strict=True):
                present = np.isfinite(values)
                # a gene occurs once in a block, so that plain indexing adds every value
                self._total[row, block.readout] += np.where(present, values, 0.0)
                self._count[row, block.readout] += present
        self._fallback = fallback

    def predict(self, conditions: pd.DataFrame, values: Values) -> NDArray[np.float64]:
        """Predict values of some conditions."""
        group = self._groups.get_indexer(_keys(conditions, self.columns))[values.condition]
        count = np.where(group >= 0, self._count[group, values.readout], 0)
        predicted = self._fallback.predict(conditions, values) if self._fallback else np.zeros(len(values))
        return np.divide(self._total[group, values.readout], count, out=predicted, where=count > 0)


def _keys(conditions: pd.DataFrame, columns: list[str]) -> pd.Index:
    if not columns:
        return pd.Index(np.zeros(len(conditions), dtype=np.int64))
    return pd.MultiIndex.from_frame(conditions[columns])


@dataclass
class Scores:
    """Errors and correlation of a predictor, added up chunk by chunk in float64.

    Means and squared deviations are merged by the pairwise update of Chan, Golub and LeVeque (1983), so that many chunks cost
    no accuracy.
    """

    n_values: int = 0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    mean_truth: float = 0.0
    mean_predicted: float = 0.0
    deviation_truth: float = 0.0
    deviation_predicted: float = 0.0
    co_deviation: float = 0.0

    def add(self, truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> None:
        """Add a chunk: (n,) true and (n,) predicted values."""
        y, p = truth.astype(np.float64), predicted.astype(np.float64)
        n = len(y)
        if n == 0:
            return
        self.squared_error += float(np.square(p - y).sum())
        self.absolute_error += float(np.abs(p - y).sum())
        mean_y, mean_p = float(y.mean()), float(p.mean())
        total = self.n_values + n
        weight = self.n_values * n / total
        gap_y, gap_p = mean_y - self.mean_truth, mean_p - self.mean_predicted
        self.deviation_truth += float(np.square(y - mean_y).sum()) + gap_y**2 * weight
        self.deviation_predicted += float(np.square(p - mean_p).sum()) + gap_p**2 * weight
        self.co_deviation += float(((y - mean_y) * (p - mean_p)).sum()) + gap_y * gap_p * weight
        self.mean_truth += gap_y * n / total
        self.mean_predicted += gap_p * n / total
        self.n_values = total

    def row(self) -> dict[str, float | int | None]:
        """n_values, rmse, mae, pearson, r2; None where undefined: no values, or no variance."""
        if self.n_values == 0:
            return {"n_values": 0, "rmse": None, "mae": None, "pearson": None, "r2": None}
        scale = math.sqrt(self.deviation_truth * self.deviation_predicted)
        return {
            "n_values": self.n_values,
            "rmse": math.sqrt(self.squared_error / self.n_values),
            "mae": self.absolute_error / self.n_values,
            "pearson": min(1.0, max(-1.0, self.co_deviation / scale)) if scale > 0 else None,
            "r2": 1 - self.squared_error / self.deviation_truth if self.deviation_truth > 0 else None,
        }


def evaluate(trained: TrainedModel, corpus: StoredCorpus, *, splits: Sequence[str] = ("val", "test")) -> pd.DataFrame:
    """Score a model and the baselines on held-out values.

    Baselines: ``zero``; ``gene_mean``; ``context_mean``, the mean of dataset × context × gene; ``compound_mean``, the mean of
    perturbation × gene. The last two fall back to the gene's mean where a group was never trained for a gene, and that to 0.

    Parameters
    ----------
    trained
        A model selected by :func:`training.train`.
    corpus
        The corpus it was trained on.
    splits
        Which splits to score.

    Returns
    -------
    DataFrame
        The contract's table `evaluation`, the model first within each split.

    Raises
    ------
    InputError
        If held-out values have symbols that the model does not know and it has no unknown token.
    """
    import torch

    from perturbridge_dagster.representation.models import predict
    from perturbridge_dagster.representation.training import deterministic

    model = trained.settings.architecture
    train = encode_split(corpus, "train", trained.vocabularies)
    n_readouts = trained.vocabularies.size("readout")
    gene_mean = TrainMean(train, (), n_readouts)
    baselines = {
        "gene_mean": gene_mean,
        "context_mean": TrainMean(train, ("dataset", "context"), n_readouts, gene_mean),
        "compound_mean": TrainMean(train, ("perturbation",), n_readouts, gene_mean),
    }
    rows = []
    for split in splits:
        held_out = encode_split(corpus, split, trained.vocabularies)
        scores = {name: Scores() for name in (model, "zero", *baselines)}
        with deterministic(torch.device("cpu")):
            for values, predicted in predict(trained.model, held_out):
                truth = values.value
                scores[model].add(truth, predicted)
                scores["zero"].add(truth, np.zeros_like(truth))
                for name, baseline in baselines.items():
                    scores[name].add(truth, baseline.predict(held_out.conditions, values))
        rows += [{"predictor": name, "split": split, **score.row()} for name, score in scores.items()]
    return pd.DataFrame(rows, columns=EVALUATION.names).astype(
        {"n_values": "int64", "rmse": "float64", "mae": "float64", "pearson": "float64", "r2": "float64"}
    )


def model_of(evaluation: pd.DataFrame) -> str:
    """Name of the model among the predictors of a table `evaluation`."""
    return next(name for name in MODELS if (evaluation["predictor"] == name).any())


def beaten_baselines(evaluation: pd.DataFrame, split: str) -> dict[str, bool]:
    """Whether the model has a lower RMSE than each baseline on a split."""
    model = model_of(evaluation)
    rmse = evaluation[evaluation["split"] == split].set_index("predictor")["rmse"]
    return {str(name): bool(rmse[model] < value) for name, value in rmse.items() if name != model}


def describe_evaluation(evaluation: pd.DataFrame) -> str:
    """Say in plain words how the model did, one line a split.

    Parameters
    ----------
    evaluation
        As :func:`evaluate` returns it.
    """
    lines, model = [], model_of(evaluation)
    for split, rows in evaluation.groupby("split", sort=False):
        n_values = int(rows["n_values"].iloc[0])
        if n_values == 0:
            lines.append(f"{split}: no values, so nothing can be said.")
            continue
        rmse = rows.set_index("predictor")["rmse"]
        others = rmse.drop(model)
        losing_to = [name for name, beaten in beaten_baselines(evaluation, str(split)).items() if not beaten]
        verdict = f"The model does NOT beat {', '.join(losing_to)}." if losing_to else "The model beats every baseline."
        best = f"the best baseline, {others.idxmin()}, has {others.min():.4f}"
        lines.append(f"{split}: {model} has RMSE {rmse[model]:.4f} on {n_values:,} values; {best}. {verdict}")
    return "\n".join(lines)
