"""What the doctor asks of the login node: ssh, the SLURM commands, accounting, partition, account, quality of service.

Every question goes through the ``ssh`` command and ``bash --noprofile --norc``, as dagster-slurm's do. Belongs here: questions and what
their answers mean. Does not belong here: what only a compute node can say (``node.py``).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from resources.slurm.doctor.finding import Finding, failed, ok, warning
from resources.slurm.settings import SlurmSettings

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
ANSWERS_WITHIN = 30
SESSIONS_OF_A_JOB = 2
"""ssh sessions open for a running job: one that follows its messages, and one that asks."""
MOST_SESSIONS_TRIED = 24
_GREETING = "perturbridge doctor"


@dataclass(frozen=True)
class Answer:
    """What a command on the login node came to."""

    status: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """Its last line, of stderr if there is one."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit status {self.status}, without a word"


class Login:
    """A connection to the login node, shared by all questions; a context manager."""

    def __init__(self, settings: SlurmSettings) -> None:
        self.settings = settings
        self._socket = Path(tempfile.mkdtemp(prefix="doctor-")) / "s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        subprocess.run([*self._ssh("-O", "exit")], capture_output=True, check=False, timeout=ANSWERS_WITHIN)
        self._socket.unlink(missing_ok=True)
        self._socket.parent.rmdir()

    def _ssh(self, *options: str) -> list[str]:
        connection = self.settings.connection()
        return [
            "ssh",
            *options,
            *connection.get_common_ssh_opts(server_alive_interval=10, server_alive_count_max=3),
            *("-o", "ConnectTimeout=20", "-o", f"ControlPath={self._socket}"),
            *("-p", str(connection.port)),
            *connection.get_auth_opts(),
            connection.get_remote_target(),
        ]

    def ask(self, command: str, *, alone: bool = False) -> Answer:
        """Run a command on the login node.

        Parameters
        ----------
        command
            For ``bash``.
        alone
            Over a connection of its own, rather than the shared one.
        """
        master = ("-o", "ControlMaster=no", "-S", "none") if alone else ("-o", "ControlMaster=auto", "-o", "ControlPersist=60")
        remote = f"bash --noprofile --norc -c {shlex.quote(command)}"
        try:
            done = subprocess.run(
                [*self._ssh(*master), remote], capture_output=True, text=True, errors="replace", timeout=ANSWERS_WITHIN, check=False
            )
        except subprocess.TimeoutExpired:
            return Answer(124, "", f"no answer within {ANSWERS_WITHIN} s")
        return Answer(done.returncode, done.stdout, done.stderr)

    def refused_sessions(self, number: int) -> int:
        """How many of some sessions at once the login node refuses on one connection."""
        sessions = [
            subprocess.Popen(
                [*self._ssh("-o", "ControlMaster=no"), "sleep 2"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for _ in range(number)
        ]
        said = [session.communicate(timeout=ANSWERS_WITHIN + 2)[1] for session in sessions]
        return sum(b"open refused by peer" in words or b"session request failed" in words for words in said)


def can_log_in(login: Login) -> list[Finding]:
    """Host key and login; the second is ok only where commands can be run and nothing is printed beside what they say."""
    settings = login.settings
    where = f"{settings.host}:{settings.port}"
    started = time.monotonic()
    answer = login.ask(f"echo {shlex.quote(_GREETING)}", alone=True)
    took = time.monotonic() - started
    if answer.status == 255 or (answer.status and not answer.out):
        return _refused(settings, where, answer)
    host_key = ok("host key", f"{where} is in {settings.known_hosts}")
    if answer.out.strip() != _GREETING:
        return [
            host_key,
            failed(
                "login",
                f"{where} answers a command with {answer.out.strip()[:80]!r}, where it should print {_GREETING!r} alone",
                "In ~/.bashrc on the login node, print only where [[ $- == *i* ]].",
            ),
        ]
    return [host_key, ok("login", f"{settings.user}@{where} answers in {took:.1f} s")]


def _refused(settings: SlurmSettings, where: str, answer: Answer) -> list[Finding]:
    """Host key and login, from what ssh said when it could not connect."""
    said, port = answer.err, f"-p {settings.port} " if settings.port != 22 else ""
    if "IDENTIFICATION HAS CHANGED" in said or "differs from the key" in said:
        return [
            failed(
                "host key",
                f"{where} shows another key than {settings.known_hosts} has",
                "Ask the site whether it was changed, and only then take the new one: "
                f"ssh-keygen -R '[{settings.host}]:{settings.port}' -f {settings.known_hosts}.",
            )
        ]
    if "ost key verification failed" in said or "host key is known" in said:
        return [
            failed(
                "host key",
                f"{where} is not in {settings.known_hosts}",
                f"ssh-keyscan {port}{settings.host} >> {settings.known_hosts}; compare its fingerprint with the one the site publishes.",
            )
        ]
    if "Permission denied" in said or "Too many authentication failures" in said:
        key = f"-i {settings.key} " if settings.key else ""
        return [
            ok("host key", f"{where} is in {settings.known_hosts}"),
            failed(
                "login",
                f"{where} refuses {settings.user}: {answer.last_words}",
                f"ssh-copy-id {key}{port}{settings.user}@{settings.host}; a key with a passphrase needs an ssh-agent all the time.",
            ),
        ]
    return [
        failed(
            "login",
            f"{where} is not reached: {answer.last_words}",
            f"Look at host and port of [slurm], and whether this machine may connect: ssh {port}{settings.user}@{settings.host}.",
        )
    ]


def programs(login: Login) -> Finding:
    """The SLURM commands are on the PATH of a shell that reads no profile."""
    answer = login.ask(f"for name in {' '.join(PROGRAMS)}; do command -v $name >/dev/null || echo $name; done; echo PATH $PATH")
    *absent, path = answer.out.split("\n")[:-1] or ["PATH"]
    if answer.status or absent:
        return failed(
            "SLURM commands",
            f"{', '.join(absent) or answer.last_words} not on the {path}",
            "A shell that reads no profile must find them: links in /usr/local/bin, or PATH in ~/.ssh/environment or by SetEnv of sshd.",
        )
    return ok("SLURM commands", ", ".join(PROGRAMS))


def controller(login: Login) -> Finding:
    """The controller answers."""
    answer = login.ask("sinfo --version && scontrol ping")
    version, *said = answer.out.strip().splitlines() or [""]
    if answer.status or not any("UP" in line for line in said):
        return failed("controller", said[0] if said else answer.last_words, "Runs wait while it is away; ask the site when it comes back.")
    return ok("controller", f"{version}: {said[0]}")


def accounting(login: Login) -> Finding:
    """``sacct`` answers, and samples memory."""
    without = "A job's end is then told by squeue and scontrol for minutes only, and neither its peak memory nor its time is known."
    answer = login.ask("sacct -X -n -P -S now-1hour -o JobID >/dev/null && scontrol show config")
    if answer.status:
        return failed("accounting", f"sacct says: {answer.last_words}", f"{without} Ask the site for slurmdbd.")
    config = dict(re.findall(r"^(\w+) *= *(\S+)", answer.out, re.MULTILINE))
    if config.get("AccountingStorageType") == "accounting_storage/none":
        return failed("accounting", "the site keeps none", f"{without} Ask the site for slurmdbd.")
    if config.get("JobAcctGatherType", "").endswith("none"):
        return warning("accounting", "JobAcctGatherType is none: peak memory is not sampled", "Out of memory is then told by cgroups only.")
    return ok("accounting", f"sacct answers; {config.get('JobAcctGatherType', 'memory is sampled')}")


# ---- what the settings name --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """A partition with its largest node, as ``sinfo`` tells of it."""

    name: str
    default: bool
    up: bool
    hours: float
    memory_gib: float
    cpus: int
    gpus: bool


def partitions(text: str) -> dict[str, Partition]:
    """Partitions from ``sinfo -h -o '%P|%a|%l|%m|%c|%G'``, which has one line for each kind of node."""
    found: dict[str, Partition] = {}
    for line in text.strip().splitlines():
        marked, available, limit, memory, cpus, resources = line.split("|")
        name = marked.rstrip("*")
        before = found.get(name)
        found[name] = Partition(
            name,
            marked.endswith("*"),
            available == "up",
            hours_of(limit),
            max(float(memory.rstrip("+")) / 1024, before.memory_gib if before else 0),
            max(int(cpus.rstrip("+")), before.cpus if before else 0),
            "gpu" in resources or bool(before and before.gpus),
        )
    return found


def hours_of(limit: str) -> float:
    """Hours of a SLURM time limit: ``[days-]hours:minutes:seconds``, ``minutes:seconds`` or ``infinite``."""
    if limit in ("infinite", "n/a"):
        return float("inf")
    days, _, rest = limit.rpartition("-")
    parts = [float(part) for part in rest.split(":")]
    parts = [0.0] * (3 - len(parts)) + parts
    return 24 * float(days or 0) + parts[0] + parts[1] / 60 + parts[2] / 3600


def partition(login: Login) -> list[Finding]:
    """The partitions are there, up, and large enough for what a payload may ask for."""
    settings = login.settings
    answer = login.ask("sinfo -h -o '%P|%a|%l|%m|%c|%G'")
    if answer.status:
        return [failed("partition", f"sinfo says: {answer.last_words}", "Ask the site.")]
    there = partitions(answer.out)
    name = settings.partition or next((found.name for found in there.values() if found.default), None)
    if name is None:
        return [failed("partition", "the cluster has no default", f"Set partition of [slurm] to one of {', '.join(there)}.")]
    findings = [_fits("partition", name, there, settings)]
    if settings.gpu_partition:
        gpu = there.get(settings.gpu_partition)
        if gpu and not gpu.gpus:
            findings.append(failed("GPU partition", f"no node of {gpu.name} has GPUs", _instead("gpu_partition", there, gpus=True)))
        else:
            findings.append(_fits("GPU partition", settings.gpu_partition, there, settings))
    return findings


def _instead(key: str, there: dict[str, Partition], *, gpus: bool = False) -> str:
    names = [found.name for found in there.values() if found.gpus or not gpus]
    return f"Set {key} of [slurm] to one of {', '.join(names)}." if names else f"Leave {key} out of [slurm]."


def _fits(check: str, name: str, there: dict[str, Partition], settings: SlurmSettings) -> Finding:
    key = "gpu_partition" if check == "GPU partition" else "partition"
    if name not in there:
        return failed(check, f"there is no {name}", _instead(key, there, gpus=key == "gpu_partition"))
    found = there[name]
    if not found.up:
        return failed(check, f"{name} is down", _instead(key, {other: that for other, that in there.items() if that.up}))
    sizes = f"{found.memory_gib:.0f} GiB, {found.cpus} cores, " + ("no time limit" if found.hours == float("inf") else f"{found.hours:g} h")
    beyond = [
        f"{ceiling} = {most:g}"
        for ceiling, asked, most in (
            ("max_memory_gib", settings.max_memory_gib, found.memory_gib),
            ("max_cpus", settings.max_cpus, found.cpus),
            ("max_hours", settings.max_hours, found.hours),
        )
        if asked > most
    ]
    if beyond:
        return warning(
            check, f"{name} has at most {sizes}, and a job that asks for more is refused", f"Set under [slurm]: {', '.join(beyond)}."
        )
    return ok(check, f"{name}: up to {sizes}")


def queue_options(settings: SlurmSettings) -> str:
    """Partition, account and quality of service as options of sbatch."""
    named = {"--partition": settings.partition, "--account": settings.account, "--qos": settings.qos}
    return " ".join(f"{option}={shlex.quote(value)}" for option, value in named.items() if value)


def account(login: Login) -> Finding:
    """SLURM would take a job of this account and quality of service."""
    settings = login.settings
    named = f"account {settings.account or '(default)'}, qos {settings.qos or '(default)'}"
    may = login.ask("sacctmgr -n -P show assoc user=$(id -un) format=Account,QOS")
    rows = [line.split("|") for line in may.out.split() if "|" in line] if may.status == 0 else []
    choices = "; ".join(f"account {row[0]} with qos {row[1] or '(any)'}" for row in rows)
    advice = f"This user may: {choices}." if choices else "Ask the site which account and quality of service this user has."
    answer = login.ask(f"sbatch --test-only --time=1 --mem=64M {queue_options(settings)} --wrap true")
    if answer.status:
        return failed("account and qos", f"sbatch refuses {named}: {answer.last_words}", advice)
    if rows and settings.account and settings.account not in {row[0] for row in rows}:
        return warning("account and qos", f"sbatch takes it, but accounting knows no {settings.account} of this user", advice)
    return ok("account and qos", named)


def sessions(login: Login, runs: int) -> Finding:
    """The login node lets one connection have as many sessions as the jobs of some runs at once need."""
    need = SESSIONS_OF_A_JOB * runs
    tried = min(need, MOST_SESSIONS_TRIED)
    refused = login.refused_sessions(tried)
    if refused:
        most = max((tried - refused) // SESSIONS_OF_A_JOB, 1)
        return warning(
            "sessions",
            f"{refused} of {tried} at once are refused; each then becomes a connection of its own, which sites may block",
            f"Set max_concurrent_runs of dagster.yaml to {most}, or ask the site for MaxSessions {need} in sshd_config.",
        )
    return ok("sessions", f"{tried} at once on one connection, for {runs} run{'s' * (runs != 1)} at once")
