"""Pictures of what is there: coverage of the flow, what it asked of machines, and the samples of a dataset.

PNG bytes, by Matplotlib without its global state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbridge_dagster.figures import to_png

if TYPE_CHECKING:
    import pandas as pd

STATE_COLOURS = {
    "current": "#4c9f70",
    "stale": "#e0b040",
    "missing": "#d9d9d9",
    "waiting": "#a9c4de",
    "unaccepted": "#d97b3c",
    "failed": "#b5302e",
}


def coverage_grid(coverage: pd.DataFrame) -> bytes:
    """Draw one bar a stage: its partitions, coloured by state.

    Parameters
    ----------
    coverage
        Table ``coverage`` of the contract.
    """
    import pandas as pd
    from matplotlib.figure import Figure

    counts = pd.crosstab(coverage["stage"], coverage["state"]).reindex(coverage["stage"].unique())
    figure = Figure(figsize=(9, 0.5 * len(counts) + 1.6), layout="constrained")
    axes = figure.subplots()
    left = [0] * len(counts)
    for state, colour in STATE_COLOURS.items():
        if state not in counts:
            continue
        bars = axes.barh(list(counts.index), counts[state], left=left, color=colour, label=state)
        axes.bar_label(bars, labels=[str(n) if n else "" for n in counts[state]], label_type="center", fontsize=9)
        left = [before + n for before, n in zip(left, counts[state], strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("partitions")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(STATE_COLOURS), frameon=False)
    return to_png(figure)


def asked_and_used(report: pd.DataFrame) -> bytes:
    """Draw the memory and the time that a stage asked for and used, one line a stage and dataset.

    Parameters
    ----------
    report
        Table ``resource_report`` of the contract. What was computed on Dagster's machine asked for nothing and shows what it used.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    names = [f"{row.stage}  {row.dataset}" for row in report.itertuples()]
    figure = Figure(figsize=(10, 0.28 * len(names) + 1.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for (what, unit), axis in zip((("memory", "GiB"), ("hours", "h")), axes, strict=True):
        asked, used = (report[f"{what}_{of}_max"].astype(float).to_numpy() for of in ("asked", "used"))
        axis.hlines(range(len(names)), used, asked, color="#c9c9c9", linewidth=2, zorder=1)
        axis.scatter(asked, range(len(names)), color="#d97b3c", s=22, label="asked for, most", zorder=2)
        axis.scatter(used, range(len(names)), color="#4a7fb0", s=22, label="used, most", zorder=3)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(f"{'peak memory' if what == 'memory' else 'time'} [{unit}]")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return to_png(figure)


def samples_by_cell_context(obs: pd.DataFrame, labels: dict[str, str]) -> bytes:
    """Draw treated samples and controls of each cell context, and the doses they were given.

    Parameters
    ----------
    obs
        Table ``harmonized_obs`` of the contract.
    labels
        Cell-context id → what the source calls it.
    """
    import numpy as np
    from matplotlib.figure import Figure

    contexts = obs["cell_type"].value_counts().index[:30][::-1]
    shown = obs[obs["cell_type"].isin(contexts)]
    figure = Figure(figsize=(10, 0.32 * len(contexts) + 2.2), layout="constrained")
    counts, doses = figure.subplots(1, 2, sharey=True)
    names = [f"{labels.get(context, context)} ({context})" if labels.get(context, context) != context else context for context in contexts]
    treated = shown[~shown["is_control"]].groupby("cell_type", observed=True).size().reindex(contexts, fill_value=0)
    controls = shown[shown["is_control"]].groupby("cell_type", observed=True).size().reindex(contexts, fill_value=0)
    counts.barh(names, treated, color="#4a7fb0", label="treated")
    counts.barh(names, controls, left=treated, color="#c9c9c9", label="vehicle control")
    counts.set_xlabel("samples")
    rows = {context: position for position, context in enumerate(contexts)}
    dosed = shown[~shown["is_control"] & (shown["pert_dose_uM"] > 0)]
    points = dosed.groupby(["cell_type", "pert_dose_uM"], observed=True).size().reset_index(name="n")
    sizes = 12 + 160 * np.sqrt(points["n"] / max(points["n"].max(), 1)) if len(points) else []
    doses.scatter(points["pert_dose_uM"], points["cell_type"].map(rows), s=sizes, alpha=0.6, color="#4a7fb0")
    doses.set_xscale("log")
    doses.set_xlabel("dose [µM]; area: samples")
    for axes in (counts, doses):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    figure.suptitle(f"{len(obs):,} samples, {obs['perturbagen'].nunique():,} perturbagens, {obs['cell_type'].nunique():,} cell contexts")
    return to_png(figure)
