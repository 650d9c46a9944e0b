"""The command that asks PubChem, and what the platform does with the answers. PubChem is a local double."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from assets.ask_pubchem import main
from perturbridge_dagster.identity.answers import read_answers, remember
from perturbridge_dagster.identity.pubchem import PubChem
from perturbridge_dagster.identity.snapshot import with_answers
from perturbridge_dagster.payloads.requests import execute
from perturbridge_dagster.payloads.tasks import harmonized_samples
from perturbridge_dagster.sources import harmonize
from perturbridge_dagster.written import read_parquet
from tests.conftest import Home
from tests.identity.pubchem_double import PubChemDouble, Record
from tests.identity.test_answers import answers
from tests.identity.test_pubchem import FAST

pytestmark = pytest.mark.slow

DATASET = "l1000_phase1"
UNKNOWN = Record(4711, "CCCCCCCCCCO", "KU-C104220")
"""The one compound of the sample that the shipped snapshot does not know, as PubChem might."""


@pytest.fixture
def home(small_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> Home:
    made = small_home(DATASET)
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(made.path))
    return made


def test_what_is_not_known_is_listed_without_a_request(home: Home, pubchem: PubChemDouble, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([DATASET, "--list"]) == 0
    said = capsys.readouterr()
    listed = pd.read_csv(io.StringIO(said.out), sep="\t")
    assert listed[["perturbagen", "kind", "query", "state"]].to_numpy().tolist() == [["KU-C104220", "name", "ku-c104220", "not_asked"]]
    assert "1 of them not fully known" in said.err
    assert pubchem.requests == []
    assert not (home.path / "identity").exists()


def test_answers_make_the_dataset_stale_and_are_used(home: Home, pubchem: PubChemDouble, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, (DATASET,))
    key = (DATASET,)
    assert home.planner().state("harmonized_samples", key)[0] == "current"

    pubchem.records.append(UNKNOWN)
    assert main([DATASET]) == 0
    assert "1 questions found, 0 not found, 0 failed" in capsys.readouterr().err
    assert pubchem.asked == [("name", ["ku-c104220"])]
    assert home.planner().state("harmonized_samples", key)[0] == "stale"
    [planned] = home.planner().plan("harmonized_samples", key)
    assert planned.request.inputs["identity"].checksum == with_answers(home.path / "identity", DATASET).grown_version

    home.materialize("harmonized_samples", key)
    obs = pd.read_parquet(home.planner().outputs("harmonized_samples", key)[0].folder / "obs.parquet")
    own = obs[obs["perturbagen"] == "KU-C104220"]
    assert set(own["pubchem_cid"]) == {4711}
    assert set(own["pubchem_cid_source"]) == {"name"}
    assert set(own["parent_key"]) == {UNKNOWN.inchikey[:14]}
    folder = home.planner().outputs("harmonized_samples", key)[0].folder
    account = read_parquet(folder / "compound_identity.parquet", "harmonized_samples").set_index("perturbagen").loc["KU-C104220"]
    assert account[["pubchem_cid", "outcome", "answer_query", "answer_source"]].tolist() == [4711, "found", "ku-c104220", "PubChem"]
    assert account["answer_date"] >= "2026"
    assert len(pubchem.requests) == 1

    # answers for another dataset change nothing here; answers that came after planning are refused
    remember(home.path / "identity", "op3", answers(("name", "x", "found", 1)))
    assert home.planner().state("harmonized_samples", key)[0] == "current"
    remember(home.path / "identity", DATASET, answers(("name", "x", "found", 1)))
    [late] = home.planner().plan("harmonized_samples", key)
    remember(home.path / "identity", DATASET, answers(("name", "y", "found", 1)))
    outcome = execute(late.request, harmonized_samples)
    assert outcome.status == "failed"
    assert "identity answers have changed" in str(outcome.error)


def test_a_service_that_is_down_is_an_error_and_nothing_is_lost(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("assets.ask_pubchem.PubChem", partial(PubChem, limits=FAST))
    monkeypatch.setenv("PERTURBRIDGE_PUBCHEM", "http://127.0.0.1:9/nobody")
    assert main([DATASET]) == 1
    assert "1 failed" in capsys.readouterr().err
    kept = read_answers(home.path / "identity", DATASET)
    assert kept["outcome"].tolist() == ["failed"]
    assert "refused" in kept["problem"][0]
    assert main(["no_such_dataset"]) == 1


def test_harmonizing_with_the_network_asks_and_remembers(native_sample: Path, pubchem: PubChemDouble, tmp_path: Path) -> None:
    pubchem.records.append(UNKNOWN)
    files = native_sample / DATASET
    without = harmonize(DATASET, files).obs
    assert pubchem.requests == []
    for _ in range(2):
        obs = harmonize(DATASET, files, identity=with_answers(tmp_path, DATASET), network=True).obs
        assert obs.loc[obs["perturbagen"] == "KU-C104220", "pubchem_cid"].eq(4711).all()
        assert len(pubchem.requests) == 1
    assert without.loc[without["perturbagen"] == "KU-C104220", "pubchem_cid"].isna().all()
