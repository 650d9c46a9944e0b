from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.sample.assays import CEILING, FLOOR, fractions, gene_gains, inferred_intensities, intensities, umi_counts


class Quiet(np.random.Generator):
    """Random numbers without spread, so that an operator shows its mean."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def normal(self, loc=0.0, scale=1.0, size=None):  # type: ignore[no-untyped-def]
        return np.zeros(size) if size is not None else 0.0


@given(st.lists(st.floats(-15, 15), min_size=2, max_size=30))
def test_intensities_keep_order_and_range(abundance: list[float]):
    seen = intensities(Quiet(), np.array([sorted(abundance)]))[0]
    assert (np.diff(seen) >= 0).all()
    assert (seen >= FLOOR).all()
    assert (seen <= CEILING).all()


def test_intensities_saturate():
    steps = np.diff(intensities(Quiet(), np.array([[-9.0, -8.0, 0.0, 1.0, 9.0, 10.0]]))[0])
    assert steps[0] < steps[2] / 4
    assert steps[4] < steps[2] / 4


def test_gains_never_turn_a_direction():
    gains = gene_gains(np.random.default_rng(0), 5000)
    assert gains.min() > 0
    assert np.median(gains) == pytest.approx(1, abs=0.05)
    assert gains.std() > 0.2


def test_fractions_sum_to_one():
    shares = fractions(np.random.default_rng(0).normal(0, 3, (4, 50)))
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_counts_have_the_depth_and_dispersion_asked_for():
    draw = np.random.default_rng(0)
    shares = np.full((4000, 10), 0.1)
    counts = umi_counts(draw, shares, np.full(4000, 1000.0), shape=5.0)
    assert counts.sum(axis=1).mean() == pytest.approx(1000, rel=0.02)
    # gamma-Poisson: variance = mean + mean² / shape
    assert counts[:, 0].var() == pytest.approx(100 + 100**2 / 5, rel=0.1)


def test_dropout_takes_weak_genes_and_leaves_strong_ones():
    draw = np.random.default_rng(0)
    shares = np.tile([0.999, 0.001], (5000, 1))
    with_dropout = umi_counts(draw, shares, np.full(5000, 500.0), shape=50.0, dropout=0.5)
    without = umi_counts(draw, shares, np.full(5000, 500.0), shape=50.0)
    assert (with_dropout[:, 0] == 0).sum() == 0
    assert (with_dropout[:, 1] > 0).mean() < 0.85 * (without[:, 1] > 0).mean()


def test_no_depth_no_counts():
    assert not umi_counts(np.random.default_rng(0), np.full((1, 5), 0.2), np.zeros(1), shape=5.0).any()


def test_inferred_genes_follow_landmarks_not_themselves():
    draw = np.random.default_rng(0)
    landmarks = draw.normal(8, 1, (300, 40))
    inferred = inferred_intensities(np.random.default_rng(1), landmarks, 5)
    centred = np.column_stack([landmarks, np.ones(300)])
    residual = inferred - centred @ np.linalg.lstsq(centred, inferred, rcond=None)[0]
    assert (residual.var(axis=0) < 0.2 * inferred.var(axis=0)).all()
