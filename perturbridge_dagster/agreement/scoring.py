"""Scoring: matched conditions of two datasets against each other and against the baseline.

Belongs here: scores of pairs of signatures with their baselines, and scoring the matches of two datasets block by block. Does not
belong here: the metrics themselves (``metrics.py``), replicates (``replicates.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.baselines import OtherCompoundMeans
from perturbridge_dagster.agreement.metrics import direction_agreement_rows, mean_rows, significant, spearman_rows
from perturbridge_dagster.agreement.signatures import (
    StratumEffects,
    blocks,
    contrast_positions,
    shared_genes,
    stratum_named,
)

LAYERS = ("logFC", "t", "log10_adj_p_within")

METRICS = ("spearman_logFC", "direction_agreement")
"""Measures of agreement, each with ``_baseline`` and ``_delta`` beside it."""

_COUNTS = ("n_genes", "n_shared_significant", "left_baseline_compounds", "right_baseline_compounds")
_MEASURES = ("mean_abs_t", *(f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_baseline", "_delta")))


@dataclass(frozen=True)
class Signatures:
    """Signatures with the mean effect of other compounds in the same stratum, dose and time.

    Attributes
    ----------
    log_fc, t, log10_adj_p
        float32, shape (signatures, genes).
    others
        Mean logFC of other compounds, same shape.
    n_others
        Number of those compounds, shape (signatures,).
    """

    log_fc: NDArray[np.float32]
    t: NDArray[np.float32]
    log10_adj_p: NDArray[np.float32]
    others: NDArray[np.float64]
    n_others: NDArray[np.int64]


def read_signatures(effects: StratumEffects, baseline: OtherCompoundMeans, rows: NDArray[np.int64], genes: NDArray[np.int64]) -> Signatures:
    """Read the signatures at `rows` with their baselines."""
    values = effects.dense(LAYERS, rows, genes)
    return Signatures(values["logFC"], values["t"], values["log10_adj_p_within"], baseline.means(rows), baseline.n_compounds(rows))


def _baseline_scores(side: Signatures, minimum_significant: int) -> dict[str, NDArray[np.float64]]:
    """Each metric between signatures and their own baseline. The baseline has no P values: the signature's own genes count."""
    direction, _ = direction_agreement_rows(side.log_fc, side.others, significant(side.log_fc, side.log10_adj_p), minimum_significant)
    return {"spearman_logFC": spearman_rows(side.log_fc, side.others), "direction_agreement": direction}


def score_pairs(
    left: Signatures,
    right: Signatures,
    left_index: NDArray[np.int64],
    right_index: NDArray[np.int64],
    minimum_shared_significant: int,
) -> dict[str, NDArray[Any]]:
    """Score pairs of signatures over the same genes.

    Parameters
    ----------
    left, right
        Signatures of each side; the same object where both sides are one dataset.
    left_index, right_index
        Which signatures make a pair, shape (pairs,).
    minimum_shared_significant
        Fewest significant genes for which direction agreement is reported.

    Returns
    -------
    Columns of the contract's agreement metrics, and the numbers of compounds in the baselines; each of shape (pairs,).
    """
    left_baseline = _baseline_scores(left, minimum_shared_significant)
    right_baseline = left_baseline if right is left else _baseline_scores(right, minimum_shared_significant)
    x, y = left.log_fc[left_index], right.log_fc[right_index]
    both_significant = significant(left.log_fc, left.log10_adj_p)[left_index] & significant(right.log_fc, right.log10_adj_p)[right_index]
    direction, n_shared_significant = direction_agreement_rows(x, y, both_significant, minimum_shared_significant)
    observed = {"spearman_logFC": spearman_rows(x, y), "direction_agreement": direction}
    scores: dict[str, NDArray[Any]] = {
        "n_genes": (np.isfinite(x) & np.isfinite(y)).sum(axis=1),
        "mean_abs_t": (mean_rows(np.abs(left.t))[left_index] + mean_rows(np.abs(right.t))[right_index]) / 2,
    }
    for metric in METRICS:
        sides = np.column_stack([left_baseline[metric][left_index], right_baseline[metric][right_index]])
        baseline = mean_rows(sides)
        scores |= {metric: observed[metric], f"{metric}_baseline": baseline, f"{metric}_delta": observed[metric] - baseline}
    return scores | {
        "n_shared_significant": n_shared_significant,
        "left_baseline_compounds": left.n_others[left_index],
        "right_baseline_compounds": right.n_others[right_index],
    }


def empty_scores(n_pairs: int) -> dict[str, NDArray[Any]]:
    """Scores of pairs that share no gene: counts of zero, everything else undefined."""
    counts = {name: np.zeros(n_pairs, dtype=np.int64) for name in _COUNTS}
    return counts | {name: np.full(n_pairs, np.nan) for name in _MEASURES}


def score_matched(
    matched: pd.DataFrame,
    left: Mapping[str, StratumEffects],
    right: Mapping[str, StratumEffects],
    *,
    minimum_shared_significant: int = 1,
) -> pd.DataFrame:
    """Score matched conditions of two datasets.

    Each match is scored once, over the genes (Ensembl ids) that both strata tested. Every score has a baseline: the same metric
    between a signature and the mean of the other compounds of its own stratum at its dose and time, mean of the sides that have
    one. The difference is given only where both are defined.

    Parameters
    ----------
    matched
        Table MATCHED_CONDITIONS of the contract.
    left, right
        Effects by stratum name; all matched strata must be there.
    minimum_shared_significant
        Fewest genes, significant on both sides, for which direction agreement is reported.

    Returns
    -------
    Table AGREEMENT_CONDITIONS of the contract, in the order of `matched`, with ``left_baseline_compounds`` and
    ``right_baseline_compounds``: how many other compounds made each baseline.

    Raises
    ------
    InputError
        If a matched stratum or contrast is not among the effects.
    """
    matched = matched.reset_index(drop=True)
    scores = empty_scores(len(matched))
    for (left_name, right_name), pairs in matched.groupby(["left_stratum", "right_stratum"], sort=True):
        first = pairs.iloc[0]
        strata = (
            stratum_named(left, str(left_name), first["left_dataset"]),
            stratum_named(right, str(right_name), first["right_dataset"]),
        )
        genes = shared_genes(*strata)
        if not len(genes[0]):
            continue
        rows = [
            contrast_positions(
                effects, pairs[f"{side}_contrast"].to_numpy(dtype=np.int64), first[f"{side}_dataset"], first[f"{side}_stratum"]
            )
            for side, effects in zip(("left", "right"), strata, strict=True)
        ]
        baselines = [OtherCompoundMeans(*given) for given in zip(strata, genes, rows, strict=True)]
        # Neighbouring contrasts lie in the same tiles of the file.
        order = np.lexsort((rows[1], rows[0]))
        for block in blocks(len(order), len(genes[0])):
            sides, index = [], []
            for effects, baseline, gene, row in zip(strata, baselines, genes, rows, strict=True):
                distinct, position = np.unique(row[order[block]], return_inverse=True)
                sides.append(read_signatures(effects, baseline, distinct, gene))
                index.append(position)
            for name, values in score_pairs(sides[0], sides[1], index[0], index[1], minimum_shared_significant).items():
                scores[name][pairs.index.to_numpy()[order[block]]] = values
    return matched.assign(**scores)
