from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from perturbridge_dagster.agreement import bootstrap
from perturbridge_dagster.agreement.bootstrap import Interval, bca_interval, clustered_bca, clustered_bca_columns, drawn_counts


def resampled_means(values: np.ndarray, clusters: np.ndarray, n_resamples: int, seed_key: tuple[str, ...]) -> np.ndarray:
    """The resampled values by drawing whole clusters, one resample at a time."""
    members = [values[clusters == cluster] for cluster in np.unique(clusters)]
    counts = np.concatenate(list(drawn_counts(len(members), n_resamples, seed_key))).astype(int)
    return np.array([np.concatenate([m for m, n in zip(members, row, strict=True) for _ in range(n)]).mean() for row in counts])


@pytest.mark.parametrize("distribution", ["normal", "exponential", "lognormal"])
@pytest.mark.parametrize("n", [20, 37, 500])
def test_equal_to_scipy_on_our_bootstrap_distribution(distribution: str, n: int) -> None:
    """Each row is its own cluster, and no two values are equal."""
    values = getattr(np.random.default_rng(n), distribution)(size=n)
    key = ("test", distribution, str(n))
    ours = clustered_bca(values, np.arange(n), seed_key=key)
    distribution_of_means = resampled_means(values, np.arange(n), 2000, key)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=distribution_of_means),
        method="BCa",
        confidence_level=0.95,
    ).confidence_interval
    assert ours.method == "bca"
    assert_allclose([ours.mean, ours.low, ours.high], [values.mean(), *theirs], rtol=0, atol=1e-12)
    assert (ours.n_rows, ours.n_clusters, ours.n_valid) == (n, n, 2000)


def test_drawn_counts_are_draws_with_replacement() -> None:
    counts = np.concatenate(list(drawn_counts(8, 20_000, ("a",))))
    assert (counts.sum(axis=1) == 8).all()
    assert_allclose(counts.mean(axis=0), 1, atol=6 * np.sqrt(7 / 8 / 20_000))
    assert_allclose(counts.var(axis=0), 7 / 8, atol=0.05)
    assert (counts != np.concatenate(list(drawn_counts(8, 20_000, ("b",))))).any()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=30)
    whole = clustered_bca(values, np.arange(30) % 7, seed_key=("x",))
    monkeypatch.setattr(bootstrap, "DRAWS_PER_BLOCK", 100)
    assert clustered_bca(values, np.arange(30) % 7, seed_key=("x",)) == whole


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_rows_nor_the_kind_of_names_matters(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 40))
    values = np.where(generator.random(n) < 0.1, np.nan, generator.normal(size=n))
    frame = pd.DataFrame(
        {
            "value": values,
            "cluster": pd.array(generator.integers(1, 8, size=n), dtype="Int64"),
            "stratum": generator.choice(["A549", "K562"], size=n),
            "outer": generator.choice(["left", "right"], size=n),
        }
    )

    def interval(rows: pd.DataFrame) -> Interval:
        given_labels = {"strata": rows["stratum"], "outer": rows["outer"]}
        return clustered_bca(rows["value"], rows["cluster"], **given_labels, seed_key=("x",), n_resamples=50)

    first = interval(frame)
    np.testing.assert_equal(vars(interval(frame.sample(frac=1, random_state=seed % 1000))), vars(first))
    renamed = frame.assign(cluster=frame["cluster"].map(lambda cluster: f"{cluster:03d}"))
    np.testing.assert_equal(vars(interval(renamed)), vars(first))


def test_rows_of_a_cluster_are_drawn_together() -> None:
    """Every row of a cluster is the same, so that only clusters vary."""
    generator = np.random.default_rng(1)
    means = generator.normal(size=25)
    clustered = clustered_bca(np.repeat(means, 40), np.repeat(np.arange(25), 40), seed_key=("x",))
    rows = clustered_bca(np.repeat(means, 40), np.arange(1000), seed_key=("x",))
    alone = clustered_bca(means, np.arange(25), seed_key=("x",))
    assert_allclose([clustered.low, clustered.high], [alone.low, alone.high], atol=1e-12)
    assert clustered.high - clustered.low > 4 * (rows.high - rows.low)


def test_clusters_of_different_sizes_weigh_by_their_rows() -> None:
    generator = np.random.default_rng(2)
    clusters = np.repeat(np.arange(12), generator.integers(1, 9, size=12))
    values = generator.normal(size=len(clusters))
    distribution = resampled_means(values, clusters, 300, ("x",))
    left_out = np.array([values[clusters != cluster].mean() for cluster in range(12)])
    expected = bca_interval(values.mean(), distribution, left_out)
    found = clustered_bca(values, clusters, seed_key=("x",), n_resamples=300)
    assert_allclose([found.mean, found.low, found.high], [values.mean(), *expected[:2]], atol=1e-12)


def by_loops(frame: pd.DataFrame) -> float:
    """Mean over groups of the mean over strata of the mean over rows."""
    strata = frame.groupby(["outer", "stratum"])["value"].mean()
    return float(strata.groupby("outer").mean().mean())


def test_strata_and_groups_against_loops() -> None:
    """A rare stratum and a rare group are empty in many resamples, and do not count in these."""
    generator = np.random.default_rng(3)
    n = 60
    frame = pd.DataFrame(
        {
            "value": generator.normal(size=n),
            "cluster": generator.integers(0, 10, size=n),
            "stratum": generator.choice(["a", "b", "c"], p=[0.5, 0.4, 0.1], size=n),
            "outer": generator.choice(["left", "right"], p=[0.9, 0.1], size=n),
        }
    )
    clusters = np.unique(frame["cluster"])
    counts = np.concatenate(list(drawn_counts(len(clusters), 60, ("x",)))).astype(int)
    parts = {cluster: frame[frame["cluster"] == cluster] for cluster in clusters}
    distribution = np.array(
        [by_loops(pd.concat([parts[c] for c, k in zip(clusters, row, strict=True) for _ in range(k)])) for row in counts]
    )
    left_out = np.array([by_loops(frame[frame["cluster"] != cluster]) for cluster in clusters])
    found = clustered_bca(frame["value"], frame["cluster"], strata=frame["stratum"], outer=frame["outer"], seed_key=("x",), n_resamples=60)
    expected = bca_interval(by_loops(frame), distribution, left_out)
    assert_allclose([found.mean, found.low, found.high], [by_loops(frame), *expected[:2]], atol=1e-12)


@pytest.mark.parametrize("value", [0.3, 0.0, -1.0])
def test_constant_values_are_degenerate(value: float) -> None:
    found = clustered_bca([value] * 31, np.arange(31) % 10, seed_key=("x",))
    assert found.method == "degenerate"
    assert_allclose([found.mean, found.low, found.high], value, rtol=1e-15)
    assert found.low == found.high == found.mean


def test_symmetric_statistic_is_about_the_percentile_interval() -> None:
    half = np.random.default_rng(4).normal(size=100)
    values = np.concatenate([half, -half])
    found = clustered_bca(values, np.arange(200), seed_key=("x",), n_resamples=6_000)
    percentile = np.quantile(resampled_means(values, np.arange(200), 6_000, ("x",)), [0.025, 0.975])
    assert found.method == "bca"
    assert_allclose([found.low, found.high], percentile, atol=0.1 * (found.high - found.low) / 2)


@pytest.mark.parametrize(
    ("values", "clusters", "rows", "n_clusters"),
    [([], [], 0, 0), ([np.nan, np.inf], [1, 2], 0, 0), ([1.0, 2.0], [1, 1], 2, 1), ([1.0, 2.0], [None, None], 0, 0)],
)
def test_too_few_clusters_are_not_estimable(values: list[float], clusters: list[int | None], rows: int, n_clusters: int) -> None:
    found = clustered_bca(values, clusters, seed_key=("x",))
    assert (found.method, found.n_rows, found.n_clusters) == ("not_estimable", rows, n_clusters)
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(found.mean) == (rows == 0)


def test_few_resamples_are_not_estimable() -> None:
    assert clustered_bca([1.0, 2.0, 4.0], [1, 2, 3], seed_key=("x",), n_resamples=19).method == "not_estimable"
    assert clustered_bca([1.0, 2.0, 4.0], [1, 2, 3], seed_key=("x",), n_resamples=20).method == "bca"


def test_two_clusters_give_a_percentile_interval() -> None:
    found = clustered_bca([1.0, 2.0], [1, 2], seed_key=("x",))
    assert (found.method, found.low, found.high) == ("percentile", 1.0, 2.0)


def test_observed_value_beyond_all_resampled_ones_is_bounded() -> None:
    """The bias correction would be infinite."""
    resampled = np.linspace(0.0, 1.0, 1000)
    for observed, end in ((2.0, 1.0), (-1.0, 0.0)):
        low, high, method = bca_interval(observed, resampled, np.array([0.0, 0.4, 1.0]))
        assert method == "bca"
        assert abs(low - end) < 0.01
        assert low <= high


def test_coverage_is_about_the_level() -> None:
    """Means of 40 clusters of correlated rows: the true mean lies in about 95% of intervals; ignoring clusters, in far fewer."""
    generator = np.random.default_rng(5)
    n_clusters, size, n_trials = 40, 6, 300
    clusters = np.repeat(np.arange(n_clusters), size)
    inside = np.zeros(2)
    for trial in range(n_trials):
        values = np.repeat(generator.normal(size=n_clusters), size) + 0.3 * generator.normal(size=n_clusters * size)
        for k, labels in enumerate((clusters, np.arange(len(clusters)))):
            found = clustered_bca(values, labels, seed_key=(str(trial),), n_resamples=400)
            inside[k] += found.low <= 0 <= found.high
    assert 0.90 <= inside[0] / n_trials <= 0.98
    assert inside[1] / n_trials < 0.7


def test_columns_are_as_each_alone() -> None:
    """The same rows of two columns are finite, others of the third; the fourth is empty."""
    generator = np.random.default_rng(6)
    values = generator.normal(size=(40, 4))
    values[generator.random(40) < 0.3, :2] = np.nan
    values[:, 3] = np.nan
    labels = {"strata": generator.integers(0, 3, size=40), "outer": generator.integers(0, 2, size=40)}
    clusters = generator.integers(0, 12, size=40)
    together = clustered_bca_columns(values, clusters, **labels, seed_key=("x",), n_resamples=200)
    for column, found in enumerate(together):
        np.testing.assert_equal(vars(found), vars(clustered_bca(values[:, column], clusters, **labels, seed_key=("x",), n_resamples=200)))
    assert [found.method for found in together] == ["bca"] * 3 + ["not_estimable"]


def test_labels_must_be_as_many_as_values() -> None:
    with pytest.raises(ValueError, match="2 labels were given for 3 values"):
        clustered_bca([1.0, 2.0, 3.0], [1, 2], seed_key=("x",))
