"""The limma engine: plain limma and edgeR over R. It is the oracle that every other engine is held against.

Belongs here: what goes into ``R/limma.R`` and comes out of it. Does not belong here: statistics of our own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.effects.design import Design
from perturbridge_dagster.effects.r import call_r, r_versions
from perturbridge_dagster.effects.table import ModeratedFit


def _spread(values: NDArray[np.float64]) -> dict[str, float | int | None]:
    """Smallest, middle and largest finite value, and how many are infinite."""
    finite = values[np.isfinite(values)]
    marks = np.quantile(finite, (0, 0.5, 1)).tolist() if len(finite) else [None] * 3
    return dict(zip(("minimum", "median", "maximum"), marks, strict=True)) | {"n_infinite": int(np.isinf(values).sum())}


def fit_limma(values: NDArray[np.float64], design: Design, *, normalized: bool) -> ModeratedFit:
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
        },
    )
    shape = (len(design.contrasts), int(answer["keep"].sum()))
    warnings, counts = np.unique(answer["warnings"], return_counts=True)
    info = {
        "engine": "limma",
        "versions": r_versions(),
        "df_prior": _spread(answer["df.prior"]),
        "s2_prior": _spread(answer["s2.prior"]),
        "norm_factors": answer["norm_factors"].tolist(),
        "lib_sizes": answer["lib_sizes"].tolist(),
        "r_warnings": {str(text): int(count) for text, count in zip(warnings, counts, strict=True)},
    }
    return ModeratedFit(
        logFC=answer["coefficients"].reshape(shape),
        stdev_unscaled=answer["stdev.unscaled"].reshape(shape),
        t=answer["t"].reshape(shape),
        B=answer["lods"].reshape(shape),
        AveExpr=answer["Amean"],
        sigma=answer["sigma"],
        s2_post=answer["s2.post"],
        df_residual=answer["df.residual"],
        df_total=answer["df.total"],
        support=None if normalized else answer["support"],
        tested=answer["keep"],
        info=info,
    )
