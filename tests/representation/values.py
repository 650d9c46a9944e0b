"""Values of a split one by one, made as plainly as can be: what the loading of batches and predictions are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from perturbridge_dagster.representation.encoding import EncodedBlock, EncodedSplit
from perturbridge_dagster.representation.models import LPM, predict


class Values(NamedTuple):
    """(n,) row of the split's conditions, code of the gene, and logFC or another number of each value."""

    condition: np.ndarray
    readout: np.ndarray
    value: np.ndarray

    def some(self, numbers: np.ndarray) -> Values:
        return Values(*(column[numbers] for column in self))

    def triples(self) -> list[tuple[int, int, float]]:
        return list(zip(*(column.tolist() for column in self), strict=True))


def values_of(split: EncodedSplit) -> Values:
    """The values of a split in the order of their numbers."""
    return _one_by_one((block, block.values()) for block in split.blocks)


def predicted_of(model: LPM, split: EncodedSplit, **options: int) -> Values:
    """What a model predicts for each value of a split, in the order of their numbers."""
    return _one_by_one(predict(model, split, **options))


def _one_by_one(of_blocks: Iterable[tuple[EncodedBlock, np.ndarray]]) -> Values:
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for block, numbers in of_blocks:
        row, column = np.nonzero(np.isfinite(block.values()))
        found.append((block.condition[row], block.readout[column], numbers[row, column]))
    return Values(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
