"""Compound embeddings: the perturbation tables of a model's seeds, exported for people to use.

Belongs here: writing and reading embeddings. Does not belong here: how they were learned (``training.py``), what their places say
(``geometry.py``), pictures (``figures.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
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

    from perturbridge_dagster.representation.checkpoints import TrainedModel
    from perturbridge_dagster.representation.corpus import StoredCorpus

STAGE = "compound_embeddings"

_TEN = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def seeds_of(size: str, model: str, corpus: str) -> tuple[int, ...]:
    """Seeds that a model is trained with, the first of which is the one that is evaluated and handed on.

    The ten are those published for the multi-output model. The scalar one was published with the first alone; it takes hours a seed, and
    one seed does not tell how stable neighbours are. On the sample, the whole compendium alone has a second seed.

    Parameters
    ----------
    size
        A name of ``stages.SIZES``.
    model, corpus
        Names of the model and the corpus.
    """
    if size == "published":
        return _TEN if model == "multi_output_lpm" else _TEN[:3]
    return _TEN[:2] if corpus == "all" else _TEN[:1]


def write_embeddings(path: Path, trained: Mapping[int, TrainedModel], corpus: StoredCorpus, stamp: Stamp, *, name: str) -> pd.DataFrame:
    """Write the embeddings of every perturbation that was trained, seed after seed, a row group a seed.

    Control is left out: treated contrasts never train it.

    Parameters
    ----------
    path
        Parquet file.
    trained
        Seed → the model, all of one architecture and of the same perturbations.
    corpus
        The corpus they were trained on; gives names and numbers of train conditions.
    stamp
        Stamp of the file; the corpus's datasets, licence and taints are added.
    name
        Name of the corpus.

    Returns
    -------
    DataFrame
        As :func:`read_embeddings` gives it back.

    Raises
    ------
    InputError
        If models differ in architecture or perturbations.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    models = list(trained.values())
    symbols = [symbol for symbol in models[0].vocabularies.perturbation if symbol != CONTROL]
    for model in models[1:]:
        if model.settings.architecture != models[0].settings.architecture or model.vocabularies != models[0].vocabularies:
            raise InputError("seeds of different models cannot be one file of embeddings", expected="one architecture and vocabulary")
    stamp = stamp.derived(STAGE, stamp.stage_code_version, stamp.data_version, corpus.stamp)
    described = _described(symbols, corpus, models[0].settings.split).assign(
        model=models[0].settings.architecture, corpus=name, code_version=stamp.stage_code_version, licence_class=stamp.licence
    )
    frames = []
    with written_whole(path) as aside:
        writer = None
        for seed, one in trained.items():
            codes = one.vocabularies.encode("perturbation", symbols)
            vectors = one.model.perturbation.weight.detach().cpu().numpy()[codes].astype(np.float32)
            frame = described.assign(seed=pd.array([seed] * len(symbols), dtype="Int64"))[COMPOUND_EMBEDDINGS.names]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
            arrow = to_arrow(frame, COMPOUND_EMBEDDINGS).append_column(pa.field("embedding", lists.type, nullable=False), lists)
            arrow = arrow.cast(stamped_schema(arrow.schema, stamp))
            writer = writer or pq.ParquetWriter(aside, arrow.schema, compression="zstd")
            writer.write_table(arrow, row_group_size=max(1, len(arrow)))
            frames.append(frame.assign(embedding=list(vectors)))
        if writer:
            writer.close()
    return pd.concat(frames, ignore_index=True)


def _described(symbols: list[str], corpus: StoredCorpus, rule: str) -> pd.DataFrame:
    """Symbols with their PubChem id, their name and the number of train conditions."""
    conditions = corpus.conditions_of("train", rule)
    molecules = conditions.assign(symbol=conditions["perturbation"].str.split("+")).explode("symbol")
    n_conditions = molecules.groupby("symbol").size()
    names = corpus.compounds.set_index("perturbation")["perturbagen"]
    return pd.DataFrame(
        {
            "symbol": symbols,
            "pubchem_cid": pd.array([int(symbol) if symbol.isdigit() else None for symbol in symbols], dtype="Int64"),
            "perturbagen": names.reindex(symbols).to_numpy(dtype=object),
            "n_conditions": n_conditions.reindex(symbols, fill_value=0).to_numpy(),
        }
    )


def read_embeddings(path: Path) -> pd.DataFrame:
    """Read embeddings: the columns of `COMPOUND_EMBEDDINGS`, and `embedding`, a float32 array a row.

    Columns that a file of an earlier contract does not have are null.

    Raises
    ------
    IncompatibleFileError
        If the file carries no stamp, follows another contract, or was written by another stage.
    """
    import pyarrow.parquet as pq

    present = [name for name in COMPOUND_EMBEDDINGS.names if name in pq.read_schema(path).names]
    frame = read_parquet(path, STAGE, columns=present).reindex(columns=COMPOUND_EMBEDDINGS.names)
    lists = pq.read_table(path, columns=["embedding"]).column("embedding").combine_chunks()
    return frame.assign(embedding=list(lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)))


def embedding_matrix(embeddings: pd.DataFrame) -> NDArray[np.float32]:
    """The embeddings of a frame as one (rows × width) array."""
    return np.stack(embeddings["embedding"].to_list()).astype(np.float32)
