"""Training in several processes: real ones, on this machine's CPU, that meet by gloo."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.representation import parallel
from perturbridge_dagster.representation.checkpoints import Start, load_model
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.parallel import Ranks, run_together
from perturbridge_dagster.representation.settings import TrainingSettings
from perturbridge_dagster.representation.training import TrainingResult, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="compares bits with one process on the CPU"),
    pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals"),
]

TINY = TrainingSettings(
    batch_size=1_000,
    steps=40,
    validate_every=20,
    decay_every=7,
    model=ModelSettings(width=4, hidden=(8, 8), dropout=0.0),
    unknown_token=True,
    standardize=True,
    select="dataset",
)
SETTINGS = {"scalar_lpm": TINY, "multi_output_lpm": replace(TINY, architecture="multi_output_lpm", batch_size=37)}


def silent(content: object) -> None:
    """Progress nobody reads."""


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what the processes exchange; each function below is run by every process ------------------------------------------------------


def exchange(ranks: Ranks, folder: Path, log: Callable, report: Callable) -> list[float]:
    """Sums and gradients over processes, as the first one has them; every process writes what it has."""
    parameters = [torch.zeros(2, 3, requires_grad=True), torch.zeros(4, requires_grad=True)]
    parameters[0].grad = torch.full((2, 3), float(ranks.rank + 1))
    if ranks.rank == 1:  # the other has none
        parameters[1].grad = torch.arange(4.0)
    ranks.sum_gradients(parameters)
    total = ranks.sum(np.array([1.0, 10.0**ranks.rank]))
    gathered = ranks.gather(torch.tensor([ranks.rank]))
    log(f"rank {ranks.rank} of {ranks.processes}")
    report({"rank": ranks.rank})
    grads = [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]
    (folder / f"{ranks.rank}").write_text(repr((grads, total.tolist(), [int(each) for each in gathered])))
    return total.tolist()


def test_sums_gradients_and_messages(tmp_path: Path) -> None:
    lines: list[str] = []
    numbers: list[dict] = []
    result = run_together(exchange, (tmp_path,), 2, lines.append, lambda content: numbers.append(dict(content)))
    assert result == [2.0, 11.0]
    assert lines == ["rank 0 of 2"]
    assert numbers == [{"rank": 0}]
    expected = ([[[3.0] * 3] * 2, [0.0, 1.0, 2.0, 3.0]], [2.0, 11.0], [0, 1])
    assert [eval((tmp_path / name).read_text()) for name in files_of(tmp_path)] == [expected] * 2


def fails(ranks: Ranks, kind: str, log: Callable, report: Callable) -> None:
    """The second process fails; the first waits for it."""
    if ranks.rank == 1:
        if kind == "input":
            raise InputError("the corpus is not there", dataset="alpha", advice="Make it.")
        if kind == "bug":
            raise ZeroDivisionError("a bug")
        os.kill(os.getpid(), getattr(signal, kind))
    while True:
        ranks.sum(np.zeros(1))
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("input", InputError, r"dataset alpha: the corpus is not there\. Make it\."),
        ("bug", PerturbridgeError, r"(?s)one of 2 processes failed.*"),
        (
            "SIGKILL",
            PerturbridgeError,
            r"process 2 of 2 was ended by SIGKILL, so the others were ended, too\. The last checkpoint is",
        ),
    ],
)
def test_a_process_that_fails_ends_all_and_says_why(kind: str, error: type[Exception], said: str) -> None:
    children = set(living_children())
    with pytest.raises(error, match=said):
        run_together(fails, (kind,), 2, silent, silent)
    assert set(living_children()) <= children


def living_children() -> list[int]:
    return [process.pid for process in torch.multiprocessing.active_children() if process.pid is not None]


def test_an_error_of_who_listens_ends_the_processes() -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_together(says_and_waits, (), 2, interrupted, silent)
    assert not living_children()


def says_and_waits(ranks: Ranks, log: Callable, report: Callable) -> None:
    log("here")
    time.sleep(60)


def test_gpus_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert parallel.device_of(0, 1) == torch.device("cuda", 0)
    with pytest.raises(InputError, match=r"2 processes were asked for\. Expected: no more than the 1 GPUs"):
        parallel.device_of(0, 2)


# ---- training ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingResult]:
    return {name: train(additive_corpus, settings, tmp_path_factory.mktemp(name), silent) for name, settings in SETTINGS.items()}


@pytest.mark.parametrize("architecture", list(SETTINGS))
def test_two_processes_learn_what_one_learns(
    architecture: str, alone: dict[str, TrainingResult], additive_corpus: StoredCorpus, tmp_path: Path
) -> None:
    lines: list[str] = []
    reported: list[dict] = []
    together = train(
        additive_corpus,
        replace(SETTINGS[architecture], processes=2),
        tmp_path,
        lines.append,
        report=lambda numbers: reported.append(dict(numbers)),
    )
    one = alone[architecture]
    # every value was seen once, by one process, in training and in validation (the run checks the latter, too)
    assert together.history["n_values"].tolist() == one.history["n_values"].tolist()
    assert (together.n_train, together.n_val) == (one.n_train, one.n_val)
    # sums in another order are all that differs
    for column in one.history:
        np.testing.assert_allclose(together.history[column], one.history[column], rtol=2e-4, err_msg=column)
    theirs, ours = together.trained.model.state_dict(), one.trained.model.state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0.02, atol=5e-3, msg=name)
    assert sorted(together.of_dataset) == sorted(one.of_dataset)
    assert "shared by 2 processes" in lines[0]
    assert [numbers["step"] for numbers in reported] == [20, 40]


def test_more_processes_than_items_of_a_step(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    """A process without a share of a step takes part with a gradient of zero."""
    settings = replace(SETTINGS["multi_output_lpm"], batch_size=1, steps=3, select="all")
    one = train(additive_corpus, settings, tmp_path / "one", silent)
    two = train(additive_corpus, replace(settings, processes=2), tmp_path / "two", silent)
    np.testing.assert_allclose(one.history["train_rmse"], two.history["train_rmse"], rtol=1e-4)
    assert one.history["n_values"].tolist() == two.history["n_values"].tolist()


def weights_of(ranks: Ranks, folder: Path, run_folder: Path, log: Callable, report: Callable) -> None:
    """Train as the payload does, and write the weights that each process ends with."""
    from perturbridge_dagster.representation import training

    class Kept(training._Run):
        def go_on(self, log: Callable, report: Callable) -> None:
            super().go_on(log, report)
            torch.save(self.model.state_dict(), run_folder / f"weights {ranks.rank}.pt")

    training._Run = Kept  # type: ignore[misc]
    settings = replace(TINY, processes=2, steps=20, model=replace(TINY.model, dropout=0.3))
    training._fit(ranks, folder, settings, run_folder, Start(), None, log, report)


def test_all_processes_end_with_the_same_weights(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    run_together(weights_of, (additive_corpus.folder, tmp_path), 2, silent, silent)
    first, second = (torch.load(tmp_path / f"weights {rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(torch.equal(first[name], saved["model"][name]) for name in first)
    assert not torch.equal(*saved["random"]), "each process drops its own units"


def test_a_killed_process_ends_the_run_which_resumes_with_the_same_bits(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    settings = replace(TINY, processes=2, model=replace(TINY.model, dropout=0.3))

    def kill(line: str) -> None:
        if line.startswith("step 20 of"):
            os.kill(max(living_children()), signal.SIGKILL)

    with pytest.raises(PerturbridgeError, match=r"process \d of 2 was ended by SIGKILL.*the training goes on from there"):
        train(additive_corpus, settings, tmp_path / "killed", kill)
    assert not living_children()
    assert load_model(tmp_path / "killed" / "best.pt").step == 20
    lines: list[str] = []
    resumed = train(additive_corpus, settings, tmp_path / "killed", lines.append)
    assert "going on from step 20 of 40" in lines
    whole = train(additive_corpus, settings, tmp_path / "whole", silent)
    assert resumed.history.equals(whole.history)
    for name, tensor in whole.trained.model.state_dict().items():
        assert torch.equal(resumed.trained.model.state_dict()[name], tensor), name


def test_errors_of_input_are_those_of_one_process(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no such parts to freeze"):
        train(additive_corpus, replace(TINY, processes=2), tmp_path, silent, start=Start(frozen=("gene",)))
    with pytest.raises(InputError, match="0 processes were asked for"):
        train(additive_corpus, replace(TINY, processes=0), tmp_path, silent)


def test_errors_keep_what_they_say_on_their_way_between_processes() -> None:
    import pickle

    error = InputError("wrong", dataset="alpha", rows=[1, 2], expected="right")
    same = pickle.loads(pickle.dumps(error))
    assert (str(same), same.rows, same.dataset) == (str(error), ["1", "2"], "alpha")
