"""Pools: the conditions of a dataset in one cell context and time, read so that they can be searched.

Belongs here: reading conditions over the genes that all of them have, and what other compounds look like on the average. Does not
belong here: which conditions make a pool (``retrieval.py``, ``replicate_retrieval.py``), how they are ranked (``similarity.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.baselines import OtherCompoundMeans
from perturbridge_dagster.agreement.keys import condition_keys
from perturbridge_dagster.agreement.matching import DOSE_TOLERANCE
from perturbridge_dagster.agreement.signatures import StratumEffects, blocks, contrast_positions, shared_genes, stratum_named
from perturbridge_dagster.agreement.similarity import REPRESENTATIONS, Similarity, Vectors, prepare, row_similarities

MASKED_BY = ("logFC", "t", "log10_adj_p_within")
"""A gene counts where all of these are finite."""


@dataclass(frozen=True)
class Pool:
    """Conditions of one dataset in one cell context and time.

    Attributes
    ----------
    rows
        One row a contrast: ``stratum``, ``contrast``, ``row`` (its position in the effects of the stratum), ``pubchem_cid``
        and ``pert_dose_uM``.
    strata
        Effects of the strata that occur, by name.
    """

    rows: pd.DataFrame
    strata: dict[str, StratumEffects]

    @property
    def n_compounds(self) -> int:
        """Distinct compounds."""
        return int(self.rows["pubchem_cid"].nunique())

    def positions(self, stratum: pd.Series[str], contrast: pd.Series[int]) -> NDArray[np.int64]:
        """Positions of contrasts in the pool; -1 for those that are not in it."""
        own = pd.MultiIndex.from_frame(self.rows[["stratum", "contrast"]])
        return np.asarray(own.get_indexer(pd.MultiIndex.from_arrays([stratum, contrast])), dtype=np.int64)

    def in_stratum(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in the pool of the conditions of a stratum, and their rows in its effects."""
        here = np.flatnonzero((self.rows["stratum"] == name).to_numpy(dtype=bool)).astype(np.int64)
        return here, self.rows["row"].to_numpy(dtype=np.int64)[here]


def make_pool(conditions: pd.DataFrame, effects: Mapping[str, StratumEffects], dataset: str) -> Pool:
    """The pool of some conditions, with what their contrasts say of compound and dose.

    Parameters
    ----------
    conditions
        Distinct ``stratum`` and ``contrast``.
    effects
        Effects by stratum name.
    dataset
        Dataset id.

    Raises
    ------
    InputError
        If a stratum or contrast is not among the effects.
    """
    strata = {str(name): stratum_named(effects, str(name), dataset) for name in sorted(conditions["stratum"].unique())}
    parts = []
    for name, found in strata.items():
        contrasts = np.sort(conditions.loc[conditions["stratum"] == name, "contrast"].to_numpy(dtype=np.int64))
        row = contrast_positions(found, contrasts, dataset, name)
        keys = condition_keys(found.contrasts.iloc[row])
        of_contrasts = keys[["pubchem_cid", "pert_dose_uM"]].astype({"pubchem_cid": "int64"})
        parts.append(of_contrasts.assign(stratum=name, contrast=contrasts, row=row))
    return Pool(pd.concat(parts, ignore_index=True), strata)


@dataclass(frozen=True)
class PoolValues:
    """Representations of the conditions of a pool.

    Attributes
    ----------
    genes
        Positions of the genes in each stratum, by its name.
    representations
        Values by name: float32, shape (conditions, genes).
    """

    genes: dict[str, NDArray[np.int64]]
    representations: dict[str, NDArray[np.float32]]


def read_pools(
    pools: Sequence[Pool], representations: Sequence[str], universe: Collection[str] | None = None
) -> tuple[list[PoolValues], int, int]:
    """Read pools over the genes whose logFC, t and adjusted P are finite in every condition of all of them.

    Parameters
    ----------
    pools
        One pool, or two that are compared.
    representations
        Names of ``similarity.REPRESENTATIONS``.
    universe
        Ensembl ids to which the genes are restricted.

    Returns
    -------
    values
        One for each pool; their genes are in one order.
    n_shared
        Genes that all strata tested.
    n_genes
        Genes that count, which may be none.
    """
    positions = shared_genes(*(effects for pool in pools for effects in pool.strata.values()))
    if universe is not None:
        any_stratum = next(iter(pools[0].strata.values()))
        kept = any_stratum.genes["ensembl_id"].iloc[positions[0]].isin(list(universe)).to_numpy(dtype=bool)
        positions = [genes[kept] for genes in positions]
    n_shared = len(positions[0])
    of_strata = iter(positions)
    read = [
        PoolValues(
            {name: next(of_strata) for name in pool.strata},
            {name: np.empty((len(pool.rows), n_shared), dtype=np.float32) for name in representations},
        )
        for pool in pools
    ]
    complete = np.ones(n_shared, dtype=bool)
    layers = sorted({*MASKED_BY, *(layer for name in representations for layer in REPRESENTATIONS[name].layers)})
    for pool, into in zip(pools, read, strict=True):
        for name, effects in pool.strata.items():
            here, rows = pool.in_stratum(name)
            for block in blocks(len(rows), n_shared):
                found = effects.dense(layers, rows[block], into.genes[name])
                for layer in MASKED_BY:
                    complete &= np.isfinite(found[layer]).all(axis=0)
                for representation, values in into.representations.items():
                    values[here[block]] = REPRESENTATIONS[representation].value(found)
    if not complete.all():
        read = [
            PoolValues(
                {name: genes[complete] for name, genes in of_pool.genes.items()},
                {name: values[:, complete] for name, values in of_pool.representations.items()},
            )
            for of_pool in read
        ]
    return read, n_shared, int(complete.sum())


def injected_similarities(
    pool: Pool,
    genes: Mapping[str, NDArray[np.int64]],
    representation: str,
    prepared: Mapping[Similarity, Vectors],
) -> dict[Similarity, NDArray[np.float64]]:
    """Similarity of each condition with the mean of the other compounds of its own stratum at its dose and time.

    Parameters
    ----------
    pool, genes
        Conditions, and the positions of the genes in each of their strata.
    representation
        What is averaged.
    prepared
        The conditions, ready for each similarity.

    Returns
    -------
    By similarity, shape (conditions,); NaN where there is no other compound, or none with a value of some gene.
    """
    found = {similarity: np.full(len(pool.rows), np.nan) for similarity in prepared}
    made_of = REPRESENTATIONS[representation]
    for name, effects in pool.strata.items():
        here, rows = pool.in_stratum(name)
        others = OtherCompoundMeans(effects, genes[name], rows, layers=made_of.layers, value=made_of.value)
        for block in blocks(len(rows), len(genes[name])):
            means = others.means(rows[block]).astype(np.float32)
            known = np.isfinite(means).all(axis=1)
            asked = here[block][known]
            centroids = prepare(means[known], list(prepared))
            for similarity, own in prepared.items():
                found[similarity][asked] = row_similarities(own.at(asked), centroids[similarity], similarity)
    return found


def compound_pairs(query: pd.DataFrame, target: pd.DataFrame, max_log10_dose_gap: float, *, among_themselves: bool = False) -> pd.DataFrame:
    """Pairs of a query and a condition of the same compound.

    Parameters
    ----------
    query, target
        Rows of pools.
    max_log10_dose_gap
        Largest difference of log10 doses of a dose-aware positive.
    among_themselves
        Whether both are the same rows, so that none makes a pair with itself.

    Returns
    -------
    ``query`` and ``target`` (positions), sorted; ``same_compound``, always true; ``dose_aware``: whether the doses are that close
    or, where none is, as near to the query's as any.
    """
    sides = [
        pd.DataFrame({"pubchem_cid": rows["pubchem_cid"], name: np.arange(len(rows)), f"{name}_dose": np.log10(rows["pert_dose_uM"])})
        for name, rows in (("query", query), ("target", target))
    ]
    pairs = sides[0].merge(sides[1], on="pubchem_cid").sort_values(["query", "target"], ignore_index=True)
    if among_themselves:
        pairs = pairs[pairs["query"] != pairs["target"]].reset_index(drop=True)
    gap = (pairs["query_dose"] - pairs["target_dose"]).abs()
    nearest = gap.groupby(pairs["query"]).transform("min")
    pairs["dose_aware"] = gap <= np.maximum(nearest, max_log10_dose_gap) + DOSE_TOLERANCE
    return pairs[["query", "target", "dose_aware"]].assign(same_compound=True)
