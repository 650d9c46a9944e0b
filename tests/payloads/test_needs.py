"""What requests ask for: from the sizes of real inputs, together, after failures, and never less than what was used."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbridge_dagster.payloads.needs import (
    GIB,
    SMALLEST_SECONDS,
    START_SECONDS,
    TERMS,
    Needs,
    fitted_models,
    from_sizes,
    joint,
    needs_of,
    sizes_of,
)
from perturbridge_dagster.payloads.requests import Input, Request
from perturbridge_dagster.payloads.tasks import TASKS
from perturbridge_dagster.stages import STAGES

sizes = st.dictionaries(st.sampled_from(TERMS), st.floats(0, 1e9))


def test_requests_that_share_a_payload_ask_for_the_most_memory_and_all_the_time():
    asked = joint([Needs(2 * GIB, 60, 1), Needs(GIB, 30, 4), Needs(GIB, 10, 2, 1)])
    assert asked == Needs(2 * GIB, START_SECONDS + 100, 4, 1)
    assert joint([Needs(GIB, 10, 1)]).seconds == START_SECONDS + 10


def test_what_failed_for_want_of_something_asks_for_twice_of_it():
    asked = Needs(GIB, 60, 2, 1)
    assert asked.raised("out_of_memory") == Needs(2 * GIB, 60, 2, 1)
    assert asked.raised("timeout") == Needs(GIB, 120, 2, 1)
    assert asked.raised("node_failure") == asked.raised("preempted") == asked
    with pytest.raises(ValueError, match="program_error is not mended"):
        asked.raised("program_error")


def test_every_stage_has_a_model():
    for task in {*STAGES, *TASKS}:
        least = from_sizes(task, {})
        assert least.memory_bytes > 0.3 * GIB, "what Python and its packages take"
        assert least.seconds >= SMALLEST_SECONDS
    assert {task for tasks in fitted_models().values() for task in tasks} < set(STAGES)


@given(st.sampled_from(sorted(TASKS)), sizes, sizes)
def test_larger_inputs_never_ask_for_less(task, small, more):
    large = {term: small.get(term, 0.0) + more.get(term, 0.0) for term in TERMS}
    less, asked = from_sizes(task, small), from_sizes(task, large)
    assert asked.memory_bytes >= less.memory_bytes
    assert asked.seconds >= less.seconds
    assert asked.cpus >= less.cpus


def test_where_the_inputs_cannot_be_read_the_least_is_asked_for(tmp_path, caplog):
    request = Request("training_corpus", {}, {"sciplex/A": Input(str(tmp_path / "absent"), "1")}, "1", str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="perturbridge"):
        assert needs_of(request) == from_sizes("training_corpus", {})
    assert "sizes of its inputs are not known" in caplog.text


def test_only_training_of_the_published_size_asks_for_a_gpu(tmp_path):
    def training(settings: str) -> Request:
        return Request("compound_embeddings", {"settings": settings}, {"corpus": Input(str(tmp_path), "1")}, "1", str(tmp_path))

    assert (needs_of(training("small")).gpus, needs_of(training("published")).gpus) == (0, 1)


@pytest.mark.slow
def test_no_output_of_the_sample_used_more_than_its_request_asks_for(demo_home):
    planner = demo_home.planner()
    seen = set()
    for stage in STAGES:
        if STAGES[stage].light:  # these run in Dagster's own process
            continue
        for key in planner.keys(stage):
            for part in planner.plan(stage, key):
                assert all(size >= 0 for size in sizes_of(part.request).values())
                asked = needs_of(part.request)
                done = demo_home.store.current(stage, part.key).done()
                assert asked.memory_bytes >= done["peak_memory_bytes"], (part.key, stage)
                seen.add(stage)
    assert len(seen) > 5


@pytest.mark.slow
def test_sizes_of_native_files_and_strata_are_read_from_their_headers(demo_home):
    planner = demo_home.planner()
    [l1000] = planner.plan("harmonized_samples", ("l1000_phase1",))
    [sciplex] = planner.plan("harmonized_samples", ("sciplex",))
    assert sizes_of(l1000.request)["wells"] > sizes_of(l1000.request)["cells"] == 0
    assert sizes_of(sciplex.request)["cells"] == sizes_of(sciplex.request)["most_cells"] > 1000
    strata = planner.strata("sciplex").set_index("stratum").loc["CVCL_0023"]
    [grouped] = planner.plan("condition_effects", ("sciplex", "CVCL_0023"))
    [separate] = planner.plan("replicate_effects", ("sciplex", "CVCL_0023"))
    a_sample = sizes_of(grouped.request)["counts"] / strata["n_samples"]
    assert sizes_of(grouped.request)["contrasts_counts"] == pytest.approx(strata["n_conditions"] * a_sample)
    assert sizes_of(separate.request)["contrasts_counts"] == pytest.approx(strata["n_treated"] * a_sample)
    [normalized] = planner.plan("condition_effects", ("l1000_phase1", "CVCL_0023"))
    stratum = planner.strata("l1000_phase1").set_index("stratum").loc["CVCL_0023"]
    assert sizes_of(normalized.request)["normalized"] == stratum["n_samples"] * stratum["n_genes"]
