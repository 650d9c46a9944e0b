"""Representation: corpora, evaluations and embeddings."""

from __future__ import annotations

from perturbridge_dagster.contract.schema import Field, Table

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
    ),
)

CORPUS_READOUTS = Table(
    "corpus_readouts",
    "One gene of a training corpus.",
    (CORPUS["readout"], *(Field(f"n_{split}", "int64", f"Values in {split}.", minimum=0) for split in ("train", "val", "test"))),
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
        Field("n_values", "int64", "Values scored.", minimum=0),
        Field("rmse", "float64", "Root mean squared error.", unit="log2", nullable=True, minimum=0),
        Field("mae", "float64", "Mean absolute error.", unit="log2", nullable=True, minimum=0),
        Field("pearson", "float64", "Pearson correlation.", nullable=True, minimum=-1, maximum=1),
        Field("r2", "float64", "Coefficient of determination.", nullable=True, maximum=1),
    ),
)

COMPOUND_EMBEDDINGS = Table(
    "compound_embeddings",
    "One perturbation of a trained model; beside these columns lies `embedding`, a fixed-size list of float32.",
    (
        Field("symbol", "string", "Perturbation, as the corpus writes it.", unique=True),
        Field("pubchem_cid", "int64", "PubChem compound id.", nullable=True, minimum=1),
        Field("perturbagen", "string", "Compound as a source names it.", nullable=True),
        Field("n_conditions", "int64", "Train conditions with the perturbation.", minimum=1),
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
        Field("cosine", "float64", "Cosine of the two embeddings.", minimum=-1.000001, maximum=1.000001),
    ),
)
