"""Replicate retrieval: whether a replicate finds the other replicates of its condition among all replicates of its dataset.

Belongs here: which replicates are queries, candidates and positives. Does not belong here: similarities and ranks
(``similarity.py``), scores of pairs of replicates (``replicates.py``), retrieval between datasets (``retrieval.py``).

A query is never its own candidate. The published search of three replicates in a ring had the query among its positives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.pools import Pool, compound_pairs, injected_similarities, read_pools
from perturbridge_dagster.agreement.replicates import replicates_of
from perturbridge_dagster.agreement.retrieval import FEWEST_GENES, Retrieval, contract_table, query_scores
from perturbridge_dagster.agreement.signatures import StratumEffects
from perturbridge_dagster.agreement.similarity import SIMILARITIES, Similarity, prepare, products_of, rank_pairs
from perturbridge_dagster.contract import REPLICATE_RETRIEVAL_POOLS, REPLICATE_RETRIEVAL_QUERIES

_QUERY = {"stratum": "query_stratum", "contrast": "query_contrast"}


def _pairs(rows: pd.DataFrame, positives: Sequence[str], max_log10_dose_gap: float) -> pd.DataFrame:
    """Pairs of a query and another replicate that is a positive of some kind, with one Boolean column a kind."""
    if set(positives) == {"matched_condition"}:
        # No pairs of other doses, of which a common compound has very many.
        same = rows[["condition"]].assign(query=np.arange(len(rows)))
        pairs = same.merge(same.rename(columns={"query": "target"}), on="condition")
        pairs = pairs[pairs["query"] != pairs["target"]].assign(matched_condition=True)
    else:
        pairs = compound_pairs(rows, rows, max_log10_dose_gap, among_themselves=True)
        condition = rows["condition"].to_numpy()
        pairs["matched_condition"] = condition[pairs["query"]] == condition[pairs["target"]]
    pairs = pairs[pairs[list(positives)].any(axis=1)]
    return pairs.sort_values(["query", "target"], ignore_index=True)[["query", "target", *positives]]


def _search(
    pool: Pool,
    positives: Sequence[str],
    representations: Sequence[str],
    similarities: Sequence[Similarity],
    max_log10_dose_gap: float,
) -> tuple[list[pd.DataFrame], int, int]:
    """What the replicates of one cell context and time find; genes that the strata share, and those that count."""
    [read], n_shared, n_genes = read_pools([pool], representations)
    tables: list[pd.DataFrame] = []
    if n_genes < FEWEST_GENES:
        return tables, n_shared, n_genes
    pairs = _pairs(pool.rows, positives, max_log10_dose_gap)
    query, target = (pairs[name].to_numpy(dtype=np.int64) for name in ("query", "target"))
    rows = pool.rows[[*_QUERY, "pubchem_cid", "pert_dose_uM"]].rename(columns=_QUERY)
    own = np.arange(len(rows))
    for representation in representations:
        prepared = prepare(read.representations[representation], similarities)
        products = products_of(prepared, prepared)
        injected = injected_similarities(pool, read.genes, representation, prepared)
        for name in similarities:
            ranks = rank_pairs(products[name], name, query, target, injected[name], own)
            tables += query_scores(ranks, pairs, positives, rows, representation=representation, similarity=name)
    return tables, n_shared, n_genes


def retrieve_replicates(
    strata: Mapping[str, StratumEffects],
    dataset: str,
    *,
    supported: pd.DataFrame | None = None,
    minimum_compounds: int = 10,
    positives: Sequence[str] = ("matched_condition",),
    representations: Sequence[str] = ("logFC",),
    similarities: Sequence[Similarity] = SIMILARITIES,
    max_log10_dose_gap: float = 1.0,
) -> Retrieval:
    """Search each replicate's condition among all other replicates of the same cell context and time.

    Queries are replicates whose condition has another one. Genes count whose logFC, t and adjusted P are finite in all replicates of
    the cell context and time. Scores are those of :func:`~perturbridge_dagster.agreement.retrieval.retrieve`; what is injected is the
    mean of the other compounds in the query's own stratum, dose and time.

    Parameters
    ----------
    strata
        Effects of each replicate alone, by stratum name.
    dataset
        Dataset id.
    supported
        ``cell_type`` and ``pubchem_cid`` of the replicates that take part; see ``replicate_support.py``. By default all do.
    minimum_compounds
        Fewest compounds with replicates of a condition in a cell context and time.
    positives
        Kinds of positives. ``matched_condition``: other replicates of the condition. ``dose_aware`` and ``same_compound``: other
        replicates of the compound at about the same dose (else the nearest), or at any.
    representations, similarities
        What is compared, and how; names of ``similarity.REPRESENTATIONS`` and ``similarity.SIMILARITIES``.
    max_log10_dose_gap
        Largest difference of log10 doses of a dose-aware positive.

    Returns
    -------
    Tables REPLICATE_RETRIEVAL_QUERIES and REPLICATE_RETRIEVAL_POOLS of the contract.

    Raises
    ------
    InputError
        If a contrast carries no sample, so that the effects are not those of single replicates.
    """
    replicates = replicates_of(strata, dataset)
    if supported is not None:
        replicates = replicates.merge(supported[["cell_type", "pubchem_cid"]].drop_duplicates(), on=["cell_type", "pubchem_cid"])
    tables: list[pd.DataFrame] = []
    reports: list[dict[str, Any]] = []
    for (cell_context, time), found in replicates.groupby(["cell_type", "pert_time_h"], sort=True):
        rows = found.reset_index(drop=True)
        pool = Pool(rows, {name: strata[name] for name in sorted(rows["stratum"].unique())})
        repeated = rows["pubchem_cid"][rows.duplicated("condition", keep=False)].nunique()
        outcome, n_shared, n_genes = "too_few_compounds", None, None
        where: dict[str, Any] = {"dataset": dataset, "cell_type": cell_context, "pert_time_h": time}
        if repeated >= minimum_compounds:
            parts, n_shared, n_genes = _search(pool, positives, representations, similarities, max_log10_dose_gap)
            outcome = "scored" if n_genes >= FEWEST_GENES else "too_few_genes"
            tables.append(contract_table(parts, REPLICATE_RETRIEVAL_QUERIES, where))
        reports.append(
            where
            | {
                "n_replicates": len(rows),
                "n_conditions": rows["condition"].nunique(),
                "n_compounds": pool.n_compounds,
                "n_compounds_with_replicates": repeated,
                "n_shared_genes": n_shared,
                "n_genes": n_genes,
                "outcome": outcome,
            }
        )
    pools = contract_table([pd.DataFrame(reports)], REPLICATE_RETRIEVAL_POOLS)
    return Retrieval(contract_table(tables, REPLICATE_RETRIEVAL_QUERIES), pools)
