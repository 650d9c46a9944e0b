"""Heatmaps: summaries of agreement as grids, as PNG bytes.

Belongs here: drawing tables of the contract as grids of numbers. Does not belong here: distributions and scatters (``figures.py``), or
computing anything that a table should hold.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perturbridge_dagster.agreement.figures import nothing_to_show
from perturbridge_dagster.agreement.labels import METRIC_HEADS
from perturbridge_dagster.agreement.metrics import METRICS
from perturbridge_dagster.agreement.similarity import REPRESENTATIONS, SIMILARITIES
from perturbridge_dagster.contract import METRIC_NAMES
from perturbridge_dagster.figures import to_png
from perturbridge_dagster.labels import context_label, dataset_label, in_registry_order, pair_label

Quantity = Literal["observed", "delta", "target_centroid_delta", "source_peers_delta", "target_peers_delta", "above_chance"]

_MOST_ROWS = 80
"""Rows of a grid beyond which it could not be read."""

_QUANTITIES = {
    "observed": "Observed",
    "delta": "Observed minus the mean of other compounds, own dataset",
    "target_centroid_delta": "Observed minus the mean of other compounds, other dataset",
    "source_peers_delta": "Observed minus single other compounds, own dataset",
    "target_peers_delta": "Observed minus single other compounds, other dataset",
    "above_chance": "Observed minus what random order gives",
}
_OVERLAPS = {
    "n_compounds": "compounds",
    "n_cell_contexts": "cell contexts",
    "n_conditions": "matched conditions (on the diagonal: conditions with replicates)",
}


def _norm(quantity: str, values: NDArray[np.float64]) -> tuple[Normalize, str]:
    """Colour scale of a quantity: differences diverge around 0."""
    if quantity == "observed":
        return Normalize(0, 1), "YlGnBu"
    limit = max(0.1, float(np.nanmax(np.abs(values), initial=0)))
    return TwoSlopeNorm(0, -limit, limit), "RdBu_r"


def _grid(axes: Axes, table: pd.DataFrame, norm: Normalize, colours: str, number: str) -> None:
    """A table as coloured cells with their numbers; undefined ones are left blank."""
    values = table.to_numpy(dtype=np.float64)
    image = axes.imshow(np.ma.masked_invalid(values), aspect="auto", norm=norm, cmap=colours)
    axes.set_xticks(range(table.shape[1]), list(table.columns), fontsize=7)
    axes.set_yticks(range(table.shape[0]), list(table.index), fontsize=8)
    axes.set_xticks(np.arange(table.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(table.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            axes.text(column, row, format(value, number), ha="center", va="center", fontsize=7, color="white" if dark else "black")


def _pivoted(summary: pd.DataFrame, rows: Sequence[str], column: str, order: Sequence[str], quantity: str) -> pd.DataFrame:
    """One quantity as rows × columns, the columns in an order, rows in that of the summary; the first rows where there are many."""
    table = summary.pivot_table(index="row", columns=column, values=quantity, dropna=False, sort=False)
    return table.reindex(index=[name for name in rows if name in table.index], columns=list(order)).iloc[:_MOST_ROWS]


def _panels(title: str, tables: Mapping[Quantity, pd.DataFrame], heads: Sequence[str], *, slanted: bool = False) -> bytes:
    """Grids of several quantities side by side, with the same rows and columns."""
    first = next(iter(tables.values()))
    panel = max(2.5, 0.66 * first.shape[1])
    width = 3.2 + len(tables) * panel
    figure = Figure(figsize=(width, 1.8 + 0.27 * len(first) + (0.5 if slanted else 0)), layout="constrained")
    figure.suptitle(title)
    for axes, (quantity, table) in zip(np.atleast_1d(figure.subplots(1, len(tables), sharey=True)), tables.items(), strict=True):
        norm, colours = _norm(quantity, table.to_numpy(dtype=np.float64))
        _grid(axes, table.set_axis(list(heads), axis=1), norm, colours, ".2f" if quantity == "observed" else "+.2f")
        axes.set_title(textwrap.fill(_QUANTITIES[quantity], int(12 * panel)), fontsize=9)
        if slanted:
            axes.set_xticks(range(len(heads)), list(heads), rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    return to_png(figure)


def _row_names(summary: pd.DataFrame) -> pd.Series[str]:
    """Printed name of what a row summarises: a pair of datasets, or a dataset."""
    if "dataset" in summary:
        return summary["dataset"].map(dataset_label)
    names = [pair_label(left, right) for left, right in zip(summary["left_dataset"], summary["right_dataset"], strict=True)]
    return pd.Series(names, index=summary.index, dtype=object)


def _rows(summary: pd.DataFrame) -> list[str]:
    """Printed names of the rows of a grid, in the order of the registry."""
    columns = [name for name in ("dataset", "left_dataset", "right_dataset") if name in summary]
    order = {name: place for place, name in enumerate(in_registry_order(name for column in columns for name in summary[column]))}
    ordered = summary[[*columns, "row"]].drop_duplicates().sort_values(columns, key=lambda column: column.map(order))
    return list(ordered["row"])


def metric_heatmap(summary: pd.DataFrame, quantities: Sequence[Quantity] = ("observed", "delta")) -> bytes:
    """Draw every metric of every pair of datasets, or of the replicates of every dataset.

    Parameters
    ----------
    summary
        Table AGREEMENT_SUMMARY or REPLICATE_SUMMARY of the contract, of one gene universe, over all cell contexts.
    quantities
        One grid each. Differences diverge around 0.

    Returns
    -------
    PNG: blank where a metric is not defined. Of more than 80 rows the first are shown.
    """
    of = "replicates of datasets" if "dataset" in summary else "pairs of datasets"
    title = f"Agreement of {of} by every metric"
    summary = summary.assign(row=_row_names(summary))
    metrics = [name for name in METRIC_NAMES if name in set(summary["metric"])]
    if not summary[list(quantities)].notna().to_numpy().any():
        return nothing_to_show(title, "Nothing could be scored.")
    tables = {quantity: _pivoted(summary, _rows(summary), "metric", metrics, quantity) for quantity in quantities}
    return _panels(title, tables, [METRIC_HEADS[name] for name in metrics])


def cell_context_heatmap(summary: pd.DataFrame, metric: str, quantities: Sequence[Quantity] = ("observed", "delta")) -> bytes:
    """Draw one metric of every pair of datasets, or of the replicates of every dataset, in each cell context.

    Parameters
    ----------
    summary
        Table AGREEMENT_SUMMARY or REPLICATE_SUMMARY of the contract, of one gene universe, by cell context.
    metric
        Name of a metric.
    quantities
        One grid each.

    Returns
    -------
    PNG: blank where a pair has no such cell context or the metric is not defined there. Of more than 60 cell contexts those of most
    pairs are shown.
    """
    title = f"{METRICS[metric].title}, by cell context"
    summary = summary[summary["metric"] == metric]
    summary = summary.assign(row=_row_names(summary))
    summary = summary[summary[list(quantities)].notna().any(axis=1)]
    if summary.empty:
        return nothing_to_show(title, "Nothing could be scored.")
    contexts = summary["cell_type"].value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index[:60]
    tables = {quantity: _pivoted(summary, _rows(summary), "cell_type", list(contexts), quantity) for quantity in quantities}
    return _panels(title, tables, [context_label(name) for name in contexts], slanted=True)


def retrieval_heatmap(summary: pd.DataFrame) -> bytes:
    """Draw how well signatures of every pair of datasets find their match, by each representation and similarity.

    Parameters
    ----------
    summary
        Table RETRIEVAL_PAIR of the contract; drawn are the rows over both directions and all cell contexts whose positives are matched
        conditions.

    Returns
    -------
    PNG: two grids, the normalised rank of the match (1 first, 0 last) and how far it lies above what random order gives.
    """
    title = "Retrieval of the matched condition"
    over_all = summary["direction"].isna() & summary["cell_type"].isna() & (summary["positives"] == "matched_condition")
    shown = summary[over_all & summary["normalised_rank"].notna()]
    if shown.empty:
        return nothing_to_show(title, "No pool was large enough to be searched.")
    shown = shown.assign(
        row=_row_names(shown),
        by=shown["representation"] + "|" + shown["similarity"],
        observed=shown["normalised_rank"],
        above_chance=shown["above_expected"],
    )
    order = [f"{one}|{other}" for one in REPRESENTATIONS for other in SIMILARITIES if f"{one}|{other}" in set(shown["by"])]
    quantities: tuple[Quantity, ...] = ("observed", "above_chance")
    tables = {quantity: _pivoted(shown, _rows(shown), "by", order, quantity) for quantity in quantities}
    return _panels(title, tables, [name.replace("signed_", "signed\n").replace("|", "\n") for name in order])


def overlap_heatmap(overlaps: pd.DataFrame, quantity: str) -> bytes:
    """Draw what every two datasets share, and on the diagonal what each has replicates of.

    Parameters
    ----------
    overlaps
        Table DATASET_OVERLAPS of the contract.
    quantity
        Number to show: ``n_compounds``, ``n_cell_contexts`` or ``n_conditions``.

    Returns
    -------
    PNG: a symmetric grid; blank where two datasets share nothing.
    """
    title = f"What datasets share: {_OVERLAPS[quantity]}"
    shown = overlaps[overlaps[quantity] > 0]
    if shown.empty:
        return nothing_to_show(title, "No two datasets share a condition, and none has replicates.")
    names = in_registry_order([*shown["left_dataset"], *shown["right_dataset"]])
    table = pd.DataFrame(np.nan, index=names, columns=names)
    for row in shown.itertuples():
        table.loc[row.left_dataset, row.right_dataset] = table.loc[row.right_dataset, row.left_dataset] = getattr(row, quantity)
    labels = [dataset_label(name) for name in names]
    side = 2.6 + 0.6 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    most = float(np.nanmax(table.to_numpy()))
    _grid(axes, table.set_axis(labels, axis=0).set_axis(labels, axis=1), LogNorm(1, max(most, 2)), "YlGnBu", ",.0f")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_title(textwrap.fill(title, int(9 * side)), fontsize=10)
    return to_png(figure)
