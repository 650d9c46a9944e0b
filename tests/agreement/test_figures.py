from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from perturbridge_dagster.agreement.figures import agreement_scatter, observed_and_baselines, pair_violins, replicate_figure
from perturbridge_dagster.agreement.heatmaps import cell_context_heatmap, metric_heatmap, overlap_heatmap, retrieval_heatmap
from perturbridge_dagster.agreement.summary import agreement_summary, agreement_units, replicate_conditions, replicate_summary
from perturbridge_dagster.figures import Picture, draw
from tests.agreement.scored import random_replicate_scores, random_scores

pytestmark = pytest.mark.slow

DATASETS = ("l1000_phase1", "tahoe", "my_screen")
METRICS = ("spearman_logFC", "deg_spearman_p05", "direction_agreement_p05")


def scores() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.concat(
        [random_scores(generator, pair=pair, n_compounds=9, metrics=METRICS) for pair in combinations(DATASETS, 2)], ignore_index=True
    )


def units() -> pd.DataFrame:
    return agreement_units(scores())


def conditions() -> pd.DataFrame:
    return replicate_conditions(*replicates())


def replicates() -> tuple[pd.DataFrame, pd.DataFrame]:
    found = random_replicate_scores(np.random.default_rng(0), metrics=METRICS)
    return found, found[found["metric"] == "spearman_logFC"].assign(
        unmatched_spearman_logFC=lambda pairs: np.linspace(-0.1, 0.1, len(pairs))
    )


def scatter(scored: pd.DataFrame) -> bytes:
    """The scatter of a table of scores, every condition with a strength of its own."""
    matched = scored[scored["metric"] == "spearman_logFC"]
    return agreement_scatter(matched.assign(mean_abs_t=np.linspace(0.5, 3, len(matched))), scored)


def overlaps() -> pd.DataFrame:
    """Two datasets that share conditions, one that shares none, and replicates of the first."""
    columns = ["left_dataset", "right_dataset", "n_conditions", "n_compounds", "n_cell_contexts"]
    rows = [("tahoe", "my_screen", 120, 9, 2), ("tahoe", "tahoe", 1200, 90, 3), ("tahoe", "op3", 0, 0, 0)]
    return pd.DataFrame(rows, columns=columns)


def retrieval() -> pd.DataFrame:
    """Retrieval between two datasets over all, by two representations and similarities; and a row of one direction, which is not drawn."""
    rows = [
        ("tahoe", "my_screen", direction, None, one, other, "matched_condition", rank, rank - 0.5)
        for direction, rank in ((None, 0.7), ("left_to_right", 0.9))
        for one in ("logFC", "signed_significance")
        for other in ("euclidean", "cosine")
    ]
    columns = ["left_dataset", "right_dataset", "direction", "cell_type", "representation", "similarity", "positives"]
    return pd.DataFrame(rows, columns=[*columns, "normalised_rank", "above_expected"])


FIGURES = {
    "scatter": (scatter, scores),
    "observed_and_baselines": (observed_and_baselines, units),
    "pair_violins": (partial(pair_violins, metric="deg_spearman_p05"), units),
    "dataset_violins": (partial(pair_violins, metric="spearman_logFC"), conditions),
    "replicates": (replicate_figure, conditions),
    "metrics": (metric_heatmap, lambda: agreement_summary(units(), n_resamples=20)),
    "replicate_metrics": (metric_heatmap, lambda: replicate_summary(conditions(), n_resamples=20)),
    "cell_contexts": (
        partial(cell_context_heatmap, metric="spearman_logFC"),
        lambda: agreement_summary(units(), by_cell_context=True, n_resamples=20),
    ),
    "retrieval": (retrieval_heatmap, retrieval),
    "overlap": (partial(overlap_heatmap, quantity="n_conditions"), overlaps),
}

drawn = pytest.mark.parametrize(("draw", "table"), FIGURES.values(), ids=list(FIGURES))


def colours(png: bytes) -> int:
    """Number of distinct saturated colours: what is drawn of data, and not axes or text."""
    pixels = imread(io.BytesIO(png))[..., :3].reshape(-1, 3)
    return len(np.unique(pixels[np.ptp(pixels, axis=1) > 0.2], axis=0))


@drawn
def test_picture_shows_data_and_is_the_same_each_time(draw: Callable, table: Callable) -> None:
    found = table()
    png = draw(found)
    assert colours(png) > 0
    assert png == draw(found)


@drawn
def test_nothing_to_show_is_said(draw: Callable, table: Callable) -> None:
    found = table()
    empty = draw(found[:0])
    assert colours(empty) == 0
    numbers = found.select_dtypes("number").columns.difference(["pubchem_cid", "left_contrast", "right_contrast", "pert_time_h"])
    assert draw(found.assign(**dict.fromkeys(numbers, 0 if "n_cell_contexts" in found else np.nan))) == empty


@drawn
def test_one_row_can_be_drawn(draw: Callable, table: Callable) -> None:
    found = table()
    if "metric" in found:
        found = found[found["metric"].isin(["deg_spearman_p05" if draw == FIGURES["pair_violins"][0] else "spearman_logFC"])]
    values = [name for name in ("score", "observed") if name in found]
    assert colours(draw(found.dropna(subset=values)[:1])) > 0


def test_many_cell_contexts_share_the_grey() -> None:
    found = pd.concat([scores().assign(left_stratum=f"S{i}", cell_type=f"CVCL_{i:04d}") for i in range(14)])
    found = found.drop_duplicates(["left_dataset", "right_dataset", "left_stratum", "left_contrast", "metric"])
    assert colours(scatter(found)) > 0


def test_differences_diverge_around_zero() -> None:
    """A difference of 0 is drawn in the middle colour, which has no hue, whatever the other differences are."""
    rows = agreement_summary(units(), n_resamples=20)
    lone = metric_heatmap(rows[:1].assign(delta=0.0, observed=np.nan), ("delta",))
    assert colours(lone) == 0
    assert colours(metric_heatmap(rows[:1].assign(delta=0.3), ("delta",))) > 0
    assert metric_heatmap(rows[:1].assign(delta=0.3), ("delta",)) != metric_heatmap(rows[:1].assign(delta=-0.3), ("delta",))


def test_more_pairs_than_can_be_read_are_cut() -> None:
    table = agreement_summary(units(), n_resamples=20)
    many = pd.concat([table.assign(left_dataset=f"screen{i:03d}") for i in range(60)], ignore_index=True)
    assert imread(io.BytesIO(metric_heatmap(many))).shape[0] < 3500


def test_pictures_do_not_depend_on_the_style_of_the_process() -> None:
    pictures = {"violins": Picture("violins", ("units",), partial(pair_violins, metric="spearman_logFC"))}
    drawn = draw(pictures, {"units": units()})
    with matplotlib.rc_context({"legend.borderpad": 3.0, "axes.facecolor": "red"}):
        assert draw(pictures, {"units": units()}) == drawn
        assert matplotlib.rcParams["legend.borderpad"] == 3.0
