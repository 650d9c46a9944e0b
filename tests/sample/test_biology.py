from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.sample.biology import BOUND, CELL_CONTEXTS, Biology, generator, simulate
from perturbridge_dagster.sample.tables import genes


@pytest.fixture(scope="module")
def biology() -> Biology:
    return simulate(1)


def conditions(agents: list[str], *, cell_type: str = "CVCL_0023", dose: float = 10.0, time: float = 24.0) -> pd.DataFrame:
    return pd.DataFrame({"agent": agents, "cell_type": cell_type, "dose_uM": dose, "time_h": time})


def test_one_seed_gives_one_truth(biology: Biology):
    again, other = simulate(1), simulate(2)
    asked = conditions(["trametinib", "bortezomib"])
    np.testing.assert_array_equal(biology.log2_effects(asked), again.log2_effects(asked))
    pd.testing.assert_frame_equal(biology.baseline, again.baseline)
    assert not np.array_equal(biology.log2_effects(asked), other.log2_effects(asked))


def test_random_streams_depend_on_seed_and_name_only():
    assert generator(1, "a").random() == generator(1, "a").random()
    assert len({generator(seed, *names).random() for seed in (1, 2) for names in (("a",), ("b",), ("a", "b"))}) == 6


def test_inert_compounds_and_vehicle_do_nothing(biology: Biology):
    assert not biology.log2_effects(conditions(["caffeine", "metformin", "949", "DMSO"])).any()


def test_dose_zero_does_nothing(biology: Biology):
    assert not biology.log2_effects(conditions(["bortezomib"], dose=0.0)).any()


def test_half_of_the_greatest_effect_at_the_ec50(biology: Biology):
    for agent in ("panobinostat", "trametinib", "etoposide"):
        row = biology.agents.loc[agent]
        assert biology.strength(conditions([agent], dose=row["ec50_uM"])) == pytest.approx([row["max_effect"] / 2])


@pytest.mark.parametrize("cell_type", CELL_CONTEXTS)
def test_effects_grow_with_dose_and_time_and_keep_their_direction(biology: Biology, cell_type: str):
    by_dose = [biology.log2_effects(conditions(["panobinostat"], cell_type=cell_type, dose=dose))[0] for dose in (0.001, 0.01, 0.1, 1, 10)]
    by_time = [biology.log2_effects(conditions(["panobinostat"], cell_type=cell_type, time=time))[0] for time in (6.0, 24.0, 72.0)]
    for series in (by_dose, by_time):
        sizes = np.abs(np.array(series))
        assert (np.diff(sizes, axis=0) >= 0).all()
        assert (np.diff(np.sign(np.array(series)), axis=0) == 0).all()
    assert np.abs(by_dose[-1]).max() < BOUND


def test_compounds_of_one_mechanism_resemble_each_other(biology: Biology):
    agents = ["trametinib", "selumetinib", "dexamethasone", "budesonide"]
    correlation = np.corrcoef(biology.log2_effects(conditions(agents)))
    assert correlation[0, 1] > 0.6
    assert correlation[2, 3] > 0.6
    assert np.abs(correlation[:2, 2:]).max() < 0.3


def test_known_targets_move_the_known_way(biology: Biology):
    symbols = genes()["symbol"].to_numpy()
    effects = biology.log2_effects(conditions(["trametinib", "dexamethasone", "bortezomib"]))
    assert effects[0, symbols == "DUSP6"].item() < -0.8
    assert effects[1, symbols == "TSC22D3"].item() > 0.8
    assert effects[2, symbols == "HSPA1A"].item() > 0.8


def test_k562_hardly_responds_to_glucocorticoids(biology: Biology):
    k562, a549 = (biology.programmes["glucocorticoid agonist", context] for context in ("CVCL_0004", "CVCL_0023"))
    assert np.abs(k562).sum() < 0.1 * np.abs(a549).sum()


def test_no_compound_moves_the_genes_that_decide_which_cells_are_kept(biology: Biology):
    fixed = genes()["kind"].isin(["MALAT1", "mitochondrial"]).to_numpy()
    everything = conditions(list(biology.agents.index))
    assert not biology.log2_effects(everything)[:, fixed].any()
