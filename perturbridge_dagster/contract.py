"""The harmonized schema and every table the platform writes, said once.

Great Expectations suites, Arrow schemas of written files, the data dictionary and the column schemas in the Dagster UI all derive
from the tables below. Belongs here: fields, their types, units, meanings and allowed values. Does not belong here: code that
checks data (``quality/``) or writes it (``written.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

CONTRACT_VERSION = "1.3"
"""Version of this contract. A change of the first number breaks readers; of the second adds nullable fields."""

Type = Literal["string", "bool", "int32", "int64", "float32", "float64"]
CheckFamily = Literal["schema", "identity", "chemistry", "dose_time", "controls", "counts"]


@dataclass(frozen=True)
class Field:
    """One column of a written table.

    Attributes
    ----------
    name, type, meaning
        Column name, Arrow type name and one sentence on what a value says.
    unit
        Unit of a number (``µM``, ``h``, ``log2``, ``counts``), or None.
    nullable
        Whether a value may be missing. Missing values are nulls, never sentinels.
    allowed
        Closed vocabulary of a string field; empty means open.
    pattern
        Regular expression that every value matches.
    minimum, maximum
        Inclusive bounds of a number.
    unique
        Whether a value occurs at most once in a table.
    family
        The check family that judges the field on harmonized samples.
    since
        Contract version that brought the field; files of earlier versions do not have it.
    """

    name: str
    type: Type
    meaning: str
    unit: str | None = None
    nullable: bool = False
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    unique: bool = False
    family: CheckFamily = "schema"
    since: str = "1.0"


@dataclass(frozen=True)
class Table:
    """A written table: its name, what a row is, and its fields in file order."""

    name: str
    meaning: str
    fields: tuple[Field, ...]

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"table {self.name} has no field {name}; it has {', '.join(self.names)}")

    @property
    def names(self) -> list[str]:
        """Field names in file order."""
        return [field.name for field in self.fields]

    def extended(self, fields: Iterable[Field]) -> Table:
        """The table with further fields at its end, as a dataset declares them.

        Raises
        ------
        ValueError
            If the table has a field of that name.
        """
        further = tuple(fields)
        twice = sorted({field.name for field in further} & set(self.names))
        if twice:
            raise ValueError(f"table {self.name} has {', '.join(twice)} already")
        return replace(self, fields=(*self.fields, *further))

    def as_of(self, version: str) -> Table:
        """The table as an earlier contract version had it: without the fields that came later."""
        return replace(self, fields=tuple(field for field in self.fields if version_numbers(field.since) <= version_numbers(version)))

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of the table; unit and meaning travel as field metadata."""
        import pyarrow as pa

        types = {"string": pa.string(), "bool": pa.bool_()} | {
            name: getattr(pa, name)() for name in ("int32", "int64", "float32", "float64")
        }
        return pa.schema(
            [
                pa.field(
                    field.name,
                    types[field.type],
                    nullable=field.nullable,
                    metadata={"meaning": field.meaning} | ({"unit": field.unit} if field.unit else {}),
                )
                for field in self.fields
            ]
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """A contract version as numbers, so that 1.10 comes after 1.9."""
    return tuple(map(int, version.split(".")))


MODEL_SYSTEMS = ("cell line", "primary", "patient-derived", "iPSC-derived")

CELL_CONTEXT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

SOURCE_FILES = Table(
    "source_files",
    "One native file of a dataset, as it was when it was recorded.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("role", "string", "What the file is, in the words of the registry."),
        Field("name", "string", "File, relative to the folder of the dataset.", unique=True),
        Field("bytes", "int64", "Size.", unit="bytes", minimum=0),
        Field("modified_ns", "int64", "Modification time.", unit="ns since 1970"),
        Field("sha256", "string", "SHA-256 of the file.", pattern=r"^[0-9a-f]{64}$"),
    ),
)

HARMONIZED_OBS = Table(
    "harmonized_obs",
    "One harmonized sample: a well, or the sum of the cells of one well, perturbagen and cell context.",
    (
        Field("sample_id", "string", "Key of the sample, unique in the dataset.", unique=True, family="identity"),
        Field("dataset", "string", "Dataset id of the registry.", family="identity"),
        Field("plate", "string", "Plate on which the sample was measured; the blocking factor of the fit."),
        Field("well", "string", "Well, in the words of the source.", nullable=True),
        Field(
            "cell_type",
            "string",
            "Cell-context id: Cellosaurus accession (CVCL_…), Cell Ontology id (CL_…), or the source's name where neither exists.",
            pattern=CELL_CONTEXT_PATTERN,
            family="identity",
        ),
        Field("source_cell_context", "string", "Cell context as the source names it.", family="identity"),
        Field(
            "cell_type_source",
            "string",
            "Vocabulary of cell_type with its version, such as Cellosaurus 55.0; source where the id is made of the source's own name.",
            nullable=True,
            family="identity",
            since="1.2",
        ),
        Field(
            "model_system",
            "string",
            "What the cells are: an immortal line, cells taken from a donor, a culture made of a patient's tissue, or cells made of "
            "induced pluripotent stem cells; null where nobody says.",
            nullable=True,
            allowed=MODEL_SYSTEMS,
            family="identity",
            since="1.2",
        ),
        Field("perturbagen", "string", "Compound as the source names it.", family="identity"),
        Field("source_perturbagen_id", "string", "Identifier of the compound at the source.", nullable=True, family="identity"),
        Field("pert_type", "string", "Kind of perturbagen.", allowed=("compound", "genetic", "biologic", "physical")),
        Field("is_control", "bool", "Whether the sample is a vehicle control.", family="controls"),
        Field("pert_dose_uM", "float64", "Dose; 0 for controls.", unit="µM", minimum=0, maximum=1e6, family="dose_time"),
        Field(
            "nominal_dose_uM",
            "float64",
            "Dose that was meant: one value for doses of a compound that differ by hardly more than a pipette does; 0 for controls.",
            unit="µM",
            nullable=True,
            minimum=0,
            maximum=1e6,
            family="dose_time",
            since="1.2",
        ),
        Field("pert_time_h", "float64", "Time from treatment to measurement.", unit="h", minimum=0, maximum=1e4, family="dose_time"),
        Field("pubchem_cid", "int64", "PubChem compound id; null where none is known.", nullable=True, minimum=1, family="chemistry"),
        Field(
            "pubchem_cid_source",
            "string",
            "How the PubChem id was found.",
            nullable=True,
            allowed=("curated", "source", "inchikey", "smiles", "catalogue", "cas", "name"),
            family="chemistry",
        ),
        Field(
            "inchikey",
            "string",
            "InChIKey of the compound.",
            nullable=True,
            pattern=r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$",
            family="chemistry",
        ),
        Field("smiles", "string", "SMILES of the compound as the source gives it.", nullable=True, family="chemistry"),
        Field(
            "parent_key",
            "string",
            "First block of the InChIKey of the salt-stripped parent structure; equal for salts and hydrates of one drug.",
            nullable=True,
            pattern=r"^[A-Z]{14}$",
            family="chemistry",
        ),
        Field("suspension_type", "string", "What was measured.", allowed=("cell", "nucleus", "na")),
        Field("tissue", "string", "Tissue of origin of the cell context.", nullable=True),
        Field("tissue_type", "string", "Always cell culture.", allowed=("cell culture",)),
        Field("disease", "string", "Disease of the donor in the words of donor_source; normal for healthy material.", nullable=True),
        Field("assay", "string", "Name of the assay."),
        Field("development_stage", "string", "Age of the donor in words.", nullable=True),
        Field("organism", "string", "Species.", allowed=("human",)),
        Field("sex", "string", "Sex of the donor.", nullable=True, allowed=("male", "female", "unknown")),
        Field(
            "self_reported_ethnicity", "string", "In the words of donor_source; vocabularies differ and are never pooled.", nullable=True
        ),
        Field(
            "donor_source",
            "string",
            "Who reports tissue, disease, development stage, sex and ethnicity, in whose words they are; several joined by semicolons.",
            nullable=True,
            since="1.2",
        ),
        Field("library", "string", "Sequencing library.", nullable=True),
        Field("stimulation", "string", "Stimulation beside the compound.", nullable=True),
        Field("guide", "string", "Guide of a genetic screen; reserved.", nullable=True),
        Field(
            "psbulk_cells", "int64", "Cells summed into the sample; null for bulk.", unit="cells", nullable=True, minimum=1, family="counts"
        ),
        Field(
            "psbulk_counts",
            "int64",
            "Total counts of the sample; null for intensities.",
            unit="counts",
            nullable=True,
            minimum=1,
            family="counts",
        ),
    ),
)

HARMONIZED_VAR = Table(
    "harmonized_var",
    "One gene of a harmonized dataset.",
    (
        Field("ensembl_id", "string", "Ensembl gene id without version.", unique=True, pattern=r"^ENSG\d{11}$", family="identity"),
        Field("symbol", "string", "Gene symbol, for display.", nullable=True),
        Field("source_gene_id", "string", "Gene as the source names it; several joined by ; where merged.", family="identity"),
        Field("is_merged", "bool", "Whether several source genes were summed into this one."),
    ),
)

COMPOUND_IDENTITY = Table(
    "compound_identity",
    "One compound of a dataset as its source names it: who it is, how that was found, by what query, where and when.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("source_perturbagen_id", "string", "Identifier of the compound at the source.", nullable=True),
        Field("perturbagen", "string", "Compound as the source names it.", nullable=True),
        Field("pubchem_cid", "int64", "PubChem compound id; null where none is known.", nullable=True, minimum=1),
        Field(
            "pubchem_cid_source",
            "string",
            "How the PubChem id was found.",
            nullable=True,
            allowed=("curated", "source", "inchikey", "smiles", "catalogue", "cas", "name"),
        ),
        Field(
            "outcome",
            "string",
            "found; not_found: whoever could know was asked, or a curated entry closes the question; failed: PubChem could not be asked, "
            "or did not understand; not_asked: the snapshot does not know, and PubChem has not been asked.",
            allowed=("found", "not_found", "failed", "not_asked"),
        ),
        Field("answer_query", "string", "What was looked up; null for the source's own id.", nullable=True),
        Field("answer_source", "string", "Who answered.", nullable=True),
        Field("answer_date", "string", "When the answer was taken from there, ISO 8601; null for the source's own id.", nullable=True),
        Field("n_candidates", "int64", "Compounds that answer the query; null where nothing was looked up.", nullable=True, minimum=1),
        Field(
            "candidate_rule",
            "string",
            "How one of several was taken: inchikey, the one of the same InChIKey; parent, of the same parent structure; lowest, the "
            "lowest PubChem id.",
            nullable=True,
            allowed=("inchikey", "parent", "lowest"),
        ),
        Field(
            "structure_pubchem_cid",
            "int64",
            "PubChem id of the structure, where it is another one than the curated or the source's own id.",
            nullable=True,
            minimum=1,
        ),
        Field("inchikey", "string", "InChIKey of the compound.", nullable=True, pattern=r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$"),
        Field("parent_key", "string", "Key of the salt-stripped parent structure.", nullable=True, pattern=r"^[A-Z]{14}$"),
        Field("inchikey_unreadable", "bool", "Whether the source gives an InChIKey that is none."),
        Field("smiles_unreadable", "bool", "Whether the source gives a SMILES that cannot be read."),
        Field("cas_unreadable", "bool", "Whether the source gives a CAS number that is none."),
    ),
)

DROPPED_GENES = Table(
    "dropped_genes",
    "One gene of a native file that no column of the harmonized samples counts, and why.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("file", "string", "Native file that has the gene."),
        Field("source_gene_id", "string", "Gene as the source names it."),
        Field(
            "reason",
            "string",
            "retired: it was in use, and nothing current stands for it; ambiguous: several current genes may stand for it; unknown: no "
            "table has it; shared: other genes of the file lead to the same current gene, and normalized values cannot be summed; not "
            "in every file: another file of the dataset has no values of it.",
            allowed=("retired", "ambiguous", "unknown", "shared", "not in every file"),
        ),
        Field("rule", "string", "Rule of the reconciliation that counts it."),
        Field("ensembl_id", "string", "Current gene that it would have been; null where there is none.", nullable=True),
        Field("found", "string", "How that is known.", nullable=True),
        Field(
            "counts_lost",
            "int64",
            "Counts of the gene over all samples; null for normalized values.",
            unit="counts",
            nullable=True,
            minimum=0,
        ),
    ),
)

STRATA = Table(
    "strata",
    "One stratum: the samples that one limma fit sees.",
    (
        Field("dataset", "string", "Dataset id."),
        Field("stratum", "string", "Stratum id, unique in the dataset.", unique=True, pattern=CELL_CONTEXT_PATTERN),
        Field("cell_type", "string", "Cell-context id.", pattern=CELL_CONTEXT_PATTERN),
        Field("source_cell_context", "string", "Cell context as the source names it."),
        Field("n_samples", "int64", "Samples.", unit="samples", minimum=1),
        Field("n_treated", "int64", "Treated samples.", unit="samples", minimum=0),
        Field("n_controls", "int64", "Vehicle controls.", unit="samples", minimum=0),
        Field("n_conditions", "int64", "Distinct compound × dose × time.", minimum=0),
        Field("n_perturbagens", "int64", "Distinct treated perturbagens.", minimum=0),
        Field("n_plates", "int64", "Plates.", minimum=1),
        Field("n_genes", "int64", "Genes.", minimum=1),
        Field("file", "string", "File of the stratum, relative to the output folder."),
        Field("checksum", "string", "SHA-256 of the canonical content of the stratum.", pattern=r"^[0-9a-f]{64}$"),
    ),
)

RECONCILIATION = Table(
    "reconciliation",
    "One step from source rows to harmonized samples: what a rule dropped, and what was left.",
    (
        Field("step", "int64", "Order of the step.", minimum=0),
        Field(
            "axis",
            "string",
            "What is counted; conditions are distinct compounds, doses, times and cell contexts, vehicles among them.",
            allowed=("cells", "samples", "conditions", "genes"),
        ),
        Field("rule", "string", "The rule in words."),
        Field("n_in", "int64", "Rows before.", minimum=0),
        Field("n_dropped", "int64", "Rows dropped, or merged into others, by the rule.", minimum=0),
        Field("n_out", "int64", "Rows after.", minimum=0),
    ),
)

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

_DATASET_PAIR = (Field("left_dataset", "string", "Left dataset."), Field("right_dataset", "string", "Right dataset."))

MATCHED_CONDITIONS = Table(
    "matched_conditions",
    "One pair of conditions of two datasets with the same compound, cell context and time, nearest to each other in dose.",
    (
        Field("pubchem_cid", "int64", "PubChem compound id.", minimum=1),
        Field("cell_type", "string", "Cell-context id."),
        Field("pert_time_h", "float64", "Time.", unit="h"),
        Field("left_pert_dose_uM", "float64", "Dose in the left dataset.", unit="µM"),
        Field("right_pert_dose_uM", "float64", "Dose in the right dataset.", unit="µM"),
        Field("left_row", "int64", "Position in the left conditions.", minimum=0),
        Field("right_row", "int64", "Position in the right conditions.", minimum=0),
        Field("log10_dose_gap", "float64", "Absolute difference of log10 doses.", minimum=0),
        *_DATASET_PAIR,
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
        Field("pubchem_cid", "int64", "PubChem compound id.", minimum=1),
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
        *_DATASET_PAIR,
        Field("cell_type", "string", "Cell-context id."),
        Field("pert_time_h", "float64", "Time.", unit="h", minimum=0),
        Field("n_compounds", "int64", "Distinct compounds matched.", minimum=1),
        Field("n_matches", "int64", "Matched pairs of conditions.", minimum=1),
        Field("median_log10_dose_gap", "float64", "Median difference of log10 doses.", minimum=0),
    ),
)


_METRIC, _GENE_UNIVERSE = _SCORE[:2]


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


def _interval(name: str, value: dict[str, Any]) -> tuple[Field, ...]:
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
            fields += _interval(name, value)
    return tuple(fields)


_UNIT_MATCHED_BY = (
    _GENE_UNIVERSE,
    _METRIC,
    Field("pubchem_cid", "int64", "PubChem compound id.", minimum=1),
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
        *_DATASET_PAIR,
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


_SUMMARISED_CONTEXT = Field("cell_type", "string", "Cell-context id; null for all together.", nullable=True)
_SUMMARY_OF_PAIR = (
    Field("left_dataset", "string", "Left dataset."),
    Field("right_dataset", "string", "Right dataset."),
    _SUMMARISED_CONTEXT,
    _GENE_UNIVERSE,
    _METRIC,
    Field("n_conditions", "int64", "Matched pairs of conditions.", minimum=1),
    *_summary("n_units", "a compound, cell context and time", BASELINES[1:]),
)

AGREEMENT_SUMMARY = Table(
    "agreement_summary", "Agreement of two datasets by one metric and gene universe, over all or in one cell context.", _SUMMARY_OF_PAIR
)

REPLICATE_SUMMARY = Table(
    "replicate_summary",
    "Agreement of the replicates of a dataset by one metric and gene universe, over all or in one cell context.",
    (
        Field("dataset", "string", "Dataset id."),
        _SUMMARISED_CONTEXT,
        _GENE_UNIVERSE,
        _METRIC,
        Field("n_pairs", "int64", "Pairs of replicates.", minimum=1),
        *_summary("n_conditions", "a compound, cell context, time and dose", REPLICATE_BASELINES[1:]),
        _UNMATCHED,
    ),
)

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
_DIFFERENCE: dict[str, Any] = {"nullable": True, "minimum": -1, "maximum": 1}
_RANK_SCORES = (
    Field("normalised_rank", "float64", "How far up the best positive stands: 1 first, 0 last.", **_SHARE),
    Field("expected_normalised_rank", "float64", "What random order gives, with as many positives.", **_SHARE),
    Field("above_expected", "float64", "normalised_rank minus expected_normalised_rank.", **_DIFFERENCE),
    Field("auroc", "float64", "Share of pairs of a positive and a negative in which the positive is more similar; ties half.", **_SHARE),
    Field(
        "centroid_normalised_rank",
        "float64",
        "How far up the mean of other compounds of the query's own stratum, dose and time stands among the candidates; null where there "
        "is none.",
        **_SHARE,
    ),
    Field("centroid_delta", "float64", "normalised_rank minus centroid_normalised_rank.", **_DIFFERENCE),
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
            *(_interval(field.name, _SHARE | {"minimum": field.minimum}) if field.name in _RANK_INTERVALS else ()),
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
        _SUMMARISED_CONTEXT,
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
    (Field("dataset", "string", "Dataset id."), _SUMMARISED_CONTEXT, *_RETRIEVED_BY, *_RANK_SUMMARY),
)

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
        _GENE_UNIVERSE,
        _METRIC,
        Field("n_conditions", "int64", "Matched pairs of conditions with a score.", minimum=0),
        Field("n_compounds", "int64", "Their distinct compounds.", minimum=0),
        Field("spearman", "float64", "Spearman correlation of mean |t| and score.", **_DIFFERENCE),
        *_interval("spearman", _DIFFERENCE),
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
    (_VARIANT, *_SUMMARY_OF_PAIR),
)

AGREEMENT_VARIANT_REPORT = Table(
    "agreement_variant_report",
    "What a named option kept and dropped of one cell context and time of two datasets.",
    (
        _VARIANT,
        *_DATASET_PAIR,
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
        *_DATASET_PAIR,
        _GENE_UNIVERSE,
        _METRIC,
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
        *_DATASET_PAIR,
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

COVERAGE = Table(
    "coverage",
    "One partition of one stage, and whether it is there.",
    (
        Field("stage", "string", "Stage."),
        Field("dataset", "string", "Dataset, dataset pair or corpus."),
        Field("cell_context", "string", "Cell context, or model.", nullable=True),
        Field(
            "state",
            "string",
            "current; missing: could be computed now; stale: inputs or code changed; failed; unaccepted: a blocking check has not "
            "passed; waiting: for an input.",
            allowed=("current", "missing", "stale", "failed", "unaccepted", "waiting"),
        ),
        Field("reason", "string", "Why, where there is something to say.", nullable=True),
    ),
)

RESOURCE_REPORT = Table(
    "resource_report",
    "What a stage asked of machines for a dataset, and what it used: current outputs, and every SLURM job that was ever sent for them.",
    (
        Field("stage", "string", "Stage."),
        Field("dataset", "string", "Dataset, or corpus; pairs of datasets are together."),
        Field("outputs", "int64", "Current outputs: strata of effects, pairs, or one.", minimum=0),
        Field("output_bytes", "int64", "Size of the outputs.", unit="bytes", minimum=0, nullable=True),
        Field("jobs", "int64", "SLURM jobs that made them or failed to; 0 where all were computed on Dagster's machine.", minimum=0),
        Field("failed_share", "float64", "Share of these jobs that failed.", nullable=True, minimum=0, maximum=1),
        Field("retried_share", "float64", "Share of what jobs made that took more than one job.", nullable=True, minimum=0, maximum=1),
        Field("cpus_asked", "int64", "Most CPUs that a job asked for.", nullable=True, minimum=1),
        Field("memory_asked_median", "float64", "Memory that jobs asked for, median.", unit="GiB", nullable=True, minimum=0),
        Field("memory_asked_max", "float64", "Memory that jobs asked for, most.", unit="GiB", nullable=True, minimum=0),
        Field(
            "memory_used_median",
            "float64",
            "Peak memory of the process while it made an output, median.",
            unit="GiB",
            nullable=True,
            minimum=0,
        ),
        Field("memory_used_max", "float64", "Peak memory of an output, or of a job by sacct, most.", unit="GiB", nullable=True, minimum=0),
        Field("hours_asked_max", "float64", "Longest time limit of a job.", unit="h", nullable=True, minimum=0),
        Field("hours_used_max", "float64", "Longest time of an output, or of a job by sacct.", unit="h", nullable=True, minimum=0),
        Field(
            "job_hours",
            "float64",
            "Time that jobs ran, start and failed ones included; a job of several datasets counts in parts.",
            unit="h",
            minimum=0,
        ),
        Field("compute_hours", "float64", "Time that making the current outputs took.", unit="h", minimum=0),
        Field("cpu_hours", "float64", "Time of all CPUs while these were made.", unit="h", minimum=0),
    ),
)

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

TABLES = (
    SOURCE_FILES,
    HARMONIZED_OBS,
    HARMONIZED_VAR,
    COMPOUND_IDENTITY,
    DROPPED_GENES,
    STRATA,
    RECONCILIATION,
    CONTRASTS,
    GENES,
    GENE_FILTER,
    EFFECTS,
    EFFECTS_PROFILE,
    MATCHED_CONDITIONS,
    MATCHED_STRATA,
    AGREEMENT_CONDITIONS,
    AGREEMENT_SCORES,
    AGREEMENT_UNITS,
    AGREEMENT_SUMMARY,
    REPLICATE_PAIRS,
    REPLICATE_SCORES,
    REPLICATE_SUMMARY,
    RETRIEVAL_POOLS,
    RETRIEVAL_QUERIES,
    RETRIEVAL_STRATA,
    RETRIEVAL_PAIR,
    REPLICATE_RETRIEVAL_POOLS,
    REPLICATE_RETRIEVAL_QUERIES,
    REPLICATE_RETRIEVAL_SUMMARY,
    REPLICATE_SUPPORT,
    AGREEMENT_STRENGTH,
    DATASET_OVERLAPS,
    AGREEMENT_VARIANT_SUMMARY,
    AGREEMENT_VARIANT_REPORT,
    AGREEMENT_SURVIVING,
    AGREEMENT_TABLE,
    REPLICATE_TABLE,
    CORPUS,
    CORPUS_CONDITIONS,
    CORPUS_READOUTS,
    CORPUS_SHARDS,
    CORPUS_GENES,
    EVALUATION,
    COMPOUND_EMBEDDINGS,
    NEIGHBOURS,
    COVERAGE,
    RESOURCE_REPORT,
    PUBLISHED_COMPARISON,
    PUBLISHED_STRATA,
    PUBLISHED_GENES,
    PUBLISHED_UNMATCHED,
)
"""Every written table, in the order of the flow; the data dictionary lists them so."""
