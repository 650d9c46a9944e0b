"""Small effects made without R, written as a stratum's output is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbridge_dagster.effects.design import build_design
from perturbridge_dagster.effects.filter import GeneFilter
from perturbridge_dagster.effects.storage import write_effects
from perturbridge_dagster.effects.table import EffectTable, ModeratedFit, effect_table
from perturbridge_dagster.payloads.requests import Request
from perturbridge_dagster.written import Stamp
from tests.resources.ensuring import Corpus, corpus_request, stalled_effects

PLATE = "plate 1"
ALONE = "plate without controls"

WriteStratum = Callable[..., EffectTable]


def _table(dataset: str, cell_context: str, stratum: str, perturbagens: list[str], n_genes: int) -> EffectTable:
    """One contrast a perturbagen, in the order of their names; the last, alone on its plate, is not estimable."""
    random = np.random.default_rng(len(stratum) + 10 * n_genes)
    obs = pd.DataFrame({"perturbagen": ["DMSO"] * 2 + sorted(perturbagens) * 2, "plate": PLATE, "pert_time_h": 24.0})
    obs["is_control"] = obs["perturbagen"] == "DMSO"
    obs["pert_dose_uM"] = np.where(obs["is_control"], 0.0, 10.0)
    obs["pubchem_cid"] = obs["perturbagen"].map({name: 100 + number for number, name in enumerate(sorted(perturbagens))}).astype("Int64")
    obs["plate"] = obs["plate"].where(obs["perturbagen"] != max(perturbagens), ALONE)
    obs.index = pd.Index([f"well {number}" for number in range(len(obs))], name="sample_id")
    design = build_design(obs)
    t = 4 * random.standard_normal((len(perturbagens), n_genes))
    t[0, 0] = 0  # an effect of nothing has no standard error from logFC and t
    scale = random.gamma(4, 0.1, n_genes)
    fit = ModeratedFit(
        AveExpr=random.normal(5, 2, n_genes),
        sigma=scale,
        s2_post=scale**2,
        df_residual=np.full(n_genes, 5.0),
        df_total=np.full(n_genes, 9.0),
        tested=np.ones(n_genes, dtype=bool),
        effects=lambda genes: ((t * scale)[:, genes], np.ones_like(t)[:, genes]),
        log_odds=lambda t, _: np.zeros_like(t),
        gene_filter=GeneFilter(np.ones(n_genes, dtype=bool), np.full(n_genes, 3), np.full(n_genes, 70), 2.0, 1.5),
        library_sizes=np.full(len(design.rows), 1e6),
        info={"engine": "none"},
    )
    genes = [f"{stratum} gene {number}" for number in range(n_genes)]
    return effect_table(
        fit,
        design,
        pd.DataFrame({"symbol": [f"symbol of {gene}" for gene in genes]}, index=genes),
        dataset=dataset,
        stratum=stratum,
        cell_type=cell_context,
        reported=design.contrasts["estimable"].to_numpy()[:, np.newaxis],
        info={},
    )


@pytest.fixture(scope="session")
def write_stratum() -> WriteStratum:
    """Writes the effects of a stratum into a folder and returns them. The last perturbagen is not estimable."""

    def write(
        folder: Path,
        dataset: str,
        cell_context: str,
        perturbagens: list[str],
        *,
        stratum: str | None = None,
        n_genes: int = 6,
        stage: str = "condition_effects",
    ) -> EffectTable:
        table = _table(dataset, cell_context, stratum or cell_context, perturbagens, n_genes)
        write_effects(table, folder, Stamp(stage, "1", "0" * 64, (dataset,), "open"), tile=(2, 4))
        return table

    return write


# ---- requests of small effects -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory, write_stratum: WriteStratum) -> Path:
    """Effects of a small stratum."""
    folder = tmp_path_factory.mktemp("effects") / "CVCL_0023"
    write_stratum(folder, "sciplex", "CVCL_0023", [f"compound {number:02d}" for number in range(12)])
    return folder


@pytest.fixture
def corpus(tmp_path: Path, effects: Path) -> Corpus:
    """A request for a corpus of some effects, the small stratum's by default."""

    def make(name: str, strata: Path = effects) -> Request:
        return corpus_request(tmp_path, name, strata)

    return make


@pytest.fixture
def stalled(tmp_path: Path, effects: Path, corpus: Corpus) -> tuple[Request, Path]:
    """A request that never ends, since one of its input files is a pipe that nobody writes to, and that pipe."""
    pipe = stalled_effects(tmp_path / "stalled effects", effects)
    return corpus("stalled", pipe.parent), pipe
