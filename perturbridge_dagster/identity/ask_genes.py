"""Asks Ensembl's archive what has become of gene ids: ``python -m perturbridge_dagster.identity.ask_genes FILE…``.

Belongs here: the command, and which ids a file has. Does not belong here: asking or keeping (``ensembl.py``).
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import pandas as pd

from perturbridge_dagster.errors import InputError, PerturbridgeError
from perturbridge_dagster.home import default_home
from perturbridge_dagster.identity.ensembl import GENE_ID, EnsemblArchive, ask_and_keep
from perturbridge_dagster.identity.snapshot import FOLDER

ID_COLUMNS = ("source_gene_id", "ensembl_id", "gene_id", "ensembl_gene_id")
"""The first that is there counts. In tables of the contract ensembl_id is the answer, null in dropped_genes.parquet where there is none."""


def ids_of_file(file: Path) -> list[str]:
    """Gene ids of a file.

    Parameters
    ----------
    file
        A Parquet table, or a text table with a header, tabs or commas between, with one of the columns ``ID_COLUMNS``; or a text
        with one id a line. Several ids of one value are joined by ``;``.

    Raises
    ------
    InputError
        If the file cannot be read, or a Parquet table has none of the columns.
    """
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file).reset_index()
        else:
            table = pd.read_csv(file, sep=r"[\t,]", engine="python", dtype=str, keep_default_na=False, header=None)
            header = table.iloc[0]
            named = bool(set(header) & set(ID_COLUMNS))
            table = table.iloc[1:].set_axis(header, axis=1) if named else table[[0]].set_axis(["gene_id"], axis=1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=file, expected="a table, or one gene id a line") from error
    column = next((name for name in ID_COLUMNS if name in table), None)
    if column is None:
        raise InputError("has no column of gene ids", file=file, expected=" or ".join(ID_COLUMNS))
    ids = table[column].dropna().astype(str).str.split(";").explode().str.strip()
    return list(ids[ids != ""].unique())


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Ask Ensembl's archive what has become of gene ids, and keep what it says.")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="tables or lists of gene ids, such as dropped_genes.parquet")
    parser.add_argument("--dataset", help="ask the gene ids of this dataset's native files, which lie in --native")
    parser.add_argument("--native", type=Path, help="folder of the native files of --dataset")
    parser.add_argument("--home", type=Path, default=default_home(), help="the platform's home; $PERTURBRIDGE_HOME by default")
    parser.add_argument("--address", help="address of Ensembl REST; $PERTURBRIDGE_ENSEMBL, else Ensembl's, by default")
    given = parser.parse_args(arguments)
    if bool(given.dataset) != bool(given.native) or not (given.files or given.dataset):
        parser.error("name a FILE, or --dataset with --native")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        ids = [gene_id for file in given.files for gene_id in ids_of_file(file)]
        if given.dataset:
            from perturbridge_dagster.sources import read_native

            ids += [str(gene_id) for part in read_native(given.dataset, given.native).expressions for gene_id in part.genes]
        if not any(GENE_ID.fullmatch(gene_id.strip()) for gene_id in ids):
            raise InputError(
                f"there is no Ensembl gene id among the {len(ids):,} ids of {given.dataset or ' and '.join(map(str, given.files))}.",
                rows=ids[:5],
                expected="ids such as ENSG00000141510",
                advice="The archive knows Ensembl ids alone; symbols and Entrez ids are looked up in the shipped tables.",
            )
        table = ask_and_keep(given.home / FOLDER, ids, EnsemblArchive(given.address), print)
    except PerturbridgeError as error:
        print(error, file=sys.stderr)
        return 1
    said = ", ".join(f"{n:,} {status}" for status, n in table["status"].value_counts().items())
    print(f"{len(table):,} ids kept in {given.home / FOLDER}: {said or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
