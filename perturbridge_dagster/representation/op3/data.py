"""The tables of the OP3 benchmark, and their split by compound.

Belongs here: reading the native files, and who is held out. Does not belong here: descriptors (``descriptors.py``), or what is done with
the split.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbridge_dagster import registry
from perturbridge_dagster.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BENCHMARK = "op3_benchmark"
"""Id in the registry."""

TEST_SHARE = 0.25
SPLIT_SEED = 42
"""Share of the compounds that are held out, rounded down, and the seed of the draw; both published."""

OBS_COLUMNS = ("sm_name", "sm_lincs_id", "SMILES", "cell_type", "control")
KEY = ["sm_name", "cell_type"]


@dataclass(frozen=True)
class Op3Table:
    """All conditions of the benchmark, the competition's training conditions before its test conditions.

    Attributes
    ----------
    conditions
        One row a condition: sm_name, cell_type.
    compounds
        One row a compound in the order of first appearance, index sm_name; columns sm_lincs_id, smiles (both nullable).
    values
        Shape (conditions, genes), float32: the signed, clipped log10 P value of the registry's layer.
    genes
        Names of the genes.
    """

    conditions: pd.DataFrame
    compounds: pd.DataFrame
    values: NDArray[np.float32]
    genes: pd.Index


@dataclass(frozen=True)
class Problem:
    """Conditions to learn from and conditions to predict, which share no compound.

    Attributes
    ----------
    train, test
        One row a condition: sm_name, cell_type.
    train_values, test_values
        Shapes (train conditions, genes) and (test conditions, genes), float32.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    train_values: NDArray[np.float32]
    test_values: NDArray[np.float32]

    @property
    def id_map(self) -> pd.DataFrame:
        """What is to be predicted, as the competition lists it: id, sm_name, cell_type."""
        return self.test[KEY].reset_index(drop=True).rename_axis("id").reset_index()

    def validation(self, seed: int) -> Problem:
        """The same problem within the train compounds: as great a share of them is held out; no test condition has a part in it."""
        return split_by_compound(self.train, self.train_values, held_out_compounds(self.train["sm_name"], seed=seed))


def read_table(files: dict[str, list[Path]]) -> Op3Table:
    """Read the benchmark.

    Parameters
    ----------
    files
        Role of the registry → files, as ``sources.locate_files`` gives them: train, test, id_map.

    Raises
    ------
    InputError
        If a file is unreadable, a column or the layer is missing, the two tables have other genes, a condition occurs twice, a value is
        missing, or id_map does not list the test conditions.
    """
    from perturbridge_dagster.sources.native import only, read_text_table

    paths = {role: only(files, role, BENCHMARK) for role in ("train", "test", "id_map")}
    parts = [_read_part(paths[role]) for role in ("train", "test")]
    (train, train_values, genes), (test, test_values, other_genes) = parts
    if not genes.equals(other_genes):
        differing = genes.symmetric_difference(other_genes)
        raise InputError(
            "the genes are not those of the training table",
            dataset=BENCHMARK,
            file=paths["test"],
            rows=list(differing),
            expected="the same genes in the same order",
        )
    listed = read_text_table(paths["id_map"], BENCHMARK, separator=",", columns=("id", *KEY))
    if not pd.MultiIndex.from_frame(listed[KEY]).sort_values().equals(pd.MultiIndex.from_frame(test[KEY].astype(object)).sort_values()):
        raise InputError(
            "does not list the conditions of the test table",
            dataset=BENCHMARK,
            file=paths["id_map"],
            expected=f"each of its {len(test):,} pairs of sm_name and cell_type once; the file has {len(listed):,} rows",
        )
    obs = pd.concat([train, test], ignore_index=True)
    twice = obs[obs.duplicated(KEY)]
    if len(twice):
        pairs = [f"{name} on {cell}" for name, cell in twice[KEY].itertuples(index=False)]
        raise InputError("conditions occur more than once", dataset=BENCHMARK, file=paths["test"], rows=pairs, expected="each once")
    first = obs.drop_duplicates("sm_name").set_index("sm_name")
    compounds = first[["sm_lincs_id", "SMILES"]].rename(columns={"SMILES": "smiles"})
    return Op3Table(obs[KEY], compounds, np.concatenate([train_values, test_values]), genes)


def _read_part(file: Path) -> tuple[pd.DataFrame, NDArray[np.float32], pd.Index]:
    """obs, values and genes of one of the two tables; only the layer that is evaluated is read."""
    import anndata as ad

    from perturbridge_dagster.sources.native import require_columns, text
    from perturbridge_dagster.sources.stored import member, open_hdf5

    layer = registry.benchmarks()[BENCHMARK].layer
    with open_hdf5(file, BENCHMARK) as opened:
        obs, var = (ad.io.read_elem(member(opened, name, BENCHMARK)) for name in ("obs", "var"))
        values = ad.io.read_elem(member(opened, f"layers/{layer}", BENCHMARK))
    require_columns(obs, OBS_COLUMNS, BENCHMARK, file)
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)
    if values.shape != (len(obs), len(var)):
        raise InputError(
            f"the layer {layer} has shape {values.shape}",
            dataset=BENCHMARK,
            file=file,
            expected=f"{len(obs):,} conditions × {len(var):,} genes",
        )
    missing = ~np.isfinite(values).all(axis=1)
    if missing.any():
        raise InputError(
            f"the layer {layer} has values that are missing or infinite",
            dataset=BENCHMARK,
            file=file,
            rows=list(obs.index[missing]),
            expected="a number for every condition and gene",
        )
    described = pd.DataFrame({name: text(obs[name]) for name in OBS_COLUMNS if name != "control"}).reset_index(drop=True)
    nameless = described[KEY].isna().any(axis=1)
    if nameless.any():
        raise InputError("conditions lack a compound or a cell type", dataset=BENCHMARK, file=file, rows=list(obs.index[nameless]))
    return described, values, pd.Index(var.index.astype(str))


def held_out_compounds(names: pd.Series, *, seed: int = SPLIT_SEED, share: float = TEST_SHARE) -> list[str]:
    """The compounds that are held out.

    Parameters
    ----------
    names
        Compound of each condition; what counts is the order in which compounds first appear.
    seed
        Of NumPy's legacy generator, which is the one behind ``numpy.random.seed``.
    share
        Of the compounds, rounded down.

    Returns
    -------
    In the order in which they are drawn, without replacement.

    Raises
    ------
    InputError
        If none would be held out, or fewer than two kept.
    """
    compounds = names.drop_duplicates().to_numpy(dtype=object)
    n_held_out = int(share * len(compounds))
    if n_held_out < 1 or len(compounds) - n_held_out < 2:
        raise InputError(f"{len(compounds)} compounds cannot be split", dataset=BENCHMARK, expected="at least four")
    return list(np.random.RandomState(seed).choice(compounds, n_held_out, replace=False))


def split_by_compound(conditions: pd.DataFrame, values: NDArray[np.float32], held_out: Collection[str]) -> Problem:
    """The problem of predicting the conditions of some compounds from those of the others; the order of conditions is kept."""
    is_test = conditions["sm_name"].isin(set(held_out)).to_numpy()
    return Problem(
        conditions[~is_test].reset_index(drop=True), conditions[is_test].reset_index(drop=True), values[~is_test], values[is_test]
    )


def resplit(table: Op3Table) -> Problem:
    """The published problem: a quarter of the compounds held out in all their cell types."""
    return split_by_compound(table.conditions, table.values, held_out_compounds(table.conditions["sm_name"]))
