"""Who the compounds of the benchmark are, and which of them a corpus has seen.

Belongs here: identity of the benchmark's compounds, and looking them up in a corpus. Does not belong here: descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from perturbridge_dagster.contract import OP3_COMPOUNDS

if TYPE_CHECKING:
    from perturbridge_dagster.identity.compounds import CompoundIdentity
    from perturbridge_dagster.representation.corpus import StoredCorpus
    from perturbridge_dagster.representation.op3.data import Op3Table, Problem
    from perturbridge_dagster.representation.op3.descriptors import Descriptors

DATASET = "op3"
"""Dataset whose identity answers hold: its compounds are those of the benchmark."""


@dataclass(frozen=True)
class SeenCompounds:
    """The compounds that a corpus has training conditions of.

    Attributes
    ----------
    corpus
        Its name.
    pubchem_cids
        PubChem ids as text.
    parent_keys
        Keys of the parent structures.
    """

    corpus: str
    pubchem_cids: frozenset[str]
    parent_keys: frozenset[str]


def identify(table: Op3Table, identity: CompoundIdentity) -> pd.DataFrame:
    """PubChem id and parent structure of the benchmark's compounds.

    Returns
    -------
    Index sm_name; pubchem_cid (Int64), smiles and parent_key (both nullable).
    """
    compounds = table.compounds.reset_index()
    asked = pd.DataFrame(
        {
            "source_perturbagen_id": compounds["sm_lincs_id"],
            "perturbagen": compounds["sm_name"],
            "inchikey": None,
            "smiles": compounds["smiles"],
            "pubchem_cid": pd.array([pd.NA] * len(compounds), dtype="Int64"),
        }
    )
    found = identity.resolve(asked, DATASET)
    return found[["pubchem_cid", "smiles", "parent_key"]].set_axis(pd.Index(compounds["sm_name"], name="sm_name"))


def seen_compounds(corpus: StoredCorpus, name: str) -> SeenCompounds:
    """The compounds of a corpus's train conditions, each molecule of a combination by itself."""
    conditions = corpus.conditions_of("train")
    molecules = conditions["perturbation"].drop_duplicates().str.split("+").explode()
    return SeenCompounds(name, frozenset(molecules), frozenset(conditions["parent_key"].dropna()))


def compound_table(
    problem: Problem, identified: pd.DataFrame, descriptors: Sequence[tuple[Descriptors, SeenCompounds | None]]
) -> pd.DataFrame:
    """The contract's table op3_compounds: one row a compound and descriptor.

    Parameters
    ----------
    problem
        Says which compounds are held out.
    identified
        As :func:`identify` gives it.
    descriptors
        Each with the compounds that its corpus has seen, None where it comes from no corpus.
    """
    names = pd.concat([problem.train["sm_name"], problem.test["sm_name"]])
    n_conditions = names.value_counts()
    parents = identified["parent_key"]
    in_train = set(parents.loc[problem.train["sm_name"].unique()].dropna())
    parts = []
    for described, seen in descriptors:
        rows = pd.DataFrame(
            {
                "perturbagen": identified.index,
                "split": ["test" if name in set(problem.test["sm_name"]) else "train" for name in identified.index],
                "pubchem_cid": identified["pubchem_cid"].to_numpy(),
                "parent_key": parents.to_numpy(),
                "n_conditions": n_conditions.reindex(identified.index, fill_value=0).to_numpy(),
                "descriptor": described.name,
                "has_descriptor": described.has.loc[identified.index].to_numpy(),
                "corpus": seen.corpus if seen else None,
                "seen_pubchem_cid": [str(cid) in seen.pubchem_cids for cid in identified["pubchem_cid"]] if seen else None,
                "seen_parent": [parent in seen.parent_keys for parent in parents] if seen else None,
            }
        )
        rows["parent_in_train"] = [
            parent in in_train if split == "test" else None for parent, split in zip(parents, rows["split"], strict=True)
        ]
        parts.append(rows)
    flags = dict.fromkeys(("has_descriptor", "seen_pubchem_cid", "seen_parent", "parent_in_train"), "boolean")
    table = pd.concat([part.astype(flags) for part in parts], ignore_index=True)
    return table.astype({"pubchem_cid": "Int64", "has_descriptor": bool, "corpus": object})[OP3_COMPOUNDS.names]


def seen_test_compounds(table: pd.DataFrame) -> dict[str, set[str]]:
    """Corpus → test compounds that it has seen, by PubChem id or by parent structure.

    Parameters
    ----------
    table
        The contract's table op3_compounds.
    """
    of_corpora = table[table["corpus"].notna() & (table["split"] == "test")]
    seen = of_corpora["seen_pubchem_cid"].astype(bool) | of_corpora["seen_parent"].astype(bool)
    return {str(corpus): set(rows.loc[seen.loc[rows.index], "perturbagen"]) for corpus, rows in of_corpora.groupby("corpus", sort=False)}
