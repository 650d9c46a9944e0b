"""Ask PubChem what the identity snapshot does not know of a dataset's compounds, or list it.

Runs as ``python -m assets.ask_pubchem DATASET``. What PubChem says is kept in ``identity/`` of the platform's home, batch by batch: a
run that was stopped goes on where it was. Belongs here: finding the native files and the snapshot, printing. Does not belong here:
asking (``perturbridge_dagster/identity/asking.py``).
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.home import default_home
from perturbridge_dagster.identity.answers import present
from perturbridge_dagster.identity.asking import ask_compounds
from perturbridge_dagster.identity.pubchem import PubChem
from perturbridge_dagster.identity.snapshot import FOLDER, with_answers
from perturbridge_dagster.sources import read_native
from perturbridge_dagster.sources.assemble import distinct_compounds
from resources.store import Store


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 1 when PubChem could not be asked, or not about everything."""
    parser = argparse.ArgumentParser(
        prog="python -m assets.ask_pubchem", description="Ask PubChem what is not known of a dataset's compounds."
    )
    parser.add_argument("dataset", help="dataset id of the registry")
    parser.add_argument("--list", action="store_true", help="make no request: print what is not known, tab-separated")
    parser.add_argument("--files", type=Path, help="folder of the native files; the configured one where left out")
    options = parser.parse_args(arguments)
    home = default_home()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        files = options.files or Store(home=str(home)).source_folder(options.dataset)
        compounds, _ = distinct_compounds(read_native(options.dataset, files).obs)
        identity = with_answers(home / FOLDER, options.dataset)
        missing = identity.compounds.missing_compounds(compounds, options.dataset, present())
        unknown = missing.index.nunique()
        _say(f"{options.dataset}: {len(compounds):,} compounds, {unknown:,} of them not fully known; {len(missing):,} questions to ask.")
        if options.list:
            missing.to_csv(sys.stdout, sep="\t", index=False)
            return 0
        asked = ask_compounds(compounds, options.dataset, identity.compounds, home / FOLDER, PubChem(), _say)
    except PerturbridgeError as error:
        print(error, file=sys.stderr)
        return 1
    report = with_answers(home / FOLDER, options.dataset).compounds.report(compounds, options.dataset)
    _say(
        f"{asked.found:,} questions found, {asked.not_found:,} not found, {asked.failed:,} failed, {asked.taken_over:,} taken over from "
        f"other datasets; {asked.several:,} had several compounds for an answer."
    )
    outcomes = ", ".join(f"{n:,} {str(outcome).replace('_', ' ')}" for outcome, n in report["outcome"].value_counts().items())
    _say(f"Compounds: {outcomes}. harmonized_samples {options.dataset} is stale if anything new was learnt.")
    return int(asked.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
