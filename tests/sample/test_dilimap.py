from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.written import file_checksum

TRAINING, VALIDATION, LABELS = "adata_training_counts.h5ad", "validation_data_counts.h5ad", "compound_DILI_labels.csv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "dilimap"
    write_sample(folder, datasets=["dilimap_train", "dilimap_train_val"])
    return folder


def table(file: Path) -> pd.DataFrame:
    with h5py.File(file) as opened:
        return ad.io.read_elem(opened["obs"])


def test_training_is_the_same_in_both_and_validation_in_one(folder: Path):
    assert file_checksum(folder / "dilimap_train" / TRAINING) == file_checksum(folder / "dilimap_train_val" / TRAINING)
    assert not (folder / "dilimap_train" / VALIDATION).exists()
    samples = pd.read_parquet(folder / "truth" / "samples.parquet").set_index("dataset")
    key = ["plate", "well", "compound", "dose_uM"]
    train, both = (set(samples.loc[dataset, key].itertuples(index=False, name=None)) for dataset in ("dilimap_train", "dilimap_train_val"))
    assert train < both


def test_pathologies(folder: Path):
    obs = table(folder / "dilimap_train" / TRAINING)
    assert not obs.index.is_unique
    assert set(obs["LDH_QC"].astype(str)) == {"", "high LDH"}
    assert "DMSO_replaced" in set(obs["COMPOUND"])
    assert {0.1, 0.101, 9.95, 10.0} <= set(obs["CONCENTRATION_UM"].dropna())
    assert obs.loc[obs["COMPOUND"] == "DMSO", "CONCENTRATION_UM"].isna().all()
    assert set(obs["SPLIT"]) == {"Training"}
    assert set(table(folder / "dilimap_train_val" / VALIDATION)["SPLIT"]) == {"Validation"}
    with h5py.File(folder / "dilimap_train" / TRAINING) as opened:
        values = opened["X/data"][:]
        symbols, ids = opened["var/_index"].asstr()[:], opened["var/gene_id"].asstr()[:]
    assert (values % 1 != 0).any()
    assert sum(symbol.startswith("MT-") for symbol in symbols) == 13
    assert all(name.startswith("ENSG") for name in ids)


def test_some_compounds_have_no_structure(folder: Path):
    labels = pd.read_csv(folder / "dilimap_train" / LABELS)
    compounds = set(table(folder / "dilimap_train" / TRAINING)["COMPOUND"])
    assert {"Imipramine2", "Trametinib", "DILI-949"} <= compounds - set(labels["compound_name"])
    assert labels["smiles"].notna().all()


def test_groups_of_replicates_lie_on_one_plate(folder: Path):
    obs = table(folder / "dilimap_train" / TRAINING)
    treated = obs[~obs["COMPOUND"].str.startswith("DMSO")]
    groups = treated.groupby("CMPD_DOSE", observed=True)
    assert groups["PLATE_NAME"].nunique().eq(1).all()
    # one of a group may have been replaced
    assert np.isin(groups.size(), (2, 3)).all()
