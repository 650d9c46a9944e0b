"""VCPI releases from native files to harmonized samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources import harmonize, vcpi

GENES = ["ENSG00000000003", "ENSG00000000419", "ERCC-00002", "ENSG00000000457", "ERCC-00003"]
NATIVE = [0, 1, 3]

VORINOSTAT = {"compound": "u-1", "smiles": "ONC(=O)CCCCCCC(=O)Nc1ccccc1", "inchi_key": "WAEXFXRVDQXREF-UHFFFAOYSA-N", "purity_pct": 99}
DMSO = {"compound": "u-0", "smiles": "CS(C)=O", "inchi_key": "IAZDPXIOMUYVGZ-UHFFFAOYSA-N", "purity_pct": 100}


def metadata() -> pd.DataFrame:
    """Eight samples: DMSO, a compound at two doses, one named by a number, a positive control."""
    samples = [
        ("s1", "C-1", "1", "1", "u-0", "DMSO", "0", "nM", "true"),
        ("s2", "C-1", "1", "2", "u-1", "vorinostat", "30", "nM", "false"),
        ("s3", "C-1", "1", "3", "u-1", "vorinostat", "10000", "NM", "false"),
        ("s4", "C-1", "1", "4", "u-2", "2244", "1", "uM", "false"),
        ("s5", "C-1", "1", "5", "u-3", "staurosporine", "10000", "nM", "TRUE"),
        ("s6", "C-2", "1", "1", "u-0", "DMSO", "0.15", "%", "True"),
        ("s7", "C-2", "1", "2", "u-1", "vorinostat", "30", "nM", "False"),
        ("s8", "C-2", "1", "3", "u-1", "vorinostat", "10000", "nM", "false"),
    ]
    names = ["sequenced_id", "container_id", "row_id", "column_id", "compound", "user_compound_id"]
    table = pd.DataFrame(samples, columns=[*names, "compound_concentration", "compound_concentration_unit", "is_control"])
    return table.assign(timepoint="24h", cell_line="THP-1", ngenes3="12000")


def counts(table: pd.DataFrame) -> pd.DataFrame:
    ids = list(dict.fromkeys(table["sequenced_id"]))
    values = np.random.default_rng(4).poisson(20, (len(GENES), len(ids)))
    return pd.DataFrame(values, columns=ids).set_axis(GENES).rename_axis("gene_id").reset_index()


def write(folder: Path, table: pd.DataFrame | None = None, data: pd.DataFrame | None = None, chemistry: Any = None) -> Path:
    table = metadata() if table is None else table
    (counts(table) if data is None else data).to_parquet(folder / "data.parquet", index=False)
    table.to_csv(folder / "metadata.csv", index=False)
    records = [DMSO, VORINOSTAT, VORINOSTAT | {"purity_pct": 98}, {"compound": "u-2", "smiles": None, "inchi_key": None}]
    (folder / "chemistry.json").write_text(json.dumps(records if chemistry is None else chemistry))
    return folder


def steps_of(samples: ad.AnnData) -> dict[str, tuple[int, int]]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return {rule: (n_in, n_dropped) for _, _, rule, n_in, n_dropped, _ in steps.itertuples(index=False)}


def test_sequenced_samples_become_samples_of_the_contract(tmp_path: Path) -> None:
    samples = harmonize("vcpi_0001", write(tmp_path))
    assert samples.obs_names.tolist() == [
        "C_1_row1_col1_DMSO_CVCL_0006",
        "C_1_row1_col2_vorinostat_CVCL_0006",
        "C_1_row1_col3_vorinostat_CVCL_0006",
        "C_1_row1_col4_2244_CVCL_0006",
        "C_2_row1_col1_DMSO_CVCL_0006",
        "C_2_row1_col2_vorinostat_CVCL_0006",
        "C_2_row1_col3_vorinostat_CVCL_0006",
    ]
    obs = samples.obs
    assert obs["pert_dose_uM"].tolist() == [0.0, 0.03, 10.0, 1.0, 0.0, 0.03, 10.0]
    assert obs["is_control"].tolist() == [True, False, False, False, True, False, False]
    assert obs["source_perturbagen_id"].tolist()[:4] == ["u-0", "u-1", "u-1", "u-2"]
    assert obs["sex"].unique().tolist() == ["male"]
    assert obs["tissue"].unique().tolist() == ["peripheral blood"]
    assert obs["development_stage"].unique().tolist() == ["1-year-old stage"]
    expected = counts(metadata()).set_index("gene_id").loc[[GENES[gene] for gene in NATIVE], ["s1", "s2", "s3", "s4", "s6", "s7", "s8"]].T
    assert samples.X.dtype == np.int64
    np.testing.assert_array_equal(samples.X.toarray(), expected.to_numpy())
    assert obs["psbulk_counts"].tolist() == expected.sum(axis=1).tolist()
    assert obs["psbulk_cells"].isna().all()


def test_a_number_is_never_looked_up_as_a_name(tmp_path: Path) -> None:
    obs = harmonize("vcpi_0001", write(tmp_path)).obs
    # 2244 is the PubChem id of aspirin
    assert obs.loc[obs["perturbagen"] == "2244", "pubchem_cid"].isna().all()
    assert obs.loc[obs["is_control"], "pubchem_cid"].tolist() == [679, 679]


def test_every_rule_is_recorded_with_its_count(tmp_path: Path) -> None:
    table = metadata()
    data = counts(table).drop(columns="s8")
    data.loc[NATIVE, "s7"] = 0
    repeated = pd.concat([table, table.iloc[[1, 2]]])
    assert steps_of(harmonize("vcpi_0001", write(tmp_path, repeated, data))) == {
        "metadata row that repeats another": (10, 2),
        "no column of counts": (8, 1),
        "spike-in, ERCC-…": (5, 2),
        "total count of 0": (7, 1),
        "positive control": (6, 1),
        "no current Ensembl id": (3, 0),
        "several source genes on one Ensembl id": (3, 0),
    }


@pytest.mark.parametrize("max_values", [1, 10, 15])
def test_values_do_not_depend_on_how_much_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_values: int) -> None:
    folder = write(tmp_path)
    whole = harmonize("vcpi_0001", folder)
    monkeypatch.setattr(vcpi, "MAX_VALUES", max_values)
    np.testing.assert_array_equal(harmonize("vcpi_0001", folder).X.toarray(), whole.X.toarray())


def changed(rows: list[int], **values: object) -> pd.DataFrame:
    table = metadata()
    for column, value in values.items():
        table.loc[rows, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed([0, 5], user_compound_id="Mock"), r"no vehicle control found among Mock, staurosporine.*user_compound_id DMSO"),
        (changed([0], is_control="yes"), r"column is_control; rows s1: is_control is 'yes'"),
        (changed([3], is_control=""), r"column is_control; rows s4"),
        (changed([1], compound_concentration=""), r"column pert_dose_uM; rows s2"),
        (changed([1, 2], compound_concentration_unit="mg"), r"column pert_dose_uM; rows s2, s3"),
        (changed([1], timepoint="overnight"), r"column pert_time_h; rows s2"),
        (changed([1], user_compound_id=""), r"column perturbagen; rows s2"),
        (changed([1], container_id=""), r"column plate; rows s2"),
        (changed([1], cell_line="U2OS"), r"column source_cell_context; rows U2OS: cell contexts without vehicle controls"),
        (changed([2], column_id="2"), r"rows C_1_row1_col2_vorinostat_CVCL_0006: sample ids are not unique: the source rows s2, s3"),
        (changed([2], sequenced_id="s2"), r"metadata\.csv; column sequenced_id; rows s2: a sample occurs more than once"),
        (changed([2], sequenced_id=""), r"rows 4: a sample has no sequenced_id"),
        (metadata().drop(columns=["is_control", "compound"]), r"there is no column compound, is_control"),
    ],
)
def test_bad_metadata_is_refused(tmp_path: Path, table: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        harmonize("vcpi_0001", write(tmp_path, table, counts(metadata()) if "sequenced_id" not in message else None))
    assert raised.value.dataset == "vcpi_0001"


def with_value(column: str, gene: int, value: object) -> pd.DataFrame:
    data = counts(metadata())
    data[column] = data[column].astype(float if not isinstance(value, str) else object)
    if isinstance(value, str):
        data[column] = data[column].astype(str)
    data.loc[gene, column] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_value("s4", 3, -2.0), r"rows s4: -2\.0 of gene ENSG00000000457 is not a count"),
        (with_value("s4", 3, 0.25), r"rows s4: 0\.25 of gene ENSG00000000457 is not a count"),
        (with_value("s4", 3, None), r"column s4; rows ENSG00000000457: 1 counts are missing"),
        (with_value("s4", 3, "many"), r"column s4: the counts are of type (large_)?string"),
        (counts(metadata()).assign(s9=1), r"metadata\.csv; column sequenced_id; rows s9: 1 samples of data\.parquet have no metadata"),
        (counts(metadata()).rename(columns={"gene_id": "id"}), r"the first column is \['id'\]"),
        (counts(metadata()).assign(gene_id="ENSG00000000003"), r"column gene_id; rows ENSG00000000003: a gene occurs more than once"),
        (counts(metadata())[["gene_id"]], r"no sample has counts"),
    ],
)
def test_bad_counts_are_refused(tmp_path: Path, data: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        harmonize("vcpi_0001", write(tmp_path, data=data))


@pytest.mark.parametrize(
    ("chemistry", "message"),
    [
        ([{"compound": "u-1"}], r"chemistry\.json: there is no column smiles, inchi_key"),
        ([VORINOSTAT, VORINOSTAT | {"smiles": "C"}], r"column compound; rows u-1: a compound with differing structures"),
        (3, r"cannot be read as JSON records"),
    ],
)
def test_bad_chemistry_is_refused(tmp_path: Path, chemistry: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        harmonize("vcpi_0001", write(tmp_path, chemistry=chemistry))


@pytest.mark.parametrize("name", ["data.parquet", "chemistry.json"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    file = write(tmp_path) / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=rf"{name}: the file cannot be read"):
        harmonize("vcpi_0001", tmp_path)
