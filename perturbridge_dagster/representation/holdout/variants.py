"""The variants of a hold-out study as data: what each is trained on, what it starts from, and for how long.

Belongs here: the eight published variants of the molecule hold-out, the models of the other hold-outs, the sizes of a study and the runs
that follow. Does not belong here: running them (``study.py``), or the training loop (``training.py``).

Three things differ from the published study, each because it made the study unfair. Every variant of a target has the same budget of
optimiser steps, which never falls below a floor: in 200 epochs of a small dataset a random start had taken too few steps to be compared
with. A checkpoint is selected by a full validation pass over the very dataset it is scored on; a dataset without validation values is
reported as not selectable, where the published code took the score of all datasets instead. The order of the data follows the seed.
:meth:`HoldoutSettings.as_published` has the published budget and source of fine-tuning; selection and order are as stated throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from perturbridge_dagster.representation.holdout.scores import selects_by_dataset
from perturbridge_dagster.representation.settings import (
    LEAST_STEPS,
    PUBLISHED,
    PUBLISHED_EPOCHS,
    PUBLISHED_MULTI_OUTPUT,
    SMALL_MULTI_OUTPUT,
    TrainingSettings,
)

# ---- what there is -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to train a model for a dataset that has held-out compounds.

    Attributes
    ----------
    name
        Its name.
    published_name
        Its name in the published table; None where it is not in it.
    meaning
        What it is, for people.
    data
        Whether it is trained on all datasets at once, or on the target alone.
    start
        Whether embeddings of compounds start from random numbers or from Morgan fingerprints. With a `source`, the whole model starts
        from its checkpoint instead.
    frozen
        Tables that training leaves as they start.
    source
        Variant whose checkpoint it starts from; None for none.
    architecture
        A name of ``models.MODELS``.
    """

    name: str
    published_name: str | None
    meaning: str
    data: Literal["all", "target"]
    start: Literal["random", "morgan"] = "random"
    frozen: tuple[str, ...] = ()
    source: str | None = None
    architecture: str = "multi_output_lpm"


_FROZEN = ("perturbation",)

_VARIANTS = (
    Variant("all", "All", "one model for all datasets", "all"),
    Variant(
        "fine_tuned",
        "FT frozen mol",
        "the model for all datasets, fine-tuned on the target with its compounds held still",
        "target",
        frozen=_FROZEN,
        source="all",
    ),
    Variant("scratch", "Scratch", "the target alone; held-out compounds keep the random vectors they start with", "target"),
    Variant("all_morgan_fixed", "All Morgan fixed", "one model for all datasets; compounds are fingerprints", "all", "morgan", _FROZEN),
    Variant(
        "fine_tuned_morgan_fixed",
        "FT Morgan fixed",
        "the model of fingerprints, fine-tuned on the target",
        "target",
        "morgan",
        _FROZEN,
        source="all_morgan_fixed",
    ),
    Variant("scratch_morgan_fixed", "Scratch Morgan fixed", "the target alone; compounds are fingerprints", "target", "morgan", _FROZEN),
    Variant(
        "all_morgan_learned", "All Morgan learned", "one model for all datasets; compounds start as fingerprints and learn", "all", "morgan"
    ),
    Variant(
        "fine_tuned_morgan_learned",
        "FT Morgan learned fixmol",
        "the model that learned from fingerprints, fine-tuned on the target with its compounds held still",
        "target",
        "morgan",
        _FROZEN,
        source="all_morgan_learned",
    ),
)

VARIANTS = {variant.name: variant for variant in _VARIANTS}
"""The published variants of the molecule hold-out, by name, each after its source."""

HOLDOUT_MODELS = {
    name: Variant(name, None, meaning, "all", architecture=name)
    for name, meaning in {
        "multi_output_lpm": "one model for all datasets that predicts all genes of a condition at once",
        "scalar_lpm": "one model for all datasets that predicts one gene of a condition at a time",
    }.items()
}
"""The models of the other hold-outs, by name."""


@dataclass(frozen=True)
class ModelRuns:
    """How often, and how long, a model is trained.

    Attributes
    ----------
    training
        How it is trained, apart from seed, split, selection and budget.
    seeds
        Seeds of its runs.
    epochs
        Budget of a run in passes over its train data; 0 for none beside the steps that it has at least.
    n_decays, n_validations
        How often the learning rate falls, and validation runs, in the course of a run. As published: once an epoch.
    """

    training: TrainingSettings
    seeds: tuple[int, ...]
    epochs: int
    n_decays: int
    n_validations: int


@dataclass(frozen=True)
class HoldoutSettings:
    """How much a study trains.

    Attributes
    ----------
    models
        Model → its runs.
    least_steps, least_target_steps
        Steps that a run on all datasets, and on a target, has at least.
    sources
        Where fine-tuning starts: ``"each_seed"``, from the run of its own seed, so that the spread over seeds holds that of the source;
        or ``"best_seed"``, from the run with the lowest validation RMSE of all, as published.
    most_targets
        Most datasets that variants of a target are trained for, those with most test values; None for all.
    """

    models: Mapping[str, ModelRuns]
    least_steps: int = 1
    least_target_steps: int = 1
    sources: Literal["each_seed", "best_seed"] = "each_seed"
    most_targets: int | None = None

    def as_published(self) -> HoldoutSettings:
        """These settings with the published faults: a budget of epochs alone, and the spread of fine-tuning without that of its source."""
        return replace(self, least_steps=1, least_target_steps=1, sources="best_seed")

    def training(self, variant: Variant, seed: int, rule: str, n_items: int) -> TrainingSettings:
        """How a run is trained.

        Parameters
        ----------
        variant, seed
            Of the run.
        rule
            Name of the split.
        n_items
            Train conditions, or train values for the scalar model.
        """
        runs = self.models[variant.architecture]
        budgeted = runs.training.for_epochs(
            runs.epochs,
            n_items,
            least_steps=self.least_target_steps if variant.data == "target" else self.least_steps,
            n_decays=runs.n_decays,
            n_validations=runs.n_validations,
        )
        return replace(
            budgeted,
            seed=seed,
            split=rule,
            select="dataset" if selects_by_dataset(rule) else "all",
            # vocabularies are those of train, so what is held out may be unknown; the published ones list all of it
            unknown_token=True,
        )

    def variants(self, rule: str) -> tuple[Variant, ...]:
        """The variants of a rule, sources first."""
        return tuple(VARIANTS.values()) if selects_by_dataset(rule) else tuple(HOLDOUT_MODELS[name] for name in self.models)

    def in_words(self, rule: str) -> str:
        """How a rule is studied: seeds, budget, selection, and where fine-tuning starts."""
        floors = {self.least_steps, self.least_target_steps} if selects_by_dataset(rule) else {self.least_steps}
        floor = " and ".join(f"{steps:,}" for steps in sorted(floors, reverse=True) if steps > 1)
        said = []
        for name in dict.fromkeys(variant.architecture for variant in self.variants(rule)):
            runs = self.models[name]
            budget = f"{runs.epochs} epochs" if runs.epochs else ""
            budget += f"{', or ' if budget else ''}at least {floor} steps" if floor else ""
            said.append(f"{name} with {'seeds' if len(runs.seeds) > 1 else 'seed'} {', '.join(map(str, runs.seeds))}, {budget}")
        if not selects_by_dataset(rule):
            return f"Trained: {'; '.join(said)}. Checkpoints are selected by a full pass over all validation values."
        source = {
            "each_seed": "Fine-tuning starts from the run of its own seed, so that its spread holds that of the source.",
            "best_seed": "Fine-tuning starts from the run with the lowest validation RMSE of all, so its spread leaves out the source.",
        }[self.sources]
        words = "Checkpoints are selected by a full pass over the dataset's own validation values."
        return f"Trained: {'; '.join(said)} (on all data and on a target). {words} {source}"


PUBLISHED_SEEDS = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def _published_runs(training: TrainingSettings, seeds: tuple[int, ...]) -> ModelRuns:
    epochs = PUBLISHED_EPOCHS[training.architecture]
    return ModelRuns(training, seeds, epochs, n_decays=epochs, n_validations=epochs)


HOLDOUT_SETTINGS = {
    "small": HoldoutSettings(
        models={"multi_output_lpm": ModelRuns(SMALL_MULTI_OUTPUT, PUBLISHED_SEEDS[:2], epochs=0, n_decays=20, n_validations=3)},
        least_steps=120,
        least_target_steps=40,
        most_targets=2,
    ),
    "published": HoldoutSettings(
        models={
            "multi_output_lpm": _published_runs(PUBLISHED_MULTI_OUTPUT, PUBLISHED_SEEDS),
            # 25 epochs of four billion values; published with one seed
            "scalar_lpm": _published_runs(PUBLISHED, PUBLISHED_SEEDS[:1]),
        },
        least_steps=LEAST_STEPS,
        least_target_steps=LEAST_STEPS,
    ),
}
"""Size → settings. The published size trains small targets for steps enough; :meth:`HoldoutSettings.as_published` does not."""


# ---- runs --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training of a variant.

    Attributes
    ----------
    variant
        The variant.
    seed
        Its seed.
    dataset
        The target; None where all datasets are trained on.
    """

    variant: Variant
    seed: int
    dataset: str | None = None

    @property
    def place(self) -> Path:
        """Where it lies in the folder of the study."""
        return Path(self.variant.name, self.dataset or "all_datasets", f"seed_{self.seed}")


def planned_runs(settings: HoldoutSettings, rule: str, targets: list[str]) -> list[Run]:
    """All runs of a study, in an order in which every source comes before what starts from it.

    Parameters
    ----------
    settings
        Of the study.
    rule
        Name of the split.
    targets
        Datasets that variants of a target are trained for.
    """
    variants = settings.variants(rule)
    runs = [
        Run(variant, seed, dataset)
        for variant in variants
        for dataset in ([None] if variant.data == "all" else targets)
        for seed in settings.models[variant.architecture].seeds
    ]
    place = {variant.name: number for number, variant in enumerate(variants)}
    if settings.sources == "best_seed":
        # the best seed is known when all of them are done
        return sorted(runs, key=lambda run: (run.variant.data != "all", place[run.variant.name]))
    # seed by seed, so that no checkpoint waits longer than for what starts from it
    return sorted(runs, key=lambda run: (run.seed, run.variant.data != "all", place[run.variant.name]))
