from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from perturbridge_dagster.agreement import strength
from perturbridge_dagster.agreement.bootstrap import bca_interval, drawn_counts
from perturbridge_dagster.agreement.strength import agreement_strength, clustered_spearman
from perturbridge_dagster.contract import AGREEMENT_STRENGTH
from perturbridge_dagster.written import to_arrow


def by_loops(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correlations by scipy of the rows of drawn clusters, one resample at a time."""
    members = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    found = []
    for row in counts.astype(int):
        drawn = np.concatenate([m for m, n in zip(members, row, strict=True) for _ in range(n)])
        constant = np.ptp(x[drawn]) == 0 or np.ptp(y[drawn]) == 0
        found.append(np.nan if constant else stats.spearmanr(x[drawn], y[drawn]).statistic)
    return np.array(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_against_scipy_on_drawn_rows(seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(5, 40))
    x = generator.normal(size=n)
    y = x + generator.normal(size=n)
    if ties:
        x, y = np.round(x), np.round(y)
    clusters = np.repeat(np.arange(n), generator.integers(1, 4, size=n))[:n]
    n_clusters = len(np.unique(clusters))
    counts = np.concatenate(list(drawn_counts(n_clusters, 30, ("x",))))
    resampled = by_loops(x, y, clusters, counts)
    left_out = by_loops(x, y, clusters, 1 - np.eye(n_clusters))
    observed = by_loops(x, y, clusters, np.ones((1, n_clusters)))[0]
    found = clustered_spearman(x, y, clusters, seed_key=("x",), n_resamples=30)
    low, high, method = bca_interval(observed, resampled, left_out)
    assert_allclose([found.mean, found.low, found.high], [observed, low, high], atol=1e-12)
    assert (found.method, found.n_rows, found.n_clusters) == (method, n, n_clusters)
    assert found.n_valid == np.isfinite(resampled).sum()


def test_equal_to_scipy_interval_of_unclustered_rows() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    found = clustered_spearman(x, y, np.arange(40), seed_key=("x",), n_resamples=500)
    counts = np.concatenate(list(drawn_counts(40, 500, ("x",))))
    theirs = stats.bootstrap(
        (x, y),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=by_loops(x, y, np.arange(40), counts)),
    ).confidence_interval
    assert_allclose([found.low, found.high], theirs, atol=1e-12)


def test_order_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    x, y, clusters = generator.normal(size=50), generator.normal(size=50), generator.integers(0, 9, size=50)
    whole = clustered_spearman(x, y, clusters, seed_key=("x",), n_resamples=100)
    order = generator.permutation(50)
    assert clustered_spearman(x[order], y[order], clusters[order], seed_key=("x",), n_resamples=100) == whole
    monkeypatch.setattr(strength, "_VALUES_PER_BLOCK", 70)
    assert clustered_spearman(x, y, clusters, seed_key=("x",), n_resamples=100) == whole


@pytest.mark.parametrize(
    ("x", "y", "clusters", "method"),
    [
        ([], [], [], "not_estimable"),
        ([1.0, 2.0, np.nan], [1.0, 2.0, 3.0], [1, 1, 2], "not_estimable"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [1, 2, 3], "not_estimable"),
        ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], [1, 2, 3, 4], "degenerate"),
    ],
)
def test_degenerate_cases(x: list[float], y: list[float], clusters: list[int], method: str) -> None:
    assert clustered_spearman(x, y, clusters, seed_key=("x",), n_resamples=100).method == method


def test_strength_of_each_pair_and_of_all_together() -> None:
    generator = np.random.default_rng(3)
    n = 40
    conditions = pd.DataFrame(
        {
            "left_dataset": ["sciplex"] * n,
            "right_dataset": ["tahoe"] * 30 + ["op3"] * 10,
            "left_stratum": "A549",
            "right_stratum": "A549",
            "left_contrast": np.arange(n),
            "right_contrast": np.arange(n),
            "cell_type": "A549",
            "pert_time_h": 24.0,
            "pubchem_cid": np.arange(n) % 12 + 1,
            "left_pert_dose_uM": np.arange(n) + 1.0,
            "right_pert_dose_uM": 1.0,
            "mean_abs_t": generator.normal(size=n) ** 2,
        }
    )
    # The first two matches are of one unit.
    conditions.loc[1, ["pubchem_cid", "left_pert_dose_uM"]] = conditions.loc[0, ["pubchem_cid", "left_pert_dose_uM"]]
    keys = conditions.drop(columns="mean_abs_t").assign(gene_universe="pairwise")
    agreement = conditions["mean_abs_t"] + 0.1 * generator.normal(size=n)
    scores = pd.concat(
        [keys.assign(metric="spearman_logFC", score=agreement), keys.assign(metric="spearman_t", score=np.nan)], ignore_index=True
    )
    each = agreement_strength(conditions, scores, n_resamples=100)
    to_arrow(each, AGREEMENT_STRENGTH)
    assert each[["right_dataset", "metric", "n_conditions", "spearman_interval"]].to_numpy().tolist() == [
        ["op3", "spearman_logFC", 10, "bca"],
        ["op3", "spearman_t", 0, "not_estimable"],
        ["tahoe", "spearman_logFC", 29, "bca"],
        ["tahoe", "spearman_t", 0, "not_estimable"],
    ]
    together = agreement_strength(conditions, scores, together=True, n_resamples=100)
    to_arrow(together, AGREEMENT_STRENGTH)
    assert together["left_dataset"].isna().all()
    assert together["n_conditions"].tolist() == [39, 0]
    strengths = conditions["mean_abs_t"].to_numpy().copy()
    strengths[0], agreement.iloc[0] = strengths[:2].mean(), agreement.iloc[:2].mean()
    expected = stats.spearmanr(np.delete(strengths, 1), np.delete(agreement.to_numpy(), 1)).statistic
    assert_allclose(together["spearman"].iloc[0], expected)
    assert together["spearman_low"].iloc[0] > 0.5
    assert to_arrow(agreement_strength(conditions, scores[:0]), AGREEMENT_STRENGTH).num_rows == 0
