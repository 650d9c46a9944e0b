from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample.tables import genes
from perturbridge_dagster.sample.vcpi import METADATA_COLUMNS, SPIKE_INS


@pytest.fixture(scope="module")
def counts(vcpi_sample: Path) -> pd.DataFrame:
    return pd.read_parquet(vcpi_sample / "vcpi_0001" / "data.parquet")


@pytest.fixture(scope="module")
def metadata(vcpi_sample: Path) -> pd.DataFrame:
    return pd.read_csv(vcpi_sample / "vcpi_0001" / "metadata.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def chemistry(vcpi_sample: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads((vcpi_sample / "vcpi_0001" / "chemistry.json").read_text()))


def test_counts_are_wide(counts: pd.DataFrame, metadata: pd.DataFrame):
    assert counts.columns[0] == "gene_id"
    assert counts["gene_id"].is_unique
    assert set(counts.columns[1:]) == set(metadata["sequenced_id"])
    assert (counts.dtypes.iloc[1:] == np.int32).all()
    spike_ins = counts["gene_id"].str.startswith("ERCC-")
    assert list(counts.loc[spike_ins, "gene_id"]) == list(SPIKE_INS)
    assert set(counts.loc[~spike_ins, "gene_id"]) == set(genes()["ensembl_id"].dropna())


def test_metadata_has_26_columns_of_text_and_repeated_rows(metadata: pd.DataFrame):
    assert list(metadata) == list(METADATA_COLUMNS)
    assert len(METADATA_COLUMNS) == 26
    assert metadata.duplicated().sum() == 5
    assert metadata.drop_duplicates()["sequenced_id"].is_unique
    assert set(metadata["is_control"]) == {"true", "false"}
    assert set(metadata["timepoint"]) == {"24h"}
    assert set(metadata["cell_line"]) == {"THP-1"}
    assert metadata["container_id"].str.contains("-").all()
    treated = metadata[metadata["user_compound_id"] != "DMSO"]
    assert set(treated["compound_concentration_unit"]) == {"nM"}
    assert treated["row_id"].astype(int).between(1, 16).all()
    assert treated["column_id"].astype(int).between(1, 24).all()


def test_plates_and_controls(metadata: pd.DataFrame):
    wells = metadata.drop_duplicates()
    assert not wells.duplicated(["container_id", "row_id", "column_id"]).any()
    assert wells["container_id"].nunique() == 4
    control = wells[wells["is_control"] == "true"]
    assert (control["user_compound_id"] == "DMSO").sum() == 24
    assert set(control["user_compound_id"]) == {"DMSO", "Staurosporin", "Brefeldin-A", "Rigosertib", "Trichostatin-A"}
    assert 270 <= len(wells) <= 310
    doses = wells[wells["is_control"] == "false"].groupby("compound")["compound_concentration"].nunique()
    assert (doses == 6).sum() == 20
    assert (doses == 1).sum() == 4


def test_one_library_is_empty(counts: pd.DataFrame, metadata: pd.DataFrame):
    total = counts.drop(columns="gene_id").sum()
    empty = list(total.index[total == 0])
    assert len(empty) == 1
    assert metadata.set_index("sequenced_id").loc[empty, "is_control"].eq("false").all()
    assert total.drop(empty).min() > 10_000
    measured = metadata.drop_duplicates().set_index("sequenced_id")["total_umi_count"].astype(int)
    pd.testing.assert_series_equal(measured.sort_index(), total.sort_index().astype("int64"), check_names=False)


def test_chemistry_describes_every_compound_and_repeats_some(chemistry: pd.DataFrame, metadata: pd.DataFrame):
    assert list(chemistry) == ["compound", "user_compound_id", "smiles", "inchi_key", "purity_pct", "molecular_weight", "log_p", "tpsa"]
    assert chemistry.duplicated().sum() == 2
    assert set(chemistry["compound"]) == set(metadata["compound"])
    assert "DMSO" in set(chemistry["user_compound_id"])
    numeric = chemistry["user_compound_id"].str.isdigit()
    assert numeric.sum() > 10
    without = chemistry[chemistry["inchi_key"].isna()]
    assert list(without["user_compound_id"]) == ["9251377"]
    assert chemistry["compound"].str.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").all()


def test_reconciliation_is_that_of_the_files(counts: pd.DataFrame, metadata: pd.DataFrame, vcpi_sample: Path):
    steps = pd.read_parquet(vcpi_sample / "truth" / "reconciliation.parquet").set_index("rule")
    wells = metadata.drop_duplicates()
    total = counts.drop(columns="gene_id").sum()
    counted = wells[total[wells["sequenced_id"]].to_numpy() > 0]
    kept = counted[(counted["is_control"] == "false") | (counted["user_compound_id"] == "DMSO")]
    assert steps.loc["repeated rows of the metadata", ["n_in", "n_out"]].tolist() == [len(metadata), len(wells)]
    assert steps.loc["no counts", "n_out"] == len(counted)
    assert steps.loc["positive controls", "n_out"] == len(kept)
    samples = pd.read_parquet(vcpi_sample / "truth" / "samples.parquet")
    assert set(zip(samples["plate"], samples["well"], strict=True)) == set(
        zip(kept["container_id"], "row" + kept["row_id"] + "_col" + kept["column_id"], strict=True)
    )
