"""Native files and harmonized samples: the first two doors of the flow."""

from typing import Any

import dagster as dg

from assets.making import Inputs, make, result
from assets.planning import Planner
from assets.presentation import picture, stage_asset, table_metadata
from perturbridge_dagster.contract import HARMONIZED_OBS, SOURCE_FILES
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.payloads.requests import record_failure
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Store


@stage_asset("source_files", table=SOURCE_FILES, kinds={"file"})
def source_files(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """The native files of a dataset, as their owner publishes them: which are there, how large, and their SHA-256.

    Files stay where they are; the folder of each dataset is set in `settings.toml` under `[sources]`. Where `"download"` stands there,
    files that are not there yet are fetched first. Stale when a file's size or modification time changes. If only the time changed,
    and not the content, nothing downstream becomes stale.
    """
    if store.is_downloaded(context.partition_key):
        _fetch(context, store, context.partition_key)
    outputs = make(context, store, compute, config)
    files = read_parquet(outputs[0].folder / "source_files.parquet", "source_files")
    return result(outputs, {"native_files": table_metadata(files), "native_bytes": int(files["bytes"].sum())})


def _fetch(context: dg.AssetExecutionContext, store: Store, dataset: str) -> None:
    """Fetch the native files of a dataset that are not there yet, telling how it goes.

    Raises
    ------
    dagster.Failure
        If that fails; what came is kept, and the next run continues.
    """
    from perturbridge_dagster.sources.download import fetch_declared

    def tell(line: str) -> None:
        context.log.info(line)
        print(f"{dataset}: {line}", flush=True)  # the log of the walk through the graph is not shown in the terminal

    [planned] = Planner(store).plan("source_files", (dataset,))
    try:
        fetch_declared(dataset, store.source_folder(dataset), progress=tell)
    except PerturbridgeError as error:
        record_failure(planned.request, str(error))  # so that coverage and the walk through the graph can say why
        raise dg.Failure(str(error), allow_retries=False) from error
    planned.request.failure.unlink(missing_ok=True)


@stage_asset("harmonized_samples", table=HARMONIZED_OBS, kinds={"anndata", "parquet"}, deps=[source_files])
def harmonized_samples(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """Samples of a dataset in the contract: identified compounds, genes and cell contexts, µM and hours, integer counts or log2 values.

    Single cells are filtered and summed to one sample a well, perturbagen and cell context. One file and checksum a stratum, so that
    one changed well makes one stratum stale and not all. Stale when a native file's content, the identity snapshot or the code of
    this stage changes. The reconciliation says which rule dropped how many rows, and each dropped gene has its reason. Of real data,
    the counts stand beside those that are expected of the full source.
    """
    from perturbridge_dagster.quality.expectations import compare_harmonized, comparison_table, dropped_by_reason

    [output] = outputs = make(context, store, compute, config)
    planner = Planner(store)
    dataset = context.partition_key
    context.instance.add_dynamic_partitions("cell_context", planner.cell_contexts(dataset))
    strata = planner.strata(dataset)
    reconciliation, dropped = (
        read_parquet(output.folder / f"{name}.parquet", "harmonized_samples") for name in ("reconciliation", "dropped_genes")
    )
    metadata = {
        "picture_samples": picture(output.folder / "figures" / "samples.png"),
        "strata": table_metadata(strata.drop(columns=["file", "checksum"])),
        "reconciliation": table_metadata(reconciliation.drop(columns="step")),
        "genes_dropped_by_reason": table_metadata(dropped_by_reason(dropped)),
        "dropped_genes": table_metadata(dropped.sort_values("counts_lost", ascending=False, kind="stable").drop(columns="dataset")),
        "samples": int(strata["n_samples"].sum()),
        "dagster/row_count": int(strata["n_samples"].sum()),
        "genes": int(strata["n_genes"].max()),
    }
    if comparisons := compare_harmonized(dataset, output.folder):
        metadata["expectations"] = table_metadata(comparison_table(comparisons), limit=len(comparisons))
    return result(outputs, metadata)
