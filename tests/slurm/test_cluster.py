"""script/slurm-cluster: what it starts, how it keeps to itself, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.slurm.settings import backend, slurm_settings
from resources.store import SETTINGS
from tests.slurm.cluster import DAEMONS, Cluster, began, within

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

IN_A_MACHINE_OF_ITS_OWN = ("unshare", "--uts", "--mount")
"""A command that runs a command with a machine's name and a file system of its own."""


def processes(cluster: Cluster) -> dict[str, int | None]:
    return {daemon: cluster.process(daemon) for daemon in DAEMONS}


def listening(process: int) -> set[tuple[str, int]]:
    """Addresses that a process listens at: lines of /proc/net/tcp in state 0A whose inode it has open."""
    ours = set()
    for descriptor in Path("/proc", str(process), "fd").iterdir():
        try:
            ours.add(str(descriptor.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in ours:
                address, port = local.split(":")
                words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def free_ports() -> int:
    """First of five free ports in a row, below those that the machine gives to callers."""
    for first in range(17000, 30000, 10):
        try:
            for port in range(first, first + 5):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise RuntimeError("no five free ports in a row")


# ---- the cluster that all tests share -----------------------------------------------------------------------------------------


def test_a_second_up_changes_nothing(slurm_cluster: Cluster):
    before = processes(slurm_cluster)
    assert None not in before.values()
    configuration = (slurm_cluster.state / "slurm.conf").stat().st_mtime_ns
    started = time.monotonic()
    assert "is up already" in slurm_cluster.script("up").stdout
    assert time.monotonic() - started < 10
    assert processes(slurm_cluster) == before
    assert (slurm_cluster.state / "slurm.conf").stat().st_mtime_ns == configuration


def test_up_with_other_settings_is_refused_while_it_runs(slurm_cluster: Cluster):
    other = Cluster({**slurm_cluster.variables, "PERTURBRIDGE_SLURM_MEMORY": "123"})
    refused = other.script("up", check=False)
    assert refused.returncode == 1
    assert "runs with other settings" in refused.stderr
    assert "RealMemory=123" not in (slurm_cluster.state / "slurm.conf").read_text()
    assert slurm_cluster.is_up


def test_up_starts_what_died_and_brings_back_what_was_drained(slurm_cluster: Cluster):
    before = processes(slurm_cluster)
    slurm_cluster.signal("node2", signal.SIGKILL)
    slurm_cluster.ask("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    within(10, "the end of node2", lambda: slurm_cluster.process("node2") is None)
    slurm_cluster.script("up")
    after = processes(slurm_cluster)
    assert after["node2"] not in (None, before["node2"])
    assert {**after, "node2": None} == {**before, "node2": None}
    assert slurm_cluster.ended(slurm_cluster.submit("true", "--nodes=2", "--time=1")) == ("COMPLETED", "0:0")


def test_it_listens_on_loopback_only(slurm_cluster: Cluster):
    first = int(os.environ.get("PERTURBRIDGE_SLURM_PORT", "16800"))
    found = {address for process in processes(slurm_cluster).values() if process for address in listening(process)}
    assert found == {("127.0.0.1", first + number) for number in range(5)}


def test_the_accounting_tells_how_jobs_ended(slurm_cluster: Cluster):
    completed, failed = slurm_cluster.submit("sleep 4", "--time=1"), slurm_cluster.submit("exit 3", "--time=1")
    assert slurm_cluster.ended(completed) == ("COMPLETED", "0:0")
    assert slurm_cluster.ended(failed) == ("FAILED", "3:0")
    peak = slurm_cluster.ask("sacct", "-n", "-P", "-j", f"{completed}.batch", "-o", "MaxRSS")
    assert peak.endswith("K"), "of a job of some seconds the peak memory is known"


def test_a_job_beyond_its_memory_is_killed(slurm_cluster: Cluster):
    job = slurm_cluster.submit("tail -c 300M /dev/zero | tail -c 250M | sleep 50", "--mem=64M", "--time=2")
    state, code = slurm_cluster.ended(job)
    assert (state, code) in [("FAILED", "0:9"), ("OUT_OF_MEMORY", "0:125")]


def test_a_gpu_can_be_asked_for(slurm_cluster: Cluster):
    assert slurm_cluster.ended(slurm_cluster.submit('[ "$SLURMD_NODENAME" = node2 ]', "--gres=gpu:1", "--time=1")) == ("COMPLETED", "0:0")
    with pytest.raises(AssertionError, match="not available"):
        slurm_cluster.submit("true", "--gres=gpu:2", "--time=1")


def test_urgent_jobs_preempt_those_of_low_quality(slurm_cluster: Cluster):
    low = slurm_cluster.submit("sleep 100", "--qos=low", "--nodes=2", "--exclusive", "--time=2")
    within(30, "the start of the low job", lambda: slurm_cluster.ask("squeue", "-h", "-j", low, "-o", "%T") == "RUNNING")
    high = slurm_cluster.submit("true", "--qos=high", "--time=1")
    assert slurm_cluster.ended(high) == ("COMPLETED", "0:0")
    assert slurm_cluster.ended(low)[0] == "PREEMPTED"


def test_env_can_be_sourced(slurm_cluster: Cluster):
    exports = slurm_cluster.script("env").stdout
    done = subprocess.run(["bash", "-euc", f"{exports}\nscontrol ping"], capture_output=True, text=True, check=True)
    assert "is UP" in done.stdout


def test_env_gives_the_settings_of_a_home(slurm_cluster: Cluster, tmp_path: Path):
    (tmp_path / SETTINGS).write_text(slurm_cluster.script("env", "--settings").stdout)
    assert backend(tmp_path) == "slurm"
    settings = slurm_settings(tmp_path)
    assert settings.account in slurm_cluster.ask("sacctmgr", "-n", "-P", "list", "account", "format=Account").split()
    assert (settings.environment / "activate.sh").is_file()
    by_ssh = ["ssh", "-F", "none", "-i", settings.key, "-o", f"UserKnownHostsFile={settings.known_hosts}", "-o", "BatchMode=yes"]
    login = ["-p", str(settings.port), f"{settings.user}@{settings.host}"]
    done = subprocess.run([*by_ssh, *login, f"cd {settings.folder} && squeue --version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("slurm")


# ---- a second one, to be taken down, on a machine whose name nobody knows ------------------------------------------------------


@pytest.fixture(scope="module")
def second_cluster(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Another cluster beside the shared one; up."""
    folder = tmp_path_factory.mktemp("second") / "cluster"
    before: tuple[str, ...] = ()
    if subprocess.run([*IN_A_MACHINE_OF_ITS_OWN, "true"], capture_output=True, check=False).returncode == 0:
        before = (*IN_A_MACHINE_OF_ITS_OWN, "sh", "-c", 'hostname unheard-of.example && exec "$@"', "sh")
    variables = {
        "PERTURBRIDGE_SLURM_CLUSTER": str(folder),
        "PERTURBRIDGE_SLURM_PORT": str(free_ports()),
        "PERTURBRIDGE_SLURM_NAME": "second",
    }
    cluster = Cluster(variables, before)
    try:
        cluster.script("up")
        yield cluster
    finally:
        cluster.script("down")


def test_a_machine_whose_name_does_not_resolve_has_a_cluster_too(second_cluster: Cluster):
    if not second_cluster.before:
        pytest.skip("this machine gives out no names: unshare is refused")
    # its jobs see the name, so it is not the tests' machine that ran them
    name = second_cluster.folder / "remote" / "name"
    job = second_cluster.submit(f"hostname >{name}", "--time=1")
    assert second_cluster.ended(job) == ("COMPLETED", "0:0")
    assert name.read_text() == "unheard-of.example\n"
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("unheard-of.example", None)


def test_down_leaves_nothing_of_it_and_touches_nothing_else(second_cluster: Cluster, slurm_cluster: Cluster, tmp_path: Path):
    others, daemons = processes(slurm_cluster), processes(second_cluster)
    assert None not in daemons.values()

    def endless(name: str) -> str:
        return f"trap '' TERM; echo $$ >'{tmp_path / name}'; while :; do sleep 1; done"

    def process(name: str) -> int:
        file = tmp_path / name
        return int(within(30, f"the start of {name}", lambda: file.exists() and file.read_text().strip()))

    second_cluster.submit(endless("a job"), "--nodelist=node1", "--time=5")
    second_cluster.submit(endless("a job whose node died"), "--nodelist=node2", "--time=5")
    session = subprocess.Popen(second_cluster.by_ssh(endless("a command by ssh")))
    started = [process(name) for name in ("a job", "a job whose node died", "a command by ssh")]
    second_cluster.signal("node2", signal.SIGKILL)

    assert "is down" in second_cluster.script("down").stdout
    assert session.wait(10) != 0
    for each in [*started, *filter(None, daemons.values())]:
        assert began(each) is None
    assert {file.name for file in second_cluster.folder.iterdir()} == {"lock", "log"}
    lines = {file: file.read_text() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()}
    assert [file for file, line in lines.items() if str(second_cluster.folder) in line] == []
    assert processes(slurm_cluster) == others
    assert "is not up" in second_cluster.script("down").stdout


def test_a_taken_port_is_named(slurm_cluster: Cluster, tmp_path: Path):
    (tmp_path / SETTINGS).write_text(slurm_cluster.script("env", "--settings").stdout)
    port = slurm_settings(tmp_path).port
    done = Cluster({"PERTURBRIDGE_SLURM_CLUSTER": str(tmp_path / "cluster"), "PERTURBRIDGE_SLURM_PORT": str(port)}).script(
        "up", check=False
    )
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert not (tmp_path / "cluster").exists()


def test_a_machine_of_another_cluster_is_refused(slurm_cluster: Cluster, tmp_path: Path):
    within_another = (*IN_A_MACHINE_OF_ITS_OWN, "sh", "-ec", 'mount -t tmpfs none /etc/slurm; touch /etc/slurm/slurm.conf; exec "$@"', "sh")
    if not Path("/etc/slurm").exists() or subprocess.run([*within_another, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine cannot be made to look like another's: unshare or mount is refused")
    variables = {"PERTURBRIDGE_SLURM_CLUSTER": str(tmp_path / "cluster"), "PERTURBRIDGE_SLURM_PORT": str(free_ports())}
    done = Cluster(variables, within_another).script("up", check=False)
    assert done.returncode == 1
    assert "belongs to another cluster: there is /etc/slurm/slurm.conf" in done.stderr
    assert not (tmp_path / "cluster").exists()
