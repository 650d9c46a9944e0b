"""Exact standard errors against dense linear algebra, what limma's depend on, and what no result may depend on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.effects import EffectTable, estimate_effects
from perturbridge_dagster.effects.r import call_r

pytestmark = pytest.mark.slow

Simulate = Callable[..., ad.AnnData]
DenseDesign = Callable[[EffectTable, pd.DataFrame], np.ndarray]

COMPOUNDS = ("v", "w", "x", "y", "z")

UNBALANCED = [
    *[("DMSO", 0.0, 24.0, plate, n) for plate, n in zip("ABCD", (2, 4, 3, 5), strict=True)],
    *[(name, 1.0, 24.0, plate, 1 + (i + j) % 2) for i, name in enumerate(COMPOUNDS) for j, plate in enumerate("ABCD") if (i + j) % 4],
]
"""Every condition on other plates and in other numbers."""

DISCONNECTED = [
    ("lonely", 1.0, 24.0, "A", 3),
    ("lonely too", 1.0, 24.0, "A", 2),
    *[(n, d, t, chr(ord(p) + 1), k) for n, d, t, p, k in UNBALANCED],
]
"""The reference plate has no control."""


def _exact(samples: ad.AnnData, **options: Any) -> EffectTable:
    return estimate_effects(samples, standard_errors="exact", **options)


def _voom(table: EffectTable, samples: ad.AnnData, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log2 counts per million of tested genes and their weights as voom defines them, with a dense fit and R's lowess (Law 2014)."""
    counts = samples[:, table.genes["ensembl_id"]].X
    sizes = (np.array(table.info["lib_sizes"]) * table.info["norm_factors"])[:, np.newaxis]
    values = np.log2((counts + 0.5) / (sizes + 1) * 1e6)
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    sigma = np.sqrt(((values - fitted) ** 2).sum(axis=0) / (len(values) - np.linalg.matrix_rank(design)))
    to_log_count = np.log2(sizes + 1) - np.log2(1e6)
    trend = call_r("voom_trend", {"log_count": values.mean(axis=0) + to_log_count.mean(), "root_sigma": np.sqrt(sigma)})
    return values, np.interp(fitted + to_log_count, trend["log_count"], trend["root_sigma"]) ** -4


def _assert_exact(table: EffectTable, samples: ad.AnnData, values: np.ndarray, weights: np.ndarray, design: np.ndarray) -> None:
    """Effects and standard deviations are those of generalized inverses, gene by gene; a weight of 0 is a missing value."""
    levels = table.info["design"]["condition_levels"]
    estimable = table.contrasts["estimable"].to_numpy()
    sides = table.contrasts["name"].str.split(" - ", expand=True)[estimable]
    contrasts = np.zeros((len(sides), design.shape[1]))
    for side, sign in ((0, 1), (1, -1)):
        contrasts[np.arange(len(sides)), [levels.index(name) for name in sides[side]]] = sign
    effects, deviations = np.empty((2, len(sides), values.shape[1]))
    for gene in range(values.shape[1]):
        root = np.sqrt(weights[:, gene])[:, np.newaxis]
        inverse = np.linalg.pinv(design * root)
        effects[:, gene] = contrasts @ inverse @ (np.nan_to_num(values[:, gene]) * root[:, 0])
        deviations[:, gene] = np.linalg.norm(contrasts @ inverse, axis=1)
    known = ~np.isnan(table.layers["logFC"][estimable])
    assert known.mean() > 0.9
    assert np.isnan(table.layers["logFC"][~estimable]).all()
    for name, dense in (("logFC", effects), ("stdev.unscaled", deviations)):
        np.testing.assert_allclose(
            table.layers[name][estimable][known], dense[known], rtol=1e-9, atol=1e-9 * np.median(np.abs(dense)), err_msg=name
        )
    scaled = table.layers["stdev.unscaled"] * np.sqrt(table.genes["s2_post"].to_numpy())
    np.testing.assert_allclose(table.layers["t"], table.layers["logFC"] / scaled, rtol=1e-12)


@pytest.mark.parametrize("wells", [UNBALANCED, DISCONNECTED], ids=["connected", "disconnected"])
@pytest.mark.parametrize("replicates", ["grouped", "separate"])
def test_exact_standard_errors_are_those_of_dense_weighted_least_squares(
    wells: Any, replicates: str, simulate: Simulate, dense_design: DenseDesign
) -> None:
    samples = simulate(wells)
    table = _exact(samples, replicates=replicates)
    design = dense_design(table, samples.obs)
    _assert_exact(table, samples, *_voom(table, samples, design), design)


def test_exact_standard_errors_with_missing_values_are_those_of_the_samples_left(simulate: Simulate, dense_design: DenseDesign) -> None:
    samples = simulate(UNBALANCED, normalized=True)
    samples.X[np.random.default_rng(0).random(samples.shape) < 0.05] = np.nan
    samples.X[:, 0] = 1.0 + np.arange(samples.n_obs) % 3
    samples.X[samples.obs["plate"] == "A", 1] = np.nan
    table = _exact(samples, normalized=True)
    design = dense_design(table, samples.obs)
    _assert_exact(table, samples, samples.X, (~np.isnan(samples.X)).astype(float), design)
    # limma takes the correlation of the whole design, so only genes without missing values have the same
    limma = estimate_effects(samples, normalized=True)
    complete = ~np.isnan(samples.X).any(axis=0)
    same = np.isclose(limma.layers["stdev.unscaled"], table.layers["stdev.unscaled"], rtol=1e-12, equal_nan=True)
    assert complete.sum() > 1
    assert same[:, complete].all()
    assert not same[:, ~complete].all()
    np.testing.assert_array_equal(limma.layers["logFC"], table.layers["logFC"])


@pytest.mark.parametrize(
    ("wells", "options"),
    [
        (UNBALANCED, {"normalized": True}),
        (DISCONNECTED, {"normalized": True, "replicates": "separate"}),
        ([("DMSO", 0.0, 24.0, "A", 4), ("x", 1.0, 24.0, "A", 3), ("y", 1.0, 24.0, "A", 2)], {}),
    ],
    ids=["unweighted", "unweighted_separate", "counts_of_one_plate"],
)
def test_exact_standard_errors_are_limmas_where_limma_is_exact(wells: Any, options: dict[str, Any], simulate: Simulate) -> None:
    samples = simulate(wells, normalized=options.get("normalized", False))
    exact, limma = (estimate_effects(samples, standard_errors=kind, **options) for kind in ("exact", "limma"))
    for name, layer in exact.layers.items():
        np.testing.assert_allclose(layer, limma.layers[name], rtol=1e-9, atol=1e-12, err_msg=name)


def _other_reference(samples: ad.AnnData) -> ad.AnnData:
    """The same samples with plates named so that their order reverses."""
    plates = sorted(samples.obs["plate"].unique())
    renamed = samples.copy()
    renamed.obs["plate"] = samples.obs["plate"].map(dict(zip(plates, reversed(plates), strict=True)))
    return renamed


def _moved(one: EffectTable, other: EffectTable, layer: str) -> np.ndarray:
    return np.abs(other.layers[layer] / one.layers[layer] - 1)


def test_limmas_standard_errors_move_with_the_order_of_plates_and_exact_ones_do_not(simulate: Simulate) -> None:
    samples = simulate(UNBALANCED)
    limma, exact = (
        [estimate_effects(each, standard_errors=kind) for each in (samples, _other_reference(samples))] for kind in ("limma", "exact")
    )
    for one, other in (limma, exact):
        np.testing.assert_array_equal(one.contrasts["name"], other.contrasts["name"])
        np.testing.assert_allclose(
            other.layers["logFC"], one.layers["logFC"], rtol=1e-10, atol=1e-10 * np.median(np.abs(one.layers["logFC"]))
        )
        np.testing.assert_allclose(other.genes["sigma"], one.genes["sigma"], rtol=1e-10)
    assert np.max(_moved(*limma, "stdev.unscaled")) > 1e-3
    assert np.median(_moved(*limma, "stdev.unscaled")) > 1e-4
    assert np.max(_moved(*exact, "stdev.unscaled")) < 1e-9
    assert np.max(_moved(*exact, "t")) < 1e-8
    assert np.max(_moved(limma[0], exact[0], "stdev.unscaled")) > 1e-3


def _cases(simulate: Simulate) -> dict[str, tuple[ad.AnnData, dict[str, Any]]]:
    missing = simulate(DISCONNECTED, normalized=True)
    missing.X[np.random.default_rng(2).random(missing.shape) < 0.1] = np.nan
    return {
        "counts": (simulate(DISCONNECTED), {}),
        "exact": (simulate(UNBALANCED), {"standard_errors": "exact", "gene_filter": "supported"}),
        "separate": (simulate(UNBALANCED), {"replicates": "separate"}),
        "normalized": (simulate(UNBALANCED, normalized=True), {"normalized": True}),
        "missing": (missing, {"normalized": True}),
    }


def _assert_identical(one: EffectTable, other: EffectTable) -> None:
    pd.testing.assert_frame_equal(one.contrasts, other.contrasts, check_exact=True)
    pd.testing.assert_frame_equal(one.genes, other.genes, check_exact=True)
    for name, layer in (dict(one.layers) | dict(one.log10_layers)).items():
        np.testing.assert_array_equal((dict(other.layers) | dict(other.log10_layers))[name], layer, err_msg=name)


@pytest.mark.parametrize("name", ["counts", "exact", "separate", "normalized", "missing"])
def test_results_do_not_depend_on_the_run_or_the_number_of_cores(name: str, simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, options = _cases(simulate)[name]
    first = estimate_effects(samples, **options)
    _assert_identical(estimate_effects(samples, **options), first)
    for n_cores in (1, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=n_cores: set(range(n)))
        _assert_identical(estimate_effects(samples, **options), first)


@pytest.mark.parametrize("name", ["counts", "exact", "normalized", "missing"])
def test_effects_of_some_genes_are_those_of_all(name: str, simulate: Simulate) -> None:
    samples, options = _cases(simulate)[name]
    fit = estimate_effects(samples, **options).fit
    assert fit is not None
    whole = fit.effects(slice(0, len(fit.sigma)))
    for start, stop in ((0, 1), (3, 20), (15, 17), (40, len(fit.sigma))):
        for part, all_genes in zip(fit.effects(slice(start, stop)), whole, strict=True):
            np.testing.assert_array_equal(part, all_genes[:, start:stop])


def _by_name(table: EffectTable) -> Mapping[str, np.ndarray]:
    order = np.argsort(table.contrasts["name"].to_numpy(), kind="stable")
    return {name: layer[order] for name, layer in table.layers.items()}


@pytest.mark.parametrize("name", ["counts", "exact", "normalized", "missing"])
def test_the_order_of_samples_moves_last_bits_only(name: str, simulate: Simulate) -> None:
    samples, options = _cases(simulate)[name]
    shuffled = samples[np.random.default_rng(3).permutation(samples.n_obs)].copy()
    ours, other = (_by_name(estimate_effects(each, **options)) for each in (samples, shuffled))
    for layer, values in ours.items():
        np.testing.assert_allclose(other[layer], values, rtol=1e-10, atol=1e-10 * np.nanmedian(np.abs(values)), err_msg=layer)


def test_without_missing_values_samples_may_be_interleaved_without_moving_a_bit(simulate: Simulate) -> None:
    samples = simulate(UNBALANCED, normalized=True)
    # samples of one condition and plate keep their order
    interleaved = samples[np.argsort(samples.obs.groupby(["perturbagen", "plate"]).cumcount().to_numpy(), kind="stable")].copy()
    assert interleaved.obs_names.tolist() != samples.obs_names.tolist()
    ours, other = (estimate_effects(each, normalized=True) for each in (samples, interleaved))
    for layer, values in ours.layers.items():
        np.testing.assert_array_equal(other.layers[layer], values, err_msg=layer)
