"""Ensuring requests in real Dagster runs: small requests, runs in this process and in others, and payloads that can be held.

Training corpora are the task of most requests: a payload makes one of small effects in milliseconds, and it needs no R.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from perturbridge_dagster.payloads.requests import Input, Outcome, Request
from perturbridge_dagster.stages import STAGES
from resources.compute import Compute

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE = 60

Corpus = Callable[..., Request]


# ---- requests ----------------------------------------------------------------------------------------------------------------


def corpus_request(folder: Path, name: str, strata: Path) -> Request:
    """A request for a corpus of some effects; the name tells it from others of the same effects."""
    arguments = {"corpus": "all", "name": name, "datasets": ["sciplex"], "seed": 13, "left_out": [], "unaccepted_inputs": []}
    code = STAGES["training_corpus"].code_version
    return Request("training_corpus", arguments, {"sciplex/CVCL_0023": Input(str(strata), "c1")}, code, str(folder / "corpora" / name))


def stalled_effects(folder: Path, effects: Path) -> Path:
    """Effects that are never read to their end, since one of the files is a pipe that nobody writes to; that pipe."""
    folder.mkdir()
    for file in effects.glob("*.parquet"):
        (folder / file.name).symlink_to(file)
    os.mkfifo(folder / "info.json")
    return folder / "info.json"


@dataclass
class Held:
    """A reader of a pipe who waits for what is written to it."""

    pipe: Path
    end: int | None

    def let_go(self, effects: Path) -> None:
        """Let who reads a stalled stratum go on with the real file."""
        assert self.end is not None
        self.pipe.unlink()
        self.pipe.symlink_to(effects / self.pipe.name)
        os.write(self.end, (effects / self.pipe.name).read_bytes())
        self.close()

    def close(self) -> None:
        if self.end is not None:
            os.close(self.end)
        self.end = None


@contextmanager
def being_read(pipe: Path) -> Iterator[Held]:
    """Wait until somebody reads a pipe, and keep him waiting while the block runs."""

    def opened() -> list[int]:
        try:
            return [os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError:  # nobody reads it yet
            return []

    [end] = within_deadline(f"reading of {pipe}", opened)
    held = Held(pipe, end)
    try:
        yield held
    finally:
        held.close()


# ---- runs --------------------------------------------------------------------------------------------------------------------


def within_deadline(what: str, look: Callable[[], Any]) -> Any:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + DEADLINE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE} s"
        time.sleep(0.05)
    return found


@dataclass
class Ensured:
    """What a run of one asset came to."""

    outcomes: list[Outcome]
    run_id: str
    log: list[str]
    error: str = ""

    @property
    def statuses(self) -> list[str]:
        return [outcome.status for outcome in self.outcomes]

    @property
    def payload_log(self) -> list[str]:
        """What the payloads of the run said at the end of each request."""
        return [line for line in self.log if line.split(":")[0].replace(" of ", "").isdigit()]


def ensure(home: Path, *requests: Request, task: str = "training_corpus", leaves: int = 0) -> Ensured:
    """Ensure requests in an asset of a run of its own; no request files may be left behind but those of jobs that go on."""
    outcomes: list[Outcome] = []
    left = set(home.glob("requests/*"))

    @dg.asset
    def asset(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult:
        outcomes.extend(compute.ensure(context, task, requests))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        try:
            run = dg.materialize([asset], resources={"compute": Compute(home=str(home))}, instance=instance, raise_on_error=False)
        finally:
            assert len({*home.glob("requests/*.json")} - left) == leaves
        failed = [event for event in run.all_node_events if event.is_step_failure]
        error = failed[0].step_failure_data.error if failed else None
        if error is not None and error.cls_name != "Failure":
            error = error.cause or error
        if error is not None and error.cls_name == "ValueError":
            raise ValueError(error.message)
        log = [entry.user_message for entry in instance.all_logs(run.run_id)]
        return Ensured(outcomes, run.run_id, log, error.message if error else "")


ASSET = """
import json
from pathlib import Path

import dagster as dg

from perturbridge_dagster.payloads.requests import Request
from resources.compute import Compute

HERE = Path(__file__).parent


@dg.asset
def endless(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult:
    requests = [Request.from_dict(values) for values in json.loads((HERE / "asked.json").read_text())]
    compute.ensure(context, requests[0].task, requests)
    return dg.MaterializeResult()


defs = dg.Definitions([endless], resources={"compute": Compute(home=str(HERE))}, executor=dg.in_process_executor)
"""


def start_run(home: Path, requests: Sequence[Request]) -> subprocess.Popen[bytes]:
    """Start a Dagster run in a process of its own, recorded in an instance below the home."""
    (home / "instance").mkdir(exist_ok=True)
    (home / "instance" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    (home / "assets_of_this_test.py").write_text(ASSET)
    (home / "asked.json").write_text(json.dumps([request.to_dict() for request in requests]))
    return subprocess.Popen(
        [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "endless", "-f", str(home / "assets_of_this_test.py")],
        cwd=CHECKOUT,
        env={**os.environ, "DAGSTER_HOME": str(home / "instance")},
    )


@contextmanager
def instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance that records a home's runs."""
    with dg.DagsterInstance.from_config(str(home / "instance")) as instance:
        yield instance


def terminate(home: Path, run: subprocess.Popen[bytes]) -> dg.DagsterRun:
    """Terminate the last run as the UI does; the run, once its process has ended."""
    with instance_of(home) as instance:
        instance.report_run_canceling(instance.get_runs(limit=1)[0])
        run.send_signal(signal.SIGINT)
        run.wait(DEADLINE)
        return instance.get_runs(limit=1)[0]
