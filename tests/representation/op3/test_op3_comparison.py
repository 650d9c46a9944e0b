"""Scores, paired differences, who was seen, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.contract import OP3_COMPOUNDS, OP3_SCORES, OP3_SUMMARY
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.representation.op3 import comparison, compounds, report
from perturbridge_dagster.representation.op3.descriptors import MORGAN, Descriptors, morgan_descriptors, no_descriptors
from perturbridge_dagster.representation.op3.members import SETTINGS
from perturbridge_dagster.written import to_arrow

pytestmark = pytest.mark.slow

SEED = 20260505


def drawn_rows(gains: Mapping[tuple[str, str], float], *, n_compounds: int = 20, seeds: tuple[int | None, ...] = (0, 1)) -> pd.DataFrame:
    """Rows of scores: predictors whose error is smaller than that of no descriptor by a known gain."""
    random = np.random.default_rng(0)
    hardness = random.uniform(0.5, 1.0, n_compounds)
    rows = []
    for (descriptor, mode), gain in gains.items():
        for seed in (None,) if mode == "baseline" else seeds:
            for number in range(n_compounds):
                for cell in ("B cells", "T cells"):
                    error = hardness[number] - gain + 0.02 * random.normal()
                    likeness = 0.2 + gain + 0.02 * random.normal()
                    metrics = {"mrrmse": error, "mae": 0.8 * error, "spearman": likeness, "pearson": likeness, "cosine": likeness}
                    rows.append(
                        {"descriptor": descriptor, "mode": mode, "seed": seed, "sm_name": f"c{number}", "cell_type": cell, **metrics}
                    )
    return pd.DataFrame(rows).astype({"seed": "Int64"})


ROWS = {
    ("none", "none"): 0.0,
    (MORGAN, "trainable"): 0.05,
    (MORGAN, "fixed"): -0.05,
    ("scalar_lpm_all", "trainable"): 0.1,
    ("zero", "baseline"): -0.1,
}


def headline(summary: pd.DataFrame, predictor: tuple[str, str], metric: str, reference: str = "none") -> dict[str, Any]:
    rows = summary[
        (summary["descriptor"] == predictor[0])
        & (summary["mode"] == predictor[1])
        & (summary["metric"] == metric)
        & (summary["reference"] == reference)
        & summary["corpus"].isna()
    ]
    [row] = rows.to_dict("records")
    return row


def test_differences_are_paired_by_compound_and_lie_in_their_intervals():
    rows = drawn_rows(ROWS)
    summary = comparison.summary_table(rows, {})
    to_arrow(summary, OP3_SUMMARY)
    for predictor, gain in ROWS.items():
        row = headline(summary, predictor, "mrrmse")
        if predictor == ("none", "none"):
            assert np.isnan(row["difference"])
            assert row["interval"] is None
            continue
        assert row["difference"] == pytest.approx(-gain, abs=0.02)
        assert row["low"] < row["difference"] < row["high"]
        assert row["high"] - row["low"] < 0.05, "compounds differ by 0.5, which pairing takes out"
        assert row["win_rate"] == (1.0 if gain > 0 else 0.0)
        assert row["seed_win_rate"] == (1.0 if gain > 0 else 0.0)
        assert report.verdict_of(row) == ("better" if gain > 0 else "worse")
        assert report.verdict_of(headline(summary, predictor, "spearman")) == ("better" if gain > 0 else "worse")
    against = headline(summary, ("scalar_lpm_all", "trainable"), "mrrmse", "morgan")
    assert against["difference"] == pytest.approx(-0.05, abs=0.02)
    assert headline(summary, (MORGAN, "trainable"), "mrrmse", "morgan")["interval"] is None
    assert headline(summary, ("zero", "baseline"), "mrrmse")["n_seeds"] == 1
    assert np.isnan(headline(summary, ("zero", "baseline"), "mrrmse")["sd"])


def test_means_over_seeds_are_those_of_the_scores():
    rows = drawn_rows(ROWS)
    seen = {"all": {f"c{number}" for number in range(5)}}
    scores, summary = comparison.score_table(rows, seen), comparison.summary_table(rows, seen)
    to_arrow(scores, OP3_SCORES)
    of = (scores["descriptor"] == MORGAN) & (scores["mode"] == "trainable") & (scores["metric"] == "cosine")
    values = scores.loc[of & scores["corpus"].isna(), "value"]
    assert len(values) == 2
    row = headline(summary, (MORGAN, "trainable"), "cosine")
    assert row["mean"] == pytest.approx(values.mean())
    assert row["sd"] == pytest.approx(values.std(ddof=1))
    # seen and unseen compounds make all of them
    parts = scores[of & (scores["corpus"] == "all")].groupby("compounds")[["n_compounds", "n_conditions"]].first()
    assert parts.loc["seen"].to_list() == [5, 10]
    assert parts.loc["unseen"].to_list() == [15, 30]
    apart = scores[of & (scores["corpus"] == "all") & (scores["seed"] == 0)].set_index("compounds")["value"]
    assert (5 * apart["seen"] + 15 * apart["unseen"]) / 20 == pytest.approx(values.iloc[0])


def test_a_corpus_that_has_seen_all_has_no_unseen_rows():
    rows = drawn_rows(ROWS, n_compounds=4)
    everything = {f"c{number}" for number in range(4)}
    summary = comparison.summary_table(rows, {"all": everything, "l1000": set()})
    assert set(summary.loc[summary["corpus"] == "all", "compounds"]) == {"seen"}
    assert set(summary.loc[summary["corpus"] == "l1000", "compounds"]) == {"unseen"}
    scores = comparison.score_table(rows, {"all": everything})
    assert set(scores["compounds"]) == {"all", "seen"}


def test_undefined_correlations_count_as_zero_in_means_and_differences():
    rows = drawn_rows({("none", "none"): 0.0, ("zero", "baseline"): 0.0})
    rows.loc[rows["descriptor"] == "zero", ["spearman", "pearson", "cosine"]] = np.nan
    summary = comparison.summary_table(rows, {})
    assert headline(summary, ("zero", "baseline"), "spearman")["mean"] == 0
    none = headline(summary, ("none", "none"), "spearman")["mean"]
    assert headline(summary, ("zero", "baseline"), "spearman")["difference"] == pytest.approx(-none)
    scores = comparison.score_table(rows, {})
    assert scores.loc[(scores["descriptor"] == "zero") & (scores["metric"] == "spearman"), "n_undefined"].item() == 40


def test_intervals_do_not_depend_on_the_order_of_rows():
    rows = drawn_rows(ROWS)
    order = ["descriptor", "mode", "metric", "reference"]
    first = comparison.summary_table(rows, {}).sort_values(order, ignore_index=True)
    second = comparison.summary_table(rows.sample(frac=1, random_state=1), {}).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(first[["difference", "low", "high"]], second[["difference", "low", "high"]])


# ---- who was seen ------------------------------------------------------------------------------------------------------------


def corpus_of(perturbations: list[str], parents: list[str | None]) -> Any:
    conditions = pd.DataFrame({"perturbation": perturbations, "parent_key": parents})
    return SimpleNamespace(conditions_of=lambda split: conditions if split == "train" else None)


def test_compounds_are_found_by_pubchem_id_and_by_parent_structure(sampled: Callable[[int], Any]):
    given = sampled(SEED)
    identified = compounds.identify(given.table, shipped().compounds)
    assert identified.loc["Vorinostat", "pubchem_cid"] == 5311
    assert identified["pubchem_cid"].notna().mean() > 0.9
    salt, base = (identified.loc[name, "parent_key"] for name in ("tubastatin A hydrochloride", "tubastatin A"))
    assert salt == base, "a salt and its base share their parent"
    held_out = sorted(given.problem.test["sm_name"].unique())
    by_id = next(name for name in held_out if pd.notna(identified.loc[name, "pubchem_cid"]))
    by_parent = next(name for name in reversed(held_out) if name != by_id and pd.notna(identified.loc[name, "parent_key"]))
    seen = compounds.seen_compounds(
        corpus_of([f"{identified.loc[by_id, 'pubchem_cid']}+1", "2"], [None, identified.loc[by_parent, "parent_key"]]), "all"
    )
    assert seen.pubchem_cids >= {str(identified.loc[by_id, "pubchem_cid"]), "1", "2"}
    morgan = morgan_descriptors(identified["smiles"])
    table = compounds.compound_table(given.problem, identified, [(morgan, None), (replace(morgan, name="lpm"), seen)])
    to_arrow(table, OP3_COMPOUNDS)
    of_corpus = table[table["corpus"] == "all"].set_index("perturbagen")
    assert of_corpus.loc[by_id, "seen_pubchem_cid"]
    assert of_corpus.loc[by_parent, "seen_parent"]
    assert table.loc[table["descriptor"] == MORGAN, "seen_parent"].isna().all()
    found = compounds.seen_test_compounds(table)
    assert {by_id, by_parent} <= found["all"] <= set(held_out)
    sharing = set(identified.index[identified["parent_key"].isin([identified.loc[name, "parent_key"] for name in (by_id, by_parent)])])
    assert found["all"] <= sharing | {by_id, by_parent}
    assert not table[["perturbagen", "split"]].drop_duplicates()["perturbagen"].duplicated().any()
    twins = table.drop_duplicates("perturbagen").set_index("perturbagen")
    parents_in_train = set(identified.loc[given.problem.train["sm_name"].unique(), "parent_key"].dropna())
    for name in held_out:
        assert bool(twins.loc[name, "parent_in_train"]) == (identified.loc[name, "parent_key"] in parents_in_train)


# ---- all of it ---------------------------------------------------------------------------------------------------------------


def short(settings: Any) -> Any:
    return replace(
        settings,
        stage_one=tuple(replace(one, epochs=2) for one in settings.stage_one[:1]),
        stage_two=tuple(replace(one, epochs=2) for one in settings.stage_two[:1]),
        repetitions=1,
        epochs_between=1,
    )


def test_every_predictor_is_run_with_every_mode_and_seed(sampled: Callable[[int], Any]):
    given = sampled(SEED)
    names = given.table.compounds.index
    said: list[str] = []
    evaluated = comparison.evaluate(
        given.problem,
        [no_descriptors(names), morgan_descriptors(given.table.compounds["smiles"])],
        short(replace(SETTINGS["small"], modes=("trainable", "fixed", "concat"))),
        said.append,
    )
    counts = evaluated.rows.groupby(["descriptor", "mode", "seed"], dropna=False).size()
    assert (counts == len(given.problem.test)).all()
    predictors = {(descriptor, mode) for descriptor, mode, _ in counts.index}
    networks = {("none", "none"), *(("morgan", mode) for mode in ("trainable", "fixed", "concat"))}
    assert predictors == networks | {(name, "baseline") for name in ("zero", "gene_mean", "cell_type_mean", "ridge_morgan")}
    assert set(evaluated.epochs) == {"none", "morgan (trainable)", "morgan (fixed)", "morgan (concat)"}
    assert all(epochs in (1, 2) for of in evaluated.epochs.values() for epochs in of.values())
    assert len(said) == 4


def test_a_run_that_was_killed_goes_on_where_it_stopped(sampled: Callable[[int], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = sampled(SEED)
    descriptors = [morgan_descriptors(given.table.compounds["smiles"])]
    settings = short(replace(SETTINGS["small"], modes=("fixed",)))
    whole = comparison.evaluate(given.problem, descriptors, settings)
    predict, calls = comparison.predict_ensemble, []

    def killed(*arguments: Any, seed: int, **options: Any) -> Any:
        calls.append(seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*arguments, seed=seed, **options)

    monkeypatch.setattr(comparison, "predict_ensemble", killed)
    with pytest.raises(KeyboardInterrupt):
        comparison.evaluate(given.problem, descriptors, settings, kept=tmp_path)
    again = comparison.evaluate(given.problem, descriptors, settings, kept=tmp_path)
    assert calls == [0, 1, 1], "the first seed is not run again"
    pd.testing.assert_frame_equal(again.rows, whole.rows)
    assert again.epochs == whole.epochs


# ---- in words ----------------------------------------------------------------------------------------------------------------


def described(gains: Mapping[tuple[str, str], float], *, n_seen: int = 5, **options: Any) -> str:
    rows = drawn_rows(gains)
    names = pd.Index([f"c{number}" for number in range(20)] + ["t0", "t1"])
    table = pd.DataFrame(
        {
            "perturbagen": names,
            "split": ["test"] * 20 + ["train"] * 2,
            "parent_in_train": [True, *[False] * 19, None, None],
            "descriptor": "scalar_lpm_all",
            "corpus": "all",
            "seen_pubchem_cid": [True] * 3 + [False] * 19,
            "seen_parent": [True] * 5 + [False] * 17,
        }
    )
    seen = {"all": {f"c{number}" for number in range(n_seen)}}
    settings = SETTINGS[options.pop("size", "small")]
    said = {
        "how_epochs": report.how_epochs(settings),
        "members": report.members_in_words(settings),
        "left_out": options.pop("left_out", {}),
    }
    return report.describe(comparison.summary_table(rows, seen), table, said, simulated=options.pop("simulated", False))


def test_the_verdict_says_who_beats_whom():
    text = described(ROWS)
    assert "20 compounds are held out of 22; 1 shares the parent structure with a train compound" in text
    assert "scalar_lpm_all (trainable) beats Morgan fingerprints in MRRMSE" in text
    assert "morgan (fixed) is worse than none at all" in text
    assert "The corpus all has seen 3 of the 20 held-out compounds by PubChem id and 5 by parent structure" in text
    assert "on the 5 seen" in text
    assert "on the 15 unseen" in text
    assert "too few" not in text
    [line] = [line for line in described(ROWS, n_seen=2).splitlines() if line.startswith("- The corpus all")]
    on_seen, on_unseen = line.split("; ")
    assert on_seen.endswith("], too few to tell")
    assert on_unseen.endswith("].")
    assert "simulated" not in text
    assert "Members are a few small ones" in text
    assert "tuned on data that had the held-out compounds in it" in described(ROWS, size="published")
    assert "held-out compounds have no part in any choice" in text


def test_the_verdict_does_not_spare_what_does_not_win():
    text = described(
        {**ROWS, ("scalar_lpm_all", "trainable"): 0.0, ("ridge_morgan", "baseline"): 0.3}, simulated=True, left_out={"x": "why"}
    )
    assert "scalar_lpm_all (trainable) does NOT beat Morgan fingerprints in MRRMSE" in text
    assert "In MRRMSE, morgan (trainable) does NOT beat ridge_morgan (0.2" in text
    assert "The data are simulated" in text
    assert "Left out: x: why." in text


def test_a_network_beats_a_baseline_by_the_interval_not_by_the_mean():
    gains = {("none", "none"): 0.0, ("gene_mean", "baseline"): -0.007, ("cell_type_mean", "baseline"): 0.0, ("zero", "baseline"): -0.3}
    summary = comparison.summary_table(drawn_rows({**gains, ("ridge_morgan", "baseline"): 0.2}), {})
    to_arrow(summary, OP3_SUMMARY)
    lower = headline(summary, ("none", "none"), "mrrmse", "gene_mean")
    higher = headline(summary, ("none", "none"), "mrrmse", "cell_type_mean")
    assert lower["low"] < 0 < lower["high"]
    assert higher["low"] < 0 < higher["high"]
    assert lower["difference"] * higher["difference"] < 0, "one mean is below, one above"
    [line] = report._baseline_lines(summary)
    worse, neither, better = line.removeprefix("- In MRRMSE, none ").split("; ")
    assert worse.startswith("does NOT beat ridge_morgan (0.")
    assert neither.startswith("does NOT demonstrably beat gene_mean (")
    assert " and cell_type_mean (" in neither
    assert better.startswith("beats zero (−0.29")


def test_each_seed_is_compared_with_the_one_value_of_a_baseline():
    summary = comparison.summary_table(drawn_rows(ROWS), {})
    assert headline(summary, (MORGAN, "trainable"), "mrrmse", "zero")["seed_win_rate"] == 1.0
    assert headline(summary, ("zero", "baseline"), "mrrmse", MORGAN)["seed_win_rate"] == 0.0
    assert headline(summary, ("zero", "baseline"), "mrrmse", "zero")["interval"] is None


def test_few_held_out_compounds_win_nothing():
    summary = comparison.summary_table(drawn_rows(ROWS, n_compounds=4), {})
    assert report.verdict_of(headline(summary, ("zero", "baseline"), "mrrmse")) == "too few compounds"
    assert all(" beats " not in line and "NOT" not in line for line in report._baseline_lines(summary))
    assert all("better than" not in line and "worse than" not in line for line in report._descriptor_lines(summary))
    assert report.difference_figure(summary).startswith(b"\x89PNG")


def test_the_picture_is_a_png_even_where_nothing_is_compared():
    assert report.difference_figure(comparison.summary_table(drawn_rows(ROWS), {})).startswith(b"\x89PNG")
    alone = comparison.summary_table(drawn_rows({("none", "none"): 0.0}), {})
    assert report.difference_figure(alone).startswith(b"\x89PNG")


def test_a_descriptor_alone_has_morgan_as_no_reference():
    assert comparison.references(drawn_rows({("none", "none"): 0.0})) == {"none": ("none", "none")}
    assert comparison.references(drawn_rows({("none", "none"): 0.0, (MORGAN, "fixed"): 0.0}))["morgan"] == (MORGAN, "fixed")
    assert comparison.references(drawn_rows({("none", "none"): 0.0, ("zero", "baseline"): 0.0}))["zero"] == ("zero", "baseline")
    assert isinstance(no_descriptors(pd.Index(["a"])), Descriptors)
