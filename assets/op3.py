"""Descriptors of compounds, judged on OP3: effects on blood cells of compounds that were held out."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.making import Inputs, make, result
from assets.partitions import PARTITIONS
from assets.presentation import GROUPS, column_schema, picture, table_metadata
from assets.representation import compound_embeddings
from perturbridge_dagster.contract import OP3_SUMMARY
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Output, Store

NOT_CONFIGURED = (
    'no folder of the OP3 benchmark is named in `settings.toml`. Add `[op3_benchmark]` with a line `folder = "…"`; '
    "`python -m perturbridge_dagster.sources.download op3_benchmark` fetches its files."
)
"""What is said where there is nothing to evaluate on."""

_SHOWN = ["descriptor", "mode", "metric", "mean", "sd", "n_seeds", "difference", "low", "high", "win_rate", "seed_win_rate"]


def _metadata(output: Output) -> dict[str, Any]:
    """Verdict, picture and tables."""
    summary, compounds = (read_parquet(output.folder / f"{name}.parquet", "op3_evaluation") for name in ("summary", "compounds"))
    said = json.loads((output.folder / "report.json").read_text())
    beside_none = summary[summary["corpus"].isna() & (summary["reference"] == "none")]
    beside_morgan = summary[summary["corpus"].isna() & (summary["reference"] == "morgan")]
    apart = summary[summary["corpus"].notna() & (summary["reference"] == "none") & (summary["metric"] == "mrrmse")]
    of_corpora = compounds[(compounds["split"] == "test") & compounds["corpus"].notna()]
    return {
        "verdict": dg.MetadataValue.md((output.folder / "verdict.md").read_text()),
        "picture_differences": picture(output.folder / "figures" / "differences.png"),
        "beside_no_descriptor": table_metadata(beside_none[_SHOWN], 100),
        "beside_morgan": table_metadata(beside_morgan[_SHOWN], 100),
        "seen_and_unseen": table_metadata(apart[["corpus", "compounds", "n_compounds", *_SHOWN]], 100),
        "held_out_compounds": table_metadata(
            of_corpora[["perturbagen", "pubchem_cid", "corpus", "has_descriptor", "seen_pubchem_cid", "seen_parent"]], 150
        ),
        "used": dg.MetadataValue.json({name: said[name] for name in ("embeddings", "left_out", "epochs", "ridge_penalty")}),
        "state": "evaluated",
        "dagster/row_count": len(summary),
    }


@dg.asset(
    group_name=GROUPS["op3_evaluation"],
    partitions_def=PARTITIONS["op3_evaluation"],
    code_version=STAGES["op3_evaluation"].code_version,
    deps=[dg.AssetDep(compound_embeddings, partition_mapping=dg.AllPartitionMapping())],
    kinds={"pytorch", "parquet"},
    # without the benchmark there is nothing to evaluate on, and an empty table would be a false green
    output_required=False,
    metadata={"dagster/column_schema": column_schema(OP3_SUMMARY), "table": f"{OP3_SUMMARY.name}: {OP3_SUMMARY.meaning}"},
)
def op3_evaluation(
    context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetObservation]:
    """Whether learned embeddings of compounds help to predict effects on blood cells, as fingerprints do or better.

    A quarter of the compounds of the OP3 benchmark is held out. An ensemble of networks predicts their effects, told nothing of compounds,
    their Morgan fingerprints, or their embeddings; baselines without a network stand beside it. Says which held-out compounds a corpus
    has seen, and scores them apart. The benchmark is a folder named in `settings.toml` under `[op3_benchmark]`; without it this asset
    observes that it is not configured. Stale when the benchmark's files, the embeddings or the code of this stage change.
    """
    if store.op3_benchmark_folder() is None:
        context.log.info(f"op3_evaluation is not configured: {NOT_CONFIGURED}")
        yield dg.AssetObservation(
            context.asset_key,
            description="not configured",
            metadata={"state": "not configured", "what_to_do": dg.MetadataValue.md(NOT_CONFIGURED)},
        )
        return
    [output] = outputs = make(context, store, compute, config)
    yield result(outputs, _metadata(output))
