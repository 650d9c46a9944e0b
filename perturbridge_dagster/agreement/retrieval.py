"""Retrieval: whether the signature of a compound finds the same compound in another dataset.

Belongs here: which conditions of two datasets are queries, candidates and positives, and what each query finds. Does not belong
here: similarities and ranks (``similarity.py``), retrieval among replicates (``replicate_retrieval.py``), means over queries
(``retrieval_summary.py``).

Every estimable contrast is a query once and a candidate once, however many samples made it, so no signature is found because it is
there several times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.keys import number_keys
from perturbridge_dagster.agreement.null import expected_normalised_rank, normalised_rank, probability_of_rank
from perturbridge_dagster.agreement.pools import Pool, compound_pairs, injected_similarities, make_pool, read_pools
from perturbridge_dagster.agreement.signatures import StratumEffects
from perturbridge_dagster.agreement.similarity import (
    REPRESENTATIONS,
    SIMILARITIES,
    PairRanks,
    Similarity,
    best_positives,
    prepare,
    products_of,
    rank_pairs,
)
from perturbridge_dagster.contract import POSITIVES, RECALL_AT, RETRIEVAL_POOLS, RETRIEVAL_QUERIES
from perturbridge_dagster.contract import Table as ContractTable

FEWEST_GENES = 2
DIRECTIONS = ("left_to_right", "right_to_left")
_CONDITION = ["cell_type", "pert_time_h", "stratum", "contrast"]


@dataclass(frozen=True)
class Eligibility:
    """Which cell contexts and times are large enough for retrieval.

    Attributes
    ----------
    minimum_compounds, minimum_conditions
        Fewest distinct compounds and conditions of a pool.
    sides
        Whose pools must be so large: ``"both"``, as the published code has it, or ``"target"``, as the paper has it: the one in
        which is searched.
    """

    minimum_compounds: int = 2
    minimum_conditions: int = 5
    sides: Literal["both", "target"] = "both"

    def reason(self, query: Pool, target: Pool) -> str:
        """``scored``, or what a search with these queries in this target lacks."""
        pools = [query, target] if self.sides == "both" else [target]
        if any(len(pool.rows) < self.minimum_conditions for pool in pools):
            return "too_few_conditions"
        if any(pool.n_compounds < self.minimum_compounds for pool in pools):
            return "too_few_compounds"
        return "scored"


def matched_conditions_of(matches: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Conditions of a dataset that are matched with any other dataset.

    Parameters
    ----------
    matches
        Tables MATCHED_CONDITIONS of the contract, of one or several pairs of datasets.
    dataset
        Dataset id.

    Returns
    -------
    Distinct ``cell_type``, ``pert_time_h``, ``stratum`` and ``contrast``, sorted. From the matches of all pairs, this is the
    published pool of the dataset.
    """
    sides = []
    for side in ("left", "right"):
        columns = ["cell_type", "pert_time_h", f"{side}_stratum", f"{side}_contrast"]
        sides.append(matches.loc[matches[f"{side}_dataset"] == dataset, columns].set_axis(_CONDITION, axis=1))
    return pd.concat(sides, ignore_index=True).drop_duplicates().sort_values(_CONDITION, ignore_index=True)


def query_scores(ranks: PairRanks, pairs: pd.DataFrame, positives: Sequence[str], rows: pd.DataFrame, **variant: str) -> list[pd.DataFrame]:
    """What each query finds, for each kind of positives.

    Parameters
    ----------
    ranks
        Ranks of the pairs.
    pairs
        ``query``, sorted, and one Boolean column for each of `positives`.
    positives
        Names of these columns.
    rows
        Queries, whose columns are taken over.
    variant
        Further columns, each of one value.

    Returns
    -------
    A table for each kind of positives, with one row a query that has a positive and a negative: the columns of `rows`, of `variant`
    and the scores of RETRIEVAL_QUERIES.
    """
    parts = []
    pair_query = pairs["query"].to_numpy(dtype=np.int64)
    for name in positives:
        found = best_positives(ranks, pair_query, pairs[name].to_numpy(dtype=bool))
        observed = normalised_rank(found.best_rank, found.n_candidates)
        has_injected = found.injected_rank > 0
        # With what was injected there is one candidate more.
        injected = np.where(has_injected, normalised_rank(found.injected_rank, found.n_candidates + 1), np.nan)
        expected = expected_normalised_rank(found.n_candidates, found.n_positives)
        scores: dict[str, Any] = variant | {
            "positives": name,
            "n_candidates": found.n_candidates,
            "n_positives": found.n_positives,
            "best_rank": found.best_rank,
            "normalised_rank": observed,
            "expected_normalised_rank": expected,
            "above_expected": observed - expected,
            "p": probability_of_rank(found.best_rank, found.n_candidates, found.n_positives),
            "auroc": found.auroc,
            "centroid_rank": pd.array(np.where(has_injected, found.injected_rank, np.nan), dtype="Int64"),
            "centroid_normalised_rank": injected,
            "centroid_delta": observed - injected,
        }
        for k in RECALL_AT:
            scores[f"recall_at_{k}"] = (found.best_rank <= k).astype(np.float64)
            scores[f"expected_recall_at_{k}"] = probability_of_rank(np.array(k), found.n_candidates, found.n_positives)
        parts.append(pd.DataFrame({column: rows[column].to_numpy()[found.query] for column in rows} | scores))
    return parts


def contract_table(parts: Sequence[pd.DataFrame], table: ContractTable, constants: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """One table of parts and columns of one value, with the columns of the contract, also where there is no part."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return pd.DataFrame(columns=table.names)
    return pd.concat(filled, ignore_index=True).assign(**(constants or {}))[table.names]


@dataclass(frozen=True)
class Retrieval:
    """What the conditions of two datasets find in each other.

    Attributes
    ----------
    queries
        Table RETRIEVAL_QUERIES of the contract.
    pools
        Table RETRIEVAL_POOLS of the contract: where was searched, and where not, and why.
    """

    queries: pd.DataFrame
    pools: pd.DataFrame


@dataclass(frozen=True)
class _Search:
    """What is asked for in each cell context and time; see :func:`retrieve`."""

    representations: Sequence[str]
    similarities: Sequence[Similarity]
    eligibility: Eligibility
    max_log10_dose_gap: float

    def positives(self, query: Pool, target: Pool, matches: pd.DataFrame, sides: tuple[str, str]) -> pd.DataFrame:
        """Pairs of a query and one of its positives, sorted, with one Boolean column a kind of positives."""
        matched = [
            pool.positions(matches[f"{side}_stratum"], matches[f"{side}_contrast"])
            for pool, side in zip((query, target), sides, strict=True)
        ]
        strict = pd.DataFrame({"query": matched[0], "target": matched[1]}).drop_duplicates().assign(matched_condition=True)
        pairs = compound_pairs(query.rows, target.rows, self.max_log10_dose_gap).merge(strict, on=["query", "target"], how="outer")
        pairs = pairs.sort_values(["query", "target"], ignore_index=True)
        return pairs.assign(**{name: pairs[name].eq(True) for name in POSITIVES})

    def both_directions(
        self, pools: Sequence[Pool], matches: pd.DataFrame, universe: Collection[str] | None
    ) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
        """Scores of queries in one cell context and time, and the report on its pools."""
        reasons = [self.eligibility.reason(pools[side], pools[1 - side]) for side in (0, 1)]
        n_shared = n_genes = None
        tables: list[pd.DataFrame] = []
        if "scored" in reasons:
            read, n_shared, n_genes = read_pools(pools, self.representations, universe)
            reasons = ["too_few_genes" if reason == "scored" and n_genes < FEWEST_GENES else reason for reason in reasons]
        asked = [side for side in (0, 1) if reasons[side] == "scored"]
        sides = ("left", "right")
        pairs = {side: self.positives(pools[side], pools[1 - side], matches, (sides[side], sides[1 - side])) for side in asked}
        rows = [pool.rows.drop(columns="row").rename(columns={"stratum": "query_stratum", "contrast": "query_contrast"}) for pool in pools]
        for representation in self.representations if asked else ():
            prepared = [prepare(part.representations[representation], self.similarities) for part in read]
            products = products_of(prepared[0], prepared[1])
            for side in asked:
                injected = injected_similarities(pools[side], read[side].genes, representation, prepared[side])
                index = [pairs[side][name].to_numpy(dtype=np.int64) for name in ("query", "target")]
                for name in self.similarities:
                    searched = products[name] if side == 0 else products[name].reversed()
                    ranks = rank_pairs(searched, name, index[0], index[1], injected[name])
                    variant = {"direction": DIRECTIONS[side], "representation": representation, "similarity": name}
                    tables += query_scores(ranks, pairs[side], POSITIVES, rows[side], **variant)
        reports = [
            {
                "direction": DIRECTIONS[side],
                "n_query_conditions": len(pools[side].rows),
                "n_query_compounds": pools[side].n_compounds,
                "n_target_conditions": len(pools[1 - side].rows),
                "n_target_compounds": pools[1 - side].n_compounds,
                "n_shared_genes": n_shared,
                "n_genes": n_genes,
                "outcome": reasons[side],
            }
            for side in (0, 1)
        ]
        return tables, reports


def retrieve(
    matched: pd.DataFrame,
    left: Mapping[str, StratumEffects],
    right: Mapping[str, StratumEffects],
    *,
    retained: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    genes: Mapping[str, Collection[str]] | None = None,
    representations: Sequence[str] = tuple(REPRESENTATIONS),
    similarities: Sequence[Similarity] = SIMILARITIES,
    eligibility: Eligibility | None = None,
    max_log10_dose_gap: float = 1.0,
) -> Retrieval:
    """Search each matched condition of two datasets among the other's, in both directions.

    In each cell context and time the candidates of a query are the pool of the other dataset. Positives are of three kinds.
    ``matched_condition``: the conditions it is matched with. ``dose_aware``: those of the same compound whose dose is at most
    `max_log10_dose_gap` away or, where there is none, nearest. ``same_compound``: those of the same compound at any dose. All other
    candidates are negatives; a query needs one of each. Genes count whose logFC, t and adjusted P are finite in every condition of
    both pools. A signature without direction (all zero for cosine, constant for Spearman) is neither query nor candidate.

    Beside what is found stands what chance would find (``null.py``), and the rank of the mean of the other compounds in the query's
    own stratum, dose and time, put among the candidates.

    Parameters
    ----------
    matched
        Table MATCHED_CONDITIONS of the contract of one pair of datasets, after whatever filter is wanted.
    left, right
        Effects by stratum name.
    retained
        Conditions of the left and of the right dataset that stand in the pools beside the matched ones, as of
        :func:`matched_conditions_of`. The published pools are what is matched with any dataset.
    genes
        Ensembl ids by cell context, to which the genes are restricted.
    representations, similarities
        What is compared, and how; names of ``similarity.REPRESENTATIONS`` and ``similarity.SIMILARITIES``.
    eligibility
        How large pools must be.
    max_log10_dose_gap
        Largest difference of log10 doses of a dose-aware positive.

    Raises
    ------
    InputError
        If a stratum or contrast is not among the effects.
    """
    search = _Search(representations, similarities, eligibility or Eligibility(), max_log10_dose_gap)
    tables: list[pd.DataFrame] = []
    reports: list[dict[str, Any]] = []
    for names, of_pair in matched.groupby(["left_dataset", "right_dataset"], sort=True):
        conditions = [matched_conditions_of(of_pair, str(dataset)) for dataset in names]
        if retained is not None:
            conditions = [pd.concat(both)[_CONDITION].drop_duplicates() for both in zip(conditions, retained, strict=True)]
        for (cell_context, time), matches in of_pair.groupby(["cell_type", "pert_time_h"], sort=True):
            pools = []
            for rows, effects, dataset in zip(conditions, (left, right), names, strict=True):
                here = (rows["cell_type"] == cell_context) & (number_keys(rows["pert_time_h"].to_numpy(dtype=np.float64)) == time)
                pools.append(make_pool(rows[here], effects, str(dataset)))
            universe = None if genes is None else genes.get(str(cell_context), ())
            found, report = search.both_directions(pools, matches, universe)
            where: dict[str, Any] = {"left_dataset": names[0], "right_dataset": names[1], "cell_type": cell_context, "pert_time_h": time}
            tables.append(contract_table(found, RETRIEVAL_QUERIES, where))
            reports += [row | where for row in report]
    return Retrieval(contract_table(tables, RETRIEVAL_QUERIES), contract_table([pd.DataFrame(reports)], RETRIEVAL_POOLS))
