"""The files of a source, several at once, into its folder.

Belongs here: who fetches which file, from wherever it is had. Does not belong here: bytes of one file (``transfer.py``), members of an
archive (``archives.py``), what is there already (``receipts.py``).

A file gets its name when it is whole and checked. What belongs to it and is no native file begins with a dot (``receipts.py``,
``transfer.py``), and readers do not look at such names.

Processes that want the same file take turns by a lock on ``.NAME.lock``; the later one finds the file there.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.download.archives import holds_one_file, unpack
from perturbridge_dagster.sources.download.connection import Connection, Stopped, without_query
from perturbridge_dagster.sources.download.progress import Board, Progress, Watch, duration_in_words
from perturbridge_dagster.sources.download.receipts import Receipt, aside_of, result_of
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
from perturbridge_dagster.written import written_whole

_SECONDS_BETWEEN_LOOKS = 0.1


def fetch(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    progress: Progress | None = None,
    watch: Watch | None = None,
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
        Told a line at a time, in the thread of the caller: what happens to a file at once, and how far all is every
        `limits.seconds_between_lines`. ``print`` in a terminal, ``context.log.info`` in Dagster.
    watch
        Told how far all is ten times a second, in the thread of the caller, in place of `progress`: for a display that is redrawn.
    at_once
        The most files at a time; `limits.per_host` holds for one host.
    dataset
        Dataset id, for messages.
    local
        Folder of files that were had otherwise: from their owner, or on another machine. A file found in it by path or name, or what
        it is unpacked to, is checked and linked, or copied; the others are fetched.
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
        If files want a token, or are not to be had from an address.
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
    board = Board(len(files), limits.seconds_between_lines, progress or (lambda line: None), watch)
    connection = Connection(limits, stop)
    fetcher = _Fetcher(folder, connection, services or Services.from_environment(), board, dataset, local)
    slots = threading.Semaphore(at_once)

    def bring(file: RemoteFile) -> Path:
        while not slots.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
            if stop.is_set():
                raise Stopped
        try:
            return fetcher.bring(file)
        except InputError as error:  # the others may take hours before it is raised
            board.forget(file.name)
            board.say(f"{file.name} FAILED: {error.problem}")
            raise
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
        finally:
            stop.set()  # where not all are done, the others end too
    _raise({file.name: error for file, future in zip(files, futures, strict=True) if (error := future.exception())}, len(files), dataset)
    return [future.result() for future in futures]


def _raise(failures: dict[str, BaseException], n: int, dataset: str | None) -> None:
    """Raise what went wrong: one error as it is, several as one that says each thing once."""
    said: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, error in failures.items():
        if not isinstance(error, InputError):
            raise error
        said[error.advice or ""][error.problem].append(name)
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        kind = AccessError if all(isinstance(error, AccessError) for error in failures.values()) else DownloadError
        lines = []
        for advice, problems in said.items():
            lines += [f"- {_first(names)}: {problem}" for problem, names in problems.items()]
            lines += [f"  {advice}"] if advice else []
        listed = "\n".join(lines)
        raise kind(f"{len(failures)} of {n} files could not be had; run it again to fetch only those.\n{listed}", dataset=dataset)


def _first(names: Sequence[str], n: int = 5) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


@dataclass
class _Fetcher:
    """What all files have in common."""

    folder: Path
    connection: Connection
    services: Services
    board: Board
    dataset: str | None
    local: Path | None

    def bring(self, file: RemoteFile) -> Path:
        """One file, from wherever it is had."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            result = self.folder / result_of(file)
        except ValueError as error:
            raise InputError(f"{error}.", dataset=self.dataset, file=file.name) from None
        with self._turn(path):
            Receipt.renew(self.folder, file.name)
            if Receipt.read(self.folder, file.name).is_of(file):
                how = "there already"
            elif file.unpack is None:
                how = self._have(file, path)
                Receipt.write(self.folder, file, [path])
            else:
                how = self._have_unpacked(file, path, result)
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

    # ---- a file as it is published -------------------------------------------------------------------------------------------

    def _have(self, file: RemoteFile, path: Path) -> str:
        """Make sure that the file is at its path, and say how."""
        if path.exists():
            fault = fault_of(path, file.name, file.size, file.checksum)
            receipt = Receipt.read(self.folder, file.name)
            received = receipt.knows(path)
            # without a checksum, what was fetched under another declaration cannot be told from what is declared now
            if not fault and (receipt.is_of(file) or file.name not in receipt.files or file.checksum is not None):
                return "there already"
            if not received:
                changed = "it was changed after it was fetched"
                if file.name not in receipt.checksums:
                    changed = f"{changed}, or copied without its time, and the record of its fetch holds no checksum to tell"
                raise InputError(
                    f"there is another file of that name: {fault or changed}.",
                    dataset=self.dataset,
                    file=path,
                    advice="Move it away; it is not overwritten, since it is not known to be what this program fetched.",
                )
        found = self._in_local(file.name)
        if found is not None:
            self._link(file, found, path)
            return f"taken from {found.parent}"
        self._require_access(file)
        assert file.url is not None
        aside = aside_of(path)
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
        return f"fetched from {without_query(file.url)}, {bytes_in_words(path.stat().st_size)} in {duration_in_words(passed)}"

    def _require_access(self, file: RemoteFile) -> None:
        """Refuse what cannot be had from an address, or not without a token, before anyone is asked."""
        variable = file.token_variable
        if file.url is None:
            problem = f"its owner's own client gives it: {file.command}." if file.command else "its owner gives it on request."
            problem = f"it is not in {self.local}, and {problem}" if self.local else problem
        elif variable and not os.environ.get(variable, "").strip():
            problem = f"its owner wants a token, which is read from the environment variable {variable}, and that is not set."
        else:
            return
        raise AccessError(problem, dataset=self.dataset, file=file.name, advice=file.how)

    def _in_local(self, name: str) -> Path | None:
        if self.local is None:
            return None
        return next((path for path in (self.local / name, self.local / Path(name).name) if path.is_file()), None)

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

    # ---- a file that is unpacked ---------------------------------------------------------------------------------------------

    def _have_unpacked(self, file: RemoteFile, path: Path, result: Path) -> str:
        """Make sure that what a file is unpacked to is there, and say how."""
        how = self._have_unpacked_by_hand(file, result) if holds_one_file(file.name) else None
        if how:
            Receipt.write(self.folder, file, [result])
            return how
        packed = replace(file, unpack=None)
        if not Receipt.read(self.folder, file.name).is_of(packed):  # else what is there is of a process that was killed while it unpacked
            self._require_clear(file, result)
        persons_own = path.exists() and not Receipt.read(self.folder, file.name).knows(path)
        how = self._have(packed, path)
        if not persons_own:
            Receipt.write(self.folder, packed, [path])
        came = self._unpacked(file, path, result)
        keep = persons_own or (file.unpack is not None and file.unpack.keep_archive)
        Receipt.write(self.folder, file, [path, *came] if keep else came)
        if not keep:
            path.unlink()
        return how

    def _have_unpacked_by_hand(self, file: RemoteFile, result: Path) -> str | None:
        """What a gz file holds, where a person has unpacked it; nothing but its kind can then be compared."""
        unpacked = RemoteFile(result.relative_to(self.folder).as_posix(), file.url, how=file.how)
        if result.is_file() and not Receipt.read(self.folder, file.name):
            self._have(unpacked, result)
            return "there already, unpacked"
        found = None if result.exists() else self._in_local(unpacked.name)
        if found is None:
            return None
        self._link(unpacked, found, result)
        return f"taken, unpacked, from {found.parent}"

    def _require_clear(self, file: RemoteFile, result: Path) -> None:
        """Refuse to unpack over what was not unpacked here."""
        receipt = Receipt.read(self.folder, file.name)
        for member in result.rglob("*") if result.is_dir() else [result]:
            if member.is_file() and not receipt.knows(member):
                raise InputError(
                    f"it is in the way of what {file.name} is unpacked to.",
                    dataset=self.dataset,
                    file=member,
                    advice="Move it away; it is not overwritten, since it is not known to be what this program unpacked.",
                )

    def _unpacked(self, file: RemoteFile, path: Path, result: Path) -> list[Path]:
        """Unpack a file."""
        assert file.unpack is not None
        self.board.say(f"{file.name}: unpacking")
        unpacking = f"{file.name}, unpacked:"

        def grown(out: int) -> None:
            if self.connection.stop.is_set():
                raise Stopped
            self.board.grown(unpacking, out, None, 0)

        try:
            return unpack(path, result, file.unpack, grown)
        except InputError as error:
            raise type(error)(error.problem, dataset=self.dataset, file=file.name, advice=error.advice) from error
        finally:
            self.board.forget(unpacking)
