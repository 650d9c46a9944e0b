"""The rules between the tables of harmonized samples, on tables made by hand and on files of earlier contracts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perturbridge_dagster.contract import DROPPED_GENES, HARMONIZED_OBS
from perturbridge_dagster.quality.checks import _NOMINAL_RULES, _columns, _dropped_genes, _nominal_doses, harmonized_samples
from perturbridge_dagster.quality.expectations import dropped_by_reason
from perturbridge_dagster.quality.suites import validate
from perturbridge_dagster.registry import dataset as registered

pytestmark = pytest.mark.slow

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("contract-*"))

STEPS = pd.DataFrame(
    [
        ("genes", "spike-in, ERCC-…", 12, 2, 10),
        ("genes", "no current Ensembl id (a)", 10, 2, 8),
        ("genes", "several source genes on one Ensembl id (a)", 8, 1, 7),
        ("genes", "not in every file of the dataset (2)", 7, 1, 6),
    ],
    columns=["axis", "rule", "n_in", "n_dropped", "n_out"],
)

LISTED: list[dict[str, Any]] = [
    {"source_gene_id": "x", "reason": "unknown", "rule": STEPS["rule"][1]},
    {"source_gene_id": "y", "reason": "retired", "rule": STEPS["rule"][1], "counts_lost": 5},
    # two source genes that are one gene, which the other file lacks
    {"source_gene_id": "z1", "reason": "not in every file", "rule": STEPS["rule"][3], "ensembl_id": "ENSG00000000003"},
    {"source_gene_id": "z2", "reason": "not in every file", "rule": STEPS["rule"][3], "ensembl_id": "ENSG00000000003"},
]


def listed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    own = {"dataset": "d", "file": "a", "ensembl_id": None, "found": None, "counts_lost": None}
    return pd.DataFrame([own | row for row in rows], columns=DROPPED_GENES.names).astype({"counts_lost": "Int64"})


def judged(rows: list[dict[str, Any]], steps: pd.DataFrame = STEPS) -> list[str]:
    """Rules that do not hold."""
    return [finding.rule.words for finding in _dropped_genes(listed(rows), steps) if not finding.passed]


def test_every_lost_gene_is_listed_and_every_listed_gene_is_counted() -> None:
    assert judged(LISTED) == []
    assert judged(LISTED[1:]) == ["every gene that a rule lost is listed with its reason"]
    assert judged([*LISTED, LISTED[0] | {"source_gene_id": "more"}]) == ["every gene that a rule lost is listed with its reason"]
    assert judged([*LISTED, LISTED[0] | {"rule": "not mine"}]) == ["every dropped gene is counted by a rule of the reconciliation"]
    assert judged(LISTED, STEPS[:3]) == ["every dropped gene is counted by a rule of the reconciliation"]
    assert judged([], STEPS.assign(n_dropped=0)) == []
    assert judged([LISTED[0] | {"reason": "no idea"}, *LISTED[1:]])[0].startswith("reason is one of retired, ambiguous")


def test_dropped_genes_are_summed_by_reason() -> None:
    found = dropped_by_reason(listed(LISTED))
    assert found[["reason", "genes", "counts_lost"]].to_numpy().tolist() == [
        ["not in every file", 2, 0],
        ["retired", 1, 5],
        ["unknown", 1, 0],
    ]
    assert dropped_by_reason(listed([])).empty


@pytest.mark.parametrize(
    ("dose", "nominal", "holds"),
    [
        (10.0, 10.0, True),
        (9.99999, 10.0, True),
        (10.0, 10.34, True),
        (10.0, 10.8, False),
        (10.0, None, False),
        (0.0, 0.0, True),
        (0.0, 1e-9, False),
    ],
)
def test_a_nominal_dose_is_near_the_dose(dose: float, nominal: float | None, holds: bool) -> None:
    obs = pd.DataFrame({"sample_id": ["s"], "pert_dose_uM": [dose], "nominal_dose_uM": pd.Series([nominal], dtype=float)})
    [finding] = validate(_nominal_doses(obs), _NOMINAL_RULES, ["sample_id"])
    assert finding.passed == holds


def test_samples_have_the_declared_columns_and_no_others() -> None:
    table = registered("gdpx2").obs_table
    obs = pd.DataFrame(columns=table.names)

    def holds(frame: pd.DataFrame) -> bool:
        [finding] = validate(frame, [_columns(table)], [])
        return finding.passed

    assert holds(obs)
    assert not holds(obs.assign(split="x"))
    assert not holds(obs.drop(columns="percent_volume_dmso"))
    assert set(table.names) - set(HARMONIZED_OBS.names) == {"percent_volume_dmso"}


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_samples_of_an_earlier_contract_are_judged_by_it(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("harmonized_samples.*.parquet"):
        shutil.copyfile(file, tmp_path / file.name.removeprefix("harmonized_samples."))
    findings = harmonized_samples(tmp_path)
    words = [finding.rule.words for family in findings.values() for finding in family]
    # nothing is asked that the contract of the file did not have
    had_model_systems = "model_system" in HARMONIZED_OBS.as_of(folder.name.removeprefix("contract-")).names
    assert ("model_system is a column" in words) == had_model_systems
    assert "pert_dose_uM is a column" in words
    for family in ("schema", "identity", "dose_time"):
        assert [finding.rule.words for finding in findings[family] if not finding.passed and finding.rule.severity == "error"] == []
