"""Batches: every item once an epoch, in an order of the seed's own, over any number of processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation import batches as module
from perturbridge_dagster.representation.batches import Batches, ItemKind, ProfileBatch, ValueBatch, epoch_batches, loaded_ahead, share
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import EncodedBlock, EncodedSplit, encode_split
from tests.representation.values import values_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def split(additive_corpus: StoredCorpus) -> EncodedSplit:
    """Train values of which some are missing, and one condition has none."""
    whole = encode_split(additive_corpus, "train", additive_corpus.vocabularies())
    random = np.random.default_rng(1)
    parts = [np.where(random.random(block.values().shape) < 0.2, np.nan, block.values()).astype(np.float32) for block in whole.blocks]
    parts[0][3] = np.nan
    parts[1][:] = whole.blocks[1].values()  # a block without missing values
    blocks = [replace(block, log_fc=part, row=np.arange(len(part))) for block, part in zip(whole.blocks, parts, strict=True)]
    counts = np.concatenate([np.isfinite(part).sum(axis=1) for part in parts])
    return replace(whole, blocks=tuple(blocks), first=np.concatenate([[0], counts]).cumsum())


# ---- the order ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool_items", [30_000, 2**20])
@pytest.mark.parametrize(("n_items", "batch_size"), [(1, 10), (10, 10), (99_999, 1_000), (100_003, 70_000), (50_000, 16_384)])
def test_an_epoch_holds_every_item_once(n_items: int, batch_size: int, pool_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POOL_ITEMS", pool_items)
    found = list(epoch_batches(n_items, batch_size, seed=1, epoch=0))
    assert len(found) == -(-n_items // batch_size)
    assert all(len(batch) == batch_size for batch in found[:-1])
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(n_items))


def test_an_epoch_that_begins_later_is_the_rest_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POOL_ITEMS", 5_000)
    whole = [batch.tolist() for batch in epoch_batches(20_011, 700, 4, 2)]
    for first in range(len(whole)):
        assert [batch.tolist() for batch in epoch_batches(20_011, 700, 4, 2, first)] == whole[first:]


def test_order_follows_the_runs_seed_and_the_epoch() -> None:
    """The published library shuffled by a seed of its own, so that ten runs had one order."""

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(list(epoch_batches(5_000, 300, seed, epoch))).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert abs(np.corrcoef(order(1, 0), np.arange(5_000))[0, 1]) < 0.1


def test_a_batch_of_a_large_corpus_mixes_many_places() -> None:
    batch = next(epoch_batches(10_000_000, 16_384, 13, 0))
    assert len(np.unique(batch // 4_096)) > 200
    assert batch.max() - batch.min() > 9_000_000


@given(n=st.integers(0, 50), processes=st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_processes_share_items_without_loss_or_repetition(n: int, processes: int) -> None:
    shares = [share(np.arange(n), rank, processes) for rank in range(processes)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- the data ----------------------------------------------------------------------------------------------------------------


def triples(batch: ValueBatch | ProfileBatch) -> list[tuple[int, int, float]]:
    """Condition, gene and value of all values of a batch."""
    if isinstance(batch, ValueBatch):
        return list(zip(batch.condition[batch.place].tolist(), batch.readout.tolist(), batch.value.tolist(), strict=True))
    return [
        (int(condition), int(gene), float(value))
        for part in batch.profiles
        for condition, row in zip(part.condition, part.log_fc, strict=True)
        for gene, value in zip(part.readout, row, strict=True)
        if np.isfinite(value)
    ]


@given(st.integers(1, 5), st.integers(0, 1000), st.data())
@settings(max_examples=60, deadline=None)
def test_runs_of_values_are_loaded_whatever_is_missing(n_blocks: int, seed: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    blocks, first, expected = [], [np.zeros(1, np.int64)], []
    before = 0
    for _ in range(n_blocks):
        n_rows, n_genes = generator.integers(1, 6, 2)
        log_fc = generator.standard_normal((n_rows, n_genes)).astype(np.float32)
        log_fc[generator.random((n_rows, n_genes)) < generator.choice([0, 0.3])] = np.nan
        order = generator.permutation(n_rows)
        condition, readout = before + generator.permutation(n_rows), generator.permutation(20)[:n_genes]
        before += n_rows
        blocks.append(EncodedBlock(condition=condition, readout=readout, log_fc=log_fc[np.argsort(order)], row=order))
        first.append(np.isfinite(log_fc).sum(axis=1))
        expected += [(condition[row], readout[column], log_fc[row, column]) for row, column in np.argwhere(np.isfinite(log_fc))]
    split = EncodedSplit(pd.DataFrame(), None, tuple(blocks), np.concatenate(first).cumsum())  # type: ignore[arg-type]
    assert len(split) == len(expected)
    assert values_of(split).triples() == expected
    edges = st.lists(st.integers(0, len(split)), min_size=2, max_size=2, unique=True).map(sorted)
    runs = np.array(data.draw(st.lists(edges, max_size=8)) if len(split) else [], dtype=np.int64).reshape(-1, 2)
    of_value, readout, value, condition = module._values_of(split, runs)
    loaded = list(zip(condition[of_value], readout, value, strict=True))
    assert loaded == [expected[number] for start, stop in runs for number in range(start, stop)]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("kind", "batch_size"), [("values", 1_000), ("conditions", 50)])
def test_every_value_is_loaded_once_an_epoch_by_one_process(
    kind: ItemKind, batch_size: int, processes: int, split: EncodedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POOL_ITEMS", 4_000)
    of_rank = [Batches(split, kind, batch_size, 5, rank, processes) for rank in range(processes)]
    steps = [list(itertools.islice(each.from_step(0), each.per_epoch)) for each in of_rank]
    found = [triple for batches in steps for batch in batches for triple in triples(batch)]
    assert sorted(found) == sorted(values_of(split).triples())
    for together in zip(*steps, strict=True):
        assert {batch.n_values for batch in together} == {sum(batch.n_mine for batch in together)}
        assert [batch.n_mine for batch in together] == [len(triples(batch)) for batch in together]


@pytest.mark.parametrize(("kind", "batch_size"), [("values", 1_000), ("conditions", 50)])
def test_batches_are_the_items_of_the_order_and_go_on_from_any_step(kind: ItemKind, batch_size: int, split: EncodedSplit) -> None:
    batches = Batches(split, kind, batch_size, 5)
    whole = [triples(batch) for batch in itertools.islice(batches.from_step(0), 2 * batches.per_epoch)]
    items = [*epoch_batches(batches.n_items, batch_size, 5, 0), *epoch_batches(batches.n_items, batch_size, 5, 1)]
    for batch, numbers in zip(whole, items, strict=True):
        if kind == "conditions":
            numbers = np.concatenate([np.arange(split.first[row], split.first[row + 1]) for row in numbers])
        assert sorted(batch) == sorted(values_of(split).some(numbers).triples())
    step = batches.per_epoch + 2
    assert [triples(batch) for batch in itertools.islice(batches.from_step(step), 3)] == whole[step : step + 3]


@pytest.mark.parametrize(("kind", "batch_size"), [("values", 1_000), ("conditions", 50)])
def test_two_seeds_give_two_orders(kind: ItemKind, batch_size: int, split: EncodedSplit) -> None:
    first, second = (triples(next(Batches(split, kind, batch_size, seed).from_step(0))) for seed in (1, 2))
    assert len(set(first) & set(second)) < len(first) / 2


@pytest.mark.parametrize(("kind", "batch_size"), [("values", 1_000), ("conditions", 50)])
def test_loading_ahead_changes_nothing(kind: ItemKind, batch_size: int, split: EncodedSplit) -> None:
    plain, ahead = (
        [triples(batch) for batch in itertools.islice(Batches(split, kind, batch_size, 5, threads=n).from_step(0), 40)] for n in (0, 3)
    )
    assert plain == ahead


def test_loading_ahead_is_a_few_plans_ahead_and_passes_errors_on() -> None:
    taken: list[int] = []

    def plans() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    loaded = loaded_ahead(lambda number: 1 / (3 - number), plans(), 2)
    assert next(loaded) == 1 / 3
    assert len(taken) <= 4
    assert [next(loaded), next(loaded)] == [1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(loaded)


def test_a_shard_that_lost_values_is_refused(split: EncodedSplit) -> None:
    fewer = split.blocks[0].values()
    fewer[np.isfinite(fewer).any(axis=1).argmax(), 0:30] = np.nan
    broken = replace(split, blocks=(replace(split.blocks[0], log_fc=fewer), *split.blocks[1:]))
    with pytest.raises(InputError, match="values in its shard"):
        list(itertools.islice(Batches(broken, "values", len(split), 1).from_step(0), 1))
