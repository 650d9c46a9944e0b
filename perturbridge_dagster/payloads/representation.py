"""The tasks of representation: corpora, models and what they are worth.

Belongs here: which files these outputs have. Does not belong here: computation (``perturbridge_dagster/representation``).
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from perturbridge_dagster.payloads.outputs import stamp_of, stamp_of_effects, write_figure
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import write_parquet

log = logging.getLogger("perturbridge")


def training_corpus(request: Request, folder: Path) -> None:
    """Write a training corpus from all effects among the inputs (``representation/corpus.py`` says which files)."""
    from perturbridge_dagster.effects.storage import open_effects
    from perturbridge_dagster.representation.corpus import write_corpus

    strata = [open_effects(request.path(name)) for name in sorted(request.inputs)]
    write_corpus(strata, folder, stamp_of_effects(request), name=request.arguments["corpus"], seed=request.arguments["seed"])


def compound_embeddings(request: Request, folder: Path) -> None:
    """Train a model on a corpus, evaluate it beside its baselines, and write its embeddings.

    Checkpoints lie beside the output while training runs, so that a request whose payload was killed goes on where it stopped.
    """
    from perturbridge_dagster.contract import EVALUATION, NEIGHBOURS
    from perturbridge_dagster.representation import figures
    from perturbridge_dagster.representation.corpus import open_corpus
    from perturbridge_dagster.representation.embeddings import neighbours, write_embeddings
    from perturbridge_dagster.representation.evaluation import describe_evaluation, evaluate
    from perturbridge_dagster.representation.training import SETTINGS, train

    corpus = open_corpus(request.path("corpus"))
    stamp = stamp_of(request, [corpus.stamp])
    settings = replace(SETTINGS[request.arguments["settings"]][request.arguments["model"]], seed=request.arguments["seed"])
    checkpoints = Path(request.folder) / f"{request.output.name}.training"
    result = train(corpus, settings, checkpoints, log.info)
    evaluation = evaluate(result.trained, corpus)
    embeddings = write_embeddings(folder / "embeddings.parquet", result.trained, corpus, stamp)
    names = embeddings.set_index("symbol")["perturbagen"]
    near = neighbours(embeddings, k=5)
    near = near.assign(perturbagen=near["symbol"].map(names), neighbour_perturbagen=near["neighbour"].map(names))
    write_parquet(folder / "evaluation.parquet", evaluation, EVALUATION, stamp)
    write_parquet(folder / "neighbours.parquet", near, NEIGHBOURS, stamp)
    (folder / "verdict.md").write_text(describe_evaluation(evaluation))
    shutil.copyfile(checkpoints / "best.pt", folder / "model.pt")
    most_seen = embeddings.sort_values("n_conditions", ascending=False).head(40).dropna(subset="perturbagen")
    write_figure(
        folder, "map.png", figures.embedding_map(embeddings, dict(zip(most_seen["symbol"], most_seen["perturbagen"], strict=True)))
    )
    write_figure(folder, "training.png", figures.training_curve(result.history))
    write_figure(folder, "baselines.png", figures.baseline_bars(evaluation))
    shutil.rmtree(checkpoints)
