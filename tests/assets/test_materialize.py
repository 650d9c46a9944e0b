from __future__ import annotations

import pytest

from assets import check_data
from assets.checks import evaluations
from assets.materialize import main, prepare_home, use_sample
from perturbridge_dagster.sample import DATASETS
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_stamp
from resources.store import SETTINGS, Store


def test_a_home_is_prepared_once_and_what_a_person_wrote_in_it_stays(tmp_path):
    prepare_home(tmp_path)
    (tmp_path / SETTINGS).write_text("[sources] # mine\n")
    (tmp_path / "dagster" / "dagster.yaml").write_text("# mine\n")
    prepare_home(tmp_path)
    assert (tmp_path / SETTINGS).read_text() == "[sources] # mine\n"
    assert (tmp_path / "dagster" / "dagster.yaml").read_text() == "# mine\n"


def test_real_files_are_never_mixed_with_the_sample(tmp_path):
    prepare_home(tmp_path)
    settings = '[sources]\nl1000_phase1 = "/data/lincs"\n'
    (tmp_path / SETTINGS).write_text(settings)
    assert not use_sample(tmp_path)
    assert (tmp_path / SETTINGS).read_text() == settings
    assert not (tmp_path / "sample").exists()
    (tmp_path / SETTINGS).write_text('[op3_benchmark]\nfolder = "/data/op3"\n')
    assert not use_sample(tmp_path), "nor is a real benchmark"


def test_a_real_benchmark_alone_is_no_reason_to_judge_the_sample(tmp_path, monkeypatch, capsys):
    prepare_home(tmp_path)
    (tmp_path / SETTINGS).write_text('[op3_benchmark]\nfolder = "/data/op3"\n')
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path))
    assert check_data.main([]) == 1
    said = capsys.readouterr()
    assert "sample" not in said.out + said.err
    assert "op3_evaluation" in said.out


def test_a_misspelt_table_is_refused_before_anything_is_written_to_the_settings(tmp_path, monkeypatch, capsys):
    prepare_home(tmp_path)
    settings = '[source]\nl1000_phase1 = "/data/lincs"\n'
    (tmp_path / SETTINGS).write_text(settings)
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path))
    assert main(["--sample"]) == 1
    assert "column source: there is no such table" in capsys.readouterr().err
    assert (tmp_path / SETTINGS).read_text() == settings
    assert not (tmp_path / "sample").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine", "sciplex"])
@pytest.mark.parametrize("command", [lambda: main(["--sample"]), lambda: check_data.main([])], ids=["materialize", "check-data"])
def test_an_own_screen_with_a_broken_description_is_no_reason_to_take_the_sample(tmp_path, monkeypatch, capsys, caplog, command, name):
    prepare_home(tmp_path)
    settings = (tmp_path / SETTINGS).read_text()
    (tmp_path / "screens").mkdir()
    (tmp_path / "screens" / f"{name}.yaml").write_text("title: nothing else\n")
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path))
    assert not use_sample(tmp_path)
    caplog.clear()
    assert command() == 1
    said = capsys.readouterr()
    assert (said.err + said.out + caplog.text).count(f"own screen {name} is left out") == 1
    assert f"{name}.yaml" in said.err
    assert "sample" not in said.out
    assert (tmp_path / SETTINGS).read_text() == settings
    assert not (tmp_path / "sample").exists()


@pytest.mark.slow
def test_the_sample_is_used_where_nothing_is_configured_and_comments_stay(tmp_path):
    prepare_home(tmp_path)
    (tmp_path / SETTINGS).write_text("# of the lab\n[sources] # mine\n", encoding="utf-8-sig")
    assert use_sample(tmp_path)
    assert use_sample(tmp_path), "a second time too"
    text = (tmp_path / SETTINGS).read_text()
    assert text.startswith("# of the lab\n[sources] # mine\n")
    folders = Store(home=str(tmp_path)).source_folders()
    assert set(folders) == set(DATASETS)
    assert all(folder.is_dir() for folder in folders.values())
    benchmark = Store(home=str(tmp_path)).op3_benchmark_folder()
    assert benchmark == tmp_path / "sample" / "op3_benchmark"
    assert len(list(benchmark.iterdir())) == 3


@pytest.mark.slow
def test_everything_made_from_the_sample_says_so(demo_home):
    planner = demo_home.planner()
    for stage in ("source_files", "harmonized_samples", "condition_effects", "cross_dataset_agreement", "compound_embeddings"):
        output = planner.outputs(stage, planner.keys(stage)[0])[0]
        assert read_stamp(next(output.folder.glob("*.parquet"))).simulated, stage


@pytest.mark.slow
def test_every_check_of_the_sample_is_judged_and_none_stops(demo_home):
    rows = evaluations(demo_home.store)
    assert len(rows) > 70
    assert {row.verdict for row in rows} == {"passed", "warned"}
    assert {(row.stage, row.check) for row in rows if row.verdict == "warned"} <= {
        # few compounds that two datasets share
        ("cross_dataset_agreement", "enough_compounds"),
        ("cross_dataset_agreement", "intervals"),
        ("compendium_agreement", "intervals"),
        # what the sample has on purpose: names that are numbers, a header read as a gene, conditions lost to filters, odd doses,
        ("harmonized_samples", "identity"),
        ("harmonized_samples", "counts"),
        ("harmonized_samples", "dose_time"),
        # many nuclei with few counts
        ("condition_effects", "gene_support"),
        ("replicate_effects", "gene_support"),
        # few values, and a small study: a few hundred steps
        ("compound_embeddings", "beats_baselines"),
        ("holdout_evaluation", "beats_baselines"),
    }


@pytest.mark.slow
def test_a_second_walk_reuses_what_is_there(demo_home, monkeypatch, capsys):
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(demo_home.path))
    assert main(["--sample"]) == 0
    said = capsys.readouterr().out
    planner = demo_home.planner()
    n_partitions = sum(len(planner.keys(stage)) for stage in STAGES)
    assert n_partitions > 40
    assert f"1 materialized, {n_partitions} were current, 0 failed, 0 waiting" in said
    assert "script/server" in said
