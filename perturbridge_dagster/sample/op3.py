"""The sample as Open Problems perturbation prediction (OP3) is published: pseudobulk of blood cells of three donors as one h5ad file.

Belongs here: the layout of its plates, the file and its defects. Does not belong here: the biology or the assay's noise.

File ``pseudobulk_filtered_with_uns.h5ad``
    X: samples × genes, CSR, counts as float32. obs (index: running number): ``plate_name`` (``NeurIPS2023 - 012``), ``well``,
    ``cell_type`` (``NK cells``), ``sm_name``, ``sm_lincs_id``, ``SMILES``, ``dose_uM``, ``timepoint_hr``, ``control``, ``split``,
    ``donor_id`` (``Donor 1``), ``library_id``, ``cell_count_by_well_celltype``. var: index gene symbol. uns: ``single_cell_obs``.

Defects, as in the original: positive controls flagged as controls, a dose of the vehicle, two names of a compound in one field, symbols in
capitals, symbols of former days, two that nobody knows, samples of few cells.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled, well_names
from perturbridge_dagster.sample.assays import fractions, gene_gains, plate_effects, umi_counts
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, genes, perturbagens_of

DATASET = "op3"
TIME_H, DOSE_UM, VEHICLE_DOSE_UM = 24.0, 1.0, 14.1
CONTROLS_PER_PLATE = 4
COUNTS_PER_CELL = 700.0

PLATES = {"NeurIPS2023 - 012": "Donor 1", "NeurIPS2023 - 014": "Donor 2", "NeurIPS2023 - 016": "Donor 3"}
"""Donor of each plate; every plate holds all compounds."""

CELLS = {
    "T cells": ("CL_0000084", 150.0),
    "B cells": ("CL_0000236", 45.0),
    "NK cells": ("CL_0000623", 40.0),
    "Myeloid cells": ("CL_0000763", 55.0),
}
"""Id of each kind of cells, and how many a well has of it."""

POSITIVE_CONTROLS = (
    # sm_name, sm_lincs_id, SMILES
    ("Belinostat", "LSM-43181", "O=C(/C=C/c1cccc(S(=O)(=O)Nc2ccccc2)c1)NO"),
    ("Dabrafenib", "LSM-6303", "CC(C)(C)c1nc(-c2cccc(NS(=O)(=O)c3c(F)cccc3F)c2F)c(-c2ccnc(N)n2)s1"),
)

UNKNOWN_SYMBOLS = ("AC900001.1", "AL900002.3")
"""Clones of a release that no table has."""

SPLITS = {"B cells": "private_test", "Myeloid cells": "public_test"}
"""Split of the treated samples of a kind of cells, where it is not train."""


def write(folder: Path, biology: Biology, seed: int) -> Account:
    """Write the file of OP3.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    import anndata as ad

    samples = _samples(seed)
    measured = _measured()
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), spread=0.35)
    counts = _counts(seed, biology, gains, samples, measured)
    obs = pd.DataFrame(
        {
            "plate_name": samples["plate"],
            "well": samples["well"],
            "cell_type": samples["source_cell_context"],
            "sm_name": samples["source_name"],
            "sm_lincs_id": samples["source_id"],
            "SMILES": samples["smiles"],
            "dose_uM": np.where(samples["agent"] == VEHICLE, VEHICLE_DOSE_UM, samples["dose_uM"]),
            "timepoint_hr": TIME_H,
            "control": samples["flagged"],
            "split": np.where(samples["flagged"], "control", samples["source_cell_context"].map(SPLITS).fillna("train")),
            "donor_id": samples["plate"].map(PLATES),
            "library_id": samples["plate"] + " lib" + samples["source_cell_context"].str[0],
            "cell_count_by_well_celltype": samples["n_cells"],
        }
    )
    obs.index = obs.index.astype(str)
    text = obs.select_dtypes(object).columns
    published = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs.astype(dict.fromkeys(text, "category")))
    published.var_names = [*_names(measured), *UNKNOWN_SYMBOLS]
    published.uns["single_cell_obs"] = obs[["plate_name", "well"]].sample(50, random_state=0)
    published.write_h5ad(folder / "pseudobulk_filtered_with_uns.h5ad", compression="gzip", compression_opts=1)
    return _account(biology, np.where(measured, gains, np.nan), samples, int(measured.sum()) + len(UNKNOWN_SYMBOLS))


def _samples(seed: int) -> pd.DataFrame:
    """One row a kind of cells in a well."""
    names = perturbagens_of(DATASET)
    treated, vehicle = names[names["agent"] != VEHICLE], names[names["agent"] == VEHICLE]
    positive = pd.DataFrame(POSITIVE_CONTROLS, columns=["source_name", "source_id", "smiles"])
    wells = []
    for plate in PLATES:
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_uM=0.0, flagged=True)
        layout = pd.concat(
            [
                treated.assign(dose_uM=DOSE_UM, flagged=False),
                controls,
                positive.assign(agent=VEHICLE, dose_uM=0.1, flagged=True, is_positive=True),
            ]
        )
        layout = shuffled(generator(seed, DATASET, "layout", plate), layout)
        wells.append(layout.assign(plate=plate, well=well_names(len(layout), "ABCDEFGH", 12, padded=False)))
    table = pd.concat(wells, ignore_index=True)
    kinds = pd.DataFrame([(kind, *of_kind) for kind, of_kind in CELLS.items()], columns=["source_cell_context", "cell_type", "usual_cells"])
    samples = table.merge(kinds, how="cross")
    draw = generator(seed, DATASET, "sizes")
    samples["n_cells"] = np.maximum(1, np.round(samples["usual_cells"] * draw.lognormal(0, 0.3, len(samples)))).astype(int)
    # a compound kills most cells of one kind
    samples.loc[(samples["compound"] == "bortezomib") & (samples["source_cell_context"] == "NK cells"), "n_cells"] = 4
    samples["is_positive"] = samples["is_positive"].eq(True)
    samples["is_control"] = samples["flagged"] & ~samples["is_positive"]
    return samples.assign(time_h=TIME_H)


def _measured() -> npt.NDArray[np.bool_]:
    """Genes of the file: the competition kept what is well expressed."""
    return (genes()["ensembl_id"].notna() & ~genes()["kind"].isin(["low", "merged"])).to_numpy()


def _names(measured: npt.NDArray[np.bool_]) -> list[str]:
    """Symbols as the file has them: some of former days, those of open reading frames in capitals."""
    table = genes()[measured]
    known = table["l1000_symbol"].notna() & ~table["l1000_symbol"].isin(table["symbol"])
    return list(table["symbol"].where(~known, table["l1000_symbol"]).str.upper())


def _counts(seed: int, biology: Biology, gains: Matrix, samples: pd.DataFrame, measured: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Samples × genes of the file. Positive controls show baseline expression."""
    plates = plate_effects(generator(seed, DATASET, "plates"), list(PLATES), len(biology.genes), 0.2)
    state = samples.assign(dose_uM=samples["dose_uM"].mask(samples["is_positive"], 0.0))
    expected = biology.baseline.loc[samples["cell_type"]].to_numpy() + gains * biology.log2_effects(state)
    expected += np.array([plates[plate] for plate in samples["plate"]])
    draw = generator(seed, DATASET, "counts")
    depth = COUNTS_PER_CELL * samples["n_cells"].to_numpy() * draw.lognormal(0, 0.15, len(samples))
    counts = umi_counts(draw, fractions(expected[:, measured]), depth, shape=20.0)
    return np.hstack([counts, draw.poisson(3.0, (len(samples), len(UNKNOWN_SYMBOLS))).astype(np.int32)])


def _account(biology: Biology, gains: Matrix, samples: pd.DataFrame, n_genes: int) -> Account:
    account = Account(DATASET, pd.DataFrame(), pd.Series(gains, index=biology.genes))
    account.start("samples", len(samples))
    kept = account.keep("samples", "positive controls", samples, ~samples["is_positive"])
    kept = kept.assign(source_dose_uM=kept["dose_uM"], plate=kept["plate"].str.replace(" ", "").str.replace("-", "_"))
    account.samples = kept[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", n_genes)
    account.drop("genes", "symbols that no table has, and a former one of two genes", len(UNKNOWN_SYMBOLS) + 1)
    return account
