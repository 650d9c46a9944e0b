"""What a split promises, where it breaks its promise, and what else train has seen of the rows that are held out.

Belongs here: promises as keys that splits must not share, and counts. Does not belong here: who is held out (``published.py``,
``holdouts.py``).

A split keeps one promise and no other: the molecule split holds a compound out of a dataset, and trains it in another. So the promise is
declared with the split and checked as such, and every other overlap is counted beside it, for whoever reads the scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.splits.conditions import HELD_OUT, SPLITS, MoleculeKey, molecules_of, require_columns, symbols_of
from perturbridge_dagster.representation.splits.holdouts import scaffolds_of

_ALL = (("train", "val"), ("train", "test"), ("val", "test"))


@dataclass(frozen=True)
class Promise:
    """What splits must not share, or must.

    Attributes
    ----------
    name
        Its name.
    key
        What tells rows apart: columns of the conditions, or ``cid``, ``parent`` and ``scaffold``, which are of their compounds.
    meaning
        What it says, for people.
    apart
        Pairs of splits that share no value of the key.
    is_trained
        Whether, instead, every held-out value of the key is in train.
    """

    name: str
    key: tuple[str, ...]
    meaning: str
    apart: tuple[tuple[str, str], ...] = _ALL
    is_trained: bool = False


_PROMISES = (
    Promise(
        "unit",
        ("dataset", "context", "perturbation"),
        "a compound in a dataset and cell context lies in one split, with all its doses and times",
    ),
    Promise("cid_in_target_dataset", ("dataset", "cid"), "a held-out compound is not trained in its own dataset"),
    Promise(
        "parent_in_target_dataset",
        ("dataset", "parent"),
        "no salt or stereoisomer of a held-out compound is trained in its own dataset",
    ),
    Promise("cid_anywhere", ("cid",), "a held-out compound is trained in no dataset"),
    Promise("parent_anywhere", ("parent",), "no salt or stereoisomer of a held-out compound is trained in any dataset"),
    Promise("scaffold_anywhere", ("scaffold",), "no compound with the scaffold of a held-out one is trained in any dataset"),
    Promise("context", ("context",), "a held-out cell context is trained in no dataset"),
    Promise("model_system", ("model_system",), "a held-out kind of model system is trained in no dataset"),
    Promise("assay", ("assay",), "a held-out assay is not trained"),
    Promise("cid_in_val_and_test", ("cid",), "val and test share no compound", apart=(("val", "test"),)),
    Promise("cid_trained", ("cid",), "every held-out compound is trained in a dataset", apart=(), is_trained=True),
    Promise(
        "parent_trained", ("parent",), "a salt or stereoisomer of every held-out compound is trained in a dataset", (), is_trained=True
    ),
)

PROMISES = {promise.name: promise for promise in _PROMISES}
"""Every promise, by name."""

_MOLECULES: dict[str, MoleculeKey] = {"cid": "cid", "parent": "parent"}
_COLUMNS = ["promise", "split", "dataset", "value", "n_conditions"]


def _keyed(conditions: pd.DataFrame, key: tuple[str, ...]) -> pd.DataFrame:
    """Columns row, dataset, split, value: one row a condition and value of a key, several for a combination of compounds."""
    require_columns(conditions, ["split", "dataset"])
    if unknown := sorted(set(conditions["split"].astype(str)) - set(SPLITS)):
        raise InputError(f"splits named {', '.join(unknown)}", column="split", expected=", ".join(SPLITS))
    of_compound = next((_MOLECULES[name] for name in key if name in _MOLECULES), None)
    if of_compound:
        rows = molecules_of(conditions, of_compound).rename(columns={"molecule": key[-1]})
    else:
        values = {name: scaffolds_of(conditions) if name == "scaffold" else symbols_of(conditions, name) for name in {"dataset", *key}}
        rows = pd.DataFrame({"row": range(len(conditions)), **{name: value.to_numpy() for name, value in values.items()}})
    value = rows[key[0]]
    for name in key[1:]:
        value = value + " · " + rows[name]
    split = conditions["split"].astype(str).to_numpy()[rows["row"]]
    return pd.DataFrame({"row": rows["row"], "dataset": rows["dataset"], "split": split, "value": value})


def _seen(keyed: pd.DataFrame) -> pd.Series:
    """Whether each held-out row of a keyed table is seen in train: all its compounds are, where it combines several."""
    in_train = keyed["value"].isin(set(keyed.loc[keyed["split"] == "train", "value"]))
    return in_train.groupby(keyed["row"]).transform("all") & (keyed["split"] != "train")


def _at_fault(keyed: pd.DataFrame, promise: Promise) -> pd.Series:
    """Whether each row of a keyed table breaks a promise."""
    if promise.is_trained:
        return (keyed["split"] != "train") & ~keyed["value"].isin(set(keyed.loc[keyed["split"] == "train", "value"]))
    fault = pd.Series(False, index=keyed.index)
    if any(split == "train" for split, _ in promise.apart):
        fault |= _seen(keyed)
    if ("val", "test") in promise.apart:
        # the partner of a held-out compound in a combination may be in both
        alone = keyed[(keyed["split"] != "train") & (keyed.groupby("row")["value"].transform("size") == 1)]
        torn = alone.groupby("value")["split"].transform("nunique") > 1
        fault.loc[torn.index[torn]] = True
    return fault


def violations(conditions: pd.DataFrame, promises: Iterable[str]) -> pd.DataFrame:
    """Where a split breaks its promises.

    Parameters
    ----------
    conditions
        One row a condition, with column split and what the keys need: dataset, context, perturbation, parent_key, scaffold, model_system,
        assay.
    promises
        Names of ``PROMISES``.

    Returns
    -------
    DataFrame
        promise, split, dataset, value (of the key, parts joined by `` · ``), n_conditions; empty where all are kept.

    Raises
    ------
    InputError
        If a column is absent, or a split is none.
    """
    found = []
    for promise in (PROMISES[name] for name in promises):
        keyed = _keyed(conditions, promise.key)
        faulty = keyed[_at_fault(keyed, promise)]
        counted = faulty.groupby(["split", "dataset", "value"], sort=True)["row"].nunique().rename("n_conditions").reset_index()
        found.append(counted.assign(promise=promise.name))
    return pd.concat([frame for frame in found if len(frame)] or [pd.DataFrame(columns=_COLUMNS)], ignore_index=True)[_COLUMNS]


def overlaps(conditions: pd.DataFrame, promises: Iterable[str] = ()) -> pd.DataFrame:
    """What train has seen of the conditions that are held out, key by key.

    Parameters
    ----------
    conditions
        As for :func:`violations`. A key whose columns are not there is left out, and of any other the conditions where it is not known.
    promises
        Names of the promises that the split makes.

    Returns
    -------
    DataFrame
        One row a key of ``PROMISES`` and held-out split: promise, meaning, is_promised, split, n_conditions (held out), n_seen (of
        these, in train by that key), share (n_seen / n_conditions, null without conditions).
    """
    promised = set(promises)
    rows = []
    for promise in PROMISES.values():
        needed = {"parent": "parent_key", "cid": "perturbation"}
        if promise.apart != _ALL or not {needed.get(name, name) for name in promise.key} <= set(conditions.columns):
            continue
        direct = [name for name in promise.key if name in conditions.columns and name != "scaffold"]
        known = conditions[conditions[direct].notna().all(axis=1)] if direct else conditions
        if known.empty:
            continue
        keyed = _keyed(known, promise.key)
        seen = keyed.assign(seen=_seen(keyed)).groupby(["split", "row"])["seen"].any()
        for split in HELD_OUT:
            of_split = seen[seen.index.get_level_values("split") == split]
            n_conditions, n_seen = len(of_split), int(of_split.sum())
            share = n_seen / n_conditions if n_conditions else None
            rows.append((promise.name, promise.meaning, promise.name in promised, split, n_conditions, n_seen, share))
    return pd.DataFrame(rows, columns=["promise", "meaning", "is_promised", "split", "n_conditions", "n_seen", "share"])
