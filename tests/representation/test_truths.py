"""What a model must find, since the simulation put it there, and what it must not, since it was taken out.

Effects are those of the sample's latent truth (``sample/biology.py``, of which ``sample/truth.py`` writes the tables): compounds of one
mechanism share a programme, and each has a part of its own. Three draws of the truth, each trained with a seed of its own. Margins are
stated where they are used; beside each stands the range that was measured when it was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.representation.baselines import BASELINES
from perturbridge_dagster.representation.checkpoints import TrainedModel
from perturbridge_dagster.representation.compounds import SAMPLE_COLUMNS
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.embeddings import write_embeddings
from perturbridge_dagster.representation.encoding import encode_split
from perturbridge_dagster.representation.evaluation import ModelPredictor, evaluate
from perturbridge_dagster.representation.geometry import mechanism_closeness
from perturbridge_dagster.representation.settings import SMALL, SMALL_MULTI_OUTPUT
from perturbridge_dagster.representation.structure_baselines import fitted_baselines
from perturbridge_dagster.representation.training import train
from perturbridge_dagster.sample.biology import simulate
from perturbridge_dagster.sample.tables import compounds

pytestmark = pytest.mark.slow

SEEDS = (13, 17, 19)
RULE = "molecules"
"""Held-out compounds are trained in other datasets, and not in their own."""

TARGET = "gdpx2"
CONTEXTS = {"sciplex": ("CVCL_0023", "CVCL_0004"), "tahoe": ("CVCL_0023", "CVCL_0035"), TARGET: ("CVCL_0023",)}
N_GENES = 120
NOISE = 0.3
"""Standard deviation of the error of a measured logFC, log2."""

QUICK = {
    "scalar_lpm": replace(SMALL, steps=900, decay_every=60, validate_every=300, split=RULE),
    "multi_output_lpm": replace(SMALL_MULTI_OUTPUT, steps=900, decay_every=60, validate_every=300, split=RULE),
}


@dataclass(frozen=True)
class Simulated:
    """A corpus of simulated effects, and the same with compounds permuted."""

    seed: int
    corpus: StoredCorpus
    scrambled: StoredCorpus


def known_compounds() -> pd.DataFrame:
    """Compounds of the sample that do something, one an agent."""
    table = compounds()
    table = table[table["pubchem_cid"].notna() & ~table["mechanism"].isin(["none", "vehicle"])]
    return table.drop_duplicates("agent")


@pytest.fixture(scope="module", params=SEEDS)
def simulated(
    request: pytest.FixtureRequest, make_effects: Callable, make_stamp: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Simulated:
    seed = request.param
    biology, known = simulate(seed), known_compounds()
    random = np.random.default_rng(seed)
    strength = np.mean([np.abs(programme) for programme in biology.programmes.values()], axis=0)
    genes = np.sort(np.argsort(-strength)[:N_GENES])
    strata: dict[bool, list] = {False: [], True: []}
    samples = []
    for dataset, contexts in CONTEXTS.items():
        for context in contexts:
            rows = [(name, int(row["pubchem_cid"]), dose, 24.0) for name, row in known.iterrows() for dose in (0.3, 3.0, 30.0)]
            conditions = pd.DataFrame(rows, columns=["name", "cid", "dose_uM", "time_h"]).assign(cell_type=context)
            conditions["agent"] = known["agent"].reindex(conditions["name"]).to_numpy()
            effects = biology.log2_effects(conditions)[:, genes] + NOISE * random.standard_normal((len(rows), len(genes)))
            # within a dose, so that only what tells compounds apart is lost
            other = conditions.groupby("dose_uM")["cid"].transform(lambda of: random.permutation(of.index)).to_numpy()
            parents = list(known["parent_key"].reindex(conditions["name"]))
            for is_scrambled, values in ((False, effects), (True, effects[other])):
                strata[is_scrambled].append(make_effects(dataset, context, rows, values, parent_key=parents))
            samples += [
                (dataset, context, row["pubchem_cid"], row["smiles"], "assay", "cell line", row["mechanism"], 2)
                for _, row in known.iterrows()
            ]
    described = pd.DataFrame(samples, columns=[*SAMPLE_COLUMNS, "n_samples"])
    opened = []
    for is_scrambled, of in strata.items():
        folder = tmp_path_factory.mktemp(f"corpus-{is_scrambled}") / "corpus"
        write_corpus(of, folder, make_stamp(), name="all", samples=described, seed=seed)
        opened.append(open_corpus(folder))
    return Simulated(seed, *opened)


def fitted(corpus: StoredCorpus, model: str, seed: int, folder: Path, datasets: tuple[str, ...] | None = None) -> TrainedModel:
    return train(corpus, replace(QUICK[model], seed=seed), folder, lambda line: None, datasets=datasets).trained


def rmse_of(corpus: StoredCorpus, models: dict[str, TrainedModel], datasets: tuple[str, ...] | None = None) -> pd.Series:
    """RMSE of models, and of the baselines, on all test values of the rule."""
    vocabularies = next(iter(models.values())).vocabularies
    train_values, validation = (encode_split(corpus, split, vocabularies, rule=RULE) for split in ("train", "val"))
    baselines = fitted_baselines(train_values, validation, vocabularies, corpus.compounds)
    predictors = [*(ModelPredictor(trained, name) for name, trained in models.items()), *baselines]
    scores = evaluate(predictors, corpus, vocabularies, rule=RULE, splits=("test",), datasets=datasets).scores
    return scores[scores["dataset"].isna()].set_index("predictor")["rmse"]


def best_baseline(rmse: pd.Series) -> float:
    return float(rmse[rmse.index.isin(BASELINES)].min())


@pytest.mark.parametrize("model", QUICK)
def test_what_the_simulation_says_must_be_found_is_found(simulated: Simulated, model: str, make_stamp: Callable, tmp_path: Path) -> None:
    """Three truths in one test, since the pooled model tells the first two."""
    corpus, seed = simulated.corpus, simulated.seed
    pooled = fitted(corpus, model, seed, tmp_path / "pooled")

    # compounds that share a mechanism are closer than chance
    embeddings = write_embeddings(tmp_path / "embeddings.parquet", {seed: pooled}, corpus, make_stamp(), name="all")
    [closeness] = mechanism_closeness(embeddings, corpus.compounds).to_dict("records")
    assert closeness["p_value"] <= 0.01  # measured 0.001, the least there is
    assert closeness["same_cosine"] - closeness["expected_cosine"] > 0.3  # 0.54 to 0.67
    assert closeness["nearest_share"] > 0.7  # 0.94 to 1; by chance 0.12

    # held-out compounds of a dataset: whoever saw them in other datasets knows them, whoever saw this one alone cannot
    single = fitted(corpus, model, seed, tmp_path / "single", (TARGET,))
    rmse = rmse_of(corpus, {"pooled": pooled, "single": single}, (TARGET,))
    assert rmse["pooled"] < 0.75 * rmse["single"]  # 0.40 to 0.54
    assert rmse["single"] > 0.95 * rmse["gene_mean"]  # 1.03 to 1.17
    everywhere = rmse_of(corpus, {"model": pooled})
    assert everywhere["model"] < best_baseline(everywhere)  # 0.81 to 0.99 of it

    # where compounds were permuted there is nothing to know, and a model that gained on the baselines would be seeing test values
    scrambled = fitted(simulated.scrambled, model, seed, tmp_path / "scrambled")
    nothing = rmse_of(simulated.scrambled, {"model": scrambled})
    assert nothing["model"] > 0.98 * best_baseline(nothing)  # 1.00 to 1.21 of it
