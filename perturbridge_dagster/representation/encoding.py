"""Symbols to integers: the vocabularies of a model, and a corpus split as plain arrays.

Belongs here: vocabularies, encoding conditions, the shards of a split with codes instead of symbols. Does not belong here: the corpus
(``corpus.py``) or drawing batches (``batches.py``).

Vocabularies hold the symbols of train conditions alone, so nothing of val or test reaches a model, not even membership; where a model
starts from fingerprints, they hold every compound of the corpus that has one, which tells nothing of its effects.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.shards import ShardRows, rows_of
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

    def covers(self, other: Vocabularies) -> bool:
        """Whether these are the other's but for more molecules, as those of a model of fingerprints are."""
        return replace(self, perturbation=other.perturbation) == other and set(other.perturbation) <= set(self.perturbation)

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


@dataclass(frozen=True, kw_only=True)
class EncodedBlock(ShardRows):
    """Some rows of one shard, encoded; conditions are numbered as rows of the split's conditions.

    Attributes
    ----------
    readout
        (genes,) int64: codes of the genes.
    """

    readout: NDArray[np.int64]


@dataclass(frozen=True)
class EncodedSplit:
    """One split of a corpus as a model takes it: a view of its shards, which stay on disk.

    It is seen in two ways. By condition: ``blocks``, whose rows are conditions, NaN where there is no value. By value: values are numbered
    condition by condition without the missing ones, and there are ``len()`` of them.

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
        blocks.append(EncodedBlock(condition=rows, readout=readout, log_fc=block.log_fc, row=block.row, significance=block.significance))
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
