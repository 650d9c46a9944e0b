"""Representation: corpora, evaluations and embeddings."""

from __future__ import annotations

from perturbridge_dagster.contract.schema import Field, Table

FURTHER_SPLITS = ("molecules", "parents", "contexts", "model_systems", "assays", "scaffolds")
"""Split rules whose columns lie beside ``split``, that of the published scalar split."""

CORPUS = Table(
    "corpus",
    "One training value: a gene of a condition.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("context", "string", "Cell-context id, in the words of the published tables."),
        Field("perturbation", "string", "PubChem compound id as text, in the words of the published tables."),
        Field("log_dose", "float32", "log10 of the dose.", unit="log10 µM"),
        Field("time", "float32", "Time.", unit="h", minimum=0),
        Field("readout", "string", "Ensembl gene id."),
        Field("value", "float32", "logFC.", unit="log2"),
        Field("split", "string", "Split of the condition.", allowed=("train", "val", "test")),
    ),
)

CORPUS_CONDITIONS = Table(
    "corpus_conditions",
    "One condition of a training corpus.",
    (
        Field(
            "condition", "int32", "Number of the condition, by which shards name it.", minimum=0, unique=True, nullable=True, since="1.3"
        ),
        *(CORPUS[name] for name in ("dataset", "context", "perturbation", "log_dose", "time")),
        CORPUS["split"],
        Field("perturbagen", "string", "Compound as a source names it; the first by name where several share the PubChem id."),
        Field("parent_key", "string", "Key of the salt-stripped parent structure.", nullable=True),
        Field("n_contrasts", "int64", "Contrasts averaged into the condition.", minimum=1),
        Field("n_values", "int64", "Genes with a value.", minimum=1),
        *(
            Field(
                f"split_{rule}",
                "string",
                f"Split by the rule {rule}; null throughout where the rule does not suit the corpus, and where it has nothing to go by.",
                nullable=True,
                allowed=("train", "val", "test"),
                since="1.3",
            )
            for rule in FURTHER_SPLITS
        ),
        Field("assay", "string", "Name of the assay; several joined by semicolons.", nullable=True, since="1.3"),
        Field("model_system", "string", "What the cells are; null where nobody says.", nullable=True, since="1.3"),
        Field(
            "scaffold",
            "string",
            "Murcko scaffold of the salt-stripped parent as SMILES; null without a readable structure or without rings.",
            nullable=True,
            since="1.3",
        ),
    ),
)

CORPUS_READOUTS = Table(
    "corpus_readouts",
    "One gene of a training corpus.",
    (
        CORPUS["readout"],
        *(Field(f"n_{split}", "int64", f"Values in {split}.", minimum=0) for split in ("train", "val", "test")),
        *(
            Field(f"n_train_{rule}", "int64", f"Values in train by the split rule {rule}.", minimum=0, nullable=True, since="1.3")
            for rule in FURTHER_SPLITS
        ),
    ),
)

CORPUS_COMPOUNDS = Table(
    "corpus_compounds",
    "One compound of a training corpus.",
    (
        Field("perturbation", "string", "Perturbation, as the corpus writes it.", unique=True),
        Field(
            "perturbagen", "string", "Name that most datasets use; of several, the one of fewest digits, then the first of the alphabet."
        ),
        Field("pubchem_cid", "int64", "PubChem compound id.", nullable=True, minimum=1),
        Field("smiles", "string", "SMILES that most samples have, of those that can be read; null where there is none.", nullable=True),
        Field("parent_key", "string", "Key of the salt-stripped parent structure.", nullable=True),
        CORPUS_CONDITIONS["scaffold"],
        Field("mechanism", "string", "Mechanism of action that most samples have, in the words of a source.", nullable=True),
        Field("n_conditions", "int64", "Conditions with the compound.", minimum=1),
    ),
)

CORPUS_SHARDS = Table(
    "corpus_shards",
    "One shard file of a training corpus.",
    (
        Field("file", "string", "File, relative to the corpus folder.", unique=True),
        *(CORPUS[name] for name in ("dataset", "context", "split")),
        Field("n_conditions", "int64", "Conditions.", minimum=1, nullable=True, since="1.3"),
        Field("n_values", "int64", "Values.", minimum=1),
    ),
)

CORPUS_GENES = Table(
    "corpus_genes",
    "One column of the shards of a dataset and cell context.",
    (
        Field("position", "int32", "Position of its value in the list of a condition.", minimum=0, unique=True),
        CORPUS["readout"],
    ),
)

EVALUATION = Table(
    "evaluation",
    "One predictor scored on one split.",
    (
        Field("predictor", "string", "The model, or a baseline."),
        Field("split", "string", "Split.", allowed=("train", "val", "test")),
        Field("dataset", "string", "Dataset of the values; null for those of all datasets together.", nullable=True, since="1.3"),
        Field("n_values", "int64", "Values scored.", minimum=0),
        Field("rmse", "float64", "Root mean squared error.", unit="log2", nullable=True, minimum=0),
        Field("mae", "float64", "Mean absolute error.", unit="log2", nullable=True, minimum=0),
        Field("pearson", "float64", "Pearson correlation.", nullable=True, minimum=-1, maximum=1),
        Field("r2", "float64", "Coefficient of determination.", nullable=True, maximum=1),
    ),
)

PROFILE_METRIC_NAMES = (
    "rmse",
    "pearson",
    "spearman",
    "cosine",
    "direction_agreement",
    "recovery_at_n",
    "recovery_at_fdr",
    "discrimination",
    "discrimination_inverse",
)
"""Metrics of a predicted profile; ``representation/profile_metrics.py`` defines each."""

PROFILE_SCORES = Table(
    "profile_scores",
    "Mean over held-out conditions of one metric of predicted profiles, or of its difference from a baseline's, with its interval.",
    (
        Field("predictor", "string", "The model, or a baseline."),
        Field(
            "baseline",
            "string",
            "Baseline whose score is taken from the predictor's, condition by condition; null where the score itself is meant.",
            nullable=True,
        ),
        Field("split", "string", "Split.", allowed=("train", "val", "test")),
        Field("dataset", "string", "Dataset of the conditions; null for those of all datasets together.", nullable=True),
        Field("metric", "string", "Metric.", allowed=PROFILE_METRIC_NAMES),
        Field("value", "float64", "Mean over conditions in which it is defined; null where it is in none.", nullable=True),
        Field("low", "float64", "Low end of its 95 % interval from resampling compounds.", nullable=True),
        Field("high", "float64", "High end.", nullable=True),
        Field(
            "interval",
            "string",
            "How the interval was made: BCa, or what stands in for it.",
            allowed=("bca", "percentile", "degenerate", "not_estimable"),
        ),
        Field(
            "by_chance", "float64", "What a prediction that has nothing to do with the truth would score; null if unknown.", nullable=True
        ),
        Field("n_conditions", "int64", "Conditions in which it is defined.", minimum=0),
        Field("n_undefined", "int64", "Held-out conditions in which it is not defined.", minimum=0),
        Field("n_compounds", "int64", "Compounds of the conditions in which it is defined.", minimum=0),
    ),
)

COMPOUND_EMBEDDINGS = Table(
    "compound_embeddings",
    "One perturbation of a model trained with one seed; beside these columns lies `embedding`, a fixed-size list of float32.",
    (
        Field("symbol", "string", "Perturbation, as the corpus writes it; once a seed."),
        Field("pubchem_cid", "int64", "PubChem compound id.", nullable=True, minimum=1),
        Field("perturbagen", "string", "Compound as a source names it.", nullable=True),
        Field("n_conditions", "int64", "Train conditions with the perturbation.", minimum=1),
        Field("model", "string", "Model that was trained.", nullable=True, since="1.3"),
        Field("corpus", "string", "Corpus that it was trained on.", nullable=True, since="1.3"),
        Field("seed", "int64", "Seed of its start, of dropout and of the order of the data.", nullable=True, minimum=0, since="1.3"),
        Field("code_version", "string", "Version of the code that trained it.", nullable=True, since="1.3"),
        Field(
            "licence_class",
            "string",
            "Whether the vector may be redistributed: open only if every dataset of the corpus is.",
            nullable=True,
            allowed=("open", "restricted"),
            since="1.3",
        ),
    ),
)

EMBEDDING_STABILITY = Table(
    "embedding_stability",
    "How far two seeds agree on the nearest neighbours of perturbations.",
    (
        Field("seed", "int64", "One seed.", minimum=0),
        Field("other_seed", "int64", "Another seed.", minimum=0),
        Field("k", "int64", "Nearest neighbours of each perturbation that are compared.", minimum=1),
        Field("n_perturbations", "int64", "Perturbations.", minimum=2),
        Field("common_share", "float64", "Share of the k nearest that both seeds have, mean over perturbations.", minimum=0, maximum=1),
        Field("expected_share", "float64", "The same for neighbours drawn at random: k of all others.", minimum=0, maximum=1),
    ),
)

EMBEDDING_MECHANISMS = Table(
    "embedding_mechanisms",
    "Whether perturbations that share a mechanism lie near each other.",
    (
        Field("seed", "int64", "Seed of the embedding; null for all seeds together.", nullable=True, minimum=0),
        Field("n_perturbations", "int64", "Perturbations of a mechanism that another shares; salts count once.", minimum=2),
        Field("n_mechanisms", "int64", "Their mechanisms.", minimum=1),
        Field("same_cosine", "float64", "Mean cosine of pairs that share a mechanism.", minimum=-1.000001, maximum=1.000001),
        Field("expected_cosine", "float64", "The same with mechanisms permuted over perturbations.", minimum=-1.000001, maximum=1.000001),
        Field("nearest_share", "float64", "Share of perturbations whose nearest one has the same mechanism.", minimum=0, maximum=1),
        Field("expected_nearest_share", "float64", "The same by chance.", minimum=0, maximum=1),
        Field("n_permutations", "int64", "Permutations.", minimum=1),
        Field("p_value", "float64", "Share of permutations, the observed one counted, with as high a mean.", minimum=0, maximum=1),
    ),
)

EMBEDDING_MAP = Table(
    "embedding_map",
    "One perturbation on the map of an embedding.",
    (
        Field("symbol", "string", "Perturbation, as the corpus writes it.", unique=True),
        Field("perturbagen", "string", "Compound as a source names it.", nullable=True),
        Field("mechanism", "string", "Mechanism of action, as a source says it.", nullable=True),
        Field("n_conditions", "int64", "Train conditions with the perturbation.", minimum=1),
        Field("x", "float64", "First coordinate."),
        Field("y", "float64", "Second coordinate."),
    ),
)

TRAINING_HISTORY = Table(
    "training_history",
    "One validation pass of a training.",
    (
        Field("seed", "int64", "Seed of the training.", minimum=0),
        Field("step", "int64", "Optimiser steps so far.", minimum=1),
        Field("epoch", "float64", "Passes over the train values so far.", minimum=0),
        Field("train_rmse", "float64", "RMSE of the train batches since the last pass, with dropout.", unit="log2", minimum=0),
        Field("validation_rmse", "float64", "RMSE of all validation values.", unit="log2", minimum=0),
        Field("learning_rate", "float64", "Learning rate.", minimum=0),
        Field("selected", "bool", "Whether the model of this step is the one that was kept."),
    ),
)

NEIGHBOURS = Table(
    "neighbours",
    "One of the compounds nearest to a compound by the cosine of their embeddings.",
    (
        Field("symbol", "string", "Perturbation, as the corpus writes it."),
        Field("perturbagen", "string", "Its name at a source.", nullable=True),
        Field("rank", "int64", "1 for the nearest.", minimum=1),
        Field("neighbour", "string", "The near perturbation."),
        Field("neighbour_perturbagen", "string", "Its name at a source.", nullable=True),
        Field("cosine", "float64", "Cosine of the two embeddings, mean over seeds.", minimum=-1.000001, maximum=1.000001),
        Field("n_seeds", "int64", "Seeds that have it among as many nearest.", nullable=True, minimum=0, since="1.3"),
    ),
)

REPRESENTATION_PARTS = Table(
    "representation_parts",
    "One output that the report on representation is made of.",
    (
        Field("stage", "string", "Stage that wrote it."),
        Field("key", "string", "Its partition."),
        Field("digest", "string", "Digest of the request that made it."),
        Field("datasets", "string", "Datasets whose data are in it, joined by commas."),
        Field("simulated", "bool", "Whether simulated data are in it."),
        Field("licence_class", "string", "Whether it may be redistributed.", allowed=("open", "restricted")),
    ),
)

REPRESENTATION_VERDICTS = Table(
    "representation_verdicts",
    "A model beside one baseline on held-out values.",
    (
        Field("corpus", "string", "Corpus that both were trained on."),
        Field("model", "string", "The model."),
        Field("split", "string", "Held-out values.", allowed=("val", "test")),
        Field("baseline", "string", "The baseline."),
        Field("rmse", "float64", "Root mean squared error of the model.", unit="log2", nullable=True, minimum=0),
        Field("baseline_rmse", "float64", "Root mean squared error of the baseline.", unit="log2", nullable=True, minimum=0),
        Field("difference", "float64", "Mean over conditions of RMSE, model less baseline.", unit="log2", nullable=True),
        Field("low", "float64", "Low end of its 95 % interval from resampling compounds.", unit="log2", nullable=True),
        Field("high", "float64", "High end.", unit="log2", nullable=True),
        Field(
            "verdict",
            "string",
            "Which of the two the interval favours; too few compounds: fewer than five are held out.",
            allowed=("better", "worse", "not told apart", "no interval", "too few compounds"),
        ),
    ),
)
