"""Answers that a user's snapshot has grown by: what a service was asked, what it said, and which of several compounds is taken.

Each dataset has a file of its own, so that asking for one dataset makes no other stale, and two processes that ask for two datasets
do not wait for each other. Belongs here: the form of these answers, keeping them, choosing among candidates. Does not belong here:
asking (``pubchem.py``), or which compound leads to which question (``compounds.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from filelock import FileLock

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import file_checksum, written_whole

Kind = Literal["cid", "inchikey", "smiles", "cas", "name"]
State = Literal["found", "not_found", "failed", "not_asked", "expired"]

ANSWER_COLUMNS = (
    "kind",
    "query",
    "outcome",
    "pubchem_cid",
    "inchikey",
    "parent_key",
    "smiles",
    "title",
    "source",
    "date",
    "problem",
)
"""One row a candidate; a question that was not found, or failed, has one row without a PubChem id.

kind (``cid``, ``inchikey``, ``smiles``, ``cas``, ``name``) and query: the question. outcome: ``found``, ``not_found`` (the service
knows none), ``failed`` (it could not be asked, or did not understand). pubchem_cid, inchikey, parent_key, smiles, title: the
candidate. source and date (UTC, ISO 8601): who said so, and when. problem: why it failed.
"""

NOT_FOUND_HOLDS = timedelta(days=180)
"""For how long "not found" is believed: PubChem grows by some million compounds a year."""

ANSWERS = "answers"
"""Folder of the answers below the user's snapshot, one Parquet file a dataset."""


class Candidate(NamedTuple):
    """A compound that a service gives for a question."""

    pubchem_cid: int
    inchikey: str | None
    parent_key: str | None
    source: str
    date: str


class Choice(NamedTuple):
    """The candidate that is taken, of how many, and by which rule: ``only``, ``inchikey``, ``parent`` or ``lowest``."""

    candidate: Candidate
    n_candidates: int
    rule: str


def choose(candidates: Iterable[Candidate], inchikey: str | None, parent_key: str | None) -> Choice:
    """Take one of several candidates.

    The rule: a candidate with the asker's InChIKey; else one with the asker's parent structure; of several, or where neither is
    known, the lowest PubChem id.

    Parameters
    ----------
    candidates
        At least one.
    inchikey, parent_key
        What the asker knows of the compound.
    """
    there = sorted(set(candidates))
    same = {
        "inchikey": [candidate for candidate in there if inchikey and candidate.inchikey == inchikey],
        "parent": [candidate for candidate in there if parent_key and candidate.parent_key == parent_key],
        "lowest": there,
    }
    rule = next(rule for rule, fitting in same.items() if fitting)
    n_candidates = len({candidate.pubchem_cid for candidate in there})
    return Choice(same[rule][0], n_candidates, "only" if n_candidates == 1 else rule)


def no_answers() -> pd.DataFrame:
    """A table of answers with nothing in it."""
    return pd.DataFrame({name: [] for name in ANSWER_COLUMNS}, dtype=object).astype({"pubchem_cid": "Int64"})


def latest(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers that count where a question was asked more than once: the last, but a failure replaces nothing."""
    answers = answers.reset_index(drop=True)
    failed = answers["outcome"] == "failed"
    # the key of an asking; all candidates of one have the same date
    order = answers.assign(answered=~failed).sort_values(["answered", "date"], kind="stable")
    last = order.drop_duplicates(["kind", "query"], keep="last").set_index(["kind", "query"])["date"]
    counts = last.reindex(pd.MultiIndex.from_frame(answers[["kind", "query"]])).to_numpy() == answers["date"].to_numpy()
    counting: pd.DataFrame = answers[counts].drop_duplicates(["kind", "query", "pubchem_cid"]).reset_index(drop=True)
    return counting


class AskedAnswers:
    """Looking answers up by question.

    Parameters
    ----------
    table
        Columns ``ANSWER_COLUMNS``.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.candidates: dict[tuple[str, str], list[Candidate]] = {}
        self._outcomes: dict[tuple[str, str], tuple[State, str]] = {}
        columns = ["kind", "query", "outcome", "date", "pubchem_cid", "inchikey", "parent_key", "source"]
        for kind, query, outcome, date, cid, inchikey, parent_key, source in table[columns].itertuples(index=False):
            self._outcomes[kind, query] = (outcome, date)
            if outcome == "found":
                self.candidates.setdefault((kind, query), []).append(Candidate(int(cid), inchikey, parent_key, source, date))

    def state(self, kind: Kind, query: str, now: datetime | None = None) -> State:
        """What is known of a question.

        Parameters
        ----------
        kind, query
            The question.
        now
            Time by which an old ``not_found`` is ``expired``; without it, none is.
        """
        outcome, date = self._outcomes.get((kind, query), ("not_asked", ""))
        if outcome == "not_found" and now and now - datetime.fromisoformat(date) > NOT_FOUND_HOLDS:
            return "expired"
        return outcome

    def choose(self, kind: Kind, query: str, inchikey: str | None, parent_key: str | None) -> Choice | None:
        """The candidate that is taken for a question, None where none was found. See :func:`choose`."""
        candidates = self.candidates.get((kind, query))
        return choose(candidates, inchikey, parent_key) if candidates else None


# ---- kept in a folder --------------------------------------------------------------------------------------------------------


def answers_file(folder: Path, dataset: str) -> Path:
    """File of the answers of a dataset below a user's snapshot."""
    return folder / ANSWERS / f"{dataset}.parquet"


def read_answers(folder: Path, dataset: str | None = None) -> pd.DataFrame:
    """The answers of a dataset, or of all.

    Parameters
    ----------
    folder
        The user's snapshot; it need not exist.
    dataset
        Dataset id; without it the answers of all datasets, of each question the last.

    Raises
    ------
    InputError
        If a file is not one of answers.
    """
    files = [answers_file(folder, dataset)] if dataset else sorted((folder / ANSWERS).glob("*.parquet"))
    tables = [_read(file) for file in files if file.is_file()]
    return latest(pd.concat(tables, ignore_index=True)) if tables else no_answers()


def _read(file: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        frame: pd.DataFrame = pq.read_table(file, columns=list(ANSWER_COLUMNS)).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise InputError(
            f"cannot be read ({error})", file=file, expected="answers of a service", advice="Remove it and ask again."
        ) from error
    return frame


def remember(folder: Path, dataset: str, answers: pd.DataFrame) -> None:
    """Add answers to those of a dataset. Two processes may do so at once; a reader sees the file before or after, never half.

    Parameters
    ----------
    folder
        The user's snapshot, made where it is missing.
    dataset
        Dataset id.
    answers
        Columns ``ANSWER_COLUMNS``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if answers.empty:
        return
    file = answers_file(folder, dataset)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        earlier = [table for table in (read_answers(folder, dataset),) if len(table)]
        together = latest(pd.concat([*earlier, answers], ignore_index=True))
        together = together.sort_values(["kind", "query", "pubchem_cid"], ignore_index=True)
        schema = pa.schema([(name, pa.int64() if name == "pubchem_cid" else pa.string()) for name in ANSWER_COLUMNS])
        table = pa.Table.from_pandas(together[list(ANSWER_COLUMNS)], schema=schema, preserve_index=False)
        with written_whole(file) as aside:
            pq.write_table(table, aside, compression="zstd")


def answers_checksum(folder: Path, dataset: str) -> str | None:
    """SHA-256 of a dataset's answers, None where it has none."""
    file = answers_file(folder, dataset)
    return file_checksum(file) if file.is_file() else None


def present() -> datetime:
    """The present, UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
