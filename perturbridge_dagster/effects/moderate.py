"""Moderation: limma's robust empirical Bayes of a fit, once for all its contrasts, since none of it depends on the contrast.

squeezeVar and tmixture are limma's own, in R. Belongs here: what goes into them and comes out. Does not belong here: fitting
(``structured.py``) and P values (``p_values.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.effects.filter import GeneFilter
from perturbridge_dagster.effects.r import call_r, r_versions
from perturbridge_dagster.effects.table import ModeratedFit
from perturbridge_dagster.errors import NotEstimableError

Array = NDArray[np.float64]


def spread(values: Array) -> dict[str, float | int | None]:
    """Smallest, middle and largest finite value, and how many are infinite."""
    finite = values[np.isfinite(values)]
    marks = np.quantile(finite, (0, 0.5, 1)).tolist() if len(finite) else [None] * 3
    return dict(zip(("minimum", "median", "maximum"), marks, strict=True)) | {"n_infinite": int(np.isinf(values).sum())}


def tally(warnings: list[str]) -> dict[str, int]:
    """How often R gave each warning."""
    texts, counts = np.unique(warnings, return_counts=True)
    return {str(text): int(count) for text, count in zip(texts, counts, strict=True)}


def moderated_fit(
    mean: Array,
    sigma: Array,
    df_residual: Array,
    effects: Callable[[slice], tuple[Array, Array]],
    *,
    tested: NDArray[np.bool_],
    gene_filter: GeneFilter | None,
    library_sizes: Array | None,
    trend: bool,
    info: dict[str, Any],
) -> ModeratedFit:
    """Moderate a fit as eBayes(robust=TRUE) does.

    Parameters
    ----------
    mean, sigma, df_residual
        One value a tested gene: mean log2 expression, residual standard deviation (NaN without residual degrees of freedom), and
        these degrees of freedom.
    effects, tested, gene_filter, library_sizes
        Handed on; see ``ModeratedFit``.
    trend
        Whether the prior variance depends on mean expression.
    info
        Record to which hyper-parameters, versions and R's warnings are added.

    Raises
    ------
    NotEstimableError
        If no gene has residual degrees of freedom, or there are exactly two genes, of which squeezeVar makes nothing.
    RError
        If R is absent or stops.
    """
    if not (df_residual > 0).any():
        raise NotEstimableError("no gene has residual degrees of freedom: too many of its values are missing.")
    if len(sigma) == 2:
        raise NotEstimableError("two genes are too few: limma's robust moderation returns no variance for them.")
    moderated = call_r("moderate", {"sigma": sigma, "df_residual": df_residual, "mean": mean, "trend": trend})
    df_total = np.minimum(df_residual + moderated["df_prior"], np.nansum(df_residual))

    def log_odds(t: Array, unscaled: Array) -> Array:
        answer = call_r(
            "log_odds",
            {
                "t": t.ravel(),
                "stdev_unscaled": unscaled.ravel(),
                "df_total": df_total,
                "df_prior": moderated["df_prior"],
                "s2_prior": moderated["s2_prior"],
            },
        )
        return np.asarray(answer["log_odds"].reshape(t.shape))

    return ModeratedFit(
        AveExpr=mean,
        sigma=sigma,
        s2_post=moderated["s2_post"],
        df_residual=df_residual,
        df_total=df_total,
        tested=tested,
        effects=effects,
        log_odds=log_odds,
        gene_filter=gene_filter,
        library_sizes=library_sizes,
        info=info
        | {
            "engine": "structured",
            "versions": r_versions(),
            "df_prior": spread(moderated["df_prior"]),
            "s2_prior": spread(moderated["s2_prior"]),
            "r_warnings": tally(moderated["warnings"]),
        },
    )
