"""Rows a second of loading and of training, beside a data loader over Parquet; and what the full corpus would take.

    python -m bench.training                                          # 40,000 conditions × 12,000 genes; about 5 minutes
    python -m bench.training --conditions 4000 --genes 3000 --seconds 2    # quicker
    python -m bench.training --conditions 410000 --genes 43500 --seconds 60 --folder DIR    # of the full size: 60 GB in DIR

**Corpus.** ``training_data.py`` says how it is simulated. The peer has the same train values in Parquet files as the published pipelines
do. All files are in the page cache where memory allows: they have just been written.

**Loading.** Batches of the scalar model are 16,384 values, those of the multi-output model 4,096 conditions, as published. Each side loads
for ``--seconds``, in turn, in this process without workers, after a first batch that is not counted; then the next, ``--repeats`` times;
printed is the median. *DataLoader* is ``torch.utils.data.DataLoader`` over an iterable dataset that reads files in random order, encodes
symbols, shuffles within a buffer of a million values and yields rows, which the loader collates: what one writes first. *DataLoader,
whole batches* has no step in Python for a row. For the multi-output model a row is a condition with its lists, shuffled within a file.

**Training.** Steps of the published models on batches that have been loaded before, and steps with loading as ``train`` does it, on the
GPU in bfloat16 where there is one, else on one thread of the CPU in float32. Loading must be twice as fast as steps alone. With a GPU, its
utilisation is what nvidia-smi says while steps with loading run.

**Projection.** The scalar model: 25 epochs of 1.71 billion values; published 21 h on 16 GPUs that each read all data. The multi-output
model: 200 epochs of 373,000 conditions, from the values a second that were measured, since a condition of the full corpus has more genes;
published 17 to 22 job-hours for ten seeds, so about 2 h a training.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.training_data import list_loader, long_loader, simulate, write_lists, write_long_table
from perturbridge_dagster.compiled import n_cores
from perturbridge_dagster.representation.batches import Batches, ProfileBatch, ValueBatch
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.determinism import deterministic
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies, encode_split
from perturbridge_dagster.representation.models import MODELS, ConditionTensors
from perturbridge_dagster.representation.settings import PUBLISHED, PUBLISHED_MULTI_OUTPUT, TrainingSettings

FASTER_TARGET, AHEAD_TARGET = 5, 2
"""Times as many rows a second as the data loader, and as steps alone."""

SETTINGS = {"scalar_lpm": PUBLISHED, "multi_output_lpm": PUBLISHED_MULTI_OUTPUT}
BATCHES = {"scalar_lpm": "values", "multi_output_lpm": "conditions"}
FULL_VALUES = {"scalar_lpm": 25 * 104_456 * 16_384, "multi_output_lpm": 200 * 3_650_000_000}
"""Values of a whole training: the published steps; and 200 epochs of nine tenths of four billion values."""

PUBLISHED_HOURS = {"scalar_lpm": "21 h on 16 GPUs", "multi_output_lpm": "about 2 h on 2 GPUs, 17 to 22 job-hours for ten seeds"}
_HELD = 8
"""Batches that steps without loading go through."""

Batch = ValueBatch | ProfileBatch


# ---- loading -----------------------------------------------------------------------------------------------------------------


def rate(batches: Iterator[Any], count: Callable[[Any], tuple[int, int]], seconds: float) -> dict[str, float]:
    """Rows and values a second of an iterator, after its first batch.

    Parameters
    ----------
    batches
        Without end, or begun anew by the caller when it ends.
    count
        Rows, and values, of a batch.
    seconds
        How long to draw.
    """
    next(batches)
    start, rows, values = time.perf_counter(), 0, 0
    while (elapsed := time.perf_counter() - start) < seconds:
        of_batch = count(next(batches))
        rows, values = rows + of_batch[0], values + of_batch[1]
    return {"rows": rows / elapsed, "values": values / elapsed}


def _again(loader: Any) -> Iterator[Any]:
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _of_ours(batch: Batch) -> tuple[int, int]:
    rows = batch.n_mine if isinstance(batch, ValueBatch) else sum(len(part.condition) for part in batch.profiles)
    return rows, batch.n_mine


def loading(
    corpus: StoredCorpus,
    train: EncodedSplit,
    vocabularies: Vocabularies,
    folder: Path,
    seconds: float,
    repeats: int,
    batch_sizes: dict[str, int],
) -> dict[str, dict[str, dict[str, float]]]:
    """Rates of all sides for each model, in turn; medians over the repeats.

    Parameters
    ----------
    corpus, train, vocabularies
        What is loaded.
    folder
        Where the peer's files go.
    seconds, repeats
        Of each measurement.
    batch_sizes
        Model → rows a batch.
    """
    long_files, list_files = write_long_table(corpus, folder / "long"), write_lists(train, folder / "lists")
    size, n_conditions = batch_sizes["scalar_lpm"], batch_sizes["multi_output_lpm"]
    sides: dict[str, dict[str, Callable[[], tuple[Iterator[Any], Callable[[Any], tuple[int, int]]]]]] = {
        "scalar_lpm": {
            "ours": lambda: (Batches(train, "values", size, 1).from_step(0), _of_ours),
            "DataLoader": lambda: (
                _again(long_loader(long_files, vocabularies, size, rows=True)),
                lambda batch: (len(batch["value"]),) * 2,
            ),
            "DataLoader, whole batches": lambda: (
                _again(long_loader(long_files, vocabularies, size, rows=False)),
                lambda batch: (len(batch["value"]),) * 2,
            ),
        },
        "multi_output_lpm": {
            "ours": lambda: (Batches(train, "conditions", n_conditions, 1).from_step(0), _of_ours),
            "DataLoader": lambda: (
                _again(list_loader(list_files, n_conditions)),
                lambda batch: (len(batch["length"]), len(batch["values"])),
            ),
        },
    }
    runs = [{model: {side: rate(*made(), seconds) for side, made in of.items()} for model, of in sides.items()} for _ in range(repeats)]
    return {
        model: {side: {unit: median(run[model][side][unit] for run in runs) for unit in ("rows", "values")} for side in of}
        for model, of in sides.items()
    }


# ---- training ----------------------------------------------------------------------------------------------------------------


def training(train: EncodedSplit, vocabularies: Vocabularies, settings: TrainingSettings, seconds: float) -> dict[str, Any]:
    """Rates of steps alone, and of steps with loading, as ``train`` does them.

    Parameters
    ----------
    train, vocabularies
        What is learned.
    settings
        Of the model; precision is that of the device.
    seconds
        Of each measurement.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = replace(settings, precision="bfloat16" if device.type == "cuda" else "float32")
    with deterministic(device):
        torch.manual_seed(settings.seed)
        model = MODELS[settings.architecture](vocabularies, settings.model).to(device).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        conditions = ConditionTensors.of(train.encoded, device)

        def step(batch: Batch) -> tuple[int, int]:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                error = model.squared_error(conditions, batch)
            optimiser.zero_grad(set_to_none=True)
            (error / batch.n_values).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return _of_ours(batch)

        batches = Batches(train, model.item, settings.batch_size, settings.seed, threads=4 if device.type == "cuda" else 0)
        held = list(itertools.islice(batches.from_step(0), min(_HELD, batches.per_epoch)))
        step(held[0])
        alone = rate(itertools.cycle(held), step, seconds)
        with utilisation(device) as used:
            together = rate(batches.from_step(0), step, seconds)
    return {"device": device.type, "precision": settings.precision, "steps": alone, "with_loading": together, "utilisation": used}


@contextmanager
def utilisation(device: torch.device) -> Iterator[list[float]]:
    """What nvidia-smi says, twice a second, while the block runs; nothing without a GPU."""
    used: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--id={device.index or 0}"]
            used.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()))

    looking = threading.Thread(target=look, daemon=True)
    if device.type == "cuda":
        looking.start()
    try:
        yield used
    finally:
        over.set()
        if device.type == "cuda":
            looking.join()


# ---- command line ------------------------------------------------------------------------------------------------------------


def measure(
    n_conditions: int, n_genes: int, folder: Path, seconds: float, repeats: int, batch_sizes: dict[str, int] | None = None
) -> dict[str, Any]:
    """Everything on one corpus.

    Parameters
    ----------
    n_conditions, n_genes
        Its size.
    folder
        An empty folder.
    seconds, repeats
        Of each measurement.
    batch_sizes
        Model → rows a batch; the published ones unless given.
    """
    sizes = batch_sizes or {model: settings.batch_size for model, settings in SETTINGS.items()}
    corpus = simulate(n_conditions, n_genes, folder / "corpus")
    vocabularies = corpus.vocabularies()
    train = encode_split(corpus, "train", vocabularies)
    load_before = os.getloadavg()[0]
    loaded = loading(corpus, train, vocabularies, folder, seconds, repeats, sizes)
    trained = {
        model: training(train, vocabularies, replace(settings, batch_size=sizes[model]), seconds) for model, settings in SETTINGS.items()
    }
    shape = {
        "conditions": len(train.conditions),
        "genes": len(vocabularies.readout),
        "values": len(train),
        "datasets_contexts": len(corpus.shards),
    }
    return {"shape": shape, "loading": loaded, "training": trained, "batch_sizes": sizes, "load": (load_before, os.getloadavg()[0])}


def print_measured(result: dict[str, Any]) -> None:
    """Tables of what was measured, the targets beside it, and the projection."""
    shape = result["shape"]
    print(
        f"{shape['values']:,} train values of {shape['conditions']:,} conditions and {shape['genes']:,} genes; {n_cores()} cores, load "
        f"{result['load'][0]:.1f} before and {result['load'][1]:.1f} after; torch {version('torch')}, pyarrow {version('pyarrow')}\n"
    )
    for model, sides in result["loading"].items():
        print(f"{model}: batches of {result['batch_sizes'][model]:,} {BATCHES[model]}\n")
        print("| loading | rows/s | values/s | ours is faster | target |\n| --- | ---: | ---: | ---: | ---: |")
        ours = sides["ours"]["rows"]
        for side, rates in sides.items():
            ratio = "" if side == "ours" else f"{ours / rates['rows']:.1f}"
            target = f"≥ {FASTER_TARGET}" if side == "DataLoader" else ""
            print(f"| {side} | {rates['rows']:,.0f} | {rates['values']:,.0f} | {ratio} | {target} |")
        of = result["training"][model]
        print(f"\n| training, {of['device']}, {of['precision']} | rows/s | values/s | loading is faster | target |")
        print("| --- | ---: | ---: | ---: | ---: |")
        print(
            f"| steps alone | {of['steps']['rows']:,.0f} | {of['steps']['values']:,.0f} | {ours / of['steps']['rows']:.1f} | "
            f"≥ {AHEAD_TARGET} |\n| with loading | {of['with_loading']['rows']:,.0f} | {of['with_loading']['values']:,.0f} | | |\n"
        )
        if of["utilisation"]:
            print(f"GPU utilisation with loading: median {median(of['utilisation']):.0f} %\n")
        hours = FULL_VALUES[model] / of["with_loading"]["values"] / 3600
        print(f"projected for the full corpus on this one device: {hours:,.1f} h; published: {PUBLISHED_HOURS[model]}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conditions", type=int, default=40_000)
    parser.add_argument("--genes", type=int, default=12_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side of loading")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile; a temporary folder if not given")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        print_measured(measure(asked.conditions, asked.genes, Path(name), asked.seconds, asked.repeats))


if __name__ == "__main__":
    main()
