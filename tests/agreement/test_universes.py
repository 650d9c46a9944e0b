from __future__ import annotations

import numpy as np

from perturbridge_dagster.agreement.matching import match_strata
from perturbridge_dagster.agreement.scoring import score_matched
from perturbridge_dagster.agreement.universes import global_genes, l1000_genes
from tests.agreement.effects_in_memory import EffectsInMemory, make_effects


def stratum(cell_type: str, genes: list[int]) -> EffectsInMemory:
    return make_effects([(1, cell_type, 24, 1.0), (2, cell_type, 24, 1.0)], np.arange(2.0 * len(genes)).reshape(2, -1), genes=genes)


def named(*genes: int) -> list[str]:
    return [f"ENSG{number:011d}" for number in genes]


DATASETS = {
    "l1000_phase1": {"a": stratum("A549", [5, 1, 2, 3])},
    "l1000_phase2": {"a": stratum("A549", [2, 3, 4, 1]), "m": stratum("MCF7", [2, 9])},
    "gdpx2": {"low": stratum("A549", [1, 2, 3, 7]), "high": stratum("A549", [7, 3, 2]), "m": stratum("MCF7", [3])},
    "empty": {"none": make_effects([], np.zeros((0, 2)))},
}


def test_global_genes_are_those_of_every_stratum_of_a_cell_context() -> None:
    assert global_genes(DATASETS) == {"A549": named(2, 3), "MCF7": []}
    assert global_genes({"gdpx2": DATASETS["gdpx2"]}) == {"A549": named(2, 3, 7), "MCF7": named(3)}
    assert global_genes({}) == {}


def test_l1000_genes_are_those_that_l1000_tested_anywhere() -> None:
    expected = named(1, 2, 3, 4, 5, 9)
    assert l1000_genes(DATASETS, ("l1000_phase1", "l1000_phase2")) == {"A549": expected, "MCF7": expected}
    assert l1000_genes({"gdpx2": DATASETS["gdpx2"]}, ("l1000_phase1",)) == {"A549": [], "MCF7": []}


def test_scores_over_a_universe_use_its_genes_only() -> None:
    left, right = DATASETS["l1000_phase1"], DATASETS["l1000_phase2"]
    matched = match_strata(left, right, "l1000_phase1", "l1000_phase2")
    for universe, genes, n_genes in (("pairwise", None, 3), ("global", global_genes(DATASETS), 2)):
        scored = score_matched(matched, left, right, gene_universe=universe, genes=genes)
        assert set(scored.conditions["n_genes"]) == {n_genes}
        assert set(scored.scores["gene_universe"]) == {universe}
