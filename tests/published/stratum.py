"""A simulated stratum of the release's kind, and storing our effects of it."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from perturbridge_dagster.effects import EffectTable, StoredEffects, open_effects, write_effects
from perturbridge_dagster.written import Stamp

MEMBERS = (("alpha", "beta-1", "gamma"), ("delta", "epsilon", "zeta", "alpha"))
"""Perturbagens of two batches; alpha pads the second."""

COMPOUNDS = ("alpha", "beta-1", "gamma", "delta", "epsilon", "zeta")
DOSES = (0.5, 5.0)
STAMP = Stamp("condition_effects", "2", "0" * 64, ("sciplex",), "open")


def simulate(*, seed: int = 3, n_genes: int = 150, doses: tuple[float, ...] = DOSES) -> ad.AnnData:
    """Counts of six compounds on three plates, two compounds a plate and their replicates on the next, with strong plate effects."""
    rng = np.random.default_rng(seed)
    rows = [("DMSO", 0.0, plate) for plate in "ABC" for _ in range(4)]
    for number, compound in enumerate(COMPOUNDS):
        plates = "ABC"[number // 2], "ABC"[(number // 2 + 1) % 3]
        rows += [(compound, dose, plate) for dose in doses for plate in plates for _ in range(2)]
    obs = pd.DataFrame(rows, columns=["perturbagen", "pert_dose_uM", "plate"])
    obs.index = pd.Index([f"s{i:03d}" for i in range(len(obs))], name="sample_id")
    cids = {name: number + 101 for number, name in enumerate(COMPOUNDS[:-1])} | {"DMSO": 679}
    obs = obs.assign(
        is_control=obs["perturbagen"] == "DMSO",
        pert_time_h=24.0,
        well=[f"A{i}" for i in range(len(obs))],
        pubchem_cid=obs["perturbagen"].map(cids).astype("Int64"),
        cell_type="CVCL_0023",
        dataset="sciplex",
        psbulk_cells=np.arange(20, 20 + len(obs)),
    )
    mean = rng.normal(4.5, 2.2, n_genes) + rng.normal(0, 0.6, (3, n_genes))[pd.factorize(obs["plate"])[0]]
    effect = rng.normal(0, 1.2, (len(COMPOUNDS) + 1, n_genes)) * (rng.random(n_genes) < 0.4)
    mean = mean + effect[pd.factorize(obs["perturbagen"])[0]] * np.log1p(obs["pert_dose_uM"].to_numpy())[:, np.newaxis]
    expected = rng.uniform(0.5, 2, (len(obs), 1)) * 2**mean
    counts = rng.negative_binomial(6, 6 / (6 + expected)).astype(np.float64)
    var = pd.DataFrame({"symbol": [f"GENE{i}" for i in range(n_genes)]}, index=[f"ENSG{i:011d}" for i in range(n_genes)])
    samples = ad.AnnData(counts, obs=obs, var=var)
    samples.uns["stratum"] = "CVCL_0023"
    return samples


def stored(table: EffectTable, folder: Path) -> StoredEffects:
    write_effects(table, folder, STAMP)
    return open_effects(folder)
