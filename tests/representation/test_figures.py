"""Figures: pictures of the right things, each from its table, equal for equal input."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from perturbridge_dagster.contract import EMBEDDING_MAP, EMBEDDING_STABILITY, PROFILE_SCORES, TRAINING_HISTORY
from perturbridge_dagster.representation.figures import (
    PICTURES,
    difference_bars,
    evaluation_bars,
    learning_curves,
    map_figure,
    printed,
    stability_figure,
)
from perturbridge_dagster.written import to_arrow

pytestmark = pytest.mark.slow


def drawn(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    pixels = image.imread(io.BytesIO(png))
    assert pixels.shape[0] > 150
    assert pixels.shape[1] > 400
    assert np.ptp(pixels[..., :3]) == pytest.approx(1, abs=0.2)  # neither blank nor black
    return pixels


def colours(png: bytes) -> int:
    """Colours that many pixels have."""
    counts = np.unique(drawn(png).reshape(-1, drawn(png).shape[-1]), axis=0, return_counts=True)[1]
    return int((counts > 60).sum())


def places_of(n: int, mechanisms: int) -> pd.DataFrame:
    at = np.random.default_rng(n).standard_normal((n, 2))
    known = [f"mechanism {number % mechanisms}" if mechanisms and number % 3 else None for number in range(n)]
    frame = pd.DataFrame({"symbol": [str(number) for number in range(n)], "perturbagen": "drug", "mechanism": known})
    frame = frame.assign(n_conditions=range(1, n + 1), x=at[:, 0], y=at[:, 1])
    to_arrow(frame, EMBEDDING_MAP)
    return frame


@pytest.mark.parametrize("n", [1, 2, 60, 700])
def test_a_map_without_mechanisms_shows_the_conditions(n: int) -> None:
    frame = places_of(n, 0)
    assert drawn(map_figure(frame)).shape == drawn(map_figure(frame.assign(perturbagen=None))).shape
    assert map_figure(frame) == map_figure(frame)
    assert map_figure(frame) != map_figure(frame.assign(n_conditions=frame["n_conditions"].to_numpy()[::-1])) or n == 1


def test_each_mechanism_has_a_colour() -> None:
    assert colours(map_figure(places_of(60, 8))) >= colours(map_figure(places_of(60, 2))) + 5


def test_more_mechanisms_than_colours_are_grey() -> None:
    drawn(map_figure(places_of(300, 45)))
    alone = places_of(9, 0).assign(mechanism=[f"m{number}" for number in range(9)])
    drawn(map_figure(alone))


def history_of(*validation: list[float]) -> pd.DataFrame:
    frames = []
    for seed, rmse in enumerate(validation):
        frame = pd.DataFrame({"step": range(10, 10 * len(rmse) + 10, 10), "validation_rmse": rmse})
        frames.append(frame.assign(seed=seed, epoch=1.0, train_rmse=0.7, learning_rate=1e-3, selected=frame.index == int(np.argmin(rmse))))
    history = pd.concat(frames, ignore_index=True)
    to_arrow(history, TRAINING_HISTORY)
    return history


def test_learning_curves_show_every_seed_and_what_was_selected() -> None:
    one = history_of([0.8, 0.6, 0.65])
    later = history_of([0.8, 0.65, 0.6])
    assert (drawn(learning_curves(one)) != drawn(learning_curves(later))).any()
    assert learning_curves(history_of([0.8, 0.6, 0.65], [0.9, 0.7, 0.5])) != learning_curves(one)
    drawn(learning_curves(history_of([0.8])))


def stability_of(shares: list[float]) -> pd.DataFrame:
    rows = [(0, 1, k, 100, share, k / 99) for k, share in zip((1, 5, 10), shares, strict=False)]
    frame = pd.DataFrame(rows, columns=EMBEDDING_STABILITY.names)
    to_arrow(frame, EMBEDDING_STABILITY)
    return frame


def test_stability_is_drawn_beside_chance() -> None:
    assert stability_figure(stability_of([0.3, 0.4, 0.5])) != stability_figure(stability_of([0.3, 0.4, 0.6]))
    drawn(stability_figure(stability_of([])))


PREDICTORS = ("scalar_lpm", "zero", "gene_mean")


def profiles_of(split: str = "test", **changes: object) -> pd.DataFrame:
    common = {"split": split, "dataset": None, "interval": "bca", "by_chance": None, "n_conditions": 20, "n_undefined": 0, "n_compounds": 9}
    rows = [
        {"predictor": name, "baseline": None, "metric": metric, "value": 0.3 + 0.1 * place, "low": 0.2, "high": 0.7, **common}
        for place, name in enumerate(PREDICTORS)
        for metric in ("rmse", "pearson", "discrimination")
    ]
    rows += [
        {"predictor": "scalar_lpm", "baseline": name, "metric": "rmse", "value": -0.1, "low": -0.2, "high": 0.05, **common}
        for name in PREDICTORS[1:]
    ]
    frame = pd.DataFrame(rows).assign(**changes)
    to_arrow(frame, PROFILE_SCORES)
    return frame


@pytest.mark.parametrize("draw", [evaluation_bars, difference_bars])
def test_scores_are_drawn_with_their_intervals(draw: object) -> None:
    frame = profiles_of()
    whole = draw(frame)
    drawn(whole)
    assert draw(frame.assign(low=frame["low"] - 0.05)) != whole
    # values of one dataset are not those of all
    assert draw(pd.concat([frame, frame.assign(dataset="sciplex", value=0.9)])) == whole
    # an interval that cannot be had, and a metric that is undefined
    drawn(draw(frame.assign(low=np.nan, high=np.nan)))
    drawn(draw(frame.assign(value=frame["value"].where(frame["predictor"] != "zero"))))
    assert draw(profiles_of("val")) != whole, "validation is shown where there is no test, and says so"
    drawn(draw(frame.assign(value=np.nan)))
    drawn(draw(frame[:0]))


def test_every_picture_names_tables_of_the_output() -> None:
    assert {table for picture in PICTURES.values() for table in picture.tables} == {"map", "profile_scores", "stability", "training"}


def test_names_for_people() -> None:
    assert printed("multi_output_lpm (seed 17)") == "multi-output LPM (seed 17)"
    assert printed("scalar_lpm") == "scalar LPM"
    assert printed("gene_mean") == "gene mean"
