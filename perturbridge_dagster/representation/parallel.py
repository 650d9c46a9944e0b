"""Several processes that train one model together, on one machine.

Belongs here: starting and watching the processes, which device each has, and the sums they exchange. Does not belong here: what they
compute (``training.py``), or which items each takes (``batches.py``).

Rank and number of processes are told to whoever needs them, never asked from the environment: the published run asked in a place where
there was no process group, so that each of its 16 GPUs trained on all data.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessContext, ProcessException, start_processes

from perturbridge_dagster.errors import InputError, PerturbridgeError

Log = Callable[[str], None]
Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Attributes
    ----------
    device
        Where it computes.
    rank
        Its number, from 0.
    processes
        How many there are.
    """

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def sum(self, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Sum of an array over all processes, in float64."""
        if self.processes == 1:
            return numbers
        tensor = torch.from_numpy(numbers.copy()).to(self.device)
        distributed.all_reduce(tensor)
        total: np.ndarray[Any, np.dtype[np.float64]] = tensor.cpu().numpy()
        return total

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """A tensor of each process, by rank."""
        if self.processes == 1:
            return [tensor]
        gathered: list[Any] = [None] * self.processes
        distributed.all_gather_object(gathered, tensor)
        return gathered

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes; one that a process has not computed is zero there."""
        if self.processes == 1:
            return
        trained = list(parameters)
        flat = torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).reshape(-1) for each in trained])
        distributed.all_reduce(flat)
        for each, gradient in zip(trained, torch.split(flat, [each.numel() for each in trained]), strict=True):
            each.grad = gradient.view_as(each)


def device_of(rank: int, processes: int) -> torch.device:
    """The device of a process: a GPU of its own where there are any, else the CPU.

    Raises
    ------
    InputError
        If there are GPUs, but fewer than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.cuda.device_count() < processes:
        raise InputError(
            f"{processes} processes were asked for", expected=f"no more than the {torch.cuda.device_count()} GPUs that there are"
        )
    return torch.device("cuda", rank)


def run_together(function: Callable[..., Any], arguments: Sequence[Any], processes: int, log: Log, report: Report) -> Any:
    """Call a function in one or more processes that may exchange sums, and give what the first of them returns.

    Parameters
    ----------
    function
        Called as ``function(ranks, *arguments, log, report)``. With several processes it is one that can be imported, and its arguments
        can be pickled; log and report do nothing but in the first process.
    arguments
        The same for all.
    processes
        How many. One is this process.
    log, report
        Called in this process.

    Raises
    ------
    PerturbridgeError
        What any process raises; and if one is killed. All have ended then.
    """
    device = device_of(0, processes)
    if processes == 1:
        return function(Ranks(device), *arguments, log, report)
    pipes = [multiprocessing.get_context("spawn").Pipe(duplex=False) for _ in range(processes)]
    with TemporaryDirectory() as folder:
        meeting = (processes, str(Path(folder) / "meeting"), [writer for _, writer in pipes])
        together = start_processes(  # type: ignore[no-untyped-call]
            _rank, (*meeting, function, arguments), nprocs=processes, join=False, daemon=True
        )
        for _, writer in pipes:
            writer.close()
        heard = _Heard([reader for reader, _ in pipes], log, report)
        try:
            while not together.join(timeout=0):
                wait([*heard.readers, *together.sentinels])
                heard.listen()
        except ProcessException as error:
            heard.listen()
            raise heard.error or PerturbridgeError(_why_it_ended(together, error)) from error
        finally:
            _end(together)
        heard.listen()
    return heard.result


class _Heard:
    """What processes say."""

    def __init__(self, readers: list[Connection], log: Log, report: Report) -> None:
        self.readers = readers
        self.result: Any = None
        self.error: PerturbridgeError | None = None
        self._say: dict[str, Callable[[Any], None]] = {"log": log, "report": report}

    def listen(self) -> None:
        """Take what has been said, without waiting."""
        for reader in list(self.readers):
            try:
                while reader.poll():
                    kind, content = reader.recv()
                    if kind in self._say:
                        self._say[kind](content)
                    else:
                        setattr(self, kind, content)
            except (EOFError, ConnectionError):  # it has ended
                self.readers.remove(reader)


def _end(together: ProcessContext) -> None:
    """End processes that still run."""
    for process in together.processes:
        if process.is_alive():
            process.kill()
    for process in together.processes:
        process.join()


def _why_it_ended(together: ProcessContext, error: ProcessException) -> str:
    """Which process failed first, for a person: those that lose touch with a killed one fail, too."""
    codes = [process.exitcode for process in together.processes]
    for rank, code in enumerate(codes):
        if code is not None and code < 0 and -code not in (signal.SIGTERM, signal.SIGINT):
            name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
            return (
                f"process {rank + 1} of {len(codes)} was ended by {name}, so the others were ended, too. "
                "The last checkpoint is intact: the training goes on from there when it is asked for again."
            )
    return f"one of {len(codes)} processes failed: {error}"


def _rank(
    rank: int, processes: int, meeting: str, writers: Sequence[Connection], function: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    """Be one of the processes."""
    for other, writer in enumerate(writers):
        if other != rank:
            writer.close()
    say = writers[rank].send
    torch.set_num_threads(1)
    try:
        device = device_of(rank, processes)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=processes)
        tell = [lambda line: say(("log", line)), lambda numbers: say(("report", dict(numbers)))] if rank == 0 else [_nothing, _nothing]
        result = function(Ranks(device, rank, processes), *arguments, *tell)
        if rank == 0:
            say(("result", result))
        distributed.destroy_process_group()
    except PerturbridgeError as error:
        with suppress(OSError):
            say(("error", error))
        raise
    # all is said: a thread of torch's libraries that outlives the interpreter would abort the process while it is taken down
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _nothing(content: object) -> None:
    """Say nothing."""
