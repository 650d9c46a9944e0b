"""Effects in memory, shaped like the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.contract import CONTRASTS


@dataclass
class EffectsInMemory:
    """Effects of a stratum whose dense layers lie in memory; remembers the largest block it was asked for."""

    contrasts: pd.DataFrame
    genes: pd.DataFrame
    layers: dict[str, NDArray[np.float32]]
    largest_block: int = field(default=0)

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        rows = np.arange(len(self.contrasts)) if contrasts is None else contrasts
        columns = np.arange(len(self.genes)) if genes is None else genes
        self.largest_block = max(self.largest_block, len(rows) * len(columns))
        return {name: self.layers[name][np.ix_(rows, columns)] for name in layers}


def make_effects(
    conditions: Sequence[tuple[int | None, str, float, float]],
    log_fc: NDArray[np.float64],
    *,
    stratum: str = "A549",
    genes: Sequence[int] | None = None,
    adj_p: NDArray[np.float64] | float = 0.5,
    t: NDArray[np.float64] | None = None,
    sample_id: Sequence[str] | None = None,
    plate: Sequence[str] | str = "plate1",
    estimable: Sequence[bool] | bool = True,
) -> EffectsInMemory:
    """Effects of contrasts given as (pubchem_cid, cell_type, time, dose), with logFC of shape (contrasts, genes)."""
    log_fc = np.asarray(log_fc, dtype=np.float32)
    cid, cell_type, time, dose = zip(*conditions, strict=True) if conditions else ((), (), (), ())
    n = len(conditions)
    contrasts = pd.DataFrame(
        {
            "contrast": np.arange(n, dtype=np.int32),
            "dataset": "dataset",
            "stratum": stratum,
            "cell_type": cell_type,
            "perturbagen": [f"compound {c}" for c in cid],
            "pubchem_cid": pd.array(cid, dtype="Int64"),
            "parent_key": None,
            "pert_dose_uM": np.array(dose, dtype=float),
            "pert_time_h": np.array(time, dtype=float),
            "control": "DMSO",
            "sample_id": None if sample_id is None else list(sample_id),
            "plate": None if sample_id is None else plate,
            "well": None,
            "n_treated": 1,
            "n_controls": 4,
            "n_plates": 1,
            "estimable": estimable,
            "n_significant": 0,
            "mean_abs_t": 1.0,
        }
    )
    assert set(contrasts) <= set(CONTRASTS.names)
    contrasts = contrasts.reindex(columns=CONTRASTS.names)
    numbers = np.arange(log_fc.shape[1]) if genes is None else np.asarray(genes)
    with np.errstate(divide="ignore"):
        log10_adj_p = np.broadcast_to(np.log10(adj_p), log_fc.shape).astype(np.float32)
    return EffectsInMemory(
        contrasts,
        pd.DataFrame(
            {
                "gene": np.arange(len(numbers), dtype=np.int32),
                "ensembl_id": [f"ENSG{number:011d}" for number in numbers],
                "symbol": [f"G{number}" for number in numbers],
            }
        ),
        {
            "logFC": log_fc,
            "t": log_fc * np.float32(2) if t is None else np.asarray(t, dtype=np.float32),
            "log10_adj_p_within": log10_adj_p,
        },
    )


def random_compendium(
    generator: np.random.Generator,
    *,
    n_compounds: int = 8,
    doses: Sequence[float] = (1.0, 10.0),
    n_genes: int = 40,
    replicates: int = 1,
    n_plates: int = 1,
    truth: NDArray[np.float64] | None = None,
    **options: object,
) -> EffectsInMemory:
    """A stratum with every compound at every dose, noise with standard deviation one around `truth` (compounds, genes)."""
    conditions = [(100 + c, "A549", 24.0, dose) for c in range(n_compounds) for dose in doses for _ in range(replicates)]
    signal = np.zeros((n_compounds, n_genes)) if truth is None else truth
    log_fc = np.repeat(signal, len(doses) * replicates, axis=0) + generator.normal(size=(len(conditions), n_genes))
    if replicates > 1:
        options = {
            "sample_id": [f"sample{i:04d}" for i in range(len(conditions))],
            "plate": [f"plate{i % n_plates}" for i in range(len(conditions))],
        } | options
    return make_effects(conditions, log_fc, adj_p=generator.uniform(size=log_fc.shape) * 0.2, **options)
