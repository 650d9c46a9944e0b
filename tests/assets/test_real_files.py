"""Real L1000 Phase I plates, in a folder as a user may have them, through the graph to replicate agreement."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from perturbridge_dagster.effects.storage import open_effects
from perturbridge_dagster.written import read_parquet

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

DATASET = ("l1000_phase1",)
A375, HT115 = "CVCL_0132", "CVCL_2520"


@pytest.fixture(scope="module")
def home(real_data: Path, tmp_path_factory: pytest.TempPathFactory, home_in):
    """The plates CPC006 of A375 (GCTX with its own metadata) and HT115 (AnnData), and LINCS' table of perturbagens, materialized."""
    home = home_in(tmp_path_factory.mktemp("real"))
    native = home.path / "native" / "l1000_phase1"
    native.mkdir(parents=True)
    shutil.copy(real_data / "l1000_cpc006_a375_6h" / "gctv13_01.gctx", native)
    shutil.copy(real_data / "l1000_cpc006_ht115_6h" / "demo.h5ad", native)
    shutil.copy(real_data / "lincs_metadata" / "pertinfo.tsv.gz", native / "GSE92742_Broad_LINCS_pert_info.txt.gz")
    home.use("l1000_phase1")
    for stage in ("source_files", "harmonized_samples"):
        home.materialize(stage, DATASET)
    for context in (A375, HT115):
        for stage in ("condition_effects", "replicate_effects"):
            home.materialize(stage, (*DATASET, context))
    home.materialize("replicate_agreement", DATASET)
    return home


def test_both_files_become_one_dataset_of_two_cell_contexts(home):
    strata = home.planner().strata(*DATASET).set_index("stratum")
    assert list(strata.index) == [A375, HT115]
    assert strata.loc[HT115, ["n_plates", "n_controls"]].tolist() == [2, 20]
    assert strata.loc[A375, ["n_plates", "n_controls"]].tolist() == [1, 16]
    assert strata["n_genes"].tolist() == [955, 955] or strata["n_genes"].between(950, 978).all()
    obs = read_parquet(home.store.current("harmonized_samples", DATASET).folder / "obs.parquet", "harmonized_samples")
    assert obs.loc[~obs["is_control"], "pubchem_cid"].notna().mean() > 0.9


def test_known_drugs_do_what_they_are_known_for(home):
    [output] = home.planner().outputs("condition_effects", (*DATASET, A375))
    stored = open_effects(output.folder)
    contrast = stored.contrasts.index[stored.contrasts["perturbagen"].str.lower().str.startswith("geldanamycin")]
    assert len(contrast) == 1
    log_fold_change = stored.dense(["logFC"], contrasts=contrast.to_numpy())["logFC"][0]
    heat_shock = stored.genes.index[stored.genes["symbol"].isin(["HSPA1A", "HSPA8", "DNAJB1", "HSPD1"])]
    assert log_fold_change[heat_shock].max() > 1, "an HSP90 inhibitor raises heat-shock genes"


def test_matched_replicates_agree_clearly_more_than_unmatched_ones(home):
    folder = home.store.current("replicate_agreement", DATASET).folder
    pairs, scores = (read_parquet(folder / f"{name}.parquet", "replicate_agreement") for name in ("pairs", "scores"))
    scores = scores[scores["metric"] == "spearman_logFC"]
    ht115 = pairs.merge(scores, on=["stratum", "left_contrast", "right_contrast"], suffixes=("", "_of_score"))
    ht115 = ht115[ht115["cell_type"] == HT115]
    matched, unmatched = ht115["score"].mean(), ht115["unmatched_spearman_logFC"].mean()
    print(f"HT115: {len(ht115)} pairs, matched {matched:.3f}, unmatched {unmatched:.3f}")
    assert len(ht115) > 250
    assert matched > unmatched + 0.08
    differences = (ht115["score"] - ht115["unmatched_spearman_logFC"]).dropna()
    assert differences.mean() / (differences.std() / np.sqrt(len(differences))) > 5
    summary = read_parquet(folder / "cell_contexts.parquet", "replicate_agreement").set_index(["cell_type", "metric"])
    assert summary.loc[(HT115, "spearman_logFC"), "unmatched"] == pytest.approx(unmatched, abs=0.02)
