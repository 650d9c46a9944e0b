"""Geometry: neighbours against scikit-learn, stability and mechanisms against brute force, the projection against scikit-learn."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from perturbridge_dagster.contract import EMBEDDING_MAP, EMBEDDING_MECHANISMS, EMBEDDING_STABILITY, NEIGHBOURS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation import geometry
from perturbridge_dagster.representation.embeddings import embedding_matrix
from perturbridge_dagster.representation.geometry import (
    embedding_map,
    mechanism_closeness,
    nearest,
    neighbour_stability,
    neighbours,
    principal_plane,
    unit_vectors,
)
from perturbridge_dagster.written import to_arrow

pytestmark = pytest.mark.slow


def frame_of(vectors: np.ndarray, **columns: object) -> pd.DataFrame:
    symbols = [f"c{number:03d}" for number in range(len(vectors))]
    return pd.DataFrame({"symbol": symbols, "n_conditions": 1, "embedding": list(vectors.astype(np.float32))}).assign(**columns)


def seeds_of(*vectors: np.ndarray) -> pd.DataFrame:
    frame = pd.concat([frame_of(of_seed, seed=seed) for seed, of_seed in enumerate(vectors)], ignore_index=True)
    return frame.astype({"seed": "Int64"})


# ---- neighbours --------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 30), st.integers(1, 6), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_neighbours_have_the_largest_cosines(n: int, width: int, k: int, seed: int) -> None:
    frame = frame_of(np.random.default_rng(seed).standard_normal((n, width)))
    found = neighbours(frame, k)
    similarity = cosine_similarity(embedding_matrix(frame).astype(float))
    np.fill_diagonal(similarity, -np.inf)
    kept = min(k, n - 1)
    assert len(found) == n * kept
    np.testing.assert_allclose(found["cosine"].to_numpy().reshape(n, kept), -np.sort(-similarity, axis=1)[:, :kept], atol=1e-9)
    assert (found["symbol"] != found["neighbour"]).all()
    assert found["rank"].tolist() == list(range(1, kept + 1)) * n
    assert (found["n_seeds"] == 1).all()


@given(st.integers(2, 25), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_ties_go_to_the_earlier_row(n: int, k: int, seed: int) -> None:
    """Against a stable sort of everything; vectors along axes have cosines of −1, 0 and 1."""
    units = np.concatenate([np.eye(3), -np.eye(3)])[np.random.default_rng(seed).integers(6, size=n)]
    cosine = np.clip(units @ units.T, -1, 1)
    np.fill_diagonal(cosine, -np.inf)
    expected = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, n - 1)]
    np.testing.assert_array_equal(nearest(units, k)[0], expected)


def test_neighbours_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of(np.random.default_rng(0).standard_normal((23, 5)))
    whole = neighbours(frame, 4)
    monkeypatch.setattr(geometry, "_BLOCK_VALUES", 5 * 23)
    pd.testing.assert_frame_equal(neighbours(frame, 4), whole)


def test_neighbours_of_some_are_those_of_all() -> None:
    frame = seeds_of(*np.random.default_rng(1).standard_normal((3, 20, 4)))
    every = neighbours(frame, 5)
    some = neighbours(frame, 5, ["c007", "c002"])
    pd.testing.assert_frame_equal(some[:5], every[every["symbol"] == "c007"].reset_index(drop=True))
    assert some["symbol"].tolist() == ["c007"] * 5 + ["c002"] * 5
    to_arrow(some.assign(perturbagen=None, neighbour_perturbagen=None), NEIGHBOURS)


def test_seeds_are_taken_together_by_the_mean_of_their_cosines() -> None:
    vectors = np.random.default_rng(2).standard_normal((3, 12, 5))
    units = unit_vectors(seeds_of(*vectors))
    np.testing.assert_allclose(
        units @ units.T, np.mean([cosine_similarity(of_seed.astype(np.float32)) for of_seed in vectors], axis=0), atol=1e-6
    )


def test_the_seeds_that_have_a_neighbour_are_counted() -> None:
    along, across = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
    found = neighbours(seeds_of(along, along, across), 1, ["c000"])
    assert found[["neighbour", "n_seeds"]].to_numpy().tolist() == [["c001", 2]]


def test_a_rotated_seed_has_the_same_neighbours() -> None:
    random = np.random.default_rng(3)
    vectors = random.standard_normal((40, 6))
    rotation = np.linalg.qr(random.standard_normal((6, 6)))[0]
    stability = neighbour_stability(seeds_of(vectors, 7 * vectors @ rotation))
    assert (stability["common_share"] == 1).all()
    assert stability["k"].tolist() == [1, 5, 10]


def test_neighbours_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(InputError, match="rows c001: zero embeddings"):
        neighbours(frame_of(np.array([[1.0], [0.0]])), 1)
    with pytest.raises(InputError, match="at least 1"):
        neighbours(frame_of(np.ones((2, 1))), 0)
    with pytest.raises(InputError, match="rows aspirin: no such"):
        neighbours(frame_of(np.ones((2, 1))), 1, ["c000", "aspirin"])
    torn = seeds_of(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(InputError, match="other perturbations"):
        unit_vectors(torn[:-1])


def test_one_perturbation_has_no_neighbour() -> None:
    assert neighbours(frame_of(np.ones((1, 3))), 5).empty


# ---- stability ---------------------------------------------------------------------------------------------------------------


def test_stability_is_the_mean_share_of_common_neighbours() -> None:
    vectors = np.random.default_rng(4).standard_normal((3, 30, 4))
    found = neighbour_stability(seeds_of(*vectors), at=(3, 7))
    to_arrow(found, EMBEDDING_STABILITY)
    for row in found.to_dict("records"):
        sets = []
        for seed in (row["seed"], row["other_seed"]):
            similarity = cosine_similarity(vectors[seed].astype(np.float32).astype(float))
            np.fill_diagonal(similarity, -np.inf)
            sets.append([set(np.argsort(-line)[: row["k"]]) for line in similarity])
        share = np.mean([len(left & right) / row["k"] for left, right in zip(*sets, strict=True)])
        assert row["common_share"] == pytest.approx(share)
        assert row["expected_share"] == pytest.approx(row["k"] / 29)
    assert found[["seed", "other_seed", "k"]].to_numpy().tolist() == [[a, b, k] for a, b in combinations(range(3), 2) for k in (3, 7)]


def test_seeds_that_have_nothing_in_common_agree_as_often_as_chance() -> None:
    random = np.random.default_rng(5)
    found = neighbour_stability(seeds_of(*random.standard_normal((2, 400, 8))), at=(20,))
    assert found["common_share"].iloc[0] == pytest.approx(found["expected_share"].iloc[0], abs=0.01)


def test_one_seed_is_compared_with_nothing() -> None:
    assert neighbour_stability(seeds_of(np.random.default_rng(0).standard_normal((9, 2)))).empty
    assert neighbour_stability(frame_of(np.random.default_rng(0).standard_normal((9, 2)))).empty


# ---- mechanisms --------------------------------------------------------------------------------------------------------------


def compounds_of(mechanism: list[str | None], parents: list[str | None] | None = None) -> pd.DataFrame:
    symbols = [f"c{number:03d}" for number in range(len(mechanism))]
    return pd.DataFrame({"perturbation": symbols, "mechanism": mechanism, "parent_key": parents or [None] * len(mechanism)})


def test_closeness_is_the_mean_cosine_of_pairs() -> None:
    random = np.random.default_rng(6)
    mechanism = [*(str(number % 4) for number in range(21)), None, "alone"]
    vectors = random.standard_normal((23, 5))
    found = mechanism_closeness(seeds_of(vectors), compounds_of(mechanism))
    similarity = cosine_similarity(vectors.astype(np.float32).astype(float))
    pairs = [similarity[i, j] for i, j in combinations(range(21), 2) if mechanism[i] == mechanism[j]]
    [row] = found.to_dict("records")
    assert row["same_cosine"] == pytest.approx(np.mean(pairs))
    assert (row["n_perturbations"], row["n_mechanisms"]) == (21, 4)
    sizes = np.array([6, 5, 5, 5])
    assert row["expected_nearest_share"] == pytest.approx((sizes * (sizes - 1)).sum() / (21 * 20))
    np.fill_diagonal(similarity, -np.inf)
    near = similarity[:21, :21].argmax(axis=1)
    assert row["nearest_share"] == pytest.approx(np.mean([mechanism[i] == mechanism[j] for i, j in enumerate(near)]))
    to_arrow(found, EMBEDDING_MECHANISMS)


def test_mechanisms_that_lie_together_are_told_from_chance() -> None:
    random = np.random.default_rng(7)
    mechanism = [str(number % 5) for number in range(40)]
    centres = random.standard_normal((5, 8))
    together = centres[np.arange(40) % 5] + 0.5 * random.standard_normal((40, 8))
    found = mechanism_closeness(seeds_of(together, together[:, ::-1]), compounds_of(mechanism), n_permutations=199)
    assert found["seed"].tolist() == [0, 1, pd.NA]
    assert (found["p_value"] == 1 / 200).all()
    assert (found["nearest_share"] > 0.9).all()
    # what a pair has on average: permuted mechanisms take pairs at random
    average = cosine_similarity(together)[~np.eye(40, dtype=bool)].mean()
    assert found["expected_cosine"].to_numpy() == pytest.approx(average, abs=0.02)


def test_p_values_without_an_effect_are_uniform() -> None:
    random = np.random.default_rng(8)
    mechanism = [str(number % 5) for number in range(30)]
    values = [
        mechanism_closeness(seeds_of(random.standard_normal((30, 4))), compounds_of(mechanism), n_permutations=49)["p_value"].iloc[0]
        for _ in range(80)
    ]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.08)
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_salts_of_one_parent_count_once() -> None:
    random = np.random.default_rng(9)
    one = random.standard_normal((1, 4))
    salts = np.concatenate([np.repeat(one, 5, axis=0), random.standard_normal((5, 4))])
    parents = [*["p"] * 5, *"abcde"]
    frame = seeds_of(salts).assign(n_conditions=[1, 2, 9, 4, 5, 1, 1, 1, 1, 1])
    # five salts, all of mechanism x: one of them is left, with the other x
    found = mechanism_closeness(frame, compounds_of([*["x"] * 6, *["y"] * 4], parents), n_permutations=9)
    assert found["n_perturbations"].tolist() == [6]


@pytest.mark.parametrize("mechanism", [[None] * 6, ["a", "b", "c", "d", "e", "f"], ["a"] * 6])
def test_without_two_shared_mechanisms_nothing_is_said(mechanism: list[str | None]) -> None:
    found = mechanism_closeness(seeds_of(np.random.default_rng(0).standard_normal((6, 3))), compounds_of(mechanism))
    assert found.empty
    to_arrow(found, EMBEDDING_MECHANISMS)


# ---- the map -----------------------------------------------------------------------------------------------------------------


def test_projection_equals_scikit_learn() -> None:
    vectors = np.random.default_rng(1).standard_normal((50, 10)) * np.linspace(3, 0.1, 10)
    coordinates, shares = principal_plane(vectors)
    expected = PCA(2, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(expected.transform(vectors)), atol=1e-9)
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, rtol=1e-9)
    flipped, _ = principal_plane(-vectors)
    assert (np.abs(coordinates).max(axis=0) == coordinates.max(axis=0)).all()
    assert (np.abs(flipped).max(axis=0) == flipped.max(axis=0)).all()


@pytest.mark.parametrize("vectors", [np.ones((1, 3)), np.ones((4, 3)), np.arange(3.0)[:, None]])
def test_projection_of_odd_shapes(vectors: np.ndarray) -> None:
    coordinates, shares = principal_plane(vectors)
    assert coordinates.shape == (len(vectors), 2)
    assert np.isfinite(coordinates).all()
    assert 0 <= shares.sum() <= 1 + 1e-9


def clusters(n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(n)
    mechanism = [f"m{number % 3}" if number % 7 else None for number in range(n)]
    vectors = 4 * random.standard_normal((3, 6))[np.arange(n) % 3] + random.standard_normal((n, 6))
    return seeds_of(vectors).assign(perturbagen="x"), compounds_of(mechanism)


def test_the_map_keeps_neighbourhoods_and_is_the_same_again() -> None:
    embeddings, compounds = clusters(60)
    places = embedding_map(embeddings, compounds)
    pd.testing.assert_frame_equal(embedding_map(embeddings, compounds), places)
    to_arrow(places, EMBEDDING_MAP)
    at = places[["x", "y"]].to_numpy()
    gaps = np.linalg.norm(at[:, None] - at[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    near = gaps.argmin(axis=1)
    assert np.mean(np.arange(60) % 3 == near % 3) > 0.95


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6])
def test_few_perturbations_have_places(n: int) -> None:
    places = embedding_map(*clusters(n))
    assert np.isfinite(places[["x", "y"]]).all(axis=None)
    assert len(places) == n


def test_of_too_many_the_known_mechanisms_and_the_most_measured_are_shown() -> None:
    embeddings, compounds = clusters(30)
    embeddings = embeddings.assign(n_conditions=range(1, 31))
    places = embedding_map(embeddings, compounds, n_points=27)
    assert places["mechanism"].notna().sum() == 25
    assert places.loc[places["mechanism"].isna(), "symbol"].tolist() == ["c021", "c028"]
