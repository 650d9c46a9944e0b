"""Honest evaluation: what a model predicts beside what needs no model, with intervals.

Belongs here: scoring predictors on held-out conditions, errors pooled over values, means over conditions with intervals. Does not belong
here: the metrics of a profile (``profile_metrics.py``), the baselines (``baselines.py``), who won (``verdicts.py``), selection of
checkpoints (``training.py``).

Every predictor is scored on the same values: all of them, whatever the size of a batch or a shard. A number that cannot be computed for
a dataset is null there, and no other dataset's number stands in for it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbridge_dagster.agreement.bootstrap import clustered_bca_columns
from perturbridge_dagster.contract import EVALUATION, PROFILE_SCORES
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.representation.baselines import BASELINES, Predictor
from perturbridge_dagster.representation.encoding import EncodedBlock, EncodedSplit, Vocabularies, encode_conditions, encode_split
from perturbridge_dagster.representation.profile_metrics import BY_CHANCE, PROFILE_METRICS, discrimination, profile_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perturbridge_dagster.representation.checkpoints import TrainedModel
    from perturbridge_dagster.representation.corpus import StoredCorpus


class ModelPredictor:
    """A trained model as a predictor, on a GPU where there is one.

    Parameters
    ----------
    trained
        A model selected by :func:`training.train`; it is not changed.
    name
        Name in tables; None for that of its architecture.
    """

    def __init__(self, trained: TrainedModel, name: str | None = None) -> None:
        import copy

        import torch

        self.name = name or trained.settings.architecture
        self.vocabularies = trained.vocabularies
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = trained.model if self._device.type == "cpu" else copy.deepcopy(trained.model).to(self._device)

    def predict(self, conditions: pd.DataFrame, block: EncodedBlock) -> NDArray[np.float64]:
        """See :class:`baselines.Predictor`.

        Raises
        ------
        InputError
            If a condition has a symbol that the model does not know and it has no unknown token.
        """
        import torch

        from perturbridge_dagster.representation.determinism import deterministic
        from perturbridge_dagster.representation.models import ConditionTensors, to_device

        encoded = encode_conditions(conditions, self.vocabularies)
        with deterministic(self._device), torch.no_grad():
            profiles = self._model.profiles(ConditionTensors.of(encoded, self._device), to_device(block.readout, self._device))
            predicted: NDArray[np.float64] = profiles.double().cpu().numpy()
        return predicted


@dataclass
class Scores:
    """Errors and correlation of a predictor over values, added up part by part in float64.

    Means and squared deviations are merged by the pairwise update of Chan, Golub and LeVeque (1983), so that many parts cost no accuracy.
    """

    n_values: int = 0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    mean_truth: float = 0.0
    mean_predicted: float = 0.0
    deviation_truth: float = 0.0
    deviation_predicted: float = 0.0
    co_deviation: float = 0.0

    def add(self, truth: NDArray[np.floating[Any]], predicted: NDArray[np.floating[Any]]) -> None:
        """Add values: (n,) true and (n,) predicted."""
        y, p = truth.astype(np.float64), predicted.astype(np.float64)
        if not len(y):
            return
        mean_y, mean_p = float(y.mean()), float(p.mean())
        self.merge(
            Scores(
                len(y),
                float(np.square(p - y).sum()),
                float(np.abs(p - y).sum()),
                mean_y,
                mean_p,
                float(np.square(y - mean_y).sum()),
                float(np.square(p - mean_p).sum()),
                float(((y - mean_y) * (p - mean_p)).sum()),
            )
        )

    def merge(self, other: Scores) -> None:
        """Add the values of other scores."""
        total = self.n_values + other.n_values
        if total == 0:
            return
        weight = self.n_values * other.n_values / total
        gap_y, gap_p = other.mean_truth - self.mean_truth, other.mean_predicted - self.mean_predicted
        self.squared_error += other.squared_error
        self.absolute_error += other.absolute_error
        self.deviation_truth += other.deviation_truth + gap_y**2 * weight
        self.deviation_predicted += other.deviation_predicted + gap_p**2 * weight
        self.co_deviation += other.co_deviation + gap_y * gap_p * weight
        self.mean_truth += gap_y * other.n_values / total
        self.mean_predicted += gap_p * other.n_values / total
        self.n_values = total

    def row(self) -> dict[str, float | int | None]:
        """n_values, rmse, mae, pearson, r2; None where undefined: no values, or no variance."""
        if self.n_values == 0:
            return {"n_values": 0, "rmse": None, "mae": None, "pearson": None, "r2": None}
        scale = math.sqrt(self.deviation_truth) * math.sqrt(self.deviation_predicted)
        return {
            "n_values": self.n_values,
            "rmse": math.sqrt(self.squared_error / self.n_values),
            "mae": self.absolute_error / self.n_values,
            "pearson": min(1.0, max(-1.0, self.co_deviation / scale)) if scale > 0 else None,
            "r2": 1 - self.squared_error / self.deviation_truth if self.deviation_truth > 0 else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """What predictors are worth.

    Attributes
    ----------
    scores
        The contract's table `evaluation`: errors pooled over values, of all datasets together (dataset is null) and of each.
    profiles
        The contract's table `profile_scores`: means over conditions with intervals, and the paired differences of each model from each
        baseline.
    conditions
        One row a held-out condition and predictor: split, dataset, context, condition (its number in the corpus), perturbation, predictor,
        a column a metric of :data:`PROFILE_METRICS`, and what chance is expected to recover of it.
    """

    scores: pd.DataFrame
    profiles: pd.DataFrame
    conditions: pd.DataFrame


def evaluate(
    predictors: Sequence[Predictor],
    corpus: StoredCorpus,
    vocabularies: Vocabularies,
    *,
    rule: str = "scalar",
    splits: Sequence[str] = ("val", "test"),
    datasets: Collection[str] | None = None,
) -> Evaluation:
    """Score predictors on held-out conditions.

    Memory: about two million values at a time, and some numbers for each condition and predictor. The predictions of one dataset and cell
    context by one predictor are kept in a file meanwhile, in the folder for temporary files.

    Parameters
    ----------
    predictors
        Models and baselines; those whose name is not in :data:`baselines.BASELINES` are models, and are compared with each baseline.
    corpus
        An open corpus.
    vocabularies
        Codes of genes that the predictors know.
    rule
        Split rule.
    splits
        Which splits to score.
    datasets
        Which datasets to score; None for all of the corpus.

    Raises
    ------
    InputError
        If two predictors share a name, a model has other vocabularies, a prediction is missing or infinite, or held-out values have
        symbols that a model does not know.
    """
    names = [predictor.name for predictor in predictors]
    wanted = sorted(corpus.conditions["dataset"].unique() if datasets is None else datasets)
    scores, conditions = _score(predictors, corpus, vocabularies, rule, splits, wanted)
    return Evaluation(
        _score_table(scores, splits, wanted, names), summarize_profiles(conditions, names, splits=splits, datasets=wanted), conditions
    )


def score_conditions(
    predictors: Sequence[Predictor], corpus: StoredCorpus, vocabularies: Vocabularies, *, rule: str, split: str, datasets: Sequence[str]
) -> pd.DataFrame:
    """Metrics of every held-out condition, for whoever scores some predictors now and sets others beside them later.

    Parameters
    ----------
    predictors, corpus, vocabularies, rule
        See :func:`evaluate`.
    split, datasets
        What to score.

    Returns
    -------
    DataFrame
        ``Evaluation.conditions``; the same conditions in the same order for any predictor.

    Raises
    ------
    InputError
        See :func:`evaluate`.
    """
    return _score(predictors, corpus, vocabularies, rule, [split], datasets)[1]


def _score(
    predictors: Sequence[Predictor],
    corpus: StoredCorpus,
    vocabularies: Vocabularies,
    rule: str,
    splits: Sequence[str],
    datasets: Sequence[str],
) -> tuple[dict[tuple[str, str, str], Scores], pd.DataFrame]:
    """Scores by split, dataset and predictor, and ``Evaluation.conditions``."""
    names = [predictor.name for predictor in predictors]
    if len(set(names)) < len(names):
        raise InputError("two predictors have the same name", rows=sorted({name for name in names if names.count(name) > 1}))
    for predictor in predictors:
        if not getattr(predictor, "vocabularies", vocabularies).covers(vocabularies):
            raise InputError(
                f"{predictor.name} was trained with other vocabularies than those of the evaluation",
                expected="vocabularies of the same corpus and split rule",
                advice="Train it on this corpus, or evaluate it on the corpus it was trained on.",
            )
    scores = {(split, dataset, name): Scores() for split in splits for dataset in datasets for name in names}
    frames = []
    for dataset in datasets:  # a baseline may be fitted for a dataset, so all splits of one come together
        for split in splits:
            held_out = encode_split(corpus, split, vocabularies, rule=rule, datasets=[dataset])
            for blocks in _by_context(held_out):
                for part in _score_context(predictors, held_out, blocks, {name: scores[split, dataset, name] for name in names}):
                    frames.append(part.assign(split=split))
    return scores, pd.concat(frames, ignore_index=True) if frames else _no_conditions()


def _by_context(split: EncodedSplit) -> list[list[EncodedBlock]]:
    """The blocks of each cell context of a split of one dataset."""
    of_context: dict[str, list[EncodedBlock]] = {}
    contexts = split.conditions["context"].to_numpy()
    for block in split.blocks:
        if len(block.condition):
            of_context.setdefault(str(contexts[block.condition[0]]), []).append(block)
    return list(of_context.values())


def _score_context(
    predictors: Sequence[Predictor], split: EncodedSplit, blocks: Sequence[EncodedBlock], scores: dict[str, Scores]
) -> Iterator[pd.DataFrame]:
    """Score predictors on one dataset and cell context: adds to `scores`, and yields the rows of ``Evaluation.conditions``."""
    rows = split.conditions.iloc[np.concatenate([block.condition for block in blocks])].reset_index(drop=True)
    about = {name: rows[name].to_numpy() for name in ("dataset", "context", "condition", "perturbation")}
    shape = (len(rows), len(blocks[0].readout))
    with tempfile.TemporaryDirectory(prefix="perturbridge-evaluation-") as folder:
        truth, kept = (np.memmap(Path(folder) / name, dtype=np.float32, mode="w+", shape=shape) for name in ("truth", "predicted"))
        for predictor in predictors:
            metrics: list[dict[str, NDArray[np.float64]]] = []
            start = 0
            for part in (part for block in blocks for part in block.parts()):
                place = slice(start, start + len(part.condition))
                start = place.stop
                values = truth[place] = part.values()
                predicted = predictor.predict(rows.iloc[place], part)
                _require_profiles(predicted, values.shape, predictor.name, str(rows["dataset"].iloc[0]))
                present = np.isfinite(values)
                scores[predictor.name].add(values[present], predicted[present])
                metrics.append(profile_metrics(values, predicted, part.significant()))
                kept[place] = predicted
            found = {name: np.concatenate([part[name] for part in metrics]) for name in metrics[0]}
            found["discrimination"], found["discrimination_inverse"] = discrimination(truth, kept, rows["time"].to_numpy())
            # the arrays are new, so that nothing refers to the temporary files
            yield pd.DataFrame(about | {"predictor": predictor.name} | {name: found[name] for name in (*PROFILE_METRICS, *BY_CHANCE)})
        del truth, kept


def _require_profiles(predicted: NDArray[np.float64], shape: tuple[int, ...], name: str, dataset: str) -> None:
    if predicted.shape != shape:
        raise InputError(f"{name} predicts an array of shape {predicted.shape}", dataset=dataset, expected=f"{shape}, a row a condition")
    if not np.isfinite(predicted).all():
        bad = int((~np.isfinite(predicted)).sum())
        raise InputError(f"{name} predicts {bad:,} values that are missing or infinite", dataset=dataset, advice="Train it anew.")


# ---- tables ------------------------------------------------------------------------------------------------------------------


def _no_conditions() -> pd.DataFrame:
    text = ("dataset", "context", "perturbation", "predictor", "split")
    columns = {name: pd.Series(dtype=object) for name in text} | {"condition": pd.Series(dtype="int32")}
    return pd.DataFrame(columns | {name: pd.Series(dtype="float64") for name in (*PROFILE_METRICS, *BY_CHANCE)})


def _score_table(
    scores: dict[tuple[str, str, str], Scores], splits: Sequence[str], datasets: Sequence[str], names: Sequence[str]
) -> pd.DataFrame:
    rows = []
    for split in splits:
        for name in names:
            together = Scores()
            for dataset in datasets:
                together.merge(scores[split, dataset, name])
            rows.append({"predictor": name, "split": split, "dataset": None, **together.row()})
        rows += [
            {"predictor": name, "split": split, "dataset": dataset, **scores[split, dataset, name].row()}
            for dataset in datasets
            for name in names
        ]
    return pd.DataFrame(rows, columns=EVALUATION.names).astype(
        {"dataset": object, "n_values": "int64", "rmse": "float64", "mae": "float64", "pearson": "float64", "r2": "float64"}
    )


def summarize_profiles(
    conditions: pd.DataFrame, predictors: Sequence[str], *, splits: Sequence[str], datasets: Sequence[str]
) -> pd.DataFrame:
    """Means over conditions with intervals, and paired differences of models from baselines.

    Intervals are BCa from drawing compounds with replacement, since conditions of one compound are not independent. They depend on names
    only: the split, the dataset and the metric.

    Parameters
    ----------
    conditions
        As :class:`Evaluation` has them; every predictor has the same conditions in the same order.
    predictors
        Names.
    splits, datasets
        A row is given for each, also where it has no conditions.

    Returns
    -------
    DataFrame
        The contract's table `profile_scores`.
    """
    models, baselines = [name for name in predictors if name not in BASELINES], [name for name in predictors if name in BASELINES]
    columns: list[tuple[str, str | None]] = [*((name, None) for name in predictors), *((a, b) for a in models for b in baselines)]
    rows = []
    for split in splits:
        of_split = conditions[conditions["split"] == split]
        for dataset in (None, *datasets):
            of_dataset = of_split if dataset is None else of_split[of_split["dataset"] == dataset]
            by_name = {name: of_dataset[of_dataset["predictor"] == name] for name in predictors}
            for metric in PROFILE_METRICS.values():
                score = {name: frame[metric.name].to_numpy(dtype=np.float64) for name, frame in by_name.items()}
                values = np.stack([score[name] if other is None else score[name] - score[other] for name, other in columns], axis=1)
                intervals = clustered_bca_columns(
                    values, by_name[predictors[0]]["perturbation"], seed_key=("profile_scores", split, dataset or "", metric.name)
                )
                for (name, other), interval in zip(columns, intervals, strict=True):
                    by_chance = metric.by_chance
                    if f"{metric.name}_by_chance" in BY_CHANCE and interval.n_rows:
                        by_chance = float(by_name[name][f"{metric.name}_by_chance"].mean())
                    rows.append(
                        {
                            "predictor": name,
                            "baseline": other,
                            "split": split,
                            "dataset": dataset,
                            "metric": metric.name,
                            "value": interval.mean,
                            "low": interval.low,
                            "high": interval.high,
                            "interval": interval.method,
                            "by_chance": by_chance if other is None else None,
                            "n_conditions": interval.n_rows,
                            "n_undefined": len(values) - interval.n_rows,
                            "n_compounds": interval.n_clusters,
                        }
                    )
    frame = pd.DataFrame(rows, columns=PROFILE_SCORES.names)
    return frame.astype({"baseline": object, "dataset": object} | dict.fromkeys(("value", "low", "high", "by_chance"), "float64"))
