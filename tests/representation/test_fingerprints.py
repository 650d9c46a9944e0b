"""Fingerprints against rdkit's own similarity and scikit-learn's neighbours, and structures that cannot be read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation import fingerprints as module
from perturbridge_dagster.representation.fingerprints import Fingerprints, morgan_bits

SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "O=C(NO)CCCCCCC(=O)Nc1ccccc1",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CCO",
    "C",
    "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
    "[Na+].[Cl-]",
)


@pytest.mark.parametrize(("radius", "n_bits"), [(2, 2_048), (1, 2_000), (2, 128), (0, 7)])
def test_bits_are_those_of_rdkit(radius: int, n_bits: int) -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    bits = morgan_bits(pd.Series(SMILES), n_bits=n_bits, radius=radius)
    assert bits.dtype == np.uint8
    assert bits.shape == (len(SMILES), n_bits)
    for row, smiles in zip(bits, SMILES, strict=True):
        assert np.flatnonzero(row).tolist() == list(generator.GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits())


def test_the_radius_is_half_the_diameter_of_ecfp() -> None:
    # ethanol: 3 atoms, and with radius 1 their 3 neighbourhoods; the whole molecule is all that radius 2 could add, and it is there already
    assert morgan_bits(pd.Series(["CCO"]), radius=0).sum() == 3
    assert morgan_bits(pd.Series(["CCO"]), radius=1).sum() == 6


def test_what_cannot_be_read_is_a_zero_vector_and_counted() -> None:
    compounds = pd.DataFrame(
        {"perturbation": list("abcde"), "smiles": ["CCO", None, "not a molecule", "", "c1ccccc1"]}, index=[9, 7, 5, 3, 1]
    )
    assert morgan_bits(compounds["smiles"]).any(axis=1).tolist() == [True, False, False, False, True]
    found = Fingerprints.of(compounds)
    assert found.n_unreadable == 2  # an empty text is a structure that somebody wrote, of nothing
    assert found.rows(pd.Index(["e", "b", "c", "nobody", "a"])).tolist() == [4, -1, -1, -1, 0]
    nothing = Fingerprints.of(compounds.iloc[:0])
    assert nothing.rows(pd.Index(["a"])).tolist() == [-1]
    assert nothing.n_unreadable == 0


@pytest.mark.parametrize(("n_bits", "radius"), [(0, 2), (16, -1)])
def test_fingerprints_that_cannot_be_are_refused(n_bits: int, radius: int) -> None:
    with pytest.raises(InputError, match="at least 1 bit"):
        morgan_bits(pd.Series(["CCO"]), n_bits=n_bits, radius=radius)


def test_similarity_is_that_of_rdkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPOUNDS_AT_ONCE", 3)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2_048)
    theirs = [generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
    found = Fingerprints.of(pd.DataFrame({"perturbation": range(len(SMILES)), "smiles": SMILES}))
    rows = np.arange(len(SMILES))
    similarity = np.concatenate([part for _, part in found.tanimoto(rows, rows)], axis=1)
    np.testing.assert_allclose(similarity, [DataStructs.BulkTanimotoSimilarity(one, theirs) for one in theirs])


def random_fingerprints(n: int, n_bits: int, seed: int) -> Fingerprints:
    bits = (np.random.default_rng(seed).random((n, n_bits)) < 0.3).astype(np.uint8)
    bits[~bits.any(axis=1), 0] = 1
    return Fingerprints(pd.Index(range(n), dtype=object), np.packbits(bits, axis=1), n_bits, bits.sum(axis=1).astype(np.int64), 0)


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 40), st.integers(0, 20), st.sampled_from([1, 7, 4_096]))
@settings(max_examples=60, deadline=None)
def test_the_nearest_are_those_of_scikit_learn_with_all_ties(n_left: int, n_right: int, n_bits: int, seed: int, at_once: int) -> None:
    found = random_fingerprints(n_left + n_right, n_bits, seed)
    left, right = np.arange(n_left), np.arange(n_left, n_left + n_right)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COMPOUNDS_AT_ONCE", at_once)
        nearest = found.nearest(left, right)
    bits = found.bits(np.arange(n_left + n_right)).astype(bool)
    distance = cdist(bits[left], bits[right], "jaccard")
    closest, _ = NearestNeighbors(n_neighbors=1, metric="jaccard", algorithm="brute").fit(bits[right]).kneighbors(bits[left])
    for row, positions in enumerate(nearest):
        np.testing.assert_allclose(distance[row, positions], closest[row, 0], atol=1e-12)
        assert positions.tolist() == np.flatnonzero(distance[row] <= distance[row].min() + 1e-12).tolist()
