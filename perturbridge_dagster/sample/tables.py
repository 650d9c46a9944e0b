"""The excerpts of public tables that the sample is made of: real genes, real compounds, and what datasets call them.

Belongs here: reading ``data/``; ``data/README.md`` says where it comes from. Does not belong here: anything simulated.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

DATA = Path(__file__).parent / "data"

VEHICLE = "DMSO"
"""Agent of every vehicle control."""


@cache
def genes() -> pd.DataFrame:
    """Genes of the sample, sorted by id.

    Returns
    -------
    Index ``gene``: the current Ensembl id, or the retired one where there is no current. Columns ``ensembl_id``,
    ``retired_ensembl_id``, ``symbol``, ``entrez_id`` (Int64), ``kind``, ``is_landmark``, ``is_bing`` (0 or 1), ``l1000_symbol``,
    ``l1000_title`` (null where L1000 does not report the gene). Shared: do not change it.
    """
    table = pd.read_csv(DATA / "genes.csv", dtype={"entrez_id": "Int64"})
    table.index = pd.Index(table["ensembl_id"].fillna(table["retired_ensembl_id"]), name="gene")
    return table


@cache
def compounds() -> pd.DataFrame:
    """Chemical structures, and the pharmacology of their agents.

    Returns
    -------
    Index ``compound``. Columns ``agent`` (what acts; the same for all salts), ``mechanism``, ``pubchem_cid`` (Int64), ``cid_source``,
    ``inchikey``, ``parent_key``, ``smiles``, ``molecular_weight``, ``log_p``, ``tpsa``, ``ec50_uM``, ``hill_slope``, ``max_effect``.
    Shared: do not change it.
    """
    return pd.read_csv(DATA / "compounds.csv", dtype={"compound": "str", "agent": "str", "pubchem_cid": "Int64"}).set_index("compound")


@cache
def perturbagens() -> pd.DataFrame:
    """What each dataset calls a compound.

    Returns
    -------
    Columns ``dataset``, ``compound``, ``source_id``, ``source_name``, ``truncated_name`` (sciplex), ``listed_in``, ``listed_cid``
    (l1000_phase1), ``pubchem_cid`` (Int64; what the pipeline should arrive at), ``agent``, ``mechanism``, ``inchikey``, ``smiles``,
    ``parent_key``. Shared: do not change it.
    """
    names = pd.read_csv(DATA / "perturbagens.csv", dtype=str).astype({"pubchem_cid": "Int64"})
    return names.merge(
        compounds()[["agent", "mechanism", "inchikey", "smiles", "parent_key"]], left_on="compound", right_index=True, how="left"
    )


def perturbagens_of(dataset: str) -> pd.DataFrame:
    """Perturbagens of one dataset, without those of the others."""
    table = perturbagens()
    return table[table["dataset"] == dataset].drop(columns="dataset").reset_index(drop=True)


@cache
def cas_numbers() -> pd.Series:
    """CAS registry number by compound; not every compound has one here. Shared: do not change it."""
    return pd.read_csv(DATA / "cas_numbers.csv", dtype=str).set_index("compound")["cas_number"]
