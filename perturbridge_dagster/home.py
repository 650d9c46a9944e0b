"""The platform's home: the one folder that everything is written to.

Belongs here: where it is, and the parts of it that more than one wing must find. Does not belong here: where outputs lie in it
(``resources/store.py``).
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def default_home() -> Path:
    """Where everything is written: ``$PERTURBRIDGE_HOME``, else ``.perturbridge/`` in the checkout."""
    return Path(os.environ.get("PERTURBRIDGE_HOME") or CHECKOUT / ".perturbridge").resolve()


def native_folder(home: Path, dataset: str) -> Path:
    """Where the native files of a dataset lie that were fetched: beside what source_files records of them, not among it."""
    return home / "sources" / dataset / "native"
