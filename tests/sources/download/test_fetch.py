"""Files from a server that misbehaves in every way we know."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.download import AccessError, Checksum, DownloadError, Limits, RemoteFile, Unpack, fetch
from perturbridge_dagster.sources.download.receipts import presence
from tests.serving import serving
from tests.sources.download.misbehaving_server import File, Handler, Server, says

pytestmark = pytest.mark.slow

TOKEN = "s3cret-t0ken-of-a-person"


@pytest.fixture
def bring(tmp_path: Path, server: Server, quick: Limits) -> Callable[..., bytes]:
    """Fetches one path of the server and gives what was stored."""

    def run(path: str = "/data.bin", *, limits: Limits = quick, progress: Callable[[str], None] | None = None, **declared: object) -> bytes:
        file = RemoteFile(Path(path.partition("?")[0]).name, server.url(path), **declared)  # type: ignore[arg-type]
        [stored] = fetch([file], tmp_path / "in", dataset="sciplex", limits=limits, progress=progress)
        return stored.read_bytes()

    return run


def sha256(body: bytes) -> Checksum:
    return Checksum("sha256", hashlib.sha256(body).hexdigest())


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# ---- what is fetched ---------------------------------------------------------------------------------------------------------


def test_a_file_is_stored_under_its_name_and_asked_for_once(
    bring: Callable[..., bytes], server: Server, tmp_path: Path, body: bytes
) -> None:
    server.plans["/data.bin"] = File(body)
    assert bring(size=len(body), checksum=sha256(body)) == body
    assert visible(tmp_path / "in") == ["data.bin"]
    bring(size=len(body), checksum=sha256(body))
    assert len(server.requests) == 1
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_md5_is_compared_too(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    server.plans["/data.bin"] = File(body)
    assert bring(checksum=Checksum("md5", hashlib.md5(body).hexdigest().upper())) == body


def test_an_empty_file_is_a_file(bring: Callable[..., bytes], server: Server) -> None:
    server.plans["/data.bin"] = File(b"")
    assert bring() == b""


def test_files_keep_their_order_and_folders(server: Server, tmp_path: Path, quick: Limits) -> None:
    files = []
    for name in ("c/1.bin", "a/2.bin", "b.bin"):
        server.plans[f"/{name}"] = File(name.encode())
        files.append(RemoteFile(name, server.url(f"/{name}")))
    stored = fetch(files, tmp_path, limits=quick)
    assert [path.relative_to(tmp_path).as_posix() for path in stored] == ["c/1.bin", "a/2.bin", "b.bin"]
    assert [path.read_bytes() for path in stored] == [b"c/1.bin", b"a/2.bin", b"b.bin"]


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a\\b", "C:x", ""])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        RemoteFile(name, "https://example.org/x")


def test_names_are_unique(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"declared twice: a\.bin"):
        fetch([RemoteFile("a.bin", "https://example.org/1"), RemoteFile("a.bin", "https://example.org/2")], tmp_path)


def test_a_credential_in_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="holds a credential") as caught:
        RemoteFile("a", "https://me:secret@example.org/a")
    assert "secret" not in str(caught.value)


# ---- answers that pass -------------------------------------------------------------------------------------------------------


def test_503_twice_then_good(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    server.plans["/data.bin"] = [says(503, b"busy"), says(503, b"busy"), File(body)]
    assert bring() == body
    assert len(server.requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize("as_date", [False, True])
def test_429_is_asked_again_when_it_says(bring: Callable[..., bytes], server: Server, body: bytes, as_date: bool) -> None:
    asked = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"
    server.plans["/data.bin"] = [says(429, Retry_After=asked), File(body)]
    lines: list[str] = []
    assert bring(progress=lines.append) == body
    waited = server.requests[1].at - server.requests[0].at
    assert 0.8 < waited < 10
    assert any("429 Too Many Requests" in line and "try 2 of 4" in line for line in lines)


@pytest.mark.parametrize("asked", ["86400", "-5", "soon", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_retry_after_is_capped_and_nonsense_ignored(bring: Callable[..., bytes], server: Server, quick: Limits, asked: str) -> None:
    server.plans["/data.bin"] = [says(429, Retry_After=asked), File(b"x")]
    began = time.monotonic()
    assert bring(limits=replace(quick, longest_retry_after_s=0.2)) == b"x"
    assert time.monotonic() - began < 10


def test_tries_are_bounded_and_counted(bring: Callable[..., bytes], server: Server) -> None:
    server.plans["/data.bin"] = says(503, b"<html><title>Down for repair</title></html>")
    with pytest.raises(DownloadError) as caught:
        bring()
    assert len(server.requests) == 4
    text = str(caught.value)
    assert "dataset sciplex; file data.bin: given up after 4 tries" in text
    assert "503 Service Unavailable (Down for repair)" in text


def test_pauses_grow_and_are_random(bring: Callable[..., bytes], server: Server, quick: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []
    monkeypatch.setattr("random.uniform", lambda low, high: drawn.append((low, high)) or high)
    server.plans["/data.bin"] = says(500)
    with pytest.raises(DownloadError):
        bring(limits=replace(quick, tries=6, first_pause_s=0.01, longest_pause_s=0.05))
    assert drawn[:5] == [(0, 0.01), (0, 0.02), (0, 0.04), (0, 0.05), (0, 0.05)]


def test_no_server_at_all(tmp_path: Path, quick: Limits) -> None:
    with pytest.raises(DownloadError, match=r"given up after 4 tries.*ConnectError"):
        fetch([RemoteFile("a.bin", "http://127.0.0.1:9/a.bin")], tmp_path, limits=quick)


# ---- resuming ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_broken_body_is_continued_where_it_ended(bring: Callable[..., bytes], server: Server, body: bytes, how: str) -> None:
    file = File(body)
    server.plans["/data.bin"] = [file.broken_after(100_000, how), file.broken_after(100_000, how), file]
    assert bring() == body
    first, second, third = server.requests
    assert "Range" not in first.headers
    starts = [int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) for request in (second, third)]
    assert 0 < starts[0] <= 100_000 < starts[1] <= 200_000
    assert {request.headers["If-Range"] for request in (second, third)} == {file.etag}


def test_a_large_file_outlives_more_breaks_than_tries(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    server.plans["/data.bin"] = File(body).broken_after(20_000, "closed")
    assert bring() == body
    assert len(server.requests) == 16


def test_a_server_that_only_ever_brings_crumbs_is_given_up(bring: Callable[..., bytes], server: Server, body: bytes, quick: Limits) -> None:
    server.plans["/data.bin"] = File(body).broken_after(600, "closed")
    with pytest.raises(DownloadError, match=r"given up after 4 tries.*2\.4 kB are kept; run it again to continue"):
        bring(limits=replace(quick, least_bytes=5000))
    assert len(server.requests) == 4


def test_the_next_run_continues(bring: Callable[..., bytes], server: Server, body: bytes, quick: Limits, tmp_path: Path) -> None:
    file = File(body)
    server.plans["/data.bin"] = file.broken_after(100_000, "closed")
    with pytest.raises(DownloadError):
        bring(limits=replace(quick, tries=1, least_bytes=10**9))
    assert visible(tmp_path / "in") == []
    server.plans["/data.bin"] = file
    assert bring() == body
    assert server.requests[-1].headers["Range"] == "bytes=100000-"


def test_a_server_that_ignores_ranges_starts_again(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    file = File(body, ranges=False)
    server.plans["/data.bin"] = [file.broken_after(100_000, "closed"), file]
    assert bring(checksum=sha256(body)) == body


def test_a_file_that_changed_between_tries_is_not_mixed(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    old, new = File(body), File(body[::-1])
    server.plans["/data.bin"] = [old.broken_after(100_000, "closed"), new]
    assert bring() == new.body
    assert server.requests[1].headers["If-Range"] == old.etag


def test_a_server_that_continues_another_file_is_noticed(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    old, new = File(body), File(body[::-1])

    def careless(handler: Handler) -> None:
        del handler.headers["If-Range"]  # continues whatever is there now
        new(handler)

    server.plans["/data.bin"] = [old.broken_after(100_000, "closed"), careless]
    assert bring() == new.body


def test_without_etag_or_date_it_starts_again(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    file = File(body, etag=None)
    server.plans["/data.bin"] = [file.broken_after(100_000, "closed"), file]
    assert bring() == body
    assert "Range" not in server.requests[1].headers


def test_without_etag_or_date_a_checksum_allows_to_continue(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    file = File(body, etag=None)
    server.plans["/data.bin"] = [file.broken_after(100_000, "closed"), file]
    assert bring(checksum=sha256(body)) == body
    assert server.requests[1].headers["Range"] == "bytes=100000-"


def test_a_weak_etag_gives_way_to_the_date(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    file = File(body, etag='W/"1"', last_modified="Wed, 21 Oct 2015 07:28:00 GMT")
    server.plans["/data.bin"] = [file.broken_after(100_000, "closed"), file]
    assert bring() == body
    assert server.requests[1].headers["If-Range"] == file.last_modified


def test_pieces_that_do_not_fit_are_fetched_once_more(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    wrong = File(b"x" * len(body), etag='"same"')
    right = File(body, etag='"same"')
    server.plans["/data.bin"] = [wrong.broken_after(100_000, "closed"), right]
    assert bring(checksum=sha256(body)) == body
    assert [request.headers.get("Range") for request in server.requests] == [None, "bytes=100000-", None]


def test_a_partial_file_of_another_address_is_not_continued(server: Server, tmp_path: Path, body: bytes, quick: Limits) -> None:
    server.plans["/old"] = File(body).broken_after(100_000, "closed")
    server.plans["/new"] = File(body[::-1])
    with pytest.raises(DownloadError):
        fetch([RemoteFile("a.bin", server.url("/old"))], tmp_path, limits=replace(quick, tries=1, least_bytes=10**9))
    [stored] = fetch([RemoteFile("a.bin", server.url("/new"))], tmp_path, limits=quick)
    assert stored.read_bytes() == body[::-1]
    assert "Range" not in server.requests[-1].headers


def test_maintenance_pages_do_not_cost_what_was_begun(bring: Callable[..., bytes], server: Server, body: bytes, quick: Limits) -> None:
    file = File(body)
    page = b"<!DOCTYPE html><html><body>We are down for maintenance.</body></html>"
    for kind in ("text/html", "application/octet-stream"):
        server.plans["/data.bin"] = file.broken_after(50_000, "closed")
        with pytest.raises(DownloadError):
            bring(limits=replace(quick, tries=1, least_bytes=10**9))
        server.plans["/data.bin"] = says(200, page, Content_Type=kind)
        with pytest.raises(DownloadError, match="web page"):
            bring()
    server.plans["/data.bin"] = file
    assert bring() == body
    assert server.requests[-1].headers["Range"] == "bytes=100000-"


def test_a_slow_drip_is_broken_off_and_continued(bring: Callable[..., bytes], server: Server, body: bytes, quick: Limits) -> None:
    file = File(body)
    server.plans["/data.bin"] = [file.dripping(300, 0.02), file]
    lines: list[str] = []
    began = time.monotonic()
    assert bring(progress=lines.append, limits=replace(quick, least_bytes=5000)) == body
    assert time.monotonic() - began < 10  # to the end it would drip for 20 s
    assert int(server.requests[1].headers["Range"].removeprefix("bytes=").removesuffix("-")) > 0
    assert any("came in 0 s" in line for line in lines)


def test_silence_is_broken_off(bring: Callable[..., bytes], server: Server, body: bytes, quick: Limits) -> None:
    file = File(body)
    server.plans["/data.bin"] = [file.dripping(100_000, 5.0), file]
    began = time.monotonic()
    assert bring(limits=replace(quick, read_s=0.2)) == body
    assert time.monotonic() - began < 5


_CHILD = """
import sys
from pathlib import Path
from perturbridge_dagster.sources.download import RemoteFile, fetch
url, folder = sys.argv[1:]
print("begun", flush=True)
[path] = fetch([RemoteFile("data.bin", url)], Path(folder))
print(path, flush=True)
"""


def child(*arguments: str, code: str = _CHILD) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_killed_in_the_middle_and_continued(bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path) -> None:
    file = File(body)
    server.plans["/data.bin"] = [file.dripping(50_000, 0.3), file]
    process = child(server.url("/data.bin"), str(tmp_path / "in"))
    aside = tmp_path / "in" / ".data.bin.download"
    while not (aside.exists() and aside.stat().st_size >= 50_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    ends(process)
    assert visible(tmp_path / "in") == []
    assert bring() == body
    assert int(server.requests[1].headers["Range"].removeprefix("bytes=").removesuffix("-")) >= 50_000


@pytest.mark.slow
def test_two_processes_share_one_transfer(server: Server, body: bytes, tmp_path: Path) -> None:
    server.plans["/data.bin"] = File(body).dripping(100_000, 0.2)
    processes = [child(server.url("/data.bin"), str(tmp_path / "in")) for _ in range(2)]
    for process in processes:
        code, out, err = ends(process)
        assert code == 0, err
        assert out.endswith("data.bin\n")
    assert (tmp_path / "in" / "data.bin").read_bytes() == body
    assert len(server.requests) == 1


# ---- what is not the file ----------------------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused_with_both(bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path) -> None:
    server.plans["/data.bin"] = File(body)
    with pytest.raises(DownloadError) as caught:
        bring(checksum=sha256(b"else"))
    assert sha256(body).value in str(caught.value)
    assert sha256(b"else").value in str(caught.value)
    assert len(server.requests) == 1
    assert [path.name for path in (tmp_path / "in").iterdir()] == [".data.bin.lock"]


def test_another_size_is_refused_before_it_is_fetched(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    server.plans["/data.bin"] = File(body)
    with pytest.raises(DownloadError, match="offers a file of 307,200 bytes; 1,000 were declared"):
        bring(size=1000)


def test_a_length_that_promises_too_much(bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path) -> None:
    def boasting(handler: Handler) -> None:
        handler.send(200, body, Content_Length=len(body) + 1000)
        handler.close_connection = True

    server.plans["/data.bin"] = boasting
    with pytest.raises(DownloadError, match="given up after"):
        bring()
    assert visible(tmp_path / "in") == []


def test_a_length_that_promises_too_little(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    server.plans["/data.bin"] = says(200, body, Content_Length=len(body) - 1000, Connection="close")
    with pytest.raises(DownloadError, match="sha256"):
        bring(checksum=sha256(body))


def test_without_length_a_file_needs_a_size_or_checksum(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    def endless(handler: Handler) -> None:
        handler.send(200, body, Content_Length=None, Connection="close")
        handler.close_connection = True

    def truncated(handler: Handler) -> None:
        handler.send(200, body[:-1000], Content_Length=None, Connection="close")
        handler.close_connection = True

    server.plans["/data.bin"] = endless
    with pytest.raises(DownloadError, match="does not say how long the file is"):
        bring()
    server.plans["/data.bin"] = truncated
    with pytest.raises(DownloadError, match="ended after 306,200 of 307,200 bytes"):
        bring(size=len(body))
    server.plans["/data.bin"] = endless
    assert bring(size=len(body)) == body


def test_more_than_was_declared_is_not_taken(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    def endless(handler: Handler) -> None:
        handler.send(200, body, Content_Length=None, Connection="close")
        handler.close_connection = True

    server.plans["/data.bin"] = endless
    with pytest.raises(DownloadError, match="sends more than the 100,000 bytes declared"):
        bring(size=100_000)


@pytest.mark.parametrize("told", [True, False])
def test_a_continued_file_has_the_length_that_was_told(
    bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path, told: bool
) -> None:
    """By the answer that continues it, or only by the one that began it."""
    file = File(body)

    def continued(handler: Handler, end: int, more: bytes = b"") -> None:
        status, start, headers = file.part(handler)
        assert status == 206
        if not told:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/*"
        piece = body[start:end] + more
        chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n0\r\n\r\n"
        handler.send(206, chunk, **{**headers, "Content_Length": None, "Transfer_Encoding": "chunked"})

    server.plans["/data.bin"] = [
        file.broken_after(100_000, "closed"),
        lambda handler: continued(handler, 200_000),
        lambda handler: continued(handler, len(body), b"more"),
    ]
    with pytest.raises(DownloadError, match="sends more than the 307,200 bytes that it says the file has"):
        bring()
    assert len(server.requests) == 3
    assert [path.name for path in (tmp_path / "in").iterdir()] == [".data.bin.lock"]
    server.plans["/data.bin"] = file
    assert bring() == body


def test_chunks_end_by_themselves(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    def chunked(handler: Handler, n: int = len(body), end: bytes = b"0\r\n\r\n") -> None:
        handler.send(200, b"", Content_Length=None, Transfer_Encoding="chunked")
        for at in range(0, n, 50_000):
            piece = body[at : at + 50_000]
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.wfile.write(end)
        handler.close_connection = not end

    server.plans["/data.bin"] = [lambda handler: chunked(handler, 100_000, b""), chunked]
    assert bring() == body
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("name", "answer", "says_what"),
    [
        ("a.bin", says(200, b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8"), "a web page instead of the file"),
        ("a.bin", says(200, b"\n<!doctype HTML><html>Please log in</html>" + b" " * 900), "answered with a web page"),
        ("a.txt", says(200, b"<!-- x --><html>short</html>", Content_Type="text/plain"), "answered with a web page"),
        ("a.parquet", says(200, b'{"error": "quota"}', Content_Type="application/json"), r"no parquet file: it begins with b'{\"error"),
        ("a.txt.gz", says(200, b"plain text" * 100), "no gz file"),
        ("a.h5ad", says(200, b"version https://git-lfs.github.com/spec/v1\n"), "no h5ad file"),
        ("a.csv", says(200, gzip.compress(b"a,b"), Content_Encoding="gzip"), "packed as gzip, unasked"),
    ],
)
def test_what_is_not_the_file_is_refused(
    bring: Callable[..., bytes], server: Server, name: str, answer: Callable[[Handler], None], says_what: str, tmp_path: Path
) -> None:
    server.plans[f"/{name}"] = answer
    with pytest.raises(DownloadError, match=says_what):
        bring(f"/{name}")
    assert len(server.requests) == 1
    assert visible(tmp_path / "in") == []


def test_a_gz_file_sent_as_packed_content_stays_as_it_is(bring: Callable[..., bytes], server: Server) -> None:
    packed = gzip.compress(b"a\tb\n")
    server.plans["/a.txt.gz"] = says(200, packed, Content_Encoding="gzip", Content_Type="text/plain")
    assert bring("/a.txt.gz") == packed


# ---- redirects and credentials -----------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_ranges_with_them(bring: Callable[..., bytes], server: Server, body: bytes) -> None:
    file = File(body)
    server.plans["/data.bin"] = says(302, Location="/store/data.bin?signature=1")
    server.plans["/store/data.bin"] = [file.broken_after(100_000, "closed"), file]
    assert bring() == body
    assert [request.headers.get("Range") for request in server.asked("/store/data.bin")] == [None, "bytes=100000-"]


@pytest.mark.parametrize("circle", [True, False])
def test_redirects_without_end(bring: Callable[..., bytes], server: Server, circle: bool) -> None:
    if circle:
        server.plans["/data.bin"] = says(302, Location="/b")
        server.plans["/b"] = says(302, Location="/data.bin")
    else:
        server.plans["/data.bin"] = lambda handler: handler.send(302, Location=f"/data.bin?n={len(server.requests)}")
    with pytest.raises(DownloadError, match="redirects in a circle" if circle else "redirects more than 10 times"):
        bring()
    assert len(server.requests) == (2 if circle else 11)


def test_a_redirect_to_another_kind_of_address(bring: Callable[..., bytes], server: Server) -> None:
    server.plans["/data.bin"] = says(302, Location="file:///etc/passwd")
    with pytest.raises(DownloadError, match="redirects to"):
        bring()


def test_a_token_goes_to_its_own_host_only(
    server: Server, tmp_path: Path, quick: Limits, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    other = Server()
    with serving(other):
        server.plans["/data.bin"] = says(302, Location="/here")
        server.plans["/here"] = says(307, Location=other.url("/there"))
        other.plans["/there"] = File(body)
        [stored] = fetch([RemoteFile("data.bin", server.url("/data.bin"), token_variable="TEST_TOKEN")], tmp_path, limits=quick)
        assert stored.read_bytes() == body
        assert [request.headers.get("Authorization") for request in server.requests] == [f"Bearer {TOKEN}"] * 2
        assert TOKEN not in json.dumps([request.headers for request in other.requests])


def test_a_token_is_not_sent_unencrypted(tmp_path: Path, quick: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    with pytest.raises(AccessError, match="not encrypted"):
        fetch([RemoteFile("a.bin", "http://example.org/a.bin", token_variable="TEST_TOKEN")], tmp_path, limits=quick)


@pytest.mark.parametrize("code", [401, 403])
def test_refused_access_says_which_variable(
    bring: Callable[..., bytes], server: Server, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plans["/data.bin"] = says(code)
    with pytest.raises(AccessError, match=f"answered {code}.*not, or no longer, open"):
        bring()
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    with pytest.raises(AccessError, match=r"The token in TEST_TOKEN was refused.*Get one from the portal"):
        bring(token_variable="TEST_TOKEN", how="Get one from the portal.")
    assert len(server.requests) == 2


def test_without_the_token_nobody_is_asked(bring: Callable[..., bytes], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", " "):
        monkeypatch.setenv("TEST_TOKEN", value)
        with pytest.raises(AccessError, match=r"variable TEST_TOKEN, and that is not set\. Get one from the portal"):
            bring(token_variable="TEST_TOKEN", how="Get one from the portal.")
    assert not server.requests


@pytest.mark.parametrize("code", [404, 410, 400, 501])
def test_what_will_not_pass_is_not_tried_again(bring: Callable[..., bytes], server: Server, code: int) -> None:
    server.plans["/data.bin"] = says(code, b"<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>")
    with pytest.raises(DownloadError, match=rf"answered {code} .*The key does not exist\."):
        bring()
    assert len(server.requests) == 1


def test_no_secret_is_ever_told(
    bring: Callable[..., bytes], server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    signature = "signature-abc"
    server.plans["/data.bin"] = says(302, Location=f"/signed?X-Signature={signature}")
    echo = f'{{"message": "token {TOKEN} of http://other/x?sig={signature} is bad"}}'.encode()
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    for answers in ([says(503, echo)], [says(403, echo)], [File(body).broken_after(10, "reset")], [File(body)]):
        server.plans["/signed"] = answers
        try:
            bring(token_variable="TEST_TOKEN", progress=lines.append)
        except DownloadError as error:
            told = "".join(traceback.format_exception(error))
            assert TOKEN not in told
            assert signature not in told
    assert server.asked("/signed")[-1].path.endswith(signature)
    everything = caplog.text + "".join(lines)
    assert "fetched from" in everything
    assert TOKEN not in everything
    assert signature not in everything


@pytest.mark.parametrize("cut", ["what is told", "what is read", "what came at once"])
def test_no_part_of_a_secret_is_told(bring: Callable[..., bytes], server: Server, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    """Wherever an answer that repeats the token is cut."""
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    before = {"what is told": b"x" * 190, "what is read": b"x" * 10 + b" " * 4076, "what came at once": b"bad token "}[cut]
    echo = before + TOKEN.encode()

    def answer(handler: Handler) -> None:
        at = len(before) + 10
        handler.send(403, echo[:at] if cut == "what came at once" else echo, Content_Length=len(echo))
        if cut == "what came at once":
            handler.wfile.flush()
            time.sleep(0.3)
            handler.wfile.write(echo[at:])

    server.plans["/data.bin"] = answer
    with pytest.raises(AccessError, match="answered 403 Forbidden") as caught:
        bring(token_variable="TEST_TOKEN")
    assert "…" in str(caught.value)
    assert TOKEN[:4] not in str(caught.value)


def test_a_token_that_cannot_be_one_is_not_shown(bring: Callable[..., bytes], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN", "two\nlines-of-secret")
    with pytest.raises(AccessError, match="TEST_TOKEN") as caught:
        bring(token_variable="TEST_TOKEN")
    assert "lines-of-secret" not in str(caught.value)
    assert not server.requests


# ---- the disk ----------------------------------------------------------------------------------------------------------------

_FULL = """
import resource, sys
from pathlib import Path
from perturbridge_dagster.sources.download import RemoteFile, fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
fetch([RemoteFile("data.bin", sys.argv[1])], Path(sys.argv[2]))
"""


def test_a_full_disk_keeps_what_came(bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path) -> None:
    server.plans["/data.bin"] = File(body)
    code, _, err = ends(child(server.url("/data.bin"), str(tmp_path / "in"), code=_FULL))
    assert code == 1
    assert "DownloadError: file data.bin: the disk is full, or a quota is. Make room" in err
    assert len(server.requests) == 1
    assert bring() == body
    assert server.requests[1].headers["Range"] == "bytes=100000-"


def test_too_little_room_is_said_first(
    bring: Callable[..., bytes], server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.plans["/data.bin"] = File(body)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(DownloadError, match=r"307\.2 kB are to come and 1\.0 kB are free"):
        bring()
    assert not (tmp_path / "in" / ".data.bin.download").exists()


# ---- several files -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_more_at_once_than_is_polite(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def slow(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.15)
        with lock:
            now -= 1
        File(body)(handler)

    files = []
    for i in range(8):
        server.plans[f"/{i}.bin"] = slow
        files.append(RemoteFile(f"{i}.bin", server.url(f"/{i}.bin")))
    fetch(files, tmp_path / "two", limits=quick)
    assert most == 2
    most = 0
    fetch(files, tmp_path / "four", limits=replace(quick, per_host=8))
    assert most == 4
    most = 0
    fetch(files, tmp_path / "one", limits=quick, at_once=1)
    assert most == 1


def test_one_missing_file_does_not_cost_the_others(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/1.bin"] = File(body)
    files = [RemoteFile(name, server.url(f"/{name}")) for name in ("0.bin", "1.bin", "2.bin")]
    with pytest.raises(DownloadError) as caught:
        fetch(files, tmp_path, limits=quick, dataset="op3")
    assert "2 of 3 files could not be had" in str(caught.value)
    assert "- 0.bin: " in str(caught.value)
    assert "- 2.bin: " in str(caught.value)
    assert str(caught.value).count("The source has moved or withdrawn it.") == 1
    assert visible(tmp_path) == ["1.bin"]


def test_a_file_that_fails_is_told_before_the_others_are_there(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/1.bin"] = File(body).dripping(100_000, 0.2)
    lines: list[str] = []
    with pytest.raises(DownloadError):
        fetch([RemoteFile(name, server.url(f"/{name}")) for name in ("0.bin", "1.bin")], tmp_path, limits=quick, progress=lines.append)
    assert [line.split(":")[0] for line in lines if "files;" not in line] == ["0.bin FAILED", "1.bin"]


def test_a_display_is_told_how_far_all_is_instead_of_lines(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/1.bin"] = File(body).dripping(100_000, 0.2)
    lines: list[str] = []
    seen: list[dict[str, tuple[int, int | None]]] = []
    fetch(
        [RemoteFile("1.bin", server.url("/1.bin"))],
        tmp_path,
        limits=quick,
        progress=lines.append,
        watch=lambda there: seen.append(dict(there)),
    )
    assert [line.split(":")[0] for line in lines] == ["1.bin"]
    assert {"1.bin": (100_000, len(body))} in seen
    assert seen[-1] == {}


@pytest.mark.slow
def test_progress_comes_in_the_callers_thread_and_not_too_often(
    bring: Callable[..., bytes], server: Server, quick: Limits, body: bytes
) -> None:
    server.plans["/data.bin"] = File(body).dripping(10_000, 0.03)
    told: list[tuple[float, str]] = []
    threads = set()

    def progress(line: str) -> None:
        told.append((time.monotonic(), line))
        threads.add(threading.current_thread())

    bring(progress=progress, limits=replace(quick, seconds_between_lines=0.25))
    assert threads == {threading.current_thread()}
    running = [(at, line) for at, line in told if "of 307.2 kB" in line]
    assert len(running) >= 2
    assert all(later - earlier >= 0.25 for (earlier, _), (later, _) in itertools.pairwise(running))
    assert "0 of 1 files; data.bin" in running[0][1]
    assert "/s, about" in running[0][1]
    assert told[-1][1].startswith("data.bin: fetched from http://127.0.0.1")


def test_interrupting_ends_soon_and_keeps_what_came(
    bring: Callable[..., bytes], server: Server, quick: Limits, body: bytes, tmp_path: Path
) -> None:
    server.plans["/data.bin"] = File(body).dripping(20_000, 0.25)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bring(progress=interrupt, limits=replace(quick, seconds_between_lines=0.15))
    assert time.monotonic() - began < 3
    assert 0 < (tmp_path / "in" / ".data.bin.download").stat().st_size < len(body)


# ---- what is there already ---------------------------------------------------------------------------------------------------


def test_a_file_put_there_by_a_person_is_checked_and_never_overwritten(
    bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path
) -> None:
    server.plans["/data.bin"] = File(body)
    (tmp_path / "in").mkdir()
    mine = tmp_path / "in" / "data.bin"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match="there is another file of that name: it has 4 bytes, not 307,200"):
        bring(size=len(body))
    assert mine.read_bytes() == b"mine"
    mine.write_bytes(body)
    assert bring(size=len(body), checksum=sha256(body)) == body
    assert not server.requests


def test_a_new_declaration_replaces_what_was_fetched(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/1"], server.plans["/2"] = File(body), File(body[::-1])
    for path, content in (("/1", body), ("/2", body[::-1])):
        [stored] = fetch([RemoteFile("a.bin", server.url(path), checksum=sha256(content))], tmp_path, limits=quick)
        assert stored.read_bytes() == content


def test_a_fetched_file_that_was_changed_is_noticed(bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path) -> None:
    server.plans["/data.bin"] = File(body)
    bring()
    (tmp_path / "in" / "data.bin").write_bytes(body[:-1] + b"?")
    with pytest.raises(InputError, match="it was changed after it was fetched"):
        bring()
    with pytest.raises(InputError, match="its sha256 is"):
        bring(checksum=sha256(body))


@pytest.mark.parametrize("declared", [False, True])
def test_a_folder_that_was_copied_without_its_times_is_known(
    server: Server, tmp_path: Path, quick: Limits, body: bytes, declared: bool
) -> None:
    """Whether its checksum was declared or only noted, and what an archive was unpacked to as well."""
    packed = gzip.compress(body)
    server.plans["/a.bin"], server.plans["/b.txt.gz"] = File(body), File(packed)
    files = [
        RemoteFile("a.bin", server.url("/a.bin"), checksum=sha256(body) if declared else None),
        RemoteFile("b.txt.gz", server.url("/b.txt.gz"), checksum=sha256(packed) if declared else None, unpack=Unpack(keep_archive=True)),
    ]
    fetch(files, tmp_path / "in", limits=quick)
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "in", copied)
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    assert [presence(file, copied)[0] for file in files] == ["unchecked", "unchecked"]
    assert [path.read_bytes() for path in fetch(files, copied, limits=quick)] == [body, body]
    assert len(server.requests) == 2
    # the new times are noted, so that it is not read again
    assert [presence(file, copied)[0] for file in files] == ["received", "received"]


def test_a_receipt_of_an_earlier_version_holds_no_checksum(
    bring: Callable[..., bytes], server: Server, body: bytes, tmp_path: Path
) -> None:
    server.plans["/data.bin"] = File(body)
    bring()
    receipt = tmp_path / "in" / ".data.bin.received.json"
    content = json.loads(receipt.read_text())
    assert content.pop("checksums") == {"data.bin": str(sha256(body))}
    receipt.write_text(json.dumps(content))
    assert bring() == body
    assert len(server.requests) == 1
    os.utime(tmp_path / "in" / "data.bin", (1, 1))
    with pytest.raises(InputError, match="copied without its time, and the record of its fetch holds no checksum"):
        bring()


def test_what_is_given_on_request_says_how_and_takes_a_folder(tmp_path: Path, quick: Limits, body: bytes) -> None:
    file = RemoteFile("raw/counts.bin", size=len(body), how="Ask the authors with the form on their page.")
    with pytest.raises(AccessError, match=r"dataset dilimap_train; file raw/counts\.bin: its owner gives it on request\. Ask the authors"):
        fetch([file], tmp_path / "in", dataset="dilimap_train", limits=quick)
    local = tmp_path / "from owner"
    local.mkdir()
    with pytest.raises(AccessError, match=r"it is not in .*from owner"):
        fetch([file], tmp_path / "in", local=local, limits=quick)
    (local / "counts.bin").write_bytes(body[:-1])
    with pytest.raises(DownloadError, match="it has 307,199 bytes, not 307,200"):
        fetch([file], tmp_path / "in", local=local, limits=quick)
    (local / "counts.bin").write_bytes(body)
    [stored] = fetch([file], tmp_path / "in", local=local, limits=quick)
    assert stored == tmp_path / "in" / "raw" / "counts.bin"
    assert stored.read_bytes() == body
    assert fetch([file], tmp_path / "in", limits=quick) == [stored]


def test_a_local_folder_spares_the_way_and_the_rest_is_fetched(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/b.bin"] = File(body)
    local = tmp_path / "local"
    local.mkdir()
    (local / "a.bin").write_bytes(b"a")
    stored = fetch([RemoteFile(n, server.url(f"/{n}")) for n in ("a.bin", "b.bin")], tmp_path / "in", local=local, limits=quick)
    assert [path.read_bytes() for path in stored] == [b"a", body]
    assert [request.path for request in server.requests] == ["/b.bin"]


# ---- archives ----------------------------------------------------------------------------------------------------------------


def test_a_gz_file_is_unpacked_once(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/a.txt.gz"] = File(gzip.compress(body))
    file = RemoteFile("a.txt.gz", server.url("/a.txt.gz"), unpack=Unpack())
    for _ in range(2):
        [stored] = fetch([file], tmp_path, limits=quick)
        assert stored == tmp_path / "a.txt"
        assert stored.read_bytes() == body
    assert visible(tmp_path) == ["a.txt"]
    assert len(server.requests) == 1
    os.utime(stored, (1, 1))
    assert fetch([file], tmp_path, limits=quick) == [stored]
    stored.write_bytes(body[::-1])
    with pytest.raises(InputError, match=r"in the way of what a\.txt\.gz is unpacked to"):
        fetch([file], tmp_path, limits=quick)
    assert len(server.requests) == 1


def test_a_process_killed_while_it_unpacked_is_continued(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    """Before, in the middle of and after the moment at which the unpacked file gets its name."""
    server.plans["/a.txt.gz"] = File(gzip.compress(body))
    file = RemoteFile("a.txt.gz", server.url("/a.txt.gz"), unpack=Unpack())
    for moment in ("before", "after"):
        folder = tmp_path / moment
        fetch([replace(file, unpack=None)], folder, limits=quick)
        if moment == "after":
            (folder / "a.txt").write_bytes(body)
        (folder / ".a.txt.1234.partial").write_bytes(body[:100])
        asked = len(server.requests)
        [stored] = fetch([file], folder, limits=quick)
        assert stored.read_bytes() == body
        assert visible(folder) == ["a.txt"]
        assert len(server.requests) == asked


def test_what_a_person_has_unpacked_is_taken(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    file = RemoteFile("in/a.txt.gz", server.url("/a.txt.gz"), unpack=Unpack())
    local = tmp_path / "local"
    local.mkdir()
    (local / "a.txt").write_bytes(body)
    assert [path.read_bytes() for path in fetch([file], tmp_path / "linked", local=local, limits=quick)] == [body]
    (tmp_path / "there" / "in").mkdir(parents=True)
    (tmp_path / "there" / "in" / "a.txt").write_bytes(body)
    (tmp_path / "there" / "in" / "a.txt.gz").write_bytes(b"of a person")
    for _ in range(2):
        assert fetch([file], tmp_path / "there", limits=quick) == [tmp_path / "there" / "in" / "a.txt"]
    assert visible(tmp_path / "there" / "in") == ["a.txt", "a.txt.gz"]
    assert not server.requests
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "b.gctx").write_bytes(b"<html>no matrix</html>")
    with pytest.raises(InputError, match="it is a web page"):
        fetch([RemoteFile("b.gctx.gz", server.url("/b.gctx.gz"), unpack=Unpack())], tmp_path / "page", limits=quick)


def test_an_archive_of_a_person_stays_when_it_is_unpacked(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(body))
    file = RemoteFile("a.txt.gz", server.url("/a.txt.gz"), unpack=Unpack())
    for _ in range(2):
        assert fetch([file], tmp_path, limits=quick)[0].read_bytes() == body
    assert visible(tmp_path) == ["a.txt", "a.txt.gz"]
    assert not server.requests


def test_a_broken_archive_is_named(server: Server, tmp_path: Path, quick: Limits, body: bytes) -> None:
    server.plans["/a.txt.gz"] = File(gzip.compress(body)[:-100])
    with pytest.raises(InputError, match=r"dataset sciplex; file a\.txt\.gz: it cannot be unpacked \(EOFError"):
        fetch([RemoteFile("a.txt.gz", server.url("/a.txt.gz"), unpack=Unpack())], tmp_path, dataset="sciplex", limits=quick)
    assert visible(tmp_path) == ["a.txt.gz"]


def test_only_archives_are_unpacked(server: Server, tmp_path: Path, quick: Limits) -> None:
    with pytest.raises(InputError, match=r"a\.csv is no archive"):
        fetch([RemoteFile("a.csv", server.url("/a.csv"), unpack=Unpack())], tmp_path, limits=quick)
