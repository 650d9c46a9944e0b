"""Written files: the stamp that says what a file is, and writing it whole or not at all.

Belongs here: the stamp, atomic writes, the Parquet and h5ad readers and writers every stage uses, canonical checksums. Does not
belong here: what a table means (``contract/``) or where it lies (``resources/store.py``).
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from perturbridge_dagster.contract import CONTRACT_VERSION, Table
from perturbridge_dagster.errors import IncompatibleFileError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    import pyarrow as pa

STAMP_KEY = "perturbridge"
"""Key of the stamp in Parquet schema metadata and in ``AnnData.uns``."""

LicenceClass = Literal["open", "restricted"]


@dataclass(frozen=True)
class Stamp:
    """What a written file says of itself.

    Attributes
    ----------
    stage
        Stage that wrote it, the name of the asset.
    stage_code_version
        Declared version of the stage's code, with the versions of R packages where they decide numbers.
    data_version
        Digest of the request that made it: task, arguments, input checksums and code version.
    source_datasets
        Dataset ids whose data are in the file, sorted.
    licence
        ``"open"`` when all of them may be redistributed, else ``"restricted"``.
    unaccepted_inputs
        Inputs that were used although a blocking check had not passed; empty in a clean file.
    simulated
        Whether data of the simulated sample compendium are in it.
    contract_version
        Version of the contract the file follows.
    """

    stage: str
    stage_code_version: str
    data_version: str
    source_datasets: tuple[str, ...]
    licence: LicenceClass
    unaccepted_inputs: tuple[str, ...] = ()
    simulated: bool = False
    contract_version: str = field(default=CONTRACT_VERSION)

    def to_json(self) -> str:
        """The stamp as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Stamp:
        """Read a stamp.

        Raises
        ------
        ValueError
            If the text is not a stamp.
        """
        try:
            values = json.loads(text)
            values["source_datasets"] = tuple(values["source_datasets"])
            values["unaccepted_inputs"] = tuple(values["unaccepted_inputs"])
            return cls(**values)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a perturbridge stamp: {error}") from error

    def derived(self, stage: str, stage_code_version: str, data_version: str, *others: Stamp) -> Stamp:
        """Stamp of a file made from this one and `others`: datasets and taints add up; one restricted input restricts it."""
        inputs = (self, *others)
        return replace(
            self,
            stage=stage,
            stage_code_version=stage_code_version,
            data_version=data_version,
            source_datasets=tuple(sorted({name for stamp in inputs for name in stamp.source_datasets})),
            licence="restricted" if any(stamp.licence == "restricted" for stamp in inputs) else "open",
            unaccepted_inputs=tuple(sorted({name for stamp in inputs for name in stamp.unaccepted_inputs})),
            simulated=any(stamp.simulated for stamp in inputs),
            contract_version=CONTRACT_VERSION,
        )


def require_compatible(stamp: Stamp, file: Path, stage: str | Sequence[str]) -> Stamp:
    """Refuse a file whose stamp does not fit.

    Parameters
    ----------
    stamp, file
        The stamp and the file it was read from.
    stage
        Stage, or stages, that may have written the file.

    Raises
    ------
    IncompatibleFileError
        If the contract's first number differs or another stage wrote the file.
    """
    stages = [stage] if isinstance(stage, str) else list(stage)
    if stamp.contract_version.split(".")[0] != CONTRACT_VERSION.split(".")[0]:
        raise IncompatibleFileError(
            f"{file} follows contract {stamp.contract_version}; this version reads {CONTRACT_VERSION.split('.')[0]}.x. "
            f"Rematerialize {stamp.stage}."
        )
    if stamp.stage not in stages:
        raise IncompatibleFileError(f"{file} was written by {stamp.stage}; expected a file of {' or '.join(stages)}.")
    return stamp


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file to that becomes `path` only when the block ends without an error.

    Parameters
    ----------
    path
        The file to appear. Its parent is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole."""
    with written_whole(path) as aside:
        aside.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, streamed."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- Parquet -----------------------------------------------------------------------------------------------------------------


def to_arrow(frame: pd.DataFrame, table: Table) -> pa.Table:
    """Cast a frame to a table of the contract.

    Parameters
    ----------
    frame
        Columns at least those of `table`; others are dropped.
    table
        The table of the contract.

    Raises
    ------
    IncompatibleFileError
        If a column is missing, cannot be cast, or has nulls where the contract allows none.
    """
    import pyarrow as pa

    schema = table.arrow_schema()
    missing = [name for name in table.names if name not in frame.columns]
    if missing:
        raise IncompatibleFileError(f"table {table.name} lacks {', '.join(missing)}")
    columns = []
    for arrow_field in schema:
        try:
            column = pa.array(frame[arrow_field.name], from_pandas=True)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            column = column.cast(arrow_field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise IncompatibleFileError(f"table {table.name}, column {arrow_field.name}: {error}") from error
        if column.null_count and not arrow_field.nullable:
            raise IncompatibleFileError(f"table {table.name}, column {arrow_field.name}: {column.null_count:,} missing values")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def stamped_schema(schema: pa.Schema, stamp: Stamp) -> pa.Schema:
    """An Arrow schema that carries the stamp."""
    return schema.with_metadata({STAMP_KEY: stamp.to_json()})


def write_parquet(path: Path, frame: pd.DataFrame, table: Table, stamp: Stamp) -> None:
    """Write a stamped Parquet file of a table of the contract, whole.

    Raises
    ------
    IncompatibleFileError
        If the frame does not fit the table.
    """
    import pyarrow.parquet as pq

    arrow = to_arrow(frame, table)
    with written_whole(path) as aside:
        pq.write_table(arrow.cast(stamped_schema(arrow.schema, stamp)), aside, compression="zstd")


def read_stamp(path: Path) -> Stamp:
    """Read the stamp of a written Parquet, Arrow or h5ad file.

    Raises
    ------
    IncompatibleFileError
        If the file carries none.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        text = (pq.read_schema(path).metadata or {}).get(STAMP_KEY.encode())
    elif path.suffix == ".arrow":
        import pyarrow as pa

        try:
            text = (pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata or {}).get(STAMP_KEY.encode())
        except pa.ArrowInvalid:  # something else, or cut short
            text = None
    else:
        import h5py

        with h5py.File(path) as file:
            text = file["uns"][STAMP_KEY][()] if STAMP_KEY in file.get("uns", {}) else None
    if text is None:
        raise IncompatibleFileError(f"{path} carries no stamp, so it was not written by this platform. Rematerialize its asset.")
    try:
        return Stamp.from_json(text)
    except ValueError as error:
        raise IncompatibleFileError(f"{path}: {error}") from error


def read_parquet(path: Path, stage: str | Sequence[str], columns: list[str] | None = None) -> pd.DataFrame:
    """Read a stamped Parquet file, refusing one that does not fit.

    Integer columns that may be null come back as pandas ``Int64``.

    Raises
    ------
    IncompatibleFileError
        See :func:`require_compatible`.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_compatible(read_stamp(path), path, stage)
    table = pq.read_table(path, columns=columns)
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    for column in table.schema:
        if column.nullable and pa.types.is_int64(column.type):
            frame[column.name] = table.column(column.name).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame


# ---- AnnData -----------------------------------------------------------------------------------------------------------------


def write_h5ad(path: Path, samples: ad.AnnData, stamp: Stamp) -> None:
    """Write a stamped h5ad file, whole. `samples` is left as it was."""
    import anndata as ad
    import h5py

    with written_whole(path) as aside:
        samples.write_h5ad(aside, compression="lzf")
        # put into the file afterwards: a copy of the samples would take their memory twice
        with h5py.File(aside, "r+") as file:
            ad.io.write_elem(file["uns"], STAMP_KEY, stamp.to_json())


def read_h5ad(path: Path, stage: str | Sequence[str], *, backed: bool = False) -> ad.AnnData:
    """Read a stamped h5ad file, refusing one that does not fit.

    Raises
    ------
    IncompatibleFileError
        See :func:`require_compatible`.
    """
    import anndata as ad

    require_compatible(read_stamp(path), path, stage)
    return ad.read_h5ad(path, backed="r" if backed else None)


# ---- canonical checksums -----------------------------------------------------------------------------------------------------


def _digest_frame(frame: pd.DataFrame, update: Callable[[bytes], None]) -> None:
    """Feed a frame's content to a hash: names, then values as text-independent bytes."""
    import numpy as np

    for name in frame.columns:
        column = frame[name]
        if column.dtype.name == "category":
            column = column.astype(object)
        update(f"\x1e{name}\x1f".encode())
        if column.dtype.kind in "biuf":
            update(np.ascontiguousarray(column.to_numpy()).tobytes())
        else:
            missing = column.isna().to_numpy()
            update(missing.tobytes())
            update("\x1f".join(str(value) for value in column[~missing]).encode())


_HASHED_BYTES = 2**24


def content_checksum(samples: ad.AnnData) -> str:
    """SHA-256 of what an AnnData says: obs, var and X, independent of file bytes and of the stamp.

    Parameters
    ----------
    samples
        X dense or CSR; obs and var with any columns.
    """
    import numpy as np
    from scipy import sparse

    digest = hashlib.sha256()
    for frame in (samples.obs, samples.var):
        _digest_frame(frame.reset_index(), digest.update)
    matrix = samples.X
    if sparse.issparse(matrix):
        matrix = matrix.tocsr()
        if not matrix.has_sorted_indices:
            matrix = matrix.sorted_indices()
        # which integers a matrix has for indices depends on its size
        parts: Iterable[Any] = ((matrix.indptr, np.dtype(np.int64)), (matrix.indices, np.dtype(np.int64)), (matrix.data, matrix.dtype))
    else:
        parts = ((matrix, matrix.dtype),)
    for part, dtype in parts:
        digest.update(f"\x1d{dtype.str}{part.shape}".encode())
        # some rows at a time: converted whole, a matrix of real size would take its memory again
        n_rows = max(_HASHED_BYTES // (dtype.itemsize * max(math.prod(part.shape[1:]), 1)), 1)
        for start in range(0, len(part), n_rows):
            digest.update(np.ascontiguousarray(part[start : start + n_rows], dtype).tobytes())
    return digest.hexdigest()
