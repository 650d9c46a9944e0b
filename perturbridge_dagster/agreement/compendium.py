"""The compendium: what agreement says of all datasets together, and how it changes with the options.

Belongs here: tables over all pairs of datasets, made from the scores of each: what they share, the same summaries under each named
option, and the tables of the paper. Does not belong here: scores (``scoring.py``), the rules that keep and drop matches
(``matching.py``, ``sensitivity.py``), pictures (``figures.py``, ``heatmaps.py``), sentences (``report.py``).

None of it belongs to one pair of datasets: which genes all datasets have, which matches another pair supports, and what a table
lists depend on what is configured. So it is made at once, and says of which datasets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import N_RESAMPLES
from perturbridge_dagster.agreement.pair_scores import ScoreOptions
from perturbridge_dagster.agreement.replicate_support import require_support, supported_conditions
from perturbridge_dagster.agreement.scoring import score_matched
from perturbridge_dagster.agreement.selection import (
    DOSE_FOLDS,
    L1000_PHASES,
    force_bridges,
    require_compounds_per_stratum,
    selection_report,
    suppress_l1000_only,
    within_dose_fold,
)
from perturbridge_dagster.agreement.sensitivity import Z_SCORED_METRICS
from perturbridge_dagster.agreement.signatures import StratumEffects
from perturbridge_dagster.agreement.summary import DATASET_PAIR, agreement_summary, agreement_units
from perturbridge_dagster.agreement.universes import global_genes, l1000_genes
from perturbridge_dagster.contract import (
    AGREEMENT_SCORES,
    AGREEMENT_TABLE,
    AGREEMENT_VARIANT_REPORT,
    AGREEMENT_VARIANT_SUMMARY,
    DATASET_OVERLAPS,
    REPLICATE_TABLE,
)

MATCH = [*DATASET_PAIR, "left_row", "right_row"]
"""What identifies a match among those of all pairs."""

PAPER_TABLES = {4: "deg_spearman_p05", 5: "direction_agreement_p05", 6: "spearman_logFC"}
"""Number of a table of the paper on pairs of datasets → its metric."""

REPLICATE_TABLES = {7: "deg_spearman_p05", 8: "direction_agreement_p05", 10: "spearman_logFC"}
"""Number of a table of the paper on replicates → its metric."""

TABLE_VARIANTS = ("all", "published")
"""Options under which the tables of the paper are given: every match, and those that the paper's rules keep."""

_UNIT = ["pubchem_cid", "cell_type", "pert_time_h"]


def of_matches(rows: pd.DataFrame, matches: pd.DataFrame) -> pd.DataFrame:
    """The rows (scores or conditions) that belong to some matches, in their order."""
    kept = pd.MultiIndex.from_frame(matches[MATCH])
    return rows[pd.MultiIndex.from_frame(rows[MATCH]).isin(kept)].reset_index(drop=True)


def variants(matches: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The matches that each named option keeps.

    Parameters
    ----------
    matches
        Matches of all pairs of datasets, table MATCHED_CONDITIONS of the contract.

    Returns
    -------
    Name of the option (``contract.AGREEMENT_VARIANTS``) → matches, in their order.
    """
    supported, _ = suppress_l1000_only(matches)
    bridged, _ = force_bridges(matches, supported)
    enough = {"ten_compounds": matches, "published": supported, "published_with_bridges": bridged}
    by_dose = {"dose_equal": "exact", "dose_within_2": "2x", "dose_within_3": "3x", "dose_within_10": "10x"}
    return {
        "all": matches,
        **{name: require_compounds_per_stratum(rows)[0] for name, rows in enough.items()},
        **{name: within_dose_fold(matches, DOSE_FOLDS[fold])[0] for name, fold in by_dose.items()},
    }


def variant_report(matches: pd.DataFrame, variants: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What each named option kept and dropped.

    Parameters
    ----------
    matches
        Matches of all pairs of datasets, table MATCHED_CONDITIONS of the contract.
    variants
        Name of each option → the matches it keeps.

    Returns
    -------
    Table AGREEMENT_VARIANT_REPORT of the contract: every cell context and time of every pair under every option, also where it keeps
    nothing.
    """
    rows = pd.MultiIndex.from_frame(matches[MATCH])
    reports = [
        selection_report(matches, rows.isin(pd.MultiIndex.from_frame(kept[MATCH]))).assign(variant=name) for name, kept in variants.items()
    ]
    return pd.concat(reports, ignore_index=True)[AGREEMENT_VARIANT_REPORT.names]


def variant_summaries(
    scores: pd.DataFrame, summary: pd.DataFrame, matches: pd.DataFrame, variants: Mapping[str, pd.DataFrame], n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Agreement of every pair of datasets under each named option that chooses matches.

    Parameters
    ----------
    scores
        Table AGREEMENT_SCORES of all pairs, of one gene universe.
    summary
        Table AGREEMENT_SUMMARY of all pairs over all their matches. Where an option keeps every match of a pair, it is that of the pair.
    matches, variants
        See :func:`variant_report`.
    n_resamples
        Resamples of compounds for the intervals.

    Returns
    -------
    Table AGREEMENT_VARIANT_SUMMARY of the contract; pairs of which an option keeps nothing have no row.
    """
    sizes = matches.groupby(DATASET_PAIR).size()
    tables = []
    for name, kept in variants.items():
        kept_sizes = kept.groupby(DATASET_PAIR).size().reindex(sizes.index, fill_value=0)
        whole = summary[pd.MultiIndex.from_frame(summary[DATASET_PAIR]).isin(sizes.index[kept_sizes == sizes])]
        cut = sizes.index[(kept_sizes > 0) & (kept_sizes < sizes)]
        rows = of_matches(scores, kept[pd.MultiIndex.from_frame(kept[DATASET_PAIR]).isin(cut)])
        parts = [whole, agreement_summary(agreement_units(rows), n_resamples=n_resamples)]
        found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        tables.append(found.assign(variant=name).sort_values([*DATASET_PAIR, "gene_universe", "metric"]))
    return pd.concat(tables, ignore_index=True)[AGREEMENT_VARIANT_SUMMARY.names]


def dataset_overlaps(conditions: pd.DataFrame, variants: Mapping[str, pd.DataFrame], replicates: pd.DataFrame) -> pd.DataFrame:
    """What every two datasets share under each named option, and what each has replicates of.

    Parameters
    ----------
    conditions
        Table AGREEMENT_CONDITIONS of all pairs, which says of how many samples a condition is.
    variants
        See :func:`variant_report`.
    replicates
        Table REPLICATE_CONDITIONS of all datasets; each condition counts once, whatever metrics it has.

    Returns
    -------
    Table DATASET_OVERLAPS of the contract: pairs that share something, and datasets with replicates, which no option changes.
    """
    tables = []
    own = replicates.drop_duplicates(["dataset", *_UNIT, "pert_dose_uM"])
    own = own.assign(left_dataset=own["dataset"], right_dataset=own["dataset"], sample_pairs=own["n_pairs"], dose_fold=np.nan)
    for name, kept in variants.items():
        rows = of_matches(conditions, kept)
        rows = rows.assign(sample_pairs=rows["left_n_samples"] * rows["right_n_samples"], dose_fold=10 ** rows["log10_dose_gap"])
        tables += [_overlap(part, DATASET_PAIR).assign(variant=name) for part in (rows, own)]
    return pd.concat(tables, ignore_index=True)[DATASET_OVERLAPS.names]


def _overlap(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Counts of conditions by pair of datasets."""
    unit = pd.Series(list(rows[_UNIT].itertuples(index=False, name=None)), index=rows.index, dtype=object)
    stratum = pd.Series(list(rows[_UNIT[1:]].itertuples(index=False, name=None)), index=rows.index, dtype=object)
    groups = rows.assign(unit=unit, stratum=stratum).groupby(by, sort=True)
    counts = groups.agg(
        n_sample_pairs=("sample_pairs", "sum"),
        n_conditions=("unit", "size"),
        n_compounds=("pubchem_cid", "nunique"),
        n_cell_contexts=("cell_type", "nunique"),
        n_units=("unit", "nunique"),
        n_strata=("stratum", "nunique"),
        median_dose_fold=("dose_fold", "median"),
        largest_dose_fold=("dose_fold", "max"),
    )
    return counts.reset_index()


def paper_table(summaries: pd.DataFrame, number: int) -> pd.DataFrame:
    """Table 4, 5 or 6 of the paper: one metric of every pair of datasets.

    Parameters
    ----------
    summaries
        Table AGREEMENT_VARIANT_SUMMARY of the contract.
    number
        Number of the table.

    Returns
    -------
    Table AGREEMENT_TABLE of the contract, for every match and for those that the paper's rules keep. Its first count are compounds with an
    observed score, its second compounds with a baseline, as printed.
    """
    rows = summaries[(summaries["metric"] == PAPER_TABLES[number]) & summaries["variant"].isin(TABLE_VARIANTS)].reset_index(drop=True)
    return rows.assign(n_first=rows["n_compounds_observed"], n_second=rows["n_compounds_baseline"])[AGREEMENT_TABLE.names]


def replicate_table(summaries: Mapping[str, pd.DataFrame], number: int) -> pd.DataFrame:
    """Table 7, 8 or 10 of the paper: one metric of the replicates of every dataset.

    Parameters
    ----------
    summaries
        Name of each option → table REPLICATE_SUMMARY of the contract of the replicates it keeps, over all cell contexts.
    number
        Number of the table.

    Returns
    -------
    Table REPLICATE_TABLE of the contract. Its first count are compounds with an observed score, its second all conditions with replicates.
    """
    tables = [table[table["metric"] == REPLICATE_TABLES[number]].assign(variant=name) for name, table in summaries.items()]
    rows = pd.concat(tables, ignore_index=True)
    return rows.assign(n_first=rows["n_compounds_observed"], n_second=rows["n_conditions"])[REPLICATE_TABLE.names]


def published_replicates(
    conditions: pd.DataFrame, datasets: Mapping[str, Mapping[str, StratumEffects]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The replicates that the paper's tables are of: of L1000, compounds and cell contexts that another dataset has.

    Parameters
    ----------
    conditions
        Table REPLICATE_CONDITIONS of the contract of all datasets.
    datasets
        Dataset → stratum → effects: a compound of which it has single wells alone counts, too.

    Returns
    -------
    kept
        The conditions kept.
    report
        Table REPLICATE_SUPPORT of the contract.
    """
    measured = {name: pd.concat([stratum.contrasts for stratum in strata.values()]) for name, strata in datasets.items() if strata}
    return require_support(conditions, supported_conditions(measured))


def rescored(
    matches: pd.DataFrame,
    datasets: Mapping[str, Mapping[str, StratumEffects]],
    options: ScoreOptions,
    gene_universe: str = "pairwise",
    genes: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Scores of the matches of all pairs of datasets over another set of genes, or of effects seen otherwise.

    Parameters
    ----------
    matches
        Matches of all pairs of datasets, table MATCHED_CONDITIONS of the contract.
    datasets
        Effects by dataset and stratum.
    options, gene_universe, genes
        See :func:`~perturbridge_dagster.agreement.scoring.score_matched`.

    Returns
    -------
    Table AGREEMENT_SCORES of the contract.
    """
    scores = [
        score_matched(rows, datasets[str(left)], datasets[str(right)], gene_universe=gene_universe, genes=genes, options=options).scores
        for (left, right), rows in matches.groupby(DATASET_PAIR, sort=True)
    ]
    return pd.concat(scores, ignore_index=True) if scores else pd.DataFrame(columns=AGREEMENT_SCORES.names)


def rescored_universes(matches: pd.DataFrame, datasets: Mapping[str, Mapping[str, StratumEffects]], options: ScoreOptions) -> pd.DataFrame:
    """Scores over the genes that all datasets with a cell context tested, and over those that L1000 measures.

    Parameters
    ----------
    matches, datasets, options
        See :func:`rescored`.

    Returns
    -------
    Table AGREEMENT_SCORES of the contract; without L1000 there is no such universe.
    """
    universes = {"global": global_genes(datasets), "l1000": l1000_genes(datasets, L1000_PHASES)}
    scores = [rescored(matches, datasets, options, name, genes) for name, genes in universes.items() if any(genes.values())]
    return pd.concat(scores, ignore_index=True)


def z_score_summary(scores: pd.DataFrame, n_resamples: int = N_RESAMPLES) -> pd.DataFrame:
    """Agreement of every pair of datasets where each gene counts by its z score.

    Parameters
    ----------
    scores
        Scores of z-scored effects (``sensitivity.py``), table AGREEMENT_SCORES of the contract.
    n_resamples
        Resamples of compounds for the intervals.

    Returns
    -------
    Table AGREEMENT_VARIANT_SUMMARY of the contract, of the metrics that mean something of z scores.
    """
    rows = scores[scores["metric"].isin(Z_SCORED_METRICS)]
    return agreement_summary(agreement_units(rows), n_resamples=n_resamples).assign(variant="z_scores")[AGREEMENT_VARIANT_SUMMARY.names]


def published_retrieval(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of a retrieval summary that the paper's Table 9 is of: logFC, Euclidean distance, the matched conditions as positives."""
    chosen = (summary["representation"] == "logFC") & (summary["similarity"] == "euclidean") & (summary["positives"] == "matched_condition")
    return summary[chosen & summary["direction"].isna() & summary["cell_type"].isna()]


def retrieval_table(summaries: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 9 of the paper: the normalised best rank of the matched condition, beside that of the injected centroid.

    Parameters
    ----------
    summaries
        Name of each option → table RETRIEVAL_PAIR of the contract of the matches it keeps.

    Returns
    -------
    Table AGREEMENT_TABLE of the contract. Its first count are compounds, its second queries, as printed.
    """
    values = {"observed": "normalised_rank", "baseline": "centroid_normalised_rank", "delta": "centroid_delta"}
    renamed = {f"{old}{end}": f"{new}{end}" for new, old in values.items() for end in ("", "_low", "_high")}
    tables = []
    for name, summary in summaries.items():
        rows = published_retrieval(summary).rename(columns={"n_compounds": "n_first", "n_queries": "n_second"} | renamed)
        tables.append(rows.assign(variant=name, metric="normalised_rank"))
    return pd.concat(tables, ignore_index=True)[AGREEMENT_TABLE.names]
