"""The table of effects: what every engine's fit becomes.

Belongs here: the fit that engines return, the contrasts and genes made of it, the layers of a table that fits into memory, and its
AnnData form. Does not belong here: fitting (``limma.py``, ``structured.py``), layers of tables of any size (``streaming.py``) and files
(``storage.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from perturbridge_dagster.contract import CONTRASTS, GENE_FILTER, GENES
from perturbridge_dagster.effects.design import Design
from perturbridge_dagster.effects.p_values import adjusted_log10_p, log10_p_values

if TYPE_CHECKING:
    import anndata as ad

    from perturbridge_dagster.effects.filter import GeneFilter

SIGNIFICANT = 0.05
"""Adjusted P value, within the contrast, below which a gene counts as significant."""

Array = NDArray[np.float64]
Layers = Mapping[str, NDArray[np.floating[Any]]]

_SUMMARIES = ("n_significant", "mean_abs_t")
"""Fields of ``contract.CONTRASTS`` that need the values of every gene."""


@dataclass(frozen=True)
class ModeratedFit:
    """What an engine returns: the fit after empirical Bayes moderation.

    Attributes
    ----------
    AveExpr, sigma, s2_post, df_residual, df_total
        One value a tested gene: mean log2 expression, residual standard deviation, moderated variance, degrees of freedom.
    tested
        Which of the genes given were tested.
    effects
        Some tested genes → their logFC and its standard deviation without the residual one: contrasts × genes, float64, NaN where the
        fit has none. A block may be fitted again when it is asked for, so ask once.
    log_odds
        t and stdev_unscaled of all contrasts × all tested genes → B, the log-odds of an effect.
    gene_filter
        What the filter saw of each gene given; None for normalized values.
    library_sizes
        One value a fitted sample; None for normalized values. Unit: counts.
    info
        Hyper-parameters and versions, for the record.
    """

    AveExpr: Array
    sigma: Array
    s2_post: Array
    df_residual: Array
    df_total: Array
    tested: NDArray[np.bool_]
    effects: Callable[[slice], tuple[Array, Array]]
    log_odds: Callable[[Array, Array], Array]
    gene_filter: GeneFilter | None
    library_sizes: Array | None
    info: dict[str, Any]


def moderated_t(log_fc: Array, stdev_unscaled: Array, s2_post: Array) -> Array:
    """Moderated t: the effect in units of its standard error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t: Array = log_fc / (stdev_unscaled * np.sqrt(s2_post))
    return t


@dataclass(frozen=True)
class EffectTable:
    """Differential effects of one stratum. Its values are computed when they are asked for.

    Attributes
    ----------
    contrasts
        One row a contrast (``contract.CONTRASTS`` without n_significant and mean_abs_t, which need every value), with ``name``
        "<condition> - <control>" beside the contract's fields.
    genes
        One row a tested gene (``contract.GENES``).
    filtered_genes
        One row a gene given (``contract.GENE_FILTER``).
    info
        Design, level orders, engine, versions, hyper-parameters, what was dropped.
    fit
        What values are computed from; None where they are given.
    reported
        Contrasts × tested genes, or broadcast to it: where the fit's values are reported; NaN elsewhere.
    given
        ``layers`` and ``log10_layers`` where they are in memory already.
    parts
        Tables of which this one is made, contrasts after contrasts, each with the positions of its genes among `genes`.
    """

    contrasts: pd.DataFrame
    genes: pd.DataFrame
    filtered_genes: pd.DataFrame
    info: dict[str, Any]
    fit: ModeratedFit | None
    reported: NDArray[np.bool_]
    given: tuple[Layers, Layers] = ({}, {})
    parts: tuple[tuple[EffectTable, NDArray[np.intp]], ...] = ()

    @classmethod
    def from_layers(
        cls, contrasts: pd.DataFrame, genes: pd.DataFrame, layers: Layers, log10_layers: Layers, info: dict[str, Any]
    ) -> EffectTable:
        """A table whose values are in memory already.

        Parameters
        ----------
        contrasts, genes
            Tables of the contract; all genes count as tested.
        layers, log10_layers
            Contrasts × genes, those wanted.
        info
            The record.
        """
        filtered = genes.assign(kept=True).reindex(columns=GENE_FILTER.names)
        contrasts = contrasts.drop(columns=[name for name in _SUMMARIES if name in contrasts])
        return cls(contrasts, genes, filtered, info, None, np.ones((1, 1), dtype=bool), (layers, log10_layers))

    @property
    def layers(self) -> Layers:
        """Contrasts × genes, float64, by published name, all in memory.

        logFC, stdev.unscaled, stdev.scaled, CI.L, CI.R, AveExpr, t, P.Value, adj.P.Value.within_one_contrast,
        adj.P.Value.across_all_contrasts, B. NaN where a contrast is not estimable for a gene.
        """
        return self._dense[0]

    @property
    def log10_layers(self) -> Layers:
        """log10_p, log10_adj_p_within, log10_adj_p_across: P values on the scale on which they are stored, which does not underflow."""
        return self._dense[1]

    @cached_property
    def _dense(self) -> tuple[Layers, Layers]:
        if self.fit is not None:
            return _layers(self.fit, self.reported, self.genes["t_975"].to_numpy(dtype=float))
        return _joined_layers(self.parts, len(self.genes)) if self.parts else self.given

    def rows(self, step: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Stored layers, some contrasts at a time, in bounded memory.

        What was computed lies in the system's temporary folder meanwhile.

        Parameters
        ----------
        step
            Contrasts at a time.

        Yields
        ------
        dict
            One float32 array (contrasts × all genes) a layer of ``storage.LAYERS``.
        """
        from perturbridge_dagster.effects.streaming import GENES_AT_A_TIME, EffectStream, Tiles

        tiles = Tiles(len(self.contrasts), len(self.genes), step, GENES_AT_A_TIME)
        with EffectStream(self, tiles) as stream:
            row: list[dict[str, NDArray[np.float32]]] = []
            for _, genes, layers in stream:
                row.append(layers)
                if genes.stop == len(self.genes):
                    yield {name: np.concatenate([tile[name] for tile in row], axis=1) for name in layers}
                    row = []

    def to_anndata(self) -> ad.AnnData:
        """The table in the published form: contrasts × genes, no X, one layer a statistic; ``uns["info"]`` holds the record."""
        import json

        import anndata as ad

        n_significant = (self.log10_layers["log10_adj_p_within"] < np.log10(SIGNIFICANT)).sum(axis=1)
        obs = with_summaries(self.contrasts, n_significant, *sums_of_abs_t(self.layers["t"]))
        obs = obs.set_index("name").rename_axis(None)
        var = self.genes.set_index("ensembl_id")
        # h5ad takes text with missing values, or without any value, only as a category
        obs, var = (
            frame.astype({field.name: "category" for field in table if field.type == "string" and field.name in frame})
            for frame, table in ((obs, CONTRASTS), (var, GENES))
        )
        effects = ad.AnnData(obs=obs, var=var, layers={name: np.array(layer) for name, layer in self.layers.items()})
        effects.uns["info"] = json.dumps(self.info)
        return effects


def sums_of_abs_t(t: NDArray[np.floating[Any]]) -> tuple[Array, NDArray[np.int64]]:
    """Sum of the absolute t of each contrast over genes, and the number of genes that have one."""
    known = ~np.isnan(t)
    return np.sum(np.abs(t), axis=1, where=known, dtype=np.float64), np.count_nonzero(known, axis=1).astype(np.int64)


def with_summaries(contrasts: pd.DataFrame, n_significant: NDArray[np.int64], sum_abs_t: Array, n_known: NDArray[np.int64]) -> pd.DataFrame:
    """Contrasts with what needs the values of every gene, in the order of the contract."""
    mean_abs_t = np.where(n_known, sum_abs_t / np.maximum(n_known, 1), np.nan)
    made = contrasts.assign(n_significant=n_significant, mean_abs_t=mean_abs_t)
    return made[[name for name in ("name", *CONTRASTS.names) if name in made]]


def _layers(fit: ModeratedFit, reported: NDArray[np.bool_], t_975: Array) -> tuple[Layers, Layers]:
    """Published layers and log10 P layers; NaN where nothing is to be reported."""
    log_fc, unscaled = fit.effects(slice(0, len(fit.df_total)))
    t = moderated_t(log_fc, unscaled, fit.s2_post)
    b = fit.log_odds(t, unscaled)
    log_fc, unscaled, t, b = (np.where(reported, layer, np.nan) for layer in (log_fc, unscaled, t, b))
    scaled = unscaled * np.sqrt(fit.s2_post)
    margin = scaled * t_975
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


def spread_genes(values: NDArray[Any], genes: NDArray[np.intp], n_genes: int) -> NDArray[Any]:
    """Values of some genes among all of them; NaN for the others."""
    spread = np.full((len(values), n_genes), np.nan, dtype=values.dtype)
    spread[:, genes] = values
    return spread


def _joined_layers(parts: Sequence[tuple[EffectTable, NDArray[np.intp]]], n_genes: int) -> tuple[Layers, Layers]:
    """Layers of tables one below the other."""

    def joined(kind: str) -> Layers:
        names = getattr(parts[0][0], kind)
        return {name: np.concatenate([spread_genes(getattr(part, kind)[name], genes, n_genes) for part, genes in parts]) for name in names}

    return joined("layers"), joined("log10_layers")


def join_tables(tables: Sequence[EffectTable], batches: Sequence[str], info: dict[str, Any]) -> EffectTable:
    """Tables of batches of one stratum as one table, contrasts after contrasts.

    Each batch was filtered, fitted and adjusted by itself: a gene that a batch did not test is null there, and what a fit knows of a gene
    is null beside the joined table, since the batches do not agree on it; ``info["batches"]`` has the record of each.

    Parameters
    ----------
    tables
        One or more, of one stratum and the same genes given.
    batches
        Name of each, for the contrasts' field ``processing_batch``.
    info
        The record.
    """
    given = tables[0].filtered_genes
    kept = np.logical_or.reduce([table.filtered_genes["kept"].to_numpy() for table in tables])
    unknown = pd.array([pd.NA] * len(given), dtype="Int64")
    filtered = given.assign(kept=kept, support=unknown, total_count=unknown)
    genes = filtered[kept].reset_index(drop=True)
    genes = genes.assign(gene=np.arange(len(genes), dtype=np.int32)).reindex(columns=GENES.names)
    positions = pd.Index(genes["ensembl_id"])
    named = zip(tables, batches, strict=True)
    contrasts = pd.concat([table.contrasts.assign(processing_batch=name) for table, name in named], ignore_index=True)
    contrasts = contrasts.assign(contrast=np.arange(len(contrasts), dtype=np.int32), name=_unique(contrasts["name"]))
    parts = tuple((table, positions.get_indexer(table.genes["ensembl_id"])) for table in tables)
    record = info | {"batches": {name: table.info for table, name in zip(tables, batches, strict=True)}}
    return EffectTable(contrasts, genes, filtered, record, None, np.ones((1, 1), dtype=bool), parts=parts)


def _unique(names: pd.Series[str]) -> pd.Series[str]:
    """Names made unique: the second of two equal ones ends in ``.1``."""
    from anndata.utils import make_index_unique

    return pd.Series(make_index_unique(pd.Index(names), join="."), index=names.index)


def _contrasts(fit: ModeratedFit, design: Design, dataset: str | None, stratum: str, cell_type: str) -> pd.DataFrame:
    """One row a contrast, without what depends on the values of genes."""
    conditions = design.conditions.reindex(columns=list(dict.fromkeys([*design.conditions, "plates", "component"])))
    conditions["library_size"] = (
        np.nan if fit.library_sizes is None else pd.Series(fit.library_sizes).groupby(design.condition).median().reindex(conditions.index)
    )
    treated = conditions.loc[design.contrasts["treated"]].reset_index(drop=True)
    control = conditions.loc[design.contrasts["control"]].reset_index(drop=True)
    contrasts = treated.assign(
        name=_unique(treated["name"] + " - " + control["name"]),
        contrast=np.arange(len(treated), dtype=np.int32),
        dataset=dataset,
        stratum=stratum,
        cell_type=cell_type,
        control=control["perturbagen"],
        n_treated=treated["n_samples"],
        n_controls=control["n_samples"],
        control_plates=control["plates"],
        component=treated["component"].astype("Int32"),
        control_component=control["component"].astype("Int32"),
        treated_library_size=treated["library_size"],
        control_library_size=control["library_size"],
        df_residual=float(len(design.rows) - design.rank),
        processing_batch=None,
        estimable=design.contrasts["estimable"],
    )
    return contrasts[["name", *(name for name in CONTRASTS.names if name not in _SUMMARIES)]]


def _filtered_genes(fit: ModeratedFit, var: pd.DataFrame, symbols: NDArray[np.object_] | None) -> pd.DataFrame:
    """One row a gene given."""
    counted = fit.gene_filter
    unknown = pd.array([pd.NA] * len(var), dtype="Int64")
    return pd.DataFrame(
        {
            "ensembl_id": var.index.astype(str).to_numpy(),
            "symbol": symbols,
            "total_count": unknown if counted is None else pd.array(counted.total_count, dtype="Int64"),
            "support": unknown if counted is None else pd.array(counted.support, dtype="Int64"),
            "kept": fit.tested,
        },
        columns=GENE_FILTER.names,
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
    filtered = _filtered_genes(fit, var, var["symbol"].astype(object).to_numpy() if "symbol" in var else None)
    genes = filtered.loc[fit.tested, ["ensembl_id", "symbol", "support"]].reset_index(drop=True)
    genes = genes.assign(
        gene=np.arange(len(genes), dtype=np.int32),
        AveExpr=fit.AveExpr,
        sigma=fit.sigma,
        s2_post=fit.s2_post,
        df_residual=fit.df_residual,
        df_total=fit.df_total,
        t_975=special.stdtrit(fit.df_total, 0.975),
    )
    contrasts = _contrasts(fit, design, dataset, stratum, cell_type)
    return EffectTable(contrasts, genes[GENES.names], filtered, info | fit.info, fit, reported)
