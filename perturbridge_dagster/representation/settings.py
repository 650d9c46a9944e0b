"""How a model is trained, and the sizes that are ready to use.

Belongs here: settings. Does not belong here: training (``training.py``).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from perturbridge_dagster.representation.models import ModelSettings


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained; the defaults are those published for the scalar model on the whole compendium.

    Attributes
    ----------
    architecture
        A name of ``models.MODELS``.
    seed
        Seed of the initial weights, of dropout and of the order of the data.
    batch_size
        Values a step, over all processes; conditions, where the model predicts all genes of a condition at once.
    steps
        Budget in optimiser steps. Epochs follow from it, so that a small corpus is not starved of steps.
    learning_rate, weight_decay
        Of AdamW.
    decay, decay_every
        The learning rate is multiplied by `decay` every `decay_every` steps; None means every epoch.
    validate_every
        Steps between full validation passes, each of which writes a checkpoint; None means every epoch. The last step always
        validates.
    model
        Sizes and start of the model.
    unknown_token
        Whether symbols absent from train get a zero vector. Without it, validation refuses them.
    standardize
        Whether log dose and time are centred and scaled by the train conditions; see :meth:`models.LPM.standardize`.
    split
        Split rule, one of those that the corpus was split by.
    precision
        ``"bfloat16"`` multiplies matrices in bfloat16; weights, sums and validation stay in float32.
    select
        Which validation RMSE selects checkpoints: of ``"all"`` values alone, or of each ``"dataset"`` besides.
    processes
        Processes that share each step, on one machine; with GPUs, each has one. What is learned does not depend on their number but for
        the order of sums in float32, and for dropout, which every process draws by itself.
    """

    architecture: str = "scalar_lpm"
    seed: int = 13
    batch_size: int = 16_384
    steps: int = 25 * 104_456
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    decay: float = 0.97
    decay_every: int | None = None
    validate_every: int | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    unknown_token: bool = False
    standardize: bool = False
    split: str = "scalar"
    precision: Literal["float32", "bfloat16"] = "float32"
    select: Literal["all", "dataset"] = "all"
    processes: int = 1

    def for_epochs(self, epochs: int, n_items: int) -> TrainingSettings:
        """These settings with the budget that `epochs` passes over `n_items` train values (or conditions) take."""
        return replace(self, steps=epochs * math.ceil(n_items / self.batch_size))

    def to_json(self) -> str:
        """The settings as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainingSettings:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        model = values.pop("model")
        return cls(**values, model=ModelSettings(**(model | {"hidden": tuple(model["hidden"])})))


PUBLISHED = TrainingSettings(precision="bfloat16")
"""25 epochs of batches of 16,384 values over the whole compendium (104,456 steps each)."""

PUBLISHED_MULTI_OUTPUT = replace(PUBLISHED, architecture="multi_output_lpm", batch_size=4_096).for_epochs(200, 373_000)
"""200 epochs of batches of 4,096 conditions over the whole compendium."""

SMALL = TrainingSettings(
    batch_size=2_048,
    steps=2_000,
    learning_rate=5e-3,
    decay=0.9,
    decay_every=150,
    validate_every=500,
    model=ModelSettings(width=32, hidden=(64, 64), dropout=0.0, embedding_scale=0.1),
    unknown_token=True,
    standardize=True,
)
"""For one or two million values: about 10 s of a CPU core."""

SMALL_MULTI_OUTPUT = replace(SMALL, architecture="multi_output_lpm", batch_size=64, steps=500, decay_every=25, validate_every=100)
"""For a thousand conditions: about 3 s of a CPU core."""

SETTINGS = {
    "small": {settings.architecture: settings for settings in (SMALL, SMALL_MULTI_OUTPUT)},
    "published": {settings.architecture: settings for settings in (PUBLISHED, PUBLISHED_MULTI_OUTPUT)},
}
"""Size, then model → settings."""
