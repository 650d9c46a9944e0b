"""Geometry: what the places of perturbations in an embedding say.

Belongs here: nearest neighbours, how far seeds agree on them, whether a shared mechanism means a near place, and the map. Does not belong
here: files of embeddings (``embeddings.py``) or drawing (``figures.py``).

Neighbours are exact, by cosine, and computed in blocks of rows, so that memory is that of a block whatever the number of perturbations.
Seeds have coordinates of their own, which cannot be compared; cosines can, so several seeds are taken together by the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import named_generator
from perturbridge_dagster.contract import EMBEDDING_MAP, EMBEDDING_MECHANISMS, EMBEDDING_STABILITY
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.embeddings import embedding_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_VALUES = 2**23
"""Cosines computed at a time: 64 MiB."""

STABILITY_AT = (1, 5, 10, 50)
"""Numbers of neighbours at which seeds are compared."""

MAP_POINTS = 10_000
"""Most perturbations on a map: more would hide each other, and take the projection minutes."""

_PERPLEXITY = 30.0


def unit_vectors(embeddings: pd.DataFrame) -> NDArray[np.float64]:
    """Vectors of length 1 whose products are the cosines of embeddings, mean over seeds.

    Parameters
    ----------
    embeddings
        Columns symbol and embedding, and seed where there are several; every seed has the same symbols in the same order.

    Returns
    -------
    ndarray
        (symbols, seeds × width) float64: the directions of all seeds beside each other, divided by the root of their number.

    Raises
    ------
    InputError
        If an embedding is zero, so that it has no direction, or seeds differ in their symbols.
    """
    parts = []
    symbols: list[str] | None = None
    for _, of_seed in _by_seed(embeddings):
        own = of_seed["symbol"].to_list()
        if symbols is not None and own != symbols:
            raise InputError("seeds have other perturbations than each other", column="symbol", expected="the same, in the same order")
        symbols = own
        vectors = embedding_matrix(of_seed).astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if (lengths == 0).any():
            raise InputError(
                "zero embeddings have no direction", rows=list(of_seed.loc[lengths.ravel() == 0, "symbol"]), column="embedding"
            )
        parts.append(vectors / lengths)
    return np.asarray(np.concatenate(parts, axis=1) / np.sqrt(len(parts)))


def _by_seed(embeddings: pd.DataFrame) -> list[tuple[int | None, pd.DataFrame]]:
    """Embeddings of each seed; one that files before contract 1.3 do not name is None."""
    if "seed" not in embeddings or embeddings["seed"].isna().all():
        return [(None, embeddings)]
    return [(int(str(seed)), of_seed) for seed, of_seed in embeddings.groupby("seed", sort=True)]


def nearest(units: NDArray[np.float64], k: int, rows: NDArray[np.integer] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest vectors of vectors by cosine, exactly.

    Parameters
    ----------
    units
        (n, width) float64, each of length 1.
    k
        Neighbours of each; all others where there are fewer.
    rows
        (m,) whose neighbours are sought, among all n; those of all unless given.

    Returns
    -------
    tuple
        (m, k) int64 positions, nearest first, and (m, k) float64 cosines. Ties go to the earlier position.

    Raises
    ------
    InputError
        If k is below 1.
    """
    if k < 1:
        raise InputError(f"{k} neighbours were asked for", expected="at least 1")
    n = len(units)
    sought = np.arange(n) if rows is None else np.asarray(rows)
    k = min(k, n - 1)
    positions = np.empty((len(sought), k), dtype=np.int64)
    cosines = np.empty((len(sought), k))
    size = max(1, _BLOCK_VALUES // max(1, n))
    for start in range(0, len(sought) if k else 0, size):
        block = sought[start : start + size]
        cosine = np.clip(units[block] @ units.T, -1, 1)
        cosine[np.arange(len(block)), block] = -np.inf
        found = _largest(cosine, k)
        positions[start : start + size] = found
        cosines[start : start + size] = np.take_along_axis(cosine, found, axis=1)
    return positions, cosines


def _largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Positions of the k largest values of each row, largest first; of equal ones the earlier."""
    positions = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
    least = np.take_along_axis(values, positions, axis=1).min(axis=1)
    # where more values equal the least of them than there is room for, which of these were taken is chance
    for row in np.flatnonzero((values >= least[:, None]).sum(axis=1) > k):
        positions[row] = np.argsort(-values[row], kind="stable")[:k]
    positions.sort(axis=1)
    order = np.argsort(-np.take_along_axis(values, positions, axis=1), axis=1, kind="stable")
    return np.take_along_axis(positions, order, axis=1)


def neighbours(embeddings: pd.DataFrame, k: int, symbols: Sequence[str] | None = None) -> pd.DataFrame:
    """The k nearest perturbations of perturbations by cosine, mean over seeds.

    Parameters
    ----------
    embeddings
        Columns symbol and embedding, and seed where there are several.
    k
        Neighbours of each; all others where there are fewer.
    symbols
        Whose neighbours are sought; those of all unless given.

    Returns
    -------
    DataFrame
        symbol, rank (from 1), neighbour, cosine, n_seeds (seeds that have the neighbour among the k nearest); in the order of
        `embeddings`, then rank. Ties go to the earlier row.

    Raises
    ------
    InputError
        If k is below 1, an embedding is zero, so that it has no direction, or there is no such symbol.
    """
    by_seed = _by_seed(embeddings)
    names = by_seed[0][1]["symbol"].to_numpy(dtype=object)
    rows = np.arange(len(names)) if symbols is None else pd.Index(names).get_indexer(pd.Index(symbols))
    if (rows < 0).any():
        raise InputError("no such perturbations", rows=[symbol for symbol, row in zip(symbols or (), rows, strict=True) if row < 0])
    positions, cosine = nearest(unit_vectors(embeddings), k, rows)
    n_seeds = np.zeros(positions.shape, dtype=np.int64)
    for _, of_seed in by_seed:
        own, _ = nearest(unit_vectors(of_seed), k, rows)
        n_seeds += (positions[:, :, None] == own[:, None, :]).any(axis=2)
    kept = positions.shape[1]
    return pd.DataFrame(
        {
            "symbol": np.repeat(names[rows], kept),
            "rank": np.tile(np.arange(1, kept + 1), len(rows)),
            "neighbour": names[positions.ravel()],
            "cosine": cosine.ravel(),
            "n_seeds": n_seeds.ravel(),
        }
    )


def neighbour_stability(embeddings: pd.DataFrame, at: Sequence[int] = STABILITY_AT) -> pd.DataFrame:
    """How far seeds agree on nearest neighbours.

    For two seeds, the share of the k nearest of a perturbation that both have, mean over perturbations. Neighbours drawn at random would
    share k / (n − 1), the mean of a hypergeometric distribution.

    Parameters
    ----------
    embeddings
        Columns symbol, seed and embedding.
    at
        Numbers of neighbours k. Those that leave no other perturbation out are passed over: they agree whatever the vectors.

    Returns
    -------
    DataFrame
        The contract's table `embedding_stability`: a row a pair of seeds and k. Empty with one seed.
    """
    by_seed = _by_seed(embeddings)
    n = len(by_seed[0][1])
    at = [k for k in sorted(at) if k < n - 1]
    rows = []
    if len(by_seed) > 1 and at:
        found = {seed: nearest(unit_vectors(of_seed), at[-1])[0] for seed, of_seed in by_seed}
        for seed, other in combinations(found, 2):
            for k in at:
                share = _n_common(found[seed][:, :k], found[other][:, :k]).mean() / k
                rows.append((seed, other, k, n, float(share), k / (n - 1)))
    return pd.DataFrame(rows, columns=EMBEDDING_STABILITY.names)


def _n_common(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many values two rows have in common, row by row; no row has a value twice."""
    both = np.sort(np.concatenate([left, right], axis=1), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1))


# ---- mechanisms --------------------------------------------------------------------------------------------------------------


def mechanism_closeness(
    embeddings: pd.DataFrame, compounds: pd.DataFrame, *, n_permutations: int = 999, names: Sequence[str] = ()
) -> pd.DataFrame:
    """Whether perturbations that share a mechanism lie nearer to each other than chance.

    Salts of one parent are alike for another reason, so that of each parent the perturbation with the most train conditions alone counts.
    Mechanisms are compared as the sources write them. The mean cosine of the pairs that share a mechanism is set beside the same with
    mechanisms permuted over perturbations; P is (1 + permutations as high) / (1 + permutations).

    Parameters
    ----------
    embeddings
        Columns symbol, n_conditions and embedding, and seed where there are several.
    compounds
        Columns perturbation, parent_key and mechanism, which may be null.
    n_permutations
        Permutations.
    names
        Of what is tested, from which the random numbers follow.

    Returns
    -------
    DataFrame
        The contract's table `embedding_mechanisms`: a row a seed, and one with a null seed for all together. Empty where no two
        perturbations share a mechanism.
    """
    known = compounds.set_index("perturbation").reindex(embeddings["symbol"].unique())
    counts = embeddings.drop_duplicates("symbol").set_index("symbol")["n_conditions"]
    known = known.assign(n=counts, parent=known["parent_key"].where(known["parent_key"].notna(), known.index)).dropna(subset="mechanism")
    known = known.sort_values("n", ascending=False, kind="stable").drop_duplicates("parent")
    known = known[known.groupby("mechanism")["mechanism"].transform("size") > 1].sort_index()
    if known["mechanism"].nunique() < 2:
        return pd.DataFrame(columns=EMBEDDING_MECHANISMS.names)
    codes = pd.factorize(known["mechanism"])[0]
    chosen = embeddings[embeddings["symbol"].isin(known.index)].sort_values("symbol", kind="stable")
    by_seed = _by_seed(chosen)
    parts = [*by_seed, *([(None, chosen)] if len(by_seed) > 1 else [])]
    rows = []
    for seed, part in parts:
        units = unit_vectors(part)
        observed = _same_group_cosine(units, codes)
        generator = named_generator(("mechanism_closeness", *names, str(seed)))
        permuted = np.array([_same_group_cosine(units, generator.permutation(codes)) for _ in range(n_permutations)])
        near = nearest(units, 1)[0][:, 0]
        sizes = np.bincount(codes)
        rows.append(
            (
                seed,
                len(codes),
                len(sizes),
                observed,
                float(permuted.mean()),
                float((codes[near] == codes).mean()),
                float((sizes * (sizes - 1)).sum() / (len(codes) * (len(codes) - 1))),
                n_permutations,
                float((1 + (permuted >= observed - 1e-12).sum()) / (1 + n_permutations)),
            )
        )
    return pd.DataFrame(rows, columns=EMBEDDING_MECHANISMS.names).astype({"seed": "Int64"})


def _same_group_cosine(units: NDArray[np.float64], codes: NDArray[np.integer]) -> float:
    """Mean product of the pairs of one group, from sums: the squared length of a group's sum is its size and twice its pairs."""
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    sums = np.add.reduceat(units[order], np.cumsum([0, *sizes[:-1]]), axis=0)
    return float((np.square(sums).sum() - len(codes)) / (sizes * (sizes - 1)).sum())


# ---- the map -----------------------------------------------------------------------------------------------------------------


def principal_plane(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates on the first two principal components, and the share of variance of each.

    Parameters
    ----------
    vectors
        (n, width).

    Returns
    -------
    tuple
        (n, 2) coordinates, each component signed so that its largest absolute coordinate is positive; (2,) shares. A component
        that does not exist is zero.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    singular[singular < 1e-10 * singular.max(initial=0)] = 0  # rounding, not spread
    coordinates = np.zeros((len(vectors), 2))
    shares = np.zeros(2)
    n = min(2, len(singular))
    coordinates[:, :n] = left[:, :n] * singular[:n]
    total = float(np.square(singular).sum())
    if total > 0:
        shares[:n] = np.square(singular[:n]) / total
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None, :], axis=0)
    return coordinates * np.where(largest < 0, -1, 1), shares


def embedding_map(embeddings: pd.DataFrame, compounds: pd.DataFrame, *, n_points: int = MAP_POINTS) -> pd.DataFrame:
    """Places of perturbations on a map of two dimensions.

    t-SNE (van der Maaten and Hinton 2008) of the directions of all seeds, started from the first two principal components, with one thread
    and a fixed seed, so that the same embeddings give the same map. Near places mean near directions; far places, and the axes, mean
    nothing.

    Parameters
    ----------
    embeddings
        Columns symbol, perturbagen, n_conditions and embedding, and seed where there are several.
    compounds
        Columns perturbation and mechanism, which may be null.
    n_points
        Most perturbations shown: those of a known mechanism first, then those with the most train conditions.

    Returns
    -------
    DataFrame
        The contract's table `embedding_map`, by symbol.
    """
    shown = embeddings.drop_duplicates("symbol")[["symbol", "perturbagen", "n_conditions"]]
    shown = shown.assign(mechanism=shown["symbol"].map(compounds.set_index("perturbation")["mechanism"]).astype(object))
    by_weight = shown.assign(is_known=shown["mechanism"].notna()).sort_values(["is_known", "n_conditions"], ascending=False, kind="stable")
    shown = by_weight.head(n_points).sort_values("symbol").reset_index(drop=True)
    chosen = embeddings[embeddings["symbol"].isin(shown["symbol"])].sort_values("symbol", kind="stable")
    places = _tsne(unit_vectors(chosen))
    return shown.assign(x=places[:, 0], y=places[:, 1])[EMBEDDING_MAP.names]


def _tsne(units: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) places; those on the first two principal components where there are too few for neighbourhoods."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start, _ = principal_plane(units)
    spread = start[:, 0].std()
    if len(units) < 5 or spread == 0:
        return start
    perplexity = min(_PERPLEXITY, (len(units) - 1) / 3)
    with threadpool_limits(1):  # sums of several threads have no fixed order
        tsne = TSNE(2, perplexity=perplexity, init=(start / spread * 1e-4).astype(np.float32), random_state=0)
        return np.asarray(tsne.fit_transform(units.astype(np.float32)), dtype=np.float64)
