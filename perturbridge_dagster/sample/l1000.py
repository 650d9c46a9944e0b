"""The sample as LINCS L1000 Phase I is published: one GCTX matrix of log2 intensities and GEO's text tables.

Belongs here: the layout of the L1000 plates, their files and defects. Does not belong here: the biology or the assay's noise.

Files (text tables: gzip, tab-separated, UTF-8, missing values -666)
-----
``GSE92742_Broad_LINCS_Level3_INF_mlr12k_n{samples}x{genes}.gctx``
    HDF5: root attribute ``version``; ``0/DATA/0/matrix`` float32, samples × genes; ``0/META/COL/id`` inst ids; ``0/META/ROW/id`` Entrez
    ids as strings.
``GSE92742_Broad_LINCS_inst_info.txt.gz``
    ``inst_id rna_plate rna_well pert_id pert_iname pert_type pert_dose pert_dose_unit pert_time pert_time_unit cell_id``.
``GSE92742_Broad_LINCS_cell_info.txt.gz``
    ``CELL_COLUMNS``.
``GSE92742_Broad_LINCS_pert_info.txt.gz``
    ``pert_id pert_iname pert_type is_touchstone inchi_key_prefix inchi_key canonical_smiles pubchem_cid``.
``GSE70138_Broad_LINCS_pert_info.txt.gz``
    ``pert_id canonical_smiles inchi_key pert_iname pert_type``: JQ1 and I-BET-151 are described only here, OTX-015 nowhere.
``GSE92742_Broad_LINCS_gene_info.txt.gz``
    ``pr_gene_id pr_gene_symbol pr_gene_title pr_is_lm pr_is_bing``.

Defects, as in the original: perturbagens of other types, vehicles beside DMSO, a cell line without compounds, inst ids that differ in
case from the matrix, three spellings of dose units, doses of 9.99999 for 10, missing and non-numeric PubChem ids.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled, well_names
from perturbridge_dagster.sample.assays import gene_gains, inferred_intensities, intensities, plate_effects
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, genes, perturbagens_of

DATASET = "l1000_phase1"
SERIES = "GSE92742_Broad_LINCS"
MISSING = "-666"
CONTROLS_PER_PLATE = 6

UNITS = ("um", "µM", "nM", "um")
"""Unit in which replicate plate 1, 2, … gives its doses. The second plate also says 9.99999 where 10 was meant."""

Doses = dict[str, tuple[float, ...]]

ONLY_IN_THP1 = ("aspirin", "ibuprofen", "metformin")

MONOCYTE_DOSES: Doses = {
    # against the one dose of vcpi_0001: a tie in log space, just within one log10 unit, just beyond, and beyond on one side
    "ibuprofen": (1.0, 100.0),
    "aspirin": (0.11,),
    "metformin": (0.09,),
    "caffeine": (10.0, 100.0),
    **dict.fromkeys(
        (
            "vorinostat",
            "belinostat",
            "panobinostat",
            "entinostat",
            "bortezomib",
            "MG-132",
            "carfilzomib",
            "trametinib",
            "selumetinib",
            "PD-0325901",
            "JQ1",
            "dexamethasone",
            "budesonide",
            "camptothecin",
            "topotecan",
            "mitoxantrone",
            "doxorubicin",
            "KU-C104220",
        ),
        (10.0, 1.11, 0.12),
    ),
}
"""Doses in THP-1, µM."""

FEW_DOSES: Doses = dict.fromkeys(
    ("belinostat", "panobinostat", "bortezomib", "trametinib", "luminespib", "dexamethasone", "camptothecin"), (10.0, 1.11)
)
"""Doses in K-562, µM: too few compounds to compare with sciplex."""


class Screen(NamedTuple):
    """One cell context at one time, on replicate plates of one layout."""

    batch: str
    cell_id: str
    cell_type: str
    time_h: int
    n_plates: int
    doses: Doses | None


SCREENS = (
    *(Screen("LJP005", "A549", "CVCL_0023", time, 3, None) for time in (6, 24)),
    *(Screen("LJP005", "MCF7", "CVCL_0031", time, 3, None) for time in (6, 24)),
    *(Screen("LJP006", "PC3", "CVCL_0035", time, 3, None) for time in (6, 24)),
    *(Screen("CPC020", "THP1", "CVCL_0006", time, 4, MONOCYTE_DOSES) for time in (6, 24)),
    Screen("CPC021", "K562", "CVCL_0004", 24, 2, FEW_DOSES),
)

OTHER_WELLS = (
    # pert_id, pert_iname, pert_type, pert_dose, pert_dose_unit
    ("H2O", "H2O", "ctl_vehicle", MISSING, MISSING),
    ("UnTrt", "UnTrt", "ctl_untrt", MISSING, MISSING),
    ("BRD-K88510285", "bortezomib", "trt_poscon", "20.0", "um"),
)
"""Wells on every compound plate that are neither compounds nor DMSO."""

GENETIC_WELLS = (
    ("DMSO", "DMSO", "ctl_vehicle", MISSING, MISSING),
    ("CMAP-000", "EMPTY_VECTOR", "ctl_vector", MISSING, MISSING),
    ("TRCN0000003753", "TP53", "trt_sh", "1.5", "µL"),
    ("TRCN0000039640", "MYC", "trt_sh", "1.5", "µL"),
)
"""Wells of the plate of HEPG2, which has no compounds."""

CELL_COLUMNS = (
    "cell_id",
    "cell_type",
    "base_cell_id",
    "precursor_cell_id",
    "modification",
    "sample_type",
    "primary_site",
    "subtype",
    "original_growth_pattern",
    "provider_catalog_id",
    "original_source_vendor",
    "donor_age",
    "donor_sex",
    "donor_ethnicity",
)

CELLS = (
    # cell_id, primary_site, subtype, growth, catalogue number, age, sex, ethnicity
    ("A549", "lung", "non small cell lung cancer| carcinoma", "adherent", "CCL-185", "58", "M", "Caucasian"),
    ("MCF7", "breast", "adenocarcinoma", "adherent", "HTB-22", "69", "F", "Caucasian"),
    ("PC3", "prostate", "adenocarcinoma", "adherent", "CRL-1435", "62", "M", "Caucasian"),
    ("THP1", "haematopoietic and lymphoid tissue", "acute myelogenous leukemia (AML)", "suspension", "TIB-202", "1", "M", MISSING),
    ("K562", "haematopoietic and lymphoid tissue", "chronic myelogenous leukemia (CML)", "suspension", "CCL-243", "53", "F", MISSING),
    ("HEPG2", "liver", "hepatocellular carcinoma", "adherent", "HB-8065", "15", "M", "Caucasian"),
)


def write(folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of L1000 Phase I.

    Parameters
    ----------
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    wells = _wells(seed)
    reported = genes()[genes()["l1000_symbol"].notna()]
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), centre=0.9, spread=0.4)
    _write_matrix(folder, wells, reported, _values(seed, biology, gains, wells, reported))
    columns = ["inst_id", "rna_plate", "rna_well", "pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit", "pert_time"]
    _write_table(folder / f"{SERIES}_inst_info.txt.gz", wells[[*columns, "pert_time_unit", "cell_id"]])
    _write_table(folder / f"{SERIES}_cell_info.txt.gz", _cell_lines())
    phase1, phase2 = _perturbagens()
    _write_table(folder / f"{SERIES}_pert_info.txt.gz", phase1)
    _write_table(folder / "GSE70138_Broad_LINCS_pert_info.txt.gz", phase2)
    names = {
        "entrez_id": "pr_gene_id",
        "l1000_symbol": "pr_gene_symbol",
        "l1000_title": "pr_gene_title",
        "is_landmark": "pr_is_lm",
        "is_bing": "pr_is_bing",
    }
    _write_table(folder / f"{SERIES}_gene_info.txt.gz", reported.rename(columns=names)[list(names.values())].astype(str))
    return _account(biology, gains, wells, reported)


def _wells(seed: int) -> pd.DataFrame:
    """One row an instance: columns of inst_info, and what was meant by them."""
    names = perturbagens_of(DATASET)
    treated, vehicle = names[names["agent"] != VEHICLE], names[names["agent"] == VEHICLE]
    plates = []
    for screen in SCREENS:
        doses = screen.doses or _two_doses_each(treated)
        conditions = treated[treated["compound"].isin(doses)]
        conditions = conditions.assign(dose_uM=conditions["compound"].map(doses)).explode("dose_uM").astype({"dose_uM": float})
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_uM=0.0)
        compound_wells = pd.concat([conditions, controls]).rename(columns={"source_id": "pert_id", "source_name": "pert_iname"})
        compound_wells["pert_type"] = np.where(compound_wells["agent"] == VEHICLE, "ctl_vehicle", "trt_cp")
        for replicate in range(screen.n_plates):
            plate = _plate(seed, screen, replicate, compound_wells)
            plates.append(plate)
    genetic = _other_wells(GENETIC_WELLS * 5).assign(
        cell_id="HEPG2",
        cell_type=None,
        pert_time="96",
        time_h=96.0,
        rna_plate="KDA004_HEPG2_96H_X1",
        plate="KDA004_HEPG2_96H_X1_B5",
        rna_well=well_names(20, "ABCDEFGHIJKLMNOP", 24, padded=True),
    )
    wells = pd.concat([*plates, genetic], ignore_index=True)
    wells["pert_time_unit"] = "h"
    wells["inst_id"] = wells["plate"] + ":" + wells["rna_well"]
    return wells


def _two_doses_each(treated: pd.DataFrame) -> Doses:
    """Two doses of every compound, by turns 10 and 1.11 µM, and 3.33 and 0.37 µM."""
    # by agent, so that two names of one compound are compared at equal doses
    agents = sorted(set(treated["agent"]) - set(ONLY_IN_THP1))
    by_agent = {agent: (10.0, 1.11) if i % 2 else (3.33, 0.37) for i, agent in enumerate(agents)}
    return {compound: by_agent[agent] for compound, agent in zip(treated["compound"], treated["agent"], strict=True) if agent in by_agent}


def _plate(seed: int, screen: Screen, replicate: int, compound_wells: pd.DataFrame) -> pd.DataFrame:
    rna_plate = f"{screen.batch}_{screen.cell_id}_{screen.time_h}H_X{replicate + 1}"
    wells = shuffled(generator(seed, DATASET, "layout", rna_plate), pd.concat([compound_wells, _other_wells(OTHER_WELLS)]))
    dosed = (wells["pert_type"] == "trt_cp").to_numpy()
    written = wells["dose_uM"].where(~((wells["dose_uM"] == 10) & (replicate == 1)), 9.99999)
    unit = UNITS[replicate]
    factor = 1000 if unit == "nM" else 1
    wells.loc[dosed, "pert_dose"] = [f"{factor * dose:.10g}" for dose in written[dosed]]
    wells.loc[dosed, "pert_dose_unit"] = unit
    wells["source_dose_uM"] = written.where(dosed, 0.0)
    wells[["pert_dose", "pert_dose_unit"]] = wells[["pert_dose", "pert_dose_unit"]].fillna(MISSING)
    wells["cell_id"], wells["cell_type"] = screen.cell_id, screen.cell_type
    wells["pert_time"], wells["time_h"] = str(screen.time_h), float(screen.time_h)
    wells["rna_plate"], wells["plate"] = rna_plate, f"{rna_plate}_B{13 + replicate}"
    wells["rna_well"] = well_names(len(wells), "ABCDEFGHIJKLMNOP", 24, padded=True)
    return wells


def _other_wells(rows: tuple[tuple[str, ...], ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit"]).assign(dose_uM=0.0)


def _values(seed: int, biology: Biology, gains: Matrix, wells: pd.DataFrame, reported: pd.DataFrame) -> Matrix:
    """Instances × reported genes. Wells without an agent of ours, and all of HEPG2, show baseline expression."""
    state = wells[["agent", "cell_type", "dose_uM", "time_h"]].fillna({"agent": VEHICLE, "cell_type": "CVCL_0023"})
    plates = plate_effects(generator(seed, DATASET, "plates"), list(wells["plate"].unique()), len(biology.genes), 0.2)
    expected = biology.baseline.loc[state["cell_type"]].to_numpy() + gains * biology.log2_effects(state)
    expected += np.array([plates[plate] for plate in wells["plate"]])
    is_landmark = (reported["is_landmark"] == 1).to_numpy()
    values = np.empty((len(wells), len(reported)))
    landmarks = expected[:, biology.genes.get_indexer(reported.index[is_landmark])]
    values[:, is_landmark] = intensities(generator(seed, DATASET, "values"), landmarks)
    values[:, ~is_landmark] = inferred_intensities(generator(seed, DATASET, "inferred"), values[:, is_landmark], int((~is_landmark).sum()))
    return values


def _write_matrix(folder: Path, wells: pd.DataFrame, reported: pd.DataFrame, values: Matrix) -> None:
    import h5py

    # as in the original, a few ids of the matrix are spelt in lower case
    ids = [name.lower() if i % 700 == 0 else name for i, name in enumerate(wells["inst_id"])]
    with h5py.File(folder / f"{SERIES}_Level3_INF_mlr12k_n{len(wells)}x{len(reported)}.gctx", "w") as file:
        file.attrs["version"] = np.bytes_("GCTX1.0")
        file.create_dataset(
            "0/DATA/0/matrix",
            data=values.astype(np.float32),
            chunks=(min(len(wells), 128), len(reported)),
            compression="gzip",
            compression_opts=1,
        )
        file["0/META/COL/id"] = np.array(ids, dtype="S")
        file["0/META/ROW/id"] = np.array(reported["entrez_id"].astype(str), dtype="S")


def _write_table(path: Path, table: pd.DataFrame) -> None:
    # without a file name or time stamp in its header, a gzip file depends on its content alone
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as stream:
        stream.write(table.to_csv(sep="\t", index=False, na_rep=MISSING).encode())


def _cell_lines() -> pd.DataFrame:
    lines = pd.DataFrame(
        CELLS,
        columns=[
            "cell_id",
            "primary_site",
            "subtype",
            "original_growth_pattern",
            "provider_catalog_id",
            "donor_age",
            "donor_sex",
            "donor_ethnicity",
        ],
    )
    lines["base_cell_id"], lines["cell_type"], lines["sample_type"] = lines["cell_id"], "cell line", "tumor"
    return lines.assign(original_source_vendor="ATCC").reindex(columns=list(CELL_COLUMNS))


def _perturbagens() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Perturbagen tables of phase I and phase II."""
    names = perturbagens_of(DATASET).rename(
        columns={"source_id": "pert_id", "source_name": "pert_iname", "inchikey": "inchi_key", "smiles": "canonical_smiles"}
    )
    vehicle = names["agent"] == VEHICLE
    # LINCS says nothing of DMSO's structure
    names.loc[vehicle, ["inchi_key", "canonical_smiles"]] = None
    names["pert_type"] = np.where(vehicle, "ctl_vehicle", "trt_cp")
    names["is_touchstone"] = np.where(names["mechanism"].isin(["none", "vehicle"]), "0", "1")
    names["inchi_key_prefix"] = names["inchi_key"].str[:14]
    names["pubchem_cid"] = names["listed_cid"]
    others = pd.DataFrame(
        sorted(
            {row[:3] for row in (*OTHER_WELLS, *GENETIC_WELLS)}
            - set(names[["pert_id", "pert_iname", "pert_type"]].itertuples(index=False, name=None))
        ),
        columns=["pert_id", "pert_iname", "pert_type"],
    )
    others = others[~others["pert_id"].isin(names["pert_id"])].assign(is_touchstone="0")
    phase1 = pd.concat([names[names["listed_in"] == "phase1"], others]).sort_values("pert_id")
    columns = ["pert_id", "pert_iname", "pert_type", "is_touchstone", "inchi_key_prefix", "inchi_key", "canonical_smiles", "pubchem_cid"]
    phase2 = names[names["listed_in"] == "phase2"].sort_values("pert_id")
    return phase1[columns], phase2[["pert_id", "canonical_smiles", "inchi_key", "pert_iname", "pert_type"]]


def _account(biology: Biology, gains: Matrix, wells: pd.DataFrame, reported: pd.DataFrame) -> Account:
    measured = biology.genes.isin(reported.index[reported["is_landmark"] == 1])
    account = Account(DATASET, pd.DataFrame(), pd.Series(np.where(measured, gains, np.nan), index=biology.genes))
    account.start("samples", len(wells))
    kept = account.keep("samples", "pert_type other than trt_cp and ctl_vehicle", wells, wells["pert_type"].isin(["trt_cp", "ctl_vehicle"]))
    kept = account.keep("samples", "vehicle other than DMSO", kept, (kept["pert_type"] == "trt_cp") | (kept["pert_iname"] == "DMSO"))
    kept = account.keep("samples", "cell line without compounds or without controls", kept, kept["cell_id"] != "HEPG2")
    kept = kept.rename(columns={"rna_well": "well", "cell_id": "source_cell_context", "pert_id": "source_id", "pert_iname": "source_name"})
    account.samples = kept.assign(is_control=kept["agent"] == VEHICLE, n_cells=None)[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", len(reported))
    account.drop("genes", "not a landmark gene", int((reported["is_landmark"] != 1).sum()))
    return account
