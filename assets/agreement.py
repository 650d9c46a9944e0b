"""Agreement: whether two datasets, or two replicates, say the same of the same condition."""

from typing import Any

import dagster as dg

from assets.effects import condition_effects, replicate_effects
from assets.making import BatchInputs, Inputs, make, result
from assets.presentation import picture, stage_asset, table_metadata
from perturbridge_dagster.contract import AGREEMENT_CONDITIONS, MATCHED_CONDITIONS, REPLICATE_PAIRS
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Store

_ALL_EFFECTS = dg.AssetDep(condition_effects, partition_mapping=dg.AllPartitionMapping())


@stage_asset("matched_conditions", table=MATCHED_CONDITIONS, kinds={"parquet"}, deps=[_ALL_EFFECTS])
def matched_conditions(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Conditions that two datasets share: same compound, cell context and time, doses mutually nearest and within tenfold.

    Stale when the effects of a stratum of either dataset change. A pair without shared conditions is an empty table, not an error.
    """
    [output] = outputs = make(context, store, compute, config)
    matched = read_parquet(output.folder / "matched.parquet", "matched_conditions")
    strata = read_parquet(output.folder / "strata.parquet", "matched_conditions")
    shown = ["pubchem_cid", "cell_type", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM", "log10_dose_gap"]
    metadata = {
        "matched_conditions": len(matched),
        "dagster/row_count": len(matched),
        "by_cell_context_and_time": table_metadata(strata),
        "conditions": table_metadata(matched[shown], 20),
    }
    return result(outputs, metadata)


@stage_asset("cross_dataset_agreement", table=AGREEMENT_CONDITIONS, kinds={"parquet"}, deps=[matched_conditions, _ALL_EFFECTS])
def cross_dataset_agreement(
    context: dg.AssetExecutionContext, store: Store, compute: Compute, config: BatchInputs
) -> dg.MaterializeResult[Any]:
    """Agreement of two datasets on their matched conditions: correlation of log fold changes, and direction of shared significant genes.

    Each is set beside a baseline: the mean of other compounds in the same cell context, dose and time. Stale when the matched
    conditions or the effects of either dataset change.
    """
    [output] = outputs = make(context, store, compute, config)
    tables = {
        name: read_parquet(output.folder / f"{name}.parquet", "cross_dataset_agreement") for name in ("pair", "cell_contexts", "conditions")
    }
    metadata = {
        "picture_agreement_by_strength": picture(output.folder / "figures" / "scatter.png"),
        "picture_observed_and_baseline": picture(output.folder / "figures" / "baseline.png"),
        "pair": table_metadata(tables["pair"]),
        "by_cell_context": table_metadata(tables["cell_contexts"]),
        "scored_conditions": len(tables["conditions"]),
        "dagster/row_count": len(tables["conditions"]),
    }
    return result(outputs, metadata)


@stage_asset("replicate_agreement", table=REPLICATE_PAIRS, kinds={"parquet"}, deps=[replicate_effects])
def replicate_agreement(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Agreement of the replicates of each condition of a dataset, beside wells of different compounds.

    Two replicates make one pair, more are compared in a ring. Stale when the replicate effects of a stratum change.
    """
    [output] = outputs = make(context, store, compute, config)
    tables = {
        name: read_parquet(output.folder / f"{name}.parquet", "replicate_agreement") for name in ("dataset", "cell_contexts", "pairs")
    }
    metadata = {
        "picture_matched_and_unmatched": picture(output.folder / "figures" / "replicates.png"),
        "dataset": table_metadata(tables["dataset"]),
        "by_cell_context": table_metadata(tables["cell_contexts"]),
        "replicate_pairs": len(tables["pairs"]),
        "dagster/row_count": len(tables["pairs"]),
    }
    return result(outputs, metadata)
