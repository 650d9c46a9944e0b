"""How requests get to a payload, and what it leaves to say which it has begun.

A JSON file of requests, written by who starts the payload; beside it a file that the payload adds a digest to as it begins each
request. Belongs here: both files, and the environment of a payload. Does not belong here: running requests (``run.py``), or starting
payloads (``resources/``).
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.payloads.progress import progress_file
from perturbridge_dagster.payloads.requests import Request, aside_folder, failure_of, verified
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import write_json

REQUESTS_VARIABLE = "PERTURBRIDGE_REQUESTS"
"""Environment variable that names the requests file where a payload takes no arguments."""


def payload_environment(home: Path) -> dict[str, str]:
    """Environment variables of every payload, wherever it runs.

    Linear algebra has one thread: its sums then have one order, so that results do not depend on the machine. Loops that can be parted
    without changing a result take all cores that the payload was given (``compiled.py``).
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
    return {"PERTURBRIDGE_HOME": str(home), **one}


def write_requests(home: Path, run_id: str, requests: Sequence[Request]) -> Path:
    """Write requests for a payload, and forget what an earlier try of them said.

    Parameters
    ----------
    home
        The platform's home; the file lies in its ``requests/``.
    run_id
        Dagster run that starts the payload.
    requests
        In the order in which they are to be made.
    """
    for request in requests:  # what an earlier try said must not be read as this one's
        request.failure.unlink(missing_ok=True)
    file = home / "requests" / f"{run_id}-{uuid.uuid4().hex[:8]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, [{"digest": request.digest, **request.to_dict()} for request in requests])
    return file


def read_requests(file: Path) -> list[Request]:
    """Read requests in a payload.

    Raises
    ------
    PerturbridgeError
        If the code here is not that which was asked for, so that its results would be recorded as those of another version.
    """
    requests = []
    for values in json.loads(file.read_text()):
        digest = values.pop("digest")
        request = Request.from_dict(values)
        here, asked = STAGES[request.task].code_version, request.code_version.split(";")[0]
        if here != asked:
            raise PerturbridgeError(
                f"version {asked} of {request.task} was asked for, but the environment of this payload has version {here}. "
                "Install the same version of perturbridge-dagster there."
            )
        if request.digest != digest:
            raise PerturbridgeError(
                "the environment of this payload has another version of the contract than the one that asks. "
                "Install the same version of perturbridge-dagster there."
            )
        requests.append(request)
    return requests


def payload_tag(file: Path) -> str:
    """What tells a payload from all others: it names the folders that the payload writes in."""
    return file.stem.rpartition("-")[2]


def _begun(file: Path) -> Path:
    return file.with_suffix(".begun")


def note_begun(file: Path, request: Request) -> None:
    """Note that a payload begins a request of a requests file."""
    with _begun(file).open("a") as stream:
        stream.write(f"{request.digest}\n")


def died_of(file: Path) -> str | None:
    """Digest of the request that a payload was making when it ended; None where it had begun none, or had made all it began."""
    try:
        begun = _begun(file).read_text().split()
        requests = _requests(file)
    except FileNotFoundError:
        return None
    for request in requests:
        if begun and request.digest == begun[-1] and verified(request) is None and failure_of(request) is None:
            return request.digest
    return None


def _requests(file: Path) -> list[Request]:
    """The requests of a file, whatever the code here."""
    return [
        Request.from_dict({name: value for name, value in values.items() if name != "digest"}) for values in json.loads(file.read_text())
    ]


def forget_requests(file: Path) -> None:
    """Remove a requests file whose payload has ended, what the payload left beside it, and what it wrote in part if it was killed."""
    try:
        requests = _requests(file)
    except FileNotFoundError:
        requests = []
    for request in requests:
        shutil.rmtree(aside_folder(request, payload_tag(file)), ignore_errors=True)
    for left in (file, _begun(file), progress_file(file)):
        left.unlink(missing_ok=True)
