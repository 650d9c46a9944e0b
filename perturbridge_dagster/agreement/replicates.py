"""Replicates: how well replicates of one condition agree within a dataset.

Belongs here: which replicates make a pair, with which unmatched replicate they are compared, and scoring them. Does not belong
here: agreement between datasets (``scoring.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.baselines import OtherCompoundMeans
from perturbridge_dagster.agreement.keys import CONDITION_COLUMNS, condition_keys
from perturbridge_dagster.agreement.metrics import spearman_rows
from perturbridge_dagster.agreement.scoring import Signatures, empty_scores, read_signatures, score_pairs
from perturbridge_dagster.agreement.signatures import VALUES_PER_BLOCK, StratumEffects, shared_genes
from perturbridge_dagster.errors import InputError

_CONDITION = ["cell_type", "pubchem_cid", "pert_time_h", "pert_dose_uM"]


def _replicates(strata: Mapping[str, StratumEffects], dataset: str) -> pd.DataFrame:
    """All estimable replicates with a complete key, sorted by condition, stratum and sample; ``condition`` numbers the conditions."""
    tables = []
    for name, effects in sorted(strata.items()):
        contrasts = effects.contrasts.reset_index(drop=True)
        if contrasts["sample_id"].isna().any():
            raise InputError(
                f"contrasts of stratum {name} carry no sample_id.",
                dataset=dataset,
                rows=contrasts.index[contrasts["sample_id"].isna()].tolist(),
                column="sample_id",
                expected="effects of each replicate alone",
                advice="Use replicate_effects, not condition_effects.",
            )
        keys = condition_keys(contrasts)
        table = keys.assign(stratum=name, row=np.arange(len(keys)), **{c: contrasts[c] for c in ("contrast", "sample_id", "plate")})
        tables.append(table[keys["eligible"].to_numpy() & contrasts["estimable"].to_numpy(dtype=bool)])
    columns = [*CONDITION_COLUMNS, "stratum", "row", "contrast", "sample_id", "plate"]
    found = pd.concat([table[columns] for table in tables], ignore_index=True) if tables else pd.DataFrame(columns=columns)
    found = found.sort_values([*_CONDITION, "stratum", "sample_id", "contrast"], ignore_index=True).astype({"row": "int64"})
    return found.assign(condition=found.groupby(_CONDITION, sort=True).ngroup().astype("int64"))


def neighbour_pairs(condition: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair the replicates of each condition: two make one pair, more are paired in a circle, each with the next.

    Parameters
    ----------
    condition
        Number of the condition of each replicate, sorted.

    Returns
    -------
    Positions of the left and right replicate of each pair; n replicates make n pairs, but two make one and one makes none.
    """
    _, first, position, size = np.unique(condition, return_index=True, return_inverse=True, return_counts=True)
    left = np.arange(len(condition))
    place = left - first[position]
    right = first[position] + (place + 1) % size[position]
    keep = (size[position] > 2) | ((size[position] == 2) & (place == 0))
    return left[keep], right[keep]


def _seeded_choice(n: int, *names: object) -> int:
    """A number below n that depends on names only, not on the order of rows or on what else is chosen."""
    digest = hashlib.blake2b("\x1f".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % n


def _unmatched(replicates: pd.DataFrame, pairs: pd.DataFrame, dataset: str, seed: int) -> NDArray[np.int64]:
    """For each pair a replicate of another compound on the right one's plate at the same time; -1 where there is none.

    Parameters
    ----------
    replicates
        All replicates of the dataset, sorted.
    pairs
        ``left`` and ``right``: positions in `replicates`.

    Returns
    -------
    Positions in `replicates`, shape (pairs,).
    """
    samples, compounds = replicates["sample_id"].to_numpy(dtype=object), replicates["pubchem_cid"].to_numpy(dtype=np.int64)
    places = replicates[["stratum", "plate", "pert_time_h"]]
    indices = {place: np.asarray(rows, dtype=np.int64) for place, rows in places.groupby(list(places)).indices.items()}
    neighbours = {place: rows[np.argsort(samples[rows], kind="stable")] for place, rows in indices.items()}
    plate_of = list(places.itertuples(index=False, name=None))
    chosen = np.full(len(pairs), -1, dtype=np.int64)
    for pair, (left, right) in enumerate(zip(pairs["left"], pairs["right"], strict=True)):
        candidates = neighbours.get(plate_of[right], np.empty(0, dtype=np.int64))
        candidates = candidates[compounds[candidates] != compounds[right]]
        if len(candidates):
            chosen[pair] = candidates[_seeded_choice(len(candidates), seed, dataset, plate_of[right][0], samples[left], samples[right])]
    return chosen


def _condition_blocks(condition: NDArray[np.int64], n_genes: int) -> Iterator[NDArray[np.int64]]:
    """Positions of replicates, whole conditions together, in blocks of a bounded number of values.

    A condition with more replicates than a block holds makes a block of its own.
    """
    step = max(1, VALUES_PER_BLOCK // n_genes)
    _, first, position = np.unique(condition, return_index=True, return_inverse=True)
    block = first[position] // step
    for rows in np.split(np.arange(len(condition)), np.flatnonzero(np.diff(block)) + 1):
        if len(rows):
            yield rows


def _gather(parts: list[tuple[NDArray[np.bool_], Signatures]], n_rows: int, n_genes: int) -> Signatures:
    """Put the signatures of several strata into the order of one block."""
    log_fc, t, log10_adj_p = np.empty((3, n_rows, n_genes), dtype=np.float32)
    gathered = Signatures(log_fc, t, log10_adj_p, np.empty((n_rows, n_genes)), np.empty(n_rows, dtype=np.int64))
    for where, part in parts:
        for name in vars(part):
            getattr(gathered, name)[where] = getattr(part, name)
    return gathered


def _only_genes_of_all_replicates(side: Signatures, condition: NDArray[np.int64]) -> None:
    """Leave a gene out of a condition unless logFC and t are finite in all its replicates; in place."""
    _, first, position = np.unique(condition, return_index=True, return_inverse=True)
    complete = np.logical_and.reduceat(np.isfinite(side.log_fc) & np.isfinite(side.t), first, axis=0)[position]
    side.log_fc[~complete] = np.nan
    side.t[~complete] = np.nan


def _read_logfc(replicates: pd.DataFrame, strata: dict[str, StratumEffects], genes: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """LogFC of replicates of several strata over the genes that these share, shape (replicates, genes)."""
    stratum, row = replicates["stratum"].to_numpy(dtype=str), replicates["row"].to_numpy(dtype=np.int64)
    log_fc = np.empty((len(row), len(next(iter(genes.values())))), dtype=np.float32)
    for name in np.unique(stratum):
        here = stratum == name
        log_fc[here] = strata[name].dense(["logFC"], row[here], genes[name])["logFC"]
    return log_fc


def _empty_scores(n_pairs: int) -> dict[str, NDArray[Any]]:
    return empty_scores(n_pairs) | {"unmatched_spearman_logFC": np.full(n_pairs, np.nan)}


def _score_conditions(
    replicates: pd.DataFrame, pairs: pd.DataFrame, strata: dict[str, StratumEffects], minimum_shared_significant: int
) -> dict[str, NDArray[Any]]:
    """Score all pairs of the conditions that were measured in exactly these strata.

    Parameters
    ----------
    replicates
        All replicates of the dataset, sorted.
    pairs
        ``left``, ``right`` and ``unmatched`` (-1 where there is none): positions in `replicates`.

    Returns
    -------
    Scores of the pairs, in their order.
    """
    scores = _empty_scores(len(pairs))
    genes = dict(zip(strata, shared_genes(*strata.values()), strict=True))
    n_genes = len(next(iter(genes.values())))
    if not n_genes:
        return scores
    left, right, unmatched = (pairs[name].to_numpy(dtype=np.int64) for name in ("left", "right", "unmatched"))
    positions = np.union1d(left, right)
    stratum, row, condition = (replicates[name].to_numpy() for name in ("stratum", "row", "condition"))
    baselines = {
        name: OtherCompoundMeans(effects, genes[name], row[positions[stratum[positions] == name]]) for name, effects in strata.items()
    }
    for block in _condition_blocks(condition[positions], n_genes):
        rows = positions[block]
        parts = []
        for name in np.unique(stratum[rows].astype(str)):
            here = stratum[rows] == name
            parts.append((here, read_signatures(strata[name], baselines[name], row[rows[here]], genes[name])))
        side = _gather(parts, len(rows), n_genes)
        _only_genes_of_all_replicates(side, condition[rows])
        scored = np.flatnonzero(np.isin(left, rows))
        left_index, right_index = np.searchsorted(rows, left[scored]), np.searchsorted(rows, right[scored])
        for name, values in score_pairs(side, side, left_index, right_index, minimum_shared_significant).items():
            scores[name][scored] = values
        has_other = unmatched[scored] >= 0
        others = _read_logfc(replicates.iloc[unmatched[scored[has_other]]], strata, genes)
        scores["unmatched_spearman_logFC"][scored[has_other]] = spearman_rows(side.log_fc[left_index[has_other]], others)
    return scores


def score_replicates(
    strata: Mapping[str, StratumEffects], dataset: str, *, seed: int = 0, minimum_shared_significant: int = 1
) -> pd.DataFrame:
    """Score pairs of replicates of each condition of a dataset.

    A condition is a cell context, compound, time and dose. Its replicates, sorted by stratum and sample, are paired in a circle
    (two make one pair). A gene counts where logFC and t are finite in all replicates of the condition. Baselines are those of
    :func:`~perturbridge_dagster.agreement.scoring.score_matched`. Beside it stands an unmatched score: the left replicate against a
    replicate of another compound on the right one's plate, which shares the plate but not the compound.

    Parameters
    ----------
    strata
        Effects of each replicate alone, by stratum name.
    dataset
        Dataset id.
    seed
        With the names of dataset, stratum and samples, decides the unmatched replicate.
    minimum_shared_significant
        Fewest genes, significant on both sides, for which direction agreement is reported.

    Returns
    -------
    Table REPLICATE_PAIRS of the contract, sorted by condition and replicate. ``stratum`` is the left replicate's;
    ``right_stratum`` differs from it where a condition was measured in several strata of a cell context.
    ``left_baseline_compounds`` and ``right_baseline_compounds`` say how many other compounds made each baseline.

    Raises
    ------
    InputError
        If a contrast carries no sample, so that the effects are not those of single replicates.
    """
    replicates = _replicates(strata, dataset)
    left, right = neighbour_pairs(replicates["condition"].to_numpy(dtype=np.int64))
    pairs = pd.DataFrame({"left": left, "right": right})
    pairs["unmatched"] = _unmatched(replicates, pairs, dataset, seed)
    scores = _empty_scores(len(pairs))
    # Conditions measured in the same strata are scored together, over the genes that those strata share.
    measured_in = replicates.groupby("condition", sort=True)["stratum"].unique()
    together: dict[tuple[str, ...], list[int]] = {}
    for pair, condition in enumerate(replicates["condition"].to_numpy()[left]):
        together.setdefault(tuple(measured_in[condition]), []).append(pair)
    for names, scored in sorted(together.items()):
        found = _score_conditions(replicates, pairs.iloc[scored], {name: strata[name] for name in names}, minimum_shared_significant)
        for name, values in found.items():
            scores[name][scored] = values
    lefts, rights = replicates.iloc[left].reset_index(drop=True), replicates.iloc[right].reset_index(drop=True)
    return pd.DataFrame(
        {
            "dataset": dataset,
            "stratum": lefts["stratum"],
            "right_stratum": rights["stratum"],
            "cell_type": lefts["cell_type"],
            "pubchem_cid": lefts["pubchem_cid"].astype("int64"),
            "pert_dose_uM": lefts["pert_dose_uM"].astype("float64"),
            "pert_time_h": lefts["pert_time_h"].astype("float64"),
            "left_contrast": lefts["contrast"].astype("int32"),
            "right_contrast": rights["contrast"].astype("int32"),
            **scores,
        }
    )
