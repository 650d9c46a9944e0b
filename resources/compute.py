"""The compute seam: requests in, outcomes out, wherever they run.

An asset calls ``compute.ensure(context, task, requests)`` and gets one outcome a request. Verified outputs are adopted; only what
is missing is computed. Backends differ in where the payload runs, never in what it is: ``local`` runs it as a subprocess under Dagster
Pipes, so that terminating the run ends it; ``slurm`` as jobs (``resources/slurm``). Light tasks run in the Dagster process itself.
Belongs here: choosing a backend, and the local one. Does not belong here: what a request is (``perturbridge_dagster/payloads``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError  # exported nowhere else, and not a DagsterError

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.handover import died_of, forget_requests, payload_environment, write_requests
from perturbridge_dagster.payloads.requests import Outcome, Request, execute, failure_of, record_failure, verified
from perturbridge_dagster.stages import STAGES
from resources.progress import shown
from resources.slurm.settings import backend, slurm_settings


class Compute(dg.ConfigurableResource):  # type: ignore[type-arg]  # the resource yields itself
    """Runs tasks.

    Attributes
    ----------
    home
        The platform's home; request files lie below it while a payload runs.
    backend
        Where payloads run; unless given, where ``settings.toml`` of the home says.
    """

    home: str
    backend: Literal["configured", "local", "slurm"] = "configured"

    def ensure(self, context: dg.AssetExecutionContext | dg.OpExecutionContext, task: str, requests: Sequence[Request]) -> list[Outcome]:
        """Have every request's output on disk, computing what is missing.

        Parameters
        ----------
        context
            Context of the asset or op, for logs and for ending the payload with the run.
        task
            Task that all requests ask for.
        requests
            What is needed. Equal requests are computed once.

        Returns
        -------
        One outcome a request, in their order. A failed request does not stop the others. The request that a payload died of is
        recorded as failed; nothing is when a user ended the run.

        Raises
        ------
        ValueError
            If a request asks for another task.
        dagster.Failure
            If a payload ends for reasons that are no request's fault, SLURM jobs cannot be had, or the settings of SLURM are wrong.
        """
        wrong = {request.task for request in requests} - {task}
        if wrong:
            raise ValueError(f"asked for task {task}, got requests of {', '.join(sorted(wrong))}")
        adopted = {request.digest: done for request in requests if (done := verified(request)) is not None}
        missing = list({request.digest: request for request in requests if request.digest not in adopted}.values())
        if missing:
            context.log.info(f"{task}: {len(missing)} to compute, {len(adopted)} there already")
            if STAGES[task].light:
                from perturbridge_dagster.payloads.tasks import TASKS

                for request in missing:
                    execute(request, TASKS[task])
            else:
                self._run_payload(context.op_execution_context if isinstance(context, dg.AssetExecutionContext) else context, missing)
        return [self._outcome(request, adopted.get(request.digest)) for request in requests]

    def _outcome(self, request: Request, adopted: Mapping[str, Any] | None) -> Outcome:
        """Read an outcome from disk: the only proof of success is a verified output."""
        done = verified(request) if adopted is None else adopted
        if done is None:
            return Outcome(request, "failed", error=failure_of(request) or "not begun: the payload died of an earlier request")
        request.failure.unlink(missing_ok=True)  # of an equal request that failed elsewhere
        return Outcome(request, "computed" if adopted is None else "adopted", done)

    def _run_payload(self, context: dg.OpExecutionContext, requests: Sequence[Request]) -> None:
        """Run requests where payloads run."""
        home = Path(self.home)
        try:
            chosen = backend(home) if self.backend == "configured" else self.backend
            settings = slurm_settings(home) if chosen == "slurm" else None
        except InputError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        if settings is None:
            _run_locally(context, home, requests)
        else:
            from resources.slurm.backend import SlurmBackend  # only here: dagster-slurm takes a second to import

            SlurmBackend(home, settings).run(context, requests)


def _run_locally(context: dg.OpExecutionContext, home: Path, requests: Sequence[Request]) -> None:
    """Run requests in one subprocess.

    Raises
    ------
    dagster.Failure
        If it ended while it was making none of them, and some have no outcome.
    """
    file = write_requests(home, context.run_id, requests)
    try:
        with shown(context, file):
            dg.PipesSubprocessClient().run(
                context=context,
                command=[sys.executable, "-m", "perturbridge_dagster.payloads.run", str(file)],
                env=payload_environment(home),
            )
    except DagsterPipesExecutionError as error:
        context.log.error(f"payload ended early: {error}")
        left = [request for request in requests if verified(request) is None and failure_of(request) is None]
        culprit = died_of(file)  # the others were not begun
        for request in left:
            if request.digest == culprit:
                record_failure(request, f"the payload died of this ({error}); the log of run {context.run_id} says more")
        if left and culprit is None:  # what Python could not import, say: no request failed, and none is to be left out for it
            raise dg.Failure(
                f"The payload ended before it began to make anything, or between two requests ({error}). {len(left)} of {len(requests)} "
                f"requests have no outcome; the log of run {context.run_id} says more. Rematerialize once the cause is mended.",
                allow_retries=False,
            ) from error
    finally:
        forget_requests(file)
