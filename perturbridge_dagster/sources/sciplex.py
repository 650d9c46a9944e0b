"""sci-Plex 3: nuclei × genes as h5ad, with curated metadata of the nuclei beside it.

Belongs here: where sci-Plex keeps what, and its own rules. Does not belong here: filters and sums of cells (``single_cell.py``), the
contract (``assemble.py``).

The curated table truncates compound names to their first word, which PubChem then takes for something else. The perturbagen is
therefore the product name of the counts file, and its identifier the catalogue number.
"""

from __future__ import annotations

from pathlib import Path

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
    read_curated_cells,
    read_parquet_table,
    require_columns,
    require_controls,
    require_unique,
    text,
)
from perturbridge_dagster.sources.single_cell import pseudobulk
from perturbridge_dagster.sources.stored import member, open_hdf5

HEADER_WORDS = frozenset({"id", "index", "gene", "gene_id", "gene_ids", "gene_name", "gene_short_name", "ensembl_id", "symbol"})
"""Column headers of gene tables; one of them as a gene id is the header row of a table, read as a gene."""

NOTHING_CURATED = "no curated compound and no dose known"
"""Rule: treated nuclei whose product the counts file names, but not its dose, which the curated table alone has."""

DONOR_COLUMNS = ("tissue", "disease", "development_stage", "sex", "self_reported_ethnicity")


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read sci-Plex.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``counts``, ``cells`` and, where given, ``genes``.

    Raises
    ------
    InputError
        If a file is unreadable, a column is missing, values are not counts, or the cells of a sample disagree.
    """
    steps = Reconciliation()
    counts_file, cells_file = only(files, "counts", dataset.id), only(files, "cells", dataset.id)
    with open_hdf5(counts_file, dataset.id) as opened:
        original, genes = (ad.io.read_elem(member(opened, name, dataset.id)) for name in ("obs", "var"))
        stored = member(opened, "X", dataset.id)
        gene_ids, symbols = _genes(genes, files["genes"], dataset.id, counts_file)
        cells = _cells(original, cells_file, dataset, counts_file, steps)
        samples, values = pseudobulk(
            stored, cells, gene_ids, symbols, steps, dataset=dataset.id, counts_file=counts_file, cells_file=cells_file
        )
    steps.lose_conditions(NO_CELLS, cells[list(CONDITION)], samples[list(CONDITION)])
    kept = (samples["is_control"] | samples["is_curated"].notna()).to_numpy(bool)
    steps.drop("cells", NOTHING_CURATED, int(samples.loc[~kept, "psbulk_cells"].sum()))
    steps.drop("samples", NOTHING_CURATED, int((~kept).sum()))
    steps.lose_conditions(NOTHING_CURATED, samples[list(CONDITION)], samples.loc[kept, list(CONDITION)])
    samples, values = samples[kept].drop(columns="is_curated"), values[np.flatnonzero(kept)]
    header = gene_ids.str.lower().isin(HEADER_WORDS | {str(name).lower() for name in (genes.index.name, *genes.columns)})
    steps.start("genes", len(gene_ids))
    steps.drop("genes", "column header read as a gene", int(header.sum()))
    samples.index = pd.Index(samples["plate"] + " " + samples["well"] + " " + samples["perturbagen"] + " " + samples["source_cell_context"])
    samples[["inchikey", "smiles", "pubchem_cid"]] = None
    expression = Expression(counts_file, iter([values[:, np.flatnonzero(~header)]]), gene_ids[~header], "ensembl")
    return NativeSamples(samples, [expression], steps)


def _genes(genes: pd.DataFrame, tables: list[Path], dataset: str, file: Path) -> tuple[pd.Index, pd.Series]:
    """Ensembl ids and symbols in the order of the matrix."""
    ids = pd.Index(genes.get("ensembl_id", genes.index)).astype(str)
    if "symbol" in genes:
        return ids, text(genes["symbol"])
    if not tables:
        raise InputError(
            "the genes have no symbols, so mitochondrial genes cannot be told.",
            dataset=dataset,
            file=file,
            column="symbol",
            expected="a column symbol of var, or the curated gene table",
        )
    table = read_parquet_table(tables[0], dataset)
    require_columns(table, ["symbol"], dataset, tables[0])
    require_unique(table.index.to_series(name="gene"), "a gene", dataset, tables[0])
    return ids, text(table["symbol"].reindex(ids))


def _cells(original: pd.DataFrame, cells_file: Path, dataset: Dataset, counts_file: Path, steps: Reconciliation) -> pd.DataFrame:
    """Metadata of every cell of the matrix, curated where the curators know the cell."""
    columns = ["cell_line", "pert_compound", "pert_dose", "time", "plate", "well", "ncounts"]
    curated = read_curated_cells(cells_file, columns, original.index, dataset.id, counts_file)
    product, catalogue = (
        text(original[name]) if name in original else pd.Series(None, index=original.index, dtype=object)
        for name in ("product_name", "catalog_number")
    )
    compound, dose = text(curated["pert_compound"]), text(curated["pert_dose"])
    name = first_known(product, compound)
    is_control = _is_control(product, compound, dataset, counts_file)
    require_controls(is_control, name.unique(), dataset)
    steps.start("cells", len(original))
    steps.drop(
        "cells", f"cells without a product name take the curated compound name: {int((product.isna() & compound.notna()).sum()):,}", 0
    )
    source_counts = first_known(curated["ncounts"], original["ncounts"]) if "ncounts" in original else curated["ncounts"]
    cells = pd.DataFrame(
        {
            "plate": text(curated["plate"]),
            "well": text(curated["well"]),
            "source_cell_context": text(curated["cell_line"]),
            "perturbagen": name.mask(is_control, dataset.control.perturbagen),
            "source_perturbagen_id": catalogue,
            "is_control": is_control,
            "pert_dose_uM": parse_dose_uM(dose),
            "pert_time_h": parse_time_h(text(curated["time"]), pd.Series("h", index=curated.index)),
            # null where unknown, so that a sample has what any of its nuclei has
            "is_curated": pd.Series(True, index=original.index, dtype=object).where(compound.notna() | dose.notna(), None),
            "n_counts": pd.to_numeric(source_counts, errors="coerce").astype("float64"),
        }
    )
    for column in DONOR_COLUMNS:
        if column in curated:
            cells[column] = text(curated[column])
    return cells


def _is_control(product: pd.Series, compound: pd.Series, dataset: Dataset, file: Path) -> pd.Series:
    """Vehicle controls: by product name, by curated name where there is none; the two must not disagree."""
    by_product, by_compound = (words.isin(dataset.control.labels) for words in (product, compound))
    disagree = product.notna() & compound.notna() & (by_product != by_compound)
    if disagree.any():
        raise InputError(
            f"product_name and pert_compound disagree on which cells are controls: "
            f"{product[disagree].iloc[0]!r} and {compound[disagree].iloc[0]!r}.",
            dataset=dataset.id,
            file=file,
            rows=list(product.index[disagree]),
            expected=dataset.control.how,
        )
    return by_product | (product.isna() & by_compound)
