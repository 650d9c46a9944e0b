"""Effects on disk: tiles of contrasts × genes in Parquet, with the tables of contrasts and genes beside them.

A row group of ``effects.parquet`` is one tile, so that a reader of one signature, of one gene everywhere, or of a block reads little
more than it asks for, and gets dense blocks. Belongs here: writing and reading the folder of one stratum. Does not belong here:
what the numbers mean (``table.py``, ``contract.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.contract import CONTRASTS, EFFECTS, EFFECTS_PROFILE, GENES, PROFILE_QUANTILES
from perturbridge_dagster.errors import IncompatibleFileError, InputError
from perturbridge_dagster.written import (
    STAMP_KEY,
    Stamp,
    read_parquet,
    read_stamp,
    require_compatible,
    stamped_schema,
    write_json,
    write_parquet,
    written_whole,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from perturbridge_dagster.effects.table import EffectTable

STAGES = ("condition_effects", "replicate_effects")
"""Stages that write effects."""

TILE = (1_500, 500)
"""Contrasts × genes of a tile. Tiles at the end are smaller."""

LAYERS = tuple(name for name in EFFECTS.names if name not in ("contrast", "gene"))
"""Stored layers, the value columns of ``contract.EFFECTS``."""


@dataclass(frozen=True)
class _Tiles:
    """How contrasts × genes are cut into row groups: by rows of tiles, each from left to right."""

    n_contrasts: int
    n_genes: int
    contrasts: int
    genes: int

    @property
    def per_row(self) -> int:
        """Tiles side by side."""
        return -(-self.n_genes // self.genes)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Contrasts and genes of each tile, in file order."""
        for first in range(0, self.n_contrasts, self.contrasts):
            for left in range(0, self.n_genes, self.genes):
                yield (
                    slice(first, min(first + self.contrasts, self.n_contrasts)),
                    slice(left, min(left + self.genes, self.n_genes)),
                )


_TILES_KEY = b"perturbridge_tiles"


def _tile_batch(layers: Mapping[str, NDArray[np.float32]], rows: slice, columns: slice, schema: pa.Schema) -> pa.RecordBatch:
    """The long rows of one tile, sorted by contrast, then gene."""
    import pyarrow as pa

    contrast, gene = np.meshgrid(
        np.arange(rows.start, rows.stop, dtype=np.int32), np.arange(columns.start, columns.stop, dtype=np.int32), indexing="ij"
    )
    values = (pa.array(np.ascontiguousarray(layers[name][rows, columns]).ravel(), from_pandas=True) for name in LAYERS)
    return pa.RecordBatch.from_arrays([pa.array(contrast.ravel()), pa.array(gene.ravel()), *values], schema=schema)


def _profile(layers: Mapping[str, NDArray[np.float32]]) -> pd.DataFrame:
    """One row a layer (``EFFECTS_PROFILE``)."""
    rows = []
    for name in LAYERS:
        values = layers[name][~np.isnan(layers[name])]
        finite = values[np.isfinite(values)].astype(np.float64)
        marks = np.quantile(finite, (0, *PROFILE_QUANTILES, 1)) if len(finite) else [None] * (len(PROFILE_QUANTILES) + 2)
        rows.append([name, layers[name].size, layers[name].size - len(values), len(values) - len(finite), *marks])
    return pd.DataFrame(rows, columns=EFFECTS_PROFILE.names)


def write_effects(table: EffectTable, folder: Path, stamp: Stamp, *, tile: tuple[int, int] = TILE) -> None:
    """Write the effects of one stratum into a folder.

    ``effects.parquet`` (``contract.EFFECTS``), ``contrasts.parquet``, ``genes.parquet``, ``profile.parquet`` (``EFFECTS_PROFILE``: one row
    a layer with columns layer, count, nulls, infinite, minimum, q01, q05, q25, q50, q75, q95, q99, maximum) and ``info.json``.

    Parameters
    ----------
    table
        The effects.
    folder
        Made where absent. Each file appears whole; readers refuse a folder whose files were not written together.
    stamp
        Its stage is ``condition_effects`` or ``replicate_effects``.
    tile
        Contrasts × genes of a row group; readers find it in the file.

    Raises
    ------
    IncompatibleFileError
        If the stage writes no effects, or the tables do not fit the contract.
    """
    import pyarrow.parquet as pq

    require_compatible(stamp, folder, STAGES)
    wide = table.layers | table.log10_layers
    layers = {name: wide[name].astype(np.float32) for name in LAYERS}
    tiles = _Tiles(len(table.contrasts), len(table.genes), *tile)
    schema = stamped_schema(EFFECTS.arrow_schema(), stamp)
    schema = schema.with_metadata({**schema.metadata, _TILES_KEY: json.dumps(vars(tiles)).encode()})
    with (
        written_whole(folder / "effects.parquet") as aside,
        pq.ParquetWriter(aside, schema, compression="zstd", use_dictionary=["contrast", "gene"]) as writer,
    ):
        for rows, columns in tiles:
            writer.write_batch(_tile_batch(layers, rows, columns, schema), row_group_size=tiles.contrasts * tiles.genes)
    write_parquet(folder / "contrasts.parquet", table.contrasts, CONTRASTS, stamp)
    write_parquet(folder / "genes.parquet", table.genes, GENES, stamp)
    write_parquet(folder / "profile.parquet", _profile(layers), EFFECTS_PROFILE, stamp)
    write_json(folder / "info.json", {STAMP_KEY: json.loads(stamp.to_json()), "info": table.info})


def _positions(asked: NDArray[Any] | None, n: int, what: str) -> NDArray[np.intp]:
    """Asked positions as integers in [0, n); all of them for None."""
    if asked is None:
        return np.arange(n)
    positions = np.asarray(asked)
    if positions.dtype == bool:
        raise InputError(f"{what} are asked for by position, not by mask", advice="Use numpy.flatnonzero(mask).")
    positions = positions.astype(np.intp).ravel()
    outside = positions[(positions < 0) | (positions >= n)]
    if len(outside):
        raise InputError(f"{what} at positions outside 0 … {n - 1:,} are asked for", rows=list(outside))
    return positions


class StoredEffects:
    """The effects of one stratum on disk; see :func:`open_effects`.

    Attributes
    ----------
    folder
        Where they lie.
    stamp
        What the files say of themselves.
    contrasts, genes
        The tables of ``contract.CONTRASTS`` and ``contract.GENES``; row positions are those that ``dense`` takes.
    info
        Design, level orders, engine, versions, hyper-parameters, what was dropped.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        files = {name: folder / f"{name}.parquet" for name in ("effects", "contrasts", "genes")}
        absent = [str(file) for file in files.values() if not file.is_file()]
        if absent:
            raise InputError("no complete effects lie here", file=folder, expected=", ".join(absent), advice="Rematerialize the effects.")
        self.folder = folder
        self.stamp = require_compatible(read_stamp(files["effects"]), files["effects"], STAGES)
        self.contrasts = read_parquet(files["contrasts"], STAGES)
        self.genes = read_parquet(files["genes"], STAGES)
        written = json.loads((folder / "info.json").read_text())
        self.info: dict[str, Any] = written["info"]
        stamps = {name: read_stamp(file) for name, file in files.items()} | {"info": Stamp.from_json(json.dumps(written[STAMP_KEY]))}
        others = [name for name, stamp in stamps.items() if stamp != self.stamp]
        if others:
            raise IncompatibleFileError(f"{folder}: {', '.join(others)} was not written together with effects. Rematerialize the effects.")
        self._file = files["effects"]
        self._tiles = _Tiles(**json.loads(pq.read_schema(self._file).metadata[_TILES_KEY]))

    @property
    def profile(self) -> pd.DataFrame:
        """Summary of each layer (``EFFECTS_PROFILE``)."""
        return read_parquet(self.folder / "profile.parquet", STAGES)

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[Any] | None = None, genes: NDArray[Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Dense blocks of layers, reading only the tiles they touch.

        Parameters
        ----------
        layers
            Of logFC, t, log10_p, log10_adj_p_within, log10_adj_p_across.
        contrasts, genes
            Positions in ``contrasts`` and ``genes``, in any order, repeated or not; None for all.

        Returns
        -------
        dict
            One float32 array (contrasts × genes, in the order asked) a layer; NaN where not estimable.

        Raises
        ------
        InputError
            If a layer is not stored or a position lies outside.
        """
        import pyarrow.parquet as pq

        unknown = [name for name in layers if name not in LAYERS]
        if unknown:
            raise InputError(f"no stored layer {', '.join(unknown)}", file=self._file, expected=" or ".join(LAYERS))
        rows = _positions(contrasts, self._tiles.n_contrasts, "contrasts")
        columns = _positions(genes, self._tiles.n_genes, "genes")
        blocks = {name: np.full((len(rows), len(columns)), np.nan, dtype=np.float32) for name in layers}
        if not (len(rows) and len(columns) and blocks):
            return blocks
        row_tile, column_tile = rows // self._tiles.contrasts, columns // self._tiles.genes
        tile_slices = list(self._tiles)
        with pq.ParquetFile(self._file) as file:
            for i in np.unique(row_tile):
                for j in np.unique(column_tile):
                    number = int(i * self._tiles.per_row + j)
                    tile_rows, tile_columns = tile_slices[number]
                    tile = file.read_row_group(number, columns=list(blocks))
                    into = np.ix_(np.flatnonzero(row_tile == i), np.flatnonzero(column_tile == j))
                    out_of = np.ix_(rows[row_tile == i] - tile_rows.start, columns[column_tile == j] - tile_columns.start)
                    shape = (tile_rows.stop - tile_rows.start, tile_columns.stop - tile_columns.start)
                    for name, block in blocks.items():
                        block[into] = tile[name].to_numpy().reshape(shape)[out_of]
        return blocks


def open_effects(folder: Path) -> StoredEffects:
    """Open the effects of one stratum.

    Parameters
    ----------
    folder
        A folder that :func:`write_effects` wrote.

    Raises
    ------
    InputError
        If files are absent.
    IncompatibleFileError
        If a file follows another contract, was written by another stage, or the files were not written together.
    """
    return StoredEffects(Path(folder))
