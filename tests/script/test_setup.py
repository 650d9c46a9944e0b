"""script/setup on make-believe machines: what it installs, what it says, and that it does nothing twice."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.script.machine import CHECKOUT, Machine

R_PACKAGES = "r-base-core r-bioc-limma r-bioc-edger r-cran-statmod make"
SCRIPTS = [*sorted((CHECKOUT / "script").iterdir()), CHECKOUT / ".ci" / "run"]


def pip_calls(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("python -m pip install") and "--editable" in line]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_parse_and_can_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) != script.name.startswith("_")


@pytest.mark.parametrize("script", ["setup", "test", "server", "demo"])
def test_help_is_the_comment_at_the_head(machine: Machine, script: str) -> None:
    done = machine.run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"script/{script} [--")
    assert "set -euo" not in done.stdout
    assert machine.log() == []


def test_bare_machine_gets_everything_that_is_missing_once(machine: Machine) -> None:
    machine.add_apt_get()
    first = machine.run("setup", "--browser")
    assert first.returncode == 0, first.stderr
    log = machine.log()
    assert log[0] == "apt-get -qq update"
    assert log[1].endswith(f"install --no-install-recommends {R_PACKAGES} python3-venv chromium libatomic1 fonts-dejavu-core")
    assert f"python3 -m venv --clear {machine.checkout}/.venv" in log
    assert len(pip_calls(log)) == 1
    assert "--group" not in pip_calls(log)[0]

    second = machine.run("setup", "--browser")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.log() == []


def test_only_what_is_missing_is_installed(machine: Machine) -> None:
    machine.add_apt_get()
    machine.mark("venv")
    machine.add_r("limma statmod")
    assert machine.run("setup").returncode == 0
    installs = [line for line in machine.log() if " install --no" in line]
    assert [line.split("recommends ")[1] for line in installs] == [R_PACKAGES]


def test_without_apt_get_and_r_both_sets_of_names_are_said(machine: Machine) -> None:
    machine.mark("venv")
    done = machine.run("setup")
    assert done.returncode == 1
    assert "(Rscript on the PATH: none): R limma edgeR statmod make" in done.stderr
    assert R_PACKAGES in done.stderr
    assert "r-base bioconductor-limma bioconductor-edger r-statmod make" in done.stderr
    assert machine.log() == []


def test_without_apt_get_the_missing_r_package_is_named(machine: Machine) -> None:
    machine.mark("venv")
    machine.add_r("limma statmod")
    done = machine.run("setup")
    assert done.returncode == 1
    assert "): edgeR. Install" in done.stderr


def test_without_apt_get_set_up_goes_on_where_r_is_complete(machine: Machine) -> None:
    machine.mark("venv")
    machine.add_r()
    assert machine.run("setup").returncode == 0
    assert len(pip_calls(machine.log())) == 1


def test_without_apt_get_and_venv_python_is_blamed(machine: Machine) -> None:
    machine.add_r()
    done = machine.run("setup")
    assert done.returncode == 1
    assert "cannot make virtual environments" in done.stderr


def test_without_apt_get_the_browser_is_asked_for(ready_machine: Machine) -> None:
    done = ready_machine.run("setup", "--browser")
    assert done.returncode == 1
    assert "need chromium on the PATH" in done.stderr


def test_a_user_without_sudo_is_told_what_root_has_to_run(machine: Machine) -> None:
    machine.add_apt_get()
    machine.be_user(1000)
    done = machine.run("setup")
    assert done.returncode == 1
    assert f"apt-get install --no-install-recommends {R_PACKAGES} python3-venv" in done.stderr
    assert machine.log() == []


def test_a_user_with_sudo_installs_through_it(machine: Machine) -> None:
    machine.add_apt_get()
    machine.add_sudo()
    machine.be_user(1000)
    assert machine.run("setup").returncode == 0
    assert machine.log()[:3] == ["sudo", "apt-get -qq update", "sudo"]


def test_a_failing_apt_get_is_quoted(machine: Machine) -> None:
    machine.add_apt_get()
    machine.mark("apt-fails")
    done = machine.run("setup")
    assert done.returncode == 1
    assert "E: Unable to locate package" in done.stderr
    assert pip_calls(machine.log()) == []


def test_an_old_python_is_refused(machine: Machine) -> None:
    machine.mark("old")
    done = machine.run("setup")
    assert done.returncode == 1
    assert "put Python 3.11 or later first on the PATH" in done.stderr


def test_an_unknown_option_is_refused(machine: Machine) -> None:
    done = machine.run("setup", "--tset")
    assert done.returncode == 1
    assert "unknown option --tset" in done.stderr


def test_the_tools_of_the_tests_are_added_and_then_kept_in_step(machine: Machine) -> None:
    machine.add_r()
    machine.mark("venv")
    machine.run("setup")
    machine.log()
    machine.run("setup", "--test")
    assert "--editable . --group dev" in pip_calls(machine.log())[0]
    machine.run("setup")
    assert machine.log() == []
    with (machine.checkout / "pyproject.toml").open("a") as project:
        project.write("# one more library\n")
    machine.run("setup")
    assert "--editable . --group dev" in pip_calls(machine.log())[0]


def test_an_installation_that_failed_is_tried_again(machine: Machine) -> None:
    machine.add_r()
    machine.mark("venv")
    failing = machine.mark("python-fails")
    assert machine.run("setup").returncode != 0
    failing.unlink()
    machine.log()
    assert machine.run("setup").returncode == 0
    assert len(pip_calls(machine.log())) == 1


def test_a_moved_checkout_gets_a_new_environment(ready_machine: Machine) -> None:
    ready_machine.checkout = ready_machine.checkout.rename(ready_machine.folder / "moved")
    assert ready_machine.run("setup").returncode == 0
    assert f"python3 -m venv --clear {ready_machine.checkout}/.venv" in ready_machine.log()
