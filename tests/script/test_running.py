"""script/demo, check-data, test and server, and .ci/run: what they hand on, how they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.script.machine import Machine, write_script

pytestmark = pytest.mark.slow


@pytest.fixture
def checked_machine(ready_machine: Machine) -> Machine:
    """A machine on which script/test --all has all it needs."""
    for tool in ("ruff", "mypy"):
        write_script(ready_machine.checkout / ".venv" / "bin" / tool, "exit 0")
    write_script(ready_machine.bin / "chromium", "exit 0")
    ready_machine.mark("libatomic")
    return ready_machine


def test_demo_hands_on_its_options_from_any_working_directory(ready_machine: Machine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = ready_machine.run("demo", "--only", "two words", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert ready_machine.log() == [f"python -m assets.materialize --sample --only two words [home {ready_machine.checkout}/.perturbridge]"]


OUR_TABLE = '[slurm]\nhost = "127.0.0.1"\nfolder = "/the cluster"\n'
SLURM_CLUSTER = f"""
case "$*" in
  env) [ -e "$MACHINE/cluster-up" ] || exit 1; echo export SLURM_CONF=here ;;
  "env --settings") printf '[compute]\\nbackend = "slurm"\\n\\n%s' '{OUR_TABLE}' ;;
  *) echo "slurm-cluster $*" >>"$MACHINE/log"; [ ! -e "$MACHINE/cluster-fails" ] || exit 1; : >"$MACHINE/cluster-up" ;;
esac
"""
PREPARE = "python -m assets.materialize --prepare-home"


@pytest.fixture
def cluster_machine(ready_machine: Machine) -> Machine:
    """A machine with a stand-in for script/slurm-cluster, and a home with settings."""
    write_script(ready_machine.checkout / "script" / "slurm-cluster", SLURM_CLUSTER)
    write_script(
        ready_machine.bin / "sacct",
        'echo "sacct of $SLURM_CONF" >>"$MACHINE/log"; '
        'printf "perturbridge-%s\\n" "a|COMPLETED" "b|CANCELLED by 0" "c|COMPLETED"; echo "doctor|COMPLETED"',
    )
    ready_machine.add_tools("cut", "date", "sort", "uniq")
    (ready_machine.folder / "home").mkdir()
    (ready_machine.folder / "home" / "settings.toml").write_text("[sources]\n")
    return ready_machine


def run_demo(machine: Machine, *options: str) -> subprocess.CompletedProcess[str]:
    return machine.run("demo", *options, PERTURBRIDGE_HOME=str(machine.folder / "home"))


@pytest.mark.parametrize("was_up", [False, True])
def test_demo_on_slurm_takes_down_only_a_cluster_that_it_brought_up(cluster_machine: Machine, was_up: bool) -> None:
    if was_up:
        cluster_machine.mark("cluster-up")
    done = run_demo(cluster_machine, "--only", "two words", "--slurm")
    assert done.returncode == 0, done.stderr
    home = f"[home {cluster_machine.folder}/home]"
    demo = f"python -m assets.materialize --sample --only two words {home}"
    up, down = ([], []) if was_up else (["slurm-cluster up"], ["slurm-cluster down"])
    doctor = f"python -m resources.slurm.doctor {home}"
    assert cluster_machine.log() == [f"{PREPARE} {home}", *up, doctor, demo, "sacct of here", *down]
    assert re.search(r"jobs on the cluster: +1 CANCELLED\s+2 COMPLETED", done.stdout)
    settings = cluster_machine.folder / "home" / "settings.toml"
    assert settings.read_text().startswith("[sources]\n\n# ")
    assert settings.read_text().endswith(OUR_TABLE)
    assert "[compute]\n" not in settings.read_text(), "the next demo runs here again"

    before = settings.read_text()
    assert run_demo(cluster_machine, "--slurm").returncode == 0
    assert settings.read_text() == before


def test_demo_on_slurm_leaves_the_settings_of_another_cluster_alone(cluster_machine: Machine) -> None:
    settings = cluster_machine.folder / "home" / "settings.toml"
    settings.write_text('[slurm]\nhost = "login.example.org"\n')
    done = run_demo(cluster_machine, "--slurm")
    assert done.returncode == 1
    assert f"[slurm] of {settings} tells of another cluster" in done.stderr
    assert settings.read_text() == '[slurm]\nhost = "login.example.org"\n'
    assert cluster_machine.log()[1:] == ["slurm-cluster up", "slurm-cluster down"]


def test_demo_on_slurm_fails_where_there_can_be_no_cluster(cluster_machine: Machine) -> None:
    cluster_machine.mark("cluster-fails")
    assert run_demo(cluster_machine, "--slurm").returncode == 1
    assert cluster_machine.log()[1:] == ["slurm-cluster up", "slurm-cluster down"]


def test_demo_on_slurm_says_why_payloads_cannot_run(cluster_machine: Machine) -> None:
    python = cluster_machine.checkout / ".venv" / "bin" / "python"
    write_script(python, 'case "$*" in *doctor*) echo "the shared home: not there"; exit 1 ;; *--sample*) : >"$MACHINE/begun" ;; esac')
    done = run_demo(cluster_machine, "--slurm")
    assert done.returncode == 1
    assert "the shared home: not there" in done.stderr
    assert not (cluster_machine.folder / "begun").exists()
    assert cluster_machine.log() == ["slurm-cluster up", "slurm-cluster down"]


def test_demo_on_slurm_ends_as_the_graph_does(cluster_machine: Machine) -> None:
    write_script(cluster_machine.checkout / ".venv" / "bin" / "python", 'case "$*" in *--sample*) exit 3 ;; esac')
    assert run_demo(cluster_machine, "--slurm").returncode == 3


def test_the_cluster_needs_root_and_says_what_it_can_do(machine: Machine) -> None:
    machine.be_user(1000)
    for command in ("up", "down"):
        done = machine.run("slurm-cluster", command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "needs root" in done.stderr
    for arguments in ([], ["sideways"], ["up", "--now"], ["env", "--now"]):
        done = machine.run("slurm-cluster", *arguments)
        assert done.returncode == 1
        assert "script/slurm-cluster --help" in done.stderr
    assert machine.run("slurm-cluster", "--help").stdout.startswith("script/slurm-cluster up | down | env")
    assert not (machine.checkout / ".slurm-cluster").exists()


def test_a_relative_home_is_meant_from_where_the_user_stands(ready_machine: Machine, tmp_path: Path) -> None:
    ready_machine.run("check-data", cwd=tmp_path, PERTURBRIDGE_HOME="home")
    assert ready_machine.log() == [f"python -m assets.check_data [home {tmp_path}/home]"]


def test_check_data_ends_as_its_judgement_does(ready_machine: Machine) -> None:
    ready_machine.mark("python-fails")
    assert ready_machine.run("check-data").returncode == 1


HERE, ON_CLUSTER = "-n 2 --dist loadfile -m not slurm and not slow_slurm", "-n 0 -m slurm"


@pytest.mark.parametrize(
    ("option", "calls"),
    [
        ([], [f"{HERE} and not browser"]),
        (["--fast"], [f"{HERE} and not slow and not browser"]),
        (["--all"], [HERE, f"{ON_CLUSTER} and not slow_slurm"]),
        (["--slurm"], [ON_CLUSTER]),
    ],
)
def test_the_options_of_test_select_tests_and_the_rest_goes_to_pytest(
    checked_machine: Machine, option: list[str], calls: list[str]
) -> None:
    done = checked_machine.run("test", *option, "tests/effects", "-x")
    assert done.returncode == 0, done.stderr
    home = f"[home {checked_machine.checkout}/.perturbridge]"
    assert checked_machine.log() == [
        f"python -m pytest -q --durations=12 --durations-min=15 {call} tests/effects -x {home}" for call in calls
    ]


@pytest.mark.parametrize(("codes", "ends_with"), [((5, 0), 0), ((0, 5), 0), ((5, 5), 1), ((1, 0), 1), ((0, 2), 2)])
def test_all_needs_a_test_in_one_of_its_selections_and_no_failure(checked_machine: Machine, codes: tuple[int, int], ends_with: int) -> None:
    python = checked_machine.checkout / ".venv" / "bin" / "python"
    here, on_cluster = codes
    write_script(python, f'case "$*" in *" -n 2 "*) exit {here} ;; *" -n 0 "*) exit {on_cluster} ;; esac')
    assert checked_machine.run("test", "--all").returncode == ends_with


@pytest.mark.parametrize("failing", ["ruff", "mypy"])
def test_a_failed_static_check_ends_the_run_before_the_tests(ready_machine: Machine, failing: str) -> None:
    for tool in ("ruff", "mypy"):
        write_script(ready_machine.checkout / ".venv" / "bin" / tool, f"exit {int(tool == failing)}")
    assert ready_machine.run("test").returncode == 1
    assert ready_machine.log() == []


def test_ci_tests_then_judges_a_demo_in_a_fresh_home_and_removes_it(checked_machine: Machine) -> None:
    done = checked_machine.run(".ci/run")
    assert done.returncode == 0, done.stderr
    tests, on_cluster, demo, judgement = checked_machine.log()
    assert on_cluster.startswith("python -m pytest ")
    assert tests.startswith("python -m pytest ")
    assert demo.startswith("python -m assets.materialize --sample [home ")
    assert judgement.startswith("python -m assets.check_data [home ")
    home = Path(demo.split("[home ")[1].rstrip("]"))
    assert str(home) in judgement
    assert home.parent == checked_machine.folder
    assert not home.exists()
    assert re.search(r"script/check-data \d+ s\n", done.stdout.split("timings:")[1])


def test_ci_stops_at_the_first_failure_and_still_reports(checked_machine: Machine) -> None:
    checked_machine.mark("python-fails")
    done = checked_machine.run(".ci/run")
    assert done.returncode == 1
    assert len(checked_machine.log()) == 1
    assert "s, failed with 1" in done.stdout.split("timings:")[1]
    assert not list(checked_machine.folder.glob("perturbridge-home.*"))


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served_machine(ready_machine: Machine) -> Machine:
    """Stand-ins for the web server, which answers /server_info, and for the daemon; each notes its process."""
    tools = ready_machine.checkout / ".venv" / "bin"
    (ready_machine.folder / "site").mkdir()
    (ready_machine.folder / "site" / "server_info").touch()
    write_script(
        tools / "dagster-webserver",
        'echo $$ >"$MACHINE/webserver.pid"\n'
        f'exec "{sys.executable}" -m http.server --directory "$MACHINE/site" --bind "$4" "$6" 2>"$MACHINE/requests"',
    )
    write_script(
        tools / "dagster-daemon", 'cp "$MACHINE/requests" "$MACHINE/requests-before-daemon"\necho $$ >"$MACHINE/daemon.pid"\nexec sleep 60'
    )
    return ready_machine


def start_server(machine: Machine, port: int) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [machine.checkout / "script" / "server", "--port", str(port)],
        env=machine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    assert f"the UI answers at http://127.0.0.1:{port}" in server.stdout.readline()
    return server


def process_of(machine: Machine, name: str) -> int:
    note = machine.folder / f"{name}.pid"
    deadline = time.monotonic() + 10
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline, f"{name} was not started"
        time.sleep(0.05)
    return int(note.read_text())


def assert_ended(process: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {process} still runs")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_both_when_it_is_asked_to_end(served_machine: Machine, port: int, ending: signal.Signals) -> None:
    server = start_server(served_machine, port)
    processes = [process_of(served_machine, name) for name in ("webserver", "daemon")]
    server.send_signal(ending)
    server.communicate(timeout=20)
    assert server.returncode == 0
    for process in processes:
        assert_ended(process)


@pytest.mark.parametrize(("dying", "said"), [("webserver", "the web server ended"), ("daemon", "the daemon ended")])
def test_server_fails_and_ends_the_other_when_one_dies(served_machine: Machine, port: int, dying: str, said: str) -> None:
    server = start_server(served_machine, port)
    processes = {name: process_of(served_machine, name) for name in ("webserver", "daemon")}
    os.kill(processes[dying], signal.SIGKILL)
    _, errors = server.communicate(timeout=20)
    assert server.returncode == 1
    assert said in errors
    for process in processes.values():
        assert_ended(process)


def test_the_daemon_waits_until_the_web_server_has_made_the_instance(served_machine: Machine, port: int) -> None:
    server = start_server(served_machine, port)
    process_of(served_machine, "daemon")
    server.terminate()
    server.communicate(timeout=20)
    assert '"GET /server_info' in (served_machine.folder / "requests-before-daemon").read_text()


def test_server_fails_when_the_web_server_does_not_start(served_machine: Machine, port: int) -> None:
    write_script(served_machine.checkout / ".venv" / "bin" / "dagster-webserver", "echo broken >&2; exit 3")
    done = served_machine.run("server", "--port", str(port))
    assert done.returncode == 1
    assert "broken" in done.stderr
    assert "ended before it answered" in done.stderr
    assert not (served_machine.folder / "daemon.pid").exists()


def test_server_says_that_its_port_is_taken(served_machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = served_machine.run("server", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert served_machine.log() == []
