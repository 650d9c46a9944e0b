"""Trained models on disk, and what a training may start from.

Belongs here: writing and loading checkpoints, and giving a model its first weights. Does not belong here: the loop that trains
(``training.py``).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.representation.encoding import Vocabularies
from perturbridge_dagster.representation.models import LPM, MODELS
from perturbridge_dagster.representation.settings import TrainingSettings
from perturbridge_dagster.written import Stamp, written_whole

if TYPE_CHECKING:
    import pandas as pd

    from perturbridge_dagster.representation.corpus import StoredCorpus


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
    datasets
        Datasets that it was trained on; None for all of the corpus.
    frozen
        Parts that were not trained.
    """

    model: LPM
    vocabularies: Vocabularies
    settings: TrainingSettings
    step: int
    validation_rmse: float
    corpus_stamp: Stamp
    datasets: tuple[str, ...] | None = None
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """What a training starts from, where it is not random weights alone. The optimiser always starts afresh.

    Attributes
    ----------
    checkpoint
        A selected model, whose weights and vocabularies are taken.
    perturbation
        Vectors of perturbations, such as Morgan bits: index symbols, one column a dimension. They replace the whole table: the vector of
        a symbol that is absent is zero. They must say nothing of held-out values, since those of held-out compounds are used too.
    frozen
        Names of parts that stay as they start, without gradient or weight decay: ``"perturbation"``, ``"dataset"``, ``"context"``,
        ``"readout"``, ``"log_dose"``, ``"time"`` or ``"predictor"``.
    """

    checkpoint: Path | None = None
    perturbation: pd.DataFrame | None = None
    frozen: tuple[str, ...] = ()

    def loaded(self, settings: TrainingSettings) -> TrainedModel | None:
        """The model of the checkpoint, where there is one.

        Raises
        ------
        InputError
            If it is another model than the settings want.
        """
        if self.checkpoint is None:
            return None
        trained = load_model(self.checkpoint)
        theirs, ours = ((of.architecture, of.model.width, of.model.hidden) for of in (trained.settings, settings))
        if theirs != ours:
            raise InputError(
                f"the checkpoint is a {theirs[0]} of width {theirs[1]} and hidden layers {theirs[2]}",
                file=self.checkpoint,
                expected=f"a {ours[0]} of width {ours[1]} and hidden layers {ours[2]}, as the settings say",
            )
        return trained

    def vocabularies(self, corpus: StoredCorpus, settings: TrainingSettings) -> Vocabularies:
        """The vocabularies of a model that starts without a checkpoint.

        Perturbations of the corpus with a vector are among them though no train condition has them, such as a salt that is held out while
        another of the same parent is trained. A vector of zeros says no more than the unknown token.
        """
        described: list[str] = []
        if self.perturbation is not None:
            described = list(self.perturbation.index[(self.perturbation != 0).any(axis=1)])
        return corpus.vocabularies(settings.split, unknown=settings.unknown_token, described=described)

    def give(self, model: LPM, vocabularies: Vocabularies, trained: TrainedModel | None) -> None:
        """Give a model the weights it starts from, and freeze parts of it.

        Parameters
        ----------
        model
            Changed in place.
        vocabularies
            Those it was made with.
        trained
            What :meth:`loaded` gave.

        Raises
        ------
        InputError
            If vectors do not fit the model, or a part to freeze is not there.
        """
        if trained is not None:
            model.load_state_dict(trained.model.state_dict())
        if self.perturbation is not None:
            with torch.no_grad():
                model.perturbation.weight.copy_(torch.from_numpy(_table(self.perturbation, vocabularies, model.perturbation.embedding_dim)))
        parts = dict(model.named_children())
        if unknown := [name for name in self.frozen if name not in parts]:
            raise InputError("there are no such parts to freeze", rows=unknown, expected=f"some of {', '.join(parts)}")
        for name in self.frozen:
            parts[name].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("every part of the model is frozen, so there is nothing to train")


def _table(vectors: pd.DataFrame, vocabularies: Vocabularies, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors in the order of the vocabulary, zero where there is none."""
    if vectors.shape[1] != width:
        raise InputError(
            f"the vectors of perturbations have {vectors.shape[1]:,} dimensions", expected=f"{width:,}, the width of the model"
        )
    if vectors.index.has_duplicates:
        raise InputError("perturbations have several vectors", rows=list(vectors.index[vectors.index.duplicated()].unique()))
    known = vectors[vectors.index.isin(vocabularies.perturbation)]
    values = known.to_numpy(dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("vectors are missing or infinite", rows=list(known.index[~np.isfinite(values).all(axis=1)]))
    if known.empty:
        raise InputError(
            "no perturbation of the corpus has a vector",
            rows=list(vectors.index),
            expected=f"such as {vocabularies.perturbation[-1]}",
        )
    table = np.zeros((vocabularies.size("perturbation"), width), np.float32)
    table[vocabularies.encode("perturbation", list(known.index))] = values
    return table


# ---- files -------------------------------------------------------------------------------------------------------------------


def save(path: Path, content: dict[str, Any], last_good: str) -> None:
    """Write a checkpoint whole, or leave the earlier one as it was.

    Parameters
    ----------
    path, content
        The file, and what ``torch.save`` puts there.
    last_good
        What is left where it cannot be written, for a person.

    Raises
    ------
    PerturbridgeError
        If it cannot be written: the disk is full, say.
    """
    # first in memory: torch.save into a file that cannot grow ends in an error that does not say so; and to no path, since torch would
    # write its name, which is random here, into the file
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        with written_whole(path) as aside, aside.open("wb") as stream:
            stream.write(buffer.getbuffer())
    except OSError as error:
        raise PerturbridgeError(
            f"{path}: a checkpoint of {len(buffer.getbuffer()):,} bytes could not be written ({error.strerror or error}). {last_good} "
            "Make room, and ask for the training again."
        ) from error


def load_model(path: Path) -> TrainedModel:
    """Load a selected model (``best.pt``).

    Raises
    ------
    InputError
        If there is no such file, or it is no selected model.
    """
    if not path.is_file():
        raise InputError("there is no trained model", file=path, advice="Materialize compound_embeddings first.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings = TrainingSettings.from_json(content["settings"])
        vocabularies = Vocabularies.from_dict(content["vocabularies"])
        with torch.random.fork_rng(devices=[]):  # the start that is about to be overwritten must not draw from the caller's generator
            model = MODELS[settings.architecture](vocabularies, settings.model)
        model.load_state_dict(content["model"])
    except Exception as error:  # torch raises several kinds for a file that is cut short or something else
        raise InputError(
            f"this is no trained model ({type(error).__name__})", file=path, expected="best.pt or best_<dataset>.pt of a training"
        ) from error
    model.eval()
    datasets = content.get("datasets")
    return TrainedModel(
        model,
        vocabularies,
        settings,
        content["step"],
        content["validation_rmse"],
        Stamp.from_json(content["corpus_stamp"]),
        None if datasets is None else tuple(datasets),
        tuple(content.get("frozen", ())),
    )


def selected(trained: TrainedModel) -> dict[str, Any]:
    """What a selected model is on disk; :func:`load_model` is the inverse."""
    return {
        "model": {name: tensor.cpu() for name, tensor in trained.model.state_dict().items()},
        "vocabularies": trained.vocabularies.to_dict(),
        "settings": trained.settings.to_json(),
        "step": trained.step,
        "validation_rmse": trained.validation_rmse,
        "corpus_stamp": trained.corpus_stamp.to_json(),
        "datasets": None if trained.datasets is None else list(trained.datasets),
        "frozen": list(trained.frozen),
    }
