"""From the word download in settings.toml, through the assets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets.materialize import materialize_graph, use_sample
from assets.sensors import stale_partitions
from perturbridge_dagster import registry
from perturbridge_dagster.registry import Access, Download
from perturbridge_dagster.written import read_parquet
from resources.store import SETTINGS
from tests.sources.download.misbehaving_server import File, Server

DATASET = "vcpi_0001"
KEY = (DATASET,)
TOKEN = "s3cret-t0ken-of-a-person"
NAMES = ["chemistry.json", "data.parquet", "metadata.csv"]

Declare = Callable[..., None]


@pytest.fixture
def home(tmp_path: Path, home_in: Callable[[Path], Any]) -> Any:
    """A home in which the dataset is to be fetched."""
    home = home_in(tmp_path)
    (home.path / SETTINGS).write_text(f'[sources]\n{DATASET} = "download"\n')
    return home


@pytest.fixture
def native(native_sample: Path) -> dict[str, bytes]:
    """Native files of the sample, by name."""
    return {name: (native_sample / DATASET / name).read_bytes() for name in NAMES}


@pytest.fixture
def declare(server: Server, native: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Has the registry say that the files lie on the server, and the server give them."""
    real = registry.dataset(DATASET)

    def run(access: Access | None = None, checksums: dict[str, str] | None = None, by_hand: tuple[str, ...] = ()) -> None:
        files = []
        for role in real.files:
            [name] = [download.name for download in role.downloads]
            server.plans.setdefault(f"/{name}", File(native[name]))
            checksum = "sha256:" + (checksums or {}).get(name, hashlib.sha256(native[name]).hexdigest())
            download = Download(name=name, url=None if name in by_hand else server.url(f"/{name}"), checksum=checksum)
            files.append(role.model_copy(update={"downloads": (download,)}))
        changed = {"files": tuple(files), "access": access or Access(kind="open", how="Take them from the server.")}
        monkeypatch.setitem(registry._registry(), DATASET, real.model_copy(update=changed))

    return run


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


@pytest.mark.slow
def test_a_dataset_is_fetched_and_harmonized(
    home: Any, server: Server, native: dict[str, bytes], declare: Declare, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a server that breaks the connection once."""
    file = File(native["data.parquet"])
    server.plans["/data.parquet"] = [file.broken_after(len(file.body) // 2), file]
    declare()
    assert home.planner().state("source_files", KEY) == ("missing", "")
    assert [(stage, key) for stage, key, _ in stale_partitions(home.planner())] == [("source_files", KEY)]
    assert not server.requests, "to look whether something is missing asks nobody"

    result = home.run("source_files", KEY)
    assert result.success, home.failure(result)
    folder = home.store.source_folder(DATASET)
    assert folder == home.path / "sources" / DATASET / "native"
    assert {name: (folder / name).read_bytes() for name in visible(folder)} == native
    first, second = server.asked("/data.parquet")
    assert "Range" not in first.headers
    assert int(second.headers["Range"].removeprefix("bytes=").removesuffix("-")) > 0
    assert f"{DATASET}: data.parquet: fetched from {server.url('/data.parquet')}" in capsys.readouterr().out
    recorded = read_parquet(home.store.current("source_files", KEY).folder / "source_files.parquet", "source_files")
    assert dict(zip(recorded["name"], recorded["sha256"], strict=True)) == {
        name: hashlib.sha256(body).hexdigest() for name, body in native.items()
    }
    assert home.planner().state("source_files", KEY)[0] == "current"

    home.materialize("harmonized_samples", KEY)
    assert home.planner().state("harmonized_samples", KEY)[0] == "current"
    assert (home.planner().strata(DATASET)["n_samples"] > 0).all()

    server.requests.clear()
    home.materialize("source_files", KEY)
    assert not server.requests, "what is there is not asked for again"
    (folder / ".data.parquet.unpacking").mkdir()
    (folder / ".data.parquet.unpacking" / "data.parquet").write_bytes(b"half")
    assert home.planner().state("source_files", KEY)[0] == "current", "what is hidden is not part of it"


@pytest.mark.slow
def test_a_wrong_checksum_fails_the_asset_and_leaves_nothing(home: Any, server: Server, native: dict[str, bytes], declare: Declare) -> None:
    declare(checksums={"metadata.csv": "0" * 64})
    result = home.run("source_files", KEY)
    assert not result.success
    said = home.failure(result)
    found = hashlib.sha256(native["metadata.csv"]).hexdigest()
    assert f"dataset {DATASET}; file metadata.csv: the file of {server.url('/metadata.csv')} is not the one declared" in said
    assert f"its sha256 is {found}, not {'0' * 64}" in said
    folder = home.store.source_folder(DATASET)
    assert visible(folder) == ["chemistry.json", "data.parquet"]
    assert not (folder / ".metadata.csv.download").exists()
    assert home.store.current("source_files", KEY) is None
    state, reason = home.planner().state("source_files", KEY)
    assert state == "failed"
    assert found in reason
    assert not list(stale_partitions(home.planner())), "the sensor does not ask again and again"

    declare()
    home.materialize("source_files", KEY)
    assert home.planner().state("source_files", KEY)[0] == "current"
    assert len(server.asked("/data.parquet")) == 1, "what came the first time stayed"
    assert not list(home.store.folder("source_files", KEY).glob("*.failed.json"))


@pytest.mark.slow
def test_a_missing_token_is_told_where_a_person_looks(
    home: Any, server: Server, declare: Declare, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(Access(kind="token", how="Get a token from the portal.", token_variable="TEST_TOKEN"))
    monkeypatch.delenv("TEST_TOKEN", raising=False)
    with home.instance() as instance:
        summary = materialize_graph(home.path, instance)
    assert f"source_files {DATASET}" in summary.failed
    assert not server.requests
    said = capsys.readouterr().out
    assert "FAILED        source_files vcpi_0001" in said
    assert "3 of 3 files could not be had" in said
    assert "environment variable TEST_TOKEN, and that is not set.\n  Get a token from the portal." in said

    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    result = home.run("source_files", KEY)
    assert result.success, home.failure(result)
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in capsys.readouterr().out
    written = b"".join(path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written


@pytest.mark.slow
def test_files_that_the_owner_gives_on_request_are_put_there_by_hand(
    home: Any, server: Server, native: dict[str, bytes], declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturbridge_dagster.sources.download.__main__ import main

    declare(Access(kind="on_request", how="Ask the owner."), by_hand=("metadata.csv",))
    result = home.run("source_files", KEY)
    assert not result.success
    said = home.failure(result)
    assert "file metadata.csv: its owner gives it on request. Ask the owner. Then name the folder it lies in: " in said
    assert f"python -m perturbridge_dagster.sources.download {DATASET} --local FOLDER" in said
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "metadata.csv").write_bytes(native["metadata.csv"])
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(home.path))
    assert main([DATASET, "--local", str(tmp_path / "local")]) == 0
    home.materialize("source_files", KEY)
    assert visible(home.store.source_folder(DATASET)) == NAMES
    assert len(server.requests) == 2


def test_the_sample_is_not_mixed_with_what_is_to_be_fetched(home: Any) -> None:
    assert not use_sample(home.path)
    assert home.store.is_downloaded(DATASET)
    assert not home.store.is_downloaded("sciplex")
    (home.path / SETTINGS).write_text(f'[sources]\n{DATASET} = "./download"\n')
    assert not home.store.is_downloaded(DATASET)
    assert home.store.source_folder(DATASET) == home.path / "download"
