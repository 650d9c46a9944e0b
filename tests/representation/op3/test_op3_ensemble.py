"""The ensemble in two stages: shapes, determinism, what it may look at, and how epochs are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from perturbridge_dagster.representation.op3 import ensemble
from perturbridge_dagster.representation.op3.baselines import predict_baselines
from perturbridge_dagster.representation.op3.data import Problem
from perturbridge_dagster.representation.op3.descriptors import Descriptors, no_descriptors
from perturbridge_dagster.representation.op3.ensemble import choose_epochs, predict_ensemble, published_epochs
from perturbridge_dagster.representation.op3.members import SETTINGS, EnsembleSettings, Member, Weighted

pytestmark = pytest.mark.slow

SHORT = EnsembleSettings(
    stage_one=(
        Weighted(Member("1x", 4, 0.01, 4, (8, 8), (0.1, 0.1), 5), 4, 1.0),
        Weighted(Member("8x", 4, 0.01, 4, (8, 8, 8), (0.1, 0.1, 0.1), 3), 4, 3.0),
    ),
    stage_two=(Weighted(Member("6x", 4, 0.01, 4, (8, 8), (0.1, 0.1), 500), 6, 0.5),),
    repetitions=3,
    seeds=(0,),
    momentum=0.1,
    epochs_between=2,
)


def none_of(problem: Problem) -> Descriptors:
    return no_descriptors(pd.Index(pd.concat([problem.train, problem.test])["sm_name"].unique()))


def run(problem: Problem, settings: EnsembleSettings = SHORT, seed: int = 0, **options: object) -> np.ndarray:
    return predict_ensemble(problem, none_of(problem), "none", settings, seed=seed, **options)


def test_every_test_condition_is_predicted_within_the_range_of_train(tiny_problem: Problem):
    predicted = run(tiny_problem)
    assert predicted.shape == tiny_problem.test_values.shape
    assert np.isfinite(predicted).all()
    assert (predicted >= tiny_problem.train_values.min(axis=0)).all()
    assert (predicted <= tiny_problem.train_values.max(axis=0)).all()


def test_the_seed_decides_everything_and_nothing_else_does(tiny_problem: Problem):
    first = run(tiny_problem)
    torch.rand(7)  # whatever was drawn before
    np.random.default_rng().random()
    np.testing.assert_array_equal(first, run(tiny_problem))
    assert not np.allclose(first, run(tiny_problem, seed=1))


def test_global_generators_and_threads_are_left_as_they_were(tiny_problem: Problem):
    torch.manual_seed(5)
    threads, expected = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(5)
    run(tiny_problem)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_test_values_are_not_looked_at(tiny_problem: Problem):
    other = replace(tiny_problem, test_values=tiny_problem.test_values * -100)
    np.testing.assert_array_equal(run(tiny_problem), run(other))
    chosen = [choose_epochs(problem, none_of(problem), "none", SHORT, seed=0) for problem in (tiny_problem, other)]
    assert chosen[0] == chosen[1]


def test_a_member_more_changes_nothing_of_the_others(tiny_problem: Problem, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, list[np.ndarray]] = {}
    fit_member = ensemble._fit_member

    def recorded(run: object, problem: Problem, stage: int, member: Member, *rest: object) -> tuple[np.ndarray, int]:
        predicted, epochs = fit_member(run, problem, stage, member, *rest)
        if stage == 1:
            seen.setdefault(member.id, []).append(predicted)
        return predicted, epochs

    monkeypatch.setattr(ensemble, "_fit_member", recorded)
    run(tiny_problem)
    run(tiny_problem, replace(SHORT, stage_one=SHORT.stage_one[1:]))
    np.testing.assert_array_equal(*seen["8x"])


def test_a_stage_is_the_weighted_mean_of_its_members_clipped(tiny_problem: Problem, monkeypatch: pytest.MonkeyPatch):
    given = {"1x": 0.5, "8x": 1.5, "6x": 99.0}
    learned_from = []

    def constant(
        run: object, problem: Problem, stage: int, member: Member, conditions: pd.DataFrame, values: np.ndarray, *_: object
    ) -> tuple[np.ndarray, int]:
        learned_from.append((stage, len(conditions), values))
        return np.full(problem.test_values.shape, given[member.id], dtype=np.float32), 1

    monkeypatch.setattr(ensemble, "_fit_member", constant)
    second = run(tiny_problem)
    np.testing.assert_allclose(second, np.broadcast_to(tiny_problem.train_values.max(axis=0), second.shape))
    stage, n_conditions, values = learned_from[-1]
    assert (stage, n_conditions) == (2, len(tiny_problem.train) + len(tiny_problem.test))
    first = (1.0 * 0.5 + 3.0 * 1.5) / 4.0
    expected = np.clip(first, tiny_problem.train_values.min(axis=0), tiny_problem.train_values.max(axis=0))
    np.testing.assert_allclose(values[len(tiny_problem.train) :], np.broadcast_to(expected, tiny_problem.test_values.shape), rtol=1e-6)
    np.testing.assert_array_equal(values[: len(tiny_problem.train)], tiny_problem.train_values)


def test_components_give_back_what_has_few_of_them():
    random = np.random.default_rng(0)
    values = (random.normal(size=(20, 3)) @ random.normal(size=(3, 50))).astype(np.float32)
    scores, right = ensemble._components(values, 3, seed=1)
    np.testing.assert_allclose(scores @ right, values, atol=1e-4)
    np.testing.assert_array_equal(scores, ensemble._components(values, 3, seed=1)[0])
    exact = np.linalg.svd(values, compute_uv=False)[:3]
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), exact, rtol=1e-4)
    assert ensemble._components(values, 500, seed=1)[1].shape == (19, 50), "no more than the values have"


def test_epochs_are_chosen_where_validation_is_best(tiny_problem: Problem):
    chosen = choose_epochs(tiny_problem, none_of(tiny_problem), "none", SHORT, seed=0)
    assert set(chosen) == set(published_epochs(SHORT)) == {(1, "1x"), (1, "8x"), (2, "6x")}
    assert all(epochs in (2, 4, 6) for epochs in chosen.values())
    # noise cannot be learned: the longer a network is fitted to it, the worse for others
    long = replace(SHORT, stage_one=tuple(replace(one, epochs=60) for one in SHORT.stage_one), epochs_between=2)
    assert min(choose_epochs(tiny_problem, none_of(tiny_problem), "none", long, seed=0).values()) < 20


def test_the_published_way_fixes_epochs_and_rows_of_tables(tiny_problem: Problem):
    faithful = SHORT.as_published()
    assert published_epochs(faithful) == {(1, "1x"): 4, (1, "8x"): 4, (2, "6x"): 6}
    np.testing.assert_array_equal(run(tiny_problem, faithful), run(tiny_problem, faithful, epochs=published_epochs(faithful)))
    assert run(tiny_problem, faithful).shape == tiny_problem.test_values.shape


def test_settings_of_both_sizes_are_sound():
    published = SETTINGS["published"]
    assert (len(published.stage_one), len(published.stage_two), published.repetitions) == (7, 20, 10)
    assert published.seeds == (0, 1, 2, 3, 4, 10, 11, 12, 13, 14)
    assert not published.faithful
    assert len(SETTINGS["small"].stage_one) < 7


def test_baselines_beside_their_definitions(tiny_problem: Problem):
    names = pd.Index(list("abcdef"))
    bits = pd.DataFrame(np.random.default_rng(1).integers(0, 2, (6, 30)).astype(np.float32), index=names)
    has = pd.Series([True, True, True, True, True, False], names)
    predicted, penalty = predict_baselines(tiny_problem, Descriptors("morgan", bits.where(has, 0.0), has), seed=0)
    assert (predicted["zero"] == 0).all()
    np.testing.assert_allclose(predicted["gene_mean"][1], tiny_problem.train_values.mean(axis=0), rtol=1e-4, atol=1e-6)
    of_b = tiny_problem.train_values[(tiny_problem.train["cell_type"] == "B cells").to_numpy()].mean(axis=0)
    np.testing.assert_allclose(predicted["cell_type_mean"][0], of_b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(predicted["ridge_morgan"], predicted["cell_type_mean"], err_msg="its structure is not known")
    assert penalty > 0


def test_ridge_learns_what_structures_carry_and_its_penalty_from_train_alone():
    random = np.random.default_rng(4)
    names = [f"c{number}" for number in range(60)]
    bits = pd.DataFrame(random.integers(0, 2, (60, 12)).astype(np.float32), index=names)
    effect = random.normal(size=(12, 25))
    conditions = pd.DataFrame([(name, cell) for name in names for cell in ("B cells", "T cells")], columns=["sm_name", "cell_type"])
    values = (bits.loc[conditions["sm_name"]].to_numpy() @ effect + 0.1 * random.normal(size=(120, 25))).astype(np.float32)
    problem = Problem(conditions[:90], conditions[90:].reset_index(drop=True), values[:90], values[90:])
    morgan = Descriptors("morgan", bits, pd.Series(True, bits.index))
    predicted, penalty = predict_baselines(problem, morgan, seed=0)
    error = {name: float(np.sqrt(np.square(of - problem.test_values).mean())) for name, of in predicted.items()}
    assert error["ridge_morgan"] < 0.3 * error["cell_type_mean"]
    worse = replace(problem, test_values=-problem.test_values)
    assert predict_baselines(worse, morgan, seed=0)[1] == penalty
