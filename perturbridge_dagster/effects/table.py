"""The table of effects: what every engine's fit becomes.

Belongs here: the fit that engines return, the layers, contrasts and genes made of it, and its AnnData form. Does not belong here:
fitting (``limma.py``) and files (``storage.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from perturbridge_dagster.contract import CONTRASTS, GENES
from perturbridge_dagster.effects.design import Design
from perturbridge_dagster.effects.p_values import adjusted_log10_p, log10_p_values

if TYPE_CHECKING:
    import anndata as ad

SIGNIFICANT = 0.05
"""Adjusted P value, within the contrast, below which a gene counts as significant."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ModeratedFit:
    """What an engine returns: the fit after empirical Bayes moderation.

    Attributes
    ----------
    logFC, stdev_unscaled, t, B
        Contrasts × genes: effect (log2), its standard deviation without the residual one, moderated t, log-odds of an effect.
        NaN where the fit has none.
    AveExpr, sigma, s2_post, df_residual, df_total
        One value a tested gene: mean log2 expression, residual standard deviation, moderated variance, degrees of freedom.
    support
        Samples at or above the filter's cut-off, one value a tested gene; None without a filter.
    tested
        Which of the genes given were tested.
    info
        Hyper-parameters and versions, for the record.
    """

    logFC: Array
    stdev_unscaled: Array
    t: Array
    B: Array
    AveExpr: Array
    sigma: Array
    s2_post: Array
    df_residual: Array
    df_total: Array
    support: Array | None
    tested: NDArray[np.bool_]
    info: dict[str, Any]


@dataclass(frozen=True)
class EffectTable:
    """Differential effects of one stratum.

    Attributes
    ----------
    contrasts
        One row a contrast (``contract.CONTRASTS``), with ``name`` "<condition> - <control>" beside the contract's fields.
    genes
        One row a tested gene (``contract.GENES``).
    layers
        Contrasts × genes, float64, by published name: logFC, stdev.unscaled, stdev.scaled, CI.L, CI.R, AveExpr, t, P.Value,
        adj.P.Value.within_one_contrast, adj.P.Value.across_all_contrasts, B. NaN where a contrast is not estimable for a gene.
    log10_layers
        log10_p, log10_adj_p_within, log10_adj_p_across: the P values on the scale on which they are stored, which does not
        underflow.
    info
        Design, level orders, engine, versions, hyper-parameters, what was dropped.
    """

    contrasts: pd.DataFrame
    genes: pd.DataFrame
    layers: dict[str, Array]
    log10_layers: dict[str, Array]
    info: dict[str, Any]

    def to_anndata(self) -> ad.AnnData:
        """The table in the published form: contrasts × genes, no X, one layer a statistic; ``uns["info"]`` holds the record."""
        import json

        import anndata as ad

        obs = self.contrasts.set_index("name").rename_axis(None)
        var = self.genes.set_index("ensembl_id")
        # h5ad takes text with missing values, or without any value, only as a category
        obs, var = (
            frame.astype({field.name: "category" for field in table if field.type == "string" and field.name in frame})
            for frame, table in ((obs, CONTRASTS), (var, GENES))
        )
        effects = ad.AnnData(obs=obs, var=var, layers={name: np.array(layer) for name, layer in self.layers.items()})
        effects.uns["info"] = json.dumps(self.info)
        return effects


def _layers(fit: ModeratedFit, reported: NDArray[np.bool_]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Published layers and log10 P layers; NaN where nothing is to be reported."""
    log_fc, unscaled, t, b = (np.where(reported, layer, np.nan) for layer in (fit.logFC, fit.stdev_unscaled, fit.t, fit.B))
    scaled = unscaled * np.sqrt(fit.s2_post)
    margin = scaled * special.stdtrit(fit.df_total, 0.975)
    log10_p = log10_p_values(t, fit.df_total)
    within = adjusted_log10_p(log10_p)
    across = adjusted_log10_p(log10_p.ravel()).reshape(log10_p.shape)
    layers = {
        "logFC": log_fc,
        "stdev.unscaled": unscaled,
        "stdev.scaled": scaled,
        "CI.L": log_fc - margin,
        "CI.R": log_fc + margin,
        "AveExpr": np.broadcast_to(fit.AveExpr, t.shape),
        "t": t,
        "P.Value": 10**log10_p,
        "adj.P.Value.within_one_contrast": 10**within,
        "adj.P.Value.across_all_contrasts": 10**across,
        "B": b,
    }
    return layers, {"log10_p": log10_p, "log10_adj_p_within": within, "log10_adj_p_across": across}


def _unique(names: pd.Series[str]) -> pd.Series[str]:
    """Names made unique: the second of two equal ones ends in ``.1``."""
    from anndata.utils import make_index_unique

    return pd.Series(make_index_unique(pd.Index(names), join="."), index=names.index)


def _contrasts(design: Design, dataset: str | None, stratum: str, cell_type: str) -> pd.DataFrame:
    """One row a contrast, without what depends on the fit."""
    treated = design.conditions.loc[design.contrasts["treated"]].reset_index(drop=True)
    control = design.conditions.loc[design.contrasts["control"]].reset_index(drop=True)
    return treated.assign(
        name=_unique(treated["name"] + " - " + control["name"]),
        contrast=np.arange(len(treated), dtype=np.int32),
        dataset=dataset,
        stratum=stratum,
        cell_type=cell_type,
        control=control["perturbagen"],
        n_treated=treated["n_samples"],
        n_controls=control["n_samples"],
        estimable=design.contrasts["estimable"],
    )


def effect_table(
    fit: ModeratedFit,
    design: Design,
    var: pd.DataFrame,
    *,
    dataset: str | None,
    stratum: str,
    cell_type: str,
    reported: NDArray[np.bool_],
    info: dict[str, Any],
) -> EffectTable:
    """Make the table of effects of a fit.

    Parameters
    ----------
    fit
        The moderated fit.
    design
        The design it was fitted with.
    var
        Genes given to the engine, indexed by Ensembl id; ``symbol`` is used where there is one.
    dataset, stratum, cell_type
        Whose effects they are.
    reported
        Contrasts × tested genes, or broadcast to it: where a value is reported; NaN elsewhere.
    info
        Record to which the fit's own is added.
    """
    layers, log10_layers = _layers(fit, reported)
    tested = var[fit.tested]
    genes = pd.DataFrame(
        {
            "gene": np.arange(len(tested), dtype=np.int32),
            "ensembl_id": tested.index.astype(str).to_numpy(),
            "symbol": tested["symbol"].astype(object).to_numpy() if "symbol" in tested else None,
            "AveExpr": fit.AveExpr,
            "sigma": fit.sigma,
            "s2_post": fit.s2_post,
            "df_residual": fit.df_residual,
            "df_total": fit.df_total,
            "support": pd.Series(np.full(len(tested), np.nan) if fit.support is None else fit.support, dtype="Int64"),
        },
        columns=GENES.names,
    )
    contrasts = _contrasts(design, dataset, stratum, cell_type)
    known = ~np.isnan(layers["t"])
    n_known = known.sum(axis=1)
    contrasts["n_significant"] = (layers["adj.P.Value.within_one_contrast"] < SIGNIFICANT).sum(axis=1)
    contrasts["mean_abs_t"] = np.where(n_known, np.abs(layers["t"]).sum(axis=1, where=known) / np.maximum(n_known, 1), np.nan)
    return EffectTable(contrasts[["name", *CONTRASTS.names]], genes, layers, log10_layers, info | fit.info)
