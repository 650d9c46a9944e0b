"""Judge the data: every check evaluation in a table, and an exit status to trust; what ``script/check-data`` runs.

The status of a run or backfill is never asked: a backfill reports success although a blocking check of one of its partitions
failed. What counts is the last evaluation of each check on each real partition, whether it is about the output that is there now,
and what coverage finds missing. Runs as ``python -m assets.check_data``.
"""

from __future__ import annotations

import argparse
import sys

from assets.checks import evaluations, print_evaluations
from assets.materialize import dagster_instance, materialize_graph, prepare_home, print_broken_screens, use_sample
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.home import default_home
from resources.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 1 when a blocking check failed, did not run, or has nothing to judge, or an own screen was left out."""
    parser = argparse.ArgumentParser(prog="python -m assets.check_data", description="Every check evaluation, and an exit status to trust.")
    parser.add_argument("--failed", action="store_true", help="print only what has not passed")
    options = parser.parse_args(arguments)
    home = default_home()
    prepare_home(home)
    store = Store(home=str(home))
    is_any_left_out = print_broken_screens(store)
    try:
        if not (is_any_left_out or store.source_folders() or store.op3_benchmark_folder()):
            print("Nothing is configured: judging the sample compendium.", flush=True)
            use_sample(home)
            with dagster_instance(home) as instance:
                materialize_graph(home, instance)
        rows = evaluations(store)
    except PerturbridgeError as error:
        print(error, file=sys.stderr)
        return 1
    print_evaluations([row for row in rows if not (options.failed and row.verdict == "passed")])
    stopping = [row for row in rows if row.stops]
    passed = sum(row.verdict == "passed" for row in rows)
    warned = len(rows) - passed - len(stopping)
    print(f"{len(rows)} evaluations: {passed} passed, {warned} warn, {len(stopping)} blocking ones have not passed.")
    return int(is_any_left_out or bool(stopping))


if __name__ == "__main__":
    sys.exit(main())
