"""The catalog: DuckDB views on every accepted output, so that results are found by compound, gene and cell context.

Belongs here: which views there are. The file is built aside and renamed, since DuckDB refuses readers while a writer holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster import contract
from perturbridge_dagster.written import written_whole
from resources.store import Key, Output

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_TABLES = {
    "source_files": ("source_files", "source_files.parquet"),
    "samples": ("harmonized_samples", "obs.parquet"),
    "strata": ("harmonized_samples", "strata.parquet"),
    "reconciliation": ("harmonized_samples", "reconciliation.parquet"),
    "dropped_genes": ("harmonized_samples", "dropped_genes.parquet"),
    "compound_identity": ("harmonized_samples", "compound_identity.parquet"),
    "condition_contrasts": ("condition_effects", "contrasts.parquet"),
    "condition_genes": ("condition_effects", "genes.parquet"),
    "condition_gene_filter": ("condition_effects", "gene_filter.parquet"),
    "condition_tiles": ("condition_effects", "effects.parquet"),
    "replicate_contrasts": ("replicate_effects", "contrasts.parquet"),
    "replicate_genes": ("replicate_effects", "genes.parquet"),
    "replicate_gene_filter": ("replicate_effects", "gene_filter.parquet"),
    "replicate_tiles": ("replicate_effects", "effects.parquet"),
    "matched_conditions": ("matched_conditions", "matched.parquet"),
    "agreement_conditions": ("cross_dataset_agreement", "conditions.parquet"),
    "agreement_scores": ("cross_dataset_agreement", "scores.parquet"),
    "agreement_units": ("cross_dataset_agreement", "units.parquet"),
    "agreement_cell_contexts": ("cross_dataset_agreement", "cell_contexts.parquet"),
    "agreement_pairs": ("cross_dataset_agreement", "pair.parquet"),
    "agreement_strength": ("cross_dataset_agreement", "strength.parquet"),
    "retrieval_queries": ("cross_dataset_agreement", "retrieval_queries.parquet"),
    "retrieval_pools": ("cross_dataset_agreement", "retrieval_pools.parquet"),
    "retrieval_strata": ("cross_dataset_agreement", "retrieval_strata.parquet"),
    "retrieval_pairs": ("cross_dataset_agreement", "retrieval_pair.parquet"),
    "replicate_pairs": ("replicate_agreement", "pairs.parquet"),
    "replicate_scores": ("replicate_agreement", "scores.parquet"),
    "replicate_conditions": ("replicate_agreement", "conditions.parquet"),
    "replicate_cell_contexts": ("replicate_agreement", "cell_contexts.parquet"),
    "replicate_datasets": ("replicate_agreement", "dataset.parquet"),
    "replicate_retrieval_queries": ("replicate_agreement", "retrieval_queries.parquet"),
    "replicate_retrieval_pools": ("replicate_agreement", "retrieval_pools.parquet"),
    "replicate_retrieval_datasets": ("replicate_agreement", "retrieval_dataset.parquet"),
    "compendium_scores": ("compendium_agreement", "scores.parquet"),
    "compendium_pairs": ("compendium_agreement", "pairs.parquet"),
    "compendium_cell_contexts": ("compendium_agreement", "cell_contexts.parquet"),
    "compendium_overlaps": ("compendium_agreement", "overlaps.parquet"),
    "compendium_options": ("compendium_agreement", "variants.parquet"),
    "compendium_options_kept": ("compendium_agreement", "variant_report.parquet"),
    "compendium_surviving": ("compendium_agreement", "surviving.parquet"),
    "compendium_replicate_support": ("compendium_agreement", "replicate_support.parquet"),
    **{f"paper_table_{number}": ("compendium_agreement", f"table_{number}.parquet") for number in range(4, 11)},
    "published_comparison": ("published_comparison", "comparison.parquet"),
    "published_strata": ("published_comparison", "strata.parquet"),
    "published_genes": ("published_comparison", "genes.parquet"),
    "published_unmatched": ("published_comparison", "unmatched.parquet"),
    "corpus_conditions": ("training_corpus", "conditions.parquet"),
    "corpus_compounds": ("training_corpus", "compounds.parquet"),
    "embeddings": ("compound_embeddings", "embeddings.parquet"),
    "evaluation": ("compound_embeddings", "evaluation.parquet"),
    **{
        f"holdout_{table}": ("holdout_evaluation", f"{table}.parquet")
        for table in ("datasets", "runs", "errors", "summary", "comparisons", "profiles")
    },
    "op3_scores": ("op3_evaluation", "scores.parquet"),
    "op3_summary": ("op3_evaluation", "summary.parquet"),
    "op3_compounds": ("op3_evaluation", "compounds.parquet"),
    "profile_scores": ("compound_embeddings", "profile_scores.parquet"),
    "neighbours": ("compound_embeddings", "neighbours.parquet"),
    **{f"embedding_{table}": ("compound_embeddings", f"{table}.parquet") for table in ("stability", "mechanisms", "map")},
    "training_history": ("compound_embeddings", "training.parquet"),
    "representation_verdicts": ("representation_report", "verdicts.parquet"),
    "representation_parts": ("representation_report", "parts.parquet"),
}
"""View → stage and file."""

_MEANINGS = {
    "source_files": contract.SOURCE_FILES,
    "samples": contract.HARMONIZED_OBS,
    "strata": contract.STRATA,
    "reconciliation": contract.RECONCILIATION,
    "dropped_genes": contract.DROPPED_GENES,
    "compound_identity": contract.COMPOUND_IDENTITY,
    "condition_contrasts": contract.CONTRASTS,
    "condition_genes": contract.GENES,
    "condition_gene_filter": contract.GENE_FILTER,
    "replicate_contrasts": contract.CONTRASTS,
    "replicate_genes": contract.GENES,
    "replicate_gene_filter": contract.GENE_FILTER,
    "matched_conditions": contract.MATCHED_CONDITIONS,
    "agreement_conditions": contract.AGREEMENT_CONDITIONS,
    "agreement_scores": contract.AGREEMENT_SCORES,
    "agreement_units": contract.AGREEMENT_UNITS,
    "agreement_cell_contexts": contract.AGREEMENT_SUMMARY,
    "agreement_pairs": contract.AGREEMENT_SUMMARY,
    "agreement_strength": contract.AGREEMENT_STRENGTH,
    "retrieval_queries": contract.RETRIEVAL_QUERIES,
    "retrieval_pools": contract.RETRIEVAL_POOLS,
    "retrieval_strata": contract.RETRIEVAL_STRATA,
    "retrieval_pairs": contract.RETRIEVAL_PAIR,
    "replicate_pairs": contract.REPLICATE_PAIRS,
    "replicate_scores": contract.REPLICATE_SCORES,
    "replicate_conditions": contract.REPLICATE_CONDITIONS,
    "replicate_cell_contexts": contract.REPLICATE_SUMMARY,
    "replicate_datasets": contract.REPLICATE_SUMMARY,
    "replicate_retrieval_queries": contract.REPLICATE_RETRIEVAL_QUERIES,
    "replicate_retrieval_pools": contract.REPLICATE_RETRIEVAL_POOLS,
    "replicate_retrieval_datasets": contract.REPLICATE_RETRIEVAL_SUMMARY,
    "compendium_scores": contract.AGREEMENT_SCORES,
    "compendium_pairs": contract.AGREEMENT_SUMMARY,
    "compendium_cell_contexts": contract.AGREEMENT_SUMMARY,
    "compendium_overlaps": contract.DATASET_OVERLAPS,
    "compendium_options": contract.AGREEMENT_VARIANT_SUMMARY,
    "compendium_options_kept": contract.AGREEMENT_VARIANT_REPORT,
    "compendium_surviving": contract.AGREEMENT_SURVIVING,
    "compendium_replicate_support": contract.REPLICATE_SUPPORT,
    **{f"paper_table_{number}": contract.AGREEMENT_TABLE for number in (4, 5, 6, 9)},
    **{f"paper_table_{number}": contract.REPLICATE_TABLE for number in (7, 8, 10)},
    "published_comparison": contract.PUBLISHED_COMPARISON,
    "published_strata": contract.PUBLISHED_STRATA,
    "published_genes": contract.PUBLISHED_GENES,
    "published_unmatched": contract.PUBLISHED_UNMATCHED,
    "corpus_conditions": contract.CORPUS_CONDITIONS,
    "corpus_compounds": contract.CORPUS_COMPOUNDS,
    "evaluation": contract.EVALUATION,
    "holdout_datasets": contract.HOLDOUT_DATASETS,
    "holdout_runs": contract.HOLDOUT_RUNS,
    "holdout_errors": contract.HOLDOUT_ERRORS,
    "holdout_summary": contract.HOLDOUT_SUMMARY,
    "holdout_comparisons": contract.HOLDOUT_COMPARISONS,
    "holdout_profiles": contract.HOLDOUT_PROFILES,
    "op3_scores": contract.OP3_SCORES,
    "op3_summary": contract.OP3_SUMMARY,
    "op3_compounds": contract.OP3_COMPOUNDS,
    "profile_scores": contract.PROFILE_SCORES,
    "embeddings": contract.COMPOUND_EMBEDDINGS,
    "neighbours": contract.NEIGHBOURS,
    "embedding_stability": contract.EMBEDDING_STABILITY,
    "embedding_mechanisms": contract.EMBEDDING_MECHANISMS,
    "embedding_map": contract.EMBEDDING_MAP,
    "training_history": contract.TRAINING_HISTORY,
    "representation_verdicts": contract.REPRESENTATION_VERDICTS,
    "representation_parts": contract.REPRESENTATION_PARTS,
}
"""View → table of the contract, whose meanings the view and its columns carry as comments."""

_CAME_LATER = (
    *("gene_filter.parquet", "dropped_genes.parquet", "compound_identity.parquet", "compounds.parquet", "profile_scores.parquet"),
    *("stability.parquet", "mechanisms.parquet", "map.parquet", "training.parquet"),
    *(file for stage, file in _TABLES.values() if stage in ("cross_dataset_agreement", "replicate_agreement", "compendium_agreement")),
)
"""Files that outputs of earlier contracts lack."""

_SQL_TYPES = {"string": "VARCHAR", "bool": "BOOLEAN", "int32": "INTEGER", "int64": "BIGINT", "float32": "FLOAT", "float64": "DOUBLE"}

_COLUMNS = {"contrasts.parquet": contract.CONTRASTS, "genes.parquet": contract.GENES}
"""File → its table. Columns that came after contract 1.0 are null where no output has them, so that queries need not know."""

_KEYS = {"training_corpus": ("corpus",), "compound_embeddings": ("corpus", "model")}
"""Stage → what the key of its outputs says, for stages of which several outputs have rows of the same kind about the same data."""

EXAMPLES = {
    "What a compound does, strongest genes first": (
        "SELECT dataset, cell_type, pert_dose_uM, pert_time_h, symbol, logFC, t, adj_p_within\n"
        "FROM condition_effects WHERE perturbagen ILIKE 'vorinostat%' ORDER BY abs(t) DESC LIMIT 20;"
    ),
    "What moves a gene, everywhere": (
        "SELECT dataset, cell_type, perturbagen, pert_dose_uM, logFC, adj_p_within\n"
        "FROM condition_effects WHERE symbol = 'HMOX1' AND adj_p_within < 0.05 ORDER BY logFC DESC LIMIT 20;"
    ),
    "How well two datasets agree": (
        "SELECT left_dataset, right_dataset, n_compounds_observed AS compounds, observed, observed_low, observed_high, delta,\n"
        "       target_peers_delta\n"
        "FROM agreement_pairs WHERE metric = 'direction_agreement_p05' ORDER BY observed DESC;"
    ),
    "Compounds that models take for alike": (
        "SELECT corpus, model, rank, neighbour_perturbagen, cosine, n_seeds\n"
        "FROM neighbours WHERE perturbagen ILIKE 'vorinostat%' ORDER BY corpus, model, rank LIMIT 20;"
    ),
}
"""Words → query; shown with the catalog and run by its test."""


def build_catalog(file: Path, outputs: Sequence[Output], states: Mapping[Key, str]) -> pd.DataFrame:
    """Write the catalog.

    Parameters
    ----------
    file
        The DuckDB file to appear.
    outputs
        Accepted outputs of real partitions.
    states
        Stage and key of each output, joined, → state of its partition; the view ``outputs`` shows it, so that a query can leave
        out what is stale.

    Returns
    -------
    A frame with each view and its number of rows. Views of stages without an accepted output are left out.
    """
    import duckdb
    import pandas as pd

    files = {
        view: [(output.folder / name, output.key) for output in outputs if output.stage == stage and _has(output, name)]
        for view, (stage, name) in _TABLES.items()
    }
    made = [view for view, found in files.items() if found]
    with written_whole(file) as aside, duckdb.connect(str(aside)) as connection:
        keys = [(str(path), *key[:2]) for view in made if _of_effects(view) for path, key in files[view]]
        connection.register("keys", pd.DataFrame(keys, columns=["filename", "dataset", "stratum"]))
        connection.begin()  # a statement of its own costs a write to disk
        connection.execute("CREATE TABLE effect_files AS SELECT * FROM keys")
        for view in made:
            relation = _relation(connection, view, files[view])
            if view.endswith("_gene_filter"):
                query = f"SELECT f.dataset, f.stratum, g.* EXCLUDE (filename) FROM {relation} g JOIN effect_files f USING (filename)"
            else:
                query = f"SELECT *{_absent_columns(connection, relation, _TABLES[view][1])} FROM {relation}"
            connection.execute(f"CREATE VIEW {view} AS {query}")
            if view in _MEANINGS:
                _comment(connection, view, _MEANINGS[view])
        for kind in ("condition", "replicate"):
            if f"{kind}_tiles" in made:
                connection.execute(_effects_view(kind))
                made.append(f"{kind}_effects")
        listed = [(output.stage, " ".join(output.key), states[output.stage, *output.key], str(output.folder)) for output in outputs]
        connection.register("listed", pd.DataFrame(listed, columns=["stage", "key", "state", "folder"]))
        connection.execute("CREATE TABLE outputs AS SELECT * FROM listed")
        connection.commit()
        counts = [(view, connection.execute(f"SELECT count(*) FROM {view}").fetchone()[0]) for view in sorted(made)]  # type: ignore[index]
    return pd.DataFrame(counts, columns=["view", "rows"])


def _has(output: Output, name: str) -> bool:
    """Whether an output is to have a file; one that should and does not is an error of its reader."""
    return name not in _CAME_LATER or (output.folder / name).exists()


def _of_effects(view: str) -> bool:
    """Whether rows of a view belong to a stratum that only their file tells."""
    return _TABLES[view][0].endswith("_effects")


def _relation(connection: duckdb.DuckDBPyConnection, view: str, files: Sequence[tuple[Path, Key]]) -> str:
    """The rows of all files of a view as SQL, with what only the key of an output tells of its rows: see :data:`_KEYS`."""
    names = _KEYS.get(_TABLES[view][0])
    if not names:
        keyed = ", filename = true" if _of_effects(view) else ""
        return f"read_parquet([{', '.join(_quoted(path) for path, _ in files)}], union_by_name = true{keyed})"
    selected = []
    for path, key in files:
        present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM read_parquet({_quoted(path)})").fetchall()}
        told = [f"{_quoted(value)} AS {name}" for name, value in zip(names, key, strict=True) if name not in present]
        selected.append(f"SELECT {', '.join([*told, '*'])} FROM read_parquet({_quoted(path)})")
    return f"({' UNION ALL BY NAME '.join(selected)})"


def _absent_columns(connection: duckdb.DuckDBPyConnection, relation: str, name: str) -> str:
    """Columns of the contract that no file has, as nulls to select."""
    if name not in _COLUMNS:
        return ""
    present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
    return "".join(f", NULL::{_SQL_TYPES[field.type]} AS {field.name}" for field in _COLUMNS[name] if field.name not in present)


def _comment(connection: duckdb.DuckDBPyConnection, view: str, table: contract.Table) -> None:
    """Say what a view and its columns are, for whoever describes them."""
    connection.execute(f"COMMENT ON VIEW {view} IS {_quoted(table.meaning)}")
    present = {row[0] for row in connection.execute(f"DESCRIBE {view}").fetchall()}
    for field in table:
        if field.name in present:
            unit = f" [{field.unit}]" if field.unit else ""
            connection.execute(f'COMMENT ON COLUMN {view}."{field.name}" IS {_quoted(field.meaning + unit)}')


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def _effects_view(kind: str) -> str:
    """Effects with the names of contrasts and genes beside the numbers.

    P values come back from their logarithms, and the standard error and the 95 % confidence interval from logFC and t.
    """
    return f"""
        CREATE VIEW {kind}_effects AS
        SELECT c.dataset, c.stratum, c.cell_type, c.perturbagen, c.pubchem_cid, c.pert_dose_uM, c.pert_time_h, c.sample_id, c.estimable,
               g.ensembl_id, g.symbol, e.logFC, e.t, pow(10, e.log10_p) AS p,
               pow(10, e.log10_adj_p_within) AS adj_p_within, pow(10, e.log10_adj_p_across) AS adj_p_across,
               g.AveExpr, e.logFC / nullif(e.t, 0) AS standard_error,
               e.logFC - g.t_975 * standard_error AS ci_low, e.logFC + g.t_975 * standard_error AS ci_high
        FROM {kind}_tiles e
        JOIN effect_files f ON f.filename = e.filename
        JOIN {kind}_contrasts c ON c.dataset = f.dataset AND c.stratum = f.stratum AND c.contrast = e.contrast
        JOIN (SELECT g.* EXCLUDE (filename), gf.dataset, gf.stratum FROM {kind}_genes g JOIN effect_files gf ON gf.filename = g.filename) g
             ON g.dataset = f.dataset AND g.stratum = f.stratum AND g.gene = e.gene
    """
