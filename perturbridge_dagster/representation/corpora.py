"""The named corpora: which datasets each takes, and why it leaves the others out.

Belongs here: the definitions, by name, and which of them are kept current. Does not belong here: writing a corpus (``corpus.py``), or which
datasets are configured (``resources/store.py``).

A definition is a rule, not a list: it says of each dataset that there is whether the corpus takes it. So a new dataset enters the corpora
that it belongs to, and a check can ask the same rule whether a corpus has what it should leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError

SINGLE = "single:"
"""Before the id of a dataset: the corpus of that dataset alone."""

L1000 = ("l1000_phase1", "l1000_phase2")
"""Datasets of the corpus ``l1000``."""

OP3 = "op3"
"""The dataset that the OP3 evaluation tests on."""


@dataclass(frozen=True)
class CorpusDefinition:
    """What a named corpus takes and leaves out.

    Attributes
    ----------
    name
        Its name, the key of its partition.
    meaning
        What it takes and what it is for, in a sentence.
    datasets
        Datasets it takes, of those asked about, in registry order.
    left_out
        Dataset → why it is left out.
    """

    name: str
    meaning: str
    datasets: tuple[str, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Name, meaning and datasets, for ``corpus.json``. The meaning says what is left out: naming it here would make a corpus another
        one whenever a dataset is configured that it has no part in.
        """
        return {"name": self.name, "meaning": self.meaning, "datasets": list(self.datasets)}


@dataclass(frozen=True)
class _Rule:
    """Meaning of a corpus, and dataset → why the corpus leaves it out; None where it takes it."""

    meaning: str
    left_out: Callable[[registry.Dataset], str | None]


def _is_l1000(dataset: registry.Dataset) -> str | None:
    return None if dataset.id in L1000 else "it is not L1000"


def _is_not_op3(dataset: registry.Dataset) -> str | None:
    return "the OP3 evaluation tests on it" if dataset.id == OP3 else None


def _is_open(dataset: registry.Dataset) -> str | None:
    return None if dataset.licence.class_ == "open" else f"it may not be redistributed (licence: {dataset.licence.name})"


_RULES = {
    "all": _Rule("Every dataset.", lambda _: None),
    "l1000": _Rule("Both phases of L1000, and nothing else.", _is_l1000),
    "all_without_op3": _Rule("Every dataset except OP3, so that what is learned can be tested on OP3.", _is_not_op3),
    "open": _Rule(
        "The datasets that may be redistributed, and no other: a release may carry what is learned from them. Private screens, and those "
        "whose terms are not known, may not.",
        _is_open,
    ),
}

CORPORA = tuple(_RULES)
"""Names of the corpora of several datasets. Beside them ``single:<dataset>`` is the corpus of one."""


def _rule(name: str) -> _Rule:
    if name in _RULES:
        return _RULES[name]
    chosen = name.removeprefix(SINGLE)
    if chosen == name:
        raise InputError(f"no corpus is called {name!r}", expected=f"one of {', '.join(CORPORA)}, or {SINGLE} and a dataset")
    label = registry.dataset(chosen).label
    return _Rule(f"{label} alone.", lambda dataset: None if dataset.id == chosen else f"it is not {chosen}")


def why_left_out(name: str, dataset: str) -> str | None:
    """Why a corpus leaves a dataset out; None where it takes it.

    Parameters
    ----------
    name
        Name of a corpus.
    dataset
        A registered dataset, or a screen of the user's own.

    Raises
    ------
    InputError
        If no corpus is called so, or the dataset is not known.
    """
    rule, entry = _rule(name), registry.dataset(dataset)
    if not registry.corpus_datasets([dataset]):
        return f"it contains {', '.join(entry.contains)}, and what it has beyond is held out for validation"
    return rule.left_out(entry)


def corpus_definition(name: str, datasets: Iterable[str]) -> CorpusDefinition:
    """What a corpus takes of some datasets, and what it leaves out.

    Parameters
    ----------
    name
        A name of :data:`CORPORA`, or ``single:<dataset>``.
    datasets
        Ids of the datasets there are, in any order.

    Raises
    ------
    InputError
        If no corpus is called so, or a dataset is not known.
    """
    reasons = {dataset: why_left_out(name, dataset) for dataset in registry.in_order(datasets)}
    return CorpusDefinition(
        name,
        _rule(name).meaning,
        tuple(dataset for dataset, reason in reasons.items() if reason is None),
        {dataset: reason for dataset, reason in reasons.items() if reason is not None},
    )


def corpus_names(datasets: Iterable[str]) -> list[str]:
    """Every corpus that can be made of some datasets, whether it is kept current or not."""
    return [*CORPORA, *(f"{SINGLE}{dataset}" for dataset in registry.corpus_datasets(datasets))]


def kept_corpora(datasets: Iterable[str]) -> list[CorpusDefinition]:
    """The corpora that are kept current: those of :data:`CORPORA` that have a dataset, and not the same ones as a corpus before them.

    Nothing new could be learned from the same datasets again; :func:`stands_for` says which corpus has them. A corpus of one dataset is
    made on demand.
    """
    ids = list(datasets)
    kept: list[CorpusDefinition] = []
    for name in CORPORA:
        definition = corpus_definition(name, ids)
        if definition.datasets and definition.datasets not in [one.datasets for one in kept]:
            kept.append(definition)
    return kept


def stands_for(name: str, datasets: Iterable[str]) -> str | None:
    """The corpus kept current that has the datasets of a named one: itself, or one before it; None where it has no dataset.

    Parameters
    ----------
    name
        A name of :data:`CORPORA`.
    datasets
        Ids of the datasets there are.
    """
    ids = list(datasets)
    wanted = corpus_definition(name, ids).datasets
    return next((kept.name for kept in kept_corpora(ids) if kept.datasets == wanted), None)
