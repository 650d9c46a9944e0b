"""OP3 from its native file to harmonized samples."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources import harmonize

FILE = "pseudobulk_filtered_with_uns.h5ad"


def samples_table() -> pd.DataFrame:
    """Sixteen samples: of two donors, two kinds of cells, each with a vehicle, two compounds and a positive control."""
    wells = [
        ("A1", "Dimethyl Sulfoxide", "LSM-36361", "CS(C)=O", 14.1, True, "control"),
        ("B1", "Vorinostat", "LSM-3828", "ONC(=O)CCCCCCC(=O)Nc1ccccc1", 1.0, False, "train"),
        ("C1", "Proscillaridin A;Proscillaridin-A", "LSM-1", None, 0.1, False, "public_test"),
        ("D1", "Dabrafenib", "LSM-6303", "CCO", 1.0, True, "control"),
    ]
    rows = [
        (*well, plate, donor, cells, count)
        for plate, donor in (("NeurIPS2023 - 012", "Donor 1"), ("NeurIPS2023 - 014", "Donor 2"))
        for well in wells
        for cells, count in (("T cells", 80), ("NK cells", 3))
    ]
    names = ["well", "sm_name", "sm_lincs_id", "SMILES", "dose_uM", "control", "split"]
    table = pd.DataFrame(rows, columns=[*names, "plate_name", "donor_id", "cell_type", "cell_count_by_well_celltype"])
    return table.assign(timepoint_hr=24.0, library_id=table["plate_name"] + " lib A").rename(index=str)


def counts_of(table: pd.DataFrame, n_genes: int) -> np.ndarray:
    return np.random.default_rng(2).poisson(6, (len(table), n_genes)).astype(np.float32)


def write(folder: Path, symbols: list[str], table: pd.DataFrame | None = None, counts: np.ndarray | None = None) -> Path:
    table = samples_table() if table is None else table
    counts = counts_of(table, len(symbols)) if counts is None else counts
    written = ad.AnnData(counts if sparse.issparse(counts) else sparse.csr_matrix(counts), obs=table, var=pd.DataFrame(index=symbols))
    written.uns["single_cell_obs"] = table[["well"]]
    written.write_h5ad(folder / FILE)
    return folder


@pytest.fixture
def symbols(genes: pd.DataFrame) -> list[str]:
    return genes["symbol"].str.upper().tolist()[14:64]


def steps_of(samples: ad.AnnData) -> dict[str, tuple[int, int]]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return {rule: (n_in, n_dropped) for _, _, rule, n_in, n_dropped, _ in steps.itertuples(index=False)}


def test_pseudobulk_becomes_samples_of_the_contract(tmp_path: Path, symbols: list[str], genes: pd.DataFrame) -> None:
    table = samples_table()
    counts = counts_of(table, len(symbols))
    samples = harmonize("op3", write(tmp_path, symbols, table, counts))
    obs = samples.obs
    assert obs.index[:3].tolist() == [
        "NeurIPS2023_012_A1_Dimethyl_Sulfoxide_CL_0000084",
        "NeurIPS2023_012_B1_Vorinostat_CL_0000084",
        "NeurIPS2023_012_C1_Proscillaridin_A;Proscillaridin-A_CL_0000084",
    ]
    assert obs["cell_type"].tolist() == ["CL_0000084"] * 6 + ["CL_0000623"] * 6
    assert obs["is_control"].tolist() == [True, False, False] * 4
    # the source gives the vehicle a dose
    assert obs["pert_dose_uM"].tolist() == [0.0, 1.0, 0.1] * 4
    assert set(obs["pert_time_h"]) == {24.0}
    assert obs["psbulk_cells"].tolist() == [80] * 6 + [3] * 6
    assert obs["library"].unique().tolist() == ["NeurIPS2023_012libA", "NeurIPS2023_014libA"]
    assert set(obs.loc[obs["perturbagen"] == "Vorinostat", "pubchem_cid"]) == {5311}
    kept = np.flatnonzero(table["sm_name"] != "Dabrafenib")
    order = np.argsort(genes["ensembl_id"].to_numpy()[14:64])
    expected = counts[np.concatenate([kept[::2], kept[1::2]])][:, order]
    np.testing.assert_array_equal(samples.X.toarray(), expected)


def test_donors_and_splits_stay_with_the_samples(tmp_path: Path, symbols: list[str]) -> None:
    obs = harmonize("op3", write(tmp_path, symbols)).obs
    assert obs["donor"].tolist() == (["Donor 1"] * 3 + ["Donor 2"] * 3) * 2
    assert obs["split"].tolist() == ["control", "train", "public_test"] * 4
    donors = obs.astype(str).groupby("donor")[["sex", "development_stage", "self_reported_ethnicity"]].first()
    assert donors.to_numpy().tolist() == [["female", "45-year-old stage", "White"], ["male", "52-year-old stage", "White"]]


def test_positive_controls_and_unknown_symbols_are_dropped(tmp_path: Path, symbols: list[str]) -> None:
    steps = steps_of(harmonize("op3", write(tmp_path, [*symbols[:-2], "AC900001.1", "NOWHERE7"])))
    assert steps == {
        "positive control": (16, 4),
        "no current Ensembl id": (50, 2),
        "several source genes on one Ensembl id": (48, 0),
    }


def test_a_matrix_stored_by_gene_is_refused_with_what_to_do(tmp_path: Path, symbols: list[str]) -> None:
    by_gene = sparse.csc_matrix(counts_of(samples_table(), len(symbols)))
    with pytest.raises(InputError, match=rf"dataset op3; file .*{FILE}: /X is stored by column \(CSC\).*tocsr"):
        harmonize("op3", write(tmp_path, symbols, counts=by_gene))


def test_a_flag_written_as_text_is_read(tmp_path: Path, symbols: list[str]) -> None:
    table = samples_table().assign(control=lambda table: table["control"].astype(str))
    assert harmonize("op3", write(tmp_path, symbols, table)).n_obs == 12


@pytest.mark.parametrize(
    ("column", "of", "value", "message"),
    [
        ("control", "Vorinostat", "maybe", r"column control; rows 2, 3, 10, 11: control is 'maybe'"),
        ("sm_name", "Dimethyl Sulfoxide", "Methanol", r"no vehicle control found among Dabrafenib, Methanol"),
        ("cell_type", "Vorinostat", "", r"column source_cell_context"),
        ("dose_uM", "Vorinostat", "ten", r"column pert_dose_uM; rows NeurIPS2023_012 B1 Vorinostat T cells"),
        ("timepoint_hr", "Vorinostat", "", r"column pert_time_h"),
    ],
)
def test_bad_metadata_is_refused(tmp_path: Path, symbols: list[str], column: str, of: str, value: str, message: str) -> None:
    table = samples_table()
    table[column] = table[column].astype(str).mask(table["sm_name"] == of, value)
    with pytest.raises(InputError, match=message) as raised:
        harmonize("op3", write(tmp_path, symbols, table))
    assert raised.value.dataset == "op3"


def test_missing_columns_repeated_genes_and_fractions_are_refused(tmp_path: Path, symbols: list[str]) -> None:
    with pytest.raises(InputError, match=r"there is no column split, donor_id"):
        harmonize("op3", write(tmp_path, symbols, samples_table().drop(columns=["split", "donor_id"])))
    with pytest.warns(UserWarning, match="not unique"):
        write(tmp_path, [*symbols[:-1], symbols[0]])
    with pytest.raises(InputError, match=rf"rows {symbols[0]}: a gene occurs more than once"):
        harmonize("op3", tmp_path)
    counts = counts_of(samples_table(), len(symbols))
    counts[4, 7] = 0.5
    with pytest.raises(InputError, match=rf"rows 4: 0\.5 of gene {symbols[7]} is not a count"):
        harmonize("op3", write(tmp_path, symbols, counts=counts))


def test_a_damaged_file_is_refused(tmp_path: Path, symbols: list[str]) -> None:
    file = write(tmp_path, symbols) / FILE
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(InputError, match=rf"{FILE}: the file cannot be read as HDF5"):
        harmonize("op3", tmp_path)
