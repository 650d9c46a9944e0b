"""The report on representation: one page on every corpus, model and evaluation there is."""

from typing import Any

import dagster as dg

from assets.holdout import holdout_evaluation
from assets.making import Inputs, make, result
from assets.op3 import op3_evaluation
from assets.presentation import stage_asset, table_metadata
from assets.representation import compound_embeddings, training_corpus
from perturbridge_dagster.contract import REPRESENTATION_VERDICTS
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Store

_REPORTED = (training_corpus, compound_embeddings, holdout_evaluation, op3_evaluation)


@stage_asset(
    "representation_report",
    table=REPRESENTATION_VERDICTS,
    kinds={"parquet", "markdown"},
    deps=[dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping()) if asset.partitions_def else asset for asset in _REPORTED],
)
def representation_report(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """What models learn from the compendium, and whether it is worth it: corpora, hold-outs, who beats which baseline, OP3, neighbours.

    Made of every current output of these stages, those that were made by hand among them; what failed, or is not there, is named. Stale
    when one of them changes.
    """
    [output] = outputs = make(context, store, compute, config)
    parts, verdicts = (read_parquet(output.folder / f"{name}.parquet", "representation_report") for name in ("parts", "verdicts"))
    metadata = {
        "report": dg.MetadataValue.md((output.folder / "report.md").read_text()),
        "report_with_pictures": dg.MetadataValue.path(str(output.folder / "report.html")),
        "verdicts": table_metadata(verdicts, 200),
        "parts": table_metadata(parts, 200),
        "dagster/row_count": len(verdicts),
    }
    return result(outputs, metadata)
