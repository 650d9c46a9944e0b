"""The members of the published ensemble: what is fixed about each, as data.

They come from the winner of the NeurIPS 2023 competition, tuned on the competition's data, compounds that are now held out among them.
Belongs here: sizes, rates, epochs and weights. Does not belong here: networks (``networks.py``), or running them (``ensemble.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Mode = Literal["none", "trainable", "fixed", "concat"]
"""How descriptors come in; ``networks.CompoundInput`` says what each is."""


@dataclass(frozen=True)
class Member:
    """One network of the ensemble.

    Attributes
    ----------
    id
        Number of its body, 1 to 8, and a letter.
    batch_size
        Conditions a step.
    learning_rate
        Of Adam.
    width
        Width of the embedding of a cell type, and of a compound.
    hidden
        Widths of the hidden layers.
    dropout
        Probability after each hidden layer.
    n_components
        Components of the targets that it predicts.
    """

    id: str
    batch_size: int
    learning_rate: float
    width: int
    hidden: tuple[int, ...]
    dropout: tuple[float, ...]
    n_components: int

    @property
    def body(self) -> int:
        """Which of the eight bodies it has."""
        return int(self.id[0])


_WIDE = (256, 1024)
"""Hidden layers of bodies 1 and 5."""

MEMBERS: Mapping[str, Member] = MappingProxyType(
    {
        member.id: member
        for member in (
            Member("1a", 128, 0.00845784, 22, _WIDE, (0.2, 0.2), 50),
            Member("2a", 64, 0.00778747, 10, (384, 1280), (0.46431, 0.10102), 24),
            Member("2b", 192, 0.00830448, 32, (284, 1424), (0.27861, 0.04218), 96),
            Member("2c", 64, 0.00666106, 22, (232, 1184), (0.46231, 0.24430), 61),
            Member("3a", 64, 0.00431186, 62, (560, 480, 248, 224), (0.43599, 0.34433, 0.01112, 0.23134), 119),
            Member("3b", 64, 0.00791564, 22, (504, 136, 232, 512), (0.00720, 0.07782, 0.34828, 0.40107), 55),
            Member("4a", 64, 0.00594854, 46, (872, 264, 256), (0.17544, 0.35877, 0.12078), 213),
            Member("4b", 128, 0.00644411, 62, (552, 480, 216), (0.32339, 0.15142, 0.03463), 104),
            Member("5a", 32, 0.00543025, 56, _WIDE, (0.02869, 0.35808), 108),
            Member("5b", 192, 0.00528860, 60, _WIDE, (0.29783, 0.32362), 78),
            Member("5c", 32, 0.00442908, 32, _WIDE, (0.40605, 0.17819), 71),
            Member("6a", 128, 0.00304683, 62, (396, 912), (0.26431, 0.17381), 144),
            Member("6b", 128, 0.00977373, 60, (436, 416), (0.40247, 0.25739), 126),
            Member("6c", 160, 0.00574216, 56, (504, 928), (0.26461, 0.24327), 134),
            Member("7a", 128, 0.00262563, 62, (824, 184, 208, 472), (0.04407, 0.05120, 0.05927, 0.08820), 167),
            Member("7b", 128, 0.00553033, 48, (712, 400, 232, 216), (0.49040, 0.03237, 0.11138, 0.01989), 100),
            Member("8a", 192, 0.00971858, 48, (312, 344, 248), (0.10975, 0.10106, 0.09776), 100),
            Member("8b", 192, 0.00807817, 16, (1016, 392, 176), (0.21411, 0.40541, 0.10477), 72),
            Member("8c", 160, 0.00542713, 36, (760, 416, 240), (0.16485, 0.01422, 0.05821), 128),
            Member("8d", 224, 0.00774541, 38, (856, 352, 112), (0.05896, 0.10929, 0.06218), 246),
        )
    }
)
"""Every published member by id."""


@dataclass(frozen=True)
class Weighted:
    """A member in a stage.

    Attributes
    ----------
    member
        The member.
    epochs
        Epochs that were published; the most where epochs are chosen.
    weight
        Weight of its prediction in the mean.
    """

    member: Member
    epochs: int
    weight: float


def _stage(*rows: tuple[str, int, float]) -> tuple[Weighted, ...]:
    return tuple(Weighted(MEMBERS[id_], epochs, weight) for id_, epochs, weight in rows)


STAGE_ONE = _stage(
    ("1a", 114, 0.1522),
    ("2a", 136, 0.7152),
    ("3a", 157, 0.7548),
    ("5c", 122, 0.0579),
    ("6b", 112, 0.9602),
    ("7b", 141, 0.4968),
    ("8a", 143, 0.9882),
)
"""Published members of the first stage."""

STAGE_TWO = _stage(
    ("1a", 200, 0.03950),
    ("2a", 200, 0.22778),
    ("2b", 200, 0.64705),
    ("2c", 200, 0.14998),
    ("3a", 200, 0.24180),
    ("3b", 200, 0.01823),
    ("4a", 200, 0.06708),
    ("4b", 200, 0.45476),
    ("5a", 200, 0.89537),
    ("5b", 200, 0.23417),
    ("5c", 200, 0.37805),
    ("6a", 200, 0.34287),
    ("6b", 200, 0.58025),
    ("6c", 200, 0.81582),
    ("7a", 200, 0.48650),
    ("7b", 200, 0.01708),
    ("8a", 200, 0.26623),
    ("8b", 200, 0.20727),
    ("8c", 200, 0.47400),
    ("8d", 200, 0.67585),
)
"""Published members of the second stage."""


@dataclass(frozen=True)
class EnsembleSettings:
    """What is run.

    Attributes
    ----------
    stage_one, stage_two
        Members of the stages.
    repetitions
        Fits of each member, of whose predictions the median is taken.
    seeds
        Runs of the whole; each gives scores of its own.
    modes
        How descriptors come in.
    momentum
        Weight of a new batch in the running statistics of batch normalization; Keras's default in torch's terms unless given.
    faithful
        Whether published quirks are kept: fixed epochs, tables of 152 rows however many tokens there are, one of the two dropout rates of
        body 6 in both places, and one ReLU after another in body 2. Without them epochs are chosen on validation compounds, which
        are held out of the training compounds.
    epochs_between
        Epochs from one look at the validation compounds to the next.
    """

    stage_one: tuple[Weighted, ...] = STAGE_ONE
    stage_two: tuple[Weighted, ...] = STAGE_TWO
    repetitions: int = 10
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 10, 11, 12, 13, 14)
    modes: tuple[Mode, ...] = ("trainable", "fixed")
    momentum: float = 0.01
    faithful: bool = False
    epochs_between: int = 10

    def as_published(self) -> EnsembleSettings:
        """These settings with the published quirks."""
        return replace(self, faithful=True)


def _small(id_: str, n_components: int, epochs: int) -> Weighted:
    """A member for the sample: few units, small batches, and a fast rate, so that few steps do."""
    hidden, dropout = {"1": ((64, 96), (0.1, 0.1)), "8": ((96, 64, 64), (0.1, 0.1, 0.05))}[id_[0]]
    return Weighted(Member(id_, 72, 0.01, 16, hidden, dropout, n_components), epochs, 1.0)


SETTINGS: Mapping[str, EnsembleSettings] = MappingProxyType(
    {
        "small": EnsembleSettings(
            stage_one=(_small("1s", 24, 24), _small("8s", 16, 24)),
            stage_two=(_small("1s", 24, 24), _small("8s", 16, 24)),
            repetitions=2,
            seeds=(0, 1),
            momentum=0.1,
            epochs_between=6,
        ),
        "published": EnsembleSettings(),
    }
)
"""Size → settings; small ones are for the sample."""
