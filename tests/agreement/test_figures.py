from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from perturbridge_dagster.agreement.figures import agreement_scatter, observed_and_baseline, replicate_figure
from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.replicates import score_replicates
from perturbridge_dagster.agreement.scoring import score_matched
from tests.agreement.effects_in_memory import random_compendium

pytestmark = pytest.mark.slow


def scored_matches() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(12, 50))
    left, right = ({"A549": random_compendium(generator, n_compounds=12, n_genes=50, truth=truth)} for _ in range(2))
    return score_matched(match_strata(left, right, "sciplex", "tahoe"), left, right)


def replicate_pairs() -> pd.DataFrame:
    return score_replicates({"A549": random_compendium(np.random.default_rng(0), replicates=3)}, "sciplex")


FIGURES = [(agreement_scatter, scored_matches), (observed_and_baseline, scored_matches), (replicate_figure, replicate_pairs)]


def colours(png: bytes) -> int:
    """Number of distinct saturated colours: what is drawn of data, and not axes or text."""
    pixels = imread(io.BytesIO(png))[..., :3].reshape(-1, 3)
    return len(np.unique(pixels[np.ptp(pixels, axis=1) > 0.2], axis=0))


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_picture_shows_data_and_is_the_same_each_time(draw: Callable, table: Callable) -> None:
    scored = table()
    png = draw(scored)
    assert colours(png) > 0
    assert png == draw(scored)


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_nothing_to_show_is_said(draw: Callable, table: Callable) -> None:
    scored = table()
    empty = draw(scored[:0])
    assert colours(empty) == 0
    scores = scored.columns[scored.columns.str.contains("spearman|direction|mean_abs_t")]
    assert draw(scored.assign(**dict.fromkeys(scores, np.nan))) == empty


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_one_row_and_equal_values_can_be_drawn(draw: Callable, table: Callable) -> None:
    one = table()[:1]
    assert colours(draw(one)) > 0
    assert colours(draw(pd.concat([one] * 3))) > 0


def test_many_cell_contexts_share_the_grey() -> None:
    scored = pd.concat([scored_matches().assign(cell_type=f"CVCL_{i:04d}") for i in range(14)])
    assert colours(agreement_scatter(scored)) > 0
