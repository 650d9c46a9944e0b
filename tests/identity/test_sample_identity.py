"""Compounds of the built-in sample, from its native files to PubChem ids, against its truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.sources import harmonize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "files"
    subprocess.run([sys.executable, "-m", "perturbridge_dagster.sample", "--out", str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("dataset", ["sciplex", "l1000_phase1", "vcpi_0001"])
def test_samples_get_the_pubchem_id_of_the_truth(sample: Path, dataset: str) -> None:
    truth = pd.read_parquet(sample / "truth" / "perturbagens.parquet")
    truth = truth[truth["dataset"] == dataset]
    obs = harmonize(dataset, sample / dataset).obs
    treated = obs[~obs["is_control"]]
    # a name of the sample is one compound in each dataset
    expected = truth.drop_duplicates("source_name").set_index("source_name")["pubchem_cid"].astype("Int64")
    assert set(treated["perturbagen"].astype(str)) <= set(expected.index)
    compared = pd.DataFrame(
        {
            "found": treated["pubchem_cid"].astype("Int64"),
            "expected": expected.reindex(treated["perturbagen"].astype(str)).set_axis(treated.index),
            "how": treated["pubchem_cid_source"].astype(object),
        }
    )
    # the only exception: what the truth says has no id must get none
    without = compared["expected"].isna()
    assert compared.loc[without, "found"].isna().all()
    known = compared[~without]
    wrong = known["found"].notna() & (known["found"] != known["expected"])
    assert not wrong.any(), treated.loc[known.index[wrong], "perturbagen"].unique().tolist()
    assert known["found"].notna().mean() >= 0.95
    assert len(known) / len(compared) > 0.9
    # L1000 rows keep the id that LINCS lists for them, be it that of a salt
    listed = pd.to_numeric(truth.set_index("source_name")["listed_cid"], errors="coerce").dropna()
    own = treated["perturbagen"].astype(str).map(listed[~listed.index.duplicated()])
    assert (compared.loc[own.notna(), "how"] == "source").all()
