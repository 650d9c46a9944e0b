"""What every test shares: where the real files lie, and a home of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real files, or a visible skip."""
    folder = Path(os.environ.get("PERTURBRIDGE_REAL_DATA", CHECKOUT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"real files absent: {folder} does not exist; set PERTURBRIDGE_REAL_DATA")
    return folder
