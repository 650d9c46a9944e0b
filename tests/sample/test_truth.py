from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample.tables import genes
from perturbridge_dagster.sample.truth import matched_conditions, treated_conditions


def conditions(*rows: tuple[str, int | None, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["dataset", "pubchem_cid", "dose_uM"]).astype({"pubchem_cid": "Int64"})
    return frame.assign(cell_type="CVCL_0006", time_h=24.0, source_id=[str(i) for i in range(len(frame))])


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1.0], [1.0], [(1.0, 1.0)]),
        # a dose exactly midway in log space matches both
        ([1.0, 100.0], [10.0], [(1.0, 10.0), (100.0, 10.0)]),
        ([0.11], [1.0], [(0.11, 1.0)]),
        ([0.09], [1.0], []),
        # nearest must be mutual
        ([1.0, 2.0], [2.0, 100.0], [(2.0, 2.0)]),
        ([0.01, 0.1, 1, 10], [0.37, 3.33], [(0.1, 0.37), (1.0, 0.37), (10.0, 3.33)][1:]),
    ],
)
def test_matching(left: list[float], right: list[float], expected: list[tuple[float, float]]):
    pairs = matched_conditions(conditions(*(("a", 1, dose) for dose in left), *(("b", 1, dose) for dose in right)))
    assert list(zip(pairs["left_dose_uM"], pairs["right_dose_uM"], strict=True)) == expected


def test_compounds_without_id_do_not_match():
    assert matched_conditions(conditions(("a", None, 1.0), ("b", None, 1.0))).empty


def test_conditions_count_samples_and_leave_controls_out():
    samples = pd.DataFrame(
        {
            "dataset": "a",
            "cell_type": "CVCL_0006",
            "compound": ["x", "x", "y", "DMSO"],
            "agent": ["x", "x", "y", "DMSO"],
            "source_id": ["1", "1", None, "0"],
            "source_name": ["x", "x", "y", "DMSO"],
            "pubchem_cid": pd.array([5, 5, None, 679], dtype="Int64"),
            "parent_key": ["K", "K", None, "D"],
            "dose_uM": [1.0, 1.0, 1.0, 0.0],
            "time_h": 24.0,
            "plate": ["p", "q", "p", "p"],
            "is_control": [False, False, False, True],
        }
    )
    table = treated_conditions(samples)
    assert table[["compound", "n_samples", "n_plates"]].to_dict("list") == {"compound": ["x", "y"], "n_samples": [2, 1], "n_plates": [2, 1]}


@pytest.mark.slow
def test_strata_that_link_datasets(whole_sample: Path):
    pairs = pd.read_parquet(whole_sample / "truth" / "matched_conditions.parquet")
    shared = pairs.groupby(["left_dataset", "right_dataset", "cell_type", "time_h"])["pubchem_cid"].nunique()
    assert shared["l1000_phase1", "sciplex", "CVCL_0023", 24.0] >= 12
    assert shared["l1000_phase1", "sciplex", "CVCL_0031", 24.0] >= 12
    assert shared["l1000_phase1", "vcpi_0001", "CVCL_0006", 24.0] >= 12
    assert 0 < shared["l1000_phase1", "sciplex", "CVCL_0004", 24.0] < 10
    assert shared["l1000_phase1", "tahoe", "CVCL_0023", 24.0] >= 6
    assert shared["sciplex", "tahoe", "CVCL_0023", 24.0] >= 6
    three = {"l1000_phase1", "sciplex", "vcpi_0001"}
    assert sum({left, right} <= three for left, right, *_ in shared.index) == 4


@pytest.mark.slow
def test_doses_tie_and_lie_on_both_sides_of_the_limit(whole_sample: Path):
    truth = {name: pd.read_parquet(whole_sample / "truth" / f"{name}.parquet") for name in ("matched_conditions", "conditions")}
    pairs = truth["matched_conditions"].query("left_dataset == 'l1000_phase1' and right_dataset == 'vcpi_0001'")
    ibuprofen, aspirin, metformin = 3672, 2244, 4091
    assert set(pairs.loc[pairs["pubchem_cid"] == ibuprofen, "left_dose_uM"]) == {1.0, 100.0}
    assert pairs.loc[pairs["pubchem_cid"] == aspirin, "log10_dose_gap"].between(0.9, 1).all()
    assert (pairs["pubchem_cid"] == aspirin).any()
    assert metformin not in set(pairs["pubchem_cid"])
    of_metformin = truth["conditions"].query(f"pubchem_cid == {metformin} and cell_type == 'CVCL_0006' and time_h == 24")
    assert {"l1000_phase1", "vcpi_0001"} <= set(of_metformin["dataset"])


@pytest.mark.slow
def test_the_latent_effect_of_every_condition_is_there(whole_sample: Path):
    effects = pd.read_parquet(whole_sample / "truth" / "log2_fold_changes.parquet")
    treated = pd.read_parquet(whole_sample / "truth" / "conditions.parquet")
    key = ["agent", "cell_type", "dose_uM", "time_h"]
    assert effects.dtypes["log2_fold_change"] == np.float32
    present = effects.drop_duplicates(key)[key].astype({"agent": object, "cell_type": object})
    assert treated.merge(present, on=key, how="left", indicator=True)["_merge"].eq("both").all()
    assert len(effects) == len(present) * len(genes())


@pytest.mark.slow
def test_direction_agrees_better_than_magnitude_and_agreement_rises_with_strength(whole_sample: Path):
    truth = whole_sample / "truth"
    gains = pd.read_parquet(truth / "genes.parquet").set_index("gene")
    counts = pd.read_parquet(whole_sample / "vcpi_0001" / "data.parquet").set_index("gene_id")
    metadata = pd.read_csv(whole_sample / "vcpi_0001" / "metadata.csv", dtype=str).drop_duplicates().set_index("sequenced_id")
    metadata = metadata[(metadata["is_control"] == "false") | (metadata["user_compound_id"] == "DMSO")]
    counts = counts.loc[counts.index.str.startswith("ENSG"), metadata.index]
    metadata, counts = metadata[counts.sum().to_numpy() > 0], counts.loc[:, counts.sum() > 0]
    log_cpm = np.log2((counts + 0.5) / counts.sum() * 1e6).T
    for _, on_plate in metadata.groupby("container_id"):
        log_cpm.loc[on_plate.index] -= log_cpm.loc[on_plate.index[on_plate["user_compound_id"] == "DMSO"]].mean()
    names = pd.read_parquet(truth / "perturbagens.parquet").query("dataset == 'vcpi_0001'").set_index("source_name")["agent"]
    latent = pd.read_parquet(truth / "log2_fold_changes.parquet").query("cell_type == 'CVCL_0006' and time_h == 24")
    latent = latent.astype({"agent": object, "gene": object}).pivot_table(
        index=["agent", "dose_uM"], columns="gene", values="log2_fold_change"
    )
    strength, direction, correlation = [], [], []
    for (name, dose), wells in metadata[metadata["is_control"] == "false"].groupby(["user_compound_id", "compound_concentration"]):
        expected = latent.loc[(names[name], float(dose) / 1000), log_cpm.columns].to_numpy()
        observed = log_cpm.loc[wells.index].mean().to_numpy()
        if expected.any():
            strong = np.abs(expected) > 0.8
            strength.append(expected.std())
            correlation.append(np.corrcoef(expected, observed)[0, 1])
            direction.append(np.mean(np.sign(expected[strong]) == np.sign(observed[strong])) if strong.sum() > 20 else np.nan)
    assert np.nanmean(direction) > 0.85
    assert np.nanmean(direction) > np.mean(correlation)
    assert pd.Series(strength).corr(pd.Series(correlation), method="spearman") > 0.7
    assert gains["gain_vcpi_0001"].min() > 0
    assert gains["gain_vcpi_0001"].corr(gains["gain_l1000_phase1"]) < 0.2
