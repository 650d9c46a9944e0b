"""Archives, as they should be and as an attacker makes them."""

from __future__ import annotations

import gzip
import io
import pickle
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.sources.download import Unpack, UnsafeArchiveError
from perturbridge_dagster.sources.download.archives import unpack, unpacked_name

MEMBERS = {"readme.txt": b"words", "data/counts.csv": b"a,b\n1,2\n" * 1000, "data/empty": b""}
KINDS = (".zip", ".tar", ".tar.gz", ".tgz")


def pack(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, content in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    return path


def tar_with(path: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    with tarfile.open(path, "w") as archive:
        header = tarfile.TarInfo("member")
        change(header)
        archive.addfile(header)
    return path


def refused(archive: Path, match: str, rule: Unpack | None = None) -> None:
    """The archive is refused, and nothing of it is left, inside the folder or out."""
    folder = archive.parent
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(UnsafeArchiveError, match=match):
        unpack(archive, folder / "out", rule or Unpack())
    assert sorted(folder.parent.rglob("*")) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("kind", KINDS)
def test_members_come_out_as_they_are(folder: Path, kind: str) -> None:
    counted: list[int] = []
    came = unpack(pack(folder / f"a{kind}", MEMBERS), folder / "out", Unpack(), counted.append)
    assert {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in came} == MEMBERS
    assert counted[-1] >= sum(map(len, MEMBERS.values()))
    assert {path.name for path in folder.iterdir()} == {f"a{kind}", "out"}


@pytest.mark.parametrize("kind", KINDS)
def test_wanted_members_only(folder: Path, kind: str) -> None:
    archive = pack(folder / f"a{kind}", {**MEMBERS, "model.pkl": pickle.dumps({})})
    assert unpack(archive, folder / "out", Unpack(members=("data/*.csv",))) == [folder / "out" / "data" / "counts.csv"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_unpacking_is_replaced_whole(folder: Path, kind: str) -> None:
    unpack(pack(folder / f"a{kind}", {"old": b"1"}), folder / "out", Unpack())
    (folder / ".out.unpacking").mkdir()  # of a process that was killed
    (folder / ".out.unpacking" / "half").touch()
    assert unpack(pack(folder / f"a{kind}", {"new": b"2"}), folder / "out", Unpack()) == [folder / "out" / "new"]
    assert {path.name for path in folder.iterdir()} == {f"a{kind}", "out"}


def test_a_gz_file_is_one_file(folder: Path) -> None:
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    assert unpack(folder / "a.txt.gz", folder / "a.txt", Unpack()) == [folder / "a.txt"]
    assert (folder / "a.txt").read_bytes() == b"onetwo"


def test_a_tar_of_the_folder_it_was_made_in(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        archive.add(source, ".")
    assert unpack(folder / "a.tar.gz", folder / "out", Unpack()) == [folder / "out" / "a"]


@pytest.mark.parametrize(
    ("name", "result"),
    [("x/a.tar.gz", "x/a"), ("a.TGZ", "a"), ("a.zip", "a"), ("a.txt.gz", "a.txt"), ("a.tar", "a")],
)
def test_what_an_archive_is_unpacked_to(name: str, result: str) -> None:
    assert unpacked_name(name) == result


@pytest.mark.parametrize("name", ["a.csv", ".gz", "a.rar", "gz"])
def test_what_is_no_archive(name: str) -> None:
    with pytest.raises(ValueError, match="no archive"):
        unpacked_name(name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:evil", "a/\x01"])
def test_members_that_leave_the_folder(folder: Path, kind: str, name: str) -> None:
    refused(pack(folder / f"a{kind}", {"good": b"1", name: b"evil"}), "written outside its folder")


def test_links_and_devices_in_a_tar(folder: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):

        def change(header: tarfile.TarInfo, kind: bytes = kind) -> None:
            header.type, header.linkname = kind, "/etc/passwd"

        refused(tar_with(folder / "a.tar", change), "link, a device or a sparse file")


def test_links_in_a_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(folder / "a.zip", "link or a device")


@pytest.mark.parametrize("kind", KINDS)
def test_pickles(folder: Path, kind: str) -> None:
    refused(pack(folder / f"a{kind}", {"deep/model.PKL.gz": b"1"}), "is a pickle")


def test_a_gz_of_a_pickle(folder: Path) -> None:
    (folder / "a.pkl.gz").write_bytes(gzip.compress(pickle.dumps({})))
    with pytest.raises(UnsafeArchiveError, match="is a pickle"):
        unpack(folder / "a.pkl.gz", folder / "a.pkl", Unpack())
    assert not (folder / "a.pkl").exists()


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
@pytest.mark.parametrize("wanted", [(), ("nothing",)])
def test_a_bomb_ends_early(folder: Path, kind: str, wanted: tuple[str, ...]) -> None:
    archive = pack(folder / f"a{kind}", {"zeros": bytes(80 * 1024**2)})
    out: list[int] = []
    if wanted and kind == ".zip":
        assert unpack(archive, folder / "out", Unpack(members=wanted), out.append) == []  # zip skips without reading
        return
    with pytest.raises(UnsafeArchiveError, match="more than 200 bytes come out for each"):
        unpack(archive, folder / "out", Unpack(members=wanted), out.append)
    assert out[-1] <= 64 * 1024**2
    assert not (folder / "out").exists()


def test_a_gz_bomb_ends_early(folder: Path) -> None:
    (folder / "a.csv.gz").write_bytes(gzip.compress(bytes(80 * 1024**2)))
    with pytest.raises(UnsafeArchiveError, match="more than 200 bytes"):
        unpack(folder / "a.csv.gz", folder / "a.csv", Unpack())
    assert {path.name for path in folder.iterdir()} == {"a.csv.gz"}


@pytest.mark.parametrize("kind", KINDS)
def test_absolute_limits(folder: Path, kind: str) -> None:
    archive = pack(folder / f"a{kind}", MEMBERS)
    refused(archive, r"more than 1\.0 kB", Unpack(most_bytes=1000))
    refused(archive, "more than 2 members", Unpack(most_files=2))


def test_a_tar_header_that_would_fill_the_memory(folder: Path) -> None:
    def change(header: tarfile.TarInfo) -> None:
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2 * 1024**2

    refused(tar_with(folder / "a.tar", change), "a header of 2,097,152 bytes")


@pytest.mark.parametrize("kind", KINDS)
def test_two_members_of_one_name(folder: Path, kind: str) -> None:
    with pytest.warns(UserWarning, match="Duplicate name") if kind == ".zip" else nullcontext():
        archive = _twice(folder / f"a{kind}")
    refused(archive, "two of its members want the same name")


def _twice(path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "1")
            archive.writestr("a", "2")
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a"))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_also_a_folder(folder: Path, kind: str) -> None:
    refused(pack(folder / f"a{kind}", {"a": b"1", "a/b": b"2"}), "same name")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_archives(folder: Path, kind: str) -> None:
    archive = pack(folder / f"a{kind}", {"counts": bytes(range(256)) * 400, "more": b"1" * 5000})
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    refused(archive, "cannot be unpacked|truncated")


@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda tar: tar[:1024], "empty header where a member or the end should be"),  # where the second member would begin
        (lambda tar: tar[:1124], "truncated header where a member or the end should be"),
        (lambda tar: tar[:1034] + b"?" + tar[1035:], "bad checksum where a member or the end should be"),
        (lambda tar: tar[:1024] + bytes(512) + tar[1536:], "breaks off before its end"),
        (lambda tar: tar[:1024] + bytes(1024) + tar[2048:], "more behind its end"),
        (lambda tar: tar[: 3 * 1024 + 512], "breaks off before its end"),
    ],
)
def test_a_tar_that_ends_too_early(folder: Path, kind: str, damage: Callable[[bytes], bytes], problem: str) -> None:
    """It is not taken for a shorter one: each member is a header and a block, so the second one begins at 1024."""
    whole = pack(folder / "whole.tar", {"a": b"1" * 512, "b": b"2" * 512, "c": b"3" * 512})
    damaged = damage(whole.read_bytes())
    (folder / f"a{kind}").write_bytes(gzip.compress(damaged) if kind == ".tar.gz" else damaged)
    refused(folder / f"a{kind}", problem)


@pytest.mark.parametrize("behind", [0, 200_000])
def test_the_checksum_of_a_tar_gz_is_compared(folder: Path, behind: int) -> None:
    """Also where what is read for the last member does not reach the end of the gzip."""
    tar = pack(folder / "whole.tar", {"a": b"1" * 512}).read_bytes() + bytes(behind)
    packed = bytearray(gzip.compress(tar, compresslevel=0))
    packed[packed.index(b"1" * 512)] = ord("2")
    (folder / "a.tar.gz").write_bytes(packed)
    refused(folder / "a.tar.gz", "CRC check failed")


@pytest.mark.parametrize("part", ["comment of an entry", "length of the directory", "name of an entry"])
def test_a_zip_whose_directory_is_damaged(folder: Path, part: str) -> None:
    """zipfile would take it for a directory of fewer members, or a member for a folder."""
    archive = pack(folder / "a.zip", MEMBERS)
    content = bytearray(archive.read_bytes())
    if part == "comment of an entry":
        content[content.index(b"PK\x01\x02") + 32] = 255
    elif part == "length of the directory":
        at = content.index(b"PK\x05\x06") + 12
        content[at : at + 4] = bytes(4)
    else:
        content[content.rindex(b"data/empty") + len(b"data/empt")] = ord("/")
    archive.write_bytes(content)
    refused(archive, "and header .* differ" if part == "name of an entry" else "members are listed of 3")


def test_a_zip_whose_member_lies_about_its_length(folder: Path) -> None:
    archive = pack(folder / "a.zip", {"a": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(signature) + at
        assert content[start : start + 4] == struct.pack("<I", 1000)
        content[start : start + 4] = struct.pack("<I", 10)
    archive.write_bytes(content)
    refused(archive, "cannot be unpacked")


def test_an_encrypted_member(folder: Path) -> None:
    archive = pack(folder / "a.zip", {"a": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, "encrypted")


@given(damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), kind=st.sampled_from(KINDS))
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], kind: str) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    archive = pack(folder / f"a{kind}", MEMBERS)
    content = bytearray(archive.read_bytes())
    for at, value in damage:
        content[at % len(content)] = value
    archive.write_bytes(content)
    try:
        came = unpack(archive, folder / "out", Unpack())
    except UnsafeArchiveError:
        assert not (folder / "out").exists()
    else:
        assert all(path.resolve().is_relative_to(folder / "out") for path in came)
        members = {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in came}
        if kind == ".tar":  # which has checksums of its headers only
            assert {name: len(content) for name, content in members.items()} == {name: len(content) for name, content in MEMBERS.items()}
        else:
            assert members == MEMBERS
    assert {path.name for path in folder.iterdir()} <= {archive.name, "out"}
