"""Published harmonized samples in our contract: obs and var in memory, expression by blocks of rows.

Belongs here: what the release's columns, categories and sentinels of samples mean in our contract, and which rows occur more than once
where a stratum's batches are read together. Does not belong here: effects (``effects.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from perturbridge_dagster.contract import HARMONIZED_OBS, HARMONIZED_VAR
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published.h5ad import PublishedFile, booleans, numbers, pubchem_ids, texts

if TYPE_CHECKING:
    import anndata as ad

_REQUIRED = ("plate", "cell_type", "perturbagen", "is_control", "pert_dose_uM", "pert_time_h", "pubchem_cid")

ROWS_AT_A_TIME = 2_000
"""Rows of expression that are read at a time."""


class PublishedSamples:
    """Published samples, open for reading; a context. See :func:`open_published_samples`.

    Attributes
    ----------
    files
        The open files.
    obs
        ``contract.HARMONIZED_OBS``, indexed by sample_id, each sample once, with ``perturbation_label`` beside its fields where the
        release has it. What the release does not tell (inchikey, source_perturbagen_id …) is null.
    var
        ``contract.HARMONIZED_VAR``, indexed by ensembl_id.
    n_repeated_controls, n_repeated_treated
        Rows left out because an earlier file has the sample: batches of a stratum share all controls, and padding.
    """

    def __init__(self, files: Sequence[Path], dataset: str) -> None:
        if not files:
            raise InputError("there is no published file of samples", dataset=dataset)
        self.files: list[PublishedFile] = []
        with ExitStack() as opening:
            for path in files:
                file = opening.enter_context(PublishedFile(path))
                file.require_columns(_REQUIRED)
                _require_matrix(file)
                self.files.append(file)
            self._require_same_genes()
            tables = [_obs(file, dataset) for file in self.files]
            obs = pd.concat(tables)
            repeated = obs.index.duplicated()
            self._require_equal(obs, repeated)
            self._open = opening.pop_all()
        controls = obs["is_control"].to_numpy()
        self.n_repeated_controls = int((repeated & controls).sum())
        self.n_repeated_treated = int((repeated & ~controls).sum())
        self.obs = obs[~repeated]
        self.var = _var(self.files[0])
        self._kept = np.split(~repeated, np.cumsum([len(table) for table in tables])[:-1])

    def __enter__(self) -> PublishedSamples:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _require_same_genes(self) -> None:
        first = self.files[0]
        for file in self.files[1:]:
            if not file.var.index.equals(first.var.index):
                raise InputError(f"has other genes than {first.path.name}", file=file.path, advice="Files of one dataset have the same.")

    def _require_equal(self, obs: pd.DataFrame, repeated: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Refuse two samples of one id that are not the same sample."""
        keys = obs.loc[obs.index[repeated], ["plate", "perturbagen", "cell_type", "pert_time_h"]]
        differing = keys.groupby(level=0).nunique(dropna=False).max(axis=1)
        if (differing > 1).any():
            raise InputError(
                "sample ids are not unique: samples of one id differ in plate, perturbagen, cell context or time",
                file=self.files[0].path,
                column="sample_id",
                rows=list(differing.index[differing > 1]),
            )

    def blocks(self, step: int = ROWS_AT_A_TIME) -> Iterator[tuple[pd.DataFrame, sparse.csr_array]]:
        """Obs and expression (samples × genes) of some samples at a time, each sample once, in the order of `obs`."""
        start = 0
        for file, kept in zip(self.files, self._kept, strict=True):
            for first in range(0, file.shape[0], step):
                rows = slice(first, min(first + step, file.shape[0]))
                chosen = np.flatnonzero(kept[rows])
                block = _rows(file, rows)[chosen]
                yield self.obs.iloc[start : start + len(chosen)], block
                start += len(chosen)

    def to_anndata(self, cell_type: str | None = None) -> ad.AnnData:
        """The samples, or those of one cell context, in memory: what ``effects.estimate_effects`` takes."""
        import anndata as ad

        parts, tables = [], []
        for obs, block in self.blocks():
            wanted = np.ones(len(obs), dtype=bool) if cell_type is None else (obs["cell_type"] == cell_type).to_numpy()
            parts.append(block[np.flatnonzero(wanted)])
            tables.append(obs[wanted])
        matrix = sparse.csr_matrix(sparse.vstack(parts, format="csr"))
        return ad.AnnData(matrix, obs=pd.concat(tables), var=self.var)


def _require_matrix(file: PublishedFile) -> None:
    """Refuse a file without X, or with another shape."""
    matrix = file.file.get("X")
    if matrix is None:
        raise InputError("has no X, so it holds effects rather than samples", file=file.path, expected="samples × genes in X")
    shape = tuple(matrix.shape) if isinstance(matrix, h5py.Dataset) else tuple(int(n) for n in matrix.attrs.get("shape", ()))
    if shape != file.shape:
        raise InputError(f"X has shape {shape}", file=file.path, expected=f"{file.shape}, rows of obs × genes of var")


def _rows(file: PublishedFile, rows: slice) -> sparse.csr_array:
    """Rows of X."""
    matrix = file.file["X"]
    if isinstance(matrix, h5py.Dataset):
        return sparse.csr_array(matrix[rows])
    from anndata.io import sparse_dataset

    return sparse.csr_array(sparse_dataset(matrix)[rows])


def _var(file: PublishedFile) -> pd.DataFrame:
    """Genes in our contract."""
    genes = file.var.index.astype(str)
    merged = booleans(file.var["is_merged"], file.path) if "is_merged" in file.var else np.zeros(len(genes), dtype=bool)
    symbols = texts(file.var["symbol"]).to_numpy() if "symbol" in file.var else None
    var = pd.DataFrame({"ensembl_id": genes, "symbol": symbols, "source_gene_id": genes, "is_merged": merged})
    return var[HARMONIZED_VAR.names].set_index("ensembl_id")


def _obs(file: PublishedFile, dataset: str) -> pd.DataFrame:
    """Samples in our contract."""
    stored = file.obs
    found: dict[str, Any] = {}
    for field in HARMONIZED_OBS:
        if field.name in ("sample_id", "dataset"):
            continue
        if field.name not in stored:
            found[field.name] = None
        elif field.name == "pubchem_cid":
            found[field.name] = pubchem_ids(stored[field.name])
        elif field.type == "bool":
            found[field.name] = booleans(stored[field.name], file.path)
        elif field.type == "int64":
            found[field.name] = numbers(stored[field.name]).astype("Int64")
        elif field.type == "float64":
            found[field.name] = numbers(stored[field.name])
        else:
            found[field.name] = texts(stored[field.name])
    obs = pd.DataFrame(found, index=stored.index).assign(dataset=dataset, source_cell_context=texts(stored["cell_type"]))
    if "perturbagen_name" in stored:  # L1000 has the PubChem id in the perturbagen's place
        obs["perturbagen"] = texts(stored["perturbagen_name"]).fillna(obs["perturbagen"])
    # for some sources the release says nothing, or repeats what the source's dose text gives
    obs.loc[obs["is_control"], "pert_dose_uM"] = 0.0
    columns = [name for name in HARMONIZED_OBS.names if name != "sample_id"]
    if "perturbation_label" in stored:
        obs["perturbation_label"] = texts(stored["perturbation_label"])
        columns.append("perturbation_label")
    obs.index = pd.Index(stored.index.astype(str), name="sample_id")
    return obs[columns]


def open_published_samples(files: Sequence[Path] | Path, dataset: str) -> PublishedSamples:
    """Open published harmonized samples.

    Parameters
    ----------
    files
        The file of a dataset (:meth:`Release.samples`), or the files of a stratum's batches.
    dataset
        Dataset id, ours.

    Returns
    -------
    PublishedSamples
        A context, which holds the files open.

    Raises
    ------
    InputError
        If a file is no h5ad file, lacks X or a column, differs in its genes from the others, or one id is that of two samples.
    """
    return PublishedSamples([files] if isinstance(files, Path) else files, dataset)
