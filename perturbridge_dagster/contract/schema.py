"""What a field and a table are, and the version of the contract.

Belongs here: fields, tables, Arrow schemas. Does not belong here: any table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

CONTRACT_VERSION = "1.3"
"""Version of this contract. A change of the first number breaks readers; of the second adds nullable fields."""

Type = Literal["string", "bool", "int32", "int64", "float32", "float64"]
CheckFamily = Literal["schema", "identity", "chemistry", "dose_time", "controls", "counts"]


@dataclass(frozen=True)
class Field:
    """One column of a written table.

    Attributes
    ----------
    name, type, meaning
        Column name, Arrow type name and one sentence on what a value says.
    unit
        Unit of a number (``µM``, ``h``, ``log2``, ``counts``), or None.
    nullable
        Whether a value may be missing. Missing values are nulls, never sentinels.
    allowed
        Closed vocabulary of a string field; empty means open.
    pattern
        Regular expression that every value matches.
    minimum, maximum
        Inclusive bounds of a number.
    unique
        Whether a value occurs at most once in a table.
    family
        The check family that judges the field on harmonized samples.
    since
        Contract version that brought the field; files of earlier versions do not have it.
    """

    name: str
    type: Type
    meaning: str
    unit: str | None = None
    nullable: bool = False
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    unique: bool = False
    family: CheckFamily = "schema"
    since: str = "1.0"


@dataclass(frozen=True)
class Table:
    """A written table: its name, what a row is, and its fields in file order."""

    name: str
    meaning: str
    fields: tuple[Field, ...]

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"table {self.name} has no field {name}; it has {', '.join(self.names)}")

    @property
    def names(self) -> list[str]:
        """Field names in file order."""
        return [field.name for field in self.fields]

    def extended(self, fields: Iterable[Field]) -> Table:
        """The table with further fields at its end, as a dataset declares them.

        Raises
        ------
        ValueError
            If the table has a field of that name.
        """
        further = tuple(fields)
        twice = sorted({field.name for field in further} & set(self.names))
        if twice:
            raise ValueError(f"table {self.name} has {', '.join(twice)} already")
        return replace(self, fields=(*self.fields, *further))

    def as_of(self, version: str) -> Table:
        """The table as an earlier contract version had it: without the fields that came later."""
        return replace(self, fields=tuple(field for field in self.fields if version_numbers(field.since) <= version_numbers(version)))

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of the table; unit and meaning travel as field metadata."""
        import pyarrow as pa

        types = {"string": pa.string(), "bool": pa.bool_()} | {
            name: getattr(pa, name)() for name in ("int32", "int64", "float32", "float64")
        }
        return pa.schema(
            [
                pa.field(
                    field.name,
                    types[field.type],
                    nullable=field.nullable,
                    metadata={"meaning": field.meaning} | ({"unit": field.unit} if field.unit else {}),
                )
                for field in self.fields
            ]
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """A contract version as numbers, so that 1.10 comes after 1.9."""
    return tuple(map(int, version.split(".")))
