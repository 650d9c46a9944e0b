from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from perturbridge_dagster.effects import EffectTable, streaming
from perturbridge_dagster.effects.p_values import adjusted_log10_p, log10_p_values
from perturbridge_dagster.effects.streaming import LAYERS, EffectStream, Tiles
from perturbridge_dagster.effects.table import ModeratedFit

pytestmark = pytest.mark.slow

MakeTable = Callable[[int, int], EffectTable]
MakeFit = Callable[[np.ndarray, np.ndarray], ModeratedFit]

TINY = 40 * 8
"""Memory for a few values at a time on any machine."""


def adjusted_by_stream(log10_p: np.ndarray, memory: int) -> np.ndarray:
    """Adjusted log10 P values of a flat array, as the stream makes them."""
    source, into = streaming._Scratch(np.float64, None), streaming._Scratch(np.float32, None)
    try:
        source.write(0, log10_p)
        adjustment = streaming._Adjustment(int((~np.isnan(log10_p)).sum()), None, memory)
        adjustment.adjust(streaming._Region(source, 0, len(log10_p)), streaming._Region(into, 0, len(log10_p)), 0)
        return into.read(0, len(log10_p))
    finally:
        source.close()
        into.close()


log10_ps = st.one_of(
    st.floats(-400, 0),
    st.floats(-1e-9, 0),
    # ties
    st.sampled_from([0.0, -0.0, -1.0, -np.nextafter(1, 2), -300.0, -np.inf, np.nan]),
)


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=log10_ps), st.sampled_from([1, TINY, 5 * TINY, 2**30]))
@example(np.zeros(50), 1)
@example(np.full(50, np.nan), 1)
@example(np.array([np.nan, -1.0] * 20), 1)
def test_adjusting_across_is_exact_whatever_the_memory(log10_p: np.ndarray, memory: int) -> None:
    np.testing.assert_array_equal(adjusted_by_stream(log10_p, memory), adjusted_log10_p(log10_p).astype(np.float32))


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(1e-12, 1)), st.sampled_from([1, TINY]))
def test_adjusting_across_is_scipys(p: np.ndarray, memory: int) -> None:
    ours = adjusted_by_stream(np.log10(p), memory)
    np.testing.assert_allclose(ours, np.log10(stats.false_discovery_control(p)), rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("memory", [40 * 300, 40 * 5_000, 2**30])
@pytest.mark.parametrize("kind", ["null", "signal", "ties", "one value", "close together"])
def test_many_p_values_in_many_groups_are_exact(kind: str, memory: int) -> None:
    rng = np.random.default_rng(3)
    n = 30_000
    log10_p = {
        "null": np.log10(rng.random(n)),
        "signal": log10_p_values(rng.normal(0, rng.gamma(2, 2, n)), np.array(30.0)),
        "ties": np.round(np.log10(rng.random(n)), 1),
        "one value": np.full(n, -2.5),
        "close together": -1 - 1e-14 * rng.random(n),
    }[kind]
    log10_p[rng.random(n) < 0.1] = np.nan
    np.testing.assert_array_equal(adjusted_by_stream(log10_p, memory), adjusted_log10_p(log10_p).astype(np.float32))


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log10_p = np.log10(np.random.default_rng(4).random(5_000))
    made = []
    for n_cores in (1, 7):
        monkeypatch.setattr(streaming, "n_cores", lambda n_cores=n_cores: n_cores)
        made.append(adjusted_by_stream(log10_p, 40 * 100))
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("memory", [1, 40 * 60, 2**30])
@pytest.mark.parametrize("tile", [(1, 1), (4, 5), (50, 3), (3, 50)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 23), (12, 1), (13, 17)])
def test_a_stream_gives_the_layers_of_the_table(make_table: MakeTable, shape: tuple[int, int], tile: tuple[int, int], memory: int) -> None:
    table = make_table(*shape)
    wide = {**table.layers, **table.log10_layers}
    tiles = Tiles(*shape, *tile)
    seen = np.zeros(shape, dtype=int)
    with EffectStream(table, tiles, memory=memory) as stream:
        for rows, columns, layers in stream:
            assert list(layers) == list(LAYERS)
            for name, values in layers.items():
                assert values.dtype == np.float32
                np.testing.assert_array_equal(values, wide[name][rows, columns].astype(np.float32), err_msg=name)
            seen[rows, columns] += 1
    assert (seen == 1).all()
    obs = table.to_anndata().obs
    assert stream.contrasts["n_significant"].tolist() == obs["n_significant"].tolist()
    np.testing.assert_allclose(stream.contrasts["mean_abs_t"], obs["mean_abs_t"], rtol=1e-12)


@pytest.mark.parametrize("kind", ["missing block", "equal", "zero", "no variance", "huge"])
def test_odd_values_stream_as_they_are(make_table: MakeTable, make_fit: MakeFit, kind: str) -> None:
    rng = np.random.default_rng(5)
    log_fc, unscaled = rng.normal(size=(11, 14)), rng.uniform(0.5, 1, (11, 14))
    if kind == "missing block":
        log_fc[2:9, 3:8] = unscaled[2:9, 3:8] = np.nan
        log_fc[:, 10] = np.nan
    elif kind == "equal":
        log_fc[:], unscaled[:] = 1.0, 1.0
    elif kind == "zero":
        log_fc[:] = 0.0
    elif kind == "huge":
        log_fc[::2] = 1e12
    fit = make_fit(log_fc, unscaled)
    if kind == "equal":
        fit = dataclasses.replace(fit, s2_post=np.ones(14), df_total=np.full(14, 9.0))
    elif kind == "no variance":
        fit = dataclasses.replace(fit, s2_post=np.where(np.arange(14) % 3 == 0, 0.0, fit.s2_post))
    table = dataclasses.replace(make_table(11, 14), fit=fit)
    wide = {**table.layers, **table.log10_layers}
    for memory in (1, 40 * 20):
        with EffectStream(table, Tiles(11, 14, 4, 5), memory=memory) as stream:
            for rows, columns, layers in stream:
                for name, values in layers.items():
                    np.testing.assert_array_equal(values, wide[name][rows, columns].astype(np.float32), err_msg=name)


def test_each_gene_is_asked_for_once_in_blocks_of_whole_tiles(make_table: MakeTable) -> None:
    table = make_table(13, 17)
    asked: list[tuple[int, int]] = []

    def noting(genes: slice) -> tuple[np.ndarray, np.ndarray]:
        asked.append((genes.start, genes.stop))
        return table.fit.effects(genes)

    watched = dataclasses.replace(table, fit=dataclasses.replace(table.fit, effects=noting))
    with EffectStream(watched, Tiles(13, 17, 4, 3), memory=2 * 2 * 40 * 13 * 3) as stream:
        list(stream)
    assert asked == [(0, 6), (6, 12), (12, 17)]


def test_scratch_files_lie_where_they_are_asked_for_and_have_no_name(make_table: MakeTable, tmp_path: Path) -> None:
    with EffectStream(make_table(5, 6), Tiles(5, 6, 2, 2), tmp_path) as stream:
        next(iter(stream))
        assert list(tmp_path.iterdir()) == []


def test_reading_beyond_the_end_of_a_scratch_file_is_an_error() -> None:
    scratch = streaming._Scratch(np.float32, None)
    scratch.write(0, np.ones(3))
    with pytest.raises(EOFError, match="before value 4"):
        scratch.read(0, 4)
    scratch.close()
