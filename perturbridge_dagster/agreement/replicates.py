"""Replicates: how well replicates of one condition agree within a dataset.

Belongs here: which replicates make a pair, with which unmatched replicate they are compared, and scoring them. Does not belong
here: scores and baselines of pairs (``pair_scores.py``), agreement between datasets (``scoring.py``), replicates that find each other
(``replicate_retrieval.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.keys import CONDITION_COLUMNS, condition_keys
from perturbridge_dagster.agreement.metrics import spearman_rows
from perturbridge_dagster.agreement.pair_scores import Columns, ScoreOptions, pair_sides, score_pairs
from perturbridge_dagster.agreement.peers import name_hash
from perturbridge_dagster.agreement.scoring import chosen_genes, long_table, undefined
from perturbridge_dagster.agreement.signatures import StratumEffects, blocks
from perturbridge_dagster.contract import METRIC_NAMES, REPLICATE_BASELINES, REPLICATE_PAIRS, REPLICATE_SCORES
from perturbridge_dagster.errors import InputError

_CONDITION = ["cell_type", "pubchem_cid", "pert_time_h", "pert_dose_uM"]


def replicates_of(strata: Mapping[str, StratumEffects], dataset: str) -> pd.DataFrame:
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
            chosen[pair] = candidates[name_hash(seed, dataset, plate_of[right][0], samples[left], samples[right]) % len(candidates)]
    return chosen


@dataclass(frozen=True)
class _CompleteConditions:
    """Effects in which a replicate has a value of a gene only where all replicates of its condition have logFC and t.

    Attributes
    ----------
    effects
        The effects as they are.
    condition
        Number of the condition of each contrast, -1 for those that are in none of interest.
    incomplete
        By condition, for those that have any: which genes not all replicates have, shape (genes,).
    """

    effects: StratumEffects
    condition: NDArray[np.int64]
    incomplete: Mapping[int, NDArray[np.bool_]]

    @property
    def contrasts(self) -> pd.DataFrame:
        """As they are."""
        return self.effects.contrasts

    @property
    def genes(self) -> pd.DataFrame:
        """As they are."""
        return self.effects.genes

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Layers at the genes for which conditions were judged, NaN where a replicate of the condition has no value."""
        values = self.effects.dense(layers, contrasts, genes)
        rows = np.arange(len(self.condition)) if contrasts is None else contrasts
        for place, condition in enumerate(self.condition[rows].tolist()):
            if condition in self.incomplete:
                for layer in values.values():
                    layer[place, self.incomplete[condition]] = np.nan
        return values


def _complete(
    replicates: pd.DataFrame, strata: Mapping[str, StratumEffects], genes: Mapping[str, NDArray[np.int64]]
) -> dict[str, StratumEffects]:
    """Effects of strata with the values of incomplete conditions left out.

    Parameters
    ----------
    replicates
        All replicates of the conditions in question.
    strata, genes
        Effects, and the positions of the genes that count, in one order.
    """
    incomplete: dict[int, NDArray[np.bool_]] = {}
    conditions = {}
    for name, effects in strata.items():
        here = replicates[replicates["stratum"] == name]
        rows, of_rows = (here[column].to_numpy(dtype=np.int64) for column in ("row", "condition"))
        conditions[name] = np.full(len(effects.contrasts), -1, dtype=np.int64)
        conditions[name][rows] = of_rows
        for block in blocks(len(rows), len(genes[name])):
            values = effects.dense(["logFC", "t"], rows[block], genes[name])
            missing = ~(np.isfinite(values["logFC"]) & np.isfinite(values["t"]))
            for place in np.flatnonzero(missing.any(axis=1)):
                condition = int(of_rows[block][place])
                incomplete[condition] = incomplete.get(condition, np.zeros(missing.shape[1], dtype=bool)) | missing[place]
    if not incomplete:
        return dict(strata)
    return {name: _CompleteConditions(effects, conditions[name], incomplete) for name, effects in strata.items()}


def _unmatched_scores(
    effects: StratumEffects,
    others: StratumEffects,
    genes: tuple[NDArray[np.int64], NDArray[np.int64]],
    rows: NDArray[np.int64],
    other_rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Spearman correlation of logFC of contrasts of one stratum with contrasts of another, block by block."""
    scores = np.empty(len(rows))
    for block in blocks(len(rows), len(genes[0])):
        sides = (effects, rows[block], genes[0]), (others, other_rows[block], genes[1])
        scores[block] = spearman_rows(*(side.dense(["logFC"], at, of)["logFC"] for side, at, of in sides))
    return scores


def _score_conditions(
    replicates: pd.DataFrame,
    pairs: pd.DataFrame,
    strata: Mapping[str, StratumEffects],
    genes: Mapping[str, Collection[str]] | None,
    options: ScoreOptions,
) -> tuple[Columns, Columns]:
    """Score pairs of conditions that were measured in exactly these strata.

    Parameters
    ----------
    replicates
        All replicates of the dataset, sorted.
    pairs
        ``left``, ``right`` and ``unmatched`` (-1 where there is none): positions in `replicates`.

    Returns
    -------
    Columns of the pairs, and of their scores, in their order.
    """
    names = REPLICATE_PAIRS.names[REPLICATE_PAIRS.names.index("n_genes") :]
    of_pairs = undefined(REPLICATE_PAIRS, names, len(pairs))
    names = REPLICATE_SCORES.names[REPLICATE_SCORES.names.index("n_genes") :]
    scores = undefined(REPLICATE_SCORES, names, len(METRIC_NAMES), len(pairs))
    left, right, unmatched = (pairs[name].to_numpy(dtype=np.int64) for name in ("left", "right", "unmatched"))
    stratum, row, condition = (replicates[name].to_numpy() for name in ("stratum", "row", "condition"))
    shared = chosen_genes(list(strata.values()), genes, str(replicates["cell_type"].iloc[left[0]]))
    of_stratum = dict(zip(strata, shared, strict=True))
    if not len(shared[0]):
        return of_pairs, scores
    complete = _complete(replicates[np.isin(condition, condition[left])], strata, of_stratum)
    for left_name, right_name in itertools.product(strata, repeat=2):
        at = np.flatnonzero((stratum[left] == left_name) & (stratum[right] == right_name))
        if not len(at):
            continue
        of_sides = ((left_name, left), (right_name, right))
        effects, columns = [complete[name] for name, _ in of_sides], [of_stratum[name] for name, _ in of_sides]
        sides = pair_sides(effects, columns, [row[side[at]] for _, side in of_sides], options)
        for whole, found in zip((of_pairs, scores), score_pairs(*sides, options, REPLICATE_BASELINES), strict=True):
            for name, values in found.items():
                whole[name][..., at] = values
        judged = at[unmatched[at] >= 0]
        of_pairs["unmatched_spearman_logFC"][judged] = _unmatched_scores(
            complete[left_name],
            strata[right_name],
            (of_stratum[left_name], of_stratum[right_name]),
            row[left[judged]],
            row[unmatched[judged]],
        )
    return of_pairs, scores


class ScoredReplicates(NamedTuple):
    """Scored pairs of replicates.

    Attributes
    ----------
    pairs
        One row a pair: table REPLICATE_PAIRS of the contract.
    scores
        One row a pair and metric: table REPLICATE_SCORES of the contract.
    """

    pairs: pd.DataFrame
    scores: pd.DataFrame


def score_replicates(
    strata: Mapping[str, StratumEffects],
    dataset: str,
    *,
    gene_universe: str = "pairwise",
    genes: Mapping[str, Collection[str]] | None = None,
    options: ScoreOptions | None = None,
) -> ScoredReplicates:
    """Score pairs of replicates of each condition of a dataset by all metrics.

    A condition is a cell context, compound, time and dose. Its replicates, sorted by stratum and sample, are paired in a circle
    (two make one pair). A gene counts where logFC and t are finite in all replicates of the condition; where a condition was measured
    in several strata, these must share it. Baselines are those of a signature's own dataset, as of
    :func:`~perturbridge_dagster.agreement.scoring.score_matched`. Beside them stands an unmatched score: the left replicate against a
    replicate of another compound on the right one's plate, which shares the plate but not the compound.

    Parameters
    ----------
    strata
        Effects of each replicate alone, by stratum name.
    dataset
        Dataset id.
    gene_universe, genes
        Name of the set of genes, and Ensembl ids that may be used, by cell context; None for all.
    options
        See :class:`~perturbridge_dagster.agreement.pair_scores.ScoreOptions`. The seed also decides the unmatched replicate, with the
        names of dataset, stratum and samples.

    Returns
    -------
    Pairs, sorted by condition and replicate, and their scores. ``stratum`` is the left replicate's; ``right_stratum`` differs from it
    where a condition was measured in several strata of a cell context.

    Raises
    ------
    InputError
        If a contrast carries no sample, so that the effects are not those of single replicates, or no genes are given for a cell
        context.
    """
    options = options or ScoreOptions()
    replicates = replicates_of(strata, dataset)
    left, right = neighbour_pairs(replicates["condition"].to_numpy(dtype=np.int64))
    pairs = pd.DataFrame({"left": left, "right": right})
    pairs["unmatched"] = _unmatched(replicates, pairs, dataset, options.seed)
    lefts, rights = replicates.iloc[left].reset_index(drop=True), replicates.iloc[right].reset_index(drop=True)
    keys = pd.DataFrame(
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
        }
    )
    columns = [name for name in REPLICATE_PAIRS.names if name not in keys]
    of_pairs = undefined(REPLICATE_PAIRS, columns, len(pairs))
    columns = [name for name in REPLICATE_SCORES.names if name not in keys and name not in ("metric", "gene_universe")]
    scores = undefined(REPLICATE_SCORES, columns, len(METRIC_NAMES), len(pairs))
    # Conditions measured in the same strata are scored together, over the genes that those strata share.
    measured_in = replicates.groupby("condition", sort=True)["stratum"].unique()
    together: dict[tuple[str, ...], list[int]] = {}
    for pair, condition in enumerate(replicates["condition"].to_numpy()[left]):
        together.setdefault(tuple(measured_in[condition]), []).append(pair)
    for names, at in sorted(together.items()):
        found = _score_conditions(replicates, pairs.iloc[at], {name: strata[name] for name in names}, genes, options)
        for whole, part in zip((of_pairs, scores), found, strict=True):
            for name, values in part.items():
                whole[name][..., at] = values
    return ScoredReplicates(keys.assign(**of_pairs)[REPLICATE_PAIRS.names], long_table(keys, scores, gene_universe, REPLICATE_SCORES))
