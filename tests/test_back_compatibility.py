"""Files that earlier versions wrote must be read for ever, and say what they said."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from perturbridge_dagster.effects.storage import open_effects
from perturbridge_dagster.errors import IncompatibleFileError
from perturbridge_dagster.representation.corpus import open_corpus
from perturbridge_dagster.representation.embeddings import read_embeddings
from perturbridge_dagster.written import content_checksum, read_h5ad, read_parquet, read_stamp, write_h5ad

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = sorted(FIXTURES.glob("contract-*"))

_spec = importlib.util.spec_from_file_location("write_fixtures", FIXTURES / "write_fixtures.py")
write_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(write_fixtures)


def expected(folder: Path) -> dict:
    return json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("file", [file for folder in VERSIONS for file in sorted(folder.glob("*.parquet"))], ids=lambda file: file.name)
def test_tables_are_read_and_say_what_they_said(file: Path):
    stage = file.name.split(".")[0]
    stamp = read_stamp(file)
    assert file.parent.name == f"contract-{stamp.contract_version}"
    assert stamp.stage == stage
    assert stamp.simulated
    assert stamp.source_datasets
    assert write_fixtures.said_by(read_parquet(file, stage)) == expected(file.parent)[file.name]
    if file.name.endswith("embeddings.parquet"):
        assert len(read_embeddings(file)["embedding"][0]) > 1


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_strata_effects_and_corpora_are_read_and_say_what_they_said(folder: Path):
    samples = read_h5ad(folder / "stratum.h5ad", "harmonized_samples")
    said = expected(folder)
    assert content_checksum(samples) == said["stratum.h5ad"]["content_checksum"]
    assert samples.uns["stratum"] == said["stratum.h5ad"]["stratum"]
    effects = open_effects(folder / "effects")
    assert write_fixtures.said_by(effects.contrasts) == said["effects"]["contrasts"]
    assert write_fixtures.said_by(effects.genes) == said["effects"]["genes"]
    assert effects.dense(["logFC", "t"])["logFC"].shape == (said["effects"]["logFC"]["rows"], len(said["effects"]["logFC"]["columns"]))
    corpus = open_corpus(folder / "corpus")
    assert write_fixtures.said_by(corpus.conditions) == said["corpus"]["conditions"]
    assert sum(len(shard) for shard in corpus.iterate_shards("train")) == said["corpus"]["train"]


def test_a_file_of_another_contract_is_refused(tmp_path: Path):
    folder = VERSIONS[-1]
    samples = read_h5ad(folder / "stratum.h5ad", "harmonized_samples")
    write_h5ad(tmp_path / "later.h5ad", samples, replace(read_stamp(folder / "stratum.h5ad"), contract_version="2.0"))
    with pytest.raises(IncompatibleFileError, match=r"follows contract 2\.0"):
        read_h5ad(tmp_path / "later.h5ad", "harmonized_samples")
