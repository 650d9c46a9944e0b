"""Training a model on a corpus: settings, batches, the loop, checkpoints that resume bit for bit.

Belongs here: everything between an open corpus and fitted weights on disk. Does not belong here: the network (``models.py``) or
scores on test (``evaluation.py``). Test values are never read here.

One process, one device. The published run used 16 GPUs, each of which read all the data, so one GPU with the published batch is
the faithful reproduction.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies, encode_split
from perturbridge_dagster.representation.models import LPM, MODELS, ConditionTensors, ModelSettings, predict
from perturbridge_dagster.written import Stamp, written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_VALUES = 16_384
_POOL_BLOCKS = 64
_SECONDS_BETWEEN_LINES = 15.0


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
        Values a step; conditions, where the model predicts all genes of a condition at once.
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
        Whether log dose and time are centred and scaled by the train conditions; see :meth:`models.ScalarLPM.standardize`.
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

    def for_epochs(self, epochs: int, n_items: int) -> TrainingSettings:
        """These settings with the budget that `epochs` passes over `n_items` train values (or conditions) take."""
        return replace(self, steps=epochs * math.ceil(n_items / self.batch_size))


PUBLISHED = TrainingSettings()
"""25 epochs of batches of 16,384 values over the whole compendium (104,456 steps each)."""

PUBLISHED_MULTI_OUTPUT = TrainingSettings(architecture="multi_output_lpm", batch_size=4_096).for_epochs(200, 373_000)
"""200 epochs of batches of 4,096 conditions over the whole compendium."""

SMALL = TrainingSettings(
    batch_size=2_048,
    steps=3_000,
    learning_rate=5e-3,
    decay=0.9,
    decay_every=150,
    validate_every=500,
    model=ModelSettings(width=32, hidden=(64, 64), dropout=0.0, embedding_scale=0.1),
    unknown_token=True,
    standardize=True,
)
"""For one or two million values: under a minute on two CPU cores."""

SMALL_MULTI_OUTPUT = replace(SMALL, architecture="multi_output_lpm", batch_size=64, steps=1_500, decay_every=75, validate_every=250)
"""For a thousand conditions: under a minute on two CPU cores."""

SETTINGS = {
    "small": {settings.architecture: settings for settings in (SMALL, SMALL_MULTI_OUTPUT)},
    "published": {settings.architecture: settings for settings in (PUBLISHED, PUBLISHED_MULTI_OUTPUT)},
}
"""Size, then model → settings."""


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model with all that is needed to use it.

    Attributes
    ----------
    model
        In evaluation mode, on the CPU.
    vocabularies, settings
        What it was fitted with.
    step, validation_rmse
        The step it was selected at, and the RMSE of the full validation pass that selected it.
    corpus_stamp
        Stamp of the corpus.
    """

    model: LPM
    vocabularies: Vocabularies
    settings: TrainingSettings
    step: int
    validation_rmse: float
    corpus_stamp: Stamp


@dataclass(frozen=True)
class TrainingResult:
    """What training came to.

    Attributes
    ----------
    trained
        The model at its best validation RMSE.
    history
        One row a validation: step, epoch, train_rmse (with dropout, since the last row), validation_rmse, learning_rate.
    epochs
        Passes over the train values, derived from the budget.
    n_train, n_val
        Values.
    device
        ``"cpu"`` or ``"cuda"``.
    """

    trained: TrainedModel
    history: pd.DataFrame
    epochs: float
    n_train: int
    n_val: int
    device: str


# ---- the order of the data ---------------------------------------------------------------------------------------------------


def epoch_batches(n_values: int, batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """The batches of one epoch: every value once, in an order that follows from seed and epoch alone.

    Blocks of neighbouring values are permuted, then values are shuffled within pools of about a million. A corpus of a million
    values is thus shuffled as a whole; a larger one, memory-mapped, is read in long runs.

    Parameters
    ----------
    n_values
        Values of the train split.
    batch_size
        Values a batch; the last of an epoch may be smaller.
    seed, epoch
        Seed of the run, and the epoch.

    Yields
    ------
    ndarray
        int64 positions.
    """
    blocks = np.random.default_rng([seed, epoch]).permutation(math.ceil(n_values / _BLOCK_VALUES))
    rest = np.empty(0, dtype=np.int64)
    for number, start in enumerate(range(0, len(blocks), _POOL_BLOCKS)):
        pool = [
            np.arange(block * _BLOCK_VALUES, min((block + 1) * _BLOCK_VALUES, n_values)) for block in blocks[start : start + _POOL_BLOCKS]
        ]
        rest = np.random.default_rng([seed, epoch, number]).permutation(np.concatenate([rest, *pool]))
        full = len(rest) // batch_size * batch_size
        yield from np.split(rest[:full], full // batch_size) if full else ()
        rest = rest[full:]
    if len(rest):
        yield rest


def _batches_from(step: int, n_values: int, settings: TrainingSettings) -> Iterator[NDArray[np.int64]]:
    """Batches of all epochs, from a step on."""
    per_epoch = math.ceil(n_values / settings.batch_size)
    for epoch in itertools.count(step // per_epoch):
        first = step % per_epoch if epoch == step // per_epoch else 0
        yield from itertools.islice(epoch_batches(n_values, settings.batch_size, settings.seed, epoch), first, None)


# ---- torch, held still -------------------------------------------------------------------------------------------------------


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms inside, and the caller's settings and random state back afterwards.

    One CPU thread: sums then have one order whatever the machine, and a busy machine is not slowed further by threads that wait for
    each other (four times, measured on two shared cores).
    """
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    was_benchmark = torch.backends.cudnn.benchmark
    n_threads = torch.get_num_threads()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        try:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic only so
            torch.use_deterministic_algorithms(True)
            torch.set_num_threads(1)
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic, warn_only=was_warning)
            torch.backends.cudnn.benchmark = was_benchmark
            torch.set_num_threads(n_threads)
            if workspace is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
            else:
                os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


# ---- the loop ----------------------------------------------------------------------------------------------------------------


def train(corpus: StoredCorpus, settings: TrainingSettings, folder: Path, log: Callable[[str], None]) -> TrainingResult:
    """Fit a model, or go on where an interrupted run of the same settings and corpus stopped.

    Writes ``last.pt`` (all that resuming needs) at every validation and ``best.pt`` (the selected model) whenever validation RMSE
    falls. A resumed run ends with the very bits of an uninterrupted one on the CPU. Selection is by
    a full pass over the validation values.

    Memory: values stay in the shards of the corpus, which are memory-mapped.

    Parameters
    ----------
    corpus
        An open corpus.
    settings
        How to train.
    folder
        Where the checkpoints lie.
    log
        Told one line of progress at a time.

    Returns
    -------
    TrainingResult
        The model selected, and the history.

    Raises
    ------
    InputError
        If the corpus has no train or no validation values, the folder holds a run of other settings or another corpus, or training
        diverges.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabularies = corpus.vocabularies(unknown=settings.unknown_token)
    train_values, val_values = (encode_split(corpus, name, vocabularies) for name in ("train", "val"))
    for name, values in (("train", train_values), ("val", val_values)):
        if not len(values):
            raise InputError(
                f"the corpus has no {name} values", file=corpus.folder, advice="A model needs both; add conditions, or datasets."
            )
    log(
        f"training on {len(train_values):,} values of {len(train_values.conditions):,} conditions, "
        f"selecting on {len(val_values):,}; {settings.steps:,} steps on {device.type}"
    )
    with deterministic(device):
        run = _Run(corpus, settings, vocabularies, train_values, val_values, folder, device)
        run.resume(log)
        run.go_on(log)
    return TrainingResult(
        trained=load_model(folder / "best.pt"),
        history=pd.DataFrame(run.history),
        epochs=settings.steps / run.steps_per_epoch,
        n_train=len(train_values),
        n_val=len(val_values),
        device=device.type,
    )


class _Run:
    """One run: the model, the optimiser and where it stands. Made inside :func:`deterministic`, since its weights are drawn here."""

    def __init__(
        self,
        corpus: StoredCorpus,
        settings: TrainingSettings,
        vocabularies: Vocabularies,
        train_values: EncodedSplit,
        val_values: EncodedSplit,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.settings, self.vocabularies, self.folder, self.device = settings, vocabularies, folder, device
        self.train_values, self.val_values = train_values, val_values
        self.corpus_stamp = corpus.stamp
        # drawn on the CPU, so that every device starts from the same weights
        torch.manual_seed(settings.seed)
        model = MODELS[settings.architecture](vocabularies, settings.model)
        self.n_items = model.n_items(train_values)
        self.steps_per_epoch = math.ceil(self.n_items / settings.batch_size)
        self.validate_every = settings.validate_every or self.steps_per_epoch
        self.decay_every = settings.decay_every or self.steps_per_epoch
        self.identity = _identity(settings, vocabularies, train_values, val_values)
        if settings.standardize:
            model.standardize(train_values.encoded)
        self.model = model.to(device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimiser, gamma=settings.decay)
        self.step = 0
        self.best_rmse = math.inf
        self.history: list[dict[str, float]] = []

    def go_on(self, log: Callable[[str], None]) -> None:
        """Train from the current step to the end of the budget."""
        conditions = ConditionTensors.of(self.train_values.encoded, self.device)
        squared_error = torch.zeros((), dtype=torch.float64, device=self.device)
        n_seen = 0
        first_step, started = self.step, time.monotonic()
        last_line = started
        self.model.train()
        for batch in itertools.islice(_batches_from(self.step, self.n_items, self.settings), self.settings.steps - self.step):
            # the mean over all values of the batch
            errors, n_values = [], 0
            for values, predicted in self.model.predictions(self.train_values, conditions, batch):
                errors.append((predicted - torch.from_numpy(values.value).to(self.device)).square().sum())
                n_values += len(values)
            loss = torch.stack(errors).sum() / n_values
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.step += 1
            if self.step % self.decay_every == 0:
                self.schedule.step()
            squared_error += loss.detach().double() * n_values
            n_seen += n_values
            if self.step % self.validate_every == 0 or self.step == self.settings.steps:
                self._validate(math.sqrt(squared_error.item() / n_seen))
                squared_error.zero_()
                n_seen = 0
                log(self._line(first_step, started))
                last_line = time.monotonic()
            elif time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                log(f"step {self.step:,} of {self.settings.steps:,}, {self._remaining(first_step, started)}")
                last_line = time.monotonic()

    def _validate(self, train_rmse: float) -> None:
        """A full validation pass; keep the model if it is the best so far, then write the checkpoint."""
        squared_error = sum(
            float(np.square(predicted - values.value, dtype=np.float64).sum()) for values, predicted in predict(self.model, self.val_values)
        )
        rmse = math.sqrt(squared_error / len(self.val_values))
        if not (math.isfinite(rmse) and math.isfinite(train_rmse)):
            raise InputError(
                f"training diverged before step {self.step:,}", advice=f"Use a learning rate below {self.settings.learning_rate}."
            )
        self.history.append(
            {
                "step": self.step,
                "epoch": self.step / self.steps_per_epoch,
                "train_rmse": train_rmse,
                "validation_rmse": rmse,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
            }
        )
        # the best model is written first: a kill between the two only repeats steps, and comes to the same model
        if rmse < self.best_rmse:
            self.best_rmse = rmse
            self._save("best.pt", self._selected())
        self._save("last.pt", self._state())

    def _line(self, first_step: int, started: float) -> str:
        last = self.history[-1]
        return (
            f"step {self.step:,} of {self.settings.steps:,} (epoch {last['epoch']:.1f}): train RMSE {last['train_rmse']:.4f}, "
            f"validation RMSE {last['validation_rmse']:.4f}, best {self.best_rmse:.4f}, learning rate {last['learning_rate']:.2g}, "
            f"{self._remaining(first_step, started)}"
        )

    def _remaining(self, first_step: int, started: float) -> str:
        elapsed = time.monotonic() - started
        left = elapsed / (self.step - first_step) * (self.settings.steps - self.step)
        return f"{elapsed:.0f} s elapsed, about {left:.0f} s left"

    def _selected(self) -> dict[str, Any]:
        return {
            "model": {name: tensor.cpu() for name, tensor in self.model.state_dict().items()},
            "vocabularies": self.vocabularies.to_dict(),
            "settings": json.dumps(asdict(self.settings)),
            "step": self.step,
            "validation_rmse": self.best_rmse,
            "corpus_stamp": self.corpus_stamp.to_json(),
        }

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": self.step,
            "best_rmse": self.best_rmse,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def _save(self, name: str, content: dict[str, Any]) -> None:
        # not to a path: torch would write its name, which is random here, into the file
        with written_whole(self.folder / name) as aside, aside.open("wb") as stream:
            torch.save(content, stream)

    def resume(self, log: Callable[[str], None]) -> None:
        """Take up the state of ``last.pt``, if there is one."""
        path = self.folder / "last.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity:
            raise InputError(
                "the checkpoint belongs to other settings or another corpus",
                file=path,
                expected="the run that wrote it",
                advice="Remove the folder, or name another.",
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        self.step, self.best_rmse, self.history = state["step"], state["best_rmse"], state["history"]
        log(f"going on from step {self.step:,} of {self.settings.steps:,}")


def _identity(settings: TrainingSettings, vocabularies: Vocabularies, train_values: EncodedSplit, val_values: EncodedSplit) -> str:
    """Digest of all that decides a run: settings, symbols and the values themselves."""
    digest = hashlib.sha256(json.dumps([asdict(settings), vocabularies.to_dict()], sort_keys=True).encode())
    for values in (train_values, val_values):
        for part in (values.encoded.log_dose, values.encoded.time, values.encoded.perturbation):
            digest.update(np.ascontiguousarray(part).data)
        for block in values.blocks:
            for part in (block.condition, block.readout, block.log_fc):
                digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def load_model(path: Path) -> TrainedModel:
    """Load a selected model (``best.pt``).

    Raises
    ------
    InputError
        If there is no such file.
    """
    if not path.is_file():
        raise InputError("there is no trained model", file=path, advice="Materialize compound_embeddings first.")
    content = torch.load(path, map_location="cpu", weights_only=True)
    settings = json.loads(content["settings"])
    model_settings = settings.pop("model")
    settings = TrainingSettings(**settings, model=ModelSettings(**(model_settings | {"hidden": tuple(model_settings["hidden"])})))
    vocabularies = Vocabularies.from_dict(content["vocabularies"])
    with torch.random.fork_rng(devices=[]):  # the start that is about to be overwritten must not draw from the caller's generator
        model = MODELS[settings.architecture](vocabularies, settings.model)
    model.load_state_dict(content["model"])
    model.eval()
    return TrainedModel(
        model, vocabularies, settings, content["step"], content["validation_rmse"], Stamp.from_json(content["corpus_stamp"])
    )
