"""What the outputs of all tasks share: the stamp of what is made from stamped inputs, and where pictures lie.

Belongs here: writing that no task does otherwise than another. Does not belong here: which files an output has (``tasks.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import Stamp, read_stamp


def stamp_of(request: Request, inputs: Iterable[Stamp]) -> Stamp:
    """Stamp of a file made from stamped inputs; inputs that were used unaccepted taint it."""
    first, *others = inputs
    stamp = first.derived(request.task, request.code_version, request.digest, *others)
    return replace(stamp, unaccepted_inputs=tuple(sorted({*stamp.unaccepted_inputs, *request.arguments["unaccepted_inputs"]})))


def stamp_of_effects(request: Request) -> Stamp:
    """Stamp of what is made from all effects among the inputs of a request."""
    return stamp_of(request, [read_stamp(request.path(name) / "contrasts.parquet") for name in request.inputs if "/" in name])


def write_figure(folder: Path, name: str, png: bytes) -> None:
    """Write a picture into an output: ``figures/<name>``."""
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / name).write_bytes(png)
