"""Baselines: predictions that need no trained model, beside which every model is judged.

Belongs here: what a predictor is, the train values as baselines need them, and those that predict a mean. Does not belong here: baselines
on structures (``structure_baselines.py``), scores (``evaluation.py``).

Baselines are fitted on train values alone; only the penalty of the ridge is chosen, on validation values. Values stay in the shards of
the corpus: a baseline reads the train conditions that a prediction needs, or streams them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from perturbridge_dagster.representation.encoding import EncodedBlock, EncodedSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

BASELINES = ("zero", "gene_mean", "context_mean", "compound_mean", "nearest_neighbour", "fingerprint_ridge")
"""Every baseline, by name; every other predictor of an evaluation is a model."""

MEANINGS = {
    "zero": "0 for every gene: no effect",
    "gene_mean": "the mean of the gene over all train conditions; 0 for a gene without any",
    "context_mean": "the mean of the gene over the train conditions of the dataset and cell context, or else the gene's mean",
    "compound_mean": "the mean of the gene over the train conditions of the compound, anywhere, or else the gene's mean",
    "nearest_neighbour": "the mean profile of the trained compound whose Morgan fingerprint is most similar, of those in the same dataset "
    "and cell context (where it has none, in the dataset; where that has none, anywhere), or else the context's mean",
    "fingerprint_ridge": "the context's mean, and a ridge regression on the Morgan fingerprint in each dataset",
}
"""Baseline → what it predicts."""


class Predictor(Protocol):
    """What an evaluation asks of a model or a baseline."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """Predict whole conditions of one dataset and cell context.

        Parameters
        ----------
        conditions
            (n,) the conditions, with the columns of the table CORPUS_CONDITIONS, in the order of the block.
        block
            Their genes (``block.readout``). Its values are the truth, which a predictor must not read.

        Returns
        -------
        ndarray
            (n, genes) finite float64 logFC.
        """


class TrainValues:
    """The train conditions of a corpus, found by what they are of, with the means that several baselines need.

    Memory: numbers for each condition, and a mean and a count for each gene of each dataset and cell context.

    Parameters
    ----------
    train
        The encoded train split.
    n_readouts
        Codes of genes, the unknown one included.
    """

    def __init__(self, train: EncodedSplit, n_readouts: int) -> None:
        self.blocks, self.n_readouts = train.blocks, n_readouts
        sizes = [len(block.condition) for block in train.blocks]
        self._block = np.repeat(np.arange(len(sizes)), sizes)
        condition = np.concatenate([np.zeros(0, np.int64), *(block.condition for block in train.blocks)])
        self.conditions = train.conditions.iloc[condition].reset_index(drop=True)
        self.starts = np.cumsum([0, *sizes])
        self._indices: dict[tuple[str, ...], dict[Any, NDArray[np.int64]]] = {}

        total, count = np.zeros(n_readouts), np.zeros(n_readouts, dtype=np.int64)
        self._context_sums: dict[tuple[str, str], tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = {}
        for number, block in enumerate(train.blocks):
            key = self.place_of(number)
            sums, counts, _ = self._context_sums.setdefault(
                key, (np.zeros(len(block.readout)), np.zeros(len(block.readout), dtype=np.int64), block.readout)
            )
            for part in block.parts():
                values = part.values()
                present = np.isfinite(values)
                sums += np.where(present, values, 0.0).sum(axis=0, dtype=np.float64)
                counts += present.sum(axis=0)
        for sums, counts, readout in self._context_sums.values():
            # the unknown code may stand for several genes that have no train values
            np.add.at(total, readout, sums)
            np.add.at(count, readout, counts)
        self.gene_mean = np.divide(total, count, out=np.zeros(n_readouts), where=count > 0)

    def place_of(self, block: int) -> tuple[str, str]:
        """Dataset and cell context of a block by its number."""
        first = self.conditions.iloc[self.starts[block]]
        return str(first["dataset"]), str(first["context"])

    def rows_of(self, columns: tuple[str, ...], key: tuple[str, ...]) -> NDArray[np.int64]:
        """Train rows whose columns have some values; all without columns."""
        if not columns:
            return np.arange(len(self.conditions))
        if columns not in self._indices:
            by = list(columns) if len(columns) > 1 else columns[0]
            found = self.conditions.groupby(by, observed=True).indices
            self._indices[columns] = {group: np.asarray(rows, dtype=np.int64) for group, rows in found.items()}
        rows: NDArray[np.int64] = self._indices[columns].get(key if len(columns) > 1 else key[0], np.zeros(0, np.int64))
        return rows

    def context_mean(self, dataset: str, context: str) -> NDArray[np.float64]:
        """Mean of each gene in a dataset and cell context, or the gene's mean; (n_readouts,)."""
        mean = self.gene_mean.copy()
        if (dataset, context) in self._context_sums:
            sums, counts, readout = self._context_sums[dataset, context]
            some = counts > 0
            mean[readout[some]] = sums[some] / counts[some]
        return mean

    def mean(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean of each gene over some train rows, (n_readouts,), NaN for a gene without a value."""
        total, count = np.zeros(self.n_readouts), np.zeros(self.n_readouts, dtype=np.int64)
        for number in np.unique(self._block[rows]):
            block = self.blocks[number]
            of_block = rows[self._block[rows] == number] - self.starts[number]
            for part in block[of_block].parts():
                values = part.values()
                present = np.isfinite(values)
                total[block.readout] += np.where(present, values, 0.0).sum(axis=0, dtype=np.float64)
                count[block.readout] += present.sum(axis=0)
        mean = np.full(self.n_readouts, np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        return mean


# ---- means -------------------------------------------------------------------------------------------------------------------


class Zero:
    """Predicts no effect."""

    name = "zero"

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`Predictor`."""
        return np.zeros((len(conditions), len(block.readout)))


@dataclass(frozen=True)
class GeneMean:
    """Predicts the mean of the gene."""

    train: TrainValues
    name: str = "gene_mean"

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`Predictor`."""
        return np.tile(self.train.gene_mean[block.readout], (len(conditions), 1))


@dataclass(frozen=True)
class ContextMean:
    """Predicts the mean of the gene in the dataset and cell context."""

    train: TrainValues
    name: str = "context_mean"

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`Predictor`."""
        places, place = places_of(conditions)
        means = [self.train.context_mean(dataset, context)[block.readout] for dataset, context in places]
        return np.stack(means)[place] if means else np.zeros((0, len(block.readout)))


@dataclass(frozen=True)
class CompoundMean:
    """Predicts the mean of the gene over all train conditions of the compound."""

    train: TrainValues
    name: str = "compound_mean"

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`Predictor`."""
        predicted = np.tile(self.train.gene_mean[block.readout], (len(conditions), 1))
        compound, names = pd.factorize(conditions["perturbation"])
        for number, name in enumerate(names):
            rows = self.train.rows_of(("perturbation",), (str(name),))
            if len(rows):
                put(predicted, compound == number, self.train.mean(rows)[block.readout])
        return predicted


def places_of(conditions: pd.DataFrame) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """Datasets and cell contexts of conditions, and which each condition has."""
    places = pd.MultiIndex.from_frame(conditions[["dataset", "context"]])
    codes, found = pd.factorize(places)
    return [(str(dataset), str(context)) for dataset, context in found], codes.astype(np.int64)


def put(predicted: NDArray[np.float64], rows: NDArray[np.bool_], profile: NDArray[np.float64]) -> None:
    """Write a profile to some rows where it is defined."""
    predicted[rows] = np.where(np.isfinite(profile), profile, predicted[rows])
