"""Compiling a numerical loop, in one way: what it may assume, where its machine code is kept, and how loops share the cores.

Belongs here: the decorator and the thread pool. Does not belong here: any loop.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., object])
Item = TypeVar("Item")


def _code_folder() -> Path:
    """Where machine code is kept: one folder for each state of the sources that hold loops.

    numba looks at the file of a function alone, so that a loop would go on with the old code of one it calls from another file.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        text = source.read_bytes()
        if b"@compiled" in text:
            digest.update(text)
    return Path(numba.config.CACHE_DIR or package / "__pycache__") / f"compiled-{digest.hexdigest()[:16]}"


numba.config.CACHE_DIR = str(_code_folder())


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers to machine code, kept on disk between processes.

    The function releases Python's lock, so that :func:`on_all_cores` runs it in parallel; division by zero gives NaN or infinity,
    as in NumPy.
    """
    made: Function = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return made


def n_cores() -> int:
    """Cores this process may use; on a cluster fewer than the machine has, whether or not SLURM holds its jobs to theirs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cores, int(given)) if given.isdigit() and int(given) else cores


def on_all_cores(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function for every item, on all cores. What is computed does not depend on how many there are.

    Parameters
    ----------
    function
        Writes its result where no other item's goes; must release Python's lock to gain anything.
    items
        One argument a call.
    """
    with ThreadPoolExecutor(n_cores()) as pool:
        for _ in pool.map(function, items):
            pass


@compiled
def _nothing() -> None:
    pass


# numba sets itself up in the first call, a third of a second in which it holds Python's lock and all threads wait
_nothing()
