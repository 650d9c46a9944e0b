"""Figures: agreement as pictures, as PNG bytes.

Belongs here: drawing scored tables. Does not belong here: computing anything that a table should hold.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perturbridge_dagster.agreement.metrics import spearman_rows
from perturbridge_dagster.figures import to_png

_CONTEXTS_IN_COLOUR = 7
_GREY = "0.6"
_SPEARMAN = "Spearman correlation of logFC"
_DIRECTION = "Share of significant genes\nthat change in the same direction"
_OTHERS = "with the mean of\nother compounds"


def _nothing_to_show(title: str, reason: str) -> bytes:
    figure = Figure(figsize=(6, 4), layout="constrained")
    figure.suptitle(title)
    figure.text(0.5, 0.5, reason, ha="center", va="center", color="0.35")
    return to_png(figure)


def _between(scored: pd.DataFrame) -> str:
    """Which datasets a scored table compares, for a title."""
    pairs = scored[["left_dataset", "right_dataset"]].drop_duplicates()
    return " and ".join(pairs.iloc[0]) if len(pairs) == 1 else f"{len(pairs)} pairs of datasets"


def _distribution(axes: Axes, place: int, values: NDArray[np.float64], colour: str) -> None:
    """Points of one group, spread sideways, with a box of quartiles and median over them."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    # Multiples of the golden ratio spread evenly, and the same way each time.
    spread = (np.arange(len(values)) * 0.618034) % 1 - 0.5
    size = 12 if len(values) < 500 else 3
    axes.scatter(place + 0.6 * spread, values, s=size, color=colour, alpha=0.4, linewidths=0, rasterized=True)
    axes.boxplot(values, positions=[place], widths=0.25, showfliers=False, medianprops={"color": "black", "linewidth": 2})


def _distributions(axes: Axes, groups: dict[str, pd.Series[float]], label: str, by_chance: float, limits: tuple[float, float]) -> None:
    """Groups side by side, the number of values under each name, and a line at the value expected by chance."""
    values = {name: np.asarray(column, dtype=np.float64) for name, column in groups.items()}
    axes.axhline(by_chance, color=_GREY, linestyle="--", linewidth=1)
    axes.text(-0.55, by_chance, "chance", color="0.4", fontsize="small", va="bottom")
    for place, (column, colour) in enumerate(zip(values.values(), ("tab:blue", "tab:orange", "tab:green"), strict=False)):
        _distribution(axes, place, column, colour)
    axes.set_xticks(range(len(groups)), [f"{name}\n(n = {np.isfinite(column).sum():,})" for name, column in values.items()])
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylim=limits, ylabel=label)


def agreement_scatter(scored: pd.DataFrame) -> bytes:
    """Draw agreement of matched conditions against the strength of the perturbation.

    Parameters
    ----------
    scored
        Table AGREEMENT_CONDITIONS of the contract.

    Returns
    -------
    PNG: log10 of mean |t| against the Spearman correlation of logFC, coloured by cell context. The seven contexts with
    most conditions have a colour, the rest are grey.
    """
    title = "Do stronger perturbations agree better?"
    shown = scored[(scored["mean_abs_t"] > 0) & scored["spearman_logFC"].notna()]
    if shown.empty:
        return _nothing_to_show(title, "No matched condition could be scored.")
    strength = np.log10(shown["mean_abs_t"].to_numpy(dtype=np.float64))
    agreement = shown["spearman_logFC"].to_numpy(dtype=np.float64)
    counts = shown.groupby("cell_type", sort=True).size().sort_values(ascending=False, kind="stable")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color=_GREY, linestyle="--", linewidth=1)
    context = shown["cell_type"].to_numpy(dtype=object)
    # The largest contexts are drawn last, over the grey of the rest.
    rest = ~np.isin(context, list(counts.index[:_CONTEXTS_IN_COLOUR]))
    drawn = [("other cell contexts", rest, _GREY)] if rest.any() else []
    drawn += [(str(name), context == name, f"C{place}") for place, name in enumerate(counts.index[:_CONTEXTS_IN_COLOUR])]
    for name, here, colour in drawn:
        axes.scatter(strength[here], agreement[here], s=16, alpha=0.6, linewidths=0, color=colour, label=f"{name} ({here.sum():,})")
    (correlation,) = spearman_rows(strength[None], agreement[None])
    found = f", rank correlation {correlation:.2f}" if np.isfinite(correlation) else ""
    axes.set(
        title=f"{title}\n{_between(shown)}: {len(shown):,} matched conditions{found}",
        xlabel="Perturbation strength: log10 of mean |moderated t|, mean of both datasets",
        ylabel=_SPEARMAN,
        ylim=(-1.05, 1.05),
    )
    figure.legend(loc="outside right upper", title="Cell context (conditions)", fontsize="small", frameon=False)
    return to_png(figure)


def observed_and_baseline(scored: pd.DataFrame) -> bytes:
    """Draw agreement of matched conditions beside the baseline.

    Parameters
    ----------
    scored
        Table AGREEMENT_CONDITIONS of the contract.

    Returns
    -------
    PNG: for each metric, the scores between datasets and the scores with the mean of other compounds of the own dataset.
    """
    title = "Do datasets agree on a compound beyond what other compounds share with it?"
    metrics = (("spearman_logFC", _SPEARMAN, 0.0, (-1.05, 1.05)), ("direction_agreement", _DIRECTION, 0.5, (-0.03, 1.03)))
    columns = [f"{metric}{suffix}" for metric, *_ in metrics for suffix in ("", "_baseline")]
    if not scored[columns].notna().to_numpy().any():
        return _nothing_to_show(title, "No matched condition could be scored.")
    figure = Figure(figsize=(9, 5), layout="constrained")
    figure.suptitle(f"{title}\n{_between(scored)}: {len(scored):,} matched conditions")
    for axes, (metric, label, by_chance, limits) in zip(figure.subplots(1, 2), metrics, strict=True):
        groups = {"same compound,\nother dataset": scored[metric], f"same dataset,\n{_OTHERS}": scored[f"{metric}_baseline"]}
        _distributions(axes, groups, label, by_chance, limits)
    return to_png(figure)


def replicate_figure(pairs: pd.DataFrame) -> bytes:
    """Draw agreement of replicates beside that of unmatched replicates.

    Parameters
    ----------
    pairs
        Table REPLICATE_PAIRS of the contract.

    Returns
    -------
    PNG: Spearman correlation of logFC of replicates of one condition, of replicates of different compounds on one plate, and of a
    replicate with the mean of other compounds.
    """
    title = "Do replicates agree?"
    groups = {
        "replicates of\none condition": "spearman_logFC",
        "different compounds,\none plate": "unmatched_spearman_logFC",
        f"replicate\n{_OTHERS}": "spearman_logFC_baseline",
    }
    if not pairs[list(groups.values())].notna().to_numpy().any():
        return _nothing_to_show(title, "No condition has two replicates that could be scored.")
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{title}\n{', '.join(sorted(set(pairs['dataset'])))}: {len(pairs):,} pairs of replicates")
    _distributions(axes, {name: pairs[column] for name, column in groups.items()}, _SPEARMAN, 0.0, (-1.05, 1.05))
    return to_png(figure)
