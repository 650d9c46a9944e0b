"""Check the description of a screen of one's own, and put it into the graph.

    python -m perturbridge_dagster.sources.add_screen my_screen.yaml --check    # read everything and say what was found
    python -m perturbridge_dagster.sources.add_screen my_screen.yaml            # the same, and put it into the graph

Belongs here: that command. Does not belong here: reading (``screen.py``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity import snapshot
from perturbridge_dagster.registry.own_screens import read_description, screens_folder
from perturbridge_dagster.sources.assemble import assemble
from perturbridge_dagster.sources.screen import choices, described, read

if TYPE_CHECKING:
    import anndata as ad


def check(description: Path) -> ad.AnnData:
    """Harmonize the screen that a file describes, wherever the file lies.

    Raises
    ------
    InputError
        If something is wrong with the description or its files.
    """
    declared = read_description(description)
    screen = described(declared)
    files = {role: screen.folder / name for role, name in screen.files().items()}
    absent = [(role, file) for role, file in files.items() if not file.is_file()]
    if absent:
        role, file = absent[0]
        field = {"counts": "counts.file", "samples": "samples", "genes": "counts.genes", "sample_names": "counts.samples"}[role]
        there = sorted(path.name for path in file.parent.glob("[!.]*")) if file.parent.is_dir() else []
        raise InputError(
            f"there is no file {file}.",
            dataset=declared.id,
            file=screen.where(field),
            column=field,
            expected=f"one of {choices(there)}" if there else "a folder with the screen's files; set folder in the description",
        )
    return assemble(declared, read(declared, {role: [file] for role, file in files.items()}), snapshot.shipped())


def summary(samples: ad.AnnData) -> str:
    """What was found in a screen, for its owner."""
    obs = samples.obs
    treated = obs[~obs["is_control"]]
    compounds = treated.drop_duplicates("perturbagen")
    controls = obs.groupby("plate", observed=True)["is_control"].sum()
    named = ", ".join(f"{name} ({id_})" for name, id_ in sorted(set(zip(obs["source_cell_context"], obs["cell_type"], strict=True))))
    lines = [
        f"{samples.n_obs:,} samples × {samples.n_vars:,} genes; median {obs['psbulk_counts'].median():,.0f} counts a sample",
        f"cell contexts: {named}",
        f"plates: {len(controls):,}, with {controls.min():,} to {controls.max():,} vehicle controls each",
        f"perturbagens: {len(compounds):,}, of which {int(compounds['pubchem_cid'].notna().sum()):,} have a PubChem id",
        f"doses (µM): {_distinct(treated['pert_dose_uM'])}; times (h): {_distinct(obs['pert_time_h'])}",
        "dropped:",
    ]
    steps = samples.uns["reconciliation"]
    dropped = [f"  {row.n_dropped:,} of {row.n_in:,} {row.axis}: {row.rule}" for row in steps.itertuples() if row.n_dropped]
    return "\n".join(lines + (dropped or ["  nothing"]))


def _distinct(values: pd.Series) -> str:
    return ", ".join(f"{value:g}" for value in np.unique(values))


def add(description: Path) -> Path:
    """Put a description where the graph finds it.

    Returns
    -------
    Its place there, a link to the file, so that its owner goes on editing one file. A description that lies there already stays as it is.

    Raises
    ------
    InputError
        If another description of that name is there.
    """
    target = description.resolve()
    link = screens_folder() / description.name
    if link.exists():
        if link.resolve() != target:
            raise InputError("another screen has this name.", file=link, advice="Give the file another name.")
        # the link, or the description itself, which may have no other copy
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    # a link whose file is gone is replaced
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.symlink_to(target)
    aside.replace(link)
    return link


def main(arguments: Sequence[str] | None = None) -> None:
    """Check a screen, and add it unless told otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m perturbridge_dagster.sources.add_screen", description="Check a screen of your own and put it into the graph."
    )
    parser.add_argument("description", type=Path, help="a YAML file")
    parser.add_argument("--check", action="store_true", help="only say what is found")
    asked = parser.parse_args(arguments)
    try:
        print(summary(check(asked.description)))
        if not asked.check:
            print(f"It is part of the graph now: {add(asked.description)}")
    except InputError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
