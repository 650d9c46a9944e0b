"""The platform's home: the one folder that everything is written to.

Belongs here: where it is, and the parts of it that more than one wing must find. Does not belong here: where outputs lie in it
(``resources/store.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from perturbridge_dagster.stages import STAGES

CHECKOUT = Path(__file__).resolve().parent.parent

CURRENT = "current.json"
"""In the folder of the outputs of a key: which of them is current."""


def default_home() -> Path:
    """Where everything is written: ``$PERTURBRIDGE_HOME``, else ``.perturbridge/`` in the checkout."""
    return Path(os.environ.get("PERTURBRIDGE_HOME") or CHECKOUT / ".perturbridge").resolve()


def native_folder(home: Path, dataset: str) -> Path:
    """Where the native files of a dataset lie that were fetched: beside what source_files records of them, not among it."""
    return home / "sources" / dataset / "native"


def outputs_folder(home: Path, stage: str, key: Iterable[str]) -> Path:
    """Folder that holds the outputs of a key of a stage, one folder a digest."""
    return home.joinpath(STAGES[stage].folder, *key)


def current_output(home: Path, stage: str, key: Iterable[str]) -> tuple[Path, str] | None:
    """Folder and digest of the current output of a key of a stage; None where none was published."""
    folder = outputs_folder(home, stage, key)
    try:
        pointer = json.loads((folder / CURRENT).read_text())
    except FileNotFoundError:
        return None
    return folder / pointer["output"], str(pointer["digest"])
