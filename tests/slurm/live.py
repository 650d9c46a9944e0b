"""Dagster's web server and daemon on a home, as ``script/server`` starts them, asked by GraphQL as the UI asks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import dagster as dg

from tests.slurm import trial
from tests.slurm.cluster import CHECKOUT, within

START_SECONDS = 120

_LAUNCH = """mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_TERMINATE = """mutation Terminate($id: String!, $policy: TerminateRunPolicy) { terminateRun(runId: $id, terminatePolicy: $policy) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""


class Live:
    """A web server and a daemon on a home; the code location is ``trial.py``."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.home, self.instance = home, instance
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
        self._workspace = home / "workspace.yaml"
        self._workspace.write_text(
            "load_from:\n  - python_module:\n      module_name: tests.slurm.trial\n      location_name: trials\n"
            f"      working_directory: {CHECKOUT}\n"
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        """Start the web server, the daemon, or both."""
        commands = {
            "webserver": ["dagster-webserver", "-h", "127.0.0.1", "-p", str(self._port)],
            "daemon": ["dagster-daemon", "run"],
        }
        environment = {**os.environ, "DAGSTER_HOME": str(self.home / "dagster"), "PERTURBRIDGE_HOME": str(self.home)}
        for name in names:
            program, *options = commands[name]
            with (self.home / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [str(Path(sys.executable).parent / program), *options, "-w", str(self._workspace)],
                    cwd=CHECKOUT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if name == "webserver":
                within(START_SECONDS, "an answer of the web server", self._answers)

    def stop(self, name: str) -> None:
        """Stop the web server or the daemon, as Ctrl-C does."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end(self) -> None:
        """Stop both, with all they have started."""
        groups = [process.pid for process in self._processes.values()]
        for name in list(self._processes):
            self.stop(name)
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _answers(self) -> bool:
        assert self._processes["webserver"].poll() is None, (self.home / "webserver.log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/server_info", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = json.load(answer)
        assert "errors" not in data, data["errors"]
        [said] = data["data"].values()
        return dict(said)

    def launch(self, key: str) -> str:
        """Launch a run of a partition, as the launchpad does; its id."""
        selector = {"repositoryLocationName": "trials", "repositoryName": "__repository__", "jobName": trial.JOB}
        tags = [{"key": "dagster/partition", "value": key}]
        said = self._ask(_LAUNCH, {"params": {"selector": selector, "mode": "default", "executionMetadata": {"tags": tags}}})
        assert said["__typename"] == "LaunchRunSuccess", said
        return str(said["run"]["runId"])

    def terminate(self, run_id: str, *, by_force: bool = False) -> None:
        """Terminate a run, as the UI does."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if by_force else "SAFE_TERMINATE"
        said = self._ask(_TERMINATE, {"id": run_id, "policy": policy})
        assert said["__typename"] == "TerminateRunSuccess", said

    def status(self, run_id: str) -> str:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run.status.value

    def ended(self, run_id: str, seconds: float = 180) -> str:
        """Status of a run that has ended."""
        return within(
            seconds, f"the end of run {run_id}", lambda: self.status(run_id) in ("SUCCESS", "FAILURE", "CANCELED") and self.status(run_id)
        )

    def worker(self, run_id: str) -> int:
        """Process of a run, as its log tells it."""
        said = (re.search(r"Executing steps in process \(pid: (\d+)\)", entry.user_message) for entry in self.instance.all_logs(run_id))
        return next(int(found[1]) for found in said if found)
