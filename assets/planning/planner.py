"""The planner: what everybody asks of partitions, whatever their stage.

Belongs here: the parts, the outputs and the state of a partition. Does not belong here: what a certain stage needs, which is a module for
each step of the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.planning.agreement import CompendiumAgreement, CrossDatasetAgreement, MatchedConditions, ReplicateAgreement
from assets.planning.effects import Effects
from assets.planning.published import PublishedComparison
from assets.planning.representation import CompoundEmbeddings, HoldoutEvaluation, Op3Evaluation, RepresentationReport, TrainingCorpus
from assets.planning.sources import HarmonizedSamples, SourceFiles
from assets.planning.stage_plans import Part, StagePlan, State, WaitingError
from perturbridge_dagster.errors import PerturbridgeError, UnacceptedInputError
from perturbridge_dagster.payloads.requests import failure_of
from perturbridge_dagster.written import read_parquet
from resources.store import Key, Output, Store

if TYPE_CHECKING:
    import pandas as pd

STAGE_PLANS: dict[str, type[StagePlan]] = {
    "source_files": SourceFiles,
    "harmonized_samples": HarmonizedSamples,
    "condition_effects": Effects,
    "replicate_effects": Effects,
    "matched_conditions": MatchedConditions,
    "cross_dataset_agreement": CrossDatasetAgreement,
    "replicate_agreement": ReplicateAgreement,
    "compendium_agreement": CompendiumAgreement,
    "published_comparison": PublishedComparison,
    "training_corpus": TrainingCorpus,
    "compound_embeddings": CompoundEmbeddings,
    "holdout_evaluation": HoldoutEvaluation,
    "op3_evaluation": Op3Evaluation,
    "representation_report": RepresentationReport,
}
"""Stage → how it is planned."""


class Planner:
    """Plans requests against a store, as it is when first asked: make a new one after anything was materialized.

    Parameters
    ----------
    store
        The platform's home.
    allow_unaccepted
        Whether inputs that have not passed their blocking checks may be used. They are then named in the request, so that a
        tainted output is never taken for a clean one.
    """

    def __init__(self, store: Store, *, allow_unaccepted: bool = False) -> None:
        self.store = store
        self.allow_unaccepted = allow_unaccepted
        self._of_stage = {stage: plan(stage, self) for stage, plan in STAGE_PLANS.items()}
        self._strata: dict[str, pd.DataFrame] = {}
        self._plans: dict[tuple[str, Key], list[Part]] = {}
        self._states: dict[tuple[str, Key], tuple[State, str]] = {}

    def plan(self, stage: str, key: Key) -> list[Part]:
        """The parts of a partition.

        Parameters
        ----------
        stage
            Name of a stage.
        key
            ``(dataset,)``, ``(dataset, cell_context)``, ``(dataset_pair,)``, ``(corpus,)``, ``(corpus, model)``, ``(split_rule,)`` or
            ``COMPENDIUM``.

        Raises
        ------
        WaitingError
            If an input has not been materialized.
        UnacceptedInputError
            If an input has not passed its blocking checks.
        NotConfiguredError
            If the settings do not ask for it.
        InputError
            If the key is not a real partition.
        """
        if (stage, key) not in self._plans:
            self._plans[stage, key] = self._of_stage[stage].parts(key)
        return self._plans[stage, key]

    def keys(self, stage: str) -> list[Key]:
        """The real partitions of a stage, as far as they are known now."""
        return self._of_stage[stage].keys()

    def upstream(self, stage: str, key: Key) -> list[tuple[str, Key]]:
        """The partitions that a partition is made from, apart from those its inputs are made from in turn."""
        return self._of_stage[stage].upstream(key)

    def outputs(self, stage: str, key: Key) -> list[Output]:
        """The current outputs of a partition, whatever made them: one a stratum for effects, else one at most."""
        keys = self._of_stage[stage].output_keys(key)
        return [output for name in keys if (output := self.store.current(stage, name)) is not None]

    def state(self, stage: str, key: Key) -> tuple[State, str]:
        """State of a partition and, where something is to say, why.

        Returns
        -------
        ``current``; ``missing`` (could be computed now); ``stale`` (its inputs or code changed); ``failed`` (it cannot be planned, or
        the last try with these inputs failed); ``unaccepted`` (a blocking check has not passed); ``waiting`` (a partition it is
        made from is itself neither current nor failed, nor unaccepted where that is allowed, so what could be computed now would
        soon be stale).
        """
        if (stage, key) not in self._states:
            self._states[stage, key] = self._state(stage, key)
        return self._states[stage, key]

    def _state(self, stage: str, key: Key) -> tuple[State, str]:
        try:
            for input_stage, input_key in self.upstream(stage, key):
                state, reason = self.state(input_stage, input_key)
                usable = state == "current" or (state == "unaccepted" and self.allow_unaccepted)
                if not usable and not self._of_stage[stage].goes_without(input_stage, state):
                    return "waiting", f"{input_stage} {' '.join(input_key)} is {state}{': ' if reason else ''}{reason}"
            parts = self.plan(stage, key)
        except (WaitingError, UnacceptedInputError) as error:
            return "waiting", str(error)
        except PerturbridgeError as error:
            return "failed", str(error)
        if failures := [f"{' '.join(part.key)}: {text}" for part in parts if (text := failure_of(part.request))]:
            return "failed", "; ".join(failures)
        outputs = [self.store.current(part.stage, part.key) for part in parts]
        if any(output is None for output in outputs):
            return "missing", ""
        if not all(self.store.is_current(part.stage, part.key, part.request) for part in parts):
            return "stale", "inputs or code have changed since it was made"
        lacking = {check for output in outputs if output for check in output.unaccepted_checks()}
        if lacking:
            return "unaccepted", f"blocking check {', '.join(sorted(lacking))} has not passed"
        return "current", ""

    def unjudged(self, stage: str, key: Key) -> list[Output]:
        """Outputs of a partition that are there as planned, and that a blocking check has not judged by the present rules.

        Their run was killed before its checks, or the rules have changed. Materializing the partition judges what is there.
        """
        state, _ = self.state(stage, key)
        if state not in ("unaccepted", "failed"):
            return []
        try:
            planned = {part.key: part.request.digest for part in self.plan(stage, key)}
        except PerturbridgeError:  # failed since it cannot be planned
            return []
        return [output for output in self.outputs(stage, key) if planned.get(output.key) == output.digest and not output.is_judged()]

    # ---- what stages are planned from ----------------------------------------------------------------------------------------

    def accepted(self, stage: str, key: Key) -> tuple[Output, list[str]]:
        """The current output of an input stage, refused unless accepted or allowed; and its taints.

        Raises
        ------
        WaitingError
            If there is none.
        UnacceptedInputError
            If it has not passed its blocking checks, and may not be used so.
        """
        output = self.store.current(stage, key)
        if output is None:
            raise WaitingError(f"{stage} {' '.join(key)} is not there yet; materialize it first.")
        taint = self.store.require_accepted(output, allow_unaccepted=self.allow_unaccepted)
        return output, [*filter(None, [taint]), *output.stamp().unaccepted_inputs]

    def strata(self, dataset: str) -> pd.DataFrame:
        """The strata table of a dataset's current harmonized samples, accepted or not."""
        output = self.store.current("harmonized_samples", (dataset,))
        if output is None:
            raise WaitingError(f"harmonized_samples {dataset} is not there yet; materialize it first.")
        if output.digest not in self._strata:
            self._strata[output.digest] = read_parquet(output.folder / "strata.parquet", "harmonized_samples")
        return self._strata[output.digest]

    def cell_contexts(self, dataset: str) -> list[str]:
        """Cell contexts of a dataset, sorted."""
        return sorted(self.strata(dataset)["cell_type"].unique())
