"""The runner as a process of its own, as whoever starts payloads has it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param

from perturbridge_dagster.payloads.handover import payload_environment, write_requests
from perturbridge_dagster.payloads.requests import Input, Request, verified
from perturbridge_dagster.stages import STAGES


def requests_in(folder: Path) -> list[Request]:
    """Requests for records of two folders of source files."""
    found = []
    for name in ("one", "two"):
        native = folder / name
        native.mkdir()
        for file in ("data.parquet", "metadata.csv", "chemistry.json"):
            (native / file).write_text(file)
        arguments = {"dataset": "vcpi_0001", "folder": str(native)}
        inputs = {"folder": Input(str(native), "c1")}
        found.append(Request("source_files", arguments, inputs, STAGES["source_files"].code_version, str(folder / "sources" / name)))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that cannot be written is had by /dev/full")
def test_a_payload_goes_on_and_ends_well_where_its_messages_cannot_be_written(tmp_path: Path):
    requests = requests_in(tmp_path)
    file = write_requests(tmp_path, "run 1", requests)
    pipes = {DAGSTER_PIPES_CONTEXT_ENV_VAR: {"data": {}}, DAGSTER_PIPES_MESSAGES_ENV_VAR: {"path": "/dev/full"}}
    done = subprocess.run(
        [sys.executable, "-m", "perturbridge_dagster.payloads.run", str(file)],
        env={**os.environ, **payload_environment(tmp_path), **{name: encode_param(value) for name, value in pipes.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(verified(request) for request in requests)
    assert "a message to Dagster was lost: [Errno 28]" in done.stderr, "the file could not be written"
