"""Models that predict an effect from dataset, cell context, perturbation, gene, dose and time.

Belongs here: network definitions, and running one over encoded values. Does not belong here: fitting (``training.py``), scoring
(``evaluation.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from perturbridge_dagster.representation.encoding import EncodedConditions, EncodedSplit, Values, Vocabularies

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ModelSettings:
    """Sizes and start of a model; the defaults are published.

    Attributes
    ----------
    width
        Width of every embedding, and of the dose and time vectors.
    hidden
        Widths of the hidden layers.
    dropout
        Probability of dropping a hidden unit.
    embedding_scale
        Standard deviation that embeddings start with. Smaller than the published 1, a model learns from far fewer values, since the
        first layer need not unlearn random vectors first.
    """

    width: int = 128
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.1
    embedding_scale: float = 1.0


@dataclass(frozen=True)
class ConditionTensors:
    """Encoded conditions on a device; fields as in :class:`encoding.EncodedConditions`."""

    dataset: Tensor
    context: Tensor
    perturbation: Tensor
    log_dose: Tensor
    time: Tensor

    @classmethod
    def of(cls, encoded: EncodedConditions, device: torch.device) -> ConditionTensors:
        """Copy encoded conditions to a device."""
        return cls(
            *(
                torch.from_numpy(np.ascontiguousarray(part)).to(device)
                for part in (encoded.dataset, encoded.context, encoded.perturbation, encoded.log_dose, encoded.time)
            )
        )

    def rows(self, positions: Tensor) -> ConditionTensors:
        """The conditions at some positions, (n,) int64."""
        return ConditionTensors(
            self.dataset[positions], self.context[positions], self.perturbation[positions], self.log_dose[positions], self.time[positions]
        )


class LPM(nn.Module, ABC):
    """What both large perturbation models share: how they see a condition.

    Embeddings of dataset, context and perturbation (mean over the molecules of a combination), drawn from N(0, 1) unless scaled; linear
    maps of log dose and time to the same width. Subclasses concatenate these and add hidden layers with ReLU and dropout, whose weights
    start Xavier-uniform with the gain of ReLU. (Chem-PerturBridge, after GSK's perturblib.)

    The unknown token, where vocabularies have one, is a fixed zero vector: the mean of what embeddings start from.

    Parameters
    ----------
    vocabularies
        Decide the numbers of embeddings.
    settings
        Widths, dropout and start.
    """

    offset: Tensor
    scale: Tensor
    predictor: nn.Sequential

    def __init__(self, vocabularies: Vocabularies, settings: ModelSettings) -> None:
        super().__init__()
        self._vocabularies, self._settings = vocabularies, settings
        self.dataset = self._embedding("dataset")
        self.context = self._embedding("context")
        self.perturbation = self._embedding("perturbation")

    def _embedding(self, name: str) -> nn.Embedding:
        unknown = len(self._vocabularies.symbols(name)) if self._vocabularies.unknown else None
        table = nn.Embedding(self._vocabularies.size(name), self._settings.width, padding_idx=unknown)
        with torch.no_grad():
            table.weight *= self._settings.embedding_scale
        return table

    def _predictor(self, n_parts: int, n_outputs: int) -> nn.Sequential:
        """The maps of dose and time, and the hidden layers over the concatenated parts."""
        self.log_dose = nn.Linear(1, self._settings.width)
        self.time = nn.Linear(1, self._settings.width)
        layers: list[nn.Module] = []
        n_inputs = n_parts * self._settings.width
        for n_hidden in self._settings.hidden:
            layers += [nn.Linear(n_inputs, n_hidden), nn.ReLU(), nn.Dropout(self._settings.dropout)]
            n_inputs = n_hidden
        self.register_buffer("offset", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        predictor = nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))
        for layer in predictor:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
        return predictor

    def standardize(self, encoded: EncodedConditions) -> None:
        """Centre and scale log dose and time by the mean and standard deviation of some conditions, which must be train conditions.

        The published models take both as they are. A time of 24 h then outweighs every embedding at the first layer, and small
        corpora learn slowly.
        """
        for place, numbers in enumerate((encoded.log_dose, encoded.time)):
            deviation = float(numbers.std(dtype=np.float64))
            self.offset[place] = float(numbers.mean(dtype=np.float64))
            self.scale[place] = deviation if deviation > 0 else 1.0

    def parts(self, conditions: ConditionTensors) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Dataset, context, perturbation, log dose and time of n conditions, each (n, width)."""
        is_token = conditions.perturbation >= 0
        molecules = self.perturbation(conditions.perturbation.clamp(min=0)) * is_token.unsqueeze(-1)
        return (
            self.dataset(conditions.dataset),
            self.context(conditions.context),
            molecules.sum(dim=1) / is_token.sum(dim=1, keepdim=True),
            self.log_dose(((conditions.log_dose - self.offset[0]) / self.scale[0]).unsqueeze(-1)),
            self.time(((conditions.time - self.offset[1]) / self.scale[1]).unsqueeze(-1)),
        )

    @abstractmethod
    def n_items(self, split: EncodedSplit) -> int:
        """What a batch counts: values or conditions."""

    @abstractmethod
    def predictions(self, split: EncodedSplit, conditions: ConditionTensors, numbers: NDArray[np.int64]) -> Iterator[tuple[Values, Tensor]]:
        """Values of some items of a split, and what the model predicts of them.

        Parameters
        ----------
        split
            Encoded values.
        conditions
            All of its conditions, on the model's device.
        numbers
            (n,) int64 items, of which there are :meth:`n_items`.

        Yields
        ------
        tuple
            Values, and their predicted logFC, (n,) float32; together all values of the items.
        """


class ScalarLPM(LPM):
    """The published scalar large perturbation model: one effect from one condition and one gene.

    An embedding of the gene stands beside what all models see of a condition; the hidden layers end in one number.
    """

    def __init__(self, vocabularies: Vocabularies, settings: ModelSettings | None = None) -> None:
        super().__init__(vocabularies, settings or ModelSettings())
        self.readout = self._embedding("readout")
        self.predictor = self._predictor(6, 1)

    def forward(self, conditions: ConditionTensors, readout: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        conditions
            n conditions.
        readout
            (n,) int64 codes of genes.

        Returns
        -------
        Tensor
            (n,) float32 logFC.
        """
        dataset, context, perturbation, log_dose, time = self.parts(conditions)
        predicted: Tensor = self.predictor(torch.cat([dataset, context, perturbation, self.readout(readout), log_dose, time], dim=-1))
        return predicted.squeeze(-1)

    def n_items(self, split: EncodedSplit) -> int:
        """Values."""
        return len(split)

    def predictions(self, split: EncodedSplit, conditions: ConditionTensors, numbers: NDArray[np.int64]) -> Iterator[tuple[Values, Tensor]]:
        """Values by their numbers, all at once."""
        values = split.take(numbers)
        device = conditions.dataset.device
        yield values, self(conditions.rows(to_device(values.condition, device)), to_device(values.readout, device))


class MultiOutputLPM(LPM):
    """The published multi-output large perturbation model: the effects on all genes from one condition.

    There is no embedding of genes; the hidden layers end in one number a gene. Only the numbers of genes that a dataset measures are
    computed. A gene that was never trained is predicted as 0.
    """

    def __init__(self, vocabularies: Vocabularies, settings: ModelSettings | None = None) -> None:
        super().__init__(vocabularies, settings or ModelSettings())
        self.predictor = self._predictor(5, vocabularies.size("readout"))
        if vocabularies.unknown:
            weight, bias = self._last()
            with torch.no_grad():
                weight[-1], bias[-1] = 0.0, 0.0

    def forward(self, conditions: ConditionTensors, readout: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        conditions
            n conditions.
        readout
            (genes,) int64 codes.

        Returns
        -------
        Tensor
            (n, genes) float32 logFC.
        """
        hidden = self.predictor[:-1](torch.cat(self.parts(conditions), dim=-1))
        weight, bias = self._last()
        return nn.functional.linear(hidden, weight[readout], bias[readout])

    def _last(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer: a row a gene."""
        last = self.predictor[-1]
        assert isinstance(last, nn.Linear)
        return last.weight, last.bias

    def n_items(self, split: EncodedSplit) -> int:
        """Conditions."""
        return len(split.first) - 1

    def predictions(self, split: EncodedSplit, conditions: ConditionTensors, numbers: NDArray[np.int64]) -> Iterator[tuple[Values, Tensor]]:
        """Whole conditions, those of one shard at a time."""
        device = conditions.dataset.device
        for block in split.rows(numbers):
            row, column = np.nonzero(np.isfinite(block.log_fc))
            predicted = self(conditions.rows(to_device(block.condition, device)), to_device(block.readout, device))
            values = Values(block.condition[row], block.readout[column], block.log_fc[row, column])
            yield values, predicted[to_device(row, device), to_device(column, device)]


MODELS: dict[str, type[LPM]] = {"scalar_lpm": ScalarLPM, "multi_output_lpm": MultiOutputLPM}
"""Every model, by name."""


def predict(model: LPM, split: EncodedSplit, *, chunk: int = 65_536) -> Iterator[tuple[Values, NDArray[np.float32]]]:
    """Predict every value of a split, chunk by chunk, without dropout.

    Parameters
    ----------
    model
        Used on the device it lies on; its training mode is restored.
    split
        Encoded values.
    chunk
        Values predicted at once, about.

    Yields
    ------
    tuple
        The values, and their predicted logFC, float32.
    """
    device = next(model.parameters()).device
    conditions = ConditionTensors.of(split.encoded, device)
    n_items = model.n_items(split)
    size = max(1, chunk * n_items // max(1, len(split)))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, n_items, size):
            with torch.no_grad():
                for values, predicted in model.predictions(split, conditions, np.arange(start, min(start + size, n_items))):
                    yield values, predicted.cpu().numpy()
    finally:
        model.train(was_training)


def to_device(codes: NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Integer codes as int64 on a device."""
    return torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(device)
