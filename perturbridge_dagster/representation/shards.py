"""Shards: the values of a training corpus on disk, one row a condition, memory-mapped.

Belongs here: the shard files, writing them and opening them. Does not belong here: which values enter a corpus (``corpus.py``), or symbols
as integers (``encoding.py``).

A shard is an Arrow IPC file of one dataset, cell context and split: the number of each condition, its values for the genes of that
dataset and context as one list of fixed length, missing values NaN, and one bit a value that says whether it is significant. The file as
it lies on disk is the matrix: whoever reads it maps it into memory and takes rows (one a condition) or single values (one a gene) from
it. The published corpus has a row for each of four billion values instead, with all symbols repeated; files before contract 1.3 are such
tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import CORPUS, CORPUS_GENES
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import Stamp, read_parquet, read_stamp, require_compatible, stamped_schema, write_parquet, written_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

SHARD_VALUES = 8_000_000
"""Most values of one shard: 32 MB. As published for the table of one row a condition."""

PART_VALUES = 2_000_000
"""Values that are copied from a shard at a time: 8 MB."""

GENES = "genes.parquet"
"""Beside the shards of a dataset and cell context: the genes of their columns."""


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """Some rows of one shard, each a condition; the values stay on disk.

    Attributes
    ----------
    condition
        (n,) int64: number of the condition of each row.
    log_fc
        (rows of the shard, genes) float32, memory-mapped, NaN where there is no value.
    row
        (n,) int64: the rows of `log_fc`.
    significance
        (rows of the shard, bytes) uint8, memory-mapped, a bit a value as :func:`numpy.packbits` packs a row; None in files that have none.
    """

    condition: NDArray[np.int64]
    log_fc: NDArray[np.float32]
    row: NDArray[np.int64]
    significance: NDArray[np.uint8] | None = None

    def values(self) -> NDArray[np.float32]:
        """(n, genes) float32 logFC, copied, NaN where there is no value."""
        return self.log_fc[self.row]

    def significant(self) -> NDArray[np.bool_] | None:
        """(n, genes) whether each value is significant in every contrast it is the mean of; None in files that do not say."""
        if self.significance is None:
            return None
        return np.unpackbits(self.significance[self.row], axis=1, count=self.log_fc.shape[1]).view(np.bool_)

    def parts(self, size: int | None = None) -> Iterator[Self]:
        """Its rows in order, about `size` values at a time, ``PART_VALUES`` for None."""
        n_rows = max(1, (size or PART_VALUES) // max(1, self.log_fc.shape[1]))
        for start in range(0, len(self.row), n_rows):
            yield self[np.arange(start, min(start + n_rows, len(self.row)))]

    def __getitem__(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Some of its rows, by position or by mask; values are not copied."""
        return replace(self, condition=self.condition[chosen], row=self.row[chosen])


@dataclass(frozen=True, kw_only=True)
class Block(ShardRows):
    """Some rows of one shard; conditions are numbered as ``condition`` of the table CORPUS_CONDITIONS says.

    Attributes
    ----------
    dataset, context
        Of all its conditions.
    readout
        (genes,) Ensembl ids.
    """

    dataset: str
    context: str
    readout: pd.Index


def _schema(n_genes: int, *, significance: bool = True) -> pa.Schema:
    import pyarrow as pa

    values = pa.list_(pa.field("value", pa.float32(), nullable=False), n_genes)
    fields = [pa.field("condition", pa.int32(), nullable=False), pa.field("values", values, nullable=False)]
    bits = [pa.field("significant", pa.binary(max(1, math.ceil(n_genes / 8))), nullable=False)] if significance else []
    return pa.schema([*fields, *bits])


class ShardWriter:
    """Writes the conditions of one dataset and cell context, a shard whenever one is full.

    Parameters
    ----------
    folder
        Of the corpus.
    dataset, context
        Of all conditions.
    readout
        (genes,) Ensembl ids of the columns.
    stamp
        Of the corpus.
    """

    def __init__(self, folder: Path, dataset: str, context: str, readout: pd.Index, stamp: Stamp) -> None:
        self._folder, self._place = folder, Path("shards", dataset, context)
        self._dataset, self._context, self._n_genes, self._stamp = dataset, context, len(readout), stamp
        self._rows = max(1, SHARD_VALUES // max(1, len(readout)))
        self._waiting: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8]]]] = {}
        self.written: list[dict[str, Any]] = []
        genes = pd.DataFrame({"position": np.arange(len(readout)), "readout": readout.to_numpy(dtype=object)})
        write_parquet(folder / self._place / GENES, genes, CORPUS_GENES, stamp)

    def add(self, split: str, condition: NDArray[np.int64], values: NDArray[np.float32], significant: NDArray[np.bool_]) -> None:
        """Add conditions of a split: (n,) numbers, (n, genes) values, and (n, genes) whether each is significant."""
        waiting = self._waiting.setdefault(split, [])
        waiting.append((condition, values, np.packbits(significant, axis=1)))
        if sum(len(numbers) for numbers, *_ in waiting) >= self._rows:
            self._flush(split, last=False)

    def close(self) -> None:
        """Write what is left."""
        for split in self._waiting:
            self._flush(split, last=True)

    def _flush(self, split: str, *, last: bool) -> None:
        parts = self._waiting[split]
        if not parts:
            return
        condition, values, bits = (np.concatenate(column) for column in zip(*parts, strict=True))
        stop = len(condition) if last else len(condition) // self._rows * self._rows
        for start in range(0, stop, self._rows):
            rows = slice(start, min(start + self._rows, stop))
            self._write(split, condition[rows], values[rows], bits[rows])
        self._waiting[split] = [(condition[stop:], values[stop:], bits[stop:])] if stop < len(condition) else []

    def _write(self, split: str, condition: NDArray[np.int64], values: NDArray[np.float32], bits: NDArray[np.uint8]) -> None:
        import pyarrow as pa

        schema = stamped_schema(_schema(self._n_genes), self._stamp)
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
        packed = pa.py_buffer(np.ascontiguousarray(bits))
        columns = [
            pa.array(condition.astype(np.int32)),
            pa.FixedSizeListArray.from_arrays(flat, type=schema.field("values").type),
            pa.FixedSizeBinaryArray.from_buffers(schema.field("significant").type, len(condition), [None, packed]),
        ]
        number = sum(shard["split"] == split for shard in self.written)
        file = self._place / f"{split}_{number:06d}.arrow"
        with written_whole(self._folder / file) as aside, pa.ipc.new_file(str(aside), schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        self.written.append(
            {
                "file": file.as_posix(),
                "dataset": self._dataset,
                "context": self._context,
                "split": split,
                "n_conditions": len(condition),
                "n_values": int(np.isfinite(values).sum()),
            }
        )


def read_genes(folder: Path, file: str, stage: str) -> pd.Index:
    """Ensembl ids of the columns of a shard, which are those of every shard beside it.

    Parameters
    ----------
    folder, file
        Of the corpus, and of the shard relative to it.
    stage
        Stage that must have written it.

    Raises
    ------
    IncompatibleFileError
        If their stamp does not fit.
    """
    readout: pd.Index = pd.Index(read_parquet((folder / file).with_name(GENES), stage)["readout"], dtype=object)
    return readout


def open_shard(folder: Path, file: str, dataset: str, context: str, readout: pd.Index, stage: str) -> Block:
    """Map a shard into memory.

    Parameters
    ----------
    folder, file
        Of the corpus, and of the shard relative to it.
    dataset, context
        What it is of, as ``shards.parquet`` says.
    readout
        (genes,) Ensembl ids of its columns.
    stage
        Stage that must have written it.

    Raises
    ------
    InputError
        If it cannot be read, or its genes do not fit.
    IncompatibleFileError
        If its stamp does not fit.
    """
    import pyarrow as pa

    path = folder / file
    require_compatible(read_stamp(path), path, stage)
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise InputError(f"cannot be read ({error})", file=path, advice="Rematerialize training_corpus.") from error
    has_bits = "significant" in table.schema.names
    if table.schema.remove_metadata() != _schema(len(readout), significance=has_bits):
        raise InputError(
            f"has not one value for each of the {len(readout):,} genes beside it", file=path, advice="Rematerialize training_corpus."
        )
    [condition], [values] = table.column("condition").chunks, table.column("values").chunks
    matrix = values.flatten().to_numpy(zero_copy_only=True).reshape(len(values), len(readout))
    bits = None
    if has_bits:
        [packed] = table.column("significant").chunks
        bits = np.frombuffer(packed.buffers()[1], np.uint8, len(values) * packed.type.byte_width).reshape(len(values), -1)
    numbers = condition.to_numpy().astype(np.int64)
    return Block(
        dataset=dataset,
        context=context,
        condition=numbers,
        readout=readout,
        log_fc=matrix,
        row=np.arange(len(numbers)),
        significance=bits,
    )


def long_table(block: Block, conditions: pd.DataFrame) -> pd.DataFrame:
    """The values of a block as the contract's table `corpus`: one row a gene of a condition, missing ones left out.

    Parameters
    ----------
    block
        Conditions of one shard.
    conditions
        The table CORPUS_CONDITIONS of its corpus, of all conditions or of some; ``split`` is that of the rule wanted.

    Raises
    ------
    InputError
        If the block has a condition that the table does not list.
    """
    values = block.values()
    row, column = np.nonzero(np.isfinite(values))
    of_row = conditions.iloc[rows_of(block.condition, pd.Index(conditions["condition"]))]
    names = {name: pd.factorize(of_row[name]) for name in ("dataset", "context", "perturbation", "split")}
    table = pd.DataFrame(
        {
            **{name: pd.Categorical.from_codes(codes[row], categories=symbols) for name, (codes, symbols) in names.items()},
            "log_dose": of_row["log_dose"].to_numpy()[row],
            "time": of_row["time"].to_numpy()[row],
            "readout": pd.Categorical.from_codes(column, categories=block.readout),
            "value": values[row, column],
        }
    )
    return table[CORPUS.names]


def rows_of(numbers: NDArray[np.int64], listed: pd.Index) -> NDArray[np.int64]:
    """Positions of conditions among those listed.

    Parameters
    ----------
    numbers
        (n,) numbers of conditions.
    listed
        Numbers of the conditions of a table, in its order. To be made once for many calls: it remembers where each number is.

    Raises
    ------
    InputError
        If one is not listed.
    """
    rows: NDArray[np.int64] = listed.get_indexer(pd.Index(numbers)).astype(np.int64)
    if (rows < 0).any():
        raise InputError(
            "a shard holds conditions that conditions.parquet does not list",
            rows=numbers[rows < 0].tolist(),
            advice="Rematerialize training_corpus.",
        )
    return rows
