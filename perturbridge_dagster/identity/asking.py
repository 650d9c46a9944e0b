"""Asking a service what the snapshot does not know of a dataset's compounds, and keeping what it says.

Belongs here: which question follows which answer, progress, keeping the answers as they come, so that a run that was cut off goes on
where it stopped. Does not belong here: requests (``pubchem.py``) or the command (``assets/ask_pubchem.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pandas as pd

from perturbridge_dagster.identity.answers import present, read_answers, remember
from perturbridge_dagster.identity.compounds import CompoundIdentity
from perturbridge_dagster.identity.structures import load_structures, read_structures, save_structures
from perturbridge_dagster.identity.tables import cleaned_text

SAVED_EVERY_S = 5.0
"""How long answers may wait to be written, in seconds."""


class Service(Protocol):
    """Who can be asked; see :meth:`perturbridge_dagster.identity.pubchem.PubChem.ask`."""

    def ask(self, questions: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Answers to questions, batch by batch."""


@dataclass(frozen=True)
class Asked:
    """What became of the questions of a run.

    Attributes
    ----------
    found, not_found, failed
        Questions by outcome.
    several
        Questions found with several compounds, of which one is taken by rule.
    taken_over
        Questions answered from the answers of another dataset, without a request.
    """

    found: int = 0
    not_found: int = 0
    failed: int = 0
    several: int = 0
    taken_over: int = 0

    def with_answers(self, answers: pd.DataFrame) -> Asked:
        """These counts and those of further answers."""
        questions = answers.groupby(["kind", "query"])
        outcomes = questions["outcome"].first().value_counts()
        return replace(
            self,
            found=self.found + int(outcomes.get("found", 0)),
            not_found=self.not_found + int(outcomes.get("not_found", 0)),
            failed=self.failed + int(outcomes.get("failed", 0)),
            several=self.several + int((questions["pubchem_cid"].nunique() >= 2).sum()),
        )


def ask_compounds(
    compounds: pd.DataFrame,
    dataset: str,
    identity: CompoundIdentity,
    folder: Path,
    service: Service,
    told: Callable[[str], None] = lambda line: None,
) -> Asked:
    """Ask what is not known of a dataset's compounds, and keep the answers.

    What another dataset has asked is taken over without a request. Questions go in the order of ``compounds.py``: a name is asked only
    once the InChIKey, SMILES and CAS number of its compound have led nowhere; and a structure is asked even where the tables know the
    name. One that fails is not asked again in this run, nor is what would follow it.

    Parameters
    ----------
    compounds, dataset
        As for :meth:`CompoundIdentity.report`.
    identity
        The answers there are; its ``asked`` are those of the dataset.
    folder
        The user's snapshot, to which answers are added every few seconds.
    service
        Who is asked.
    told
        Told, from time to time, how far it is.

    Returns
    -------
    Counts of questions.

    Raises
    ------
    PubChemUnavailableError
        If the service gives out. What it said is kept.
    """
    asked = Asked()
    known = identity
    elsewhere = read_answers(folder)
    failed: set[tuple[str, str]] = set()
    _remember_structures(compounds, folder)
    started, n_asked = time.monotonic(), 0
    while True:
        missing = known.missing_compounds(compounds, dataset, present())
        questions = missing[["kind", "query"]].drop_duplicates()
        questions = questions[~pd.MultiIndex.from_frame(questions).isin(list(failed))]
        if questions.empty:
            return asked
        taken = _taken_over(elsewhere, questions, known.asked)
        if len(taken):
            remember(folder, dataset, taken)
            n_taken = len(taken[["kind", "query"]].drop_duplicates())
            asked = replace(asked, taken_over=asked.taken_over + n_taken)
            told(f"{dataset}: {n_taken:,} answers taken over from other datasets")
        else:
            n_done = 0
            for answers in _kept(service.ask(questions), dataset, folder):
                asked = asked.with_answers(answers)
                failures = answers.loc[answers["outcome"] == "failed", ["kind", "query"]]
                failed |= set(failures.itertuples(index=False, name=None))
                n_new = len(answers[["kind", "query"]].drop_duplicates())
                n_done, n_asked = n_done + n_new, n_asked + n_new
                told(
                    f"{dataset}: {n_done:,} of {len(questions):,} questions by {', '.join(questions['kind'].unique())} asked; "
                    f"{asked.found:,} found, {asked.not_found:,} not found, {asked.failed:,} failed; "
                    f"{n_asked / max(time.monotonic() - started, 1e-3):.1f} questions/s"
                )
        known = replace(known, asked=read_answers(folder, dataset))


def _kept(batches: Iterator[pd.DataFrame], dataset: str, folder: Path) -> Iterator[pd.DataFrame]:
    """Batches of answers, which are kept every few seconds and at the end, however it ends: writing each would take longer than asking."""
    pending: list[pd.DataFrame] = []
    saved = time.monotonic()
    try:
        for answers in batches:
            pending.append(answers)
            yield answers
            if time.monotonic() - saved > SAVED_EVERY_S:
                remember(folder, dataset, pd.concat(pending))
                pending.clear()
                saved = time.monotonic()
    finally:
        if pending:
            remember(folder, dataset, pd.concat(pending))


def _taken_over(elsewhere: pd.DataFrame, questions: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Answers of other datasets to some questions, if they are later than our own."""
    answered = elsewhere[elsewhere["outcome"] != "failed"]
    mine = own[["kind", "query", "date"]].drop_duplicates(["kind", "query"])
    fitting = answered.merge(questions, on=["kind", "query"]).merge(mine, on=["kind", "query"], how="left", suffixes=("", "_own"))
    newer = fitting["date_own"].isna() | (fitting["date"] > fitting["date_own"])
    return fitting.loc[newer, list(elsewhere.columns)]


def _remember_structures(compounds: pd.DataFrame, folder: Path) -> None:
    """Keep what rdkit reads in the structures of a dataset, which takes longer than everything else once the answers are there."""
    remembered = load_structures(folder)
    smiles = cleaned_text(compounds["smiles"]).dropna().drop_duplicates()
    read = read_structures(smiles, remembered).set_axis(smiles)
    new = read[~read.index.isin(remembered.index)]
    if len(new):
        save_structures(folder, pd.concat([frame for frame in (remembered, new) if len(frame)]))
