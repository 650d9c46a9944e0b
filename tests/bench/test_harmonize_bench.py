"""The bench of harmonizing bulk datasets, at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench import harmonize, native_files

pytestmark = pytest.mark.slow


def test_vcpi_has_the_genes_controls_and_density_that_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_files, "VCPI_GENES", 3_000)
    n_values = native_files.write_vcpi(tmp_path, n_samples=500, genes_a_sample=400)
    metadata = pd.read_csv(tmp_path / "metadata.csv", dtype=str)
    stored = pq.read_table(tmp_path / "data.parquet").to_pandas().set_index("gene_id")
    assert stored.columns.tolist() == metadata["sequenced_id"].tolist()
    assert stored.index.is_unique
    assert stored.index.str.startswith("ERCC-").sum() == native_files.VCPI_SPIKE_INS
    assert stored.shape == (3_092, 500)
    assert np.count_nonzero(stored) == n_values
    assert n_values / 500 == pytest.approx(400, rel=0.25)
    controls = metadata[metadata["is_control"] == "true"]
    assert controls["user_compound_id"].value_counts().to_dict() == {"staurosporine": 21, "DMSO": 11}
    assert not metadata.duplicated(["container_id", "row_id", "column_id"]).any()
    assert {record["user_compound_id"] for record in json.loads((tmp_path / "chemistry.json").read_text())} >= {"DMSO"}


@pytest.mark.parametrize("dataset", list(harmonize.SAMPLES))
def test_both_sides_are_measured(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_files, "VCPI_GENES", 3_000)
    results = harmonize.bench(dataset, 800, 400 if dataset == "vcpi_0001" else None, tmp_path)
    n_samples, n_genes = results["harmonize"]["shape"]
    assert (n_samples, n_genes) == ((800, 978) if dataset == "l1000_phase1" else (766, 3_000))
    assert not results["harmonize"]["on_disk"]
    assert results["task"]["strata"] == (3 if dataset == "l1000_phase1" else 1)
    for result in results.values():
        assert result["seconds"] > 0
        assert 2**27 < result["peak_bytes"] < 2**31
