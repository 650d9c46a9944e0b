"""Compound embeddings: a model's perturbation table, exported for people to use.

Belongs here: writing, reading and comparing embeddings. Does not belong here: how they were learned (``training.py``), pictures
(``figures.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster.contract import COMPOUND_EMBEDDINGS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.splits import CONTROL
from perturbridge_dagster.written import Stamp, read_parquet, stamped_schema, to_arrow, written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.representation.corpus import StoredCorpus
    from perturbridge_dagster.representation.training import TrainedModel

STAGE = "compound_embeddings"

_CHUNK = 1_024


def write_embeddings(path: Path, trained: TrainedModel, corpus: StoredCorpus, stamp: Stamp) -> pd.DataFrame:
    """Write the embeddings of every perturbation that was trained.

    Control is left out: treated contrasts never train it.

    Parameters
    ----------
    path
        Parquet file.
    trained
        The model.
    corpus
        The corpus it was trained on; gives names and numbers of train conditions.
    stamp
        Stamp of the file; the corpus's datasets, licence and taints are added.

    Returns
    -------
    DataFrame
        As :func:`read_embeddings` gives it back.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    conditions = corpus.conditions[corpus.conditions["split"] == "train"]
    molecules = conditions.assign(symbol=conditions["perturbation"].str.split("+")).explode("symbol")
    n_conditions = molecules.groupby("symbol").size()
    alone = conditions[~conditions["perturbation"].str.contains("+", regex=False)]
    names = alone.sort_values("perturbagen").groupby("perturbation")["perturbagen"].first()

    symbols = [symbol for symbol in trained.vocabularies.perturbation if symbol != CONTROL]
    codes = trained.vocabularies.encode("perturbation", symbols)
    vectors = trained.model.perturbation.weight.detach().cpu().numpy()[codes].astype(np.float32)
    frame = pd.DataFrame(
        {
            "symbol": symbols,
            "pubchem_cid": pd.array([int(symbol) if symbol.isdigit() else None for symbol in symbols], dtype="Int64"),
            "perturbagen": names.reindex(symbols).to_numpy(dtype=object),
            "n_conditions": n_conditions.reindex(symbols, fill_value=0).to_numpy(),
        }
    )
    stamp = stamp.derived(STAGE, stamp.stage_code_version, stamp.data_version, corpus.stamp)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    arrow = to_arrow(frame, COMPOUND_EMBEDDINGS).append_column(pa.field("embedding", lists.type, nullable=False), lists)
    with written_whole(path) as aside:
        pq.write_table(arrow.cast(stamped_schema(arrow.schema, stamp)), aside, compression="zstd")
    return frame.assign(embedding=list(vectors))


def read_embeddings(path: Path) -> pd.DataFrame:
    """Read embeddings: the columns of `COMPOUND_EMBEDDINGS`, and `embedding`, a float32 array a row.

    Raises
    ------
    IncompatibleFileError
        If the file carries no stamp, follows another contract, or was written by another stage.
    """
    import pyarrow.parquet as pq

    frame = read_parquet(path, STAGE, columns=COMPOUND_EMBEDDINGS.names)
    lists = pq.read_table(path, columns=["embedding"]).column("embedding").combine_chunks()
    return frame.assign(embedding=list(lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)))


def embedding_matrix(embeddings: pd.DataFrame) -> NDArray[np.float32]:
    """The embeddings of a frame as one (perturbations × width) array."""
    return np.stack(embeddings["embedding"].to_list()).astype(np.float32)


def neighbours(embeddings: pd.DataFrame, k: int) -> pd.DataFrame:
    """The k nearest perturbations of each perturbation by cosine.

    Parameters
    ----------
    embeddings
        Columns symbol and embedding.
    k
        Neighbours of each; all others where there are fewer.

    Returns
    -------
    DataFrame
        symbol, rank (from 1), neighbour, cosine; in the order of `embeddings`, then rank. Ties go to the earlier row.

    Raises
    ------
    InputError
        If k is below 1 or an embedding is zero, so that it has no direction.
    """
    if k < 1:
        raise InputError(f"{k} neighbours were asked for", expected="at least 1")
    vectors = embedding_matrix(embeddings).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (norms == 0).any():
        raise InputError("zero embeddings have no direction", rows=list(embeddings.loc[(norms == 0).ravel(), "symbol"]), column="embedding")
    vectors /= norms
    symbols = embeddings["symbol"].to_numpy(dtype=object)
    k = min(k, len(vectors) - 1)
    parts = []
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK]
        rows = np.arange(len(chunk))
        cosine = np.clip(chunk @ vectors.T, -1, 1)
        cosine[rows, start + rows] = -np.inf
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        parts.append(
            pd.DataFrame(
                {
                    "symbol": np.repeat(symbols[start + rows], k),
                    "rank": np.tile(np.arange(1, k + 1), len(chunk)),
                    "neighbour": symbols[nearest.ravel()],
                    "cosine": np.take_along_axis(cosine, nearest, axis=1).ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
