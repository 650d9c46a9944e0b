"""What the evaluation on OP3 says: sentences and a picture made from its tables.

Belongs here: words and drawing. Does not belong here: computing anything that a table should hold (``comparison.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from perturbridge_dagster.figures import points_with_intervals, to_png
from perturbridge_dagster.reports import listed, markdown_table, number, plural, with_interval
from perturbridge_dagster.representation.op3.comparison import BASELINE, predictor_name
from perturbridge_dagster.representation.op3.descriptors import MORGAN, NONE
from perturbridge_dagster.representation.op3.members import MEMBERS
from perturbridge_dagster.representation.op3.metrics import ERRORS
from perturbridge_dagster.representation.verdicts import favoured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perturbridge_dagster.representation.op3.members import EnsembleSettings

HEADLINES = {"mrrmse": "MRRMSE", "spearman": "Spearman correlation", "cosine": "cosine"}
"""Metrics that words and picture are about, with their names."""

_DIGITS = 4
_FEW_COMPOUNDS = 10
_COLOURS = {"better": "#0072b2", "worse": "#d55e00"}
_NEITHER_COLOUR = "#666666"

_VERBS = {
    "worse": "does NOT beat",
    "not told apart": "does NOT demonstrably beat",
    "no interval": "does NOT demonstrably beat",
    "too few compounds": "has too few held-out compounds to be told apart from",
    "better": "beats",
}
"""Verdict → what a predictor does to its reference, in the order to say it."""


def verdict_of(row: Mapping[Any, Any]) -> str:
    """Which of a predictor and its reference the interval of a difference favours; see :func:`favoured`.

    Parameters
    ----------
    row
        Of the contract's table op3_summary.
    """
    return favoured(row["low"], row["high"], row["n_compounds"], higher_is_better=row["metric"] not in ERRORS)


def how_epochs(settings: EnsembleSettings) -> str:
    """How epochs are chosen, in words."""
    if settings.faithful:
        return "Epochs are the published ones, which nobody chose on held-out compounds of the training data."
    return "Epochs are chosen on a quarter of the train compounds, held out for that; the held-out compounds have no part in any choice."


def members_in_words(settings: EnsembleSettings) -> str:
    """Where the members of the ensemble come from, in words."""
    ids = {weighted.member.id for weighted in (*settings.stage_one, *settings.stage_two)}
    if ids <= set(MEMBERS):
        return "Members, rates and weights are those of the competition's winner, tuned on data that had the held-out compounds in it."
    return "Members are a few small ones of our own, for a quick look; the published ones are those of the size published."


def _all_compounds(summary: pd.DataFrame, metric: str, reference: str) -> list[dict[str, Any]]:
    """Rows of all test compounds for a metric and a reference, as dictionaries."""
    rows = summary[summary["corpus"].isna() & (summary["metric"] == metric) & (summary["reference"] == reference)]
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _named(row: Mapping[str, Any]) -> str:
    return predictor_name(str(row["descriptor"]), str(row["mode"]))


def describe(summary: pd.DataFrame, compounds: pd.DataFrame, report: Mapping[str, Any], *, simulated: bool) -> str:
    """Say in plain words what came out.

    Parameters
    ----------
    summary, compounds
        Tables op3_summary and op3_compounds of the contract.
    report
        What ``report.json`` holds: how epochs were chosen, what the members are, and what was left out.
    simulated
        Whether simulated data are in it.

    Returns
    -------
    Markdown.
    """
    # one row a compound, whatever descriptors there are
    of_compounds = compounds.drop_duplicates("perturbagen")
    held_out = of_compounds[of_compounds["split"] == "test"]
    n_twins = int(held_out["parent_in_train"].eq(True).sum())
    lines = ["# Effects on blood cells of compounds that were held out (OP3)", ""]
    if simulated:
        lines += ["*The data are simulated: they show how to read this, and say nothing of real compounds.*", ""]
    lines += [
        f"{plural(len(held_out), 'compound is', 'compounds are')} held out of {len(of_compounds):,}; {plural(n_twins, 'shares', 'share')} "
        f"the parent structure with a train compound. {report['how_epochs']}",
        "",
        _table(summary),
        "",
        *_descriptor_lines(summary),
        "",
        *_seen_lines(summary, compounds),
        "",
        f"{report['members']} All seeds share one split: the standard deviation over seeds understates what is not known, the intervals "
        "over compounds do not.",
    ]
    if report["left_out"]:
        lines += ["", *(f"Left out: {name}: {reason}." for name, reason in report["left_out"].items())]
    if len(held_out) < _FEW_COMPOUNDS:
        lines += ["", f"*Caution: fewer than {_FEW_COMPOUNDS} compounds are held out; read the numbers as anecdotes.*"]
    return "\n".join(lines) + "\n"


def _table(summary: pd.DataFrame) -> str:
    """Mean and standard deviation of every predictor, and its difference in MRRMSE to no descriptor."""
    by_metric = {metric: _all_compounds(summary, metric, NONE) for metric in ("spearman", "cosine", "mrrmse", "mae")}
    rows = []
    for spearman, cosine, mrrmse, mae in zip(*by_metric.values(), strict=True):
        difference = "" if mrrmse["interval"] is None or pd.isna(mrrmse["difference"]) else _interval(mrrmse)
        rows.append([_named(mrrmse), *(_mean(row) for row in (spearman, cosine, mrrmse, mae)), difference])
    return markdown_table(["predictor", "Spearman", "cosine", "MRRMSE", "MAE", "MRRMSE less that without descriptor"], rows)


def _mean(row: Mapping[str, Any]) -> str:
    spread = "" if pd.isna(row["sd"]) else f" ± {number(row['sd'], _DIGITS)}"
    return f"{number(row['mean'], _DIGITS)}{spread}"


def _interval(row: Mapping[str, Any]) -> str:
    return with_interval(row["difference"], row["low"], row["high"], _DIGITS)


def _descriptor_lines(summary: pd.DataFrame) -> list[str]:
    """Whether descriptors help, whether embeddings beat fingerprints, and what networks do not beat."""
    lines = []
    for metric, words in HEADLINES.items():
        said = [
            f"{_named(row)} is {_said(row, 'none at all')}" for row in _all_compounds(summary, metric, NONE) if not _is_plain(row, (NONE,))
        ]
        if said:
            lines.append(f"- **{words}**, descriptors: {'; '.join(said)}.")
    for row in _all_compounds(summary, "mrrmse", MORGAN):
        if not _is_plain(row, (NONE, MORGAN)):
            lines.append(f"- {_named(row)} {_VERBS[verdict_of(row)]} Morgan fingerprints in MRRMSE: {_interval(row)}.")
    return [*lines, *_baseline_lines(summary)]


def _baseline_lines(summary: pd.DataFrame) -> list[str]:
    """A line a network: which baselines it beats, and which it does not, by the intervals of the differences."""
    baselines = [str(name) for name in summary.loc[summary["mode"] == BASELINE, "descriptor"].unique()]
    said: dict[str, dict[str, list[str]]] = {}
    for baseline in baselines:
        for row in _all_compounds(summary, "mrrmse", baseline):
            if row["mode"] != BASELINE:
                of_network = said.setdefault(_named(row), {})
                of_network.setdefault(_VERBS[verdict_of(row)], []).append(f"{baseline} ({_interval(row)})")
    in_order = list(dict.fromkeys(_VERBS.values()))
    return [
        f"- In MRRMSE, {name} {'; '.join(f'{verb} {listed(found[verb])}' for verb in in_order if verb in found)}."
        for name, found in said.items()
    ]


def _is_plain(row: Mapping[str, Any], descriptors: Sequence[str]) -> bool:
    return row["mode"] == BASELINE or row["descriptor"] in descriptors


def _said(row: Mapping[str, Any], reference: str) -> str:
    verdict = verdict_of(row)
    words = f"{verdict} than" if verdict in ("better", "worse") else "not told apart from"
    return f"{words} {reference} ({'too few compounds, ' if verdict == 'too few compounds' else ''}{_interval(row)})"


def _seen_lines(summary: pd.DataFrame, compounds: pd.DataFrame) -> list[str]:
    """How many held-out compounds each corpus has seen, and what its embeddings are worth on those and on the others."""
    lines = []
    test = compounds[(compounds["split"] == "test") & compounds["corpus"].notna()]
    for corpus, rows in test.groupby("corpus", sort=False):
        by_id, by_parent = (int(rows[name].astype(bool).sum()) for name in ("seen_pubchem_cid", "seen_parent"))
        parts = []
        of_corpus = summary[(summary["corpus"] == corpus) & (summary["metric"] == "mrrmse") & (summary["reference"] == NONE)]
        of_corpus = of_corpus[of_corpus["descriptor"].isin(set(rows["descriptor"]))]
        for row in of_corpus.to_dict("records"):
            parts.append(
                f"{predictor_name(row['descriptor'], row['mode'])} on the {row['n_compounds']:,} {row['compounds']}: "
                f"{with_interval(row['difference'], row['low'], row['high'], _DIGITS)}"
                f"{', too few to tell' if verdict_of(row) == 'too few compounds' else ''}"
            )
        lines.append(
            f"- The corpus {corpus} has seen {by_id:,} of the {len(rows):,} held-out compounds by PubChem id and {by_parent:,} by parent "
            f"structure{'. MRRMSE less that without descriptor: ' + '; '.join(parts) if parts else ''}."
        )
    return lines


def difference_figure(summary: pd.DataFrame) -> bytes:
    """Differences to the ensemble without descriptor with their intervals, a panel a metric.

    Parameters
    ----------
    summary
        Table op3_summary of the contract.

    Returns
    -------
    bytes
        PNG.
    """
    from matplotlib.figure import Figure

    rows = {metric: [row for row in _all_compounds(summary, metric, NONE) if pd.notna(row["difference"])] for metric in HEADLINES}
    n_rows = max(1, *(len(of_metric) for of_metric in rows.values()))
    figure = Figure(figsize=(4.2 * len(HEADLINES), 1.4 + 0.32 * n_rows), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(HEADLINES), squeeze=False)[0]
    for axes, (metric, words) in zip(panels, HEADLINES.items(), strict=True):
        _differences(axes, rows[metric])
        axes.set_title(f"{words}: {'left' if metric in ERRORS else 'right'} is better", fontsize=9)
    for axes in panels[1:]:
        axes.set_yticklabels([])
    figure.supxlabel("difference to no descriptor, 95 % interval over compounds", fontsize=9)
    return to_png(figure)


def _differences(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw differences from top to bottom."""
    axes.axvline(0, color="#999999", lw=1)
    values, low, high = ([row[name] for row in rows] for name in ("difference", "low", "high"))
    points_with_intervals(
        axes, [_named(row) for row in rows], values, low, high, [_COLOURS.get(verdict_of(row), _NEITHER_COLOUR) for row in rows]
    )
