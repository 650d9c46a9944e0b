"""The command, and what the registry declares as it is fetched."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perturbridge_dagster import registry
from perturbridge_dagster.sources.download import Checksum, RemoteFile, Unpack, remote_file
from perturbridge_dagster.sources.download.__main__ import main
from perturbridge_dagster.sources.download.declared import files_declared
from tests.sources.download.misbehaving_server import File, Server, says

S3_FOLDER = "/openproblems-data/resources/task_perturbation_prediction/datasets/neurips-2023-data"
BENCHMARK = ("de_train.h5ad", "de_test.h5ad", "id_map.csv")


@pytest.fixture
def home(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, in an environment whose public buckets are on this machine."""
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url(""))
    for name in ("TVC_TOKEN", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def native(home: Path, dataset: str) -> Path:
    return home / "sources" / dataset / "native"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def hdf5(body: bytes) -> bytes:
    """A body that begins as an h5ad file does."""
    return b"\x89HDF\r\n\x1a\n" + body


# ---- what is declared --------------------------------------------------------------------------------------------------------


def test_every_declared_file_can_be_asked_for() -> None:
    sources = [*registry.datasets().values(), *registry.benchmarks().values(), registry.dataset("vcpi_0003")]
    assert len(sources) > 14
    for source in sources:
        files = list(files_declared(source))
        assert {role.role for role, _, _ in files} >= {role.role for role in source.files if role.required}, source.id
        for role, download, file in files:
            assert role.matches(Path(file.name.removesuffix(".gz") if download.unpack else file.name))
            assert file.token_variable == source.access.token_variable
            assert file.how
            assert source.access.how in file.how
            assert ("--local FOLDER" in file.how) == (file.url is None)


def test_a_declaration_becomes_what_is_fetched() -> None:
    source = registry.dataset("l1000_phase1")
    by_name = {download.name: remote_file(source, download) for _, download, _ in files_declared(source)}
    matrix = by_name["GSE92742_Broad_LINCS_Level3_INF_mlr12k_n1319138x12328.gctx"]
    assert matrix.name == "GSE92742_Broad_LINCS_Level3_INF_mlr12k_n1319138x12328.gctx.gz"
    assert matrix.unpack == Unpack()
    table = by_name["GSE92742_Broad_LINCS_inst_info.txt.gz"]
    assert table.unpack is None
    assert table.name == "GSE92742_Broad_LINCS_inst_info.txt.gz"

    download = registry.Download(name="a.bin", url="https://example.org/a", size=5, checksum="md5:" + "0a" * 16)
    assert remote_file(source, download) == RemoteFile(
        "a.bin", "https://example.org/a", 5, Checksum("md5", "0a" * 16), how=source.access.how
    )
    sha256 = registry.Download(name="a.bin", url="https://example.org/a", checksum="sha256:" + "0a" * 32)
    assert remote_file(source, sha256).checksum == Checksum("sha256", "0a" * 32)


def test_optional_files_are_left_out_when_they_are_not_wanted() -> None:
    source = registry.dataset("sciplex")
    assert [role.role for role, _, _ in files_declared(source, required_only=True)] == ["counts", "cells"]
    assert [role.role for role, _, _ in files_declared(source)] == ["counts", "cells", "genes"]


# ---- fetching ----------------------------------------------------------------------------------------------------------------


def test_the_benchmark_is_listed_fetched_and_listed_again(
    home: Path, server: Server, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in BENCHMARK:
        server.plans[f"{S3_FOLDER}/{name}"] = File(b"id,sm_name\n" if name.endswith(".csv") else hdf5(body))
    assert main(["op3_benchmark", "--list"]) == 0
    said = capsys.readouterr().out
    benchmark = registry.source("op3_benchmark")
    assert f"access    open. {benchmark.access.how}" in said
    assert f"licence   {benchmark.licence.name} (restricted)" in said
    assert f"folder    {native(home, 'op3_benchmark')}" in said
    assert all(f"s3:/{S3_FOLDER}/{name}" in said for name in BENCHMARK)
    assert "are free on the disk" in said
    assert not server.requests
    assert not home.exists()

    assert main(["op3_benchmark"]) == 0
    said = capsys.readouterr().out
    assert "de_train.h5ad: fetched from s3://" in said
    assert f"3 native files, 614.4 kB, in {native(home, 'op3_benchmark')}" in said
    assert "settings.toml" not in said, "a benchmark is no member of the compendium"
    assert visible(native(home, "op3_benchmark")) == sorted(BENCHMARK)

    server.requests.clear()
    (native(home, "op3_benchmark") / "de_test.h5ad").write_bytes(hdf5(b"mine"))
    assert main(["op3_benchmark", "--list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "there (307.2 kB)" in rows["de_train.h5ad"]
    assert "there, not compared (12 bytes)" in rows["de_test.h5ad"]
    assert not server.requests


def test_a_killed_command_is_continued(home: Path, server: Server, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file = File(hdf5(body))
    server.plans[f"{S3_FOLDER}/de_train.h5ad"] = [file.dripping(50_000, 0.3), file]
    server.plans[f"{S3_FOLDER}/de_test.h5ad"] = file
    server.plans[f"{S3_FOLDER}/id_map.csv"] = File(b"id,sm_name\n")
    folder = native(home, "op3_benchmark")
    aside = folder / ".de_train.h5ad.download"
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbridge_dagster.sources.download", "op3_benchmark"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ),
    )
    while not (
        aside.exists() and aside.stat().st_size >= 50_000 and (folder / "id_map.csv").exists() and (folder / "de_test.h5ad").exists()
    ):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert visible(folder) == ["de_test.h5ad", "id_map.csv"]
    assert main(["op3_benchmark", "--list"]) == 0
    assert "begun (" in capsys.readouterr().out
    assert main(["op3_benchmark"]) == 0
    assert (folder / "de_train.h5ad").read_bytes() == file.body
    [_, continued] = server.asked(f"{S3_FOLDER}/de_train.h5ad")
    assert int(continued.headers["Range"].removeprefix("bytes=").removesuffix("-")) >= 50_000
    assert len(server.asked(f"{S3_FOLDER}/de_test.h5ad")) == 1


def test_a_folder_of_ones_own_and_the_line_that_uses_it(
    home: Path, server: Server, body: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.plans[f"{S3_FOLDER}/pseudobulk_filtered_with_uns.h5ad"] = File(hdf5(body))
    assert main(["op3", "--to", str(tmp_path / "mine")]) == 0
    assert f'op3 = "{tmp_path / "mine"}"' in capsys.readouterr().out
    assert visible(tmp_path / "mine") == ["pseudobulk_filtered_with_uns.h5ad"]
    assert not home.exists()
    assert main(["op3"]) == 0
    assert 'op3 = "download"' in capsys.readouterr().out


def test_what_the_owner_gives_on_request_says_how_and_is_taken_from_a_folder(
    home: Path, server: Server, body: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    revision, table = "ab" * 32, b"compound,label\n"
    entry = {
        "logical_key": "compound_DILI_labels.csv",
        "physical_keys": ["s3://dilimap/data/labels.csv?versionId=1"],
        "size": len(table),
        "hash": {"type": "SHA256", "value": hashlib.sha256(table).hexdigest()},
    }
    server.plans["/dilimap/.quilt/named_packages/public/data/latest"] = says(200, revision.encode())
    server.plans[f"/dilimap/.quilt/packages/{revision}"] = says(200, json.dumps(entry).encode())
    server.plans["/dilimap/data/labels.csv"] = File(table)
    folder = native(home, "dilimap_train")
    assert main(["dilimap_train"]) == 1
    said = capsys.readouterr()
    assert "adata_training_counts.h5ad FAILED: its owner gives it on request." in said.out
    assert "dataset dilimap_train; file adata_training_counts.h5ad: its owner gives it on request. Ask the authors of DILImap" in said.err
    assert "python -m perturbridge_dagster.sources.download dilimap_train --local FOLDER" in said.err
    assert visible(folder) == ["compound_DILI_labels.csv"], "what is public was fetched"

    local = tmp_path / "from the authors"
    assert main(["dilimap_train", "--local", str(local)]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    local.mkdir()
    (local / "adata_training_counts.h5ad").write_bytes(hdf5(body))
    server.requests.clear()
    assert main(["dilimap_train", "--local", str(local)]) == 0
    assert (folder / "adata_training_counts.h5ad").read_bytes() == hdf5(body)
    assert not server.requests


def test_what_only_an_owners_client_gives_names_its_calls_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vcpi_0003"]) == 1
    said = capsys.readouterr().err
    assert "dataset vcpi_0003: 3 of 3 files could not be had" in said
    assert "- data.parquet: its owner's own client gives it: load_experiment('vcpi-0003')" in said
    assert said.count("set TVC_TOKEN") == 1
    assert main(["vcpi_0003", "--list"]) == 0
    said = capsys.readouterr().out
    assert "token     TVC_TOKEN is not set" in said
    assert "load_experiment('vcpi-0003')" in said


def test_a_missing_library_is_told_before_and_after(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lamindb", None)
    assert main(["sciplex", "--required-only"]) == 1
    said = capsys.readouterr().err
    assert "- srivatsan20_sciplex3.h5ad, obs/srivatsan20_sciplex3.parquet: it is an artifact of LaminDB" in said
    assert said.count('Install the extra "lamindb"') == 1


def test_an_unknown_dataset_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scplex"]) == 1
    assert "dataset 'scplex' is not registered" in capsys.readouterr().err
