from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sample import BENCHMARKS, DATASETS, SAMPLE_VERSION, compendium, write_sample
from perturbridge_dagster.sample.__main__ import main
from perturbridge_dagster.written import content_checksum, file_checksum


def contents(folder: Path) -> dict[str, object]:
    """What every file of a sample says, whatever its bytes."""
    said: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".h5ad":
            with warnings.catch_warnings():
                # as in the original, names of samples repeat in DILImap
                warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
                samples = ad.read_h5ad(path)
            # tables of the OP3 benchmark have layers alone
            for layer in samples.layers:
                said[f"{name}/{layer}"] = content_checksum(ad.AnnData(samples.layers[layer], samples.obs, samples.var))
            if samples.X is not None:
                said[name] = content_checksum(samples)
        elif path.suffix == ".gctx":
            with h5py.File(path) as file:
                said[name] = [np.asarray(file[key]).tobytes() for key in ("0/DATA/0/matrix", "0/META/COL/id", "0/META/ROW/id")]
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            said[name] = (list(frame), pd.util.hash_pandas_object(frame).to_numpy().tobytes())
        else:
            said[name] = file_checksum(path)
    return said


@pytest.mark.slow
def test_the_same_seed_writes_the_same_content(whole_sample: Path, tmp_path: Path):
    write_sample(tmp_path / "again")
    first, second = contents(whole_sample), contents(tmp_path / "again")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.slow
def test_another_seed_writes_other_numbers_in_the_same_layout(whole_sample: Path, tmp_path: Path):
    write_sample(tmp_path / "other", seed=2)
    first, second = contents(whole_sample), contents(tmp_path / "other")
    assert list(first) == list(second)
    for name in ("sciplex/srivatsan20_sciplex3.h5ad", "vcpi_0001/data.parquet", "truth/log2_fold_changes.parquet"):
        assert first[name] != second[name]
    conditions = [pd.read_parquet(folder / "truth" / "conditions.parquet") for folder in (whole_sample, tmp_path / "other")]
    key = ["dataset", "cell_type", "source_name", "dose_uM", "time_h"]
    pd.testing.assert_frame_equal(conditions[0][key], conditions[1][key])


@pytest.mark.slow
def test_a_dataset_is_the_same_whatever_is_written_beside_it(whole_sample: Path, vcpi_sample: Path):
    alone = contents(vcpi_sample / "vcpi_0001")
    assert alone == contents(whole_sample / "vcpi_0001")
    assert not (vcpi_sample / "sciplex").exists()


@pytest.mark.slow
def test_the_whole_sample_holds_every_dataset_and_benchmark_and_the_truth(whole_sample: Path):
    assert {path.name for path in whole_sample.iterdir()} == {*DATASETS, *BENCHMARKS, "truth", "sample.json"}
    assert json.loads((whole_sample / "sample.json").read_text())["datasets"] == [*DATASETS, *BENCHMARKS]


def test_a_second_call_reuses_what_is_there(vcpi_sample: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(compendium, "simulate", fail)
    write_sample(vcpi_sample, datasets=["vcpi_0001"])


def test_another_version_is_replaced(tmp_path: Path):
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / "sample.json").write_text(json.dumps({"seed": 1, "version": "0", "datasets": ["vcpi_0001"]}))
    (folder / "left-over").write_text("old")
    write_sample(folder, seed=1, datasets=["vcpi_0001"])
    assert json.loads((folder / "sample.json").read_text()) == {"seed": 1, "version": SAMPLE_VERSION, "datasets": ["vcpi_0001"]}
    assert not (folder / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(folder: Path, *_: object) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    monkeypatch.setitem(compendium.WRITERS, "vcpi_0001", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sample(tmp_path / "sample", datasets=["vcpi_0001"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["folder", "file", "broken"])
def test_something_else_is_left_alone(tmp_path: Path, what: str):
    target = tmp_path / "mine"
    if what == "file":
        target.write_text("thesis")
    else:
        target.mkdir()
        (target / ("sample.json" if what == "broken" else "thesis.txt")).write_text("thesis")
    with pytest.raises(InputError, match="does not exist yet"):
        write_sample(target)
    assert target.read_text() == "thesis" if what == "file" else len(list(target.iterdir())) == 1


@pytest.mark.parametrize("datasets", [["nowhere"], [], ["op3_benchmark"]])
def test_an_unknown_dataset_is_refused(tmp_path: Path, datasets: list[str]):
    with pytest.raises(InputError, match="sciplex, l1000_phase1, l1000_phase2, vcpi_0001, vcpi_0002"):
        write_sample(tmp_path / "sample", datasets=datasets)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--out", str(tmp_path / "sample"), "--seed", "3", "--dataset", "vcpi_0001"]) == 0
    assert (tmp_path / "sample" / "vcpi_0001" / "metadata.csv").is_file()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("thesis")
    assert main(["--out", str(tmp_path / "full")]) == 1
    assert "left alone" in capsys.readouterr().err
