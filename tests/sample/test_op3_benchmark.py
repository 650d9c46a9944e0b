from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster import registry
from perturbridge_dagster.sample import BENCHMARKS, op3_benchmark
from perturbridge_dagster.sample.biology import simulate
from perturbridge_dagster.sample.op3 import CELLS
from perturbridge_dagster.sample.tables import compounds

SEED = 20260505


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("op3_benchmark")
    op3_benchmark.write(made, simulate(SEED), SEED)
    return made


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, ad.AnnData]:
    return {part: ad.read_h5ad(folder / f"de_{part}.h5ad") for part in ("train", "test")}


def test_the_files_are_those_of_the_registry(folder: Path, tables: dict[str, ad.AnnData]):
    [id_] = BENCHMARKS
    declared = registry.benchmarks()[id_]
    assert {path.name for path in folder.iterdir()} == {download.name for file in declared.files for download in file.downloads}
    for table in tables.values():
        assert declared.layer in table.layers
        assert list(table.obs) == ["cell_type", "sm_name", "sm_lincs_id", "SMILES", "split", "control"]
        assert table.X is None
    assert tables["train"].var_names.equals(tables["test"].var_names)


def test_every_compound_is_on_four_kinds_of_cells_but_one_that_kills_them(tables: dict[str, ad.AnnData]):
    obs = pd.concat([tables["train"].obs, tables["test"].obs]).astype(str)
    counts = obs.groupby("sm_name")["cell_type"].nunique()
    assert counts.drop("Bortezomib").eq(len(CELLS)).all()
    assert counts["Bortezomib"] == len(CELLS) - 1
    assert not obs.duplicated(["sm_name", "cell_type"]).any()
    assert obs["sm_lincs_id"].groupby(obs["sm_name"]).nunique().eq(1).all()
    assert len(counts) > 40
    assert set(obs["SMILES"]) <= set(compounds()["smiles"])


def test_as_in_the_original_compounds_of_the_test_file_are_in_the_training_file_too(tables: dict[str, ad.AnnData]):
    train, test = (set(tables[part].obs["sm_name"]) for part in ("train", "test"))
    assert test < train
    assert set(tables["train"].obs["split"]) == {"train"}
    assert set(tables["test"].obs["split"]) == {"public_test", "private_test"}
    assert set(tables["test"].obs["cell_type"]) == {"B cells", "Myeloid cells"}


def test_id_map_lists_the_test_conditions(folder: Path, tables: dict[str, ad.AnnData]):
    listed = pd.read_csv(folder / "id_map.csv")
    assert list(listed) == ["id", "sm_name", "cell_type"]
    pd.testing.assert_frame_equal(
        listed[["sm_name", "cell_type"]], tables["test"].obs[["sm_name", "cell_type"]].astype(str).reset_index(drop=True)
    )


def test_values_are_signed_p_values_within_their_bound(tables: dict[str, ad.AnnData]):
    for table in tables.values():
        values, p_values = table.layers["clipped_sign_log10_pval"], table.layers["P.Value"]
        assert np.abs(values).max() <= op3_benchmark.LARGEST_VALUE
        within = np.abs(values) < op3_benchmark.LARGEST_VALUE
        np.testing.assert_allclose(np.abs(values[within]), -np.log10(p_values[within]))
        assert (np.sign(values) == np.sign(table.layers["logFC"])).all()


def test_what_has_no_mechanism_has_uniform_p_values_and_what_has_one_does_not(tables: dict[str, ad.AnnData]):
    known = compounds().dropna(subset="smiles").drop_duplicates("smiles").set_index("smiles")["mechanism"]
    mechanism = tables["train"].obs["SMILES"].astype(str).map(known)
    p_values = tables["train"].layers["P.Value"]
    without = p_values[(mechanism == "none").to_numpy()]
    assert np.mean(without < 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(p_values[(mechanism != "none").to_numpy()] < 0.05) > 0.09


def test_the_seed_decides(folder: Path, tmp_path: Path):
    for name, seed in (("same", SEED), ("other", 3)):
        (tmp_path / name).mkdir()
        op3_benchmark.write(tmp_path / name, simulate(seed), seed)
    values = {path.parent.name: ad.read_h5ad(path).layers["logFC"] for path in tmp_path.glob("*/de_test.h5ad")}
    np.testing.assert_array_equal(values["same"], ad.read_h5ad(folder / "de_test.h5ad").layers["logFC"])
    assert not np.allclose(values["same"], values["other"])
