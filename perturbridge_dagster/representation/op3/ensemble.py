"""The ensemble in two stages: networks predict components of the targets, and the second stage learns from what the first one predicts.

A member is fitted some times to truncated singular values of the targets, and the element-wise median of what these fits predict is its
prediction. A stage is the weighted mean of its members, clipped gene by gene to the range of the training values. The second stage
learns from the training values and, for the conditions to predict, from the predictions of the first (pseudolabels): their identities are
used, their values never.

Epochs are published numbers, or chosen: :func:`choose_epochs` plays both stages on training compounds alone. Belongs here: running
stages. Does not belong here: networks (``networks.py``), what members there are (``members.py``), scores (``comparison.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

from perturbridge_dagster.representation.op3.data import KEY, Problem
from perturbridge_dagster.representation.op3.descriptors import Descriptors, compound_input, tokens_of
from perturbridge_dagster.representation.op3.members import EnsembleSettings, Member, Mode, Weighted
from perturbridge_dagster.representation.op3.networks import CompoundInput, Network, Tokens, encode, fit, predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

Epochs = Mapping[tuple[int, str], int]
"""Stage, 1 or 2, and id of a member → epochs."""


@dataclass(frozen=True)
class _Look:
    """What a member is watched by: values of the conditions that it predicts, and how often."""

    truth: NDArray[np.float32]
    epochs_between: int


@dataclass(frozen=True)
class _Run:
    """What all fits of a run share."""

    settings: EnsembleSettings
    compounds: CompoundInput
    token_of: dict[str, int]
    seed: int
    device: torch.device

    def tokens(self, conditions: pd.DataFrame) -> Tokens:
        """Tokens of conditions."""
        return encode(list(conditions[KEY].itertuples(index=False, name=None)), self.token_of, self.device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, so that sums are added in one order; matrices are too small for more in any case."""
    threads = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@_one_thread()
def predict_ensemble(
    problem: Problem, descriptors: Descriptors, mode: Mode, settings: EnsembleSettings, *, seed: int, epochs: Epochs | None = None
) -> NDArray[np.float32]:
    """Predict the test conditions of a problem.

    Parameters
    ----------
    problem
        Its test values are not looked at.
    descriptors, mode
        What networks are told of compounds.
    settings
        What is run.
    seed
        Decides initial weights, order of rows, dropout and singular vectors.
    epochs
        As :func:`choose_epochs` gives them; the settings' own without.

    Returns
    -------
    Shape (test conditions, genes).

    Raises
    ------
    ValueError
        If descriptors and mode do not go together.
    """
    run = _run(problem, descriptors, mode, settings, seed)
    epochs = epochs or published_epochs(settings)
    first, _ = _stage(run, problem, 1, problem.train, problem.train_values, epochs)
    conditions, values = pd.concat([problem.train, problem.test]), np.concatenate([problem.train_values, first])
    second, _ = _stage(run, problem, 2, conditions, values, epochs)
    return second


@_one_thread()
def choose_epochs(
    problem: Problem, descriptors: Descriptors, mode: Mode, settings: EnsembleSettings, *, seed: int
) -> dict[tuple[int, str], int]:
    """Choose the epochs of each member on compounds that are held out of the training compounds.

    Both stages are played within the training compounds: a quarter of them takes the place of the test compounds. Each member keeps the
    epoch at which its median prediction of their values has the least MRRMSE, among every ``epochs_between`` up to the settings' own.
    No condition of a test compound has a part in it.

    Parameters
    ----------
    problem, descriptors, mode, settings, seed
        As for :func:`predict_ensemble`; the seed also decides which compounds are held out.
    """
    inner = problem.validation(seed)
    run = _run(inner, descriptors, mode, settings, seed)
    look = _Look(inner.test_values, settings.epochs_between)
    most = published_epochs(settings)
    first, chosen = _stage(run, inner, 1, inner.train, inner.train_values, most, look)
    conditions, values = pd.concat([inner.train, inner.test]), np.concatenate([inner.train_values, first])
    _, chosen_second = _stage(run, inner, 2, conditions, values, most, look)
    return {**chosen, **chosen_second}


def published_epochs(settings: EnsembleSettings) -> dict[tuple[int, str], int]:
    """The settings' own epochs of every member of each stage."""
    return {
        (stage, weighted.member.id): weighted.epochs
        for stage, members in ((1, settings.stage_one), (2, settings.stage_two))
        for weighted in members
    }


def _run(problem: Problem, descriptors: Descriptors, mode: Mode, settings: EnsembleSettings, seed: int) -> _Run:
    token_of = tokens_of(pd.concat([problem.train, problem.test]))
    compounds = compound_input(descriptors, mode, token_of, faithful=settings.faithful)
    return _Run(settings, compounds, token_of, seed, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _stage(
    run: _Run,
    problem: Problem,
    stage: int,
    conditions: pd.DataFrame,
    values: NDArray[np.float32],
    epochs: Epochs,
    look: _Look | None = None,
) -> tuple[NDArray[np.float32], dict[tuple[int, str], int]]:
    """Prediction of a stage for the test conditions, and the epochs of its members."""
    members: tuple[Weighted, ...] = run.settings.stage_one if stage == 1 else run.settings.stage_two
    low, high = problem.train_values.min(axis=0), problem.train_values.max(axis=0)
    total = np.zeros(problem.test_values.shape, dtype=np.float64)
    chosen = {}
    for weighted in members:
        key = (stage, weighted.member.id)
        predicted, chosen[key] = _fit_member(run, problem, stage, weighted.member, conditions, values, epochs[key], look)
        total += weighted.weight * predicted
    mean = total / sum(weighted.weight for weighted in members)
    return np.clip(mean, low, high).astype(np.float32), chosen


def _fit_member(
    run: _Run,
    problem: Problem,
    stage: int,
    member: Member,
    conditions: pd.DataFrame,
    values: NDArray[np.float32],
    epochs: int,
    look: _Look | None,
) -> tuple[NDArray[np.float32], int]:
    """Median prediction of the fits of a member, and after how many epochs: all of them, or the best of those looked at."""
    n_repetitions = run.settings.repetitions
    seeds = [_named_seed(run.seed, stage, member.id, str(repetition)) for repetition in range(n_repetitions)]
    components = [_components(values, member.n_components, seed) for seed in seeds]
    best: tuple[float, int, NDArray[np.float32]] | None = None
    with _generator(_named_seed(run.seed, stage, member.id, "network")):
        targets = torch.from_numpy(np.stack([scores for scores, _ in components])).to(run.device)
        network = Network(
            member, run.compounds, n_repetitions, targets.shape[2], momentum=run.settings.momentum, faithful=run.settings.faithful
        ).to(run.device)
        to_predict = run.tokens(problem.test)

        def median() -> NDArray[np.float32]:
            scores = predict(network, to_predict).cpu().numpy()
            every = np.stack([of @ right for of, (_, right) in zip(scores, components, strict=True)])
            return np.asarray(np.median(every, axis=0), dtype=np.float32)

        def watch(epoch: int) -> None:
            nonlocal best
            if look and (epoch % look.epochs_between == 0 or epoch == epochs):
                predicted = median()
                error = float(np.sqrt(np.square(predicted - look.truth).mean(axis=1)).mean())
                if best is None or error < best[0]:
                    best = error, epoch, predicted

        fit(network, run.tokens(conditions), targets, member=member, epochs=epochs, after_epoch=watch if look else None)
        return (best[2], best[1]) if best else (median(), epochs)


def _components(values: NDArray[np.float32], n_components: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores and right singular vectors of a truncated singular value decomposition; fewer where the values have no more."""
    n = min(n_components, *(side - 1 for side in values.shape))
    decomposition = TruncatedSVD(n, random_state=seed)
    scores = decomposition.fit_transform(values)
    return scores.astype(np.float32), decomposition.components_.astype(np.float32)


def _named_seed(seed: int, stage: int, member: str, what: str) -> int:
    """A seed that depends on names only, so that one member more changes nothing of the others."""
    digest = hashlib.blake2b(f"{seed}\x1f{stage}\x1f{member}\x1f{what}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % 2**31


@contextmanager
def _generator(seed: int) -> Iterator[None]:
    """Torch's global generators with a seed, as they were before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
