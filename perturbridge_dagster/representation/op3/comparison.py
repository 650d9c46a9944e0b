"""Running every predictor of the benchmark, and comparing what they are worth.

Belongs here: scores a condition, their means over seeds, paired differences with intervals. Does not belong here: predictors themselves,
and saying it in words or pictures (``report.py``).

A difference is paired by compound: scores of a compound are averaged over seeds and cell types first, and intervals come from drawing
compounds with replacement. A seed shares its split with every other, so that spread over seeds understates what is not known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import Interval, clustered_bca_columns
from perturbridge_dagster.contract import OP3_SCORES, OP3_SUMMARY
from perturbridge_dagster.representation.op3.baselines import predict_baselines
from perturbridge_dagster.representation.op3.data import Problem
from perturbridge_dagster.representation.op3.descriptors import MORGAN, NONE, Descriptors
from perturbridge_dagster.representation.op3.ensemble import Epochs, choose_epochs, predict_ensemble, published_epochs
from perturbridge_dagster.representation.op3.members import EnsembleSettings, Mode
from perturbridge_dagster.representation.op3.metrics import ERRORS, METRICS, mean_metrics, row_metrics
from perturbridge_dagster.written import write_json, written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

BASELINE = "baseline"
"""Mode of a predictor without a network."""

PREDICTOR = ["descriptor", "mode"]

_Subset = tuple[str | None, str, "set[str] | None"]
"""Corpus, which compounds, and who they are; None for all."""


@dataclass(frozen=True)
class Evaluated:
    """Scores of every predictor.

    Attributes
    ----------
    rows
        One row a predictor, seed and test condition: descriptor, mode, seed (null without a network), sm_name, cell_type, and the metrics.
    epochs
        Predictor in words → stage and member in words → epochs.
    ridge_penalty
        Penalty that was chosen for the ridge regression.
    """

    rows: pd.DataFrame
    epochs: dict[str, dict[str, int]]
    ridge_penalty: float


def predictor_name(descriptor: str, mode: str) -> str:
    """A predictor in words."""
    return descriptor if mode in (NONE, BASELINE) else f"{descriptor} ({mode})"


def evaluate(
    problem: Problem,
    descriptors: Sequence[Descriptors],
    settings: EnsembleSettings,
    log: Callable[[str], None] = lambda _: None,
    *,
    kept: Path | None = None,
) -> Evaluated:
    """Run the ensemble with every descriptor, mode and seed, and the baselines, and score them.

    Parameters
    ----------
    problem
        Test values are looked at for scores alone.
    descriptors
        Morgan fingerprints must be among them, for the ridge regression.
    settings
        What is run.
    log
        Told of each predictor before it runs.
    kept
        Folder in which what is done is kept, so that a run that was killed goes on where it stopped. It must be of the same arguments.
    """
    seeds = settings.seeds
    parts, epochs = [], {}
    for described in descriptors:
        modes: tuple[Mode, ...] = (NONE,) if described.name == NONE else settings.modes
        for mode in modes:
            name = predictor_name(described.name, mode)
            log(f"OP3: {name}, {len(seeds)} seeds")
            run = _Runs(problem, described, mode, settings, kept)
            chosen = run.epochs()
            epochs[name] = {f"stage {stage} {member}": n for (stage, member), n in chosen.items()}
            parts += [run.scored(seed, chosen) for seed in seeds]
    [morgan] = [described for described in descriptors if described.name == MORGAN]
    baselines, penalty = predict_baselines(problem, morgan, seed=seeds[0])
    parts += [_scored(problem, predicted, name, BASELINE, None) for name, predicted in baselines.items()]
    return Evaluated(pd.concat(parts, ignore_index=True), epochs, penalty)


@dataclass(frozen=True)
class _Runs:
    """The ensemble with one descriptor and mode; what is done is read where it was kept."""

    problem: Problem
    descriptors: Descriptors
    mode: Mode
    settings: EnsembleSettings
    kept: Path | None

    def epochs(self) -> dict[tuple[int, str], int]:
        """Epochs of every member of each stage."""
        if self.settings.faithful:
            return published_epochs(self.settings)
        file = self._file("epochs.json")
        if file and file.is_file():
            return {(stage, member): n for stage, member, n in json.loads(file.read_text())}
        chosen = choose_epochs(self.problem, self.descriptors, self.mode, self.settings, seed=self.settings.seeds[0])
        if file:
            write_json(file, [[*key, n] for key, n in chosen.items()])
        return chosen

    def scored(self, seed: int, epochs: Epochs) -> pd.DataFrame:
        """Scores of the run with a seed."""
        file = self._file(f"{seed}.parquet")
        if file and file.is_file():
            return pd.read_parquet(file)
        predicted = predict_ensemble(self.problem, self.descriptors, self.mode, self.settings, seed=seed, epochs=epochs)
        rows = _scored(self.problem, predicted, self.descriptors.name, self.mode, seed)
        if file:
            with written_whole(file) as aside:
                rows.to_parquet(aside)
        return rows

    def _file(self, name: str) -> Path | None:
        return self.kept / f"{self.descriptors.name}_{self.mode}_{name}" if self.kept else None


def _scored(problem: Problem, predicted: NDArray[np.floating], descriptor: str, mode: str, seed: int | None) -> pd.DataFrame:
    named = problem.test.assign(descriptor=descriptor, mode=mode, seed=pd.array([seed] * len(problem.test), dtype="Int64"))
    return named.join(row_metrics(problem.test_values, predicted))


def _subsets(seen: Mapping[str, set[str]]) -> list[_Subset]:
    """All compounds, and those that each corpus has or has not seen."""
    subsets: list[_Subset] = [(None, "all", None)]
    for corpus, compounds in seen.items():
        subsets += [(corpus, "seen", compounds), (corpus, "unseen", compounds)]
    return subsets


def _of_subset(rows: pd.DataFrame, subset: _Subset) -> pd.DataFrame:
    _, which, compounds = subset
    return rows if compounds is None else rows[rows["sm_name"].isin(compounds) == (which == "seen")]


def score_table(rows: pd.DataFrame, seen: Mapping[str, set[str]]) -> pd.DataFrame:
    """The contract's table op3_scores.

    Parameters
    ----------
    rows
        Of :class:`Evaluated`.
    seen
        Corpus → test compounds that it has seen.
    """
    found = []
    for subset in _subsets(seen):
        of_subset = _of_subset(rows, subset)
        for (descriptor, mode, seed), group in of_subset.groupby([*PREDICTOR, "seed"], sort=False, dropna=False):
            described: dict[str, Any] = {"descriptor": descriptor, "mode": mode, "seed": seed, "corpus": subset[0], "compounds": subset[1]}
            counts = {"n_conditions": len(group), "n_compounds": group["sm_name"].nunique()}
            found.append(mean_metrics(group).assign(**described, **counts))
    return pd.concat(found, ignore_index=True).astype({"seed": "Int64", "corpus": object})[OP3_SCORES.names]


def summary_table(rows: pd.DataFrame, seen: Mapping[str, set[str]]) -> pd.DataFrame:
    """The contract's table op3_summary: means over seeds, and differences to the references with intervals.

    Parameters
    ----------
    rows, seen
        As for :func:`score_table`.
    """
    parts = [_summary(_of_subset(rows, subset), subset) for subset in _subsets(seen)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True).astype({"corpus": object})[OP3_SUMMARY.names]


def references(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Name of a reference → its descriptor and mode.

    No descriptor; Morgan fingerprints, learned further where that was run; and every baseline.
    """
    modes = list(rows.loc[rows["descriptor"] == MORGAN, "mode"].unique())
    morgan = {MORGAN: (MORGAN, "trainable" if "trainable" in modes else modes[0])} if modes else {}
    baselines = rows.loc[rows["mode"] == BASELINE, "descriptor"].unique()
    return {NONE: (NONE, NONE)} | morgan | {str(name): (str(name), BASELINE) for name in baselines}


def _summary(rows: pd.DataFrame, subset: _Subset) -> pd.DataFrame:
    """Rows of the summary of some test compounds."""
    if rows.empty:
        return pd.DataFrame(columns=OP3_SUMMARY.names)
    corpus, which, _ = subset
    counted = rows.fillna(dict.fromkeys(METRICS, 0.0))
    by_seed, by_compound = _means(counted, "seed"), _means(counted, "sm_name")
    compounds = sorted(counted["sm_name"].unique())
    pairs = [(predictor, name, reference) for predictor in by_seed for name, reference in references(rows).items()]
    differences = np.concatenate(
        [(by_compound[predictor].loc[compounds] - by_compound[reference].loc[compounds]).to_numpy() for predictor, _, reference in pairs],
        axis=1,
    )
    intervals = clustered_bca_columns(differences, compounds, seed_key=("op3_evaluation", corpus or "", which))
    found: list[dict[str, Any]] = []
    for place, (predictor, name, reference) in enumerate(pairs):
        values, theirs = by_seed[predictor], by_seed[reference]
        for column, metric in enumerate(METRICS, start=len(METRICS) * place):
            sign = -1.0 if metric in ERRORS else 1.0
            of_seeds = values[metric]
            # a baseline has one value, which each seed of the other is compared with
            their_seeds = theirs[metric] if len(theirs) > 1 else pd.Series(theirs[metric].iloc[0], of_seeds.index)
            shared = of_seeds.reindex(their_seeds.index) if len(of_seeds) > 1 else pd.Series(of_seeds.iloc[0], their_seeds.index)
            found.append(
                {
                    "descriptor": predictor[0],
                    "mode": predictor[1],
                    "corpus": corpus,
                    "compounds": which,
                    "metric": metric,
                    "n_seeds": len(of_seeds),
                    "mean": of_seeds.mean(),
                    "sd": of_seeds.std(ddof=1) if len(of_seeds) > 1 else np.nan,
                    "n_compounds": len(compounds),
                    "reference": name,
                    **_difference(predictor == reference, intervals[column]),
                    "win_rate": np.nan if predictor == reference else float((sign * differences[:, column] > 0).mean()),
                    "seed_win_rate": np.nan if predictor == reference else float((sign * (shared - their_seeds) > 0).mean()),
                }
            )
    return pd.DataFrame(found)


def _means(rows: pd.DataFrame, by: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Predictor, in the order of first appearance → means of its metrics by seed, or by compound."""
    return {
        (str(descriptor), str(mode)): group.groupby(by, dropna=False)[list(METRICS)].mean()
        for (descriptor, mode), group in rows.groupby(PREDICTOR, sort=False)
    }


def _difference(is_reference: bool, interval: Interval) -> dict[str, Any]:
    if is_reference:
        return {"difference": np.nan, "low": np.nan, "high": np.nan, "interval": None}
    return {"difference": interval.mean, "low": interval.low, "high": interval.high, "interval": interval.method}
