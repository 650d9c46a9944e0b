"""How agreement is planned: matches and scores of each pair of datasets, replicates of each dataset, and the compendium as a whole.

Belongs here: the requests of the stages of agreement. Does not belong here: matching or scoring (``perturbridge_dagster/agreement``).
"""

from __future__ import annotations

from typing import Any

from assets.planning.stage_plans import COMPENDIUM, EFFECTS_STAGES, Draft, Part, StagePlan, WaitingError
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.registry import compendium_datasets, dataset_pairs, pair_key, split_pair_key
from resources.store import Key

COMPENDIUM_INPUTS = {"matched": "matched_conditions", "scores": "cross_dataset_agreement", "replicates": "replicate_agreement"}
"""Kind of input of the agreement of the compendium → the stage it comes from, one for each of its keys."""


class _Agreement(StagePlan):
    def chosen(self) -> dict[str, Any]:
        """Options of agreement that the stage takes, as the settings choose them."""
        from perturbridge_dagster.agreement.options import TAKEN

        options = self.store.agreement_options()
        return {name: getattr(options, name) for name in TAKEN[self.stage]}


class _OfPairs(_Agreement):
    """Partitions are pairs of datasets that may have a cell context in common."""

    def keys(self) -> list[Key]:
        pairs = dataset_pairs(list(self.store.source_folders()))
        return [(pair_key(left, right),) for left, right in pairs if self._may_share_a_context(left, right)]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        contexts = self.compared_contexts(*split_pair_key(key[0]))
        return [(EFFECTS_STAGES["grouped"], (dataset, context)) for dataset, names in contexts.items() for context in names]

    def _may_share_a_context(self, left: str, right: str) -> bool:
        """Whether two datasets have a cell context in common; so it may be as long as one of them is not harmonized."""
        if any(self.store.current("harmonized_samples", (dataset,)) is None for dataset in (left, right)):
            return True
        return bool(set(self.planner.cell_contexts(left)) & set(self.planner.cell_contexts(right)))

    def compared_contexts(self, left: str, right: str) -> dict[str, list[str]]:
        """Cell contexts of two datasets of which the effects are compared: those that both have, so that no other makes the pair stale.

        Raises
        ------
        InputError
            If there is none.
        """
        shared = sorted(set(self.planner.cell_contexts(left)) & set(self.planner.cell_contexts(right)))
        if not shared:
            raise InputError(f"{left} and {right} have no cell context in common, so there is nothing to compare")
        return dict.fromkeys((left, right), shared)


class MatchedConditions(_OfPairs):
    """Which conditions of two datasets are compared."""

    def parts(self, key: Key) -> list[Part]:
        left, right = split_pair_key(key[0])
        draft = Draft(self)
        left_out = draft.add_effects("grouped", self.compared_contexts(left, right))
        return [draft.part(key, {"left": left, "right": right, **self.chosen(), "left_out": left_out})]


class CrossDatasetAgreement(_OfPairs):
    """Scores of matched conditions."""

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("matched_conditions", key), *super().upstream(key)]

    def parts(self, key: Key) -> list[Part]:
        left, right = split_pair_key(key[0])
        draft = Draft(self)
        matched = draft.accepted("matched_conditions", key)
        draft.add_effects("grouped", self.compared_contexts(left, right))
        if matched.done()["inputs"] != {name: value.checksum for name, value in draft.inputs.items()}:
            # matches name contrasts by number, and numbers of other effects are other contrasts
            raise WaitingError(f"matched_conditions {key[0]} was made from other effects than the current ones; materialize it first.")
        draft.add("matched", matched)
        return [draft.part(key, {"left": left, "right": right, **self.chosen()})]


class ReplicateAgreement(_Agreement):
    """Partitions are the datasets of the compendium."""

    def keys(self) -> list[Key]:
        return [(dataset,) for dataset in compendium_datasets(self.store.source_folders())]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [(EFFECTS_STAGES["separate"], (key[0], context)) for context in self.planner.cell_contexts(key[0])]

    def parts(self, key: Key) -> list[Part]:
        (dataset,) = key
        draft = Draft(self)
        left_out = draft.add_effects("separate", {dataset: self.planner.cell_contexts(dataset)})
        return [draft.part(key, {"dataset": dataset, **self.chosen(), "left_out": left_out})]


class CompendiumAgreement(_Agreement):
    """One output, where there are two datasets to compare."""

    def keys(self) -> list[Key]:
        return [COMPENDIUM] if self.planner.keys("matched_conditions") else []

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        # effects of every cell context, also of those that no pair shares
        effects = [(EFFECTS_STAGES["grouped"], (dataset, context)) for dataset, names in self._contexts().items() for context in names]
        return [*effects, *((stage, of) for stage in COMPENDIUM_INPUTS.values() for of in self.planner.keys(stage))]

    def _contexts(self) -> dict[str, list[str]]:
        return {dataset: self.planner.cell_contexts(dataset) for dataset in compendium_datasets(self.store.source_folders())}

    def parts(self, key: Key) -> list[Part]:
        contexts = self._contexts()
        draft = Draft(self)
        left_out = draft.add_effects("grouped", contexts)
        for kind, stage in COMPENDIUM_INPUTS.items():
            for of in self.planner.keys(stage):
                output = draft.accepted(stage, of)
                if not self.store.is_current(stage, of, self.planner.plan(stage, of)[0].request):
                    raise WaitingError(f"{output.name} was made from other effects than the current ones; materialize it first.")
                draft.add(f"{kind}:{of[0]}", output)
        # which datasets are configured decides the genes that all have, and which matches L1000 alone supports
        return [draft.part(key, {"datasets": list(contexts), **self.chosen(), "left_out": left_out})]
