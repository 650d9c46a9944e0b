"""The machines on which the scripts are tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.script.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Root on a machine with Python alone: no venv, no R, no apt-get."""
    return Machine(tmp_path)


@pytest.fixture
def ready_machine(machine: Machine) -> Machine:
    """A machine on which set-up has nothing to do."""
    machine.add_r()
    machine.mark("venv")
    assert machine.run("setup", "--test").returncode == 0
    machine.log()
    return machine
