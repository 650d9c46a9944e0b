"""Models that predict an effect from dataset, cell context, perturbation, gene, dose and time.

Belongs here: network definitions, and running one over encoded values. Does not belong here: fitting (``training.py``), scoring
(``evaluation.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


class ScalarLPM(nn.Module):
    """The published scalar large perturbation model: one effect from one condition and one gene.

    Embeddings of dataset, context, perturbation (mean over the molecules of a combination) and gene, drawn from N(0, 1) unless
    scaled; linear maps of log dose and time to the same width; all six concatenated, then hidden layers with ReLU and dropout, then
    one number. The predictor's weights start Xavier-uniform with the gain of ReLU. (Chem-PerturBridge, after GSK's perturblib.)

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

    def __init__(self, vocabularies: Vocabularies, settings: ModelSettings | None = None) -> None:
        super().__init__()
        settings = settings or ModelSettings()

        def embedding(name: str) -> nn.Embedding:
            unknown = len(vocabularies.symbols(name)) if vocabularies.unknown else None
            table = nn.Embedding(vocabularies.size(name), settings.width, padding_idx=unknown)
            with torch.no_grad():
                table.weight *= settings.embedding_scale
            return table

        self.dataset = embedding("dataset")
        self.context = embedding("context")
        self.perturbation = embedding("perturbation")
        self.readout = embedding("readout")
        self.log_dose = nn.Linear(1, settings.width)
        self.time = nn.Linear(1, settings.width)
        layers: list[nn.Module] = []
        n_inputs = 6 * settings.width
        for n_outputs in settings.hidden:
            layers += [nn.Linear(n_inputs, n_outputs), nn.ReLU(), nn.Dropout(settings.dropout)]
            n_inputs = n_outputs
        self.register_buffer("offset", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.predictor = nn.Sequential(*layers, nn.Linear(n_inputs, 1))
        for layer in self.predictor:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))

    def standardize(self, encoded: EncodedConditions) -> None:
        """Centre and scale log dose and time by the mean and standard deviation of some conditions, which must be train conditions.

        The published model takes both as they are. A time of 24 h then outweighs every embedding at the first layer, and small
        corpora learn slowly.
        """
        for place, numbers in enumerate((encoded.log_dose, encoded.time)):
            deviation = float(numbers.std(dtype=np.float64))
            self.offset[place] = float(numbers.mean(dtype=np.float64))
            self.scale[place] = deviation if deviation > 0 else 1.0

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
        is_token = conditions.perturbation >= 0
        molecules = self.perturbation(conditions.perturbation.clamp(min=0)) * is_token.unsqueeze(-1)
        parts = [
            self.dataset(conditions.dataset),
            self.context(conditions.context),
            molecules.sum(dim=1) / is_token.sum(dim=1, keepdim=True),
            self.readout(readout),
            self.log_dose(((conditions.log_dose - self.offset[0]) / self.scale[0]).unsqueeze(-1)),
            self.time(((conditions.time - self.offset[1]) / self.scale[1]).unsqueeze(-1)),
        ]
        predicted: Tensor = self.predictor(torch.cat(parts, dim=-1))
        return predicted.squeeze(-1)


def predict(model: ScalarLPM, split: EncodedSplit, *, chunk: int = 65_536) -> Iterator[tuple[Values, NDArray[np.float32]]]:
    """Predict every value of a split, chunk by chunk, without dropout.

    Parameters
    ----------
    model
        Used on the device it lies on; its training mode is restored.
    split
        Encoded values.
    chunk
        Values predicted at once.

    Yields
    ------
    tuple
        The values, and their predicted logFC, float32.
    """
    device = next(model.parameters()).device
    conditions = ConditionTensors.of(split.encoded, device)
    was_training = model.training
    model.eval()
    try:
        for values in split.chunks(chunk):
            with torch.no_grad():
                predicted = model(conditions.rows(to_device(values.condition, device)), to_device(values.readout, device))
            yield values, predicted.cpu().numpy()
    finally:
        model.train(was_training)


def to_device(codes: NDArray[np.int64], device: torch.device) -> Tensor:
    """Integer codes as int64 on a device."""
    return torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(device)
