"""Torch held still: equal input gives equal bits on a CPU, and what the caller had is put back afterwards.

Belongs here: settings of torch that decide whether sums have one order. Does not belong here: training (``training.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms inside, and the caller's settings and random state back afterwards.

    One CPU thread: sums then have one order whatever the machine, and a busy machine is not slowed further by threads that wait for
    each other (four times, measured on two shared cores).
    """
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    was_benchmark = torch.backends.cudnn.benchmark
    was_filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    n_threads = torch.get_num_threads()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        try:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic only so
            torch.use_deterministic_algorithms(True)
            torch.set_num_threads(1)
            torch.backends.cudnn.benchmark = False
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads such memory
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic, warn_only=was_warning)
            torch.backends.cudnn.benchmark = was_benchmark
            torch.utils.deterministic.fill_uninitialized_memory = was_filling  # type: ignore[attr-defined]
            torch.set_num_threads(n_threads)
            if workspace is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
            else:
                os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
