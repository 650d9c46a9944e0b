"""Simulated strata, tables of effects without R, and limma run on its own by Rscript."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.effects.filter import GeneFilter
from perturbridge_dagster.effects.table import EffectTable, ModeratedFit, effect_table
from perturbridge_dagster.written import Stamp

CONTROLS = ("DMSO", "medium")

Wells = Sequence[tuple[str, float, float, str, int]]


def _obs(wells: Wells) -> pd.DataFrame:
    rows = [row[:4] for row in wells for _ in range(row[4])]
    obs = pd.DataFrame(rows, columns=["perturbagen", "pert_dose_uM", "pert_time_h", "plate"])
    obs.index = pd.Index([f"s{i:03d}" for i in range(len(obs))], name="sample_id")
    obs["is_control"] = obs["perturbagen"].isin(CONTROLS)
    obs["well"] = [f"A{i}" for i in range(len(obs))]
    obs["pubchem_cid"] = obs["perturbagen"].map({name: i + 1 for i, name in enumerate(sorted(set(obs["perturbagen"])))}).astype("Int64")
    return obs.assign(cell_type="CVCL_0001", dataset="simulated")


@pytest.fixture(scope="session")
def make_obs() -> Callable[[Wells], pd.DataFrame]:
    """Obs of wells given as (perturbagen, dose, time, plate, number of samples)."""
    return _obs


def _simulate(wells: Wells, *, n_genes: int = 120, seed: int = 0, normalized: bool = False) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = _obs(wells)
    mean = rng.normal(4, 2, n_genes)
    mean = mean + rng.normal(0, 0.5, (obs["plate"].nunique(), n_genes))[pd.factorize(obs["plate"])[0]]
    effect = rng.normal(0, 1, (obs["perturbagen"].nunique(), n_genes)) * (rng.random(n_genes) < 0.3)
    log_mean = mean + effect[pd.factorize(obs["perturbagen"])[0]]
    if normalized:
        values = log_mean + rng.normal(0, rng.gamma(4, 0.1, n_genes), log_mean.shape)
    else:
        depth = rng.uniform(0.5, 2, (len(obs), 1))
        expected = depth * 2**log_mean
        values = rng.negative_binomial(5, 5 / (5 + expected)).astype(float)
    var = pd.DataFrame({"symbol": [f"GENE{i}" for i in range(n_genes)]}, index=[f"ENSG{i:011d}" for i in range(n_genes)])
    return ad.AnnData(values, obs=obs, var=var)


@pytest.fixture(scope="session")
def simulate() -> Callable[..., ad.AnnData]:
    """Simulated samples of wells: negative binomial counts, or normal values."""
    return _simulate


def _run_oracle(folder: Path, cases: dict[str, tuple[ad.AnnData, dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    """topTable of each case by tests/effects/oracle.R, in one Rscript call. Conditions are labelled here anew."""
    for name, (samples, options) in cases.items():
        obs = samples.obs
        label = obs["perturbagen"].astype(str) + "_" + obs["pert_time_h"].map("{:g}h".format)
        label = label.where(obs["is_control"], label + "_" + obs["pert_dose_uM"].map("{:g}uM".format))
        if options.get("replicates") == "separate":
            label = label.where(obs["is_control"], label + "_" + obs.index)
        treated_times = set(obs.loc[~obs["is_control"], "pert_time_h"])
        fitted = (~obs["is_control"] | obs["pert_time_h"].isin(treated_times)).to_numpy()
        sheet = obs.assign(condition=label, normalized=options.get("normalized", False))[fitted]
        first = sheet.drop_duplicates("condition").sort_values("condition")
        pairs = [
            (treated.condition, control.condition)
            for treated in first[~first["is_control"]].itertuples()
            for control in first[first["is_control"]].itertuples()
            if treated.pert_time_h == control.pert_time_h
        ]
        case = folder / name
        case.mkdir()
        values = np.asarray(samples.X, dtype=np.float64)[fitted].T
        pd.DataFrame(values, index=samples.var_names, columns=sheet.index).to_csv(case / "values.tsv", sep="\t", na_rep="NA")
        sheet[["condition", "plate", "normalized"]].to_csv(case / "samples.tsv", sep="\t")
        pd.DataFrame(pairs, columns=["treated", "control"]).to_csv(case / "contrasts.tsv", sep="\t", index=False)
    oracle = Path(__file__).with_name("oracle.R")
    done = subprocess.run(["Rscript", "--vanilla", oracle, *(folder / name for name in cases)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: pd.read_csv(folder / name / "top.tsv", sep="\t") for name in cases}


@pytest.fixture(scope="session")
def run_oracle() -> Callable[[Path, dict[str, tuple[ad.AnnData, dict[str, Any]]]], dict[str, pd.DataFrame]]:
    """limma run on its own: folder and cases → topTable of all contrasts of each."""
    return _run_oracle


@pytest.fixture(scope="session")
def dense_design() -> Callable[[EffectTable, pd.DataFrame], np.ndarray]:
    """Indicator columns of all conditions and all plates of a table's fit, one row a fitted sample: one column too many a component."""

    def make(table: EffectTable, obs: pd.DataFrame) -> np.ndarray:
        design = build_design(obs, replicates=table.info["replicates"])
        assert table.info["design"] == design.describe()
        codes = ((design.condition, len(design.conditions)), (design.plate, len(design.plates)))
        return np.hstack([code[:, np.newaxis] == np.arange(n) for code, n in codes]).astype(float)

    return make


@pytest.fixture(scope="session")
def stamp() -> Stamp:
    """A stamp of condition_effects."""
    return Stamp("condition_effects", "1", "0" * 64, ("simulated",), "open")


@pytest.fixture(scope="session")
def make_fit() -> Callable[[np.ndarray, np.ndarray], ModeratedFit]:
    """A fit without R of given logFC and its unscaled standard deviation (contrasts × genes); refuses to give a gene twice."""

    def make(log_fc: np.ndarray, unscaled: np.ndarray) -> ModeratedFit:
        n_genes = log_fc.shape[1]
        rng = np.random.default_rng(n_genes)
        scale = rng.gamma(4, 0.1, n_genes)
        return ModeratedFit(
            AveExpr=rng.normal(5, 2, n_genes),
            sigma=scale,
            s2_post=scale**2,
            df_residual=np.full(n_genes, 5.0),
            df_total=rng.choice([9.0, 14.5, 400.0], n_genes),
            tested=np.ones(n_genes, dtype=bool),
            effects=lambda genes: (log_fc[:, genes], unscaled[:, genes]),
            log_odds=lambda t, unscaled: np.log(np.abs(t) + unscaled),
            gene_filter=GeneFilter(np.ones(n_genes, bool), np.full(n_genes, 3), np.full(n_genes, 70), 2.0, 1.5),
            library_sizes=None,
            info={"engine": "none"},
        )

    return make


@pytest.fixture(scope="session")
def make_table(make_fit: Callable[[np.ndarray, np.ndarray], ModeratedFit]) -> Callable[[int, int], EffectTable]:
    """A table of random effects (contrasts, genes) made without R; the last contrast is not estimable."""

    def make(n_contrasts: int, n_genes: int) -> EffectTable:
        rng = np.random.default_rng(n_contrasts * 1000 + n_genes)
        wells = [(f"c{i:04d}", 1.0, 24.0, "A", 2) for i in range(n_contrasts - 1)] + [("last", 1.0, 24.0, "alone", 2)]
        obs = _obs([("DMSO", 0.0, 24.0, "A", 3), *wells])
        design = build_design(obs)
        log_fc = 0.6 * rng.standard_t(5, (n_contrasts, n_genes))
        fit = make_fit(log_fc, rng.uniform(0.5, 1, log_fc.shape))
        fit = dataclasses.replace(fit, library_sizes=1e6 + np.arange(len(obs), dtype=float))
        var = pd.DataFrame({"symbol": [f"GENE{i}" for i in range(n_genes)]}, index=[f"ENSG{i:011d}" for i in range(n_genes)])
        return effect_table(
            fit,
            design,
            var,
            dataset="simulated",
            stratum="CVCL_0001",
            cell_type="CVCL_0001",
            reported=design.contrasts["estimable"].to_numpy()[:, np.newaxis],
            info={"design": design.describe()},
        )

    return make
