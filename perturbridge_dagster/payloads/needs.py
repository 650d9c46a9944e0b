"""What a request needs of a machine: memory, time, CPUs and GPUs, from the shape of its inputs.

A sum of few terms a task: a constant, and coefficients times sizes of the inputs. They are fitted to measured runs by ``bench/needs.py``
and lie in ``needs.json``; docs/compute-needs.md has the runs, the margins and what was not measured. Reads tables of shapes, headers and
file sizes, never values. Belongs here: the sizes of a task's inputs, the model, and what follows for several requests or after a
failure. Does not belong here: what a site allows or overrides (``resources/slurm/settings.py``), or asking for it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from perturbridge_dagster.payloads.requests import Request

log = logging.getLogger("perturbridge")

GIB = 2**30

MEMORY_MARGIN, TIME_MARGIN = 1.3, 3.0
"""Times what the model predicts that is asked for. Time has more: machines differ in speed, and file systems in load."""

KEPT_MEMORY = GIB / 4
"""Memory that is asked for on top: a payload keeps the libraries that its earlier requests have loaded."""

START_SECONDS = 300.0
"""Time for the start of Python and R, and for compilation where a node has never done it; asked for once a payload."""

SMALLEST_SECONDS = 3.0
"""Asked for each request at least, since a file system may be slow."""

SECONDS_A_CPU = 120.0
"""One more CPU is asked for with every so many seconds, up to as many as the task makes use of."""

Sizes = Mapping[str, float]


@dataclass(frozen=True)
class Needs:
    """What a payload asks of a machine.

    Attributes
    ----------
    memory_bytes
        Most memory it may use. Unit: bytes.
    seconds
        Longest it may run. Unit: seconds.
    cpus
        CPUs.
    gpus
        GPUs.
    """

    memory_bytes: int
    seconds: float
    cpus: int
    gpus: int = 0

    def raised(self, failure: str) -> Needs:
        """What to ask for after a failure.

        Parameters
        ----------
        failure
            Class of the failure: ``"out_of_memory"`` doubles the memory, ``"timeout"`` the time; ``"node_failure"`` and ``"preempted"``
            ask for the same again.

        Raises
        ------
        ValueError
            If more resources cannot mend such a failure.
        """
        if failure == "out_of_memory":
            return replace(self, memory_bytes=2 * self.memory_bytes)
        if failure == "timeout":
            return replace(self, seconds=2 * self.seconds)
        if failure in ("node_failure", "preempted"):
            return self
        raise ValueError(f"a {failure} is not mended by more memory or time")


def joint(needs: Iterable[Needs]) -> Needs:
    """Needs of a payload that makes several requests, one after the other: the most memory, CPUs and GPUs of any, and all their time.

    Parameters
    ----------
    needs
        Of one request or more, as :func:`needs_of` gives them. The start of the payload is added here, once.
    """
    several = list(needs)
    return Needs(
        max(one.memory_bytes for one in several),
        START_SECONDS + sum(one.seconds for one in several),
        max(one.cpus for one in several),
        max(one.gpus for one in several),
    )


_TRAINING = ("compound_embeddings", "holdout_evaluation", "op3_evaluation")
"""Tasks that train."""


def needs_of(request: Request) -> Needs:
    """What a request needs, from the sizes of its inputs.

    Where these cannot be read, the least that its task needs: the task itself then says what is wrong with them.

    Parameters
    ----------
    request
        Of any task.
    """
    try:
        sizes = sizes_of(request)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s: the sizes of its inputs are not known (%s), so the least is asked for", request.task, error)
        sizes = {}
    # of the published size, training is for a GPU; a small one is done before a GPU is free
    processes = int(request.arguments.get("processes", 1))
    gpus = processes if request.task in _TRAINING and request.arguments.get("settings") == "published" else 0
    return replace(from_sizes(request.task, sizes), gpus=gpus)


def from_sizes(task: str, sizes: Sizes) -> Needs:
    """What a task needs for inputs of these sizes, margins included.

    Parameters
    ----------
    task
        Name of the task.
    sizes
        Term → size, as :func:`sizes_of` gives them; one that is not there counts as 0.
    """
    model = _MODELS[task]
    coefficients = _coefficients()[model.coefficients] if isinstance(model.coefficients, str) else model.coefficients
    sizes = {**sizes, **bounded(sizes)}
    memory, seconds = (
        sum(coefficient * (1.0 if term == CONSTANT else sizes.get(term, 0.0)) for term, coefficient in coefficients[of].items())
        for of in ("memory", "seconds")
    )
    asked_seconds = max(SMALLEST_SECONDS, TIME_MARGIN * seconds)
    return Needs(round(MEMORY_MARGIN * memory + KEPT_MEMORY), asked_seconds, min(model.cpus, math.ceil(asked_seconds / SECONDS_A_CPU)))


def sizes_of(request: Request) -> Sizes:
    """Sizes of a request's inputs by term.

    Parameters
    ----------
    request
        Of any task.

    Raises
    ------
    OSError, ValueError, KeyError
        If a file is not there, or is not what the task expects.
    """
    return _MODELS[request.task].sizes(request)


# ---- sizes -------------------------------------------------------------------------------------------------------------------

CONSTANT = "1"


def _rows(file: Path) -> int:
    """Rows of a Parquet file."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def _file_bytes(request: Request) -> Sizes:
    """Bytes of the files that are there."""
    return {"bytes": float(sum(file.stat().st_size for file in request.path("folder").rglob("*") if file.is_file()))}


def _native(request: Request) -> Sizes:
    """Wells of GCTX files; cells, and the most of one file, where obs are cells; bytes of what else there is."""
    import h5py
    import pyarrow.parquet as pq

    from perturbridge_dagster.registry import dataset as registered

    recorded = request.path("source_files")
    location = Path(json.loads((recorded / "source_files.json").read_text())["folder"])
    files = pq.read_table(recorded / "source_files.parquet", columns=["name", "bytes"]).to_pylist()
    of_cells = registered(request.arguments["dataset"]).effects.min_cells > 0
    sizes = dict.fromkeys(("wells", "cells", "most_cells", "bytes"), 0.0)
    for file in files:
        path = location / file["name"]
        if path.suffix == ".gctx":
            with h5py.File(path) as opened:
                sizes["wells"] += max(opened["0/DATA/0/matrix"].shape)
        elif path.suffix == ".h5ad" and of_cells:
            with h5py.File(path) as opened:
                n = float(_samples_and_values(opened)[0])
            sizes["cells"] += n
            sizes["most_cells"] = max(sizes["most_cells"], n)
        else:
            sizes["bytes"] += file["bytes"]
    return sizes


def _samples_and_values(file: Any) -> tuple[int, int]:
    """Rows of X of an open h5ad, and the values that are stored of it."""
    matrix = file["X"]
    if hasattr(matrix, "shape"):
        return int(matrix.shape[0]), int(matrix.shape[0] * matrix.shape[1])
    shape = matrix.attrs["shape"] if "shape" in matrix.attrs else matrix.attrs["h5sparse_shape"]
    return int(shape[0]), int(matrix["data"].shape[0])


def _stratum(request: Request) -> Sizes:
    """Values of a stratum's samples, and contrasts × genes that a sample has values of; counts and normalized values apart."""
    import h5py
    import pyarrow.parquet as pq

    file = request.path("samples")
    [row] = pq.read_table(file.parent.parent / "strata.parquet", filters=[("stratum", "=", request.arguments["stratum"])]).to_pylist()
    n_contrasts = row["n_conditions"] if request.arguments["replicates"] == "grouped" else row["n_treated"]
    with h5py.File(file) as opened:
        n_samples, n_values = _samples_and_values(opened)
    kind = "normalized" if request.arguments["normalized"] else "counts"
    # which genes are tested is not known before; about as many as a sample has counts of, or twice that
    return {kind: float(n_values), f"contrasts_{kind}": n_contrasts * n_values / n_samples}


STREAMED = 1e8
"""Contrasts × genes beyond which effects take no more memory, since they are streamed to disk."""

IN_BLOCKS = 2.0**24
"""Contrasts × genes beyond which what is made of effects takes little more memory, since it goes through them in blocks."""


def bounded(sizes: Sizes) -> Sizes:
    """Contrasts × genes as far as they count for memory: no more than :data:`STREAMED`, and of stored effects :data:`IN_BLOCKS`."""
    of_strata = {f"streamed_{kind}": min(sizes.get(f"contrasts_{kind}", 0.0), STREAMED) for kind in ("counts", "normalized")}
    return {**of_strata, "effects_in_blocks": min(sizes.get("most_effects", 0.0), IN_BLOCKS)}


def _contrasts_genes(folder: Path) -> float:
    """Contrasts × genes of stored effects."""
    return float(_rows(folder / "contrasts.parquet") * _rows(folder / "genes.parquet"))


def _effects(request: Request) -> Sizes:
    """Contrasts × genes of all effects, and the most of one stratum."""
    of_strata = [_contrasts_genes(Path(input_.path)) for name, input_ in request.inputs.items() if "/" in name]
    return {"effects": sum(of_strata), "most_effects": max(of_strata, default=0.0)}


def _matched(request: Request) -> Sizes:
    """Those of :func:`_effects`, and matches × genes."""
    folders = [Path(input_.path) for name, input_ in request.inputs.items() if "/" in name]
    genes = max(_rows(folder / "genes.parquet") for folder in folders)
    return {**_effects(request), "matches": float(genes * _rows(request.path("matched") / "matched.parquet"))}


def _published(request: Request) -> Sizes:
    """Contrasts × genes of our effects, and bytes of the published files."""
    files = [request.path("published") / name for name in request.arguments["files"]]
    return {"effects": _contrasts_genes(request.path("effects")), "bytes": float(sum(file.stat().st_size for file in files))}


def _op3(request: Request) -> Sizes:
    """Fits of networks: members of both stages × repetitions × runs, once more to choose epochs, for each descriptor and mode."""
    from perturbridge_dagster.representation.op3.members import SETTINGS

    settings = SETTINGS[request.arguments["settings"]]
    members = len(settings.stage_one) + len(settings.stage_two)
    descriptors = 1 + len(settings.modes) * (1 + len(request.arguments["corpora"]))
    return {"fits": float(members * settings.repetitions * (len(settings.seeds) + 1) * descriptors)}


def _corpus(request: Request) -> Sizes:
    """Values of a corpus."""
    import pyarrow.parquet as pq

    shards = pq.read_table(request.path("corpus") / "shards.parquet", columns=["n_values"])
    return {"values": float(sum(shards["n_values"].to_pylist()))}


_PASSES = {"molecules": 16_000, "parents": 16_000}
"""Split rule → passes over the corpus of its published study: 200 epochs of ten seeds of eight variants, of which those of a target are
trained on a part each. The other rules have 200 epochs of ten seeds of one model, and 25 of another."""


def _holdout(request: Request) -> Sizes:
    """Values of a corpus, and how often they are trained on in all, where that is more than a few times."""
    sizes = _corpus(request)
    passes = _PASSES.get(request.arguments["rule"], 2_025) if request.arguments["settings"] == "published" else 0
    return {**sizes, "values_trained": passes * sizes["values"]}


# ---- the model ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """Which sizes a task has; the coefficients, by their name in ``needs.json``, or assumed ones where nothing was measured; most CPUs."""

    sizes: Callable[[Request], Sizes]
    coefficients: str | Mapping[str, Sizes]
    cpus: int = 2


_MODELS = {
    # read once, at a tenth of what a disk gives; what is yet to be fetched is not known
    "source_files": _Model(_file_bytes, {"memory": {CONSTANT: 0.6 * GIB}, "seconds": {CONSTANT: 20.0, "bytes": 2e-8}}, cpus=1),
    "harmonized_samples": _Model(_native, "harmonized_samples"),
    "condition_effects": _Model(_stratum, "effects", cpus=4),
    "replicate_effects": _Model(_stratum, "effects", cpus=4),
    "matched_conditions": _Model(_effects, {"memory": {CONSTANT: 0.6 * GIB}, "seconds": {CONSTANT: 2.0}}, cpus=1),
    "cross_dataset_agreement": _Model(_matched, "cross_dataset_agreement"),
    "replicate_agreement": _Model(_effects, "replicate_agreement"),
    "compendium_agreement": _Model(
        _effects, {"memory": {CONSTANT: 2.0 * GIB, "effects": 1.0}, "seconds": {CONSTANT: 120.0, "effects": 2e-6}}, cpus=4
    ),
    "published_comparison": _Model(
        _published, {"memory": {CONSTANT: 1.5 * GIB, "bytes": 2.0}, "seconds": {CONSTANT: 30.0, "effects": 2e-6, "bytes": 1e-7}}
    ),
    "training_corpus": _Model(_effects, "training_corpus"),
    "compound_embeddings": _Model(_corpus, "compound_embeddings", cpus=4),
    "representation_report": _Model(lambda _: {}, {"memory": {CONSTANT: 1.0 * GIB}, "seconds": {CONSTANT: 20.0}}, cpus=1),
    "holdout_evaluation": _Model(_holdout, "holdout_evaluation", cpus=4),
    "op3_evaluation": _Model(_op3, {"memory": {CONSTANT: 3.0 * GIB}, "seconds": {CONSTANT: 30.0, "fits": 0.5}}),
}

TERMS = (
    "wells",
    "cells",
    "most_cells",
    "bytes",
    "counts",
    "contrasts_counts",
    "normalized",
    "contrasts_normalized",
    "effects",
    "most_effects",
    "matches",
    "values",
    "values_trained",
    "fits",
)
"""Sizes of inputs."""

MEMORY_TERMS = (
    "wells",
    "most_cells",
    "bytes",
    "counts",
    "streamed_counts",
    "normalized",
    "streamed_normalized",
    "most_effects",
    "effects_in_blocks",
    "values",
)
SECONDS_TERMS = (
    "wells",
    "cells",
    "bytes",
    "counts",
    "contrasts_counts",
    "normalized",
    "contrasts_normalized",
    "effects",
    "matches",
    "values",
)
"""Sizes that memory and time may depend on."""


def fitted_models() -> dict[str, tuple[str, ...]]:
    """Name in ``needs.json`` → the tasks that share these coefficients."""
    named = {model.coefficients for model in _MODELS.values() if isinstance(model.coefficients, str)}
    return {name: tuple(task for task, model in _MODELS.items() if model.coefficients == name) for name in sorted(named)}


@cache
def _coefficients() -> dict[str, dict[str, dict[str, float]]]:
    """Coefficients that ``bench/needs.py`` has fitted: model → memory (bytes a unit) and seconds → term → coefficient."""
    found: dict[str, dict[str, dict[str, float]]] = json.loads(Path(__file__).with_name("needs.json").read_text())
    return found
