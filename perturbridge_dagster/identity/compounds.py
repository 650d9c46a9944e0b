"""Compounds: from a source's ids, names and structures to PubChem ids, InChIKeys and the key of the parent structure.

Belongs here: how structures are read and in which order answers count. Does not belong here: asking PubChem. A live service adds rows
to the table of answers that :class:`CompoundIdentity` is given; looking up stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.names import names_around_brackets, spelled_name
from perturbridge_dagster.identity.tables import cleaned_text, for_dataset

if TYPE_CHECKING:
    from rdkit.Chem import Mol

INPUT_COLUMNS = ("source_perturbagen_id", "perturbagen", "inchikey", "smiles", "pubchem_cid")
IDENTITY_COLUMNS = ("pubchem_cid", "pubchem_cid_source", "inchikey", "smiles", "parent_key")
REPORT_COLUMNS = (
    *IDENTITY_COLUMNS,
    "outcome",
    "answer_source",
    "answer_date",
    "structure_pubchem_cid",
    "inchikey_unreadable",
    "smiles_unreadable",
)

_INCHIKEY = r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$"

# Counter-ion larger than some of the drugs it comes with, so that "the largest fragment" would keep the wrong one: pamoic acid, as it
# is, and as LINCS draws it.
_LARGE_COUNTER_IONS = (
    "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O",
    "OC(=O)c1c(O)cc2ccccc2c1Cc1c(C(=O)O)c(O)cc2ccccc12",
)

_NON_METALS = frozenset(("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Te", "I"))
_SALT_METALS = frozenset(("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn", "Al"))


class Structure(NamedTuple):
    """What a SMILES says: InChIKey of all of it, and first block of the InChIKey of its salt-stripped parent."""

    inchikey: str | None
    parent_key: str | None


@cache
def _large_counter_ions() -> list[Mol]:
    from rdkit import Chem

    return [Chem.MolFromSmarts(pattern) for pattern in _LARGE_COUNTER_IONS]


def _parent(molecule: Mol) -> Mol:
    """The largest organic part of a molecule, without counter-ions and solvents; the molecule itself where it is one part.

    A metal that makes salts is cut off. Any other metal (platinum, gold) is what the drug is about, and the molecule stays whole, as
    does one without carbon, which would leave only its counter-ion.
    """
    from rdkit import Chem
    from rdkit.Chem.MolStandardize import rdMolStandardize

    elements = {atom.GetSymbol() for atom in molecule.GetAtoms()}
    metals = elements - _NON_METALS
    if metals - _SALT_METALS or "C" not in elements:
        return molecule
    if metals:
        molecule = rdMolStandardize.MetalDisconnector().Disconnect(molecule)
    if len(Chem.GetMolFrags(molecule)) == 1:
        return molecule
    for counter_ion in _large_counter_ions():
        without = Chem.DeleteSubstructs(molecule, counter_ion, onlyFrags=True)
        molecule = without if without.GetNumAtoms() else molecule
    return rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(molecule)


@cache
def read_structure(smiles: str) -> Structure:
    """InChIKey and parent key of a SMILES; both None where rdkit cannot read it.

    Salts, hydrates and charge states of one drug share a parent key, and so do stereoisomers: the first block of an InChIKey hashes
    formula and connections only (IUPAC InChI technical manual).
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdinchi

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None or not molecule.GetNumAtoms():
            return Structure(None, None)
        inchikey = rdinchi.MolToInchiKey(molecule)
        parent = _parent(molecule)
        parent_inchikey = inchikey if parent is molecule else rdinchi.MolToInchiKey(parent)
        return Structure(inchikey or None, parent_inchikey[:14] or None)


def cleaned_inchikey(values: pd.Series) -> pd.Series:
    """InChIKeys without the prefix ``InChIKey=``; None where the value is missing or is no InChIKey."""
    text = cleaned_text(values).astype("string").str.replace(r"^InChIKey=", "", regex=True, case=False).str.strip()
    return text.astype(object).where(text.str.fullmatch(_INCHIKEY).fillna(False).astype(bool), None)


def name_key(names: pd.Series) -> pd.Series:
    """Names as they are compared: case and runs of blanks do not count; a purely numeric name is an id, and becomes None."""
    text = cleaned_text(names).astype("string").str.casefold().str.replace(r"\s+", " ", regex=True)
    return text.astype(object).where(text.notna() & ~text.str.fullmatch(r"[\d.]+").fillna(False), None)


def _first_given(*texts: pd.Series) -> pd.Series:
    """Row by row the first text that is not missing."""
    given = pd.concat([text.astype("string") for text in texts], axis=1, ignore_index=True).bfill(axis=1)[0]
    return given.astype(object).where(given.notna(), None)


def _single(names: pd.DataFrame) -> pd.Series[Any]:
    """PubChem id by key; keys of several compounds are left out."""
    return names.drop_duplicates().drop_duplicates("key", keep=False).set_index("key")["pubchem_cid"]


@dataclass(frozen=True, eq=False)
class CompoundIdentity:
    """Answers about compounds.

    Attributes
    ----------
    answers
        One row a compound: pubchem_cid, inchikey (nullable), parent_key (nullable), name (nullable), aliases (``;`` between them,
        nullable), source, date. No PubChem id, InChIKey or name leads to two rows.
    curated
        Entries made by hand: dataset (null for all), key_kind (``id`` or ``name``), key, pubchem_cid, reason, date. A null PubChem id
        says that the key must not be looked up.
    """

    answers: pd.DataFrame
    curated: pd.DataFrame

    @cached_property
    def _by_cid(self) -> pd.DataFrame:
        return self.answers.assign(pubchem_cid=self.answers["pubchem_cid"].astype("Int64")).set_index("pubchem_cid")

    @cached_property
    def _by_inchikey(self) -> pd.Series[Any]:
        return self.answers.dropna(subset="inchikey").set_index("inchikey")["pubchem_cid"].astype("Int64")

    @cached_property
    def _names(self) -> pd.DataFrame:
        """Names and aliases (key) with their PubChem ids."""
        names = self.answers["name"].fillna("") + ";" + self.answers["aliases"].fillna("")
        exploded = self.answers.assign(key=names.str.split(";")).explode("key")
        exploded["key"] = name_key(exploded["key"])
        return exploded.dropna(subset="key")[["key", "pubchem_cid"]].astype({"pubchem_cid": "Int64"})

    @cached_property
    def _by_name(self) -> pd.Series[Any]:
        return _single(self._names)

    @cached_property
    def _by_spelled_name(self) -> pd.Series[Any]:
        return _single(self._names.assign(key=self._names["key"].map(spelled_name)))

    def _find_name(self, name: str) -> int | None:
        """PubChem id of a name: of all of it, else of its parts around brackets where they lead to one compound."""
        if name in self._by_name.index:
            return int(self._by_name[name])
        for names in ((spelled_name(name),), names_around_brackets(name)):
            known = {int(self._by_spelled_name[part]) for part in names if part in self._by_spelled_name.index}
            if known:
                return known.pop() if len(known) == 1 else None
        return None

    def _curated(self, compounds: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """The curated entry of each compound, an id before a name; all null where there is none."""
        entries = for_dataset(self.curated, dataset)
        found = pd.DataFrame(None, index=compounds.index, columns=["pubchem_cid", "reason", "date"], dtype=object)
        for kind, keys in (("name", name_key(compounds["perturbagen"])), ("id", cleaned_text(compounds["source_perturbagen_id"]))):
            of_kind = entries[entries["key_kind"] == kind]
            of_kind = of_kind.assign(key=name_key(of_kind["key"]) if kind == "name" else of_kind["key"]).drop_duplicates("key")
            matched = of_kind.set_index("key")[list(found.columns)].reindex(keys).set_axis(compounds.index)
            found = found.where(matched["reason"].isna(), matched)
        return found

    def report(self, compounds: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """Identity of each compound, and how it was found.

        Parameters
        ----------
        compounds
            One row a distinct compound of the source, unique index. Columns: source_perturbagen_id, perturbagen, inchikey, smiles
            (all nullable text) and pubchem_cid (nullable integer: the PubChem id that the source itself gives; what is not positive
            counts as missing).
        dataset
            Dataset id; it decides which curated entries hold.

        Returns
        -------
        Same index.

        - ``pubchem_cid``, ``pubchem_cid_source``: the first of curated, source, inchikey, smiles, name that answers. A name is
          looked up whole, then by its parts around the last brackets (``names.py``), which answer where they lead to one compound; it
          does not answer where the SMILES has another parent structure;
        - ``inchikey``: the source's, cleaned; else of its SMILES; else of the answer;
        - ``smiles``: the source's;
        - ``parent_key``: first block of the InChIKey of the salt-stripped parent, of the SMILES, else of the answer;
        - ``outcome``: ``found`` or ``not_found``. (A service that could not be asked would be ``failed``, which is not ``not_found``.)
        - ``answer_source``, ``answer_date``: where the PubChem id comes from, and when it was taken from there; no date for the
          source's own;
        - ``structure_pubchem_cid``: where a curated or the source's own id contradicts the structure, the id of the structure;
        - ``inchikey_unreadable``, ``smiles_unreadable``: whether the source gave one that is none.

        Raises
        ------
        InputError
            If a column is missing or the index is not unique.
        """
        missing = [column for column in INPUT_COLUMNS if column not in compounds.columns]
        if missing:
            raise InputError(f"the table of compounds lacks {', '.join(missing)}", dataset=dataset, expected=", ".join(INPUT_COLUMNS))
        if not compounds.index.is_unique:
            twice = compounds.index[compounds.index.duplicated()].unique()
            raise InputError("compounds listed more than once", dataset=dataset, rows=list(twice), expected="one row a distinct compound")

        smiles = cleaned_text(compounds["smiles"])
        structures = smiles.map(read_structure, na_action="ignore")
        computed_inchikey = structures.map(lambda structure: structure.inchikey, na_action="ignore")
        inchikey = cleaned_inchikey(compounds["inchikey"])
        source_cid = pd.to_numeric(compounds["pubchem_cid"]).astype("Int64")
        curated = self._curated(compounds, dataset)

        parent_key = structures.map(lambda structure: structure.parent_key, na_action="ignore")

        by_inchikey = inchikey.map(self._by_inchikey).astype("Int64")
        by_smiles = computed_inchikey.map(self._by_inchikey).astype("Int64")
        by_name = name_key(compounds["perturbagen"]).map(self._find_name, na_action="ignore").astype("Int64")
        # sources give a drug's name to its esters too; what the structure contradicts is no answer
        named_parent = self._by_cid["parent_key"].reindex(by_name).set_axis(compounds.index)
        contradicted = parent_key.notna() & named_parent.notna() & (parent_key != named_parent)
        candidates = {
            "curated": pd.to_numeric(curated["pubchem_cid"]).astype("Int64"),
            "source": source_cid.where(source_cid > 0),
            "inchikey": by_inchikey,
            "smiles": by_smiles,
            "name": by_name.mask(contradicted),
        }
        cid = pd.Series(pd.NA, index=compounds.index, dtype="Int64")
        found = pd.Series(None, index=compounds.index, dtype=object)
        closed = curated["reason"].notna()
        for how, candidate in candidates.items():
            answers = candidate.notna() & cid.isna() & (~closed | (how == "curated"))
            cid = cid.mask(answers, candidate)
            found = found.mask(answers, how)

        answer = self._by_cid.reindex(cid).set_axis(compounds.index)
        from_answers = found.isin(["inchikey", "smiles", "name"])
        by_structure = by_inchikey.fillna(by_smiles)
        report = pd.DataFrame(
            {
                "pubchem_cid": cid,
                "pubchem_cid_source": found,
                "inchikey": _first_given(inchikey, computed_inchikey, answer["inchikey"]),
                "smiles": smiles,
                "parent_key": _first_given(parent_key, answer["parent_key"]),
                "outcome": cid.notna().map({True: "found", False: "not_found"}),
                "answer_source": answer["source"].where(from_answers).mask(found == "source", "the source").mask(closed, curated["reason"]),
                "answer_date": answer["date"].where(from_answers).mask(closed, curated["date"]),
                "structure_pubchem_cid": by_structure.where((by_structure != cid).fillna(False)),
                "inchikey_unreadable": cleaned_text(compounds["inchikey"]).notna() & inchikey.isna(),
                "smiles_unreadable": smiles.notna() & computed_inchikey.isna(),
            },
            index=compounds.index,
        )
        text = ["pubchem_cid_source", "inchikey", "smiles", "parent_key", "answer_source", "answer_date"]
        report[text] = report[text].astype(object).where(report[text].notna(), None)
        return report[list(REPORT_COLUMNS)]

    def resolve(self, compounds: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """Identity of each compound: pubchem_cid, pubchem_cid_source, inchikey, smiles, parent_key. See :meth:`report`."""
        return self.report(compounds, dataset)[list(IDENTITY_COLUMNS)]
