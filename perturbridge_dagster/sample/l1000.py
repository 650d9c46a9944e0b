"""The sample as LINCS L1000 is published, Phase I and Phase II: one GCTX matrix of log2 intensities and GEO's text tables each.

Belongs here: the layout of the L1000 plates, their files and defects. Does not belong here: the biology or the assay's noise.

Files of Phase I (text tables: gzip, tab-separated, UTF-8, missing values -666)
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

Files of Phase II
-----
The same for series GSE70138, with dates in their names and both perturbagen tables. ``inst_info`` has ``det_plate det_well`` in place of
the RNA's, plates are named ``LPROT003_A549_24H_X1.A2_B22``. Beside them the tables of the LINCS portal, which alone describe carfilzomib:
``SampleTable_…``: ``sm_center_batch_id sm_center_canonical_id sm_lincs_id``; ``CompoundTable_LINCS_StandardizedCmpds_LSMIDs.txt``:
``sm_lincs_id sm_name sm_smiles_parent sm_inchi_key_parent``; ``CompoundTable_ExternalAnnotations_LSMIDs.txt``: ``sm_lincs_id sm_pubchem_cid
sm_chembl_id sm_chebi_id``.

Defects, as in the original: perturbagens of other types, vehicles beside DMSO, a cell line without compounds, inst ids that differ in
case from the matrix, three spellings of dose units, doses of 9.99999 for 10, missing and non-numeric PubChem ids; in Phase II a cell
context without accession, a perturbagen that is two compounds at the portal, and compounds, lines, doses and times of Phase I.
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

DATASET, PHASE2 = "l1000_phase1", "l1000_phase2"
SERIES, SERIES_OF_PHASE2 = "GSE92742_Broad_LINCS", "GSE70138_Broad_LINCS"
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

HALF: Doses = dict.fromkeys(("vorinostat", "panobinostat", "bortezomib", "trametinib", "JQ1", "luminespib", "dexamethasone"), (10.0,))
"""Doses of Phase II in neural progenitors, and at 3 h, µM."""

SCREENS_OF_PHASE2 = (
    *(Screen("LPROT003", cell, of, 24, 2, None) for cell, of in (("A549", "CVCL_0023"), ("MCF7", "CVCL_0031"), ("MDAMB231", "CVCL_0062"))),
    Screen("LPROT003", "A549", "CVCL_0023", 3, 2, HALF),
    Screen("LPROT001", "NPC", "NPC", 24, 2, HALF),
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


CELLS_OF_PHASE2 = (
    *CELLS[:2],
    ("MDAMB231", "breast", "adenocarcinoma", "adherent", "HTB-26", "51", "F", "Caucasian"),
    ("NPC", "central nervous system", "normal", "adherent", MISSING, MISSING, MISSING, MISSING),
)


class Phase(NamedTuple):
    """One phase: its series at GEO, what its files' names end with, and what was screened."""

    series: str
    matrix_suffix: str
    suffixes: dict[str, str]
    screens: tuple[Screen, ...]
    cells: tuple[tuple[str, ...], ...]


PHASES = {
    DATASET: Phase(SERIES, "", {}, SCREENS, CELLS),
    PHASE2: Phase(
        SERIES_OF_PHASE2,
        "_2017-03-06",
        {"inst_info": "_2017-03-06", "cell_info": "_2017-04-28", "gene_info": "_2017-03-06"},
        SCREENS_OF_PHASE2,
        CELLS_OF_PHASE2,
    ),
}


def write(dataset: str, folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of a phase.

    Parameters
    ----------
    dataset
        One of ``PHASES``.
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    phase = PHASES[dataset]
    wells = _wells(seed, dataset)
    reported = genes()[genes()["l1000_symbol"].notna()]
    gains = gene_gains(generator(seed, DATASET, "gains"), len(biology.genes), centre=0.9, spread=0.4)
    _write_matrix(folder, phase, wells, reported, _values(seed, dataset, biology, gains, wells, reported))
    names = {
        "entrez_id": "pr_gene_id",
        "l1000_symbol": "pr_gene_symbol",
        "l1000_title": "pr_gene_title",
        "is_landmark": "pr_is_lm",
        "is_bing": "pr_is_bing",
    }
    tables = {
        "inst_info": _instances(dataset, wells),
        "cell_info": _cell_lines(phase.cells),
        "gene_info": reported.rename(columns=names)[list(names.values())].astype(str),
    }
    for name, table in tables.items():
        _write_table(folder / f"{phase.series}_{name}{phase.suffixes.get(name, '')}.txt.gz", table)
    for series, table in zip((SERIES, SERIES_OF_PHASE2), _perturbagens(dataset), strict=True):
        _write_table(folder / f"{series}_pert_info.txt.gz", table)
    if dataset == PHASE2:
        for name, table in _portal().items():
            table.to_csv(folder / f"{name}_LSMIDs.txt", sep="\t", index=False)
    return _account(dataset, biology, gains, wells, reported)


def _wells(seed: int, dataset: str) -> pd.DataFrame:
    """One row an instance: columns of inst_info, and what was meant by them."""
    names = perturbagens_of(dataset)
    treated, vehicle = names[names["agent"] != VEHICLE], names[names["agent"] == VEHICLE]
    plates = []
    for screen in PHASES[dataset].screens:
        doses = screen.doses or _two_doses_each(treated)
        conditions = treated[treated["compound"].isin(doses)]
        conditions = conditions.assign(dose_uM=conditions["compound"].map(doses)).explode("dose_uM").astype({"dose_uM": float})
        controls = vehicle.loc[vehicle.index.repeat(CONTROLS_PER_PLATE)].assign(dose_uM=0.0)
        compound_wells = pd.concat([conditions, controls]).rename(columns={"source_id": "pert_id", "source_name": "pert_iname"})
        compound_wells["pert_type"] = np.where(compound_wells["agent"] == VEHICLE, "ctl_vehicle", "trt_cp")
        plates += [_plate(seed, dataset, screen, replicate, compound_wells) for replicate in range(screen.n_plates)]
    if dataset == DATASET:
        plates.append(_genetic_plate())
    wells = pd.concat(plates, ignore_index=True)
    wells["pert_time_unit"] = "h"
    wells["inst_id"] = wells["plate"] + ":" + wells["rna_well"]
    return wells


def _genetic_plate() -> pd.DataFrame:
    return _other_wells(GENETIC_WELLS * 5).assign(
        cell_id="HEPG2",
        cell_type=None,
        pert_time="96",
        time_h=96.0,
        rna_plate="KDA004_HEPG2_96H_X1",
        plate="KDA004_HEPG2_96H_X1_B5",
        rna_well=well_names(20, "ABCDEFGHIJKLMNOP", 24, padded=True),
    )


def _instances(dataset: str, wells: pd.DataFrame) -> pd.DataFrame:
    """The table inst_info."""
    perturbagen = ["pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit", "pert_time"]
    if dataset == DATASET:
        return wells[["inst_id", "rna_plate", "rna_well", *perturbagen, "pert_time_unit", "cell_id"]]
    detected = wells.rename(columns={"plate": "det_plate", "rna_well": "det_well"})
    return detected[["inst_id", "cell_id", "det_plate", "det_well", "pert_time_unit", *perturbagen]]


def _two_doses_each(treated: pd.DataFrame) -> Doses:
    """Two doses of every compound, by turns 10 and 1.11 µM, and 3.33 and 0.37 µM."""
    # by agent, so that two names of one compound are compared at equal doses, and so is Phase II with Phase I
    of_phase1 = perturbagens_of(DATASET)["agent"]
    agents = sorted(set(of_phase1[of_phase1 != VEHICLE]) - set(ONLY_IN_THP1))
    by_agent = {agent: (10.0, 1.11) if i % 2 else (3.33, 0.37) for i, agent in enumerate(agents)}
    return {compound: by_agent[agent] for compound, agent in zip(treated["compound"], treated["agent"], strict=True) if agent in by_agent}


def _plate(seed: int, dataset: str, screen: Screen, replicate: int, compound_wells: pd.DataFrame) -> pd.DataFrame:
    rna_plate = f"{screen.batch}_{screen.cell_id}_{screen.time_h}H_X{replicate + 1}"
    wells = shuffled(generator(seed, dataset, "layout", rna_plate), pd.concat([compound_wells, _other_wells(OTHER_WELLS)]))
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
    beads = f"_B{13 + replicate}" if dataset == DATASET else f".A2_B{22 + replicate}"
    wells["rna_plate"], wells["plate"] = rna_plate, f"{rna_plate}{beads}"
    wells["rna_well"] = well_names(len(wells), "ABCDEFGHIJKLMNOP", 24, padded=True)
    return wells


def _other_wells(rows: tuple[tuple[str, ...], ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit"]).assign(dose_uM=0.0)


def _values(seed: int, dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, reported: pd.DataFrame) -> Matrix:
    """Instances × reported genes. Wells without an agent of ours, and all of HEPG2, show baseline expression."""
    state = wells[["agent", "cell_type", "dose_uM", "time_h"]].fillna({"agent": VEHICLE, "cell_type": "CVCL_0023"})
    plates = plate_effects(generator(seed, dataset, "plates"), list(wells["plate"].unique()), len(biology.genes), 0.2)
    expected = biology.baseline.loc[state["cell_type"]].to_numpy() + gains * biology.log2_effects(state)
    expected += np.array([plates[plate] for plate in wells["plate"]])
    is_landmark = (reported["is_landmark"] == 1).to_numpy()
    values = np.empty((len(wells), len(reported)))
    landmarks = expected[:, biology.genes.get_indexer(reported.index[is_landmark])]
    values[:, is_landmark] = intensities(generator(seed, dataset, "values"), landmarks)
    values[:, ~is_landmark] = inferred_intensities(generator(seed, dataset, "inferred"), values[:, is_landmark], int((~is_landmark).sum()))
    return values


def _write_matrix(folder: Path, phase: Phase, wells: pd.DataFrame, reported: pd.DataFrame, values: Matrix) -> None:
    import h5py

    # as in the original, a few ids of the matrix are spelt in lower case
    ids = [name.lower() if i % 700 == 0 else name for i, name in enumerate(wells["inst_id"])]
    with h5py.File(folder / f"{phase.series}_Level3_INF_mlr12k_n{len(wells)}x{len(reported)}{phase.matrix_suffix}.gctx", "w") as file:
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


def _cell_lines(cells: tuple[tuple[str, ...], ...]) -> pd.DataFrame:
    lines = pd.DataFrame(
        cells,
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
    lines["base_cell_id"], lines["cell_type"] = lines["cell_id"], "cell line"
    lines["sample_type"] = np.where(lines["subtype"] == "normal", "normal", "tumor")
    return lines.assign(original_source_vendor="ATCC").reindex(columns=list(CELL_COLUMNS))


def _perturbagens(dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Perturbagen tables of phase I and phase II."""
    names = perturbagens_of(dataset).rename(
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


def _portal() -> dict[str, pd.DataFrame]:
    """Tables of the LINCS portal by the first part of their names."""
    names = perturbagens_of(PHASE2)
    treated = names[names["smiles"].notna() & (names["agent"] != VEHICLE)].sort_values("source_id").reset_index(drop=True)
    treated["sm_lincs_id"] = [f"LSM-{1001 + 7 * i}" for i in range(len(treated))]
    # one perturbagen is also said to be another compound; GEO's InChIKey decides
    second = treated[treated["compound"] == "vorinostat"].assign(sm_lincs_id=treated["sm_lincs_id"].iloc[0])
    samples = pd.concat([treated, second])
    return {
        "SampleTable_LincsID2FacilityID2CenterBatchID_LINCS_StandardizedCmpds": pd.DataFrame(
            {
                "sm_center_batch_id": samples["source_id"] + "-001-01-1",
                "sm_center_canonical_id": samples["source_id"],
                "sm_lincs_id": samples["sm_lincs_id"],
            }
        ),
        "CompoundTable_LINCS_StandardizedCmpds": pd.DataFrame(
            {
                "sm_lincs_id": treated["sm_lincs_id"],
                "sm_name": treated["compound"],
                "sm_smiles_parent": treated["smiles"],
                "sm_inchi_key_parent": treated["inchikey"],
            }
        ),
        "CompoundTable_ExternalAnnotations": pd.DataFrame(
            {
                "sm_lincs_id": treated["sm_lincs_id"],
                "sm_pubchem_cid": treated["pubchem_cid"],
                "sm_chembl_id": None,
                "sm_chebi_id": None,
            }
        ),
    }


def _account(dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, reported: pd.DataFrame) -> Account:
    measured = biology.genes.isin(reported.index[reported["is_landmark"] == 1])
    account = Account(dataset, pd.DataFrame(), pd.Series(np.where(measured, gains, np.nan), index=biology.genes))
    account.start("samples", len(wells))
    kept = account.keep("samples", "pert_type other than trt_cp and ctl_vehicle", wells, wells["pert_type"].isin(["trt_cp", "ctl_vehicle"]))
    kept = account.keep("samples", "vehicle other than DMSO", kept, (kept["pert_type"] == "trt_cp") | (kept["pert_iname"] == "DMSO"))
    kept = account.keep("samples", "cell line without compounds or without controls", kept, kept["cell_id"] != "HEPG2")
    kept = kept.rename(columns={"rna_well": "well", "cell_id": "source_cell_context", "pert_id": "source_id", "pert_iname": "source_name"})
    account.samples = kept.assign(is_control=kept["agent"] == VEHICLE, n_cells=None)[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    account.start("genes", len(reported))
    account.drop("genes", "not a landmark gene", int((reported["is_landmark"] != 1).sum()))
    return account
