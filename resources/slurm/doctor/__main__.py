"""The doctor's command: ``python -m resources.slurm.doctor``; exit status 1 where a check failed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import yaml

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.home import default_home
from resources.slurm.doctor import login as login_node
from resources.slurm.doctor import machine, node
from resources.slurm.doctor.finding import Finding, not_looked_at, ok, warning
from resources.slurm.settings import SlurmSettings, backend, slurm_settings
from resources.store import SETTINGS

ON_CLUSTER = ("SLURM commands", "controller", "accounting", "partition", "account and qos", "sessions", "shared folder", "shared home")


def findings(root: Path, settings: SlurmSettings, *, wait_seconds: float, job: bool = True) -> Iterator[Finding]:
    """Look at everything, cheapest first.

    Parameters
    ----------
    root
        The platform's home.
    settings
        Its settings.
    wait_seconds
        How long the job on a compute node may wait in the queue.
    job
        Whether to submit it.
    """
    dagster = Path(os.environ.get("DAGSTER_HOME") or root / "dagster")
    yield machine.home_file_system(root)
    yield machine.dagster_home(dagster)
    yield machine.free_disk("disk of the home", root)
    yield machine.free_disk("disk of jobs", settings.folder)
    yield (key := machine.key(settings))
    if key.verdict != "ok":
        yield from not_looked_at(("host key", "login", *ON_CLUSTER, "environment", *node.CHECKS), "there is no key to log in with")
        return
    with login_node.Login(settings) as login:
        connected = login_node.can_log_in(login)
        yield from connected
        if any(finding.verdict == "FAILED" for finding in connected):
            yield from not_looked_at((*ON_CLUSTER, "environment", *node.CHECKS), "cannot log in")
            return
        yield (programs := login_node.programs(login))
        if programs.verdict == "FAILED":
            yield from not_looked_at((*ON_CLUSTER[1:], "environment", *node.CHECKS), "commands are absent")
            return
        yield login_node.controller(login)
        yield login_node.accounting(login)
        yield from login_node.partition(login)
        yield login_node.account(login)
        yield login_node.sessions(login, concurrent_runs(dagster))
        with node.bench(root, settings.folder) as bench:
            shared = node.shared_with_login(login, bench)
            yield from shared
            if any(finding.verdict == "FAILED" for finding in shared):
                yield from not_looked_at(("environment", *node.CHECKS), "folders are not shared")
            elif not job:
                yield from not_looked_at(("environment", *node.CHECKS), "--no-job")
            else:
                yield from node.look_at_node(login, bench, wait_seconds=wait_seconds)


def concurrent_runs(dagster: Path) -> int:
    """How many runs a DAGSTER_HOME lets go at once; 10 is Dagster's default."""
    file = dagster / "dagster.yaml"
    text = (yaml.safe_load(file.read_text()) if file.is_file() else None) or {}
    return int(((text.get("concurrency") or {}).get("runs") or {}).get("max_concurrent_runs", 10))


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m resources.slurm.doctor", description="Look whether payloads can run on the SLURM cluster."
    )
    parser.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="how long the job on a compute node may wait (300)")
    parser.add_argument("--no-job", action="store_true", help="leave out what only a job on a compute node can tell")
    options = parser.parse_args(arguments)
    root = default_home()
    try:
        chosen, settings = backend(root), slurm_settings(root)
    except InputError as error:
        print(Finding("settings", "FAILED", str(error)).line())
        return 1
    if chosen == "slurm":
        first = ok("settings", f"{root / SETTINGS}: payloads run on SLURM")
    else:
        first = warning("settings", f"the backend is {chosen}", 'Set backend = "slurm" under [compute] to use what follows.')
    verdicts = []
    for finding in chain([first], findings(root, settings, wait_seconds=options.wait, job=not options.no_job)):
        print(finding.line(), flush=True)
        verdicts.append(finding.verdict)
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)))
    return int("FAILED" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
