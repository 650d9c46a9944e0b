"""Effects in memory: what the corpus asks of stored effects, with a truth that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.identity.structures import read_structure
from perturbridge_dagster.representation.compounds import SAMPLE_COLUMNS
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.written import Stamp


@dataclass(frozen=True)
class EffectsInMemory:
    """A stratum with its logFC as one array, and log10 of its adjusted P within the contrast as another."""

    contrasts: pd.DataFrame
    genes: pd.DataFrame
    stamp: Stamp
    logFC: np.ndarray
    log10_adj_p_within: np.ndarray

    def dense(self, layers: Sequence[str], contrasts: np.ndarray | None = None, genes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        rows = np.arange(len(self.contrasts)) if contrasts is None else contrasts
        columns = np.arange(len(self.genes)) if genes is None else genes
        return {name: getattr(self, name)[np.ix_(rows, columns)].astype(np.float32) for name in layers}

    def with_logFC(self, logFC: np.ndarray) -> EffectsInMemory:
        return replace(self, logFC=logFC)


def gene_ids(n: int, first: int = 0) -> list[str]:
    return [f"ENSG{first + number:011d}" for number in range(n)]


@pytest.fixture(scope="session")
def make_stamp() -> Callable[..., Stamp]:
    def make(*datasets: str, stage: str = "condition_effects", licence: str = "open") -> Stamp:
        return Stamp(stage, "1", "test", tuple(sorted(datasets)), licence)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def make_effects(make_stamp: Callable[..., Stamp]) -> Callable[..., EffectsInMemory]:
    """A stratum from rows of (perturbagen, pubchem_cid, dose, time) and its logFC."""

    def make(
        dataset: str,
        context: str,
        rows: Sequence[tuple[str, int | None, float, float]],
        logFC: np.ndarray,
        genes: Sequence[str] | None = None,
        stratum: str | None = None,
        **columns: object,
    ) -> EffectsInMemory:
        names, cids, doses, times = zip(*rows, strict=True)
        contrasts = pd.DataFrame(
            {
                "contrast": np.arange(len(rows), dtype=np.int32),
                "dataset": dataset,
                "stratum": stratum or context,
                "cell_type": context,
                "perturbagen": names,
                "pubchem_cid": pd.array(cids, dtype="Int64"),
                "parent_key": None,
                "pert_dose_uM": doses,
                "pert_time_h": times,
                "sample_id": None,
                "estimable": True,
            }
        ).assign(**columns)
        ids = list(genes or gene_ids(logFC.shape[1]))
        logFC = np.asarray(logFC, dtype=float)
        # as if every standard error were 0.5
        log10_p = -np.square(logFC / 0.5)
        genes_table = pd.DataFrame({"gene": np.arange(len(ids)), "ensembl_id": ids})
        return EffectsInMemory(contrasts, genes_table, make_stamp(dataset), logFC, log10_p)

    return make


CORES = ("c1ccccc1", "c1ccncc1", "c1ccc2ccccc2c1", "c1ccoc1", "c1ccsc1", "C1CCCCC1", "c1cnc2ccccc2c1", "c1ccc2[nH]ccc2c1")
WITHOUT_STRUCTURE = (139, 140)
MODEL_SYSTEMS = {"CVCL_A": "cell line", "CVCL_B": "cell line", "CVCL_C": "primary", "CVCL_D": "iPSC-derived", "CVCL_E": "patient-derived"}
"""Of the contexts of the additive corpus; nobody says of CVCL_F."""


def smiles_of(cid: int) -> str | None:
    """A ring system, of eight, with a chain: a structure of each compound of the additive corpus, but of two."""
    return None if cid in WITHOUT_STRUCTURE else "C" * (1 + (cid - 101) // 8) + CORES[(cid - 101) % 8]


@pytest.fixture(scope="session")
def additive_samples(additive_strata: list[EffectsInMemory]) -> pd.DataFrame:
    """What harmonized samples say of the compounds and contexts of the additive corpus, as ``compounds.read_samples`` gives it."""
    rows = [
        (dataset, context, cid, smiles_of(cid), f"assay of {dataset}", MODEL_SYSTEMS.get(context), f"mechanism {cid % 5}", 2)
        for stratum in additive_strata
        for dataset, context, cid in stratum.contrasts[["dataset", "cell_type", "pubchem_cid"]].drop_duplicates().itertuples(index=False)
    ]
    return pd.DataFrame(rows, columns=[*SAMPLE_COLUMNS, "n_samples"])


@pytest.fixture(scope="session")
def additive_strata(make_effects: Callable[..., EffectsInMemory]) -> list[EffectsInMemory]:
    """Three datasets, six contexts, 40 compounds of five mechanisms, 60 genes.

    logFC = gene + context × gene + strength(dose) · potency(compound) · mechanism × gene + noise.
    """
    random = np.random.default_rng(7)
    n_genes, cids = 60, np.arange(101, 141)
    gene = 0.3 * random.standard_normal(n_genes)
    of_context = {name: 0.5 * random.standard_normal(n_genes) for name in ("CVCL_A", "CVCL_B", "CVCL_C", "CVCL_D", "CVCL_E", "CVCL_F")}
    mechanisms = random.standard_normal((5, n_genes))
    of_compound = {cid: random.uniform(0.5, 1.5) * mechanisms[cid % 5] for cid in cids}
    strata = []
    for dataset, contexts in {"alpha": ["CVCL_A", "CVCL_B", "CVCL_C"], "beta": ["CVCL_A", "CVCL_D"], "gamma": ["CVCL_E", "CVCL_F"]}.items():
        used = random.choice(cids, 30, replace=False)
        for context in contexts:
            rows = [(f"drug {cid}", int(cid), dose, 24.0) for cid in used for dose in (0.1, 1.0, 10.0)]
            strength = np.array([0.7 + 0.5 * np.log10(dose) for _, _, dose, _ in rows])[:, None]
            truth = gene + of_context[context] + strength * np.stack([of_compound[row[1]] for row in rows])
            structures = [smiles_of(cid) for _, cid, _, _ in rows]
            parents = [read_structure(smiles).parent_key if smiles else None for smiles in structures]
            strata.append(make_effects(dataset, context, rows, truth + 0.2 * random.standard_normal(truth.shape), parent_key=parents))
    return strata


@pytest.fixture(scope="session")
def additive_corpus(
    additive_strata: list[EffectsInMemory],
    additive_samples: pd.DataFrame,
    make_stamp: Callable[..., Stamp],
    tmp_path_factory: pytest.TempPathFactory,
) -> StoredCorpus:
    folder: Path = tmp_path_factory.mktemp("corpus") / "additive"
    write_corpus(additive_strata, folder, make_stamp(), name="additive", samples=additive_samples)
    return open_corpus(folder)
