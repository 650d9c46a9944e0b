"""Memory and time of harmonizing the two largest bulk datasets, from native files through the real entry points.

    python -m bench.harmonize                               # both, at their real size, one after the other
    python -m bench.harmonize l1000_phase1 --samples 30000  # one, smaller
    python -m bench.harmonize vcpi_0001 --genes-a-sample 20000
    python -m bench.harmonize vcpi_0001 --folder DIR        # files are written below DIR

Files of the size are written first (``native_files.py`` says what they are like): L1000 Phase I of 700,000 wells × 978 landmark genes in
GCTX, among as many wells that are dropped; VCPI-0001 of 28,788 samples × 78,778 genes in Parquet, of which 27,577 × 78,686 are kept, 10,000
genes a sample. Then, each in a process of its own:

- **harmonize**: ``sources.harmonize(dataset, folder)``, what a notebook calls;
- **task**: the task ``harmonized_samples`` as a payload runs it, with strata, tables, checksums and figure on disk.

Printed: seconds, and the peak memory of the whole process, imports included. Linux only: memory is read from /proc. Disk: 5 GB for L1000,
1 GB for VCPI, and as much again for what the task writes; all is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.process import memory

GIB = 2**30
TARGET_GIB = 6
SAMPLES = {"l1000_phase1": 700_000, "vcpi_0001": 28_788}
SIDES = ("harmonize", "task")


# ---- the sides, each in a process of its own ---------------------------------------------------------------------------------


def _harmonize(dataset: str, native: Path, folder: Path) -> dict[str, Any]:
    from perturbridge_dagster.sources import harmonize

    samples = harmonize(dataset, native)
    return {"shape": list(samples.shape), "on_disk": bool(samples.isbacked)}


def _task(dataset: str, native: Path, folder: Path) -> dict[str, Any]:
    from perturbridge_dagster.payloads.requests import Input, Request, execute
    from perturbridge_dagster.payloads.tasks import TASKS
    from perturbridge_dagster.registry import dataset as registered

    def made(task: str, inputs: dict[str, Input]) -> Path:
        request = Request(task, {"dataset": dataset, "unaccepted_inputs": []}, inputs, "bench", str(folder / task))
        outcome = execute(request, TASKS[task])
        if outcome.error:
            raise RuntimeError(outcome.error)
        return request.output

    registered(dataset)
    recorded = made("source_files", {"folder": Input(str(native), "native")})
    output = made("harmonized_samples", {"source_files": Input(str(recorded), "recorded")})
    strata = list((output / "strata").iterdir())
    return {"strata": len(strata), "largest_stratum_bytes": max(file.stat().st_size for file in strata)}


def measure(side: str, dataset: str, native: Path, folder: Path) -> dict[str, Any]:
    """Run a side in a process of its own.

    Parameters
    ----------
    side
        One of ``SIDES``.
    dataset
        Dataset id.
    native, folder
        Where its native files lie, and an empty folder for results.

    Returns
    -------
    ``seconds`` and ``peak_bytes``, and what the side says of its result.
    """
    command = [sys.executable, "-m", "bench.harmonize", dataset, "--side", side, "--native", str(native), "--folder", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[1])
    measured: dict[str, Any] = json.loads((folder / f"{side}.json").read_text())
    return measured


def _run_side(side: str, dataset: str, native: Path, folder: Path) -> None:
    start = time.perf_counter()
    result = {"harmonize": _harmonize, "task": _task}[side](dataset, native, folder)
    result |= {"seconds": time.perf_counter() - start, "peak_bytes": memory("VmHWM")}
    (folder / f"{side}.json").write_text(json.dumps(result))


# ---- command line ------------------------------------------------------------------------------------------------------------


def bench(dataset: str, n_samples: int, genes_a_sample: int | None, folder: Path) -> dict[str, dict[str, Any]]:
    """Write the files of a dataset, and run both sides on them.

    Parameters
    ----------
    dataset
        One of ``SAMPLES``.
    n_samples, genes_a_sample
        Size; genes a sample are for VCPI only.
    folder
        An empty folder.
    """
    from bench.native_files import write_l1000, write_vcpi

    native = folder / "native"
    native.mkdir()
    if dataset == "vcpi_0001":
        n_values = write_vcpi(native, n_samples, *([genes_a_sample] if genes_a_sample else []))
        print(f"{dataset}: {n_samples:,} samples, {n_values:,} counts that are not 0", flush=True)
    else:
        write_l1000(native, n_samples)
        print(f"{dataset}: {n_samples:,} wells and as many that are dropped", flush=True)
    size = sum(file.stat().st_size for file in native.iterdir()) / GIB
    print(f"{size:.2f} GiB of files; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    print(f"| | seconds | peak GiB of the process (target < {TARGET_GIB}) | result |\n|---|---:|---:|---|", flush=True)
    results = {}
    for side in SIDES:
        (folder / side).mkdir()
        results[side] = measure(side, dataset, native, folder / side)
        said = {name: value for name, value in results[side].items() if name not in ("seconds", "peak_bytes")}
        print(f"| {side} | {results[side]['seconds']:.0f} | {results[side]['peak_bytes'] / GIB:.2f} | {said} |", flush=True)
    print(flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the datasets that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.harmonize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", choices=list(SAMPLES), help="both by default")
    parser.add_argument("--samples", type=int, help="wells or sequenced samples; " + ", ".join(f"{n:,} of {d}" for d, n in SAMPLES.items()))
    parser.add_argument("--genes-a-sample", type=int, help="genes that a sample of VCPI detects; 10,000")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile; a temporary folder if not given")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--native", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.side:
        _run_side(asked.side, asked.dataset, asked.native, asked.folder)
        return
    for dataset in [asked.dataset] if asked.dataset else SAMPLES:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            bench(dataset, asked.samples or SAMPLES[dataset], asked.genes_a_sample, Path(folder))


if __name__ == "__main__":
    main()
