"""Representation: the corpus a model learns from, and the compound embeddings it learns."""

import json
from typing import Any

import dagster as dg

from assets.effects import condition_effects
from assets.making import Inputs, make, result
from assets.presentation import picture, stage_asset, table_metadata
from perturbridge_dagster.contract import CORPUS, EVALUATION
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Store


@stage_asset(
    "training_corpus",
    table=CORPUS,
    kinds={"parquet"},
    deps=[dg.AssetDep(condition_effects, partition_mapping=dg.AllPartitionMapping())],
)
def training_corpus(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """What a model learns from: one value a gene and condition, with the split each condition belongs to.

    Conditions without a PubChem id, and contrasts that are not estimable, are left out and counted. Stale when the effects of any
    stratum change.
    """
    [output] = outputs = make(context, store, compute, config)
    conditions = read_parquet(output.folder / "conditions.parquet", "training_corpus")
    counts = conditions.groupby(["dataset", "split"])["n_values"].agg(["size", "sum"]).reset_index()
    counts = counts.rename(columns={"size": "conditions", "sum": "values"})
    metadata = {
        "by_dataset_and_split": table_metadata(counts),
        "report": dg.MetadataValue.json(json.loads((output.folder / "corpus.json").read_text())),
        "values": int(conditions["n_values"].sum()),
        "dagster/row_count": int(conditions["n_values"].sum()),
    }
    return result(outputs, metadata)


@stage_asset("compound_embeddings", table=EVALUATION, kinds={"pytorch", "parquet"}, deps=[training_corpus])
def compound_embeddings(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """One vector a compound, learned by predicting effects, with an evaluation beside plain means.

    Two large perturbation models: scalar, the value of a gene from dataset, cell context, compound, gene, dose and time; and multi-output,
    the values of all genes from the others. Stale when the corpus or the code of this stage changes.
    """
    [output] = outputs = make(context, store, compute, config)
    evaluation = read_parquet(output.folder / "evaluation.parquet", "compound_embeddings")
    neighbours = read_parquet(output.folder / "neighbours.parquet", "compound_embeddings")
    metadata = {
        "picture_map": picture(output.folder / "figures" / "map.png"),
        "picture_beside_baselines": picture(output.folder / "figures" / "baselines.png"),
        "picture_training": picture(output.folder / "figures" / "training.png"),
        "verdict": dg.MetadataValue.md((output.folder / "verdict.md").read_text()),
        "evaluation": table_metadata(evaluation),
        "nearest_compounds": table_metadata(neighbours, 30),
    }
    return result(outputs, metadata)
