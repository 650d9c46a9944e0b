"""Representation: the corpus a model learns from, and the compound embeddings it learns."""

import json
from typing import Any

import dagster as dg

from assets.effects import condition_effects
from assets.making import Inputs, make, result
from assets.presentation import picture, stage_asset, table_metadata
from assets.sources import harmonized_samples
from perturbridge_dagster.contract import CORPUS, EVALUATION
from perturbridge_dagster.written import read_parquet
from resources.compute import Compute
from resources.store import Store


@stage_asset(
    "training_corpus",
    table=CORPUS,
    kinds={"parquet"},
    deps=[dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping()) for asset in (harmonized_samples, condition_effects)],
)
def training_corpus(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """What a model learns from: one value a gene and condition, with the split each condition belongs to by every rule that suits.

    A partition is a named corpus: all datasets, L1000, all without OP3, what may be redistributed (open), or a single dataset. The first
    four are kept current, each where its datasets are configured and are not those of one before it; a single one is made by hand.
    Conditions without a PubChem id, and contrasts that are not estimable, are left out and counted. Stale when the effects of any stratum
    of its datasets change.
    """
    from perturbridge_dagster.representation.corpora import corpus_definition

    [output] = outputs = make(context, store, compute, config)
    conditions = read_parquet(output.folder / "conditions.parquet", "training_corpus")
    counts = conditions.groupby(["dataset", "split"])["n_values"].agg(["size", "sum"]).reset_index()
    counts = counts.rename(columns={"size": "conditions", "sum": "values"})
    report = json.loads((output.folder / "corpus.json").read_text())
    splits = report.pop("splits")
    definition = corpus_definition(output.key[0], store.source_folders())
    metadata = {
        "meaning": definition.meaning,
        "datasets": ", ".join(definition.datasets),
        "left_out": _left_out(definition.left_out, output.done()["arguments"]["left_out"]),
        "by_dataset_and_split": table_metadata(counts),
        "splits": _splits(splits),
        "overlaps": _overlaps(splits),
        "report": dg.MetadataValue.json(report),
        "values": int(conditions["n_values"].sum()),
        "dagster/row_count": int(conditions["n_values"].sum()),
    }
    return result(outputs, metadata)


def _left_out(datasets: dict[str, str], strata: list[str]) -> dg.MetadataValue[Any]:
    """Configured datasets that the corpus does not take, strata whose fit failed, and why."""
    import pandas as pd

    rows = [*datasets.items(), *((stratum, "its effects could not be estimated") for stratum in strata)]
    return table_metadata(pd.DataFrame(rows, columns=["what", "why"]), 100)


def _splits(splits: dict[str, Any]) -> dg.MetadataValue[Any]:
    """What each split rule came to: the question it answers, conditions, promises and violations, or why it does not suit."""
    import pandas as pd

    rows = [
        {
            "split": rule,
            **{name: found["n_conditions"][name] for name in ("train", "val", "test")},
            "in_no_split": found["n_conditions"]["none"],
            "promises": ", ".join(found["promises"]),
            "violations": found["n_violations"] if found["suits"] else None,
            "does_not_suit": found["reason"],
            "meaning": found["meaning"],
        }
        for rule, found in splits.items()
    ]
    return table_metadata(pd.DataFrame(rows))


def _overlaps(splits: dict[str, Any]) -> dg.MetadataValue[Any]:
    """What train has seen of the held-out conditions of each split, promised or not, as shares of them."""
    import pandas as pd

    rows = [
        {
            "split": rule,
            "key": row["promise"],
            "is_promised": row["is_promised"],
            "held_out": row["split"],
            "conditions": row["n_conditions"],
            "seen_in_train": row["n_seen"],
            "share": row["share"],
        }
        for rule, found in splits.items()
        for row in found["overlaps"]
    ]
    return table_metadata(pd.DataFrame(rows), 200)


@stage_asset("compound_embeddings", table=EVALUATION, kinds={"pytorch", "parquet"}, deps=[training_corpus])
def compound_embeddings(context: dg.AssetExecutionContext, store: Store, compute: Compute, config: Inputs) -> dg.MaterializeResult[Any]:
    """One vector a compound and seed, learned by predicting effects, with an evaluation beside what needs no training.

    Two large perturbation models: scalar, the value of a gene from dataset, cell context, compound, gene, dose and time; and multi-output,
    the values of all genes from the others. Several seeds tell how stable the neighbours of a compound are. Stale when the corpus or the
    code of this stage changes.
    """
    from perturbridge_dagster.representation.figures import PICTURES

    [output] = outputs = make(context, store, compute, config)
    names = ("evaluation", "profile_scores", "neighbours", "stability", "mechanisms")
    tables = {name: read_parquet(output.folder / f"{name}.parquet", "compound_embeddings") for name in names}
    scores, profiles = tables["evaluation"], tables["profile_scores"]
    metadata = {
        **{f"picture_{name}": picture(output.folder / "figures" / f"{name}.png") for name in PICTURES},
        "verdict": dg.MetadataValue.md((output.folder / "verdict.md").read_text()),
        "evaluation": table_metadata(scores[scores["dataset"].isna()].drop(columns="dataset")),
        "by_dataset": table_metadata(scores[scores["dataset"].notna()], 200),
        "profiles": table_metadata(
            profiles[profiles["dataset"].isna() & profiles["baseline"].isna()].drop(columns=["dataset", "baseline"]), 200
        ),
        "beside_baselines": table_metadata(
            profiles[profiles["dataset"].isna() & profiles["baseline"].notna()].drop(columns="dataset"), 200
        ),
        "stability_of_neighbours": table_metadata(tables["stability"]),
        "mechanisms": table_metadata(tables["mechanisms"]),
        "nearest_compounds": table_metadata(tables["neighbours"], 30),
        "may_be_redistributed": output.stamp().licence == "open",
        "seeds": ", ".join(map(str, output.done()["arguments"]["seeds"])),
    }
    return result(outputs, metadata)
