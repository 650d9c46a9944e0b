"""The datasets as data: files, licence, access, constants, controls, effects options and expected counts.

One TOML file a dataset lies in ``datasets/``. ``families/`` holds what the releases of one source share: of a release that has no
file of its own, the id is enough. ``benchmarks/`` holds published tables that serve an evaluation and are no member of the compendium.

Belongs here: what is declared of a dataset, the ids of datasets and of dataset pairs, and which of two datasets counts where one
contains the other. Does not belong here: reading a native format (``sources/``) or resolving identifiers (``identity/``).
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import combinations
from pathlib import PurePath, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from perturbridge_dagster import contract
from perturbridge_dagster.contract import HARMONIZED_OBS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry.expectations import Expectation, require_known
from perturbridge_dagster.registry.screen import Screen

PAIR_SEPARATOR = "__"
"""Joins two dataset ids to the id of a pair; no dataset id contains it."""

PRINTED_ORDER = (
    "l1000_phase1",
    "l1000_phase2",
    "tahoe",
    "cigs_mce",
    "novartis",
    "vcpi_0001",
    "cigs_tcm",
    "vcpi_0002",
    "gdpx2",
    "sciplex",
    "dilimap_train",
    "dilimap_train_val",
    "op3",
)
"""The order in which the benchmark prints datasets, and the sides of a pair. Other datasets follow, by id."""

DatasetId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")]


class _Declared(BaseModel):
    """Base of what is declared: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Download(_Declared):
    """One file of a source, and how it is fetched.

    Attributes
    ----------
    name
        Path below the dataset's folder under which the reader finds it.
    url
        Where it lies: http(s), ``s3://bucket/key``, ``gs://bucket/key``, ``hf://datasets/owner/name@revision/path``,
        ``lamin://owner/instance?key=…`` or ``quilt+s3://bucket#package=owner/name&path=…``.
    command
        Call of the owner's own client that gives it, where there is no url. With neither, the owner gives it on request.
    unpack
        Whether what lies at the url is gzipped and is decompressed; `name` is then the name without ``.gz``.
    size
        Bytes, exactly, where the owner publishes them.
    about_mib
        MiB that others saw transferred, rounded: enough to plan disk and time, not to check a file.
    checksum
        ``md5:…`` or ``sha256:…`` where the owner publishes it.
    """

    name: str
    url: Annotated[str, StringConstraints(pattern=r"^(https?|s3|gs|hf|lamin|quilt\+s3)://\S+$")] | None = None
    command: str | None = None
    unpack: bool = False
    size: PositiveInt | None = None
    about_mib: PositiveFloat | None = None
    checksum: Annotated[str, StringConstraints(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Download:
        if self.url and self.command:
            raise ValueError(f"{self.name} has both a url and a command")
        if PurePosixPath(self.name).is_absolute() or ".." in PurePosixPath(self.name).parts:
            raise ValueError(f"{self.name} is not a path below the dataset's folder")
        return self


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
    downloads
        The published files of this role.
    """

    role: str
    patterns: tuple[str, ...] = Field(min_length=1)
    excluded: tuple[str, ...] = ()
    required: bool
    meaning: str
    downloads: tuple[Download, ...] = ()

    def matches(self, path: PurePath) -> bool:
        """Whether a path below the dataset's folder is of this role."""
        return any(map(path.match, self.patterns)) and not any(map(path.match, self.excluded))

    @model_validator(mode="after")
    def _found_again(self) -> SourceFile:
        lost = [file.name for file in self.downloads if not self.matches(PurePosixPath(file.name))]
        if lost:
            raise ValueError(f"the reader would not find {', '.join(lost)} by the patterns {', '.join(self.patterns)}")
        return self


class Access(_Declared):
    """How the native files are had.

    Attributes
    ----------
    kind
        ``"open"`` to everyone; with a ``"token"``; or, all or some of them, ``"on_request"`` from their owner.
    how
        What a person does to have them.
    token_variable
        Environment variable that holds the token.
    """

    kind: Literal["open", "token", "on_request"]
    how: str
    token_variable: str | None = None

    @model_validator(mode="after")
    def _token_is_named(self) -> Access:
        if (self.kind == "token") != bool(self.token_variable):
            raise ValueError("token_variable names the environment variable of a token: it goes with the kind token, and with no other")
        return self


class Licence(_Declared):
    """Terms of the native files.

    Attributes
    ----------
    name
        The terms, as their owner states them, or that they are not known.
    class_
        ``"open"`` where what derives from the files may enter a release. Terms that are not known are ``"restricted"``.
    """

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


class ExtraField(_Declared):
    """A column of the harmonized samples that one dataset has and the contract does not.

    Attributes
    ----------
    meaning
        One sentence on what a value says.
    type
        Type of a value. In TOML a text field may be written as its meaning alone.
    unit
        Unit of a number.
    """

    meaning: Annotated[str, StringConstraints(pattern=r"\.$")]
    type: Literal["string", "int64", "float64"] = "string"
    unit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _meaning_alone(cls, values: Any) -> Any:
        return {"meaning": values} if isinstance(values, str) else values


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


class Source(_Declared):
    """Anything with native files of its own.

    Attributes
    ----------
    id
        Its key everywhere.
    title, label
        Long name, and the short name printed in figures.
    access, licence, citation, links
        Where the native files come from and on what terms.
    files
        The native files.
    """

    id: DatasetId
    title: str
    label: str
    access: Access
    licence: Licence
    citation: str
    links: dict[str, str]
    files: tuple[SourceFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_file_can_be_had(self) -> Source:
        roles = [file.role for file in self.files]
        if len(set(roles)) < len(roles):
            raise ValueError(f"a role occurs twice among {', '.join(roles)}")
        names = [download.name for file in self.files for download in file.downloads]
        if len(set(names)) < len(names):
            raise ValueError(f"a file occurs twice among {', '.join(names)}")
        unnamed = [one.name for file in self.files for one in file.downloads if not (one.url or one.command)]
        if unnamed and self.access.kind == "open":
            raise ValueError(f"access is open, but nothing says where {', '.join(unnamed)} lies")
        return self


class Benchmark(Source):
    """Published tables that serve an evaluation and are no member of the compendium: nothing is harmonized from them.

    Attributes
    ----------
    layer
        Layer of the tables that is evaluated.
    """

    layer: str


class Dataset(Source):
    """One dataset of the compendium.

    Attributes
    ----------
    reader
        Module of ``sources/`` that reads its native format.
    assay
        Name of the assay.
    modality
        ``"counts"`` or ``"normalized"`` (log2 intensities).
    single_cell
        Whether the native rows are cells, to be summed into samples.
    control
        The vehicle controls.
    constants
        Values of harmonized obs fields that are the same for every sample.
    cell_context_constants
        Values of harmonized obs fields that are the same for every sample of one cell context, by the context's id.
    extra_fields
        Columns of the samples that the contract does not have. The reader gives them under these names, and they may be null.
    identity_first
        Donor fields for which the identity snapshot is preferred to the source's own value.
    strata
        Fields whose combinations are fitted separately.
    effects
        Options of the effects stage.
    contains
        Datasets whose samples are all among this one's, with held-out samples beside them. The two are never a pair, and count once.
    expectations
        By quantity, what the counts are expected to be on the full source.
    screen
        Files and columns of a user's own screen; None for the public datasets, whose readers know theirs.
    """

    reader: str
    assay: str
    modality: Literal["counts", "normalized"]
    single_cell: bool
    control: Control
    constants: dict[str, str]
    cell_context_constants: dict[str, dict[str, str]] = {}
    extra_fields: dict[str, ExtraField] = {}
    identity_first: tuple[str, ...] = ()
    strata: tuple[str, ...] = Field(min_length=1)
    effects: EffectsOptions
    contains: tuple[DatasetId, ...] = ()
    expectations: dict[str, Expectation] = {}
    screen: Screen | None = None

    @property
    def checksum(self) -> str:
        """SHA-256 of what decides the harmonized samples; wording, links, where files are fetched and what is expected of them do not,
        and effects options are effects' own.
        """
        wording = {"title", "label", "access", "citation", "links", "effects", "contains", "expectations"}
        decides = self.model_dump(mode="json", exclude=wording)
        for file in decides["files"]:
            del file["meaning"], file["downloads"]
        for field in decides["extra_fields"].values():
            del field["meaning"]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @property
    def obs_table(self) -> contract.Table:
        """The contract's table of samples with the further columns of this dataset at its end."""
        return HARMONIZED_OBS.extended(
            contract.Field(name, field.type, field.meaning, unit=field.unit, nullable=True, since="1.2")
            for name, field in self.extra_fields.items()
        )

    @model_validator(mode="after")
    def _known_fields(self) -> Dataset:
        known = set(self.obs_table.names)
        named = {
            "constants": set(self.constants),
            "cell_context_constants": {name for fields in self.cell_context_constants.values() for name in fields},
            "identity_first": set(self.identity_first),
            "strata": set(self.strata),
        }
        for where, names in named.items():
            if names - known:
                raise ValueError(f"{where} names what is no field of the harmonized samples: {', '.join(sorted(names - known))}")
        if self.effects.normalized != (self.modality == "normalized"):
            raise ValueError(f"effects.normalized is {self.effects.normalized}, but the modality is {self.modality}")
        return self

    @field_validator("expectations")
    @classmethod
    def _known_quantities(cls, expectations: dict[str, Expectation]) -> dict[str, Expectation]:
        return require_known(expectations)


# ---- reading entries ---------------------------------------------------------------------------------------------------------

Entry = TypeVar("Entry", bound=Source)


def _folder(name: str) -> list[Traversable]:
    """TOML files of a folder of the registry, by name."""
    found = (file for file in files(__package__).joinpath(name).iterdir() if file.name.endswith(".toml"))
    return sorted(found, key=lambda file: file.name)


def _stem(file: Traversable) -> str:
    return file.name.removesuffix(".toml")


def _entry(model: type[Entry], id_: str, values: dict[str, Any], where: str) -> Entry:
    """An entry, or what is wrong with it.

    Raises
    ------
    InputError
        Naming the file and the first field at fault.
    """
    try:
        return model.model_validate({**values, "id": id_})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            first["msg"].removeprefix("Value error, "),
            file=where,
            column=".".join(map(str, first["loc"])) or None,
            advice=f"{error.error_count()} faults in all; fields are explained in perturbridge_dagster/registry.",
        ) from error


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", file=where) from error


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Two nested tables, the second's values before the first's."""
    both = {name: _merged(shared[name], own[name]) for name in shared if isinstance(shared[name], dict) and isinstance(own.get(name), dict)}
    return {**shared, **own, **both}


@cache
def _families() -> dict[str, str]:
    """Text of each family's file, in which ``{release}`` and ``{number}`` stand for those of a release."""
    return {_stem(file): file.read_text(encoding="utf-8") for file in _folder("families")}


def _shared(id_: str) -> dict[str, Any]:
    """What a release takes over from its family; nothing for any other dataset."""
    family, _, number = id_.rpartition("_")
    if family not in _families() or not re.fullmatch(r"\d{4}", number):
        return {}
    text = _families()[family].replace("{release}", f"{family}-{number}").replace("{number}", number)
    return _parsed(text, f"families/{family}.toml")


@cache
def _registry() -> dict[str, Dataset]:
    found = {}
    for file in _folder("datasets"):
        id_, where = _stem(file), f"datasets/{file.name}"
        found[id_] = _entry(Dataset, id_, _merged(_shared(id_), _parsed(file.read_text(encoding="utf-8"), where)), where)
    for entry in found.values():
        unknown = [name for name in entry.contains if name not in found or name == entry.id]
        if unknown:
            raise InputError("contains what is not another registered dataset", dataset=entry.id, column="contains", rows=unknown)
    return {id_: found[id_] for id_ in in_order(found)}


@cache
def _release(id_: str) -> Dataset | None:
    """Entry of a release that has no file of its own, or None where the id is that of no family."""
    shared = _shared(id_)
    return _entry(Dataset, id_, shared, f"families/{id_.rpartition('_')[0]}.toml") if shared else None


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark by id."""
    return {
        _stem(file): _entry(Benchmark, _stem(file), _parsed(file.read_text(encoding="utf-8"), f"benchmarks/{file.name}"), file.name)
        for file in _folder("benchmarks")
    }


# ---- asking the registry -----------------------------------------------------------------------------------------------------


def in_order(ids: Iterable[str]) -> list[str]:
    """Ids once each, in the printed order of the benchmark."""
    return sorted(set(ids), key=lambda id_: (PRINTED_ORDER.index(id_) if id_ in PRINTED_ORDER else len(PRINTED_ORDER), id_))


def datasets() -> dict[str, Dataset]:
    """Every registered dataset by id, in the printed order of the benchmark."""
    return dict(_registry())


def dataset(id_: str) -> Dataset:
    """One registered dataset, a release of a registered family, or a screen of the user's own.

    Raises
    ------
    InputError
        If the id is not registered; the message lists those that are. If the description of a user's own screen is wrong.
    """
    from perturbridge_dagster.registry.own_screens import own_screen

    entry = _registry().get(id_) or _release(id_) or own_screen(id_)
    if entry is None:
        raise InputError(f"dataset {id_!r} is not registered.", expected=f"one of {known_ids()}")
    return entry


def known_ids() -> str:
    """The ids that :func:`dataset` knows, for messages."""
    from perturbridge_dagster.registry.own_screens import own_screens

    return ", ".join([*_registry(), *(f"{family}_ and the four digits of another release" for family in _families()), *own_screens()])


def is_public(id_: str) -> bool:
    """Whether an id is that of a registered dataset, a release of a registered family, or a benchmark."""
    return id_ in _registry() or _release(id_) is not None or id_ in benchmarks()


def source(id_: str) -> Source:
    """A dataset or a benchmark: what has native files.

    Raises
    ------
    InputError
        If the id is neither's.
    """
    return benchmarks().get(id_) or dataset(id_)


def compendium_datasets(ids: Iterable[str]) -> list[str]:
    """Some datasets, each sample counted once: without those that another of them contains, in registry order.

    These are the datasets that agreement is computed between and that the compendium counts.

    Raises
    ------
    InputError
        If an id is not registered.
    """
    chosen = {id_: dataset(id_) for id_ in ids}
    contained = {name for entry in chosen.values() for name in entry.contains}
    return in_order(set(chosen) - contained)


def corpus_datasets(ids: Iterable[str]) -> list[str]:
    """Some datasets, those that a model may be trained on: without those that contain another, in registry order.

    What a dataset has beyond the one it contains is held out for validation, so it enters no corpus, whether or not the contained one is
    among `ids`.

    Raises
    ------
    InputError
        If an id is not registered.
    """
    return in_order(id_ for id_ in ids if not dataset(id_).contains)


def dataset_pairs(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair of some datasets, both the pair's sides and the pairs in registry order.

    A dataset that another of them contains is in no pair: the one that contains it stands for both.

    Raises
    ------
    InputError
        If an id is not registered.
    """
    return list(combinations(compendium_datasets(ids), 2))


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
