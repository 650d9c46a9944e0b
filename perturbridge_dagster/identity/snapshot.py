"""The identity answers that are shipped with the code, in one object.

Belongs here: loading them. Does not belong here: rebuilding them (``build_snapshot.py``). A run that takes its identity from here
never depends on a live service.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from perturbridge_dagster.identity import tables
from perturbridge_dagster.identity.cell_contexts import CellContextIdentity
from perturbridge_dagster.identity.compounds import CompoundIdentity
from perturbridge_dagster.identity.genes import GeneIdentity


@dataclass(frozen=True, eq=False)
class Identity:
    """Where a run takes its identity answers from.

    Attributes
    ----------
    compounds, genes, cell_contexts
        The answers.
    version
        Says which answers these are; for the shipped ones, the SHA-256 of their tables.
    """

    compounds: CompoundIdentity
    genes: GeneIdentity
    cell_contexts: CellContextIdentity
    version: str


@cache
def shipped() -> Identity:
    """The shipped answers, read once a process."""
    return Identity(
        compounds=CompoundIdentity(tables.read_table(tables.COMPOUNDS), tables.read_table(tables.CURATED_COMPOUNDS)),
        genes=GeneIdentity(tables.read_table(tables.GENES), tables.read_table(tables.GENE_KEYS)),
        cell_contexts=CellContextIdentity(tables.read_table(tables.CELL_CONTEXTS), tables.read_table(tables.CURATED_CELL_CONTEXTS)),
        version=tables.tables_checksum(),
    )
