"""Comparing what is counted on harmonized samples with what the registry expects of the full source.

Belongs here: counting the quantities of the registry on a harmonized output, and saying in words what differs. Does not belong here:
the expected numbers (``registry/datasets``), or showing findings (``checks.py``, ``assets/``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perturbridge_dagster.registry.expectations import Band, Expectation

if TYPE_CHECKING:
    import pandas as pd

Observed = Mapping[str, "int | Sequence[str] | Mapping[str, int]"]
"""By quantity: a number, names, or a number for each stratum."""

Verdict = Literal["as expected", "differs", "reported"]

SOURCE_ROWS = ("source_cells", "source_samples")
"""Quantities that say how large the source is."""

PART_OF_THE_SOURCE = 0.5
"""With a smaller share of the source's rows, a user has chosen a part of it, and other counts say nothing."""

_SHOWN_NAMES = 10


@dataclass(frozen=True)
class Comparison:
    """One count beside its expectation.

    Attributes
    ----------
    quantity
        Quantity of the registry.
    stratum
        Stratum that is counted, where each has a number of its own.
    published, expected, observed
        The counts in words; empty where there is none.
    verdict
        ``"as expected"``; ``"differs"``; or ``"reported"``, where nothing certain was expected.
    words
        The comparison as a sentence.
    """

    quantity: str
    stratum: str | None
    published: str
    expected: str
    observed: str
    verdict: Verdict
    words: str


# ---- comparing ---------------------------------------------------------------------------------------------------------------


def compare_expectations(dataset: str, observed: Observed) -> list[Comparison]:
    """Compare counts with the expectations of a dataset.

    Parameters
    ----------
    dataset
        Dataset id of the registry.
    observed
        What was counted. Quantities that are not in it are not compared; a stratum that is not in it counts as 0.

    Returns
    -------
    One comparison a quantity, or a quantity and stratum, in the order of the registry's quantities. Where less than half of the
    source's rows are there, that alone.

    Raises
    ------
    InputError
        If the dataset is not registered.
    """
    from perturbridge_dagster.registry import dataset as registered

    expectations = registered(dataset).expectations
    for name in SOURCE_ROWS:
        rows, expectation = observed.get(name), expectations.get(name)
        if expectation and isinstance(rows, int) and isinstance(expectation.ours, int) and rows < PART_OF_THE_SOURCE * expectation.ours:
            words = f"{name}: {rows:,} of {expectation.ours:,}, a part of the source, so no count is compared"
            return [Comparison(name, None, _text(expectation.published), _text(expectation.ours), _text(rows), "reported", words)]
    found: list[Comparison] = []
    for name, expectation in expectations.items():
        counted = observed.get(name)
        if isinstance(counted, Mapping):
            found += _compare_strata(name, expectation, counted)
        elif isinstance(counted, int):
            expected = expectation.ours if isinstance(expectation.ours, int | Band) else None
            published = expectation.published if isinstance(expectation.published, int) else None
            found.append(_compare_number(name, None, published, expected, counted, expectation.reason))
        elif counted is not None:
            found.append(_compare_names(name, expectation, counted))
    return found


def _compare_strata(name: str, expectation: Expectation, counted: Mapping[str, int]) -> list[Comparison]:
    """Strata of which something is said; the others are nobody's expectation."""
    published, ours = (value if isinstance(value, dict) else {} for value in (expectation.published, expectation.ours))
    return [
        _compare_number(name, stratum, published.get(stratum), ours.get(stratum), counted.get(stratum, 0), expectation.reason)
        for stratum in sorted({*published, *ours})
    ]


def _compare_number(
    name: str, stratum: str | None, published: int | None, expected: int | Band | None, counted: int, reason: str | None
) -> Comparison:
    low, high = (expected.low, expected.high) if isinstance(expected, Band) else (expected, expected)
    what = f"{name} of {stratum}" if stratum else name
    verdict: Verdict = "as expected"
    if low is None or high is None:
        verdict, words = "reported", f"{what}: {counted:,}; published {_text(published) or 'nothing'}; not known beforehand: {reason}"
    elif low <= counted <= high:
        words = f"{what}: {counted:,}, as expected"
    else:
        verdict = "differs"
        apart = f"{low - counted:,} fewer" if counted < low else f"{counted - high:,} more"
        words = f"{what}: {counted:,} where {_text(expected)} was expected, {apart}"
    return Comparison(name, stratum, _text(published), _text(expected), _text(counted), verdict, words)


def _compare_names(name: str, expectation: Expectation, counted: Sequence[str]) -> Comparison:
    known = expectation.ours if isinstance(expectation.ours, tuple) else None
    against = known if known is not None else expectation.published
    gone, new = (sorted(one) for one in (set(against) - set(counted), set(counted) - set(against)))  # type: ignore[arg-type]
    changes = [f"{_names(names)} {'is' if len(names) == 1 else 'are'} {what}" for names, what in ((gone, "gone"), (new, "new")) if names]
    if known is not None:
        verdict: Verdict = "differs" if changes else "as expected"
        words = f"{name}: {'; '.join(changes) or 'as expected'}"
    else:
        verdict = "reported"
        words = f"{name}: beside what is published, {'; '.join(changes) or 'nothing changed'}; not known beforehand: {expectation.reason}"
    return Comparison(name, None, _text(expectation.published), _text(known), _names(list(counted)), verdict, words)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _text(value: int | Band | Sequence[str] | Mapping[str, int] | None) -> str:
    """A count in words."""
    if isinstance(value, Band):
        return f"{value.low:,} to {value.high:,}"
    if isinstance(value, Mapping):
        return f"{len(value):,} strata"
    if isinstance(value, int):
        return f"{value:,}"
    return _names(list(value)) if value else ""


def comparison_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Comparisons as a table: quantity, stratum, published, expected, observed, verdict, words."""
    import pandas as pd

    return pd.DataFrame(comparisons, columns=list(Comparison.__dataclass_fields__))


# ---- counting ----------------------------------------------------------------------------------------------------------------


def harmonized_counts(obs: pd.DataFrame, var: pd.DataFrame, strata: pd.DataFrame, reconciliation: pd.DataFrame) -> Observed:
    """Count what the registry has quantities for, on harmonized samples.

    Parameters
    ----------
    obs, var, strata, reconciliation
        Tables of the contract of one harmonized dataset.
    """
    from perturbridge_dagster.effects.design import compound_keys

    treated = obs[~obs["is_control"].astype(bool)]
    named = obs[["perturbagen", "source_perturbagen_id", "pubchem_cid"]].drop_duplicates()
    contexts = sorted(strata["cell_type"].unique())
    by_stratum = strata.set_index("stratum")
    counts: dict[str, int | Sequence[str] | Mapping[str, int]] = {
        "samples": len(obs),
        "samples_by_stratum": _by_stratum(by_stratum["n_samples"]),
        "treated": len(treated),
        "controls": len(obs) - len(treated),
        "controls_by_stratum": _by_stratum(by_stratum["n_controls"]),
        "plates": int(obs["plate"].nunique()),
        "plates_by_stratum": _by_stratum(by_stratum["n_plates"]),
        "perturbagens": int(obs["perturbagen"].nunique()),
        "compounds": len(compound_keys(treated).drop_duplicates()),
        "compounds_with_cid": len(named[named["pubchem_cid"].notna()].drop_duplicates(["perturbagen", "source_perturbagen_id"])),
        "conditions": int(strata["n_conditions"].sum()),
        "conditions_by_stratum": _by_stratum(by_stratum["n_conditions"]),
        "strata": len(strata),
        "cell_contexts": len(contexts),
        "cell_context_ids": contexts,
        "genes": len(var),
        "merged_genes": int(var["is_merged"].sum()),
    }
    return {**_source_counts(reconciliation), **counts}


def dropped_by_reason(dropped: pd.DataFrame) -> pd.DataFrame:
    """Dropped genes and the counts lost with them, by file and reason; the most genes first.

    Parameters
    ----------
    dropped
        The contract's table dropped_genes.
    """
    by_reason = dropped.groupby(["file", "reason"], sort=True)["counts_lost"]
    return by_reason.agg(genes="size", counts_lost="sum").reset_index().sort_values("genes", ascending=False, kind="stable")


def _by_stratum(counts: pd.Series) -> dict[str, int]:
    return {str(stratum): int(count) for stratum, count in counts.items()}


def _source_counts(reconciliation: pd.DataFrame) -> dict[str, int]:
    """Rows that the source began with, and cells that were left. Where the source has cells, samples begin with those that were left."""
    steps = reconciliation.sort_values("step").groupby("axis")
    first, last = steps["n_in"].first(), steps["n_out"].last()
    counts = {"source_genes": int(first["genes"])} if "genes" in first else {}
    if "cells" in first:
        return {**counts, "source_cells": int(first["cells"]), "cells": int(last["cells"])}
    return {**counts, "source_samples": int(first["samples"])} if "samples" in first else counts


def compare_harmonized(dataset: str, folder: Path) -> list[Comparison]:
    """Compare a harmonized output with the expectations of its dataset.

    Parameters
    ----------
    dataset
        Dataset id.
    folder
        Folder of the output.

    Returns
    -------
    See :func:`compare_expectations`; nothing for simulated data, of which the full source says nothing.
    """
    from perturbridge_dagster.written import read_parquet, read_stamp

    stage = "harmonized_samples"
    if read_stamp(folder / "strata.parquet").simulated:
        return []
    columns = ["plate", "perturbagen", "source_perturbagen_id", "pubchem_cid", "is_control"]
    obs = read_parquet(folder / "obs.parquet", stage, columns=columns)
    var, strata, steps = (read_parquet(folder / f"{name}.parquet", stage) for name in ("var", "strata", "reconciliation"))
    return compare_expectations(dataset, harmonized_counts(obs, var, strata, steps))
