"""Gene universes: over which genes datasets are compared, beyond those that two strata share.

Belongs here: sets of Ensembl ids by cell context, made from what strata tested. Does not belong here: reading values, or scores
(``scoring.py``, which takes these sets). They depend on which datasets there are, so scores over them belong to no single pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from perturbridge_dagster.agreement.signatures import StratumEffects

Strata = Mapping[str, StratumEffects]
"""Effects of the strata of one dataset, by stratum name."""


def cell_contexts(strata: Strata) -> set[str]:
    """Cell contexts that have a contrast."""
    return {str(name) for effects in strata.values() for name in effects.contrasts["cell_type"].unique()}


def tested_genes(strata: Iterable[StratumEffects]) -> list[set[str]]:
    """Ensembl ids that each stratum tested."""
    return [set(effects.genes["ensembl_id"].astype(str)) for effects in strata]


def global_genes(datasets: Mapping[str, Strata]) -> dict[str, list[str]]:
    """Genes that every stratum of a cell context tested, over all datasets that have it.

    Parameters
    ----------
    datasets
        Strata of each dataset, by dataset id.

    Returns
    -------
    Cell context → Ensembl ids, sorted; none where nothing is common to all.
    """
    every = [effects for strata in datasets.values() for effects in strata.values()]
    genes: dict[str, set[str]] = {}
    for effects, tested in zip(every, tested_genes(every), strict=True):
        for name in cell_contexts({"": effects}):
            genes[name] = genes[name] & tested if name in genes else tested
    return {name: sorted(found) for name, found in sorted(genes.items())}


def l1000_genes(datasets: Mapping[str, Strata], l1000: Collection[str]) -> dict[str, list[str]]:
    """Genes that L1000 measures: those that any stratum of the L1000 datasets tested.

    Parameters
    ----------
    datasets
        Strata of each dataset, by dataset id.
    l1000
        Which of them are L1000; those that are not there are passed over.

    Returns
    -------
    Cell context of any dataset → Ensembl ids, sorted, the same for each.
    """
    measured = set().union(*(genes for name in sorted(l1000) for genes in tested_genes(datasets.get(name, {}).values())))
    contexts = set().union(*(cell_contexts(strata) for strata in datasets.values()))
    return dict.fromkeys(sorted(contexts), sorted(measured))
