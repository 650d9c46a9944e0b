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

    def for_epochs(
        self, epochs: int, n_items: int, *, least_steps: int = 1, n_decays: int | None = None, n_validations: int | None = None
    ) -> TrainingSettings:
        """These settings with the budget that passes over the train data take, and what happens in its course spread over it.

        Parameters
        ----------
        epochs
            Passes over the train data.
        n_items
            Train values; conditions, where the model predicts all genes of a condition at once.
        least_steps
            Steps that the budget has at least, however small the data.
        n_decays, n_validations
            How often the learning rate falls, and validation runs, from first to last step; None for `epochs` times.
        """
        steps = max(epochs * math.ceil(n_items / self.batch_size), least_steps)
        return replace(
            self,
            steps=steps,
            decay_every=math.ceil(steps / (n_decays or epochs)),
            validate_every=math.ceil(steps / (n_validations or epochs)),
        )

    def to_json(self) -> str:
        """The settings as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainingSettings:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        model = values.pop("model")
        return cls(**values, model=ModelSettings(**(model | {"hidden": tuple(model["hidden"])})))


PUBLISHED = TrainingSettings(precision="bfloat16", unknown_token=True)
"""25 epochs of batches of 16,384 values over the whole compendium (104,456 steps each); :func:`settings_for` gives those of a corpus.

The published vocabularies list val and test too. Ours are those of train, so that what is only held out needs a token.
"""

PUBLISHED_MULTI_OUTPUT = replace(PUBLISHED, architecture="multi_output_lpm", batch_size=4_096).for_epochs(200, 373_000)
"""200 epochs of batches of 4,096 conditions over the whole compendium."""

PUBLISHED_EPOCHS = {PUBLISHED.architecture: 25, PUBLISHED_MULTI_OUTPUT.architecture: 200}
"""Model → passes over the train data. The learning rate falls, and validation runs, as often."""

LEAST_STEPS = 5_000
"""Steps that the published size has at least: 200 epochs of a dataset of one batch are too few to learn anything."""

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
"""Size, then model → settings; those of the published size have the budget of the whole compendium."""


def settings_for(size: str, model: str, n_items: int) -> TrainingSettings:
    """How a model is trained on a corpus.

    Parameters
    ----------
    size, model
        Keys of :data:`SETTINGS`.
    n_items
        What :func:`training.n_train_items` counts in the corpus. The budget of the published size follows from it; the small one is fixed.
    """
    settings = SETTINGS[size][model]
    return settings.for_epochs(PUBLISHED_EPOCHS[model], n_items, least_steps=LEAST_STEPS) if size == "published" else settings
