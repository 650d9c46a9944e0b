"""A user's own screens as registry entries, read from ``$PERTURBRIDGE_HOME/screens/<id>.yaml``.

What is described there goes through the same graph as the public datasets. Belongs here: finding descriptions, reading one, and saying
which line is wrong and what could stand there. Does not belong here: the form of a description (``screen.py``) and the files that it
names (``sources/screen.py``).
"""

from __future__ import annotations

import difflib
import glob
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.home import default_home
from perturbridge_dagster.registry import Access, Control, Dataset, EffectsOptions, Licence, SourceFile, is_public
from perturbridge_dagster.registry.screen import Columns, Counts, Everywhere, Screen

SUFFIX = ".yaml"

READER = "screen"
"""Module of ``sources/`` that reads all of them."""

_MEANINGS = {
    "counts": "the count matrix",
    "samples": "the sample sheet: one row a sample",
    "genes": "names of the genes of the count matrix",
    "sample_names": "names of the samples of the count matrix",
}

_CONSTANTS = {"pert_type": "compound", "suspension_type": "cell", "tissue_type": "cell culture", "organism": "human"}


class _Description(BaseModel, frozen=True, extra="forbid"):
    """A description as it is written.

    Attributes
    ----------
    title, assay
        Long name of the screen, and name of the assay.
    label
        Short name for figures; the title unless given.
    licence
        Terms. Private unless given: what derives from it then enters no release.
    citation
        How to cite it.
    folder
        Folder of the files; that of the description unless given, and relative to it.
    counts, samples, columns, exclude
        See ``screen.Screen``.
    control
        Names of the vehicle among the perturbagens; the first is the name in the harmonized samples.
    constants
        Values of harmonized obs fields that are the same for every sample, such as ``tissue``.
    effects
        Options of the effects stage.
    """

    title: str
    assay: str
    label: str | None = None
    licence: Licence = Licence.model_validate({"name": "private", "class": "restricted"})
    citation: str = "unpublished"
    folder: str = "."
    counts: Counts
    samples: str | None = None
    columns: Columns
    exclude: dict[str, list[str]] = {}
    control: list[str] = Field(min_length=1)
    constants: dict[str, str] = {}
    effects: EffectsOptions = EffectsOptions(normalized=False, min_cells=0)


def screens_folder() -> Path:
    """Where descriptions lie: ``screens/`` in the platform's home."""
    return default_home() / "screens"


def own_screens() -> list[str]:
    """Ids of the screens that are described, sorted."""
    return sorted(file.name.removesuffix(SUFFIX) for file in screens_folder().glob(f"[!.]*{SUFFIX}"))


def own_screen(id_: str) -> Dataset | None:
    """Entry of a screen, or None where none of that id is described.

    Raises
    ------
    InputError
        If the description is wrong; the message names the line.
    """
    return read_description(screens_folder() / f"{id_}{SUFFIX}") if id_ in own_screens() else None


def read_description(file: Path) -> Dataset:
    """Read the description of a screen.

    Parameters
    ----------
    file
        ``<id>.yaml``; the id is that of the dataset.

    Raises
    ------
    InputError
        If it cannot be read, or a field is missing, misspelt or makes no sense; the message names the line and what could stand there.
    """
    id_ = file.name.removesuffix(SUFFIX)
    if is_public(id_):
        raise InputError(f"{id_} is the id of a public dataset or benchmark.", file=file, advice="Give the file another name.")
    values, lines = _parsed(file)
    try:
        described = _Description.model_validate(values)
        folder = (file.resolve().parent / Path(described.folder).expanduser()).resolve()
        screen = Screen(
            **described.model_dump(include={"counts", "samples", "columns", "exclude"}), described_in=file, folder=folder, lines=lines
        )
        return _entry(id_, described, screen)
    except ValidationError as error:
        raise _fault(error, values, lines, file) from error


def _entry(id_: str, described: _Description, screen: Screen) -> Dataset:
    return Dataset(
        id=id_,
        title=described.title,
        label=described.label or described.title,
        access=Access(kind="open", how=f"They are your own: {screen.described_in} says in which folder they lie."),
        licence=described.licence,
        citation=described.citation,
        links={},
        files=tuple(
            SourceFile(role=role, patterns=(glob.escape(name),), required=True, meaning=_MEANINGS[role])
            for role, name in screen.files().items()
        ),
        reader=READER,
        assay=described.assay,
        modality="counts",
        single_cell=False,
        control=Control(
            perturbagen=described.control[0],
            labels=tuple(described.control),
            how=f"the perturbagen is {' or '.join(described.control)}",
        ),
        constants={**_CONSTANTS, **described.constants},
        strata=("cell_type",),
        effects=described.effects,
        screen=screen,
    )


def _parsed(file: Path) -> tuple[Any, dict[str, int]]:
    """Values of a YAML file, and the line of each field."""
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "unknown"
        raise InputError(
            f"not valid YAML: {error.problem}",
            file=f"{file}, line {line}",
            advice="Indent with blanks, put a blank after each colon, and put text with special signs in quotes.",
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the description cannot be read ({error}).", file=file) from error
    if not isinstance(values, dict):
        raise InputError("this describes nothing.", file=file, expected="fields such as title, counts and columns, one a line")
    lines: dict[str, int] = {}
    for name, line in _lines(node, ()):
        # YAML takes the last silently
        if name in lines:
            raise InputError(f"{name} is given twice, first in line {lines[name]}.", file=f"{file}, line {line}", column=name)
        lines[name] = line
    return values, lines


def _lines(node: yaml.Node | None, above: tuple[str, ...]) -> list[tuple[str, int]]:
    """Line of each field by its name with those above it."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found = []
    for key, value in node.value:
        name = (*above, str(key.value))
        found += [(".".join(name), key.start_mark.line + 1), *_lines(value, name)]
    return found


def _fault(error: ValidationError, values: dict[str, Any], lines: dict[str, int], file: Path) -> InputError:
    """The first fault of a description, with its line and the choices."""
    # a misspelt field is missing, too; its spelling says more
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    # a type of a choice of types is part of the place, but no field
    place = [str(part) for part in first["loc"] if str(part) not in ("str", Everywhere.__name__)]
    line = next((lines[name] for n in range(len(place), 0, -1) if (name := ".".join(place[:n])) in lines), None)
    fields = _fields(place[:-1])
    problem, expected = first["msg"].removeprefix("Value error, "), None
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(place[-1], fields, n=1)
        problem = f"there is no field {place[-1]}" + (f"; did you mean {close[0]}?" if close else "")
        expected = f"one of {', '.join(fields)}" if fields else None
    elif first["type"] == "missing":
        problem, expected = f"{place[-1]} is missing", f"the fields {', '.join(fields)}, of which some may be left out" if fields else None
    return InputError(
        problem,
        file=f"{file}, line {line}" if line else file,
        column=".".join(place) or None,
        expected=expected,
        advice="There are further faults." if error.error_count() > 1 else None,
    )


def _fields(above: list[str]) -> list[str]:
    """Names of the fields that a part of a description has."""
    parts: dict[str, type[BaseModel]] = {
        "": _Description,
        "counts": Counts,
        "columns": Columns,
        "licence": Licence,
        "effects": EffectsOptions,
    }
    model = parts.get(".".join(above))
    return [field.alias or name for name, field in model.model_fields.items()] if model else []
