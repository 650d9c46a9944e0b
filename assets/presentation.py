"""What a person sees of an asset: groups, column schemas, tables, pictures, and the stamp in words."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.partitions import PARTITIONS
from perturbridge_dagster.contract import Table
from perturbridge_dagster.stages import STAGES
from resources.slurm.ledger import figures_of
from resources.store import Output

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {
    "source_files": "1_sources",
    "harmonized_samples": "2_harmonized",
    "condition_effects": "3_effects",
    "replicate_effects": "3_effects",
    "matched_conditions": "4_agreement",
    "cross_dataset_agreement": "4_agreement",
    "replicate_agreement": "4_agreement",
    "compendium_agreement": "4_agreement",
    "published_comparison": "4_agreement",
    "training_corpus": "5_representation",
    "compound_embeddings": "5_representation",
    "holdout_evaluation": "5_representation",
    "op3_evaluation": "5_representation",
    "representation_report": "5_representation",
}
"""Stage → group. The UI sorts groups by name, so the numbers keep them in the order of the flow."""

OVERVIEW = "6_overview"


def column_schema(table: Table) -> dg.TableSchema:
    """Column schema of a table of the contract for the UI, with units and vocabularies."""
    columns = []
    for field in table:
        unit = f" [{field.unit}]" if field.unit else ""
        limits = [f"one of {', '.join(field.allowed)}"] if field.allowed else []
        limits += [f"matches {field.pattern}"] if field.pattern else []
        limits += [f"≥ {field.minimum:g}"] if field.minimum is not None else []
        limits += [f"≤ {field.maximum:g}"] if field.maximum is not None else []
        constraints = dg.TableColumnConstraints(nullable=field.nullable, unique=field.unique, other=limits)
        columns.append(dg.TableColumn(field.name, field.type, f"{field.meaning}{unit}", constraints=constraints))
    return dg.TableSchema(columns=columns)


def stage_asset(
    stage: str, *, table: Table, kinds: set[str], deps: Sequence[Any] = ()
) -> Callable[[Callable[..., dg.MaterializeResult[Any]]], dg.AssetsDefinition]:
    """Decorate the asset of a stage: name, group, partitions, code version and column schema come from the stage.

    Parameters
    ----------
    stage
        Name of the stage.
    table
        The main table it writes.
    kinds
        What it is made of, shown as icons.
    deps
        Upstream assets.
    """
    return dg.asset(
        name=stage,
        group_name=GROUPS[stage],
        partitions_def=PARTITIONS[stage],
        code_version=STAGES[stage].code_version,
        deps=deps,
        kinds=kinds,
        metadata={"dagster/column_schema": column_schema(table), "table": f"{table.name}: {table.meaning}"},
    )


def table_metadata(frame: pd.DataFrame, limit: int = 50) -> dg.MetadataValue[Any]:
    """A table for the UI: the first rows of a frame, rounded, with missing values empty."""
    if frame.empty:
        return dg.MetadataValue.md("no rows")
    schema = dg.TableSchema(columns=[dg.TableColumn(str(name)) for name in frame.columns])
    records = [dg.TableRecord({str(name): _cell(value) for name, value in row.items()}) for row in frame.head(limit).to_dict("records")]
    return dg.MetadataValue.table(records, schema=schema)


def _cell(value: Any) -> str | int | float | bool:
    import pandas as pd

    if pd.isna(value):
        return ""
    if isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.4g}") if isinstance(value, float) else value if isinstance(value, bool | int) else str(value)


def picture(png: bytes | Path) -> dg.MetadataValue[Any]:
    """A PNG picture shown in the UI."""
    data = png.read_bytes() if isinstance(png, Path) else png
    return dg.MetadataValue.md(f"![]({'data:image/png;base64,' + base64.b64encode(data).decode()})")


def _job_figures(outputs: Sequence[Output]) -> Mapping[str, Any]:
    """What SLURM says of the jobs that made outputs: the figures of the first, and the numbers of all; nothing where no job did."""
    figures = []
    for output in outputs:
        home = output.folder.parents[len(Path(STAGES[output.stage].folder).parts) + len(output.key)]
        figures.append(figures_of(home, output.done()))
    jobs = dict.fromkeys(str(job["slurm_job"]) for job in figures if job)
    return {**next(filter(None, figures), {}), **({"slurm_jobs": ", ".join(jobs)} if len(jobs) > 1 else {})}


def stamp_metadata(outputs: Sequence[Output]) -> Mapping[str, Any]:
    """What every materialization says: files, seconds, memory, licence, sources, and what taints it."""
    done = [output.done() for output in outputs]
    stamp = outputs[0].stamp()
    metadata: dict[str, Any] = {
        "files": dg.MetadataValue.path(str(outputs[0].folder if len(outputs) == 1 else outputs[0].folder.parent.parent)),
        "bytes": sum(file["bytes"] for record in done for file in record["files"].values()),
        "seconds": sum(record["seconds"] for record in done),
        "peak_memory_MiB": round(max(record["peak_memory_bytes"] for record in done) / 2**20),
        "licence": stamp.licence,
        "source_datasets": ", ".join(stamp.source_datasets) + (" (simulated)" if stamp.simulated else ""),
        "contract_version": stamp.contract_version,
        "stage_code_version": stamp.stage_code_version,
        **_job_figures(outputs),
    }
    if stamp.unaccepted_inputs:
        metadata["made_from_unaccepted_inputs"] = dg.MetadataValue.md("\n".join(f"- {name}" for name in stamp.unaccepted_inputs))
    return metadata
