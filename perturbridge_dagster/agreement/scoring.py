"""Scoring: matched conditions of two datasets, as the tables of the contract.

Belongs here: which pairs are scored together over which genes, and the tables made of the scores. Does not belong here: scores and
baselines of pairs (``pair_scores.py``), replicates (``replicates.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.pair_scores import SIDES, Columns, ScoreOptions, pair_sides, score_pairs
from perturbridge_dagster.agreement.signatures import StratumEffects, contrast_positions, shared_genes, stratum_named
from perturbridge_dagster.contract import AGREEMENT_CONDITIONS, AGREEMENT_SCORES, METRIC_NAMES, Table
from perturbridge_dagster.errors import InputError


class Scored(NamedTuple):
    """Scored matches.

    Attributes
    ----------
    conditions
        One row a match: table AGREEMENT_CONDITIONS of the contract.
    scores
        One row a match and metric: table AGREEMENT_SCORES of the contract.
    """

    conditions: pd.DataFrame
    scores: pd.DataFrame


def undefined(table: Table, names: Collection[str], *shape: int) -> Columns:
    """Columns of a table for pairs that share no gene: counts of zero, everything else undefined."""
    counts = {name: table[name].type == "int64" for name in names}
    return {name: np.zeros(shape, dtype=np.int64) if is_count else np.full(shape, np.nan) for name, is_count in counts.items()}


def long_table(keys: pd.DataFrame, scores: Columns, gene_universe: str, table: Table) -> pd.DataFrame:
    """One row a pair and metric.

    Parameters
    ----------
    keys
        Columns that say what a pair is, one row a pair.
    scores
        Columns of shape (metrics, pairs).
    gene_universe
        Genes over which the scores are.
    table
        AGREEMENT_SCORES or REPLICATE_SCORES of the contract.
    """
    long = keys.iloc[np.repeat(np.arange(len(keys)), len(METRIC_NAMES))].reset_index(drop=True)
    columns = {name: values.T.reshape(-1) for name, values in scores.items()}
    # text also where there is no pair, so that an empty table can be joined as any other
    metric = pd.Series(list(METRIC_NAMES) * len(keys), dtype=object)
    return long.assign(metric=metric, gene_universe=gene_universe, **columns)[table.names]


def chosen_genes(strata: Sequence[StratumEffects], genes: Mapping[str, Collection[str]] | None, cell_type: str) -> list[NDArray[np.int64]]:
    """Positions in each stratum of the genes that all have and that are among those chosen for the cell context.

    Raises
    ------
    InputError
        If genes are chosen, but none for this cell context.
    """
    shared = shared_genes(*strata)
    if genes is None:
        return shared
    if cell_type not in genes:
        raise InputError(
            f"no genes are given for cell context {cell_type}.",
            expected=f"genes of every matched cell context; given: {', '.join(sorted(genes))}",
        )
    kept = strata[0].genes["ensembl_id"].isin(set(genes[cell_type])).to_numpy()[shared[0]]
    return [positions[kept] for positions in shared]


def score_matched(
    matched: pd.DataFrame,
    left: Mapping[str, StratumEffects],
    right: Mapping[str, StratumEffects],
    *,
    gene_universe: str = "pairwise",
    genes: Mapping[str, Collection[str]] | None = None,
    options: ScoreOptions | None = None,
) -> Scored:
    """Score matched conditions of two datasets by all metrics.

    Each match is scored once, over the genes (Ensembl ids) that both strata tested or the chosen ones of them. Every score is set
    beside four baselines, over the same genes: each of the two signatures with the mean of the other compounds at its dose and time in
    its own dataset (source centroid, the published one) and with that of its partner's (target centroid), and with single other
    compounds of either (peers).

    Parameters
    ----------
    matched
        Table MATCHED_CONDITIONS of the contract.
    left, right
        Effects by stratum name; all matched strata must be there.
    gene_universe
        Name of the set of genes, for the table.
    genes
        Ensembl ids that may be used, by cell context; None for all. See ``universes.py``.
    options
        See :class:`~perturbridge_dagster.agreement.pair_scores.ScoreOptions`.

    Returns
    -------
    Conditions and scores in the order of `matched`.

    Raises
    ------
    InputError
        If a matched stratum or contrast is not among the effects, or no genes are given for a cell context.
    """
    options = options or ScoreOptions()
    matched = matched.reset_index(drop=True)
    counted = [name for name in AGREEMENT_CONDITIONS.names if name not in matched.columns]
    scored = [name for name in AGREEMENT_SCORES.names if name not in matched.columns and name not in ("metric", "gene_universe")]
    of_matches = undefined(AGREEMENT_CONDITIONS, counted, len(matched))
    scores = undefined(AGREEMENT_SCORES, scored, len(METRIC_NAMES), len(matched))
    for (left_name, right_name), pairs in matched.groupby(["left_stratum", "right_stratum"], sort=True):
        first = pairs.iloc[0]
        here = pairs.index.to_numpy()
        strata, rows = [], []
        for side, given, name in zip(SIDES, (left, right), (left_name, right_name), strict=True):
            dataset = str(first[f"{side}_dataset"])
            effects = stratum_named(given, str(name), dataset)
            row = contrast_positions(effects, pairs[f"{side}_contrast"].to_numpy(dtype=np.int64), dataset, str(name))
            of_matches[f"{side}_n_samples"][here] = effects.contrasts["n_treated"].to_numpy(dtype=np.int64)[row]
            strata.append(effects)
            rows.append(row)
        shared = chosen_genes(strata, genes, str(first["cell_type"]))
        if not len(shared[0]):
            continue
        sides = pair_sides(strata, shared, rows, options)
        for whole, found in zip((of_matches, scores), score_pairs(*sides, options), strict=True):
            for name, values in found.items():
                whole[name][..., here] = values
    return Scored(matched.assign(**of_matches)[AGREEMENT_CONDITIONS.names], long_table(matched, scores, gene_universe, AGREEMENT_SCORES))
