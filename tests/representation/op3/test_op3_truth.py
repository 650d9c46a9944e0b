"""On the sample mechanisms are known: descriptors that carry them must help, and descriptors that carry nothing must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from perturbridge_dagster.representation.op3.comparison import evaluate, summary_table
from perturbridge_dagster.representation.op3.descriptors import Descriptors, morgan_descriptors, no_descriptors
from perturbridge_dagster.representation.op3.members import SETTINGS

MARGIN = 0.03
"""Least gain in MRRMSE of knowing the mechanism; three times it were seen."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20260505, 1, 2])
def test_knowing_the_mechanism_helps_and_a_scrambled_table_does_not(sampled: Callable[[int], Any], seed: int):
    given = sampled(seed)
    columns = pd.get_dummies(given.mechanism).astype("float32")
    mechanism = Descriptors("mechanism", columns, pd.Series(True, columns.index))
    descriptors = [
        no_descriptors(columns.index),
        morgan_descriptors(given.table.compounds["smiles"]),
        mechanism,
        mechanism.scrambled(seed),
    ]
    settings = replace(SETTINGS["small"], modes=("fixed",), seeds=(0,))
    summary = summary_table(evaluate(given.problem, descriptors, settings).rows, {})
    mrrmse = summary[(summary["metric"] == "mrrmse") & (summary["reference"] == "none")].set_index("descriptor")["mean"]
    spearman = summary[(summary["metric"] == "spearman") & (summary["reference"] == "none")].set_index("descriptor")["mean"]
    assert mrrmse["mechanism"] < mrrmse["none"] - MARGIN
    assert mrrmse["morgan"] < mrrmse["none"] - MARGIN
    assert spearman["mechanism"] > spearman["none"] + 0.05
    # what was dealt at random carries nothing of a held-out compound
    assert mrrmse["mechanism scrambled"] > mrrmse["none"] - MARGIN / 3
    assert mrrmse["mechanism"] < mrrmse[["zero", "gene_mean", "cell_type_mean"]].min()
