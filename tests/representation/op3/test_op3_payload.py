"""The task from end to end: native files, a corpus and embeddings that carry mechanisms, checked as its asset is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from perturbridge_dagster.contract import OP3_COMPOUNDS, OP3_SCORES, OP3_SUMMARY
from perturbridge_dagster.payloads.needs import needs_of, sizes_of
from perturbridge_dagster.payloads.op3 import op3_evaluation
from perturbridge_dagster.payloads.requests import Input, Request
from perturbridge_dagster.quality.checks import CHECKS
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.embeddings import write_embeddings
from perturbridge_dagster.sample.tables import compounds
from perturbridge_dagster.stages import STAGES
from perturbridge_dagster.written import read_parquet, read_stamp

SEED = 20260505
UNSEEN = "HDAC inhibitor"
"""Mechanism whose compounds the corpus does not have."""


@pytest.fixture(scope="module")
def corpus(
    make_effects: Callable[..., Any], make_stamp: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[StoredCorpus, dict[int, str]]:
    """A corpus of two datasets with most compounds of the benchmark, and their mechanisms."""
    known = compounds().dropna(subset=["pubchem_cid", "smiles"]).drop_duplicates("pubchem_cid")
    known = known[(known["mechanism"] != UNSEEN) & (known["agent"] != "DMSO")]
    random = np.random.default_rng(0)
    rows = [(name, int(cid), 1.0, 24.0) for name, cid in known["pubchem_cid"].items()]
    strata = [make_effects(dataset, "CVCL_0023", rows, random.normal(size=(len(rows), 30))) for dataset in ("tahoe", "sciplex")]
    folder = tmp_path_factory.mktemp("corpus") / "all"
    write_corpus(strata, folder, make_stamp("tahoe", "sciplex"), name="all")
    return open_corpus(folder), dict(zip(known["pubchem_cid"].astype(int), known["mechanism"], strict=True))


@pytest.fixture(scope="module")
def request_of(
    corpus: tuple[StoredCorpus, dict[int, str]],
    sampled: Callable[[int], Any],
    make_stamp: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Request:
    """A request whose embeddings are mechanisms with a little noise."""
    stored, mechanisms = corpus
    symbols = stored.vocabularies().perturbation
    kinds = sorted(set(mechanisms.values()))
    table = torch.zeros(len(symbols), 16)
    random = torch.Generator().manual_seed(0)
    for row, symbol in enumerate(symbols):
        if symbol.isdigit():
            table[row, kinds.index(mechanisms[int(symbol)])] = 1.0
    table += 0.05 * torch.randn(table.shape, generator=random)
    vocabulary = SimpleNamespace(perturbation=symbols, encode=lambda _, names: [symbols.index(name) for name in names])
    trained = SimpleNamespace(
        vocabularies=vocabulary,
        settings=SimpleNamespace(architecture="scalar_lpm", split="scalar"),
        model=SimpleNamespace(perturbation=SimpleNamespace(weight=table)),
    )
    folder = tmp_path_factory.mktemp("op3_evaluation")
    write_embeddings(folder / "embeddings" / "embeddings.parquet", {13: trained}, stored, make_stamp("tahoe", "sciplex"), name="all")
    return Request(
        "op3_evaluation",
        {
            "corpora": ["all"],
            "settings": "small",
            "faithful": False,
            "left_out": {"scalar_lpm of corpus l1000": "no values"},
            "unaccepted_inputs": [],
        },
        {
            "benchmark": Input(str(sampled(SEED).folder), "1"),
            "embeddings:all": Input(str(folder / "embeddings"), "2"),
            "corpus:all": Input(str(stored.folder), "3"),
        },
        "1",
        str(folder / "out"),
    )


@pytest.fixture(scope="module")
def output(request_of: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    op3_evaluation(request_of, folder)
    return folder


@pytest.mark.slow
def test_embeddings_that_carry_mechanisms_win_where_the_corpus_has_seen_the_compound(output: Path):
    summary = read_parquet(output / "summary.parquet", "op3_evaluation")
    of_lpm = summary[(summary["descriptor"] == "scalar_lpm_all") & (summary["metric"] == "mrrmse") & (summary["reference"] == "none")]
    fixed = of_lpm[of_lpm["mode"] == "fixed"].set_index("compounds")
    assert fixed.loc["seen", "difference"] < -0.03
    assert abs(fixed.loc["unseen", "difference"]) < abs(fixed.loc["seen", "difference"])
    compounds_ = read_parquet(output / "compounds.parquet", "op3_evaluation")
    test = compounds_[(compounds_["split"] == "test") & (compounds_["corpus"] == "all")]
    assert test["has_descriptor"].tolist() == test["seen_pubchem_cid"].tolist()
    assert not test["seen_pubchem_cid"].all()


@pytest.mark.slow
def test_the_output_is_what_the_contract_says_and_passes_its_checks(output: Path, request_of: Request):
    for name, table in (("scores", OP3_SCORES), ("summary", OP3_SUMMARY), ("compounds", OP3_COMPOUNDS)):
        assert list(read_parquet(output / f"{name}.parquet", "op3_evaluation")) == table.names
    findings = CHECKS["op3_evaluation"](output)
    assert set(findings) == {check.name for check in STAGES["op3_evaluation"].checks}
    failed = [finding.said for name in STAGES["op3_evaluation"].blocking_checks for finding in findings[name] if not finding.passed]
    assert failed == []
    stamp = read_stamp(output / "summary.parquet")
    assert stamp.source_datasets == ("op3_benchmark", "sciplex", "tahoe")
    assert stamp.licence == "restricted"
    verdict = (output / "verdict.md").read_text()
    assert "Left out: scalar_lpm of corpus l1000: no values." in verdict
    assert "Morgan fingerprints in MRRMSE" in verdict
    said = json.loads((output / "report.json").read_text())
    assert said["embeddings"] == {"scalar_lpm_all": {"corpus": "all", "seed": 13, "digest": "2"}}
    assert set(said["epochs"]) == {
        "none",
        *(f"{name} ({mode})" for name in ("morgan", "scalar_lpm_all") for mode in ("trainable", "fixed")),
    }
    assert (output / "figures" / "differences.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Path(request_of.folder).glob("*.runs")), "what was kept for a restart is gone"


@pytest.mark.slow
def test_checks_find_what_is_wrong(output: Path, tmp_path: Path):
    import shutil

    from perturbridge_dagster.written import write_parquet

    stamp = read_stamp(output / "summary.parquet")

    def spoilt(name: str, table: Any, change: Callable[[pd.DataFrame], pd.DataFrame]) -> set[str]:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(output, folder)
        write_parquet(folder / f"{name}.parquet", change(read_parquet(output / f"{name}.parquet", "op3_evaluation")), table, stamp)
        return {check for check, found in CHECKS["op3_evaluation"](folder).items() if not all(one.passed for one in found)}

    assert "scores" in spoilt("scores", OP3_SCORES, lambda frame: pd.concat([frame, frame[:1]]))
    assert "scores" in spoilt("scores", OP3_SCORES, lambda frame: frame.assign(value=frame["value"] + 3.0))
    assert "held_out" in spoilt(
        "compounds", OP3_COMPOUNDS, lambda frame: pd.concat([frame, frame[frame["split"] == "test"].assign(split="train")])
    )
    assert "held_out" in spoilt("scores", OP3_SCORES, lambda frame: frame[frame["compounds"] != "unseen"])
    assert "intervals" in spoilt(
        "summary", OP3_SUMMARY, lambda frame: frame.rename(columns={"low": "high", "high": "low"})[OP3_SUMMARY.names]
    )
    zeros = {"mean": 0.0}
    assert "beats_baselines" in spoilt(
        "summary", OP3_SUMMARY, lambda frame: frame.assign(**zeros).where(frame["mode"] == "baseline", frame)
    )


def test_the_request_asks_for_what_it_takes(request_of: Request):
    assert sizes_of(request_of)["fits"] == 4 * 2 * 3 * 5
    assert needs_of(request_of).gpus == 0
    published = Request(request_of.task, {**request_of.arguments, "settings": "published"}, request_of.inputs, "1", request_of.folder)
    assert sizes_of(published)["fits"] == 27 * 10 * 11 * 5
    assert needs_of(published).gpus == 1
    assert needs_of(published).seconds > needs_of(request_of).seconds
