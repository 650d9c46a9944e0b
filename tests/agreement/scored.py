"""Tables of scores made by hand or at random, in the form of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import AGREEMENT_SCORES, BASELINES, METRIC_NAMES, REPLICATE_BASELINES, REPLICATE_SCORES, Table

UNITS = ("pubchem_cid", "cell_type", "pert_time_h")


def completed(rows: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Rows with all columns of a table: zeros for counts, nulls or an arbitrary name for the rest."""
    empty = {"string": "name", "int32": 0, "int64": 0, "float64": np.nan}
    return rows.reindex(columns=table.names).fillna({field.name: empty[field.type] for field in table if field.type != "float64"})


def with_baselines(rows: pd.DataFrame, baselines: Sequence[str] = BASELINES) -> pd.DataFrame:
    """Add the difference from each baseline that is given, and what is not given as nulls."""
    rows = rows.copy()
    for name in baselines:
        rows[name] = rows.get(name, np.nan)
        rows[f"{name}_delta"] = rows["score"] - rows[name]
    return rows


def random_scores(
    generator: np.random.Generator,
    *,
    pair: tuple[str, str] = ("sciplex", "tahoe"),
    n_compounds: int = 12,
    contexts: Sequence[str] = ("CVCL_0023", "CVCL_0031"),
    doses: Sequence[float] = (1.0, 10.0),
    metrics: Sequence[str] = METRIC_NAMES,
    gene_universe: str = "pairwise",
    missing: float = 0.2,
    level: float = 0.3,
) -> pd.DataFrame:
    """Table AGREEMENT_SCORES of every compound at every dose in every context, with a share of scores and baselines missing."""
    keys = list(product(range(100, 100 + n_compounds), contexts, doses))
    conditions = pd.DataFrame(keys, columns=["pubchem_cid", "cell_type", "left_pert_dose_uM"]).assign(
        right_pert_dose_uM=lambda rows: 2 * rows["left_pert_dose_uM"],
        pert_time_h=24.0,
        log10_dose_gap=np.log10(2),
        left_row=np.arange(len(keys)),
        right_row=np.arange(len(keys)),
        left_contrast=np.arange(len(keys)),
        right_contrast=np.arange(len(keys)),
        left_dataset=pair[0],
        right_dataset=pair[1],
        left_stratum=lambda rows: rows["cell_type"],
        right_stratum=lambda rows: rows["cell_type"],
    )
    rows = conditions.merge(pd.DataFrame({"metric": metrics}), how="cross").assign(gene_universe=gene_universe, n_genes=500)
    return _drawn(generator, rows, BASELINES, missing, level)[AGREEMENT_SCORES.names]


def random_replicate_scores(
    generator: np.random.Generator,
    *,
    dataset: str = "sciplex",
    n_compounds: int = 8,
    n_replicates: int = 3,
    contexts: Sequence[str] = ("CVCL_0023", "CVCL_0031"),
    metrics: Sequence[str] = METRIC_NAMES,
    missing: float = 0.2,
    level: float = 0.3,
) -> pd.DataFrame:
    """Table REPLICATE_SCORES of every compound at one dose in every context."""
    keys = list(product(range(100, 100 + n_compounds), contexts, range(n_replicates)))
    pairs = pd.DataFrame(keys, columns=["pubchem_cid", "cell_type", "replicate"])
    pairs = pairs.assign(
        dataset=dataset,
        stratum=pairs["cell_type"],
        right_stratum=pairs["cell_type"],
        pert_dose_uM=1.0,
        pert_time_h=24.0,
        left_contrast=np.arange(len(pairs)),
        right_contrast=np.arange(len(pairs)) + 1000,
    )
    rows = pairs.merge(pd.DataFrame({"metric": metrics}), how="cross").assign(gene_universe="pairwise", n_genes=500)
    return _drawn(generator, rows, REPLICATE_BASELINES, missing, level)[REPLICATE_SCORES.names]


def _drawn(generator: np.random.Generator, rows: pd.DataFrame, baselines: Sequence[str], missing: float, level: float) -> pd.DataFrame:
    """Scores around `level` and baselines around 0.1, some missing."""

    def values(around: float) -> np.ndarray:
        drawn = np.clip(generator.normal(around, 0.15, len(rows)), 0, 1)
        return np.where(generator.random(len(rows)) < missing, np.nan, drawn)

    rows = rows.assign(score=values(level), **{name: values(0.1) for name in baselines})
    rows = with_baselines(rows, baselines)
    for name, side in product(baselines, ("left", "right")):
        rows[f"{side}_{name}"] = rows[name]
        if name.endswith("peers"):
            rows[f"{side}_{name}_sd"] = 0.1
            rows[f"{side}_{name}_n"] = 20
            rows[f"{side}_{name}_percentile"] = generator.integers(1, 22, len(rows)) / 21
            rows[f"{side}_{name}_p"] = generator.integers(1, 22, len(rows)) / 21
    return rows
