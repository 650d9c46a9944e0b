"""LINCS L1000 Level 3: log2 intensities as GCTX, GCT or h5ad, with the tables of GEO beside them or metadata of their own.

Belongs here: the layout of GCTX and GCT, the LINCS tables and their words, which wells and genes are kept. Does not belong here: the
contract (``assemble.py``), identifiers (``identity/``).

The published matrix has 1,319,138 wells × 12,328 genes in 49 GB; only the needed wells and the 978 landmark genes are read, in
contiguous pieces in file order. A GCT file is text, gene by gene, so that its needed values are held whole: such files hold plates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.lincs_portal import read_portal
from perturbridge_dagster.sources.native import (
    Expression,
    GeneKind,
    NativeSamples,
    Reconciliation,
    first_known,
    only,
    positive_integers,
    read_text_table,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.stored import matrix_shape, member, open_hdf5, row_blocks

N_LANDMARKS = 978
SLAB_BYTES = 64 * 2**20
"""Most bytes read from a dense matrix at once."""

INSTANCE_COLUMNS = ("pert_id", "pert_type", "pert_dose", "pert_dose_unit", "pert_time", "pert_time_unit", "cell_id")
OPTIONAL_INSTANCE_COLUMNS = ("pert_iname", "pert_desc", "det_plate", "det_well", "rna_well", "canonical_smiles", "inchi_key", "pubchem_cid")
CONDITION = ("pert_iname", "cell_id", "pert_dose_uM", "pert_time_h")
STRUCTURE_COLUMNS = ("pert_iname", "inchi_key", "canonical_smiles", "pubchem_cid")
DONOR_COLUMNS = ("sample_type", "primary_site", "subtype", "donor_age", "donor_sex", "donor_ethnicity")

GCTX_SYNONYMS = {f"exp_{name}": name for name in ("pert_dose", "pert_dose_unit", "pert_time", "pert_time_unit")}
"""How older GCTX files name columns."""

GCT_NUMBERS = {"#1.2": 2, "#1.3": 4}
"""First line of a GCT file → how many numbers its second has: genes, samples, and of 1.3 the fields of a gene and of a sample."""


@dataclass
class _Matrix:
    """What one expression file says apart from its values: metadata of samples and genes in their order, and the path of the values in an
    HDF5 file; none for GCT.
    """

    file: Path
    path: str | None
    samples: pd.DataFrame
    genes: pd.DataFrame


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read L1000.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``expression``, ``instances``, ``cells``, ``perturbagens``, ``perturbagens_phase2``, ``genes``, and those of
        the LINCS portal (``lincs_portal.ROLES``).

    Raises
    ------
    InputError
        If a file is unreadable or lacks what is needed, or no vehicle control is found. Once blocks are read, if a value is not finite
        or values are not Level 3.
    """
    steps = Reconciliation(CONDITION)
    matrices = [_matrix(file, dataset.id) for file in files["expression"]]
    instances = _instances(matrices, files, dataset, steps)
    instances = _add_structures(instances, files, dataset.id)
    instances = _filter(instances, dataset, steps)

    gene_info = _table(files, "genes", dataset.id, ("pr_gene_id", "pr_gene_symbol", "pr_is_lm"))
    expressions = []
    n_genes = 0
    for position, matrix in enumerate(matrices):
        rows = instances.loc[instances["matrix"] == position, "row"]
        if rows.empty:
            continue
        genes, kind = _choose_genes(matrix, gene_info, dataset.id)
        expressions.append(Expression(matrix.file, _values(matrix, rows, genes, dataset.id), pd.Index(genes), kind))
        n_genes += len(matrix.genes)
    steps.start("genes", n_genes)
    steps.drop("genes", "not a landmark gene", n_genes - sum(len(expression.genes) for expression in expressions))
    return NativeSamples(_obs(instances, _donors(files, dataset.id), dataset), expressions, steps)


# ---- expression files --------------------------------------------------------------------------------------------------------


def _matrix(file: Path, dataset: str) -> _Matrix:
    """Sample and gene metadata of a GCTX, GCT or h5ad file."""
    if file.suffix == ".gct":
        return _gct_matrix(file, dataset)
    with open_hdf5(file, dataset) as opened:
        if file.suffix == ".h5ad":
            path = "X"
            samples, genes = (ad.io.read_elem(member(opened, axis, dataset)) for axis in ("obs", "var"))
        else:
            path = "0/DATA/0/matrix"
            samples, genes = (_gctx_metadata(opened, f"0/META/{axis}", dataset) for axis in ("COL", "ROW"))
        shape = matrix_shape(member(opened, path, dataset))
        if shape != (len(samples), len(genes)):
            raise InputError(
                f"the matrix has shape {shape}, its metadata {(len(samples), len(genes))}.",
                dataset=dataset,
                file=file,
                expected="samples × genes; the file may be truncated",
            )
    samples = samples.rename(columns={old: new for old, new in GCTX_SYNONYMS.items() if new not in samples})
    return _Matrix(file, path, samples, genes)


def _gctx_metadata(opened: h5py.File, path: str, dataset: str) -> pd.DataFrame:
    """Metadata of one axis of a GCTX file, indexed by id."""
    shape = member(opened, f"{path}/id", dataset).shape
    columns = dict(opened[path].items())
    for name, column in columns.items():
        if len(shape) != 1 or getattr(column, "shape", None) != shape:
            raise InputError(
                f"{path}/{name} has shape {getattr(column, 'shape', None)}, {path}/id has {shape}.",
                dataset=dataset,
                file=opened.filename,
                column=name,
                expected="one value an id in every column of metadata",
                advice="Fetch or write the file again.",
            )
    return pd.DataFrame({name: _decoded(column) for name, column in columns.items()}).set_index("id")


def _decoded(column: h5py.Dataset) -> np.ndarray:
    """A column of metadata, text decoded; old files hold a µ in latin-1."""
    if h5py.check_string_dtype(column.dtype) is None:
        return np.asarray(column)
    try:
        return np.asarray(column.asstr("utf-8"))
    except UnicodeDecodeError:
        return np.asarray(column.asstr("latin-1"))


def _gct_matrix(file: Path, dataset: str) -> _Matrix:
    """Sample and gene metadata of a GCT file, every line of which is there and whole."""
    lines = _gct_lines(file)
    first, sizes, header = (next(lines, (number, [""]))[1] for number in (1, 2, 3))
    version = first[0].strip()
    if version not in GCT_NUMBERS:
        raise InputError(
            f"the first line is {version[:40]!r}.",
            dataset=dataset,
            file=file,
            expected=f"{' or '.join(GCT_NUMBERS)}, as GCT files begin",
            advice="Fetch the file again; a GCTX file must end with .gctx.",
        )
    words = [word.strip() for word in sizes if word.strip()]
    if len(words) != GCT_NUMBERS[version] or not all(word.isdecimal() for word in words):
        raise InputError(
            f"line 2 is {' '.join(words)[:80]!r}.", dataset=dataset, file=file, expected=f"{GCT_NUMBERS[version]} numbers, as {version} has"
        )
    # 1.2 has a description of each gene, and nothing of samples
    n_genes, n_samples, n_gene_fields, n_sample_fields = (*map(int, words), 1, 0)[:4]
    width = 1 + n_gene_fields + n_samples
    _require_width(3, header, width, file, dataset)
    of_samples: dict[str, list[str | None]] = {}
    of_genes: list[list[str | None]] = []
    gene_ids: list[str] = []
    for number, fields in lines:
        _require_width(number, fields, width, file, dataset)
        if len(of_samples) < n_sample_fields:
            if fields[0] in of_samples:
                raise InputError("a field of the samples occurs more than once.", dataset=dataset, file=file, column=fields[0])
            of_samples[fields[0]] = _gct_words(fields[1 + n_gene_fields :])
        else:
            gene_ids.append(fields[0])
            of_genes.append(_gct_words(fields[1 : 1 + n_gene_fields]))
    if len(of_samples) != n_sample_fields or len(of_genes) != n_genes:
        raise InputError(
            f"there are {len(of_samples):,} fields of samples and {len(of_genes):,} genes.",
            dataset=dataset,
            file=file,
            expected=f"{n_sample_fields:,} and {n_genes:,}, as line 2 says; the file may be cut",
            advice="Compare its size with the source's and fetch it again.",
        )
    names = pd.Index(header[1 : 1 + n_gene_fields])
    require_unique(names.to_series(name="line 3"), "a field of the genes", dataset, file)
    samples = pd.DataFrame(of_samples, index=pd.Index(header[1 + n_gene_fields :], name="id"))
    return _Matrix(file, None, samples, pd.DataFrame(of_genes, index=pd.Index(gene_ids, name="id"), columns=names))


def _gct_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line of a GCT file that is not empty; old files hold a µ in latin-1."""
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            try:
                words = line.decode()
            except UnicodeDecodeError:
                words = line.decode("latin-1")
            if words.strip():
                yield number, words.rstrip("\r\n").split("\t")


def _gct_words(fields: list[str]) -> list[str | None]:
    """Fields of metadata, missing where GCT says so."""
    return [None if field in ("na", "NA") else field for field in fields]


def _require_width(number: int, fields: list[str], width: int, file: Path, dataset: str) -> None:
    """Refuse a line of a GCT file that has not as many fields as the second line says."""
    if len(fields) != width:
        raise InputError(
            f"line {number:,} has {len(fields):,} fields.",
            dataset=dataset,
            file=file,
            expected=f"{width:,}, as line 2 says; the file may be cut",
            advice="Compare its size with the source's and fetch it again.",
        )


def _values(matrix: _Matrix, rows: pd.Series, genes: pd.Series, dataset: str) -> Iterator[np.ndarray]:
    """Blocks of the values of some samples and genes, float32, refused where they are not log2 intensities.

    Parameters
    ----------
    rows
        Rows of the matrix, ascending, indexed by sample.
    genes
        Gene ids, indexed by column of the matrix.
    """
    done = negative = 0
    for values in _blocks(matrix, rows.to_numpy(), genes.index.to_numpy(), dataset):
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InputError(
                f"the value of gene {genes.iloc[column]} is {values[row, column]}.",
                dataset=dataset,
                file=matrix.file,
                rows=[rows.index[done + row]],
                expected="a finite log2 intensity",
            )
        negative += int((values < 0).sum())
        done += len(values)
        yield values.astype(np.float32, copy=False)
    if negative > 0.1 * len(rows) * len(genes):
        raise InputError(
            f"{negative / (len(rows) * len(genes)):.0%} of the values are negative.",
            dataset=dataset,
            file=matrix.file,
            expected="Level 3 log2 intensities, which are not",
            advice="Level 4 and 5 files hold z-scores; use the Level 3 file.",
        )


def _blocks(matrix: _Matrix, rows: np.ndarray, columns: np.ndarray, dataset: str) -> Iterator[np.ndarray]:
    """Dense blocks of the selected rows and columns (both ascending) of a file, in order."""
    if matrix.path is None:
        yield _gct_values(matrix, rows, columns, dataset)
        return
    with open_hdf5(matrix.file, dataset) as opened:
        yield from _selected_blocks(opened[matrix.path], rows, columns)


def _gct_values(matrix: _Matrix, rows: np.ndarray, columns: np.ndarray, dataset: str) -> np.ndarray:
    """Values of the selected samples and genes of a GCT file."""
    values = np.empty((len(rows), len(columns)), np.float32)
    column_of = {int(gene): column for column, gene in enumerate(columns)}
    # behind the three lines of the head and the metadata of samples; behind the id and the metadata of the gene
    n_above, n_before = 3 + matrix.samples.shape[1], 1 + matrix.genes.shape[1]
    for gene, (number, fields) in enumerate(islice(_gct_lines(matrix.file), n_above, None)):
        if gene in column_of:
            try:
                values[:, column_of[gene]] = np.array([fields[n_before + row] for row in rows], dtype=np.float32)
            except ValueError as error:
                raise InputError(
                    f"a value of line {number:,}, of gene {fields[0]}, cannot be read as a number ({error}).",
                    dataset=dataset,
                    file=matrix.file,
                    expected="a finite log2 intensity",
                ) from error
    return values


def _selected_blocks(stored: h5py.Dataset | h5py.Group, rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """Dense blocks of the selected rows (ascending) and columns, in order."""
    if isinstance(stored, h5py.Group):
        for start, block in row_blocks(stored, max_rows=10_000):
            first, last = np.searchsorted(rows, (start, start + block.shape[0]))
            if last > first:
                yield block[rows[first:last] - start][:, columns].toarray()
        return
    left, right = columns.min(), columns.max() + 1
    window = max(1, SLAB_BYTES // int((right - left) * stored.dtype.itemsize))
    first = 0
    while first < len(rows):
        last = int(np.searchsorted(rows, rows[first] + window))
        yield stored[rows[first] : rows[last - 1] + 1, left:right][np.ix_(rows[first:last] - rows[first], columns - left)]
        first = last


# ---- genes -------------------------------------------------------------------------------------------------------------------


def _choose_genes(matrix: _Matrix, gene_info: pd.DataFrame, dataset: str) -> tuple[pd.Series, GeneKind]:
    """Ids of the landmark genes, indexed by column of the matrix, and what kind of ids they are."""
    genes, kind = _gene_ids(matrix.genes)
    genes = genes.reset_index(drop=True)
    key = "pr_gene_id" if kind == "entrez" else "pr_gene_symbol"
    if len(gene_info):
        landmark = genes.isin(gene_info.loc[gene_info["pr_is_lm"] == "1", key])
    elif "pr_is_lm" in matrix.genes:
        landmark = positive_integers(matrix.genes["pr_is_lm"]).eq(1).fillna(value=False).reset_index(drop=True).astype(bool)
    elif len(genes) <= N_LANDMARKS:
        return genes, kind
    else:
        raise InputError(
            f"{len(genes):,} genes, and nothing says which are landmarks.",
            dataset=dataset,
            file=matrix.file,
            expected=f"a gene_info table, a row field pr_is_lm, or at most {N_LANDMARKS} genes",
            advice="Put GSE92742_Broad_LINCS_gene_info.txt.gz beside it.",
        )
    if not landmark.any():
        raise InputError(
            f"no gene is a landmark gene; gene ids look like {genes.iloc[0]}.",
            dataset=dataset,
            file=matrix.file,
            expected=f"{key} of gene_info",
        )
    return genes[landmark], kind


def _gene_ids(genes: pd.DataFrame) -> tuple[pd.Series, GeneKind]:
    """Gene ids and their kind: Entrez ids where the file has them, else what the row names are, else symbols."""
    names = genes.index.to_series().astype(str)
    if "pr_gene_id" in genes:
        return first_known(text(positive_integers(genes["pr_gene_id"])), names), "entrez"
    if names.str.fullmatch(r"\d+").all():
        return names, "entrez"
    if names.str.match(r"ENSG\d{11}").all():
        return names, "ensembl"
    return (first_known(text(genes["pr_gene_symbol"]), names) if "pr_gene_symbol" in genes else names), "symbol"


# ---- samples -----------------------------------------------------------------------------------------------------------------


def _table(files: dict[str, list[Path]], role: str, dataset: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """A table of LINCS as text, empty where there is none."""
    if not files[role]:
        return pd.DataFrame(columns=[*columns, *optional], dtype=object)
    file = only(files, role, dataset)
    table = read_text_table(file, dataset, separator="\t", columns=columns, optional=optional)
    require_unique(table[columns[0]], f"a {columns[0]}", dataset, file)
    return table


def _instances(matrices: list[_Matrix], files: dict[str, list[Path]], dataset: Dataset, steps: Reconciliation) -> pd.DataFrame:
    """One row a sample with metadata, by instance id, in the order of the matrices; ``matrix`` and ``row`` say where its values are."""
    table = None
    found = []
    for position, matrix in enumerate(matrices):
        if "pert_type" in matrix.samples:
            require_columns(matrix.samples, INSTANCE_COLUMNS, dataset.id, matrix.file)
            own = matrix.samples.reindex(columns=[*INSTANCE_COLUMNS, *OPTIONAL_INSTANCE_COLUMNS]).apply(text)
            own.index = own.index.astype(str)
        elif files["instances"]:
            if table is None:
                table = _table(files, "instances", dataset.id, ("inst_id", *INSTANCE_COLUMNS), OPTIONAL_INSTANCE_COLUMNS)
            own = _rows_of(matrix.samples.index, table)
        else:
            raise InputError(
                "the file has no sample metadata, and there is no instance table.",
                dataset=dataset.id,
                file=matrix.file,
                expected="GSE92742_Broad_LINCS_inst_info.txt.gz beside it",
                advice=dataset.access.how,
            )
        found.append(own.assign(matrix=position, row=np.arange(len(own))))
    instances = pd.concat(found)
    steps.start("samples", len(instances))
    instances = steps.keep("samples", "no metadata", instances, instances["pert_type"].notna())
    if instances.empty:
        raise InputError(
            "no sample of the expression files is in the instance table.",
            dataset=dataset.id,
            file=only(files, "instances", dataset.id),
            rows=list(matrices[0].samples.index[:5]),
            column="inst_id",
        )
    require_unique(instances.index.to_series(name="inst_id"), "a sample", dataset.id, matrices[0].file)
    return instances


def _rows_of(ids: pd.Index, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the instance table in the order of some ids: the same id, else the only one that differs in case alone.

    Indexed by the id as the table spells it. A row whose id is not in the table is missing, and keeps its own.
    """
    exact = pd.Index(table["inst_id"]).get_indexer(ids)
    folded = table["inst_id"].str.lower()
    alone = ~folded.duplicated(keep=False)
    by_case = np.append(np.flatnonzero(alone), -1)[pd.Index(folded[alone]).get_indexer(ids.str.lower())]
    position = np.where(exact >= 0, exact, by_case)
    rows = table.reset_index(drop=True).reindex(position)
    return rows.set_index(np.where(position >= 0, rows["inst_id"], ids))


def _add_structures(instances: pd.DataFrame, files: dict[str, list[Path]], dataset: str) -> pd.DataFrame:
    """Names and structures by perturbagen id.

    A perturbagen has one name in the dataset: the one beside its samples, else that of the tables, else a description. Structures are
    the first table's, else the second's, else the LINCS portal's, else the ones beside the sample.
    """
    tables = [
        _table(files, role, dataset, ("pert_id",), STRUCTURE_COLUMNS).set_index("pert_id")
        for role in ("perturbagens", "perturbagens_phase2")
    ]
    known = tables[0].combine_first(tables[1])
    known = known.combine_first(read_portal(files, known, dataset))
    beside = instances.dropna(subset="pert_id").set_index("pert_id")
    names = pd.concat([beside["pert_iname"], known["pert_iname"], beside["pert_desc"]]).dropna()
    by_id = instances["pert_id"].map(names[~names.index.duplicated()])
    completed = instances.assign(pert_iname=first_known(by_id, instances["pert_iname"], instances["pert_desc"], instances["pert_id"]))
    for column in STRUCTURE_COLUMNS[1:]:
        completed[column] = first_known(instances["pert_id"].map(known[column]), instances[column])
    return completed


def _filter(instances: pd.DataFrame, dataset: Dataset, steps: Reconciliation) -> pd.DataFrame:
    """Compounds and DMSO, with the type in lower case and doses and times as numbers."""
    instances = instances.assign(
        pert_type=instances["pert_type"].str.lower(),
        pert_dose_uM=parse_dose_uM(instances["pert_dose"], instances["pert_dose_unit"]),
        pert_time_h=parse_time_h(instances["pert_time"], instances["pert_time_unit"]),
    )
    types = instances["pert_type"].unique()
    instances = steps.keep(
        "samples", "pert_type other than trt_cp and ctl_vehicle", instances, instances["pert_type"].isin(["trt_cp", "ctl_vehicle"])
    )
    vehicle = instances["pert_type"] == "ctl_vehicle"
    vehicles = instances.loc[vehicle, "pert_iname"].unique()
    labels = [label.lower() for label in dataset.control.labels]
    is_dmso = instances["pert_iname"].str.lower().isin(labels)
    instances = steps.keep("samples", f"vehicle other than {' or '.join(dataset.control.labels)}", instances, ~vehicle | is_dmso)
    instances["is_control"] = instances["pert_type"] == "ctl_vehicle"
    require_controls(instances["is_control"], [*vehicles, *types], dataset)
    instances = steps.keep(
        "samples",
        "compound whose dose the source rounds to 0",
        instances,
        instances["is_control"] | instances["pert_dose_uM"].ne(0),
    )
    both = instances.groupby("cell_id")["is_control"].transform("nunique") == 2
    instances = steps.keep("samples", "cell line without controls or without compounds", instances, both)
    if instances.empty:
        raise InputError("no cell line has both vehicle controls and compounds.", dataset=dataset.id, expected=dataset.control.how)
    return instances


def _donors(files: dict[str, list[Path]], dataset: str) -> pd.DataFrame:
    """Donor fields of the contract by LINCS cell id."""
    cells = _table(files, "cells", dataset, ("cell_id",), DONOR_COLUMNS).set_index("cell_id")
    healthy = cells["sample_type"].isin(["primary", "normal"]) & cells["subtype"].str.lower().ne("carcinoma")
    return pd.DataFrame(
        {
            "tissue": cells["primary_site"],
            "disease": cells["subtype"].mask(healthy, "normal"),
            "development_stage": positive_integers(cells["donor_age"]).astype("string") + "-year-old stage",
            "sex": cells["donor_sex"].str.upper().map({"M": "male", "F": "female"}),
            "self_reported_ethnicity": cells["donor_ethnicity"],
        }
    )


def _obs(instances: pd.DataFrame, donors: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Instances in the words of the contract."""
    before_colon = instances.index.to_series().str.split(":").str[0]
    obs = pd.DataFrame(
        {
            "plate": first_known(instances["det_plate"], before_colon),
            "well": first_known(instances["rna_well"], instances["det_well"]),
            "source_cell_context": instances["cell_id"],
            "perturbagen": instances["pert_iname"].mask(instances["is_control"], dataset.control.perturbagen),
            "source_perturbagen_id": instances["pert_id"],
            "is_control": instances["is_control"],
            "pert_dose_uM": instances["pert_dose_uM"],
            "pert_time_h": instances["pert_time_h"],
            "inchikey": instances["inchi_key"],
            "smiles": instances["canonical_smiles"],
            "pubchem_cid": instances["pubchem_cid"],
        }
    )
    return obs.join(donors, on="source_cell_context")
