"""The published splits: the scalar split and the molecule hold-out.

Belongs here: assigning conditions to train, val and test by the published rules. Does not belong here: what a split promises
(``promises.py``), or splits that nobody has published (``holdouts.py``).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict

import numpy as np
import pandas as pd

from perturbridge_dagster.representation.splits.conditions import SPLITS, UNIT, MoleculeKey, molecules_of, require_columns, symbols_of

_FEW_SHARED = 20
_SWAP_SEED_OFFSET = 2000
_HALVING_SEED_OFFSET = 5000


# ---- the published scalar split ----------------------------------------------------------------------------------------------


def assign_units(conditions: pd.DataFrame, *, seed: int = 13) -> pd.DataFrame:
    """Assign each (dataset, context, perturbation) unit to a split, and say how it came there.

    The published procedure (facts: Chem-PerturBridge LPM):

    1. In each dataset, permute the units and hold out the first ⌊0.3 n⌋.
    2. A held-out unit whose perturbation is trained nowhere changes places with a train unit of its dataset whose perturbation is
       trained in another dataset too; without such a unit it moves to train alone.
    3. Permute the perturbations still held out; the first half goes to val, the rest to test.

    The published row order is not known. Here units are sorted by dataset, context and perturbation as text, and every dataset starts
    a generator of its own, so the result depends neither on the order of rows nor on other datasets' sizes.

    Parameters
    ----------
    conditions
        Columns dataset, context, perturbation; one or more rows a unit.
    seed
        Seeds ``RandomState(seed)`` in step 1, ``seed + 2000`` in step 2, ``seed + 5000`` in step 3.

    Returns
    -------
    DataFrame
        One row a unit, sorted: dataset, context, perturbation, split, and `move`: ``"none"``, ``"swapped_to_train"``,
        ``"swapped_to_held_out"`` or ``"moved_to_train"``.

    Raises
    ------
    InputError
        If a column is absent or a symbol is missing.
    """
    require_columns(conditions, UNIT)
    units = pd.DataFrame({name: symbols_of(conditions, name) for name in UNIT}).drop_duplicates().sort_values(UNIT, ignore_index=True)
    perturbation, _ = pd.factorize(units["perturbation"], sort=True)
    dataset, _ = pd.factorize(units["dataset"], sort=True)
    rows_of_dataset = [np.flatnonzero(dataset == code) for code in range(dataset.max(initial=-1) + 1)]

    held_out = np.zeros(len(units), dtype=bool)
    for rows in rows_of_dataset:
        permuted = np.random.RandomState(seed).permutation(rows)
        held_out[permuted[: len(rows) * 3 // 10]] = True

    move = np.full(len(units), "none", dtype=object)
    orphan = held_out & ~np.isin(perturbation, perturbation[~held_out])
    # number of train units by perturbation and dataset, kept up to date between datasets, so that
    # no swap takes a perturbation's last training
    trained: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for code, where in zip(perturbation[~held_out], dataset[~held_out], strict=True):
        trained[code][where] += 1

    def trained_in_another_dataset(row: int) -> bool:
        counts = trained[perturbation[row]]
        return any(count > 0 for where, count in counts.items() if where != dataset[row])

    for rows in rows_of_dataset:
        orphans = rows[orphan[rows]]
        candidates = [row for row in rows[~held_out[rows]] if trained_in_another_dataset(row)]
        partners = np.random.RandomState(seed + _SWAP_SEED_OFFSET).permutation(candidates)[: len(orphans)].astype(int)
        held_out[partners] = True
        held_out[orphans] = False
        move[partners] = "swapped_to_held_out"
        move[orphans] = "moved_to_train"
        move[orphans[: len(partners)]] = "swapped_to_train"
        for row in partners:
            trained[perturbation[row]][dataset[row]] -= 1
        for row in orphans:
            trained[perturbation[row]][dataset[row]] += 1

    remaining = np.unique(perturbation[held_out])
    shuffled_perturbations = np.random.RandomState(seed + _HALVING_SEED_OFFSET).permutation(remaining)
    in_val = np.isin(perturbation, shuffled_perturbations[: len(remaining) // 2])
    units["split"] = np.select([~held_out, in_val], ["train", "val"], "test")
    units["move"] = move
    return units


def split_scalar(conditions: pd.DataFrame, *, seed: int = 13) -> pd.DataFrame:
    """The published scalar split: 30 % of (dataset, context, perturbation) units held out, every perturbation trained somewhere.

    Parameters
    ----------
    conditions
        Columns dataset, context, perturbation; other columns, such as log_dose and time, are kept.
    seed
        See :func:`assign_units`.

    Returns
    -------
    DataFrame
        `conditions` in its own order and index, with a column ``split`` of train, val and test.

    Raises
    ------
    InputError
        If a column is absent or a symbol is missing.
    """
    units = assign_units(conditions, seed=seed)
    keys = pd.MultiIndex.from_arrays([symbols_of(conditions, name) for name in UNIT])
    position = pd.MultiIndex.from_frame(units[UNIT]).get_indexer(keys)
    return conditions.assign(split=units["split"].to_numpy(dtype=object)[position])


def summarize_units(units: pd.DataFrame) -> pd.DataFrame:
    """The report of a scalar split: units of each dataset by split, and how many moved.

    Parameters
    ----------
    units
        As :func:`assign_units` returns it.

    Returns
    -------
    DataFrame
        One row a dataset: dataset, n_units, n_first_held_out, n_swapped, n_moved_to_train, n_train, n_val, n_test.
    """
    moves = {name: units["move"] == name for name in ("swapped_to_train", "swapped_to_held_out", "moved_to_train")}
    first_held_out = ((units["split"] != "train") & ~moves["swapped_to_held_out"]) | moves["swapped_to_train"] | moves["moved_to_train"]
    marks = pd.DataFrame(
        {
            "dataset": units["dataset"],
            "n_units": 1,
            "n_first_held_out": first_held_out,
            "n_swapped": moves["swapped_to_train"],
            "n_moved_to_train": moves["moved_to_train"],
            **{f"n_{name}": units["split"] == name for name in SPLITS},
        }
    )
    return marks.groupby("dataset", sort=True).sum().astype(int).reset_index()


# ---- the molecule hold-out split ---------------------------------------------------------------------------------------------


def held_out_molecules(conditions: pd.DataFrame, *, by: MoleculeKey = "cid", seed: int = 13) -> pd.DataFrame:
    """Choose the molecules that each dataset holds out.

    The published rules (facts: Chem-PerturBridge, molecule hold-out):

    * A shared molecule occurs in at least one other dataset.
    * Datasets are served by number of shared molecules, then name, ascending. A molecule may be held out of a dataset only while
      another dataset that has it does not hold it out.
    * With 20 shared molecules or more, ⌊0.1 · shared⌋ go to val and as many to test: the shared molecules, sorted as text, are
      shuffled by ``random.Random`` seeded with the first 16 hexadecimal digits of SHA-256 of ``"<seed>:<dataset>"``; the list is
      walked, filling val first.
    * With fewer, every eligible molecule is held out, in the order of most samples, then name, each in whichever of val and test
      has fewer samples so far; ties go to val.

    Parameters
    ----------
    conditions
        One row a sample: dataset, perturbation (molecules joined by ``+``; ``Control`` is none) and, for ``by="parent"``, parent_key
        (where it is null the perturbation stands for itself).
    by
        Whether molecules are PubChem ids, or salt-stripped parents, so that salts of one drug are held out together.
    seed
        Part of the text that seeds each dataset's shuffle.

    Returns
    -------
    DataFrame
        dataset, rule (``ten_percent_shared_molecules`` or ``low_shared_sample_balanced``), split, molecule, samples_in_dataset and
        other_training_datasets (names joined by ``;``), sorted by dataset, split, molecule.

    Raises
    ------
    InputError
        If a column is absent, a symbol is missing, or `by` is unknown.
    """
    counts = molecules_of(conditions, by).groupby(["dataset", "molecule"], sort=True).size().rename("n_samples").reset_index()
    datasets_of = {str(molecule): set(names) for molecule, names in counts.groupby("molecule")["dataset"]}
    n_samples = dict(zip(zip(counts["dataset"], counts["molecule"], strict=True), counts["n_samples"].tolist(), strict=True))
    shared = {
        str(dataset): sorted(molecule for molecule in molecules if len(datasets_of[molecule]) > 1)
        for dataset, molecules in counts.groupby("dataset")["molecule"]
    }
    holders: defaultdict[str, set[str]] = defaultdict(set)
    chosen: list[tuple[str, str, str, str]] = []
    for dataset in sorted(shared, key=lambda name: (len(shared[name]), name)):
        eligible = [molecule for molecule in shared[dataset] if datasets_of[molecule] - holders[molecule] - {dataset}]
        if len(shared[dataset]) >= _FEW_SHARED:
            rule = "ten_percent_shared_molecules"
            assigned = _tenth_each(shared[dataset], set(eligible), f"{seed}:{dataset}")
        else:
            rule = "low_shared_sample_balanced"
            assigned = _balanced({molecule: n_samples[dataset, molecule] for molecule in eligible})
        for molecule, split in assigned.items():
            holders[molecule].add(dataset)
            chosen.append((dataset, rule, split, molecule))
    frame = pd.DataFrame(chosen, columns=["dataset", "rule", "split", "molecule"], dtype=object)
    frame["samples_in_dataset"] = [n_samples[key] for key in zip(frame["dataset"], frame["molecule"], strict=True)]
    frame["other_training_datasets"] = [";".join(sorted(datasets_of[name] - holders[name])) for name in frame["molecule"]]
    return frame.sort_values(["dataset", "split", "molecule"], ignore_index=True)


def _tenth_each(shared: list[str], eligible: set[str], seed_text: str) -> dict[str, str]:
    """Walk the shuffled shared molecules; the first tenth of eligible ones is val, the next tenth test."""
    target = len(shared) // 10
    shuffled = list(shared)
    random.Random(int(hashlib.sha256(seed_text.encode()).hexdigest()[:16], 16)).shuffle(shuffled)
    walked = [molecule for molecule in shuffled if molecule in eligible][: 2 * target]
    return {molecule: "val" if place < target else "test" for place, molecule in enumerate(walked)}


def _balanced(n_samples: dict[str, int]) -> dict[str, str]:
    """Give each molecule, most samples first, to whichever of val and test has fewer samples."""
    total = {"val": 0, "test": 0}
    assigned = {}
    for molecule in sorted(n_samples, key=lambda name: (-n_samples[name], name)):
        split = "val" if total["val"] <= total["test"] else "test"
        assigned[molecule] = split
        total[split] += n_samples[molecule]
    return assigned


def split_molecules(conditions: pd.DataFrame, *, by: MoleculeKey = "cid", seed: int = 13) -> pd.DataFrame:
    """Split conditions so that held-out molecules are unseen in their dataset but trained in another.

    Parameters
    ----------
    conditions
        One row a sample, with columns dataset, context, perturbation (PubChem id as text; molecules of a combination joined by
        ``+``), log_dose and time; for ``by="parent"`` also parent_key. Only dataset, perturbation and parent_key decide.
    by
        ``"cid"``, or ``"parent"`` to hold out salts and hydrates of one drug together.
    seed
        See :func:`held_out_molecules`, which states the rules.

    Returns
    -------
    DataFrame
        `conditions` in its own order and index, with a column ``split``: test if any molecule of the row is a test molecule of its
        dataset, else val if any is a val molecule, else train.

    Raises
    ------
    InputError
        If a column is absent, a symbol is missing, or `by` is unknown.
    """
    held_out = held_out_molecules(conditions, by=by, seed=seed)
    found = molecules_of(conditions, by).merge(held_out[["dataset", "molecule", "split"]], on=["dataset", "molecule"])
    split = np.full(len(conditions), "train", dtype=object)
    for name in ("val", "test"):
        split[found.loc[found["split"] == name, "row"].to_numpy()] = name
    return conditions.assign(split=split)
