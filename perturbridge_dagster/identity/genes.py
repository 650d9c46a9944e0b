"""Genes: from a source's gene ids to current Ensembl ids, and the merging of source genes that are one gene today.

Belongs here: looking gene ids up, and what the answer makes of the columns of a matrix. Does not belong here: which ids a source uses
(``sources/``) or how the tables are made (``build_snapshot.py``). A live service adds rows to the table of keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.tables import cleaned_text

if TYPE_CHECKING:
    from scipy import sparse

GeneIdKind = Literal["ensembl", "entrez", "symbol", "mixed"]
"""What the gene ids of a source are. mixed: each an Ensembl id where it has the form of one, else a symbol."""

NO_CURRENT_GENE = "no current Ensembl id"
SHARED_IN_VALUES = "dropped, several source genes on one Ensembl id in normalized values"
MERGED = "several source genes on one Ensembl id"
"""Rules of the reconciliation: the first two lose genes, the third keeps their counts in another."""

WORDS_FOR_MISSING = frozenset({"NA", "NAN", "NONE", "NULL", "<NA>"})
"""No symbols, in capitals: what programs write for a gene without one. NA and NAN are aliases too, of XK and SCN11A."""

STATUSES = ("current", "replaced", "retired", "ambiguous", "unknown")
"""What is known of a gene id.

current: it names a gene of the current list. replaced: it is out of use, and exactly one current gene stands for it. retired: it was
in use, and nothing current stands for it. ambiguous: several current genes may stand for it. unknown: no table has it.
"""


def gene_key(values: pd.Series, kind: GeneIdKind) -> pd.Series:
    """Gene ids as they are compared: an Ensembl id without its version, a symbol in capitals; None where missing or a word for that.

    Human symbols differ in case only by the ``orf`` of C1orf112, which some sources write in capitals.
    """
    text = cleaned_text(values).astype("string")
    if kind == "ensembl":
        text = text.str.replace(r"^(ENSG\d{11})\.\d+$", r"\1", regex=True)
    elif kind == "entrez":
        # integers that went through a float column
        text = text.str.replace(r"^(\d+)\.0$", r"\1", regex=True)
    else:
        text = text.str.upper()
        text = text.mask(text.isin(WORDS_FOR_MISSING))
    return text.astype(object).where(text.notna(), None)


@dataclass(frozen=True, eq=False)
class GeneIdentity:
    """Answers about genes.

    Attributes
    ----------
    genes
        The current genes: ensembl_id (unique), symbol (nullable).
    keys
        Other keys of genes: kind (ensembl, entrez, symbol), key (as :func:`gene_key` writes it), ensembl_id (nullable), status, found
        (how the answer was found). Unique by kind and key.
    """

    genes: pd.DataFrame
    keys: pd.DataFrame

    @cached_property
    def _symbols(self) -> pd.Series[Any]:
        return self.genes.set_index("ensembl_id")["symbol"]

    @cached_property
    def _by_kind(self) -> dict[str, pd.DataFrame]:
        current = self.genes[["ensembl_id"]].assign(key=self.genes["ensembl_id"], status="current", found="GENCODE id")
        other = {kind: self.keys[self.keys["kind"] == kind] for kind in ("ensembl", "entrez", "symbol")}
        columns = ["ensembl_id", "status", "found"]
        return {
            "ensembl": pd.concat([current, other["ensembl"]]).set_index("key")[columns],
            "entrez": other["entrez"].set_index("key")[columns],
            "symbol": other["symbol"].set_index("key")[columns],
        }

    def with_archive(self, archive: pd.DataFrame | None) -> GeneIdentity:
        """These answers and those of Ensembl's archive on Ensembl ids.

        An id of the current list stays itself. Of the others, what the archive says for certain holds: the one current id that stands for
        an id. An id in use that the list lacks, as the ids on alternative sequences are, goes where these answers lead it, else it is a
        current gene without a symbol. Where the archive has no single id, these answers hold if they have one; else the archive's
        reason does.

        Parameters
        ----------
        archive
            Answers as ``ensembl.load_archive`` reads them; with None nothing changes.
        """
        if archive is None or archive.empty:
            return self
        own = self.keys[self.keys["kind"] == "ensembl"].set_index("key")
        others = archive[~archive["gene_id"].isin(self.genes["ensembl_id"])].set_index("gene_id")
        known = own["ensembl_id"].reindex(others.index)
        target = others["ensembl_id"].where(others["status"] == "replaced", known)
        target = target.where(target.notna() | (others["status"] != "current"), pd.Series(others.index, others.index))
        # what stands for an id may itself be one that these answers lead further, on an alternative sequence
        further = target.map(own["ensembl_id"].dropna())
        target = target.where(target.isin(self.genes["ensembl_id"]) | further.isna(), further)
        itself = target == others.index
        # an id that the archive does not know may be known here
        older = (others["status"] == "unknown") & others.index.isin(own.index)
        status = others["status"].mask(target.notna(), "replaced").mask(itself, "current")
        status = status.mask(older, own["status"].reindex(others.index))
        by_archive = (others["status"] == "replaced") | (known.isna() & ~older)
        release = "Ensembl archive, release " + others["release"].astype(str)
        rows = pd.DataFrame(
            {
                "kind": "ensembl",
                "key": others.index,
                "ensembl_id": target.to_numpy(),
                "status": status.to_numpy(),
                "found": release.where(by_archive, own["found"].reindex(others.index)).to_numpy(),
            }
        )
        new = sorted(set(target.dropna()) - set(self.genes["ensembl_id"]))
        keys = pd.concat([self.keys[(self.keys["kind"] != "ensembl") | ~self.keys["key"].isin(others.index)], rows[~itself.to_numpy()]])
        genes = pd.concat([self.genes, pd.DataFrame({"ensembl_id": new, "symbol": None}, dtype=object)], ignore_index=True)
        return replace(self, genes=genes, keys=keys.astype(object).where(keys.notna(), None).reset_index(drop=True))

    def resolve(self, ids: Sequence[object] | pd.Series, kind: GeneIdKind) -> pd.DataFrame:
        """Current Ensembl ids of gene ids.

        Parameters
        ----------
        ids
            Ensembl ids (a version suffix does not count), Entrez ids (numbers or text) or symbols (case does not count).
        kind
            What they are.

        Returns
        -------
        One row an id, in order, index of the Series if one was given: ``ensembl_id`` and ``symbol`` (null where there is no single
        current gene), ``status`` (see :data:`STATUSES`), ``found`` (how; null where unknown).
        """
        given = ids if isinstance(ids, pd.Series) else pd.Series(list(ids), dtype=object)
        if kind == "mixed":
            is_id = gene_key(given, "ensembl").astype("string").str.fullmatch(r"ENSG\d{11}").fillna(value=False).to_numpy(bool)
            parts = [self.resolve(given[is_id], "ensembl"), self.resolve(given[~is_id], "symbol")]
            order = np.argsort(np.concatenate([np.flatnonzero(is_id), np.flatnonzero(~is_id)]))
            return pd.concat(parts).iloc[order]
        answers = self._by_kind[kind].reindex(gene_key(given, kind)).set_axis(given.index)
        answers.insert(1, "symbol", answers["ensembl_id"].map(self._symbols))
        answers["status"] = answers["status"].fillna("unknown")
        answers = answers.astype(object)
        return answers.where(answers.notna(), None)


@dataclass(frozen=True, eq=False)
class MergedGenes:
    """Where the genes of a source go.

    Attributes
    ----------
    target
        One value a source gene, int64: the row of its current gene in `var`, -1 where it is dropped.
    var
        The current genes, as the contract's harmonized_var, sorted by its index ensembl_id.
    reconciliation
        Columns rule, n_in, n_dropped, n_out: source genes before, dropped or merged into others, and left, rule by rule.
    """

    target: np.ndarray
    var: pd.DataFrame
    reconciliation: pd.DataFrame


def merge_genes(source_gene_ids: pd.Index, resolved: pd.DataFrame, *, normalized: bool) -> MergedGenes:
    """Which current gene each source gene is.

    Source genes without a current gene are dropped. Source genes that share one are to be summed where the values are counts, and are
    all dropped where they are normalized, whose sum means nothing.

    Parameters
    ----------
    source_gene_ids
        Gene ids of the source, as text.
    resolved
        One row a source gene, in the same order: at least ensembl_id (nullable) and symbol, as :meth:`GeneIdentity.resolve` returns.
    normalized
        Whether values are normalized rather than counts.

    Raises
    ------
    InputError
        If `resolved` has another number of rows than there are source genes.
    """
    if len(resolved) != len(source_gene_ids):
        raise InputError(
            f"{len(resolved):,} resolved genes for {len(source_gene_ids):,} source genes",
            expected="one row a source gene, in the same order",
            advice="Resolve the gene ids of exactly this matrix.",
        )
    ensembl_id = resolved["ensembl_id"].to_numpy(dtype=object)
    kept = resolved["ensembl_id"].notna().to_numpy()
    n_resolved = int(kept.sum())
    shared = kept & pd.Series(ensembl_id).duplicated(keep=False).to_numpy()
    if normalized:
        kept = kept & ~shared
    columns = np.flatnonzero(kept)
    gene, genes = pd.factorize(ensembl_id[columns], sort=True)
    target = np.full(len(resolved), -1, dtype=np.int64)
    target[columns] = gene

    first = pd.Series(columns).groupby(gene).first().to_numpy()
    symbol = resolved["symbol"].to_numpy(dtype=object)[first]
    source_gene_id = pd.Series(source_gene_ids.to_numpy()[columns], dtype=object).groupby(gene).agg(";".join)
    var = pd.DataFrame(
        {
            "symbol": symbol,
            "source_gene_id": source_gene_id.to_numpy(dtype=object),
            "is_merged": shared[first],
        },
        index=pd.Index(genes, name="ensembl_id", dtype=object),
    )
    counts = [
        (NO_CURRENT_GENE, len(resolved), n_resolved),
        (SHARED_IN_VALUES if normalized else MERGED, n_resolved, len(genes)),
    ]
    reconciliation = pd.DataFrame(
        [(text, n_in, n_in - n_out, n_out) for text, n_in, n_out in counts], columns=["rule", "n_in", "n_dropped", "n_out"]
    )
    return MergedGenes(target, var, reconciliation)


def sum_genes(counts: sparse.csr_matrix, target: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """Counts of current genes.

    Parameters
    ----------
    counts
        Samples × source genes, CSR of any number type.
    target
        Current gene of each source gene, as :class:`MergedGenes` has it; -1 is left out.
    n_genes
        How many current genes there are.

    Returns
    -------
    Samples × current genes, CSR of the same number type.
    """
    from scipy import sparse

    columns = np.flatnonzero(target >= 0)
    membership = sparse.csr_matrix((np.ones(len(columns), counts.dtype), (columns, target[columns])), shape=(len(target), n_genes))
    return counts @ membership
