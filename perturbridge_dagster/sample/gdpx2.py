"""The sample as Ginkgo's GDPx2 is published: counts as h5ad, curated tables of samples and genes as Parquet, compounds as CSV.

Belongs here: the layout of the DRUG-seq plates, their files and defects. Does not belong here: the biology or the assay's noise.

Files
-----
``X.h5ad``
    X: samples × genes, CSR, counts as float32; obs index ``sequenced_id``, var index gene name, nothing else.
``obs.parquet``
    Index: ``sequenced_id``. ``container_id`` (with hyphens), ``row_id``, ``column_id`` (from 1), ``compound`` (UUID), ``sample_type``
    (``library``, ``Ginkgo Neg Control - DMSO``, ``Ginkgo Pos Control …``), ``pert_name``, ``pert_type``, ``pert_compound``, ``pert_dose``
    (``9.5nM``, ``3.0uM``, of DMSO ``0.0625%``), ``pert_time`` (``24.0h``), ``percent_volume_dmso``, ``cell_type``, ``organism``,
    ``tissue_type``, ``assay``, ``suspension_type``.
``var.parquet``
    Index: gene name. ``ensembl_gene_id`` (missing for a third of the genes, of some with a version), ``symbol``.
``compounds-GDPx2-2026-02-09.csv``
    ``compound, pert_name, inchi_key, smiles``.

Defects, as in the original: genes without Ensembl id, two names of one gene, a gene without any name, spike-ins, tables in another order
than the matrix, metadata of a sample without counts, an empty library, positive controls, doses in two units and the vehicle's in %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled
from perturbridge_dagster.sample.assays import fractions, gene_gains, plate_effects, umi_counts
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, genes, perturbagens_of

DATASET = "gdpx2"
TIME_H = 24.0
MEDIAN_DEPTH = 60_000.0
CONTROLS_PER_LEVEL = 4
POSITIVE_CONTROL, POSITIVE_CONTROL_UM = "staurosporine", 1.0

LEVELS: dict[float, tuple[float, float]] = {0.0625: (0.0095, 0.03), 0.1875: (0.095, 0.3), 0.625: (0.95, 3.0)}
"""Doses in µM that go with each vehicle level, in % of the volume."""

PLATES = {
    "GDPX2-AOSMC-P01": ("aortic smooth muscle cell", "CL_0002539"),
    "GDPX2-AOSMC-P02": ("aortic smooth muscle cell", "CL_0002539"),
    "GDPX2-HDF-P01": ("fibroblast of dermis", "CL_0002551"),
    "GDPX2-HDF-P02": ("fibroblast of dermis", "CL_0002551"),
}
"""Cells of each plate, which holds every compound at every vehicle level."""

SPIKE_INS = tuple(f"ERCC-{number:05d}" for number in (2, 3, 4, 9, 12, 13))
NAMELESS = "nan"
"""How a missing gene name reads once an index was written as text."""


def write(folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of GDPx2.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    import anndata as ad

    wells = _wells(seed)
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), spread=0.35)
    features = _features(seed)
    sequenced = wells[~wells["lost"]]
    counts = _counts(seed, biology, gains, sequenced, features)
    published = ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=list(sequenced["sequenced_id"])),
        var=pd.DataFrame(index=list(features["name"])),
    )
    published.write_h5ad(folder / "X.h5ad", compression="gzip", compression_opts=1)
    draw = generator(seed, DATASET, "tables")
    obs = _metadata(wells)
    obs.iloc[draw.permutation(len(obs))].to_parquet(folder / "obs.parquet")
    var = features.set_index("name")[["ensembl_gene_id", "symbol"]]
    var.iloc[draw.permutation(len(var))].to_parquet(folder / "var.parquet")
    chemistry = perturbagens_of(DATASET)[["source_id", "source_name", "inchikey", "smiles"]]
    chemistry = chemistry.set_axis(["compound", "pert_name", "inchi_key", "smiles"], axis=1)
    chemistry.to_csv(folder / "compounds-GDPx2-2026-02-09.csv", index=False)
    return _account(biology, gains, wells, features)


def _wells(seed: int) -> pd.DataFrame:
    """One row a well."""
    names = perturbagens_of(DATASET)
    library = names[(names["agent"] != VEHICLE) & (names["compound"] != POSITIVE_CONTROL)]
    vehicle, positive = names[names["agent"] == VEHICLE], names[names["compound"] == POSITIVE_CONTROL]
    parts = []
    for level, doses in LEVELS.items():
        parts += [library.assign(dose_uM=dose, level=level, sample_type="library") for dose in doses]
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_LEVEL)]
        parts.append(controls.assign(dose_uM=0.0, level=level, sample_type="Ginkgo Neg Control - DMSO"))
        parts.append(positive.assign(dose_uM=POSITIVE_CONTROL_UM, level=level, sample_type="Ginkgo Pos Control - Staurosporine"))
    conditions = pd.concat(parts)
    plates = []
    for plate, (name, cell_type) in PLATES.items():
        draw = generator(seed, DATASET, "layout", plate)
        wells = shuffled(draw, conditions)
        position = np.sort(draw.choice(16 * 24, len(wells), replace=False))
        plates.append(wells.assign(plate=plate, cells=name, cell_type=cell_type, row_id=position // 24 + 1, column_id=position % 24 + 1))
    table = pd.concat(plates, ignore_index=True)
    table["sequenced_id"] = [str(204_500_011 + 3 * i) for i in range(len(table))]
    table["is_control"], table["time_h"] = table["agent"] == VEHICLE, TIME_H
    treated = table.index[table["sample_type"] == "library"]
    # the library of one treated well failed, that of another was never sequenced
    table["empty"], table["lost"] = table.index == treated[4], table.index == treated[50]
    return table


def _features(seed: int) -> pd.DataFrame:
    """Genes of the matrix.

    Columns: ``name``, ``ensembl_gene_id``, ``symbol``, ``gene`` (position in the biology, -1 for none), ``share`` of the gene's counts.
    """
    table = genes().assign(gene=np.arange(len(genes())), share=1.0)
    table = table[table["ensembl_id"].notna()]
    features = pd.DataFrame(
        {"name": table["symbol"], "ensembl_gene_id": table["ensembl_id"], "symbol": table["symbol"], "gene": table["gene"], "share": 1.0}
    ).reset_index(drop=True)
    features["name"] = features["name"].fillna(features["ensembl_gene_id"])
    draw = generator(seed, DATASET, "genes")
    # a symbol that leads to one current gene stands in for the id; mitochondrial genes keep theirs
    replaceable = np.flatnonzero(table["kind"].isin(["landmark", "inferred"]) & table["symbol"].notna())
    chosen = draw.permutation(replaceable)
    features.loc[chosen[: len(features) // 3], "ensembl_gene_id"] = None
    versioned = chosen[len(features) // 3 :][:200]
    features.loc[versioned, "ensembl_gene_id"] += ".12"
    # two more rows with the id of a gene that is there already, each with half of its counts
    twice = features.loc[versioned[:2]].assign(share=0.5)
    features.loc[versioned[:2], "share"] = 0.5
    twice["name"] = twice["symbol"] + "-1"
    nameless = pd.DataFrame([{"name": NAMELESS, "ensembl_gene_id": None, "symbol": None, "gene": -1, "share": 0.0}])
    spike_ins = pd.DataFrame({"name": SPIKE_INS, "ensembl_gene_id": None, "symbol": None, "gene": -1, "share": 0.0})
    return pd.concat([features, twice, nameless, spike_ins], ignore_index=True)


def _counts(seed: int, biology: Biology, gains: Matrix, wells: pd.DataFrame, features: pd.DataFrame) -> np.ndarray:
    """Sequenced wells × features, int32."""
    n_genes = len(biology.genes)
    plates = plate_effects(generator(seed, DATASET, "plates"), list(PLATES), n_genes, 0.15)
    # vehicle moves genes by itself, which is why a level has controls of its own
    vehicle = generator(seed, DATASET, "vehicle").normal(0, 0.3, n_genes)
    expected = biology.baseline.loc[wells["cell_type"]].to_numpy() + gains * biology.log2_effects(wells)
    expected += np.array([plates[plate] for plate in wells["plate"]]) + wells["level"].to_numpy()[:, None] * vehicle
    draw = generator(seed, DATASET, "counts")
    depth = np.clip(MEDIAN_DEPTH * draw.lognormal(0, 0.3, len(wells)), 20_000, 200_000)
    depth[wells["empty"].to_numpy()] = 0.0
    is_gene = (features["gene"] >= 0).to_numpy()
    shares = fractions(expected)[:, features.loc[is_gene, "gene"]] * features.loc[is_gene, "share"].to_numpy()
    counts = np.zeros((len(wells), len(features)), np.int32)
    counts[:, is_gene] = umi_counts(draw, shares, depth, shape=25.0)
    # spike-ins are found in the failed library too
    counts[:, ~is_gene] = draw.poisson(20.0, (len(wells), int((~is_gene).sum())))
    counts[np.ix_(wells["empty"].to_numpy(), (features["name"] == NAMELESS).to_numpy())] = 0
    return counts


def _metadata(wells: pd.DataFrame) -> pd.DataFrame:
    dose = [f"{1000 * dose:.10g}nM" if dose < 1 and i % 2 else f"{dose}uM" for i, dose in enumerate(wells["dose_uM"])]
    return pd.DataFrame(
        {
            "container_id": wells["plate"].to_numpy(),
            "row_id": wells["row_id"].to_numpy(),
            "column_id": wells["column_id"].to_numpy(float),
            "compound": wells["source_id"].to_numpy(),
            "sample_type": wells["sample_type"].to_numpy(),
            "pert_name": wells["source_name"].to_numpy(),
            "pert_type": "compound",
            "pert_compound": wells["source_name"].str.lower().to_numpy(),
            "pert_dose": np.where(wells["is_control"], wells["level"].astype(str) + "%", dose),
            "pert_time": f"{TIME_H}h",
            "percent_volume_dmso": wells["level"].to_numpy(),
            "cell_type": wells["cells"].to_numpy(),
            "organism": "human",
            "tissue_type": "cell culture",
            "assay": "DRUG-seq",
            "suspension_type": "cell",
        },
        index=pd.Index(wells["sequenced_id"], name="sequenced_id"),
    )


def _account(biology: Biology, gains: Matrix, wells: pd.DataFrame, features: pd.DataFrame) -> Account:
    measured = np.isin(np.arange(len(biology.genes)), features["gene"])
    account = Account(DATASET, pd.DataFrame(), pd.Series(np.where(measured, gains, np.nan), index=biology.genes))
    account.start("samples", len(wells))
    kept = account.keep("samples", "no row of counts", wells, ~wells["lost"])
    kept = account.keep("samples", "no counts", kept, ~kept["empty"])
    kept = account.keep("samples", "positive controls", kept, kept["compound"] != POSITIVE_CONTROL)
    well = "row" + kept["row_id"].astype(str) + "_col" + kept["column_id"].astype(str)
    kept = kept.assign(
        plate=kept["plate"].str.replace("-", "_"),
        well=well,
        source_cell_context=kept["cells"],
        source_dose_uM=kept["dose_uM"],
        n_cells=None,
    )
    account.samples = kept[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", len(features))
    account.drop("genes", "spike-ins", len(SPIKE_INS))
    account.drop("genes", "a gene without any name", 1)
    account.drop("genes", "several names of one gene", 2)
    return account
