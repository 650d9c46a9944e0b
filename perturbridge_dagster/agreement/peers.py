"""Peers: single other compounds that a score is set beside.

Belongs here: which other compounds of a stratum are taken at each dose and time, and how a score lies among theirs. Does not belong
here: comparing signatures (``comparing.py``), the mean of other compounds (``baselines.py``).

Peers are chosen by a hash of names, so that the choice depends on neither the order of rows nor what else is there; all compounds of
one dose and time draw from the same panel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.baselines import Groups
from perturbridge_dagster.agreement.keys import number_key

N_PEERS = 256


def name_hash(*names: object) -> int:
    """A number of 64 bits that depends on names alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Peers:
    """Peers of the contrasts of a stratum.

    Parameters
    ----------
    contrasts
        Table CONTRASTS of the contract.
    groups
        Its groups.
    rows
        Positions of the contrasts for which peers may be asked.
    n_peers
        Most peers of a contrast.
    seed
        With dataset, cell context, dose, time and compound decides which compounds are peers.
    """

    def __init__(self, contrasts: pd.DataFrame, groups: Groups, rows: NDArray[np.int64], *, n_peers: int = N_PEERS, seed: int = 0) -> None:
        self.groups = groups
        self.n_peers = n_peers
        asked = np.unique(groups.peers[rows])
        members = np.flatnonzero(np.isin(groups.peers, asked[asked >= 0]))
        keys = groups.keys.iloc[members]
        columns = [
            contrasts["dataset"].iloc[members],
            *(keys[name] for name in ("cell_type", "pert_dose_uM", "pert_time_h", "pubchem_cid")),
        ]
        hashes = [
            name_hash(seed, dataset, cell_type, number_key(dose), number_key(time), compound)
            for dataset, cell_type, dose, time, compound in zip(*columns, strict=True)
        ]
        table = pd.DataFrame({"row": members, "group": groups.peers[members], "own": groups.own[members], "hash": hashes})
        # Of a compound with several contrasts the first by name is taken.
        for name in ("control", "sample_id"):
            table[name] = contrasts[name].iloc[members].fillna("").astype(str).to_numpy()
        table = table.sort_values(["own", "control", "sample_id", "row"]).drop_duplicates("own").sort_values(["group", "hash", "own"])
        group, row = table["group"].to_numpy(dtype=np.int64), table["row"].to_numpy(dtype=np.int64)
        # One more than asked for: a compound of the panel is no peer of itself.
        most = n_peers + 1 if n_peers else 0
        self._panels: dict[int, NDArray[np.int64]] = {int(g): row[group == g][:most] for g in np.unique(group)}

    def panel(self, group: int) -> NDArray[np.int64]:
        """Positions of the contrasts from which all peers at a dose and time are taken."""
        return self._panels.get(int(group), np.empty(0, dtype=np.int64))

    def allowed(self, rows: NDArray[np.int64], group: int) -> NDArray[np.bool_]:
        """Which contrasts of the panel are peers of each row, whose dose and time it is; shape (rows, panel)."""
        others = self.groups.own[rows][:, None] != self.groups.own[self.panel(group)][None, :]
        found: NDArray[np.bool_] = others & (np.cumsum(others, axis=1) <= self.n_peers)
        return found


@dataclass(frozen=True)
class AmongPeers:
    """How scores lie among those of peers, each of one shape.

    Attributes
    ----------
    mean, sd
        Of the scores of peers; the standard deviation with ddof 1.
    n
        Peers with a score.
    percentile
        (1 + number below the score) / (n + 1).
    p
        (1 + number at or above the score) / (n + 1).
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    n: NDArray[np.int64]
    percentile: NDArray[np.float64]
    p: NDArray[np.float64]


def among_peers(scores: NDArray[np.float64], of_peers: NDArray[np.float64]) -> AmongPeers:
    """Set scores beside those of peers.

    Parameters
    ----------
    scores
        Any shape.
    of_peers
        One axis more; NaN for what is no peer or has no score.

    Returns
    -------
    NaN where there is no peer, for sd fewer than two; percentile and P also where the score itself is undefined.
    """
    known = np.isfinite(of_peers)
    n = known.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, of_peers, 0.0).sum(axis=-1) / n
        deviations = np.where(known, of_peers - mean[..., None], 0.0)
        sd = np.sqrt(np.where(n > 1, np.square(deviations).sum(axis=-1) / (n - 1.0), np.nan))
        below, at_or_above = ((1 + found.sum(axis=-1)) / (n + 1) for found in (of_peers < scores[..., None], of_peers >= scores[..., None]))
    judged = (n > 0) & np.isfinite(scores)
    return AmongPeers(mean, sd, n.astype(np.int64), np.where(judged, below, np.nan), np.where(judged, at_or_above, np.nan))
