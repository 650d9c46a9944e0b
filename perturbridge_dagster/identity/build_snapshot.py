"""Rebuilds the shipped identity tables from real files: ``python -m perturbridge_dagster.identity.build_snapshot --real-data DIR``.

Belongs here: which answers of which public table are shipped, and why they may be trusted. The ``curated_*.csv`` tables are made by
hand and only read here. ``data/README.md`` says the same in words, with the licences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity import tables
from perturbridge_dagster.identity.cell_contexts import DONOR_COLUMNS, normalized_name
from perturbridge_dagster.identity.compounds import cleaned_cas, cleaned_inchikey, name_key
from perturbridge_dagster.identity.structures import read_structure
from perturbridge_dagster.written import written_whole

SNAPSHOT_DATE = "2026-11-21"
"""Day on which the answers were taken from the real files."""

LINCS_SOURCE = "LINCS 2020 and LINCS phase I/II compound tables, in agreement"
TAHOE_SOURCE = "Tahoe-100M drug table"

# Contexts of the published compendium (facts of the datasets), beside the lines of Tahoe-100M, whose own table lists them.
CELLOSAURUS_IDS = """
    0002 0004 0006 0007 0023 0027 0030 0031 0033 0035 0042 0060 0062 0063 0065 0068 0080 0098 0132 0139 0178 0291 0320 0332 0336 0395
    0399 0504 0526 0546 0547 0566 0598 0629 0632 1139 1184 1192 1489 1498 1521 1564 1571 1609 1662 1707 1776 1794 1902 1980 2057 2161
    2235 2425 2520 2588 2675 2923 2959 3158 3383 3719 4656 5003 5111 5112 5136 8067 B161 U602 UK07 VU89
""".split()  # noqa: SIM905 (80 lines of one id each read worse)
CELL_ONTOLOGY_IDS = ["0000084", "0000182", "0000236", "0000515", "0000623", "0000763", "0002484", "0002539", "0002551"]


def _text(path: Path, sep: str = "\t", names: list[str] | None = None) -> pd.DataFrame:
    """A delimited file as text, with empty text for what is missing."""
    frame: pd.DataFrame = pd.read_csv(path, sep=sep, dtype=str, keep_default_na=False, names=names)
    return frame


# ---- compounds ---------------------------------------------------------------------------------------------------------------


def _has_open_stereo(smiles: str) -> bool:
    """Whether a structure leaves a stereo centre or bond open, so that it may stand for a mixture or for carelessness."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        elements = Chem.FindPotentialStereo(Chem.MolFromSmiles(smiles))
    return any(element.specified == Chem.StereoSpecified.Unspecified for element in elements)


def _lincs_compounds(lincs: Path) -> pd.DataFrame:
    """Annotated LINCS compounds on whose PubChem id and structure both LINCS tables agree, and rdkit with them.

    A name is kept only where all LINCS compounds of that name are one fully specified structure: the tables have many stereoisomers,
    and the structure of a name is often the one without stereo centres.
    """
    recent = _text(lincs / "lincs_pert_info2.tsv.gz")
    earlier = _text(lincs / "pertinfo.tsv.gz")
    recent["inchi_key"] = cleaned_inchikey(recent["inchi_key"])
    earlier["inchi_key"] = cleaned_inchikey(earlier["inchi_key"])
    structures = pd.concat([table[["pert_iname", "inchi_key"]] for table in (recent, earlier)]).dropna()
    structures_of_name = structures.groupby(structures["pert_iname"].str.casefold())["inchi_key"].nunique()

    annotated = recent[(recent["MOA"] != "") & recent["pubchem_cid"].str.fullmatch(r"[1-9]\d*")]
    agreed = annotated.merge(earlier[["pert_id", "pubchem_cid", "inchi_key"]], on=["pert_id", "pubchem_cid", "inchi_key"])
    read = agreed["canonical_smiles"].map(read_structure)
    agreed["parent_key"] = read.map(lambda structure: structure.parent_key)
    agreed = agreed[read.map(lambda structure: structure.inchikey) == agreed["inchi_key"]]

    name = agreed["pert_iname"]
    unique_name = name.str.casefold().map(structures_of_name) == 1
    sure = unique_name & ~name.str.startswith("BRD-") & ~agreed["canonical_smiles"].map(_has_open_stereo)
    # LINCS writes a hyphen for each blank
    spaced = name.str.replace("-", " ")
    aliases = [
        ";".join(dict.fromkeys(alias for alias in (with_blanks, other) if alias and alias.casefold() != own.casefold()))
        for own, with_blanks, other in zip(name, spaced, agreed["compound_aliases"], strict=True)
    ]
    return pd.DataFrame(
        {
            "pubchem_cid": agreed["pubchem_cid"].astype(int),
            "inchikey": agreed["inchi_key"],
            "parent_key": agreed["parent_key"],
            "name": name.where(sure, None),
            "aliases": pd.Series(aliases, index=agreed.index).where(sure, None),
            "source": LINCS_SOURCE,
        }
    ).drop_duplicates(["pubchem_cid", "inchikey", "name"])


def _tahoe_compounds(file: Path) -> pd.DataFrame:
    """Drugs of Tahoe-100M. Their SMILES leave stereo centres out, so only a structure that has none gives an InChIKey."""
    drugs = pd.read_parquet(file, columns=["drug", "canonical_smiles", "pubchem_cid"]).dropna()
    structures = drugs["canonical_smiles"].map(read_structure)
    flat = ~drugs["canonical_smiles"].map(_has_open_stereo)
    return pd.DataFrame(
        {
            "pubchem_cid": drugs["pubchem_cid"].astype(int),
            "inchikey": structures.map(lambda structure: structure.inchikey).where(flat, None),
            "parent_key": structures.map(lambda structure: structure.parent_key),
            "name": drugs["drug"],
            "aliases": None,
            "source": TAHOE_SOURCE,
        }
    )


def _curated_answers(hand_made: Path) -> pd.DataFrame:
    """The answers made by hand, with the parent key of their structure.

    Raises
    ------
    InputError
        If an InChIKey is not that of its SMILES, or an id, InChIKey or name leads to two compounds.
    """
    file = hand_made / tables.CURATED_ANSWERS
    answers = tables.read_table(tables.CURATED_ANSWERS, hand_made).astype({"pubchem_cid": int})
    structures = answers["smiles"].map(read_structure)
    other = structures.map(lambda structure: structure.inchikey) != answers["inchikey"]
    if other.any():
        raise InputError(
            "InChIKeys that are not those of the SMILES",
            file=file,
            rows=answers.loc[other, "name"].tolist(),
            column="inchikey",
            expected=", ".join(str(structure.inchikey) for structure in structures[other].head()),
            advice="Mend the InChIKey or the SMILES.",
        )
    claims = {"pubchem_cid": answers["pubchem_cid"], "inchikey": answers["inchikey"], "name": _claimed_names(answers)}
    for column, keys in claims.items():
        if keys.duplicated().any():
            twice = keys[keys.duplicated()].unique().tolist()
            raise InputError("keys of two compounds", file=file, rows=twice, column=column, advice="Keep each in one row.")
    return answers.assign(parent_key=structures.map(lambda structure: structure.parent_key))


def _claimed_names(compounds: pd.DataFrame) -> pd.Series:
    """Names and aliases as they are compared, each once a row; the index is that of `compounds`."""
    aliases = compounds["aliases"].fillna("").str.split(";").explode()
    keys = name_key(pd.concat([compounds["name"], aliases])).dropna()
    return keys[~pd.MultiIndex.from_arrays([keys.index, keys]).duplicated()]


def _without_names(compounds: pd.DataFrame, names: set[str]) -> pd.DataFrame:
    """Compounds without the names and aliases that belong to others."""
    kept = [
        ";".join(alias for alias in text.split(";") if alias and alias.casefold() not in names) for text in compounds["aliases"].fillna("")
    ]
    return compounds.assign(name=compounds["name"].mask(name_key(compounds["name"]).isin(names)), aliases=kept)


def _hand_over(compounds: pd.DataFrame, curated: pd.DataFrame, key: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave compounds that are in `curated` to it, together with the names they have.

    Parameters
    ----------
    compounds
        Compounds of a public table.
    curated
        Compounds made by hand.
    key
        Column by which the table knows which compound it names: ``pubchem_cid``, or ``inchikey`` where its ids are partly those of
        another salt. A compound that has only the other key of a curated one is dropped with its names.

    Returns
    -------
    The other compounds, and `curated` with the names as aliases, but those that are somebody's already.
    """
    taken = set(_claimed_names(curated))
    same = compounds[compounds[key].isin(curated[key])]
    given = same.assign(alias=same["name"].fillna("") + ";" + same["aliases"].fillna(""))
    given = given.assign(alias=given["alias"].str.split(";")).explode("alias")
    given = given[name_key(given["alias"]).notna() & ~given["alias"].str.casefold().isin(taken)]
    given = given[~given["alias"].str.casefold().duplicated(keep=False)]
    more = curated[key].map(given.groupby(key)["alias"].agg(";".join))
    aliases = [";".join(text for text in pair if isinstance(text, str) and text) for pair in zip(curated["aliases"], more, strict=True)]
    known = compounds["pubchem_cid"].isin(curated["pubchem_cid"]) | compounds["inchikey"].isin(curated["inchikey"])
    return compounds[~known], curated.assign(aliases=aliases)


def _with_cas_numbers(compounds: pd.DataFrame, moabox: Path) -> pd.DataFrame:
    """Compounds with the CAS numbers that Novartis lists for their InChIKey among the aliases; one of two InChIKeys is nobody's."""
    listed = _text(moabox / "MoABox_compounds_metadata.txt")
    listed = pd.DataFrame({"inchikey": cleaned_inchikey(listed["inchi_key"]), "cas": cleaned_cas(listed["cas_number"])})
    listed = listed.dropna().drop_duplicates().drop_duplicates("cas", keep=False).sort_values("cas")
    cas = compounds["inchikey"].map(listed.groupby("inchikey")["cas"].agg(";".join))
    aliases = [";".join(text for text in pair if isinstance(text, str) and text) for pair in zip(compounds["aliases"], cas, strict=True)]
    return compounds.assign(aliases=aliases)


def build_compounds(real_data: Path, hand_made: Path = tables.DATA) -> pd.DataFrame:
    """The table of compound answers: no PubChem id, InChIKey or name leads to two rows.

    Answers made by hand hold against all others. Where the public tables contradict each other the Tahoe table holds: its ids are
    those that PubChem gives for the drug as sold.

    Parameters
    ----------
    real_data
        Folder of the real files.
    hand_made
        Folder of the curated tables.
    """
    curated = _curated_answers(hand_made)
    tahoe, curated = _hand_over(_tahoe_compounds(real_data / "tahoe_explorer_metadata" / "drug_metadata.parquet"), curated, "pubchem_cid")
    lincs = _lincs_compounds(real_data / "lincs_metadata")
    lincs = lincs[~lincs["pubchem_cid"].duplicated(keep=False) & ~lincs["inchikey"].duplicated(keep=False)]
    lincs, curated = _hand_over(lincs, curated, "inchikey")

    # one compound of both: LINCS knows the stereo centres
    full = lincs.set_index("pubchem_cid")
    same_parent = tahoe["parent_key"] == tahoe["pubchem_cid"].map(full["parent_key"])
    shared = tahoe["pubchem_cid"].where(same_parent)
    tahoe["inchikey"] = shared.map(full["inchikey"]).where(shared.notna(), tahoe["inchikey"])
    tahoe["aliases"] = [
        ";".join(part for part in (name, alias) if part) if isinstance(name, str) and name.casefold() != own.casefold() else alias
        for own, name, alias in zip(tahoe["name"], shared.map(full["name"]), shared.map(full["aliases"]).fillna(""), strict=True)
    ]
    named = set(name_key(tahoe["name"]))
    spoken = lincs["name"].str.replace("-", " ").str.casefold().isin(named) | lincs["name"].str.casefold().isin(named)
    known = lincs["pubchem_cid"].isin(tahoe["pubchem_cid"]) | lincs["inchikey"].isin(tahoe["inchikey"].dropna())
    public = pd.concat([tahoe, lincs[~spoken & ~known]], ignore_index=True)
    public["inchikey"] = public["inchikey"].where(~public["inchikey"].duplicated(keep=False), None)
    public = _without_names(public[~public["pubchem_cid"].duplicated()], set(_claimed_names(curated)))
    rows = pd.concat([curated, public.assign(date=SNAPSHOT_DATE)], ignore_index=True)

    rows = _with_cas_numbers(rows, real_data / "novartis_moabox")

    # a name that is also an alias of another compound, or an alias of two, leads nowhere
    claims = _claimed_names(rows)
    unsure = set(claims[claims.duplicated(keep=False)])
    rows["aliases"] = _without_names(rows.assign(name=None), unsure)["aliases"].where(lambda text: text != "", None)
    columns = ["pubchem_cid", "inchikey", "parent_key", "name", "aliases", "source", "date"]
    return rows[columns].sort_values("pubchem_cid").reset_index(drop=True)


# ---- genes -------------------------------------------------------------------------------------------------------------------


def _read_genes(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """GENCODE genes (ensembl_id, symbol or null), NCBI links (entrez, symbol, ensembl_id) and NCBI aliases (entrez, alias)."""
    gencode = _text(folder / "gencode_genes_homo_sapiens.csv.gz", sep=",", names=["ensembl_id", "symbol", "version", "length", "biotype"])
    # GENCODE repeats the id where a gene has no symbol
    gencode["symbol"] = gencode["symbol"].where(~gencode["symbol"].str.startswith("ENSG"), None)
    links = _text(folder / "org_hs_entrez_symbol_ensembl.tsv.gz").rename(columns={"entrez_id": "entrez"})
    aliases = _text(folder / "org_hs_alias.tsv.gz").rename(columns={"entrez_id": "entrez", "alias_symbol": "alias"})
    return gencode[["ensembl_id", "symbol"]], links[["entrez", "symbol", "ensembl_id"]], aliases


def _entrez_keys(genes: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """Entrez id to Ensembl id.

    Of several current Ensembl ids the one that has the Entrez gene's symbol at GENCODE, the lowest if there are more; without such a
    symbol it is ambiguous. An Entrez id without a current Ensembl id gets the gene that alone has its symbol, unless that gene is
    another Entrez id's.
    """
    current = links.merge(genes.rename(columns={"symbol": "gencode_symbol"}), on="ensembl_id").drop_duplicates(["entrez", "ensembl_id"])
    current["agrees"] = current["symbol"] == current["gencode_symbol"]
    current = current.sort_values(["entrez", "agrees", "ensembl_id"], ascending=[True, False, True])
    chosen = current.drop_duplicates("entrez").set_index("entrez")
    unclear = (current.groupby("entrez").size() > 1) & ~chosen["agrees"]
    linked = pd.DataFrame({"ensembl_id": chosen["ensembl_id"], "status": "current", "found": "NCBI link"})
    linked.loc[unclear, ["ensembl_id", "status"]] = [None, "ambiguous"]

    rest = links[~links["entrez"].isin(linked.index)].drop_duplicates("entrez").set_index("entrez")
    symbols = genes.dropna()
    single = symbols[~symbols["symbol"].duplicated(keep=False)].set_index("symbol")["ensembl_id"]
    by_symbol = rest["symbol"].map(single[~single.isin(current["ensembl_id"])])
    by_symbol = by_symbol.where(~by_symbol.duplicated(keep=False)).dropna()
    named = pd.DataFrame({"ensembl_id": by_symbol, "status": "current", "found": "same symbol at NCBI and GENCODE"})
    gone = rest[(rest["ensembl_id"] != "") & ~rest.index.isin(named.index)]
    retired = pd.DataFrame({"ensembl_id": None, "status": "retired", "found": "NCBI link"}, index=gone.index)
    return pd.concat([linked, named, retired]).rename_axis("key").reset_index()


def _ensembl_keys(genes: pd.DataFrame, links: pd.DataFrame, entrez: pd.DataFrame) -> pd.DataFrame:
    """Ensembl ids out of use, or on alternative sequences, to the one current id that their Entrez gene leads to."""
    old = links.loc[~links["ensembl_id"].isin(genes["ensembl_id"]) & (links["ensembl_id"] != ""), ["ensembl_id", "entrez"]]
    answers = entrez.rename(columns={"key": "entrez"})
    pairs = old.rename(columns={"ensembl_id": "key"}).merge(answers, on="entrez", how="left")
    # of several Entrez genes of an id, one that leads somewhere comes first
    by_key = pairs.sort_values(["key", "ensembl_id", "entrez"]).groupby("key")
    keys = by_key[["ensembl_id", "found"]].first()
    n_genes = by_key["ensembl_id"].nunique()
    unclear = (n_genes > 1) | keys.index.isin(pairs.loc[pairs["status"] == "ambiguous", "key"])
    keys["status"] = keys["ensembl_id"].notna().map({True: "replaced", False: "retired"}).mask(unclear, "ambiguous")
    keys["ensembl_id"] = keys["ensembl_id"].where(keys["status"] == "replaced", None)
    keys["found"] = keys["found"].replace("NCBI link", "same Entrez gene")
    return keys.reset_index()


def _symbol_keys(genes: pd.DataFrame, links: pd.DataFrame, aliases: pd.DataFrame, entrez: pd.DataFrame) -> pd.DataFrame:
    """Symbols, in capitals, to Ensembl ids: GENCODE's, then NCBI's official ones, then aliases and previous ones of a single gene."""
    ensembl_of = entrez.set_index("key")["ensembl_id"]
    official = links.drop_duplicates("entrez").assign(key=lambda frame: frame["symbol"].str.upper())
    official["ensembl_id"] = official["entrez"].map(ensembl_of)

    current = genes.dropna().assign(key=lambda frame: frame["symbol"].str.upper())
    # one of several genes of a symbol is meant where NCBI links the symbol to it
    linked = current.merge(official[["key", "ensembl_id"]].dropna(), on=["key", "ensembl_id"]).drop_duplicates("key", keep=False)
    shared = current["key"].duplicated(keep=False)
    first = current.drop_duplicates("key").set_index("key")["ensembl_id"]
    several = current.loc[shared, "key"].unique()
    first[several] = pd.Series(several, index=several).map(linked.set_index("key")["ensembl_id"])
    gencode = pd.DataFrame({"ensembl_id": first, "status": "current", "found": "GENCODE symbol"})
    gencode.loc[gencode["ensembl_id"].isna(), "status"] = "ambiguous"

    def of_single_gene(names: pd.DataFrame, found: str) -> pd.DataFrame:
        """Names (key, entrez, ensembl_id) of one Entrez gene, or of several that are one Ensembl gene; the others are ambiguous."""
        by_name = names.drop_duplicates(["key", "entrez"]).groupby("key")["ensembl_id"]
        # an Entrez gene without an Ensembl id counts as a gene of its own
        n_genes = by_name.nunique(dropna=False)
        unclear = n_genes > 1
        single = ~unclear & by_name.first().notna()
        keys = pd.DataFrame({"ensembl_id": by_name.first().where(single, None), "status": "replaced", "found": found})
        keys.loc[unclear, "status"] = "ambiguous"
        return keys[single | unclear]

    ncbi = of_single_gene(official[~official["key"].isin(gencode.index)], "NCBI symbol")
    without_symbol = ncbi["ensembl_id"].isin(genes.loc[genes["symbol"].isna(), "ensembl_id"])
    ncbi.loc[without_symbol, "status"] = "current"
    other = aliases.assign(key=aliases["alias"].str.upper(), ensembl_id=aliases["entrez"].map(ensembl_of))
    taken = other["key"].isin(gencode.index) | other["key"].isin(official["key"])
    return pd.concat([gencode, ncbi, of_single_gene(other[~taken], "NCBI alias or previous symbol")]).rename_axis("key").reset_index()


def build_genes(real_data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The current genes, and the other keys that lead to them."""
    genes, links, aliases = _read_genes(real_data / "gene_ids")
    entrez = _entrez_keys(genes, links)
    keys = pd.concat(
        [
            _ensembl_keys(genes, links, entrez).assign(kind="ensembl"),
            entrez.assign(kind="entrez"),
            _symbol_keys(genes, links, aliases, entrez).assign(kind="symbol"),
        ]
    )
    keys = keys[["kind", "key", "ensembl_id", "status", "found"]].astype(object)
    keys = keys.where(keys.notna(), None)
    # rows of one gene lie together, which halves the file
    order = ["kind", "ensembl_id", "key"]
    return genes.sort_values("ensembl_id").reset_index(drop=True), keys.sort_values(order).reset_index(drop=True)


# ---- cell contexts -----------------------------------------------------------------------------------------------------------


def _read_ontology(file: Path) -> pd.Series:
    """Label by id of a packed ontology; ids with an underscore."""
    import pyarrow as pa

    with pa.input_stream(file, compression="zstd") as stream:
        terms = json.loads(stream.read())
    return pd.Series({term.replace(":", "_"): entry["label"] for term, entry in terms.items() if not entry["deprecated"]})


def _lincs_donors(file: Path) -> pd.DataFrame:
    """What LINCS says of its cell contexts, by LINCS name; its ``unknown`` becomes null."""
    cells = _text(file).set_index("cell_id")
    cells = cells.where(~cells.isin(["", "-666", "unknown", "Unknown"]), None)
    return pd.DataFrame(
        {
            "tissue": cells["primary_site"],
            "disease": cells["subtype"].mask(cells["cell_type"] == "normal", "normal"),
            "sex": cells["donor_sex"].map({"F": "female", "M": "male"}),
        }
    )


def build_cell_contexts(real_data: Path, hand_made: Path = tables.DATA) -> pd.DataFrame:
    """What is known of each cell context: a row an id, and a row more where a dataset has a donor of its own.

    Parameters
    ----------
    real_data
        Folder of the real files.
    hand_made
        Folder of the curated tables.
    """
    labels = pd.concat([_read_ontology(file) for file in sorted((real_data / "cell_ids").glob("*.json.zst"))])
    names = tables.read_table(tables.CURATED_CELL_CONTEXTS, hand_made)
    donors = tables.read_table(tables.CURATED_DONORS, hand_made)
    lincs = _lincs_donors(real_data / "lincs_metadata" / "cell_info2.tsv.gz")
    tahoe = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "cell_line_metadata.parquet", columns=["Cell_ID_Cellosaur", "Organ"])
    organ = tahoe.dropna().drop_duplicates("Cell_ID_Cellosaur").set_index("Cell_ID_Cellosaur")["Organ"].str.lower()

    accessions = {f"CVCL_{number}" for number in CELLOSAURUS_IDS} | {f"CL_{number}" for number in CELL_ONTOLOGY_IDS} | set(organ.index)
    local = names[(names["dataset"] == "l1000") & (names["name"] == names["cell_type"])]["name"]
    contexts = pd.DataFrame(index=pd.Index(sorted(accessions) + sorted(local), name="cell_type"))
    contexts["label"] = [labels[name] if name in accessions else name for name in contexts.index]

    # a LINCS name leads to its row by hand or by spelling; a derivative (NPC.CAS9) has the donor of the line before the dot
    by_hand = names[(names["dataset"] == "l1000") & names["name"].isin(lincs.index)].set_index("cell_type")["name"]
    spelling = pd.Series(lincs.index, index=normalized_name(pd.Series(lincs.index)))
    lincs_name = by_hand.reindex(contexts.index)
    lincs_name = lincs_name.fillna(normalized_name(contexts["label"].str.split(".").str[0]).map(spelling))
    described = lincs.reindex(lincs_name).set_axis(contexts.index)
    contexts["tissue"] = described["tissue"].fillna(organ.reindex(contexts.index))
    contexts["disease"], contexts["sex"] = described["disease"], described["sex"]
    contexts["source"] = "Cellosaurus 55.0"
    contexts.loc[contexts.index.str.startswith("CL_"), "source"] = "Cell Ontology 2026-03-26"
    contexts.loc[local, "source"] = "LINCS"
    # an accession of Cellosaurus is a line; a type of the Cell Ontology may be cultured from anything
    lines = pd.Series("cell line", index=contexts.index, dtype=object)
    contexts["model_system"] = lines.where(contexts["source"] == "Cellosaurus 55.0", None)
    from_tahoe = contexts.index.isin(organ.index) & described["tissue"].isna()
    donors_of_lincs = pd.Series("LINCS 2020", index=contexts.index, dtype=object)
    contexts["donor_source"] = donors_of_lincs.where(lincs_name.notna(), None).mask(from_tahoe, "Tahoe-100M")
    contexts["dataset"] = pd.Series("l1000", index=local)
    columns = ["dataset", "cell_type", "label", "model_system", *DONOR_COLUMNS, "donor_source", "source"]
    contexts = contexts.reset_index().reindex(columns=columns).astype(object)

    general = contexts.set_index("cell_type")
    for donor in donors.to_dict("records"):
        row = general.loc[donor["cell_type"]].copy()
        given = {column: donor[column] for column in DONOR_COLUMNS if donor[column]}
        said = f"by hand: {donor['reason']}"
        donor_source = f"{row['donor_source']}; {said}" if isinstance(row["donor_source"], str) else said
        row.update(pd.Series(given | {"dataset": donor["dataset"], "donor_source": donor_source}))
        if donor["dataset"] is None:
            contexts = contexts[contexts["cell_type"] != donor["cell_type"]]
        contexts = pd.concat([contexts, row.rename_axis(None).to_frame().T.assign(cell_type=donor["cell_type"])])
    contexts = _with_model_systems(contexts, tables.read_table(tables.CURATED_MODEL_SYSTEMS, hand_made))
    contexts = contexts.where(contexts.notna(), None).assign(date=SNAPSHOT_DATE)
    return contexts.sort_values(["cell_type", "dataset"], na_position="first").reset_index(drop=True)


def _with_model_systems(contexts: pd.DataFrame, by_hand: pd.DataFrame) -> pd.DataFrame:
    """Contexts with the model systems set by hand; a dataset that has no row of a context gets one."""
    key = ["dataset", "cell_type"]
    described = contexts.set_index(key, drop=False)
    model_system = by_hand.set_index(key)["model_system"]
    new = model_system.index.difference(described.index)
    general = contexts[contexts["dataset"].isna()].set_index("cell_type", drop=False)
    added = general.loc[new.get_level_values("cell_type")].assign(dataset=new.get_level_values("dataset")).set_index(key, drop=False)
    described = pd.concat([described, added])
    described["model_system"] = model_system.reindex(described.index).fillna(described["model_system"])
    return described.reset_index(drop=True)


# ---- all ---------------------------------------------------------------------------------------------------------------------


def write_snapshot(real_data: Path, folder: Path = tables.DATA) -> None:
    """Rebuild and write every table that is not made by hand.

    Parameters
    ----------
    real_data
        Folder of the real files.
    folder
        Where the tables are written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    genes, gene_keys = build_genes(real_data)
    for name, frame in ((tables.COMPOUNDS, build_compounds(real_data)), (tables.CELL_CONTEXTS, build_cell_contexts(real_data))):
        with written_whole(folder / name) as aside:
            frame.to_csv(aside, index=False, lineterminator="\n")
    for name, frame in ((tables.GENES, genes), (tables.GENE_KEYS, gene_keys)):
        with written_whole(folder / name) as aside:
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), aside, compression="zstd", compression_level=19)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Rebuild the shipped identity tables from real files.")
    parser.add_argument("--real-data", type=Path, required=True, help="folder of the real files (see data/README.md)")
    parser.add_argument("--out", type=Path, default=tables.DATA, help="folder to write to; the shipped tables where left out")
    arguments = parser.parse_args()
    write_snapshot(arguments.real_data, arguments.out)


if __name__ == "__main__":
    main()
