"""Figures: pictures of the right things, equal for equal input; the projection against scikit-learn."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from sklearn.decomposition import PCA

from perturbridge_dagster.representation.figures import baseline_bars, embedding_map, principal_plane, training_curve

pytestmark = pytest.mark.slow


def drawn(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    pixels = image.imread(io.BytesIO(png))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 500
    assert np.ptp(pixels[..., :3]) == pytest.approx(1, abs=0.2)  # neither blank nor black
    return pixels


def frame_of(n: int) -> pd.DataFrame:
    vectors = np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32)
    return pd.DataFrame({"symbol": [str(number) for number in range(n)], "n_conditions": range(1, n + 1), "embedding": list(vectors)})


def test_projection_equals_scikit_learn() -> None:
    vectors = np.random.default_rng(1).standard_normal((50, 10)) * np.linspace(3, 0.1, 10)
    coordinates, shares = principal_plane(vectors)
    expected = PCA(2, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(expected.transform(vectors)), atol=1e-9)
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, rtol=1e-9)
    flipped, _ = principal_plane(-vectors)
    assert (np.abs(coordinates).max(axis=0) == coordinates.max(axis=0)).all()
    assert (np.abs(flipped).max(axis=0) == flipped.max(axis=0)).all()


@pytest.mark.parametrize("vectors", [np.ones((1, 3)), np.ones((4, 3)), np.arange(3.0)[:, None]])
def test_projection_of_odd_shapes(vectors: np.ndarray) -> None:
    coordinates, shares = principal_plane(vectors)
    assert coordinates.shape == (len(vectors), 2)
    assert np.isfinite(coordinates).all()
    assert 0 <= shares.sum() <= 1 + 1e-9


@pytest.mark.parametrize("n", [1, 2, 60])
def test_embedding_map_shows_labels(n: int) -> None:
    frame = frame_of(n)
    without = drawn(embedding_map(frame, {}))
    labelled = embedding_map(frame, {str(number): f"compound {number}" for number in range(min(n, 25))})
    assert (drawn(labelled) != without).any()
    assert labelled == embedding_map(frame, {str(number): f"compound {number}" for number in range(min(n, 25))})


def test_training_curve_shows_the_history() -> None:
    history = pd.DataFrame({"step": [10, 20, 30], "train_rmse": [0.9, 0.6, 0.5], "validation_rmse": [0.8, 0.6, 0.65]})
    assert (drawn(training_curve(history)) != drawn(training_curve(history.assign(validation_rmse=[0.8, 0.6, 0.55])))).any()
    drawn(training_curve(history.iloc[:1]))


def test_bars_show_every_split_with_values() -> None:
    names = ["scalar_lpm", "zero", "gene_mean"]
    evaluation = pd.DataFrame(
        {"predictor": names * 2, "split": ["val"] * 3 + ["test"] * 3, "n_values": 10, "rmse": [0.3, 0.5, 0.4, 0.35, 0.5, 0.4]}
    )
    two = drawn(baseline_bars(evaluation))
    one = drawn(baseline_bars(evaluation.assign(n_values=[10] * 3 + [0] * 3)))
    assert two.shape[1] == 2 * one.shape[1]
    drawn(baseline_bars(evaluation.assign(n_values=0)))
