"""Symbols to integers: the vocabularies of a model, and a corpus split as plain arrays.

Belongs here: vocabularies, encoding conditions, encoding the values of a split. Does not belong here: reading and writing the corpus
(``corpus.py``) or drawing batches (``training.py``).

Vocabularies hold the symbols of train conditions alone, so nothing of val or test reaches a model, not even membership.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
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
class EncodedSplit:
    """The values of one split: 12 bytes a value, and a table of conditions beside them.

    Attributes
    ----------
    conditions
        The conditions of the split, in corpus order.
    encoded
        The same, encoded.
    condition
        (n,) int32: row of `conditions` of each value.
    readout
        (n,) int32: code of the gene.
    value
        (n,) float32: logFC.
    """

    conditions: pd.DataFrame
    encoded: EncodedConditions
    condition: NDArray[np.int32]
    readout: NDArray[np.int32]
    value: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.value)


def encode_split(corpus: StoredCorpus, split: str, vocabularies: Vocabularies, folder: Path | None = None) -> EncodedSplit:
    """Load one split of a corpus as arrays.

    Parameters
    ----------
    corpus
        An open corpus.
    split
        train, val or test.
    vocabularies
        What the model knows.
    folder
        Where to keep the arrays as memory-mapped ``.npy`` files, for corpora larger than memory; None keeps them in memory.

    Raises
    ------
    InputError
        If a symbol is unknown and may not be, a number is not finite, or a shard holds a condition that the corpus does not list.
    """
    conditions = corpus.conditions[corpus.conditions["split"] == split].reset_index(drop=True)
    encoded = encode_conditions(conditions, vocabularies)
    rows_of_condition = pd.MultiIndex.from_frame(conditions[CONDITION_KEY])
    n_values = int(corpus.shards.loc[corpus.shards["split"] == split, "n_values"].sum())

    def allocate(name: str, dtype: type[np.generic]) -> NDArray[Any]:
        if folder is None or n_values == 0:
            return np.empty(n_values, dtype=dtype)
        folder.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(folder / f"{split}_{name}.npy", mode="w+", dtype=dtype, shape=(n_values,))

    condition, readout, value = allocate("condition", np.int32), allocate("readout", np.int32), allocate("value", np.float32)
    start = 0
    for shard in corpus.iterate_shards(split):
        part = slice(start, start + len(shard))
        condition[part] = _rows_of_shard(shard, rows_of_condition)
        genes = shard["readout"].cat
        readout[part] = vocabularies.encode("readout", genes.categories)[genes.codes.to_numpy()]
        value[part] = shard["value"].to_numpy()
        start += len(shard)
    if start != n_values or not all(np.isfinite(value[low : low + 1_000_000]).all() for low in range(0, n_values, 1_000_000)):
        raise InputError(
            f"the {split} shards hold {start:,} values, not all finite or not as many as listed",
            file=corpus.folder,
            expected=f"{n_values:,} finite values",
            advice="Rematerialize training_corpus.",
        )
    return EncodedSplit(conditions, encoded, condition, readout, value)


def _rows_of_shard(shard: pd.DataFrame, rows_of_condition: pd.MultiIndex) -> NDArray[np.int64]:
    """Row of the condition of each value; looked up once a run of equal conditions, since shards are written condition by condition."""
    keys = [shard[name].cat.codes.to_numpy() if shard[name].dtype.name == "category" else shard[name].to_numpy() for name in CONDITION_KEY]
    is_start = np.ones(len(shard), dtype=bool)
    is_start[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    starts = shard.loc[is_start, CONDITION_KEY].astype(dict.fromkeys(("dataset", "context", "perturbation"), object))
    rows = rows_of_condition.get_indexer(pd.MultiIndex.from_frame(starts))
    if (rows < 0).any():
        raise InputError(
            "a shard holds conditions that conditions.parquet does not list",
            rows=[tuple(key) for key in starts[rows < 0].to_numpy()],
            advice="Rematerialize training_corpus.",
        )
    return np.repeat(rows, np.diff(np.append(np.flatnonzero(is_start), len(shard))))
