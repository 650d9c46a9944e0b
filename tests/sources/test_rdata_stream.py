"""RData files that R itself wrote, and damaged ones."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdata.parser import RObject

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.rdata_stream import count_matrix, data_frame, read_rdata

SCRIPT = """
counts <- matrix(c(0L, 5L, 0L, 7L, 0L, 9L), 3, dimnames = list(c("A", "B", "C"), c("w1", "w2")))
doubles <- counts; storage.mode(doubles) <- "double"
halves <- counts + 0.5
missing <- counts; missing[2, 1] <- NA
wells <- data.frame(plate = "P\\u00b5", index = 1:2, dose = c(0.5, NA), type = factor(c("SA", "RC")), stringsAsFactors = FALSE)
Exp <- list(`2` = list(x = list(counts = counts, wells = wells)), `10` = list(y = list(counts = doubles, wells = wells)))
unnamed <- list(1:3, "a"); nothing <- list(); number <- 3.5; bare <- matrix(1:4, 2)
for (version in 2:3) for (how in c("gzip", "bzip2", "xz", "none"))
  save(Exp, unnamed, nothing, number, bare, halves, missing, wells, version = version,
       compress = if (how == "none") FALSE else how, file = file.path(folder, paste0(how, version, ".RData")))
save(wells, ascii = TRUE, file = file.path(folder, "text.RData"))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rdata")
    subprocess.run(["Rscript", "-e", f'folder <- "{folder}"\n{SCRIPT}'], check=True, capture_output=True)
    return folder


def reduce(elements: dict[str, RObject]) -> object | None:
    return (*count_matrix(elements["counts"]), data_frame(elements["wells"])) if "counts" in elements else None


@pytest.mark.parametrize("name", [f"{how}{version}" for how in ("gzip", "bzip2", "xz", "none") for version in (2, 3)])
def test_what_r_saves_is_read(written: Path, name: str) -> None:
    objects = read_rdata(written / f"{name}.RData", "novartis", reduce=reduce)
    assert list(objects["Exp"]) == ["2", "10"]
    for plate in (objects["Exp"]["2"]["x"], objects["Exp"]["10"]["y"]):
        counts, columns, rows, wells = plate
        np.testing.assert_array_equal(counts.toarray(), [[0, 5, 0], [7, 0, 9]])
        assert counts.dtype == np.int32
        assert (columns.tolist(), rows.tolist()) == (["w1", "w2"], ["A", "B", "C"])
        assert wells["plate"].tolist() == ["Pµ", "Pµ"]
        assert wells["type"].tolist() == ["SA", "RC"]
        assert wells["dose"].isna().tolist() == [False, True]
    assert objects["number"].tolist() == [3.5]
    assert [len(element) for element in objects["unnamed"]] == [3, 1]
    assert objects["nothing"] == []
    assert isinstance(objects["wells"], pd.DataFrame)


def test_without_reduction_everything_is_kept(written: Path) -> None:
    plate = read_rdata(written / "gzip3.RData", "novartis")["Exp"]["2"]["x"]
    assert set(plate) == {"counts", "wells"}
    np.testing.assert_array_equal(plate["counts"].to_numpy(), [[0, 7], [5, 0], [0, 9]])


def test_fractions_and_missing_values_stay_what_they_are(written: Path) -> None:
    kept: dict[str, RObject] = {}

    def remember(elements: dict[str, RObject]) -> None:
        kept.update(elements)

    read_rdata(written / "gzip3.RData", "novartis", reduce=remember)
    counts, *_ = count_matrix(kept["counts"])
    assert counts.dtype == np.int32
    for name, expected in (("halves", 0.5), ("missing", None)):
        values = read_rdata(written / "gzip3.RData", "novartis")[name].to_numpy()
        assert (np.isnan(values.astype(float)).sum() == 1) if expected is None else (values[0, 0] == expected)


def test_a_matrix_without_names_is_refused(written: Path) -> None:
    script = "x <- list(counts = matrix(1:4, 2)); save(x, file = commandArgs(TRUE)[1])"
    subprocess.run(["Rscript", "-e", script, str(written / "bare.RData")], check=True, capture_output=True)

    def bare(elements: dict[str, RObject]) -> object:
        return count_matrix(elements["counts"])

    with pytest.raises(InputError, match=r"bare\.RData.*neither a matrix with row and column names"):
        read_rdata(written / "bare.RData", "novartis", reduce=bare)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("how", ["gzip", "none"])
def test_a_truncated_file_says_so(written: Path, tmp_path: Path, how: str, share: float) -> None:
    whole = (written / f"{how}3.RData").read_bytes()
    (tmp_path / "cut.RData").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"novartis.*cut\.RData.*(truncated or damaged|not in R's binary format)"):
        read_rdata(tmp_path / "cut.RData", "novartis")


def test_something_else_says_so(written: Path, tmp_path: Path) -> None:
    (tmp_path / "page.RData").write_bytes(gzip.compress(b"<html>Sign in</html>"))
    for file in (tmp_path / "page.RData", written / "text.RData"):
        with pytest.raises(InputError, match="not in R's binary format"):
            read_rdata(file, "novartis")
