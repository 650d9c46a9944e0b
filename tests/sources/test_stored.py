"""Reading stored matrices in blocks, and refusing what are not counts."""

from __future__ import annotations

import zlib
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.stored import StoredMatrix, StoredValues, as_counts, member, open_hdf5, row_blocks


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 12), st.integers(1, 6)),
    max_rows=st.integers(1, 5),
    max_values=st.integers(1, 12),
    dense=st.booleans(),
)
def test_blocks_are_the_matrix_in_order_and_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shape: tuple[int, int], max_rows: int, max_values: int, dense: bool
) -> None:
    matrix = np.random.default_rng(seed).poisson(0.7, shape)
    file = tmp_path_factory.mktemp("blocks") / "x.h5"
    with h5py.File(file, "w") as opened:
        ad.io.write_elem(opened, "X", matrix if dense else sparse.csr_matrix(matrix))
        blocks = list(row_blocks(opened["X"], max_rows=max_rows, max_values=max_values))
    assert [start for start, _ in blocks] == list(np.cumsum([0, *(block.shape[0] for _, block in blocks)])[:-1])
    read = np.vstack([np.empty((0, shape[1])), *(block.toarray() for _, block in blocks)])
    np.testing.assert_array_equal(read, matrix)
    for _, block in blocks:
        assert block.shape[0] == 1 or (block.shape[0] <= max_rows and block.nnz <= max_values)


STORAGE = {
    "contiguous": {},
    "chunks": {"chunks": (7,)},
    "gzip": {"chunks": (7,), "compression": "gzip"},
    "shuffle": {"chunks": (7,), "compression": "gzip", "shuffle": True},
    "checksum": {"chunks": (7,), "compression": "gzip", "fletcher32": True},
    "lzf": {"chunks": (7,), "compression": "lzf"},
}


@pytest.mark.parametrize("storage", sorted(STORAGE))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1"])
def test_any_range_of_any_storage_is_what_hdf5_reads(tmp_path: Path, storage: str, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 200, 52).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        opened.create_dataset("x", data=values, **STORAGE[storage])
    with h5py.File(tmp_path / "x.h5") as opened:
        stored = StoredValues(opened["x"])
        for start in range(0, 53, 3):
            for stop in range(start, 53):
                read = stored.read(start, stop)
                assert read.dtype == dtype
                np.testing.assert_array_equal(read, values[start:stop])


def test_chunks_that_were_never_written_and_filters_left_out_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        sparse_one = opened.create_dataset("never", (20,), "i4", chunks=(5,), compression="gzip", fillvalue=3)
        sparse_one[5:10] = 1
        plain = opened.create_dataset("unfiltered", (5,), "i4", chunks=(5,), compression="gzip")
        # 1: the first filter was left out
        plain.id.write_direct_chunk((0,), np.arange(5, dtype="i4").tobytes(), filter_mask=1)
        opened.create_dataset("empty", (0,), "i4", maxshape=(None,), compression="gzip")
    with h5py.File(tmp_path / "x.h5") as opened:
        assert StoredValues(opened["never"]).read(3, 12).tolist() == [3, 3, 1, 1, 1, 1, 1, 3, 3]
        assert StoredValues(opened["unfiltered"]).read(1, 5).tolist() == [1, 2, 3, 4]
        assert StoredValues(opened["empty"]).read(0, 0).tolist() == []


@pytest.mark.parametrize("damage", [b"no zlib stream", b""])
def test_a_damaged_chunk_is_refused(tmp_path: Path, damage: bytes) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        stored = opened.create_dataset("x", data=np.arange(100), chunks=(50,), compression="gzip")
        stored.id.write_direct_chunk((50,), damage or zlib.compress(b"short"))
    with (
        pytest.raises(InputError, match=r"x\.h5: the file cannot be read as HDF5.*chunk of /x at 50"),
        open_hdf5(tmp_path / "x.h5", "d") as opened,
    ):
        StoredValues(opened["x"]).read(0, 100)


@pytest.mark.parametrize("pointer", [[0, 2, 1, 3], [0, 1, 2, 9], [1, 1, 2, 3], [0, 1, 3]])
def test_pointers_that_do_not_fit_are_refused(tmp_path: Path, pointer: list[int]) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        ad.io.write_elem(opened, "X", sparse.csr_matrix(np.eye(3)))
        del opened["X/indptr"]
        opened["X/indptr"] = np.array(pointer)
    with pytest.raises(InputError, match=r"the pointers of /X do not fit 3 rows"), open_hdf5(tmp_path / "x.h5", "d") as opened:
        StoredMatrix(opened["X"])


def test_rows_of_a_matrix_stored_by_column_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as opened:
        ad.io.write_elem(opened, "X", sparse.csc_matrix(np.eye(3)))
    message = r"dataset d; file .*x\.h5ad: /X is stored by column \(CSC\).*adata\.X = adata\.X\.tocsr\(\)"
    with pytest.raises(InputError, match=message), open_hdf5(tmp_path / "x.h5ad", "d") as opened:
        next(row_blocks(opened["X"]))


def test_columns_are_known_in_new_files_and_old_files_are_known(tmp_path: Path) -> None:
    matrix = sparse.csc_matrix(np.array([[1, 0, 2], [0, 3, 0]]))
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        ad.io.write_elem(opened, "X", matrix)
        # as AnnData wrote it before 0.7
        for name in list(opened["X"].attrs):
            del opened["X"].attrs[name]
        opened["X"].attrs.update({"h5sparse_format": "csc", "h5sparse_shape": (2, 3)})
        stored = StoredMatrix(opened["X"])
        assert (stored.shape, stored.by_column) == ((2, 3), True)
        pointer, rows, values = stored.read(1, 3)
    assert (pointer.tolist(), rows.tolist(), values.tolist()) == ([0, 1, 2], [1, 0], [3, 2])


def test_blocks_of_a_dense_matrix_end_where_chunks_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        stored = StoredMatrix(opened.create_dataset("x", (50, 10), "i4", chunks=(8, 5)))
    assert stored.shape == (50, 10)
    with h5py.File(tmp_path / "x.h5") as opened:
        stored = StoredMatrix(opened["x"])
        assert stored.blocks(max_values=190) == [(0, 16), (16, 32), (32, 48), (48, 50)]
        # no whole chunk fits
        assert stored.blocks(max_values=50)[:2] == [(0, 5), (5, 10)]


ROWS, GENES = pd.Index(["c1", "c2"]), pd.Index(["g1", "g2", "g3"])


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf])
def test_what_is_not_a_count_is_named(value: float) -> None:
    block = sparse.csr_matrix(np.array([[1.0, 0, 2], [0, 0, value]]))
    with pytest.raises(InputError, match=r"dataset d; file f\.h5ad; rows c2: .* of gene g3 is not a count; 1 values"):
        as_counts(block, ROWS, GENES, "d", Path("f.h5ad"))


def test_whole_floats_are_counts() -> None:
    counts = as_counts(sparse.csr_matrix(np.array([[1.0, 0, 2], [0, 0, 3e9]])), ROWS, GENES, "d", Path("f"))
    assert counts.dtype == np.int64
    assert counts[1, 2] == 3_000_000_000


def test_a_file_that_is_no_hdf5_and_one_without_the_member_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5ad").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"text\.h5ad: the file cannot be read as HDF5"), open_hdf5(tmp_path / "text.h5ad", "d"):
        pass
    h5py.File(tmp_path / "empty.h5ad", "w").close()
    with open_hdf5(tmp_path / "empty.h5ad", "d") as opened, pytest.raises(InputError, match="the file has no obs"):
        member(opened, "obs", "d")
