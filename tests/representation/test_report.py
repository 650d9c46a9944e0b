"""The report: who beats what, in words that follow from the tables, of whatever parts there are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perturbridge_dagster.contract import (
    EMBEDDING_MECHANISMS,
    EMBEDDING_STABILITY,
    EVALUATION,
    HOLDOUT_SUMMARY,
    OP3_SUMMARY,
    PROFILE_SCORES,
    REPRESENTATION_PARTS,
    REPRESENTATION_VERDICTS,
    Table,
)
from perturbridge_dagster.errors import IncompatibleFileError
from perturbridge_dagster.reports import to_html
from perturbridge_dagster.representation.figures import PICTURES
from perturbridge_dagster.representation.report import report_pictures, representation_report
from perturbridge_dagster.representation.report_parts import Part, read_part, verdicts
from perturbridge_dagster.written import to_arrow, write_parquet

BASELINES = {"zero": 0.5, "gene_mean": 0.4}


def as_contract(rows: list[dict[str, Any]], table: Table) -> pd.DataFrame:
    """Rows with null for what they do not say, and fit to be written as the table."""
    frame = pd.DataFrame(rows).reindex(columns=table.names)
    to_arrow(frame, table)
    return frame


def evaluation_of(model: str, rmse: float, splits: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {"predictor": name, "split": split, "dataset": dataset, "n_values": 1_000, "rmse": value, "mae": value}
        for split in splits
        for dataset, shift in ((None, 0.0), ("sciplex", 0.06), ("tahoe", -0.02))
        for name, value in {model: rmse + shift, **BASELINES}.items()
    ]
    return as_contract(rows, EVALUATION)


def profiles_of(model: str, gap: tuple[float, float, float], splits: tuple[str, ...], n_compounds: int) -> pd.DataFrame:
    common = {"dataset": None, "interval": "bca", "n_conditions": 200, "n_undefined": 0, "n_compounds": n_compounds}
    rows: list[dict[str, Any]] = []
    for split in splits:
        for name in (model, *BASELINES):
            rows += [
                {"predictor": name, "split": split, "metric": metric, "value": 0.4, "low": 0.3, "high": 0.5, **common}
                for metric in ("rmse", "pearson", "discrimination")
            ]
        rows += [
            {
                "predictor": model,
                "baseline": name,
                "split": split,
                "metric": "rmse",
                **dict(zip(("value", "low", "high"), ends, strict=True)),
                **common,
            }
            for name, ends in (("zero", (-0.2, -0.3, -0.1)), ("gene_mean", gap))
        ]
    return as_contract(rows, PROFILE_SCORES)


def embeddings_part(
    corpus: str = "all",
    model: str = "scalar_lpm",
    gap: tuple[float, float, float] = (-0.05, -0.08, -0.02),
    splits: tuple[str, ...] = ("val", "test"),
    n_compounds: int = 40,
    **tables: pd.DataFrame,
) -> Part:
    stability = [{"seed": 13, "other_seed": 17, "k": k, "n_perturbations": 50, "common_share": 0.6, "expected_share": 0.2} for k in (1, 10)]
    mechanisms = {"n_perturbations": 30, "n_mechanisms": 6, "same_cosine": 0.5, "expected_cosine": 0.01}
    mechanisms |= {"nearest_share": 0.8, "expected_nearest_share": 0.15, "n_permutations": 999, "p_value": 0.001}
    made = {
        "evaluation": evaluation_of(model, 0.35, splits),
        "profile_scores": profiles_of(model, gap, splits, n_compounds),
        "stability": as_contract(stability, EMBEDDING_STABILITY),
        "mechanisms": as_contract([mechanisms], EMBEDDING_MECHANISMS),
        "embeddings": pd.DataFrame({"symbol": ["1", "2", "1", "2"], "seed": [13, 13, 17, 17]}),
    }
    return Part("compound_embeddings", (corpus, model), {**made, **tables}, {"settings": "small"})


def corpus_part(name: str = "all", **splits: Any) -> Part:
    overlaps = [
        {"promise": promise, "is_promised": promised, "split": split, "share": share}
        for promise, promised, share in (("cid_anywhere", False, 1.0), ("cid_in_target_dataset", True, 0.0), ("assay", False, None))
        for split in ("val", "test")
    ]
    kept = {"meaning": "A compound.", "suits": True, "reason": None, "n_conditions": {"train": 80, "val": 10, "test": 10, "none": 0}}
    rules = {
        "molecules": {**kept, "n_violations": 0, "overlaps": overlaps},
        "assays": {"meaning": "An assay.", "suits": False, "reason": "there is one assay", "overlaps": []},
        **splits,
    }
    facts = {
        "definition": {"meaning": "Every dataset."},
        "n_datasets": 2,
        "n_perturbations": 50,
        "n_conditions": {"train": 80, "val": 10, "test": 10},
        "n_values": {"train": 8_000, "val": 1_000, "test": 1_000},
        "splits": rules,
    }
    return Part("training_corpus", (name,), {}, facts)


def holdout_part(beats: bool, n_clusters: int = 12, dataset: str = "sciplex") -> Part:
    common = {"rule": "molecules", "n_seeds": 3, "interval": "bca", "clustered_by": "compound", "dataset": dataset}
    common |= {"n_clusters": n_clusters, "n_values": 900, "n_conditions": 90, "n_compounds": 12}
    best = {"best_baseline": "compound_mean", "best_baseline_rmse": 0.44}
    rows: list[dict[str, Any]] = [
        {
            **common,
            "predictor": "all",
            "kind": "variant",
            "test_rmse_mean": 0.41,
            "test_rmse_low": 0.39,
            "test_rmse_high": 0.43,
            "difference": -0.03,
            "difference_low": -0.05,
            "difference_high": -0.01 if beats else 0.01,
            "beats_best_baseline": beats,
            **best,
        },
        {**common, "n_seeds": 1, "predictor": "compound_mean", "kind": "baseline", "test_rmse_mean": 0.44, **best},
    ]
    return Part(
        "holdout_evaluation", ("molecules",), {"summary": as_contract(rows, HOLDOUT_SUMMARY)}, {"settings": "small"}, "Its own words."
    )


def op3_part() -> Part:
    common = {"mode": "trainable", "compounds": "all", "n_seeds": 2, "sd": 0.01, "n_compounds": 35, "reference": "none"}
    rows = [
        {**common, "descriptor": "none", "mode": "none", "metric": "mrrmse", "mean": 0.816},
        {
            **common,
            "descriptor": "morgan",
            "metric": "mrrmse",
            "mean": 0.812,
            "difference": -0.004,
            "low": -0.01,
            "high": 0.002,
            "interval": "bca",
        },
        # of the compounds that a corpus has seen: not the headline
        {**common, "descriptor": "morgan", "metric": "mrrmse", "mean": 0.777, "corpus": "all", "compounds": "seen", "interval": "bca"},
    ]
    return Part("op3_evaluation", ("all",), {"summary": as_contract(rows, OP3_SUMMARY)}, {"settings": "small"})


def sources_of(*parts: Part, simulated: bool = False, licence: str = "open") -> pd.DataFrame:
    rows = [
        {
            "stage": part.stage,
            "key": " ".join(part.key),
            "digest": "d",
            "datasets": "sciplex, tahoe",
            "simulated": simulated,
            "licence_class": licence,
        }
        for part in parts
    ]
    return as_contract(rows, REPRESENTATION_PARTS)


def report_of(*parts: Part, left_out: tuple[str, ...] = (), **options: Any) -> str:
    return representation_report(parts, sources_of(*parts, **options), left_out=left_out)


def sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, flags=re.MULTILINE)


# ---- verdicts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((-0.05, -0.08, -0.02), "better"),
        ((0.05, 0.02, 0.08), "worse"),
        ((0.01, -0.02, 0.08), "not told apart"),
        ((-0.01, float("nan"), float("nan")), "no interval"),
    ],
)
def test_a_verdict_follows_from_the_interval(gap: tuple[float, float, float], verdict: str) -> None:
    found = verdicts([corpus_part(), embeddings_part(gap=gap)])
    to_arrow(found, REPRESENTATION_VERDICTS)
    of_test = found[found["split"] == "test"].set_index("baseline")
    assert of_test["verdict"].to_dict() == {"zero": "better", "gene_mean": verdict}
    # errors of all datasets together, not those of one
    assert of_test["rmse"].tolist() == [0.35, 0.35]
    assert of_test["baseline_rmse"].to_dict() == BASELINES


@pytest.mark.parametrize("gap", [(-0.05, -0.08, -0.02), (0.05, 0.02, 0.08)])
def test_few_compounds_win_and_lose_nothing(gap: tuple[float, float, float]) -> None:
    part = embeddings_part(gap=gap, n_compounds=4)
    found = verdicts([part])
    to_arrow(found, REPRESENTATION_VERDICTS)
    assert set(found["verdict"]) == {"too few compounds"}
    text = report_of(part)
    assert "**scalar LPM** on corpus `all`: too few compounds are held out to tell it from the baselines; it takes 5." in text
    assert "better than" not in text
    assert "does **not** beat" not in text
    assert "of too few held-out compounds to tell from zero and gene mean" in text
    assert set(verdicts([embeddings_part(gap=gap, n_compounds=5)])["verdict"]) <= {"better", "worse"}


def test_without_embeddings_there_is_no_verdict() -> None:
    found = verdicts([corpus_part(), op3_part()])
    assert found.empty
    to_arrow(found, REPRESENTATION_VERDICTS)


# ---- the page ----------------------------------------------------------------------------------------------------------------


def test_the_report_has_every_section_that_it_has_parts_for() -> None:
    everything = (corpus_part(), embeddings_part(), embeddings_part(model="multi_output_lpm"), holdout_part(True), op3_part())
    names = ["In short", "What was measured on which data", "What was held out", "Who beats what", "Hold-outs"]
    names += ["OP3: compounds held out of single-cell immune data", "Can neighbours be trusted?", "Limits"]
    assert sections(report_of(*everything)) == names
    assert sections(report_of(corpus_part())) == [names[1], names[2], "Limits"]
    assert sections(report_of(embeddings_part())) == [names[0], names[1], names[3], names[6], "Limits"]
    assert sections(report_of(holdout_part(True))) == [names[0], names[1], "Hold-outs", "Limits"]
    assert sections(report_of(op3_part())) == [names[1], names[5], "Limits"]


def test_a_model_that_does_not_beat_the_baselines_is_said_to() -> None:
    good, poor = report_of(embeddings_part()), report_of(embeddings_part(gap=(0.05, 0.02, 0.08)))
    assert "**scalar LPM** on corpus `all` predicts held-out effects better than every baseline." in good
    assert "**scalar LPM** on corpus `all` does **not** beat gene mean." in poor
    assert "better than zero; **worse** than gene mean" in poor
    assert "not told apart from gene mean" in report_of(embeddings_part(gap=(0.0, -0.1, 0.1)))


def test_datasets_where_the_model_wins_are_bold() -> None:
    text = report_of(embeddings_part())
    assert "| Tahoe-100M | 1,000 | **0.330** | gene mean, 0.400 |" in text
    assert "| sci-Plex | 1,000 | 0.410 | gene mean, 0.400 |" in text


def test_splits_say_what_train_has_seen_and_which_do_not_suit() -> None:
    text = report_of(corpus_part())
    assert "| molecules | 80 / 10 / 10 | kept | 100% | **0%** |" in text
    assert "- **molecules**: A compound." in text
    assert "Splits that do not suit this corpus: assays (there is one assay)." in text
    broken = {"scaffolds": {**corpus_part().facts["splits"]["molecules"], "n_violations": 3}}
    assert "**broken by 3 conditions**" in report_of(corpus_part(**broken))


def test_simulated_and_restricted_data_are_named() -> None:
    parts = (corpus_part(), embeddings_part())
    assert "All data are simulated" in report_of(*parts, simulated=True)
    assert "simulated" not in report_of(*parts).replace("| data |", "")
    mixed = sources_of(*parts).assign(simulated=[False, True])
    assert "Some of the data are simulated" in representation_report(parts, mixed)
    assert "may be redistributed" in report_of(*parts)
    assert "may not be redistributed" in report_of(*parts, licence="restricted")
    assert "*small* settings" in report_of(*parts)


def test_hold_outs_say_how_often_a_variant_wins() -> None:
    text = report_of(holdout_part(True))
    assert "Hold-out by molecules: a variant beats the best baseline in 1 of 1 dataset." in text
    assert "| sci-Plex | 12 | all: 0.410 [0.390, 0.430] | compound mean: 0.440 | −0.030 [−0.050, −0.010] | 12 compounds | 1 of 1 |" in text
    datasets = pd.DataFrame(
        {"dataset": ["tahoe", "sciplex"], "outcome": ["not_selectable", "scored"], "reason": ["it has no validation values", None]}
    )
    part = holdout_part(True)
    told = Part(part.stage, part.key, {**part.tables, "datasets": datasets}, part.facts)
    assert "Not scored: Tahoe-100M: it has no validation values." in report_of(told)
    assert "Not scored" not in text
    assert "**no** variant beats the best baseline in any of 1 dataset." in report_of(holdout_part(False))


def holdouts_together(*parts: Part) -> Part:
    summary = pd.concat([part.tables["summary"] for part in parts], ignore_index=True)
    return Part("holdout_evaluation", ("molecules",), {"summary": summary}, parts[0].facts)


def test_too_few_held_out_is_not_said_to_be_a_loss() -> None:
    few, fewer = holdout_part(False, 3), holdout_part(False, 2, "tahoe")
    text = report_of(holdouts_together(few, fewer))
    assert "Hold-out by molecules: too few compounds are held out (3 and 2) to tell; it takes 5." in text
    assert "**no** variant" not in text
    assert text.count("| *too few held out to tell* |") == 2
    assert "0 of 1" not in text
    assert "**Too few held out** for anyone to win or lose, in hold-outs by molecules (sci-Plex and Tahoe-100M): it takes 5." in text
    assert "Too few held out" not in report_of(holdout_part(False))
    some = report_of(holdouts_together(few, holdout_part(False, 12, "tahoe")))
    assert "**no** variant beats the best baseline in any of 1 dataset; in 1 more too few are held out (3) to tell." in some
    won = report_of(holdouts_together(few, holdout_part(True, 12, "tahoe")))
    assert "a variant beats the best baseline in 1 of 1 dataset; in 1 more too few" in won


def test_of_one_model_for_all_datasets_those_together_are_judged() -> None:
    few = holdout_part(False, 2)
    assert "too few compounds are held out (3) to tell" in report_of(holdouts_together(few, holdout_part(False, 3, "all_datasets")))
    text = report_of(holdouts_together(few, holdout_part(False, 12, "all_datasets")))
    assert "Hold-out by molecules: **no** model beats the best baseline on all datasets together." in text


def test_op3_shows_all_test_compounds() -> None:
    text = report_of(op3_part())
    assert "| morgan | trainable | 0.812 (−0.004 [−0.010, 0.002]) |" in text
    assert "| none | none | 0.816 |" in text
    assert "0.777" not in text


def test_every_metric_of_profiles_has_its_number_of_conditions_and_its_chance() -> None:
    part = embeddings_part()
    profiles = part.tables["profile_scores"]
    recovery = profiles[(profiles["metric"] == "pearson") & profiles["baseline"].isna()]
    recovery = recovery.assign(metric="recovery_at_fdr", n_conditions=150, n_undefined=50, n_compounds=31, by_chance=0.00117)
    discriminating = (profiles["metric"] == "discrimination") & (profiles["predictor"] == "zero")
    profiles.loc[discriminating, "n_conditions"] = 190
    chance = profiles["metric"].map({"pearson": 0.0, "discrimination": 0.5})
    tables = {**part.tables, "profile_scores": pd.concat([profiles.assign(by_chance=chance), recovery], ignore_index=True)}
    text = report_of(Part(part.stage, part.key, tables, part.facts))
    assert "| *by chance* | – | 0.00 | – | 0.0012 | 0.50 |" in text
    assert "| *conditions (compounds)* | 200 (40) | 200 (40) | 0 | 150 (31) | 190–200 (40) |" in text
    assert "Means over 200" not in text


def test_which_hold_out_has_unseen_compounds() -> None:
    text = report_of(embeddings_part())
    assert "by scaffold alone; those by molecule and by parent test compounds unseen in their dataset." in text


def test_neighbours_are_set_beside_chance() -> None:
    text = report_of(embeddings_part())
    assert "| `all` | scalar LPM | 2 | 2 | 60% (20%), k = 10 | 80% (15%), 30 compounds | 0.50 (0.01), P ≤ 0.001 |" in text
    alone = embeddings_part(
        stability=pd.DataFrame(columns=EMBEDDING_STABILITY.names), mechanisms=pd.DataFrame(columns=EMBEDDING_MECHANISMS.names)
    )
    assert "| `all` | scalar LPM | 2 | 2 | – | – | – |" in report_of(alone)


def test_few_compounds_and_validation_alone_are_said() -> None:
    assert "**Few held-out compounds** in all scalar_lpm (4)" in report_of(embeddings_part(n_compounds=4))
    assert "Few held-out compounds" not in report_of(embeddings_part())
    text = report_of(embeddings_part(splits=("val",)))
    assert "| `all` | scalar LPM | val |" in text


def test_one_split_is_said_to_be_one() -> None:
    assert "their spread understates what another draw of compounds would give" in report_of(embeddings_part())


def test_what_is_left_out_is_named() -> None:
    text = report_of(corpus_part(), left_out=("op3_evaluation all is failed: no compounds",))
    assert "Not in this report:\n\n- op3_evaluation all is failed: no compounds" in text


def test_the_page_stands_alone_with_its_pictures() -> None:
    png = b"\x89PNG"
    part = embeddings_part()
    shown = Part(part.stage, part.key, part.tables, part.facts, "", dict.fromkeys([*PICTURES, "other"], png))
    elsewhere = Part(part.stage, ("l1000", "scalar_lpm"), part.tables, part.facts, "", {"map": png})
    pictures = report_pictures([shown, elsewhere, Part("op3_evaluation", ("all",), {}, {}, "", {"differences": png})])
    assert len(pictures) == len(PICTURES) + 1
    page = to_html(report_of(part), pictures)
    assert page.count("<img ") == len(PICTURES) + 1
    assert "<table>" in page
    assert "|" not in re.sub(r"\|logFC\|", "", re.sub(r"<[^>]*>", "", page.split("</head>")[1]))


# ---- reading -----------------------------------------------------------------------------------------------------------------


def test_a_part_is_what_its_output_holds(make_stamp: Callable, tmp_path: Path) -> None:
    part = embeddings_part()
    stamp = make_stamp("sciplex", "tahoe", stage="compound_embeddings", licence="restricted")
    write_parquet(tmp_path / "evaluation.parquet", part.tables["evaluation"], EVALUATION, stamp)
    (tmp_path / "done.json").write_text(json.dumps({"digest": "abc", "arguments": {"settings": "small"}}))
    (tmp_path / "verdict.md").write_text("It wins.\n")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "map.png").write_bytes(b"png")
    read, row = read_part("compound_embeddings", ("all", "scalar_lpm"), tmp_path)
    assert list(read.tables) == ["evaluation"]
    assert (read.facts, read.verdict, read.pictures) == ({"settings": "small"}, "It wins.", {"map": b"png"})
    assert row == {
        "stage": "compound_embeddings",
        "key": "all scalar_lpm",
        "digest": "abc",
        "datasets": "sciplex, tahoe",
        "simulated": False,
        "licence_class": "restricted",
    }
    assert sections(representation_report([read], as_contract([row], REPRESENTATION_PARTS)))
    (tmp_path / "summary.parquet").write_bytes((tmp_path / "evaluation.parquet").read_bytes())
    with pytest.raises(IncompatibleFileError, match="was written by compound_embeddings"):
        read_part("op3_evaluation", ("all",), tmp_path)
