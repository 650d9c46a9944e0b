"""Running a hold-out study: every variant, seed by seed, each kept when it is finished.

Belongs here: training what ``variants.py`` lists, scoring it on its test values, and going on where a study was stopped. Does not belong
here: the training loop (``training.py``), or what the scores come to (``summary.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from perturbridge_dagster.contract import PROFILE_SCORES
from perturbridge_dagster.representation.checkpoints import Start, load_model
from perturbridge_dagster.representation.encoding import EncodedSplit, Vocabularies, encode_split
from perturbridge_dagster.representation.evaluation import ModelPredictor, score_conditions, summarize_profiles
from perturbridge_dagster.representation.fingerprints import morgan_bits
from perturbridge_dagster.representation.holdout.scores import (
    ALL_DATASETS,
    ERROR_COLUMNS,
    selects_by_dataset,
    squared_errors,
    target_datasets,
)
from perturbridge_dagster.representation.holdout.variants import VARIANTS, HoldoutSettings, Run, planned_runs
from perturbridge_dagster.representation.structure_baselines import fitted_baselines
from perturbridge_dagster.representation.training import best_of, n_train_items, train
from perturbridge_dagster.written import write_json, written_whole

if TYPE_CHECKING:
    from perturbridge_dagster.representation.baselines import Predictor
    from perturbridge_dagster.representation.corpus import StoredCorpus

MORGAN_RADIUS = 2
"""Of the fingerprints that embeddings start from, which have a bit a dimension. As published."""


_RECORD, _ERRORS, _CONDITIONS, _BASELINES = "run.json", "errors.parquet", "conditions.parquet", "baselines.parquet"


@dataclass(frozen=True)
class StudyResult:
    """What came of a study.

    Attributes
    ----------
    runs
        One row a run and scored dataset: the columns of the table HOLDOUT_RUNS that a run knows of itself.
    errors
        Columns ``scores.ERROR_COLUMNS``, on test values, of all runs and baselines.
    profiles
        Table PROFILE_SCORES of the contract, of the first seed of each variant; of every scored dataset and, where one checkpoint is for
        all, of all together.
    """

    runs: pd.DataFrame
    errors: pd.DataFrame
    profiles: pd.DataFrame


@dataclass
class Study:
    """All runs of a split rule on a corpus, in a folder where each that is finished is kept.

    A study that was stopped goes on: finished runs are read, the run that was stopped goes on from its last checkpoint, and the result is
    the same. Checkpoints are removed once nothing is to start from them.

    Parameters
    ----------
    corpus
        An open corpus.
    rule
        Name of the split.
    settings
        How much to train.
    folder
        Where runs lie; of one corpus, rule and settings.
    log
        Told one line of progress at a time.
    """

    corpus: StoredCorpus
    rule: str
    settings: HoldoutSettings
    folder: Path
    log: Callable[[str], None]
    _test: dict[str, EncodedSplit] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def targets(self) -> pd.DataFrame:
        """Every dataset with its values and its outcome; see :func:`scores.target_datasets`."""
        return target_datasets(self.corpus, self.rule, self.settings.most_targets if selects_by_dataset(self.rule) else None)

    @cached_property
    def scored(self) -> list[str]:
        """Datasets that are scored."""
        return list(self.targets.loc[self.targets["outcome"] == "scored", "dataset"])

    @cached_property
    def runs(self) -> list[Run]:
        """All runs, sources first."""
        return planned_runs(self.settings, self.rule, self.scored) if self.scored else []

    @cached_property
    def _morgan(self) -> pd.DataFrame:
        """Fingerprints of the compounds of the corpus, as wide as the embeddings."""
        width = self.settings.models["multi_output_lpm"].training.model.width
        smiles = self.corpus.compounds.set_index("perturbation")["smiles"]
        return pd.DataFrame(morgan_bits(smiles, n_bits=width, radius=MORGAN_RADIUS), index=smiles.index).astype("float32")

    @cached_property
    def vocabularies(self) -> Vocabularies:
        """Symbols of all train conditions of the rule, whatever a run is trained on; a model of fingerprints knows more compounds."""
        return self.corpus.vocabularies(self.rule, unknown=True)

    @cached_property
    def baselines(self) -> list[Predictor]:
        """The baselines, fitted on all train conditions of the rule."""
        train_values, validation = (encode_split(self.corpus, name, self.vocabularies, rule=self.rule) for name in ("train", "val"))
        return fitted_baselines(train_values, validation, self.vocabularies, self.corpus.compounds)

    def finish(self) -> StudyResult:
        """Do all runs that are not done, score the baselines, and read what came of them."""
        for number, run in enumerate(self.runs, start=1):
            if not self._is_done(run):
                self.log(f"run {number} of {len(self.runs)}: {run.place}")
                self._do(run)
                self._remove_checkpoints()
        if self.runs and not (self.folder / _BASELINES).is_file():
            self.log("scoring the baselines")
            errors = [
                squared_errors(baseline, self._test_values(dataset), self.rule).assign(predictor=baseline.name)
                for dataset in self.scored
                for baseline in self.baselines
            ]
            of_baselines = pd.concat(errors, ignore_index=True).reindex(columns=list(ERROR_COLUMNS))  # without a seed
            self._write(self.folder / _CONDITIONS, pd.concat([self._conditions(self.baselines, dataset) for dataset in self.scored]))
            self._write(self.folder / _BASELINES, of_baselines)
        rows = [row for run in self.runs for row in self._record(run)]
        places = [*(self.folder / run.place / _ERRORS for run in self.runs), *([self.folder / _BASELINES] if self.runs else [])]
        return StudyResult(
            pd.DataFrame(rows),
            pd.concat([pd.read_parquet(file).astype({"seed": "Int64"}) for file in places], ignore_index=True)
            if places
            else pd.DataFrame(columns=list(ERROR_COLUMNS)),
            self._profiles(),
        )

    def _conditions(self, predictors: Sequence[Predictor], dataset: str) -> pd.DataFrame:
        """Metrics of every test condition of a dataset, or of all."""
        return score_conditions(
            predictors, self.corpus, self.vocabularies, rule=self.rule, split="test", datasets=self._datasets_of(dataset)
        )

    def _datasets_of(self, dataset: str) -> list[str]:
        return sorted(self.corpus.conditions["dataset"].unique()) if dataset == ALL_DATASETS else [dataset]

    def _profiles(self) -> pd.DataFrame:
        """Means over conditions of all variants and baselines, with intervals, and the paired differences."""
        folders = [*(self.folder / run.place for run in self.runs), self.folder]
        found = [pd.read_parquet(file) for folder in folders if (file := folder / _CONDITIONS).is_file()]
        if not found:
            return pd.DataFrame(columns=PROFILE_SCORES.names)
        conditions, tables = pd.concat(found, ignore_index=True), []
        for dataset in self.scored:
            datasets = self._datasets_of(dataset)
            rows = conditions[conditions["dataset"].isin(datasets)]
            table = summarize_profiles(rows, list(rows["predictor"].unique()), splits=("test",), datasets=datasets)
            # a target stands for itself: all of one dataset are no more than the dataset
            tables.append(table if dataset == ALL_DATASETS else table[table["dataset"].notna()])
        return pd.concat(tables, ignore_index=True)

    @staticmethod
    def _write(file: Path, frame: pd.DataFrame) -> None:
        with written_whole(file) as aside:
            frame.to_parquet(aside, index=False)

    def _is_done(self, run: Run) -> bool:
        return (self.folder / run.place / _RECORD).is_file()

    def _record(self, run: Run) -> list[dict[str, Any]]:
        """What a finished run says of itself: one row a scored dataset."""
        rows: list[dict[str, Any]] = json.loads((self.folder / run.place / _RECORD).read_text())
        return rows

    def _do(self, run: Run) -> None:
        """Train, score, and store a run; its record comes last."""
        place = self.folder / run.place
        source_seed = self._source_seed(run)
        datasets = None if run.dataset is None else [run.dataset]
        n_values = int(self.corpus.conditions_of("train", self.rule, datasets)["n_values"].sum())
        n_items = n_train_items(self.corpus, run.variant.architecture, self.rule, datasets)
        settings = self.settings.training(run.variant, run.seed, self.rule, n_items)
        result = train(self.corpus, settings, place, self.log, start=self._start(run, source_seed), datasets=datasets)
        rows, errors, conditions = [], [], []
        # a checkpoint a dataset, or the one of all where selection is by all of them
        selected = result.of_dataset if selects_by_dataset(self.rule) else {ALL_DATASETS: place / "best.pt"}
        for dataset in [run.dataset] if run.dataset else self.scored:
            trained = load_model(selected[dataset])
            predictor = ModelPredictor(trained, run.variant.name)
            errors.append(squared_errors(predictor, self._test_values(dataset), self.rule).assign(predictor=predictor.name, seed=run.seed))
            if run.seed == self.settings.models[run.variant.architecture].seeds[0]:
                conditions.append(self._conditions([predictor], dataset))
            rows.append(
                {
                    "predictor": predictor.name,
                    "dataset": dataset,
                    "seed": run.seed,
                    "source_seed": source_seed,
                    "steps": settings.steps,
                    "epochs": result.epochs,
                    "selected_step": trained.step,
                    "n_train_values": result.n_train,
                    "n_values_seen": int(result.history["n_values"].sum()),
                    "n_train_listed": n_values,
                    "validation_rmse": trained.validation_rmse,
                }
            )
        self._write(place / _ERRORS, pd.concat(errors, ignore_index=True)[list(ERROR_COLUMNS)])
        if conditions:
            self._write(place / _CONDITIONS, pd.concat(conditions))
        write_json(place / _RECORD, rows)
        (place / "last.pt").unlink()

    def _test_values(self, dataset: str) -> EncodedSplit:
        if dataset not in self._test:
            datasets = None if dataset == ALL_DATASETS else [dataset]
            self._test[dataset] = encode_split(self.corpus, "test", self.vocabularies, rule=self.rule, datasets=datasets)
        return self._test[dataset]

    # ---- what a run starts from ----------------------------------------------------------------------------------------------

    def _source_seed(self, run: Run) -> int | None:
        """Seed of the run that a run starts from."""
        if run.variant.source is None or run.dataset is None:
            return None
        if self.settings.sources == "each_seed":
            return run.seed
        found = self._validation_rmse(run.variant.source, run.dataset)
        return min(found, key=lambda seed: (found[seed], seed))

    def _validation_rmse(self, variant: str, dataset: str) -> dict[int, float]:
        """Seed → validation RMSE of a dataset in the finished runs of a variant."""
        done = [run for run in self.runs if run.variant.name == variant and self._is_done(run)]
        return {row["seed"]: row["validation_rmse"] for run in done for row in self._record(run) if row["dataset"] == dataset}

    def _checkpoint(self, variant: str, seed: int, dataset: str) -> Path:
        return self.folder / Run(VARIANTS[variant], seed).place / best_of(dataset)

    def _start(self, run: Run, source_seed: int | None) -> Start | None:
        variant = run.variant
        if variant.source is not None and source_seed is not None and run.dataset is not None:
            return Start(checkpoint=self._checkpoint(variant.source, source_seed, run.dataset), frozen=variant.frozen)
        return Start(perturbation=self._morgan, frozen=variant.frozen) if variant.start == "morgan" else None

    def _remove_checkpoints(self) -> None:
        """Remove checkpoints of finished runs that no other run is to start from: at full size they would take 30 GB."""
        needed = set()
        for run in self.runs:
            if run.variant.source and run.dataset and not self._is_done(run):
                if self.settings.sources == "each_seed":
                    needed.add(self._checkpoint(run.variant.source, run.seed, run.dataset))
                elif self._validation_rmse(run.variant.source, run.dataset):
                    seed = self._source_seed(run)
                    assert seed is not None
                    needed.add(self._checkpoint(run.variant.source, seed, run.dataset))
        for run in self.runs:
            if self._is_done(run):
                for checkpoint in (self.folder / run.place).glob("best*.pt"):
                    if checkpoint not in needed:
                        checkpoint.unlink()
