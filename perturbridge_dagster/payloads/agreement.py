"""The tasks of agreement: matches, scores of pairs of datasets and of replicates, and what they say together.

Belongs here: which files these outputs have. Does not belong here: computation (``perturbridge_dagster/agreement``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.payloads.outputs import stamp_of_effects, write_figure
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import read_parquet, write_json, write_parquet

if TYPE_CHECKING:
    import pandas as pd

    from perturbridge_dagster.agreement.pair_scores import ScoreOptions
    from perturbridge_dagster.agreement.signatures import StratumEffects
    from perturbridge_dagster.contract import Table
    from perturbridge_dagster.written import Stamp

log = logging.getLogger("perturbridge")


def _effects(request: Request, *datasets: str) -> tuple[dict[str, dict[str, StratumEffects]], pd.Series[int]]:
    """Stored effects among the inputs of a request, by dataset and stratum, with one id for what counts as one compound; and these ids."""
    from perturbridge_dagster.agreement.compounds import one_compound_each
    from perturbridge_dagster.effects.storage import open_effects

    stored = {
        dataset: {name.split("/")[1]: open_effects(request.path(name)) for name in request.inputs if name.startswith(f"{dataset}/")}
        for dataset in datasets
    }
    return one_compound_each(stored, request.arguments["compound"])


def matched_conditions(request: Request, folder: Path) -> None:
    """Match the conditions of two datasets: ``matched.parquet``, ``strata.parquet`` with counts, ``report.json``."""
    from perturbridge_dagster.agreement.matching import match_strata, matched_strata_report
    from perturbridge_dagster.agreement.overlap import overlap
    from perturbridge_dagster.contract import MATCHED_CONDITIONS, MATCHED_STRATA

    left, right, gap, compound = (request.arguments[name] for name in ("left", "right", "max_log10_dose_gap", "compound"))
    datasets, _ = _effects(request, left, right)
    strata = (datasets[left], datasets[right])
    matched = match_strata(*strata, left_dataset=left, right_dataset=right, max_log10_dose_gap=gap)
    stamp = stamp_of_effects(request)
    write_parquet(folder / "matched.parquet", matched, MATCHED_CONDITIONS, stamp)
    write_parquet(folder / "strata.parquet", matched_strata_report(matched), MATCHED_STRATA, stamp)
    shared = overlap(*strata)._asdict()
    write_json(
        folder / "report.json",
        {"max_log10_dose_gap": gap, "compound": compound, "left_out": request.arguments["left_out"], "overlap": shared},
    )


def _score_options(request: Request) -> ScoreOptions:
    """What scoring takes of the arguments of a request."""
    from perturbridge_dagster.agreement.metrics import METRICS
    from perturbridge_dagster.agreement.pair_scores import ScoreOptions

    chosen, fewest = request.arguments, int(request.arguments["minimum_significant_genes"])
    of_significant = [name for name, metric in METRICS.items() if "log10_adj_p_within" in metric.layers]
    return ScoreOptions(
        n_peers=chosen["n_peers"],
        centroid=chosen["centroid"],
        minimum_genes=dict.fromkeys(of_significant, fewest) if fewest else {},
    )


def _write(folder: Path, stage: str, tables: Mapping[str, tuple[pd.DataFrame, Table]], stamp: Stamp) -> dict[str, bytes]:
    """Write tables and the pictures that are drawn from them, which are returned."""
    from perturbridge_dagster.agreement.gallery import draw_all

    for name, (table, fields) in tables.items():
        write_parquet(folder / f"{name}.parquet", table, fields, stamp)
    pictures = draw_all(stage, {name: table for name, (table, _) in tables.items()})
    for name, png in pictures.items():
        write_figure(folder, f"{name}.png", png)
    return pictures


def _weighted(scores: pd.DataFrame, conditions: pd.DataFrame, request: Request) -> pd.DataFrame:
    """Scores with the weight that each match has, where the request asks for one: its pairs of samples."""
    if not request.arguments["sample_weights"]:
        return scores
    from perturbridge_dagster.agreement.compendium import MATCH

    weights = conditions[MATCH].assign(weight=conditions["left_n_samples"] * conditions["right_n_samples"])
    return scores.merge(weights, on=MATCH, how="left", validate="many_to_one")


def cross_dataset_agreement(request: Request, folder: Path) -> None:
    """Score matched conditions, and search them among each other: conditions, scores, queries, and their means at each level.

    ``conditions``, ``scores``, ``units``, ``cell_contexts``, ``pair``, ``strength``; ``retrieval_queries``, ``retrieval_pools``,
    ``retrieval_strata``, ``retrieval_pair``, ``retrieval_cell_contexts``, all Parquet; ``report.md``, and figures.
    """
    from perturbridge_dagster import contract
    from perturbridge_dagster.agreement import summary
    from perturbridge_dagster.agreement.report import pair_report
    from perturbridge_dagster.agreement.retrieval import retrieve
    from perturbridge_dagster.agreement.retrieval_summary import retrieval_pair, retrieval_strata
    from perturbridge_dagster.agreement.scoring import score_matched
    from perturbridge_dagster.agreement.strength import agreement_strength

    datasets, _ = _effects(request, *(request.arguments[side] for side in ("left", "right")))
    left, right = datasets.values()
    matched = read_parquet(request.path("matched") / "matched.parquet", "matched_conditions")
    conditions, scores = score_matched(matched, left, right, options=_score_options(request))
    log.info("scored %d matched conditions", len(matched))
    found = retrieve(matched, left, right, max_log10_dose_gap=request.arguments["max_log10_dose_gap"])
    log.info("searched %d queries", len(found.queries))
    units = summary.agreement_units(_weighted(scores, conditions, request))
    pair = summary.agreement_summary(units)
    tables = {
        "conditions": (conditions, contract.AGREEMENT_CONDITIONS),
        "scores": (scores, contract.AGREEMENT_SCORES),
        "units": (units, contract.AGREEMENT_UNITS),
        "cell_contexts": (summary.agreement_summary(units, by_cell_context=True), contract.AGREEMENT_SUMMARY),
        "pair": (pair, contract.AGREEMENT_SUMMARY),
        "strength": (agreement_strength(conditions, scores), contract.AGREEMENT_STRENGTH),
        "retrieval_queries": (found.queries, contract.RETRIEVAL_QUERIES),
        "retrieval_pools": (found.pools, contract.RETRIEVAL_POOLS),
        "retrieval_strata": (retrieval_strata(found.queries), contract.RETRIEVAL_STRATA),
        "retrieval_pair": (retrieval_pair(found.queries), contract.RETRIEVAL_PAIR),
        "retrieval_cell_contexts": (retrieval_pair(found.queries, by_cell_context=True), contract.RETRIEVAL_PAIR),
    }
    _write(folder, request.task, tables, stamp_of_effects(request))
    (folder / "report.md").write_text(pair_report(pair))


def replicate_agreement(request: Request, folder: Path) -> None:
    """Score the replicates of a dataset, and search them among each other; tables as Parquet, ``report.md``, and figures.

    ``pairs``, ``scores``, ``conditions``, ``cell_contexts``, ``dataset``; ``retrieval_queries``, ``retrieval_pools``,
    ``retrieval_dataset``, ``retrieval_cell_contexts``.
    """
    from perturbridge_dagster import contract
    from perturbridge_dagster.agreement import summary
    from perturbridge_dagster.agreement.replicate_retrieval import retrieve_replicates
    from perturbridge_dagster.agreement.replicates import score_replicates
    from perturbridge_dagster.agreement.report import replicates_report
    from perturbridge_dagster.agreement.retrieval_summary import replicate_retrieval_summary

    dataset = request.arguments["dataset"]
    datasets, _ = _effects(request, dataset)
    strata = datasets[dataset]
    pairs, scores = score_replicates(strata, dataset, options=_score_options(request))
    log.info("scored %d pairs of replicates", len(pairs))
    found = retrieve_replicates(strata, dataset, max_log10_dose_gap=request.arguments["max_log10_dose_gap"])
    log.info("searched %d queries", len(found.queries))
    conditions = summary.replicate_conditions(scores, pairs)
    overall = summary.replicate_summary(conditions)
    tables = {
        "pairs": (pairs, contract.REPLICATE_PAIRS),
        "scores": (scores, contract.REPLICATE_SCORES),
        "conditions": (conditions, contract.REPLICATE_CONDITIONS),
        "cell_contexts": (summary.replicate_summary(conditions, by_cell_context=True), contract.REPLICATE_SUMMARY),
        "dataset": (overall, contract.REPLICATE_SUMMARY),
        "retrieval_queries": (found.queries, contract.REPLICATE_RETRIEVAL_QUERIES),
        "retrieval_pools": (found.pools, contract.REPLICATE_RETRIEVAL_POOLS),
        "retrieval_dataset": (replicate_retrieval_summary(found.queries), contract.REPLICATE_RETRIEVAL_SUMMARY),
        "retrieval_cell_contexts": (
            replicate_retrieval_summary(found.queries, by_cell_context=True),
            contract.REPLICATE_RETRIEVAL_SUMMARY,
        ),
    }
    _write(folder, request.task, tables, stamp_of_effects(request))
    (folder / "report.md").write_text(replicates_report(overall))


# ---- all datasets ------------------------------------------------------------------------------------------------------------


def _joined(request: Request, kind: str, file: str, stage: str) -> pd.DataFrame:
    """One table of all inputs of a kind."""
    import pandas as pd

    names = sorted(name for name in request.inputs if name.startswith(f"{kind}:"))
    tables = [read_parquet(request.path(name) / f"{file}.parquet", stage) for name in names]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def compendium_agreement(request: Request, folder: Path) -> None:
    """What agreement says of all datasets together: tables as Parquet, figures, ``report.md`` and ``report.html``.

    ``scores``, ``units``, ``pairs`` and ``cell_contexts`` over each gene universe; ``conditions``, ``overlaps``, ``strength``,
    ``retrieval``; ``variants`` and ``variant_report`` of the named options, ``surviving`` a minimum of genes; ``replicates``,
    ``replicate_cell_contexts``, ``replicate_conditions``, ``replicate_support``; ``table_4`` to ``table_10``; ``datasets.json`` with
    the datasets it is of.
    """
    import pandas as pd

    from perturbridge_dagster import contract
    from perturbridge_dagster.agreement import compendium, summary
    from perturbridge_dagster.agreement.compounds import with_ids
    from perturbridge_dagster.agreement.gallery import PICTURES
    from perturbridge_dagster.agreement.labels import HEADLINE_METRICS
    from perturbridge_dagster.agreement.report import compendium_report
    from perturbridge_dagster.agreement.sensitivity import surviving_scores, z_scored
    from perturbridge_dagster.agreement.strength import agreement_strength
    from perturbridge_dagster.reports import to_html

    datasets, ids = _effects(request, *request.arguments["datasets"])
    matches = with_ids(_joined(request, "matched", "matched", "matched_conditions"), ids)
    conditions, pairwise, units, pairs, cell_contexts, retrieval = (
        _joined(request, "scores", name, "cross_dataset_agreement")
        for name in ("conditions", "scores", "units", "pair", "cell_contexts", "retrieval_pair")
    )
    replicates, replicate_cell_contexts, replicate_conditions = (
        _joined(request, "replicates", name, "replicate_agreement") for name in ("dataset", "cell_contexts", "conditions")
    )
    # a pair of datasets, or one, may know fewer of the compounds that are one
    conditions, pairwise, units, replicate_conditions = (
        with_ids(table, ids) for table in (conditions, pairwise, units, replicate_conditions)
    )
    replicate_conditions = replicate_conditions[replicate_conditions["metric"].isin(HEADLINE_METRICS)]
    options = _score_options(request)

    scores = compendium.rescored_universes(matches, datasets, options)
    log.info("scored %d matched conditions over other genes", len(matches))
    further = summary.agreement_units(_weighted(scores, conditions, request))
    scores, units = pd.concat([pairwise, scores], ignore_index=True), pd.concat([units, further], ignore_index=True)
    pairs = pd.concat([pairs, summary.agreement_summary(further)], ignore_index=True)
    cell_contexts = pd.concat([cell_contexts, summary.agreement_summary(further, by_cell_context=True)], ignore_index=True)

    variants = compendium.variants(matches)
    of_pairs = pairs[pairs["gene_universe"] == "pairwise"]
    summaries = compendium.variant_summaries(_weighted(pairwise, conditions, request), of_pairs, matches, variants)
    z_scores = compendium.rescored(matches, {name: z_scored(strata) for name, strata in datasets.items()}, options)
    summaries = pd.concat([summaries, compendium.z_score_summary(_weighted(z_scores, conditions, request))], ignore_index=True)
    log.info("summarised %d named options", summaries["variant"].nunique())
    supported, support = compendium.published_replicates(replicate_conditions, datasets)
    replicate_summaries = {"all": replicates, "published": summary.replicate_summary(supported)}
    published_retrieval = _published_retrieval(variants["published"], datasets)
    overlaps = compendium.dataset_overlaps(conditions, variants, replicate_conditions)
    strength = agreement_strength(conditions, pairwise, together=True)

    tables = {
        "conditions": (conditions, contract.AGREEMENT_CONDITIONS),
        "scores": (scores, contract.AGREEMENT_SCORES),
        "units": (units, contract.AGREEMENT_UNITS),
        "pairs": (pairs, contract.AGREEMENT_SUMMARY),
        "cell_contexts": (cell_contexts, contract.AGREEMENT_SUMMARY),
        "replicates": (replicates, contract.REPLICATE_SUMMARY),
        "replicate_cell_contexts": (replicate_cell_contexts, contract.REPLICATE_SUMMARY),
        "replicate_conditions": (replicate_conditions, contract.REPLICATE_CONDITIONS),
        "replicate_support": (support, contract.REPLICATE_SUPPORT),
        "overlaps": (overlaps, contract.DATASET_OVERLAPS),
        "strength": (strength, contract.AGREEMENT_STRENGTH),
        "retrieval": (retrieval, contract.RETRIEVAL_PAIR),
        "variants": (summaries, contract.AGREEMENT_VARIANT_SUMMARY),
        "variant_report": (compendium.variant_report(matches, variants), contract.AGREEMENT_VARIANT_REPORT),
        "surviving": (surviving_scores(pairwise), contract.AGREEMENT_SURVIVING),
        **{f"table_{n}": (compendium.paper_table(summaries, n), contract.AGREEMENT_TABLE) for n in compendium.PAPER_TABLES},
        **{
            f"table_{n}": (compendium.replicate_table(replicate_summaries, n), contract.REPLICATE_TABLE)
            for n in compendium.REPLICATE_TABLES
        },
        "table_9": (compendium.retrieval_table({"all": retrieval, "published": published_retrieval}), contract.AGREEMENT_TABLE),
    }
    stamp = stamp_of_effects(request)
    pictures = _write(folder, request.task, tables, stamp)
    report = compendium_report(
        of_pairs,
        replicates,
        overlaps,
        conditions,
        summaries,
        strength,
        retrieval,
        tables["surviving"][0],
        datasets=request.arguments["datasets"],
        simulated=stamp.simulated,
    )
    (folder / "report.md").write_text(report)
    captions = {picture.caption: pictures[name] for name, picture in PICTURES[request.task].items()}
    (folder / "report.html").write_text(to_html(report, captions))
    write_json(folder / "datasets.json", {"datasets": request.arguments["datasets"], "left_out": request.arguments["left_out"]})


def _published_retrieval(matches: pd.DataFrame, datasets: Mapping[str, Mapping[str, StratumEffects]]) -> pd.DataFrame:
    """Retrieval summary as Table 9 of the paper has it: candidates are what is matched with any dataset."""
    import pandas as pd

    from perturbridge_dagster.agreement.retrieval import matched_conditions_of, retrieve
    from perturbridge_dagster.agreement.retrieval_summary import retrieval_pair
    from perturbridge_dagster.contract import RETRIEVAL_QUERIES

    queries = [pd.DataFrame(columns=RETRIEVAL_QUERIES.names)]
    for names, rows in matches.groupby(["left_dataset", "right_dataset"], sort=True):
        left, right = map(str, names)
        retained = (matched_conditions_of(matches, left), matched_conditions_of(matches, right))
        found = retrieve(
            rows,
            datasets[left],
            datasets[right],
            retained=retained,
            representations=("logFC",),
            similarities=("euclidean",),
        )
        queries.append(found.queries)
    return retrieval_pair(pd.concat([table for table in queries if len(table)] or queries, ignore_index=True))
