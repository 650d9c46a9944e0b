"""From native files to harmonized samples: one reader a native format, one standardiser for all.

Belongs here: finding a dataset's native files, reading them, bringing them to the contract. Does not belong here: what is declared
of a dataset (``registry/``), resolving identifiers (``identity/``), writing the result (the payload of the stage).
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from perturbridge_dagster.identity.snapshot import Identity


def locate_files(dataset: str, folder: Path) -> dict[str, list[Path]]:
    """Find a dataset's native files in a folder and its subfolders.

    Parameters
    ----------
    dataset
        Id of the registry: a dataset, or a benchmark.
    folder
        Where to look. Linked folders are followed; hidden files are not looked at, nor a compressed file beside its decompressed self.

    Returns
    -------
    Role of the registry → files, sorted; an empty list for an optional role without a file.

    Raises
    ------
    InputError
        If the folder or a required file is absent.
    """
    declared = registry.source(dataset)
    if not folder.is_dir():
        raise InputError("there is no such folder.", dataset=dataset, file=folder, advice=declared.access.how)
    present = sorted(
        Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names if not name.startswith(".")
    )
    located = {file.role: [path for path in present if file.matches(path.relative_to(folder))] for file in declared.files}
    for file in declared.files:
        if file.required and not located[file.role]:
            there = [str(path.relative_to(folder)) for path in present]
            shown = ", ".join(there[:10]) + (f" and {len(there) - 10:,} more" if len(there) > 10 else "")
            raise InputError(
                f"no {file.role} file {' or '.join(file.patterns)}; there is {shown or 'no file at all'}.",
                dataset=dataset,
                file=folder,
                expected=file.meaning,
                advice=declared.access.how,
            )
    return {role: [path for path in paths if path.with_suffix("") not in paths] for role, paths in located.items()}


def changed_files(folder: Path, recorded: pd.DataFrame) -> list[str]:
    """Native files that are gone or no longer as they were recorded.

    Parameters
    ----------
    folder
        Folder of the dataset.
    recorded
        Columns ``name``, ``bytes`` and ``modified_ns`` of the contract's table source_files.
    """
    changed = []
    for name, size, modified in recorded[["name", "bytes", "modified_ns"]].itertuples(index=False):
        stat = (folder / name).stat() if (folder / name).is_file() else None
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (size, modified):
            changed.append(str(name))
    return changed


def harmonize(dataset: str, files: Path, *, identity: Identity | None = None, network: bool = False) -> ad.AnnData:
    """Read a dataset's native files and bring them to the contract.

    Parameters
    ----------
    dataset
        Dataset id of the registry.
    files
        Folder of the native files.
    identity
        Answers to who a compound, gene or cell context is; the shipped snapshot by default.
    network
        Whether unanswered questions may be asked of live services. Not possible yet: identity comes from a snapshot.

    Returns
    -------
    Samples × genes. ``obs`` follows ``HARMONIZED_OBS`` with index sample_id, ``var`` follows ``HARMONIZED_VAR`` with index
    ensembl_id; ``X`` is int64 counts, CSR, or float32 log2 intensities, dense; rows are sorted by cell_type and sample_id.
    ``uns["reconciliation"]`` says, as ``RECONCILIATION``, what each rule dropped.

    Raises
    ------
    InputError
        If the dataset has no reader, a file is missing or unreadable, or its content cannot be brought to the contract.
    """
    from perturbridge_dagster.identity import snapshot
    from perturbridge_dagster.sources.assemble import assemble

    declared = registry.dataset(dataset)
    if network:
        raise InputError(
            "harmonizing with live look-ups is not supported.",
            dataset=dataset,
            advice="Pass network=False; identity then comes from the snapshot, the same in every run.",
        )
    reader = import_module(f"{__package__}.{declared.require_reader()}")
    native = reader.read(declared, locate_files(dataset, files))
    return assemble(declared, native, identity or snapshot.shipped())
