"""How much memory and time harmonizing L1000 takes, by number of wells.

For each number of wells it writes files of L1000 Phase I of that size into a temporary folder, harmonizes them in a process of their own,
and prints seconds and peak memory above what the process needs before it reads, also as a multiple of the dense float32 matrix of the
result. The line through the sizes is projected to the 700,000 wells of the real dataset. As in the real files, about half the wells are
dropped because they are not compounds; there are 978 landmark genes and a few others, where the real matrix has 12,328.

Linux only: memory is read from /proc. Disk: about 6 KB a well.

    python -m bench.harmonize_l1000 30000 100000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from bench.process import memory
from perturbridge_dagster.sample.l1000 import CELLS, DATASET, MISSING, SERIES
from perturbridge_dagster.sample.tables import genes

REAL_WELLS = 700_000
N_OTHER_GENES = 22
WELLS_A_PLATE = 384
CONTROLS_A_PLATE = 16
WELLS_A_COMPOUND = 35
BLOCK = 128
GIB = 2**30


def write_files(folder: Path, n_wells: int) -> None:
    """Write the files of L1000 Phase I.

    Parameters
    ----------
    folder
        An empty folder.
    n_wells
        Wells with a compound or DMSO; the matrix has about twice as many.
    """
    wells = _wells(n_wells)
    is_landmark = genes()["is_landmark"] == 1
    chosen = pd.concat([genes()[is_landmark], genes()[~is_landmark & genes()["entrez_id"].notna()].head(N_OTHER_GENES)])
    # landmarks lie among the others
    chosen = chosen.sample(frac=1, random_state=1)
    _write_matrix(folder, wells["inst_id"], chosen["entrez_id"].astype(str))
    info = pd.DataFrame(
        {"pr_gene_id": chosen["entrez_id"], "pr_gene_symbol": chosen["l1000_symbol"], "pr_is_lm": chosen["is_landmark"].eq(1).astype(int)}
    )
    compounds = wells.loc[wells["pert_type"] == "trt_cp", ["pert_id", "pert_iname", "pert_type"]].drop_duplicates()
    cells = pd.DataFrame({"cell_id": [cell[0] for cell in CELLS], "primary_site": [cell[1] for cell in CELLS], "sample_type": "tumor"})
    for name, table in (("inst_info", wells), ("gene_info", info), ("pert_info", compounds), ("cell_info", cells)):
        table.to_csv(folder / f"{SERIES}_{name}.txt.gz", sep="\t", index=False, na_rep=MISSING, compression={"method": "gzip", "mtime": 0})


def _wells(n_wells: int) -> pd.DataFrame:
    """Plates of compounds and plates of hairpins by turns, one row a well."""
    number = np.concatenate([np.arange(n_wells), np.arange(n_wells)])
    is_compound = np.repeat([True, False], n_wells)
    plate, position = np.divmod(number, WELLS_A_PLATE)
    is_control = position < CONTROLS_A_PLATE
    compound = np.random.default_rng(1).integers(-(-n_wells // WELLS_A_COMPOUND), size=len(number))
    names = pd.Series(compound).map("BRD-K{:08d}".format)
    cell_ids = np.array([cell[0] for cell in CELLS])
    wells = pd.DataFrame(
        {
            "rna_plate": [f"{'CPC' if chemical else 'KDA'}{p:05d}_24H_X1_B1" for chemical, p in zip(is_compound, plate, strict=True)],
            "rna_well": [f"{chr(ord('A') + p // 24)}{p % 24 + 1:02d}" for p in position],
            "pert_id": np.where(is_control, "DMSO", names),
            "pert_iname": np.where(is_control, "DMSO", names),
            "pert_type": np.where(is_compound, np.where(is_control, "ctl_vehicle", "trt_cp"), "trt_sh"),
            "pert_dose": np.where(is_control, MISSING, "10.0"),
            "pert_dose_unit": np.where(is_control, MISSING, "um"),
            "pert_time": "24",
            "pert_time_unit": "h",
            "cell_id": cell_ids[plate % len(cell_ids)],
        }
    )
    wells.insert(0, "inst_id", wells["rna_plate"] + ":" + wells["rna_well"])
    return wells.iloc[np.argsort(np.where(is_compound, plate, plate + 0.5), kind="stable")]


def _write_matrix(folder: Path, ids: pd.Series, gene_ids: pd.Series) -> None:
    generator = np.random.default_rng(2)
    with h5py.File(folder / f"{SERIES}_Level3_INF_mlr12k_n{len(ids)}x{len(gene_ids)}.gctx", "w") as file:
        file.attrs["version"] = np.bytes_("GCTX1.0")
        matrix = file.create_dataset(
            "0/DATA/0/matrix",
            shape=(len(ids), len(gene_ids)),
            dtype=np.float32,
            chunks=(min(len(ids), BLOCK), len(gene_ids)),
            compression="gzip",
            compression_opts=1,
        )
        for start in range(0, len(ids), BLOCK):
            stop = min(start + BLOCK, len(ids))
            matrix[start:stop] = generator.normal(8, 1.5, (stop - start, len(gene_ids))).clip(0).round(2)
        file["0/META/COL/id"] = ids.to_numpy(dtype="S")
        file["0/META/ROW/id"] = gene_ids.to_numpy(dtype="S")


def measure(folder: Path) -> tuple[int, int, float, int]:
    """Samples, genes, seconds and peak bytes above the base of harmonizing a folder, in a process of its own."""
    command = [sys.executable, "-m", "bench.harmonize_l1000", "--harmonize", str(folder)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return int(printed[0]), int(printed[1]), float(printed[2]), int(printed[3])


def _harmonize(folder: Path) -> None:
    """Harmonize in this process, and print what :func:`measure` reads."""
    # what every process needs, whatever it reads, belongs to the base
    from perturbridge_dagster.identity.snapshot import shipped
    from perturbridge_dagster.sources import assemble, harmonize, l1000  # noqa: F401

    identity = shipped()
    base, start = memory("VmRSS"), time.perf_counter()
    samples = harmonize(DATASET, folder, identity=identity)
    print(*samples.shape, time.perf_counter() - start, memory("VmHWM") - base)


def main() -> None:
    """Measure each number of wells of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wells", nargs="*", type=int, default=[30_000, 100_000], help="wells with a compound or DMSO")
    parser.add_argument("--harmonize", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.harmonize:
        _harmonize(arguments.harmonize)
        return
    print(f"{'wells':>9} {'genes':>6} {'seconds':>8} {'peak GiB':>9} {'dense GiB':>10} {'peak / dense':>13}")
    measured = []
    for n_wells in arguments.wells:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), n_wells)
            n_samples, n_genes, seconds, peak = measure(Path(folder))
        measured.append((n_samples, seconds, peak))
        _print_row(f"{n_samples:,}", n_genes, seconds, peak, n_samples * n_genes * 4)
    samples, *results = np.array(measured).T
    if len(measured) > 1:
        projected = [float(np.polyval(np.polyfit(samples, result, 1), REAL_WELLS)) for result in results]
        _print_row(f"~{REAL_WELLS:,}", n_genes, projected[0], projected[1], REAL_WELLS * n_genes * 4)


def _print_row(wells: str, n_genes: int, seconds: float, peak: float, dense: int) -> None:
    print(f"{wells:>9} {n_genes:>6} {seconds:>8.1f} {peak / GIB:>9.2f} {dense / GIB:>10.2f} {peak / dense:>13.2f}", flush=True)


if __name__ == "__main__":
    main()
