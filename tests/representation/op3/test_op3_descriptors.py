"""Descriptors of compounds, and what networks are told of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.op3.descriptors import (
    PUBLISHED_TOKENS,
    compound_input,
    embedding_descriptors,
    morgan_descriptors,
    no_descriptors,
    tokens_of,
)

SMILES = pd.Series(
    {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "unknown": None, "broken": "C1CC"}, dtype=object
)
CIDS = pd.Series([2244, 2519, None, 999], index=["aspirin", "caffeine", "unknown", "broken"], dtype="Int64")


def embeddings() -> pd.DataFrame:
    vectors = [np.array([3.0, 4.0], np.float32), np.array([0.0, -5.0], np.float32), np.array([100.0, 0.0], np.float32)]
    return pd.DataFrame({"symbol": ["2244", "999", "7"], "embedding": vectors})


def test_morgan_is_ecfp2_of_two_thousand_bits():
    described = morgan_descriptors(SMILES)
    assert described.vectors.shape == (4, 2000)
    assert described.has.to_dict() == {"aspirin": True, "caffeine": True, "unknown": False, "broken": False}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=1, fpSize=2000)
    expected = generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(SMILES["aspirin"]))
    np.testing.assert_array_equal(described.vectors.loc["aspirin"], expected)
    assert (described.vectors.loc[["unknown", "broken"]] == 0).all(axis=None)


def test_embeddings_are_found_by_pubchem_id_and_scaled_by_train_compounds_alone():
    described = embedding_descriptors("lpm", CIDS, embeddings(), train=["aspirin", "caffeine"])
    assert described.has.to_dict() == {"aspirin": True, "caffeine": False, "unknown": False, "broken": True}
    scale = np.sqrt((3**2 + 4**2) / 2)
    np.testing.assert_allclose(described.vectors.loc["aspirin"], np.array([3, 4]) / scale, rtol=1e-6)
    np.testing.assert_allclose(described.vectors.loc["broken"], np.array([0, -5]) / scale, rtol=1e-6)
    # the test compound has no part in the scale
    larger = embeddings()
    larger["embedding"] = [larger["embedding"][0], 50 * larger["embedding"][1], larger["embedding"][2]]
    again = embedding_descriptors("lpm", CIDS, larger, train=["aspirin", "caffeine"])
    np.testing.assert_array_equal(again.vectors.loc["aspirin"], described.vectors.loc["aspirin"])


def test_embeddings_that_cannot_serve_are_refused():
    with pytest.raises(InputError, match="no train compound of the benchmark has an embedding of lpm"):
        embedding_descriptors("lpm", CIDS, embeddings(), train=["caffeine"])
    with pytest.raises(InputError, match="several embeddings"):
        embedding_descriptors("lpm", CIDS, pd.concat([embeddings(), embeddings()]), train=["aspirin"])


def test_scrambled_descriptors_are_the_same_vectors_on_other_compounds():
    described = morgan_descriptors(SMILES)
    index = pd.Index([f"c{number}" for number in range(12)])
    many = pd.DataFrame(np.arange(24, dtype=np.float32).reshape(12, 2) + 1, index=index)
    has = pd.Series([True] * 9 + [False] * 3, index)
    scrambled = type(described)("x", many.where(has, 0.0), has).scrambled(1)
    np.testing.assert_array_equal(np.sort(scrambled.vectors[0]), np.sort(many[0].where(has, 0.0)))
    assert (scrambled.vectors.loc[has] != many.loc[has]).any(axis=None)
    assert (scrambled.vectors.loc[~has] == 0).all(axis=None)


def conditions() -> pd.DataFrame:
    return pd.DataFrame({"sm_name": ["caffeine", "aspirin", "unknown"], "cell_type": ["T cells", "B cells", "T cells"]})


def test_tokens_are_cell_types_and_compounds_sorted_together():
    assert tokens_of(conditions()) == {"B cells": 0, "T cells": 1, "aspirin": 2, "caffeine": 3, "unknown": 4}
    with pytest.raises(InputError, match="names of cell types"):
        tokens_of(conditions().replace("aspirin", "T cells"))


def test_tables_have_a_row_a_token_or_as_many_as_published():
    described, token_of = morgan_descriptors(SMILES), tokens_of(conditions())
    plain = compound_input(described, "trainable", token_of, faithful=False)
    assert plain.table.shape == (5, 2000)
    assert plain.has.tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(plain.table[2], described.vectors.loc["aspirin"])
    faithful = compound_input(described, "trainable", token_of, faithful=True)
    assert faithful.table.shape == (PUBLISHED_TOKENS, 2000) == (152, 2000)
    np.testing.assert_array_equal(faithful.table[:5], plain.table)
    many = {f"c{number}": number for number in range(153)}
    with pytest.raises(InputError, match="there are 153 cell types and compounds"):
        compound_input(no_descriptors(SMILES.index), "none", many, faithful=True)


@pytest.mark.parametrize("mode", ["none", "frozen"])
def test_modes_that_do_not_go_with_descriptors_are_refused(mode: str):
    with pytest.raises(ValueError, match="do not go with mode"):
        compound_input(morgan_descriptors(SMILES), mode, tokens_of(conditions()), faithful=False)
    with pytest.raises(ValueError, match="do not go with mode"):
        compound_input(no_descriptors(SMILES.index), "fixed", tokens_of(conditions()), faithful=False)
