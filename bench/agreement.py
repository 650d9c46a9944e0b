"""Time and memory of agreement at the size of the paper, beside the same work by plain scipy calls.

    python -m bench.agreement                    # all nine pairs of datasets
    python -m bench.agreement --share 0.1        # a tenth of the conditions and pools
    python -m bench.agreement --peer-share 0.01  # how much of the work the peer does before its time is scaled up

**Shapes.** The nine pairs of the paper (Tables 4 and 9): 6,237 matched conditions, with as many compounds, cell contexts and doses as
published, in strata as large as the datasets' (:data:`PAIRS`), over 978 genes where L1000 takes part and 15,000 elsewhere. Effects are
random with a common part, so that matched conditions agree a little; they lie in files and are read a block at a time, as stored ones are.

**Ours** runs in a process of its own: matching, all metrics with four baselines (centroids and up to 256 peers of either side), retrieval
of three representations by three similarities in both directions, clustered BCa intervals of every summary, strength. Seconds are by stage;
peak memory is that of the whole process.

**The peer** does the same in the straightforward way, one call after the other: ``scipy.stats.spearmanr`` a pair, sets for overlaps, the
mean of the other rows for a centroid, one query at a time by ``scipy.spatial.distance.cdist``, 2,000 resamples of clusters in a loop. It
does a part of the work, chosen evenly, and its seconds are multiplied up to all of it, stage by stage; printed is how many pieces it did
of how many. On those pieces its numbers and ours are compared. It leaves out matching and strength.

Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from bench.process import machine, memory
from perturbridge_dagster.agreement.metrics import LARGE_LOG_FC, METRICS, SIGNIFICANT_ADJUSTED_P, TOP_OVERLAPS, TOP_SIGNED

LAYERS = ("logFC", "t", "log10_adj_p_within")
TARGET_MINUTES, TARGET_GIB, TARGET_RATIO = 10, 8, 20
N_PEERS, N_RESAMPLES = 256, 2_000
STAGES = ("matching", "metrics and baselines", "retrieval", "intervals")
TIME_H = 24.0


@dataclass(frozen=True)
class Shape:
    """One pair of datasets.

    Attributes
    ----------
    left, right
        Datasets.
    n_contexts
        Cell contexts they share.
    n_compounds, n_doses
        Compounds shared in each cell context, and doses of each.
    n_genes
        Genes shared.
    n_left, n_right
        Contrasts of each cell context.
    """

    left: str
    right: str
    n_contexts: int
    n_compounds: int
    n_doses: int
    n_genes: int
    n_left: int
    n_right: int

    def scaled(self, share: float) -> Shape:
        """The same with a share of compounds and contrasts."""
        fewer = {name: max(4, round(getattr(self, name) * share)) for name in ("n_compounds", "n_left", "n_right")}
        least = fewer["n_compounds"] * self.n_doses
        return replace(self, n_compounds=fewer["n_compounds"], n_left=max(fewer["n_left"], least), n_right=max(fewer["n_right"], least))


PAIRS = (
    Shape("cigs_mce", "cigs_tcm", 2, 956, 1, 15_000, 10_910, 3_560),
    Shape("l1000_phase1", "cigs_mce", 2, 64, 1, 978, 2_270, 10_910),
    Shape("l1000_phase1", "l1000_phase2", 15, 63, 3, 978, 2_270, 6_000),
    Shape("l1000_phase1", "sciplex", 2, 49, 3, 978, 2_270, 800),
    Shape("l1000_phase1", "tahoe", 3, 51, 1, 978, 2_270, 1_075),
    Shape("l1000_phase2", "cigs_mce", 1, 68, 1, 978, 6_000, 10_910),
    Shape("l1000_phase2", "sciplex", 2, 48, 4, 978, 6_000, 800),
    Shape("l1000_phase2", "tahoe", 2, 67, 3, 978, 6_000, 1_075),
    Shape("tahoe", "sciplex", 1, 23, 3, 15_000, 1_075, 800),
)


# ---- effects in files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FiledEffects:
    """Effects of a stratum whose layers lie in one file, contrast by contrast, and are read when asked for."""

    file: Path
    contrasts: pd.DataFrame
    genes: pd.DataFrame

    def dense(
        self, layers: Sequence[str], contrasts: NDArray[np.int64] | None = None, genes: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Layers by name, shape (contrasts, genes)."""
        rows = np.arange(len(self.contrasts)) if contrasts is None else np.asarray(contrasts)
        n_genes = len(self.genes)
        columns = slice(None) if genes is None or np.array_equal(genes, np.arange(n_genes)) else genes
        wanted = [LAYERS.index(name) for name in layers]
        found = {name: np.empty((len(rows), n_genes if isinstance(columns, slice) else len(columns)), np.float32) for name in layers}
        with self.file.open("rb") as stream:
            for place, row in enumerate(rows.tolist()):
                for layer, name in zip(wanted, layers, strict=True):
                    stream.seek(4 * n_genes * (len(LAYERS) * row + layer))
                    found[name][place] = np.fromfile(stream, np.float32, n_genes)[columns]
        return found


def _contrasts(dataset: str, context: str, shape: Shape, n_contrasts: int) -> pd.DataFrame:
    """Contrasts of a stratum: the shared compounds at their doses first, then others at the same doses."""
    from perturbridge_dagster.contract import CONTRASTS

    number = np.arange(n_contrasts)
    shared = number < shape.n_compounds * shape.n_doses
    first_other = 1_000_000 * (1 + sum(map(ord, dataset)))
    table = pd.DataFrame(
        {
            "contrast": number.astype(np.int32),
            "dataset": dataset,
            "stratum": context,
            "cell_type": context,
            "perturbagen": "",
            "pubchem_cid": np.where(shared, 1 + number // shape.n_doses, first_other + number // shape.n_doses),
            "pert_dose_uM": 10.0 ** (number % shape.n_doses - 1),
            "pert_time_h": TIME_H,
            "control": "DMSO",
            "n_treated": 3,
            "n_controls": 8,
            "n_plates": 1,
            "estimable": True,
            "n_significant": 0,
            "mean_abs_t": 1.0,
        }
    )
    return table.reindex(columns=CONTRASTS.names).astype({"pubchem_cid": "Int64"})


def write_stratum(folder: Path, dataset: str, context: str, shape: Shape, n_contrasts: int, seed: int) -> FiledEffects:
    """Write a stratum: a tenth of the signal of a shared compound is common to both datasets, one gene in fifty is significant."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{dataset}-{context}-{shape.left}-{shape.right}.effects"
    contrasts = _contrasts(dataset, context, shape, n_contrasts)
    generator = np.random.default_rng([seed, *dataset.encode()])
    with file.open("wb") as stream:
        for row, cid in enumerate(contrasts["pubchem_cid"].to_numpy(dtype=np.int64)):
            common = np.random.default_rng([seed, cid]).standard_normal(shape.n_genes, dtype=np.float32)
            log_fc = 0.3 * common + generator.standard_normal(shape.n_genes, dtype=np.float32)
            t = 2 * log_fc + 0.1 * generator.standard_normal(shape.n_genes, dtype=np.float32)
            log10_p = np.where(np.abs(t) > 4.6, np.float32(-2), np.float32(-0.1)) + 0.01 * (row % 7)
            np.stack([log_fc, t, log10_p.astype(np.float32)]).tofile(stream)
    genes = pd.DataFrame({"gene": np.arange(shape.n_genes), "ensembl_id": [f"ENSG{number:011d}" for number in range(shape.n_genes)]})
    return FiledEffects(file, contrasts, genes.assign(symbol=None))


def write_pair(folder: Path, shape: Shape) -> tuple[dict[str, FiledEffects], dict[str, FiledEffects]]:
    """Both datasets of a pair, stratum by stratum; files that are there are taken."""
    contexts = [f"CVCL_{number:04d}" for number in range(shape.n_contexts)]
    return tuple(  # type: ignore[return-value]
        {context: write_stratum(folder, dataset, context, shape, n, seed) for seed, context in enumerate(contexts)}
        for dataset, n in ((shape.left, shape.n_left), (shape.right, shape.n_right))
    )


# ---- ours ----------------------------------------------------------------------------------------------------------------------


def run_ours(shapes: Sequence[Shape], folder: Path) -> dict[str, Any]:
    """All pairs, in this process: seconds by stage, counts of pieces, peak memory, and scores to compare."""
    from perturbridge_dagster.agreement import summary
    from perturbridge_dagster.agreement.matching import match_strata
    from perturbridge_dagster.agreement.retrieval import retrieve
    from perturbridge_dagster.agreement.retrieval_summary import retrieval_pair, retrieval_strata
    from perturbridge_dagster.agreement.scoring import score_matched
    from perturbridge_dagster.agreement.strength import agreement_strength

    seconds = dict.fromkeys(STAGES, 0.0)
    counts = {"conditions": 0, "queries": 0, "intervals": 0}
    base, cpu = memory("VmRSS"), time.process_time()
    for shape in shapes:
        left, right = opened(shape, folder)
        with _timed(seconds, "matching"):
            matched = match_strata(left, right, left_dataset=shape.left, right_dataset=shape.right)
        with _timed(seconds, "metrics and baselines"):
            conditions, scores = score_matched(matched, left, right)
        with _timed(seconds, "retrieval"):
            found = retrieve(matched, left, right)
        with _timed(seconds, "intervals"):
            units = summary.agreement_units(scores)
            tables = [summary.agreement_summary(units, by_cell_context=by) for by in (False, True)]
            tables += [retrieval_pair(found.queries, by_cell_context=by) for by in (False, True)]
            tables += [retrieval_strata(found.queries), agreement_strength(conditions, scores)]
        counts["conditions"] += len(matched)
        counts["queries"] += len(found.queries.drop_duplicates(["direction", "query_stratum", "query_contrast"]))
        counts["intervals"] += sum(int(table.filter(regex="_interval$").notna().to_numpy().sum()) for table in tables)
        scores.to_parquet(folder / f"{shape.left}-{shape.right}.scores.parquet")
        matched.to_parquet(folder / f"{shape.left}-{shape.right}.matched.parquet")
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": memory("VmHWM"),
        "base_bytes": base,
        "counts": counts,
    }


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start


def opened(shape: Shape, folder: Path) -> tuple[dict[str, FiledEffects], dict[str, FiledEffects]]:
    """The strata of a pair that :func:`write_pair` wrote."""
    sides = []
    genes = pd.DataFrame({"gene": np.arange(shape.n_genes), "ensembl_id": [f"ENSG{number:011d}" for number in range(shape.n_genes)]})
    for dataset, n_contrasts in ((shape.left, shape.n_left), (shape.right, shape.n_right)):
        contexts = [f"CVCL_{number:04d}" for number in range(shape.n_contexts)]
        sides.append(
            {
                context: FiledEffects(
                    folder / f"{dataset}-{context}-{shape.left}-{shape.right}.effects",
                    _contrasts(dataset, context, shape, n_contrasts),
                    genes.assign(symbol=None),
                )
                for context in contexts
            }
        )
    return sides[0], sides[1]


# ---- the peer ------------------------------------------------------------------------------------------------------------------


def plain_scores(x: dict[str, NDArray[Any]], y: dict[str, NDArray[Any]], *, centroid: bool = False) -> dict[str, float]:
    """All metrics of one pair of signatures, as one would write them down; `y` may be a centroid, which has no P values."""
    scores = {
        "spearman_logFC": stats.spearmanr(x["logFC"], y["logFC"]).statistic,
        "spearman_t": stats.spearmanr(x["t"], y["t"]).statistic,
    }
    k = min(TOP_SIGNED, len(x["t"]) // 2)
    orders = [np.argsort(side["t"], kind="stable") for side in (x, y)]
    up, down = (len(set(orders[0][part]) & set(orders[1][part])) for part in (slice(-k, None), slice(0, k)))
    scores[f"signed_overlap_t_top{TOP_SIGNED}"] = (up + down) / (2 * k)
    limit = np.float32(np.log10(SIGNIFICANT_ADJUSTED_P))
    for suffix, least in (("p05", 0.0), ("p05_lfc02", LARGE_LOG_FC)):
        masks = [(side["log10_adj_p_within"] < limit) & (np.abs(side["logFC"]) > least) for side in ((x,) if centroid else (x, y))]
        parts = [stats.spearmanr(x["logFC"][mask], y["logFC"][mask]).statistic if mask.sum() > 1 else np.nan for mask in masks]
        scores[f"deg_spearman_{suffix}"] = float(np.mean(parts))
        both = masks[0] if centroid else masks[0] & masks[1]
        same = np.sign(x["logFC"][both]) == np.sign(y["logFC"][both])
        scores[f"direction_agreement_{suffix}"] = float(same.mean()) if both.any() else np.nan
    ranked = []
    for side, is_centroid in ((x, False), (y, centroid)):
        genes = np.arange(len(side["logFC"])) if is_centroid else np.flatnonzero(side["log10_adj_p_within"] < limit)
        ranked.append(genes[np.argsort(-np.abs(side["logFC"][genes]), kind="stable")])
    n = min(map(len, ranked))
    scores["de_overlap_reference_n"] = len(set(ranked[0][:n]) & set(ranked[1][:n])) / n if n else np.nan
    for top in TOP_OVERLAPS:
        scores[f"de_overlap_top{top}"] = len(set(ranked[0][:top]) & set(ranked[1][:top])) / top if n >= top else np.nan
    return scores


def _row(layers: dict[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    return {name: values[row] for name, values in layers.items()}


def _others(contrasts: pd.DataFrame, row: int) -> NDArray[np.int64]:
    """Contrasts of other compounds at the dose and time of one."""
    own = contrasts.iloc[row]
    same = (contrasts["pert_dose_uM"] == own["pert_dose_uM"]) & (contrasts["pert_time_h"] == own["pert_time_h"])
    return np.flatnonzero(same & (contrasts["pubchem_cid"] != own["pubchem_cid"]))


def run_peer(shapes: Sequence[Shape], folder: Path, share: float) -> dict[str, Any]:
    """A part of the same work: seconds of each stage scaled up to all of it, what was done of how much, and the greatest difference."""
    seconds = dict.fromkeys(STAGES, 0.0)
    done: dict[str, int] = dict.fromkeys(("metrics", "scores of peers", "queries", "intervals"), 0)
    whole = dict(done)
    difference = 0.0
    for shape in shapes:
        left, right = opened(shape, folder)
        matched = pd.read_parquet(folder / f"{shape.left}-{shape.right}.matched.parquet")
        ours = pd.read_parquet(folder / f"{shape.left}-{shape.right}.scores.parquet").set_index("metric", append=True)["score"]
        context = str(matched["cell_type"].iloc[0])
        layers = [side[context].dense(LAYERS) for side in (left, right)]
        tables = [side[context].contrasts for side in (left, right)]
        here = matched[matched["cell_type"] == context]
        chosen = np.unique(np.linspace(0, len(here) - 1, max(1, min(len(here), round(share * len(matched))))).astype(int))
        start = time.perf_counter()
        for pair in chosen:
            rows = [int(here[f"{side}_contrast"].iloc[pair]) for side in ("left", "right")]
            x, y = (_row(values, row) for values, row in zip(layers, rows, strict=True))
            scores = plain_scores(x, y)
            position = len(METRICS) * int(here.index[pair])
            found = ours.iloc[position : position + len(METRICS)].droplevel(0)
            gaps = (pd.Series(scores) - found).abs()
            difference = max(difference, float(gaps.max()))
        metrics_seconds = time.perf_counter() - start
        start = time.perf_counter()
        for pair in chosen:
            rows = [int(here[f"{side}_contrast"].iloc[pair]) for side in ("left", "right")]
            for own in (0, 1):
                signature = _row(layers[own], rows[own])
                for of in (0, 1):
                    others = _others(tables[of], rows[of])
                    plain_scores(signature, {name: layers[of][name][others].mean(axis=0) for name in ("logFC", "t")}, centroid=True)
        centroid_seconds = time.perf_counter() - start
        start = time.perf_counter()
        pair = int(chosen[0])
        rows = [int(here[f"{side}_contrast"].iloc[pair]) for side in ("left", "right")]
        n_peers = 0
        for own in (0, 1):
            for of in (0, 1):
                for other in _others(tables[of], rows[of])[: max(1, round(N_PEERS * share))]:
                    plain_scores(_row(layers[own], rows[own]), _row(layers[of], int(other)))
                    n_peers += 1
        peer_seconds = time.perf_counter() - start
        all_peers = sum(min(N_PEERS, len(_others(tables[of], rows[of]))) for of in (0, 1)) * 2 * len(matched)
        seconds["metrics and baselines"] += (metrics_seconds + centroid_seconds) * len(matched) / len(chosen)
        seconds["metrics and baselines"] += peer_seconds * all_peers / n_peers
        done["metrics"] += len(chosen)
        whole["metrics"] += len(matched)
        done["scores of peers"] += n_peers
        whole["scores of peers"] += all_peers
        spent, n_done, n_whole = _plain_retrieval(here, layers, chosen, len(matched))
        seconds["retrieval"] += spent
        done["queries"] += n_done
        whole["queries"] += n_whole
    return {"seconds": seconds, "done": done, "whole": whole, "difference": difference}


def _plain_retrieval(
    matched: pd.DataFrame, layers: list[dict[str, NDArray[Any]]], chosen: NDArray[Any], n_matched: int
) -> tuple[float, int, int]:
    """Seconds of retrieval scaled up to all queries, queries done, and all queries."""
    pools = [matched[f"{side}_contrast"].to_numpy() for side in ("left", "right")]
    spent, n_done = 0.0, 0
    for query, target in ((0, 1), (1, 0)):
        for representation in ("logFC", "t", "significance"):
            start = time.perf_counter()
            candidates = _representation(layers[target], pools[target], representation)
            for pair in chosen:
                vector = _representation(layers[query], pools[query][[pair]], representation)
                for similarity in ("euclidean", "cosine", "spearman"):
                    if similarity == "spearman":
                        distance = 1 - np.array([stats.spearmanr(vector[0], candidate).statistic for candidate in candidates])
                    else:
                        distance = cdist(vector, candidates, similarity)[0]
                    stats.rankdata(distance, method="min")
                n_done += 1
            spent += (time.perf_counter() - start) * n_matched / len(chosen)
    return spent, n_done, 6 * n_matched


def _representation(layers: dict[str, NDArray[Any]], rows: NDArray[Any], name: str) -> NDArray[Any]:
    chosen: dict[str, NDArray[Any]] = {layer: values[rows] for layer, values in layers.items()}
    return -chosen["log10_adj_p_within"] * np.sign(chosen["logFC"]) if name == "significance" else chosen[name]


def plain_intervals(n_intervals: int, n_units: int, n_compounds: int) -> float:
    """Seconds of clustered intervals by a loop over resamples, scaled from two of them."""
    generator = np.random.default_rng(0)
    values, clusters = generator.standard_normal(n_units), generator.integers(0, n_compounds, n_units)
    start = time.perf_counter()
    for _ in range(2):
        members = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
        for _ in range(N_RESAMPLES):
            drawn = generator.integers(0, len(members), len(members))
            np.mean(values[np.concatenate([members[cluster] for cluster in drawn])])
        for left_out in range(len(members)):
            np.mean(values[np.concatenate(members[:left_out] + members[left_out + 1 :])])
    return (time.perf_counter() - start) / 2 * n_intervals


# ---- command line ----------------------------------------------------------------------------------------------------------------


def measure(shapes: Sequence[Shape], folder: Path, peer_share: float) -> dict[str, Any]:
    """Write the effects, run ours in a process of its own, then the peer on a part."""
    for shape in shapes:
        write_pair(folder, shape)
    (folder / "shapes.json").write_text(json.dumps([vars(shape) for shape in shapes]))
    subprocess.run([sys.executable, "-m", "bench.agreement", "--ours", str(folder)], check=True, cwd=Path(__file__).resolve().parents[1])
    ours = json.loads((folder / "ours.json").read_text())
    peer = run_peer(shapes, folder, peer_share)
    n_conditions = ours["counts"]["conditions"]
    of_interval = plain_intervals(1, max(10, n_conditions // len(shapes)), max(5, n_conditions // len(shapes) // 3))
    peer["seconds"]["intervals"] = of_interval * ours["counts"]["intervals"]
    peer["done"]["intervals"], peer["whole"]["intervals"] = 2, ours["counts"]["intervals"]
    return {"ours": ours, "peer": peer, "machine": machine()}


def _print(result: dict[str, Any]) -> None:
    ours, peer = result["ours"], result["peer"]
    print(json.dumps(result["machine"]))
    print(f"{ours['counts']['conditions']:,} conditions, {ours['counts']['queries']:,} queries, {ours['counts']['intervals']:,} intervals")
    print(f"{'stage':24}{'ours, s':>12}{'plain, s':>14}{'ratio':>8}")
    total, plain = 0.0, 0.0
    for stage in STAGES:
        spent, expected = ours["seconds"][stage], peer["seconds"][stage]
        total, plain = total + spent, plain + (expected or spent)
        ratio = f"{expected / spent:8.0f}" if expected and spent else ""
        print(f"{stage:24}{spent:12.1f}{expected:14.0f}{ratio}")
    print(f"{'all':24}{total:12.1f}{plain:14.0f}{plain / total:8.0f}   target {TARGET_RATIO}")
    print(f"{total / 60:.1f} minutes (target {TARGET_MINUTES}), peak {ours['peak_bytes'] / 2**30:.2f} GiB (target {TARGET_GIB})")
    print("the peer did " + ", ".join(f"{peer['done'][name]:,} of {peer['whole'][name]:,} {name}" for name in peer["whole"]))
    print(f"greatest difference of a score: {peer['difference']:.1e}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench, or one side of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.agreement", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=1.0, help="share of compounds and contrasts")
    parser.add_argument("--peer-share", type=float, default=0.02, help="share of the work that the peer does")
    parser.add_argument("--folder", type=Path, help="where files go, about 3 GB; a temporary folder unless given")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ours:
        shapes = [Shape(**values) for values in json.loads((options.ours / "shapes.json").read_text())]
        (options.ours / "ours.json").write_text(json.dumps(run_ours(shapes, options.ours)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        _print(measure([shape.scaled(options.share) for shape in PAIRS], Path(folder), options.peer_share))


if __name__ == "__main__":
    main()
