"""Pictures of the effects of one stratum, as PNG bytes.

Belongs here: what a biologist looks at before trusting a table. Does not belong here: showing it in Dagster (``assets/effects.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.effects.storage import StoredEffects
from perturbridge_dagster.effects.table import SIGNIFICANT
from perturbridge_dagster.errors import NotEstimableError
from perturbridge_dagster.figures import to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MUTED, _UP, _DOWN = "#9aa0a6", "#b2182b", "#2166ac"
_MOST_CONTRASTS = 300
"""Contrasts that the histogram draws from; more change nothing that an eye could see."""


def _figure(title: str) -> tuple[Figure, Any]:
    """An empty picture with one plain axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def p_value_histogram(stored: StoredEffects) -> bytes:
    """P values of the contrasts: flat where nothing happens, a peak at 0 where genes respond.

    A peak at 1, or a hump in the middle, says that the model does not fit.

    Parameters
    ----------
    stored
        Effects of one stratum.
    """
    n = len(stored.contrasts)
    some = np.unique(np.linspace(0, n - 1, min(n, _MOST_CONTRASTS)).astype(np.intp))
    log10_p = stored.dense(["log10_p"], contrasts=some)["log10_p"]
    p = 10.0 ** log10_p[~np.isnan(log10_p)].astype(np.float64)
    stratum = stored.contrasts["stratum"].iloc[0]
    figure, axes = _figure(f"{stratum}: P values of {len(some):,} of {n:,} contrasts")
    counts, edges = np.histogram(p, bins=40, range=(0, 1))
    axes.bar(edges[:-1], counts / max(len(p), 1) * 40, width=np.diff(edges), align="edge", color=_MUTED, edgecolor="white", linewidth=0.5)
    axes.axhline(1, color="black", linewidth=1, linestyle="--", label="expected without any effect")
    figure.legend(loc="outside lower right", frameon=False, fontsize=9)
    axes.set(xlabel="P value", ylabel="density", xlim=(0, 1))
    return to_png(figure)


def strongest_contrast(stored: StoredEffects) -> int:
    """Position of the estimable contrast with most significant genes; among equals, with the largest mean |t|.

    Raises
    ------
    NotEstimableError
        If no contrast of the stratum is estimable.
    """
    known = stored.contrasts[stored.contrasts["mean_abs_t"].notna()]
    if known.empty:
        raise NotEstimableError(f"{stored.folder}: no contrast is estimable, so there is none to draw")
    return int(known.sort_values(["n_significant", "mean_abs_t"], ascending=False, kind="stable").index[0])


def _legible(points: NDArray[np.float32], ranked: NDArray[np.intp], n: int) -> list[int]:
    """The first n of the ranked points that lie far enough from those before them for a text beside each."""
    room = (np.nanmax(points, axis=0) - np.nanmin(points, axis=0)) * (0.2, 0.035)
    chosen: list[int] = []
    for candidate in ranked:
        if len(chosen) == n:
            break
        if (np.abs(points[chosen] - points[candidate]) > room).any(axis=1).all():
            chosen.append(int(candidate))
    return chosen


def volcano(stored: StoredEffects, contrast: int | None = None, *, n_labels: int = 10) -> bytes:
    """Effect against significance of every gene in one contrast; the most significant genes are named where there is room.

    Parameters
    ----------
    stored
        Effects of one stratum.
    contrast
        Position of the contrast; None for the strongest.
    n_labels
        Genes to name.

    Raises
    ------
    NotEstimableError
        If the contrast is not estimable.
    """
    if contrast is None:
        contrast = strongest_contrast(stored)
    row = stored.contrasts.iloc[contrast]
    if np.isnan(row["mean_abs_t"]):
        raise NotEstimableError(f"{stored.folder}: contrast {contrast} is not estimable, so there is nothing to draw")
    wanted = stored.dense(["logFC", "log10_p", "log10_adj_p_within"], contrasts=np.array([contrast]))
    log_fc, log10_p, log10_adjusted = (values[0] for values in wanted.values())
    significant = log10_adjusted < np.log10(SIGNIFICANT)
    replicate = f", {row['sample_id']}" if row["sample_id"] is not None else ""
    figure, axes = _figure(
        f"{row['perturbagen']} {row['pert_dose_uM']:g} µM, {row['pert_time_h']:g} h in {row['stratum']}{replicate}\n"
        f"against {row['control']}: {int(significant.sum()):,} of {len(log_fc):,} genes significant"
    )
    for chosen, color in ((~significant, _MUTED), (significant & (log_fc > 0), _UP), (significant & (log_fc < 0), _DOWN)):
        axes.scatter(log_fc[chosen], -log10_p[chosen], s=8, color=color, linewidths=0, rasterized=True)
    names = stored.genes["symbol"].fillna(stored.genes["ensembl_id"])
    for gene in _legible(np.column_stack([log_fc, log10_p]), np.argsort(log10_p, kind="stable")[: int(significant.sum())], n_labels):
        axes.annotate(names.iloc[gene], (log_fc[gene], -log10_p[gene]), xytext=(3, 2), textcoords="offset points", fontsize=8)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set(xlabel="log2 fold change, treated minus control", ylabel="−log10 P")
    axes.margins(x=0.1)
    return to_png(figure)
