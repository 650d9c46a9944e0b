"""The compounds of a corpus: structure, scaffold, mechanism, and the cells and assays they were measured in.

Belongs here: what harmonized samples say of the compounds and cell contexts of a corpus. Does not belong here: effects (``corpus.py``), or
how a structure is read (``identity/structures.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

SAMPLE_COLUMNS = ["dataset", "cell_type", "pubchem_cid", "smiles", "assay", "model_system", "mechanism"]
"""What a corpus takes from harmonized samples; a column that a dataset does not have is null."""


def read_samples(files: Iterable[Path]) -> pd.DataFrame:
    """What the treated samples of datasets say of their compounds, cells and assays.

    Parameters
    ----------
    files
        ``obs.parquet`` of harmonized samples, one a dataset.

    Returns
    -------
    DataFrame
        One row a distinct combination of :data:`SAMPLE_COLUMNS`, with ``n_samples``; samples without a PubChem id are left out.

    Raises
    ------
    IncompatibleFileError
        If a file was not written by harmonized_samples.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from perturbridge_dagster.written import read_stamp, require_compatible

    frames = [no_samples()]
    for file in files:
        require_compatible(read_stamp(file), file, "harmonized_samples")
        there = [name for name in SAMPLE_COLUMNS if name in pq.read_schema(file).names]
        used = ~pc.field("is_control") & pc.field("pubchem_cid").is_valid()
        table = pq.read_table(file, columns=there, filters=used)
        counted = table.group_by(there).aggregate([([], "count_all")]).rename_columns([*there, "n_samples"])
        frames.append(counted.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get, ignore_metadata=True))
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(frames, ignore_index=True).reindex(columns=[*SAMPLE_COLUMNS, "n_samples"])


def no_samples() -> pd.DataFrame:
    """A table as :func:`read_samples` gives it, without rows."""
    return pd.DataFrame({name: pd.Series(dtype=object) for name in SAMPLE_COLUMNS}).assign(n_samples=pd.Series(dtype="Int64"))


def most_frequent(frame: pd.DataFrame, key: str, column: str, weight: str) -> pd.Series:
    """The value of a column with the most weight for each key, the first of the alphabet of several; keys without one are absent."""
    known = frame[frame[column].notna()]
    totals = known.groupby([key, column], sort=True, observed=True)[weight].sum().reset_index()
    ordered = totals.sort_values(weight, ascending=False, kind="stable")
    return ordered.drop_duplicates(key).set_index(key)[column]


def compounds_of(contrasts: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The compounds of a corpus, without their numbers of conditions.

    Parameters
    ----------
    contrasts
        Contrasts of the corpus: perturbation (PubChem id as text), perturbagen, parent_key (nullable), dataset.
    samples
        As :func:`read_samples` gives it.

    Returns
    -------
    DataFrame
        perturbation (sorted), perturbagen, pubchem_cid, smiles, parent_key, scaffold, mechanism. Salts and stereoisomers of one parent
        have one scaffold, the first of the alphabet where structures of them give several.
    """
    from perturbridge_dagster.identity.structures import scaffold_of

    perturbations = pd.Index(sorted(contrasts["perturbation"].unique()), dtype=object)
    of_compound = samples.assign(perturbation=samples["pubchem_cid"].astype("Int64").astype(str).astype(object))
    of_compound = of_compound[of_compound["perturbation"].isin(perturbations)]
    smiles = most_frequent(readable(of_compound), "perturbation", "smiles", "n_samples").reindex(perturbations)
    parent_key = most_frequent(contrasts.assign(n=1), "perturbation", "parent_key", "n").reindex(perturbations)
    own_scaffold = smiles.map(scaffold_of, na_action="ignore")
    known = pd.DataFrame({"parent_key": parent_key.to_numpy(), "scaffold": own_scaffold.to_numpy()}).dropna().sort_values("scaffold")
    of_parent = known.drop_duplicates("parent_key").set_index("parent_key")["scaffold"]
    table = pd.DataFrame(
        {
            "perturbation": perturbations,
            "perturbagen": readable_names(contrasts).reindex(perturbations).to_numpy(),
            "pubchem_cid": pd.array([int(text) if text.isdigit() else None for text in perturbations], dtype="Int64"),
            "smiles": smiles.to_numpy(),
            "parent_key": parent_key.to_numpy(),
            "scaffold": parent_key.map(of_parent).where(parent_key.notna(), own_scaffold).to_numpy(),
            "mechanism": most_frequent(of_compound, "perturbation", "mechanism", "n_samples").reindex(perturbations).to_numpy(),
        }
    )
    texts = ["smiles", "parent_key", "scaffold", "mechanism"]
    table[texts] = table[texts].astype(object).where(table[texts].notna(), None)
    return table


def readable(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples whose SMILES rdkit reads."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        unreadable = [text for text in samples["smiles"].dropna().unique() if not text or Chem.MolFromSmiles(text) is None]
    return samples[samples["smiles"].notna() & ~samples["smiles"].isin(unreadable)]


def readable_names(contrasts: pd.DataFrame) -> pd.Series:
    """A name for each perturbation: that which most datasets use, of several the one of fewest digits, then the first of the alphabet.

    Names that differ in case alone are one; of their spellings, too, the one that most datasets use is taken. Sources have numbers of
    their own for some compounds, which few people know.

    Parameters
    ----------
    contrasts
        perturbation, perturbagen, dataset.
    """
    spelt = contrasts[["perturbation", "perturbagen", "dataset"]].drop_duplicates()
    spelt = spelt.assign(folded=spelt["perturbagen"].str.casefold(), digits=spelt["perturbagen"].str.count(r"\d"))
    spelt["n_datasets"] = spelt.groupby(["perturbation", "folded"])["dataset"].transform("nunique")
    spelt["n_spelling"] = spelt.groupby(["perturbation", "perturbagen"])["dataset"].transform("nunique")
    order = ["n_datasets", "digits", "folded", "n_spelling", "perturbagen"]
    ordered = spelt.sort_values(order, ascending=[False, True, True, False, True], kind="stable")
    return ordered.drop_duplicates("perturbation").set_index("perturbation")["perturbagen"]


def described(conditions: pd.DataFrame, compounds: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Conditions with what is known of their compounds and cells.

    Parameters
    ----------
    conditions
        dataset, context, perturbation.
    compounds
        As :func:`compounds_of` gives it.
    samples
        As :func:`read_samples` gives it.

    Returns
    -------
    DataFrame
        `conditions` with parent_key and scaffold (of the compound), assay (of the samples of that dataset and context, several joined by
        semicolons) and model_system (of the context, as most samples of any dataset say); null where nobody says.
    """
    known = samples[samples["assay"].notna()]
    assay = known.groupby(["dataset", "cell_type"], sort=True)["assay"].agg(lambda names: "; ".join(sorted(set(names))))
    model_system = most_frequent(samples, "cell_type", "model_system", "n_samples")
    of_compound = compounds.set_index("perturbation")
    place = pd.MultiIndex.from_frame(conditions[["dataset", "context"]])
    columns = {
        "parent_key": of_compound["parent_key"].reindex(conditions["perturbation"]),
        "scaffold": of_compound["scaffold"].reindex(conditions["perturbation"]),
        "assay": assay.reindex(place),
        "model_system": model_system.reindex(conditions["context"]),
    }
    values = {name: column.astype(object).where(column.notna(), None).to_numpy() for name, column in columns.items()}
    return conditions.assign(**values)
