"""Baselines: what agreement is expected of a compound that is just any compound.

Belongs here: the mean effect of other compounds in the same stratum at the same dose and time. Does not belong here: comparing a
signature with it (``scoring.py``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from perturbridge_dagster.agreement.keys import condition_keys
from perturbridge_dagster.agreement.signatures import StratumEffects, blocks

_PEERS = ["pert_dose_uM", "pert_time_h"]


def _group_codes(keys: pd.DataFrame, by: list[str], members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the group of each row; -1 for rows that are no members."""
    codes = np.full(len(keys), -1, dtype=np.int64)
    codes[members] = keys[members].groupby(by, sort=True).ngroup()
    return codes


class OtherCompoundMeans:
    """Mean logFC of the other compounds of a stratum at the same dose and time.

    Every estimable contrast with a compound id counts once, so a compound with several contrasts counts several times. A contrast
    without a compound id might be the compound itself and does not count. Values that are missing are left out gene by gene.
    The mean without a compound is the sum over all contrasts less the sum over that compound's, both in float64.

    Parameters
    ----------
    effects
        Effects of the stratum.
    genes
        Positions of the genes to use.
    rows
        Positions of the contrasts for which means may be asked; sums are kept for their doses and times only.
    """

    def __init__(self, effects: StratumEffects, genes: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self._effects = effects
        self._genes = genes
        keys = condition_keys(effects.contrasts)
        members = keys["eligible"].to_numpy() & effects.contrasts["estimable"].to_numpy(dtype=bool)
        self._peers = _group_codes(keys, _PEERS, members)
        self._own = _group_codes(keys, [*_PEERS, "pubchem_cid"], members)
        self._n_compounds = keys[members].groupby(_PEERS, sort=True)["pubchem_cid"].nunique().to_numpy(dtype=np.int64)
        self._groups = np.unique(self._peers[rows])
        self._sums, self._counts = self._summed(self._peers, self._groups)

    def _summed(self, codes: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums and numbers of finite logFC over the contrasts of each group, shape (groups, genes), read block by block."""
        members = np.flatnonzero(np.isin(codes, groups[groups >= 0]))
        sums, counts = np.zeros((2, len(groups), len(self._genes)))
        for block in blocks(len(members), len(self._genes)):
            rows = members[block]
            log_fc = self._effects.dense(["logFC"], rows, self._genes)["logFC"].astype(np.float64)
            finite = np.isfinite(log_fc)
            indicator = sparse.csr_array(
                (np.ones(len(rows)), (np.searchsorted(groups, codes[rows]), np.arange(len(rows)))), shape=(len(groups), len(rows))
            )
            sums += indicator @ np.where(finite, log_fc, 0.0)
            counts += indicator @ finite.astype(np.float64)
        return sums, counts

    def means(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean logFC of the other compounds.

        Parameters
        ----------
        rows
            Positions of contrasts, among those given at the start.

        Returns
        -------
        Shape (rows, genes); NaN where no other compound has a value.
        """
        own_groups, own = np.unique(self._own[rows], return_inverse=True)
        own_sums, own_counts = self._summed(self._own, own_groups)
        peers = np.searchsorted(self._groups, self._peers[rows])
        counts = self._counts[peers] - own_counts[own]
        means = np.full(counts.shape, np.nan)
        np.divide(self._sums[peers] - own_sums[own], counts, out=means, where=counts > 0)
        return means

    def n_compounds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of other compounds at the dose and time of each row."""
        member = self._peers[rows] >= 0
        count = np.zeros(len(rows), dtype=np.int64)
        count[member] = self._n_compounds[self._peers[rows][member]] - 1
        return count
