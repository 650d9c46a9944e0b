from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.sample.gdpx2 import LEVELS, NAMELESS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "gdpx2"
    write_sample(folder, datasets=["gdpx2"])
    return folder / "gdpx2"


@pytest.fixture(scope="module")
def counts(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "X.h5ad")


@pytest.fixture(scope="module")
def metadata(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "obs.parquet")


def test_one_sample_has_no_counts_and_one_has_spike_ins_alone(counts: ad.AnnData, metadata: pd.DataFrame):
    assert len(metadata.index.difference(counts.obs_names)) == 1
    assert not len(counts.obs_names.difference(metadata.index))
    spike_in = counts.var_names.str.startswith("ERCC-")
    total = np.asarray(counts.X[:, ~spike_in].sum(axis=1)).ravel()
    empty = counts.obs_names[total == 0]
    assert len(empty) == 1
    assert counts[empty].X.sum() > 0
    assert metadata.loc[empty, "sample_type"].tolist() == ["library"]


def test_dose_and_vehicle_level_go_together(metadata: pd.DataFrame):
    library = metadata[metadata["sample_type"] == "library"]
    assert library["pert_dose"].str.contains("nM").any()
    assert library["pert_dose"].str.contains("uM").any()
    number = library["pert_dose"].str.extract(r"^([\d.]+)")[0].astype(float)
    dose = number.where(library["pert_dose"].str.endswith("uM"), number / 1000).round(6)
    assert {level: tuple(sorted(doses.unique())) for level, doses in dose.groupby(library["percent_volume_dmso"])} == LEVELS
    vehicle = metadata[metadata["sample_type"] == "Ginkgo Neg Control - DMSO"]
    assert (vehicle["pert_dose"] == vehicle["percent_volume_dmso"].astype(str) + "%").all()
    assert metadata["sample_type"].str.startswith("Ginkgo Pos Control").sum() == 12


def test_a_third_of_the_genes_has_a_symbol_alone(folder: Path, counts: ad.AnnData):
    genes = pd.read_parquet(folder / "var.parquet")
    assert set(genes.index) == set(counts.var_names)
    assert list(genes.index) != list(counts.var_names)
    ids = genes["ensembl_gene_id"]
    assert 0.25 < ids.isna().mean() < 0.4
    assert ids.str.fullmatch(r"ENSG\d{11}\.\d+").sum() > 100
    assert ids.dropna().str.replace(r"\.\d+$", "", regex=True).duplicated().sum() == 2
    assert genes.loc[NAMELESS, ["ensembl_gene_id", "symbol"]].isna().all()


def test_the_compound_without_structure_is_listed_without(folder: Path):
    compounds = pd.read_csv(folder / "compounds-GDPx2-2026-02-09.csv")
    assert compounds.loc[compounds["inchi_key"].isna(), "pert_name"].tolist() == ["GDP-949"]
    assert compounds["compound"].is_unique
