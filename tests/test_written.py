from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from perturbridge_dagster.contract import GENES, HARMONIZED_VAR
from perturbridge_dagster.errors import IncompatibleFileError
from perturbridge_dagster.written import (
    Stamp,
    content_checksum,
    read_h5ad,
    read_parquet,
    read_stamp,
    require_compatible,
    write_h5ad,
    write_parquet,
    written_whole,
)

STAMP = Stamp("harmonized_samples", "1", "d" * 64, ("sciplex",), "open")
VAR = pd.DataFrame(
    {"ensembl_id": ["ENSG00000000003"], "symbol": [None], "source_gene_id": ["TSPAN6"], "is_merged": [False]},
)


def samples(**changes: object) -> ad.AnnData:
    values = {"X": sparse.csr_matrix(np.array([[1, 0], [0, 2]], dtype=np.int64)), "plate": ["p1", "p2"], "symbol": ["A", "B"]} | changes
    obs = pd.DataFrame({"plate": values["plate"]}, index=["s1", "s2"])
    return ad.AnnData(values["X"], obs=obs, var=pd.DataFrame({"symbol": values["symbol"]}, index=["g1", "g2"]))


@given(
    left=st.sampled_from(["open", "restricted"]),
    right=st.sampled_from(["open", "restricted"]),
    sources=st.lists(st.sampled_from("abcd"), min_size=2, max_size=2),
    taints=st.lists(st.text(), max_size=3),
)
def test_a_derived_stamp_adds_up_sources_and_taints_and_one_restricted_input_restricts_it(left, right, sources, taints):
    first = replace(STAMP, licence=left, source_datasets=(sources[0],), unaccepted_inputs=tuple(taints))
    second = replace(STAMP, licence=right, source_datasets=(sources[1],))
    derived = first.derived("condition_effects", "2", "e" * 64, second)
    assert derived.source_datasets == tuple(sorted(set(sources)))
    assert derived.licence == ("open" if left == right == "open" else "restricted")
    assert set(derived.unaccepted_inputs) == set(taints)
    assert Stamp.from_json(derived.to_json()) == derived


def test_a_written_parquet_file_comes_back_with_its_stamp_and_nulls(tmp_path: Path):
    file = tmp_path / "deep" / "var.parquet"
    write_parquet(file, VAR, HARMONIZED_VAR, STAMP)
    back = read_parquet(file, "harmonized_samples")
    assert read_stamp(file) == STAMP
    assert back["symbol"].isna().all()
    assert list(back.columns) == HARMONIZED_VAR.names
    assert pq.read_schema(file).field("ensembl_id").metadata[b"meaning"]


def test_nullable_integers_come_back_as_integers(tmp_path: Path):
    genes = pd.DataFrame({name: [1.0, 2.0] for name in GENES.names})
    genes = genes.assign(gene=[0, 1], ensembl_id=["a", "b"], symbol=["A", None], support=pd.array([3, None], dtype="Int64"))
    write_parquet(tmp_path / "genes.parquet", genes, GENES, STAMP)
    back = read_parquet(tmp_path / "genes.parquet", "harmonized_samples")
    assert back["support"].dtype == "Int64"
    assert back["support"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (VAR.drop(columns="symbol"), "lacks symbol"),
        (VAR.assign(source_gene_id=None), "source_gene_id: 1 missing"),
        (VAR.assign(is_merged=["perhaps"]), "column is_merged"),
    ],
)
def test_a_frame_that_does_not_fit_the_contract_is_refused_and_nothing_is_written(tmp_path: Path, frame, words):
    with pytest.raises(IncompatibleFileError, match=words):
        write_parquet(tmp_path / "var.parquet", frame, HARMONIZED_VAR, STAMP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stamp", "stage", "words"),
    [
        (replace(STAMP, contract_version="2.0"), "harmonized_samples", "follows contract 2.0"),
        (replace(STAMP, contract_version="1.7"), "harmonized_samples", None),
        (STAMP, "condition_effects", "written by harmonized_samples; expected a file of condition_effects"),
        (STAMP, ["condition_effects", "harmonized_samples"], None),
    ],
)
def test_consumers_refuse_what_does_not_fit(stamp, stage, words):
    if words is None:
        assert require_compatible(stamp, Path("f"), stage) is stamp
    else:
        with pytest.raises(IncompatibleFileError, match=words):
            require_compatible(stamp, Path("f"), stage)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path):
    VAR.to_parquet(tmp_path / "foreign.parquet")
    samples().write_h5ad(tmp_path / "foreign.h5ad")
    for name in ("foreign.parquet", "foreign.h5ad"):
        with pytest.raises(IncompatibleFileError, match="carries no stamp"):
            read_stamp(tmp_path / name)


def test_an_h5ad_comes_back_and_the_given_object_is_left_alone(tmp_path: Path):
    given_samples = samples()
    write_h5ad(tmp_path / "s.h5ad", given_samples, STAMP)
    assert not given_samples.uns
    back = read_h5ad(tmp_path / "s.h5ad", "harmonized_samples")
    assert content_checksum(back) == content_checksum(given_samples)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("old")

    def write_half() -> None:
        with written_whole(file) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "change",
    [
        {"plate": ["p1", "p3"]},
        {"symbol": ["A", None]},
        {"X": sparse.csr_matrix(np.array([[1, 0], [2, 0]], dtype=np.int64))},
        {"X": sparse.csr_matrix(np.array([[1, 0], [0, 2]], dtype=np.float32))},
    ],
)
def test_the_content_checksum_tells_changes_of_content(change):
    assert content_checksum(samples(**change)) != content_checksum(samples())


def test_the_content_checksum_does_not_see_how_content_is_stored():
    unsorted = sparse.csr_matrix((np.array([5, 1]), np.array([1, 0]), np.array([0, 2, 2])), shape=(2, 2))
    in_order = sparse.csr_matrix(np.array([[1, 5], [0, 0]]))
    assert content_checksum(samples(X=unsorted)) == content_checksum(samples(X=in_order))
    categories = samples()
    categories.obs["plate"] = categories.obs["plate"].astype("category")
    assert content_checksum(categories) == content_checksum(samples())
