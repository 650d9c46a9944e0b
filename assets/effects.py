"""Effects: what each perturbagen does to each gene, by limma, with replicates grouped and with each replicate alone."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.making import Inputs, make, result
from assets.presentation import picture, stage_asset, table_metadata
from assets.sources import harmonized_samples
from perturbridge_dagster.contract import EFFECTS
from resources.compute import Compute
from resources.store import Output, Store

if TYPE_CHECKING:
    from perturbridge_dagster.effects.storage import StoredEffects


def _fit(output: Output, stored: "StoredEffects") -> dict[str, Any]:
    """What the fit of a stratum was: its shape, its genes, its engine, and how long it took."""
    info = stored.info
    used = info["gene_filter"]
    return {
        "stratum": output.key[-1],
        "engine": info["engine"],
        "samples": info["design"]["n_samples"],
        "conditions": info["design"]["n_conditions"],
        "plates": info["design"]["n_plates"],
        "contrasts": len(stored.contrasts),
        "not_estimable": int((~stored.contrasts["estimable"]).sum()),
        "genes_given": info["n_genes_given"],
        "genes_tested": len(stored.genes),
        # normalized values are not filtered
        "min_samples": used["min_samples"] if isinstance(used, dict) else None,
        "seconds": output.done()["seconds"],
    }


def _metadata(outputs: list[Output]) -> dict[str, Any]:
    """Tables and pictures of the strata of a partition."""
    import pandas as pd

    from perturbridge_dagster.effects.storage import open_effects

    stored = [open_effects(output.folder) for output in outputs]
    contrasts = pd.concat([stratum.contrasts for stratum in stored], ignore_index=True)
    shown = [
        "stratum",
        "perturbagen",
        "pert_dose_uM",
        "pert_time_h",
        "plate",
        "n_treated",
        "n_controls",
        "n_significant",
        "mean_abs_t",
        "estimable",
    ]
    strongest = contrasts.sort_values(["n_significant", "mean_abs_t"], ascending=False)[shown].dropna(axis="columns", how="all")
    metadata: dict[str, Any] = {}
    for output in outputs:
        label = "" if len(outputs) == 1 else f"_{output.key[-1]}"
        metadata[f"picture_strongest_contrast{label}"] = picture(output.folder / "figures" / "volcano.png")
        metadata[f"picture_p_values{label}"] = picture(output.folder / "figures" / "p_values.png")
    return metadata | {
        "strongest_contrasts": table_metadata(strongest, 15),
        "fits": table_metadata(pd.DataFrame([_fit(output, stratum) for output, stratum in zip(outputs, stored, strict=True)])),
        "contrasts": len(contrasts),
        "genes": max(len(stratum.genes) for stratum in stored),
        "not_estimable": int((~contrasts["estimable"]).sum()),
        "dagster/row_count": sum(len(stratum.contrasts) * len(stratum.genes) for stratum in stored),
    }


@stage_asset("condition_effects", table=EFFECTS, kinds={"r", "parquet"}, deps=[harmonized_samples])
def condition_effects(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Effect of each condition (perturbagen × dose × time) against its vehicle controls, replicates grouped: limma on the whole stratum.

    Counts go through edgeR's filter, TMM and voom; intensities straight into limma with a trend. Stale when the stratum's content,
    the dataset's effects options in the registry, the code of this stage, or the version of R, limma or edgeR changes; not when another
    stratum of the dataset changes.

    Grey in the graph because most combinations of dataset and cell context do not exist and so are never materialized; coverage
    shows the real ones.
    """
    outputs = make(context, store, compute, config)
    return result(outputs, _metadata(outputs))


@stage_asset("replicate_effects", table=EFFECTS, kinds={"r", "parquet"}, deps=[harmonized_samples])
def replicate_effects(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Effect of each single replicate against its vehicle controls; what replicate agreement compares.

    The residual variance comes from the controls alone, so P values of single replicates are unstable: use them to compare
    replicates, not to call genes. Stale for the same reasons as condition_effects, and grey in the graph for the same reason.
    """
    outputs = make(context, store, compute, config)
    return result(outputs, _metadata(outputs))
