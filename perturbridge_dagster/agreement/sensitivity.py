"""Sensitivity: how much a result hangs on how effects are scaled, and on how few genes a score may count.

Belongs here: views of effects that scoring takes in place of the effects themselves, and how many scores are left where more genes are
asked of each. Does not belong here: options that choose matches, as dose thresholds do (``selection.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.signatures import StratumEffects, blocks

Z_SCORED_METRICS = ("spearman_logFC", "spearman_t", "deg_spearman_p05")
"""Metrics that mean something of z-scores. Signs, and cut-offs of logFC, do not: a z-score says how a compound differs from others, not
whether a gene goes up."""

_SCALED = ("logFC", "t")


MINIMUM_GENES = (1, 2, 5, 10, 20, 50)
"""Fewest genes of a score for which it is counted how many are left."""

_UNIT = ["pubchem_cid", "cell_type", "pert_time_h"]


@dataclass(frozen=True)
class _Scale:
    """Mean and standard deviation of each gene over all contrasts of a cell context; the latter NaN where it is no scale."""

    mean: pd.DataFrame
    sd: pd.DataFrame


class ZScored:
    """Effects of a stratum whose logFC and t are z-scores; in form as other effects. Made by :func:`z_scored`."""

    def __init__(self, effects: StratumEffects, scale: _Scale) -> None:
        self._effects = effects
        ids = effects.genes["ensembl_id"]
        self._mean, self._sd = ({layer: part[layer].reindex(ids).to_numpy() for layer in _SCALED} for part in (scale.mean, scale.sd))

    @property
    def contrasts(self) -> pd.DataFrame:
        """Table CONTRASTS of the contract."""
        return self._effects.contrasts

    @property
    def genes(self) -> pd.DataFrame:
        """Table GENES of the contract."""
        return self._effects.genes

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Layers as those of the effects; NaN also where a gene has no scale."""
        found = self._effects.dense(layers, contrasts, genes)
        columns = slice(None) if genes is None else genes
        for layer in set(_SCALED) & set(layers):
            found[layer] = ((found[layer] - self._mean[layer][columns]) / self._sd[layer][columns]).astype(np.float32)
        return found


def _scale(strata: Sequence[StratumEffects]) -> _Scale:
    """Mean and standard deviation (ddof 0) of each gene over the estimable contrasts of strata, in two passes of blocks."""
    ids = sorted({str(name) for effects in strata for name in effects.genes["ensembl_id"]})
    index = pd.Index(ids)
    n, total, squares = (np.zeros((2, len(ids))) for _ in range(3))
    low, high = np.full((2, len(ids)), np.inf), np.full((2, len(ids)), -np.inf)
    mean = np.full((2, len(ids)), np.nan)
    for is_second in (False, True):
        for effects in strata:
            at = index.get_indexer(pd.Index(effects.genes["ensembl_id"]))
            rows = np.flatnonzero(effects.contrasts["estimable"].to_numpy(dtype=bool))
            for block in blocks(len(rows), 2 * len(at)):
                found = effects.dense(_SCALED, rows[block])
                for layer, name in enumerate(_SCALED):
                    values = found[name].astype(np.float64)
                    finite = np.isfinite(values)
                    if is_second:
                        squares[layer, at] += np.square(np.where(finite, values - mean[layer, at], 0.0)).sum(axis=0)
                        continue
                    n[layer, at] += finite.sum(axis=0)
                    total[layer, at] += np.where(finite, values, 0.0).sum(axis=0)
                    low[layer, at] = np.minimum(low[layer, at], np.where(finite, values, np.inf).min(axis=0, initial=np.inf))
                    high[layer, at] = np.maximum(high[layer, at], np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf))
        np.divide(total, n, out=mean, where=n > 0)
    # Rounding of the mean would give equal values a tiny deviation.
    sd = np.where((n >= 2) & (high > low), np.sqrt(squares / np.maximum(n, 1)), np.nan)
    return _Scale(*(pd.DataFrame(part.T, index=index, columns=list(_SCALED)) for part in (mean, sd)))


def z_scored(strata: Mapping[str, StratumEffects]) -> dict[str, ZScored]:
    """See the effects of a dataset as z-scores of each gene over all its contrasts in a cell context.

    A gene that every compound moves alike then no longer makes all signatures alike. Population standard deviation (ddof 0), over
    estimable contrasts; a gene with fewer than two values, or equal ones, has no z-score.

    Parameters
    ----------
    strata
        Effects of the strata of one dataset, by stratum name. Those of one cell context share a scale.

    Returns
    -------
    Views of the same names, which compute z-scores when they are read.
    """
    together: dict[tuple[str, ...], list[str]] = {}
    for name, effects in sorted(strata.items()):
        together.setdefault(tuple(sorted(map(str, effects.contrasts["cell_type"].unique()))), []).append(name)
    scales = {name: scale for names in together.values() for scale in [_scale([strata[name] for name in names])] for name in names}
    return {name: ZScored(effects, scales[name]) for name, effects in strata.items()}


def surviving_scores(scores: pd.DataFrame, minimums: Sequence[int] = MINIMUM_GENES) -> pd.DataFrame:
    """How many scores are left where each has to count a minimum of genes.

    A correlation of two genes, or the direction of one, is noise; asking for more leaves fewer, and stronger, perturbations.

    Parameters
    ----------
    scores
        Table AGREEMENT_SCORES or REPLICATE_SCORES of the contract.
    minimums
        Fewest genes (``n_genes``).

    Returns
    -------
    One row a (pair of) dataset, gene universe, metric and minimum, sorted: ``n_scores``, ``n_units`` (compound, cell context and time),
    ``n_compounds`` and ``mean_score`` of what is left. Every minimum has a row, also where nothing is left.
    """
    by = [name for name in ("dataset", "left_dataset", "right_dataset") if name in scores.columns] + ["gene_universe", "metric"]
    groups = scores[by].drop_duplicates()
    defined = scores[scores["score"].notna()]
    unit = defined.groupby(_UNIT, sort=False).ngroup()
    tables = []
    for minimum in minimums:
        left = defined.assign(unit=unit)[defined["n_genes"] >= minimum].groupby(by, sort=False)
        counts = left.agg(n_scores=("score", "size"), n_units=("unit", "nunique"), n_compounds=("pubchem_cid", "nunique"))
        found = groups.merge(counts.reset_index(), on=by, how="left").merge(
            left["score"].mean().rename("mean_score").reset_index(), on=by, how="left"
        )
        tables.append(found.assign(minimum_genes=minimum))
    survived = pd.concat(tables, ignore_index=True).sort_values([*by, "minimum_genes"], ignore_index=True)
    sizes = ["n_scores", "n_units", "n_compounds"]
    return survived.fillna(dict.fromkeys(sizes, 0)).astype(dict.fromkeys(sizes, "int64"))[[*by, "minimum_genes", *sizes, "mean_score"]]
