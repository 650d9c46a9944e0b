"""Reading the benchmark, and its split by compound."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.op3.data import held_out_compounds, read_table, resplit
from perturbridge_dagster.sources import locate_files

SEED = 20260505


@pytest.fixture
def files(sampled: Callable[[int], Any], tmp_path: Path) -> Path:
    """A copy of the native files, to be spoilt."""
    return Path(shutil.copytree(sampled(SEED).folder, tmp_path / "op3"))


def read(folder: Path) -> Any:
    return read_table(locate_files("op3_benchmark", folder))


def rewritten(folder: Path, change: Callable[[ad.AnnData], ad.AnnData], name: str = "de_test.h5ad") -> None:
    """Put a changed table in the place of one."""
    change(ad.read_h5ad(folder / name)).write_h5ad(folder / name)


def test_35_of_140_compounds_are_held_out_as_numpys_global_generator_draws_them():
    names = pd.Series([f"compound {number}" for number in np.random.default_rng(0).permutation(140)])
    conditions = names.repeat(4).reset_index(drop=True)
    held_out = held_out_compounds(conditions)
    state = np.random.get_state()  # noqa: NPY002 - the published draw, as it was made
    try:
        np.random.seed(42)  # noqa: NPY002
        published = np.random.choice(conditions.unique(), int(0.25 * 140), replace=False)  # noqa: NPY002
    finally:
        np.random.set_state(state)  # noqa: NPY002
    assert held_out == list(published)
    assert len(set(held_out)) == 35
    # positions among 140 compounds in order of appearance: pinned, so that another NumPy cannot change them unseen
    positions = [list(names).index(name) for name in held_out]
    assert positions[:5] == [108, 67, 31, 119, 42]


@given(st.integers(4, 200), st.integers(0, 5))
def test_as_great_a_share_is_held_out_of_any_number(n_compounds: int, seed: int):
    names = pd.Series([f"c{number}" for number in range(n_compounds)])
    held_out = held_out_compounds(pd.concat([names, names]), seed=seed)
    assert len(held_out) == len(set(held_out)) == n_compounds // 4
    assert set(held_out) < set(names)


def test_the_split_does_not_touch_the_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    held_out_compounds(pd.Series(list("abcdefgh")))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_too_few_compounds_cannot_be_split():
    with pytest.raises(InputError, match="3 compounds cannot be split"):
        held_out_compounds(pd.Series(["a", "b", "c"]))


def test_the_tables_are_read_in_order_and_split_by_compound(sampled: Callable[[int], Any], files: Path):
    table = read(files)
    train, test = (ad.read_h5ad(files / f"de_{part}.h5ad") for part in ("train", "test"))
    assert list(table.conditions["sm_name"]) == [*train.obs["sm_name"], *test.obs["sm_name"]]
    expected = np.concatenate([part.layers["clipped_sign_log10_pval"] for part in (train, test)])
    np.testing.assert_allclose(table.values, expected, rtol=1e-6)
    assert not np.allclose(table.values, np.concatenate([part.layers["logFC"] for part in (train, test)]))
    problem = resplit(table)
    assert set(problem.train["sm_name"]).isdisjoint(problem.test["sm_name"])
    assert problem.test["sm_name"].nunique() == len(table.compounds) // 4
    assert len(problem.train) + len(problem.test) == len(table.conditions)
    row = problem.test.iloc[3]
    at = (table.conditions["sm_name"] == row["sm_name"]) & (table.conditions["cell_type"] == row["cell_type"])
    np.testing.assert_array_equal(problem.test_values[3], np.take(table.values, np.flatnonzero(at)[0], axis=0))
    assert list(problem.id_map) == ["id", "sm_name", "cell_type"]
    assert list(problem.id_map["id"]) == list(range(len(problem.test)))


def test_validation_compounds_come_from_train_alone(sampled: Callable[[int], Any]):
    problem = sampled(SEED).problem
    inner = problem.validation(0)
    assert set(inner.train["sm_name"]) | set(inner.test["sm_name"]) == set(problem.train["sm_name"])
    assert set(inner.test["sm_name"]).isdisjoint(problem.test["sm_name"])
    assert set(inner.test["sm_name"]).isdisjoint(inner.train["sm_name"])
    assert set(problem.validation(1).test["sm_name"]) != set(inner.test["sm_name"])


def without_a_value(table: ad.AnnData) -> ad.AnnData:
    table.layers["clipped_sign_log10_pval"][2, 5] = np.nan
    return table


def without_the_layer(table: ad.AnnData) -> ad.AnnData:
    del table.layers["clipped_sign_log10_pval"]
    return table


def without_a_column(table: ad.AnnData) -> ad.AnnData:
    del table.obs["SMILES"]
    return table


def with_a_condition_twice(table: ad.AnnData) -> ad.AnnData:
    return ad.concat([table, table[:1]], index_unique="-")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_value, "rows 2.*missing or infinite"),
        (without_the_layer, "clipped_sign_log10_pval"),
        (without_a_column, "SMILES"),
        (with_a_condition_twice, "id_map.csv.*does not list the conditions"),
        (lambda table: table[:, :-1].copy(), "the genes are not those of the training table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(files: Path, change: Callable[[ad.AnnData], ad.AnnData], message: str):
    rewritten(files, change)
    with pytest.raises(InputError, match=message):
        read(files)


def test_a_condition_of_both_tables_is_refused(files: Path):
    test = ad.read_h5ad(files / "de_test.h5ad")
    rewritten(files, lambda table: ad.concat([table, test[:1]], index_unique="-"), "de_train.h5ad")
    with pytest.raises(InputError, match="conditions occur more than once"):
        read(files)


def test_an_id_map_of_other_conditions_is_refused(files: Path):
    listed = pd.read_csv(files / "id_map.csv")
    listed.iloc[1:].to_csv(files / "id_map.csv", index=False)
    with pytest.raises(InputError, match=r"does not list the conditions.*each of its"):
        read(files)


def test_a_truncated_file_is_refused(files: Path):
    content = (files / "de_train.h5ad").read_bytes()
    (files / "de_train.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read(files)
