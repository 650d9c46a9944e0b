"""The rules between tables of effects, on tables made by hand and on files of an earlier contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from perturbridge_dagster.quality.checks import _estimable, _filtered_genes, _gene_support, effects
from perturbridge_dagster.stages import STAGES

FIXTURES = Path(__file__).parents[1] / "fixtures"

Made = Callable[..., Any]


@pytest.fixture
def stored() -> Made:
    """What the checks ask of stored effects: two contrasts, three tested genes, two components of plates."""

    def make(**info: Any) -> SimpleNamespace:
        contrasts = pd.DataFrame(
            {
                "contrast": [0, 1],
                "perturbagen": ["x", "y"],
                "pert_dose_uM": [1.0, 2.0],
                "pert_time_h": [24.0, 24.0],
                "control": ["DMSO", "DMSO"],
                "sample_id": [None, None],
                "plates": ["P02", "Q1"],
                "control_plates": ["P00; P01", "P00; P01"],
                "component": [0, 1],
                "control_component": [0, 0],
                "estimable": [True, False],
            }
        )
        genes = pd.DataFrame({"ensembl_id": [f"ENSG{i:011d}" for i in (1, 2, 4)], "support": pd.array([1, 30, 3], dtype="Int64")})
        design = {"n_samples": 100, "components": [[f"P{i:02d}" for i in range(14)], ["Q1", "Q2"]]}
        return SimpleNamespace(contrasts=contrasts, genes=genes, info={"normalized": False, "design": design} | info)

    return make


def filtered(**used: Any) -> dict[str, Any]:
    return {"gene_filter": {"rule": "edgeR", "min_samples": 1.0, "cut_off_cpm": 5.0, "n_kept": 3, "n_given": 5, "share": None} | used}


def test_contrasts_that_cannot_be_estimated_are_named_with_the_plates_of_both_components(stored: Made) -> None:
    [finding] = _estimable(stored())
    assert not finding.passed
    assert finding.rule.severity == "warning"
    assert finding.note == "condition and controls share no chain of plates in 1 of 2 contrasts"
    [row] = finding.failing_rows.to_dict("records")
    assert (row["perturbagen"], row["plates"], row["component_plates"]) == ("y", "Q1", "Q1; Q2")
    assert row["control_component_plates"].startswith("P00; P01; P02;")
    assert row["control_component_plates"].endswith("P09 and 4 more")


def test_contrasts_that_can_be_estimated_need_no_words(stored: Made) -> None:
    made = stored()
    made.contrasts = made.contrasts[:1]
    assert [(finding.passed, finding.note) for finding in _estimable(made)] == [(True, "")]


def test_many_genes_with_little_support_are_warned_of_with_what_would_leave_them_out(stored: Made) -> None:
    finding = _gene_support(stored(**filtered()))
    assert not finding.passed
    assert finding.rule.severity == "warning"
    assert finding.note == (
        "1 of 3 reach the cut-off of the filter in fewer than 2 of 100 samples; it asked for 1; "
        'gene_filter="supported" asks for a share of the samples'
    )
    assert finding.said == f"at most 10% of the tested genes have little support ({finding.note})"
    assert finding.failing_rows["share_with_little_support"].tolist() == pytest.approx([1 / 3])
    assert "supported_share" in _gene_support(stored(**filtered(rule="supported", share=0.01))).note


@pytest.mark.parametrize(
    ("supports", "n_samples", "n_weak"),
    [
        ([1] + [30] * 9, 100, 1),  # a tenth is not many
        ([1, 1] + [30] * 9, 100, 2),
        ([2, 2] + [30] * 9, 40, 0),  # two samples of a small stratum are not little
        ([9, 9] + [30] * 9, 500, 2),
        ([10, 10] + [30] * 9, 500, 0),
    ],
)
def test_little_support_is_one_sample_or_a_small_share_of_them(stored: Made, supports: list[int], n_samples: int, n_weak: int) -> None:
    made = stored(**filtered())
    made.genes = pd.DataFrame({"ensembl_id": [f"ENSG{i:011d}" for i in range(len(supports))], "support": pd.array(supports, dtype="Int64")})
    made.info["design"]["n_samples"] = n_samples
    finding = _gene_support(made)
    assert finding.passed == (n_weak <= 1)
    assert finding.note.startswith(f"{n_weak} of {len(supports)} reach the cut-off of the filter")
    assert ("gene_filter=" in finding.note) == (not finding.passed)


def test_the_support_of_normalized_values_is_not_judged_and_that_is_said(stored: Made) -> None:
    for info in ({"normalized": True, "gene_filter": None}, {"normalized": True, "gene_filter": "edgeR"}):
        finding = _gene_support(stored(**info))
        assert finding.passed
        assert finding.note == "normalized values are not filtered"


def test_effects_that_do_not_say_what_the_filter_asked_for_are_not_judged(stored: Made) -> None:
    for info in ({}, {"gene_filter": "edgeR"}, filtered(min_samples=None)):
        finding = _gene_support(stored(**info))
        assert finding.passed
        assert finding.note == "these effects do not say what the filter asked for"


def given_genes(stored: Any) -> pd.DataFrame:
    """The table of the filter that fits three tested genes of five."""
    return pd.DataFrame(
        {
            "ensembl_id": [f"ENSG{i:011d}" for i in range(5)],
            "symbol": None,
            "total_count": pd.array([0, 20, 900, 14, 70], dtype="Int64"),
            "support": pd.array([0, 1, 30, 1, 3], dtype="Int64"),
            "kept": [False, True, True, False, True],
        }
    )


def test_tested_genes_are_those_that_the_filter_kept(stored: Made) -> None:
    made = stored()
    assert all(finding.passed for finding in _filtered_genes(made, given_genes(made)))
    # normalized values: no support anywhere
    nothing = pd.array([None] * 5, dtype="Int64")
    unsupported = given_genes(made).assign(support=nothing, total_count=nothing)
    made.genes["support"] = nothing[:3]
    assert all(finding.passed for finding in _filtered_genes(made, unsupported))


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        (lambda given: given.assign(kept=[True, True, True, False, True]), [0]),
        (lambda given: given.assign(kept=[False, True, True, False, False]), [4]),
        (lambda given: given[given["ensembl_id"] != "ENSG00000000002"], [2]),
        (lambda given: given.assign(support=pd.array([0, 1, 31, 1, None], dtype="Int64")), [2, 4]),
    ],
    ids=["kept but not tested", "tested but not kept", "tested but not given", "another support"],
)
def test_genes_on_which_the_tables_disagree_are_named(stored: Made, damage: Any, failing: list[int]) -> None:
    made = stored()
    failed = [finding for finding in _filtered_genes(made, damage(given_genes(made))) if not finding.passed]
    assert [finding.failing_rows["ensembl_id"].tolist() for finding in failed] == [[f"ENSG{i:011d}" for i in failing]]
    assert failed[0].rule.severity == "error"


@pytest.mark.parametrize("folder", sorted(FIXTURES.glob("contract-*")), ids=lambda folder: folder.name)
def test_effects_of_every_contract_can_be_judged(folder: Path) -> None:
    found = effects(folder / "effects")
    assert set(found) == {check.name for check in STAGES["condition_effects"].checks}
    for findings in found.values():
        assert findings
        assert all(finding.passed for finding in findings)
