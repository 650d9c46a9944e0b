"""What is to be fetched, how patiently, and what a file must be to be accepted.

Belongs here: the declaration of a remote file, limits of a transfer, the errors, checks of a file on disk. Does not belong here: talking
to a server (``connection.py``, ``transfer.py``).
"""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.patience import Patience

GIB = 1024**3

_DIGITS = {"md5": 32, "sha256": 64}

# First bytes by which a file of a kind is known. They tell an error page or a message in JSON from what was asked for, whatever
# the server calls it. gctx and h5ad are HDF5, xlsx is a zip archive.
_BEGINNINGS = {
    ".gz": b"\x1f\x8b",
    ".zip": b"PK",
    ".xlsx": b"PK",
    ".parquet": b"PAR1",
    ".h5ad": b"\x89HDF\r\n\x1a\n",
    ".h5": b"\x89HDF\r\n\x1a\n",
    ".gctx": b"\x89HDF\r\n\x1a\n",
}
_PAGE = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
BYTES_TO_JUDGE = 512
"""So many first bytes are looked at to say what a file is."""


class DownloadError(InputError):
    """A file that could not be fetched, or that is not what was asked for."""


class AccessError(DownloadError):
    """A file that its owner does not give without a credential or a request."""


class UnsafeArchiveError(InputError):
    """An archive that is broken, or that would do more than put files into its folder."""


@dataclass(frozen=True)
class Checksum:
    """Checksum that the source publishes.

    Attributes
    ----------
    algorithm
        ``"md5"`` or ``"sha256"``.
    value
        Hexadecimal, in either case.
    """

    algorithm: Literal["md5", "sha256"]
    value: str

    def __post_init__(self) -> None:
        if self.algorithm not in _DIGITS or not re.fullmatch(f"[0-9a-fA-F]{{{_DIGITS[self.algorithm]}}}", self.value):
            raise ValueError(f"{self.algorithm} {self.value!r} is no checksum: expected md5 or sha256 in hexadecimal")
        object.__setattr__(self, "value", self.value.lower())

    def of(self, path: Path) -> str:
        """The checksum of a file by this algorithm, streamed."""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, self.algorithm).hexdigest()

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"


@dataclass(frozen=True)
class Unpack:
    """How a zip, tar, tar.gz or gz file is unpacked, and how large it may become.

    Attributes
    ----------
    into
        Folder of the members, below the folder of the dataset; by default named after the archive. A gz file holds one file, which
        comes beside it without ``.gz``, so it takes none.
    members
        Shell patterns of the members wanted, matched against the end of their paths; all by default.
    keep_archive
        Whether the archive stays when it is unpacked.
    most_bytes
        The most that is unpacked, in bytes.
    most_files
        The most members of an archive.
    most_ratio
        The most bytes that come out for each byte that goes in. gzip of plain text gives 3 to 30, of sparse counts up to 100; a bomb
        gives 1,000.
    """

    into: str | None = None
    members: tuple[str, ...] = ()
    keep_archive: bool = False
    most_bytes: int = 256 * GIB
    most_files: int = 100_000
    most_ratio: float = 200.0

    def __post_init__(self) -> None:
        if self.into is not None:
            inside(self.into)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a source.

    Attributes
    ----------
    name
        Path below the folder of the dataset.
    url
        Where it lies: http(s), ``s3://bucket/key``, ``gs://bucket/key``, ``hf://datasets/owner/name@revision/path``,
        ``lamin://owner/instance?key=…`` or ``quilt+s3://bucket#package=owner/name&path=…``. None where the owner gives it on request.
    size, checksum
        What the source publishes of it; None where it publishes nothing.
    token_variable
        Environment variable of a token, without which it is not asked for. Sent as ``Authorization: Bearer`` to the host of `url`
        and to no other.
    command
        Call of the owner's own client that gives it, where there is no url: for a person to run.
    how
        For people: how it is had where there is no url, or what to do where access is refused.
    unpack
        How it is unpacked; None leaves it as it is.
    """

    name: str
    url: str | None = None
    size: int | None = None
    checksum: Checksum | None = None
    token_variable: str | None = None
    command: str | None = None
    how: str | None = None
    unpack: Unpack | None = None

    def __post_init__(self) -> None:
        inside(self.name)
        if self.url is None and not self.how:
            raise ValueError(f"{self.name} has neither a url nor words on how it is had")
        if self.url is not None and "@" in urlsplit(self.url).netloc:
            raise ValueError(f"the url of {self.name} holds a credential; credentials come from the environment, see token_variable")


@dataclass(frozen=True, kw_only=True)
class Limits(Patience):
    """How patient and how polite a transfer is. Times are seconds.

    Attributes
    ----------
    per_host
        The most files fetched at once from one host.
    connect_s, read_s
        Until a connection stands, and between two pieces of an answer.
    window_s, least_bytes
        A transfer that brings fewer than `least_bytes` in `window_s` is broken off and resumed.
    tries
        Tries in a row. If together they brought `least_bytes` or more, as many again follow, so that a large file survives many
        broken connections while a dead server is given up soon.
    most_rounds
        The most such rows.
    redirects
        The most redirects followed.
    seconds_between_lines
        Between two lines of progress.
    """

    per_host: int = 2
    connect_s: float = 20.0
    read_s: float = 30.0
    window_s: float = 60.0
    least_bytes: int = 256 * 1024
    most_rounds: int = 50
    tries: int = 8
    longest_retry_after_s: float = 900.0
    redirects: int = 10
    seconds_between_lines: float = 15.0


def inside(name: str) -> PurePosixPath:
    """A name as a path that stays inside its folder.

    Raises
    ------
    ValueError
        If it is absolute, climbs out, or means different things on different systems.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name):
        raise ValueError(f"{name!r} is not a path inside a folder")
    return path


def page_instead(beginning: bytes, name: str) -> str | None:
    """What a file is instead of what its name says, from its first bytes; None where nothing speaks against it."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".html", ".htm") and _PAGE.match(beginning):
        return "a web page"
    expected = _BEGINNINGS.get(suffix)
    if expected and not beginning.startswith(expected):
        return f"no {suffix[1:]} file: it begins with {beginning[:40]!r}"
    return None


def fault_of(path: Path, name: str, size: int | None, checksum: Checksum | None) -> str | None:
    """Why a file on disk is not the one declared; None where it is.

    Parameters
    ----------
    path
        The file.
    name
        The name it is to have, which says its kind.
    size, checksum
        As declared.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found:,} bytes, not {size:,}"
    with path.open("rb") as stream:
        instead = page_instead(stream.read(BYTES_TO_JUDGE), name)
    if instead:
        return f"it is {instead}"
    if checksum is not None and (value := checksum.of(path)) != checksum.value:
        return f"its {checksum.algorithm} is {value}, not {checksum.value}"
    return None


def not_written(error: OSError, name: str) -> DownloadError:
    """The error for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DownloadError(
            "the disk is full, or a quota is.", file=name, advice="Make room and run it again; what was fetched so far is kept."
        )
    return DownloadError(f"it cannot be written ({error.strerror}: {error.filename}).", file=name)


def bytes_in_words(n: float) -> str:
    """A number of bytes for people, for example ``"12.3 GB"``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:.1f} {unit}"
    return f"{n:.0f} bytes"
