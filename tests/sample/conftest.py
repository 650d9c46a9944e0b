"""The sample, written once for all tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbridge_dagster.sample import write_sample


@pytest.fixture(scope="session")
def whole_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with all datasets; it takes some seconds."""
    folder = tmp_path_factory.mktemp("sample") / "whole"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def vcpi_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with the smallest dataset alone."""
    folder = tmp_path_factory.mktemp("sample") / "vcpi"
    write_sample(folder, datasets=["vcpi_0001"])
    return folder
