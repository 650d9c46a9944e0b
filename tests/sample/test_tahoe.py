from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample import write_sample
from perturbridge_dagster.sample.tables import perturbagens_of
from perturbridge_dagster.sample.tahoe import H5AD, PLATES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "tahoe"
    write_sample(folder, datasets=["tahoe"])
    return folder


@pytest.fixture(scope="module")
def plates(folder: Path) -> dict[str, tuple[ad.AnnData, pd.DataFrame]]:
    """Counts and curated metadata of each plate."""
    native = folder / "tahoe"
    return {
        plate: (ad.read_h5ad(native / "h5ad" / H5AD.format(plate=plate)), pd.read_parquet(native / "obs" / f"{plate}.parquet"))
        for plate in PLATES
    }


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "tahoe" / f"{name}.parquet")


def test_every_plate_has_its_cells_twice_in_different_orders(plates: dict[str, tuple[ad.AnnData, pd.DataFrame]]):
    for counts, curated in plates.values():
        assert set(counts.obs_names) == set(curated.index)
        assert not counts.obs_names.equals(curated.index)
        assert counts.obs_names.is_unique
        assert counts.obs_names.str.fullmatch(r"\d\d_\d{3}_\d{3}-lib_\d{4}").all()
        np.testing.assert_array_equal(np.asarray(counts.X.sum(axis=1)).ravel(), counts.obs["tscp_count"])
        assert set(curated["cell_line_ontology_id"]) == {"CVCL_0023", "CVCL_0320"}


def test_cells_fail_every_filter(plates: dict[str, tuple[ad.AnnData, pd.DataFrame]]):
    curated = pd.concat([table for _, table in plates.values()])
    for failing in (curated["gene_count"] < 250, curated["tscp_count"] < 700, curated["pcnt_mito"] > 0.2):
        assert 0.01 < failing.mean() < 0.1
    for counts, _ in plates.values():
        malat1 = np.log1p(10_000 * counts[:, "MALAT1"].X.toarray().ravel() / counts.obs["tscp_count"])
        assert 0.03 < (malat1 < 3.5).mean() < 0.2


def test_a_well_is_named_by_the_barcode_and_holds_one_condition(plates: dict[str, tuple[ad.AnnData, pd.DataFrame]]):
    for counts, curated in plates.values():
        well = curated.index.str[:2]
        assert len(curated.groupby([well, "pert_compound", "pert_dose"], dropna=False)) == well.nunique()
        assert len(counts.obs.assign(well=counts.obs_names.str[:2])[["well", "sample"]].drop_duplicates()) == well.nunique()
        of_control = curated[curated["pert_compound"] == "DMSO_TF"]
        assert of_control.index.str[:2].nunique() == 2
        assert curated.loc[curated["pert_compound"] == "Bortezomib"].index.str[:2].nunique() >= 2


def test_doses_are_missing_where_the_table_of_wells_has_them(folder: Path, plates: dict[str, tuple[ad.AnnData, pd.DataFrame]]):
    curated = pd.concat([table for _, table in plates.values()])
    undosed = curated[curated["pert_dose"].isna()]
    assert set(undosed["pert_compound"]) > {"DMSO_TF"}
    assert len(undosed.loc[undosed["pert_compound"] != "DMSO_TF", "plate"].unique()) == 1
    wells = table(folder, "sample_metadata")
    assert wells["sample"].is_unique
    assert wells["drugname_drugconc"].str.match(r"^\[\('.+', [\d.]+, 'uM'\)\]$").all()
    assert "Budesonide " in set(wells["drug"])
    assert "Budesonide" in set(table(folder, "drug_metadata")["drug"])


def test_gene_tables_differ_in_order_and_in_what_they_lack(folder: Path, plates: dict[str, tuple[ad.AnnData, pd.DataFrame]]):
    names = plates["plate4"][0].var_names
    curated, source = table(folder, "var"), table(folder, "gene_metadata").set_index("gene_symbol")
    assert set(curated.index) == set(names)
    assert set(source.index) < set(names)
    assert not curated.index.equals(names)
    assert not source.index.equals(names[names.isin(source.index)])
    assert curated["ensembl_gene_id"].isna().sum() == 20
    both = curated["ensembl_gene_id"].dropna().index.intersection(source.index)
    assert (curated.loc[both, "ensembl_gene_id"] == source.loc[both, "ensembl_id"]).all()
    assert curated["ensembl_gene_id"].fillna(source["ensembl_id"].reindex(curated.index)).notna().all()


@pytest.mark.real_data
def test_compounds_are_those_of_the_published_table(real_data: Path):
    drugs = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "drug_metadata.parquet").set_index("drug")["pubchem_cid"]
    ours = perturbagens_of("tahoe").query("agent != 'DMSO'").set_index("source_name")["pubchem_cid"]
    assert (drugs[ours.index] == ours).all()
    wells = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "sample_metadata.parquet")
    assert {"Erdafitinib ", "Selinexor "} <= set(wells["drug"])
