from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perturbridge_dagster.effects import r
from perturbridge_dagster.effects.r import RError, call_r, r_source, r_versions


def _fake_rscript(folder: Path, answer: str, status: int = 0) -> None:
    script = folder / "Rscript"
    script.write_text(f"#!/bin/sh\nprintf '{answer}'\nexit {status}\n")
    script.chmod(0o755)


def test_the_source_of_a_checkout_and_of_a_wheel_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "limma_effects <- function" in r_source().read_text()
    package = tmp_path / "site-packages" / "perturbridge_dagster"
    monkeypatch.setattr(r, "__file__", str(package / "effects" / "r.py"))
    with pytest.raises(RError, match="install perturbridge-dagster again"):
        r_source()
    (package / "R").mkdir(parents=True)
    (package / "R" / "limma.R").touch()
    assert r_source() == package / "R" / "limma.R"


def test_versions_are_those_of_the_installed_packages() -> None:
    versions = r_versions()
    assert set(versions) == {"R", "limma", "edgeR", "statmod"}
    assert all(version[0].isdigit() for version in versions.values())


def test_absent_r_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RError, match=r"no Rscript.*r-base-core r-bioc-limma r-bioc-edger r-cran-statmod.*bioconductor-limma"):
        r_versions.__wrapped__()


def test_an_absent_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_rscript(tmp_path, r"R 4.2.2\nlimma 3.54.1\nedgeR 3.40.2\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(RError, match=r"R 4\.2\.2 lacks statmod\. Debian"):
        r_versions.__wrapped__()


def test_an_r_that_does_not_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_rscript(tmp_path, "", status=3)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(RError, match="Rscript does not run"):
        r_versions.__wrapped__()


@pytest.mark.slow
def test_errors_of_r_become_errors_of_ours() -> None:
    with pytest.raises(RError, match=r"R stopped in limma_effects: .*argument .* is missing"):
        call_r("limma_effects", {"values": np.zeros(2), "n_genes": 1})


def test_programs_started_after_r_find_their_own_libraries() -> None:
    code = (
        "import os; from perturbridge_dagster.effects.r import RError, call_r\n"
        "before = os.environ.get('LD_LIBRARY_PATH')\n"
        "try: call_r('no_such_function', {})\n"
        "except Exception: pass\n"
        "import sys; assert 'rpy2.rinterface' in sys.modules\n"
        "assert os.environ.get('LD_LIBRARY_PATH') == before, os.environ['LD_LIBRARY_PATH']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
