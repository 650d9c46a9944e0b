"""Symbols to integers: the vocabularies of a model, and a corpus split as plain arrays.

Belongs here: vocabularies, encoding conditions, the values of a split by condition and one by one. Does not belong here: the corpus
(``corpus.py``) or drawing batches (``training.py``).

Vocabularies hold the symbols of train conditions alone, so nothing of val or test reaches a model, not even membership.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.shards import rows_of, unpacked
from perturbridge_dagster.representation.splits import CONTROL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.representation.corpus import StoredCorpus

VOCABULARY_NAMES = ("dataset", "context", "perturbation", "readout")
CONDITION_KEY = ["dataset", "context", "perturbation", "log_dose", "time"]
"""Columns that identify a condition of a corpus."""

UNKNOWN = "<unknown>"
NO_TOKEN = -1
"""Fills the token rows of perturbations with fewer molecules than the longest combination."""


@dataclass(frozen=True)
class Vocabularies:
    """The symbols a model knows, in code order.

    Attributes
    ----------
    dataset, context, readout
        Sorted symbols.
    perturbation
        ``Control`` first, then the sorted molecules.
    unknown
        Whether symbols outside a vocabulary get a code of their own, one past the last symbol. Otherwise they are an error.
    """

    dataset: tuple[str, ...]
    context: tuple[str, ...]
    perturbation: tuple[str, ...]
    readout: tuple[str, ...]
    unknown: bool = False

    @classmethod
    def of(cls, conditions: pd.DataFrame, readouts: list[str], *, unknown: bool = False) -> Vocabularies:
        """Vocabularies of some conditions (columns dataset, context, perturbation) and genes."""
        molecules = {token for text in conditions["perturbation"].unique() for token in str(text).split("+")} - {CONTROL}
        return cls(
            dataset=tuple(sorted(conditions["dataset"].unique())),
            context=tuple(sorted(conditions["context"].unique())),
            perturbation=(CONTROL, *sorted(molecules)),
            readout=tuple(sorted(readouts)),
            unknown=unknown,
        )

    def symbols(self, name: str) -> tuple[str, ...]:
        """The symbols of one vocabulary, by its name."""
        if name not in VOCABULARY_NAMES:
            raise KeyError(f"no vocabulary {name}; there are {', '.join(VOCABULARY_NAMES)}")
        symbols: tuple[str, ...] = getattr(self, name)
        return symbols

    def size(self, name: str) -> int:
        """Codes of one vocabulary, the unknown token included."""
        return len(self.symbols(name)) + self.unknown

    def encode(self, name: str, symbols: pd.Index | list[str]) -> NDArray[np.int64]:
        """Codes of symbols.

        Parameters
        ----------
        name
            Vocabulary.
        symbols
            (n,) symbols.

        Returns
        -------
        ndarray
            (n,) int64.

        Raises
        ------
        InputError
            If a symbol is not in the vocabulary and there is no unknown token.
        """
        known = self.symbols(name)
        codes = pd.Index(known, dtype=object).get_indexer(pd.Index(symbols, dtype=object)).astype(np.int64)
        outside = codes < 0
        if outside.any() and not self.unknown:
            strangers = sorted({str(symbol) for symbol in pd.Index(symbols, dtype=object)[outside]})
            raise InputError(
                f"{len(strangers):,} symbols are in no train condition",
                rows=strangers,
                column=name,
                advice="Use vocabularies with an unknown token (unknown_token=True), or leave these rows out.",
            )
        codes[outside] = len(known)
        return codes

    def encode_perturbations(self, perturbations: pd.Index | list[str]) -> NDArray[np.int64]:
        """Codes of the molecules of perturbations.

        Parameters
        ----------
        perturbations
            (n,) symbols; molecules of a combination joined by ``+``.

        Returns
        -------
        ndarray
            (n, most molecules of one) int64, filled with ``NO_TOKEN``.
        """
        tokens = [str(symbol).split("+") for symbol in perturbations]
        lengths = np.array([len(parts) for parts in tokens], dtype=np.int64)
        codes = np.full((len(tokens), int(lengths.max(initial=1))), NO_TOKEN, dtype=np.int64)
        filled = np.arange(codes.shape[1]) < lengths[:, None]
        codes[filled] = self.encode("perturbation", [part for parts in tokens for part in parts])
        return codes

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, to be stored with a model."""
        return {name: list(self.symbols(name)) for name in VOCABULARY_NAMES} | {"unknown": self.unknown}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Vocabularies:
        """The inverse of :meth:`to_dict`."""
        return cls(**{name: tuple(values[name]) for name in VOCABULARY_NAMES}, unknown=values["unknown"])


@dataclass(frozen=True)
class EncodedConditions:
    """Conditions as a model takes them.

    Attributes
    ----------
    dataset, context
        (n,) int64 codes.
    perturbation
        (n, tokens) int64 codes, filled with ``NO_TOKEN``.
    log_dose, time
        (n,) float32, log10 µM and h.
    """

    dataset: NDArray[np.int64]
    context: NDArray[np.int64]
    perturbation: NDArray[np.int64]
    log_dose: NDArray[np.float32]
    time: NDArray[np.float32]


def encode_conditions(conditions: pd.DataFrame, vocabularies: Vocabularies) -> EncodedConditions:
    """Encode conditions (columns of ``CONDITION_KEY``).

    Raises
    ------
    InputError
        If a symbol is unknown and may not be, or a dose or time is not finite. The published code read NaN as 1 µM and a dose
        of 0 as 10 pM.
    """
    numbers = {}
    for name in ("log_dose", "time"):
        numbers[name] = conditions[name].to_numpy(dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(numbers[name]))
        if len(bad):
            raise InputError(
                f"{len(bad):,} values are missing or infinite",
                rows=list(conditions.index[bad]),
                column=name,
                expected="finite numbers; a dose above 0",
            )
    return EncodedConditions(
        dataset=vocabularies.encode("dataset", pd.Index(conditions["dataset"])),
        context=vocabularies.encode("context", pd.Index(conditions["context"])),
        perturbation=vocabularies.encode_perturbations(pd.Index(conditions["perturbation"])),
        log_dose=numbers["log_dose"],
        time=numbers["time"],
    )


@dataclass(frozen=True)
class Values:
    """Some values of a split, one row a gene of a condition.

    Attributes
    ----------
    condition
        (n,) int64: row of the split's conditions.
    readout
        (n,) int64: code of the gene.
    value
        (n,) float32: logFC.
    """

    condition: NDArray[np.int64]
    readout: NDArray[np.int64]
    value: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class EncodedBlock:
    """Some conditions of one shard, encoded.

    Attributes
    ----------
    condition
        (n,) int64: rows of the split's conditions.
    readout
        (genes,) int64: codes of the genes.
    log_fc
        (rows of the shard, genes) float32, memory-mapped, NaN where there is no value.
    row
        (n,) int64: the row of `log_fc` of each condition.
    significance
        (rows of the shard, bytes) uint8, memory-mapped: bits of :func:`shards.unpacked`; None in files that have none.
    """

    condition: NDArray[np.int64]
    readout: NDArray[np.int64]
    log_fc: NDArray[np.float32]
    row: NDArray[np.int64]
    significance: NDArray[np.uint8] | None = None

    def values(self) -> NDArray[np.float32]:
        """(n, genes) float32 logFC, copied, NaN where there is no value."""
        return self.log_fc[self.row]

    def significant(self) -> NDArray[np.bool_] | None:
        """(n, genes) whether each value is significant in every contrast it is the mean of; None in files that do not say."""
        return unpacked(self.significance, self.row, len(self.readout))

    def __getitem__(self, members: NDArray[np.int64]) -> EncodedBlock:
        """Some of its conditions, by position; values are not copied."""
        return replace(self, condition=self.condition[members], row=self.row[members])


@dataclass(frozen=True)
class EncodedSplit:
    """One split of a corpus as a model takes it: a view of its shards, which stay on disk.

    It is seen in two ways. By condition: ``blocks``, whose rows are conditions, NaN where there is no value. By value: :meth:`take` gives
    values by their number, counted condition by condition without the missing ones; there are ``len()`` of them.

    Attributes
    ----------
    conditions
        The conditions of the split, in corpus order.
    encoded
        The same, encoded.
    blocks
        Its conditions, those of a shard together.
    first
        (all rows of all blocks + 1,) int64: number of the first value of each row.
    """

    conditions: pd.DataFrame
    encoded: EncodedConditions
    blocks: tuple[EncodedBlock, ...]
    first: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.first[-1])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Rows before each block, and all rows."""
        return np.cumsum([0, *(len(block.condition) for block in self.blocks)], dtype=np.int64)

    def take(self, numbers: NDArray[np.int64]) -> Values:
        """Values by their numbers, in any order.

        Parameters
        ----------
        numbers
            (n,) int64, each below ``len()``.
        """
        row = np.searchsorted(self.first, numbers, side="right") - 1
        starts = self._starts
        order = np.argsort(row, kind="stable")
        edges = np.searchsorted(row[order], starts)
        condition, readout = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
        value = np.empty(len(numbers), np.float32)
        for number in np.flatnonzero(np.diff(edges)):
            block, members = self.blocks[number], order[edges[number] : edges[number + 1]]
            column = numbers[members] - self.first[row[members]]
            of_row = row[members] - starts[number]
            self._skip_missing(block, starts[number], of_row, column)
            condition[members] = block.condition[of_row]
            readout[members] = block.readout[column]
            value[members] = block.log_fc[block.row[of_row], column]
        return Values(condition, readout, value)

    def _skip_missing(self, block: EncodedBlock, start: int, row: NDArray[np.int64], column: NDArray[np.int64]) -> None:
        """Turn positions among the values of a row into its columns; `row` is sorted."""
        rows, at = np.unique(row, return_index=True)
        n_values = self.first[start + rows + 1] - self.first[start + rows]
        for place in np.flatnonzero(n_values < len(block.readout)):
            members = slice(at[place], at[place + 1] if place + 1 < len(rows) else None)
            present = np.flatnonzero(np.isfinite(block.log_fc[block.row[rows[place]]]))
            if len(present) != n_values[place]:
                raise InputError(
                    f"a condition has {len(present):,} values in its shard",
                    expected=f"{n_values[place]:,}, as conditions.parquet says",
                    advice="Rematerialize training_corpus.",
                )
            column[members] = present[column[members]]

    def chunks(self, size: int) -> Iterator[Values]:
        """All values in the order of their numbers, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


def encode_split(
    corpus: StoredCorpus, split: str, vocabularies: Vocabularies, *, rule: str = "scalar", datasets: Collection[str] | None = None
) -> EncodedSplit:
    """One split of a corpus as a model takes it; its values stay on disk and are not read.

    Parameters
    ----------
    corpus
        An open corpus.
    split
        train, val or test.
    vocabularies
        What the model knows.
    rule
        Split rule, one of ``corpus.rules``.
    datasets
        Only conditions of these; of all for None.

    Raises
    ------
    InputError
        If the rule does not suit the corpus or a dataset is not in it, a symbol is unknown and may not be, a number is not finite, a shard
        holds a condition that the corpus does not list, or not as many values as it is said to.
    """
    conditions = corpus.conditions_of(split, rule, datasets)
    encoded = encode_conditions(conditions, vocabularies)
    n_values, listed = conditions["n_values"].to_numpy(dtype=np.int64), pd.Index(conditions["condition"])
    blocks, counts = [], []
    genes: pd.Index | None = None
    readout = np.empty(0, np.int64)
    for block in corpus.blocks(split, rule, datasets):
        rows = rows_of(block.condition, listed)
        if block.readout is not genes:  # blocks of a dataset and context share them
            genes, readout = block.readout, vocabularies.encode("readout", block.readout)
        blocks.append(EncodedBlock(rows, readout, block.log_fc, block.row, block.significance))
        counts.append(n_values[rows])
    first = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
    if first[-1] != n_values.sum():
        raise InputError(
            f"the shards hold {first[-1]:,} values of {split}",
            file=corpus.folder,
            expected=f"{n_values.sum():,}, as conditions.parquet says",
            advice="Rematerialize training_corpus.",
        )
    return EncodedSplit(conditions, encoded, tuple(blocks), first)
