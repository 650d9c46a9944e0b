"""How small and how fast effects on disk are.

For each shape it simulates a moderated fit (most genes respond to nothing, some compounds move some), writes it as a stratum's effects are
written, and prints bytes a contrast × gene, seconds of writing (without those of simulating), peak memory above what the process needs
before it writes, and seconds of reading one signature, one gene in all contrasts, the first 200 × 200, and 200 × 200 from everywhere. Where
the table is small enough, it is also written as an h5ad file with gzip, and the ratio of the sizes is told. Files were just written, so
they are read from memory rather than from the disk.

Linux only: memory is read from /proc. Disk: about 60 bytes a contrast × gene.

    python -m bench.effects_storage 500x20000 3000x15000 12000x15000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.process import memory
from perturbridge_dagster.effects import open_effects, write_effects
from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.effects.table import EffectTable, ModeratedFit, effect_table
from perturbridge_dagster.written import Stamp

LARGEST_H5AD = 15_000_000
"""Contrasts × genes up to which the table is written as h5ad too."""

READS = 5
GIB = 2**30


def simulated(n_contrasts: int, n_genes: int) -> EffectTable:
    """A table whose values are made when they are asked for: 5 % of the contrasts move 10 % of the genes, the others almost none."""
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"perturbagen": ["DMSO"] * 3 + [f"compound {i:06d}" for i in range(n_contrasts)]})
    obs["is_control"] = obs["perturbagen"] == "DMSO"
    obs = obs.assign(pert_dose_uM=np.where(obs["is_control"], 0.0, 10.0), pert_time_h=24.0, plate="plate")
    obs.index = obs.index.map("well {:06d}".format)
    strength = np.where(rng.random(n_contrasts) < 0.05, 0.1, 0.002)
    s2_post = rng.gamma(4, 0.05, n_genes) ** 2
    replicates = rng.integers(1, 5, n_contrasts)

    def effects(genes: slice) -> tuple[np.ndarray, np.ndarray]:
        log_fc, unscaled = np.empty((2, n_contrasts, genes.stop - genes.start))
        for column, gene in enumerate(range(genes.start, genes.stop)):
            own = np.random.default_rng((2, gene))
            unscaled[:, column] = np.sqrt((1 / replicates + 0.02) * own.gamma(50, 1 / 50, n_contrasts))
            log_fc[:, column] = own.normal(0, 1, n_contrasts) * (own.random(n_contrasts) < strength)
            log_fc[:, column] += own.standard_normal(n_contrasts) * unscaled[:, column] * np.sqrt(s2_post[gene])
        return log_fc, unscaled

    prior = np.where(rng.random(n_genes) < 0.7, 6.0, rng.uniform(1, 6, n_genes))
    fit = ModeratedFit(
        AveExpr=rng.normal(5, 2, n_genes),
        sigma=np.sqrt(s2_post),
        s2_post=s2_post,
        df_residual=np.full(n_genes, 2.0 * n_contrasts),
        df_total=2.0 * n_contrasts + prior,
        tested=np.ones(n_genes, dtype=bool),
        effects=effects,
        log_odds=lambda t, _: t**2 / 4 - 4.6,
        gene_filter=None,
        library_sizes=None,
        info={},
    )
    var = pd.DataFrame({"symbol": [f"GENE{i}" for i in range(n_genes)]}, index=[f"ENSG{i:011d}" for i in range(n_genes)])
    reported = np.ones((1, 1), dtype=bool)
    return effect_table(fit, build_design(obs), var, dataset="simulated", stratum="s", cell_type="s", reported=reported, info={})


def _best(read: Callable[[], object]) -> float:
    """Shortest seconds of several calls."""
    seconds = []
    for _ in range(READS):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _measure(n_contrasts: int, n_genes: int) -> None:
    """Measure one shape in this process, and print a row."""
    n = n_contrasts * n_genes
    table, simulating = simulated(n_contrasts, n_genes), 0.0
    fit = table.fit
    assert fit is not None

    def timed(genes: slice) -> tuple[np.ndarray, np.ndarray]:
        nonlocal simulating
        start = time.perf_counter()
        made = fit.effects(genes)
        simulating += time.perf_counter() - start
        return made

    watched = replace(table, fit=replace(fit, effects=timed))
    # compiled functions and libraries belong to the base
    with tempfile.TemporaryDirectory() as warm:
        write_effects(simulated(3, 20), Path(warm), Stamp("condition_effects", "bench", "0" * 64, ("simulated",), "open"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, start = memory("VmRSS"), time.perf_counter()
        write_effects(watched, folder / "effects", Stamp("condition_effects", "bench", "0" * 64, ("simulated",), "open"))
        writing = time.perf_counter() - start - simulating
        peak = memory("VmHWM") - base
        size = sum(file.stat().st_size for file in (folder / "effects").iterdir())
        stored = open_effects(folder / "effects")
        rng = np.random.default_rng(3)
        one, gene = np.array([n_contrasts // 2]), np.array([n_genes // 2])
        some, genes = rng.permutation(n_contrasts)[:200], rng.permutation(n_genes)[:200]
        reads = [
            _best(lambda: stored.dense(["logFC", "t"], contrasts=one)),
            _best(lambda: stored.dense(["logFC", "t"], genes=gene)),
            _best(lambda: stored.dense(["logFC", "t"], np.arange(min(200, n_contrasts)), np.arange(min(200, n_genes)))),
            _best(lambda: stored.dense(["logFC"], some, genes)),
        ]
        ratio = ""
        if n <= LARGEST_H5AD:
            table.to_anndata().write_h5ad(folder / "effects.h5ad", compression="gzip")
            ratio = f"{(folder / 'effects.h5ad').stat().st_size / size:.1f}"
    cells = [
        f"{n_contrasts:>9} {n_genes:>6} {size / n:>7.2f} {ratio:>10}",
        f"{writing:>8.1f} {n / writing / 1e6:>7.1f} {peak / GIB:>8.2f}",
        *(f"{1e3 * seconds:>9.0f}" for seconds in reads),
    ]
    print(*cells)


def main() -> None:
    """Measure each shape of the command line, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["500x20000", "3000x15000", "12000x15000"], help="contrasts x genes")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shapes = [tuple(int(side) for side in shape.split("x")) for shape in arguments.shapes]
    if arguments.one:
        _measure(*shapes[0])
        return
    columns = ["bytes", "h5ad times", "seconds", "M/s", "peak GiB", "signature", "gene", "block", "scattered"]
    widths = (7, 10, 8, 7, 8, 9, 9, 9, 9)
    heads = " ".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    print(f"{'contrasts':>9} {'genes':>6} {heads} (reads in ms)", flush=True)
    for shape in arguments.shapes:
        subprocess.run([sys.executable, "-m", "bench.effects_storage", "--one", shape], check=True)


if __name__ == "__main__":
    main()
