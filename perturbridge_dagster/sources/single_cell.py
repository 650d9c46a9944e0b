"""From cells to samples: which cells are kept, and the sums of those that are.

Belongs here: the filters of single cells and pseudobulk by streaming, for any dataset whose native rows are cells. Does not belong
here: where a dataset keeps its metadata (its reader).

Memory does not grow with the number of cells, apart from their metadata: the matrix is read twice, block by block.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.native import Reconciliation
from perturbridge_dagster.sources.stored import as_counts, row_blocks

MINIMUM_GENES = 250
MINIMUM_COUNTS = 700
MAXIMUM_MITOCHONDRIAL_FRACTION = 0.2
MALAT1 = "ENSG00000251562"
MINIMUM_MALAT1 = 3.5
"""ln(1 + 10,000 × MALAT1 counts / counts of the cell), below which a droplet holds no intact nucleus: Clarke & Bader,
BMC Genomics 2024, doi:10.1186/s12864-024-11015-5."""

GROUP = ("plate", "well", "perturbagen", "source_cell_context")
"""Cells equal in these are one sample. Dose and time are implied by plate and well."""


def cell_statistics(
    stored: h5py.Dataset | h5py.Group, cells: pd.Index, genes: pd.Index, symbols: pd.Series, dataset: str, file: Path
) -> pd.DataFrame:
    """First pass over the counts: what the filters need to know of each cell.

    Parameters
    ----------
    stored
        Counts, cells × genes.
    cells, genes
        Names of rows and columns; genes are Ensembl ids, with or without version.
    symbols
        Gene symbols, in the order of `genes`; null where there is none.
    dataset, file
        For messages.

    Returns
    -------
    Indexed like `cells`: ``n_genes`` (genes with a count), ``mitochondrial_fraction`` (of the cell's counts; 0 for an empty cell) and
    ``malat1_counts`` (all versions of the gene summed; null in every cell where the gene was not measured).

    Raises
    ------
    InputError
        If a value is not a count.
    """
    mitochondrial = symbols.astype("string").str.startswith("MT-").fillna(value=False).to_numpy(bool)
    malat1 = genes.str.split(".").str[0] == MALAT1
    columns = sparse.csr_matrix(np.column_stack([np.ones(len(genes), bool), mitochondrial, malat1]).astype(np.int64))
    n_genes, sums = np.zeros(len(cells), np.int64), np.zeros((len(cells), 3), np.int64)
    for start, block in row_blocks(stored):
        rows = slice(start, start + block.shape[0])
        counts = as_counts(block, cells[rows], genes, dataset, file)
        counts.eliminate_zeros()
        n_genes[rows] = np.diff(counts.indptr)
        sums[rows] = (counts @ columns).toarray()
    total, mitochondrial_counts, malat1_counts = sums.T
    return pd.DataFrame(
        {
            "n_genes": n_genes,
            "mitochondrial_fraction": mitochondrial_counts / np.maximum(total, 1),
            "malat1_counts": malat1_counts if malat1.any() else np.full(len(cells), np.nan),
        },
        index=cells,
    )


def filter_cells(cells: pd.DataFrame, steps: Reconciliation) -> pd.DataFrame:
    """The cells that pass the filters.

    Parameters
    ----------
    cells
        Columns of :func:`cell_statistics`, ``n_counts`` (the source's own total of the cell) and the columns of ``GROUP``.
    steps
        Where the filters are recorded.
    """
    cells = steps.keep(
        "cells",
        f"fewer than {MINIMUM_GENES} genes or {MINIMUM_COUNTS} counts, or mitochondrial above {MAXIMUM_MITOCHONDRIAL_FRACTION:.0%}",
        cells,
        (cells["n_genes"] >= MINIMUM_GENES)
        & (cells["n_counts"] >= MINIMUM_COUNTS)
        & (cells["mitochondrial_fraction"] <= MAXIMUM_MITOCHONDRIAL_FRACTION),
    )
    cells = steps.keep("cells", f"no value of one of {', '.join(GROUP)}", cells, cells[list(GROUP)].notna().all(axis=1))
    if cells["malat1_counts"].isna().all():
        steps.drop("cells", "no MALAT1 filter: the gene was not measured", 0)
        return cells
    malat1 = (10_000 * cells["malat1_counts"] / cells["n_counts"]).transform(np.log1p)
    return steps.keep("cells", f"log-normalized MALAT1 below {MINIMUM_MALAT1}", cells, malat1 >= MINIMUM_MALAT1)


def group_cells(cells: pd.DataFrame, dataset: str, file: Path, steps: Reconciliation) -> tuple[pd.DataFrame, pd.Series]:
    """Gather cells into samples.

    Parameters
    ----------
    cells
        Kept cells: columns of ``GROUP`` without missing values, and what must be the same in all cells of a sample, null where a cell
        does not know.
    dataset, file
        For messages.
    steps
        Where the merge of cells into samples is recorded.

    Returns
    -------
    One row a sample, sorted by ``GROUP``, with the cells' columns and ``psbulk_cells``; and the row of each cell's sample, indexed like
    `cells`.

    Raises
    ------
    InputError
        If the cells of a sample disagree, for example in dose.
    """
    members = [name for name in cells.columns if name not in GROUP]
    for column in members:
        distinct = cells[[*GROUP, column]].dropna().drop_duplicates()
        differing = distinct.duplicated(list(GROUP))
        if differing.any():
            raise InputError(
                "cells of one plate, well, perturbagen and cell context differ.",
                dataset=dataset,
                file=file,
                rows=[" ".join(map(str, key)) for key in distinct.loc[differing, list(GROUP)].itertuples(index=False)],
                column=column,
                expected="one value a sample",
            )
    groups = cells.groupby(list(GROUP), sort=True, observed=True)
    samples = groups[members].first().assign(psbulk_cells=groups.size()).reset_index()
    steps.start("samples", len(cells))
    steps.drop("samples", f"cells of one {', '.join(GROUP)} summed to a sample", len(cells) - len(samples))
    return samples, groups.ngroup()


def sum_cells(stored: h5py.Dataset | h5py.Group, sample_of_cell: np.ndarray, n_samples: int, n_genes: int) -> sparse.csr_matrix:
    """Second pass over the counts: the sum of each sample's cells.

    Parameters
    ----------
    stored
        Counts, cells × genes, already known to be whole numbers.
    sample_of_cell
        Row of each cell's sample, int64; -1 for a cell that was dropped.
    n_samples, n_genes
        Shape of the result.

    Returns
    -------
    Samples × genes, CSR int64. Sums of integers, so exact and independent of the order of cells.
    """
    total = sparse.csr_matrix((n_samples, n_genes), dtype=np.int64)
    for start, block in row_blocks(stored):
        sample = sample_of_cell[start : start + block.shape[0]]
        kept = np.flatnonzero(sample >= 0)
        indicator = sparse.csr_matrix((np.ones(len(kept), np.int64), (sample[kept], kept)), shape=(n_samples, block.shape[0]))
        total = total + indicator @ block.astype(np.int64)
    return total
