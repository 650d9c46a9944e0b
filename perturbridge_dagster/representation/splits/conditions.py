"""What every split looks at: the conditions of a corpus, their symbols and their molecules.

Belongs here: the names of splits, and reading the columns of conditions. Does not belong here: who is held out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from perturbridge_dagster.errors import InputError

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")
CONTROL = "Control"
"""Reserved perturbation symbol of an untreated sample; no molecule."""

UNIT = ["dataset", "context", "perturbation"]
"""Columns of the unit that the scalar split holds out."""

MoleculeKey = Literal["cid", "parent"]


def require_columns(conditions: pd.DataFrame, columns: list[str]) -> None:
    """Refuse conditions that lack a column."""
    missing = [name for name in columns if name not in conditions.columns]
    if missing:
        raise InputError(f"conditions lack {', '.join(missing)}", expected=f"columns {', '.join(columns)}")


def symbols_of(conditions: pd.DataFrame, column: str) -> pd.Series[str]:
    """A column of symbols as text; refuses missing ones, and numbers that would gain a decimal point."""
    values = conditions[column]
    if pd.api.types.is_float_dtype(values):
        raise InputError("symbols are floating-point numbers", column=column, expected="text or integers, such as '2244'")
    # hundreds of thousands of conditions have few symbols
    codes, symbols = pd.factorize(values)
    text = np.array([str(symbol).strip() for symbol in symbols] + [""], dtype=object)
    empty = np.flatnonzero((text == "")[codes])
    if len(empty):
        raise InputError(
            f"{len(empty):,} missing symbols", rows=list(conditions.index[empty]), column=column, advice="Drop these rows first."
        )
    return pd.Series(text[codes], index=conditions.index, name=column)


def molecules_of(conditions: pd.DataFrame, by: MoleculeKey) -> pd.DataFrame:
    """The molecules of each row: columns row (position), dataset, molecule; a combination has several rows, Control none."""
    if by not in ("cid", "parent"):
        raise InputError(f"molecules cannot be told apart by {by!r}", expected="'cid' or 'parent'")
    require_columns(conditions, ["dataset", "perturbation", *(["parent_key"] if by == "parent" else [])])
    symbol = symbols_of(conditions, "perturbation")
    if by == "parent":
        # Control has no structure, and a molecule without a known structure stands for itself
        symbol = conditions["parent_key"].astype(object).where(conditions["parent_key"].notna() & (symbol != CONTROL), symbol)
    code, symbols = pd.factorize(symbol)
    tokens = [
        (position, token)
        for position, text in enumerate(symbols)
        for token in sorted({part.strip() for part in str(text).split("+")} - {"", CONTROL})
    ]
    tokens_of_symbol = pd.DataFrame(tokens, columns=["symbol", "molecule"]).astype({"symbol": int, "molecule": object})
    rows = pd.DataFrame({"row": np.arange(len(conditions)), "dataset": symbols_of(conditions, "dataset").to_numpy(), "symbol": code})
    return rows.merge(tokens_of_symbol, on="symbol").drop(columns="symbol").sort_values(["row", "molecule"], ignore_index=True)
