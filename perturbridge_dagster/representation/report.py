"""The report: what corpora, models and their evaluations say, in sentences that a biologist can read.

Belongs here: sentences made from tables, as Markdown. Does not belong here: reading what it is made of (``report_parts.py``), computing
anything that a table should hold, or pictures (``figures.py``).

A section whose tables are absent is not written: what there is, is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from perturbridge_dagster.labels import dataset_label, in_registry_order
from perturbridge_dagster.reports import listed, markdown_table, number, plural, with_interval
from perturbridge_dagster.representation.baselines import BASELINES
from perturbridge_dagster.representation.figures import PICTURES, printed
from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS, REPORTED_METRICS
from perturbridge_dagster.representation.report_parts import TABLES, Part, all_datasets, verdicts
from perturbridge_dagster.representation.splits import SPLIT_RULES
from perturbridge_dagster.representation.verdicts import FEWEST_HELD_OUT
from perturbridge_dagster.stages import MODELS

FEW_COMPOUNDS = 10
"""Held-out compounds below which an interval is unreliable."""

_DIGITS = 3
_SEEN = {
    "cid_anywhere": "compound seen",
    "cid_in_target_dataset": "compound seen in its dataset",
    "context": "cell context seen",
    "model_system": "model system seen",
    "assay": "assay seen",
    "scaffold_anywhere": "scaffold seen",
}
"""Key of overlaps → head of its column."""


def _of(parts: Iterable[Part], stage: str) -> list[Part]:
    return [part for part in parts if part.stage == stage]


def _beaten(rows: pd.DataFrame) -> str:
    """Which baselines a model beats, in words; rows of one model and split."""
    groups = {
        "better than": list(rows.loc[rows["verdict"] == "better", "baseline"]),
        "not told apart from": list(rows.loc[rows["verdict"].isin(["not told apart", "no interval"]), "baseline"]),
        "**worse** than": list(rows.loc[rows["verdict"] == "worse", "baseline"]),
        "of too few held-out compounds to tell from": list(rows.loc[rows["verdict"] == "too few compounds", "baseline"]),
    }
    return "; ".join(f"{words} {listed([name.replace('_', ' ') for name in names])}" for words, names in groups.items() if names)


def _test_rows(found: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on test, or on validation where a model has no test values."""
    has_test = found.groupby(["corpus", "model"])["split"].transform(lambda splits: (splits == "test").any())
    return found[(found["split"] == "test") | ~has_test.astype(bool)]


# ---- sections ----------------------------------------------------------------------------------------------------------------


def _data(parts: Sequence[Part], sources: pd.DataFrame, left_out: Sequence[str]) -> list[str]:
    datasets = in_registry_order({name for text in sources["datasets"] for name in text.split(", ") if name})
    lines = ["## What was measured on which data", ""]
    if sources["simulated"].all():
        lines += [
            "*All data are simulated: the numbers show how to read this report and that the parts work. They say nothing of real assays.*",
            "",
        ]
    elif sources["simulated"].any():
        lines += [
            "*Some of the data are simulated, as the table says. What is learned from them says nothing of real assays.*",
            "",
        ]
    lines += [f"{plural(len(datasets), 'dataset', 'datasets')}: {listed([dataset_label(name) for name in datasets])}.", ""]
    if corpora := _of(parts, "training_corpus"):
        rows = []
        for part in corpora:
            facts, source = part.facts, sources[(sources["stage"] == part.stage) & (sources["key"] == " ".join(part.key))].iloc[0]
            counts = facts["n_conditions"]
            rows.append(
                (
                    f"`{part.key[0]}`",
                    facts.get("definition", {}).get("meaning", ""),
                    f"{facts['n_datasets']:,}",
                    f"{facts['n_perturbations']:,}",
                    " / ".join(f"{counts[split]:,}" for split in ("train", "val", "test")),
                    f"{sum(facts['n_values'].values()):,}",
                    "simulated" if source["simulated"] else "real",
                    "may be redistributed" if source["licence_class"] == "open" else "may not be redistributed",
                )
            )
        head = ("corpus", "what it takes", "datasets", "compounds", "conditions: train / val / test", "values", "data", "licence")
        lines += [markdown_table(head, rows), ""]
    sizes = sorted({str(part.facts["settings"]) for part in parts if "settings" in part.facts})
    if "small" in sizes:
        lines += ["Models were trained with the *small* settings: minutes on a CPU, not the published budget.", ""]
    if left_out:
        lines += ["Not in this report:", "", *(f"- {words}" for words in left_out), ""]
    return lines


def _splits(parts: Sequence[Part]) -> list[str]:
    """Every split of the largest corpus: what it asks, whether it keeps its promise, and what train has seen of its test conditions."""
    corpora = [part for part in _of(parts, "training_corpus") if part.facts.get("splits")]
    if not corpora:
        return []
    part = max(corpora, key=lambda one: sum(one.facts["n_conditions"].values()))
    rows, unsuited, meanings = [], [], []
    for rule in [name for name in SPLIT_RULES if name in part.facts["splits"]]:
        split = part.facts["splits"][rule]
        if not split.get("suits", True):
            unsuited.append(f"{rule} ({split['reason']})")
            continue
        meanings.append(f"- **{rule}**: {split['meaning']}")
        counts = split["n_conditions"]
        seen = {record["promise"]: record["share"] for record in split["overlaps"] if record["split"] == "test"}
        promised = {record["promise"] for record in split["overlaps"] if record["is_promised"]}
        rows.append(
            (
                rule,
                " / ".join(f"{counts.get(name, 0):,}" for name in ("train", "val", "test")),
                "kept" if not split.get("n_violations") else f"**broken by {split['n_violations']:,} conditions**",
                *("–" if seen.get(key) is None else f"**{seen[key]:.0%}**" if key in promised else f"{seen[key]:.0%}" for key in _SEEN),
            )
        )
    lines = [
        "## What was held out",
        "",
        f"A score means what its split holds out, and no more. For corpus `{part.key[0]}`, of the test conditions of each split, the share "
        "whose compound, cell context, assay or scaffold was in train; **bold** is what the split promises to hold out. Whatever is high "
        "beside it is known to the models.",
        "",
        markdown_table(("split", "conditions: train / val / test", "promise", *_SEEN.values()), rows),
        "",
    ]
    return [*lines, *meanings, "", *([f"Splits that do not suit this corpus: {'; '.join(unsuited)}.", ""] if unsuited else [])]


def _models(parts: Sequence[Part], found: pd.DataFrame) -> list[str]:
    if found.empty:
        return []
    rows = []
    for (corpus, model), of in _test_rows(found).groupby(["corpus", "model"], sort=False):
        best = of.sort_values("baseline_rmse").iloc[0]
        rows.append(
            (
                f"`{corpus}`",
                printed(str(model)),
                str(best["split"]),
                number(best["rmse"], _DIGITS),
                f"{str(best['baseline']).replace('_', ' ')}, {number(best['baseline_rmse'], _DIGITS)}",
                with_interval(best["difference"], best["low"], best["high"], _DIGITS),
                _beaten(of),
            )
        )
    head = ("corpus", "model", "on", "RMSE of all values", "best baseline", "model less best baseline, a profile", "the model is")
    lines = [
        "## Who beats what",
        "",
        "The split is the published scalar one: a held-out compound is trained elsewhere. Baselines need no training: no change, means of "
        "train values (by gene, cell context or compound), the nearest compound by structure, and a ridge regression on structure. A "
        "difference below 0 favours the model; intervals are 95 %, from resampling compounds, and nobody wins or loses by fewer than "
        f"{FEWEST_HELD_OUT} of them. **A model that does not beat the baselines has learned nothing that they do not know.**",
        "",
        markdown_table(head, rows),
        "",
    ]
    return [*lines, *_by_dataset(parts), *_profiles(parts)]


def _by_dataset(parts: Sequence[Part]) -> list[str]:
    """Where the models of the largest corpus win: their RMSE on the test values of each dataset beside the best baseline there."""
    scored = {
        part.key[1]: part.tables["evaluation"]
        for part in _of(parts, "compound_embeddings")
        if part.key[0] == "all" and "dataset" in part.tables.get("evaluation", ())
    }
    test = {model: table[(table["split"] == "test") & table["dataset"].notna() & table["rmse"].notna()] for model, table in scored.items()}
    names = in_registry_order({str(name) for table in test.values() for name in table["dataset"]})
    if not names:
        return []
    rows = []
    for name in names:
        of = {model: table[table["dataset"] == name].set_index("predictor") for model, table in test.items()}
        first = next(iter(of.values()))
        baselines = first.loc[first.index.isin(BASELINES), "rmse"]
        cells = []
        for model, table in of.items():
            rmse = table["rmse"].get(model)
            cells.append("–" if rmse is None else f"**{number(rmse, _DIGITS)}**" if rmse < baselines.min() else number(rmse, _DIGITS))
        best = f"{printed(str(baselines.idxmin()))}, {number(float(baselines.min()), _DIGITS)}"
        rows.append((dataset_label(name), f"{int(first['n_values'].max()):,}", *cells, best))
    return [
        "### By dataset, corpus `all`",
        "",
        "RMSE of all test values of a dataset; **bold** where the model is below every baseline.",
        "",
        markdown_table(("dataset", "values", *(printed(model) for model in test), "best baseline"), rows),
        "",
    ]


def _profiles(parts: Sequence[Part]) -> list[str]:
    """Every predictor of the largest corpus by several metrics."""
    lines: list[str] = []
    for part in _of(parts, "compound_embeddings"):
        if part.key[0] != "all" or "profile_scores" not in part.tables:
            continue
        profiles = all_datasets(part.tables["profile_scores"])
        shown = profiles[profiles["baseline"].isna() & profiles["metric"].isin(REPORTED_METRICS)]
        shown = shown[shown["split"] == ("test" if (shown["split"] == "test").any() else "val")]
        if shown.empty:
            continue
        by = shown.set_index(["predictor", "metric"])
        table = [
            (
                printed(predictor),
                *(
                    with_interval(*(by.loc[(predictor, metric), name] for name in ("value", "low", "high")))
                    if (predictor, metric) in by.index
                    else "–"
                    for metric in REPORTED_METRICS
                ),
            )
            for predictor in dict.fromkeys(shown["predictor"])
        ]
        chance = [_by_chance(shown[(shown["metric"] == name) & (shown["predictor"] == part.key[1])]) for name in REPORTED_METRICS]
        counts = [_counts(shown[(shown["metric"] == name) & (shown["n_conditions"] > 0)]) for name in REPORTED_METRICS]
        lines += [
            f"### {printed(part.key[1])} on corpus `all`: how much of the biology",
            "",
            "Means over the held-out conditions in which a metric is defined. The last row says how many, and of how many compounds.",
            "",
            markdown_table(
                ("predictor", *(PROFILE_METRICS[name].title for name in REPORTED_METRICS)),
                [*table, ("*by chance*", *chance), ("*conditions (compounds)*", *counts)],
            ),
            "",
        ]
    if lines:
        lines += [*(f"- *{PROFILE_METRICS[name].title}*: {PROFILE_METRICS[name].sentence}" for name in REPORTED_METRICS), ""]
    return lines


def _by_chance(rows: pd.DataFrame) -> str:
    """What chance is expected to score in a metric, to two digits that say something; rows of a metric and predictor."""
    expected = rows["by_chance"].dropna()
    if expected.empty:
        return "–"
    value = float(expected.iloc[0])
    return number(value) if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def _counts(rows: pd.DataFrame) -> str:
    """Conditions and compounds that a metric is a mean over: the fewest and the most of any predictor; rows of a metric."""
    if rows.empty:
        return "0"
    conditions, compounds = (
        "–".join(f"{int(n):,}" for n in dict.fromkeys((rows[name].min(), rows[name].max()))) for name in ("n_conditions", "n_compounds")
    )
    return f"{conditions} ({compounds})"


def _holdouts(parts: Sequence[Part]) -> list[str]:
    lines: list[str] = []
    for part in _of(parts, "holdout_evaluation"):
        summary = part.tables.get("summary", pd.DataFrame())
        if summary.empty:
            continue
        variants = summary[summary["kind"] == "variant"]
        rows = []
        for dataset in summary["dataset"].unique():
            own = variants[variants["dataset"] == dataset]
            if own.empty:
                continue
            best = own.sort_values("test_rmse_mean").iloc[0]
            rmse = with_interval(best["test_rmse_mean"], best["test_rmse_low"], best["test_rmse_high"], _DIGITS)
            n_variants, n_wins = own["predictor"].nunique(), int(own["beats_best_baseline"].eq(other=True).sum())
            held_out = _drawn(best["n_clusters"], best["clustered_by"])
            rows.append(
                (
                    "all datasets" if dataset == "all_datasets" else dataset_label(str(dataset)),
                    f"{int(best['n_compounds']):,}",
                    f"{printed(best['predictor'])}: {rmse}",
                    "–"
                    if pd.isna(best["best_baseline"])
                    else f"{str(best['best_baseline']).replace('_', ' ')}: {number(best['best_baseline_rmse'], _DIGITS)}",
                    with_interval(best["difference"], best["difference_low"], best["difference_high"], _DIGITS),
                    held_out,
                    f"{n_wins} of {n_variants}" if best["n_clusters"] >= FEWEST_HELD_OUT else "*too few held out to tell*",
                )
            )
        head = (
            *("dataset", "held-out compounds", "best variant, test RMSE", "best baseline", "difference"),
            *("drawn for the interval", "variants that beat it"),
        )
        lines += [f"### {part.key[0].replace('_', ' ')}", "", markdown_table(head, rows), "", *_not_scored(part)]
    if not lines:
        return []
    return [
        "## Hold-outs",
        "",
        "Compounds held out of a dataset: eight ways to start, freeze and fine-tune a model, each chosen by a full pass over validation "
        "values of the dataset. Cells, assays and scaffolds: one model for all. Beside them the same baselines. Means over seeds; the best "
        "variant of a dataset is picked by its test score, so that its difference flatters it. A variant beats the best baseline where the "
        f"whole interval of the difference lies below 0 and {FEWEST_HELD_OUT} or more compounds, or groups held out as a whole, were "
        "drawn for it: that of fewer is far too narrow.",
        "",
        *lines,
    ]


def _drawn(n_clusters: int, clustered_by: str) -> str:
    """What an interval was drawn from, in words."""
    return plural(int(n_clusters), clustered_by, f"{clustered_by}s")


def _too_few(part: Part) -> pd.DataFrame:
    """A row of the summary of a hold-out for each dataset that has too few held out for anyone to win or lose."""
    summary = part.tables.get("summary", pd.DataFrame())
    if summary.empty:
        return summary
    few = (summary["kind"] == "variant") & (summary["n_clusters"] < FEWEST_HELD_OUT)
    return summary[few].drop_duplicates("dataset")


def _not_scored(part: Part) -> list[str]:
    """Datasets of a hold-out that have no score, by reason."""
    datasets = part.tables.get("datasets", pd.DataFrame(columns=["dataset", "outcome", "reason"]))
    reasons = datasets[datasets["outcome"] != "scored"].groupby("reason", sort=True)["dataset"].apply(list)
    said = [f"{listed([dataset_label(str(name)) for name in names])}: {reason}" for reason, names in reasons.items()]
    return [f"Not scored: {'; '.join(said)}.", ""] if said else []


def _op3(parts: Sequence[Part]) -> list[str]:
    lines: list[str] = []
    for part in _of(parts, "op3_evaluation"):
        summary = part.tables.get("summary", pd.DataFrame())
        if summary.empty:
            continue
        shown = summary[summary["corpus"].isna() & (summary["reference"] == "none")]
        metrics = list(dict.fromkeys(shown["metric"]))
        records = [{str(name): value for name, value in row.items()} for row in shown.to_dict("records")]
        by = {(row["descriptor"], row["mode"], row["metric"]): row for row in records}
        rows = [
            (descriptor, mode, *(_op3_cell(by.get((descriptor, mode, metric))) for metric in metrics))
            for descriptor, mode in dict.fromkeys(zip(shown["descriptor"], shown["mode"], strict=True))
        ]
        lines += [*([part.verdict, ""] if part.verdict else []), markdown_table(("descriptor", "mode", *metrics), rows), ""]
        lines += [
            "Each cell: mean over seeds, and in brackets the difference from no descriptor with its 95 % interval from resampling "
            "compounds. Of mrrmse and mae less is better.",
            "",
        ]
    return ["## OP3: compounds held out of single-cell immune data", "", *lines] if lines else []


def _op3_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    if pd.isna(row["difference"]):
        return number(row["mean"], _DIGITS)
    return f"{number(row['mean'], _DIGITS)} ({with_interval(row['difference'], row['low'], row['high'], _DIGITS)})"


def _places(parts: Sequence[Part]) -> list[str]:
    """Whether places in an embedding can be trusted: agreement of seeds, and closeness of mechanisms."""
    rows = []
    for part in _of(parts, "compound_embeddings"):
        stability, mechanisms = (part.tables.get(name, pd.DataFrame()) for name in ("stability", "mechanisms"))
        ten = stability[stability["k"] == (10 if (stability["k"] == 10).any() else stability["k"].max())] if len(stability) else stability
        together = mechanisms[mechanisms["seed"].isna()] if len(mechanisms) else mechanisms
        together = mechanisms if together.empty else together
        embeddings = part.tables.get("embeddings", pd.DataFrame({"symbol": [], "seed": []}))
        rows.append(
            (
                f"`{part.key[0]}`",
                printed(part.key[1]),
                f"{embeddings['symbol'].nunique():,}",
                f"{embeddings['seed'].nunique()}",
                f"{ten['common_share'].mean():.0%} ({ten['expected_share'].mean():.0%}), k = {int(ten['k'].iloc[0])}" if len(ten) else "–",
                *(_mechanism_cells(together) if len(together) else ("–", "–")),
            )
        )
    if not rows:
        return []
    head = (
        *("corpus", "model", "compounds", "seeds", "nearest neighbours that two seeds share (chance)"),
        *("nearest compound has the same mechanism (chance)", "cosine within mechanisms (chance), P"),
    )
    return [
        "## Can neighbours be trusted?",
        "",
        "Compounds lie near each other when a model uses them alike. Seeds that agree on neighbours, and neighbours that share a mechanism "
        "which no model was told, say that this is biology rather than accident. "
        "`python -m perturbridge_dagster.representation.lookup NAME` lists the neighbours of a compound, and how many seeds agree on each.",
        "",
        markdown_table(head, rows),
        "",
    ]


def _mechanism_cells(mechanisms: pd.DataFrame) -> tuple[str, str]:
    row = mechanisms.iloc[0]
    return (
        f"{row['nearest_share']:.0%} ({row['expected_nearest_share']:.0%}), {int(row['n_perturbations']):,} compounds",
        f"{number(row['same_cosine'])} ({number(row['expected_cosine'])}), P {'=' if row['p_value'] > 0.001 else '≤'} {row['p_value']:.2g}",
    )


def _limits(parts: Sequence[Part]) -> list[str]:
    few = []
    for part in _of(parts, "compound_embeddings"):
        profiles = all_datasets(part.tables.get("profile_scores", pd.DataFrame({"dataset": [], "split": [], "n_compounds": []})))
        n = profiles.loc[profiles["split"] == "test", "n_compounds"].max()
        if pd.notna(n) and n < FEW_COMPOUNDS:
            few.append(f"{part.key[0]} {part.key[1]} ({int(n)})")
    too_few = [
        f"{part.key[0].replace('_', ' ')} ({listed([dataset_label(str(name)).replace('_', ' ') for name in rows['dataset']])})"
        for part in _of(parts, "holdout_evaluation")
        if len(rows := _too_few(part))
    ]
    said = [
        f"**Too few held out** for anyone to win or lose, in hold-outs by {listed(too_few)}: it takes {FEWEST_HELD_OUT}."
        if too_few
        else "",
        f"**Few held-out compounds** in {listed(few)}: their intervals are unreliable." if few else "",
        "**One split.** Seeds change the start of a model and the order of its data, not which conditions are held out: their spread "
        "understates what another draw of compounds would give.",
        "**The scalar split asks little.** Its compounds are trained elsewhere. Compounds that are trained nowhere are tested by the "
        "hold-out by scaffold alone; those by molecule and by parent test compounds unseen in their dataset.",
        "**Effects are estimates.** A model is scored against measured log fold changes, noise included; no model can reach an RMSE of 0.",
        "**Mechanisms are what sources say**: the same one in other words counts as another, and most compounds have none.",
    ]
    return ["## Limits", "", *(f"- {line}" for line in said if line), ""]


def _hold_out_words(won: pd.Series, few: pd.DataFrame) -> str:
    """Where a variant or model beats the best baseline.

    Parameters
    ----------
    won
        Dataset → whether one does.
    few
        Of :func:`_too_few`; those datasets are not judged.
    """
    pooled = "all_datasets" in won
    if pooled:
        won, few = won[["all_datasets"]], few[few["dataset"] == "all_datasets"]
    judged = won.drop(few["dataset"])
    n_few = listed([f"{n:,}" for n in few["n_clusters"]]) if len(few) else ""
    if judged.empty:
        return f"too few {few['clustered_by'].iloc[0]}s are held out ({n_few}) to tell; it takes {FEWEST_HELD_OUT}"
    if pooled:
        return f"{'a model beats' if judged.all() else '**no** model beats'} the best baseline on all datasets together"
    datasets = plural(len(judged), "dataset", "datasets")
    words = (
        f"a variant beats the best baseline in {int(judged.sum())} of {datasets}"
        if judged.any()
        else f"**no** variant beats the best baseline in any of {datasets}"
    )
    return f"{words}; in {len(few)} more too few are held out ({n_few}) to tell" if len(few) else words


def _in_short(parts: Sequence[Part], found: pd.DataFrame) -> list[str]:
    said = []
    for (corpus, model), of in _test_rows(found).groupby(["corpus", "model"], sort=False) if len(found) else ():
        worst = of[of["verdict"] != "better"]
        if (of["verdict"] == "too few compounds").all():
            said.append(
                f"**{printed(str(model))}** on corpus `{corpus}`: too few compounds are held out to tell it from the baselines; it takes "
                f"{FEWEST_HELD_OUT}."
            )
        elif worst.empty:
            said.append(f"**{printed(str(model))}** on corpus `{corpus}` predicts held-out effects better than every baseline.")
        else:
            names = listed([str(name).replace("_", " ") for name in worst["baseline"]])
            said.append(f"**{printed(str(model))}** on corpus `{corpus}` does **not** beat {names}.")
    for part in _of(parts, "holdout_evaluation"):
        summary = part.tables.get("summary", pd.DataFrame())
        variants = summary[summary["kind"] == "variant"] if len(summary) else summary
        if len(variants):
            won = variants["beats_best_baseline"].eq(other=True).groupby(variants["dataset"]).any()
            said.append(f"Hold-out by {part.key[0].replace('_', ' ')}: {_hold_out_words(won, _too_few(part))}.")
    return ["## In short", "", *(f"- {line}" for line in said), ""] if said else []


def representation_report(parts: Sequence[Part], sources: pd.DataFrame, *, left_out: Sequence[str] = ()) -> str:
    """What corpora, models and their evaluations say, on one page.

    Parameters
    ----------
    parts
        Every output there is, in the order of the flow.
    sources
        Table REPRESENTATION_PARTS of the contract: the same outputs.
    left_out
        What should have been in the report and is not, with the reason.

    Returns
    -------
    Markdown.
    """
    parts = sorted(parts, key=lambda part: (tuple(TABLES).index(part.stage), part.key[0] != "all", part.key[:1], _place(part.key[-1])))
    found = verdicts(parts)
    lines = [
        "# What do models learn from the compendium, and is it worth it?",
        "",
        *_in_short(parts, found),
        *_data(parts, sources, left_out),
        *_splits(parts),
        *_models(parts, found),
        *_holdouts(parts),
        *_op3(parts),
        *_places(parts),
        *_limits(parts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _place(model: str) -> int:
    return MODELS.index(model) if model in MODELS else len(MODELS)


def report_pictures(parts: Iterable[Part]) -> dict[str, bytes]:
    """Caption → picture, of those that the page shows: the embeddings of the whole compendium, hold-outs and OP3."""
    shown: dict[str, bytes] = {}
    for part in parts:
        if part.stage == "compound_embeddings" and part.key[0] == "all":
            shown |= {
                f"{printed(part.key[1])}, corpus {part.key[0]}: {picture.caption[0].lower()}{picture.caption[1:]}": part.pictures[name]
                for name, picture in PICTURES.items()
                if name in part.pictures
            }
        elif part.stage == "holdout_evaluation" and "rmse" in part.pictures:
            shown[f"Hold-out by {part.key[0].replace('_', ' ')}: test RMSE"] = part.pictures["rmse"]
        elif part.stage == "op3_evaluation" and "differences" in part.pictures:
            shown["OP3: descriptors beside none"] = part.pictures["differences"]
    return shown
