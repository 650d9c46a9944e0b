"""The sample as CIGS is published: workbooks of counts and of samples, and the journal's workbook of compounds.

Belongs here: the layout of both screens (MCE and TCM), their files and defects. Does not belong here: the biology or the assay's noise.

Files of ``cigs_mce``
-----
``MCE_Bioactive_Compounds_{HEK293T,MDA_MB_231}_10μM_Counts.xlsx``
    A licence note; then ``Sample_id`` and a count for each gene symbol. The sign before M is the Greek letter.
``MCE_Bioactive_Compounds_{HEK293T,MDA_MB_231}_10μM_MetaData.xlsx``
    A licence note; then ``unique_ID experiment_no sample_plate sample_row sample_column cell_id pert_itime pert_idose sample treatment``;
    -666 is not applicable.

Files of ``cigs_tcm``
-----
``TCM_Compounds_{HEK293T,MDA_MB_231}_{10,20}_Counts.xlsx``
    As above with ``Sample_unique_id``, and symbols that went through R.
``TCM_Compounds_{HEK293T,MDA_MB_231}_{10,20}_MetaData.xlsx``
    A note; then ``Sample_unique_id Treat Plate library Cell Dose Time``, ``Library`` in the series of 20 µM. Samples and plates have the
    same names in all four.

Beside both: ``41592_2025_2781_MOESM3_ESM.xlsx``, a title, then compound name, catalogue number and CAS number.

Defects, as in the original: blank wells, an excluded plate in three replicates, samples of low total, one without counts, wells of JQ1,
a sample that is not described, a gene that Excel made a date, retired symbols, an ambiguous one, names with line breaks inside words,
two compounds that share a CAS number, and a plate without controls or compounds of other plates.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from perturbridge_dagster.sample.account import SAMPLE_COLUMNS, Account, shuffled, well_names
from perturbridge_dagster.sample.assays import fractions, gene_gains, plate_effects, umi_counts
from perturbridge_dagster.sample.biology import Biology, Matrix, generator
from perturbridge_dagster.sample.tables import VEHICLE, cas_numbers, genes, perturbagens_of

MCE, TCM = "cigs_mce", "cigs_tcm"
SUPPLEMENT = "41592_2025_2781_MOESM3_ESM.xlsx"
LICENCE = "Note: The data are for non-commercial research only. Simulated by the sample of perturbridge_dagster."
TIME_H = 24.0
REPLICATES = 3
MEDIAN_DEPTH = {MCE: 40_000.0, TCM: 90_000.0}
POSITIVE_CONTROL = "JQ1"
EXCLUDED = "MCE4_293T_24H"
ALONE = "MCE23_231_24H_X1"
"""Plate of MDA-MB-231 with compounds of its own and without controls."""

ON_ALONE = ("ibuprofen", "949")
SHARED_CAS = ("vindolinine", "dipsacoside B")
"""The first has the CAS number of the second in the supplement."""

DATE_GENE = "SEPT4"
AMBIGUOUS = "HN1L"
"""Symbol of the panel's time; an alias or a former symbol of two genes since."""


class Series(NamedTuple):
    """One cell line at one dose: a pair of workbooks."""

    dataset: str
    name: str
    cell_type: str
    cells: tuple[str | int, ...]
    dose_uM: float


SERIES = (
    Series(MCE, "MCE_Bioactive_Compounds_HEK293T_10μM", "CVCL_0063", ("cell_293T",), 10.0),
    Series(MCE, "MCE_Bioactive_Compounds_MDA_MB_231_10μM", "CVCL_0062", ("cell_231", "cell_MDA_MB_231"), 10.0),
    Series(TCM, "TCM_Compounds_HEK293T_10", "CVCL_0063", ("293T",), 10.0),
    Series(TCM, "TCM_Compounds_HEK293T_20", "CVCL_0063", ("293T",), 20.0),
    Series(TCM, "TCM_Compounds_MDA_MB_231_10", "CVCL_0062", (231,), 10.0),
    Series(TCM, "TCM_Compounds_MDA_MB_231_20", "CVCL_0062", (231,), 20.0),
)

CONTROLS = {MCE: 6, TCM: 4}
OTHERS: dict[str, tuple[str, ...]] = {MCE: ("BLANK", "BLANK", "RNA", POSITIVE_CONTROL, POSITIVE_CONTROL), TCM: (POSITIVE_CONTROL,)}
"""Wells on every plate that are neither compounds nor DMSO."""


def write(dataset: str, folder: Path, biology: Biology, seed: int) -> Account:
    """Write the files of a screen.

    Parameters
    ----------
    dataset
        ``MCE`` or ``TCM``.
    folder
        An empty folder.
    biology, seed
        The latent truth and the seed of the assay.
    """
    panel = _panel()
    gains = gene_gains(generator(seed, dataset, "gains"), len(biology.genes), spread=0.35)
    wells = pd.concat([_wells(seed, series) for series in SERIES if series.dataset == dataset], ignore_index=True)
    counts = _counts(seed, dataset, biology, gains, wells, panel)
    wells["total"] = counts.sum(axis=1)
    id_column = "Sample_id" if dataset == MCE else "Sample_unique_id"
    for name, of_series in wells.groupby("series", sort=False):
        rows = of_series.index.to_numpy()
        header = [id_column, *_header(dataset, panel)]
        write_workbook(
            folder / f"{name}_Counts.xlsx",
            {"Counts": [[LICENCE], header, *([wells["sample"][row], *counts[row].tolist()] for row in rows)]},
        )
        described = of_series[~of_series["undescribed"]]
        table = _described_mce(described) if dataset == MCE else _described_tcm(described, str(name))
        write_workbook(folder / f"{name}_MetaData.xlsx", {"MetaData": [[LICENCE], list(table), *table.to_numpy(dtype=object).tolist()]})
    write_workbook(folder / SUPPLEMENT, {"Supplementary Table 3": _supplement(MCE), "Supplementary Table 4": _supplement(TCM)})
    return _account(dataset, biology, gains, wells, panel)


def write_workbook(path: Path, sheets: dict[str, Iterable[list[object]]]) -> None:
    """Write an Excel workbook row by row: dates as dates, numbers as numbers, everything else as text.

    Parameters
    ----------
    path
        The file.
    sheets
        By name, rows of cells.
    """
    import xlsxwriter

    options = {"constant_memory": True, "strings_to_numbers": False, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(path, options) as workbook:
        # a workbook would else carry the time at which it was written
        workbook.set_properties({"created": datetime.datetime(2025, 1, 1)})
        as_date = workbook.add_format({"num_format": "d-mmm"})
        for name, rows in sheets.items():
            sheet = workbook.add_worksheet(name)
            for i, row in enumerate(rows):
                for j, cell in enumerate(row):
                    if isinstance(cell, datetime.datetime):
                        sheet.write_datetime(i, j, cell, as_date)
                    else:
                        sheet.write(i, j, cell)


def _panel() -> pd.DataFrame:
    """Genes of the panel by the symbols of its time: landmark genes, and those whose symbols break."""
    table = genes().assign(gene=np.arange(len(genes())))
    chosen = table[(table["is_landmark"] == 1) | table["l1000_symbol"].isin([DATE_GENE])]
    return chosen.sort_values("l1000_symbol")


def _header(dataset: str, panel: pd.DataFrame) -> list[object]:
    symbols = panel["l1000_symbol"]
    if dataset == MCE:
        return [datetime.datetime(2024, 9, 4) if symbol == DATE_GENE else symbol for symbol in symbols]
    return ["X4.Sep" if symbol == DATE_GENE else symbol.replace("HLA-", "HLA.") for symbol in symbols]


def _wells(seed: int, series: Series) -> pd.DataFrame:
    """One row a well of a series."""
    names = perturbagens_of(series.dataset)
    screened = names[(names["agent"] != VEHICLE) & ~(names["compound"].isin(ON_ALONE) & (series.cell_type == "CVCL_0062"))]
    vehicle = names[names["agent"] == VEHICLE]
    others = pd.DataFrame({"source_id": OTHERS[series.dataset]})
    layout = pd.concat([screened, vehicle.loc[vehicle.index.repeat(CONTROLS[series.dataset])], others])
    line = "293T" if series.cell_type == "CVCL_0063" else "231"
    plates = []
    for replicate in range(1, REPLICATES + 1):
        name = f"MCE1_{line}_24H_X{replicate}" if series.dataset == MCE else f"P{replicate}"
        plates.append(shuffled(generator(seed, series.name, "layout", name), layout).assign(raw_plate=name))
        if series.dataset == MCE and line == "293T":
            plates.append(layout.iloc[::4].reset_index(drop=True).assign(raw_plate=f"{EXCLUDED}_X{replicate}"))
    if series.dataset == MCE and line == "231":
        plates.append(names[names["compound"].isin(ON_ALONE)].reset_index(drop=True).assign(raw_plate=ALONE))
    for plate in plates:
        plate["raw_well"] = well_names(len(plate), "ABCDEFGHIJKLMNOP", 24, padded=False)
    wells = pd.concat(plates, ignore_index=True)
    prefix = series.name.lower().replace("_compounds", "")
    if series.dataset == MCE:
        wells["plate"], wells["well"] = wells["raw_plate"], wells["raw_well"]
        wells["sample"] = wells["raw_plate"] + "_" + wells["raw_well"]
    else:
        wells["sample"] = [f"S{i + 1}" for i in range(len(wells))]
        wells["plate"], wells["well"] = prefix + "." + wells["raw_plate"], wells["sample"]
    wells["is_control"] = wells["agent"] == VEHICLE
    # the plate alone spells the cell line in another way
    wells["source_cell_context"] = np.where(wells["raw_plate"] == ALONE, str(series.cells[-1]), str(series.cells[0]))
    wells["series"], wells["cell_type"], wells["time_h"] = series.name, series.cell_type, TIME_H
    wells["dose_uM"] = np.where(wells["is_control"], 0.0, series.dose_uM)
    treated = wells.index[wells["compound"].notna() & ~wells["is_control"] & ~wells["raw_plate"].str.startswith(EXCLUDED)]
    wells["low"] = wells.index.isin(treated[[4, 11]])
    wells["failed"] = wells.index == treated[7]
    wells["undescribed"] = wells.index == treated[9]
    return wells


def _counts(seed: int, dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, panel: pd.DataFrame) -> npt.NDArray[np.int32]:
    """Wells × genes of the panel."""
    n_genes = len(biology.genes)
    agent = wells["agent"].fillna(VEHICLE).mask(wells["source_id"] == POSITIVE_CONTROL, POSITIVE_CONTROL)
    state = wells.assign(agent=agent)
    plates = plate_effects(generator(seed, dataset, "plates"), list(wells["plate"].unique()), n_genes, 0.12)
    # each gene is counted through a probe of its own
    probes = generator(seed, dataset, "probes").normal(0, 1.0, n_genes)
    expected = biology.baseline.loc[wells["cell_type"]].to_numpy() + probes + gains * biology.log2_effects(state)
    expected += np.array([plates[plate] for plate in wells["plate"]])
    draw = generator(seed, dataset, "counts")
    # without tails, so that only what is meant to be low is
    depth = MEDIAN_DEPTH[dataset] * draw.uniform(0.8, 1.25, len(wells))
    depth[wells["low"].to_numpy()] = 2500.0
    depth[wells["source_id"].isin(["BLANK", "RNA"]).to_numpy()] = 1200.0
    depth[wells["failed"].to_numpy()] = 0.0
    return umi_counts(draw, fractions(expected[:, panel["gene"].to_numpy()]), depth, shape=25.0)


def _described_mce(wells: pd.DataFrame) -> pd.DataFrame:
    blank = wells["source_id"].isin(["BLANK", "RNA"])
    dose = np.where(blank | wells["is_control"], "-666", "10 uM")
    return pd.DataFrame(
        {
            "unique_ID": wells["sample"],
            "experiment_no": wells["raw_plate"].str.extract(r"MCE(\d+)_")[0].astype(int),
            "sample_plate": wells["raw_plate"],
            "sample_row": wells["raw_well"].str[0].map(lambda letter: ord(letter) - ord("A") + 1),
            "sample_column": wells["raw_well"].str[1:].astype(int),
            "cell_id": wells["source_cell_context"],
            "pert_itime": np.where(blank, "-666", "24 h"),
            "pert_idose": dose,
            "sample": np.where(wells["is_control"], "control", "compound"),
            "treatment": wells["source_id"].where(wells["source_id"] != "BLANK", "Blank "),
        }
    )


def _described_tcm(wells: pd.DataFrame, series: str) -> pd.DataFrame:
    own = next(one for one in SERIES if one.name == series)
    return pd.DataFrame(
        {
            "Sample_unique_id": wells["sample"],
            "Treat": wells["source_id"].str.replace("Cpd", "Compd"),
            "Plate": wells["raw_plate"],
            "Library" if own.dose_uM == 20 else "library": "TCM-1",
            "Cell": [own.cells[0]] * len(wells),
            "Dose": int(own.dose_uM),
            "Time": int(TIME_H),
        }
    )


def _supplement(dataset: str) -> list[list[object]]:
    """Rows of a sheet of the supplement."""
    names = perturbagens_of(dataset)
    names = names[names["agent"] != VEHICLE]
    cas = names["compound"].replace(*SHARED_CAS).map(cas_numbers()).fillna("")
    if dataset == MCE:
        header = ["Compound name", "Catalog Number", "CAS", "MoA", "Clinical information", "Approval type"]
        shown = names["source_name"].str.replace(" ", "\n ")
        listed = zip(shown, names["source_id"], cas, names["mechanism"], strict=True)
        rows = [[name, number, of, mechanism, "", ""] for name, number, of, mechanism in listed]
        title = "Supplementary Table 3. Compounds of the MCE library."
    else:
        header = ["Compound name", "Catalog Number", "Catalog Number"]
        shown = names["source_name"].map(lambda name: name if len(name) < 10 else f"{name[:7]}\n{name[7:]}")
        rows = [list(row) for row in zip(shown, names["source_id"], cas, strict=True)]
        title = "Supplementary Table 4. TCM compounds."
    return [[title], list(header), *rows]


def _account(dataset: str, biology: Biology, gains: Matrix, wells: pd.DataFrame, panel: pd.DataFrame) -> Account:
    measured = biology.genes.isin(panel.index)
    account = Account(dataset, pd.DataFrame(), pd.Series(np.where(measured, gains, np.nan), index=biology.genes))
    account.start("samples", len(wells))
    kept = account.keep("samples", "not described", wells, ~wells["undescribed"])
    kept = account.keep("samples", "no counts", kept, kept["total"] > 0)
    kept = account.keep("samples", "excluded plates", kept, ~kept["raw_plate"].str.startswith(EXCLUDED))
    kept = account.keep("samples", "blanks", kept, ~kept["source_id"].isin(["BLANK", "RNA"]))
    kept = account.keep("samples", "low total", kept, ~kept["low"])
    kept = account.keep("samples", "positive controls", kept, kept["source_id"] != POSITIVE_CONTROL)
    account.samples = kept.assign(source_dose_uM=kept["dose_uM"], n_cells=None)[list(SAMPLE_COLUMNS)].reset_index(drop=True)
    series = wells["series"].unique()
    account.start("genes", len(panel) * len(series))
    n_ambiguous = int((panel["l1000_symbol"] == AMBIGUOUS).sum())
    for name in series:
        account.drop("genes", f"an ambiguous symbol ({name})", n_ambiguous)
    account.drop("genes", "the same genes in every series", (len(series) - 1) * (len(panel) - n_ambiguous))
    return account
