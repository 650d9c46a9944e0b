"""The structured engine: limma's numbers for whole strata, gene by gene, without a dense design.

Counts: edgeR's filter and TMM (ours), voom's first fit, its trend (lowess, in R), weights and the weighted fit. Normalized values: the
unweighted fit alone. Then limma's robust moderation, in R. Every gene is fitted for its residual variance first, and again, block by block,
when its effects are asked for: weights follow from the gene's fitted values and the trend, so nothing of the size of the result is kept.

Belongs here: what is fitted, in which order, and what is asked of R. Does not belong here: the solver (``solver.py``), filter and
normalization (``filter.py``, ``normalize.py``), P values and tables (``table.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.compiled import compiled, on_all_cores
from perturbridge_dagster.effects.design import Design
from perturbridge_dagster.effects.filter import GeneFilter
from perturbridge_dagster.effects.moderate import moderated_fit
from perturbridge_dagster.effects.normalize import keep_genes, library_sizes, tmm_factors
from perturbridge_dagster.effects.r import call_r
from perturbridge_dagster.effects.solver import (
    Array,
    Codes,
    Layout,
    UnweightedFit,
    condition_sums,
    covariances,
    fill_fitted,
    group_sums,
    invert,
    lay_out,
    pair_covariances,
    plate_matrix,
    solve,
    unweighted,
)
from perturbridge_dagster.effects.table import ModeratedFit
from perturbridge_dagster.errors import NotEstimableError

if TYPE_CHECKING:
    from scipy import sparse

StandardErrors = Literal["limma", "exact"]

_GENES_A_TASK = 16
"""Genes that one core fits before it looks for more."""

_GENES_A_BLOCK = 512
"""Genes of normalized values whose effects are held at once while residual variances are gathered."""


class Contrasts(NamedTuple):
    """The contrasts of a fit.

    Attributes
    ----------
    treated, control
        Condition codes.
    correlation
        Correlation of the two coefficients in the unweighted fit of the whole design. limma takes it for every gene, whatever the
        weights: u² = u_a² + u_b² − 2 ρ u_a u_b.
    exact
        Whether the gene's own covariance is taken instead.
    """

    treated: Codes
    control: Codes
    correlation: Array
    exact: bool


def _contrasts(design: Design, fit: UnweightedFit, standard_errors: StandardErrors) -> Contrasts:
    treated, control = (design.contrasts[name].to_numpy(dtype=np.int64) for name in ("treated", "control"))
    variances = [covariances(fit, side, side) for side in (treated, control)]
    correlation = covariances(fit, treated, control) / np.sqrt(variances[0] * variances[1])
    return Contrasts(treated, control, correlation, standard_errors == "exact")


@compiled
def _compare(
    coefficient: Array,
    contrasts: Contrasts,
    weight: Array,
    condition_weight: Array,
    inverse: Array,
    layout: Layout,
    log_fc: Array,
    unscaled: Array,
) -> None:
    """Effect of each contrast, and its standard deviation in units of the residual one; NaN where a condition has no samples."""
    conditions = np.arange(len(coefficient))
    variance = np.empty(len(coefficient))
    pair_covariances(conditions, conditions, weight, condition_weight, inverse, layout, variance)
    shared = np.empty(len(contrasts.treated))
    if contrasts.exact:
        pair_covariances(contrasts.treated, contrasts.control, weight, condition_weight, inverse, layout, shared)
    for contrast in range(len(contrasts.treated)):
        treated, control = contrasts.treated[contrast], contrasts.control[contrast]
        if not contrasts.exact:
            shared[contrast] = contrasts.correlation[contrast] * np.sqrt(variance[treated] * variance[control])
        log_fc[contrast] = coefficient[treated] - coefficient[control]
        unscaled[contrast] = np.sqrt(variance[treated] + variance[control] - 2 * shared[contrast])


# ---- counts ------------------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """Counts of the tested genes, gene by gene, and what turns them into log2 counts per million, by sample in the order of the fit.

    Attributes
    ----------
    gene_start, sample, value
        Column-compressed non-zeros: where each gene's begin, their samples, their values.
    log_zero
        log2 counts per million of no count.
    scale
        Counts per million of one count.
    log_library
        log2 of the effective library size + 1, in millions: what is added to log2 counts per million to give log2 counts.
    """

    gene_start: Codes
    sample: NDArray[np.int32]
    value: NDArray[np.int32]
    log_zero: Array
    scale: Array
    log_library: Array


class Trend(NamedTuple):
    """voom's trend: square root of the residual standard deviation against log2 count, linear between knots, constant beyond.

    Attributes
    ----------
    log_count, root_sigma
        The knots, ascending.
    slope
        Of the line to the right of each knot.
    first
        First knot at or beyond each point of an even grid over the knots, so that a look-up takes a step or two.
    cells_a_unit
        Cells of the grid in one unit of log2 count.
    """

    log_count: Array
    root_sigma: Array
    slope: Array
    first: Codes
    cells_a_unit: float


def _trend(log_count: Array, root_sigma: Array) -> Trend:
    n_cells = 4 * len(log_count)
    grid = np.linspace(log_count[0], log_count[-1], n_cells + 1)
    first = np.maximum(np.searchsorted(log_count, grid), 1)
    slope = np.diff(root_sigma) / np.diff(log_count)
    return Trend(log_count, root_sigma, slope, first.astype(np.int64), n_cells / (log_count[-1] - log_count[0]))


@compiled
def _weigh(trend: Trend, fitted: Array, log_library: Array, weights: Array) -> None:
    """Weight of each observation: the trend at its fitted log2 count, to the power −4."""
    knots, roots = trend.log_count, trend.root_sigma
    for sample in range(len(fitted)):
        log_count = fitted[sample] + log_library[sample]
        if log_count <= knots[0]:
            root = roots[0]
        elif log_count >= knots[-1]:
            root = roots[-1]
        else:
            upper = trend.first[int((log_count - knots[0]) * trend.cells_a_unit)]
            while knots[upper] < log_count:
                upper += 1
            while knots[upper - 1] > log_count:
                upper -= 1
            root = roots[upper - 1] + trend.slope[upper - 1] * (log_count - knots[upper - 1])
        square = root * root
        weights[sample] = 1 / (square * square)


@compiled
def _log_counts(gene: int, counts: Counts, values: Array) -> None:
    """log2 counts per million of a gene: log2((count + 0.5) / (library size + 1) · 10⁶)."""
    for sample in range(len(values)):
        values[sample] = counts.log_zero[sample]
    for entry in range(counts.gene_start[gene], counts.gene_start[gene + 1]):
        sample = counts.sample[entry]
        values[sample] = np.log2((counts.value[entry] + 0.5) * counts.scale[sample])


@compiled
def _first_fits(start: int, stop: int, counts: Counts, fit: UnweightedFit, mean: Array, squares: Array) -> None:
    """Mean and residual sum of squares of genes start to stop, unweighted."""
    layout = fit.layout
    values = np.empty(len(counts.scale))
    weights = np.ones(len(values))
    weight, total = np.empty(len(fit.weight)), np.empty(len(fit.weight))
    condition_weight, coefficient = np.empty(len(fit.condition_weight)), np.empty(len(fit.condition_weight))
    rhs, effect = np.empty(len(fit.inverse)), np.empty(len(fit.inverse))
    for gene in range(start, stop):
        _log_counts(gene, counts, values)
        group_sums(values, weights, layout, weight, total)
        condition_sums(weight, total, layout, condition_weight, coefficient, rhs)
        mean[gene] = values.mean()
        squares[gene] = solve(values, weights, weight, condition_weight, fit.inverse, rhs, layout, coefficient, effect)


@compiled
def _weighted_fits(
    start: int,
    stop: int,
    counts: Counts,
    fit: UnweightedFit,
    trend: Trend,
    contrasts: Contrasts,
    squares: Array,
    log_fc: Array,
    unscaled: Array,
) -> None:
    """Weighted residual sum of squares of genes start to stop and, from row 0 on, their effects in each contrast."""
    layout = fit.layout
    n_samples = len(counts.scale)
    values, fitted, weights, ones = np.empty(n_samples), np.empty(n_samples), np.empty(n_samples), np.ones(n_samples)
    weight, total = np.empty(len(fit.weight)), np.empty(len(fit.weight))
    condition_weight, coefficient = np.empty(len(fit.condition_weight)), np.empty(len(fit.condition_weight))
    rhs, effect = np.empty(len(fit.inverse)), np.empty(len(fit.inverse))
    inverse = np.empty_like(fit.inverse)
    for gene in range(start, stop):
        _log_counts(gene, counts, values)
        group_sums(values, ones, layout, weight, total)
        condition_sums(weight, total, layout, condition_weight, coefficient, rhs)
        solve(values, ones, weight, condition_weight, fit.inverse, rhs, layout, coefficient, effect)
        fill_fitted(coefficient, effect, layout, fitted)
        _weigh(trend, fitted, counts.log_library, weights)
        group_sums(values, weights, layout, weight, total)
        condition_sums(weight, total, layout, condition_weight, coefficient, rhs)
        plate_matrix(weight, condition_weight, layout, inverse)
        invert(inverse)
        squares[gene] = solve(values, weights, weight, condition_weight, inverse, rhs, layout, coefficient, effect)
        if len(contrasts.treated):
            row = gene - start
            _compare(coefficient, contrasts, weight, condition_weight, inverse, layout, log_fc[row], unscaled[row])


def _prepare_counts(counts: sparse.csr_array, kept: NDArray[np.bool_], sizes: Array, layout: Layout) -> Counts:
    """Counts of the kept genes in the order of the fit; `sizes` are effective library sizes."""
    by_gene = keep_genes(counts, kept)
    position = np.empty(len(layout.order), dtype=np.int32)
    position[layout.order] = np.arange(len(layout.order), dtype=np.int32)
    scale = 1e6 / (sizes[layout.order] + 1)
    return Counts(by_gene.indptr.astype(np.int64), position[by_gene.indices], by_gene.data, np.log2(0.5 * scale), scale, -np.log2(scale))


def unweighted_fit(design: Design) -> UnweightedFit:
    """The fit of all fitted samples with weights of 1."""
    return unweighted(lay_out(design.condition, design.plate, len(design.conditions), len(design.plates)))


def fit_counts(
    counts: sparse.csr_array, design: Design, gene_filter: GeneFilter, *, standard_errors: StandardErrors = "limma"
) -> ModeratedFit:
    """Fit a stratum of counts: TMM, voom, weighted fit, robust moderation.

    Parameters
    ----------
    counts
        Fitted samples × genes.
    design
        The design of the fitted samples.
    gene_filter
        Which genes are tested: two at least, of which every sample has counts.
    standard_errors
        ``"limma"``: contrasts.fit, an approximation under weights; ``"exact"``: the covariance under the gene's own weights.

    Raises
    ------
    RError
        If R is absent or stops.
    """
    first = unweighted_fit(design)
    n_genes = int(gene_filter.kept.sum())
    sizes = library_sizes(counts, gene_filter.kept)
    factors = tmm_factors(counts, gene_filter.kept, sizes)
    prepared = _prepare_counts(counts, gene_filter.kept, sizes * factors, first.layout)
    residual_df = len(design.rows) - first.layout.rank

    mean, squares = np.empty(n_genes), np.empty(n_genes)
    tasks = range(0, n_genes, _GENES_A_TASK)
    on_all_cores(lambda start: _first_fits(start, min(start + _GENES_A_TASK, n_genes), prepared, first, mean, squares), tasks)
    knots = call_r(
        "voom_trend",
        {"log_count": mean + prepared.log_library.mean(), "root_sigma": (squares / residual_df) ** 0.25},
    )
    trend = _trend(knots["log_count"], knots["root_sigma"])

    none = Contrasts(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), False)
    no_room = np.empty((_GENES_A_TASK, 0))
    on_all_cores(
        lambda start: _weighted_fits(start, min(start + _GENES_A_TASK, n_genes), prepared, first, trend, none, squares, no_room, no_room),
        tasks,
    )
    contrasts = _contrasts(design, first, standard_errors)

    def effects(genes: slice) -> tuple[Array, Array]:
        start, stop, _ = genes.indices(n_genes)
        again = np.empty(n_genes)
        log_fc, unscaled = (np.empty((stop - start, len(contrasts.treated))) for _ in range(2))

        def fit(begin: int) -> None:
            end = min(begin + _GENES_A_TASK, stop)
            rows = slice(begin - start, end - start)
            _weighted_fits(begin, end, prepared, first, trend, contrasts, again, log_fc[rows], unscaled[rows])

        on_all_cores(fit, range(start, stop, _GENES_A_TASK))
        return log_fc.T, unscaled.T

    info = {
        "norm_factors": factors.tolist(),
        "lib_sizes": sizes.tolist(),
    }
    return moderated_fit(
        mean,
        np.sqrt(squares / residual_df),
        np.full(n_genes, float(residual_df)),
        effects,
        tested=gene_filter.kept,
        gene_filter=gene_filter,
        library_sizes=sizes,
        trend=False,
        info=info,
    )


# ---- normalized values -------------------------------------------------------------------------------------------------------


@compiled
def _unweighted_fits(values: Array, fit: UnweightedFit, mean: Array, squares: Array, coefficients: Array) -> None:
    """Mean, residual sum of squares and coefficients of genes (genes × samples in the order of the fit, none missing)."""
    weights = np.ones(values.shape[1])
    weight, total = np.empty(len(fit.weight)), np.empty(len(fit.weight))
    condition_weight = np.empty(len(fit.condition_weight))
    rhs, effect = np.empty(len(fit.inverse)), np.empty(len(fit.inverse))
    for gene in range(len(values)):
        group_sums(values[gene], weights, fit.layout, weight, total)
        condition_sums(weight, total, fit.layout, condition_weight, coefficients[gene], rhs)
        mean[gene] = values[gene].mean()
        squares[gene] = solve(values[gene], weights, weight, condition_weight, fit.inverse, rhs, fit.layout, coefficients[gene], effect)


class NormalizedBlock(NamedTuple):
    """The fit of some genes: one value, or one row of contrasts, a gene."""

    mean: Array
    squares: Array
    df_residual: Array
    log_fc: Array
    unscaled: Array


def _unscaled(fit: UnweightedFit, contrasts: Contrasts) -> Array:
    """Standard deviation of each contrast in units of the residual one, with weights of 1."""
    variances = [covariances(fit, side, side) for side in (contrasts.treated, contrasts.control)]
    if contrasts.exact:
        shared = covariances(fit, contrasts.treated, contrasts.control)
    else:
        shared = contrasts.correlation * np.sqrt(variances[0] * variances[1])
    unscaled: Array = np.sqrt(variances[0] + variances[1] - 2 * shared)
    return unscaled


def _fit_normalized_block(
    values: NDArray[np.floating[Any]], design: Design, whole: UnweightedFit, contrasts: Contrasts, unscaled: Array
) -> NormalizedBlock:
    """Fit some genes (fitted samples × genes): those without missing values together, the others one by one.

    `unscaled` is that of the whole fit, which is the same for every gene without missing values.
    """
    n_samples, n_genes = values.shape
    shape = (n_genes, len(contrasts.treated))
    block = NormalizedBlock(*(np.empty(n_genes) for _ in range(3)), *(np.empty(shape) for _ in range(2)))
    present = ~np.isnan(values)
    complete = present.all(axis=0)
    for genes in filter(len, [np.flatnonzero(complete), *np.flatnonzero(~complete)[:, np.newaxis]]):
        samples = np.flatnonzero(present[:, genes[0]])
        fit = whole
        if len(samples) < n_samples:
            fit = unweighted(lay_out(design.condition[samples], design.plate[samples], len(design.conditions), len(design.plates)))
        in_order = values[:, genes][samples[fit.layout.order]].T.astype(np.float64, order="C")
        mean, squares = np.empty(len(genes)), np.empty(len(genes))
        coefficients = np.empty((len(genes), len(design.conditions)))
        _unweighted_fits(in_order, fit, mean, squares, coefficients)
        block.mean[genes], block.squares[genes], block.df_residual[genes] = mean, squares, len(samples) - fit.layout.rank
        block.log_fc[genes] = coefficients[:, contrasts.treated] - coefficients[:, contrasts.control]
        block.unscaled[genes] = unscaled if fit is whole else _unscaled(fit, contrasts)
    return block


def fit_normalized(values: NDArray[np.floating[Any]], design: Design, *, standard_errors: StandardErrors = "limma") -> ModeratedFit:
    """Fit a stratum of normalized values: unweighted fit, robust moderation with a trend of the variance in mean expression.

    Parameters
    ----------
    values
        Fitted samples × genes, log2; NaN is missing. A gene without any value is not tested. A gene with missing values is fitted
        to the samples it has, which may alias other plates, lack conditions and leave fewer residual degrees of freedom.
    design
        The design of the fitted samples.
    standard_errors
        As for counts; they differ for genes with missing values only.

    Raises
    ------
    NotEstimableError
        If no gene has a value, or none has residual degrees of freedom.
    RError
        If R is absent or stops.
    """
    whole = unweighted_fit(design)
    contrasts = _contrasts(design, whole, standard_errors)
    unscaled = _unscaled(whole, contrasts)
    tested = ~np.isnan(values).all(axis=0)
    if not tested.any():
        raise NotEstimableError("no gene has a value.")
    columns = np.flatnonzero(tested)

    def fit(genes: slice) -> NormalizedBlock:
        asked = columns[genes]
        parts: dict[int, NormalizedBlock] = {}

        def fit_part(start: int) -> None:
            part = values[:, asked[start : start + _GENES_A_TASK]]
            parts[start] = _fit_normalized_block(part, design, whole, contrasts, unscaled)

        on_all_cores(fit_part, range(0, len(asked), _GENES_A_TASK))
        return NormalizedBlock(*(np.concatenate(field) for field in zip(*(parts[start] for start in sorted(parts)), strict=True)))

    def effects(genes: slice) -> tuple[Array, Array]:
        block = fit(genes)
        return block.log_fc.T, block.unscaled.T

    blocks = [fit(slice(start, start + _GENES_A_BLOCK)) for start in range(0, len(columns), _GENES_A_BLOCK)]
    mean, squares, df_residual = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("mean", "squares", "df_residual"))
    with np.errstate(divide="ignore", invalid="ignore"):  # without residual df, rounding may leave squares above 0
        sigma = np.where(df_residual > 0, np.sqrt(squares / df_residual), np.nan)
    return moderated_fit(mean, sigma, df_residual, effects, tested=tested, gene_filter=None, library_sizes=None, trend=True, info={})
