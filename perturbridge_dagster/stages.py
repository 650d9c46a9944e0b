"""The stages of the flow, in order: where each writes, which version its code has, and which checks judge it.

Belongs here: what every part of the platform must know of a stage. Does not belong here: what a stage does (its package) or how
Dagster shows it (``assets/``).
"""

from __future__ import annotations

from dataclasses import dataclass

SUITE_VERSION = "3"
"""Version of the rules of all checks. Raise it when a rule changes: what earlier rules accepted must be judged again."""


@dataclass(frozen=True)
class Check:
    """One family of checks on a stage's output.

    Attributes
    ----------
    name
        Name of the asset check.
    blocking
        Whether consumers refuse an output that has not passed it.
    meaning
        What it looks at, for the UI.
    """

    name: str
    blocking: bool
    meaning: str


@dataclass(frozen=True)
class Stage:
    """One stage of the flow.

    Attributes
    ----------
    name
        Name of the stage: its asset key, and the ``stage`` of its stamps.
    folder
        Folder below the platform's home.
    code_version
        Declared version of the stage's code. Raise it when the same input would give other numbers; outputs made by an
        earlier version are then stale.
    checks
        Checks that judge its output.
    light
        Whether the task runs inside the Dagster process rather than as a payload.
    """

    name: str
    folder: str
    code_version: str
    checks: tuple[Check, ...]
    light: bool = False

    @property
    def blocking_checks(self) -> tuple[str, ...]:
        """Names of the checks that an output must have passed before a consumer takes it."""
        return tuple(check.name for check in self.checks if check.blocking)


_STAGES = (
    Stage(
        "source_files",
        "sources",
        "1",
        (Check("files_unchanged", True, "The native files on disk still have the size and modification time that were recorded."),),
        light=True,
    ),
    Stage(
        "harmonized_samples",
        "harmonized",
        "4",
        (
            Check("schema", True, "Every obs and var field of the contract is there, typed, and within its vocabulary."),
            Check("identity", True, "Samples and genes are unique; perturbagens and cell contexts are named, not numbers or header rows."),
            Check("chemistry", True, "PubChem ids and InChIKeys are well formed; enough treated samples have a PubChem id or a structure."),
            Check(
                "dose_time",
                True,
                "Doses and times are in bounds; controls have dose 0, treated samples a positive dose and a nominal one near it.",
            ),
            Check("controls", True, "Every cell context has vehicle controls; treated times without controls are named."),
            Check(
                "counts",
                True,
                "Sample totals are positive, the reconciliation from source rows to samples adds up, and every dropped gene has a reason.",
            ),
            Check("expectations", False, "Counts of the full source are those that the registry expects; the sample has no part in this."),
        ),
    ),
    Stage(
        "condition_effects",
        "effects/condition",
        "2",
        (
            Check("values", True, "log fold changes are finite, P values lie in [0, 1], and tables agree in size and in genes."),
            Check("estimable", False, "Contrasts whose condition shares no chain of plates with its controls are named."),
            Check("gene_support", False, "Few tested genes have little support: under 2 samples, or 2 %, above the filter's cut-off."),
        ),
    ),
    Stage(
        "replicate_effects",
        "effects/replicate",
        "2",
        (
            Check("values", True, "log fold changes are finite, P values lie in [0, 1], and tables agree in size and in genes."),
            Check("estimable", False, "Contrasts whose replicate shares no chain of plates with its controls are named."),
            Check("gene_support", False, "Few tested genes have little support: under 2 samples, or 2 %, above the filter's cut-off."),
        ),
    ),
    Stage(
        "matched_conditions",
        "agreement/matched",
        "3",
        (
            Check(
                "matching", True, "Matched conditions agree in compound, cell context and time and lie within the dose gap, each pair once."
            ),
            Check("overlap", False, "Conditions match where both datasets measured a compound; where they cannot, says why."),
        ),
        light=True,
    ),
    Stage(
        "cross_dataset_agreement",
        "agreement/cross_dataset",
        "3",
        (
            Check("scores", True, "Every metric lies in its range and every match is scored once by each."),
            Check("intervals", True, "Means, counts and intervals of the summaries fit each other; missing intervals say why."),
            Check("enough_compounds", False, "Enough compounds stand behind the mean of every metric that has one."),
        ),
    ),
    Stage(
        "replicate_agreement",
        "agreement/replicates",
        "5",
        (
            Check("scores", True, "Every metric lies in its range and every pair of replicates is scored once by each."),
            Check("intervals", True, "Means, counts and intervals of the summaries fit each other; missing intervals say why."),
            Check("replicates_agree", False, "Replicates of a condition agree more than replicates of different compounds."),
        ),
    ),
    Stage(
        "compendium_agreement",
        "agreement/compendium",
        "4",
        (
            Check("scores", True, "Every metric lies in its range and every match is scored once by each, over each set of genes."),
            Check("intervals", True, "Means, counts and intervals of the summaries fit each other; missing intervals say why."),
            Check("options", True, "What a named option kept and what it dropped add up to what was matched."),
        ),
    ),
    Stage(
        "published_comparison",
        "agreement/published",
        "2",
        (
            Check(
                "scores", True, "Every measure lies in its range, and every published row is compared with one contrast of ours at most."
            ),
            Check("agrees", False, "Our effects agree with the published ones, or batches, doses and names explain where they do not."),
        ),
    ),
    Stage(
        "training_corpus",
        "corpora",
        "4",
        (
            Check("definition", True, "The corpus has the datasets that its definition takes, and none that it leaves out."),
            Check("values", True, "Values are finite, doses positive, and no condition occurs twice."),
            Check(
                "split_promise", True, "Every split that suits the corpus keeps its promises: what is held out by its rule is not trained."
            ),
        ),
    ),
    Stage(
        "compound_embeddings",
        "embeddings",
        "4",
        (
            Check("vectors", True, "Every perturbation has one finite vector a seed."),
            Check("licence", True, "Vectors say that they may be redistributed if, and only if, every dataset of the corpus may be."),
            Check("profile_scores", True, "Every score lies in the range of its metric, and all predictors are scored on the same."),
            Check("beats_baselines", False, "On the test split the model predicts better than means and than what similar structures do."),
        ),
    ),
    Stage(
        "holdout_evaluation",
        "evaluations/holdout",
        "3",
        (
            Check("scores", True, "Every dataset that can be scored is scored by every predictor and seed, and intervals fit their means."),
            Check(
                "split_promise",
                True,
                "No run was trained on what it was scored on; every run was trained on all of its data, each value as often as any other.",
            ),
            Check("beats_baselines", False, "On every dataset a variant is surely better than the best baseline."),
        ),
    ),
    Stage(
        "op3_evaluation",
        "evaluations/op3",
        "2",
        (
            Check("scores", True, "Every predictor is scored once a seed, subset and metric, within the range of the metric."),
            Check("held_out", True, "No compound is in train and test, and those seen and unseen by a corpus make all held-out ones."),
            Check("intervals", True, "Means, differences and intervals are what the contract says of them."),
            Check("beats_baselines", False, "The best network predicts held-out compounds better than what needs no network."),
        ),
    ),
    Stage(
        "representation_report",
        "evaluations/report",
        "2",
        (
            Check("parts", True, "The report names every output that it is made of, and every model beside every baseline, once."),
            Check("complete", False, "Every corpus, model and evaluation that is kept current is in the report."),
        ),
    ),
)

STAGES = {stage.name: stage for stage in _STAGES}
"""Every stage that writes data, by name, in the order of the flow."""

SIZES = ("small", "published")
"""Sizes of what models are trained with: for the sample, in minutes; as published, for the whole compendium on a GPU."""

MODELS = ("scalar_lpm", "multi_output_lpm")
"""Models that compound_embeddings trains; every other predictor of an evaluation is a baseline."""
