"""The registry: order, ids, pairs, families, what counts once, and that its text is valid."""

from __future__ import annotations

from importlib.resources import files
from itertools import combinations
from pathlib import PurePosixPath
from typing import get_args

import pytest
from pydantic import ValidationError

from perturbridge_dagster import registry
from perturbridge_dagster.contract import HARMONIZED_OBS
from perturbridge_dagster.effects.design import WithoutControls
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry import Benchmark, Dataset, Download, EffectsOptions, SourceFile
from perturbridge_dagster.sample import DATASETS as SAMPLED

ALL = (
    "l1000_phase1",
    "l1000_phase2",
    "tahoe",
    "cigs_mce",
    "novartis",
    "vcpi_0001",
    "cigs_tcm",
    "vcpi_0002",
    "gdpx2",
    "sciplex",
    "dilimap_train",
    "dilimap_train_val",
    "op3",
)


def entry(**changes: object) -> dict[str, object]:
    """A registry entry as TOML gives it, changed."""
    return registry.dataset("sciplex").model_dump(by_alias=True, exclude={"expectations"}) | changes


def test_datasets_are_in_the_printed_order() -> None:
    assert tuple(registry.datasets()) == ALL
    assert registry.in_order(["vcpi_0009", "op3", "vcpi_0003", "tahoe", "op3"]) == ["tahoe", "op3", "vcpi_0003", "vcpi_0009"]


def test_every_dataset_of_the_sample_is_registered_and_has_a_reader() -> None:
    readers = {file.name.removesuffix(".py") for file in files("perturbridge_dagster.sources").iterdir()}
    for dataset in registry.datasets().values():
        assert dataset.reader in readers
    assert set(SAMPLED) == set(registry.datasets())


def test_a_dataset_knows_its_options() -> None:
    sciplex = registry.dataset("sciplex")
    assert (sciplex.effects.normalized, sciplex.effects.min_cells, sciplex.modality, sciplex.single_cell) == (False, 10, "counts", True)
    effects = sciplex.effects
    assert (effects.gene_filter, effects.standard_errors, effects.times, effects.without_controls) == ("edgeR", "limma", None, "refuse")
    l1000 = registry.dataset("l1000_phase1")
    assert (l1000.effects.normalized, l1000.modality, l1000.effects.without_controls) == (True, "normalized", "fit")
    assert registry.dataset("vcpi_0001").access.token_variable == "TVC_TOKEN"
    assert registry.dataset("gdpx2").strata == ("cell_type", "percent_volume_dmso")
    assert {id_: dataset.effects.min_cells for id_, dataset in registry.datasets().items() if dataset.single_cell or id_ == "op3"} == {
        "tahoe": 50,
        "sciplex": 10,
        "op3": 10,
    }


def test_what_may_not_be_redistributed_is_restricted() -> None:
    restricted = {id_ for id_, dataset in registry.datasets().items() if dataset.licence.class_ == "restricted"}
    assert restricted == {"gdpx2", "cigs_mce", "cigs_tcm", "dilimap_train", "dilimap_train_val"}


def test_times_are_an_option() -> None:
    named = Dataset.model_validate(entry(effects={"normalized": False, "min_cells": 10, "times": [24, 72.5]}))
    assert named.effects.model_dump(mode="json")["times"] == [24.0, 72.5]
    assert named.checksum == registry.dataset("sciplex").checksum, "options of effects make no harmonized samples stale"


def test_what_becomes_of_times_without_controls_is_what_a_design_knows() -> None:
    assert get_args(EffectsOptions.model_fields["without_controls"].annotation) == get_args(WithoutControls)


def test_constants_lie_in_the_vocabulary_of_the_contract() -> None:
    for dataset in registry.datasets().values():
        for constants in (dataset.constants, *dataset.cell_context_constants.values()):
            for name, value in constants.items():
                allowed = HARMONIZED_OBS[name].allowed
                assert not allowed or value in allowed, (dataset.id, name, value)


def test_constants_of_a_cell_context_are_those_of_one_that_is_expected() -> None:
    for dataset in registry.datasets().values():
        for context in dataset.cell_context_constants:
            assert context in dataset.expectations["cell_context_ids"].ours, (dataset.id, context)


def test_the_caller_cannot_change_the_registry() -> None:
    registry.datasets().clear()
    assert registry.datasets()
    with pytest.raises(ValidationError):
        registry.dataset("sciplex").label = "other"  # type: ignore[misc]


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'sciplex2' is not registered.*l1000_phase1, .*sciplex.*vcpi_ and the four digits"):
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


def test_a_dataset_and_the_one_that_contains_it_are_never_a_pair() -> None:
    train, both = "dilimap_train", "dilimap_train_val"
    assert registry.dataset(both).contains == (train,)
    assert registry.dataset_pairs([train, both]) == []
    assert registry.dataset_pairs([train, both, "op3"]) == [(both, "op3")], "agreement uses the larger one"
    assert registry.dataset_pairs([train, "op3"]) == [(train, "op3")]
    pairs = registry.dataset_pairs(ALL)
    assert len(pairs) == 12 * 11 / 2
    assert pairs == [pair for pair in combinations(ALL, 2) if train not in pair]


def test_what_contains_another_counts_once_and_is_in_no_corpus() -> None:
    train, both = "dilimap_train", "dilimap_train_val"
    assert registry.compendium_datasets([both, "sciplex", train]) == ["sciplex", both]
    assert registry.compendium_datasets(["op3", train]) == [train, "op3"]
    assert registry.corpus_datasets([both, "sciplex", train]) == ["sciplex", train]
    assert registry.corpus_datasets([both]) == [], "its held-out samples are trained on in no case"
    assert registry.corpus_datasets(["vcpi_0007", "sciplex"]) == ["sciplex", "vcpi_0007"]


# ---- families ----------------------------------------------------------------------------------------------------------------


def test_the_id_of_a_release_is_enough() -> None:
    release = registry.dataset("vcpi_0003")
    known = registry.dataset("vcpi_0001")
    assert (release.id, release.label, release.citation.split()[-1]) == ("vcpi_0003", "VCPI-0003", "vcpi-0003")
    assert (release.reader, release.access, release.control, release.effects) == (
        known.reader,
        known.access,
        known.control,
        known.effects,
    )
    assert "load_experiment('vcpi-0003')" in str(release.files[0].downloads[0].command)
    assert "vcpi_0003" not in registry.datasets()
    assert registry.dataset_pairs(["vcpi_0003", "sciplex"]) == [("sciplex", "vcpi_0003")]


def test_nothing_is_taken_for_known_of_a_release_that_nobody_has_looked_at() -> None:
    release = registry.dataset("vcpi_0003")
    assert release.licence.class_ == "restricted"
    assert not release.expectations
    assert not {"tissue", "disease", "sex"} & set(release.constants), "another release may be of other cells"
    assert registry.dataset("vcpi_0002").constants["disease"] == "childhood acute monocytic leukemia"


@pytest.mark.parametrize("id_", ["vcpi_3", "vcpi_00031", "vcpi_abcd", "vcpi", "gdpx_0001", "vcpi__0003"])
def test_what_only_looks_like_a_release_is_not_registered(id_: str) -> None:
    with pytest.raises(InputError, match="is not registered"):
        registry.dataset(id_)


# ---- benchmarks --------------------------------------------------------------------------------------------------------------


def test_a_benchmark_has_files_and_is_no_member_of_the_compendium() -> None:
    benchmark = registry.source("op3_benchmark")
    assert isinstance(benchmark, Benchmark)
    assert benchmark.layer == "clipped_sign_log10_pval"
    assert [file.role for file in benchmark.files] == ["train", "test", "id_map"]
    assert benchmark.licence.class_ == "restricted", "nobody states its terms"
    assert "op3_benchmark" not in registry.datasets()
    with pytest.raises(InputError, match="'op3_benchmark' is not registered"):
        registry.dataset("op3_benchmark")
    assert registry.source("sciplex") == registry.dataset("sciplex")


# ---- files -------------------------------------------------------------------------------------------------------------------


def test_every_required_file_can_be_had() -> None:
    for id_ in (*ALL, "op3_benchmark", "vcpi_0003"):
        entry = registry.source(id_)
        lacking = [file.role for file in entry.files if file.required and not file.downloads]
        assert not lacking, (id_, lacking)
        on_request = [one.name for file in entry.files for one in file.downloads if not (one.url or one.command)]
        assert bool(on_request) == (entry.access.kind == "on_request"), (id_, on_request)


def test_a_downloaded_file_has_one_role() -> None:
    for id_ in (*ALL, "op3_benchmark"):
        entry = registry.source(id_)
        for name in (PurePosixPath(one.name) for file in entry.files for one in file.downloads):
            assert len([file.role for file in entry.files if file.matches(name)]) == 1, (id_, name)


def test_tahoe_has_fourteen_plates() -> None:
    files_of = {file.role: [one.url for one in file.downloads] for file in registry.dataset("tahoe").files}
    assert len(set(files_of["counts"])) == len(set(files_of["cells"])) == 14


def test_where_files_lie_and_what_is_expected_do_not_decide_the_samples() -> None:
    sciplex = registry.dataset("sciplex")
    file = sciplex.files[0].model_copy(update={"downloads": (), "meaning": "something else"})
    same = sciplex.model_copy(update={"expectations": {}, "contains": ("op3",), "files": (file, *sciplex.files[1:]), "citation": "none"})
    assert same.checksum == sciplex.checksum
    other = sciplex.model_copy(update={"files": (file.model_copy(update={"patterns": ("*.h5ad",)}), *sciplex.files[1:])})
    assert other.checksum != sciplex.checksum


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a.h5ad", "url": "ftp://host/a.h5ad"}, "String should match pattern"),
        ({"name": "a.h5ad", "url": "s3://bucket/a.h5ad", "command": "fetch"}, "both a url and a command"),
        ({"name": "../a.h5ad", "url": "s3://bucket/a.h5ad"}, "not a path below"),
        ({"name": "/a.h5ad"}, "not a path below"),
        ({"name": "a.h5ad", "size": 0}, "greater than 0"),
        ({"name": "a.h5ad", "checksum": "sha256:123"}, "String should match pattern"),
    ],
)
def test_a_download_that_makes_no_sense_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Download.model_validate(values)


def test_a_file_that_the_reader_would_not_find_is_refused() -> None:
    declared = {"role": "counts", "patterns": ["*.gctx"], "excluded": ["GSE7*"], "required": True, "meaning": "counts"}
    assert SourceFile.model_validate({**declared, "downloads": [{"name": "GSE9.gctx"}]})
    for name in ("GSE9.gctx.gz", "GSE7.gctx"):
        with pytest.raises(ValidationError, match="the reader would not find"):
            SourceFile.model_validate({**declared, "downloads": [{"name": name}]})


def test_a_fault_in_an_entry_is_told_with_its_file_and_field() -> None:
    with pytest.raises(InputError, match=r"file datasets/x\.toml; column effects\.min_cells: Input should be greater than or equal to 0"):
        registry._entry(Dataset, "x", entry(effects={"normalized": False, "min_cells": -1}) | {"id": "x"}, "datasets/x.toml")


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
        {"strata": ["cell_type", "percent_volume_dmso"]},
        {"cell_context_constants": {"CVCL_0004": {"tisue": "lung"}}},
        {"effects": {"normalized": True, "min_cells": 10}},
        {"effects": {"normalized": False, "min_cells": 0, "gene_filter": "edger"}},
        {"effects": {"normalized": False, "min_cells": 0, "standard_errors": "robust"}},
        {"effects": {"normalized": False, "min_cells": 0, "without_controls": "drop"}},
        {"effects": {"normalized": False, "min_cells": 0, "times": []}},
        {"effects": {"normalized": False, "min_cells": 0, "times": [24, -1]}},
        {"access": {"kind": "token", "how": "ask"}},
        {"access": {"kind": "open", "how": "ask", "token_variable": "TOKEN"}},
        {"access": {"kind": "public", "how": "take"}},
        {"files": [{"role": "a", "patterns": ["a"], "required": True, "meaning": "a", "downloads": [{"name": "a"}]}]},
        {"files": 2 * [{"role": "a", "patterns": ["a"], "required": True, "meaning": "a"}]},
        {"expectations": {"samles": {"published": 1}}},
        {"expectations": {"samples": {"published": {"CVCL_0004": 1}}}},
        {"expectations": {"samples_by_stratum": {"published": 1}}},
        {"expectations": {"gene_ids_returned": {"ours": 1, "reason": "why"}}},
        {"extra_fields": {"sex": "A field of the contract."}},
        {"extra_fields": {"level": {"meaning": "Vehicle.", "type": "list"}}},
        {"extra_fields": {"level": "no sentence"}},
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    Dataset.model_validate(entry())
    Dataset.model_validate(entry(strata=["cell_type", "level"], extra_fields={"level": "Vehicle."}))
    with pytest.raises(ValidationError):
        Dataset.model_validate(entry(**changes))


def test_further_columns_have_a_type_and_stand_after_those_of_the_contract() -> None:
    table = registry.dataset("gdpx2").obs_table
    assert table.names == [*HARMONIZED_OBS.names, "percent_volume_dmso"]
    assert (table["percent_volume_dmso"].type, table["percent_volume_dmso"].unit) == ("float64", "%")
    split = registry.dataset("dilimap_train").obs_table["split"]
    assert (split.type, split.nullable, split.meaning) == ("string", True, "Split of the source: training or validation.")
    assert registry.dataset("sciplex").obs_table == HARMONIZED_OBS


def test_the_type_of_a_further_column_decides_the_samples_and_its_wording_does_not() -> None:
    def checksum(**field: str) -> str:
        return Dataset.model_validate(entry(extra_fields={"level": {"meaning": "Vehicle.", **field}})).checksum

    assert checksum(meaning="Level of the vehicle.") == checksum()
    assert checksum(type="float64") != checksum()
