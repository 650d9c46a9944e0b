"""Asking a service patiently: which answers pass, how long to wait before the next try, and never more often than is allowed.

Belongs here: what every module that talks to the world does between two requests. Does not belong here: the requests.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import tenacity

T = TypeVar("T")

BUSY = frozenset({429, 500, 502, 503, 504})
"""Statuses of an answer that may be another the next time."""


class TryAgain(Exception):
    """A try failed in a way that may pass.

    Parameters
    ----------
    problem
        What happened, for people.
    retry_after
        Seconds that the service asked to wait.
    """

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often, and how soon, something is tried again.

    Attributes
    ----------
    tries
        Times that it is tried before it counts as failed.
    first_pause_s, longest_pause_s
        The pause after the n-th try is drawn between 0 and first_pause_s · 2ⁿ⁻¹, at most `longest_pause_s`.
    longest_retry_after_s
        The longest pause that a service may ask for.
    """

    tries: int = 5
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    longest_retry_after_s: float = 300.0


def patiently(
    attempt: Callable[[], T],
    patience: Patience,
    *,
    sleep: Callable[[float], None] = time.sleep,
    told: Callable[[str], None] = lambda line: None,
) -> T:
    """Do something again while it raises :class:`TryAgain`.

    Parameters
    ----------
    attempt
        What to do.
    patience
        How often, and how soon.
    sleep
        As ``time.sleep``.
    told
        Told what went wrong, and how long is waited.

    Raises
    ------
    TryAgain
        The last one.
    """
    backoff = tenacity.wait_random_exponential(multiplier=patience.first_pause_s, max=patience.longest_pause_s)

    def problem(state: tenacity.RetryCallState) -> BaseException | None:
        return state.outcome.exception() if state.outcome else None

    def pause(state: tenacity.RetryCallState) -> float:
        asked = getattr(problem(state), "retry_after", 0.0)
        return max(min(asked, patience.longest_retry_after_s), backoff(state))

    def tell(state: tenacity.RetryCallState) -> None:
        told(f"{problem(state)}; try {state.attempt_number + 1} of {patience.tries} in {state.upcoming_sleep:.0f} s")

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TryAgain),
        stop=tenacity.stop_after_attempt(patience.tries),
        wait=pause,
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )(attempt)


def retry_after(header: str | None) -> float:
    """Seconds that an answer's Retry-After asks to wait, given as such or as a date; 0 where it asks for nothing that can be read."""
    asked = (header or "").strip()
    try:
        seconds = float(asked)
    except ValueError:
        try:
            date = parsedate_to_datetime(asked)
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


class Pace:
    """Lets requests through at most at some rates; one object may serve every thread of a process.

    Parameters
    ----------
    clock, sleep
        As in ``time``; others are for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clock, self.sleep = clock, sleep
        self._lock = threading.Lock()
        self._made: deque[float] = deque(maxlen=10_000)
        self._not_before = float("-inf")

    def wait(self, *rates: tuple[int, float]) -> None:
        """Return when the next request may be made, and count it as made.

        Parameters
        ----------
        rates
            Requests, and the seconds in which so many may be made.
        """
        with self._lock:
            for n_requests, seconds in rates:
                if len(self._made) >= n_requests:
                    self._until(self._made[-n_requests] + seconds)
            self._until(self._not_before)
            self._made.append(self._clock())

    def pause(self, seconds: float) -> None:
        """Make no request for some seconds from now."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + seconds)

    def _until(self, moment: float) -> None:
        while (left := moment - self._clock()) > 0:
            self.sleep(left)
