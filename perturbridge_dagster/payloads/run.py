"""The runner of a payload: takes 1..n requests from a JSON file and makes their outputs, one after the other.

Runs as ``python -m perturbridge_dagster.payloads.run REQUESTS.json``, under Dagster Pipes where Dagster started it. Exits 0 when
every request has an outcome on disk (an output with ``done.json``, or a ``.failed.json``); whoever started it reads those.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from perturbridge_dagster.payloads.requests import Request, execute
from perturbridge_dagster.payloads.tasks import TASKS

log = logging.getLogger("perturbridge")

GRACE_SECONDS = 5
"""How long an interrupted payload may clean up. Dagster waits 20 s for it."""


class _PipesHandler(logging.Handler):
    """Sends the domain's log lines to the Dagster run."""

    def __init__(self, pipes: PipesContext) -> None:
        super().__init__()
        self._pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        self._pipes.log.log(record.levelno, self.format(record))


@contextmanager
def _logging() -> Iterator[None]:
    """Log to the Dagster run where there is one, else to the terminal."""
    log.setLevel(logging.INFO)
    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        yield
        return
    with open_dagster_pipes() as pipes:
        handler = _PipesHandler(pipes)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


def main(requests_file: Path) -> None:
    """Make the outputs of the requests in a file.

    Parameters
    ----------
    requests_file
        JSON list of requests (:meth:`Request.to_dict`).
    """
    requests = [Request.from_dict(values) for values in json.loads(requests_file.read_text())]
    with _logging():
        for number, request in enumerate(requests, start=1):
            outcome = execute(request, TASKS[request.task])
            key = " ".join(str(value) for value in request.arguments.values() if isinstance(value, str))
            log.info("%d of %d: %s %s %s", number, len(requests), request.task, key, outcome.status)


def _end_soon_after_interrupt() -> None:
    """Let an interrupt end this process also in the midst of R or other compiled code.

    Python raises KeyboardInterrupt only when compiled code returns, and rpy2 swallows it where R calls back. A thread that waits
    for the signal itself depends on neither.
    """
    woken, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(woken, 1)[0] != signal.SIGINT:
            pass
        time.sleep(GRACE_SECONDS)
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _end_soon_after_interrupt()
    main(Path(sys.argv[1]))
