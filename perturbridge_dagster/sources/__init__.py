"""From native files to harmonized samples: one reader a native format, one standardiser for all.

Belongs here: finding a dataset's native files, reading them, bringing them to the contract. Does not belong here: what is declared
of a dataset (``registry/``), resolving identifiers (``identity/``), writing the result (the payload of the stage).
"""

from __future__ import annotations

import logging
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
    from perturbridge_dagster.sources.native import NativeSamples

log = logging.getLogger("perturbridge")


def locate_files(dataset: str, folder: Path) -> dict[str, list[Path]]:
    """Find a dataset's native files in a folder and its subfolders.

    Parameters
    ----------
    dataset
        Id of the registry: a dataset, or a benchmark.
    folder
        Where to look. Linked folders are followed; hidden files and folders are not looked at, nor a compressed file beside its
        decompressed self.

    Returns
    -------
    Role of the registry → files, sorted; an empty list for an optional role without a file.

    Raises
    ------
    InputError
        If the folder or a required file is absent.
    """
    declared = registry.source(dataset)
    advice = declared.access.how
    if any(file.downloads for file in declared.files):
        advice += f" Or have them fetched: python -m perturbridge_dagster.sources.download {dataset}."
    if not folder.is_dir():
        raise InputError("there is no such folder.", dataset=dataset, file=folder, advice=advice)
    present = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        present += [Path(parent, name) for name in names if not name.startswith(".")]
    present.sort()
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
                advice=advice,
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
        Whether PubChem is asked for compounds that the snapshot does not know. What it says is used, and kept in the folder of
        `identity`, or in ``identity/`` of the platform's home where it has none. Without `network` no request is made;
        ``python -m assets.ask_pubchem DATASET --list`` lists what is not known.

    Returns
    -------
    Samples × genes. ``obs`` follows ``HARMONIZED_OBS`` with index sample_id, ``var`` follows ``HARMONIZED_VAR`` with index
    ensembl_id; ``X`` is int64 counts, CSR, or float32 log2 intensities, dense; rows are sorted by cell_type and sample_id.
    Counts of more than 2 GiB stay in a file (``samples.isbacked``) below ``TMPDIR``, which is gone when the samples are.
    ``uns["reconciliation"]`` says, as ``RECONCILIATION``, what each rule dropped, and ``uns["dropped_genes"]``, as ``DROPPED_GENES``,
    which genes were dropped and why. Columns that the registry declares for the dataset follow those of the contract in ``obs``.

    Raises
    ------
    InputError
        If a file is missing or unreadable, or its content cannot be brought to the contract.
    """
    from perturbridge_dagster.identity import snapshot
    from perturbridge_dagster.sources.assemble import assemble

    declared = registry.dataset(dataset)
    native = read_native(dataset, files)
    if network:
        identity = _with_new_answers(dataset, native, identity)
    return assemble(declared, native, identity or snapshot.shipped())


def read_native(dataset: str, files: Path) -> NativeSamples:
    """What the reader of a dataset finds in its native files.

    Parameters
    ----------
    dataset, files
        As for :func:`harmonize`.

    Raises
    ------
    InputError
        If the dataset has no reader, or a file is missing or unreadable.
    """
    declared = registry.dataset(dataset)
    reader = import_module(f"{__package__}.{declared.reader}")
    native: NativeSamples = reader.read(declared, locate_files(dataset, files))
    return native


def _with_new_answers(dataset: str, native: NativeSamples, identity: Identity | None) -> Identity:
    """Identity with what PubChem says of the compounds that it did not know."""
    from perturbridge_dagster.home import default_home
    from perturbridge_dagster.identity import snapshot
    from perturbridge_dagster.identity.asking import ask_compounds
    from perturbridge_dagster.identity.pubchem import PubChem
    from perturbridge_dagster.sources.assemble import distinct_compounds

    identity = identity or snapshot.shipped()
    folder = identity.folder or default_home() / snapshot.FOLDER
    known = snapshot.grown(identity, folder, dataset)
    ask_compounds(distinct_compounds(native.obs)[0], dataset, known.compounds, folder, PubChem(), log.info)
    return snapshot.grown(identity, folder, dataset)
