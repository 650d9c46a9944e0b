"""The files of a dataset, several at once, into its folder.

Belongs here: what is there already, who fetches which file, telling how it goes. Does not belong here: bytes of one file
(``transfer.py``) or members of an archive (``archives.py``).

A file gets its name when it is whole and checked. Beside it stays a receipt, ``.NAME.received.json``: what was declared, and size and
time of the files that came of it. It spares reading 50 GB again to compare a checksum, and it tells a file that was fetched, which a
changed declaration may replace, from one that a person put there, which is never overwritten. Names that begin with a dot are not
looked at by readers.

Processes that want the same file take turns by a lock on ``.NAME.lock``; the later one finds the file there.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.download.archives import unpack, unpacked_name
from perturbridge_dagster.sources.download.connection import Connection, Stopped, without_query
from perturbridge_dagster.sources.download.remote import (
    AccessError,
    DownloadError,
    Limits,
    RemoteFile,
    bytes_in_words,
    fault_of,
    not_written,
)
from perturbridge_dagster.sources.download.stores import Services, locate
from perturbridge_dagster.sources.download.transfer import Transfer
from perturbridge_dagster.written import write_json, written_whole

_SECONDS_BETWEEN_LOOKS = 0.1


def fetch(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    progress: Callable[[str], None] | None = None,
    at_once: int = 4,
    dataset: str | None = None,
    local: Path | None = None,
    limits: Limits | None = None,
    services: Services | None = None,
) -> list[Path]:
    """Bring files into a folder, whole, checked and unpacked; what is there already is not fetched again.

    Parameters
    ----------
    files
        What is wanted; names are unique.
    folder
        Where to; made where it is not there.
    progress
        Told a line at a time, in the thread of the caller and at most every `limits.seconds_between_lines`, except for what happens to
        a file; ``print`` in a terminal, ``context.log.info`` in Dagster.
    at_once
        The most files at a time; `limits.per_host` holds for one host.
    dataset
        Dataset id, for messages.
    local
        Folder of files that were had otherwise: from their owner, or on another machine. A file found in it by path or name is checked
        and linked, or copied; the others are fetched.
    limits
        Patience and politeness.
    services
        Addresses of the stores; those of the environment by default.

    Returns
    -------
    For each file its path, or of what it was unpacked to, in the order of `files`.

    Raises
    ------
    DownloadError
        If files could not be had. The others are there, and what was begun is kept: run it again to continue.
    AccessError
        If files want a token, or are given by their owner on request only.
    UnsafeArchiveError
        If an archive is broken or unsafe.
    InputError
        If names are not unique, or a file in the way is not the one declared.
    """
    limits = limits or Limits()
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"declared twice: {', '.join(twice)}.", dataset=dataset)
    if local is not None and not local.is_dir():
        raise InputError("there is no such folder.", dataset=dataset, file=local)
    folder.mkdir(parents=True, exist_ok=True)

    stop = threading.Event()
    board = _Board(len(files), limits.seconds_between_lines, progress or (lambda line: None))
    connection = Connection(limits, stop)
    fetcher = _Fetcher(folder, connection, services or Services.from_environment(), board, dataset, local)
    slots = threading.Semaphore(at_once)

    def bring(file: RemoteFile) -> Path:
        while not slots.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
            if stop.is_set():
                raise Stopped
        try:
            return fetcher.bring(file)
        finally:
            slots.release()

    with ExitStack() as stack:
        stack.callback(connection.close)
        pools: dict[str, ThreadPoolExecutor] = {}
        futures: list[Future[Path]] = []
        try:
            for file in files:
                host = urlsplit(file.url or "").netloc
                if host not in pools:
                    pools[host] = ThreadPoolExecutor(limits.per_host, thread_name_prefix="download")
                    stack.callback(pools[host].shutdown, wait=True, cancel_futures=True)
                futures.append(pools[host].submit(bring, file))
            unfinished = set(futures)
            while unfinished:
                _, unfinished = wait(unfinished, timeout=_SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                board.tell()
        except BaseException:
            stop.set()
            raise
    failures = [error for future in futures if (error := future.exception()) is not None]
    _raise(failures, len(files), dataset)
    return [future.result() for future in futures]


def _raise(failures: list[BaseException], n: int, dataset: str | None) -> None:
    """Raise what went wrong: one error as it is, several as one that lists them."""
    for error in failures:
        if not isinstance(error, InputError):
            raise error
    if len(failures) == 1:
        raise failures[0]
    if failures:
        kind = AccessError if all(isinstance(error, AccessError) for error in failures) else DownloadError
        listed = "\n".join(f"- {error}" for error in failures)
        raise kind(f"{len(failures)} of {n} files could not be had:\n{listed}\n", dataset=dataset, advice="Run it again for those only.")


class _Board:
    """How far the files are. Threads write on it; the caller's thread reads it out."""

    def __init__(self, n_files: int, seconds: float, progress: Callable[[str], None]) -> None:
        self.n_files = n_files
        self.seconds = seconds
        self.progress = progress
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.there: dict[str, tuple[int, int | None]] = {}
        self.n_done = 0
        self.received = 0
        self.last = (time.monotonic(), 0)

    def say(self, line: str) -> None:
        """Something that happened, told at once."""
        self.events.put(line)

    def grown(self, name: str, there: int, whole: int | None, new: int) -> None:
        """Bytes of a file that are there, that there will be, and that came."""
        with self.lock:
            self.there[name] = (there, whole)
            self.received += new

    def forget(self, name: str) -> None:
        """No longer tell how far something is."""
        with self.lock:
            self.there.pop(name, None)

    def done(self, name: str, line: str) -> None:
        """A file is there."""
        with self.lock:
            self.there.pop(name, None)
            self.n_done += 1
        self.say(f"{name}: {line} ({self.n_done} of {self.n_files} files)")

    def tell(self) -> None:
        """Tell what happened, and how far all is when it is time."""
        while not self.events.empty():
            self.progress(self.events.get())
        then, received_then = self.last
        passed = time.monotonic() - then
        if passed < self.seconds:
            return
        with self.lock:
            there, received = dict(self.there), self.received
        self.last = (time.monotonic(), received)
        if not there:
            return
        speed = (received - received_then) / passed
        parts = [
            f"{name} {bytes_in_words(so_far)}" + (f" of {bytes_in_words(whole)}" if whole is not None else "")
            for name, (so_far, whole) in sorted(there.items())
        ]
        line = f"{self.n_done} of {self.n_files} files; {', '.join(parts)}; {bytes_in_words(speed)}/s"
        if speed > 0 and all(whole is not None for _, whole in there.values()):
            left = sum((whole or 0) - so_far for so_far, whole in there.values())
            line += f", about {_duration(left / speed)} left for these"
        self.progress(line)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@dataclass
class _Fetcher:
    """What all files have in common."""

    folder: Path
    connection: Connection
    services: Services
    board: _Board
    dataset: str | None
    local: Path | None

    def bring(self, file: RemoteFile) -> Path:
        """One file, from wherever it is had."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            result = path.with_name(unpacked_name(path.name)) if file.unpack else path
        except ValueError as error:
            raise InputError(f"{error}.", dataset=self.dataset, file=file.name) from None
        if file.unpack and file.unpack.into is not None:
            if file.name.lower().endswith(".gz") and not file.name.lower().endswith(".tar.gz"):
                raise InputError("a gz file holds one file, which takes no folder.", dataset=self.dataset, file=file.name)
            result = self.folder / file.unpack.into
        with self._turn(path):
            if self._received(file, path):
                self.board.done(file.name, "there already")
                return result
            if file.unpack:
                self._require_clear(file, path, result)
            how = self._have(file, path)
            came = self._unpacked(file, path, result) if file.unpack else [path]
            self._write_receipt(file, path, came)
            self.board.done(file.name, how)
            return result

    @contextmanager
    def _turn(self, path: Path) -> Iterator[None]:
        """Keep other processes from the file for the time of the block."""
        lock = FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
        waited = False
        while True:
            try:
                lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS)
                break
            except Timeout:
                if self.connection.stop.is_set():
                    raise Stopped from None
                if not waited:
                    waited = True
                    self.board.say(f"{path.name}: another process is fetching it; waiting for that")
        try:
            yield
        finally:
            lock.release()

    # ---- receipts ------------------------------------------------------------------------------------------------------------

    def _receipt(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.received.json")

    def _declared(self, file: RemoteFile) -> dict[str, object]:
        return {
            "url": file.url,
            "size": file.size,
            "checksum": str(file.checksum) if file.checksum else None,
            "unpacked": {"into": file.unpack.into, "members": list(file.unpack.members)} if file.unpack else None,
        }

    def _state(self, path: Path) -> list[int] | None:
        return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None

    def _write_receipt(self, file: RemoteFile, path: Path, came: list[Path]) -> None:
        states = {member.relative_to(self.folder).as_posix(): self._state(member) for member in came}
        write_json(self._receipt(path), {"declared": self._declared(file), "files": states})

    def _read_receipt(self, path: Path) -> dict[str, dict[str, object]]:
        try:
            receipt: dict[str, dict[str, object]] = json.loads(self._receipt(path).read_text())
            return receipt if receipt.keys() >= {"declared", "files"} else {}
        except (OSError, ValueError, AttributeError):
            return {}

    def _received(self, file: RemoteFile, path: Path) -> bool:
        """Whether the file was received as it is declared now, and what came of it is untouched."""
        receipt = self._read_receipt(path)
        return (
            bool(receipt)
            and receipt["declared"] == self._declared(file)
            and all(self._state(self.folder / name) == state for name, state in receipt["files"].items())
        )

    # ---- having a file -------------------------------------------------------------------------------------------------------

    def _have(self, file: RemoteFile, path: Path) -> str:
        """Make sure that the file is at its path, and say how."""
        if path.exists():
            fault = fault_of(path, file.name, file.size, file.checksum)
            state, known = self._state(path), self._read_receipt(path).get("files", {}).get(file.name)
            if not fault and (known is None or file.checksum is not None):
                return "there already"
            if state != known:
                raise InputError(
                    f"there is another file of that name: {fault or 'it was changed after it was fetched'}.",
                    dataset=self.dataset,
                    file=path,
                    advice="Move it away; it is not overwritten, since it was not fetched by this program.",
                )
        found = self._in_local(file)
        if found is not None:
            self._link(file, found, path)
            return f"taken from {found.parent}"
        if file.url is None:
            raise AccessError(
                "its owner gives it on request.",
                dataset=self.dataset,
                file=file.name,
                advice=f"{file.how} Then give the folder it lies in.",
            )
        aside = path.with_name(f".{path.name}.download")
        began = time.monotonic()
        transfer = Transfer(
            self.connection,
            file,
            lambda: locate(file, self.services, self.connection),
            aside,
            dataset=self.dataset,
            told=self.board.say,
            grown=lambda there, whole, new: self.board.grown(file.name, there, whole, new),
        )
        transfer.run()
        aside.replace(path)
        transfer.discard()
        passed = max(time.monotonic() - began, 1e-3)
        return f"fetched from {without_query(file.url)}, {bytes_in_words(path.stat().st_size)} in {_duration(passed)}"

    def _in_local(self, file: RemoteFile) -> Path | None:
        if self.local is None:
            return None
        found = next((path for path in (self.local / file.name, self.local / Path(file.name).name) if path.is_file()), None)
        if found is None and file.url is None:
            raise AccessError(
                f"it is not in {self.local}, and its owner gives it on request.", dataset=self.dataset, file=file.name, advice=file.how
            )
        return found

    def _link(self, file: RemoteFile, found: Path, path: Path) -> None:
        """Put a file that was had otherwise to its path, if it is the one declared."""
        fault = fault_of(found, file.name, file.size, file.checksum)
        if fault:
            raise DownloadError(f"it is not the file declared: {fault}.", dataset=self.dataset, file=found, advice=file.how)
        with written_whole(path) as aside:
            try:
                os.link(found.resolve(), aside)
            except OSError:  # another disk, or one without links
                try:
                    shutil.copyfile(found, aside)
                except OSError as error:
                    raise not_written(error, file.name) from error

    def _require_clear(self, file: RemoteFile, path: Path, result: Path) -> None:
        """Refuse to unpack over what was not unpacked here."""
        known = self._read_receipt(path).get("files", {})
        there = [member for member in (result.rglob("*") if result.is_dir() else [result]) if member.is_file()]
        for member in there:
            if self._state(member) != known.get(member.relative_to(self.folder).as_posix()):
                raise InputError(
                    f"it is in the way of what {file.name} is unpacked to.",
                    dataset=self.dataset,
                    file=member,
                    advice="Move it away; it is not overwritten, since it was not unpacked by this program.",
                )

    def _unpacked(self, file: RemoteFile, path: Path, result: Path) -> list[Path]:
        """Unpack a file, and remove it where it need not stay."""
        assert file.unpack is not None
        self.board.say(f"{file.name}: unpacking")

        def grown(out: int) -> None:
            if self.connection.stop.is_set():
                raise Stopped
            self.board.grown(f"{file.name}, unpacked:", out, None, 0)

        try:
            came = unpack(path, result, file.unpack, grown)
        except InputError as error:
            raise type(error)(error.problem, dataset=self.dataset, file=file.name, advice=error.advice) from error
        finally:
            self.board.forget(f"{file.name}, unpacked:")
        if file.unpack.keep_archive:
            return [path, *came]
        path.unlink()
        return came
