"""A picture of the comparison with the published release, as PNG bytes.

Belongs here: drawing. Does not belong here: measuring (``compare.py``).
"""

from __future__ import annotations

import numpy as np

from perturbridge_dagster.figures import to_png
from perturbridge_dagster.published.compare import Comparison

_OURS, _REFIT = "#4a7fb0", "#d97b3c"


def comparison_figure(comparison: Comparison) -> bytes:
    """Draw our logFC against the release's, and how many contrasts agree how well.

    Parameters
    ----------
    comparison
        Comparison of one stratum.

    Returns
    -------
    PNG. Left: contrasts × genes, equal values on the diagonal; darker where there are more. Right: share of contrasts whose Spearman
    correlation of logFC is at most so high, with our fit of the whole stratum and, where there is one, of the release's batches.
    """
    from matplotlib.figure import Figure

    stratum = comparison.strata.iloc[0]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    values, shares = figure.subplots(1, 2)
    ours, theirs = comparison.sampled
    if len(ours):
        # a few values far out would leave a dot of everything else
        reach = max(float(np.quantile(np.abs(comparison.sampled), 0.9995)), 1e-6)
        extent = (-reach, reach, -reach, reach)
        inside = (np.abs(comparison.sampled) <= reach).all(axis=0)
        cells = values.hexbin(ours[inside], theirs[inside], gridsize=70, bins="log", extent=extent, cmap="Blues", linewidths=0)
        figure.colorbar(cells, ax=values, label="contrasts × genes", shrink=0.8)
        values.plot([-reach, reach], [-reach, reach], color="black", linewidth=0.8, linestyle="--")
        values.set_aspect("equal")
    values.set(xlabel="our log2 fold change", ylabel="published log2 fold change")
    own = comparison.contrasts[~comparison.contrasts["is_padding"].astype(bool)]
    for column, label, colour in (
        ("spearman_logFC", "our fit of the whole stratum", _OURS),
        ("spearman_logFC_refit", "our fit of the release's batches", _REFIT),
    ):
        known = np.sort(own[column].dropna().to_numpy(dtype=float))
        if len(known):
            shares.step(known, np.arange(1, len(known) + 1) / len(known), where="post", color=colour, label=label)
    shares.set(xlabel="Spearman correlation of logFC, a contrast", ylabel="share of contrasts", ylim=(0, 1.02))
    shares.legend(frameon=False, fontsize=9, loc="upper left")
    for axes in (values, shares):
        axes.spines[["top", "right"]].set_visible(False)
    batches = f"in {stratum['n_batches']} batches" if stratum["n_batches"] > 1 else "whole"
    figure.suptitle(
        f"{stratum['dataset']} {stratum['stratum']}: {stratum['n_both']:,} conditions on both sides; published {batches}", fontsize=11
    )
    return to_png(figure)
