"""Materialize the whole graph, partition by partition, in the order of the flow: what ``script/demo`` runs.

Runs as ``python -m assets.materialize``. The partitions of a stage that are not current go through ``materialize_batch``, as when the
sensor asks for them, in runs in this process. What is current is left alone. Belongs here: walking through the flow and saying what
happened. Does not belong here: what a partition needs (``planning``), or what is computed together (``batches.py``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import tomlkit

from assets.batches import BATCH, BatchInputs, in_batches, is_interrupted, materialize_batch, of_datasets, partition_name
from assets.checks import Evaluation, evaluations, print_evaluations
from assets.partitions import register_datasets
from assets.planning import Planner
from assets.sensors import OVERVIEW_JOB
from perturbridge_dagster.definitions import build_definitions
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.home import default_home
from perturbridge_dagster.registry.own_screens import own_screens
from perturbridge_dagster.sample import BENCHMARKS, DATASETS, DEFAULT_SEED, write_sample
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import written_whole
from resources.slurm.settings import TEMPLATE, batch_seconds
from resources.store import SETTINGS, Key, Store

DAGSTER_YAML = """\
telemetry:
  enabled: false
run_retries:
  enabled: true
  # a run that failed only on a blocking check would be run again, to fail again
  retry_on_asset_or_op_failure: false
concurrency:
  runs:
    # payloads use the machine's cores themselves; raise it where there are more
    max_concurrent_runs: 1
"""
SETTINGS_TOML = f"""\
{TEMPLATE}
# Where the native files of each dataset lie: a folder, absolute or relative to this file; or "download" to have them fetched. One line
# a dataset.
[sources]
"""


@dataclass
class Summary:
    """What a walk through the flow did."""

    materialized: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def prepare_home(home: Path) -> None:
    """Make the folders and configuration of a home, leaving what is there."""
    for file, text in ((home / "dagster" / "dagster.yaml", DAGSTER_YAML), (home / SETTINGS, SETTINGS_TOML)):
        if not file.exists():
            with written_whole(file) as aside:
                aside.write_text(text)


def use_sample(home: Path, seed: int = DEFAULT_SEED) -> bool:
    """Write the sample compendium and point its datasets and benchmarks to it, unless native files of any dataset are configured.

    An own screen is configured by its description, also where that is broken. A home that already points to some datasets of the sample
    keeps to these, without the benchmarks, which need them all.

    Simulated and real data are never mixed.

    Returns
    -------
    Whether the sample is what is configured.
    """
    store = Store(home=str(home))
    configured, benchmark = store.source_folders(), store.op3_benchmark_folder()
    if own_screens() or any(not folder.is_relative_to(home / "sample") for folder in (*configured.values(), *filter(None, [benchmark]))):
        return False
    datasets = list(configured) or list(DATASETS)
    is_whole = set(datasets) == set(DATASETS)
    if not configured or (is_whole and benchmark is None):
        settings = tomlkit.parse((home / SETTINGS).read_text(encoding="utf-8-sig"))
        settings.setdefault("sources", tomlkit.table()).update({dataset: f"sample/{dataset}" for dataset in datasets})
        for name in BENCHMARKS:
            settings.setdefault(name, tomlkit.table()).update({"folder": f"sample/{name}"})
        with written_whole(home / SETTINGS) as aside:
            aside.write_text(tomlkit.dumps(settings), encoding="utf-8")
    write_sample(home / "sample", seed=seed, datasets=[*datasets, *(BENCHMARKS if is_whole else ())])
    return True


@contextmanager
def dagster_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of a home, quiet in the terminal."""
    os.environ["DAGSTER_HOME"] = str(home / "dagster")
    with dg.DagsterInstance.get() as instance:
        yield instance


def materialize_graph(home: Path, instance: dg.DagsterInstance, *, datasets: list[str] | None = None) -> Summary:
    """Materialize every partition that is not current.

    Parameters
    ----------
    home
        The platform's home.
    instance
        Dagster instance that records the runs.
    datasets
        Only these datasets and their pairs; all configured ones unless given.
    """
    store = Store(home=str(home))
    register_datasets(instance, store)
    definitions = build_definitions(home=home)
    summary = Summary()
    for stage in STAGES:
        planner = Planner(store)
        wanted = _not_current(planner, stage, of_datasets(planner.keys(stage), datasets or []), summary)
        for keys in in_batches(planner, stage, wanted, batch_seconds(home)):
            _materialize_batch(definitions, instance, store, stage, keys, summary)
    started = time.monotonic()
    succeeded = _run(definitions, instance, OVERVIEW_JOB)
    (summary.materialized if succeeded else summary.failed).append("coverage and catalog")
    summary.seconds["coverage and catalog"] = time.monotonic() - started
    return summary


def _not_current(planner: Planner, stage: str, keys: list[Key], summary: Summary) -> list[Key]:
    """Partitions to materialize; those that are current or wait are counted."""
    wanted = []
    for key in keys:
        name = f"{stage} {' '.join(key)}"
        state, reason = planner.state(stage, key)
        if state == "current":
            summary.current.append(name)
        elif state == "waiting":
            print(f"  waiting       {name}: {reason}", flush=True)
            summary.waiting.append(name)
        else:
            wanted.append(key)
    return wanted


def _materialize_batch(
    definitions: dg.Definitions, instance: dg.DagsterInstance, store: Store, stage: str, keys: list[Key], summary: Summary
) -> None:
    """Materialize partitions together, and say how each went."""
    started = time.monotonic()
    if len(keys) > 1:
        print(f"  {len(keys)} partitions of {stage} ...", flush=True)
    _run(definitions, instance, materialize_batch.name, BatchInputs(stage=stage, partitions=[partition_name(stage, key) for key in keys]))
    planner = Planner(store)
    for key in keys:
        name = f"{stage} {' '.join(key)}"
        state, reason = planner.state(stage, key)
        if state == "current":
            seconds = sum(output.done()["seconds"] for output in planner.outputs(stage, key))
            print(f"  materialized  {name}  ({seconds:.1f} s)", flush=True)
            summary.materialized.append(name)
        else:
            print(f"  FAILED        {name}\n                {reason}", flush=True)
            summary.failed.append(name)
    summary.seconds[stage] += time.monotonic() - started


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, config: BatchInputs | None = None) -> bool:
    """Run a job in this process; False when it failed.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted.
    """
    run = definitions.resolve_job_def(job).execute_in_process(
        run_config=dg.RunConfig(
            ops={BATCH: config} if config else {},
            # what a run says is kept in the instance and shown by the UI; here only its result counts
            loggers={"console": {"config": {"log_level": "CRITICAL"}}},
        ),
        instance=instance,
        raise_on_error=False,
    )
    if is_interrupted(run):
        raise KeyboardInterrupt
    return run.success


def print_broken_screens(store: Store) -> bool:
    """Say what is wrong with own screens whose description is broken; whether there are any."""
    broken = store.broken_screens()
    for words in broken:
        print(words, file=sys.stderr, flush=True)
    return bool(broken)


def _print_summary(home: Path, summary: Summary, checks: list[Evaluation], seconds: float) -> None:
    print(
        f"\n{len(summary.materialized)} materialized, {len(summary.current)} were current, {len(summary.failed)} failed, "
        f"{len(summary.waiting)} waiting, in {seconds:.0f} s."
    )
    for stage, spent in summary.seconds.items():
        print(f"  {stage:26}{spent:7.1f} s")
    verdicts = Counter(check.verdict for check in checks)
    print(f"Checks: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}.")
    print_evaluations([check for check in checks if check.verdict not in ("passed", "no output")])
    print(f"Files:   {home}")
    print(f"Query:   open {home / 'catalog.duckdb'} with DuckDB; the catalog asset shows examples")
    print("Browse:  script/server, then open the address it prints")
    print("Checks:  script/check-data prints all of them")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 when nothing failed, no blocking check did, and no own screen was left out."""
    parser = argparse.ArgumentParser(prog="python -m assets.materialize", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sample", action="store_true", help="use the built-in sample compendium, unless native files are configured")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of the sample compendium")
    parser.add_argument("--dataset", action="append", help="only this dataset (may be given again)")
    parser.add_argument("--prepare-home", action="store_true", help="only make the home's folders and configuration")
    options = parser.parse_args(arguments)
    home = default_home()
    prepare_home(home)
    if options.prepare_home:
        with dagster_instance(home):  # makes its database, which two servers starting together could not
            return 0
    started = time.monotonic()
    is_any_left_out = print_broken_screens(Store(home=str(home)))
    try:
        if options.sample:
            sampled = use_sample(home, options.seed)
            print(
                f"Native files: {'the sample compendium in ' + str(home / 'sample') if sampled else f'as {home / SETTINGS} says'}",
                flush=True,
            )
        with dagster_instance(home) as instance:
            print(f"Materializing into {home}", flush=True)
            summary = materialize_graph(home, instance, datasets=options.dataset)
            checks = evaluations(Store(home=str(home)))
    except PerturbridgeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. What is finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    _print_summary(home, summary, checks, time.monotonic() - started)
    return int(is_any_left_out or bool(summary.failed) or any(check.stops for check in checks))


if __name__ == "__main__":
    sys.exit(main())
