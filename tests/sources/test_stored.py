"""Reading stored matrices in blocks, and refusing what are not counts."""

from __future__ import annotations

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
from perturbridge_dagster.sources.stored import as_counts, member, open_hdf5, row_blocks


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
