"""Filters of single cells, and sums of cells."""

from __future__ import annotations

from functools import partial
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
from perturbridge_dagster.sources import single_cell
from perturbridge_dagster.sources.native import Reconciliation
from perturbridge_dagster.sources.single_cell import GROUP, cell_statistics, filter_cells, group_cells, sum_cells
from perturbridge_dagster.sources.stored import row_blocks

FILE = Path("cells.h5ad")


def write_matrix(folder: Path, matrix: object) -> Path:
    with h5py.File(folder / "x.h5", "w") as opened:
        ad.io.write_elem(opened, "X", matrix)
    return folder / "x.h5"


@given(seed=st.integers(0, 2**32 - 1), n_cells=st.integers(1, 25), n_samples=st.integers(1, 6), max_rows=st.integers(1, 7))
def test_sums_are_those_of_a_table_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_cells: int, n_samples: int, max_rows: int
) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.poisson(1.0, (n_cells, 4)) * generator.integers(1, 2**40, (n_cells, 4))
    sample = generator.integers(-1, n_samples, n_cells)
    file = write_matrix(tmp_path_factory.mktemp("sums"), sparse.csr_matrix(matrix))
    with pytest.MonkeyPatch.context() as patch, h5py.File(file) as opened:
        patch.setattr(single_cell, "row_blocks", partial(row_blocks, max_rows=max_rows))
        total = sum_cells(opened["X"], sample, n_samples, 4)
    expected = np.zeros((n_samples, 4), np.int64)
    np.add.at(expected, sample[sample >= 0], matrix[sample >= 0])
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total.toarray(), expected)


def statistics(tmp_path: Path, matrix: np.ndarray, genes: list[str], symbols: list[str | None]) -> pd.DataFrame:
    cells = pd.Index([f"c{row}" for row in range(len(matrix))])
    with h5py.File(write_matrix(tmp_path, sparse.csr_matrix(matrix))) as opened:
        return cell_statistics(opened["X"], cells, pd.Index(genes), pd.Series(symbols), "d", FILE)


def test_statistics_of_cells(tmp_path: Path) -> None:
    matrix = np.array([[3, 1, 4, 0, 2], [0, 0, 0, 0, 0], [0, 5, 0, 1, 0]])
    found = statistics(
        tmp_path,
        matrix,
        ["ENSG00000251562.9", "ENSG2", "ENSG3", "ENSG00000251562", "ENSG5"],
        ["MALAT1", "MT-ND1", "mt-like", None, "XMT-2"],
    )
    assert found["n_genes"].tolist() == [4, 0, 2]
    np.testing.assert_allclose(found["mitochondrial_fraction"], [1 / 10, 0, 5 / 6])
    assert found["malat1_counts"].tolist() == [3, 0, 1]


def test_stored_zeros_are_no_genes(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix((np.array([0, 2]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    with h5py.File(write_matrix(tmp_path, matrix)) as opened:
        found = cell_statistics(opened["X"], pd.Index(["c"]), pd.Index(["a", "b"]), pd.Series(["A", "B"]), "d", FILE)
    assert found["n_genes"].tolist() == [1]
    assert found["malat1_counts"].isna().all()


def cell(**changes: object) -> dict[str, object]:
    """A cell that passes every filter, exactly at the bounds, changed."""
    at_bound = {"n_genes": 250, "n_counts": 700.0, "mitochondrial_fraction": 0.2, "malat1_counts": 3.0}
    return at_bound | {"plate": "p", "well": "w", "perturbagen": "x", "source_cell_context": "A549"} | changes


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"n_genes": 249}, 0),
        ({"n_counts": 699.0}, 0),
        ({"n_counts": np.nan}, 0),
        ({"mitochondrial_fraction": 0.2001}, 0),
        ({"plate": None}, 1),
        ({"well": None}, 1),
        ({"perturbagen": None}, 1),
        ({"source_cell_context": None}, 1),
        # ln(1 + 10,000 m / N) = 3.5 at m / N = 0.0032115
        ({"malat1_counts": 2.0}, 2),
        ({"n_counts": 935.0}, 2),
    ],
)
def test_each_filter_drops_its_cells_and_no_other(changes: dict[str, object], step: int) -> None:
    steps = Reconciliation()
    steps.start("cells", 3)
    cells = pd.DataFrame([cell(), cell(**changes), cell(n_counts=934.0)], index=["a", "b", "c"])
    assert filter_cells(cells, steps).index.tolist() == ["a", "c"]
    frame = steps.frame()
    assert frame["n_dropped"].tolist() == [int(position == step) for position in range(3)]
    assert frame["n_in"].tolist() == [3, *frame["n_out"][:-1]]


def test_without_malat1_the_filter_is_skipped_and_says_so() -> None:
    steps = Reconciliation()
    steps.start("cells", 1)
    assert len(filter_cells(pd.DataFrame([cell(malat1_counts=np.nan)]), steps)) == 1
    assert steps.frame()["rule"].iloc[-1] == "no MALAT1 filter: the gene was not measured"


def group(cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series, Reconciliation]:
    steps = Reconciliation()
    samples, sample_of_cell = group_cells(cells, "d", FILE, steps)
    return samples, sample_of_cell, steps


def test_cells_are_gathered_by_plate_well_perturbagen_and_context() -> None:
    keys = [
        ("p2", "w", "x", "A549"),
        ("p1", "w", "x", "A549"),
        ("p1", "w", "x", "K562"),
        ("p1", "w", "y", "A549"),
        ("p1", "w", "x", "A549"),
    ]
    cells = pd.DataFrame(keys, columns=list(GROUP)).assign(pert_dose_uM=[1.0, np.nan, 1.0, 1.0, 2.0])
    samples, sample_of_cell, steps = group(cells)
    assert samples[list(GROUP)].apply(tuple, axis=1).tolist() == sorted(set(keys))
    assert samples["psbulk_cells"].tolist() == [2, 1, 1, 1]
    assert samples["pert_dose_uM"].tolist() == [2.0, 1.0, 1.0, 1.0]
    assert sample_of_cell.tolist() == [3, 0, 1, 2, 0]
    assert steps.frame()[["axis", "n_in", "n_dropped", "n_out"]].to_numpy().tolist() == [["samples", 5, 1, 4]]


def test_cells_of_a_sample_that_differ_in_dose_are_refused() -> None:
    cells = pd.DataFrame([("p", "w", "x", "A549")] * 2, columns=list(GROUP)).assign(pert_dose_uM=[1.0, 10.0])
    with pytest.raises(InputError, match=r"column pert_dose_uM; rows p w x A549"):
        group(cells)
