from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from perturbridge_dagster.contract import CONTRASTS, GENES
from perturbridge_dagster.effects import EffectTable
from perturbridge_dagster.written import to_arrow

MakeTable = Callable[[int, int], EffectTable]

PUBLISHED = [
    "logFC",
    "stdev.unscaled",
    "stdev.scaled",
    "CI.L",
    "CI.R",
    "AveExpr",
    "t",
    "P.Value",
    "adj.P.Value.within_one_contrast",
    "adj.P.Value.across_all_contrasts",
    "B",
]


def test_tables_fit_the_contract_and_layers_have_the_published_names(make_table: MakeTable) -> None:
    table = make_table(4, 30)
    assert to_arrow(table.contrasts, CONTRASTS).num_rows == 4
    assert to_arrow(table.genes, GENES).num_rows == 30
    assert list(table.layers) == PUBLISHED
    assert {layer.shape for layer in table.layers.values()} == {(4, 30)}
    assert {layer.dtype for layer in table.layers.values()} == {np.dtype("float64")}


def test_a_contrast_that_is_not_estimable_is_null_and_counts_nothing(make_table: MakeTable) -> None:
    table = make_table(4, 30)
    assert table.contrasts["estimable"].tolist() == [True, True, True, False]
    assert np.isnan(table.layers["t"][3]).all()
    assert np.isnan(table.log10_layers["log10_adj_p_across"][3]).all()
    significant = (table.layers["adj.P.Value.within_one_contrast"][:3] < 0.05).sum(axis=1)
    assert significant.sum() > 0
    assert table.contrasts["n_significant"].tolist() == [*significant, 0]
    np.testing.assert_allclose(table.contrasts["mean_abs_t"], [*np.abs(table.layers["t"][:3]).mean(axis=1), np.nan])


def test_a_p_value_below_the_smallest_double_stays_a_number(make_table: MakeTable) -> None:
    table = make_table(3, 5)
    assert all(np.isfinite(layer[:2]).all() for layer in table.log10_layers.values())


def test_anndata_form_is_labelled_and_survives_a_file(make_table: MakeTable, tmp_path: Path) -> None:
    table = make_table(4, 30)
    effects = table.to_anndata()
    assert effects.obs_names.tolist()[0] == "c0000_1uM_24h - DMSO_24h"
    assert effects.obs_names.is_unique
    assert {"perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "cell_type"} <= set(effects.obs)
    assert effects.var_names.name == "ensembl_id"
    assert effects.var_names.tolist() == table.genes["ensembl_id"].tolist()
    effects.write_h5ad(tmp_path / "effects.h5ad")
    back = ad.read_h5ad(tmp_path / "effects.h5ad")
    assert set(back.layers) == set(PUBLISHED)
    for name, layer in table.layers.items():
        np.testing.assert_array_equal(back.layers[name], layer)
    pd.testing.assert_series_equal(back.obs["pubchem_cid"], effects.obs["pubchem_cid"])
    assert json.loads(back.uns["info"]) == table.info


def test_making_anndata_leaves_the_table_alone(make_table: MakeTable) -> None:
    table = make_table(3, 10)
    before = table.layers["logFC"].copy()
    table.to_anndata().layers["logFC"][:] = 0
    np.testing.assert_array_equal(table.layers["logFC"], before)
