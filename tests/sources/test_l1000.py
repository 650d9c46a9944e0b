"""L1000 Level 3 from native files to harmonized samples."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.sources import harmonize, l1000

MATRIX = "GSE92742_Broad_LINCS_Level3_INF_mlr12k_n12x6.gctx"
INST_INFO = "GSE92742_Broad_LINCS_inst_info.txt.gz"
PERT_INFO = "GSE92742_Broad_LINCS_pert_info.txt.gz"
PHASE2_PERT_INFO = "GSE70138_Broad_LINCS_pert_info.txt.gz"

ENTREZ = ["5720", "780", "55847", "25803", "466", "7849"]
LANDMARK = [1, 0, 1, 1, 1, 0]
SYMBOL_ENSEMBL = {"5720": "ENSG00000092010", "55847": "ENSG00000122873", "25803": "ENSG00000124664", "466": "ENSG00000123268"}

VORINOSTAT, SIROLIMUS = "BRD-K81418486", "BRD-K89626439"


def instances() -> pd.DataFrame:
    """Twelve wells: A375 and MCF7 with DMSO and compounds, HEPG2 without DMSO, and wells of other kinds."""
    compound, dmso = ("trt_cp", "10", "um"), ("ctl_vehicle", "-666", "-666")
    wells = [
        ("P1_A375_24H_X1_B1:A01", "DMSO", "DMSO", *dmso, "A375"),
        ("P1_A375_24H_X1_B1:A02", VORINOSTAT, "vorinostat", *compound, "A375"),
        ("P1_A375_24H_X1_B1:A03", SIROLIMUS, "sirolimus", "trt_cp", "9.99999", "µM", "A375"),
        ("P1_A375_24H_X1_B1:A04", "H2O", "H2O", *dmso, "A375"),
        ("P1_A375_24H_X1_B1:A05", "TRCN01", "TP53", "trt_sh", "-666", "-666", "A375"),
        ("P1_A375_24H_X1_B1:A06", "BRD-UNKNOWN", "BRD-UNKNOWN", "trt_cp", "0", "um", "A375"),
        ("P2_MCF7_6H_X1:A01", "DMSO", "DMSO", *dmso, "MCF7"),
        ("P2_MCF7_6H_X1:A02", VORINOSTAT, "vorinostat", "trt_cp", "500", "nM", "MCF7"),
        ("P2_MCF7_6H_X1:A03", SIROLIMUS, "sirolimus", "trt_cp", "0.1", "mM", "MCF7"),
        ("P3_HEPG2_6H_X1:A01", VORINOSTAT, "vorinostat", *compound, "HEPG2"),
        ("P3_HEPG2_6H_X1:A02", SIROLIMUS, "sirolimus", *compound, "HEPG2"),
        ("P4_PHH_6H_X1:A01", "DMSO", "DMSO", *dmso, "PHH"),
    ]
    columns = ["inst_id", "pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit", "cell_id"]
    table = pd.DataFrame(wells, columns=columns)
    plates = table["inst_id"].str.split("[_:]")
    table["rna_plate"] = table["inst_id"].str.split(":").str[0]
    table["rna_well"] = table["inst_id"].str.split(":").str[1]
    table["pert_time"], table["pert_time_unit"] = plates.str[2].str.removesuffix("H"), "h"
    return table


def matrix(n_wells: int = 12) -> np.ndarray:
    return (np.random.default_rng(3).random((n_wells, len(ENTREZ))) * 10 + 4).astype(np.float32)


def write_gctx(file: Path, ids: list[str], values: np.ndarray, *, genes: list[str] = ENTREZ, **metadata: object) -> None:
    with h5py.File(file, "w") as opened:
        opened["0/DATA/0/matrix"] = values
        opened["0/META/ROW/id"] = np.array(genes, dtype="S")
        opened["0/META/COL/id"] = np.array(ids, dtype="S")
        for name, column in metadata.items():
            opened[f"0/META/{name}"] = column


def write_table(file: Path, table: pd.DataFrame, encoding: str = "utf-8") -> None:
    with gzip.open(file, "wb") as opened:
        opened.write(table.to_csv(sep="\t", index=False).encode(encoding))


def write(folder: Path, table: pd.DataFrame | None = None, values: np.ndarray | None = None, ids: list[str] | None = None) -> Path:
    """The files of GEO; inst_info in latin-1."""
    table = instances() if table is None else table
    ids = list(instances()["inst_id"]) if ids is None else ids
    write_gctx(folder / MATRIX, ids, matrix(len(ids)) if values is None else values)
    write_table(folder / INST_INFO, table, "latin-1")
    genes = pd.DataFrame({"pr_gene_id": ENTREZ, "pr_gene_symbol": list("ABCDEF"), "pr_gene_title": "x", "pr_is_lm": LANDMARK})
    write_table(folder / "GSE92742_Broad_LINCS_gene_info.txt.gz", genes)
    structures = pd.DataFrame(
        [
            ("DMSO", "DMSO", "ctl_vehicle", "-666", "CS(C)=O", "679"),
            (VORINOSTAT, "vorinostat", "trt_cp", "WAEXFXRVDQXREF-UHFFFAOYSA-N", "ONC(=O)CCCCCCC(=O)Nc1ccccc1", "5311"),
            (SIROLIMUS, "sirolimus", "trt_cp", "-666", "-666", "MLS003116075"),
        ],
        columns=["pert_id", "pert_iname", "pert_type", "inchi_key", "canonical_smiles", "pubchem_cid"],
    )
    write_table(folder / PERT_INFO, structures)
    second = pd.DataFrame(
        {
            "pert_id": [SIROLIMUS, VORINOSTAT],
            "pert_iname": ["rapamycin", "SAHA"],
            "pert_type": "trt_cp",
            "inchi_key": ["QFJCIRLUMZQUOT-HPLJOQBZSA-N", "AAAAAAAAAAAAAA-UHFFFAOYSA-N"],
            "canonical_smiles": "-666",
        }
    )
    write_table(folder / PHASE2_PERT_INFO, second)
    cells = pd.DataFrame(
        [
            ("A375", "A375", "tumor", "skin", "malignant melanoma", "54", "F", "-666"),
            ("MCF7", "MCF7", "normal", "breast", "-666", "-666", "F", "Caucasian"),
        ],
        columns=["cell_id", "base cell-id", "sample type", "Primary-Site", "subtype", "donor_age", "donor_sex", "donor_ethnicity"],
    )
    write_table(folder / "GSE92742_Broad_LINCS_cell_info.txt.gz", cells)
    return folder


def steps_of(samples: ad.AnnData) -> dict[str, tuple[int, int]]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return {rule: (n_in, n_dropped) for _, _, rule, n_in, n_dropped, _ in steps.itertuples(index=False)}


def test_wells_become_samples_of_the_contract(tmp_path: Path) -> None:
    samples = harmonize("l1000_phase1", write(tmp_path))
    assert samples.obs_names.tolist() == [
        "P2_MCF7_6H_X1_A01_DMSO_CVCL_0031",
        "P2_MCF7_6H_X1_A02_vorinostat_CVCL_0031",
        "P2_MCF7_6H_X1_A03_sirolimus_CVCL_0031",
        "P1_A375_24H_X1_B1_A01_DMSO_CVCL_0132",
        "P1_A375_24H_X1_B1_A02_vorinostat_CVCL_0132",
        "P1_A375_24H_X1_B1_A03_sirolimus_CVCL_0132",
    ]
    obs = samples.obs
    assert obs["pert_dose_uM"].tolist() == [0.0, 0.5, 100.0, 0.0, 10.0, 9.99999]
    assert obs["pert_time_h"].tolist() == [6.0] * 3 + [24.0] * 3
    assert obs["is_control"].tolist() == [True, False, False] * 2
    assert obs["tissue"].tolist() == ["breast"] * 3 + ["skin"] * 3
    assert obs["disease"].tolist() == ["normal"] * 3 + ["malignant melanoma"] * 3
    assert obs["self_reported_ethnicity"].tolist()[:3] == ["Caucasian"] * 3
    assert obs["psbulk_counts"].isna().all()
    assert obs["psbulk_cells"].isna().all()
    rows, columns = [6, 7, 8, 0, 1, 2], [ENTREZ.index(entrez) for entrez in sorted(SYMBOL_ENSEMBL, key=SYMBOL_ENSEMBL.get)]
    assert samples.var_names.tolist() == sorted(SYMBOL_ENSEMBL.values())
    assert type(samples.X) is np.ndarray
    assert samples.X.dtype == np.float32
    np.testing.assert_array_equal(samples.X, matrix()[np.ix_(rows, columns)])


def test_every_rule_is_recorded_with_its_count(tmp_path: Path) -> None:
    ids = [*instances()["inst_id"], "P9_NEW:A01"]
    assert steps_of(harmonize("l1000_phase1", write(tmp_path, ids=ids))) == {
        "no metadata": (13, 1),
        "pert_type other than trt_cp and ctl_vehicle": (12, 1),
        "vehicle other than DMSO": (11, 1),
        "compound whose dose the source rounds to 0": (10, 1),
        "cell line without controls or without compounds": (9, 3),
        "not a landmark gene": (6, 2),
        "no current Ensembl id": (4, 0),
        "dropped, several source genes on one Ensembl id in normalized values": (4, 0),
    }


def test_structures_are_the_first_tables_then_the_seconds(tmp_path: Path) -> None:
    obs = harmonize("l1000_phase1", write(tmp_path)).obs.drop_duplicates("perturbagen").set_index("perturbagen")
    assert obs.loc[["DMSO", "vorinostat"], "pubchem_cid"].tolist() == [679, 5311]
    assert obs.loc["vorinostat", "pubchem_cid_source"] == "source"
    assert obs.loc["vorinostat", "inchikey"] == "WAEXFXRVDQXREF-UHFFFAOYSA-N"
    assert obs.loc["sirolimus", "inchikey"] == "QFJCIRLUMZQUOT-HPLJOQBZSA-N"
    assert obs.loc["sirolimus", "pubchem_cid_source"] != "source"


@pytest.mark.parametrize("slab_rows", [1, 2, 5, 100])
def test_values_do_not_depend_on_how_much_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slab_rows: int) -> None:
    folder = write(tmp_path)
    whole = harmonize("l1000_phase1", folder)
    monkeypatch.setattr(l1000, "SLAB_BYTES", slab_rows * 5 * 4)
    np.testing.assert_array_equal(harmonize("l1000_phase1", folder).X, whole.X)


def test_instance_ids_that_differ_in_case_are_found_and_spelt_as_in_the_table(tmp_path: Path) -> None:
    ids = [name.lower() if number % 2 else name for number, name in enumerate(instances()["inst_id"])]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = harmonize("l1000_phase1", write(tmp_path / "a"))
    found = harmonize("l1000_phase1", write(tmp_path / "b", ids=ids))
    pd.testing.assert_frame_equal(found.obs, expected.obs)


def test_several_files_are_brought_to_the_genes_that_all_have(tmp_path: Path) -> None:
    columns = dict(
        zip(["cell_id", "pert_id", "pert_type"], np.array([["PC3"] * 2, ["DMSO", VORINOSTAT], ["CTL_VEHICLE", "TRT_CP"]], "S"), strict=True)
    )
    metadata = {
        **{f"COL/{name}": column for name, column in columns.items()},
        "COL/pert_desc": np.array(["DMSO", "SAHA (the description)"], "S"),
        "COL/exp_pert_dose": np.array([10, 0.35], np.float32),
        "COL/exp_pert_dose_unit": np.array(["UM", "UM"], "S"),
        "COL/exp_pert_time": np.array([6, 6], np.float32),
        "COL/exp_pert_time_unit": np.array(["H", "H"], "S"),
        "COL/det_plate": np.array(["D1", "D1"], "S"),
        "COL/det_well": np.array(["A01", "A02"], "S"),
        "ROW/pr_gene_id": np.array([5720, 466, 874], np.float32),
    }
    write(tmp_path)
    own = np.arange(6, dtype=np.float32).reshape(2, 3) + 5
    write_gctx(tmp_path / "own.gctx", ["X:A01", "X:A02"], own, genes=["p1_at", "p2_at", "p3_at"], **metadata)
    samples = harmonize("l1000_phase1", tmp_path)
    assert samples.n_obs == 8
    assert samples.var_names.tolist() == [SYMBOL_ENSEMBL["5720"], SYMBOL_ENSEMBL["466"]]
    steps = steps_of(samples)
    # landmarks of GEO's gene table hold for both files, so 874 is none
    assert steps["not a landmark gene"] == (9, 3)
    assert steps["not in every file of the dataset (2)"] == (6, 2)
    assert steps["the lists of 2 files made one: an id that another has too"] == (4, 2)
    pc3 = samples[samples.obs["source_cell_context"] == "PC3"]
    assert pc3.obs["perturbagen"].tolist() == ["DMSO", "vorinostat"]
    assert pc3.obs["pert_dose_uM"].tolist() == [0.0, 0.35]
    assert pc3.obs["plate"].tolist() == ["D1", "D1"]
    assert pc3.obs["well"].tolist() == ["A01", "A02"]
    np.testing.assert_array_equal(pc3.X, own[:, :2])


def as_h5ad(folder: Path, values: object) -> Path:
    """The same wells as an h5ad file with metadata of its own."""
    folder.mkdir()
    table = instances().set_index("inst_id").assign(det_plate="nan", canonical_smiles="-666")
    table.iloc[5, table.columns.get_loc("pert_dose")] = "3"
    var = pd.DataFrame({"pr_is_lm": LANDMARK}, index=["PSME1", "DDR1", "CISD1", "SPDEF", "ATF1", "PAX8"])
    ad.AnnData(values, obs=table, var=var).write_h5ad(folder / "level3.h5ad")
    return folder


def test_h5ad_files_are_read_dense_and_sparse(tmp_path: Path) -> None:
    dense = harmonize("l1000_phase1", as_h5ad(tmp_path / "dense", matrix()))
    stored = harmonize("l1000_phase1", as_h5ad(tmp_path / "sparse", sparse.csr_matrix(matrix())))
    assert dense.n_obs == 7
    assert dense.var_names.tolist() == sorted(SYMBOL_ENSEMBL.values())
    assert dense.obs["plate"].unique().tolist() == ["P2_MCF7_6H_X1", "P1_A375_24H_X1_B1"]
    np.testing.assert_array_equal(stored.X, dense.X)
    pd.testing.assert_frame_equal(stored.obs, dense.obs)


def gct(values: np.ndarray, samples: pd.DataFrame, genes: pd.DataFrame, version: str = "#1.3") -> str:
    """A GCT file: metadata of samples (index: id) above, those of genes before the values."""
    sizes = [len(genes), len(samples), genes.shape[1], samples.shape[1]][: 4 if version == "#1.3" else 2]
    filler = ["na"] * genes.shape[1]
    rows = [
        [version],
        sizes,
        ["id", *genes.columns, *samples.index],
        *([name, *filler, *column] for name, column in samples.items()),
        *([name, *fields, *column] for name, fields, column in zip(genes.index, genes.to_numpy(), values.T, strict=True)),
    ]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def with_metadata() -> str:
    """The wells of :func:`as_h5ad` as GCT 1.3."""
    table = instances().set_index("inst_id").assign(det_plate="na", canonical_smiles="-666")
    table.iloc[5, table.columns.get_loc("pert_dose")] = "3"
    genes = pd.DataFrame({"pr_is_lm": LANDMARK}, index=["PSME1", "DDR1", "CISD1", "SPDEF", "ATF1", "PAX8"])
    return gct(matrix(), table, genes)


@pytest.mark.parametrize(("encoding", "line_end"), [("utf-8", "\n"), ("latin-1", "\r\n")])
def test_gct_files_with_metadata_are_read_as_h5ad(tmp_path: Path, encoding: str, line_end: str) -> None:
    expected = harmonize("l1000_phase1", as_h5ad(tmp_path / "h5ad", matrix()))
    (tmp_path / "gct").mkdir()
    (tmp_path / "gct" / "level3.gct").write_bytes((with_metadata().replace("\n", line_end) + line_end).encode(encoding))
    found = harmonize("l1000_phase1", tmp_path / "gct")
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    np.testing.assert_array_equal(found.X, expected.X)


def test_a_gct_file_without_metadata_is_read_with_the_tables(tmp_path: Path) -> None:
    (tmp_path / "gctx").mkdir()
    (tmp_path / "gct").mkdir()
    expected = harmonize("l1000_phase1", write(tmp_path / "gctx"))
    (write(tmp_path / "gct") / MATRIX).unlink()
    wells = pd.DataFrame(index=instances()["inst_id"])
    written = gct(matrix(), wells, pd.DataFrame({"Description": "a gene"}, index=ENTREZ), "#1.2")
    # spreadsheets fill the first lines up
    (tmp_path / "gct" / "level3.gct").write_text(written.replace("#1.2\n6\t12\n", "#1.2\t\t\n6\t12\t\n"))
    found = harmonize("l1000_phase1", tmp_path / "gct")
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    np.testing.assert_array_equal(found.X, expected.X)


SIZES = "6\t12\t1\t12"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("#1.3", "\x89HDF", r"the first line is '\\x89HDF'.*#1.2 or #1.3"),
        ("#1.3", "#1.2", r"line 2 is '6 12 1 12'.*2 numbers, as #1.2 has"),
        (SIZES, "6\t12", r"line 2 is '6 12'.*4 numbers, as #1.3 has"),
        (SIZES, "6\t12\t1\t-1", r"line 2 is '6 12 1 -1'"),
        (SIZES, "6\t13\t1\t12", r"line 3 has 14 fields.*15, as line 2 says"),
        (SIZES, "6\t12\t2\t12", r"line 3 has 14 fields.*15, as line 2 says"),
        (SIZES, "7\t12\t1\t12", r"12 fields of samples and 6 genes.*12 and 7, as line 2 says; the file may be cut"),
        (SIZES, "5\t12\t1\t12", r"12 fields of samples and 6 genes.*12 and 5"),
        (SIZES, "6\t12\t1\t11", r"11 fields of samples and 7 genes.*11 and 6"),
        (SIZES, "6\t12\t1\t30", r"18 fields of samples and 0 genes.*30 and 6"),
        ("cell_id\t", "rna_well\t", r"column rna_well: a field of the samples occurs more than once"),
        ("\tA375\t", "\t", r"line \d+ has 13 fields"),
        ("\tA375\t", "\tA375\t\t", r"line \d+ has 15 fields"),
        ("PSME1\t1\t", "PSME1\t1\t\t", r"line 16 has 15 fields"),
    ],
)
def test_a_gct_file_that_disagrees_with_its_sizes_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    whole = with_metadata()
    assert old in whole
    (tmp_path / "level3.gct").write_text(whole.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as raised:
        harmonize("l1000_phase1", tmp_path)
    assert (raised.value.dataset, Path(str(raised.value.file)).name) == ("l1000_phase1", "level3.gct")


def test_a_truncated_gct_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = with_metadata()
    # in the last field of the last line, a cut cannot be told from a shorter number
    for kept in range(0, whole.rindex("\t"), 41):
        (tmp_path / "level3.gct").write_text(whole[:kept])
        with pytest.raises(InputError):
            harmonize("l1000_phase1", tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("low", r"a value of line 16, of gene PSME1, cannot be read as a number.*'low'"),
        ("", r"a value of line 16, of gene PSME1, cannot be read as a number"),
        ("nan", r"rows P1_A375_24H_X1_B1:A01: the value of gene PSME1 is nan"),
        ("inf", r"the value of gene PSME1 is inf"),
    ],
)
def test_values_of_a_gct_file_that_are_no_numbers_are_refused(tmp_path: Path, value: str, message: str) -> None:
    whole = with_metadata()
    before, _, behind = whole.partition("PSME1\t1\t")
    (tmp_path / "level3.gct").write_text(f"{before}PSME1\t1\t{value}\t{behind.partition(chr(9))[2]}")
    with pytest.raises(InputError, match=message):
        harmonize("l1000_phase1", tmp_path)


def changed(rows: list[int], **values: object) -> pd.DataFrame:
    table = instances()
    for column, value in values.items():
        table.loc[rows, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed([0, 6, 11], pert_iname="Mock"), r"no vehicle control found among .*Mock"),
        (changed([0, 6, 11], pert_type="ctl_vehicle2"), r"no vehicle control found among .*ctl_vehicle2"),
        (changed([0, 6], cell_id="PHH"), r"no cell line has both"),
        (changed([1], pert_dose="-666"), r"column pert_dose_uM; rows P1_A375_24H_X1_B1:A02: 1 samples have none"),
        (changed([1, 2], pert_dose_unit="%"), r"column pert_dose_uM; rows P1_A375_24H_X1_B1:A02, P1_A375_24H_X1_B1:A03"),
        (changed([1], pert_time_unit="weeks"), r"column pert_time_h; rows P1_A375_24H_X1_B1:A02"),
        (changed([2], inst_id="P1_A375_24H_X1_B1:A02"), r"inst_info.*rows P1_A375_24H_X1_B1:A02: a inst_id occurs more than once"),
        (changed(list(range(12)), inst_id=[f"other{n}" for n in range(12)]), r"no sample of the expression files is in the instance table"),
        (instances().drop(columns="pert_type"), r"there is no column pert_type"),
    ],
)
def test_bad_metadata_is_refused(tmp_path: Path, table: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        harmonize("l1000_phase1", write(tmp_path, table))
    assert raised.value.dataset == "l1000_phase1"


def with_value(value: float) -> np.ndarray:
    values = matrix()
    values[7, 2] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_value(np.nan), r"rows P2_MCF7_6H_X1:A02: the value of gene 55847 is nan"),
        (with_value(np.inf), r"the value of gene 55847 is inf"),
        (matrix() - 9, r"values are negative.*Level 3"),
        (matrix()[:, :5], r"the matrix has shape \(12, 5\), its metadata \(12, 6\)"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        harmonize("l1000_phase1", write(tmp_path, values=values))


@pytest.mark.parametrize(
    ("axis", "columns", "message"),
    [
        ("COL", {"id": None}, r"the file has no 0/META/COL/id"),
        ("ROW", {"id": None}, r"the file has no 0/META/ROW/id"),
        ("COL", {"cell_id": np.array([b"A375"] * 11)}, r"column cell_id: 0/META/COL/cell_id has shape \(11,\), 0/META/COL/id has \(12,\)"),
        ("ROW", {"pr_gene_id": np.ones((6, 2))}, r"column pr_gene_id: 0/META/ROW/pr_gene_id has shape \(6, 2\), 0/META/ROW/id has \(6,\)"),
        ("COL", {"cell_id": np.array(b"A375")}, r"0/META/COL/cell_id has shape \(\), 0/META/COL/id has \(12,\)"),
        ("COL", {"cells/id": np.array([b"A375"] * 12)}, r"0/META/COL/cells has shape None"),
        ("COL", {"id": np.array(b"one")}, r"0/META/COL/id has shape \(\)"),
    ],
)
def test_metadata_of_another_length_or_without_ids_are_refused(
    tmp_path: Path, axis: str, columns: dict[str, np.ndarray | None], message: str
) -> None:
    with h5py.File(write(tmp_path) / MATRIX, "r+") as opened:
        group = opened[f"0/META/{axis}"]
        for name, column in columns.items():
            if name in group:
                del group[name]
            if column is not None:
                group[name] = column
    with pytest.raises(InputError, match=message) as raised:
        harmonize("l1000_phase1", tmp_path)
    assert (raised.value.dataset, Path(str(raised.value.file)).name) == ("l1000_phase1", MATRIX)
    assert raised.value.expected


def test_a_truncated_matrix_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path) / MATRIX
    whole, there = file.read_bytes(), sorted(tmp_path.iterdir())
    for kept in (len(whole) // 2, 100, 0):
        file.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=rf"{MATRIX}: the file cannot be read as HDF5"):
            harmonize("l1000_phase1", tmp_path)
    assert sorted(tmp_path.iterdir()) == there


def test_a_matrix_without_any_metadata_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path) / INST_INFO
    file.unlink()
    with pytest.raises(InputError, match=r"no sample metadata, and there is no instance table.*inst_info"):
        harmonize("l1000_phase1", tmp_path)


def test_a_table_of_cells_need_not_describe_donors(tmp_path: Path) -> None:
    write_table(write(tmp_path) / "GSE92742_Broad_LINCS_cell_info.txt.gz", pd.DataFrame({"cell_id": ["A375", "MCF7"]}))
    known = shipped().cell_contexts.resolve(pd.Series(["MCF7"]), "l1000_phase1")["tissue"].iloc[0]
    assert harmonize("l1000_phase1", tmp_path).obs["tissue"].iloc[0] == known == "breast"


def test_a_damaged_table_and_one_given_twice_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path) / INST_INFO
    shutil.copy(file, tmp_path / "copy_of_inst_info.txt.gz")
    with pytest.raises(InputError, match="there are 2 instances files"):
        harmonize("l1000_phase1", tmp_path)
    (tmp_path / "copy_of_inst_info.txt.gz").unlink()
    file.write_bytes(file.read_bytes()[:80])
    with pytest.raises(InputError, match=rf"{INST_INFO}: the table cannot be read"):
        harmonize("l1000_phase1", tmp_path)


def test_landmarks_must_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write(tmp_path) / "GSE92742_Broad_LINCS_gene_info.txt.gz").unlink()
    assert harmonize("l1000_phase1", tmp_path).n_vars == 6
    monkeypatch.setattr(l1000, "N_LANDMARKS", 5)
    with pytest.raises(InputError, match=r"6 genes, and nothing says which are landmarks.*gene_info"):
        harmonize("l1000_phase1", tmp_path)


# ---- real files --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ad.AnnData:
    """Both real plates of CPC006, with the real table of perturbagens."""
    folder = tmp_path_factory.mktemp("real")
    for name in ("l1000_cpc006_a375_6h", "l1000_cpc006_ht115_6h"):
        (folder / name).symlink_to(real_data / name)
    (folder / PERT_INFO).symlink_to(real_data / "lincs_metadata" / "pertinfo.tsv.gz")
    (folder / "GSE92742_Broad_LINCS_gene_info.txt").symlink_to(real_data / "lincs_metadata" / "GSE92742_Broad_LINCS_gene_info.txt")
    return harmonize("l1000_phase1", folder)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_plates_become_one_dataset_of_two_contexts(real: ad.AnnData) -> None:
    counts = real.obs.groupby(["cell_type", "is_control"], observed=True).size().to_dict()
    # the one well less is a compound whose dose the file rounds to 0
    assert counts == {("CVCL_0132", False): 354, ("CVCL_0132", True): 16, ("CVCL_2520", False): 661, ("CVCL_2520", True): 20}
    assert steps_of(real)["compound whose dose the source rounds to 0"] == (1052, 1)
    assert 950 < real.n_vars <= 978
    names = real.obs.groupby("source_perturbagen_id", observed=True)["perturbagen"].nunique()
    assert names.max() == 1
    treated = real.obs[~real.obs["is_control"]]
    assert treated["pubchem_cid"].notna().mean() > 0.9
    assert treated["inchikey"].notna().mean() > 0.9
    in_both = treated.groupby("source_perturbagen_id", observed=True)["cell_type"].nunique()
    assert (in_both == 2).sum() > 340


@pytest.mark.slow
@pytest.mark.real_data
def test_real_values_are_those_of_the_file(real: ad.AnnData, real_data: Path) -> None:
    a375 = real[real.obs["cell_type"] == "CVCL_0132"]
    with h5py.File(real_data / "l1000_cpc006_a375_6h" / "gctv13_01.gctx") as opened:
        values = pd.DataFrame(
            opened["0/DATA/0/matrix"][:],
            index=opened["0/META/COL/rna_well"].asstr()[:],
            columns=[f"{entrez:.0f}" for entrez in opened["0/META/ROW/pr_gene_id"][:]],
        )
    entrez = a375.var["source_gene_id"].str.split(";").str[0]
    np.testing.assert_array_equal(a375.X, values.loc[a375.obs["well"], entrez].to_numpy())


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_gct_plate_is_read_as_it_is(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "l1000_ljp005_a375_24h" / "test_l1000.gct", tmp_path)
    plate = harmonize("l1000_phase2", tmp_path)
    assert plate.shape == (354, 978)
    assert plate.obs["is_control"].sum() == 26
    assert set(plate.obs["plate"]) == {"LJP005_A375_24H_X1_B19"}
    # the positive controls
    assert steps_of(plate)["pert_type other than trt_cp and ctl_vehicle"] == (377, 23)
    doses = plate.obs.loc[plate.obs["perturbagen"] == "roscovitine", "pert_dose_uM"]
    assert sorted(doses) == [0.04, 0.12, 0.37, 1.11, 3.33, 10.0]
    wells = plate[plate.obs["well"].isin(["A03", "A04"]).to_numpy()]
    entrez = wells.var["source_gene_id"].to_numpy()
    for gene, values in {"5720": (11.3819, 11.3336), "7416": (6.3682, 5.9869), "6676": (4.0280, 4.5830)}.items():
        np.testing.assert_array_equal(wells.X[:, entrez == gene].ravel(), np.array(values, np.float32))
