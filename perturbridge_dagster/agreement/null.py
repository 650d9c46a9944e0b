"""Chance: the rank that retrieval reaches when signatures say nothing.

Belongs here: the exact distribution of the best of several ranks drawn at random. Does not belong here: ranks of data
(``similarity.py``).

With `n_positives` positives among `n_candidates` candidates in random order, the best positive has a rank above r exactly when the
first r candidates hold none. So the number of positives among the first r is hypergeometric. More positives reach better ranks by
chance alone: one half, two thirds, three quarters of the way up for one, two, three positives.

The distribution supposes that positives are as scattered as any others. Positives that resemble each other, such as the doses of
one compound, stand together, so that the best of them is little better than one of them: chance then reaches less than the
expectation given here, and P values are too large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

Counts = NDArray[np.integer[Any]]


def normalised_rank(rank: NDArray[Any], n_candidates: NDArray[Any]) -> NDArray[np.float64]:
    """How far up a rank is: 1 for the first, 0 for the last.

    Parameters
    ----------
    rank
        Ranks, the first is 1; or their expectations.
    n_candidates
        Number of candidates, at least two; of a shape that broadcasts.
    """
    return np.asarray(1 - (np.asarray(rank) - 1) / (np.asarray(n_candidates) - 1), dtype=np.float64)


def expected_best_rank(n_candidates: Counts, n_positives: Counts) -> NDArray[np.float64]:
    """Expectation of the best rank of positives in random order: (N + 1) / (K + 1)."""
    return np.asarray((np.asarray(n_candidates) + 1) / (np.asarray(n_positives) + 1), dtype=np.float64)


def expected_normalised_rank(n_candidates: Counts, n_positives: Counts) -> NDArray[np.float64]:
    """Expectation of the normalised best rank of positives in random order."""
    return normalised_rank(expected_best_rank(n_candidates, n_positives), n_candidates)


def probability_of_rank(rank: Counts, n_candidates: Counts, n_positives: Counts) -> NDArray[np.float64]:
    """Probability that the best of positives in random order has this rank or a better one.

    Parameters
    ----------
    rank, n_candidates, n_positives
        Shapes that broadcast. The rank may be larger than the number of candidates: the probability is then one.

    Returns
    -------
    The P value of a best rank; also the expectation of Recall@k for rank k.
    """
    rank, n_candidates, n_positives = np.broadcast_arrays(rank, n_candidates, n_positives)
    # Most queries of a stratum have the same numbers, and the distribution is slow.
    size = 1 + max(int(part.max(initial=0)) for part in (rank, n_candidates, n_positives))
    code, position = np.unique((rank.astype(np.int64) * size + n_candidates) * size + n_positives, return_inverse=True)
    drawn, total, positives = code // size**2, code // size % size, code % size
    probability = np.asarray(hypergeom.sf(0, total, positives, np.minimum(drawn, total)), dtype=np.float64)
    return probability[position].reshape(rank.shape)
