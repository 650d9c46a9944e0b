"""Asking PubChem: PUG REST through pubchempy, many ids a request where the service takes many, never faster than it allows.

Belongs here: requests, their pace, and which failures are worth another try. Does not belong here: what to ask (``compounds.py``) or
keeping the answers (``answers.py``).

pubchempy builds the requests and reads the faults. It has no time limit, no pace and one address for all, so that these are set around
each request: the limit as the sockets' default (urllib takes it from there), the address as ``pubchempy.API_BASE``. Both are put back
before the next request may start; one request is made at a time.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from functools import partial
from http import HTTPStatus
from urllib.error import HTTPError

import pandas as pd
import pubchempy

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.identity.answers import ANSWER_COLUMNS, present
from perturbridge_dagster.identity.structures import read_structure
from perturbridge_dagster.patience import BUSY, Pace, Patience, TryAgain, patiently, retry_after

log = logging.getLogger("perturbridge")

ADDRESS_VARIABLE = "PERTURBRIDGE_PUBCHEM"
"""Environment variable that names another address of PUG REST: a mirror, or a test's double."""

PROPERTIES = ("InChIKey", "SMILES", "Title")

_NAMESPACES = {"cid": "cid", "inchikey": "inchikey", "smiles": "smiles", "name": "name", "cas": "name"}
"""Kind of question → namespace of PUG REST. CAS numbers are names there."""
_BATCHED = ("cid", "inchikey")
"""PUG REST takes lists of these; of anything else one a request."""
_MOST_PROBLEMS_IN_A_ROW = 3
_PAUSE_AT = {"yellow": 1.0, "red": 5.0, "black": 30.0}
"""Seconds to wait, by the worst word of PubChem's X-Throttling-Control header; green asks for no pause."""


class PubChemUnavailableError(PerturbridgeError):
    """PubChem did not answer, however often it was asked."""


@dataclass(frozen=True, kw_only=True)
class Limits(Patience):
    """How PubChem is asked.

    Attributes
    ----------
    per_second, per_minute
        Requests; PubChem's usage policy allows 5 and 400.
    batch
        Ids a request, where it takes many; questions a saved batch, where it takes one.
    timeout_s
        How long a request may stay silent.
    """

    per_second: int = 5
    per_minute: int = 400
    batch: int = 100
    timeout_s: float = 30.0


PACE = Pace()
"""The pace of this process, whoever asks."""

_ONE_REQUEST = threading.Lock()


@contextmanager
def _set_for_one_request(address: str, timeout_s: float) -> Iterator[None]:
    """Set what pubchempy has no argument for, and put it back."""
    with _ONE_REQUEST:
        earlier = pubchempy.API_BASE, socket.getdefaulttimeout()
        pubchempy.API_BASE = address
        socket.setdefaulttimeout(timeout_s)
        try:
            yield
        finally:
            pubchempy.API_BASE = earlier[0]
            socket.setdefaulttimeout(earlier[1])


class PubChem:
    """PUG REST, asked patiently.

    Parameters
    ----------
    address
        Address of PUG REST; without it ``$PERTURBRIDGE_PUBCHEM``, else PubChem's.
    limits
        How it is asked.
    pace
        The pace that is kept; that of the process by default.
    """

    def __init__(self, address: str | None = None, limits: Limits | None = None, pace: Pace = PACE) -> None:
        self.address = (address or os.environ.get(ADDRESS_VARIABLE) or pubchempy.API_BASE).rstrip("/")
        self.limits = limits or Limits()
        self.pace = pace

    def ask(self, questions: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Ask questions, batch by batch.

        Parameters
        ----------
        questions
            Columns kind and query (see ``answers.ANSWER_COLUMNS``).

        Yields
        ------
        The answers to some of the questions, columns ``ANSWER_COLUMNS``: for each one row a compound, or one that says that PubChem
        knows none (``not_found``) or did not take the question (``failed``).

        Raises
        ------
        PubChemUnavailableError
            If several requests in a row got no answer in all their tries, or were refused whatever they asked. Their questions are
            given as ``failed`` before; what was not asked is not given.
        """
        problems: list[str] = []
        for kind, asked in questions.drop_duplicates(["kind", "query"]).groupby("kind", sort=False):
            queries = asked["query"].tolist()
            for first in range(0, len(queries), self.limits.batch):
                rows = self._ask_batch(str(kind), queries[first : first + self.limits.batch], problems)
                yield pd.DataFrame(rows, columns=list(ANSWER_COLUMNS), dtype=object).astype({"pubchem_cid": "Int64"})
                if len(problems) >= _MOST_PROBLEMS_IN_A_ROW:
                    raise PubChemUnavailableError(f"{self.address} does not answer: {problems[-1]}. Ask again later; the rest is kept.")

    def _ask_batch(self, kind: str, queries: list[str], problems: list[str]) -> list[tuple[object, ...]]:
        """Answers to a batch. `problems` are those of the last requests, empty after one that was answered."""
        rows: list[tuple[object, ...]] = []
        for part in [queries] if kind in _BATCHED else [[query] for query in queries]:
            try:
                rows += self._ask_once(kind, part)
                problems.clear()
            except (TryAgain, pubchempy.PubChemHTTPError) as error:
                problems.append(str(error))
                rows += [_row(kind, query, "failed", present(), problem=str(error)) for query in part]
            if len(problems) >= _MOST_PROBLEMS_IN_A_ROW:
                break
        return rows

    def _ask_once(self, kind: str, queries: list[str]) -> list[tuple[object, ...]]:
        """Answers to what one request asks; halves of it, where the service refuses the request for one bad id.

        Raises
        ------
        pubchempy.PubChemHTTPError
            If the service refuses whoever asks, not what is asked.
        TryAgain
            If every try failed.
        """
        try:
            records = self._patiently(_NAMESPACES[kind], queries)
        except pubchempy.PubChemHTTPError as error:
            # only a bad request is one for what it asks; 401 and 403, say, are given to every further request too
            if error.code != HTTPStatus.BAD_REQUEST:
                raise
            if len(queries) > 1:
                half = len(queries) // 2
                return self._ask_once(kind, queries[:half]) + self._ask_once(kind, queries[half:])
            return [_row(kind, queries[0], "failed", present(), problem=str(error))]
        when = present()
        # a structure that PubChem can read but does not have comes back without an id
        there = [record for record in records if record.get("CID")]
        key = {"cid": "CID", "inchikey": "InChIKey"}.get(kind)
        answers: list[tuple[object, ...]] = []
        for query in queries:
            # a PubChem id that was never given has a record with nothing in it
            own = [record for record in there if key is None or (str(record.get(key)) == query and record.get("InChIKey"))]
            answers += [_row(kind, query, "found", when, record) for record in own] or [_row(kind, query, "not_found", when)]
        return answers

    def _patiently(self, namespace: str, queries: list[str]) -> list[dict[str, object]]:
        """Records of a request, made again while the failure may pass.

        Raises
        ------
        pubchempy.PubChemHTTPError
            If the service refuses the request.
        TryAgain
            If every try failed.
        """
        return patiently(
            partial(self._request, namespace, queries),
            self.limits,
            sleep=self.pace.sleep,
            told=lambda line: log.info("PubChem: %s", line),
        )

    def _request(self, namespace: str, queries: list[str]) -> list[dict[str, object]]:
        """Records of one request, made once; none where PubChem finds nothing."""
        self.pace.wait((self.limits.per_second, 1.0), (self.limits.per_minute, 60.0))
        operation = f"property/{','.join(PROPERTIES)}"
        try:
            with _set_for_one_request(self.address, self.limits.timeout_s):
                response = pubchempy.request(",".join(queries), namespace, operation=operation)
            with response:
                self._heed(response.headers)
                return list(json.loads(response.read())["PropertyTable"]["Properties"])
        except pubchempy.NotFoundError:
            return []
        except pubchempy.PubChemHTTPError as error:
            headers = error.__cause__.headers if isinstance(error.__cause__, HTTPError) else Message()
            self._heed(headers)
            if error.code not in BUSY:
                raise
            raise TryAgain(str(error), retry_after(headers.get("Retry-After"))) from error
        except (OSError, http.client.HTTPException) as error:
            raise TryAgain(f"no answer ({error or type(error).__name__})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise TryAgain(f"an answer that is none ({error})") from error

    def _heed(self, headers: Message) -> None:
        """Slow down where PubChem says that it is busy, or that we ask too much."""
        words = re.findall(r"status:\s*(\w+)", headers.get("X-Throttling-Control") or "")
        seconds = max((_PAUSE_AT.get(word.lower(), 0.0) for word in words), default=0.0)
        if seconds:
            self.pace.pause(min(seconds, self.limits.longest_pause_s))


def _row(
    kind: str, query: str, outcome: str, when: datetime, record: dict[str, object] | None = None, problem: str | None = None
) -> tuple[object, ...]:
    """A row of answers."""
    known = record or {}
    smiles = known.get("SMILES")
    parent_key = read_structure(str(smiles)).parent_key if smiles else None
    texts = (known.get("InChIKey"), parent_key, smiles, known.get("Title"))
    return (kind, query, outcome, known.get("CID"), *texts, "PubChem", when.isoformat(), problem)
