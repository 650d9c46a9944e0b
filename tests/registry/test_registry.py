"""The registry: order, ids, pairs, and that its text is valid."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from perturbridge_dagster import registry
from perturbridge_dagster.contract import HARMONIZED_OBS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry import Dataset


def entry(**changes: object) -> dict[str, object]:
    """A registry entry as TOML gives it, changed."""
    return registry.dataset("sciplex").model_dump(by_alias=True) | changes


def test_datasets_are_in_the_printed_order() -> None:
    assert list(registry.datasets()) == ["l1000_phase1", "vcpi_0001", "sciplex"]


def test_a_dataset_knows_its_options() -> None:
    sciplex = registry.dataset("sciplex")
    assert (sciplex.effects.normalized, sciplex.effects.min_cells, sciplex.modality, sciplex.single_cell) == (False, 10, "counts", True)
    l1000 = registry.dataset("l1000_phase1")
    assert (l1000.effects.normalized, l1000.modality) == (True, "normalized")
    assert registry.dataset("vcpi_0001").access.token_variable == "TVC_TOKEN"


def test_constants_lie_in_the_vocabulary_of_the_contract() -> None:
    for dataset in registry.datasets().values():
        for name, value in dataset.constants.items():
            allowed = HARMONIZED_OBS[name].allowed
            assert not allowed or value in allowed, (dataset.id, name, value)


def test_the_caller_cannot_change_the_registry() -> None:
    registry.datasets().clear()
    assert registry.datasets()
    with pytest.raises(ValidationError):
        registry.dataset("sciplex").label = "other"  # type: ignore[misc]


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'sciplex2' is not registered.*l1000_phase1, vcpi_0001, sciplex"):
        registry.dataset("sciplex2")


def test_pairs_follow_the_registry_whatever_the_order_given() -> None:
    assert registry.dataset_pairs(["sciplex", "vcpi_0001", "l1000_phase1"]) == [
        ("l1000_phase1", "vcpi_0001"),
        ("l1000_phase1", "sciplex"),
        ("vcpi_0001", "sciplex"),
    ]
    assert registry.dataset_pairs(["sciplex"]) == []
    assert registry.dataset_pairs(["sciplex", "sciplex"]) == []
    with pytest.raises(InputError):
        registry.dataset_pairs(["sciplex", "nowhere"])


def test_pair_ids_are_read_back() -> None:
    assert registry.pair_key("l1000_phase1", "sciplex") == "l1000_phase1__sciplex"
    assert registry.split_pair_key("l1000_phase1__sciplex") == ("l1000_phase1", "sciplex")


@pytest.mark.parametrize("key", ["sciplex", "__sciplex", "sciplex__", "a__b__c", ""])
def test_what_is_no_pair_id_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="not the id of a dataset pair"):
        registry.split_pair_key(key)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "two__parts"},
        {"id": "Upper"},
        {"licence": {"name": "unknown", "class": "probably fine"}},
        {"constants": {"tisue": "lung"}},
        {"misspelt": 1},
        {"files": []},
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    Dataset.model_validate(entry())
    with pytest.raises(ValidationError):
        Dataset.model_validate(entry(**changes))
