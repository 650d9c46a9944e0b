"""Agreement of matched conditions and of replicates: matches, scores and their summaries.

Does not belong here: retrieval (``retrieval.py``), what the whole compendium is asked (``compendium.py``).
"""

from __future__ import annotations

from typing import Any

from perturbridge_dagster.contract.schema import Field, Table

DATASET_PAIR = (Field("left_dataset", "string", "Left dataset."), Field("right_dataset", "string", "Right dataset."))

COMPOUND = Field(
    "pubchem_cid", "int64", "PubChem compound id; where salts count as one compound, the smallest of those compared.", minimum=1
)

MATCHED_CONDITIONS = Table(
    "matched_conditions",
    "One pair of conditions of two datasets with the same compound, cell context and time, nearest to each other in dose.",
    (
        COMPOUND,
        Field("cell_type", "string", "Cell-context id."),
        Field("pert_time_h", "float64", "Time.", unit="h"),
        Field("left_pert_dose_uM", "float64", "Dose in the left dataset.", unit="µM"),
        Field("right_pert_dose_uM", "float64", "Dose in the right dataset.", unit="µM"),
        Field("left_row", "int64", "Position in the left conditions.", minimum=0),
        Field("right_row", "int64", "Position in the right conditions.", minimum=0),
        Field("log10_dose_gap", "float64", "Absolute difference of log10 doses.", minimum=0),
        *DATASET_PAIR,
        Field("left_stratum", "string", "Stratum of the left contrast."),
        Field("right_stratum", "string", "Stratum of the right contrast."),
        Field("left_contrast", "int32", "Left contrast in its stratum."),
        Field("right_contrast", "int32", "Right contrast in its stratum."),
    ),
)

_LARGE = " and |logFC| > 0.2"

OF_PAIRS = (
    Field("n_genes", "int64", "Genes with values on both sides.", unit="genes", minimum=0),
    Field("mean_abs_t", "float64", "Perturbation strength: mean of both sides' mean |t|.", nullable=True, minimum=0),
    *(
        Field(f"{side}_mean_abs_t", "float64", f"Mean |t| of the {side} signature over shared genes.", nullable=True, minimum=0)
        for side in ("left", "right")
    ),
    *(
        field
        for kind, further in (("p05", ""), ("p05_lfc02", _LARGE))
        for field in (
            Field(
                f"n_shared_significant_{kind}", "int64", f"Genes with adjusted P < 0.05{further} on both sides.", unit="genes", minimum=0
            ),
            *(
                Field(
                    f"{side}_n_significant_{kind}",
                    "int64",
                    f"Shared genes with adjusted P < 0.05{further} in the {side} signature.",
                    unit="genes",
                    minimum=0,
                )
                for side in ("left", "right")
            ),
        )
    ),
    *(
        Field(f"{side}_baseline_compounds", "int64", f"Other compounds in the centroid of the {side} side; 0: it has none.", minimum=0)
        for side in ("left", "right")
    ),
)
"""What is said of a pair of signatures beside its scores."""

AGREEMENT_CONDITIONS = Table(
    "agreement_conditions",
    "One matched pair of conditions: over how many genes it is compared, and how strong its perturbations are.",
    (
        *MATCHED_CONDITIONS.fields,
        *OF_PAIRS,
        Field("left_n_samples", "int64", "Samples of the left condition.", unit="samples", minimum=1),
        Field(
            "right_n_samples",
            "int64",
            "Samples of the right condition; the published tables count a match once for each pair of samples.",
            unit="samples",
            minimum=1,
        ),
    ),
)

METRIC_NAMES = (
    "spearman_logFC",
    "spearman_t",
    "signed_overlap_t_top50",
    "deg_spearman_p05",
    "deg_spearman_p05_lfc02",
    "direction_agreement_p05",
    "direction_agreement_p05_lfc02",
    "de_overlap_reference_n",
    "de_overlap_top50",
    "de_overlap_top100",
    "de_overlap_top200",
)
"""Metrics of agreement; what each measures is said in ``agreement/metrics.py``."""

GENE_UNIVERSES = ("pairwise", "global", "l1000")
"""Over which genes a score is computed: those that both strata tested, those that every dataset with the cell context tested, or those
of the first that L1000 measures."""

BASELINES = ("source_centroid", "target_centroid", "source_peers", "target_peers")
"""What a score is set beside: other compounds of the signature's own dataset (source) or of the other dataset (target), their mean
(centroid) or each alone (peers)."""


REPLICATE_BASELINES = ("source_centroid", "source_peers")
"""The same of replicates, which have one dataset."""


def _baseline_fields(baselines: tuple[str, ...]) -> tuple[Field, ...]:
    """Baselines of a score: mean over both sides, difference, and the sides; of peers also how the score lies among theirs."""
    of = {"source": "the signature's own dataset", "target": "the other dataset"}
    fields = []
    for name in baselines:
        which, kind = name.split("_")
        compared = f"other compounds of {of[which]} at the same dose and time"
        what = f"the mean of {compared}" if kind == "centroid" else compared
        scored = f"Score of a signature with {what}" + (", mean over these" if kind == "peers" else "")
        fields += [
            Field(name, "float64", f"{scored}; mean of the sides that have one.", nullable=True, minimum=-1, maximum=1),
            Field(f"{name}_delta", "float64", f"Score minus {name}, where both are defined.", nullable=True, minimum=-2, maximum=2),
        ]
        for side in ("left", "right"):
            fields.append(Field(f"{side}_{name}", "float64", f"{scored}: the {side} signature.", nullable=True, minimum=-1, maximum=1))
            if kind == "peers":
                first = f"{side}_{name}"
                fields += [
                    Field(f"{first}_sd", "float64", "Standard deviation over these peers (ddof 1).", nullable=True, minimum=0),
                    Field(f"{first}_n", "int64", "Peers with a score.", minimum=0),
                    Field(
                        f"{first}_percentile",
                        "float64",
                        "Where the score lies among theirs: (1 + number below) / (peers + 1).",
                        nullable=True,
                        minimum=0,
                        maximum=1,
                    ),
                    Field(
                        f"{first}_p",
                        "float64",
                        "Empirical P value of the score: (1 + number at or above) / (peers + 1).",
                        nullable=True,
                        minimum=0,
                        maximum=1,
                    ),
                ]
    return tuple(fields)


_SCORE = (
    Field("metric", "string", "Metric of agreement.", allowed=METRIC_NAMES),
    Field("gene_universe", "string", "Genes over which it is computed.", allowed=GENE_UNIVERSES),
    Field(
        "n_genes",
        "int64",
        "Genes that the score counts: values on both sides; significant genes of both sides for direction, of the side with fewer for the "
        "other metrics of significant genes.",
        unit="genes",
        minimum=0,
    ),
    Field("score", "float64", "Agreement of the two sides.", nullable=True, minimum=-1, maximum=1),
)

AGREEMENT_SCORES = Table(
    "agreement_scores",
    "One metric of one matched pair of conditions over one set of genes, beside its baselines.",
    (*MATCHED_CONDITIONS.fields, *_SCORE, *_baseline_fields(BASELINES)),
)

REPLICATE_PAIRS = Table(
    "replicate_pairs",
    "One pair of replicates of a condition, scored.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("stratum", "string", "Stratum of the left replicate."),
        Field("right_stratum", "string", "Stratum of the right replicate; another one where a cell context has several."),
        Field("cell_type", "string", "Cell-context id."),
        COMPOUND,
        Field("pert_dose_uM", "float64", "Dose.", unit="µM"),
        Field("pert_time_h", "float64", "Time.", unit="h"),
        Field("left_contrast", "int32", "One replicate."),
        Field("right_contrast", "int32", "The other replicate."),
        *OF_PAIRS,
        Field(
            "unmatched_spearman_logFC",
            "float64",
            "Spearman of the one replicate with a seeded replicate of another compound on the other replicate's plate.",
            nullable=True,
            minimum=-1,
            maximum=1,
        ),
    ),
)

REPLICATE_SCORES = Table(
    "replicate_scores",
    "One metric of one pair of replicates over one set of genes, beside its baselines.",
    (
        *(
            REPLICATE_PAIRS[name]
            for name in (
                "dataset",
                "stratum",
                "right_stratum",
                "cell_type",
                "pubchem_cid",
                "pert_dose_uM",
                "pert_time_h",
                "left_contrast",
                "right_contrast",
            )
        ),
        *_SCORE,
        *_baseline_fields(REPLICATE_BASELINES),
    ),
)

MATCHED_STRATA = Table(
    "matched_strata",
    "One cell context and time in which two datasets share conditions.",
    (
        *DATASET_PAIR,
        Field("cell_type", "string", "Cell-context id."),
        Field("pert_time_h", "float64", "Time.", unit="h", minimum=0),
        Field("n_compounds", "int64", "Distinct compounds matched.", minimum=1),
        Field("n_matches", "int64", "Matched pairs of conditions.", minimum=1),
        Field("median_log10_dose_gap", "float64", "Median difference of log10 doses.", minimum=0),
    ),
)


METRIC, GENE_UNIVERSE = _SCORE[:2]


def _mean_meanings(baselines: tuple[str, ...]) -> dict[str, str]:
    """Quantities that a summary gives the mean of, with what each is; `baselines` are those beside the first, the published one."""
    of = {"source": "each signature's own dataset", "target": "the other dataset"}
    meanings = {
        "observed": "Observed score",
        "baseline": "Baseline: source_centroid, the score with the mean of other compounds of each signature's own dataset",
        "delta": "Observed score minus baseline, where both are defined",
        "paired_observed": "Observed score, where a baseline is defined",
        "paired_baseline": "Baseline, where an observed score is defined",
    }
    for name in baselines:
        which, kind = name.split("_")
        compared = f"{'the mean of ' if kind == 'centroid' else ''}other compounds of {of[which]}"
        meanings |= {name: f"Score with {compared}", f"{name}_delta": f"Observed score minus {name}, where both are defined"}
        if kind == "peers":
            meanings[f"{name}_percentile"] = f"Where the observed score lies among those with {compared}, from 0 to 1"
    return meanings


def _has_interval(name: str) -> bool:
    """Whether a summary gives a mean its confidence interval."""
    return name in ("observed", "baseline") or name.endswith("delta")


_INTERVAL_METHODS = ("bca", "percentile", "degenerate", "not_estimable")


def interval(name: str, value: dict[str, Any]) -> tuple[Field, ...]:
    """Ends of the confidence interval of a mean with the bounds `value`, and how it was made."""
    return (
        Field(f"{name}_low", "float64", f"Low end of the 95 % interval of {name}.", **value),
        Field(f"{name}_high", "float64", f"High end of the 95 % interval of {name}.", **value),
        Field(
            f"{name}_interval",
            "string",
            "How the interval was made, from resamples of compounds: bca; percentile: where an acceleration is undefined; "
            "degenerate: all resamples are equal; not_estimable: fewer than two compounds, or too few resamples with a value.",
            allowed=_INTERVAL_METHODS,
        ),
    )


def _means(baselines: tuple[str, ...], over: str, *, intervals: bool = False) -> tuple[Field, ...]:
    """Means of quantities over the rows (named `over`) in which each is defined, with their confidence intervals where asked."""
    fields = []
    for name, meaning in _mean_meanings(baselines).items():
        low, high = (-2, 2) if name.endswith("delta") else (0, 1) if name.endswith("percentile") else (-1, 1)
        value: dict[str, Any] = {"nullable": True, "minimum": low, "maximum": high}
        fields.append(Field(name, "float64", f"{meaning}; mean over {over} that have it.", **value))
        if intervals and _has_interval(name):
            fields += interval(name, value)
    return tuple(fields)


_UNIT_MATCHED_BY = (
    GENE_UNIVERSE,
    METRIC,
    COMPOUND,
    Field("cell_type", "string", "Cell-context id."),
    Field("pert_time_h", "float64", "Time.", unit="h", minimum=0),
)
_UNMATCHED = Field(
    "unmatched",
    "float64",
    "Score of replicates of different compounds on one plate, mean over what has it; null for metrics that have none.",
    nullable=True,
    minimum=-1,
    maximum=1,
)

AGREEMENT_UNITS = Table(
    "agreement_units",
    "One compound, cell context and time of two datasets by one metric and gene universe: means over matched doses.",
    (
        *DATASET_PAIR,
        *_UNIT_MATCHED_BY,
        Field("n_conditions", "int64", "Matched pairs of conditions.", minimum=1),
        *_means(BASELINES[1:], "matched doses"),
    ),
)

REPLICATE_CONDITIONS = Table(
    "replicate_conditions",
    "One condition of a dataset by one metric and gene universe: means over its pairs of replicates.",
    (
        Field("dataset", "string", "Dataset id."),
        *_UNIT_MATCHED_BY,
        Field("pert_dose_uM", "float64", "Dose.", unit="µM"),
        Field("n_pairs", "int64", "Pairs of replicates.", minimum=1),
        *_means(REPLICATE_BASELINES[1:], "pairs"),
        _UNMATCHED,
    ),
)


def _summary(units: str, unit: str, baselines: tuple[str, ...]) -> tuple[Field, ...]:
    """Fields of a summary: numbers of units (named `units`, each a `unit`) and compounds, and means over units with intervals."""
    counted = (("", "in all"), ("_observed", "with an observed score"), ("_baseline", "with a baseline"), ("_paired", "with both"))
    return (
        *(
            field
            for suffix, which in counted
            for field in (
                Field(f"{units}{suffix}", "int64", f"Units ({unit}) {which}.", minimum=0),
                Field(f"n_compounds{suffix}", "int64", f"Distinct compounds {which}.", minimum=0),
            )
        ),
        *_means(baselines, "units", intervals=True),
    )


SUMMARISED_CONTEXT = Field("cell_type", "string", "Cell-context id; null for all together.", nullable=True)
SUMMARY_OF_PAIR = (
    Field("left_dataset", "string", "Left dataset."),
    Field("right_dataset", "string", "Right dataset."),
    SUMMARISED_CONTEXT,
    GENE_UNIVERSE,
    METRIC,
    Field("n_conditions", "int64", "Matched pairs of conditions.", minimum=1),
    *_summary("n_units", "a compound, cell context and time", BASELINES[1:]),
)

AGREEMENT_SUMMARY = Table(
    "agreement_summary", "Agreement of two datasets by one metric and gene universe, over all or in one cell context.", SUMMARY_OF_PAIR
)

REPLICATE_SUMMARY = Table(
    "replicate_summary",
    "Agreement of the replicates of a dataset by one metric and gene universe, over all or in one cell context.",
    (
        Field("dataset", "string", "Dataset id."),
        SUMMARISED_CONTEXT,
        GENE_UNIVERSE,
        METRIC,
        Field("n_pairs", "int64", "Pairs of replicates.", minimum=1),
        *_summary("n_conditions", "a compound, cell context, time and dose", REPLICATE_BASELINES[1:]),
        _UNMATCHED,
    ),
)
