"""Look up the nearest neighbours of a compound: ``python -m perturbridge_dagster.representation.lookup vorinostat``.

Belongs here: from what a person types to a table of neighbours of the platform's current embeddings. Does not belong here: what a
neighbour is (``geometry.py``).
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.home import current_output, default_home, outputs_folder
from perturbridge_dagster.representation.embeddings import STAGE, read_embeddings
from perturbridge_dagster.representation.geometry import neighbours
from perturbridge_dagster.stages import MODELS, STAGES
from perturbridge_dagster.written import Stamp, read_stamp

_NEAR_SPELLINGS = 5


@dataclass(frozen=True)
class Found:
    """What a look-up found.

    Attributes
    ----------
    symbol, name
        The compound.
    neighbours
        rank, compound, pubchem_cid, cosine, n_seeds (seeds that have it among as many nearest), mechanism (null where no source says one),
        n_conditions (train conditions).
    n_seeds
        Seeds of the embeddings.
    stamp
        Of the file of embeddings.
    """

    symbol: str
    name: str
    neighbours: pd.DataFrame
    n_seeds: int
    stamp: Stamp


def look_up(home: Path, asked: str, *, corpus: str = "all", model: str = MODELS[0], k: int = 10) -> Found:
    """The nearest neighbours of a compound in the current embeddings of a home.

    Parameters
    ----------
    home
        The platform's home.
    asked
        Name of the compound at any source, in any case and punctuation, or its PubChem id.
    corpus, model
        Which embeddings.
    k
        Neighbours.

    Raises
    ------
    InputError
        If there are no such embeddings, or no such compound in them; the message names near spellings.
    """
    found = current_output(home, STAGE, (corpus, model))
    if found is None:
        there = sorted(f"{file.parent.parent.name} {file.parent.name}" for file in home.glob(f"{STAGES[STAGE].folder}/*/*/current.json"))
        raise InputError(
            f"there are no embeddings of corpus {corpus} by {model}",
            file=outputs_folder(home, STAGE, (corpus, model)),
            expected=f"one of {', '.join(there)}" if there else None,
            advice=f"Materialize {STAGE} {corpus} {model} first." if not there else "Name one of them, or materialize this one.",
        )
    file = found[0] / "embeddings.parquet"
    embeddings = read_embeddings(file)
    described = embeddings.drop_duplicates("symbol").set_index("symbol")
    compounds, names = _of_corpus(home, corpus, found[0])
    names = pd.concat([names, described["perturbagen"].dropna().rename_axis("perturbation").reset_index()])
    symbol = find_compound(asked, names.drop_duplicates(), described)
    near = neighbours(embeddings, k, [symbol]).set_index("neighbour")
    near = near.assign(
        compound=described["perturbagen"].reindex(near.index).fillna(pd.Series(near.index, index=near.index)),
        pubchem_cid=described["pubchem_cid"].reindex(near.index),
        n_conditions=described["n_conditions"].reindex(near.index),
        mechanism=compounds.reindex(near.index),
    )
    columns = ["rank", "compound", "pubchem_cid", "cosine", "n_seeds", "mechanism", "n_conditions"]
    named = described["perturbagen"].dropna()
    return Found(
        symbol,
        str(named.get(symbol, symbol)),
        near[columns].reset_index(drop=True),
        max(1, embeddings["seed"].nunique()),
        read_stamp(file),
    )


def _of_corpus(home: Path, corpus: str, embeddings: Path) -> tuple[pd.Series, pd.DataFrame]:
    """Mechanism by perturbation, and every name that a source uses for it, of the corpus that embeddings were trained on.

    Nothing where that corpus is no longer there.
    """
    from perturbridge_dagster.representation.corpus import open_corpus

    digest = json.loads((embeddings / "done.json").read_text())["inputs"]["corpus"]
    folder = outputs_folder(home, "training_corpus", (corpus,)) / digest[:16]
    if not folder.is_dir():
        return pd.Series(dtype=object), pd.DataFrame(columns=["perturbation", "perturbagen"])
    opened = open_corpus(folder)
    return opened.compounds.set_index("perturbation")["mechanism"], opened.conditions[["perturbation", "perturbagen"]].drop_duplicates()


def find_compound(asked: str, names: pd.DataFrame, described: pd.DataFrame) -> str:
    """The symbol of the compound that is asked for.

    Parameters
    ----------
    asked
        A name or a PubChem id.
    names
        Columns perturbation and perturbagen: names of compounds.
    described
        Index symbol, column pubchem_cid: the compounds that have an embedding.

    Raises
    ------
    InputError
        If no compound is called so, or several are.
    """
    wanted = asked.strip()
    if wanted in described.index:
        return wanted
    by_cid = described.index[(described["pubchem_cid"].astype("string") == wanted).fillna(value=False)]
    if len(by_cid):
        return str(by_cid[0])
    if wanted.isdigit():
        raise InputError(f"PubChem id {wanted} has no embedding", expected="a compound of the train conditions of the corpus")
    known = names[names["perturbation"].isin(described.index)]
    plain = known["perturbagen"].map(_plain)
    found = sorted(known.loc[plain == _plain(wanted), "perturbation"].unique())
    if len(found) == 1:
        return str(found[0])
    if found:
        raise InputError(f"several compounds are called {asked}", expected="a PubChem id", rows=found)
    near = difflib.get_close_matches(_plain(wanted), plain.unique(), n=_NEAR_SPELLINGS, cutoff=0.6)
    spelled = [f"{row.perturbagen} ({row.perturbation})" for word in near for row in known[plain == word].head(1).itertuples()]
    raise InputError(
        f"no compound with an embedding is called {asked}",
        expected=f"perhaps {', '.join(spelled)}" if spelled else "a name at a source, or a PubChem id",
        advice="Names of compounds and their PubChem ids are in the view embeddings of the catalog.",
    )


def _plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def described(found: Found, corpus: str, model: str) -> str:
    """What a look-up found, for a terminal."""
    table = found.neighbours.assign(
        cosine=found.neighbours["cosine"].map("{:.3f}".format),
        n_seeds=found.neighbours["n_seeds"].map(f"{{}} of {found.n_seeds}".format),
        mechanism=found.neighbours["mechanism"].where(found.neighbours["mechanism"].notna(), ""),
    ).rename(columns={"n_seeds": "seeds", "n_conditions": "train conditions", "pubchem_cid": "PubChem id"})
    may = "may be redistributed" if found.stamp.licence == "open" else "may NOT be redistributed: a source of the corpus is restricted"
    lines = [
        f"{found.name} ({found.symbol}): nearest by cosine in corpus {corpus}, {model}",
        table.to_string(index=False),
        f"Trained on {', '.join(found.stamp.source_datasets)}{' (simulated)' if found.stamp.simulated else ''}; the embeddings {may}.",
    ]
    if found.stamp.unaccepted_inputs:
        lines.append(f"Made from inputs that have not passed their checks: {', '.join(found.stamp.unaccepted_inputs)}.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the neighbours of a compound."""
    parser = argparse.ArgumentParser(
        prog="python -m perturbridge_dagster.representation.lookup", description="Nearest neighbours of a compound by its embedding."
    )
    parser.add_argument("compound", help="a name at a source, or a PubChem id")
    parser.add_argument("--corpus", default="all", help="corpus of the embeddings (all)")
    parser.add_argument("--model", default=MODELS[0], choices=MODELS, help=f"model of the embeddings ({MODELS[0]})")
    parser.add_argument("--k", type=int, default=10, help="how many neighbours (10)")
    parser.add_argument("--home", type=Path, default=None, help="the platform's home ($PERTURBRIDGE_HOME)")
    asked = parser.parse_args(arguments)
    try:
        found = look_up(asked.home or default_home(), asked.compound, corpus=asked.corpus, model=asked.model, k=asked.k)
    except PerturbridgeError as error:
        raise SystemExit(str(error)) from error
    print(described(found, asked.corpus, asked.model))


if __name__ == "__main__":
    main()
