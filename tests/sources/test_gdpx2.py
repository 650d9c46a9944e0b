"""GDPx2 from native files to harmonized samples."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster.effects import split_strata
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources import harmonize

COMPOUNDS = "compounds-GDPx2-2026-02-09.csv"
VORINOSTAT = ("u-1", "WAEXFXRVDQXREF-UHFFFAOYSA-N", "ONC(=O)CCCCCCC(=O)Nc1ccccc1")


def metadata() -> pd.DataFrame:
    """Ten samples of two vehicle levels."""
    wells = [
        ("s1", "1", "u-0", "Ginkgo Neg Control - DMSO", "DMSO", "0.0625%", 0.0625),
        ("s2", "2", "u-1", "library", "Vorinostat", "9.5nM", 0.0625),
        ("s3", "3", "u-1", "library", "Vorinostat", "30.0nM", 0.0625),
        ("s4", "4", "u-9", "Ginkgo Pos Control - Staurosporine", "Staurosporine", "1.0uM", 0.0625),
        ("s5", "5", "u-0", "Ginkgo Neg Control - DMSO", "DMSO", "0.625%", 0.625),
        ("s6", "6", "u-1", "library", "Vorinostat", "1000.0nM", 0.625),
        ("s7", "7", "u-1", "library", "Vorinostat", "3.0µM", 0.625),
        ("s8", "8", "u-2", "library", "GDP-1", "3.0uM", 0.625),
        ("s9", "9", "u-2", "library", "GDP-1", "3.0uM", 0.625),
        ("s10", "10", "u-2", "library", "GDP-1", "0.95uM", 0.625),
    ]
    names = ["sequenced_id", "column_id", "compound", "sample_type", "pert_name", "pert_dose", "percent_volume_dmso"]
    table = pd.DataFrame(wells, columns=names).assign(container_id="GDPX2-P-01", row_id=2.0, pert_time="24.0h")
    table = table.assign(cell_type="aortic smooth muscle cell", pert_type="compound", assay="DRUG-seq", suspension_type="cell")
    return table.set_index("sequenced_id")


def gene_table(genes: pd.DataFrame) -> pd.DataFrame:
    """Ten genes: ids, ids with a version, symbols alone; one gene twice, one without any name, two spike-ins."""
    ids, symbols = genes["ensembl_id"].tolist()[20:27], genes["symbol"].tolist()[20:27]
    rows = [
        *((symbols[i], ids[i], symbols[i]) for i in (0, 1)),
        *((symbols[i], f"{ids[i]}.12", symbols[i]) for i in (2, 3)),
        *((symbols[i], None, symbols[i].lower()) for i in (4, 5)),
        (f"{symbols[0]}-1", ids[0], symbols[0]),
        ("nan", None, None),
        ("ERCC-00002", None, None),
        ("ERCC-00003", None, "ERCC-00003"),
    ]
    return pd.DataFrame(rows, columns=["name", "ensembl_gene_id", "symbol"]).set_index("name")


def write(
    folder: Path,
    genes: pd.DataFrame,
    *,
    table: pd.DataFrame | None = None,
    counts: np.ndarray | None = None,
    var: pd.DataFrame | None = None,
) -> Path:
    """Write the native files; s9 was never sequenced, s10 has spike-ins alone."""
    own = gene_table(genes)
    rows = [name for name in metadata().index if name != "s9"]
    counts = counts_of(genes) if counts is None else counts
    written = ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=own.index.tolist()))
    written.write_h5ad(folder / "X.h5ad")
    (metadata() if table is None else table)[::-1].to_parquet(folder / "obs.parquet")
    (own if var is None else var)[::-1].to_parquet(folder / "var.parquet")
    chemistry = pd.DataFrame([VORINOSTAT, VORINOSTAT, ("u-2", None, None)], columns=["compound", "inchi_key", "canonical_smiles"])
    chemistry.to_csv(folder / COMPOUNDS, index=False)
    return folder


def counts_of(genes: pd.DataFrame) -> np.ndarray:
    counts = np.random.default_rng(6).poisson(9, (9, len(gene_table(genes)))).astype(np.float32)
    counts[8, :8] = 0
    return counts


def steps_of(samples: ad.AnnData) -> dict[str, tuple[int, int]]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return {rule: (n_in, n_dropped) for _, _, rule, n_in, n_dropped, _ in steps.itertuples(index=False)}


def test_wells_become_samples_of_the_contract(tmp_path: Path, genes: pd.DataFrame) -> None:
    obs = harmonize("gdpx2", write(tmp_path, genes)).obs
    assert obs.index.tolist() == [
        "GDPX2_P_01_row2_col1_DMSO_CL_0002539",
        "GDPX2_P_01_row2_col2_Vorinostat_CL_0002539",
        "GDPX2_P_01_row2_col3_Vorinostat_CL_0002539",
        "GDPX2_P_01_row2_col5_DMSO_CL_0002539",
        "GDPX2_P_01_row2_col6_Vorinostat_CL_0002539",
        "GDPX2_P_01_row2_col7_Vorinostat_CL_0002539",
        "GDPX2_P_01_row2_col8_GDP-1_CL_0002539",
    ]
    assert obs["is_control"].tolist() == [True, False, False, True, False, False, False]
    assert obs["pert_dose_uM"].tolist() == [0.0, 0.0095, 0.03, 0.0, 1.0, 3.0, 3.0]
    assert obs["percent_volume_dmso"].tolist() == [0.0625] * 3 + [0.625] * 4
    assert obs["source_perturbagen_id"].tolist() == ["u-0", "u-1", "u-1", "u-0", "u-1", "u-1", "u-2"]
    assert set(obs.loc[obs["perturbagen"] == "Vorinostat", "pubchem_cid"]) == {5311}
    assert set(obs["suspension_type"]) == {"cell"}
    assert set(obs["tissue"]) == {"aorta"}


def test_a_vehicle_level_is_a_stratum(tmp_path: Path, genes: pd.DataFrame) -> None:
    strata = {stratum.stratum: len(samples) for stratum, samples in split_strata(harmonize("gdpx2", write(tmp_path, genes)), "gdpx2")}
    assert strata == {"CL_0002539_0.0625": 3, "CL_0002539_0.625": 4}


def test_genes_are_found_by_id_or_symbol_and_summed_where_they_are_one(tmp_path: Path, genes: pd.DataFrame) -> None:
    samples = harmonize("gdpx2", write(tmp_path, genes))
    ids = genes["ensembl_id"].tolist()[20:26]
    assert samples.var_names.tolist() == sorted(ids)
    assert samples.var.index[samples.var["is_merged"]].tolist() == [ids[0]]
    counts = counts_of(genes)[[0, 1, 2, 4, 5, 6, 7]]
    for column, gene in enumerate(ids):
        expected = counts[:, column] + (counts[:, 6] if column == 0 else 0)
        np.testing.assert_array_equal(samples[:, gene].X.toarray().ravel(), expected)
    # the word nan is a name of SCN11A, and here only says that there is no name
    assert "ENSG00000168356" not in samples.var_names


def test_every_rule_is_recorded_with_its_count(tmp_path: Path, genes: pd.DataFrame) -> None:
    assert steps_of(harmonize("gdpx2", write(tmp_path, genes))) == {
        "no row of counts": (10, 1),
        "spike-in, ERCC-…": (10, 2),
        "no Ensembl id, symbol or name": (8, 1),
        "total count of 0": (9, 1),
        "positive control": (8, 1),
        "no current Ensembl id": (7, 0),
        "several source genes on one Ensembl id": (7, 1),
    }


def test_conditions_that_lose_all_their_samples_are_counted(tmp_path: Path, genes: pd.DataFrame) -> None:
    steps = harmonize("gdpx2", write(tmp_path, genes)).uns["reconciliation"].query("axis == 'conditions'")
    # s9 repeats s8, s10 is alone with its dose, the positive control goes; both vehicle levels are one vehicle
    assert steps[["rule", "n_in", "n_dropped"]].to_numpy().tolist() == [
        ["no row of counts", 8, 0],
        ["total count of 0", 8, 1],
        ["positive control", 7, 1],
        ["spelled in several ways by the source", 6, 0],
    ]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"percent_volume_dmso": np.nan}, r"obs\.parquet; column percent_volume_dmso; rows s2: the vehicle level is None"),
        ({"pert_dose": "ten"}, r"column pert_dose_uM; rows s2"),
        ({"cell_type": None}, r"column source_cell_context; rows s2"),
        ({"pert_time": "a day"}, r"column pert_time_h; rows s2"),
    ],
)
def test_bad_metadata_is_refused(tmp_path: Path, genes: pd.DataFrame, edit: dict[str, object], message: str) -> None:
    table = metadata()
    for column, value in edit.items():
        table.loc["s2", column] = value
    with pytest.raises(InputError, match=message):
        harmonize("gdpx2", write(tmp_path, genes, table=table))


def test_tables_of_another_release_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"obs\.parquet.*rows s3: 1 samples of the counts have no metadata"):
        harmonize("gdpx2", write(tmp_path, genes, table=metadata().drop(index="s3")))
    own = gene_table(genes)
    with pytest.raises(InputError, match=rf"var\.parquet; rows {own.index[3]}: 1 genes of the counts are not in the table"):
        harmonize("gdpx2", write(tmp_path, genes, var=own.drop(index=own.index[3])))
    with pytest.raises(InputError, match=rf"rows {own.index[2]}: a gene occurs more than once"):
        harmonize("gdpx2", write(tmp_path, genes, var=pd.concat([own, own.iloc[[2]]])))


def test_samples_listed_twice_other_structures_and_missing_controls_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"rows s1: a sample occurs more than once"):
        harmonize("gdpx2", write(tmp_path, genes, table=pd.concat([metadata(), metadata().iloc[:1]])))
    folder = write(tmp_path, genes, table=metadata().replace({"sample_type": {"Ginkgo Neg Control - DMSO": "DMSO"}}))
    with pytest.raises(InputError, match=r"no vehicle control found among DMSO, Ginkgo Pos Control"):
        harmonize("gdpx2", folder)
    write(tmp_path, genes)
    pd.DataFrame({"compound": ["u-1", "u-1"], "smiles": ["C", "CC"]}).to_csv(folder / COMPOUNDS, index=False)
    with pytest.raises(InputError, match=r"rows u-1: a compound with differing structures occurs more than once"):
        harmonize("gdpx2", folder)


def test_values_that_are_no_counts_are_refused(tmp_path: Path, genes: pd.DataFrame) -> None:
    counts = counts_of(genes)
    counts[2, 1] = -1
    gene = genes["ensembl_id"].tolist()[21]
    with pytest.raises(InputError, match=rf"X\.h5ad; rows s3: -1\.0 of gene {gene} is not a count"):
        harmonize("gdpx2", write(tmp_path, genes, counts=counts))
