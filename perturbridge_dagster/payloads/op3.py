"""The task of the evaluation on OP3.

Belongs here: which files its output has. Does not belong here: computation (``perturbridge_dagster/representation/op3``).
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from perturbridge_dagster.payloads.outputs import stamp_of, write_figure
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import Stamp, write_json, write_parquet

log = logging.getLogger("perturbridge")


def op3_evaluation(request: Request, folder: Path) -> None:
    """Evaluate descriptors on OP3.

    ``scores``, ``summary`` and ``compounds`` as Parquet, ``report.json`` with what was used and which epochs were chosen, ``verdict.md``
    and a figure. Runs that are done lie beside the output, so that a request whose payload was killed goes on where it stopped.
    """
    from perturbridge_dagster import registry
    from perturbridge_dagster.contract import OP3_COMPOUNDS, OP3_SCORES, OP3_SUMMARY
    from perturbridge_dagster.identity.snapshot import shipped, with_answers
    from perturbridge_dagster.representation.corpus import open_corpus
    from perturbridge_dagster.representation.embeddings import read_embeddings
    from perturbridge_dagster.representation.op3 import comparison, compounds, data, descriptors, report
    from perturbridge_dagster.representation.op3.members import SETTINGS
    from perturbridge_dagster.sample import is_sample
    from perturbridge_dagster.sources import locate_files

    arguments, native = request.arguments, request.path("benchmark")
    settings = SETTINGS[arguments["settings"]]
    settings = settings.as_published() if arguments["faithful"] else settings
    table = data.read_table(locate_files(data.BENCHMARK, native))
    problem = data.resplit(table)
    identity = with_answers(request.path("identity"), compounds.DATASET) if "identity" in request.inputs else shipped()
    identified = compounds.identify(table, identity.compounds)

    described: list[tuple[descriptors.Descriptors, compounds.SeenCompounds | None]] = [
        (descriptors.no_descriptors(identified.index), None),
        (descriptors.morgan_descriptors(identified["smiles"]), None),
    ]
    licence = registry.benchmarks()[data.BENCHMARK].licence.class_
    stamps = [Stamp(request.task, request.code_version, request.digest, (data.BENCHMARK,), licence, simulated=is_sample(native))]
    used, train = {}, set(problem.train["sm_name"])
    for corpus in arguments["corpora"]:
        stored = open_corpus(request.path(f"corpus:{corpus}"))
        embeddings = read_embeddings(request.path(f"embeddings:{corpus}") / "embeddings.parquet")
        seed = embeddings["seed"].iloc[0]
        of_seed = embeddings[embeddings["seed"] == seed]
        name = f"{embeddings['model'].iloc[0]}_{corpus}"
        described.append(
            (
                descriptors.embedding_descriptors(name, identified["pubchem_cid"], of_seed, train),
                compounds.seen_compounds(stored, corpus),
            )
        )
        stamps.append(stored.stamp)
        used[name] = {"corpus": corpus, "seed": int(seed), "digest": request.inputs[f"embeddings:{corpus}"].checksum}

    kept = Path(request.folder) / f"{request.output.name}.runs"
    evaluated = comparison.evaluate(problem, [one for one, _ in described], settings, log.info, kept=kept)
    of_compounds = compounds.compound_table(problem, identified, described)
    seen = compounds.seen_test_compounds(of_compounds)
    summary = comparison.summary_table(evaluated.rows, seen)
    stamp = stamp_of(request, stamps)
    write_parquet(folder / "compounds.parquet", of_compounds, OP3_COMPOUNDS, stamp)
    write_parquet(folder / "scores.parquet", comparison.score_table(evaluated.rows, seen), OP3_SCORES, stamp)
    write_parquet(folder / "summary.parquet", summary, OP3_SUMMARY, stamp)
    said = {
        "embeddings": used,
        "left_out": arguments["left_out"],
        "how_epochs": report.how_epochs(settings),
        "members": report.members_in_words(settings),
        "epochs": evaluated.epochs,
        "ridge_penalty": evaluated.ridge_penalty,
        "settings": json.loads(json.dumps(settings, default=vars)),
    }
    write_json(folder / "report.json", said)
    (folder / "verdict.md").write_text(report.describe(summary, of_compounds, said, simulated=stamp.simulated))
    write_figure(folder, "differences.png", report.difference_figure(summary))
    shutil.rmtree(kept)
