"""The catalog: DuckDB views on every accepted output, so that results are found by compound, gene and cell context.

Belongs here: which views there are. The file is built aside and renamed, since DuckDB refuses readers while a writer holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perturbridge_dagster.written import written_whole
from resources.store import Key, Output

if TYPE_CHECKING:
    import pandas as pd

_TABLES = {
    "source_files": ("source_files", "source_files.parquet"),
    "samples": ("harmonized_samples", "obs.parquet"),
    "strata": ("harmonized_samples", "strata.parquet"),
    "reconciliation": ("harmonized_samples", "reconciliation.parquet"),
    "condition_contrasts": ("condition_effects", "contrasts.parquet"),
    "condition_genes": ("condition_effects", "genes.parquet"),
    "condition_tiles": ("condition_effects", "effects.parquet"),
    "replicate_contrasts": ("replicate_effects", "contrasts.parquet"),
    "replicate_genes": ("replicate_effects", "genes.parquet"),
    "replicate_tiles": ("replicate_effects", "effects.parquet"),
    "matched_conditions": ("matched_conditions", "matched.parquet"),
    "agreement_conditions": ("cross_dataset_agreement", "conditions.parquet"),
    "agreement_pairs": ("cross_dataset_agreement", "pair.parquet"),
    "replicate_pairs": ("replicate_agreement", "pairs.parquet"),
    "replicate_datasets": ("replicate_agreement", "dataset.parquet"),
    "corpus_conditions": ("training_corpus", "conditions.parquet"),
    "embeddings": ("compound_embeddings", "embeddings.parquet"),
    "evaluation": ("compound_embeddings", "evaluation.parquet"),
}
"""View → stage and file."""

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
        "SELECT left_dataset, right_dataset, cell_type, count(*) AS conditions, avg(spearman_logFC) AS spearman,\n"
        "       avg(direction_agreement) AS direction\n"
        "FROM agreement_conditions GROUP BY ALL ORDER BY ALL;"
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

    with written_whole(file) as aside, duckdb.connect(str(aside)) as connection:
        made = set()
        keys = []
        for view, (stage, name) in _TABLES.items():
            of_stage = [output for output in outputs if output.stage == stage]
            if not of_stage:
                continue
            files = ", ".join(_quoted(output.folder / name) for output in of_stage)
            keyed = ", filename = true" if stage.endswith("_effects") else ""
            connection.execute(f"CREATE VIEW {view} AS SELECT * FROM read_parquet([{files}], union_by_name = true{keyed})")
            keys += [(str(output.folder / name), *output.key[:2]) for output in of_stage if keyed]
            made.add(view)
        connection.register("keys", pd.DataFrame(keys, columns=["filename", "dataset", "stratum"]))
        connection.execute("CREATE TABLE effect_files AS SELECT * FROM keys")
        for kind in ("condition", "replicate"):
            if f"{kind}_tiles" in made:
                connection.execute(_effects_view(kind))
                made.add(f"{kind}_effects")
        listed = [(output.stage, " ".join(output.key), states[output.stage, *output.key], str(output.folder)) for output in outputs]
        connection.register("listed", pd.DataFrame(listed, columns=["stage", "key", "state", "folder"]))
        connection.execute("CREATE TABLE outputs AS SELECT * FROM listed")
        counts = [(view, connection.execute(f"SELECT count(*) FROM {view}").fetchone()[0]) for view in sorted(made)]  # type: ignore[index]
    return pd.DataFrame(counts, columns=["view", "rows"])


def _quoted(path: object) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _effects_view(kind: str) -> str:
    """Effects with the names of contrasts and genes beside the numbers; P values come back from their logarithms."""
    return f"""
        CREATE VIEW {kind}_effects AS
        SELECT c.dataset, c.stratum, c.cell_type, c.perturbagen, c.pubchem_cid, c.pert_dose_uM, c.pert_time_h, c.sample_id, c.estimable,
               g.ensembl_id, g.symbol, e.logFC, e.t, pow(10, e.log10_p) AS p,
               pow(10, e.log10_adj_p_within) AS adj_p_within, pow(10, e.log10_adj_p_across) AS adj_p_across,
               g.AveExpr, e.logFC / nullif(e.t, 0) AS standard_error
        FROM {kind}_tiles e
        JOIN effect_files f ON f.filename = e.filename
        JOIN {kind}_contrasts c ON c.dataset = f.dataset AND c.stratum = f.stratum AND c.contrast = e.contrast
        JOIN (SELECT g.* EXCLUDE (filename), gf.dataset, gf.stratum FROM {kind}_genes g JOIN effect_files gf ON gf.filename = g.filename) g
             ON g.dataset = f.dataset AND g.stratum = f.stratum AND g.gene = e.gene
    """
