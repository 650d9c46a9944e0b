"""How representation is planned: corpora, embeddings, evaluations, and the report of them.

Belongs here: the requests of the stages of representation. Does not belong here: what a corpus or a split is
(``perturbridge_dagster/representation``).
"""

from __future__ import annotations

import json
from typing import Any

from assets.planning.stage_plans import (
    COMPENDIUM,
    EFFECTS_STAGES,
    Draft,
    NotConfiguredError,
    Part,
    StagePlan,
    State,
    WaitingError,
    checksum_of,
    listing_of,
)
from perturbridge_dagster.contract.representation import FURTHER_SPLITS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.requests import Input
from perturbridge_dagster.representation.corpora import CorpusDefinition, corpus_definition, kept_corpora, stands_for
from perturbridge_dagster.representation.embeddings import seeds_of
from perturbridge_dagster.stages import MODELS
from resources.store import SETTINGS, Key, Store

OP3_CORPORA, OP3_MODEL = ("l1000", "all", "all_without_op3"), "scalar_lpm"
"""Corpora and model of the embeddings that are evaluated on OP3, the first two as published."""
HOLDOUT_CORPUS = "all"
"""Corpus of which the split rules are studied."""
REPORTED_STAGES = ("training_corpus", "compound_embeddings", "holdout_evaluation", "op3_evaluation")
"""Stages of representation that its report is about, in its order."""


def kept_names(store: Store) -> list[str]:
    """Names of the corpora that are kept current; any other is made by hand."""
    return [definition.name for definition in kept_corpora(store.source_folders())]


def definition_of(store: Store, corpus: str) -> CorpusDefinition:
    """What a corpus takes of the configured datasets.

    Raises
    ------
    NotConfiguredError
        If that is none.
    """
    definition = corpus_definition(corpus, store.source_folders())
    if not definition.datasets:
        left_out = "; ".join(f"{dataset}: {reason}" for dataset, reason in definition.left_out.items())
        raise NotConfiguredError(
            f"corpus {corpus} takes none of the datasets that {store.root / SETTINGS} names"
            f"{f' ({left_out})' if left_out else ''}. {definition.meaning}"
        )
    return definition


class TrainingCorpus(StagePlan):
    """Partitions are named corpora."""

    def keys(self) -> list[Key]:
        return [(corpus,) for corpus in kept_names(self.store)]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        contexts = self._contexts(key[0])
        return [(EFFECTS_STAGES["grouped"], (dataset, context)) for dataset, names in contexts.items() for context in names]

    def _contexts(self, corpus: str) -> dict[str, list[str]]:
        return {dataset: self.planner.cell_contexts(dataset) for dataset in definition_of(self.store, corpus).datasets}

    def parts(self, key: Key) -> list[Part]:
        contexts = self._contexts(key[0])
        draft = Draft(self)
        left_out = draft.add_effects("grouped", contexts)
        if not draft.inputs:
            raise WaitingError("no effects are there yet; materialize condition_effects first.")
        for dataset in {name.split("/")[0] for name in draft.inputs}:
            samples = draft.accepted("harmonized_samples", (dataset,))
            # the table of samples is known by the content of their strata, as effects are, so that it makes nothing else stale
            content = sorted(self.planner.strata(dataset)[["stratum", "checksum"]].to_numpy().tolist())
            draft.inputs[f"samples:{dataset}"] = Input(str(samples.folder / "obs.parquet"), checksum_of(content))
        return [draft.part(key, {"corpus": key[0], "datasets": list(contexts), "seed": 13, "left_out": left_out})]


class CompoundEmbeddings(StagePlan):
    """Partitions are a corpus and a model: both models of the whole compendium; of its parts the one that was published."""

    def keys(self) -> list[Key]:
        return [(corpus, model) for corpus in kept_names(self.store) for model in (MODELS if corpus == "all" else MODELS[:1])]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("training_corpus", key[:1])]

    def parts(self, key: Key) -> list[Part]:
        corpus, model = key
        size = self.store.representation_size()
        draft = Draft(self)
        draft.add("corpus", draft.accepted("training_corpus", (corpus,)))
        arguments = {
            "corpus": corpus,
            "model": model,
            "settings": size,
            "seeds": list(seeds_of(size, model, corpus)),
            "processes": self.store.representation_processes(),
        }
        return [draft.part(key, arguments)]


class HoldoutEvaluation(StagePlan):
    """Partitions are the split rules that suit the corpus."""

    def keys(self) -> list[Key]:
        return [(rule,) for rule, split in self._splits().items() if rule in FURTHER_SPLITS and split["suits"]]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("training_corpus", (HOLDOUT_CORPUS,))]

    def _splits(self) -> dict[str, dict[str, Any]]:
        """Split rule → what the current corpus says of it; nothing before there is one."""
        output = self.store.current("training_corpus", (HOLDOUT_CORPUS,))
        splits: dict[str, dict[str, Any]] = json.loads((output.folder / "corpus.json").read_text()).get("splits", {}) if output else {}
        return splits

    def parts(self, key: Key) -> list[Part]:
        (rule,) = key
        draft = Draft(self)
        draft.add("corpus", draft.accepted("training_corpus", (HOLDOUT_CORPUS,)))
        split = self._splits().get(rule, {"suits": False, "reason": "the corpus was made by an earlier version"})
        if not split["suits"]:
            raise InputError(
                f"split rule {rule} does not suit corpus {HOLDOUT_CORPUS}: {split['reason']}",
                expected=f"one of {', '.join(name for (name,) in self.keys())}",
            )
        arguments = {
            "corpus": HOLDOUT_CORPUS,
            "rule": rule,
            "settings": self.store.representation_size(),
            "faithful": self.store.representation_is_faithful(),
        }
        return [draft.part(key, arguments)]


class Op3Evaluation(StagePlan):
    """One output, where the settings name a folder of the benchmark."""

    def keys(self) -> list[Key]:
        return [COMPENDIUM] if self.store.op3_benchmark_folder() else []

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("compound_embeddings", (corpus, OP3_MODEL)) for corpus in self._corpora()]

    def goes_without(self, stage: str, state: State) -> bool:
        return state == "failed"

    def _corpora(self) -> list[str]:
        """Corpora whose embeddings are evaluated, as they are kept current; those of the same datasets count once."""
        datasets = self.store.source_folders()
        found = dict.fromkeys(corpus for name in OP3_CORPORA if (corpus := stands_for(name, datasets)) is not None)
        return [corpus for corpus in found if (corpus, OP3_MODEL) in self.planner.keys("compound_embeddings")]

    def parts(self, key: Key) -> list[Part]:
        from perturbridge_dagster.identity.snapshot import FOLDER, grown_version
        from perturbridge_dagster.identity.tables import tables_checksum
        from perturbridge_dagster.sources import locate_files

        folder = self.store.op3_benchmark_folder()
        if folder is None:
            raise NotConfiguredError(
                f"op3_evaluation is not configured: {self.store.root / SETTINGS} names no folder of the OP3 benchmark. Add "
                '[op3_benchmark] with a line folder = "folder with its files".'
            )
        draft = Draft(self)
        files = sorted(file for group in locate_files("op3_benchmark", folder).values() for file in group)
        draft.inputs["benchmark"] = Input(str(folder), checksum_of(listing_of(files, folder)))
        answers = self.store.root / FOLDER
        if grown := grown_version(answers, "op3"):
            draft.inputs["identity"] = Input(str(answers), grown)
        corpora, left_out = [], {}
        for corpus in self._corpora():
            state, reason = self.planner.state("compound_embeddings", (corpus, OP3_MODEL))
            if state == "failed":
                left_out[f"{OP3_MODEL} of corpus {corpus}"] = reason
                continue
            embeddings = draft.accepted("compound_embeddings", (corpus, OP3_MODEL))
            stored = draft.accepted("training_corpus", (corpus,))
            if embeddings.done()["inputs"]["corpus"] != stored.digest:
                # which compounds the corpus has seen must be said of the corpus that the embeddings were learned from
                raise WaitingError(f"{embeddings.name} was made from another corpus than the current one; materialize it first.")
            draft.add(f"embeddings:{corpus}", embeddings)
            draft.add(f"corpus:{corpus}", stored)
            corpora.append(corpus)
        arguments = {
            "corpora": corpora,
            "settings": self.store.representation_size(),
            "faithful": self.store.representation_is_faithful(),
            "identity": tables_checksum(),
            "left_out": left_out,
        }
        return [draft.part(key, arguments)]


class RepresentationReport(StagePlan):
    """One output, which names what it is not about."""

    def keys(self) -> list[Key]:
        return [COMPENDIUM] if self.planner.keys("training_corpus") else []

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [(stage, of) for stage in REPORTED_STAGES for of in self.planner.keys(stage)]

    def goes_without(self, stage: str, state: State) -> bool:
        return state in ("failed", "unaccepted")

    def parts(self, key: Key) -> list[Part]:
        draft, left_out = Draft(self), []
        usable = ("current", "unaccepted") if self.planner.allow_unaccepted else ("current",)
        for stage in REPORTED_STAGES:
            # what was made by hand, and is no corpus that is kept current, is reported as long as it is current
            for of in dict.fromkeys([*self.planner.keys(stage), *self.store.published_keys(stage)]):
                state, reason = self.planner.state(stage, of)
                if state in usable:
                    draft.add(f"{stage}/{'/'.join(of)}", draft.accepted(stage, of))
                else:
                    left_out.append(f"{stage} {' '.join(of)} is {state}{': ' if reason else ''}{reason}")
        if not draft.inputs:
            raise WaitingError("no training corpus is there yet; materialize training_corpus first.")
        return [draft.part(key, {"left_out": left_out})]
