"""The look-up: from what a person types to neighbours of the current embeddings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.embeddings import read_embeddings, write_embeddings
from perturbridge_dagster.representation.geometry import neighbours
from perturbridge_dagster.representation.lookup import described, find_compound, look_up, main
from perturbridge_dagster.representation.models import ModelSettings
from perturbridge_dagster.representation.settings import TrainingSettings
from perturbridge_dagster.representation.training import train

CORPUS_DIGEST = "c" * 64


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(additive_corpus: StoredCorpus, make_stamp: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one output of embeddings, and the corpus that they were trained on."""
    home = tmp_path_factory.mktemp("home")
    quick = TrainingSettings(batch_size=2_000, steps=2, model=ModelSettings(width=8, hidden=(8,)), unknown_token=True)
    trained = train(additive_corpus, quick, tmp_path_factory.mktemp("run"), lambda line: None).trained
    folder = home / "embeddings" / "all" / "scalar_lpm"
    write_embeddings(folder / "abc" / "embeddings.parquet", {13: trained, 17: trained}, additive_corpus, make_stamp(), name="all")
    (folder / "abc" / "done.json").write_text(json.dumps({"inputs": {"corpus": CORPUS_DIGEST}}))
    (folder / "current.json").write_text(json.dumps({"output": "abc", "digest": "a" * 64}))
    (home / "corpora" / "all").mkdir(parents=True)
    (home / "corpora" / "all" / CORPUS_DIGEST[:16]).symlink_to(additive_corpus.folder)
    return home


@pytest.mark.parametrize("asked", ["drug 107", "Drug-107", " DRUG107 ", "107"])
def test_a_compound_is_found_by_name_or_id(home: Path, asked: str) -> None:
    found = look_up(home, asked, k=4)
    assert (found.symbol, found.name, found.n_seeds) == ("107", "drug 107", 2)
    embeddings = read_embeddings(home / "embeddings" / "all" / "scalar_lpm" / "abc" / "embeddings.parquet")
    expected = neighbours(embeddings, 4, ["107"])
    assert found.neighbours["pubchem_cid"].astype(str).tolist() == expected["neighbour"].tolist()
    assert found.neighbours["compound"].tolist() == [f"drug {symbol}" for symbol in expected["neighbour"]]
    np.testing.assert_array_equal(found.neighbours["cosine"], expected["cosine"])
    # both seeds are the same model here
    assert found.neighbours["n_seeds"].tolist() == [2] * 4


def test_a_near_spelling_is_named(home: Path) -> None:
    with pytest.raises(InputError, match=r"no compound with an embedding is called drg 107.*perhaps .*drug 107 \(107\)"):
        look_up(home, "drg 107")
    with pytest.raises(InputError, match=r"no compound with an embedding is called zzzzzz.*a name at a source"):
        look_up(home, "zzzzzz")
    with pytest.raises(InputError, match="PubChem id 999999 has no embedding"):
        look_up(home, "999999")


def test_embeddings_that_are_not_there_name_those_that_are(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no embeddings of corpus open by scalar_lpm.*all scalar_lpm"):
        look_up(home, "107", corpus="open")
    with pytest.raises(InputError, match="Materialize compound_embeddings all scalar_lpm first"):
        look_up(tmp_path, "107")


def test_several_compounds_of_one_name_are_told_apart_by_id() -> None:
    names = pd.DataFrame({"perturbation": ["1", "2", "3"], "perturbagen": ["Salt", "salt", "other"]})
    known = pd.DataFrame({"pubchem_cid": pd.array([1, 2, 3], dtype="Int64")}, index=["1", "2", "3"])
    with pytest.raises(InputError, match=r"rows 1, 2: several compounds are called SALT.*a PubChem id"):
        find_compound("SALT", names, known)
    assert find_compound("SALT", names, known.loc[["2", "3"]]) == "2"
    assert find_compound("3", names, known) == "3"


def test_a_corpus_that_is_gone_takes_only_mechanisms_away(home: Path, tmp_path: Path) -> None:
    (tmp_path / "embeddings").symlink_to(home / "embeddings")
    found = look_up(tmp_path, "drug 107")
    assert found.neighbours["mechanism"].isna().all()
    pd.testing.assert_frame_equal(found.neighbours.drop(columns="mechanism"), look_up(home, "107").neighbours.drop(columns="mechanism"))


def test_it_says_what_may_be_done_with_the_embeddings(home: Path) -> None:
    text = described(look_up(home, "107", k=3), "all", "scalar_lpm")
    assert text.startswith("drug 107 (107): nearest by cosine in corpus all, scalar_lpm")
    assert "2 of 2" in text
    assert text.endswith("Trained on alpha, beta, gamma; the embeddings may be redistributed.")


def test_the_command_prints_neighbours_or_what_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["drug 107", "--k", "2", "--home", str(home)])
    assert len(capsys.readouterr().out.splitlines()) == 5
    with pytest.raises(SystemExit, match="no compound with an embedding is called nothing"):
        main(["nothing", "--home", str(home)])


@pytest.mark.slow
def test_the_command_needs_no_torch(home: Path) -> None:
    script = (
        "import sys; from perturbridge_dagster.representation.lookup import main; "
        f"main(['107', '--home', {str(home)!r}]); assert 'torch' not in sys.modules and 'dagster' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=Path(__file__).parents[2])
