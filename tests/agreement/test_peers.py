from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy.stats import percentileofscore

from perturbridge_dagster.agreement.baselines import Groups
from perturbridge_dagster.agreement.peers import Peers, among_peers, name_hash
from tests.agreement.effects_in_memory import make_effects


def contrasts_of(rows: list[tuple[int | None, float]], **options: object) -> pd.DataFrame:
    return make_effects([(cid, "A549", 24.0, dose) for cid, dose in rows], np.zeros((len(rows), 1)), **options).contrasts


def peers_of(contrasts: pd.DataFrame, rows: list[int], **options: int) -> list[list[int]]:
    groups, at = Groups.of(contrasts), np.array(rows, dtype=np.int64)
    peers = Peers(contrasts, groups, at, **options)
    return [peers.panel(groups.peers[row])[peers.allowed(np.array([row]), groups.peers[row])[0]].tolist() for row in rows]


def test_peers_are_other_compounds_at_the_same_dose_one_contrast_each() -> None:
    contrasts = contrasts_of([(1, 1.0), (2, 1.0), (2, 1.0), (3, 1.0), (3, 10.0), (None, 1.0), (4, 1.0)], estimable=[True] * 6 + [False])
    contrasts["control"] = ["DMSO", "water", "DMSO", *["DMSO"] * 4]
    found = [sorted(rows) for rows in peers_of(contrasts, [0, 1, 2, 3, 4])]
    assert found == [[2, 3], [0, 3], [0, 3], [0, 2], []]


def test_no_more_peers_than_asked_and_all_of_them_where_there_are() -> None:
    contrasts = contrasts_of([(cid, 1.0) for cid in range(1, 31)])
    every = list(range(30))
    for rows, n_peers in ((peers_of(contrasts, every, n_peers=7), 7), (peers_of(contrasts, every, n_peers=100), 29)):
        assert {len(of_row) for of_row in rows} == {n_peers}
        assert all(row not in of_row for row, of_row in enumerate(rows))
    assert peers_of(contrasts, [0], n_peers=0) == [[]]


@settings(deadline=None, max_examples=8)
@given(st.permutations(range(20)), st.sets(st.integers(0, 19)))
def test_choice_depends_on_names_only(order: list[int], dropped: set[int]) -> None:
    contrasts = contrasts_of([(cid, 1.0) for cid in range(100, 120)])
    whole = peers_of(contrasts, list(range(20)), n_peers=19)
    shuffled = contrasts.iloc[order].reset_index(drop=True)
    for row, peers in zip(order, peers_of(shuffled, list(range(20)), n_peers=19), strict=True):
        assert [order[peer] for peer in peers] == whole[row], "the order of rows does not matter"
    kept = [row for row in range(20) if row not in dropped]
    fewer = contrasts.iloc[kept].reset_index(drop=True)
    for row, peers in zip(kept, peers_of(fewer, list(range(len(kept))), n_peers=19), strict=True):
        assert [kept[peer] for peer in peers] == [peer for peer in whole[row] if peer not in dropped], "others keep their order"


def test_seed_changes_the_choice_and_peers_are_spread_over_compounds() -> None:
    contrasts = contrasts_of([(cid, 1.0) for cid in range(1, 201)])
    first, second = (peers_of(contrasts, [0], n_peers=50, seed=seed)[0] for seed in (0, 1))
    assert first != second
    # 50 of 199, drawn evenly: the mean position lies within four standard errors of the middle.
    assert abs(np.mean(first) - 100) < 4 * 200 / np.sqrt(12 * 50)


def test_hash_is_that_of_the_names() -> None:
    assert name_hash(0, "sciplex", 1.0) == name_hash("0", "sciplex", "1.0")
    assert name_hash("ab", "c") != name_hash("a", "bc")


_numbers = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, np.nan])


@settings(deadline=None, max_examples=60)
@given(arrays(float, 3, elements=_numbers), arrays(float, (3, 5), elements=_numbers))
def test_place_among_peers_is_that_of_scipy(scores: np.ndarray, of_peers: np.ndarray) -> None:
    found = among_peers(scores, of_peers)
    for i, score in enumerate(scores):
        peers = of_peers[i][np.isfinite(of_peers[i])]
        assert found.n[i] == len(peers)
        assert_allclose(found.mean[i], peers.mean() if len(peers) else np.nan)
        assert_allclose(found.sd[i], peers.std(ddof=1) if len(peers) > 1 else np.nan, atol=1e-12)
        if len(peers) and np.isfinite(score):
            below = percentileofscore(peers, score, kind="strict") / 100 * len(peers)
            assert_allclose(found.percentile[i], (1 + below) / (len(peers) + 1))
            assert_allclose(found.p[i], (1 + len(peers) - below) / (len(peers) + 1))
        else:
            assert np.isnan([found.percentile[i], found.p[i]]).all()


def test_p_values_of_exchangeable_scores_are_uniform() -> None:
    generator = np.random.default_rng(0)
    scores, of_peers = generator.normal(size=2000), generator.normal(size=(2000, 19))
    p = among_peers(scores, of_peers).p
    assert set(np.round(p * 20)) == set(range(1, 21))
    counts = np.bincount(np.round(p * 20).astype(int))[1:]
    assert ((counts - 100) ** 2 / 100).sum() < 43.8, "chi square with 19 degrees of freedom, 0.999"
