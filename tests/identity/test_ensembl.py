"""Ensembl's archive: what it answers, how it fails, and what its answers change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from perturbridge_dagster.contract import DROPPED_GENES, HARMONIZED_VAR, Table
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.ask_genes import ids_of_file, main
from perturbridge_dagster.identity.ensembl import (
    ARCHIVE_COLUMNS,
    ARCHIVE_TABLE,
    EnsemblArchive,
    EnsemblError,
    Limits,
    archive_checksum,
    ask_and_keep,
    load_archive,
    save_archive,
)
from perturbridge_dagster.identity.genes import GeneIdentity
from perturbridge_dagster.identity.snapshot import shipped, with_answers
from perturbridge_dagster.patience import Pace
from perturbridge_dagster.written import to_arrow
from tests.identity.ensembl_double import EnsemblDouble, Trouble, serve

pytestmark = pytest.mark.slow

CURRENT, REPLACED, RETIRED, AMBIGUOUS, UNKNOWN = (f"ENSG999999{number:05d}" for number in range(1, 6))
TARGET, OTHER = "ENSG99999900101", "ENSG99999900102"
ALL = [CURRENT, REPLACED, RETIRED, AMBIGUOUS, UNKNOWN]
QUICK = Limits(
    ids_per_request=2, per_second=1000, timeout_s=0.5, tries=3, first_pause_s=0.01, longest_pause_s=0.02, longest_retry_after_s=0.1
)


@pytest.fixture
def ensembl(monkeypatch: pytest.MonkeyPatch) -> Iterator[EnsemblDouble]:
    """A local Ensembl that this process asks by default."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(EnsemblDouble({CURRENT: None, REPLACED: [TARGET], RETIRED: [], AMBIGUOUS: [TARGET, OTHER], TARGET: None})) as double:
        monkeypatch.setenv("PERTURBRIDGE_ENSEMBL", double.address)
        yield double


def statuses(table: pd.DataFrame) -> dict[str, tuple[str | None, str]]:
    return {row.gene_id: (row.ensembl_id, row.status) for row in table.itertuples()}


def test_every_id_is_answered_or_unknown_by_the_rules(ensembl: EnsemblDouble) -> None:
    table = EnsemblArchive(limits=QUICK).ask([f"{CURRENT}.7", CURRENT, *ALL, "TP53", "ENSMUSG00000000001", f"{CURRENT}.7_PAR_Y"])
    assert list(table.columns) == list(ARCHIVE_COLUMNS)
    assert statuses(table) == {
        CURRENT: (CURRENT, "current"),
        REPLACED: (TARGET, "replaced"),
        RETIRED: (None, "retired"),
        AMBIGUOUS: (None, "ambiguous"),
        UNKNOWN: (None, "unknown"),
    }
    assert table.set_index("gene_id").loc[AMBIGUOUS, "replacements"] == f"{TARGET};{OTHER}"
    assert table["release"].unique().tolist() == [115]
    # two ids a request; the unknown one is asked again, and then alone
    asked = [request for request in ensembl.requests if request[0] != "release"]
    assert asked == [("POST", ALL[:2]), ("POST", ALL[2:4]), ("POST", [UNKNOWN]), ("POST", [UNKNOWN]), ("GET", [UNKNOWN])]


def test_a_thousand_ids_go_into_a_request(ensembl: EnsemblDouble) -> None:
    ids = [f"ENSG{number:011d}" for number in range(1000, 3500)]
    ensembl.archive |= dict.fromkeys(ids)
    assert (EnsemblArchive().ask(ids)["status"] == "current").all()
    assert [len(asked) for kind, asked in ensembl.requests if kind == "POST"] == [1000, 1000, 500]


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Trouble(status=429, headers={"Retry-After": "0.03"}, body=b"{}"), id="too many requests"),
        pytest.param(Trouble(status=503, body=b"<html>down</html>"), id="not available"),
        pytest.param(Trouble(body=b'[{"id": "ENSG00'), id="truncated JSON"),
        pytest.param(Trouble(cut=True), id="connection cut"),
        pytest.param(Trouble(silent_s=0.7), id="slow"),
    ],
)
def test_a_failure_that_passes_is_asked_again(ensembl: EnsemblDouble, trouble: Trouble) -> None:
    ensembl.troubles = [trouble]
    assert statuses(EnsemblArchive(limits=QUICK).ask([CURRENT, RETIRED])) == {CURRENT: (CURRENT, "current"), RETIRED: (None, "retired")}
    assert [kind for kind, _ in ensembl.requests].count("POST") == 2


def test_it_waits_as_long_as_it_is_asked_to(ensembl: EnsemblDouble) -> None:
    ensembl.troubles = [Trouble(status=429, headers={"Retry-After": "7.5"}, body=b"{}"), Trouble(status=429, body=b"{}")]
    slept: list[float] = []
    EnsemblArchive(
        limits=Limits(per_second=1000, first_pause_s=0.01, longest_pause_s=60),
        pace=Pace(clock=itertools.count().__next__, sleep=slept.append),
    ).ask([CURRENT])
    assert slept[0] == 7.5
    assert 0 < slept[1] < 1


def test_no_more_requests_than_allowed_are_made(ensembl: EnsemblDouble) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    EnsemblArchive(limits=Limits(per_second=4), pace=Pace(clock=lambda: now[0], sleep=sleep)).ask([CURRENT])
    np.testing.assert_allclose(slept, [0.25, 0.25])


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        pytest.param(
            Trouble(status=503, body=b""), r"chunk 1 of 3 \(2 ids\): no answer in 3 tries; the last: status 503", id="never answers"
        ),
        pytest.param(Trouble(body=b'{"error": "x"}'), r"chunk 1 of 3 \(2 ids\): the answer is no list", id="something else"),
        pytest.param(
            Trouble(body=b'[{"id": "ENSG99999900001"}]'), r"the answer is no list of archived ids", id="items without their fields"
        ),
        pytest.param(Trouble(status=400, body=b'{"error": "no"}'), r"refused the request with status 400", id="refused"),
        pytest.param(
            Trouble(body=b'[{"id": "ENSG99999999999", "is_current": "1", "release": "115"}]'), r"of which 1 were not asked", id="others"
        ),
    ],
)
def test_what_does_not_pass_is_fatal_and_nothing_is_kept(ensembl: EnsemblDouble, tmp_path: Path, trouble: Trouble, message: str) -> None:
    ensembl.always = trouble
    with pytest.raises(EnsemblError, match=message):
        ask_and_keep(tmp_path, ALL, EnsemblArchive(limits=QUICK))
    assert load_archive(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_partial_answer_is_fatal_in_any_chunk(ensembl: EnsemblDouble, tmp_path: Path, number: int) -> None:
    ids = [CURRENT, REPLACED, RETIRED, AMBIGUOUS, TARGET]
    ensembl.troubles = [Trouble()] * number + [Trouble(leave_out=1)]
    left_out = ids[min(2 * number + 1, 4)]
    with pytest.raises(EnsemblError, match=rf"chunk {number + 1} of 3 .*left out 1 ids that Ensembl knows, such as {left_out}"):
        ask_and_keep(tmp_path, ids, EnsemblArchive(limits=QUICK))
    assert load_archive(tmp_path) is None


def test_an_answer_that_leaves_the_same_out_every_time_is_fatal(ensembl: EnsemblDouble) -> None:
    ensembl.always = Trouble(leave_out=1)
    with pytest.raises(EnsemblError, match=rf"left out 1 ids that Ensembl knows, such as {CURRENT}"):
        EnsemblArchive(limits=QUICK).ask([CURRENT])


def test_a_release_that_changes_is_fatal(ensembl: EnsemblDouble) -> None:
    ensembl.later_release = 116
    with pytest.raises(EnsemblError, match="went from release 115 to 116 while 5 ids were asked"):
        EnsemblArchive(limits=QUICK).ask(ALL)


def test_ids_of_another_release_than_is_said_are_fatal(ensembl: EnsemblDouble) -> None:
    item = {"id": CURRENT, "is_current": "1", "release": "116", "possible_replacement": []}
    ensembl.troubles = [Trouble(body=str([item]).replace("'", '"').encode())]
    with pytest.raises(EnsemblError, match=r"of release 116, but Ensembl said 115"):
        EnsemblArchive(limits=QUICK).ask([CURRENT])


def test_a_service_that_does_not_listen_is_told_of() -> None:
    with pytest.raises(EnsemblError, match=r"the release: no answer in 3 tries; the last: ConnectError"):
        EnsemblArchive("http://127.0.0.1:9", limits=QUICK).ask([CURRENT])


# ---- kept ---------------------------------------------------------------------------------------------------------------------


def test_answers_are_kept_and_asked_again_with_new_ones_in_one_release(ensembl: EnsemblDouble, tmp_path: Path) -> None:
    assert archive_checksum(tmp_path) is None
    first = ask_and_keep(tmp_path, [CURRENT], EnsemblArchive(limits=QUICK))
    pd.testing.assert_frame_equal(load_archive(tmp_path), first, check_dtype=False)
    before = archive_checksum(tmp_path)
    ensembl.release = 116
    ensembl.archive[CURRENT] = [TARGET]
    ask_and_keep(tmp_path, [RETIRED], EnsemblArchive(limits=QUICK))
    kept = load_archive(tmp_path)
    assert statuses(kept) == {CURRENT: (TARGET, "replaced"), RETIRED: (None, "retired")}
    assert kept["release"].tolist() == [116, 116]
    assert archive_checksum(tmp_path) != before
    ensembl.always = Trouble(status=503, body=b"")
    with pytest.raises(EnsemblError):
        ask_and_keep(tmp_path, [OTHER], EnsemblArchive(limits=QUICK))
    pd.testing.assert_frame_equal(load_archive(tmp_path), kept)


def test_a_file_that_is_no_table_of_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE_TABLE).write_bytes(b"not Parquet")
    with pytest.raises(InputError, match="ask again"):
        load_archive(tmp_path)
    rows = pd.DataFrame([("a", None, "unknown", None, release, "d", "s") for release in (115, 116)], columns=list(ARCHIVE_COLUMNS))
    save_archive(tmp_path, rows)
    with pytest.raises(InputError, match="several releases"):
        load_archive(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", f"{CURRENT}\n{RETIRED}\n"),
        ("var.csv", f"symbol,gene_id\nX,{CURRENT}\n,{RETIRED}\n"),
        ("var.tsv", f"ensembl_id\tn\n{CURRENT}\t3\n{RETIRED}\t4\n"),
        ("list.csv", f"source_gene_id,ensembl_id\n{CURRENT};{RETIRED},{TARGET}\n,{TARGET}\n"),
        ("dropped_genes.parquet", DROPPED_GENES),
        ("var.parquet", HARMONIZED_VAR),
    ],
)
def test_the_command_asks_the_ids_of_a_file(
    ensembl: EnsemblDouble, tmp_path: Path, name: str, content: str | Table, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    if isinstance(content, str):
        file.write_text(content)
    elif content is DROPPED_GENES:
        lost = pd.DataFrame({"source_gene_id": [CURRENT, RETIRED], "reason": "unknown", "file": "X.h5ad", "rule": "r", "dataset": "d"})
        pq.write_table(to_arrow(lost.assign(ensembl_id=None, found=None, counts_lost=1), content), file)
    else:
        merged = pd.DataFrame({"source_gene_id": [f"{CURRENT};{RETIRED}"], "symbol": "A", "is_merged": True, "ensembl_id": TARGET})
        pq.write_table(to_arrow(merged, content), file)
    assert ids_of_file(file) == [CURRENT, RETIRED]
    assert main([str(file), "--home", str(tmp_path / "home")]) == 0
    assert "2 ids kept" in capsys.readouterr().out
    assert statuses(load_archive(tmp_path / "home" / "identity")) == {CURRENT: (CURRENT, "current"), RETIRED: (None, "retired")}


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.txt"), "--home", str(tmp_path)]) == 1
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    assert main([str(tmp_path / "x.parquet"), "--home", str(tmp_path)]) == 1
    assert "has no column of gene ids" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.parametrize("ids", [[], ["TP53", "7157"]])
def test_the_command_asks_nothing_of_files_without_ensembl_ids(
    ensembl: EnsemblDouble, tmp_path: Path, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"source_gene_id": ids}, dtype=object).to_parquet(tmp_path / "dropped_genes.parquet")
    assert main([str(tmp_path / "dropped_genes.parquet"), "--home", str(tmp_path)]) == 1
    assert f"no Ensembl gene id among the {len(ids)} ids of {tmp_path / 'dropped_genes.parquet'}" in capsys.readouterr().err
    assert ensembl.requests == []
    assert not (tmp_path / "identity").exists()


# ---- used ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gene_id", "answer", "expected"),
    [
        pytest.param("G1", ("G1", "current"), ("G1", "current", "GENCODE id"), id="of the list"),
        pytest.param("G1", (None, "retired"), ("G1", "current", "GENCODE id"), id="of the list, whatever a later release says"),
        pytest.param("X", ("G2", "replaced"), ("G2", "replaced", "Ensembl archive, release 115"), id="replaced"),
        pytest.param("OLD", ("G2", "replaced"), ("G2", "replaced", "Ensembl archive, release 115"), id="the archive knows better"),
        pytest.param("OLD", (None, "ambiguous"), ("G1", "replaced", "same Entrez gene"), id="the Entrez gene decides among several"),
        pytest.param("OLD", (None, "unknown"), ("G1", "replaced", "same Entrez gene"), id="unknown to the archive"),
        pytest.param("GONE", (None, "unknown"), (None, "retired", "NCBI link"), id="retired, and older than the archive"),
        pytest.param("GONE", (None, "ambiguous"), (None, "ambiguous", "Ensembl archive, release 115"), id="several"),
        pytest.param("X", (None, "retired"), (None, "retired", "Ensembl archive, release 115"), id="retired"),
        pytest.param("X", (None, "unknown"), (None, "unknown", "Ensembl archive, release 115"), id="unknown"),
        pytest.param("ALT", ("ALT", "current"), ("G1", "replaced", "same Entrez gene"), id="on an alternative sequence"),
        pytest.param("X", ("ALT", "replaced"), ("G1", "replaced", "Ensembl archive, release 115"), id="replaced by an alternative"),
        pytest.param("X", ("X", "current"), ("X", "current", "GENCODE id"), id="in use, newer than the list"),
        pytest.param("X", ("NEW", "replaced"), ("NEW", "replaced", "Ensembl archive, release 115"), id="replaced by a newer one"),
    ],
)
def test_what_an_answer_changes(gene_id: str, answer: tuple[str | None, str], expected: tuple[str | None, str, str]) -> None:
    genes = pd.DataFrame({"ensembl_id": ["G1", "G2"], "symbol": ["A", "B"]})
    rows = [
        ("OLD", "G1", "replaced", "same Entrez gene"),
        ("ALT", "G1", "replaced", "same Entrez gene"),
        ("GONE", None, "retired", "NCBI link"),
    ]
    keys = pd.DataFrame([("ensembl", *row) for row in rows] + [("symbol", "A", "G1", "current", "GENCODE symbol")])
    keys.columns = pd.Index(["kind", "key", "ensembl_id", "status", "found"])
    archive = pd.DataFrame([(gene_id, *answer, None, 115, "d", "s")], columns=list(ARCHIVE_COLUMNS))
    grown = GeneIdentity(genes, keys).with_archive(archive)
    found = grown.resolve([gene_id], "ensembl").iloc[0]
    assert (found["ensembl_id"], found["status"], found["found"]) == expected
    assert grown.genes["ensembl_id"].is_unique
    assert not grown.keys.duplicated(["kind", "key"]).any()
    assert grown.resolve(["A"], "symbol")["ensembl_id"].tolist() == ["G1"]


def test_no_answers_change_nothing() -> None:
    genes = shipped().genes
    assert genes.with_archive(None) is genes


def test_kept_answers_are_used_and_make_another_version(ensembl: EnsemblDouble, tmp_path: Path) -> None:
    someone = shipped().genes.genes["ensembl_id"].iloc[0]
    ensembl.archive |= {REPLACED: [someone]}
    assert with_answers(tmp_path).version == shipped().version
    ask_and_keep(tmp_path, [REPLACED, RETIRED], EnsemblArchive(limits=QUICK))
    grown = with_answers(tmp_path, "op3")
    assert grown.genes.resolve([REPLACED, RETIRED], "ensembl")["status"].tolist() == ["replaced", "retired"]
    assert grown.version != shipped().version
    assert with_answers(tmp_path, "tahoe").version == grown.version


@pytest.mark.real_data
def test_genes_of_tahoe_that_the_tables_do_not_know_are_resolved_by_the_archive(
    ensembl: EnsemblDouble, real_data: Path, tmp_path: Path
) -> None:
    """The whole way on real ids: what the shipped tables leave open is asked of a local archive that knows it."""
    genes = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "gene_metadata.parquet")["ensembl_id"]
    before = shipped().genes.resolve(genes, "ensembl")
    open_ids = sorted(genes[before["status"].isin(["unknown", "retired"])])
    assert 200 < len(open_ids) < 3000
    someone = shipped().genes.genes["ensembl_id"].iloc[0]
    ensembl.archive |= {gene_id: ([someone] if number % 2 else []) for number, gene_id in enumerate(open_ids)} | {someone: None}
    ask_and_keep(tmp_path, open_ids, EnsemblArchive())
    after = shipped().genes.with_archive(load_archive(tmp_path)).resolve(genes, "ensembl")
    changed = after["status"] != before["status"]
    assert set(genes[changed]) <= set(open_ids)
    assert (after["ensembl_id"] == someone).sum() >= len(open_ids) // 2
    assert not (after["status"] == "unknown").any()
