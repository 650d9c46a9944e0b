from __future__ import annotations

import anndata as ad
import pytest

from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.sample.op3 import PLATES, UNKNOWN_SYMBOLS


@pytest.fixture(scope="module")
def pseudobulk(tmp_path_factory: pytest.TempPathFactory) -> ad.AnnData:
    folder = tmp_path_factory.mktemp("sample") / "op3"
    write_sample(folder, datasets=["op3"])
    return ad.read_h5ad(folder / "op3" / "pseudobulk_filtered_with_uns.h5ad")


def test_every_plate_has_one_donor_all_compounds_and_four_kinds_of_cells(pseudobulk: ad.AnnData):
    obs = pseudobulk.obs
    assert obs.groupby("plate_name", observed=True)["donor_id"].first().to_dict() == PLATES
    assert (obs.groupby("donor_id", observed=True)["sm_name"].nunique() == obs["sm_name"].nunique()).all()
    assert (obs.groupby(["plate_name", "well"], observed=True)["cell_type"].nunique() == 4).all()
    assert "single_cell_obs" in pseudobulk.uns


def test_controls_are_vehicles_with_a_dose_and_positive_controls(pseudobulk: ad.AnnData):
    flagged = pseudobulk.obs[pseudobulk.obs["control"]]
    assert set(flagged["sm_name"]) == {"Dimethyl Sulfoxide", "Belinostat", "Dabrafenib"}
    assert set(flagged["split"]) == {"control"}
    assert set(flagged.loc[flagged["sm_name"] == "Dimethyl Sulfoxide", "dose_uM"]) == {14.1}
    assert set(pseudobulk.obs.loc[~pseudobulk.obs["control"], "split"]) == {"train", "public_test", "private_test"}


def test_a_compound_kills_nearly_all_cells_of_one_kind(pseudobulk: ad.AnnData):
    obs = pseudobulk.obs
    few = obs[obs["cell_count_by_well_celltype"] < 10]
    assert set(few["sm_name"]) == {"Bortezomib"}
    assert set(few["cell_type"]) == {"NK cells"}


def test_symbols_are_current_former_in_capitals_or_unknown(pseudobulk: ad.AnnData):
    found = shipped().genes.resolve(pseudobulk.var_names.to_series(), "symbol")
    assert (found["status"] == "replaced").sum() > 20
    assert set(found.index[found["status"] == "unknown"]) == set(UNKNOWN_SYMBOLS)
    assert pseudobulk.var_names.str.match(r"C\d+ORF\d+").any()
    assert pseudobulk.var_names.is_unique
