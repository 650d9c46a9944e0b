"""Descriptors of compounds: structures as Morgan fingerprints, and embeddings that a model learned from a corpus.

Belongs here: a table of one vector a compound, and which compounds have one. Does not belong here: how a network takes it in
(``networks.py``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.fingerprints import morgan_bits
from perturbridge_dagster.representation.op3.members import Mode
from perturbridge_dagster.representation.op3.networks import CompoundInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODES: tuple[Mode, ...] = get_args(Mode)

NONE: Literal["none"] = "none"
MORGAN = "morgan"
MORGAN_RADIUS, MORGAN_BITS = 1, 2_000
"""ECFP of diameter 2, as published."""

PUBLISHED_TOKENS = 152
"""Rows of the published tables of embeddings, whatever the number of cell types and compounds."""


@dataclass(frozen=True)
class Descriptors:
    """One vector a compound.

    Attributes
    ----------
    name
        ``"none"``, ``"morgan"``, or the model and the corpus.
    vectors
        Index sm_name, one column a dimension, float32; zero rows where there is none.
    has
        Which compounds have one, bool, same index.
    """

    name: str
    vectors: pd.DataFrame
    has: pd.Series

    def scrambled(self, seed: int) -> Descriptors:
        """The same vectors, dealt to the compounds that have one at random: what carries no knowledge of them."""
        shuffled = self.vectors.copy()
        rows = np.flatnonzero(self.has.to_numpy())
        shuffled.iloc[rows] = self.vectors.iloc[np.random.default_rng(seed).permutation(rows)].to_numpy()
        return Descriptors(f"{self.name} scrambled", shuffled, self.has)


def no_descriptors(compounds: pd.Index) -> Descriptors:
    """Nothing is known of any compound but its name."""
    return Descriptors(NONE, pd.DataFrame(index=compounds, dtype=np.float32), pd.Series(False, compounds))


def morgan_descriptors(smiles: pd.Series) -> Descriptors:
    """Morgan fingerprints; a compound without a structure that rdkit reads has none.

    Parameters
    ----------
    smiles
        Nullable text, index sm_name.
    """
    bits = morgan_bits(smiles, n_bits=MORGAN_BITS, radius=MORGAN_RADIUS)
    vectors = pd.DataFrame(bits.astype(np.float32), index=smiles.index)
    return Descriptors(MORGAN, vectors, (vectors != 0).any(axis=1))


def embedding_descriptors(name: str, pubchem_cid: pd.Series, embeddings: pd.DataFrame, train: Collection[str]) -> Descriptors:
    """Embeddings of a corpus, found by PubChem id.

    They are divided by one number, the root mean square over the train compounds that have one, which brings them to the scale that the
    published ones start from and members were tuned to.

    Parameters
    ----------
    name
        What they are called.
    pubchem_cid
        Nullable integer, index sm_name.
    embeddings
        Columns symbol (the PubChem id as text) and embedding; one row a symbol.
    train
        Compounds that are not held out.

    Raises
    ------
    InputError
        If a symbol occurs twice, or no train compound has an embedding.
    """
    twice = embeddings.loc[embeddings["symbol"].duplicated(), "symbol"]
    if len(twice):
        raise InputError("a perturbation has several embeddings", rows=list(twice), column="symbol", expected="one seed")
    known: dict[str, NDArray[np.float32]] = dict(zip(embeddings["symbol"], embeddings["embedding"], strict=True))
    found = {str(compound): known[str(cid)] for compound, cid in pubchem_cid.dropna().items() if str(cid) in known}
    has = pd.Series(pubchem_cid.index.isin(list(found)), pubchem_cid.index)
    in_train = has & has.index.isin(list(train))
    if not in_train.any():
        raise InputError(
            f"no train compound of the benchmark has an embedding of {name}",
            expected="PubChem ids that the corpus has",
            advice="Materialize compound_embeddings of a corpus that shares compounds with OP3.",
        )
    width = len(next(iter(found.values())))
    vectors = pd.DataFrame(np.zeros((len(has), width), dtype=np.float32), index=has.index)
    vectors.loc[has] = np.stack([found[compound] for compound in has.index[has]])
    scale = float(np.sqrt(np.square(vectors[in_train].to_numpy(dtype=np.float64)).mean()))
    return Descriptors(name, (vectors / (scale or 1.0)).astype(np.float32), has)


def tokens_of(conditions: pd.DataFrame) -> dict[str, int]:
    """Number of each cell type and compound, sorted together by name.

    Raises
    ------
    InputError
        If a compound has the name of a cell type.
    """
    cell_types, compounds = set(conditions["cell_type"]), set(conditions["sm_name"])
    if both := sorted(cell_types & compounds):
        raise InputError("compounds have the names of cell types", rows=both, column="sm_name")
    return {name: token for token, name in enumerate(sorted(cell_types | compounds))}


def compound_input(descriptors: Descriptors, mode: Mode, token_of: dict[str, int], *, faithful: bool) -> CompoundInput:
    """What networks are told of compounds.

    Parameters
    ----------
    descriptors, mode
        Which, and how they come in. ``"none"`` goes with :func:`no_descriptors` alone.
    token_of
        As :func:`tokens_of` gives it.
    faithful
        Whether the tables have the published number of rows.

    Raises
    ------
    InputError
        If there are more tokens than rows.
    ValueError
        If descriptors and mode do not go together.
    """
    if mode not in MODES or (mode == "none") != (descriptors.name == NONE):
        raise ValueError(f"descriptors {descriptors.name} do not go with mode {mode}")
    if faithful and len(token_of) > PUBLISHED_TOKENS:
        raise InputError(
            f"there are {len(token_of)} cell types and compounds",
            expected=f"at most {PUBLISHED_TOKENS}, the rows of the published tables",
            advice="Run without the published quirks.",
        )
    n_tokens = PUBLISHED_TOKENS if faithful else len(token_of)
    table = np.zeros((n_tokens, descriptors.vectors.shape[1]), dtype=np.float32)
    has: NDArray[np.bool_] = np.zeros(n_tokens, dtype=bool)
    compounds = [name for name in descriptors.vectors.index if name in token_of]
    rows = [token_of[name] for name in compounds]
    table[rows] = descriptors.vectors.loc[compounds].to_numpy()
    has[rows] = descriptors.has.loc[compounds].to_numpy()
    return CompoundInput(mode, table, has)
