"""Pictures of the representation stage, as PNG bytes.

Belongs here: figures of embeddings, training and evaluation. Does not belong here: numbers that are used elsewhere. Figures are made
without pyplot, so no window system and no global state is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.figures import to_png
from perturbridge_dagster.representation.embeddings import embedding_matrix
from perturbridge_dagster.stages import MODELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_MODEL_COLOUR = "#0072b2"
_OTHER_COLOUR = "#999999"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def principal_plane(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates on the first two principal components, and the share of variance of each.

    Parameters
    ----------
    vectors
        (n, width).

    Returns
    -------
    tuple
        (n, 2) coordinates, each component signed so that its largest absolute coordinate is positive; (2,) shares. A component
        that does not exist is zero.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    singular[singular < 1e-10 * singular.max(initial=0)] = 0  # rounding, not spread
    coordinates = np.zeros((len(vectors), 2))
    shares = np.zeros(2)
    n = min(2, len(singular))
    coordinates[:, :n] = left[:, :n] * singular[:n]
    total = float(np.square(singular).sum())
    if total > 0:
        shares[:n] = np.square(singular[:n]) / total
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None, :], axis=0)
    return coordinates * np.where(largest < 0, -1, 1), shares


def embedding_map(embeddings: pd.DataFrame, labels: Mapping[str, str]) -> bytes:
    """Perturbations on the first two principal components of their embeddings.

    Parameters
    ----------
    embeddings
        Columns symbol, n_conditions and embedding.
    labels
        Symbols to label, and the text to show; a few dozen stay readable.

    Returns
    -------
    bytes
        PNG.
    """
    coordinates, shares = principal_plane(embedding_matrix(embeddings))
    is_labelled = embeddings["symbol"].isin(list(labels)).to_numpy()
    figure = _figure(9, 7)
    axes = figure.add_subplot()
    points = axes.scatter(
        coordinates[:, 0],
        coordinates[:, 1],
        c=np.log10(embeddings["n_conditions"].to_numpy(dtype=float).clip(min=1)),
        s=np.where(is_labelled, 36, 12),
        cmap="viridis",
        linewidths=0,
    )
    figure.colorbar(points, ax=axes, label="train conditions (log10)")
    # room for the labels, and for those that step upwards where they would lie on one another
    axes.margins(0.15)
    width, height = 0.18 * max(np.ptp(coordinates[:, 0]), 1e-12), 0.03 * max(np.ptp(coordinates[:, 1]), 1e-12)
    placed: list[tuple[float, float]] = []
    for position in np.flatnonzero(is_labelled):
        x, y = coordinates[position]
        at_x, at_y = x + width / 15, y + height / 3
        while any(abs(at_x - other_x) < width and abs(at_y - other_y) < height for other_x, other_y in placed):
            at_y += height
        placed.append((at_x, at_y))
        line = {"arrowstyle": "-", "color": _OTHER_COLOUR, "lw": 0.5} if at_y > y + height else None
        axes.annotate(labels[embeddings["symbol"].iloc[position]], (x, y), xytext=(at_x, at_y), fontsize=8, arrowprops=line)
    axes.set_xlabel(f"principal component 1 ({shares[0]:.0%} of variance)")
    axes.set_ylabel(f"principal component 2 ({shares[1]:.0%} of variance)")
    axes.set_title(f"Embeddings of {len(embeddings):,} perturbations")
    return to_png(figure)


def training_curve(history: pd.DataFrame) -> bytes:
    """RMSE on train and validation by optimiser step, with the selected step.

    Parameters
    ----------
    history
        As :class:`training.TrainingResult` has it.

    Returns
    -------
    bytes
        PNG.
    """
    best = history.iloc[int(history["validation_rmse"].to_numpy().argmin())]
    figure = _figure(7, 4.5)
    axes = figure.add_subplot()
    axes.plot(history["step"], history["train_rmse"], marker="o", ms=3, color=_OTHER_COLOUR, label="train")
    axes.plot(history["step"], history["validation_rmse"], marker="o", ms=3, color=_MODEL_COLOUR, label="validation")
    axes.axvline(
        best["step"], color=_MODEL_COLOUR, ls=":", lw=1, label=f"selected: step {int(best['step']):,}, RMSE {best['validation_rmse']:.4f}"
    )
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("RMSE (log2)")
    axes.legend(frameon=False)
    return to_png(figure)


def baseline_bars(evaluation: pd.DataFrame) -> bytes:
    """RMSE of the model and of the baselines, one panel a split that has values.

    Parameters
    ----------
    evaluation
        As :func:`evaluation.evaluate` returns it.

    Returns
    -------
    bytes
        PNG.
    """
    scored = evaluation[evaluation["n_values"] > 0]
    splits = list(scored["split"].unique())
    figure = _figure(4.5 * max(1, len(splits)), 3.6)
    panels = figure.subplots(1, max(1, len(splits)), squeeze=False)[0]
    if not splits:
        panels[0].set_axis_off()
        panels[0].text(0.5, 0.5, "no held-out values", ha="center", va="center")
    for axes, split in zip(panels, splits, strict=False):
        rows = scored[scored["split"] == split].iloc[::-1]
        bars = axes.barh(
            rows["predictor"].str.replace("_", " "),
            rows["rmse"],
            color=[_MODEL_COLOUR if name in MODELS else _OTHER_COLOUR for name in rows["predictor"]],
        )
        axes.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
        axes.set_xlim(0, float(rows["rmse"].max()) * 1.2 or 1)
        axes.set_xlabel("RMSE (log2), lower is better")
        axes.set_title(f"{split}, {int(rows['n_values'].iloc[0]):,} values")
    return to_png(figure)
