from __future__ import annotations

import datetime
from pathlib import Path

import pandas as pd
import pytest
from python_calamine import CalamineWorkbook

from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.sample.cigs import ALONE, SUPPLEMENT

HEK, MDA = "MCE_Bioactive_Compounds_HEK293T_10μM", "MCE_Bioactive_Compounds_MDA_MB_231_10μM"
TCM = [f"TCM_Compounds_{line}_{dose}" for line in ("HEK293T", "MDA_MB_231") for dose in (10, 20)]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "cigs"
    write_sample(folder, datasets=["cigs_mce", "cigs_tcm"])
    return folder


def sheet(file: Path, name: str | None = None) -> tuple[str, pd.DataFrame]:
    """Note above the header, and the table below it."""
    workbook = CalamineWorkbook.from_path(file)
    rows = (workbook.get_sheet_by_name(name) if name else workbook.get_sheet_by_index(0)).to_python()
    return str(rows[0][0]), pd.DataFrame(rows[2:], columns=rows[1])


def test_mce_counts_and_samples(folder: Path):
    note, counts = sheet(folder / "cigs_mce" / f"{HEK}_Counts.xlsx")
    assert note.startswith("Note:")
    assert counts.columns[0] == "Sample_id"
    dates = [column for column in counts.columns if isinstance(column, datetime.date)]
    assert [(date.month, date.day) for date in dates] == [(9, 4)]
    note, samples = sheet(folder / "cigs_mce" / f"{HEK}_MetaData.xlsx")
    assert note.startswith("Note:")
    assert len(set(counts["Sample_id"]) - set(samples["unique_ID"])) == 1
    assert set(samples["unique_ID"]) <= set(counts["Sample_id"])
    assert samples["sample_plate"].str.startswith("MCE4_293T_24H").any()
    assert {"Blank ", "RNA", "JQ1", "DMSO"} <= set(samples["treatment"])
    assert {"-666", "10 uM"} == set(samples["pert_idose"])
    totals = counts.drop(columns="Sample_id").sum(axis=1)
    assert (totals == 0).sum() == 1


def test_a_plate_of_mce_has_neither_controls_nor_compounds_of_others(folder: Path):
    _, samples = sheet(folder / "cigs_mce" / f"{MDA}_MetaData.xlsx")
    alone = samples["sample_plate"] == ALONE
    assert alone.any()
    assert not set(samples.loc[alone, "treatment"]) & set(samples.loc[~alone, "treatment"])
    assert set(samples["cell_id"]) == {"cell_231", "cell_MDA_MB_231"}


def test_tcm_samples_have_the_same_names_in_every_series(folder: Path):
    tables = [sheet(folder / "cigs_tcm" / f"{name}_MetaData.xlsx")[1] for name in TCM]
    assert len(set(tables[0]["Sample_unique_id"]) & set(tables[3]["Sample_unique_id"])) > 30
    assert [("Library" in table, "library" in table) for table in tables] == [(False, True), (True, False)] * 2
    assert [set(table["Dose"]) for table in tables] == [{10}, {20}] * 2
    assert set(tables[2]["Cell"]) == {231}
    assert tables[0]["Treat"].str.match(r"Compd\d{4}|DMSO|JQ1").all()
    _, counts = sheet(folder / "cigs_tcm" / f"{TCM[0]}_Counts.xlsx")
    assert {"X4.Sep", "HLA.DMA", "HLA.DRA", "HN1L"} <= set(counts.columns)


def test_the_supplement_lists_both_libraries(folder: Path):
    for dataset in ("cigs_mce", "cigs_tcm"):
        _, mce = sheet(folder / dataset / SUPPLEMENT, "Supplementary Table 3")
        _, tcm = sheet(folder / dataset / SUPPLEMENT, "Supplementary Table 4")
        assert list(tcm.columns) == ["Compound name", "Catalog Number", "Catalog Number"]
        tcm.columns = ["name", "number", "cas"]
        assert tcm["name"].str.contains(r"\w\n\w").any()
        assert tcm.loc[tcm["cas"] == "33289-85-9", "number"].tolist() == ["Cpd0165", "Cpd0166"]
        assert mce["Compound name"].str.contains("\n").any()


def test_plates_and_samples_that_remain(folder: Path):
    samples = pd.read_parquet(folder / "truth" / "samples.parquet")
    by_dataset = samples.groupby("dataset")
    assert by_dataset.size().between(100, 200).all()
    assert by_dataset["cell_type"].nunique().eq(2).all()
    assert set(samples.loc[samples["dataset"] == "cigs_tcm", "dose_uM"]) == {0.0, 10.0, 20.0}
    assert not samples.duplicated(["dataset", "plate", "well"]).any()
