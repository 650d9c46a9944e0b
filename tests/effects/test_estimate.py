from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from perturbridge_dagster.effects import estimate_effects, open_effects, split_strata, write_effects
from perturbridge_dagster.errors import InputError, NotEstimableError
from perturbridge_dagster.written import Stamp

Simulate = Callable[..., ad.AnnData]

WELLS = [("DMSO", 0.0, 24.0, "A", 4), ("x", 1.0, 24.0, "A", 3), ("y", 1.0, 24.0, "A", 1)]


def test_importing_the_package_loads_neither_anndata_nor_r() -> None:
    code = (
        "import sys, perturbridge_dagster.effects as effects; assert callable(effects.__getattr__); "
        "heavy = {'anndata', 'pandas', 'rpy2', 'scipy', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import perturbridge_dagster.effects as effects

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = effects.no_such_name


@pytest.mark.slow
def test_from_samples_to_stored_effects(simulate: Simulate, stamp: Stamp, tmp_path: Path) -> None:
    samples = simulate(WELLS)
    (stratum, part), *_ = split_strata(samples, "no_such_dataset")
    table = estimate_effects(part, replicates="separate")
    assert table.contrasts["stratum"].unique().tolist() == [stratum.stratum]
    assert table.contrasts["n_treated"].eq(1).all()
    assert table.contrasts["n_controls"].eq(4).all()
    assert table.contrasts["sample_id"].tolist() == ["s004", "s005", "s006", "s007"]
    assert table.info["engine"] == "structured"
    assert set(table.info["versions"]) == {"R", "limma", "edgeR", "statmod"}
    assert table.info["samples"] == part.obs_names.tolist()
    assert table.genes["support"].between(1, 8).all()
    write_effects(table, tmp_path, stamp)
    assert open_effects(tmp_path).contrasts["sample_id"].tolist() == ["s004", "s005", "s006", "s007"]


@pytest.mark.slow
def test_support_counts_samples_at_the_cut_off(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    table = estimate_effects(samples)
    depth = samples.X.sum(axis=1, keepdims=True)
    reached = (samples.X / depth * 1e6 >= 10 / np.median(depth) * 1e6).sum(axis=0)
    tested = samples.var_names.get_indexer(table.genes["ensembl_id"])
    assert table.genes["support"].tolist() == reached[tested].tolist()
    assert len(tested) < samples.n_vars
    filtered = table.filtered_genes
    assert filtered["support"].tolist() == reached.tolist()
    assert filtered["total_count"].tolist() == samples.X.sum(axis=0).tolist()
    assert filtered.loc[filtered["kept"], "ensembl_id"].tolist() == table.genes["ensembl_id"].tolist()
    normalized = estimate_effects(samples, normalized=True)
    assert normalized.genes["support"].isna().all()
    assert normalized.filtered_genes["kept"].all()


@pytest.mark.parametrize(
    ("option", "available"),
    [
        ({"engine": "dense"}, "'structured' or 'limma'"),
        ({"fit": "some_batches"}, "'whole_stratum' or 'published_batches'"),
        ({"gene_filter": "none"}, "'edgeR' or 'supported'"),
        ({"standard_errors": "robust"}, "'limma' or 'exact'"),
        ({"replicates": "together"}, "'grouped' or 'separate'"),
        ({"without_controls": "drop"}, "'refuse' or 'fit'"),
    ],
)
def test_an_option_that_is_not_available_names_those_that_are(simulate: Simulate, option: dict[str, str], available: str) -> None:
    with pytest.raises(InputError, match=available):
        estimate_effects(simulate(WELLS), **option)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, np.nan])
def test_a_share_of_the_samples_is_one(simulate: Simulate, share: float) -> None:
    with pytest.raises(InputError, match="no share of the samples"):
        estimate_effects(simulate(WELLS), gene_filter="supported", supported_share=share)


def test_more_than_one_cell_context_is_refused(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.obs["cell_type"] = ["CVCL_0001", "CVCL_0002"] * 4
    with pytest.raises(InputError, match="2 values of cell_type"):
        estimate_effects(samples)


@pytest.mark.parametrize("engine", ["structured", "limma"])
@pytest.mark.parametrize(
    ("value", "normalized", "message"),
    [
        (np.nan, False, "a count"),
        (-1.0, False, "a count"),
        (1.5, False, "a count"),
        (np.inf, False, "a count"),
        (np.inf, True, "a log2 value"),
        (-np.inf, True, "a log2 value"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_samples(
    simulate: Simulate, engine: Any, value: float, normalized: bool, message: str
) -> None:
    samples = simulate(WELLS)
    samples.X[[2, 6], 3] = value
    with pytest.raises(InputError, match=rf"stratum CVCL_0001; rows s002, s006: not every value of X is {message}"):
        estimate_effects(samples, normalized=normalized, engine=engine)


def test_the_first_gene_whose_value_is_no_count_is_named(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.X[2, 3] = 1.5
    with pytest.raises(InputError, match="ENSG00000000003"):
        estimate_effects(samples)


@pytest.mark.slow
def test_a_count_too_large_to_store_is_told_with_its_sample(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.X[2, 3] = 3e9
    with pytest.raises(InputError, match="stratum CVCL_0001; rows s002"):
        estimate_effects(samples)


@pytest.mark.slow
def test_a_sample_that_takes_no_part_may_hold_anything(simulate: Simulate) -> None:
    samples = simulate([*WELLS, ("DMSO", 0.0, 72.0, "A", 1)])
    samples.X[-1] = np.nan
    assert "s008" not in estimate_effects(samples).info["samples"]


def test_samples_without_counts_and_repeated_names_are_refused(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.X[5] = 0
    with pytest.raises(InputError, match="stratum CVCL_0001; rows s005: samples without any count"):
        estimate_effects(samples)
    samples = simulate(WELLS)
    samples.var_names = [samples.var_names[0], *samples.var_names[:-1]]
    with pytest.raises(InputError, match="stratum CVCL_0001; rows ENSG00000000000: genes are not unique"):
        estimate_effects(samples)
    samples = simulate(WELLS)
    samples.obs_names = [samples.obs_names[0], *samples.obs_names[:-1]]
    with pytest.raises(InputError, match="stratum CVCL_0001; rows s000: samples are not unique"):
        estimate_effects(samples)


@pytest.mark.parametrize("engine", ["structured", "limma"])
def test_a_sample_with_counts_of_filtered_genes_only_is_refused(simulate: Simulate, engine: Any) -> None:
    samples = simulate(WELLS)
    samples.X[5] = 0
    samples.X[:, 0] = 0
    samples.X[5, 0] = 3
    with pytest.raises(InputError, match=r"stratum CVCL_0001; rows s005: samples have no count of the \d+ genes that are tested"):
        estimate_effects(samples, engine=engine)


@pytest.mark.parametrize("value", [None, np.nan, " "])
def test_samples_without_a_plate_are_refused(simulate: Simulate, value: object) -> None:
    samples = simulate(WELLS)
    samples.obs["plate"] = samples.obs["plate"].astype(object).mask(samples.obs.index.isin(["s003", "s007"]), value)
    with pytest.raises(InputError, match="column plate; rows s003, s007: a value is missing; 2 samples of stratum CVCL_0001 have none"):
        estimate_effects(samples)


@pytest.mark.parametrize(
    ("wells", "words"),
    [
        ([("x", 1.0, 24.0, "A", 1)], "1 treated and 0 vehicle controls"),
        ([("DMSO", 0.0, 24.0, "A", 1)], "0 treated and 0 vehicle controls"),
        ([("DMSO", 0.0, 6.0, "A", 5), ("x", 1.0, 24.0, "A", 5)], "5 treated and 0 vehicle controls"),
    ],
)
def test_a_stratum_without_contrasts_is_not_estimable(simulate: Simulate, wells: Any, words: str) -> None:
    with pytest.raises(NotEstimableError, match=f"simulated CVCL_0001: {words}"):
        estimate_effects(simulate(wells))


@pytest.mark.parametrize("n_genes", [0, 3])
def test_a_stratum_without_any_normalized_value_is_not_estimable(simulate: Simulate, n_genes: int) -> None:
    samples = simulate(WELLS, normalized=True, n_genes=n_genes)
    samples.X[:] = np.nan
    with pytest.raises(NotEstimableError, match="stratum CVCL_0001"):
        estimate_effects(samples, normalized=True)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("engine", ["structured", "limma"])
def test_a_saturated_stratum_is_not_estimable(simulate: Simulate, engine: Any, normalized: bool) -> None:
    wells = [("DMSO", 0.0, 24.0, "A", 1), ("DMSO", 0.0, 24.0, "B", 1), ("x", 1.0, 24.0, "A", 1)]
    with pytest.raises(NotEstimableError, match=r"3 samples for 2 conditions and 2 plates \(rank 3\) leave no residual degrees of freedom"):
        estimate_effects(simulate(wells, normalized=normalized), engine=engine, normalized=normalized)


@pytest.mark.slow
def test_replicates_may_saturate_a_stratum_that_conditions_do_not(simulate: Simulate) -> None:
    samples = simulate([("DMSO", 0.0, 24.0, "A", 1), ("x", 1.0, 24.0, "A", 3)])
    with pytest.raises(NotEstimableError, match=r"4 samples for 4 conditions and 1 plates \(rank 4\)"):
        estimate_effects(samples, replicates="separate")
    assert len(estimate_effects(samples).contrasts) == 1


@pytest.mark.slow
def test_values_may_saturate_every_gene(simulate: Simulate) -> None:
    samples = simulate(WELLS, normalized=True, n_genes=12)
    samples.X[samples.obs["perturbagen"].duplicated()] = np.nan
    with pytest.raises(NotEstimableError, match="stratum CVCL_0001"):
        estimate_effects(samples, normalized=True)


@pytest.mark.slow
def test_one_residual_degree_of_freedom_is_enough(simulate: Simulate) -> None:
    table = estimate_effects(simulate([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 1)]))
    assert table.genes["df_residual"].eq(1).all()
    assert np.isfinite(table.layers["t"]).all()


@pytest.mark.parametrize("rule", ["edgeR", "supported"])
@pytest.mark.parametrize("n_genes", [0, 1])
def test_a_filter_that_leaves_too_few_genes_says_what_it_asks(simulate: Simulate, rule: Any, n_genes: int) -> None:
    samples = simulate(WELLS)
    samples.X[:] = 0
    samples.X[:, 0] = 1 if n_genes == 0 else 100
    with pytest.raises(NotEstimableError, match=rf"stratum CVCL_0001: the gene filter \({rule}\) leaves {n_genes} of 120 genes"):
        estimate_effects(samples, gene_filter=rule)


@pytest.mark.slow
@pytest.mark.parametrize("normalized", [False, True])
def test_two_genes_are_too_few_for_robust_moderation(simulate: Simulate, normalized: bool) -> None:
    # limma's squeezeVar returns no moderated variance for exactly two genes
    samples = simulate(WELLS, n_genes=2, normalized=normalized)
    if not normalized:
        samples.X += 20
    with pytest.raises(NotEstimableError, match="stratum CVCL_0001"):
        estimate_effects(samples, normalized=normalized)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.5, 0.75, 1.0])
def test_supported_genes_reach_the_cut_off_in_a_share_of_the_samples(simulate: Simulate, share: float) -> None:
    samples = simulate(WELLS)
    samples.X[:, ::5] //= 16
    table = estimate_effects(samples, gene_filter="supported", supported_share=share)
    depth = samples.X.sum(axis=1, keepdims=True)
    reached = (samples.X / depth * 1e6 >= 10 / np.median(depth) * 1e6).mean(axis=0)
    kept = (reached >= share) & (samples.X.sum(axis=0) >= 15)
    assert table.genes["ensembl_id"].tolist() == samples.var_names[kept].tolist()
    assert table.info["gene_filter"] == {
        "rule": "supported",
        "share": share,
        "min_samples": np.ceil(share * samples.n_obs),
        "cut_off_cpm": 10 / np.median(depth) * 1e6,
        "n_kept": kept.sum(),
        "n_given": 120,
    }


@pytest.mark.slow
def test_a_gene_without_any_value_is_not_tested(simulate: Simulate) -> None:
    samples = simulate(WELLS, normalized=True)
    samples.X[:, 7] = np.nan
    table = estimate_effects(samples, normalized=True)
    assert samples.var_names[7] not in set(table.genes["ensembl_id"])
    assert len(table.genes) == samples.n_vars - 1


@pytest.mark.slow
def test_conditions_without_controls_are_told(simulate: Simulate, caplog: pytest.LogCaptureFixture) -> None:
    samples = simulate([*WELLS, ("z", 1.0, 72.0, "A", 2)])
    with pytest.raises(InputError, match="column pert_time_h; rows s008, s009: 2 treated samples of stratum CVCL_0001, at 72 h"):
        estimate_effects(samples)
    with caplog.at_level("WARNING", logger="perturbridge"):
        table = estimate_effects(samples, without_controls="fit")
    assert "1 conditions have no vehicle control of their time" in caplog.text
    assert "z" not in set(table.contrasts["perturbagen"])
    assert table.info["dropped"]["conditions_without_controls"] == ["z_1uM_72h"]


@pytest.mark.slow
def test_only_the_times_asked_for_are_fitted(simulate: Simulate) -> None:
    samples = simulate([*WELLS, ("DMSO", 0.0, 6.0, "A", 2), ("x", 1.0, 6.0, "A", 2), ("z", 1.0, 72.0, "A", 2)])
    table = estimate_effects(samples, times=[24])
    assert list(table.info["times"]) == [24]
    alone = estimate_effects(samples[samples.obs["pert_time_h"] == 24].copy())
    assert table.info["samples"] == alone.info["samples"]
    for name, layer in table.layers.items():
        np.testing.assert_array_equal(layer, alone.layers[name], err_msg=name)
    assert estimate_effects(samples, times=[24, 6]).contrasts["name"].tolist() == [
        "x_1uM_24h - DMSO_24h",
        "x_1uM_6h - DMSO_6h",
        "y_1uM_24h - DMSO_24h",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["structured", "limma"])
def test_inestimable_contrasts_are_null_unless_limmas_value_is_asked_for(simulate: Simulate, engine: Any) -> None:
    samples = simulate([*WELLS, ("lonely", 1.0, 24.0, "Z", 3)])
    honest, silent = (estimate_effects(samples, engine=engine, report_inestimable=value) for value in (False, True))
    lonely = (honest.contrasts["perturbagen"] == "lonely").to_numpy()
    assert honest.contrasts["estimable"].tolist() == (~lonely).tolist() == silent.contrasts["estimable"].tolist()
    assert honest.contrasts.loc[lonely, ["plates", "control_plates"]].to_numpy().tolist() == [["Z", "A"]]
    assert np.isnan(honest.layers["logFC"][lonely]).all()
    assert np.isfinite(silent.layers["logFC"]).all()
    np.testing.assert_array_equal(honest.layers["logFC"][~lonely], silent.layers["logFC"][~lonely])


@pytest.mark.slow
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array])
def test_the_form_and_type_of_counts_do_not_matter(simulate: Simulate, make: Any) -> None:
    samples = simulate(WELLS)
    expected = estimate_effects(samples).layers["t"]
    for dtype in (np.uint16, np.int32, np.int64, np.float32):
        other = samples.copy()
        other.X = make(samples.X.astype(dtype))
        np.testing.assert_array_equal(estimate_effects(other).layers["t"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["structured", "limma"])
def test_r_prints_nothing_on_the_console(simulate: Simulate, capfd: pytest.CaptureFixture[str], engine: Any) -> None:
    aliased = [
        (name, dose, time, f"{plate}{time}", 2) for name, dose in (("DMSO", 0.0), ("x", 1.0)) for time in (6.0, 24.0) for plate in "AB"
    ]
    table = estimate_effects(simulate(aliased), engine=engine)
    assert table.info["design"]["rank"] < table.info["design"]["n_coefficients"]
    assert capfd.readouterr() == ("", "")
    assert any("Partial NA coefficients" in text for text in table.info["r_warnings"]) == (engine == "limma")


@pytest.mark.slow
def test_warnings_of_r_are_recorded(simulate: Simulate) -> None:
    samples = simulate(WELLS, normalized=True)
    samples.X[:, :3] = 5
    expected = {"3 very small variances detected, have been offset away from zero": 1}
    assert estimate_effects(samples, normalized=True).info["r_warnings"] == expected
