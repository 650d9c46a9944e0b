"""Effects: contrasts, genes and their numbers."""

from __future__ import annotations

from perturbridge_dagster.contract.schema import Field, Table

CONTRASTS = Table(
    "contrasts",
    "One contrast: a treated condition against the vehicle controls of the same time in the same stratum.",
    (
        Field("contrast", "int32", "Row of the contrast in the stratum.", minimum=0, unique=True),
        Field("dataset", "string", "Dataset id."),
        Field("stratum", "string", "Stratum id."),
        Field("cell_type", "string", "Cell-context id."),
        Field("perturbagen", "string", "Compound as the source names it."),
        Field("pubchem_cid", "int64", "PubChem compound id.", nullable=True, minimum=1),
        Field("parent_key", "string", "Key of the salt-stripped parent structure.", nullable=True),
        Field("pert_dose_uM", "float64", "Dose.", unit="µM", minimum=0),
        Field("pert_time_h", "float64", "Time.", unit="h", minimum=0),
        Field("control", "string", "Perturbagen name of the vehicle it is compared with."),
        Field("sample_id", "string", "The replicate, where each replicate is fitted alone.", nullable=True),
        Field("plate", "string", "Plate of the replicate, where each replicate is fitted alone.", nullable=True),
        Field("well", "string", "Well of the replicate, where each replicate is fitted alone.", nullable=True),
        Field("n_treated", "int64", "Treated samples of the contrast.", unit="samples", minimum=1),
        Field("n_controls", "int64", "Control samples of the contrast.", unit="samples", minimum=1),
        Field("n_plates", "int64", "Plates that the treated samples lie on.", minimum=1),
        Field("plates", "string", "Plates that the treated samples lie on, joined by semicolons.", nullable=True),
        Field("control_plates", "string", "Plates that the control samples lie on, joined by semicolons.", nullable=True),
        Field("component", "int32", "Connected component of conditions and plates that the condition lies in.", nullable=True, minimum=0),
        Field("control_component", "int32", "Connected component that the control lies in.", nullable=True, minimum=0),
        Field("treated_library_size", "float64", "Median library size of the treated samples.", unit="counts", nullable=True, minimum=0),
        Field("control_library_size", "float64", "Median library size of the control samples.", unit="counts", nullable=True, minimum=0),
        Field(
            "df_residual", "float64", "Residual degrees of freedom of the fit for a gene without missing values.", nullable=True, minimum=0
        ),
        Field("processing_batch", "string", "Published batch, where a stratum was fitted in batches.", nullable=True),
        Field("estimable", "bool", "Whether condition and controls lie in one connected component of conditions and plates."),
        Field("n_significant", "int64", "Genes with adjusted P below 0.05 within the contrast.", unit="genes", minimum=0),
        Field("mean_abs_t", "float64", "Mean absolute moderated t over genes.", nullable=True, minimum=0),
    ),
)

GENES = Table(
    "genes",
    "One tested gene of a stratum, with what the fit knows of it apart from any contrast.",
    (
        Field("gene", "int32", "Column of the gene in the stratum.", minimum=0, unique=True),
        Field("ensembl_id", "string", "Ensembl gene id.", unique=True),
        Field("symbol", "string", "Gene symbol.", nullable=True),
        Field("AveExpr", "float64", "Mean log2 expression over samples.", unit="log2", nullable=True),
        Field("sigma", "float64", "Residual standard deviation.", unit="log2", nullable=True, minimum=0),
        Field("s2_post", "float64", "Moderated residual variance.", unit="log2²", nullable=True, minimum=0),
        Field("df_residual", "float64", "Residual degrees of freedom.", nullable=True, minimum=0),
        Field("df_total", "float64", "Degrees of freedom of the moderated t.", nullable=True, minimum=0),
        Field(
            "t_975",
            "float64",
            "97.5 % quantile of t with df_total: a 95 % confidence interval reaches that many standard errors each way.",
            nullable=True,
            minimum=0,
        ),
        Field("support", "int64", "Samples at or above the filter's cut-off; null without a filter.", nullable=True, minimum=0),
    ),
)

GENE_FILTER = Table(
    "gene_filter",
    "One gene that a stratum was given: what the filter saw of it, and whether it was tested.",
    (
        Field("ensembl_id", "string", "Ensembl gene id.", unique=True),
        Field("symbol", "string", "Gene symbol.", nullable=True),
        Field(
            "total_count", "int64", "Counts over the fitted samples; null for normalized values.", unit="counts", nullable=True, minimum=0
        ),
        Field("support", "int64", "Samples at or above the filter's cut-off; null for normalized values.", nullable=True, minimum=0),
        Field("kept", "bool", "Whether the gene was tested."),
    ),
)

EFFECTS = Table(
    "effects",
    "One contrast × gene; rows lie in tiles of contrasts × genes. Null where the contrast is not estimable for the gene.",
    (
        Field("contrast", "int32", "Row of the contrast in the stratum.", minimum=0),
        Field("gene", "int32", "Column of the gene in the stratum.", minimum=0),
        Field("logFC", "float32", "Treated minus control.", unit="log2", nullable=True),
        Field("t", "float32", "Moderated t.", nullable=True),
        Field("log10_p", "float32", "log10 of the P value.", nullable=True, maximum=0),
        Field("log10_adj_p_within", "float32", "log10 of the P value adjusted within the contrast (BH).", nullable=True, maximum=0),
        Field("log10_adj_p_across", "float32", "log10 of the P value adjusted across the stratum (BH).", nullable=True, maximum=0),
    ),
)

PROFILE_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

EFFECTS_PROFILE = Table(
    "effects_profile",
    "One stored layer of effects, summarised, so that checks of huge tables need not read them.",
    (
        Field("layer", "string", "Layer, a value column of effects.", unique=True),
        Field("count", "int64", "Values, nulls included.", minimum=0),
        Field("nulls", "int64", "Nulls: contrast × gene that cannot be estimated.", minimum=0),
        Field("infinite", "int64", "Infinite values; none in a sound table.", minimum=0),
        Field("minimum", "float64", "Smallest value.", nullable=True),
        *(
            Field(f"q{round(100 * share):02d}", "float64", f"Quantile {share:g} of the values.", nullable=True)
            for share in PROFILE_QUANTILES
        ),
        Field("maximum", "float64", "Largest value.", nullable=True),
    ),
)
