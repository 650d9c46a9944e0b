from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.sample import DATASETS
from perturbridge_dagster.sample.biology import RESPONSIVENESS
from perturbridge_dagster.sample.tables import cas_numbers, compounds, genes, perturbagens, perturbagens_of


def test_genes_have_real_ids():
    table = genes()
    assert table["ensembl_id"].dropna().str.fullmatch(r"ENSG\d{11}").all()
    assert table["retired_ensembl_id"].dropna().str.fullmatch(r"ENSG\d{11}").all()
    assert table["ensembl_id"].dropna().is_unique
    assert table["entrez_id"].is_unique
    assert table["entrez_id"].notna().all()
    assert not set(table["retired_ensembl_id"].dropna()) & set(table["ensembl_id"].dropna())


def test_genes_cover_every_kind():
    table = genes()
    counts = table["kind"].value_counts()
    assert (table["is_landmark"] == 1).sum() == counts["landmark"] == 978
    assert counts["mitochondrial"] == 13
    assert table.loc["ENSG00000251562", "symbol"] == "MALAT1"
    assert table.loc[table["kind"] == "mitochondrial", "symbol"].str.startswith("MT-").all()
    assert table.loc[table["kind"].isin(["renumbered", "merged", "deprecated"]), "retired_ensembl_id"].notna().all()
    assert table.loc[table["kind"] == "deprecated", "ensembl_id"].isna().all()
    assert table.loc[table["is_landmark"] == 1, "l1000_symbol"].notna().all()


def test_inchikeys_and_parents_are_those_of_the_structures():
    from rdkit import Chem
    from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

    table = compounds()
    known = table[table["smiles"].notna()]
    for compound, row in known.iterrows():
        molecule = Chem.MolFromSmiles(row["smiles"])
        assert Chem.MolToInchiKey(molecule) == row["inchikey"], compound
        parent = max(Chem.GetMolFrags(molecule, asMols=True), key=lambda fragment: fragment.GetNumHeavyAtoms())
        assert Chem.MolToInchiKey(parent)[:14] == row["parent_key"], compound
        assert row["molecular_weight"] == pytest.approx(Descriptors.MolWt(molecule), abs=0.01), compound
        assert row["log_p"] == pytest.approx(Crippen.MolLogP(molecule), abs=0.001), compound
        assert row["tpsa"] == pytest.approx(rdMolDescriptors.CalcTPSA(molecule), abs=0.01), compound
    assert table.loc[table["smiles"].isna(), ["inchikey", "parent_key", "pubchem_cid"]].isna().all(axis=None)


def test_there_are_several_compounds_of_each_main_mechanism():
    agents = compounds().drop_duplicates("agent")
    counts = agents["mechanism"].value_counts()
    main = ["HDAC inhibitor", "proteasome inhibitor", "MEK inhibitor", "BET inhibitor", "HSP90 inhibitor", "glucocorticoid agonist"]
    assert (counts[main] >= 3).all()
    assert counts["topoisomerase inhibitor"] >= 4
    assert set(agents["mechanism"]) == set(RESPONSIVENESS)
    inert = agents["mechanism"].isin(["none", "vehicle"])
    assert (agents.loc[inert, "max_effect"] == 0).all()
    assert agents.loc[~inert, ["ec50_uM", "hill_slope", "max_effect"]].gt(0).all(axis=None)


def test_salts_of_one_parent_have_different_ids():
    salts = perturbagens()[perturbagens()["agent"] == "mitoxantrone"]
    assert salts["pubchem_cid"].nunique() == 3
    assert set(salts["parent_key"]) == {"KKZJGLLVHKMTCM"}


def test_names_that_share_a_pubchem_id():
    l1000 = perturbagens_of("l1000_phase1").set_index("source_name")["pubchem_cid"]
    assert l1000["U-0126"] == l1000["U0126"]
    of_topotecan = perturbagens()[perturbagens()["agent"] == "topotecan"]
    assert of_topotecan["compound"].nunique() == 2
    assert set(of_topotecan["pubchem_cid"]) == {60699}


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name != "tahoe"])
def test_every_dataset_has_a_vehicle_and_a_compound_without_id(dataset: str):
    table = perturbagens_of(dataset)
    assert (table["agent"] == "DMSO").sum() == 1
    assert table.loc[table["agent"] != "DMSO", "pubchem_cid"].isna().sum() == 1
    assert table["source_name"].is_unique
    assert table["agent"].notna().all()


def test_cas_numbers_are_valid_and_of_compounds():
    """The last digit is the sum of the others, each times its place from the right, modulo 10."""
    for compound, number in cas_numbers().items():
        assert compound in compounds().index
        digits = [int(digit) for digit in number.replace("-", "")]
        assert sum(place * digit for place, digit in enumerate(reversed(digits))) % 10 == digits[-1], number
    assert cas_numbers().is_unique


@pytest.mark.real_data
def test_genes_agree_with_the_tables_they_come_from(real_data: Path):
    info = pd.read_csv(real_data / "lincs_metadata" / "GSE92742_Broad_LINCS_gene_info.txt", sep="\t")
    gencode = pd.read_csv(
        real_data / "gene_ids" / "gencode_genes_homo_sapiens.csv.gz", header=None, names=["id", "symbol", "v", "n", "type"]
    )
    ncbi = pd.read_csv(real_data / "gene_ids" / "org_hs_entrez_symbol_ensembl.tsv.gz", sep="\t")
    table = genes()
    assert set(table.loc[table["is_landmark"] == 1, "entrez_id"]) == set(info.loc[info["pr_is_lm"] == 1, "pr_gene_id"])
    reported = table[table["l1000_symbol"].notna()].merge(info, left_on="entrez_id", right_on="pr_gene_id", how="left")
    assert (reported["l1000_symbol"] == reported["pr_gene_symbol"]).all()
    assert (reported["is_landmark"] == reported["pr_is_lm"]).all()
    symbols = gencode.drop_duplicates("id").set_index("id")["symbol"]
    current = table[table["ensembl_id"].notna()]
    assert (symbols[current["ensembl_id"]].to_numpy() == current["symbol"].to_numpy()).all()
    assert not table["retired_ensembl_id"].isin(gencode["id"]).any()
    assert not gencode["symbol"].isin(table.loc[table["kind"] == "deprecated", "symbol"]).any()
    # NCBI links the retired ids to the same gene
    linked = set(zip(ncbi["entrez_id"], ncbi["ensembl_id"], strict=True))
    retired = table[table["retired_ensembl_id"].notna()]
    assert set(zip(retired["entrez_id"], retired["retired_ensembl_id"], strict=True)) <= linked


@pytest.mark.real_data
def test_compounds_agree_with_lincs(real_data: Path):
    pertinfo = pd.read_csv(real_data / "lincs_metadata" / "pertinfo.tsv.gz", sep="\t", dtype=str).set_index("pert_id")
    table = perturbagens_of("l1000_phase1")
    listed = table[table["listed_cid"].notna()].set_index("source_id")
    assert (pertinfo.loc[listed.index, "pubchem_cid"] == listed["listed_cid"]).all()
    assert (pertinfo.loc[listed.index, "pert_iname"] == listed["source_name"]).all()
    theirs = pertinfo.loc[listed.index, "inchi_key"].str.removeprefix("InChIKey=")
    # LINCS prints an InChIKey of budesonide that is not that of its SMILES
    differing = listed[theirs.notna() & (theirs != listed["inchikey"])]
    assert list(differing["compound"]) == ["budesonide"]
    hidden = table[table["compound"].isin(["selumetinib", "dexamethasone", "ZM-447439", "geldanamycin"])].set_index("source_id")
    assert (pertinfo.loc[hidden.index, "pubchem_cid"].astype(int) == hidden["pubchem_cid"]).all()
    tahoe = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "drug_metadata.parquet").set_index("drug")["pubchem_cid"]
    ours = compounds()["pubchem_cid"]
    for salt, drug in {
        "doxorubicin hydrochloride": "Doxorubicin (hydrochloride)",
        "mitoxantrone dihydrochloride": "Mitoxantrone (dihydrochloride)",
        "topotecan hydrochloride": "Topotecan (hydrochloride)",
    }.items():
        assert ours[salt] == tahoe[drug]
