"""From the samples of a stratum to its table of effects.

Belongs here: the walk through design, engine and table, and the options a user has. Does not belong here: how any step works.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.effects.batches import published_batches
from perturbridge_dagster.effects.design import Design, Replicates, WithoutControls, build_design
from perturbridge_dagster.effects.filter import GeneFilter, filter_by_expression, filter_supported
from perturbridge_dagster.effects.limma import fit_limma
from perturbridge_dagster.effects.normalize import library_sizes
from perturbridge_dagster.effects.r import RError
from perturbridge_dagster.effects.solver import max_leverage
from perturbridge_dagster.effects.strata import STRATUM_KEY
from perturbridge_dagster.effects.structured import StandardErrors, fit_counts, fit_normalized, unweighted_fit
from perturbridge_dagster.effects.table import EffectTable, effect_table, join_tables
from perturbridge_dagster.errors import InputError, NotEstimableError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

GeneFilterRule = Literal["edgeR", "supported"]
Engine = Literal["structured", "limma"]
Fit = Literal["whole_stratum", "published_batches"]

log = logging.getLogger("perturbridge")

_VALUES_A_BLOCK = 1 << 24
"""Values that are looked at together when input is checked."""

_CHOICES = {
    "replicates": ("grouped", "separate"),
    "engine": ("structured", "limma"),
    "fit": ("whole_stratum", "published_batches"),
    "gene_filter": ("edgeR", "supported"),
    "standard_errors": ("limma", "exact"),
    "without_controls": ("refuse", "fit"),
}


@dataclass(frozen=True)
class _Options:
    """The options of :func:`estimate_effects`, which explains them."""

    replicates: Replicates
    normalized: bool
    min_cells: int
    engine: Engine
    fit: Fit
    gene_filter: GeneFilterRule
    supported_share: float
    standard_errors: StandardErrors
    times: tuple[float, ...] | None
    without_controls: WithoutControls
    report_inestimable: bool

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}={value!r} is not available", expected=" or ".join(map(repr, known)))
        if self.engine == "limma" and self.standard_errors != "limma":
            raise InputError("the limma engine has limma's standard errors only", advice="Use engine='structured'.")


@dataclass(frozen=True)
class _Stratum:
    """Whose samples they are."""

    dataset: str | None
    name: str
    cell_type: str

    @property
    def where(self) -> str:
        """Dataset and stratum, for messages."""
        return f"{self.dataset or 'samples'}, stratum {self.name}"


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


def _fitted_rows(samples: ad.AnnData, design: Design, where: str) -> Any:
    """X of the fitted samples, dense or sparse, without a copy where all samples are fitted."""
    matrix = (samples.to_memory() if samples.isbacked else samples).X
    if matrix is None:
        raise InputError("X is empty; it must hold counts or normalized values", dataset=where)
    return matrix if len(design.rows) == samples.n_obs else matrix[design.rows]


def _counts(samples: ad.AnnData, design: Design, where: str) -> sparse.csr_array:
    """Counts of the fitted samples; raises where a value is not a count or a sample has none."""
    counts = sparse.csr_array(_fitted_rows(samples, design, where))
    names = samples.obs_names[design.rows]
    try:
        sizes = library_sizes(counts)
    except InputError as error:
        rows = [int(row) for row in error.rows]
        first = counts[[rows[0]]]
        is_count = np.isfinite(first.data) & (first.data >= 0) & (np.floor(first.data) == first.data)
        wrong = ~is_count if first.has_canonical_format else np.ones(first.nnz, dtype=bool)
        raise InputError(
            f"not every value of X is a count: {len(rows):,} of {len(names):,} samples have others, the first in gene "
            f"{samples.var_names[first.indices[wrong][0]]}",
            dataset=where,
            rows=list(names[rows]),
            expected=error.expected,
            advice="Log intensities are fitted with normalized=True.",
        ) from error
    largest = np.iinfo(np.int32).max
    if counts.nnz and counts.data.max() > largest:
        raise InputError(
            f"a count is too large to be one: {counts.data.max():,.0f}",
            dataset=where,
            rows=list(names[np.unique(np.searchsorted(counts.indptr, np.flatnonzero(counts.data > largest), side="right") - 1)]),
            expected=f"at most {largest:,}",
        )
    empty = names[sizes == 0]
    if len(empty):
        raise InputError(
            f"samples without any count have no library size; {len(empty):,} of {len(names):,} are such",
            dataset=where,
            rows=list(empty),
            advice="Drop them in the reader with a rule of the reconciliation.",
        )
    return counts


def _filtered(counts: sparse.csr_array, design: Design, names: pd.Index[str], rule: GeneFilterRule, share: float, where: str) -> GeneFilter:
    """Which genes are tested; raises where too few are, or a sample has no counts of them."""
    filtered = filter_by_expression(counts, max_leverage(unweighted_fit(design))) if rule == "edgeR" else filter_supported(counts, share)
    n_genes = int(filtered.kept.sum())
    if n_genes < 2:
        raise NotEstimableError(
            f"{where}: the gene filter ({rule}) leaves {n_genes} of {len(filtered.kept):,} genes, and the trend of the variance needs two "
            f"at least. It asks {filtered.min_samples:.4g} samples for {filtered.cut_off_cpm:.4g} counts per million."
        )
    empty = names[library_sizes(counts, filtered.kept) == 0]
    if len(empty):
        raise InputError(
            f"samples have no count of the {n_genes:,} genes that are tested; {len(empty):,} are such",
            dataset=where,
            rows=list(empty),
            advice="Drop them in the reader with a rule of the reconciliation.",
        )
    return filtered


def _normalized_values(samples: ad.AnnData, design: Design, where: str) -> NDArray[np.floating[Any]]:
    """Values of the fitted samples, dense; raises where one is infinite."""
    matrix = _fitted_rows(samples, design, where)
    values = np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    step = max(1, _VALUES_A_BLOCK // max(values.shape[1], 1))
    infinite = np.concatenate([np.isinf(values[start : start + step]).any(axis=1) for start in range(0, len(values), step)])
    if infinite.any():
        raise InputError(
            f"not every value of X is a log2 value; {infinite.sum():,} samples have infinite ones",
            dataset=where,
            rows=list(samples.obs_names[design.rows[infinite]]),
            expected="finite values or NaN",
        )
    return values


def _estimable_by_gene(design: Design, values: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Contrasts × genes: which contrasts can be estimated from the samples in which the gene is not missing."""
    patterns, pattern_of_gene = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    return np.column_stack([design.estimable(present) for present in patterns.T])[:, pattern_of_gene]


def _require_residual_df(design: Design, where: str) -> None:
    if len(design.rows) <= design.rank:
        raise NotEstimableError(
            f"{where}: {len(design.rows):,} samples for {len(design.conditions):,} conditions and {len(design.plates):,} plates "
            f"(rank {design.rank:,}) leave no residual degrees of freedom."
        )


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put dataset and stratum before what an engine says, which knows neither."""
    try:
        yield
    except (NotEstimableError, RError) as error:
        raise type(error)(f"{where}: {error}") from error


def _estimate(samples: ad.AnnData, stratum: _Stratum, options: _Options) -> EffectTable:
    """One fit."""
    where = stratum.where
    if samples.n_vars == 0:
        raise NotEstimableError(f"{where}: there are no genes.")
    design = build_design(
        samples.obs,
        replicates=options.replicates,
        min_cells=options.min_cells,
        times=options.times,
        without_controls=options.without_controls,
        dataset=stratum.dataset,
        stratum=stratum.name,
    )
    _require_residual_df(design, where)
    if without := design.dropped["conditions_without_controls"]:
        log.warning("%s: %d conditions have no vehicle control of their time, so no contrast", where, len(without))

    reported = np.ones((1, 1), dtype=bool) if options.report_inestimable else design.contrasts["estimable"].to_numpy()[:, np.newaxis]
    if options.normalized:
        values = _normalized_values(samples, design, where)
        with _named(where):
            if options.engine == "structured":
                moderated = fit_normalized(values, design, standard_errors=options.standard_errors)
            else:
                moderated = fit_limma(values.astype(np.float64), design, normalized=True)
        if not options.report_inestimable and np.isnan(values).any():
            reported = _estimable_by_gene(design, values[:, moderated.tested])
    else:
        counts = _counts(samples, design, where)
        selected = _filtered(counts, design, samples.obs_names[design.rows], options.gene_filter, options.supported_share, where)
        with _named(where):
            if options.engine == "structured":
                moderated = fit_counts(counts, design, selected, standard_errors=options.standard_errors)
            else:  # edgeR's own filter is part of what it is compared for
                given = selected if options.gene_filter == "supported" else None
                moderated = fit_limma(counts.toarray().astype(np.float64), design, normalized=False, gene_filter=given)
    info = asdict(options) | {
        "design": design.describe(),
        "samples": samples.obs_names[design.rows].tolist(),
        "dropped": design.dropped,
        "n_genes_given": samples.n_vars,
        "gene_filter": _describe_filter(moderated.gene_filter, options),
    }
    return effect_table(
        moderated,
        design,
        samples.var,
        dataset=stratum.dataset,
        stratum=stratum.name,
        cell_type=stratum.cell_type,
        reported=reported,
        info=info,
    )


def _describe_filter(filtered: GeneFilter | None, options: _Options) -> dict[str, Any] | None:
    """What the filter asked for, for the record; None without a filter."""
    if filtered is None:
        return None
    return {
        "rule": options.gene_filter,
        "share": options.supported_share if options.gene_filter == "supported" else None,
        "min_samples": filtered.min_samples,
        "cut_off_cpm": filtered.cut_off_cpm,
        "n_kept": int(filtered.kept.sum()),
        "n_given": len(filtered.kept),
    }


def estimate_effects(
    samples: ad.AnnData,
    *,
    replicates: Replicates = "grouped",
    normalized: bool = False,
    min_cells: int = 0,
    engine: Engine = "structured",
    fit: Fit = "whole_stratum",
    gene_filter: GeneFilterRule = "edgeR",
    supported_share: float = 0.02,
    standard_errors: StandardErrors = "limma",
    times: Sequence[float] | None = None,
    without_controls: WithoutControls = "refuse",
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
        ``"structured"``: limma's numbers from a system of the size of the plates; ``"limma"``: plain limma and edgeR in R, for
        comparison: its time and memory grow with samples × conditions.
    fit
        ``"whole_stratum"``: one exact fit; ``"published_batches"``: the random batches of the published analysis, each fitted on its
        own, for comparison with its release.
    gene_filter
        ``"edgeR"``: filterByExpr with the design, which keeps nearly any gene where a condition has one sample; ``"supported"``: the
        same cut-off, reached in a share of all samples.
    supported_share
        That share, of (0, 1].
    standard_errors
        ``"limma"``: contrasts.fit, which under voom weights is an approximation that depends on the order of plates; ``"exact"``: the
        covariance under the gene's own weights.
    times
        Treatment times that take part; None for all. Unit: h.
    without_controls
        Treated samples of a time without controls: ``"refuse"`` them with an error, or ``"fit"`` them without a contrast, as the
        published analysis does.
    report_inestimable
        Report limma's value also where condition and controls share no chain of plates. It contains the plate effect.

    Returns
    -------
    EffectTable
        Contrasts sorted by condition, genes in the order given. Layers are computed when they are asked for.

    Raises
    ------
    InputError
        If there is more than one cell context, or a field, value or option cannot be used.
    NotEstimableError
        If there are no controls, no treated samples, no residual degrees of freedom, or no genes with counts enough.
    RError
        If R is absent or stops.
    """
    options = _Options(
        replicates,
        normalized,
        min_cells,
        engine,
        fit,
        gene_filter,
        supported_share,
        standard_errors,
        None if times is None else tuple(times),
        without_controls,
        report_inestimable,
    )
    cell_type = _only_value(samples, "cell_type")
    dataset = _only_value(samples, "dataset") if "dataset" in samples.obs else None
    stratum = _Stratum(dataset, str(samples.uns.get(STRATUM_KEY, cell_type)), cell_type)
    for axis, names in (("samples", samples.obs_names), ("genes", samples.var_names)):
        if not names.is_unique:
            raise InputError(f"{axis} are not unique", dataset=stratum.where, rows=sorted(set(names[names.duplicated()])))
    if fit == "whole_stratum":
        return _estimate(samples, stratum, options)
    perturbagen = samples.obs["perturbagen"].astype(str)
    if normalized and "pubchem_cid" in samples.obs:  # the published labels of L1000 have the PubChem id in place of the name
        perturbagen = samples.obs["pubchem_cid"].astype("Int64").astype("string").fillna(perturbagen)
    batches = published_batches(perturbagen.to_numpy(), samples.obs["is_control"].astype(bool).to_numpy())
    tables = [_estimate(samples[batch.rows].to_memory(), stratum, options) for batch in batches]
    padding = {f"batch_{number}": batch.padding for number, batch in enumerate(batches, 1)}
    return join_tables(tables, list(padding), asdict(options) | {"padding": padding})
