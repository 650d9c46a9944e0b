"""The task of the hold-out evaluations.

Belongs here: which files its output has. Does not belong here: computation (``perturbridge_dagster/representation/holdout``).
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from perturbridge_dagster.payloads.outputs import stamp_of, write_figure
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import write_parquet

log = logging.getLogger("perturbridge")


def holdout_evaluation(request: Request, folder: Path) -> None:
    """Train and score what a split rule asks for.

    ``datasets``, ``promises``, ``runs``, ``errors``, ``summary``, ``comparisons`` and ``profiles`` as Parquet, ``verdict.md`` and
    figures. Finished runs and checkpoints lie beside the output meanwhile, so that a request whose payload was killed goes on where it
    stopped.
    """
    from perturbridge_dagster import contract
    from perturbridge_dagster.representation.corpus import open_corpus
    from perturbridge_dagster.representation.holdout import figures, scores, summary
    from perturbridge_dagster.representation.holdout.study import Study
    from perturbridge_dagster.representation.holdout.variants import HOLDOUT_SETTINGS

    corpus = open_corpus(request.path("corpus"))
    stamp = stamp_of(request, [corpus.stamp])
    rule, settings = request.arguments["rule"], HOLDOUT_SETTINGS[request.arguments["settings"]]
    settings = settings.as_published() if request.arguments["faithful"] else settings
    place = Path(request.folder) / f"{request.output.name}.training"
    study = Study(corpus, rule, settings, place, log.info)
    found = study.finish()
    runs = scores.runs_table(rule, found.runs, found.errors, [variant.name for variant in settings.variants(rule)])
    summarized, compared = summary.compare(rule, runs, found.errors)
    profiles = found.profiles.assign(rule=rule)
    tables = {
        "datasets": (study.targets, contract.HOLDOUT_DATASETS),
        "promises": (scores.promises_kept(corpus, rule, settings.variants(rule), study.scored), contract.HOLDOUT_PROMISES),
        "runs": (runs, contract.HOLDOUT_RUNS),
        "errors": (found.errors.assign(rule=rule), contract.HOLDOUT_ERRORS),
        "summary": (summarized, contract.HOLDOUT_SUMMARY),
        "comparisons": (compared, contract.HOLDOUT_COMPARISONS),
        "profiles": (profiles, contract.HOLDOUT_PROFILES),
    }
    for name, (frame, table) in tables.items():
        write_parquet(folder / f"{name}.parquet", frame, table, stamp)
    (folder / "verdict.md").write_text(summary.describe(rule, summarized, profiles, study.targets, settings.in_words(rule)))
    write_figure(folder, "rmse.png", figures.rmse_figure(summarized))
    write_figure(folder, "differences.png", figures.difference_figure(summarized))
    shutil.rmtree(place, ignore_errors=True)
