"""What stages need of a machine, measured on simulated shapes; and the coefficients of the model that follow.

    python -m bench.needs measure                   # every case that has no row yet, smallest first, each in a process of its own
    python -m bench.needs measure --only effects    # cases whose name has this in it
    python -m bench.needs measure --again           # also those that have a row
    python -m bench.needs adopt                     # rows of the published strata that bench/effects.py has measured
    python -m bench.needs fit                       # coefficients into perturbridge_dagster/payloads/needs.json
    python -m bench.needs report                    # measured beside asked, as Markdown, for docs/compute-needs.md

**measure.** Writes the inputs of a case below ``--folder``, then runs the payload that the platform would (``payloads/run.py``) with two
requests: a tiny one of the same task, which starts R and loads compiled code, then the case. Rows go to ``bench/needs.csv``: the shape as
``payloads/needs.py`` sees it, seconds, CPU seconds (of all cores, so that other work on the machine counts little), peak memory of the
process. Effects are of whole strata of the published shapes (``shapes.py``), in both modes; corpora, training and agreement are made of
these effects; harmonizing reads the files of ``native_files.py``. Cases that the fit does not see are marked as held out.

**fit.** Non-negative least squares of relative errors, then raised until no fitted run lies above its prediction. The time that is fitted
is CPU seconds, as though one core did everything: a payload with more is done sooner.

Linux only. Disk: 20 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.process import machine
from bench.shapes import Shape
from perturbridge_dagster.agreement.options import TAKEN, AgreementOptions
from perturbridge_dagster.payloads import needs
from perturbridge_dagster.payloads.handover import payload_environment, write_requests
from perturbridge_dagster.payloads.requests import Input, Request, failure_of, verified
from perturbridge_dagster.stages import STAGES

if TYPE_CHECKING:
    from perturbridge_dagster.written import Stamp

CHECKOUT = Path(__file__).resolve().parents[1]
ROWS = CHECKOUT / "bench" / "needs.csv"
COEFFICIENTS = Path(needs.__file__).with_name("needs.json")
FOLDER = Path(os.environ.get("PERTURBRIDGE_HOME", CHECKOUT / ".perturbridge")) / "bench" / "needs"
GIB = 2**30
CONTEXT = "CVCL_0023"

FEWEST_RUNS = 4
"""A model with fewer runs is not fitted; its coefficients in the file are assumed."""


@dataclass(frozen=True)
class Case:
    """A run to measure.

    Attributes
    ----------
    name
        Unique.
    prepare
        Writes the inputs into a folder and gives the request.
    held_out
        Whether the fit does not see it.
    """

    name: str
    prepare: Callable[[Path], Request]
    held_out: bool = False


# ---- effects -----------------------------------------------------------------------------------------------------------------


def _shape(dataset: str, n_treated: int, n_conditions: int, n_controls: int, n_plates: int, n_genes: int) -> Shape:
    return Shape(dataset, 0, CONTEXT, "grouped", n_treated, n_conditions, n_controls, n_plates, 1, n_genes, 1, {}, False)


STRATA = {
    "tiny": _shape("op3", 60, 20, 8, 3, 400),
    "tiny normalized": _shape("l1000_phase1", 60, 20, 8, 3, 400),
    "gdpx2": _shape("gdpx2", 180, 60, 12, 4, 23_000),
    "op3": _shape("op3", 420, 145, 90, 6, 18_000),
    "l1000 small": _shape("l1000_phase1", 1_200, 400, 100, 10, 978),
    "sciplex": _shape("sciplex", 1_668, 914, 38, 20, 56_799),
    "tahoe": _shape("tahoe", 1_100, 1_100, 40, 14, 62_000),
    "l1000": _shape("l1000_phase1", 8_000, 2_000, 500, 40, 978),
    "cigs_tcm": _shape("cigs_tcm", 10_548, 3_614, 700, 60, 3_300),
    "dilimap": _shape("dilimap_train", 1_500, 500, 60, 20, 33_000),
    "l1000 large": _shape("l1000_phase1", 30_000, 8_000, 2_000, 100, 978),
    "vcpi": _shape("vcpi_0002", 3_500, 1_750, 120, 18, 78_677),
    "novartis": _shape("novartis", 4_000, 1_300, 150, 20, 25_000),
}
"""Name → stratum, by size; sizes are those of published strata, or parts of them. The first two only start things."""

HELD_OUT = ("op3", "dilimap", "l1000", "novartis")


def _stamp(shape: Shape, stage: str) -> Stamp:
    from perturbridge_dagster.written import Stamp

    return Stamp(stage, STAGES[stage].code_version, "bench", (shape.dataset,), "open", simulated=True)


def _write_samples(shape: Shape, folder: Path) -> str:
    """Write a stratum as harmonized samples; its checksum."""
    from bench.simulate import simulated_stratum, write_stratum
    from perturbridge_dagster.contract import STRATA as TABLE
    from perturbridge_dagster.effects.strata import Stratum, strata_table
    from perturbridge_dagster.written import read_h5ad, read_parquet, write_h5ad, write_parquet

    file = folder / "strata" / f"{shape.cell_context}.h5ad"
    if not (folder / "strata.parquet").is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        if shape.normalized:
            write_h5ad(file, simulated_stratum(shape), _stamp(shape, "harmonized_samples"))
        else:
            write_stratum(shape, file)
        samples = read_h5ad(file, "harmonized_samples")
        stratum = Stratum(shape.dataset, shape.cell_context, shape.cell_context, shape.cell_context, (("cell_type", shape.cell_context),))
        table = strata_table([(stratum, samples, f"strata/{file.name}")])
        write_parquet(folder / "strata.parquet", table, TABLE, _stamp(shape, "harmonized_samples"))
    return str(read_parquet(folder / "strata.parquet", "harmonized_samples")["checksum"].iloc[0])


def effects_request(name: str, replicates: str, folder: Path) -> Request:
    """The request for the effects of a stratum in a mode, its samples written."""
    from perturbridge_dagster.effects.r import r_code_version

    shape = STRATA[name]
    samples = folder / "samples" / name.replace(" ", "_")
    checksum = _write_samples(shape, samples)
    stage = {"grouped": "condition_effects", "separate": "replicate_effects"}[replicates]
    arguments = {
        "dataset": shape.dataset,
        "stratum": shape.cell_context,
        "replicates": replicates,
        "normalized": shape.normalized,
        "unaccepted_inputs": [],
    }
    inputs = {"samples": Input(str(samples / "strata" / f"{shape.cell_context}.h5ad"), checksum)}
    code = f"{STAGES[stage].code_version}; {r_code_version()}"
    return Request(stage, arguments, inputs, code, str(folder / "outputs" / f"{stage}-{name.replace(' ', '_')}"))


def _effects_of(name: str, replicates: str, folder: Path) -> Request:
    """A request for effects that have been made."""
    request = effects_request(name, replicates, folder)
    if verified(request, deep=False) is None:
        _run(folder, [request])
    return request


# ---- what is made of effects ---------------------------------------------------------------------------------------------------


def _of_effects(stage: str, arguments: dict[str, Any], strata: Sequence[tuple[str, str]], replicates: str, folder: Path) -> Request:
    """A request of a stage that reads effects: (name in :data:`STRATA`, dataset in whose place it stands)."""
    inputs: dict[str, Input] = {}
    for name, dataset in strata:
        made = _effects_of(name, replicates, folder)
        inputs[f"{dataset}/{CONTEXT}{'' if f'{dataset}/{CONTEXT}' not in inputs else len(inputs)}"] = Input(str(made.output), made.digest)
    key = "-".join(name for name, _ in strata).replace(" ", "_")
    options = AgreementOptions.model_validate({}).model_dump(include=set(TAKEN.get(stage, ())))
    given = {"left_out": [], "unaccepted_inputs": [], **options, **arguments}
    return Request(stage, given, inputs, STAGES[stage].code_version, str(folder / "outputs" / f"{stage}-{key}"))


def _agreement(left: str, right: str, folder: Path) -> Request:
    datasets = {"left": STRATA[left].dataset, "right": STRATA[right].dataset}
    strata = [(left, datasets["left"]), (right, datasets["right"])]
    matching = _of_effects("matched_conditions", datasets, strata, "grouped", folder)
    if verified(matching) is None:
        _run(folder, [matching])
    scoring = _of_effects("cross_dataset_agreement", datasets, strata, "grouped", folder)
    return replace(scoring, inputs={**scoring.inputs, "matched": Input(str(matching.output), matching.digest)})


def _replicates(name: str, folder: Path) -> Request:
    dataset = STRATA[name].dataset
    return _of_effects("replicate_agreement", {"dataset": dataset}, [(name, dataset)], "separate", folder)


def _corpus(names: Sequence[str], folder: Path) -> Request:
    strata = [(name, STRATA[name].dataset) for name in names]
    arguments = {"corpus": "all", "datasets": sorted({dataset for _, dataset in strata}), "seed": 13}
    return _of_effects("training_corpus", arguments, strata, "grouped", folder)


def _of_corpus(stage: str, arguments: Mapping[str, Any], names: Sequence[str], folder: Path) -> Request:
    """A request of a stage that trains on a corpus."""
    corpus = _corpus(names, folder)
    if verified(corpus, deep=False) is None:
        _run(folder, [corpus])
    given = {"corpus": "all", "settings": "small", "unaccepted_inputs": [], **arguments}
    inputs = {"corpus": Input(str(corpus.output), corpus.digest)}
    key = "-".join(names).replace(" ", "_")
    return Request(stage, given, inputs, STAGES[stage].code_version, str(folder / "outputs" / f"{stage}-{key}"))


_TRAINING = ("compound_embeddings", {"model": "scalar_lpm", "seeds": [13], "processes": 1})
_HOLDOUT = ("holdout_evaluation", {"rule": "molecules", "faithful": False})
"""Stage and arguments of what trains on a corpus."""


# ---- harmonizing ---------------------------------------------------------------------------------------------------------------


def _harmonizing(dataset: str, n_samples: int, folder: Path) -> Request:
    from bench.native_files import write_l1000, write_vcpi
    from perturbridge_dagster.payloads.requests import execute
    from perturbridge_dagster.payloads.tasks import TASKS

    native = folder / "native" / f"{dataset}-{n_samples}"
    if not native.is_dir():
        native.mkdir(parents=True)
        (write_vcpi if dataset == "vcpi_0001" else write_l1000)(native, n_samples)
    recording = Request(
        "source_files",
        {"dataset": dataset, "unaccepted_inputs": []},
        {"folder": Input(str(native), "native")},
        "1",
        str(native.with_suffix(".recorded")),
    )
    recorded = execute(recording, TASKS["source_files"])
    if recorded.error:
        raise RuntimeError(recorded.error)
    inputs = {"source_files": Input(str(recording.output), recording.digest)}
    arguments = {"dataset": dataset, "unaccepted_inputs": []}
    return Request(
        "harmonized_samples",
        arguments,
        inputs,
        STAGES["harmonized_samples"].code_version,
        str(folder / "outputs" / f"harmonized-{dataset}-{n_samples}"),
    )


# ---- cases ---------------------------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """Every case, by stage, smallest first."""
    found = [
        Case(f"{replicates} effects, {name}", partial(effects_request, name, replicates), name in HELD_OUT)
        for name in STRATA
        if not name.startswith("tiny")
        for replicates in ("grouped", "separate")
    ]
    pairs = [
        ("gdpx2", "op3"),
        ("op3", "sciplex"),
        ("sciplex", "dilimap"),
        ("l1000", "cigs_tcm"),
        ("tahoe", "dilimap"),
        ("novartis", "vcpi"),
    ]
    found += [
        Case(f"agreement, {left} and {right}", partial(_agreement, left, right), number in (1, 4))
        for number, (left, right) in enumerate(pairs)
    ]
    found += [
        Case(f"replicate agreement, {name}", partial(_replicates, name), name in ("op3", "dilimap"))
        for name in ("gdpx2", "op3", "sciplex", "l1000", "dilimap", "cigs_tcm", "novartis")
    ]
    corpora = [
        ("gdpx2",),
        ("op3",),
        ("gdpx2", "l1000 small"),
        ("sciplex", "op3"),
        ("sciplex", "dilimap", "cigs_tcm"),
        ("novartis", "l1000 large", "dilimap"),
    ]
    found += [Case(f"corpus, {' and '.join(names)}", partial(_corpus, names), number in (1, 3)) for number, names in enumerate(corpora)]
    # what is held out must be known from another dataset
    several = [("gdpx2", "op3"), *corpora[2:5], ("tahoe", "vcpi"), corpora[5]]
    found += [
        Case(f"{words}, {' and '.join(names)}", partial(_of_corpus, stage, arguments, names), number in (1, 3))
        for words, (stage, arguments) in {"training": _TRAINING, "holdout": _HOLDOUT}.items()
        for number, names in enumerate(several)
    ]
    found += [
        Case(f"harmonize, {dataset}, {n_samples}", partial(_harmonizing, dataset, n_samples), n_samples in (10_000, 3_000))
        for dataset, sizes in {"l1000_phase1": (3_000, 10_000, 60_000), "vcpi_0001": (1_000, 3_000, 12_000)}.items()
        for n_samples in sizes
    ]
    return found


def _before(request: Request, folder: Path) -> Iterator[Request]:
    """A tiny request of the same task, where one is quickly made."""
    if "effects" in request.task:
        tiny = "tiny normalized" if request.arguments["normalized"] else "tiny"
        yield effects_request(tiny, request.arguments["replicates"], folder)
    elif request.task == "cross_dataset_agreement":
        yield _agreement("tiny", "tiny normalized", folder)
    elif request.task == "replicate_agreement":
        yield _replicates("tiny", folder)
    elif request.task == "training_corpus":
        yield _corpus(["tiny"], folder)


# ---- measuring -----------------------------------------------------------------------------------------------------------------


def _run(folder: Path, requests: Sequence[Request]) -> None:
    """Run requests as a payload, and say what went wrong where something did."""
    file = write_requests(folder, "bench", requests)
    environment = {**os.environ, **payload_environment(folder)}
    subprocess.run([sys.executable, "-m", "perturbridge_dagster.payloads.run", str(file)], check=True, cwd=CHECKOUT, env=environment)
    for request in requests:
        if error := failure_of(request):
            raise RuntimeError(f"{request.task}: {error}")


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Run a case; a row of the table."""
    request = case.prepare(folder)
    before = list(_before(request, folder))
    for one in (*before, request):
        shutil.rmtree(one.output, ignore_errors=True)
    began = time.perf_counter()
    _run(folder, [*before, request])
    wall = time.perf_counter() - began
    done = verified(request, deep=False)
    assert done is not None, "the payload said nothing of it"
    return {
        "task": request.task,
        "case": case.name,
        "held_out": case.held_out,
        **needs.sizes_of(request),
        "seconds": done["seconds"],
        "cpu_seconds": done["cpu_seconds"],
        "peak_memory_bytes": done["peak_memory_bytes"],
        "payload_seconds": round(wall, 1),
    }


def read_rows(file: Path = ROWS) -> pd.DataFrame:
    """What was measured; sizes that a task's inputs do not have are missing."""
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["task", "case", "held_out"])


def measure_all(chosen: Sequence[Case], folder: Path, *, again: bool) -> None:
    """Measure cases, adding to the table after each."""
    for case in chosen:
        if case.name in set(read_rows()["case"]) and not again:
            continue
        row = measure(case, folder)
        print(
            f"{case.name}: {row['seconds']:.1f} s, {row['cpu_seconds']:.1f} s of CPU, {row['peak_memory_bytes'] / GIB:.2f} GiB", flush=True
        )
        rows = read_rows()  # only now, since another process may have added some
        rows = pd.concat([rows[rows["case"] != case.name], pd.DataFrame([row])], ignore_index=True)
        order = {known.name: number for number, known in enumerate(cases())}
        rows = rows.sort_values("case", key=lambda names: names.map(order), kind="stable", ignore_index=True)
        rows.to_csv(ROWS, index=False, float_format="%.6g")


def adopt(results: Path) -> None:
    """Add rows of strata that ``bench/effects.py`` has measured: of published sizes, never fitted. Their peak holds the simulation, too."""
    found = []
    for file in sorted(results.glob("*-*-*-*.json")):
        result = json.loads(file.read_text())
        shape = Shape(**result["shape"])
        n_values = result.get("n_values") or WHOLE_VALUES[file.stem]
        kind = "normalized" if shape.normalized else "counts"
        peak = result["peak_bytes"]
        found.append(
            {
                "task": "condition_effects" if shape.replicates == "grouped" else "replicate_effects",
                "case": f"bench.effects, {file.stem}",
                "held_out": True,
                kind: n_values,
                f"contrasts_{kind}": shape.n_contrasts * n_values / shape.n_samples,
                "seconds": sum(result["seconds"].values()),
                "peak_memory_bytes": max(peak.values()) if isinstance(peak, dict) else peak,
            }
        )
    rows = read_rows()
    rows = pd.concat([rows[~rows["case"].str.startswith("bench.effects")], pd.DataFrame(found)], ignore_index=True)
    rows.to_csv(ROWS, index=False, float_format="%.6g")


WHOLE_VALUES = dict.fromkeys(("whole-vcpi_0001-0-CVCL_0006-grouped", "whole-vcpi_0001-0-CVCL_0006-separate"), 275_000_000)
"""Counts of the strata that ``bench/effects.py vcpi`` wrote, which its results do not hold."""


# ---- fitting -------------------------------------------------------------------------------------------------------------------


def fit(rows: pd.DataFrame, target: str, terms: Sequence[str]) -> dict[str, float]:
    """Non-negative coefficients of the sizes, so that no row lies above its prediction.

    Parameters
    ----------
    rows
        Runs of one task or of tasks that share a model, with a column for each size.
    target
        Column that is predicted.
    terms
        Columns of sizes that it may depend on; those that no run has are left out.
    """
    from scipy.optimize import nnls

    terms = [name for name in terms if name in rows and rows[name].fillna(0).any()]
    sizes = np.column_stack([np.ones(len(rows)), *(rows[name].fillna(0.0).to_numpy(dtype=float) for name in terms)])
    scale = sizes.max(axis=0)
    values = rows[target].to_numpy(dtype=float)
    found, _ = nnls(sizes / scale / values[:, np.newaxis], np.ones(len(rows)))
    raised = found * max(1.0, float(np.max(values / (sizes / scale @ found))))
    return {name: float(f"{value:.4g}") for name, value in zip((needs.CONSTANT, *terms), raised / scale, strict=True) if value > 0}


def sizes_of_row(row: Mapping[Any, Any]) -> dict[str, float]:
    """The sizes that a row of the table holds."""
    return {name: row[name] for name in needs.TERMS if name in row and not pd.isna(row[name])}


def coefficients(rows: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Coefficients of every model that was measured, from the rows that are not held out.

    Those of sizes that no such run has stay as they are: of harmonizing, the cells of single-cell files.
    """
    assumed = json.loads(COEFFICIENTS.read_text())
    rows = rows.join(pd.DataFrame([needs.bounded(sizes_of_row(row)) for row in rows.to_dict("records")], index=rows.index))
    seen = rows[~rows["held_out"].astype(bool)]
    found = {}
    for model, tasks in needs.fitted_models().items():
        of = seen[seen["task"].isin(tasks)]
        if len(of) >= FEWEST_RUNS:
            measured = {needs.CONSTANT, *(name for name in needs.TERMS if name in of and of[name].fillna(0).any())}
            found[model] = {
                target: fit(of, column, terms) | {name: value for name, value in assumed[model][target].items() if name not in measured}
                for target, column, terms in (
                    ("memory", "peak_memory_bytes", needs.MEMORY_TERMS),
                    ("seconds", "cpu_seconds", needs.SECONDS_TERMS),
                )
            }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "adopt", "fit", "report"))
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--again", action="store_true", help="measure cases that have a row, too")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where inputs and outputs lie")
    options = parser.parse_args(arguments)
    if options.what == "measure":
        options.folder.mkdir(parents=True, exist_ok=True)
        measure_all([case for case in cases() if options.only in case.name], options.folder, again=options.again)
    elif options.what == "adopt":
        adopt(options.folder.parent / "effects")
    elif options.what == "fit":
        fitted = {**json.loads(COEFFICIENTS.read_text()), **coefficients(read_rows())}
        COEFFICIENTS.write_text(json.dumps(fitted, indent=1) + "\n")
    else:
        report(read_rows())


def report(rows: pd.DataFrame) -> None:
    """Print measured beside asked."""
    print(f"Measured on {json.dumps(machine())}\n")
    print("| case | held out | peak GiB | asked | CPU s | wall s | asked s |\n|---|---|---:|---:|---:|---:|---:|")
    for row in rows.to_dict("records"):
        asked = needs.from_sizes(row["task"], sizes_of_row(row))
        print(
            f"| {row['case']} | {'yes' if row['held_out'] else ''} | {row['peak_memory_bytes'] / GIB:.2f} | {asked.memory_bytes / GIB:.1f} "
            f"| {row['cpu_seconds']:.1f} | {row['seconds']:.1f} | {asked.seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
