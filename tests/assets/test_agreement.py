"""Agreement in the graph: what a change makes stale, what each output holds, and what of it the UI and the catalog show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import pytest

from assets.planning import COMPENDIUM, Planner, WaitingError
from perturbridge_dagster.agreement import compendium, summary
from perturbridge_dagster.agreement.gallery import PICTURES, redraw
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.tasks import TASKS
from perturbridge_dagster.registry import dataset_pairs, pair_key
from perturbridge_dagster.written import read_parquet, read_stamp
from resources.store import SETTINGS, Output

pytestmark = pytest.mark.slow

PAIR = ("l1000_phase1__sciplex",)
UNIT = ["pubchem_cid", "cell_type", "pert_time_h"]
STAGES = {"cross_dataset_agreement": PAIR, "replicate_agreement": ("sciplex",), "compendium_agreement": COMPENDIUM}


def output_of(home, stage: str) -> Output:
    output = home.store.current(stage, STAGES[stage])
    assert output is not None
    return output


def table(home, stage: str, name: str) -> pd.DataFrame:
    return read_parquet(output_of(home, stage).folder / f"{name}.parquet", stage)


def with_other_code(planner: Planner, monkeypatch, stratum: tuple[str, str]) -> None:
    """Make the effects of a dataset's cell context stale, as a change of their code would."""
    real_plan = planner.plan

    def plan(stage, key):
        parts = real_plan(stage, key)
        if (stage, key) != ("condition_effects", stratum):
            return parts
        return [replace(part, request=replace(part.request, code_version="the next")) for part in parts]

    monkeypatch.setattr(planner, "plan", plan)


@pytest.mark.parametrize(
    ("stratum", "waiting"),
    [
        # both have A549; only L1000 has MDA-MB-231, of which no pair is made here
        (("sciplex", "CVCL_0023"), {"l1000_phase1__sciplex"}),
        (("l1000_phase1", "CVCL_0035"), set()),
    ],
    ids=str,
)
def test_a_changed_stratum_touches_the_pairs_that_compare_it_and_no_others(demo_home, monkeypatch, stratum, waiting):
    planner = demo_home.planner()
    others = [set(planner.cell_contexts(dataset)) for dataset in demo_home.store.source_folders() if dataset != stratum[0]]
    assert any(stratum[1] in contexts for contexts in others) == bool(waiting)
    with_other_code(planner, monkeypatch, stratum)
    keys = planner.keys("cross_dataset_agreement")
    found = {key[0] for key in keys if planner.state("cross_dataset_agreement", key)[0] == "waiting"}
    assert found == waiting
    assert planner.state("replicate_agreement", (stratum[0],))[0] == "current"
    state, reason = planner.state("compendium_agreement", COMPENDIUM)
    assert (state, f"condition_effects {' '.join(stratum)} is stale" in reason) == ("waiting", True), "it is made from all effects"


def test_the_compendium_names_its_datasets_and_waits_for_all_pairs(demo_home, monkeypatch):
    planner = demo_home.planner()
    assert planner.keys("compendium_agreement") == [COMPENDIUM]
    [part] = planner.plan("compendium_agreement", COMPENDIUM)
    pairs = {f"{kind}:{key[0]}" for key in planner.keys("matched_conditions") for kind in ("matched", "scores")}
    assert pairs == {name for name in part.request.inputs if name.startswith(("matched:", "scores:"))}
    named = json.loads((output_of(demo_home, "compendium_agreement").folder / "datasets.json").read_text())
    assert set(named["datasets"]) == {"l1000_phase1", "vcpi_0001", "sciplex"}
    assert named["left_out"] == []
    monkeypatch.setattr(planner.store.__class__, "is_current", lambda *_: False)
    planner = demo_home.planner()
    with pytest.raises(WaitingError, match="made from other effects"):
        planner.plan("compendium_agreement", COMPENDIUM)


def test_a_pair_without_a_cell_context_in_common_is_not_asked_for_and_says_why(demo_home):
    planner = demo_home.planner()
    assert planner.keys("matched_conditions") == planner.keys("cross_dataset_agreement")
    asked = {key[0] for key in planner.keys("matched_conditions")}
    every = {pair_key(*names) for names in dataset_pairs(demo_home.store.source_folders())}
    [without] = every - asked
    assert set(without.split("__")) == {"sciplex", "vcpi_0001"}
    with pytest.raises(InputError, match="no cell context in common"):
        planner.plan("matched_conditions", (without,))


def test_a_home_of_one_dataset_has_no_compendium(home_in, tmp_path):
    home = home_in(tmp_path)
    home.use("sciplex")
    assert home.planner().keys("compendium_agreement") == []


def test_an_option_makes_the_stages_that_take_it_stale(demo_home, monkeypatch):
    from perturbridge_dagster.agreement.options import AgreementOptions

    def states(**chosen: object) -> dict[str, str]:
        monkeypatch.setattr(type(demo_home.store), "agreement_options", lambda _: AgreementOptions(**chosen))
        planner = demo_home.planner()
        stages = {"matched_conditions": PAIR} | STAGES
        return {stage: planner.state(stage, key)[0] for stage, key in stages.items()}

    assert set(states().values()) == {"current"}
    weighted = states(sample_weights=True)
    assert (weighted["matched_conditions"], weighted["replicate_agreement"]) == ("current", "current")
    assert (weighted["cross_dataset_agreement"], weighted["compendium_agreement"]) == ("stale", "waiting")
    assert states(compound="parent_key")["matched_conditions"] == "stale"


def test_salts_count_as_one_compound_in_every_stage(demo_home, tmp_path):
    """The sample has salts of doxorubicin, tubastatin A and mitoxantrone; doxorubicin's smallest id is in a third dataset."""
    planner = demo_home.planner()
    made: dict[str, Path] = {}

    def make(stage: str, key: tuple[str, ...], name: str) -> Path:
        [part] = planner.plan(stage, key)
        of_pair = {"matched": f"matched:{'__'.join(key)}"}
        inputs = {kind: replace(of, path=str(made.get(of_pair.get(kind, kind), of.path))) for kind, of in part.request.inputs.items()}
        folder = tmp_path / name.replace(":", "-")
        folder.mkdir()
        TASKS[stage](replace(part.request, arguments={**part.request.arguments, "compound": "parent_key"}, inputs=inputs), folder)
        made[name] = folder
        return folder

    for key in planner.keys("matched_conditions"):
        make("matched_conditions", key, f"matched:{key[0]}")
        make("cross_dataset_agreement", key, f"scores:{key[0]}")
    make("replicate_agreement", ("l1000_phase1",), "replicates:l1000_phase1")
    whole = make("compendium_agreement", COMPENDIUM, "compendium")

    doxorubicin, tubastatin, mitoxantrone = (31703, 443939), (49850262, 57336514), (51082, 5458171, 4212)
    before = set(table(demo_home, "cross_dataset_agreement", "conditions")["pubchem_cid"])
    pair = read_parquet(made[f"scores:{PAIR[0]}"] / "conditions.parquet", "cross_dataset_agreement")
    assert set(pair["pubchem_cid"]) == before | {tubastatin[0], mitoxantrone[0]}, "matched although no id is in both"
    assert doxorubicin[1] in before, "the only one of these two datasets"
    summaries = read_parquet(made[f"scores:{PAIR[0]}"] / "pair.parquet", "cross_dataset_agreement")
    assert set(summaries["n_compounds"]) == {pair["pubchem_cid"].nunique()}

    conditions = read_parquet(whole / "conditions.parquet", "compendium_agreement")
    of_pairs = conditions.groupby(["left_dataset", "right_dataset"])["pubchem_cid"].agg(set)
    assert all(doxorubicin[0] in ids and doxorubicin[1] not in ids for ids in of_pairs), "one id wherever it was matched"
    assert mitoxantrone[2] in set(conditions["pubchem_cid"])
    assert not {mitoxantrone[0], mitoxantrone[1]} & set(conditions["pubchem_cid"])
    units = read_parquet(whole / "units.parquet", "compendium_agreement")
    assert set(units["pubchem_cid"]) <= set(conditions["pubchem_cid"])
    assert not units.duplicated(["left_dataset", "right_dataset", "gene_universe", "metric", *UNIT]).any()


@pytest.mark.parametrize("stage", STAGES)
def test_every_picture_can_be_drawn_again_from_the_tables(demo_home, stage):
    folder = output_of(demo_home, stage).folder
    drawn = redraw(stage, folder)
    assert set(drawn) == set(PICTURES[stage])
    for name, png in drawn.items():
        assert png == (folder / "figures" / f"{name}.png").read_bytes(), name


def test_the_summaries_of_the_compendium_are_those_of_the_pairs(demo_home):
    pairs = table(demo_home, "compendium_agreement", "pairs")
    own = table(demo_home, "cross_dataset_agreement", "pair")
    of_pair = pairs[(pairs["left_dataset"] == "l1000_phase1") & (pairs["right_dataset"] == "sciplex")]
    pd.testing.assert_frame_equal(of_pair[of_pair["gene_universe"] == "pairwise"].reset_index(drop=True), own)
    assert set(of_pair["gene_universe"]) == {"pairwise", "global", "l1000"}
    genes = table(demo_home, "compendium_agreement", "scores").groupby("gene_universe")["n_genes"].max()
    assert genes["l1000"] <= genes["pairwise"]
    units = table(demo_home, "compendium_agreement", "units")
    pd.testing.assert_frame_equal(
        summary.agreement_summary(units[units["gene_universe"] == "global"]).reset_index(drop=True),
        pairs[pairs["gene_universe"] == "global"].reset_index(drop=True),
    )


def test_tables_of_the_paper_are_those_summaries(demo_home):
    variants = table(demo_home, "compendium_agreement", "variants")
    for number, metric in compendium.PAPER_TABLES.items():
        found = table(demo_home, "compendium_agreement", f"table_{number}").set_index(["variant", "left_dataset", "right_dataset"])
        rows = variants[variants["metric"] == metric].set_index(["variant", "left_dataset", "right_dataset"])
        assert found.loc[("all", "l1000_phase1", "sciplex"), "observed"] == rows.loc[("all", "l1000_phase1", "sciplex"), "observed"]
    retrieval = table(demo_home, "compendium_agreement", "table_9")
    assert retrieval["n_second"].ge(retrieval["n_first"]).all()
    assert set(retrieval["variant"]) <= {"all", "published"}
    assert len(table(demo_home, "compendium_agreement", "table_7")) >= 2


def test_the_report_is_in_the_ui_and_stands_alone_as_a_page(demo_home):
    folder = output_of(demo_home, "compendium_agreement").folder
    with demo_home.instance() as instance:
        [record] = instance.fetch_materializations(dg.AssetKey("compendium_agreement"), limit=1).records
    metadata = record.asset_materialization.metadata
    assert metadata["report"].value == (folder / "report.md").read_text()
    assert {f"picture_{name}" for name in PICTURES["compendium_agreement"]} <= set(metadata)
    page = Path(metadata["report_with_pictures"].value).read_text()
    assert page.count("<img") == len(PICTURES["compendium_agreement"])
    assert read_stamp(folder / "pairs.parquet").simulated
    assert "simulated" in page


def test_the_catalog_answers_what_the_guide_shows(demo_home):
    with duckdb.connect(str(demo_home.path / "catalog.duckdb"), read_only=True) as catalog:
        views = set(catalog.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").df()["view_name"])
        assert {f"paper_table_{number}" for number in range(4, 11)} <= views
        found = catalog.sql("SELECT * FROM agreement_pairs WHERE metric = 'direction_agreement_p05'").df()
        assert (found["observed"] > 0.8).all()
        counts = catalog.sql("SELECT count(*) AS n FROM agreement_scores").df()["n"].iloc[0]
        assert counts == catalog.sql("SELECT count(*) AS n FROM compendium_scores WHERE gene_universe = 'pairwise'").df()["n"].iloc[0]


def test_wrong_options_are_refused_where_they_are_read(small_home):
    home = small_home("sciplex")
    (home.path / SETTINGS).write_text((home.path / SETTINGS).read_text() + "[agreement]\nn_peers = -1\n")
    with pytest.raises(Exception, match="n_peers"):
        home.store.agreement_options()
