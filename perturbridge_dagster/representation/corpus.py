"""The training corpus: the effects of many strata as values of train, val and test.

Belongs here: which effects enter a corpus, its files, and opening it again. Does not belong here: who is held out (``splits/``), the files
of values (``shards.py``), integers (``encoding.py``) or models.

A corpus folder holds::

    corpus.json          counts, what was left out and why; written last, so a folder without it is unfinished
    conditions.parquet   one row a condition, with its split
    readouts.parquet     one row a gene, with its number of values in each split
    shards.parquet       one row a shard
    shards/<dataset>/<context>/<split>_000000.arrow   values, one row a condition (``shards.py``)
    shards/<dataset>/<context>/genes.parquet   the genes of its columns
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
from perturbridge_dagster.representation.shards import Block, ShardWriter, long_table, open_shard
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
    split_of_condition = conditions["split"].to_numpy()
    for dataset, context in contrasts[["dataset", "context"]].drop_duplicates().sort_values(["dataset", "context"]).to_numpy():
        part = contrasts[(contrasts["dataset"] == dataset) & (contrasts["context"] == context)]
        genes = np.unique(np.concatenate([gene_codes[position] for position in part["stratum_position"].unique()]))
        writer = ShardWriter(folder, dataset, context, readouts[genes], stamp)
        for codes, mean, missing in _mean_blocks(strata, part, gene_codes, genes):
            n_missing += missing
            is_value = np.isfinite(mean)
            n_by_condition[codes] = is_value.sum(axis=1)
            for split_name, n_values in n_by_readout.items():
                chosen = (split_of_condition[codes] == split_name) & is_value.any(axis=1)
                n_values[genes] += is_value[chosen].sum(axis=0)
                writer.add(split_name, codes[chosen], mean[chosen].astype(np.float32))
        writer.close()
        shards.extend(writer.written)

    has_values = n_by_condition > 0
    conditions = conditions.assign(condition=np.arange(len(conditions)), n_values=n_by_condition)
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
    strata: Sequence[StoredEffects], contrasts: pd.DataFrame, gene_codes: list[NDArray[np.int64]], genes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], int]]:
    """Mean logFC of the conditions of one dataset × context over `genes`, block by block.

    Conditions come in the order of their first contrast on disk, so each tile of a stratum is read about once.

    Yields
    ------
    tuple
        (conditions,) codes, (conditions × genes) means with NaN where there is no value, and the number of missing contrast × gene
        values.
    """
    contrasts = contrasts.sort_values(["stratum_position", "row"])
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
        yield codes, np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), missing


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

    def blocks(self, split: str) -> Iterator[Block]:
        """The conditions of a split with their values, shard by shard, memory-mapped.

        Raises
        ------
        InputError
            If the corpus is of a contract before 1.3, whose shards have one row a value.
        """
        for shard in self.shards[self.shards["split"] == split].itertuples():
            if not str(shard.file).endswith(".arrow"):
                raise InputError(
                    "is a shard of an earlier version, which holds one row a value",
                    file=self.folder / str(shard.file),
                    advice="Rematerialize training_corpus.",
                )
            yield open_shard(self.folder, str(shard.file), str(shard.dataset), str(shard.context), STAGE)

    def iterate_shards(self, split: str) -> Iterator[pd.DataFrame]:
        """The values of a split shard by shard, as frames of the contract's table `corpus`; text columns are categorical."""
        for shard in self.shards[self.shards["split"] == split].itertuples():
            path = self.folder / str(shard.file)
            if path.suffix == ".arrow":
                yield long_table(open_shard(self.folder, str(shard.file), str(shard.dataset), str(shard.context), STAGE), self.conditions)
            else:
                yield _long_shard(path)

    def vocabularies(self, *, unknown: bool = False) -> Vocabularies:
        """The symbols of train conditions and of genes with train values, sorted; see :class:`encoding.Vocabularies`."""
        train = self.conditions[self.conditions["split"] == "train"]
        return Vocabularies.of(train, list(self.readouts.loc[self.readouts["n_train"] > 0, "readout"]), unknown=unknown)


def _long_shard(path: Path) -> pd.DataFrame:
    """A shard of a contract before 1.3."""
    import pyarrow.parquet as pq

    require_compatible(read_stamp(path), path, STAGE)
    text = [field.name for field in CORPUS if field.type == "string"]
    frame: pd.DataFrame = pq.read_table(path, read_dictionary=text).to_pandas(ignore_metadata=True)
    return frame


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
