"""Defects that sources are known for, looked for in every harmonized dataset.

Each was met in a published source: the header row of a table read as a gene, names that a spreadsheet made numbers, conditions that
disappear with a filter, plates without controls, doses that were written another way than they were meant. Belongs here: these rules.
Does not belong here: what the contract says of a field (``checks.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbridge_dagster.quality.suites import Finding, Rule, Severity, validate

if TYPE_CHECKING:
    import pandas as pd

GENE_HEADER = r"(?i)(?:^|;)(?:genes?|gene_?ids?|gene_?(?:short_?)?name|(?:hgnc_?)?symbol|index|id|feature|ensembl(?:_?gene)?_?ids?)(?:$|;)"
"""Column headers of gene tables, as a gene or among genes joined by semicolons."""

SAMPLE_HEADER = (
    r"^(?i:perturbagen|pert_?(?:id|i?name|compound)|compound(?:_?(?:id|name))?|drug(?:_?name)?|product_?name|sm_?name|treatment)$"
)
"""Column headers of sample tables, as a perturbagen."""

NUMBER = r"^[-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?$"
MISSING = r"^\s*$|^(?i:nan|none|null|<na>|n/?a|missing|-666(?:\.0+)?)$"

ON_PURPOSE = (
    "positive control",
    "pert_type other than",
    "vehicle other than",
    "blank",
    "empty well",
    "excluded:",
    "spelled in several ways",
)
"""How rules begin that are meant to drop conditions, or that find two spellings of one."""

OFF_GRID = 1e-9
"""Relative difference beyond which a dose is not its nominal dose."""


def perturbagen_names(obs: pd.DataFrame) -> list[Finding]:
    """Perturbagens that are no names: headers, words for missing, numbers.

    Parameters
    ----------
    obs
        Harmonized samples.

    Returns
    -------
    A number may be the source's own id of a compound, so it is a warning; the others are errors.
    """

    def never(words: str, regex: str) -> Rule:
        severity: Severity = "warning" if regex is NUMBER else "error"
        return Rule(words, "ExpectColumnValuesToNotMatchRegex", {"column": "perturbagen", "regex": regex}, severity)

    # a dataset has many samples of one name
    names = obs.drop_duplicates("perturbagen")
    return validate(
        names,
        [
            never("no perturbagen is a word for missing", MISSING),
            never("no perturbagen is the header of a column", SAMPLE_HEADER),
            never("no perturbagen is a number", NUMBER),
        ],
        ["sample_id", "perturbagen", "source_perturbagen_id"],
    )


def headers_as_genes(var: pd.DataFrame, dropped_genes: pd.DataFrame | None, reconciliation: pd.DataFrame) -> list[Finding]:
    """Headers of gene tables that were read as genes.

    Parameters
    ----------
    var, dropped_genes, reconciliation
        Tables of the contract; `dropped_genes` is None for files that are older than it.

    Returns
    -------
    An error where a gene of the harmonized samples is one; a warning where the source had one, which was dropped.
    """
    import pandas as pd

    rule = Rule("no header row is a gene", "ExpectColumnValuesToNotMatchRegex", {"column": "source_gene_id", "regex": GENE_HEADER})
    found = validate(var, [rule], ["ensembl_id", "source_gene_id"])
    steps = reconciliation[(reconciliation["axis"] == "genes") & reconciliation["rule"].astype(str).str.contains("header read as a gene")]
    rows = [steps.loc[steps["n_dropped"] > 0, ["rule", "n_dropped"]].rename(columns={"rule": "source_gene_id"})]
    if dropped_genes is not None:
        rows.append(dropped_genes.loc[dropped_genes["source_gene_id"].astype(str).str.contains(GENE_HEADER), ["file", "source_gene_id"]])
    headers = pd.concat(rows).assign(is_gene=False)
    dropped = Rule(
        "no header row of the source was read as a gene and dropped",
        "ExpectColumnValuesToBeInSet",
        {"column": "is_gene", "value_set": [True]},
        "warning",
    )
    return found + validate(headers, [dropped], ["file", "source_gene_id", "n_dropped"])


def lost_conditions(reconciliation: pd.DataFrame) -> list[Finding]:
    """Rules of quality that dropped every sample of a condition.

    Parameters
    ----------
    reconciliation
        Table of the contract; its axis ``conditions`` counts distinct compounds, doses, times and cell contexts of the source.
    """
    rules = reconciliation["rule"].astype(str)
    steps = reconciliation[(reconciliation["axis"] == "conditions") & ~rules.str.startswith(ON_PURPOSE)]
    rule = Rule(
        "no rule of quality drops every sample of a condition",
        "ExpectColumnValuesToBeInSet",
        {"column": "n_dropped", "value_set": [0]},
        "warning",
    )
    return validate(steps, [rule], ["rule", "n_in", "n_dropped", "n_out"])


def controls_by_plate(obs: pd.DataFrame) -> list[Finding]:
    """Plates that hold treated samples of a cell context at a time, and no vehicle control of these.

    Parameters
    ----------
    obs
        Harmonized samples.
    """
    by = ["cell_type", "pert_time_h", "plate"]
    counts = obs.groupby(by, observed=True)["is_control"].agg(n_controls="sum", n="size").reset_index()
    counts["n_treated"] = counts["n"] - counts["n_controls"]
    rule = Rule(
        "every plate has controls of each cell context and time that it has treated samples of",
        "ExpectColumnValuesToBeBetween",
        {"column": "n_controls", "min_value": 1},
        "warning",
    )
    return validate(counts[counts["n_treated"] > 0], [rule], [*by, "n_treated"])


def doses_off_the_grid(obs: pd.DataFrame) -> list[Finding]:
    """Doses that were written another way than they were meant, such as 9.99999 µM for 10 µM.

    Parameters
    ----------
    obs
        Harmonized samples with ``nominal_dose_uM``.

    Returns
    -------
    A warning: the samples are compared at the nominal dose. One row a perturbagen, dose and nominal dose.
    """
    distinct = obs.loc[~obs["is_control"]].groupby(["perturbagen", "pert_dose_uM", "nominal_dose_uM"], observed=True).size()
    doses = distinct.rename("n_samples").reset_index()
    doses["on_grid"] = np.isclose(doses["pert_dose_uM"], doses["nominal_dose_uM"], rtol=OFF_GRID, atol=0)
    rule = Rule(
        "every dose is on the grid of its compound's doses",
        "ExpectColumnValuesToBeInSet",
        {"column": "on_grid", "value_set": [True]},
        "warning",
    )
    return validate(doses, [rule], ["perturbagen", "pert_dose_uM", "nominal_dose_uM", "n_samples"])
