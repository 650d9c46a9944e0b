"""Tahoe-100M from native files to harmonized samples, and the source's own published tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.sources import harmonize
from perturbridge_dagster.sources.native import Reconciliation
from perturbridge_dagster.sources.single_cell import MALAT1
from perturbridge_dagster.sources.tahoe import gene_ids, read_compounds, read_organs, read_source_genes, read_wells, summed, well_of

pytestmark = pytest.mark.slow

H5AD = "{}_filt_Vevo_Tahoe100M_WServicesFrom_ParseGigalab.h5ad"
LINES = ("CVCL_0023", "CVCL_0320")


def cells_table() -> pd.DataFrame:
    """Sixteen cells: two plates with a vehicle well and a treated well each, two cell lines in each, two cells of each line."""
    wells = [
        ("plate1", 1, "smp_1", "DMSO_TF", "0.0uM"),
        ("plate1", 13, "smp_2", "Canagliflozin (hemihydrate)", "0.05uM"),
        ("plate12", 96, "smp_3", "DMSO_TF", None),
        ("plate12", 2, "smp_4", "Selinexor", "5uM"),
    ]
    columns = ["plate", "number", "sample", "pert_compound", "pert_dose", "cell_line_ontology_id"]
    cells = pd.DataFrame([(*well, line) for well in wells for line in LINES for _ in range(2)], columns=columns)
    cells.index = pd.Index([f"{number:02d}_001_{i:03d}-lib_1105" for i, number in enumerate(cells.pop("number"))])
    return cells.assign(pert_time="24.0h", tissue="lung", sex="male")


def counts_of(cells: pd.DataFrame, n_genes: int) -> np.ndarray:
    """Counts that pass every filter: MALAT1 100, mitochondrial genes 1, others 3 to 5."""
    counts = np.random.default_rng(1).integers(3, 6, (len(cells), n_genes))
    counts[:, 0] = 100
    counts[:, 1:14] = 1
    return counts


def tables_of(genes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The source's own tables."""
    return {
        "gene_metadata": pd.DataFrame({"gene_symbol": genes["symbol"], "ensembl_id": genes["ensembl_id"], "token_id": genes.index}),
        "drug_metadata": pd.DataFrame(
            {"drug": ["Canagliflozin (hemihydrate)", "Selinexor"], "canonical_smiles": [" CCO ", None], "pubchem_cid": [24997615.0, np.nan]}
        ),
        "cell_line_metadata": pd.DataFrame({"Cell_ID_Cellosaur": [*LINES, LINES[1]], "Organ": ["Lung", "Bowel", "Bowel"]}),
        "sample_metadata": pd.DataFrame(
            {
                "sample": ["smp_1", "smp_2", "smp_3", "smp_4"],
                "plate": ["plate1", "plate1", "plate12", "plate12"],
                "drug": ["DMSO_TF", "Canagliflozin (hemihydrate)", "DMSO_TF", "Selinexor "],
                "drugname_drugconc": [
                    "[('DMSO_TF', 0.0, 'uM')]",
                    "[('Canagliflozin (hemihydrate)', 0.05, 'uM')]",
                    "[('DMSO_TF', 0.0, 'uM')]",
                    "[('Selinexor ', 5.0, 'uM')]",
                ],
            }
        ),
    }


def write(
    folder: Path,
    genes: pd.DataFrame,
    cells: pd.DataFrame | None = None,
    counts: np.ndarray | None = None,
    *,
    tables: dict[str, pd.DataFrame] | None = None,
    curated_genes: pd.DataFrame | None = None,
    measured: dict[str, Any] | None = None,
) -> Path:
    """Write the native files; `measured` replaces what the curated table says of counts, genes and mitochondria."""
    cells = cells_table() if cells is None else cells
    counts = counts_of(cells, len(genes)) if counts is None else counts
    says = pd.DataFrame({"tscp_count": counts.sum(axis=1), "gene_count": (counts > 0).sum(axis=1)}, index=cells.index)
    says["pcnt_mito"] = counts[:, 1:14].sum(axis=1) / np.maximum(says["tscp_count"], 1)
    says = says.astype(float)
    for column, values in (measured or {}).items():
        says.loc[list(values), column] = list(values.values())
    for name in ("h5ad", "obs"):
        (folder / name).mkdir()
    names = pd.Index(genes["symbol"], name="gene_name")
    for plate, of_plate in cells.groupby("plate"):
        rows = np.flatnonzero(cells["plate"] == plate)
        written = ad.AnnData(sparse.csr_matrix(counts[rows]), obs=of_plate[["sample"]], var=pd.DataFrame(index=names))
        written.write_h5ad(folder / "h5ad" / H5AD.format(plate))
        curated = of_plate.drop(columns="sample").join(says)
        curated[::-1].to_parquet(folder / "obs" / f"{plate}.parquet")
    if curated_genes is None:
        curated_genes = genes.set_index(names)[["ensembl_id", "symbol"]].set_axis(["ensembl_gene_id", "symbol"], axis=1)
    curated_genes.to_parquet(folder / "var.parquet")
    for name, table in (tables_of(genes) if tables is None else tables).items():
        table.to_parquet(folder / f"{name}.parquet")
    return folder


def steps_of(samples: ad.AnnData) -> dict[str, tuple[int, int]]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return {rule: (n_in, n_dropped) for _, _, rule, n_in, n_dropped, _ in steps.itertuples(index=False)}


def located(folder: Path) -> dict[str, list[Path]]:
    """Files of the folder by role, none required."""
    return {file.role: sorted(path for path in folder.rglob("*") if file.matches(path)) for file in registry.dataset("tahoe").files}


def test_cells_of_all_plates_become_samples_of_the_contract(tmp_path: Path, genes: pd.DataFrame) -> None:
    counts = counts_of(cells_table(), len(genes))
    samples = harmonize("tahoe", write(tmp_path, genes, counts=counts))
    obs = samples.obs
    assert obs.index.tolist() == [
        f"{of}_{line}"
        for line in LINES
        for of in ("plate12_A2_Selinexor", "plate12_H12_DMSO_TF", "plate1_A1_DMSO_TF", "plate1_B1_Canagliflozin_(hemihydrate)")
    ]
    assert obs["is_control"].tolist() == [False, True, True, False] * 2
    assert obs["pert_dose_uM"].tolist() == [5.0, 0.0, 0.0, 0.05] * 2
    assert set(obs["pert_time_h"]) == {24.0}
    assert set(obs["psbulk_cells"]) == {2}
    assert set(obs["assay"]) == {"Parse Evercode Whole Transcriptome v3"}
    canagliflozin = obs[obs["perturbagen"] == "Canagliflozin (hemihydrate)"]
    assert set(canagliflozin["pubchem_cid"]) == {24997615}
    assert set(canagliflozin["smiles"]) == {"CCO"}
    assert set(obs.loc[obs["is_control"], "pubchem_cid"]) == {679}
    order = np.argsort(genes["ensembl_id"].to_numpy())
    starts = [12, 8, 0, 4, 14, 10, 2, 6]
    np.testing.assert_array_equal(samples.X.toarray(), np.stack([counts[start : start + 2, order].sum(axis=0) for start in starts]))


HARMONIZE = """
import sys
from pathlib import Path
from bench.process import memory
from perturbridge_dagster.sources import assemble, harmonize, spilled
spilled.IN_MEMORY = assemble.IN_MEMORY = 2**20
samples = harmonize("tahoe", Path(sys.argv[1]))
assert samples.isbacked
print(samples.n_obs, len(samples.file["X"]["data"]), memory("VmHWM"))
"""


def write_plates(folder: Path, n_plates: int) -> Path:
    """Plates of 600 wells × lines of one cell, which has about 6,000 of 12,000 genes."""
    others = [gene for gene in shipped().genes.genes["ensembl_id"] if gene != MALAT1][:11_999]
    ids = np.array([MALAT1, *others])
    genes = pd.DataFrame({"symbol": ids, "ensembl_id": ids})
    numbers, lines = np.divmod(np.arange(600), 10)
    known = shipped().cell_contexts.resolve(pd.Series([f"CVCL_{number:04d}" for number in range(2000)]), "tahoe")["cell_type"]
    cells = pd.DataFrame(
        {
            "sample": [f"smp_{number}" for number in numbers],
            "pert_compound": np.where(numbers == 0, "DMSO_TF", "Selinexor"),
            "pert_dose": np.where(numbers == 0, "0.0uM", "5uM"),
            "cell_line_ontology_id": known.dropna().unique()[lines],
            "pert_time": "24.0h",
        }
    )
    cells.index = pd.Index([f"{number + 1:02d}_001_{i:03d}-lib_1105" for i, number in enumerate(numbers)])
    (folder / "h5ad").mkdir(parents=True)
    (folder / "obs").mkdir()
    names = pd.Index(genes["symbol"], name="gene_name")
    for plate in range(n_plates):
        generator = np.random.default_rng(plate)
        counts = generator.integers(0, 2, (600, len(ids)), np.int32) * generator.integers(1, 4, (600, len(ids)), np.int32)
        counts[:, 0] = 100
        name = f"plate{plate + 1}"
        stored = ad.AnnData(sparse.csr_matrix(counts), obs=cells[["sample"]], var=pd.DataFrame(index=names))
        stored.write_h5ad(folder / "h5ad" / H5AD.format(name))
        says = {"tscp_count": counts.sum(axis=1).astype(float), "gene_count": (counts > 0).sum(axis=1).astype(float), "pcnt_mito": 0.0}
        cells.drop(columns="sample").assign(plate=name, **says).to_parquet(folder / "obs" / f"{name}.parquet")
    genes.set_index(names).set_axis(["symbol", "ensembl_gene_id"], axis=1).to_parquet(folder / "var.parquet")
    return folder


def test_memory_does_not_grow_with_the_plates(tmp_path: Path) -> None:
    peaks = {}
    for n_plates in (1, 6):
        folder = write_plates(tmp_path / str(n_plates), n_plates)
        # the C library else keeps some of what was freed, for each thread that there was
        freeing = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
        run = subprocess.run([sys.executable, "-c", HARMONIZE, str(folder)], check=True, capture_output=True, text=True, env=freeing)
        n_samples, n_values, peaks[n_plates] = map(int, run.stdout.split())
        assert n_samples == 600 * n_plates
    # what the sums of all plates would take in memory, of which six plates may add half to the peak of one
    assert n_values * 12 > 230 * 2**20
    assert peaks[6] - peaks[1] < n_values * 12 / 2, peaks


def test_every_filter_is_recorded_once_for_all_plates(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    counts = counts_of(cells, len(genes))
    counts[9, 0] = 1  # an empty droplet
    cells.iloc[5, cells.columns.get_loc("pert_compound")] = None
    cells.iloc[11, cells.columns.get_loc("cell_line_ontology_id")] = None
    of = list(cells.index)
    measured = {
        "gene_count": {of[0]: 249, of[1]: 250},
        "tscp_count": {of[2]: 699, of[3]: 700},
        "pcnt_mito": {of[12]: 0.2001, of[13]: 0.2},
    }
    steps = steps_of(harmonize("tahoe", write(tmp_path, genes, cells, counts, measured=measured)))
    assert steps == {
        "fewer than 250 genes or 700 counts, or mitochondrial above 20%": (16, 3),
        "no value of one of plate, well, perturbagen, source_cell_context": (13, 2),
        "log-normalized MALAT1 below 3.5": (11, 1),
        "cells of one plate, well, perturbagen, source_cell_context summed to a sample": (10, 2),
        "no current Ensembl id": (300, 0),
        "several source genes on one Ensembl id": (300, 0),
    }


def test_a_condition_whose_cells_all_fail_is_counted(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    few = cells.index[(cells["pert_compound"] == "Selinexor") & (cells["cell_line_ontology_id"] == LINES[0])]
    samples = harmonize("tahoe", write(tmp_path, genes, measured={"gene_count": dict.fromkeys(few, 10)}))
    steps = samples.uns["reconciliation"].query("axis == 'conditions'")
    # the vehicle and two compounds in two lines; on the second plate the vehicle's dose comes from the table of wells
    assert steps[["n_in", "n_dropped", "n_out"]].to_numpy().tolist() == [[6, 1, 5], [5, 0, 5]]


def test_genes_are_joined_by_name_whatever_the_order_of_the_tables(tmp_path: Path, genes: pd.DataFrame) -> None:
    names = pd.Index(genes["symbol"])
    folder = write(tmp_path, genes)
    lost = names[50:55]
    source = tables_of(genes)["gene_metadata"].sample(frac=1, random_state=3)
    source[~source["gene_symbol"].isin([*lost, *names[80:90]])].to_parquet(folder / "gene_metadata.parquet")
    curated = pd.read_parquet(folder / "var.parquet").sample(frac=1, random_state=4)
    curated.loc[[*lost, *names[100:150]], "ensembl_gene_id"] = None
    curated.to_parquet(folder / "var.parquet")
    ids, symbols = gene_ids(names, located(folder), "tahoe")
    assert ids.tolist() == genes["ensembl_id"].where(~names.isin(lost), genes["symbol"]).tolist()
    assert symbols.tolist() == names.tolist()
    # a gene without an id in either table is looked up by its name
    assert harmonize("tahoe", folder).var_names.tolist() == sorted(genes["ensembl_id"])


def test_the_own_id_of_the_source_comes_before_the_curated_one(tmp_path: Path, genes: pd.DataFrame) -> None:
    retired = genes.set_index("symbol")[["ensembl_id"]].set_axis(["ensembl_gene_id"], axis=1).assign(symbol=None)
    retired.iloc[20, 0] = "ENSG00000139656"
    samples = harmonize("tahoe", write(tmp_path, genes, curated_genes=retired))
    assert samples.var_names.tolist() == sorted(genes["ensembl_id"])


def test_without_the_tables_of_the_source_the_curated_ones_do(tmp_path: Path, genes: pd.DataFrame) -> None:
    obs = harmonize("tahoe", write(tmp_path, genes, tables={})).obs
    assert obs["smiles"].isna().all()
    assert set(obs.loc[obs["perturbagen"] == "Canagliflozin (hemihydrate)", "pubchem_cid_source"]) == {"curated"}


def without_source_samples(path: Path) -> None:
    """Take the source's sample ids out of a plate."""
    plate = ad.read_h5ad(path)
    del plate.obs["sample"]
    plate.write_h5ad(path)


@pytest.mark.parametrize("says_sample", [True, False])
def test_a_drug_that_two_tables_spell_in_another_case_is_one_drug(tmp_path: Path, genes: pd.DataFrame, says_sample: bool) -> None:
    cells = cells_table().replace({"pert_compound": {"Selinexor": "verteporfin"}})
    cells.loc[cells["pert_compound"] == "verteporfin", "pert_dose"] = None
    tables = {name: table.replace("Selinexor ?", "Verteporfin", regex=True) for name, table in tables_of(genes).items()}
    tables["drug_metadata"].loc[1, ["canonical_smiles", "pubchem_cid"]] = ["CCN", 6341.0]
    folder = write(tmp_path, genes, cells, tables=tables)
    if not says_sample:
        without_source_samples(folder / "h5ad" / H5AD.format("plate12"))
    treated = harmonize("tahoe", folder).obs.query("perturbagen == 'verteporfin'")
    assert treated["smiles"].tolist() == ["CCN", "CCN"]
    assert treated["pert_dose_uM"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("says_sample", [True, False])
def test_a_missing_dose_comes_from_the_table_of_wells(tmp_path: Path, genes: pd.DataFrame, says_sample: bool) -> None:
    cells = cells_table()
    cells.loc[cells["pert_compound"] == "Selinexor", "pert_dose"] = None
    folder = write(tmp_path, genes, cells)
    if not says_sample:
        without_source_samples(folder / "h5ad" / H5AD.format("plate12"))
    obs = harmonize("tahoe", folder).obs
    assert obs.loc[obs["perturbagen"] == "Selinexor", "pert_dose_uM"].tolist() == [5.0, 5.0]
    (folder / "sample_metadata.parquet").unlink()
    with pytest.raises(InputError, match=r"column pert_dose_uM; rows plate12 A2 Selinexor CVCL_0023"):
        harmonize("tahoe", folder)


def test_the_organ_of_the_source_stands_in_for_a_missing_tissue(tmp_path: Path, genes: pd.DataFrame) -> None:
    obs = harmonize("tahoe", write(tmp_path, genes, cells_table().drop(columns="tissue"))).obs
    assert obs.groupby("cell_type", observed=True)["tissue"].first().astype(str).to_dict() == {"CVCL_0023": "lung", "CVCL_0320": "bowel"}


def test_a_compound_named_after_the_vehicle_is_no_control(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table().replace({"pert_compound": {"Selinexor": "Trametinib (DMSO_TF solvate)"}})
    tables = {name: table for name, table in tables_of(genes).items() if name != "sample_metadata"}
    obs = harmonize("tahoe", write(tmp_path, genes, cells, tables=tables)).obs
    assert obs.loc[obs["perturbagen"] == "Trametinib (DMSO_TF solvate)", "is_control"].tolist() == [False, False]


def changed(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    return table.assign(**{column: [value, *table[column][1:]]})


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("sample_metadata", "drugname_drugconc", "[('A', 1, 'uM'), ('B', 1, 'uM')]", r"sample_metadata.*rows smp_1.*not one drug"),
        ("sample_metadata", "drugname_drugconc", "[('Selinexor', 1.0, 'uM')]", r"rows smp_1.*not one drug, 'DMSO_TF'"),
        ("sample_metadata", "sample", "smp_2", r"rows smp_2: a sample occurs more than once"),
        ("sample_metadata", "drugname_drugconc", "[('DMSO_TF', 5.0, 'uM')]", r"plate1\.parquet; rows smp_1: .*DMSO_TF at 0 µM.*at 5 µM"),
        ("drug_metadata", "drug", "SELINEXOR", r"rows selinexor: a drug, whatever its case, occurs"),
        ("cell_line_metadata", "Cell_ID_Cellosaur", "CVCL_0320", r"rows CVCL_0320: a cell line with differing organs"),
        ("gene_metadata", "gene_symbol", "MT-ND1", r"rows MT-ND1: a gene occurs more than once"),
    ],
)
def test_tables_that_contradict_themselves_or_the_cells_are_refused(
    tmp_path: Path, genes: pd.DataFrame, table: str, column: str, value: str, message: str
) -> None:
    tables = tables_of(genes)
    tables[table] = changed(tables[table], column, value)
    with pytest.raises(InputError, match=message):
        harmonize("tahoe", write(tmp_path, genes, tables=tables))


def test_plates_that_do_not_belong_together_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    folder = write(tmp_path, genes)
    path = folder / "h5ad" / H5AD.format("plate12")
    plate = ad.read_h5ad(path)
    plate[:, ::-1].copy().write_h5ad(path)
    with pytest.raises(InputError, match=r"plate12_filt.*its genes are not those of the first plate"):
        harmonize("tahoe", folder)
    (folder / "obs" / "plate12.parquet").unlink()
    with pytest.raises(InputError, match=r"plates 12 have counts and no metadata of cells.*obs/plate12\.parquet"):
        harmonize("tahoe", folder)


def test_cells_and_genes_that_no_table_knows_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    folder = write(tmp_path, genes, tables={})
    curated = pd.read_parquet(folder / "var.parquet")
    curated.drop(index=curated.index[7]).to_parquet(folder / "var.parquet")
    with pytest.raises(InputError, match=rf"var\.parquet; rows {curated.index[7]}: 1 genes of the matrices are not in the table"):
        harmonize("tahoe", folder)
    curated.to_parquet(folder / "var.parquet")
    cells = pd.read_parquet(folder / "obs" / "plate1.parquet")
    cells.set_axis(cells.index + "x").to_parquet(folder / "obs" / "plate1.parquet")
    with pytest.raises(InputError, match=r"plate1\.parquet.*no cell of the counts file is in the curated table"):
        harmonize("tahoe", folder)


def test_wells_are_numbered_row_by_row() -> None:
    ids = pd.Index([f"{number:02d}_001_052-lib_1105" for number in (1, 12, 13, 96)])
    assert well_of(ids, "tahoe", Path("plate1.h5ad")).tolist() == ["A1", "A12", "B1", "H12"]
    for wrong in ("00_001", "97_001", "1_001", "AAACCTG-1"):
        with pytest.raises(InputError, match=rf"rows {wrong}: a cell id does not begin with the number of its well"):
            well_of(pd.Index([wrong]), "tahoe", Path("plate1.h5ad"))


def test_accounts_of_plates_add_up() -> None:
    accounts = []
    for n, few, low in ((10, 3, 1), (20, 0, 5)):
        account = Reconciliation()
        account.start("cells", n)
        account.drop("cells", "few", few)
        account.drop("cells", "low", low)
        account.start("samples", n - few - low)
        account.drop("samples", "summed", 2)
        accounts.append(account)
    total = summed(accounts).frame()
    assert total[["n_in", "n_dropped", "n_out"]].to_numpy().tolist() == [[30, 3, 27], [27, 6, 21], [21, 4, 17]]


# ---- published tables of Tahoe-100M ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(real_data: Path) -> Path:
    folder = real_data / "tahoe_explorer_metadata"
    if not folder.is_dir():
        pytest.skip(f"real files absent: {folder}")
    return folder


@pytest.mark.real_data
def test_published_wells(published: Path) -> None:
    wells = read_wells(published / "sample_metadata.parquet", "tahoe")
    assert len(wells) == 14 * 96
    assert wells["plate"].nunique() == 14
    assert wells["perturbagen"].nunique() == 380
    control = wells["perturbagen"] == "DMSO_TF"
    assert control.groupby(wells["plate"]).sum().eq(2).all()
    assert wells.loc[control, "pert_dose_uM"].eq(0).all()
    assert sorted(wells.loc[~control, "pert_dose_uM"].unique()) == [0.05, 0.5, 5.0]


@pytest.mark.real_data
def test_published_compounds_and_how_many_are_found(published: Path) -> None:
    drugs = read_compounds(published / "drug_metadata.parquet", "tahoe")
    wells = read_wells(published / "sample_metadata.parquet", "tahoe")
    # two names end with a blank in the table of wells
    assert set(wells["perturbagen"]) == {*drugs.index, "DMSO_TF"}
    asked = drugs.reset_index().assign(source_perturbagen_id=None, inchikey=None)
    found = shipped().compounds.resolve(asked, "tahoe").set_axis(drugs.index)
    assert found["pubchem_cid"].notna().all()
    curated = found["pubchem_cid_source"] == "curated"
    assert (found["pubchem_cid"][~curated] == drugs["pubchem_cid"][~curated]).all()
    assert found.loc["Verteporfin", "pubchem_cid"] == 5362420
    assert found["pubchem_cid"].nunique() == 378


@pytest.mark.real_data
def test_published_cell_lines(published: Path) -> None:
    organs = read_organs(published / "cell_line_metadata.parquet", "tahoe")
    expected = registry.dataset("tahoe").expectations["cell_context_ids"].published
    assert isinstance(expected, tuple)
    assert set(expected) <= set(organs.index)
    assert organs["CVCL_0023"] == "lung"
    assert set(shipped().cell_contexts.resolve(pd.Series(expected), "tahoe")["cell_type"]) == set(expected)


@pytest.mark.real_data
def test_published_genes(published: Path, tmp_path: Path) -> None:
    source = read_source_genes(published / "gene_metadata.parquet", "tahoe")
    assert len(source) == 62_710
    names = source.index[np.random.default_rng(5).permutation(len(source))]
    curated = pd.DataFrame({"ensembl_gene_id": None, "symbol": names}, index=names)
    curated.to_parquet(tmp_path / "var.parquet")
    files = located(tmp_path) | {"source_genes": [published / "gene_metadata.parquet"], "counts": [tmp_path / "plate1"]}
    ids, _ = gene_ids(names, files, "tahoe")
    assert (ids == source[names]).all()
    current = shipped().genes.resolve(pd.Series(ids), "mixed")["ensembl_id"].nunique()
    expected = registry.dataset("tahoe").expectations["genes"].ours
    assert expected.low <= current <= expected.high
