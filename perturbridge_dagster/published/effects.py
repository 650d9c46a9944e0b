"""Published effects of one stratum: their contrasts and genes in our tables, their layers by blocks of rows.

A file is one fit, of a whole stratum or of one random batch of its perturbagens, or the batches of a stratum one below the other, with
the batch in ``obs["processing_batch"]``. Belongs here: what the release's columns, labels and layers mean in our contract. Does not belong
here: which of our contrasts they are (``matching.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.contract import CONTRASTS, GENE_FILTER, GENES
from perturbridge_dagster.effects.strata import stratum_id
from perturbridge_dagster.effects.table import EffectTable
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published.h5ad import PublishedFile, numbers, pubchem_ids, texts
from perturbridge_dagster.published.layout import Replicates, batch_of_file

LAYERS = (
    "logFC",
    "stdev.unscaled",
    "stdev.scaled",
    "CI.L",
    "CI.R",
    "AveExpr",
    "t",
    "P.Value",
    "adj.P.Value.within_one_contrast",
    "adj.P.Value.across_all_contrasts",
    "B",
)
"""Layers of a published file of effects."""

_STORED = {
    "logFC": "logFC",
    "t": "t",
    "P.Value": "log10_p",
    "adj.P.Value.within_one_contrast": "log10_adj_p_within",
    "adj.P.Value.across_all_contrasts": "log10_adj_p_across",
}
"""Published layer → layer of our stored effects."""

_REQUIRED = ("perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "cell_type")

BYTES_A_BLOCK = 2**25
"""Memory of one layer's rows that are read at a time. Unit: bytes."""

_SUMMARIES = ("n_significant", "mean_abs_t")
"""Fields of our contrasts that need the values of every gene."""

_SMALLEST = np.finfo(np.float64).smallest_subnormal
"""P values of 0 have underflowed where the release was made; they become this."""


class PublishedEffects:
    """The published effects of one stratum, open for reading; a context. See :func:`open_published_effects`.

    Attributes
    ----------
    dataset, stratum, replicates
        Whose effects they are.
    files
        The open files, in the order of batches.
    contrasts
        One row a published row, over all files: the fields of ``contract.CONTRASTS`` except n_significant and mean_abs_t, and beside
        them ``name``, ``label`` (``perturbation_label``, or the name), ``file`` (its number), ``row`` (in the file), ``is_padding``
        (whether an earlier batch has the same condition), ``sanitised`` and ``control_label`` (names of condition and control in the
        release's model).
        n_treated, n_controls, n_plates and plates are null where the samples were not given, since the files do not say.
    genes
        One row a gene of any file, in the order of first appearance: ensembl_id, symbol.
    """

    def __init__(self, files: Sequence[Path], dataset: str, stratum: str, replicates: Replicates = "grouped") -> None:
        if not files:
            raise InputError(f"there is no published file of stratum {stratum}", dataset=dataset)
        self.dataset, self.stratum, self.replicates = dataset, stratum, replicates
        self.files: list[PublishedFile] = []
        with ExitStack() as opening:
            for path in files:
                file = opening.enter_context(PublishedFile(path))
                file.require_columns(_REQUIRED)
                file.require_layers(LAYERS)
                self.files.append(file)
            self.contrasts = self._contrasts()
            self._open = opening.pop_all()
        var = pd.concat([_genes(file) for file in self.files])
        self.genes = var.drop_duplicates("ensembl_id", ignore_index=True)

    def __enter__(self) -> PublishedEffects:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def batches(self) -> list[str]:
        """Names of the batches that the stratum was fitted in, in their order; empty where it was fitted whole."""
        return sorted(self.contrasts["processing_batch"].dropna().unique(), key=_batch_order)

    def _contrasts(self) -> pd.DataFrame:
        """Contrasts of all files."""
        tables = [_of_file(file, self.replicates).assign(file=number) for number, file in enumerate(self.files)]
        contrasts = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
        if contrasts.empty:
            raise InputError("there is no contrast", file=self.files[0].path)
        found = contrasts["cell_type"].dropna().unique()
        if len(found) != 1:
            raise InputError(
                f"{len(found)} cell contexts in one stratum: {', '.join(map(str, found[:5]))}", file=self.files[0].path, column="cell_type"
            )
        if not self.stratum.startswith(stratum_id([str(found[0])])):
            raise InputError(
                f"holds cell context {found[0]}, but is taken for stratum {self.stratum}", dataset=self.dataset, file=self.files[0].path
            )
        in_order = contrasts.assign(order=contrasts["processing_batch"].map(_batch_order)).sort_values("order", kind="stable")
        known = contrasts.assign(
            contrast=np.arange(len(contrasts), dtype=np.int32),
            dataset=self.dataset,
            stratum=self.stratum,
            name=_unique_names(contrasts["name"]),
            is_padding=in_order.duplicated(["label", "control_label"]).reindex(contrasts.index),
            estimable=True,
        )
        unknown = {field.name: None for field in CONTRASTS if field.name not in (*known, *_SUMMARIES)}
        return known.assign(**unknown)

    # ---- values --------------------------------------------------------------------------------------------------------------

    def blocks(self, layers: Sequence[str], step: int | None = None) -> Iterator[tuple[int, slice, dict[str, NDArray[np.float64]]]]:
        """Layers by blocks of rows, file after file.

        Parameters
        ----------
        layers
            Of :data:`LAYERS`.
        step
            Rows at a time; None for what fits into :data:`BYTES_A_BLOCK`.

        Yields
        ------
        tuple
            Number of the file, rows of the file, and one float64 array (rows × genes of the file) a layer; NaN where there is no value.
        """
        for number, file in enumerate(self.files):
            at_a_time = step or _fitting_rows(file)
            for first in range(0, file.shape[0], at_a_time):
                rows = slice(first, min(first + at_a_time, file.shape[0]))
                yield number, rows, {name: file.rows(name, rows) for name in layers}

    def gene_positions(self, number: int) -> NDArray[np.intp]:
        """Positions in `genes` of the genes of a file."""
        positions: NDArray[np.intp] = pd.Index(self.genes["ensembl_id"]).get_indexer(self.files[number].var.index.astype(str))
        return positions

    def to_table(self, samples: pd.DataFrame | None = None, *, min_cells: int = 0) -> EffectTable:
        """The effects as a table of ours, whose values are read when they are asked for: :func:`write_effects` streams them.

        Parameters
        ----------
        samples
            Obs of the stratum's published samples (:class:`PublishedSamples`). They tell n_treated, n_controls and plates, which the
            files of effects do not, and which a stored table must have.
        min_cells
            Samples of fewer cells took no part in the release's fit. Unit: cells.

        Raises
        ------
        InputError
            If the samples are not those of these effects.

        Notes
        -----
        AveExpr, s2_post and t_975 follow from a published row where the stratum was fitted whole; with batches they differ from batch
        to batch and are null. sigma, df_residual and df_total are not published. ``estimable`` is true wherever the release
        reports a value, whether or not the contrast contains a plate effect.
        """
        contrasts = self.contrasts if samples is None else _with_samples(self.contrasts, samples, min_cells)
        genes = self.genes.assign(gene=np.arange(len(self.genes), dtype=np.int32)).reindex(columns=GENES.names)
        if len(self.files) == 1 and len(self.batches) <= 1:
            genes = genes.assign(**_per_gene(self.files[0]))
        filtered = self.genes.assign(kept=True).reindex(columns=GENE_FILTER.names)
        info: dict[str, Any] = {
            "engine": "published",
            "fit": "published_batches" if self.batches else "whole_stratum",
            "replicates": self.replicates,
            "files": [file.path.name for file in self.files],
            "batches": self.batches,
            "n_padding": int(self.contrasts["is_padding"].sum()),
            "gene_filter": None,
            "design": {},
        }
        everywhere = np.ones((1, 1), dtype=bool)
        parts = []
        for number, file in enumerate(self.files):
            own = contrasts[contrasts["file"] == number]
            part = _RowsOfFile(own, _genes(file), _genes(file), {}, None, everywhere, source=(self, number))
            parts.append((part, self.gene_positions(number)))
        wanted = contrasts[["name", *(name for name in CONTRASTS.names if name not in _SUMMARIES)]]
        return EffectTable(wanted, genes, filtered, info, None, everywhere, parts=tuple(parts))


@dataclass(frozen=True)
class _RowsOfFile(EffectTable):
    """The rows of one published file, read when they are asked for.

    Attributes
    ----------
    source
        The effects, and the number of the file.
    """

    source: tuple[PublishedEffects, int] | None = None

    def rows(self, step: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Stored layers, at most so many contrasts at a time."""
        assert self.source is not None
        effects, number = self.source
        file = effects.files[number]
        at_a_time = min(step, _fitting_rows(file))
        for first in range(0, file.shape[0], at_a_time):
            rows = slice(first, min(first + at_a_time, file.shape[0]))
            yield {ours: _as_stored(theirs, file.rows(theirs, rows)).astype(np.float32) for theirs, ours in _STORED.items()}

    @cached_property
    def _dense(self) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
        """All layers in memory."""
        assert self.source is not None
        effects, number = self.source
        file = effects.files[number]
        every = slice(0, file.shape[0])
        layers = {name: file.rows(name, every) for name in LAYERS}
        return layers, {ours: _as_stored(theirs, layers[theirs]) for theirs, ours in _STORED.items() if ours.startswith("log10")}


def _fitting_rows(file: PublishedFile) -> int:
    """Rows of one layer that fit into :data:`BYTES_A_BLOCK`; at least one."""
    return max(1, BYTES_A_BLOCK // (8 * max(file.shape[1], 1)))


def _as_stored(layer: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of a published layer on our scale: P values as logarithms."""
    if not _STORED[layer].startswith("log10"):
        return values
    return np.minimum(np.log10(np.maximum(values, _SMALLEST)), 0.0)


def _batch_order(name: str | None) -> tuple[int, str]:
    """batch_10 after batch_9."""
    digits = (name or "").rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, name or "")


def _unique_names(names: pd.Series[Any]) -> pd.Series[Any]:
    from anndata.utils import make_index_unique

    return pd.Series(make_index_unique(pd.Index(names), join="."), index=names.index)


def _genes(file: PublishedFile) -> pd.DataFrame:
    """Genes of a file."""
    symbols = texts(file.var["symbol"]).to_numpy() if "symbol" in file.var else None
    return pd.DataFrame({"ensembl_id": file.var.index.astype(str), "symbol": symbols})


def _of_file(file: PublishedFile, replicates: Replicates) -> pd.DataFrame:
    """Contrasts of one file."""
    obs = file.obs
    name = pd.Series(obs.index.astype(str), index=obs.index)
    # the controls' condition is nowhere but in the row's name
    parts = name.str.partition(" - ")
    # repeated row names may have been numbered
    condition, control = parts[0].to_numpy(), parts[2].str.replace(r"-\d+$", "", regex=True).to_numpy()
    time = numbers(obs["pert_time_h"])
    suffix = time.map(lambda hours: sanitised(f"_{hours:.15g}h"))
    vehicle = [text.removesuffix(end) for text, end in zip(control, suffix, strict=True)]
    perturbagen = texts(obs["perturbagen"])
    if "perturbagen_name" in obs:  # L1000 has the PubChem id in the perturbagen's place
        perturbagen = texts(obs["perturbagen_name"]).fillna(perturbagen)
    label = texts(obs["perturbation_label"]) if "perturbation_label" in obs else pd.Series(condition, index=obs.index, dtype=object)
    batch = (
        texts(obs["processing_batch"])
        if "processing_batch" in obs
        else pd.Series([batch_of_file(file.path)] * len(obs), obs.index, dtype=object)
    )
    separate = replicates == "separate"
    own = {field: texts(obs[column]) if separate and column in obs else None for field, column in _REPLICATE.items()}
    found = pd.DataFrame(
        {
            "name": name,
            "cell_type": texts(obs["cell_type"]),
            "perturbagen": perturbagen,
            "pubchem_cid": pubchem_ids(obs["pubchem_cid"]),
            "parent_key": None,
            "pert_dose_uM": numbers(obs["pert_dose_uM"]),
            "pert_time_h": time,
            "control": vehicle,
            **own,
            "processing_batch": batch,
            "label": label.fillna(pd.Series(condition, index=obs.index)),
            "sanitised": condition,
            "control_label": control,
            "row": np.arange(len(obs)),
        },
        index=obs.index,
    )
    unnamed = found["perturbagen"].isna().to_numpy()
    if unnamed.any():
        raise InputError(
            f"a contrast has no perturbagen; {unnamed.sum():,} have none",
            file=file.path,
            column="perturbagen",
            rows=list(obs.index[unnamed]),
        )
    return found.reset_index(drop=True)


_REPLICATE = {"sample_id": "id", "plate": "plate", "well": "well"}
"""Field of a contrast of one replicate → column of the release."""


def sanitised(label: str) -> str:
    """A label as the release's model names it in a locale of Unicode: all but letters, digits and underscores becomes underscores."""
    return "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in label)


def names_in_model(label: str) -> tuple[str, ...]:
    """What the release's model may have called a label, one name a locale, for its files do not say in which R ran.

    In a locale of Unicode, letters and digits of any script stay. In the C locale only those of ASCII do, and R makes one underscore of
    each other character, or of each of its bytes where the text's encoding is not marked.
    """
    ascii_only = (re.sub(r"[^0-9A-Za-z_]", "_", text) for text in (label, label.encode().decode("latin-1")))
    return (sanitised(label), *ascii_only)


def _per_gene(file: PublishedFile) -> dict[str, NDArray[np.float64]]:
    """What the layers of a fit tell of each gene: the first row that has a value says it for all."""
    names = ("logFC", "AveExpr", "stdev.unscaled", "stdev.scaled", "CI.R")
    found = {name: np.full(file.shape[1], np.nan) for name in names}
    for row in range(file.shape[0]):
        lacking = np.isnan(found["stdev.scaled"])
        if not lacking.any():
            break
        for name in names:
            found[name][lacking] = file.rows(name, slice(row, row + 1))[0, lacking]
    with np.errstate(divide="ignore", invalid="ignore"):
        s2_post = (found["stdev.scaled"] / found["stdev.unscaled"]) ** 2
        t_975 = (found["CI.R"] - found["logFC"]) / found["stdev.scaled"]
    return {"AveExpr": found["AveExpr"], "s2_post": s2_post, "t_975": t_975}


def _with_samples(contrasts: pd.DataFrame, samples: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Contrasts with what only the samples tell: how many there are, and on which plates.

    All controls of a time are in each batch, so they count for every contrast.
    """
    if "perturbation_label" not in samples:
        raise InputError("the samples given do not say which condition they are", column="perturbation_label")
    taken = samples[~(samples["psbulk_cells"].astype(float) < min_cells)]
    is_control = taken["is_control"].astype(bool).to_numpy()
    label = taken["perturbation_label"].astype(str)
    # a condition of the release is known by its sanitised name alone; labels that collide are one condition there
    names = [names_in_model(text) for text in label]
    found = []
    for locale in range(len(names_in_model(""))):
        groups = taken["plate"].astype(str).groupby([np.array([of_locale[locale] for of_locale in names], dtype=object), is_control])
        counted = groups.agg(n="size", n_plates="nunique", plates=lambda plates: "; ".join(sorted(set(plates))))
        treated = counted.reindex([(name, False) for name in contrasts["sanitised"]]).reset_index(drop=True)
        controls = counted.reindex([(name, True) for name in contrasts["control_label"]]).reset_index(drop=True)
        found.append((treated, controls, (treated["n"].isna() | controls["n"].isna()).to_numpy()))
        if not found[-1][2].any():
            break
    # one locale made all names of a release: that which names the most
    treated, controls, lacking = min(found, key=lambda counts: counts[2].sum())
    if lacking.any():
        raise InputError(
            f"the samples given do not have the condition, or the controls, of {lacking.sum():,} contrasts",
            rows=list(contrasts.loc[lacking, "name"]),
            advice="Give the samples of the same stratum of the same release.",
        )
    return contrasts.assign(
        n_treated=treated["n"].astype("int64").to_numpy(),
        n_plates=treated["n_plates"].astype("int64").to_numpy(),
        plates=treated["plates"].to_numpy(),
        n_controls=controls["n"].astype("int64").to_numpy(),
        control_plates=controls["plates"].to_numpy(),
    )


def open_published_effects(files: Sequence[Path], dataset: str, stratum: str, *, replicates: Replicates = "grouped") -> PublishedEffects:
    """Open the published effects of a stratum.

    Parameters
    ----------
    files
        Its file, or its files, one a batch (:meth:`Release.strata`).
    dataset, stratum
        Dataset id and stratum id, ours.
    replicates
        Which of the two runs they are of.

    Returns
    -------
    PublishedEffects
        A context, which holds the files open.

    Raises
    ------
    InputError
        If a file is no h5ad file, lacks a column or a layer, has a layer of another shape, or holds another cell context.
    """
    return PublishedEffects(files, dataset, stratum, replicates)
