"""The parts of the report: the outputs it is made of, and every model beside every baseline.

Belongs here: reading other outputs of representation, and the table of verdicts. Does not belong here: sentences (``report.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from perturbridge_dagster.contract import REPRESENTATION_VERDICTS
from perturbridge_dagster.representation.verdicts import favoured
from perturbridge_dagster.written import read_parquet, read_stamp

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Part:
    """One output that the report is made of.

    Attributes
    ----------
    stage, key
        Where it comes from.
    tables
        Its tables by name of the file, those that there are.
    facts
        The content of ``corpus.json``, for a corpus; else the arguments of its request.
    verdict
        Its own sentences, ``verdict.md``; empty where it has none.
    pictures
        Its pictures by name, those that there are.
    """

    stage: str
    key: tuple[str, ...]
    tables: Tables = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)


TABLES = {
    "training_corpus": (),
    "compound_embeddings": ("evaluation", "profile_scores", "stability", "mechanisms", "embeddings"),
    "holdout_evaluation": ("summary", "datasets"),
    "op3_evaluation": ("summary", "compounds"),
}
"""Stage → its tables that the report reads."""


def read_part(stage: str, key: Sequence[str], folder: Path) -> tuple[Part, dict[str, Any]]:
    """One output as the report takes it, and its row of the table REPRESENTATION_PARTS.

    Parameters
    ----------
    stage, key
        Where it comes from.
    folder
        The output.

    Raises
    ------
    IncompatibleFileError
        If a table follows another contract or was written by another stage.
    """
    tables = {name: read_parquet(folder / f"{name}.parquet", stage) for name in TABLES[stage] if (folder / f"{name}.parquet").exists()}
    done = json.loads((folder / "done.json").read_text())
    corpus, verdict = folder / "corpus.json", folder / "verdict.md"
    stamp = read_stamp(min(folder.glob("*.parquet")))
    part = Part(
        stage,
        tuple(key),
        tables,
        json.loads(corpus.read_text()) if corpus.exists() else done["arguments"],
        verdict.read_text().strip() if verdict.exists() else "",
        {file.stem: file.read_bytes() for file in sorted((folder / "figures").glob("*.png"))},
    )
    row = {
        "stage": stage,
        "key": " ".join(key),
        "digest": done["digest"],
        "datasets": ", ".join(stamp.source_datasets),
        "simulated": stamp.simulated,
        "licence_class": stamp.licence,
    }
    return part, row


def verdicts(parts: Iterable[Part]) -> pd.DataFrame:
    """Every model beside each baseline on held-out values of its corpus.

    The difference is the mean over held-out conditions of the RMSE of a profile, model less baseline, with its interval; the model is
    better where the whole interval lies below 0, of enough compounds (:func:`verdicts.favoured`).

    Parameters
    ----------
    parts
        Of which those of compound_embeddings count.

    Returns
    -------
    DataFrame
        The contract's table `representation_verdicts`.
    """
    rows = []
    for part in parts:
        if part.stage != "compound_embeddings" or "profile_scores" not in part.tables:
            continue
        corpus, model = part.key
        scores = all_datasets(part.tables["evaluation"]).set_index(["split", "predictor"])["rmse"]
        profiles = all_datasets(part.tables["profile_scores"])
        chosen = profiles[(profiles["metric"] == "rmse") & (profiles["predictor"] == model) & profiles["baseline"].notna()]
        for row in chosen.to_dict("records"):
            split, baseline, low, high = row["split"], row["baseline"], row["low"], row["high"]
            verdict = favoured(low, high, row["n_compounds"])
            rmse = (scores.get((split, name)) for name in (model, baseline))
            rows.append((corpus, model, split, baseline, *rmse, row["value"], low, high, verdict))
    return pd.DataFrame(rows, columns=REPRESENTATION_VERDICTS.names)


def all_datasets(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows over all datasets together."""
    return scores[scores["dataset"].isna()] if "dataset" in scores else scores
