"""Patience: what Retry-After means, how often and how soon is tried again, and that a pace is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pandas as pd
import pytest

from perturbridge_dagster.patience import Pace, Patience, TryAgain, patiently, retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 7.5 ", 7.5), ("0", 0), ("-3", 0), ("nan", 0), ("inf", 0), ("soon", 0), ("", 0), (None, 0), ("9" * 400, 0)],
)
def test_seconds_of_retry_after(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 0)])
def test_a_date_in_retry_after(ahead: float, seconds: float) -> None:
    date = datetime.now(UTC) + timedelta(seconds=ahead)
    assert retry_after(format_datetime(date, usegmt=True)) == pytest.approx(seconds, abs=3)


def test_what_passes_is_tried_again_and_nothing_else() -> None:
    slept: list[float] = []
    told: list[str] = []
    troubles: list[Exception] = [TryAgain("busy", 1000.0), TryAgain("busy again")]

    def attempt() -> str:
        if troubles:
            raise troubles.pop(0)
        return "answer"

    patience = Patience(tries=3, first_pause_s=0.5, longest_pause_s=2.0, longest_retry_after_s=20.0)
    assert patiently(attempt, patience, sleep=slept.append, told=told.append) == "answer"
    assert slept[0] == 20.0  # as long as it may ask for
    assert 0 <= slept[1] <= 1.0
    assert [line.partition(";")[0] for line in told] == ["busy", "busy again"]
    troubles += [ValueError("no"), TryAgain("not reached")]
    with pytest.raises(ValueError, match="no"):
        patiently(attempt, patience, sleep=slept.append)
    assert len(troubles) == 1


def test_the_last_problem_is_raised() -> None:
    problems = iter(["first", "second", "third"])

    def attempt() -> None:
        raise TryAgain(next(problems))

    with pytest.raises(TryAgain, match="second"):
        patiently(attempt, Patience(tries=2), sleep=lambda seconds: None)


@pytest.mark.parametrize(("per_second", "seconds"), [(5, 999 // 5), (50, 2 * 60 + 199 // 50)])
def test_the_pace_keeps_both_limits_and_goes_as_fast_as_they_allow(per_second: int, seconds: float) -> None:
    now = 0.0
    made = []

    def sleep(pause: float) -> None:
        nonlocal now
        now += pause

    pace = Pace(clock=lambda: now, sleep=sleep)
    for _ in range(1000):
        pace.wait((per_second, 1.0), (400, 60.0))
        made.append(now)
    times = pd.Series(made)
    assert (times.diff(per_second).dropna() >= 1.0 - 1e-9).all()
    assert (times.diff(400).dropna() >= 60.0 - 1e-9).all()
    assert times.iloc[-1] == pytest.approx(seconds)
