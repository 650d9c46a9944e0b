"""The evaluation on OP3: scores of predictors, how they compare, and which compounds corpora have seen."""

from __future__ import annotations

from perturbridge_dagster.contract.schema import Field, Table

OP3_BASELINES = ("zero", "gene_mean", "cell_type_mean", "ridge_morgan")
"""Predictors without a network."""

OP3_METRICS = ("mrrmse", "mae", "spearman", "pearson", "cosine")
"""Metrics of the benchmark; of the first two less is better."""

_PREDICTOR = (
    Field("descriptor", "string", "What is known of compounds: none, morgan, or the model and the corpus of an embedding; or a baseline."),
    Field(
        "mode",
        "string",
        "How a network takes the descriptor: none: a learned vector in its place; trainable: it is learned further; fixed; concat: fixed, "
        "beside a learned vector. baseline: there is no network.",
        allowed=("none", "trainable", "fixed", "concat", "baseline"),
    ),
)

_SUBSET = (
    Field("corpus", "string", "Corpus by which test compounds are told apart; null where all are taken.", nullable=True),
    Field(
        "compounds",
        "string",
        "Test compounds: all; seen: the corpus has train conditions of the compound or of its parent structure; unseen.",
        allowed=("all", "seen", "unseen"),
    ),
    Field(
        "metric",
        "string",
        "mrrmse: mean over conditions of the root mean squared error; mae: of the mean absolute error; spearman, pearson, cosine: mean "
        "over conditions of the one between truth and prediction over genes, in which an undefined one counts as 0.",
        allowed=OP3_METRICS,
    ),
)

OP3_SCORES = Table(
    "op3_scores",
    "One metric of one run of a predictor on held-out compounds of OP3.",
    (
        *_PREDICTOR,
        Field("seed", "int64", "Seed of the run; null for a baseline.", nullable=True, minimum=0),
        *_SUBSET,
        Field("value", "float64", "Mean over conditions."),
        Field("n_conditions", "int64", "Conditions.", minimum=1),
        Field("n_compounds", "int64", "Their compounds.", minimum=1),
        Field("n_undefined", "int64", "Conditions in which the metric is undefined.", minimum=0),
    ),
)

OP3_SUMMARY = Table(
    "op3_summary",
    "One metric of a predictor on held-out compounds of OP3, over its seeds, beside a reference.",
    (
        *_PREDICTOR,
        *_SUBSET,
        Field("n_seeds", "int64", "Runs.", minimum=1),
        Field("mean", "float64", "Mean over runs."),
        Field(
            "sd", "float64", "Standard deviation over runs (n − 1); null where there is one. All share one split.", nullable=True, minimum=0
        ),
        Field("n_compounds", "int64", "Compounds.", minimum=1),
        Field(
            "reference",
            "string",
            "What it is compared with: the network with no descriptor, that with Morgan fingerprints, or a baseline.",
            allowed=("none", "morgan", *OP3_BASELINES),
        ),
        Field(
            "difference",
            "float64",
            "Mean over compounds of the difference to the reference, seeds and cell types averaged first; null for the reference itself.",
            nullable=True,
        ),
        Field("low", "float64", "Low end of its 95 % interval from drawing compounds with replacement.", nullable=True),
        Field("high", "float64", "High end.", nullable=True),
        Field(
            "interval",
            "string",
            "How the interval was made, or why there is none; null for the reference itself.",
            nullable=True,
            allowed=("bca", "percentile", "degenerate", "not_estimable"),
        ),
        Field("win_rate", "float64", "Share of compounds on which it is better than the reference.", nullable=True, minimum=0, maximum=1),
        Field(
            "seed_win_rate",
            "float64",
            "Share of seeds with which it is better than the reference with the same seed.",
            nullable=True,
            minimum=0,
            maximum=1,
        ),
    ),
)

OP3_COMPOUNDS = Table(
    "op3_compounds",
    "One compound of OP3, and what one descriptor and its corpus know of it.",
    (
        Field("perturbagen", "string", "Compound as the benchmark names it."),
        Field("split", "string", "Whether it is held out.", allowed=("train", "test")),
        Field("pubchem_cid", "int64", "PubChem compound id.", nullable=True, minimum=1),
        Field("parent_key", "string", "Key of the salt-stripped parent structure.", nullable=True),
        Field("n_conditions", "int64", "Its conditions in the benchmark.", minimum=1),
        Field(
            "parent_in_train",
            "bool",
            "Of a held-out compound, whether a train compound of the benchmark has the same parent structure; null for train compounds.",
            nullable=True,
        ),
        Field("descriptor", "string", "A descriptor."),
        Field("has_descriptor", "bool", "Whether the compound has it."),
        Field("corpus", "string", "Corpus that the descriptor was learned from; null where it was not learned.", nullable=True),
        Field("seen_pubchem_cid", "bool", "Whether the corpus has train conditions of its PubChem id.", nullable=True),
        Field("seen_parent", "bool", "Whether the corpus has train conditions of its parent structure.", nullable=True),
    ),
)
