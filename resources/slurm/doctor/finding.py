"""What a check found, and how it is printed. Belongs here: nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "FAILED", "not looked at"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check
        What was looked at, in a word or two.
    verdict
        ``FAILED`` where payloads would not run or give wrong results; ``warning`` where some would not, or less would be known of them.
    said
        What was found.
    advice
        What to do; empty where nothing is.
    """

    check: str
    verdict: Verdict
    said: str
    advice: str = ""

    def line(self) -> str:
        """The finding on one line."""
        said = self.said if self.said.endswith((".", "?", "!")) or not self.advice else f"{self.said}."
        return " ".join(filter(None, (f"{self.verdict:14}{self.check:22}{' '.join(said.split())}", self.advice)))


def ok(check: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, advice: str) -> Finding:
    """Payloads run, but not all of them, or less is known of them."""
    return Finding(check, "warning", said, advice)


def failed(check: str, said: str, advice: str) -> Finding:
    """Payloads do not run, or may give wrong results."""
    return Finding(check, "FAILED", said, advice)


def not_looked_at(checks: tuple[str, ...], because: str) -> list[Finding]:
    """Checks that need something that is not there."""
    return [Finding(check, "not looked at", because) for check in checks]
