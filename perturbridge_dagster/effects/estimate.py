"""From the samples of a stratum to its table of effects.

Belongs here: the walk through design, engine and table, and the options a user has. Does not belong here: how any step works.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.effects.design import Design, Replicates, build_design
from perturbridge_dagster.effects.limma import fit_limma
from perturbridge_dagster.effects.strata import STRATUM_KEY
from perturbridge_dagster.effects.table import EffectTable, effect_table
from perturbridge_dagster.errors import InputError, NotEstimableError

if TYPE_CHECKING:
    import anndata as ad

log = logging.getLogger("perturbridge")

_AVAILABLE = {
    "replicates": ("grouped", "separate"),
    "engine": ("limma",),
    "fit": ("whole_stratum",),
    "gene_filter": ("edgeR",),
    "standard_errors": ("limma",),
}


def _only_value(samples: ad.AnnData, field: str) -> str:
    """The one value of an obs field."""
    values = sorted({str(value) for value in samples.obs[field].dropna().unique()})
    if len(values) != 1:
        raise InputError(
            f"{len(values)} values of {field} ({', '.join(values[:5])}); one stratum is fitted at a time",
            column=field,
            advice="Use split_strata first.",
        )
    return values[0]


def _values(samples: ad.AnnData, design: Design, normalized: bool, dataset: str | None) -> NDArray[np.float64]:
    """Fitted samples × genes, dense; raises where a value cannot be a count or a log2 value."""
    matrix = (samples.to_memory() if samples.isbacked else samples).X
    if matrix is None:
        raise InputError("X is empty; it must hold counts or normalized values", dataset=dataset)
    rows = matrix[design.rows]
    dense = np.asarray(rows.toarray() if sparse.issparse(rows) else rows, dtype=np.float64)
    bad = np.isinf(dense) if normalized else ~np.isfinite(dense) | (dense < 0)
    if bad.any():
        raise InputError(
            f"not every value of X is a {'log2 value' if normalized else 'count'}; {bad.sum():,} are not",
            dataset=dataset,
            rows=list(samples.obs_names[design.rows[bad.any(axis=1)]]),
            expected="finite values or NaN" if normalized else "finite values of 0 or more",
        )
    empty = np.flatnonzero(dense.sum(axis=1) == 0)
    if not normalized and len(empty):
        raise InputError(
            f"samples without any count have no library size; {len(empty):,} of {len(dense):,} are such",
            dataset=dataset,
            rows=list(samples.obs_names[design.rows[empty]]),
            advice="Drop them in the reader with a rule of the reconciliation.",
        )
    return dense


def _estimable_by_gene(design: Design, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Contrasts × genes: which contrasts can be estimated from the samples in which the gene is not missing."""
    patterns, pattern_of_gene = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    return np.column_stack([design.estimable(present) for present in patterns.T])[:, pattern_of_gene]


def estimate_effects(
    samples: ad.AnnData,
    *,
    replicates: Replicates = "grouped",
    normalized: bool = False,
    min_cells: int = 0,
    engine: Literal["limma"] = "limma",
    fit: Literal["whole_stratum"] = "whole_stratum",
    gene_filter: Literal["edgeR"] = "edgeR",
    standard_errors: Literal["limma"] = "limma",
    report_inestimable: bool = False,
) -> EffectTable:
    """Differential effects of one stratum: every treated condition against each vehicle of the same time, plates adjusted for.

    Parameters
    ----------
    samples
        Harmonized samples of one cell context: X samples × genes, counts or normalized log2 values.
    replicates
        ``"grouped"``: replicates of a condition are fitted together; ``"separate"``: each replicate has its own effect.
    normalized
        Whether X holds normalized log2 values (then no filter, no voom, and a variance trend) rather than counts.
    min_cells
        Samples of fewer cells take no part. Unit: cells.
    engine
        ``"limma"``: plain limma and edgeR in R.
    fit
        ``"whole_stratum"``: one exact fit.
    gene_filter
        ``"edgeR"``: filterByExpr with the design.
    standard_errors
        ``"limma"``: contrasts.fit, an approximation under voom weights.
    report_inestimable
        Report limma's value also where condition and controls share no chain of plates. It contains the plate effect.

    Returns
    -------
    EffectTable
        Contrasts sorted by condition, genes in the order given.

    Raises
    ------
    InputError
        If there is more than one cell context, a field or value cannot be used, or an option is not available.
    NotEstimableError
        If there are no controls, no treated samples, or no residual degrees of freedom.
    RError
        If R is absent or stops.
    """
    options = {"replicates": replicates, "engine": engine, "fit": fit, "gene_filter": gene_filter, "standard_errors": standard_errors}
    for name, value in options.items():
        if value not in _AVAILABLE[name]:
            raise InputError(f"{name}={value!r} is not available", expected=" or ".join(repr(known) for known in _AVAILABLE[name]))
    cell_type = _only_value(samples, "cell_type")
    dataset = _only_value(samples, "dataset") if "dataset" in samples.obs else None
    stratum = str(samples.uns.get(STRATUM_KEY, cell_type))
    for axis, names in (("samples", samples.obs_names), ("genes", samples.var_names)):
        if not names.is_unique:
            raise InputError(f"{axis} are not unique", dataset=dataset, rows=sorted(set(names[names.duplicated()])))

    design = build_design(samples.obs, replicates=replicates, min_cells=min_cells, dataset=dataset)
    if len(design.rows) <= design.rank:
        raise NotEstimableError(
            f"{dataset or 'stratum'} {stratum}: {len(design.rows):,} samples for {len(design.conditions):,} conditions and "
            f"{len(design.plates):,} plates (rank {design.rank:,}) leave no residual degrees of freedom."
        )
    if without := design.dropped["conditions_without_controls"]:
        log.warning("%s %s: %d conditions have no vehicle control of their time, so no contrast", dataset, stratum, len(without))
    values = _values(samples, design, normalized, dataset)
    moderated = fit_limma(values, design, normalized=normalized)

    reported = np.ones((1, 1), dtype=bool)
    if not report_inestimable:
        reported = design.contrasts["estimable"].to_numpy()[:, np.newaxis]
        if np.isnan(values).any():
            reported = _estimable_by_gene(design, values[:, moderated.tested])
    info = options | {
        "normalized": normalized,
        "min_cells": min_cells,
        "report_inestimable": report_inestimable,
        "design": design.describe(),
        "samples": samples.obs_names[design.rows].tolist(),
        "dropped": design.dropped,
        "n_genes_given": samples.n_vars,
    }
    return effect_table(moderated, design, samples.var, dataset=dataset, stratum=stratum, cell_type=cell_type, reported=reported, info=info)
