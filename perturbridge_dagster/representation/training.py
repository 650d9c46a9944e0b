"""Training a model on a corpus: the loop, selection by full validation passes, and resuming bit for bit.

Belongs here: everything between an open corpus and fitted weights on disk. Does not belong here: the network (``models.py``), the order
of the data (``batches.py``), what a training starts from and its files (``checkpoints.py``), how processes meet (``parallel.py``), or
scores on test (``evaluation.py``). Test values are never read here.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.batches import Batches, ProfileBatch, ValueBatch
from perturbridge_dagster.representation.checkpoints import Start, TrainedModel, load_model, save, selected
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus
from perturbridge_dagster.representation.determinism import deterministic
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies, encode_split
from perturbridge_dagster.representation.models import LPM, MODELS, ConditionTensors, predict
from perturbridge_dagster.representation.parallel import Log, Ranks, Report, run_together
from perturbridge_dagster.representation.settings import TrainingSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SECONDS_BETWEEN_LINES = 15.0
_LOADING_THREADS = 4
"""Threads that load batches while a GPU computes. A CPU computes so long that it loads in between."""


@dataclass(frozen=True)
class TrainingResult:
    """What training came to.

    Attributes
    ----------
    trained
        The model at its best validation RMSE.
    history
        One row a validation: step, epoch, train_rmse (with dropout, since the last row), validation_rmse, learning_rate, n_values (values
        trained on since the last row, in all processes), and with selection by dataset one column ``validation_rmse <dataset>`` for each.
    epochs
        Passes over the train values, derived from the budget.
    n_train, n_val
        Values.
    device
        ``"cpu"`` or ``"cuda"``.
    of_dataset
        With selection by dataset, the checkpoint that was best on each dataset with validation values; for :func:`load_model`.
    """

    trained: TrainedModel
    history: pd.DataFrame
    epochs: float
    n_train: int
    n_val: int
    device: str
    of_dataset: dict[str, Path] = field(default_factory=dict)


# ---- the loop ----------------------------------------------------------------------------------------------------------------


def train(
    corpus: StoredCorpus,
    settings: TrainingSettings,
    folder: Path,
    log: Log,
    *,
    start: Start | None = None,
    datasets: Collection[str] | None = None,
    report: Report | None = None,
) -> TrainingResult:
    """Fit a model, or go on where an interrupted run of the same settings, start and corpus stopped.

    Writes ``last.pt`` (all that resuming needs) at every validation and ``best.pt`` (the selected model) whenever validation RMSE
    falls. A resumed run ends with the very bits of an uninterrupted one on the CPU. Selection is by a full pass over the validation
    values; with ``settings.select == "dataset"`` also by the values of each dataset, whose best model is ``best_<dataset>.pt``. A dataset
    without validation values has no such model.

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
    start
        What to start from; random weights without it.
    datasets
        Train and select on these alone. The vocabularies are those of the whole corpus, or of the checkpoint that training starts from.
    report
        Told the numbers of every validation: step, steps, epoch, train_rmse, validation_rmse, best_rmse, learning_rate,
        values_per_second.

    Returns
    -------
    TrainingResult
        The model selected, and the history.

    Raises
    ------
    InputError
        If there are no train or no validation values, the start does not fit, the folder holds a run of other settings, another start or
        another corpus, or training diverges.
    PerturbridgeError
        If a checkpoint cannot be written, or one of several processes is killed. The last good checkpoint is intact then.
    """
    if settings.processes < 1:
        raise InputError(f"{settings.processes} processes were asked for", expected="at least 1")
    chosen = None if datasets is None else tuple(sorted(datasets))
    if settings.processes == 1:
        arguments: tuple[Any, ...] = (corpus, settings, folder, start or Start(), chosen)
    else:  # each process opens the corpus by itself
        arguments = (corpus.folder, settings, folder, start or Start(), chosen)
    fitted: _Fitted = run_together(_fit, arguments, settings.processes, log, report or (lambda numbers: None))
    return TrainingResult(
        trained=load_model(folder / "best.pt"),
        history=pd.DataFrame(fitted.history),
        epochs=settings.steps / fitted.steps_per_epoch,
        n_train=fitted.n_train,
        n_val=fitted.n_val,
        device=fitted.device,
        of_dataset={name: folder / best_of(name) for name in fitted.selected_datasets},
    )


def n_train_items(corpus: StoredCorpus, architecture: str, rule: str, datasets: Collection[str] | None = None) -> int:
    """What an epoch of a model counts: train values, or conditions where it predicts all genes of a condition at once.

    Parameters
    ----------
    corpus
        An open corpus.
    architecture
        A name of ``models.MODELS``.
    rule
        Split rule.
    datasets
        Count these alone; all of the corpus for None.
    """
    conditions = corpus.conditions_of("train", rule, datasets)
    return len(conditions) if MODELS[architecture].item == "conditions" else int(conditions["n_values"].sum())


def best_of(dataset: str) -> str:
    """Name of the checkpoint that was best on a dataset."""
    return f"best_{dataset}.pt"


@dataclass(frozen=True)
class _Fitted:
    """What the first process tells of a training whose files are written."""

    history: list[dict[str, float]]
    steps_per_epoch: int
    n_train: int
    n_val: int
    device: str
    selected_datasets: tuple[str, ...]


def _fit(
    ranks: Ranks,
    corpus: StoredCorpus | Path,
    settings: TrainingSettings,
    folder: Path,
    start: Start,
    datasets: tuple[str, ...] | None,
    log: Log,
    report: Report,
) -> _Fitted:
    """Train, as one of the processes that do."""
    if isinstance(corpus, Path):
        corpus = open_corpus(corpus)
    trained = start.loaded(settings)
    vocabularies = trained.vocabularies if trained else start.vocabularies(corpus, settings)
    if trained:
        _require_known(corpus, settings.split, datasets, vocabularies, start.checkpoint)
    train_values, val_values = (
        encode_split(corpus, name, vocabularies, rule=settings.split, datasets=datasets) for name in ("train", "val")
    )
    for name, values in (("train", train_values), ("val", val_values)):
        if not len(values):
            of = f" of {', '.join(datasets)}" if datasets else ""
            raise InputError(
                f"the corpus has no {name} values{of} in split {settings.split}",
                file=corpus.folder,
                advice="A model needs both; add conditions, or datasets.",
            )
    together = f", shared by {ranks.processes} processes" if ranks.processes > 1 else ""
    log(
        f"training on {len(train_values):,} values of {len(train_values.conditions):,} conditions, "
        f"selecting on {len(val_values):,}; {settings.steps:,} steps on {ranks.device.type}{together}"
    )
    with deterministic(ranks.device):
        run = _Run(ranks, corpus, settings, vocabularies, train_values, val_values, folder, start, trained, datasets)
        run.resume(log)
        run.go_on(log, report)
    return _Fitted(
        run.history, run.batches.per_epoch, len(train_values), len(val_values), ranks.device.type, tuple(sorted(run.best_of_dataset))
    )


def _require_known(
    corpus: StoredCorpus, rule: str, datasets: tuple[str, ...] | None, vocabularies: Vocabularies, checkpoint: Path | None
) -> None:
    """Refuse to go on from a checkpoint that does not know what is to be trained: an unknown token would stand for all of it."""
    readouts = pd.Index(corpus.vocabularies(rule).readout)
    if datasets is not None:
        measured = {gene for block in corpus.blocks("train", rule, datasets) for gene in block.readout}
        readouts = readouts[readouts.isin(list(measured))]
    needed = Vocabularies.of(corpus.conditions_of("train", rule, datasets), list(readouts))
    for name in ("dataset", "context", "perturbation", "readout"):
        if strangers := sorted(set(needed.symbols(name)) - set(vocabularies.symbols(name))):
            raise InputError(
                f"the checkpoint has another vocabulary: {len(strangers):,} symbols of train conditions are not in it",
                file=checkpoint,
                column=name,
                rows=strangers,
                expected="a checkpoint of a corpus and split with these symbols",
            )


class _Run:
    """One run: the model, the optimiser and where it stands. Made inside :func:`deterministic`, since its weights are drawn here."""

    def __init__(
        self,
        ranks: Ranks,
        corpus: StoredCorpus,
        settings: TrainingSettings,
        vocabularies: Vocabularies,
        train_values: EncodedSplit,
        val_values: EncodedSplit,
        folder: Path,
        start: Start,
        trained: TrainedModel | None,
        datasets: tuple[str, ...] | None,
    ) -> None:
        self.ranks, self.settings, self.vocabularies, self.folder, self.device = ranks, settings, vocabularies, folder, ranks.device
        self.train_values, self.val_values = train_values, _share_of(val_values, ranks)
        self.n_val = len(val_values)
        self.corpus_stamp, self.datasets, self.frozen = corpus.stamp, datasets, start.frozen
        # drawn on the CPU, so that every device, and every process, starts from the same weights
        torch.manual_seed(settings.seed)
        model = MODELS[settings.architecture](vocabularies, settings.model)
        if settings.standardize and trained is None:
            model.standardize(train_values.encoded)
        start.give(model, vocabularies, trained)
        self.identity = _identity(settings, vocabularies, model, start.frozen, train_values, val_values) if ranks.is_first else ""
        if ranks.rank:  # units are dropped by each process's own stream
            torch.manual_seed(int(np.random.SeedSequence([settings.seed, ranks.rank]).generate_state(1, np.uint64)[0] >> 1))
        self.model = model.to(self.device)
        threads = _LOADING_THREADS if self.device.type == "cuda" else 0
        self.batches = Batches(train_values, model.item, settings.batch_size, settings.seed, ranks.rank, ranks.processes, threads)
        self.validate_every = settings.validate_every or self.batches.per_epoch
        self.decay_every = settings.decay_every or self.batches.per_epoch
        # what is frozen is not among them: weight decay would move it without a gradient
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimiser, gamma=settings.decay)
        self.step = 0
        self.best_rmse = math.inf
        self.best_of_dataset: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    def go_on(self, log: Log, report: Report) -> None:
        """Train from the current step to the end of the budget."""
        conditions = ConditionTensors.of(self.train_values.encoded, self.device)
        squared_error = torch.zeros((), dtype=torch.float64, device=self.device)
        n_seen = n_due = 0
        first_step, started = self.step, time.monotonic()
        last_line, last_validation = started, started
        self.model.train()
        for batch in itertools.islice(self.batches.from_step(self.step), self.settings.steps - self.step):
            squared_error += self._one_step(conditions, batch)
            n_seen, n_due = n_seen + batch.n_mine, n_due + batch.n_values
            if self.step % self.validate_every == 0 or self.step == self.settings.steps:
                total, n_values = self.ranks.sum(np.array([squared_error.item(), n_seen])).tolist()
                if n_values != n_due:
                    raise RuntimeError(f"{self.ranks.processes} processes trained on {n_values:,.0f} values of {n_due:,}")
                rate = n_due / (time.monotonic() - last_validation)
                self._validate(math.sqrt(total / max(n_due, 1)), n_due)
                squared_error.zero_()
                n_seen = n_due = 0
                log(self._line(first_step, started, rate))
                report(self._numbers(rate))
                last_line = last_validation = time.monotonic()
            elif time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                log(f"step {self.step:,} of {self.settings.steps:,}, {self._remaining(first_step, started)}")
                last_line = time.monotonic()

    def _one_step(self, conditions: ConditionTensors, batch: ValueBatch | ProfileBatch) -> torch.Tensor:
        """One step of the optimiser on the mean over all values of a step, in whichever process; gives this one's squared error."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            squared_error = self.model.squared_error(conditions, batch)
        self.optimiser.zero_grad(set_to_none=True)
        if batch.n_mine:
            (squared_error / batch.n_values).backward()  # type: ignore[no-untyped-call]
        self.ranks.sum_gradients(self.trained)
        self.optimiser.step()
        self.step += 1
        if self.step % self.decay_every == 0:
            self.schedule.step()
        return squared_error.detach().double()

    def _validate(self, train_rmse: float, n_values: int) -> None:
        """A full validation pass; keep the model if it is the best so far, then write the checkpoint."""
        errors, counts = self._squared_errors()
        rmse = math.sqrt(errors.sum() / self.n_val)
        if not (math.isfinite(rmse) and math.isfinite(train_rmse)):
            raise InputError(
                f"training diverged before step {self.step:,}", advice=f"Use a learning rate below {self.settings.learning_rate}."
            )
        row = {
            "step": self.step,
            "epoch": self.step / self.batches.per_epoch,
            "train_rmse": train_rmse,
            "validation_rmse": rmse,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "n_values": n_values,
        }
        # the best models are written first: a kill between them and the state only repeats steps, and comes to the same models
        if rmse < self.best_rmse:
            self.best_rmse = rmse
            self._save("best.pt", rmse)
        if self.settings.select == "dataset":
            for code in np.flatnonzero(counts[: len(self.vocabularies.dataset)]):
                name, of_dataset = self.vocabularies.dataset[code], math.sqrt(errors[code] / counts[code])
                row[f"validation_rmse {name}"] = of_dataset
                if of_dataset < self.best_of_dataset.get(name, math.inf):
                    self.best_of_dataset[name] = of_dataset
                    self._save(best_of(name), of_dataset)
        self.history.append(row)
        random = self.ranks.gather(torch.get_rng_state())
        random_cuda = self.ranks.gather(torch.cuda.get_rng_state()) if self.device.type == "cuda" else None
        if self.ranks.is_first:
            save(self.folder / "last.pt", self._state(random, random_cuda), self._last_good())

    def _squared_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of squared errors, and number, of the validation values of each dataset, over all processes; in float64.

        Raises
        ------
        RuntimeError
            If the processes have not seen each value once.
        """
        totals = np.zeros((2, self.vocabularies.size("dataset")))
        for block, predicted in predict(self.model, self.val_values):
            dataset = self.val_values.encoded.dataset[block.condition]
            value = block.values()
            present = np.isfinite(value)
            error = np.where(present, predicted - value, 0).astype(np.float64)
            np.add.at(totals[0], dataset, np.square(error).sum(axis=1))
            np.add.at(totals[1], dataset, present.sum(axis=1))
        errors, counts = self.ranks.sum(totals)
        if counts.sum() != self.n_val:
            raise RuntimeError(f"validation saw {counts.sum():,.0f} values of {self.n_val:,}")
        return errors, counts

    # ---- what is said of it ----------------------------------------------------------------------------------------------------

    def _line(self, first_step: int, started: float, rate: float) -> str:
        last = self.history[-1]
        return (
            f"step {self.step:,} of {self.settings.steps:,} (epoch {last['epoch']:.1f}): train RMSE {last['train_rmse']:.4f}, "
            f"validation RMSE {last['validation_rmse']:.4f}, best {self.best_rmse:.4f}, learning rate {last['learning_rate']:.2g}, "
            f"{rate:,.0f} values/s, {self._remaining(first_step, started)}"
        )

    def _numbers(self, rate: float) -> dict[str, float]:
        shown = {name: self.history[-1][name] for name in ("step", "epoch", "train_rmse", "validation_rmse", "learning_rate")}
        return shown | {"steps": self.settings.steps, "best_rmse": self.best_rmse, "values_per_second": rate}

    def _remaining(self, first_step: int, started: float) -> str:
        elapsed = time.monotonic() - started
        left = elapsed / (self.step - first_step) * (self.settings.steps - self.step)
        return f"{elapsed:.0f} s elapsed, about {left:.0f} s left"

    # ---- files -----------------------------------------------------------------------------------------------------------------

    def _save(self, name: str, rmse: float) -> None:
        """Write the model as it is as a selected one."""
        if self.ranks.is_first:
            now = TrainedModel(self.model, self.vocabularies, self.settings, self.step, rmse, self.corpus_stamp, self.datasets, self.frozen)
            save(self.folder / name, selected(now), self._last_good())

    def _last_good(self) -> str:
        """What is on disk while a checkpoint is written."""
        if not (self.folder / "last.pt").is_file():
            return "It was the first of this training."
        before = [row["step"] for row in self.history if row["step"] < self.step]
        return f"The last good checkpoint{f', of step {before[-1]:,},' if before else ''} is intact."

    def _state(self, random: list[torch.Tensor], random_cuda: list[torch.Tensor] | None) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": self.step,
            "best_rmse": self.best_rmse,
            "best_of_dataset": self.best_of_dataset,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random,
            "random_cuda": random_cuda,
        }

    def resume(self, log: Log) -> None:
        """Take up the state of ``last.pt``, if there is one."""
        path = self.folder / "last.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if self.ranks.is_first and state["identity"] != self.identity:
            raise InputError(
                "the checkpoint belongs to other settings, another start or another corpus",
                file=path,
                expected="the run that wrote it",
                advice="Remove the folder, or name another.",
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"][self.ranks.rank])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"][self.ranks.rank])
        self.step, self.best_rmse, self.history = state["step"], state["best_rmse"], state["history"]
        self.best_of_dataset = state["best_of_dataset"]
        log(f"going on from step {self.step:,} of {self.settings.steps:,}")


def _share_of(split: EncodedSplit, ranks: Ranks) -> EncodedSplit:
    """The conditions of a split that one process validates: each is validated by one."""
    counts = np.split(np.diff(split.first), np.cumsum([len(block.condition) for block in split.blocks])[:-1])
    mine = [np.arange(len(block.condition))[ranks.rank :: ranks.processes] for block in split.blocks]
    first = np.concatenate([np.zeros(1, np.int64), *(count[rows] for count, rows in zip(counts, mine, strict=True))]).cumsum()
    return replace(split, blocks=tuple(block[rows] for block, rows in zip(split.blocks, mine, strict=True)), first=first)


def _identity(
    settings: TrainingSettings,
    vocabularies: Vocabularies,
    model: LPM,
    frozen: tuple[str, ...],
    train_values: EncodedSplit,
    val_values: EncodedSplit,
) -> str:
    """Digest of all that decides a run: settings, symbols, first weights, what is frozen, and the values themselves."""
    digest = hashlib.sha256(repr([settings.to_json(), vocabularies.to_dict(), sorted(frozen)]).encode())
    for tensor in model.state_dict().values():
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    for values in (train_values, val_values):
        for part in (values.encoded.log_dose, values.encoded.time, values.encoded.perturbation):
            digest.update(np.ascontiguousarray(part).data)
        for block in values.blocks:
            for part in (block.condition, block.readout, block.values()):
                digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
