"""The tasks: one a stage, from the inputs of a request to the files of its output.

Each opens its inputs, calls the domain, and writes stamped files into the folder it is given; ``requests.execute`` makes that folder
appear. Belongs here: which files an output has. Does not belong here: computation.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.payloads import agreement, holdout, op3, representation
from perturbridge_dagster.payloads.outputs import stamp_of, write_figure
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import (
    Stamp,
    content_checksum,
    file_checksum,
    read_h5ad,
    read_stamp,
    write_h5ad,
    write_json,
    write_parquet,
)

if TYPE_CHECKING:
    import anndata as ad

    from perturbridge_dagster.identity.snapshot import Identity

log = logging.getLogger("perturbridge")

Task = Callable[[Request, Path], None]


# ---- sources -----------------------------------------------------------------------------------------------------------------


def source_files(request: Request, folder: Path) -> None:
    """Record a dataset's native files: ``source_files.parquet``, and ``source_files.json`` with their folder and joint checksum."""
    import pandas as pd

    from perturbridge_dagster.contract import SOURCE_FILES
    from perturbridge_dagster.registry import dataset as registered
    from perturbridge_dagster.sample import is_sample
    from perturbridge_dagster.sources import locate_files

    dataset, location = request.arguments["dataset"], request.path("folder")
    rows = []
    for role, files in locate_files(dataset, location).items():
        for file in files:
            log.info("reading %s for its checksum", file.name)
            stat = file.stat()
            rows.append((dataset, role, str(file.relative_to(location)), stat.st_size, stat.st_mtime_ns, file_checksum(file)))
    frame = pd.DataFrame(rows, columns=SOURCE_FILES.names).sort_values("name", ignore_index=True)
    stamp = Stamp(
        request.task,
        request.code_version,
        request.digest,
        (dataset,),
        registered(dataset).licence.class_,
        simulated=is_sample(location),
    )
    write_parquet(folder / "source_files.parquet", frame, SOURCE_FILES, stamp)
    checksum = hashlib.sha256(json.dumps(frame[["name", "sha256"]].to_numpy().tolist()).encode()).hexdigest()
    write_json(folder / "source_files.json", {"folder": str(location), "checksum": checksum})


def _unchanged_location(dataset: str, recorded: Path) -> Path:
    """Folder of a dataset's native files, refused if one of them is no longer the recorded one."""
    from perturbridge_dagster.sources import changed_files
    from perturbridge_dagster.written import read_parquet

    location = Path(json.loads((recorded / "source_files.json").read_text())["folder"])
    changed = changed_files(location, read_parquet(recorded / "source_files.parquet", "source_files"))
    if changed:
        raise InputError(
            "native files have changed or gone since they were recorded",
            dataset=dataset,
            file=location,
            rows=changed,
            advice="Rematerialize source_files.",
        )
    return location


# ---- harmonized samples ------------------------------------------------------------------------------------------------------


def _identity(request: Request) -> Identity | None:
    """The shipped answers with those of the user's snapshot, None where the request names no such snapshot."""
    from perturbridge_dagster.identity.snapshot import with_answers

    if "identity" not in request.inputs:
        return None
    folder = request.path("identity")
    identity = with_answers(folder, request.arguments["dataset"])
    if identity.grown_version != request.inputs["identity"].checksum:
        raise InputError(
            "identity answers have changed since harmonized_samples was planned",
            dataset=request.arguments["dataset"],
            file=folder,
            advice="Rematerialize harmonized_samples once no one asks for more.",
        )
    return identity


def harmonized_samples(request: Request, folder: Path) -> None:
    """Harmonize a dataset: ``strata/<stratum>.h5ad``, and obs, var, strata, reconciliation, dropped genes, compound identity as Parquet."""
    from perturbridge_dagster.sources import harmonize
    from perturbridge_dagster.sources.spilled import spilling_to

    dataset, recorded = request.arguments["dataset"], request.path("source_files")
    # counts wait on the disk of the output, which has room for them, and outside of it, since all that is in it is recorded
    with TemporaryDirectory(dir=folder.parent, prefix=".", suffix=".partial", ignore_cleanup_errors=True) as scratch:
        with spilling_to(Path(scratch)):
            samples = harmonize(dataset, _unchanged_location(dataset, recorded), identity=_identity(request))
        _write_harmonized(samples, request, folder)
        if samples.isbacked:
            samples.file.close()


def _write_harmonized(samples: ad.AnnData, request: Request, folder: Path) -> None:
    """Write the files of :func:`harmonized_samples`."""
    from perturbridge_dagster.contract import COMPOUND_IDENTITY, DROPPED_GENES, HARMONIZED_VAR, RECONCILIATION, STRATA
    from perturbridge_dagster.effects.strata import Stratum, split_strata, strata_table
    from perturbridge_dagster.quality.figures import samples_by_cell_context
    from perturbridge_dagster.registry import dataset as registered

    dataset, recorded = request.arguments["dataset"], request.path("source_files")
    stamp = stamp_of(request, [read_stamp(recorded / "source_files.parquet")])
    # of the whole dataset: not to be repeated in the file of each stratum
    dropped_genes, compounds = samples.uns.pop("dropped_genes"), samples.uns.pop("compound_identity")

    def written_strata() -> Iterator[tuple[Stratum, ad.AnnData, str]]:
        for stratum, part in split_strata(samples, dataset):
            file = f"strata/{stratum.stratum}.h5ad"
            write_h5ad(folder / file, part, stamp)
            log.info("%s: stratum %s, %d samples", dataset, stratum.stratum, part.n_obs)
            yield stratum, part, file

    obs = samples.obs.reset_index()
    write_parquet(folder / "strata.parquet", strata_table(written_strata()), STRATA, stamp)
    write_parquet(folder / "obs.parquet", obs, registered(dataset).obs_table, stamp)
    write_parquet(folder / "var.parquet", samples.var.reset_index(), HARMONIZED_VAR, stamp)
    write_parquet(folder / "reconciliation.parquet", samples.uns["reconciliation"], RECONCILIATION, stamp)
    write_parquet(folder / "dropped_genes.parquet", dropped_genes, DROPPED_GENES, stamp)
    write_parquet(folder / "compound_identity.parquet", compounds, COMPOUND_IDENTITY, stamp)
    labels = dict(zip(obs["cell_type"].astype(str), obs["source_cell_context"].astype(str), strict=True))
    write_figure(folder, "samples.png", samples_by_cell_context(obs, labels))


# ---- effects -----------------------------------------------------------------------------------------------------------------

EFFECTS_OPTIONS = ("replicates", "normalized", "min_cells", "engine", "gene_filter", "standard_errors", "times", "without_controls")
"""Arguments of a request that are options of ``estimate_effects``; one that a request does not name has its default."""


def effects(request: Request, folder: Path) -> None:
    """Estimate the effects of a stratum and write them (``effects/storage.py`` says which files)."""
    from perturbridge_dagster.effects import estimate_effects
    from perturbridge_dagster.effects.figures import p_value_histogram, volcano
    from perturbridge_dagster.effects.r import r_code_version
    from perturbridge_dagster.effects.storage import open_effects, write_effects

    if not request.code_version.endswith(r_code_version()):
        raise PerturbridgeError(f"effects were asked for with {request.code_version}, but this machine has {r_code_version()}.")
    arguments, file = request.arguments, request.path("samples")
    samples = read_h5ad(file, "harmonized_samples")
    if samples.uns["stratum"] != arguments["stratum"] or content_checksum(samples) != request.inputs["samples"].checksum:
        raise InputError(
            "is not what harmonized_samples recorded: its content has changed since, or it is the file of another stratum",
            dataset=arguments["dataset"],
            file=file,
            advice="Rematerialize harmonized_samples.",
        )
    table = estimate_effects(samples, **{name: arguments[name] for name in EFFECTS_OPTIONS if name in arguments})
    write_effects(table, folder, stamp_of(request, [read_stamp(file)]))
    stored = open_effects(folder)
    write_figure(folder, "p_values.png", p_value_histogram(stored))
    write_figure(folder, "volcano.png", volcano(stored))


# ---- published ---------------------------------------------------------------------------------------------------------------


def published_comparison(request: Request, folder: Path) -> None:
    """Compare a stratum's effects with the published ones: ``comparison.parquet``, ``strata.parquet``, ``genes.parquet``,
    ``unmatched.parquet``, and ``report.json`` with the published files and what was fitted again.
    """
    from perturbridge_dagster.contract import PUBLISHED_COMPARISON, PUBLISHED_GENES, PUBLISHED_STRATA, PUBLISHED_UNMATCHED
    from perturbridge_dagster.effects.storage import open_effects
    from perturbridge_dagster.published import compare_stratum, open_published_effects
    from perturbridge_dagster.published.figures import comparison_figure
    from perturbridge_dagster.published.refit import stored_refit

    dataset, stratum = request.arguments["dataset"], request.arguments["stratum"]
    files = [request.path("published") / name for name in request.arguments["files"]]
    ours = open_effects(request.path("effects"))
    with open_published_effects(files, dataset, stratum) as published, ExitStack() as stack:
        refit, said = None, "the release fitted the stratum whole"
        if len(published.batches) > 1:
            scratch = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
            samples = read_h5ad(request.path("samples"), "harmonized_samples")
            refit, said = stored_refit(samples, published, ours, scratch)
        log.info("%s: %s", stratum, said)
        comparison = compare_stratum(published, ours, refit)
    stamp = stamp_of(request, [ours.stamp])
    write_parquet(folder / "comparison.parquet", comparison.contrasts, PUBLISHED_COMPARISON, stamp)
    write_parquet(folder / "strata.parquet", comparison.strata, PUBLISHED_STRATA, stamp)
    write_parquet(folder / "genes.parquet", comparison.genes, PUBLISHED_GENES, stamp)
    write_parquet(folder / "unmatched.parquet", comparison.unmatched, PUBLISHED_UNMATCHED, stamp)
    compared = [{"name": file.name, "bytes": file.stat().st_size, "sha256": file_checksum(file)} for file in files]
    write_json(folder / "report.json", {"published_files": compared, "refit": said})
    write_figure(folder, "comparison.png", comparison_figure(comparison))


TASKS: dict[str, Task] = {
    "source_files": source_files,
    "harmonized_samples": harmonized_samples,
    "condition_effects": effects,
    "replicate_effects": effects,
    "matched_conditions": agreement.matched_conditions,
    "cross_dataset_agreement": agreement.cross_dataset_agreement,
    "replicate_agreement": agreement.replicate_agreement,
    "compendium_agreement": agreement.compendium_agreement,
    "published_comparison": published_comparison,
    "training_corpus": representation.training_corpus,
    "compound_embeddings": representation.compound_embeddings,
    "holdout_evaluation": holdout.holdout_evaluation,
    "op3_evaluation": op3.op3_evaluation,
    "representation_report": representation.representation_report,
}
"""Stage → its task."""
