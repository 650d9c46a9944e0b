from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturbridge_dagster.contract import CONTRASTS, GENE_FILTER, GENES
from perturbridge_dagster.effects import EffectTable
from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.effects.filter import GeneFilter
from perturbridge_dagster.effects.storage import LAYERS
from perturbridge_dagster.effects.table import effect_table
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
    assert to_arrow(table.to_anndata().obs, CONTRASTS).num_rows == 4
    assert to_arrow(table.genes, GENES).num_rows == 30
    assert to_arrow(table.filtered_genes, GENE_FILTER).num_rows == 30
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
    obs = table.to_anndata().obs
    assert obs["n_significant"].tolist() == [*significant, 0]
    np.testing.assert_allclose(obs["mean_abs_t"], [*np.abs(table.layers["t"][:3]).mean(axis=1), np.nan])


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


def test_nothing_is_computed_before_it_is_asked_for(make_table: MakeTable) -> None:
    table = make_table(3, 10)
    asked: list[slice] = []

    def noting(genes: slice) -> tuple[np.ndarray, np.ndarray]:
        asked.append(genes)
        return table.fit.effects(genes)

    lazy = dataclasses.replace(table, fit=dataclasses.replace(table.fit, effects=noting))
    assert not asked
    np.testing.assert_array_equal(lazy.layers["t"], table.layers["t"])
    assert lazy.log10_layers["log10_p"].shape == (3, 10)
    assert asked == [slice(0, 10)]


def test_t_and_intervals_follow_from_effect_and_standard_error(make_table: MakeTable) -> None:
    table = make_table(4, 30)
    layers = table.layers
    np.testing.assert_allclose(layers["stdev.scaled"], layers["stdev.unscaled"] * np.sqrt(table.genes["s2_post"].to_numpy()))
    np.testing.assert_allclose(layers["t"], layers["logFC"] / layers["stdev.scaled"])
    width = stats.t.isf(0.025, table.genes["df_total"]) * layers["stdev.scaled"]
    np.testing.assert_allclose(layers["CI.L"], layers["logFC"] - width)
    np.testing.assert_allclose(layers["CI.R"], layers["logFC"] + width)


def test_contrasts_say_where_and_how_deeply_they_were_measured(make_table: MakeTable) -> None:
    table = make_table(3, 10)
    row, last = table.contrasts.iloc[0], table.contrasts.iloc[2]
    assert (row["plates"], row["control_plates"], last["plates"]) == ("A", "A", "alone")
    assert row["component"] == row["control_component"] != last["component"]
    # samples are 3 vehicles, then two a perturbagen
    assert table.contrasts["control_library_size"].tolist() == [1e6 + 1] * 3
    assert table.contrasts["treated_library_size"].tolist() == [1e6 + 3.5, 1e6 + 5.5, 1e6 + 7.5]
    # 9 samples, 4 conditions; the second plate holds one condition alone
    assert table.contrasts["df_residual"].tolist() == [5.0] * 3


def test_genes_that_were_not_tested_are_told(make_table: MakeTable) -> None:
    table = make_table(3, 4)
    kept = np.array([True, False, True, True, False, True])
    counted = GeneFilter(kept, np.arange(6), 10 * np.arange(6), 2.0, 1.5)
    fit = dataclasses.replace(table.fit, tested=kept, gene_filter=counted)
    var = pd.DataFrame({"symbol": list("abcdef")}, index=[f"ENSG{i:011d}" for i in range(6)])
    design = build_design(
        pd.DataFrame(
            {
                "perturbagen": ["DMSO", "DMSO", "x", "y", "z"],
                "is_control": [True, True, False, False, False],
                "pert_dose_uM": [0.0, 0.0, 1.0, 1.0, 1.0],
                "pert_time_h": 24.0,
                "plate": "A",
            },
            index=list("12345"),
        )
    )
    fit = dataclasses.replace(fit, library_sizes=np.arange(5.0))
    made = effect_table(fit, design, var, dataset="d", stratum="s", cell_type="s", reported=np.ones((1, 1), dtype=bool), info={})
    assert made.genes["symbol"].tolist() == ["a", "c", "d", "f"]
    assert made.genes["support"].tolist() == [0, 2, 3, 5]
    assert made.filtered_genes["kept"].tolist() == kept.tolist()
    assert made.filtered_genes["total_count"].tolist() == [0, 10, 20, 30, 40, 50]
    uncounted = effect_table(
        dataclasses.replace(fit, gene_filter=None, library_sizes=None),
        design,
        var.drop(columns="symbol"),
        dataset="d",
        stratum="s",
        cell_type="s",
        reported=np.ones((1, 1), dtype=bool),
        info={},
    )
    assert uncounted.filtered_genes[["total_count", "support", "symbol"]].isna().all(axis=None)
    assert uncounted.genes["support"].isna().all()
    assert uncounted.contrasts["treated_library_size"].isna().all()
    assert to_arrow(uncounted.filtered_genes, GENE_FILTER).num_rows == 6


@pytest.mark.parametrize("step", [1, 3, 7, 20])
def test_rows_are_the_layers_some_contrasts_at_a_time(make_table: MakeTable, step: int) -> None:
    table = make_table(7, 1_100)
    blocks = list(table.rows(step))
    assert len(blocks) == -(-7 // step)
    wide = {**table.layers, **table.log10_layers}
    for name in LAYERS:
        np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), wide[name].astype(np.float32), err_msg=name)


def test_given_layers_are_told_as_they_are(make_table: MakeTable) -> None:
    made = make_table(4, 6)
    layers, log10_layers = dict(made.layers), {name: layer * 0.5 for name, layer in made.log10_layers.items()}
    table = EffectTable.from_layers(made.to_anndata().obs, made.genes, layers, log10_layers, {"a": 1})
    [block] = table.rows(4)
    np.testing.assert_array_equal(block["log10_adj_p_across"], log10_layers["log10_adj_p_across"].astype(np.float32))
    assert "n_significant" not in table.contrasts
    assert table.filtered_genes["kept"].all()
