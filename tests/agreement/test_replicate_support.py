from __future__ import annotations

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.compendium import published_replicates
from perturbridge_dagster.agreement.replicate_support import require_support, supported_conditions
from perturbridge_dagster.contract import REPLICATE_SUPPORT
from perturbridge_dagster.written import to_arrow
from tests.agreement.effects_in_memory import make_effects


def rows(dataset: str, *conditions: tuple[str, int, float]) -> pd.DataFrame:
    """Pairs of replicates of conditions given as (cell context, compound, dose)."""
    cell_type, cid, dose = zip(*conditions, strict=True)
    return pd.DataFrame({"dataset": dataset, "cell_type": cell_type, "pubchem_cid": cid, "pert_time_h": 24.0, "pert_dose_uM": dose})


def test_l1000_is_kept_where_another_dataset_has_the_cell_context_and_compound() -> None:
    tables = {
        "l1000_phase1": rows("l1000_phase1", ("A549", 1, 1.0), ("A549", 1, 1.0), ("A549", 1, 5.0), ("K562", 1, 1.0), ("A549", 2, 1.0)),
        "l1000_phase2": rows("l1000_phase2", ("A549", 2, 1.0), ("K562", 9, 1.0)),
        "tahoe": rows("tahoe", ("A549", 1, 99.0), ("K562", 2, 1.0)),
        "op3": rows("op3", ("K562", 9, 1.0)),
    }
    supported = supported_conditions(tables)
    assert supported.to_numpy().tolist() == [["A549", 1], ["K562", 2], ["K562", 9]]
    kept, report = require_support(pd.concat(tables.values(), ignore_index=True), supported)
    to_arrow(report, REPLICATE_SUPPORT)
    assert report.to_numpy().tolist() == [["l1000_phase1", "op3;tahoe", 4, 2, 2, 1], ["l1000_phase2", "op3;tahoe", 2, 2, 1, 1]]
    assert kept.groupby("dataset").size().to_dict() == {"l1000_phase1": 3, "l1000_phase2": 1, "op3": 1, "tahoe": 2}


def test_single_wells_of_another_dataset_are_support_though_they_are_no_replicates() -> None:
    replicates = pd.concat([rows("l1000_phase1", ("A549", 1, 1.0), ("A549", 2, 1.0), ("A549", 3, 1.0)), rows("tahoe", ("A549", 2, 9.0))])
    tahoe = make_effects([(1, "A549", 24, 5.0), (2, "A549", 24, 9.0)], np.zeros((2, 3)))
    l1000 = make_effects([(cid, "A549", 24, 1.0) for cid in (1, 2, 3)], np.zeros((3, 3)))
    kept, report = published_replicates(replicates, {"l1000_phase1": {"A549": l1000}, "tahoe": {"A549": tahoe}})
    assert kept[["dataset", "pubchem_cid"]].to_numpy().tolist() == [["l1000_phase1", 1], ["l1000_phase1", 2], ["tahoe", 2]]
    assert report["n_kept_compounds"].tolist() == [2]


def test_without_other_datasets_nothing_of_l1000_is_kept() -> None:
    tables = {"l1000_phase1": rows("l1000_phase1", ("A549", 1, 1.0))}
    kept, report = require_support(tables["l1000_phase1"], supported_conditions(tables))
    assert kept.empty
    assert report[["supporting_datasets", "n_conditions", "n_kept_conditions"]].to_numpy().tolist() == [["", 1, 0]]
    to_arrow(report, REPLICATE_SUPPORT)
