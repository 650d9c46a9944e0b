"""Hold-outs of whole groups, the promises of all splits, and what train has seen of what is held out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.structures import scaffold_of
from perturbridge_dagster.representation.splits import (
    PROMISES,
    SPLIT_RULES,
    overlaps,
    split_assays,
    split_conditions,
    split_contexts,
    split_scaffolds,
    violations,
)


def compendium(seed: int = 0, n: int = 600) -> pd.DataFrame:
    """Conditions with everything that any split asks for; a tenth of the compounds have no structure, some no rings."""
    generator = np.random.default_rng(seed)
    cid = generator.integers(1, 80, n)
    context = generator.integers(0, 12, n)
    dataset = generator.integers(0, 6, n)
    return pd.DataFrame(
        {
            "dataset": [f"dataset {number}" for number in dataset],
            "context": [f"CVCL_{number:04d}" for number in context],
            "model_system": [("cell line", "primary cell", "iPSC", "organoid")[number % 4] for number in context],
            "assay": [("L1000", "DRUG-seq", "RNA-seq", "targeted")[number % 4] for number in dataset],
            "perturbation": cid.astype(str),
            "parent_key": [None if number % 10 == 0 else f"PARENT{number // 2}" for number in cid],
            "scaffold": [None if number % 10 == 0 or number // 2 % 7 == 0 else f"scaffold {number // 2 % 13}" for number in cid],
            "log_dose": np.float32(0),
            "time": np.float32(24),
        }
    ).drop_duplicates()


@pytest.mark.parametrize("rule", SPLIT_RULES)
@pytest.mark.parametrize("seed", range(3))
def test_every_split_keeps_its_promises(rule: str, seed: int) -> None:
    split = split_conditions(compendium(seed), rule, seed=seed)
    assert violations(split, SPLIT_RULES[rule].promises).empty
    assert set(split["split"]) == {"train", "val", "test"}
    table = overlaps(split, SPLIT_RULES[rule].promises)
    assert (table.loc[table["is_promised"], "n_seen"] == 0).all()
    # and it is no stricter than it says: some other key is shared
    assert table.loc[~table["is_promised"], "n_seen"].max() > 0


@pytest.mark.parametrize("rule", SPLIT_RULES)
def test_every_promise_is_noticed_when_it_is_broken(rule: str) -> None:
    split = split_conditions(compendium(), rule)
    row = split.index[split["split"] == "test"][0]
    leaked = pd.concat([split, split.loc[[row]].assign(split="train", log_dose=np.float32(1))], ignore_index=True)
    apart = [name for name in SPLIT_RULES[rule].promises if ("train", "test") in PROMISES[name].apart]
    assert set(violations(leaked, apart)["promise"]) == set(apart)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=200), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_groups_are_whole_and_each_split_gets_its_share(groups: list[str], seed: int) -> None:
    conditions = pd.DataFrame({"context": groups})
    sizes = conditions["context"].value_counts()
    try:
        split = split_contexts(conditions, seed=seed)
    except InputError:
        assert len(sizes) < 3 or (sizes <= sizes.sum() / 3).sum() < 2
        return
    assert split.groupby("context")["split"].nunique().max() == 1
    counts = split["split"].value_counts()
    assert (counts[["train", "val", "test"]] > 0).all()
    largest = sizes[sizes <= sizes.sum() / 3].max()
    assert max(counts["val"], counts["test"]) < 0.1 * len(split) + largest


def test_groups_do_not_depend_on_the_order_of_rows() -> None:
    conditions = compendium()
    shuffled = conditions.sample(frac=1, random_state=1)
    for rule in SPLIT_RULES:
        expected = split_conditions(conditions, rule)["split"]
        pd.testing.assert_series_equal(split_conditions(shuffled, rule)["split"].sort_index(), expected)


def test_named_assays_are_held_out_and_no_other() -> None:
    split = split_assays(compendium(), val=["RNA-seq"], test=["L1000"])
    assert {assay: set(rows) for assay, rows in split.groupby("assay")["split"]} == {
        "L1000": {"test"},
        "RNA-seq": {"val"},
        "DRUG-seq": {"train"},
        "targeted": {"train"},
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"test": ["microarray"]}, "no conditions of microarray"),
        ({"val": ["L1000"], "test": ["L1000"]}, "held out twice"),
        ({"val": ["L1000", "DRUG-seq"], "test": ["RNA-seq", "targeted"]}, "every group"),
    ],
)
def test_wrong_names_are_refused(names: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_assays(compendium(), **names)


@pytest.mark.parametrize(
    ("groups", "message"),
    [(["a", "b"], "only 2 groups"), (["a"] * 98 + ["b", "c"], None), (["a"] * 40 + ["b"] * 40 + ["c"], "small enough")],
)
def test_too_few_groups_are_refused(groups: list[str], message: str | None) -> None:
    conditions = pd.DataFrame({"context": groups})
    if message is None:
        assert split_contexts(conditions)["split"].value_counts().to_dict() == {"train": 98, "val": 1, "test": 1}
    else:
        with pytest.raises(InputError, match=message):
            split_contexts(conditions)


def test_what_has_no_scaffold_stays_with_its_salts() -> None:
    rows = [(f"{number}", None if number < 20 else "P", None) for number in range(40)]
    conditions = pd.DataFrame(rows, columns=["perturbation", "parent_key", "scaffold"]).assign(dataset="a", context="x")
    conditions.loc[len(conditions)] = ["Control", None, None, "a", "x"]
    split = split_scaffolds(pd.concat([conditions, conditions], ignore_index=True))
    assert len(set(split.loc[split["parent_key"] == "P", "split"])) == 1
    assert split.groupby("perturbation")["split"].nunique().max() == 1
    assert set(split.loc[split["perturbation"] == "Control", "split"]) == {"train"}
    with pytest.raises(InputError, match="combine compounds"):
        split_scaffolds(conditions.replace("3", "3+4"))


def test_overlaps_count_what_train_has_seen() -> None:
    rows = [("a", "x", "1", "train"), ("b", "x", "1", "test"), ("b", "y", "2", "test"), ("a", "z", "2", "val"), ("b", "z", "3", "train")]
    conditions = pd.DataFrame(rows, columns=["dataset", "context", "perturbation", "split"]).assign(parent_key=["P", None, "P", "P", None])
    table = overlaps(conditions, ["unit"]).set_index(["promise", "split"])
    assert table["n_seen"].to_dict() == {
        ("unit", "val"): 0,
        ("unit", "test"): 0,
        ("cid_in_target_dataset", "val"): 0,
        ("cid_in_target_dataset", "test"): 0,
        ("parent_in_target_dataset", "val"): 1,  # P is trained in a
        ("parent_in_target_dataset", "test"): 0,
        ("cid_anywhere", "val"): 0,
        ("cid_anywhere", "test"): 1,
        ("parent_anywhere", "val"): 1,
        ("parent_anywhere", "test"): 1,
        ("context", "val"): 1,
        ("context", "test"): 1,
    }
    assert table.loc[("context", "test"), "share"] == 0.5
    assert table["is_promised"].sum() == 2


def test_a_split_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no split is called 'random'"):
        split_conditions(compendium(), "random")


@pytest.mark.parametrize(
    ("smiles", "scaffold"),
    [
        ("Cc1ccccc1", "c1ccccc1"),
        ("CN1CCN(Cc2ccccc2)CC1.Cl", "c1ccc(CN2CCNCC2)cc1"),  # its salt is stripped
        ("C[C@H](O)c1ccncc1", "c1ccncc1"),
        ("CCO", None),
        ("no structure", None),
        ("", None),
    ],
)
def test_scaffolds_of_structures(smiles: str, scaffold: str | None) -> None:
    assert scaffold_of(smiles) == scaffold
