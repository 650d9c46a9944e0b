from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from perturbridge_dagster.effects import RError, estimate_effects, open_effects, split_strata, write_effects
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
    assert table.info["engine"] == "limma"
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
    assert estimate_effects(samples, normalized=True).genes["support"].isna().all()


@pytest.mark.parametrize(
    ("option", "available"),
    [
        ({"engine": "structured"}, "'limma'"),
        ({"fit": "published_batches"}, "'whole_stratum'"),
        ({"gene_filter": "supported"}, "'edgeR'"),
        ({"standard_errors": "exact"}, "'limma'"),
        ({"replicates": "together"}, "'grouped' or 'separate'"),
    ],
)
def test_an_option_that_is_not_available_names_those_that_are(simulate: Simulate, option: dict[str, str], available: str) -> None:
    with pytest.raises(InputError, match=available):
        estimate_effects(simulate(WELLS), **option)


def test_more_than_one_cell_context_is_refused(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.obs["cell_type"] = ["CVCL_0001", "CVCL_0002"] * 4
    with pytest.raises(InputError, match="2 values of cell_type"):
        estimate_effects(samples)


@pytest.mark.parametrize(
    ("value", "normalized", "message"),
    [(np.nan, False, "count"), (-1.0, False, "count"), (np.inf, False, "count"), (np.inf, True, "log2 value")],
)
def test_values_that_cannot_be_are_refused_with_their_samples(simulate: Simulate, value: float, normalized: bool, message: str) -> None:
    samples = simulate(WELLS)
    samples.X[2, 3] = value
    with pytest.raises(InputError, match=f"rows s002: not every value of X is a {message}"):
        estimate_effects(samples, normalized=normalized)


def test_samples_without_counts_and_repeated_genes_are_refused(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.X[5] = 0
    with pytest.raises(InputError, match="rows s005: samples without any count"):
        estimate_effects(samples)
    samples = simulate(WELLS)
    samples.var_names = [samples.var_names[0], *samples.var_names[:-1]]
    with pytest.raises(InputError, match="rows ENSG00000000000: genes are not unique"):
        estimate_effects(samples)


def test_a_saturated_stratum_is_not_estimable(simulate: Simulate) -> None:
    wells = [("DMSO", 0.0, 24.0, "A", 1), ("DMSO", 0.0, 24.0, "B", 1), ("x", 1.0, 24.0, "A", 1)]
    with pytest.raises(NotEstimableError, match=r"3 samples for 2 conditions and 2 plates \(rank 3\) leave no residual degrees of freedom"):
        estimate_effects(simulate(wells))


@pytest.mark.slow
def test_one_residual_degree_of_freedom_is_enough(simulate: Simulate) -> None:
    table = estimate_effects(simulate([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 1)]))
    assert table.genes["df_residual"].eq(1).all()
    assert np.isfinite(table.layers["t"]).all()


@pytest.mark.slow
def test_a_filter_that_leaves_nothing_is_told_in_r_words(simulate: Simulate) -> None:
    samples = simulate(WELLS)
    samples.X[:] = 0
    samples.X[:, 0] = 1
    with pytest.raises(RError, match="filterByExpr leaves 0 of 120 genes"):
        estimate_effects(samples)


@pytest.mark.slow
def test_a_gene_without_any_value_is_not_tested(simulate: Simulate) -> None:
    samples = simulate(WELLS, normalized=True)
    samples.X[:, 7] = np.nan
    table = estimate_effects(samples, normalized=True)
    assert samples.var_names[7] not in set(table.genes["ensembl_id"])
    assert len(table.genes) == samples.n_vars - 1


@pytest.mark.slow
def test_conditions_without_controls_are_told(simulate: Simulate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="perturbridge"):
        table = estimate_effects(simulate([*WELLS, ("z", 1.0, 72.0, "A", 2)]))
    assert "1 conditions have no vehicle control of their time" in caplog.text
    assert "z" not in set(table.contrasts["perturbagen"])
    assert table.info["dropped"]["conditions_without_controls"] == ["z_1uM_72h"]


@pytest.mark.slow
def test_r_prints_nothing_on_the_console(simulate: Simulate, capfd: pytest.CaptureFixture[str]) -> None:
    aliased = [
        (name, dose, time, f"{plate}{time}", 2) for name, dose in (("DMSO", 0.0), ("x", 1.0)) for time in (6.0, 24.0) for plate in "AB"
    ]
    table = estimate_effects(simulate(aliased))
    assert table.info["design"]["rank"] < table.info["design"]["n_coefficients"]
    assert capfd.readouterr() == ("", "")
    assert any("Partial NA coefficients" in text for text in table.info["r_warnings"])
