"""The datasets as data: files, licence, access, constants, controls and effects options, read from ``datasets.toml``.

Belongs here: what is declared of a dataset, and the ids of datasets and of dataset pairs. Does not belong here: reading a native
format (``sources/``) or resolving identifiers (``identity/``).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, StringConstraints, field_validator

from perturbridge_dagster.contract import HARMONIZED_OBS
from perturbridge_dagster.errors import InputError

PAIR_SEPARATOR = "__"
"""Joins two dataset ids to the id of a pair; no dataset id contains it."""

DatasetId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")]


class _Declared(BaseModel):
    """Base of what is declared: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceFile(_Declared):
    """One native file, or one kind of native files, of a dataset.

    Attributes
    ----------
    role
        What the reader calls it.
    patterns
        Shell patterns, matched against the end of the path below the dataset's folder.
    excluded
        Patterns of file names that match but are something else, such as another data level.
    required
        Whether the dataset cannot be read without it.
    meaning
        What it holds, for people.
    """

    role: str
    patterns: tuple[str, ...] = Field(min_length=1)
    excluded: tuple[str, ...] = ()
    required: bool
    meaning: str


class Access(_Declared):
    """How the native files are had: openly, or with a token whose environment variable is named."""

    kind: Literal["public", "token"]
    how: str
    token_variable: str | None = None


class Licence(_Declared):
    """Terms of the native files; ``class_`` says whether what derives from them may enter a release."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str
    class_: Literal["open", "restricted"] = Field(alias="class")


class Control(_Declared):
    """How the source marks its vehicle controls.

    Attributes
    ----------
    perturbagen
        Name of the vehicle in the harmonized samples.
    labels
        Words by which the source calls it.
    how
        The rule in words.
    """

    perturbagen: str
    labels: tuple[str, ...] = Field(min_length=1)
    how: str


class EffectsOptions(_Declared):
    """Options of the effects stage (``effects.estimate_effects`` says what each does).

    Attributes
    ----------
    normalized
        Whether values are log2 intensities rather than counts.
    min_cells
        Fewest cells of a sample that takes part.
    gene_filter
        Which genes are tested: ``"edgeR"``'s rule, or those ``"supported"`` by a share of the samples. Of no effect on normalized values.
    standard_errors
        ``"limma"``'s approximation under weights, or the ``"exact"`` ones.
    times
        Times in h whose samples take part; None for all.
    without_controls
        What becomes of treated samples at times without controls: ``"refuse"`` the stratum, or ``"fit"`` them without a contrast.
    """

    normalized: bool
    min_cells: int = Field(ge=0)
    gene_filter: Literal["edgeR", "supported"] = "edgeR"
    standard_errors: Literal["limma", "exact"] = "limma"
    times: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    without_controls: Literal["refuse", "fit"] = "refuse"


class Dataset(_Declared):
    """One dataset.

    Attributes
    ----------
    id
        Its key everywhere.
    title, label
        Long name, and the short name printed in figures.
    reader
        Module of ``sources/`` that reads its native format.
    assay
        Name of the assay.
    modality
        ``"counts"`` or ``"normalized"`` (log2 intensities).
    single_cell
        Whether the native rows are cells, to be summed into samples.
    files, access, licence, citation, links
        Where the native files come from and on what terms.
    control
        The vehicle controls.
    constants
        Values of harmonized obs fields that are the same for every sample.
    identity_first
        Donor fields for which the identity snapshot is preferred to the source's own value.
    strata
        Fields whose combinations are fitted separately.
    effects
        Options of the effects stage.
    """

    id: DatasetId
    title: str
    label: str
    reader: str
    assay: str
    modality: Literal["counts", "normalized"]
    single_cell: bool
    files: tuple[SourceFile, ...] = Field(min_length=1)
    access: Access
    licence: Licence
    citation: str
    links: dict[str, str]
    control: Control
    constants: dict[str, str]
    identity_first: tuple[str, ...] = ()
    strata: tuple[str, ...] = Field(min_length=1)
    effects: EffectsOptions

    @property
    def checksum(self) -> str:
        """SHA-256 of what decides the harmonized samples; wording and links do not, and effects options are effects' own."""
        decides = self.model_dump(mode="json", exclude={"title", "label", "access", "citation", "links", "effects"})
        for file in decides["files"]:
            del file["meaning"]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @field_validator("constants", "strata", "identity_first")
    @classmethod
    def _known_obs_fields(cls, names: dict[str, str] | tuple[str, ...]) -> dict[str, str] | tuple[str, ...]:
        unknown = sorted(set(names) - set(HARMONIZED_OBS.names))
        if unknown:
            raise ValueError(f"not fields of the harmonized samples: {', '.join(unknown)}")
        return names


@cache
def _registry() -> dict[str, Dataset]:
    text = files(__package__).joinpath("datasets.toml").read_text(encoding="utf-8")
    return {id_: Dataset(id=id_, **entry) for id_, entry in tomllib.loads(text).items()}


def datasets() -> dict[str, Dataset]:
    """Every registered dataset by id, in the printed order of the benchmark."""
    return dict(_registry())


def dataset(id_: str) -> Dataset:
    """One registered dataset.

    Raises
    ------
    InputError
        If the id is not registered; the message lists those that are.
    """
    try:
        return _registry()[id_]
    except KeyError:
        raise InputError(f"dataset {id_!r} is not registered.", expected=f"one of {', '.join(_registry())}") from None


def dataset_pairs(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair of some datasets, both the pair's sides and the pairs in registry order.

    Raises
    ------
    InputError
        If an id is not registered.
    """
    chosen = {dataset(id_).id for id_ in ids}
    return list(combinations([id_ for id_ in _registry() if id_ in chosen], 2))


def pair_key(left: str, right: str) -> str:
    """Id of a pair, for example ``l1000_phase1__sciplex``."""
    return f"{left}{PAIR_SEPARATOR}{right}"


def split_pair_key(key: str) -> tuple[str, str]:
    """The two dataset ids of a pair id.

    Raises
    ------
    InputError
        If the text is not the id of a pair.
    """
    left, separator, right = key.partition(PAIR_SEPARATOR)
    if not (left and separator and right) or PAIR_SEPARATOR in right:
        raise InputError(f"{key!r} is not the id of a dataset pair.", expected=f"two dataset ids joined by {PAIR_SEPARATOR!r}")
    return left, right
