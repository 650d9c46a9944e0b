"""DILImap: counts of primary human hepatocytes as h5ad, training and validation, and a table of structures.

Belongs here: what the tables say, the three quality rules of DILImap, its doses. Does not belong here: the contract
(``assemble.py``), identifiers (``identity/``).

The rules are judged on all samples of the files together, before any is dropped. They follow their description; no code of the
``dilimap`` package, which is for academic use only, is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.doses import parse_dose_uM, parse_time_h
from perturbridge_dagster.registry import Dataset
from perturbridge_dagster.sources.native import (
    Expression,
    NativeSamples,
    Reconciliation,
    only,
    read_text_table,
    require_columns,
    require_controls,
    text,
)
from perturbridge_dagster.sources.spilled import SpilledRows
from perturbridge_dagster.sources.stored import as_counts, matrix_shape, member, open_hdf5, row_blocks

Array = npt.NDArray[np.float64]

CELL_CONTEXT = "primary human hepatocytes"
REPLACED = "DMSO_replaced"
"""Compound of control wells that were replaced by others."""

SAMPLE_COLUMNS = (
    "COMPOUND",
    "CMPD_DOSE",
    "CONCENTRATION_UM",
    "TIMEPOINT_HOURS",
    "PLATE_NAME",
    "WELL_ID",
    "LIBRARY_ID",
    "SPECIES",
    "BATCH_ID",
    "SPLIT",
    "LDH_QC",
)
NAME_COLUMNS = ("compound_name", "compound", "name", "compound_id")
SMILES_COLUMNS = ("smiles", "canonical_smiles")

FEWEST_DEVIATIONS = 2.5
"""A log10 total this many standard deviations below the median fails."""

MOST_MITOCHONDRIAL = 9.0
"""Per cent of counts."""

LEAST_CORRELATION = 0.99
REPLICATE_DEVIATIONS = 3.0
MOST_PAIRED_REPLICATES = 4
"""Groups with more members are judged by the mean of their upper half of correlations instead of by their best."""

SAME_DOSE = 0.015
"""Doses that differ by at most this in log10, 3.5 %, are one."""

LOG_VALUES_BELOW = 50.0
"""Values with fractions whose largest is less are logarithms, not expected counts."""


@dataclass
class _File:
    """One h5ad file: samples with their metadata and statistics, counts, genes."""

    file: Path
    samples: pd.DataFrame
    counts: SpilledRows
    genes: pd.Index


def read(dataset: Dataset, files: dict[str, list[Path]]) -> NativeSamples:
    """Read DILImap.

    Parameters
    ----------
    dataset
        Its registry entry.
    files
        Files of the roles ``training_counts``, ``compounds`` and, where declared, ``validation_counts``.

    Raises
    ------
    InputError
        If a file is unreadable, a column is missing, or values are not counts.
    """
    steps = Reconciliation(("COMPOUND", "CONCENTRATION_UM", "TIMEPOINT_HOURS"))
    structures = read_structures(only(files, "compounds", dataset.id), dataset.id)
    roles = [role for role in ("training_counts", "validation_counts") if role in files]
    opened = [_file(only(files, role, dataset.id), role, dataset.id) for role in roles]
    samples = pd.concat([one.samples for one in opened])
    steps.start("samples", len(samples))
    kept = filter_samples(samples, steps)
    is_control = kept["COMPOUND"].isin(dataset.control.labels)
    require_controls(is_control, kept["COMPOUND"].unique(), dataset)
    steps.start("genes", sum(len(one.genes) for one in opened))
    expressions = [
        Expression(one.file, _checked(one, kept.index, dataset.id), one.genes, "ensembl")
        for one in opened
        if one.samples.index.isin(kept.index).any()
    ]
    return NativeSamples(_obs(kept, is_control, structures, dataset), expressions, steps)


def _checked(one: _File, kept: pd.Index, dataset: str) -> Iterator[sparse.csr_matrix]:
    """Counts of the kept samples of a file; expected counts are rounded to whole ones."""
    selected = one.samples.index.isin(kept)
    names = one.samples.index[selected]
    start = 0
    for block in one.counts.selected(selected):
        yield _whole(block, names[start : start + block.shape[0]], one.genes, dataset, one.file)
        start += block.shape[0]


def _whole(block: sparse.csr_matrix, names: pd.Index, genes: pd.Index, dataset: str, file: Path) -> sparse.csr_matrix:
    """A block as counts, fractions rounded."""
    whole = sparse.csr_matrix((np.rint(block.data), block.indices, block.indptr), block.shape)
    whole.eliminate_zeros()
    return as_counts(whole, names, genes, dataset, file)


# ---- files -------------------------------------------------------------------------------------------------------------------


def _file(file: Path, role: str, dataset: str) -> _File:
    """Samples, counts and genes of one file; samples get ``total``, ``mitochondrial`` (per cent) and ``agrees``."""
    with open_hdf5(file, dataset) as opened:
        obs, var = (ad.io.read_elem(member(opened, axis, dataset)) for axis in ("obs", "var"))
        stored = member(opened, "X", dataset)
        if matrix_shape(stored) != (len(obs), len(var)):
            raise InputError(
                f"X has shape {matrix_shape(stored)}.",
                dataset=dataset,
                file=file,
                expected=f"{len(obs):,} samples × {len(var):,} genes",
            )
        require_columns(obs, SAMPLE_COLUMNS, dataset, file)
        require_columns(var, ["gene_id"], dataset, file)
        # the source's row names repeat
        names = pd.Index([f"{role}:{number}:{name}" for number, name in enumerate(obs.index)])
        genes = pd.Index(var["gene_id"].astype(str))
        is_mitochondrial = np.flatnonzero(var.index.astype(str).str.startswith("MT-"))
        counts, mitochondrial, largest, has_fractions = SpilledRows(), [], 0.0, False
        for start, block in row_blocks(stored):
            # the quality rules see all values, so all must be counts
            _whole(block, names[start : start + block.shape[0]], genes, dataset, file)
            counts.append(block)
            mitochondrial.append(np.asarray(block[:, is_mitochondrial].sum(axis=1)).ravel())
            largest = max(largest, float(block.data.max(initial=0)))
            has_fractions = has_fractions or bool((block.data % 1 != 0).any())
    _require_counts_or_expected(largest, has_fractions, dataset, file)
    samples = obs[list(SAMPLE_COLUMNS)].astype(object).apply(text).set_axis(names, axis=0)
    if samples["PLATE_NAME"].isna().any():
        raise InputError(
            "samples have no plate.", dataset=dataset, file=file, rows=list(names[samples["PLATE_NAME"].isna()]), column="PLATE_NAME"
        )
    if not len(is_mitochondrial):
        raise InputError(
            "no gene is mitochondrial, so the quality rule cannot be applied.",
            dataset=dataset,
            file=file,
            expected="symbols as names of the genes, such as MT-CO1",
        )
    samples["total"] = counts.totals()
    with np.errstate(invalid="ignore", divide="ignore"):
        samples["mitochondrial"] = 100 * np.concatenate(mitochondrial) / samples["total"]
    agrees = np.zeros(len(names), bool)
    for of_plate in samples.groupby("PLATE_NAME", sort=False).indices.values():
        group = samples["CMPD_DOSE"].iloc[of_plate].fillna("")
        agrees[of_plate] = replicates_agree(correlations(counts.read(of_plate)), group.to_numpy(str))
    return _File(file, samples.assign(agrees=agrees), counts, genes)


def _require_counts_or_expected(largest: float, has_fractions: bool, dataset: str, file: Path) -> None:
    """Refuse logarithms: counts of this assay may have fractions, being expected counts of ambiguous reads, but are large."""
    if largest < LOG_VALUES_BELOW and has_fractions:
        raise InputError(
            f"values have fractions, and the largest is {largest:g}.",
            dataset=dataset,
            file=file,
            expected="counts, or expected counts",
            advice="Use the raw counts, not normalized or log-transformed values.",
        )


def read_structures(file: Path, dataset: str) -> pd.Series:
    """SMILES by name of the compound."""
    table = read_text_table(file, dataset, separator=",", columns=(), optional=(*NAME_COLUMNS, *SMILES_COLUMNS))
    found = [[name for name in names if table[name].notna().any()] for names in (NAME_COLUMNS, SMILES_COLUMNS)]
    if not all(found):
        raise InputError(
            "names or SMILES are missing.",
            dataset=dataset,
            file=file,
            expected=f"a column {' or '.join(NAME_COLUMNS)}, and a column {' or '.join(SMILES_COLUMNS)}",
        )
    known = pd.DataFrame({"name": table[found[0][0]], "smiles": table[found[1][0]]}).dropna().drop_duplicates()
    # a name with two structures is no answer
    return known[~known["name"].duplicated(keep=False)].set_index("name")["smiles"]


# ---- quality -----------------------------------------------------------------------------------------------------------------


def filter_samples(samples: pd.DataFrame, steps: Reconciliation) -> pd.DataFrame:
    """Samples that pass the three rules of DILImap.

    Parameters
    ----------
    samples
        ``SAMPLE_COLUMNS``, ``total``, ``mitochondrial`` and ``agrees`` of all files. The rules are judged on all of them.
    steps
        Gets what each rule drops of those that the rules before it left.
    """
    replaced = samples["COMPOUND"] == REPLACED
    enough = (samples["mitochondrial"] < MOST_MITOCHONDRIAL) & enough_counts(samples["total"].to_numpy(float))
    kept = steps.keep("samples", "excluded: control well that was replaced", samples, ~replaced)
    kept = steps.keep("samples", "LDH_QC says why not", kept, kept["LDH_QC"].isna())
    kept = steps.keep("samples", "low total or many mitochondrial counts", kept, enough.loc[kept.index])
    return steps.keep("samples", "unlike its replicates", kept, samples.loc[kept.index, "agrees"])


def enough_counts(totals: Array) -> npt.NDArray[np.bool_]:
    """Whether the log10 of each total exceeds the median less 2.5 sample standard deviations.

    A total of 0 fails, and takes no part in the deviation.
    """
    positive = totals > 0
    log10 = np.log10(np.where(positive, totals, 1.0))
    deviation = log10[positive].std(ddof=1) if positive.sum() > 1 else 0.0
    return np.asarray(positive & (log10 > np.median(log10[positive]) - FEWEST_DEVIATIONS * deviation))


def correlations(counts: sparse.csr_matrix) -> Array:
    """Pearson correlations of the profiles of a plate over all genes, samples × samples; NaN with a sample without variance."""
    values = counts.astype(np.float64)
    n_genes = values.shape[1]
    mean = np.asarray(values.mean(axis=1)).ravel()
    covariance = (values @ values.T).toarray() / n_genes - np.outer(mean, mean)
    deviation = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(covariance / np.outer(deviation, deviation))


def replicates_agree(correlation: Array, group: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Whether each sample of a plate is like the other samples of its compound and dose.

    A sample's score is its highest correlation with another of its group; in groups of more than four, the mean of its floor(n / 2)
    highest. It passes above the greater of 0.99 and the median of the group's scores less 3 s, where s is the population standard
    deviation of the highest correlations of the plate: of the first members of each group, as many as the smallest group has. A
    sample alone in its group has no score, and fails.

    Parameters
    ----------
    correlation
        Samples × samples of one plate.
    group
        Compound and dose of each.
    """
    members = [np.flatnonzero(group == name) for name in dict.fromkeys(group)]
    highest, score = np.full(len(group), np.nan), np.full(len(group), np.nan)
    for rows in members:
        if len(rows) == 1:
            continue
        within = correlation[np.ix_(rows, rows)].copy()
        np.fill_diagonal(within, -np.inf)
        ordered = -np.sort(-np.nan_to_num(within, nan=-np.inf), axis=1)
        highest[rows] = ordered[:, 0]
        score[rows] = ordered[:, : len(rows) // 2].mean(axis=1) if len(rows) > MOST_PAIRED_REPLICATES else ordered[:, 0]
    smallest = min(map(len, members), default=0)
    first = np.concatenate([highest[rows[:smallest]] for rows in members]) if members else np.array([])
    first = first[np.isfinite(first)]
    deviation = first.std() if len(first) else 0.0
    passes = np.zeros(len(group), bool)
    for rows in members:
        known = score[rows][np.isfinite(score[rows])]
        if len(known):
            passes[rows] = score[rows] > max(np.median(known) - REPLICATE_DEVIATIONS * deviation, LEAST_CORRELATION)
    return passes


# ---- samples -----------------------------------------------------------------------------------------------------------------


def shared_doses(doses: Array, is_training: npt.NDArray[np.bool_]) -> Array:
    """Doses with near-identical ones made one.

    Distinct doses are taken one by one, those of training first, then the frequent before the rare, then the low before the high. Each
    joins the nearest of the doses that began a cluster, if within 0.015 in log10, else it begins one. A cluster is then known by its
    member with the fewest decimals, of training where it has such, and of several by the one nearest to its beginning.

    Parameters
    ----------
    doses
        Doses in µM of treated samples, above 0.
    is_training
        Whether each is of a training sample.
    """
    count = Counter(doses.tolist())
    of_training = set(doses[is_training].tolist())
    order = sorted(count, key=lambda dose: (dose not in of_training, -count[dose], dose))
    clusters: dict[float, list[float]] = {}
    for dose in order:
        gap, nearest = min(((abs(np.log10(dose / anchor)), anchor) for anchor in clusters), default=(np.inf, dose))
        # the last digits of a logarithm decide nothing
        clusters.setdefault(nearest if gap <= SAME_DOSE + 1e-12 else dose, []).append(dose)
    known_by: dict[float, float] = {}
    for anchor, cluster in clusters.items():
        preferred = [dose for dose in cluster if dose in of_training] or cluster
        chosen = min(preferred, key=lambda dose, anchor=anchor: (_decimals(dose), abs(np.log10(dose / anchor)), dose))  # type: ignore[misc]
        known_by |= dict.fromkeys(cluster, chosen)
    return np.array([known_by[dose] for dose in doses.tolist()], dtype=np.float64)


def _decimals(dose: float) -> int:
    """Decimals of a number of six significant digits."""
    return len(f"{dose:g}".partition(".")[2])


def _obs(samples: pd.DataFrame, is_control: pd.Series, structures: pd.Series, dataset: Dataset) -> pd.DataFrame:
    """Samples in the words of the contract."""
    split = samples["SPLIT"].str.lower()
    dose = parse_dose_uM(samples["CONCENTRATION_UM"], pd.Series("uM", index=samples.index))
    dosed = ~is_control & (dose > 0)
    dose[dosed] = shared_doses(dose[dosed].to_numpy(), (split[dosed] == "training").to_numpy())
    return pd.DataFrame(
        {
            "plate": samples["PLATE_NAME"],
            "well": samples["WELL_ID"],
            "source_cell_context": CELL_CONTEXT,
            "perturbagen": samples["COMPOUND"].mask(is_control, dataset.control.perturbagen),
            "source_perturbagen_id": None,
            "is_control": is_control,
            "pert_dose_uM": dose,
            "pert_time_h": parse_time_h(samples["TIMEPOINT_HOURS"], pd.Series("h", index=samples.index)),
            "inchikey": None,
            "smiles": samples["COMPOUND"].map(structures),
            "pubchem_cid": None,
            "library": samples["LIBRARY_ID"],
            "organism": samples["SPECIES"].str.lower(),
            "split": split,
            "batch": samples["BATCH_ID"],
        }
    )
