"""Pair scores: pairs of contrasts of two strata by all metrics, with all baselines, in blocks of bounded memory.

Belongs here: what is read for a block of pairs, and setting their scores beside centroids and peers. Does not belong here: the
metrics (``comparing.py``), what a centroid or a peer is (``baselines.py``, ``peers.py``), the tables made of scores
(``scoring.py``, ``replicates.py``).

In names, source is the dataset of a signature and target that of its partner: a left signature has left others as its source and
right others as its target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perturbridge_dagster.agreement.baselines import Centroid, OtherCompoundMeans, Reader
from perturbridge_dagster.agreement.comparing import Scores, Signatures, compare_all, compare_pairs
from perturbridge_dagster.agreement.metrics import LARGE_LOG_FC, mean_rows, significant
from perturbridge_dagster.agreement.peers import N_PEERS, Peers, among_peers
from perturbridge_dagster.agreement.signatures import StratumEffects
from perturbridge_dagster.contract import BASELINES, METRIC_NAMES

LAYERS = ("logFC", "t", "log10_adj_p_within")

VALUES_AT_ONCE = 2**24
"""Contrasts × genes held at a time, of both sides together; some 40 bytes each with all that is computed of them."""

_PAIRS_AT_ONCE = 1024
"""Pairs set beside their peers at a time, which makes metrics × pairs × peers values."""

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ScoreOptions:
    """What may be chosen of scores. As given, no minimum is set beyond those of the published definitions.

    Attributes
    ----------
    n_peers
        Most peers of a signature in each dataset; 0 for none.
    centroid
        Whether compounds count alike in a centroid, or, as published, contrasts.
    minimum_genes
        Fewest genes that a score may count, by metric.
    seed
        With names decides which compounds are peers.
    """

    n_peers: int = N_PEERS
    centroid: Centroid = "compound_means"
    minimum_genes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0


def _log_fc_and_t(values: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([values["logFC"], values["t"]], axis=1)


@dataclass(frozen=True)
class PairSide:
    """One side of pairs, made by :func:`pair_sides`.

    Attributes
    ----------
    effects, genes
        Effects of the stratum, and positions of the genes.
    rows
        Position of the contrast of each pair, shape (pairs,).
    means, peers
        Other compounds. Where both sides are one stratum, they share these.
    """

    effects: StratumEffects
    genes: NDArray[np.int64]
    rows: NDArray[np.int64]
    means: OtherCompoundMeans
    peers: Peers

    @property
    def group(self) -> NDArray[np.int64]:
        """Number of the dose and time of each pair's contrast."""
        return self.means.groups.peers[self.rows]


def _side(effects: StratumEffects, genes: NDArray[np.int64], rows: NDArray[np.int64], options: ScoreOptions) -> PairSide:
    means = OtherCompoundMeans(effects, genes, rows, layers=LAYERS[:2], value=_log_fc_and_t, centroid=options.centroid)
    peers = Peers(effects.contrasts, means.groups, rows, n_peers=options.n_peers, seed=options.seed)
    return PairSide(effects, genes, rows, means, peers)


def pair_sides(
    strata: Sequence[StratumEffects], genes: Sequence[NDArray[np.int64]], rows: Sequence[NDArray[np.int64]], options: ScoreOptions
) -> tuple[PairSide, PairSide]:
    """The two sides of pairs of contrasts.

    Parameters
    ----------
    strata
        Effects of the left and of the right side, which may be the same.
    genes
        Positions of the genes in each, in one order.
    rows
        Positions of the contrasts in each: pair i is made of ``rows[0][i]`` and ``rows[1][i]``.
    options
        See :class:`ScoreOptions`.
    """
    if strata[0] is strata[1] and np.array_equal(genes[0], genes[1]):
        whole = _side(strata[0], genes[0], np.concatenate([rows[0], rows[1]]), options)
        return replace(whole, rows=rows[0]), replace(whole, rows=rows[1])
    left, right = (_side(*given, options) for given in zip(strata, genes, rows, strict=True))
    return left, right


@dataclass(frozen=True)
class _Held:
    """What lies in memory of one side: signatures of a block of pairs and of their peers, and centroids.

    Attributes
    ----------
    positions
        Contrasts of the signatures, sorted.
    of_pair
        Which signature each pair has.
    centroids, centroid_of_pair
        Means of other compounds, and which of them each pair has.
    """

    positions: NDArray[np.int64]
    signatures: Signatures
    of_pair: NDArray[np.int64]
    centroids: Signatures
    centroid_of_pair: NDArray[np.int64]


def _reader(side: PairSide, positions: NDArray[np.int64], values: dict[str, NDArray[np.float32]]) -> Reader:
    """Reads contrasts from what is held at `positions`, and only others from the effects."""

    def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        place = np.searchsorted(positions, rows)
        known = np.isin(rows, positions)
        found = np.empty((len(rows), 2 * len(side.genes)), dtype=np.float32)
        found[known] = _log_fc_and_t({layer: values[layer][place[known]] for layer in LAYERS[:2]})
        if not known.all():
            found[~known] = _log_fc_and_t(side.effects.dense(LAYERS[:2], rows[~known], side.genes))
        return found

    return read


def _held(sides: Mapping[Side, PairSide], pairs: NDArray[np.int64]) -> dict[Side, _Held]:
    """What is needed of each side for a block of pairs; read and ranked once where both are one stratum."""
    of_stratum: dict[int, list[Side]] = {}
    for name, side in sides.items():
        of_stratum.setdefault(id(side.means), []).append(name)
    held: dict[Side, _Held] = {}
    for names in of_stratum.values():
        side = sides[names[0]]
        asked, of_asked = np.unique(np.concatenate([sides[name].rows[pairs] for name in names]), return_inverse=True)
        groups = np.unique(side.means.groups.peers[asked])
        positions = np.unique(np.concatenate([asked, *(side.peers.panel(int(group)) for group in groups)]))
        values = side.effects.dense(LAYERS, positions, side.genes)
        means = side.means.means(asked, _reader(side, positions, values)).astype(np.float32)
        log_fc, t = (np.ascontiguousarray(part) for part in np.split(means, 2, axis=1))
        signatures = Signatures(values["logFC"], values["t"], values["log10_adj_p_within"])
        centroids = Signatures(log_fc, t)
        for name, of_pair in zip(names, np.split(of_asked.reshape(-1), len(names)), strict=True):
            signature = np.searchsorted(positions, asked[of_pair]).astype(np.int64)
            held[name] = _Held(positions, signatures, signature, centroids, of_pair.astype(np.int64))
    return held


def _blocks(sides: Mapping[Side, PairSide]) -> Iterator[NDArray[np.int64]]:
    """Pairs in blocks for which everything can be held. Neighbours in a block share peers."""
    left, right = sides["left"], sides["right"]
    limit = max(1, VALUES_AT_ONCE // max(1, len(left.genes)))
    block: list[int] = []
    held: set[tuple[str, int]] = set()
    named = {name: "left" if side.means is left.means else "right" for name, side in sides.items()}
    before: tuple[int, int] | None = None
    group = {name: side.group for name, side in sides.items()}
    for pair in np.lexsort((right.rows, left.rows, group["right"], group["left"])).tolist():
        of_pair = {(kind + named[name], int(side.rows[pair])) for name, side in sides.items() for kind in ("centroid ", "")}
        groups = int(group["left"][pair]), int(group["right"][pair])
        panels = {(named[name], row) for name, side in sides.items() for row in side.peers.panel(int(group[name][pair])).tolist()}
        more = of_pair if groups == before else of_pair | panels
        if block and len(held | more) > limit:
            yield np.array(block, dtype=np.int64)
            block, held, more = [], set(), of_pair | panels
        block.append(pair)
        held |= more
        before = groups
    if block:
        yield np.array(block, dtype=np.int64)


def _strength(held: _Held, name: Side) -> Columns:
    """Mean |t| and numbers of significant genes of the signature of each pair."""
    signatures, of_pair = held.signatures, held.of_pair
    asked, pair = np.unique(of_pair, return_inverse=True)
    log_fc, log10_adj_p = signatures.log_fc[asked], signatures.log10_adj_p
    member = significant(log_fc, log10_adj_p[asked]) if log10_adj_p is not None else np.zeros(log_fc.shape, dtype=bool)
    large = member & (np.abs(log_fc) > np.float32(LARGE_LOG_FC))
    return {
        f"{name}_mean_abs_t": mean_rows(np.abs(signatures.t[asked]))[pair],
        f"{name}_n_significant_p05": member.sum(axis=1)[pair],
        f"{name}_n_significant_p05_lfc02": large.sum(axis=1)[pair],
    }


def _peer_columns(
    query: tuple[Side, _Held], panel: tuple[Side, PairSide, _Held], observed: Scores, pairs: NDArray[np.int64], options: ScoreOptions
) -> Columns:
    """Signatures of one side of a block of pairs beside their peers on one side."""
    (query_name, asking), (panel_name, side, holding) = query, panel
    name = f"{query_name}_{'source' if query_name == panel_name else 'target'}_peers"
    shape = observed.score.shape
    columns: Columns = {name: np.full(shape, np.nan), f"{name}_n": np.zeros(shape, dtype=np.int64)}
    columns |= {f"{name}_{what}": np.full(shape, np.nan) for what in ("sd", "percentile", "p")}
    groups = side.group[pairs]
    for group in np.unique(groups):
        rows = side.peers.panel(int(group))
        there = np.searchsorted(holding.positions, rows)
        members = np.flatnonzero(groups == group)
        for first in range(0, len(members) if len(rows) else 0, _PAIRS_AT_ONCE):
            here = members[first : first + _PAIRS_AT_ONCE]
            asked, of_asked = np.unique(asking.of_pair[here], return_inverse=True)
            scores = compare_all(asking.signatures, holding.signatures, asked, there).at_least(options.minimum_genes).score
            allowed = side.peers.allowed(side.rows[pairs[here]], int(group))
            found = among_peers(observed.score[:, here], np.where(allowed, scores[:, of_asked.reshape(-1)], np.nan))
            for suffix, values in vars(found).items():
                columns[name if suffix == "mean" else f"{name}_{suffix}"][:, here] = values
    return columns


def _score_block(
    sides: Mapping[Side, PairSide], pairs: NDArray[np.int64], baselines: tuple[str, ...], options: ScoreOptions
) -> tuple[Columns, Columns]:
    held = _held(sides, pairs)
    left, right = held["left"], held["right"]
    observed = compare_pairs(left.signatures, right.signatures, left.of_pair, right.of_pair).at_least(options.minimum_genes)
    scores: Columns = {"n_genes": observed.n_genes, "score": observed.score}
    for query, asking in held.items():
        for other, holding in held.items():
            which = "source" if query == other else "target"
            if f"{which}_centroid" in baselines:
                found = compare_pairs(asking.signatures, holding.centroids, asking.of_pair, holding.centroid_of_pair)
                scores[f"{query}_{which}_centroid"] = found.at_least(options.minimum_genes).score
            if f"{which}_peers" in baselines:
                scores |= _peer_columns((query, asking), (other, sides[other], holding), observed, pairs, options)
    of_pairs: Columns = {"n_genes": observed.n_genes[0]}
    for name in SIDES:
        of_pairs |= _strength(held[name], name)
        of_pairs[f"{name}_baseline_compounds"] = sides[name].means.n_compounds(sides[name].rows[pairs])
    for kind in ("p05", "p05_lfc02"):
        of_pairs[f"n_shared_significant_{kind}"] = observed.n_genes[METRIC_NAMES.index(f"direction_agreement_{kind}")]
    of_pairs["mean_abs_t"] = (of_pairs["left_mean_abs_t"] + of_pairs["right_mean_abs_t"]) / 2
    return of_pairs, scores


def with_deltas(scores: Columns, baselines: tuple[str, ...] = BASELINES) -> Columns:
    """Add to scores, for each baseline, its mean over the sides that have it, and the score less that."""
    for name in baselines:
        sides = np.stack([scores[f"{side}_{name}"] for side in SIDES], axis=-1)
        mean = mean_rows(sides.reshape(-1, 2)).reshape(sides.shape[:-1])
        scores |= {name: mean, f"{name}_delta": scores["score"] - mean}
    return scores


def score_pairs(left: PairSide, right: PairSide, options: ScoreOptions, baselines: tuple[str, ...] = BASELINES) -> tuple[Columns, Columns]:
    """Score pairs of contrasts of two strata over the same genes, with their baselines.

    Parameters
    ----------
    left, right
        The two sides, made by :func:`pair_sides`.
    options
        See :class:`ScoreOptions`.
    baselines
        Which to compute, of ``contract.BASELINES``.

    Returns
    -------
    of_pairs
        Columns of shape (pairs,): genes counted, strength, numbers of significant genes and of other compounds.
    scores
        Columns of the contract's AGREEMENT_SCORES that follow the gene universe, each of shape (metrics, pairs).
    """
    sides: dict[Side, PairSide] = {"left": left, "right": right}
    of_pairs: Columns = {}
    scores: Columns = {}
    for pairs in _blocks(sides):
        for all_found, found in zip((of_pairs, scores), _score_block(sides, pairs, baselines, options), strict=True):
            for name, values in found.items():
                whole = all_found.setdefault(name, np.empty((*values.shape[:-1], len(left.rows)), dtype=values.dtype))
                whole[..., pairs] = values
    return of_pairs, with_deltas(scores, baselines) if scores else scores
