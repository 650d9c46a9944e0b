"""The doctor on a real cluster, which is then broken: settings that name nothing, keys that are refused, nodes that lack something."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tomlkit

from resources.slurm.doctor.__main__ import main
from resources.slurm.doctor.node import CHECKS
from resources.store import SETTINGS
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm

Look = Callable[..., dict[str, str]]


@pytest.fixture
def look(
    tmp_path: Path,
    slurm_cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Look:
    """Runs the doctor with some settings other than the cluster's: check → its line."""
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("PERTURBRIDGE_COMPUTE", raising=False)
    (tmp_path / "home" / "dagster").mkdir(parents=True)
    (tmp_path / "home" / "dagster" / "dagster.yaml").write_text("concurrency: {runs: {max_concurrent_runs: 1}}\n")

    of_cluster = slurm_cluster.script("env", "--settings").stdout

    def run(*options: str, fails: bool, **settings: object) -> dict[str, str]:
        tables = tomlkit.parse(of_cluster)
        tables["slurm"].update({key: str(value) if isinstance(value, Path) else value for key, value in settings.items()})
        (tmp_path / "home" / SETTINGS).write_text(tomlkit.dumps(tables))
        status = main(list(options))
        *lines, _ = capsys.readouterr().out.splitlines()
        assert status == int(fails), "\n".join(lines)
        return {line[14:36].strip(): line for line in lines}

    return run


def assert_only(lines: dict[str, str], check: str, *words: str) -> None:
    """One check failed, and its line says some words."""
    failed = [name for name, line in lines.items() if line.startswith("FAILED")]
    assert failed == [check], "\n".join(lines.values())
    for word in words:
        assert word in lines[check]


def test_the_cluster_of_the_tests_is_in_order(look: Look, slurm_cluster: Cluster):
    lines = look(fails=False)
    bad = [line for line in lines.values() if not line.startswith(("ok", "warning       disk"))]
    assert bad == []
    for check in CHECKS:
        assert check in lines
    assert "limma" in lines["node: R"]
    assert not [job for job in slurm_cluster.jobs if "perturbridge_doctor" in slurm_cluster.ask("squeue", "-h", "-j", job, "-o", "%j")]


@pytest.mark.parametrize(
    ("settings", "check", "words"),
    [
        ({"account": "nobody"}, "account and qos", ("Invalid account", "with qos")),
        ({"qos": "golden"}, "account and qos", ("Invalid qos", "high,low,normal")),
        ({"gpu_partition": "short"}, "GPU partition", ("no node of short has GPUs", "one of main")),
        ({"user": "nobody"}, "login", ("refuses nobody",)),
        ({"port": 9}, "login", ("Connection refused",)),
        ({"host": "no.such.host.invalid"}, "login", ("no.such.host.invalid",)),
    ],
)
def test_settings_that_name_nothing(look: Look, settings: dict[str, object], check: str, words: tuple[str, ...]):
    lines = look("--no-job", fails=True, **settings)
    if check == "login" and "host" in settings:
        lines = {name: line for name, line in lines.items() if name != "host key"}
    assert_only(lines, check, *words)


def test_a_partition_that_is_not_there_fails_twice_and_names_the_others(look: Look):
    lines = look("--no-job", fails=True, partition="mian")
    assert "one of main, short" in lines["partition"]
    assert "invalid partition" in lines["account and qos"].lower()


def test_ceilings_beyond_the_nodes_are_warned_of(look: Look):
    line = look("--no-job", fails=False, max_memory_gib=700)["partition"]
    assert line.startswith("warning")
    assert "max_memory_gib = 8" in line


def test_an_unknown_host_and_a_changed_key_are_told_apart(look: Look, tmp_path: Path, slurm_cluster: Cluster):
    known = tmp_path / "known_hosts"
    known.touch()
    assert_only(look("--no-job", fails=True, known_hosts=known), "host key", "is not in", "ssh-keyscan -p")
    address = (slurm_cluster.state / "ssh" / "known_hosts").read_text().split()[0]
    kind, key, *_ = (slurm_cluster.state / "ssh" / "key.pub").read_text().split()
    known.write_text(f"{address} {kind} {key}\n")
    assert_only(look("--no-job", fails=True, known_hosts=known), "host key", "shows another key", "ssh-keygen -R")


def test_a_key_that_the_login_node_does_not_know(look: Look, slurm_cluster: Cluster):
    other = slurm_cluster.state / "ssh" / "host_key"  # a private key, but nobody's
    assert_only(look("--no-job", fails=True, key=other), "login", "Permission denied", "ssh-copy-id")


@pytest.fixture
def environment(tmp_path: Path, slurm_cluster: Cluster) -> Path:
    """A copy of the nodes' environment, to be broken."""
    made = tmp_path / "node"
    made.mkdir()
    (made / "env").symlink_to((slurm_cluster.folder / "environment" / "env").resolve())
    (made / "activate.sh").write_text((slurm_cluster.folder / "environment" / "activate.sh").read_text())
    return made


def test_an_activate_script_with_an_unset_variable(look: Look, environment: Path):
    with (environment / "activate.sh").open("a") as script:
        script.write("module_path=$MODULEPATH_OF_NOBODY/R\n")
    assert_only(look(fails=True, environment=environment), "job", "MODULEPATH_OF_NOBODY: unbound variable")


def test_a_node_without_limma_and_with_other_code(look: Look, environment: Path, tmp_path: Path):
    (tmp_path / "old" / "perturbridge_dagster" / "payloads").mkdir(parents=True)
    for folder in ("", "payloads"):
        (tmp_path / "old" / "perturbridge_dagster" / folder / "__init__.py").touch()
    (tmp_path / "old" / "perturbridge_dagster" / "payloads" / "run.py").touch()
    with (environment / "activate.sh").open("a") as script:
        script.write(f"export PYTHONPATH={tmp_path / 'old'}\n")
    lines = look(fails=True, environment=environment)
    assert lines["node: code"].startswith("FAILED")
    assert "cannot import perturbridge_dagster" in lines["node: code"]
    assert lines["node: R"].startswith("FAILED")


def test_a_node_whose_r_lacks_a_package(look: Look, environment: Path):
    (environment / "Rscript").write_text("#!/bin/bash\necho R 4.2.2\necho edgeR 3.40.2\necho statmod 1.5.0\n")
    (environment / "Rscript").chmod(0o755)
    with (environment / "activate.sh").open("a") as script:
        script.write(f"export PATH={environment}:$PATH\n")
    assert_only(look(fails=True, environment=environment), "node: R", "R 4.2.2 lacks limma", "module load R")


def test_accounting_that_is_down(look: Look, slurm_cluster: Cluster):
    slurm_cluster.signal("slurmdbd", signal.SIGTERM)
    try:
        lines = look("--no-job", fails=True)
    finally:
        slurm_cluster.script("up")
    assert lines["accounting"].startswith("FAILED")
    assert "slurmdbd" in lines["accounting"]
    assert lines["controller"].startswith("ok")
