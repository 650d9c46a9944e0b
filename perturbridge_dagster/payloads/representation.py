"""The tasks of representation: corpora, models and what they are worth.

Belongs here: which files these outputs have. Does not belong here: computation (``perturbridge_dagster/representation``).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.payloads.outputs import stamp_of, stamp_of_effects, write_figure
from perturbridge_dagster.payloads.progress import report_progress
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import read_stamp, write_parquet

if TYPE_CHECKING:
    import pandas as pd

    from perturbridge_dagster.representation.baselines import Predictor
    from perturbridge_dagster.representation.training import TrainingResult

log = logging.getLogger("perturbridge")


def training_corpus(request: Request, folder: Path) -> None:
    """Write a training corpus from all effects among the inputs (``representation/corpus.py`` says which files)."""
    from perturbridge_dagster.effects.storage import open_effects
    from perturbridge_dagster.representation.compounds import read_samples
    from perturbridge_dagster.representation.corpora import corpus_definition
    from perturbridge_dagster.representation.corpus import write_corpus

    arguments = request.arguments
    strata = [open_effects(request.path(name)) for name in sorted(request.inputs) if "/" in name]
    samples = read_samples(request.path(name) for name in sorted(request.inputs) if name.startswith("samples:"))
    definition = corpus_definition(arguments["corpus"], arguments["datasets"])
    stamp = stamp_of_effects(request)
    write_corpus(strata, folder, stamp, name=arguments["corpus"], definition=definition, samples=samples, seed=arguments["seed"])


def compound_embeddings(request: Request, folder: Path) -> None:
    """Train a model on a corpus with several seeds, evaluate it beside its baselines, and write its embeddings.

    ``embeddings``, ``neighbours``, ``stability``, ``mechanisms``, ``map``, ``training``, ``evaluation`` and ``profile_scores`` as Parquet,
    ``verdict.md``, the selected model of each seed in ``models/``, and figures. Checkpoints lie beside the output while training runs, so
    that a request whose payload was killed goes on where it stopped.
    """
    from perturbridge_dagster import contract
    from perturbridge_dagster.figures import draw
    from perturbridge_dagster.representation import geometry
    from perturbridge_dagster.representation.corpus import open_corpus
    from perturbridge_dagster.representation.embeddings import write_embeddings
    from perturbridge_dagster.representation.encoding import encode_split
    from perturbridge_dagster.representation.evaluation import ModelPredictor, evaluate
    from perturbridge_dagster.representation.figures import PICTURES
    from perturbridge_dagster.representation.settings import settings_for
    from perturbridge_dagster.representation.structure_baselines import fitted_baselines
    from perturbridge_dagster.representation.training import n_train_items, train
    from perturbridge_dagster.representation.verdicts import describe_evaluation

    corpus = open_corpus(request.path("corpus"))
    stamp = stamp_of(request, [corpus.stamp])
    name, model, seeds = (request.arguments[argument] for argument in ("corpus", "model", "seeds"))
    checkpoints = Path(request.folder) / f"{request.output.name}.training"
    budgeted = settings_for(request.arguments["settings"], model, n_train_items(corpus, model, "scalar"))
    results = {}
    for seed in seeds:
        log.info("%s on corpus %s, seed %d of %s", model, name, seed, ", ".join(map(str, seeds)))
        settings = replace(budgeted, seed=seed, processes=request.arguments["processes"])
        results[seed] = train(corpus, settings, checkpoints / str(seed), log.info, report=partial(report_progress, seed=seed))

    trained = {seed: result.trained for seed, result in results.items()}
    vocabularies = trained[seeds[0]].vocabularies
    predictors: list[Predictor] = [
        ModelPredictor(one, model if seed == seeds[0] else f"{model} (seed {seed})") for seed, one in trained.items()
    ]
    train_values, validation = (encode_split(corpus, split, vocabularies) for split in ("train", "val"))
    predictors += fitted_baselines(train_values, validation, vocabularies, corpus.compounds)
    evaluation = evaluate(predictors, corpus, vocabularies)
    (folder / "verdict.md").write_text(describe_evaluation(evaluation))

    embeddings = write_embeddings(folder / "embeddings.parquet", trained, corpus, stamp, name=name)
    names = embeddings.drop_duplicates("symbol").set_index("symbol")["perturbagen"]
    near = geometry.neighbours(embeddings, k=10)
    near = near.assign(perturbagen=near["symbol"].map(names), neighbour_perturbagen=near["neighbour"].map(names))
    mechanisms = geometry.mechanism_closeness(embeddings, corpus.compounds, names=(name, model))
    tables = {
        "neighbours": (near, contract.NEIGHBOURS),
        "stability": (geometry.neighbour_stability(embeddings), contract.EMBEDDING_STABILITY),
        "mechanisms": (mechanisms, contract.EMBEDDING_MECHANISMS),
        "map": (geometry.embedding_map(embeddings, corpus.compounds), contract.EMBEDDING_MAP),
        "training": (_histories(results), contract.TRAINING_HISTORY),
        "evaluation": (evaluation.scores, contract.EVALUATION),
        "profile_scores": (evaluation.profiles, contract.PROFILE_SCORES),
    }
    for table, (frame, of) in tables.items():
        write_parquet(folder / f"{table}.parquet", frame, of, stamp)
    for picture, png in draw(PICTURES, {table: frame for table, (frame, _) in tables.items()}).items():
        write_figure(folder, f"{picture}.png", png)
    (folder / "models").mkdir()
    for seed in seeds:
        shutil.copyfile(checkpoints / str(seed) / "best.pt", folder / "models" / f"{seed}.pt")
    shutil.rmtree(checkpoints)


def _histories(results: Mapping[int, TrainingResult]) -> pd.DataFrame:
    """Validation passes of the trainings of all seeds, with the one of the model that was kept."""
    import pandas as pd

    return pd.concat(
        [result.history.assign(seed=seed, selected=result.history["step"] == result.trained.step) for seed, result in results.items()],
        ignore_index=True,
    )


def representation_report(request: Request, folder: Path) -> None:
    """The report on corpora, models and evaluations: ``report.md``, ``report.html``, ``parts.parquet`` with what it is made of, and
    ``verdicts.parquet`` with every model beside every baseline.
    """
    import pandas as pd

    from perturbridge_dagster.contract import REPRESENTATION_PARTS, REPRESENTATION_VERDICTS
    from perturbridge_dagster.reports import to_html
    from perturbridge_dagster.representation import report
    from perturbridge_dagster.representation.report_parts import read_part, verdicts

    read = [read_part(*_stage_and_key(name), request.path(name)) for name in request.inputs]
    parts, sources = [part for part, _ in read], pd.DataFrame([row for _, row in read], columns=REPRESENTATION_PARTS.names)
    stamp = stamp_of(request, [read_stamp(min(request.path(name).glob("*.parquet"))) for name in request.inputs])
    write_parquet(folder / "parts.parquet", sources, REPRESENTATION_PARTS, stamp)
    write_parquet(folder / "verdicts.parquet", verdicts(parts), REPRESENTATION_VERDICTS, stamp)
    page = report.representation_report(parts, sources, left_out=request.arguments["left_out"])
    (folder / "report.md").write_text(page)
    (folder / "report.html").write_text(to_html(page, report.report_pictures(parts)))


def _stage_and_key(name: str) -> tuple[str, tuple[str, ...]]:
    """Stage and key of an input that the report was planned with."""
    stage, *key = name.split("/")
    return stage, tuple(key)
