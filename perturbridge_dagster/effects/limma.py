"""The limma engine: plain limma and edgeR over R. It is the oracle that every other engine is held against.

Belongs here: what goes into ``R/limma.R`` and comes out of it. Does not belong here: statistics of our own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.effects.design import Design
from perturbridge_dagster.effects.filter import GeneFilter
from perturbridge_dagster.effects.moderate import spread, tally
from perturbridge_dagster.effects.r import call_r, r_versions
from perturbridge_dagster.effects.table import ModeratedFit


def fit_limma(values: NDArray[np.float64], design: Design, *, normalized: bool, gene_filter: GeneFilter | None = None) -> ModeratedFit:
    """Fit a stratum with limma: filterByExpr, TMM, voom and lmFit for counts, lmFit alone for normalized values; robust eBayes.

    Standard errors of contrasts are limma's approximation under weights, which depends on the reference plate.

    Parameters
    ----------
    values
        Fitted samples × genes: counts, or normalized log2 values where NaN is missing.
    design
        The design of the fitted samples.
    normalized
        Which of the two.
    gene_filter
        Genes of counts to keep; None for filterByExpr.

    Raises
    ------
    RError
        If R is absent or stops, for example because the filter leaves no gene.
    """
    answer: dict[str, Any] = call_r(
        "limma_effects",
        {
            "values": values.ravel(),
            "n_genes": values.shape[1],
            "condition": design.condition + 1,
            "plate": design.plate + 1,
            "treated": design.contrasts["treated"].to_numpy() + 1,
            "control": design.contrasts["control"].to_numpy() + 1,
            "normalized": normalized,
            "keep": np.empty(0, dtype=bool) if gene_filter is None else gene_filter.kept,
        },
    )
    if gene_filter is None and not normalized:
        gene_filter = GeneFilter(
            kept=answer["keep"],
            support=answer["support"].astype(np.int64),
            total_count=answer["total_count"].astype(np.int64),
            min_samples=float(answer["min_samples"][0]),
            cut_off_cpm=float(answer["cut_off_cpm"][0]),
        )
    shape = (len(design.contrasts), int(answer["keep"].sum()))
    log_fc, unscaled, log_odds = (answer[name].reshape(shape) for name in ("coefficients", "stdev.unscaled", "lods"))
    return ModeratedFit(
        AveExpr=answer["Amean"],
        sigma=answer["sigma"],
        s2_post=answer["s2.post"],
        df_residual=answer["df.residual"],
        df_total=answer["df.total"],
        tested=answer["keep"],
        effects=lambda genes: (log_fc[:, genes], unscaled[:, genes]),
        log_odds=lambda t, unscaled: log_odds,
        gene_filter=gene_filter,
        library_sizes=None if normalized else answer["lib_sizes"],
        info={
            "engine": "limma",
            "versions": r_versions(),
            "df_prior": spread(answer["df.prior"]),
            "s2_prior": spread(answer["s2.prior"]),
            "norm_factors": answer["norm_factors"].tolist(),
            "lib_sizes": answer["lib_sizes"].tolist(),
            "r_warnings": tally(answer["warnings"]),
        },
    )
