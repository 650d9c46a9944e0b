"""The report: what the tables of agreement say, in sentences that a biologist can read.

Belongs here: sentences made from numbers of the tables, as Markdown. Does not belong here: computing anything that a table should hold,
or pictures (``figures.py``, ``heatmaps.py``).

A section whose table is empty is not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from perturbridge_dagster.agreement.labels import HEADLINE_METRICS
from perturbridge_dagster.agreement.metrics import METRICS
from perturbridge_dagster.labels import dataset_label, in_registry_order, pair_label
from perturbridge_dagster.reports import listed, markdown_table, number, plural, with_interval

FEW_COMPOUNDS = 10
"""Compounds below which a mean says little and its interval is unreliable."""

_DIRECTION, _SIGNIFICANT_GENES, _ALL_GENES = HEADLINE_METRICS

BASELINES_EXPLAINED = """\
A number alone does not tell whether two datasets agree *on a compound*: compounds that stress or kill cells change many of the same \
genes. So every score is set beside the same score with other compounds at the same dose and time, in four ways.

- **Mean of other compounds, own dataset** (the published baseline): how much a signature looks like the average of its own assay. An \
average carries less noise than a single signature and shares the assay's own habits, so this is the hardest to beat; a negative \
difference does not mean that the datasets disagree.
- **Mean of other compounds, other dataset**: the same without the shared assay. What is above it is about the compound.
- **Single other compounds**, of the own and of the other dataset: as noisy as the match itself. What is above those of the other \
dataset is the plainest sign of agreement on the compound; the percentile says what share of them the match beats.
"""


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    """A mean with its interval, or without one where there is none."""
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


Row = dict[str, Any]
Names = tuple[str, ...]


def _by_name(summary: pd.DataFrame, metric: str) -> dict[Names, Row]:
    """Rows of one metric that have an observed score, by the datasets they are of, in the order of the registry."""
    of = [name for name in ("dataset", "left_dataset", "right_dataset") if name in summary]
    rows = summary[(summary["metric"] == metric) & summary["observed"].notna()]
    found = {tuple(str(row[name]) for name in of): {str(name): value for name, value in row.items()} for row in rows.to_dict("records")}
    order = {name: place for place, name in enumerate(in_registry_order(name for names in found for name in names))}
    return {names: found[names] for names in sorted(found, key=lambda names: [order[name] for name in names])}


def _printed(names: Names) -> str:
    """Printed name of a dataset or of a pair."""
    return dataset_label(*names) if len(names) == 1 else pair_label(*names)


def _printed_list(rows: Iterable[Names]) -> str:
    return listed([_printed(names) for names in rows])


# ---- one pair, one dataset ---------------------------------------------------------------------------------------------------


def pair_report(summary: pd.DataFrame) -> str:
    """What the scores of two datasets say, in a few sentences.

    Parameters
    ----------
    summary
        Table AGREEMENT_SUMMARY of the contract of one pair of datasets, over all cell contexts, of one gene universe.

    Returns
    -------
    Markdown.
    """
    if summary.empty:
        return "The two datasets share no condition, so there is nothing to compare.\n"
    first = summary.iloc[0]
    conditions = plural(int(first["n_conditions"]), "condition", "conditions")
    compounds = plural(int(first["n_compounds"]), "compound", "compounds")
    said = [f"**{pair_label(first['left_dataset'], first['right_dataset'])}** share {conditions} of {compounds}."]
    rows = _headlines(summary)
    said += [_said_of(row, metric) for metric, row in rows.items()]
    few = [METRICS[metric].title.lower() for metric, row in rows.items() if row["n_compounds_observed"] < FEW_COMPOUNDS]
    if few:
        said.append(f"*Caution: fewer than {FEW_COMPOUNDS} compounds stand behind {listed(few)}; read the numbers as anecdotes.*")
    return "\n\n".join(said) + "\n"


def _headlines(summary: pd.DataFrame) -> dict[str, Row]:
    """Rows of the headline metrics of one pair or dataset, where they have an observed score."""
    return {metric: row for metric in HEADLINE_METRICS for row in _by_name(summary, metric).values()}


def _said_of(row: Row, metric: str) -> str:
    """One metric of a pair: the score, and where it lies beside the baselines."""
    compounds = plural(int(row["n_compounds_observed"]), "compound", "compounds")
    said = f"{METRICS[metric].title}: {_with_interval(row, 'observed')} over {compounds}."
    against = {"delta": "the mean of others in the own dataset", "target_peers_delta": "single others in the other dataset"}
    parts = [_beside(row, name, words) for name, words in against.items() if pd.notna(row.get(name))]
    return f"{said} That is {listed(parts)}." if parts else said


def _beside(row: Row, name: str, words: str) -> str:
    """Where a score lies beside a baseline, which `words` name: above or below it where the interval of the difference says so."""
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    printed = f"{'+' if value > 0 else ''}{number(value)}"
    if pd.isna(low) or pd.isna(high):
        return f"{'above' if value > 0 else 'below' if value < 0 else 'level with'} {words} ({printed}, no interval)"
    side = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    return f"{side} {words} ({printed})"


def replicates_report(summary: pd.DataFrame) -> str:
    """What the replicates of a dataset say, in a few sentences.

    Parameters
    ----------
    summary
        Table REPLICATE_SUMMARY of the contract of one dataset, over all cell contexts, of one gene universe.

    Returns
    -------
    Markdown.
    """
    if summary.empty:
        return "No condition has two replicates, so there is nothing to compare.\n"
    first = summary.iloc[0]
    conditions = plural(int(first["n_conditions"]), "condition has", "conditions have")
    compounds = plural(int(first["n_compounds"]), "compound", "compounds")
    said = [f"**{dataset_label(first['dataset'])}**: {conditions} replicates, of {compounds}."]
    said += [_said_of(row, metric) for metric, row in _headlines(summary).items()]
    unmatched = summary["unmatched"].dropna()
    if len(unmatched):
        shared = number(unmatched.iloc[0])
        said.append(
            f"Replicates of different compounds on one plate have a correlation of {shared}: that much is shared by wells of a plate."
        )
    return "\n\n".join(said) + "\n"


# ---- all datasets ------------------------------------------------------------------------------------------------------------


def _compared(overlaps: pd.DataFrame, matches: pd.DataFrame, datasets: Sequence[str], simulated: bool) -> list[str]:
    shared = overlaps[(overlaps["variant"] == "all") & (overlaps["left_dataset"] != overlaps["right_dataset"])]
    lines = ["## What was compared", ""]
    if simulated:
        lines += ["*The data are simulated: they show how to read this report, and say nothing of real assays.*", ""]
    if shared.empty:
        return [*lines, f"{listed([dataset_label(name) for name in in_registry_order(datasets)])} share no condition.", ""]
    folds = shared["median_dose_fold"]
    return [
        *lines,
        f"{plural(len(datasets), 'dataset', 'datasets')}: {listed([dataset_label(name) for name in in_registry_order(datasets)])}.",
        "",
        f"{plural(int(shared['n_conditions'].sum()), 'condition', 'conditions')} that two datasets have in common — the same compound, "
        f"cell context and time, doses nearest to each other — in {plural(len(shared), 'pair', 'pairs')} of datasets, "
        f"{plural(matches['pubchem_cid'].nunique(), 'compound', 'compounds')} and "
        f"{plural(matches['cell_type'].nunique(), 'cell context', 'cell contexts')}. Matched doses differ by a factor of "
        f"{number(folds.min(), 1)} to {number(folds.max(), 1)} (median of a pair).",
        "",
    ]


def _agreement(summary: pd.DataFrame) -> list[str]:
    rows = {metric: _by_name(summary, metric) for metric in HEADLINE_METRICS}
    pairs = dict.fromkeys(names for found in rows.values() for names in found)
    if not pairs:
        return []
    table = [
        [
            _printed(names),
            *(
                f"{_with_interval(found[names], 'observed')}, n = {found[names]['n_compounds_observed']}" if names in found else "–"
                for found in rows.values()
            ),
        ]
        for names in pairs
    ]
    said = []
    if rows[_DIRECTION]:
        share = pd.Series([row["observed"] for row in rows[_DIRECTION].values()]).median()
        said.append(
            f"Where a gene is significant in both datasets, it changes in the same direction in {share:.0%} of cases (median of "
            f"{plural(len(rows[_DIRECTION]), 'pair', 'pairs')}; half by chance)."
        )
    if rows[_ALL_GENES]:
        correlation = pd.Series([row["observed"] for row in rows[_ALL_GENES].values()]).median()
        said.append(
            f"Over all genes, most of which a compound does not touch, log fold changes have a rank correlation of {number(correlation)}."
        )
    said.append("Means over compounds, with 95 % intervals from resampling compounds; n is the number of compounds:")
    head = ["pair", *(METRICS[metric].title for metric in HEADLINE_METRICS)]
    return ["## How much two assays agree", "", " ".join(said), "", markdown_table(head, table), ""]


_PLACES = (
    "More than single other compounds of the other dataset",
    "Better than a coin, but not told apart from other compounds",
    "Better than a coin, but less than single other compounds of the other dataset",
    "Better than a coin; there were no other compounds to compare with, or too few for an interval",
    "Not told apart from a coin",
    "Worse than a coin",
    "Without an interval",
)
"""Where the direction agreement of a pair can lie, in the order of the report."""


def _place(row: Row) -> str:
    """Where a pair lies, one of :data:`_PLACES`: beside other compounds, else beside a coin."""
    beyond, single, less, alone, coin, worse, unknown = _PLACES
    if row["target_peers_delta_low"] > 0:
        return beyond
    if row["observed_low"] > 0.5:
        if pd.isna(row["target_peers_delta_low"]):
            return alone
        return less if row["target_peers_delta_high"] < 0 else single
    if pd.isna(row["observed_low"]):
        return unknown
    return worse if row["observed_high"] < 0.5 else coin


def _verdicts(summary: pd.DataFrame) -> list[str]:
    """Which pairs agree in direction, by the intervals of their differences."""
    rows = {names: row for names, row in _by_name(summary, _DIRECTION).items() if row["n_compounds_observed"] >= FEW_COMPOUNDS}
    by_place: dict[str, list[Names]] = {}
    for names, row in rows.items():
        by_place.setdefault(_place(row), []).append(names)
    groups = {
        **{words: by_place.get(words, []) for words in _PLACES},
        "Even above the mean of other compounds of their own assay": [names for names, row in rows.items() if row["delta_low"] > 0],
        "Below the mean of other compounds of their own assay, the stricter baseline": [
            names for names, row in rows.items() if row["delta_high"] < 0
        ],
    }
    said = [f"- {words}: {_printed_list(names)}." for words, names in groups.items() if names]
    return ["## Which pairs agree in direction", "", *said, ""] if said else []


def _replicates(summary: pd.DataFrame) -> list[str]:
    rows = {metric: _by_name(summary, metric) for metric in HEADLINE_METRICS}
    if not rows[_ALL_GENES]:
        return []
    table = [
        [
            _printed(names),
            f"{row['n_conditions']:,}",
            *(_with_interval(found[names], "observed") if names in found else "–" for found in rows.values()),
            "–" if pd.isna(row["unmatched"]) else number(row["unmatched"]),
        ]
        for names, row in rows[_ALL_GENES].items()
    ]
    head = ["dataset", "conditions", *(METRICS[metric].title for metric in HEADLINE_METRICS), "different compounds on one plate, all genes"]
    return [
        "## Replicates: what one assay reproduces of itself",
        "",
        "Two datasets cannot be expected to agree better than replicates within one. Single replicates are noisier than the grouped "
        "conditions that are compared between datasets, so this is a guide and no strict ceiling.",
        "",
        markdown_table(head, table),
        "",
    ]


def _strength(strength: pd.DataFrame) -> list[str]:
    """Whether stronger perturbations agree better, over all pairs together."""
    rows = strength[(strength["metric"] == _ALL_GENES) & strength["spearman"].notna()]
    if rows.empty:
        return []
    row = {str(name): value for name, value in rows.iloc[0].items()}
    low, high = row["spearman_low"], row["spearman_high"]
    said = (
        "Stronger perturbations agree better"
        if low > 0
        else "Stronger perturbations agree less"
        if high < 0
        else "It makes no clear difference"
    )
    return [
        "## Does strength matter?",
        "",
        f"{said}: over {row['n_conditions']:,} matched conditions the mean |t| of a condition and the correlation of its log fold changes "
        f"have a rank correlation of {_with_interval(row, 'spearman')}. Weak perturbations say little of either dataset.",
        "",
    ]


def _retrieval(summary: pd.DataFrame) -> list[str]:
    """Whether a signature finds its match among the conditions of the other dataset."""
    chosen = (summary["representation"] == "logFC") & (summary["similarity"] == "cosine") & (summary["positives"] == "matched_condition")
    shown = summary[chosen & summary["direction"].isna() & summary["cell_type"].isna() & summary["normalised_rank"].notna()]
    rows = _by_name(shown.assign(metric="rank", observed=shown["normalised_rank"]), "rank")
    if not rows:
        return []
    found = [_printed(names) for names, row in rows.items() if row["above_expected_low"] > 0]
    table = [
        [
            _printed(names),
            f"{row['n_queries']:,}",
            f"{_with_interval(row, 'normalised_rank')} ({number(row['expected_normalised_rank'])})",
            f"{row['recall_at_1']:.0%} ({row['expected_recall_at_1']:.0%})",
            f"{row['recall_at_10']:.0%} ({row['expected_recall_at_10']:.0%})",
        ]
        for names, row in rows.items()
    ]
    said = f"Better than chance: {listed(found)}." if found else "In no pair is that clearly better than chance."
    if 1 < len(found) == len(rows):
        said = "That is better than chance in every pair."
    return [
        "## Does a signature find its match?",
        "",
        "Every matched condition is looked up among the conditions of the other dataset in the same cell context and time, ranked by the "
        "cosine of log fold changes. 1 means that its match comes first, 0 that it comes last; in brackets what random order gives. "
        f"{said}",
        "",
        markdown_table(["pair", "queries", "normalised rank", "match comes first", "match among the first 10"], table),
        "",
    ]


def _cautions(summary: pd.DataFrame, conditions: pd.DataFrame, variants: pd.DataFrame, surviving: pd.DataFrame) -> list[str]:
    said = []
    few = [names for names, row in _by_name(summary, _DIRECTION).items() if row["n_compounds_observed"] < FEW_COMPOUNDS]
    if few:
        said.append(
            f"**Few compounds.** Fewer than {FEW_COMPOUNDS} compounds have significant genes on both sides in {_printed_list(few)}: "
            "their intervals are unreliable."
        )
    if len(conditions):
        none = float((conditions["n_shared_significant_p05"] == 0).mean())
        some = float(conditions["n_shared_significant_p05"].between(1, 9).mean())
        said.append(
            f"**Few significant genes.** {none:.0%} of matched conditions share no significant gene, so that direction is not defined, and "
            f"{some:.0%} share one to nine: a share of a handful of genes is coarse.{_left_of(surviving)}"
        )
    if changed := _changed_by_options(variants):
        said.append(f"**Options.** {changed}")
    return ["## Cautions", "", *(f"- {line}" for line in said), ""] if said else []


def _left_of(surviving: pd.DataFrame, minimum: int = 10) -> str:
    """How many direction scores are left, and what becomes of their mean, where each has to count a minimum of genes."""
    counts = surviving[surviving["metric"] == _DIRECTION].groupby("minimum_genes")["n_scores"].sum()
    if minimum not in counts or not counts.max():
        return ""
    return f" With {minimum} genes or more, {counts[minimum]:,} of {counts.max():,} scores are left."


def _changed_by_options(variants: pd.DataFrame) -> str:
    """How far the direction agreement of a pair moves under the named options, at most."""
    every = _by_name(variants[variants["variant"] == "all"], _DIRECTION)
    moved = [
        (row["observed"] - every[names]["observed"], str(variant), names)
        for variant, rows in variants.groupby("variant", sort=True)
        for names, row in _by_name(rows, _DIRECTION).items()
        if names in every
    ]
    change, variant, names = max(moved, key=lambda one: abs(one[0]), default=(0.0, "", ()))
    if abs(change) < 0.005:
        return ""
    return (
        f"What counts as a match matters: direction agreement moves most for {_printed(names)}, by "
        f"{'+' if change > 0 else ''}{number(change)} under the option {variant}."
    )


def compendium_report(
    summary: pd.DataFrame,
    replicates: pd.DataFrame,
    overlaps: pd.DataFrame,
    conditions: pd.DataFrame,
    variants: pd.DataFrame,
    strength: pd.DataFrame,
    retrieval: pd.DataFrame,
    surviving: pd.DataFrame,
    *,
    datasets: Sequence[str],
    simulated: bool,
) -> str:
    """What agreement says of all datasets together, on one page.

    Parameters
    ----------
    summary
        Table AGREEMENT_SUMMARY of all pairs, over all cell contexts, of one gene universe.
    replicates
        Table REPLICATE_SUMMARY of all datasets, over all cell contexts, of one gene universe.
    overlaps, variants
        Tables DATASET_OVERLAPS and AGREEMENT_VARIANT_SUMMARY.
    conditions
        Table AGREEMENT_CONDITIONS of all pairs.
    strength
        Table AGREEMENT_STRENGTH of all pairs together.
    retrieval
        Table RETRIEVAL_PAIR of all pairs.
    surviving
        Table AGREEMENT_SURVIVING of all pairs.
    datasets
        Ids of the datasets that are configured.
    simulated
        Whether the data are.

    Returns
    -------
    Markdown.
    """
    lines = [
        "# How far do datasets agree on what compounds do?",
        "",
        *_compared(overlaps, conditions, datasets, simulated),
        *_agreement(summary),
    ]
    if summary["observed"].notna().any():
        lines += ["## What the baselines mean", "", BASELINES_EXPLAINED]
    lines += [*_verdicts(summary), *_strength(strength), *_retrieval(retrieval)]
    lines += [*_replicates(replicates), *_cautions(summary, conditions, variants, surviving)]
    return "\n".join(lines).rstrip() + "\n"
