"""Models that predict an effect from dataset, cell context, perturbation, gene, dose and time.

Belongs here: network definitions, and running one over encoded values. Does not belong here: fitting (``training.py``), scoring
(``evaluation.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from perturbridge_dagster.representation.batches import ItemKind, ProfileBatch, Profiles, ValueBatch
from perturbridge_dagster.representation.encoding import EncodedBlock, EncodedConditions, EncodedSplit, Vocabularies

if TYPE_CHECKING:
    from numpy.typing import NDArray


AT_ONCE = 65_536
"""Values predicted at once: what the hidden layers hold of them stays below 100 MB."""


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

    item: ClassVar[ItemKind]
    """What a batch counts."""

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
    def squared_error(self, conditions: ConditionTensors, batch: ValueBatch | ProfileBatch) -> Tensor:
        """Sum of squared errors over the values of a batch.

        Parameters
        ----------
        conditions
            All conditions of the split, on the model's device.
        batch
            Of the kind that the model counts.

        Returns
        -------
        Tensor
            float32, one number.
        """

    @abstractmethod
    def profiles(self, conditions: ConditionTensors, readout: Tensor) -> Tensor:
        """Predict some genes of some conditions.

        Parameters
        ----------
        conditions
            n conditions.
        readout
            (genes,) int64 codes.

        Returns
        -------
        Tensor
            (n, genes) logFC.
        """


class ScalarLPM(LPM):
    """The published scalar large perturbation model: one effect from one condition and one gene.

    An embedding of the gene stands beside what all models see of a condition; the hidden layers end in one number.

    The first hidden layer is linear in its parts, so what it makes of a condition is computed once a condition and added to what it makes
    of a gene: a third of the multiplications, and the same numbers up to rounding.
    """

    item = "values"

    def __init__(self, vocabularies: Vocabularies, settings: ModelSettings | None = None) -> None:
        super().__init__(vocabularies, settings or ModelSettings())
        self.readout = self._embedding("readout")
        self.predictor = self._predictor(6, 1)

    def forward(self, conditions: ConditionTensors, readout: Tensor, place: Tensor | None = None) -> Tensor:
        """Predict.

        Parameters
        ----------
        conditions
            Conditions.
        readout
            (n,) int64 codes of genes.
        place
            (n,) int64: position of each value's condition; without it there are n conditions.

        Returns
        -------
        Tensor
            (n,) logFC.
        """
        of_condition, of_gene = self._first_layer(conditions, readout)
        if place is not None:
            # not by indexing, whose gradient is many times slower where it must be deterministic
            of_condition = functional.embedding(place, of_condition)
        predicted: Tensor = self.predictor[1:](of_condition + of_gene)
        return predicted.squeeze(-1)

    def profiles(self, conditions: ConditionTensors, readout: Tensor) -> Tensor:  # noqa: D102
        of_condition, of_gene = self._first_layer(conditions, readout)
        # some conditions at a time: the hidden layers hold hundreds of numbers a value
        some = torch.split(of_condition.unsqueeze(1), max(1, AT_ONCE // max(1, len(readout))))
        return torch.cat([self.predictor[1:](part + of_gene) for part in some]).squeeze(-1)

    def squared_error(self, conditions: ConditionTensors, batch: ValueBatch | ProfileBatch) -> Tensor:  # noqa: D102
        assert isinstance(batch, ValueBatch)
        device = conditions.dataset.device
        condition, readout, place = (to_device(codes, device) for codes in (batch.condition, batch.readout, batch.place))
        predicted = self(conditions.rows(condition), readout, place)
        error: Tensor = predicted.float() - torch.from_numpy(batch.value).to(device)
        return error.square().sum()

    def _first_layer(self, conditions: ConditionTensors, readout: Tensor) -> tuple[Tensor, Tensor]:
        """What the first hidden layer makes of conditions, its bias included, and of genes."""
        first = self.predictor[0]
        assert isinstance(first, nn.Linear)
        # the gene stands fourth of six
        width = self._settings.width
        before, of_gene, after = torch.split(first.weight, [3 * width, width, 2 * width], dim=1)
        weight = torch.cat([before, after], dim=1)
        return functional.linear(torch.cat(self.parts(conditions), dim=-1), weight, first.bias), functional.linear(
            self.readout(readout), of_gene
        )


class MultiOutputLPM(LPM):
    """The published multi-output large perturbation model: the effects on all genes from one condition.

    There is no embedding of genes; the hidden layers end in one number a gene. A gene that was never trained is predicted as 0.
    """

    item = "conditions"

    def __init__(self, vocabularies: Vocabularies, settings: ModelSettings | None = None) -> None:
        super().__init__(vocabularies, settings or ModelSettings())
        self.predictor = self._predictor(5, vocabularies.size("readout"))
        if vocabularies.unknown:
            weight, bias = self._last()
            with torch.no_grad():
                weight[-1], bias[-1] = 0.0, 0.0

    def forward(self, conditions: ConditionTensors, readout: Tensor) -> Tensor:
        """Predict; see :meth:`profiles`."""
        return self._outputs(self._hidden(conditions), readout)

    def profiles(self, conditions: ConditionTensors, readout: Tensor) -> Tensor:  # noqa: D102
        return self.forward(conditions, readout)

    def squared_error(self, conditions: ConditionTensors, batch: ValueBatch | ProfileBatch) -> Tensor:  # noqa: D102
        assert isinstance(batch, ProfileBatch)
        device = conditions.dataset.device
        if not batch.profiles:
            return torch.zeros((), device=device)
        n_readouts = self._vocabularies.size("readout")
        apart = [_is_cheaper_apart(part, n_readouts) for part in batch.profiles]
        parts = [part for of in (True, False) for part, is_apart in zip(batch.profiles, apart, strict=True) if is_apart is of]
        hidden = self._hidden(conditions.rows(to_device(np.concatenate([part.condition for part in parts]), device)))
        errors, begin = [], 0
        for part in parts[: sum(apart)]:
            end = begin + len(part.condition)
            predicted = self._outputs(hidden[begin:end], to_device(part.readout, device))
            errors.append(_squared_error(predicted, torch.from_numpy(part.log_fc).to(device)))
            begin = end
        if begin < len(hidden):
            target = torch.full((len(hidden) - begin, n_readouts), torch.nan, device=device)
            row = 0
            for part in parts[sum(apart) :]:
                target[row : row + len(part.condition), to_device(part.readout, device)] = torch.from_numpy(part.log_fc).to(device)
                row += len(part.condition)
            errors.append(_squared_error(functional.linear(hidden[begin:], *self._last()), target))
        return torch.stack(errors).sum()

    def _hidden(self, conditions: ConditionTensors) -> Tensor:
        hidden: Tensor = self.predictor[:-1](torch.cat(self.parts(conditions), dim=-1))
        return hidden

    def _outputs(self, hidden: Tensor, readout: Tensor) -> Tensor:
        weight, bias = self._last()
        # not by indexing, whose gradient is many times slower where it must be deterministic
        return functional.linear(hidden, functional.embedding(readout, weight), functional.embedding(readout, bias.unsqueeze(1)).squeeze(1))

    def _last(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer: a row a gene."""
        last = self.predictor[-1]
        assert isinstance(last, nn.Linear)
        return last.weight, last.bias


_GATHERED_ROW = 64
"""Taking a gene's weights out of the last layer, and putting their gradient back, costs about as much as so many multiplications with
them."""


def _is_cheaper_apart(part: Profiles, n_readouts: int) -> bool:
    """Whether to compute the genes of some conditions alone, rather than all genes with all other conditions."""
    n_conditions, n_genes = part.log_fc.shape
    return bool(n_conditions * (n_readouts - n_genes) > _GATHERED_ROW * n_genes)


def _squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum over the values that are there; others of `target` are NaN."""
    return torch.where(target.isnan(), 0.0, predicted.float() - target).square().sum()


MODELS: dict[str, type[LPM]] = {"scalar_lpm": ScalarLPM, "multi_output_lpm": MultiOutputLPM}
"""Every model, by name."""


# ---- predicting a split ------------------------------------------------------------------------------------------------------


@contextmanager
def evaluating(model: LPM) -> Iterator[torch.device]:
    """Inside, without dropout or gradients; gives the model's device. The training mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)


def predict(model: LPM, split: EncodedSplit, *, at_once: int = AT_ONCE) -> Iterator[tuple[EncodedBlock, NDArray[np.float32]]]:
    """Predict every gene of every condition of a split, some conditions of one shard at a time, without dropout.

    Parameters
    ----------
    model
        Used on the device it lies on; its training mode is restored.
    split
        Encoded values.
    at_once
        Values predicted at once, about.

    Yields
    ------
    tuple
        The conditions, and their predicted logFC, (n, genes) float32, also where there is no value.
    """
    conditions = ConditionTensors.of(split.encoded, next(model.parameters()).device)
    for block in split.blocks:
        for part in block.parts(at_once):
            with evaluating(model) as device:
                of_part = conditions.rows(to_device(part.condition, device))
                predicted = model.profiles(of_part, to_device(part.readout, device)).cpu().numpy()
            yield part, predicted


def to_device(codes: NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Integer codes as int64 on a device."""
    return torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(device)
