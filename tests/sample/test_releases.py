"""The second VCPI release and the second phase of L1000: the layout of the first, with what is their own."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.sample.l1000 import MISSING
from perturbridge_dagster.sample.vcpi import METADATA_COLUMNS, SPIKE_INS
from perturbridge_dagster.sources import harmonize

pytestmark = pytest.mark.slow

SERIES = "GSE70138_Broad_LINCS"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "releases"
    write_sample(folder, datasets=["vcpi_0001", "vcpi_0002", "l1000_phase1", "l1000_phase2"])
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "l1000_phase2" / name, sep="\t", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def instances(folder: Path) -> pd.DataFrame:
    return table(folder, f"{SERIES}_inst_info_2017-03-06.txt.gz")


def test_the_second_release_is_another_job_with_the_same_columns(folder: Path):
    metadata = [pd.read_csv(folder / name / "metadata.csv", dtype=str) for name in ("vcpi_0001", "vcpi_0002")]
    for own in metadata:
        assert tuple(own) == METADATA_COLUMNS
    assert [set(own["job_id"]) for own in metadata] == [{"tvc-bhr-009"}, {"tvc-kdl-010"}]
    assert not set(metadata[0]["sequenced_id"]) & set(metadata[1]["sequenced_id"])
    assert not set(metadata[0]["compound"]) & set(metadata[1]["compound"])
    assert metadata[1]["container_id"].nunique() == 2
    counts = pd.read_parquet(folder / "vcpi_0002" / "data.parquet")
    assert counts["gene_id"].str.startswith("ERCC-").sum() == len(SPIKE_INS)
    assert set(counts.columns[1:]) == set(metadata[1]["sequenced_id"])
    assert (counts.drop(columns="gene_id").sum() == 0).sum() == 1


def test_phase_2_names_plates_and_wells_of_detection(instances: pd.DataFrame, folder: Path):
    assert "rna_plate" not in instances
    assert instances["det_plate"].str.fullmatch(r"LPROT00[13]_[A-Z0-9]+_\d+H_X[12]\.A2_B2[23]").all()
    assert (instances["det_plate"] + ":" + instances["det_well"] == instances["inst_id"]).all()
    assert set(instances["cell_id"]) == {"A549", "MCF7", "MDAMB231", "NPC"}
    assert set(instances["pert_time"]) == {"3", "24"}
    assert {"trt_poscon", "ctl_untrt", "ctl_vehicle", "trt_cp"} == set(instances["pert_type"])
    (file,) = (folder / "l1000_phase2").glob("GSE70138*.gctx")
    assert file.name == f"{SERIES}_Level3_INF_mlr12k_n{len(instances)}x1306_2017-03-06.gctx"
    with h5py.File(file) as opened:
        ids = np.array([name.decode() for name in opened["0/META/COL/id"][:]])
    assert (ids != instances["inst_id"]).any()
    assert (np.char.lower(ids) == instances["inst_id"].str.lower().to_numpy(str)).all()


def test_the_portal_alone_describes_a_compound(instances: pd.DataFrame, folder: Path):
    tables = [table(folder, f"{series}_pert_info.txt.gz") for series in ("GSE92742_Broad_LINCS", SERIES)]
    listed = set(tables[0]["pert_id"]) | set(tables[1]["pert_id"])
    alone = set(instances["pert_id"]) - listed
    portal = table(folder, "SampleTable_LincsID2FacilityID2CenterBatchID_LINCS_StandardizedCmpds_LSMIDs.txt")
    assert alone == {"BRD-K15179879"}
    assert alone <= set(portal["sm_center_canonical_id"])
    assert portal["sm_center_canonical_id"].duplicated().sum() == 1
    obs = harmonize("l1000_phase2", folder / "l1000_phase2").obs
    carfilzomib = obs[obs["source_perturbagen_id"] == "BRD-K15179879"]
    assert set(carfilzomib["pubchem_cid"]) == {11556711}
    assert set(carfilzomib["inchikey"]) == {"BLMPQMFVWMYDKT-NZTKNTHTSA-N"}
    # vorinostat is also said to be another compound; its own structure decides
    assert set(obs.loc[obs["perturbagen"] == "vorinostat", "pubchem_cid"]) == {5311}


def test_without_the_portal_the_name_is_all_there_is(folder: Path, tmp_path: Path):
    for file in (folder / "l1000_phase2").iterdir():
        if "Table_" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    obs = harmonize("l1000_phase2", tmp_path).obs
    assert set(obs.loc[obs["source_perturbagen_id"] == "BRD-K15179879", "pubchem_cid_source"].dropna()) <= {"name"}
    assert obs.loc[obs["source_perturbagen_id"] == "BRD-K15179879", "smiles"].isna().all()


def test_phases_and_releases_share_conditions(folder: Path):
    matched = pd.read_parquet(folder / "truth" / "matched_conditions.parquet")
    pairs = matched.groupby(["left_dataset", "right_dataset"]).size()
    assert pairs["l1000_phase1", "l1000_phase2"] >= 50
    assert pairs["vcpi_0001", "vcpi_0002"] >= 50
    same = matched[(matched["left_dataset"] == "l1000_phase1") & (matched["right_dataset"] == "l1000_phase2")]
    assert (same["log10_dose_gap"] == 0).mean() > 0.9


def test_what_geo_does_not_know_is_marked_missing(folder: Path):
    cells = table(folder, f"{SERIES}_cell_info_2017-04-28.txt.gz").set_index("cell_id")
    assert cells.loc["NPC", ["donor_age", "donor_sex"]].tolist() == [MISSING, MISSING]
    obs = harmonize("l1000_phase2", folder / "l1000_phase2").obs
    npc = obs[obs["source_cell_context"] == "NPC"]
    assert set(npc["cell_type"]) == {"NPC"}
    assert set(npc["disease"]) == {"normal"}
    assert npc["sex"].isna().all()
