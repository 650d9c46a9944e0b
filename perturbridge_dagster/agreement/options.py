"""Options: what a home may choose of agreement, all filters off unless it does.

Belongs here: the table ``[agreement]`` of ``settings.toml``, and what each stage takes of it. Does not belong here: what an option does
(``matching.py``, ``pair_scores.py``, ``summary.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturbridge_dagster.agreement.baselines import Centroid
from perturbridge_dagster.agreement.compounds import CompoundKey
from perturbridge_dagster.agreement.peers import N_PEERS
from perturbridge_dagster.errors import InputError

_SCORING = ("compound", "centroid", "n_peers", "minimum_significant_genes")

TAKEN = {
    "matched_conditions": ("max_log10_dose_gap", "compound"),
    "cross_dataset_agreement": (*_SCORING, "max_log10_dose_gap", "sample_weights"),
    "replicate_agreement": (*_SCORING, "max_log10_dose_gap"),
    "compendium_agreement": (*_SCORING, "max_log10_dose_gap", "sample_weights"),
}
"""Stage → the options that decide what it makes. A dose-aware positive of retrieval lies within the gap of a match."""


class AgreementOptions(BaseModel):
    """``[agreement]``.

    Attributes
    ----------
    max_log10_dose_gap
        Largest difference of log10 doses of a match; 1 is a factor of ten.
    compound
        What makes two compounds one: their PubChem id, or the key of their parent structure, so that salts and the free base are one.
    centroid
        Whether compounds count alike in the mean of other compounds, or, as published, contrasts.
    n_peers
        Most single other compounds that a score is set beside in each dataset.
    minimum_significant_genes
        Fewest significant genes for a score of such genes. The published definitions take two for a correlation and one for a direction.
    sample_weights
        Whether a match counts once for each pair of samples, as in the published tables, rather than once.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    max_log10_dose_gap: float = Field(1.0, ge=0, allow_inf_nan=False, description="a number, 0 or more")
    compound: CompoundKey = Field("pubchem_cid", description="pubchem_cid or parent_key")
    centroid: Centroid = Field("compound_means", description="compound_means or row_means")
    n_peers: int = Field(N_PEERS, ge=0, le=100_000, description="a whole number, 0 or more")
    minimum_significant_genes: int = Field(0, ge=0, description="a whole number, 0 or more")
    sample_weights: bool = Field(False, description="true or false")


def agreement_options(table: Mapping[str, Any], file: Path) -> AgreementOptions:
    """The options that a settings file chooses.

    Parameters
    ----------
    table
        Its table ``[agreement]``; empty where it has none.
    file
        The file, for what an error says.

    Raises
    ------
    InputError
        If a key is unknown or its value is not of the kind it should be.
    """
    try:
        return AgreementOptions.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "agreement"
        known = AgreementOptions.model_fields
        expected = known[name].description if name in known else f"one of {', '.join(known)}"
        raise InputError(f"[agreement] {first['msg'][0].lower()}{first['msg'][1:]}", file=file, column=name, expected=expected) from error
