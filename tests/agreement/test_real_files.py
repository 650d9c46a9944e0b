"""Real L1000 plates: replicates and doses find each other, and the same compounds find each other across cell lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.replicate_retrieval import retrieve_replicates
from perturbridge_dagster.agreement.replicates import score_replicates
from perturbridge_dagster.agreement.retrieval import retrieve
from perturbridge_dagster.agreement.retrieval_summary import replicate_retrieval_summary, retrieval_pair
from perturbridge_dagster.agreement.signatures import Relabelled, StratumEffects
from perturbridge_dagster.effects import estimate_effects, split_strata
from perturbridge_dagster.effects.storage import StoredEffects, open_effects, write_effects
from perturbridge_dagster.sources import harmonize
from perturbridge_dagster.written import Stamp

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

A375, HT115 = "CVCL_0132", "CVCL_2520"


def effects_of(dataset: str, native: Path, out: Path) -> dict[str, dict[str, StoredEffects]]:
    """Effects of native files by mode and stratum."""
    stamp = Stamp("condition_effects", "1", "digest", (dataset,), "open")
    found: dict[str, dict[str, StoredEffects]] = {"grouped": {}, "separate": {}}
    for stratum, samples in split_strata(harmonize(dataset, native), dataset):
        for mode, strata in found.items():
            write_effects(estimate_effects(samples, replicates=mode, normalized=True), out / mode / stratum.stratum, stamp)
            strata[stratum.stratum] = open_effects(out / mode / stratum.stratum)
    return found


@pytest.fixture(scope="module")
def cpc006(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, StoredEffects]]:
    """350 compounds at one dose: a plate of A375 and two of HT115, after six hours."""
    native = tmp_path_factory.mktemp("cpc006") / "l1000_phase1"
    native.mkdir()
    shutil.copy(real_data / "l1000_cpc006_a375_6h" / "gctv13_01.gctx", native)
    shutil.copy(real_data / "l1000_cpc006_ht115_6h" / "demo.h5ad", native)
    shutil.copy(real_data / "lincs_metadata" / "pertinfo.tsv.gz", native / "GSE92742_Broad_LINCS_pert_info.txt.gz")
    return effects_of("l1000_phase1", native, native.parent / "effects")


@pytest.fixture(scope="module")
def ljp005(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, StoredEffects]]:
    """55 kinase inhibitors in six doses, one well each: a plate of A375, after 24 hours. Half of them have a PubChem id here."""
    native = tmp_path_factory.mktemp("ljp005") / "l1000_phase2"
    native.mkdir()
    shutil.copy(real_data / "l1000_ljp005_a375_24h" / "test_l1000.gct", native)
    return effects_of("l1000_phase2", native, native.parent / "effects")


def in_either(effects: StratumEffects, shift: int = 0) -> StratumEffects:
    """Effects under the name of another cell context, so that they match; with compounds dealt anew if asked."""
    contrasts = effects.contrasts.assign(cell_type="either", pubchem_cid=np.roll(effects.contrasts["pubchem_cid"], shift))
    return Relabelled(effects, contrasts)


def between_contexts(cpc006: dict[str, dict[str, StoredEffects]], shift: int) -> pd.DataFrame:
    """Retrieval of A375 and HT115 in each other."""
    sides = {"either": in_either(cpc006["grouped"][A375])}, {"either": in_either(cpc006["grouped"][HT115], shift)}
    queries = retrieve(match_strata(*sides, A375, HT115), *sides, representations=["logFC"]).queries
    pair = retrieval_pair(queries, n_resamples=500).set_index(["similarity", "positives"])
    return pair.xs("matched_condition", level="positives")


def test_replicates_agree_and_find_each_other(cpc006: dict[str, dict[str, StoredEffects]]) -> None:
    scored = score_replicates(cpc006["separate"], "l1000_phase1")
    spearman = scored.scores[scored.scores["metric"] == "spearman_logFC"]
    assert len(spearman) > 250
    print(spearman[["score", "source_centroid", "source_peers"]].mean(), scored.pairs["unmatched_spearman_logFC"].mean())
    assert spearman["score"].mean() > scored.pairs["unmatched_spearman_logFC"].mean() + 0.08
    assert spearman["source_peers_delta"].mean() > 0.05

    found = retrieve_replicates(cpc006["separate"], "l1000_phase1")
    assert found.pools.set_index("cell_type")["outcome"].to_dict() == {A375: "too_few_compounds", HT115: "scored"}
    summary = replicate_retrieval_summary(found.queries, n_resamples=500).set_index("similarity")
    print(summary[["n_queries", "normalised_rank", "normalised_rank_low", "centroid_normalised_rank", "recall_at_1"]])
    assert (summary["above_expected_low"] > 0.05).all()
    assert (summary["recall_at_1"] > 10 * summary["expected_recall_at_1"]).all()
    # A mean lies near the centre: by distance it seems nearest, by angle hardly.
    assert summary.loc["euclidean", "centroid_normalised_rank"] > 0.9 > summary.loc["cosine", "centroid_normalised_rank"]


def test_compounds_find_themselves_in_another_cell_line(cpc006: dict[str, dict[str, StoredEffects]]) -> None:
    pair = between_contexts(cpc006, 0)
    print(pair[["n_queries", "normalised_rank", "normalised_rank_low", "centroid_normalised_rank", "recall_at_1"]])
    assert (pair["n_compounds"] > 300).all()
    assert (pair["above_expected_low"] > 0.03).all()
    assert pair.loc["spearman", "normalised_rank"] > 0.62


def test_dealt_anew_they_are_found_by_chance(cpc006: dict[str, dict[str, StoredEffects]]) -> None:
    pair = between_contexts(cpc006, 17)
    print(pair[["n_queries", "normalised_rank", "normalised_rank_low", "normalised_rank_high"]])
    assert (pair["above_expected"].abs() < 0.06).all()
    assert (pair["above_expected_low"] < 0.01).all()


def test_doses_of_a_kinase_inhibitor_find_each_other(ljp005: dict[str, dict[str, StoredEffects]]) -> None:
    found = retrieve_replicates(
        ljp005["separate"], "l1000_phase2", minimum_compounds=0, positives=("matched_condition", "dose_aware", "same_compound")
    )
    summary = replicate_retrieval_summary(found.queries, n_resamples=500)
    print(summary[["similarity", "positives", "n_queries", "normalised_rank", "expected_normalised_rank", "auroc", "recall_at_1"]])
    # Each dose has one well, so that no condition has a replicate.
    assert set(summary["positives"]) == {"dose_aware", "same_compound"}
    assert (summary["n_compounds"] > 20).all()
    assert (summary["auroc"] > 0.55).all()
    assert (summary["recall_at_1"] > 2 * summary["expected_recall_at_1"]).all()
