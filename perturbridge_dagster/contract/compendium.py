"""Agreement over the whole compendium: strength, overlaps, variants, and the tables of the paper."""

from __future__ import annotations

from perturbridge_dagster.contract.agreement import DATASET_PAIR, GENE_UNIVERSE, METRIC, SUMMARY_OF_PAIR, interval
from perturbridge_dagster.contract.retrieval import DIFFERENCE
from perturbridge_dagster.contract.schema import Field, Table

REPLICATE_SUPPORT = Table(
    "replicate_support",
    "What is kept of the replicates of a dataset when only compounds and cell contexts count that other datasets have.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("supporting_datasets", "string", "The other datasets that were asked, joined by semicolons."),
        Field("n_conditions", "int64", "Conditions with replicates.", minimum=0),
        Field("n_compounds", "int64", "Their distinct compounds.", minimum=0),
        Field("n_kept_conditions", "int64", "Of the conditions, those kept.", minimum=0),
        Field("n_kept_compounds", "int64", "Of the compounds, those kept.", minimum=0),
    ),
)

AGREEMENT_STRENGTH = Table(
    "agreement_strength",
    "How agreement goes with the strength of the perturbation: rank correlation over matched pairs of conditions.",
    (
        Field("left_dataset", "string", "Left dataset; null for all pairs together.", nullable=True),
        Field("right_dataset", "string", "Right dataset; null for all pairs together.", nullable=True),
        GENE_UNIVERSE,
        METRIC,
        Field("n_conditions", "int64", "Matched pairs of conditions with a score.", minimum=0),
        Field("n_compounds", "int64", "Their distinct compounds.", minimum=0),
        Field("spearman", "float64", "Spearman correlation of mean |t| and score.", **DIFFERENCE),
        *interval("spearman", DIFFERENCE),
    ),
)

AGREEMENT_VARIANTS = {
    "all": "Every match, as the dataset pairs themselves have it.",
    "ten_compounds": "Cell contexts and times in which two datasets share ten compounds or more.",
    "published": "Of these, between the two phases of L1000, what another pair of datasets has too: cell context or compound.",
    "published_with_bridges": "The published ones, and of Tahoe-100M and sci-Plex with L1000 the best dropped context.",
    "dose_equal": "Matches whose doses are equal.",
    "dose_within_2": "Matches whose doses differ by a factor of two at most.",
    "dose_within_3": "Matches whose doses differ by a factor of three at most.",
    "dose_within_10": "Matches whose doses differ by a factor of ten at most.",
    "z_scores": "Every match, each gene as its z score over all contrasts of a dataset in a cell context.",
}
"""Named options that say which matches count, or how genes are scaled → what each means."""

_VARIANT = Field("variant", "string", "Named option: which matches count, or how genes are scaled.", allowed=tuple(AGREEMENT_VARIANTS))

AGREEMENT_VARIANT_SUMMARY = Table(
    "agreement_variant_summary",
    "Agreement of two datasets by one metric under a named option, over all cell contexts.",
    (_VARIANT, *SUMMARY_OF_PAIR),
)

AGREEMENT_VARIANT_REPORT = Table(
    "agreement_variant_report",
    "What a named option kept and dropped of one cell context and time of two datasets.",
    (
        _VARIANT,
        *DATASET_PAIR,
        Field("cell_type", "string", "Cell-context id."),
        Field("pert_time_h", "float64", "Time.", unit="h", minimum=0),
        Field("n_compounds", "int64", "Distinct compounds matched.", minimum=1),
        Field("n_matches", "int64", "Matched pairs of conditions.", minimum=1),
        Field("n_compounds_kept", "int64", "Of the compounds, those kept.", minimum=0),
        Field("n_matches_kept", "int64", "Of the matches, those kept.", minimum=0),
    ),
)

DATASET_OVERLAPS = Table(
    "dataset_overlaps",
    "What two datasets share under a named option; a dataset beside itself: conditions with replicates.",
    (
        _VARIANT,
        Field("left_dataset", "string", "Left dataset."),
        Field("right_dataset", "string", "Right dataset; the left one itself for replicates."),
        Field("n_sample_pairs", "int64", "Pairs of samples of the matched conditions; pairs of replicates.", minimum=0),
        Field("n_conditions", "int64", "Matched pairs of conditions; conditions with replicates.", minimum=0),
        Field("n_compounds", "int64", "Distinct compounds.", minimum=0),
        Field("n_cell_contexts", "int64", "Distinct cell contexts.", minimum=0),
        Field("n_units", "int64", "Compounds in a cell context at a time.", minimum=0),
        Field("n_strata", "int64", "Cell contexts at a time.", minimum=0),
        Field("median_dose_fold", "float64", "Median factor between matched doses.", nullable=True, minimum=1),
        Field("largest_dose_fold", "float64", "Largest factor between matched doses.", nullable=True, minimum=1),
    ),
)

AGREEMENT_SURVIVING = Table(
    "agreement_surviving",
    "How many scores of two datasets are left where each has to count a minimum of genes.",
    (
        *DATASET_PAIR,
        GENE_UNIVERSE,
        METRIC,
        Field("minimum_genes", "int64", "Fewest genes that a score counts.", unit="genes", minimum=0),
        Field("n_scores", "int64", "Scores left.", minimum=0),
        Field("n_units", "int64", "Compounds in a cell context at a time with a score left.", minimum=0),
        Field("n_compounds", "int64", "Distinct compounds with a score left.", minimum=0),
        Field("mean_score", "float64", "Mean of the scores left.", nullable=True, minimum=-1, maximum=1),
    ),
)

_TABLE_VALUES = tuple(
    Field(f"{name}{suffix}", "float64", f"{what} of {name}.", nullable=True, minimum=-bound, maximum=bound)
    for name, bound in (("observed", 1), ("baseline", 1), ("delta", 2))
    for suffix, what in (("", "Mean"), ("_low", "Low end of the 95 % interval"), ("_high", "High end of the 95 % interval"))
)

AGREEMENT_TABLE = Table(
    "agreement_table",
    "One row of a table of the paper, as it counts and averages: Tables 4 to 6 and 9, one pair of datasets.",
    (
        _VARIANT,
        *DATASET_PAIR,
        Field("metric", "string", "Metric of agreement, or of retrieval."),
        Field("n_first", "int64", "First count of the paper: compounds with an observed score.", minimum=0),
        Field("n_second", "int64", "Second count: compounds with a baseline; queries in Table 9.", minimum=0),
        *_TABLE_VALUES,
    ),
)

REPLICATE_TABLE = Table(
    "replicate_table",
    "One row of a table of the paper, as it counts and averages: Tables 7, 8 and 10, the replicates of one dataset.",
    (
        _VARIANT,
        Field("dataset", "string", "Dataset id."),
        Field("metric", "string", "Metric of agreement."),
        Field("n_first", "int64", "First count of the paper: compounds with an observed score.", minimum=0),
        Field("n_second", "int64", "Second count: conditions with replicates.", minimum=0),
        *_TABLE_VALUES,
    ),
)
