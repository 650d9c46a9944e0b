"""Embeddings: what is written is what the models have, seed by seed, and says whether it may be redistributed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from perturbridge_dagster.errors import IncompatibleFileError, InputError
from perturbridge_dagster.quality.representation import _licence
from perturbridge_dagster.representation.checkpoints import TrainedModel
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.embeddings import embedding_matrix, read_embeddings, seeds_of, write_embeddings
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.settings import TrainingSettings
from perturbridge_dagster.representation.training import train
from perturbridge_dagster.stages import MODELS, SIZES
from perturbridge_dagster.written import read_stamp

QUICK = TrainingSettings(batch_size=2_000, steps=3, model=ModelSettings(hidden=(8,)), unknown_token=True)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(additive_corpus: StoredCorpus, tmp_path_factory: pytest.TempPathFactory) -> dict[int, TrainedModel]:
    return {
        seed: train(additive_corpus, replace(QUICK, seed=seed), tmp_path_factory.mktemp("run"), lambda line: None).trained
        for seed in (17, 13)
    }


def test_written_embeddings_are_the_models(
    additive_corpus: StoredCorpus, trained: dict[int, TrainedModel], make_stamp: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "embeddings.parquet"
    written = write_embeddings(file, trained, additive_corpus, make_stamp(), name="additive")
    read = read_embeddings(file)
    pd.testing.assert_frame_equal(read, written)
    schema = pq.read_schema(file)
    assert schema.field("embedding").type.list_size == 128
    assert pq.ParquetFile(file).num_row_groups == 2
    assert read["embedding"].iloc[0].dtype == np.float32
    assert (read_stamp(file).stage, read_stamp(file).source_datasets) == ("compound_embeddings", ("alpha", "beta", "gamma"))

    conditions = additive_corpus.conditions_of("train")
    for seed, of_seed in read.groupby("seed"):
        assert of_seed["symbol"].tolist() == sorted(conditions["perturbation"].unique())
        assert of_seed["pubchem_cid"].tolist() == [int(symbol) for symbol in of_seed["symbol"]]
        assert of_seed["perturbagen"].tolist() == [f"drug {symbol}" for symbol in of_seed["symbol"]]
        assert of_seed.set_index("symbol")["n_conditions"].to_dict() == conditions["perturbation"].value_counts().to_dict()
        table = trained[seed].model.perturbation.weight.detach().numpy()
        codes = trained[seed].vocabularies.encode("perturbation", of_seed["symbol"].to_list())
        np.testing.assert_array_equal(embedding_matrix(of_seed), table[codes])
    stamp = read_stamp(file)
    said = read[["model", "corpus", "code_version", "licence_class"]].drop_duplicates().to_numpy().tolist()
    assert said == [["scalar_lpm", "additive", stamp.stage_code_version, "open"]]
    assert read["seed"].drop_duplicates().tolist() == [17, 13]


def test_one_restricted_source_restricts_the_embeddings(
    additive_corpus: StoredCorpus, trained: dict[int, TrainedModel], make_stamp: Callable, tmp_path: Path
) -> None:
    corpus = replace(additive_corpus, stamp=make_stamp("alpha", "beta", stage="training_corpus", licence="restricted"))
    written = write_embeddings(tmp_path / "e.parquet", trained, corpus, make_stamp(), name="all")
    assert set(written["licence_class"]) == {"restricted"}
    assert read_stamp(tmp_path / "e.parquet").licence == "restricted"


def test_models_of_other_architectures_are_no_seeds_of_each_other(
    additive_corpus: StoredCorpus, trained: dict[int, TrainedModel], make_stamp: Callable, tmp_path: Path
) -> None:
    other = replace(trained[13], settings=replace(trained[13].settings, architecture="multi_output_lpm"))
    with pytest.raises(InputError, match="seeds of different models"):
        write_embeddings(tmp_path / "e.parquet", {13: trained[13], 17: other}, additive_corpus, make_stamp(), name="all")
    assert not list(tmp_path.iterdir())


def test_files_of_another_stage_are_refused(additive_corpus: StoredCorpus) -> None:
    with pytest.raises(IncompatibleFileError, match="training_corpus"):
        read_embeddings(additive_corpus.folder / "conditions.parquet")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("corpus", ["all", "l1000", "single:sciplex"])
def test_the_compendium_has_seeds_to_compare(size: str, model: str, corpus: str) -> None:
    seeds = seeds_of(size, model, corpus)
    assert seeds[0] == 13
    assert len(set(seeds)) == len(seeds)
    assert len(seeds) >= 2 or (size == "small" and corpus != "all")


# ---- licence -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datasets", "corpus", "said", "stamped", "fails"),
    [
        (("sciplex", "tahoe"), "open", "open", "open", []),
        (("cigs_mce", "sciplex"), "all", "restricted", "restricted", []),
        # vectors that would be given away and must not be
        (("cigs_mce", "sciplex"), "all", "open", "restricted", ["vectors say what their sources allow: restricted"]),
        (("cigs_mce", "sciplex"), "all", "restricted", "open", ["the file says the same"]),
        # nobody knows the terms of a screen that is no longer registered
        (("a_private_screen",), "all", "open", "open", ["vectors say what their sources allow: restricted", "the file says the same"]),
        # a restricted dataset in the corpus that a release may carry
        (("cigs_mce", "sciplex"), "open", "restricted", "restricted", ["corpus open has no dataset that may not be redistributed"]),
        (("sciplex",), "open", "restricted", "open", ["vectors say what their sources allow: open"]),
    ],
)
def test_vectors_say_what_their_sources_allow(
    datasets: tuple[str, ...], corpus: str, said: str, stamped: str, fails: list[str], make_stamp: Callable
) -> None:
    embeddings = pd.DataFrame({"corpus": [corpus] * 3, "licence_class": said})
    findings = _licence(embeddings, make_stamp(*datasets, stage="compound_embeddings", licence=stamped))
    assert [finding.rule.words for finding in findings if not finding.passed] == fails
