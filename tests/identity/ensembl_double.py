"""A local Ensembl: the archive of ids and the release, as the real REST service answers them, with its misbehaviours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import serving


@dataclass
class Trouble:
    """One request that goes wrong: a status, with headers; a body in place of the right one; silence before it."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    silent_s: float = 0.0
    leave_out: int = 0
    """Items left out at the end of the right answer."""
    cut: bool = False
    """Whether the connection ends in the middle of the body."""


@dataclass
class EnsemblDouble:
    """What the service knows: id → ids that replace it, or None for one in use."""

    archive: dict[str, list[str] | None]
    release: int = 115
    troubles: list[Trouble] = field(default_factory=list)
    """For the next requests for archived ids, in order."""
    always: Trouble | None = None
    """For every request for archived ids by POST."""
    later_release: int | None = None
    """Release from the second time it is asked."""
    requests: list[tuple[str, list[str]]] = field(default_factory=list)
    address: str = ""

    def item(self, gene_id: str) -> dict[str, Any]:
        """An item as Ensembl writes it: yes and no are texts, replacements have a score."""
        replaced = self.archive[gene_id]
        return {
            "id": gene_id,
            "latest": f"{gene_id}.3",
            "version": "3",
            "release": str(self.release if replaced is None else 84),
            "assembly": "GRCh38",
            "type": "Gene",
            "peptide": None,
            "is_current": "1" if replaced is None else "",
            "possible_replacement": [{"stable_id": name, "score": 0.91} for name in replaced or []],
        }


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        double = self.server.double
        if self.path.startswith("/info/data"):
            double.requests.append(("release", []))
            asked = sum(kind == "release" for kind, _ in double.requests)
            release = double.later_release if double.later_release and asked > 1 else double.release
            self.answer(200, json.dumps({"releases": [release]}).encode())
            return
        gene_id = self.path.removeprefix("/archive/id/").partition("?")[0]
        double.requests.append(("GET", [gene_id]))
        if gene_id in double.archive:
            self.answer(200, json.dumps(double.item(gene_id)).encode())
        else:
            self.answer(400, json.dumps({"error": f"ID '{gene_id}' not found"}).encode())

    def do_POST(self) -> None:
        double = self.server.double
        assert self.path == "/archive/id"
        ids = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"]
        double.requests.append(("POST", ids))
        if len(ids) > 1000:
            self.answer(400, b'{"error":"POST message too large. You have submitted more than 1000 elements"}')
            return
        trouble = double.troubles.pop(0) if double.troubles else double.always or Trouble()
        if trouble.silent_s:
            time.sleep(trouble.silent_s)
        items = [double.item(gene_id) for gene_id in ids if gene_id in double.archive]
        body = json.dumps(items[: len(items) - trouble.leave_out]).encode()
        self.answer(trouble.status, body if trouble.body is None else trouble.body, trouble.headers, cut=trouble.cut)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
        except ConnectionError:
            pass  # the asker has given up waiting

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    double: EnsemblDouble
    daemon_threads = True


@contextmanager
def serve(double: EnsemblDouble) -> Iterator[EnsemblDouble]:
    """Run the double on a free local port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.double = double
    with serving(server) as address:
        double.address = address
        yield double
