"""MoABox from native files to harmonized samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.sample.novartis import write_rdata
from perturbridge_dagster.sources import harmonize, novartis
from perturbridge_dagster.sources.native import Reconciliation

pytestmark = pytest.mark.slow

GENES = {
    "TSPAN6,grch38_X": "ENSG00000000003",
    "DPM1,grch38_20": "ENSG00000000419",
    "SCYL3,grch38_1": "ENSG00000000457",
    "FIRRM,grch38_1": "ENSG00000000460",
}
VORINOSTAT = "FF-06-MO73"


def wells() -> pd.DataFrame:
    """A plate of seven wells: DMSO, robust and not; vorinostat at two doses, without structure, a positive control, empty."""
    rows = [
        ("A01", "BS-1", "CB-43-EP73", "RC", 0.0),
        ("A02", "BS-2", "CB-43-EP73", "RC", 0.0),
        ("A03", "BS-3", VORINOSTAT, "SA", 0.1),
        ("A04", "BS-4", VORINOSTAT, "SA", 10.0),
        ("A05", "BS-5", "JA-88-IO52", "SA", 1.0),
        ("A06", "BS-6", "EA-18-FP00", "SA", 1.0),
        ("A07", "BS-7", "EC-27-RY89", "EMPTY", np.nan),
    ]
    table = pd.DataFrame(rows, columns=["well_id", "external_biosample_id", "cmpd_sample_id", "well_type", "concentration"])
    table["well_index"] = [f"ACGT{'ACGT'[i % 4]}{i}" for i in range(len(table))]
    table["cell_line_name"], table["unit"], table["hours_post_treatment"], table["plate_index"] = "U-2 OS", "uM", "24.0", "CTCGGTTT"
    table["batch_id"] = "3"
    return table


def plate(barcode: str, table: pd.DataFrame | None = None, genes: list[str] | None = None, key: str = "well_index") -> dict[str, Any]:
    """One plate as R has it; the annotation comes in reverse order."""
    table = (wells() if table is None else table).assign(plate_barcode=barcode)
    genes = list(GENES) if genes is None else genes
    order = {gene: position for position, gene in enumerate([*GENES, "NOVEL,grch38_2"])}
    # the count of a gene in a well is the same whatever the order of the genes
    values = np.array([[10 * order[gene] + well + 1 for well in range(len(table))] for gene in genes], dtype=np.int32)
    columns = (barcode + "_" + table[key]).to_numpy(dtype=object)
    counts = xr.DataArray(values, dims=("gene", "well"), coords={"gene": np.array(genes, dtype=object), "well": columns})
    reverse = table.iloc[::-1].set_axis(pd.RangeIndex(1, len(table) + 1))
    return {"UMI.counts": counts, "Annotation": reverse.astype(dict.fromkeys(table.select_dtypes("object"), object))}


def write(folder: Path, plates: dict[str, dict[str, Any]] | None = None, annotation: pd.DataFrame | None = None) -> Path:
    plates = {"3": plate("VH1"), "12": plate("VH-2", genes=list(GENES)[::-1])} if plates is None else plates
    write_rdata(folder / "Exp_gzip.RData", {"Exp": {batch: {f"p{batch}": one} for batch, one in plates.items()}})
    (folder / "robust_RC_ReferenceControl_DMSO_wells.txt").write_text("external_biosample_id\nBS-1\n")
    (folder / "MoABox_compounds_metadata.txt").write_text(
        "cmpd_sample_id\tinchi_key\tsmiles\tcas_number\tmoa\n"
        f"{VORINOSTAT}\tWAEXFXRVDQXREF-UHFFFAOYSA-N\tO=C(CCCCCCC(=O)Nc1ccccc1)NO\t149647-78-9\tHDAC Inhibitors\n"
        "JA-88-IO52\t\t\t\t\nCB-43-EP73\tIAZDPXIOMUYVGZ-UHFFFAOYSA-N\tC[S+](C)[O-]\t\t\n"
    )
    table = pd.DataFrame({"geneID": list(GENES), "ensembl_gene_id": list(GENES.values())}) if annotation is None else annotation
    table = table.astype(object).set_axis(pd.RangeIndex(1, len(table) + 1))
    write_rdata(folder / "drugseq_ensembl_v98_annotation_and_entrez_mapping.RData", {"drugseq_ensg_v98": table})
    return folder


def dropped(samples: ad.AnnData) -> dict[str, int]:
    steps = samples.uns["reconciliation"].query("axis != 'conditions'")
    return dict(zip(steps["rule"], steps["n_dropped"], strict=True))


def test_wells_become_samples_of_the_contract(tmp_path: Path) -> None:
    samples = harmonize("novartis", write(tmp_path))
    obs = samples.obs
    assert obs_ids(samples) == [
        "VH1_A01_DMSO_CVCL_0042",
        f"VH1_A03_{VORINOSTAT}_CVCL_0042",
        f"VH1_A04_{VORINOSTAT}_CVCL_0042",
        "VH1_A05_JA-88-IO52_CVCL_0042",
        "VH_2_A01_DMSO_CVCL_0042",
        f"VH_2_A03_{VORINOSTAT}_CVCL_0042",
        f"VH_2_A04_{VORINOSTAT}_CVCL_0042",
        "VH_2_A05_JA-88-IO52_CVCL_0042",
    ]
    assert obs["pert_dose_uM"].tolist() == [0.0, 0.1, 10.0, 1.0] * 2
    assert set(obs["pert_time_h"]) == {24.0}
    assert set(obs["batch"]) == {"3"}
    assert obs["mechanism"].astype(object).fillna("").tolist() == ["", "HDAC Inhibitors", "HDAC Inhibitors", ""] * 2
    assert obs["source_perturbagen_id"].tolist()[:2] == ["CB-43-EP73", VORINOSTAT]
    assert obs["pubchem_cid"].fillna(-1).tolist() == [679, 5311, 5311, -1] * 2
    # genes and wells come in another order on the second plate; the counts are those of the names
    expected = [[10 * gene + well + 1 for gene in range(4)] for well in (0, 2, 3, 4)]
    np.testing.assert_array_equal(samples[:, list(GENES.values())].X.toarray(), expected * 2)


def obs_ids(samples: ad.AnnData) -> list[str]:
    return samples.obs_names.tolist()


def test_every_rule_is_recorded_with_its_count(tmp_path: Path) -> None:
    empty = plate("VH9")
    empty["UMI.counts"][:, 3] = 0
    counted = dropped(harmonize("novartis", write(tmp_path, {"1": plate("VH1"), "2": empty})))
    assert counted["total count of 0"] == 1
    assert counted["empty well"] == 2
    assert counted["DMSO well that is not among the robust ones"] == 2
    assert counted["positive control"] == 2


@pytest.mark.parametrize(("changes", "rule"), [({"well_type": "EMPTY"}, 0), ({"cmpd_sample_id": "SE-15-AV21"}, 2)])
def test_each_filter_alone(changes: dict[str, str], rule: int) -> None:
    table = wells().iloc[[0, 2, 3]].assign(plate_barcode="P")
    table.loc[2, list(changes)] = list(changes.values())
    steps = Reconciliation()
    steps.start("samples", 3)
    read = novartis.read_wells(table.set_index("well_id", drop=False), "novartis", Path("x"))
    kept = novartis.filter_wells(read, frozenset({"BS-1"}), registry.dataset("novartis"), steps)
    assert kept.index.tolist() == ["A01", "A04"]
    assert [step["n_dropped"] for step in steps.steps] == [int(rule == position) for position in range(3)]


def test_a_positive_control_in_a_control_well_is_no_sample_to_drop() -> None:
    table = wells().assign(plate_barcode="P").set_index("well_id", drop=False)
    table.loc["A01", "cmpd_sample_id"] = "EA-18-FP00"
    steps = Reconciliation()
    steps.start("samples", len(table))
    read = novartis.read_wells(table, "novartis", Path("x"))
    kept = novartis.filter_wells(read, frozenset({"BS-1"}), registry.dataset("novartis"), steps)
    assert kept.loc["A01", "is_control"]


def test_genes_need_an_ensembl_id_of_their_own(tmp_path: Path) -> None:
    ids = list(GENES.values())
    # the first has two ids, the second shares one of them, the last has none
    annotation = pd.DataFrame(
        {"geneID": [*list(GENES)[:2], next(iter(GENES)), list(GENES)[2]], "ensembl_gene_id": [ids[0], ids[1], ids[1], ids[2]]}
    )
    samples = harmonize("novartis", write(tmp_path, annotation=annotation))
    assert samples.var_names.tolist() == [ids[2]]
    assert dropped(samples)["no Ensembl id of its own in the annotation"] == 3


@pytest.mark.parametrize("key", ["well_index", "well_id"])
def test_columns_may_be_named_by_any_index_of_the_well(tmp_path: Path, key: str) -> None:
    assert harmonize("novartis", write(tmp_path, {"1": plate("VH1", key=key)})).n_obs == 4


def no_annotation(one: dict[str, Any]) -> None:
    del one["Annotation"]


def other_wells(one: dict[str, Any]) -> None:
    one["Annotation"]["well_index"] = "AAAA"
    one["Annotation"]["well_id"] = "B01"


def unknown_type(one: dict[str, Any]) -> None:
    one["Annotation"].loc[3, "well_type"] = "QC"


def negative(one: dict[str, Any]) -> None:
    one["UMI.counts"][0, 2] = -3


def fractional(one: dict[str, Any]) -> None:
    one["UMI.counts"] = one["UMI.counts"].astype(float)
    one["UMI.counts"][0, 2] = 0.5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_annotation, "a plate has no Annotation"),
        (other_wells, r"rows VH1_ACGT.*counts and annotation of a plate do not belong together"),
        (unknown_type, "column well_type; rows VH1_.*well_type is 'QC'.*SA, RC, EMPTY"),
        (negative, r"rows VH1_ACGTG2.*-3 of gene TSPAN6,grch38_X is not a count"),
        (fractional, r"0.5 of gene TSPAN6,grch38_X is not a count"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, damage: Any, message: str) -> None:
    one = plate("VH1")
    damage(one)
    with pytest.raises(InputError, match=message):
        harmonize("novartis", write(tmp_path, {"1": one}))


def test_plates_must_have_the_same_genes(tmp_path: Path) -> None:
    other = plate("VH2", genes=[*list(GENES)[1:], "NOVEL,grch38_2"])
    with pytest.raises(InputError, match=r"VH2_.*other genes than the first plate"):
        harmonize("novartis", write(tmp_path, {"1": plate("VH1"), "2": other}))


def test_without_robust_controls_nothing_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "robust_RC_ReferenceControl_DMSO_wells.txt").write_text("external_biosample_id\nBS-99\n")
    with pytest.raises(InputError, match="no vehicle control found among BS-1"):
        harmonize("novartis", tmp_path)


@pytest.mark.real_data
def test_the_real_table_of_compounds(real_data: Path) -> None:
    compounds = novartis.read_compounds(real_data / "novartis_moabox" / "MoABox_compounds_metadata.txt", "novartis")
    assert compounds.notna().sum().to_dict() == {"inchi_key": 3837, "smiles": 3837, "cas_number": 2468, "moa": 3019}
    assert len(compounds) == 4345
    assert set(novartis.POSITIVE_CONTROLS) <= set(compounds.index)
    asked = compounds.rename(columns={"inchi_key": "inchikey"}).reset_index(names="source_perturbagen_id")
    asked = asked.assign(perturbagen=asked["source_perturbagen_id"], pubchem_cid=None)
    found = shipped().compounds.resolve(asked, "novartis").set_index(asked["source_perturbagen_id"])
    assert found.loc[["CB-43-EP73", VORINOSTAT], "pubchem_cid"].tolist() == [679, 5311]
    # rdkit refuses the structure of one of the 3,837
    assert found["parent_key"].notna().sum() == 3836


@pytest.mark.real_data
def test_the_real_table_of_wells(real_data: Path) -> None:
    """Wells of another MoABox experiment, whose table calls the columns of the annotation by other names."""
    table = pd.read_csv(real_data / "novartis_moabox" / "meta.csv")
    names = {
        "plate_well": "well_id",
        "batch": "batch_id",
        "readout.comment": "well_type",
        "NSN": "cmpd_sample_id",
        "treatment_dose": "concentration",
        "treatment_dose_unit": "unit",
        "timepoint": "hours_post_treatment",
        "cell.line.name": "cell_line_name",
    }
    table = table.rename(columns=names)
    table.index = pd.Index(table["plate_barcode"] + "_" + table["well_index"])
    table["external_biosample_id"] = table.index
    wells = novartis.read_wells(table, "novartis", Path("meta.csv"))
    assert wells["well_type"].value_counts().to_dict() == {"SA": 3024, "RC": 216}
    robust = frozenset(wells.index[wells["well_type"] == "RC"][::2])
    steps = Reconciliation()
    steps.start("samples", len(wells))
    kept = novartis.filter_wells(wells, robust, registry.dataset("novartis"), steps)
    # BTdCPU is a positive control of this experiment too
    assert [step["n_dropped"] for step in steps.steps] == [0, 108, 216]
    assert set(table.loc[table["cmpd_sample_id"].isin(novartis.POSITIVE_CONTROLS), "compound"]) == {"BTdCPU"}
    obs = novartis.samples_of(
        kept,
        novartis.read_compounds(real_data / "novartis_moabox" / "MoABox_compounds_metadata.txt", "novartis"),
        registry.dataset("novartis"),
    )
    assert obs["pert_dose_uM"].notna().all()
    assert set(obs["pert_time_h"]) == {24.0}
    assert obs.loc[obs["is_control"], "pert_dose_uM"].eq(0).all()
