"""Writes samples and effects as the published release has them, from samples and fits of ours.

The layout is restated from the fact sheet of the release: categories, the sentinel, labels and their rounding, one row of obs a condition
taken from its first sample, layers without X, batches one below the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.effects import EffectTable, estimate_effects

LAYERS = (
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
)
_TEXTS = {
    "pert_type": "compound",
    "suspension_type": "cell",
    "tissue": "lung",
    "tissue_type": "cell culture",
    "disease": "normal",
    "library": None,
    "stimulation": None,
    "guide": None,
    "dataset": "A data set, by its title",
    "assay": "an assay",
    "development_stage": "unknown",
    "organism": "human",
    "sex": "unknown",
    "self_reported_ethnicity": "unknown",
}


def labels(obs: pd.DataFrame, *, separate: bool = False) -> pd.Series[Any]:
    """Perturbation labels of samples, replicates grouped or separate. One dose of more than four decimals has all rounded half up."""
    dose = obs["pert_dose_uM"].to_numpy(dtype=float)
    if any(len(f"{value:.15g}".partition(".")[2]) > 4 for value in np.unique(dose)):
        dose = np.floor(dose * 1e4 + 0.5) / 1e4
    time = obs["pert_time_h"].map("{:.15g}h".format)
    treated = obs["perturbagen"].astype(str) + "_" + pd.Series(dose, obs.index).map("{:.15g}uM".format) + "_" + time
    if separate:
        treated = treated + "_" + obs["well"].astype(str) + "_" + obs["plate"].astype(str)
    return treated.where(~obs["is_control"].astype(bool), obs["perturbagen"].astype(str) + "_" + time)


def published_obs(samples: ad.AnnData, *, cells: bool, separate: bool = False) -> pd.DataFrame:
    """Obs as the release stores it."""
    obs = samples.obs
    counts = np.asarray(samples.X.sum(axis=1)).ravel().astype(np.int64)
    stored = pd.DataFrame(
        {
            "plate": obs["plate"],
            "well": obs["well"],
            "cell_type": obs["cell_type"],
            "perturbagen": obs["perturbagen"],
            "is_control": pd.Categorical(obs["is_control"].astype(bool), categories=[False, True]),
            "pert_dose_uM": obs["pert_dose_uM"].astype(float),
            "pert_time_h": obs["pert_time_h"].astype(float),
            **_TEXTS,
            "pubchem_cid": pd.Categorical(obs["pubchem_cid"].astype(object).where(obs["pubchem_cid"].notna(), None)),
            "psbulk_cells": obs["psbulk_cells"].to_numpy() if cells else np.int64(-666),
            "psbulk_counts": counts if cells else np.int64(-666),
            "perturbation_label": labels(obs, separate=separate),
        },
        index=pd.Index(obs.index, name="sample_id"),
    )
    return stored.astype({name: "category" for name in stored if stored[name].dtype == object})


def write_samples(file: Path, samples: ad.AnnData, *, cells: bool = False) -> None:
    """Write harmonized samples as published."""
    file.parent.mkdir(parents=True, exist_ok=True)
    var = pd.DataFrame(
        {"symbol": pd.Categorical(samples.var["symbol"]), "is_merged": False}, index=pd.Index(samples.var_names, name="ensembl_id")
    )
    matrix = sparse.csr_matrix(np.asarray(samples.X, dtype=np.int64))
    ad.AnnData(matrix, obs=published_obs(samples, cells=cells), var=var).write_h5ad(file)


def clean(label: str) -> str:
    """A label as R's model names it, in a locale of Unicode."""
    return "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in label)


def fit_as_published(samples: ad.AnnData, *, separate: bool = False, **options: Any) -> EffectTable:
    """Fit samples by the conditions of the release: its labels, whatever compound and dose they stand for."""
    given = samples.copy()
    label = labels(given.obs, separate=separate)
    treated = ~given.obs["is_control"].astype(bool)
    given.obs["perturbagen"] = label.map(clean).where(treated, given.obs["perturbagen"].astype(str))
    given.obs["pubchem_cid"] = pd.array([pd.NA] * len(given), dtype="Int64")
    given.obs["pert_dose_uM"] = treated.astype(float)
    return estimate_effects(given, **({"engine": "limma"} | options))


def published_effects(table: EffectTable, samples: ad.AnnData, var: pd.DataFrame, *, cells: bool, separate: bool = False) -> ad.AnnData:
    """Effects of one fit as the release's R writes them."""
    obs = published_obs(samples, cells=cells, separate=separate)
    first = obs.assign(id=obs.index, clean=obs["perturbation_label"].astype(str).map(clean)).drop_duplicates("clean").set_index("clean")
    found = first.loc[table.contrasts["perturbagen"]]
    time = table.contrasts["pert_time_h"].map("{:.15g}h".format)
    control = (table.contrasts["control"] + "_" + time).map(clean)
    found.index = pd.Index(table.contrasts["perturbagen"].to_numpy() + " - " + control.to_numpy())
    layers = {name: np.array(table.layers[name]) for name in LAYERS}
    genes = var.loc[table.genes["ensembl_id"]]
    symbols = pd.DataFrame({"symbol": pd.Categorical(genes["symbol"]), "is_merged": False}, index=pd.Index(genes.index, name="ensembl_id"))
    uns = {"threshold_filter_cells": 0, "qc_filtering_enabled": False}
    return ad.AnnData(obs=found, var=symbols, layers=layers, uns=uns)


def aggregated(batches: Mapping[str, ad.AnnData]) -> ad.AnnData:
    """Batches one below the other as the release aggregates them: all genes, NaN where a batch did not test one, names repeated."""
    genes = pd.Index(dict.fromkeys(gene for batch in batches.values() for gene in batch.var_names), name="ensembl_id")
    var = pd.concat([batch.var for batch in batches.values()])
    var = var[~var.index.duplicated()].loc[genes].assign(is_merged=False)
    obs = pd.concat([batch.obs.assign(processing_batch=name) for name, batch in batches.items()])
    obs = obs.astype({name: "category" for name in obs if obs[name].dtype == object})
    layers = {}
    for name in LAYERS:
        parts = []
        for batch in batches.values():
            wide = np.full((batch.n_obs, len(genes)), np.nan)
            wide[:, genes.get_indexer(batch.var_names)] = batch.layers[name]
            parts.append(wide)
        layers[name] = np.concatenate(parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique")
        return ad.AnnData(obs=obs, var=var, layers=layers)


def write_effects_file(file: Path, effects: ad.AnnData, *, dtype: type = np.float64) -> Path:
    """Write a file of effects as published: no X in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # rows of the release are not unique where padding has fitted a condition twice
        warnings.filterwarnings("ignore", message="Observation names are not unique")
        stored = effects.copy()
        for name in LAYERS:
            stored.layers[name] = stored.layers[name].astype(dtype)
        stored.write_h5ad(file)
    return file


def batch_tables(samples: ad.AnnData, members: Sequence[Sequence[str]], **options: Any) -> dict[str, ad.AnnData]:
    """Fit each batch of perturbagens, with all controls, and write it down as the release does."""
    batches = {}
    for number, perturbagens in enumerate(members, 1):
        chosen = (samples.obs["is_control"] | samples.obs["perturbagen"].isin(perturbagens)).to_numpy()
        part = samples[chosen].copy()
        batches[f"batch_{number}"] = published_effects(fit_as_published(part, **options), part, samples.var, cells=False)
    return batches
