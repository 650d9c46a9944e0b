"""A server of files on this machine that can be told to misbehave."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives each request to what the test has planned for its path."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(Request(self.path, dict(self.headers.items()), time.monotonic()))
        plan = self.server.plans.get(self.path) or self.server.plans.get(self.path.partition("?")[0])
        if plan is None:
            self.send(404, b"no such file")
        elif isinstance(plan, list):
            (plan.pop(0) if len(plan) > 1 else plan[0])(self)
        else:
            plan(self)

    def send(self, status: int, body: bytes = b"", **headers: Any) -> None:
        """A whole, honest answer; underscores in names of headers stand for hyphens."""
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": len(body), "Content-Type": "application/octet-stream", **named}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection with a reset, once what was sent has arrived."""
        time.sleep(0.02)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    at: float


class Server(ThreadingHTTPServer):
    """Plans by path: one answer for every request, or a list of answers, the last of which stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans: dict[str, Answer | list[Answer]] = {}
        self.requests: list[Request] = []

    def shutdown_request(self, request: Any) -> None:
        request.close()  # without a polite end, so that a reset is one

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that go away are part of the tests

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.partition("?")[0] == path]


@dataclass
class File:
    """A file as a good server gives it, with ranges and an ETag."""

    body: bytes
    etag: str | None = field(default="")
    last_modified: str | None = None
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.etag == "":
            self.etag = f'"{hashlib.md5(self.body).hexdigest()[:8]}"'

    def part(self, handler: Handler) -> tuple[int, int, dict[str, Any]]:
        """Status, first byte and headers for a request."""
        named = {"ETag": self.etag, "Last_Modified": self.last_modified, **self.headers}
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        condition = handler.headers.get("If-Range")
        if not self.ranges or asked is None or (condition is not None and condition not in (self.etag, self.last_modified)):
            return 200, 0, named
        start = int(asked[1])
        if start >= len(self.body):
            return 416, start, {**named, "Content_Range": f"bytes */{len(self.body)}"}
        return 206, start, {**named, "Content_Range": f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"}

    def __call__(self, handler: Handler) -> None:
        status, start, headers = self.part(handler)
        handler.send(status, self.body[start:], **headers)

    def broken_after(self, n: int, how: str = "reset") -> Answer:
        """The same, but the connection ends `n` bytes after the first one asked for."""

        def answer(handler: Handler) -> None:
            status, start, headers = self.part(handler)
            handler.send(status, self.body[start : start + n], **{"Content_Length": len(self.body) - start, **headers})
            handler.close_connection = True
            if how == "reset":
                handler.reset()

        return answer

    def dripping(self, n: int, seconds: float) -> Answer:
        """The same, `n` bytes at a time with a pause after each."""

        def answer(handler: Handler) -> None:
            status, start, headers = self.part(handler)
            handler.send(status, b"", **{"Content_Length": len(self.body) - start, **headers})
            for at in range(start, len(self.body), n):
                handler.wfile.write(self.body[at : at + n])
                handler.wfile.flush()
                time.sleep(seconds)

        return answer


def says(status: int, body: bytes = b"", **headers: Any) -> Answer:
    """An answer that is always the same."""
    return lambda handler: handler.send(status, body, **headers)
