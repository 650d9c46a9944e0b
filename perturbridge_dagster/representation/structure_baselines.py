"""Baselines on structures: what compounds of a similar structure do.

Belongs here: the nearest neighbour and the ridge on Morgan fingerprints, and all baselines together. Does not belong here: the means they
start from (``baselines.py``), the fingerprints (``fingerprints.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.representation.baselines import (
    CompoundMean,
    ContextMean,
    GeneMean,
    Predictor,
    TrainValues,
    Zero,
    places_of,
    put,
)
from perturbridge_dagster.representation.encoding import EncodedBlock, EncodedSplit, Vocabularies
from perturbridge_dagster.representation.fingerprints import N_BITS, Fingerprints

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
"""Penalties of the ridge that are tried on validation values."""

_COMPOUNDS_AT_ONCE = 4_096


class NearestNeighbour:
    """Predicts the mean profile of the most similar trained compound, by Tanimoto similarity of Morgan fingerprints.

    Compounds are looked for among those trained in the same dataset and cell context; where that was never trained, in the same dataset;
    where that was not either, anywhere. Of compounds that tie, the mean of their profiles is predicted. A compound without a structure,
    and a gene that the neighbour lacks, take the context's mean.

    Parameters
    ----------
    train
        Train conditions.
    fingerprints
        Of the compounds of the corpus.
    """

    name = "nearest_neighbour"

    _LEVELS: tuple[tuple[str, ...], ...] = (("dataset", "context"), ("dataset",), ())

    def __init__(self, train: TrainValues, fingerprints: Fingerprints) -> None:
        self._train, self._fingerprints = train, fingerprints
        self._fallback = ContextMean(train)
        self._row = fingerprints.rows(train.conditions["perturbation"])

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`Predictor`."""
        predicted = self._fallback.predict(conditions, block)
        fingerprint = self._fingerprints.rows(conditions["perturbation"])
        places, place = places_of(conditions)
        for number, (dataset, context) in enumerate(places):
            rows = self._candidates(dataset, context)
            asked = np.unique(fingerprint[(place == number) & (fingerprint >= 0)])
            if not len(rows) or not len(asked):
                continue
            of_row = self._row[rows]
            compounds = np.unique(of_row)
            for one, nearest in zip(asked, self._fingerprints.nearest(asked, compounds), strict=True):
                profiles = np.stack([self._train.mean(rows[of_row == neighbour])[block.readout] for neighbour in compounds[nearest]])
                put(predicted, (place == number) & (fingerprint == one), _mean_of_finite(profiles))
        return predicted

    def _candidates(self, dataset: str, context: str) -> NDArray[np.int64]:
        """Train rows with a fingerprint, of the narrowest level that has any."""
        for columns in self._LEVELS:
            rows = self._train.rows_of(columns, (dataset, context)[: len(columns)])
            rows = rows[self._row[rows] >= 0]
            if len(rows):
                return rows
        return np.zeros(0, np.int64)


def _mean_of_finite(profiles: NDArray[np.float64]) -> NDArray[np.float64]:
    present = np.isfinite(profiles)
    count = present.sum(axis=0)
    mean = np.full(len(count), np.nan)
    np.divide(np.where(present, profiles, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    return mean


@dataclass(frozen=True)
class _Ridge:
    """The ridge of one dataset, in the directions in which its matrix of squares is diagonal.

    Attributes
    ----------
    directions
        (n_bits, r) orthonormal.
    squares
        (r,) the diagonal.
    products
        (r, genes) products of the centred fingerprints with the residuals.
    column
        (n_readouts,) int64 column of each gene; -1 for a gene that the dataset does not measure.
    centre
        Mean fingerprint of each cell context.
    other_centre
        That of the dataset, for a context that was never trained.
    penalty
        The penalty chosen.
    """

    directions: NDArray[np.float64]
    squares: NDArray[np.float64]
    products: NDArray[np.float64]
    column: NDArray[np.int64]
    centre: dict[str, NDArray[np.float64]]
    other_centre: NDArray[np.float64]
    penalty: float

    def coordinates(self, bits: NDArray[np.float64], context: str) -> NDArray[np.float64]:
        """(n, r) centred fingerprints in the directions."""
        return (bits - self.centre.get(context, self.other_centre)) @ self.directions

    def residuals(self, coordinates: NDArray[np.float64], penalty: float, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, columns) what is predicted beside the context's mean."""
        # all genes and then some, since picking columns of the products would copy hundreds of megabytes
        rest: NDArray[np.float64] = ((coordinates / (self.squares + penalty)) @ self.products)[:, columns]
        return rest


def _into(bits: NDArray[np.float64], span: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fingerprints in the directions of a span; as they are, where it is all of the space."""
    return bits if span.shape[0] == span.shape[1] else bits @ span


class FingerprintRidge:
    """Predicts the context's mean and, beside it, a ridge regression of the rest on Morgan fingerprints, fitted for each dataset.

    The rest of a value is what is left without the mean of its dataset, cell context and gene; fingerprints are centred in each
    context, too. So this is scikit-learn's ``Ridge`` with an intercept for each context, which carries no penalty. A missing value counts
    as its mean. Conditions without a structure are left out of the fit and predicted by the context's mean.

    The penalty is the one of :data:`PENALTIES` with the lowest squared error on the validation values of the dataset; the largest,
    nearest to the context's mean, where there are none. Test values take no part.

    Memory: one dataset at a time, bits × bits and bits × genes float64 (2,048 × 20,000: 330 MB, twice while it is fitted), and two million
    values at a time.

    Parameters
    ----------
    train
        Train conditions.
    validation
        The encoded validation split.
    fingerprints
        Of the compounds of the corpus.
    """

    name = "fingerprint_ridge"

    def __init__(self, train: TrainValues, validation: EncodedSplit, fingerprints: Fingerprints) -> None:
        self._train, self._validation, self._fingerprints = train, validation, fingerprints
        self._fallback = ContextMean(train)
        self._row = fingerprints.rows(train.conditions["perturbation"])
        self._fitted: tuple[str, _Ridge | None] | None = None
        self.penalties: dict[str, float] = {}

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`Predictor`."""
        predicted = self._fallback.predict(conditions, block)
        fingerprint = self._fingerprints.rows(conditions["perturbation"])
        places, place = places_of(conditions)
        for number, (dataset, context) in enumerate(places):
            ridge = self._of(dataset)
            asked, which = np.unique(fingerprint[(place == number) & (fingerprint >= 0)], return_inverse=True)
            if ridge is None or not len(asked):
                continue
            column = ridge.column[block.readout]
            genes = np.flatnonzero(column >= 0)
            rows = np.flatnonzero((place == number) & (fingerprint >= 0))
            coordinates = ridge.coordinates(self._fingerprints.bits(asked), context)
            predicted[np.ix_(rows, genes)] += ridge.residuals(coordinates, ridge.penalty, column[genes])[which]
        return predicted

    def _of(self, dataset: str) -> _Ridge | None:
        """The ridge of a dataset; that of the last one asked is kept. None where no train condition has a structure."""
        if self._fitted is None or self._fitted[0] != dataset:
            self._fitted = None  # freed before the next one is made
            self._fitted = (dataset, self._fit(dataset))
        return self._fitted[1]

    def _fit(self, dataset: str) -> _Ridge | None:
        rows = self._train.rows_of(("dataset",), (dataset,))
        rows = rows[self._row[rows] >= 0]
        if not len(rows):
            return None
        compounds, compound = np.unique(self._row[rows], return_inverse=True)
        context, contexts = pd.factorize(self._train.conditions["context"].iloc[rows])
        counts = np.zeros((len(contexts), len(compounds)))
        np.add.at(counts, (context, compound), 1.0)

        span = self._span(compounds)
        gram, sums = np.zeros((span.shape[1], span.shape[1])), np.zeros((len(contexts), self._fingerprints.n_bits))
        for start in range(0, len(compounds), _COMPOUNDS_AT_ONCE):
            part = slice(start, start + _COMPOUNDS_AT_ONCE)
            bits, weight = self._fingerprints.bits(compounds[part]), counts[:, part]
            inside = _into(bits, span)
            gram += (inside * weight.sum(axis=0)[:, None]).T @ inside
            sums += weight @ bits
        n_rows = counts.sum(axis=1, keepdims=True)
        centres = sums / n_rows
        inside = _into(centres, span)
        gram -= (inside * n_rows).T @ inside
        squares, turned = np.linalg.eigh(gram)
        unfinished = _Ridge(
            directions=span @ turned,
            squares=np.maximum(squares, 0.0),
            products=np.zeros((0, 0)),
            column=self._columns(dataset),
            centre={str(name): centre for name, centre in zip(contexts, centres, strict=True)},
            other_centre=sums.sum(axis=0) / n_rows.sum(),
            penalty=max(PENALTIES),
        )
        fitted = replace(unfinished, products=turned.T @ self._products(dataset, unfinished, span))
        penalty = self._best_penalty(dataset, fitted)
        self.penalties[dataset] = penalty
        return replace(fitted, penalty=penalty)

    def _span(self, compounds: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n_bits, r) orthonormal directions that hold all the fingerprints; the solution lies in them."""
        if len(compounds) >= self._fingerprints.n_bits:
            return np.eye(self._fingerprints.n_bits)
        directions, _ = np.linalg.qr(self._fingerprints.bits(compounds).T)
        return np.asarray(directions)

    def _columns(self, dataset: str) -> NDArray[np.int64]:
        column = np.full(self._train.n_readouts, -1, dtype=np.int64)
        for number in self._blocks(dataset):
            column[self._train.blocks[number].readout] = 0
        genes = np.flatnonzero(column == 0)
        column[genes] = np.arange(len(genes))
        return column

    def _blocks(self, dataset: str) -> list[int]:
        return [number for number in range(len(self._train.blocks)) if self._train.place_of(number)[0] == dataset]

    def _products(self, dataset: str, ridge: _Ridge, span: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r, genes) products of the centred fingerprints with the residuals, streamed over the train values."""
        products = np.zeros((span.shape[1], int(ridge.column.max()) + 1))
        for number in self._blocks(dataset):
            _, context = self._train.place_of(number)
            start, stop = self._train.starts[number : number + 2]
            block = self._train.blocks[number]
            mean = self._train.context_mean(dataset, context)[block.readout]
            column = ridge.column[block.readout]
            of_block = self._row[start:stop]
            first = 0
            for part in block.parts():
                fingerprint = of_block[first : first + len(part.condition)]
                first += len(part.condition)
                used = fingerprint >= 0
                if not used.any():
                    continue
                bits = self._fingerprints.bits(fingerprint[used]) - ridge.centre[context]
                rest = part.values()[used] - mean
                np.copyto(rest, 0.0, where=~np.isfinite(rest))
                # a gene occurs once in a block, so that plain indexing adds every value
                products[:, column] += _into(bits, span).T @ rest
        return products

    def _best_penalty(self, dataset: str, ridge: _Ridge) -> float:
        squared_error, n_values = np.zeros(len(PENALTIES)), 0
        for block in self._validation.blocks:
            of_block = self._validation.conditions.iloc[block.condition]
            if not len(of_block) or of_block["dataset"].iloc[0] != dataset:
                continue
            context = str(of_block["context"].iloc[0])
            mean = self._train.context_mean(dataset, context)[block.readout]
            column = ridge.column[block.readout]
            genes = np.flatnonzero(column >= 0)
            for part in block.parts():
                fingerprint = self._fingerprints.rows(self._validation.conditions["perturbation"].iloc[part.condition])
                used = fingerprint >= 0
                if not used.any():
                    continue
                rest = (part.values()[used] - mean)[:, genes]
                present = np.isfinite(rest)
                coordinates = ridge.coordinates(self._fingerprints.bits(fingerprint[used]), context)
                for place, penalty in enumerate(PENALTIES):
                    error = rest - ridge.residuals(coordinates, penalty, column[genes])
                    squared_error[place] += float(np.square(error, where=present, out=np.zeros_like(error)).sum())
                n_values += int(present.sum())
        return PENALTIES[int(np.argmin(squared_error))] if n_values else max(PENALTIES)


def fitted_baselines(
    train: EncodedSplit, validation: EncodedSplit, vocabularies: Vocabularies, compounds: pd.DataFrame, *, n_bits: int = N_BITS
) -> list[Predictor]:
    """Every baseline that a corpus allows, in the order of :data:`BASELINES`, fitted on train values.

    Those on structures are left out where no compound has one that rdkit can read.

    Parameters
    ----------
    train
        The encoded train split.
    validation
        The encoded validation split, on which the penalty of the ridge is chosen.
    vocabularies
        Codes of genes, with which both are encoded.
    compounds
        The corpus's table of compounds (columns perturbation and smiles).
    n_bits
        Bits of the fingerprints.
    """
    values = TrainValues(train, vocabularies.size("readout"))
    means: list[Predictor] = [Zero(), GeneMean(values), ContextMean(values), CompoundMean(values)]
    fingerprints = Fingerprints.of(compounds, n_bits=n_bits)
    if not (fingerprints.n_on > 0).any():
        return means
    return [*means, NearestNeighbour(values, fingerprints), FingerprintRidge(values, validation, fingerprints)]
