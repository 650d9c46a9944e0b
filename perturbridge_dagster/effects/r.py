"""R from Python: where our R code lies, which versions there are, and calling one function of it.

Belongs here: everything that knows of rpy2 or Rscript. Does not belong here: statistics (``R/limma.R``) and what goes in and comes
out of them (``limma.py``).
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.errors import PerturbridgeError

log = logging.getLogger("perturbridge")

R_PACKAGES = ("limma", "edgeR", "statmod")
"""R packages whose versions decide numbers; robust eBayes needs statmod."""

_HOW_TO_INSTALL = (
    "Debian and Ubuntu: apt install r-base-core r-bioc-limma r-bioc-edger r-cran-statmod. "
    "conda (conda-forge, bioconda): r-base bioconductor-limma bioconductor-edger r-statmod."
)


class RError(PerturbridgeError):
    """R or one of its packages is absent, or R stopped with an error."""


def r_source() -> Path:
    """Our R code: package data of an installed wheel, ``R/limma.R`` of a checkout.

    Raises
    ------
    RError
        If it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package, package.parent):
        source = folder / "R" / "limma.R"
        if source.is_file():
            return source
    raise RError(f"R/limma.R lies neither in {package} nor beside it; install perturbridge-dagster again.")


@cache
def r_versions() -> dict[str, str]:
    """Versions of R and of the packages that decide numbers, asked of ``Rscript`` once a process.

    Returns
    -------
    dict
        Keys ``R``, ``limma``, ``edgeR``, ``statmod``.

    Raises
    ------
    RError
        If R or a package is absent; says how to install it.
    """
    names = ", ".join(f'"{name}"' for name in R_PACKAGES)
    code = (
        'cat("R", paste(R.version$major, R.version$minor, sep = "."), "\\n"); '
        f"for (name in c({names})) if (nzchar(system.file(package = name))) "
        'cat(name, packageDescription(name, fields = "Version"), "\\n")'
    )
    try:
        answer = subprocess.run(["Rscript", "--no-init-file", "-e", code], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise RError(f"R is absent: no Rscript on the PATH. {_HOW_TO_INSTALL}") from error
    except subprocess.CalledProcessError as error:
        raise RError(f"Rscript does not run: {error.stderr.strip()}") from error
    versions = dict(line.split() for line in answer.stdout.splitlines())
    absent = [name for name in R_PACKAGES if name not in versions]
    if absent:
        raise RError(f"R {versions['R']} lacks {', '.join(absent)}. {_HOW_TO_INSTALL}")
    return versions


@cache
def _functions() -> Any:
    """Start R in this process and load our functions into an environment of their own."""
    r_versions()
    # ABI mode needs no compiler; rpy2 reads the variable when it is first imported
    os.environ.setdefault("RPY2_CFFI_MODE", "ABI")
    with _library_path_kept():
        import rpy2.rinterface as rinterface

        rinterface.initr()
    functions = rinterface.baseenv["new.env"](parent=rinterface.globalenv)
    rinterface.baseenv["sys.source"](str(r_source()), envir=functions)
    return functions


def r_code_version() -> str:
    """The versions of R and its packages as part of a stage's code version: other versions may give other numbers."""
    return ", ".join(f"{name} {version}" for name, version in r_versions().items())


@contextmanager
def _library_path_kept() -> Iterator[None]:
    """Undo what rpy2 does to LD_LIBRARY_PATH: programs started later, Python among them, would load libraries from R's path.

    This process has read the variable when it started, so R does not miss it.
    """
    before = os.environ.get("LD_LIBRARY_PATH")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("LD_LIBRARY_PATH", None)
        else:
            os.environ["LD_LIBRARY_PATH"] = before


@contextmanager
def _console_to_log() -> Iterator[None]:
    """Send what R prints to the log while the block runs."""
    from rpy2.rinterface_lib import callbacks

    def write(text: str) -> None:
        if text.strip():
            log.debug("R: %s", text.strip())

    names = ("consolewrite_print", "consolewrite_warnerror")
    before = {name: getattr(callbacks, name) for name in names}
    for name in names:
        setattr(callbacks, name, write)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(callbacks, name, function)


def _to_r(value: Any) -> Any:
    """An R vector of a float64 or integer array, or of a bool, int or str."""
    import rpy2.rinterface as rinterface

    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            return rinterface.FloatSexpVector.from_memoryview(np.ascontiguousarray(value, dtype=np.float64).data)
        return rinterface.IntSexpVector.from_memoryview(np.ascontiguousarray(value, dtype=np.intc).data)
    vectors = {bool: rinterface.BoolSexpVector, int: rinterface.IntSexpVector, str: rinterface.StrSexpVector}
    return vectors[type(value)]([value])


def _from_r(value: Any) -> NDArray[Any] | list[str]:
    """A float64, int32 or bool array, or a list of text, of an R vector."""
    import rpy2.rinterface as rinterface

    if isinstance(value, rinterface.StrSexpVector):
        return [str(text) for text in value]
    if isinstance(value, rinterface.BoolSexpVector):
        return np.array(value, dtype=bool)
    array = np.array(value.memoryview())
    if array.dtype.kind == "f":
        # R's NA is a signalling NaN, which raises a floating-point flag in every operation
        array[np.isnan(array)] = np.nan
    return array


def call_r(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call a function of ``R/limma.R`` that returns a named list of vectors.

    Parameters
    ----------
    name
        Name of the R function.
    arguments
        Its arguments by name: one-dimensional arrays (float64 or integer), or a bool, int or str. Matrices travel as vectors.

    Returns
    -------
    dict
        One array, or list of text, for each element of the list. R's NA is NaN.

    Raises
    ------
    RError
        If R or a package is absent, or R stops; carries R's words.
    """
    functions = _functions()
    import rpy2.rinterface as rinterface
    from rpy2.rinterface_lib.embedded import RRuntimeError

    try:
        with _console_to_log():
            answer = functions[name](**{key: _to_r(value) for key, value in arguments.items()})
            # R keeps the memory of a finished call until its next collection; a payload fits many strata in one process
            rinterface.baseenv["gc"]()
    except RRuntimeError as error:
        words = " ".join(str(error).split())
        raise RError(f"R stopped in {name}: {words.removeprefix('Error: ')}") from error
    return {key: _from_r(value) for key, value in zip(answer.names, answer, strict=True)}
