"""Labels: what a reader sees of dataset and cell-context ids, in pictures and reports.

Belongs here: ids to printed names, and the order in which datasets are shown. Does not belong here: where the names are kept, which is the
registry and the table of cell contexts.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from perturbridge_dagster.errors import InputError


@cache
def dataset_label(dataset: str) -> str:
    """Printed name of a dataset; its id where it is not registered."""
    from perturbridge_dagster.registry import dataset as registered

    try:
        return registered(dataset).label
    except InputError:
        return dataset


def in_registry_order(names: Iterable[str]) -> list[str]:
    """Distinct dataset ids, in the order of the registry; those that are not registered come last, by name."""
    from perturbridge_dagster.registry import datasets

    order = {name: place for place, name in enumerate(datasets())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


@cache
def _context_labels() -> dict[str, str]:
    from perturbridge_dagster.identity.tables import CELL_CONTEXTS, read_table

    contexts = read_table(CELL_CONTEXTS)
    # entries for all datasets first, so that a dataset's own words do not stand for everybody's
    general_first = contexts.sort_values("dataset", na_position="first", kind="stable").drop_duplicates("cell_type")
    return dict(zip(general_first["cell_type"], general_first["label"], strict=True))


def context_label(cell_type: str) -> str:
    """Printed name of a cell context; its id where there is no other."""
    return str(_context_labels().get(cell_type, cell_type))


def pair_label(left: str, right: str) -> str:
    """Printed name of a pair of datasets."""
    return f"{dataset_label(left)} – {dataset_label(right)}"
