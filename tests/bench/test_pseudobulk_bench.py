"""The bench of pseudobulk: its simulated cells, and both of its parts at a small size."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse

from bench import cells
from bench import pseudobulk as bench

pytestmark = pytest.mark.slow

SHAPE = cells.Shape(n_cells=3_000, n_genes=4_000, genes_a_cell=300, n_wells=4, n_lines=3)


@pytest.mark.parametrize("compression", ["gzip", "lzf", "none"])
def test_the_file_is_what_anndata_reads_and_has_its_shape(tmp_path: Path, compression: cells.Compression) -> None:
    n_values = cells.write_cells(SHAPE, tmp_path / "cells.h5ad", compression)
    adata = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert adata.shape == (SHAPE.n_cells, SHAPE.n_genes)
    assert adata.X.nnz == n_values
    adata.X.check_format(full_check=True)
    assert adata.X.has_canonical_format
    assert n_values / SHAPE.n_cells == pytest.approx(SHAPE.genes_a_cell, rel=0.1)
    np.testing.assert_array_equal(np.asarray(adata.X.sum(axis=1)).ravel(), adata.obs["n_counts"])
    assert adata.obs["sample"].nunique() == SHAPE.n_wells * SHAPE.n_lines
    assert adata.obs_names.is_unique
    assert adata.var["symbol"].str.startswith("MT-").sum() == 13
    with h5py.File(tmp_path / "cells.h5ad") as opened:
        assert opened["X/data"].compression == (None if compression == "none" else compression)
        assert opened["X/data"].chunks


def test_genes_have_the_shares_that_they_were_given(tmp_path: Path) -> None:
    cells.write_cells(SHAPE, tmp_path / "cells.h5ad", "none")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad")
    counts = np.asarray(adata.X.sum(axis=0)).ravel()
    share = counts / counts.sum()
    assert share[adata.var["symbol"] == "MALAT1"].sum() == pytest.approx(0.04, rel=0.05)
    assert share[adata.var["symbol"].str.startswith("MT-")].sum() == pytest.approx(0.03, rel=0.05)
    generator = np.random.default_rng(1)
    expected = cells._shares(SHAPE, generator).mean(axis=0)
    popular = np.argsort(expected)[-50:]
    np.testing.assert_allclose(share[popular], expected[popular], rtol=0.15)
    # a table gives each gene its share: what falls on it, and what is passed on to it
    one = expected / expected.sum()
    threshold, alias = (table[0] for table in cells._alias_tables(one[None]))
    drawn = np.bincount(alias, weights=1 - threshold.astype(float), minlength=len(one)) + threshold
    np.testing.assert_allclose(drawn / len(one), one, atol=1e-7)


@pytest.mark.slow
def test_both_sides_agree_and_differences_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decoupler", reason="decoupler is in the extra bench", exc_type=ImportError)
    result = bench.beside(SHAPE, "gzip", tmp_path)
    assert (result["n_different"], result["n_sums"]) == (0, 12 * 4_000)
    assert min(result[side][key] for side in ("ours", "decoupler") for key in ("seconds", "cpu_seconds", "peak_bytes")) > 0
    bench._print_beside(result)
    assert "0 of 48,000 sums differ." in capsys.readouterr().out
    sums = sparse.load_npz(tmp_path / "ours.npz")
    sums.data[7] += 1
    sparse.save_npz(tmp_path / "ours.npz", sums)
    assert bench.n_different(tmp_path)[0] == 1


@pytest.mark.slow
def test_a_plate_is_filtered_and_its_sums_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = cells.Shape(n_cells=800, n_genes=4_000, genes_a_cell=400, n_wells=10, n_lines=10)
    result = bench.plate(shape, "gzip", tmp_path)
    kept = result["steps"][0]["n_out"]
    assert 0 < kept < shape.n_cells
    assert result["n_samples"] <= 100
    bench._print_plate(result)
    assert "projected to 100,000,000 cells" in capsys.readouterr().out
    totals = np.load(tmp_path / "plate.npy")
    np.save(tmp_path / "plate.npy", totals + (np.arange(len(totals)) == 3))
    with pytest.raises(ValueError, match="not those of the cells"):
        bench._require_totals(tmp_path / "cells.h5ad", tmp_path)
