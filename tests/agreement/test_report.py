from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.agreement.report import compendium_report, pair_report, replicates_report
from perturbridge_dagster.agreement.summary import agreement_summary, agreement_units, replicate_conditions, replicate_summary
from perturbridge_dagster.reports import to_html
from tests.agreement.scored import random_replicate_scores, random_scores

METRICS = ("direction_agreement_p05", "deg_spearman_p05", "spearman_logFC")


def summary_of(**options: object) -> pd.DataFrame:
    scores = random_scores(np.random.default_rng(0), **{"metrics": METRICS, **options})
    return agreement_summary(agreement_units(scores), n_resamples=200)


def replicates_of(dataset: str = "sciplex") -> pd.DataFrame:
    scores = random_replicate_scores(np.random.default_rng(0), dataset=dataset, metrics=METRICS)
    pairs = scores[scores["metric"] == "spearman_logFC"].assign(unmatched_spearman_logFC=0.04)
    return replicate_summary(replicate_conditions(scores, pairs), n_resamples=200)


def overlaps_of(summary: pd.DataFrame) -> pd.DataFrame:
    pairs = summary.drop_duplicates(["left_dataset", "right_dataset"])[["left_dataset", "right_dataset", "n_conditions"]]
    return pairs.assign(variant="all", median_dose_fold=2.0)


def conditions_of(n: int) -> pd.DataFrame:
    return pd.DataFrame({"pubchem_cid": np.arange(n), "cell_type": "CVCL_0023", "n_shared_significant_p05": np.arange(n) % 20})


def strength_of(summary: pd.DataFrame, low: float = 0.4) -> pd.DataFrame:
    rows = [("spearman_logFC", 96, 0.5, low, 0.6)]
    return pd.DataFrame(rows, columns=["metric", "n_conditions", "spearman", "spearman_low", "spearman_high"])[: len(summary)]


def retrieval_of(summary: pd.DataFrame, low: float = 0.1) -> pd.DataFrame:
    pairs = summary.drop_duplicates(["left_dataset", "right_dataset"])[["left_dataset", "right_dataset"]]
    ranks = {"normalised_rank": 0.8, "normalised_rank_low": 0.7, "normalised_rank_high": 0.9, "expected_normalised_rank": 0.5}
    recalls = {"recall_at_1": 0.25, "expected_recall_at_1": 0.1, "recall_at_10": 0.75, "expected_recall_at_10": 0.5}
    named = {"representation": "logFC", "similarity": "cosine", "positives": "matched_condition", "direction": None, "cell_type": None}
    return pairs.assign(**named, **ranks, **recalls, n_queries=48, above_expected_low=low)


def report_of(summary: pd.DataFrame, replicates: pd.DataFrame, **options: object) -> str:
    given = {
        "overlaps": overlaps_of(summary),
        "conditions": conditions_of(40),
        "variants": summary.assign(variant="all"),
        "strength": strength_of(summary),
        "retrieval": retrieval_of(summary),
        "surviving": pd.DataFrame({"metric": "direction_agreement_p05", "minimum_genes": [1, 10], "n_scores": [38, 20]}),
        "datasets": ["sciplex", "tahoe"],
        "simulated": False,
    }
    return compendium_report(summary, replicates, **{**given, **options})


def test_a_pair_that_agrees_is_said_to_be_above_others() -> None:
    text = pair_report(summary_of(level=0.9))
    assert text.startswith("**sci-Plex – Tahoe-100M** share 48 conditions of 12 compounds.")
    assert re.search(r"Direction agreement: 0\.\d\d \[0\.\d\d, 0\.\d\d\] over 12 compounds\.", text)
    assert len(re.findall(r"above the mean of others in the own dataset \(\+0\.\d\d\)", text)) == 3
    assert len(re.findall(r"above single others in the other dataset \(\+0\.\d\d\)", text)) == 3
    assert "Caution" not in text


def test_a_pair_like_any_other_compound_is_not_told_apart() -> None:
    assert pair_report(summary_of(level=0.1)).count("not told apart from") >= 4


def test_few_compounds_are_warned_of() -> None:
    text = pair_report(summary_of(n_compounds=4))
    assert "*Caution: fewer than 10 compounds stand behind direction agreement, spearman of logfc, significant genes and" in text
    alone = pair_report(summary_of(n_compounds=1, missing=0))
    assert "(no interval)" in alone


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"target_peers_delta": (0.1, 0.05, 0.2)}, "More than single other compounds of the other dataset"),
        ({"target_peers_delta": (0.0, -0.1, 0.1)}, "Better than a coin, but not told apart from other compounds"),
        ({"target_peers_delta": (-0.2, -0.25, -0.15)}, "Better than a coin, but less than single other compounds of the other dataset"),
        ({"target_peers_delta": (np.nan,) * 3}, "Better than a coin; there were no other compounds to compare with, or too few"),
        ({"target_peers_delta": (np.nan,) * 3, "observed": (0.5, 0.4, 0.6)}, "Not told apart from a coin"),
        ({"target_peers_delta": (np.nan,) * 3, "observed": (0.3, 0.25, 0.35)}, "Worse than a coin"),
        ({"target_peers_delta": (np.nan,) * 3, "observed": (0.6, np.nan, np.nan)}, "Without an interval"),
    ],
)
def test_where_a_pair_lies_is_said_by_its_intervals(values: dict[str, tuple[float, float, float]], place: str) -> None:
    summary = summary_of(level=0.9)
    for name, (value, low, high) in ({"observed": (0.6, 0.55, 0.65)} | values).items():
        summary[[name, f"{name}_low", f"{name}_high"]] = value, low, high
    text = report_of(summary, replicates_of())
    said = [line for line in text.splitlines() if line.startswith("- ") and line.endswith(": sci-Plex – Tahoe-100M.")]
    assert said[0].startswith(f"- {place}")
    assert sum("coin" in line or "single other" in line or "Without" in line for line in said) == 1


def test_a_difference_without_an_interval_is_not_called_a_tie() -> None:
    text = pair_report(summary_of(n_compounds=1, missing=0))
    assert "not told apart" not in text
    assert "no interval)" in text


def test_a_pair_without_conditions_is_said_so() -> None:
    assert "share no condition" in pair_report(summary_of()[:0])
    assert "no condition has two replicates" in replicates_report(replicates_of()[:0]).lower()


def test_replicates_are_set_beside_different_compounds() -> None:
    text = replicates_report(replicates_of())
    assert text.startswith("**sci-Plex**: 16 conditions have replicates, of 8 compounds.")
    assert "different compounds on one plate have a correlation of 0.04" in text


def test_the_report_has_every_section_and_every_pair() -> None:
    good, poor = summary_of(level=0.9), summary_of(pair=("l1000_phase1", "sciplex"), n_compounds=4)
    text = report_of(pd.concat([good, poor], ignore_index=True), replicates_of())
    sections = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert sections == [
        "What was compared",
        "How much two assays agree",
        "What the baselines mean",
        "Which pairs agree in direction",
        "Does strength matter?",
        "Does a signature find its match?",
        "Replicates: what one assay reproduces of itself",
        "Cautions",
    ]
    assert "More than single other compounds of the other dataset: sci-Plex – Tahoe-100M." in text
    assert "Fewer than 10 compounds have significant genes on both sides in L1000 Phase I – sci-Plex" in text
    assert "5% of matched conditions share no significant gene" in text
    assert "With 10 genes or more, 20 of 38 scores are left." in text
    assert "That is better than chance in every pair." in text
    assert "simulated" not in text
    assert "simulated" in report_of(good, replicates_of(), simulated=True)


def test_sections_without_numbers_are_left_out() -> None:
    summary, replicates = summary_of(), replicates_of()
    text = report_of(summary[:0], replicates[:0], conditions=conditions_of(0), variants=summary[:0].assign(variant="all"))
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == ["What was compared"]
    assert "Tahoe-100M and sci-Plex share no condition." in text
    for heading, body in re.findall(r"^## (.*)\n+([^#]*)", report_of(summary, replicates), flags=re.MULTILINE):
        assert len(body.strip()) > 40, heading
    assert "nan" not in text.lower()


def test_an_option_that_moves_a_pair_most_is_named() -> None:
    summary = summary_of(level=0.5)
    moved = summary.assign(variant="dose_equal", observed=summary["observed"] - 0.2)
    variants = pd.concat([summary.assign(variant="all"), moved], ignore_index=True)
    text = report_of(summary, replicates_of(), variants=variants)
    assert "moves most for sci-Plex – Tahoe-100M, by −0.20 under the option dose_equal" in text


def test_strength_and_retrieval_say_what_their_intervals_say() -> None:
    summary, replicates = summary_of(), replicates_of()
    text = report_of(summary, replicates)
    assert "Stronger perturbations agree better: over 96 matched conditions" in text
    assert "Better than chance: sci-Plex – Tahoe-100M." in text
    assert "| sci-Plex – Tahoe-100M | 48 | 0.80 [0.70, 0.90] (0.50) | 25% (10%) | 75% (50%) |" in text
    text = report_of(summary, replicates, strength=strength_of(summary, low=-0.1), retrieval=retrieval_of(summary, low=-0.1))
    assert "It makes no clear difference" in text
    assert "In no pair is that clearly better than chance." in text


@pytest.mark.parametrize("missing", ["target_peers_delta", "delta"])
def test_what_is_not_defined_is_not_spoken_of(missing: str) -> None:
    summary = summary_of(level=0.9)
    summary[[missing, f"{missing}_low", f"{missing}_high"]] = np.nan
    text = pair_report(summary) + report_of(summary, replicates_of())
    assert "nan" not in text.lower()


def test_the_page_stands_alone() -> None:
    page = to_html(report_of(summary_of(), replicates_of()), {"A <picture>": b"\x89PNG"})
    assert page.count("<table>") == 3
    assert "<h1>How far do datasets agree on what compounds do?</h1>" in page
    assert "data:image/png;base64,iVBORw==" in page
    assert "A &lt;picture&gt;" in page
    assert not re.findall(r'(?:src|href)="http', page)
