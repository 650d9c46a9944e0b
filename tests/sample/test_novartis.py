from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rdata

from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.sample.novartis import ANNOTATION_COLUMNS, BATCHES, POSITIVE_CONTROLS, ROBUST_PER_PLATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "novartis"
    write_sample(folder, datasets=["novartis"])
    return folder / "novartis"


@pytest.fixture(scope="module")
def batches(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    return rdata.read_rda(folder / "Exp_gzip.RData")["Exp"]


@pytest.fixture(scope="module")
def wells(batches: dict[str, dict[str, dict[str, pd.DataFrame]]]) -> pd.DataFrame:
    return pd.concat([plate["Annotation"] for batch in batches.values() for plate in batch.values()], ignore_index=True)


def test_r_reads_what_is_written(folder: Path):
    import subprocess

    script = (
        f'load("{folder}/Exp_gzip.RData"); load("{folder}/drugseq_ensembl_v98_annotation_and_entrez_mapping.RData");'
        "p <- Exp[[1]][[1]]; stopifnot(is.matrix(p$UMI.counts), is.integer(p$UMI.counts), is.data.frame(p$Annotation));"
        "cat(names(Exp), dim(p$UMI.counts), ncol(p$Annotation), levels(p$Annotation$well_type), nrow(drugseq_ensg_v98),"
        'grepl(",grch38_", rownames(p$UMI.counts)[1]))'
    )
    said = subprocess.run(["Rscript", "-e", script], check=True, capture_output=True, text=True).stdout.split()
    assert said[:2] == list(BATCHES)
    assert said[4:8] == ["18", "EMPTY", "RC", "SA"]
    assert said[-1] == "TRUE"


def test_batches_hold_three_plates_with_their_wells(batches: dict[str, dict[str, dict[str, object]]], wells: pd.DataFrame):
    assert list(batches) == list(BATCHES)
    assert list(batches) != sorted(batches, key=int)
    for batch, plates in batches.items():
        assert tuple(plates) == BATCHES[batch]
    assert list(wells) == list(ANNOTATION_COLUMNS)
    assert set(wells["cell_line_name"]) == {"U-2 OS"}
    assert set(wells["hours_post_treatment"]) == {"24.0"}
    assert 230 <= len(wells) <= 300
    assert not wells.duplicated(["plate_barcode", "well_id"]).any()
    assert set(wells.loc[wells["well_type"] == "SA", "concentration"]) == {0.01, 0.1, 1.0, 10.0}


def test_genes_and_wells_of_plates_come_in_different_orders(batches: dict[str, dict[str, dict[str, object]]]):
    plates = [plate for batch in batches.values() for plate in batch.values()]
    genes = [plate["UMI.counts"].get_index("dim_0") for plate in plates]
    assert set(genes[0]) == set(genes[1])
    assert list(genes[0]) != list(genes[1])
    annotated = plates[0]["Annotation"]
    named = list(annotated["plate_barcode"] + "_" + annotated["well_index"])
    columns = list(plates[0]["UMI.counts"].get_index("dim_1"))
    assert set(named) == set(columns)
    assert named != columns


def test_pathologies(folder: Path, batches: dict[str, dict[str, dict[str, object]]], wells: pd.DataFrame):
    n_plates = sum(map(len, batches.values()))
    assert (wells["well_type"] == "EMPTY").sum() == 3 * n_plates
    for positive in POSITIVE_CONTROLS:
        assert set(wells.loc[wells["cmpd_sample_id"] == positive, "well_type"]) == {"SA"}
    robust = pd.read_csv(folder / "robust_RC_ReferenceControl_DMSO_wells.txt", sep="\t")["external_biosample_id"]
    assert wells.loc[wells["external_biosample_id"].isin(robust), "plate_barcode"].value_counts().eq(ROBUST_PER_PLATE).all()
    assert (wells["well_type"] == "RC").sum() > len(robust)
    totals = np.concatenate([plate["UMI.counts"].to_numpy().sum(axis=0) for batch in batches.values() for plate in batch.values()])
    assert (totals == 0).sum() == 1
    links = rdata.read_rda(folder / "drugseq_ensembl_v98_annotation_and_entrez_mapping.RData")["drugseq_ensg_v98"]
    several = links["geneID"].value_counts() > 1
    assert several.sum() == 1
    ids = links.loc[links["geneID"] == several.idxmax(), "ensembl_gene_id"]
    assert (links["ensembl_gene_id"].isin(ids) & (links["geneID"] != several.idxmax())).sum() == 1
    counted = set(next(iter(batches["10"].values()))["UMI.counts"].get_index("dim_0"))
    assert len(counted - set(links["geneID"])) == 3


@pytest.mark.real_data
def test_compounds_are_those_of_moabox(folder: Path, real_data: Path):
    ours = pd.read_csv(folder / "MoABox_compounds_metadata.txt", sep="\t", dtype=str).set_index("cmpd_sample_id")
    theirs = pd.read_csv(real_data / "novartis_moabox" / "MoABox_compounds_metadata.txt", sep="\t", dtype=str).set_index("cmpd_sample_id")
    assert list(ours.columns) == list(theirs.columns)
    assert set(ours.index) <= set(theirs.index)
    named = ours.index.difference([*POSITIVE_CONTROLS])
    pd.testing.assert_series_equal(ours.loc[named, "inchi_key"].sort_index(), theirs.loc[named, "inchi_key"].sort_index())
