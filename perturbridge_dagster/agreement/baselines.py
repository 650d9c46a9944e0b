"""Baselines: what agreement is expected of a compound that is just any compound.

Belongs here: which conditions are those of other compounds at the same dose and time, and their mean effect (centroid). Does not
belong here: comparing a signature with it (``scoring.py``), or single other compounds (``peers.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.agreement.keys import condition_keys
from perturbridge_dagster.agreement.signatures import StratumEffects, blocks

Centroid = Literal["compound_means", "row_means"]
"""Mean of the means of compounds, or, as published, of all contrasts, so that a compound with several counts several times."""

Reader = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_PEERS = ["pert_dose_uM", "pert_time_h"]


def _group_codes(keys: pd.DataFrame, by: list[str], members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the group of each row; -1 for rows that are no members."""
    codes = np.full(len(keys), -1, dtype=np.int64)
    codes[members] = keys[members].groupby(by, sort=True).ngroup()
    return codes


@dataclass(frozen=True)
class Groups:
    """The contrasts of a stratum by dose and time, and by compound within these.

    A contrast that is not estimable, or without a compound id, might be the compound itself and has no group.

    Attributes
    ----------
    keys
        Table of :func:`~perturbridge_dagster.agreement.keys.condition_keys`.
    peers
        Number of the dose and time of each contrast, -1 for none.
    own
        Number of the dose, time and compound of each contrast, -1 for none.
    """

    keys: pd.DataFrame
    peers: NDArray[np.int64]
    own: NDArray[np.int64]

    @classmethod
    def of(cls, contrasts: pd.DataFrame) -> Groups:
        """The groups of a table CONTRASTS of the contract."""
        keys = condition_keys(contrasts)
        members = keys["eligible"].to_numpy() & contrasts["estimable"].to_numpy(dtype=bool)
        return cls(keys, _group_codes(keys, _PEERS, members), _group_codes(keys, [*_PEERS, "pubchem_cid"], members))

    def n_other_compounds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of other compounds at the dose and time of each row; 0 for a row without a group."""
        member = self.peers >= 0
        compounds = pd.Series(self.own[member]).groupby(self.peers[member]).nunique()
        found = compounds.reindex(self.peers[rows], fill_value=1).to_numpy(dtype=np.int64) - 1
        return np.where(self.peers[rows] >= 0, found, 0)


class OtherCompoundMeans:
    """Mean effect of the other compounds of a stratum at the same dose and time.

    Missing values are left out gene by gene. The mean without a compound is the sum over all contrasts less the sum over that
    compound's, both in float64. Each contrast weighs as much as its compound has contrasts, so that compounds count alike; a compound
    of several contrasts of which some lack a gene counts in part for it.

    Parameters
    ----------
    effects
        Effects of the stratum.
    genes
        Positions of the genes to use.
    rows
        Positions of the contrasts for which means may be asked; sums are kept for their doses and times only.
    layers, value
        Layers to read, and what to average of them, shape (contrasts, values); logFC where nothing else is asked for.
    centroid
        Whether compounds count alike, or contrasts.
    """

    def __init__(
        self,
        effects: StratumEffects,
        genes: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        layers: Sequence[str] = ("logFC",),
        value: Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]] = itemgetter("logFC"),
        centroid: Centroid = "compound_means",
    ) -> None:
        self._effects = effects
        self._layers = layers
        self._value = value
        self._genes = genes
        self.groups = Groups.of(effects.contrasts)
        self._weight = np.ones(len(effects.contrasts))
        if centroid == "compound_means":
            member = self.groups.own >= 0
            self._weight[member] = 1 / np.bincount(self.groups.own[member])[self.groups.own[member]]
        self._asked = np.unique(self.groups.peers[rows])
        self._sums, self._weights = self._summed(self.groups.peers, self._asked)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._value(self._effects.dense(self._layers, rows, self._genes))

    def _summed(
        self, codes: NDArray[np.int64], groups: NDArray[np.int64], read: Reader | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weighted sums, and sums of weights, of finite values over the contrasts of each group, shape (groups, values)."""
        read = read or self._read
        members = np.flatnonzero(np.isin(codes, groups[groups >= 0]))
        shape = (len(groups), read(members[:0]).shape[1])
        sums, weights = np.zeros(shape), np.zeros(shape)
        for block in blocks(len(members), shape[1]):
            rows = members[block]
            values = read(rows).astype(np.float64)
            finite = np.isfinite(values)
            weight = sparse.csr_array(
                (self._weight[rows], (np.searchsorted(groups, codes[rows]), np.arange(len(rows)))), shape=(len(groups), len(rows))
            )
            sums += weight @ np.where(finite, values, 0.0)
            weights += weight @ finite.astype(np.float64)
        return sums, weights

    def means(self, rows: NDArray[np.int64], read: Reader | None = None) -> NDArray[np.float64]:
        """Mean effect of the other compounds.

        Parameters
        ----------
        rows
            Positions of contrasts, among those given at the start.
        read
            Gives the values to average of contrasts at given positions, for a caller that holds most of them already.

        Returns
        -------
        Shape (rows, values); NaN where no other compound has a value.
        """
        own_groups, own = np.unique(self.groups.own[rows], return_inverse=True)
        own_sums, own_weights = self._summed(self.groups.own, own_groups, read)
        peers = np.searchsorted(self._asked, self.groups.peers[rows])
        weights = self._weights[peers] - own_weights[own]
        means = np.full(weights.shape, np.nan)
        # Weights of one compound add up to one but for rounding, so what is left without any is not exactly zero.
        np.divide(self._sums[peers] - own_sums[own], weights, out=means, where=weights > 1e-6)
        return means

    def n_compounds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of other compounds at the dose and time of each row."""
        return self.groups.n_other_compounds(rows)
