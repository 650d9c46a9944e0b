"""What a writer knows about the files it wrote: the samples that a right pipeline ends with, and what each rule drops.

Belongs here: the form of that account. Does not belong here: how it is filled (the writer of each dataset) or kept (``truth.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

SAMPLE_COLUMNS = (
    "plate",
    "well",
    "cell_type",
    "source_cell_context",
    "source_id",
    "source_name",
    "compound",
    "agent",
    "pubchem_cid",
    "parent_key",
    "is_control",
    "dose_uM",
    "source_dose_uM",
    "time_h",
    "n_cells",
)
"""Columns of the samples that remain after all rules. ``dose_uM`` is the dose that was meant, ``source_dose_uM`` the one in the file."""


@dataclass
class Account:
    """Expected outcome of reading one dataset.

    Attributes
    ----------
    dataset
        Dataset id.
    samples
        Samples that remain, ``SAMPLE_COLUMNS``.
    gains
        By gene, the gain of the assay; index as :func:`tables.genes`, null where the assay does not measure the gene.
    steps
        One row a rule: ``axis``, ``rule``, ``n_in``, ``n_dropped``, ``n_out``.
    left
        By axis, rows left so far.
    """

    dataset: str
    samples: pd.DataFrame
    gains: pd.Series
    steps: list[dict[str, str | int]] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)

    def start(self, axis: str, n: int) -> None:
        """Say how many rows an axis begins with."""
        self.left[axis] = n

    def drop(self, axis: str, rule: str, n_dropped: int) -> None:
        """Record what a rule drops, or merges into others."""
        n_in = self.left[axis]
        self.left[axis] = n_in - n_dropped
        self.steps.append({"axis": axis, "rule": rule, "n_in": n_in, "n_dropped": n_dropped, "n_out": n_in - n_dropped})

    def keep(self, axis: str, rule: str, rows: pd.DataFrame, kept: pd.Series) -> pd.DataFrame:
        """The rows for which `kept` is true; how many are not is recorded."""
        self.drop(axis, rule, int((~kept).sum()))
        return rows[kept]


def well_names(n: int, rows: str, columns: int, *, padded: bool) -> list[str]:
    """Names of the first `n` wells of a plate, column by column: A01, B01, … with a leading zero if `padded`.

    Raises
    ------
    ValueError
        If the plate has fewer wells.
    """
    if n > len(rows) * columns:
        raise ValueError(f"{n} samples do not fit on a plate of {len(rows) * columns} wells")
    return [f"{rows[i % len(rows)]}{i // len(rows) + 1:{'02d' if padded else 'd'}}" for i in range(n)]


def shuffled(draw: np.random.Generator, wells: pd.DataFrame) -> pd.DataFrame:
    """The rows in random order, with a new index."""
    return wells.iloc[draw.permutation(len(wells))].reset_index(drop=True)
