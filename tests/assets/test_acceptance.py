from __future__ import annotations

import json

import pandas as pd
import pytest

from assets.batches import BatchInputs, _chosen
from assets.checks import evaluations
from assets.making import Inputs
from perturbridge_dagster.errors import UnacceptedInputError
from perturbridge_dagster.written import read_stamp
from resources.store import ACCEPTED

pytestmark = pytest.mark.slow

HARMONIZED, EFFECTS = ("vcpi_0001",), ("vcpi_0001", "CVCL_0006")


def test_a_run_started_on_its_own_refuses_an_unaccepted_input_and_names_the_check(small_home):
    home = small_home("vcpi_0001")
    home.materialize("source_files", HARMONIZED)
    home.materialize("harmonized_samples", HARMONIZED)
    output = home.store.current("harmonized_samples", HARMONIZED)
    accepted = json.loads((output.folder / ACCEPTED).read_text())
    accepted["dose_time"]["passed"] = False
    (output.folder / ACCEPTED).write_text(json.dumps(accepted))

    refused = home.run("condition_effects", EFFECTS)
    assert not refused.success
    assert "harmonized_samples vcpi_0001 is not accepted: blocking check dose_time (failed)" in home.failure(refused)
    assert home.store.current("condition_effects", EFFECTS) is None
    assert home.planner().state("condition_effects", EFFECTS)[0] == "waiting"

    assert home.planner(allow_unaccepted=True).state("condition_effects", EFFECTS) == ("missing", "")
    every = BatchInputs(stage="condition_effects", allow_unaccepted=True)
    assert _chosen(home.planner(allow_unaccepted=True), every) == [EFFECTS], "a batch that names no partition has it"
    assert _chosen(home.planner(), every) == []
    allowed = home.run("condition_effects", EFFECTS, Inputs(allow_unaccepted=True))
    assert allowed.success
    tainted = home.store.current("condition_effects", EFFECTS)
    assert read_stamp(tainted.folder / "contrasts.parquet").unaccepted_inputs == ("harmonized_samples vcpi_0001: dose_time (failed)",)

    twice = home.store.current("condition_effects", EFFECTS)
    home.store.record_checks(twice, {"values": {"passed": True, "failed": [], "warned": []}})
    with pytest.raises(UnacceptedInputError):
        home.planner().plan("training_corpus", ("all",))
    [corpus] = home.planner(allow_unaccepted=True).plan("training_corpus", ("all",))
    assert corpus.request.arguments["unaccepted_inputs"] == ["harmonized_samples vcpi_0001: dose_time (failed)"], "taints are handed on"

    accepted["dose_time"]["passed"] = True
    (output.folder / ACCEPTED).write_text(json.dumps(accepted))
    assert home.planner().state("condition_effects", EFFECTS)[0] == "stale", "a tainted output is never taken for a clean one"


def test_data_that_break_the_contract_are_kept_shown_and_go_no_further(small_home):
    home = small_home("vcpi_0001")
    native = home.path / "native" / "vcpi_0001"
    for record in (chemistry := json.loads((native / "chemistry.json").read_text())):
        record["inchi_key"] = record["smiles"] = None
    (native / "chemistry.json").write_text(json.dumps(chemistry))
    metadata = pd.read_csv(native / "metadata.csv", dtype=str)
    metadata["user_compound_id"] = metadata["user_compound_id"].where(
        metadata["is_control"] == "true", "LIMS-" + metadata["compound"].str[:8]
    )
    metadata.to_csv(native / "metadata.csv", index=False)
    home.run("source_files", HARMONIZED)

    run = home.run("harmonized_samples", HARMONIZED)
    assert not run.success, "a blocking check failed"
    output = home.store.current("harmonized_samples", HARMONIZED)
    assert output.unaccepted_checks() == ["chemistry"]
    [shown] = [event for event in run.get_asset_check_evaluations() if event.check_name == "chemistry"]
    assert not shown.passed
    assert "failed_rules" in shown.metadata
    with pytest.raises(UnacceptedInputError, match="chemistry"):
        home.planner().plan("replicate_effects", EFFECTS)
    verdicts = {row.check: row for row in evaluations(home.store) if row.stage == "harmonized_samples"}
    assert verdicts["chemistry"].stops
    assert not verdicts["schema"].stops


def test_failing_rows_are_shown_and_all_of_them_kept(small_home):
    home = small_home("vcpi_0001")
    native = home.path / "native" / "vcpi_0001"
    metadata = pd.read_csv(native / "metadata.csv", dtype=str)
    zero = metadata.index[(metadata["is_control"] == "false")][:30]
    metadata.loc[zero, "compound_concentration"] = "0"
    metadata.to_csv(native / "metadata.csv", index=False)
    home.run("source_files", HARMONIZED)
    run = home.run("harmonized_samples", HARMONIZED)
    [shown] = [event for event in run.get_asset_check_evaluations() if event.check_name == "dose_time"]
    assert not shown.passed
    rows = shown.metadata["failing_rows"].records
    kept = pd.read_parquet(shown.metadata["all_failing_rows"].value)
    assert 20 == len(rows) < len(kept)
    assert set(kept["rule"]) == {"treated samples have a positive dose"}
    assert kept["pert_dose_uM"].eq(0).all()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "data.parquet").unlink(), "data.parquet"),
        (lambda folder: (folder / "data.parquet").write_bytes((folder / "data.parquet").read_bytes()[:1000]), "data.parquet"),
    ],
    ids=["missing", "truncated"],
)
def test_input_that_cannot_be_read_is_told_and_nothing_is_half_written(small_home, damage, words):
    home = small_home("vcpi_0001")
    damage(home.path / "native" / "vcpi_0001")
    results = [home.run(stage, HARMONIZED) for stage in ("source_files", "harmonized_samples")]
    failure = next(home.failure(result) for result in results if not result.success)
    assert "vcpi_0001" in failure
    assert words in failure
    assert home.store.current("harmonized_samples", HARMONIZED) is None
    assert not list(home.path.rglob("*.partial"))
