"""What a task tells while it works, as numbers: a training tells of each validation, so that the UI can show its curve.

A line of JSON each, in a file beside the requests file, which whoever started the payload reads as it grows. Not by Dagster Pipes, whose
custom messages are read only when the payload has ended. Belongs here: telling, and reading. Does not belong here: showing it
(``resources/progress.py``).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

Number = float | int | str

_log = logging.getLogger("perturbridge.progress")
_log.propagate = False  # these are no lines for people
_log.setLevel(logging.INFO)


def report_progress(numbers: Mapping[str, Number], **of: Number) -> None:
    """Tell how far a task is. Outside of a payload nobody listens.

    Parameters
    ----------
    numbers
        Name → number, such as step and validation_rmse; those that are not finite are left out.
    **of
        What they are of, where a task does several things: ``seed=13``.
    """
    finite = {name: value for name, value in numbers.items() if isinstance(value, str) or math.isfinite(value)}
    _log.info("progress", extra={"numbers": {**of, **finite}})


def progress_file(requests_file: Path) -> Path:
    """Where the payload of a requests file tells how far it is."""
    return requests_file.with_suffix(".progress")


class ProgressHandler(logging.Handler):
    """Writes what tasks tell beside a requests file.

    Parameters
    ----------
    requests_file
        Of the payload.
    """

    def __init__(self, requests_file: Path) -> None:
        super().__init__()
        self._file = progress_file(requests_file)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; a task goes on also where that cannot be written."""
        try:
            with self._file.open("a") as stream:
                stream.write(json.dumps(record.__dict__["numbers"]) + "\n")
        except OSError:
            self.handleError(record)

    def listen(self) -> None:
        """Begin to write."""
        _log.addHandler(self)

    def leave(self) -> None:
        """Write no more."""
        _log.removeHandler(self)


class ProgressReader:
    """Reads what a payload tells, as far as it has come.

    Parameters
    ----------
    requests_file
        Of the payload.
    """

    def __init__(self, requests_file: Path) -> None:
        self._file = progress_file(requests_file)
        self._read = 0

    def news(self) -> list[dict[str, Number]]:
        """What has been told since the last look; a line that is half written waits for the next."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                whole = stream.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole[0]) + len(whole[1])
        return [json.loads(line) for line in whole[0].splitlines()]
