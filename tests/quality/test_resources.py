from __future__ import annotations

import pandas as pd
import pytest

from perturbridge_dagster.contract import RESOURCE_REPORT
from perturbridge_dagster.quality.figures import asked_and_used
from perturbridge_dagster.quality.resources import GIB, JOB_COLUMNS, OUTPUT_COLUMNS, summarized
from perturbridge_dagster.written import Stamp, read_parquet, write_parquet


def outputs(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=OUTPUT_COLUMNS)


def jobs(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=JOB_COLUMNS)


MADE = outputs(
    ("source_files", "op3", 3600.0, None, GIB // 2, 10),
    ("condition_effects", "op3", 1800.0, 3600.0, GIB, 100),
    ("condition_effects", "op3", 5400.0, 7200.0, 3 * GIB, 300),
    ("condition_effects", "tahoe", 60.0, 60.0, GIB, 1),
)
SENT = jobs(
    # one job of both datasets; one that ran out of memory, and was sent again; what sacct knows of the last is nothing
    ("condition_effects", "op3", "a", 1, False, 2, 2 * GIB, 7200.0, GIB, 3600.0),
    ("condition_effects", "tahoe", "t", 1, False, 2, 2 * GIB, 7200.0, GIB, 3600.0),
    ("condition_effects", "op3", "b", 2, True, 4, 2 * GIB, 7200.0, 2.5 * GIB, 1800.0),
    ("condition_effects", "op3", "b", 3, False, 4, 4 * GIB, 14400.0, None, None),
)


def test_asked_and_used_stand_side_by_side_by_stage_and_dataset():
    report = summarized(MADE, SENT).set_index(["stage", "dataset"])
    assert list(report.index) == [("source_files", "op3"), ("condition_effects", "op3"), ("condition_effects", "tahoe")]
    op3 = report.loc[("condition_effects", "op3")]
    assert (op3["outputs"], op3["output_bytes"], op3["jobs"]) == (2, 400, 3)
    assert op3["failed_share"] == pytest.approx(1 / 3)
    assert op3["retried_share"] == pytest.approx(1 / 2), "b took two jobs"
    assert (op3["memory_asked_median"], op3["memory_asked_max"]) == (2, 4)
    assert (op3["memory_used_median"], op3["memory_used_max"]) == (2, 3)
    assert (op3["hours_asked_max"], op3["hours_used_max"]) == (4, 1.5)
    assert op3["cpus_asked"] == 4
    assert op3["job_hours"] == pytest.approx(0.5 + 0.5), "half of the job that it shares, and the one that failed"
    assert (op3["compute_hours"], op3["cpu_hours"]) == (2, 3)
    local = report.loc[("source_files", "op3")]
    assert (local["jobs"], local["job_hours"]) == (0, 0)
    assert local[["failed_share", "memory_asked_max", "hours_asked_max", "cpus_asked"]].isna().all(), "nothing was asked for"
    assert local["memory_used_max"] == 0.5


def test_job_hours_of_all_datasets_are_those_of_the_jobs():
    assert summarized(MADE, SENT)["job_hours"].sum() == pytest.approx(1.5)


def test_jobs_whose_output_is_gone_and_homes_without_either_are_reported():
    report = summarized(outputs(), SENT)
    assert report["outputs"].tolist() == [0, 0]
    assert report["memory_used_max"].tolist() == [2.5, 1.0], "sacct knows of the jobs"
    assert summarized(MADE, jobs())["jobs"].tolist() == [0, 0, 0]
    assert summarized(outputs(), jobs()).empty


def test_the_report_is_of_the_contract_and_can_be_drawn(tmp_path):
    report = summarized(MADE, SENT)
    write_parquet(tmp_path / "report.parquet", report, RESOURCE_REPORT, Stamp("resource_report", "1", "x", ("op3",), "open"))
    back = read_parquet(tmp_path / "report.parquet", "resource_report")
    assert back["memory_asked_max"].tolist()[1:] == [4.0, 2.0]
    assert asked_and_used(report)[1:4] == b"PNG"
    assert asked_and_used(summarized(MADE, jobs()))[1:4] == b"PNG"
