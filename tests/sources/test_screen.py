"""A user's own screen: every form of its files, and an answer to every mistake that a description can have."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import io, sparse

from perturbridge_dagster import registry
from perturbridge_dagster.effects import estimate_effects, split_strata
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry.own_screens import read_description
from perturbridge_dagster.sources import add_screen
from perturbridge_dagster.sources.add_screen import check, summary

pytestmark = pytest.mark.slow

GENES = ["TP53", "GAPDH", "ACTB", "MYC", "EGFR", "ENSG00000141510", "no gene"]
"""TP53 is there by symbol and by Ensembl id: their counts are of one gene."""

Description = dict[str, Any]
Change = Callable[[Description], object]


@pytest.fixture
def sheet() -> pd.DataFrame:
    """Two plates, two doses of two compounds twice each, three vehicles and one empty medium a plate."""
    rows = []
    for plate in ("P1", "P2"):
        wells = (
            [("DMSO", "0.1", "%")] * 3 + [("Media", "", "")] + [(name, dose, "nM") for name in ("A", "B") for dose in ("10", "1,000")] * 2
        )
        for number, (compound, dose, unit) in enumerate(wells, start=1):
            rows.append([f"{plate}-{number}", plate, f"A{number:02d}", compound, dose, unit, "1", "d", "MCF10A"])
    columns = ["Barcode", "Plate", "Well", "Compound", "Dose", "Unit", "Time", "Time unit", "Line"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def counts(sheet: pd.DataFrame) -> pd.DataFrame:
    """Genes × samples."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(rng.poisson(50, (len(GENES), len(sheet))), index=pd.Index(GENES, name="gene"), columns=sheet["Barcode"].tolist())


@pytest.fixture
def description() -> Description:
    return {
        "title": "Two compounds",
        "assay": "DRUG-seq",
        "counts": {"file": "counts.csv", "gene_ids": "symbol"},
        "samples": "layout.csv",
        "columns": {
            "sample": "Barcode",
            "plate": "Plate",
            "well": "Well",
            "cell_context": "Line",
            "perturbagen": "Compound",
            "dose": "Dose",
            "dose_unit": "Unit",
            "time": "Time",
            "time_unit": "Time unit",
        },
        "control": ["DMSO"],
        "exclude": {"Compound": ["Media"]},
    }


@pytest.fixture
def screen(tmp_path: Path, sheet: pd.DataFrame, counts: pd.DataFrame, description: Description) -> Path:
    """A screen as CSV."""
    sheet.to_csv(tmp_path / "layout.csv", index=False)
    counts.to_csv(tmp_path / "counts.csv")
    return describe(tmp_path, description)


def describe(folder: Path, description: Description) -> Path:
    file = folder / "two_compounds.yaml"
    file.write_text(yaml.safe_dump(description, sort_keys=False))
    return file


def dropped(samples: ad.AnnData) -> pd.Series:
    """Samples that each rule dropped."""
    steps = samples.uns["reconciliation"]
    return steps[steps["axis"] == "samples"].set_index("rule")["n_dropped"]


def refused(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        check(file)
    return str(caught.value)


def line_of(file: Path, words: str) -> str:
    """How a message names the line that has some words."""
    number = next(i for i, line in enumerate(file.read_text().splitlines(), start=1) if words in line)
    return f"two_compounds.yaml, line {number}:"


# ---- what is read ------------------------------------------------------------------------------------------------------------


def test_a_screen_comes_to_the_contract(screen: Path, counts: pd.DataFrame) -> None:
    samples = check(screen)
    assert samples.shape == (22, 5)
    first = samples.obs[samples.obs["well"] == "A05"].iloc[0]
    assert (first["perturbagen"], first["pert_dose_uM"], first["pert_time_h"], first["cell_type"]) == ("A", 0.01, 24.0, "CVCL_0598")
    assert samples.obs["is_control"].sum() == 6
    assert (samples.obs.loc[samples.obs["is_control"], "pert_dose_uM"] == 0).all()
    assert samples.obs["plate"].value_counts().tolist() == [11, 11]
    p53 = samples[first.name, samples.var["symbol"] == "TP53"].X.sum()
    assert p53 == counts.loc[["TP53", "ENSG00000141510"], "P1-5"].sum()
    steps = dropped(samples)
    assert steps["excluded: Compound is Media"] == 2
    assert "perturbagens: 2" in summary(samples)


def test_a_screen_is_private_unless_said_otherwise(screen: Path, description: Description) -> None:
    assert read_description(screen).licence.class_ == "restricted"
    described = describe(screen.parent, description | {"licence": {"name": "CC BY 4.0", "class": "open"}})
    assert read_description(described).licence.class_ == "open"


def test_effects_of_a_screen_are_estimated(screen: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path / "home"))
    add_screen.main([str(screen)])
    [(stratum, samples)] = split_strata(check(screen), "two_compounds")
    assert stratum.cell_type == "CVCL_0598"
    assert len(estimate_effects(samples).contrasts) == 4


@pytest.mark.parametrize("form", ["tsv.gz", "R", "parquet", "parquet index", "mtx", "samples", "h5ad", "h5ad obs", "xlsx sheet", "pattern"])
def test_every_form_of_the_files_gives_the_same(
    form: str, screen: Path, sheet: pd.DataFrame, counts: pd.DataFrame, description: Description
) -> None:
    expected = check(screen)
    folder, matrix = screen.parent, description["counts"]
    stored = ad.AnnData(sparse.csr_matrix(counts.T.to_numpy(np.float32)), sheet.set_index("Barcode"), pd.DataFrame(index=counts.index))
    if form == "tsv.gz":
        counts.to_csv(folder / "counts.tsv.gz", sep="\t")
        matrix["file"] = "counts.tsv.gz"
    elif form == "R":
        # write.table leaves out the name of the first column
        text = counts.to_csv(sep="\t").split("\t", 1)[1]
        (folder / "counts.txt").write_text(text)
        matrix["file"] = "counts.txt"
    elif form.startswith("parquet"):
        (counts if form.endswith("index") else counts.reset_index()).to_parquet(folder / "counts.parquet")
        matrix["file"] = "counts.parquet"
    elif form == "mtx":
        io.mmwrite(folder / "counts.mtx", sparse.coo_matrix(counts.to_numpy()))
        pd.Series(GENES).to_csv(folder / "genes.tsv", index=False, header=False, sep="\t")
        sheet["Barcode"].to_csv(folder / "samples.tsv", index=False, header=False)
        matrix |= {"file": "counts.mtx", "genes": "genes.tsv", "samples": "samples.tsv"}
    elif form == "samples":
        counts.T.to_csv(folder / "wide.csv")
        matrix |= {"file": "wide.csv", "rows": "samples"}
    elif form == "h5ad":
        stored.layers["counts"], stored.X = stored.X, np.log1p(stored.X.toarray())
        stored.write_h5ad(folder / "counts.h5ad")
        matrix |= {"file": "counts.h5ad", "layer": "counts"}
    elif form == "h5ad obs":
        stored.write_h5ad(folder / "counts.h5ad")
        matrix["file"] = "counts.h5ad"
        del description["samples"]
    elif form == "xlsx sheet":
        sheet.to_excel(folder / "layout.xlsx", index=False, engine="xlsxwriter")
        description["samples"] = "layout.xlsx"
    else:
        counts.set_axis(sheet["Plate"] + "/" + sheet["Well"], axis=1).to_csv(folder / "counts.csv")
        description["columns"]["sample"] = "{Plate}/{Well}"
    found = check(describe(folder, description))
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


def test_one_value_stands_for_a_column(screen: Path, sheet: pd.DataFrame, description: Description) -> None:
    sheet.drop(columns=["Plate", "Time", "Time unit"]).to_csv(screen.parent / "layout.csv", index=False)
    description["columns"] |= {"plate": {"value": "P9"}, "well": "Barcode", "time": {"value": "2 days"}}
    del description["columns"]["time_unit"]
    samples = check(describe(screen.parent, description))
    assert set(samples.obs["plate"]) == {"P9"}
    assert set(samples.obs["pert_time_h"]) == {48.0}


# ---- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words", "line"),
    [
        (lambda d: d["columns"].update(dose="Dsoe"), ["no column Dsoe", "did you mean Dose?", "Barcode, Plate, Well"], "dose: Dsoe"),
        (lambda d: d["columns"].update(dosis=d["columns"].pop("dose")), ["no field dosis", "did you mean dose"], "dosis:"),
        (lambda d: d["columns"].pop("time"), ["time is missing", "sample, plate, cell_context"], "columns:"),
        (lambda d: d["columns"].update(dose_unit={"value": "mg"}), ["'10 mg' is not understood", "uM"], "dose_unit:"),
        (lambda d: d["columns"].pop("dose_unit"), ["'10' is not understood: it has no unit", "columns.dose_unit"], "dose: Dose"),
        (lambda d: d["counts"].update(gene_ids="refseq"), ["'ensembl', 'entrez' or 'symbol'"], "gene_ids:"),
        (lambda d: d["columns"].update(sample="Well"), ["not in the sample sheet layout.csv", "Column Barcode has 24 of them"], "sample:"),
        (lambda d: d.update(control=["dmso"]), ["perturbagen is dmso", "the vehicle among A, B, DMSO"], "control:"),
        (lambda d: d.update(exclude={"Compound": ["Medium"]}), ["no sample has Medium", "A, B, DMSO, Media"], "Compound:"),
        (lambda d: d.update(exclude={"Kompound": ["x"]}), ["no column Kompound", "did you mean Compound"], "Kompound:"),
        (lambda d: d["counts"].update(file="count.csv"), ["there is no file", "counts.csv"], "file:"),
        (lambda d: d["counts"].update(file="counts.docx"), ["counts.docx is none of .h5ad"], "counts:"),
        (lambda d: d["counts"].update(genes="g.txt"), ["it needs both, and no other file has them"], "counts:"),
        (lambda d: d["columns"].update(sample="{Plate}_{Well"), ["{Plate}_{Well is no pattern"], "sample:"),
        (lambda d: d["columns"].update(sample="{Barcode}}"), ["{Barcode}} is no pattern"], "sample:"),
        (lambda d: d["columns"].update(sample="Barcode}"), ["no column Barcode}", "did you mean Barcode?"], "sample:"),
        (lambda d: d.pop("samples"), ["samples names no sample sheet"], None),
        (lambda d: d.pop("title"), ["title is missing"], None),
        (lambda d: d.update(constants={"tisue": "breast"}), ["tisue"], None),
    ],
)
def test_a_mistake_is_answered_with_its_line_and_the_choices(
    change: Change, words: list[str], line: str | None, screen: Path, description: Description
) -> None:
    change(description)
    file = describe(screen.parent, description)
    message = refused(file)
    for part in words:
        assert part in message, message
    if line:
        assert line_of(file, line).removesuffix(":") in message, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: a\n  assay: b\n", ["not valid YAML", "line 2"]),
        ("just words", ["describes nothing"]),
        ("", ["describes nothing"]),
    ],
)
def test_what_is_no_description_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "two_compounds.yaml"
    file.write_text(text)
    message = refused(file)
    assert all(part in message for part in words), message


@pytest.mark.parametrize("id_", ["sciplex", "vcpi_0001", "vcpi_0003", "op3_benchmark", "chem_perturbridge"])
def test_the_name_of_a_public_dataset_is_refused(id_: str, screen: Path) -> None:
    with pytest.raises(InputError, match=f"{id_} is the id of a public dataset or benchmark"):
        read_description(Path(shutil.copy(screen, screen.with_name(f"{id_}.yaml"))))


@pytest.mark.parametrize(
    ("field", "again", "words"),
    [("control: [DMSO]", "control: [DMSO]\ncontrol: [Media]", "control"), ("  dose: Dose", "  dose: Dose\n  dose: Time", "columns.dose")],
)
def test_a_field_given_twice_is_refused_with_both_lines(field: str, again: str, words: str, screen: Path, description: Description) -> None:
    written = yaml.safe_dump(description | {"control": "CONTROL"}, sort_keys=False).replace("control: CONTROL", "control: [DMSO]")
    screen.write_text(written.replace(field, again, 1))
    first = written[: written.index(field)].count("\n") + 1
    message = refused(screen)
    assert f"line {first + 1}; column {words}: {words} is given twice, first in line {first}." in message


@pytest.mark.parametrize("rows", ["genes", "samples"])
@pytest.mark.parametrize(("value", "words"), [("1.5", "1.5 of gene MYC"), ("-3", "-3.0 of gene MYC")])
def test_what_is_no_count_is_refused_with_its_place(
    value: str, words: str, rows: str, screen: Path, counts: pd.DataFrame, description: Description
) -> None:
    wrong = counts.astype(object)
    wrong.loc["MYC", "P1-7"] = value
    (wrong if rows == "genes" else wrong.T).to_csv(screen.parent / "counts.csv")
    description["counts"]["rows"] = rows
    message = refused(describe(screen.parent, description))
    assert words in message
    assert "rows P1-7:" in message


def test_text_among_the_counts_is_refused_with_its_place(screen: Path, counts: pd.DataFrame) -> None:
    wrong = counts.astype(object)
    wrong.loc["MYC", "P1-7"] = "n/a"
    wrong.to_csv(screen.parent / "counts.csv")
    assert "column P1-7; rows MYC: 'n/a' is not a count" in refused(screen)


def test_repeated_genes_and_samples_are_refused(screen: Path, counts: pd.DataFrame, sheet: pd.DataFrame) -> None:
    counts.rename(index={"MYC": "EGFR"}).to_csv(screen.parent / "counts.csv")
    assert "a gene of the count matrix occurs more than once" in refused(screen)
    counts.to_csv(screen.parent / "counts.csv")
    pd.concat([sheet, sheet.head(1)]).to_csv(screen.parent / "layout.csv", index=False)
    assert "a sample occurs more than once" in refused(screen)


def test_a_gene_that_heads_two_columns_is_refused(screen: Path, counts: pd.DataFrame, description: Description) -> None:
    counts.rename(index={"MYC": "ACTB "}).T.to_csv(screen.parent / "counts.csv")
    description["counts"]["rows"] = "samples"
    message = refused(describe(screen.parent, description))
    assert "rows ACTB: a gene of the count matrix occurs more than once" in message


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_column_of_the_sheet_that_occurs_twice_is_refused(form: str, screen: Path, sheet: pd.DataFrame, description: Description) -> None:
    twice = sheet.rename(columns={"Line": "Dose"})
    if form == "csv":
        twice.to_csv(screen.parent / "layout.csv", index=False)
    else:
        twice.to_excel(screen.parent / "layout.xlsx", index=False, engine="xlsxwriter")
        description["samples"] = "layout.xlsx"
    description["columns"]["cell_context"] = {"value": "MCF10A"}
    message = refused(describe(screen.parent, description))
    assert f"layout.{form}" in message
    assert "rows Dose: a column of the sample sheet occurs more than once" in message


def test_an_h5ad_that_is_stored_by_gene_is_refused(
    screen: Path, sheet: pd.DataFrame, counts: pd.DataFrame, description: Description
) -> None:
    by_gene = sparse.csc_matrix(counts.T.to_numpy(np.float32))
    ad.AnnData(by_gene, sheet.set_index("Barcode"), pd.DataFrame(index=counts.index)).write_h5ad(screen.parent / "counts.h5ad")
    description["counts"]["file"] = "counts.h5ad"
    message = refused(describe(screen.parent, description))
    assert "counts.h5ad: /X is stored by column (CSC), and is read by row." in message
    assert "adata.X.tocsr()" in message


@pytest.mark.parametrize("name", ["counts.csv", "layout.csv"])
def test_lines_that_end_in_a_separator_are_refused(name: str, screen: Path) -> None:
    """pandas takes the first of their fields for the name of the row, and each other for that of the column before it."""
    file = screen.parent / name
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *(line + "," for line in lines)]) + "\n")
    message = refused(screen)
    assert f"{name}: the header has {header.count(',') + 1} fields, each line one more, of which the last is empty." in message
    assert "Remove the separator at the end of each line" in message


@pytest.mark.parametrize("rows", ["genes", "samples"])
def test_names_that_look_like_numbers_are_names(
    rows: str, screen: Path, sheet: pd.DataFrame, counts: pd.DataFrame, description: Description
) -> None:
    names = {name: f"{n:03d}" if n else "1E2" for n, name in enumerate(sheet["Barcode"])}
    expected = check(screen)
    sheet.replace({"Barcode": names}).to_csv(screen.parent / "layout.csv", index=False)
    # blanks around a name are no part of it, in the sheet as in the matrix
    named = counts.rename(columns={name: f" {number}" for name, number in names.items()})
    (named if rows == "genes" else named.T).to_csv(screen.parent / "counts.csv")
    description["counts"]["rows"] = rows
    np.testing.assert_array_equal(check(describe(screen.parent, description)).X.toarray(), expected.X.toarray())


def _truncated(file: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes())[:-200])


def _damaged(file: Path) -> None:
    packed = bytearray(gzip.compress(file.read_bytes()))
    packed[10:40] = b"\xff" * 30
    file.write_bytes(packed)


@pytest.mark.parametrize(
    ("role", "name", "spoil", "words"),
    [
        ("samples", "layout.csv", lambda file: file.write_text(file.read_text().splitlines()[0] + "\n"), "has no rows"),
        ("samples", "layout.csv", lambda file: file.write_text(""), "the sample sheet cannot be read"),
        ("samples", "layout.xlsx", lambda file: None, "the sample sheet cannot be read"),
        ("samples", "layout.xlsx", lambda file: file.write_text(""), "the sample sheet cannot be read"),
        ("samples", "layout.parquet", lambda file: None, "the sample sheet cannot be read"),
        ("samples", "layout.csv.gz", _truncated, "the sample sheet cannot be read"),
        ("samples", "layout.csv.gz", _damaged, "the sample sheet cannot be read"),
        ("counts", "counts.csv", lambda file: file.write_text(file.read_text().splitlines()[0] + "\n"), "has no values"),
        ("counts", "counts.csv", lambda file: file.write_text(""), "the count matrix cannot be read"),
        ("counts", "counts.csv.gz", _truncated, "the count matrix cannot be read"),
        ("counts", "counts.csv.gz", _damaged, "the count matrix cannot be read"),
        ("counts", "counts.mtx.gz", _truncated, "cannot be read as MTX"),
        ("counts", "counts.mtx.gz", _damaged, "cannot be read as MTX"),
        ("genes", "genes.tsv.gz", _truncated, "the names cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    role: str, name: str, spoil: Callable[[Path], object], words: str, screen: Path, counts: pd.DataFrame, description: Description
) -> None:
    folder = screen.parent
    if role == "samples":
        (folder / "layout.csv").replace(folder / name)
        description["samples"] = name
    else:
        io.mmwrite(folder / "counts.mtx", sparse.coo_matrix(counts.to_numpy()))
        pd.Series(GENES * 500).to_csv(folder / "genes.tsv", index=False, header=False)
        pd.Series(counts.columns).to_csv(folder / "samples.tsv", index=False, header=False)
        file = "counts.mtx" if role == "genes" or ".mtx" in name else "counts.csv"
        description["counts"]["file"] = file if role == "genes" else name
        (folder / ("genes.tsv" if role == "genes" else file)).replace(folder / name)
        if file == "counts.mtx":
            description["counts"] |= {"genes": name if role == "genes" else "genes.tsv", "samples": "samples.tsv"}
    spoil(folder / name)
    message = refused(describe(folder, description))
    assert words in message
    assert str(folder / name) in message


# ---- row names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "index_name", "column"),
    [
        ("index", None, None),
        ("index", "barcode", None),
        ("index", "barcode", "barcode"),
        ("index", None, "index"),
        ("index", "barcode", "index"),
        ("barcode", "barcode", None),
        ("barcode", "barcode", "barcode"),
    ],
)
def test_row_names_of_an_h5ad_file_are_its_index(
    asked: str,
    index_name: str | None,
    column: str | None,
    screen: Path,
    sheet: pd.DataFrame,
    counts: pd.DataFrame,
    description: Description,
) -> None:
    expected = check(screen)
    _h5ad(screen.parent, sheet.set_index("Barcode").rename_axis(index_name), counts, column)
    del description["samples"]
    description["counts"]["file"] = "counts.h5ad"
    description["columns"]["sample"] = asked
    np.testing.assert_array_equal(check(describe(screen.parent, description)).X.toarray(), expected.X.toarray())


def _h5ad(folder: Path, obs: pd.DataFrame, counts: pd.DataFrame, column: str | None) -> None:
    """The screen as one file; a column may repeat the row names."""
    if column:
        obs[column] = obs.index
    ad.AnnData(sparse.csr_matrix(counts.T.to_numpy(np.float32)), obs, pd.DataFrame(index=counts.index)).write_h5ad(folder / "counts.h5ad")


def test_a_column_index_of_an_h5ad_file_that_differs_from_its_row_names_is_refused(
    screen: Path, sheet: pd.DataFrame, counts: pd.DataFrame, description: Description
) -> None:
    _h5ad(screen.parent, sheet.set_index("Barcode").rename_axis(None).assign(index="x"), counts, None)
    del description["samples"]
    description["counts"]["file"] = "counts.h5ad"
    message = refused(describe(screen.parent, description))
    assert "counts.h5ad; column index: the row names are called index, and a column with other values is, too." in message


def test_32_bit_doses_of_an_h5ad_file_are_as_they_were_written(
    screen: Path, sheet: pd.DataFrame, counts: pd.DataFrame, description: Description
) -> None:
    sheet["Dose"] = np.where(sheet["Compound"] == "A", 0.35, 10).astype(np.float32)
    sheet["Unit"] = "uM"
    _h5ad(screen.parent, sheet.set_index("Barcode"), counts, None)
    del description["samples"]
    description["counts"]["file"] = "counts.h5ad"
    assert set(check(describe(screen.parent, description)).obs["pert_dose_uM"]) == {0.0, 0.35, 10.0}


@pytest.mark.parametrize(("index_name", "asked"), [(None, "index"), ("barcode", "index"), ("barcode", "barcode"), ("index", "index")])
def test_row_names_of_a_parquet_sheet_can_be_asked_for(
    index_name: str | None, asked: str, screen: Path, sheet: pd.DataFrame, description: Description
) -> None:
    expected = check(screen)
    sheet.set_index("Barcode").rename_axis(index_name).to_parquet(screen.parent / "layout.parquet")
    description["samples"] = "layout.parquet"
    description["columns"]["sample"] = asked
    np.testing.assert_array_equal(check(describe(screen.parent, description)).X.toarray(), expected.X.toarray())


def test_row_names_of_a_text_sheet_of_r_can_be_asked_for(screen: Path, sheet: pd.DataFrame, description: Description) -> None:
    expected = check(screen)
    # write.table leaves out the name of the first column
    (screen.parent / "layout.csv").write_text(sheet.set_index("Barcode").to_csv().split(",", 1)[1])
    description["columns"]["sample"] = "index"
    np.testing.assert_array_equal(check(describe(screen.parent, description)).X.toarray(), expected.X.toarray())


def test_samples_without_counts_are_counted(screen: Path, counts: pd.DataFrame) -> None:
    counts.drop(columns="P1-5").to_csv(screen.parent / "counts.csv")
    samples = check(screen)
    assert samples.n_obs == 21
    assert dropped(samples)["no counts"] == 1


# ---- in the graph ------------------------------------------------------------------------------------------------------------


def test_an_added_screen_is_a_dataset(screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError):
        registry.dataset("two_compounds")
    add_screen.main([str(screen)])
    declared = registry.dataset("two_compounds")
    assert declared.title == "Two compounds"
    assert "two_compounds" in registry.known_ids()
    assert "two_compounds" not in registry.datasets(), "it is nobody else's"
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SystemExit, match="another screen has this name"):
        add_screen.main(
            [str(Path(shutil.copytree(screen.parent, other / "copy", ignore=shutil.ignore_patterns("home", "other"))) / screen.name)]
        )


def test_adding_a_description_that_lies_among_the_screens_leaves_it_there(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path))
    there = tmp_path / "screens" / screen.name
    there.parent.mkdir()
    there.write_text(screen.read_text())
    assert add_screen.add(there) == there
    assert not there.is_symlink()
    assert there.read_text() == screen.read_text()


def test_adding_a_screen_again_or_by_its_link_leaves_the_link(screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(tmp_path))
    link = add_screen.add(screen)
    for again in (screen, link):
        assert add_screen.add(again) == link
        assert link.readlink() == screen
        assert screen.is_file()
    gone = screen.rename(screen.with_name("gone.yaml"))
    moved = tmp_path / "moved" / screen.name
    moved.parent.mkdir()
    gone.rename(moved)
    # the link leads nowhere now
    assert add_screen.add(moved).resolve() == moved
    assert [file.name for file in link.parent.iterdir()] == [screen.name]


def test_a_changed_column_makes_samples_stale_and_a_blank_line_does_not(screen: Path, description: Description) -> None:
    before = read_description(screen).checksum
    screen.write_text("\n" + screen.read_text())
    assert read_description(screen).checksum == before
    description["columns"]["well"] = "Barcode"
    assert read_description(describe(screen.parent, description)).checksum != before
