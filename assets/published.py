"""Our effects beside those of the published Chem-PerturBridge release."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.effects import condition_effects
from assets.making import Inputs, make, result
from assets.partitions import PARTITIONS
from assets.presentation import GROUPS, column_schema, picture, table_metadata
from perturbridge_dagster.contract import PUBLISHED_COMPARISON
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Output, Store

NOT_CONFIGURED = (
    'no folder of the published release is named in `settings.toml`. Add `[published]` with a line `folder = "…"`; '
    "`docs/published-release.md` says how to have its files."
)
"""What is said where there is nothing to compare with."""

_SHOWN = [
    "perturbagen",
    "pert_dose_uM",
    "pert_time_h",
    "published_batch",
    "explanation",
    "spearman_logFC",
    "spearman_logFC_refit",
    "sign_agreement",
    "largest_difference",
    "largest_gene",
    "largest_logFC",
    "largest_published_logFC",
    "n_plates_batch",
    "n_plates",
]
_SUMMARY = [
    "n_both",
    "n_only_ours",
    "n_only_published",
    "n_batches",
    "n_padding",
    "n_genes_both",
    "n_genes_only_ours",
    "n_genes_only_published",
    "pearson_logFC",
    "spearman_logFC",
    "spearman_t",
    "slope_logFC",
    "sign_agreement",
    "spearman_logFC_refit",
    "spearman_logFC_padding",
]


def _metadata(outputs: list[Output]) -> dict[str, Any]:
    """Tables and pictures of the strata of a partition."""
    import pandas as pd

    def joined(name: str) -> pd.DataFrame:
        return pd.concat([read_parquet(output.folder / f"{name}.parquet", "published_comparison") for output in outputs], ignore_index=True)

    compared, strata, genes, unmatched = (joined(name) for name in ("comparison", "strata", "genes", "unmatched"))
    own = compared[~compared["is_padding"]]
    metadata: dict[str, Any] = {}
    for output in outputs:
        label = "" if len(outputs) == 1 else f"_{output.key[-1]}"
        metadata[f"picture_ours_and_published{label}"] = picture(output.folder / "figures" / "comparison.png")
    by_batch = own.groupby(["stratum", "published_batch"], dropna=False).agg(
        contrasts=("contrast", "size"),
        plates=("n_plates_batch", "first"),
        plates_of_stratum=("n_plates", "first"),
        spearman_logFC=("spearman_logFC", "median"),
        spearman_logFC_refit=("spearman_logFC_refit", "median"),
    )
    return metadata | {
        "agreement": table_metadata(strata[["stratum", *_SUMMARY]]),
        "explanations": table_metadata(own["explanation"].value_counts().rename("contrasts").reset_index()),
        "by_batch": table_metadata(by_batch.reset_index()),
        "largest_differences": table_metadata(own.sort_values("largest_difference", ascending=False)[_SHOWN], 25),
        "genes": table_metadata(genes.groupby(["stratum", "reason"]).size().rename("genes").reset_index()),
        "unmatched": table_metadata(unmatched.groupby(["stratum", "side", "reason"]).size().rename("conditions").reset_index()),
        "state": "compared",
        "dagster/row_count": len(compared),
    }


@dg.asset(
    group_name=GROUPS["published_comparison"],
    partitions_def=PARTITIONS["published_comparison"],
    code_version=STAGES["published_comparison"].code_version,
    deps=[condition_effects],
    kinds={"parquet"},
    # without a release there is nothing to compare with, and an empty table would be a false green
    output_required=False,
    metadata={
        "dagster/column_schema": column_schema(PUBLISHED_COMPARISON),
        "table": f"{PUBLISHED_COMPARISON.name}: {PUBLISHED_COMPARISON.meaning}",
    },
)
def published_comparison(
    context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetObservation]:
    """How far our effects agree with those of the published release, contrast by contrast, and what explains the differences.

    The release is a folder with its files, named in `settings.toml` under `[published]`; without it this asset observes that it is not
    configured and stays empty. The release cut large strata into random batches: these are fitted again from our samples, so that
    what batches did is told from the rest. Stale when our effects, the published files or the code of this stage change. Grey in the
    graph because most combinations of dataset and cell context do not exist.
    """
    if store.published_folder() is None:
        context.log.info(f"published_comparison is not configured: {NOT_CONFIGURED}")
        yield dg.AssetObservation(
            context.asset_key,
            partition=context.partition_key,
            description="not configured",
            metadata={"state": "not configured", "what_to_do": dg.MetadataValue.md(NOT_CONFIGURED)},
        )
        return
    outputs = make(context, store, compute, config)
    yield result(outputs, _metadata(outputs))
