"""Our effects beside those of the published release."""

from __future__ import annotations

from typing import Any

from perturbridge_dagster.contract.effects import CONTRASTS
from perturbridge_dagster.contract.schema import Field, Table

PUBLISHED_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_CORRELATION: dict[str, Any] = {"nullable": True, "minimum": -1, "maximum": 1}

PUBLISHED_COMPARISON = Table(
    "published_comparison",
    "One contrast of the published release beside the same contrast of ours, over the genes that have a value on both sides.",
    (
        *(CONTRASTS[name] for name in ("dataset", "stratum", "cell_type")),
        Field("contrast", "int32", "Our contrast in its stratum.", minimum=0),
        Field("published_name", "string", "Name of the published row."),
        Field(
            "published_batch",
            "string",
            "Random batch in which the release fitted it; null where it fitted the stratum whole.",
            nullable=True,
        ),
        Field("is_padding", "bool", "Whether the condition has a row in an earlier batch, which this one was filled up with."),
        Field(
            "matched_by",
            "string",
            "What the two have in common beside dose, time and replicate.",
            allowed=("name_and_pubchem_cid", "pubchem_cid", "name"),
        ),
        *(CONTRASTS[name] for name in ("perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "sample_id")),
        Field("published_perturbagen", "string", "Compound as the release names it."),
        Field("published_pubchem_cid", "int64", "PubChem compound id of the release.", nullable=True, minimum=1),
        Field("published_pert_dose_uM", "float64", "Dose of the release, that of one replicate.", unit="µM", nullable=True, minimum=0),
        Field("n_pooled_doses", "int64", "Contrasts of ours that the release made one by rounding doses; 1 where it did not.", minimum=1),
        Field("n_pooled_names", "int64", "Conditions of the release that are this contrast of ours; padding is not counted.", minimum=0),
        Field("n_plates", "int64", "Plates of all samples that our fit had.", minimum=0),
        Field("n_plates_batch", "int64", "Of these, plates of the samples of the release's batch.", minimum=0),
        Field("n_genes", "int64", "Genes with a value on both sides.", unit="genes", minimum=0),
        Field("n_genes_only_ours", "int64", "Genes with a value of ours alone.", unit="genes", minimum=0),
        Field("n_genes_only_published", "int64", "Genes with a value of the release alone.", unit="genes", minimum=0),
        Field("pearson_logFC", "float64", "Pearson correlation of logFC.", **_CORRELATION),
        Field("spearman_logFC", "float64", "Spearman correlation of logFC.", **_CORRELATION),
        Field("pearson_t", "float64", "Pearson correlation of moderated t.", **_CORRELATION),
        Field("spearman_t", "float64", "Spearman correlation of moderated t.", **_CORRELATION),
        Field("slope_logFC", "float64", "Slope of the release's logFC on ours, by least squares.", nullable=True),
        Field("n_strong", "int64", "Genes with |t| above 2 on either side.", unit="genes", minimum=0),
        Field("sign_agreement", "float64", "Share of these whose logFC have one sign.", nullable=True, minimum=0, maximum=1),
        Field("median_difference", "float64", "Median absolute difference of logFC.", unit="log2", nullable=True, minimum=0),
        Field("largest_difference", "float64", "Largest absolute difference of logFC.", unit="log2", nullable=True, minimum=0),
        Field("largest_gene", "string", "Ensembl id of the gene with the largest difference.", nullable=True),
        Field("largest_logFC", "float64", "Our logFC of that gene.", unit="log2", nullable=True),
        Field("largest_published_logFC", "float64", "The release's logFC of that gene.", unit="log2", nullable=True),
        Field("spearman_logFC_refit", "float64", "Spearman with our fit of the release's batch; null where none was made.", **_CORRELATION),
        Field("median_difference_refit", "float64", "Median absolute difference from that fit.", unit="log2", nullable=True, minimum=0),
        Field(
            "explanation",
            "string",
            "Why the two differ: equal: no gene by more than 0.0001; dose_rounding; pooled_names; not_comparable: no gene on both sides; "
            "batch: our fit of the release's batch comes twice as near; partly_batch: it comes nearer; batch_not_refitted: the release "
            "fitted batches, we did not; unexplained.",
            allowed=(
                "equal",
                "dose_rounding",
                "pooled_names",
                "not_comparable",
                "batch",
                "partly_batch",
                "batch_not_refitted",
                "unexplained",
            ),
        ),
    ),
)

PUBLISHED_STRATA = Table(
    "published_strata",
    "One stratum of the published release beside ours. Padding is counted and takes no other part.",
    (
        *(CONTRASTS[name] for name in ("dataset", "stratum", "cell_type")),
        Field("n_files", "int64", "Files of the release.", minimum=1),
        Field("n_batches", "int64", "Random batches in which the release fitted the stratum; 1 where it fitted it whole.", minimum=1),
        Field("n_published_rows", "int64", "Rows of the release.", minimum=1),
        Field("n_padding", "int64", "Of these, rows whose condition has a row in an earlier batch.", minimum=0),
        Field("n_both", "int64", "Conditions of the release that are contrasts of ours.", minimum=0),
        Field("n_only_ours", "int64", "Contrasts of ours that the release does not have.", minimum=0),
        Field("n_only_published", "int64", "Conditions of the release that we do not have.", minimum=0),
        Field("n_genes_both", "int64", "Genes that both sides tested.", unit="genes", minimum=0),
        Field("n_genes_only_ours", "int64", "Genes that we alone tested.", unit="genes", minimum=0),
        Field("n_genes_only_published", "int64", "Genes that the release alone tested.", unit="genes", minimum=0),
        Field("n_values", "int64", "Contrasts × genes with a value on both sides.", minimum=0),
        Field("pearson_logFC", "float64", "Pearson correlation of logFC over all these.", **_CORRELATION),
        Field(
            "spearman_logFC", "float64", "Spearman correlation of logFC, over evenly spaced contrasts where there are many.", **_CORRELATION
        ),
        Field("pearson_t", "float64", "Pearson correlation of moderated t over all these.", **_CORRELATION),
        Field("spearman_t", "float64", "Spearman correlation of moderated t, as that of logFC.", **_CORRELATION),
        Field("slope_logFC", "float64", "Slope of the release's logFC on ours, by least squares.", nullable=True),
        Field("n_strong", "int64", "Values with |t| above 2 on either side.", minimum=0),
        Field("sign_agreement", "float64", "Share of these whose logFC have one sign.", nullable=True, minimum=0, maximum=1),
        *(
            Field(f"spearman_logFC_q{round(100 * share):02d}", "float64", f"Quantile {share:g} over contrasts.", **_CORRELATION)
            for share in PUBLISHED_QUANTILES
        ),
        Field("spearman_logFC_refit", "float64", "Median over contrasts with our fit of the release's batches.", **_CORRELATION),
        Field("spearman_logFC_padding", "float64", "Median over padding rows of the release's agreement with itself.", **_CORRELATION),
        Field("n_padding_compared", "int64", "Padding rows of which that is the median.", minimum=0),
        *(
            Field(f"n_{name}", "int64", f"Contrasts explained as {name}.", minimum=0)
            for name in PUBLISHED_COMPARISON["explanation"].allowed
        ),
    ),
)

PUBLISHED_GENES = Table(
    "published_genes",
    "One gene of a stratum that the published release or we tested, and why only one side did.",
    (
        *(CONTRASTS[name] for name in ("dataset", "stratum")),
        Field("ensembl_id", "string", "Ensembl gene id.", unique=True),
        Field("symbol", "string", "Gene symbol.", nullable=True),
        Field("ours", "bool", "Whether we tested it."),
        Field("published", "bool", "Whether the release did, in any batch."),
        Field("n_published_batches", "int64", "Batches in which the release tested it.", minimum=0),
        Field("support", "int64", "Our samples at or above the filter's cut-off; null without a filter.", nullable=True, minimum=0),
        Field(
            "reason",
            "string",
            "both; both_in_some_batches; our_filter: our gene filter left it out; not_among_ours: our samples do not have the gene; "
            "not_published: no batch of the release tested it; unknown: our effects do not say.",
            allowed=("both", "both_in_some_batches", "our_filter", "not_among_ours", "not_published", "unknown"),
        ),
    ),
)

PUBLISHED_UNMATCHED = Table(
    "published_unmatched",
    "One condition of a stratum that only the published release or only we have.",
    (
        *(CONTRASTS[name] for name in ("dataset", "stratum")),
        Field("side", "string", "Who has it.", allowed=("ours", "published")),
        *(CONTRASTS[name] for name in ("perturbagen", "pubchem_cid")),
        Field("pert_dose_uM", "float64", "Dose.", unit="µM", nullable=True, minimum=0),
        Field("pert_time_h", "float64", "Time.", unit="h", nullable=True, minimum=0),
        *(CONTRASTS[name] for name in ("control", "sample_id")),
        Field(
            "reason",
            "string",
            "What the other side lacks: the time, the compound at any dose, or this dose; pooled_with_another: another of our contrasts "
            "has the same label in the release; dose_or_time_missing: the release does not say it.",
            allowed=("time_not_fitted", "compound_not_fitted", "dose_not_fitted", "pooled_with_another", "dose_or_time_missing"),
        ),
    ),
)
