"""What SLURM's words come to: figures, and classes of failure, as clusters with and without cgroups spell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.slurm.accounting import (
    ADVICE,
    ENDED,
    RETRIED,
    Figures,
    duration_seconds,
    explain,
    failure_class,
    first_word,
    memory_bytes,
    read_sacct,
    read_scontrol,
    size,
    span,
)

MIB = 2**20

# JobID|State|ExitCode|ReqMem|ReqCPUS|MaxRSS|ElapsedRaw|TotalCPU|NodeList|Start|End
COMPLETED = """\
18|COMPLETED|0:0|1434M|2||61|01:02.500|node1|2026-11-21T18:31:43|2026-11-21T18:32:44
18.batch|COMPLETED|0:0||2|612345K|61|01:02.500|node1|2026-11-21T18:31:43|2026-11-21T18:32:44
18.extern|COMPLETED|0:0||2|0|61|00:00:00|node1|2026-11-21T18:31:43|2026-11-21T18:32:44
"""
OUT_OF_MEMORY_WITH_CGROUPS = """\
19|OUT_OF_MEMORY|0:125|256M|1||12|00:05.000|node1|2026-11-21T18:31:43|2026-11-21T18:31:55
19.batch|OUT_OF_MEMORY|0:125||1|261000K|12|00:05.000|node1|2026-11-21T18:31:43|2026-11-21T18:31:55
"""
OUT_OF_MEMORY_OF_A_STEP = """\
20|FAILED|137:0|256Mn|1||12|00:05.000|node1|2026-11-21T18:31:43|2026-11-21T18:31:55
20.batch|FAILED|137:0||1|201000K|12|00:05.000|node1|2026-11-21T18:31:43|2026-11-21T18:31:55
20.0|OUT_OF_MEMORY|0:125||1|255000K|10|00:04.000|node1|2026-11-21T18:31:43|2026-11-21T18:31:55
"""
OUT_OF_MEMORY_WITHOUT_CGROUPS = """\
21|FAILED|0:9|150M|1||8|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:31:51
21.batch|CANCELLED|0:9||1|312000K|8|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:31:51
"""
KILLED = """\
22|FAILED|0:9|1500M|1||8|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:31:51
22.batch|FAILED|0:9||1|112000K|8|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:31:51
"""
EXITED = """\
23|FAILED|3:0|1500M|1||8|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:31:51
23.batch|FAILED|3:0||1|1490000K|8|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:31:51
"""
TIMEOUT = """\
24|TIMEOUT|0:0|1500M|1||72|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:32:55
24.batch|CANCELLED|0:15||1|112000K|73|00:02.000|node2|2026-11-21T18:31:43|2026-11-21T18:32:56
"""
CANCELLED = "25|CANCELLED by 0|0:0|1500M|1||0|00:00:00|None assigned|2026-11-21T18:31:43|2026-11-21T18:31:43\n"
NODE_FAIL = "26|NODE_FAIL|1:0|1500M|1||40|00:00:00|node1|2026-11-21T18:31:43|2026-11-21T18:32:23\n"
PREEMPTED = "27|PREEMPTED|0:0|1500M|1||40|00:00:00|node1|2026-11-21T18:31:43|2026-11-21T18:32:23\n"


@pytest.mark.parametrize(
    ("text", "job", "expected"),
    [
        (COMPLETED, 18, None),
        (OUT_OF_MEMORY_WITH_CGROUPS, 19, "out_of_memory"),
        (OUT_OF_MEMORY_OF_A_STEP, 20, "out_of_memory"),
        (OUT_OF_MEMORY_WITHOUT_CGROUPS, 21, "out_of_memory"),
        (KILLED, 22, "program_error"),
        (EXITED, 23, "program_error"),
        (TIMEOUT, 24, "timeout"),
        (CANCELLED, 25, "cancelled"),
        (NODE_FAIL, 26, "node_failure"),
        (PREEMPTED, 27, "preempted"),
        (TIMEOUT.replace("TIMEOUT", "DEADLINE"), 24, "timeout"),
        (NODE_FAIL.replace("NODE_FAIL", "BOOT_FAIL"), 26, "node_failure"),
        ("", 18, "unknown"),
    ],
)
def test_every_way_to_end_has_a_class(text: str, job: int, expected: str | None):
    assert failure_class(read_sacct(text, job)) == expected


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=22.batch. Some of the step tasks have been OOM Killed.", "out_of_memory"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=22.batch cgroup.", "out_of_memory"),
        ("slurmstepd: error: Exceeded job memory limit", "out_of_memory"),
        ("slurmstepd: error: *** JOB 22 ON node2 CANCELLED AT 2026-11-21T18:32:55 DUE TO TIME LIMIT ***", "timeout"),
        ("slurmstepd: error: *** JOB 22 ON node2 CANCELLED AT 2026-11-21T18:32:55 DUE TO PREEMPTION ***", "preempted"),
        (
            "slurmstepd: error: *** JOB 22 ON node2 CANCELLED AT 2026-11-21T18:32:55 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***",
            "node_failure",
        ),
        ("ValueError: no residual degrees of freedom", "program_error"),
    ],
)
def test_the_log_decides_where_the_state_is_silent(log: str, expected: str):
    assert failure_class(read_sacct(KILLED, 22), log) == expected
    assert failure_class(None, log) == (expected if expected != "program_error" else "unknown")


def test_a_state_that_is_plain_is_not_overruled_by_the_log():
    assert failure_class(read_sacct(TIMEOUT, 24), "out of memory") == "timeout"
    assert failure_class(read_sacct(COMPLETED, 18), "warning: 1 oom_kill event elsewhere") is None


def test_figures_are_of_the_job_and_the_peak_of_its_steps():
    figures = read_sacct(COMPLETED, 18)
    assert figures == Figures(
        "COMPLETED",
        asked_memory_bytes=1434 * MIB,
        peak_memory_bytes=612345 * 1024,
        elapsed_seconds=61.0,
        cpu_seconds=62.5,
        node="node1",
        started="2026-11-21T18:31:43",
        ended="2026-11-21T18:32:44",
    )
    assert read_sacct(COMPLETED, 1) is None, "neither 18 nor 18.batch is job 1"
    assert read_sacct("sacct: error: Problem talking to the database: Connection refused\n", 18) is None
    assert read_sacct(CANCELLED, 25) is not None
    assert read_sacct(CANCELLED, 25).node is None
    running = read_sacct("28|RUNNING|0:0|2Gc|4||5|00:00:00|node1|2026-11-21T18:31:43|Unknown\n", 28)
    assert running is not None
    assert running.state not in ENDED
    assert running.asked_memory_bytes == 8 * 2**30, "of each of four CPUs"
    assert running.ended is None


def test_the_controller_still_knows_what_accounting_does_not_say():
    said = (
        "JobId=22 JobName=perturbridge-x UserId=root(0) GroupId=root(0) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=0 "
        "ExitCode=3:0 RunTime=00:01:08 TimeLimit=00:03:00 StartTime=2026-11-21T18:31:43 EndTime=2026-11-21T18:32:51 NodeList=node2 "
        "Comment=Dagster run 1 StdErr=/shared/runs/slurm-22.err\n"
    )
    figures = read_scontrol(said)
    assert figures is not None
    assert (figures.state, figures.exit_status, figures.elapsed_seconds, figures.node) == ("FAILED", 3, 68.0, "node2")
    assert failure_class(figures) == "program_error"
    assert read_scontrol("slurm_load_jobs error: Invalid job id specified") is None


def test_every_class_has_advice_and_what_is_tried_again_is_what_may_be_mended():
    assert set(RETRIED) == {"out_of_memory", "timeout", "node_failure", "preempted"}
    assert set(ADVICE) == {*RETRIED, "cancelled", "program_error", "unknown"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512M", 512 * MIB),
        ("1.50G", 1536 * MIB),
        ("612345K", 612345 * 1024),
        ("4000Mn", 4000 * MIB),
        ("2Gc", 2048 * MIB),
        ("0", 0),
        ("", None),
    ],
)
def test_sizes(text: str, expected: int | None):
    assert memory_bytes(text) == expected


@given(days=st.integers(0, 400), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(0, 59))
def test_durations_are_read_as_slurm_writes_them(days: int, hours: int, minutes: int, seconds: int):
    total = 86400 * days + 3600 * hours + 60 * minutes + seconds
    assert duration_seconds(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    if not days:
        assert duration_seconds(f"{hours:02}:{minutes:02}:{seconds:02}") == total
        if not hours:
            assert duration_seconds(f"{minutes:02}:{seconds:02}.250") == total + 0.25


def test_durations_that_are_none():
    for text in ("", "UNLIMITED", "INVALID", "12"):
        assert duration_seconds(text) is None


def test_states_in_one_word():
    assert [first_word(text) for text in ("CANCELLED by 1000", "TIMEOUT+", " RUNNING\n", "", "?")] == [
        "CANCELLED",
        "TIMEOUT",
        "RUNNING",
        "",
        "",
    ]


def test_a_failure_is_explained_with_what_to_do_and_the_log():
    text = explain("out_of_memory", "SLURM job 18 on node1", ["It used 312 MiB of 150 MiB memory."], "one\ntwo\n")
    assert text.splitlines() == [
        "out of memory: SLURM job 18 on node1. It used 312 MiB of 150 MiB memory.",
        ADVICE["out_of_memory"],
        "Last lines of its log:",
        "    one",
        "    two",
    ]
    assert "Last lines" not in explain("timeout", "SLURM job 18", [], "\n")


def test_sizes_and_times_in_words():
    assert [size(150 * MIB), size(1536 * MIB), size(64 * 2**30)] == ["150 MiB", "1.5 GiB", "64 GiB"]
    assert [span(61), span(720), span(19800)] == ["61 s", "12 min", "5.5 h"]
