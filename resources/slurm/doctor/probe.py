"""What the doctor runs on a compute node: says what is there, as JSON.

It is copied to the shared folder and run by the environment's Python, so it must start where nothing of this project is installed.
Belongs here: looking with the standard library, and trying imports. Does not belong here: judging (``node.py``).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PACKAGES = ("dagster-pipes", "numpy", "scipy", "pandas", "pyarrow", "anndata", "torch")
"""Packages that decide numbers or what files look like, and the one that reports to Dagster."""


def digest_of_code(package: Path, others: Iterable[Path] = ()) -> str:
    """SHA-256 of the Python files of a package and of some other files, by name and content."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    for file in others:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def domain() -> dict[str, str]:
    """Where the domain lies, and the digest of its code."""
    importlib.import_module("perturbridge_dagster.payloads.run")
    effects_r = importlib.import_module("perturbridge_dagster.effects.r")
    package = Path(effects_r.__file__ or "").resolve().parents[1]
    return {"folder": str(package), "code": digest_of_code(package, [effects_r.r_source()])}


def r_versions() -> dict[str, str]:
    """Versions of R and its packages."""
    versions: dict[str, str] = importlib.import_module("perturbridge_dagster.effects.r").r_versions()
    return versions


def packages() -> dict[str, str]:
    """Versions of the Python packages; empty words where one is not installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def could_lock(file: Path) -> bool:
    """Whether a lock that another machine holds could be taken here too."""
    with file.open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def tried(look: Callable[[], Any]) -> dict[str, Any]:
    """What a look found, or what it raised."""
    try:
        return {"found": look()}
    except Exception as error:  # noqa: BLE001 - whatever goes wrong on the node is what the doctor must hear
        return {"error": f"{type(error).__name__}: {error}"}


def main(answer: Path, home_file: Path, lock: Path) -> None:
    """Look at everything and write it down."""
    seen = {
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "home": tried(home_file.read_text),
        "could_lock": tried(lambda: could_lock(lock)),
        "domain": tried(domain),
        "r": tried(r_versions),
        "packages": tried(packages),
        "time": time.time(),
    }
    aside = answer.with_suffix(".partial")
    aside.write_text(json.dumps(seen))
    aside.replace(answer)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
