"""The rules of the checks on representation: corpora, splits, embeddings and evaluations.

Belongs here: what must hold in the outputs of the stages of representation. Does not belong here: the rules of other stages
(``checks.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.contract import (
    EMBEDDING_MAP,
    EMBEDDING_MECHANISMS,
    EMBEDDING_STABILITY,
    NEIGHBOURS,
    REPRESENTATION_PARTS,
    REPRESENTATION_VERDICTS,
    TRAINING_HISTORY,
)
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.quality.evaluations import beats_baselines, scores_can_be
from perturbridge_dagster.quality.rules import Findings, as_the_contract_says, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import Finding, validate
from perturbridge_dagster.written import Stamp, read_parquet, read_stamp

if TYPE_CHECKING:
    import pandas as pd

    from perturbridge_dagster.representation.corpus import StoredCorpus


def training_corpus(folder: Path) -> Findings:
    """Checks on a training corpus."""
    import pandas as pd

    from perturbridge_dagster.representation.corpus import open_corpus
    from perturbridge_dagster.representation.splits import SPLIT_RULES, violations

    corpus = open_corpus(folder)
    conditions = corpus.conditions
    key = ["dataset", "context", "perturbation", "log_dose", "time"]
    splits = {rule: conditions.assign(split=corpus.split_of(rule)).dropna(subset="split") for rule in corpus.rules}
    found = [violations(split, SPLIT_RULES[rule].promises).assign(rule=rule) for rule, split in splits.items()]
    broken = pd.concat([frame for frame in found if len(frame)] or found[:1], ignore_index=True)
    return {
        "definition": _definition(corpus),
        "values": validate(
            conditions,
            [
                not_empty("the corpus has conditions"),
                unique_together("each condition occurs once", key),
                at_least("doses are positive and finite", "log_dose", -12),
                at_least("every condition has values", "n_values", 1),
            ],
            key,
        ),
        "split_promise": validate(
            broken.assign(keeps_promise=False), [equal("every split keeps its promises", "keeps_promise", True)], list(broken.columns)
        ),
    }


def _definition(corpus: StoredCorpus) -> list[Finding]:
    """Whether a corpus has the datasets that it takes and no other, by the rule of its name and by what it was asked for."""
    import pandas as pd

    from perturbridge_dagster.representation.corpora import why_left_out

    name, asked = corpus.summary["name"], corpus.summary["definition"]["datasets"]
    there = sorted({*corpus.stamp.source_datasets, *corpus.conditions["dataset"]})
    datasets = pd.DataFrame({"dataset": there, "left_out_since": [why_left_out(name, dataset) for dataset in there]})
    datasets["is_taken"] = datasets["left_out_since"].isna() & datasets["dataset"].isin(asked)
    wanted = pd.DataFrame({"dataset": asked, "has_conditions": pd.Index(asked).isin(corpus.conditions["dataset"])})
    licence = pd.DataFrame({"corpus": [name], "licence": [corpus.stamp.licence]})
    return [
        *validate(datasets, [equal("the corpus takes every dataset that is in it", "is_taken", True)], ["dataset", "left_out_since"]),
        *validate(wanted, [equal("every dataset that it takes has conditions", "has_conditions", True, "warning")], ["dataset"]),
        *(validate(licence, [equal("it may be redistributed", "licence", "open")], ["corpus"]) if name == "open" else []),
    ]


def compound_embeddings(folder: Path) -> Findings:
    """Checks on trained embeddings and their evaluation."""
    import numpy as np

    from perturbridge_dagster.representation.embeddings import embedding_matrix, read_embeddings

    embeddings = read_embeddings(folder / "embeddings.parquet")
    finite = np.asarray(np.isfinite(embedding_matrix(embeddings)).all(axis=1))
    n_seeds = embeddings.groupby("symbol")["seed"].transform("nunique")
    frame = embeddings.drop(columns="embedding").assign(finite=finite, of_all_seeds=n_seeds == embeddings["seed"].nunique())
    evaluation = read_parquet(folder / "evaluation.parquet", "compound_embeddings")
    profiles = read_parquet(folder / "profile_scores.parquet", "compound_embeddings")
    return {
        "vectors": [
            *validate(
                frame,
                [
                    not_empty("there is at least one perturbation"),
                    equal("every vector is finite", "finite", True),
                    unique_together("each perturbation has one vector a seed", ["seed", "symbol"]),
                    equal("every seed has all perturbations", "of_all_seeds", True),
                ],
                ["seed", "symbol", "perturbagen"],
            ),
            *(
                finding
                for name, table in _TABLES.items()
                for finding in as_the_contract_says(read_parquet(folder / f"{name}.parquet", "compound_embeddings"), table)
            ),
        ],
        "licence": _licence(frame, read_stamp(folder / "embeddings.parquet")),
        "profile_scores": scores_can_be(evaluation, profiles),
        "beats_baselines": beats_baselines(evaluation, profiles),
    }


_TABLES = {
    "neighbours": NEIGHBOURS,
    "stability": EMBEDDING_STABILITY,
    "mechanisms": EMBEDDING_MECHANISMS,
    "map": EMBEDDING_MAP,
    "training": TRAINING_HISTORY,
}
"""Tables of compound_embeddings that must be as the contract says."""


def _licence(embeddings: pd.DataFrame, stamp: Stamp) -> list[Finding]:
    """Whether embeddings say of themselves what the registry says of the datasets that they were learned from."""
    import pandas as pd

    datasets = pd.DataFrame({"dataset": stamp.source_datasets, "licence": [_licence_of(name) for name in stamp.source_datasets]})
    allowed = "open" if (datasets["licence"] == "open").all() else "restricted"
    said = embeddings[["corpus", "licence_class"]].drop_duplicates().assign(stamp=stamp.licence)
    rules = [
        equal(f"vectors say what their sources allow: {allowed}", "licence_class", allowed),
        equal("the file says the same", "stamp", allowed),
    ]
    of_open = datasets if (embeddings["corpus"] == "open").any() else datasets[:0]
    return [
        *validate(said, rules, ["corpus", "licence_class", "stamp"]),
        *validate(of_open, [equal("corpus open has no dataset that may not be redistributed", "licence", "open")], ["dataset"]),
    ]


def _licence_of(dataset: str) -> str:
    """Licence class of a dataset; one that nobody knows is restricted."""
    from perturbridge_dagster.registry import dataset as registered

    try:
        return registered(dataset).licence.class_
    except InputError:
        return "restricted"


def representation_report(folder: Path) -> Findings:
    """Checks on the report."""
    import json

    import pandas as pd

    parts, verdicts = (read_parquet(folder / f"{name}.parquet", "representation_report") for name in ("parts", "verdicts"))
    left_out = pd.DataFrame({"part": json.loads((folder / "done.json").read_text())["arguments"]["left_out"]}).assign(is_there=False)
    return {
        "parts": [
            *as_the_contract_says(parts, REPRESENTATION_PARTS),
            *as_the_contract_says(verdicts, REPRESENTATION_VERDICTS),
            *validate(
                parts, [not_empty("the report is made of something"), unique_together("each part once", ["stage", "key"])], ["stage"]
            ),
            *validate(
                verdicts,
                [unique_together("each model beside each baseline once", ["corpus", "model", "split", "baseline"])],
                ["corpus", "model", "split", "baseline"],
            ),
        ],
        "complete": validate(left_out, [equal("every part that is kept current is in the report", "is_there", True, "warning")], ["part"]),
    }
