"""The bench of training: the peer has the same values, and everything runs at a small size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import training as bench
from bench import training_data as data
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import EncodedSplit, encode_split
from tests.representation.values import values_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> StoredCorpus:
    return data.simulate(600, 1_500, tmp_path_factory.mktemp("bench") / "corpus")


@pytest.fixture(scope="module")
def train(corpus: StoredCorpus) -> EncodedSplit:
    return encode_split(corpus, "train", corpus.vocabularies())


def test_the_corpus_has_the_shape_of_the_compendium(corpus: StoredCorpus) -> None:
    per_condition = corpus.conditions.groupby("dataset")["n_values"].agg(["size", "mean"])
    assert per_condition.loc["l1000", "size"] / per_condition["size"].sum() == pytest.approx(0.7, abs=0.02)
    assert per_condition["mean"].tolist() == [978, 1_050]
    assert len(corpus.readouts) <= 1_500


@pytest.mark.parametrize("rows", [True, False])
def test_the_long_table_has_the_train_values_once(rows: bool, corpus: StoredCorpus, train: EncodedSplit, tmp_path: Path) -> None:
    files = data.write_long_table(corpus, tmp_path / "long")
    assert len(files) > 1
    batches = list(data.long_loader(files, corpus.vocabularies(), 16_384, rows=rows))
    assert {len(batch["value"]) for batch in batches[:5]} == {16_384}
    found = np.sort(np.concatenate([batch["value"].numpy() for batch in batches]))
    np.testing.assert_array_equal(found, np.sort(values_of(train).value))
    assert batches[0]["readout"].max() > 900
    assert not np.array_equal(batches[0]["value"].numpy(), values_of(train).value[:16_384]), "shuffled"


def test_the_lists_have_the_train_values_once(train: EncodedSplit, tmp_path: Path) -> None:
    files = data.write_lists(train, tmp_path / "lists")
    batches = list(data.list_loader(files, 64))
    values = values_of(train)
    for name, column in (("values", values.value), ("readouts", values.readout)):
        np.testing.assert_array_equal(np.sort(np.concatenate([batch[name].numpy() for batch in batches])), np.sort(column))
    assert sum(int(batch["length"].sum()) for batch in batches) == len(train)
    assert all(len(batch["perturbation"]) == 64 for batch in batches[:-1])


def test_a_rate_counts_what_was_drawn_after_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.5)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    drawn: list[int] = []

    def batches() -> Iterator[int]:
        for number in itertools.count(1):
            drawn.append(number)
            yield number

    found = bench.rate(batches(), lambda number: (number, 10 * number), 1.0)
    assert drawn == [1, 2]
    assert found == {"rows": 2 / 1.0, "values": 20 / 1.0}


def test_everything_is_measured_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"scalar_lpm": 2_048, "multi_output_lpm": 64}
    result = bench.measure(600, 1_500, tmp_path, 0.2, 1, sizes)
    for model in ("scalar_lpm", "multi_output_lpm"):
        assert min(rates["rows"] for rates in result["loading"][model].values()) > 0
        assert result["training"][model]["steps"]["values"] > 0
    bench.print_measured(result)
    printed = capsys.readouterr().out
    assert "scalar_lpm: batches of 2,048 values" in printed
    assert printed.count("projected for the full corpus") == 2
    assert "21 h on 16 GPUs" in printed
