"""Whole tables three ways: the structured engine, the limma engine, and limma run on its own by Rscript, on strata of every shape."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.effects import EffectTable, estimate_effects
from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.sources import harmonize

COMPOUNDS = ("alpha-1", "beta 2", "β-3", "delta", "epsilon")
"""With a hyphen, a blank and a Greek letter: names that R would change."""


def _plates(names: str | tuple[str, ...], time: float = 24, compounds: tuple[str, ...] = COMPOUNDS, controls: int = 3) -> list[Any]:
    return [
        well
        for plate in names
        for well in [("DMSO", 0.0, time, plate, controls), *((compound, 1.5, time, plate, 1) for compound in compounds)]
    ]


NORMALIZED = {"normalized": True}
SEPARATE = {"replicates": "separate"}
LONELY = [("lonely", 1.0, 24.0, "A", 3), ("lonely too", 1.0, 24.0, "A", 2), *_plates("BC"), ("delta", 9.0, 24.0, "Z", 2)]
"""The reference plate, and another, share no condition with the controls' plates."""

SHAPES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "several_plates": (_plates(("P-2", "P_1", "p3")), {}),
    "one_plate": (_plates(("only",)) + _plates(("only",)), {}),
    "plates_nested_in_time": (_plates("AB", 6) + _plates("CD", 24), {}),
    "disconnected_plates": (LONELY, {}),
    "plates_nested_in_conditions": (
        [
            *[(name, 1.0, 24.0, "A", n) for name, n in (("DMSO", 3), ("beta 2", 2), ("delta", 2))],
            *[(name, 1.0, 24.0, "B", n) for name, n in (("medium", 3), ("β-3", 2), ("epsilon", 2))],
        ],
        {},
    ),
    "many_components": (
        [
            *_plates("BD"),
            *[(f"alone {i}", 1.0, 24.0, f"A{i % 4}", 2) for i in range(6)],
            *[(f"pair {i}", 1.0, 24.0, plate, 1) for i in range(3) for plate in "EF"],
        ],
        {},
    ),
    "singleton_conditions": (_plates("A", compounds=COMPOUNDS[:3]) + _plates("B", compounds=COMPOUNDS[3:]), {}),
    "conditions_on_many_plates": (
        [(name, 1.0, 24.0, plate, 1 + (i + j) % 3) for i, name in enumerate(("DMSO", "x", "y")) for j, plate in enumerate("HGFEDCBA")],
        {},
    ),
    "plates_of_one_sample": ([*_plates("AB"), *[(c, 1.5, 24.0, p, 1) for c, p in zip((*COMPOUNDS[:2], "alone"), "CDE", strict=True)]], {}),
    "separate_replicates": (_plates("ABC"), SEPARATE),
    "separate_replicates_of_one_plate": (_plates("A", controls=6) + _plates("A"), SEPARATE),
    "times_with_and_without_controls": (
        _plates("AB", 6) + _plates("AB", 24) + [("DMSO", 0.0, 48.0, "A", 2), ("delta", 1.5, 72.0, "B", 2)],
        {"without_controls": "fit"},
    ),
    "several_control_labels": ([*_plates("AB"), ("medium", 0.0, 24.0, "A", 2), ("medium", 0.0, 24.0, "B", 2)], {}),
    "many_doses": ([(c, d, 24.0, p, 2) for c in COMPOUNDS[:3] for d in (0.1, 1.0, 10.0) for p in "AB"] + _plates("AB"), {}),
    "genes_without_counts": (_plates("AB"), {}),
    "depths_far_apart": (_plates("ABC"), {}),
    "tied_counts": (_plates("ABC"), {}),
    "three_genes_left": (_plates("ABC"), {}),
    "one_residual_df": ([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 1)], {}),
    "three_residual_df": ([("DMSO", 0.0, 24.0, "A", 2), ("DMSO", 0.0, 24.0, "B", 2), ("x", 1.0, 24.0, "A", 2)], {}),
    "normalized": (_plates("ABC"), NORMALIZED),
    "normalized_separate": (_plates("ABC"), NORMALIZED | SEPARATE),
    "normalized_float32": (_plates("ABC"), NORMALIZED),
    "normalized_five_genes": (_plates("AB"), NORMALIZED),
    "normalized_one_gene": (_plates("AB"), NORMALIZED),
    "normalized_equal_variances": (_plates("AB"), NORMALIZED),
    "normalized_constant_genes": (_plates("AB"), NORMALIZED),
    "normalized_one_residual_df": ([("DMSO", 0.0, 24.0, "A", 2), ("x", 1.0, 24.0, "A", 1)], NORMALIZED),
    "normalized_with_missing_values": (_plates("ABC"), NORMALIZED),
    "normalized_half_missing": (_plates("ABC"), NORMALIZED),
    "normalized_half_missing_separate": (_plates("ABC"), NORMALIZED | SEPARATE),
    "normalized_half_missing_disconnected": (LONELY, NORMALIZED),
    "normalized_few_residual_df": (_plates("AB"), NORMALIZED),
    "normalized_without_its_first_plate": (_plates("ABC"), NORMALIZED),
}


def _first_of_each(samples: ad.AnnData) -> np.ndarray:
    """One sample of each condition, which leaves no residual degree of freedom."""
    return ~samples.obs["perturbagen"].duplicated().to_numpy()


def _samples(name: str, simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    wells, options = SHAPES[name]
    n_genes = {"normalized_five_genes": 5, "normalized_one_gene": 1}.get(name, 120)
    samples = simulate(wells, seed=len(name), normalized=options.get("normalized", False), n_genes=n_genes)
    rng = np.random.default_rng(1)
    values, plate, control = samples.X, samples.obs["plate"].to_numpy(), samples.obs["is_control"].to_numpy()
    match name:
        case "genes_without_counts":
            values[:, ::3] = 0
        case "depths_far_apart":
            values[:] = np.round(values * rng.choice([0.02, 1, 30], (len(values), 1)))
            values[:, 0] += 1
        case "tied_counts":
            values[:] = np.minimum(values // 10, 4) * 10
        case "three_genes_left":
            values[:, 3:] = 0
            values[:, :3] += 20
        case "normalized_float32":
            samples.X = values.astype(np.float32)
        case "normalized_equal_variances":
            values[:] = rng.normal(size=values.shape)
        case "normalized_constant_genes":
            values[:, :3] = 0
        case "normalized_with_missing_values":
            missing = rng.random(values.shape) < 0.05
            missing[:, 0] = plate == "A"  # the reference plate
            missing[:, 1] = samples.obs["perturbagen"] == "delta"  # a condition
            missing[:, 2] = plate != "B"  # all plates but one
            missing[:, 3] = control
            # delta on plate A alone, its controls elsewhere
            missing[:, 4] = (plate == "A") != (samples.obs["perturbagen"] == "delta")
            missing[:, 5] = ~_first_of_each(samples)
            missing[:, 6] = True
            missing[1:, 7] = True
            values[missing] = np.nan
        case "normalized_half_missing" | "normalized_half_missing_separate" | "normalized_half_missing_disconnected":
            values[rng.random(values.shape) < 0.45] = np.nan
        case "normalized_few_residual_df":
            for gene in range(n_genes):
                kept = _first_of_each(samples) | (rng.permutation(len(values)) < 1 + gene % 4)
                values[~kept, gene] = np.nan
        case "normalized_without_its_first_plate":
            values[plate == "A"] = np.nan
    return samples


class Compared(NamedTuple):
    """A stratum's effects with limma's silent values, by our engines and by limma on its own."""

    structured: EffectTable
    limma: EffectTable
    alone: pd.DataFrame


@pytest.fixture(scope="module")
def compared(
    simulate: Callable[..., ad.AnnData], run_oracle: Callable[..., dict[str, pd.DataFrame]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Compared]:
    cases = {name: (_samples(name, simulate), options) for name, (_, options) in SHAPES.items()}
    alone = run_oracle(tmp_path_factory.mktemp("oracle"), cases)
    return {name: Compared(*_by_both_engines(samples, options), alone[name]) for name, (samples, options) in cases.items()}


def _by_both_engines(samples: ad.AnnData, options: dict[str, Any]) -> tuple[EffectTable, EffectTable]:
    structured, limma = (estimate_effects(samples, engine=engine, report_inestimable=True, **options) for engine in ("structured", "limma"))
    return structured, limma


def _close(name: str, ours: Any, theirs: Any, *, absolute: float = 0.0) -> None:
    """|Δ| ≤ 1e-10 (|x| + median |x|) + `absolute`, and the same values missing."""
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=f"missing values of {name}")
    known = ~np.isnan(theirs)
    if known.any():
        ours, theirs = ours[known], theirs[known]
        worst = np.max(np.abs(ours - theirs) - 1e-10 * (np.abs(theirs) + np.median(np.abs(theirs))) - absolute)
        assert worst <= 0, f"{name} is off by {worst} beyond its bound"


LAYERS = ("logFC", "stdev.unscaled", "stdev.scaled", "CI.L", "CI.R", "AveExpr", "t")
PER_GENE = {"sigma": "sigma", "s2_post": "s2.post", "df_residual": "df.residual", "df_total": "df.total"}
P_VALUES = {
    "log10_p": ("P.Value", "P.Value"),
    "log10_adj_p_within": ("adj.P.Value.within_one_contrast", "adj.P.Val"),
    "log10_adj_p_across": ("adj.P.Value.across_all_contrasts", "across"),
}
"""Our name on the log scale → the published name, and the column of the oracle."""


def assert_agrees(table: EffectTable, expected: pd.DataFrame) -> None:
    """Every statistic is that of limma on its own, P values on the log scale, B within 1e-7."""
    shape = (len(table.contrasts), len(table.genes))
    assert expected["contrast"].nunique() == shape[0]
    assert expected["gene"].tolist() == table.genes["ensembl_id"].tolist() * shape[0]
    columns = {name: expected[name].to_numpy().reshape(shape) for name in expected.columns if name not in ("contrast", "gene")}
    columns["stdev.scaled"] = columns["stdev.unscaled"] * np.sqrt(columns["s2.post"])
    for name in LAYERS:
        _close(name, table.layers[name], columns[name])
    _close("B", table.layers["B"], columns["B"], absolute=1e-7)
    for name, (published, column) in P_VALUES.items():
        _close(published, np.log10(table.layers[published]), np.log10(columns[column]), absolute=1e-9)
        _close(name, table.log10_layers[name], np.log10(columns[column]), absolute=1e-9)
    for name, column in PER_GENE.items():
        _close(name, table.genes[name], columns[column][0])


def assert_engines_agree(structured: EffectTable, limma: EffectTable) -> None:
    """Contrasts and filter are the same, every statistic within the bounds of :func:`assert_agrees`."""
    assert (structured.info["engine"], limma.info["engine"]) == ("structured", "limma")
    numbers = ["treated_library_size", "control_library_size"]
    for name in numbers:
        _close(name, structured.contrasts[name], limma.contrasts[name])
    pd.testing.assert_frame_equal(structured.contrasts.drop(columns=numbers), limma.contrasts.drop(columns=numbers))
    pd.testing.assert_frame_equal(structured.filtered_genes, limma.filtered_genes)
    for name in LAYERS:
        _close(name, structured.layers[name], limma.layers[name])
    _close("B", structured.layers["B"], limma.layers["B"], absolute=1e-7)
    for name in P_VALUES:
        _close(name, structured.log10_layers[name], limma.log10_layers[name], absolute=1e-9)
    for name in PER_GENE:
        _close(name, structured.genes[name], limma.genes[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_whole_tables_are_the_same_three_ways(name: str, compared: dict[str, Compared]) -> None:
    structured, limma, alone = compared[name]
    assert_agrees(structured, alone)
    assert_agrees(limma, alone)
    assert_engines_agree(structured, limma)


@pytest.mark.slow
def test_shapes_are_what_their_names_say(compared: dict[str, Compared]) -> None:
    tables = {name: case.structured for name, case in compared.items()}
    designs = {name: table.info["design"] for name, table in tables.items()}
    assert designs["one_plate"]["n_plates"] == 1
    assert designs["plates_nested_in_time"]["n_components"] == 2
    assert designs["disconnected_plates"]["components"] == [["B", "C"], ["Z"], ["A"]]
    assert designs["disconnected_plates"]["n_coefficients"] - designs["disconnected_plates"]["rank"] == 2
    assert designs["plates_nested_in_conditions"]["n_components"] == 2
    assert designs["many_components"]["n_components"] == 6
    assert set(tables["singleton_conditions"].contrasts["n_treated"]) == {1}
    assert set(tables["conditions_on_many_plates"].contrasts["n_plates"]) == {8}
    assert set(tables["several_control_labels"].contrasts["control"]) == {"DMSO", "medium"}
    assert tables["times_with_and_without_controls"].info["dropped"]["conditions_without_controls"] == ["delta_1.5uM_72h"]
    assert tables["times_with_and_without_controls"].info["dropped"]["controls_of_times_without_treated"] == 2
    tested = tables["genes_without_counts"].genes["ensembl_id"].str.slice(4).astype(int)
    assert len(tested) > 40
    assert (tested % 3 != 0).all()
    for name, n_genes in (("three_genes_left", 3), ("normalized_five_genes", 5), ("normalized_one_gene", 1)):
        assert len(tables[name].genes) == n_genes
    assert set(tables["one_residual_df"].genes["df_residual"]) == {1}
    assert set(tables["three_residual_df"].genes["df_residual"]) == {3}
    assert {0, 1, 2, 3} <= set(tables["normalized_few_residual_df"].genes["df_residual"])
    missing = tables["normalized_with_missing_values"]
    assert "ENSG00000000006" not in set(missing.genes["ensembl_id"])
    assert missing.genes.loc[missing.genes["df_residual"] == 0, "ensembl_id"].tolist() == ["ENSG00000000005", "ENSG00000000007"]
    assert np.isnan(missing.layers["t"][:, 3]).all()
    assert 0 < np.isnan(missing.layers["t"]).sum() < missing.layers["t"].size / 10


@pytest.mark.slow
def test_prior_df_are_finite_infinite_and_both_at_once(compared: dict[str, Compared]) -> None:
    def n_infinite(name: str) -> int:
        return compared[name].structured.info["df_prior"]["n_infinite"]

    assert n_infinite("normalized") == 0
    assert n_infinite("normalized_equal_variances") == 120
    both = "plates_nested_in_conditions"
    assert 0 < n_infinite(both) < len(compared[both].structured.genes)
    for case in compared.values():
        for kind in ("df_prior", "s2_prior"):
            ours, theirs = case.structured.info[kind], case.limma.info[kind]
            assert ours["n_infinite"] == theirs["n_infinite"]
            assert ours["median"] == (None if theirs["median"] is None else pytest.approx(theirs["median"], rel=1e-10))


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
    summaries = honest.to_anndata().obs[~estimable]
    assert summaries["n_significant"].eq(0).all()
    assert summaries["mean_abs_t"].isna().all()


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


def _real_samples(values: Any, genes: Any, **obs: Any) -> ad.AnnData:
    frame = pd.DataFrame({name: np.asarray(value) for name, value in obs.items()}).assign(cell_type="CVCL_0001")
    frame.index = pd.Index([f"s{i:04d}" for i in range(len(frame))])
    return ad.AnnData(np.asarray(values), obs=frame, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))


def _macpie(real_data: Path) -> ad.AnnData:
    """A 384-well plate of 3' counts: 27 compounds in three doses and wells, DMSO and medium as controls."""
    folder = real_data / "de_plate_macpie"
    counts = pd.read_csv(folder / "mini_mac_counts.tsv.gz", sep="\t", index_col=0)
    wells = pd.read_csv(folder / "mini_mac_metadata.tsv.gz", sep="\t", index_col=0).loc[counts.columns]
    return _real_samples(
        counts.T.to_numpy(dtype=float),
        counts.index,
        perturbagen=wells["Treatment_1"],
        is_control=wells["Treatment_1"].isin(["DMSO", "Media"]),
        pert_dose_uM=wells["Concentration_1"],
        pert_time_h=wells["Time"].astype(float),
        plate=wells["Plate_ID"],
    )


def _ljp005(real_data: Path) -> ad.AnnData:
    """An L1000 plate of 55 kinase inhibitors in six doses, one well each."""
    with TemporaryDirectory() as native:
        shutil.copy(real_data / "l1000_ljp005_a375_24h" / "test_l1000.gct", native)
        return harmonize("l1000_phase2", Path(native))


def _cpc006_a375(real_data: Path) -> ad.AnnData:
    """An L1000 plate of 355 treated wells, most of them the only one of their compound."""
    with h5py.File(real_data / "l1000_cpc006_a375_6h" / "gctv13_01.gctx") as opened:
        text = {name: opened[f"0/META/COL/{name}"].asstr()[:] for name in ("pert_id", "pert_type", "rna_plate")}
        dose = opened["0/META/COL/exp_pert_dose"][:]
        genes, values = opened["0/META/ROW/id"].asstr()[:], opened["0/DATA/0/matrix"][:]
    return _real_samples(
        values,
        genes,
        perturbagen=text["pert_id"],
        is_control=text["pert_type"] == "CTL_VEHICLE",
        pert_dose_uM=dose.astype(float),
        pert_time_h=6.0,
        plate=text["rna_plate"],
    )


def _cpc006_ht115(real_data: Path) -> ad.AnnData:
    """Two L1000 plates with the same compounds."""
    plates = ad.read_h5ad(real_data / "l1000_cpc006_ht115_6h" / "demo.h5ad")
    return _real_samples(
        plates.X if isinstance(plates.X, np.ndarray) else plates.X.toarray(),
        plates.var_names,
        perturbagen=plates.obs["pert_id"].astype(str),
        is_control=plates.obs["pert_type"] == "ctl_vehicle",
        pert_dose_uM=plates.obs["pert_dose"].astype(float),
        pert_time_h=6.0,
        plate=plates.obs["rna_plate"].astype(str),
    )


def _tggates(real_data: Path) -> ad.AnnData:
    """Microarrays of hepatocytes at 24 h: an experiment, which stands for the plate, holds a compound in up to three doses and controls."""
    folder = real_data / "tggates_small"
    values = pd.read_csv(folder / "expr.tsv.gz", sep="\t", index_col=0)
    sheet = pd.read_csv(folder / "pheno.tsv.gz", sep="\t", dtype=str).set_index("samplename").loc[values.columns]
    day = (sheet["duration"] == "24").to_numpy()
    sheet, values = sheet[day], values.loc[:, day]
    control = sheet["dose_level"] == "Control"
    return _real_samples(
        values.T.to_numpy(),
        values.index,
        perturbagen=sheet["treatmentid"].mask(control, "vehicle"),
        is_control=control,
        pert_dose_uM=sheet["dose_level"].map({"Control": 0.0, "Low": 1.0, "Middle": 2.0, "High": 3.0}),
        pert_time_h=24.0,
        plate=sheet["exp_id"],
    )


REAL: dict[str, tuple[Callable[[Path], ad.AnnData], dict[str, Any]]] = {
    "macpie": (_macpie, {}),
    "macpie_separate": (_macpie, SEPARATE),
    "ljp005": (_ljp005, NORMALIZED),
    "cpc006_a375": (_cpc006_a375, NORMALIZED),
    "cpc006_ht115": (_cpc006_ht115, NORMALIZED),
    "cpc006_ht115_separate": (_cpc006_ht115, NORMALIZED | SEPARATE),
    "tggates": (_tggates, NORMALIZED),
}


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_both_engines_agree_on_real_designs(name: str, real_data: Path) -> None:
    read, options = REAL[name]
    structured, limma = _by_both_engines(read(real_data), options)
    assert_engines_agree(structured, limma)
    assert np.isfinite(structured.layers["t"]).all()


@pytest.mark.slow
@pytest.mark.real_data
def test_real_designs_are_what_they_are_here_for(real_data: Path) -> None:
    designs = {name: build_design(read(real_data).obs) for name, (read, options) in REAL.items() if "replicates" not in options}
    shapes = {name: (len(design.rows), len(design.contrasts), len(design.plates), design.rank) for name, design in designs.items()}
    assert shapes == {
        "macpie": (308, 162, 1, 83),
        "ljp005": (354, 328, 1, 329),
        "cpc006_a375": (371, 355, 1, 356),
        "cpc006_ht115": (681, 355, 2, 357),
        "tggates": (1012, 361, 146, 507),
    }


@pytest.mark.slow
@pytest.mark.real_data
def test_real_counts_agree_three_ways_and_with_biology(
    real_data: Path, run_oracle: Callable[..., dict[str, pd.DataFrame]], tmp_path: Path
) -> None:
    cases: dict[str, tuple[ad.AnnData, dict[str, Any]]] = {"airway": (_airway(real_data), {}), "t47d": (_t47d(real_data), {})}
    alone = run_oracle(tmp_path, cases)
    tables = {}
    for name, (samples, options) in cases.items():
        tables[name], limma = _by_both_engines(samples, options)
        assert_agrees(tables[name], alone[name])
        assert_engines_agree(tables[name], limma)
    # glucocorticoid response: DUSP1, KLF15, CRISPLD2 and PER1 rise
    airway = pd.Series(tables["airway"].layers["t"][0], index=tables["airway"].genes["ensembl_id"])
    assert airway[["ENSG00000120129", "ENSG00000163884", "ENSG00000103196", "ENSG00000179094"]].min() > 8
    # oestrogen response in the wild type against its own vehicle: GREB1, PGR and TFF1 rise
    t47d = tables["t47d"]
    wild_type = t47d.contrasts.index[(t47d.contrasts["perturbagen"] == "E2_WT") & (t47d.contrasts["control"] == "veh_WT")][0]
    oestrogen = pd.Series(t47d.layers["t"][wild_type], index=t47d.genes["ensembl_id"])
    assert oestrogen[["ENSG00000196208", "ENSG00000082175", "ENSG00000160182"]].min() > 8
