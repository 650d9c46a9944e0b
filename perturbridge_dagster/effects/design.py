"""The design of a stratum: conditions, plates, contrasts, and which contrasts can be estimated.

The model of a sample is condition + plate. Conditions and plates are integer codes with their keys beside them; no key is ever
parsed from a string. Belongs here: everything that follows from obs alone, the same for every engine. Does not belong here:
expression values (``limma.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from perturbridge_dagster.errors import InputError, NotEstimableError
from perturbridge_dagster.identity.doses import rounded_dose_uM

Replicates = Literal["grouped", "separate"]
WithoutControls = Literal["refuse", "fit"]

_REQUIRED = ("perturbagen", "is_control", "pert_dose_uM", "pert_time_h", "plate")


@dataclass(frozen=True)
class Design:
    """Conditions, plates and contrasts of one stratum.

    Attributes
    ----------
    rows
        Positions, in the samples given, of the samples that are fitted; ascending.
    condition, plate
        Code of the condition and of the plate of each fitted sample, from 0.
    conditions
        One row a condition code, in byte order of the names: name, perturbagen, is_control, pert_dose_uM, pert_time_h, pubchem_cid,
        parent_key, n_samples, n_plates, plates (their names in level order, joined by ``; ``), component (int32, see `components`),
        and sample_id, plate, well where each replicate is fitted alone. Two conditions may have one name; the code tells them apart.
    plates
        Plate names by code. The first is the reference of the fit.
    contrasts
        One row a contrast: codes ``treated`` and ``control``, and ``estimable``.
    dropped
        What took no part, for the user: name of the rule → conditions or number of samples.
    """

    rows: NDArray[np.intp]
    condition: NDArray[np.intp]
    plate: NDArray[np.intp]
    conditions: pd.DataFrame
    plates: list[str]
    contrasts: pd.DataFrame
    dropped: dict[str, Any]

    @property
    def n_coefficients(self) -> int:
        """Columns of the design matrix: conditions, and plates beyond the reference."""
        return len(self.conditions) + len(self.plates) - 1

    @property
    def n_components(self) -> int:
        """Connected components of the graph of conditions and plates."""
        return int(self.conditions["component"].max()) + 1

    @property
    def components(self) -> list[list[str]]:
        """Names of the plates of each connected component, in level order; components are numbered by their first condition."""
        component = np.empty(len(self.plates), dtype=np.int32)
        component[self.plate] = self.conditions["component"].to_numpy()[self.condition]
        plates = np.array(self.plates, dtype=object)
        return [plates[component == number].tolist() for number in range(self.n_components)]

    @property
    def rank(self) -> int:
        """Rank of the design matrix: each component beyond the first costs one plate coefficient."""
        return self.n_coefficients - self.n_components + 1

    def estimable(self, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which contrasts can be estimated from some of the fitted samples.

        Parameters
        ----------
        present
            One value a fitted sample: whether it has a value.
        """
        components = connected_components(self.condition[present], self.plate[present], len(self.conditions), len(self.plates))
        same: NDArray[np.bool_] = components[self.contrasts["treated"]] == components[self.contrasts["control"]]
        return same

    def describe(self) -> dict[str, Any]:
        """Shape, rank, level orders and components, for the record beside a result."""
        return {
            "n_samples": len(self.rows),
            "n_conditions": len(self.conditions),
            "n_plates": len(self.plates),
            "n_contrasts": len(self.contrasts),
            "n_coefficients": self.n_coefficients,
            "n_components": self.n_components,
            "rank": self.rank,
            "condition_levels": self.conditions["name"].tolist(),
            "plate_levels": self.plates,
            "components": self.components,
        }


def connected_components(condition: NDArray[np.intp], plate: NDArray[np.intp], n_conditions: int, n_plates: int) -> NDArray[np.int32]:
    """Component of each condition, then of each plate, in the graph that has one edge a sample, from its condition to its plate."""
    n = n_conditions + n_plates
    edges = sparse.coo_array((np.ones(len(condition)), (condition, n_conditions + plate)), shape=(n, n))
    components: NDArray[np.int32] = csgraph.connected_components(edges, directed=False)[1]
    return components


def _number(value: float) -> str:
    """Shortest text that reads back as the same number: 24, 0.05, 9.99999."""
    return str(np.format_float_positional(value, trim="-"))


def compound_keys(obs: pd.DataFrame) -> pd.DataFrame:
    """What tells compounds apart: the PubChem id where it is known, else the perturbagen's name.

    Two names of one PubChem id are one compound; one name with two PubChem ids, as LINCS has for stereoisomers, is two.

    Parameters
    ----------
    obs
        Columns perturbagen and, where there is one, pubchem_cid.

    Returns
    -------
    DataFrame
        Index of `obs`; ``pubchem_cid`` (Int64, null where unknown) and ``unidentified`` (the name there, else empty).
    """
    cid = pd.to_numeric(obs["pubchem_cid"].astype(object)) if "pubchem_cid" in obs else pd.Series(np.nan, obs.index)
    known = cid.notna().to_numpy()
    return pd.DataFrame(
        {
            "pubchem_cid": pd.array(cid.to_numpy(dtype=float, na_value=np.nan)).astype("Int64"),
            "unidentified": np.where(known, "", obs["perturbagen"].astype(str)),
        },
        index=obs.index,
    )


def _sample_keys(obs: pd.DataFrame, replicates: Replicates, dataset: str | None, of_stratum: str) -> pd.DataFrame:
    """Key fields of each sample in plain types; raises where one is absent, missing or impossible, or a sample id occurs twice."""
    absent = [name for name in _REQUIRED if name not in obs]
    if absent:
        raise InputError(f"obs{of_stratum} lacks fields of the design", dataset=dataset, column=", ".join(absent))
    twice = obs.index.duplicated(keep=False)
    if twice.any():
        raise InputError(
            f"sample ids are not unique; {twice.sum():,} samples{of_stratum} share theirs with another.",
            dataset=dataset,
            rows=list(obs.index[twice].unique()),
            advice="Give each sample its own id, or drop the copies in the reader with a rule of the reconciliation.",
        )
    for name in _REQUIRED:
        missing = obs[name].isna().to_numpy()
        if name in ("perturbagen", "plate"):
            missing |= (obs[name].astype(str).str.strip() == "").to_numpy()
        if name == "pert_dose_uM":  # the dose of a control says nothing
            missing &= ~obs["is_control"].astype(bool).to_numpy()
        if missing.any():
            raise InputError(
                f"a value is missing; {missing.sum():,} samples{of_stratum} have none",
                dataset=dataset,
                column=name,
                rows=list(obs.index[missing]),
            )
    if not set(obs["is_control"].unique()) <= {True, False}:
        raise InputError(f"is_control{of_stratum} holds other values than true and false", dataset=dataset, column="is_control")
    is_control = obs["is_control"].astype(bool).to_numpy()
    for name, counts in (("pert_dose_uM", ~is_control), ("pert_time_h", np.ones(len(obs), dtype=bool))):
        numbers = obs[name].to_numpy(dtype=float, na_value=0.0)
        impossible = counts & ~(np.isfinite(numbers) & (numbers >= 0))
        if impossible.any():
            raise InputError(
                f"{impossible.sum():,} samples{of_stratum} have an impossible value",
                dataset=dataset,
                column=name,
                rows=list(obs.index[impossible]),
                expected="finite numbers, 0 or more",
            )
    keys = pd.DataFrame(
        {
            "is_control": is_control,
            "perturbagen": obs["perturbagen"].astype(str).to_numpy(),
            "pert_dose_uM": np.where(is_control, 0.0, rounded_dose_uM(obs["pert_dose_uM"].astype(float))),
            "pert_time_h": obs["pert_time_h"].astype(float).to_numpy(),
            "sample_id": obs.index.astype(str).to_numpy(),
            "plate": obs["plate"].astype(str).to_numpy(),
        }
    )
    for name in ("well", "parent_key"):
        keys[name] = obs[name].astype(object).to_numpy() if name in obs else None
    compounds = compound_keys(obs).reset_index(drop=True)
    keys["pubchem_cid"] = compounds["pubchem_cid"]
    # vehicles are told apart by name, whatever their compound: their plates are not interchangeable
    keys["compound_cid"] = compounds["pubchem_cid"].mask(is_control)
    keys["unidentified"] = np.where(is_control, keys["perturbagen"], compounds["unidentified"])
    keys["replicate"] = np.where(is_control | (replicates == "grouped"), "", keys["sample_id"])
    return keys


def _joined(texts: pd.Series[Any], group: NDArray[np.intp], n_groups: int) -> tuple[NDArray[np.object_], NDArray[np.intp]]:
    """Distinct texts of each group, sorted and joined by ``; ``, and how many; groups of the same texts share one string."""
    code, distinct = pd.factorize(texts, sort=True)
    owner, member = np.divmod(np.unique(group * len(distinct) + code), len(distinct))
    first = np.searchsorted(owner, np.arange(n_groups + 1)).tolist()
    members = member.tolist()
    shared: dict[tuple[int, ...], str] = {}
    joined = np.empty(n_groups, dtype=object)
    for number in range(n_groups):
        key = tuple(members[first[number] : first[number + 1]])
        if key not in shared:
            shared[key] = "; ".join(distinct[list(key)])
        joined[number] = shared[key]
    return joined, np.diff(first)


def _smallest(values: pd.Series[Any], group: NDArray[np.intp], n_groups: int) -> pd.Series[Any]:
    """Smallest value of each group, missing where it has none; which comes first must not depend on the order of samples."""
    known = pd.DataFrame({"group": group, "value": values}).dropna().sort_values("value").drop_duplicates("group")
    smallest = known.set_index("group")["value"].reindex(range(n_groups))
    return smallest.where(smallest.notna(), None)


def _conditions(keys: pd.DataFrame, replicates: Replicates) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """Conditions in byte order of their names, and the code of each sample."""
    fields = ["is_control", "compound_cid", "unidentified", "pert_dose_uM", "pert_time_h", "replicate"]
    group = np.asarray(keys.groupby(fields, sort=False, dropna=False).ngroup(), dtype=np.intp)
    _, first = np.unique(group, return_index=True)
    n_groups = len(first)
    conditions = keys.iloc[first][fields].reset_index(drop=True)
    conditions["perturbagen"], _ = _joined(keys["perturbagen"], group, n_groups)
    for name in ("pubchem_cid", "parent_key"):
        # sources may draw one compound in several ways
        conditions[name] = _smallest(keys[name], group, n_groups)
    conditions["n_samples"] = np.bincount(group)
    conditions["plates"], conditions["n_plates"] = _joined(keys["plate"], group, n_groups)
    together = conditions["is_control"].to_numpy() | (replicates == "grouped")
    for name in ("sample_id", "plate", "well"):
        conditions[name] = keys[name].astype(object).iloc[first].to_numpy(copy=True)
        conditions.loc[together, name] = None
    dose, time = (
        conditions[name].map({value: _number(value) for value in conditions[name].unique()}) for name in ("pert_dose_uM", "pert_time_h")
    )
    replicate = "_" + conditions["replicate"] if replicates == "separate" else ""
    treated = conditions["perturbagen"] + "_" + dose + "uM_" + time + "h" + replicate
    conditions["name"] = treated.where(~conditions["is_control"], conditions["perturbagen"] + "_" + time + "h")
    # Python orders text by code point, which is the byte order of UTF-8; fields decide between equal names
    order = conditions.sort_values(["name", *fields], kind="stable").index.to_numpy()
    code_of_group = np.empty(n_groups, dtype=np.intp)
    code_of_group[order] = np.arange(n_groups)
    conditions = conditions.loc[order].drop(columns=["replicate", "compound_cid", "unidentified"]).reset_index(drop=True)
    return conditions, code_of_group[group]


def _named(names: pd.Index[Any]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{', '.join(map(str, names[:5]))}{more}"


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(_number(value) for value in np.unique(values))


def build_design(
    obs: pd.DataFrame,
    *,
    replicates: Replicates = "grouped",
    min_cells: int = 0,
    times: Sequence[float] | None = None,
    without_controls: WithoutControls = "refuse",
    dataset: str | None = None,
    stratum: str | None = None,
) -> Design:
    """The design of one stratum.

    Controls are conditions by perturbagen and time. Treated samples are conditions by compound (:func:`compound_keys`), nominal dose
    and time, or each alone; several names of one compound are joined by ``; ``.
    Every treated condition is compared with each control condition of the same time. Controls of times without treated samples
    take no part.

    Parameters
    ----------
    obs
        Harmonized obs of one stratum, indexed by sample id.
    replicates
        ``"grouped"``: replicates of a condition are fitted together; ``"separate"``: each treated sample is its own condition.
    min_cells
        Samples of fewer cells take no part; a sample without a number of cells stays. Unit: cells.
    times
        Only samples of these times take part; None for all. Unit: h.
    without_controls
        What becomes of treated samples at times without controls. ``"refuse"``: an error. ``"fit"``: they are fitted, which
        moves plate effects and variances of the others, but have no contrast; the published analysis does so.
    dataset, stratum
        Dataset id and stratum id, for messages.

    Raises
    ------
    InputError
        If a key field is absent or missing, a sample id occurs twice, no time is asked for, or treated samples have no controls of
        their time and are to be refused.
    NotEstimableError
        If no treated sample, or no control of a treated time, takes part.
    """
    of_stratum = f" of stratum {stratum}" if stratum else ""
    keys = _sample_keys(obs, replicates, dataset, of_stratum)
    asked = np.ones(len(obs), dtype=bool)
    if times is not None:
        if not len(times):
            raise InputError("times names no time", dataset=dataset, expected="hours, or None for all times")
        asked = np.isin(keys["pert_time_h"], np.asarray(times, dtype=float))
    enough = np.ones(len(obs), dtype=bool)
    if min_cells > 0 and "psbulk_cells" in obs:
        enough = ~(obs["psbulk_cells"].astype(float) < min_cells).to_numpy()
    taken = asked & enough
    is_control, time = keys["is_control"].to_numpy(), keys["pert_time_h"].to_numpy()
    needless = taken & is_control & ~np.isin(time, time[taken & ~is_control])
    taken &= ~needless
    rows = np.flatnonzero(taken)
    n_few, n_other = int((asked & ~enough).sum()), int((~asked).sum())
    n_treated, n_controls = int((~is_control[rows]).sum()), int(is_control[rows].sum())
    because = "".join(
        [
            f"; {n_few:,} have fewer than {min_cells} cells" if n_few else "",
            f"; {n_other:,} are of other times than {_numbers(np.asarray(times, dtype=float))} h" if n_other else "",
        ]
    )
    if not (n_treated and n_controls):
        raise NotEstimableError(
            f"{' '.join(filter(None, (dataset, stratum))) or 'stratum'}: {n_treated:,} treated and {n_controls:,} vehicle controls of "
            f"their times take part, of {len(obs):,} samples ({_named(obs.index[rows] if len(rows) else obs.index)}{because}); both "
            "are needed."
        )
    uncontrolled = taken & ~is_control & ~np.isin(time, time[taken & is_control])
    if uncontrolled.any() and without_controls == "refuse":
        raise InputError(
            f"{uncontrolled.sum():,} treated samples{of_stratum}, at {_numbers(time[uncontrolled])} h, have no vehicle control of their "
            f"time{because}.",
            dataset=dataset,
            column="pert_time_h",
            rows=list(obs.index[uncontrolled]),
            advice=f"Name the times to fit (times=[{_numbers(time[taken & is_control])}]), or have these samples fitted without a "
            'contrast, as the published analysis did (without_controls="fit"). Both are effects options of the registry.',
        )

    keys = keys.iloc[rows].reset_index(drop=True)
    conditions, condition = _conditions(keys, replicates)
    plates = sorted(keys["plate"].unique())
    plate = pd.Categorical(keys["plate"], categories=plates).codes.astype(np.intp)
    conditions["component"] = connected_components(condition, plate, len(conditions), len(plates))[: len(conditions)].astype(np.int32)

    codes = conditions.reset_index(names="code")[["code", "is_control", "pert_time_h"]]
    treated, controls = codes[~codes["is_control"]], codes[codes["is_control"]]
    pairs = treated.merge(controls, on="pert_time_h", suffixes=("_treated", "_control"))
    contrasts = (
        pairs[["code_treated", "code_control"]]
        .set_axis(["treated", "control"], axis="columns")
        .sort_values(["treated", "control"], ignore_index=True)
    )
    without = conditions.loc[treated["code"][~treated["code"].isin(contrasts["treated"])], "name"].tolist()
    dropped = {
        "samples_of_other_times": n_other,
        "samples_below_min_cells": n_few,
        "controls_of_times_without_treated": int(needless.sum()),
        "conditions_without_controls": without,
    }
    design = Design(rows, condition, plate, conditions, plates, contrasts, dropped)
    contrasts["estimable"] = design.estimable(np.ones(len(rows), dtype=bool))
    return design
