"""Which published contrast is which of ours, in one stratum of one dataset.

Both sides name the source's compounds, so names decide before PubChem ids, which the two looked up on their own. Belongs here: keys.
Does not belong here: values (``compare.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.published.effects import names_in_model, sanitised

DOSE_GAP = 0.015
"""Largest distance, in log10, of a published dose from ours: we count doses within 3.5 % as one, and the release gives one replicate's."""

LABEL_DECIMALS = 4
"""Decimals of a dose in the release's labels, by which it told conditions apart where any dose of a dataset has more."""

Contrasts = pd.DataFrame


def _ours_by_name(ours: Contrasts) -> pd.DataFrame:
    """One row a name of each of our contrasts; several names of one compound are joined by semicolons."""
    found = ours[["contrast", "perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "control", "sample_id", "plate", "well"]].copy()
    found["perturbagen"] = found["perturbagen"].str.split("; ")
    return found.explode("perturbagen", ignore_index=True)


def _replicate(contrasts: pd.DataFrame) -> pd.Series[Any]:
    """The replicate of each contrast, by plate and well, or by its sample id where it has no well; empty where replicates are grouped.

    Sample ids would not do: the release's contain its own names of compounds.
    """
    plate, well, sample = (contrasts[name].astype("string") for name in ("plate", "well", "sample_id"))
    return (plate + "\t" + well).fillna(sample).fillna("").astype(object)


def _nearest(theirs: pd.DataFrame, ours: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Pairs that agree in keys and have the nearest dose within the gap: columns ``row`` and ``contrast``, one pair a row of theirs."""
    both = theirs.merge(ours, on=keys, suffixes=("", "_ours"))
    dose, our_dose = both["pert_dose_uM"].to_numpy(dtype=float), both["pert_dose_uM_ours"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(dose == our_dose, 0.0, np.abs(np.log10(dose) - np.log10(our_dose)))
    near = both.assign(gap=gap)[gap <= DOSE_GAP + 1e-9]
    return near.sort_values(["position", "gap", "contrast"]).drop_duplicates("position")[["position", "contrast"]]


def match_contrasts(theirs: Contrasts, ours: Contrasts) -> pd.DataFrame:
    """Match published contrasts with ours.

    Rows match when time and replicate (its plate and well) are the same and doses lie within :data:`DOSE_GAP`, the nearest of ours; and,
    the first that applies: name and PubChem id are the same; the PubChem id is; the name is. Several published rows may match one of
    ours: padding, and names or doses that we count as one compound or one dose. Where we have several vehicles at one time, the vehicle
    must agree too.

    Parameters
    ----------
    theirs
        ``PublishedEffects.contrasts``.
    ours
        Contrasts of our stored effects (``contract.CONTRASTS``).

    Returns
    -------
    DataFrame
        One row a published row, in its order: ``contrast`` (Int64, ours, null where there is none) and ``matched_by``
        (``name_and_pubchem_cid``, ``pubchem_cid``, ``name`` or null).
    """
    several = ours.groupby("pert_time_h")["control"].nunique().gt(1).any()
    exact = ["pert_time_h", "replicate", "vehicle"]

    def keyed(frame: pd.DataFrame, vehicle: pd.Series[Any]) -> pd.DataFrame:
        return frame.assign(
            perturbagen=frame["perturbagen"].str.casefold(),
            cid=frame["pubchem_cid"].astype("Int64").fillna(-1),
            replicate=_replicate(frame),
            vehicle=vehicle.map(sanitised).str.casefold() if several else "",
        )

    left = keyed(theirs, theirs["control"])[["perturbagen", "cid", "pert_dose_uM", *exact]].assign(position=np.arange(len(theirs)))
    right = _ours_by_name(ours)
    right = keyed(right, right["control"])[["perturbagen", "cid", "pert_dose_uM", *exact, "contrast"]]
    passes = {"name_and_pubchem_cid": ["perturbagen", "cid"], "pubchem_cid": ["cid"], "name": ["perturbagen"]}
    contrast = pd.Series(pd.NA, index=range(len(theirs)), dtype="Int64")
    matched_by = pd.Series(None, index=range(len(theirs)), dtype=object)
    for rule, keys in passes.items():
        waiting = left[contrast.isna().to_numpy()]
        if rule == "pubchem_cid":
            waiting = waiting[waiting["cid"] > 0]
        found = _nearest(waiting, right, [*keys, *exact])
        contrast.loc[found["position"]] = found["contrast"].to_numpy()
        matched_by.loc[found["position"]] = rule
    return pd.DataFrame({"contrast": contrast, "matched_by": matched_by})


def pooled_doses(theirs: Contrasts, ours: Contrasts, contrast: pd.Series[Any]) -> NDArray[np.int64]:
    """How many of our contrasts one published contrast is made of, because the release rounded doses to four decimals.

    Parameters
    ----------
    theirs, ours
        Contrasts of both sides.
    contrast
        Our contrast of each published row, null where there is none.

    Returns
    -------
    Shape (published rows,): contrasts of ours of the same compound, time and replicate whose dose rounds to the same label; at least 1.
    """
    rounded = np.floor(ours["pert_dose_uM"].to_numpy(dtype=float) * 10**LABEL_DECIMALS + 0.5)
    of_label = ours.assign(
        rounded=rounded, cid=ours["pubchem_cid"].astype("Int64").fillna(-1), replicate=ours["sample_id"].fillna("")
    ).groupby(["perturbagen", "cid", "pert_time_h", "replicate", "control", "rounded"])["contrast"]
    size = pd.Series(of_label.transform("size").to_numpy(), index=ours["contrast"].to_numpy())
    return contrast.map(size).fillna(1).to_numpy(dtype=np.int64)


def unmatched_contrasts(theirs: Contrasts, ours: Contrasts, contrast: pd.Series[Any]) -> pd.DataFrame:
    """Conditions that only one side has, and why as far as the two tables tell.

    Returns
    -------
    DataFrame
        Table ``published_unmatched`` of the contract without dataset and stratum. Padding is listed once.
    """
    fields = ["perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "control", "sample_id"]
    only_theirs = theirs[contrast.isna().to_numpy() & ~theirs["is_padding"].to_numpy()]
    only_ours = ours[~ours["contrast"].isin(contrast.dropna())]
    compounds, at_time = ({side: _compounds(table, at) for side, table in (("published", theirs), ("ours", ours))} for at in (False, True))
    labels = set(theirs["sanitised"].str.casefold())

    def reason(row: pd.Series[Any], other: str) -> str:
        if pd.isna(row["pert_dose_uM"]) or pd.isna(row["pert_time_h"]):
            return "dose_or_time_missing"
        if not _names(row) & compounds[other]:
            return "compound_not_fitted"
        if not {(name, row["pert_time_h"]) for name in _names(row)} & at_time[other]:
            return "time_not_fitted"
        if other == "published" and not labels.isdisjoint(_release_labels(row)):
            return "pooled_with_another"
        return "dose_not_fitted"

    tables = [
        rows[fields].assign(side=side, reason=[reason(row, other) for _, row in rows.iterrows()])
        for side, rows, other in (("ours", only_ours, "published"), ("published", only_theirs, "ours"))
    ]
    found: pd.DataFrame = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    return found


def _names(row: pd.Series[Any]) -> set[Any]:
    """What a contrast's compound may be called: each name, and the PubChem id."""
    cid = set() if pd.isna(row["pubchem_cid"]) else {int(row["pubchem_cid"])}
    return {name.casefold() for name in row["perturbagen"].split("; ")} | cid


def _compounds(contrasts: pd.DataFrame, with_time: bool) -> set[Any]:
    """What the compounds of contrasts may be called, or these with the times at which they were fitted."""
    rows = contrasts.drop_duplicates(["perturbagen", "pubchem_cid", "pert_time_h"])
    return {(name, row["pert_time_h"]) if with_time else name for _, row in rows.iterrows() for name in _names(row)}


def _release_labels(row: pd.Series[Any]) -> list[str]:
    """Condition names that the release's model may give to one of our contrasts; doses rounded as it rounds them."""
    dose = f"{np.floor(row['pert_dose_uM'] * 10**LABEL_DECIMALS + 0.5) / 10**LABEL_DECIMALS:.15g}"
    label = f"{row['perturbagen'].split('; ')[0]}_{dose}uM_{row['pert_time_h']:.15g}h"
    return [name.casefold() for name in names_in_model(label)]
