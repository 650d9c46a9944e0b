"""The model of needs beside the runs it was fitted to, and those it has not seen."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from bench.needs import COEFFICIENTS, coefficients, fit, read_rows, sizes_of_row
from perturbridge_dagster.payloads.needs import GIB, KEPT_MEMORY, MEMORY_MARGIN, Needs, from_sizes


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return read_rows()


def asked(row: pd.Series) -> Needs:
    return from_sizes(row["task"], sizes_of_row(row.to_dict()))


def test_the_coefficients_are_those_of_the_measured_runs(rows):
    # what was not measured yet is not there, and its coefficients are assumed
    shipped = json.loads(COEFFICIENTS.read_text())
    for model, fitted in coefficients(rows).items():
        for target, terms in fitted.items():
            assert shipped[model][target] == pytest.approx(terms, rel=1e-3), (model, target)


def test_the_runs_cover_two_decades_and_are_held_out_in_part(rows):
    for sizes in ("counts", "normalized"):
        of = rows[rows[sizes].notna()]
        assert of[sizes].max() > 20 * of[sizes].min()
        assert 0.2 < of["held_out"].mean() < 0.9


def test_no_run_held_out_or_not_used_more_memory_than_is_asked_for(rows):
    for _, row in rows.iterrows():
        # what is kept for libraries of other requests is not needed by one that runs alone
        assert row["peak_memory_bytes"] <= asked(row).memory_bytes - KEPT_MEMORY, row["case"]


def test_every_run_took_less_time_than_is_asked_for(rows):
    for _, row in rows.iterrows():
        taken = row["seconds"] if pd.isna(row["cpu_seconds"]) else row["cpu_seconds"]
        assert taken <= asked(row).seconds, row["case"]


def test_large_held_out_runs_used_a_good_part_of_what_is_asked_for(rows):
    large = rows[rows["held_out"].astype(bool) & (rows["peak_memory_bytes"] > 1.2 * GIB)]
    assert len(large) > 2
    shares = [row["peak_memory_bytes"] / asked(row).memory_bytes for _, row in large.iterrows()]
    assert np.median(shares) > 0.3, "the paper used 1 to 30 % of what it asked for"


def test_a_known_model_is_found_again_and_no_run_lies_above_it():
    generator = np.random.default_rng(1)
    counts, contrasts = 10.0 ** generator.uniform(5, 8, (2, 40))
    exact = pd.DataFrame({"counts": counts, "contrasts_counts": contrasts, "peak": 4e8 + 20 * counts + 5 * contrasts})
    terms = ("counts", "contrasts_counts", "wells")
    assert fit(exact, "peak", terms) == pytest.approx({"1": 4e8, "counts": 20, "contrasts_counts": 5}, rel=1e-2)
    noisy = exact.assign(peak=exact["peak"] * generator.uniform(0.9, 1.1, 40))
    found = fit(noisy, "peak", terms)
    predicted = found["1"] + found["counts"] * counts + found["contrasts_counts"] * contrasts
    assert (predicted >= 0.9999 * noisy["peak"]).all()
    assert (predicted < MEMORY_MARGIN * noisy["peak"]).all()
    unrelated = exact.assign(peak=4e8)
    assert set(fit(unrelated, "peak", terms)) == {"1"}
