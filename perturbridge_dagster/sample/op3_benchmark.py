"""The sample as the OP3 benchmark is published: differential expression on blood cells, training and test conditions apart.

Belongs here: the layout of its files, and how a latent effect becomes a P value. Does not belong here: the biology.

Files ``de_train.h5ad``, ``de_test.h5ad``
    No X. layers: ``logFC``, ``P.Value``, ``sign_log10_pval`` and ``clipped_sign_log10_pval``, conditions × genes, float64. obs (index:
    running number): ``cell_type`` (``NK cells``), ``sm_name``, ``sm_lincs_id``, ``SMILES``, ``split``, ``control``. var: index gene
    symbol. As in the original, compounds of the training file are in the test file too, on other cells.
File ``id_map.csv``
    ``id``, ``sm_name``, ``cell_type`` of each test condition.

It is no dataset of the compendium: what it says of a compound comes from the same truth, but nothing is harmonized from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from perturbridge_dagster.sample.biology import Biology, generator
from perturbridge_dagster.sample.op3 import CELLS, DOSE_UM, POSITIVE_CONTROLS, SPLITS, TIME_H
from perturbridge_dagster.sample.tables import VEHICLE, compounds, genes, perturbagens_of

BENCHMARK = "op3_benchmark"
N_GENES = 300
LARGEST_VALUE = 4.0
"""Bound of the layer that is evaluated: a P value of 0.0001."""

STANDARD_ERROR = 0.4
"""Of a log2 fold change."""

TRAIN_EVERY = 4
"""Of so many compounds one has B and myeloid cells in the training file; the test file has those of the others."""


def write(folder: Path, biology: Biology, seed: int) -> None:
    """Write the files of the benchmark.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    import anndata as ad

    chosen = np.flatnonzero(((genes()["kind"] == "landmark") & genes()["ensembl_id"].notna()).to_numpy())[:N_GENES]
    conditions = _conditions()
    effects = biology.log2_effects(conditions)[:, chosen]
    draw = generator(seed, BENCHMARK, "effects")
    estimates = effects + STANDARD_ERROR * draw.standard_normal(effects.shape)
    p_values = 2 * norm.sf(np.abs(estimates) / STANDARD_ERROR)
    signed = np.sign(estimates) * -np.log10(np.maximum(p_values, np.finfo(float).tiny))
    layers = {
        "logFC": estimates,
        "P.Value": p_values,
        "sign_log10_pval": signed,
        "clipped_sign_log10_pval": np.clip(signed, -LARGEST_VALUE, LARGEST_VALUE),
    }
    for name, is_part in (("de_train", conditions["split"] == "train"), ("de_test", conditions["split"] != "train")):
        rows = is_part.to_numpy()
        obs = conditions.loc[rows, ["cell_type_name", "sm_name", "sm_lincs_id", "SMILES", "split", "control"]]
        obs = obs.rename(columns={"cell_type_name": "cell_type"}).reset_index(drop=True)
        obs.index = obs.index.astype(str)
        written = ad.AnnData(
            obs=obs.astype({column: "category" for column in obs if column != "control"}),
            var=pd.DataFrame(index=genes()["symbol"].iloc[chosen].astype(str).to_numpy()),
            layers={layer: values[rows] for layer, values in layers.items()},
        )
        written.write_h5ad(folder / f"{name}.h5ad", compression="gzip", compression_opts=1)
        if name == "de_test":
            obs[["sm_name", "cell_type"]].reset_index(drop=True).rename_axis("id").to_csv(folder / "id_map.csv")


def _conditions() -> pd.DataFrame:
    """One row a compound and kind of cells: what is written of it, and what the biology asks for."""
    known = compounds().reset_index()
    known = known[(known["agent"] != VEHICLE) & known["smiles"].notna()].reset_index(drop=True)
    names = perturbagens_of("op3").drop_duplicates("compound").set_index("compound")
    known["sm_name"] = names["source_name"].reindex(known["compound"]).to_numpy()
    known["sm_name"] = known["sm_name"].where(known["sm_name"].notna(), known["compound"])
    known["sm_lincs_id"] = names["source_id"].reindex(known["compound"]).to_numpy()
    # ids of our own making, in the form of the source
    known["sm_lincs_id"] = known["sm_lincs_id"].where(known["sm_lincs_id"].notna(), [f"LSM-9{row:04d}" for row in range(len(known))])
    known["SMILES"] = known["smiles"]
    known["control"] = known["compound"].isin([name.lower() for name, *_ in POSITIVE_CONTROLS])
    known["in_train"] = known["control"] | (known.index % TRAIN_EVERY == 0)
    cells = pd.DataFrame([(name, id_) for name, (id_, _) in CELLS.items()], columns=["cell_type_name", "cell_type"])
    conditions = known.merge(cells, how="cross")
    # a compound kills most cells of one kind
    conditions = conditions[~((conditions["compound"] == "bortezomib") & (conditions["cell_type_name"] == "NK cells"))]
    of_cells = conditions["cell_type_name"].map(SPLITS).fillna("train")
    conditions["split"] = of_cells.where(~conditions["in_train"], "train")
    return conditions.assign(dose_uM=DOSE_UM, time_h=TIME_H).reset_index(drop=True)
