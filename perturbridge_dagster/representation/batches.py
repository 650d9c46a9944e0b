"""Batches for training: the order of the data, each process's share of it, and bringing it from the shards.

Belongs here: which values or conditions make a step, and their arrays. Does not belong here: what a model makes of them
(``models.py``), or steps (``training.py``).

The order follows from the run's seed and the epoch alone. Blocks of neighbouring items are permuted, then all items of a pool of about a
million are. A corpus up to that size is thus shuffled as a whole; of a larger one, which is memory-mapped, every batch mixes 256 places.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from perturbridge_dagster.compiled import compiled
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.encoding import EncodedSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

Plan = TypeVar("Plan")
Loaded = TypeVar("Loaded")

ItemKind = Literal["values", "conditions"]
"""What a batch counts."""

_BLOCK_ITEMS = 4_096
_POOL_ITEMS = 2**20


@dataclass(frozen=True)
class ValueBatch:
    """One process's share of the values of a step.

    Attributes
    ----------
    condition
        (u,) int64: the conditions of these values, each once, as rows of the split's conditions.
    place
        (n,) int64: position of each value's condition in `condition`.
    readout
        (n,) int64 codes of genes.
    value
        (n,) float32 logFC.
    n_mine, n_values
        Values of this share, and of the step over all processes.
    """

    condition: NDArray[np.int64]
    place: NDArray[np.int64]
    readout: NDArray[np.int64]
    value: NDArray[np.float32]
    n_mine: int
    n_values: int


@dataclass(frozen=True)
class Profiles:
    """Conditions of a step that have the same genes.

    Attributes
    ----------
    condition
        (n,) int64 rows of the split's conditions.
    readout
        (genes,) int64 codes.
    log_fc
        (n, genes) float32, NaN where there is no value.
    """

    condition: NDArray[np.int64]
    readout: NDArray[np.int64]
    log_fc: NDArray[np.float32]


@dataclass(frozen=True)
class ProfileBatch:
    """One process's share of the conditions of a step.

    Attributes
    ----------
    profiles
        The conditions, by their genes.
    n_mine, n_values
        Values of this share, and of the step over all processes.
    """

    profiles: tuple[Profiles, ...]
    n_mine: int
    n_values: int


# ---- the order ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pool:
    """Items that are shuffled together.

    Attributes
    ----------
    runs
        (k, 2) int64: first item of each run of neighbours, and one past its last.
    order
        (n,) int64 permutation of the items of all runs.
    """

    runs: NDArray[np.int64]
    order: NDArray[np.int64]

    def items(self) -> NDArray[np.int64]:
        """The items in their order."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.runs])[self.order]


def _pools(n_items: int, batch_size: int, seed: int, epoch: int, first: int = 0) -> Iterator[_Pool]:
    """Pools of an epoch, each of whole batches but the last, from the one that holds batch `first` on."""
    blocks = np.random.default_rng([seed, epoch]).permutation(math.ceil(n_items / _BLOCK_ITEMS))
    starts, stops = blocks * _BLOCK_ITEMS, np.minimum((blocks + 1) * _BLOCK_ITEMS, n_items)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(stops - starts)])
    size = _batches_a_pool(batch_size) * batch_size
    for number in range(first // _batches_a_pool(batch_size), math.ceil(n_items / size)):
        begin, end = number * size, min((number + 1) * size, n_items)
        low, high = int(np.searchsorted(before, begin, side="right")) - 1, int(np.searchsorted(before, end))
        runs = np.stack([starts[low:high], stops[low:high]], axis=1)
        runs[0, 0] += begin - before[low]
        runs[-1, 1] -= before[high] - end
        yield _Pool(runs, _permutation(np.random.default_rng([seed, epoch, number + 1]).random(end - begin)))


@compiled
def _permutation(uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """The shuffle of Fisher and Yates, by one number in [0, 1) an item; a third of the time of NumPy's."""
    order = np.arange(len(uniform))
    for last in range(len(uniform) - 1, 0, -1):
        chosen = int(uniform[last] * (last + 1))
        order[last], order[chosen] = order[chosen], order[last]
    return order


def _batches_a_pool(batch_size: int) -> int:
    return max(1, _POOL_ITEMS // batch_size)


def epoch_batches(n_items: int, batch_size: int, seed: int, epoch: int, first: int = 0) -> Iterator[NDArray[np.int64]]:
    """The batches of one epoch: every item once, in an order that follows from seed and epoch alone.

    Parameters
    ----------
    n_items
        Items of the train split.
    batch_size
        Items a batch; the last of an epoch may be smaller.
    seed, epoch
        Seed of the run, and the epoch.
    first
        The batch to begin with.

    Yields
    ------
    ndarray
        int64 items.
    """
    skipped = first % _batches_a_pool(batch_size)
    for pool in _pools(n_items, batch_size, seed, epoch, first):
        items = pool.items()
        yield from (items[start : start + batch_size] for start in range(skipped * batch_size, len(items), batch_size))
        skipped = 0


def share(items: NDArray[np.int64], rank: int, processes: int) -> NDArray[np.int64]:
    """The items of a step that one process takes: every item is taken by one, and shares differ by one item at most."""
    return items[rank::processes]


# ---- the data ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batches:
    """The batches of a run, as one of its processes gets them.

    Attributes
    ----------
    split
        The train split.
    kind
        Whether an item is a value or a condition.
    batch_size
        Items a step, over all processes.
    seed
        Of the run.
    rank, processes
        Which process this is, and of how many.
    threads
        Threads that load ahead; 0 loads when asked.
    """

    split: EncodedSplit
    kind: ItemKind
    batch_size: int
    seed: int
    rank: int = 0
    processes: int = 1
    threads: int = 0

    @property
    def n_items(self) -> int:
        """Items of an epoch."""
        return len(self.split) if self.kind == "values" else len(self.split.first) - 1

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.n_items / self.batch_size)

    def from_step(self, step: int) -> Iterator[ValueBatch | ProfileBatch]:
        """Batches of all epochs, without end, from a step on."""
        for epoch in itertools.count(step // self.per_epoch):
            first = step % self.per_epoch if epoch == step // self.per_epoch else 0
            yield from self._values(epoch, first) if self.kind == "values" else self._profiles(epoch, first)

    def _values(self, epoch: int, first: int) -> Iterator[ValueBatch]:
        pools = _pools(self.n_items, self.batch_size, self.seed, epoch, first)
        skips = itertools.chain([first % _batches_a_pool(self.batch_size)], itertools.repeat(0))

        def load(plan: tuple[_Pool, int]) -> list[ValueBatch]:
            pool, skipped = plan
            row, readout, value, condition = _values_of(self.split, pool.runs)
            steps = [pool.order[start : start + self.batch_size] for start in range(0, len(pool.order), self.batch_size)][skipped:]
            number = np.full(len(condition), -1)
            batches = []
            for step in steps:
                mine = share(step, self.rank, self.processes)
                rows, place, genes, values = _gathered(mine, row, readout, value, number)
                batches.append(ValueBatch(condition[rows], place, genes, values, len(mine), len(step)))
            return batches

        return itertools.chain.from_iterable(loaded_ahead(load, zip(pools, skips, strict=False), self.threads))

    def _profiles(self, epoch: int, first: int) -> Iterator[ProfileBatch]:
        groups, n_values, starts = _groups(self.split), np.diff(self.split.first), _starts(self.split)

        def load(items: NDArray[np.int64]) -> ProfileBatch:
            mine = np.sort(share(items, self.rank, self.processes))
            profiles = tuple(_profiles_of(self.split, mine, groups, starts))
            return ProfileBatch(profiles, int(n_values[mine].sum()), int(n_values[items].sum()))

        yield from loaded_ahead(load, epoch_batches(self.n_items, self.batch_size, self.seed, epoch, first), self.threads)


def loaded_ahead(load: Callable[[Plan], Loaded], plans: Iterator[Plan], threads: int) -> Iterator[Loaded]:
    """Call a function for every plan, in order, some plans ahead of who takes the results.

    Parameters
    ----------
    load
        Must release Python's lock most of the time to gain anything.
    plans
        One argument a call.
    threads
        Calls at a time; without any, each is made when it is asked for.
    """
    if not threads:
        yield from map(load, plans)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Loaded]] = deque(pool.submit(load, plan) for plan in itertools.islice(plans, threads + 1))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(load, plan) for plan in itertools.islice(plans, 1))
            yield result


def _starts(split: EncodedSplit) -> NDArray[np.int64]:
    """Rows of a split before each of its blocks."""
    return np.cumsum([0, *(len(block.condition) for block in split.blocks)], dtype=np.int64)[:-1]


def _values_of(
    split: EncodedSplit, runs: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Row, gene and logFC of runs of values, as :class:`EncodedSplit` numbers them; and the condition of each of these rows."""
    n_values, first, starts = int((runs[:, 1] - runs[:, 0]).sum()), split.first, _starts(split)
    of_value, readout, value = np.empty(n_values, np.int32), np.empty(n_values, np.int32), np.empty(n_values, np.float32)
    condition: list[int] = []
    begin = 0
    for start, stop in runs.tolist():
        row = int(np.searchsorted(first, start, side="right")) - 1
        number = int(np.searchsorted(starts, row, side="right")) - 1
        while start < stop:
            while number + 1 < len(starts) and row >= starts[number + 1]:
                number += 1
            block, of_row = split.blocks[number], row - starts[number]
            low, high = start - int(first[row]), min(stop, int(first[row + 1])) - int(first[row])
            values, end = block.log_fc[block.row[of_row]], begin + high - low
            if first[row + 1] - first[row] == len(block.readout):
                readout[begin:end], value[begin:end] = block.readout[low:high], values[low:high]
            else:
                present = np.flatnonzero(np.isfinite(values))
                if len(present) != first[row + 1] - first[row]:
                    raise InputError(
                        f"a condition has {len(present):,} values in its shard",
                        expected=f"{first[row + 1] - first[row]:,}, as conditions.parquet says",
                        advice="Rematerialize training_corpus.",
                    )
                columns = present[low:high]
                readout[begin:end], value[begin:end] = block.readout[columns], values[columns]
            of_value[begin:end] = len(condition)
            condition.append(int(block.condition[of_row]))
            start, begin, row = start + high - low, end, row + 1
    return of_value, readout, value, np.array(condition, dtype=np.int64)


@compiled
def _gathered(
    items: NDArray[np.int64], row: NDArray[np.int32], readout: NDArray[np.int32], value: NDArray[np.float32], number: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The rows of some items, each once; and of every item the place among these, gene and value. `number` is -1 before and after."""
    rows, n_rows = np.empty(min(len(items), len(number)), np.int64), 0
    place, genes, values = np.empty(len(items), np.int64), np.empty(len(items), np.int64), np.empty(len(items), np.float32)
    for position, item in enumerate(items):
        of_item = row[item]
        if number[of_item] < 0:
            number[of_item] = n_rows
            rows[n_rows] = of_item
            n_rows += 1
        place[position], genes[position], values[position] = number[of_item], readout[item], value[item]
    number[rows[:n_rows]] = -1
    return rows[:n_rows], place, genes, values


def _groups(split: EncodedSplit) -> NDArray[np.int64]:
    """(blocks,) a number for each list of genes."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(block.readout.tobytes(), len(numbers)) for block in split.blocks], dtype=np.int64)


def _profiles_of(split: EncodedSplit, rows: NDArray[np.int64], groups: NDArray[np.int64], starts: NDArray[np.int64]) -> Iterator[Profiles]:
    """Rows of a split, ascending, those with the same genes together."""
    number = np.searchsorted(starts, rows, side="right") - 1
    present, edges = np.unique(number, return_index=True)
    edges = np.append(edges, len(rows))
    for group in np.unique(groups[present]):
        members = np.flatnonzero(groups[present] == group)
        parts = [(split.blocks[present[m]], rows[edges[m] : edges[m + 1]] - starts[present[m]]) for m in members]
        condition = np.concatenate([block.condition[of_row] for block, of_row in parts])
        log_fc = np.empty((len(condition), len(parts[0][0].readout)), np.float32)
        begin = 0
        for block, of_row in parts:
            end = begin + len(of_row)
            # "clip" writes into place without a copy; every row is there
            np.take(block.log_fc, block.row[of_row], axis=0, out=log_fc[begin:end], mode="clip")
            begin = end
        yield Profiles(condition, parts[0][0].readout, log_fc)
