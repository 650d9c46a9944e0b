"""The runner of a payload: takes 1..n requests from a JSON file and makes their outputs, one after the other.

Runs as ``python -m perturbridge_dagster.payloads.run REQUESTS.json``, under Dagster Pipes where Dagster started it; in a SLURM job
``slurm_payload.py`` starts it. Exits 0 when every request has an outcome on disk (an output with ``done.json``, or a
``.failed.json``); whoever started it reads those.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    PipesContext,
    PipesDefaultMessageWriter,
    PipesMessage,
    PipesMessageWriterChannel,
    PipesParams,
    open_dagster_pipes,
)

from perturbridge_dagster.payloads.handover import note_begun, payload_tag, read_requests
from perturbridge_dagster.payloads.progress import ProgressHandler
from perturbridge_dagster.payloads.requests import execute
from perturbridge_dagster.payloads.tasks import TASKS

log = logging.getLogger("perturbridge")

GRACE_SECONDS = 4
"""How long an interrupted payload may clean up. Dagster waits 20 s for it; SLURM 30 s, or as few as 5 where a site says so."""


class _LossyChannel(PipesMessageWriterChannel):
    """Loses messages that cannot be written, since the disk is full, say: outputs count, not what could be said of them."""

    def __init__(self, channel: PipesMessageWriterChannel) -> None:
        self._channel = channel

    def write_message(self, message: PipesMessage) -> None:
        try:
            self._channel.write_message(message)
        except OSError as error:
            # past Python's buffer: stderr may lie on the same disk, and what cannot be flushed makes the process end with status 120
            with suppress(OSError):
                os.write(2, f"a message to Dagster was lost: {error}\n".encode())


class _QuietWriter(PipesDefaultMessageWriter):
    """Leaves stdout and stderr out of the messages, whatever is asked for, and goes on where messages cannot be written.

    dagster-slurm asks for them beside following the job's logs itself: every line would come twice, and the end of each payload take
    five seconds longer.
    """

    @contextmanager
    def open(self, params: PipesParams) -> Iterator[PipesMessageWriterChannel]:
        quiet = {name: value for name, value in params.items() if name != self.INCLUDE_STDIO_IN_MESSAGES_KEY}
        with super().open(quiet) as channel:
            yield _LossyChannel(channel)


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
    with open_dagster_pipes(message_writer=_QuietWriter()) as pipes:
        handler = _PipesHandler(pipes)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


@contextmanager
def _progress(requests_file: Path) -> Iterator[None]:
    """Write what tasks tell of their progress to where it is read."""
    handler = ProgressHandler(requests_file)
    handler.listen()
    try:
        yield
    finally:
        handler.leave()


def main(requests_file: Path) -> None:
    """Make the outputs of the requests in a file.

    Parameters
    ----------
    requests_file
        Written by :func:`~perturbridge_dagster.payloads.handover.write_requests`.

    Raises
    ------
    PerturbridgeError
        If other code was asked for than is here.
    """
    requests = read_requests(requests_file)
    with _logging(), _progress(requests_file):
        for number, request in enumerate(requests, start=1):
            note_begun(requests_file, request)
            outcome = execute(request, TASKS[request.task], payload_tag(requests_file))
            key = " ".join(str(value) for value in request.arguments.values() if isinstance(value, str))
            log.info("%d of %d: %s %s %s", number, len(requests), request.task, key, outcome.status)


def _end_soon_after_signal() -> None:
    """Let SIGINT, and SLURM's SIGTERM, end this process also in the midst of R or other compiled code.

    Python raises KeyboardInterrupt only when compiled code returns, and rpy2 swallows it where R calls back. A thread that waits
    for the signals itself depends on neither.
    """
    woken, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def wait() -> None:
        while (received := os.read(woken, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
            pass
        time.sleep(GRACE_SECONDS)
        os._exit(128 + received)

    threading.Thread(target=wait, daemon=True).start()


def start(requests_file: Path) -> None:
    """Be the payload of a requests file: :func:`main`, in a process of its own that signals can end."""
    _end_soon_after_signal()
    main(requests_file)


if __name__ == "__main__":
    start(Path(sys.argv[1]))
