"""The design of a stratum: conditions, plates, contrasts, and which contrasts can be estimated.

The model of a sample is condition + plate. Conditions and plates are integer codes with their keys beside them; no key is ever
parsed from a string. Belongs here: everything that follows from obs alone, the same for every engine. Does not belong here:
expression values (``limma.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from perturbridge_dagster.errors import InputError, NotEstimableError
from perturbridge_dagster.identity.doses import nominal_dose_uM

Replicates = Literal["grouped", "separate"]

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
        One row a condition code: name, perturbagen, is_control, pert_dose_uM, pert_time_h, pubchem_cid, parent_key, n_samples,
        n_plates, and sample_id, plate, well where each replicate is fitted alone.
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
        return int(self._components(np.ones(len(self.rows), dtype=bool)).max()) + 1

    @property
    def rank(self) -> int:
        """Rank of the design matrix: each component beyond the first costs one plate coefficient."""
        return self.n_coefficients - self.n_components + 1

    def _components(self, present: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Component of each condition, then of each plate, in the graph that the present samples span."""
        return _connected(self.condition[present], self.plate[present], len(self.conditions), len(self.plates))

    def estimable(self, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which contrasts can be estimated from some of the fitted samples.

        Parameters
        ----------
        present
            One value a fitted sample: whether it has a value.
        """
        components = self._components(present)
        same: NDArray[np.bool_] = components[self.contrasts["treated"]] == components[self.contrasts["control"]]
        return same

    def describe(self) -> dict[str, Any]:
        """Shape, rank and level orders, for the record beside a result."""
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
        }


def _connected(condition: NDArray[np.intp], plate: NDArray[np.intp], n_conditions: int, n_plates: int) -> NDArray[np.int32]:
    """Connected components of the bipartite graph that has one edge a sample, from its condition to its plate."""
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


def _sample_keys(obs: pd.DataFrame, replicates: Replicates, dataset: str | None) -> pd.DataFrame:
    """Key fields of each sample in plain types; raises where one is absent or missing."""
    absent = [name for name in _REQUIRED if name not in obs]
    if absent:
        raise InputError("obs lacks fields of the design", dataset=dataset, column=", ".join(absent))
    for name in _REQUIRED:
        missing = obs[name].isna().to_numpy()
        if name == "pert_dose_uM":  # the dose of a control says nothing
            missing &= ~obs["is_control"].astype(bool).to_numpy()
        if missing.any():
            raise InputError(
                f"a value is missing; {missing.sum():,} samples have none", dataset=dataset, column=name, rows=list(obs.index[missing])
            )
    if not set(obs["is_control"].unique()) <= {True, False}:
        raise InputError("is_control holds other values than true and false", dataset=dataset, column="is_control")
    is_control = obs["is_control"].astype(bool).to_numpy()
    keys = pd.DataFrame(
        {
            "is_control": is_control,
            "perturbagen": obs["perturbagen"].astype(str).to_numpy(),
            "pert_dose_uM": np.where(is_control, 0.0, nominal_dose_uM(obs["pert_dose_uM"].astype(float))),
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


def _conditions(keys: pd.DataFrame, replicates: Replicates) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """Conditions in byte order of their names, and the code of each sample."""
    fields = ["is_control", "compound_cid", "unidentified", "pert_dose_uM", "pert_time_h", "replicate"]
    groups = keys.groupby(fields, sort=True, dropna=False)
    conditions = groups.agg(
        perturbagen=("perturbagen", lambda names: "; ".join(sorted(set(names)))),
        pubchem_cid=("pubchem_cid", "first"),
        # sources may draw one compound in several ways; which of them comes first must not depend on the order of samples
        parent_key=("parent_key", lambda parents: min(parents.dropna(), default=None)),
        n_samples=("plate", "size"),
        n_plates=("plate", "nunique"),
    ).reset_index()
    if replicates == "separate":
        first = groups[["sample_id", "plate", "well"]].first().reset_index(drop=True)
        conditions = conditions.join(first.where(~conditions["is_control"]))
    else:
        conditions[["sample_id", "plate", "well"]] = None
    dose, time = conditions["pert_dose_uM"].map(_number) + "uM", conditions["pert_time_h"].map(_number) + "h"
    treated = conditions["perturbagen"] + "_" + dose + "_" + time + ("_" + conditions["replicate"] if replicates == "separate" else "")
    conditions["name"] = treated.where(~conditions["is_control"], conditions["perturbagen"] + "_" + time)
    # Python orders text by code point, which is the byte order of UTF-8; fields decide between equal names
    order = conditions.sort_values(["name", *fields], kind="stable").index.to_numpy()
    code_of_group = np.empty(len(order), dtype=np.intp)
    code_of_group[order] = np.arange(len(order))
    conditions = conditions.loc[order].drop(columns=["replicate", "compound_cid", "unidentified"]).reset_index(drop=True)
    return conditions, code_of_group[groups.ngroup().to_numpy()]


def build_design(obs: pd.DataFrame, *, replicates: Replicates = "grouped", min_cells: int = 0, dataset: str | None = None) -> Design:
    """The design of one stratum.

    Controls are conditions by perturbagen and time. Treated samples are conditions by compound (:func:`compound_keys`), nominal dose
    and time, or each alone; several names of one compound are joined by ``; ``.
    Every treated condition is compared with each control condition of the same time. Controls of times without treated samples
    take no part. Treated conditions of times without controls are fitted, as the published analysis does, but have no contrast.

    Parameters
    ----------
    obs
        Harmonized obs of one stratum, indexed by sample id.
    replicates
        ``"grouped"``: replicates of a condition are fitted together; ``"separate"``: each treated sample is its own condition.
    min_cells
        Samples of fewer cells take no part; a sample without a number of cells stays. Unit: cells.
    dataset
        Dataset id, for messages.

    Raises
    ------
    InputError
        If a key field is absent or missing.
    NotEstimableError
        If no treated condition has controls of its time.
    """
    keys = _sample_keys(obs, replicates, dataset)
    enough = np.ones(len(obs), dtype=bool)
    if min_cells > 0 and "psbulk_cells" in obs:
        enough = ~(obs["psbulk_cells"].astype(float) < min_cells).to_numpy()
    kept = keys[enough]
    treated_times = set(kept.loc[~kept["is_control"], "pert_time_h"])
    needless = kept["is_control"] & ~kept["pert_time_h"].isin(treated_times)
    rows = np.flatnonzero(enough)[~needless.to_numpy()]
    keys = keys.iloc[rows].reset_index(drop=True)
    n_treated = int((~keys["is_control"]).sum())
    if n_treated in (0, len(keys)):
        raise NotEstimableError(
            f"{dataset or 'stratum'}: {n_treated:,} treated samples and {len(keys) - n_treated:,} vehicle controls of their times are left "
            f"of {len(obs):,} samples ({int((~enough).sum()):,} have fewer than {min_cells} cells); both are needed."
        )
    conditions, condition = _conditions(keys, replicates)
    plates = sorted(keys["plate"].unique())
    plate = pd.Categorical(keys["plate"], categories=plates).codes.astype(np.intp)

    codes = conditions.reset_index(names="code")[["code", "is_control", "pert_time_h"]]
    treated, controls = codes[~codes["is_control"]], codes[codes["is_control"]]
    pairs = treated.merge(controls, on="pert_time_h", suffixes=("_treated", "_control"))
    contrasts = (
        pairs[["code_treated", "code_control"]]
        .set_axis(["treated", "control"], axis="columns")
        .sort_values(["treated", "control"], ignore_index=True)
    )
    if contrasts.empty:
        raise NotEstimableError(f"{dataset or 'stratum'}: no treated condition has vehicle controls of its time.")
    without_controls = conditions.loc[treated["code"][~treated["code"].isin(contrasts["treated"])], "name"].tolist()
    dropped = {
        "samples_below_min_cells": int((~enough).sum()),
        "controls_of_times_without_treated": int(needless.sum()),
        "conditions_without_controls": without_controls,
    }
    design = Design(rows, condition, plate, conditions, plates, contrasts, dropped)
    contrasts["estimable"] = design.estimable(np.ones(len(rows), dtype=bool))
    return design
