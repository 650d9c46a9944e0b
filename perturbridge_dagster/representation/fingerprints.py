"""Fingerprints: the structures of compounds as bits, and how alike two of them are.

Belongs here: Morgan fingerprints, keeping many of them, Tanimoto similarity. Does not belong here: where structures come from
(``compounds.py``), or what is predicted from them (``baselines.py``).

A Morgan fingerprint of radius 2 is what the field calls ECFP:4; the ECFP:2 of the OP3 benchmark has radius 1 and 2,000 bits
(Rogers & Hahn, J. Chem. Inf. Model. 2010, doi:10.1021/ci100050t).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BITS = 2_048
RADIUS = 2

_COMPOUNDS_AT_ONCE = 4_096


def morgan_bits(smiles: pd.Series, *, n_bits: int = N_BITS, radius: int = RADIUS) -> NDArray[np.uint8]:
    """Morgan fingerprints of structures.

    Parameters
    ----------
    smiles
        (n,) SMILES; null where no structure is known.
    n_bits
        Length that the fingerprint is folded to.
    radius
        Bonds between the centre of a fragment and its edge.

    Returns
    -------
    ndarray
        (n, n_bits) uint8 of 0 and 1. A row is all zeros where there is no structure, or none that rdkit reads; every structure with an
        atom sets a bit.

    Raises
    ------
    InputError
        If `n_bits` is not positive, or `radius` is negative.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdFingerprintGenerator

    if n_bits < 1 or radius < 0:
        raise InputError(
            f"a Morgan fingerprint cannot have {n_bits} bits and radius {radius}", expected="at least 1 bit, and a radius of at least 0"
        )
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    bits = np.zeros((len(smiles), n_bits), dtype=np.uint8)
    with rdBase.BlockLogs():
        for row in np.flatnonzero(smiles.notna()):
            molecule = Chem.MolFromSmiles(str(smiles.iloc[row]))
            if molecule is not None:
                bits[row] = generator.GetFingerprintAsNumPy(molecule)
    return bits


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of many compounds, eight bits a byte: 37,000 compounds take 10 MB.

    Attributes
    ----------
    perturbation
        (n,) names of the compounds, as the corpus writes them, without repetition.
    packed
        (n, ⌈n_bits / 8⌉) uint8.
    n_bits
        Bits of one.
    n_on
        (n,) int64: bits that are set; 0 where no structure could be read.
    n_unreadable
        Compounds with a SMILES that rdkit does not read.
    """

    perturbation: pd.Index
    packed: NDArray[np.uint8]
    n_bits: int
    n_on: NDArray[np.int64]
    n_unreadable: int

    @classmethod
    def of(cls, compounds: pd.DataFrame, *, n_bits: int = N_BITS, radius: int = RADIUS) -> Fingerprints:
        """Fingerprints of compounds (columns perturbation and smiles)."""
        parts = [
            np.packbits(morgan_bits(compounds["smiles"].iloc[start : start + _COMPOUNDS_AT_ONCE], n_bits=n_bits, radius=radius), axis=1)
            for start in range(0, len(compounds), _COMPOUNDS_AT_ONCE)
        ]
        packed = np.concatenate(parts) if parts else np.zeros((0, -(-n_bits // 8)), dtype=np.uint8)
        n_on = np.bitwise_count(packed).sum(axis=1, dtype=np.int64)
        n_unreadable = int((compounds["smiles"].notna().to_numpy() & (n_on == 0)).sum())
        return cls(pd.Index(compounds["perturbation"], dtype=object), packed, n_bits, n_on, n_unreadable)

    def rows(self, perturbation: pd.Series | pd.Index) -> NDArray[np.int64]:
        """Rows of compounds; -1 where there is no fingerprint, since nothing is known of the compound or its structure."""
        rows = self.perturbation.get_indexer(pd.Index(perturbation, dtype=object)).astype(np.int64)
        # the last row stands in for a compound that is not there, and is not asked about
        unknown = (rows < 0) | (self.n_on[rows] == 0) if len(self.n_on) else np.ones(len(rows), dtype=bool)
        return np.where(unknown, -1, rows)

    def bits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Fingerprints as numbers, (rows, n_bits) of 0 and 1."""
        return np.unpackbits(self.packed[rows], axis=1, count=self.n_bits).astype(np.float64)

    def tanimoto(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Tanimoto (Jaccard) similarity of compounds: bits in common, of bits set in either.

        The numbers of common bits are a product of matrices of 0 and 1, so they are exact, and fast.

        Parameters
        ----------
        left, right
            Rows with a fingerprint.

        Yields
        ------
        tuple
            A part of `right`, and the similarities to it, (left, part).
        """
        bits = self.bits(left).astype(np.float32)
        for start in range(0, len(right), _COMPOUNDS_AT_ONCE):
            part = slice(start, min(start + _COMPOUNDS_AT_ONCE, len(right)))
            # exact in float32, since there are far fewer bits than 2²⁴
            common = (bits @ self.bits(right[part]).astype(np.float32).T).astype(np.float64)
            yield part, common / (self.n_on[left][:, None] + self.n_on[right[part]] - common)

    def nearest(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The most similar compounds of `right` for each of `left`: positions among `right`, all of those that tie.

        Parameters
        ----------
        left, right
            Rows with a fingerprint; `right` is not empty.
        """
        best = np.full(len(left), -np.inf)
        tied: list[list[NDArray[np.int64]]] = [[] for _ in left]
        for part, similarity in self.tanimoto(left, right):
            top = similarity.max(axis=1)
            for row in np.flatnonzero(top >= best):
                if top[row] > best[row]:
                    tied[row] = []
                tied[row].append(part.start + np.flatnonzero(similarity[row] == top[row]))
            best = np.maximum(best, top)
        return [np.concatenate(positions) for positions in tied]
