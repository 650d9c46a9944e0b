"""Telling how far the files are.

Belongs here: what is told, and when. Does not belong here: where it is shown, which is the caller's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping

from perturbridge_dagster.sources.download.remote import bytes_in_words

Progress = Callable[[str], None]
"""Told a line at a time."""

Watch = Callable[[Mapping[str, tuple[int, int | None]]], None]
"""Told what is under way: name → bytes that are there, and that there will be, if that is known."""


class Board:
    """How far the files are. Threads write on it; the caller's thread reads it out.

    Parameters
    ----------
    n_files
        Files in all.
    seconds
        Between two lines on how far all is.
    progress
        Told what happens; and how far all is, unless there is a `watch`.
    watch
        Told how far all is, as often as :meth:`tell` is called.
    """

    def __init__(self, n_files: int, seconds: float, progress: Progress, watch: Watch | None) -> None:
        self.n_files = n_files
        self.seconds = seconds
        self.progress = progress
        self.watch = watch
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.there: dict[str, tuple[int, int | None]] = {}
        self.n_done = 0
        self.received = 0
        self.last = (time.monotonic(), 0)

    def say(self, line: str) -> None:
        """Something that happened, told at once."""
        self.events.put(line)

    def grown(self, name: str, there: int, whole: int | None, new: int) -> None:
        """Bytes of a file that are there, that there will be, and that came."""
        with self.lock:
            self.there[name] = (there, whole)
            self.received += new

    def forget(self, name: str) -> None:
        """No longer tell how far something is."""
        with self.lock:
            self.there.pop(name, None)

    def done(self, name: str, line: str) -> None:
        """A file is there."""
        self.forget(name)
        with self.lock:
            self.n_done += 1
            n_done = self.n_done
        self.say(f"{name}: {line} ({n_done} of {self.n_files} files)")

    def tell(self) -> None:
        """Tell what happened, and how far all is when it is time."""
        while not self.events.empty():
            self.progress(self.events.get())
        with self.lock:
            there, received = dict(self.there), self.received
        if self.watch is not None:
            self.watch(there)
            return
        then, received_then = self.last
        passed = time.monotonic() - then
        if passed < self.seconds:
            return
        self.last = (time.monotonic(), received)
        if there:
            self.progress(self._how_far(there, (received - received_then) / passed))

    def _how_far(self, there: Mapping[str, tuple[int, int | None]], speed: float) -> str:
        parts = [
            f"{name} {bytes_in_words(so_far)}" + (f" of {bytes_in_words(whole)}" if whole is not None else "")
            for name, (so_far, whole) in sorted(there.items())
        ]
        line = f"{self.n_done} of {self.n_files} files; {', '.join(parts)}; {bytes_in_words(speed)}/s"
        if speed > 0 and all(whole is not None for _, whole in there.values()):
            left = sum((whole or 0) - so_far for so_far, whole in there.values())
            line += f", about {duration_in_words(left / speed)} left for these"
        return line


def duration_in_words(seconds: float) -> str:
    """A duration for people, for example ``"12 min"``."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
