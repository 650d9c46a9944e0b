"""Normalization factors against edgeR's, and the kept genes by column against SciPy's."""

from __future__ import annotations

import gzip
import math
import subprocess
import tracemalloc
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from perturbridge_dagster import compiled
from perturbridge_dagster.effects import normalize
from perturbridge_dagster.effects.filter import filter_by_expression
from perturbridge_dagster.effects.normalize import keep_genes, library_sizes, tmm_factors
from perturbridge_dagster.errors import InputError


def _factors(counts: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    matrix = sparse.csr_array(counts)
    if kept is None:
        kept = np.ones(counts.shape[1], dtype=bool)
    return tmm_factors(matrix, kept, library_sizes(matrix, kept))


def _edger(folder: Path, cases: list[np.ndarray]) -> list[np.ndarray]:
    """Factors of each case (samples × genes) by edgeR."""
    file = folder / "cases.bin"
    with file.open("wb") as stream:
        for counts in cases:
            np.array(counts.shape[::-1], dtype=np.float64).tofile(stream)
            counts.astype(np.float64).ravel().tofile(stream)
    oracle = Path(__file__).with_name("oracle_normalize.R")
    done = subprocess.run(["Rscript", "--vanilla", oracle, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    factors = np.fromfile(f"{file}.out")
    assert len(factors) == sum(map(len, cases))
    return np.split(factors, np.cumsum([len(counts) for counts in cases])[:-1])


def _counts(n_samples: int, n_genes: int, seed: int = 0, mean: float = 20, depth: float = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    expected = rng.uniform(1 / depth, depth, (n_samples, 1)) * rng.gamma(0.3, mean / 0.3, n_genes)
    expected = expected * np.exp(rng.normal(0, 0.5, (n_samples, n_genes)) * (rng.random(n_genes) < 0.2))
    counts: np.ndarray = rng.negative_binomial(4, 4 / (4 + expected))
    counts[:, 0] += 1  # no sample is empty
    return counts


def _odd_shapes() -> dict[str, np.ndarray]:
    counts = _counts(12, 400)
    some = _counts(8, 200, 5)
    gaps = counts.copy()
    gaps[:, ::4] = 0
    twin = np.vstack([counts, counts[:3], 7 * counts[:3]])
    rng = np.random.default_rng(8)
    apart = np.zeros((4, 80), dtype=int)
    for sample in range(4):
        apart[sample, sample * 20 : sample * 20 + 20] = rng.integers(1, 50, 20)
    half_apart = apart.copy()
    half_apart[:, 70:] += rng.integers(1, 9, (4, 10))
    deep = counts.copy()
    deep[3] *= 10_000_000
    deep[4] //= 20
    deep[4, 0] = 1
    dominated = counts.copy()
    dominated[:, 5] = 10_000_000
    permuted = np.vstack([rng.permutation(some[0]) for _ in range(9)])
    shapes = {
        "plain": counts,
        "one sample": counts[:1],
        "one gene": counts[:, :1],
        "one gene, different": np.array([[3], [5], [1000]]),
        "two genes": np.array([[3, 9], [5, 1], [1000, 7]]),
        "two samples": counts[:2],
        "no gene": counts[:, :0],
        "no count": np.zeros((3, 7), dtype=int),
        "genes without counts": gaps,
        "equal samples": np.repeat(counts[:1], 4, axis=0),
        "samples equal to others or their multiples": twin,
        "samples of the same counts in another order": permuted,
        "no gene in common": apart,
        "few genes in common": half_apart,
        "one count a sample": np.eye(5, dtype=int),
        "huge differences of depth": deep,
        "one gene has nearly all": dominated,
        "upper quartile zero in most samples": _counts(15, 600, 2, mean=0.4, depth=4),
        "upper quartile zero in all samples": _counts(15, 600, 3, mean=0.05),
        "upper quartile zero in exactly half": np.vstack(
            [np.tile([5, 1, 2, 0, 3, 0, 1, 1], (2, 3)), np.tile([5, 1, 0, 0, 0, 0, 0, 0], (2, 3))]
        ),
    }
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n_samples, n_genes = int(rng.integers(2, 9)), int(rng.integers(1, 60))
        shapes[f"ties {seed}"] = rng.poisson(rng.uniform(0.2, 3), (n_samples, n_genes)) + (np.arange(n_genes) == 0)
    for seed in range(20):
        shapes[f"counts {seed}"] = _counts(30, 300, seed, mean=float(np.exp(seed / 3 - 2)), depth=1 + seed)
    return shapes


@pytest.mark.slow
def test_factors_of_odd_shapes_agree_with_edger(tmp_path: Path) -> None:
    shapes = _odd_shapes()
    for (name, counts), theirs in zip(shapes.items(), _edger(tmp_path, list(shapes.values())), strict=True):
        np.testing.assert_allclose(_factors(counts), theirs, rtol=1e-13, atol=0, err_msg=name)
    assert np.ptp(_factors(shapes["upper quartile zero in all samples"])) > 0.01


def test_only_the_kept_genes_take_part(tmp_path: Path) -> None:
    counts = _counts(10, 300, 4)
    kept = np.random.default_rng(0).random(300) < 0.4
    kept[0] = True
    [theirs] = _edger(tmp_path, [counts[:, kept]])
    np.testing.assert_allclose(_factors(counts, kept), theirs, rtol=1e-13, atol=0)


@pytest.mark.slow
def test_large_counts_with_many_near_ties_agree_with_edger(tmp_path: Path) -> None:
    cases = [_counts(60, 8_000, seed, mean=mean) for seed, mean in enumerate((2, 40, 3000))]
    for counts, theirs in zip(cases, _edger(tmp_path, cases), strict=True):
        np.testing.assert_allclose(_factors(counts), theirs, rtol=1e-13, atol=0)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_counts_agree_with_edger(real_data: Path, tmp_path: Path) -> None:
    airway = ad.read_h5ad(real_data / "de_counts_airway" / "airway.h5ad").X
    cases = [airway.toarray() if sparse.issparse(airway) else np.asarray(airway)]
    for name in ("de_counts_t47d_estradiol/t47d_counts.tsv.gz", "de_plate_macpie/mini_mac_counts.tsv.gz"):
        with gzip.open(real_data / name, "rt") as stream:
            cases.append(pd.read_csv(stream, sep="\t", index_col=0).T.to_numpy())
    for counts, theirs in zip(cases, _edger(tmp_path, cases), strict=True):
        np.testing.assert_allclose(_factors(counts), theirs, rtol=1e-13, atol=0)
        assert np.ptp(theirs) > 0.05


_SMALL = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 40), st.floats(0.1, 30))


@given(_SMALL)
def test_factors_multiply_to_one_and_do_not_depend_on_the_order_of_genes(case: tuple[int, int, int, float]) -> None:
    seed, n_samples, n_genes, mean = case
    rng = np.random.default_rng(seed)
    counts = rng.negative_binomial(1, 1 / (1 + mean), (n_samples, n_genes))
    counts[:, 0] += 1
    factors = _factors(counts)
    assert np.log(factors).sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(_factors(counts[:, rng.permutation(n_genes)]), factors, rtol=1e-12)


def test_compiled_logarithms_are_those_of_the_c_library() -> None:
    ratios = np.random.default_rng(0).lognormal(0, 4, 100_000)

    @compiled.compiled
    def log2(values, results):
        for i in range(len(values)):
            results[i] = math.log2(values[i])

    ours = np.empty_like(ratios)
    log2(ratios, ours)
    np.testing.assert_array_equal(ours, [math.log2(ratio) for ratio in ratios])


@pytest.mark.slow  # compiles for each dtype
def test_factors_do_not_depend_on_stored_zeros_order_of_entries_dtype_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = sparse.csr_array(_counts(20, 100, 6))
    kept = np.arange(100) % 3 != 1
    expected = tmm_factors(counts, kept, library_sizes(counts, kept))
    rng = np.random.default_rng(1)
    order = np.lexsort((rng.random(2000), np.repeat(np.arange(20), 100)))
    gene = np.tile(np.arange(100), 20)[order]
    for dtype, n_cores in ((np.float32, 1), (np.int32, 5), (np.uint16, 50)):
        data = counts.toarray().ravel()[order].astype(dtype)
        other = sparse.csr_array((data, gene.astype(np.int64), np.arange(0, 2001, 100)), shape=(20, 100))
        assert not other.has_sorted_indices
        other.data.flags.writeable = False
        for module in (compiled, normalize):
            monkeypatch.setattr(module, "n_cores", lambda n_cores=n_cores: n_cores)
        ours = tmm_factors(other, kept, library_sizes(other, kept))
        np.testing.assert_allclose(ours, expected, rtol=1e-13)
        np.testing.assert_array_equal(keep_genes(other, kept).toarray(), counts.toarray()[:, kept])


def test_factors_are_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = _counts(40, 200, 9)
    expected = _factors(counts)
    for n_cores in (1, 3, 64):
        for module in (compiled, normalize):
            monkeypatch.setattr(module, "n_cores", lambda n_cores=n_cores: n_cores)
        np.testing.assert_array_equal(_factors(counts), expected)


def test_a_sample_without_kept_counts_cannot_be_normalized() -> None:
    counts = sparse.csr_array([[3, 4, 9], [0, 0, 9], [2, 5, 9]])
    kept = np.array([True, True, False])
    with pytest.raises(InputError, match="rows 1: 1 samples have no count in the 2 kept genes"):
        tmm_factors(counts, kept, library_sizes(counts, kept))


def test_library_sizes_are_exact_sums() -> None:
    counts = sparse.csr_array(np.array([[2**31 - 1, 2**31 - 1, 1], [0, 0, 0], [0, 5, 2]], dtype=np.int32))
    assert library_sizes(counts).tolist() == [2**32 - 1, 0, 7]
    assert library_sizes(counts, np.array([True, False, True])).tolist() == [2**31, 0, 2]
    assert library_sizes(sparse.csr_array((0, 3), dtype=np.int32)).tolist() == []


@pytest.mark.parametrize("wrong", [-1, 0.5, np.nan, np.inf, -0.25])
def test_counts_that_are_none_are_refused(wrong: float) -> None:
    counts = sparse.csr_array(np.array([[1, 2, 3], [4, 5, wrong]]))
    with pytest.raises(InputError, match=f"rows 1: counts cannot be used, for example {wrong} of sample 1 and gene 2 "):
        library_sizes(counts)
    if wrong == -1:
        with pytest.raises(InputError):
            library_sizes(counts.astype(np.int32))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (17, 30), (0, 4), (5, 0)])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_kept_genes_are_the_columns_of_the_dense_matrix(shape: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(sum(shape))
    counts = rng.poisson(0.7, shape)
    kept = rng.random(shape[1]) < share
    columns = keep_genes(sparse.csr_array(counts), kept)
    assert columns.data.dtype == columns.indices.dtype == np.int32
    np.testing.assert_array_equal(columns.toarray(), counts[:, kept])
    columns.check_format()
    for gene in range(columns.shape[1]):
        rows = columns.indices[columns.indptr[gene] : columns.indptr[gene + 1]]
        np.testing.assert_array_equal(rows, np.flatnonzero(counts[:, kept][:, gene]))


def test_a_count_beyond_the_kept_type_is_refused() -> None:
    counts = sparse.csr_array(np.array([[2**31 - 1, 2**31], [1, 1]]))
    assert keep_genes(counts, np.array([True, False])).data.tolist() == [2**31 - 1, 1]
    with pytest.raises(InputError, match="2,147,483,648 is too large"):
        keep_genes(counts, np.array([True, True]))


def test_the_only_copy_of_the_data_is_the_kept_genes() -> None:
    counts = sparse.random_array((2000, 1000), density=0.5, format="csr", rng=0, data_sampler=lambda size: np.ones(size)).astype(np.int64)
    kept = np.arange(1000) % 2 == 0
    steps = (
        partial(library_sizes, kept=kept),
        partial(filter_by_expression, max_leverage=1),
        partial(tmm_factors, kept=kept, library_sizes_of_kept=library_sizes(counts, kept)),
        partial(keep_genes, kept=kept),
    )
    peaks = []
    for step in steps:
        step(counts)  # compiled, if it was not yet
        tracemalloc.start()
        result = step(counts)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    n_bytes = result.data.nbytes + result.indices.nbytes
    assert n_bytes > 3_900_000
    assert max(peaks[:3]) < 400_000  # the data are 12 MB
    assert peaks[3] < n_bytes + 400_000


def test_two_entries_of_one_sample_and_gene_are_refused() -> None:
    counts = sparse.csr_array((np.array([5, 1, 3, 2, 4]), np.array([2, 2, 0, 1, 0]), np.array([0, 1, 2, 5])), shape=(3, 4))
    with pytest.raises(InputError, match="rows 2: counts cannot be used, for example 3, 4 of sample 2 and gene 0 "):
        library_sizes(counts)


@pytest.mark.parametrize("n_values", [1, 4])
def test_a_mask_of_other_genes_is_refused(n_values: int) -> None:
    counts, kept = sparse.csr_array([[1, 2, 3]]), np.ones(n_values, dtype=bool)
    for call in (library_sizes, keep_genes, partial(tmm_factors, library_sizes_of_kept=np.ones(1))):
        with pytest.raises(ValueError, match="one value for each of 3 genes"):
            call(counts, kept=kept)


def test_counts_by_column_are_refused() -> None:
    counts = sparse.csc_array([[1, 2], [3, 4]])
    with pytest.raises(TypeError, match="CSR"):
        library_sizes(counts)
