"""Structures: from a SMILES to its InChIKey and to the key of its salt-stripped parent.

Belongs here: what rdkit reads, what counts as a counter-ion, and remembering what was read. Does not belong here: which compound a
structure is (``compounds.py``).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from perturbridge_dagster.written import written_whole

if TYPE_CHECKING:
    from rdkit.Chem import Mol

STRUCTURES = "structures.parquet"

_RULES = "1"
"""Raised when the parent of a structure is found in another way, so that what was remembered is read anew."""

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


@cache
def scaffold_of(smiles: str) -> str | None:
    """Murcko scaffold of the salt-stripped parent of a SMILES: its rings and what links them, as SMILES without stereochemistry.

    None where rdkit cannot read it, or nothing of it is a ring (Bemis & Murcko, J. Med. Chem. 1996, doi:10.1021/jm9602928).
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None or not molecule.GetNumAtoms():
            return None
        scaffold = MurckoScaffold.GetScaffoldForMol(_parent(molecule))  # type: ignore[no-untyped-call]
        Chem.RemoveStereochemistry(scaffold)
        return Chem.MolToSmiles(scaffold) or None


# ---- many, and remembered ----------------------------------------------------------------------------------------------------


def no_structures() -> pd.DataFrame:
    """A memory of structures with nothing in it: columns inchikey and parent_key, index smiles."""
    return pd.DataFrame({"inchikey": [], "parent_key": []}, index=pd.Index([], name="smiles", dtype=object), dtype=object)


def read_structures(smiles: pd.Series, remembered: pd.DataFrame) -> pd.DataFrame:
    """Structures of many SMILES.

    Parameters
    ----------
    smiles
        Nullable text.
    remembered
        What was read before: columns inchikey and parent_key, index the SMILES.

    Returns
    -------
    Columns inchikey and parent_key (null where there is no SMILES, or none that rdkit reads); the index of `smiles`.
    """
    asked = pd.Index(smiles.dropna().unique(), dtype=object)
    new = asked.difference(remembered.index, sort=False)
    read = pd.DataFrame([read_structure(text) for text in new], index=new, columns=["inchikey", "parent_key"], dtype=object)
    known = pd.concat([remembered.reindex(asked.intersection(remembered.index)), read]) if len(new) else remembered
    found = known.reindex(smiles).set_axis(smiles.index)
    return found.where(found.notna(), None)


def load_structures(folder: Path) -> pd.DataFrame:
    """The structures remembered in a folder; none where they were read by another rdkit or by other rules."""
    import pyarrow.parquet as pq

    file = folder / STRUCTURES
    if not file.is_file() or (pq.read_schema(file).metadata or {}).get(b"read_by") != _read_by():
        return no_structures()
    frame: pd.DataFrame = pq.read_table(file).to_pandas()
    return frame.set_index("smiles")


def save_structures(folder: Path, structures: pd.DataFrame) -> None:
    """Remember structures in a folder, whole, instead of those that are there.

    Parameters
    ----------
    folder
        Made where it is missing.
    structures
        Columns inchikey and parent_key, index the SMILES.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(structures.rename_axis("smiles").reset_index(), preserve_index=False)
    with written_whole(folder / STRUCTURES) as aside:
        pq.write_table(table.replace_schema_metadata({"read_by": _read_by()}), aside, compression="zstd")


def _read_by() -> bytes:
    from rdkit import rdBase

    return f"rdkit {rdBase.rdkitVersion}; rules {_RULES}".encode()
