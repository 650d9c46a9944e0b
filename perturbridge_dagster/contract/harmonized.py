"""Source files and harmonized samples: what a source gives, and what became of it."""

from __future__ import annotations

from perturbridge_dagster.contract.schema import Field, Table

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
