"""Command line of the sample: ``python -m perturbridge_dagster.sample --out DIR [--seed N] [--dataset NAME ...]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sample import BENCHMARKS, DATASETS, DEFAULT_SEED, write_sample


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sample; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perturbridge_dagster.sample", description="Write the built-in sample compendium.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; it appears whole or not at all")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, metavar="N", help="seed of the simulation (default: %(default)s)")
    parser.add_argument(
        "--dataset",
        action="append",
        choices=(*DATASETS, *BENCHMARKS),
        metavar="NAME",
        help=f"one of {', '.join((*DATASETS, *BENCHMARKS))}; repeatable (default: all)",
    )
    options = parser.parse_args(arguments)
    try:
        write_sample(options.out, seed=options.seed, datasets=options.dataset or (*DATASETS, *BENCHMARKS))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"sample in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
