"""The bench of the effects: merging of published batches, simulated strata, resuming, the report, and R beside ours, on tiny shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import effects as bench
from bench import shapes, simulate, steps
from bench.shapes import Shape
from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.written import read_h5ad

COUNTS = Shape("gdpx2", 0, "CL_1", "grouped", 90, 30, 12, 6, 1, 600, 1, {"total_s": 7_200.0, "lmfit_s": 3_600.0}, False)
NORMALIZED = Shape("l1000_phase1", 0, "CVCL_1", "separate", 90, 30, 12, 6, 2, 40, 1, {"total_s": 7_200.0}, False)


def job(dataset: str, mode: str, context: str, samples: int, contrasts: int, plates: int, min_cells: int = 0) -> dict[str, object]:
    seconds = {"filter_tmm_s": 1.0, "voom_s": np.nan, "lmfit_s": 2.0, "contrasts_s": 3.0, "total_s": 10.0}
    return {
        "dataset": dataset,
        "replicate_mode": mode,
        "min_cells": min_cells,
        "cell_context": context,
        "samples_in": samples,
        "genes_in": 100,
        "design_samples": samples,
        "design_coefficients": contrasts + plates,
        "contrasts": contrasts,
        **seconds,
    }


def merged(tmp_path: Path, rows: list[dict[str, object]]) -> dict[str, Shape]:
    pd.DataFrame(rows).to_csv(tmp_path / "jobs.csv", index=False)
    return {shape.name: shape for shape in shapes.whole_strata(shapes.read_jobs(tmp_path / "jobs.csv"))}


def test_batches_become_one_stratum_without_padding_and_repeated_controls(tmp_path: Path) -> None:
    # 17,791 treated samples of 8,957 conditions and 406 controls were published; two batches hold 18,000 and 9,100, controls twice
    rows = [
        job("vcpi_0002", mode, "CVCL_0006", 9_000 + 406, contrasts, 51)
        for mode, contrasts in (("group_all_replicates", 4_550), ("separate_replicates", 9_000))
        for _ in range(2)
    ]
    strata = merged(tmp_path, rows)
    grouped, separate = strata["vcpi_0002-0-CVCL_0006-grouped"], strata["vcpi_0002-0-CVCL_0006-separate"]
    assert (grouped.n_treated, grouped.n_controls, grouped.n_samples) == (17_791, 406, 18_197)
    assert (grouped.n_contrasts, separate.n_contrasts) == (8_957, 17_791)
    assert (grouped.n_plates, grouped.n_times, grouped.n_coefficients) == (51, 1, 8_957 + 51)
    assert grouped.published == {"filter_tmm_s": 2.0, "lmfit_s": 4.0, "contrasts_s": 6.0, "total_s": 20.0}
    assert (grouped.n_jobs, grouped.estimated) == (2, False)


def test_a_single_job_is_a_stratum_as_it_is(tmp_path: Path) -> None:
    rows = [job("op3", "group_all_replicates", "B", 50, 12, 3, 10), job("op3", "separate_replicates", "B", 50, 40, 3, 10)]
    strata = merged(tmp_path, rows)
    assert strata["op3-10-B-grouped"] == Shape(
        "op3",
        10,
        "B",
        "grouped",
        40,
        12,
        10,
        3,
        1,
        100,
        1,
        {"filter_tmm_s": 1.0, "lmfit_s": 2.0, "contrasts_s": 3.0, "total_s": 10.0},
        False,
    )
    assert not replace(strata["op3-10-B-separate"], n_controls=3).estimable


def test_what_a_dataset_repeats_is_spread_over_its_batched_strata(tmp_path: Path) -> None:
    rows = []
    for context in ("A", "B"):
        for n in (60_000, 60_000):
            rows.append(job("l1000_phase1", "separate_replicates", context, n + 500, n, 6))
            rows.append(job("l1000_phase1", "group_all_replicates", context, n + 500, n // 3, 6))
    rows += [job("l1000_phase1", mode, "C", 90, 40, 2) for mode in ("separate_replicates", "group_all_replicates")]
    strata = merged(tmp_path, rows)
    for context in ("A", "B"):
        shape = strata[f"l1000_phase1-0-{context}-grouped"]
        assert shape.estimated
        assert shape.n_treated == 120_000 - 28_634 // 2
        assert shape.n_conditions == 40_000 - round(8_445 / 2)
        # two times have a control each: 6 columns beside the contrasts are 5 plates
        assert (shape.n_times, shape.n_plates) == (2, 5)
    assert not strata["l1000_phase1-0-C-grouped"].estimated


def test_padding_without_published_numbers_is_half_a_batch(tmp_path: Path) -> None:
    modes = ("separate_replicates", "group_all_replicates")
    shape = merged(tmp_path, [job("new", mode, "A", 1_000, 900, 6) for mode in modes for _ in range(2)])["new-0-A-grouped"]
    assert shape.n_treated == 1_800 - 450
    assert shape.estimated


@pytest.mark.parametrize(
    "shape", [COUNTS, NORMALIZED, replace(COUNTS, replicates="separate"), replace(NORMALIZED, n_plates=5, n_conditions=89)]
)
def test_a_simulated_stratum_has_its_shape(shape: Shape) -> None:
    samples = simulate.simulated_stratum(shape)
    assert samples.shape == (shape.n_samples, shape.n_genes)
    design = build_design(samples.obs, replicates=shape.replicates)
    assert len(design.contrasts) == shape.n_contrasts
    assert design.n_coefficients == shape.n_coefficients
    # plates are nested in times, and controls join the plates of a time
    assert design.n_components == shape.n_times
    assert design.contrasts["estimable"].all()


def test_detected_genes_and_depth_are_those_assumed() -> None:
    shape = replace(COUNTS, n_genes=20_000)
    counts = simulate.simulated_stratum(shape).X
    expected = simulate.EXPRESSION[shape.dataset]
    assert counts.nnz / shape.n_samples == pytest.approx(expected.detected, rel=0.1)
    # outliers add 4 % to the mean, depths 8 %
    assert counts.sum() / shape.n_samples == pytest.approx(1.12 * expected.depth, rel=0.15)


def test_both_modes_see_the_same_counts() -> None:
    one, other = (simulate.simulated_stratum(replace(COUNTS, replicates=mode)) for mode in ("grouped", "separate"))
    assert (one.X != other.X).nnz == 0
    pd.testing.assert_frame_equal(one.obs, other.obs)


def test_a_stratum_written_in_blocks_is_the_one_in_memory(tmp_path: Path) -> None:
    n_values = simulate.write_stratum(COUNTS, tmp_path / "samples.h5ad")
    written, expected = read_h5ad(tmp_path / "samples.h5ad", "harmonized_samples"), simulate.simulated_stratum(COUNTS)
    assert n_values == expected.X.nnz
    assert written.uns["stratum"] == expected.uns["stratum"]
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(written.X, name), getattr(expected.X, name))
    assert written.obs_names.equals(expected.obs_names)
    assert written.var_names.equals(expected.var_names)


def test_large_tables_are_timed_on_two_numbers_of_genes() -> None:
    assert bench.genes_of_subset(1_000, 9_000, 10_000_000) == [9_000]
    assert bench.genes_of_subset(2_000, 9_000, 10_000_000) == [2_500, 5_000]
    # no less than a tile, and no more than there are
    assert bench.genes_of_subset(100_000, 9_000, 10_000_000) == [500, 1_000]
    assert bench.genes_of_subset(100_000, 900, 10_000_000) == [900]


def test_scaling_is_in_proportion_and_n_log_n_for_the_adjustment_across_contrasts() -> None:
    seconds = bench.scaled({steps.P_VALUES: 2.0, steps.ACROSS: 2.0}, n_timed=10, n_tested=100, n_contrasts=10)
    assert seconds == {steps.P_VALUES: 20.0, steps.ACROSS: pytest.approx(20.0 * 3 / 2)}


def test_every_family_comes_before_the_second_of_any() -> None:
    several = [replace(shape, cell_context=f"C{n}", n_conditions=n) for shape in (COUNTS, NORMALIZED) for n in (10, 20, 30, 40)]
    order = bench.in_order(several)
    assert sorted(order, key=lambda shape: shape.name) == sorted(several, key=lambda shape: shape.name)
    assert {shape.family for shape in order[:2]} == {COUNTS.family, NORMALIZED.family}
    assert {(shape.dataset, shape.cell_context) for shape in order[:2]} >= {("gdpx2", "C40")}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [COUNTS, NORMALIZED])
def test_every_step_of_a_shape_is_timed(shape: Shape, tmp_path: Path) -> None:
    result = bench.measure(shape, 10**9, tmp_path)
    of_counts = {steps.FILTER, steps.TMM, steps.BY_GENE, steps.FIRST_FITS, steps.LOWESS}
    assert set(result["seconds"]) == set(steps.STEPS) - (of_counts if shape.normalized else set())
    assert min(result["seconds"].values()) > 0
    assert result["n_contrasts"] == shape.n_contrasts
    assert result["table_genes"] == [result["n_tested"]]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_table_of_some_genes_is_scaled(tmp_path: Path) -> None:
    shape = replace(COUNTS, n_genes=8_000, n_treated=200, n_conditions=100)
    result = bench.measure(shape, 120_000, tmp_path)
    assert result["table_genes"] == [500, 1_000]
    assert result["n_tested"] > 1_000
    timed = sum(result["seconds"][step] for step in steps.PER_VALUE if step != steps.ACROSS)
    assert timed > result["table_seconds"][1]


def result_of(shape: Shape, **changed: object) -> dict[str, object]:
    return {
        "shape": bench.asdict(shape),
        "n_tested": 300,
        "n_contrasts": shape.n_contrasts,
        "seconds": {steps.TMM: 1.0, steps.FITS: 10.0, steps.STORAGE: 100.0},
        "table_genes": [300],
        "table_seconds": [100.0],
        "peak_bytes": 2 * bench.GIB,
        "machine": {"cores": 2, "processor": "p", "memory_gib": 24, "versions": {}},
        **changed,
    }


def test_what_was_not_measured_follows_from_the_nearest_of_its_family() -> None:
    far = replace(COUNTS, cell_context="far", n_treated=9_000)
    results = {COUNTS.name: result_of(COUNTS), far.name: result_of(far, seconds={steps.TMM: 1e6})}
    twice = replace(COUNTS, cell_context="twice", n_treated=192, n_conditions=90)
    seconds = bench.extrapolated(twice, results)
    assert seconds is not None
    assert seconds[steps.TMM] == pytest.approx(2.0)
    assert seconds[steps.FITS] == pytest.approx(20.0)
    assert seconds[steps.STORAGE] == pytest.approx(300.0)
    assert bench.extrapolated(replace(NORMALIZED, cell_context="other"), results) is None


def test_the_report_keeps_measured_and_extrapolated_apart(capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(COUNTS, cell_context="other")
    bench.report([COUNTS, other, NORMALIZED], {COUNTS.name: result_of(COUNTS)})
    printed = capsys.readouterr().out
    assert "| gdpx2, 0, grouped | 2 | 1 | 111 | 111 | 4.0 | 65 | 2.0 |" in printed
    assert "Measured: 1 of 3 shapes, 33% of the published hours." in printed
    assert "Not in any sum: 1 shapes" in printed
    assert "| storage | 200 | 90.1% |" in printed


def test_a_measured_shape_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def child(command: str, name: str, *options: str) -> None:
        assert command == "measure"
        measured.append(name)
        shape = {COUNTS.name: COUNTS, NORMALIZED.name: NORMALIZED}[name]
        Path(options[1]).write_text(json.dumps(result_of(shape)))

    monkeypatch.setattr(bench, "_child", child)
    options = {"budget_s": 100.0, "most_values": 10, "jobs": tmp_path}
    bench.replay([COUNTS], tmp_path, **options)
    bench.replay([COUNTS, NORMALIZED], tmp_path, **options)
    assert measured == [COUNTS.name, NORMALIZED.name]
    # a shape that is another by now is measured again
    bench.replay([replace(COUNTS, n_plates=7)], tmp_path, **options)
    assert measured == [COUNTS.name, NORMALIZED.name, COUNTS.name]
    bench.replay([replace(COUNTS, n_plates=8)], tmp_path, **options | {"budget_s": -1.0})
    assert len(measured) == 3


@pytest.mark.slow
def test_limma_beside_ours_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench.headline(replace(COUNTS, n_genes=900), 800, 1.0, tmp_path)
    assert result["largest_difference"] < 1e-9
    assert result["largest_logFC"] > 0.5
    assert result["limma"]["n_coefficients"] == COUNTS.n_coefficients
    assert result["limma"]["n_fitted"] >= 16
    assert min(result["limma"].values()) > 0
    bench._print_headline(result)
    assert "| weighted fit a gene, one core |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_whole_stratum_runs_from_file_to_files(tmp_path: Path) -> None:
    simulate.write_stratum(COUNTS, tmp_path / "samples.h5ad")
    result = bench._run_whole(COUNTS, tmp_path)
    assert set(result["seconds"]) == {*steps.STEPS, "read", "content checksum"}
    assert list(result["peak_bytes"]) == ["start", "read", "content checksum", "estimate", "write"]
    # The kernel adds up its counters of each core now and then: a peak read later may be a few pages lower.
    peaks = np.array(list(result["peak_bytes"].values()))
    assert (np.diff(peaks) > -0.01 * peaks[0]).all()
    assert result["result_bytes"] == sum(file.stat().st_size for file in (tmp_path / "effects").iterdir())
