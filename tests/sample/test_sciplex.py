from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster.sample.tables import genes

pytestmark = pytest.mark.slow

NAME = "srivatsan20_sciplex3"


@pytest.fixture(scope="module")
def counts(whole_sample: Path) -> ad.AnnData:
    return ad.read_h5ad(whole_sample / "sciplex" / f"{NAME}.h5ad")


@pytest.fixture(scope="module")
def curated(whole_sample: Path) -> pd.DataFrame:
    return pd.read_parquet(whole_sample / "sciplex" / "obs" / f"{NAME}.parquet")


@pytest.fixture(scope="module")
def samples(whole_sample: Path) -> pd.DataFrame:
    table = pd.read_parquet(whole_sample / "truth" / "samples.parquet")
    return table[table["dataset"] == "sciplex"]


def test_counts_are_whole_numbers_stored_as_float32(counts: ad.AnnData):
    assert isinstance(counts.X, sparse.csr_matrix)
    assert counts.X.dtype == np.float32
    assert (counts.X.data == np.round(counts.X.data)).all()
    assert counts.X.data.min() > 0
    assert counts.obs_names.is_unique
    assert counts.var_names.is_unique


def test_columns_are_the_published_ones(counts: ad.AnnData, curated: pd.DataFrame):
    assert list(counts.obs) == ["cell_line", "product_name", "catalog_number", "replicate", "ncounts", "ngenes", "percent_mito"]
    assert list(counts.var) == ["symbol"]
    assert set(curated) == {
        *("cell_line", "pert_compound", "pert_type", "pert_dose", "pert_time", "time", "plate", "well", "ncounts", "suspension_type"),
        *("tissue", "tissue_type", "disease", "assay", "development_stage", "organism", "sex", "self_reported_ethnicity"),
    }
    assert set(curated.index) == set(counts.obs_names)
    assert list(curated.index) != list(counts.obs_names)


def test_source_statistics_are_those_of_the_matrix(counts: ad.AnnData, curated: pd.DataFrame):
    total = np.asarray(counts.X.sum(axis=1)).ravel()
    np.testing.assert_array_equal(counts.obs["ncounts"], total)
    np.testing.assert_array_equal(curated.loc[counts.obs_names, "ncounts"], total)
    np.testing.assert_array_equal(counts.obs["ngenes"], np.diff(counts.X.indptr))
    mitochondrial = counts.var["symbol"].str.startswith("MT-").to_numpy()
    assert mitochondrial.sum() == 13
    np.testing.assert_allclose(counts.obs["percent_mito"], 100 * np.asarray(counts.X[:, mitochondrial].sum(axis=1)).ravel() / total)


def test_the_header_is_the_first_gene(counts: ad.AnnData, whole_sample: Path):
    assert counts.var_names[0] == "id"
    assert counts.var["symbol"].iloc[0] == "gene_short_name"
    assert counts.X[:, 0].sum() == 0
    assert counts.var_names[1:].str.fullmatch(r"ENSG\d{11}").all()
    curated_genes = pd.read_parquet(whole_sample / "sciplex" / "var" / f"{NAME}.parquet")
    assert list(curated_genes.index) == list(counts.var_names[1:])


def test_genes_have_the_ids_of_an_old_release(counts: ad.AnnData):
    table = genes()
    measured = set(counts.var_names)
    renumbered = table[table["kind"] == "renumbered"]
    assert set(renumbered["retired_ensembl_id"]) <= measured
    assert not set(renumbered["ensembl_id"]) & measured
    merged = table[table["kind"] == "merged"]
    assert {*merged["retired_ensembl_id"], *merged["ensembl_id"]} <= measured
    assert counts[:, [*merged["retired_ensembl_id"], *merged["ensembl_id"]]].X.sum(axis=0).min() > 0
    assert set(table.loc[table["kind"] == "deprecated", "retired_ensembl_id"]) <= measured


def test_every_filter_has_cells_that_fail_it_alone(counts: ad.AnnData, curated: pd.DataFrame):
    curated = curated.loc[counts.obs_names]
    malat1 = np.asarray(counts[:, "ENSG00000251562"].X.todense()).ravel()
    failing = pd.DataFrame(
        {
            "genes": counts.obs["ngenes"] < 250,
            "counts": counts.obs["ncounts"] < 700,
            "mitochondrial": counts.obs["percent_mito"] > 20,
            "plate": curated["plate"].isna(),
            "compound": curated["pert_compound"].isna(),
            "malat1": np.log1p(10_000 * malat1 / counts.obs["ncounts"]) < 3.5,
        }
    )
    alone = failing[failing.sum(axis=1) == 1]
    assert (alone.sum() >= 50).all()
    assert 0.6 < (failing.sum(axis=1) == 0).mean() < 0.95


def test_reconciliation_is_that_of_the_files(counts: ad.AnnData, curated: pd.DataFrame, samples: pd.DataFrame, whole_sample: Path):
    steps = pd.read_parquet(whole_sample / "truth" / "reconciliation.parquet").query("dataset == 'sciplex'").set_index("rule")
    obs = counts.obs.join(curated, rsuffix="_curated")
    obs["malat1"] = np.asarray(counts[:, "ENSG00000251562"].X.todense()).ravel()
    counted = obs[(obs["ngenes"] >= 250) & (obs["ncounts"] >= 700) & (obs["percent_mito"] <= 20)]
    known = counted.dropna(subset=["plate", "well", "pert_compound", "cell_line"])
    kept = known[np.log1p(10_000 * known["malat1"] / known["ncounts"]) >= 3.5]
    assert steps.loc["counts, genes or mitochondrial fraction", ["n_in", "n_out"]].tolist() == [len(obs), len(counted)]
    assert steps.loc["missing plate, well or perturbagen", "n_out"] == len(known)
    assert steps.loc["MALAT1", "n_out"] == len(kept)
    sizes = kept.groupby(["plate", "well", "product_name", "cell_line"], observed=True).size()
    expected = samples.set_index(["plate", "well", "source_name", "source_cell_context"])["n_cells"]
    pd.testing.assert_series_equal(
        sizes.sort_index(), expected.sort_index().astype("int64"), check_names=False, check_index_type=False, check_categorical=False
    )


def test_screens_have_the_size_that_keeps_limma_quick(samples: pd.DataFrame):
    screens = samples.groupby("cell_type").agg(n=("plate", "size"), controls=("is_control", "sum"), plates=("plate", "nunique"))
    assert set(screens.index) == {"CVCL_0023", "CVCL_0004", "CVCL_0031"}
    assert screens["n"].between(180, 225).all()
    assert (screens["controls"] >= 8).all()
    assert (screens["plates"] == 4).all()
    treated = samples[~samples["is_control"]]
    assert set(treated["dose_uM"]) == {0.01, 0.1, 1.0, 10.0}
    assert set(samples.loc[samples["cell_type"] == "CVCL_0023", "time_h"]) == {24.0, 72.0}
    assert treated.groupby(["cell_type", "compound", "dose_uM", "time_h"])["plate"].nunique().eq(2).all()
    assert samples[samples["is_control"]].groupby("plate").size().reindex(samples["plate"].unique()).ge(2).all()
    # each plate holds one time only
    assert samples.groupby("plate")["time_h"].nunique().eq(1).all()


def test_some_wells_have_few_cells(samples: pd.DataFrame):
    assert (samples["n_cells"] == 1).sum() == 4
    assert samples["n_cells"].between(2, 9).sum() >= 15
    assert samples["n_cells"].median() > 12


def test_names_doses_and_times_are_as_badly_kept_as_in_the_original(counts: ad.AnnData, curated: pd.DataFrame):
    obs = counts.obs.astype({"product_name": object, "catalog_number": object}).join(curated, rsuffix="_curated")
    control = obs["product_name"] == "Vehicle"
    assert obs.loc[control, "catalog_number"].isna().all()
    assert set(obs.loc[control, "pert_compound"].dropna()) == {"control"}
    assert obs.loc[control, "pert_dose"].isna().any()
    assert (obs.loc[control, "pert_dose"] == "0.0nM").any()
    assert {"ZM", "GSK", "Tubastatin", "949"} <= set(obs["pert_compound"])
    assert set(obs.loc[~control & obs["pert_compound"].notna(), "pert_dose"]) == {"10.0nM", "100.0nM", "1000.0nM", "10000.0nM"}
    assert set(obs["pert_time"]) == {"24.0h"}
    assert set(obs["time"]) == {24.0, 72.0}
    assert obs["well"].dropna().str.fullmatch(r"plate\d+_[A-H]\d{1,2}").all()
    both = obs.dropna(subset=["plate", "well"])
    assert (both["plate"] != both["well"].str.split("_").str[0]).mean() > 0.9
    assert obs.loc[obs["pert_compound"].isna(), "product_name"].isna().all()
