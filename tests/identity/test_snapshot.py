"""The shipped tables as a whole."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity import tables
from perturbridge_dagster.identity.answers import remember
from perturbridge_dagster.identity.build_snapshot import build_cell_contexts, build_compounds, write_snapshot
from perturbridge_dagster.identity.compounds import cleaned_inchikey, name_key
from perturbridge_dagster.identity.snapshot import shipped, with_answers
from perturbridge_dagster.identity.structures import no_structures, read_structure, read_structures, save_structures
from tests.identity.test_answers import answers
from tests.identity.test_compounds import compounds


def test_the_answers_are_read_once_and_say_which_they_are() -> None:
    assert shipped() is shipped()
    assert shipped().version == tables.tables_checksum()


def test_another_byte_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "notes.md").write_text("not a table")
    before = tables.tables_checksum(tmp_path)
    (tmp_path / "notes.md").write_text("still not a table")
    assert tables.tables_checksum(tmp_path) == before
    (tmp_path / "a.csv").write_text("x\n2\n")
    assert tables.tables_checksum(tmp_path) != before


def test_the_tables_stay_small() -> None:
    assert sum(path.stat().st_size for path in tables.DATA.iterdir()) < 2.5e6


def test_entries_of_a_dataset_hold_for_its_variants_the_most_specific_first() -> None:
    entries = pd.DataFrame({"dataset": [None, "l1000", "l1000_phase1", "vcpi"], "value": [0, 1, 2, 3]})
    assert tables.for_dataset(entries, "l1000_phase1")["value"].tolist() == [2, 1, 0]
    assert tables.for_dataset(entries, "l1000_phase2")["value"].tolist() == [1, 0]
    assert tables.for_dataset(entries, "l1000x")["value"].tolist() == [0]


@pytest.mark.slow
@pytest.mark.real_data
def test_the_shipped_tables_are_what_the_real_files_give(real_data: Path, tmp_path: Path) -> None:
    write_snapshot(real_data, tmp_path)
    for name in (tables.COMPOUNDS, tables.CELL_CONTEXTS):
        assert (tmp_path / name).read_text() == (tables.DATA / name).read_text(), name
    for name in (tables.GENES, tables.GENE_KEYS):
        pd.testing.assert_frame_equal(tables.read_table(name, tmp_path), tables.read_table(name))


@pytest.mark.slow
@pytest.mark.real_data
def test_a_donor_set_by_hand_overrides_lincs(real_data: Path, tmp_path: Path) -> None:
    for name in (tables.CURATED_CELL_CONTEXTS, tables.CURATED_MODEL_SYSTEMS):
        (tmp_path / name).write_bytes((tables.DATA / name).read_bytes())
    header = (tables.DATA / tables.CURATED_DONORS).read_text().splitlines()[0]
    (tmp_path / tables.CURATED_DONORS).write_text(f"{header}\n,CVCL_0132,eye,,,,,a test\nsciplex,CVCL_0132,,,,male,,another\n")
    built = build_cell_contexts(real_data, tmp_path)
    built = built[built["cell_type"] == "CVCL_0132"].set_index("dataset", drop=False)
    assert len(built) == 2
    assert built.loc["sciplex", ["tissue", "disease", "sex"]].tolist() == ["skin", "melanoma", "male"]
    general = built[built["dataset"].isna()].iloc[0]
    assert (general["tissue"], general["disease"], general["sex"]) == ("eye", "melanoma", "female")
    assert general["donor_source"] == "LINCS 2020; by hand: a test"


def test_answers_made_by_hand_are_shipped_as_they_are() -> None:
    by_hand = tables.read_table(tables.CURATED_ANSWERS).set_index("pubchem_cid")
    shipped_rows = tables.read_table(tables.COMPOUNDS).set_index("pubchem_cid").loc[by_hand.index]
    columns = ["inchikey", "name", "source", "date"]
    pd.testing.assert_frame_equal(shipped_rows[columns], by_hand[columns])
    assert shipped_rows["parent_key"].tolist() == [read_structure(smiles).parent_key for smiles in by_hand["smiles"]]
    for own, merged in zip(by_hand["aliases"].fillna(""), shipped_rows["aliases"].fillna(""), strict=True):
        assert set(own.split(";")) - {""} <= set(merged.split(";"))


@pytest.mark.real_data
def test_answers_made_by_hand_agree_with_the_structures_of_lincs(real_data: Path) -> None:
    by_hand = tables.read_table(tables.CURATED_ANSWERS)
    lincs = pd.read_csv(real_data / "lincs_metadata" / "pertinfo.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    lincs = lincs.assign(inchikey=cleaned_inchikey(lincs["inchi_key"]), key=name_key(lincs["pert_iname"]))
    both = by_hand.assign(key=name_key(by_hand["name"].str.replace(" ", "-"))).merge(lincs, on=["key", "inchikey"], suffixes=("", "_lincs"))
    assert both["pubchem_cid"].nunique() > 30
    # LINCS draws some structures wrongly; where its drawing is that of its InChIKey, it is ours too
    drawn = both[both["canonical_smiles"] != ""]
    read = drawn["canonical_smiles"].map(read_structure)
    sound = read.map(lambda structure: structure.inchikey) == drawn["inchikey"]
    assert sound.mean() > 0.8
    ours = drawn["smiles"].map(read_structure)
    assert (read[sound] == ours[sound]).all()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("smiles", "CCO"), "not those of the SMILES"),
        (("pubchem_cid", "2519"), "keys of two compounds"),
        (("aliases", "Caffeine"), "keys of two compounds"),
    ],
)
def test_answers_made_by_hand_that_contradict_are_refused(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    by_hand = tables.read_table(tables.CURATED_ANSWERS)
    by_hand.loc[by_hand["name"] == "aspirin", change[0]] = change[1]
    by_hand.to_csv(tmp_path / tables.CURATED_ANSWERS, index=False)
    with pytest.raises(InputError, match=problem):
        build_compounds(tmp_path / "no real files", tmp_path)


# ---- a user's snapshot ---------------------------------------------------------------------------------------------------------


def test_without_a_users_snapshot_the_shipped_answers_stay_what_they_are(tmp_path: Path) -> None:
    identity = with_answers(tmp_path / "nowhere", "op3")
    assert identity.version == shipped().version
    assert identity.grown_version is None
    assert not (tmp_path / "nowhere").exists()


def test_the_version_covers_answers_of_the_dataset_and_vendors_tables(tmp_path: Path) -> None:
    versions = [shipped().version]
    remember(tmp_path, "op3", answers(("name", "unheard of", "found", 1)))
    versions.append(with_answers(tmp_path, "op3").version)
    assert with_answers(tmp_path, "tahoe").version == shipped().version
    remember(tmp_path, "op3", answers(("name", "never heard of", "not_found", None)))
    versions.append(with_answers(tmp_path, "op3").version)
    (tmp_path / "catalogues").mkdir()
    (tmp_path / "catalogues" / "vendor.csv").write_text("catalogue_id,pubchem_cid\nS1,702\n")
    versions += [with_answers(tmp_path, "op3").version, with_answers(tmp_path, "tahoe").version]
    assert len(set(versions)) == len(versions)
    remember(tmp_path, "tahoe", answers(("name", "unheard of", "found", 2)))
    assert with_answers(tmp_path).version not in versions
    assert with_answers(tmp_path, "op3").version == versions[3]
    # structures are no answers: they are the same wherever they are read
    save_structures(tmp_path, read_structures(pd.Series({"CCO": "CCO"}), no_structures()))
    assert with_answers(tmp_path, "op3").version == versions[3]


def test_answers_of_all_datasets_can_be_used_together(tmp_path: Path) -> None:
    remember(tmp_path, "op3", answers(("name", "unheard of", "found", 1)))
    remember(tmp_path, "tahoe", answers(("name", "never heard of", "found", 2)))
    asked = compounds({"perturbagen": "unheard of"}, {"perturbagen": "never heard of"})
    assert with_answers(tmp_path).compounds.resolve(asked, "any")["pubchem_cid"].tolist() == [1, 2]
    assert with_answers(tmp_path, "op3").compounds.resolve(asked, "op3")["pubchem_cid"].fillna(0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("number,pubchem_cid\nS1,702\n", "expected: catalogue_id"),
        ("catalogue_id,price\nS1,702\n", "one or more of pubchem_cid"),
        ("catalogue_id,pubchem_cid\nS1,702\nS1 ,703\n", r"S1.*twice"),
        ("catalogue_id,pubchem_cid\nS1,702,3\n", "cannot be read"),
    ],
)
def test_vendors_tables_that_cannot_be_used_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "catalogues").mkdir()
    (tmp_path / "catalogues" / "vendor.csv").write_text(text)
    with pytest.raises(InputError, match=rf"(?is)vendor\.csv.*{problem}"):
        tables.read_catalogues(tmp_path)
