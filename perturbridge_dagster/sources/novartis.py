"""Novartis MoABox DRUG-seq: plates of counts in one RData file, with tables of compounds, of genes and of robust controls.

Belongs here: what the tables say, which wells and genes are kept. Does not belong here: the RData format (``rdata_stream.py``), the
contract (``assemble.py``), identifiers (``identity/``).

The file holds 156 plates of 59,594 genes × 384 wells. Each is made sparse as soon as it is read, so that only counts above 0 are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rdata.parser import RObject
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    only,
    read_text_table,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.rdata_stream import count_matrix, data_frame, read_rdata
from perturbridge_dagster.sources.spilled import SpilledRows
from perturbridge_dagster.sources.stored import as_counts

WELL_COLUMNS = (
    "batch_id",
    "plate_barcode",
    "well_id",
    "external_biosample_id",
    "cmpd_sample_id",
    "well_type",
    "cell_line_name",
    "concentration",
    "unit",
    "hours_post_treatment",
)
WELL_KEYS = ("plate_index", "well_index", "well_id")
"""Columns whose value, after the plate's barcode, may be the name of a column of counts."""

SAMPLE, CONTROL, EMPTY = "SA", "RC", "EMPTY"
WELL_TYPES = (SAMPLE, CONTROL, EMPTY)

POSITIVE_CONTROLS = {
    "BD-11-DV28": "no name is published",
    "EA-18-FP00": "homoharringtonine",
    "SE-15-AV21": "BTdCPU",
}
"""Compounds in wells of type SA that are controls of the assay."""


class Plate(NamedTuple):
    """One plate: its counts, wells × genes, and its wells in that order, indexed by the name of their column of counts."""

    counts: sparse.csr_matrix
    wells: pd.DataFrame
    genes: pd.Index


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read MoABox.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``counts``, ``robust_controls``, ``compounds`` and ``genes``.

    Raises
    ------
    InputError
        If a file is unreadable, a column is missing, counts and annotation of a plate do not belong together, or values are not counts.
    """
    steps = Reconciliation(("cmpd_sample_id", "cell_line_name", "concentration", "unit", "hours_post_treatment"))
    counts_file = only(files, "counts", dataset.id)
    robust = read_robust_controls(only(files, "robust_controls", dataset.id), dataset.id)
    compounds = read_compounds(only(files, "compounds", dataset.id), dataset.id)
    ensembl = read_genes(only(files, "genes", dataset.id), dataset.id)

    counts, annotation, genes = _plates(counts_file, dataset.id)
    wells = read_wells(annotation, dataset.id, counts_file)
    steps.start("samples", len(wells))
    total = pd.Series(counts.totals(), index=wells.index)
    kept = steps.keep("samples", "total count of 0", wells, total > 0)
    kept = filter_wells(kept, robust, dataset, steps)

    steps.start("genes", len(genes))
    ids = ensembl.reindex(genes)
    steps.drop("genes", "no Ensembl id of its own in the annotation", int(ids.isna().sum()))
    columns = np.flatnonzero(ids.notna())
    obs = samples_of(kept, compounds, dataset)
    selected = wells.index.isin(kept.index)
    rows = _checked(counts.selected(selected), obs.index, genes, columns, dataset.id, counts_file)
    return NativeSamples(obs, [Expression(counts_file, rows, pd.Index(ids.iloc[columns]), "ensembl")], steps)


# ---- counts ------------------------------------------------------------------------------------------------------------------


def _plates(file: Path, dataset: str) -> tuple[SpilledRows, pd.DataFrame, pd.Index]:
    """Counts of the wells of every plate, their annotation in that order, and the genes of the first plate, which all have."""
    counts = SpilledRows()
    wells: list[pd.DataFrame] = []
    genes: list[pd.Index] = []

    def reduce(elements: dict[str, RObject]) -> str | None:
        if "UMI.counts" not in elements:
            return None
        plate = _plate(elements, genes[0] if genes else None, dataset, file)
        counts.append(plate.counts)
        wells.append(plate.wells)
        genes.append(plate.genes)
        return "read"

    read_rdata(file, dataset, reduce=reduce)
    if not wells:
        raise InputError("there is no plate.", dataset=dataset, file=file, expected="lists with UMI.counts and Annotation")
    return counts, pd.concat(wells), genes[0]


def _plate(elements: dict[str, RObject], genes: pd.Index | None, dataset: str, file: Path) -> Plate:
    if "Annotation" not in elements:
        raise InputError("a plate has no Annotation.", dataset=dataset, file=file, expected=f"Annotation beside {', '.join(elements)}")
    counts, columns, own_genes = count_matrix(elements["UMI.counts"])
    annotation = data_frame(elements["Annotation"])
    require_unique(own_genes.to_series(name="gene"), "a gene", dataset, file)
    if genes is not None and not own_genes.equals(genes):
        position = own_genes.get_indexer(genes)
        if len(own_genes) != len(genes) or (position < 0).any():
            odd = own_genes.symmetric_difference(genes)
            raise InputError(f"the plate of {columns[0]} has other genes than the first plate.", dataset=dataset, file=file, rows=list(odd))
        counts, own_genes = counts[:, position], genes
    return Plate(counts, _in_order_of(columns, annotation, dataset, file), own_genes)


def _in_order_of(columns: pd.Index, annotation: pd.DataFrame, dataset: str, file: Path) -> pd.DataFrame:
    """Rows of a plate's annotation in the order of its columns of counts.

    A column is named by the plate's barcode and an index; which of the annotation's indices it is, the file does not say.
    """
    require_columns(annotation, ["plate_barcode"], dataset, file)
    barcode = annotation["plate_barcode"].astype(str)
    keys = [pd.Index(annotation.index.astype(str))]
    keys += [pd.Index(barcode + "_" + annotation[name].astype(str)) for name in WELL_KEYS if name in annotation]
    for key in keys:
        if key.is_unique and len(key) == len(columns) and columns.isin(key).all():
            return annotation.set_axis(key).loc[columns]
    raise InputError(
        "counts and annotation of a plate do not belong together.",
        dataset=dataset,
        file=file,
        rows=[*columns[:2], "…", *keys[-1][:2]],
        expected=f"columns of UMI.counts named by plate_barcode and {' or '.join(WELL_KEYS)} of its Annotation, one well each",
    )


def _checked(
    blocks: Iterator[sparse.csr_matrix], rows: pd.Index, genes: pd.Index, columns: np.ndarray, dataset: str, file: Path
) -> Iterator[sparse.csr_matrix]:
    """Blocks as counts, of the kept genes alone."""
    start = 0
    for block in blocks:
        yield as_counts(block, rows[start : start + block.shape[0]], genes, dataset, file)[:, columns]
        start += block.shape[0]


# ---- tables ------------------------------------------------------------------------------------------------------------------


def read_wells(annotation: pd.DataFrame, dataset: str, file: Path) -> pd.DataFrame:
    """Annotation of wells, as text.

    Parameters
    ----------
    annotation
        ``WELL_COLUMNS``, one row a well, indexed by its name.
    dataset, file
        For messages.

    Raises
    ------
    InputError
        If a column is missing, a well occurs twice, or its type is unknown.
    """
    require_columns(annotation, WELL_COLUMNS, dataset, file)
    wells = annotation[list(WELL_COLUMNS)].astype(object).apply(text)
    require_unique(wells.index.to_series(name="well"), "a well", dataset, file)
    unknown = ~wells["well_type"].isin(WELL_TYPES)
    if unknown.any():
        raise InputError(
            f"well_type is {wells.loc[unknown, 'well_type'].iloc[0]!r}.",
            dataset=dataset,
            file=file,
            rows=list(wells.index[unknown]),
            column="well_type",
            expected=f"one of {', '.join(WELL_TYPES)}",
        )
    return wells


def read_robust_controls(file: Path, dataset: str) -> frozenset[str]:
    """Biosamples of the DMSO wells that may be used."""
    table = read_text_table(file, dataset, separator="\t", columns=("external_biosample_id",))
    return frozenset(table["external_biosample_id"].dropna())


def read_compounds(file: Path, dataset: str) -> pd.DataFrame:
    """Structures, CAS numbers and mechanisms of action by cmpd_sample_id."""
    needed, optional = ("cmpd_sample_id", "inchi_key", "smiles"), ("cas_number", "moa")
    table = read_text_table(file, dataset, separator="\t", columns=needed, optional=optional)
    require_unique(table["cmpd_sample_id"], "a cmpd_sample_id", dataset, file)
    return table.set_index("cmpd_sample_id")


def read_genes(file: Path, dataset: str) -> pd.Series:
    """Ensembl id by gene id of the counts.

    A gene id that the annotation gives several Ensembl ids is none of them, and neither is another that shares one of these.
    """
    objects = read_rdata(file, dataset)
    table = objects.get("drugseq_ensg_v98")
    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"there is no table drugseq_ensg_v98, but {', '.join(objects) or 'nothing'}.", dataset=dataset, file=file, expected="that table"
        )
    require_columns(table, ["geneID", "ensembl_gene_id"], dataset, file)
    links = table[["geneID", "ensembl_gene_id"]].astype(object).apply(text).dropna().drop_duplicates()
    several = links[links["geneID"].duplicated(keep=False)]
    tainted = links.loc[links["ensembl_gene_id"].isin(several["ensembl_gene_id"]), "geneID"]
    return links[~links["geneID"].isin(tainted)].set_index("geneID")["ensembl_gene_id"]


# ---- samples -----------------------------------------------------------------------------------------------------------------


def filter_wells(wells: pd.DataFrame, robust: frozenset[str], dataset: Dataset, steps: Reconciliation) -> pd.DataFrame:
    """Wells of compounds and of robust controls, with ``is_control``."""
    wells = steps.keep("samples", "empty well", wells, wells["well_type"] != EMPTY)
    is_control = wells["well_type"] == CONTROL
    is_robust = wells["external_biosample_id"].isin(robust)
    require_controls(is_control & is_robust, wells.loc[is_control, "external_biosample_id"].head(10), dataset)
    wells = steps.keep("samples", "DMSO well that is not among the robust ones", wells, ~is_control | is_robust)
    is_positive = wells["cmpd_sample_id"].isin(POSITIVE_CONTROLS) & (wells["well_type"] == SAMPLE)
    wells = steps.keep("samples", "positive control", wells, ~is_positive)
    return wells.assign(is_control=wells["well_type"] == CONTROL)


def samples_of(wells: pd.DataFrame, compounds: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Wells in the words of the contract."""
    known = compounds.reindex(wells["cmpd_sample_id"]).set_axis(wells.index)
    return pd.DataFrame(
        {
            "plate": wells["plate_barcode"].str.replace("-", "_"),
            "well": wells["well_id"],
            "source_cell_context": wells["cell_line_name"],
            "perturbagen": wells["cmpd_sample_id"].mask(wells["is_control"], dataset.control.perturbagen),
            "source_perturbagen_id": wells["cmpd_sample_id"],
            "is_control": wells["is_control"],
            "pert_dose_uM": parse_dose_uM(wells["concentration"], wells["unit"]),
            "pert_time_h": parse_time_h(wells["hours_post_treatment"], pd.Series("h", index=wells.index)),
            "inchikey": known["inchi_key"],
            "smiles": known["smiles"],
            "pubchem_cid": None,
            "cas": known["cas_number"],
            "batch": wells["batch_id"],
            "mechanism": known["moa"],
        }
    )
