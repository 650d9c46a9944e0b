"""The orphan sweep against a stand-in for SLURM; tests/slurm/test_client.py has it on a cluster, with runs that are killed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from assets.materialize import prepare_home
from assets.orphans import orphaned_jobs
from resources.slurm import ledger, orphans
from resources.slurm.scheduler import Unreachable
from resources.slurm.settings import slurm_settings
from resources.store import Store
from tests.resources.ensuring import Corpus, ensure
from tests.resources.slurm.conftest import Double

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture
def ended_unseen(double: Double, corpus: Corpus) -> ledger.Job:
    """A job that ended while nobody watched, as its ledger entry is then."""
    double.fail(ends=[{"state": "FAILED", "exit": "3:0", "begun": 1, "log": "on fire\n"}])
    ensure(double.home, corpus("one"))
    [job] = double.jobs
    unseen = replace(job, state="SUBMITTED", failure=None, ended=None, log="")
    ledger.record(double.home, unseen)
    return unseen


def sweep(double: Double, **options: bool) -> list[orphans.Swept]:
    with dg.DagsterInstance.ephemeral() as instance:
        return orphans.sweep(double.home, slurm_settings(double.home), instance, **options)


def test_a_job_that_ended_unseen_is_closed(double: Double, ended_unseen: ledger.Job):
    assert [one.did for one in sweep(double, dry_run=True)] == ["closed"]
    assert not ledger.job(double.home, ended_unseen.job_id).has_ended, "only said"
    assert [one.did for one in sweep(double)] == ["closed"]
    closed = ledger.job(double.home, ended_unseen.job_id)
    assert (closed.state, closed.failure, closed.log) == ("FAILED", "program_error", "on fire")
    assert sweep(double) == []


def test_the_folder_of_a_job_that_failed_is_kept_for_a_while(double: Double, ended_unseen: ledger.Job):
    sweep(double)
    folder = double.folder / "runs"
    assert len(list(folder.iterdir())) == 1
    long_ago = (datetime.now(UTC) - timedelta(days=orphans.KEPT_DAYS + 1)).isoformat(timespec="seconds")
    ledger.record(double.home, replace(ledger.job(double.home, ended_unseen.job_id), ended=long_ago))
    sweep(double)
    assert list(folder.iterdir()) == []


def test_a_run_that_is_submitting_is_not_disturbed(double: Double, ended_unseen: ledger.Job):
    with ledger.submission_lock(double.home):
        assert sweep(double) == []
    assert not ledger.job(double.home, ended_unseen.job_id).has_ended


def test_silence_is_no_end(double: Double, ended_unseen: ledger.Job):
    double.fail(controller="away")
    with pytest.raises(Unreachable, match="Unable to contact slurm controller"):
        sweep(double)
    assert not ledger.job(double.home, ended_unseen.job_id).has_ended


def test_the_sensor_says_what_it_did(double: Double, ended_unseen: ledger.Job):
    def said() -> str:
        with dg.DagsterInstance.ephemeral() as instance:
            skipped = orphaned_jobs(dg.build_sensor_context(instance=instance, resources={"store": Store(home=str(double.home))}))
        assert isinstance(skipped, dg.SkipReason)
        return skipped.skip_message or ""

    double.fail(ssh="away")
    assert said().startswith("SLURM does not answer: ")
    double.fail()
    assert said() == "job 1 closed: had ended: FAILED"
    assert said() == "Every job of this home is watched, or has ended."
    (double.home / "settings.toml").write_text("")
    assert said() == "Payloads run on this machine: settings.toml names no SLURM."


def test_the_command_line_says_it_too(
    double: Double, ended_unseen: ledger.Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(double.home))
    prepare_home(double.home)
    assert orphans.main(["--dry-run"]) == 0
    assert "SLURM job 1 would be closed: had ended: FAILED" in capsys.readouterr().out
    assert orphans.main([]) == 0
    assert "SLURM job 1 closed" in capsys.readouterr().out
    assert orphans.main([]) == 0
    assert "No orphans" in capsys.readouterr().out
    double.fail(ssh="away")
    assert orphans.main([]) == 1
    assert "Connection refused" in capsys.readouterr().err
