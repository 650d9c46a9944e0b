"""The identity answers that a run uses, in one object: those shipped with the code, and those that a user's snapshot has grown by.

Belongs here: loading them. Does not belong here: rebuilding the shipped ones (``build_snapshot.py``) or asking for more
(``asking.py``). A run that takes its identity from here never depends on a live service.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from perturbridge_dagster.identity import tables
from perturbridge_dagster.identity.answers import answers_checksum, read_answers
from perturbridge_dagster.identity.cell_contexts import CellContextIdentity
from perturbridge_dagster.identity.compounds import CompoundIdentity
from perturbridge_dagster.identity.ensembl import ARCHIVE_TABLE, archive_checksum, load_archive
from perturbridge_dagster.identity.genes import GeneIdentity
from perturbridge_dagster.identity.structures import load_structures
from perturbridge_dagster.written import file_checksum

FOLDER = "identity"
"""Folder of the user's snapshot below the platform's home."""


@dataclass(frozen=True, eq=False)
class Identity:
    """Where a run takes its identity answers from.

    Attributes
    ----------
    compounds, genes, cell_contexts
        The answers.
    base_version
        Says which answers these are without those of a user's snapshot; for the shipped ones, the SHA-256 of their tables.
    grown_version
        Says which answers a user's snapshot adds; None where it adds none.
    folder
        The user's snapshot, where new answers are kept; None where there is none.
    """

    compounds: CompoundIdentity
    genes: GeneIdentity
    cell_contexts: CellContextIdentity
    base_version: str
    grown_version: str | None = None
    folder: Path | None = None

    @property
    def version(self) -> str:
        """Says which answers these are, all together."""
        if self.grown_version is None:
            return self.base_version
        return hashlib.sha256(f"{self.base_version}\0{self.grown_version}".encode()).hexdigest()


@cache
def shipped() -> Identity:
    """The shipped answers, read once a process."""
    return Identity(
        compounds=CompoundIdentity(tables.read_table(tables.COMPOUNDS), tables.read_table(tables.CURATED_COMPOUNDS)),
        genes=GeneIdentity(tables.read_table(tables.GENES), tables.read_table(tables.GENE_KEYS)),
        cell_contexts=CellContextIdentity(tables.read_table(tables.CELL_CONTEXTS), tables.read_table(tables.CURATED_CELL_CONTEXTS)),
        base_version=tables.tables_checksum(),
    )


def with_answers(folder: Path, dataset: str | None = None) -> Identity:
    """The shipped answers, and those of a user's snapshot; see :func:`grown`."""
    return grown(shipped(), folder, dataset)


def grown(identity: Identity, folder: Path, dataset: str | None = None) -> Identity:
    """An identity with the answers of a user's snapshot instead of those it may have had.

    Parameters
    ----------
    identity
        Where all other answers come from.
    folder
        The user's snapshot: ``answers/<dataset>.parquet`` (``answers.py``), ``catalogues/*.csv`` (``tables.read_catalogues``),
        ``structures.parquet`` (``structures.py``) and ``ensembl_archive.parquet`` (``ensembl.py``). It need not exist.
    dataset
        The dataset whose answers count; without it those of all.

    Raises
    ------
    InputError
        If a file of it cannot be read.
    """
    compounds = replace(
        identity.compounds,
        asked=read_answers(folder, dataset),
        catalogue=tables.read_catalogues(folder),
        structures=load_structures(folder),
    )
    genes = identity.genes.with_archive(load_archive(folder))
    more = grown_version(folder, dataset)
    return replace(identity, compounds=compounds, genes=genes, grown_version=more, folder=folder)


def grown_version(folder: Path, dataset: str | None = None) -> str | None:
    """Says which answers a user's snapshot adds to the shipped ones for a dataset, or for all; None where it adds none."""
    names = [dataset] if dataset else sorted(file.stem for file in (folder / "answers").glob("*.parquet"))
    parts = [f"{name} {checksum}" for name in names if (checksum := answers_checksum(folder, name))]
    parts += [f"{file.name} {file_checksum(file)}" for file in tables.catalogue_files(folder)]
    parts += [f"{ARCHIVE_TABLE} {checksum}" for checksum in [archive_checksum(folder)] if checksum]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else None
