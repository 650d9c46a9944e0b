"""sci-Plex from native files to harmonized samples."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources import harmonize

NAME = "srivatsan20_sciplex3"


def cells_table() -> pd.DataFrame:
    """Twelve nuclei of two lines: per line a vehicle well and a treated well, three nuclei each."""
    wells = [
        ("A549", "Vehicle", "S0000", "control", None, "plate1", "plate1_A1", 24.0),
        ("A549", "Panobinostat (LBH589)", "S1030", "Panobinostat", "10.0nM", "plate1", "plate1_C7", 24.0),
        ("K-562", "Vehicle", "S0000", "control", None, "plate1", "plate2_A1", 24.0),
        ("K-562", "Tie2 kinase inhibitor", "S1577", "Tie2", "10000.0nM", "plate2", "plate2_B2", 24.0),
    ]
    columns = ["cell_line", "product_name", "catalog_number", "pert_compound", "pert_dose", "plate", "well", "time"]
    cells = pd.DataFrame([well for well in wells for _ in range(3)], columns=columns, dtype=object)
    cells["time"] = cells["time"].astype(float)
    cells.index = pd.Index([f"cell{number}" for number in range(len(cells))], name="cell")
    return cells


def counts_of(cells: pd.DataFrame, n_genes: int) -> np.ndarray:
    """Counts that pass every filter: MALAT1 100, mitochondrial genes 1, others 3 to 5."""
    counts = np.random.default_rng(1).integers(3, 6, (len(cells), n_genes))
    counts[:, 0] = 100
    counts[:, 1:14] = 1
    return counts


def write(
    folder: Path, cells: pd.DataFrame, counts: object, genes: pd.DataFrame, *, curated: pd.DataFrame | None = None, symbol: bool = True
) -> Path:
    """Write the three native files."""
    total = np.asarray(counts.sum(axis=1)).ravel().astype(float)
    var = genes.set_index("ensembl_id")
    original = cells[["cell_line", "product_name", "catalog_number"]].assign(ncounts=total)
    written = ad.AnnData(counts if sparse.issparse(counts) else sparse.csr_matrix(counts), obs=original, var=var if symbol else var[[]])
    (folder / "obs").mkdir()
    (folder / "var").mkdir()
    written.write_h5ad(folder / f"{NAME}.h5ad")
    if curated is None:
        curated = cells.drop(columns=["product_name", "catalog_number"]).assign(ncounts=total, tissue="lung", sex="unknown")
    curated.to_parquet(folder / "obs" / f"{NAME}.parquet")
    var.to_parquet(folder / "var" / f"{NAME}.parquet")
    return folder


def steps_of(samples: ad.AnnData) -> dict[str, tuple[int, int]]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return {rule: (n_in, n_dropped) for _, _, rule, n_in, n_dropped, _ in steps.itertuples(index=False)}


def test_cells_become_samples_of_the_contract(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    counts = counts_of(cells, len(genes))
    samples = harmonize("sciplex", write(tmp_path, cells, counts, genes))
    assert samples.obs_names.tolist() == [
        "plate1_plate2_A1_DMSO_CVCL_0004",
        "plate2_plate2_B2_Tie2_kinase_inhibitor_CVCL_0004",
        "plate1_plate1_A1_DMSO_CVCL_0023",
        "plate1_plate1_C7_Panobinostat_(LBH589)_CVCL_0023",
    ]
    assert samples.obs["perturbagen"].tolist() == ["DMSO", "Tie2 kinase inhibitor", "DMSO", "Panobinostat (LBH589)"]
    assert samples.obs["source_perturbagen_id"].tolist() == ["S0000", "S1577", "S0000", "S1030"]
    assert samples.obs["is_control"].tolist() == [True, False, True, False]
    assert samples.obs["pert_dose_uM"].tolist() == [0.0, 10.0, 0.0, 0.01]
    assert samples.obs["pert_time_h"].tolist() == [24.0] * 4
    assert samples.obs["psbulk_cells"].tolist() == [3] * 4
    assert samples.obs["suspension_type"].unique().tolist() == ["nucleus"]
    assert samples.obs["tissue"].unique().tolist() == ["lung"]
    assert samples.obs.loc[samples.obs["is_control"], "pubchem_cid"].tolist() == [679, 679]
    order = np.argsort(genes["ensembl_id"].to_numpy())
    expected = np.stack([counts[start : start + 3, order].sum(axis=0) for start in (6, 9, 0, 3)])
    assert samples.X.dtype == np.int64
    np.testing.assert_array_equal(samples.X.toarray(), expected)
    assert samples.obs["psbulk_counts"].tolist() == expected.sum(axis=1).tolist()
    assert samples.var_names.tolist() == sorted(genes["ensembl_id"])


def test_every_rule_is_recorded_with_its_count(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    counts = counts_of(cells, len(genes))
    counts[0, 60:] = 0  # too few genes
    counts[1, 1:14] = 40  # mitochondrial
    cells.loc["cell4", "well"] = None
    cells.loc["cell7", "plate"] = None
    counts[10, 0] = 1  # an empty droplet
    cells.loc["cell11", "product_name"] = None
    cells.loc["cell11", "pert_compound"] = "Tie2 kinase inhibitor"
    steps = steps_of(harmonize("sciplex", write(tmp_path, cells, counts, genes)))
    assert steps == {
        "cells without a product name take the curated compound name: 1": (12, 0),
        "fewer than 250 genes or 700 counts, or mitochondrial above 20%": (12, 2),
        "no value of one of plate, well, perturbagen, source_cell_context": (10, 2),
        "log-normalized MALAT1 below 3.5": (8, 1),
        "cells of one plate, well, perturbagen, source_cell_context summed to a sample": (7, 3),
        "no curated compound and no dose known": (4, 0),
        "column header read as a gene": (300, 0),
        "no current Ensembl id": (300, 0),
        "several source genes on one Ensembl id": (300, 0),
    }


def test_a_header_row_read_as_a_gene_and_a_retired_gene_are_dropped(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    odd = genes.copy()
    odd.loc[298] = ["id", "gene_short_name"]
    odd.loc[299] = ["ENSG99999999999", "NOWHERE"]
    samples = harmonize("sciplex", write(tmp_path, cells, counts_of(cells, 300), odd))
    steps = steps_of(samples)
    assert steps["column header read as a gene"] == (300, 1)
    assert steps["no current Ensembl id"] == (299, 1)
    assert samples.n_vars == 298
    assert samples.obs["psbulk_counts"].tolist() == samples.X.sum(axis=1).A1.tolist()


def test_cells_that_the_curators_do_not_know_are_dropped(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    counts = counts_of(cells, 300)
    curated = cells.drop(columns=["product_name", "catalog_number"]).assign(ncounts=5_000.0).drop(index=["cell0", "cell3"])
    samples = harmonize("sciplex", write(tmp_path, cells, counts, genes, curated=curated[::-1]))
    assert steps_of(samples)["no value of one of plate, well, perturbagen, source_cell_context"] == (12, 2)
    assert samples.obs["psbulk_cells"].tolist() == [3, 3, 2, 2]


def test_nuclei_without_curated_compound_and_dose_are_dropped_unless_their_sample_has_a_dose(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = edited(cells_table(), slice(9, 12), pert_compound=None, pert_dose=None)
    # of this sample, another nucleus has the dose
    cells = edited(cells, slice(3, 4), pert_compound=None, pert_dose=None)
    # a vehicle needs none
    cells = edited(cells, slice(0, 3), pert_compound=None)
    samples = harmonize("sciplex", write(tmp_path, cells, counts_of(cells, 300), genes))
    steps = samples.uns["reconciliation"].set_index(["axis", "rule"])[["n_in", "n_dropped"]]
    rule = "no curated compound and no dose known"
    assert {axis: tuple(steps.loc[(axis, rule)]) for axis in ("cells", "samples", "conditions")} == {
        "cells": (12, 3),
        "samples": (4, 1),
        "conditions": (4, 1),
    }
    assert dict(zip(samples.obs["perturbagen"], samples.obs["psbulk_cells"], strict=True)) == {"DMSO": 3, "Panobinostat (LBH589)": 3}
    assert samples.obs["psbulk_counts"].tolist() == samples.X.sum(axis=1).A1.tolist()


def test_symbols_come_from_the_gene_table_where_the_counts_have_none(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    counts = counts_of(cells, 300)
    counts[1, 1:14] = 40
    folder = write(tmp_path, cells, counts, genes, symbol=False)
    assert steps_of(harmonize("sciplex", folder))["fewer than 250 genes or 700 counts, or mitochondrial above 20%"] == (12, 1)
    (folder / "var" / f"{NAME}.parquet").unlink()
    with pytest.raises(InputError, match="column symbol: the genes have no symbols"):
        harmonize("sciplex", folder)


def test_the_order_of_cells_does_not_matter(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    counts = counts_of(cells, 300)
    shuffled = np.random.default_rng(2).permutation(len(cells))
    results = []
    for name, order in (("a", np.arange(len(cells))), ("b", shuffled)):
        (tmp_path / name).mkdir()
        results.append(harmonize("sciplex", write(tmp_path / name, cells.iloc[order], counts[order], genes)))
    pd.testing.assert_frame_equal(results[0].obs, results[1].obs)
    np.testing.assert_array_equal(results[0].X.toarray(), results[1].X.toarray())


def edited(cells: pd.DataFrame, rows: slice, **values: object) -> pd.DataFrame:
    changed = cells.copy()
    for column, value in values.items():
        changed.iloc[rows, changed.columns.get_loc(column)] = value
    return changed


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (slice(0, None), {"product_name": "Mock", "pert_compound": "mock"}, r"no vehicle control found among Mock.*product_name Vehicle"),
        (slice(0, 3), {"product_name": "Mock", "pert_compound": "mock", "pert_dose": "0.0nM"}, r"without vehicle controls.*"),
        (slice(0, 1), {"pert_compound": "panobinostat"}, r"rows cell0: product_name and pert_compound disagree"),
        # a dose that is not understood, or missing beside a curated compound, is a mistake of the table
        (slice(3, 6), {"pert_dose": None}, r"column pert_dose_uM; rows plate1 plate1_C7 Panobinostat \(LBH589\) A549"),
        (slice(3, 6), {"pert_dose": "ten", "pert_compound": None}, r"column pert_dose_uM; rows plate1 plate1_C7"),
        (slice(3, 6), {"pert_dose": "ten"}, r"column pert_dose_uM; rows plate1 plate1_C7 Panobinostat \(LBH589\) A549"),
        (slice(3, 4), {"pert_dose": "100.0nM"}, r"column pert_dose_uM.*differ"),
        (slice(0, None), {"time": np.nan}, r"column pert_time_h"),
    ],
)
def test_bad_metadata_is_refused(tmp_path: Path, genes: pd.DataFrame, rows: slice, values: dict[str, object], message: str) -> None:
    cells = edited(cells_table(), rows, **values)
    with pytest.raises(InputError, match=message) as raised:
        harmonize("sciplex", write(tmp_path, cells, counts_of(cells, 300), genes))
    assert raised.value.dataset == "sciplex"


@pytest.mark.parametrize("value", [-1.0, 1.5])
def test_values_that_are_no_counts_are_refused(tmp_path: Path, genes: pd.DataFrame, value: float) -> None:
    cells = cells_table()
    counts = counts_of(cells, 300).astype(float)
    counts[5, 20] = value
    with pytest.raises(InputError, match=rf"{NAME}\.h5ad; rows cell5: {value} of gene {genes['ensembl_id'][20]} is not a count"):
        harmonize("sciplex", write(tmp_path, cells, counts, genes))


def test_a_matrix_stored_by_gene_gives_the_same_samples(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    by_gene, by_cell = (
        harmonize("sciplex", write(folder, cells, stored(counts_of(cells, 300)), genes))
        for folder, stored in ((tmp_path / "csc", sparse.csc_matrix), (tmp_path / "csr", sparse.csr_matrix))
        if folder.mkdir() is None
    )
    pd.testing.assert_frame_equal(by_gene.obs, by_cell.obs)
    np.testing.assert_array_equal(by_gene.X.toarray(), by_cell.X.toarray())


def test_repeated_cells_and_other_cells_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    curated = cells.assign(ncounts=1000.0)
    folder = write(tmp_path, cells, counts_of(cells, 300), genes, curated=pd.concat([curated, curated.iloc[:1]]))
    with pytest.raises(InputError, match=r"rows cell0: a cell occurs more than once"):
        harmonize("sciplex", folder)
    curated.set_axis(curated.index + "x").to_parquet(folder / "obs" / f"{NAME}.parquet")
    with pytest.raises(InputError, match="no cell of the counts file is in the curated table"):
        harmonize("sciplex", folder)


def test_damaged_files_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    cells = cells_table()
    folder = write(tmp_path, cells, counts_of(cells, 300), genes)
    table = folder / "obs" / f"{NAME}.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"{NAME}\.parquet: the file cannot be read as Parquet"):
        harmonize("sciplex", folder)
    table.write_bytes(whole)
    matrix = folder / f"{NAME}.h5ad"
    matrix.write_bytes(matrix.read_bytes()[:-5000])
    with pytest.raises(InputError, match=rf"{NAME}\.h5ad: the file cannot be read as HDF5"):
        harmonize("sciplex", folder)
