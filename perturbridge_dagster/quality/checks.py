"""The rules of every check, and where they look in a stage's output.

One function a stage: output folder → check name → findings. Fields of the contract bring their own rules; what is written here are
the rules between fields and tables. Belongs here: what must hold. Does not belong here: how a rule is evaluated (``suites.py``)
or shown (``assets/checks.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.contract import (
    DROPPED_GENES,
    GENE_FILTER,
    HARMONIZED_OBS,
    HARMONIZED_VAR,
    PUBLISHED_COMPARISON,
    PUBLISHED_GENES,
    PUBLISHED_STRATA,
    PUBLISHED_UNMATCHED,
    RECONCILIATION,
    STRATA,
    CheckFamily,
    Table,
    version_numbers,
)
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.quality import agreement, holdout, op3, representation
from perturbridge_dagster.quality.defects import (
    controls_by_plate,
    doses_off_the_grid,
    headers_as_genes,
    lost_conditions,
    perturbagen_names,
)
from perturbridge_dagster.quality.rules import Findings, at_least, equal, not_empty, unique_together
from perturbridge_dagster.quality.suites import Finding, Rule, table_rules, validate
from perturbridge_dagster.written import read_parquet, read_stamp

if TYPE_CHECKING:
    import pandas as pd

    from perturbridge_dagster.effects.storage import StoredEffects

MINIMUM_IDENTIFIED_SHARE = 0.5
"""Share of identified treated samples below which identity resolution has gone wrong rather than met unknown compounds."""

LITTLE_SUPPORT = 0.02
"""Share of samples at or above the filter's cut-off below which a tested gene has little support: in whole strata, noise mostly. In
small strata, fewer than two samples are little."""

MOST_WITH_LITTLE_SUPPORT = 0.1
"""Share of the tested genes that may have little support."""


# ---- source files ------------------------------------------------------------------------------------------------------------


def source_files(folder: Path) -> Findings:
    """Whether the native files are still those that were recorded."""
    from perturbridge_dagster.sources import changed_files

    location = Path(json.loads((folder / "source_files.json").read_text())["folder"])
    files = read_parquet(folder / "source_files.parquet", "source_files")
    unchanged = ~files["name"].isin(changed_files(location, files))
    rule = equal("every native file is as it was recorded", "unchanged", True)
    return {"files_unchanged": validate(files.assign(unchanged=unchanged), [rule], ["name", "bytes"])}


# ---- harmonized samples ------------------------------------------------------------------------------------------------------


def harmonized_samples(folder: Path) -> Findings:
    """The six families of checks on a harmonized dataset, and what the registry expects of the full source."""
    obs, var, strata, reconciliation = (
        read_parquet(folder / f"{name}.parquet", "harmonized_samples") for name in ("obs", "var", "strata", "reconciliation")
    )
    dataset, version = str(obs["dataset"].iloc[0]), read_stamp(folder / "obs.parquet").contract_version
    table = _obs_table(dataset).as_of(version)
    key = ["sample_id", "perturbagen", "cell_type"]
    treated, controls = obs[~obs["is_control"]], obs[obs["is_control"]]
    with_dropped_genes = version_numbers(version) >= version_numbers("1.2")

    def fields(family: CheckFamily) -> list[Finding]:
        found = validate(obs, table_rules(table, family), key)
        return found + validate(var, table_rules(HARMONIZED_VAR, family), ["ensembl_id", "source_gene_id"])

    dropped_genes = read_parquet(folder / "dropped_genes.parquet", "harmonized_samples") if with_dropped_genes else None
    return {
        "schema": fields("schema") + validate(obs, [_columns(table)], []) + validate(strata, table_rules(STRATA), ["stratum"]),
        "identity": fields("identity") + perturbagen_names(obs) + headers_as_genes(var, dropped_genes, reconciliation),
        "chemistry": fields("chemistry") + validate(_chemistry(treated), _CHEMISTRY_RULES, ["dataset"]),
        "dose_time": fields("dose_time")
        + validate(controls, [equal("controls have dose 0", "pert_dose_uM", 0.0)], key)
        + validate(treated, [at_least("treated samples have a positive dose", "pert_dose_uM", 0, strictly=True)], key)
        + (
            validate(_nominal_doses(obs), _NOMINAL_RULES, [*key, "pert_dose_uM"]) + doses_off_the_grid(obs)
            if "nominal_dose_uM" in table.names
            else []
        ),
        "controls": fields("controls")
        + validate(strata, [at_least("every stratum has vehicle controls", "n_controls", 1)], ["stratum", "n_treated"])
        + validate(_controls_by_time(obs), _CONTROL_RULES, ["cell_type", "pert_time_h", "n_treated"])
        + controls_by_plate(obs),
        "counts": fields("counts")
        + validate(reconciliation, table_rules(RECONCILIATION), ["step", "rule"])
        + validate(_reconciled(reconciliation, obs, var), [equal("the reconciliation adds up", "adds_up", True)], ["axis", "rule"])
        + lost_conditions(reconciliation)
        + (_dropped_genes(dropped_genes, reconciliation) if dropped_genes is not None else []),
        "expectations": _expectations(dataset, folder),
    }


_CHEMISTRY_RULES = [
    at_least(
        f"at least {MINIMUM_IDENTIFIED_SHARE:.0%} of treated samples have a PubChem id or a structure",
        "share_identified",
        MINIMUM_IDENTIFIED_SHARE,
    ),
    at_least("at least 90% of treated samples have a PubChem id", "share_with_cid", 0.9, severity="warning"),
]
_CONTROL_RULES = [at_least("every treated time of a cell context has controls of that time", "n_controls", 1, severity="warning")]


_NOMINAL_RULES = [equal("every sample has a nominal dose, within 7 % of its dose", "is_near", True)]


def _obs_table(dataset: str) -> Table:
    """Table of samples of a dataset; the contract's own where nothing is registered under the id."""
    from perturbridge_dagster.registry import dataset as registered

    try:
        return registered(dataset).obs_table
    except InputError:
        return HARMONIZED_OBS


def _columns(table: Table) -> Rule:
    return Rule(
        "samples have the columns of the contract and those that the registry declares, and no others",
        "ExpectTableColumnsToMatchSet",
        {"column_set": table.names, "exact_match": True},
    )


def _nominal_doses(obs: pd.DataFrame) -> pd.DataFrame:
    """Whether each nominal dose is near the dose; zeros are near each other only."""
    import numpy as np

    from perturbridge_dagster.identity.doses import NOMINAL_GAP

    # a reader's own nominal dose may stand at the other end of the doses within the gap; half a unit of the fourth digit beside it
    limit = 10 ** (2 * NOMINAL_GAP) * 1.0006
    low, high = obs["pert_dose_uM"] / limit, obs["pert_dose_uM"] * limit
    return obs.assign(is_near=np.asarray((obs["nominal_dose_uM"] >= low) & (obs["nominal_dose_uM"] <= high), dtype=bool))


def _dropped_genes(dropped: pd.DataFrame, reconciliation: pd.DataFrame) -> list[Finding]:
    """Whether every gene that a rule of the reconciliation lost is listed with its reason."""
    import pandas as pd

    from perturbridge_dagster.identity.genes import NO_CURRENT_GENE, SHARED_IN_VALUES
    from perturbridge_dagster.sources.assemble import NOT_EVERYWHERE

    steps = reconciliation[reconciliation["rule"].str.startswith((NO_CURRENT_GENE, SHARED_IN_VALUES, NOT_EVERYWHERE))]
    rules = steps.groupby("rule")["n_dropped"].sum().reset_index()
    # that rule counts current genes, of which several source genes may be one
    current = dropped["reason"] == "not in every file"
    listed = pd.concat([dropped[~current], dropped[current].drop_duplicates(["file", "ensembl_id"])])["rule"].value_counts()
    rules["n_listed"] = rules["rule"].map(listed).fillna(0).astype("int64")
    rules["all_listed"] = rules["n_listed"] == rules["n_dropped"]
    return [
        *validate(dropped, table_rules(DROPPED_GENES), ["file", "source_gene_id"]),
        *validate(
            dropped.assign(is_counted=dropped["rule"].isin(rules["rule"])),
            [equal("every dropped gene is counted by a rule of the reconciliation", "is_counted", True)],
            ["file", "source_gene_id", "rule"],
        ),
        *validate(
            rules, [equal("every gene that a rule lost is listed with its reason", "all_listed", True)], ["rule", "n_dropped", "n_listed"]
        ),
    ]


def _expectations(dataset: str, folder: Path) -> list[Finding]:
    """One finding a count that is compared; its rule is the comparison as a sentence."""
    from perturbridge_dagster.quality.expectations import compare_harmonized, comparison_table

    table = comparison_table(compare_harmonized(dataset, folder))
    table["differs"] = table["verdict"] == "differs"
    return [
        finding
        for row, words in enumerate(table["words"])
        for finding in validate(
            table.iloc[[row]], [equal(words, "differs", False, "warning")], ["quantity", "stratum", "published", "expected", "observed"]
        )
    ]


def _chemistry(treated: pd.DataFrame) -> pd.DataFrame:
    """Shares of treated samples with a PubChem id, and with that or a structure: compounds of a laboratory's own are in no public list."""
    known = treated[["dataset"]].assign(
        share_with_cid=treated["pubchem_cid"].notna(),
        share_identified=treated["pubchem_cid"].notna() | treated["inchikey"].notna(),
    )
    return known.groupby("dataset").mean().reset_index()


def _controls_by_time(obs: pd.DataFrame) -> pd.DataFrame:
    """Treated and control samples by cell context and time, where there are treated samples."""
    counts = obs.groupby(["cell_type", "pert_time_h"])["is_control"].agg(n_controls="sum", n="size").reset_index()
    counts["n_treated"] = counts.pop("n") - counts["n_controls"]
    return counts[counts["n_treated"] > 0]


def _reconciled(reconciliation: pd.DataFrame, obs: pd.DataFrame, var: pd.DataFrame) -> pd.DataFrame:
    """Whether each step starts where the last one of its axis ended, and the last ones end at the tables."""
    steps = reconciliation.sort_values("step")
    previous = steps.groupby("axis")["n_out"].shift()
    own = steps["n_in"] - steps["n_dropped"] == steps["n_out"]
    chained = previous.isna() | (previous == steps["n_in"])
    last = ~steps.duplicated("axis", keep="last")
    conditions = obs[["perturbagen", "cell_type", "pert_dose_uM", "pert_time_h"]].drop_duplicates()
    ends = steps["axis"].map({"samples": len(obs), "genes": len(var), "conditions": len(conditions)})
    fits = ~last | ends.isna() | (ends == steps["n_out"])
    return steps.assign(adds_up=own & chained & fits)


# ---- effects -----------------------------------------------------------------------------------------------------------------


def effects(folder: Path) -> Findings:
    """Checks on the effects of one stratum, through the profile that was written in the same pass as the table."""
    from perturbridge_dagster.effects.storage import STAGES, open_effects

    stored = open_effects(folder)
    profile = read_parquet(folder / "profile.parquet", STAGES)
    profile = profile.assign(complete=profile["count"] == len(stored.contrasts) * len(stored.genes))
    probabilities = profile[profile["layer"].str.startswith("log10_")]
    values = validate(profile, [equal("every layer has a value or a null for each contrast × gene", "complete", True)], ["layer", "count"])
    bound = {"column": "maximum", "max_value": 0.0}
    values += validate(probabilities, [Rule("P values are at most 1", "ExpectColumnValuesToBeBetween", bound)], ["layer", "maximum"])
    finite = [equal("values that are not null are finite", "infinite", 0)]
    values += validate(profile, finite, ["layer", "infinite"])
    values += validate(stored.contrasts, [not_empty("there is at least one contrast")], [])
    if stored.stamp.contract_version != "1.0":  # which knew no such table
        values += _filtered_genes(stored, read_parquet(folder / "gene_filter.parquet", STAGES))
    return {"values": values, "estimable": _estimable(stored), "gene_support": [_gene_support(stored)]}


def _filtered_genes(stored: StoredEffects, given: pd.DataFrame) -> list[Finding]:
    """Whether the genes that the filter kept are those that were tested."""
    both = given[["ensembl_id", "kept", "support"]].merge(
        stored.genes[["ensembl_id", "support"]], on="ensembl_id", how="outer", suffixes=("", "_tested"), indicator="tables"
    )
    tested = both["tables"] != "left_only"
    same_support = (both["support"] == both["support_tested"]).fillna(False) | (both["support"].isna() & both["support_tested"].isna())
    both["agrees"] = (both["kept"].eq(True) == tested) & (~tested | same_support)
    agree = equal("the genes that were tested are those that the filter kept, with the same support", "agrees", True)
    key = ["ensembl_id", "kept", "support", "support_tested"]
    return validate(given, table_rules(GENE_FILTER), ["ensembl_id", "symbol"]) + validate(both, [agree], key)


def _estimable(stored: StoredEffects) -> list[Finding]:
    """Contrasts that cannot be estimated, with the plates of the components in which condition and controls lie."""
    contrasts = stored.contrasts
    plates = {number: _shortened(names) for number, names in enumerate(stored.info["design"].get("components", []))}
    for side in ("component", "control_component"):
        if side in contrasts:
            contrasts = contrasts.assign(**{f"{side}_plates": contrasts[side].map(plates)})
    key = ["contrast", "perturbagen", "pert_dose_uM", "pert_time_h", "sample_id", "plates", "control", "control_plates"]
    rule = equal("the contrast is estimable", "estimable", True, "warning")
    findings = validate(contrasts, [rule], [*key, "component_plates", "control_component_plates"])
    words = "condition and controls share no chain of plates in {:,} of {:,} contrasts"
    return [finding if finding.passed else replace(finding, note=words.format(finding.n_failing, len(contrasts))) for finding in findings]


def _shortened(names: Sequence[str]) -> str:
    """Names joined; of many, the first ten."""
    return "; ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")


def _gene_support(stored: StoredEffects) -> Finding:
    """Whether many of the tested genes have little support, and what the gene filter asked for."""
    import pandas as pd

    rule = Rule(
        f"at most {MOST_WITH_LITTLE_SUPPORT:.0%} of the tested genes have little support",
        "ExpectColumnValuesToBeBetween",
        {"column": "share_with_little_support", "max_value": MOST_WITH_LITTLE_SUPPORT},
        "warning",
    )
    used = stored.info.get("gene_filter")
    if stored.info["normalized"] or not isinstance(used, dict) or used["min_samples"] is None:
        note = "normalized values are not filtered" if stored.info["normalized"] else "these effects do not say what the filter asked for"
        return Finding(rule, True, 0, pd.DataFrame(), note)
    n_samples = stored.info["design"]["n_samples"]
    least = max(2.0, LITTLE_SUPPORT * n_samples)
    n_weak = int((stored.genes["support"] < least).sum())
    judged = pd.DataFrame([used]).assign(share_with_little_support=n_weak / max(len(stored.genes), 1))
    [finding] = validate(judged, [rule], ["rule", "min_samples", "n_kept", "n_given", "cut_off_cpm"])
    note = (
        f"{n_weak:,} of {len(stored.genes):,} reach the cut-off of the filter in fewer than {least:g} of {n_samples:,} samples; "
        f"it asked for {used['min_samples']:.3g}"
    )
    more = "supported_share asks for more" if used["rule"] == "supported" else 'gene_filter="supported" asks for a share of the samples'
    return replace(finding, note=note if finding.passed else f"{note}; {more}")


# ---- published ---------------------------------------------------------------------------------------------------------------


LEAST_PUBLISHED_AGREEMENT = 0.9
"""Median Spearman correlation of logFC with the published effects below which, unexplained, one of the two has gone wrong."""


def published_comparison(folder: Path) -> Findings:
    """Checks on the comparison of a stratum with the published release."""
    compared, strata, genes, unmatched = (
        read_parquet(folder / f"{name}.parquet", "published_comparison") for name in ("comparison", "strata", "genes", "unmatched")
    )
    key = ["contrast", "published_name", "published_batch", "perturbagen", "pert_dose_uM"]
    unexplained = compared[(compared["explanation"] == "unexplained") & ~compared["is_padding"]]
    differing = at_least(
        f"a contrast that nothing explains has a Spearman correlation of at least {LEAST_PUBLISHED_AGREEMENT:g}",
        "spearman_logFC",
        LEAST_PUBLISHED_AGREEMENT,
        severity="warning",
    )
    comparable = at_least("every contrast has a gene with a value on both sides", "n_genes", 1, severity="warning")
    return {
        "scores": [
            *validate(
                compared,
                [
                    *table_rules(PUBLISHED_COMPARISON),
                    unique_together("each published row is compared once", ["stratum", "published_name"]),
                ],
                key,
            ),
            *validate(strata, table_rules(PUBLISHED_STRATA), ["stratum"]),
            *validate(genes, table_rules(PUBLISHED_GENES), ["ensembl_id"]),
            *validate(unmatched, table_rules(PUBLISHED_UNMATCHED), ["side", "perturbagen", "pert_dose_uM"]),
        ],
        "agrees": [
            *validate(unexplained.dropna(subset="spearman_logFC"), [differing], [*key, "spearman_logFC", "largest_difference"]),
            *validate(compared, [comparable], [*key, "n_genes_only_ours", "n_genes_only_published"]),
        ],
    }


CHECKS: dict[str, Callable[[Path], Findings]] = {
    "source_files": source_files,
    "harmonized_samples": harmonized_samples,
    "condition_effects": effects,
    "replicate_effects": effects,
    "matched_conditions": agreement.matched_conditions,
    "cross_dataset_agreement": agreement.cross_dataset_agreement,
    "replicate_agreement": agreement.replicate_agreement,
    "compendium_agreement": agreement.compendium_agreement,
    "published_comparison": published_comparison,
    "training_corpus": representation.training_corpus,
    "compound_embeddings": representation.compound_embeddings,
    "holdout_evaluation": holdout.holdout_evaluation,
    "op3_evaluation": op3.op3_evaluation,
    "representation_report": representation.representation_report,
}
"""Stage → function that judges an output folder of it."""
