"""A simulated corpus of the compendium's shape, and the same train values as a data loader over Parquet would have them.

Belongs here: what is loaded. Does not belong here: measuring (``training.py``).

Seven of ten conditions have 978 genes, as L1000's have; the others about 70 % of all genes, a set of their own in each cell context, as
filters leave them. Effects are random numbers: what is learned does not matter here.

The peer's files are those of the published pipelines: a long table with a row a value in files of at most 200,000 rows, and a table with a
row a condition and lists of genes and values in files of about 8 million values; both split-pure, with Parquet's default compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies
from perturbridge_dagster.written import Stamp

L1000_GENES, L1000_SHARE, GENES_LEFT = 978, 0.7, 0.7
CONDITIONS_A_CONTEXT = 2_500
"""About as many as the compendium has in each of its 167 dataset × context folders."""

LONG_ROWS, LIST_VALUES = 200_000, 8_000_000
BUFFER = 1_000_000
"""Values that the peer shuffles together."""


@dataclass(frozen=True)
class SimulatedEffects:
    """A stratum whose logFC are drawn when they are asked for."""

    contrasts: pd.DataFrame
    genes: pd.DataFrame
    stamp: Stamp

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Random numbers; log10 of P values are below 0."""
        n = len(self.contrasts) if contrasts is None else len(contrasts)
        shape = (n, len(self.genes) if genes is None else len(genes))
        random = np.random.default_rng([n, *shape])
        return {
            name: -np.abs(values) if "log10" in name else values
            for name, values in ((name, random.standard_normal(shape, np.float32)) for name in layers)
        }


def simulate(n_conditions: int, n_genes: int, folder: Path, seed: int = 1) -> StoredCorpus:
    """Write a corpus and open it.

    Parameters
    ----------
    n_conditions, n_genes
        Conditions, and genes of all datasets together.
    folder
        Where it lies.
    seed
        Of the simulation.
    """
    random = np.random.default_rng(seed)
    genes = np.array([f"ENSG{number:011d}" for number in range(n_genes)], dtype=object)
    strata = []
    for dataset, share in (("l1000", L1000_SHARE), ("sequenced", 1 - L1000_SHARE)):
        left = round(n_conditions * share)
        for number in range(max(1, round(left / CONDITIONS_A_CONTEXT))):
            n = left // max(1, round(left / CONDITIONS_A_CONTEXT))
            size = min(L1000_GENES, n_genes) if dataset == "l1000" else round(GENES_LEFT * n_genes)
            chosen = genes[:size] if dataset == "l1000" else np.sort(random.choice(genes, size, replace=False))
            contrasts = pd.DataFrame(
                {
                    "contrast": np.arange(n, dtype=np.int32),
                    "dataset": dataset,
                    "stratum": f"CVCL_{number:04d}",
                    "cell_type": f"CVCL_{number:04d}",
                    "perturbagen": [f"compound {place // 4}" for place in range(n)],
                    "pubchem_cid": pd.array(1 + np.arange(n) // 4, dtype="Int64"),
                    "parent_key": None,
                    "pert_dose_uM": np.tile([0.1, 1.0, 10.0, 20.0], n)[:n],
                    "pert_time_h": 24.0,
                    "sample_id": None,
                    "estimable": True,
                }
            )
            stamp = Stamp("condition_effects", "1", "bench", (dataset,), "open", simulated=True)
            strata.append(SimulatedEffects(contrasts, pd.DataFrame({"gene": np.arange(size), "ensembl_id": chosen}), stamp))
    write_corpus(strata, folder, Stamp("training_corpus", "1", "bench", (), "open", simulated=True), name="bench")
    return open_corpus(folder)


# ---- the peer's files --------------------------------------------------------------------------------------------------------


def write_long_table(corpus: StoredCorpus, folder: Path) -> list[Path]:
    """The train values, a row each."""
    folder.mkdir(parents=True)
    files: list[Path] = []
    for frame in corpus.iterate_shards("train"):
        table = pa.Table.from_pandas(frame.drop(columns="split"), preserve_index=False)
        for start in range(0, len(table), LONG_ROWS):
            files.append(folder / f"{len(files):06d}.parquet")
            pq.write_table(table.slice(start, LONG_ROWS), files[-1])
    return files


def write_lists(train: EncodedSplit, folder: Path) -> list[Path]:
    """The train values, a row a condition, as codes."""
    folder.mkdir(parents=True)
    files: list[Path] = []
    conditions = train.encoded
    for block in train.blocks:
        for part in block.parts(LIST_VALUES):
            values = part.values()
            present = np.isfinite(values)
            offsets = np.concatenate([[0], present.sum(axis=1).cumsum()]).astype(np.int32)
            codes = np.broadcast_to(block.readout.astype(np.int32), values.shape)[present]
            columns = {
                "dataset": conditions.dataset[part.condition],
                "context": conditions.context[part.condition],
                "perturbation": conditions.perturbation[part.condition, 0],
                "log_dose": conditions.log_dose[part.condition],
                "time": conditions.time[part.condition],
                "readouts": pa.ListArray.from_arrays(offsets, codes),
                "values": pa.ListArray.from_arrays(offsets, values[present]),
            }
            files.append(folder / f"{len(files):06d}.parquet")
            pq.write_table(pa.table(columns), files[-1])
    return files


# ---- the peer ----------------------------------------------------------------------------------------------------------------


class LongTable(IterableDataset[dict[str, Any]]):
    """Rows of a long table, shuffled within a buffer: each file is read, its symbols are encoded, and its rows are given one by one.

    Parameters
    ----------
    files
        Of :func:`write_long_table`.
    vocabularies
        To encode with.
    batch_size
        Given, whole batches are given at once, without a step in Python for each row.
    """

    def __init__(self, files: list[Path], vocabularies: Vocabularies, batch_size: int | None = None) -> None:
        self._files, self._batch_size = files, batch_size
        self._codes = {name: {symbol: code for code, symbol in enumerate(vocabularies.symbols(name))} for name in SYMBOLS}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(1)
        buffer: list[dict[str, NDArray[Any]]] = []
        files = random.permutation(np.array(self._files, dtype=object)).tolist()
        for place, file in enumerate(files):
            table = pq.read_table(file)
            columns = {name: table[name].to_pandas().map(codes).to_numpy(np.int64) for name, codes in self._codes.items()}
            buffer.append(columns | {name: table[name].to_numpy() for name in NUMBERS})
            if sum(len(part["value"]) for part in buffer) >= BUFFER or place == len(files) - 1:
                joined = {name: np.concatenate([part[name] for part in buffer]) for name in buffer[0]}
                yield from self._shuffled(joined, random.permutation(len(joined["value"])))
                buffer = []

    def _shuffled(self, columns: dict[str, NDArray[Any]], order: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        if self._batch_size is None:
            yield from ({name: column[row] for name, column in columns.items()} for row in order)
        else:
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                yield {name: torch.from_numpy(column[batch]) for name, column in columns.items()}


SYMBOLS = ("dataset", "context", "perturbation", "readout")
NUMBERS = ("log_dose", "time", "value")


class Lists(IterableDataset[dict[str, Any]]):
    """Conditions of list columns, shuffled within a file after shuffling the files.

    Parameters
    ----------
    files
        Of :func:`write_lists`.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __iter__(self) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(1)
        for file in random.permutation(np.array(self._files, dtype=object)):
            table = pq.read_table(file)
            scalars = {name: table[name].to_numpy() for name in ("dataset", "context", "perturbation", "log_dose", "time")}
            lists = {name: table[name].combine_chunks() for name in ("readouts", "values")}
            offsets = lists["values"].offsets.to_numpy()
            flat = {name: each.flatten().to_numpy() for name, each in lists.items()}
            for row in random.permutation(len(table)):
                low, high = offsets[row], offsets[row + 1]
                yield {name: column[row] for name, column in scalars.items()} | {name: column[low:high] for name, column in flat.items()}


def joined(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of conditions: lists one after the other, with their lengths."""
    batch = {
        name: torch.as_tensor(np.array([row[name] for row in rows])) for name in ("dataset", "context", "perturbation", "log_dose", "time")
    }
    batch |= {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in ("readouts", "values")}
    batch["length"] = torch.tensor([len(row["values"]) for row in rows])
    return batch


def long_loader(files: list[Path], vocabularies: Vocabularies, batch_size: int, *, rows: bool) -> DataLoader[Any]:
    """The peer of the scalar model: row by row and collated, or whole batches."""
    if rows:
        return DataLoader(LongTable(files, vocabularies), batch_size=batch_size)
    return DataLoader(LongTable(files, vocabularies, batch_size), batch_size=None)


def list_loader(files: list[Path], batch_size: int) -> DataLoader[Any]:
    """The peer of the multi-output model."""
    return DataLoader(Lists(files), batch_size=batch_size, collate_fn=joined)
