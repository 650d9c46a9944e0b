"""Effects on disk: tiles of contrasts × genes in Parquet, with the tables of contrasts and genes beside them.

A row group of ``effects.parquet`` is one tile, so that a reader of one signature, of one gene everywhere, or of a block reads little
more than it asks for, and gets dense blocks. Belongs here: writing and reading the folder of one stratum. Does not belong here:
what the numbers mean (``table.py``, ``contract/``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.contract import CONTRASTS, EFFECTS, EFFECTS_PROFILE, GENE_FILTER, GENES, PROFILE_QUANTILES
from perturbridge_dagster.effects.streaming import GENES_AT_A_TIME, LAYERS, MEMORY, EffectStream, Tiles
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

TILE = (1_500, GENES_AT_A_TIME)
"""Contrasts × genes of a tile. Tiles at the end are smaller."""

_REPEATED = ("contrast", "gene", "log10_adj_p_across")
"""Columns of few distinct values, stored as a dictionary: adjusting ties neighbours, and those across a stratum lie anywhere in a tile."""

_SAMPLED_VALUES = 2**20
"""Values of a layer, at least one contrast, from which quantiles of the profile are taken."""

_TILES_KEY = b"perturbridge_tiles"


def _tile_batch(layers: Mapping[str, NDArray[np.float32]], rows: slice, columns: slice, schema: pa.Schema) -> pa.RecordBatch:
    """The long rows of one tile, sorted by contrast, then gene."""
    import pyarrow as pa

    contrast, gene = np.meshgrid(
        np.arange(rows.start, rows.stop, dtype=np.int32), np.arange(columns.start, columns.stop, dtype=np.int32), indexing="ij"
    )
    values = (pa.array(layers[name].ravel(), from_pandas=True) for name in LAYERS)
    return pa.RecordBatch.from_arrays([pa.array(contrast.ravel()), pa.array(gene.ravel()), *values], schema=schema)


class _Profile:
    """Summary of each layer (``EFFECTS_PROFILE``), gathered tile by tile.

    Counts and extremes are of all values. Quantiles are too in a table of up to :data:`_SAMPLED_VALUES`, and of evenly spaced contrasts
    in a larger one.
    """

    def __init__(self, n_contrasts: int, n_genes: int) -> None:
        n_sampled = min(n_contrasts, max(1, _SAMPLED_VALUES // max(n_genes, 1)))
        self._sampled = np.unique(np.linspace(0, n_contrasts - 1, n_sampled).astype(np.intp))
        self._samples = {name: np.empty((len(self._sampled), n_genes), dtype=np.float32) for name in LAYERS}
        self._counts = {name: np.zeros(3, dtype=np.int64) for name in LAYERS}
        self._extremes = dict.fromkeys(LAYERS, (np.inf, -np.inf))

    def add(self, rows: slice, columns: slice, layers: Mapping[str, NDArray[np.float32]]) -> None:
        """Add a tile."""
        chosen = slice(*np.searchsorted(self._sampled, [rows.start, rows.stop]))
        for name, values in layers.items():
            self._samples[name][chosen, columns] = values[self._sampled[chosen] - rows.start]
            missing, infinite = np.isnan(values), np.isinf(values)
            self._counts[name] += values.size, missing.sum(), infinite.sum()
            finite = ~(missing | infinite)
            lowest, highest = self._extremes[name]
            self._extremes[name] = (
                min(lowest, float(np.min(values, where=finite, initial=np.inf))),
                max(highest, float(np.max(values, where=finite, initial=-np.inf))),
            )

    def frame(self) -> pd.DataFrame:
        """One row a layer."""
        rows = []
        for name in LAYERS:
            finite = self._samples[name][np.isfinite(self._samples[name])].astype(np.float64)
            quantiles = np.quantile(finite, PROFILE_QUANTILES) if len(finite) else [None] * len(PROFILE_QUANTILES)
            lowest, highest = self._extremes[name] if self._counts[name][0] > self._counts[name][1:].sum() else (None, None)
            rows.append([name, *self._counts[name], lowest, *quantiles, highest])
        return pd.DataFrame(rows, columns=EFFECTS_PROFILE.names)


def write_effects(table: EffectTable, folder: Path, stamp: Stamp, *, tile: tuple[int, int] = TILE, memory: int = MEMORY) -> None:
    """Write the effects of one stratum into a folder, in bounded memory.

    ``effects.parquet`` (``contract.EFFECTS``), ``contrasts.parquet``, ``genes.parquet``, ``gene_filter.parquet``, ``profile.parquet``
    (``EFFECTS_PROFILE``: one row a layer with columns layer, count, nulls, infinite, minimum, q01, q05, q25, q50, q75, q95, q99, maximum;
    in a table of more than a million values the quantiles are those of evenly spaced contrasts) and ``info.json``.

    Parameters
    ----------
    table
        The effects.
    folder
        Made where absent. Each file appears whole; readers refuse a folder whose files were not written together. While effects are
        written, about 40 bytes a contrast × gene more are needed there.
    stamp
        Its stage is ``condition_effects`` or ``replicate_effects``.
    tile
        Contrasts × genes of a row group; readers find it in the file.
    memory
        What streaming may take (``streaming.EffectStream``). No value depends on it. Unit: bytes.

    Raises
    ------
    IncompatibleFileError
        If the stage writes no effects, or the tables do not fit the contract.
    """
    import pyarrow.parquet as pq

    require_compatible(stamp, folder, STAGES)
    folder.mkdir(parents=True, exist_ok=True)
    tiles = Tiles(len(table.contrasts), len(table.genes), *tile)
    profile = _Profile(tiles.n_contrasts, tiles.n_genes)
    schema = stamped_schema(EFFECTS.arrow_schema(), stamp)
    schema = schema.with_metadata({**schema.metadata, _TILES_KEY: json.dumps(vars(tiles)).encode()})
    with (
        EffectStream(table, tiles, folder, memory) as stream,
        written_whole(folder / "effects.parquet") as aside,
        pq.ParquetWriter(aside, schema, compression="zstd", use_dictionary=list(_REPEATED)) as writer,
        ThreadPoolExecutor(1) as thread,
    ):
        writing: Future[None] | None = None
        # one tile is encoded while the next is computed
        for rows, columns, layers in stream:
            batch = _tile_batch(layers, rows, columns, schema)
            if writing:
                writing.result()
            writing = thread.submit(writer.write_batch, batch, row_group_size=tiles.contrasts * tiles.genes)
            profile.add(rows, columns, layers)
        if writing:
            writing.result()
    write_parquet(folder / "contrasts.parquet", stream.contrasts, CONTRASTS, stamp)
    write_parquet(folder / "genes.parquet", table.genes, GENES, stamp)
    write_parquet(folder / "gene_filter.parquet", table.filtered_genes, GENE_FILTER, stamp)
    write_parquet(folder / "profile.parquet", profile.frame(), EFFECTS_PROFILE, stamp)
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


def _require_present(folder: Path, files: Iterable[Path]) -> None:
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise InputError("no complete effects lie here", file=folder, expected=", ".join(absent), advice="Rematerialize the effects.")


class StoredEffects:
    """The effects of one stratum on disk; see :func:`open_effects`.

    Attributes
    ----------
    folder
        Where they lie.
    stamp
        What the files say of themselves.
    contrasts, genes
        The tables of ``contract.CONTRASTS`` and ``contract.GENES``; row positions are those that ``dense`` takes. Files of contract 1.0
        lack the columns that came later.
    info
        Design, level orders, engine, versions, hyper-parameters, what was dropped.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        files = {name: folder / f"{name}.parquet" for name in ("effects", "contrasts", "genes")}
        _require_present(folder, files.values())
        self.folder = folder
        self.stamp = require_compatible(read_stamp(files["effects"]), files["effects"], STAGES)
        if self.stamp.contract_version != "1.0":
            files["gene_filter"] = folder / "gene_filter.parquet"
            _require_present(folder, files.values())
        self.contrasts = read_parquet(files["contrasts"], STAGES)
        self.genes = read_parquet(files["genes"], STAGES)
        written = json.loads((folder / "info.json").read_text())
        self.info: dict[str, Any] = written["info"]
        stamps = {name: read_stamp(file) for name, file in files.items()} | {"info": Stamp.from_json(json.dumps(written[STAMP_KEY]))}
        others = [name for name, stamp in stamps.items() if stamp != self.stamp]
        if others:
            raise IncompatibleFileError(f"{folder}: {', '.join(others)} was not written together with effects. Rematerialize the effects.")
        self._file = files["effects"]
        self._tiles = Tiles(**json.loads(pq.read_schema(self._file).metadata[_TILES_KEY]))

    @property
    def gene_filter(self) -> pd.DataFrame | None:
        """What the filter saw of each gene given (``contract.GENE_FILTER``); None in files of contract 1.0, which do not say."""
        return None if self.stamp.contract_version == "1.0" else read_parquet(self.folder / "gene_filter.parquet", STAGES)

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
