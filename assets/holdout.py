"""Hold-out evaluations: what models are worth on compounds, cells, assays and chemistry that they were not trained on."""

from typing import Any

import dagster as dg

from assets.making import Inputs, make, result
from assets.presentation import picture, stage_asset, table_metadata
from assets.representation import training_corpus
from perturbridge_dagster.contract import HOLDOUT_SUMMARY
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Store

_SHOWN = [
    *("dataset", "predictor", "n_seeds", "validation_rmse_mean", "test_rmse_mean", "test_rmse_sd", "test_rmse_low", "test_rmse_high"),
    *("best_baseline", "best_baseline_rmse", "difference", "difference_low", "difference_high", "beats_best_baseline"),
    *("clustered_by", "n_clusters", "n_compounds"),
]


@stage_asset(
    "holdout_evaluation",
    table=HOLDOUT_SUMMARY,
    kinds={"pytorch", "parquet"},
    deps=[dg.AssetDep(training_corpus, partition_mapping=dg.SpecificPartitionsPartitionMapping(["all"]))],
)
def holdout_evaluation(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """What models are worth on what they were never trained on, one partition a split rule.

    Rules molecules and parents hold compounds out of a dataset that are trained in another: eight variants of one model are compared, on
    all data or the target alone, from random numbers or fingerprints, fine-tuned or not. The other rules hold out cell contexts, model
    systems, assays or scaffolds, for one model on all datasets. All over several seeds, beside baselines that need no training, with paired
    intervals. Stale when the corpus or the code of this stage changes.
    """
    [output] = outputs = make(context, store, compute, config)
    summary, datasets, promises, profiles = (
        read_parquet(output.folder / f"{name}.parquet", "holdout_evaluation") for name in ("summary", "datasets", "promises", "profiles")
    )
    together = profiles[profiles["dataset"].isna()]
    metadata = {
        "verdict": dg.MetadataValue.md((output.folder / "verdict.md").read_text()),
        "picture_rmse": picture(output.folder / "figures" / "rmse.png"),
        "picture_beside_the_best_baseline": picture(output.folder / "figures" / "differences.png"),
        "rmse": table_metadata(summary[_SHOWN], 200),
        "datasets": table_metadata(datasets),
        "promises": table_metadata(promises.drop_duplicates(["predictor", "promise"])),
        "profiles": table_metadata(together if len(together) else profiles[profiles["baseline"].isna()], 300),
        "dagster/row_count": len(summary),
    }
    return result(outputs, metadata)
