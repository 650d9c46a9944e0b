from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

from perturbridge_dagster.contract import HARMONIZED_OBS, HARMONIZED_VAR
from perturbridge_dagster.effects import estimate_effects
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published import open_published_samples
from tests.published import release

pytestmark = pytest.mark.slow


def test_samples_come_back_in_our_contract(samples: ad.AnnData, tmp_path: Path) -> None:
    file = tmp_path / "a_processed.h5ad"
    release.write_samples(file, samples)
    with open_published_samples(file, "sciplex") as published:
        obs, var, read = published.obs, published.var, published.to_anndata()
    assert [name for name in obs if name != "perturbation_label"] == [name for name in HARMONIZED_OBS.names if name != "sample_id"]
    assert var.reset_index().columns.tolist() == HARMONIZED_VAR.names
    np.testing.assert_array_equal(read.X.toarray(), samples.X)
    assert obs.index.tolist() == samples.obs_names.tolist()
    assert obs["is_control"].dtype == bool
    assert obs["pubchem_cid"].dtype == "Int64"
    assert obs["psbulk_cells"].isna().all(), "the sentinel is null"
    assert obs["psbulk_counts"].isna().all()
    assert obs["library"].isna().all()
    assert (obs["dataset"] == "sciplex").all(), "the id, not the title"
    for name in ("perturbagen", "plate", "pert_dose_uM", "pert_time_h"):
        assert obs[name].tolist() == samples.obs[name].tolist()


def test_effects_of_published_samples_are_those_of_ours(samples: ad.AnnData, tmp_path: Path) -> None:
    release.write_samples(tmp_path / "a.h5ad", samples, cells=True)
    with open_published_samples(tmp_path / "a.h5ad", "sciplex") as published:
        assert published.obs["psbulk_cells"].min() == 20
        theirs = estimate_effects(published.to_anndata("CVCL_0023"))
        assert published.to_anndata("CVCL_0004").n_obs == 0
    np.testing.assert_array_equal(theirs.layers["logFC"], estimate_effects(samples).layers["logFC"])


def test_batches_read_together_have_each_sample_once(samples: ad.AnnData, tmp_path: Path) -> None:
    control = samples.obs["is_control"].to_numpy()
    first = np.isin(samples.obs["perturbagen"], ["alpha", "beta-1"])
    second = np.isin(samples.obs["perturbagen"], ["alpha", "gamma"])
    files = [tmp_path / f"CVCL_0023_processed_batch_{n}.h5ad" for n in (1, 2)]
    for file, chosen in zip(files, (first, second), strict=True):
        release.write_samples(file, samples[chosen | control].copy())
    with open_published_samples(files, "sciplex") as published:
        assert published.n_repeated_controls == control.sum() == 12
        assert published.n_repeated_treated == 8
        blocks = list(published.blocks(step=7))
        read = published.to_anndata()
    assert sum(len(obs) for obs, _ in blocks) == len(read) == (first | second | control).sum()
    assert read.obs_names.is_unique
    np.testing.assert_array_equal(read.X.toarray(), samples[read.obs_names].X)


def test_two_samples_of_one_id_are_refused(samples: ad.AnnData, tmp_path: Path) -> None:
    release.write_samples(tmp_path / "a.h5ad", samples)
    other = samples.copy()
    other.obs.loc["s020", "plate"] = "Z"
    release.write_samples(tmp_path / "b.h5ad", other)
    with pytest.raises(InputError, match=r"rows s020: sample ids are not unique: samples of one id differ in plate"):
        open_published_samples([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], "sciplex")


def test_files_of_other_genes_are_not_read_together(samples: ad.AnnData, tmp_path: Path) -> None:
    release.write_samples(tmp_path / "a.h5ad", samples)
    release.write_samples(tmp_path / "b.h5ad", samples[:, :50].copy())
    with pytest.raises(InputError, match=r"b.h5ad: has other genes than a.h5ad"):
        open_published_samples([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], "sciplex")


def test_a_file_of_effects_or_another_shape_is_refused(samples: ad.AnnData, whole: ad.AnnData, tmp_path: Path) -> None:
    effects = release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", whole)
    with pytest.raises(InputError, match=r"obs lacks|has no X, so it holds effects"):
        open_published_samples(effects, "sciplex")
    file = tmp_path / "a.h5ad"
    release.write_samples(file, samples)
    with h5py.File(file, "r+") as stored:
        stored["X"].attrs["shape"] = (3, 4)
    with pytest.raises(InputError, match=r"X has shape \(3, 4\)"):
        open_published_samples(file, "sciplex")
    with h5py.File(file, "r+") as stored:
        stored["X"].attrs["shape"] = samples.shape
        stored["obs"]["is_control"]["categories"][...] = [False, False]
    release.write_samples(file, samples)
    with h5py.File(file, "r+") as stored:
        del stored["obs"]["is_control"]
        stored["obs"].create_dataset("is_control", data=np.arange(samples.n_obs)).attrs.update(
            {"encoding-type": "array", "encoding-version": "0.2.0"}
        )
    with pytest.raises(InputError, match=r"column is_control.*holds other values than true and false"):
        open_published_samples(file, "sciplex")
