"""Pictures of the representation stage, as PNG bytes.

Belongs here: figures of embeddings, training and evaluation, each drawn from a table of the contract. Does not belong here: computing what
they show (``geometry.py``, ``evaluation.py``, ``training.py``). Figures are made without pyplot, so no window system and no global state is
touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.figures import Picture, points_with_intervals, to_png
from perturbridge_dagster.representation.baselines import BASELINES
from perturbridge_dagster.representation.verdicts import model_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MODEL_COLOUR = "#0072b2"
_OTHER_COLOUR = "#999999"
_UNKNOWN_COLOUR = "#dddddd"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b", "#b8a800", "#2f4b7c")
_MARKERS = ("o", "^", "s")

_MOST_MECHANISMS = 20
"""Mechanisms with a colour and marker of their own: the largest."""

_MOST_LABELS = 20


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _without(axes: Axes, words: str) -> None:
    """A panel that says why nothing is drawn."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)


# ---- embeddings --------------------------------------------------------------------------------------------------------------


def map_figure(places: pd.DataFrame) -> bytes:
    """Perturbations on the map of an embedding, coloured by mechanism where sources say one.

    The largest mechanisms have colours, the others and the unknown ones are grey. Of each coloured mechanism the perturbation with the most
    train conditions is named. Where no mechanism is known, colour is the number of train conditions.

    Parameters
    ----------
    places
        Table EMBEDDING_MAP of the contract.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure(9.5, 7)
    axes = figure.add_subplot()
    axes.margins(0.08)
    mechanisms = places["mechanism"].value_counts()
    shown = list(mechanisms[mechanisms > 1].sort_index().sort_values(ascending=False, kind="stable").index[:_MOST_MECHANISMS])
    size = 30 if len(places) < 500 else 8
    if shown:
        is_known = places["mechanism"].notna()
        for rows, colour, words in (
            (places[~is_known], _UNKNOWN_COLOUR, "mechanism not known"),
            (places[is_known & ~places["mechanism"].isin(shown)], _OTHER_COLOUR, "other mechanisms"),
        ):
            if len(rows):
                axes.scatter(rows["x"], rows["y"], s=size, color=colour, linewidths=0, zorder=4, label=f"{words} ({len(rows):,})")
        for number, mechanism in enumerate(shown):
            rows = places[places["mechanism"] == mechanism]
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
            words = mechanism if len(mechanism) <= 38 else f"{mechanism[:37]}…"
            axes.scatter(
                rows["x"], rows["y"], s=1.4 * size, color=colour, marker=marker, linewidths=0, zorder=4, label=f"{words} ({len(rows):,})"
            )
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        named = places[places["mechanism"].isin(shown)].sort_values("n_conditions", ascending=False, kind="stable")
        labelled = named.drop_duplicates("mechanism").head(_MOST_LABELS)
    else:
        weight = np.log10(places["n_conditions"].to_numpy(dtype=float).clip(min=1))
        points = axes.scatter(places["x"], places["y"], c=weight, s=size, cmap="viridis", linewidths=0, zorder=4)
        figure.colorbar(points, ax=axes, label="train conditions (log10); sources say no mechanism")
        labelled = places.sort_values("n_conditions", ascending=False, kind="stable").head(_MOST_LABELS)
    _name(axes, labelled.dropna(subset="perturbagen"), places)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{len(places):,} perturbations (t-SNE): near places mean similar embeddings, the axes mean nothing", fontsize=10)
    return to_png(figure)


def _name(axes: Axes, labelled: pd.DataFrame, places: pd.DataFrame) -> None:
    """Write names beside points, towards the middle and under the points; those that would lie on one another step upwards."""
    from matplotlib.patheffects import withStroke

    width, height = (share * max(float(np.ptp(places[name])), 1e-12) for share, name in ((0.16, "x"), (0.03, "y")))
    middle = float(places["x"].min() + np.ptp(places["x"]) / 2)
    placed: list[tuple[float, float]] = []
    for row in labelled.itertuples():
        x, y = float(str(row.x)), float(str(row.y))
        leftwards = x > middle
        at_x, at_y = x + (-width if leftwards else width) / 12, y + height / 3
        while any(abs(at_x - other_x) < width and abs(at_y - other_y) < height for other_x, other_y in placed):
            at_y += height
        placed.append((at_x, at_y))
        line = {"arrowstyle": "-", "color": _OTHER_COLOUR, "lw": 0.5} if at_y > y + height else None
        halo = [withStroke(linewidth=2, foreground="white")]
        side = "right" if leftwards else "left"
        axes.annotate(str(row.perturbagen), (x, y), xytext=(at_x, at_y), ha=side, fontsize=8, arrowprops=line, path_effects=halo)


def stability_figure(stability: pd.DataFrame) -> bytes:
    """Share of nearest neighbours that two seeds have in common, by the number of neighbours, beside chance.

    Parameters
    ----------
    stability
        Table EMBEDDING_STABILITY of the contract.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure(6.5, 4.2)
    axes = figure.add_subplot()
    if stability.empty:
        _without(axes, "one seed, or too few perturbations: nothing to compare")
        return to_png(figure)
    at = sorted(stability["k"].unique())
    place = {k: number for number, k in enumerate(at)}
    of_pairs = stability["k"].map(place)
    axes.plot(of_pairs, stability["common_share"], "o", ms=4, alpha=0.5, color=_MODEL_COLOUR, label="a pair of seeds")
    means = stability.groupby("k")[["common_share", "expected_share"]].mean()
    axes.plot(range(len(at)), means["common_share"], color=_MODEL_COLOUR, label="mean of pairs")
    axes.plot(range(len(at)), means["expected_share"], color=_OTHER_COLOUR, ls="--", marker="s", ms=4, label="chance")
    axes.set_xticks(range(len(at)), [str(k) for k in at])
    axes.set_ylim(0, 1)
    axes.set_xlabel("nearest neighbours compared")
    axes.set_ylabel("share that both seeds have")
    axes.set_title(f"{int(stability['n_perturbations'].max()):,} perturbations", fontsize=10)
    axes.legend(frameon=False)
    return to_png(figure)


# ---- training ----------------------------------------------------------------------------------------------------------------


def learning_curves(history: pd.DataFrame) -> bytes:
    """RMSE on train and validation by optimiser step, a line a seed, with the selected steps.

    Parameters
    ----------
    history
        Table TRAINING_HISTORY of the contract.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure(7, 4.5)
    axes = figure.add_subplot()
    trained = "train, mean since the last pass"
    for number, (_, of_seed) in enumerate(history.groupby("seed", sort=True)):
        first = number == 0
        axes.plot(of_seed["step"], of_seed["train_rmse"], marker="o", ms=2, lw=1, color=_OTHER_COLOUR, label=trained if first else None)
        axes.plot(
            of_seed["step"], of_seed["validation_rmse"], marker="o", ms=2, lw=1, color=_MODEL_COLOUR, label="validation" if first else None
        )
    selected = history[history["selected"]]
    axes.plot(selected["step"], selected["validation_rmse"], "*", ms=12, color="#d55e00", label="selected", zorder=3)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("RMSE (log2)")
    axes.set_title(f"Seeds {', '.join(str(seed) for seed in sorted(history['seed'].unique()))}", fontsize=10)
    axes.legend(frameon=False)
    return to_png(figure)


# ---- evaluation --------------------------------------------------------------------------------------------------------------


def printed(predictor: str) -> str:
    """Name of a predictor for people."""
    return predictor.replace("_", " ").replace("lpm", "LPM").replace("multi output", "multi-output")


_SHOWN_METRICS = ("rmse", "pearson", "direction_agreement", "recovery_at_fdr", "discrimination")


def _pooled(profiles: pd.DataFrame) -> pd.DataFrame:
    """Scores over all datasets of the split to be shown: test, or validation where there is none."""
    rows = profiles[profiles["dataset"].isna() & profiles["value"].notna()]
    splits = [split for split in ("test", "val") if (rows["split"] == split).any()]
    return rows[rows["split"] == splits[0]] if splits else rows[:0]


def _interval_bars(axes: Axes, rows: pd.DataFrame) -> None:
    """Horizontal bars of values with their intervals; rows from top to bottom."""
    from matplotlib.ticker import MaxNLocator

    rows = rows.iloc[::-1]
    places = np.arange(len(rows))
    value = rows["value"].to_numpy(dtype=float)
    ends = [(value - rows["low"]).fillna(0).clip(lower=0), (rows["high"] - value).fillna(0).clip(lower=0)]
    colours = [_OTHER_COLOUR if name in BASELINES else _MODEL_COLOUR for name in rows["predictor"]]
    axes.barh(places, value, color=colours, xerr=np.stack(ends), error_kw={"lw": 1, "capsize": 2, "ecolor": "#444444"})
    axes.set_yticks(places, [printed(name) for name in rows["predictor"]], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    for place in places[~np.isfinite(value)]:
        axes.text(0.02, place, "undefined", transform=axes.get_yaxis_transform(), va="center", fontsize=7, color=_OTHER_COLOUR)


def evaluation_bars(profiles: pd.DataFrame) -> bytes:
    """Every predictor by several metrics of profiles, with 95 % intervals from resampling compounds; dashed lines are chance.

    Parameters
    ----------
    profiles
        Table PROFILE_SCORES of the contract.

    Returns
    -------
    bytes
        PNG.
    """
    from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS

    rows = _pooled(profiles[profiles["baseline"].isna()])
    metrics = [metric for metric in _SHOWN_METRICS if (rows["metric"] == metric).any()]
    figure = _figure(2.7 * max(1, len(metrics)) + 1, 0.8 + 0.32 * max(4, rows["predictor"].nunique()))
    panels = figure.subplots(1, max(1, len(metrics)), sharey=True, squeeze=False)[0]
    if not metrics:
        _without(panels[0], "no held-out values")
        return to_png(figure)
    order = list(dict.fromkeys(rows["predictor"]))
    for axes, name in zip(panels, metrics, strict=True):
        metric = PROFILE_METRICS[name]
        _interval_bars(axes, rows[rows["metric"] == name].set_index("predictor").reindex(order).reset_index())
        if metric.by_chance is not None:
            axes.axvline(metric.by_chance, color="#444444", ls="--", lw=1)
        axes.set_title(metric.title, fontsize=10)
        axes.set_xlabel("higher is better" if metric.higher_is_better else "log2, lower is better", fontsize=8)
    n_conditions, n_compounds = int(rows["n_conditions"].max()), int(rows["n_compounds"].max())
    figure.suptitle(f"{rows['split'].iloc[0]}: {n_conditions:,} held-out conditions of {n_compounds:,} compounds", fontsize=10)
    return to_png(figure)


def difference_bars(profiles: pd.DataFrame) -> bytes:
    """RMSE of a model less that of each baseline, paired by condition, with 95 % intervals; below 0 the model is better.

    Parameters
    ----------
    profiles
        Table PROFILE_SCORES of the contract.

    Returns
    -------
    bytes
        PNG.
    """
    rows = _pooled(profiles[profiles["baseline"].notna() & (profiles["metric"] == "rmse")])
    rows = rows[rows["predictor"] == model_of(profiles)] if len(rows) else rows
    figure = _figure(6.5, 0.9 + 0.36 * max(3, len(rows)))
    axes = figure.add_subplot()
    if rows.empty:
        _without(axes, "no held-out values")
        return to_png(figure)
    axes.axvline(0, color="#444444", lw=1)
    labels = [printed(name) for name in rows["baseline"]]
    points_with_intervals(axes, labels, rows["value"], rows["low"], rows["high"], [_MODEL_COLOUR] * len(rows))
    axes.set_xlabel("RMSE of a profile (log2), model less baseline: left of the line the model is better", fontsize=9)
    axes.set_title(f"{printed(str(rows['predictor'].iloc[0]))} beside each baseline, {rows['split'].iloc[0]}", fontsize=10)
    return to_png(figure)


PICTURES = {
    "map": Picture("Perturbations by mechanism", ("map",), map_figure),
    "profiles": Picture("The model and what needs no training, by several metrics", ("profile_scores",), evaluation_bars),
    "differences": Picture("The model beside each baseline", ("profile_scores",), difference_bars),
    "stability": Picture("How far seeds agree on nearest neighbours", ("stability",), stability_figure),
    "training": Picture("Learning curves", ("training",), learning_curves),
}
"""Name → picture of an output of compound_embeddings."""
