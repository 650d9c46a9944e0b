"""Objects of other stores: where they lie, against a server that answers as the stores do."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.download import DownloadError, Limits, RemoteFile, Services, fetch
from perturbridge_dagster.sources.download.connection import Connection
from perturbridge_dagster.sources.download.stores import locate
from tests.sources.download.misbehaving_server import File, Server, says


@pytest.fixture
def connection(quick: Limits) -> Iterator[Connection]:
    connection = Connection(quick, threading.Event())
    yield connection
    connection.close()


@pytest.fixture
def services(server: Server) -> Services:
    return Services(s3=server.url(""), gcs=server.url(""), huggingface=server.url(""))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://example.org/a?file=b", "https://example.org/a?file=b"),
        ("s3://bucket/a folder/b+c%μ.txt", "https://bucket.s3.amazonaws.com/a%20folder/b%2Bc%25%CE%BC.txt"),
        ("s3://dotted.bucket/a", "https://s3.amazonaws.com/dotted.bucket/a"),
        ("s3://bucket/a?versionId=x+y", "https://bucket.s3.amazonaws.com/a?versionId=x%2By"),
        ("gs://bucket/a/b c", "https://storage.googleapis.com/bucket/a/b%20c"),
        ("hf://datasets/o/n/f/x.parquet", "https://huggingface.co/datasets/o/n/resolve/main/f/x.parquet"),
        ("hf://datasets/o/n@refs%2Fpr%2F1/x", "https://huggingface.co/datasets/o/n/resolve/refs%2Fpr%2F1/x"),
        ("hf://o/n@abc/x", "https://huggingface.co/o/n/resolve/abc/x"),
    ],
)
def test_addresses(url: str, address: str, connection: Connection) -> None:
    located = locate(RemoteFile("x", url), Services(), connection)
    assert located.url == address
    assert located.token_variable == ("HF_TOKEN" if url.startswith("hf:") else None)


def test_services_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert Services.from_environment() == Services()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://store.example.org/")
    assert Services.from_environment().bucket("b") == "https://store.example.org/b"


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "s3:///key", "hf://datasets/o", "quilt+s3://bucket", "lamin://owner", "lamin://o/i", "lamin://o/i/x/uid?key=1"]
)
def test_addresses_that_are_none(url: str, connection: Connection) -> None:
    with pytest.raises(InputError, match="Expected"):
        locate(RemoteFile("x", url), Services(), connection)


def test_objects_of_public_stores_are_fetched(server: Server, services: Services, tmp_path: Path, quick: Limits) -> None:
    urls = {"/bucket/k/1.bin": "s3://bucket/k/1.bin", "/b/2.bin": "gs://b/2.bin", "/datasets/o/n/resolve/main/3": "hf://datasets/o/n/3"}
    for path in urls:
        server.plans[path] = File(path.encode())
    files = [RemoteFile(f"{i}.bin", url) for i, url in enumerate(urls.values())]
    assert [path.read_bytes().decode() for path in fetch(files, tmp_path, limits=quick, services=services)] == list(urls)


def test_a_token_of_hugging_face_is_sent_where_there_is_one(
    server: Server, services: Services, tmp_path: Path, quick: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plans["/datasets/o/n/resolve/main/x"] = File(b"x")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    fetch([RemoteFile("1", "hf://datasets/o/n/x")], tmp_path, limits=quick, services=services)
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    fetch([RemoteFile("2", "hf://datasets/o/n/x")], tmp_path, limits=quick, services=services)
    assert [request.headers.get("Authorization") for request in server.requests] == [None, "Bearer hf_abc"]
    monkeypatch.delenv("HF_TOKEN")
    server.plans["/datasets/o/n/resolve/main/x"] = says(401)
    with pytest.raises(DownloadError, match="It wants a token: set the environment variable HF_TOKEN"):
        fetch([RemoteFile("3", "hf://datasets/o/n/x")], tmp_path, limits=quick, services=services)


def quilt_package(server: Server, content: bytes, sha256: str, kind: str = "SHA256") -> str:
    revision = "ab" * 32
    server.plans["/bucket/.quilt/named_packages/public/data/latest"] = says(200, revision.encode())
    entries = [
        {"version": "v0", "message": None},
        {"logical_key": "other", "physical_keys": ["s3://bucket/other"], "size": 1, "hash": None},
        {
            "logical_key": "counts.bin",
            "physical_keys": ["s3://bucket/data/counts.bin?versionId=v1"],
            "size": len(content),
            "hash": {"type": kind, "value": sha256},
        },
    ]
    server.plans[f"/bucket/.quilt/packages/{revision}"] = says(200, "\n".join(map(json.dumps, entries)).encode())
    server.plans["/bucket/data/counts.bin?versionId=v1"] = File(content)
    return "quilt+s3://bucket#package=public/data&path=counts.bin"


def test_a_file_of_a_quilt_package(server: Server, services: Services, tmp_path: Path, quick: Limits) -> None:
    url = quilt_package(server, b"counts", hashlib.sha256(b"counts").hexdigest())
    [stored] = fetch([RemoteFile("counts.bin", url)], tmp_path, limits=quick, services=services)
    assert stored.read_bytes() == b"counts"


def test_the_checksum_of_a_quilt_package_counts(server: Server, services: Services, tmp_path: Path, quick: Limits) -> None:
    url = quilt_package(server, b"counts", hashlib.sha256(b"else").hexdigest())
    with pytest.raises(DownloadError, match="sha256"):
        fetch([RemoteFile("counts.bin", url)], tmp_path, limits=quick, services=services)
    url = quilt_package(server, b"counts", "not one we can compute", "sha2-256-chunked")
    assert fetch([RemoteFile("counts.bin", url)], tmp_path, limits=quick, services=services) == [tmp_path / "counts.bin"]
    with pytest.raises(DownloadError, match="has no file 'missing'"):
        fetch([RemoteFile("x", url.replace("counts.bin", "missing"))], tmp_path, limits=quick, services=services)
    server.plans[f"/bucket/.quilt/packages/{'ab' * 32}"] = says(200, b"<html>Please log in</html>")
    with pytest.raises(DownloadError, match="gives as the list of the Quilt package public/data is none"):
        fetch([RemoteFile("y", url)], tmp_path, limits=quick, services=services)


# LaminDB is reached through its library only, so the double stands for the library: DB(instance).Artifact.get(key=…) or (uid), with
# the artifact's size and its path in a file system of fsspec that signs addresses


class _LaminDouble(SimpleNamespace):
    def __init__(self, server: Server) -> None:
        self.asked: list[tuple[object, ...]] = []
        super().__init__(
            DB=lambda instance: SimpleNamespace(Artifact=SimpleNamespace(get=lambda uid=None, key=None: self._get(instance, uid, key)))
        )
        self.server = server

    def _get(self, instance: str, uid: str | None = None, key: str | None = None) -> SimpleNamespace:
        self.asked.append((instance, uid, key))
        if key == "missing":
            raise LookupError("no such artifact; credentials were AKIA-SECRET")
        system = SimpleNamespace(sign=lambda path, expiration: self.server.url(f"/{path}?X-Signature=secret"))
        return SimpleNamespace(size=7, path=SimpleNamespace(path="bucket/plate1.h5ad", fs=system))


def test_artifacts_of_lamindb(server: Server, services: Services, tmp_path: Path, quick: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    double = _LaminDouble(server)
    monkeypatch.setitem(sys.modules, "lamindb", double)
    server.plans["/bucket/plate1.h5ad"] = File(b"7 bytes")
    lines: list[str] = []
    files = [RemoteFile("1", "lamin://laminlabs/pertdata?key=a/plate1.h5ad"), RemoteFile("2", "lamin://laminlabs/pertdata/artifact/uid1")]
    stored = fetch(files, tmp_path, limits=quick, services=services, progress=lines.append)
    assert [path.read_bytes() for path in stored] == [b"7 bytes"] * 2
    assert set(double.asked) == {("laminlabs/pertdata", None, "a/plate1.h5ad"), ("laminlabs/pertdata", "uid1", None)}
    with pytest.raises(DownloadError, match=r"did not say where missing of laminlabs/pertdata lies \(LookupError\)") as caught:
        fetch([RemoteFile("3", "lamin://laminlabs/pertdata?key=missing")], tmp_path, limits=quick)
    assert "SECRET" not in str(caught.value)
    assert "secret" not in "".join(lines)


def test_without_the_library_of_lamindb_it_says_what_to_install(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lamindb", None)
    with pytest.raises(InputError, match='Install the extra "lamindb"'):
        locate(RemoteFile("x", "lamin://laminlabs/pertdata?key=a"), Services(), connection)
