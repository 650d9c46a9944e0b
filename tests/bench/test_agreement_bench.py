"""The bench of agreement: its shapes are the paper's, and its peer computes what we compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import agreement as bench

pytestmark = pytest.mark.slow


def test_shapes_are_those_of_the_paper() -> None:
    conditions = {f"{shape.left}-{shape.right}": shape.n_contexts * shape.n_compounds * shape.n_doses for shape in bench.PAIRS}
    published = [1_911, 127, 2_836, 291, 152, 68, 381, 402, 69]
    assert list(conditions.values()) == pytest.approx(published, rel=0.05)
    assert sum(conditions.values()) == pytest.approx(6_237, rel=0.01)
    assert all(min(shape.n_left, shape.n_right) >= shape.n_compounds * shape.n_doses for shape in bench.PAIRS)


def test_the_peer_and_ours_agree(tmp_path: Path) -> None:
    shape = bench.Shape("tahoe", "sciplex", 2, 7, 2, 300, 40, 30)
    result = bench.measure([shape, replace(shape, left="l1000_phase1", n_genes=150)], tmp_path, 0.2)
    assert result["ours"]["counts"]["conditions"] == 2 * 2 * 7 * 2
    assert result["peer"]["difference"] < 1e-12
    assert all(0 < result["peer"]["done"][name] <= whole for name, whole in result["peer"]["whole"].items())
    assert all(result["ours"]["seconds"][stage] > 0 for stage in bench.STAGES)
