"""Unpacking archives that someone else made.

Belongs here: zip, tar, tar.gz and gz, streamed, with their members held inside one folder and their size held to limits. Does not belong
here: reading what comes out. Nothing here loads a member, and a pickle, which runs code when it is loaded, is not even unpacked.

A member is a plain file or a folder; links and devices are refused, so nothing points out of the folder. Members are written into a new
folder aside, which is renamed when the last one is there.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import NoReturn, Protocol, Self

from perturbridge_dagster.sources.download.remote import Unpack, UnsafeArchiveError, bytes_in_words, inside, not_written
from perturbridge_dagster.written import written_whole

_FREE_OF_RATIO = 64 * 1024**2
_BLOCK = 1024**2
_MOST_BYTES_OF_A_HEADER = 1024**2
_READ_WHOLE = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill"})
_TARS = (".tar", ".tar.gz", ".tgz")
_END_OF_TAR: type[tarfile.HeaderError] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Allowance:
    """Counts what comes out of an archive, and ends it when that is too much."""

    def __init__(self, archive: Path, rule: Unpack, grown: Callable[[int], None]) -> None:
        self.archive = archive
        self.rule = rule
        self.packed = archive.stat().st_size
        self.out = 0
        self.files = 0
        self.grown = grown

    def refuse(self, problem: str, advice: str | None = None) -> NoReturn:
        raise UnsafeArchiveError(problem, file=self.archive.name, advice=advice)

    def take_bytes(self, n: int) -> None:
        """Count bytes that came out.

        Raises
        ------
        UnsafeArchiveError
            If there are more than the rule allows, in all or for what went in.
        """
        self.out += n
        if self.out > self.rule.most_bytes:
            self.refuse(f"it holds more than {bytes_in_words(self.rule.most_bytes)}.", "If that is right, allow more in its unpack rule.")
        if self.out > max(_FREE_OF_RATIO, self.rule.most_ratio * self.packed):
            self.refuse(
                f"more than {self.rule.most_ratio:.0f} bytes come out for each that goes in, as if to fill the disk.",
                "If that is right, allow more in its unpack rule.",
            )
        self.grown(self.out)

    def take_member(self, name: str) -> PurePosixPath | None:
        """Where a member goes; None where it is not wanted.

        Raises
        ------
        UnsafeArchiveError
            If it goes out of the folder, is a pickle, or is one too many.
        """
        self.files += 1
        if self.files > self.rule.most_files:
            self.refuse(f"it has more than {self.rule.most_files:,} members.")
        if name in (".", "./"):
            return None
        try:
            path = inside(name)
        except ValueError:
            self.refuse(f"its member {name!r} would be written outside its folder.")
        if self.rule.members and not any(map(path.match, self.rule.members)):
            return None
        if _PICKLES & {suffix.lower() for suffix in path.suffixes}:
            self.refuse(
                f"its member {name!r} is a pickle, which can run code when it is loaded.", "Name the members that are wanted, without it."
            )
        return path

    def copy(self, source: _Readable, target: Path, declared: int | None, *, counted: bool = False) -> None:
        """Write a member, and no more of it than it declares."""
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with target.open("xb") as stream:
            while block := source.read(_BLOCK):
                written += len(block)
                if declared is not None and written > declared:
                    self.refuse(f"its member {target.name!r} is longer than the {declared:,} bytes it declares.")
                if not counted:
                    self.take_bytes(len(block))
                stream.write(block)
        if declared is not None and written != declared:
            self.refuse(f"its member {target.name!r} has {written:,} bytes and declares {declared:,}: the archive is truncated.")


class _Counted(io.RawIOBase):
    """A stream that counts what is read from it, wanted or not."""

    def __init__(self, source: _Readable, allowance: _Allowance) -> None:
        self.source = source
        self.allowance = allowance

    def read(self, size: int = -1, /) -> bytes:
        block = self.source.read(size)
        self.allowance.take_bytes(len(block))
        return block


class _Header(tarfile.TarInfo):
    """A tar header that ends the reading when it is none, and whose long name or attributes are not read into memory when huge."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except _END_OF_TAR:
            raise
        except tarfile.HeaderError as error:  # tarfile would take it for the end, and the members behind it would be missing
            raise tarfile.ReadError(f"{error} where a member or the end should be") from None

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _READ_WHOLE and self.size > _MOST_BYTES_OF_A_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def unpacked_name(name: str) -> str:
    """Name of what an archive is unpacked to: that of the archive without its ending.

    Raises
    ------
    ValueError
        If it has none of the endings that are unpacked.
    """
    for ending in (*_TARS, ".zip", ".gz"):
        if name.lower().endswith(ending) and len(PurePosixPath(name).name) > len(ending):
            return name[: -len(ending)]
    raise ValueError(f"{name} is no archive that can be unpacked: expected zip, tar, tar.gz, tgz or gz")


def holds_one_file(name: str) -> bool:
    """Whether an archive is a single compressed file, not a folder of members."""
    return name.lower().endswith(".gz") and not name.lower().endswith(_TARS)


def unpack(archive: Path, target: Path, rule: Unpack, grown: Callable[[int], None] = lambda out: None) -> list[Path]:
    """Unpack an archive whole, or not at all.

    Parameters
    ----------
    archive
        zip, tar, tar.gz, tgz or gz, as its name says.
    target
        Folder of the members, or for gz the file; replaced where it is there.
    rule
        Members wanted, and limits.
    grown
        Told how many bytes have come out; what it raises ends the unpacking.

    Returns
    -------
    The files, sorted.

    Raises
    ------
    UnsafeArchiveError
        If the archive is broken, reaches out of its folder, or is larger than allowed; nothing of it is left.
    """
    allowance = _Allowance(archive, rule, grown)
    try:
        if holds_one_file(archive.name):
            allowance.take_member(target.name)
            with written_whole(target) as whole, gzip.open(archive) as source:
                allowance.copy(source, whole, None)
            return [target]
        with _folder_aside(target) as aside:
            (_unzip if archive.name.lower().endswith(".zip") else _untar)(archive, aside, allowance)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UnsafeArchiveError("two of its members want the same name.", file=archive.name) from error
    except (OSError, *_BROKEN) as error:
        # a broken directory of a zip sends reading to places that are none, which is EINVAL
        if isinstance(error, OSError) and not isinstance(error, _BROKEN) and error.errno not in (errno.EINVAL, errno.ENAMETOOLONG):
            raise not_written(error, archive.name) from error
        problem = f"it cannot be unpacked ({type(error).__name__}: {error})."
        raise UnsafeArchiveError(problem, file=archive.name, advice="Delete it and fetch it again.") from error
    return sorted(path for path in target.rglob("*") if path.is_file())


@contextmanager
def _folder_aside(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of `target` when the block ends without an error."""
    aside, replaced = (target.with_name(f".{target.name}.{word}") for word in ("unpacking", "replaced"))
    _remove(aside)  # of a process that was killed
    _remove(replaced)
    aside.mkdir(parents=True)
    try:
        yield aside
        if target.exists():
            target.rename(replaced)
        aside.rename(target)
    finally:
        _remove(aside)
        _remove(replaced)


def _unzip(archive: Path, folder: Path, allowance: _Allowance) -> None:
    with zipfile.ZipFile(archive) as opened:
        _require_every_entry(opened)
        for member in opened.infolist():
            path = allowance.take_member(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                allowance.refuse(f"its member {member.filename!r} is a link or a device, not a file.")
            if member.flag_bits & 1:
                allowance.refuse(f"its member {member.filename!r} is encrypted.", "Unpack it by hand.")
            if path is None:
                continue
            # a folder is opened too: its name is compared with the one before its content only then, and by its name it is a folder
            with opened.open(member) as source:
                if member.is_dir():
                    (folder / path).mkdir(parents=True, exist_ok=True)
                else:
                    allowance.copy(source, folder / path, member.file_size)


def _require_every_entry(opened: zipfile.ZipFile) -> None:
    """Refuse a zip whose directory does not list as many members as its end says: zipfile ends silently where an entry is damaged."""
    assert opened.fp is not None
    said = zipfile._EndRecData(opened.fp)[zipfile._ECD_ENTRIES_TOTAL]  # type: ignore[attr-defined]
    found = len(opened.infolist())
    if (said - found) % 2**16:  # old writers count no further
        raise zipfile.BadZipFile(f"{found:,} members are listed of {said:,}")


def _untar(archive: Path, folder: Path, allowance: _Allowance) -> None:
    with ExitStack() as stack:
        source: _Readable
        if archive.name.lower().endswith(".tar"):
            source = stack.enter_context(archive.open("rb"))
        else:
            source = stack.enter_context(gzip.open(archive))
        # read as a stream, so that members that are skipped are counted as well
        opened = stack.enter_context(tarfile.open(fileobj=_Counted(source, allowance), mode="r|", tarinfo=_Header))
        for member in opened:
            path = allowance.take_member(member.name)
            if not (member.isreg() or member.isdir()) or member.issparse():
                allowance.refuse(f"its member {member.name!r} is a link, a device or a sparse file.")
            if path is None:
                continue
            if member.isdir():
                (folder / path).mkdir(parents=True, exist_ok=True)
                continue
            content = opened.extractfile(member)
            assert content is not None
            allowance.copy(content, folder / path, member.size, counted=True)
        _require_the_end(opened.fileobj)


def _require_the_end(rest: _Readable) -> None:
    """Refuse a tar, read to its first block of zeros, that does not end there: with a second one and nothing but zeros behind it.

    Read to its end, because gzip compares its checksum only there.
    """
    end = rest.read(tarfile.BLOCKSIZE)
    if end != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it breaks off before its end")
    while block := rest.read(_BLOCK):
        if any(block):
            raise tarfile.ReadError("there is more behind its end")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
