"""Pictures of a hold-out study, as PNG bytes, drawn from its tables alone.

Belongs here: drawing. Does not belong here: computing anything that a table should hold (``summary.py``). Figures are made without
pyplot, so no window system and no global state is touched.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturbridge_dagster.figures import points_with_intervals, to_png
from perturbridge_dagster.labels import dataset_label
from perturbridge_dagster.representation.holdout.scores import ALL_DATASETS
from perturbridge_dagster.representation.verdicts import FEWEST_HELD_OUT

_COLOURS = {"variant": "#0072b2", "baseline": "#999999"}
_COLUMNS = 3
_NOTHING = "No dataset could be scored."


def _panels(rows: pd.DataFrame, title: str) -> tuple[Figure, list[tuple[str, Axes, pd.DataFrame]]]:
    """A panel a dataset, side by side, each with room for the rows of any; words in place of panels where there is none."""
    of_dataset = {str(name): of for name, of in rows.groupby("dataset", sort=False)}
    n, n_rows = max(1, len(of_dataset)), max(map(len, of_dataset.values()), default=1)
    columns = min(_COLUMNS, n)
    lines = math.ceil(n / columns)
    figure = Figure(figsize=(1.5 + 4.2 * columns, 1.0 + lines * (1.0 + 0.24 * n_rows)), layout="constrained")
    figure.suptitle(title)
    if not of_dataset:
        figure.text(0.5, 0.5, _NOTHING, ha="center", va="center", color="0.35")
    panels = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axes in panels[len(of_dataset) :]:
        axes.set_axis_off()
    return figure, [(name, axes, of) for axes, (name, of) in zip(panels, of_dataset.items(), strict=False)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _dataset(name: str) -> str:
    return _words(name) if name == ALL_DATASETS else dataset_label(name)


def rmse_figure(summary: pd.DataFrame) -> bytes:
    """RMSE of every predictor on every dataset, with intervals and the seeds' standard deviation in words.

    Parameters
    ----------
    summary
        Table HOLDOUT_SUMMARY of the contract.

    Returns
    -------
    bytes
        PNG: one panel a dataset; variants blue, baselines grey, and a line at the best baseline.
    """
    figure, panels = _panels(summary, "RMSE on test values (log2), lower is better; 95 % intervals")
    for dataset, axes, rows in panels:
        labels = [_words(name) for name in rows["predictor"]]
        points_with_intervals(
            axes, labels, rows["test_rmse_mean"], rows["test_rmse_low"], rows["test_rmse_high"], [_COLOURS[k] for k in rows["kind"]]
        )
        first = rows.iloc[0]
        if pd.notna(first["best_baseline_rmse"]):
            axes.axvline(float(first["best_baseline_rmse"]), color="0.4", ls="--", lw=1)
        axes.set_title(f"{_dataset(dataset)}: {first['n_compounds']:,} compounds, {first['n_conditions']:,} conditions", fontsize=9)
    return to_png(figure)


def difference_figure(summary: pd.DataFrame) -> bytes:
    """How far each variant lies below or above the best baseline, with paired intervals.

    Parameters
    ----------
    summary
        Table HOLDOUT_SUMMARY of the contract.

    Returns
    -------
    bytes
        PNG: one panel a dataset; a variant that beats the baseline is blue, one that surely loses orange, others grey.
    """
    variants = summary[summary["kind"] == "variant"]
    variants = variants[variants["difference"].notna()]
    figure, panels = _panels(variants, "RMSE less that of the best baseline (log2); below 0 is better; 95 % intervals, paired")
    for dataset, axes, rows in panels:
        enough = rows["n_clusters"] >= FEWEST_HELD_OUT
        lost = (rows["difference_low"] > 0) & enough
        colours = list(np.select([rows["beats_best_baseline"].eq(True), lost], ["#0072b2", "#d55e00"], "#999999"))
        labels = [_words(name) for name in rows["predictor"]]
        points_with_intervals(axes, labels, rows["difference"], rows["difference_low"], rows["difference_high"], colours)
        axes.axvline(0, color="0.4", lw=1)
        first = rows.iloc[0]
        drawn = f"{first['n_clusters']} {first['clustered_by']}{'s' if first['n_clusters'] != 1 else ''} drawn"
        axes.set_title(f"{_dataset(dataset)}: best is {_words(str(first['best_baseline']))}; {drawn}", fontsize=9)
    return to_png(figure)
