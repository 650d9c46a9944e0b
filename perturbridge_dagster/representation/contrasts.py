"""The contrasts of a corpus: which enter it, which of them are one condition, and the mean of those.

Belongs here: from stored effects to values of conditions, in bounded memory. Does not belong here: which datasets enter a corpus
(``corpora.py``) or its files (``corpus.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.encoding import CONDITION_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.written import Stamp

BLOCK_VALUES = 4_000_000
"""Values of conditions × genes that are averaged at a time."""

GENES_AT_A_TIME = 500
"""Genes among which a value is looked for at a time: those of a tile of stored effects."""

SIGNIFICANT = np.float32(np.log10(0.05))
"""log10 of the adjusted P value within the contrast below which a value counts as significant."""

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


def usable_contrasts(strata: Sequence[StoredEffects]) -> tuple[pd.DataFrame, dict[str, int]]:
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


def with_values(strata: Sequence[StoredEffects], contrasts: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Leave out conditions without any value, and number the others anew.

    Genes are read a tile at a time, and the next tile only of contrasts without a value so far: where most contrasts have one early, this
    reads one tile of genes of logFC; at worst all of it.

    Parameters
    ----------
    strata
        Stored effects.
    contrasts
        As :func:`usable_contrasts` gives them.

    Returns
    -------
    contrasts
        Those of conditions with a value in any of their contrasts.
    left_out
        Number of `conditions` without, and of missing `values` (contrasts × genes) of theirs.
    """
    found = np.zeros(len(contrasts), dtype=bool)
    row, position = contrasts["row"].to_numpy(), contrasts["stratum_position"].to_numpy()
    n_genes = np.array([len(stored.genes) for stored in strata])
    for number in np.unique(position):
        for first in range(0, n_genes[number], GENES_AT_A_TIME):
            genes = np.arange(first, min(first + GENES_AT_A_TIME, n_genes[number]))
            wanted = np.flatnonzero((position == number) & ~found)
            wanted = wanted[np.argsort(row[wanted])]
            size = max(1, BLOCK_VALUES // len(genes))
            for start in range(0, len(wanted), size):
                some = wanted[start : start + size]
                values = strata[number].dense(["logFC"], contrasts=row[some], genes=genes)["logFC"]
                found[some] = ~np.isnan(values).all(axis=1)
    kept = pd.Series(found).groupby(contrasts["condition"].to_numpy()).transform("any").to_numpy()
    dropped = contrasts[~kept]
    left_out = {"conditions": int(dropped["condition"].nunique()), "values": int(n_genes[dropped["stratum_position"]].sum())}
    contrasts = contrasts[kept].reset_index(drop=True)
    return contrasts.assign(condition=np.unique(contrasts["condition"], return_inverse=True)[1]), left_out


def conditions_of(contrasts: pd.DataFrame) -> pd.DataFrame:
    """One row a condition, in the order of the column `condition` of the contrasts."""
    grouped = contrasts.sort_values(["perturbagen", "parent_key"]).groupby("condition", sort=True)
    frame = grouped[[*CONDITION_KEY, "perturbagen", "parent_key"]].first()
    return frame.assign(n_contrasts=grouped.size()).reset_index(drop=True)


def mean_blocks(
    strata: Sequence[StoredEffects], contrasts: pd.DataFrame, gene_codes: list[NDArray[np.int64]], genes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], int]]:
    """Mean logFC of the conditions of one dataset × context over `genes`, and what of it is significant, block by block.

    Conditions come in the order of their first contrast on disk, so each tile of a stratum is read about once.

    Yields
    ------
    tuple
        (conditions,) codes, (conditions × genes) means with NaN where there is no value, (conditions × genes) whether a mean is
        significant, and the number of missing contrast × gene values.
    """
    contrasts = contrasts.sort_values(["stratum_position", "row"])
    order = contrasts["condition"].drop_duplicates().to_numpy()
    size = max(1, BLOCK_VALUES // max(1, len(genes)))
    for start in range(0, len(order), size):
        codes = order[start : start + size]
        row_of_condition = pd.Index(codes)
        total = np.zeros((len(codes), len(genes)))
        count = np.zeros((len(codes), len(genes)), dtype=np.int32)
        n_significant = np.zeros_like(count)
        missing = 0
        in_block = contrasts[contrasts["condition"].isin(codes)]
        for position in in_block["stratum_position"].unique():
            wanted = in_block[in_block["stratum_position"] == position]
            layers = strata[position].dense(["logFC", "log10_adj_p_within"], contrasts=wanted["row"].to_numpy())
            values = layers["logFC"]
            if np.isinf(values).any():
                rows = wanted["perturbagen"][np.asarray(np.isinf(values).any(axis=1))]
                raise InputError(
                    "logFC is infinite", dataset=str(wanted["dataset"].iloc[0]), rows=list(rows), advice="Rematerialize its effects."
                )
            present = ~np.isnan(values)
            missing += int((~present).sum())
            significant = present & (layers["log10_adj_p_within"] < SIGNIFICANT)
            values = np.where(present, values, 0)
            rows, columns = row_of_condition.get_indexer(wanted["condition"]), np.searchsorted(genes, gene_codes[position])
            # a condition may have several contrasts in one stratum: those that are the first of theirs together, then the second …
            repetition = wanted.groupby("condition").cumcount().to_numpy()
            for number in range(repetition.max() + 1):
                added = repetition == number
                cells = np.ix_(rows[added], columns)
                total[cells] += values[added]
                count[cells] += present[added]
                n_significant[cells] += significant[added]
        mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        yield codes, mean, (count > 0) & (n_significant == count), missing
