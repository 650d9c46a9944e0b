from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes

from perturbridge_dagster.effects import EffectTable, StoredEffects, open_effects, write_effects
from perturbridge_dagster.effects.figures import _legible, p_value_histogram, strongest_contrast, volcano
from perturbridge_dagster.errors import NotEstimableError
from perturbridge_dagster.written import Stamp

Open = Callable[[int, int], StoredEffects]


@pytest.fixture
def open_made(make_table: Callable[[int, int], EffectTable], stamp: Stamp, tmp_path: Path) -> Open:
    def opened(n_contrasts: int, n_genes: int) -> StoredEffects:
        write_effects(make_table(n_contrasts, n_genes), tmp_path, stamp)
        return open_effects(tmp_path)

    return opened


def _ink(png: bytes) -> float:
    """Share of pixels that are not white."""
    pixels = image.imread(io.BytesIO(png))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 500
    return float((pixels[..., :3] < 0.95).any(axis=-1).mean())


def test_the_histogram_is_a_picture_also_of_more_contrasts_than_it_draws(open_made: Open) -> None:
    assert _ink(p_value_histogram(open_made(400, 7))) > 0.05


def test_the_volcano_names_the_most_significant_genes(open_made: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    original = Axes.annotate
    monkeypatch.setattr(Axes, "annotate", lambda self, text, *a, **k: (named.append(text), original(self, text, *a, **k))[1])
    stored = open_made(5, 200)
    assert _ink(volcano(stored, 2, n_labels=4)) > 0.005
    log10_p = stored.dense(["log10_p"], contrasts=np.array([2]))["log10_p"][0]
    ranked = stored.genes["symbol"].iloc[np.argsort(log10_p)].tolist()
    assert len(named) == 4
    assert named[0] == ranked[0]
    assert set(named) <= set(ranked[:10])


def test_labels_keep_apart() -> None:
    points = np.array([[0, 0], [0.1, 0.01], [10, 0.01], [0, -9], [0, -10]], dtype=np.float32)
    assert _legible(points, np.arange(5), 9) == [0, 2, 3, 4]
    assert _legible(points, np.arange(5), 2) == [0, 2]
    assert _legible(points, np.arange(0), 2) == []


def test_the_strongest_contrast_has_most_significant_genes(open_made: Open) -> None:
    stored = open_made(9, 120)
    strongest = strongest_contrast(stored)
    assert stored.contrasts["n_significant"].max() == stored.contrasts["n_significant"].iloc[strongest]
    assert volcano(stored) == volcano(stored, strongest)


def test_a_stratum_without_any_estimable_contrast_has_no_strongest_one(open_made: Open) -> None:
    with pytest.raises(NotEstimableError, match="no contrast is estimable"):
        strongest_contrast(open_made(1, 5))


def test_a_contrast_that_is_not_estimable_is_not_drawn(open_made: Open) -> None:
    with pytest.raises(NotEstimableError, match="contrast 2 is not estimable"):
        volcano(open_made(3, 5), 2)
