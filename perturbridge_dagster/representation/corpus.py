"""The training corpus: the effects of many strata as one long table of train, val and test values.

Belongs here: turning stored effects into the corpus, its files, and opening it again. Does not belong here: who is held out
(``splits.py``), integers (``encoding.py``) or models.

A corpus folder holds::

    corpus.json          counts, what was left out and why; written last, so a folder without it is unfinished
    conditions.parquet   one row a condition, with its split
    readouts.parquet     one row a gene, with its number of values in each split
    shards.parquet       one row a shard
    shards/<dataset>/<context>/<split>_000000.parquet   at most 200,000 values each, of the contract's table `corpus`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import CORPUS, CORPUS_CONDITIONS, CORPUS_READOUTS, CORPUS_SHARDS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.encoding import CONDITION_KEY, Vocabularies
from perturbridge_dagster.representation.splits import (
    SPLIT_RULES,
    SPLITS,
    assign_units,
    held_out_molecules,
    overlaps,
    split_conditions,
    summarize_units,
    violations,
)
from perturbridge_dagster.written import Stamp, read_parquet, read_stamp, require_compatible, write_json, write_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE = "training_corpus"
SHARD_VALUES = 200_000
"""Most values of one shard, as published."""

_BLOCK_VALUES = 4_000_000
_MOLECULE_SPLITS: dict[str, Literal["cid", "parent"]] = {"molecules": "cid", "parents": "parent"}
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()._-]*")


class StoredEffects(Protocol):
    """What the corpus asks of a stratum's stored effects."""

    @property
    def contrasts(self) -> pd.DataFrame:
        """The contract's table `contrasts`."""

    @property
    def genes(self) -> pd.DataFrame:
        """The contract's table `genes`."""

    @property
    def stamp(self) -> Stamp:
        """What the stored file says of itself."""

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[Any] | None = None, genes: NDArray[Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Float32 blocks (contrasts × genes) of the layers at row positions of both tables, in the order asked; all for None."""


# ---- writing -----------------------------------------------------------------------------------------------------------------


def write_corpus(
    strata: Sequence[StoredEffects], folder: Path, stamp: Stamp, *, name: str, split: str = "scalar", seed: int = 13
) -> dict[str, Any]:
    """Write a training corpus: one row for each finite contrast × gene.

    Left out and counted: contrasts that are not estimable, have no PubChem id, or a dose that is not above 0 (its logarithm is not
    finite); missing values. Contrasts with equal dataset, context, perturbation, dose and time (two perturbagen names of one PubChem
    id, or two strata of a context) are averaged gene by gene over the values there are, and counted.

    Memory: the tables of contrasts and genes, and about 4 million values at a time; a stratum is never loaded whole.

    Parameters
    ----------
    strata
        Stored effects of replicate groups, in any order.
    folder
        Empty or absent.
    stamp
        Stamp of the corpus; datasets, licence and taints of `strata` are added.
    name
        Name of the corpus.
    split
        Name of a split of :data:`splits.SPLIT_RULES`.
    seed
        Seed of the split.

    Returns
    -------
    dict
        The content of ``corpus.json``.

    Raises
    ------
    InputError
        If nothing is left, the folder is not empty, replicates are fitted alone, a value is infinite, or a time is missing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError("the folder of the corpus is not empty", file=folder, advice="Remove it, or name another.")
    stamp = stamp.derived(STAGE, stamp.stage_code_version, stamp.data_version, *(stored.stamp for stored in strata))
    contrasts, left_out = _usable_contrasts(strata)
    conditions = _conditions(contrasts)
    conditions, report = _split(conditions, split, seed)

    readouts = pd.Index(sorted({gene for stored in strata for gene in stored.genes["ensembl_id"]}), name="readout", dtype=object)
    gene_codes = [readouts.get_indexer(pd.Index(stored.genes["ensembl_id"], dtype=object)) for stored in strata]
    n_by_readout = {split_name: np.zeros(len(readouts), dtype=np.int64) for split_name in SPLITS}
    n_by_condition = np.zeros(len(conditions), dtype=np.int64)
    n_missing = 0
    shards: list[dict[str, Any]] = []
    for dataset, context in contrasts[["dataset", "context"]].drop_duplicates().sort_values(["dataset", "context"]).to_numpy():
        part = contrasts[(contrasts["dataset"] == dataset) & (contrasts["context"] == context)]
        writers = {split_name: _ShardWriter(folder, dataset, context, split_name, conditions, readouts, stamp) for split_name in SPLITS}
        for codes, genes, mean, missing in _mean_blocks(strata, part, gene_codes):
            n_missing += missing
            split_of_row = conditions["split"].to_numpy()[codes]
            for split_name, writer in writers.items():
                chosen = np.flatnonzero(split_of_row == split_name)
                row, column = np.nonzero(np.isfinite(mean[chosen]))
                row = chosen[row]
                writer.add(codes[row], genes[column], mean[row, column].astype(np.float32))
                n_by_readout[split_name] += np.bincount(genes[column], minlength=len(readouts))
                n_by_condition += np.bincount(codes[row], minlength=len(conditions))
        for writer in writers.values():
            writer.close()
            shards.extend(writer.written)

    has_values = n_by_condition > 0
    conditions["n_values"] = n_by_condition
    kept = conditions[has_values].reset_index(drop=True)
    if kept.empty:
        raise InputError(
            f"no value is left for corpus {name}", expected="at least one contrast that is estimable and has a PubChem id and a dose"
        )
    has_readout = np.sum(list(n_by_readout.values()), axis=0) > 0
    write_parquet(folder / "conditions.parquet", kept, CORPUS_CONDITIONS, stamp)
    readout_frame = pd.DataFrame({"readout": readouts, **{f"n_{key}": counts for key, counts in n_by_readout.items()}})
    write_parquet(folder / "readouts.parquet", readout_frame.loc[has_readout], CORPUS_READOUTS, stamp)
    write_parquet(folder / "shards.parquet", pd.DataFrame(shards, columns=CORPUS_SHARDS.names), CORPUS_SHARDS, stamp)

    promises = SPLIT_RULES[split].promises
    is_repeated = contrasts.groupby("condition").size() > 1
    summary = {
        "name": name,
        "split_rule": split,
        "seed": seed,
        "split_report": report,
        "split_promises": list(promises),
        "split_violations": _records(violations(kept, promises)),
        "split_overlaps": _records(overlaps(kept, promises)),
        "n_strata": len(strata),
        "n_conditions": {key: int((kept["split"] == key).sum()) for key in SPLITS},
        "n_values": {key: int(counts.sum()) for key, counts in n_by_readout.items()},
        "n_datasets": int(kept["dataset"].nunique()),
        "n_contexts": int(kept["context"].nunique()),
        "n_perturbations": int(kept["perturbation"].nunique()),
        "n_readouts": int(has_readout.sum()),
        "left_out": {
            **left_out,
            "conditions_without_any_value": int((~has_values).sum()),
            "missing_values": n_missing,
        },
        "averaged": {
            "conditions": int(is_repeated.sum()),
            "contrasts": int(contrasts["condition"].isin(is_repeated.index[is_repeated]).sum()),
        },
    }
    write_json(folder / "corpus.json", summary)
    return summary


def _usable_contrasts(strata: Sequence[StoredEffects]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The contrasts that enter a corpus, in the words of the published tables, and how many do not and why."""
    columns = ["dataset", "cell_type", "perturbagen", "pubchem_cid", "parent_key", "pert_dose_uM", "pert_time_h", "estimable"]
    frames = []
    for position, stored in enumerate(strata):
        contrasts = stored.contrasts
        if "sample_id" in contrasts and contrasts["sample_id"].notna().any():
            raise InputError(
                "each replicate was fitted alone",
                dataset=str(contrasts["dataset"].iloc[0]),
                expected="effects of grouped replicates (condition_effects)",
            )
        frames.append(contrasts[columns].assign(stratum_position=position, row=np.arange(len(contrasts))))
    if not frames:
        raise InputError("no strata were given for the corpus", advice="Materialize condition_effects first.")
    every = pd.concat(frames, ignore_index=True)
    for column in ("dataset", "cell_type"):
        strange = [value for value in every[column].unique() if not _FOLDER_NAME.fullmatch(str(value))]
        if strange:
            raise InputError("names cannot be folder names", rows=strange, column=column, expected="letters, digits, space, _ . - ( )")
    if not np.isfinite(every["pert_time_h"]).all():
        bad = every[~np.isfinite(every["pert_time_h"])]
        raise InputError(
            "times are missing or infinite", dataset=str(bad["dataset"].iloc[0]), rows=list(bad["perturbagen"]), column="pert_time_h"
        )

    estimable = every["estimable"].to_numpy(dtype=bool)
    has_cid = every["pubchem_cid"].notna().to_numpy()
    dose = every["pert_dose_uM"].to_numpy(dtype=np.float64)
    has_dose = np.isfinite(dose) & (dose > 0)
    left_out = {
        "contrasts_not_estimable": int((~estimable).sum()),
        "contrasts_without_pubchem_cid": int((estimable & ~has_cid).sum()),
        "contrasts_without_positive_dose": int((estimable & has_cid & ~has_dose).sum()),
    }
    used = every[estimable & has_cid & has_dose].rename(columns={"cell_type": "context"})
    used = used.assign(
        perturbation=used["pubchem_cid"].astype("Int64").astype(str).astype(object),
        # the key is what the corpus stores: two doses that float32 cannot tell apart are one condition
        log_dose=np.log10(used["pert_dose_uM"]).astype(np.float32),
        time=used["pert_time_h"].astype(np.float32),
    )
    grouped = used.groupby(CONDITION_KEY, sort=True)
    return used.assign(condition=grouped.ngroup()).reset_index(drop=True), left_out


def _conditions(contrasts: pd.DataFrame) -> pd.DataFrame:
    """One row a condition, in the order of the column `condition` of the contrasts."""
    grouped = contrasts.sort_values(["perturbagen", "parent_key"]).groupby("condition", sort=True)
    frame = grouped[[*CONDITION_KEY, "perturbagen", "parent_key"]].first()
    return frame.assign(n_contrasts=grouped.size()).reset_index(drop=True)


def _split(conditions: pd.DataFrame, rule: str, seed: int) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Conditions with a split, and the report of how it came about: moves, or held-out molecules."""
    report = pd.DataFrame()
    if rule == "scalar":
        report = summarize_units(assign_units(conditions, seed=seed))
    elif rule in _MOLECULE_SPLITS:
        report = held_out_molecules(conditions, by=_MOLECULE_SPLITS[rule], seed=seed)
    return split_conditions(conditions, rule, seed=seed), _records(report)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _mean_blocks(
    strata: Sequence[StoredEffects], contrasts: pd.DataFrame, gene_codes: list[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], int]]:
    """Mean logFC of the conditions of one dataset × context, block by block.

    Conditions come in the order of their first contrast on disk, so each tile of a stratum is read about once.

    Yields
    ------
    tuple
        (conditions,) codes, (genes,) codes, (conditions × genes) means with NaN where there is no value, and the number of missing
        contrast × gene values.
    """
    contrasts = contrasts.sort_values(["stratum_position", "row"])
    positions = contrasts["stratum_position"].unique()
    genes = np.unique(np.concatenate([gene_codes[position] for position in positions]))
    order = contrasts["condition"].drop_duplicates().to_numpy()
    size = max(1, _BLOCK_VALUES // max(1, len(genes)))
    for start in range(0, len(order), size):
        codes = order[start : start + size]
        row_of_condition = pd.Index(codes)
        total = np.zeros((len(codes), len(genes)))
        count = np.zeros((len(codes), len(genes)), dtype=np.int64)
        missing = 0
        in_block = contrasts[contrasts["condition"].isin(codes)]
        for position in in_block["stratum_position"].unique():
            wanted = in_block[in_block["stratum_position"] == position]
            values = strata[position].dense(["logFC"], contrasts=wanted["row"].to_numpy())["logFC"]
            if np.isinf(values).any():
                rows = wanted["perturbagen"][np.asarray(np.isinf(values).any(axis=1))]
                raise InputError(
                    "logFC is infinite", dataset=str(wanted["dataset"].iloc[0]), rows=list(rows), advice="Rematerialize its effects."
                )
            present = ~np.isnan(values)
            missing += int((~present).sum())
            cells = np.ix_(row_of_condition.get_indexer(wanted["condition"]), np.searchsorted(genes, gene_codes[position]))
            # add.at, since a condition may have several contrasts in one stratum
            np.add.at(total, cells, np.where(present, values, 0.0))
            np.add.at(count, cells, present)
        yield codes, genes, np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), missing


class _ShardWriter:
    """Collects the values of one dataset × context × split and writes a shard whenever one is full."""

    def __init__(
        self, folder: Path, dataset: str, context: str, split: str, conditions: pd.DataFrame, readouts: pd.Index, stamp: Stamp
    ) -> None:
        self._folder, self._dataset, self._context, self._split = folder, dataset, context, split
        self._conditions, self._readouts, self._stamp = conditions, readouts, stamp
        self._condition = np.empty(0, dtype=np.int64)
        self._readout = np.empty(0, dtype=np.int64)
        self._value = np.empty(0, dtype=np.float32)
        self.written: list[dict[str, Any]] = []

    def add(self, condition: NDArray[np.int64], readout: NDArray[np.int64], value: NDArray[np.float32]) -> None:
        self._condition = np.concatenate([self._condition, condition])
        self._readout = np.concatenate([self._readout, readout])
        self._value = np.concatenate([self._value, value])
        full = len(self._value) // SHARD_VALUES * SHARD_VALUES
        for start in range(0, full, SHARD_VALUES):
            self._write(slice(start, start + SHARD_VALUES))
        self._condition, self._readout, self._value = self._condition[full:], self._readout[full:], self._value[full:]

    def close(self) -> None:
        if len(self._value):
            self._write(slice(None))

    def _write(self, part: slice) -> None:
        code, row = np.unique(self._condition[part], return_inverse=True)
        condition = self._conditions.iloc[code]

        same = np.zeros(len(row), dtype=np.int8)
        perturbation, names = pd.factorize(condition["perturbation"])
        gene, genes = pd.factorize(self._readout[part])
        frame = pd.DataFrame(
            {
                "dataset": pd.Categorical.from_codes(same, categories=pd.Index([self._dataset])),
                "context": pd.Categorical.from_codes(same, categories=pd.Index([self._context])),
                "perturbation": pd.Categorical.from_codes(perturbation[row], categories=names),
                "log_dose": condition["log_dose"].to_numpy()[row],
                "time": condition["time"].to_numpy()[row],
                "readout": pd.Categorical.from_codes(gene, categories=self._readouts[genes]),
                "value": self._value[part],
                "split": pd.Categorical.from_codes(same, categories=pd.Index([self._split])),
            }
        )
        file = Path("shards", self._dataset, self._context, f"{self._split}_{len(self.written):06d}.parquet")
        write_parquet(self._folder / file, frame, CORPUS, self._stamp)
        self.written.append(
            {
                "file": file.as_posix(),
                "dataset": self._dataset,
                "context": self._context,
                "split": self._split,
                "n_values": len(frame),
            }
        )


# ---- reading -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredCorpus:
    """An open corpus.

    Attributes
    ----------
    folder, stamp
        Where it lies and what it says of itself.
    summary
        The content of ``corpus.json``.
    conditions, readouts, shards
        Its tables (:data:`CORPUS_CONDITIONS`, :data:`CORPUS_READOUTS`, :data:`CORPUS_SHARDS`).
    """

    folder: Path
    stamp: Stamp
    summary: dict[str, Any]
    conditions: pd.DataFrame
    readouts: pd.DataFrame
    shards: pd.DataFrame

    def iterate_shards(self, split: str) -> Iterator[pd.DataFrame]:
        """The shards of a split, in order, as frames of the contract's table `corpus`; text columns are categorical."""
        import pyarrow.parquet as pq

        text = [field.name for field in CORPUS if field.type == "string"]
        for file in self.shards.loc[self.shards["split"] == split, "file"]:
            path = self.folder / file
            require_compatible(read_stamp(path), path, STAGE)
            yield pq.read_table(path, read_dictionary=text).to_pandas(ignore_metadata=True)

    def vocabularies(self, *, unknown: bool = False) -> Vocabularies:
        """The symbols of train conditions and of genes with train values, sorted; see :class:`encoding.Vocabularies`."""
        train = self.conditions[self.conditions["split"] == "train"]
        return Vocabularies.of(train, list(self.readouts.loc[self.readouts["n_train"] > 0, "readout"]), unknown=unknown)


def open_corpus(folder: Path) -> StoredCorpus:
    """Open a corpus.

    Raises
    ------
    InputError
        If the folder holds no finished corpus.
    IncompatibleFileError
        If its files follow another contract or were written by another stage.
    """
    if not (folder / "corpus.json").is_file():
        raise InputError(
            "this is no finished training corpus", file=folder, expected="a folder with corpus.json", advice="Materialize training_corpus."
        )
    return StoredCorpus(
        folder=folder,
        stamp=read_stamp(folder / "conditions.parquet"),
        summary=json.loads((folder / "corpus.json").read_text()),
        conditions=read_parquet(folder / "conditions.parquet", STAGE),
        readouts=read_parquet(folder / "readouts.parquet", STAGE),
        shards=read_parquet(folder / "shards.parquet", STAGE),
    )
