"""Rows of counts that wait on disk: the same rows come back, in any order, in bounded memory."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.sources import spilled
from perturbridge_dagster.sources.spilled import SpilledRows, spill_folder, spilling_to


def filled(matrix: np.ndarray, heights: list[int]) -> SpilledRows:
    """Rows of a dense matrix, appended some at a time."""
    rows, start = SpilledRows(), 0
    for height in heights:
        rows.append(sparse.csr_matrix(matrix[start : start + height]))
        start += height
    return rows


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([0, 50, 2**28]), st.sampled_from([1, 3, 2**22]))
def test_any_rows_come_back_in_any_order(data: st.DataObject, in_memory: int, at_once: int) -> None:
    heights = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    n_rows, n_columns = sum(heights), data.draw(st.integers(1, 6))
    large = data.draw(st.booleans())
    values = st.sampled_from([0, 0, 1, 255, 2**31 - 1, *([2**31, 2**53] if large else [])])
    cells = data.draw(st.lists(values, min_size=n_rows * n_columns, max_size=n_rows * n_columns))
    matrix = np.array(cells, np.int64).reshape(n_rows, n_columns)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spilled, "IN_MEMORY", in_memory)
        patched.setattr(spilled, "AT_ONCE", at_once)
        rows = filled(matrix, heights)
        assert (rows.n_rows, rows.n_values) == (n_rows, np.count_nonzero(matrix))
        np.testing.assert_array_equal(rows.totals(), matrix.sum(axis=1))
        order = np.array(data.draw(st.permutations(range(n_rows))) + data.draw(st.lists(st.integers(0, max(n_rows - 1, 0)), max_size=4)))
        order = order[: len(order) if n_rows else 0].astype(np.int64)
        read = rows.read(order)
        assert (read.dtype, read.indices.dtype) == (np.int64, np.int32)
        np.testing.assert_array_equal(read.toarray(), matrix[order])
        most = data.draw(st.integers(1, 10))
        blocks = list(rows.blocks(order, max_values=most))
        assert all(block.nnz <= most or block.shape[0] == 1 for block in blocks)
        np.testing.assert_array_equal(np.vstack([np.zeros((0, n_columns)), *(block.toarray() for block in blocks)]), matrix[order])
        chosen = np.array(data.draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows)), bool)
        found = [block.toarray() for block in rows.selected(chosen)]
        np.testing.assert_array_equal(np.vstack([np.zeros((0, n_columns)), *found]), matrix[chosen])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_values_keep_their_type(dtype: type) -> None:
    matrix = np.array([[0, 1], [2, 0]], dtype)
    read = filled(matrix, [1, 1]).read(np.array([1, 0]))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read.toarray(), matrix[::-1])


def test_blocks_of_several_types_are_one_matrix() -> None:
    rows = SpilledRows()
    rows.append(sparse.csr_matrix(np.array([[0, 3]], np.int32)))
    rows.append(sparse.csr_matrix(np.array([[0.5, 0]])))
    np.testing.assert_array_equal(rows.read(np.array([0, 1])).toarray(), [[0, 3], [0.5, 0]])
    with pytest.raises(ValueError, match="3 columns after one of 2"):
        rows.append(sparse.csr_matrix((1, 3)))


def test_rows_go_where_they_are_told_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilled, "IN_MEMORY", 1)
    before = spill_folder()
    with spilling_to(tmp_path):
        assert spill_folder() == tmp_path
        rows = filled(np.ones((3, 2), np.int64), [3])
        assert Path(f"/proc/self/fd/{rows._file.fileno()}").readlink().parent == tmp_path
    assert spill_folder() == before
    file = rows._file
    del rows
    gc.collect()
    assert file.closed
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SpilledRows()
    monkeypatch.setattr(rows, "_file", Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115
    with pytest.raises(PerturbridgeError, match=r"has no room for the counts.*TMPDIR"):
        rows.append(sparse.csr_matrix(np.ones((1, 2), np.int64)))
    rows._file.close()


PROGRAM = """
import numpy as np
from bench.process import memory
from scipy import sparse
from perturbridge_dagster.sources.spilled import SpilledRows
rows, generator = SpilledRows(), np.random.default_rng(1)
def block(height):
    pointer = np.arange(height + 1) * 5_000
    columns = np.tile(np.arange(0, 60_000, 12, dtype=np.int32), height)
    return sparse.csr_matrix((generator.integers(1, 99, len(columns)), columns, pointer), shape=(height, 60_000))
rows.append(block(10)); sum(part.nnz for part in rows.blocks(np.arange(10), max_values=1_000_000))
before = memory("VmHWM")
for _ in range(100):
    rows.append(block(200))
order = generator.permutation(rows.n_rows)
assert sum(part.nnz for part in rows.blocks(order, max_values=1_000_000)) == rows.n_values
print(rows.n_values, memory("VmHWM") - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows() -> None:
    n_values, grown = map(int, subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout.split())
    assert n_values * 12 > 2**30  # what it would take in memory
    # what is kept in memory, once more while it goes to the file, and a few blocks
    assert grown < 2 * spilled.IN_MEMORY + 2**27
