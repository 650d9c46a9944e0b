"""Finding a dataset's native files."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources import locate_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(located: dict[str, list[Path]], folder: Path) -> dict[str, list[str]]:
    return {role: [str(path.relative_to(folder)) for path in paths] for role, paths in located.items()}


def test_files_are_found_below_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "raw/srivatsan20_sciplex3.h5ad", "raw/obs/srivatsan20_sciplex3.parquet", "README")
    assert names(locate_files("sciplex", tmp_path), tmp_path) == {
        "counts": ["raw/srivatsan20_sciplex3.h5ad"],
        "cells": ["raw/obs/srivatsan20_sciplex3.parquet"],
        "genes": [],
    }


def test_hidden_files_and_folders_are_not_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / ".perturbridge" / "native"
    touch(
        folder,
        "srivatsan20_sciplex3.h5ad",
        "obs/srivatsan20_sciplex3.parquet",
        "obs/.srivatsan20_sciplex3.parquet.download",
        ".files.unpacking/srivatsan20_sciplex3.h5ad",
        ".files.unpacking/deeper/obs/srivatsan20_sciplex3.parquet",
        "obs/.files.replaced/var/srivatsan20_sciplex3.parquet",
    )
    assert names(locate_files("sciplex", folder), folder) == {
        "counts": ["srivatsan20_sciplex3.h5ad"],
        "cells": ["obs/srivatsan20_sciplex3.parquet"],
        "genes": [],
    }


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/plate.gctx", "data/other.gctx")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(locate_files("l1000_phase1", tmp_path / "data"), tmp_path / "data")["expression"] == ["link/plate.gctx", "other.gctx"]


def test_other_levels_and_phases_of_l1000_are_left_alone(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "GSE92742_Broad_LINCS_Level3_INF_mlr12k_n10x20.gctx",
        "plate_zs.gctx",
        "plate_zs.gct",
        "GSE92742_Broad_LINCS_Level5_COMPZ.MODZ_n5x20.gctx",
        "GSE70138_Broad_LINCS_Level3_INF_mlr12k_n10x20.gctx",
        "GSE92742_Broad_LINCS_inst_info.txt.gz",
        "GSE70138_Broad_LINCS_inst_info.txt.gz",
        "GSE92742_Broad_LINCS_pert_info.txt.gz",
        "GSE70138_Broad_LINCS_pert_info.txt.gz",
    )
    located = names(locate_files("l1000_phase1", tmp_path), tmp_path)
    assert located["expression"] == ["GSE92742_Broad_LINCS_Level3_INF_mlr12k_n10x20.gctx"]
    assert located["instances"] == ["GSE92742_Broad_LINCS_inst_info.txt.gz"]
    assert located["perturbagens"] == ["GSE92742_Broad_LINCS_pert_info.txt.gz"]
    assert located["perturbagens_phase2"] == ["GSE70138_Broad_LINCS_pert_info.txt.gz"]


def test_a_table_that_lies_there_compressed_and_not_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.gctx", "GSE92742_Broad_LINCS_inst_info.txt", "GSE92742_Broad_LINCS_inst_info.txt.gz")
    assert names(locate_files("l1000_phase1", tmp_path), tmp_path)["instances"] == ["GSE92742_Broad_LINCS_inst_info.txt"]


def test_a_missing_file_is_named_with_what_is_there_instead(tmp_path: Path) -> None:
    touch(tmp_path, "metadata.csv", "data.parquet.part")
    with pytest.raises(
        InputError, match=r"vcpi_0001.*no counts file data\.parquet; there is data\.parquet\.part, metadata\.csv.*TVC_TOKEN"
    ):
        locate_files("vcpi_0001", tmp_path)


def test_a_compressed_matrix_is_shown_as_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "GSE92742_Broad_LINCS_Level3_INF_mlr12k_n1319138x12328.gctx.gz")
    with pytest.raises(InputError, match=r"there is GSE92742\S*\.gctx\.gz.*gunzip"):
        locate_files("l1000_phase1", tmp_path)


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        locate_files("sciplex", tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is no file at all"):
        locate_files("sciplex", tmp_path)
