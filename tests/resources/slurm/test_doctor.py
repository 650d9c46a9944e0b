"""The doctor at a site made of stand-ins: an ssh that runs commands here, and SLURM commands that print what real ones print.

``tests/slurm/test_doctor.py`` looks at a real cluster. Here each thing is broken by itself, also what needs no root to break.
"""

import copy
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resources.slurm.doctor import login as login_node
from resources.slurm.doctor import machine, node, probe
from resources.slurm.doctor.__main__ import main
from resources.slurm.doctor.finding import Finding
from resources.slurm.doctor.login import Login
from resources.slurm.settings import SlurmSettings, slurm_settings
from resources.store import SETTINGS

CHECKOUT = Path(__file__).resolve().parents[3]

SSH = """#!/bin/bash
# runs the remote command on this machine, with the PATH of the login node; files beside it make it fail as ssh does
here=$(dirname "$0")
case " $* " in *" -O "*) exit 0 ;; esac
if [ -e "$here/says" ]; then cat "$here/says" >&2; exit 255; fi
command=${!#}
case $command in
  sleep*)
    if [ -e "$here/few" ]; then echo "mux_client_request_session: session request failed: Session open refused by peer" >&2; fi
    exit ;;
esac
if [ -e "$here/noise" ]; then echo "Welcome to the cluster!"; fi
exec env -i PATH="${here%/*}/login" HOME="$HOME" bash -c "$command"
"""
SBATCH = """#!/bin/bash
site=$(dirname "$0")/..
case "$*" in
  *--account=nobody*)
    echo "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified" >&2; exit 1 ;;
  *--qos=golden*) echo "allocation failure: Invalid qos specification" >&2; exit 1 ;;
  *--test-only*)
    echo "sbatch: Job 7 to start at 2026-11-21T18:00:00 using 1 processors on nodes node1 in partition main" >&2; exit 0 ;;
esac
for word; do [ "$before" = -o ] && log=$word; before=$word; done
if [ -e "$site/queued" ]; then echo "PENDING (Resources)" > "$site/job"; echo 7; exit; fi
state=FAILED
if env -i PATH=/usr/bin:/bin HOME="$HOME" bash "${@: -1}" > "$log" 2>&1; then state=COMPLETED; fi
echo "$state node1" > "$site/job"
echo 7
"""
SCONTROL = """#!/bin/bash
case $1 in
  ping) echo "Slurmctld(primary) at login is UP" ;;
  show) printf 'Configuration data as of 2026-11-21T18:00:00\\nAccountingStorageType   = accounting_storage/slurmdbd\\n'
        echo 'JobAcctGatherType       = jobacct_gather/cgroup' ;;
esac
"""
SINFO = """#!/bin/bash
[ "$1" = --version ] && { echo "slurm-wlm 22.05.8"; exit; }
echo 'main*|up|4-00:00:00|8192+|2|(null)'
echo 'main*|up|4-00:00:00|262144|64|(null)'
echo 'gpu|up|2-00:00:00|262144|64|gpu:a100:4(S:0-1)'
echo 'old|down|infinite|4096|8|(null)'
"""
PROGRAMS = {
    "sbatch": SBATCH,
    "scontrol": SCONTROL,
    "sinfo": SINFO,
    "squeue": '#!/bin/bash\ncat "$(dirname "$0")/../job"\n',
    "sacct": "#!/bin/bash\nexit 0\n",
    "sacctmgr": "#!/bin/bash\necho 'lab|normal,high'\n",
    "scancel": '#!/bin/bash\necho "$1" > "$(dirname "$0")/../cancelled"\n',
}


TOOLS = ("bash", "cat", "date", "dirname", "env", "id", "touch")
"""What else is on the PATH of the login node: nothing of a SLURM that this machine may have."""


@dataclass
class Site:
    """A site of stand-ins."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def write(self, name: str, text: str) -> None:
        """Put a program on the login node."""
        file = self.folder / "login" / name
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def ssh(self, state: str, text: str = "") -> None:
        """Break ssh: it ``says`` something and fails, makes ``noise``, or allows but ``few`` sessions."""
        (self.folder / "here" / state).write_text(text)

    def settings(self, **other: Any) -> SlurmSettings:
        slurm = {
            "host": "login.example.org",
            "user": "jane",
            "key": str(self.folder / "id"),
            "known_hosts": str(self.folder / "known_hosts"),
            "folder": str(self.folder / "shared"),
            "environment": str(self.folder / "node"),
            **other,
        }
        lines = [
            f"{key} = {value if isinstance(value, int | float) else repr(value)}\n" for key, value in slurm.items() if value is not None
        ]
        (self.home / SETTINGS).write_text('[compute]\nbackend = "slurm"\n[slurm]\n' + "".join(lines))
        return slurm_settings(self.home)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site where all is well."""
    for name in ("here", "login", "home/dagster", "node", "shared"):
        (tmp_path / name).mkdir(parents=True)
    made = Site(tmp_path)
    (tmp_path / "here" / "ssh").write_text(SSH)
    (tmp_path / "here" / "ssh").chmod(0o755)
    for name, text in PROGRAMS.items():
        made.write(name, text)
    for name in TOOLS:
        (tmp_path / "login" / name).symlink_to(shutil.which(name) or "absent")
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "id").chmod(0o600)
    (tmp_path / "node" / "activate.sh").write_text(f"export PATH={sys.prefix}/bin:$PATH PYTHONPATH={CHECKOUT}\n")
    (tmp_path / "node" / "env").symlink_to(sys.prefix)
    (tmp_path / "home" / "dagster" / "dagster.yaml").write_text("concurrency: {runs: {max_concurrent_runs: 2}}\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'here'}:{os.environ['PATH']}")
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(made.home))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("PERTURBRIDGE_COMPUTE", raising=False)
    made.settings()
    return made


@pytest.fixture
def ask(site: Site) -> Iterator[Callable[..., Any]]:
    """Asks the login node one of the doctor's questions, with some settings."""

    def look(question: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        with Login(site.settings(**settings)) as login:
            return question(login, *arguments)

    return look


def assert_finding(finding: Finding, verdict: str, *words: str) -> None:
    """A finding has a verdict and says all of some words, on one line, with something to do where it is not ok."""
    assert finding.verdict == verdict, finding.line()
    for word in words:
        assert word in finding.line()
    assert "\n" not in finding.line()
    assert bool(finding.advice) == (verdict in ("warning", "FAILED")), finding.line()


# ---- the command -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_where_all_is_well_every_line_says_so(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "LITTLE_DISK", 0)
    monkeypatch.setattr(machine, "LEAST_DISK", 0)
    assert main(["--wait", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines[:-1] if not line.startswith("ok ")] == []
    assert lines[-1] == f"{len(lines) - 1} ok"
    said = "\n".join(lines)
    for words in ("jane@login.example.org:22 answers", "slurm-wlm 22.05.8", "main: up to 256 GiB, 64 cores, 96 h", "4 at once", "limma"):
        assert words in said
    assert list((site.folder / "shared").iterdir()) == [], "nothing is left behind"
    assert sorted(file.name for file in site.home.iterdir()) == ["dagster", SETTINGS]


@pytest.mark.slow
def test_a_job_that_does_not_answer_says_the_last_line_of_its_log(site: Site, ask: Callable[..., Any]):
    (site.folder / "node" / "activate.sh").write_text("echo $no_such_variable\n")
    with node.bench(site.home, site.folder / "shared") as bench:
        _, job, *others = ask(lambda login: node.look_at_node(login, bench, wait_seconds=20))
    assert_finding(job, "FAILED", "no_such_variable: unbound variable", "set -euo pipefail")
    assert {finding.verdict for finding in others} == {"not looked at"}


@pytest.mark.slow
def test_a_job_that_waits_too_long_is_cancelled(site: Site, ask: Callable[..., Any]):
    (site.folder / "queued").touch()
    with node.bench(site.home, site.folder / "shared") as bench:
        _, job, *others = ask(lambda login: node.look_at_node(login, bench, wait_seconds=1))
    assert_finding(job, "warning", "job 7 still waits after 1 s: PENDING (Resources)", "--wait")
    assert (site.folder / "cancelled").read_text().strip() == "7"
    assert {finding.verdict for finding in others} == {"not looked at"}


def test_without_an_environment_no_job_is_submitted(site: Site, ask: Callable[..., Any]):
    (site.folder / "node" / "activate.sh").unlink()
    site.write("sbatch", "#!/bin/bash\ntouch $(dirname $0)/../submitted\n")
    with node.bench(site.home, site.folder / "shared") as bench:
        environment, *others = ask(lambda login: node.look_at_node(login, bench, wait_seconds=1))
    assert_finding(environment, "FAILED", "lacks activate.sh", "docs/slurm.md")
    assert [finding.check for finding in others] == list(node.CHECKS)
    assert not (site.folder / "submitted").exists()


def test_the_command_says_what_is_wrong_with_the_settings_and_looks_no_further(site: Site, capsys: pytest.CaptureFixture[str]):
    (site.home / SETTINGS).write_text("[slurm]\nhost = 3\n")
    assert main([]) == 1
    assert "FAILED        settings" in (said := capsys.readouterr().out)
    assert "slurm.host" in said
    assert said.count("\n") == 1


def test_what_depends_on_a_failure_is_not_looked_at(site: Site, capsys: pytest.CaptureFixture[str]):
    site.ssh("says", "ssh: connect to host login.example.org port 22: Connection refused")
    assert main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("FAILED") and "Connection refused" in line]
    assert sum(line.startswith("not looked at") for line in lines) >= 16


# ---- this machine ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda key: key.unlink(), "is not there. Make one: ssh-keygen"),
        (lambda key: key.chmod(0o644), "others may read"),
        (lambda key: key.write_text("ssh-ed25519 AAAA jane"), "is not a private key"),
    ],
)
def test_a_key_that_ssh_would_not_take(site: Site, break_it: Callable[[Path], object], words: str):
    assert_finding(machine.key(site.settings()), "ok")
    break_it(site.folder / "id")
    assert_finding(machine.key(site.settings()), "FAILED", words)
    assert_finding(machine.key(site.settings(key=None)), "ok", "ssh-agent")


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/export /shared nfs4 rw,vers=4.2 0 0
jane@far:/data /shared/my\\040screens fuse.sshfs rw 0 0
tmpfs /shared/scratch tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/elsewhere/x", "ext4"),
        ("/shared/x", "nfs4"),
        ("/sharedness", "ext4"),
        ("/shared/my screens/1", "fuse.sshfs"),
        ("/shared/scratch", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path_is_the_one_mounted_nearest(path: str, type_: str):
    assert machine.file_system(Path(path), MOUNTS) == type_


def test_a_file_system_mounted_over_another_is_the_one_that_is_seen():
    assert machine.file_system(Path("/a/b"), "x /a ext4 rw\ny /a nfs rw\n") == "nfs"


def test_sqlite_on_a_network_file_system_is_refused_and_postgres_is_not(tmp_path: Path):
    mounts = f"server:/export {tmp_path} nfs4 rw 0 0\n"
    assert_finding(machine.dagster_home(tmp_path, mounts="/dev/sda1 / ext4 rw 0 0"), "ok", "SQLite")
    assert_finding(machine.dagster_home(tmp_path, mounts=mounts), "FAILED", "nfs4", "Postgres")
    (tmp_path / "dagster.yaml").write_text("storage:\n  postgres:\n    postgres_db: {hostname: db}\n")
    assert_finding(machine.dagster_home(tmp_path, mounts=mounts), "ok", "postgres")
    (tmp_path / "dagster.yaml").write_text("run_storage: {module: dagster_postgres.run_storage, class: PostgresRunStorage}\n")
    assert_finding(machine.dagster_home(tmp_path, mounts=mounts), "ok", "postgres")


def test_a_home_must_rename_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert_finding(machine.home_file_system(tmp_path), "ok", "renames and locks")
    assert_finding(machine.home_file_system(tmp_path, mounts=f"x {tmp_path} fuse.s3fs rw 0 0"), "warning", "fuse.s3fs")
    (tmp_path / "file").touch()
    assert_finding(machine.home_file_system(tmp_path / "file"), "FAILED", "cannot write")
    monkeypatch.setattr(machine, "overwrites", lambda folder, other: True)
    assert_finding(machine.home_file_system(tmp_path), "FAILED", "renamed over another")
    monkeypatch.undo()
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert_finding(machine.home_file_system(tmp_path), "FAILED", "does not lock")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_not_renamed_over_another_with_files_in_it(tmp_path: Path):
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert not machine.overwrites(tmp_path / "one", tmp_path / "another")
    (tmp_path / "another" / "file").unlink()
    assert machine.overwrites(tmp_path / "one", tmp_path / "another")


def test_little_disk_is_a_warning_and_none_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def free(gib: float) -> Finding:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": gib * machine.GIB})())
        return machine.free_disk("disk", tmp_path / "not" / "yet")

    assert_finding(free(500), "ok", "500.0 GiB free")
    assert_finding(free(5), "warning", "5.0 GiB free")
    assert_finding(free(0.5), "FAILED", "0.5 GiB free")


# ---- the login node ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "check", "words"),
    [
        ("No ED25519 host key is known for login.example.org ….\nHost key verification failed.", "host key", "is not in"),
        ("@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@\nHost key verification failed.", "host key", "another key"),
        ("jane@login.example.org: Permission denied (publickey).", "login", "ssh-copy-id -i"),
        ("ssh: Could not resolve hostname login.example.org: Name or service not known", "login", "Name or service not known"),
        ("ssh: connect to host login.example.org port 22: Connection timed out", "login", "Connection timed out"),
    ],
)
def test_what_ssh_says_becomes_what_to_do(site: Site, ask: Callable[..., Any], said: str, check: str, words: str):
    assert [finding.verdict for finding in ask(login_node.can_log_in)] == ["ok", "ok"]
    site.ssh("says", said)
    failed = [finding for finding in ask(login_node.can_log_in) if finding.verdict == "FAILED"]
    assert [finding.check for finding in failed] == [check]
    assert_finding(failed[0], "FAILED", words)


def test_a_login_that_prints_is_found(site: Site, ask: Callable[..., Any]):
    site.ssh("noise")
    assert_finding(ask(login_node.can_log_in)[1], "FAILED", "Welcome to the cluster!", "~/.bashrc")


def test_commands_must_be_on_the_path_of_a_shell_without_profile(site: Site, ask: Callable[..., Any]):
    assert_finding(ask(login_node.programs), "ok", "sbatch")
    for name in ("sacct", "scancel"):
        (site.folder / "login" / name).unlink()
    assert_finding(ask(login_node.programs), "FAILED", "sacct, scancel not on the PATH", f"{site.folder}/login")


def test_a_controller_that_is_away_is_found(site: Site, ask: Callable[..., Any]):
    assert_finding(ask(login_node.controller), "ok", "Slurmctld(primary) at login is UP")
    site.write("scontrol", "#!/bin/bash\necho 'Slurmctld(primary) at login is DOWN'\nexit 1\n")
    assert_finding(ask(login_node.controller), "FAILED", "is DOWN")


@pytest.mark.parametrize(
    ("program", "text", "verdict", "words"),
    [
        ("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1", "FAILED", "accounting storage is disabled"),
        ("sacct", "echo 'sacct: error: slurm_persist_conn_open: Connection refused' >&2; exit 1", "FAILED", "Connection refused"),
        ("scontrol", "echo 'AccountingStorageType   = accounting_storage/none'", "FAILED", "keeps none"),
        ("scontrol", "echo 'JobAcctGatherType       = jobacct_gather/none'", "warning", "not sampled"),
    ],
)
def test_accounting_that_does_not_answer_or_does_not_sample(
    site: Site, ask: Callable[..., Any], program: str, text: str, verdict: str, words: str
):
    assert_finding(ask(login_node.accounting), "ok", "jobacct_gather/cgroup")
    site.write(program, f"#!/bin/bash\n{text}\n")
    assert_finding(ask(login_node.accounting), verdict, words)


@pytest.mark.parametrize(
    ("settings", "verdicts", "words"),
    [
        ({}, ["ok"], "main: up to 256 GiB, 64 cores, 96 h"),
        ({"partition": "mian"}, ["FAILED"], "there is no mian. Set partition of [slurm] to one of main, gpu, old."),
        ({"partition": "old"}, ["FAILED"], "old is down. Set partition of [slurm] to one of main, gpu."),
        ({"gpu_partition": "gpu"}, ["ok", "ok"], "gpu: up to 256 GiB, 64 cores, 48 h"),
        ({"gpu_partition": "main"}, ["ok", "FAILED"], "no node of main has GPUs. Set gpu_partition of [slurm] to one of gpu."),
        ({"gpu_partition": "gpus"}, ["ok", "FAILED"], "there is no gpus"),
        (
            {"max_memory_gib": 700, "max_cpus": 64, "max_hours": 100},
            ["warning"],
            "Set under [slurm]: max_memory_gib = 256, max_hours = 96.",
        ),
    ],
)
def test_partitions_must_be_there_and_large_enough(ask: Callable[..., Any], settings: dict[str, Any], verdicts: list[str], words: str):
    findings = ask(login_node.partition, **settings)
    assert [finding.verdict for finding in findings] == verdicts
    assert words in findings[-1].line()


def test_a_cluster_without_a_default_partition_asks_for_one(site: Site, ask: Callable[..., Any]):
    site.write("sinfo", "#!/bin/bash\necho 'a|up|infinite|1024|2|(null)'\necho 'b|up|infinite|1024|2|(null)'\n")
    assert_finding(ask(login_node.partition)[0], "FAILED", "no default", "one of a, b")


@pytest.mark.parametrize(
    ("limit", "hours"),
    [("infinite", float("inf")), ("30:00", 0.5), ("1:00:00", 1), ("2-12:00:00", 60), ("0:30", 1 / 120), ("1-00:00:00", 24)],
)
def test_time_limits_of_sinfo(limit: str, hours: float):
    assert login_node.hours_of(limit) == pytest.approx(hours)


def test_account_and_qos_are_judged_by_sbatch_and_choices_named(site: Site, ask: Callable[..., Any]):
    assert_finding(ask(login_node.account, account="lab", qos="high"), "ok", "account lab, qos high")
    refused = ask(login_node.account, account="nobody")
    assert_finding(refused, "FAILED", "Invalid account", "This user may: account lab with qos normal,high.")
    assert_finding(ask(login_node.account, qos="golden"), "FAILED", "Invalid qos specification")
    assert_finding(ask(login_node.account, account="other"), "warning", "accounting knows no other of this user")
    site.write("sacctmgr", "#!/bin/bash\nexit 1\n")
    assert_finding(ask(login_node.account, account="other"), "ok", "account other")


def test_too_few_sessions_say_how_many_runs_may_go_at_once(site: Site, ask: Callable[..., Any]):
    assert_finding(ask(login_node.sessions, 3), "ok", "6 at once on one connection, for 3 runs")
    site.ssh("few")
    assert_finding(
        ask(login_node.sessions, 3), "warning", "6 of 6 at once are refused", "max_concurrent_runs of dagster.yaml to 1", "MaxSessions 6"
    )


def test_a_folder_that_the_login_node_does_not_see(site: Site, ask: Callable[..., Any]):
    with node.bench(site.home, site.folder / "shared") as bench:
        assert [finding.verdict for finding in ask(lambda login: node.shared_with_login(login, bench))] == ["ok", "ok", "ok"]
        site.write("cat", "#!/bin/bash\ncase $1 in *token) echo 'another folder';; *) exec /bin/cat \"$@\";; esac\n")
        folder, home, _ = ask(lambda login: node.shared_with_login(login, bench))
        assert_finding(folder, "FAILED", "is not on login.example.org", "folder of [slurm]")
        assert_finding(home, "ok")
        site.write("cat", '#!/bin/bash\necho "cat: $1: No such file or directory" >&2; exit 1\n')
        assert_finding(ask(lambda login: node.shared_with_login(login, bench))[1], "FAILED", "No such file", "PERTURBRIDGE_HOME")


def test_a_clock_that_is_off(site: Site, ask: Callable[..., Any]):
    site.write("date", f"#!/bin/bash\necho {time.time() + 900}\n")
    with node.bench(site.home, site.folder / "shared") as bench:
        clock = ask(lambda login: node.shared_with_login(login, bench))[2]
    assert_finding(clock, "warning", "s off this machine", "chrony")


# ---- the compute node --------------------------------------------------------------------------------------------------------

HERE = {
    "python": "3.11.7",
    "domain": {"found": {"folder": "/shared/checkout/perturbridge_dagster", "code": "c0de"}},
    "r": {"found": {"R": "4.2.2", "limma": "3.54.1", "edgeR": "3.40.2", "statmod": "1.5.0"}},
    "packages": {"found": dict.fromkeys(probe.PACKAGES, "1.0")},
}


@pytest.mark.parametrize(
    ("path", "value", "check", "verdict", "words"),
    [
        ("home", {"found": "another"}, "node: shared paths", "FAILED", "it is another folder"),
        ("home", {"error": "FileNotFoundError: no"}, "node: shared paths", "FAILED", "FileNotFoundError"),
        ("could_lock", {"found": True}, "node: locks", "warning", "took a lock that this machine holds"),
        ("could_lock", {"error": "OSError: No locks available"}, "node: locks", "warning", "No locks available"),
        ("time", -903.0, "node: clock", "warning", "900 s off this machine"),
        ("python", "3.12.1", "node: Python", "FAILED", "Make the environment with 3.11"),
        ("domain", {"error": "ModuleNotFoundError: no perturbridge_dagster"}, "node: code", "FAILED", "cannot import"),
        ("domain", {"found": {"folder": "/opt/old", "code": "beef"}}, "node: code", "FAILED", "/opt/old on node1 is another version"),
        ("packages", {"found": {"numpy": "1.0"}}, "node: packages", "FAILED", "lacks dagster-pipes, scipy"),
        ("packages", {"found": {**dict.fromkeys(probe.PACKAGES, "1.0"), "scipy": "1.1"}}, "node: packages", "warning", "1.1 (here 1.0)"),
        ("r", {"error": "RError: R is absent"}, "node: R", "FAILED", "node1: RError: R is absent. activate.sh"),
        ("r", {"found": {"R": "4.2.2", "limma": "3.58.0"}}, "node: R", "FAILED", "limma 3.58.0; this machine"),
    ],
)
def test_each_difference_of_a_node_is_one_finding(tmp_path: Path, path: str, value: Any, check: str, verdict: str, words: str):
    bench = node.Bench(tmp_path / "shared" / "doctor", tmp_path / "home" / ".doctor", "t0ken")
    now = time.time()
    answer: dict[str, Any] = {
        **copy.deepcopy(HERE),
        "node": "node1",
        "executable": "/shared/node/env/bin/python",
        "home": {"found": "t0ken"},
        "could_lock": {"found": False},
        "time": now,
    }
    well = node.judged(answer, bench, now - 3, now + 1, here=HERE)
    assert [finding.check for finding in well] == list(node.CHECKS[1:])
    assert {finding.verdict for finding in well} == {"ok"}
    answer[path] = now + value if path == "time" else value
    bad = [finding for finding in node.judged(answer, bench, now - 3, now + 1, here=HERE) if finding.verdict != "ok"]
    assert [finding.check for finding in bad] == [check]
    assert_finding(bad[0], verdict, words)


def test_a_machine_without_r_is_told_from_a_node_without_it(tmp_path: Path):
    here = {**HERE, "r": {"error": "RError: R 4.2.2 lacks limma"}}
    answer = {**HERE, "node": "node1"}
    assert_finding(node._r(answer, here, "node1"), "FAILED", "this machine: RError: R 4.2.2 lacks limma")


def test_the_code_is_compared_by_content_and_name(tmp_path: Path):
    def package(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return probe.digest_of_code(tmp_path / name, [tmp_path / name / "limma.R"])

    files = {"a.py": "1", "b/c.py": "2", "limma.R": "3"}
    same = package("one", files)
    assert package("two", {**files, "__pycache__/a.pyc": "x"}) == same
    for other_files in ({**files, "a.py": "9"}, {**files, "limma.R": "9"}, {"a2.py": "1", "b/c.py": "2", "limma.R": "3"}):
        assert package(f"other {sorted(other_files.items())}".replace("/", ""), other_files) != same
