"""Agreement: whether two datasets, or two replicates, say the same of the same condition, and what that means over all of them."""

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.effects import condition_effects, replicate_effects
from assets.making import Inputs, make, result
from assets.presentation import picture, stage_asset, table_metadata
from perturbridge_dagster.contract import AGREEMENT_SCORES, AGREEMENT_SUMMARY, MATCHED_CONDITIONS, REPLICATE_SCORES
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Output, Store

if TYPE_CHECKING:
    import pandas as pd

_ALL_EFFECTS = dg.AssetDep(condition_effects, partition_mapping=dg.AllPartitionMapping())


def _tables(output: Output, *names: str) -> "dict[str, pd.DataFrame]":
    return {name: read_parquet(output.folder / f"{name}.parquet", output.stage) for name in names}


def _pictures(output: Output) -> dict[str, Any]:
    """Every picture of an output, in the order of the gallery."""
    from perturbridge_dagster.agreement.gallery import PICTURES

    return {f"picture_{name}": picture(output.folder / "figures" / f"{name}.png") for name in PICTURES[output.stage]}


def _means(summary: "pd.DataFrame") -> dg.MetadataValue[Any]:
    """A summary without the columns that are long to read: ends of intervals stay, their methods and counts of units go."""
    dropped = [name for name in summary if str(name).endswith("_interval") or str(name).startswith(("n_units", "n_conditions_"))]
    return table_metadata(summary.drop(columns=dropped).dropna(axis="columns", how="all"))


@stage_asset("matched_conditions", table=MATCHED_CONDITIONS, kinds={"parquet"}, deps=[_ALL_EFFECTS])
def matched_conditions(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Conditions that two datasets share: same compound, cell context and time, doses mutually nearest and within tenfold.

    Stale when the effects of a stratum change that is of either dataset and of a cell context that both have. A pair that shares cell
    contexts and no conditions is an empty table, not an error; one that shares no cell context is no partition that is asked for.
    """
    [output] = outputs = make(context, store, compute, config)
    tables = _tables(output, "matched", "strata")
    shown = ["pubchem_cid", "cell_type", "pert_time_h", "left_pert_dose_uM", "right_pert_dose_uM", "log10_dose_gap"]
    metadata = {
        "matched_conditions": len(tables["matched"]),
        "dagster/row_count": len(tables["matched"]),
        "by_cell_context_and_time": table_metadata(tables["strata"]),
        "conditions": table_metadata(tables["matched"][shown], 20),
    }
    return result(outputs, metadata)


@stage_asset("cross_dataset_agreement", table=AGREEMENT_SCORES, kinds={"parquet"}, deps=[matched_conditions, _ALL_EFFECTS])
def cross_dataset_agreement(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Agreement of two datasets on their matched conditions by every metric, and whether each condition finds its match.

    Scores are over the genes that both strata tested, each beside the same score with other compounds: their mean and each alone, of the
    own dataset and of the other. What depends on further datasets is in compendium_agreement. Stale when the matched conditions or
    their effects change.
    """
    [output] = outputs = make(context, store, compute, config)
    tables = _tables(output, "pair", "cell_contexts", "scores", "retrieval_pair", "retrieval_queries", "retrieval_pools")
    metadata = {
        "report": dg.MetadataValue.md((output.folder / "report.md").read_text()),
        **_pictures(output),
        "pair": _means(tables["pair"]),
        "by_cell_context": _means(tables["cell_contexts"]),
        "retrieval": _means(tables["retrieval_pair"]),
        "retrieval_pools": table_metadata(tables["retrieval_pools"]),
        "scores": len(tables["scores"]),
        "retrieval_queries": len(tables["retrieval_queries"]),
        "dagster/row_count": len(tables["scores"]),
    }
    return result(outputs, metadata)


@stage_asset("replicate_agreement", table=REPLICATE_SCORES, kinds={"parquet"}, deps=[replicate_effects])
def replicate_agreement(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Agreement of the replicates of each condition of a dataset by every metric, beside wells of different compounds.

    Two replicates make one pair, more are compared in a ring. Stale when the replicate effects of a stratum change.
    """
    [output] = outputs = make(context, store, compute, config)
    tables = _tables(output, "dataset", "cell_contexts", "pairs")
    metadata = {
        "report": dg.MetadataValue.md((output.folder / "report.md").read_text()),
        **_pictures(output),
        "dataset": _means(tables["dataset"]),
        "by_cell_context": _means(tables["cell_contexts"]),
        "replicate_pairs": len(tables["pairs"]),
        "dagster/row_count": len(tables["pairs"]),
    }
    return result(outputs, metadata)


@stage_asset(
    "compendium_agreement",
    table=AGREEMENT_SUMMARY,
    kinds={"parquet", "markdown"},
    deps=[
        dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping())
        for asset in (condition_effects, matched_conditions, cross_dataset_agreement, replicate_agreement)
    ],
)
def compendium_agreement(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """What agreement says of all datasets together: the report, the pictures, and the tables that depend on which datasets there are.

    Genes that all datasets tested, and those that L1000 measures; the same summaries under each named option (enough compounds, what
    another pair supports, doses, z scores) with what it kept and dropped; the tables of the paper. Stale when a pair of datasets,
    replicates or effects change, or a dataset is added.
    """
    [output] = outputs = make(context, store, compute, config)
    tables = _tables(output, "pairs", "replicates", "overlaps", "variants", "variant_report", "scores")
    report = tables["variant_report"].groupby("variant", sort=False)[["n_matches", "n_matches_kept"]].sum().reset_index()
    metadata = {
        "report": dg.MetadataValue.md((output.folder / "report.md").read_text()),
        "report_with_pictures": dg.MetadataValue.path(str(output.folder / "report.html")),
        "datasets": dg.MetadataValue.json(json.loads((output.folder / "datasets.json").read_text())),
        **_pictures(output),
        "pairs": _means(tables["pairs"]),
        "replicates": _means(tables["replicates"]),
        "overlaps": table_metadata(tables["overlaps"]),
        "options": table_metadata(report),
        "under_each_option": _means(tables["variants"]),
        "dagster/row_count": len(tables["scores"]),
    }
    return result(outputs, metadata)
