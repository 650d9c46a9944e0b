"""Labels: what a reader sees of metrics, in pictures and reports of agreement.

Belongs here: metrics as heads of columns, and which are shown. Does not belong here: what a metric is (``metrics.py``), or names of
datasets and cell contexts (``perturbridge_dagster/labels.py``).
"""

from __future__ import annotations

METRIC_HEADS = {
    "spearman_logFC": "logFC\nSpearman",
    "spearman_t": "t\nSpearman",
    "signed_overlap_t_top50": "top 50 t\noverlap",
    "deg_spearman_p05": "DEG\nSpearman",
    "deg_spearman_p05_lfc02": "DEG Spear-\nman, |logFC|\n> 0.2",
    "direction_agreement_p05": "DEG\ndirection",
    "direction_agreement_p05_lfc02": "DEG direc-\ntion, |logFC|\n> 0.2",
    "de_overlap_reference_n": "DEG overlap\nas many",
    "de_overlap_top50": "DEG overlap\ntop 50",
    "de_overlap_top100": "DEG overlap\ntop 100",
    "de_overlap_top200": "DEG overlap\ntop 200",
}
"""Metric → a column head in a few short lines."""

HEADLINE_METRICS = ("direction_agreement_p05", "deg_spearman_p05", "spearman_logFC")
"""The metrics that reports and violins show: those of the published tables."""
