"""The training corpus: the effects of many strata as values of train, val and test.

Belongs here: its files, and opening it again. Does not belong here: which datasets (``corpora.py``) and contrasts (``contrasts.py``) enter
it, who is held out (``splits/``), the files of values (``shards.py``), integers (``encoding.py``) or models.

A corpus folder holds::

    corpus.json          its definition, counts, what was left out and why, and what each split came to; written last, so that a folder
                         without it is unfinished
    conditions.parquet   one row a condition, with its split by every rule that suits the corpus
    compounds.parquet    one row a compound: name, structure, scaffold, mechanism
    readouts.parquet     one row a gene, with its number of values in each split
    shards.parquet       one row a shard
    shards/<dataset>/<context>/<split>_000000.arrow   values, one row a condition (``shards.py``)
    shards/<dataset>/<context>/genes.parquet   the genes of its columns
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import CORPUS, CORPUS_COMPOUNDS, CORPUS_CONDITIONS, CORPUS_READOUTS, CORPUS_SHARDS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.compounds import compounds_of, described, no_samples
from perturbridge_dagster.representation.contrasts import StoredEffects, conditions_of, mean_blocks, usable_contrasts, with_values
from perturbridge_dagster.representation.corpora import CorpusDefinition
from perturbridge_dagster.representation.encoding import Vocabularies
from perturbridge_dagster.representation.shards import Block, ShardWriter, long_table, open_shard, read_genes, rows_of
from perturbridge_dagster.representation.splits import CONTROL, SPLIT_RULES, SPLITS
from perturbridge_dagster.representation.splits.every import SCALAR, assign, report, split_column
from perturbridge_dagster.written import Stamp, read_parquet, read_stamp, require_compatible, write_json, write_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE = "training_corpus"


# ---- writing -----------------------------------------------------------------------------------------------------------------


def write_corpus(
    strata: Sequence[StoredEffects],
    folder: Path,
    stamp: Stamp,
    *,
    name: str,
    definition: CorpusDefinition | None = None,
    samples: pd.DataFrame | None = None,
    seed: int = 13,
) -> dict[str, Any]:
    """Write a training corpus: one row a condition, split by every rule that suits it.

    Left out and counted: contrasts that are not estimable, have no PubChem id, or a dose that is not above 0 (its logarithm is not
    finite); missing values. Contrasts with equal dataset, context, perturbation, dose and time (two perturbagen names of one PubChem
    id, or two strata of a context) are averaged gene by gene over the values there are, and counted. A mean is significant where every
    contrast it is the mean of has an adjusted P value (within the contrast) below 0.05.

    Memory: the tables of contrasts and genes, and about 4 million values at a time; a stratum is never loaded whole. logFC is read twice,
    the first time only as far as a value is found (:func:`contrasts.with_values`).

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
    definition
        What it takes and leaves out; whatever `strata` are of, unless given.
    samples
        What harmonized samples say of compounds, cells and assays (:func:`compounds.read_samples`). Without them no structure, assay or
        model system is known, and the splits that go by these do not suit.
    seed
        Seed of the splits.

    Returns
    -------
    dict
        The content of ``corpus.json``.

    Raises
    ------
    InputError
        If nothing is left, the folder is not empty, replicates are fitted alone, a value is infinite, a time is missing, or strata are of
        a dataset that the corpus leaves out.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError("the folder of the corpus is not empty", file=folder, advice="Remove it, or name another.")
    stamp = stamp.derived(STAGE, stamp.stage_code_version, stamp.data_version, *(stored.stamp for stored in strata))
    samples = no_samples() if samples is None else samples
    contrasts, left_out = usable_contrasts(strata)
    definition = definition or CorpusDefinition(name, "", tuple(sorted(stamp.source_datasets)), {})
    if strangers := sorted(set(contrasts["dataset"]) - set(definition.datasets)):
        raise InputError(f"corpus {name} leaves out {', '.join(strangers)}", expected=f"effects of {', '.join(definition.datasets)}")
    # before the splits: a condition that drops out of train later would leave what is held out untrained
    contrasts, without_values = with_values(strata, contrasts)
    if contrasts.empty:
        raise InputError(
            f"no value is left for corpus {name}", expected="at least one contrast that is estimable and has a PubChem id and a dose"
        )
    compounds = compounds_of(contrasts, samples)
    conditions = described(conditions_of(contrasts), compounds, samples)
    assignments = {rule: assign(conditions, rule, seed=seed) for rule in SPLIT_RULES}
    conditions = conditions.assign(**{split_column(rule): assigned.split for rule, assigned in assignments.items()})

    readouts = pd.Index(sorted({gene for stored in strata for gene in stored.genes["ensembl_id"]}), name="readout", dtype=object)
    counts = _Counts(conditions, len(readouts))
    shards = _write_shards(strata, contrasts, conditions, readouts, counts, folder, stamp)

    kept = conditions.assign(condition=np.arange(len(conditions)), n_values=counts.of_condition)
    n_conditions = kept["perturbation"].value_counts()
    compounds = compounds.assign(n_conditions=n_conditions.reindex(compounds["perturbation"]).to_numpy())
    write_parquet(folder / "conditions.parquet", kept, CORPUS_CONDITIONS, stamp)
    write_parquet(folder / "compounds.parquet", compounds, CORPUS_COMPOUNDS, stamp)
    of_readouts = counts.readouts(readouts, [rule for rule, assigned in assignments.items() if assigned.reason is None])
    write_parquet(folder / "readouts.parquet", of_readouts, CORPUS_READOUTS, stamp)
    write_parquet(folder / "shards.parquet", pd.DataFrame(shards, columns=CORPUS_SHARDS.names), CORPUS_SHARDS, stamp)

    is_repeated = contrasts.groupby("condition").size() > 1
    summary = {
        "name": name,
        "definition": definition.to_dict(),
        "split_rule": SCALAR,
        "seed": seed,
        "splits": {rule: report(kept, assigned) for rule, assigned in assignments.items()},
        "n_strata": len(strata),
        "n_conditions": {key: int((kept["split"] == key).sum()) for key in SPLITS},
        "n_values": {key: int(of_readouts[f"n_{key}"].sum()) for key in SPLITS},
        "n_datasets": int(kept["dataset"].nunique()),
        "n_contexts": int(kept["context"].nunique()),
        "n_perturbations": int(kept["perturbation"].nunique()),
        "n_readouts": len(of_readouts),
        "n_structures": int(compounds["smiles"].notna().sum()),
        "left_out": {
            **left_out,
            "conditions_without_any_value": without_values["conditions"],
            "missing_values": counts.missing + without_values["values"],
        },
        "averaged": {
            "conditions": int(is_repeated.sum()),
            "contrasts": int(contrasts["condition"].isin(is_repeated.index[is_repeated]).sum()),
        },
    }
    write_json(folder / "corpus.json", summary)
    return summary


class _Counts:
    """Values counted while they are written: by condition, and by gene in each split of the scalar rule and in train of every rule."""

    def __init__(self, conditions: pd.DataFrame, n_readouts: int) -> None:
        self.of_condition = np.zeros(len(conditions), dtype=np.int64)
        self.missing = 0
        columns = {f"n_{split}": conditions["split"] == split for split in SPLITS}
        columns |= {f"n_train_{rule}": conditions[split_column(rule)] == "train" for rule in SPLIT_RULES if rule != SCALAR}
        self._is_of = pd.DataFrame(columns).to_numpy(dtype=np.float32).T
        self._columns = list(columns)
        self._totals = np.zeros((n_readouts, len(columns)), dtype=np.int64)

    def add(self, condition: NDArray[np.int64], genes: NDArray[np.int64], is_value: NDArray[np.bool_]) -> None:
        """Add a block: codes of its conditions and genes, and (conditions, genes) whether there is a value."""
        self.of_condition[condition] = is_value.sum(axis=1)
        # sums of fewer than 2²⁴ ones are exact in float32
        self._totals[genes] += (self._is_of[:, condition] @ is_value.astype(np.float32)).T.astype(np.int64)

    def readouts(self, names: pd.Index, rules: Collection[str]) -> pd.DataFrame:
        """The table CORPUS_READOUTS of the genes with a value; null for rules that do not suit."""
        counted = pd.DataFrame(self._totals, columns=self._columns).assign(readout=names)
        counted = counted[counted[[f"n_{split}" for split in SPLITS]].sum(axis=1) > 0]
        unsuited = [f"n_train_{rule}" for rule in SPLIT_RULES if rule not in rules and rule != SCALAR]
        return counted.drop(columns=unsuited).reindex(columns=CORPUS_READOUTS.names)


def _write_shards(
    strata: Sequence[StoredEffects],
    contrasts: pd.DataFrame,
    conditions: pd.DataFrame,
    readouts: pd.Index,
    counts: _Counts,
    folder: Path,
    stamp: Stamp,
) -> list[dict[str, Any]]:
    """Write the values of all conditions, and count them; rows of the table CORPUS_SHARDS."""
    gene_codes = [readouts.get_indexer(pd.Index(stored.genes["ensembl_id"], dtype=object)) for stored in strata]
    split_of_condition = conditions["split"].to_numpy()
    shards: list[dict[str, Any]] = []
    for dataset, context in contrasts[["dataset", "context"]].drop_duplicates().sort_values(["dataset", "context"]).to_numpy():
        part = contrasts[(contrasts["dataset"] == dataset) & (contrasts["context"] == context)]
        genes = np.unique(np.concatenate([gene_codes[position] for position in part["stratum_position"].unique()]))
        writer = ShardWriter(folder, dataset, context, readouts[genes], stamp)
        for codes, mean, significant, missing in mean_blocks(strata, part, gene_codes, genes):
            is_value = np.isfinite(mean)
            counts.missing += missing
            counts.add(codes, genes, is_value)
            for split in SPLITS:
                chosen = split_of_condition[codes] == split
                writer.add(split, codes[chosen], mean[chosen].astype(np.float32), significant[chosen])
        writer.close()
        shards.extend(writer.written)
    return shards


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

    @cached_property
    def compounds(self) -> pd.DataFrame:
        """Its compounds (:data:`CORPUS_COMPOUNDS`).

        Raises
        ------
        InputError
            If the corpus was written before contract 1.3.
        """
        file = self.folder / "compounds.parquet"
        if not file.is_file():
            raise InputError("this corpus says nothing of its compounds", file=file, advice="Rematerialize training_corpus.")
        return read_parquet(file, STAGE)

    @property
    def rules(self) -> list[str]:
        """Split rules that suit the corpus; the scalar one, by which its shards are cut, is always among them."""
        return [rule for rule in SPLIT_RULES if self._reason(rule) is None]

    def _reason(self, rule: str) -> str | None:
        """Why a split rule does not suit the corpus; None where it does."""
        if rule == self.summary.get("split_rule", SCALAR):
            return None
        found = self.summary.get("splits", {}).get(rule)
        return "the corpus was written before it was computed" if found is None else found["reason"]

    def split_of(self, rule: str = SCALAR) -> pd.Series:
        """Split of each condition by a rule, with the index of ``conditions``; null where a condition takes no part.

        Raises
        ------
        InputError
            If no rule is called so, or it does not suit the corpus; the message says why.
        """
        if rule not in SPLIT_RULES:
            raise InputError(f"no split is called {rule!r}", expected=", ".join(SPLIT_RULES))
        if reason := self._reason(rule):
            raise InputError(f"the split {rule} does not suit this corpus: {reason}", file=self.folder, expected=", ".join(self.rules))
        return self.conditions["split" if rule == self.summary.get("split_rule", SCALAR) else split_column(rule)]

    def conditions_of(self, split: str, rule: str = SCALAR, datasets: Collection[str] | None = None) -> pd.DataFrame:
        """Conditions of a split, in corpus order, numbered anew.

        Parameters
        ----------
        split
            train, val or test.
        rule
            One of :attr:`rules`. The column ``split`` is that of the rule.
        datasets
            Only conditions of these; of all for None.

        Raises
        ------
        InputError
            As :meth:`split_of`, or if a dataset is not in the corpus.
        """
        conditions = self._taking_part(rule, datasets)
        return conditions[conditions["split"] == split].reset_index(drop=True)

    def _taking_part(self, rule: str, datasets: Collection[str] | None) -> pd.DataFrame:
        """Conditions of some datasets, with the split of a rule as ``split``."""
        conditions = self.conditions.assign(split=self.split_of(rule))
        if datasets is None:
            return conditions
        if strangers := sorted(set(datasets) - set(self.conditions["dataset"])):
            raise InputError(
                f"the corpus has no conditions of {', '.join(strangers)}",
                file=self.folder,
                expected=f"some of {', '.join(sorted(self.conditions['dataset'].unique()))}",
            )
        return conditions[conditions["dataset"].isin(datasets)]

    def blocks(self, split: str, rule: str = SCALAR, datasets: Collection[str] | None = None) -> Iterator[Block]:
        """The conditions of a split with their values, shard by shard, memory-mapped: rows are chosen, not copied.

        Parameters
        ----------
        split, rule, datasets
            As for :meth:`conditions_of`.

        Raises
        ------
        InputError
            As :meth:`conditions_of`; if the corpus is of a contract before 1.3, whose shards have one row a value; if a shard holds a
            condition that the corpus does not list, or not as many values as it is said to.
        """
        is_wanted = (self._taking_part(rule, datasets)["split"] == split).reindex(self.conditions.index, fill_value=False).to_numpy()
        n_values, listed = self.conditions["n_values"].to_numpy(), pd.Index(self.conditions["condition"])
        shards = self.shards
        if rule == self.summary.get("split_rule", SCALAR):
            shards = shards[shards["split"] == split]  # what shards are cut by
        if datasets is not None:
            shards = shards[shards["dataset"].isin(datasets)]
        genes: dict[tuple[str, str], pd.Index] = {}
        for shard in shards.itertuples():
            if not str(shard.file).endswith(".arrow"):
                raise InputError(
                    "is a shard of an earlier version, which holds one row a value",
                    file=self.folder / str(shard.file),
                    advice="Rematerialize training_corpus.",
                )
            place = (str(shard.dataset), str(shard.context))
            if place not in genes:
                genes = {place: read_genes(self.folder, str(shard.file), STAGE)}  # shards of a place come together
            block = open_shard(self.folder, str(shard.file), *place, genes[place], STAGE)
            rows = rows_of(block.condition, listed)
            if n_values[rows].sum() != shard.n_values:
                raise InputError(
                    f"the conditions of a shard have {n_values[rows].sum():,} values",
                    file=self.folder / str(shard.file),
                    expected=f"{shard.n_values:,}, as listed",
                    advice="Rematerialize training_corpus.",
                )
            chosen = is_wanted[rows]
            if chosen.any():
                yield block[chosen]

    def iterate_shards(self, split: str, rule: str = SCALAR, datasets: Collection[str] | None = None) -> Iterator[pd.DataFrame]:
        """The values of a split shard by shard, as frames of the contract's table `corpus`; text columns are categorical.

        Parameters
        ----------
        split, rule, datasets
            As for :meth:`conditions_of`.
        """
        is_long = ~self.shards["file"].str.endswith(".arrow")
        if is_long.all() and rule == self.summary.get("split_rule", SCALAR) and datasets is None:
            for file in self.shards.loc[self.shards["split"] == split, "file"]:
                yield _long_shard(self.folder / file)
            return
        conditions = self.conditions_of(split, rule, datasets)
        for block in self.blocks(split, rule, datasets):
            yield long_table(block, conditions)

    def vocabularies(self, rule: str = SCALAR, *, unknown: bool = False, described: Collection[str] = ()) -> Vocabularies:
        """The symbols of train conditions and of genes with train values, sorted; see :class:`encoding.Vocabularies`.

        Parameters
        ----------
        rule
            Split rule whose train conditions are meant.
        unknown
            Whether other symbols get a token of their own.
        described
            Molecules that something else than effects describes, such as a fingerprint. Those of the corpus are added.
        """
        train = self.conditions_of("train", rule)
        n_train = self.readouts["n_train" if rule == self.summary.get("split_rule", SCALAR) else f"n_train_{rule}"]
        vocabularies = Vocabularies.of(train, list(self.readouts.loc[n_train > 0, "readout"]), unknown=unknown)
        added = set(Vocabularies.of(self.conditions, []).perturbation).intersection(described)
        return replace(vocabularies, perturbation=(CONTROL, *sorted(added.union(vocabularies.perturbation) - {CONTROL})))


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
