"""Asking Ensembl's archive what has become of gene ids, and keeping what it says in the user's snapshot.

The answers of a table are of one release, and whole: an id is answered, or Ensembl says of that id alone that it does not know it. A
request that fails, an answer that leaves ids out, or a release that changes in between is an error, and nothing is kept. Belongs here:
requests, what an answer means, the saved table. Does not belong here: what the answer makes of the columns of a matrix (``genes.py``) or
the command (``ask_genes.py``).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.patience import BUSY, Pace, Patience, TryAgain, patiently, retry_after
from perturbridge_dagster.written import file_checksum, written_whole

log = logging.getLogger("perturbridge")

ADDRESS = "https://rest.ensembl.org"
ADDRESS_VARIABLE = "PERTURBRIDGE_ENSEMBL"
"""Environment variable that names another address of Ensembl REST: a mirror, or a test's double."""

ARCHIVE_TABLE = "ensembl_archive.parquet"
"""File of the answers in the user's snapshot."""

ARCHIVE_COLUMNS = ("gene_id", "ensembl_id", "status", "replacements", "release", "date", "source")
"""gene_id: the id that was asked, without version. ensembl_id: the current id that stands for it, null where there is no single one.
status: see ``genes.STATUSES``. replacements: ids that Ensembl proposes, joined by ``;``. release: of Ensembl. date: UTC, ISO 8601."""

GENE_ID = re.compile(r"(ENSG\d{11})(?:\.\d+)?")
"""An Ensembl gene id, with or without version."""


class EnsemblError(PerturbridgeError):
    """Ensembl did not answer, or not wholly; nothing of it is kept."""


@dataclass(frozen=True, kw_only=True)
class Limits(Patience):
    """How Ensembl is asked.

    Attributes
    ----------
    ids_per_request
        Ensembl takes at most 1,000.
    per_second
        Requests; Ensembl allows 15.
    timeout_s
        How long a request may stay silent.
    """

    ids_per_request: int = 1000
    per_second: float = 10.0
    timeout_s: float = 60.0


class EnsemblArchive:
    """Ensembl's archive of ids, asked patiently.

    Parameters
    ----------
    address
        Address of Ensembl REST; without it ``$PERTURBRIDGE_ENSEMBL``, else Ensembl's.
    limits
        How it is asked.
    pace
        The pace that is kept.
    """

    def __init__(self, address: str | None = None, limits: Limits | None = None, pace: Pace | None = None) -> None:
        self.address = (address or os.environ.get(ADDRESS_VARIABLE) or ADDRESS).rstrip("/")
        self.limits = limits or Limits()
        self.pace = pace or Pace()

    def ask(self, ids: Iterable[str], told: Callable[[str], None] = lambda line: None) -> pd.DataFrame:
        """What has become of gene ids.

        Parameters
        ----------
        ids
            Ensembl gene ids, with or without version; what has another form is left out. Each is asked once.
        told
            Told how far it is.

        Returns
        -------
        Columns ``ARCHIVE_COLUMNS``, one row an id, in ascending order. An id in use is itself. One out of use is ``replaced`` where
        Ensembl proposes one id, ``retired`` where it proposes none and ``ambiguous`` where it proposes several. One that Ensembl does
        not know is ``unknown``.

        Raises
        ------
        EnsemblError
            If a request fails in all its tries, an answer leaves out an id that Ensembl knows, has one that was not asked or cannot be
            understood, or the release changes.
        """
        asked = sorted({match[1] for text in ids if (match := GENE_ID.fullmatch(str(text).strip()))})
        with httpx.Client(
            base_url=self.address, timeout=self.limits.timeout_s, headers={"Accept": "application/json"}, follow_redirects=True
        ) as client:
            release = self._release(client)
            size = self.limits.ids_per_request
            chunks = [asked[start : start + size] for start in range(0, len(asked), size)]
            rows: list[tuple[Any, ...]] = []
            for number, chunk in enumerate(chunks, 1):
                rows += self._chunk(client, chunk, release, f"chunk {number} of {len(chunks)} ({len(chunk):,} ids)")
                told(f"Ensembl {release}: {len(rows):,} of {len(asked):,} ids answered")
            after = self._release(client)
        if after != release:
            raise EnsemblError(f"Ensembl went from release {release} to {after} while {len(asked):,} ids were asked. Ask again.")
        when = datetime.now(UTC).replace(microsecond=0).isoformat()
        table = pd.DataFrame(rows, columns=list(ARCHIVE_COLUMNS[:4])).sort_values("gene_id", ignore_index=True)
        return table.assign(release=release, date=when, source="Ensembl archive")

    # ---- one chunk -----------------------------------------------------------------------------------------------------------

    def _chunk(self, client: httpx.Client, ids: Sequence[str], release: int, where: str) -> list[tuple[Any, ...]]:
        """Rows of some ids.

        Ensembl leaves out ids that it does not know, just as an answer that was cut short leaves out ids. So what is left out is asked
        again: if more of it comes back, the first answer was cut. What is left out twice is asked id by id, and is unknown only if
        Ensembl says so.
        """
        answered = self._post(client, ids, release, where)
        missing = [gene_id for gene_id in ids if gene_id not in answered]
        known = list(self._post(client, missing, release, where)) if missing else []
        known = known or [gene_id for gene_id in missing if self._knows(client, gene_id, where)]
        if known:
            raise EnsemblError(
                f"{where}: the answer left out {len(known):,} ids that Ensembl knows, such as {', '.join(known[:3])}. Nothing was kept; "
                "ask again."
            )
        unknown = (None, "unknown", None)
        return [(gene_id, *(_meaning(gene_id, answered[gene_id]) if gene_id in answered else unknown)) for gene_id in ids]

    def _post(self, client: httpx.Client, ids: Sequence[str], release: int, where: str) -> dict[str, dict[str, Any]]:
        """What Ensembl has of some ids, by id."""
        return self._items(self._request(client, where, "POST", "/archive/id", json={"id": list(ids)}), ids, release, where)

    @staticmethod
    def _items(answer: Any, ids: Sequence[str], release: int, where: str) -> dict[str, dict[str, Any]]:
        """Items of an answer by id."""
        if not isinstance(answer, list) or not all(
            isinstance(item, dict) and {"id", "is_current", "release"} <= set(item) for item in answer
        ):
            raise EnsemblError(f"{where}: the answer is no list of archived ids. Nothing was kept.")
        items = {str(item["id"]): item for item in answer}
        strange = sorted(set(items) - set(ids))
        if strange or len(items) != len(answer):
            raise EnsemblError(
                f"{where}: {len(answer):,} items came back for {len(items):,} ids, of which {len(strange):,} were not asked. "
                "Nothing was kept."
            )
        of_another = sorted({str(item["release"]) for item in answer if _is_current(item)} - {str(release)})
        if of_another:
            raise EnsemblError(f"{where}: ids in use are of release {', '.join(of_another)}, but Ensembl said {release}. Ask again.")
        return items

    def _knows(self, client: httpx.Client, gene_id: str, where: str) -> bool:
        """Whether Ensembl has an id, asked alone."""
        return self._request(client, f"{where}, {gene_id}", "GET", f"/archive/id/{gene_id}", none_if_absent=gene_id) is not None

    def _release(self, client: httpx.Client) -> int:
        """The release that is answered from."""
        answer = self._request(client, "the release", "GET", "/info/data")
        try:
            [release] = answer["releases"]
            return int(release)
        except (KeyError, TypeError, ValueError) as error:
            raise EnsemblError(f"{self.address} does not say its one release, but {answer!r}. Nothing was kept.") from error

    # ---- one request ---------------------------------------------------------------------------------------------------------

    def _request(self, client: httpx.Client, where: str, method: str, path: str, *, none_if_absent: str = "", **arguments: Any) -> Any:
        """The JSON answer of a request, made again while the failure may pass.

        With `none_if_absent`, None where Ensembl says that it does not have that id.
        """
        try:
            return patiently(
                partial(self._once, client, where, method, path, none_if_absent, arguments),
                self.limits,
                sleep=self.pace.sleep,
                told=lambda line: log.info("Ensembl, %s: %s", where, line),
            )
        except TryAgain as error:
            raise EnsemblError(
                f"{where}: no answer in {self.limits.tries} tries; the last: {error}. Nothing was kept; ask again later."
            ) from error

    def _once(self, client: httpx.Client, where: str, method: str, path: str, none_if_absent: str, arguments: dict[str, Any]) -> Any:
        """A request, made once, not before its turn."""
        self.pace.wait((1, 1 / self.limits.per_second))
        try:
            response = client.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise TryAgain(f"{type(error).__name__} ({error})") from error
        if response.status_code in BUSY:
            raise TryAgain(f"status {response.status_code}", retry_after(response.headers.get("Retry-After")))
        if none_if_absent and response.status_code in (400, 404) and none_if_absent in response.text:
            return None
        if response.is_error:
            raise EnsemblError(f"{where}: Ensembl refused the request with status {response.status_code}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError as error:
            raise TryAgain(f"an answer that is no JSON, of {len(response.content):,} bytes") from error


def _is_current(item: dict[str, Any]) -> bool:
    """Whether an id is in use; Ensembl writes it as text, empty for no."""
    return str(item["is_current"]) == "1"


def _meaning(gene_id: str, item: dict[str, Any]) -> tuple[str | None, str, str | None]:
    """Current id, status and proposed ids of an item."""
    if _is_current(item):
        return gene_id, "current", None
    proposed = [str(one["stable_id"]) for one in item.get("possible_replacement") or []]
    proposed = list(dict.fromkeys(name.partition(".")[0] for name in proposed))
    if len(proposed) == 1:
        return proposed[0], "replaced", proposed[0]
    return None, "ambiguous" if proposed else "retired", ";".join(proposed) or None


# ---- kept in a folder --------------------------------------------------------------------------------------------------------


def load_archive(folder: Path) -> pd.DataFrame | None:
    """The answers kept in a user's snapshot, None where it has none.

    Parameters
    ----------
    folder
        The user's snapshot; it need not exist.

    Raises
    ------
    InputError
        If the file cannot be read, or is of several releases.
    """
    file = folder / ARCHIVE_TABLE
    if not file.is_file():
        return None
    try:
        table = pd.read_parquet(file, columns=list(ARCHIVE_COLUMNS))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({error})", file=file, expected="answers of Ensembl", advice="Remove it and ask again."
        ) from error
    if not (table["release"] == table["release"].head(1).max()).all():
        raise InputError("answers of several releases", file=file, expected="answers of one release", advice="Remove it and ask again.")
    return table.astype(object).where(table.notna(), None).astype({"release": "int64"})


def save_archive(folder: Path, table: pd.DataFrame) -> None:
    """Keep answers in a user's snapshot, in place of those there.

    Parameters
    ----------
    folder
        The user's snapshot, made where it is missing.
    table
        Columns ``ARCHIVE_COLUMNS``, of one release.
    """
    with written_whole(folder / ARCHIVE_TABLE) as aside:
        table[list(ARCHIVE_COLUMNS)].sort_values("gene_id").to_parquet(aside, index=False, compression="zstd")


def archive_checksum(folder: Path) -> str | None:
    """SHA-256 of the answers kept in a user's snapshot, None where it has none."""
    file = folder / ARCHIVE_TABLE
    return file_checksum(file) if file.is_file() else None


def ask_and_keep(
    folder: Path, ids: Iterable[str], archive: EnsemblArchive, told: Callable[[str], None] = lambda line: None
) -> pd.DataFrame:
    """Ask ids, with those that were asked before, and keep the answers: all of one release, or none.

    Parameters
    ----------
    folder
        The user's snapshot.
    ids
        Ensembl gene ids.
    archive
        Who is asked.
    told
        Told how far it is.

    Returns
    -------
    All answers that are kept now.

    Raises
    ------
    EnsemblError
        See :meth:`EnsemblArchive.ask`; what was kept before then stays as it was.
    """
    earlier = load_archive(folder)
    table = archive.ask([*ids, *(earlier["gene_id"] if earlier is not None else [])], told)
    save_archive(folder, table)
    return table
