"""Our effects of a stratum beside the published ones: how far they agree, contrast by contrast and over all.

The published files are read once, by blocks of rows; of ours, the tiles of each block. Belongs here: the measures and their tables. Does
not belong here: which contrasts belong together (``matching.py``) and why they differ (``explain.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perturbridge_dagster.agreement.metrics import spearman_rows
from perturbridge_dagster.contract import (
    PUBLISHED_COMPARISON,
    PUBLISHED_GENES,
    PUBLISHED_QUANTILES,
    PUBLISHED_STRATA,
    PUBLISHED_UNMATCHED,
)
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published.effects import PublishedEffects
from perturbridge_dagster.published.explain import explain_contrasts, explain_genes
from perturbridge_dagster.published.matching import match_contrasts, pooled_doses, unmatched_contrasts

STRONG = 2.0
"""|t| above which, on either side, a sign means something."""

VALUES_AT_A_TIME = 2**22
"""Most published rows × genes that are compared together; some twenty arrays of that size are held."""

_SAMPLED_VALUES = 2**22
"""Values of which ranks over all contrasts are taken: those of evenly spaced contrasts in a larger table."""

_COMPARED_PADDING = 200
"""Most padding rows that are compared with their condition's own row."""

_LAYERS = ("logFC", "t")

Array = NDArray[np.float64]


class OurEffects(Protocol):
    """What is read of our effects; ``effects.StoredEffects`` is that."""

    contrasts: pd.DataFrame
    genes: pd.DataFrame
    info: dict[str, Any]

    @property
    def gene_filter(self) -> pd.DataFrame | None:
        """What the filter saw of each gene."""
        ...

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[Any] | None = None, genes: NDArray[Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Dense blocks of layers."""
        ...


@dataclass(frozen=True)
class Comparison:
    """How far our effects of a stratum agree with the published ones.

    Attributes
    ----------
    contrasts, strata, genes, unmatched
        Tables published_comparison, published_strata (one row), published_genes and published_unmatched of the contract.
    sampled
        logFC of evenly spaced contrasts × genes for a picture: ours and the release's, shape (2, values).
    """

    contrasts: pd.DataFrame
    strata: pd.DataFrame
    genes: pd.DataFrame
    unmatched: pd.DataFrame
    sampled: NDArray[np.float32]


@dataclass
class _Sums:
    """Running sums of pairs of values, of which a correlation and a slope over any number of them follow."""

    n: int = 0
    sums: Array = field(default_factory=lambda: np.zeros(5))

    def add(self, x: Array, y: Array) -> None:
        """Add pairs; both finite."""
        self.n += len(x)
        self.sums += [x.sum(), y.sum(), x @ x, y @ y, x @ y]

    def _moments(self) -> tuple[float, float, float]:
        x, y, xx, yy, xy = self.sums
        n = max(self.n, 1)
        return float(xx - x * x / n), float(yy - y * y / n), float(xy - x * y / n)

    @property
    def pearson(self) -> float:
        """Pearson correlation; NaN with fewer than two pairs or where one side is constant."""
        xx, yy, xy = self._moments()
        return float(np.clip(xy / np.sqrt(xx * yy), -1, 1)) if self.n > 1 and xx > 0 and yy > 0 else np.nan

    @property
    def slope(self) -> float:
        """Slope of y on x."""
        xx, _, xy = self._moments()
        return xy / xx if self.n > 1 and xx > 0 else np.nan


def _pearson_and_slope(x: Array, y: Array) -> tuple[Array, Array]:
    """Pearson correlation and slope of y on x of each row, over genes that are finite on both sides; NaN where undefined."""
    both = np.isfinite(x) & np.isfinite(y)
    n = np.maximum(both.sum(axis=1, keepdims=True), 1)
    x, y = (np.where(both, side - np.where(both, side, 0.0).sum(axis=1, keepdims=True) / n, 0.0) for side in (x, y))
    xx, yy, xy = (np.einsum("ij,ij->i", a, b) for a, b in ((x, x), (y, y), (x, y)))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(xx > 0, xy / xx, np.nan)
        correlation = np.where((xx > 0) & (yy > 0), np.clip(xy / np.sqrt(xx * yy), -1, 1), np.nan)
    return correlation, slope


def _signs(ours: dict[str, Array], theirs: dict[str, Array]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Genes of each row with a strong effect on either side, and those of them with one sign."""
    both = np.isfinite(ours["logFC"]) & np.isfinite(theirs["logFC"])
    strong = both & ((np.abs(ours["t"]) > STRONG) | (np.abs(theirs["t"]) > STRONG))
    same = strong & (np.sign(ours["logFC"]) == np.sign(theirs["logFC"]))
    return strong.sum(axis=1), same.sum(axis=1)


def _median_rows(values: Array) -> Array:
    """Median of the finite values of each row; NaN where there is none."""
    known = np.isfinite(values).any(axis=1)
    medians = np.full(len(values), np.nan)
    if known.any():
        medians[known] = np.nanmedian(values[known], axis=1)
    return medians


def _plates(contrasts: pd.DataFrame) -> set[str]:
    """Plates of contrasts and their controls."""
    joined = {text for name in ("plates", "control_plates") if name in contrasts for text in contrasts[name].dropna().unique()}
    return {plate for text in joined for plate in text.split("; ")}


class _Comparing:
    """One walk through the published rows."""

    def __init__(self, published: PublishedEffects, ours: OurEffects, refit: OurEffects | None) -> None:
        self.published, self.ours, self.refit = published, ours, refit
        theirs = published.contrasts
        self.pairs = match_contrasts(theirs, ours.contrasts)
        self.matched = np.flatnonzero(self.pairs["contrast"].notna())
        self.own = self.matched[~theirs["is_padding"].to_numpy()[self.matched]]
        self.refit_row = _refit_rows(theirs, ours.contrasts, self.pairs["contrast"], refit)
        batch = theirs["processing_batch"].fillna("")
        self.batch_code, self.batches = pd.factorize(batch)
        self.tested = np.zeros((len(self.batches), len(published.genes)), dtype=bool)
        self.log_fc, self.t = _Sums(), _Sums()
        self.scores: list[pd.DataFrame] = []
        self.n_strong = self.n_same = 0
        n_rows = max(1, _SAMPLED_VALUES // max(len(ours.genes), 1))
        evenly = np.unique(np.linspace(0, max(len(self.own) - 1, 0), min(n_rows, max(len(self.own), 1))).astype(np.intp))
        self.sampled_rows = set(self.own[evenly].tolist()) if len(self.own) else set()
        self.sampled: list[NDArray[np.float32]] = []

    def walk(self) -> None:
        """Compare every matched published row."""
        position = np.cumsum([0, *(file.shape[0] for file in self.published.files)])
        wanted = np.zeros(position[-1], dtype=bool)
        wanted[self.matched] = True
        our_genes = pd.Index(self.ours.genes["ensembl_id"])
        most_genes = max(file.shape[1] for file in self.published.files)
        step = max(1, VALUES_AT_A_TIME // max(most_genes, 1))
        for number, rows, layers in self.published.blocks(_LAYERS, step):
            places = self.published.gene_positions(number)
            first = position[number] + rows.start
            codes = self.batch_code[first : first + rows.stop - rows.start]
            finite = np.isfinite(layers["logFC"])
            for code in np.unique(codes):
                self.tested[code, places] |= finite[codes == code].any(axis=0)
            chosen = np.flatnonzero(wanted[first : first + rows.stop - rows.start])
            if not len(chosen):
                continue
            genes = self.published.files[number].var.index.astype(str)
            shared = our_genes.get_indexer(genes)
            self._compare(first + chosen, {name: values[chosen] for name, values in layers.items()}, shared, genes.to_numpy())

    def _compare(self, rows: NDArray[np.intp], layers: dict[str, Array], shared: NDArray[np.intp], genes: NDArray[Any]) -> None:
        """Scores of some published rows of one file."""
        contrast = self.pairs["contrast"].iloc[rows].to_numpy(dtype=np.int64)
        both = np.flatnonzero(shared >= 0)
        all_ours = self.ours.dense(["logFC"], contrasts=contrast)["logFC"]
        ours = {"logFC": all_ours[:, shared[both]].astype(np.float64)}
        ours["t"] = self.ours.dense(["t"], contrasts=contrast, genes=shared[both])["t"].astype(np.float64)
        theirs = {name: values[:, both] for name, values in layers.items()}
        common = np.isfinite(ours["logFC"]) & np.isfinite(theirs["logFC"])
        n_genes = common.sum(axis=1)
        difference = np.where(common, np.abs(ours["logFC"] - theirs["logFC"]), -1.0)
        largest = difference.argmax(axis=1) if len(both) else np.zeros(len(rows), dtype=np.intp)
        at = np.arange(len(rows))
        known = n_genes > 0
        pearson, slope = _pearson_and_slope(ours["logFC"], theirs["logFC"])
        n_strong, n_same = _signs(ours, theirs)

        def of_largest(values: Array) -> Array:
            return np.where(known, values[at, largest], np.nan) if len(both) else np.full(len(rows), np.nan)

        score = {
            "position": rows,
            "contrast": contrast,
            "n_genes": n_genes,
            "n_genes_only_ours": np.isfinite(all_ours).sum(axis=1) - n_genes,
            "n_genes_only_published": np.isfinite(layers["logFC"]).sum(axis=1) - n_genes,
            "pearson_logFC": pearson,
            "spearman_logFC": spearman_rows(ours["logFC"], theirs["logFC"]),
            "pearson_t": _pearson_and_slope(ours["t"], theirs["t"])[0],
            "spearman_t": spearman_rows(ours["t"], theirs["t"]),
            "slope_logFC": slope,
            "n_strong": n_strong,
            "sign_agreement": np.where(n_strong > 0, n_same / np.maximum(n_strong, 1), np.nan),
            "median_difference": _median_rows(np.where(common, difference, np.nan)),
            "largest_difference": of_largest(difference),
            "largest_gene": np.where(known, genes[both][largest], None) if len(both) else None,
            "largest_logFC": of_largest(ours["logFC"]),
            "largest_published_logFC": of_largest(theirs["logFC"]),
            **self._refit_scores(rows, layers["logFC"], genes),
        }
        self.scores.append(pd.DataFrame(score))
        own = ~self.published.contrasts["is_padding"].to_numpy()[rows]
        for sums, name in ((self.log_fc, "logFC"), (self.t, "t")):
            pair = common & np.isfinite(ours[name]) & np.isfinite(theirs[name]) & own[:, np.newaxis]
            sums.add(ours[name][pair], theirs[name][pair])
        self.n_strong += int(n_strong[own].sum())
        self.n_same += int(n_same[own].sum())
        some = np.flatnonzero([row in self.sampled_rows for row in rows.tolist()])
        if len(some):
            pair = common[some]
            values = [side[name][some][pair] for name in _LAYERS for side in (ours, theirs)]
            self.sampled.append(np.stack(values).astype(np.float32))

    def _refit_scores(self, rows: NDArray[np.intp], log_fc: Array, genes: NDArray[Any]) -> dict[str, Array]:
        """Agreement of published rows with our fit of their batch."""
        spearman, median = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        known = np.flatnonzero(self.refit_row[rows] >= 0)
        if self.refit is not None and len(known):
            places = pd.Index(self.refit.genes["ensembl_id"]).get_indexer(genes)
            both = np.flatnonzero(places >= 0)
            block = self.refit.dense(["logFC"], contrasts=self.refit_row[rows[known]], genes=places[both])["logFC"].astype(np.float64)
            spearman[known] = spearman_rows(block, log_fc[known][:, both])
            median[known] = _median_rows(np.abs(block - log_fc[known][:, both]))
        return {"spearman_logFC_refit": spearman, "median_difference_refit": median}

    # ---- tables --------------------------------------------------------------------------------------------------------------

    def contrasts(self) -> pd.DataFrame:
        """Table published_comparison."""
        theirs, ours = self.published.contrasts, self.ours.contrasts.set_index("contrast")
        if not self.scores:
            return pd.DataFrame(columns=PUBLISHED_COMPARISON.names)
        scores = pd.concat(self.scores, ignore_index=True)
        row = theirs.iloc[scores["position"].to_numpy()].reset_index(drop=True)
        mine = ours.loc[scores["contrast"].to_numpy()].reset_index(drop=True)
        own = self.pairs["contrast"].iloc[self.own]
        compared = scores.assign(
            **{name: mine[name] for name in ("perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "sample_id", "cell_type")},
            dataset=self.published.dataset,
            stratum=self.published.stratum,
            published_name=row["name"],
            published_batch=row["processing_batch"],
            is_padding=row["is_padding"].astype(bool),
            matched_by=self.pairs["matched_by"].iloc[scores["position"].to_numpy()].to_numpy(),
            published_perturbagen=row["perturbagen"],
            published_pubchem_cid=row["pubchem_cid"],
            published_pert_dose_uM=row["pert_dose_uM"],
            n_pooled_doses=pooled_doses(theirs, self.ours.contrasts, self.pairs["contrast"])[scores["position"].to_numpy()],
            n_pooled_names=scores["contrast"].map(own.value_counts()).fillna(0).astype("int64"),
            n_plates=len(_plates(self.ours.contrasts)),
            n_plates_batch=self._plates_of_batches(scores["position"].to_numpy()),
        )
        explanation = explain_contrasts(compared, batched=len(self.published.batches) > 1, refitted=self.refit is not None)
        return compared.assign(explanation=explanation)[PUBLISHED_COMPARISON.names]

    def _plates_of_batches(self, positions: NDArray[np.intp]) -> NDArray[np.int64]:
        """Plates of the samples of each row's batch, as far as they are ours."""
        ours = self.ours.contrasts.set_index("contrast")
        contrast = self.pairs["contrast"]
        n_plates = np.zeros(len(self.batches), dtype=np.int64)
        for code in range(len(self.batches)):
            members = contrast[(self.batch_code == code) & contrast.notna().to_numpy()].unique()
            n_plates[code] = len(_plates(ours.loc[members.astype(np.int64)]))
        return n_plates[self.batch_code[positions]]

    def genes(self) -> pd.DataFrame:
        """Table published_genes."""
        theirs = self.published.genes.assign(n_published_batches=self.tested.sum(axis=0))
        found = explain_genes(self.ours.genes, self.ours.gene_filter, theirs, len(self.batches))
        return found.assign(dataset=self.published.dataset, stratum=self.published.stratum)[PUBLISHED_GENES.names]

    def unmatched(self) -> pd.DataFrame:
        """Table published_unmatched."""
        found = unmatched_contrasts(self.published.contrasts, self.ours.contrasts, self.pairs["contrast"])
        return found.assign(dataset=self.published.dataset, stratum=self.published.stratum)[PUBLISHED_UNMATCHED.names]

    def padding_agreement(self) -> Array:
        """Spearman of logFC of padding rows with their condition's own row: the release beside itself."""
        theirs = self.published.contrasts
        first = theirs[~theirs["is_padding"]].drop_duplicates(["label", "control_label"]).set_index(["label", "control_label"]).index
        own = np.flatnonzero(~theirs["is_padding"] & ~theirs.duplicated(["label", "control_label", "is_padding"]))
        padding = np.flatnonzero(theirs["is_padding"])
        some = padding[np.unique(np.linspace(0, max(len(padding) - 1, 0), min(_COMPARED_PADDING, len(padding))).astype(np.intp))]
        place = first.get_indexer(pd.MultiIndex.from_frame(theirs.iloc[some][["label", "control_label"]]))
        pairs = zip(some.tolist(), own[place].tolist(), strict=True)
        return np.array([spearman_rows(self._row(left), self._row(right))[0] for left, right in pairs])

    def _row(self, position: int) -> Array:
        """Effects, logFC, of one published row over all genes of the release."""
        found = self.published.contrasts.iloc[position]
        number, row = int(found["file"]), int(found["row"])
        values = np.full((1, len(self.published.genes)), np.nan)
        values[:, self.published.gene_positions(number)] = self.published.files[number].rows("logFC", slice(row, row + 1))
        return values


def _refit_rows(theirs: pd.DataFrame, ours: pd.DataFrame, contrast: pd.Series[Any], refit: OurEffects | None) -> NDArray[np.int64]:
    """Contrast of the refit that has the samples and the batch of each published row; -1 where there is none."""
    if refit is None:
        return np.full(len(theirs), -1, dtype=np.int64)
    keys = ["perturbagen", "pubchem_cid", "pert_dose_uM", "pert_time_h", "control", "sample_id", "processing_batch"]

    def keyed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(pubchem_cid=frame["pubchem_cid"].astype("Int64").fillna(-1), sample_id=frame["sample_id"].fillna(""))[keys]

    wanted = ours.set_index("contrast").reindex(contrast).reset_index(drop=True)
    wanted["processing_batch"] = theirs["processing_batch"].to_numpy()
    there = pd.MultiIndex.from_frame(keyed(refit.contrasts))
    return np.asarray(there.get_indexer(pd.MultiIndex.from_frame(keyed(wanted))), dtype=np.int64)


def _quantiles(values: pd.Series[Any]) -> dict[str, float]:
    known = values.dropna().to_numpy(dtype=float)
    found = np.quantile(known, PUBLISHED_QUANTILES) if len(known) else [np.nan] * len(PUBLISHED_QUANTILES)
    return {f"spearman_logFC_q{round(100 * share):02d}": float(value) for share, value in zip(PUBLISHED_QUANTILES, found, strict=True)}


def _median(values: Any) -> float:
    known = pd.Series(values, dtype=float).dropna()
    return float(known.median()) if len(known) else np.nan


def compare_stratum(published: PublishedEffects, ours: OurEffects, refit: OurEffects | None = None) -> Comparison:
    """Compare our effects of a stratum with the published ones.

    Parameters
    ----------
    published
        The published effects, open.
    ours
        Our effects of the same stratum, with replicates fitted in the same way.
    refit
        Our fit of the release's batches (:func:`refit_batches`), stored; None where there is none.

    Returns
    -------
    Comparison
        Tables of the contract. Padding rows are among its contrasts and in no measure of the stratum.

    Raises
    ------
    InputError
        If replicates were fitted in another way, or the two share no gene or no condition.
    """
    replicates = ours.info.get("replicates", published.replicates)
    if replicates != published.replicates:
        raise InputError(
            f"our effects have replicates {replicates}, the published ones {published.replicates}",
            dataset=published.dataset,
            advice="Compare condition_effects with group_rep, and replicate_effects with sep_rep.",
        )
    our_genes = set(ours.genes["ensembl_id"])
    if not our_genes & set(published.genes["ensembl_id"]):
        raise InputError(
            f"the published effects of stratum {published.stratum} and ours share no gene",
            dataset=published.dataset,
            file=published.files[0].path,
            rows=list(published.genes["ensembl_id"][:5]),
            expected=f"Ensembl ids such as {', '.join(sorted(our_genes)[:3])}",
        )
    walk = _Comparing(published, ours, refit)
    if not len(walk.own):
        raise InputError(
            f"the published effects of stratum {published.stratum} and ours share no condition",
            dataset=published.dataset,
            file=published.files[0].path,
            rows=list(published.contrasts["name"][:5]),
            expected=f"conditions of {', '.join(ours.contrasts['perturbagen'].unique()[:3])}",
        )
    walk.walk()
    contrasts, genes, unmatched = walk.contrasts(), walk.genes(), walk.unmatched()
    sampled = np.concatenate(walk.sampled, axis=1) if walk.sampled else np.zeros((4, 0), dtype=np.float32)
    ranks = [float(spearman_rows(sampled[[i]], sampled[[i + 1]])[0]) if sampled.shape[1] else np.nan for i in (0, 2)]
    padding = walk.padding_agreement()
    own = contrasts[~contrasts["is_padding"].astype(bool)]
    stratum = {
        "dataset": published.dataset,
        "stratum": published.stratum,
        "cell_type": published.contrasts["cell_type"].iloc[0],
        "n_files": len(published.files),
        "n_batches": max(len(published.batches), 1),
        "n_published_rows": len(published.contrasts),
        "n_padding": int(published.contrasts["is_padding"].sum()),
        "n_both": len(walk.own),
        "n_only_ours": int((unmatched["side"] == "ours").sum()),
        "n_only_published": int((unmatched["side"] == "published").sum()),
        "n_genes_both": int((genes["ours"] & genes["published"]).sum()),
        "n_genes_only_ours": int((genes["ours"] & ~genes["published"]).sum()),
        "n_genes_only_published": int((~genes["ours"] & genes["published"]).sum()),
        "n_values": walk.log_fc.n,
        "pearson_logFC": walk.log_fc.pearson,
        "spearman_logFC": ranks[0],
        "pearson_t": walk.t.pearson,
        "spearman_t": ranks[1],
        "slope_logFC": walk.log_fc.slope,
        "n_strong": walk.n_strong,
        "sign_agreement": walk.n_same / walk.n_strong if walk.n_strong else np.nan,
        **_quantiles(own["spearman_logFC"]),
        "spearman_logFC_refit": _median(own["spearman_logFC_refit"]),
        "spearman_logFC_padding": _median(padding),
        "n_padding_compared": len(padding),
        **{f"n_{name}": int((own["explanation"] == name).sum()) for name in PUBLISHED_COMPARISON["explanation"].allowed},
    }
    return Comparison(contrasts, pd.DataFrame([stratum])[PUBLISHED_STRATA.names], genes, unmatched, sampled[:2])
