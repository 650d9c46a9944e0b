"""The built-in sample, end to end: from its native files to the samples that its own truth says are right."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample import DATASETS, write_sample
from perturbridge_dagster.sources import harmonize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compendium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "native"
    write_sample(folder)
    return folder


@pytest.fixture(scope="module", params=DATASETS)
def harmonized(request: pytest.FixtureRequest, compendium: Path) -> tuple[str, ad.AnnData, pd.DataFrame, pd.DataFrame]:
    """Dataset id, harmonized samples, and the true samples and reconciliation of the dataset."""
    truth = [pd.read_parquet(compendium / "truth" / f"{name}.parquet") for name in ("samples", "reconciliation")]
    samples, steps = (table[table["dataset"] == request.param] for table in truth)
    return request.param, harmonize(request.param, compendium / request.param), samples, steps


def joined(dataset: str, obs: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Harmonized and true samples side by side; every sample is in both, once."""
    plate = truth["plate"].str.replace("-", "_") if dataset.startswith("vcpi") else truth["plate"]
    key = ["plate", "well", "cell_type", "source_name"]
    name = obs["perturbagen"].astype(object)
    if dataset == "sciplex":
        truth = truth.assign(source_name=truth["source_name"].replace("Vehicle", "DMSO"))
    both = obs.reset_index().assign(source_name=name.to_numpy()).astype(dict.fromkeys(key, object))
    both = both.merge(
        truth.assign(plate=plate).astype(dict.fromkeys(key, object)),
        on=key,
        how="outer",
        suffixes=("", "_true"),
        indicator="side",
        validate="1:1",
    )
    odd = both[both["side"] != "both"]
    assert odd.empty, odd[[*key, "side"]].to_string()
    return both


def test_the_samples_are_those_of_the_truth(harmonized: tuple[str, ad.AnnData, pd.DataFrame, pd.DataFrame]) -> None:
    dataset, samples, truth, _ = harmonized
    both = joined(dataset, samples.obs, truth)
    np.testing.assert_array_equal(both["is_control"].astype(bool), both["is_control_true"].astype(bool))
    np.testing.assert_allclose(both["pert_dose_uM"], both["source_dose_uM"], rtol=1e-12)
    np.testing.assert_array_equal(both["pert_time_h"], both["time_h"])
    np.testing.assert_array_equal(both["source_cell_context"].astype(str), both["source_cell_context_true"])
    np.testing.assert_array_equal(both["psbulk_cells"].fillna(-1), both["n_cells"].fillna(-1))


def test_the_compounds_are_those_of_the_truth(harmonized: tuple[str, ad.AnnData, pd.DataFrame, pd.DataFrame]) -> None:
    dataset, samples, truth, _ = harmonized
    both = joined(dataset, samples.obs, truth)
    wrong = both[both["pubchem_cid"].fillna(-1) != both["pubchem_cid_true"].fillna(-1)]
    assert wrong.empty, wrong[["source_name", "pubchem_cid", "pubchem_cid_true"]].drop_duplicates().to_string()


def test_the_reconciliation_is_that_of_the_truth(harmonized: tuple[str, ad.AnnData, pd.DataFrame, pd.DataFrame]) -> None:
    _, samples, _, truth = harmonized
    steps = samples.uns["reconciliation"]
    for axis in ("cells", "samples", "genes"):
        # a rule that drops nothing need not be in both
        own, true = (table[(table["axis"] == axis) & (table["n_dropped"] > 0)]["n_dropped"].tolist() for table in (steps, truth))
        assert own == true
        assert axis == "cells" or truth.loc[truth["axis"] == axis, "n_out"].iloc[-1] == samples.shape[axis == "genes"]
    for _, of_axis in steps.groupby("axis"):
        assert (of_axis["n_in"] - of_axis["n_dropped"] == of_axis["n_out"]).all()
        assert (of_axis["n_in"].to_numpy()[1:] == of_axis["n_out"].to_numpy()[:-1]).all()
    left = steps.groupby("axis")["n_out"].last()
    assert (left["samples"], left["genes"]) == samples.shape


def test_conditions_are_counted_to_the_end(harmonized: tuple[str, ad.AnnData, pd.DataFrame, pd.DataFrame]) -> None:
    _, samples, truth, _ = harmonized
    steps = samples.uns["reconciliation"].query("axis == 'conditions'")
    assert len(steps) >= 2
    assert (steps["n_dropped"] >= 0).all()
    true = truth[["source_name", "cell_type", "source_dose_uM", "time_h"]].drop_duplicates()
    assert steps["n_out"].iloc[-1] == len(true)


def test_a_release_that_has_no_entry_is_read_by_its_id(compendium: Path) -> None:
    known, new = (harmonize(dataset, compendium / "vcpi_0001") for dataset in ("vcpi_0001", "vcpi_0003"))
    assert set(new.obs["dataset"]) == {"vcpi_0003"}
    assert list(new.obs_names) == list(known.obs_names)
    assert (new.X != known.X).nnz == 0
    assert set(new.obs["assay"]) == {"DRUG-seq"}


def test_phase_2_of_l1000_is_read_as_phase_1(compendium: Path, tmp_path: Path) -> None:
    for file in (compendium / "l1000_phase1").iterdir():
        # the pert_info tables of both phases are read for both
        name = file.name if "pert_info" in file.name else file.name.replace("GSE92742", "GSE70138")
        (tmp_path / name).symlink_to(file)
    known, new = harmonize("l1000_phase1", compendium / "l1000_phase1"), harmonize("l1000_phase2", tmp_path)
    assert list(new.obs_names) == list(known.obs_names)
    np.testing.assert_array_equal(new.X, known.X)
