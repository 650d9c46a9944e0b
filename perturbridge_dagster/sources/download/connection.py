"""Asking a server: redirects, credentials, and which answers are worth another try.

Belongs here: everything about one request. Does not belong here: partial files (``transfer.py``) or what other stores call their
objects (``stores.py``).

httpx makes the requests. pooch was weighed and not taken: it neither resumes nor honours Retry-After.
Redirects are followed here, because httpx stops only after a number of them and would go from https to http.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import ip_address
from typing import TypeVar

import httpx

from perturbridge_dagster.patience import TryAgain, patiently, retry_after
from perturbridge_dagster.sources.download.remote import AccessError, DownloadError, Limits

T = TypeVar("T")

WORTH_ANOTHER_TRY = frozenset({408, 421, 425, 429, 500, 502, 503, 504, *range(520, 531)})
"""Answers that pass: overload, maintenance, time-outs; 520 to 530 are a content network's words for the same."""

_MOST_BYTES_OF_AN_ANSWER = 256 * 1024**2
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "perturbridge-dagster"}


class Stopped(Exception):
    """The caller has stopped."""


def without_query(url: httpx.URL | str) -> str:
    """A URL as it may be shown: what follows the path can be a signature, what precedes the host a password."""
    parsed = httpx.URL(url)
    return str(parsed.copy_with(query=None, fragment=None, userinfo=b""))


def _detail(response: httpx.Response, token: str | None) -> str:
    """What an answer that is not a file says, in a few words and without the token; empty where it says nothing."""
    try:
        text = next(response.iter_raw(), b"")[:4096].decode("utf-8", errors="replace")
    except httpx.TransportError:
        return ""
    # before anything is cut out of it: a part of a token would not be found
    text = without_secret(text, token)
    found = re.search(r"<(?:Message|title)>\s*(.*?)\s*</|\"(?:message|error)\"\s*:\s*\"(.*?)\"", text, re.IGNORECASE | re.DOTALL)
    said = (found[1] or found[2] or "") if found else "" if "<" in text else text
    said = re.sub(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", r"\1", said)
    return re.sub(r"\s+", " ", said).strip()[:200]


class Connection:
    """Asks servers in the manner that `limits` sets.

    Parameters
    ----------
    limits
        Patience and politeness.
    stop
        Set by the caller to end every wait and transfer.
    """

    def __init__(self, limits: Limits, stop: threading.Event) -> None:
        # both write whole URLs to the log, and signatures with them
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.limits = limits
        self.stop = stop
        self._client = httpx.Client(timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s, pool=None), headers=_HEADERS)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _token(self, url: httpx.URL, variable: str | None) -> str | None:
        token = os.environ.get(variable, "").strip() if variable else ""
        if not token:
            return None
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise AccessError(f"the token in {variable} holds blanks or letters that no token has.", advice=f"Set {variable} anew.")
        if url.scheme != "https" and not _is_this_machine(url.host):
            raise AccessError(f"the token in {variable} is not sent to {without_query(url)}, which is not encrypted.")
        return token

    @contextmanager
    def answer(
        self, url: str, *, token_variable: str | None = None, headers: dict[str, str] | None = None, accepted: tuple[int, ...] = (200,)
    ) -> Iterator[httpx.Response]:
        """Ask once, following redirects, and give the answer with its body unread.

        Parameters
        ----------
        url
            Of http or https.
        token_variable
            Environment variable of a token. Only the host of `url` sees it, not one it redirects to.
        headers
            Of the request.
        accepted
            Status codes that are given to the caller.

        Raises
        ------
        TryAgain
            If the connection failed, or the server's answer may pass.
        AccessError
            If the server wants a credential, or another one.
        DownloadError
            If it answers anything else that is not accepted, or redirects without end.
        """
        token = self._token(httpx.URL(url), token_variable)
        request = self._client.build_request("GET", url, headers=headers)
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        try:
            response = self._after_redirects(request)
            try:
                if response.status_code not in accepted:
                    raise self._refusal(response, token, token_variable)
                yield response
            finally:
                response.close()
        except httpx.RequestError as error:
            raise TryAgain(f"{without_query(url)}: {type(error).__name__}: {without_secret(str(error), token)}") from None

    def _after_redirects(self, request: httpx.Request) -> httpx.Response:
        been = [request.url]
        while True:
            if self.stop.is_set():
                raise Stopped
            response = self._client.send(request, stream=True, follow_redirects=False)
            following = response.next_request
            if following is None:
                return response
            response.close()
            here, there = request.url, following.url
            if there in been or len(been) > self.limits.redirects:
                raise DownloadError(
                    f"{without_query(been[0])} redirects {'in a circle' if there in been else f'more than {self.limits.redirects} times'}, "
                    f"last to {without_query(there)}.",
                    advice="The service is set up wrongly or wants a login; open the address in a browser.",
                )
            if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
                raise DownloadError(f"{without_query(here)} redirects to {without_query(there)}, which is not encrypted.")
            been.append(there)
            request = following

    def _refusal(self, response: httpx.Response, token: str | None, variable: str | None) -> Exception:
        """The exception for an answer that is not a file."""
        code = response.status_code
        phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else ""
        said = _detail(response, token)
        problem = f"{without_query(response.url)} answered {code} {phrase}".rstrip() + (f" ({said})" if said else "")
        if code in WORTH_ANOTHER_TRY:
            return TryAgain(problem, retry_after(response.headers.get("retry-after")))
        if code in (401, 403, 407):
            if variable and not token:
                advice = f"It wants a token: set the environment variable {variable}."
            elif variable:
                advice = f"The token in {variable} was refused: it may have expired, or lack the right to this file."
            else:
                advice = "It is not, or no longer, open to everyone."
            return AccessError(f"{problem}.", advice=advice)
        if code in (404, 410):
            return DownloadError(f"{problem}.", advice="The source has moved or withdrawn it.")
        return DownloadError(f"{problem}.")

    def patiently(self, attempt: Callable[[], T], told: Callable[[str], None] = lambda line: None) -> T:
        """Do something again while it raises :class:`TryAgain`, `limits.tries` times, with growing, random pauses.

        Parameters
        ----------
        attempt
            What to do.
        told
            Told why and how long is waited.

        Raises
        ------
        TryAgain
            The last one.
        """

        def sleep(seconds: float) -> None:
            if self.stop.wait(seconds):
                raise Stopped

        return patiently(attempt, self.limits, sleep=sleep, told=told)

    def read(self, url: str) -> bytes:
        """A small answer whole, such as the list of what a package holds.

        Raises
        ------
        DownloadError
            As :meth:`answer`, and if every try failed.
        """

        def attempt() -> bytes:
            with self.answer(url) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > _MOST_BYTES_OF_AN_ANSWER:
                        raise DownloadError(f"{without_query(url)} answers without end.")
                return bytes(body)

        try:
            return self.patiently(attempt)
        except TryAgain as problem:
            raise DownloadError(f"{problem}, {self.limits.tries} times.", advice="Try again later.") from None


def without_secret(text: str, secret: str | None) -> str:
    """Text in which a secret is not to be read, nor its beginning where the text breaks off, should a server have repeated it."""
    if not secret:
        return text
    text = text.replace(secret, "…")
    begun = next((n for n in range(len(secret) - 1, 0, -1) if text.endswith(secret[:n])), 0)
    return f"{text[:-begun]}…" if begun else text


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
