"""CIGS from native workbooks to harmonized samples."""

from __future__ import annotations

import datetime
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sample.cigs import write_workbook
from perturbridge_dagster.sources import cigs, harmonize
from perturbridge_dagster.sources.native import Reconciliation

MCE = "MCE_Bioactive_Compounds_HEK293T_10μM"
TCM = ("TCM_Compounds_HEK293T_10", "TCM_Compounds_HEK293T_20")
SUPPLEMENT = "41592_2025_2781_MOESM3_ESM.xlsx"
NOTE = "Note: for research only."
PANEL: list[object] = ["TSPAN6", "SCYL3", "C1orf112", datetime.datetime(2024, 9, 7)]
ENSEMBL = ["ENSG00000000003", "ENSG00000000457", "ENSG00000000460", "ENSG00000122545"]
"""C1orf112 is FIRRM today, and the date is SEPT7, SEPTIN7 today."""

TREATMENTS = ["DMSO", "DMSO", "HY-10221", "HY-10221", "HY-10224", "JQ1", "Blank ", "rna"]
COUNTS = [[50 + 3 * sample + gene for gene in range(4)] for sample in range(8)]


def mce_metadata(treatments: list[str] = TREATMENTS) -> list[list[object]]:
    header: list[object] = [
        "unique_ID",
        "experiment_no",
        "sample_plate",
        "sample_row",
        "sample_column",
        "cell_id",
        "pert_itime",
        "pert_idose",
    ]
    rows: list[list[object]] = [
        [f"s{i}", 1, "MCE1_293T_24H_X1", 1 + i % 4, 10, "cell_293T", "24 h", "-666" if treatment == "DMSO" else "10 uM", "x", treatment]
        for i, treatment in enumerate(treatments)
    ]
    for i, row in enumerate(rows):
        row[4] = 1 + i // 4
    return [[NOTE], [*header, "sample", "treatment"], *rows]


def supplement() -> dict[str, list[list[object]]]:
    mce = [["Table 3"], ["Compound name", "Catalog Number", "CAS", "MoA"]]
    mce += [["Vorinostat", "HY-10221", "149647-78-9", "HDAC"], ["Pano\nbinostat", "HY-10224", "404950-80-7", ""]]
    tcm = [["Table 4"], ["Compound name", "Catalog Number", "Catalog Number"]]
    tcm += [["Vindoli\nnine", "Cpd0165", "33289-85-9"], ["Dipsacoside \nB", "Cpd0166", "33289-85-9"], ["Caffeine", "Cpd0031", "58-08-2"]]
    return {"Supplementary Table 3": [list(row) for row in mce], "Supplementary Table 4": [list(row) for row in tcm]}


def write_mce(folder: Path, counts: list[list[object]] | None = None, metadata: list[list[object]] | None = None) -> Path:
    table = [[f"s{i}", *row] for i, row in enumerate(COUNTS)] if counts is None else counts
    write_workbook(folder / f"{MCE}_Counts.xlsx", {"a": [[NOTE], ["Sample_id", *PANEL], *table]})
    write_workbook(folder / f"{MCE}_MetaData.xlsx", {"a": mce_metadata() if metadata is None else metadata})
    write_workbook(folder / SUPPLEMENT, supplement())
    return folder


def write_tcm(folder: Path) -> Path:
    """Two series whose samples and plates have the same names; the second writes numbers where the first writes text."""
    treatments = ["DMSO", "DMSO", "Compd0165", "Compd0166", "Compd0031", "JQ1"]
    for name, cell, dose in zip(TCM, ("293T", 293), (10, 20), strict=True):
        write_workbook(
            folder / f"{name}_Counts.xlsx",
            {
                "a": [
                    [NOTE],
                    ["Sample_unique_id", "TSPAN6", "X7.Sep", "HLA.A", "NKX2.1"],
                    *([f"S{i}", 90 + i + dose, 80, 70, 60] for i in range(6)),
                ]
            },
        )
        rows = [[f"S{i}", treatment, "P1" if i % 2 else "P2", "L", cell, dose, 24] for i, treatment in enumerate(treatments)]
        header = ["Sample_unique_id", "Treat", "Plate", "library" if dose == 10 else "Library", "Cell", "Dose", "Time"]
        write_workbook(folder / f"{name}_MetaData.xlsx", {"a": [[NOTE], header, *rows]})
    write_workbook(folder / SUPPLEMENT, supplement())
    return folder


def dropped(samples: ad.AnnData) -> dict[str, int]:
    steps = samples.uns["reconciliation"].query("axis == 'samples'")
    return dict(zip(steps["rule"], steps["n_dropped"], strict=True))


def test_mce_samples_become_samples_of_the_contract(tmp_path: Path) -> None:
    samples = harmonize("cigs_mce", write_mce(tmp_path))
    assert samples.obs_names.tolist() == [
        "MCE1_293T_24H_X1_A1_DMSO_CVCL_0063",
        "MCE1_293T_24H_X1_A2_Panobinostat_CVCL_0063",
        "MCE1_293T_24H_X1_B1_DMSO_CVCL_0063",
        "MCE1_293T_24H_X1_C1_Vorinostat_CVCL_0063",
        "MCE1_293T_24H_X1_D1_Vorinostat_CVCL_0063",
    ]
    assert samples.var_names.tolist() == ENSEMBL
    np.testing.assert_array_equal(samples.X.toarray(), [COUNTS[i] for i in (0, 4, 1, 2, 3)])
    assert samples.obs["pert_dose_uM"].tolist() == [0, 10, 0, 10, 10]
    assert set(samples.obs["pert_time_h"]) == {24.0}
    assert samples.obs["pubchem_cid"].tolist() == [679, 6918837, 679, 5311, 5311]
    assert samples.obs["source_perturbagen_id"].tolist() == ["DMSO", "HY-10224", "DMSO", "HY-10221", "HY-10221"]
    assert set(samples.obs["tissue"]) == {"kidney"}
    assert set(samples.obs["disease"]) == {"normal"}
    assert set(samples.obs["experiment"]) == {"1"}
    assert samples.obs["mechanism"].astype(object).fillna("").tolist() == ["", "", "", "HDAC", "HDAC"]


def test_tcm_series_stay_apart_though_their_samples_have_the_same_names(tmp_path: Path) -> None:
    samples = harmonize("cigs_tcm", write_tcm(tmp_path))
    obs = samples.obs
    assert samples.n_obs == 10
    assert sorted(obs["plate"].unique()) == [f"tcm_hek293t_{dose}.P{plate}" for dose in (10, 20) for plate in (1, 2)]
    assert sorted(obs["sample_unique_id"]) == sorted(f"tcm_hek293t_{dose}.S{i}" for dose in (10, 20) for i in range(5))
    assert set(obs["cell_type"]) == {"CVCL_0063"}
    assert sorted(obs.loc[~obs["is_control"], "pert_dose_uM"].unique()) == [10.0, 20.0]
    assert set(obs["perturbagen"]) == {"DMSO", "Vindolinine", "Dipsacoside B", "Caffeine"}
    # the CAS number is that of dipsacoside B; vindolinine is set by hand
    assert set(obs.loc[obs["perturbagen"] == "Vindolinine", "pubchem_cid"]) == {24148538}
    assert 24148538 not in set(obs.loc[obs["perturbagen"] == "Dipsacoside B", "pubchem_cid"].dropna())
    assert set(samples.var["symbol"]) == {"TSPAN6", "SEPTIN7", "HLA-A", "NKX2-1"}


def test_every_rule_is_recorded_with_its_count(tmp_path: Path) -> None:
    metadata = mce_metadata()
    metadata[5][2] = "MCE4_293T_24H_X2"
    counts: list[list[object]] = [[f"s{i}", *row] for i, row in enumerate(COUNTS)]
    counts[2] = ["s2", 0, 0, 0, 0]
    counts.append(["s99", 1, 2, 3, 4])
    assert dropped(harmonize("cigs_mce", write_mce(tmp_path, counts, metadata))) == {
        "no metadata": 1,
        "the metadata say no treatment": 0,
        "total count of 0": 1,
        "excluded: plate that the authors leave out": 1,
        "blank": 2,
        "low total for its series": 0,
        "positive control JQ1": 1,
    }


@pytest.mark.parametrize("nothing", [None, "", -666])
def test_a_sample_with_metadata_but_without_treatment_has_a_rule_of_its_own(tmp_path: Path, nothing: object) -> None:
    metadata = mce_metadata()
    column = metadata[1].index("treatment")
    row = next(row for row in metadata[2:] if row[column] == "HY-10221")
    row[column] = nothing
    samples = harmonize("cigs_mce", write_mce(tmp_path, metadata=metadata))
    lost = dropped(samples)
    assert (lost["no metadata"], lost["the metadata say no treatment"]) == (0, 1)
    assert samples.obs["perturbagen"].tolist().count("Vorinostat") == 1


def described(**changes: object) -> pd.DataFrame:
    table = pd.DataFrame({"series": "a", "treatment": ["DMSO", "HY-1", "HY-2"], "plate": "P1", "total": 100.0})
    return table.assign(**{name: table[name].where(table.index != 1, value) for name, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"total": 0.0}, "total count of 0"),
        ({"plate": "MCE4_293T_24H_X3"}, "excluded: plate that the authors leave out"),
        ({"treatment": "BLANK"}, "blank"),
        ({"treatment": "Rna"}, "blank"),
        ({"treatment": "JQ1"}, "positive control JQ1"),
    ],
)
def test_each_filter_alone(changes: dict[str, object], rule: str) -> None:
    steps = Reconciliation()
    steps.start("samples", 3)
    kept = cigs.filter_samples(described(**changes), registry.dataset("cigs_mce"), steps)
    assert kept.index.tolist() == [0, 2]
    assert {step["rule"]: step["n_dropped"] for step in steps.steps if step["n_dropped"]} == {rule: 1}


def test_low_totals_are_judged_in_their_own_series() -> None:
    totals = pd.Series([100, 110, 120, 130, 20, 10, 11, 12, 13, 14.0])
    series = pd.Series(["a"] * 5 + ["b"] * 5)
    assert cigs.is_low(totals, series).tolist() == [False] * 4 + [True] + [False] * 5
    # of three, none is judged
    assert not cigs.is_low(pd.Series([100, 100, 1.0]), pd.Series(["a"] * 3)).any()


@given(st.lists(st.integers(1, 10**7), min_size=4, max_size=40))
def test_low_totals_are_those_of_r(totals: list[int]) -> None:
    """Quartiles of type 7, written out (Hyndman and Fan 1996): at 1 + (n - 1) p."""
    log2 = np.sort(np.log2(totals))

    def quartile(p: float) -> float:
        at = (len(log2) - 1) * p
        below = int(np.floor(at))
        return float(log2[below] + (at - below) * (log2[min(below + 1, len(log2) - 1)] - log2[below]))

    limit = quartile(0.25) - 1.5 * (quartile(0.75) - quartile(0.25))
    low = cigs.is_low(pd.Series(totals, dtype=float), pd.Series(["a"] * len(totals)))
    near = np.abs(np.log2(totals) - limit) < 1e-9
    np.testing.assert_array_equal(low.to_numpy()[~near], (np.log2(totals) < limit)[~near])


@pytest.mark.parametrize(
    ("cell", "symbol"),
    [
        (datetime.datetime(2024, 9, 7), "SEPT7"),
        (datetime.date(2011, 3, 1), "MARCH1"),
        ("2024-09-07 00:00:00", "SEPT7"),
        ("2025-12-01", "DEC1"),
        ("X7.Sep", "SEPT7"),
        ("1-Mar", "MARCH1"),
        ("HLA.DPA1", "HLA-DPA1"),
        ("NKX3.1", "NKX3-1"),
        (" A2M ", "A2M"),
        ("ATP5G2", "ATP5G2"),
        ("RP11.34P13", "RP11.34P13"),
    ],
)
def test_symbols_are_repaired(cell: object, symbol: str) -> None:
    assert cigs.repaired_symbol(cell) == symbol


@pytest.mark.parametrize(
    ("name", "unwrapped"), [("Dipsaco\nside B", "Dipsacoside B"), ("Acid \r\n salt", "Acid salt"), ("A\n B", "A B"), ("A  B", "A B")]
)
def test_names_are_unwrapped(name: str, unwrapped: str) -> None:
    assert cigs.unwrapped(name) == unwrapped


def test_reading_in_pieces_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = harmonize("cigs_mce", write_mce(tmp_path))
    monkeypatch.setattr(cigs, "ROWS_AT_ONCE", 3)
    pieces = harmonize("cigs_mce", tmp_path)
    np.testing.assert_array_equal(whole.X.toarray(), pieces.X.toarray())


def rows(first: object = 5, sample: str = "s2") -> list[list[object]]:
    return [[f"s{i}", *(COUNTS[i] if f"s{i}" != sample else [first, *COUNTS[i][1:]])] for i in range(8)]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (rows(""), r"_Counts\.xlsx; column TSPAN6; rows s2: the count of gene TSPAN6 is missing"),
        (rows("n/a"), "the count of gene TSPAN6 is 'n/a'"),
        (rows(52.5), r"s2.*52.5 of gene TSPAN6 is not a count"),
        (rows(-1), r"-1.* of gene TSPAN6 is not a count"),
        ([*rows(), ["s2", 1, 1, 1, 1]], "s2.*a sample occurs more than once"),
        ([], "there is no sample"),
        ([["x", 1, 1, 1, 1]], "rows x: no sample of the counts is described.*s0, s1, s2"),
    ],
)
def test_counts_that_cannot_be_used_are_named(tmp_path: Path, counts: list[list[object]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        harmonize("cigs_mce", write_mce(tmp_path, counts))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pert_idose", "20 uM", "column pert_idose; rows s2: 1 samples have '20 uM'.*10 µM for every sample"),
        ("pert_itime", "48 h", "column pert_itime; rows s2: 1 samples have '48 h'.*24 h for every sample"),
    ],
)
def test_another_dose_or_time_is_refused(tmp_path: Path, column: str, value: str, message: str) -> None:
    metadata = mce_metadata()
    metadata[4][metadata[1].index(column)] = value
    with pytest.raises(InputError, match=message):
        harmonize("cigs_mce", write_mce(tmp_path, metadata=metadata))


def test_missing_pieces_are_named(tmp_path: Path) -> None:
    write_mce(tmp_path, metadata=[[NOTE], ["unique_ID", "treatment"], ["s0", "DMSO"]])
    with pytest.raises(InputError, match="there is no column sample_plate"):
        harmonize("cigs_mce", tmp_path)
    write_workbook(tmp_path / f"{MCE}_MetaData.xlsx", {"a": [[NOTE], ["something", "else"]]})
    with pytest.raises(InputError, match=r"_MetaData\.xlsx.*there is no header row"):
        harmonize("cigs_mce", tmp_path)
    (tmp_path / f"{MCE}_Counts.xlsx").write_text("<html>Sign in</html>")
    write_workbook(tmp_path / f"{MCE}_MetaData.xlsx", {"a": mce_metadata()})
    with pytest.raises(InputError, match="the workbook cannot be read"):
        harmonize("cigs_mce", tmp_path)
    write_mce(tmp_path)
    write_workbook(tmp_path / SUPPLEMENT, {"Sheet 1": [["x"]]})
    with pytest.raises(InputError, match=r"there is no sheet Supplementary Table 3.*Sheet 1"):
        harmonize("cigs_mce", tmp_path)
    write_mce(tmp_path)
    write_workbook(tmp_path / "MCE_Bioactive_Compounds_MDA_MB_231_10μM_Counts.xlsx", {"a": [[NOTE]]})
    with pytest.raises(InputError, match="MDA_MB_231_10μM have counts or samples, but not both"):
        harmonize("cigs_mce", tmp_path)


def test_both_signs_for_micro_make_one_series(tmp_path: Path) -> None:
    write_mce(tmp_path)
    (tmp_path / f"{MCE}_Counts.xlsx").rename(tmp_path / f"{MCE}_Counts.xlsx".replace("μ", "µ"))
    assert harmonize("cigs_mce", tmp_path).n_obs == 5
