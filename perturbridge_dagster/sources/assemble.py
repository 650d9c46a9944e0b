"""The one standardiser: native samples of any dataset to the contract.

Belongs here: identity, constants, sample ids, types and order of harmonized samples, and refusing what no dataset may have. Does not
belong here: anything that only one source does (its reader), or judging values against the contract (``quality/``).
"""

from __future__ import annotations

from collections import Counter
from functools import reduce
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.contract import HARMONIZED_OBS, HARMONIZED_VAR
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.cell_contexts import DONOR_COLUMNS
from perturbridge_dagster.identity.compounds import IDENTITY_COLUMNS
from perturbridge_dagster.identity.genes import merge_genes, sum_genes
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    first_known,
    positive_integers,
    require_controls,
    text,
)

if TYPE_CHECKING:
    from perturbridge_dagster.identity.snapshot import Identity

SOURCE_UNKNOWN = "unknown"
"""Word of several sources for a donor field that they do not know."""


def assemble(dataset: Dataset, native: NativeSamples, identity: Identity) -> ad.AnnData:
    """Bring native samples to the contract.

    Parameters
    ----------
    dataset
        Registry entry of the dataset.
    native
        What its reader found. Its blocks of values are read, which can be done once.
    identity
        Who compounds, genes and cell contexts are.

    Returns
    -------
    Harmonized samples; see :func:`perturbridge_dagster.sources.harmonize`.

    Raises
    ------
    InputError
        If a sample lacks plate, perturbagen, cell context, time or, where treated, dose; if the dataset or a cell context has no
        vehicle control; if sample ids are not unique; if no gene is left, or a sample is empty.
    """
    obs = native.obs.copy()
    require_controls(obs["is_control"], obs["perturbagen"].unique(), dataset)
    obs["pert_dose_uM"] = obs["pert_dose_uM"].mask(obs["is_control"], 0.0)
    _require_values(obs, dataset)
    obs = _add_cell_contexts(_add_constants(obs, dataset), dataset, identity)
    _require_controls_everywhere(obs, dataset)
    obs = _add_compounds(obs, dataset, identity)
    sample_ids = _sample_ids(obs, dataset)

    order = np.lexsort((sample_ids.to_numpy(str), obs["cell_type"].to_numpy(str)))
    obs = obs.assign(dataset=dataset.id).set_axis(sample_ids).iloc[order]
    targets, var = _join_genes(native.expressions, dataset, identity, native.steps)
    fill = _intensities if dataset.modality == "normalized" else _counts
    values = fill(native.expressions, targets, order, len(var))
    totals = np.asarray(values.sum(axis=1)).ravel()
    _require_signal(totals, obs.index, len(var), dataset)
    obs["psbulk_counts"] = totals if dataset.modality == "counts" else None
    return ad.AnnData(values, obs=_typed(obs), var=var, uns={"reconciliation": native.steps.frame()})


# ---- samples -----------------------------------------------------------------------------------------------------------------


def _require_values(obs: pd.DataFrame, dataset: Dataset) -> None:
    """Refuse samples that lack what every sample must have."""
    for column in ("plate", "source_cell_context", "perturbagen", "pert_time_h", "pert_dose_uM"):
        missing = obs[column].isna()
        if missing.any():
            raise InputError(
                f"{int(missing.sum()):,} samples have none, or one that is not understood.",
                dataset=dataset.id,
                rows=list(obs.index[missing]),
                column=column,
                expected="a value for every sample; a dose and a time with a known unit",
                advice="Correct the source table, or remove the samples from it.",
            )


def _add_constants(obs: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Fields that are the same for every sample of the dataset, where the source's own table does not say them."""
    constants = {"assay": dataset.assay, **dataset.constants}
    return obs.assign(**{name: obs[name].where(obs[name].notna(), value) if name in obs else value for name, value in constants.items()})


def _add_cell_contexts(obs: pd.DataFrame, dataset: Dataset, identity: Identity) -> pd.DataFrame:
    """Cell-context ids; donor fields from the source, else from the identity snapshot, or the other way round where declared."""
    names = obs["source_cell_context"].drop_duplicates()
    known = identity.cell_contexts.resolve(names.set_axis(names), dataset.id).reindex(obs["source_cell_context"]).set_axis(obs.index)
    obs = obs.assign(cell_type=known["cell_type"])
    for field in DONOR_COLUMNS:
        own = _stated(obs[field]) if field in obs else pd.Series(None, index=obs.index, dtype=object)
        obs[field] = first_known(known[field], own) if field in dataset.identity_first else first_known(own, known[field])
    return obs


def _stated(values: pd.Series) -> pd.Series:
    """Donor words as text, null where the source says that it does not know."""
    words = text(values)
    return words.where(words.str.lower() != SOURCE_UNKNOWN, None)


def _require_controls_everywhere(obs: pd.DataFrame, dataset: Dataset) -> None:
    """Refuse a cell context without vehicle controls."""
    has_controls = obs.groupby("cell_type")["is_control"].transform("any")
    if not has_controls.all():
        raise InputError(
            "cell contexts without vehicle controls.",
            dataset=dataset.id,
            rows=sorted(obs.loc[~has_controls, "source_cell_context"].unique()),
            column="source_cell_context",
            expected=f"controls in every cell context: {dataset.control.how}",
            advice="Remove their samples from the source, or correct the control labels.",
        )


def _add_compounds(obs: pd.DataFrame, dataset: Dataset, identity: Identity) -> pd.DataFrame:
    """Identity of the compounds, resolved once for each distinct compound."""
    key = ["source_perturbagen_id", "perturbagen"]
    given = obs[[*key, "inchikey", "smiles"]].assign(pubchem_cid=positive_integers(obs["pubchem_cid"]))
    groups = given.groupby(key, dropna=False, sort=True)
    compounds = groups.first().reset_index()
    compounds[key] = compounds[key].astype(object).where(compounds[key].notna(), None)
    found = identity.compounds.resolve(compounds, dataset.id).reindex(groups.ngroup()).set_axis(obs.index)
    return obs.assign(**{str(name): found[name] for name in IDENTITY_COLUMNS})


def _sample_ids(obs: pd.DataFrame, dataset: Dataset) -> pd.Index:
    """Plate, well, perturbagen and cell context joined; blanks become underscores."""
    well = ("_" + obs["well"].astype("string")).fillna("").astype(object)
    ids = (obs["plate"] + well + "_" + obs["perturbagen"] + "_" + obs["cell_type"]).str.replace(r"\s+", "_", regex=True)
    repeated = ids.duplicated(keep=False)
    if repeated.any():
        raise InputError(
            f"sample ids are not unique: the source rows {', '.join(map(str, obs.index[repeated][:5]))} share one with another.",
            dataset=dataset.id,
            rows=sorted(ids[repeated].unique()),
            column="sample_id",
            expected="one sample a plate, well, perturbagen and cell context",
            advice="Check the source for wells listed twice.",
        )
    return pd.Index(ids, name="sample_id", dtype=object)


def _require_signal(totals: np.ndarray, sample_ids: pd.Index, n_genes: int, dataset: Dataset) -> None:
    """Refuse samples without signal."""
    if (totals <= 0).any():
        raise InputError(
            f"{int((totals <= 0).sum()):,} samples have a total of 0 or less over the {n_genes:,} genes.",
            dataset=dataset.id,
            rows=list(sample_ids[totals <= 0]),
            expected="a positive total",
        )


def _typed(obs: pd.DataFrame) -> pd.DataFrame:
    """The contract's fields in its order and types: text as categories, integers that may be null as ``Int64``."""
    integer = {True: "Int64", False: "int64"}
    types: dict[str, Any] = {
        field.name: {"string": "category", "int64": integer[field.nullable]}.get(field.type, field.type) for field in HARMONIZED_OBS
    }
    names = [name for name in HARMONIZED_OBS.names if name != obs.index.name]
    return pd.DataFrame({name: pd.Series(obs.get(name), index=obs.index).astype(types[name]) for name in names})


# ---- values ------------------------------------------------------------------------------------------------------------------


def _join_genes(
    expressions: list[Expression], dataset: Dataset, identity: Identity, steps: Reconciliation
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """The current genes that every file has, and for each file the row there of each of its genes, -1 where it is dropped."""
    files = []
    for expression in expressions:
        resolved = identity.genes.resolve(expression.genes.to_series(), expression.gene_kind)
        merged = merge_genes(expression.genes.astype(str), resolved, normalized=dataset.modality == "normalized")
        suffix = f" ({expression.file.name})" if len(expressions) > 1 else ""
        for rule, n_dropped in zip(merged.reconciliation["rule"], merged.reconciliation["n_dropped"], strict=True):
            steps.drop("genes", f"{rule}{suffix}", int(n_dropped))
        files.append(merged)
    shared = reduce(pd.Index.intersection, [merged.var.index for merged in files])
    if len(files) > 1:
        steps.drop(
            "genes",
            f"the lists of {len(files)} files made one: an id that not all have, or that another has too",
            steps.left["genes"] - len(shared),
        )
    if shared.empty:
        raise InputError(
            "no gene is left once source genes are brought to Ensembl ids.",
            dataset=dataset.id,
            advice="Check that gene ids are of the declared kind.",
        )
    parts = [merged.var.loc[shared] for merged in files]
    var = parts[0][[name for name in HARMONIZED_VAR.names if name != shared.name]].copy()
    var["source_gene_id"] = [_distinct(ids) for ids in zip(*(part["source_gene_id"] for part in parts), strict=True)]
    var["is_merged"] = np.any([part["is_merged"] for part in parts], axis=0)
    # the last element stands for the target -1
    targets = [np.append(shared.get_indexer(merged.var.index), -1)[merged.target] for merged in files]
    return targets, var


def _intensities(expressions: list[Expression], targets: list[np.ndarray], order: np.ndarray, n_genes: int) -> np.ndarray:
    """Samples in their final order × current genes, dense float32, filled block by block: a matrix of real size fits in memory once."""
    values = np.empty((len(order), n_genes), np.float32)
    row_of = np.argsort(order)
    done = 0
    for expression, target in zip(expressions, targets, strict=True):
        # no two intensities share a gene, so each gene has one column
        columns = np.flatnonzero(target >= 0)
        columns = columns[np.argsort(target[columns])]
        for block in expression.blocks:
            values[row_of[done : done + len(block)]] = block[:, columns]
            done += len(block)
    return values


def _counts(expressions: list[Expression], targets: list[np.ndarray], order: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """Samples in their final order × current genes, CSR int64."""
    blocks = (
        sum_genes(block, target, n_genes) for expression, target in zip(expressions, targets, strict=True) for block in expression.blocks
    )
    return sparse.vstack(list(blocks), format="csr")[order]


def _distinct(names: tuple[str, ...]) -> str:
    """Names of one gene in several files, each once, in order."""
    return ";".join(Counter(names))
