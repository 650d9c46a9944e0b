"""Filters of single cells, and sums of cells."""

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
from perturbridge_dagster.sources import single_cell, sums
from perturbridge_dagster.sources.native import Reconciliation
from perturbridge_dagster.sources.single_cell import GROUP, MALAT1, filter_cells, group_cells, pseudobulk, sum_cells

pytestmark = pytest.mark.slow

FILE = Path("cells.h5ad")
FORMATS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda matrix: matrix.toarray()}


def write_matrix(folder: Path, matrix: object, compression: str | None = None) -> Path:
    with h5py.File(folder / "x.h5", "w") as opened:
        ad.io.write_elem(opened, "X", matrix, dataset_kwargs={"compression": compression} if compression else {})
    return folder / "x.h5"


def names(n: int, letter: str) -> pd.Index:
    return pd.Index([f"{letter}{number}" for number in range(n)])


def summed(stored: h5py.Group | h5py.Dataset, shape: tuple[int, int], sample: object, n_samples: int) -> sparse.csr_matrix:
    cells, genes = names(shape[0], "c"), names(shape[1], "g")
    return sum_cells(stored, np.asarray(sample, np.int64), n_samples, cells=cells, genes=genes, dataset="d", file=FILE)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 25), st.integers(1, 9)),
    n_samples=st.integers(1, 6),
    most=st.sampled_from([3, 2**20, 2**40]),
    stored_as=st.sampled_from(sorted(FORMATS)),
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint16]),
    block=st.integers(1, 60),
    small=st.booleans(),
)
def test_sums_are_those_of_a_table_whatever_storage_blocks_and_tiles(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int],
    n_samples: int,
    most: int,
    stored_as: str,
    dtype: type,
    block: int,
    small: bool,
) -> None:
    generator = np.random.default_rng(seed)
    exact = {np.float32: 2**24, np.uint16: 2**16 - 1}.get(dtype, 2**53)
    matrix = (generator.poisson(0.7, shape) * generator.integers(1, most, shape) % exact).astype(dtype)
    sample = generator.integers(-1, n_samples, shape[0])
    file = write_matrix(tmp_path_factory.mktemp("sums"), FORMATS[stored_as](sparse.csr_matrix(matrix)))
    with pytest.MonkeyPatch.context() as patch, h5py.File(file) as opened:
        patch.setattr(single_cell, "BLOCK_VALUES", block)
        patch.setattr(sums, "_TILE_SUMS", 12)
        patch.setattr(sums, "_SMALL", 2**28 if small else 0)
        patch.setattr(sums, "_LEAST_SLOTS", 2)
        patch.setattr(sums, "_ARRAY_FOR_TABLE", 0.25)
        total = summed(opened["X"], shape, sample, n_samples)
    expected = np.zeros((n_samples, shape[1]), np.int64)
    np.add.at(expected, sample[sample >= 0], matrix[sample >= 0].astype(np.int64))
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total.toarray(), expected)
    total.check_format(full_check=True)
    assert total.nnz == np.count_nonzero(expected)
    assert (np.diff(total.indices)[np.diff(np.repeat(np.arange(n_samples), np.diff(total.indptr))) == 0] > 0).all()


@pytest.mark.parametrize(("n_cells", "most"), [(40, 5), (4_000, 5), (4_000, 2**30)])
def test_sums_of_few_and_of_many_cells_a_sample(tmp_path: Path, n_cells: int, most: int) -> None:
    # few cells stay in tables, many become arrays; large counts pass 31 bits on the way
    generator = np.random.default_rng(n_cells)
    matrix = sparse.random(n_cells, 3_000, density=0.05, format="csr", random_state=generator)
    matrix.data = generator.integers(1, most, matrix.nnz).astype(np.float64)
    sample = generator.integers(-1, 30, n_cells)
    with pytest.MonkeyPatch.context() as patch, h5py.File(write_matrix(tmp_path, matrix, "gzip")) as opened:
        patch.setattr(sums, "_SMALL", 0)
        patch.setattr(sums, "_TILE_SUMS", 20_000)
        patch.setattr(single_cell, "BLOCK_VALUES", 2_000)
        total = summed(opened["X"], matrix.shape, sample, 30)
    kept = np.flatnonzero(sample >= 0)
    members = sparse.csr_matrix((np.ones(len(kept), np.int64), (sample[kept], kept)), shape=(30, n_cells))
    expected = (members @ matrix.astype(np.int64)).toarray()
    assert (expected.max() > 2**31) == (most == 2**30)
    np.testing.assert_array_equal(total.toarray(), expected)


def test_a_table_grows_into_an_array_and_takes_no_more_than_four_times_the_result() -> None:
    n_genes = 50_000
    total = sums.SampleSums(2_000, n_genes)
    generator = np.random.default_rng(1)
    for _ in range(10):
        genes = generator.integers(0, n_genes, 400_000).astype(np.uint32)
        block = (np.arange(0, 400_001, 200), genes, np.ones(400_000, np.int32))
        total.add(block, np.arange(2_000), np.full(2_000, 200))
    tiles = total._tiles
    taken = sum(tile.sums.nbytes + (0 if tile.keys is None else tile.keys.nbytes) for tile in tiles)
    assert all(tile.keys is not None for tile in tiles)
    result = total.to_csr()
    assert taken < 4 * 12 * result.nnz < 2_000 * n_genes * 4
    assert result.sum() == 4_000_000
    assert result.has_sorted_indices
    assert sum(tile.sums.nbytes for tile in tiles) == 0


def decoupler_sums(adata: ad.AnnData, **options: object) -> pd.DataFrame:
    decoupler = pytest.importorskip("decoupler", reason="decoupler is in the extra bench", exc_type=ImportError)
    found = decoupler.pp.pseudobulk(adata, sample_col="sample", groups_col=None, mode="sum", empty=False, **options)
    return found.to_df().sort_index().reindex(columns=adata.var_names)


@pytest.mark.filterwarnings("ignore")  # of decoupler's own dependencies
@pytest.mark.parametrize("stored_as", sorted(FORMATS))
@pytest.mark.parametrize("where", ["X", "raw/X", "layers/counts"])
def test_sums_are_those_of_decoupler(tmp_path: Path, stored_as: str, where: str) -> None:
    generator = np.random.default_rng(3)
    counts = sparse.csr_matrix(generator.poisson(0.6, (60, 12)).astype(np.float32))
    counts[[4, 9]] = 0  # cells without counts
    counts.eliminate_zeros()
    obs = pd.DataFrame({"sample": pd.Categorical(generator.choice(["s1", "s2", "s3"], 60), ["s0", "s1", "s2", "s3"])}, index=names(60, "c"))
    adata = ad.AnnData(sparse.csr_matrix((60, 12), dtype=np.float32), obs, pd.DataFrame(index=names(12, "g")))
    stored = FORMATS[stored_as](counts)
    options: dict[str, object] = {}
    if where == "X":
        adata.X = stored
    elif where == "raw/X":
        adata.raw = ad.AnnData(stored, obs, adata.var)
        options = {"raw": True}
    else:
        adata.layers["counts"] = stored
        options = {"layer": "counts"}
    adata.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    with h5py.File(tmp_path / "cells.h5ad") as opened:
        # s0 has no cell: decoupler leaves it out, here it is an empty row
        total = summed(opened[where], (60, 12), obs["sample"].cat.codes, 4)
    expected = decoupler_sums(ad.read_h5ad(tmp_path / "cells.h5ad"), **options)
    assert expected.index.tolist() == ["s1", "s2", "s3"]
    assert total[0].nnz == 0
    np.testing.assert_array_equal(total[1:].toarray(), expected.to_numpy())


def test_entries_in_any_order_and_twice_are_summed_and_are_one_gene(tmp_path: Path) -> None:
    # cell 0: g2 twice and out of order; cell 1: a stored zero
    matrix = sparse.csr_matrix((np.array([5.0, 1, 2, 0, 3]), np.array([2, 0, 2, 1, 0]), np.array([0, 3, 5])), shape=(2, 3))
    cells = full_cells(2)
    for stored_as in ("csr", "csc"):
        stored = matrix if stored_as == "csr" else sparse.csc_matrix(matrix)
        with h5py.File(write_matrix(tmp_path, stored)) as opened:
            np.testing.assert_array_equal(summed(opened["X"], (2, 3), [0, 0], 1).toarray(), [[4, 0, 7]])
            found = statistics(opened["X"], cells, names(3, "g"), None)
        assert found["n_genes"].tolist() == [2, 1]


def full_cells(n: int) -> pd.DataFrame:
    return pd.DataFrame({name: name for name in GROUP} | {"n_counts": 1_000.0}, index=names(n, "c"))


def statistics(stored: h5py.Group | h5py.Dataset, cells: pd.DataFrame, genes: pd.Index, symbols: pd.Series | None) -> pd.DataFrame:
    """What the filters were shown."""
    shown: list[pd.DataFrame] = []

    def keep_all(judged: pd.DataFrame, steps: Reconciliation) -> pd.DataFrame:
        shown.append(judged)
        return judged.iloc[:0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_cell, "filter_cells", keep_all)
        steps = Reconciliation()
        steps.start("cells", len(cells))
        pseudobulk(stored, cells, genes, symbols, steps, dataset="d", counts_file=FILE, cells_file=FILE)
    return shown[0]


@pytest.mark.parametrize("stored_as", sorted(FORMATS))
def test_statistics_of_cells(tmp_path: Path, stored_as: str) -> None:
    matrix = sparse.csr_matrix(np.array([[3, 1, 4, 0, 2], [0, 0, 0, 0, 0], [0, 5, 0, 1, 0]]))
    genes = pd.Index([f"{MALAT1}.9", "ENSG2", "ENSG3", MALAT1, "ENSG5"])
    symbols = pd.Series(["MALAT1", "MT-ND1", "mt-like", None, "XMT-2"])
    with h5py.File(write_matrix(tmp_path, FORMATS[stored_as](matrix))) as opened:
        found = statistics(opened["X"], full_cells(3), genes, symbols)
        own = statistics(opened["X"], full_cells(3).assign(n_genes=7, mitochondrial_fraction=0.5), names(5, "g"), None)
    assert found["n_genes"].tolist() == [4, 0, 2]
    np.testing.assert_allclose(found["mitochondrial_fraction"], [1 / 10, 0, 5 / 6])
    assert found["malat1_counts"].tolist() == [3, 0, 1]
    # what the source says of its cells holds
    assert own[["n_genes", "mitochondrial_fraction"]].to_numpy().tolist() == [[7, 0.5]] * 3
    assert own["malat1_counts"].isna().all()


@given(seed=st.integers(0, 2**32 - 1), stored_as=st.sampled_from(sorted(FORMATS)), block=st.integers(1, 4_000))
def test_in_one_reading_the_same_cells_are_kept_as_by_filters_after_it(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stored_as: str, block: int
) -> None:
    generator = np.random.default_rng(seed)
    n_cells, n_genes = 40, 400
    expected = generator.uniform(1, 4, (n_cells, 1)) * np.where(generator.random((n_cells, n_genes)) < 0.7, 1, 0)
    matrix = generator.poisson(expected)
    matrix[:, 0] = generator.integers(0, 12, n_cells)
    matrix[:, 1] = generator.integers(0, 400, n_cells)
    genes = pd.Index([MALAT1, *names(n_genes - 1, "g")])
    symbols = pd.Series(["MALAT1", "MT-ND1", *names(n_genes - 2, "G")])
    cells = full_cells(n_cells).assign(n_counts=matrix.sum(axis=1) * generator.choice([1.0, 0.7, np.nan], n_cells, p=[0.8, 0.1, 0.1]))
    cells["well"] = generator.choice(["A1", "A2", "A3", None], n_cells)
    file = write_matrix(tmp_path_factory.mktemp("once"), FORMATS[stored_as](sparse.csr_matrix(matrix)))
    steps = Reconciliation()
    steps.start("cells", n_cells)
    with pytest.MonkeyPatch.context() as patch, h5py.File(file) as opened:
        patch.setattr(single_cell, "BLOCK_VALUES", block)
        samples, total = pseudobulk(opened["X"], cells, genes, symbols, steps, dataset="d", counts_file=FILE, cells_file=FILE)
    after = Reconciliation()
    after.start("cells", n_cells)
    judged = cells.assign(
        n_genes=(matrix > 0).sum(axis=1),
        mitochondrial_fraction=matrix[:, 1] / np.maximum(matrix.sum(axis=1), 1),
        malat1_counts=matrix[:, 0],
    )
    kept = filter_cells(judged, after)
    again, sample_of_kept = group_cells(kept[[*GROUP]], "d", FILE, after)
    pd.testing.assert_frame_equal(steps.frame(), after.frame())
    pd.testing.assert_frame_equal(samples, again)
    sums_after = np.zeros((len(again), n_genes), np.int64)
    np.add.at(sums_after, sample_of_kept.to_numpy(np.int64), matrix[cells.index.get_indexer(kept.index)])
    np.testing.assert_array_equal(total.toarray(), sums_after)


@pytest.mark.parametrize("stored_as", sorted(FORMATS))
@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf, 2.0**60])
def test_what_is_not_a_count_is_refused_even_in_a_cell_that_is_left_out(tmp_path: Path, stored_as: str, value: float) -> None:
    matrix = sparse.csr_matrix(np.array([[1.0, 0, 2], [0, 0, value]]))
    with (
        h5py.File(write_matrix(tmp_path, FORMATS[stored_as](matrix))) as opened,
        pytest.raises(InputError, match=r"rows c1: .* of gene g2 is not a count; 1 values"),
    ):
        summed(opened["X"], (2, 3), [0, -1], 1)


@pytest.mark.parametrize("gene", [-1, 3, 2**31 - 1])
def test_a_value_outside_of_the_matrix_is_refused(tmp_path: Path, gene: int) -> None:
    with h5py.File(write_matrix(tmp_path, sparse.csr_matrix(np.array([[1.0, 0, 2], [0, 0, 3]]))), "r+") as opened:
        opened["X/indices"][2] = gene
        with pytest.raises(InputError, match=rf"rows c1: a value belongs to column {gene} of 3"):
            summed(opened["X"], (2, 3), [0, 0], 1)


def test_a_matrix_of_another_shape_is_refused(tmp_path: Path) -> None:
    with (
        h5py.File(write_matrix(tmp_path, sparse.csr_matrix((2, 3)))) as opened,
        pytest.raises(InputError, match=r"has shape 2 × 3.*Expected: 3 cells × 3 genes"),
    ):
        summed(opened["X"], (3, 3), [0, 0, 0], 1)


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


def test_where_no_cell_passes_the_filter_of_malat1_is_named_all_the_same() -> None:
    steps = Reconciliation()
    steps.start("cells", 1)
    assert filter_cells(pd.DataFrame([cell(n_genes=1)]), steps).empty
    assert steps.frame()["rule"].iloc[-1].startswith("log-normalized MALAT1")


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
