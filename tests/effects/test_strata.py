from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.contract import STRATA
from perturbridge_dagster.effects import split_strata, strata_table
from perturbridge_dagster.effects.strata import stratum_id
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import content_checksum, to_arrow


@pytest.fixture
def samples(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    made = simulate([("DMSO", 0.0, 24.0, "A", 4), ("x", 1.0, 24.0, "A", 2), ("x", 2.0, 24.0, "B", 2)], n_genes=5)
    made.obs["cell_type"] = ["CVCL_0002", "CVCL_0001"] * 4
    made.obs["source_cell_context"] = ["HeLa", "A549"] * 4
    made.obs["percent_volume_dmso"] = [0.5, 0.5, 0.0625, 0.0625] * 2
    return made


@pytest.fixture
def two_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose dataset has strata of cell context and vehicle level."""
    monkeypatch.setattr("perturbridge_dagster.registry.dataset", lambda _: SimpleNamespace(strata=["cell_type", "percent_volume_dmso"]))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (("CL_0000515", 0.0625), "CL_0000515_0.0625"),
        (("HeLa S3 (CCL-2/2)",), "HeLa_S3_CCL-2-2"),
        (("CVCL_0001", 1.0), "CVCL_0001_1"),
        (("CVCL_0001", 1e-05), "CVCL_0001_1e-05"),
    ],
)
def test_stratum_ids_follow_the_published_rule(values: Any, name: str) -> None:
    assert stratum_id(values) == name


@pytest.mark.parametrize("value", ["µ-cells", "", "../x", "a|b"])
def test_an_id_that_cannot_be_a_file_name_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="not a legal name"):
        stratum_id((value,))


def test_an_unregistered_dataset_is_cut_by_cell_context(samples: ad.AnnData) -> None:
    strata = list(split_strata(samples, "no_such_dataset"))
    assert [stratum.stratum for stratum, _ in strata] == ["CVCL_0001", "CVCL_0002"]
    first, part = strata[0]
    assert (first.dataset, first.cell_type, first.source_cell_context) == ("no_such_dataset", "CVCL_0001", "A549")
    assert first.fields == (("cell_type", "CVCL_0001"),)
    assert part.obs_names.tolist() == ["s001", "s003", "s005", "s007"]
    assert part.uns["stratum"] == "CVCL_0001"
    assert not part.is_view
    np.testing.assert_array_equal(part.X, samples[part.obs_names].X)


@pytest.mark.usefixtures("two_fields")
def test_strata_follow_the_fields_of_the_registry_also_as_categories(samples: ad.AnnData) -> None:
    for form in (samples, ad.AnnData(samples.X, obs=samples.obs.astype({"cell_type": "category", "percent_volume_dmso": "category"}))):
        strata = [stratum for stratum, _ in split_strata(form, "gdpx2")]
        assert [stratum.stratum for stratum in strata] == ["CVCL_0001_0.0625", "CVCL_0001_0.5", "CVCL_0002_0.0625", "CVCL_0002_0.5"]
        assert strata[0].fields == (("cell_type", "CVCL_0001"), ("percent_volume_dmso", 0.0625))


@pytest.mark.usefixtures("two_fields")
def test_missing_strata_fields_are_refused_with_their_rows(samples: ad.AnnData) -> None:
    samples.obs.loc["s002", "percent_volume_dmso"] = np.nan
    with pytest.raises(InputError, match=r"dataset gdpx2; column percent_volume_dmso; rows s002"):
        list(split_strata(samples, "gdpx2"))
    del samples.obs["percent_volume_dmso"]
    with pytest.raises(InputError, match="absent from obs"):
        list(split_strata(samples, "gdpx2"))


def test_two_strata_of_one_name_are_refused(samples: ad.AnnData) -> None:
    samples.obs["cell_type"] = ["a b", "a_b"] * 4
    with pytest.raises(InputError, match="would both be named a_b"):
        list(split_strata(samples, "no_such_dataset"))


def test_backed_samples_give_the_same_strata(samples: ad.AnnData, tmp_path: Any) -> None:
    samples.obs = samples.obs.drop(columns="pubchem_cid")
    samples.write_h5ad(tmp_path / "all.h5ad")
    backed = ad.read_h5ad(tmp_path / "all.h5ad", backed="r")
    for (one, part), (two, backed_part) in zip(split_strata(samples, "x"), split_strata(backed, "x"), strict=True):
        assert one == two
        assert not backed_part.isbacked
        np.testing.assert_array_equal(part.X, backed_part.X)
    backed.file.close()


def test_the_table_of_strata_fits_the_contract(samples: ad.AnnData) -> None:
    parts = [(stratum, part, f"strata/{stratum.stratum}.h5ad") for stratum, part in split_strata(samples, "no_such_dataset")]
    table = strata_table(reversed(parts))
    assert to_arrow(table, STRATA).num_rows == 2
    expected = {"n_samples": 4, "n_treated": 2, "n_controls": 2, "n_conditions": 2, "n_perturbagens": 1, "n_plates": 2, "n_genes": 5}
    for position, (stratum, part, file) in enumerate(parts):
        row = table.iloc[position]
        assert row[list(expected)].to_dict() == expected
        assert (row["stratum"], row["file"], row["checksum"]) == (stratum.stratum, file, content_checksum(part))


def test_the_checksum_tells_strata_apart_and_not_runs(samples: ad.AnnData) -> None:
    def checksums(made: ad.AnnData) -> list[str]:
        return strata_table((stratum, part, "f") for stratum, part in split_strata(made, "no_such_dataset"))["checksum"].tolist()

    before = checksums(samples)
    assert checksums(samples.copy()) == before
    changed = samples.copy()
    changed.X[samples.obs_names.get_loc("s001"), 0] += 1
    after = checksums(changed)
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True]


def test_an_empty_table_has_its_columns() -> None:
    assert strata_table([]).columns.tolist() == STRATA.names
    assert isinstance(strata_table([]), pd.DataFrame)
