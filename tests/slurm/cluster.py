"""A SLURM cluster on this machine: what tests ask of it and do to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

CHECKOUT = Path(__file__).resolve().parents[2]
DAEMONS = ("munged", "mariadb", "slurmdbd", "slurmctld", "node1", "node2", "sshd")
UP_SECONDS = 1500
"""How long the first start may take: it may have to install packages."""

Found = TypeVar("Found")


def within(seconds: float, what: str, look: Callable[[], Found]) -> Found:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.2)
    return found


def began(process: int) -> str | None:
    """The tick at which a process began; None once it has ended, also while nobody has asked for its exit code."""
    try:
        state, *fields = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]


@dataclass(frozen=True)
class Cluster:
    """A cluster of script/slurm-cluster.

    `variables` are those of the script, `before` is put before every call of it: a command that runs a command.
    """

    variables: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(
            self.variables.get("PERTURBRIDGE_SLURM_CLUSTER") or os.environ.get("PERTURBRIDGE_SLURM_CLUSTER") or CHECKOUT / ".slurm-cluster"
        )

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def script(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call script/slurm-cluster; jobs get the Python environment of the tests."""
        done = subprocess.run(
            [*self.before, CHECKOUT / "script" / "slurm-cluster", *arguments],
            env={**os.environ, "PERTURBRIDGE_SLURM_ENVIRONMENT": sys.prefix, **self.variables},
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    @property
    def is_up(self) -> bool:
        return all(self.process(daemon) for daemon in DAEMONS)

    def process(self, daemon: str) -> int | None:
        """Process of a daemon; None when it does not run."""
        record = self.state / "process" / daemon
        number, _, tick = record.read_text().strip().partition(" ") if record.exists() else ("", "", "")
        return int(number) if number and began(int(number)) == tick else None

    def signal(self, daemon: str, number: int) -> None:
        """Send a signal to a daemon that runs."""
        process = self.process(daemon)
        assert process, f"{daemon} does not run"
        os.kill(process, number)

    def ask(self, *command: str, check: bool = True) -> str:
        """What a command of SLURM says (squeue, sacct, scontrol, sbatch), without the line end."""
        environment = {**os.environ, "SLURM_CONF": str(self.state / "slurm.conf")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def by_ssh(self, command: str) -> list[str]:
        """What runs a shell command on the login node."""
        sshd = (self.state / "sshd_config").read_text().split()
        port = sshd[sshd.index("ListenAddress") + 1].rpartition(":")[2]
        known_hosts = f"UserKnownHostsFile={self.state}/ssh/known_hosts"
        return [
            "ssh",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            known_hosts,
            "-i",
            f"{self.state}/ssh/key",
            "-p",
            port,
            "root@127.0.0.1",
            command,
        ]

    def submit(self, command: str, *options: str) -> str:
        """Submit a shell command; the id of the job."""
        return self.ask("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", command)

    def ended(self, job: str, seconds: float = 60) -> tuple[str, str]:
        """State and exit code of a job, once the accounting says that it has ended."""
        going = ("", "PENDING", "RUNNING", "COMPLETING", "REQUEUED")

        def look() -> tuple[str, str] | None:
            state, _, code = self.ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode").partition("|")
            return None if state in going else (state.split()[0], code)

        return within(seconds, f"the end of job {job}", look)

    @property
    def jobs(self) -> list[str]:
        """Jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--format=%A").split()
