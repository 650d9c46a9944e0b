"""The published way of cutting a large stratum into random batches of perturbagens, each fitted on its own.

Belongs here: which samples of a stratum the published analysis fitted together, for comparison with its release. Does not belong
here: the fit of a batch (``limma.py``), or our own fit, which takes a stratum whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.errors import InputError

_TARGET = 2_500
"""Treated samples a batch is to have."""

_LIMIT = _TARGET + 200
"""Treated samples a batch of several perturbagens never exceeds."""

_SEED = 0


@dataclass(frozen=True)
class Batch:
    """Samples of a stratum that are fitted together.

    Attributes
    ----------
    rows
        Positions of the batch's samples in the stratum, ascending: its treated samples and every control.
    padding
        Perturbagens that fill the batch up and belong to another one, in the order drawn. Their samples are among `rows`.
    """

    rows: NDArray[np.intp]
    padding: tuple[str, ...]


def _shuffled(codes: Sequence[int] | NDArray[np.intp]) -> list[int]:
    """Codes as NumPy's legacy generator shuffles them when it was seeded just before."""
    order: list[int] = np.random.RandomState(_SEED).permutation(np.asarray(codes, dtype=np.intp)).tolist()
    return order


def _assign(sizes: NDArray[np.intp]) -> list[list[int]]:
    """Perturbagens, by code, of each batch: best fit in shuffled order."""
    batches: list[list[int]] = []
    totals: list[int] = []
    for code in _shuffled(np.arange(len(sizes))):
        size = int(sizes[code])
        fitting = [i for i, total in enumerate(totals) if total < _TARGET and total + size <= _LIMIT]
        if fitting:
            best = min(fitting, key=lambda i: abs(totals[i] + size - _TARGET))
            batches[best].append(code)
            totals[best] += size
        else:
            batches.append([code])
            totals.append(size)
    return batches


def _padding(members: list[int], sizes: NDArray[np.intp]) -> list[int]:
    """Perturbagens of other batches that bring a batch to the target, or as near as the limit allows."""
    total = int(sizes[members].sum())
    drawn: list[int] = []
    for code in _shuffled(np.setdiff1d(np.arange(len(sizes)), members)):
        if total >= _TARGET:
            break
        if total + sizes[code] <= _LIMIT:
            drawn.append(code)
            total += int(sizes[code])
    return drawn


def published_batches(perturbagen: pd.Series[Any] | NDArray[Any], is_control: NDArray[np.bool_]) -> list[Batch]:
    """The batches in which the published analysis fits a stratum.

    A stratum of up to 2,500 treated samples is one batch, and so is one of a single treated perturbagen. Else the treated perturbagens are
    shuffled and dealt out whole, with all their doses, times and replicates: each goes to the batch still below 2,500 treated samples
    that it brings nearest to 2,500 without exceeding 2,700, the first such batch on ties; where there is none, it opens the next. Then
    each batch still below 2,500 is padded with perturbagens of other batches, so these are fitted twice. Every batch
    has all controls.

    The release is a random cut: which conditions are fitted together depends on the order of the samples, through the order in which
    perturbagens first appear, and on nothing else of it. Where its description is silent, this function reads it plainly:

    - First appearance counts among treated samples only.
    - Each shuffle, the one of the assignment and the one of each batch's padding, seeds NumPy's legacy generator with 0 anew (a generator
      of our own; the global one is left alone).
    - Perturbagens that may pad a batch are in order of first appearance before they are shuffled. One that would exceed 2,700 is
      passed over, and the next is tried; a batch that none can bring to 2,500 stays below.
    - Batches are padded from the batches as assigned; padding of one batch may pad another too.

    Parameters
    ----------
    perturbagen
        Perturbagen of each sample of one stratum, in the order of the published file. For L1000 the release puts the PubChem id in the
        perturbagen's place where it is known, so names of one id are one perturbagen; give ids there.
    is_control
        Whether each sample is a vehicle control.

    Returns
    -------
    list of Batch
        In the order in which they were opened, which is that of the published ``batch_<k>``, k from 1.

    Raises
    ------
    InputError
        If a treated sample has no perturbagen.
    """
    treated = np.flatnonzero(~is_control)
    codes, names = pd.factorize(np.asarray(perturbagen, dtype=object)[treated])
    if (codes < 0).any():
        raise InputError(
            f"a treated sample has no perturbagen; {(codes < 0).sum():,} have none", column="perturbagen", rows=treated[codes < 0].tolist()
        )
    if len(treated) <= _TARGET:
        return [Batch(np.arange(len(is_control)), ())]
    sizes = np.bincount(codes)
    code = np.full(len(is_control), -1)
    code[treated] = codes
    batches = []
    for members in _assign(sizes):
        padding = _padding(members, sizes)
        rows = np.flatnonzero(is_control | np.isin(code, members + padding))
        batches.append(Batch(rows, tuple(str(names[drawn]) for drawn in padding)))
    return batches
