"""Time and memory of pseudobulk: beside decoupler, and on a file of the size of a Tahoe-100M plate.

    python -m bench.pseudobulk                              # decoupler and ours, same file, same run
    python -m bench.pseudobulk --compression gzip           # also lzf
    python -m bench.pseudobulk --cells 20000 --repeats 1    # quicker
    python -m bench.pseudobulk --tahoe-plate                # 5 million cells × 62,710 genes, ours alone
    python -m bench.pseudobulk --tahoe-plate --cells 200000

**Beside decoupler.** 200,000 cells × 20,000 genes, 600 genes a cell, 1,000 samples, in one h5ad (``cells.py`` says how it is simulated and
stored: uncompressed as AnnData does by default, unless ``--compression`` says otherwise). Each side runs in a process of its own, in turn,
``--repeats`` times; printed are the run with the median seconds of each side, and its memory. decoupler: ``anndata.read_h5ad``, then
``decoupler.pp.pseudobulk(sample_col="sample", groups_col=None, mode="sum")``. Ours: obs and var by anndata, then ``sum_cells`` on the
open file. Seconds are from opening the file to the sums in memory, without imports; peak memory is that of the whole process until
then, imports included, to which numba's setting up belongs. Our loops were compiled before, in another process, as they are from the
second run on. Then all sums are compared. The file is in the page cache for both.

**--tahoe-plate.** Writes 5,000,000 cells of 96 wells × 50 lines, 600 genes and 1,200 counts a cell, so that about 5 % of cells are dropped
and a sample of 1,000 cells has 23,000 genes, as in Tahoe. Runs what a reader of a dataset runs: obs from the file, filters, grouping
and sums in one reading (``single_cell.pseudobulk``). The largest plates of Tahoe have twice as many cells. Checked: the cells that are
kept are those with enough counts, and every sample's sum is what these were written with. Printed: seconds, cells a second, peak
memory of the whole process, and the projection to 100 million cells, which is proportional, since plates are read one after another.
Disk: about 7 GB under ``--folder``, deleted afterwards.

Linux only: memory is read from /proc. decoupler is in the extra ``bench``.
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
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from bench.process import memory

if TYPE_CHECKING:
    from bench.cells import Shape

GIB = 2**30
FASTER_TARGET, MEMORY_TARGET = 20, 5
"""Times as fast as decoupler, and the part of its peak memory."""

PLATE_TARGET_GIB = 4
PROJECTED_CELLS = 100_000_000
PLATE_CELLS, BESIDE_CELLS = 5_000_000, 200_000
SIDES = ("decoupler", "ours", "plate")


# ---- the sides, each in a process of its own ------------------------------------------------------------------------------------


def _run_decoupler(file: Path, into: Path) -> dict[str, Any]:
    import anndata as ad
    import decoupler

    base, start = memory("VmRSS"), (time.perf_counter(), time.process_time())
    samples = decoupler.pp.pseudobulk(ad.read_h5ad(file), sample_col="sample", groups_col=None, mode="sum")
    result = _measured(start, base) | {"n_samples": samples.n_obs}
    sparse.save_npz(into, sparse.csr_matrix(samples.X), compressed=False)
    samples.obs_names.to_series().to_csv(into.with_suffix(".samples"), index=False)
    samples.var_names.to_series().to_csv(into.with_suffix(".genes"), index=False)
    return result


def _run_ours(file: Path, into: Path) -> dict[str, Any]:
    import anndata as ad

    from perturbridge_dagster.sources.single_cell import sum_cells
    from perturbridge_dagster.sources.stored import open_hdf5

    base, start = memory("VmRSS"), (time.perf_counter(), time.process_time())
    with open_hdf5(file, "bench") as opened:
        cells, genes = (ad.io.read_elem(opened[name]) for name in ("obs", "var"))
        sample = cells["sample"].cat
        n_samples = len(sample.categories)
        codes = sample.codes.to_numpy(np.int64)
        sums = sum_cells(opened["X"], codes, n_samples, cells=cells.index, genes=genes.index, dataset="bench", file=file)
    result = _measured(start, base) | {"n_samples": n_samples}
    sparse.save_npz(into, sums, compressed=False)
    pd.Series(sample.categories).to_csv(into.with_suffix(".samples"), index=False)
    genes.index.to_series().to_csv(into.with_suffix(".genes"), index=False)
    return result


def _run_plate(file: Path, into: Path) -> dict[str, Any]:
    import anndata as ad

    from perturbridge_dagster.sources.native import Reconciliation
    from perturbridge_dagster.sources.single_cell import pseudobulk
    from perturbridge_dagster.sources.stored import open_hdf5

    base, start = memory("VmRSS"), (time.perf_counter(), time.process_time())
    steps = Reconciliation()
    with open_hdf5(file, "bench") as opened:
        cells, genes = (ad.io.read_elem(opened[name]) for name in ("obs", "var"))
        names = {"drug": "perturbagen", "cell_line": "source_cell_context"}
        cells = cells.drop(columns="sample").rename(columns=names).assign(plate="plate1", pert_time_h=24.0)
        steps.start("cells", len(cells))
        seconds_metadata = time.perf_counter() - start[0]
        n_cells = len(cells)
        samples, sums = pseudobulk(
            opened["X"], cells, genes.index, genes["symbol"], steps, dataset="bench", counts_file=file, cells_file=file
        )
    result = _measured(start, base) | {"n_samples": len(samples), "n_cells": n_cells, "seconds_metadata": seconds_metadata}
    result |= {"n_sums": int(sums.nnz), "kept": int(samples["psbulk_cells"].sum()), "steps": steps.frame().to_dict("records")}
    np.save(into, np.asarray(sums.sum(axis=1)).ravel())
    samples.to_pickle(into.with_suffix(".samples"))
    return result


def _measured(start: tuple[float, float], base: int) -> dict[str, Any]:
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": memory("VmHWM"), "base_bytes": base}


def measure(side: str, file: Path, folder: Path) -> dict[str, Any]:
    """Run a side in a process of its own.

    Parameters
    ----------
    side
        One of ``SIDES``.
    file, folder
        The cells, and where the sums go.
    """
    command = [sys.executable, "-m", "bench.pseudobulk", "--side", side, "--file", str(file), "--folder", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[1])
    measured: dict[str, Any] = json.loads((folder / f"{side}.json").read_text())
    return measured


# ---- beside decoupler --------------------------------------------------------------------------------------------------------


def n_different(folder: Path) -> tuple[int, int]:
    """How many sums of both sides differ, and how many there are. Genes and samples that one side leaves out count as 0."""
    tables = []
    for side in ("decoupler", "ours"):
        sums = sparse.load_npz(folder / f"{side}.npz").tocoo()
        samples, genes = (pd.read_csv(folder / f"{side}.{axis}", dtype=str).iloc[:, 0] for axis in ("samples", "genes"))
        tables.append((sums, samples, genes))
    (theirs, their_samples, their_genes), (ours, samples, genes) = tables
    rows, columns = pd.Index(samples).get_indexer(their_samples), pd.Index(genes).get_indexer(their_genes)
    if (rows < 0).any() or (columns < 0).any():
        raise ValueError("decoupler has samples or genes that the file has not")
    moved = sparse.csr_matrix((theirs.data, (rows[theirs.row], columns[theirs.col])), shape=ours.shape)
    return int((moved != ours.tocsr()).nnz), int(ours.shape[0] * ours.shape[1])


def beside(shape: Shape, compression: str, folder: Path, repeats: int = 1) -> dict[str, Any]:
    """Both sides on one file, in turn.

    Parameters
    ----------
    shape, compression
        The file.
    folder
        An empty folder.
    repeats
        Runs of each side, of which the one with the median seconds counts.
    """
    file = _written(shape, compression, folder)
    _compile(folder)
    runs = [{side: measure(side, file, folder) for side in ("ours", "decoupler")} for _ in range(repeats)]
    results = {side: sorted((run[side] for run in runs), key=itemgetter("seconds"))[repeats // 2] for side in runs[0]}
    different, n_sums = n_different(folder)
    return {**results, "n_different": different, "n_sums": n_sums}


def _print_beside(result: dict[str, Any]) -> None:
    theirs, ours = result["decoupler"], result["ours"]
    print("| | decoupler | ours | ratio | target |\n| --- | ---: | ---: | ---: | ---: |")
    faster, less = theirs["seconds"] / ours["seconds"], theirs["peak_bytes"] / ours["peak_bytes"]
    print(f"| seconds, file to sums | {theirs['seconds']:.2f} | {ours['seconds']:.2f} | {faster:.1f} | ≥ {FASTER_TARGET} |")
    print(f"| of all cores | {theirs['cpu_seconds']:.2f} | {ours['cpu_seconds']:.2f} | | |")
    print(
        f"| peak GiB of the process | {theirs['peak_bytes'] / GIB:.2f} | {ours['peak_bytes'] / GIB:.2f} | {less:.1f} | ≥ {MEMORY_TARGET} |"
    )
    print(f"| GiB after imports | {theirs['base_bytes'] / GIB:.2f} | {ours['base_bytes'] / GIB:.2f} | | |\n")
    print(f"{result['n_different']:,} of {result['n_sums']:,} sums differ.")


# ---- a plate -----------------------------------------------------------------------------------------------------------------


def plate(shape: Shape, compression: str, folder: Path) -> dict[str, Any]:
    """Filters and sums of a file of the size of a plate.

    Parameters
    ----------
    shape, compression
        The file.
    folder
        An empty folder.

    Raises
    ------
    ValueError
        If the sums are not those of the cells that were kept.
    """
    file = _written(shape, compression, folder)
    _compile(folder)
    result = measure("plate", file, folder)
    _require_totals(file, folder)
    return result


def _require_totals(file: Path, folder: Path) -> None:
    """The kept cells are those with enough counts, since no other filter drops a simulated one; a sample's sum is theirs."""
    import anndata as ad
    import h5py

    from perturbridge_dagster.sources.single_cell import MINIMUM_COUNTS

    with h5py.File(file) as opened:
        cells = ad.io.read_elem(opened["obs"])
    enough = cells[cells["n_counts"] >= MINIMUM_COUNTS]
    written = enough.groupby(["well", "cell_line"], observed=True)["n_counts"].agg(["sum", "size"]).reset_index()
    samples = pd.read_pickle(folder / "plate.samples").assign(total=np.load(folder / "plate.npy"))
    both = samples.merge(written, how="outer", left_on=["well", "source_cell_context"], right_on=["well", "cell_line"], validate="1:1")
    if not (both["total"].eq(both["sum"]) & both["size"].eq(both["psbulk_cells"])).all():
        raise ValueError("the sums are not those of the cells that were written")


def _print_plate(result: dict[str, Any]) -> None:
    rate = result["n_cells"] / result["seconds"]
    for step in result["steps"]:
        print(f"{step['axis']}: {step['rule']}: {step['n_in']:,} → {step['n_out']:,}")
    print(
        f"{result['n_cells']:,} cells → {result['n_samples']:,} samples, {result['n_sums']:,} sums: {result['seconds']:.1f} s, of which "
        f"{result['seconds_metadata']:.1f} s for metadata; {rate:,.0f} cells a second; peak {result['peak_bytes'] / GIB:.2f} GiB of the "
        f"process (target < {PLATE_TARGET_GIB})"
    )
    print(f"projected to {PROJECTED_CELLS:,} cells: {PROJECTED_CELLS / rate / 60:.0f} min, at the memory of the largest plate")


# ---- command line ------------------------------------------------------------------------------------------------------------


def _written(shape: Shape, compression: Any, folder: Path) -> Path:
    from bench.cells import write_cells

    start, file = time.perf_counter(), folder / "cells.h5ad"
    n_values = write_cells(shape, file, compression)
    print(
        f"{shape}\n{n_values:,} values, {n_values / shape.n_cells:.0f} a cell; float32 and int32, compression {compression}; "
        f"{file.stat().st_size / GIB:.2f} GiB, written in {time.perf_counter() - start:.0f} s; {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; " + ", ".join(f"{name} {version(name)}" for name in ("anndata", "h5py", "numpy", "deflate")),
        flush=True,
    )
    return file


def _compile(folder: Path) -> None:
    """Compile our loops, in another process than the one that is measured."""
    from bench.cells import Shape, write_cells

    with tempfile.TemporaryDirectory(dir=folder) as aside:
        file = Path(aside) / "cells.h5ad"
        write_cells(Shape(2_000, 5_000, 200, 2, 2), file, "gzip")
        for side in ("ours", "plate"):
            measure(side, file, Path(aside))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part of the bench."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pseudobulk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tahoe-plate", action="store_true", help="a file of the size of a Tahoe-100M plate, ours alone")
    parser.add_argument("--cells", type=int, help=f"cells; {BESIDE_CELLS:,}, or {PLATE_CELLS:,} of a plate")
    parser.add_argument("--compression", choices=("gzip", "lzf", "none"), help="of the file; none, or gzip of a plate")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side beside decoupler")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile; a temporary folder if not given")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.side:
        run = {"decoupler": _run_decoupler, "ours": _run_ours, "plate": _run_plate}[asked.side]
        result = run(asked.file, asked.folder / f"{asked.side}.{'npy' if asked.side == 'plate' else 'npz'}")
        (asked.folder / f"{asked.side}.json").write_text(json.dumps(result))
        return

    from bench.cells import Shape

    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        if asked.tahoe_plate:
            _print_plate(plate(Shape(asked.cells or PLATE_CELLS, 62_710, 600, 96, 50, spread=2.8), asked.compression or "gzip", folder))
        else:
            print(f"decoupler {version('decoupler')}")
            shape = Shape(asked.cells or BESIDE_CELLS, 20_000, 600, 20, 50)
            _print_beside(beside(shape, asked.compression or "none", folder, asked.repeats))


if __name__ == "__main__":
    main()
