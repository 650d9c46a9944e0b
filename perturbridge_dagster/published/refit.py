"""Our fit of the batches that the release really had, so that what batches alone explain can be told from the rest.

The release's batches depend on the order of its samples. The published file names the batch of every contrast, so each batch is made
again from our samples of the same conditions and all controls. Belongs here: which samples a published batch has. Does not belong here: the
rule that made the batches (``effects/batches.py``), or a fit (``effects/estimate.py``).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.effects.estimate import estimate_effects
from perturbridge_dagster.effects.storage import StoredEffects, open_effects, write_effects
from perturbridge_dagster.effects.table import EffectTable, join_tables
from perturbridge_dagster.errors import InputError, NotEstimableError
from perturbridge_dagster.published.effects import PublishedEffects
from perturbridge_dagster.published.matching import match_contrasts

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

log = logging.getLogger("perturbridge")

_OPTIONS = (
    "replicates",
    "normalized",
    "min_cells",
    "engine",
    "supported_share",
    "standard_errors",
    "times",
    "without_controls",
    "report_inestimable",
)
"""Options of a fit that its record holds, and that a batch is fitted with too."""


def refit_batches(samples: ad.AnnData, info: dict[str, Any], contrast: pd.Series[Any], batch: pd.Series[Any]) -> EffectTable:
    """Fit our samples in published batches, with the options of our own fit.

    Parameters
    ----------
    samples
        Our harmonized samples of the stratum: those that our effects were made of.
    info
        Record of our effects (``StoredEffects.info``), for its options.
    contrast
        Our contrast of each published row, null where there is none (``matching.match_contrasts``).
    batch
        Batch of each published row.

    Returns
    -------
    EffectTable
        The batches one below the other; ``processing_batch`` names them. Conditions without a contrast, which the release fits too but
        does not list, take no part.

    Raises
    ------
    InputError
        If the samples are not those of the effects, or no published row has a batch.
    NotEstimableError
        If a batch cannot be fitted.
    """
    options = {name: info[name] for name in _OPTIONS if name in info}
    if isinstance(info.get("gene_filter"), dict):  # None without a filter
        options["gene_filter"] = info["gene_filter"]["rule"]
    design = build_design(
        samples.obs,
        replicates=options.get("replicates", "grouped"),
        min_cells=options.get("min_cells", 0),
        times=options.get("times"),
        without_controls=options.get("without_controls", "refuse"),
    )
    recorded = info["design"].get("n_contrasts")
    if recorded != len(design.contrasts):
        raise InputError(
            f"the samples make {len(design.contrasts):,} contrasts, and the effects have {recorded}",
            advice="Give the samples that the effects were made of.",
        )
    treated = design.contrasts["treated"].to_numpy()
    is_control = design.conditions["is_control"].to_numpy()[design.condition]
    members = pd.DataFrame({"contrast": contrast.to_numpy(), "batch": batch.to_numpy()}).dropna()
    if members.empty:
        raise InputError("no published contrast that is one of ours has a batch")
    tables, names = [], []
    for name in sorted(members["batch"].unique(), key=lambda name: (len(name), name)):
        codes = treated[members.loc[members["batch"] == name, "contrast"].astype(int).unique()]
        rows = design.rows[is_control | np.isin(design.condition, codes)]
        log.info("fitting %s of the release again: %d samples", name, len(rows))
        tables.append(estimate_effects(samples[rows].copy(), **options))
        names.append(str(name))
    return join_tables(tables, names, {**info, "fit": "published_batches", "design": {}})


def stored_refit(samples: ad.AnnData, published: PublishedEffects, ours: StoredEffects, folder: Path) -> tuple[StoredEffects | None, str]:
    """Fit the release's batches again and write the effects into a folder.

    Parameters
    ----------
    samples, published, ours
        Our samples and effects of the stratum, and the published ones.
    folder
        Where to.

    Returns
    -------
    tuple
        The effects, or None where a batch cannot be fitted; and what was done, or why not, in words.
    """
    pairs = match_contrasts(published.contrasts, ours.contrasts)
    try:
        table = refit_batches(samples, ours.info, pairs["contrast"], published.contrasts["processing_batch"])
    except NotEstimableError as error:
        return None, f"the release's batches could not be fitted again: {error}"
    write_effects(table, folder, ours.stamp)
    return open_effects(folder), f"{len(published.batches)} batches of the release were fitted again"
