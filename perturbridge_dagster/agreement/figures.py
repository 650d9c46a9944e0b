"""Figures: agreement as distributions and scatters, as PNG bytes.

Belongs here: drawing scored tables and units. Does not belong here: grids (``heatmaps.py``), or computing anything that a table should
hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perturbridge_dagster.agreement.labels import HEADLINE_METRICS
from perturbridge_dagster.agreement.metrics import METRICS, spearman_rows
from perturbridge_dagster.figures import to_png
from perturbridge_dagster.labels import context_label, dataset_label, in_registry_order, pair_label

_CONTEXTS_IN_COLOUR = 7
_FEWEST_FOR_A_VIOLIN = 8
_GREY = "0.6"
_COLOURS = {
    "observed": "tab:blue",
    "baseline": "tab:orange",
    "target_centroid": "tab:green",
    "target_peers": "tab:purple",
    "unmatched": "tab:brown",
}
"""Column → colour, the same in every picture."""
_MATCH = ["left_dataset", "right_dataset", "left_stratum", "right_stratum", "left_contrast", "right_contrast"]


def nothing_to_show(title: str, reason: str) -> bytes:
    """A picture that says why it is empty."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    figure.suptitle(title)
    figure.text(0.5, 0.5, reason, ha="center", va="center", color="0.35")
    return to_png(figure)


def _between(scored: pd.DataFrame) -> str:
    """Which datasets a scored table compares, for a title."""
    pairs = scored[["left_dataset", "right_dataset"]].drop_duplicates()
    return pair_label(*pairs.iloc[0]) if len(pairs) == 1 else f"{len(pairs)} pairs of datasets"


def _chance_line(axes: Axes, metric: str, place: float | None = None) -> None:
    """A line at the score of unrelated signatures, where the metric has one; named at `place`."""
    by_chance = METRICS[metric].by_chance
    if by_chance is not None:
        axes.axhline(by_chance, color=_GREY, linestyle="--", linewidth=1)
        if place is not None:
            axes.text(place, by_chance, "chance", color="0.4", fontsize="small", va="bottom")


def _limits(values: Iterable[NDArray[np.float64]]) -> tuple[float, float]:
    """Ends of the axis of scores: from 0 to 1, and as far below as values lie."""
    least = min((float(np.nanmin(column, initial=0)) for column in values), default=0.0)
    return (max(-1.05, least - 0.08), 1.05)


def _distribution(axes: Axes, place: float, values: NDArray[np.float64], colour: str, width: float) -> None:
    """A violin of one group with its quartiles and median; points alone where there are few."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if len(values) >= _FEWEST_FOR_A_VIOLIN and np.ptp(values) > 0:
        # Matplotlib's own types say that the list is one collection
        for body in cast("list[Collection]", axes.violinplot(values, positions=[place], widths=width, showextrema=False)["bodies"]):
            body.set(facecolor=colour, alpha=0.3, edgecolor=colour)
    # Multiples of the golden ratio spread evenly, and the same way each time.
    spread = (np.arange(len(values)) * 0.618034) % 1 - 0.5
    size = 12 if len(values) < 500 else 3
    axes.scatter(place + 0.5 * width * spread, values, s=size, color=colour, alpha=0.4, linewidths=0, rasterized=True)
    axes.boxplot(
        values, positions=[place], widths=0.25 * width, showfliers=False, medianprops={"color": "black", "linewidth": 2}, manage_ticks=False
    )


def _distributions(axes: Axes, groups: dict[str, str], rows: pd.DataFrame, metric: str) -> None:
    """Columns side by side under their names, with the number of values, and a line at the value expected by chance."""
    values = {name: rows[column].to_numpy(dtype=np.float64) for name, column in groups.items()}
    _chance_line(axes, metric, -0.55)
    for place, (name, column) in enumerate(groups.items()):
        _distribution(axes, place, values[name], _COLOURS[column], 0.8)
    axes.set_xticks(range(len(groups)), [f"{name}\n(n = {np.isfinite(column).sum():,})" for name, column in values.items()], fontsize=7)
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylim=_limits(values.values()))
    axes.set_title(METRICS[metric].title, fontsize=9)


def agreement_scatter(conditions: pd.DataFrame, scores: pd.DataFrame, metric: str = "spearman_logFC") -> bytes:
    """Draw agreement of matched conditions against the strength of the perturbation.

    Parameters
    ----------
    conditions
        Table AGREEMENT_CONDITIONS of the contract.
    scores
        Table AGREEMENT_SCORES of the contract, of one gene universe.
    metric
        Name of the metric to show.

    Returns
    -------
    PNG: log10 of mean |t| against the score, coloured by cell context. The seven contexts with most conditions have a colour, the rest
    are grey.
    """
    title = "Do stronger perturbations agree better?"
    chosen = scores.loc[scores["metric"] == metric, [*_MATCH, "score"]]
    shown = conditions[[*_MATCH, "cell_type", "mean_abs_t"]].merge(chosen, on=_MATCH, validate="one_to_one")
    shown = shown[(shown["mean_abs_t"] > 0) & shown["score"].notna()]
    if shown.empty:
        return nothing_to_show(title, "No matched condition could be scored.")
    strength = np.log10(shown["mean_abs_t"].to_numpy(dtype=np.float64))
    agreement = shown["score"].to_numpy(dtype=np.float64)
    counts = shown.groupby("cell_type", sort=True).size().sort_values(ascending=False, kind="stable")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    _chance_line(axes, metric)
    context = shown["cell_type"].to_numpy(dtype=object)
    # The largest contexts are drawn last, over the grey of the rest.
    rest = ~np.isin(context, list(counts.index[:_CONTEXTS_IN_COLOUR]))
    drawn = [("other cell contexts", rest, _GREY)] if rest.any() else []
    drawn += [(context_label(str(name)), context == name, f"C{place}") for place, name in enumerate(counts.index[:_CONTEXTS_IN_COLOUR])]
    for name, here, colour in drawn:
        axes.scatter(strength[here], agreement[here], s=16, alpha=0.6, linewidths=0, color=colour, label=f"{name} ({here.sum():,})")
    (correlation,) = spearman_rows(strength[None], agreement[None])
    found = f", rank correlation {correlation:.2f}" if np.isfinite(correlation) else ""
    axes.set(
        title=f"{title}\n{_between(shown)}: {len(shown):,} matched conditions{found}",
        xlabel="Perturbation strength: log10 of mean |moderated t|, mean of both datasets",
        ylabel=METRICS[metric].title,
        ylim=_limits([agreement]),
    )
    figure.legend(loc="outside right upper", title="Cell context (conditions)", fontsize="small", frameon=False)
    return to_png(figure)


def observed_and_baselines(units: pd.DataFrame, metrics: Sequence[str] = HEADLINE_METRICS) -> bytes:
    """Draw agreement of two datasets beside what other compounds give.

    Parameters
    ----------
    units
        Table AGREEMENT_UNITS of the contract, of one gene universe.
    metrics
        Names of metrics, one panel each.

    Returns
    -------
    PNG: for each metric the scores between datasets, those with the mean of other compounds of the own and of the other dataset, and those
    with single other compounds of the other dataset.
    """
    title = "Do datasets agree on a compound beyond what other compounds share with it?"
    groups = {
        "same compound,\nother dataset": "observed",
        "mean of others,\nown dataset": "baseline",
        "mean of others,\nother dataset": "target_centroid",
        "single others,\nother dataset": "target_peers",
    }
    shown = units[units["metric"].isin(metrics)]
    if not shown[list(groups.values())].notna().to_numpy().any():
        return nothing_to_show(title, "No matched condition could be scored.")
    figure = Figure(figsize=(4.8 * len(metrics), 4.8), layout="constrained")
    n_units = len(shown[["left_dataset", "right_dataset", "pubchem_cid", "cell_type", "pert_time_h"]].drop_duplicates())
    figure.suptitle(f"{title}\n{_between(shown)}: {n_units:,} compounds in a cell context at a time")
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        here = shown[shown["metric"] == metric]
        _distributions(axes, groups, here, metric)
    return to_png(figure)


def pair_violins(units: pd.DataFrame, metric: str) -> bytes:
    """Draw one metric of every pair of datasets, or of the replicates of every dataset, observed beside baseline.

    Parameters
    ----------
    units
        Table AGREEMENT_UNITS or REPLICATE_CONDITIONS of the contract, of one gene universe.
    metric
        Name of the metric.

    Returns
    -------
    PNG: for each pair or dataset with a score, the observed scores and those with the mean of other compounds of the own dataset. Of more
    than 40 those with most scores are shown.
    """
    title = METRICS[metric].title
    by = [name for name in ("dataset", "left_dataset", "right_dataset") if name in units]
    shown = units[(units["metric"] == metric) & units["observed"].notna()]
    if shown.empty:
        return nothing_to_show(title, "Nothing could be scored.")
    names = pd.Series([tuple(map(str, row)) for row in shown[by].itertuples(index=False)], index=shown.index, dtype=object)
    order = {name: place for place, name in enumerate(in_registry_order(name for key in names for name in key))}
    most = names.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index[:40]
    keys = sorted(most, key=lambda key: [order[name] for name in key])
    groups = {key: shown[names == key] for key in keys}
    figure = Figure(figsize=(2.5 + 0.75 * len(keys), 5.2), layout="constrained")
    axes = figure.add_subplot()
    _chance_line(axes, metric)
    for place, key in enumerate(keys):
        for shift, column in ((-0.2, "observed"), (0.2, "baseline")):
            _distribution(axes, place + shift, groups[key][column].to_numpy(dtype=np.float64), _COLOURS[column], 0.4)
    labels = [f"{dataset_label(key[0]) if len(key) == 1 else pair_label(*key)} (n = {len(groups[key]):,})" for key in keys]
    axes.set_xticks(range(len(keys)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    limits = _limits([shown["observed"].to_numpy(dtype=np.float64), shown["baseline"].to_numpy(dtype=np.float64)])
    axes.set(title=title, ylim=limits, xlim=(-0.6, len(keys) - 0.4))
    for column, name in (("observed", "observed"), ("baseline", "with the mean of other compounds of the own dataset")):
        axes.scatter([], [], color=_COLOURS[column], label=name)
    figure.legend(loc="outside upper right", ncols=2, fontsize="small", frameon=False)
    return to_png(figure)


def replicate_figure(conditions: pd.DataFrame, metrics: Sequence[str] = HEADLINE_METRICS) -> bytes:
    """Draw agreement of replicates beside that of unmatched replicates.

    Parameters
    ----------
    conditions
        Table REPLICATE_CONDITIONS of the contract, of one gene universe.
    metrics
        Names of metrics, one panel each.

    Returns
    -------
    PNG: for each metric the scores of replicates of one condition, of replicates of different compounds on one plate where the metric has
    them, and of a replicate with the mean of other compounds.
    """
    title = "Do replicates agree?"
    groups = {
        "replicates of\none condition": "observed",
        "different compounds,\none plate": "unmatched",
        "mean of other\ncompounds": "baseline",
    }
    shown = conditions[conditions["metric"].isin(metrics)]
    if not shown[list(groups.values())].notna().to_numpy().any():
        return nothing_to_show(title, "No condition has two replicates that could be scored.")
    figure = Figure(figsize=(4 * len(metrics), 4.8), layout="constrained")
    n_conditions = len(shown[["dataset", "pubchem_cid", "cell_type", "pert_time_h", "pert_dose_uM"]].drop_duplicates())
    figure.suptitle(f"{title}\n{', '.join(map(dataset_label, in_registry_order(shown['dataset'])))}: {n_conditions:,} conditions")
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        here = shown[shown["metric"] == metric]
        has = {name: column for name, column in groups.items() if column != "unmatched" or here[column].notna().any()}
        _distributions(axes, has, here, metric)
    return to_png(figure)
