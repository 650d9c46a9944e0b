"""RData files, read as a stream: what an object is reduced to is decided while the file is read, so that it never is whole in memory.

Belongs here: opening the file, walking its objects, matrices as sparse blocks, errors for people. Does not belong here: what a list or
a table means (the readers).

R itself, and every reader that returns whole objects, would need the decompressed size in memory: for the 59,594 × 59,904 matrix of
MoABox 14 GB where it is integer, 28 GB where it is double. The format is parsed by ``rdata``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from rdata.conversion import SimpleConverter
from rdata.parser import DEFAULT_ALTREP_MAP, RObject, RObjectType
from rdata.parser._xdr import ParserXDR
from scipy import sparse

from perturbridge_dagster.errors import InputError

MAGIC = (b"RDX2\nX\n", b"RDX3\nX\n")
"""How ``save()`` begins a file, unless it is asked for text or for the byte order of one machine."""

Reduce = Callable[[dict[str, RObject]], object | None]

# what a parser makes of a file that ends early or is no RData
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, IndexError, AssertionError, NotImplementedError, zlib.error, lzma.LZMAError)


def read_rdata(file: Path, dataset: str, *, reduce: Reduce | None = None) -> dict[str, Any]:
    """Objects of an RData file by name.

    Parameters
    ----------
    file, dataset
        The file and the dataset it belongs to.
    reduce
        Called with every named list, once it is read, innermost first: names and elements. What it returns takes the place of the
        list, which is then freed; None leaves the list as it is. Without it everything is kept.

    Returns
    -------
    Name → object: a dict for a named list, a DataFrame for a data frame, arrays for vectors and matrices, or what `reduce` made of it.

    Raises
    ------
    InputError
        If the file cannot be read, or was not written by ``save()`` in its standard format.
    """
    kept: list[object] = []
    try:
        with _decompressed(file) as stream:
            if stream.read(7) not in MAGIC:
                raise InputError(
                    "the file is not in R's binary format.",
                    dataset=dataset,
                    file=file,
                    expected="a file written by save(), compressed or not",
                    advice="Fetch the file again; a web page may have been saved in its place.",
                )
            parser = _Stream(stream, reduce, kept)
            top = parser.parse_all().object
            return {name: _converted(value, kept) for name, value in _pairs(top)}
    except _UNREADABLE as error:
        raise InputError(
            f"the file cannot be read as RData: it is truncated or damaged ({error or type(error).__name__}).",
            dataset=dataset,
            file=file,
            advice="Compare its size with the source's and fetch it again.",
        ) from error


def _decompressed(file: Path) -> IO[bytes]:
    """The file, opened, and decompressed in one of the three ways of R."""
    with file.open("rb") as raw:
        begins = raw.read(2)
    if begins == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(file))
    if begins == b"BZ":
        return bz2.open(file)
    if begins == b"\xfd7":
        return lzma.open(file)
    return file.open("rb")


def count_matrix(value: RObject) -> tuple[sparse.csr_matrix, pd.Index, pd.Index]:
    """A matrix or data frame of numbers, transposed: its columns as sparse rows.

    Returns
    -------
    Columns × rows of the R object, int32 where the numbers are whole and small enough, else float64; then names of its columns, and of
    its rows.

    Raises
    ------
    ValueError
        If the object is something else, or its dimensions have no names.
    """
    converted = _converted(value, [])
    if isinstance(converted, pd.DataFrame):
        values, rows, columns = converted.to_numpy(), converted.index, converted.columns
    elif getattr(converted, "ndim", 0) == 2 and {"dim_0", "dim_1"} <= set(getattr(converted, "coords", ())):
        values, rows, columns = converted.to_numpy(), converted.get_index("dim_0"), converted.get_index("dim_1")
    else:
        raise ValueError("counts are neither a matrix with row and column names nor a data frame")
    if values.dtype.kind not in "iuf":
        raise ValueError(f"counts are of type {values.dtype}")
    return _narrowed(sparse.csr_matrix(values.T)), columns.astype(str), rows.astype(str)


def data_frame(value: RObject) -> pd.DataFrame:
    """An R data frame.

    Raises
    ------
    ValueError
        If the object is something else.
    """
    converted = _converted(value, [])
    if not isinstance(converted, pd.DataFrame):
        raise ValueError("what should be a data frame is something else")
    return converted


def _narrowed(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """Whole numbers that fit as int32, anything else as it is: R often holds counts as doubles."""
    with np.errstate(invalid="ignore"):
        narrow = values.data.astype(np.int32)
    return sparse.csr_matrix((narrow, values.indices, values.indptr), values.shape) if (narrow == values.data).all() else values


class _Stream(ParserXDR):
    """Parser of an open stream, that reduces named lists as soon as they are read."""

    def __init__(self, stream: IO[bytes], reduce: Reduce | None, kept: list[object]) -> None:
        super().__init__(memoryview(b""), expand_altrep=True, altrep_constructor_dict=DEFAULT_ALTREP_MAP)
        self.file = cast("Any", stream)
        self.reduce = reduce
        self.kept = kept

    def _parse_array_values(self, dtype: npt.DTypeLike, length: int) -> npt.NDArray[Any]:
        values = super()._parse_array_values(dtype, length)
        if len(values) != length:
            raise EOFError("end of file inside an array")
        return values

    def parse_R_object(
        self,
        reference_list: list[RObject] | None = None,
        bytecode_rep_list: list[RObject | None] | None = None,
        info_int: int | None = None,
    ) -> RObject:
        found = super().parse_R_object(reference_list, bytecode_rep_list, info_int)
        if self.reduce is not None and found.info.type is RObjectType.VEC and not found.info.object and found.attributes is not None:
            names = dict(_pairs(found.attributes)).get("names")
            if names is not None:
                reduced = self.reduce(dict(zip(_converted(names, []), found.value, strict=True)))
                if reduced is not None:
                    # the place of the list is taken by the number under which its reduced self is kept
                    self.kept.append(reduced)
                    found.value, found.attributes = len(self.kept) - 1, None
        return found


def _pairs(value: RObject | None) -> list[tuple[str, RObject]]:
    """Elements of a pairlist with their tags."""
    pairs = []
    while value is not None and value.info.type is RObjectType.LIST:
        tag = value.tag.referenced_object if value.tag and value.tag.referenced_object else value.tag
        pairs.append((tag.value.value.decode() if tag else "", value.value[0]))
        value = value.value[1]
    return pairs


def _converted(value: RObject, kept: list[object]) -> Any:
    """A parsed object as Python has it."""
    if value.info.type is RObjectType.VEC and not value.info.object:
        if isinstance(value.value, int):
            return kept[value.value]
        names = dict(_pairs(value.attributes)).get("names")
        elements = [_converted(element, kept) for element in value.value]
        return elements if names is None else dict(zip(_converted(names, []), elements, strict=True))
    return SimpleConverter(default_encoding="utf-8").convert(value)
