"""What a user writes of a screen of their own: which files, and which column means what.

Belongs here: the form of that description. Does not belong here: finding and checking descriptions (``own_screens.py``), and reading the
files they name (``sources/screen.py``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Described(BaseModel):
    """Base of what is described: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Everywhere(_Described):
    """One value for all samples, in place of a column.

    Attributes
    ----------
    value
        The value, such as ``24 h`` or ``MCF7``.
    """

    value: str | float


IN_BRACES = r"\{([^{}]+)\}"
"""A column in a pattern."""

Column = str | Everywhere
"""Name of a column of the sample sheet, or one value for all samples."""


class Counts(_Described):
    """The count matrix.

    Attributes
    ----------
    file
        ``.h5ad``, ``.mtx``, ``.csv``, ``.tsv``, ``.txt`` (each plain or ``.gz``) or ``.parquet``. A text or Parquet table has the names of
        genes or samples in its first column and those of the others in its header.
    gene_ids
        What names the genes: ``ensembl`` or ``entrez`` ids, or ``symbol``, with Ensembl ids for genes that have none.
    rows
        Whether a row of the file is a gene or a sample. Of an h5ad file it is always a sample.
    genes, samples
        Of an MTX file, the text files that name its genes and samples, one name a line; the first of several columns counts.
    layer
        Layer of an h5ad file that has the counts; its ``X`` unless given.
    """

    file: str
    gene_ids: Literal["ensembl", "entrez", "symbol"]
    rows: Literal["genes", "samples"] = "genes"
    genes: str | None = None
    samples: str | None = None
    layer: str | None = None

    @property
    def kind(self) -> str:
        """Suffix of the file without ``.gz``, in lower case."""
        return Path(self.file.lower().removesuffix(".gz")).suffix

    @model_validator(mode="after")
    def _readable(self) -> Counts:
        kinds = (".h5ad", ".mtx", ".csv", ".tsv", ".txt", ".parquet")
        if self.kind not in kinds:
            raise ValueError(f"{self.file} is none of {', '.join(kinds)}")
        if (self.genes is not None, self.samples is not None) != 2 * (self.kind == ".mtx",):
            raise ValueError("genes and samples name the genes and samples of an MTX file: it needs both, and no other file has them")
        if self.layer and self.kind != ".h5ad":
            raise ValueError("only an h5ad file has layers")
        return self


class Columns(_Described):
    """Which column of the sample sheet means what; names as the sheet has them.

    Attributes
    ----------
    sample
        Name of the sample in the count matrix. Several columns are joined by a pattern, such as ``{Plate}_{Well}``.
    plate, cell_context, perturbagen
        Plate, cell context, and name of the compound.
    dose, time
        Numbers, or texts with a unit such as ``10 uM``.
    dose_unit, time_unit
        Units of doses and times that have none.
    well, perturbagen_id, smiles, inchikey, pubchem_cid
        Well; identifier, structure and PubChem id of the compound.
    """

    sample: str
    plate: Column
    cell_context: Column
    perturbagen: Column
    dose: Column
    time: Column
    dose_unit: Column | None = None
    time_unit: Column | None = None
    well: Column | None = None
    perturbagen_id: Column | None = None
    smiles: Column | None = None
    inchikey: Column | None = None
    pubchem_cid: Column | None = None

    @field_validator("sample")
    @classmethod
    def _pattern(cls, sample: str) -> str:
        around = "".join(re.split(IN_BRACES, sample)[::2])
        if "{" in sample and ("{" in around or "}" in around):
            raise ValueError(f"{sample} is no pattern: each column stands in braces of its own, as in {{Plate}}_{{Well}}")
        return sample

    @property
    def sample_parts(self) -> list[str]:
        """Text and column names by turns, of which a sample's name in the count matrix is made; text comes first."""
        return re.split(IN_BRACES, self.sample) if "{" in self.sample else ["", self.sample]


class Screen(_Described):
    """A screen: its files and columns.

    Attributes
    ----------
    counts
        The count matrix.
    samples
        Sample sheet, one row a sample: ``.csv``, ``.tsv``, ``.txt`` (each plain or ``.gz``), ``.xlsx`` or ``.parquet``. Without one the
        ``obs`` of the h5ad file is the sheet.
    columns
        Which column means what.
    exclude
        By column of the sheet, values of the samples that do not take part.
    described_in
        The file that describes it.
    folder
        Folder of the files.
    lines
        Line of each field there, by its name with those above it, as in ``columns.dose``.
    """

    counts: Counts
    samples: str | None = None
    columns: Columns
    exclude: dict[str, list[str]] = {}
    # where it is said does not change what is said
    described_in: Path = Field(exclude=True)
    folder: Path = Field(exclude=True)
    lines: dict[str, int] = Field(exclude=True, repr=False)

    @model_validator(mode="after")
    def _has_a_sheet(self) -> Screen:
        if self.samples is None and self.counts.kind != ".h5ad":
            raise ValueError("samples names no sample sheet; only an h5ad file can do without one")
        return self

    def where(self, field: str) -> str:
        """The describing file and the line of a field, for messages."""
        line = self.lines.get(field)
        return f"{self.described_in}, line {line}" if line else str(self.described_in)

    def files(self) -> dict[str, str]:
        """File of each role, below the folder."""
        named = {"counts": self.counts.file, "samples": self.samples, "genes": self.counts.genes, "sample_names": self.counts.samples}
        return {role: file for role, file in named.items() if file}
