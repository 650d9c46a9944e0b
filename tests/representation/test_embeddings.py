"""Embeddings: what is written is what the model has, and neighbours by cosine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from perturbridge_dagster.errors import IncompatibleFileError, InputError
from perturbridge_dagster.representation import embeddings as embeddings_module
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.embeddings import embedding_matrix, neighbours, read_embeddings, write_embeddings
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.training import TrainedModel, TrainingSettings, train
from perturbridge_dagster.written import read_stamp


@pytest.fixture(scope="module")
def trained(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    quick = TrainingSettings(batch_size=2_000, steps=3, model=ModelSettings(hidden=(8,)), unknown_token=True)
    return train(additive_corpus, quick, tmp_path_factory.mktemp("run"), lambda line: None).trained


def test_written_embeddings_are_the_models(
    additive_corpus: StoredCorpus, trained: TrainedModel, make_stamp: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "embeddings.parquet"
    written = write_embeddings(file, trained, additive_corpus, make_stamp())
    read = read_embeddings(file)
    pd.testing.assert_frame_equal(read, written)
    assert (
        str(pq.read_schema(file).field("embedding").type).startswith("fixed_size_list<element: float")
        or pq.read_schema(file).field("embedding").type.list_size == 128
    )
    assert read["embedding"].iloc[0].dtype == np.float32
    assert (read_stamp(file).stage, read_stamp(file).source_datasets) == ("compound_embeddings", ("alpha", "beta", "gamma"))

    conditions = additive_corpus.conditions[additive_corpus.conditions["split"] == "train"]
    assert read["symbol"].tolist() == sorted(conditions["perturbation"].unique())
    assert read["pubchem_cid"].tolist() == [int(symbol) for symbol in read["symbol"]]
    assert read["perturbagen"].tolist() == [f"drug {symbol}" for symbol in read["symbol"]]
    assert read.set_index("symbol")["n_conditions"].to_dict() == conditions["perturbation"].value_counts().to_dict()
    table = trained.model.perturbation.weight.detach().numpy()
    for place in (0, 7, len(read) - 1):
        code = trained.vocabularies.perturbation.index(read["symbol"].iloc[place])
        np.testing.assert_array_equal(read["embedding"].iloc[place], table[code])


def test_files_of_another_stage_are_refused(additive_corpus: StoredCorpus) -> None:
    with pytest.raises(IncompatibleFileError, match="training_corpus"):
        read_embeddings(additive_corpus.folder / "conditions.parquet")


def frame_of(vectors: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"symbol": [f"c{number}" for number in range(len(vectors))], "embedding": list(vectors.astype(np.float32))})


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


def test_neighbours_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of(np.random.default_rng(0).standard_normal((23, 5)))
    whole = neighbours(frame, 4)
    monkeypatch.setattr(embeddings_module, "_CHUNK", 5)
    pd.testing.assert_frame_equal(neighbours(frame, 4), whole)


def test_ties_go_to_the_earlier_row_and_scale_does_not_matter() -> None:
    found = neighbours(frame_of(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 2.0]])), 3)
    assert found.loc[found["symbol"] == "c0", "neighbour"].tolist() == ["c1", "c2", "c3"]
    assert found.loc[found["symbol"] == "c2", "neighbour"].tolist() == ["c1", "c3", "c0"]


def test_neighbours_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(InputError, match="rows c1: zero embeddings"):
        neighbours(frame_of(np.array([[1.0], [0.0]])), 1)
    with pytest.raises(InputError, match="at least 1"):
        neighbours(frame_of(np.ones((2, 1))), 0)
