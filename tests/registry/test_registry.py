"""The registry: order, ids, pairs, and that its text is valid."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from perturbridge_dagster import registry
from perturbridge_dagster.contract import HARMONIZED_OBS
from perturbridge_dagster.effects.design import WithoutControls
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry import Dataset, EffectsOptions


def entry(**changes: object) -> dict[str, object]:
    """A registry entry as TOML gives it, changed."""
    return registry.dataset("sciplex").model_dump(by_alias=True) | changes


def test_datasets_are_in_the_printed_order() -> None:
    assert list(registry.datasets()) == ["l1000_phase1", "vcpi_0001", "sciplex"]


def test_a_dataset_knows_its_options() -> None:
    sciplex = registry.dataset("sciplex")
    assert (sciplex.effects.normalized, sciplex.effects.min_cells, sciplex.modality, sciplex.single_cell) == (False, 10, "counts", True)
    effects = sciplex.effects
    assert (effects.gene_filter, effects.standard_errors, effects.times, effects.without_controls) == ("edgeR", "limma", None, "refuse")
    l1000 = registry.dataset("l1000_phase1")
    assert (l1000.effects.normalized, l1000.modality, l1000.effects.without_controls) == (True, "normalized", "fit")
    assert registry.dataset("vcpi_0001").access.token_variable == "TVC_TOKEN"


def test_times_are_an_option() -> None:
    named = Dataset.model_validate(entry(effects={"normalized": False, "min_cells": 10, "times": [24, 72.5]}))
    assert named.effects.model_dump(mode="json")["times"] == [24.0, 72.5]
    assert named.checksum == registry.dataset("sciplex").checksum, "options of effects make no harmonized samples stale"


def test_what_becomes_of_times_without_controls_is_what_a_design_knows() -> None:
    assert get_args(EffectsOptions.model_fields["without_controls"].annotation) == get_args(WithoutControls)


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
        {"effects": {"normalized": False, "min_cells": 0, "gene_filter": "edger"}},
        {"effects": {"normalized": False, "min_cells": 0, "standard_errors": "robust"}},
        {"effects": {"normalized": False, "min_cells": 0, "without_controls": "drop"}},
        {"effects": {"normalized": False, "min_cells": 0, "times": []}},
        {"effects": {"normalized": False, "min_cells": 0, "times": [24, -1]}},
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    Dataset.model_validate(entry())
    with pytest.raises(ValidationError):
        Dataset.model_validate(entry(**changes))
