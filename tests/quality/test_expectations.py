"""Counts beside what the registry expects of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perturbridge_dagster import registry
from perturbridge_dagster.contract import HARMONIZED_OBS, HARMONIZED_VAR, RECONCILIATION, STRATA
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.quality.checks import _expectations
from perturbridge_dagster.quality.expectations import (
    Comparison,
    compare_expectations,
    compare_harmonized,
    comparison_table,
    harmonized_counts,
)
from perturbridge_dagster.registry.expectations import QUANTITIES, Band
from perturbridge_dagster.written import Stamp, write_parquet


def as_expected(dataset: str) -> dict[str, object]:
    """Counts of a dataset that are just what is expected, or published where nothing certain is."""
    counts = {}
    for name, expectation in registry.dataset(dataset).expectations.items():
        value = expectation.published if expectation.ours is None else expectation.ours
        if QUANTITIES[name].counted_on == "harmonized_samples":
            counts[name] = value.low if isinstance(value, Band) else value
    return counts


def only(found: list[Comparison], quantity: str, stratum: str | None = None) -> Comparison:
    [one] = [comparison for comparison in found if (comparison.quantity, comparison.stratum) == (quantity, stratum)]
    return one


@pytest.mark.parametrize("dataset", registry.datasets())
def test_what_is_as_expected_is_found_so(dataset: str) -> None:
    found = compare_expectations(dataset, as_expected(dataset))
    assert found
    assert {comparison.verdict for comparison in found} <= {"as expected", "reported"}
    for comparison in found:
        assert (comparison.verdict == "reported") == (not comparison.expected)


def test_a_difference_is_told_in_words_with_its_size() -> None:
    counts = as_expected("op3") | {"samples": 1_700, "genes": 5_400, "controls_by_stratum": {"CL_0000084": 48, "CL_0000236": 50}}
    found = compare_expectations("op3", counts)
    assert only(found, "samples").words == "samples: 1,700 where 1,813 was expected, 113 fewer"
    assert only(found, "genes").words == "genes: 5,400 where 5,235 to 5,317 was expected, 83 more"
    assert only(found, "controls_by_stratum", "CL_0000236").verdict == "differs"
    assert only(found, "controls_by_stratum", "CL_0000763").words.endswith("0 where 48 was expected, 48 fewer")
    assert [comparison.quantity for comparison in found if comparison.verdict == "differs"] == [
        "samples",
        "controls_by_stratum",
        "controls_by_stratum",
        "controls_by_stratum",
        "genes",
    ]


@pytest.mark.parametrize(("genes", "verdict"), [(5_234, "differs"), (5_235, "as expected"), (5_317, "as expected"), (5_318, "differs")])
def test_both_ends_of_a_band_belong_to_it(genes: int, verdict: str) -> None:
    assert compare_expectations("op3", {"genes": genes})[0].verdict == verdict


def test_cell_contexts_that_are_gone_or_new_are_named() -> None:
    ids = ["CL_0000084", "CL_0000236", "CL_0000623", "PBMC"]
    [found] = compare_expectations("op3", {"cell_context_ids": ids})
    assert (found.verdict, found.words) == ("differs", "cell_context_ids: CL_0000763 is gone; PBMC is new")
    published = registry.dataset("l1000_phase1").expectations["cell_context_ids"].published
    assert isinstance(published, tuple)
    [found] = compare_expectations("l1000_phase1", {"cell_context_ids": [*published[1:], "CL_0000182"]})
    assert (found.verdict, found.expected) == ("reported", "")
    assert "CD34 is gone; CL_0000182 is new" in found.words


def test_what_is_not_known_beforehand_is_only_reported() -> None:
    [found] = compare_expectations("sciplex", {"perturbagens": 5})
    assert (found.verdict, found.published, found.expected, found.observed) == ("reported", "188", "", "5")
    assert "full product names" in found.words


def test_of_a_part_of_the_source_nothing_else_is_compared() -> None:
    [found] = compare_expectations("l1000_phase1", {"source_samples": 768, "samples": 700, "genes": 12})
    assert found.verdict == "reported"
    assert found.words == "source_samples: 768 of 1,319,138, a part of the source, so no count is compared"
    assert only(compare_expectations("op3", as_expected("op3") | {"source_samples": 2_196}), "source_samples").verdict == "differs"


def test_what_was_not_counted_or_is_not_expected_is_left_out() -> None:
    assert compare_expectations("op3", {}) == []
    assert compare_expectations("op3", {"cells": 5}) == []
    assert compare_expectations("vcpi_0003", {"samples": 5}) == [], "nothing is expected of a release that nobody has looked at"
    with pytest.raises(InputError):
        compare_expectations("nowhere", {"samples": 5})


# ---- counting ----------------------------------------------------------------------------------------------------------------


def tables() -> dict[str, pd.DataFrame]:
    """A small harmonized dataset: two strata, of which the counts are known."""
    rows = [
        # cell_type, plate, perturbagen, source id, control, dose, cid
        ("CVCL_0004", "p1", "DMSO", "D", True, 0.0, 679),
        ("CVCL_0004", "p1", "aspirin", "a", False, 1.0, 2244),
        ("CVCL_0004", "p2", "acetylsalicylic acid", "b", False, 1.0, 2244),
        ("CVCL_0004", "p2", "secret", "c", False, 1.0, None),
        ("CVCL_0023", "p3", "DMSO", "D", True, 0.0, 679),
        ("CVCL_0023", "p3", "aspirin", "a", False, 10.0, 2244),
    ]
    columns = ["cell_type", "plate", "perturbagen", "source_perturbagen_id", "is_control", "pert_dose_uM", "pubchem_cid"]
    obs = pd.DataFrame(rows, columns=columns).astype({"pubchem_cid": "Int64"})
    var = pd.DataFrame({"ensembl_id": ["ENSG00000000001", "ENSG00000000002"], "is_merged": [True, False]})
    strata = pd.DataFrame(
        {
            "stratum": ["CVCL_0004", "CVCL_0023"],
            "cell_type": ["CVCL_0004", "CVCL_0023"],
            "n_samples": [4, 2],
            "n_controls": [1, 1],
            "n_plates": [2, 1],
            "n_conditions": [2, 1],
        }
    )
    steps = [(0, "genes", 5, 2, 3), (1, "cells", 90, 20, 70), (2, "cells", 70, 10, 60), (3, "samples", 60, 54, 6), (4, "genes", 3, 1, 2)]
    reconciliation = pd.DataFrame(steps, columns=["step", "axis", "n_in", "n_dropped", "n_out"]).sample(frac=1, random_state=1)
    return {"obs": obs, "var": var, "strata": strata, "reconciliation": reconciliation}


def test_quantities_are_counted() -> None:
    assert harmonized_counts(**tables()) == {
        "source_genes": 5,
        "source_cells": 90,
        "cells": 60,
        "samples": 6,
        "samples_by_stratum": {"CVCL_0004": 4, "CVCL_0023": 2},
        "treated": 4,
        "controls": 2,
        "controls_by_stratum": {"CVCL_0004": 1, "CVCL_0023": 1},
        "plates": 3,
        "plates_by_stratum": {"CVCL_0004": 2, "CVCL_0023": 1},
        "perturbagens": 4,
        "compounds": 2,
        "compounds_with_cid": 3,
        "conditions": 3,
        "conditions_by_stratum": {"CVCL_0004": 2, "CVCL_0023": 1},
        "strata": 2,
        "cell_contexts": 2,
        "cell_context_ids": ["CVCL_0004", "CVCL_0023"],
        "genes": 2,
        "merged_genes": 1,
    }


def test_every_quantity_of_harmonized_samples_is_counted() -> None:
    whole = tables()
    bulk = whole | {"reconciliation": whole["reconciliation"].query("axis != 'cells'")}
    counted = {*harmonized_counts(**whole), *harmonized_counts(**bulk)}
    assert harmonized_counts(**bulk)["source_samples"] == 60
    assert counted == {name for name, quantity in QUANTITIES.items() if quantity.counted_on == "harmonized_samples"}


# ---- outputs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Folder of a harmonized output that says to be OP3, without what no count needs."""
    complete = {
        "strings": "x",
        **{field.name: {"string": "x", "bool": False}.get(field.type, 1) for table in (HARMONIZED_OBS, STRATA) for field in table},
    }
    steps = pd.DataFrame([(0, "samples", "none", 2_197, 2_191, 6)], columns=RECONCILIATION.names)
    contents = tables() | {"reconciliation": steps}
    contents["obs"]["dataset"] = "op3"
    by_name = {"obs": HARMONIZED_OBS, "var": HARMONIZED_VAR, "strata": STRATA, "reconciliation": RECONCILIATION}
    for name, table in by_name.items():
        frame = contents[name].assign(**{field: complete.get(field, "x") for field in table.names if field not in contents[name]})
        write_parquet(tmp_path / f"{name}.parquet", frame, table, Stamp("harmonized_samples", "1", "d", ("op3",), "open"))
    return tmp_path


@pytest.mark.slow
def test_a_real_output_is_compared_and_findings_say_what_differs(output: Path) -> None:
    found = compare_harmonized("op3", output)
    assert only(found, "source_samples").verdict == "as expected"
    assert only(found, "samples").verdict == "differs"
    assert list(comparison_table(found)["words"]) == [comparison.words for comparison in found]
    findings = _expectations("op3", output)
    assert [finding.rule.words for finding in findings] == [comparison.words for comparison in found]
    assert [finding.passed for finding in findings] == [comparison.verdict != "differs" for comparison in found]
    assert all(finding.rule.severity == "warning" for finding in findings)
    [samples] = [finding for finding in findings if finding.rule.words.startswith("samples: ")]
    assert samples.failing_rows[["quantity", "published", "expected", "observed"]].to_numpy().tolist() == [
        ["samples", "1,813", "1,813", "6"]
    ]


def test_the_sample_is_not_compared(output: Path) -> None:
    strata = pd.read_parquet(output / "strata.parquet")
    stamp = Stamp("harmonized_samples", "1", "d", ("op3",), "open", simulated=True)
    write_parquet(output / "strata.parquet", strata, STRATA, stamp)
    assert compare_harmonized("op3", output) == []
    assert _expectations("op3", output) == []
