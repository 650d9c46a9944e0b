"""Retrieval of matched conditions and of replicates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perturbridge_dagster.contract.agreement import SUMMARISED_CONTEXT, interval
from perturbridge_dagster.contract.schema import Field, Table

POSITIVES = ("matched_condition", "dose_aware", "same_compound")
"""Kinds of positives of a query: the conditions it is matched with; those of the same compound at about the same dose, or the nearest;
those of the same compound at any dose."""

RECALL_AT = (1, 5, 10)

_DIRECTION = Field(
    "direction", "string", "From the dataset of the queries to that of the candidates.", allowed=("left_to_right", "right_to_left")
)
_RETRIEVED_BY = (
    Field("representation", "string", "What stands for a signature.", allowed=("logFC", "t", "signed_significance")),
    Field("similarity", "string", "By what candidates are ranked.", allowed=("euclidean", "cosine", "spearman")),
    Field("positives", "string", "Which candidates are to be found.", allowed=POSITIVES),
)
_SHARE: dict[str, Any] = {"nullable": True, "minimum": 0, "maximum": 1}
DIFFERENCE: dict[str, Any] = {"nullable": True, "minimum": -1, "maximum": 1}
_RANK_SCORES = (
    Field("normalised_rank", "float64", "How far up the best positive stands: 1 first, 0 last.", **_SHARE),
    Field("expected_normalised_rank", "float64", "What random order gives, with as many positives.", **_SHARE),
    Field("above_expected", "float64", "normalised_rank minus expected_normalised_rank.", **DIFFERENCE),
    Field("auroc", "float64", "Share of pairs of a positive and a negative in which the positive is more similar; ties half.", **_SHARE),
    Field(
        "centroid_normalised_rank",
        "float64",
        "How far up the mean of other compounds of the query's own stratum, dose and time stands among the candidates; null where there "
        "is none.",
        **_SHARE,
    ),
    Field("centroid_delta", "float64", "normalised_rank minus centroid_normalised_rank.", **DIFFERENCE),
    *(
        field
        for k in RECALL_AT
        for field in (
            Field(f"recall_at_{k}", "float64", f"Whether a positive is among the first {k}: 1 or 0.", **_SHARE),
            Field(f"expected_recall_at_{k}", "float64", "What random order gives.", **_SHARE),
        )
    ),
)
_QUERY = (
    Field("query_stratum", "string", "Stratum of the query."),
    Field("query_contrast", "int32", "Query: a contrast in its stratum.", minimum=0),
    Field("pubchem_cid", "int64", "PubChem compound id of the query.", minimum=1),
    Field("pert_dose_uM", "float64", "Dose of the query.", unit="µM"),
    *_RETRIEVED_BY,
    Field("n_candidates", "int64", "Candidates, the query not among them.", minimum=2),
    Field("n_positives", "int64", "Of these, positives.", minimum=1),
    Field("best_rank", "int64", "1 + candidates strictly more similar than the best positive.", minimum=1),
    Field("p", "float64", "Probability of this best rank or a better one in random order.", minimum=0, maximum=1),
    Field("centroid_rank", "int64", "Rank of that mean among the candidates and itself.", nullable=True, minimum=1),
    *_RANK_SCORES,
)
_POOL_OUTCOME = (
    Field("n_shared_genes", "int64", "Genes that all strata tested; null where nothing was read.", unit="genes", nullable=True, minimum=0),
    Field(
        "n_genes",
        "int64",
        "Of these, genes with logFC, t and adjusted P in every condition: those that count.",
        unit="genes",
        nullable=True,
        minimum=0,
    ),
    Field(
        "outcome",
        "string",
        "scored, or why not.",
        allowed=("scored", "too_few_conditions", "too_few_compounds", "too_few_genes"),
    ),
)
_CONTEXT_TIME = (Field("cell_type", "string", "Cell-context id."), Field("pert_time_h", "float64", "Time.", unit="h", minimum=0))
_DATASETS = (Field("left_dataset", "string", "Left dataset."), Field("right_dataset", "string", "Right dataset."))

RETRIEVAL_QUERIES = Table(
    "retrieval_queries",
    "What one condition of a dataset finds among those of another in the same cell context and time.",
    (*_DATASETS, _DIRECTION, *_CONTEXT_TIME, *_QUERY),
)

RETRIEVAL_POOLS = Table(
    "retrieval_pools",
    "One cell context and time in which the conditions of one dataset search among those of another, or why they do not.",
    (
        *_DATASETS,
        _DIRECTION,
        *_CONTEXT_TIME,
        Field("n_query_conditions", "int64", "Conditions on the side of the queries.", minimum=0),
        Field("n_query_compounds", "int64", "Their distinct compounds.", minimum=0),
        Field("n_target_conditions", "int64", "Conditions on the side that is searched.", minimum=0),
        Field("n_target_compounds", "int64", "Their distinct compounds.", minimum=0),
        *_POOL_OUTCOME,
    ),
)

_MEAN_RANKS = tuple(replace(field, meaning=f"{field.meaning.rstrip('.')}; mean over queries.") for field in _RANK_SCORES)
_RANK_INTERVALS = ("normalised_rank", "above_expected", "auroc", "centroid_normalised_rank", "centroid_delta", "recall_at_1")
_RANK_SUMMARY = (
    Field("n_strata", "int64", "Cell contexts and times, in each direction.", minimum=1),
    Field("n_queries", "int64", "Queries.", minimum=1),
    Field("n_compounds", "int64", "Distinct compounds of the queries.", minimum=1),
    *(
        summarised
        for field in _RANK_SCORES
        for summarised in (
            replace(field, meaning=f"{field.meaning.rstrip('.')}; mean over strata of the mean over queries."),
            *(interval(field.name, _SHARE | {"minimum": field.minimum}) if field.name in _RANK_INTERVALS else ()),
        )
    ),
)

RETRIEVAL_STRATA = Table(
    "retrieval_strata",
    "Retrieval in one direction, cell context and time of two datasets: means over queries.",
    (
        *_DATASETS,
        _DIRECTION,
        *_CONTEXT_TIME,
        *_RETRIEVED_BY,
        Field("n_queries", "int64", "Queries.", minimum=1),
        Field("n_compounds", "int64", "Their distinct compounds.", minimum=1),
        Field("n_candidates", "float64", "Mean number of candidates.", minimum=2),
        Field("n_positives", "float64", "Mean number of positives.", minimum=1),
        *_MEAN_RANKS,
    ),
)

RETRIEVAL_PAIR = Table(
    "retrieval_pair",
    "Retrieval between two datasets, over all or in one direction or cell context: mean over directions of the mean over strata.",
    (
        *_DATASETS,
        replace(_DIRECTION, meaning="Direction; null for both together.", nullable=True),
        SUMMARISED_CONTEXT,
        *_RETRIEVED_BY,
        *_RANK_SUMMARY,
    ),
)

REPLICATE_RETRIEVAL_QUERIES = Table(
    "replicate_retrieval_queries",
    "What one replicate finds among all other replicates of its dataset in the same cell context and time.",
    (Field("dataset", "string", "Dataset id."), *_CONTEXT_TIME, *_QUERY),
)

REPLICATE_RETRIEVAL_POOLS = Table(
    "replicate_retrieval_pools",
    "One cell context and time in which the replicates of a dataset search among each other, or why they do not.",
    (
        Field("dataset", "string", "Dataset id."),
        *_CONTEXT_TIME,
        Field("n_replicates", "int64", "Replicates.", minimum=0),
        Field("n_conditions", "int64", "Their conditions.", minimum=0),
        Field("n_compounds", "int64", "Their distinct compounds.", minimum=0),
        Field("n_compounds_with_replicates", "int64", "Of these, compounds of which a condition has two replicates.", minimum=0),
        *_POOL_OUTCOME,
    ),
)

REPLICATE_RETRIEVAL_SUMMARY = Table(
    "replicate_retrieval_summary",
    "Retrieval among the replicates of a dataset, over all or in one cell context: mean over strata of the mean over queries.",
    (Field("dataset", "string", "Dataset id."), SUMMARISED_CONTEXT, *_RETRIEVED_BY, *_RANK_SUMMARY),
)
