"""The whole table against limma run on its own by Rscript, on simulated and real strata of every shape."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.effects import EffectTable, estimate_effects

COMPOUNDS = ("alpha-1", "beta 2", "β-3", "delta", "epsilon")
"""With a hyphen, a blank and a Greek letter: names that R would change."""


def _plates(names: tuple[str, ...], time: float = 24, compounds: tuple[str, ...] = COMPOUNDS, controls: int = 3) -> list[Any]:
    return [
        well
        for plate in names
        for well in [("DMSO", 0.0, time, plate, controls), *((compound, 1.5, time, plate, 1) for compound in compounds)]
    ]


SHAPES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "several_plates": (_plates(("P-2", "P_1", "p3")), {}),
    "one_plate": (_plates(("only",)) + _plates(("only",)), {}),
    "plates_nested_in_time": (_plates(("A", "B"), 6) + _plates(("C", "D"), 24), {}),
    "disconnected_plates": (
        [*_plates(("B", "C")), ("lonely", 1.0, 24.0, "A", 3), ("lonely too", 1.0, 24.0, "A", 2), ("delta", 9.0, 24.0, "Z", 2)],
        {},
    ),
    "singleton_conditions": (_plates(("A",), compounds=COMPOUNDS[:3]) + _plates(("B",), compounds=COMPOUNDS[3:]), {}),
    "separate_replicates": (_plates(("A", "B", "C")), {"replicates": "separate"}),
    "times_with_and_without_controls": (
        _plates(("A", "B"), 6) + _plates(("A", "B"), 24) + [("DMSO", 0.0, 48.0, "A", 2), ("delta", 1.5, 72.0, "B", 2)],
        {},
    ),
    "several_control_labels": ([*_plates(("A", "B")), ("medium", 0.0, 24.0, "A", 2), ("medium", 0.0, 24.0, "B", 2)], {}),
    "many_doses": ([(c, d, 24.0, p, 2) for c in COMPOUNDS for d in (0.1, 1.0, 10.0) for p in "AB"] + _plates(("A", "B")), {}),
    "genes_without_counts": (_plates(("A", "B")), {}),
    "normalized": (_plates(("A", "B", "C")), {"normalized": True}),
    "normalized_with_missing_values": (_plates(("A", "B", "C")), {"normalized": True}),
}


def _samples(name: str, simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    wells, options = SHAPES[name]
    samples = simulate(wells, seed=len(name), normalized=options.get("normalized", False))
    if name == "genes_without_counts":
        samples.X[:, ::3] = 0
    if name == "normalized_with_missing_values":
        missing = np.random.default_rng(1).random(samples.shape) < 0.05
        missing[:, 0] = samples.obs["plate"] == "A"  # the reference plate
        missing[:, 1] = samples.obs["perturbagen"] == "delta"  # a condition
        missing[:, 2] = samples.obs["plate"] != "B"  # all plates but one
        missing[:, 3] = samples.obs["is_control"]
        # delta on plate A alone, its controls elsewhere
        missing[:, 4] = (samples.obs["plate"] == "A") != (samples.obs["perturbagen"] == "delta")
        samples.X[missing] = np.nan
    return samples


@pytest.fixture(scope="module")
def compared(
    simulate: Callable[..., ad.AnnData], run_oracle: Callable[..., dict[str, pd.DataFrame]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[EffectTable, pd.DataFrame]]:
    """Our table, with limma's silent values, and limma's own, for every shape."""
    cases = {name: (_samples(name, simulate), options) for name, (_, options) in SHAPES.items()}
    expected = run_oracle(tmp_path_factory.mktemp("oracle"), cases)
    return {
        name: (estimate_effects(samples, report_inestimable=True, **options), expected[name]) for name, (samples, options) in cases.items()
    }


def assert_agrees(table: EffectTable, expected: pd.DataFrame) -> None:
    """Every statistic within |Δ| ≤ 1e-10 (|x| + median |x|), B within 1e-7, P values on the log scale."""
    shape = (len(table.contrasts), len(table.genes))
    assert expected["contrast"].nunique() == shape[0]
    assert expected["gene"].tolist() == table.genes["ensembl_id"].tolist() * shape[0]

    def close(name: str, ours: Any, theirs: Any, *, relative: float = 1e-10, absolute: float = 0.0) -> None:
        theirs = np.asarray(theirs, dtype=float)
        bound = relative * (np.abs(theirs) + np.nanmedian(np.abs(theirs))) + absolute
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=f"missing values of {name}")
        worst = np.nanmax(np.abs(ours - theirs) - bound)
        assert worst <= 0, f"{name} is off by {worst} beyond its bound"

    columns = {name: expected[name].to_numpy().reshape(shape) for name in expected.columns if name not in ("contrast", "gene")}
    layers = table.layers
    for name in ("logFC", "stdev.unscaled", "CI.L", "CI.R", "AveExpr", "t"):
        close(name, layers[name], columns[name])
    close("stdev.scaled", layers["stdev.scaled"], columns["stdev.unscaled"] * np.sqrt(columns["s2.post"]))
    close("B", layers["B"], columns["B"], absolute=1e-7)
    for name, column, stored in (
        ("P.Value", "P.Value", "log10_p"),
        ("adj.P.Value.within_one_contrast", "adj.P.Val", "log10_adj_p_within"),
        ("adj.P.Value.across_all_contrasts", "across", "log10_adj_p_across"),
    ):
        close(name, np.log10(layers[name]), np.log10(columns[column]), absolute=1e-9)
        close(stored, table.log10_layers[stored], np.log10(columns[column]), absolute=1e-9)
    for name, column in (("sigma", "sigma"), ("s2_post", "s2.post"), ("df_residual", "df.residual"), ("df_total", "df.total")):
        close(name, table.genes[name].to_numpy(), columns[column][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_whole_table_agrees_with_limma(name: str, compared: dict[str, tuple[EffectTable, pd.DataFrame]]) -> None:
    assert_agrees(*compared[name])


@pytest.mark.slow
def test_shapes_are_what_their_names_say(compared: dict[str, tuple[EffectTable, pd.DataFrame]]) -> None:
    designs = {name: table.info["design"] for name, (table, _) in compared.items()}
    assert designs["one_plate"]["n_plates"] == 1
    assert designs["plates_nested_in_time"]["n_components"] == 2
    assert designs["disconnected_plates"]["n_components"] == 3
    assert designs["disconnected_plates"]["n_coefficients"] - designs["disconnected_plates"]["rank"] == 2
    assert set(compared["singleton_conditions"][0].contrasts["n_treated"]) == {1}
    assert set(compared["several_control_labels"][0].contrasts["control"]) == {"DMSO", "medium"}
    assert compared["times_with_and_without_controls"][0].info["dropped"]["conditions_without_controls"] == ["delta_1.5uM_72h"]
    assert compared["times_with_and_without_controls"][0].info["dropped"]["controls_of_times_without_treated"] == 2
    tested = compared["genes_without_counts"][0].genes["ensembl_id"].str.slice(4).astype(int)
    assert len(tested) > 40
    assert (tested % 3 != 0).all()
    missing = np.isnan(compared["normalized_with_missing_values"][0].layers["t"])
    assert missing.any()
    assert not missing.all()


@pytest.mark.slow
def test_inestimable_contrasts_are_null_and_take_no_part_in_adjustment(simulate: Callable[..., ad.AnnData]) -> None:
    samples = _samples("disconnected_plates", simulate)
    silent, honest = (estimate_effects(samples, report_inestimable=value) for value in (True, False))
    estimable = honest.contrasts["estimable"].to_numpy()
    assert set(honest.contrasts.loc[~estimable, "perturbagen"]) == {"lonely", "lonely too", "delta"}
    assert not np.isnan(silent.layers["t"]).any()
    for name in set(honest.layers) - {"AveExpr"}:
        assert np.isnan(honest.layers[name][~estimable]).all(), name
    for name in set(honest.layers) - {"adj.P.Value.across_all_contrasts"}:
        np.testing.assert_array_equal(honest.layers[name][estimable], silent.layers[name][estimable], err_msg=name)
    assert honest.contrasts.loc[~estimable, "n_significant"].eq(0).all()
    assert honest.contrasts.loc[~estimable, "mean_abs_t"].isna().all()


@pytest.mark.slow
def test_a_gene_whose_missing_values_part_condition_and_controls_is_null_there(simulate: Callable[..., ad.AnnData]) -> None:
    samples = _samples("normalized_with_missing_values", simulate)
    silent, honest = (estimate_effects(samples, normalized=True, report_inestimable=value) for value in (True, False))
    delta = honest.contrasts.index[honest.contrasts["perturbagen"] == "delta"][0]
    assert not np.isnan(silent.layers["t"][delta, 4])
    assert np.isnan(honest.layers["t"][delta, 4])
    assert honest.contrasts["estimable"].all()
    others = honest.contrasts["perturbagen"] != "delta"
    np.testing.assert_array_equal(honest.layers["t"][others][:, 5:], silent.layers["t"][others][:, 5:])


@pytest.mark.slow
def test_sparse_counts_and_categories_give_the_same_table(simulate: Callable[..., ad.AnnData]) -> None:
    from scipy import sparse

    samples = simulate(_plates(("A", "B")))
    other = samples.copy()
    other.X = sparse.csr_matrix(samples.X.astype(np.int64))
    for name in ("perturbagen", "plate", "is_control", "cell_type", "pubchem_cid"):
        other.obs[name] = other.obs[name].astype(object).astype("category")
    one, two = estimate_effects(samples), estimate_effects(other)
    pd.testing.assert_frame_equal(one.contrasts, two.contrasts)
    for name, layer in one.layers.items():
        np.testing.assert_array_equal(layer, two.layers[name], err_msg=name)


def _airway(real_data: Path) -> ad.AnnData:
    samples = ad.read_h5ad(real_data / "de_counts_airway" / "airway.h5ad")
    samples.obs = pd.DataFrame(
        {
            "perturbagen": np.where(samples.obs["dex"] == "trt", "dexamethasone", "untreated"),
            "is_control": (samples.obs["dex"] != "trt").to_numpy(),
            "pert_dose_uM": 1.0,
            "pert_time_h": 18.0,
            "plate": samples.obs["cell"].astype(str).to_numpy(),
            "cell_type": "airway_smooth_muscle",
        },
        index=samples.obs_names,
    )
    samples.X = samples.X.astype(np.float64)
    return samples[:, samples.X.any(axis=0)].copy()


def _t47d(real_data: Path) -> ad.AnnData:
    folder = real_data / "de_counts_t47d_estradiol"
    with gzip.open(folder / "t47d_counts.tsv.gz", "rt") as stream:
        counts = pd.read_csv(stream, sep="\t", index_col=0)
    sheet = pd.read_csv(folder / "t47d_samples.tsv", sep="\t", index_col=0).loc[counts.columns]
    obs = pd.DataFrame(
        {
            "perturbagen": sheet["treatment"] + "_" + sheet["mutation"],
            "is_control": sheet["treatment"] == "veh",
            "pert_dose_uM": 0.01,
            "pert_time_h": 24.0,
            "plate": sheet["replicate"],
            "cell_type": "CVCL_0553",
        }
    )
    return ad.AnnData(counts.T.to_numpy(dtype=float), obs=obs, var=pd.DataFrame(index=counts.index))


@pytest.mark.slow
@pytest.mark.real_data
def test_real_counts_agree_with_limma_and_with_biology(
    real_data: Path, run_oracle: Callable[..., dict[str, pd.DataFrame]], tmp_path: Path
) -> None:
    cases: dict[str, tuple[ad.AnnData, dict[str, Any]]] = {"airway": (_airway(real_data), {}), "t47d": (_t47d(real_data), {})}
    tables = {name: estimate_effects(samples, **options) for name, (samples, options) in cases.items()}
    for name, expected in run_oracle(tmp_path, cases).items():
        assert_agrees(tables[name], expected)
    # glucocorticoid response: DUSP1, KLF15, CRISPLD2 and PER1 rise
    airway = pd.Series(tables["airway"].layers["t"][0], index=tables["airway"].genes["ensembl_id"])
    assert airway[["ENSG00000120129", "ENSG00000163884", "ENSG00000103196", "ENSG00000179094"]].min() > 8
    # oestrogen response in the wild type against its own vehicle: GREB1, PGR and TFF1 rise
    t47d = tables["t47d"]
    wild_type = t47d.contrasts.index[(t47d.contrasts["perturbagen"] == "E2_WT") & (t47d.contrasts["control"] == "veh_WT")][0]
    oestrogen = pd.Series(t47d.layers["t"][wild_type], index=t47d.genes["ensembl_id"])
    assert oestrogen[["ENSG00000196208", "ENSG00000082175", "ENSG00000160182"]].min() > 8
