"""Vocabularies and encoded splits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import Vocabularies, encode_conditions, encode_split
from perturbridge_dagster.representation.splits import SPLIT_RULES, SPLITS
from tests.representation.values import values_of


def vocabularies(*, unknown: bool = False) -> Vocabularies:
    conditions = pd.DataFrame({"dataset": ["b", "a"], "context": ["x", "x"], "perturbation": ["9+Control", "10+2"]})
    return Vocabularies.of(conditions, ["g2", "g1"], unknown=unknown)


def test_symbols_are_sorted_as_text_and_control_comes_first() -> None:
    made = vocabularies()
    assert made.dataset == ("a", "b")
    assert made.perturbation == ("Control", "10", "2", "9")
    assert made.readout == ("g1", "g2")
    assert made.encode("perturbation", ["9", "Control", "10"]).tolist() == [3, 0, 1]


def test_unknown_symbols_are_an_error_or_have_a_code_of_their_own() -> None:
    with pytest.raises(InputError, match=r"column perturbation; rows 7: 1 symbols are in no train condition") as caught:
        vocabularies().encode("perturbation", ["2", "7"])
    assert "unknown_token" in str(caught.value)
    lenient = vocabularies(unknown=True)
    assert lenient.encode("perturbation", ["2", "7"]).tolist() == [2, 4]
    assert lenient.size("perturbation") == 5
    assert vocabularies().size("perturbation") == 4
    with pytest.raises(KeyError, match="no vocabulary gene"):
        lenient.size("gene")


def test_combinations_are_padded() -> None:
    assert vocabularies().encode_perturbations(["10+2+9", "9", "2+10"]).tolist() == [[1, 2, 3], [3, -1, -1], [2, 1, -1]]


def test_vocabularies_survive_a_round_trip() -> None:
    assert Vocabularies.from_dict(vocabularies(unknown=True).to_dict()) == vocabularies(unknown=True)


@pytest.mark.parametrize(("column", "value"), [("log_dose", -np.inf), ("log_dose", np.nan), ("time", np.inf)])
def test_doses_and_times_that_are_not_finite_are_refused(column: str, value: float) -> None:
    conditions = pd.DataFrame({"dataset": "a", "context": "x", "perturbation": "2", "log_dose": 0.0, "time": 24.0}, index=[0, 1])
    conditions.loc[1, column] = value
    with pytest.raises(InputError, match=f"column {column}; rows 1: 1 values are missing or infinite"):
        encode_conditions(conditions, vocabularies())


@pytest.mark.parametrize("split", SPLITS)
def test_encoded_values_decode_to_the_shards(additive_corpus: StoredCorpus, split: str) -> None:
    made = additive_corpus.vocabularies()
    encoded = encode_split(additive_corpus, split, made)
    shards = pd.concat(
        [
            shard.astype({"dataset": str, "context": str, "perturbation": str, "readout": str})
            for shard in additive_corpus.iterate_shards(split)
        ]
    )
    values = values_of(encoded)
    decoded = encoded.conditions.iloc[values.condition]
    for name in ("dataset", "context", "perturbation", "log_dose", "time"):
        assert (decoded[name].to_numpy() == shards[name].to_numpy()).all()
    assert (np.array(made.readout)[values.readout] == shards["readout"].to_numpy()).all()
    np.testing.assert_array_equal(values.value, shards["value"])
    assert (np.array(made.perturbation)[encoded.encoded.perturbation[:, 0]] == encoded.conditions["perturbation"].to_numpy()).all()


@pytest.mark.parametrize("rule", ["scalar", "molecules", "contexts"])
def test_values_stay_on_disk(additive_corpus: StoredCorpus, rule: str) -> None:
    encoded = encode_split(additive_corpus, "train", additive_corpus.vocabularies(rule), rule=rule)
    parts = [*encoded.blocks, encoded.blocks[0][np.arange(3)]]
    for array in (array for block in parts for array in (block.log_fc, block.significance)):
        assert not array.flags.owndata
        assert not array.flags.writeable


@pytest.mark.parametrize("rule", SPLIT_RULES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_by_any_rule_has_the_values_of_its_conditions(additive_corpus: StoredCorpus, rule: str, split: str) -> None:
    everything = encode_split(additive_corpus, "train", additive_corpus.vocabularies(unknown=True)).conditions
    assert set(everything["split"]) == {"train"}
    for datasets in (None, ("alpha",), ("beta", "gamma")):
        made = additive_corpus.vocabularies(rule, unknown=True)
        encoded = encode_split(additive_corpus, split, made, rule=rule, datasets=datasets)
        expected = values_by_condition(additive_corpus, rule, split, datasets)
        assert len(encoded) == sum(np.isfinite(values).sum() for values in expected.values())
        seen = []
        for block in encoded.blocks:
            for row, values in zip(block.condition, block.values(), strict=True):
                number = int(encoded.conditions["condition"].iloc[row])
                np.testing.assert_array_equal(values, expected[number])
                seen.append(number)
        assert sorted(seen) == sorted(expected)
        taken = values_of(encoded)
        np.testing.assert_array_equal(taken.value, np.concatenate([expected[number] for number in seen] or [np.empty(0, np.float32)]))


def values_by_condition(corpus: StoredCorpus, rule: str, split: str, datasets: tuple[str, ...] | None) -> dict[int, np.ndarray]:
    """Values of each condition of a split, from the files, read whole."""
    table = pq.read_table(corpus.folder / "conditions.parquet").to_pandas()
    chosen = table[table["split" if rule == "scalar" else f"split_{rule}"] == split]
    if datasets:
        chosen = chosen[chosen["dataset"].isin(datasets)]
    everything = values_of_files(corpus.folder)
    return {number: everything[number] for number in chosen["condition"]}


@cache
def values_of_files(folder: Path) -> dict[int, np.ndarray]:
    """Values of each condition, from the shards."""
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in folder.rglob("*.arrow")]
    return {row["condition"]: np.array(row["values"], np.float32) for table in tables for row in table.to_pylist()}


def test_a_block_of_some_of_its_conditions_keeps_their_bits(additive_corpus: StoredCorpus) -> None:
    encoded = encode_split(additive_corpus, "train", additive_corpus.vocabularies("molecules"), rule="molecules")
    block = max(encoded.blocks, key=lambda block: len(block.condition))
    members = np.array([3, 0, 2])
    np.testing.assert_array_equal(block[members].significant(), block.significant()[members])
    np.testing.assert_array_equal(block[members].values(), block.values()[members])


def test_a_corpus_that_contradicts_itself_is_refused(additive_corpus: StoredCorpus) -> None:
    made = additive_corpus.vocabularies()
    is_train = additive_corpus.conditions["split"] == "train"
    without_one = additive_corpus.conditions.drop(index=additive_corpus.conditions.index[is_train][0])
    with pytest.raises(InputError, match="does not list"):
        encode_split(replace(additive_corpus, conditions=without_one), "train", made)
    miscounted = additive_corpus.shards.assign(n_values=additive_corpus.shards["n_values"] + 1)
    with pytest.raises(InputError, match="as listed"):
        encode_split(replace(additive_corpus, shards=miscounted), "train", made)
