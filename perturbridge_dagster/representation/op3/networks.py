"""The networks of the ensemble, several fits of one member side by side.

All repetitions of a member are trained at once: every parameter has a leading dimension of repetitions, and no repetition sees another.
One repetition is far too small for a processor to be busy with. Belongs here: heads, bodies, losses, fitting, predicting. Does not
belong here: targets and ensembles (``ensemble.py``).

Layers start and normalize as Keras's do (Glorot-uniform weights, embeddings uniform within 0.05, epsilon 1e-3, Adam's epsilon 1e-7),
since the published members were tuned with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.representation.op3.members import Member

_EMBEDDING_SPAN = 0.05
_NORM_EPSILON = 1e-3
_ADAM_EPSILON = 1e-7
_CONCAT_WIDTH = 256
_TINY = 1e-12
"""Added below a square root, whose slope is infinite at zero."""


@dataclass(frozen=True)
class Tokens:
    """Cell type and compound of conditions, as rows of the tables of embeddings.

    Attributes
    ----------
    cell_type, compound
        Shape (conditions,), int64.
    """

    cell_type: Tensor
    compound: Tensor

    def __len__(self) -> int:
        return len(self.cell_type)


@dataclass(frozen=True)
class CompoundInput:
    """What a network is told of compounds.

    Attributes
    ----------
    mode
        ``"none"``: a learned vector; ``"trainable"``: the descriptor, which is learned further; ``"fixed"``: the descriptor as it is;
        ``"concat"``: a learned vector and the descriptor as it is. A compound without a descriptor has a learned vector in any case.
    table
        Shape (tokens, descriptor width), float32; zero where there is no descriptor. Width 0 in mode ``"none"``.
    has
        Shape (tokens,), bool: which have a descriptor.
    """

    mode: str
    table: NDArray[np.float32]
    has: NDArray[np.bool_]

    @property
    def n_tokens(self) -> int:
        """Rows of the tables."""
        return len(self.has)


class Linear(nn.Module):
    """A linear map a repetition; (repetitions, rows, inputs) to (repetitions, rows, outputs)."""

    def __init__(self, n_repetitions: int, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        limit = (6 / (n_inputs + n_outputs)) ** 0.5
        self.weight = nn.Parameter(torch.empty(n_repetitions, n_inputs, n_outputs).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(n_repetitions, 1, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map x."""
        return torch.baddbmm(self.bias, x, self.weight)


class BatchNorm(nn.Module):
    """Batch normalization a repetition, of (repetitions, rows, features); Ioffe and Szegedy (2015), arXiv:1502.03167."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, n_repetitions: int, n_features: int, momentum: float) -> None:
        super().__init__()
        shape = (n_repetitions, 1, n_features)
        self.momentum = momentum
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_variance", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x by its own rows while training, else by the running statistics."""
        if self.training:
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_variance.lerp_(variance, self.momentum)
        else:
            mean, variance = self.running_mean, self.running_variance
        return (x - mean) * (self.weight * torch.rsqrt(variance + _NORM_EPSILON)) + self.bias


class Embedding(nn.Module):
    """A table of vectors a repetition; (repetitions, rows) to (repetitions, rows, width)."""

    def __init__(self, table: Tensor, *, frozen: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(table.contiguous(), requires_grad=not frozen)

    @classmethod
    def uniform(cls, n_repetitions: int, n_tokens: int, width: int) -> Embedding:
        """A table to be learned from nothing."""
        return cls(torch.empty(n_repetitions, n_tokens, width).uniform_(-_EMBEDDING_SPAN, _EMBEDDING_SPAN))

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of tokens."""
        n_repetitions, n_tokens, width = self.weight.shape
        first = torch.arange(n_repetitions, device=tokens.device).unsqueeze(1) * n_tokens
        return functional.embedding(tokens + first, self.weight.reshape(-1, width))


class Head(nn.Module):
    """From cell type and compound to the input of a body, (repetitions, rows, 2 × width)."""

    has: Tensor

    def __init__(self, n_repetitions: int, width: int, compounds: CompoundInput) -> None:
        super().__init__()
        n_tokens, descriptor_width = compounds.table.shape
        self.mode = compounds.mode
        self.cell_type = Embedding.uniform(n_repetitions, n_tokens, width)
        self.learned = Embedding.uniform(n_repetitions, n_tokens, width)
        self.register_buffer("has", torch.from_numpy(compounds.has.astype(np.float32)))
        if self.mode == "none":
            return
        table = torch.from_numpy(compounds.table)
        # one table serves all repetitions as long as none of them changes it
        self.descriptor = Embedding(
            table.expand(n_repetitions, -1, -1) if self.mode == "trainable" else table.unsqueeze(0), frozen=self.mode != "trainable"
        )
        if self.mode == "concat":
            self.narrowed = Linear(n_repetitions, descriptor_width, _CONCAT_WIDTH)
            self.joined = Linear(n_repetitions, width + _CONCAT_WIDTH, width)
        else:
            self.joined = Linear(n_repetitions, descriptor_width, width)

    def forward(self, cell_type: Tensor, compound: Tensor) -> Tensor:
        """Vectors of conditions; both arguments are (repetitions, rows) int64."""
        learned = self.learned(compound)
        if self.mode == "none":
            return torch.cat([self.cell_type(cell_type), learned], dim=-1)
        frozen = self.descriptor.weight.shape[0] == 1
        described = functional.embedding(compound, self.descriptor.weight[0]) if frozen else self.descriptor(compound)
        if self.mode == "concat":
            described = torch.cat([learned, functional.relu(self.narrowed(described))], dim=-1)
        has = self.has[compound].unsqueeze(-1)
        return torch.cat([self.cell_type(cell_type), has * self.joined(described) + (1 - has) * learned], dim=-1)


class Network(nn.Module):
    """A head and one of the eight bodies, for several repetitions.

    Parameters
    ----------
    member
        Sizes.
    compounds
        What the head is told of compounds.
    n_repetitions
        Fits side by side.
    n_outputs
        Components to predict.
    momentum
        Of batch normalization.
    faithful
        Whether body 2 has its second ReLU, which changes no number, and body 6 the same dropout rate in both places.
    """

    def __init__(
        self, member: Member, compounds: CompoundInput, n_repetitions: int, n_outputs: int, *, momentum: float, faithful: bool
    ) -> None:
        super().__init__()
        self.head = Head(n_repetitions, member.width, compounds)

        def linear(n_inputs: int, n_outputs: int) -> Linear:
            return Linear(n_repetitions, n_inputs, n_outputs)

        def norm(n_features: int) -> BatchNorm:
            return BatchNorm(n_repetitions, n_features, momentum)

        layers: list[nn.Module] = []
        n_inputs, (first, second, *_), dropout = 2 * member.width, member.hidden, member.dropout
        if member.body in (1, 2):
            twice = [nn.ReLU()] if member.body == 2 and faithful else []
            layers += [linear(n_inputs, first), norm(first), nn.ReLU(), nn.Dropout(dropout[0])]
            layers += [linear(first, second), nn.ReLU(), *twice, norm(second), nn.Dropout(dropout[1])]
        elif member.body == 6:
            layers += [norm(n_inputs), linear(n_inputs, first), nn.ReLU(), nn.Dropout(dropout[1] if faithful else dropout[0])]
            layers += [linear(first, second), norm(second), nn.ReLU(), nn.Dropout(dropout[1])]
        else:  # 5 has two such layers, 4 and 8 three, 3 and 7 four
            for n_hidden, rate in zip(member.hidden, dropout, strict=True):
                layers += [linear(n_inputs, n_hidden), norm(n_hidden), nn.ReLU(), nn.Dropout(rate)]
                n_inputs = n_hidden
        self.body = nn.Sequential(*layers, linear(member.hidden[-1], n_outputs))
        self.loss = absolute_error if member.body <= 4 else row_rmse

    def forward(self, cell_type: Tensor, compound: Tensor) -> Tensor:
        """Scores of conditions, (repetitions, rows, components)."""
        scores: Tensor = self.body(self.head(cell_type, compound))
        return scores


def absolute_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error of each repetition, (repetitions,)."""
    return (predicted - truth).abs().mean(dim=(1, 2))


def row_rmse(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean over rows of the root mean squared error of a row, of each repetition, (repetitions,)."""
    return ((predicted - truth).square().mean(dim=2) + _TINY).sqrt().mean(dim=1)


def batches(n_rows: int, batch_size: int) -> list[slice]:
    """Rows of each batch. One row left over joins the batch before it, since a single row has no variance."""
    starts = list(range(0, n_rows, batch_size))
    if len(starts) > 1 and n_rows - starts[-1] == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], n_rows], strict=True)]


def fit(
    network: Network,
    tokens: Tokens,
    targets: Tensor,
    *,
    member: Member,
    epochs: int,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train all repetitions of a network, each on the rows in an order of its own.

    Parameters
    ----------
    network
        Changed in place. Random numbers are those of torch's global generator.
    tokens
        Of the training conditions.
    targets
        Shape (repetitions, conditions, components).
    member
        Its batch size and learning rate hold.
    epochs
        Passes over the conditions.
    after_epoch
        Called with the number of epochs done.
    """
    optimiser = torch.optim.Adam(
        [parameter for parameter in network.parameters() if parameter.requires_grad], lr=member.learning_rate, eps=_ADAM_EPSILON, fused=True
    )
    n_repetitions, n_rows, _ = targets.shape
    repetition = torch.arange(n_repetitions, device=targets.device).unsqueeze(1)
    rows_of = batches(n_rows, member.batch_size)
    for epoch in range(1, epochs + 1):
        network.train()
        order = torch.rand(n_repetitions, n_rows).argsort(dim=1).to(targets.device)
        for rows in rows_of:
            chosen = order[:, rows]
            predicted = network(tokens.cell_type[chosen], tokens.compound[chosen])
            # a sum, so that the step of one repetition does not depend on how many others there are
            loss = network.loss(predicted, targets[repetition, chosen]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if after_epoch:
            after_epoch(epoch)


@torch.no_grad()
def predict(network: Network, tokens: Tokens) -> Tensor:
    """Scores of conditions without dropout, (repetitions, conditions, components)."""
    network.eval()
    n_repetitions = network.head.cell_type.weight.shape[0]
    cell_type, compound = (part.expand(n_repetitions, -1) for part in (tokens.cell_type, tokens.compound))
    scores: Tensor = network(cell_type, compound)
    return scores


def encode(conditions: Sequence[tuple[str, str]], token_of: dict[str, int], device: torch.device) -> Tokens:
    """Tokens of (compound, cell type) pairs on a device."""
    compound = torch.tensor([token_of[name] for name, _ in conditions], dtype=torch.int64, device=device)
    cell_type = torch.tensor([token_of[name] for _, name in conditions], dtype=torch.int64, device=device)
    return Tokens(cell_type, compound)
