"""The SLURM backend against a stand-in for ssh and SLURM: verdicts where it lies or is silent, and what is tried again with what.

Jobs that are to be made run the real payload; jobs that are only to end do so as they are told.
"""

import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg
import pytest
from dagster_slurm import SlurmPipesClient

from perturbridge_dagster.payloads.requests import failure_of, verified
from resources.compute import Compute
from resources.slurm import backend, client, ledger, scheduler
from tests.resources.ensuring import Corpus, ensure, within_deadline
from tests.resources.slurm.conftest import Double

pytestmark = [
    pytest.mark.slow,
    # dagster-slurm leaves the pipes of its ssh processes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

OUT_OF_MEMORY = {"state": "FAILED", "exit": "0:9", "rss_kib": 16_000_000, "begun": 1, "log": "Killed\n"}
TIMEOUT = {"state": "TIMEOUT", "begun": 1}
PROGRAM_ERROR = {"state": "FAILED", "exit": "3:0", "begun": 1, "log": "Segmentation fault\n"}


def asked(double: Double, option: str) -> list[str]:
    """What sbatch was asked for in an option, job by job."""
    return [job["asked"][option] for job in double.submitted]


@contextmanager
def lifted_after(seconds: float, double: Double) -> Iterator[None]:
    """Let all faults end after a while."""
    timer = threading.Timer(seconds, double.fail)
    timer.start()
    yield
    timer.join()


# ---- what dagster-slurm is relied on for ---------------------------------------------------------------------------------------


def test_the_methods_that_are_replaced_are_there_and_are_called_so():
    own = [name for name, value in vars(client.JobClient).items() if inspect.isfunction(value) and hasattr(SlurmPipesClient, name)]
    assert len(own) >= 12
    for name in own:
        theirs = inspect.signature(getattr(SlurmPipesClient, name)).parameters
        ours = inspect.signature(getattr(client.JobClient, name)).parameters
        if name != "__init__" and not any(value.kind is inspect.Parameter.VAR_POSITIONAL for value in ours.values()):
            assert list(ours) == list(theirs), name


# ---- verdicts ------------------------------------------------------------------------------------------------------------------


def test_requests_share_a_job_whose_figures_are_kept(double: Double, corpus: Corpus):
    run = ensure(double.home, corpus("one"), corpus("two"), corpus("absent", double.home / "nowhere"))
    assert run.statuses == ["computed", "computed", "failed"]
    assert "no complete effects lie here" in (run.outcomes[2].error or "")
    [job] = double.jobs
    assert (job.state, job.failure, job.elapsed_seconds, job.cpu_seconds, job.node) == ("COMPLETED", None, 40.0, 20.0, "node1")
    assert ledger.figures_of(double.home, run.outcomes[0].done)["slurm_job"] == 1
    assert not list((double.folder / "runs").iterdir())
    [submitted] = double.submitted
    assert submitted["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    assert run.payload_log[0] == "1 of 3: training_corpus all one computed"


@pytest.mark.parametrize("sacct", ["away", "FAILED", "RUNNING"])
def test_a_job_that_made_everything_is_a_success_whatever_accounting_says(
    sacct: str, double: Double, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "LATE_SECONDS", 0.5)
    double.fail(sacct=sacct)
    assert ensure(double.home, corpus("one")).statuses == ["computed"]
    [job] = double.jobs
    assert (job.state, job.failure) == ("COMPLETED", None), "the controller knows"


@pytest.mark.parametrize("sacct", ["away", "COMPLETED"])
def test_a_job_that_failed_is_a_failure_whatever_accounting_says(sacct: str, double: Double, corpus: Corpus):
    double.fail(sacct=sacct, ends=[PROGRAM_ERROR])
    run = ensure(double.home, corpus("one"))
    assert run.statuses == ["failed"]
    error = run.outcomes[0].error or ""
    assert error.startswith("program error: SLURM job 1 on node1. It ")
    assert "ended with status 3" in error
    assert "    Segmentation fault" in error
    assert verified(corpus("one")) is None


def test_a_job_that_nobody_knows_any_more_is_judged_by_what_it_made(double: Double, corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "_SURE_SECONDS", 0.5)
    double.fail(sacct="away", forgets=True)
    assert ensure(double.home, corpus("one")).statuses == ["computed"]
    assert double.jobs[0].state == "UNKNOWN"
    double.fail(sacct="away", forgets=True, ends=[{"state": "FAILED", "begun": 1}] * backend.TRIES)
    run = ensure(double.home, corpus("two"))
    assert "unknown: SLURM job 4" in run.error
    assert failure_of(corpus("two")) is None, "it is not known to be the request's fault"


# ---- outages -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", ["ssh", "controller"])
def test_an_outage_is_waited_out_before_and_after_submission(away: str, double: Double, corpus: Corpus):
    double.fail(**{away: "away"})
    with lifted_after(2, double):
        run = ensure(double.home, corpus("one"))
    assert run.statuses == ["computed"]
    assert any("SLURM does not answer" in line for line in run.log)

    def cut() -> None:
        within_deadline("submission", lambda: len(double.submitted) == 2 and double.jobs[-1].job_id == 2)
        double.fail(**{away: "away"})
        time.sleep(4)
        double.fail()

    cutter = threading.Thread(target=cut)
    cutter.start()
    run = ensure(double.home, corpus("two"))
    cutter.join()
    assert run.statuses == ["computed"]
    assert any("SLURM answers again" in line for line in run.log)
    assert len(double.submitted) == 2


def test_a_job_that_was_lost_sight_of_goes_on_and_is_found_again(double: Double, corpus: Corpus):
    double.set(outage_seconds=1)

    def cut() -> None:
        within_deadline("submission", lambda: double.jobs)
        double.fail(ssh="away")

    cutter = threading.Thread(target=cut)
    cutter.start()
    run = ensure(double.home, corpus("one"), leaves=1)
    cutter.join()
    assert "SLURM job 1 is not cancelled" in run.error
    assert failure_of(corpus("one")) is None
    within_deadline("the end of the job", lambda: double.submitted[0]["state"] == "COMPLETED")
    double.fail()
    assert ensure(double.home, corpus("one")).statuses == ["adopted"]
    assert ensure(double.home, corpus("two")).statuses == ["computed"]


def test_a_submission_whose_answer_was_lost_is_not_made_twice(double: Double, corpus: Corpus):
    double.fail(answer_lost=True)
    run = ensure(double.home, corpus("one"))
    assert run.statuses == ["computed"]
    assert len(double.submitted) == 1


# ---- identity ------------------------------------------------------------------------------------------------------------------


def test_tags_of_a_run_never_name_the_job_to_take_over(double: Double, corpus: Corpus):
    ensure(double.home, corpus("one"))
    outcomes = []

    @dg.asset
    def asset(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult:
        outcomes.extend(compute.ensure(context, "training_corpus", [corpus("two")]))
        return dg.MaterializeResult()

    tags = {"dagster_slurm/job_id": "1", "dagster_slurm/run_dir": double.submitted[0]["directory"]}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([asset], resources={"compute": Compute(home=str(double.home))}, instance=instance, tags=tags)
    assert outcomes[0].done["slurm_job_id"] == "2"


def test_a_job_of_the_same_number_on_a_cluster_that_was_set_up_anew_is_not_taken_for_ours(double: Double, corpus: Corpus):
    ensure(double.home, corpus("other"))
    [old] = double.jobs
    ledger.record(double.home, replace(old, name="perturbridge-old", digests=(corpus("one").digest,), state="SUBMITTED", ended=None))
    assert ensure(double.home, corpus("one")).outcomes[0].done["slurm_job_id"] == "2"
    assert len(double.jobs) == 3, "the old one is closed and kept beside the new ones"


def test_an_op_without_an_asset_has_its_requests_made(double: Double, corpus: Corpus):
    outcomes = []

    @dg.op
    def together(context: dg.OpExecutionContext, compute: Compute) -> None:
        outcomes.extend(compute.ensure(context, "training_corpus", [corpus("one"), corpus("two")]))

    @dg.job(resource_defs={"compute": Compute(home=str(double.home))})
    def batch() -> None:
        together()

    assert batch.execute_in_process().success
    assert [outcome.status for outcome in outcomes] == ["computed", "computed"]
    assert double.jobs[0].digests == (corpus("one").digest, corpus("two").digest)


# ---- the ladder ----------------------------------------------------------------------------------------------------------------


def test_out_of_memory_is_tried_again_with_twice_as_much(double: Double, corpus: Corpus):
    double.fail(ends=[{**OUT_OF_MEMORY, "rss_kib": 10_000_000}])
    run = ensure(double.home, corpus("one"), corpus("two"))
    assert run.statuses == ["computed", "computed"]
    first, second = (int(text.removesuffix("M")) for text in asked(double, "mem"))
    assert abs(second - 2 * first) <= 1
    assert [job.failure for job in double.jobs] == ["out_of_memory", None]
    assert any("out of memory; trying again with" in line for line in run.log)


def test_out_of_memory_at_the_ceiling_fails_that_request_and_the_others_go_on(double: Double, corpus: Corpus):
    double.set(max_memory_gib=0.25)
    double.fail(ends=[{**OUT_OF_MEMORY, "rss_kib": 250_000}])
    run = ensure(double.home, corpus("one"), corpus("two"))
    assert run.statuses == ["failed", "computed"]
    error = run.outcomes[0].error or ""
    assert error.startswith("out of memory: SLURM job 1 on node1. It used 244 MiB of 256 MiB memory")
    assert "max_memory_gib of [slurm] allows no more than 0.25 GiB." in error
    assert "memory_gib of [needs] in settings.toml" in error
    assert asked(double, "mem") == ["256M", "256M"]
    assert ledger.failure_of_job(double.home, [corpus("one").digest])["failure_class"] == "out_of_memory"


def test_three_jobs_may_die_of_one_request(double: Double, corpus: Corpus):
    double.set(max_memory_gib=1000)
    double.fail(ends=[{**OUT_OF_MEMORY, "rss_kib": 900_000_000}] * backend.TRIES)
    run = ensure(double.home, corpus("one"))
    assert run.statuses == ["failed"]
    assert "Tried 3 times." in (run.outcomes[0].error or "")
    assert len(double.submitted) == 3


def test_a_time_limit_is_doubled_and_the_rest_goes_on(double: Double, corpus: Corpus):
    double.fail(ends=[TIMEOUT])
    assert ensure(double.home, corpus("one")).statuses == ["computed"]
    first, second = map(int, asked(double, "time"))
    assert second >= 2 * first - 1
    assert double.jobs[0].failure == "timeout"


def test_a_node_that_fails_is_tried_again_and_nobody_is_blamed(double: Double, corpus: Corpus):
    double.fail(ends=[{"state": "NODE_FAIL", "begun": 1}, {"state": "PREEMPTED", "begun": 1}])
    assert ensure(double.home, corpus("one")).statuses == ["computed"]
    assert len(set(asked(double, "mem"))) == 1
    double.fail(ends=[{"state": "NODE_FAIL", "begun": 1}] * backend.TRIES)
    run = ensure(double.home, corpus("two"))
    assert "node failure: SLURM job 6" in run.error
    assert "3 jobs in a row ended so." in run.error
    assert failure_of(corpus("two")) is None


def test_a_job_that_somebody_cancels_is_not_tried_again(double: Double, corpus: Corpus):
    double.fail(ends=[{"state": "CANCELLED", "begun": 1}])
    run = ensure(double.home, corpus("one"))
    assert "cancelled: SLURM job 1" in run.error
    assert "Somebody ended the job (scancel)" in run.error
    assert failure_of(corpus("one")) is None
    assert len(double.submitted) == 1


def test_a_program_error_is_not_tried_again(double: Double, corpus: Corpus):
    double.fail(ends=[PROGRAM_ERROR])
    run = ensure(double.home, corpus("one"), corpus("two"))
    assert run.statuses == ["failed", "computed"]
    assert double.submitted[1]["asked"]["job-name"] == ledger.job_name(double.home, "training_corpus", [corpus("two").digest])
    again = ensure(double.home, corpus("one"))
    assert again.statuses == ["computed"], "a run by hand tries again"


def test_what_never_began_is_no_requests_fault(double: Double, corpus: Corpus):
    double.fail(ends=[{"state": "FAILED", "exit": "127:0", "log": "python: not found\n"}])
    run = ensure(double.home, corpus("one"))
    assert "It ended before it began to make anything." in run.error
    assert "    python: not found" in run.error
    assert failure_of(corpus("one")) is None


def test_other_code_on_the_nodes_is_refused(double: Double, corpus: Corpus):
    newer = replace(corpus("one"), code_version="99")
    run = ensure(double.home, newer)
    assert "version 99 of training_corpus was asked for" in run.error
    assert verified(newer) is None


def test_settings_stand_in_place_of_the_estimate(double: Double, corpus: Corpus):
    double.set(partition="general", gpu_partition="gpu", account="lab", qos="high")
    with (double.home / "settings.toml").open("a") as settings:
        settings.write('[needs."training_corpus"]\nmemory_gib = 3\ncpus = 1\nminutes = 50\ngpus = 1\n')
    double.fail(ends=[PROGRAM_ERROR])
    ensure(double.home, corpus("one"))
    [options] = [job["asked"] for job in double.submitted]
    assert (options["mem"], options["cpus-per-task"], options["partition"], options["gres"]) == ("3072M", "1", "gpu", "gpu:1")
    assert (options["account"], options["qos"]) == ("lab", "high")
    assert 50 <= int(options["time"]) <= 60
    assert "no-requeue" in options
