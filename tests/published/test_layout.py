from __future__ import annotations

from pathlib import Path

import pytest

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published import Release
from perturbridge_dagster.published.layout import REPOSITORY, batch_of_file


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(release: Release, dataset: str, **options: object) -> dict[str, list[str]]:
    found = release.strata(dataset, **options)  # type: ignore[arg-type]
    return {stratum: [str(file.relative_to(release.folder)) for file in files] for stratum, files in found.items()}


def test_files_of_the_repository_are_found(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "gdpx2/group_rep/CL_0000515_0.0625_de.h5ad",
        "gdpx2/sep_rep/CL_0000515_0.0625_de.h5ad",
        "gdpx2/group_rep/.CL_0000515_0.0625_de.h5ad",
        "gdpx2/group_rep/notes.txt",
        "novartis_batch_2500/group_rep/CVCL_0042_de.h5ad",
        "novartis_batch_2500/novartis_standardized_processed.h5ad",
        "l1000_phase2/group_rep/NPC.CAS9_de.h5ad",
    )
    release = Release(tmp_path)
    assert names(release, "gdpx2") == {"CL_0000515_0.0625": ["gdpx2/group_rep/CL_0000515_0.0625_de.h5ad"]}
    assert names(release, "gdpx2", replicates="separate") == {"CL_0000515_0.0625": ["gdpx2/sep_rep/CL_0000515_0.0625_de.h5ad"]}
    assert list(names(release, "novartis")) == ["CVCL_0042"]
    assert list(names(release, "l1000_phase2")) == ["NPC.CAS9"]
    assert release.samples("novartis") == tmp_path / "novartis_batch_2500" / "novartis_standardized_processed.h5ad"
    assert release.samples("gdpx2") is None
    assert names(release, "tahoe") == {}
    assert release.samples("tahoe") is None


def test_files_of_the_pipeline_are_found_by_their_run(tmp_path: Path) -> None:
    run = "sciplex/deg_data/group_rep/full/qc_false/filter_min_cells_{}"
    touch(
        tmp_path,
        f"{run.format(10)}/results/CVCL_0023_de.h5ad",
        f"{run.format(50)}/results/CVCL_0031_de.h5ad",
        "sciplex/pseudobulk_processed/group_rep/srivatsan20_sciplex3_processed.h5ad",
    )
    release = Release(tmp_path)
    assert list(names(release, "sciplex", min_cells=10)) == ["CVCL_0023"]
    assert list(names(release, "sciplex", min_cells=50)) == ["CVCL_0031"]
    assert names(release, "sciplex") == {}
    assert release.samples("sciplex").name == "srivatsan20_sciplex3_processed.h5ad"


def test_batches_of_a_stratum_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = "vcpi_0001/deg_data/group_rep/full/qc_false/filter_min_cells_0/intermediate/CVCL_0006"
    touch(tmp_path, *(f"{folder}/CVCL_0006_processed_batch_{number}_de.h5ad" for number in (10, 2, 1)))
    [(stratum, files)] = Release(tmp_path).strata("vcpi_0001").items()
    assert stratum == "CVCL_0006"
    assert [batch_of_file(file) for file in files] == ["batch_1", "batch_2", "batch_10"]
    assert batch_of_file(Path("CVCL_0006_de.h5ad")) is None


def test_a_folder_that_is_not_there_says_what_is_expected(tmp_path: Path) -> None:
    Release(tmp_path).require_folder()
    with pytest.raises(InputError, match=r"does not exist.*sciplex/group_rep/CVCL_0023_de.h5ad.*theislab/chem-perturbridge"):
        Release(tmp_path / "nowhere").require_folder()


def test_what_the_registry_downloads_is_where_the_reader_looks(tmp_path: Path) -> None:
    source = registry.source("chem_perturbridge")
    declared = [one for file in source.files for one in file.downloads]
    touch(tmp_path, *(one.name for one in declared))
    release = Release(tmp_path)
    found = {
        str(file.relative_to(tmp_path))
        for dataset in registry.datasets()
        for replicates in ("grouped", "separate")
        for files in release.strata(dataset, replicates=replicates).values()
        for file in files
    }
    found |= {str(file.relative_to(tmp_path)) for dataset in registry.datasets() if (file := release.samples(dataset))}
    assert found == {one.name for one in declared}
    assert all(one.url and one.url.startswith(f"hf://datasets/{REPOSITORY}@") and one.url.endswith(one.name) for one in declared)
    assert {file.role for file in source.files if file.required} == {"effects"}
    for name in (Path(one.name) for one in declared):
        assert len([file.role for file in source.files if file.matches(name)]) == 1, name


def test_no_restricted_dataset_is_among_what_is_downloaded() -> None:
    folders = {one.name.split("/")[0] for file in registry.source("chem_perturbridge").files for one in file.downloads}
    restricted = {id_ for id_, dataset in registry.datasets().items() if dataset.licence.class_ == "restricted"}
    assert restricted
    assert not folders & restricted
