"""Writing the whole sample: every dataset and benchmark in its native format, and the truth behind them.

Belongs here: which datasets and benchmarks there are, and that a folder appears whole or not at all. Does not belong here: any one format.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sample import cigs, dilimap, gdpx2, l1000, novartis, op3, op3_benchmark, sciplex, tahoe, truth, vcpi
from perturbridge_dagster.sample.account import Account
from perturbridge_dagster.sample.biology import Biology, simulate
from perturbridge_dagster.written import write_json

SAMPLE_VERSION = "4"
"""Version of what is written. Raise it with every change of content."""

STAMP_FILE = "sample.json"
DEFAULT_SEED = 20260505

WRITERS: dict[str, Callable[[Path, Biology, int], Account]] = {
    sciplex.DATASET: sciplex.write,
    **{dataset: partial(l1000.write, dataset) for dataset in l1000.PHASES},
    **{dataset: partial(vcpi.write, dataset) for dataset in vcpi.RELEASES},
    tahoe.DATASET: tahoe.write,
    op3.DATASET: op3.write,
    gdpx2.DATASET: gdpx2.write,
    novartis.DATASET: novartis.write,
    **{dataset: partial(cigs.write, dataset) for dataset in (cigs.MCE, cigs.TCM)},
    **{dataset: partial(dilimap.write, dataset) for dataset in dilimap.SPLITS},
}
"""By dataset id of the registry, what writes its native files."""

BENCHMARK_WRITERS: dict[str, Callable[[Path, Biology, int], None]] = {op3_benchmark.BENCHMARK: op3_benchmark.write}
"""By benchmark id of the registry, what writes its native files; nothing is harmonized from them."""

DATASETS = tuple(WRITERS)
BENCHMARKS = tuple(BENCHMARK_WRITERS)


def write_sample(folder: Path, *, seed: int = DEFAULT_SEED, datasets: Sequence[str] = (*DATASETS, *BENCHMARKS)) -> None:
    """Write the sample, unless the folder already holds this very sample.

    Parameters
    ----------
    folder
        Gets ``<id>/`` for each dataset and benchmark, ``truth/`` and ``sample.json``. It appears whole or not at all; a different sample in
        its place is replaced.
    seed
        Decides everything that is drawn. A dataset is the same whatever other datasets are written.
    datasets
        Ids of datasets, one at least, and of benchmarks.

    Raises
    ------
    InputError
        If one of them has no sample, or `folder` holds something that is not a sample.
    """
    unknown = [dataset for dataset in datasets if dataset not in WRITERS and dataset not in BENCHMARK_WRITERS]
    chosen = [dataset for dataset in (*WRITERS, *BENCHMARK_WRITERS) if dataset in datasets]
    if unknown or not set(chosen) & set(WRITERS):
        raise InputError(
            "there is no such dataset in the sample.", dataset=", ".join(unknown) or "none", expected=f"one of {', '.join(WRITERS)}"
        )
    stamp = {"seed": seed, "version": SAMPLE_VERSION, "datasets": chosen}
    folder = Path(folder)
    found = _found(folder)
    if found == stamp:
        return
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        biology = simulate(seed)
        accounts = []
        for dataset in chosen:
            (aside / dataset).mkdir(parents=True)
            if dataset in BENCHMARK_WRITERS:
                BENCHMARK_WRITERS[dataset](aside / dataset, biology, seed)
            else:
                accounts.append(WRITERS[dataset](aside / dataset, biology, seed))
        (aside / "truth").mkdir()
        truth.write(aside / "truth", biology, accounts)
        write_json(aside / STAMP_FILE, stamp)
        _replace(folder, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def is_sample(folder: Path) -> bool:
    """Whether a dataset's folder is one that :func:`write_sample` wrote, so that its data are simulated."""
    return (folder.parent / STAMP_FILE).is_file()


def _found(folder: Path) -> dict[str, Any] | None:
    """Stamp of the sample that is there; None where there is nothing.

    Raises
    ------
    InputError
        If there is something else.
    """
    if not folder.exists():
        return None
    advice = "Choose a folder that does not exist yet."
    if not folder.is_dir():
        raise InputError("the sample needs a folder, and this is a file.", file=folder, advice=advice)
    if not any(folder.iterdir()):
        return None
    try:
        stamp = json.loads((folder / STAMP_FILE).read_text())
    except (OSError, ValueError) as error:
        raise InputError("the folder holds something that is not a sample, and it is left alone.", file=folder, advice=advice) from error
    return stamp if isinstance(stamp, dict) else {}


def _replace(folder: Path, by: Path) -> None:
    """Put a finished folder in the place of what is there."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        folder.replace(old)
        by.replace(folder)
        shutil.rmtree(old)
    else:
        by.replace(folder)
