"""What each partition needs: the requests that would make it from what is accepted now.

Assets run these requests, the sensor asks for the partitions whose requests are not met, coverage shows the difference, and
``materialize`` walks through them in order. So all four agree on what is missing, stale or waiting. Belongs here: stage and
partition → requests, and partition → state. Does not belong here: running anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from perturbridge_dagster.contract.representation import FURTHER_SPLITS
from perturbridge_dagster.errors import InputError, PerturbridgeError, UnacceptedInputError
from perturbridge_dagster.payloads.requests import Input, Request, failure_of
from perturbridge_dagster.registry import compendium_datasets, dataset_pairs, pair_key, split_pair_key
from perturbridge_dagster.registry import dataset as registered
from perturbridge_dagster.representation.embeddings import seeds_of
from perturbridge_dagster.stages import MODELS, STAGES
from perturbridge_dagster.written import read_parquet
from resources.store import SETTINGS, Key, Output, Store

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from perturbridge_dagster.published.layout import Release
    from perturbridge_dagster.representation.corpora import CorpusDefinition

State = Literal["current", "missing", "stale", "failed", "unaccepted", "waiting"]

COMPENDIUM = ("all",)
"""Key of the one output of a stage without partitions."""
EFFECTS_STAGES = {"grouped": "condition_effects", "separate": "replicate_effects"}
OP3_CORPORA, OP3_MODEL = ("l1000", "all", "all_without_op3"), "scalar_lpm"
"""Corpora and model of the embeddings that are evaluated on OP3, the first two as published."""
COMPENDIUM_INPUTS = {"matched": "matched_conditions", "scores": "cross_dataset_agreement", "replicates": "replicate_agreement"}
"""Kind of input of the agreement of the compendium → the stage it comes from, one for each of its keys."""
HOLDOUT_CORPUS = "all"
"""Corpus of which the split rules are studied."""
REPORTED_STAGES = ("training_corpus", "compound_embeddings", "holdout_evaluation", "op3_evaluation")
"""Stages of representation that its report is about, in its order."""
STRATUM_STAGES = (*EFFECTS_STAGES.values(), "published_comparison")
"""Stages whose partitions, a dataset and a cell context, have one output a stratum."""


class NotConfiguredError(PerturbridgeError):
    """A partition of a stage that the settings do not ask for; the message says what to add."""


class WaitingError(PerturbridgeError):
    """A partition whose inputs are not there yet; the message names them."""


@dataclass(frozen=True)
class Part:
    """One output of a partition: effects have one a stratum, every other stage has one."""

    stage: str
    key: Key
    request: Request


def _inherited(output: Output) -> dict[str, Any]:
    """What a file takes over from an input that is identified by its content alone: these must then identify the request too."""
    stamp = output.stamp()
    return {"licence": stamp.licence, "simulated": stamp.simulated}


def _part(store: Store, stage: str, key: Key, *, arguments: dict[str, Any], inputs: dict[str, Input], code: str = "") -> Part:
    """A part whose request is of this stage's code version, with `code` (versions of R packages, say) added to it."""
    version = "; ".join(filter(None, (STAGES[stage].code_version, code)))
    return Part(stage, key, Request(stage, arguments, inputs, version, str(store.folder(stage, key))))


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
        self._strata: dict[str, pd.DataFrame] = {}
        self._published: Release | None = None
        self._plans: dict[tuple[str, Key], list[Part]] = {}
        self._states: dict[tuple[str, Key], tuple[State, str]] = {}

    def plan(self, stage: str, key: Key) -> list[Part]:
        """The parts of a partition.

        Parameters
        ----------
        stage
            Name of a stage.
        key
            ``(dataset,)``, ``(dataset, cell_context)``, ``(dataset_pair,)``, ``(corpus,)``, ``(corpus, model)`` or ``COMPENDIUM``.

        Raises
        ------
        WaitingError
            If an input has not been materialized.
        UnacceptedInputError
            If an input has not passed its blocking checks.
        InputError
            If the key is not a real partition.
        """
        planners: dict[str, Callable[..., list[Part]]] = {
            "source_files": self._source_files,
            "harmonized_samples": self._harmonized_samples,
            "condition_effects": partial(self._effects, "grouped"),
            "replicate_effects": partial(self._effects, "separate"),
            "matched_conditions": self._matched_conditions,
            "cross_dataset_agreement": self._cross_dataset_agreement,
            "replicate_agreement": self._replicate_agreement,
            "compendium_agreement": self._compendium_agreement,
            "published_comparison": self._published_comparison,
            "training_corpus": self._training_corpus,
            "compound_embeddings": self._compound_embeddings,
            "holdout_evaluation": self._holdout_evaluation,
            "op3_evaluation": self._op3_evaluation,
            "representation_report": self._representation_report,
        }
        if (stage, key) not in self._plans:
            self._plans[stage, key] = planners[stage](*key)
        return self._plans[stage, key]

    def keys(self, stage: str) -> list[Key]:
        """The real partitions of a stage, as far as they are known now."""
        datasets = list(self.store.source_folders())
        if stage in ("source_files", "harmonized_samples"):
            return [(dataset,) for dataset in datasets]
        if stage == "replicate_agreement":
            return [(dataset,) for dataset in compendium_datasets(datasets)]
        if stage in EFFECTS_STAGES.values():
            return [
                (dataset, context)
                for dataset in datasets
                if self.store.current("harmonized_samples", (dataset,))
                for context in self.cell_contexts(dataset)
            ]
        if stage == "published_comparison":
            return self._published_keys()
        if stage in ("matched_conditions", "cross_dataset_agreement"):
            return [(pair_key(left, right),) for left, right in dataset_pairs(datasets) if self._may_share_a_context(left, right)]
        if stage == "compendium_agreement":
            return [COMPENDIUM] if self.keys("matched_conditions") else []
        if stage == "op3_evaluation":
            return [COMPENDIUM] if self.store.op3_benchmark_folder() else []
        if stage == "holdout_evaluation":
            return [(rule,) for rule, split in self._splits().items() if rule in FURTHER_SPLITS and split["suits"]]
        if stage == "representation_report":
            return [COMPENDIUM] if self.keys("training_corpus") else []
        if stage == "training_corpus":
            return [(corpus,) for corpus in self.kept_corpora()]
        # both models of the whole compendium; of its parts the one that the published embeddings are of
        return [(corpus, model) for corpus in self.kept_corpora() for model in (MODELS if corpus == "all" else MODELS[:1])]

    def outputs(self, stage: str, key: Key) -> list[Output]:
        """The current outputs of a partition, whatever made them: one a stratum for effects, else one at most."""
        keys = [key]
        if stage in STRATUM_STAGES:
            dataset, context = key
            strata = self.strata(dataset)
            keys = [(dataset, stratum) for stratum in strata.loc[strata["cell_type"] == context, "stratum"]]
        return [output for name in keys if (output := self.store.current(stage, name)) is not None]

    def upstream(self, stage: str, key: Key) -> list[tuple[str, Key]]:
        """The partitions that a partition is made from, apart from those its inputs are made from in turn."""
        if stage == "source_files":
            return []
        if stage == "harmonized_samples":
            return [("source_files", key)]
        if stage in EFFECTS_STAGES.values():
            return [("harmonized_samples", key[:1])]
        if stage == "published_comparison":
            return [("condition_effects", key)]
        if stage == "compound_embeddings":
            return [("training_corpus", key[:1])]
        if stage == "compendium_agreement":
            stages = ("matched_conditions", "cross_dataset_agreement", "replicate_agreement")
            return [(name, of) for name in stages for of in self.keys(name)]
        if stage == "holdout_evaluation":
            return [("training_corpus", (HOLDOUT_CORPUS,))]
        if stage == "op3_evaluation":
            return [("compound_embeddings", (corpus, OP3_MODEL)) for corpus in self._op3_corpora()]
        if stage == "representation_report":
            return [(name, of) for name in REPORTED_STAGES for of in self.keys(name)]
        mode = "separate" if stage == "replicate_agreement" else "grouped"
        if stage in ("matched_conditions", "cross_dataset_agreement"):
            contexts = self._compared_contexts(*split_pair_key(key[0]))
        else:
            datasets = key if stage == "replicate_agreement" else self.corpus_definition(key[0]).datasets
            contexts = {dataset: self.cell_contexts(dataset) for dataset in datasets}
        effects: list[tuple[str, Key]] = [
            (EFFECTS_STAGES[mode], (dataset, context)) for dataset, names in contexts.items() for context in names
        ]
        return [("matched_conditions", key), *effects] if stage == "cross_dataset_agreement" else effects

    def state(self, stage: str, key: Key) -> tuple[State, str]:
        """State of a partition and, where something is to say, why.

        Returns
        -------
        ``current``; ``missing`` (could be computed now); ``stale`` (its inputs or code changed); ``failed`` (it cannot be planned, or
        the last try with these inputs failed); ``unaccepted`` (a blocking check has not passed); ``waiting`` (a partition it is
        made from is itself neither current nor failed, so what could be computed now would soon be stale).
        """
        if (stage, key) not in self._states:
            self._states[stage, key] = self._state(stage, key)
        return self._states[stage, key]

    def _state(self, stage: str, key: Key) -> tuple[State, str]:
        try:
            for input_stage, input_key in self.upstream(stage, key):
                state, reason = self.state(input_stage, input_key)
                # a stratum whose fit failed, or a corpus whose training did, is left out; nothing can be made without the other stages
                left_out = state == "failed" and (input_stage in EFFECTS_STAGES.values() or stage == "op3_evaluation")
                # the report is of what there is, and names what failed
                left_out |= state in ("failed", "unaccepted") and stage == "representation_report"
                if state != "current" and not left_out:
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

    # ---- inputs --------------------------------------------------------------------------------------------------------------

    def _accepted(self, stage: str, key: Key, taints: list[str]) -> Output:
        """The current output of an input stage, refused unless accepted or allowed; its own taints are handed on."""
        output = self.store.current(stage, key)
        if output is None:
            raise WaitingError(f"{stage} {' '.join(key)} is not there yet; materialize it first.")
        taint = self.store.require_accepted(output, allow_unaccepted=self.allow_unaccepted)
        if taint:
            taints.append(taint)
        taints += output.stamp().unaccepted_inputs
        return output

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

    def corpus_definition(self, corpus: str) -> CorpusDefinition:
        """What a corpus takes of the configured datasets.

        Raises
        ------
        NotConfiguredError
            If that is none.
        """
        from perturbridge_dagster.representation.corpora import corpus_definition

        definition = corpus_definition(corpus, self.store.source_folders())
        if not definition.datasets:
            left_out = "; ".join(f"{dataset}: {reason}" for dataset, reason in definition.left_out.items())
            raise NotConfiguredError(
                f"corpus {corpus} takes none of the datasets that {self.store.root / SETTINGS} names"
                f"{f' ({left_out})' if left_out else ''}. {definition.meaning}"
            )
        return definition

    def kept_corpora(self) -> list[str]:
        """Names of the corpora that are kept current; any other is made by hand."""
        from perturbridge_dagster.representation.corpora import kept_corpora

        return [definition.name for definition in kept_corpora(self.store.source_folders())]

    def corpus(self, name: str) -> str | None:
        """The corpus kept current that has the datasets of a named one; None where none of these is configured."""
        from perturbridge_dagster.representation.corpora import stands_for

        return stands_for(name, self.store.source_folders())

    def _may_share_a_context(self, left: str, right: str) -> bool:
        """Whether two datasets have a cell context in common; so it may be as long as one of them is not harmonized."""
        if any(self.store.current("harmonized_samples", (dataset,)) is None for dataset in (left, right)):
            return True
        return bool(set(self.cell_contexts(left)) & set(self.cell_contexts(right)))

    def _compared_contexts(self, left: str, right: str) -> dict[str, list[str]]:
        """Cell contexts of two datasets of which the effects are compared: those that both have, so that no other makes the pair stale.

        Raises
        ------
        InputError
            If there is none.
        """
        shared = sorted(set(self.cell_contexts(left)) & set(self.cell_contexts(right)))
        if not shared:
            raise InputError(f"{left} and {right} have no cell context in common, so there is nothing to compare")
        return dict.fromkeys((left, right), shared)

    def _effects_inputs(self, mode: str, contexts: Mapping[str, Iterable[str]], taints: list[str]) -> tuple[dict[str, Input], list[str]]:
        """Current effects of every stratum of some cell contexts of datasets, and the strata left out because their fit failed."""
        inputs, left_out = {}, []
        for dataset, names in contexts.items():
            for context in names:
                for part in self.plan(EFFECTS_STAGES[mode], (dataset, context)):
                    if failure_of(part.request):
                        left_out.append(" ".join(part.key))
                        continue
                    output = self._accepted(part.stage, part.key, taints)
                    inputs["/".join(part.key)] = Input(str(output.folder), output.digest)
        return inputs, left_out

    # ---- one planner a stage -------------------------------------------------------------------------------------------------

    def _source_files(self, dataset: str) -> list[Part]:
        from perturbridge_dagster.sources import locate_files

        folder = self.store.source_folder(dataset)
        try:
            files = sorted(file for group in locate_files(dataset, folder).values() for file in group)
        except InputError:
            if not self.store.is_downloaded(dataset):
                raise
            files = []  # to be fetched: the asset does that, and plans again
        listing = [[str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        checksum = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
        # the folder is what this stage records, so files that have moved are recorded again
        arguments = {"dataset": dataset, "folder": str(folder), "licence": registered(dataset).licence.class_}
        return [_part(self.store, "source_files", (dataset,), arguments=arguments, inputs={"folder": Input(str(folder), checksum)})]

    def _harmonized_samples(self, dataset: str) -> list[Part]:
        from perturbridge_dagster.identity.snapshot import FOLDER, grown_version
        from perturbridge_dagster.identity.tables import tables_checksum

        taints: list[str] = []
        output = self._accepted("source_files", (dataset,), taints)
        manifest = json.loads((output.folder / "source_files.json").read_text())
        arguments = {
            "dataset": dataset,
            "registry": registered(dataset).checksum,
            "identity": tables_checksum(),
            "unaccepted_inputs": sorted(set(taints)),
            **_inherited(output),
        }
        inputs = {"source_files": Input(str(output.folder), manifest["checksum"])}
        answers = self.store.root / FOLDER
        if grown := grown_version(answers, dataset):
            inputs["identity"] = Input(str(answers), grown)
        return [_part(self.store, "harmonized_samples", (dataset,), arguments=arguments, inputs=inputs)]

    def _effects(self, mode: str, dataset: str, cell_context: str) -> list[Part]:
        from perturbridge_dagster.effects.r import r_code_version

        stage = EFFECTS_STAGES[mode]
        taints: list[str] = []
        samples = self._accepted("harmonized_samples", (dataset,), taints)
        strata = self.strata(dataset)
        chosen = strata[strata["cell_type"] == cell_context]
        if chosen.empty:
            raise InputError(
                f"no samples of cell context {cell_context}", dataset=dataset, expected=f"one of {', '.join(self.cell_contexts(dataset))}"
            )
        return [
            _part(
                self.store,
                stage,
                (dataset, row["stratum"]),
                arguments={
                    "dataset": dataset,
                    "stratum": row["stratum"],
                    "replicates": mode,
                    "engine": "structured",
                    **registered(dataset).effects.model_dump(mode="json"),
                    "unaccepted_inputs": sorted(set(taints)),
                    **_inherited(samples),
                },
                inputs={"samples": Input(str(samples.folder / row["file"]), row["checksum"])},
                code=r_code_version(),
            )
            for row in chosen.to_dict("records")
        ]

    def _chosen(self, stage: str) -> dict[str, Any]:
        """Options of agreement that a stage takes, as the settings choose them."""
        from perturbridge_dagster.agreement.options import TAKEN

        options = self.store.agreement_options()
        return {name: getattr(options, name) for name in TAKEN[stage]}

    def _matched_conditions(self, pair: str) -> list[Part]:
        taints: list[str] = []
        left, right = split_pair_key(pair)
        inputs, left_out = self._effects_inputs("grouped", self._compared_contexts(left, right), taints)
        arguments = {
            "left": left,
            "right": right,
            **self._chosen("matched_conditions"),
            "left_out": left_out,
            "unaccepted_inputs": sorted(set(taints)),
        }
        return [_part(self.store, "matched_conditions", (pair,), arguments=arguments, inputs=inputs)]

    def _cross_dataset_agreement(self, pair: str) -> list[Part]:
        taints: list[str] = []
        matched = self._accepted("matched_conditions", (pair,), taints)
        left, right = split_pair_key(pair)
        inputs, _ = self._effects_inputs("grouped", self._compared_contexts(left, right), taints)
        if matched.done()["inputs"] != {name: value.checksum for name, value in inputs.items()}:
            # matches name contrasts by number, and numbers of other effects are other contrasts
            raise WaitingError(f"matched_conditions {pair} was made from other effects than the current ones; materialize it first.")
        inputs["matched"] = Input(str(matched.folder), matched.digest)
        chosen = self._chosen("cross_dataset_agreement")
        arguments = {"left": left, "right": right, **chosen, "unaccepted_inputs": sorted(set(taints))}
        return [_part(self.store, "cross_dataset_agreement", (pair,), arguments=arguments, inputs=inputs)]

    def _replicate_agreement(self, dataset: str) -> list[Part]:
        taints: list[str] = []
        inputs, left_out = self._effects_inputs("separate", {dataset: self.cell_contexts(dataset)}, taints)
        chosen = self._chosen("replicate_agreement")
        arguments = {"dataset": dataset, **chosen, "left_out": left_out, "unaccepted_inputs": sorted(set(taints))}
        return [_part(self.store, "replicate_agreement", (dataset,), arguments=arguments, inputs=inputs)]

    def _compendium_agreement(self, _: str) -> list[Part]:
        taints: list[str] = []
        datasets = compendium_datasets(self.store.source_folders())
        inputs, left_out = self._effects_inputs("grouped", {dataset: self.cell_contexts(dataset) for dataset in datasets}, taints)
        for kind, stage in COMPENDIUM_INPUTS.items():
            for key in self.keys(stage):
                output = self._accepted(stage, key, taints)
                if not self.store.is_current(stage, key, self.plan(stage, key)[0].request):
                    raise WaitingError(f"{output.name} was made from other effects than the current ones; materialize it first.")
                inputs[f"{kind}:{key[0]}"] = Input(str(output.folder), output.digest)
        # which datasets are configured decides the genes that all have, and which matches L1000 alone supports
        arguments = {
            "datasets": datasets,
            **self._chosen("compendium_agreement"),
            "left_out": left_out,
            "unaccepted_inputs": sorted(set(taints)),
        }
        return [_part(self.store, "compendium_agreement", COMPENDIUM, arguments=arguments, inputs=inputs)]

    def _release(self) -> Release | None:
        """The published release, where a folder of it is configured."""
        from perturbridge_dagster.published.layout import Release

        folder = self.store.published_folder()
        if self._published is None and folder is not None:
            self._published = Release(folder)
        return self._published

    def _published_files(self, dataset: str) -> dict[str, list[Path]]:
        """Published files of effects of each stratum of a dataset; none where the release, or its folder, does not have them."""
        release = self._release()
        return release.strata(dataset, min_cells=registered(dataset).effects.min_cells) if release else {}

    def _published_keys(self) -> list[Key]:
        """Datasets and cell contexts of which the configured release has effects; every one where its folder is not there, to say so."""
        release = self._release()
        if release is None:
            return []
        return [
            (dataset, context)
            for dataset, context in self.keys("condition_effects")
            if not release.folder.is_dir() or set(self._strata_of(dataset, context)["stratum"]) & set(self._published_files(dataset))
        ]

    def _strata_of(self, dataset: str, cell_context: str) -> pd.DataFrame:
        strata = self.strata(dataset)
        return strata[strata["cell_type"] == cell_context]

    def _published_comparison(self, dataset: str, cell_context: str) -> list[Part]:
        from perturbridge_dagster.effects.r import r_code_version

        release = self._release()
        if release is None:
            raise NotConfiguredError(
                f"published_comparison is not configured: {self.store.root / SETTINGS} names no folder of the published release. Add "
                '[published] with a line folder = "folder with its files"; docs/published-release.md says how to have them.'
            )
        release.require_folder()
        files = self._published_files(dataset)
        strata = self._strata_of(dataset, cell_context).set_index("stratum")
        parts = []
        for effects in self.plan("condition_effects", (dataset, cell_context)):
            stratum = effects.key[-1]
            if stratum not in files or failure_of(effects.request):
                continue
            taints: list[str] = []
            output = self._accepted("condition_effects", effects.key, taints)
            # the samples that the effects were made of, with which the release's batches are fitted again
            samples = self._accepted("harmonized_samples", (dataset,), taints)
            row = strata.loc[stratum]
            listing = [[str(file.relative_to(release.folder)), file.stat().st_size, file.stat().st_mtime_ns] for file in files[stratum]]
            parts.append(
                _part(
                    self.store,
                    "published_comparison",
                    effects.key,
                    arguments={
                        "dataset": dataset,
                        "stratum": stratum,
                        "files": [name for name, *_ in listing],
                        "unaccepted_inputs": sorted(set(taints)),
                    },
                    inputs={
                        "effects": Input(str(output.folder), output.digest),
                        "samples": Input(str(samples.folder / str(row["file"])), str(row["checksum"])),
                        "published": Input(str(release.folder), hashlib.sha256(json.dumps(listing).encode()).hexdigest()),
                    },
                    code=r_code_version(),
                )
            )
        if not parts:
            raise InputError(
                f"the published release has no effects of a stratum of cell context {cell_context} that we have",
                dataset=dataset,
                file=release.folder,
                expected=f"files of {', '.join(sorted(strata.index))}; it has {', '.join(files) or 'nothing of this dataset'}",
            )
        return parts

    def _training_corpus(self, corpus: str) -> list[Part]:
        taints: list[str] = []
        datasets = self.corpus_definition(corpus).datasets
        contexts = {dataset: self.cell_contexts(dataset) for dataset in datasets}
        inputs, left_out = self._effects_inputs("grouped", contexts, taints)
        if not inputs:
            raise WaitingError("no effects are there yet; materialize condition_effects first.")
        for dataset in {name.split("/")[0] for name in inputs}:
            inputs[f"samples:{dataset}"] = self._obs_input(dataset, taints)
        arguments = {
            "corpus": corpus,
            "datasets": list(datasets),
            "seed": 13,
            "left_out": left_out,
            "unaccepted_inputs": sorted(set(taints)),
        }
        return [_part(self.store, "training_corpus", (corpus,), arguments=arguments, inputs=inputs)]

    def _obs_input(self, dataset: str, taints: list[str]) -> Input:
        """The table of a dataset's samples, known by the content of its strata as effects are, so that it makes nothing else stale."""
        samples = self._accepted("harmonized_samples", (dataset,), taints)
        content = sorted(self.strata(dataset)[["stratum", "checksum"]].to_numpy().tolist())
        return Input(str(samples.folder / "obs.parquet"), hashlib.sha256(json.dumps(content).encode()).hexdigest())

    def _compound_embeddings(self, corpus: str, model: str) -> list[Part]:
        taints: list[str] = []
        output = self._accepted("training_corpus", (corpus,), taints)
        size = self.store.representation_size()
        arguments = {
            "corpus": corpus,
            "model": model,
            "settings": size,
            "seeds": list(seeds_of(size, model, corpus)),
            "processes": self.store.representation_processes(),
            "unaccepted_inputs": sorted(set(taints)),
        }
        inputs = {"corpus": Input(str(output.folder), output.digest)}
        return [_part(self.store, "compound_embeddings", (corpus, model), arguments=arguments, inputs=inputs)]

    def _op3_corpora(self) -> list[str]:
        """Corpora whose embeddings are evaluated on OP3, as they are kept current; those of the same datasets count once."""
        found = dict.fromkeys(corpus for name in OP3_CORPORA if (corpus := self.corpus(name)) is not None)
        return [corpus for corpus in found if (corpus, OP3_MODEL) in self.keys("compound_embeddings")]

    def _op3_evaluation(self, _: str) -> list[Part]:
        from perturbridge_dagster.identity.snapshot import FOLDER, grown_version
        from perturbridge_dagster.identity.tables import tables_checksum
        from perturbridge_dagster.sources import locate_files

        folder = self.store.op3_benchmark_folder()
        if folder is None:
            raise NotConfiguredError(
                f"op3_evaluation is not configured: {self.store.root / SETTINGS} names no folder of the OP3 benchmark. Add "
                '[op3_benchmark] with a line folder = "folder with its files".'
            )
        files = sorted(file for group in locate_files("op3_benchmark", folder).values() for file in group)
        listing = [[str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        inputs = {"benchmark": Input(str(folder), hashlib.sha256(json.dumps(listing).encode()).hexdigest())}
        answers = self.store.root / FOLDER
        if grown := grown_version(answers, "op3"):
            inputs["identity"] = Input(str(answers), grown)
        taints: list[str] = []
        corpora, left_out = [], {}
        for corpus in self._op3_corpora():
            state, reason = self.state("compound_embeddings", (corpus, OP3_MODEL))
            if state == "failed":
                left_out[f"{OP3_MODEL} of corpus {corpus}"] = reason
                continue
            embeddings = self._accepted("compound_embeddings", (corpus, OP3_MODEL), taints)
            stored = self._accepted("training_corpus", (corpus,), taints)
            if embeddings.done()["inputs"]["corpus"] != stored.digest:
                # which compounds the corpus has seen must be said of the corpus that the embeddings were learned from
                raise WaitingError(f"{embeddings.name} was made from another corpus than the current one; materialize it first.")
            inputs |= {
                f"embeddings:{corpus}": Input(str(embeddings.folder), embeddings.digest),
                f"corpus:{corpus}": Input(str(stored.folder), stored.digest),
            }
            corpora.append(corpus)
        arguments = {
            "corpora": corpora,
            "settings": self.store.representation_size(),
            "faithful": self.store.representation_is_faithful(),
            "identity": tables_checksum(),
            "left_out": left_out,
            "unaccepted_inputs": sorted(set(taints)),
        }
        return [_part(self.store, "op3_evaluation", COMPENDIUM, arguments=arguments, inputs=inputs)]

    def _splits(self) -> dict[str, dict[str, Any]]:
        """Split rule → what the current corpus says of it; nothing before there is one."""
        output = self.store.current("training_corpus", (HOLDOUT_CORPUS,))
        splits: dict[str, dict[str, Any]] = json.loads((output.folder / "corpus.json").read_text()).get("splits", {}) if output else {}
        return splits

    def _holdout_evaluation(self, rule: str) -> list[Part]:
        taints: list[str] = []
        output = self._accepted("training_corpus", (HOLDOUT_CORPUS,), taints)
        split = self._splits().get(rule, {"suits": False, "reason": "the corpus was made by an earlier version"})
        if not split["suits"]:
            raise InputError(
                f"split rule {rule} does not suit corpus {HOLDOUT_CORPUS}: {split['reason']}",
                expected=f"one of {', '.join(name for (name,) in self.keys('holdout_evaluation'))}",
            )
        arguments = {
            "corpus": HOLDOUT_CORPUS,
            "rule": rule,
            "settings": self.store.representation_size(),
            "faithful": self.store.representation_is_faithful(),
            "unaccepted_inputs": sorted(set(taints)),
        }
        inputs = {"corpus": Input(str(output.folder), output.digest)}
        return [_part(self.store, "holdout_evaluation", (rule,), arguments=arguments, inputs=inputs)]

    def _representation_report(self, _: str) -> list[Part]:
        taints: list[str] = []
        inputs, left_out = {}, []
        usable = ("current", "unaccepted") if self.allow_unaccepted else ("current",)
        for stage in REPORTED_STAGES:
            # what was made by hand, and is no corpus that is kept current, is reported as long as it is current
            for key in dict.fromkeys([*self.keys(stage), *self.store.published_keys(stage)]):
                state, reason = self.state(stage, key)
                if state in usable:
                    output = self._accepted(stage, key, taints)
                    inputs[f"{stage}/{'/'.join(key)}"] = Input(str(output.folder), output.digest)
                else:
                    left_out.append(f"{stage} {' '.join(key)} is {state}{': ' if reason else ''}{reason}")
        if not inputs:
            raise WaitingError("no training corpus is there yet; materialize training_corpus first.")
        arguments = {"left_out": left_out, "unaccepted_inputs": sorted(set(taints))}
        return [_part(self.store, "representation_report", COMPENDIUM, arguments=arguments, inputs=inputs)]
