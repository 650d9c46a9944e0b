"""Fixtures of the downloads: a server on this machine, and limits in hundredths of a second."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from perturbridge_dagster.sources.download import Limits
from tests.serving import serving
from tests.sources.download.misbehaving_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    with serving(running):
        yield running


@pytest.fixture
def quick() -> Limits:
    """Limits for tests: the same rules, in hundredths of a second."""
    return Limits(
        connect_s=2, read_s=2, window_s=0.2, least_bytes=1000, tries=4, first_pause_s=0.01, longest_pause_s=0.05, seconds_between_lines=0.05
    )


@pytest.fixture
def body() -> bytes:
    """300 kB that do not repeat."""
    return b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(9_600))
