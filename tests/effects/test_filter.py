"""The gene filter against edgeR: the same genes kept, the same support, also where one bit decides."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbridge_dagster import compiled
from perturbridge_dagster.effects import filter as gene_filter
from perturbridge_dagster.effects.filter import GeneFilter, filter_by_expression, filter_supported
from perturbridge_dagster.errors import InputError

Case = tuple[np.ndarray, np.ndarray]
"""Counts (samples × genes) and design (samples × columns)."""


def _edger(folder: Path, cases: list[Case]) -> list[tuple[float, float, np.ndarray, np.ndarray]]:
    """Of each case by edgeR: cut-off, largest leverage, genes kept, support."""
    file = folder / "cases.bin"
    with file.open("wb") as stream:
        for counts, design in cases:
            for values in ([counts.shape[1], counts.shape[0], design.shape[1]], counts, design.T):
                np.asarray(values, dtype=np.float64).ravel().tofile(stream)
    oracle = Path(__file__).with_name("oracle_filter.R")
    done = subprocess.run(["Rscript", "--vanilla", oracle, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, answers = np.fromfile(f"{file}.out"), []
    for counts, _ in cases:
        n_genes = counts.shape[1]
        (cut_off, leverage), kept, support, answer = np.split(answer, [2, 2 + n_genes, 2 + 2 * n_genes])
        answers.append((float(cut_off), float(leverage), kept == 1, support.astype(int)))
    assert len(answer) == 0
    return answers


def _assert_agrees(cases: list[Case], folder: Path) -> list[GeneFilter]:
    ours = []
    for (counts, _), (cut_off, leverage, kept, support) in zip(cases, _edger(folder, cases), strict=True):
        genes = filter_by_expression(sparse.csr_array(counts), leverage)
        assert genes.cut_off_cpm == cut_off
        np.testing.assert_array_equal(genes.kept, kept)
        np.testing.assert_array_equal(genes.support, support)
        np.testing.assert_array_equal(genes.total_count, counts.sum(axis=0))
        ours.append(genes)
    return ours


def _groups(*sizes: int) -> np.ndarray:
    """Design of one indicator column a group."""
    return np.repeat(np.eye(len(sizes)), sizes, axis=0)


def _counts(n_samples: int, n_genes: int, seed: int, mean: float = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    expected = rng.uniform(0.3, 3, (n_samples, 1)) * rng.gamma(0.3, mean / 0.3, n_genes)
    return rng.negative_binomial(2, 2 / (2 + expected))


@pytest.mark.slow
def test_a_count_of_exactly_the_cut_off_is_decided_as_edger_decides_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases, other_order = [], 0
    for _ in range(700):
        # library sizes are multiples of the median's tenth, so that each sample has a whole count at the cut-off
        tenths = rng.integers(5, 60, rng.choice([1, 3, 5, 7]))
        tenths[np.argmin(np.abs(tenths - np.median(tenths)))] = np.median(tenths)
        at_cut_off = 10 * tenths[:, np.newaxis]
        counts = np.hstack([at_cut_off, at_cut_off - 1, at_cut_off + 1, rng.permuted(at_cut_off)]) // np.median(tenths)
        rest = int(rng.integers(10, 100_000)) * np.median(tenths) * tenths
        counts = np.column_stack([counts, rest - counts.sum(axis=1)]).astype(int)
        cases.append((counts, np.ones((len(counts), 1))))
        sizes = counts.sum(axis=1)
        cut_off = 10 / np.median(sizes) * 1e6
        product = counts * (1e6 / sizes)[:, np.newaxis] >= cut_off
        other_order += (product != (counts / sizes[:, np.newaxis] * 1e6 >= cut_off)).any()
    assert other_order > 15  # the order of operations does decide in these cases
    _assert_agrees(cases, tmp_path)


def test_odd_shapes_agree_with_edger(tmp_path: Path) -> None:
    counts = _counts(40, 300, 1)
    empty_genes = counts.copy()
    empty_genes[:, ::3] = 0
    deep = counts.copy()
    deep[3] *= 1_000_000
    cases = [
        (counts, _groups(40)),  # beyond the large group
        (counts, _groups(11, 29)),
        (counts, _groups(10, 30)),
        (counts, _groups(*[1] * 40)),
        (counts, np.column_stack([_groups(8, 8, 8, 16), np.arange(40) % 3 == 1, np.arange(40) % 3 == 2])),
        (counts[:1], _groups(1)),
        (counts[:4, :1] + 5, _groups(2, 2)),
        (empty_genes, _groups(20, 20)),
        (deep, _groups(3, 37)),
        (np.zeros((3, 0), dtype=int), _groups(3)),
    ]
    ours = _assert_agrees(cases, tmp_path)
    assert [round(genes.min_samples, 9) for genes in ours[:4]] == [31, 10.7, 10, 1]
    assert 0 < ours[0].kept.sum() < ours[3].kept.sum() < 300


@pytest.mark.slow
@pytest.mark.real_data
def test_real_counts_agree_with_edger(real_data: Path, tmp_path: Path) -> None:
    airway = ad.read_h5ad(real_data / "de_counts_airway" / "airway.h5ad")
    dex = (airway.obs["dex"] == "trt").to_numpy()
    tables = []
    for name in ("de_counts_t47d_estradiol/t47d_counts.tsv.gz", "de_plate_macpie/mini_mac_counts.tsv.gz"):
        with gzip.open(real_data / name, "rt") as stream:
            tables.append(pd.read_csv(stream, sep="\t", index_col=0).T.to_numpy())
    dense = airway.X.toarray() if sparse.issparse(airway.X) else np.asarray(airway.X)
    t47d, plate = tables
    cases = [
        (dense, np.column_stack([dex, ~dex, pd.get_dummies(airway.obs["cell"]).to_numpy()[:, 1:]])),
        (t47d, _groups(*[len(t47d) // 4] * 3, len(t47d) - 3 * (len(t47d) // 4))),
        (plate, _groups(3, 200, len(plate) - 203)),
    ]
    for genes in _assert_agrees(cases, tmp_path):
        assert 0.05 < genes.kept.mean() < 0.95


@pytest.mark.parametrize("n_cores", [1, 3])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_neither_dtype_nor_index_type_nor_cores_change_the_answer(dtype: type, n_cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = sparse.csr_array(_counts(20, 50, 2))
    expected = filter_by_expression(counts, 0.3)
    other = counts.astype(dtype)
    other.indices, other.indptr = other.indices.astype(np.int64), other.indptr.astype(np.int64)
    for module in (compiled, gene_filter):
        monkeypatch.setattr(module, "n_cores", lambda: n_cores)
    ours = filter_by_expression(other, 0.3)
    np.testing.assert_array_equal(ours.kept, expected.kept)
    np.testing.assert_array_equal(ours.support, expected.support)
    np.testing.assert_array_equal(ours.total_count, expected.total_count)


@pytest.mark.parametrize(
    ("n_samples", "share", "needed"), [(100, 0.07, 7), (10, 0.1, 1), (3, 1 / 3, 1), (40, 0.101, 5), (40, 1, 40), (9, 1e-9, 1)]
)
def test_support_in_a_share_of_the_samples_is_enough(n_samples: int, share: float, needed: int) -> None:
    # gene i is in i samples
    counts = np.where(np.arange(n_samples)[:, np.newaxis] < np.arange(n_samples + 1), 1000, 0)
    counts = np.column_stack([counts, 2_000_000 - counts.sum(axis=1)])
    genes = filter_supported(sparse.csr_array(counts), share)
    assert genes.min_samples == needed
    np.testing.assert_array_equal(genes.support, [*range(n_samples + 1), n_samples])
    np.testing.assert_array_equal(genes.kept, genes.support >= needed)


def test_few_counts_in_all_are_not_enough_however_well_supported() -> None:
    genes = filter_supported(sparse.csr_array([[14, 15, 30], [0, 0, 30]]), 0.5)
    assert genes.support.tolist() == [1, 1, 2]
    assert genes.total_count.tolist() == [14, 15, 60]
    assert genes.kept.tolist() == [False, True, True]


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        filter_supported(sparse.csr_array([[20]]), share)


def test_counts_without_counts_per_million_are_refused() -> None:
    with pytest.raises(InputError, match="rows 1: 1 of 2 samples have no count"):
        filter_by_expression(sparse.csr_array([[20, 3], [0, 0]]), 1)
    with pytest.raises(InputError, match="one sample or more"):
        filter_by_expression(sparse.csr_array((0, 4), dtype=np.int64), 1)
    with pytest.raises(TypeError, match="CSR"):
        filter_by_expression(sparse.csc_array([[20, 3], [1, 0]]), 1)
