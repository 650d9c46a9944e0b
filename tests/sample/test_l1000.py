from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample.tables import genes

pytestmark = pytest.mark.slow

SERIES = "GSE92742_Broad_LINCS"


@pytest.fixture(scope="module")
def folder(whole_sample: Path) -> Path:
    return whole_sample / "l1000_phase1"


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.txt.gz", sep="\t", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def instances(folder: Path) -> pd.DataFrame:
    return table(folder, f"{SERIES}_inst_info")


def matrix(folder: Path) -> tuple[np.ndarray, list[str], list[str], str]:
    (file,) = folder.glob("*.gctx")
    with h5py.File(file) as opened:
        assert opened.attrs["version"] == b"GCTX1.0"
        columns = [name.decode() for name in opened["0/META/COL/id"][:]]
        rows = [name.decode() for name in opened["0/META/ROW/id"][:]]
        return opened["0/DATA/0/matrix"][:], columns, rows, file.name


def test_matrix_is_samples_by_genes(folder: Path):
    values, columns, rows, name = matrix(folder)
    assert values.dtype == np.float32
    assert values.shape == (len(columns), len(rows))
    assert name == f"{SERIES}_Level3_INF_mlr12k_n{len(columns)}x{len(rows)}.gctx"
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 15
    assert set(map(int, rows)) == set(genes().loc[genes()["l1000_symbol"].notna(), "entrez_id"])


def test_tables_have_the_published_columns(folder: Path, instances: pd.DataFrame):
    assert list(instances) == [
        *("inst_id", "rna_plate", "rna_well", "pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit"),
        *("pert_time", "pert_time_unit", "cell_id"),
    ]
    phase1 = ["pert_id", "pert_iname", "pert_type", "is_touchstone", "inchi_key_prefix", "inchi_key", "canonical_smiles", "pubchem_cid"]
    assert list(table(folder, f"{SERIES}_pert_info")) == phase1
    assert list(table(folder, "GSE70138_Broad_LINCS_pert_info")) == ["pert_id", "canonical_smiles", "inchi_key", "pert_iname", "pert_type"]
    info = table(folder, f"{SERIES}_gene_info")
    assert list(info) == ["pr_gene_id", "pr_gene_symbol", "pr_gene_title", "pr_is_lm", "pr_is_bing"]
    assert (info["pr_is_lm"] == "1").sum() == 978
    cells = table(folder, f"{SERIES}_cell_info")
    assert {"cell_id", "base_cell_id", "sample_type", "primary_site", "subtype", "donor_age", "donor_sex", "donor_ethnicity"} <= set(cells)
    assert set(cells["cell_id"]) == set(instances["cell_id"])
    assert (cells == "-666").any(axis=None)


@pytest.mark.real_data
def test_gene_info_is_laid_out_like_the_real_one(folder: Path, real_data: Path):
    real = pd.read_csv(real_data / "lincs_metadata" / f"{SERIES}_gene_info.txt", sep="\t", dtype=str)
    ours = table(folder, f"{SERIES}_gene_info")
    assert list(ours) == list(real)
    merged = ours.merge(real, on="pr_gene_id", suffixes=("", "_real"))
    assert len(merged) == len(ours)
    assert (merged["pr_gene_symbol"] == merged["pr_gene_symbol_real"]).all()


def test_a_few_ids_differ_in_case_from_the_matrix(folder: Path, instances: pd.DataFrame):
    _, columns, _, _ = matrix(folder)
    assert instances["inst_id"].is_unique
    assert 0 < len(set(columns) - set(instances["inst_id"])) < 10
    assert {name.upper() for name in columns} == {name.upper() for name in instances["inst_id"]}


def test_there_are_instances_that_a_reader_drops(folder: Path, instances: pd.DataFrame):
    assert {"trt_cp", "ctl_vehicle", "trt_sh", "ctl_vector", "ctl_untrt", "trt_poscon"} == set(instances["pert_type"])
    assert {"DMSO", "H2O"} == set(instances.loc[instances["pert_type"] == "ctl_vehicle", "pert_iname"])
    types = instances[instances["pert_iname"].eq("DMSO") | (instances["pert_type"] == "trt_cp")].groupby("cell_id")["pert_type"].nunique()
    assert list(types[types == 1].index) == ["HEPG2"]


def test_doses_are_spelt_in_three_ways_and_jitter(instances: pd.DataFrame):
    treated = instances[instances["pert_type"] == "trt_cp"]
    assert set(treated["pert_dose_unit"]) == {"um", "µM", "nM"}
    assert {"9.99999", "10", "3.33", "0.37", "3330", "370", "10000"} <= set(treated["pert_dose"])
    controls = instances[instances["pert_iname"] == "DMSO"]
    assert set(controls["pert_dose"]) == {"-666"}


def test_pubchem_ids_are_missing_or_no_number(folder: Path, instances: pd.DataFrame):
    phase1 = table(folder, f"{SERIES}_pert_info").set_index("pert_id")
    treated = phase1[phase1["pert_type"] == "trt_cp"]
    assert (treated["pubchem_cid"] == "-666").sum() == 5
    assert treated.loc["BRD-U77632492", "pubchem_cid"] == "MLS003116075"
    phase2 = table(folder, "GSE70138_Broad_LINCS_pert_info").set_index("pert_id")
    compounds = set(instances.loc[instances["pert_type"] == "trt_cp", "pert_id"])
    assert compounds - set(phase1.index) - set(phase2.index) == {"BRD-K43471985"}
    assert set(phase2.index) - set(phase1.index) == {"BRD-K54606188", "BRD-K36363294"}
    assert phase1["inchi_key"].ne("-666").sum() > 30


def test_strata_have_replicate_plates_with_controls(whole_sample: Path):
    samples = pd.read_parquet(whole_sample / "truth" / "samples.parquet").query("dataset == 'l1000_phase1'")
    per_plate = samples.groupby(["cell_type", "time_h", "plate"])["is_control"].sum()
    assert (per_plate >= 6).all()
    assert samples.groupby("plate")["time_h"].nunique().eq(1).all()
    plates = per_plate.groupby(["cell_type", "time_h"]).size()
    for cell_type in ("CVCL_0023", "CVCL_0031", "CVCL_0035", "CVCL_0006"):
        for time in (6.0, 24.0):
            assert plates[cell_type, time] in (3, 4)
    assert (samples["dose_uM"] - samples["source_dose_uM"]).abs().max() < 2e-5


def test_values_follow_the_compound_on_landmark_genes_only(folder: Path, instances: pd.DataFrame, whole_sample: Path):
    values, columns, rows, _ = matrix(folder)
    frame = pd.DataFrame(values, index=[name.upper() for name in columns], columns=[int(row) for row in rows])
    wells = instances[(instances["cell_id"] == "A549") & (instances["pert_time"] == "24")]
    centred = frame.loc[wells["inst_id"].str.upper()].to_numpy().astype(float)
    for plate in wells["rna_plate"].unique():
        on_plate = (wells["rna_plate"] == plate).to_numpy()
        centred[on_plate] -= centred[on_plate & (wells["pert_iname"] == "DMSO").to_numpy()].mean(axis=0)
    truth = pd.read_parquet(whole_sample / "truth" / "log2_fold_changes.parquet").query("cell_type == 'CVCL_0023' and time_h == 24")
    of_agent = truth[truth["agent"] == "bortezomib"]
    strongest = of_agent[of_agent["dose_uM"] == of_agent["dose_uM"].max()].set_index("gene")["log2_fold_change"]
    effect = pd.Series(
        centred[(wells["pert_iname"] == "bortezomib").to_numpy() & (wells["pert_type"] == "trt_cp").to_numpy()].mean(axis=0),
        index=frame.columns,
    )
    reported = genes().set_index("entrez_id").loc[frame.columns]
    latent = strongest[genes().reset_index().set_index("entrez_id").loc[frame.columns, "gene"]].to_numpy()
    is_landmark = (reported["is_landmark"] == 1).to_numpy()
    assert np.corrcoef(effect[is_landmark], latent[is_landmark])[0, 1] > 0.6
    assert abs(np.corrcoef(effect[~is_landmark], latent[~is_landmark])[0, 1]) < 0.4
