"""Tahoe-100M: cells × genes as h5ad, one file a plate, with curated metadata of the cells and the source's own tables beside them.

Belongs here: where Tahoe keeps what, and its own rules. Does not belong here: filters and sums of cells (``single_cell.py``), the
contract (``assemble.py``).

Genes are joined by name, never by position: the published pipeline wrote one table's ids over another's rows. Structures and PubChem ids
are the source's own, since a name such as ``Canagliflozin (hemihydrate)`` leads PubChem to something else or nowhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    CONDITION,
    NO_CELLS,
    Expression,
    NativeSamples,
    Reconciliation,
    first_known,
    only,
    positive_integers,
    read_curated_cells,
    read_parquet_table,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.single_cell import pseudobulk
from perturbridge_dagster.sources.spilled import SpilledRows
from perturbridge_dagster.sources.stored import member, open_hdf5

CELL_COLUMNS = ("plate", "gene_count", "tscp_count", "pcnt_mito", "cell_line_ontology_id", "pert_compound", "pert_dose", "pert_time")
DONOR_COLUMNS = ("tissue", "disease", "development_stage", "sex", "self_reported_ethnicity")

ROWS, COLUMNS = "ABCDEFGH", 12
"""A plate of 96 wells, numbered row by row from 1."""


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read Tahoe-100M, one plate after the other.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``counts`` and ``cells``, one a plate each, ``genes``, and where given ``source_genes``, ``compounds``,
        ``wells`` and ``cell_lines``.

    Raises
    ------
    InputError
        If a file is unreadable, a column or a plate's metadata are missing, plates have different genes, values are not counts, or
        tables contradict each other.
    """
    plates = _plates(files, dataset.id)
    wells = read_wells(only(files, "wells", dataset.id), dataset.id) if files["wells"] else None
    names = _gene_names(plates[0][0], dataset.id)
    genes = gene_ids(names, files, dataset.id)
    sums = SpilledRows()
    parts = [_plate(counts_file, cells_file, names, genes, wells, dataset, sums) for counts_file, cells_file in plates]
    steps = summed([part.account for part in parts])
    samples = pd.concat([part.samples for part in parts], ignore_index=True)
    steps.lose_conditions(NO_CELLS, pd.concat([part.conditions for part in parts]).astype(object), samples[list(CONDITION)].astype(object))
    steps.start("genes", len(names))
    obs = _obs(samples, files, dataset)
    return NativeSamples(obs, [Expression(plates[0][0], sums.blocks(np.arange(sums.n_rows)), genes[0], "mixed")], steps)


def summed(accounts: list[Reconciliation]) -> Reconciliation:
    """One account of several parts that went through the same rules in the same order."""
    total = Reconciliation()
    for position, step in enumerate(accounts[0].steps):
        parts = [account.steps[position] for account in accounts]
        if step["axis"] not in total.left:
            total.start(step["axis"], sum(part["n_in"] for part in parts))
        total.drop(step["axis"], step["rule"], sum(part["n_dropped"] for part in parts))
    return total


# ---- plates and cells --------------------------------------------------------------------------------------------------------


def _plates(files: dict[str, list[Path]], dataset: str) -> list[tuple[Path, Path]]:
    """Counts and cell metadata of each plate, paired by the plate number in their names, in the order of plates."""
    numbered: dict[str, dict[int, Path]] = {}
    for role in ("counts", "cells"):
        numbers = [int(re.sub(r"^plate(\d*).*$", r"\1", file.name) or 0) for file in files[role]]
        require_unique(pd.Series(numbers, name="plate number"), f"a plate's {role} file", dataset, files[role][0].parent)
        numbered[role] = dict(zip(numbers, files[role], strict=True))
    missing = sorted(set(numbered["counts"]) - set(numbered["cells"]))
    if missing:
        raise InputError(
            f"plates {', '.join(map(str, missing))} have counts and no metadata of cells.",
            dataset=dataset,
            file=files["cells"][0].parent,
            expected=f"obs/plate{missing[0]}.parquet",
        )
    return [(file, numbered["cells"][number]) for number, file in sorted(numbered["counts"].items())]


class _Plate(NamedTuple):
    """Samples of one plate, the conditions that its cells have, and what was dropped."""

    samples: pd.DataFrame
    conditions: pd.DataFrame
    account: Reconciliation


def _gene_names(counts_file: Path, dataset: str) -> pd.Index:
    with open_hdf5(counts_file, dataset) as opened:
        names: pd.Index = ad.io.read_elem(member(opened, "var", dataset)).index
    return names


def _plate(
    counts_file: Path,
    cells_file: Path,
    names: pd.Index,
    genes: tuple[pd.Index, pd.Series],
    wells: pd.DataFrame | None,
    dataset: Dataset,
    sums: SpilledRows,
) -> _Plate:
    """Samples of a plate; their sums are appended to those of the other plates."""
    if not names.equals(_gene_names(counts_file, dataset.id)):
        raise InputError(
            "its genes are not those of the first plate.",
            dataset=dataset.id,
            file=counts_file,
            expected="the same genes in the same order on every plate",
        )
    account = Reconciliation()
    with open_hdf5(counts_file, dataset.id) as opened:
        own = ad.io.read_elem(member(opened, "obs", dataset.id))
        cells = _cells(own, cells_file, dataset, counts_file)
        if wells is not None:
            cells = with_wells(cells, _words(own["sample"]) if "sample" in own else None, wells, dataset.id, cells_file)
        account.start("cells", len(cells))
        stored = member(opened, "X", dataset.id)
        samples, values = pseudobulk(stored, cells, *genes, account, dataset=dataset.id, counts_file=counts_file, cells_file=cells_file)
    sums.append(values)
    return _Plate(samples, cells[list(CONDITION)].drop_duplicates(), account)


def _words(column: pd.Series) -> pd.Series:
    """A column as cleaned text in categories; each distinct value is cleaned once, since a plate has ten million cells."""
    values = column.astype("category")
    cleaned = text(values.cat.categories.to_series().reset_index(drop=True))
    distinct = sorted(cleaned.dropna().unique())
    codes = np.append(pd.Index(distinct).get_indexer(cleaned), -1)[values.cat.codes]
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(distinct)), index=column.index, name=column.name)


def _numbers(words: pd.Series, of_word: Callable[[pd.Series], pd.Series]) -> pd.Series:
    """Numbers of a column of categories, each distinct text turned into one once."""
    numbers = of_word(pd.Series(words.cat.categories, dtype=object)).to_numpy(np.float64)
    return pd.Series(np.append(numbers, np.nan)[words.cat.codes], index=words.index)


def _cells(own: pd.DataFrame, cells_file: Path, dataset: Dataset, counts_file: Path) -> pd.DataFrame:
    """Metadata of every cell of a plate, in the order of the matrix."""
    curated = read_curated_cells(cells_file, CELL_COLUMNS, own.index, dataset.id, counts_file)
    compound = _words(curated["pert_compound"])
    is_control = compound.isin(dataset.control.labels)
    require_controls(is_control, compound.cat.categories, dataset)
    cells = pd.DataFrame(
        {
            "plate": _words(curated["plate"]),
            "well": well_of(own.index, dataset.id, counts_file),
            "source_cell_context": _words(curated["cell_line_ontology_id"]),
            "perturbagen": compound,
            "is_control": is_control,
            "pert_dose_uM": _numbers(_words(curated["pert_dose"]), parse_dose_uM),
            "pert_time_h": _numbers(_words(curated["pert_time"]), parse_time_h),
            "n_counts": pd.to_numeric(curated["tscp_count"]).astype("float64"),
            "n_genes": pd.to_numeric(curated["gene_count"]).astype("float64"),
            "mitochondrial_fraction": pd.to_numeric(curated["pcnt_mito"]).astype("float64"),
        },
        index=own.index,
    )
    return cells.assign(**{name: _words(curated[name]) for name in DONOR_COLUMNS if name in curated})


def well_of(cell_ids: pd.Index, dataset: str, file: Path) -> pd.Series:
    """Wells of cells: the first two digits of a cell id are the barcode of its well, 1 to 96, row by row.

    Raises
    ------
    InputError
        If a cell id does not begin with a well of a plate of 96.
    """
    digits = cell_ids.to_series().str.extract(r"^(\d\d)_", expand=False)
    numbers = pd.to_numeric(digits).fillna(0).to_numpy(np.int64)
    wrong = (numbers < 1) | (numbers > len(ROWS) * COLUMNS)
    if wrong.any():
        raise InputError(
            "a cell id does not begin with the number of its well.",
            dataset=dataset,
            file=file,
            rows=list(cell_ids[wrong]),
            expected="two digits from 01 to 96 and an underscore, as in 01_001_052-lib_1105",
        )
    names = [f"{row}{column + 1}" for row in ROWS for column in range(COLUMNS)]
    return pd.Series(pd.Categorical.from_codes(numbers - 1, categories=pd.Index(names)), index=cell_ids)


# ---- the source's own tables -------------------------------------------------------------------------------------------------


def read_wells(file: Path, dataset: str) -> pd.DataFrame:
    """The source's table of wells.

    Returns
    -------
    Index: the source's sample id. Columns ``plate``, ``perturbagen``, ``pert_dose_uM``.

    Raises
    ------
    InputError
        If a column is missing, a sample occurs twice, or a dose is no ``[('Everolimus', 0.05, 'uM')]`` of the well's one drug.
    """
    table = read_parquet_table(file, dataset)
    require_columns(table, ["sample", "plate", "drug", "drugname_drugconc"], dataset, file)
    require_unique(table["sample"], "a sample", dataset, file)
    table = table.set_index("sample")
    drug = text(table["drug"])
    given = table["drugname_drugconc"].map(_drug_and_dose)
    wrong = given.map(lambda one: one is None) | (given.map(lambda one: one and one[0]) != drug)
    if wrong.any():
        raise InputError(
            f"{table['drugname_drugconc'][wrong].iloc[0]!r} is not one drug, {drug[wrong].iloc[0]!r}, and its dose.",
            dataset=dataset,
            file=file,
            rows=list(table.index[wrong]),
            column="drugname_drugconc",
            expected="[('Everolimus', 0.05, 'uM')]",
        )
    return pd.DataFrame(
        {
            "plate": text(table["plate"]),
            "perturbagen": drug,
            "pert_dose_uM": parse_dose_uM(given.map(lambda one: one[1]), given.map(lambda one: one[2])),
        }
    )


def _drug_and_dose(words: str) -> tuple[str, float, str] | None:
    """The one drug of ``[('Everolimus', 0.05, 'uM')]`` with dose and unit; None where it is something else."""
    try:
        [(name, dose, unit)] = ast.literal_eval(words)
        return str(name).strip(), float(dose), str(unit)
    except (ValueError, SyntaxError, TypeError):
        return None


def with_wells(cells: pd.DataFrame, source_sample: pd.Series | None, wells: pd.DataFrame, dataset: str, file: Path) -> pd.DataFrame:
    """Cells whose missing doses are taken from the source's table of wells, which must not contradict the curated ones.

    Parameters
    ----------
    cells
        Cells of one plate: ``plate``, ``well``, ``perturbagen``, ``pert_dose_uM``. Names of perturbagens are compared whatever their
        case: the curated metadata say ``verteporfin`` and the source's tables ``Verteporfin``.
    source_sample
        The source's sample id of each cell, where it says one. Without, a dose is taken where plate and perturbagen have only one.
    wells
        As :func:`read_wells` returns it.

    Raises
    ------
    InputError
        If a perturbagen or a dose is another one in the table.
    """
    keys = ["plate", "perturbagen"]
    if source_sample is None:
        listed = wells.assign(perturbagen=wells["perturbagen"].str.casefold())
        distinct = listed.drop_duplicates([*keys, "pert_dose_uM"]).drop_duplicates(keys, keep=False).set_index(keys)["pert_dose_uM"]
        known = cells[keys].drop_duplicates().astype(object)
        spelled = pd.MultiIndex.from_frame(known.assign(perturbagen=known["perturbagen"].str.casefold()))
        known["table_dose"] = distinct.reindex(spelled).to_numpy()
        table_dose = cells[keys].astype(object).merge(known, on=keys, how="left")["table_dose"].set_axis(cells.index)
    else:
        seen = (
            cells[[*keys, "well", "pert_dose_uM"]]
            .assign(sample=source_sample)
            .drop_duplicates()
            .astype(dict.fromkeys([*keys, "sample"], object))
        )
        listed = wells.reindex(seen["sample"]).set_axis(seen.index)
        known_well = listed["perturbagen"].notna()
        differing = known_well & (
            (seen["perturbagen"].notna() & (seen["perturbagen"].str.casefold() != listed["perturbagen"].str.casefold()))
            | (seen["pert_dose_uM"].notna() & ~np.isclose(seen["pert_dose_uM"], listed["pert_dose_uM"]))
        )
        if differing.any():
            row, other = seen[differing].iloc[0], listed[differing].iloc[0]
            raise InputError(
                f"the curated table says {row['perturbagen']} at {row['pert_dose_uM']:g} µM, the table of wells "
                f"{other['perturbagen']} at {other['pert_dose_uM']:g} µM.",
                dataset=dataset,
                file=file,
                rows=list(seen.loc[differing, "sample"].unique()),
                expected="metadata of one release",
            )
        table_dose = _numbers(source_sample, lambda samples: samples.map(wells["pert_dose_uM"]))
    return cells.assign(pert_dose_uM=first_known(cells["pert_dose_uM"], table_dose).astype("float64"))


def read_compounds(file: Path, dataset: str) -> pd.DataFrame:
    """The source's structures: index perturbagen, columns ``smiles`` and ``pubchem_cid``.

    Raises
    ------
    InputError
        If a column is missing, or a drug occurs twice, be it in another case.
    """
    table = read_parquet_table(file, dataset)
    require_columns(table, ["drug", "canonical_smiles", "pubchem_cid"], dataset, file)
    drug = text(table["drug"])
    require_unique(drug.str.casefold(), "a drug, whatever its case,", dataset, file)
    return pd.DataFrame(
        {"smiles": text(table["canonical_smiles"]).to_numpy(), "pubchem_cid": positive_integers(table["pubchem_cid"]).array},
        index=pd.Index(drug, name="perturbagen"),
    )


def read_organs(file: Path, dataset: str) -> pd.Series:
    """The organ of each cell line, in small letters, by Cellosaurus accession.

    Raises
    ------
    InputError
        If a column is missing, or a line has two organs.
    """
    table = read_parquet_table(file, dataset)
    require_columns(table, ["Cell_ID_Cellosaur", "Organ"], dataset, file)
    # one row a driver mutation
    lines = table[["Cell_ID_Cellosaur", "Organ"]].apply(text).dropna().drop_duplicates()
    require_unique(lines["Cell_ID_Cellosaur"], "a cell line with differing organs", dataset, file)
    return lines.set_index("Cell_ID_Cellosaur")["Organ"].str.lower()


def gene_ids(names: pd.Index, files: dict[str, list[Path]], dataset: str) -> tuple[pd.Index, pd.Series]:
    """Ensembl ids and symbols in the order of some gene names: the source's own id, else the curated one, else the name.

    Raises
    ------
    InputError
        If a gene is in neither table, or a table has it twice.
    """
    file = only(files, "genes", dataset)
    curated = read_parquet_table(file, dataset)
    require_columns(curated, ["ensembl_gene_id", "symbol"], dataset, file)
    for table, where in ((curated.index, file), (names, files["counts"][0])):
        require_unique(table.to_series(name="gene_name"), "a gene", dataset, where)
    source = read_source_genes(only(files, "source_genes", dataset), dataset) if files["source_genes"] else pd.Series(dtype=object)
    unknown = ~(names.isin(curated.index) | names.isin(source.index))
    if unknown.any():
        raise InputError(
            f"{int(unknown.sum()):,} genes of the matrices are not in the table of genes.",
            dataset=dataset,
            file=file,
            rows=list(names[unknown]),
            expected="every gene name of the matrices",
        )
    curated = curated.reindex(names)
    name = names.to_series().astype(object)
    ids = first_known(source.reindex(names), text(curated["ensembl_gene_id"]), name)
    return pd.Index(ids.to_numpy(object)), first_known(text(curated["symbol"]), name).reset_index(drop=True)


def read_source_genes(file: Path, dataset: str) -> pd.Series:
    """The source's own Ensembl ids by gene name.

    Raises
    ------
    InputError
        If a column is missing or a gene name occurs twice.
    """
    table = read_parquet_table(file, dataset)
    require_columns(table, ["gene_symbol", "ensembl_id"], dataset, file)
    require_unique(table["gene_symbol"], "a gene", dataset, file)
    return text(table.set_index("gene_symbol")["ensembl_id"])


# ---- samples -----------------------------------------------------------------------------------------------------------------


def _obs(samples: pd.DataFrame, files: dict[str, list[Path]], dataset: Dataset) -> pd.DataFrame:
    """Samples of all plates with what the source's tables know of compounds and cell lines."""
    samples = samples.astype(dict.fromkeys(samples.columns[samples.dtypes == "category"], object))
    samples.index = pd.Index(samples["plate"] + " " + samples["well"] + " " + samples["perturbagen"] + " " + samples["source_cell_context"])
    known = pd.DataFrame(columns=["smiles", "pubchem_cid"])
    if files["compounds"]:
        known = read_compounds(only(files, "compounds", dataset.id), dataset.id)
        known.index = known.index.str.casefold()
    found = known.reindex(samples["perturbagen"].str.casefold()).set_axis(samples.index)
    if files["cell_lines"]:
        organ = samples["source_cell_context"].map(read_organs(only(files, "cell_lines", dataset.id), dataset.id))
        samples["tissue"] = first_known(samples["tissue"], organ) if "tissue" in samples else organ
    return samples.assign(source_perturbagen_id=None, inchikey=None, smiles=found["smiles"], pubchem_cid=found["pubchem_cid"])
