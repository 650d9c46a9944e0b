"""Compounds: from a source's ids, names and structures to PubChem ids, InChIKeys and the key of the parent structure.

Answers count in this order, and the first holds:

1. ``curated``: an entry made by hand for the dataset's id or name;
2. ``source``: the PubChem id that the source itself gives;
3. ``inchikey``: the source's InChIKey;
4. ``smiles``: the InChIKey that rdkit computes from the source's SMILES, or the SMILES itself as PubChem reads it;
5. ``catalogue``: the vendor's catalogue number, by a table of the vendor;
6. ``cas``: the CAS registry number;
7. ``name``: the name.

A name or a CAS number does not answer against the structure that the source gives: not with another parent structure; and, until PubChem
has said that it does not know the structure, not with another salt or stereoisomer either. What they do answer until then is provisional:
the structure is still listed as a question, and its answer replaces theirs. Where a question has several compounds for an answer, one is
taken by the rule of :func:`perturbridge_dagster.identity.answers.choose`.

Belongs here: that order, and what is still to be asked. Does not belong here: reading structures (``structures.py``), asking PubChem
(``pubchem.py``): it adds rows to the answers that :class:`CompoundIdentity` is given, and looking up stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.answers import AskedAnswers, Candidate, Kind, State, no_answers
from perturbridge_dagster.identity.names import name_stages, spelled_name
from perturbridge_dagster.identity.structures import no_structures, read_structures
from perturbridge_dagster.identity.tables import cleaned_text, for_dataset

INPUT_COLUMNS = ("source_perturbagen_id", "perturbagen", "inchikey", "smiles", "pubchem_cid")
OPTIONAL_COLUMNS = ("cas", "catalogue_id")
IDENTITY_COLUMNS = ("pubchem_cid", "pubchem_cid_source", "inchikey", "smiles", "parent_key")
REPORT_COLUMNS = (
    *IDENTITY_COLUMNS,
    "outcome",
    "answer_query",
    "answer_source",
    "answer_date",
    "n_candidates",
    "candidate_rule",
    "structure_pubchem_cid",
    "inchikey_unreadable",
    "smiles_unreadable",
    "cas_unreadable",
)
QUESTION_COLUMNS = ("source_perturbagen_id", "perturbagen", "kind", "query", "state")

_OPEN = frozenset({"not_asked", "failed", "expired"})
"""States of a question that is still to be asked."""

_NO_STEREO = "UHFFFAOYSA"
"""Second block of the InChIKey of a structure without stereo centres or isotopes."""

_INCHIKEY = r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$"
_CAS = r"^(?:CAS(?:\s*(?:No\.?|RN))?[:\s-]*)?0*(\d{2,7}-\d{2}-\d)$"


def cleaned_inchikey(values: pd.Series) -> pd.Series:
    """InChIKeys without the prefix ``InChIKey=``; None where the value is missing or is no InChIKey."""
    text = cleaned_text(values).astype("string").str.replace(r"^InChIKey=", "", regex=True, case=False).str.strip()
    return text.astype(object).where(text.str.fullmatch(_INCHIKEY).fillna(False).astype(bool), None)


def cleaned_cas(values: pd.Series) -> pd.Series:
    """CAS registry numbers without the word CAS and leading zeros; None where the value is missing or its check digit is wrong.

    The check digit is the sum of the other digits, weighted 1, 2, 3 … from the right, modulo 10 (CAS, "Check Digit Verification of CAS
    Registry Numbers").
    """
    number = cleaned_text(values).astype("string").str.extract(_CAS, expand=False).astype(object)
    return number.where(number.map(_has_check_digit).astype(bool), None)


def _has_check_digit(number: object) -> bool:
    if not isinstance(number, str):
        return False
    *digits, check = (int(letter) for letter in number if letter != "-")
    return sum(weight * digit for weight, digit in enumerate(reversed(digits), start=1)) % 10 == check


def name_key(names: pd.Series) -> pd.Series:
    """Names as they are compared: case and runs of blanks do not count; a purely numeric name is an id, and becomes None."""
    text = cleaned_text(names).astype("string").str.casefold().str.replace(r"\s+", " ", regex=True)
    return text.astype(object).where(text.notna() & ~text.str.fullmatch(r"[\d.]+").fillna(False), None)


def _single(names: pd.DataFrame) -> dict[str, int]:
    """PubChem id by key; keys of several compounds are left out."""
    single = names.drop_duplicates().drop_duplicates("key", keep=False)
    return dict(zip(single["key"], single["pubchem_cid"].tolist(), strict=True))


class _Compound(NamedTuple):
    """What a source says of a compound, cleaned; ``read_inchikey`` and ``parent_key`` are those of its SMILES."""

    pubchem_cid: int | None
    inchikey: str | None
    smiles: str | None
    cas: str | None
    name: str | None
    read_inchikey: str | None
    parent_key: str | None


class _Answer(NamedTuple):
    """An answer and how it was found. ``n_candidates`` is 1, ``rule`` None where there was no choice."""

    pubchem_cid: int | None
    how: str | None
    query: str | None
    source: str | None
    date: str | None
    inchikey: str | None = None
    parent_key: str | None = None
    n_candidates: int | None = None
    rule: str | None = None


_NONE = _Answer(None, None, None, None, None)


@dataclass(frozen=True, eq=False)
class CompoundIdentity:
    """Answers about compounds.

    Attributes
    ----------
    answers
        One row a compound: pubchem_cid, inchikey (nullable), parent_key (nullable), name (nullable), aliases (``;`` between them,
        CAS numbers among them, nullable), source, date. No PubChem id, InChIKey or name leads to two rows.
    curated
        Entries made by hand: dataset (null for all), key_kind (``id`` or ``name``), key, pubchem_cid, reason, date. A null PubChem id
        says that the key must not be looked up.
    asked
        What a service answered, one row a candidate: columns ``answers.ANSWER_COLUMNS``. It counts where `answers` says nothing.
    catalogue
        Vendors' tables: dataset (null for all), catalogue_id, pubchem_cid, inchikey, smiles (nullable), source, date.
    structures
        Structures read before: columns inchikey and parent_key, index the SMILES.
    """

    answers: pd.DataFrame
    curated: pd.DataFrame
    asked: pd.DataFrame = field(default_factory=no_answers)
    catalogue: pd.DataFrame | None = None
    structures: pd.DataFrame = field(default_factory=no_structures)

    # ---- keys of the answers -------------------------------------------------------------------------------------------------

    @cached_property
    def _by_cid(self) -> dict[int, Candidate]:
        columns = self.answers[["pubchem_cid", "inchikey", "parent_key", "source", "date"]].astype(object)
        columns = columns.where(columns.notna(), None)
        return {int(cid): Candidate(int(cid), *rest) for cid, *rest in columns.itertuples(index=False)}

    @cached_property
    def _by_inchikey(self) -> dict[str, int]:
        return {known.inchikey: cid for cid, known in self._by_cid.items() if known.inchikey}

    @cached_property
    def _names(self) -> pd.DataFrame:
        """Names and aliases (key) with their PubChem ids."""
        names = self.answers["name"].fillna("") + ";" + self.answers["aliases"].fillna("")
        exploded = self.answers.assign(key=names.str.split(";")).explode("key")
        exploded["key"] = name_key(exploded["key"])
        return exploded.dropna(subset="key")[["key", "pubchem_cid"]].astype({"pubchem_cid": int})

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return _single(self._names)

    @cached_property
    def _by_spelled_name(self) -> dict[str, int]:
        return _single(self._names.assign(key=self._names["key"].map(spelled_name)))

    @cached_property
    def _asked(self) -> AskedAnswers:
        return AskedAnswers(self.asked)

    # ---- one compound --------------------------------------------------------------------------------------------------------

    def _known(self, how: str, query: str, cid: int) -> _Answer:
        """An answer of the tables."""
        known = self._by_cid[cid]
        return _Answer(cid, how, query, known.source, known.date, known.inchikey, known.parent_key, 1)

    def _asked_for(self, how: str, kind: Kind, query: str, compound: _Compound) -> _Answer | None:
        """An answer of the service."""
        choice = self._asked.choose(kind, query, compound.inchikey or compound.read_inchikey, compound.parent_key)
        if choice is None:
            return None
        taken = choice.candidate
        rule = None if choice.n_candidates == 1 else choice.rule
        return _Answer(taken.pubchem_cid, how, query, taken.source, taken.date, taken.inchikey, taken.parent_key, choice.n_candidates, rule)

    def _by_structure(self, compound: _Compound) -> _Answer | None:
        """The answer to the InChIKey, else to the SMILES."""
        for how, inchikey in (("inchikey", compound.inchikey), ("smiles", compound.read_inchikey)):
            if inchikey is None:
                continue
            if cid := self._by_inchikey.get(inchikey):
                return self._known(how, inchikey, cid)
            if answer := self._asked_for(how, "inchikey", inchikey, compound):
                return answer
        # PubChem may draw the structure in another way than rdkit: as another tautomer, say
        return self._asked_for("smiles", "smiles", compound.smiles, compound) if compound.smiles else None

    def _by_words(self, compound: _Compound) -> _Answer | None:
        """The answer to the CAS number, else to the name; what the structure contradicts is none."""
        for look_up in (self._by_cas, self._by_any_name):
            answer = look_up(compound)
            # sources give a drug's name to its esters too
            if answer is None or _is_another_parent(compound, answer):
                continue
            # the name's compound stands for another salt or stereoisomer only where PubChem does not know the structure itself
            if not (_is_another_form(compound, answer) and any(self._structure_questions(compound))):
                return answer
        return None

    def _by_cas(self, compound: _Compound) -> _Answer | None:
        if compound.cas is None:
            return None
        # PubChem, too, keeps CAS numbers among the names of a compound
        cid = self._by_name.get(compound.cas)
        return self._known("cas", compound.cas, cid) if cid else self._asked_for("cas", "cas", compound.cas, compound)

    def _by_any_name(self, compound: _Compound) -> _Answer | None:
        """The answer to a name: to all of it, else to its parts around brackets where they lead to one compound."""
        if compound.name is None:
            return None
        stages = name_stages(compound.name)
        if cid := self._by_name.get(compound.name):
            return self._known("name", compound.name, cid)
        for names in (spelled_name(compound.name),), *stages:
            known = {cid: name for name in names if (cid := self._by_spelled_name.get(name))}
            if known:
                (cid, query), *others = known.items()
                return None if others else self._known("name", query, cid)
        for names in stages:
            # the names of a stage answer together, and before those of later stages: none while one of them is still to be asked
            if any(self._asked.state("name", name) in _OPEN for name in names):
                return None
            found = [answer for name in names if (answer := self._asked_for("name", "name", name, compound))]
            if found:
                return found[0] if len({answer.pubchem_cid for answer in found}) == 1 else None
        return None

    def _structure_questions(self, compound: _Compound, now: datetime | None = None) -> Iterator[tuple[Kind, str, State]]:
        """The questions of :meth:`_questions` about the structure alone."""
        return self._questions(compound._replace(cas=None, name=None), now)

    def _questions(self, compound: _Compound, now: datetime | None = None) -> Iterator[tuple[Kind, str, State]]:
        """Questions to ask of a compound without an answer, and what became of them; those that wait for others are left out."""
        # the InChIKey of a SMILES goes before the SMILES, because many InChIKeys are asked at once; what rdkit cannot read is not asked
        alone: list[tuple[Kind, str | None]] = [
            ("inchikey", compound.inchikey),
            ("inchikey", compound.read_inchikey),
            ("smiles", compound.smiles if compound.read_inchikey else None),
            ("cas", compound.cas),
        ]
        stages: list[list[tuple[Kind, str]]] = [[(kind, query)] for kind, query in dict.fromkeys(alone) if query]
        if compound.name:
            stages += [[("name", name) for name in names] for names in name_stages(compound.name)]
        for stage in stages:
            states = [(kind, query, self._asked.state(kind, query, now)) for kind, query in stage]
            waiting = [question for question in states if question[2] in _OPEN]
            if waiting:
                yield from waiting
                return

    # ---- a table of compounds ------------------------------------------------------------------------------------------------

    def _curated(self, compounds: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """The curated entry of each compound, an id before a name; all null where there is none."""
        entries = for_dataset(self.curated, dataset)
        found = pd.DataFrame(None, index=compounds.index, columns=["pubchem_cid", "key", "reason", "date"], dtype=object)
        for kind, keys in (("name", name_key(compounds["perturbagen"])), ("id", cleaned_text(compounds["source_perturbagen_id"]))):
            of_kind = entries[entries["key_kind"] == kind]
            of_kind = of_kind.assign(query=name_key(of_kind["key"]) if kind == "name" else of_kind["key"]).drop_duplicates("query")
            matched = of_kind.set_index("query")[list(found.columns)].reindex(keys).set_axis(compounds.index)
            found = found.where(matched["reason"].isna(), matched)
        return found.astype(object).where(found.notna(), None)

    def _catalogued(self, catalogue_ids: pd.Series, dataset: str) -> tuple[list[_Compound | None], list[dict[str, Any]]]:
        """What the vendors' tables say of each compound, and the rows that say so."""
        if self.catalogue is None or self.catalogue.empty or catalogue_ids.isna().all():
            return [None] * len(catalogue_ids), [{}] * len(catalogue_ids)
        entries = for_dataset(self.catalogue, dataset)
        rows = entries.drop_duplicates("catalogue_id").set_index("catalogue_id").reindex(catalogue_ids).reset_index()
        vendors = [compound if known else None for compound, known in zip(self._cleaned(rows), rows["source"].notna(), strict=True)]
        return vendors, [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]

    def _cleaned(self, compounds: pd.DataFrame) -> list[_Compound]:
        """Compounds as they are looked up, in order; a column that is not there counts as missing."""
        given = compounds.reindex(columns=[*INPUT_COLUMNS, *OPTIONAL_COLUMNS])
        cids = pd.to_numeric(given["pubchem_cid"], errors="coerce")
        smiles = cleaned_text(given["smiles"])
        read = read_structures(smiles, self.structures)
        columns = zip(
            cids.where(cids > 0).astype("Int64").astype(object),
            cleaned_inchikey(given["inchikey"]),
            smiles,
            cleaned_cas(given["cas"]),
            name_key(given["perturbagen"]),
            read["inchikey"],
            read["parent_key"],
            strict=True,
        )
        return [_Compound(*(None if pd.isna(value) else value for value in row)) for row in columns]

    def _answers_to(self, compounds: pd.DataFrame, dataset: str) -> list[tuple[_Compound, _Answer, bool]]:
        """Each compound as it is looked up, its answer, and whether a curated entry forbids to look it up."""
        _require_compounds(compounds, dataset)
        curated = self._curated(compounds, dataset)
        catalogue_ids = cleaned_text(compounds["catalogue_id"]) if "catalogue_id" in compounds else pd.Series(None, compounds.index)
        catalogued, entries = self._catalogued(catalogue_ids, dataset)
        answers = []
        for compound, (cid, key, reason, date), vendor, entry in zip(
            self._cleaned(compounds), curated.itertuples(index=False), catalogued, entries, strict=True
        ):
            if vendor and not (compound.inchikey or compound.smiles):
                # the vendor's structure stands for one that the source does not give
                known = vendor._replace(pubchem_cid=compound.pubchem_cid, cas=compound.cas, name=compound.name)
            else:
                known = compound
            answer: _Answer | None
            if reason is not None:
                answer = _Answer(None if cid is None else int(cid), "curated" if cid is not None else None, key, reason, date)
            elif compound.pubchem_cid:
                answer = _Answer(compound.pubchem_cid, "source", None, "the source", None)
            else:
                answer = self._by_structure(compound) or (vendor and self._by_catalogue(vendor, entry)) or self._by_words(known)
            answers.append((known, answer or _NONE, reason is not None and cid is None))
        return answers

    def _by_catalogue(self, vendor: _Compound, entry: dict[str, Any]) -> _Answer | None:
        """The answer of a vendor's entry: its PubChem id, else that of its structure."""
        if vendor.pubchem_cid:
            return _Answer(vendor.pubchem_cid, "catalogue", entry["catalogue_id"], entry["source"], entry["date"])
        answer = self._by_structure(vendor)
        return answer and answer._replace(how="catalogue", query=f"{entry['catalogue_id']}: {answer.query}")

    def _structure_of(self, cid: int) -> Candidate | None:
        """What is known of a PubChem id's structure."""
        if known := self._by_cid.get(cid):
            return known
        choice = self._asked.choose("cid", str(cid), None, None)
        return choice.candidate if choice else None

    def report(self, compounds: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """Identity of each compound, and how it was found.

        Parameters
        ----------
        compounds
            One row a distinct compound of the source, unique index. Columns: source_perturbagen_id, perturbagen, inchikey, smiles
            (all nullable text) and pubchem_cid (nullable integer: the PubChem id that the source itself gives; what is not positive
            counts as missing). cas and catalogue_id (nullable text) may be there.
        dataset
            Dataset id; it decides which curated entries and which vendors' tables hold.

        Returns
        -------
        Same index.

        - ``pubchem_cid``, ``pubchem_cid_source``: the first that answers, in the order of this module. A name is looked up whole,
          then by its parts around the last brackets (``names.py``), which answer where they lead to one compound;
        - ``inchikey``: the source's, cleaned; else of its SMILES; else of the answer;
        - ``smiles``: the source's;
        - ``parent_key``: first block of the InChIKey of the salt-stripped parent, of the SMILES, else of the answer;
        - ``outcome``: ``found``; ``not_found`` (whoever could know was asked, or there is nothing to ask by, or a curated entry
          forbids it); ``failed`` (PubChem could not be asked, or did not understand); ``not_asked`` (PubChem has not been asked);
        - ``answer_query``, ``answer_source``, ``answer_date``: what was looked up, who answered, and when the answer was taken from
          there; neither query nor date for the source's own;
        - ``n_candidates``, ``candidate_rule``: of how many compounds the answer was chosen, and by which rule (``inchikey``,
          ``parent``, ``lowest``; null where there was one);
        - ``structure_pubchem_cid``: where a curated or the source's own id contradicts the structure, the id of the structure;
        - ``inchikey_unreadable``, ``smiles_unreadable``, ``cas_unreadable``: whether the source gave one that is none.

        Raises
        ------
        InputError
            If a column is missing or the index is not unique.
        """
        given = compounds.reindex(columns=[*INPUT_COLUMNS, *OPTIONAL_COLUMNS])
        smiles = cleaned_text(given["smiles"])
        rows = []
        for (compound, answer, closed), source_smiles in zip(self._answers_to(compounds, dataset), smiles, strict=True):
            known = self._structure_of(answer.pubchem_cid) if answer.pubchem_cid else None
            structure = (self._by_structure(compound) or _NONE).pubchem_cid
            states = {state for _, _, state in self._questions(compound)} if answer.pubchem_cid is None and not closed else set()
            rows.append(
                (
                    answer.pubchem_cid,
                    answer.how,
                    compound.inchikey or compound.read_inchikey or answer.inchikey or (known and known.inchikey),
                    source_smiles,
                    compound.parent_key or answer.parent_key or (known and known.parent_key),
                    "found" if answer.pubchem_cid else "failed" if "failed" in states else "not_asked" if states else "not_found",
                    answer.query,
                    answer.source,
                    answer.date,
                    answer.n_candidates,
                    answer.rule,
                    structure if answer.pubchem_cid and structure != answer.pubchem_cid else None,
                )
            )
        unreadable = [f"{kind}_unreadable" for kind in ("inchikey", "smiles", "cas")]
        report = pd.DataFrame(rows, index=compounds.index, columns=list(REPORT_COLUMNS[: -len(unreadable)]), dtype=object)
        numbers = ["pubchem_cid", "n_candidates", "structure_pubchem_cid"]
        report[numbers] = report[numbers].astype("Int64")
        report["inchikey_unreadable"] = cleaned_text(given["inchikey"]).notna() & cleaned_inchikey(given["inchikey"]).isna()
        report["smiles_unreadable"] = smiles.notna() & read_structures(smiles, self.structures)["inchikey"].isna()
        report["cas_unreadable"] = cleaned_text(given["cas"]).notna() & cleaned_cas(given["cas"]).isna()
        return report[list(REPORT_COLUMNS)]

    def resolve(self, compounds: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """Identity of each compound: pubchem_cid, pubchem_cid_source, inchikey, smiles, parent_key. See :meth:`report`."""
        return self.report(compounds, dataset)[list(IDENTITY_COLUMNS)]

    def missing_compounds(self, compounds: pd.DataFrame, dataset: str, now: datetime | None = None) -> pd.DataFrame:
        """What is not known of a dataset's compounds, and what PubChem would be asked next to know it.

        Parameters
        ----------
        compounds, dataset
            As for :meth:`report`.
        now
            Time by which an old ``not_found`` is asked again; without it, none is.

        Returns
        -------
        One row a compound and question, in the order of `compounds`, which also gives the index: source_perturbagen_id, perturbagen,
        kind, query, state (``not_asked``, ``failed``, ``expired``). A compound with a PubChem id but without a structure is listed
        with its id, one whose CAS number or name answered before its structure was asked with its structure. Further questions of a
        compound wait until these have an answer.

        Raises
        ------
        InputError
            As :meth:`report`.
        """
        rows: list[tuple[object, ...]] = []
        named = zip(compounds.index, compounds["source_perturbagen_id"], compounds["perturbagen"], strict=True)
        for (compound, answer, closed), (row, *names) in zip(self._answers_to(compounds, dataset), named, strict=True):
            if answer.pubchem_cid is None:
                questions = [] if closed else list(self._questions(compound, now))
            elif answer.how in ("cas", "name") and (structure := list(self._structure_questions(compound, now))):
                questions = structure
            elif compound.parent_key or compound.inchikey or answer.parent_key or self._structure_of(answer.pubchem_cid):
                questions = []
            else:
                query = str(answer.pubchem_cid)
                state = self._asked.state("cid", query, now)
                questions = [] if state in ("found", "not_found") else [("cid", query, state)]
            rows += [(row, *names, *question) for question in questions]
        missing = pd.DataFrame([row[1:] for row in rows], columns=list(QUESTION_COLUMNS), dtype=object)
        return missing.set_axis(pd.Index([row[0] for row in rows], name=compounds.index.name), axis=0)


def _is_another_parent(compound: _Compound, answer: _Answer) -> bool:
    """Whether an answer is known to have another parent structure than the source gives.

    An InChIKey alone does not say its parent: there, the answer must be of the same skeleton, or a salt of it.
    """
    if compound.parent_key:
        return answer.parent_key is not None and answer.parent_key != compound.parent_key
    skeletons = {key[:14] for key in (answer.parent_key, answer.inchikey) if key}
    return compound.inchikey is not None and bool(skeletons) and compound.inchikey[:14] not in skeletons


def _is_another_form(compound: _Compound, answer: _Answer) -> bool:
    """Whether an answer is known to be another salt, charge state or stereoisomer than the source gives.

    A structure without stereo centres leaves them open: an answer that has them is no other form of it. The other way round it is.
    """
    given = {key for key in (compound.inchikey, compound.read_inchikey) if key}
    if not given or answer.inchikey is None:
        return False
    without_stereo = f"{answer.inchikey[:14]}-{_NO_STEREO}-{answer.inchikey[-1]}"
    return answer.inchikey not in given and given != {without_stereo}


def _require_compounds(compounds: pd.DataFrame, dataset: str) -> None:
    """Refuse a table of compounds that lacks a column or lists one twice."""
    missing = [column for column in INPUT_COLUMNS if column not in compounds.columns]
    if missing:
        raise InputError(f"the table of compounds lacks {', '.join(missing)}", dataset=dataset, expected=", ".join(INPUT_COLUMNS))
    if not compounds.index.is_unique:
        twice = compounds.index[compounds.index.duplicated()].unique()
        raise InputError("compounds listed more than once", dataset=dataset, rows=list(twice), expected="one row a distinct compound")
