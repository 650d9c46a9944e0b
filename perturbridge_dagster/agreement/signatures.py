"""Signatures: what this stage reads of the effects of a stratum.

Belongs here: the form of effects that the stage asks for, with other labels too, and reading them in blocks. Does not belong here: how
effects are stored (``effects/storage.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.errors import InputError

VALUES_PER_BLOCK = 2**23
"""Contrasts × genes scored at a time; about half a gigabyte with everything computed from them."""


class StratumEffects(Protocol):
    """Effects of one stratum: contrasts, genes, and dense blocks of contrast × gene values."""

    @property
    def contrasts(self) -> pd.DataFrame:
        """Table CONTRASTS of the contract; its order is that of the dense rows."""

    @property
    def genes(self) -> pd.DataFrame:
        """Table GENES of the contract; its order is that of the dense columns."""

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Layers by name, shape (contrasts, genes), at positions in any order, repeated or not; NaN where null."""


@dataclass(frozen=True)
class Relabelled:
    """Effects of which the contrasts say something else; their values and genes are as they are."""

    effects: StratumEffects
    contrasts: pd.DataFrame

    @property
    def genes(self) -> pd.DataFrame:
        """Table GENES of the contract."""
        return self.effects.genes

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Layers of the effects."""
        return self.effects.dense(layers, contrasts, genes)


def stratum_named(strata: Mapping[str, StratumEffects], name: str, dataset: str) -> StratumEffects:
    """Effects of a stratum.

    Raises
    ------
    InputError
        If they were not given.
    """
    if name not in strata:
        raise InputError(
            f"the effects of stratum {name} are missing.",
            dataset=dataset,
            expected=f"effects of every matched stratum; given: {', '.join(sorted(strata)) or 'none'}",
            advice="Materialize condition_effects of that stratum, or match again.",
        )
    return strata[name]


def contrast_positions(effects: StratumEffects, contrasts: NDArray[np.int64], dataset: str, stratum: str) -> NDArray[np.int64]:
    """Rows in which contrasts lie.

    Raises
    ------
    InputError
        If the stratum has no such contrast.
    """
    positions: NDArray[np.int64] = pd.Index(effects.contrasts["contrast"]).get_indexer(contrasts).astype(np.int64)
    if (positions < 0).any():
        raise InputError(
            f"stratum {stratum} has no such contrasts.",
            dataset=dataset,
            rows=np.unique(contrasts[positions < 0]).tolist(),
            column="contrast",
            advice="The matches are older than the effects: match again.",
        )
    return positions


def shared_genes(*strata: StratumEffects) -> list[NDArray[np.int64]]:
    """Positions in each stratum of the genes that all have, in the order of their Ensembl ids.

    Raises
    ------
    InputError
        If a stratum has an Ensembl id twice, so that it is unclear which to compare.
    """
    ids = [pd.Index(effects.genes["ensembl_id"]) for effects in strata]
    for index in ids:
        if not index.is_unique:
            twice = index[index.duplicated()].unique().tolist()
            raise InputError("genes occur more than once.", rows=twice, column="ensembl_id", expected="each Ensembl id once")
    shared = ids[0]
    for others in ids[1:]:
        shared = shared.intersection(others)
    shared = shared.sort_values()
    return [index.get_indexer(shared).astype(np.int64) for index in ids]


def blocks(n_rows: int, n_genes: int) -> Iterator[slice]:
    """Slices of rows, each of a bounded number of values."""
    step = max(1, VALUES_PER_BLOCK // max(1, n_genes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
