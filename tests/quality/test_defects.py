"""Defects of sources in harmonized samples, on tables made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.contract import DROPPED_GENES, RECONCILIATION
from perturbridge_dagster.identity.doses import shared_nominal_dose_uM
from perturbridge_dagster.quality.defects import (
    controls_by_plate,
    doses_off_the_grid,
    headers_as_genes,
    lost_conditions,
    perturbagen_names,
)
from perturbridge_dagster.quality.suites import Finding


def failing(findings: list[Finding]) -> list[tuple[str, str]]:
    """Rules that do not hold, with their severity."""
    return [(finding.rule.words, finding.rule.severity) for finding in findings if not finding.passed]


def samples(**columns: Any) -> pd.DataFrame:
    """Four samples of two plates, a control and a compound on each."""
    table = pd.DataFrame(
        {
            "sample_id": list("abcd"),
            "perturbagen": ["DMSO", "x", "DMSO", "x"],
            "source_perturbagen_id": None,
            "cell_type": "CVCL_0023",
            "pert_time_h": 24.0,
            "plate": ["P1", "P1", "P2", "P2"],
            "is_control": [True, False, True, False],
            "pert_dose_uM": [0.0, 10.0, 0.0, 10.0],
            "nominal_dose_uM": [0.0, 10.0, 0.0, 10.0],
        }
    )
    return table.assign(**columns)


def steps(*rows: tuple[str, str, int, int]) -> pd.DataFrame:
    table = [(i, axis, rule, n_in, n_dropped, n_in - n_dropped) for i, (axis, rule, n_in, n_dropped) in enumerate(rows)]
    return pd.DataFrame(table, columns=RECONCILIATION.names)


@pytest.mark.slow
def test_sound_samples_have_no_defect() -> None:
    for findings in (perturbagen_names(samples()), controls_by_plate(samples()), doses_off_the_grid(samples())):
        assert findings
        assert failing(findings) == []


@pytest.mark.parametrize(
    ("name", "words", "severity"),
    [
        *(
            (name, "no perturbagen is a word for missing", "error")
            for name in ("", " ", "nan", "None", "NULL", "<NA>", "N/A", "-666", "-666.0")
        ),
        *(
            (name, "no perturbagen is the header of a column", "error")
            for name in ("pert_iname", "Compound", "sm_name", "product_name", "Drug", "perturbagen")
        ),
        *((name, "no perturbagen is a number", "warning") for name in ("949", "1.5", "-3", "1e5", "0,5")),
    ],
)
def test_what_is_no_name_is_found(name: str, words: str, severity: str) -> None:
    findings = perturbagen_names(samples(perturbagen=["DMSO", name, "DMSO", name]))
    assert (words, severity) in failing(findings)
    [found] = [finding for finding in findings if finding.rule.words == words]
    assert found.failing_rows["sample_id"].tolist() == ["b"]


@pytest.mark.parametrize("name", ["949X", "5-FU", "Nanchangmycin", "None-such", "Drug-1", "JQ1", "18β-Glycyrrhetinic acid", "1,2-Dithiole"])
def test_names_with_numbers_and_such_words_in_them_are_names(name: str) -> None:
    assert failing(perturbagen_names(samples(perturbagen=["DMSO", name, "DMSO", name]))) == []


def genes(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"ensembl_id": [f"ENSG{i:011d}" for i in range(len(ids))], "source_gene_id": list(ids)})


def dropped(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"source_gene_id": list(ids), "file": "counts.h5ad"}, columns=DROPPED_GENES.names)


@pytest.mark.parametrize("header", ["gene_id", "Gene", "symbol", "gene_short_name", "ensembl_gene_id", "A1BG;index", "geneID"])
def test_a_header_that_became_a_gene_is_an_error(header: str) -> None:
    assert failing(headers_as_genes(genes("A1BG", header), dropped(), steps())) == [("no header row is a gene", "error")]


def test_a_header_that_was_dropped_is_a_warning_wherever_it_was_dropped() -> None:
    warning = [("no header row of the source was read as a gene and dropped", "warning")]
    assert failing(headers_as_genes(genes("A1BG"), dropped("NOWHERE", "gene_name"), steps())) == warning
    by_reader = steps(("genes", "column header read as a gene", 10, 1))
    assert failing(headers_as_genes(genes("A1BG"), None, by_reader)) == warning
    none = steps(("genes", "column header read as a gene", 10, 0), ("genes", "spike-in, ERCC-…", 10, 2))
    assert failing(headers_as_genes(genes("GENESIS", "IDH1", "SYMPK"), dropped("IDI2-AS1"), none)) == []


def test_a_rule_that_loses_conditions_is_named() -> None:
    table = steps(
        ("samples", "low", 9, 3),
        ("conditions", "low", 5, 2),
        ("conditions", "total count of 0", 3, 0),
        ("conditions", "positive control", 3, 1),
        ("conditions", "spelled in several ways by the source", 2, 1),
    )
    [finding] = lost_conditions(table)
    assert not finding.passed
    assert finding.rule.severity == "warning"
    assert finding.failing_rows[["rule", "n_in", "n_dropped", "n_out"]].to_numpy().tolist() == [["low", 5, 2, 3]]
    [finding] = lost_conditions(table[table["rule"] != "low"])
    assert finding.passed


def test_a_plate_without_controls_of_one_time_or_context_is_found() -> None:
    obs = samples(pert_time_h=[24.0, 24.0, 24.0, 6.0])
    [finding] = controls_by_plate(obs)
    assert finding.failing_rows[["plate", "pert_time_h"]].to_numpy().tolist() == [["P2", 6.0]]
    [finding] = controls_by_plate(samples(cell_type=["CVCL_0023", "CVCL_0004", "CVCL_0023", "CVCL_0023"]))
    assert finding.failing_rows[["plate", "cell_type"]].to_numpy().tolist() == [["P1", "CVCL_0004"]]
    # a plate of controls alone needs none
    [finding] = controls_by_plate(samples()[lambda table: table["sample_id"] != "d"])
    assert finding.passed


def test_a_dose_written_another_way_than_it_was_meant_is_found_once() -> None:
    doses = np.array([10.0, 9.99999, 9.99999, 3.33, 3.3333, 1.0])
    obs = pd.DataFrame({"perturbagen": "x", "is_control": False, "pert_dose_uM": doses})
    obs["nominal_dose_uM"] = shared_nominal_dose_uM(obs["pert_dose_uM"], [obs["perturbagen"]])
    [finding] = doses_off_the_grid(obs)
    assert finding.rule.severity == "warning"
    assert set(finding.failing_rows["pert_dose_uM"]) <= {9.99999, 3.33, 3.3333}
    assert 9.99999 in set(finding.failing_rows["pert_dose_uM"])
    assert finding.failing_rows.set_index("pert_dose_uM")["n_samples"][9.99999] == 2
