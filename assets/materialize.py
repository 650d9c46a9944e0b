"""Materialize the whole graph, partition by partition, in the order of the flow: what ``script/demo`` runs.

Runs as ``python -m assets.materialize``. Every partition that is not current gets a short run in this process, with its checks; all
strata of a dataset are computed in the first one's payload and adopted by the others. What is current is left alone. Belongs here:
walking through the flow and saying what happened. Does not belong here: what a partition needs (``planning.py``).
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

from assets.checks import Evaluation, evaluations, print_evaluations
from assets.making import BatchInputs, batch
from assets.partitions import key_to_partition, register_datasets
from assets.planning import Planner
from assets.sensors import JOBS, OVERVIEW_JOB
from perturbridge_dagster.definitions import build_definitions
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.home import default_home
from perturbridge_dagster.registry import PAIR_SEPARATOR
from perturbridge_dagster.sample import DATASETS, DEFAULT_SEED, write_sample
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import written_whole
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
SETTINGS_TOML = """\
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
    """Write the sample compendium and point its datasets to it, unless native files of any dataset are configured.

    A home that already points to some datasets of the sample keeps to these.

    Simulated and real data are never mixed.

    Returns
    -------
    Whether the sample is what is configured.
    """
    configured = Store(home=str(home)).source_folders()
    datasets = list(configured) or list(DATASETS)
    if not configured:
        settings = tomlkit.parse((home / SETTINGS).read_text())
        settings.setdefault("sources", tomlkit.table()).update({dataset: f"sample/{dataset}" for dataset in datasets})
        with written_whole(home / SETTINGS) as aside:
            aside.write_text(tomlkit.dumps(settings))
    elif any(not folder.is_relative_to(home / "sample") for folder in configured.values()):
        return False
    write_sample(home / "sample", seed=seed, datasets=datasets)
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
        ahead = set()
        for key in _wanted(Planner(store).keys(stage), datasets):
            of = batch(stage, key)
            first = of is not None and of not in ahead
            ahead.add(of)
            _materialize_partition(definitions, instance, store, stage, key, summary, compute_ahead=first)
    started = time.monotonic()
    succeeded = _run(definitions, instance, OVERVIEW_JOB)
    (summary.materialized if succeeded else summary.failed).append("coverage and catalog")
    summary.seconds["coverage and catalog"] = time.monotonic() - started
    return summary


def _wanted(keys: list[Key], datasets: list[str] | None) -> list[Key]:
    if datasets is None:
        return keys
    return [key for key in keys if key[0] in datasets or all(name in datasets for name in key[0].split(PAIR_SEPARATOR))]


def _materialize_partition(
    definitions: dg.Definitions, instance: dg.DagsterInstance, store: Store, stage: str, key: Key, summary: Summary, *, compute_ahead: bool
) -> None:
    """Run a partition unless it is current, and say how it went."""
    name = f"{stage} {' '.join(key)}"
    state, reason = Planner(store).state(stage, key)
    if state == "current":
        summary.current.append(name)
        return
    if state == "waiting":
        print(f"  waiting       {name}: {reason}", flush=True)
        summary.waiting.append(name)
        return
    started = time.monotonic()
    ahead = BatchInputs(compute_ahead=True) if compute_ahead else None
    succeeded = _run(definitions, instance, JOBS[stage].name, key_to_partition(stage, key), ahead)
    seconds = time.monotonic() - started
    summary.seconds[stage] += seconds
    (summary.materialized if succeeded else summary.failed).append(name)
    print(f"  {'materialized' if succeeded else 'FAILED':13} {name}  ({seconds:.1f} s)", flush=True)
    if not succeeded:
        print(f"                {Planner(store).state(stage, key)[1]}", flush=True)


def _run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, partition: str | None = None, config: BatchInputs | None = None
) -> bool:
    """Run a job in this process; False when it failed, also on a blocking check."""
    stage = job.removeprefix("materialize_")
    run = definitions.resolve_job_def(job).execute_in_process(
        partition_key=partition,
        run_config=dg.RunConfig(
            ops={stage: config} if config else {},
            # what a run says is kept in the instance and shown by the UI; here only its result counts
            loggers={"console": {"config": {"log_level": "CRITICAL"}}},
        ),
        instance=instance,
        raise_on_error=False,
    )
    return run.success


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
    """Run from the command line; 0 when nothing failed and no blocking check did."""
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
    _print_summary(home, summary, checks, time.monotonic() - started)
    return int(bool(summary.failed) or any(check.stops for check in checks))


if __name__ == "__main__":
    sys.exit(main())
