"""Single cells of the sample: what becomes of each, and their counts.

Belongs here: cells that fail the filters and cells that pass, for any dataset whose native rows are cells. Does not belong here: which
wells there are, or file formats (the writer of each dataset).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from perturbridge_dagster.sample.account import Account, shuffled
from perturbridge_dagster.sample.assays import fractions, umi_counts
from perturbridge_dagster.sample.biology import Matrix, generator
from perturbridge_dagster.sample.tables import genes

BAD_CELLS = {"few counts": 0.05, "few genes": 0.03, "mitochondrial": 0.04, "low MALAT1": 0.08}
"""Cells that a filter drops, and how many there are beside each kept one."""

CELLS_AT_ONCE = 2000


def old_features() -> pd.DataFrame:
    """Genes as a release of Ensembl has them in which a few ids of today were others.

    Returns
    -------
    Index: old Ensembl id. Columns: ``symbol``, ``gene`` (position in the biology), ``share`` of the gene's counts: of a merged gene the
    old release has both ids, each with half of the counts.
    """
    table = genes().assign(gene=np.arange(len(genes())), share=1.0)
    merged = (table["kind"] == "merged").to_numpy()
    table.loc[merged, "share"] = 0.5
    old = table.set_index(table["retired_ensembl_id"].fillna(table["ensembl_id"]).to_numpy())
    also_current = table[merged].set_index(table.loc[merged, "ensembl_id"].to_numpy())
    return pd.concat([old, also_current])[["symbol", "gene", "share"]].sort_index()


def cells_of(draw: np.random.Generator, wells: pd.DataFrame, fates: Mapping[str, float]) -> pd.DataFrame:
    """One row a cell in random order, with its well's columns, ``of_well`` and ``fate``.

    Parameters
    ----------
    draw
        Random numbers.
    wells
        One row a well, or a cell context in a well: ``n_cells``, how many good cells it gives, and what its cells share.
    fates
        Cells that a filter drops, and how many there are beside each kept one.
    """
    parts = [pd.DataFrame({"of_well": np.repeat(wells.index, wells["n_cells"]), "fate": "kept"})]
    parts += [
        pd.DataFrame({"of_well": np.repeat(wells.index, draw.binomial(wells["n_cells"], rate)), "fate": fate})
        for fate, rate in fates.items()
    ]
    return shuffled(draw, pd.concat(parts)).join(wells.drop(columns="n_cells"), on="of_well")


def cell_counts(
    seed: int, dataset: str, expected: Matrix, cells: pd.DataFrame, features: pd.DataFrame, *, median_depth: float
) -> sparse.csr_matrix:
    """Counts of cells.

    Parameters
    ----------
    seed, dataset
        Decide the random numbers.
    expected
        Wells × genes of the biology, log2 abundance.
    cells, features
        As :func:`cells_of` and :func:`old_features` have them.
    median_depth
        Median of the molecules of a cell.

    Returns
    -------
    Cells × features, int32.
    """
    kind = genes()["kind"].to_numpy()
    gene, share = features["gene"].to_numpy(), features["share"].to_numpy()
    blocks = []
    for of_cell in np.array_split(np.arange(len(cells)), max(1, len(cells) // CELLS_AT_ONCE)):
        block = cells.iloc[of_cell]
        draw = generator(seed, dataset, "counts", str(of_cell[0]))
        log2_abundance = _with_fate(draw, expected[block["of_well"]], block["fate"].to_numpy(), kind)
        depth = np.clip(median_depth * draw.lognormal(0, 0.25, len(block)), 1200, 4000)
        depth = np.where(block["fate"] == "few counts", draw.uniform(250, 550, len(block)), depth)
        shares = fractions(log2_abundance)[:, gene] * share
        counts = umi_counts(draw, shares, depth, shape=4.0, dropout=0.2)
        low = (block["fate"] == "low MALAT1").to_numpy()
        counts[np.ix_(low, kind[gene] == "MALAT1")] = draw.integers(0, 2, (int(low.sum()), 1))
        blocks.append(sparse.csr_matrix(counts))
    return sparse.vstack(blocks, format="csr")


def _with_fate(draw: np.random.Generator, log2_abundance: Matrix, fate: npt.NDArray[Any], kind: npt.NDArray[Any]) -> Matrix:
    """Cells that will fail on genes or mitochondrial counts, disfigured so that they do."""
    changed = log2_abundance.copy()
    changed[np.ix_(fate == "mitochondrial", kind == "mitochondrial")] += 4.0
    ordinary = np.flatnonzero(~np.isin(kind, ["MALAT1", "mitochondrial"]))
    for cell in np.flatnonzero(fate == "few genes"):
        changed[cell, draw.choice(ordinary, len(ordinary) - 130, replace=False)] -= 12.0
    return changed


def measured(counts: sparse.csr_matrix, features: pd.DataFrame) -> pd.DataFrame:
    """What a source says of each cell: ``n_counts``, ``n_genes``, ``mitochondrial`` (fraction) and ``malat1`` (counts)."""
    mitochondrial = features["symbol"].str.startswith("MT-").fillna(value=False).to_numpy(bool)
    total = np.asarray(counts.sum(axis=1)).ravel().astype(float)
    return pd.DataFrame(
        {
            "n_counts": total,
            "n_genes": np.diff(counts.indptr),
            "mitochondrial": np.asarray(counts[:, mitochondrial].sum(axis=1)).ravel() / total,
            "malat1": np.asarray(counts[:, (features["symbol"] == "MALAT1").to_numpy()].sum(axis=1)).ravel(),
        }
    )


def account_for_cells(account: Account, cells: pd.DataFrame, *, ungrouped: tuple[str, ...] = ()) -> pd.DataFrame:
    """The cells that the filters keep, with what they drop recorded.

    Parameters
    ----------
    account
        Of the dataset.
    cells
        Cells with the columns of :func:`measured`.
    ungrouped
        Fates of cells that lack plate, well or perturbagen.
    """
    account.start("cells", len(cells))
    counted = (cells["n_genes"] >= 250) & (cells["n_counts"] >= 700) & (cells["mitochondrial"] <= 0.2)
    kept = account.keep("cells", "counts, genes or mitochondrial fraction", cells, counted)
    if ungrouped:
        kept = account.keep("cells", "missing plate, well or perturbagen", kept, ~kept["fate"].isin(ungrouped))
    malat1 = pd.Series(np.log1p(10_000 * kept["malat1"] / kept["n_counts"]), index=kept.index)
    return account.keep("cells", "MALAT1", kept, malat1 >= 3.5)
