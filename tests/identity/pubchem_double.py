"""A local server that answers as PubChem's PUG REST does: records and property tables, faults, throttling, slow and broken answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from rdkit import Chem

from perturbridge_dagster.identity.structures import read_structure
from tests.serving import serving

PATH = "/rest/pug"
BUSY = ("PUGREST.ServerBusy", "Too many requests or server too busy")


@dataclass(frozen=True)
class Record:
    """A compound of PubChem; the id 0 is that of a structure which it can read but does not have."""

    cid: int
    smiles: str
    title: str
    names: tuple[str, ...] = ()
    tautomers: tuple[str, ...] = ()

    @property
    def inchikey(self) -> str:
        inchikey = read_structure(self.smiles).inchikey
        assert inchikey is not None
        return inchikey

    def property_row(self, properties: list[str]) -> dict[str, object]:
        values = {"InChIKey": self.inchikey, "SMILES": self.smiles, "Title": self.title}
        return {"CID": self.cid, **{name: values[name] for name in properties if self.cid or name != "Title"}}

    def full(self) -> dict[str, object]:
        atoms = list(Chem.MolFromSmiles(self.smiles).GetAtoms())
        return {
            "id": {"id": {"cid": self.cid}} if self.cid else {},
            "atoms": {"aid": [atom.GetIdx() + 1 for atom in atoms], "element": [atom.GetAtomicNum() for atom in atoms]},
            "props": [
                {"urn": {"label": "InChIKey", "name": "Standard"}, "value": {"sval": self.inchikey}},
                {"urn": {"label": "SMILES", "name": "Absolute"}, "value": {"sval": self.smiles}},
            ],
        }


@dataclass
class Trouble:
    """An answer that is not the one asked for."""

    status: int = 503
    fault: tuple[str, str] = BUSY
    headers: dict[str, str] = field(default_factory=dict)
    silent_s: float = 0.0
    body: bytes | None = None


@dataclass
class PubChemDouble:
    """What the server knows, how it is to behave, and what it was asked.

    Attributes
    ----------
    records
        Compounds it knows. A list of CIDs or InChIKeys is answered in one go; of names and SMILES it takes one.
    per_second
        Requests it takes in a second; further ones get 503 PUGREST.ServerBusy and the word Black.
    troubles
        Answers to the next requests, one each, instead of true ones.
    throttling
        Words of X-Throttling-Control.
    requests
        Namespace and identifiers of every request, with its time.
    """

    records: list[Record]
    per_second: int = 5
    troubles: list[Trouble] = field(default_factory=list)
    throttling: str = "Request Count status: Green (0%), Request Time status: Green (0%), Service status: Green (20%)"
    requests: list[tuple[float, str, list[str]]] = field(default_factory=list)
    refused: int = 0
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def asked(self) -> list[tuple[str, list[str]]]:
        return [(namespace, identifiers) for _, namespace, identifiers in self.requests]

    def find(self, namespace: str, identifiers: list[str]) -> list[Record]:
        """Records of a request.

        Raises
        ------
        ValueError
            If an identifier is not one.
        """
        if namespace == "cid":
            if not all(identifier.isdigit() and 0 < int(identifier) < 2**31 for identifier in identifiers):
                raise ValueError("Invalid CID")
            return [record for identifier in identifiers for record in self.records if record.cid == int(identifier)]
        if namespace == "inchikey":
            return [record for identifier in identifiers for record in self.records if record.inchikey == identifier]
        if namespace == "smiles":
            inchikey = read_structure(identifiers[0]).inchikey
            if inchikey is None:
                raise ValueError("Unable to standardize the given structure - perhaps some special characters need to be escaped")
            drawn = [record for record in self.records if record.inchikey == inchikey or identifiers[0] in record.tautomers]
            return drawn or [Record(0, identifiers[0], "")]
        return [record for record in self.records if identifiers[0].lower() in {name.lower() for name in (record.title, *record.names)}]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        double = self.server.double
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode(), strict_parsing=True)
        assert self.path.startswith(PATH + "/compound/"), self.path
        namespace, *operation, output = self.path.removeprefix(PATH + "/compound/").split("/")
        assert output == "JSON"
        text = body[namespace][0]
        identifiers = text.split(",") if namespace in ("cid", "inchikey") else [text]
        with double.lock:
            moment = time.monotonic()
            lately = [request for request in double.requests if moment - request[0] < 1.0]
            double.requests.append((moment, namespace, identifiers))
            trouble = double.troubles.pop(0) if double.troubles else None
            if trouble is None and len(lately) >= double.per_second:
                double.refused += 1
                trouble = Trouble(headers={"X-Throttling-Control": "Request Count status: Black (110%), Service status: Green (20%)"})
        if trouble:
            time.sleep(trouble.silent_s)
            fault = json.dumps({"Fault": {"Code": trouble.fault[0], "Message": trouble.fault[1]}}).encode()
            self.answer(trouble.status, fault if trouble.body is None else trouble.body, trouble.headers)
            return
        try:
            found = double.find(namespace, identifiers)
        except ValueError as error:
            self.answer(400, json.dumps({"Fault": {"Code": "PUGREST.BadRequest", "Message": str(error)}}).encode())
            return
        if not found:
            fault = {"Fault": {"Code": "PUGREST.NotFound", "Message": "No CID found", "Details": ["No CID found that matches"]}}
            self.answer(404, json.dumps(fault).encode())
            return
        self.answer(200, json.dumps(_answer(operation, found)).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in {"X-Throttling-Control": self.server.double.throttling, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # the asker has given up waiting

    def log_message(self, *args: object) -> None:
        pass


def _answer(operation: list[str], found: list[Record]) -> dict[str, object]:
    """A body as PUG REST writes it."""
    if operation[:1] == ["property"]:
        return {"PropertyTable": {"Properties": [record.property_row(operation[1].split(",")) for record in found]}}
    if operation == ["synonyms"]:
        return {"InformationList": {"Information": [{"CID": record.cid, "Synonym": [record.title, *record.names]} for record in found]}}
    return {"PC_Compounds": [record.full() for record in found]}


class _Server(ThreadingHTTPServer):
    double: PubChemDouble


@contextmanager
def serve(double: PubChemDouble) -> Iterator[PubChemDouble]:
    """Run the double on a free local port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.double = double
    with serving(server) as address:
        double.address = f"{address}{PATH}"
        yield double
