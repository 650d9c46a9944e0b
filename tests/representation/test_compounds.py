"""What harmonized samples say of the compounds of a corpus."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.contract import HARMONIZED_OBS, Field
from perturbridge_dagster.errors import IncompatibleFileError
from perturbridge_dagster.representation.compounds import SAMPLE_COLUMNS, compounds_of, described, no_samples, read_samples, readable_names
from perturbridge_dagster.written import Stamp, write_parquet

ASPIRIN, SALT, IBUPROFEN = "CC(=O)Oc1ccccc1C(=O)O", "[Na+].CC(=O)Oc1ccccc1C(=O)[O-]", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"


def obs(dataset: str, **columns: object) -> pd.DataFrame:
    """Four samples: a control, two of aspirin, one without a PubChem id."""
    frame = pd.DataFrame(
        {
            "sample_id": ["a", "b", "c", "d"],
            "pubchem_cid": pd.array([None, 2244, 2244, None], dtype="Int64"),
            "is_control": [True, False, False, False],
            "smiles": [None, ASPIRIN, ASPIRIN, IBUPROFEN],
        }
    ).assign(dataset=dataset, cell_type="CVCL_A", assay="L1000", model_system="cell line")
    defaults = {"string": "x", "bool": False, "int64": 1, "float64": 1.0}
    for field in HARMONIZED_OBS:
        if field.name not in frame:
            frame[field.name] = None if field.nullable else defaults[field.type]
    return frame.assign(**columns)


def stamp(stage: str = "harmonized_samples") -> Stamp:
    return Stamp(stage, "1", "x", ("alpha",), "open")


def test_samples_are_read_as_distinct_rows(tmp_path: Path) -> None:
    extended = HARMONIZED_OBS.extended([Field("mechanism", "string", "Mechanism.", nullable=True)])
    write_parquet(tmp_path / "alpha.parquet", obs("alpha"), HARMONIZED_OBS, stamp())
    write_parquet(tmp_path / "beta.parquet", obs("beta", mechanism=[None, "COX", "COX", "COX"]), extended, stamp())
    old = HARMONIZED_OBS.as_of("1.0")
    assert "model_system" not in old.names
    write_parquet(tmp_path / "old.parquet", obs("old"), old, stamp())
    read = read_samples(tmp_path / f"{name}.parquet" for name in ("alpha", "beta", "old"))
    assert list(read.columns) == [*SAMPLE_COLUMNS, "n_samples"]
    assert read["dataset"].tolist() == ["alpha", "beta", "old"]
    assert read["n_samples"].tolist() == [2, 2, 2]
    assert read["pubchem_cid"].tolist() == [2244] * 3
    assert read["mechanism"].fillna("").tolist() == ["", "COX", ""]
    assert read["model_system"].fillna("").tolist() == ["cell line", "cell line", ""]
    assert read_samples([]).empty
    write_parquet(tmp_path / "other.parquet", obs("alpha"), HARMONIZED_OBS, stamp("source_files"))
    with pytest.raises(IncompatibleFileError, match="source_files"):
        read_samples([tmp_path / "other.parquet"])


def samples(*rows: tuple[str, str, int, str | None, int]) -> pd.DataFrame:
    """dataset, context, PubChem id, SMILES, samples."""
    frame = pd.DataFrame(rows, columns=["dataset", "cell_type", "pubchem_cid", "smiles", "n_samples"])
    return frame.reindex(columns=[*SAMPLE_COLUMNS, "n_samples"])


def contrasts(*rows: tuple[str, str, str, str | None]) -> pd.DataFrame:
    """dataset, PubChem id, name, parent."""
    return pd.DataFrame(rows, columns=["dataset", "perturbation", "perturbagen", "parent_key"])


def test_structures_are_those_that_most_samples_have_and_that_can_be_read() -> None:
    given = samples(("a", "x", 1, "no structure", 9), ("a", "x", 1, IBUPROFEN, 2), ("b", "x", 1, ASPIRIN, 1), ("b", "y", 1, ASPIRIN, 2))
    table = compounds_of(contrasts(("a", "1", "one", None), ("b", "2", "two", None)), given).set_index("perturbation")
    assert table.loc["1", "smiles"] == ASPIRIN, "three samples of two datasets say so"
    assert table.loc["1", "scaffold"] == "c1ccccc1"
    assert table.loc["2", ["smiles", "scaffold", "mechanism", "parent_key"]].isna().all()
    assert table["pubchem_cid"].tolist() == [1, 2]


def test_salts_of_a_parent_have_its_scaffold_though_one_has_no_structure() -> None:
    given = samples(("a", "x", 1, ASPIRIN, 1), ("a", "x", 2, SALT, 1))
    rows = [
        ("a", "1", "aspirin", "BSYNRYMUTXBXSQ"),
        ("a", "2", "sodium aspirin", "BSYNRYMUTXBXSQ"),
        ("a", "3", "aspirin again", "BSYNRYMUTXBXSQ"),
    ]
    table = compounds_of(contrasts(*rows), given)
    assert table["scaffold"].tolist() == ["c1ccccc1"] * 3
    assert table["smiles"].fillna("").tolist() == [ASPIRIN, SALT, ""]


def test_a_compound_has_one_parent_in_all_datasets() -> None:
    rows = [("a", "1", "x", None), ("b", "1", "x", "AAAAAAAAAAAAAA"), ("c", "1", "x", "BBBBBBBBBBBBBB"), ("d", "1", "x", "BBBBBBBBBBBBBB")]
    assert compounds_of(contrasts(*rows), no_samples())["parent_key"].tolist() == ["BBBBBBBBBBBBBB"]


def test_names_are_those_that_people_know() -> None:
    rows = [
        ("novartis", "5311", "AB-12-CD34", None),
        ("sciplex", "5311", "Vorinostat", None),
        ("tahoe", "5311", "vorinostat", None),
        ("op3", "5311", "Vorinostat", None),
        ("novartis", "7", "ZZ-99-ZZ99", None),
        ("sciplex", "7", "Zolpidem", None),
        ("novartis", "8", "b", None),
        ("novartis", "8", "a", None),
    ]
    assert readable_names(contrasts(*rows)).to_dict() == {"5311": "Vorinostat", "7": "Zolpidem", "8": "a"}


def test_conditions_are_described_by_their_context_and_compound() -> None:
    given = pd.DataFrame(
        [
            ("a", "x", 1, None, "L1000", "cell line", None, 3),
            ("a", "x", 2, None, "L1000", None, None, 9),
            ("b", "x", 1, None, "DRUG-seq", None, None, 5),
            ("b", "y", 1, None, "B", None, None, 5),
            ("b", "y", 2, None, "A", None, None, 5),
        ],
        columns=[*SAMPLE_COLUMNS, "n_samples"],
    )
    conditions = pd.DataFrame({"dataset": ["a", "b", "b", "c"], "context": ["x", "x", "y", "z"], "perturbation": ["1", "2", "1", "1"]})
    compounds = pd.DataFrame({"perturbation": ["1", "2"], "parent_key": ["P", None], "scaffold": [None, "S"]})
    found = described(conditions, compounds, given)
    assert found["assay"].fillna("").tolist() == ["L1000", "DRUG-seq", "A; B", ""]
    assert found["model_system"].fillna("").tolist() == ["cell line", "cell line", "", ""], (
        "what one dataset says of a context holds for all"
    )
    assert found["parent_key"].fillna("").tolist() == ["P", "", "P", "P"]
    assert found["scaffold"].fillna("").tolist() == ["", "S", "", ""]
