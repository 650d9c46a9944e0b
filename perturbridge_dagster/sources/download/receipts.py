"""What is in the folder of a dataset already, and where it came from.

Belongs here: receipts, and what they say of a file on disk. Does not belong here: fetching what is not there (``fetch.py``).

A receipt, ``.NAME.received.json``, stays beside a file: what was declared of it, and size, time and checksum of the files that came of
it. It spares reading 50 GB again to compare a checksum, and it tells a file that was fetched, which a changed declaration may replace,
from one that a person put there, which is never overwritten. Where only the time differs, as in a folder that was copied, the checksum
decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from perturbridge_dagster.sources.download.archives import unpacked_name
from perturbridge_dagster.sources.download.remote import Checksum, RemoteFile
from perturbridge_dagster.written import file_checksum, write_json

State = list[int]
"""Size in bytes and modification time in ns."""


def state_of(path: Path) -> State | None:
    """State of a file; None where there is none."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None


def result_of(file: RemoteFile) -> PurePosixPath:
    """What a declared file becomes, below the folder of the dataset: itself, or what it is unpacked to.

    Raises
    ------
    ValueError
        If it is to be unpacked and is no archive.
    """
    if file.unpack is None:
        return PurePosixPath(file.name)
    unpacked = PurePosixPath(unpacked_name(file.name))
    return unpacked if file.unpack.into is None else PurePosixPath(file.unpack.into)


def aside_of(path: Path) -> Path:
    """Where a file grows while it is fetched."""
    return path.with_name(f".{path.name}.download")


def _declared(file: RemoteFile) -> dict[str, Any]:
    return {
        "url": file.url,
        "size": file.size,
        "checksum": str(file.checksum) if file.checksum else None,
        "unpacked": {"into": file.unpack.into, "members": list(file.unpack.members)} if file.unpack else None,
    }


@dataclass(frozen=True)
class Receipt:
    """What was declared of a file when it was received, and what came of it; empty where it was not received.

    Attributes
    ----------
    folder
        Folder of the dataset.
    declared
        The declaration, as far as it decides the content.
    files
        Path below `folder` → state when it was received.
    checksums
        Path below `folder` → checksum when it was received; empty in receipts of earlier versions.
    """

    folder: Path
    declared: dict[str, Any] | None = None
    files: dict[str, State | None] = field(default_factory=dict)
    checksums: dict[str, Checksum] = field(default_factory=dict)

    @staticmethod
    def _place(folder: Path, name: str) -> Path:
        path = folder / name
        return path.with_name(f".{path.name}.received.json")

    @classmethod
    def read(cls, folder: Path, name: str) -> Receipt:
        """The receipt of a file of that name."""
        try:
            content = json.loads(cls._place(folder, name).read_text())
            checksums = {name: Checksum(*text.split(" ")) for name, text in content.get("checksums", {}).items()}
            return cls(folder, content["declared"], content["files"], checksums)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls(folder)

    @classmethod
    def write(cls, folder: Path, file: RemoteFile, came: Sequence[Path]) -> None:
        """Write that a file was received as it is declared, and what came of it."""
        states, checksums = {}, {}
        for path in came:
            name = path.relative_to(folder).as_posix()
            states[name] = state_of(path)
            # that of the file itself was compared when it was received
            compared = file.checksum if name == file.name else None
            checksums[name] = compared or Checksum("sha256", file_checksum(path))
        cls(folder, _declared(file), states, checksums)._store(file.name)

    def _store(self, name: str) -> None:
        checksums = {of: str(checksum) for of, checksum in self.checksums.items()}
        write_json(self._place(self.folder, name), {"declared": self.declared, "files": self.files, "checksums": checksums})

    @classmethod
    def renew(cls, folder: Path, name: str) -> None:
        """Note the times of files that have another one than when they were received, but the same size and checksum."""
        receipt = cls.read(folder, name)
        renewed = {}
        for of, known in receipt.files.items():
            path, checksum = folder / of, receipt.checksums.get(of)
            now = state_of(path)
            # of another size it is another file, and need not be read
            if known and now and checksum and now != known and now[0] == known[0] and checksum.of(path) == checksum.value:
                renewed[of] = now
        if renewed:
            replace(receipt, files={**receipt.files, **renewed})._store(name)

    def __bool__(self) -> bool:
        return self.declared is not None

    def knows(self, path: Path) -> bool:
        """Whether a file was received and not touched since."""
        known = self.files.get(path.relative_to(self.folder).as_posix())
        return known is not None and known == state_of(path)

    def is_of(self, file: RemoteFile) -> bool:
        """Whether a file was received as it is declared now, and what came of it is untouched."""
        return self.declared == _declared(file) and all(self.knows(self.folder / name) for name in self.files)


def presence(file: RemoteFile, folder: Path) -> tuple[Literal["received", "unchecked", "begun", "absent"], int]:
    """What there is of a file, without reading it.

    Returns
    -------
    ``received`` as it is declared now; there but ``unchecked``, because a person put it there, its declaration has changed, or its
    time has, as in a copy; ``begun``; or ``absent``. And the bytes on disk.
    """
    path = folder / file.name
    receipt = Receipt.read(folder, file.name)
    if receipt and receipt.is_of(file):
        return "received", sum((folder / name).stat().st_size for name in receipt.files)
    for there in (folder / result_of(file), path):
        if there.exists():
            return "unchecked", sum(one.stat().st_size for one in ([there] if there.is_file() else there.rglob("*")) if one.is_file())
    if aside_of(path).exists():
        return "begun", aside_of(path).stat().st_size
    return "absent", 0
