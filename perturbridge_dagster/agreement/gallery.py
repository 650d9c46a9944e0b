"""The gallery: which pictures each output of agreement has, and from which of its tables each is drawn.

Belongs here: names, captions and tables of pictures, and drawing them all, or again from the files of an output. Does not belong here:
how a picture is drawn (``figures.py``, ``heatmaps.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from perturbridge_dagster.agreement import figures, heatmaps
from perturbridge_dagster.agreement.labels import HEADLINE_METRICS
from perturbridge_dagster.agreement.metrics import METRICS
from perturbridge_dagster.figures import Picture, draw
from perturbridge_dagster.written import read_parquet


def _pairwise(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    """Draw the rows over pairwise genes: those of other universes are the same matches again."""

    def drawn(*tables: pd.DataFrame) -> bytes:
        return draw(*(table[table["gene_universe"] == "pairwise"] if "gene_universe" in table else table for table in tables))

    return drawn


def _of_all(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    """Draw what datasets share without any option."""

    def drawn(overlaps: pd.DataFrame) -> bytes:
        return draw(overlaps[overlaps["variant"] == "all"])

    return drawn


def _by_metric(name: str, caption: str, table: str, draw: Callable[..., bytes]) -> dict[str, Picture]:
    """A picture for each headline metric."""
    return {
        f"{name}_{metric}": Picture(f"{METRICS[metric].title}, {caption}", (table,), _pairwise(partial(draw, metric=metric)))
        for metric in HEADLINE_METRICS
    }


PICTURES: dict[str, dict[str, Picture]] = {
    "cross_dataset_agreement": {
        "observed_and_baselines": Picture("Agreement beside what other compounds give", ("units",), figures.observed_and_baselines),
        "strength": Picture("Agreement by strength of the perturbation", ("conditions", "scores"), figures.agreement_scatter),
        "cell_contexts": Picture(
            "Correlation by cell context", ("cell_contexts",), partial(heatmaps.cell_context_heatmap, metric="spearman_logFC")
        ),
    },
    "replicate_agreement": {
        "replicates": Picture("Replicates beside different compounds", ("conditions",), figures.replicate_figure),
        "cell_contexts": Picture(
            "Correlation by cell context", ("cell_contexts",), partial(heatmaps.cell_context_heatmap, metric="spearman_logFC")
        ),
    },
    "compendium_agreement": {
        "metrics": Picture("Every pair of datasets by every metric", ("pairs",), _pairwise(heatmaps.metric_heatmap)),
        "metrics_beside_other_dataset": Picture(
            "The same beside other compounds of the other dataset",
            ("pairs",),
            _pairwise(partial(heatmaps.metric_heatmap, quantities=("target_centroid_delta", "target_peers_delta"))),
        ),
        **_by_metric("violins", "observed beside baseline", "units", figures.pair_violins),
        **_by_metric("cell_contexts", "by cell context", "cell_contexts", heatmaps.cell_context_heatmap),
        "strength": Picture("Agreement by strength of the perturbation", ("conditions", "scores"), _pairwise(figures.agreement_scatter)),
        "retrieval": Picture("How well signatures find their match in the other dataset", ("retrieval",), heatmaps.retrieval_heatmap),
        "replicate_metrics": Picture("Replicates of every dataset by every metric", ("replicates",), _pairwise(heatmaps.metric_heatmap)),
        **_by_metric("replicate_violins", "replicates beside baseline", "replicate_conditions", figures.pair_violins),
        **_by_metric("replicate_cell_contexts", "replicates by cell context", "replicate_cell_contexts", heatmaps.cell_context_heatmap),
        **{
            f"overlap_{name}": Picture(
                f"What datasets share: {words}", ("overlaps",), _of_all(partial(heatmaps.overlap_heatmap, quantity=f"n_{name}"))
            )
            for name, words in (("compounds", "compounds"), ("cell_contexts", "cell contexts"), ("conditions", "matched conditions"))
        },
    },
}
"""Stage → name of a picture → what it is."""


def draw_all(stage: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    """Draw every picture of an output.

    Parameters
    ----------
    stage
        Name of a stage of agreement.
    tables
        Its tables by name.

    Returns
    -------
    Name → PNG.
    """
    return draw(PICTURES[stage], tables)


def redraw(stage: str, folder: Path) -> dict[str, bytes]:
    """Draw every picture of an output again, from its files.

    Parameters
    ----------
    stage
        Name of a stage of agreement.
    folder
        The output.
    """
    names = {table for picture in PICTURES[stage].values() for table in picture.tables}
    return draw_all(stage, {name: read_parquet(folder / f"{name}.parquet", stage) for name in names})
