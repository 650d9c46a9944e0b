"""Expectations: their form, and that the numbers of the registry agree with one another."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from perturbridge_dagster.registry import datasets
from perturbridge_dagster.registry.expectations import QUANTITIES, Band, Expectation

EXPECTED = {id_: dataset.expectations for id_, dataset in datasets().items()}


def test_ours_is_as_published_unless_it_is_said() -> None:
    assert Expectation.model_validate({"published": 5}) == Expectation(published=5, ours=5)
    assert Expectation.model_validate({"published": 5, "ours": "unknown", "reason": "why"}).ours is None
    assert Expectation.model_validate({"published": 5, "ours": {"low": 4, "high": 6}, "reason": "why"}).ours == Band(low=4, high=6)
    assert Expectation.model_validate({"ours": 5, "reason": "why"}).published is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"published": 5, "ours": 6}, "a reason must say why"),
        ({"published": 5, "ours": "unknown"}, "a reason must say why"),
        ({"published": 5, "ours": {"low": 4, "high": 6}}, "a reason must say why"),
        ({"published": 5, "ours": {"low": 6, "high": 4}, "reason": "why"}, "holds nothing"),
        ({"published": -1}, "greater than or equal to 0"),
        ({"reason": "why"}, "says neither"),
        ({"published": 5, "tolerance": 1}, "Extra inputs"),
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Expectation.model_validate(values)


def test_every_dataset_has_the_counts_that_every_dataset_has() -> None:
    for id_, expected in EXPECTED.items():
        assert {"samples", "genes", "compounds", "strata", "cell_contexts", "cell_context_ids", "contrasts"} <= set(expected), id_
        assert "source_cells" in expected or "source_samples" in expected, id_
        assert list(expected) == [name for name in QUANTITIES if name in expected], "in the order of the quantities"


@pytest.mark.parametrize("id_", EXPECTED)
@pytest.mark.parametrize("side", ["published", "ours"])
def test_the_counts_of_a_dataset_add_up(id_: str, side: str) -> None:
    count = {name: getattr(expectation, side) for name, expectation in EXPECTED[id_].items()}

    def numbers(*names: str) -> bool:
        return all(isinstance(count.get(name), int) for name in names)

    if numbers("samples", "treated", "controls"):
        assert count["treated"] + count["controls"] == count["samples"]
    for total in ("samples", "controls", "conditions", "contrasts", "replicate_contrasts"):
        parts = count.get(f"{total}_by_stratum")
        if numbers(total, "strata") and isinstance(parts, dict):
            assert sum(parts.values()) <= count[total]
            if len(parts) == count["strata"]:
                assert sum(parts.values()) == count[total]
    if isinstance(count["cell_context_ids"], tuple):
        assert list(count["cell_context_ids"]) == sorted(set(count["cell_context_ids"]))
        assert len(count["cell_context_ids"]) == count["cell_contexts"]
    if numbers("perturbagens", "compounds"):
        assert count["compounds"] == count["perturbagens"] - 1, "all but the vehicle"
    if side == "published":
        kinds = ("current", "without_replacement", "with_one_replacement", "with_several_replacements")
        assert sum(count.get(f"gene_ids_{kind}", 0) for kind in kinds) == count["gene_ids_returned"] <= count["gene_ids_looked_up"]
        assert count["gene_ids_current"] <= count["genes"] or count["merged_genes"]


def test_a_band_holds_what_is_published_unless_a_count_is_mended() -> None:
    outside = {
        (id_, name)
        for id_, expected in EXPECTED.items()
        for name, expectation in expected.items()
        if isinstance(expectation.ours, Band)
        and isinstance(expectation.published, int)
        and not expectation.ours.low <= expectation.published <= expectation.ours.high
    }
    assert outside == {("gdpx2", "compounds_with_cid")}, "published counts positive controls, which are dropped"


def test_samples_of_the_compendium_are_those_of_the_published_table() -> None:
    rows = {id_: expected["samples"].published for id_, expected in EXPECTED.items() if id_ != "dilimap_train"}
    assert sum(rows.values()) == 1_305_466  # type: ignore[arg-type]
