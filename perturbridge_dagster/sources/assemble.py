"""The one standardiser: native samples of any dataset to the contract.

Belongs here: identity, constants, sample ids, types and order of harmonized samples, and refusing what no dataset may have. Does not
belong here: anything that only one source does (its reader), or judging values against the contract (``quality/``).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from perturbridge_dagster.contract import COMPOUND_IDENTITY, DROPPED_GENES, HARMONIZED_VAR, Field
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.cell_contexts import DONOR_COLUMNS
from perturbridge_dagster.identity.compounds import IDENTITY_COLUMNS, OPTIONAL_COLUMNS
from perturbridge_dagster.identity.doses import shared_nominal_dose_uM
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
from perturbridge_dagster.sources.spilled import SpilledRows, spill_folder
from perturbridge_dagster.sources.stored import write_rows

if TYPE_CHECKING:
    from perturbridge_dagster.identity.snapshot import Identity

IN_MEMORY = 2**31
"""Bytes of counts up to which harmonized samples lie in memory; more lie in a file."""

_BYTES_A_COUNT = 12
"""An int64 count, and the int32 number of its gene."""

NOT_EVERYWHERE = "not in every file of the dataset"
"""Rule of the reconciliation that loses the genes of which another file has no values."""

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
        If a sample lacks plate, perturbagen, cell context, time or, where treated, dose; if a declared further column is absent or
        of another type; if the dataset or a cell context has no vehicle control; if sample ids are not unique; if no gene is left, or a
        sample is empty.
    """
    obs = _extra_fields(native.obs.copy(), dataset)
    require_controls(obs["is_control"], obs["perturbagen"].unique(), dataset)
    obs["pert_dose_uM"] = obs["pert_dose_uM"].mask(obs["is_control"], 0.0)
    _require_values(obs, dataset)
    obs = _add_cell_contexts(obs, dataset, identity)
    _require_controls_everywhere(obs, dataset)
    obs, compounds = _add_compounds(obs, dataset, identity)
    obs = _add_nominal_doses(obs, dataset)
    sample_ids = _sample_ids(obs, dataset)

    order = np.lexsort((sample_ids.to_numpy(str), obs["cell_type"].to_numpy(str)))
    obs = obs.assign(dataset=dataset.id).set_axis(sample_ids).iloc[order]
    targets, var, dropped = _join_genes(native.expressions, dataset, identity, native.steps)
    if dataset.modality == "normalized":
        values = _intensities(native.expressions, targets, order, len(var))
        totals = np.asarray(values.sum(axis=1)).ravel()
    else:
        rows, totals_of = _counts(native.expressions, targets, len(var))
        dropped["counts_lost"] = [totals_of[file][column] for file, column in zip(dropped["n_file"], dropped["column"], strict=True)]
        totals = rows.totals()[order]
    _require_signal(totals, obs.index, len(var), dataset)
    obs["psbulk_counts"] = totals if dataset.modality == "counts" else None
    _merge_conditions(obs, native.steps)
    account = {"reconciliation": native.steps.frame(), "dropped_genes": _dropped_table(dropped), "compound_identity": compounds}
    obs = _typed(obs, dataset)
    if dataset.modality == "normalized":
        return ad.AnnData(values, obs=obs, var=var, uns=account)
    if rows.n_values * _BYTES_A_COUNT <= IN_MEMORY:
        return ad.AnnData(rows.read(order), obs=obs, var=var, uns=account)
    return _on_disk(rows, order, obs, var, account)


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


def _extra_fields(obs: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Samples with the further columns that the registry declares in their declared types.

    Raises
    ------
    InputError
        If the reader did not give one, or a value is not of its type.
    """
    for name, field in dataset.extra_fields.items():
        if name not in obs:
            raise InputError(
                f"the registry declares a further column {name}, which the reader {dataset.reader} does not give.",
                dataset=dataset.id,
                column=name,
                expected=field.meaning.rstrip("."),
                advice="Read it from the source, or take it out of extra_fields of the registry.",
            )
        if field.type == "string":
            obs[name] = text(obs[name])
            continue
        words = text(obs[name])
        numbers = pd.to_numeric(words, errors="coerce").astype("float64")
        wrong = words.notna() & (numbers.isna() | ((numbers % 1 != 0) if field.type == "int64" else False))
        if wrong.any():
            raise InputError(
                f"{int(wrong.sum()):,} samples have a value that is no {field.type}: {', '.join(words[wrong].unique()[:5])}.",
                dataset=dataset.id,
                rows=list(obs.index[wrong]),
                column=name,
                expected=field.meaning.rstrip("."),
            )
        obs[name] = numbers
    return obs


def _add_constants(obs: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Fields that are the same for every sample of a cell context, or of the dataset, where the source's own table does not say them."""
    for context, fields in dataset.cell_context_constants.items():
        obs = _filled(obs, fields, obs["cell_type"] == context)
    return _filled(obs, {"assay": dataset.assay, **dataset.constants}, pd.Series(True, index=obs.index))


def _filled(obs: pd.DataFrame, constants: Mapping[str, str], rows: pd.Series) -> pd.DataFrame:
    """Samples with a constant for each field in the rows that have no value of it."""
    for name, value in constants.items():
        known = obs[name].astype(object) if name in obs else pd.Series(None, index=obs.index, dtype=object)
        obs = obs.assign(**{name: known.mask(known.isna() & rows, value)})
    return obs


def _add_cell_contexts(obs: pd.DataFrame, dataset: Dataset, identity: Identity) -> pd.DataFrame:
    """Cell-context ids, model system and donor fields.

    What the source or the registry entry says holds before the identity snapshot, or the other way round for fields so declared.
    """
    names = obs["source_cell_context"].drop_duplicates()
    known = identity.cell_contexts.resolve(names.set_axis(names), dataset.id).reindex(obs["source_cell_context"]).set_axis(obs.index)
    obs = _add_constants(obs.assign(cell_type=known["cell_type"], cell_type_source=known["cell_type_source"]), dataset)
    reported, looked_up = (pd.Series(False, index=obs.index) for _ in range(2))
    for field in ("model_system", *DONOR_COLUMNS):
        own = _stated(obs[field]) if field in obs else pd.Series(None, index=obs.index, dtype=object)
        first_looked_up = known[field].notna() & (own.isna() | (field in dataset.identity_first))
        obs[field] = own.mask(first_looked_up, known[field])
        if field in DONOR_COLUMNS:
            reported, looked_up = reported | (own.notna() & ~first_looked_up), looked_up | first_looked_up
    own_words = pd.Series(dataset.id, index=obs.index, dtype=object).where(reported, None)
    known_words = known["donor_source"].where(looked_up, None)
    both = (own_words + "; " + known_words).where(reported & known_words.notna(), None)
    obs["donor_source"] = first_known(both, own_words, known_words)
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


def distinct_compounds(obs: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The distinct compounds of native samples, as ``CompoundIdentity.report`` takes them.

    Parameters
    ----------
    obs
        Native samples: ``NATIVE_OBS``, and cas and catalogue_id where the source gives them.

    Returns
    -------
    One row a distinct source_perturbagen_id and perturbagen, sorted; and for each sample the row of its compound.
    """
    key = ["source_perturbagen_id", "perturbagen"]
    optional = [column for column in OPTIONAL_COLUMNS if column in obs]
    given = obs[[*key, "inchikey", "smiles", *optional]].assign(pubchem_cid=positive_integers(obs["pubchem_cid"]))
    groups = given.groupby(key, dropna=False, sort=True)
    compounds = groups.first().reset_index()
    compounds[key] = compounds[key].astype(object).where(compounds[key].notna(), None)
    return compounds, groups.ngroup()


def _add_compounds(obs: pd.DataFrame, dataset: Dataset, identity: Identity) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Identity of the compounds, resolved once for each distinct compound; and, as ``compound_identity``, how it was found."""
    compounds, row = distinct_compounds(obs)
    report = identity.compounds.report(compounds, dataset.id)
    found = report[list(IDENTITY_COLUMNS)].reindex(row).set_axis(obs.index)
    account = report.assign(dataset=dataset.id, **compounds[["source_perturbagen_id", "perturbagen"]])
    account = pd.DataFrame({field.name: _as_type(account[field.name], field) for field in COMPOUND_IDENTITY})
    return obs.assign(**{str(name): found[name] for name in IDENTITY_COLUMNS}), account


def _add_nominal_doses(obs: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The nominal dose beside each dose: the reader's own, else one for near-identical doses of a compound under one vehicle."""
    named = obs["perturbagen"].where(obs["pubchem_cid"].isna(), None)
    vehicle = [obs[field] for field in dataset.strata if field in dataset.extra_fields]
    shared = shared_nominal_dose_uM(obs["pert_dose_uM"], [obs["pubchem_cid"], named, *vehicle])
    own = obs["nominal_dose_uM"].mask(obs["is_control"], 0.0) if "nominal_dose_uM" in obs else shared
    return obs.assign(nominal_dose_uM=first_known(own, shared))


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


def _merge_conditions(obs: pd.DataFrame, steps: Reconciliation) -> None:
    """Record how many conditions of the source are one: spelled in several ways, or with several names of a vehicle."""
    if "conditions" in steps.left:
        n_conditions = len(obs[["perturbagen", "cell_type", "pert_dose_uM", "pert_time_h"]].drop_duplicates())
        steps.drop("conditions", "spelled in several ways by the source", steps.left["conditions"] - n_conditions)


def _require_signal(totals: np.ndarray, sample_ids: pd.Index, n_genes: int, dataset: Dataset) -> None:
    """Refuse samples without signal."""
    if (totals <= 0).any():
        raise InputError(
            f"{int((totals <= 0).sum()):,} samples have a total of 0 or less over the {n_genes:,} genes.",
            dataset=dataset.id,
            rows=list(sample_ids[totals <= 0]),
            expected="a positive total",
        )


def _typed(obs: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The contract's fields and the dataset's own, in order and in their types: text as categories, null integers as ``Int64``."""
    fields = [field for field in dataset.obs_table if field.name != obs.index.name]
    return pd.DataFrame({field.name: _as_type(pd.Series(obs.get(field.name), index=obs.index), field) for field in fields})


def _as_type(values: pd.Series, field: Field) -> pd.Series:
    types: dict[str, Any] = {"string": "category", "int64": "Int64" if field.nullable else "int64"}
    typed: pd.Series = values.astype(types.get(field.type, field.type))
    return typed


# ---- values ------------------------------------------------------------------------------------------------------------------


def _join_genes(
    expressions: list[Expression], dataset: Dataset, identity: Identity, steps: Reconciliation
) -> tuple[list[np.ndarray], pd.DataFrame, pd.DataFrame]:
    """The current genes that every file has, for each file the row there of each of its genes, and the genes that are dropped.

    Returns
    -------
    For each file int64 positions in the genes, -1 where a gene is dropped; the genes as the contract's harmonized_var; and the dropped
    genes as ``dropped_genes``, with the number of their file and their column in it.
    """
    files, dropped = [], []
    for number, expression in enumerate(expressions):
        suffix = f" ({expression.file.name})" if len(expressions) > 1 else ""
        resolved = identity.genes.resolve(expression.genes.to_series(), expression.gene_kind)
        merged = merge_genes(expression.genes.astype(str), resolved, normalized=dataset.modality == "normalized")
        rules = [f"{rule}{suffix}" for rule in merged.reconciliation["rule"]]
        for rule, n_dropped in zip(rules, merged.reconciliation["n_dropped"], strict=True):
            steps.drop("genes", rule, int(n_dropped))
        unresolved = resolved["ensembl_id"].isna().to_numpy()
        for rows, rule in ((unresolved, rules[0]), (~unresolved & (merged.target < 0), rules[1])):
            reason = resolved["status"].to_numpy()[rows] if rule == rules[0] else "shared"
            dropped.append(_dropped(expression, number, resolved, np.flatnonzero(rows)).assign(rule=rule, reason=reason))
        files.append((merged, resolved))
    shared = reduce(pd.Index.intersection, [merged.var.index for merged, _ in files])
    if len(files) > 1:
        rule = f"{NOT_EVERYWHERE} ({len(files)})"
        steps.drop("genes", rule, sum(len(merged.var) - len(shared) for merged, _ in files))
        steps.drop("genes", f"the lists of {len(files)} files made one: an id that another has too", steps.left["genes"] - len(shared))
        for number, (expression, (merged, resolved)) in enumerate(zip(expressions, files, strict=True)):
            alone = np.append(~merged.var.index.isin(shared), False)[merged.target]
            lost = _dropped(expression, number, resolved, np.flatnonzero(alone))
            dropped.append(lost.assign(rule=rule, reason="not in every file"))
    if shared.empty:
        raise InputError(
            "no gene is left once source genes are brought to Ensembl ids.",
            dataset=dataset.id,
            advice="Check that gene ids are of the declared kind.",
        )
    parts = [merged.var.loc[shared] for merged, _ in files]
    var = parts[0][[name for name in HARMONIZED_VAR.names if name != shared.name]].copy()
    var["source_gene_id"] = [_distinct(ids) for ids in zip(*(part["source_gene_id"] for part in parts), strict=True)]
    var["is_merged"] = np.any([part["is_merged"] for part in parts], axis=0)
    # the last element stands for the target -1
    targets = [np.append(shared.get_indexer(merged.var.index), -1)[merged.target] for merged, _ in files]
    return targets, var, pd.concat(dropped, ignore_index=True).assign(dataset=dataset.id)


def _dropped(expression: Expression, number: int, resolved: pd.DataFrame, columns: np.ndarray) -> pd.DataFrame:
    """Some genes of a file as ``dropped_genes``, without rule and reason."""
    rows = resolved.iloc[columns]
    return pd.DataFrame(
        {
            "file": expression.file.name,
            "source_gene_id": expression.genes.astype(str).to_numpy()[columns],
            "ensembl_id": rows["ensembl_id"].to_numpy(),
            "found": rows["found"].to_numpy(),
            "n_file": number,
            "column": columns,
        }
    )


def _dropped_table(dropped: pd.DataFrame) -> pd.DataFrame:
    """Dropped genes in the fields and types of the contract, in the order of files and columns."""
    ordered = dropped.sort_values(["n_file", "column"], ignore_index=True)
    return pd.DataFrame({field.name: _as_type(pd.Series(ordered.get(field.name), index=ordered.index), field) for field in DROPPED_GENES})


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


def _counts(expressions: list[Expression], targets: list[np.ndarray], n_genes: int) -> tuple[SpilledRows, list[np.ndarray]]:
    """Samples in the order of the files × current genes, int64; and, for each file, the total of each of its genes."""
    rows, totals = SpilledRows(), [np.zeros(len(target), dtype=np.int64) for target in targets]
    for expression, target, total in zip(expressions, targets, totals, strict=True):
        for block in expression.blocks:
            total += np.asarray(block.sum(axis=0)).ravel()
            current = sum_genes(block, target, n_genes)
            current.sort_indices()
            rows.append(current)
    return rows, totals


def _on_disk(rows: SpilledRows, order: np.ndarray, obs: pd.DataFrame, var: pd.DataFrame, account: dict[str, pd.DataFrame]) -> ad.AnnData:
    """Harmonized samples whose counts lie in a file, which is gone when they are."""
    folder = Path(mkdtemp(prefix="perturbridge-", dir=spill_folder()))
    file = folder / "harmonized.h5ad"
    ad.AnnData(obs=obs, var=var).write_h5ad(file)
    with h5py.File(file, "r+") as opened:
        write_rows(opened, rows.blocks(order), (len(obs), len(var)), rows.n_values)
    samples = ad.read_h5ad(file, backed="r")
    weakref.finalize(samples, rmtree, folder, ignore_errors=True)
    # as they are, not as they come back from a file
    samples.obs, samples.var, samples.uns = obs, var, account
    return samples


def _distinct(names: tuple[str, ...]) -> str:
    """Names of one gene in several files, each once, in order."""
    return ";".join(Counter(names))
