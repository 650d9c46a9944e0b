"""Partitions, and how a partition key becomes the key of an output.

Datasets, cell contexts, dataset pairs and corpora are dynamic: a new release becomes a partition at run time. Of dataset × cell context
only real strata are ever requested (``sensors.py``), of corpora only those that are kept current (``planning``).
"""

from __future__ import annotations

import dagster as dg

from assets.planning import COMPENDIUM, EFFECTS_STAGES, Planner
from perturbridge_dagster.contract.representation import FURTHER_SPLITS
from perturbridge_dagster.registry import dataset_pairs, pair_key
from perturbridge_dagster.stages import MODELS
from resources.store import Key, Store

DATASET = dg.DynamicPartitionsDefinition(name="dataset")
CELL_CONTEXT = dg.DynamicPartitionsDefinition(name="cell_context")
DATASET_CELL_CONTEXT = dg.MultiPartitionsDefinition({"dataset": DATASET, "cell_context": CELL_CONTEXT})
DATASET_PAIR = dg.DynamicPartitionsDefinition(name="dataset_pair")
CORPUS = dg.DynamicPartitionsDefinition(name="corpus")
CORPUS_MODEL = dg.MultiPartitionsDefinition({"corpus": CORPUS, "model": dg.StaticPartitionsDefinition(list(MODELS))})
SPLIT_RULE = dg.StaticPartitionsDefinition(list(FURTHER_SPLITS))

PARTITIONS: dict[str, dg.PartitionsDefinition[str] | None] = {
    "source_files": DATASET,
    "harmonized_samples": DATASET,
    **dict.fromkeys(EFFECTS_STAGES.values(), DATASET_CELL_CONTEXT),
    "matched_conditions": DATASET_PAIR,
    "cross_dataset_agreement": DATASET_PAIR,
    "replicate_agreement": DATASET,
    "compendium_agreement": None,
    "published_comparison": DATASET_CELL_CONTEXT,
    "training_corpus": CORPUS,
    "compound_embeddings": CORPUS_MODEL,
    "holdout_evaluation": SPLIT_RULE,
    "op3_evaluation": None,
    "representation_report": None,
}
"""Stage → its partitions; None where it has none, since it depends on all datasets at once."""


def partition_to_key(stage: str, partition: str | None) -> Key:
    """Key of the outputs of a Dagster partition; None stands for the whole of an asset without partitions."""
    definition = PARTITIONS[stage]
    if definition is None or partition is None:
        return COMPENDIUM
    if isinstance(definition, dg.MultiPartitionsDefinition):
        by_dimension = definition.get_partition_key_from_str(partition).keys_by_dimension
        return tuple(by_dimension[name] for name in _dimension_order(definition))
    return (partition,)


def key_of(stage: str, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Key:
    """Key of the outputs of what runs: a partition of a stage's asset, or of its checks, or the whole of an asset without partitions."""
    return partition_to_key(stage, context.partition_key if context.has_partition_key else None)


def key_to_partition(stage: str, key: Key) -> str | None:
    """Dagster partition of a key; None where the asset has no partitions."""
    definition = PARTITIONS[stage]
    if definition is None:
        return None
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return dg.MultiPartitionKey(dict(zip(_dimension_order(definition), key, strict=True)))
    return key[0]


def _dimension_order(definition: dg.MultiPartitionsDefinition) -> tuple[str, ...]:
    """Dimensions in the order keys have them; Dagster sorts them by name."""
    return ("dataset", "cell_context") if definition is DATASET_CELL_CONTEXT else ("corpus", "model")


def register_datasets(instance: dg.DagsterInstance, store: Store) -> None:
    """Make partitions of the configured datasets, their pairs and their corpora, and of the cell contexts of those that are harmonized.

    Cell contexts are also added when a dataset is harmonized; but an instance may be younger than the outputs of its home.
    """
    from perturbridge_dagster.representation.corpora import corpus_names

    datasets = list(store.source_folders())
    instance.add_dynamic_partitions("dataset", datasets)
    instance.add_dynamic_partitions("dataset_pair", [pair_key(left, right) for left, right in dataset_pairs(datasets)])
    instance.add_dynamic_partitions("corpus", corpus_names(datasets))
    instance.add_dynamic_partitions("cell_context", sorted({context for _, context in Planner(store).keys("condition_effects")}))
