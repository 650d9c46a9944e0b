"""What the doctor learns of the shared folder and of a compute node, by a short job.

Belongs here: submitting ``probe.py``, waiting for it, and judging what it says beside what this machine has. Does not belong here: looking
(``probe.py``), or the login node (``login.py``).
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from resources.slurm.doctor import probe
from resources.slurm.doctor.finding import Finding, failed, not_looked_at, ok, warning
from resources.slurm.doctor.login import Login, queue_options

SKEW_SECONDS = 30.0
"""Seconds that two machines may differ by: SLURM's munge bears five minutes, people who compare logs less."""
SEEN_WITHIN = 60.0
"""Seconds within which a shared file system shows on one machine what another wrote; NFS caches attributes that long by default."""
IN_QUEUE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED")
CHECKS = ("job", "node: shared paths", "node: locks", "node: clock", "node: Python", "node: code", "node: packages", "node: R")


@dataclass(frozen=True)
class Bench:
    """A folder of the doctor's on the shared file system, and a file in the home, with words that only this look knows."""

    folder: Path
    home_file: Path
    token: str

    @property
    def answer(self) -> Path:
        """What the job writes."""
        return self.folder / "answer.json"

    @property
    def lock(self) -> Path:
        """What this machine holds while the job tries it; in the home, where locks matter."""
        return self.home_file.with_suffix(".lock")


@contextmanager
def bench(root: Path, shared: Path) -> Iterator[Bench]:
    """Folder and file of a look, which go away afterwards."""
    token = uuid.uuid4().hex
    made = Bench(shared / f"doctor-{token[:8]}", root / f".doctor-{token[:8]}", token)
    made.folder.mkdir(parents=True)
    (made.folder / "token").write_text(token)
    made.home_file.write_text(token)
    try:
        with FileLock(made.lock, timeout=10):
            yield made
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)
        for file in (made.home_file, made.lock):
            file.unlink(missing_ok=True)


def shared_with_login(login: Login, on: Bench) -> list[Finding]:
    """The home and the folder of job scripts are the same on the login node, in both directions, and its clock is right."""
    paths = {"shared folder": (on.folder.parent, on.folder / "token"), "shared home": (on.home_file.parent, on.home_file)}
    findings = []
    for check, (folder, file) in paths.items():
        answer = login.ask(f"cat {shlex.quote(str(file))}")
        key = "folder of [slurm]" if check == "shared folder" else "PERTURBRIDGE_HOME"
        if answer.out != on.token:
            findings.append(
                failed(
                    check,
                    f"{folder} of this machine is not on {login.settings.host}: {answer.last_words}",
                    f"Set {key} to a folder that has the same path on this machine, the login node and all nodes.",
                )
            )
        else:
            findings.append(ok(check, f"{folder} is the same on {login.settings.host}"))
    if findings[0].verdict == "ok":
        back = on.folder / "back"
        answer = login.ask(f"printf %s {on.token} > {shlex.quote(str(back))}")
        if not _seen(lambda: back.is_file() and back.read_text() == on.token, SEEN_WITHIN if answer.status == 0 else 0):
            user = f"{login.settings.user} cannot write in {on.folder.parent}, or this machine does not see it: {answer.last_words}"
            findings[0] = failed(
                "shared folder", user, "Make it writable for both users (the same user id is best), and look at the mount."
            )
    before = time.time()
    answer = login.ask("date +%s.%N")
    after = time.time()
    findings.append(_skew("login clock", answer.out.strip(), before, after, login.settings.host))
    return findings


def _seen(look: Callable[[], bool], seconds: float) -> bool:
    """Whether something is seen within some seconds."""
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def _skew(check: str, said: str, before: float, after: float, where: str) -> Finding:
    try:
        there = float(said)
    except ValueError:
        return failed(check, f"{where} does not tell the time: {said!r}", "Ask the site.")
    skew = max(there - after, before - there, 0.0)
    if skew > SKEW_SECONDS:
        return warning(check, f"{where} is {skew:.0f} s off this machine", "Run chrony or ntpd on both: logs and time limits are compared.")
    return ok(check, f"{where} is within {skew + (after - before):.1f} s of this machine")


# ---- the job -----------------------------------------------------------------------------------------------------------------


def look_at_node(login: Login, on: Bench, *, wait_seconds: float) -> list[Finding]:
    """Submit the probe, wait for it, and judge what it says."""
    settings = login.settings
    absent = login.ask(
        f"cd {shlex.quote(str(settings.environment))} && for file in activate.sh env/bin/python; do [ -e $file ] || echo $file; done"
    )
    if absent.status or absent.out.strip():
        lacking = " and ".join(absent.out.split()) or absent.last_words
        return [
            failed(
                "environment", f"{settings.environment} lacks {lacking}", "Make it as docs/slurm.md says under The environment on nodes."
            ),
            *not_looked_at(CHECKS, "there is no environment"),
        ]
    findings = [ok("environment", f"{settings.environment} has activate.sh and env/bin/python")]
    _write_job(on, settings.environment)
    asked = f"--time=5 --mem=2G --cpus-per-task=1 {queue_options(settings)}"
    folder = shlex.quote(str(on.folder))
    started = time.time()
    submitted = login.ask(f"sbatch --parsable --job-name=perturbridge_doctor -D {folder} -o {folder}/job.log {asked} {folder}/job.sh")
    job = submitted.out.strip().split(";")[0]
    if submitted.status or not job.isdigit():
        return [
            *findings,
            failed("job", f"sbatch refuses a job of 2 GiB and 5 minutes: {submitted.last_words}", "Look at partition, account and qos."),
            *not_looked_at(CHECKS[1:], "no job could be submitted"),
        ]
    state = _wait(login, job, on, wait_seconds)
    seen = time.time()
    if not on.answer.is_file():
        return [*findings, *_unanswered(login, job, state, on, wait_seconds)]
    answer = json.loads(on.answer.read_text())
    return [
        *findings,
        ok("job", f"job {job} ran on {answer['node']}, answered after {seen - started:.0f} s"),
        *judged(answer, on, started, seen, here=this_machine()),
    ]


def _write_job(on: Bench, environment: Path) -> None:
    """Write the job as dagster-slurm writes its jobs: the same shell options, activation and library path."""
    (on.folder / "probe.py").write_text(Path(probe.__file__).read_text())
    env = shlex.quote(str(environment))
    arguments = " ".join(shlex.quote(str(path)) for path in (on.folder / "probe.py", on.answer, on.home_file, on.lock))
    (on.folder / "job.sh").write_text(
        "#!/bin/bash\nset -euo pipefail\n"
        f"source {env}/activate.sh\n"
        f"export LD_LIBRARY_PATH={env}/env/lib:${{LD_LIBRARY_PATH:-}}\n"
        f"exec {env}/env/bin/python {arguments}\n"
    )


def _wait(login: Login, job: str, on: Bench, wait_seconds: float) -> str:
    """Wait for the answer of a job, as long as it is in the queue or its answer may still appear; its last state."""
    end, state = time.monotonic() + wait_seconds, "PENDING"
    while not on.answer.is_file() and time.monotonic() < end:
        answer = login.ask(f"squeue -h -t all -j {job} -o '%T %R'")
        state = answer.out.strip() or state
        forgotten = answer.status == 0 and not answer.out.strip()
        if forgotten or not state.startswith(IN_QUEUE):
            _seen(on.answer.is_file, SEEN_WITHIN if forgotten or state.startswith("COMPLETED") else 5)
            break
        time.sleep(1)
    return state


def _unanswered(login: Login, job: str, state: str, on: Bench, wait_seconds: float) -> list[Finding]:
    log = on.folder / "job.log"
    words = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    if state.startswith(("PENDING", "CONFIGURING")):
        login.ask(f"scancel {job}")
        waits = warning("job", f"job {job} still waits after {wait_seconds:.0f} s: {state}", "Look again with a longer --wait.")
        return [waits, *not_looked_at(CHECKS[1:], "the job waits in the queue")]
    if state.startswith("RUNNING"):
        login.ask(f"scancel {job}")
    if state.startswith("COMPLETED") or not words:
        said, advice = (
            f"job {job} ended ({state}), but neither its answer nor its log appears in {on.folder} here",
            "The nodes must see folder of [slurm] under the same path, and its user must be able to write there.",
        )
    else:
        said, advice = (
            f"job {job} ended ({state}): {words[-1]}",
            "activate.sh runs under set -euo pipefail: no unset variables, no failing command.",
        )
    return [failed("job", said, advice), *not_looked_at(CHECKS[1:], "the job did not answer")]


# ---- judging -----------------------------------------------------------------------------------------------------------------


def this_machine() -> dict[str, Any]:
    """What the probe would say here, as far as a node is compared with it."""
    import platform

    return {
        "python": platform.python_version(),
        "domain": probe.tried(probe.domain),
        "r": probe.tried(probe.r_versions),
        "packages": probe.tried(probe.packages),
    }


def judged(answer: Mapping[str, Any], on: Bench, started: float, seen: float, *, here: Mapping[str, Any]) -> list[Finding]:
    """Findings from what the probe said.

    Parameters
    ----------
    answer
        What the probe wrote.
    on
        The doctor's folder and file.
    started, seen
        When the job was submitted and its answer seen, by this machine's clock, in seconds since 1970.
    here
        :func:`this_machine`.
    """
    node = answer["node"]
    return [
        _paths(answer, on, node),
        _locks(answer, on, node),
        _skew("node: clock", str(answer["time"]), started, seen, node),
        _python(answer, here, node),
        _code(answer, here, node),
        _packages(answer, here, node),
        _r(answer, here, node),
    ]


def _paths(answer: Mapping[str, Any], on: Bench, node: str) -> Finding:
    if answer["home"].get("found") != on.token:
        return failed(
            "node: shared paths",
            f"{on.home_file.parent} is not on {node}: {answer['home'].get('error', 'it is another folder')}",
            "Set PERTURBRIDGE_HOME to a folder that has the same path on this machine, the login node and all nodes.",
        )
    return ok("node: shared paths", f"the home and {on.folder.parent} are the same on {node}")


def _locks(answer: Mapping[str, Any], on: Bench, node: str) -> Finding:
    if answer["could_lock"].get("found") is not False:
        said = answer["could_lock"].get("error") or f"{node} took a lock that this machine holds"
        return warning(
            "node: locks", said, f"Mount {on.home_file.parent} with locks for all machines (Lustre: -o flock; NFS: no local_lock)."
        )
    return ok("node: locks", f"a lock of this machine holds on {node}")


def _python(answer: Mapping[str, Any], here: Mapping[str, Any], node: str) -> Finding:
    there, wanted = (values["python"].split(".")[:2] for values in (answer, here))
    if there != wanted:
        return failed(
            "node: Python",
            f"{node} has {answer['python']}, this machine {here['python']}",
            f"Make the environment with {'.'.join(wanted)}.",
        )
    return ok("node: Python", f"{answer['python']} ({answer['executable']})")


def _code(answer: Mapping[str, Any], here: Mapping[str, Any], node: str) -> Finding:
    there = answer["domain"]
    if "error" in there:
        return failed(
            "node: code", f"{node} cannot import perturbridge_dagster: {there['error']}", "Install it into the environment (docs/slurm.md)."
        )
    if there["found"]["code"] != here["domain"].get("found", {}).get("code"):
        mine = here["domain"].get("found", {}).get("folder", "this machine's")
        return failed(
            "node: code",
            f"{there['found']['folder']} on {node} is another version than {mine}",
            "Install this checkout into the environment again; until then jobs would compute with other code than they are recorded with.",
        )
    return ok("node: code", f"{there['found']['folder']} on {node} is this machine's")


def _packages(answer: Mapping[str, Any], here: Mapping[str, Any], node: str) -> Finding:
    there, wanted = answer["packages"].get("found", {}), here["packages"]["found"]
    absent = [name for name in probe.PACKAGES if not there.get(name)]
    if absent:
        return failed("node: packages", f"{node} lacks {', '.join(absent)}", "Install perturbridge-dagster with its dependencies there.")
    other = [f"{name} {there[name]} (here {wanted[name]})" for name in probe.PACKAGES if there[name] != wanted[name]]
    if other:
        said = f"{node} has {', '.join(other)}"
        return warning(
            "node: packages", said, "Install the same versions: uv pip freeze here, uv pip sync there. Others may give other last digits."
        )
    return ok("node: packages", ", ".join(f"{name} {version}" for name, version in there.items()))


def _r(answer: Mapping[str, Any], here: Mapping[str, Any], node: str) -> Finding:
    said = {
        where: ", ".join(f"{name} {version}" for name, version in values["r"].get("found", {}).items())
        for where, values in (("there", answer), ("here", here))
    }
    for where, values in ((node, answer), ("this machine", here)):
        if "error" in values["r"]:
            return failed("node: R", f"{where}: {values['r']['error']}", "activate.sh is the place for module load R.")
    if said["there"] != said["here"]:
        return failed(
            "node: R",
            f"{node} has {said['there']}; this machine, which names them in what it asks for, {said['here']}",
            "Install the same versions on both: a node refuses effects that are asked for with others.",
        )
    return ok("node: R", said["there"])
