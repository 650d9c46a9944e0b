"""The rules of the checks on representation: corpora, splits, embeddings and evaluations.

Belongs here: what must hold in the outputs of the stages of representation. Does not belong here: the rules of other stages
(``checks.py``).
"""

from __future__ import annotations

from pathlib import Path

from perturbridge_dagster.contract import EVALUATION
from perturbridge_dagster.quality.rules import Findings, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import Rule, table_rules, validate
from perturbridge_dagster.written import read_parquet


def training_corpus(folder: Path) -> Findings:
    """Checks on a training corpus."""
    from perturbridge_dagster.representation.corpus import open_corpus
    from perturbridge_dagster.representation.splits import SPLIT_RULES, violations

    corpus = open_corpus(folder)
    conditions = corpus.conditions
    key = ["dataset", "context", "perturbation", "log_dose", "time"]
    broken = violations(conditions, SPLIT_RULES[corpus.summary["split_rule"]].promises)
    return {
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
            broken.assign(keeps_promise=False), [equal("the split keeps its promise", "keeps_promise", True)], list(broken.columns)
        ),
    }


def compound_embeddings(folder: Path) -> Findings:
    """Checks on trained embeddings and their evaluation."""
    import numpy as np
    import pandas as pd

    from perturbridge_dagster.representation.embeddings import read_embeddings
    from perturbridge_dagster.representation.evaluation import model_of

    embeddings = read_embeddings(folder / "embeddings.parquet")
    finite = np.isfinite(np.stack(embeddings["embedding"].to_list())).all(axis=1)
    frame = embeddings.drop(columns="embedding").assign(finite=finite)
    evaluation = read_parquet(folder / "evaluation.parquet", "compound_embeddings")
    test = evaluation[evaluation["split"] == "test"].set_index("predictor")["rmse"]
    model = model_of(evaluation)
    baselines = test.drop(model)
    compared = pd.DataFrame({"baseline": baselines.index, "rmse": baselines.to_numpy(), "gain": (baselines - test[model]).to_numpy()})
    better = at_least("the model predicts the test split better than the baseline", "gain", 0, strictly=True, severity="warning")
    return {
        "vectors": [
            *validate(
                frame,
                [
                    not_empty("there is at least one perturbation"),
                    equal("every vector is finite", "finite", True),
                    Rule("each perturbation has one vector", "ExpectColumnValuesToBeUnique", {"column": "symbol"}),
                ],
                ["symbol", "perturbagen"],
            ),
            *validate(evaluation, table_rules(EVALUATION), ["predictor", "split"]),
        ],
        "beats_baselines": validate(compared, [better], ["baseline", "rmse"]),
    }
