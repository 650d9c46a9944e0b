"""Time and memory of the effects: beside limma, on the published shapes, and on the largest stratum of counts.

    python -m bench.effects headline                       # R limma and ours, same machine, same data, same run
    python -m bench.effects headline --blas /path/to/openblas/libblas.so.3
    python -m bench.effects replay --budget 60             # the published compendium in whole strata, both modes
    python -m bench.effects replay --shapes vcpi_0001      # only shapes whose name has this in it, whatever the budget
    python -m bench.effects replay --list                  # names and sizes of all shapes
    python -m bench.effects report                         # what was measured so far, as Markdown
    python -m bench.effects vcpi --replicates grouped      # VCPI-0001 from its h5ad to its stored effects, memory by step

**headline.** A published batch of VCPI-0001: 3,118 samples, 1,343 columns of the design. The same simulated counts go to both sides. R
runs filterByExpr, calcNormFactors, voom, then lmFit on as many genes as fit into ``--seconds``; its cost a gene is the slope between 4
genes and these. Then contrasts.fit and eBayes(robust=TRUE) as the published runs call them, one contrast at a time. Ours runs whole.
Coefficients of all contrasts are compared on the genes that R fitted, which proves data and weights to be the same. R is as fast as its
BLAS: with OpenBLAS lmFit takes a third of what it takes with the reference BLAS. So the one it ran on is printed, and ``--blas`` gives
it another. Only some thousand genes, drawn from all, are given, since neither side's cost of a gene depends on the others.

**replay.** Every shape of the published jobs, its batches merged (``shapes.py``), is simulated (``simulate.py``) with all its samples and
all its genes, and fitted and written by ``estimate_effects`` and ``write_effects`` in a process of its own. Timed in full: design,
checks, filter, TMM, both passes of voom and fit, lowess, squeezeVar. Refits with contrasts, P values, adjustment and storage are timed in
full up to ``--values`` contrasts × genes; beyond, on two numbers of genes (random ones: simulated genes are in no order), and scaled
from the larger; the cost of a gene at both is printed. BH across all contrasts is scaled as n log n. Simulation, start of Python and R,
and compilation are not in the seconds. Peak memory is that of the whole process, simulation included.
One JSON file a shape lies in ``--results``; a shape that has one is not measured again. Shapes run in this order: the largest of each
dataset and mode, smallest first; then the middle one of each; then all others, largest first. No shape is begun after ``--budget`` minutes.
What was not measured is extrapolated step by step from the nearest in size of its dataset and mode: by values given, by tested genes ×
samples, by contrasts × tested genes. The report keeps measured and extrapolated apart. "Published" are hours of the published runs on
other machines, their padding and repeated controls included.

**vcpi.** Writes the whole stratum (27,577 samples × 78,677 genes) as the platform's h5ad, block by block, then, in a process of its own,
does what the effects task does: reads it, checks its content, estimates, writes. It refuses to begin without disk for it.

Linux only: memory is read from /proc. R's side needs R with limma, edgeR and statmod.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import steps
from bench.process import machine, memory
from bench.shapes import Shape, read_jobs, whole_strata
from bench.simulate import simulated_stratum, write_stratum
from perturbridge_dagster.effects.design import Replicates

if TYPE_CHECKING:
    import anndata as ad

    from perturbridge_dagster.effects.table import EffectTable
    from perturbridge_dagster.written import Stamp

CHECKOUT = Path(__file__).resolve().parents[1]
JOBS = CHECKOUT.parent / "shared" / "bench" / "published_limma_jobs.csv"
RESULTS = Path(os.environ.get("PERTURBRIDGE_HOME", CHECKOUT / ".perturbridge")) / "bench" / "effects"
GIB = 2**30

FIT_TARGET = 10_000
"""Times lmFit that the fit is to be."""

TABLE_TARGET = 1_000
"""Times the published hours of VCPI-0001 that filter to table is to be."""

COMPENDIUM_TARGET_H = 3.0
"""Hours for the whole compendium in both modes on two cores; the next aim is one."""

_TILE_GENES = 500
"""Genes on subsets are multiples of a tile."""

_DISK_A_VALUE = 60
"""Bytes of disk a contrast × gene while effects are written, with the result."""


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table; numbers to the right."""
    print(f"| {' | '.join(header)} |")
    print(f"|{'|'.join([' --- ', *[' ---: '] * (len(header) - 1)])}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print(flush=True)


def _write(path: Path, result: dict[str, Any]) -> None:
    from perturbridge_dagster.written import write_json

    write_json(path, result)


def _child(*arguments: str) -> None:
    """Run a part of this bench in a process of its own."""
    subprocess.run([sys.executable, "-m", "bench.effects", *arguments], check=True, cwd=CHECKOUT)


def _stamp(shape: Shape) -> Stamp:
    from perturbridge_dagster.written import Stamp

    return Stamp("condition_effects", "bench", "bench", (shape.dataset,), "open", simulated=True)


# ---- one shape ---------------------------------------------------------------------------------------------------------------


def _warm_up() -> None:
    """Start R and load compiled code, which a payload does once for many strata."""
    from perturbridge_dagster.effects import estimate_effects, write_effects

    for dataset in ("op3", "l1000_phase1"):
        shape = Shape(dataset, 0, "warm", "grouped", 60, 20, 8, 3, 1, 400, 1, {}, False)
        with tempfile.TemporaryDirectory() as folder:
            table = estimate_effects(simulated_stratum(shape), normalized=shape.normalized)
            # little memory, so that P values are adjusted group by group, as those of a large table are
            write_effects(table, Path(folder), _stamp(shape), memory=2**17)


def genes_of_subset(n_contrasts: int, n_tested: int, most_values: int) -> list[int]:
    """How many genes the tables are timed on: all, or half a subset and the subset.

    Parameters
    ----------
    n_contrasts, n_tested
        Shape of the whole table.
    most_values
        Contrasts × genes up to which it is timed whole.
    """
    if n_contrasts * n_tested <= most_values:
        return [n_tested]
    half = max(most_values // n_contrasts // 2 // _TILE_GENES, 1) * _TILE_GENES
    return [half, 2 * half] if 2 * half < n_tested else [n_tested]


def _first_genes(table: EffectTable, n: int) -> EffectTable:
    """The table of the first tested genes alone."""
    if n == len(table.genes) or table.fit is None:
        return table
    fit = replace(table.fit, **{name: getattr(table.fit, name)[:n] for name in ("AveExpr", "sigma", "s2_post", "df_residual", "df_total")})
    return replace(table, genes=table.genes.iloc[:n], fit=fit, reported=table.reported[:, : max(n, 1)])


def scaled(seconds: dict[str, float], n_timed: int, n_tested: int, n_contrasts: int) -> dict[str, float]:
    """Seconds of tables on some genes as if on all: in proportion; n log n for the adjustment across all contrasts."""
    ratio = n_tested / n_timed
    logs = math.log(max(n_contrasts * n_tested, 2)) / math.log(max(n_contrasts * n_timed, 2))
    return {step: value * ratio * (logs if step == steps.ACROSS else 1) for step, value in seconds.items()}


def _seconds_of_table(table: EffectTable, n: int, shape: Shape, into: Path) -> tuple[dict[str, float], int]:
    """Seconds by step of writing the table of some genes, and its bytes on disk."""
    from perturbridge_dagster.effects import write_effects

    with tempfile.TemporaryDirectory(dir=into) as folder:
        with steps.clocked(steps.STORAGE) as clock:
            # fits after moderation are refits
            clock.seconds[steps.SQUEEZE] = 0.0
            write_effects(_first_genes(table, n), Path(folder), _stamp(shape))
            seconds = clock.stop()
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    del seconds[steps.SQUEEZE]
    return seconds, size


def measure(shape: Shape, most_values: int, into: Path) -> dict[str, Any]:
    """Fit and write one shape in this process.

    Parameters
    ----------
    shape
        The shape; it must leave residual degrees of freedom.
    most_values
        See :func:`genes_of_subset`.
    into
        A folder on a disk with room for the effects; nothing stays there.
    """
    from perturbridge_dagster.effects import estimate_effects

    _warm_up()
    began = time.perf_counter()
    samples = simulated_stratum(shape)
    simulated = time.perf_counter() - began
    n_values = samples.X.nnz if hasattr(samples.X, "nnz") else samples.X.size
    with steps.clocked() as clock:
        table = estimate_effects(samples, replicates=shape.replicates, normalized=shape.normalized)
        seconds = clock.stop()
    n_contrasts, n_tested = len(table.contrasts), len(table.genes)
    numbers = genes_of_subset(n_contrasts, n_tested, most_values)
    room = shutil.disk_usage(into).free
    if _DISK_A_VALUE * n_contrasts * numbers[-1] > room:
        raise SystemExit(
            f"{shape.name} needs {_DISK_A_VALUE * n_contrasts * numbers[-1] / GIB:.0f} GiB of disk, there are {room / GIB:.0f}"
        )
    timed = {n: _seconds_of_table(table, n, shape, into) for n in numbers}
    of_table, size = timed[numbers[-1]]
    for step, value in scaled(of_table, numbers[-1], n_tested, n_contrasts).items():
        seconds[step] = seconds.get(step, 0.0) + value
    return {
        "shape": asdict(shape),
        "n_tested": n_tested,
        "n_contrasts": n_contrasts,
        "n_values": int(n_values),
        "seconds": seconds,
        "table_genes": numbers,
        "table_seconds": [sum(of.values()) for of, _ in timed.values()],
        "bytes_a_value": size / (n_contrasts * numbers[-1]),
        "peak_bytes": memory("VmHWM"),
        "simulation_seconds": simulated,
        "machine": machine(),
    }


# ---- replay ------------------------------------------------------------------------------------------------------------------


def in_order(shapes: Sequence[Shape]) -> list[Shape]:
    """Shapes in the order in which they are measured, so that a short budget sees something of everything."""
    families: dict[tuple[str, int, str], list[Shape]] = {}
    for shape in sorted(shapes, key=lambda shape: (-_size(shape), shape.name)):
        families.setdefault(shape.family, []).append(shape)
    first = sorted((of[0] for of in families.values()), key=_size)
    middle = sorted((of[len(of) // 2] for of in families.values() if len(of) > 1), key=_size)
    rest = [shape for of in families.values() for shape in of if shape not in first and shape not in middle]
    return [*first, *middle, *sorted(rest, key=_size, reverse=True)]


def _size(shape: Shape) -> int:
    return shape.n_contrasts * shape.n_genes


def read_results(folder: Path, shapes: Sequence[Shape]) -> dict[str, dict[str, Any]]:
    """What was measured, by name of the shape; a file of a shape that is another by now is as good as none."""
    results = {}
    for shape in shapes:
        file = folder / f"{shape.name}.json"
        if file.is_file():
            result = json.loads(file.read_text())
            if result["shape"] == asdict(shape):
                results[shape.name] = result
    return results


def replay(shapes: Sequence[Shape], folder: Path, *, budget_s: float, most_values: int, jobs: Path) -> None:
    """Measure shapes that have no result yet, each in a process of its own.

    Parameters
    ----------
    shapes
        In the order wanted.
    folder
        Where results lie, made where absent.
    budget_s
        No shape is begun later. Unit: seconds.
    most_values
        See :func:`genes_of_subset`.
    jobs
        The table of published jobs, for the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = read_results(folder, shapes)
    began = time.monotonic()
    for shape in shapes:
        if shape.name in done:
            continue
        if time.monotonic() - began > budget_s:
            break
        file = folder / f"{shape.name}.json"
        _child("measure", shape.name, "--into", str(file), "--values", str(most_values), "--jobs", str(jobs))
        _print_measured(json.loads(file.read_text()))


def _print_measured(result: dict[str, Any]) -> None:
    shape = Shape(**result["shape"])
    of_genes = "".join(
        f", {1e3 * seconds / genes:.2f} ms a gene on {genes:,}"
        for genes, seconds in zip(result["table_genes"], result["table_seconds"], strict=True)
    )
    print(
        f"{shape.name}: {shape.n_samples:,} samples, "
        f"{result['n_contrasts']:,} contrasts × {result['n_tested']:,} of {shape.n_genes:,} genes: "
        f"{sum(result['seconds'].values()):.1f} s, {result['peak_bytes'] / GIB:.2f} GiB; tables{of_genes}",
        flush=True,
    )


# ---- report ------------------------------------------------------------------------------------------------------------------


def extrapolated(shape: Shape, results: dict[str, dict[str, Any]]) -> dict[str, float] | None:
    """Seconds by step of a shape that was not measured, from the nearest that was: of its family, else of its kind and mode.

    Parameters
    ----------
    shape
        The shape.
    results
        What was measured, by name.

    Returns
    -------
    dict
        None where nothing of its kind was measured.
    """
    measured = [(Shape(**result["shape"]), result) for result in results.values()]
    of_family = [pair for pair in measured if pair[0].family == shape.family]
    of_kind = [pair for pair in measured if (pair[0].normalized, pair[0].replicates) == (shape.normalized, shape.replicates)]
    candidates = of_family or of_kind
    if not candidates:
        return None
    near, result = min(candidates, key=lambda pair: abs(math.log(pair[0].n_samples / shape.n_samples)))
    n_genes, near_genes = result["n_tested"] * shape.n_genes / near.n_genes, result["n_tested"]
    ratios = {
        steps.PER_SAMPLE: shape.n_samples * shape.n_genes / (near.n_samples * near.n_genes),
        steps.PER_FIT: shape.n_samples * n_genes / (near.n_samples * near_genes),
        steps.PER_VALUE: shape.n_contrasts * n_genes / (near.n_contrasts * near_genes),
    }
    return {step: result["seconds"].get(step, 0.0) * ratio for of_driver, ratio in ratios.items() for step in of_driver}


def report(shapes: Sequence[Shape], results: dict[str, dict[str, Any]]) -> None:
    """Print what was measured and what follows from it, as Markdown."""
    rows = []
    for shape in shapes:
        measured = results.get(shape.name)
        seconds = measured["seconds"] if measured else extrapolated(shape, results)
        rows.append(
            {
                "family": ", ".join(map(str, shape.family)),
                "published": shape.published.get("total_s", 0.0),
                "lmfit": shape.published.get("lmfit_s", 0.0),
                "measured": sum(measured["seconds"].values()) if measured else 0.0,
                "extrapolated": 0.0 if measured or seconds is None else sum(seconds.values()),
                "n_measured": bool(measured),
                "unknown": seconds is None,
                "published_measured": shape.published.get("total_s", 0.0) if measured else 0.0,
                "peak": measured["peak_bytes"] / GIB if measured else np.nan,
                "seconds": seconds or {},
            }
        )
    table = pd.DataFrame(rows)
    _print_table(
        ("dataset, min. cells, mode", "strata", "measured", "measured s", "extrapolated s", "published h", "published / ours", "peak GiB"),
        [_family_row(str(family), of) for family, of in table.groupby("family", sort=False)] + [_family_row("all", table)],
    )
    if not results:
        print("Nothing was measured yet.")
        return
    total = table["measured"].sum() + table["extrapolated"].sum()
    published = table["published"].sum()
    share = table["published_measured"].sum() / published
    print(f"Measured: {table['n_measured'].sum()} of {len(table)} shapes, {share:.0%} of the published hours.")
    if table["unknown"].any():
        print(f"Not in any sum: {table['unknown'].sum()} shapes, since none of their kind was measured.")
    print(
        f"Whole compendium, both modes: {total / 3600:.2f} h (target < {COMPENDIUM_TARGET_H:g} h), published {published / 3600:,.0f} h, "
        f"{published / total:,.0f} times."
    )
    _print_vcpi_target(table, shapes, results)
    by_step = pd.DataFrame(table["seconds"].tolist()).fillna(0).sum().sort_values(ascending=False)
    print(f"\nSteps by share; one hour needs {max(total - 3600, 0):,.0f} s less:\n")
    _print_table(("step", "s", "share"), [(str(step), f"{value:,.0f}", f"{value / total:.1%}") for step, value in by_step.items()])
    _print_subsets(results)
    machines = {
        json.dumps({key: of["machine"][key] for key in ("cores", "processor", "memory_gib", "versions")}) for of in results.values()
    }
    for measured_on in sorted(machines):
        print(f"Measured on {measured_on}")


def _family_row(name: str, table: pd.DataFrame) -> tuple[str, ...]:
    ours = table["measured"].sum() + table["extrapolated"].sum()
    return (
        name,
        f"{len(table)}",
        f"{table['n_measured'].sum()}",
        f"{table['measured'].sum():,.0f}",
        f"{table['extrapolated'].sum():,.0f}",
        f"{table['published'].sum() / 3600:,.1f}",
        f"{table['published'].sum() / ours:,.0f}" if ours else "",
        f"{table['peak'].max():.1f}" if table["n_measured"].any() else "",
    )


def _print_vcpi_target(table: pd.DataFrame, shapes: Sequence[Shape], results: dict[str, dict[str, Any]]) -> None:
    for shape, published in zip(shapes, table["published"], strict=True):
        if shape.dataset == "vcpi_0001" and shape.name in results:
            seconds = sum(results[shape.name]["seconds"].values())
            print(
                f"VCPI-0001 {shape.replicates}, filter to table: {seconds:,.0f} s, published {published / 3600:.0f} h, "
                f"{published / seconds:,.0f} times (target ≥ {TABLE_TARGET:,})."
            )


def _print_subsets(results: dict[str, dict[str, Any]]) -> None:
    """The cost of a gene where tables were timed on two numbers of genes."""
    subsets = [result for result in results.values() if len(result["table_genes"]) > 1]
    if not subsets:
        print("All tables were timed whole.\n")
        return
    print("Tables timed on some genes and scaled (ms a gene must agree):\n")
    rows = []
    for result in subsets:
        genes, seconds = result["table_genes"], result["table_seconds"]
        cost = (f"{n:,}: {1e3 * s / n:.2f}" for n, s in zip(genes, seconds, strict=True))
        rows.append((Shape(**result["shape"]).name, *cost, f"{result['n_tested']:,}"))
    _print_table(("shape", "genes: ms a gene", "genes: ms a gene", "scaled to"), rows)


# ---- headline ----------------------------------------------------------------------------------------------------------------


BATCH = Shape("vcpi_0001", 0, "CVCL_0006_batch", "grouped", 2_510, 1_266, 608, 77, 1, 78_677, 1, {}, estimated=False)
"""A published batch of VCPI-0001: 3,118 samples, 1,266 conditions, one vehicle, 77 plates, which is 1,343 columns."""


def headline(shape: Shape, n_genes: int, seconds: float, folder: Path, blas: Path | None = None) -> dict[str, Any]:
    """R limma and ours on the same counts.

    Parameters
    ----------
    shape
        The batch.
    n_genes
        Genes given to both sides, before the filter.
    seconds
        Time for R's lmFit.
    folder
        An empty folder.
    blas
        Library of linear algebra for R instead of its own.
    """
    from perturbridge_dagster.effects import estimate_effects, r_source
    from perturbridge_dagster.effects.design import build_design

    _warm_up()
    # simulated genes are in no order
    samples = simulated_stratum(shape)[:, :n_genes].copy()
    design = build_design(samples.obs)
    np.ascontiguousarray(samples.X.toarray(), dtype=np.int32).tofile(folder / "counts.bin")
    treated, control = (design.contrasts[name].to_numpy() for name in ("treated", "control"))
    codes = [[n_genes, shape.n_samples, len(treated)], *(code + 1 for code in (design.condition, design.plate, treated, control))]
    np.concatenate(codes).astype(np.int32).tofile(folder / "codes.bin")
    script = ["Rscript", "--vanilla", str(Path(__file__).with_name("lmfit.R")), str(folder), str(r_source()), str(seconds)]
    environment = os.environ if blas is None else os.environ | {"LD_PRELOAD": str(blas.resolve(strict=True))}
    printed = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    named = dict(pair.split("=") for pair in printed.split())
    blas_of_r = named.pop("blas")
    limma = {name: float(value) for name, value in named.items()}

    ours = {}
    cores = os.sched_getaffinity(0)
    for name, allowed in (("one core", {min(cores)}), ("all cores", cores)):
        os.sched_setaffinity(0, allowed)
        try:
            ours[name] = _headline_ours(samples, shape, folder)
        finally:
            os.sched_setaffinity(0, cores)
    table = estimate_effects(samples, replicates=shape.replicates)
    if table.fit is None or len(table.genes) != int(limma["n_tested"]):
        raise SystemExit(f"R's filter keeps {limma['n_tested']:.0f} genes, ours {len(table.genes)}")
    n_fitted = int(limma["n_fitted"])
    log_fc, _ = table.fit.effects(slice(0, n_fitted))
    theirs: NDArray[np.float64] = np.fromfile(folder / "limma.bin").reshape(log_fc.shape)
    return {
        "shape": asdict(shape),
        "limma": limma,
        "ours": ours,
        "largest_difference": float(np.abs(log_fc - theirs).max()),
        "largest_logFC": float(np.abs(theirs).max()),
        "machine": machine() | {"blas_of_R": blas_of_r},
    }


def _headline_ours(samples: ad.AnnData, shape: Shape, folder: Path) -> dict[str, float]:
    """Seconds of the whole walk by step."""
    from perturbridge_dagster.effects import estimate_effects, write_effects

    with tempfile.TemporaryDirectory(dir=folder) as out, steps.clocked(steps.OTHER) as clock:
        table = estimate_effects(samples, replicates=shape.replicates)
        with clock.step(steps.STORAGE):
            write_effects(table, Path(out), _stamp(shape))
        return clock.stop()


def _print_headline(result: dict[str, Any]) -> None:
    limma, shape = result["limma"], Shape(**result["shape"])
    n = limma["n_tested"]
    print(f"{shape.n_samples:,} samples × {limma['n_coefficients']:,.0f} columns, {n:,.0f} tested genes, R's lmFit on")
    print(f"{limma['n_fitted']:.0f} of them.\n")
    rows = []
    for name, seconds in result["ours"].items():
        fit = seconds[steps.FITS] / n
        # limma's filter and voom run once, its contrasts one by one on the whole stratum
        theirs = limma["filter_s"] + limma["voom_s"] + limma["gene_s"] * n + limma["contrast_s"] * shape.n_contrasts
        rows += [
            (f"weighted fit a gene, {name}", f"{1e3 * limma['gene_s']:,.1f} ms", f"{1e3 * fit:.4f} ms", f"{limma['gene_s'] / fit:,.0f}"),
            (
                f"weighted fit a gene with all contrasts, {name}",
                f"{1e3 * limma['gene_s']:,.1f} ms",
                f"{1e3 * seconds[steps.REFITS] / n:.4f} ms",
                f"{limma['gene_s'] * n / seconds[steps.REFITS]:,.0f}",
            ),
            (
                f"filter to stored table, {name}",
                f"{theirs:,.0f} s (scaled)",
                f"{sum(seconds.values()):.2f} s",
                f"{theirs / sum(seconds.values()):,.0f}",
            ),
        ]
    _print_table(("", "R limma", "ours", "R / ours"), rows)
    print(f"Target for the fit: ≥ {FIT_TARGET:,}. contrasts.fit and eBayes of one contrast in R: {limma['contrast_s']:.2f} s.")
    print(
        f"Largest |Δ logFC| over {shape.n_contrasts:,} contrasts × {limma['n_fitted']:.0f} genes: {result['largest_difference']:.1e} "
        f"(largest |logFC| {result['largest_logFC']:.1f})."
    )
    print(f"Measured on {json.dumps(result['machine'])}")


# ---- VCPI-0001 whole ---------------------------------------------------------------------------------------------------------

READ, CHECKSUM = "read", "content checksum"
"""What comes before the effects."""


def vcpi(shape: Shape, folder: Path, jobs: Path) -> None:
    """Write the stratum and run it through in a process of its own; nothing stays but the result's JSON.

    Parameters
    ----------
    shape
        The stratum.
    folder
        Where results lie, and files while it runs.
    jobs
        The table of published jobs, for the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # about 40 % of the genes pass the filter; the input takes 4 bytes a non-zero
    needed = _DISK_A_VALUE * shape.n_contrasts * 0.4 * shape.n_genes + 4 * shape.n_samples * 12_000
    free = shutil.disk_usage(folder).free
    print(f"{shape.name}: up to {needed / GIB:.0f} GiB of disk, {free / GIB:.0f} GiB free", flush=True)
    if needed > free:
        raise SystemExit(f"not enough disk under {folder}; name another folder with --results")
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        began = time.perf_counter()
        n_values = write_stratum(shape, Path(aside) / "samples.h5ad")
        size = (Path(aside) / "samples.h5ad").stat().st_size
        print(f"written: {n_values:,} counts, {size / GIB:.1f} GiB, {time.perf_counter() - began:.0f} s", flush=True)
        file = folder / f"whole-{shape.name}.json"
        _child("whole", shape.name, "--into", str(file), "--folder", aside, "--jobs", str(jobs))
    _print_whole(json.loads(file.read_text()))


def _run_whole(shape: Shape, folder: Path) -> dict[str, Any]:
    """What the effects task does, with the memory after each part."""
    from perturbridge_dagster.effects import estimate_effects, write_effects
    from perturbridge_dagster.written import content_checksum, read_h5ad

    seconds: dict[str, float] = {}
    peaks = {"start": memory("VmHWM")}
    with steps.clocked() as clock:
        with clock.step(READ):
            samples = read_h5ad(folder / "samples.h5ad", "harmonized_samples")
        peaks[READ] = memory("VmHWM")
        with clock.step(CHECKSUM):
            content_checksum(samples)
        peaks[CHECKSUM] = memory("VmHWM")
        table = estimate_effects(samples, replicates=shape.replicates)
        peaks["estimate"] = memory("VmHWM")
        with clock.step(steps.STORAGE):
            write_effects(table, folder / "effects", _stamp(shape))
        peaks["write"] = memory("VmHWM")
        seconds = clock.stop()
    return {
        "shape": asdict(shape),
        "n_tested": len(table.genes),
        "n_contrasts": len(table.contrasts),
        "seconds": seconds,
        "peak_bytes": peaks,
        "result_bytes": sum(file.stat().st_size for file in (folder / "effects").iterdir()),
        "machine": machine(),
    }


def _print_whole(result: dict[str, Any]) -> None:
    shape, seconds = Shape(**result["shape"]), result["seconds"]
    values = result["n_contrasts"] * result["n_tested"]
    print(f"{shape.n_samples:,} samples, {result['n_contrasts']:,} contrasts × {result['n_tested']:,} of {shape.n_genes:,} genes\n")
    order = (READ, CHECKSUM, *steps.STEPS)
    _print_table(("step", "s"), [(step, f"{seconds[step]:,.1f}") for step in order])
    peaks = sorted(result["peak_bytes"].items(), key=lambda part: part[1])
    _print_table(("until", "peak GiB of the process"), [(part, f"{peak / GIB:.2f}") for part, peak in peaks])
    ours = sum(value for step, value in seconds.items() if step not in (READ, CHECKSUM))
    published = shape.published.get("total_s", 0.0)
    print(
        f"filter to table {ours:,.0f} s, published {published / 3600:.0f} h, {published / ours:,.0f} times (target ≥ {TABLE_TARGET:,}); "
        f"result {result['result_bytes'] / GIB:.1f} GiB, {result['result_bytes'] / values:.2f} bytes a contrast × gene"
    )


# ---- command line ------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.effects", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--jobs", type=Path, default=JOBS, help="table of published jobs")
    common.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    common.add_argument("--values", type=int, default=250_000_000, help="contrasts × genes up to which tables are timed whole")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("shape")
    one.add_argument("--into", type=Path, required=True)
    one.add_argument("--folder", type=Path)

    beside = commands.add_parser("headline", parents=[common], help="R limma and ours in one run")
    beside.add_argument("--seconds", type=float, default=60, help="time for R's lmFit")
    beside.add_argument("--genes", type=int, default=12_000, help="genes before the filter, of 78,677")
    beside.add_argument("--blas", type=Path, help="library of linear algebra for R, such as OpenBLAS's libblas.so.3")
    again = commands.add_parser("replay", parents=[common], help="the published shapes as whole strata")
    again.add_argument("--budget", type=float, default=math.inf, help="minutes")
    again.add_argument("--shapes", nargs="*", help="only shapes whose names have one of these in them")
    again.add_argument("--list", action="store_true", help="list shapes instead")
    commands.add_parser("report", parents=[common], help="what was measured so far")
    whole = commands.add_parser("vcpi", parents=[common], help="VCPI-0001 whole, from file to files")
    whole.add_argument("--replicates", choices=("grouped", "separate"), default="grouped")
    commands.add_parser("measure", parents=[common, one])
    commands.add_parser("whole", parents=[common, one])
    return parser


def _vcpi_shape(shapes: Sequence[Shape], replicates: Replicates) -> Shape:
    return next(shape for shape in shapes if (shape.dataset, shape.replicates) == ("vcpi_0001", replicates))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part of the bench."""
    asked = _parser().parse_args(arguments)
    if asked.command == "headline":
        asked.results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=asked.results) as folder:
            result = headline(BATCH, asked.genes, asked.seconds, Path(folder), asked.blas)
        _write(asked.results / "headline.json", result)
        _print_headline(result)
        return
    shapes = [shape for shape in whole_strata(read_jobs(asked.jobs)) if shape.estimable]
    by_name = {shape.name: shape for shape in shapes}
    if asked.command == "measure":
        _write(asked.into, measure(by_name[asked.shape], asked.values, asked.into.parent))
    elif asked.command == "whole":
        _write(asked.into, _run_whole(by_name[asked.shape], asked.folder))
    elif asked.command == "vcpi":
        vcpi(_vcpi_shape(shapes, asked.replicates), asked.results, asked.jobs)
    elif asked.command == "report":
        report(shapes, read_results(asked.results, shapes))
    else:
        chosen = in_order([shape for shape in shapes if not asked.shapes or any(part in shape.name for part in asked.shapes)])
        if asked.list:
            for shape in chosen:
                print(f"{shape.name:45} {shape.n_samples:>8,} samples {shape.n_contrasts:>8,} contrasts {shape.n_plates:>4} plates")
            return
        replay(chosen, asked.results, budget_s=60 * asked.budget, most_values=asked.values, jobs=asked.jobs)
        report(shapes, read_results(asked.results, shapes))


if __name__ == "__main__":
    main()
