"""One file over HTTP, from its first byte or from where an earlier try ended, until it is whole and what was declared.

Belongs here: resuming, ranges, the rule of least progress, what is written while a file is not whole. Does not belong here: the name the
file gets in the end (``fetch.py``).

A file grows aside, in ``.NAME.download``, beside what it is the beginning of, ``.NAME.download.json``: address, size, and the ETag or
date by which the server names this state of the file. Both have fixed names and outlive a crash, unlike ``written_whole``, whose file
goes with the error; the rename into place is left to the caller. What was begun is continued only if the server says that the file is
still the same, or if a checksum will tell; otherwise it starts again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

import httpx

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.patience import TryAgain
from perturbridge_dagster.sources.download.connection import Connection, Stopped, without_query
from perturbridge_dagster.sources.download.remote import (
    BYTES_TO_JUDGE,
    AccessError,
    Checksum,
    DownloadError,
    RemoteFile,
    bytes_in_words,
    fault_of,
    not_written,
    page_instead,
)
from perturbridge_dagster.written import write_json

_LARGE = 10**9


@dataclass(frozen=True)
class Located:
    """Where a file is asked for.

    Attributes
    ----------
    url
        Of http or https; may hold a signature, so it is never shown whole.
    token_variable
        Environment variable of a token.
    size, checksum
        What the store says of the file, where it does.
    """

    url: str
    token_variable: str | None = None
    size: int | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True)
class Begun:
    """What a partial file is the beginning of.

    Attributes
    ----------
    url
        Declared address, not the one a store signed.
    size
        Bytes of the whole file, if the server said so.
    etag, last_modified
        As the server gave them.
    """

    url: str
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What the server compares before it continues: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    @classmethod
    def of(cls, url: str, response: httpx.Response, size: int | None) -> Begun:
        """What an answer says of the file it carries."""
        return cls(url, size, response.headers.get("etag"), response.headers.get("last-modified"))


class Transfer:
    """The transfer of one file.

    Parameters
    ----------
    connection
        Asks the server.
    file
        What is fetched; it has a url.
    locate
        Says where it is asked for; called before every try, so that a signature is fresh.
    aside
        Where it grows. Its folder exists, and no one else writes there.
    dataset
        For messages.
    told
        Told what happens, a line at a time.
    grown
        Told how many bytes there are and how many there will be, and how many came since.
    """

    def __init__(
        self,
        connection: Connection,
        file: RemoteFile,
        locate: Callable[[], Located],
        aside: Path,
        *,
        dataset: str | None = None,
        told: Callable[[str], None] = lambda line: None,
        grown: Callable[[int, int | None, int], None] = lambda there, whole, new: None,
    ) -> None:
        assert file.url is not None
        self.connection = connection
        self.file = file
        self.url = file.url
        self.locate = locate
        self.aside = aside
        self.record = aside.with_name(f"{aside.name}.json")
        self.dataset = dataset
        self.told = told
        self.grown = grown
        self.size = file.size
        self.checksum = file.checksum
        self.tries = 0
        self.furthest = 0
        self.in_pieces = False

    def run(self) -> None:
        """Bring the file, whole and checked.

        Raises
        ------
        DownloadError
            If it cannot be had or is not what was declared. What was begun stays for the next run if it can be continued.
        """
        self._bring()
        if self.checksum and self._there() > _LARGE:
            self.told(f"{self.file.name}: every byte is there; comparing the checksum")
        fault = fault_of(self.aside, self.file.name, self.size, self.checksum)
        if fault and self.in_pieces:
            self.told(f"{self.file.name}: put together from several tries, {fault}; once more from the start")
            self.discard()
            self._bring()
            fault = fault_of(self.aside, self.file.name, self.size, self.checksum)
        if fault:
            self.discard()
            raise self._error(
                f"the file of {without_query(self.url)} is not the one declared: {fault}.",
                "Either the source has changed it, and the registry must follow, or something on the way alters it.",
            )

    def discard(self) -> None:
        """Forget what was begun."""
        self.aside.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)
        self.in_pieces = False

    def _error(
        self, problem: str, advice: str | None = None, kind: type[InputError] = DownloadError, expected: str | None = None
    ) -> InputError:
        return kind(problem, dataset=self.dataset, file=self.file.name, advice=advice, expected=expected)

    def _bring(self) -> None:
        """Try until every byte is there."""
        problem = TryAgain("")
        for _ in range(self.connection.limits.most_rounds):
            before = self.furthest
            try:
                return self.connection.patiently(self._try, lambda line: self.told(f"{self.file.name}: {line}"))
            except TryAgain as error:
                problem = error
            except InputError as error:
                how = self.file.how if isinstance(error, AccessError) else None
                raise self._error(error.problem, " ".join(filter(None, (error.advice, how))), type(error), error.expected) from None
            if self.furthest - before < self.connection.limits.least_bytes:
                break
        kept = self._there()
        raise self._error(
            f"given up after {self.tries} tries. The last: {problem}.",
            f"{bytes_in_words(kept)} are kept; run it again to continue." if kept else "Look at the service's own pages, or try later.",
        )

    def _there(self) -> int:
        return self.aside.stat().st_size if self.aside.exists() else 0

    def _begun(self) -> Begun | None:
        """What lies aside, if it can be continued; otherwise it is removed."""
        try:
            begun = Begun(**json.loads(self.record.read_text()))
        except (OSError, ValueError, TypeError):
            begun = None
        whole = self.size or (begun.size if begun else None)
        usable = (
            begun is not None
            and begun.url == self.url
            and (begun.validator is not None or self.checksum is not None)
            and (self.size is None or begun.size in (None, self.size))
            and (whole is None or self._there() <= whole)
        )
        if not usable or not self._there():
            self.discard()
            return None
        return begun

    def _try(self) -> None:
        """Ask once, from where the partial file ends, and take what comes."""
        self.tries += 1
        located = self.locate()
        self.size = self.file.size if self.file.size is not None else located.size
        self.checksum = self.file.checksum or located.checksum
        begun = self._begun()
        start = self._there()
        headers = {}
        if begun is not None:
            self.in_pieces = True
            if start == (self.size or begun.size):
                return
            headers["Range"] = f"bytes={start}-"
            if begun.validator:
                headers["If-Range"] = begun.validator
        with self.connection.answer(
            located.url, token_variable=located.token_variable, headers=headers, accepted=(200, 206, 416) if begun else (200,)
        ) as response:
            if response.status_code == 200:
                start = 0
                whole = _number(response.headers.get("content-length"))
            else:
                first, whole = _content_range(response)
                same = begun is not None and self._same(begun, Begun.of(self.url, response, whole))
                if response.status_code == 416 and whole == start and same:
                    return
                if response.status_code == 416 or first != start or not same:
                    self.discard()
                    raise TryAgain(f"{without_query(response.url)} did not continue the file that was begun, which is started again")
                if whole is None and begun is not None:
                    whole = begun.size
            self._judge(response, whole)
            self._require_room(whole, start)
            self._take(response, start, whole)

    def _same(self, begun: Begun, now: Begun) -> bool:
        """Whether an answer speaks of the file that was begun. What either side does not know cannot differ."""
        pairs = ((begun.size, now.size), (begun.etag, now.etag), (begun.last_modified, now.last_modified))
        return all(was is None or is_ is None or was == is_ for was, is_ in pairs)

    def _judge(self, response: httpx.Response, whole: int | None) -> None:
        """Refuse, from its headers, what cannot be the file."""
        shown = without_query(response.url)
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml") and not self.file.name.lower().endswith((".html", ".htm")):
            self._refuse(f"{shown} answered with a web page instead of the file.")
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity") and not (encoding in ("gzip", "x-gzip") and self.file.name.endswith(".gz")):
            self._refuse(f"{shown} sends the file packed as {encoding}, unasked.")
        if whole is not None and self.size is not None and whole != self.size:
            self._refuse(
                f"{shown} offers a file of {whole:,} bytes; {self.size:,} were declared.",
                "Either the source has changed it, and the registry must follow, or this is another file.",
            )
        ends_by_itself = "content-length" in response.headers or response.headers.get("transfer-encoding", "").lower() == "chunked"
        if not ends_by_itself and self.size is None and self.checksum is None:
            self._refuse(
                f"{shown} does not say how long the file is, so a truncated one could not be told from a whole one.",
                "Declare its size or checksum.",
            )

    def _refuse(self, problem: str, advice: str = "Open the address in a browser to see what the service wants.") -> NoReturn:
        # what was begun is left alone: it is not at fault when a later answer is a page about maintenance
        raise DownloadError(problem, advice=advice)

    def _require_room(self, whole: int | None, start: int) -> None:
        free = shutil.disk_usage(self.aside.parent).free + (self._there() if start == 0 else 0)
        if whole is not None and whole - start > free:
            raise DownloadError(
                f"{bytes_in_words(whole - start)} are to come and {bytes_in_words(free)} are free on the disk of {self.aside.parent}.",
                advice="Make room, or choose a folder on another disk, and run it again.",
            )

    def _take(self, response: httpx.Response, start: int, whole: int | None) -> None:
        """Write the body behind what is there; a body from the first byte takes its place once it has begun as it should."""
        whole = whole if whole is not None else self.size
        pieces: Iterator[bytes] = self._watched(response)
        if start == 0:
            beginning = b""
            for piece in pieces:
                beginning += piece
                if len(beginning) >= BYTES_TO_JUDGE:
                    break
            instead = page_instead(beginning[:BYTES_TO_JUDGE], self.file.name)
            if instead:
                self._refuse(f"{without_query(response.url)} answered with {instead}.")
            self.discard()
            write_json(self.record, asdict(Begun.of(self.url, response, whole)))
            pieces = chain([beginning], pieces)
        there = start
        try:
            # unbuffered: what could not be written must not be tried again when the file is closed
            with self.aside.open("ab", buffering=0) as stream:
                for piece in pieces:
                    if whole is not None and there + len(piece) > whole:
                        self.discard()  # nothing tells which of the bytes are too many
                        said = "declared" if whole == self.size else "that it says the file has"
                        self._refuse(f"{without_query(response.url)} sends more than the {whole:,} bytes {said}.")
                    left = memoryview(piece)
                    while left:
                        left = left[stream.write(left) :]
                    there += len(piece)
                    self.furthest = max(self.furthest, there)
                    self.grown(there, whole, len(piece))
                os.fsync(stream.fileno())
        except OSError as error:
            raise not_written(error, self.file.name) from error
        if whole is not None and there < whole:
            raise TryAgain(f"{without_query(response.url)} ended after {there:,} of {whole:,} bytes")

    def _watched(self, response: httpx.Response) -> Iterator[bytes]:
        """The pieces of a body as they come, broken off when they come too slowly or the caller has stopped."""
        limits = self.connection.limits
        window, in_window = time.monotonic(), 0
        for piece in response.iter_raw():
            if self.connection.stop.is_set():
                raise Stopped
            yield piece
            in_window += len(piece)
            if time.monotonic() - window >= limits.window_s:
                if in_window < limits.least_bytes:
                    raise TryAgain(f"only {bytes_in_words(in_window)} came in {limits.window_s:.0f} s")
                window, in_window = time.monotonic(), 0


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and whole length that a 206 or 416 states."""
    found = re.fullmatch(r"bytes\s+(?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("content-range", "").strip())
    return (_number(found[1]), _number(found[2])) if found else (None, None)
