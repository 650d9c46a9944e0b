"""Opening one published h5ad file: obs and var in memory, matrices by blocks of rows.

Belongs here: what a published file must have to be read at all, and its markers of a missing value. Does not belong here: what its
columns mean (``effects.py``, ``samples.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.errors import InputError

SENTINEL = -666
"""What the release writes where a number is not known or not meaningful."""

_MISSING_WORDS = ("", "nan", "none", "<na>", str(SENTINEL))


class PublishedFile:
    """One published h5ad file, open for reading; a context.

    Attributes
    ----------
    path
        The file.
    obs, var
        Rows and genes, as they are stored.

    Raises
    ------
    InputError
        If it is no h5ad file, or its genes are not unique.
    """

    def __init__(self, path: Path) -> None:
        from anndata.io import read_elem

        self.path = path
        if not path.is_file():
            raise InputError("the published file does not exist", file=path)
        try:
            self.file = h5py.File(path)
        except OSError as error:
            raise InputError(f"cannot be read as HDF5, so it is no h5ad file or not whole: {error}", file=path) from error
        try:
            absent = [name for name in ("obs", "var") if name not in self.file]
            if absent:
                raise InputError(f"has no {' and no '.join(absent)}", file=path, expected="an AnnData file")
            try:
                self.obs: pd.DataFrame = read_elem(self.file["obs"])
                self.var: pd.DataFrame = read_elem(self.file["var"])
            except Exception as error:  # anndata raises what its decoder happens to meet
                raise InputError(f"obs or var cannot be decoded: {error}", file=path, expected="tables as anndata writes them") from error
            genes = self.var.index
            if not genes.is_unique:
                raise InputError("genes are not unique", file=path, rows=sorted(set(genes[genes.duplicated()].astype(str))))
        except InputError:
            self.file.close()
            raise

    def __enter__(self) -> PublishedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and genes."""
        return len(self.obs), len(self.var)

    def require_columns(self, columns: Sequence[str]) -> None:
        """Refuse a file whose obs lacks columns.

        Raises
        ------
        InputError
            Naming what is absent.
        """
        absent = [name for name in columns if name not in self.obs]
        if absent:
            raise InputError(
                "obs lacks columns of the published layout", file=self.path, column=", ".join(absent), expected=", ".join(columns)
            )

    def require_layers(self, layers: Sequence[str]) -> None:
        """Refuse a file that lacks layers, or has them in another shape or form.

        Raises
        ------
        InputError
            Naming the layer, its shape, and the one expected.
        """
        stored = self.file.get("layers", {})
        absent = [name for name in layers if name not in stored]
        if absent:
            raise InputError(
                f"lacks the layer{'s' if len(absent) > 1 else ''} {', '.join(absent)}; it has {', '.join(stored) or 'none'}",
                file=self.path,
                expected=", ".join(layers),
                advice="Files of effects end in _de.h5ad; the samples themselves in _processed.h5ad.",
            )
        for name in layers:
            layer = stored[name]
            if not isinstance(layer, h5py.Dataset):
                raise InputError(f"layer {name} is not dense", file=self.path, expected="a dense array of contrasts × genes")
            if layer.shape != self.shape or layer.dtype.kind != "f":
                raise InputError(
                    f"layer {name} has shape {layer.shape} and type {layer.dtype}",
                    file=self.path,
                    expected=f"floating point of shape {self.shape}, rows of obs × genes of var",
                )

    def rows(self, layer: str, rows: slice) -> NDArray[np.float64]:
        """Some rows of a layer, float64."""
        values: NDArray[np.float64] = self.file["layers"][layer][rows].astype(np.float64, copy=False)
        return values


def texts(column: pd.Series[Any]) -> pd.Series[Any]:
    """A stored column as text; None where it is missing, or a word for missing."""
    plain = column.astype(object)
    found = plain.where(plain.notna(), "").astype(str).str.strip()
    return found.where(~found.str.lower().isin(_MISSING_WORDS), None).astype(object)


def numbers(column: pd.Series[Any]) -> pd.Series[float]:
    """A stored column, also a categorical or text one, as float64; NaN where it is missing or the sentinel."""
    found = pd.to_numeric(column.astype(object), errors="coerce").astype(np.float64)
    return found.where(found != SENTINEL)


def pubchem_ids(column: pd.Series[Any]) -> pd.Series[Any]:
    """A stored column of PubChem ids as Int64; null where there is none."""
    found = numbers(column)
    return found.where((found > 0) & (found % 1 == 0)).astype("Int64")


def booleans(column: pd.Series[Any], file: Path) -> NDArray[np.bool_]:
    """A stored column of booleans, categories of booleans, or their words.

    Raises
    ------
    InputError
        If a value is neither true nor false.
    """
    words = column.astype(object).map(lambda value: str(value).strip().lower())
    unknown = ~words.isin(["true", "false", "1", "0"]).to_numpy()
    if unknown.any():
        raise InputError(
            f"holds other values than true and false; {unknown.sum():,} do",
            file=file,
            column=str(column.name),
            rows=list(column.index[unknown]),
        )
    return words.isin(["true", "1"]).to_numpy()
