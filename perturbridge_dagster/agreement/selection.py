"""Selection: the named options that leave matches out, or take them in again, each with a report of what it kept and dropped.

Belongs here: rules on tables of matches. Does not belong here: which conditions match (``matching.py``). All options are off unless
asked for. Those that look at other pairs of datasets need the matches of all pairs in one table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.keys import condition_text
from perturbridge_dagster.agreement.matching import DOSE_TOLERANCE, strata_columns
from perturbridge_dagster.agreement.signatures import StratumEffects, contrast_positions, stratum_named

L1000_PHASES = ("l1000_phase1", "l1000_phase2")

DOSE_FOLDS = {"exact": 1.0, "2x": 2.0, "3x": 3.0, "10x": 10.0}
"""Dose thresholds of the sensitivity analysis: largest ratio of the two doses, by name."""

MINIMUM_COMPOUNDS = 10


@dataclass(frozen=True)
class Bridge:
    """Two groups of datasets between which a cell context is taken in again.

    Attributes
    ----------
    one, other
        Dataset ids; a match belongs to the bridge where its datasets lie one in each.
    """

    one: tuple[str, ...]
    other: tuple[str, ...]


PUBLISHED_BRIDGES = (Bridge(("sciplex",), L1000_PHASES), Bridge(("tahoe",), L1000_PHASES))


def selection_report(matched: pd.DataFrame, kept: NDArray[np.bool_]) -> pd.DataFrame:
    """What an option kept of the matches in each (pair of datasets,) cell context and time.

    Parameters
    ----------
    matched
        Matches before.
    kept
        Which of them the option kept, shape (matches,).

    Returns
    -------
    One row a stratum, sorted: ``n_compounds``, ``n_matches``, ``n_compounds_kept``, ``n_matches_kept`` and ``kept`` (anything at all).
    """
    rows = matched.assign(is_kept=kept, kept_cid=matched["pubchem_cid"].where(pd.Series(kept, index=matched.index)))
    report = rows.groupby(strata_columns(matched), sort=True).agg(
        n_compounds=("pubchem_cid", "nunique"),
        n_matches=("pubchem_cid", "size"),
        n_compounds_kept=("kept_cid", "nunique"),
        n_matches_kept=("is_kept", "sum"),
    )
    report = report.astype("int64").reset_index()
    return report.assign(kept=report["n_matches_kept"] > 0)


def _selected(matched: pd.DataFrame, kept: NDArray[np.bool_]) -> tuple[pd.DataFrame, pd.DataFrame]:
    return matched[kept].reset_index(drop=True), selection_report(matched, kept)


def require_compounds_per_stratum(matched: pd.DataFrame, minimum: int = MINIMUM_COMPOUNDS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep matches of a cell context and time in which two datasets share enough compounds.

    Parameters
    ----------
    matched
        Table of :func:`~perturbridge_dagster.agreement.matching.match_conditions`, or matches of any number of pairs of datasets.
    minimum
        Smallest number of distinct compounds.

    Returns
    -------
    kept
        The matches kept, in their order.
    report
        Table of :func:`selection_report`.
    """
    n_compounds = matched.groupby(strata_columns(matched))["pubchem_cid"].transform("nunique")
    return _selected(matched, (n_compounds >= minimum).to_numpy(dtype=bool))


def within_dose_fold(matched: pd.DataFrame, fold: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep matches whose doses differ by a factor of at most `fold`.

    The mutually nearest doses do not depend on the limit, so this is what matching with a smaller gap would give.

    Parameters
    ----------
    matched
        Table with ``log10_dose_gap``.
    fold
        Largest ratio of the two doses; 1 for equal doses. See :data:`DOSE_FOLDS`.

    Returns
    -------
    See :func:`require_compounds_per_stratum`.
    """
    return _selected(matched, matched["log10_dose_gap"].to_numpy() <= np.log10(fold) + DOSE_TOLERANCE)


def suppress_l1000_only(matched: pd.DataFrame, phases: Collection[str] = L1000_PHASES) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep a match between the two L1000 phases only where another pair of datasets has its cell context or its compound.

    The phases share a platform and most of their samples; without this their matches outnumber all others. The published rule compares
    ids as raw text, so that it does not reproduce (docs/agreement.md); this one compares keys.

    Parameters
    ----------
    matched
        Matches of all pairs of datasets.
    phases
        Dataset ids of the phases.

    Returns
    -------
    See :func:`require_compounds_per_stratum`.
    """
    between = (matched["left_dataset"].isin(phases) & matched["right_dataset"].isin(phases)).to_numpy()
    support = matched[~between]
    supported = matched["cell_type"].isin(support["cell_type"]) | matched["pubchem_cid"].isin(support["pubchem_cid"])
    return _selected(matched, ~between | supported.to_numpy())


def _of_bridge(matched: pd.DataFrame, bridge: Bridge) -> NDArray[np.bool_]:
    left, right = matched["left_dataset"], matched["right_dataset"]
    forth = left.isin(bridge.one) & right.isin(bridge.other)
    return (forth | (left.isin(bridge.other) & right.isin(bridge.one))).to_numpy(dtype=bool)


def _row_keys(matched: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(matched[["left_dataset", "right_dataset", "left_row", "right_row"]])


def force_bridges(
    matched: pd.DataFrame, kept: pd.DataFrame, bridges: Collection[Bridge] = PUBLISHED_BRIDGES
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take in again, for each bridge, all its matches of the best cell context that it does not have.

    The best is that with most compounds, then most conditions (compound, time and both doses), then most matches, then the first by
    name. The published benchmark does so for sci-Plex and Tahoe-100M with either L1000 phase; its paper does not say it, and with one
    key for all datasets it is not needed (docs/agreement.md).

    Parameters
    ----------
    matched
        Matches of all pairs of datasets, before anything was left out.
    kept
        Those kept so far.
    bridges
        Which groups of datasets.

    Returns
    -------
    kept
        The matches kept and taken in again, in the order of `matched`.
    report
        Table of :func:`selection_report`.
    """
    is_kept = _row_keys(matched).isin(_row_keys(kept))
    taken = is_kept.copy()
    condition = ["pubchem_cid", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM"]
    for bridge in bridges:
        of_bridge = _of_bridge(matched, bridge)
        possible = matched[of_bridge & ~matched["cell_type"].isin(matched.loc[of_bridge & is_kept, "cell_type"]).to_numpy()]
        if possible.empty:
            continue
        contexts = possible.groupby("cell_type").agg(compounds=("pubchem_cid", "nunique"), matches=("pubchem_cid", "size"))
        contexts["conditions"] = possible.drop_duplicates(["cell_type", *condition]).groupby("cell_type").size()
        best = contexts.reset_index().sort_values(
            ["compounds", "conditions", "matches", "cell_type"], ascending=[False, False, False, True], ignore_index=True
        )
        taken |= of_bridge & (matched["cell_type"] == best.loc[0, "cell_type"]).to_numpy()
    return _selected(matched, taken)


def sample_weights(matched: pd.DataFrame, left: Mapping[str, StratumEffects], right: Mapping[str, StratumEffects]) -> NDArray[np.int64]:
    """How often the published benchmark counts each match: once for every pair of a left and a right sample.

    Its rows are samples, but each pair of samples is scored by the same two effects. Means over doses are weighted by this number there.

    Parameters
    ----------
    matched
        Table MATCHED_CONDITIONS of the contract.
    left, right
        Effects by stratum name.

    Returns
    -------
    Shape (matches,): samples of the left contrast × samples of the right one.
    """
    weights = np.ones(len(matched), dtype=np.int64)
    for side, strata in (("left", left), ("right", right)):
        for name, rows in matched.groupby(f"{side}_stratum").indices.items():
            dataset = str(matched[f"{side}_dataset"].iloc[rows[0]])
            effects = stratum_named(strata, str(name), dataset)
            contrasts = matched[f"{side}_contrast"].to_numpy(dtype=np.int64)[rows]
            positions = contrast_positions(effects, contrasts, dataset, str(name))
            weights[rows] *= effects.contrasts["n_treated"].to_numpy(dtype=np.int64)[positions]
    return weights


def matched_condition_texts(matched: pd.DataFrame) -> pd.Series[str]:
    """Key of each match as one text: compound, cell context, time and both doses, ``2244|CVCL_0023|24|10|3``."""
    columns = ["pubchem_cid", "cell_type", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM"]
    texts = [condition_text(*row) for row in matched[columns].itertuples(index=False, name=None)]
    return pd.Series(texts, index=matched.index, dtype=object)
