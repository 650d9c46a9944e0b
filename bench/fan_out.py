"""Fan-out: hundreds of small strata on the test cluster, in batches and one job a partition.

    script/slurm-cluster up
    python -m bench.fan_out                          # 250 strata in batches, 10 of them one by one, beside each other
    python -m bench.fan_out --strata 60 --alone 4    # quicker
    python -m bench.fan_out --local                  # without a cluster

Strata have the sizes of published jobs, drawn evenly over the sorted table and divided by ``--scale`` in samples and in genes; they stand
in two datasets, one of counts and one of normalized values, as harmonized samples that were accepted. Each Dagster run is a process of its
own, as the daemon starts them, four of them at a time. **batches**: what the sensor asks for, runs of ``materialize_batch``. **alone**: the
job of a single partition for some strata, scaled to all of them. Wall time is from the first process to the end of the last; jobs are those
of the ledger. Checked: every partition has a materialization and a run of its own.

The machine of the cluster is this one, so load beside it counts: the ratio says more than the seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anndata as ad
import dagster as dg
import pandas as pd

from assets.batches import BATCH, JOBS, BatchInputs, in_batches, partition_name
from assets.materialize import dagster_instance, prepare_home
from assets.partitions import key_to_partition, register_datasets
from assets.planning import Planner
from bench.effects import JOBS as PUBLISHED
from bench.shapes import NORMALIZED, Shape, read_jobs
from bench.simulate import simulated_stratum
from perturbridge_dagster.definitions import build_definitions
from perturbridge_dagster.effects.strata import Stratum, strata_table
from perturbridge_dagster.home import CURRENT
from perturbridge_dagster.payloads.requests import DONE
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import Stamp, write_h5ad, write_json, write_parquet
from resources.slurm import ledger
from resources.slurm.settings import batch_seconds
from resources.store import SETTINGS, Key, Output, Store

CHECKOUT = Path(__file__).resolve().parents[1]
STAGE = "condition_effects"
AT_ONCE = 4
COUNTS, INTENSITIES = "vcpi_0001", "l1000_phase1"


# ---- the strata ----------------------------------------------------------------------------------------------------------------


def small_shapes(jobs: pd.DataFrame, n: int, scale: float) -> list[Shape]:
    """Shapes of some published jobs, evenly over their sizes, with fewer samples, conditions and genes.

    Parameters
    ----------
    jobs
        As ``shapes.read_jobs`` gives them.
    n
        How many.
    scale
        What samples, conditions and genes are divided by, each.
    """
    grouped = jobs[jobs["replicates"] == "grouped"]
    by_size = grouped.sort_values(["design_samples", "genes_in", "input"], ignore_index=True)
    shapes = []
    for number in range(n):
        job = by_size.iloc[number * len(by_size) // n]
        n_conditions = max(round(job["contrasts"] / scale), 4)
        n_samples = max(round(job["design_samples"] / scale), 3 * n_conditions + 6)
        n_plates = max(round((job["design_coefficients"] - job["contrasts"]) / scale), 2)
        dataset = INTENSITIES if job["dataset"] in NORMALIZED else COUNTS
        n_controls = max(2 * n_plates, round(0.05 * n_samples))
        context, n_genes = f"CVCL_{number:04d}", max(round(job["genes_in"] / scale), 300)
        shapes.append(
            Shape(dataset, 0, context, "grouped", n_samples - n_controls, n_conditions, n_controls, n_plates, 1, n_genes, 1, {}, False)
        )
    return shapes


def write_home(home: Path, shapes: Sequence[Shape], settings: str) -> None:
    """Make a home whose harmonized samples have these strata, accepted."""
    from perturbridge_dagster.contract import STRATA

    prepare_home(home)
    store = Store(home=str(home))
    (home / SETTINGS).write_text(f'{settings}\n[sources]\n{COUNTS} = "native"\n{INTENSITIES} = "native"\n')
    for dataset in (COUNTS, INTENSITIES):
        folder = store.folder("harmonized_samples", (dataset,)) / dataset
        stamp = Stamp("harmonized_samples", STAGES["harmonized_samples"].code_version, "bench", (dataset,), "open", simulated=True)

        def written(folder: Path = folder, dataset: str = dataset, stamp: Stamp = stamp) -> Iterator[tuple[Stratum, ad.AnnData, str]]:
            for shape in shapes:
                if shape.dataset == dataset:
                    # little is expressed of few genes; more counts a gene than in a whole transcriptome
                    samples = simulated_stratum(replace(shape, dataset="dilimap_train") if dataset == COUNTS else shape)
                    samples.obs["dataset"] = dataset
                    file = f"strata/{shape.cell_context}.h5ad"
                    write_h5ad(folder / file, samples, stamp)
                    yield Stratum(dataset, shape.cell_context, shape.cell_context, shape.cell_context, ()), samples, file

        (folder / "strata").mkdir(parents=True)
        write_parquet(folder / "strata.parquet", strata_table(written()), STRATA, stamp)
        write_json(folder / DONE, {"digest": dataset, "files": {}, "seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_bytes": 0})
        write_json(folder.parent / CURRENT, {"digest": dataset, "output": folder.name})
        output = Output("harmonized_samples", (dataset,), folder, dataset)
        store.record_checks(output, {check: {"passed": True} for check in STAGES["harmonized_samples"].blocking_checks})


# ---- runs ----------------------------------------------------------------------------------------------------------------------


def _child(home: Path, *arguments: str) -> None:
    """A Dagster run in a process of its own."""
    environment = {**os.environ, "PERTURBRIDGE_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "bench.fan_out", "--home", str(home), *arguments], check=True, cwd=CHECKOUT, env=environment)


def _run(home: Path, job: str, config: dict[str, object] | None, partition: str | None) -> None:
    """What such a process does."""
    with dagster_instance(home) as instance:
        result = (
            build_definitions(home=home)
            .resolve_job_def(job)
            .execute_in_process(
                partition_key=partition,
                run_config={
                    "loggers": {"console": {"config": {"log_level": "ERROR"}}},
                    **({"ops": {BATCH: {"config": config}}} if config else {}),
                },
                instance=instance,
            )
        )
    if not result.success:
        raise SystemExit(f"{job} failed")


def _all(home: Path, runs: Sequence[tuple[str, ...]]) -> float:
    """Seconds that runs take, some at a time."""
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda arguments: _child(home, *arguments), runs))
    return time.monotonic() - began


def _materialized(home: Path, keys: Sequence[Key]) -> int:
    """Partitions with a materialization from a run of their own."""
    with dagster_instance(home) as instance:
        runs = set()
        for key in keys:
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(dg.AssetKey(STAGE), asset_partitions=[str(key_to_partition(STAGE, key))]), limit=1
            ).records
            if records:
                runs.add(records[0].run_id)
        return len(runs)


WAYS = ("batches", "alone")


def _keys(home: Path) -> list[Key]:
    """Partitions of a home."""
    planner = Planner(Store(home=str(home)))
    return planner.keys(STAGE)


def prepare(folder: Path, *, n: int, scale: float, n_alone: int, settings: str) -> None:
    """Make a home for each way.

    Parameters
    ----------
    folder
        On the file system that the nodes share.
    n, scale
        As for :func:`small_shapes`.
    n_alone
        How many are run one by one.
    settings
        Tables of ``settings.toml`` that say where payloads run; empty for this machine.
    """
    shapes = small_shapes(read_jobs(PUBLISHED), n, scale)
    for way in WAYS:
        home = folder / way
        write_home(home, shapes if way == "batches" else shapes[:: math.ceil(n / n_alone)], settings)
        with dagster_instance(home) as instance:
            register_datasets(instance, Store(home=str(home)))
            instance.add_dynamic_partitions("cell_context", sorted({context for _, context in _keys(home)}))


def compare(folder: Path) -> None:
    """Materialize the strata of one home in batches, and those of the other alone."""
    found = {}
    for way in WAYS:
        home = folder / way
        keys = _keys(home)
        if way == "batches":
            batches = in_batches(Planner(Store(home=str(home))), STAGE, keys, batch_seconds(home))
            configs = [BatchInputs(stage=STAGE, partitions=[partition_name(STAGE, key) for key in batch]).model_dump() for batch in batches]
            runs = [("--job", "materialize_batch", "--config", json.dumps(config)) for config in configs]
        else:
            runs = [("--job", str(JOBS[STAGE].name), "--partition", str(key_to_partition(STAGE, key))) for key in keys]
        seconds = _all(home, runs)
        materialized, jobs = _materialized(home, keys), ledger.jobs(home)
        if materialized != len(keys):
            raise SystemExit(f"{way}: {materialized} of {len(keys)} partitions have a run and a materialization of their own")
        fits = sum(output.done()["cpu_seconds"] for key in keys if (output := Store(home=str(home)).current(STAGE, key)))
        print(
            f"{way}: {len(keys)} partitions in {len(runs)} runs to start, {len(jobs)} SLURM jobs, {seconds:.0f} s; "
            f"fits took {fits:.0f} s of CPU; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        found[way] = (len(keys), seconds)
    (n, together), (n_alone, alone) = found["batches"], found["alone"]
    scaled = alone * n / n_alone
    print(f"one job a partition, scaled to {n}: {scaled:.0f} s and {n} jobs; in batches {scaled / together:.1f} times faster")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strata", type=int, default=250)
    parser.add_argument("--alone", type=int, default=10, help="strata that are run one by one")
    parser.add_argument("--scale", type=float, default=10, help="what samples and genes are divided by")
    parser.add_argument("--local", action="store_true", help="payloads run on this machine")
    parser.add_argument("--prepare", action="store_true", help="only make the homes")
    parser.add_argument("--prepared", action="store_true", help="use the homes that were made")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".perturbridge" / "bench" / "fan_out", help="where homes are made")
    for hidden in ("--home", "--job", "--config", "--partition"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        _run(Path(options.home), options.job, json.loads(options.config) if options.config else None, options.partition)
        return
    if not options.prepared:
        shutil.rmtree(options.folder, ignore_errors=True)
        settings = ""
        if not options.local:
            script = [str(CHECKOUT / "script" / "slurm-cluster"), "env", "--settings"]
            settings = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout
        prepare(options.folder, n=options.strata, scale=options.scale, n_alone=options.alone, settings=settings)
    if not options.prepare:
        compare(options.folder)


if __name__ == "__main__":
    main()
