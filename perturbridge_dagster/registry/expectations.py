"""What the counts of a dataset are expected to be: the published count, ours, and why they differ where they do.

Belongs here: the form of an expectation and the quantities that can be expected. Does not belong here: the numbers (the dataset's
TOML file), counting or comparing (``quality/expectations.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

Kind = Literal["count", "names", "by_stratum"]
CountedOn = Literal["harmonized_samples", "condition_effects", "replicate_effects", "published"]


@dataclass(frozen=True)
class Quantity:
    """Something that is counted.

    Attributes
    ----------
    kind
        ``"count"``: one number; ``"names"``: the names themselves; ``"by_stratum"``: a number for each stratum, or for some of them.
    counted_on
        Stage on whose output it is counted; ``"published"`` for what only the published pipeline has.
    meaning
        What is counted, for people.
    """

    kind: Kind
    counted_on: CountedOn
    meaning: str


QUANTITIES: dict[str, Quantity] = {
    "source_cells": Quantity("count", "harmonized_samples", "Cells of the native files."),
    "source_samples": Quantity("count", "harmonized_samples", "Samples of the native files, where these hold samples."),
    "source_genes": Quantity("count", "harmonized_samples", "Genes of the native files, spike-ins included."),
    "cells": Quantity("count", "harmonized_samples", "Cells left by the filters."),
    "samples": Quantity("count", "harmonized_samples", "Harmonized samples."),
    "samples_by_stratum": Quantity("by_stratum", "harmonized_samples", "Harmonized samples."),
    "treated": Quantity("count", "harmonized_samples", "Treated samples."),
    "controls": Quantity("count", "harmonized_samples", "Vehicle controls."),
    "controls_by_stratum": Quantity("by_stratum", "harmonized_samples", "Vehicle controls."),
    "plates": Quantity("count", "harmonized_samples", "Plates."),
    "plates_by_stratum": Quantity("by_stratum", "harmonized_samples", "Plates."),
    "perturbagens": Quantity("count", "harmonized_samples", "Names of perturbagens, the vehicle included."),
    "compounds": Quantity("count", "harmonized_samples", "Treated compounds: by PubChem id where it is known, else by name."),
    "compounds_with_cid": Quantity("count", "harmonized_samples", "Compounds of the source that have a PubChem id, the vehicle included."),
    "conditions": Quantity("count", "harmonized_samples", "Compound × dose × time, in each stratum."),
    "conditions_by_stratum": Quantity("by_stratum", "harmonized_samples", "Compound × dose × time."),
    "strata": Quantity("count", "harmonized_samples", "Strata."),
    "cell_contexts": Quantity("count", "harmonized_samples", "Cell contexts."),
    "cell_context_ids": Quantity("names", "harmonized_samples", "Ids of the cell contexts."),
    "genes": Quantity("count", "harmonized_samples", "Genes with a current Ensembl id."),
    "merged_genes": Quantity("count", "harmonized_samples", "Genes that several genes of the source were merged into."),
    "contrasts": Quantity("count", "condition_effects", "Contrasts of conditions, each once."),
    "contrasts_by_stratum": Quantity("by_stratum", "condition_effects", "Contrasts of conditions, each once."),
    "tested_genes_by_stratum": Quantity("by_stratum", "condition_effects", "Genes that pass the filter of the fit of conditions."),
    "replicate_contrasts": Quantity("count", "replicate_effects", "Contrasts of single replicates, each once."),
    "replicate_contrasts_by_stratum": Quantity("by_stratum", "replicate_effects", "Contrasts of single replicates, each once."),
    "replicate_tested_genes_by_stratum": Quantity(
        "by_stratum", "replicate_effects", "Genes that pass the filter of the fit of replicates."
    ),
    "gene_ids_looked_up": Quantity("count", "published", "Gene ids asked of the Ensembl archive by the published pipeline."),
    "gene_ids_returned": Quantity("count", "published", "Of these, ids that the archive knew."),
    "gene_ids_current": Quantity("count", "published", "Of these, current ids."),
    "gene_ids_without_replacement": Quantity("count", "published", "Of these, retired ids without a replacement, which were dropped."),
    "gene_ids_with_one_replacement": Quantity("count", "published", "Of these, retired ids with one replacement, which was taken."),
    "gene_ids_with_several_replacements": Quantity("count", "published", "Of these, retired ids with several, which were dropped."),
}
"""Every quantity by name, in the order they are compared and printed."""


class Band(BaseModel):
    """A count that a live service decides: it lies from ``low`` to ``high``, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: NonNegativeInt
    high: NonNegativeInt

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if self.low > self.high:
            raise ValueError(f"a band from {self.low} to {self.high} holds nothing")
        return self


class Expectation(BaseModel):
    """What one quantity of a dataset is expected to be.

    Attributes
    ----------
    published
        What the published pipeline counted. One number, names, or a number for each stratum, as the quantity has it. None where it
        published nothing.
    ours
        What we count on the full source: the same where native files determine it; a :class:`Band` where a live service decides; None
        where only a run on the full source can tell, and what is counted is then reported. In TOML: left out where it is as published,
        ``"unknown"`` for None.
    reason
        Why ours differs from what is published, is a band, or is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    published: NonNegativeInt | tuple[str, ...] | dict[str, NonNegativeInt] | None = None
    ours: NonNegativeInt | Band | tuple[str, ...] | dict[str, NonNegativeInt] | None = None
    reason: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        ours = values.get("ours", values.get("published"))
        if isinstance(ours, dict) and set(ours) == {"low", "high"}:
            ours = Band(**ours)  # as a table it could be two strata of these names
        return {**values, "ours": None if ours == "unknown" else ours}

    @model_validator(mode="after")
    def _sound(self) -> Expectation:
        if self.published is None and self.ours is None:
            raise ValueError("says neither what is published nor what is ours")
        if self.ours != self.published and not self.reason:
            raise ValueError("ours is not what is published, so a reason must say why")
        return self

    def fits(self, kind: Kind) -> bool:
        """Whether the values are of the kind that a quantity has."""
        types = {"count": (int, Band), "names": (tuple,), "by_stratum": (dict,)}[kind]
        return all(value is None or isinstance(value, types) for value in (self.published, self.ours))


def require_known(expectations: dict[str, Expectation]) -> dict[str, Expectation]:
    """Expectations in the order of the quantities.

    Raises
    ------
    ValueError
        If one is of no known quantity, or of another kind than its quantity.
    """
    unknown = sorted(set(expectations) - set(QUANTITIES))
    if unknown:
        raise ValueError(f"no quantity is named {', '.join(unknown)}; there are {', '.join(QUANTITIES)}")
    for name, expectation in expectations.items():
        kind = QUANTITIES[name].kind
        if not expectation.fits(kind):
            raise ValueError(f"{name} is not of the kind {kind}")
        if QUANTITIES[name].counted_on == "published" and expectation.published is None:
            raise ValueError(f"{name} is counted by the published pipeline alone, and what it counted is not said")
    return {name: expectations[name] for name in QUANTITIES if name in expectations}
