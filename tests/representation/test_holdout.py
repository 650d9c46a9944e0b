"""Hold-out scores: squared errors, RMSE with intervals, targets, promises, and the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturbridge_dagster.contract import HOLDOUT_COMPARISONS, HOLDOUT_DATASETS, HOLDOUT_PROFILES, HOLDOUT_RUNS, HOLDOUT_SUMMARY
from perturbridge_dagster.representation.baselines import Zero
from perturbridge_dagster.representation.corpus import StoredCorpus
from perturbridge_dagster.representation.encoding import EncodedBlock, encode_split
from perturbridge_dagster.representation.holdout import figures, scores, summary
from perturbridge_dagster.representation.holdout.scores import ALL_DATASETS
from perturbridge_dagster.representation.holdout.variants import HOLDOUT_MODELS, VARIANTS
from perturbridge_dagster.representation.verdicts import FEWEST_HELD_OUT
from perturbridge_dagster.written import to_arrow

pytestmark = pytest.mark.slow

NO_PROFILES = pd.DataFrame(columns=HOLDOUT_PROFILES.names)
RULES = ("molecules", "parents", "contexts", "scaffolds")


class Doubled:
    """Predicts from the number of a condition and the code of a gene: wrong, and not the same for all."""

    name = "doubled"

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> np.ndarray:
        return conditions["condition"].to_numpy()[:, None] / 100 + block.readout[None, :] / 50


# ---- squared errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_squared_errors_are_those_of_the_table_of_single_values(additive_corpus: StoredCorpus, rule: str) -> None:
    vocabularies = additive_corpus.vocabularies(rule, unknown=True)
    found = scores.squared_errors(Doubled(), encode_split(additive_corpus, "test", vocabularies, rule=rule), rule)

    long = pd.concat(list(additive_corpus.iterate_shards("test", rule)), ignore_index=True)
    key = ["dataset", "context", "perturbation", "log_dose", "time"]
    long = long.astype(dict.fromkeys(("dataset", "context", "perturbation", "readout"), str))
    long = long.merge(additive_corpus.conditions[[*key, "condition", "parent_key", "scaffold"]], on=key)
    predicted = long["condition"] / 100 + vocabularies.encode("readout", pd.Index(long["readout"])) / 50
    long["squared"] = (predicted - long["value"].astype(float)) ** 2
    expected = long.groupby(["dataset", "perturbation"])["squared"].agg(["sum", "size"])
    ours = found.groupby(["dataset", "perturbation"])[["squared_error", "n_values"]].sum()
    np.testing.assert_allclose(ours["squared_error"], expected["sum"])
    np.testing.assert_array_equal(ours["n_values"], expected["size"])
    assert found["n_conditions"].sum() == len(additive_corpus.conditions_of("test", rule))
    assert scores.rmse_of(found) == pytest.approx(np.sqrt(long["squared"].mean()))


def test_clusters_are_what_a_rule_holds_out_as_a_whole(additive_corpus: StoredCorpus) -> None:
    conditions = additive_corpus.conditions
    for rule in RULES:
        cluster = scores.cluster_of(conditions, rule)
        assert cluster.notna().all()
        split = additive_corpus.split_of(rule)
        unit = conditions["dataset"] + cluster if scores.selects_by_dataset(rule) else cluster
        assert split.groupby(unit).agg(set).map(len).max() == 1, rule
    assert scores.cluster_of(conditions, "contexts").tolist() == conditions["context"].tolist()
    assert scores.cluster_of(conditions, "parents").nunique() <= conditions["perturbation"].nunique()


# ---- what can be scored ------------------------------------------------------------------------------------------------------


def without(corpus: StoredCorpus, dataset: str, split: str, rule: str = "molecules") -> StoredCorpus:
    """A corpus in which a dataset has no conditions in a split: they are trained, or validated where that is train."""
    conditions = corpus.conditions.copy()
    column = f"split_{rule}"
    conditions.loc[(conditions["dataset"] == dataset) & (conditions[column] == split), column] = "val" if split == "train" else "train"
    return replace(corpus, conditions=conditions)


def test_every_dataset_is_a_target_where_compounds_are_held_out_of_it(additive_corpus: StoredCorpus) -> None:
    targets = scores.target_datasets(additive_corpus, "molecules").set_index("dataset")
    assert targets.index.tolist() == ["alpha", "beta", "gamma"]
    assert set(targets["outcome"]) == {"scored"}
    conditions = additive_corpus.conditions_of("val", "molecules", ["beta"])
    assert targets.loc["beta", ["n_conditions_val", "n_values_val"]].tolist() == [len(conditions), conditions["n_values"].sum()]
    pooled = scores.target_datasets(additive_corpus, "contexts")
    assert pooled[["dataset", "outcome"]].to_numpy().tolist() == [[ALL_DATASETS, "scored"]]
    assert pooled["n_conditions_train"].item() == len(additive_corpus.conditions_of("train", "contexts"))


@pytest.mark.parametrize(("split", "outcome"), [("val", "not_selectable"), ("test", "no_test_values"), ("train", "no_train_values")])
def test_a_dataset_that_cannot_be_scored_says_why_and_others_go_on(additive_corpus: StoredCorpus, split: str, outcome: str) -> None:
    targets = scores.target_datasets(without(additive_corpus, "beta", split), "molecules").set_index("dataset")
    assert targets["outcome"].to_dict() == {"alpha": "scored", "beta": outcome, "gamma": "scored"}
    assert targets.loc["beta", "reason"]
    assert targets.loc[["alpha", "gamma"], "reason"].isna().all()
    to_arrow(targets.reset_index(), HOLDOUT_DATASETS)


def test_a_small_study_scores_the_datasets_with_most_test_values(additive_corpus: StoredCorpus) -> None:
    targets = scores.target_datasets(additive_corpus, "molecules", most=1)
    scored = targets[targets["outcome"] == "scored"]
    assert len(scored) == 1
    assert scored["n_values_test"].item() == targets["n_values_test"].max()
    assert set(targets["outcome"]) == {"scored", "left_out"}


# ---- promises ----------------------------------------------------------------------------------------------------------------


def test_runs_keep_the_promises_of_their_split(additive_corpus: StoredCorpus) -> None:
    for rule in RULES:
        variants = list(VARIANTS.values()) if scores.selects_by_dataset(rule) else list(HOLDOUT_MODELS.values())
        targets = list(scores.target_datasets(additive_corpus, rule)["dataset"])
        kept = scores.promises_kept(additive_corpus, rule, variants, targets)
        assert (kept["n_broken"] == 0).all(), rule
        assert (kept["n_held_out"] > 0).all()
        assert set(kept["predictor"]) == {variant.name for variant in variants}
    molecules = scores.promises_kept(additive_corpus, "molecules", VARIANTS.values(), ["alpha"]).groupby("predictor")["promise"].agg(set)
    assert molecules["scratch"] == {"cid_in_target_dataset"}, "alone, a target cannot train a compound elsewhere"
    assert molecules["fine_tuned"] == molecules["all"] == {"cid_in_target_dataset", "cid_trained"}


def test_a_compound_on_both_sides_breaks_the_promise_of_every_variant(additive_corpus: StoredCorpus) -> None:
    conditions = additive_corpus.conditions.copy()
    held_out = conditions[(conditions["dataset"] == "alpha") & (conditions["split_molecules"] == "test")]
    conditions.loc[held_out.index[0], "split_molecules"] = "train"
    kept = scores.promises_kept(replace(additive_corpus, conditions=conditions), "molecules", VARIANTS.values(), ["alpha", "beta"])
    broken = kept[kept["promise"] == "cid_in_target_dataset"].groupby("dataset")["n_broken"].min()
    assert broken["alpha"] > 0
    assert kept.loc[(kept["dataset"] == "beta") & kept["predictor"].str.startswith("scratch"), "n_broken"].sum() == 0


# ---- RMSE over seeds ---------------------------------------------------------------------------------------------------------


def made_errors(n_clusters: int = 40, seeds: tuple[int, ...] = (1, 2), gain: float = 0.9) -> pd.DataFrame:
    """A variant whose errors are those of a baseline times `gain`, seed for seed a little more, in clusters of unequal size."""
    random = np.random.default_rng(3)
    n_values = random.integers(5, 200, n_clusters)
    squared = n_values * random.gamma(2.0, 0.2, n_clusters)
    about = {"dataset": "alpha", "perturbation": [f"{number}" for number in range(n_clusters)], "n_conditions": 1, "n_values": n_values}
    parts = [pd.DataFrame({**about, "predictor": "gene_mean", "seed": pd.NA, "squared_error": squared})]
    parts.append(pd.DataFrame({**about, "predictor": "zero", "seed": pd.NA, "squared_error": squared * 1.5}))
    parts += [
        pd.DataFrame({**about, "predictor": "scratch", "seed": seed, "squared_error": squared * gain**2 * (1 + 0.01 * place)})
        for place, seed in enumerate(seeds)
    ]
    frame = pd.concat(parts, ignore_index=True).astype({"seed": "Int64"})
    return frame.assign(cluster=frame["perturbation"])


def made_runs(errors: pd.DataFrame) -> pd.DataFrame:
    trained = errors[errors["seed"].notna()][["predictor", "dataset", "seed"]].drop_duplicates()
    of_run = {"source_seed": pd.NA, "steps": 5, "epochs": 1.0, "selected_step": 5, "n_train_values": 9, "n_train_listed": 9}
    return trained.assign(**of_run, n_values_seen=9, validation_rmse=0.5)


def test_runs_and_summary_follow_from_the_errors() -> None:
    errors = made_errors(gain=0.97)
    runs = scores.runs_table("molecules", made_runs(errors), errors, ["scratch"])
    assert to_arrow(runs, HOLDOUT_RUNS).num_rows == 4
    for (predictor, seed), rows in errors.groupby(["predictor", "seed"], dropna=False):
        same_seed = runs["seed"].isna() if pd.isna(seed) else runs["seed"] == seed
        [rmse] = runs.loc[(runs["predictor"] == predictor) & same_seed, "test_rmse"]
        assert rmse == pytest.approx(np.sqrt(rows["squared_error"].sum() / rows["n_values"].sum()))
    table, compared = summary.compare("molecules", runs, errors)
    assert (to_arrow(table, HOLDOUT_SUMMARY).num_rows, to_arrow(compared, HOLDOUT_COMPARISONS).num_rows) == (3, 2)
    row = table.set_index("predictor").loc["scratch"]
    of_seeds = runs.loc[runs["predictor"] == "scratch", "test_rmse"]
    assert (row["n_seeds"], row["best_baseline"]) == (2, "gene_mean")
    assert row["test_rmse_mean"] == pytest.approx(of_seeds.mean())
    assert row["test_rmse_sd"] == pytest.approx(np.std(of_seeds, ddof=1))
    assert row["difference"] == pytest.approx(of_seeds.mean() - row["best_baseline_rmse"])
    # errors are those of the baseline times a constant, so that a paired interval of the ratio would be a point
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0
    assert row["beats_best_baseline"]
    assert row["test_rmse_low"] < row["best_baseline_rmse"] < row["test_rmse_high"], "unpaired, the two could not be told apart"
    assert table.set_index("predictor").loc[["zero", "gene_mean"], "beats_best_baseline"].isna().all()


def test_a_variant_that_is_worse_or_no_better_does_not_win() -> None:
    for gain in (1.0, 1.1):
        errors = made_errors(gain=gain)
        runs = scores.runs_table("molecules", made_runs(errors), errors, ["scratch"])
        table, _ = summary.compare("molecules", runs, errors)
        assert not table.set_index("predictor").loc["scratch", "beats_best_baseline"]
        assert "does NOT beat the best baseline" in summary.describe("molecules", table, NO_PROFILES, targets_of("alpha"), "How.")


def targets_of(*scored: str) -> pd.DataFrame:
    rows = [{"rule": "molecules", "dataset": name, "outcome": "scored", "reason": None} for name in scored]
    rows.append({"rule": "molecules", "dataset": "delta", "outcome": "not_selectable", "reason": "no validation values"})
    return pd.DataFrame(rows)


def test_the_interval_is_that_of_scipy() -> None:
    """Clusters of equal size and one seed: the root of a mean, of which SciPy draws its own resamples."""
    errors = made_errors(n_clusters=60, seeds=(1,))
    errors["n_values"] = 10
    resampled = summary.ResampledRmse(errors, "cluster", ("test",), n_resamples=20_000)
    low, high, method = resampled.interval("scratch")
    assert method == "bca"
    squared = errors.loc[errors["predictor"] == "scratch", "squared_error"].to_numpy() / 10
    expected = stats.bootstrap(
        (squared,), lambda x, axis: np.sqrt(x.mean(axis=axis)), n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.05 * width)
    assert high == pytest.approx(expected.high, abs=0.05 * width)
    assert resampled.observed("scratch") == pytest.approx(np.sqrt(squared.mean()))


def test_resamples_are_those_of_a_loop_over_drawn_clusters() -> None:
    """The interval from sums over clusters is that of RMSEs computed from the rows of every resample."""
    from perturbridge_dagster.agreement.bootstrap import bca_interval, drawn_counts

    errors = made_errors(n_clusters=12)
    by_name = {
        key: rows.sort_values("cluster") for key, rows in errors.assign(seed=errors["seed"].fillna(-1)).groupby(["predictor", "seed"])
    }

    def difference(weights: np.ndarray) -> float:
        def rmse(key: tuple[str, int]) -> float:
            rows = by_name[key]
            return float(np.sqrt((weights * rows["squared_error"]).sum() / (weights * rows["n_values"]).sum()))

        return (rmse(("scratch", 1)) + rmse(("scratch", 2))) / 2 - rmse(("zero", -1))

    drawn = np.concatenate(list(drawn_counts(12, 2000, ["test", "rmse"])))
    left_out = np.array([difference(1 - row) for row in np.eye(12)])
    expected = bca_interval(difference(np.ones(12)), np.array([difference(row) for row in drawn]), left_out)
    found = summary.ResampledRmse(errors, "cluster", ("test",)).interval("scratch", "zero")
    assert found[2] == expected[2] == "bca"
    np.testing.assert_allclose(found[:2], expected[:2])


def test_intervals_depend_neither_on_the_order_of_rows_nor_on_other_predictors() -> None:
    errors = made_errors()
    one = summary.ResampledRmse(errors, "cluster", ("test",)).interval("scratch", "gene_mean")
    assert one == summary.ResampledRmse(errors.sample(frac=1, random_state=1), "cluster", ("test",)).interval("scratch", "gene_mean")
    without_zero = errors[errors["predictor"] != "zero"]
    np.testing.assert_allclose(one[:2], summary.ResampledRmse(without_zero, "cluster", ("test",)).interval("scratch", "gene_mean")[:2])


def test_predictors_that_were_scored_on_other_values_are_not_compared() -> None:
    errors = made_errors()
    with pytest.raises(ValueError, match="scored on different values"):
        summary.ResampledRmse(errors.iloc[1:], "cluster", ("test",))


def test_one_cluster_has_no_interval_and_wins_nothing() -> None:
    errors = made_errors(n_clusters=1)
    runs = scores.runs_table("molecules", made_runs(errors), errors, ["scratch"])
    table, compared = summary.compare("molecules", runs, errors)
    assert set(table["interval"]) == set(compared["interval"]) == {"not_estimable"}
    row = table.set_index("predictor").loc["scratch"]
    assert row["difference"] < 0
    assert not row["beats_best_baseline"]


@pytest.mark.parametrize(("n_clusters", "wins"), [(FEWEST_HELD_OUT - 1, False), (FEWEST_HELD_OUT, True)])
def test_it_takes_some_clusters_to_win(n_clusters: int, wins: bool) -> None:
    errors = made_errors(n_clusters=n_clusters)
    runs = scores.runs_table("molecules", made_runs(errors), errors, ["scratch"])
    table, _ = summary.compare("molecules", runs, errors)
    row = table.set_index("predictor").loc["scratch"]
    assert row["difference_high"] < 0
    assert row["beats_best_baseline"] == wins
    said = summary.describe("molecules", table, NO_PROFILES, targets_of("alpha"), "How.")
    assert ("beats the best baseline on 1 of 1" in said) == wins
    assert (f"Too few compounds are held out for anyone to win on: alpha ({n_clusters}); it takes 5." in said) == (not wins)
    assert ("- scratch: " in said) == wins, "of too few it is said neither that it wins nor that it loses"


def test_few_groups_are_not_drawn_but_their_compounds_are() -> None:
    errors = made_errors().assign(cluster=lambda frame: "CVCL_" + (frame["perturbation"].astype(int) % 3).astype(str))
    runs = scores.runs_table("contexts", made_runs(errors), errors, ["scratch"])
    table, _ = summary.compare("contexts", runs, errors)
    assert set(table["dataset"]) == {ALL_DATASETS, "alpha"}
    assert set(table["clustered_by"]) == {"compound"}
    many = errors.assign(cluster="CVCL_" + (errors["perturbation"].astype(int) % 6).astype(str))
    table, _ = summary.compare("contexts", scores.runs_table("contexts", made_runs(many), many, ["scratch"]), many)
    assert set(zip(table["clustered_by"], table["n_clusters"], strict=True)) == {("cell context", 6)}


@pytest.mark.parametrize("rule", ["parents", "scaffolds"])
def test_compounds_within_few_groups_are_no_replicates(rule: str) -> None:
    """Two parents of six salts each are two, not twelve, and win nothing."""
    errors = made_errors(n_clusters=12).assign(cluster=lambda frame: "P" + (frame["perturbation"].astype(int) % 2).astype(str))
    table, compared = summary.compare(rule, scores.runs_table(rule, made_runs(errors), errors, ["scratch"]), errors)
    assert set(zip(table["clustered_by"], table["n_clusters"], strict=True)) == {(scores.CLUSTER_WORDS[rule], 2)}
    assert set(compared["n_clusters"]) == {2}
    won = table.loc[table["kind"] == "variant", ["difference", "beats_best_baseline"]]
    assert (won["difference"] < 0).all()
    assert not won["beats_best_baseline"].any()


# ---- words and pictures ------------------------------------------------------------------------------------------------------


def test_the_verdict_names_who_wins_and_what_was_not_scored() -> None:
    errors = made_errors()
    table, _ = summary.compare("molecules", scores.runs_table("molecules", made_runs(errors), errors, ["scratch"]), errors)
    said = summary.describe("molecules", table, NO_PROFILES, targets_of("alpha"), "Trained somehow.")
    assert "scratch: beats the best baseline on 1 of 1 (alpha)" in said
    assert "Not scored: delta (no validation values)." in said
    assert "Trained somehow." in said
    row = table.set_index("predictor").loc["scratch"]
    assert f"**{row['test_rmse_mean']:.4f} ± {row['test_rmse_sd']:.4f}**" in said
    nothing = summary.describe("molecules", table.iloc[:0], NO_PROFILES, targets_of(), "How.")
    assert "Nothing could be scored." in nothing


def test_the_verdict_has_whole_profiles_by_dataset_or_together() -> None:
    errors = made_errors()
    table, _ = summary.compare("molecules", scores.runs_table("molecules", made_runs(errors), errors, ["scratch"]), errors)
    values = {"scratch": 0.25, "zero": np.nan, "gene_mean": 0.5}
    rows = [
        {"predictor": name, "baseline": None, "dataset": dataset, "metric": metric, "value": value, "by_chance": chance}
        for metric, chance in (("pearson", 0.0), ("rmse", None))
        for dataset in ("alpha", "beta")
        for name, value in values.items()
    ]
    paired = [{"predictor": "scratch", "baseline": "gene_mean", "dataset": "alpha", "metric": "pearson", "value": 9.0, "by_chance": None}]
    profiles = pd.DataFrame([*rows, *paired])
    said = summary.describe("molecules", table, profiles, targets_of("alpha"), "How.")
    names = list(table["predictor"])
    cells = {"scratch": "0.250", "zero": "", "gene_mean": "**0.500**"}
    assert f"| dataset | {' | '.join(name.replace('_', ' ') for name in names)} | by chance |" in said
    for dataset in ("alpha", "beta"):
        assert f"| {dataset} | {' | '.join(cells[name] for name in names)} | 0.000 |" in said
    assert "9.0" not in said
    assert "RMSE of a profile" not in said
    together = profiles.assign(dataset=None)[profiles["dataset"] == "alpha"]
    both = summary.describe("molecules", table, pd.concat([together, profiles]), targets_of("alpha"), "How.")
    assert "| all_datasets | " in both
    assert "| beta | " not in both


def test_pictures_are_drawn_from_the_summary_even_where_it_is_empty() -> None:
    errors = made_errors()
    table, _ = summary.compare("molecules", scores.runs_table("molecules", made_runs(errors), errors, ["scratch"]), errors)
    for frame in (table, table.iloc[:0], table[table["kind"] == "baseline"]):
        for draw in (figures.rmse_figure, figures.difference_figure):
            assert draw(frame).startswith(b"\x89PNG")
    assert figures.rmse_figure(table) == figures.rmse_figure(table), "equal tables give equal files"
    better = table.assign(test_rmse_mean=table["test_rmse_mean"] / 2)
    assert figures.rmse_figure(better) != figures.rmse_figure(table)


def test_a_baseline_is_scored_as_evaluate_scores_it(additive_corpus: StoredCorpus) -> None:
    from perturbridge_dagster.representation.evaluation import evaluate

    vocabularies = additive_corpus.vocabularies("contexts", unknown=True)
    ours = scores.squared_errors(Zero(), encode_split(additive_corpus, "test", vocabularies, rule="contexts"), "contexts")
    theirs = evaluate([Zero()], additive_corpus, vocabularies, rule="contexts", splits=("test",)).scores
    assert scores.rmse_of(ours) == pytest.approx(theirs.loc[theirs["dataset"].isna(), "rmse"].item())
    for dataset, rows in ours.groupby("dataset"):
        assert scores.rmse_of(rows) == pytest.approx(theirs.loc[theirs["dataset"] == dataset, "rmse"].item())
