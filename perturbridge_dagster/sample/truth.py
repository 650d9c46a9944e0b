"""The truth behind the sample, as tables: what a right pipeline must arrive at.

Belongs here: the tables of ``truth/`` and how the expected ones are derived from what the writers report. Does not belong here: the
pipeline's own code, which is judged against these tables.

Tables (Parquet; ids as elsewhere, doses in µM, times in h, missing values null)
------
``log2_fold_changes``
    The latent effect: ``agent, cell_type, dose_uM, time_h, gene, log2_fold_change``; float32, for every condition of every dataset.
    ``gene`` is the current Ensembl id, or the retired one of a gene that no longer exists.
``genes``
    ``gene, ensembl_id, retired_ensembl_id, symbol, entrez_id, kind``, and by dataset ``gain_…``: the share of the latent effect that
    the assay shows, null where it does not measure the gene.
``compounds``
    Structures and pharmacology, see :func:`tables.compounds`.
``perturbagens``
    Names of compounds in each dataset and the PubChem id to arrive at, see :func:`tables.perturbagens`.
``samples``
    Samples that remain after all rules: ``dataset`` and ``account.SAMPLE_COLUMNS``.
``reconciliation``
    ``dataset, step, axis, rule, n_in, n_dropped, n_out``: what each rule drops.
``conditions``
    Treated conditions of those samples: ``dataset, cell_type, compound, agent, source_id, source_name, pubchem_cid, parent_key, dose_uM,
    time_h, n_samples, n_plates``. 9.99999 µM counts as 10 µM.
``matched_conditions``
    Pairs of conditions of two datasets that match: ``left_dataset, right_dataset, pubchem_cid, cell_type, time_h, left_dose_uM,
    right_dose_uM, left_source_id, right_source_id, log10_dose_gap``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbridge_dagster.sample.account import Account
from perturbridge_dagster.sample.biology import Biology
from perturbridge_dagster.sample.tables import compounds, genes, perturbagens

TOLERANCE = 1e-9
"""Differences of log10 doses below this are ties."""

CONDITION = ["dataset", "cell_type", "compound", "agent", "source_id", "source_name", "pubchem_cid", "parent_key", "dose_uM", "time_h"]


def write(folder: Path, biology: Biology, accounts: Sequence[Account]) -> None:
    """Write the tables of ``truth/``.

    Parameters
    ----------
    folder
        An empty folder.
    biology
        The latent truth.
    accounts
        What the writers report, one element a dataset.
    """
    samples = pd.concat([account.samples.assign(dataset=account.dataset) for account in accounts], ignore_index=True)
    samples = samples.astype({"is_control": bool, "n_cells": "Int64", "pubchem_cid": "Int64"})
    conditions = treated_conditions(samples)
    steps = pd.concat([pd.DataFrame(account.steps).assign(dataset=account.dataset, step=range(len(account.steps))) for account in accounts])
    gains = pd.DataFrame({f"gain_{account.dataset}": account.gains for account in accounts})
    tables = {
        "genes": genes()[["ensembl_id", "retired_ensembl_id", "symbol", "entrez_id", "kind"]].join(gains).reset_index(),
        "compounds": compounds().reset_index(),
        "perturbagens": perturbagens(),
        "samples": samples[["dataset", *samples.columns.drop("dataset")]],
        "reconciliation": steps[["dataset", "step", "axis", "rule", "n_in", "n_dropped", "n_out"]],
        "conditions": conditions,
        "matched_conditions": matched_conditions(conditions),
        "log2_fold_changes": _effects(biology, conditions),
    }
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")


def treated_conditions(samples: pd.DataFrame) -> pd.DataFrame:
    """Distinct treated conditions, with the samples and plates of each.

    Parameters
    ----------
    samples
        Table ``samples`` of the truth.
    """
    treated = samples[~samples["is_control"]]
    groups = treated.groupby(CONDITION, dropna=False, sort=True)
    return groups.agg(n_samples=("plate", "size"), n_plates=("plate", "nunique")).reset_index()


def matched_conditions(conditions: pd.DataFrame) -> pd.DataFrame:
    """Pairs of conditions of two datasets that match, pair by pair from the definition.

    Two conditions match if compound (PubChem id), cell context and time are equal, each dose is nearest to the other in log10, and the
    two are at most one log10 unit apart. All ties match (paper, appendix B.2; facts of the agreement benchmark).

    Parameters
    ----------
    conditions
        Table ``conditions`` of the truth.
    """
    known = conditions[conditions["pubchem_cid"].notna()]
    pairs: list[dict[str, Any]] = []
    for left, right in combinations(sorted(known["dataset"].unique()), 2):
        shared = known[known["dataset"].isin([left, right])].groupby(["pubchem_cid", "cell_type", "time_h"])
        for (cid, cell_type, time_h), group in shared:
            of_left, of_right = group[group["dataset"] == left], group[group["dataset"] == right]
            if of_left.empty or of_right.empty:
                continue
            gap = np.abs(np.log10(of_left["dose_uM"].to_numpy())[:, None] - np.log10(of_right["dose_uM"].to_numpy()))
            nearest = (gap <= gap.min(axis=1, keepdims=True) + TOLERANCE) & (gap <= gap.min(axis=0) + TOLERANCE)
            pairs += [
                {
                    "left_dataset": left,
                    "right_dataset": right,
                    "pubchem_cid": cid,
                    "cell_type": cell_type,
                    "time_h": time_h,
                    "left_dose_uM": of_left["dose_uM"].iloc[i],
                    "right_dose_uM": of_right["dose_uM"].iloc[j],
                    "left_source_id": of_left["source_id"].iloc[i],
                    "right_source_id": of_right["source_id"].iloc[j],
                    "log10_dose_gap": gap[i, j],
                }
                for i, j in zip(*np.nonzero(nearest & (gap <= 1 + TOLERANCE)), strict=True)
            ]
    columns = ["left_dataset", "right_dataset", "pubchem_cid", "cell_type", "time_h", "left_dose_uM", "right_dose_uM"]
    return pd.DataFrame(pairs, columns=[*columns, "left_source_id", "right_source_id", "log10_dose_gap"]).astype({"pubchem_cid": "Int64"})


def _effects(biology: Biology, conditions: pd.DataFrame) -> pd.DataFrame:
    """Latent effects of distinct conditions, long."""
    distinct = (
        conditions[["agent", "cell_type", "dose_uM", "time_h"]].drop_duplicates().sort_values(["agent", "cell_type", "time_h", "dose_uM"])
    )
    effects = biology.log2_effects(distinct).astype(np.float32)
    long = distinct.loc[distinct.index.repeat(len(biology.genes))].reset_index(drop=True)
    long["gene"] = pd.Categorical.from_codes(np.tile(np.arange(len(biology.genes)), len(distinct)), biology.genes)
    long["log2_fold_change"] = effects.ravel()
    return long.astype({"agent": "category", "cell_type": "category"})
