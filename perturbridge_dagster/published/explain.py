"""Why a published contrast differs from ours, and why a gene has values on one side only.

Belongs here: the order of explanations and their limits. Does not belong here: measuring (``compare.py``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.contract import PUBLISHED_GENES

EQUAL = 1e-4
"""Largest difference of logFC that is none: far above rounding, far below what anyone reads into an effect. Unit: log2."""

EXPLAINED = 0.5
"""Share of the median difference that may be left when our fit of the release's batch explains it."""

NEARER = 0.9
"""Share of the median difference below which that fit comes nearer, rather than as near by chance."""


def explain_contrasts(compared: pd.DataFrame, *, batched: bool, refitted: bool) -> NDArray[np.object_]:
    """Explanation of each compared contrast, the first that applies.

    Parameters
    ----------
    compared
        Columns of ``contract.PUBLISHED_COMPARISON`` before ``explanation``.
    batched
        Whether the release fitted the stratum in several batches.
    refitted
        Whether our fit of these batches is there.

    Returns
    -------
    Shape (rows,): words of the contract.
    """
    left = compared["median_difference_refit"].to_numpy(dtype=float)
    whole = compared["median_difference"].to_numpy(dtype=float)
    # what is left is at the level of rounding where the two agree
    explained = left <= np.maximum(EXPLAINED * whole, EQUAL / 10)
    rules = {
        "not_comparable": (compared["n_genes"] == 0).to_numpy(),
        "equal": (compared["largest_difference"] <= EQUAL).to_numpy(),
        "dose_rounding": (compared["n_pooled_doses"] > 1).to_numpy(),
        "pooled_names": (compared["n_pooled_names"] > 1).to_numpy(),
        "batch": explained,
        "partly_batch": left <= NEARER * whole,
        "batch_not_refitted": np.full(len(compared), batched and not refitted),
    }
    return np.select(list(rules.values()), list(rules), default="unexplained").astype(object)


def explain_genes(ours: pd.DataFrame, given: pd.DataFrame | None, theirs: pd.DataFrame, n_batches: int) -> pd.DataFrame:
    """Which side tested which gene, and why only one did.

    Parameters
    ----------
    ours
        Our tested genes (``contract.GENES``).
    given
        What our filter saw of every gene (``contract.GENE_FILTER``); None where our effects do not say.
    theirs
        Columns ensembl_id, symbol, n_published_batches: genes of the release, and the batches in which each has a value.
    n_batches
        Batches of the release.

    Returns
    -------
    DataFrame
        Table ``published_genes`` of the contract without dataset and stratum.
    """
    known = ours[["ensembl_id", "symbol", "support"]].assign(kept=True) if given is None else given
    both = known[["ensembl_id", "symbol", "support", "kept"]].merge(theirs, on="ensembl_id", how="outer", suffixes=("", "_published"))
    both["n_published_batches"] = both["n_published_batches"].fillna(0).astype("int64")
    both["ours"] = both["kept"].eq(True).to_numpy()
    both["published"] = (both["n_published_batches"] > 0).to_numpy()
    both = both[both["ours"] | both["published"]]
    both["symbol"] = both["symbol"].where(both["symbol"].notna(), both["symbol_published"])
    rules = {
        "both": both["ours"] & (both["n_published_batches"] == n_batches),
        "both_in_some_batches": both["ours"] & both["published"],
        "not_published": both["ours"],
        "our_filter": both["kept"].eq(False),
        "unknown": pd.Series(given is None, index=both.index),
    }
    reason = np.select([rule.to_numpy(dtype=bool) for rule in rules.values()], list(rules), default="not_among_ours")
    fields = [name for name in PUBLISHED_GENES.names if name not in ("dataset", "stratum")]
    return both.assign(reason=reason.astype(object))[fields].reset_index(drop=True)
